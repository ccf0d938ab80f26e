//! Every constant and struct that the header repeats: a test compiles static asserts made from this, as C11 and as
//! C++17.

use crate::site::{PLAN, PackedText, UNMEASURED, quick, take};
use crate::{Counters, Field, Fields, Options, ReaderOptions, Record, Reservation, Site, Value, codes};
use spillring::journal::kind;
use spillring::layout::site::{MAX_ARGS, MAX_FMT, style, ty};
use spillring::record::Level;
use std::mem::{align_of, offset_of, size_of};

/// Names and values, beside [`codes::TABLE`].
pub const CONSTANTS: &[(&str, i64)] = &[
    ("SPR_ABI", crate::life::ABI as i64),
    ("SPR_SITE_ABI", crate::site::SITE_ABI as i64),
    ("SPR_LEVEL_TRACE", Level::Trace as i64),
    ("SPR_LEVEL_DEBUG", Level::Debug as i64),
    ("SPR_LEVEL_INFO", Level::Info as i64),
    ("SPR_LEVEL_WARN", Level::Warn as i64),
    ("SPR_LEVEL_ERROR", Level::Error as i64),
    ("SPR_LEVEL_OFF", crate::life::LEVEL_OFF as i64),
    ("SPR_STYLE_BRACE", style::BRACE as i64),
    ("SPR_STYLE_PRINTF", style::PRINTF as i64),
    ("SPR_MAX_ARGS", MAX_ARGS as i64),
    ("SPR_MAX_FMT", MAX_FMT as i64),
    ("SPR_MAX_STRING", crate::site::MAX_STRING as i64),
    ("SPR_MAX_HANDLES", crate::handles::MAX as i64),
    ("SPR_MAX_SITES", crate::intern::MAX_SITES as i64),
    ("SPR_T_I8", ty::I8 as i64),
    ("SPR_T_I16", ty::I16 as i64),
    ("SPR_T_I32", ty::I32 as i64),
    ("SPR_T_I64", ty::I64 as i64),
    ("SPR_T_I128", ty::I128 as i64),
    ("SPR_T_U8", ty::U8 as i64),
    ("SPR_T_U16", ty::U16 as i64),
    ("SPR_T_U32", ty::U32 as i64),
    ("SPR_T_U64", ty::U64 as i64),
    ("SPR_T_U128", ty::U128 as i64),
    ("SPR_T_F32", ty::F32 as i64),
    ("SPR_T_F64", ty::F64 as i64),
    ("SPR_T_BOOL", ty::BOOL as i64),
    ("SPR_T_CHAR", ty::CHAR as i64),
    ("SPR_T_STR", ty::STR as i64),
    ("SPR_T_CSTR", take::CSTR as i64),
    ("SPR_T_POINTER", take::POINTER as i64),
    ("SPR_T_OPT_I64", take::OPT_I64 as i64),
    ("SPR_T_OPT_U64", take::OPT_U64 as i64),
    ("SPR_T_OPT_F64", take::OPT_F64 as i64),
    ("SPR_T_OPT_BOOL", take::OPT_BOOL as i64),
    ("SPR_T_OPT_STR", take::OPT_STR as i64),
    ("SPR_T_DURATION_I64", take::DURATION_I64 as i64),
    ("SPR_T_DURATION_F64", take::DURATION_F64 as i64),
    ("SPR_FROM_OLDEST", crate::reader::FROM_OLDEST as i64),
    ("SPR_FROM_NOW", crate::reader::FROM_NOW as i64),
    ("SPR_FROM_LAST", crate::reader::FROM_LAST as i64),
    ("SPR_READER_WAIT", crate::reader::WAIT as i64),
    ("SPR_KIND_LOG", kind::LOG as i64),
    ("SPR_KIND_OUTPUT", kind::OUTPUT as i64),
    ("SPR_KIND_LOSS", kind::LOSS as i64),
    ("SPR_KIND_NOTE", kind::NOTE as i64),
    ("SPR_KIND_GAP", crate::reader::KIND_GAP as i64),
    ("SPR_PLAN_", PLAN as i64),
    ("SPR_UNMEASURED", UNMEASURED as i64),
    ("SPR_BOUNDED_", quick::BOUNDED as i64),
];

