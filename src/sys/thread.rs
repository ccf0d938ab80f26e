//! Threads and waiting. Everything here is async-signal-safe.

use super::Errno;
use super::errno::check;
use crate::sync::AtomicU32;
use std::time::Duration;

pub(super) fn timespec(d: Duration) -> libc::timespec {
    libc::timespec { tv_sec: d.as_secs().min(i64::MAX as u64) as _, tv_nsec: d.subsec_nanos() as _ }
}

/// Waits until somebody wakes `word`, across processes, or `timeout` has passed; returns at once if the
/// word is not `expected`. May return early: look again.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let ts = timespec(timeout);
    // SAFETY: the word and the time are valid for the call. Not FUTEX_PRIVATE: it is shared.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, expected, &ts) };
}

/// Wakes up to `n` waiters of `word`; answers how many. 15 µs on a virtual machine.
pub fn futex_wake(word: &AtomicU32, n: u32) -> u32 {
    // SAFETY: the word is valid for the call.
    let r = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, n.min(i32::MAX as u32)) };
    check(r).unwrap_or(0) as u32
}

/// Sleeps for `d`, or less if a signal comes.
pub fn nanosleep(d: Duration) {
    let ts = timespec(d);
    // SAFETY: the time is valid for the call.
    unsafe { libc::nanosleep(&ts, std::ptr::null_mut()) };
}

/// Binds this thread to one processor.
///
/// # Errors
/// EINVAL: no such processor, or not one that this process may use.
pub fn set_affinity(cpu: usize) -> Result<(), Errno> {
    // SAFETY: a cpu_set_t is plain bits; CPU_SET checks `cpu` against its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(Errno(libc::EINVAL));
        }
        libc::CPU_SET(cpu, &mut set);
        check(libc::sched_setaffinity(0, size_of_val(&set), &set)).map(drop)
    }
}

/// Blocks all signals in this thread, so that the program's handlers never run on it. Not those a fault
/// raises: blocked, they would kill instead of reaching the guard of foreign mappings.
pub fn block_signals() -> Result<(), Errno> {
    // SAFETY: sigset_t is filled before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for sig in [libc::SIGBUS, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS] {
            libc::sigdelset(&mut set, sig);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(()),
            e => Err(Errno(e)),
        }
    }
}

/// All signals blocked in the calling thread, and in threads it starts meanwhile; as before when dropped.
pub struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    /// Blocks them.
    pub fn new() -> SignalsBlocked {
        // SAFETY: both sets are filled in by the calls before they are read.
        unsafe {
            let (mut all, mut old) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut old);
            SignalsBlocked(old)
        }
    }
}

impl Default for SignalsBlocked {
    fn default() -> Self {
        SignalsBlocked::new()
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set that was there before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// pthread_cancel of the calling thread waits until this is dropped. Async-signal-safe.
pub struct CancelDisabled(i32);

impl CancelDisabled {
    /// From here on.
    pub fn new() -> CancelDisabled {
        let mut old = 0;
        // SAFETY: writes the old state; 1 is PTHREAD_CANCEL_DISABLE in glibc and musl.
        unsafe { pthread_setcancelstate(1, &mut old) };
        CancelDisabled(old)
    }
}

impl Default for CancelDisabled {
    fn default() -> Self {
        CancelDisabled::new()
    }
}

impl Drop for CancelDisabled {
    fn drop(&mut self) {
        // SAFETY: the state that was there before.
        unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
    }
}

unsafe extern "C" {
    // Not in the libc crate.
    fn pthread_setcancelstate(state: i32, old: *mut i32) -> i32;
}

/// Lets everybody else go first: for work that nobody waits for. The calling thread alone.
pub fn be_nice() {
    // SAFETY: plain numbers; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Whether this process runs at normal priority or better: not niced, no batch or idle class.
pub fn normal_priority() -> bool {
    // SAFETY: plain numbers.
    unsafe {
        let class = libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK;
        class != libc::SCHED_IDLE
            && class != libc::SCHED_BATCH
            && libc::getpriority(libc::PRIO_PROCESS, 0) <= 0
    }
}

const QUERY: i32 = 0;
const GLOBAL: i32 = 1;
const GLOBAL_EXPEDITED: i32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;

fn membarrier_call(command: i32) -> Result<i64, Errno> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) })
}

/// Declares this process a target of [`membarrier`] (a writer, at attach). False where it can't be had.
pub fn membarrier_register() -> bool {
    membarrier_call(REGISTER_GLOBAL_EXPEDITED).is_ok()
}

/// A full fence on every running thread of all registered processes (0.5 µs): the waiting side's half
/// of a pair whose other half is a compiler fence.
pub fn membarrier() -> Result<(), Errno> {
    membarrier_call(GLOBAL_EXPEDITED).map(drop)
}

/// The same on every thread of the machine, registered or not: milliseconds.
pub fn membarrier_all() -> Result<(), Errno> {
    membarrier_call(GLOBAL).map(drop)
}

/// Whether [`membarrier`] is available.
pub fn has_membarrier() -> bool {
    membarrier_call(QUERY).is_ok_and(|m| m & i64::from(GLOBAL_EXPEDITED) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering::SeqCst;
    use std::time::Instant;

    #[test]
    fn futex_waits_wakes_and_times_out() {
        let w = AtomicU32::new(0);
        let t = Instant::now();
        futex_wait(&w, 0, Duration::from_millis(20));
        assert!(t.elapsed() >= Duration::from_millis(19));
        let t = Instant::now();
        futex_wait(&w, 1, Duration::from_secs(60));
        std::thread::scope(|s| {
            s.spawn(|| {
                while w.load(SeqCst) == 0 {
                    futex_wait(&w, 0, Duration::from_secs(60));
                }
            });
            nanosleep(Duration::from_millis(5));
            w.store(1, SeqCst);
            futex_wake(&w, u32::MAX);
        });
        assert!(t.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn affinity_and_signals() {
        std::thread::spawn(|| {
            // SAFETY: asks for the present processor.
            set_affinity(unsafe { libc::sched_getcpu() } as usize).unwrap();
            assert_eq!(set_affinity(100_000).unwrap_err(), Errno(libc::EINVAL));
            block_signals().unwrap();
            // SAFETY: the set is filled by the call.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
                assert_eq!(libc::sigismember(&set, libc::SIGTERM), 1);
                assert_eq!(libc::sigismember(&set, libc::SIGBUS), 0);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn membarrier_where_there_is_one() {
        if has_membarrier() {
            assert!(membarrier_register());
            membarrier().unwrap();
        }
    }
}
