//! Records and sites: bytes, text, and what hostile bytes may not do.
#![allow(unsafe_code)] // Payloads are written through raw pointers.

use proptest::prelude::*;
use spillring::layout::site as at;
use spillring::record::*;
use std::cell::{Cell, RefCell};
use std::fmt::{Binary, Debug, Display, LowerExp, LowerHex, Octal, UpperExp, UpperHex};

/// A payload, written into room with a guard behind it.
fn payload<A: Args>(args: A) -> Vec<u8> {
    let len = args.encoded_len();
    let mut room = vec![0xa5; len + 8];
    // SAFETY: `room` has `encoded_len` bytes and more.
    let end = unsafe { args.put(room.as_mut_ptr()) };
    assert_eq!(end as usize - room.as_ptr() as usize, len, "put ends elsewhere than encoded_len says");
    assert_eq!(room[len..], [0xa5; 8], "put wrote too far");
    room.truncate(len);
    room
}

fn render<A: Args>(fmt: &str, args: A) -> String {
    let format = CompiledFormat::new(fmt.as_bytes(), A::TYPES);
    assert_eq!(format.error(), None, "{fmt}");
    let mut out = b"before ".to_vec();
    format.render(&payload(args), &mut out).unwrap();
    String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().into()
}

// ---- text: the same as format!, byte for byte

/// `format!` for one set of flags, with and without width and precision.
type Std<T> = [fn(&T, usize, usize) -> String; 4];

macro_rules! std_formats {
    ($t:ty, $conv:literal: $($flags:literal)*) => {
        &[$(($flags, $conv, [
            |v: &$t, _: usize, _: usize| format!(concat!("{:", $flags, $conv, "}"), v),
            |v: &$t, w: usize, _: usize| format!(concat!("{:", $flags, "w$", $conv, "}"), v, w = w),
            |v: &$t, _: usize, p: usize| format!(concat!("{:", $flags, ".p$", $conv, "}"), v, p = p),
            |v: &$t, w: usize, p: usize| format!(concat!("{:", $flags, "w$.p$", $conv, "}"), v, w = w, p = p),
        ])),*] as &[(&str, &str, Std<$t>)]
    };
}

macro_rules! std_table {
    ($tr:ident, $conv:literal) => {
        std_formats!(dyn $tr + 'static, $conv:
            "" "+" "#" "0" "+0" "#0" "+#0" "-"
            "<" "^" ">" "*<" "*^" "*>" "é^" "\u{1f980}>+" "0<" "}^" "{>#"
            "*<+#0" "^0" ">0" "x<0" "+^+")
    };
}

const WIDTHS: [usize; 5] = [0, 1, 5, 12, 40];
const PRECISIONS: [usize; 5] = [0, 1, 2, 7, 25];

/// Compares one value under all flags of a table; answers how many comparisons that were.
fn compare<A: Args, T: ?Sized>(table: &[(&str, &str, Std<T>)], args: A, value: &T) -> usize {
    let bytes = payload(args);
    let (mut cases, mut out) = (0, Vec::new());
    let mut case = |fmt: String, expected: String| {
        let format = CompiledFormat::new(fmt.as_bytes(), A::TYPES);
        assert_eq!(format.error(), None, "{fmt}");
        out.clear();
        format.render(&bytes, &mut out).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), expected, "{fmt}");
        cases += 1;
    };
    for (flags, conv, [bare, width, precision, both]) in table {
        case(format!("{{:{flags}{conv}}}"), bare(value, 0, 0));
        for w in WIDTHS {
            // A width of 0 in the text would be the flag.
            if w > 0 {
                case(format!("{{:{flags}{w}{conv}}}"), width(value, w, 0));
            }
            for p in PRECISIONS {
                if w == 0 {
                    case(format!("{{:{flags}.{p}{conv}}}"), precision(value, 0, p));
                } else {
                    case(format!("{{:{flags}{w}.{p}{conv}}}"), both(value, w, p));
                }
            }
        }
    }
    cases
}

