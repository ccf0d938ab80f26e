//! Text that is made at the call: values that only know how to show themselves.
#![allow(unsafe_code)] // What was written of uninitialised memory is read.

use std::fmt::{self, Write};
use std::mem::MaybeUninit;

/// Limit: bytes of text that a value (`%value`, `?value`, a message with captured variables) may have in a
/// record. Of longer text the beginning is kept, and says how many bytes were cut.
pub const MAX_TEXT: usize = 4096;

/// Bytes for what is said behind a text: `" (18446744073709551615 bytes cut)"`, and that it failed.
const REMARK: usize = 64;

/// Room for one text, on the stack.
pub type TextRoom = [MaybeUninit<u8>; MAX_TEXT + REMARK];

/// An empty [`TextRoom`].
pub const TEXT_ROOM: TextRoom = [MaybeUninit::uninit(); MAX_TEXT + REMARK];

/// Writes text into memory of the caller's: no allocation, no lock. What does not fit is counted.
struct Writer<'b> {
    room: &'b mut [MaybeUninit<u8>],
    limit: usize,
    /// Bytes of `room` that are written: whole characters.
    len: usize,
    cut: usize,
}

impl Write for Writer<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        // Once something was cut, nothing follows: what comes behind a gap would read as if it belonged there.
        let mut n = if self.cut > 0 { 0 } else { s.len().min(self.limit - self.len) };
        while !s.is_char_boundary(n) {
            n -= 1;
        }
        let to = &mut self.room[self.len..self.len + n];
        // SAFETY: `to` has `n` bytes, as many as there are in `s` at least; it is borrowed, so `s` lies elsewhere.
        unsafe { core::ptr::copy_nonoverlapping(s.as_ptr(), to.as_mut_ptr().cast(), n) };
        self.len += n;
        self.cut = self.cut.saturating_add(s.len() - n);
        Ok(())
    }
}

/// The text of `value`, in `room`: at most its length less 64 bytes of it, then how many were cut. Nothing
/// where there is no room for as much.
///
/// As async-signal-safe as the values' own `fmt`. A panic in one goes through here to the caller.
pub fn text_in<'b>(value: fmt::Arguments<'_>, room: &'b mut [MaybeUninit<u8>]) -> &'b str {
    let Some(limit) = room.len().checked_sub(REMARK) else { return "" };
    let mut w = Writer { room, limit, len: 0, cut: 0 };
    let failed = w.write_fmt(value).is_err();
    let cut = w.cut;
    (w.limit, w.cut) = (w.room.len(), 0);
    if cut > 0 {
        let _ = write!(w, " ({cut} bytes cut)");
    }
    if failed {
        let _ = w.write_str(" (its formatting failed)");
    }
    let Writer { room, len, .. } = w;
    // SAFETY: `write_str` has written the first `len` bytes, all of them whole characters of strings.
    unsafe {
        let bytes = core::slice::from_raw_parts(room.as_ptr().cast::<u8>(), len);
        core::str::from_utf8_unchecked(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_and_says_so() {
        let text = |n: usize| {
            let (mut room, long) = (TEXT_ROOM, "x".repeat(n));
            text_in(format_args!("<{long}>"), &mut room).to_string()
        };
        assert_eq!(text(3), "<xxx>");
        assert_eq!(text(MAX_TEXT - 2).len(), MAX_TEXT);
        assert_eq!(text(MAX_TEXT - 1), format!("<{} (1 bytes cut)", "x".repeat(MAX_TEXT - 1)));
        assert!(text(10_000).ends_with("x (5906 bytes cut)"));
        // Whole characters only; and nothing behind what was cut.
        let mut room = [MaybeUninit::uninit(); REMARK + 4];
        assert_eq!(text_in(format_args!("abc{}d", "\u{e9}"), &mut room), "abc (3 bytes cut)");
        let mut none = [MaybeUninit::uninit(); 3];
        assert_eq!(text_in(format_args!("abc"), &mut none), "");
    }

    #[test]
    fn a_value_that_fails_says_so() {
        struct Fails;
        impl fmt::Display for Fails {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("half")?;
                Err(fmt::Error)
            }
        }
        let mut room = TEXT_ROOM;
        assert_eq!(text_in(format_args!("a {Fails} b"), &mut room), "a half (its formatting failed)");
    }
}
