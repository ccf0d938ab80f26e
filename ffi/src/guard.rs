//! No panic crosses, and what went wrong can be asked for.

use crate::codes;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// Runs the body of an exported function. With the feature `panic-test` it panics.
#[inline(always)]
pub fn guard(f: impl FnOnce() -> i32) -> c_int {
    let body = AssertUnwindSafe(|| {
        if cfg!(feature = "panic-test") {
            panic!("panic-test");
        }
        f()
    });
    match catch_unwind(body) {
        Ok(code) => code,
        Err(why) => {
            // Dropping it may panic again.
            std::mem::forget(why);
            codes::PANIC
        }
    }
}

/// The calling thread's message, by the C library's keys: `thread_local!` would take static thread-local storage of
/// every program, for errors alone. Used by functions that may block only, never by a log call.
fn message_key() -> Option<libc::pthread_key_t> {
    unsafe extern "C" fn free(p: *mut c_void) {
        // SAFETY: what `message` has put there; the C library has forgotten it.
        drop(unsafe { Box::from_raw(p.cast::<String>()) });
    }
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: writes the key; the function stays in memory: the library is linked nodelete.
        (unsafe { libc::pthread_key_create(&mut key, Some(free)) } == 0).then_some(key)
    })
}

/// Remembers what went wrong, and answers its code.
pub fn failed(e: &spillring::Error) -> i32 {
    message(e.code as i32, &e.message)
}

/// The same for what only this crate knows.
pub fn message(code: i32, text: &str) -> i32 {
    let Some(key) = message_key() else { return code };
    // SAFETY: the key is ours. What stands there is this thread's String, and nobody else has it.
    unsafe {
        let there = libc::pthread_getspecific(key).cast::<String>();
        if let Some(m) = there.as_mut() {
            m.clear();
            m.push_str(text);
            return code;
        }
        let new = Box::into_raw(Box::new(text.to_string()));
        if libc::pthread_setspecific(key, new.cast()) != 0 {
            drop(Box::from_raw(new));
        }
    }
    code
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_strerror(code: c_int) -> *const c_char {
    let mut found: *const c_char = c"unknown code".as_ptr();
    let result = guard(|| {
        if let Some((.., text)) = codes::TABLE.iter().find(|c| c.0 == code) {
            found = text.as_ptr();
        }
        codes::OK
    });
    if result != codes::OK {
        // It answers no code, so it answers that code's text.
        found = c"something in libspillring panicked, which is a bug of it".as_ptr();
    }
    found
}

/// See the header.
///
/// # Safety
/// `buffer` has room for `size` bytes; `needed` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_error_message(buffer: *mut c_char, size: usize, needed: *mut usize) -> c_int {
    guard(|| {
        if buffer.is_null() {
            return codes::NULL;
        }
        // SAFETY: as in `message`.
        let text = message_key()
            .and_then(|key| unsafe { libc::pthread_getspecific(key).cast::<String>().as_ref() })
            .map_or("", String::as_str);
        if !needed.is_null() {
            // SAFETY: by the caller.
            unsafe { needed.write(text.len() + 1) };
        }
        if size == 0 {
            return codes::SIZE;
        }
        let n = text.len().min(size - 1);
        // SAFETY: `size` bytes, by the caller.
        unsafe {
            core::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), n);
            buffer.add(n).write(0);
        }
        codes::OK
    })
}