macro_rules! compare_all {
    ($cases:ident, $values:expr, $($table:expr => $tr:ident),*) => {
        for v in $values {
            $($cases += compare($table, (Capture::capture(&v),), &v as &(dyn $tr + 'static));)*
        }
    };
}

#[test]
fn text_is_what_format_makes() {
    let mut cases = 0;
    let (display, debug) = (std_table!(Display, ""), std_table!(Debug, "?"));
    let (debug_x, debug_upper) = (std_table!(Debug, "x?"), std_table!(Debug, "X?"));
    let (lower_exp, upper_exp) = (std_table!(LowerExp, "e"), std_table!(UpperExp, "E"));
    let (lower_hex, upper_hex) = (std_table!(LowerHex, "x"), std_table!(UpperHex, "X"));
    let (octal, binary) = (std_table!(Octal, "o"), std_table!(Binary, "b"));
    macro_rules! integers {
        ($($t:ty),*) => {$(
            compare_all!(cases, [<$t>::MIN, <$t>::MAX, 0, 7, 42, <$t>::MAX / 3, (0 as $t).wrapping_sub(1)],
                display => Display, debug => Debug, debug_x => Debug, debug_upper => Debug,
                lower_exp => LowerExp, upper_exp => UpperExp, lower_hex => LowerHex, upper_hex => UpperHex,
                octal => Octal, binary => Binary);
        )*};
    }
    integers!(i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize);
    macro_rules! floats {
        ($($t:ident),*) => {$(
            compare_all!(cases, [0.0, -0.0, 1.0, -1.5, 0.1, 9.995, 123456.7, 1e16, 1.0e-5, 2.5, <$t>::MIN,
                    <$t>::MAX, <$t>::MIN_POSITIVE, <$t>::EPSILON, <$t>::NAN, -<$t>::NAN, <$t>::INFINITY,
                    <$t>::NEG_INFINITY],
                display => Display, debug => Debug, debug_x => Debug, lower_exp => LowerExp,
                upper_exp => UpperExp);
        )*};
    }
    floats!(f32, f64);
    compare_all!(cases, [false, true], display => Display, debug => Debug, debug_x => Debug);
    compare_all!(cases, ['a', '\'', '"', 'é', '\u{1f980}', '\0', '\n', '\u{301}', char::MAX],
        display => Display, debug => Debug, debug_upper => Debug);
    compare_all!(cases,
        ["", "a", "it's \"quoted\"", "grüße", "\u{1f980}\u{301}\r\n\u{7f}\0", "a longer line of text"],
        display => Display, debug => Debug, debug_x => Debug);
    println!("{cases} cases");
    assert!(cases > 100_000);
}

#[test]
fn decimal_is_what_format_makes() {
    let mut v: u128 = 1;
    while v < u128::MAX / 3 {
        for n in [v - 1, v, v + 1, v * 2] {
            assert_eq!(render("{}", (n,)), n.to_string());
            assert_eq!(render("{}", (n as u64,)), (n as u64).to_string());
            assert_eq!(render("{}", (n as i128,)), (n as i128).to_string());
            assert_eq!(render("{}", ((n as i64).wrapping_neg(),)), (n as i64).wrapping_neg().to_string());
        }
        v = v.wrapping_mul(3);
    }
}

macro_rules! same {
    ($($fmt:literal $(, $arg:expr)*;)*) => {$(
        assert_eq!(render($fmt, ($(Capture::capture(&$arg),)*)), format!($fmt $(, $arg)*));
    )*};
}

#[test]
fn placeholders_find_their_arguments() {
    same! {
        "";
        "plain";
        "{{}} {{{}}}", 1;
        "{}{}", 1, "two";
        "{} and {}.", -5i8, 'x';
        "{1} {0} {} {}", 1, 2;
        "{0}{0:?}{0:>4}", "a";
        "{:1$}|{2:<3$}", 1, 5usize, 2, 7usize;
        "{:.*}|{}", 2usize, 1.23456, "end";
        "{1:.*}|{}", 3usize, 9.87654321;
        "{:>1$.2$}", 6.28125, 10usize, 3usize;
        "{:0$}", 6usize;
        "{:00$}", 6usize;
        "{:01$}", 5, 8usize;
        "{:>+08.3e}", 12345.678;
        "{ }|{0 }|{:5 }|{: >5}|{:?  }", 1, 2, 3, "x";
        "{:#?} {:#?}", "a\n", 1.0;
        "{:}<4}|{:{>4}", 1, 2;
        "é{}ü{}", "ä", 1;
        "{:-} {:-5}", 1, 2;
        "{:.0}|{:.2}|{:5.1}|", 'a', true, "über";
    }
}

#[test]
fn sixteen_arguments() {
    let args =
        (1u8, 2i8, 3u16, 4i16, 5u32, 6i32, 7u64, 8i64, 9u128, 10i128, 11f32, 12f64, true, 'n', "o", "p");
    let fmt = "{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}";
    assert_eq!(render(fmt, args), "1 2 3 4 5 6 7 8 9 10 11 12 true n o p");
}

#[test]
fn a_format_that_does_not_fit_shows_everything() {
    for (fmt, types, why) in [
        (&b"{} {"[..], &[at::ty::I32, at::ty::STR][..], "has no }"),
        (b"{}", &[at::ty::I32, at::ty::STR], "not used"),
        (b"{} {} {}", &[at::ty::I32, at::ty::STR], "more arguments"),
        (b"{} {:x}", &[at::ty::I32, at::ty::STR], "type"),
        (b"{:1$}", &[at::ty::I32, at::ty::STR], "usize"),
        (b"{} {} \xff", &[at::ty::I32, at::ty::STR], "UTF-8"),
        (b"{} {:70000}", &[at::ty::I32, at::ty::STR], "too large"),
        (b"{17} {}", &[at::ty::I32, at::ty::STR], "too large"),
        (b"{x} {}", &[at::ty::I32, at::ty::STR], "named"),
        (b"{:.p$} {}", &[at::ty::I32, at::ty::STR], "named"),
        (b"{} } {}", &[at::ty::I32, at::ty::STR], "no {"),
        (b"{} {:p}", &[at::ty::I32, at::ty::STR], "specification"),
    ] {
        let format = CompiledFormat::new(fmt, types);
        assert!(format.error().is_some_and(|e| e.contains(why)), "{:?} for {why}", format.error());
        let mut out = Vec::new();
        format.render(&payload((-7i32, "a \"b\"")), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("{} (-7, \"a \\\"b\\\"\")", String::from_utf8_lossy(fmt))
        );
    }
}

#[test]
fn text_that_is_not_utf8_is_kept() {
    let bytes = b"\x04\0\0\0a\xff\xc3z";
    let text = |fmt: &str| {
        let mut out = Vec::new();
        CompiledFormat::new(fmt.as_bytes(), &[at::ty::STR]).render(bytes, &mut out).unwrap();
        out
    };
    assert_eq!(text("{}"), b"a\xff\xc3z");
    assert_eq!(text("{:6}|"), b"a\xff\xc3z  |");
    assert_eq!(text("{:.2}|"), b"a\xff|");
    assert_eq!(text("{:?}"), br#""a\xff\xc3z""#);
}

#[test]
fn a_damaged_payload_is_shown_with_what_is_wrong() {
    let types = [at::ty::U8, at::ty::BOOL, at::ty::STR];
    let good = payload((9u8, true, "text"));
    for (bytes, error, text) in [
        (good[..9].to_vec(), DecodeError::Short, "{} {} {}. (9, true, damaged: payload is cut short)"),
        (good[..1].to_vec(), DecodeError::Short, "{} {} {}. (9, damaged: payload is cut short)"),
        (
            [&good[..], &[0]].concat(),
            DecodeError::Trailing,
            "{} {} {}. (9, true, \"text\", damaged: payload goes on behind the last argument)",
        ),
        (vec![9, 2], DecodeError::Bool(2), "{} {} {}. (9, damaged: bool has the value 2)"),
        (
            vec![9, 1, 255, 255, 255, 255, 1],
            DecodeError::Short,
            "{} {} {}. (9, true, damaged: payload is cut short)",
        ),
    ] {
        for fmt in ["{} {} {}.", "{:} {:1} {:1}."] {
            let mut out = b"before ".to_vec();
            let format = CompiledFormat::new(fmt.as_bytes(), &types);
            assert_eq!(format.error(), None);
            assert_eq!(format.render(&bytes, &mut out), Err(error));
            assert_eq!(String::from_utf8(out).unwrap(), format!("before {text}"));
        }
    }
    let all: Vec<_> = Values::new(&[at::ty::CHAR, at::ty::U8], &[0, 0xd8, 0, 0, 1]).collect();
    assert_eq!(all, [Err(DecodeError::Char(0xd800))]);
    let all: Vec<_> = Values::new(&[16], &[1]).collect();
    assert_eq!(all, [Err(DecodeError::Type(16))]);
}

#[test]
fn a_format_that_multiplies_is_cut() {
    let mut fmt = "{0}".repeat(1000);
    let format = CompiledFormat::new(fmt.as_bytes(), &[at::ty::STR]);
    let long = "x".repeat(100_000);
    let mut out = Vec::new();
    format.render(&payload((long.as_str(),)), &mut out).unwrap();
    assert!(out.ends_with(b"of its arguments)") && out.len() < 2_000_000, "{}", out.len());
    fmt = "{0:65535}".repeat(1000);
    out.clear();
    CompiledFormat::new(fmt.as_bytes(), &[at::ty::U8]).render(&[1], &mut out).unwrap();
    assert!(out.ends_with(b"of its arguments)") && out.len() < 300_000, "{}", out.len());
}

// ---- stored bytes

#[test]
fn golden_payload() {
    let bytes = payload((
        -2i8,
        -3i16,
        -4i32,
        -5i64,
        -6i128,
        7u8,
        0x0809u16,
        0x0a0b0c0du32,
        14u64,
        15u128,
        1.5f32,
        -2.0f64,
        true,
        'é',
        "grün",
        "",
    ));
    #[rustfmt::skip]
    let golden: &[u8] = &[
        0xfe,
        0xfd, 0xff,
        0xfc, 0xff, 0xff, 0xff,
        0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0x07,
        0x09, 0x08,
        0x0d, 0x0c, 0x0b, 0x0a,
        14, 0, 0, 0, 0, 0, 0, 0,
        15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0x00, 0x00, 0xc0, 0x3f,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xc0,
        0x01,
        0xe9, 0x00, 0x00, 0x00,
        5, 0, 0, 0, b'g', b'r', 0xc3, 0xbc, b'n',
        0, 0, 0, 0,
    ];
    assert_eq!(bytes, golden);
    type All<'a> = (i8, i16, i32, i64, i128, u8, u16, u32, u64, u128, f32, f64, bool, char, &'a str);
    assert_eq!(All::TYPES, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(<(isize, usize)>::TYPES, [4, 9]);
    assert_eq!(All::SIGNATURE, 0x0fed_cba9_8765_4321);
    assert_eq!(<()>::SIGNATURE, 0);
}

#[test]
fn golden_site_entry() {
    let facts = SiteFacts {
        level: Level::Warn,
        line: 0x0102,
        file: b"src/a.rs",
        target: b"app::b",
        fmt: "é {} {}".as_bytes(),
        types: &[3, 15],
        fields: b"user\0",
        style: 0,
    };
    #[rustfmt::skip]
    let golden: &[u8] = &[
        56, 0, 0, 0,  0x02, 0x01, 0, 0,
        4,  2,  8, 0,  6, 0,  8, 0,
        0,  0,  5, 0,  0, 0,  0, 0,
        3, 15, b's', b'r', b'c', b'/', b'a', b'.',
        b'r', b's', b'a', b'p', b'p', b':', b':', b'b',
        0xc3, 0xa9, b' ', b'{', b'}', b' ', b'{', b'}',
        b'u', b's', b'e', b'r', 0,
        0, 0, 0,
    ];
    let mut room = [0xa5; 57];
    assert_eq!(facts.encoded_len(), 56);
    assert_eq!(facts.encode(&mut room[..55]), None);
    assert_eq!(facts.encode(&mut room), Some(56));
    assert_eq!(room[..56], *golden);
    assert_eq!(room[56], 0xa5);
    assert_eq!(SiteFacts::decode(&room), Ok((facts, 56)));
    // One byte less: padding.
    let shorter = SiteFacts { fmt: b"e {} {}", ..facts };
    assert_eq!(shorter.encode(&mut room), Some(56));
    assert_eq!(room[50..], [b'r', 0, 0, 0, 0, 0, 0xa5]);
    assert_eq!(SiteFacts::decode(&room[..56]), Ok((shorter, 56)));
    for (i, byte, error) in [
        (0, 64, BadSite::Length),
        (0, 57, BadSite::Length),
        (3, 1, BadSite::Length),
        (8, 0, BadSite::Level),
        (8, 6, BadSite::Level),
        (9, 17, BadSite::Limit),
        (11, 2, BadSite::Limit),
        (13, 2, BadSite::Limit),
        (15, 17, BadSite::Limit),
        (17, 1, BadSite::Padding),
        (19, 5, BadSite::Limit),
        (20, 1, BadSite::Padding),
        (24, 0, BadSite::Type),
        (25, 16, BadSite::Type),
        (18, 4, BadSite::Fields),
        (51, b'x', BadSite::Fields),
        (55, 1, BadSite::Padding),
    ] {
        let mut bad = room;
        bad[i] = byte;
        let got = SiteFacts::decode(&bad[..56]);
        assert!(got == Err(error), "{i} {byte} {got:?}");
    }
    for n in 0..56 {
        assert_eq!(SiteFacts::decode(&room[..n]), Err(BadSite::Short), "{n}");
    }
}

#[test]
fn long_strings_are_cut_between_characters() {
    let (file, target) = ("é".repeat(200) + "x", "x".to_string() + &"é".repeat(200));
    let fmt = "\u{1f980}".repeat(2000);
    let facts = SiteFacts {
        level: Level::Info,
        line: 1,
        file: file.as_bytes(),
        target: target.as_bytes(),
        fmt: fmt.as_bytes(),
        types: &[1; 20],
        fields: b"",
        style: 0,
    };
    let mut room = vec![0; at::MAX_LEN];
    let len = facts.encode(&mut room).unwrap();
    let (got, _) = SiteFacts::decode(&room[..len]).unwrap();
    assert_eq!(std::str::from_utf8(got.file).unwrap(), "é".repeat(127) + "x");
    assert_eq!(std::str::from_utf8(got.target).unwrap(), "x".to_string() + &"é".repeat(127));
    assert_eq!(std::str::from_utf8(got.fmt).unwrap(), "\u{1f980}".repeat(1024));
    assert_eq!(got.types, [1; 16]);
    // Bytes that are no text at all are cut all the same.
    let junk = [0x80; 5000];
    let facts = SiteFacts { file: &junk, target: &junk, fmt: &junk, ..facts };
    let len = facts.encode(&mut room).unwrap();
    assert_eq!(len, at::MAX_LEN - at::MAX_FIELDS);
    assert!(SiteFacts::decode(&room).is_ok());
}

proptest! {
    /// Floats of the sizes that programs print: few digits, many, whole numbers, either side of where an
    /// exponent would begin.
    #[test]
    fn floats_as_format_makes_them(digits: i64, shift in 0u32..64, places in -8i32..24) {
        let v = (digits >> shift) as f64 / 10f64.powi(places);
        for v in [v, f64::from_bits(v.to_bits() ^ 1), v.trunc(), v * 0.001] {
            prop_assert_eq!(render("{}", (v,)), format!("{v}"));
            prop_assert_eq!(render("{} {}", (digits >> shift, v as f32)), format!("{} {}", digits >> shift, v as f32));
        }
    }

    #[test]
    fn arguments_come_back(
        a: i64, b: u128, c: f64, d: char, e: String, f: bool, g: i8, h in ".{0,20}", i: f32,
    ) {
        let bytes = payload((a, b, c, d, e.as_str(), f, g, h.as_str(), i));
        let types = <(i64, u128, f64, char, &str, bool, i8, &str, f32)>::TYPES;
        let got: Vec<_> = Values::new(types, &bytes).map(Result::unwrap).collect();
        prop_assert_eq!(got, [
            Value::Signed(a.into(), 64), Value::Unsigned(b), Value::F64(c), Value::Char(d),
            Value::Str(e.as_bytes()), Value::Bool(f), Value::Signed(g.into(), 8), Value::Str(h.as_bytes()),
            Value::F32(i),
        ]);
        let text = render("{}|{}|{}|{}|{}|{}|{}|{}|{}", (a, b, c, d, e.as_str(), f, g, h.as_str(), i));
        prop_assert_eq!(text, format!("{a}|{b}|{c}|{d}|{e}|{f}|{g}|{h}|{i}"));
        // Every cut is seen.
        for n in 0..bytes.len() {
            prop_assert_eq!(Values::new(types, &bytes[..n]).last(), Some(Err(DecodeError::Short)));
        }
    }

    #[test]
    fn site_entries_come_back(
        level in 0usize..5, line: u32, file in ".{0,60}", target in ".{0,60}", fmt in ".{0,300}",
        types in proptest::collection::vec(1u8..=15, 0..=16), names in 0usize..=16, style: u8,
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let fields = b"name\0".repeat(names.min(types.len()));
        let facts = SiteFacts {
            level: Level::ALL[level], line, file: file.as_bytes(), target: target.as_bytes(),
            fmt: fmt.as_bytes(), types: &types, fields: &fields, style,
        };
        let len = facts.encoded_len();
        let mut room = vec![0xa5; len];
        room.extend(&behind);
        prop_assert_eq!(facts.encode(&mut room), Some(len));
        prop_assert_eq!(&room[len..], &behind[..]);
        prop_assert_eq!(SiteFacts::decode(&room), Ok((facts, len)));
    }

    #[test]
    fn hostile_entries_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), fix in any::<bool>(),
        small in proptest::collection::vec(0u8..20, 16),
    ) {
        if fix && bytes.len() >= 24 {
            // Lengths that nearly add up, so that the checks behind the first one are met.
            bytes[..16].copy_from_slice(&small);
            for i in [1, 2, 3, 11, 13, 15] {
                bytes[i] = 0;
            }
            bytes[16..24].fill(0);
            let sum = 24 + bytes[9] as usize + bytes[10] as usize + bytes[12] as usize + bytes[14] as usize;
            bytes[0] = sum.next_multiple_of(8) as u8;
            let types = 24..(24 + bytes[9] as usize).min(bytes.len());
            bytes[types].iter_mut().for_each(|t| *t = *t % 15 + 1);
        }
        if let Ok((facts, len)) = SiteFacts::decode(&bytes) {
            prop_assert_eq!(facts.encoded_len(), len);
            let mut out = Vec::new();
            let _ = CompiledFormat::new(facts.fmt, facts.types).render(&bytes, &mut out);
        }
    }

    #[test]
    fn hostile_payloads_never_panic(
        types in proptest::collection::vec(0u8..18, 0..20),
        fmt in proptest::collection::vec(
            proptest::sample::select(vec![
                "{", "}", "{}", "{:", ":", "?", "#", "0", "1", "2", "$", ".", "*", "x",
                "e", "<", "^", ">", "é", "+", "a",
            ]), 0..24),
        bytes in proptest::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..80),
    ) {
        let fmt = fmt.concat();
        let format = CompiledFormat::new(fmt.as_bytes(), &types);
        let mut out = b"<".to_vec();
        let result = format.render(&bytes, &mut out);
        prop_assert!(out.starts_with(b"<"));
        if result.is_err() || format.error().is_some() {
            prop_assert!(out.ends_with(b")"), "{}", String::from_utf8_lossy(&out));
        }
        prop_assert_eq!(result.is_err(), Values::new(&types, &bytes).any(|v| v.is_err()));
    }
}

// ---- call sites

/// A site, the types of a call and its payload.
type Logged = (&'static Site, &'static [u8], Vec<u8>);

thread_local! {
    static LOGGED: RefCell<Vec<Logged>> = const { RefCell::new(Vec::new()) };
}

/// Stands in for the writer.
fn keep<A: Args>(_: Way, site: &'static Site, args: A) {
    LOGGED.with_borrow_mut(|all| all.push((site, A::TYPES, payload(args))));
}

/// The records since the last call, as text.
fn taken() -> Vec<(&'static Site, String)> {
    let all = LOGGED.with_borrow_mut(std::mem::take);
    all.into_iter()
        .map(|(site, types, bytes)| {
            let mut out = Vec::new();
            CompiledFormat::new(site.fmt.as_bytes(), types).render(&bytes, &mut out).unwrap();
            (site, String::from_utf8(out).unwrap())
        })
        .collect()
}

macro_rules! log_here {
    ($($t:tt)*) => { spillring::__log_to!(keep, Level::Error, $($t)*) };
}

#[test]
fn a_call_hands_over_site_and_arguments() {
    fn owned() -> String {
        "temporary".into()
    }
    let (name, mut count, unsized_text) = (String::from("water"), 3u16, "boxed".to_string().into_boxed_str());
    let nested = &&&7i64;
    log_here!("nothing");
    log_here!("{} of {}", &mut count, name);
    let line = line!() - 1;
    log_here!(target: "orders", "{:>5}|{}|{}|{}", nested, *unsized_text, owned().as_str(), &&name,);
    log_here!("{} {} {}", 1, 2.5, if count == 3 { "three" } else { "many" });
    log_here!("{:1$} {2:?}", 1, 4usize, count == 3);
    log_here!(concat!("a", "{}"), std::str::from_utf8(&[b'b'; 2]).unwrap());
    #[rustfmt::skip]
    log_here!("{}{}{}{}{}{}{}{}{}{}{}{}{}{}{}{}", 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6);
    let all = taken();
    let texts: Vec<_> = all.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "nothing",
            "3 of water",
            "    7|boxed|temporary|water",
            "1 2.5 three",
            "   1 true",
            "abb",
            "1234567890123456"
        ]
    );
    let site = all[1].0;
    assert_eq!((site.line, site.file, site.target, site.fmt), (line, file!(), module_path!(), "{} of {}"));
    assert_eq!((site.level, all[2].0.target), (Level::Error, "orders"));
}

