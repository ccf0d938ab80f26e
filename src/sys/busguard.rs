//! SIGBUS protection for mappings of files that somebody else can cut short.
//!
//! The handler, installed once a process, looks whether the address lies in a registered range; if so
//! it puts zero pages over the rest of that range and marks its slot, so that the access (a load or
//! a store) goes on, on memory that nobody shares, and the owner of the range sees the mark and gives
//! the file up. Any other SIGBUS goes to whoever handled it before. A program that replaces the handler
//! afterwards takes the protection away.
//!
//! | pair | store | load |
//! |---|---|---|
//! | slot | `start` (release) after `end` | handler: `start` (acquire), `end`, `start` again |

use super::mem::page_size;
use super::{Errno, SavedErrno};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicBool, AtomicUsize};
use std::sync::Once;

/// Limit: guarded mappings a process (two for each producer that a drain has open).
pub const MAX_SLOTS: usize = 8192;

const FREE: usize = 0;
const TAKEN: usize = 1;

struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    hit: AtomicBool,
}

static TABLE: [Entry; MAX_SLOTS] = [const {
    Entry { start: AtomicUsize::new(FREE), end: AtomicUsize::new(0), hit: AtomicBool::new(false) }
}; MAX_SLOTS];
/// Slots at or above it were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
static PAGE_SIZE: AtomicUsize = AtomicUsize::new(4096);

/// What handled SIGBUS before: the handler's address (SIG_DFL, SIG_IGN) and whether it takes a siginfo.
static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static PREVIOUS_SIGINFO: AtomicBool = AtomicBool::new(false);

/// One guarded range; dropped, it is guarded no more.
#[derive(Debug)]
pub struct Slot(usize);

impl Slot {
    /// Whether the handler has put zeros over some of the range.
    pub fn hit(&self) -> bool {
        TABLE[self.0].hit.load(Acquire)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        TABLE[self.0].start.store(FREE, Release);
    }
}

/// Guards `[addr, addr + len)`, a mapping of the caller's. Installs the handler the first time (not
/// async-signal-safe then).
///
/// # Errors
/// ENOMEM when all [`MAX_SLOTS`] are taken; what sigaction says.
pub fn register(addr: usize, len: usize) -> Result<Slot, Errno> {
    install()?;
    for (i, e) in TABLE.iter().enumerate() {
        if e.start.load(Relaxed) == FREE && e.start.compare_exchange(FREE, TAKEN, AcqRel, Relaxed).is_ok() {
            e.hit.store(false, Relaxed);
            e.end.store(addr + len, Relaxed);
            USED.fetch_max(i + 1, Relaxed);
            e.start.store(addr, Release);
            return Ok(Slot(i));
        }
    }
    Err(Errno(libc::ENOMEM))
}

fn install() -> Result<(), Errno> {
    static ONCE: Once = Once::new();
    static FAILED: AtomicUsize = AtomicUsize::new(0);
    ONCE.call_once(|| {
        PAGE_SIZE.store(page_size() as usize, Relaxed);
        // SAFETY: plain calls with valid structs; the handler is async-signal-safe. The previous action is
        // known before ours can run.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut old);
            PREVIOUS_SIGINFO.store(old.sa_flags & libc::SA_SIGINFO != 0, Relaxed);
            PREVIOUS.store(old.sa_sigaction, Release);
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = on_sigbus as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&mut new.sa_mask);
            if libc::sigaction(libc::SIGBUS, &new, std::ptr::null_mut()) != 0 {
                FAILED.store(Errno::last().0 as usize, Relaxed);
            }
        }
    });
    match FAILED.load(Relaxed) {
        0 => Ok(()),
        e => Err(Errno(e as i32)),
    }
}

extern "C" fn on_sigbus(sig: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let _keep = SavedErrno::save();
    // SAFETY: the kernel hands over a valid siginfo; si_addr is meaningful for codes above 0.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code > 0 && cover(addr) {
        return;
    }
    chain(sig, code, info, context);
}

