//! spillring: a log call stores a record in shared memory and returns; a drain in a process of its
//! own merges, stores and delivers.
//!
//! ```no_run
//! let _log = spillring::init()?; // or `Logger::builder()`
//! let error = std::io::Error::other("torn");
//! spillring::info!("order {} of {}", 7, "water");
//! spillring::warn!(order = 7, err = %error, "failed");
//! # Ok::<(), spillring::Error>(())
//! ```
//! What a call may hold is said at [`log!`]. `tracing` and the `log` crate come through adapters, behind the
//! features of their names.
//!
//! # One record, from end to end
//!
//! 1. **Call site** ([`site`], [`record`]). `info!` is a static, one load and compare (the level gate), another
//!    one (its target's), and the capture of the arguments by value. No text is made, but of `%` and `?`.
//! 2. **The call** ([`lane::call`], [`writer`]). The thread's block ([`tls`]) says whether another call of
//!    this thread is open, whether this is a forked child, and where its lane is. The usual way: look for
//!    room, read the clock, write header and arguments into the [thread lane](lane::thread), store the
//!    tail with release. From that store on the record exists, whatever dies. A call that interrupted
//!    another one, or whose thread has no lane, goes to the [shared lane](lane::shared); what does not fit
//!    goes to the [spill](layout::spill) file; what that may not take is counted.
//! 3. **The files** ([`layout`], [`channel`]). Each process has a ring, an ack that only the drain writes,
//!    and a spill; they outlive it. Whether it is dead is asked of the kernel by a lease.
//! 4. **The pass** ([`snapshot`], [`ringview`]). The drain reads slow path, tails, slow path again, and takes
//!    what is closed under "had returned before".
//! 5. **The merge** (`merge`, `clock`). Ticks become UTC; across threads the earliest goes first, and a
//!    thread's own order always wins.
//! 6. **The journal** (`journal`, [`release`], `drain`). Records and the cursors of all they were taken from go into
//!    one checksummed batch; that batch is the commit. Only then the space is released to the writers.
//! 7. **The sinks** follow the journal, each at its own pace.
//!
//! # Features
//!
//! `cli` (default) is the command, `drain` what it and an embedded drain need. A program that only writes
//! takes `default-features = false`. `log` and `tracing` are the adapters (`spillring::adapter`).
//! `max_level_off`, `max_level_error` and so on to `max_level_trace` say what is compiled at all, and
//! `release_max_level_*` what is in a build without debug assertions.

#[cfg(any(feature = "log", feature = "tracing"))]
pub mod adapter;
pub mod channel;
#[cfg(feature = "drain")]
pub mod clock;
#[cfg(feature = "cli")]
pub mod doctor;
#[cfg(feature = "drain")]
pub mod drain;
pub mod env;
pub mod error;
#[cfg(feature = "drain")]
pub mod journal;
pub mod lane;
pub mod layout;
pub mod logger;
#[cfg(feature = "drain")]
pub mod merge;
pub mod record;
pub mod release;
pub mod ringview;
#[cfg(feature = "drain")]
pub mod sink;
pub mod site;
pub mod snapshot;
pub mod sync;
pub mod sys;
pub mod tls;
pub mod writer;

pub use error::{Code, Error, Result};
pub use logger::Logger;
pub use writer::{Guard, flush, flush_sinks, init, init_with};

/// The README's examples are compiled, too.
#[cfg(all(doctest, feature = "tracing"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
