//! A journal segment: a header, then batches. A batch is a header, records, definitions of sites
//! and threads, cursors; each part padded to 8 bytes. Batches stand one behind the other, without a
//! gap, and are never rewritten.
//!
//! The first 16 bytes and `HEADER_LEN` of the segment header, and the meaning of its crc, are the same in
//! every version: so a flipped bit in the version word is told from a newer version.

/// Magic of a segment: "SPRJRNL\x01".
pub const MAGIC: u64 = u64::from_le_bytes(*b"SPRJRNL\x01");
/// Version of segments and batches.
pub const VERSION: u32 = 1;

super::fields! { "journal segment header":
    /// Magic.
    SEG_MAGIC @ 0, 8;
    /// Version.
    SEG_VERSION @ 8, 4;
    /// crc32c of the `SEG_HEADER_LEN` bytes of the header, with this field zero.
    SEG_CRC @ 12, 4;
    /// Random number of the journal, the same in all its segments.
    SEG_JOURNAL_ID @ 16, 8;
    /// Random number of this segment, repeated in each batch header; producers cannot read it.
    SEG_KEY @ 24, 8;
    /// Number of the segment, counting up; part of the file name.
    SEG_ID @ 32, 4;
    /// Bytes of this header.
    SEG_HEADER_LEN @ 36, 4;
    /// Number of the first record; part of the file name.
    SEG_FIRST_RECORD @ 40, 8;
    /// Creation, ns since the epoch.
    SEG_CREATED @ 48, 8;
    /// Zero.
    SEG_RESERVED @ 56, 8;
}
/// Bytes of the segment header; the first batch stands here.
pub const SEG_HEADER: u64 = 64;

/// The header of a batch.
pub mod batch {
    /// Magic of a batch: "SPRBATCH".
    pub const MAGIC: u64 = u64::from_le_bytes(*b"SPRBATCH");

    super::super::fields! { "journal batch header":
        /// Magic.
        B_MAGIC @ 0, 8;
        /// crc32c of this header with this field zero. It covers the other two crcs, and so everything.
        B_CRC @ 8, 4;
        /// Version.
        B_VERSION @ 12, 2;
        /// Flags.
        B_FLAGS @ 14, 2;
        /// Bytes of the batch with its header, a multiple of 8.
        B_LEN @ 16, 4;
        /// Number of records.
        B_COUNT @ 20, 4;
        /// Offset of this header in the segment.
        B_OFFSET @ 24, 8;
        /// The segment's key.
        B_KEY @ 32, 8;
        /// Number of the batch, counting up over all segments.
        B_SEQ @ 40, 8;
        /// Number of the first record (of the next one, if there is none here).
        B_FIRST_RECORD @ 48, 8;
        /// The latest time of a record so far in the journal, ns since the epoch.
        B_LAST_TIME @ 56, 8;
        /// When the batch was begun, ns since the epoch.
        B_WRITTEN @ 64, 8;
        /// Offset of the batch before this one in the segment, 0 = none.
        B_PREV @ 72, 8;
        /// Offset of the nearest batch before this one with definitions, 0 = none.
        B_PREV_TABLES @ 80, 8;
        /// Bytes of the records.
        B_RECORDS_LEN @ 88, 4;
        /// Bytes of the definitions.
        B_TABLES_LEN @ 92, 4;
        /// Bytes of the cursors.
        B_CURSORS_LEN @ 96, 4;
        /// crc32c of the records.
        B_RECORDS_CRC @ 100, 4;
        /// crc32c of definitions and cursors.
        B_META_CRC @ 104, 4;
        /// Zero.
        B_RESERVED @ 108, 4;
    }
    /// Bytes of the batch header.
    pub const HEADER: u64 = 112;
    /// Flag: the cursors here are all there are; a fold starts anew with them.
    pub const FULL: u16 = 1;
}

/// The head of a record in a batch; the payload follows, padded with zeros to 8 bytes.
pub mod record {
    super::super::fields! { "journal record head":
        /// Bytes of the payload.
        R_LEN @ 0, 4;
        /// Site, 0 = none.
        R_SITE @ 4, 4;
        /// Thread, 0 = none.
        R_THREAD @ 8, 4;
        /// What it is.
        R_KIND @ 12, 1;
        /// Flags; their meaning depends on the kind.
        R_FLAGS @ 13, 1;
        /// Zero.
        R_RESERVED @ 14, 2;
        /// Emitted time, ns since the epoch.
        R_UTC @ 16, 8;
        /// Raw time, in ticks of the producer's clock.
        R_TICKS @ 24, 8;
    }
    /// Bytes of the head.
    pub const HEAD: u64 = 32;
}

