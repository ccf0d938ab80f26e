//! The thread lane: a byte ring with one writing thread. It holds no holes: a record exists from
//! the instant its tail store is visible, and nothing exists before.

use super::{OpenRecord, Record, call::Local, round8};
use crate::layout::ring::record;
use crate::sync::{Bytes, Ordering::*, Word};

/// `WRITTEN` from its top: 23 bits of the tail (in words of 8) that the count belongs to, the count, and
/// whether the last publication was a record (and not a note of the lane's own). So a record adds one number.
const TAG: u32 = 41;
const ONE: u64 = 2;
const COUNTED: u64 = 1;

/// How far ahead of a record a call asks for two lines of the lane, bytes. The drain has read them a
/// lap ago, so each one's first store waits until the other processor has given it up: 5 to 9 ns a record where the
/// store comes first. Nearer is too late when calls follow each other (measured: 256, 512, 1024, 2048, 4096), farther
/// takes more of the cache. Records of up to 128 bytes never outrun two lines.
pub const AHEAD: usize = 2048;

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
    /// The ring of bytes.
    pub data: &'a B,
    /// Its capacity, a power of two, less one.
    pub mask: u64,
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

/// What publishing so many bytes adds to the tag.
#[inline(always)]
fn tag(bytes: u64) -> u64 {
    bytes << (TAG - 3)
}

/// So many records were published when the tail was `tail`.
pub fn written_count(written: u64, tail: u64) -> u64 {
    let count = (written & ((1 << TAG) - 1)) / ONE;
    if written >> TAG == tag(tail) >> TAG {
        count
    } else {
        // The owner died (or is) between the two stores: the last one counted is not published.
        count.saturating_sub(written & COUNTED)
    }
}

/// The `WRITTEN` word of an empty lane whose positions start at `tail`.
pub fn written_start(tail: u64) -> u64 {
    tag(tail) | COUNTED
}

