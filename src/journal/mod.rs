//! The journal: the ordered, checksummed, append-only log on disk.
//!
//! A batch of records goes out with the cursors of the lanes that it was taken from, in one write and
//! under one checksum: so the batch *is* the commit. Whatever instruction the writer dies at, the batch
//! either is there or is not, and with it both the records and the knowledge that they were taken.
//!
//! - A segment starts with a batch that holds all cursors ([`batch::FULL`]). Recovery folds the cursors of
//!   all valid batches from the newest segment with a full set on.
//! - Each batch header carries its own offset and the segment's random key, which producers cannot read: a
//!   payload that looks like a batch is never taken for one.
//! - A batch that does not fit on the disk is cut away again and kept in memory, to be tried again.
//! - Recovery cuts a torn tail only of the newest segment and only when no valid batch follows. A segment
//!   that is damaged otherwise is left as it is, and a new one is begun: nothing is deleted that may have
//!   been released.
//! - An old segment is deleted only after the first batch of a newer one is there.
//!
//! [`batch::FULL`]: crate::layout::journal::batch::FULL
//!
//! Nothing here is async-signal-safe. All of it may block on the disk.

mod format;
mod read;
mod storage;
mod write;

pub use format::{
    BatchHeader, CursorKey, Encoder, Loss, Position, Record, Segment, Site, SiteFacts, Thread, ThreadFacts,
    kind,
};
pub use read::{BatchView, Entries, Entry, Item, Reader};
pub use storage::{DirSource, DirStorage, MemStorage, Op, Source, Standing, Storage};
pub use write::{BatchPos, Journal, Options, Recovered, Sync, Taken, Together};
