//! What the drain keeps in the journal about each ring, whole values, little-endian:
//!
//! | part | number | value |
//! |---|---|---|
//! | lane `i` | `i` | position, owner, count, reported loss (u64 each), tid (u32), 0 (u32), comm (16) |
//! | shared lane | 1000 | frontier, count, skipped records, skipped granules, n (u64 each), n × (from, to) |
//! | spill | 1001 | the same, in bytes |
//! | process | 1002 | reported loss of threads without a lane |
//! | rings that are gone | 1003, under nonce 0 and pid 0 | written, delivered, lost, rings |

use crate::snapshot::Ranges;

/// Which cursor of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Lane(u32),
    Shared,
    Spill,
    Process,
    Gone,
}

impl Part {
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
pub(super) struct LaneCursor {
    pub position: u64,
    pub owner: u64,
    pub count: u64,
    pub reported: u64,
    pub tid: u32,
    pub comm: [u8; 16],
}

impl LaneCursor {
    pub fn encode(&self) -> Vec<u8> {
        let mut b = bytes(&[self.position, self.owner, self.count, self.reported, u64::from(self.tid)]);
        b.extend(self.comm);
        b
    }
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
pub(super) struct SlowCursor {
    pub frontier: u64,
    pub count: u64,
    pub skipped: u64,
    pub skipped_granules: u64,
    pub above: Ranges,
}

impl SlowCursor {
    pub fn resolve(&mut self, from: u64, to: u64) {
        self.above.insert(from, to);
        self.frontier = self.above.advance(self.frontier);
    }
    pub fn encode(&self) -> Vec<u8> {
        let ranges: Vec<u64> = self.above.iter().flat_map(|(a, b)| [a, b]).collect();
        let head = [self.frontier, self.count, self.skipped, self.skipped_granules, ranges.len() as u64 / 2];
        let mut b = bytes(&head);
        b.extend(bytes(&ranges));
        b
    }
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

/// Loss of threads without a lane that is in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProcessCursor {
    pub reported: u64,
}

impl ProcessCursor {
    pub fn encode(&self) -> Vec<u8> {
        bytes(&[self.reported])
    }
    pub fn decode(b: &[u8]) -> Option<Self> {
        Some(ProcessCursor { reported: *words(b).first()? })
    }
}

/// Sums over rings that were delivered whole and unlinked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GoneCursor {
    pub written: u64,
    pub delivered: u64,
    pub lost: u64,
    pub rings: u64,
}

impl GoneCursor {
    pub fn encode(&self) -> Vec<u8> {
        bytes(&[self.written, self.delivered, self.lost, self.rings])
    }
    pub fn decode(b: &[u8]) -> Option<Self> {
        let w = words(b);
        let w = w.get(..4)?;
        Some(GoneCursor { written: w[0], delivered: w[1], lost: w[2], rings: w[3] })
    }
}

/// Records delivered and lost that a cursor speaks of.
pub(super) fn sums(part: u32, value: &[u8]) -> (u64, u64) {
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
