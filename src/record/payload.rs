//! Sites and arguments that are described at run time: what callers from other languages have.
#![allow(unsafe_code)] // Payloads are written through raw pointers, into shared memory.

use super::SiteFacts;
use crate::sync::{AtomicU32, Ordering};

/// The arguments of one call, in the form in which they are stored: see [`crate::layout::site::ty`].
///
/// # Safety
/// [`put`](Payload::put) writes exactly [`len`](Payload::len) bytes from `dst` on, and nothing from the next
/// multiple of 8 on; `len` is the same each time.
#[allow(clippy::len_without_is_empty)] // of no use
pub unsafe trait Payload: Copy {
    /// Bytes of the payload.
    fn len(&self) -> usize;
    /// Writes it. Async-signal-safe.
    ///
    /// # Safety
    /// `dst` is a multiple of 8 and valid for writes of `len` bytes, rounded up to a multiple of 8.
    unsafe fn put(&self, dst: *mut u8);
}

/// Arguments whose length shows while they are written.
///
/// # Safety
/// [`put`](OpenPayload::put) writes to the [`most`](OpenPayload::most) bytes from `dst` on and the [`BEFORE`] bytes
/// before it only, and what it answers is, rounded up to a multiple of 8, at most `most`.
pub unsafe trait OpenPayload: Copy {
    /// The room that it takes to write them.
    fn most(&self) -> usize;
    /// Writes them, and anything to the rest of the room. Answers their bytes. None: they would be too many.
    /// Async-signal-safe.
    ///
    /// # Safety
    /// `dst` is a multiple of 8, valid for writes of `most` bytes, and so are the [`BEFORE`] bytes before it, which get
    /// what they are to hold after that.
    unsafe fn put(&self, dst: *mut u8) -> Option<usize>;
}

/// Bytes that an [`OpenPayload`] may also write, before itself: less than a record's header.
pub const BEFORE: usize = 16;

/// The number of a site's entry in the ring of this process, for a site that is described at run time. Its
/// facts never change.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct SiteId(AtomicU32);

impl SiteId {
    /// No entry yet.
    pub const fn new() -> SiteId {
        SiteId(AtomicU32::new(0))
    }

    /// The entry's number, 0 = none. Async-signal-safe.
    #[inline(always)]
    pub fn get(&self) -> u32 {
        // Acquire, pairs with `set`: whoever stores this number in a record has the entry published before it.
        self.0.load(Ordering::Acquire)
    }

    /// Says that the entry is written. The first one stays: both say the same.
    pub(crate) fn set(&self, id: u32) {
        let _ = self.0.compare_exchange(0, id, Ordering::Release, Ordering::Relaxed);
    }
}

/// What is stored of a site that has no entry, in front of each of its payloads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inline<'a> {
    pub facts: Option<&'a SiteFacts<'a>>,
    pub len: u64,
}
