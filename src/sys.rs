//! The operating-system calls: files, mappings, leases, processes, threads, clocks.
//!
//! What a log call, an attach, or a forked child uses is **async-signal-safe**: raw calls and buffers
//! on the stack (512 bytes, because an alternate signal stack may be small), no allocation, no lock,
//! nothing of `std::fs` or `std::env`. Each module says so at its head; what may allocate or lock is
//! marked where it stands. Errors are [`Errno`]s here: the layers above add path and remedy.
#![allow(unsafe_code)]

pub mod busguard;
#[cfg(feature = "cli")]
pub mod child;
pub mod errno;
pub mod file;
pub mod handler;
pub mod hash;
pub mod lease;
pub mod mem;
pub mod path;
pub mod poll;
pub mod process;
#[cfg(feature = "cli")]
pub mod pty;
pub mod room;
pub mod thread;
pub mod time;
pub mod watch;

pub use errno::{Errno, SavedErrno};
pub use file::{Fd, FileId};
pub use mem::Map;
pub use path::FixedPath;
