//! What a call stores of its arguments: their values, unaligned, one after the other.
#![allow(unsafe_code)] // Payloads are written through raw pointers, into shared memory.

use super::Site;
use crate::layout::site::{MAX_ARGS, ty};

mod sealed {
    /// The writer believes `encoded_len` and `put`, so only this module implements [`super::Arg`] and
    /// [`super::Args`]. (A type of one's own implements [`super::Capture`].)
    pub trait Sealed {}
}

/// A captured argument: a number, a truth value, a character, or a string's address and length.
pub trait Arg: Copy + sealed::Sealed {
    /// Its type code ([`ty`]).
    const TYPE: u8;
    /// Bytes that [`put`](Arg::put) writes; known at compile time for all but strings.
    fn encoded_len(&self) -> usize;
    /// Writes it, answers where it ends. Async-signal-safe.
    ///
    /// # Safety
    /// `dst` is valid for writes of [`encoded_len`](Arg::encoded_len) bytes.
    unsafe fn put(&self, dst: *mut u8) -> *mut u8;
}

/// What may stand as an argument of a log call.
///
/// Capturing comes first and reads each value once: a string whose length changed between being
/// measured and being copied could not write past the room that was made for it.
///
/// A type of one's own is captured as what it holds; a log call inside a signal handler is then as
/// async-signal-safe as this method:
/// ```
/// struct Order(u64);
/// impl spillring::record::Capture for Order {
///     type Raw<'a> = u64;
///     fn capture(&self) -> u64 {
///         self.0
///     }
/// }
/// spillring::info!("order {}", Order(7));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a log call",
    label = "pass a number, bool, char or string, a reference to one, or what it shows: `%value`, `?value`",
    note = "or implement `spillring::record::Capture` for it"
)]
pub trait Capture {
    /// What is stored.
    type Raw<'a>: Arg
    where
        Self: 'a;
    /// Reads the value, once.
    fn capture(&self) -> Self::Raw<'_>;
}

macro_rules! scalar {
    ($($t:ty: $code:ident, |$v:ident| $bytes:expr;)*) => {$(
        impl sealed::Sealed for $t {}
        impl Arg for $t {
            const TYPE: u8 = ty::$code;
            #[inline(always)]
            fn encoded_len(&self) -> usize {
                size_of::<$t>()
            }
            #[inline(always)]
            unsafe fn put(&self, dst: *mut u8) -> *mut u8 {
                let $v = *self;
                let bytes: [u8; size_of::<$t>()] = $bytes;
                // SAFETY: the caller gives room for `encoded_len` bytes, which is the length of `bytes`.
                unsafe {
                    dst.cast::<[u8; size_of::<$t>()]>().write_unaligned(bytes);
                    dst.add(size_of::<$t>())
                }
            }
        }
        impl Capture for $t {
            type Raw<'a> = $t;
            #[inline(always)]
            fn capture(&self) -> $t {
                *self
            }
        }
    )*};
}

scalar! {
    i8: I8, |v| v.to_le_bytes();
    i16: I16, |v| v.to_le_bytes();
    i32: I32, |v| v.to_le_bytes();
    i64: I64, |v| v.to_le_bytes();
    i128: I128, |v| v.to_le_bytes();
    isize: I64, |v| v.to_le_bytes();
    u8: U8, |v| v.to_le_bytes();
    u16: U16, |v| v.to_le_bytes();
    u32: U32, |v| v.to_le_bytes();
    u64: U64, |v| v.to_le_bytes();
    u128: U128, |v| v.to_le_bytes();
    usize: U64, |v| v.to_le_bytes();
    f32: F32, |v| v.to_le_bytes();
    f64: F64, |v| v.to_le_bytes();
    bool: BOOL, |v| [v as u8];
    char: CHAR, |v| (v as u32).to_le_bytes();
}

impl sealed::Sealed for &str {}
impl Arg for &str {
    const TYPE: u8 = ty::STR;
    #[inline(always)]
    fn encoded_len(&self) -> usize {
        4 + self.len()
    }
    /// The length field is 32 bits: no record is as long as that, so the writer has refused a longer string.
    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) -> *mut u8 {
        let len = self.len();
        // SAFETY: the caller gives room for 4 + len bytes; a string slice never overlaps memory that is
        // being written, and its length is in this very reference, a copy that nobody else can change.
        unsafe {
            dst.cast::<[u8; 4]>().write_unaligned((len as u32).to_le_bytes());
            let to = dst.add(4);
            core::ptr::copy_nonoverlapping(self.as_ptr(), to, len);
            to.add(len)
        }
    }
}

