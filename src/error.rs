//! One error for the library's outer layers: what happened, where, and what to do.

use std::fmt;

/// Stable codes. A number is never used for anything else again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum Code {
    /// An operating-system call failed.
    Os = 1,
    /// The channel's directory does not exist.
    NoChannel = 2,
    /// No permission.
    Permission = 3,
    /// No space in the shared memory or on the disk.
    NoSpace = 4,
    /// A file is cut short or is not what its name says.
    BadFile = 5,
    /// A file of another layout version.
    Version = 6,
    /// A file of another architecture.
    Arch = 7,
    /// Another drain has this channel.
    DrainRunning = 8,
    /// The channel belongs to another journal.
    OtherJournal = 9,
    /// A journal batch is damaged.
    Damaged = 10,
    /// A value (flag, variable) that is not allowed.
    BadValue = 11,
    /// A record larger than a record may be.
    TooLarge = 12,
    /// Not done within the given time.
    Timeout = 13,
    /// The file size limit (RLIMIT_FSIZE) forbids it.
    FileLimit = 14,
    /// The call would have to wait, and may not.
    WouldBlock = 15,
    /// There is no ring in this process (not attached, or attaching failed).
    NotAttached = 16,
}

/// What happened, where, and what to do.
#[derive(Debug)]
pub struct Error {
    /// Its stable code.
    pub code: Code,
    /// The message, complete. Empty where no memory may be allocated ([`Error::in_handler`]); `Display` then
    /// says what it has to.
    pub message: String,
    /// The errno, if a system call failed.
    pub errno: Option<i32>,
}

impl Error {
    /// An error without errno.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), errno: None }
    }
    /// What a call that may wait answers in a signal handler. Made and dropped without allocating.
    pub const fn in_handler() -> Self {
        Error { code: Code::WouldBlock, message: String::new(), errno: None }
    }
    /// An error of a system call. `what` says what was tried and on which path.
    pub fn os(what: impl fmt::Display, e: std::io::Error) -> Self {
        let errno = e.raw_os_error();
        let (code, remedy) = match errno {
            Some(libc::ENOSPC) => (Code::NoSpace, ": free some space there, or name another place"),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                (Code::Permission, ": allow this user to write there, or name another place")
            }
            Some(libc::EFBIG) => (Code::FileLimit, ": raise the limit (ulimit -f)"),
            _ => (Code::Os, ""),
        };
        Error { code, message: format!("{what}: {e}{remedy}"), errno }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = match self.message.as_str() {
            "" => "this call may wait, and a signal handler may not: call it outside of the handler",
            m => m,
        };
        write!(f, "{message} [E{:02}]", self.code as i32)
    }
}

impl std::error::Error for Error {}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;
