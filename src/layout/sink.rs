//! What a sink keeps: `sink-NAME.cursor` in the journal's directory (how far it has delivered, two
//! slots written in turn) and `sink-NAME.stat` in the channel's directory (what it is doing, one page
//! of words that anybody may map and read).

/// A slot of a cursor file.
pub mod cursor {
    /// Magic: "SPRSINK\x01".
    pub const MAGIC: u64 = u64::from_le_bytes(*b"SPRSINK\x01");
    /// Version.
    pub const VERSION: u32 = 1;

    super::super::fields! { "sink cursor":
        /// Magic.
        CUR_MAGIC @ 0, 8;
        /// Version.
        CUR_VERSION @ 8, 4;
        /// crc32c of the slot with this field zero.
        CUR_CRC @ 12, 4;
        /// Counts up with every save: of two sound slots the larger one counts.
        CUR_SEQ @ 16, 8;
        /// Flags.
        CUR_FLAGS @ 24, 4;
        /// Number of unfinished lines.
        CUR_HELD_COUNT @ 28, 4;
        /// Number of the first record that is not delivered.
        CUR_NEXT @ 32, 8;
        /// Bytes of the text from that record on that are delivered nevertheless.
        CUR_SKIP @ 40, 8;
        /// Records delivered since the sink exists.
        CUR_RECORDS @ 48, 8;
        /// Bytes delivered since the sink exists.
        CUR_BYTES @ 56, 8;
        /// Emitted time of the last delivered record, ns since the epoch.
        CUR_LAST_UTC @ 64, 8;
        /// Device of the output file, 0 = it is no file.
        CUR_DEV @ 72, 8;
        /// Its inode.
        CUR_INO @ 80, 8;
        /// Its length after the last write.
        CUR_LEN @ 88, 8;
        /// Where to read from (a `journal position`); before `CUR_NEXT` while lines are unfinished.
        CUR_POSITION @ 96, 48;
        /// Zero.
        CUR_RESERVED @ 144, 112;
        /// Unfinished lines.
        CUR_HELD @ 256, 512;
        /// Zero.
        CUR_REST @ 768, 256;
    }
    /// Bytes of a slot.
    pub const SLOT: u64 = 1024;
    /// Bytes of the file.
    pub const LEN: u64 = 2 * SLOT;
    /// Flag: the sink stopped by itself; nothing was written behind this cursor.
    pub const CLEAN: u32 = 1;
    /// Unfinished lines at most.
    pub const MAX_HELD: usize = 16;
    const _: () = assert!(CUR_HELD + (MAX_HELD as u64) * super::held::LEN == CUR_REST);
    const _: () = assert!(CUR_REST + 256 == SLOT && SLOT * 2 <= super::super::PAGE);
}

/// A captured line whose end was not yet seen.
pub mod held {
    super::super::fields! { "sink unfinished line":
        /// Nonce of the producer.
        HELD_NONCE @ 0, 8;
        /// Process-wide number of the thread.
        HELD_THREAD @ 8, 8;
        /// The record that the part not yet delivered begins in; `u64::MAX` = all is delivered so far.
        HELD_FIRST @ 16, 8;
        /// Where in its payload.
        HELD_SKIP @ 24, 4;
        /// [`STDERR`], [`BROKEN`], [`OPEN`].
        HELD_FLAGS @ 28, 4;
    }
    /// Bytes.
    pub const LEN: u64 = 32;
    /// Flag: stderr, else stdout.
    pub const STDERR: u32 = 1;
    /// Flag: the beginning of the line is delivered, and something else behind it.
    pub const BROKEN: u32 = 2;
    /// Flag: what is delivered ends in this line.
    pub const OPEN: u32 = 4;
}

/// The words of a sink's status page.
pub mod stat {
    /// Magic: "SPRSTAT\x01".
    pub const MAGIC: u64 = u64::from_le_bytes(*b"SPRSTAT\x01");
    /// Version.
    pub const VERSION: u32 = 1;
    /// Bytes of the file.
    pub const LEN: u64 = super::super::PAGE;

    super::super::fields! { "sink status":
        /// Magic; the file is complete before it has its name.
        ST_MAGIC @ 0, 8;
        /// Version.
        ST_VERSION @ 8, 4;
        /// Pid of the process that the sink's thread belongs to.
        ST_PID @ 12, 4;
        /// Its start time, clock ticks since boot.
        ST_START @ 16, 8;
        /// State (`STATE_*`).
        ST_STATE @ 24, 8;
        /// Records delivered since the sink exists.
        ST_RECORDS @ 32, 8;
        /// Bytes delivered since the sink exists.
        ST_BYTES @ 40, 8;
        /// Number of the next record to deliver.
        ST_NEXT @ 48, 8;
        /// Number of the next record of the journal, as the drain has last told.
        ST_KNOWN @ 56, 8;
        /// Emitted time of the last delivered record, ns since the epoch, 0 = none.
        ST_LAST_UTC @ 64, 8;
        /// Since when the present write has not moved, CLOCK_BOOTTIME ns, 0 = no write is going on.
        ST_BLOCKED @ 72, 8;
        /// Emitted time of the oldest record that is read and not delivered, 0 = none.
        ST_PENDING_UTC @ 80, 8;
        /// Bytes that wait to be written.
        ST_PENDING_BYTES @ 88, 8;
        /// Tries that failed since the last success (disk full).
        ST_RETRIES @ 96, 8;
        /// Records that this sink could not deliver: deleted or damaged before it read them.
        ST_MISSED @ 104, 8;
    }
    /// It follows the journal.
    pub const STATE_FOLLOWING: u64 = 0;
    /// It stopped with everything delivered.
    pub const STATE_DELIVERED: u64 = 1;
    /// It stopped with records pending.
    pub const STATE_STOPPED: u64 = 2;
    /// Its reader has gone (EPIPE).
    pub const STATE_BROKEN: u64 = 3;
    /// It gave up: its output or the journal cannot be used.
    pub const STATE_FAILED: u64 = 4;
}
