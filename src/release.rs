//! How far the journal has a ring, and what of it may therefore be released to its writers.
//!
//! A batch carries, beside its records, the cursors of all that it took from ([`Positions::encode`]): so
//! the batch is the commit. Only after it the same positions go into the ring's ack
//! ([`commit`], [`Positions::publish`]), and writers use the space again. A drain that starts folds both
//! ([`Positions::restore`]).
//!
//! Everything here is generic over its words: the drain runs it on `P.ack`, `tests/models` on the words
//! of a model checker.
//!
//! What the journal keeps of each ring, whole values, little-endian:
//!
//! | part | number | value |
//! |---|---|---|
//! | lane `i` | `i` | position, owner, count, reported loss (u64 each), tid (u32), 0 (u32), comm (16) |
//! | shared lane | 1000 | frontier, count, skipped records, skipped granules, n (u64 each), n × (from, to) |
//! | spill | 1001 | the same |
//! | process | 1002 | reported loss of threads without a lane |
//! | rings that are gone | 1003, under nonce 0 and pid 0 | written, delivered, lost, rings |

use crate::layout::ring::ack;
use crate::snapshot::{LaneAt, Ranges, Snapshot, Source};
use crate::sync::{Ordering::*, Word};
use std::collections::BTreeMap;

/// Has a batch written, and releases what is in it: in this order, and only if it was written.
///
/// # Errors
/// As `write`; nothing is released then.
pub fn commit<T, E>(write: impl FnOnce() -> Result<T, E>, release: impl FnOnce()) -> Result<T, E> {
    let batch = write()?;
    release();
    Ok(batch)
}

/// The words of a ring's ack. Only the ring's drain stores them.
pub trait Acks {
    /// A word.
    type W: Word;
    /// The word at an offset of [`ack`].
    fn ack(&self, at: u64) -> &Self::W;
}

/// What stood where a batch took something from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A record: it counts as delivered.
    Record,
    /// The note of a lane's new owner.
    Owner {
        /// The thread's number.
        thread: u64,
        /// Its tid.
        tid: u32,
        /// Its name, zero padded.
        comm: [u8; 16],
    },
    /// Something else: a loss marker.
    Note,
}

/// How far the batches up to the one under way have a ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Its lanes, those that anything is known of.
    pub lanes: BTreeMap<u32, LaneCursor>,
    /// Its shared lane.
    pub shared: SlowCursor,
    /// Its spill.
    pub spill: SlowCursor,
    /// Loss of its threads without a lane.
    pub process: ProcessCursor,
}

