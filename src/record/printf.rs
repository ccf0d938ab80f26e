//! The grammar of C's `printf`: what a format string takes ([`conversions`]) and the text that `printf`
//! would have made of stored arguments (`PrintfFormat`).
//!
//! Flags `-+ #0'`, width and precision (also `*`), the lengths `hh h l ll q j z t`, and the conversions
//! `d i u o x X b B c s p f F e E g G a A m %`. Not: `%n`, `%ls` and `%S` (wide strings), `L` (long double)
//! and positions (`%1$d`); a string with one of these is not for rendering, and its records show it as it
//! is, with the arguments behind it. The text is that of glibc in the C locale.
//!
//! [`conversions`] neither allocates nor panics and is async-signal-safe: a call site of C asks it in its
//! first log call how its arguments are to be taken.
#![allow(unsafe_code)] // `%m` asks the C library for its text.

use super::value::Value;
use crate::layout::site::{MAX_ARGS, ty};
use std::io::Write;
use std::ops::Range;

/// Limit: characters that a width or a precision may ask for.
const MAX_COUNT: usize = 256 << 10;

const UNCLOSED: &str = "a conversion in the format string has no end";
const UNSUPPORTED: &str = "unknown or unsupported conversion in the format string";

/// What one argument of a printf format string is taken for, in the order of the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrintfArg {
    /// The width or precision of the conversion that follows: an int.
    Count,
    /// An integer, or a character.
    Integer,
    /// A double.
    Float,
    /// A string that ends with a NUL, or at its precision.
    Text(Bound),
    /// An address, shown and not followed.
    Pointer,
    /// `%m`: no argument of the call, but errno, which is stored as one.
    Errno,
}

/// How much of a string is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// All of it.
    None,
    /// So many bytes.
    Bytes(u32),
    /// As many as the argument before says (negative: all).
    Before,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    None,
    Is(u32),
    Arg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Int,
    Char,
    Short,
    Long,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: Count,
    precision: Count,
    length: Length,
    conv: u8,
}

enum Token {
    End,
    Text(usize, usize),
    Conv(Spec),
    Bad(&'static str),
}

struct Parser<'a> {
    fmt: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> u8 {
        // A NUL is nothing that the grammar knows, so it may stand for the end.
        self.fmt.get(self.at).copied().unwrap_or(0)
    }

    fn eat(&mut self, b: u8) -> bool {
        let found = self.peek() == b;
        self.at += usize::from(found);
        found
    }

    fn number(&mut self) -> u32 {
        let mut n = 0u32;
        while self.peek().is_ascii_digit() {
            n = n.saturating_mul(10).saturating_add(u32::from(self.peek() - b'0'));
            self.at += 1;
        }
        n
    }

    fn next(&mut self) -> Token {
        let from = self.at;
        if from >= self.fmt.len() {
            return Token::End;
        }
        if self.fmt[from] != b'%' {
            while self.at < self.fmt.len() && self.fmt[self.at] != b'%' {
                self.at += 1;
            }
            return Token::Text(from, self.at);
        }
        self.at += 1;
        if self.eat(b'%') {
            return Token::Text(from, from + 1);
        }
        let mut spec = Spec {
            left: false,
            plus: false,
            space: false,
            alternate: false,
            zero: false,
            width: Count::None,
            precision: Count::None,
            length: Length::Int,
            conv: 0,
        };
        loop {
            match self.peek() {
                b'-' => spec.left = true,
                b'+' => spec.plus = true,
                b' ' => spec.space = true,
                b'#' => spec.alternate = true,
                b'0' => spec.zero = true,
                // Thousands: the C locale has no mark for them.
                b'\'' => {}
                _ => break,
            }
            self.at += 1;
        }
        if self.eat(b'*') {
            spec.width = Count::Arg;
        } else if self.peek().is_ascii_digit() {
            spec.width = Count::Is(self.number());
        }
        if self.eat(b'.') {
            spec.precision = if self.eat(b'*') { Count::Arg } else { Count::Is(self.number()) };
        }
        spec.length = match self.peek() {
            b'h' => {
                self.at += 1;
                if self.eat(b'h') { Length::Char } else { Length::Short }
            }
            b'l' => {
                self.at += 1;
                self.eat(b'l');
                Length::Long
            }
            b'q' | b'j' | b'z' | b't' => {
                self.at += 1;
                Length::Long
            }
            _ => Length::Int,
        };
        spec.conv = self.peek();
        self.at += 1;
        let wide = spec.length == Length::Long;
        let plain = spec.length == Length::Int;
        match spec.conv {
            0 if self.at > self.fmt.len() => Token::Bad(UNCLOSED),
            b'd' | b'i' | b'u' | b'o' | b'x' | b'X' | b'b' | b'B' => Token::Conv(spec),
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' if plain || wide => Token::Conv(spec),
            b'c' if plain || wide => Token::Conv(spec),
            b's' | b'p' | b'm' if plain => Token::Conv(spec),
            _ => Token::Bad(UNSUPPORTED),
        }
    }
}