/// The head of a definition; its content follows, padded with zeros to 8 bytes.
pub mod table {
    super::super::fields! { "journal definition head":
        /// What is defined: [`SITE`] or [`THREAD`]; others are skipped.
        T_TYPE @ 0, 4;
        /// Bytes of the content.
        T_LEN @ 4, 4;
        /// The number that records use for it.
        T_REF @ 8, 4;
        /// Zero.
        T_RESERVED @ 12, 4;
    }
    /// Bytes of the head.
    pub const HEAD: u64 = 16;
    /// A call site.
    pub const SITE: u32 = 1;
    /// A thread.
    pub const THREAD: u32 = 2;
}

/// The content of a site's definition; file, target, format string, types and field names follow.
pub mod site {
    super::super::fields! { "journal site":
        /// Level.
        S_LEVEL @ 0, 1;
        /// Grammar of the format string ([`style`](super::super::site::style)).
        S_STYLE @ 1, 1;
        /// Bytes of the field names.
        S_FIELDS_LEN @ 2, 2;
        /// Line.
        S_LINE @ 4, 4;
        /// Bytes of the file name.
        S_FILE_LEN @ 8, 4;
        /// Bytes of the target.
        S_TARGET_LEN @ 12, 4;
        /// Bytes of the format string.
        S_FMT_LEN @ 16, 4;
        /// Bytes of the argument types.
        S_TYPES_LEN @ 20, 4;
    }
    /// Bytes before the file name.
    pub const FIXED: u64 = 24;
}

/// The content of a thread's definition; its name follows.
pub mod thread {
    super::super::fields! { "journal thread":
        /// Nonce of the producer.
        H_NONCE @ 0, 8;
        /// Start time of the process, clock ticks since boot.
        H_START @ 8, 8;
        /// Process-wide number of the thread.
        H_THREAD @ 16, 8;
        /// Boot id.
        H_BOOT_ID @ 24, 16;
        /// Command name of the process, zero padded.
        H_COMM @ 40, 16;
        /// Pid in the producer's own namespace.
        H_PID @ 56, 4;
        /// Tid in the producer's own namespace.
        H_TID @ 60, 4;
        /// Bytes of the name.
        H_NAME_LEN @ 64, 4;
        /// Zero.
        H_RESERVED @ 68, 4;
    }
    /// Bytes before the name.
    pub const FIXED: u64 = 72;
}

/// The head of a cursor; its value follows, padded with zeros to 8 bytes. No bytes = dropped.
pub mod cursor {
    super::super::fields! { "journal cursor head":
        /// Nonce of the producer.
        C_NONCE @ 0, 8;
        /// Pid of the producer.
        C_PID @ 8, 4;
        /// Part of the producer's files: a lane, or a number of the drain's choice.
        C_PART @ 12, 4;
        /// Bytes of the value.
        C_LEN @ 16, 4;
        /// Zero.
        C_RESERVED @ 20, 4;
    }
    /// Bytes of the head.
    pub const HEAD: u64 = 24;
}

/// A place in the journal, as a sink keeps it.
pub mod position {
    /// Magic: "SPJP".
    pub const MAGIC: u32 = u32::from_le_bytes(*b"SPJP");

    super::super::fields! { "journal position":
        /// Magic.
        P_MAGIC @ 0, 4;
        /// crc32c of what follows.
        P_CRC @ 4, 4;
        /// The journal's random number.
        P_JOURNAL_ID @ 8, 8;
        /// First record of the segment.
        P_FIRST_RECORD @ 16, 8;
        /// Number of the segment.
        P_SEGMENT_ID @ 24, 4;
        /// `B_CRC` of the last batch that was read, 0 = none yet in this segment.
        P_BATCH_CRC @ 28, 4;
        /// Its offset, 0 = none yet in this segment.
        P_OFFSET @ 32, 8;
        /// Number of the next record to read.
        P_NEXT_RECORD @ 40, 8;
    }
    /// Bytes of a position.
    pub const LEN: usize = 48;
}

/// The payload of a loss record.
pub mod loss {
    super::super::fields! { "loss record":
        /// How many records are lost.
        L_COUNT @ 0, 8;
        /// None was called before, ns since the epoch.
        L_FROM @ 8, 8;
        /// None was called after, ns since the epoch.
        L_TO @ 16, 8;
    }
    /// Bytes of the payload.
    pub const LEN: usize = 24;
}

/// Bytes a batch may have, with its header.
pub const MAX_BATCH: u64 = 256 << 20;
/// Bytes the payload of a record may have.
pub const MAX_PAYLOAD: u64 = 128 << 20;
const _: () = assert!(MAX_PAYLOAD + SEG_HEADER + batch::HEADER + record::HEAD < MAX_BATCH);
const _: () = assert!(SEG_HEADER.is_multiple_of(8) && batch::HEADER.is_multiple_of(8));
