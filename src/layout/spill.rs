//! `P.spill`: an identity page, a commit word for each granule, the granules. The file has its whole length from
//! the start and takes no blocks but what its producer has backed (`layout::ring::word::SPILL_BACKED`).
//!
//! Positions are granules and count up for ever; a position's place is its remainder by the number of granules.

use super::ring::{GRANULE, MAX_RECORD};

/// `P.spill`'s magic: "SPRSPIL\x01".
pub const MAGIC: u64 = u64::from_le_bytes(*b"SPRSPIL\x01");
/// Bytes before the first commit word; never punched.
pub const HEADER: u64 = 4096;

super::fields! { "spill header":
    /// Granules (a power of two), 0 = this producer cannot spill.
    GRANULES @ 96, 8;
}

/// The key before a record in the spill.
pub mod key {
    use crate::layout::ring::slow;

    super::super::fields! { "spill key":
        /// Position of the shared lane's tail, loaded in the call.
        AT @ 0, 8;
        /// A slow key.
        SLOW @ 8, slow::LEN;
    }
    /// Bytes of the key.
    pub const KEY: u64 = SLOW + slow::LEN;
}
pub use key::{AT, KEY, SLOW};

/// Granules whose words fill a page: backed and given back together, 32 KiB of data.
pub const UNIT: u64 = super::PAGE / 8;
/// Limit: fewest granules of a spill.
pub const MIN_GRANULES: u64 = UNIT;
/// Limit: granules of a spill, 1 TiB.
pub const MAX_GRANULES: u64 = 1 << 34;
/// Granules of a spill that any record fits in: one takes a quarter at most.
pub const WHOLE_GRANULES: u64 = (4 * (MAX_RECORD + KEY) / GRANULE).next_power_of_two();
/// Granules of a spill unless its quota is larger, 16 GiB.
pub const USUAL_GRANULES: u64 = (16 << 30) / GRANULE;

/// Bytes of the file.
pub const fn file_len(granules: u64) -> u64 {
    granule(granules, granules)
}
/// Commit word of granule `i`.
pub const fn commit_word(i: u64) -> u64 {
    HEADER + i * 8
}
/// Data of granule `i` of `granules`.
pub const fn granule(granules: u64, i: u64) -> u64 {
    commit_word(granules) + i * GRANULE
}
/// Whether a spill may have so many granules.
pub const fn valid(granules: u64) -> bool {
    granules == 0 || granules >= MIN_GRANULES && granules <= MAX_GRANULES && granules.is_power_of_two()
}

const _: () = assert!(valid(USUAL_GRANULES) && valid(WHOLE_GRANULES) && WHOLE_GRANULES < USUAL_GRANULES);