impl Spec {
    fn takes(&self) -> PrintfArg {
        match self.conv {
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => PrintfArg::Float,
            b's' => PrintfArg::Text(match self.precision {
                Count::None => Bound::None,
                Count::Is(n) => Bound::Bytes(n),
                Count::Arg => Bound::Before,
            }),
            b'p' => PrintfArg::Pointer,
            b'm' => PrintfArg::Errno,
            _ => PrintfArg::Integer,
        }
    }
}

/// Tells `f` what each argument of `fmt` is taken for, in order. Async-signal-safe.
///
/// # Errors
/// What is wrong with the string; then nothing may be said of any argument.
pub fn conversions(fmt: &[u8], mut f: impl FnMut(PrintfArg)) -> Result<(), &'static str> {
    let mut check = Parser { fmt, at: 0 };
    loop {
        match check.next() {
            Token::End => break,
            Token::Bad(why) => return Err(why),
            _ => {}
        }
    }
    let mut parser = Parser { fmt, at: 0 };
    loop {
        match parser.next() {
            Token::End => return Ok(()),
            Token::Bad(why) => return Err(why),
            Token::Text(..) => {}
            Token::Conv(spec) => {
                for count in [spec.width, spec.precision] {
                    if count == Count::Arg {
                        f(PrintfArg::Count);
                    }
                }
                f(spec.takes());
            }
        }
    }
}

/// Whether an argument stored as type `t` is one that the conversion can show.
fn suits(t: u8, arg: PrintfArg) -> bool {
    let integer = matches!(
        t,
        ty::I8 | ty::I16 | ty::I32 | ty::I64 | ty::U8 | ty::U16 | ty::U32 | ty::U64 | ty::BOOL | ty::CHAR
    );
    match arg {
        PrintfArg::Count | PrintfArg::Integer | PrintfArg::Errno => integer,
        PrintfArg::Float => matches!(t, ty::F32 | ty::F64),
        PrintfArg::Text(_) => t == ty::STR,
        PrintfArg::Pointer => t == ty::U64,
    }
}

/// A printf format string, parsed once.
#[derive(Debug)]
pub(super) struct PrintfFormat {
    text: Box<[u8]>,
    pieces: Box<[(Range<usize>, Option<Spec>)]>,
}