/// A struct: its name in C, its size and alignment, and the offset of each member.
pub struct Struct {
    /// Its name in C.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Alignment.
    pub align: usize,
    /// Members, in order.
    pub members: &'static [(&'static str, usize)],
}

macro_rules! structs {
    ($($c:literal $t:ty: $($member:ident = $name:literal)*;)*) => {
        /// All of them.
        pub const STRUCTS: &[Struct] = &[$(Struct {
            name: $c,
            size: size_of::<$t>(),
            align: align_of::<$t>(),
            members: &[$(($name, offset_of!($t, $member))),*],
        }),*];
    };
}

structs! {
    "spr_value" Value: i = "i" u = "u" f = "f" p = "p";
    "spr_text" PackedText: p = "p" at = "at";
    "spr_site" Site: id = "id_" line = "line" quick = "quick_" plan = "plan_" file = "file" target = "target" fmt = "fmt"
        fields = "fields" types = "types" file_len = "file_len" target_len = "target_len" fmt_len = "fmt_len"
        fields_len = "fields_len" level = "level" style = "style" n_args = "n_args" abi = "abi"
        verdict = "verdict_";
    "spr_fields" Fields: data = "data" size = "size" used = "used" left_out = "left_out";
    "spr_reservation" Reservation: data = "data" size = "size" private_ = "private_";
    "spr_options" Options: size = "size" dir = "dir" channel = "channel" journal_dir = "journal_dir"
        level = "level" overflow = "overflow" lane_bytes = "lane_bytes" lanes = "lanes" drain = "drain";
    "spr_counters" Counters: size = "size" unattached = "unattached" nested = "nested" lost = "lost"
        spilled = "spilled" nonce = "nonce" attach_errno = "attach_errno" reserved = "reserved_";
    "spr_reader_options" ReaderOptions: size = "size" journal = "journal" dir = "dir" channel = "channel"
        journal_dir = "journal_dir" last = "last" from = "from" flags = "flags";
    "spr_record" Record: size = "size" number = "number" utc_ns = "utc_ns" ticks = "ticks" lost = "lost"
        message = "message" message_len = "message_len" file = "file" file_len = "file_len" target = "target"
        target_len = "target_len" thread = "thread" thread_len = "thread_len" line = "line" pid = "pid"
        tid = "tid" n_fields = "n_fields" kind = "kind" level = "level";
    "spr_field" Field: size = "size" name = "name" name_len = "name_len" text = "text" text_len = "text_len"
        value = "value" type_ = "type" reserved = "reserved_";
}

/// The static asserts, as text that is C11 and C++17 alike.
pub fn static_asserts() -> String {
    let mut out = String::from(
        "#include <stddef.h>\n#include \"spillring.h\"\n#ifdef __cplusplus\n#define CHECK static_assert\n\
         #define ALIGN alignof\n#else\n#define CHECK _Static_assert\n#define ALIGN _Alignof\n#endif\n",
    );
    let mut check = |what: String| out += &format!("CHECK({what}, \"{}\");\n", what.replace('"', ""));
    for (code, name, _) in codes::TABLE {
        check(format!("{name} == {code}"));
    }
    for (name, value) in CONSTANTS {
        check(format!("{name} == {value}"));
    }
    for s in STRUCTS {
        check(format!("sizeof({}) == {}", s.name, s.size));
        check(format!("ALIGN({}) == {}", s.name, s.align));
        for (member, at) in s.members {
            check(format!("offsetof({}, {member}) == {at}", s.name));
        }
    }
    out
}
