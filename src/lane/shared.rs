//! The shared lane: a ring of 64-byte granules, claimed by compare-exchange, with a commit word a
//! granule that lies outside the data. For calls that cannot use a thread lane.
//!
//! A word counts only if its lap is the lap of the position it is read for. Interior granules of a
//! record have no word: whatever a killed writer leaves behind is read granule by granule, without
//! knowing its extent.

use super::{Record, SlowKey};
use crate::layout::ring::{GRANULE, commit, slow};
use crate::sync::{Bytes, Ordering::*, Word};

/// Compare-exchanges lost in a row before a call goes to the spill: its steps are bounded.
pub const TRIES: u32 = 32;

/// Bits of `SHARED_TAIL` that count claims.
pub const CLAIM_BITS: u32 = 20;

/// The position in a `SHARED_TAIL` word.
#[inline(always)]
pub fn position(tail: u64) -> u64 {
    tail >> CLAIM_BITS
}

/// The claims (modulo 2^20) in a `SHARED_TAIL` word.
#[inline(always)]
pub fn claims(tail: u64) -> u64 {
    tail & ((1 << CLAIM_BITS) - 1)
}

/// The word of a tail that starts at position `p`.
pub fn tail_word(p: u64, claims: u64) -> u64 {
    p << CLAIM_BITS | (claims & ((1 << CLAIM_BITS) - 1))
}

/// The lap of a position; 0 is for words that were never written. (`granules` is a power of two, here and
/// below. As divisions, one after the other between the load of the tail and its exchange, these cost a call
/// 3 ns.)
#[inline(always)]
pub fn lap(position: u64, granules: u64) -> u64 {
    (position >> granules.trailing_zeros()) + 1
}

/// The granule that a position is in.
#[inline(always)]
pub fn index(position: u64, granules: u64) -> u64 {
    position & (granules - 1)
}

/// Where among the commit words that of granule `index` stands: eight to a line, and those of neighbours on
/// different lines. Writers claim side by side, and each stores its word twice: on one line, that would move
/// between them with every store.
#[inline(always)]
pub fn word_at(index: u64, granules: u64) -> u64 {
    let lines = (granules / 8).max(1);
    ((index & (lines - 1)) << 3) + (index >> lines.trailing_zeros())
}

/// What a commit word says for the lap in which it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing of this lap: claimed and not opened, the inside of a record, or not claimed yet.
    None,
    /// Being written by the thread in this slot.
    Open(u16),
    /// A record over so many granules.
    Committed(u16),
    /// So many granules are skipped.
    Pad(u16),
}

/// Reads `word` for a position in lap `lap`.
pub fn state(word: u64, lap: u64) -> State {
    if word >> 32 != lap {
        return State::None;
    }
    let granules = (word >> 16) as u16;
    match word & 3 {
        commit::OPEN => State::Open((word >> 2) as u16 & ((1 << 14) - 1)),
        commit::COMMITTED => State::Committed(granules),
        commit::PAD => State::Pad(granules),
        _ => State::None,
    }
}

/// The words of the shared lane, as a writer sees them.
pub struct SharedLane<'a, W, B> {
    /// Position and claims.
    pub tail: &'a W,
    /// One word a granule.
    pub words: &'a [W],
    /// What the drain has released (in `P.ack`).
    pub released: &'a W,
    /// The granules.
    pub data: &'a B,
}

impl<W: Word, B: Bytes> SharedLane<'_, W, B> {
    /// Writes one record under its key. What orders it among its thread's records is the position that it
    /// gets here, so nothing is counted besides. False: no room, no luck in [`TRIES`] races, larger than a
    /// quarter of the lane, or the laps have run out.
    pub fn write<R: Record<B>>(&self, slot: u16, key: SlowKey, r: &R) -> bool {
        let size = self.words.len() as u64;
        let n = (slow::LEN + r.size()).div_ceil(GRANULE);
        if n > size / 4 {
            return false;
        }
        let Some(mut p) = self.claim(n) else { return false };
        let at = index(p, size);
        if at + n > size {
            let rest = size - at;
            let pad = commit::word(lap(p, size) as u32, rest as u16, 0, commit::PAD);
            self.words[word_at(at, size) as usize].store(pad, Release); // word:R
            p += rest;
        }
        let (at, l) = (index(p, size), lap(p, size) as u32);
        let word = &self.words[word_at(at, size) as usize];
        word.store(commit::word(l, n as u16, slot, commit::OPEN), Release); // word:R
        let at = at * GRANULE;
        self.data.write(at, &key.to_bytes());
        r.write(self.data, at + slow::LEN);
        word.store(commit::word(l, n as u16, slot, commit::COMMITTED), Release); // word:R, pairs with word:A
        true
    }

    /// Claims `n` granules (and the rest of the lap before them, if a record would cross its end).
    fn claim(&self, n: u64) -> Option<u64> {
        let size = self.words.len() as u64;
        // Or the load takes the line from another writer for reading, and the exchange takes it again.
        self.tail.prefetch_write();
        let mut seen = self.tail.load(Acquire); // claim:A
        for _ in 0..TRIES {
            let p = position(seen);
            let to_end = size - index(p, size);
            let end = p + n + if n > to_end { to_end } else { 0 };
            // Laps have 32 bits; a position that would need more closes the lane for good.
            if lap(end - 1, size) > u64::from(u32::MAX) {
                return None;
            }
            // room:A, pairs with room:R. `released` may have been read after the tail moved on: then
            // the difference is small or negative (wrapped), and the exchange below fails or the
            // space is really there: `released` never passes a claimed granule.
            let released = self.released.load(Acquire);
            if end.saturating_sub(released) > size {
                return None;
            }
            match self.tail.compare_exchange(seen, tail_word(end, claims(seen) + 1), AcqRel, Acquire) {
                Ok(_) => return Some(p),
                Err(now) => seen = now,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_granule_has_a_word_of_its_own_away_from_its_neighbours() {
        for granules in (0..16).map(|i| 1u64 << i) {
            let mut of: Vec<u64> = (0..granules).map(|i| word_at(i, granules)).collect();
            let apart = |w: &[u64]| granules < 16 || w[0] / 8 != w[1] / 8;
            assert!(of.windows(2).all(apart), "{granules}");
            of.sort_unstable();
            assert!(of.into_iter().eq(0..granules), "{granules}");
            for p in [0, 1, granules * 3 - 1, granules * 3, u64::MAX >> CLAIM_BITS] {
                assert_eq!((lap(p, granules), index(p, granules)), (p / granules + 1, p % granules));
            }
        }
    }
}
