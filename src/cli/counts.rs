//! What the counters of one producer say, row by row: its lanes, the shared lane, the spill, and what was
//! lost without a lane.

use spillring::channel::{Dead, RingView};
use spillring::lane::shared;
use spillring::lane::thread::written_count;
use spillring::layout::ring::{GRANULE, Geometry, MAX_GRANULES, ack, lane, slot, word};
use spillring::ringview::View;
use spillring::sync::Ordering::Acquire;
use spillring::sys::process::Facts;

/// One way that records take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// `lane 3`, `shared`, `spill`, `no lane`.
    pub name: String,
    /// Records whose call had published them, and calls that were suppressed or lost.
    pub written: u64,
    /// Records in the journal.
    pub delivered: u64,
    /// Records on their way; negative: the counters do not add up.
    pub pending: i64,
    /// Calls that a level set at run time suppressed.
    pub suppressed: u64,
    /// Calls whose record found no room.
    pub lost: u64,
    /// Of those, how many stand in the journal as lost.
    pub reported: u64,
    /// Bytes on their way.
    pub pending_bytes: u64,
    /// Calls that entered the kernel.
    pub kernel_calls: u64,
    /// The longest of them, ns.
    pub kernel_max_ns: u64,
    /// Number of the thread that has the lane, 0 = nobody.
    pub thread: u64,
    /// Its tid.
    pub tid: u32,
}

impl Row {
    /// With `pending` as what is left of `written`.
    pub fn balance(mut self) -> Row {
        let gone = self.delivered + self.suppressed + self.lost;
        self.pending = self.written.wrapping_sub(gone).cast_signed();
        self
    }
    /// Nothing was ever here.
    pub fn is_empty(&self) -> bool {
        self.written == 0 && self.delivered == 0 && self.kernel_calls == 0
    }
}

/// One producer.
#[derive(Clone, Debug)]
pub struct Producer {
    /// Name of its files.
    pub stem: String,
    /// Pid in its own namespace.
    pub pid: u32,
    /// Name of the program.
    pub comm: String,
    /// What became of it.
    pub dead: Dead,
    /// Its rows.
    pub rows: Vec<Row>,
    /// Calls that found another call of their thread open.
    pub nested: u64,
    /// Holes of the shared lane that were skipped because their writer is gone.
    pub skipped: u64,
    /// Bytes that the ring takes in memory and the spill on its file system.
    pub spill_bytes: u64,
}

impl Producer {
    /// Whether somebody may still write.
    pub fn alive(&self) -> bool {
        matches!(self.dead, Dead::No | Dead::Unknown)
    }
    /// Records on their way.
    pub fn pending(&self) -> i64 {
        self.rows.iter().map(|r| r.pending).sum()
    }
    /// Bytes on their way.
    pub fn pending_bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.pending_bytes).sum()
    }
}

/// Everything that the drain stores, read before anything that the producer stores: a record that is
/// written and delivered between the two is pending for an instant, never delivered before it was written.
struct Acked {
    lanes: Vec<[u64; 3]>,
    shared_count: u64,
    shared_released: u64,
    skipped: u64,
    spill_count: u64,
    spill_delivered: u64,
    reported: u64,
}

fn acked(view: &View, g: &Geometry) -> Acked {
    let a = |at| view.ack(at).load(Acquire);
    let lane = |i| [ack::COUNT, ack::RELEASED, ack::REPORTED].map(|at| view.lane_ack(i, at).load(Acquire));
    Acked {
        lanes: (0..g.lanes).map(lane).collect(),
        shared_count: a(ack::SHARED_COUNT),
        shared_released: a(ack::SHARED_RELEASED),
        skipped: a(ack::SHARED_SKIPPED),
        spill_count: a(ack::SPILL_COUNT),
        spill_delivered: a(ack::SPILL_DELIVERED),
        reported: a(ack::LOST_REPORTED),
    }
}