/// Zero pages from `addr`'s page to the end of the guarded range that holds it.
fn cover(addr: usize) -> bool {
    for e in &TABLE[..USED.load(Relaxed).min(MAX_SLOTS)] {
        let start = e.start.load(Acquire);
        let end = e.end.load(Relaxed);
        if start <= TAKEN || addr < start || addr >= end || e.start.load(Acquire) != start {
            continue;
        }
        let page = addr & !(PAGE_SIZE.load(Relaxed) - 1);
        e.hit.store(true, Release);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the range belongs to a mapping that was registered by its owner and is still mapped,
        // since this thread is accessing it. All of it from the page on, in one piece: page by page
        // the number of mappings would grow with what is read.
        let p = unsafe { libc::mmap(page as *mut _, end - page, prot, flags, -1, 0) };
        return p != libc::MAP_FAILED;
    }
    false
}

fn chain(sig: i32, code: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(Acquire);
    if previous == libc::SIG_IGN && code <= 0 {
        return; // sent by a process, and ignored before
    }
    if previous == libc::SIG_DFL || previous == libc::SIG_IGN {
        // SAFETY: back to the default; the access is repeated and kills, or the signal that was sent is
        // sent again and delivered when this handler returns.
        unsafe {
            libc::signal(sig, libc::SIG_DFL);
            if code <= 0 {
                libc::raise(sig);
            }
        }
    } else if PREVIOUS_SIGINFO.load(Relaxed) {
        // SAFETY: it was installed as a handler of this signature.
        let f: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(previous) };
        f(sig, info, context);
    } else {
        // SAFETY: as above.
        let f: extern "C" fn(i32) = unsafe { std::mem::transmute(previous) };
        f(sig);
    }
}

#[cfg(test)]
mod tests {
    use crate::sync::Ordering::SeqCst;
    use crate::sys::file::{allocate, create_excl, fstat, set_len};
    use crate::sys::{FixedPath, Map};
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_file_cut_short_under_loads_and_stores_kills_nobody() {
        let d = tempfile::tempdir_in("/dev/shm").unwrap();
        let p = FixedPath::from_bytes(d.path().as_os_str().as_bytes()).unwrap();
        let new = |name: &[u8]| {
            let fd = create_excl(&p.join(name).unwrap(), 0o600).unwrap();
            allocate(fd.raw(), 0, 4 * 4096).unwrap();
            let mut m = Map::shared(fd.raw(), 4 * 4096, true).unwrap();
            m.guard().unwrap();
            (fd, m)
        };
        let ((fa, a), (_fb, b)) = (new(b"a"), new(b"b"));
        for m in [&a, &b] {
            for page in 0..4 {
                m.word(page * 4096).store(page + 1, SeqCst);
            }
        }
        set_len(fa.raw(), 4096).unwrap();
        assert!(!a.hit());
        assert_eq!(a.word(2 * 4096).load(SeqCst), 0);
        assert!(a.hit() && !b.hit());
        a.word(4096).store(5, SeqCst);
        assert_eq!(a.word(4096).load(SeqCst), 5);
        assert_eq!(a.word(0).load(SeqCst), 1);
        assert_eq!(b.word(2 * 4096).load(SeqCst), 3);
        // The store went to memory of our own, not to the file.
        assert_eq!(fstat(fa.raw()).unwrap().size, 4096);
    }

    #[test]
    fn a_fault_that_is_not_ours_still_kills() {
        let d = tempfile::tempdir_in("/dev/shm").unwrap();
        let p = FixedPath::from_bytes(d.path().as_os_str().as_bytes()).unwrap();
        let fd = create_excl(&p.join(b"x").unwrap(), 0o600).unwrap();
        allocate(fd.raw(), 0, 4096).unwrap();
        let mut guarded = Map::shared(fd.raw(), 4096, false).unwrap();
        guarded.guard().unwrap();
        let bare = Map::shared(fd.raw(), 4096, false).unwrap();
        set_len(fd.raw(), 0).unwrap();
        // SAFETY: the child only loads.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                bare.word(0).load(SeqCst);
                libc::_exit(0);
            }
            let mut st = 0;
            libc::waitpid(pid, &mut st, 0);
            assert!(libc::WIFSIGNALED(st) && libc::WTERMSIG(st) == libc::SIGBUS, "{st:#x}");
        }
    }
}