#[test]
fn a_suppressed_call_evaluates_nothing() {
    let evaluated = Cell::new(0);
    let arg = || {
        evaluated.set(evaluated.get() + 1);
        1
    };
    assert_eq!(gate(), Gate::From(Level::Info), "the gate before anybody set it");
    // No other test moves the gate; they log at `error`, which every step here lets through.
    for (level, passes) in [("trace", 5), ("debug", 4), ("info", 3), ("Warn", 2), ("error", 1)] {
        set_gate(level.parse().unwrap());
        evaluated.set(0);
        spillring::trace!("{}", arg());
        spillring::debug!("{}", arg());
        spillring::info!(target: "t", "{}", arg());
        spillring::warn!("{}", arg());
        spillring::error!("{}", arg());
        assert_eq!(evaluated.get(), passes, "{level}");
        evaluated.set(0);
        spillring::__log_to!(keep, Level::Debug, "{}", arg());
        assert_eq!((evaluated.get() == 1, taken().len() == 1), (passes >= 4, passes >= 4), "{level}");
    }
    set_gate(Gate::From(Level::Info));
}

#[test]
fn levels() {
    let names = ["trace", "debug", "info", "warn", "error"];
    for (i, name) in names.into_iter().enumerate() {
        let level: Level = name.parse().unwrap();
        assert_eq!(
            (level as u8, level.as_str(), Level::from_u8(level as u8)),
            (i as u8 + 1, name, Some(level))
        );
        assert_eq!(name.parse(), Ok(Gate::From(level)));
    }
    assert!(Level::ALL.is_sorted());
    assert_eq!("OFF".parse(), Ok(Gate::Off));
    assert_eq!("off".parse::<Level>(), Err(BadLevel));
    assert_eq!("loud".parse::<Gate>(), Err(BadLevel));
    assert_eq!(Gate::Off.to_string(), "off");
    assert_eq!((Level::from_u8(0), Level::from_u8(6)), (None, None));
}

