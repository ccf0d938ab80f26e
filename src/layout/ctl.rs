//! `ctl`: one page a channel, made by the first comer, written by its drain afterwards.

/// `ctl`'s magic: "SPRCTRL\x01".
pub const MAGIC: u64 = u64::from_le_bytes(*b"SPRCTRL\x01");
/// Length of the file.
pub const LEN: u64 = 4096;

super::fields! { "ctl":
    /// Magic; published with the file (the file is complete before it has its name).
    CTL_MAGIC @ 0, 8;
    /// Layout version.
    VERSION @ 8, 4;
    /// Architecture.
    ARCH @ 12, 4;
    /// Identity of the present drain: `pid << 32 | low 32 bits of a hash of start time and AT_RANDOM`, 0 = none.
    DRAIN @ 16, 8;
    /// Nonce of the present drain.
    DRAIN_NONCE @ 24, 8;
    /// Random id of the journal this channel drains to, 0 = none yet.
    JOURNAL_ID @ 32, 8;
    /// Passes of the drain since it started; readers see that it moves.
    PASSES @ 48, 8;
    /// Whether and how the drain sleeps ([`PARKS`], [`SLEEPS`]), and above that a count of sleeps. A futex word (low
    /// half), written by the drain alone; one that was killed in its sleep leaves it as it is.
    SLEEP @ 64, 8;
    /// Refreshed by a spinning drain: ticks for `SPILLRING_CLOCK=tick`.
    TICK @ 128, 8;
    /// Clock calibration, a seqlock: odd while it is written, and after a drain that died in it; 0 = never
    /// written.
    CAL_SEQ @ 192, 8;
    /// Ticks of the calibration's anchor.
    CAL_TICKS @ 200, 8;
    /// UTC of the anchor, ns.
    CAL_UTC @ 208, 8;
    /// ns per tick, 2^-32 fixed point.
    CAL_MULT @ 216, 8;
    /// Of rings that are gone: records written.
    GONE_WRITTEN @ 256, 8;
    /// Of rings that are gone: records delivered.
    GONE_DELIVERED @ 264, 8;
    /// Of rings that are gone: records lost.
    GONE_LOST @ 272, 8;
    /// Rings that are gone.
    GONE_RINGS @ 280, 8;
    /// Records of the journal that came from rings, over its whole life.
    DELIVERED @ 288, 8;
    /// Records reported lost, likewise.
    LOST @ 296, 8;
    /// Odd while a ring is taken away that is not yet counted among those that are gone.
    GONE_SEQ @ 304, 8;
}

/// In [`SLEEP`]: every call is to wake the drain.
pub const PARKS: u32 = 1;
/// In [`SLEEP`]: only who waits for the drain, or could not do without it, is to wake it.
pub const SLEEPS: u32 = 2;
/// One sleep in [`SLEEP`]: the bits below are how.
pub const A_SLEEP: u32 = 4;
