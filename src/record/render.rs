//! From stored arguments to the text that `format!` would have made of them.

use super::fields::Fields;
use super::format::{Align, Conv, Count, Parser, Spec, Token, Used};
use super::printf::PrintfFormat;
use super::value::{DecodeError, Value, Values};
use crate::layout::site::{MAX_ARGS, style, ty};
use std::io::Write;
use std::ops::Range;

/// Limit: bytes of text per byte of payload, beyond [`TEXT_BASE`]. A format string may name one
/// argument a thousand times; who reads must not drown in what a hostile one asks for.
const TEXT_FACTOR: usize = 16;
/// Limit: bytes of text that any record may have.
const TEXT_BASE: usize = 256 << 10;

/// A site's format string, parsed once and used for all its records.
#[derive(Debug)]
pub struct CompiledFormat {
    types: Box<[u8]>,
    /// How many of the types, the first ones, are the format string's.
    own: usize,
    names: Box<[u8]>,
    text: Box<str>,
    pieces: Box<[Piece]>,
    shape: Shape,
    /// `text` is [`harmless`].
    harmless: bool,
}

#[derive(Debug)]
enum Shape {
    /// Every argument once, in order, as `{}`: no need to have them all before the first is written.
    Plain,
    Any,
    /// A format string of C.
    Printf(PrintfFormat),
    /// What cannot be rendered: `text` is the format string itself, and all arguments follow it.
    Raw(&'static str),
}

/// A format string without its placeholders, those, and how to go through them.
type Parsed = (Box<str>, Box<[Piece]>, Shape);

/// Text between two arguments is mostly not longer.
const SHORT: usize = 16;

/// Text, then an argument. Text without one is a last piece by itself.
#[derive(Debug)]
struct Piece {
    text: Range<u32>,
    arg: Option<(u8, Spec)>,
}

impl CompiledFormat {
    /// Parses the format string of a site with these argument types. It always gives something: where
    /// the string is not one for these types, records show it as it is, and the arguments behind it.
    pub fn new(fmt: &[u8], types: &[u8]) -> CompiledFormat {
        Self::with_fields(fmt, types, b"", style::BRACE)
    }

    /// The same of a site with fields (their names, a NUL behind each: the last arguments are theirs) and a
    /// format string of this grammar ([`style`]).
    pub fn with_fields(fmt: &[u8], types: &[u8], names: &[u8], style: u8) -> CompiledFormat {
        let fields = names.iter().filter(|&&b| b == 0).count();
        let own = types.len().saturating_sub(fields);
        let parsed = match style {
            style::BRACE => Self::parse(fmt, &types[..own]),
            style::PRINTF => PrintfFormat::new(fmt, &types[..own])
                .map(|f| (Box::default(), Box::default(), Shape::Printf(f))),
            _ => Err("a format string of a later version"),
        };
        let (text, pieces, shape) =
            parsed.unwrap_or_else(|why| (String::from_utf8_lossy(fmt).into(), [].into(), Shape::Raw(why)));
        let harmless = harmless(text.as_bytes());
        CompiledFormat { types: types.into(), own, names: names.into(), text, pieces, shape, harmless }
    }

    /// The fields of a record, in order; those that only its call knew among them.
    pub fn fields<'a>(&'a self, payload: &'a [u8]) -> Fields<'a> {
        Fields::new(&self.types, self.own, &self.names, payload)
    }

    /// Whether records of this site have fields.
    pub fn has_fields(&self) -> bool {
        !self.names.is_empty()
    }

    fn parse(fmt: &[u8], types: &[u8]) -> Result<Parsed, &'static str> {
        let fmt = std::str::from_utf8(fmt).map_err(|_| "the format string is not UTF-8")?;
        if types.len() > MAX_ARGS {
            return Err("more than 16 arguments");
        }
        let (mut parser, mut used) = (Parser::new(fmt), Used::none());
        let (mut text, mut pieces, mut from) = (String::new(), Vec::new(), 0);
        loop {
            match parser.next() {
                Token::End => break,
                Token::Bad(why) => return Err(why),
                Token::Text(a, b) => text.push_str(&fmt[a..b]),
                Token::Arg(arg, spec) => {
                    used.by(arg, &spec);
                    pieces.push(Piece { text: from..text.len() as u32, arg: Some((arg, spec)) });
                    from = text.len() as u32;
                }
            }
        }
        if from < text.len() as u32 {
            pieces.push(Piece { text: from..text.len() as u32, arg: None });
        }
        if let Some(why) = used.mismatch(types.len()) {
            return Err(why);
        }
        let mut plain = true;
        for (i, (arg, spec)) in pieces.iter().filter_map(|p| p.arg).enumerate() {
            if !suits(types[arg as usize], spec.conv) {
                return Err("an argument's type does not go with its format specification");
            }
            for count in [spec.width, spec.precision] {
                if let Count::Arg(n) = count
                    && types[n as usize] != ty::U64
                {
                    return Err("a width or precision that is not a usize");
                }
            }
            plain &= spec == Spec::PLAIN && arg as usize == i;
        }
        // So that there is always as much behind the beginning of a piece as is copied of it at once.
        text.push_str(&" ".repeat(SHORT));
        let shape = if plain { Shape::Plain } else { Shape::Any };
        Ok((text.into(), pieces.into(), shape))
    }

