//! A terminal of our own for what a command prints, and the size of the one we run in.
//!
//! Allocates; not for signal handlers.

use super::Errno;
use super::errno::check;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Rows and columns of a terminal (and pixels, where it tells).
#[derive(Clone, Copy, Debug)]
pub struct Size(libc::winsize);

impl PartialEq for Size {
    fn eq(&self, o: &Size) -> bool {
        let all = |w: &libc::winsize| [w.ws_row, w.ws_col, w.ws_xpixel, w.ws_ypixel];
        all(&self.0) == all(&o.0)
    }
}

impl Size {
    /// What a terminal has when nobody says otherwise.
    pub const USUAL: Size = Size(libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 });

    /// So many rows and columns.
    pub fn new(rows: u16, columns: u16) -> Size {
        Size(libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
    }

    /// The size of the terminal behind a descriptor; `None`: it is none.
    pub fn of(fd: RawFd) -> Option<Size> {
        let mut size = MaybeUninit::<libc::winsize>::uninit();
        // SAFETY: TIOCGWINSZ writes a winsize, which is read after success.
        unsafe {
            (libc::ioctl(fd, libc::TIOCGWINSZ, size.as_mut_ptr()) == 0).then(|| Size(size.assume_init()))
        }
    }

    /// Gives a terminal this size.
    pub fn give(&self, fd: RawFd) {
        // SAFETY: TIOCSWINSZ reads a winsize. A descriptor that is no terminal is refused.
        unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const self.0) };
    }
}

/// The two ends of a new terminal: what is written to the second is read from the first, byte for byte
/// (no carriage return is put in front of a newline). It becomes nobody's controlling terminal.
///
/// # Errors
/// ENOENT, ENOSPC: there is no /dev/ptmx, or no terminal left.
pub fn open(size: Size) -> Result<(OwnedFd, OwnedFd), Errno> {
    // SAFETY: plain numbers; descriptors that the kernel has just made are ours alone. TIOCGPTPEER takes
    // flags and answers a descriptor.
    unsafe {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let ours = OwnedFd::from_raw_fd(check(libc::posix_openpt(flags))? as i32);
        check(libc::grantpt(ours.as_raw_fd()))?;
        check(libc::unlockpt(ours.as_raw_fd()))?;
        let peer = check(libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags))?;
        let theirs = OwnedFd::from_raw_fd(peer as i32);
        let mut mode = MaybeUninit::<libc::termios>::uninit();
        check(libc::tcgetattr(theirs.as_raw_fd(), mode.as_mut_ptr()))?;
        let mut mode = mode.assume_init();
        mode.c_oflag &= !libc::OPOST;
        check(libc::tcsetattr(theirs.as_raw_fd(), libc::TCSANOW, &mode))?;
        size.give(theirs.as_raw_fd());
        Ok((ours, theirs))
    }
}

/// The name of the other end of the terminal whose first end this is; `None`: it is none.
pub fn other_end(fd: RawFd) -> Option<String> {
    let mut n: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes an unsigned int.
    (unsafe { libc::ioctl(fd, libc::TIOCGPTN, &mut n) } == 0).then(|| format!("/dev/pts/{n}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{IsTerminal, Read, Write};

    #[test]
    fn bytes_come_as_they_are_and_the_size_is_told() {
        let (ours, theirs) = open(Size::USUAL).unwrap();
        assert!(theirs.is_terminal());
        assert_eq!(Size::of(theirs.as_raw_fd()), Some(Size::USUAL));
        let wide = Size::new(10, 200);
        wide.give(ours.as_raw_fd());
        assert_eq!(Size::of(theirs.as_raw_fd()), Some(wide));
        let (mut r, mut w) = (File::from(ours), File::from(theirs));
        w.write_all(b"a\n\tb\r\n").unwrap();
        let mut got = [0; 6];
        r.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"a\n\tb\r\n");
        // The last writer gone, what is left is read, and then there is an error that means the end.
        w.write_all(b"x").unwrap();
        drop(w);
        let mut rest = [0; 9];
        assert_eq!(r.read(&mut rest).unwrap(), 1);
        assert_eq!(r.read(&mut rest).unwrap_err().raw_os_error(), Some(libc::EIO));
        let (p, _q) = std::io::pipe().unwrap();
        assert_eq!(Size::of(p.as_raw_fd()), None);
    }
}
