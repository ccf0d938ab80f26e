//! The entry of a call site: in the site arena of a ring, before the payload of a record whose site
//! has no entry there, and in the journal.
//!
//! Header, argument types, file, target, format string, field names, zeros to a multiple of 8. Every string
//! is a count of bytes and may be anything but valid UTF-8: whoever reads it checks.
//!
//! The last arguments of a record are its fields, one for each name; those before them belong to the format
//! string. Names end with a NUL each. Two of them are no names but say what a string argument holds
//! ([`DYNAMIC`], [`SPANS`]).

super::fields! { "site entry":
    /// Bytes of the whole entry, padding included: a multiple of 8.
    LEN @ 0, 4;
    /// Line in the source file.
    LINE @ 4, 4;
    /// Level: 1 trace to 5 error.
    LEVEL @ 8, 1;
    /// Number of arguments, one byte of type each.
    TYPES_LEN @ 9, 1;
    /// Bytes of the file name.
    FILE_LEN @ 10, 2;
    /// Bytes of the target.
    TARGET_LEN @ 12, 2;
    /// Bytes of the format string.
    FMT_LEN @ 14, 2;
    /// Grammar of the format string ([`style`]).
    STYLE @ 16, 1;
    /// Zero.
    RESERVED @ 17, 1;
    /// Bytes of the field names.
    FIELDS_LEN @ 18, 2;
    /// Zero.
    RESERVED2 @ 20, 4;
}
/// Bytes of the header; types, file, target, format string and field names follow.
pub const HEADER: u64 = 24;

/// Grammars of format strings. A number is never used for anything else again; records of a grammar that the
/// reader does not know show the format string as it is, and the arguments behind it.
pub mod style {
    /// That of Rust's `std::fmt`.
    pub const BRACE: u8 = 0;
    /// That of C's `printf` ([`printf`](crate::record::printf)).
    pub const PRINTF: u8 = 1;
}

/// Name of a string argument that holds fields known only when the call was made, one behind the other:
/// length of the name (2 bytes), name, type code (1 byte), value as an argument of that type.
pub const DYNAMIC: &[u8] = b"*";
/// Name of a string argument that holds the spans open at the call, outermost first: length of the name (2
/// bytes), name, id (8 bytes), bytes of its fields (4 bytes), these fields as in [`DYNAMIC`].
pub const SPANS: &[u8] = b"*spans";

/// Limit: arguments of a record.
pub const MAX_ARGS: usize = 16;
/// Limit: bytes of a file name; of a longer one the end is kept.
pub const MAX_FILE: usize = 256;
/// Limit: bytes of a target; of a longer one the beginning is kept.
pub const MAX_TARGET: usize = 256;
/// Limit: bytes of a format string. The macros refuse a longer one.
pub const MAX_FMT: usize = 4096;
/// Limit: bytes of all field names of a site, with a NUL behind each. The macros refuse more.
pub const MAX_FIELDS: usize = 1024;
/// Bytes of the longest entry.
pub const MAX_LEN: usize =
    super::round_up(HEADER + (MAX_ARGS + MAX_FILE + MAX_TARGET + MAX_FMT + MAX_FIELDS) as u64, 8) as usize;

const _: () = assert!(MAX_FILE <= u16::MAX as usize && MAX_TARGET <= u16::MAX as usize);
const _: () = assert!(MAX_FIELDS <= u16::MAX as usize);
const _: () = assert!(MAX_FMT <= u16::MAX as usize && MAX_ARGS <= u8::MAX as usize);

/// Type codes of arguments: one byte each in the entry. A code is never used for anything else again.
///
/// A payload is the arguments one after the other, unaligned. All codes fit four bits.
pub mod ty {
    /// 1 byte, two's complement.
    pub const I8: u8 = 1;
    /// 2 bytes, two's complement.
    pub const I16: u8 = 2;
    /// 4 bytes, two's complement.
    pub const I32: u8 = 3;
    /// 8 bytes, two's complement; also isize.
    pub const I64: u8 = 4;
    /// 16 bytes, two's complement.
    pub const I128: u8 = 5;
    /// 1 byte.
    pub const U8: u8 = 6;
    /// 2 bytes.
    pub const U16: u8 = 7;
    /// 4 bytes.
    pub const U32: u8 = 8;
    /// 8 bytes; also usize.
    pub const U64: u8 = 9;
    /// 16 bytes.
    pub const U128: u8 = 10;
    /// 4 bytes, IEEE 754.
    pub const F32: u8 = 11;
    /// 8 bytes, IEEE 754.
    pub const F64: u8 = 12;
    /// 1 byte, 0 or 1.
    pub const BOOL: u8 = 13;
    /// 4 bytes, a Unicode scalar value.
    pub const CHAR: u8 = 14;
    /// Length (4 bytes), then so many bytes; normally UTF-8.
    pub const STR: u8 = 15;
}
