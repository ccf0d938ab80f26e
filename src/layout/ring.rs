//! `P.ring` (header, process words, lane headers, thread slots, commit words, shared data, site
//! arena, lane data) and `P.ack` (what the drain has released of it).

use super::{Field, PAGE, fields, round_up};

/// `P.ring`'s magic: "SPRRING\x01".
pub const MAGIC: u64 = u64::from_le_bytes(*b"SPRRING\x01");
/// `P.ack`'s magic: "SPRRACK\x01".
pub const ACK_MAGIC: u64 = u64::from_le_bytes(*b"SPRRACK\x01");

/// The identity of a producer, the same bytes at the same place in `P.ring`, `P.ack` and `P.spill`.
pub mod id {
    super::fields! { "identity":
        /// Magic of the file; published last.
        MAGIC @ 0, 8;
        /// Layout version.
        VERSION @ 8, 4;
        /// Architecture (`layout::ARCH`).
        ARCH @ 12, 4;
        /// Length of the file in bytes (ring, ack) or of its header (spill).
        FILE_LEN @ 16, 8;
        /// Random number of this producer; part of the file name.
        NONCE @ 24, 8;
        /// Boot id of the kernel (RFC 4122 bytes).
        BOOT_ID @ 32, 16;
        /// Pid in the producer's own pid namespace.
        PID @ 48, 4;
        /// Effective uid.
        UID @ 52, 4;
        /// Start time of the process, clock ticks since boot (`/proc/self/stat` field 22).
        START @ 56, 8;
        /// Inode number of the pid namespace (0 = unknown).
        PID_NS @ 64, 8;
        /// Inode number of the time namespace (0 = unknown).
        TIME_NS @ 72, 8;
        /// `/proc/self/comm`, zero padded.
        COMM @ 80, 16;
    }
    /// Bytes of the identity.
    pub const LEN: u64 = 96;
}

fields! { "ring header":
    /// Number of lanes.
    LANES @ 96, 4;
    /// Number of thread slots.
    SLOTS @ 100, 4;
    /// Granules of the shared lane (power of two).
    GRANULES @ 104, 4;
    /// Clock of the timestamps: 1 = TSC, 2 = CLOCK_MONOTONIC_RAW in ns, 3 = `ctl`'s tick word.
    CLOCK @ 108, 4;
    /// Bytes reserved for each lane's data (power of two, multiple of the page).
    LANE_STRIDE @ 112, 8;
    /// Bytes of the site arena.
    ARENA_LEN @ 120, 8;
    /// Ticks at attach, read between two readings of UTC.
    ANCHOR_TICKS @ 128, 8;
    /// UTC at attach, ns since the epoch.
    ANCHOR_UTC @ 136, 8;
    /// Frequency of the ticks in Hz as the kernel tells it, 0 = not known (the drain measures).
    TICK_HZ @ 144, 8;
}

/// Bytes between process words that different parties write: two cache lines (adjacent-line prefetch).
pub const SPREAD: u64 = 128;
/// Start of the process words.
pub const PROCESS: u64 = PAGE;

