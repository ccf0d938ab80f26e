//! Writing to descriptors that may be full, gone, slow, or somebody else's.
//!
//! A pipe or terminal is opened anew, non-blocking: the open file behind a descriptor is shared with
//! other processes, and setting O_NONBLOCK on it would break them. So a write to it never waits, and how
//! far it got is always known. Where that cannot be had (no /proc, another user's pipe, a socket), poll
//! says when there is room for a page, and a page at a time is written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::{Watch, WriteEnd};
use crate::error::{Error, Result};
use crate::sys::file::fstat;
use crate::sys::{FileId, poll, thread};

/// How long a wait lasts at most before it looks whether to give up.
const SLICE: Duration = Duration::from_millis(50);
/// Bytes that a pipe takes at once when poll says there is room.
const PAGE: usize = 4096;

/// A descriptor to write to.
#[derive(Debug)]
pub(super) struct Out {
    file: File,
    place: String,
    regular: bool,
    /// A write may wait: ask first, and write a page at a time.
    may_wait: bool,
}

impl Out {
    /// stdout or stderr.
    pub fn standard(stderr: bool) -> Result<Out> {
        let (fd, place) = if stderr { (2, "stderr") } else { (1, "stdout") };
        let own = if stderr {
            io::stderr().as_fd().try_clone_to_owned()
        } else {
            io::stdout().as_fd().try_clone_to_owned()
        };
        let own = File::from(own.map_err(|e| Error::os(format!("use {place}"), e))?);
        Self::with(own, &format!("/proc/self/fd/{fd}"), place.to_owned())
    }

    /// `path`: the same file by a name to open it anew.
    fn with(file: File, path: &str, place: String) -> Result<Out> {
        let meta = file.metadata().map_err(|e| Error::os(format!("use {place}"), e))?;
        let regular = meta.is_file();
        let kind = meta.file_type();
        let mut out = Out { file, place, regular, may_wait: false };
        if !regular {
            out.may_wait = true;
            if kind.is_fifo() || kind.is_char_device() {
                let mut o = OpenOptions::new();
                let own = o.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
                let id = |f: &File| fstat(f.as_raw_fd()).map(|s| s.id).ok();
                if let Ok(own) = own
                    && id(&own) == id(&out.file)
                {
                    out.file = own;
                    out.may_wait = false;
                }
            }
        }
        Ok(out)
    }

    /// A file to append to.
    pub fn append(path: &Path) -> Result<Out> {
        let mut o = OpenOptions::new();
        // Non-blocking: a FIFO without a reader is an error, not a wait.
        o.append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = o.open(path).map_err(|e| match e.raw_os_error() {
            Some(libc::ENXIO) => Error::os(
                format!(
                    "open {} for writing: nobody reads this FIFO; start its reader first",
                    path.display()
                ),
                e,
            ),
            _ => Error::os(format!("open {} for writing", path.display()), e),
        })?;
        let regular = file.metadata().map_err(|e| Error::os(format!("use {}", path.display()), e))?.is_file();
        Ok(Out { file, place: path.display().to_string(), regular, may_wait: false })
    }

    /// Which file it is and how long, if it is a regular one.
    pub fn regular(&self) -> Option<(FileId, u64)> {
        if !self.regular {
            return None;
        }
        fstat(self.file.as_raw_fd()).ok().map(|s| (s.id, s.size))
    }

    /// Writes all of `buf`, advancing `done`. Waits while there is no room, and tries again while the disk
    /// is full, until `watch` gives up.
    pub fn write_all(
        &mut self,
        buf: &[u8],
        done: &mut u64,
        watch: &dyn Watch,
    ) -> std::result::Result<(), WriteEnd> {
        let (mut rest, mut pause) = (buf, Duration::from_millis(100));
        while !rest.is_empty() {
            // Not after the first bytes of a write that goes well: a sink that moves is left to move.
            let piece = if self.may_wait { &rest[..rest.len().min(PAGE)] } else { rest };
            if self.may_wait && !self.wait(watch)? {
                continue;
            }
            let e = match self.file.write(piece) {
                Ok(0) => io::Error::from_raw_os_error(libc::ENOSPC),
                Ok(n) => {
                    rest = &rest[n..];
                    *done += n as u64;
                    watch.moved(n);
                    pause = Duration::from_millis(100);
                    continue;
                }
                Err(e) => e,
            };
            match e.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EAGAIN) => {
                    self.wait(watch)?;
                    continue;
                }
                Some(libc::EPIPE | libc::ECONNRESET) => return Err(WriteEnd::Broken),
                // A terminal that was hung up.
                Some(libc::EIO) if !self.regular => return Err(WriteEnd::Broken),
                Some(libc::EBADF | libc::EINVAL) => return Err(WriteEnd::Failed(e)),
                // A full disk, a quota, a size limit, a sick disk: they pass.
                _ => watch.retry(&self.place, &e),
            }
            let mut left = pause;
            while !left.is_zero() {
                if watch.given_up() {
                    return Err(WriteEnd::GivenUp);
                }
                let slice = left.min(SLICE);
                thread::nanosleep(slice);
                left -= slice;
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        Ok(())
    }

    /// Until there may be room. False: not yet.
    fn wait(&self, watch: &dyn Watch) -> std::result::Result<bool, WriteEnd> {
        if watch.given_up() {
            return Err(WriteEnd::GivenUp);
        }
        poll::writable(self.file.as_raw_fd(), SLICE).map_err(|e| WriteEnd::Failed(e.into()))
    }
}