impl Positions {
    /// Takes a ring on where its cursors in the journal and its ack say that it was left, whichever is
    /// further. `owner`: whose a lane is, by its header. Second: records that the ack says are delivered,
    /// and that this journal does not have.
    pub fn restore<'a>(
        lanes: u32,
        cursor: impl Fn(Part) -> Option<&'a [u8]>,
        acks: &impl Acks,
        owner: impl Fn(u32) -> u64,
    ) -> (Positions, u64) {
        let a = |at| acks.ack(at).load(Acquire);
        let mut short = 0;
        let mut all = BTreeMap::new();
        for i in 0..lanes {
            let mut c = cursor(Part::Lane(i)).and_then(LaneCursor::decode).unwrap_or_default();
            let at = ack::lane(i);
            let (position, count) = (a(at + ack::RELEASED), a(at + ack::COUNT));
            if (position.wrapping_sub(c.position) as i64) > 0 {
                short += count.saturating_sub(c.count);
                c = LaneCursor {
                    position,
                    count,
                    reported: a(at + ack::REPORTED).max(c.reported),
                    // Whose the lane was at that position, this journal does not know; whose it is, its
                    // header does.
                    owner: if c.owner != 0 { c.owner } else { owner(i) },
                    ..c
                };
            }
            if c != LaneCursor::default() {
                all.insert(i, c);
            }
        }
        let mut slow = |part, released: u64, count: u64| {
            let mut c = cursor(part).and_then(SlowCursor::decode).unwrap_or_default();
            if released > c.frontier {
                short += count.saturating_sub(c.count);
                c = SlowCursor { frontier: released, count, ..SlowCursor::default() };
            }
            c
        };
        let shared = slow(Part::Shared, a(ack::SHARED_RELEASED), a(ack::SHARED_COUNT));
        let spill = slow(Part::Spill, a(ack::SPILL_DELIVERED), a(ack::SPILL_COUNT));
        let process = cursor(Part::Process).and_then(ProcessCursor::decode).unwrap_or_default();
        (Positions { lanes: all, shared, spill, process }, short)
    }

    /// A reader of the ring that begins here. `lanes`: how many the ring may have.
    pub fn reader(&self, lanes: u32) -> Snapshot {
        let at = |c: &LaneCursor| LaneAt { at: c.position, owner: c.owner };
        let lanes = (0..lanes).map(|i| self.lanes.get(&i).map_or(LaneAt::default(), at)).collect();
        Snapshot::new(
            lanes,
            (self.shared.frontier, self.shared.above.clone()),
            (self.spill.frontier, self.spill.above.clone()),
        )
    }

    /// The batch has what stood at `source`. Which cursor changed.
    pub fn take(&mut self, source: Source, what: Taken) -> Part {
        if let (Source::Lane { lane, .. }, Taken::Owner { thread, tid, comm }) = (source, &what) {
            let c = self.lanes.entry(lane).or_default();
            (c.owner, c.tid, c.comm) = (*thread, *tid, *comm);
        }
        self.take_records(source, u64::from(what == Taken::Record))
    }

    /// The batch has what stood at `source`; of a lane, everything up to its end: so many records. Which
    /// cursor changed.
    pub fn take_records(&mut self, source: Source, counted: u64) -> Part {
        match source {
            Source::Lane { lane, end } => {
                let c = self.lanes.entry(lane).or_default();
                c.position = end;
                c.count += counted;
                Part::Lane(lane)
            }
            Source::Shared { at, len } => {
                self.shared.resolve(at, at + len);
                self.shared.count += counted;
                Part::Shared
            }
            Source::Spill { at, len } => {
                self.spill.resolve(at, at + len);
                self.spill.count += counted;
                Part::Spill
            }
        }
    }

    /// At `source` there is no record and never will be. A lane has nothing to skip: what it skips lies
    /// before a record, and goes with it. Which cursor changed.
    pub fn skip(&mut self, source: Source) -> Option<Part> {
        match source {
            Source::Lane { .. } => None,
            _ => Some(self.take(source, Taken::Note)),
        }
    }

    /// So many more records of a lane (None: of threads without one) are reported lost. Which cursor
    /// changed.
    pub fn lost(&mut self, of: Option<u32>, count: u64) -> Part {
        // Added, not set: what threads without a lane lost stands in lines of several threads, and a
        // later part of the count may be written before an earlier one.
        match of {
            Some(l) => {
                self.lanes.entry(l).or_default().reported += count;
                Part::Lane(l)
            }
            None => {
                self.process.reported += count;
                Part::Process
            }
        }
    }

    /// The whole value of one cursor, as the batch carries it. None: there is none.
    pub fn encode(&self, part: Part) -> Option<Vec<u8>> {
        match part {
            Part::Lane(i) => self.lanes.get(&i).map(LaneCursor::encode),
            Part::Shared => Some(self.shared.encode()),
            Part::Spill => Some(self.spill.encode()),
            Part::Process => Some(self.process.encode()),
            Part::Gone => None,
        }
    }

    /// Stores all of it into the ring's ack. Only after the batch with these very cursors is written: see
    /// [`commit`]. The spill's space is another matter: see [`GivenBack`].
    pub fn publish(&self, acks: &impl Acks) {
        for (i, c) in &self.lanes {
            let w = |at| acks.ack(ack::lane(*i) + at);
            // Count and loss first: a reader that sees the position sees at least these.
            w(ack::COUNT).store(c.count, Relaxed);
            w(ack::REPORTED).store(c.reported, Relaxed);
            w(ack::RELEASED).store(c.position, Release); // room:R
        }
        let a = |at, v| acks.ack(at).store(v, Release);
        a(ack::SHARED_COUNT, self.shared.count);
        a(ack::SHARED_SKIPPED, self.shared.skipped);
        // The frontier: what is resolved above it lies behind a hole, whose writer may yet come back.
        a(ack::SHARED_RELEASED, self.shared.frontier); // room:R
        a(ack::SPILL_COUNT, self.spill.count);
        a(ack::SPILL_DELIVERED, self.spill.frontier);
        a(ack::LOST_REPORTED, self.process.reported);
    }
}

/// Which cursor of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A lane.
    Lane(u32),
    /// The shared lane.
    Shared,
    /// The spill.
    Spill,
    /// Loss of threads without a lane.
    Process,
    /// Sums over rings that are gone.
    Gone,
}

impl Part {
    /// Its number in the journal.
    pub fn number(self) -> u32 {
        match self {
            Part::Lane(i) => i,
            Part::Shared => 1000,
            Part::Spill => 1001,
            Part::Process => 1002,
            Part::Gone => 1003,
        }
    }
}

fn words(b: &[u8]) -> Vec<u64> {
    b.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("8 bytes"))).collect()
}