/// Process-wide words, each 8 bytes on two cache lines of its own, from [`PROCESS`] on.
pub mod word {
    use super::{PROCESS, SPREAD};
    super::fields! { "process words":
        /// Records that were committed in the spill: LOCK xadd. Counts, and orders nothing.
        SPILLED @ PROCESS, 8;
        /// Tail of the shared lane: position in granules (44 bits) and claims so far (low 20 bits).
        SHARED_TAIL @ PROCESS + SPREAD, 8;
        /// Tail of the spill, like `SHARED_TAIL`.
        SPILL_TAIL @ PROCESS + 2 * SPREAD, 8;
        /// Flushes asked for: LOCK xadd.
        FLUSH @ PROCESS + 3 * SPREAD, 8;
        /// Position up to which the spill's granules and their words have memory behind them; it only grows.
        SPILL_BACKED @ PROCESS + 4 * SPREAD, 8;
        /// Thread numbers given so far: LOCK xadd; the first is 1.
        THREADS @ PROCESS + 5 * SPREAD, 8;
        /// Records lost by threads without a lane, cumulative.
        LOST @ PROCESS + 6 * SPREAD, 8;
        /// Bytes of the site arena handed out: LOCK xadd.
        SITES_TAIL @ PROCESS + 7 * SPREAD, 8;
        /// Calls that found `busy` left set by longjmp or cancellation or by an interrupted call.
        NESTED @ PROCESS + 8 * SPREAD, 8;
        /// Spill calls of threads without a lane.
        KERNEL_CALLS @ PROCESS + 9 * SPREAD, 8;
        /// The longest of them, ns.
        KERNEL_MAX_NS @ PROCESS + 9 * SPREAD + 8, 8;
        /// Records that a level gate changed at run time suppressed (after the key was counted).
        SUPPRESSED @ PROCESS + 10 * SPREAD, 8;
        /// Lanes that were ever made: every lane with a capacity has a lower number. It only grows.
        LANES_USED @ PROCESS + 11 * SPREAD, 8;
    }
}

/// Start of the lane headers.
pub const LANE_HEADERS: u64 = 2 * PAGE;

/// One lane header.
pub mod lane {
    super::fields! { "lane header":
        /// Position behind the last published record, bytes; written by the owner only.
        TAIL @ 0, 8;
        /// Records published: low 23 bits of `TAIL / 8` that the count belongs to, then 40 bits of the count, then
        /// whether what was published last is a record.
        WRITTEN @ 8, 8;
        /// Capacity in bytes (power of two), 0 = no lane here yet; set once.
        CAPACITY @ 16, 8;
        /// Owner: thread number in the high 48 bits, slot + 1 in the low 16, 0 = free; compare-exchange.
        /// Thread numbers are never given again, so no value comes back.
        OWNER @ 24, 8;
        /// Records lost, cumulative.
        LOST @ 32, 8;
        /// `LOST` as of the last marker in the lane.
        MARKED @ 40, 8;
        /// Calls of the owner that entered the kernel.
        KERNEL_CALLS @ 48, 8;
        /// The longest of them, ns.
        KERNEL_MAX_NS @ 56, 8;
    }
    /// Bytes of one lane header.
    pub const LEN: u64 = 128;
}

/// One thread slot.
pub mod slot {
    super::fields! { "thread slot":
        /// tid in the high 32 bits, then 30 bits of the thread's number, then flags; 0 = never used;
        /// compare-exchange.
        OWNER @ 0, 8;
        /// CLOCK_BOOTTIME at the claim, ns: a thread of this tid that started later is another one.
        CLAIMED_AT @ 8, 8;
        /// The thread's number in this process.
        THREAD @ 16, 8;
        /// Lane + 1, 0 = none.
        LANE @ 24, 8;
    }
    /// Bytes of one slot.
    pub const LEN: u64 = 32;
    /// In `OWNER`: taken.
    pub const TAKEN: u64 = 1;
    /// In `OWNER`: claimed outside the process of the header (vfork, CLONE_VM); never judged gone.
    pub const FOREIGN: u64 = 2;
}

/// Commit words (see `lane/shared.rs`): `lap:32 | granules:19 | slot:11 | state:2`.
pub mod commit {
    /// Claimed, its record is being written.
    pub const OPEN: u64 = 1;
    /// Holds a record.
    pub const COMMITTED: u64 = 2;
    /// The rest of the lap, skipped.
    pub const PAD: u64 = 3;
    /// The word of one granule.
    pub const fn word(lap: u32, granules: u64, slot: u16, state: u64) -> u64 {
        (lap as u64) << 32 | granules << 13 | (slot as u64) << 2 | state
    }
    /// The granules that a word speaks of.
    pub const fn granules(word: u64) -> u64 {
        word >> 13 & MAX_GRANULES
    }
    /// The slot in a word.
    pub const fn slot(word: u64) -> u16 {
        (word >> 2) as u16 & super::NO_SLOT
    }
    /// Most granules that a word can speak of.
    pub const MAX_GRANULES: u64 = (1 << 19) - 1;
}
/// Bytes of a granule.
pub const GRANULE: u64 = 64;
/// Slot number in an OPEN word of a thread that has none.
pub const NO_SLOT: u16 = (1 << 11) - 1;

