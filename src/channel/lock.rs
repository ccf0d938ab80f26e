//! One drain a channel.
//!
//! `drain.lock` is locked by POSIX F_SETLK, because that lock passes to no forked child (flock and OFD
//! locks do, and would outlive the drain). Its price: a process can take it twice, and closing *any*
//! descriptor of the file drops it. So within a process it is guarded twice: one copy of this library
//! keeps a list of what it holds, and two copies see each other in `ctl`'s drain word, which is looked at
//! before the file is opened. The descriptor is never closed: that could drop another copy's lock.

use super::consumer::Channel;
use crate::error::{Code, Error, Result};
use crate::layout::ctl;
use crate::sync::Ordering::{AcqRel, Acquire, Release};
use crate::sys::Errno;
use crate::sys::file::{self, FileId};
use crate::sys::process::{self, Facts};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

struct Entry {
    id: FileId,
    fd: i32,
    held: bool,
    /// The process that opened it: in a forked child this list is its parent's.
    pid: u32,
}

static OPENED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// The right to drain a channel, until it is dropped or the process ends. Not passed to forked children.
#[derive(Debug)]
pub struct DrainLock<'a> {
    channel: &'a Channel,
    fd: i32,
    id: FileId,
    word: u64,
    nonce: u64,
}

fn running(dir: &Path, pid: u32) -> Error {
    let who = match pid {
        0 => "in another pid namespace".to_string(),
        p if p == process::pid() => format!("this process, pid {p}"),
        p => format!("pid {p}"),
    };
    let help = "stop that one first, or read the channel with spillring cat and stat";
    Error::new(Code::DrainRunning, format!("another drain ({who}) has the channel {}: {help}", dir.display()))
}

impl<'a> DrainLock<'a> {
    pub(super) fn take(channel: &'a Channel) -> Result<DrainLock<'a>> {
        let dir = channel.paths().dir().to_path();
        let err = |e: Errno| Error::os(format_args!("{}/drain.lock", dir.display()), e.into());
        let start = Facts::read().start;
        let pid = process::pid();
        let word = u64::from(pid) << 32 | u64::from(process::image_hash(start));
        let drain = channel.ctl().word(ctl::DRAIN);
        // Another copy of the library in this process? Then not even open the file.
        if drain.load(Acquire) == word {
            return Err(running(&dir, pid));
        }
        let path = channel.paths().lock().map_err(err)?;
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let known = file::stat(path.as_c(), false).ok().and_then(|st| {
            opened.iter().position(|e| e.id == st.id && e.pid == pid && file::is_same_file(e.fd, e.id))
        });
        let at = match known {
            Some(i) if opened[i].held => return Err(running(&dir, pid)),
            Some(i) => i,
            None => {
                let mode = file::stat(channel.paths().dir().as_c(), false).map_or(0, |st| st.mode);
                let mode = if mode & 0o020 != 0 { 0o660 } else { 0o600 };
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK;
                let fd = file::dup_high(file::open(path.as_c(), flags, mode).map_err(err)?);
                let st = file::fstat(fd.raw()).map_err(err)?;
                if !st.is_file() {
                    let at = path.to_path();
                    let what = format!("{} is not a regular file: remove it", at.display());
                    return Err(Error::new(Code::BadFile, what));
                }
                opened.push(Entry { id: st.id, fd: fd.into_raw(), held: false, pid });
                opened.len() - 1
            }
        };
        let (fd, id) = (opened[at].fd, opened[at].id);
        match file::lock_exclusive(fd) {
            Ok(()) => {}
            Err(Errno(libc::EAGAIN | libc::EACCES)) => {
                let holder = file::lock_holder(fd).unwrap_or((drain.load(Acquire) >> 32) as u32);
                return Err(running(&dir, holder));
            }
            Err(e) => return Err(err(e)),
        }
        // The lock keeps other processes away. Another copy of the library in this one is kept away by
        // this exchange; it has the lock too, then, so this side must not unlock it.
        loop {
            let seen = drain.load(Acquire);
            if seen == word {
                return Err(running(&dir, pid));
            }
            if drain.compare_exchange(seen, word, AcqRel, Acquire).is_ok() {
                break;
            }
        }
        let nonce = process::nonce();
        channel.ctl().word(ctl::DRAIN_NONCE).store(nonce, Release);
        opened[at].held = true;
        Ok(DrainLock { channel, fd, id, word, nonce })
    }

    /// The random number of this drain, in `ctl` as long as it is the drain.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Whether this process still has the lock, as far as can be seen: its descriptor is still the file that
    /// has the name, and `ctl` names this drain. To be asked before each batch: a program may close
    /// descriptors that are not its own.
    pub fn still_held(&self) -> bool {
        let named = self.channel.paths().lock().and_then(|p| file::stat(p.as_c(), false));
        file::is_same_file(self.fd, self.id)
            && named.is_ok_and(|st| st.id == self.id)
            && self.channel.ctl().word(ctl::DRAIN).load(Acquire) == self.word
            && self.channel.ctl().word(ctl::DRAIN_NONCE).load(Acquire) == self.nonce
            && !self.channel.ctl().hit()
    }
}

impl Drop for DrainLock<'_> {
    fn drop(&mut self) {
        if (self.word >> 32) as u32 != process::pid() {
            return; // a forked child: it never had the lock
        }
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if file::is_same_file(self.fd, self.id) {
            let _ = file::unlock(self.fd);
        }
        // After unlocking: until this word is cleared another copy in this process stays away.
        let _ = self.channel.ctl().word(ctl::DRAIN).compare_exchange(self.word, 0, AcqRel, Acquire);
        for e in opened.iter_mut().filter(|e| e.fd == self.fd && e.id == self.id) {
            e.held = false;
        }
    }
}