/// A string's bytes, where nobody has checked that they are text, or they are none (dynamic fields).
impl sealed::Sealed for &[u8] {}
impl Arg for &[u8] {
    const TYPE: u8 = ty::STR;
    #[inline(always)]
    fn encoded_len(&self) -> usize {
        4 + self.len()
    }
    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) -> *mut u8 {
        // SAFETY: by the caller. What is done with a string's bytes asks nothing of them, and the slice is
        // not read as a string.
        unsafe {
            dst.cast::<[u8; 4]>().write_unaligned((self.len() as u32).to_le_bytes());
            let to = dst.add(4);
            core::ptr::copy_nonoverlapping(self.as_ptr(), to, self.len());
            to.add(self.len())
        }
    }
}

impl Capture for str {
    type Raw<'a> = &'a str;
    #[inline(always)]
    fn capture(&self) -> &str {
        self
    }
}

impl Capture for String {
    type Raw<'a> = &'a str;
    #[inline(always)]
    fn capture(&self) -> &str {
        self
    }
}

impl<T: Capture + ?Sized> Capture for &T {
    type Raw<'a>
        = T::Raw<'a>
    where
        Self: 'a;
    #[inline(always)]
    fn capture(&self) -> T::Raw<'_> {
        (**self).capture()
    }
}

impl<T: Capture + ?Sized> Capture for &mut T {
    type Raw<'a>
        = T::Raw<'a>
    where
        Self: 'a;
    #[inline(always)]
    fn capture(&self) -> T::Raw<'_> {
        (**self).capture()
    }
}

/// The captured arguments of one call: a tuple of 0 to 16.
pub trait Args: Copy + sealed::Sealed {
    /// Their type codes, in order.
    const TYPES: &'static [u8];
    /// The same in one word, four bits each, the first one lowest. Two lists of one length are the same
    /// exactly if their signatures are.
    const SIGNATURE: u64;
    /// Bytes that [`put`](Args::put) writes; known at compile time when there is no string.
    fn encoded_len(&self) -> usize;
    /// Writes the payload, answers where it ends. Async-signal-safe.
    ///
    /// # Safety
    /// `dst` is valid for writes of [`encoded_len`](Args::encoded_len) bytes.
    unsafe fn put(&self, dst: *mut u8) -> *mut u8;
    /// Calls [`Apart::call`] in a function of its own, which gets the arguments one by one: a call site hands them
    /// over in registers, and neither stores them nor has anything to do when it returns.
    fn apart<T: Apart>(self, site: &'static Site, word: usize);
}

/// What is done with the arguments of a call that has left the usual way.
pub trait Apart {
    /// Does it. `word` is what the call site gave.
    fn call<A: Args>(site: &'static Site, word: usize, args: A);
}

const fn signature(types: &[u8]) -> u64 {
    assert!(types.len() <= MAX_ARGS && MAX_ARGS * 4 <= 64);
    let mut word = 0;
    let mut i = 0;
    while i < types.len() {
        assert!(types[i] >= 1 && types[i] <= 15);
        word |= (types[i] as u64) << (4 * i);
        i += 1;
    }
    word
}

macro_rules! tuples {
    (@ [$($done:tt)*] $t:ident $i:tt $($rest:tt)*) => {
        tuples!(@ [$($done)*]);
        tuples!(@ [$($done)* $t $i] $($rest)*);
    };
    (@ [$($t:ident $i:tt)*]) => {
        impl<$($t: Arg),*> sealed::Sealed for ($($t,)*) {}
        impl<$($t: Arg),*> Args for ($($t,)*) {
            const TYPES: &'static [u8] = &[$($t::TYPE),*];
            const SIGNATURE: u64 = signature(Self::TYPES);
            #[inline(always)]
            fn encoded_len(&self) -> usize {
                0 $(+ self.$i.encoded_len())*
            }
            #[inline(always)]
            unsafe fn put(&self, dst: *mut u8) -> *mut u8 {
                // SAFETY: the caller gives room for the sum of all lengths, and each argument starts where
                // the one before it ends.
                $(let dst = unsafe { self.$i.put(dst) };)*
                dst
            }
            #[inline(always)]
            fn apart<To: Apart>(self, site: &'static Site, word: usize) {
                #[cold]
                #[inline(never)]
                #[allow(non_snake_case, clippy::too_many_arguments)]
                fn apart<To: Apart, $($t: Arg),*>(site: &'static Site, word: usize, $($t: $t),*) {
                    To::call(site, word, ($($t,)*));
                }
                apart::<To, $($t),*>(site, word, $(self.$i),*);
            }
        }
    };
}

tuples!(@ [] A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11 M 12 N 13 O 14 P 15);