impl PrintfFormat {
    /// For arguments of these types.
    pub fn new(fmt: &[u8], types: &[u8]) -> Result<PrintfFormat, &'static str> {
        let (mut n, mut bad) = (0, None);
        conversions(fmt, |arg| {
            match types.get(n) {
                Some(&t) if suits(t, arg) => {}
                Some(_) => bad = Some("an argument's type does not go with its conversion"),
                None => bad = Some("fewer arguments than the format string asks for"),
            }
            n += 1;
        })?;
        if let Some(why) = bad {
            return Err(why);
        }
        if n < types.len() {
            return Err("more arguments than the format string asks for");
        }
        let mut parser = Parser { fmt, at: 0 };
        let (mut text, mut pieces, mut from) = (Vec::new(), Vec::new(), 0);
        loop {
            match parser.next() {
                Token::End => break,
                Token::Bad(why) => return Err(why),
                Token::Text(a, b) => text.extend_from_slice(&fmt[a..b]),
                Token::Conv(spec) => {
                    pieces.push((from..text.len(), Some(spec)));
                    from = text.len();
                }
            }
        }
        if from < text.len() {
            pieces.push((from..text.len(), None));
        }
        Ok(PrintfFormat { text: text.into(), pieces: pieces.into() })
    }

    /// Text and, for the second value, whether an argument follows: what is shown of a damaged record.
    pub fn pieces(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.pieces.iter().map(|(text, spec)| (&self.text[text.clone()], spec.is_some()))
    }

    /// Appends the text of a record with these arguments, at most about `limit` bytes of it; false: cut.
    pub fn render(&self, args: &[Value<'_>; MAX_ARGS], limit: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let mut args = args.iter();
        let mut next = || args.next().copied().unwrap_or(Value::Bool(false));
        for (text, spec) in &self.pieces {
            out.extend_from_slice(&self.text[text.clone()]);
            if let Some(spec) = spec {
                let mut count = |c| match c {
                    Count::None => None,
                    Count::Is(n) => Some(i64::from(n)),
                    Count::Arg => Some(i64::from(bits(&next()) as i32)),
                };
                let (width, precision) = (count(spec.width), count(spec.precision));
                let mut spec = *spec;
                let width = width.map_or(0, |w| {
                    spec.left |= w < 0;
                    w.unsigned_abs() as usize
                });
                let precision = precision.and_then(|p| usize::try_from(p).ok()).map(|p| p.min(MAX_COUNT));
                one(&next(), &spec, width.min(MAX_COUNT), precision, out);
            }
            if out.len() - start > limit {
                out.truncate(start + limit);
                return false;
            }
        }
        true
    }
}

/// The low 64 bits of an integer, its sign extended.
fn bits(v: &Value<'_>) -> u64 {
    match *v {
        Value::Signed(v, _) => v as u64,
        Value::Unsigned(v) => v as u64,
        Value::Bool(v) => u64::from(v),
        Value::Char(v) => u64::from(u32::from(v)),
        _ => 0,
    }
}

fn one(value: &Value<'_>, spec: &Spec, width: usize, precision: Option<usize>, out: &mut Vec<u8>) {
    match spec.conv {
        b'd' | b'i' => {
            let v = bits(value);
            let v = match spec.length {
                Length::Char => i64::from(v as i8),
                Length::Short => i64::from(v as i16),
                Length::Int => i64::from(v as i32),
                Length::Long => v as i64,
            };
            let sign: &[u8] = match (v < 0, spec.plus, spec.space) {
                (true, ..) => b"-",
                (_, true, _) => b"+",
                (_, _, true) => b" ",
                _ => b"",
            };
            integer(v.unsigned_abs(), sign, spec, width, precision, out);
        }
        b'c' => {
            let v = bits(value) as u32;
            let mut wide = [0; 4];
            let text: &[u8] = if spec.length == Length::Long {
                char::from_u32(v).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut wide).as_bytes()
            } else {
                &[v as u8]
            };
            padded(text, spec, width, out);
        }
        b's' => {
            if let Value::Str(v) = *value {
                padded(&v[..v.len().min(precision.unwrap_or(usize::MAX))], spec, width, out);
            }
        }
        b'm' => {
            let text = errno_text(bits(value) as i32, spec.alternate);
            padded(&text[..text.len().min(precision.unwrap_or(usize::MAX))], spec, width, out);
        }
        b'p' => match bits(value) {
            0 => padded(b"(nil)", spec, width, out),
            v => {
                let sign: &[u8] = match (spec.plus, spec.space) {
                    (true, _) => b"+",
                    (_, true) => b" ",
                    _ => b"",
                };
                let spec = Spec { conv: b'x', alternate: true, ..*spec };
                integer(v, sign, &spec, width, precision, out);
            }
        },
        b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
            let v = match *value {
                Value::F64(v) => v,
                Value::F32(v) => f64::from(v),
                _ => 0.0,
            };
            float(v, spec, width, precision, out);
        }
        _ => {
            let v = bits(value);
            let v = match spec.length {
                Length::Char => u64::from(v as u8),
                Length::Short => u64::from(v as u16),
                Length::Int => u64::from(v as u32),
                Length::Long => v,
            };
            integer(v, b"", spec, width, precision, out);
        }
    }
}

