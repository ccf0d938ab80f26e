//! The lanes of a ring and the body of one log call.
//!
//! Everything here is generic over its words ([`crate::sync::Word`], [`crate::sync::Bytes`]): the
//! program runs it on a mapping, `tests/models` runs the same bodies on a model checker.
//!
//! # The ordering pairs
//!
//! | label | written by | read by | what it carries |
//! |---|---|---|---|
//! | `tail:R` / `tail:A` | owner of a thread lane | drain, observers | the record's bytes before the tail that covers them |
//! | `claim:AR` / `claim:A` | any writer, CAS | drain, writers | nothing but the position; a claimed granule says nothing until its word does |
//! | `word:R` / `word:A` | claimer of the granule | drain, observers | OPEN, PAD: nothing; COMMITTED: the record's bytes |
//! | `room:R` / `room:A` | drain (`released`) | writers | the drain's copies out of the space (of the spill: and its hole in the file), before a writer overwrites it (or backs it) |
//! | `back:AR` / `back:A` | whoever has backed more of the spill, CAS | writers, drain | the memory behind it, and the `released` that it was bounded by |
//! | `flush:AR` / `flush:A` | any thread | drain, before S1 | every publication that returned before the flush was asked for |
//! | `cal:R` / `cal:A` | drain (`CAL_SEQ` made even) | readers of the calibration | the line's words |
//! | `odd:R` / `odd:A` | drain (a word of the line) | readers, before their second look | the odd `CAL_SEQ` that was stored before it |
//!
//! Thread-local state (`busy`, how far the lane may be written without a look) is seen by one thread and its signal handlers
//! only: compiler fences order it, no processor fence is needed.
//!
//! # Who writes, and what is left when the writer dies right there
//!
//! | word | one writer? | dies after it | then |
//! |---|---|---|---|
//! | lane `TAIL` | its owner | before the store | nothing is published; the bytes are overwritten by the next use of the lane |
//! | | | after the store | the record exists |
//! | lane `WRITTEN` | its owner, before `TAIL` | between the two | its tag disagrees with `TAIL`, so readers take the count before it |
//! | `SHARED_TAIL`, `SPILL_TAIL` | any, CAS | after the CAS | a hole: granules without a word of their lap; skipped once the process is dead |
//! | commit word | the claimer | after OPEN | a hole with a name; skipped once its thread is gone |
//! | | | after COMMITTED | the record exists |
//! | `SPILL_BACKED` | any, CAS | before it | memory that nobody knows of: the next one backs it again, which costs nothing |
//! | `SPILLED` | any, xadd | before it | a record that is delivered and not counted; the call had not returned |
//! | `released` | the drain | after it | the journal has it already (and of the spill: the file has a hole there) |
//! | | | before it, of the spill | a hole in the file that no writer knows of: the next drain makes it again |
//! | `CAL_SEQ` | the drain | after it was made odd | odd, behind it any mixture of two lines: readers give up; the next drain sets it odd, writes, makes it even |

pub mod calibration;
pub mod call;
pub mod open;
pub mod shared;
pub mod thread;

pub use call::{Env, Outcome};
pub use open::OpenRecord;
pub use shared::{Refused, SharedLane};
pub use thread::ThreadLane;

use crate::layout::spill;

/// Something that can be written as one record into payload bytes of kind `B`.
pub trait Record<B: ?Sized> {
    /// Bytes of header and payload, without padding.
    fn size(&self) -> u64;
    /// Its timestamp: now. `busy` is set. Where a call goes on elsewhere it is asked for again.
    fn time(&self) -> u64;
    /// Writes header and payload at `at`, with that timestamp. Called once, after the room was found.
    fn write(&self, to: &B, at: u64, time: u64);
}

/// The key of a slow-path record, as it stands before the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowKey {
    /// The thread's number.
    pub thread: u64,
    /// Tail of the thread's lane, read under `busy`; [`crate::layout::ring::slow::NO_LANE`] without one.
    pub t: u64,
    /// Cumulative loss of the lane (of the process, without one).
    pub lost: u64,
}

impl SlowKey {
    /// Its stored form.
    #[inline(always)]
    pub fn to_bytes(self) -> [u8; crate::layout::ring::slow::LEN as usize] {
        let mut b = [0; crate::layout::ring::slow::LEN as usize];
        for (i, v) in [self.thread, self.t, self.lost].into_iter().enumerate() {
            b[i * 8..i * 8 + 8].copy_from_slice(&v.to_le_bytes());
        }
        b
    }
    /// From its stored form; `b` holds at least [`crate::layout::ring::slow::LEN`] bytes.
    pub fn from_bytes(b: &[u8]) -> Self {
        let w = |i: usize| u64::from_le_bytes(b[i * 8..i * 8 + 8].try_into().expect("8 bytes"));
        SlowKey { thread: w(0), t: w(1), lost: w(2) }
    }
}

/// Where a slow record stands among those of its thread; [`call`] says why this is the order of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    at: u64,
    /// At one position what was spilled stands first.
    shared: bool,
    spilled: u64,
}

impl Order {
    /// Behind all others.
    pub const MAX: Order = Order { at: u64::MAX, shared: true, spilled: u64::MAX };

    /// Of a record at this position of the shared lane, in granules.
    pub fn shared(at: u64) -> Order {
        Order { at, shared: true, spilled: 0 }
    }

    /// Of a record at position `p` of the spill, whose call found the shared lane's tail at `at`.
    pub fn spilled(at: u64, p: u64) -> Order {
        // Never that of nothing.
        Order { at, shared: false, spilled: p + 1 }
    }
}

/// The key of a record in the spill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillKey {
    /// What it would have had in the shared lane.
    pub slow: SlowKey,
    /// Position of the shared lane's tail, loaded in the call.
    pub at: u64,
}

impl SpillKey {
    /// Its stored form.
    pub fn to_bytes(self) -> [u8; spill::KEY as usize] {
        let mut b = [0; spill::KEY as usize];
        b[spill::AT as usize..][..8].copy_from_slice(&self.at.to_le_bytes());
        b[spill::SLOW as usize..].copy_from_slice(&self.slow.to_bytes());
        b
    }
    /// From its stored form; `b` holds at least [`spill::KEY`] bytes.
    pub fn from_bytes(b: &[u8]) -> Self {
        let at = u64::from_le_bytes(b[spill::AT as usize..][..8].try_into().expect("8 bytes"));
        SpillKey { slow: SlowKey::from_bytes(&b[spill::SLOW as usize..]), at }
    }
}

/// Position arithmetic: positions are `u64` that wrap (tests start near the wrap).
#[inline(always)]
pub(crate) fn round8(n: u64) -> u64 {
    (n + 7) & !7
}