    /// Why records show the format string as it is; None for a good one.
    pub fn error(&self) -> Option<&'static str> {
        match self.shape {
            Shape::Raw(why) => Some(why),
            _ => None,
        }
    }

    /// Appends the text of a record's message, without fields. Strings that are not UTF-8 are copied as they are.
    ///
    /// On an error the text is there too: the format string, then all arguments that could be read,
    /// then what is wrong. Text beyond 256 KiB and 16 bytes per byte of payload is cut, and says so.
    pub fn render(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.render_and_look(payload, out).map(|_| ())
    }

    /// The same. True: the text is [`harmless`]; false: nobody has looked.
    pub(crate) fn render_and_look(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        let start = out.len();
        let result = match self.shape {
            Shape::Plain => self.plain(payload, out),
            Shape::Any | Shape::Printf(_) => {
                self.any(payload, out, TEXT_BASE + TEXT_FACTOR * payload.len()).map(|()| false)
            }
            Shape::Raw(_) => return self.raw(payload, out).map(|()| false),
        };
        if result.is_err() {
            out.truncate(start);
            return self.raw(payload, out).map(|()| false);
        }
        result
    }

    #[inline]
    fn text(&self, piece: &Piece) -> &[u8] {
        &self.text.as_bytes()[piece.text.start as usize..piece.text.end as usize]
    }

    fn plain(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        let mut harmless = self.harmless;
        let mut values = Values::new(&self.types, payload);
        for piece in &self.pieces {
            let (at, len) = (out.len(), piece.text.len());
            match self.text.as_bytes()[piece.text.start as usize..].first_chunk::<SHORT>() {
                // All that there may be at once and back again is cheaper than a copy of unknown length.
                Some(text) if len <= SHORT => {
                    out.extend_from_slice(text);
                    out.truncate(at + len);
                }
                _ => out.extend_from_slice(self.text(piece)),
            }
            if piece.arg.is_some() {
                harmless &= display_next(&mut values, out)?;
            }
        }
        // Nothing may be left but the fields.
        values.try_for_each(|left| left.map(|_| ())).map(|()| harmless)
    }

    fn any(&self, payload: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), DecodeError> {
        let mut args = [Value::Bool(false); MAX_ARGS];
        let mut given = args.iter_mut().take(self.own);
        for value in Values::new(&self.types, payload) {
            let value = value?;
            if let Some(place) = given.next() {
                *place = value;
            }
        }
        const CUT: &[u8] = b" (cut: this format string makes too much of its arguments)";
        if let Shape::Printf(format) = &self.shape {
            if !format.render(&args, limit, out) {
                out.extend_from_slice(CUT);
            }
            return Ok(());
        }
        let count = |count| match count {
            Count::None => None,
            Count::Is(n) => Some(n as usize),
            Count::Arg(i) => match args[i as usize] {
                // `format!` panics beyond that.
                Value::Unsigned(n) => Some(n.min(u16::MAX as u128) as usize),
                _ => None,
            },
        };
        let start = out.len();
        for piece in &self.pieces {
            out.extend_from_slice(self.text(piece));
            if let Some((arg, spec)) = &piece.arg {
                let (width, precision) = (count(spec.width), count(spec.precision));
                one(&args[*arg as usize], spec, width.unwrap_or(0), precision, out);
            }
            if out.len() - start > limit {
                out.truncate(start + limit);
                out.extend_from_slice(CUT);
                break;
            }
        }
        Ok(())
    }

    fn raw(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match &self.shape {
            Shape::Raw(_) => out.extend_from_slice(self.text.as_bytes()),
            Shape::Printf(format) => {
                for (text, arg) in format.pieces() {
                    out.extend_from_slice(text);
                    out.extend_from_slice(if arg { b"{}" } else { b"" });
                }
            }
            _ => {
                for piece in &self.pieces {
                    out.extend_from_slice(self.text(piece));
                    out.extend_from_slice(if piece.arg.is_some() { b"{}" } else { b"" });
                }
            }
        }
        out.extend_from_slice(b" (");
        let mut result = Ok(());
        for (i, value) in Values::new(&self.types, payload).enumerate() {
            if i >= self.own && value.is_ok() {
                continue; // a field
            }
            out.extend_from_slice(if i > 0 { b", " } else { b"" });
            match value {
                Ok(value) => one(&value, &Spec { conv: Conv::Debug, ..Spec::PLAIN }, 0, None, out),
                Err(e) => {
                    write(out, format_args!("damaged: {e}"));
                    result = Err(e);
                }
            }
        }
        out.push(b')');
        result
    }
}

