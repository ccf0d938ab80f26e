//! Every instruction of the log call: a victim is stepped by single instructions, and after each one that
//! changed anything in ring, ack, spill or journal, the channel is copied and drained as that of a dead
//! process. What was acknowledged comes out once and in order, what was not is there whole or not at all,
//! and the counts add up. Then the same with a real SIGKILL.
//!
//! `SPILLRING_INSTRUCTIONS=all` looks at every boundary where otherwise a sample is taken.
#![allow(unsafe_code)]

#[cfg(all(target_os = "linux", target_arch = "x86_64", feature = "drain"))]
#[path = "instructions"]
mod on_linux {
    mod events;
    mod judge;
    mod path;
    mod state;
    mod trace;
    mod victim;

    pub use path::main;
}

fn main() {
    #[cfg(all(target_os = "linux", target_arch = "x86_64", feature = "drain"))]
    on_linux::main();
}
