//! What `tests/gate.rs` builds: a program with a level that it was built for.

use spillring::site::{Level, STATIC_GATE, set_gate};

/// Looked at by its instructions. The call stands alone in it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn a_call(a: i32, b: f64) {
    spillring::warn!("{} {}", a, b);
}

fn main() {
    a_call(1, 2.0);
    spillring::trace!("this text is not in the program: {}", 1);
    spillring::warn!("and this one is: {}", 1);
    // Whatever is asked for at run time.
    set_gate("trace".parse().expect("a level"));
    let say = |level: Level| print!("{level} ");
    spillring::trace!("{}", { say(Level::Trace); 0 });
    spillring::debug!("{}", { say(Level::Debug); 0 });
    spillring::info!("{}", { say(Level::Info); 0 });
    spillring::warn!("{}", { say(Level::Warn); 0 });
    spillring::error!("{}", { say(Level::Error); 0 });
    spillring::every_n!(1, Level::Debug, "{}", { say(Level::Debug); 0 });
    println!("from {STATIC_GATE}");
}
