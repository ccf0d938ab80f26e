//! Mappings. Everything here is async-signal-safe except [`Map::guard`], which installs a handler.

use super::busguard::{self, Slot};
use super::errno::check;
use super::{Errno, SavedErrno};
use crate::layout::PAGE;
use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::ptr::NonNull;

/// A shared mapping of a file, unmapped when dropped.
#[derive(Debug)]
pub struct Map {
    addr: NonNull<u8>,
    len: usize,
    writable: bool,
    slot: Option<Slot>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached only through atomics.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `len` bytes of `fd`, MAP_SHARED. `len` may go beyond what is allocated, not beyond
    /// what the caller knows the file's size to be.
    pub fn shared(fd: i32, len: u64, write: bool) -> Result<Map, Errno> {
        let len = usize::try_from(len).ok().filter(|&l| l > 0).ok_or(Errno(libc::EINVAL))?;
        let prot = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at a place the kernel chooses touches nothing that exists.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, 0) };
        if p == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let addr = NonNull::new(p.cast()).ok_or(Errno(libc::ENOMEM))?;
        Ok(Map { addr, len, writable: write, slot: None })
    }

    /// Addresses for the first `len` bytes of `fd`, MAP_SHARED, none of which can be touched before it is opened
    /// ([`Map::open`]). So what is not opened takes no memory, whoever asks for all of it (mlockall, a core dump),
    /// and locks none.
    pub fn reserve(fd: i32, len: u64) -> Result<Map, Errno> {
        let len = usize::try_from(len).ok().filter(|&l| l > 0).ok_or(Errno(libc::EINVAL))?;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at a place the kernel chooses touches nothing that exists; what else is asked is
        // about that mapping, and changes no content.
        let p = unsafe {
            let p = libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, fd, 0);
            if p != libc::MAP_FAILED {
                // After mlockall(MCL_FUTURE) it would be locked, and with it all that is opened.
                libc::munlock(p, len);
                libc::madvise(p, len, libc::MADV_DONTDUMP);
            }
            p
        };
        if p == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let addr = NonNull::new(p.cast()).ok_or(Errno(libc::ENOMEM))?;
        Ok(Map { addr, len, writable: true, slot: None })
    }

    /// Lets go of the pages of a range, which stay in the file: they count as resident here no longer. Whoever touches
    /// one has it again.
    pub fn let_go(&self, offset: u64, len: u64) {
        if let Ok((addr, n)) = self.pages(offset, len) {
            // SAFETY: a shared mapping of a file that keeps its pages; where they are locked it does nothing.
            unsafe { libc::madvise(addr.cast(), n, libc::MADV_DONTNEED) };
        }
    }

    /// Opens a range of a reserved mapping for reading and writing, with memory behind all of it. May be repeated.
    ///
    /// # Errors
    /// As [`Map::populate`]; ENOMEM: too many mappings.
    pub fn open(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let (addr, n) = self.pages(offset, len)?;
        // SAFETY: the range lies in this mapping, which is reached through atomics and claimed bytes only.
        check(unsafe { libc::mprotect(addr.cast(), n, libc::PROT_READ | libc::PROT_WRITE) })?;
        self.populate(offset, len)
    }

    /// Guards the mapping against its file being cut short (see [`busguard`]). For files that
    /// another party can reach. Not async-signal-safe the first time in a process.
    pub fn guard(&mut self) -> Result<(), Errno> {
        if self.slot.is_none() {
            self.slot = Some(busguard::register(self.addr.as_ptr() as usize, self.len)?);
        }
        Ok(())
    }

    /// Whether an access to the guarded mapping has found no file behind it: from there on it reads
    /// as zeros, and nothing read from it may be believed.
    pub fn hit(&self) -> bool {
        self.slot.as_ref().is_some_and(Slot::hit)
    }

    /// Where it lies.
    pub fn addr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }

    /// Its length in bytes, as mapped.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Keeps the mapping for the life of the process.
    pub fn leak(self) -> NonNull<u8> {
        let addr = self.addr;
        std::mem::forget(self);
        addr
    }

    /// The word at `offset`. Store only into a mapping made for writing: another one faults.
    ///
    /// # Panics
    /// When it is not inside the mapping or `offset` is not a multiple of 8.
    #[inline]
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.len() && self.len() - offset >= 8);
        // SAFETY: inside the mapping and aligned (mappings start at a page); it lives as long as self.
        unsafe { &*self.addr.as_ptr().add(offset as usize).cast::<AtomicU64>() }
    }

    /// The 32-bit word at `offset`, likewise (a futex).
    ///
    /// # Panics
    /// When it is not inside the mapping or `offset` is not a multiple of 4.
    #[inline]
    pub fn word32(&self, offset: u64) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < self.len() && self.len() - offset >= 4);
        // SAFETY: as above.
        unsafe { &*self.addr.as_ptr().add(offset as usize).cast::<AtomicU32>() }
    }

    /// Copies from `offset`, a multiple of 8, to `dst`, a word at a time: others may be writing there,
    /// and what comes is to be validated. The word that holds the last byte is read whole.
    ///
    /// # Panics
    /// When that is not inside the mapping.
    pub fn read(&self, offset: u64, dst: &mut [u8]) {
        let mut at = offset;
        for chunk in dst.chunks_mut(8) {
            let w = self.word(at).load(Relaxed).to_le_bytes();
            chunk.copy_from_slice(&w[..chunk.len()]);
            at += 8;
        }
    }

    /// Stores `src` from `offset`, a multiple of 8, on. A last word that is not full is filled with zeros.
    ///
    /// # Panics
    /// When that is not inside the mapping, or the mapping is read-only.
    pub fn write(&self, offset: u64, src: &[u8]) {
        assert!(self.writable);
        let mut at = offset;
        for chunk in src.chunks(8) {
            let mut w = [0; 8];
            w[..chunk.len()].copy_from_slice(chunk);
            self.word(at).store(u64::from_le_bytes(w), Relaxed);
            at += 8;
        }
    }

    /// Allocates and maps the pages of a range, so that stores there neither fail nor fault. Contents
    /// stay.
    ///
    /// # Errors
    /// ENOSPC when the file system is full: some pages of the range may be allocated.
    pub fn populate(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let (addr, len) = self.pages(offset, len)?;
        // SAFETY: the range lies in this mapping; populating changes no content.
        let r = unsafe { libc::madvise(addr.cast(), len, libc::MADV_POPULATE_WRITE) };
        match check(r) {
            Ok(_) => Ok(()),
            // Linux before 5.14.
            Err(Errno(libc::EINVAL)) => touch(addr, len),
            Err(Errno(libc::EFAULT)) => Err(Errno(libc::ENOSPC)),
            Err(e) => Err(e),
        }
    }

    /// Asks for huge pages from now on (MADV_HUGEPAGE); a tmpfs gives them where its mount allows it.
    ///
    /// # Errors
    /// EINVAL: a kernel without them.
    pub fn advise_huge(&self) -> Result<(), Errno> {
        // SAFETY: the whole of this mapping; advice changes no content.
        check(unsafe { libc::madvise(self.addr.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) }).map(drop)
    }

    /// Locks the pages of a range in RAM, and allocates those that are not there.
    ///
    /// # Errors
    /// ENOMEM, EPERM: more than RLIMIT_MEMLOCK allows; ENOSPC when the file system is full.
    pub fn lock(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let (addr, len) = self.pages(offset, len)?;
        // First: where there is no room this is an error, and in `mlock` it would be a signal or another error.
        self.populate(offset & !(page_size() - 1), len as u64)?;
        // SAFETY: the range lies in this mapping; locking changes no content.
        check(unsafe { libc::mlock(addr.cast(), len) }).map(drop)
    }

    /// Gives the pages of a range back to the file system; it reads as zeros.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let (addr, len) = self.pages(offset, len)?;
        // SAFETY: the range lies in this mapping, which is reached through atomics only.
        check(unsafe { libc::madvise(addr.cast(), len, libc::MADV_REMOVE) }).map(drop)
    }

    fn pages(&self, offset: u64, len: u64) -> Result<(*mut u8, usize), Errno> {
        let end = offset.checked_add(len).ok_or(Errno(libc::EINVAL))?;
        if end > self.len() || !self.writable {
            return Err(Errno(libc::EINVAL));
        }
        let start = offset & !(page_size() - 1);
        // SAFETY: `start` is inside the mapping.
        Ok((unsafe { self.addr.as_ptr().add(start as usize) }, (end - start) as usize))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let _keep = SavedErrno::save();
        // The slot first: the address may be somebody else's the moment it is unmapped.
        drop(self.slot.take());
        // SAFETY: this value owns the mapping.
        unsafe { libc::munmap(self.addr.as_ptr().cast(), self.len) };
    }
}