/// Limit: lanes a process.
pub const MAX_LANES: u32 = 256;
/// Limit: threads a process that may use the shared lane at a time; others spill.
pub const MAX_SLOTS: u32 = 1024;
/// Limit: granules of the shared lane.
pub const MAX_GRANULES: u32 = 4096;
/// Limit: bytes of a lane.
pub const MAX_LANE: u64 = 1 << 28;
/// Smallest lane, bytes.
pub const MIN_LANE: u64 = 4096;
/// Bytes of the site arena.
pub const ARENA: u64 = 128 << 10;
/// Limit: bytes of one record on its way (header and payload).
pub const MAX_RECORD: u64 = 16 << 20;

const _: () = assert!(MAX_SLOTS < NO_SLOT as u32);
const _: () = assert!(MAX_GRANULES as u64 <= commit::MAX_GRANULES);
const _: () = assert!((super::spill::KEY + MAX_RECORD).div_ceil(GRANULE) <= commit::MAX_GRANULES);
const _: () = assert!(word::TABLE[word::TABLE.len() - 1].offset + 8 <= LANE_HEADERS);

/// Where the parts of a ring file lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of lanes.
    pub lanes: u32,
    /// Number of thread slots.
    pub slots: u32,
    /// Granules of the shared lane.
    pub granules: u32,
    /// Bytes reserved for each lane's data.
    pub lane_stride: u64,
    /// Bytes of the site arena.
    pub arena: u64,
}

impl Geometry {
    /// Whether every number is inside its limits, so that no offset computed from it overflows.
    pub const fn valid(&self) -> bool {
        self.lanes >= 1
            && self.lanes <= MAX_LANES
            && self.slots >= 1
            && self.slots <= MAX_SLOTS
            && self.granules >= 4
            && self.granules <= MAX_GRANULES
            && self.granules.is_power_of_two()
            && self.lane_stride >= MIN_LANE
            && self.lane_stride <= MAX_LANE
            && self.lane_stride.is_power_of_two()
            && self.arena <= 1 << 24
            && self.arena.is_multiple_of(PAGE)
    }
    /// Header of lane `i`.
    pub const fn lane_header(&self, i: u32) -> u64 {
        LANE_HEADERS + i as u64 * lane::LEN
    }
    /// Thread slot `i`.
    pub const fn slot(&self, i: u32) -> u64 {
        round_up(self.lane_header(self.lanes), PAGE) + i as u64 * slot::LEN
    }
    /// Commit word `i`; of which granule, `lane::shared::word_at` says.
    pub const fn commit_word(&self, i: u32) -> u64 {
        round_up(self.slot(self.slots), PAGE) + i as u64 * 8
    }
    /// Data of granule `i`.
    pub const fn granule(&self, i: u32) -> u64 {
        round_up(self.commit_word(self.granules), PAGE) + i as u64 * GRANULE
    }
    /// The site arena.
    pub const fn arena_at(&self) -> u64 {
        round_up(self.granule(self.granules), PAGE)
    }
    /// Data of lane `i`; `lane_data(0)` is where the part that is always allocated ends.
    pub const fn lane_data(&self, i: u32) -> u64 {
        self.arena_at() + self.arena + i as u64 * self.lane_stride
    }
    /// Length of the ring file (sparse behind `lane_data(0)`).
    pub const fn file_len(&self) -> u64 {
        self.lane_data(self.lanes)
    }
    /// Length of the ack file.
    pub const fn ack_len(&self) -> u64 {
        round_up(ack::lane(self.lanes), PAGE)
    }
}

