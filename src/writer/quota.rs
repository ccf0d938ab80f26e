//! Whether the spill may grow: what the channel's spill files may take together, and how it is shared.
//!
//! No word has writers in two processes, so the processes of a channel share a quota without a common count:
//! each looks at the blocks of all spill files (fstat, for space is given back by holes) and allows itself
//! what is left. A look costs more than a page, so it holds until this process has backed a part of what
//! it found left, and for [`LOOK_NS`]; by so much several processes together may exceed the quota. Everything here
//! is async-signal-safe.

use super::attach::Ring;
use crate::channel::ChannelPaths;
use crate::layout::ring::{GRANULE, ack};
use crate::layout::{PAGE, spill};
use crate::sync::{AtomicU64, Ordering::*};
use crate::sys;

/// A look holds for this part of the bytes it found left,
const LOOK_PART: u64 = 16;
/// but at least, and at most, for so many.
const LOOK_BYTES: (u64, u64) = (16 << 10, 1 << 20);
/// How long it holds, ns.
const LOOK_NS: u64 = 100_000_000;
/// Bytes that a granule takes with its word.
const COST: u64 = GRANULE + 8;
/// Bytes that it may take beyond: a page of words, and one of granules, that it only begins.
const SLACK: u64 = 2 * PAGE;
/// How long the answer "no" holds without the kernel being asked at all, ns: a flood of losses should not
/// cost a system call each.
const CLOSED_NS: u64 = 1_000_000;

/// What one process knows of the room that its spill has. All words are hints, each stored and loaded alone:
/// who reads an old one looks sooner or later than it might.
pub(super) struct Quota {
    /// Bytes for all spill files of the channel; `None`: a quarter of what there is.
    limit: Option<u64>,
    /// Up to where this process's spill may be backed, in bytes ever backed, before somebody looks again; 0 =
    /// nobody has looked yet.
    until: AtomicU64,
    /// When (CLOCK_MONOTONIC, ns) the last look was.
    looked: AtomicU64,
    /// Until when the answer is no.
    closed: AtomicU64,
}

impl Quota {
    pub const fn new(limit: Option<u64>) -> Quota {
        let [until, looked, closed] = [const { AtomicU64::new(0) }; 3];
        Quota { limit, until, looked, closed }
    }

    /// Whether the answer was no a moment ago. `now`: CLOCK_MONOTONIC, ns.
    pub fn closed(&self, now: u64) -> bool {
        now < self.closed.load(Relaxed)
    }

    /// The answer is no for a moment.
    pub fn close(&self, now: u64) {
        // Blocks are gone, whatever bytes are left: the next one has to look.
        self.until.store(0, Relaxed);
        self.closed.store(now + CLOSED_NS, Relaxed);
    }

    /// How far the spill of this process may be backed from position `from`: up to one between `least` and `most`.
    pub fn allows(&self, ring: &Ring, from: u64, least: u64, most: u64, now: u64) -> Option<u64> {
        let wants = (least - from) * COST + SLACK;
        let known = self.until.load(Relaxed).saturating_sub(from * COST);
        let fresh = now.saturating_sub(self.looked.load(Relaxed)) < LOOK_NS;
        let left = if fresh && known >= wants { known } else { self.look(ring, from, wants, now)? };
        // To whole pages: what it takes of another one, it takes all of.
        let to = from + (left - SLACK) / COST;
        Some(if to >= most { most } else { least.max(to & !(PAGE / GRANULE - 1)) })
    }

    /// Bytes that may be backed, at least so many. None: no.
    #[cold]
    fn look(&self, ring: &Ring, from: u64, wants: u64, now: u64) -> Option<u64> {
        // Files are opened here, and that is where a cancelled thread ends: in the midst of a call.
        let _uncancelled = sys::thread::CancelDisabled::new();
        let paths = super::attach::channel_paths();
        // Programs close and reuse descriptors (closefrom in a daemon's start): what the file takes is known here
        // as well, but for large pages and holes above one that stays.
        let st = sys::file::fstat(ring.spill_fd).ok().filter(|st| st.id == ring.files.spill_id);
        let released = ring.ack_word(ack::SPILL_RELEASED).load(Relaxed);
        let allocated = st.map_or(from.saturating_sub(released) * COST + spill::HEADER, |st| st.allocated);
        let room = match (self.limit, paths) {
            (Some(limit), Some(paths)) => share(limit, allocated, others(paths, ring)),
            (Some(limit), None) => limit,
            (None, _) => {
                // At most a quarter of what would be free without this spill, and of what the memory cgroup
                // has left (beyond its limit the kernel kills instead of failing): any number of processes
                // together leave something.
                let fs = match st {
                    Some(_) => sys::file::fstatfs(ring.spill_fd).ok(),
                    None => paths.and_then(|p| sys::file::statfs(p.dir().as_c()).ok()),
                };
                let room = sys::room::memory_room().unwrap_or(u64::MAX);
                fs.map_or(0, |f| f.free).min(room).saturating_add(allocated) / 4
            }
        };
        let left = room.saturating_sub(allocated);
        if left < wants {
            self.close(now);
            return None;
        }
        let holds = (left / LOOK_PART).clamp(LOOK_BYTES.0, LOOK_BYTES.1).max(wants).min(left);
        self.until.store(from * COST + holds, Relaxed);
        self.looked.store(now, Relaxed);
        Some(holds)
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
