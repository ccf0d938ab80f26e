//! The shared lane: a ring of 64-byte granules, claimed by compare-exchange, with a commit word a
//! granule that lies outside the data. For calls that cannot use a thread lane.
//!
//! A word counts only if its lap is the lap of the position it is read for. Interior granules of a
//! record have no word: whatever a killed writer leaves behind is read granule by granule, without
//! knowing its extent.
//!
//! The spill is a second such lane, a large one over a sparse file. No granule of it is claimed before there is
//! memory behind it: what bounds a claim is not `released` but `backed`, the position up to which somebody has
//! backed it, and that never goes further than `released` and a lap ([`SharedLane::back`]). So no claim is ever
//! given back, and a store to it never faults on a full file system.

use super::Record;
use crate::layout::ring::{GRANULE, commit};
use crate::layout::spill::UNIT;
use crate::sync::{Bytes, Ordering::*, Word};

/// Compare-exchanges lost in a row before a call goes to the spill: its steps are bounded.
pub const TRIES: u32 = 32;
/// The same in the spill, behind which there is nothing but loss: with 64 threads in a tight loop, one call in
/// 10^27 loses so many.
pub const SPILL_TRIES: u32 = 4096;
/// A spill grows by as much as it holds, but by no less and no more granules than this: 32 and 256 KiB of data.
/// (A growth takes as long as its pages take to be cleared: 30 to 100 us for the largest.)
pub const GROWTH: (u64, u64) = (UNIT, 8 * UNIT);
/// What is backed ends at a multiple of so many granules: a page.
const STEP: u64 = crate::layout::PAGE / GRANULE;

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

/// Positions beyond this do not fit a tail: the lane is closed. A petabyte.
pub const MAX_POSITION: u64 = u64::MAX >> CLAIM_BITS;

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
    Committed(u64),
    /// So many granules are skipped.
    Pad(u64),
}

/// Reads `word` for a position in lap `lap`.
pub fn state(word: u64, lap: u64) -> State {
    if word >> 32 != lap {
        return State::None;
    }
    let granules = commit::granules(word);
    match word & 3 {
        commit::OPEN => State::Open(commit::slot(word)),
        commit::COMMITTED => State::Committed(granules),
        commit::PAD => State::Pad(granules),
        _ => State::None,
    }
}

/// Why a lane did not take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No room, no luck in so many races, larger than a quarter of the lane, or the laps have run out.
    No,
    /// It would end at this position, and the spill is not backed so far.
    Unbacked(u64),
}

/// The words of the shared lane or of the spill, as a writer sees them.
pub struct SharedLane<'a, W, B> {
    /// Position and claims.
    pub tail: &'a W,
    /// One word a granule.
    pub words: &'a [W],
    /// What the drain has released (in `P.ack`).
    pub released: &'a W,
    /// The granules.
    pub data: &'a B,
    /// Of the spill: the position up to which there is memory behind words and granules. None: behind all of them.
    pub backed: Option<&'a W>,
}

