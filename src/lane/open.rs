//! Records whose size shows while they are written.
//!
//! Nothing tells of a record in a thread lane before its tail is stored, so its size may be found as late as that. What it
//! has written beyond its own end, or before it was given up, lies between tail and limit: within the lap, released by the
//! drain, and read by nobody, since all who read stop at the tail. Only the lane's owner writes there, and no handler of
//! it while `busy` is set. An owner that dies leaves bytes that the next use of the lane overwrites.

/// As [`super::Record`], of a size that shows while it is written.
pub trait OpenRecord<B: ?Sized> {
    /// The room that it takes to write it.
    fn most(&self) -> u64;
    /// Writes header and payload at `at`, and anything to the rest of the room. Answers their bytes, which rounded up to
    /// a multiple of 8 are within the room. None: they would not be, and nothing is to be published.
    fn write(&self, to: &B, at: u64) -> Option<u64>;
}
