//! Whether the code that runs was called by a signal handler.
#![allow(unsafe_code)]

use std::ffi::c_void;

unsafe extern "C-unwind" {
    // Of the unwinder that std itself is linked with.
    fn _Unwind_Backtrace(
        each: extern "C-unwind" fn(*mut c_void, *mut c_void) -> i32,
        data: *mut c_void,
    ) -> i32;
    fn _Unwind_GetIPInfo(context: *mut c_void, before: *mut i32) -> usize;
}
const GO_ON: i32 = 0;
const STOP: i32 = 4;
const END_OF_STACK: i32 = 5;

extern "C-unwind" fn look(context: *mut c_void, found: *mut c_void) -> i32 {
    let mut interrupted = 0;
    // SAFETY: the unwinder's own context, and a variable of ours.
    unsafe { _Unwind_GetIPInfo(context, &mut interrupted) };
    if interrupted == 0 {
        return GO_ON;
    }
    // SAFETY: `found` is the variable that `in_signal_handler` gave.
    unsafe { found.cast::<bool>().write(true) };
    STOP
}

/// Whether a signal handler of this thread is under way: one of the callers was not called but interrupted.
///
/// Nothing that the kernel tells a process says so; the stack does, and the unwinder can read it, because
/// the frame that a handler returns to is marked. Some microseconds. As async-signal-safe as the unwinder:
/// where the C library is older than glibc 2.35 it takes the loader's lock. Where the stack cannot be read to
/// its end, a thread with any signal blocked counts as one in a handler.
#[inline(never)]
pub fn in_signal_handler() -> bool {
    let mut found = false;
    // SAFETY: the callback keeps to the unwinder's protocol, and does not unwind.
    let end = unsafe { _Unwind_Backtrace(look, (&raw mut found).cast()) };
    found || on_signal_stack() || end != END_OF_STACK && any_signal_blocked()
}

fn on_signal_stack() -> bool {
    // SAFETY: asks only, and writes into a variable of ours.
    unsafe {
        let mut now: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &mut now) == 0 && now.ss_flags & libc::SS_ONSTACK != 0
    }
}

fn any_signal_blocked() -> bool {
    // SAFETY: asks only, and writes into a variable of ours.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
        (1..=64).any(|s| libc::sigismember(&mask, s) == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{AtomicU32, Ordering::Relaxed};

    static SEEN: AtomicU32 = AtomicU32::new(0);

    extern "C" fn handler(_: i32) {
        SEEN.fetch_add(if in_signal_handler() { 1 } else { 100 }, Relaxed);
    }

    #[test]
    fn a_handler_knows_that_it_is_one() {
        assert!(!in_signal_handler());
        for flags in [0, libc::SA_NODEFER, libc::SA_ONSTACK, libc::SA_RESETHAND | libc::SA_NODEFER] {
            // SAFETY: the handler reads its stack and counts; SIGURG is nobody else's here.
            unsafe {
                let mut a: libc::sigaction = std::mem::zeroed();
                a.sa_sigaction = handler as *const () as usize;
                a.sa_flags = flags;
                libc::sigaction(libc::SIGURG, &a, std::ptr::null_mut());
                libc::raise(libc::SIGURG);
            }
        }
        assert_eq!(SEEN.load(Relaxed), 4);
        // Blocked signals alone make no handler.
        let _blocked = crate::sys::thread::SignalsBlocked::new();
        assert!(!in_signal_handler());
        assert!(!std::thread::spawn(in_signal_handler).join().unwrap());
    }
}
