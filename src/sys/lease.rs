//! Is there anybody left who can write this file? Async-signal-safe.
//!
//! A read lease is granted only while no descriptor and no mapping can write the file, whatever became
//! of the process that had them: it is right for a pid that was executed over, a zombie, a vfork or
//! CLONE_VM sharer, a core dump in progress, and across pid namespaces, where start times and pids
//! are not.

use super::errno::check;
use super::file::{self, fs_magic};
use super::{Errno, SavedErrno};

/// The answer to [`can_nobody_write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// Nobody has it open or mapped for writing.
    Granted,
    /// Somebody has.
    Refused,
    /// It can't be asked: file of another uid (EACCES), or a file system whose leases prove nothing
    /// (EOPNOTSUPP).
    Unavailable(Errno),
}

/// `F_SETSIG` of Linux, which the `libc` crate does not name.
const F_SETSIG: i32 = 10;

/// Asks for a read lease on `fd`, which must be O_RDONLY, and gives it back at once: 3 to 4 µs.
pub fn can_nobody_write(fd: i32) -> LeaseAnswer {
    let _keep = SavedErrno::save();
    if let Err(e) = leases_tell(fd) {
        return LeaseAnswer::Unavailable(e);
    }
    // A writer that opens the file in this instant breaks the lease, and its holder gets a signal:
    // by default SIGIO, which kills. SIGURG is ignored by default.
    // SAFETY: calls on a descriptor.
    let asked = unsafe {
        check(libc::fcntl(fd, F_SETSIG, libc::SIGURG))
            .and_then(|_| check(libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK)))
    };
    match asked {
        Ok(_) => {
            // Held for an instant only: whoever opens for writing waits for the holder.
            // SAFETY: as above.
            unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
            LeaseAnswer::Granted
        }
        Err(Errno(libc::EAGAIN)) => LeaseAnswer::Refused,
        Err(e) => LeaseAnswer::Unavailable(e),
    }
}

/// Whether a granted lease proves anything there. overlayfs and memfd grant one while writable mappings
/// live, so only file systems known to be right are asked.
fn leases_tell(fd: i32) -> Result<(), Errno> {
    use fs_magic::{BTRFS, EXT, RAMFS, TMPFS, XFS};
    if !matches!(file::fstatfs(fd)?.magic, TMPFS | RAMFS | EXT | XFS | BTRFS) {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    // A memfd is a file of a hidden tmpfs, and has never had a name.
    if file::fstat(fd)?.nlink == 0 {
        let mut link = super::FixedPath::from_bytes(b"/proc/self/fd/")?;
        link.push_dec(fd as u64)?;
        let mut to = [0u8; 7];
        // SAFETY: `to` is writable for its length.
        let n =
            unsafe { check(libc::readlink(link.as_c().as_ptr(), to.as_mut_ptr().cast(), to.len()) as i64)? };
        if to[..n as usize] == *b"/memfd:" {
            return Err(Errno(libc::EOPNOTSUPP));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::{Access, create_excl, open_foreign};
    use crate::sys::{Fd, FixedPath, Map};
    use std::os::unix::ffi::OsStrExt;

    /// A child that another test forks meanwhile holds a copy of everything, for an instant.
    fn granted_soon(fd: i32) -> bool {
        (0..2000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            can_nobody_write(fd) == LeaseAnswer::Granted
        })
    }

    #[test]
    fn refused_while_a_descriptor_or_a_mapping_can_write() {
        let d = tempfile::tempdir_in("/dev/shm").unwrap();
        let p = FixedPath::from_bytes(d.path().as_os_str().as_bytes()).unwrap().join(b"r").unwrap();
        let w = create_excl(&p, 0o600).unwrap();
        file::allocate(w.raw(), 0, 4096).unwrap();
        let (r, _) = open_foreign(&p, Access::Read).unwrap();
        assert_eq!(can_nobody_write(r.raw()), LeaseAnswer::Refused);
        let map = Map::shared(w.raw(), 4096, true).unwrap();
        drop(w);
        assert_eq!(can_nobody_write(r.raw()), LeaseAnswer::Refused);
        let read_only = Map::shared(r.raw(), 4096, false).unwrap();
        drop(map);
        assert!(granted_soon(r.raw()));
        // Unlinked by a stranger it can still be asked.
        std::fs::remove_file(p.to_path()).unwrap();
        assert!(granted_soon(r.raw()));
        drop(read_only);
    }

    #[test]
    fn memfd_is_not_asked() {
        // SAFETY: the name is NUL-terminated; the descriptor is ours.
        let w = unsafe { Fd::from_raw(libc::memfd_create(c"x".as_ptr(), libc::MFD_CLOEXEC)) };
        file::set_len(w.raw(), 4096).unwrap();
        let _map = Map::shared(w.raw(), 4096, true).unwrap();
        let path = format!("/proc/self/fd/{}\0", w.raw());
        let path = std::ffi::CStr::from_bytes_with_nul(path.as_bytes()).unwrap();
        let r = file::open(path, libc::O_RDONLY, 0).unwrap();
        drop(w);
        assert_eq!(can_nobody_write(r.raw()), LeaseAnswer::Unavailable(Errno(libc::EOPNOTSUPP)));
    }
}
