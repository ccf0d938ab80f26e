//! Whether the spill may grow: what the channel's spill files may take together, and how it is shared.
//!
//! No word has writers in two processes, so the processes of a channel share a quota without a common count:
//! each looks at the blocks of all spill files (fstat, for space is given back by holes) and allows itself
//! what is left. A look costs more than an append, so it holds for [`LOOK_EVERY`] calls and [`LOOK_NS`], and a
//! process may exceed the quota by what it appends in between. Everything here is async-signal-safe.

use super::attach::Ring;
use crate::channel::ChannelPaths;
use crate::sync::{AtomicU64, Ordering::*};
use crate::sys;

/// Spill calls for which a look at the room holds.
const LOOK_EVERY: u64 = 64;
/// How long it holds, ns.
const LOOK_NS: u64 = 100_000_000;
/// How long the answer "no" holds without the kernel being asked at all, ns: a flood of losses should not
/// cost a system call each.
const CLOSED_NS: u64 = 1_000_000;

/// What one process knows of the room that its spill has. All words are hints, each stored and loaded alone:
/// who reads an old one looks sooner or later than it might.
pub(super) struct Quota {
    /// Bytes for all spill files of the channel; `None`: a quarter of what there is.
    limit: Option<u64>,
    /// How far this process's file may grow, as found by the last look; 0 = nobody has looked yet.
    room: AtomicU64,
    /// Calls that asked, and when (CLOCK_MONOTONIC, ns) the last look was.
    asked: AtomicU64,
    looked: AtomicU64,
    /// Until when the answer is no.
    closed: AtomicU64,
}

impl Quota {
    pub const fn new(limit: Option<u64>) -> Quota {
        let [room, asked, looked, closed] = [const { AtomicU64::new(0) }; 4];
        Quota { limit, room, asked, looked, closed }
    }

    /// Whether the last answer was no, a moment ago (`now`: CLOCK_MONOTONIC, ns).
    pub fn closed(&self, now: u64) -> bool {
        now < self.closed.load(Relaxed)
    }

    /// Whether the spill of this process, which has `allocated` bytes of blocks, may grow.
    pub fn may_spill(&self, ring: &Ring, allocated: u64, now: u64) -> bool {
        // A first look counts for nobody else until it is over: then everybody looks.
        let due = self.asked.fetch_add(1, Relaxed).is_multiple_of(LOOK_EVERY)
            || self.room.load(Relaxed) == 0
            || now.saturating_sub(self.looked.load(Relaxed)) >= LOOK_NS;
        if due {
            self.look(ring, allocated, now);
        }
        let yes = allocated <= self.room.load(Relaxed);
        if !yes {
            // What the next look finds may be another answer: it comes with the first call after this pause.
            self.closed.store(now + CLOSED_NS, Relaxed);
        }
        yes
    }

    #[cold]
    fn look(&self, ring: &Ring, allocated: u64, now: u64) {
        let room = match (self.limit, super::attach::channel_paths()) {
            (Some(limit), Some(paths)) => share(limit, allocated, others(paths, ring)),
            (Some(limit), None) => limit,
            (None, _) => {
                // At most a quarter of what would be free without this spill, and of what the memory cgroup
                // has left (beyond its limit the kernel kills instead of failing): any number of processes
                // together leave something.
                let free = sys::file::fstatfs(ring.spill_fd).map_or(0, |f| f.free);
                let room = sys::room::memory_room().unwrap_or(u64::MAX);
                free.min(room).saturating_add(allocated) / 4
            }
        };
        self.room.store(room.max(1), Relaxed);
        self.looked.store(now, Relaxed);
    }
}

/// Bytes of blocks that the spill files of the channel's other producers take. What cannot be read (a sandbox,
/// another root directory) counts for nothing: then the quota holds for this process alone.
fn others(paths: &ChannelPaths, ring: &Ring) -> u64 {
    let mut sum = 0u64;
    let _ = sys::file::for_each_name(paths.dir().as_c(), |name| {
        if !name.ends_with(b".spill") || name.starts_with(b".") {
            return;
        }
        if let Ok(path) = paths.dir().join(name)
            && let Ok(st) = sys::file::stat(path.as_c(), false)
            && st.is_file()
            && st.id != ring.files.spill_id
        {
            sum = sum.saturating_add(st.allocated);
        }
    });
    sum
}

/// How far a spill file with `own` bytes of blocks may grow when the others have `others` and all of them may
/// have `limit`. A quarter is for those that have spilled less than a sixteenth: whoever floods a channel
/// leaves something to those that come later.
const fn share(limit: u64, own: u64, others: u64) -> u64 {
    let left = limit.saturating_sub(others);
    let most = left.saturating_sub(limit / 4);
    let least = if left < limit / 16 { left } else { limit / 16 };
    let share = if most > least { most } else { least };
    // Nothing is left: not even what it has is its own.
    if left < own && share > left { left } else { share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_something_to_those_that_come_later() {
        const Q: u64 = 1 << 20;
        // Alone, one takes three quarters.
        assert_eq!(share(Q, 0, 0), Q / 4 * 3);
        // Beside it each one has a sixteenth, four of them all that is left.
        for n in 0..4 {
            assert_eq!(share(Q, 0, Q / 4 * 3 + n * Q / 16), Q / 16, "{n}");
        }
        assert_eq!(share(Q, 0, Q), 0);
        assert_eq!(share(Q, 9, Q + 5), 0);
        // When the first one's space is given back, the others may go on.
        assert_eq!(share(Q, Q / 16, Q / 16 * 3), Q / 16 * 9);
        assert_eq!((share(0, 0, 0), share(u64::MAX, 5, 0)), (0, u64::MAX - u64::MAX / 4));
    }

    #[test]
    fn greedy_producers_together_stay_within_the_quota() {
        // Whoever may, grows by a block, in any order.
        const Q: u64 = 1 << 20;
        let mut own = [4096u64; 12];
        let mut grown = true;
        while grown {
            grown = false;
            for i in 0..own.len() {
                let sum: u64 = own.iter().sum();
                if own[i] < share(Q, own[i], sum - own[i]) {
                    own[i] += 4096;
                    grown = true;
                }
            }
        }
        let sum: u64 = own.iter().sum();
        assert!((Q / 4 * 3 - 8192..=Q).contains(&sum), "{sum}");
        assert!(own.iter().all(|o| *o >= Q / 16), "{own:?}");
    }
}
