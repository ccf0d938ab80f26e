//! A forked child lets go of its parent's ring.
//!
//! One idempotent function, run by the pthread_atfork hook or by the first log call that sees the wiped
//! page, whichever comes first (a hook of another library may log before ours). Async-signal-safe.

use super::attach::{self, ATTACHING, Ring};
use crate::layout::ring::{GRANULE, word};
use crate::layout::{round_up, spill};
use crate::sync::{AtomicBool, Ordering::*};
use crate::sys::{self, SavedErrno};
use crate::tls::{self, Block};

/// Registers the hook, once in a process's life (forked children inherit it).
pub(super) fn register() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, AcqRel) {
        // `init` does this, before its attach, so that a child forked in the midst of that one runs it too.
        // SAFETY: the hook is async-signal-safe and stays in memory (a cdylib is linked nodelete).
        unsafe { libc::pthread_atfork(None, None, Some(hook)) };
    }
}

extern "C" fn hook() {
    let _errno = SavedErrno::save();
    if attach::current().is_null() {
        // No ring yet, but perhaps another thread of the parent was making one.
        if_attaching_drop_inherited();
    } else if attach::generation() == 0 {
        // SAFETY: the running thread's block.
        let block = unsafe { &*tls::block() };
        child(block, block.busy.load(Relaxed) != 0);
    }
}

/// The child's work. `open`: a call of the parent was interrupted by what forked, and will resume here.
pub(super) fn child(block: &Block, open: bool) {
    // A handler that logs would do the same work in the midst of this one, and this one would then map
    // over what that one has made private.
    let _blocked = sys::thread::SignalsBlocked::new();
    let p = attach::current();
    if p.is_null() || attach::generation() != 0 {
        return;
    }
    // SAFETY: a published ring is never freed.
    let ring: &Ring = unsafe { &*p };
    let len = ring.geometry.file_len() as usize;
    // Programs close and reuse descriptors (a daemon's start, before it forks): only one that still is
    // the ring's is of use.
    let fd = ring.read_fd.load(Acquire);
    let ours = fd >= 0 && sys::file::is_same_file(fd, ring.files.ring_id);
    attach::keep_sites(ring);
    if open {
        // The interrupted call resumes privately, and the parent alone delivers it.
        // SAFETY: the whole mapping of the ring, from the file that `fd` is open on, read-only.
        let private = ours && unsafe { sys::mem::over_map_private(ring.base, len, fd) }.is_ok();
        if !private && copy_in_place(ring).is_err() {
            // Without it the parent's ring would be written by two processes. Nothing is worse.
            // SAFETY: ends the process.
            unsafe { libc::abort() };
        }
    } else {
        // A private view would pin the memory of an unlinked ring for this process's life. Zeros, and not
        // memory that traps: a handler may have forked in the midst of a flush, of counters being read
        // or of a site being registered, and those go on here.
        // SAFETY: no call is open, so nobody needs what the parent's ring holds.
        let _ = unsafe { sys::mem::over_map_zeros(ring.base, len) };
        // SAFETY: likewise; the ack is as long as its geometry says.
        let _ = unsafe { sys::mem::over_map_zeros(ring.ack, ring.geometry.ack_len() as usize) };
    }
    if let Some(map) = &ring.files.spill_map {
        let_go_of_spill(ring, map, open);
    }
    if sys::file::is_same_file(ring.spill_fd, ring.files.spill_id) {
        // SAFETY: ours by dev/inode.
        unsafe { libc::close(ring.spill_fd) };
    }
    if_attaching_drop_inherited();
    // A private view holds the file by itself; this would pin the memory of an unlinked ring.
    let fd = ring.read_fd.swap(-1, AcqRel);
    if ours && sys::file::is_same_file(fd, ring.files.ring_id) {
        // SAFETY: ours by dev/inode.
        unsafe { libc::close(fd) };
    }
    block.lane.store(core::ptr::null_mut(), Relaxed);
    attach::forget(p);
}

