//! errno as a value. Everything here is async-signal-safe.

use std::fmt;

/// The result of a system call that failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// What the last failed call of this thread left.
    pub fn last() -> Errno {
        // SAFETY: the C library answers a valid pointer to this thread's errno.
        Errno(unsafe { *libc::__errno_location() })
    }
}

impl From<Errno> for std::io::Error {
    fn from(e: Errno) -> Self {
        std::io::Error::from_raw_os_error(e.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

/// Keeps errno as it is over a call made behind the program's back: dropped, it puts it back.
pub struct SavedErrno(i32);

impl SavedErrno {
    /// Takes note of errno.
    pub fn save() -> SavedErrno {
        SavedErrno(Errno::last().0)
    }
}

impl Drop for SavedErrno {
    fn drop(&mut self) {
        // SAFETY: as in `Errno::last`.
        unsafe { *libc::__errno_location() = self.0 }
    }
}

/// -1 becomes the errno.
pub(crate) fn check(r: impl Into<i64>) -> Result<i64, Errno> {
    match r.into() {
        -1 => Err(Errno::last()),
        r => Ok(r),
    }
}

/// Repeats a call that a signal interrupted, a bounded number of times: a profiler's timer may
/// interrupt each try, and a log call may not try for ever.
pub(crate) fn retry(mut f: impl FnMut() -> i64) -> Result<i64, Errno> {
    let mut tries = 0;
    loop {
        match check(f()) {
            Err(Errno(libc::EINTR)) if tries < 100 => tries += 1,
            r => return r,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_survives_a_failing_call() {
        // SAFETY: as in `Errno::last`.
        unsafe { *libc::__errno_location() = 77 };
        {
            let _keep = SavedErrno::save();
            // SAFETY: a bad descriptor is refused.
            assert_eq!(unsafe { libc::close(-1) }, -1);
            assert_eq!(Errno::last().0, libc::EBADF);
        }
        assert_eq!(Errno::last().0, 77);
    }
}
