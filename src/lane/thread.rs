//! The thread lane: a byte ring with one writing thread. It holds no holes: a record exists from
//! the instant its tail store is visible, and nothing exists before.

use super::{Record, call::Local, round8};
use crate::layout::ring::record;
use crate::sync::{Bytes, Ordering::*, Word};

/// Low bits of `WRITTEN`: what of the tail the count belongs to.
const TAG: u64 = (1 << 23) - 1;
/// In `WRITTEN`: the last publication was a record (and not a note of the lane's own).
const COUNTED: u64 = 1 << 23;
const ONE: u64 = 1 << 24;

/// The words of one thread lane, as its owner sees them.
pub struct ThreadLane<'a, W, B> {
    /// Position behind the last published record.
    pub tail: &'a W,
    /// Count of records with the tag of the tail that it belongs to.
    pub written: &'a W,
    /// Cumulative loss.
    pub lost: &'a W,
    /// Loss as of the last marker.
    pub marked: &'a W,
    /// What the drain has released (in `P.ack`).
    pub released: &'a W,
    /// The ring of bytes.
    pub data: &'a B,
    /// Its capacity, a power of two.
    pub capacity: u64,
}

// By hand: `derive` would ask for `W: Copy`.
impl<W, B> Clone for ThreadLane<'_, W, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W, B> Copy for ThreadLane<'_, W, B> {}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The tail before it.
    pub tail: u64,
    /// Bytes skipped at the wrap.
    pub pad: u64,
    /// Bytes of the record, padded to 8.
    pub n: u64,
}

/// `count` records were published when the tail was `tail`.
pub fn written_count(written: u64, tail: u64) -> u64 {
    let count = written >> 24;
    if written & TAG == (tail >> 3) & TAG {
        count
    } else {
        // The owner died (or is) between the two stores: the last one counted is not published.
        count.saturating_sub(u64::from(written & COUNTED != 0))
    }
}

/// The `WRITTEN` word of an empty lane whose positions start at `tail`.
pub fn written_start(tail: u64) -> u64 {
    (tail >> 3) & TAG
}

impl<W: Word, B: Bytes> ThreadLane<'_, W, B> {
    #[inline(always)]
    fn place(&self, len: u64) -> Place {
        let n = round8(len);
        // Only this thread stores the tail, and it is read after `busy` was set: no call of this
        // thread can move it between this load and the store in `publish`.
        let tail = self.tail.load(Relaxed);
        let to_end = self.capacity - (tail & (self.capacity - 1));
        Place { tail, pad: if n > to_end { to_end } else { 0 }, n }
    }

    #[inline(always)]
    fn fits(&self, p: Place, released: u64) -> bool {
        // A quarter at most: a record and its PAD always fit a lane that has been drained.
        p.n <= self.capacity / 4 && p.tail.wrapping_add(p.pad + p.n).wrapping_sub(released) <= self.capacity
    }

    /// Writes one record, if there is room. `busy` is set.
    #[inline(always)]
    pub fn write<L: Local, R: Record<B>>(&self, local: &L, r: &R) -> bool {
        let mut p = self.place(r.size());
        if !self.fits(p, local.cached_released()) {
            // By value: a reference that reaches a cold function keeps the hot path's values in memory.
            match self.refresh(local.clone(), r.size()) {
                Some(again) => p = again,
                None => return false,
            }
        }
        self.put(p, r, COUNTED);
        true
    }

    /// The cached `released` did not do: asks the drain's word, and settles a loss that is not
    /// marked yet (a loss spoils the cached value, so that the next call comes here).
    #[cold]
    #[inline(never)]
    fn refresh<L: Local>(self, local: L, len: u64) -> Option<Place> {
        let released = self.released.load(Acquire); // room:A, pairs with room:R
        local.set_cached_released(released);
        let lost = self.lost.load(Relaxed);
        if lost != self.marked.load(Relaxed) {
            let marker = Note { kind: record::LOSS, payload: &lost.to_le_bytes() };
            let p = self.place(marker.len_bytes());
            if !self.fits(p, released) {
                return None;
            }
            self.put(p, &marker, 0);
            self.marked.store(lost, Relaxed);
        }
        let p = self.place(len);
        self.fits(p, released).then_some(p)
    }

    /// Writes a note of the lane's own (its new owner), if there is room. `busy` is set.
    pub fn note<L: Local>(&self, local: &L, kind: u8, payload: &[u8]) -> bool {
        let n = Note { kind, payload };
        // The cached value is spoiled, not refreshed: a handler may have lost a record right here, and
        // the lane's last owner may have left a loss unmarked. The next record looks, and marks.
        local.set_cached_released(self.tail.load(Relaxed).wrapping_sub(self.capacity));
        let released = self.released.load(Acquire); // room:A
        let p = self.place(n.len_bytes());
        if !self.fits(p, released) {
            return false;
        }
        // The lane's last owner may have been killed between WRITTEN and TAIL.
        self.settle();
        self.put(p, &n, 0);
        true
    }

    /// Whether a note or record of `len` bytes fits now.
    pub fn has_room(&self, len: u64) -> bool {
        self.fits(self.place(len), self.released.load(Acquire)) // room:A
    }

    /// Takes back what was counted and never published: its writer died, or left the call by longjmp.
    /// `busy` is set, or no call is under way.
    pub fn settle(&self) {
        let tail = self.tail.load(Relaxed);
        let count = written_count(self.written.load(Relaxed), tail);
        self.written.store(count << 24 | written_start(tail), Relaxed);
    }

    /// A place for a record of `len` bytes that is filled in later, with `busy` held in between.
    pub fn reserve<L: Local>(&self, local: &L, len: u64) -> Option<Place> {
        let p = self.place(len);
        if self.fits(p, local.cached_released()) { Some(p) } else { self.refresh(local.clone(), len) }
    }

    #[inline(always)]
    fn put<R: Record<B>>(&self, p: Place, r: &R, counted: u64) {
        let mut at = p.tail & (self.capacity - 1);
        if p.pad != 0 {
            self.data.write(at, &record::word0(p.pad, record::PAD).to_le_bytes());
            at = 0;
        }
        r.write(self.data, at);
        self.publish(p, counted != 0);
    }

    /// Makes what was written at `p` exist.
    #[inline(always)]
    pub fn publish(&self, p: Place, counted: bool) {
        let tail = p.tail.wrapping_add(p.pad + p.n);
        let tag = (tail >> 3) & TAG;
        let count = self.written.load(Relaxed) & !(COUNTED | TAG);
        self.written.store(if counted { (count + ONE) | COUNTED | tag } else { count | tag }, Relaxed);
        // A release store: the bytes (and WRITTEN) before the tail. tail:R, pairs with tail:A
        self.tail.store(tail, Release);
    }
}

/// A record that the lane writes for itself.
struct Note<'a> {
    kind: u8,
    payload: &'a [u8],
}

impl Note<'_> {
    fn len_bytes(&self) -> u64 {
        record::HEADER + self.payload.len() as u64
    }
}

impl<B: Bytes> Record<B> for Note<'_> {
    fn size(&self) -> u64 {
        self.len_bytes()
    }
    fn write(&self, to: &B, at: u64) {
        to.write(at, &record::word0(self.len_bytes(), self.kind).to_le_bytes());
        to.write(at + record::TICKS, &[0; 16]);
        to.write(at + record::HEADER, self.payload);
    }
}