/// Reads all counters of a producer.
pub fn read(files: RingView, me: &Facts) -> Producer {
    let facts = files.identity.facts;
    let comm_len = facts.comm.iter().position(|&b| b == 0).unwrap_or(facts.comm.len());
    let view = View::new(files);
    let g = view.files.geometry;
    let acked = acked(&view, &g);
    let mut rows = Vec::new();
    for i in 0..g.lanes {
        let w = |at| view.lane_word(i, at);
        if w(lane::CAPACITY) == 0 {
            continue;
        }
        // Tail before count: a count read later is no smaller than that of this tail.
        let tail = w(lane::TAIL);
        let lost = w(lane::LOST);
        let [delivered, released, reported] = acked.lanes[i as usize];
        let owner = w(lane::OWNER).checked_sub(1).filter(|&s| s < u64::from(g.slots)).map(|s| s as u32);
        rows.push(
            Row {
                name: format!("lane {i}"),
                written: written_count(w(lane::WRITTEN), tail) + lost,
                delivered,
                lost,
                reported,
                pending_bytes: tail.wrapping_sub(released).min(w(lane::CAPACITY)),
                kernel_calls: w(lane::KERNEL_CALLS),
                kernel_max_ns: w(lane::KERNEL_MAX_NS),
                thread: owner.map_or(0, |s| view.slot_word(s, slot::THREAD)),
                tid: owner.map_or(0, |s| (view.slot_word(s, slot::OWNER) >> 32) as u32),
                ..Row::default()
            }
            .balance(),
        );
    }
    let p = |at| view.load(at);
    let tail = p(word::SHARED_TAIL);
    rows.push(shared_row(tail, &acked));
    let spill = shared::position(p(word::SPILL_TAIL));
    rows.push(spill_row(p(word::SPILLED), p(word::THREADS) + p(word::NESTED), spill, &acked));
    let (lost, suppressed) = (p(word::LOST), p(word::SUPPRESSED));
    rows.push(
        Row {
            name: "no lane".into(),
            written: lost + suppressed,
            suppressed,
            lost,
            reported: acked.reported,
            kernel_calls: p(word::KERNEL_CALLS),
            kernel_max_ns: p(word::KERNEL_MAX_NS),
            ..Row::default()
        }
        .balance(),
    );
    Producer {
        stem: view.files.stem.to_string(),
        pid: facts.pid,
        comm: String::from_utf8_lossy(&facts.comm[..comm_len]).into_owned(),
        dead: view.files.dead(me),
        rows,
        nested: p(word::NESTED),
        skipped: acked.skipped,
        spill_bytes: view.files.spill_stat().map_or(0, |s| s.allocated),
    }
}

/// The shared lane counts claims, in 20 bits: fewer than its granules are ever on their way, so the
/// difference says how many, and a difference beyond that is a negative one.
fn shared_row(tail: u64, acked: &Acked) -> Row {
    let modulus = 1i64 << shared::CLAIM_BITS;
    let taken = acked.shared_count + acked.skipped;
    let claims = shared::claims(tail).cast_signed();
    let mut pending = claims.wrapping_sub(taken.cast_signed()).rem_euclid(modulus);
    if pending > i64::from(MAX_GRANULES) {
        pending -= modulus;
    }
    let granules = shared::position(tail).saturating_sub(acked.shared_released);
    Row {
        name: "shared".into(),
        written: acked.shared_count.saturating_add_signed(pending),
        delivered: acked.shared_count,
        pending,
        pending_bytes: granules.min(u64::from(MAX_GRANULES)) * GRANULE,
        ..Row::default()
    }
}

/// The spill counts records that were committed, right after. One may be delivered before it is counted, and for
/// good without that if its writer was killed in between: at most one a thread, and one for each call that
/// interrupted another (`most_uncounted`).
fn spill_row(counted: u64, most_uncounted: u64, tail: u64, acked: &Acked) -> Row {
    let uncounted = acked.spill_count.saturating_sub(counted);
    let written = if uncounted <= most_uncounted { counted.max(acked.spill_count) } else { counted };
    Row {
        name: "spill".into(),
        written,
        delivered: acked.spill_count,
        pending_bytes: tail.saturating_sub(acked.spill_delivered).saturating_mul(GRANULE),
        ..Row::default()
    }
    .balance()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(shared: u64, skipped: u64, spill: u64) -> Acked {
        Acked {
            lanes: Vec::new(),
            shared_count: shared,
            shared_released: 0,
            skipped,
            spill_count: spill,
            spill_delivered: 0,
            reported: 0,
        }
    }

    #[test]
    fn rows_add_up() {
        let r = Row { written: 10, delivered: 4, suppressed: 1, lost: 2, ..Row::default() }.balance();
        assert_eq!(r.pending, 3);
        let r = Row { written: 10, delivered: 11, ..Row::default() }.balance();
        assert_eq!(r.pending, -1);
    }

    #[test]
    fn claims_wrap() {
        let at = |claims: u64| shared::tail_word(100, claims);
        let r = shared_row(at(5), &acked(3, 1, 0));
        assert_eq!((r.pending, r.written), (1, 4));
        // 2^20 + 2 claims, 2^20 of them taken.
        let r = shared_row(at((1 << 20) + 2), &acked(1 << 20, 0, 0));
        assert_eq!((r.pending, r.written), (2, (1 << 20) + 2));
        let r = shared_row(at(1), &acked(1 << 20, 0, 0));
        assert_eq!(r.pending, 1);
        // More taken than claimed.
        assert_eq!(shared_row(at(3), &acked(4, 0, 0)).pending, -1);
    }

    #[test]
    fn a_spilled_record_that_was_not_counted_is_written_all_the_same() {
        assert_eq!(spill_row(7, 1, 0, &acked(0, 0, 5)).pending, 2);
        let r = spill_row(7, 1, 0, &acked(0, 0, 8));
        assert_eq!((r.written, r.pending), (8, 0));
        // More than there are threads: one was delivered twice.
        assert_eq!(spill_row(7, 1, 0, &acked(0, 0, 9)).pending, -2);
    }
}