fn bytes(w: &[u64]) -> Vec<u8> {
    w.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A thread lane: everything before `position` is in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneCursor {
    /// Bytes.
    pub position: u64,
    /// Number of the thread whose records stand there, 0 = not known.
    pub owner: u64,
    /// Records delivered.
    pub count: u64,
    /// Loss that is in the journal.
    pub reported: u64,
    /// The owner's tid.
    pub tid: u32,
    /// The owner's name, zero padded.
    pub comm: [u8; 16],
}

impl LaneCursor {
    /// Its stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = bytes(&[self.position, self.owner, self.count, self.reported, u64::from(self.tid)]);
        b.extend(self.comm);
        b
    }
    /// From its stored form. None: it is none.
    pub fn decode(b: &[u8]) -> Option<Self> {
        let (w, comm) = b.split_at_checked(40)?;
        let w = words(w);
        Some(LaneCursor {
            position: w[0],
            owner: w[1],
            count: w[2],
            reported: w[3],
            tid: w[4] as u32,
            comm: comm.try_into().ok()?,
        })
    }
}

/// The shared lane or the spill: everything below `frontier` is in the journal or will never be a
/// record, and so is what lies in `above`; the gaps in between are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlowCursor {
    /// Position in granules.
    pub frontier: u64,
    /// Records delivered.
    pub count: u64,
    /// Holes skipped because their thread is gone.
    pub skipped: u64,
    /// Granules of holes skipped.
    pub skipped_granules: u64,
    /// What is resolved above the frontier.
    pub above: Ranges,
}

impl SlowCursor {
    /// `[from, to)` is in the journal, or will never be a record.
    pub fn resolve(&mut self, from: u64, to: u64) {
        self.above.insert(from, to);
        self.frontier = self.above.advance(self.frontier);
    }
    /// Its stored form.
    pub fn encode(&self) -> Vec<u8> {
        let ranges: Vec<u64> = self.above.iter().flat_map(|(a, b)| [a, b]).collect();
        let head = [self.frontier, self.count, self.skipped, self.skipped_granules, ranges.len() as u64 / 2];
        let mut b = bytes(&head);
        b.extend(bytes(&ranges));
        b
    }
    /// From its stored form. None: it is none.
    pub fn decode(b: &[u8]) -> Option<Self> {
        let w = words(b);
        let n = *w.get(4)? as usize;
        let mut above = Ranges::default();
        for r in w.get(5..5 + n.checked_mul(2)?)?.chunks_exact(2) {
            above.insert(r[0], r[1]);
        }
        Some(SlowCursor { frontier: w[0], count: w[1], skipped: w[2], skipped_granules: w[3], above })
    }
}

/// What of a spill was given back to its file system, and so to its writers: first the hole in the file, then
/// `released`. A writer that sees it may back and write the same place again, and a hole made later would take that
/// away. So the next drain begins at `released` as well; of what lies above it a hole is made once more, at most.
///
/// `released` never passes the frontier. What is resolved above it is given back all the same, without being
/// released: nobody writes there in this lap, so that one call that never ends keeps no space but its own.
#[derive(Clone, Debug, Default)]
pub struct GivenBack {
    released: u64,
    above: Ranges,
}

impl GivenBack {
    /// As the ack says.
    pub fn new(acks: &impl Acks) -> GivenBack {
        GivenBack { released: acks.ack(ack::SPILL_RELEASED).load(Acquire), above: Ranges::default() }
    }

    /// The next piece to give back: whole units, at most `most` granules (at least a unit), within a lap of `size`.
    pub fn next(&self, cursor: &SlowCursor, unit: u64, most: u64, size: u64) -> Option<(u64, u64)> {
        let most = (most - most % unit).max(unit);
        for (from, to) in [(self.released, cursor.frontier)].into_iter().chain(cursor.above.iter()) {
            let (mut p, to) = (from.max(self.released).next_multiple_of(unit), to - to % unit);
            while let Some(end) = self.above.end_of(p) {
                p = end;
            }
            if p < to {
                let given = self.above.start_behind(p).unwrap_or(u64::MAX);
                return Some((p, to.min(p + most).min(p - p % size + size).min(given)));
            }
        }
        None
    }

    /// Gives a piece back by `punch`, and then says so to the writers, as far as nothing below it is missing. One
    /// that cannot be punched only keeps its space.
    pub fn give(&mut self, (from, to): (u64, u64), acks: &impl Acks, punch: impl FnOnce(u64, u64)) {
        punch(from, to);
        self.above.insert(from, to);
        self.released = self.above.advance(self.released);
        acks.ack(ack::SPILL_RELEASED).store(self.released, Release); // room:R
    }
}

/// Loss of threads without a lane that is in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessCursor {
    /// Records.
    pub reported: u64,
}

impl ProcessCursor {
    /// Its stored form.
    pub fn encode(&self) -> Vec<u8> {
        bytes(&[self.reported])
    }
    /// From its stored form. None: it is none.
    pub fn decode(b: &[u8]) -> Option<Self> {
        Some(ProcessCursor { reported: *words(b).first()? })
    }
}