/// The kernel's page size.
pub fn page_size() -> u64 {
    // SAFETY: no arguments to be wrong.
    let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if n > 0 { n as u64 } else { PAGE }
}

/// Allocates pages by letting the *kernel* add 0 to a word of each (FUTEX_WAKE_OP): it answers EFAULT
/// where a store of our own would be killed by SIGBUS, and leaves what is there.
fn touch(addr: *mut u8, len: usize) -> Result<(), Errno> {
    const ADD_ZERO_WAKE_NONE: u32 = 1 << 28 | 0xfff;
    const FUTEX_WAKE_OP_PRIVATE: i32 = 5 | 128;
    let nobody = AtomicU32::new(0);
    for at in (0..len).step_by(page_size() as usize) {
        // SAFETY: the word at `addr + at` is inside the caller's mapping; the kernel adds 0 to it
        // atomically. Nobody waits at either address.
        let r = unsafe {
            libc::syscall(
                libc::SYS_futex,
                &nobody as *const AtomicU32,
                FUTEX_WAKE_OP_PRIVATE,
                0,
                0usize,
                addr.add(at),
                ADD_ZERO_WAKE_NONE,
            )
        };
        match check(r) {
            Ok(_) => {}
            Err(Errno(libc::EFAULT)) => return Err(Errno(libc::ENOSPC)),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Puts memory that nothing can touch over a mapping: what was there is no longer pinned.
///
/// # Safety
/// `[addr, addr + len)` is one mapping of the caller's, and nobody will read or write it again.
pub unsafe fn over_map_none(addr: *mut u8, len: usize) -> Result<(), Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: by the caller.
    let p = unsafe { libc::mmap(addr.cast(), len, libc::PROT_NONE, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
}

/// New private memory of zeros; pages are allocated when they are touched.
pub fn zeros(len: usize) -> Result<*mut u8, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(p.cast()) }
}

/// Puts private zeros over a mapping: what was there is no longer pinned, and whoever still reads or
/// writes there hurts nobody.
///
/// # Safety
/// `[addr, addr + len)` is one mapping of the caller's, and nobody needs what it holds.
pub unsafe fn over_map_zeros(addr: *mut u8, len: usize) -> Result<(), Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: by the caller.
    let p = unsafe { libc::mmap(addr.cast(), len, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
}

/// Puts a private copy (on write) of `fd` over a mapping of the same file, in place: stores from now on
/// are seen by this process alone. `fd` must be O_RDONLY: another one counts as a writer of the file.
///
/// # Safety
/// `[addr, addr + len)` is one mapping of the caller's, of the same file from its start.
pub unsafe fn over_map_private(addr: *mut u8, len: usize, fd: i32) -> Result<(), Errno> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: by the caller.
    let p = unsafe { libc::mmap(addr.cast(), len, prot, libc::MAP_PRIVATE | libc::MAP_FIXED, fd, 0) };
    if p == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
}

/// A word in a page of its own that reads 0 in every forked child (MADV_WIPEONFORK), raw fork included;
/// not after vfork or CLONE_VM, which share it. Never unmapped.
pub fn wipe_on_fork_word() -> Result<&'static AtomicU64, Errno> {
    let len = page_size() as usize;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping, zero-filled, is a valid AtomicU64 for ever: it is unmapped only
    // where nobody has got it.
    unsafe {
        let p = libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0);
        if p == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        if let Err(e) = check(libc::madvise(p, len, libc::MADV_WIPEONFORK)) {
            libc::munmap(p, len);
            return Err(e);
        }
        Ok(&*p.cast::<AtomicU64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering::SeqCst;
    use crate::sys::FixedPath;
    use crate::sys::file::{allocate, create_excl, fstat, set_len};
    use std::os::unix::ffi::OsStrExt;

    fn file() -> (tempfile::TempDir, crate::sys::Fd) {
        let d = tempfile::tempdir_in("/dev/shm").unwrap();
        let p = FixedPath::from_bytes(d.path().as_os_str().as_bytes()).unwrap().join(b"m").unwrap();
        (d, create_excl(&p, 0o600).unwrap())
    }

    #[test]
    fn copies_words_and_tails() {
        let (_d, fd) = file();
        allocate(fd.raw(), 0, 4096).unwrap();
        let m = Map::shared(fd.raw(), 4096, true).unwrap();
        m.write(8, b"hello, world");
        let mut b = [0xff; 13];
        m.read(8, &mut b);
        assert_eq!(&b, b"hello, world\0");
        assert_eq!(m.word(4088).load(SeqCst), 0);
        for bad in [4096, 4092, 1, u64::MAX - 7] {
            assert!(std::panic::catch_unwind(|| m.word(bad).load(SeqCst)).is_err(), "{bad}");
        }
    }

    #[test]
    fn populate_and_its_fallback_allocate_and_keep_what_is_there() {
        let (_d, fd) = file();
        set_len(fd.raw(), 64 * 4096).unwrap();
        let m = Map::shared(fd.raw(), 64 * 4096, true).unwrap();
        m.word(4096 * 8).store(0x55aa, SeqCst);
        m.populate(4096 * 8, 4096 * 2).unwrap();
        assert_eq!(fstat(fd.raw()).unwrap().allocated, 2 * 4096);
        // SAFETY: inside the mapping.
        touch(unsafe { m.addr().add(4096 * 8) }, 4096 * 4).unwrap();
        assert_eq!(fstat(fd.raw()).unwrap().allocated, 4 * 4096);
        assert_eq!(m.word(4096 * 8).load(SeqCst), 0x55aa);
        m.discard(4096 * 8, 4096 * 4).unwrap();
        assert_eq!(fstat(fd.raw()).unwrap().allocated, 0);
        assert_eq!(m.populate(4096 * 64, 1).unwrap_err(), Errno(libc::EINVAL));
        // What lies beyond the end of the file is an error too, not a signal.
        set_len(fd.raw(), 4096).unwrap();
        assert_eq!(m.populate(4096 * 2, 1).unwrap_err(), Errno(libc::ENOSPC));
        // SAFETY: as above.
        let r = touch(unsafe { m.addr().add(4096 * 2) }, 1);
        assert_eq!(r.unwrap_err(), Errno(libc::ENOSPC));
    }

    #[test]
    fn the_word_is_wiped_in_a_forked_child_and_in_its_child() {
        let w = wipe_on_fork_word().unwrap();
        w.store(7, SeqCst);
        // SAFETY: the children only load, store, fork, wait and leave.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let ok = w.load(SeqCst) == 0;
                w.store(9, SeqCst);
                let pid = libc::fork();
                if pid == 0 {
                    libc::_exit(i32::from(w.load(SeqCst) != 0));
                }
                let mut st = 0;
                libc::waitpid(pid, &mut st, 0);
                libc::_exit(i32::from(!(ok && st == 0)));
            }
            let mut st = 0;
            libc::waitpid(pid, &mut st, 0);
            assert_eq!(st, 0);
        }
        assert_eq!(w.load(SeqCst), 7);
    }
}
