//! `P.spill`: an identity page, then frames, appended and never rewritten.

/// `P.spill`'s magic: "SPRSPIL\x01".
pub const MAGIC: u64 = u64::from_le_bytes(*b"SPRSPIL\x01");
/// Bytes before the first frame; never punched.
pub const HEADER: u64 = 4096;

super::fields! { "spill frame":
    /// Frame magic, xored with the file's nonce: "SPRFRAME" ^ nonce.
    FRAME_MAGIC @ 0, 8;
    /// Bytes of the frame: this header, key and record, without the padding to 8.
    LEN @ 8, 4;
    /// crc32c of `LEN` (4 bytes) and of everything behind this field up to `LEN`.
    CRC @ 12, 4;
    /// Position of the shared lane's tail, in granules, loaded in the call.
    AT @ 16, 8;
    /// `word::AUX`, counted up by this call.
    AUX @ 24, 8;
}
/// Bytes of the frame header; a slow key and a record follow.
pub const FRAME_HEADER: u64 = 32;
/// Value of `FRAME_MAGIC` before the nonce is xored in.
pub const FRAME_MAGIC_VALUE: u64 = u64::from_le_bytes(*b"SPRFRAME");
