//! Being told of files by the kernel: inotify. Not for signal handlers.

use super::errno::check;
use super::file::{Fd, dup_high};
use super::{Errno, FixedPath};
use std::time::Duration;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The watched directory has a new name.
    Named(&'a [u8]),
    /// An open file of the watched file that could write it is closed; a mapping counts as open.
    Closed(Watched),
    /// Some were not told: there were too many.
    Missed,
}

/// The number of what is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched(i32);

/// What the kernel tells of some files. Closed when dropped.
#[derive(Debug)]
pub struct Watch(Fd);

impl Watch {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// EMFILE: this user has fs.inotify.max_user_instances of them.
    pub fn new() -> Result<Watch, Errno> {
        // SAFETY: plain numbers; the descriptor is ours.
        let fd =
            unsafe { Fd::from_raw(check(libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC))? as i32) };
        Ok(Watch(dup_high(fd)))
    }

    /// Tells of new names in a directory. Those who write to its files pay nothing for it.
    pub fn names(&self, dir: &FixedPath) -> Result<Watched, Errno> {
        self.add(dir, libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_ONLYDIR)
    }

    /// Tells when somebody who could write a file has closed it, wherever he lives.
    pub fn closes(&self, file: &FixedPath) -> Result<Watched, Errno> {
        self.add(file, libc::IN_CLOSE_WRITE | libc::IN_DONT_FOLLOW)
    }

    fn add(&self, path: &FixedPath, mask: u32) -> Result<Watched, Errno> {
        // SAFETY: a path that ends in NUL.
        let r = unsafe { check(libc::inotify_add_watch(self.0.raw(), path.as_c().as_ptr(), mask)) };
        r.map(|n| Watched(n as i32))
    }

    /// Forgets it.
    pub fn remove(&self, what: Watched) {
        // SAFETY: numbers; one that is gone already is an error that means nothing.
        unsafe { libc::inotify_rm_watch(self.0.raw(), what.0) };
    }

    /// Waits until there is something to tell, at most `time`. False: there is not, or a signal came.
    ///
    /// # Errors
    /// EBADF: the program has closed the descriptor.
    pub fn wait(&self, time: Duration) -> Result<bool, Errno> {
        let mut p = libc::pollfd { fd: self.0.raw(), events: libc::POLLIN, revents: 0 };
        let ts = super::thread::timespec(time);
        // SAFETY: one valid pollfd, and a time that lives for the call.
        match check(unsafe { libc::ppoll(&mut p, 1, &ts, std::ptr::null()) }) {
            Ok(_) if p.revents & (libc::POLLNVAL | libc::POLLERR) != 0 => Err(Errno(libc::EBADF)),
            Ok(n) => Ok(n > 0),
            Err(Errno(libc::EINTR)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Tells what there is to tell, up to a bound; does not wait.
    pub fn take(&self, mut hear: impl FnMut(Event<'_>)) -> Result<(), Errno> {
        let mut buf = [0u8; 4096];
        for _ in 0..16 {
            // SAFETY: writable for its length.
            let r = unsafe { check(libc::read(self.0.raw(), buf.as_mut_ptr().cast(), buf.len()) as i64) };
            let mut rest = match r {
                Ok(n) => &buf[..n as usize],
                Err(Errno(libc::EAGAIN)) => return Ok(()),
                Err(Errno(libc::EINTR)) => continue,
                Err(e) => return Err(e),
            };
            // `struct inotify_event`: what, mask, cookie, length of the name; the name, padded with zeros.
            while let Some((head, behind)) = rest.split_at_checked(16) {
                let word =
                    |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
                let (what, mask, len) = (Watched(word(0) as i32), word(4), word(12) as usize);
                let (name, behind) = behind.split_at(len.min(behind.len()));
                rest = behind;
                if mask & libc::IN_Q_OVERFLOW != 0 {
                    hear(Event::Missed);
                } else if mask & (libc::IN_CREATE | libc::IN_MOVED_TO) != 0 {
                    hear(Event::Named(name.split(|&b| b == 0).next().unwrap_or_default()));
                } else if mask & libc::IN_CLOSE_WRITE != 0 {
                    hear(Event::Closed(what));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Map;
    use crate::sys::file::{self, Access, create_excl, open_foreign};
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_ring_is_closed_with_its_last_mapping() {
        let d = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = FixedPath::from_bytes(d.path().as_os_str().as_bytes()).unwrap();
        let w = Watch::new().unwrap();
        w.names(&dir).unwrap();
        let now = Duration::ZERO;
        assert!(!w.wait(now).unwrap());
        let (temp, p) = (dir.join(b"t").unwrap(), dir.join(b"r").unwrap());
        let fd = create_excl(&temp, 0o600).unwrap();
        file::allocate(fd.raw(), 0, 4096).unwrap();
        file::publish(&temp, &p).unwrap();
        assert!(w.wait(Duration::from_secs(20)).unwrap());
        let mut names = Vec::new();
        w.take(|e| names.extend(matches!(e, Event::Named(n) if n == b"r" || n == b"t").then_some(())))
            .unwrap();
        assert_eq!(names.len(), 2);

        let watched = w.closes(&p).unwrap();
        let map = Map::shared(fd.raw(), 4096, true).unwrap();
        drop(fd);
        let (r, _) = open_foreign(&p, Access::Read).unwrap();
        drop(r);
        w.take(|e| panic!("{e:?}")).unwrap();
        drop(map);
        // A child that another test forks meanwhile holds a copy of everything, for an instant.
        assert!((0..20).any(|_| w.wait(Duration::from_secs(1)).unwrap()));
        let mut closed = 0;
        w.take(|e| closed += u32::from(e == Event::Closed(watched))).unwrap();
        assert_eq!(closed, 1);
        w.remove(watched);
    }
}