fn spaces(n: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + n, b' ');
}

fn zeros(n: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + n, b'0');
}

fn padded(text: &[u8], spec: &Spec, width: usize, out: &mut Vec<u8>) {
    let missing = width.saturating_sub(text.len());
    if !spec.left {
        spaces(missing, out);
    }
    out.extend_from_slice(text);
    if spec.left {
        spaces(missing, out);
    }
}

/// `before` (sign and prefix), zeros if asked for, `digits`; padded.
fn number(before: &[u8], digits: &[u8], zero: bool, left: bool, width: usize, out: &mut Vec<u8>) {
    let missing = width.saturating_sub(before.len() + digits.len());
    if !left && !zero {
        spaces(missing, out);
    }
    out.extend_from_slice(before);
    if !left && zero {
        zeros(missing, out);
    }
    out.extend_from_slice(digits);
    if left {
        spaces(missing, out);
    }
}

fn integer(v: u64, sign: &[u8], spec: &Spec, width: usize, precision: Option<usize>, out: &mut Vec<u8>) {
    let mut digits = Vec::new();
    match spec.conv {
        _ if v == 0 && precision == Some(0) => {}
        b'o' => put(&mut digits, format_args!("{v:o}")),
        b'x' => put(&mut digits, format_args!("{v:x}")),
        b'X' => put(&mut digits, format_args!("{v:X}")),
        b'b' | b'B' => put(&mut digits, format_args!("{v:b}")),
        _ => put(&mut digits, format_args!("{v}")),
    }
    let short = precision.unwrap_or(1).saturating_sub(digits.len());
    if short > 0 && (v != 0 || precision != Some(0)) {
        digits.splice(0..0, std::iter::repeat_n(b'0', short));
    }
    if spec.conv == b'o' && spec.alternate && digits.first() != Some(&b'0') {
        digits.insert(0, b'0');
    }
    let prefix: &[u8] = match spec.conv {
        _ if !spec.alternate || v == 0 => b"",
        b'x' => b"0x",
        b'X' => b"0X",
        b'b' => b"0b",
        b'B' => b"0B",
        _ => b"",
    };
    let before = [sign, prefix].concat();
    number(&before, &digits, spec.zero && precision.is_none(), spec.left, width, out);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes everything.
    let _ = out.write_fmt(text);
}

fn float(v: f64, spec: &Spec, width: usize, precision: Option<usize>, out: &mut Vec<u8>) {
    let mut before: Vec<u8> = match (v.is_sign_negative(), spec.plus, spec.space) {
        (true, ..) => b"-".to_vec(),
        (_, true, _) => b"+".to_vec(),
        (_, _, true) => b" ".to_vec(),
        _ => Vec::new(),
    };
    let upper = spec.conv.is_ascii_uppercase();
    if !v.is_finite() {
        let text: &[u8] = match (v.is_nan(), upper) {
            (true, false) => b"nan",
            (true, true) => b"NAN",
            (false, false) => b"inf",
            (false, true) => b"INF",
        };
        return number(&before, text, false, spec.left, width, out);
    }
    let v = v.abs();
    let mut digits = Vec::new();
    match spec.conv.to_ascii_lowercase() {
        b'f' => fixed(v, precision.unwrap_or(6), spec.alternate, &mut digits),
        b'e' => scientific(v, precision.unwrap_or(6), spec.alternate, &mut digits),
        b'g' => general(v, precision.unwrap_or(6).max(1), spec.alternate, &mut digits),
        _ => {
            before.extend_from_slice(b"0x");
            hexadecimal(v, precision, spec.alternate, &mut digits);
        }
    }
    if upper {
        before.make_ascii_uppercase();
        digits.make_ascii_uppercase();
    }
    number(&before, &digits, spec.zero, spec.left, width, out);
}