/// Whether `format!` would take an argument of this type there.
fn suits(t: u8, conv: Conv) -> bool {
    match conv {
        Conv::Display | Conv::Debug | Conv::DebugLowerHex | Conv::DebugUpperHex => true,
        Conv::LowerExp | Conv::UpperExp => (ty::I8..=ty::F64).contains(&t),
        Conv::LowerHex | Conv::UpperHex | Conv::Octal | Conv::Binary => (ty::I8..=ty::U128).contains(&t),
    }
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes everything.
    let _ = out.write_fmt(text);
}

/// Whether text can stand in a line, in a JSON string and on a terminal as it is: all of it printable ASCII, no
/// `"` and no `\`. It is looked at where it comes from: to load what was just stored in smaller pieces takes long.
fn harmless(text: &[u8]) -> bool {
    no_byte(text, |b| (b.wrapping_sub(0x20) > 0x5e) | (b == b'"') | (b == b'\\'))
}

/// Whether no byte is `odd`.
#[inline(always)]
pub(crate) fn no_byte(text: &[u8], odd: impl Fn(u8) -> bool) -> bool {
    // Whole chunks without a branch inside: the compiler makes vector instructions of it.
    #[inline(always)]
    fn all<const N: usize>(text: &[u8], odd: impl Fn(u8) -> bool) -> Option<bool> {
        // The last one overlaps.
        let last = text.last_chunk::<N>()?;
        let none = |c: &[u8; N]| !c.iter().fold(false, |any, &b| any | odd(b));
        Some(text.as_chunks::<N>().0.iter().all(none) && none(last))
    }
    all::<32>(text, &odd).or_else(|| all::<8>(text, &odd)).unwrap_or_else(|| !text.iter().any(|&b| odd(b)))
}

/// `{}` of the next value. Most numbers need no detour over 128 bits. Answers whether its text is [`harmless`]; false
/// also where nobody has looked.
#[inline(always)]
fn display_next(values: &mut Values<'_>, out: &mut Vec<u8>) -> Result<bool, DecodeError> {
    let mut signed = |v: i64| {
        if v < 0 {
            out.push(b'-');
        }
        decimal_u64(v.unsigned_abs(), out);
    };
    let mut looked = true;
    match values.types.first() {
        Some(&ty::I32) => signed(i32::from_le_bytes(values.take()?).into()),
        Some(&ty::I64) => signed(i64::from_le_bytes(values.take()?)),
        Some(&ty::U32) => decimal_u64(u32::from_le_bytes(values.take()?).into(), out),
        Some(&ty::U64) => decimal_u64(u64::from_le_bytes(values.take()?), out),
        Some(&ty::F64) => shortest(f64::from_le_bytes(values.take()?), out),
        Some(&ty::STR) => {
            let text = values.text()?;
            looked = harmless(text);
            out.extend_from_slice(text);
        }
        _ => {
            let Some(value) = values.next() else { return Ok(true) };
            display(&value?, out);
            return Ok(false);
        }
    }
    values.types = &values.types[1..];
    Ok(looked)
}

/// `{}` of a float. The shortest digits that give it back come much faster than from `core`; the same ones,
/// and shown alike where neither has an exponent.
#[inline]
fn shortest(v: f64, out: &mut Vec<u8>) {
    #[cfg(feature = "drain")]
    {
        if three_places(v, out) {
            return;
        }
        if (1e-4..1e15).contains(&v.abs()) {
            let mut buffer = zmij::Buffer::new();
            let text = buffer.format_finite(v);
            // 15 digits are unambiguous.
            if text.len() <= 16 || !is_tie(v, text) {
                return out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
            }
        }
    }
    write(out, format_args!("{v}"));
}