/// Sums over rings that were delivered whole and unlinked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoneCursor {
    /// Records written.
    pub written: u64,
    /// Records delivered.
    pub delivered: u64,
    /// Records lost.
    pub lost: u64,
    /// Rings.
    pub rings: u64,
}

impl GoneCursor {
    /// Its stored form.
    pub fn encode(&self) -> Vec<u8> {
        bytes(&[self.written, self.delivered, self.lost, self.rings])
    }
    /// From its stored form. None: it is none.
    pub fn decode(b: &[u8]) -> Option<Self> {
        let w = words(b);
        let w = w.get(..4)?;
        Some(GoneCursor { written: w[0], delivered: w[1], lost: w[2], rings: w[3] })
    }
}

/// Records delivered and lost that a cursor speaks of.
pub fn sums(part: u32, value: &[u8]) -> (u64, u64) {
    let slow = |c: SlowCursor| (c.count, 0);
    match part {
        p if p == Part::Shared.number() || p == Part::Spill.number() => SlowCursor::decode(value).map(slow),
        p if p == Part::Process.number() => ProcessCursor::decode(value).map(|c| (0, c.reported)),
        p if p == Part::Gone.number() => None,
        _ => LaneCursor::decode(value).map(|c| (c.count, c.reported)),
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;
    use proptest::prelude::*;

    struct OneAck(AtomicU64);
    impl Acks for OneAck {
        type W = AtomicU64;
        fn ack(&self, _: u64) -> &AtomicU64 {
            &self.0
        }
    }

    proptest! {
        /// Whole units that are resolved, each once in a drain's life, never below what was released; and all of
        /// them in the end.
        #[test]
        fn what_is_given_back(
            resolved in prop::collection::vec((0u64..500, 1u64..60), 1..40),
            start in 0u64..4,
            most in 1u64..40,
            restart in 0usize..40,
        ) {
            const UNIT: u64 = 8;
            let ack = OneAck(AtomicU64::new(start * UNIT));
            let mut c = SlowCursor { frontier: start * UNIT, ..SlowCursor::default() };
            let mut g = GivenBack::new(&ack);
            let (mut given, mut is) = (vec![false; 640], vec![false; 640]);
            is[..(start * UNIT) as usize].fill(true);
            for (i, (from, len)) in resolved.into_iter().enumerate() {
                if i == restart {
                    g = GivenBack::new(&ack);
                    let released = ack.0.load(Relaxed) as usize;
                    given[released..].fill(false);
                }
                if from >= c.frontier {
                    c.resolve(from, from + len);
                    is[from as usize..(from + len) as usize].fill(true);
                }
                while let Some(piece) = g.next(&c, UNIT, most, 128) {
                    let (from, to) = piece;
                    prop_assert!(from % UNIT == 0 && to % UNIT == 0 && from < to);
                    prop_assert!(to - from <= most.max(UNIT) + UNIT && from / 128 == (to - 1) / 128);
                    let before = ack.0.load(Relaxed);
                    prop_assert!(from >= before);
                    g.give(piece, &ack, |from, to| {
                        assert_eq!(ack.0.load(Relaxed), before, "released before the hole is made");
                        for p in from as usize..to as usize {
                            assert!(is[p] && !std::mem::replace(&mut given[p], true));
                        }
                    });
                    let after = ack.0.load(Relaxed);
                    prop_assert!(after >= before && after <= c.frontier);
                }
                for u in (start..80).filter(|u| is[(u * UNIT) as usize..][..UNIT as usize].iter().all(|r| *r)) {
                    prop_assert!(given[(u * UNIT) as usize] || u * UNIT < ack.0.load(Relaxed));
                }
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let l =
            LaneCursor { position: 1, owner: 2, count: 3, reported: 4, tid: 5, comm: *b"abcdefghijklmnop" };
        let mut g: Vec<u8> = Vec::new();
        for w in [1u64, 2, 3, 4, 5] {
            g.extend(w.to_le_bytes());
        }
        g.extend(b"abcdefghijklmnop");
        assert_eq!(l.encode(), g);
        assert_eq!(LaneCursor::decode(&g), Some(l));
        let mut s =
            SlowCursor { frontier: 10, count: 2, skipped: 1, skipped_granules: 4, ..Default::default() };
        s.resolve(12, 14);
        s.resolve(20, 21);
        let g: Vec<u8> = [10u64, 2, 1, 4, 2, 12, 14, 20, 21].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(s.encode(), g);
        assert_eq!(SlowCursor::decode(&g), Some(s.clone()));
        s.resolve(10, 12);
        assert_eq!(s.frontier, 14);
        for cut in 0..g.len() {
            assert_eq!(SlowCursor::decode(&g[..cut]), None, "{cut}");
        }
    }
}