/// The interrupted call may have a claim in the spill: it writes there, and reads nothing. So zeros lie behind
/// whatever was ever backed (a claim lies below), and nothing behind the rest.
fn let_go_of_spill(ring: &Ring, map: &sys::Map, open: bool) {
    // SAFETY: nobody reads it, and who may write it gets memory below, before the call goes on: this thread is the
    // only one, and its signals are blocked.
    let mut done = unsafe { sys::mem::over_map_none(map.addr(), map.len() as usize) };
    if open {
        let size = ring.spill_granules;
        let n = ring.word(word::SPILL_BACKED).load(Acquire).min(size);
        for (at, len) in [(spill::commit_word(0), n * 8), (spill::granule(size, 0), n * GRANULE)] {
            let page = sys::mem::page_size();
            let (from, to) = (at & !(page - 1), round_up(at + len, page));
            if done.is_ok() && n > 0 {
                // SAFETY: inside what was just put there.
                done =
                    unsafe { sys::mem::over_map_zeros(map.addr().add(from as usize), (to - from) as usize) };
            }
        }
        if done.is_err() {
            // As above: the parent's spill would be written by two processes.
            // SAFETY: ends the process.
            unsafe { libc::abort() };
        }
    }
}

/// Another thread of the parent was in the midst of an attach: what it had open, nobody knows. (This
/// thread was not: an attach blocks signals, so no handler forks inside it.)
fn if_attaching_drop_inherited() {
    if ATTACHING.swap(0, SeqCst) != 0
        && let Some(paths) = attach::channel_paths()
    {
        drop_inherited(paths);
    }
}

/// Without a descriptor of the ring: a copy of what is allocated of it, moved over it.
fn copy_in_place(ring: &Ring) -> Result<(), sys::Errno> {
    let g = &ring.geometry;
    let len = g.file_len() as usize;
    // SAFETY: a new mapping of `len` bytes; what is copied lies inside both, and is allocated in the ring
    // (reading another page of it would allocate that one). The move replaces the ring's mapping whole.
    unsafe {
        let to = sys::mem::zeros(len)?;
        let copy = |at: u64, n: u64| {
            core::ptr::copy_nonoverlapping(ring.base.add(at as usize), to.add(at as usize), n as usize);
        };
        copy(0, g.lane_data(0));
        for i in 0..g.lanes {
            let capacity = ring.lane_word(i, crate::layout::ring::lane::CAPACITY).load(Acquire);
            copy(g.lane_data(i), capacity.min(g.lane_stride));
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        if libc::mremap(to.cast(), len, len, flags, ring.base) == libc::MAP_FAILED {
            return Err(sys::Errno::last());
        }
    }
    Ok(())
}

/// Lets go of what an attach of another thread of the parent had open when this child was forked:
/// writable descriptors and mappings of files in the channel's directory. They would keep the ring of
/// that producer from ever being found dead.
fn drop_inherited(paths: &crate::channel::ChannelPaths) {
    let dir = paths.dir().as_bytes();
    // Descriptors: whichever leads into the directory to a ring that is being made, or was.
    sys::file::for_each_fd(|fd| {
        let mut link = sys::FixedPath::new();
        let mut to = [0u8; sys::path::CAPACITY];
        if link.push(b"/proc/self/fd/").and_then(|l| l.push_dec(fd as u64)).is_err() {
            return;
        }
        // SAFETY: a path and a buffer of that size.
        let n = unsafe { libc::readlink(link.as_c().as_ptr(), to.as_mut_ptr().cast(), to.len()) };
        if n > 0 && in_channel(dir, &to[..n as usize]) {
            // SAFETY: opened by an attach of this library, which nobody in this process goes on with.
            unsafe { libc::close(fd) };
        }
    });
    // Mappings: "from-to perms offset dev inode path".
    let _ = sys::file::for_each_line(c"/proc/self/maps", |line| {
        let mut words = line.split(|b| *b == b' ').filter(|w| !w.is_empty());
        let (range, perms) = (words.next().unwrap_or(b""), words.next().unwrap_or(b""));
        // The path is the rest of the line: it may hold spaces.
        let path = line.iter().position(|b| *b == b'/').map_or(&b""[..], |i| &line[i..]);
        if perms.get(1) == Some(&b'w') && perms.get(3) == Some(&b's') && in_channel(dir, path) {
            let mut ends = range.split(|b| *b == b'-').map(hex);
            if let (Some(Some(from)), Some(Some(to))) = (ends.next(), ends.next()) {
                // SAFETY: a mapping that only the interrupted attach knows.
                let _ = unsafe { sys::mem::over_map_none(from as *mut u8, to - from) };
            }
        }
        true
    });
}

fn hex(s: &[u8]) -> Option<usize> {
    s.iter().try_fold(0usize, |n, b| Some(n << 4 | (*b as char).to_digit(16)? as usize))
}

/// A ring, under its name or its temporary one (or unlinked since), in the directory.
fn in_channel(dir: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|p| {
        let p = p.strip_suffix(b" (deleted)").unwrap_or(p);
        p.first() == Some(&b'/') && (p.ends_with(b".ring") || p.ends_with(b".spill"))
    })
}