/// `{}` of a float that has at most three decimal places, as most have that somebody logs. False: it has more, or
/// is too large.
#[cfg(feature = "drain")]
#[inline]
fn three_places(v: f64, out: &mut Vec<u8>) -> bool {
    // Adding it rounds to a whole number.
    const ROUND: f64 = (1u64 << 52) as f64;
    let size = v.abs();
    let thousandths = (size * 1000.0 + ROUND) - ROUND;
    // At most 15 digits, and of numbers that have no more, no two are the same float: where these give `v` back,
    // no others do that are as short.
    if !(size < 1e12 && thousandths / 1000.0 == size) {
        return false;
    }
    let thousandths = thousandths as u64;
    if v.is_sign_negative() {
        out.push(b'-');
    }
    decimal_u64(thousandths / 1000, out);
    let rest = (thousandths % 1000) as usize;
    if rest > 0 {
        let [tens, ones] = PAIRS[rest % 100];
        let places = if ones != b'0' { 4 } else { 2 + usize::from(tens != b'0') };
        out.extend_from_slice(&[b'.', b'0' + (rest / 100) as u8, tens, ones][..places]);
    }
    true
}

/// Whether `v` may lie in the middle between `text` and another one as short: then `core` chooses the larger,
/// others the even one. In the middle it has one more decimal place than `text`, no more and no less.
#[cfg(feature = "drain")]
fn is_tie(v: f64, text: &str) -> bool {
    let (exponent, mantissa) = (v.to_bits() >> 52 & 0x7ff, v.to_bits() | 1 << 52);
    // An odd number of 2^-n has n decimal places.
    let exactly = 1075 - exponent as i64 - i64::from(mantissa.trailing_zeros());
    text.find('.').is_some_and(|point| exactly == (text.len() - point) as i64)
}

/// `{}`.
#[inline]
pub(super) fn display(value: &Value<'_>, out: &mut Vec<u8>) {
    match *value {
        Value::Signed(v, _) => {
            if v < 0 {
                out.push(b'-');
            }
            decimal(v.unsigned_abs(), out);
        }
        Value::Unsigned(v) => decimal(v, out),
        Value::F32(v) => write(out, format_args!("{v}")),
        Value::F64(v) => shortest(v, out),
        Value::Bool(v) => out.extend_from_slice(if v { b"true" } else { b"false" }),
        Value::Char(v) => out.extend_from_slice(v.encode_utf8(&mut [0; 4]).as_bytes()),
        Value::Str(v) => out.extend_from_slice(v),
    }
}

#[inline]
fn decimal(v: u128, out: &mut Vec<u8>) {
    match u64::try_from(v) {
        Ok(v) => decimal_u64(v, out),
        Err(_) => write(out, format_args!("{v}")),
    }
}

/// `00` to `99`.
pub(crate) const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + i as u8 / 10, b'0' + i as u8 % 10];
        i += 1;
    }
    pairs
};

#[inline]
fn decimal_u64(mut v: u64, out: &mut Vec<u8>) {
    let (start, len) = (out.len(), v.checked_ilog10().map_or(1, |log| log as usize + 1));
    // As many as u64::MAX has, and back again: cheaper than a copy of unknown length.
    out.extend_from_slice(&[b'0'; 20]);
    let (digits, mut at) = (&mut out[start..start + len], len);
    while at >= 2 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(v % 100) as usize]);
        v /= 100;
    }
    if at > 0 {
        digits[0] = b'0' + v as u8;
    }
    out.truncate(start + len);
}

/// One placeholder.
fn one(value: &Value<'_>, spec: &Spec, width: usize, precision: Option<usize>, out: &mut Vec<u8>) {
    use Conv::*;
    let start = out.len();
    match (*value, spec.conv) {
        (Value::Signed(v, _), LowerExp | UpperExp) => {
            float(out, v, spec, precision);
            number(out, start, 0, width, spec);
        }
        (Value::Unsigned(v), LowerExp | UpperExp) => {
            float(out, v, spec, precision);
            number(out, start, 0, width, spec);
        }
        (Value::Signed(v, _), Display | Debug) => integer(out, v < 0, v.unsigned_abs(), width, spec),
        (Value::Unsigned(v), Display | Debug) => integer(out, false, v, width, spec),
        // The bits of the type it has, not of the type it is kept in.
        (Value::Signed(v, bits), _) => {
            integer(out, false, v as u128 & (u128::MAX >> (128 - bits)), width, spec)
        }
        (Value::Unsigned(v), _) => integer(out, false, v, width, spec),
        (Value::F32(v), _) => {
            real(out, v, spec, precision);
            number(out, start, 0, width, spec);
        }
        (Value::F64(v), _) => {
            real(out, v, spec, precision);
            number(out, start, 0, width, spec);
        }
        (Value::Bool(v), _) => string(out, if v { b"true" } else { b"false" }, width, precision, spec),
        (Value::Char(v), Display) => {
            string(out, v.encode_utf8(&mut [0; 4]).as_bytes(), width, precision, spec)
        }
        // Quoted text is not padded.
        (Value::Char(v), _) => write(out, format_args!("{v:?}")),
        (Value::Str(v), Display) => string(out, v, width, precision, spec),
        (Value::Str(v), _) => quoted(out, v),
    }
}