/// More digits than any double has behind the point; what is asked for beyond them is zeros.
const DIGITS: usize = 1100;

fn fixed(v: f64, precision: usize, point: bool, out: &mut Vec<u8>) {
    put(out, format_args!("{v:.*}", precision.min(DIGITS)));
    zeros(precision.saturating_sub(DIGITS), out);
    if point && precision == 0 {
        out.push(b'.');
    }
}

/// The digits of `{:e}` without its exponent, and the exponent.
fn exponent(v: f64, precision: usize) -> (Vec<u8>, i32) {
    let text = format!("{v:.*e}", precision.min(DIGITS));
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mut digits = digits.as_bytes().to_vec();
    zeros(precision.saturating_sub(DIGITS), &mut digits);
    (digits, exponent.parse().unwrap_or(0))
}

fn put_exponent(exponent: i32, out: &mut Vec<u8>) {
    let sign = if exponent < 0 { '-' } else { '+' };
    put(out, format_args!("e{sign}{:02}", exponent.unsigned_abs()));
}

fn scientific(v: f64, precision: usize, point: bool, out: &mut Vec<u8>) {
    let (digits, e) = exponent(v, precision);
    out.extend_from_slice(&digits);
    if point && precision == 0 {
        out.push(b'.');
    }
    put_exponent(e, out);
}

fn general(v: f64, precision: usize, keep_zeros: bool, out: &mut Vec<u8>) {
    let (digits, e) = exponent(v, precision - 1);
    let small = e < -4 || i64::from(e) >= precision as i64;
    if small {
        out.extend_from_slice(&digits);
    } else {
        fixed(v, (precision as i64 - 1 - i64::from(e)) as usize, false, out);
    }
    let has_point = out.contains(&b'.');
    if keep_zeros && !has_point {
        out.push(b'.');
    } else if !keep_zeros && has_point {
        while out.last() == Some(&b'0') {
            out.pop();
        }
        if out.last() == Some(&b'.') {
            out.pop();
        }
    }
    if small {
        put_exponent(e, out);
    }
}

fn hexadecimal(v: f64, precision: Option<usize>, point: bool, out: &mut Vec<u8>) {
    const FRACTION: u32 = 52;
    let (raw, mask) = (v.to_bits(), (1u64 << FRACTION) - 1);
    let biased = (raw >> FRACTION) as i32;
    let (mut lead, mut fraction, e) = match (biased, raw & mask) {
        (0, 0) => (0, 0, 0),
        (0, f) => (0, f, -1022),
        (b, f) => (1, f, b - 1023),
    };
    let mut shown = 13;
    match precision {
        None => {
            while shown > 0 && (fraction >> (FRACTION - 4 * shown)) & 15 == 0 {
                shown -= 1;
            }
        }
        Some(p) if p < 13 => {
            shown = p as u32;
            let cut = FRACTION - 4 * shown;
            let whole = lead << FRACTION | fraction;
            let (mut kept, rest, half) = (whole >> cut, whole & ((1 << cut) - 1), 1u64 << (cut - 1));
            // To the nearest, and of two as near to the even one.
            if rest > half || rest == half && kept & 1 == 1 {
                kept += 1;
            }
            lead = kept >> (4 * shown);
            fraction = kept << cut & mask;
        }
        Some(_) => {}
    }
    out.push(b'0' + lead as u8);
    let more = precision.unwrap_or(0).saturating_sub(13);
    if shown > 0 || point || more > 0 {
        out.push(b'.');
    }
    for i in 1..=shown {
        let digit = (fraction >> (FRACTION - 4 * i)) & 15;
        out.push(b"0123456789abcdef"[digit as usize]);
    }
    zeros(more, out);
    put(out, format_args!("p{e:+}"));
}