impl<W: Word, B: Bytes> ThreadLane<'_, W, B> {
    /// Its bytes, a power of two.
    #[inline(always)]
    pub fn capacity(&self) -> u64 {
        self.mask + 1
    }

    fn place(&self, len: u64) -> Place {
        let n = round8(len);
        let tail = self.tail.load(Relaxed);
        let to_end = self.capacity() - (tail & self.mask);
        Place { tail, pad: if n > to_end { to_end } else { 0 }, n }
    }

    fn fits(&self, p: Place, released: u64) -> bool {
        // A quarter at most: a record and its PAD always fit a lane that has been drained.
        p.n <= self.capacity() / 4
            && p.tail.wrapping_add(p.pad + p.n).wrapping_sub(released) <= self.capacity()
    }

    /// How far the owner may write without looking again, when so much is released: within the lap (no PAD).
    pub fn limit(&self, released: u64) -> u64 {
        let tail = self.tail.load(Relaxed);
        let to_end = self.capacity() - (tail & self.mask);
        // 0 where the word makes no sense.
        let free = self.capacity().saturating_sub(tail.wrapping_sub(released));
        tail.wrapping_add(free.min(to_end))
    }

    /// Writes one record, if it fits below the limit. `busy` is set. All of the usual way.
    #[inline(always)]
    pub fn write<L: Local<W = W>, R: Record<B>>(&self, local: &L, r: &R) -> bool {
        let n = round8(r.size());
        // Here, and not between the stores: 0.5 ns of 12.3 (measured; nearer to the call's begin, or behind the look at
        // the limit, less). No word's order hangs on it. A handler that comes behind it logs later times, in records
        // that are delivered before this one: the drain gives this one theirs.
        let time = r.time();
        // Only this thread stores the tail, and it is read after `busy` was set: no call of this
        // thread can move it between this load and the store in `publish`.
        let tail = self.tail.load(Relaxed);
        if !self.below_limit(local, tail, n) {
            return false;
        }
        let at = tail & self.mask;
        r.write(self.data, at, time);
        self.ask_ahead(at);
        self.publish(Place { tail, pad: 0, n });
        true
    }

    /// Writes one record whose size shows while it is written ([`super::open`]), if the largest that it may become fits
    /// below the limit. `busy` is set.
    #[inline(always)]
    pub fn write_open<L: Local<W = W>, R: OpenRecord<B>>(&self, local: &L, r: &R) -> bool {
        let most = r.most();
        // As in `write`.
        let tail = self.tail.load(Relaxed);
        if !self.below_limit(local, tail, most) {
            return false;
        }
        let at = tail & self.mask;
        let Some(size) = r.write(self.data, at) else { return false };
        self.ask_ahead(at);
        self.publish(Place { tail, pad: 0, n: round8(size) });
        true
    }

    /// Whether a record that takes `n` bytes from `tail` on needs no look.
    #[inline(always)]
    fn below_limit<L: Local<W = W>>(&self, local: &L, tail: u64, n: u64) -> bool {
        // Signed: a handler that loses a record spoils the limit before the call it interrupted moves the tail.
        // A quarter of the lane at most, as in `fits`.
        (n <= L::SHORT || n <= self.capacity() / 4) && n as i64 <= local.limit().wrapping_sub(tail) as i64
    }

    /// Asks for the lines of calls to come, in the call that writes at `at`.
    #[inline(always)]
    fn ask_ahead(&self, at: u64) {
        // Behind the lane's end they are of no use, once a lap, and of no harm: nothing need be there.
        self.data.prefetch_write::<AHEAD>(at);
        self.data.prefetch_write::<{ AHEAD + 64 }>(at);
    }

    /// Writes one record, if there is room. `busy` is set.
    pub fn write_after_a_look<L: Local<W = W>, R: Record<B>>(&self, local: &L, r: &R) -> bool {
        let Some(p) = self.look(local, r.size()) else { return false };
        r.write(self.data, self.begin(p), r.time());
        self.publish(p);
        true
    }

    /// The limit did not do: asks the drain's word, and settles a loss that is not marked yet (a loss spoils
    /// the limit, so that the next call comes here).
    #[cold]
    fn look<L: Local<W = W>>(&self, local: &L, len: u64) -> Option<Place> {
        let released = local.released().load(Acquire); // room:A, pairs with room:R
        // Before the loss is looked at: a handler that loses a record behind that look spoils this.
        local.set_limit(self.limit(released));
        let lost = self.lost.load(Relaxed);
        if lost != self.marked.load(Relaxed) {
            let marker = Note { kind: record::LOSS, payload: &lost.to_le_bytes() };
            let p = self.place(marker.len_bytes());
            if !self.fits(p, released) {
                return None; // and the slow path's key tells of the loss
            }
            self.put_note(p, &marker);
            self.marked.store(lost, Relaxed);
        }
        let p = self.place(len);
        self.fits(p, released).then_some(p)
    }

    /// The next call looks.
    pub fn spoil<L: Local<W = W>>(&self, local: &L) {
        local.set_limit(self.tail.load(Relaxed));
    }

    /// Writes a note of the lane's own (its new owner), if there is room. `busy` is set.
    pub fn note<L: Local<W = W>>(&self, local: &L, released: &W, kind: u8, payload: &[u8]) -> bool {
        let n = Note { kind, payload };
        // The limit is spoiled, not found: a handler may have lost a record right here, and the lane's last
        // owner may have left a loss unmarked. The next record looks, and marks.
        self.spoil(local);
        let released = released.load(Acquire); // room:A
        let p = self.place(n.len_bytes());
        if !self.fits(p, released) {
            return false;
        }
        // The lane's last owner may have been killed between WRITTEN and TAIL.
        self.settle();
        self.put_note(p, &n);
        true
    }

    /// Whether a note or record of `len` bytes fits now.
    pub fn has_room(&self, released: &W, len: u64) -> bool {
        self.fits(self.place(len), released.load(Acquire)) // room:A
    }

    /// Takes back what was counted and never published: its writer died, or left the call by longjmp.
    /// `busy` is set, or no call is under way.
    pub fn settle(&self) {
        let tail = self.tail.load(Relaxed);
        let count = written_count(self.written.load(Relaxed), tail);
        self.written.store((count * ONE) | written_start(tail), Relaxed);
    }

    /// A place for a record of `len` bytes that is filled in later, with `busy` held in between.
    pub fn reserve<L: Local<W = W>>(&self, local: &L, len: u64) -> Option<Place> {
        self.look(local, len)
    }

    /// Writes the PAD before a place, and answers where its bytes begin.
    fn begin(&self, p: Place) -> u64 {
        let at = p.tail & self.mask;
        if p.pad == 0 {
            return at;
        }
        self.data.write(at, &record::word0(p.pad, record::PAD).to_le_bytes());
        0
    }

    /// Makes the record exist that was written at `p`.
    #[inline(always)]
    pub fn publish(&self, p: Place) {
        let bytes = p.pad + p.n;
        self.written.store(self.written.load(Relaxed).wrapping_add(tag(bytes) + ONE), Relaxed);
        // A release store: the bytes (and WRITTEN) before the tail. tail:R, pairs with tail:A
        self.tail.store(p.tail.wrapping_add(bytes), Release);
    }

    /// Writes a note at `p`, uncounted.
    fn put_note(&self, p: Place, n: &Note<'_>) {
        n.write(self.data, self.begin(p), 0);
        let bytes = p.pad + p.n;
        let written = self.written.load(Relaxed).wrapping_add(tag(bytes));
        self.written.store(written & !COUNTED, Relaxed);
        self.tail.store(p.tail.wrapping_add(bytes), Release); // tail:R
        // For the records to come.
        self.written.store(written | COUNTED, Relaxed);
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
    fn time(&self) -> u64 {
        0
    }
    fn write(&self, to: &B, at: u64, time: u64) {
        to.write(at, &record::word0(self.len_bytes(), self.kind).to_le_bytes());
        to.write(at + record::TICKS, &time.to_le_bytes());
        to.write(at + record::SITE, &[0; 8]);
        to.write(at + record::HEADER, self.payload);
    }
}
