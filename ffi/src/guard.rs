//! No panic crosses, and what went wrong can be asked for.

use crate::codes;
use std::cell::RefCell;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

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

thread_local! {
    // Used by functions that may block only, never by a log call.
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Remembers what went wrong, and answers its code.
pub fn failed(e: &spillring::Error) -> i32 {
    message(e.code as i32, &e.message)
}

/// The same for what only this crate knows.
pub fn message(code: i32, text: &str) -> i32 {
    let _ = MESSAGE.try_with(|m| {
        if let Ok(mut m) = m.try_borrow_mut() {
            m.clear();
            m.push_str(text);
        }
    });
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
        let text =
            MESSAGE.try_with(|m| m.try_borrow().map(|m| m.clone()).unwrap_or_default()).unwrap_or_default();
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