impl<W: Word, B: Bytes> SharedLane<'_, W, B> {
    /// Writes one record under its key.
    ///
    /// # Errors
    /// [`Refused`]: nothing of it is there.
    #[inline(always)]
    pub fn write<R: Record<B>>(&self, slot: u16, key: &[u8], r: &R) -> Result<(), Refused> {
        let size = self.words.len() as u64;
        let n = (key.len() as u64 + r.size()).div_ceil(GRANULE);
        if n > size / 4 {
            return Err(Refused::No);
        }
        let mut p = self.claim(n)?;
        let at = index(p, size);
        if at + n > size {
            let rest = size - at;
            let pad = commit::word(lap(p, size) as u32, rest, 0, commit::PAD);
            self.word(at).store(pad, Release); // word:R
            p += rest;
        }
        let (at, l) = (index(p, size), lap(p, size) as u32);
        let word = self.word(at);
        word.store(commit::word(l, n, slot, commit::OPEN), Release); // word:R
        let at = at * GRANULE;
        self.data.write(at, key);
        r.write(self.data, at + key.len() as u64, r.time());
        word.store(commit::word(l, n, slot, commit::COMMITTED), Release); // word:R, pairs with word:A
        Ok(())
    }

    /// The word of the granule at this index. Those of the spill lie side by side, backed with what they speak of.
    #[inline(always)]
    fn word(&self, at: u64) -> &W {
        let i = if self.backed.is_some() { at } else { word_at(at, self.words.len() as u64) };
        &self.words[i as usize]
    }

    /// Claims `n` granules (and the rest of the lap before them, if a record would cross its end).
    #[inline(always)]
    fn claim(&self, n: u64) -> Result<u64, Refused> {
        let size = self.words.len() as u64;
        // Or the load takes the line from another writer for reading, and the exchange takes it again.
        self.tail.prefetch_write();
        let mut seen = self.tail.load(Acquire); // claim:A
        for _ in 0..if self.backed.is_some() { SPILL_TRIES } else { TRIES } {
            let p = position(seen);
            let to_end = size - index(p, size);
            let end = p + n + if n > to_end { to_end } else { 0 };
            // Laps have 32 bits; a position that would need more closes the lane for good.
            if lap(end - 1, size) > u64::from(u32::MAX) || end > MAX_POSITION {
                return Err(Refused::No);
            }
            // room:A, pairs with room:R. `released` may have been read after the tail moved on: then
            // the difference is small or negative (wrapped), and the exchange below fails or the
            // space is really there: `released` never passes a claimed granule.
            match self.backed {
                None if end.saturating_sub(self.released.load(Acquire)) > size => return Err(Refused::No),
                // back:A, pairs with back:AR: memory, and what whoever backed it knew to be released.
                Some(backed) if end > backed.load(Acquire) => return Err(Refused::Unbacked(end)),
                _ => {}
            }
            match self.tail.compare_exchange(seen, tail_word(end, claims(seen) + 1), AcqRel, Acquire) {
                Ok(_) => {
                    self.ask_for(end + n);
                    return Ok(p);
                }
                Err(now) => seen = now,
            }
        }
        Err(Refused::No)
    }

    /// Asks for what a record at position `p` writes, in the shared lane and as far as a usual one goes: its
    /// commit word and two granules. The drain has read these lines in the lap before, and the exchange of a claim
    /// waits for all stores of the call before it; so they are fetched two calls ahead. (With two writers in turn
    /// it is the same thread's turn then.)
    #[inline(always)]
    fn ask_for(&self, p: u64) {
        if self.backed.is_none() {
            let size = self.words.len() as u64;
            let at = index(p, size);
            self.word(at).prefetch_write();
            self.data.prefetch_write::<0>(at * GRANULE);
            self.data.prefetch_write::<0>(index(p + 1, size) * GRANULE);
        }
    }

    /// Has the spill backed up to position `end` at least. `populate` puts memory behind the positions from its
    /// first argument up to one between its second and its third, and answers how far. False: it could not, or the
    /// drain has not released so much. Any number of threads and handlers may do this at a time: what two of them
    /// populate is populated once, and one that was paused publishes nothing that is not further than what there is.
    pub fn back(&self, end: u64, populate: impl FnOnce(u64, u64, u64) -> Option<u64>) -> bool {
        let Some(word) = self.backed else { return false };
        let mut backed = word.load(Acquire);
        if end <= backed {
            return true;
        }
        // room:A, pairs with room:R: the drain has given the place back before; it never does so again for
        // positions below, so what is backed now stays.
        let released = self.released.load(Acquire);
        let most = released.saturating_add(self.words.len() as u64);
        // What was seen of `backed` may be older than that.
        let from = backed.max(released);
        if end <= from || end > most {
            return end <= from;
        }
        let growth = (from - released).clamp(GROWTH.0, GROWTH.1);
        let far = end.max(from + growth).next_multiple_of(STEP).min(most);
        let Some(to) = populate(from, end, far) else { return false };
        for _ in 0..TRIES {
            if backed >= to {
                break;
            }
            // Only after the memory is there. back:AR, pairs with back:A
            match word.compare_exchange(backed, to, AcqRel, Acquire) {
                Ok(_) => break,
                Err(now) => backed = now,
            }
        }
        true
    }
}

/// The places of positions `[from, to)` in a lane of so many granules: index and number of granules, once or twice.
pub fn places(from: u64, to: u64, granules: u64) -> impl Iterator<Item = (u64, u64)> {
    let first = (granules - from % granules).min(to - from);
    [(from % granules, first), (0, to - from - first)].into_iter().filter(|p| p.1 > 0)
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