fn integer(out: &mut Vec<u8>, negative: bool, v: u128, width: usize, spec: &Spec) {
    let start = out.len();
    if negative {
        out.push(b'-');
    } else if spec.plus {
        out.push(b'+');
    }
    match (spec.conv, spec.alternate) {
        (Conv::LowerHex | Conv::DebugLowerHex, true) => write(out, format_args!("{v:#x}")),
        (Conv::LowerHex | Conv::DebugLowerHex, false) => write(out, format_args!("{v:x}")),
        (Conv::UpperHex | Conv::DebugUpperHex, true) => write(out, format_args!("{v:#X}")),
        (Conv::UpperHex | Conv::DebugUpperHex, false) => write(out, format_args!("{v:X}")),
        (Conv::Octal, true) => write(out, format_args!("{v:#o}")),
        (Conv::Octal, false) => write(out, format_args!("{v:o}")),
        (Conv::Binary, true) => write(out, format_args!("{v:#b}")),
        (Conv::Binary, false) => write(out, format_args!("{v:b}")),
        _ => decimal(v, out),
    }
    // "0x" and the like, which zeros go behind.
    let prefix = if spec.alternate && !matches!(spec.conv, Conv::Display | Conv::Debug) { 2 } else { 0 };
    number(out, start, prefix, width, spec);
}

/// `{}`, `{:?}` and their hexadecimal forms of a float, without width.
fn real<T: std::fmt::Display + std::fmt::Debug + std::fmt::LowerExp + std::fmt::UpperExp>(
    out: &mut Vec<u8>,
    v: T,
    spec: &Spec,
    precision: Option<usize>,
) {
    match (spec.conv, spec.plus, precision) {
        (Conv::LowerExp | Conv::UpperExp, ..) => float(out, v, spec, precision),
        (Conv::Display, false, None) => write(out, format_args!("{v}")),
        (Conv::Display, true, None) => write(out, format_args!("{v:+}")),
        (Conv::Display, false, Some(p)) => write(out, format_args!("{v:.p$}")),
        (Conv::Display, true, Some(p)) => write(out, format_args!("{v:+.p$}")),
        (_, false, None) => write(out, format_args!("{v:?}")),
        (_, true, None) => write(out, format_args!("{v:+?}")),
        (_, false, Some(p)) => write(out, format_args!("{v:.p$?}")),
        (_, true, Some(p)) => write(out, format_args!("{v:+.p$?}")),
    }
}

/// `{:e}` and `{:E}` of any number, without width.
fn float<T: std::fmt::LowerExp + std::fmt::UpperExp>(
    out: &mut Vec<u8>,
    v: T,
    spec: &Spec,
    precision: Option<usize>,
) {
    match (spec.conv, spec.plus, precision) {
        (Conv::UpperExp, false, None) => write(out, format_args!("{v:E}")),
        (Conv::UpperExp, true, None) => write(out, format_args!("{v:+E}")),
        (Conv::UpperExp, false, Some(p)) => write(out, format_args!("{v:.p$E}")),
        (Conv::UpperExp, true, Some(p)) => write(out, format_args!("{v:+.p$E}")),
        (_, false, None) => write(out, format_args!("{v:e}")),
        (_, true, None) => write(out, format_args!("{v:+e}")),
        (_, false, Some(p)) => write(out, format_args!("{v:.p$e}")),
        (_, true, Some(p)) => write(out, format_args!("{v:+.p$e}")),
    }
}