/// `P.ack`: identity, then words that only the drain writes.
pub mod ack {
    super::fields! { "ack":
        /// Flushes that are done (a value that was read from the ring's FLUSH word).
        FLUSHED @ 128, 8;
        /// Shared lane: released position in granules.
        SHARED_RELEASED @ 192, 8;
        /// Shared lane: records delivered.
        SHARED_COUNT @ 200, 8;
        /// Spill: position below which its space was given back: the writers may back and write it anew.
        SPILL_RELEASED @ 208, 8;
        /// Spill: records delivered.
        SPILL_COUNT @ 216, 8;
        /// Shared lane: holes skipped because their writer is gone.
        SHARED_SKIPPED @ 224, 8;
        /// Loss of threads without a lane that is in the journal.
        LOST_REPORTED @ 232, 8;
        /// Spill: position below which everything is delivered.
        SPILL_DELIVERED @ 240, 8;
    }
    /// Start of the lanes' words.
    pub const LANES: u64 = 4096;
    /// Bytes a lane: one cache line, so that the release of one lane does not touch another's.
    pub const LANE_LEN: u64 = 64;
    /// In a lane's line: released position, bytes.
    pub const RELEASED: u64 = 0;
    /// In a lane's line: records delivered.
    pub const COUNT: u64 = 8;
    /// In a lane's line: loss that is in the journal.
    pub const REPORTED: u64 = 16;
    /// The line of lane `i`.
    pub const fn lane(i: u32) -> u64 {
        LANES + i as u64 * LANE_LEN
    }
}

/// All tables of this file.
pub const TABLES: &[&[Field]] = &[id::TABLE, TABLE, word::TABLE, lane::TABLE, slot::TABLE, ack::TABLE];

/// A record on its way: in a lane, and behind a [`slow`] key in the shared lane and in the spill.
///
/// `word0 = len | kind << 32 | reserved`: one store. `len` counts this header and the payload,
/// not the padding to 8 bytes that follows.
pub mod record {
    super::fields! { "record":
        /// Length in bytes (low 32 bits) and kind (next 8 bits).
        WORD0 @ 0, 8;
        /// Timestamp, raw ticks of the ring's clock.
        TICKS @ 8, 8;
        /// Site: 1 + offset of its entry in the site arena / 8; 0 = the entry stands before the payload.
        SITE @ 16, 4;
        /// Kind-specific flags.
        FLAGS @ 20, 4;
    }
    /// Bytes of the header.
    pub const HEADER: u64 = 24;
    /// A log record.
    pub const RECORD: u8 = 1;
    /// The rest of the lap; only `WORD0` is written, `len` is the number of bytes skipped.
    pub const PAD: u8 = 2;
    /// First record of a lane's new owner: payload [`THREAD_LEN`] bytes.
    pub const THREAD: u8 = 3;
    /// Loss marker: payload is the cumulative loss (u64) of the lane.
    pub const LOSS: u8 = 4;
    /// A chunk of captured output: its payload is those bytes.
    pub const CAPTURE: u8 = 5;
    /// `THREAD` payload: thread number u64, tid u32, slot u32, comm `[u8; 16]`.
    pub const THREAD_LEN: u64 = 32;
    /// A `WORD0`.
    pub const fn word0(len: u64, kind: u8) -> u64 {
        len | (kind as u64) << 32
    }
}

/// The key before a record on the slow path. What orders a thread's records is not in it: in the shared lane
/// that is where the record stands, in the spill a word before the key has it.
pub mod slow {
    super::fields! { "slow key":
        /// The thread's number.
        THREAD @ 0, 8;
        /// Tail of the thread's lane, read under `busy`; [`NO_LANE`] without a lane.
        T @ 8, 8;
        /// Cumulative loss of the thread's lane (of the process, without a lane) when the key was taken.
        LOST @ 16, 8;
    }
    /// Bytes of the key.
    pub const LEN: u64 = 24;
    /// `T` of a thread without a lane (yet): no position, those are multiples of 8.
    pub const NO_LANE: u64 = 1;
}