/// The C library's text for an errno, or its name (`%#m`).
fn errno_text(errno: i32, name: bool) -> Vec<u8> {
    if name && let Some(name) = errno_name(errno) {
        return name;
    }
    let mut buf = [0 as libc::c_char; 256];
    // SAFETY: the text is written into the buffer, with its NUL, within its length.
    unsafe {
        libc::strerror_r(errno, buf.as_mut_ptr(), buf.len());
        std::ffi::CStr::from_ptr(buf.as_ptr()).to_bytes().to_vec()
    }
}

fn errno_name(errno: i32) -> Option<Vec<u8>> {
    // glibc's alone, and not in all that this runs on.
    // SAFETY: looks a symbol up; the function behind it has this signature and answers a static string.
    unsafe {
        let f = libc::dlsym(libc::RTLD_DEFAULT, c"strerrorname_np".as_ptr());
        if f.is_null() {
            return None;
        }
        let f: extern "C" fn(libc::c_int) -> *const libc::c_char = std::mem::transmute(f);
        let name = f(errno);
        (!name.is_null()).then(|| std::ffi::CStr::from_ptr(name).to_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(fmt: &str, types: &[u8], args: &[Value<'_>]) -> String {
        let mut all = [Value::Bool(false); MAX_ARGS];
        all[..args.len()].copy_from_slice(args);
        let mut out = Vec::new();
        assert!(PrintfFormat::new(fmt.as_bytes(), types).unwrap().render(&all, 1 << 20, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_c_would_print() {
        let i = |v: i64| Value::Signed(v.into(), 64);
        assert_eq!(show("%5d|%-5d|%05d|%+.3d", &[ty::I32; 4], &[i(42), i(-42), i(-42), i(7)]), {
            "   42|-42  |-0042|+007"
        });
        assert_eq!(
            show("%#x %#o %hhd %zu", &[ty::U32, ty::U32, ty::I32, ty::U64], &[i(255), i(8), i(300), i(9)]),
            "0xff 010 44 9"
        );
        let f = Value::F64;
        assert_eq!(
            show("%f %.3e %g %a", &[ty::F64; 4], &[f(1.5), f(12345.0), f(1e-5), f(1.0)]),
            "1.500000 1.234e+04 1e-05 0x1p+0"
        );
        assert_eq!(show("%6.2s|%c%%", &[ty::STR, ty::I32], &[Value::Str(b"water"), i(65)]), "    wa|A%");
        assert_eq!(
            show("%*d|%.*s", &[ty::I32, ty::I32, ty::I32, ty::STR], &[i(-4), i(7), i(2), Value::Str(b"abc")]),
            { "7   |ab" }
        );
        assert_eq!(show("%p %m", &[ty::U64, ty::I32], &[i(0), i(2)]), "(nil) No such file or directory");
    }

    #[test]
    fn what_cannot_be_shown_is_refused() {
        for (fmt, types) in [
            ("%n", &[ty::U64][..]),
            ("%Lf", &[ty::F64]),
            ("%ls", &[ty::STR]),
            ("%1$d", &[ty::I32]),
            ("%", &[]),
            ("%-", &[]),
            ("%d", &[]),
            ("%d", &[ty::STR]),
            ("%s", &[ty::U64]),
            ("%d", &[ty::I32, ty::I32]),
        ] {
            assert!(PrintfFormat::new(fmt.as_bytes(), types).is_err(), "{fmt}");
        }
    }
}