#[test]
fn a_site_belongs_to_the_types_that_claimed_it() {
    static SITE: Site = Site::new(Level::Info, "t", "f", 1, "{}");
    type First = (u32,);
    type Second<'a> = (&'a str,);
    assert_eq!((SITE.id::<First>(), SITE.id::<Second>()), (0, 0));
    assert!(SITE.claim::<First>());
    assert!(!SITE.claim::<Second>());
    assert!(SITE.claim::<First>(), "an interrupted claim is repeated");
    assert_eq!(SITE.id::<First>(), 0);
    SITE.set_id(9);
    SITE.set_id(10);
    assert_eq!((SITE.id::<First>(), SITE.id::<Second>()), (9, 0));
    assert_eq!((SITE.facts::<First>().types, SITE.facts::<Second>().types), (&[8][..], &[15][..]));

    static EMPTY: Site = Site::new(Level::Info, "t", "f", 1, "");
    assert!(EMPTY.claim::<()>());
    EMPTY.set_id(3);
    assert_eq!(EMPTY.id::<()>(), 3);

    // A generic function: one site, two lists of types, both rendered right.
    fn generic<T: Capture>(v: T)
    where
        for<'a> T::Raw<'a>: Display,
    {
        log_here!("{}", v);
    }
    generic(5u8);
    generic("five");
    let all = taken();
    assert!(std::ptr::eq(all[0].0, all[1].0));
    assert_eq!((all[0].1.as_str(), all[1].1.as_str()), ("5", "five"));
}
