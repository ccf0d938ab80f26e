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
//! | `room:R` / `room:A` | drain (`released`) | writers | the drain's copies out of the space, before a writer overwrites it |
//! | `bell:AR` / `bell:A` | spilling writer, after its append | drain | the append (whose inode lock orders the bytes themselves) |
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
//! | `SHARED_TAIL` | any, CAS | after the CAS | a hole: granules without a word of their lap; skipped once the process is dead |
//! | commit word | the claimer | after OPEN | a hole with a name; skipped once its thread is gone |
//! | | | after COMMITTED | the record exists |
//! | `AUX` | any that spills, xadd | after it | a number that no frame carries; numbers are compared, never counted |
//! | `SPILL_SIZE` | any, xadd | after it | bytes reserved and not written: the quota is that much smaller for this process |
//! | spill file | any, append | within it | a torn frame: skipped when a valid frame follows or the owner is dead |
//! | `DOORBELL` | any, xadd | before it | the frame is found by the pass after death; the call had not returned |
//! | `released` | the drain | after it | the journal has it already |
//! | `CAL_SEQ` | the drain | after it was made odd | odd, behind it any mixture of two lines: readers give up; the next drain sets it odd, writes, makes it even |

pub mod calibration;
pub mod call;
pub mod shared;
pub mod thread;

pub use call::{Env, Outcome};
pub use shared::SharedLane;
pub use thread::ThreadLane;

/// Something that can be written as one record into payload bytes of kind `B`.
pub trait Record<B: ?Sized> {
    /// Bytes of header and payload, without padding.
    fn size(&self) -> u64;
    /// Writes header and payload at `at`. Called once, after the room was found; it takes the
    /// timestamp.
    fn write(&self, to: &B, at: u64);
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
    aux: u64,
}

impl Order {
    /// Behind all others.
    pub const MAX: Order = Order { at: u64::MAX, shared: true, aux: u64::MAX };

    /// Of a record at this position of the shared lane, in granules.
    pub fn shared(at: u64) -> Order {
        Order { at, shared: true, aux: 0 }
    }
}

/// The key of a record in the spill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillKey {
    /// What it would have had in the shared lane.
    pub slow: SlowKey,
    /// Position of the shared lane's tail, loaded in the call.
    pub at: u64,
    /// Process-wide counter of the calls that spill; no two have the same.
    pub aux: u64,
}

impl SpillKey {
    /// Its place in the order of its thread's records.
    pub fn order(&self) -> Order {
        Order { at: self.at, shared: false, aux: self.aux }
    }
}

/// Position arithmetic: positions are `u64` that wrap (tests start near the wrap).
#[inline(always)]
pub(crate) fn round8(n: u64) -> u64 {
    (n + 7) & !7
}
