//! Waiting for room in a pipe. Async-signal-safe.

use super::Errno;
use super::errno::check;
use std::time::Duration;

/// Waits until a write to `fd` would not wait (or would fail, its reader having gone), at most
/// `timeout`. False: not yet, or a signal came: look again.
pub fn writable(fd: i32, timeout: Duration) -> Result<bool, Errno> {
    let mut p = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    let ms = timeout.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: one valid pollfd.
    match check(unsafe { libc::poll(&mut p, 1, ms) }) {
        Ok(n) => Ok(n > 0),
        Err(Errno(libc::EINTR)) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_pipe_is_writable_until_it_is_full_and_again_when_its_reader_goes() {
        let (r, mut w) = std::io::pipe().unwrap();
        let short = Duration::from_millis(1);
        for _ in 0..16 {
            assert!(writable(w.as_raw_fd(), short).unwrap());
            w.write_all(&[0; 4096]).unwrap();
        }
        assert!(!writable(w.as_raw_fd(), short).unwrap());
        drop(r);
        assert!(writable(w.as_raw_fd(), short).unwrap());
    }
}