/// Pads the number that begins at `start` (all of it ASCII): zeros go behind its sign and `prefix`.
fn number(out: &mut Vec<u8>, start: usize, prefix: usize, width: usize, spec: &Spec) {
    let missing = width.saturating_sub(out.len() - start);
    if missing == 0 {
        return;
    }
    if spec.zero {
        let sign = usize::from(matches!(out[start], b'+' | b'-'));
        pad(out, start + sign + prefix, missing, 0, '0');
    } else {
        aligned(out, start, missing, Align::Right, spec);
    }
}

/// Text, cut to `precision` characters and padded to `width`. What is not UTF-8 counts as a character.
fn string(out: &mut Vec<u8>, text: &[u8], width: usize, precision: Option<usize>, spec: &Spec) {
    let start = out.len();
    if width == 0 && precision.is_none() {
        out.extend_from_slice(text);
        return;
    }
    let (mut room, mut chars) = (precision.unwrap_or(usize::MAX), 0);
    // What is behind that is not looked at: a format string may ask a thousand times for one letter of a
    // very long text.
    let text = &text[..text.len().min(room.saturating_mul(4))];
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid();
        let kept = valid.char_indices().nth(room).map_or(valid, |(end, _)| &valid[..end]);
        out.extend_from_slice(kept.as_bytes());
        let n = kept.chars().count();
        (room, chars) = (room - n, chars + n);
        if room == 0 {
            break;
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(chunk.invalid());
            (room, chars) = (room - 1, chars + 1);
        }
    }
    aligned(out, start, width.saturating_sub(chars), Align::Left, spec);
}

/// `{:?}` of text, where what is not UTF-8 is shown as `\xNN`.
pub(super) fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        let from = out.len();
        write(out, format_args!("{:?}", chunk.valid()));
        out.pop();
        out.remove(from);
        for b in chunk.invalid() {
            write(out, format_args!("\\x{b:02x}"));
        }
    }
    out.push(b'"');
}

fn aligned(out: &mut Vec<u8>, start: usize, missing: usize, default: Align, spec: &Spec) {
    let left = match spec.align.unwrap_or(default) {
        Align::Left => 0,
        Align::Center => missing / 2,
        Align::Right => missing,
    };
    pad(out, start, left, missing - left, spec.fill);
}

/// Inserts `left` fill characters at `at` and appends `right` of them.
fn pad(out: &mut Vec<u8>, at: usize, left: usize, right: usize, fill: char) {
    let mut buffer = [0; 4];
    let fill = fill.encode_utf8(&mut buffer).as_bytes();
    let (end, room) = (out.len(), left * fill.len());
    if room > 0 {
        out.resize(end + room, 0);
        out.copy_within(at..end, at + room);
        for place in out[at..at + room].chunks_exact_mut(fill.len()) {
            place.copy_from_slice(fill);
        }
    }
    for _ in 0..right {
        out.extend_from_slice(fill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every place of a chunk, in the format string and in an argument.
    #[test]
    fn what_is_said_to_be_harmless_is() {
        for b in 0..=255u8 {
            for at in [0, 1, 7, 8, 31, 32, 40] {
                let mut text = vec![b'a'; 41];
                text[at] = b;
                let good = (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\';
                let payload = [&41u32.to_le_bytes()[..], &text].concat();
                let of = |fmt: &[u8], types: &[u8], payload: &[u8]| {
                    CompiledFormat::new(fmt, types).render_and_look(payload, &mut Vec::new()) == Ok(true)
                };
                assert_eq!(of(b"a {}", &[ty::STR], &payload), good, "{b:#x} at {at}");
                // (A brace is no text of a format string.)
                assert_eq!(of(&text, &[], &[]), good && !matches!(b, b'{' | b'}'), "{b:#x} at {at}");
                let c = u32::from(char::from(b)).to_le_bytes();
                assert!(!of(b"{}", &[ty::CHAR], &c), "nobody looks at a char");
            }
        }
    }

    /// Numbers with three decimal places, and their neighbours, which have many.
    #[cfg(feature = "drain")]
    #[test]
    fn few_decimal_places_as_core_shows_them() {
        let (mut x, mut few) = (1u64, 0);
        for i in 0..200_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let v = (x >> (13 + i % 51)) as f64 / 1000.0;
            for v in [v, v.next_up(), v.next_down(), -v, 1e12 - v / 1e6] {
                let (mut ours, mut fast) = (Vec::new(), Vec::new());
                shortest(v, &mut ours);
                few += u32::from(three_places(v, &mut fast));
                assert_eq!(String::from_utf8(ours).unwrap(), v.to_string());
            }
        }
        assert!(few > 200_000, "{few}: most of them were not even tried");
    }
}
