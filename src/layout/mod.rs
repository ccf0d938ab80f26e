//! Every byte that is shared or stored: offsets, magics, versions. Nothing here has behaviour.
//!
//! All numbers are little-endian, all offsets are in bytes from the start of the file. Reserved
//! bytes are zero. A magic is stored last by the creator and checked first by whoever opens.

pub mod ctl;
pub mod journal;
pub mod ring;
pub mod sink;
pub mod site;
pub mod spill;

/// Version of the files in a channel's directory. A file of another version is refused, not read.
pub const LAYOUT_VERSION: u32 = 3;

/// The processor this program is built for, as it stands in file headers.
pub const ARCH: u32 = if cfg!(target_arch = "x86_64") {
    1
} else if cfg!(target_arch = "aarch64") {
    2
} else {
    panic!("spillring supports x86-64 and aarch64")
};
const _: () = assert!(cfg!(target_endian = "little") && cfg!(target_pointer_width = "64"));

/// The page size that file geometry is rounded to. Larger kernel pages only round up more.
pub const PAGE: u64 = 4096;

/// One row of the table that documentation, tests and foreign headers are made from.
pub struct Field {
    /// File or structure the field belongs to.
    pub of: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Offset in bytes from the start of `of`.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// `x` rounded up to a multiple of the power of two `to`.
pub const fn round_up(x: u64, to: u64) -> u64 {
    (x + to - 1) & !(to - 1)
}

/// Declares constants for the fields of one structure and its part of the table.
macro_rules! fields {
    ($of:literal: $($(#[$doc:meta])* $name:ident @ $off:expr, $size:expr;)*) => {
        $($(#[$doc])* pub const $name: u64 = $off;)*
        /// The fields of this structure, in order.
        pub const TABLE: &[crate::layout::Field] = &[
            $(crate::layout::Field { of: $of, name: stringify!($name), offset: $off, size: $size },)*
        ];
        // Fields are in order, do not overlap, and words are aligned to their size.
        const _: () = {
            let mut i = 0;
            while i < TABLE.len() {
                let f = &TABLE[i];
                assert!(f.size > 8 || f.offset % f.size == 0);
                assert!(i == 0 || TABLE[i - 1].offset + TABLE[i - 1].size <= f.offset);
                i += 1;
            }
        };
    };
}
pub(crate) use fields;
