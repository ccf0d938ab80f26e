//! The brace grammar of `std::fmt`, read at compile time (the macros' check) and at run time
//! ([`CompiledFormat`](super::CompiledFormat)) by the same code.

use crate::layout::site::{MAX_ARGS, MAX_FIELDS, MAX_FMT};

/// Limit: bytes of a field's key.
pub const MAX_KEY: usize = 64;

/// How a placeholder shows its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conv {
    Display,
    Debug,
    DebugLowerHex,
    DebugUpperHex,
    LowerHex,
    UpperHex,
    Octal,
    Binary,
    LowerExp,
    UpperExp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Center,
    Right,
}

/// A width or a precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    None,
    Is(u16),
    Arg(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub fill: char,
    pub align: Option<Align>,
    pub plus: bool,
    pub alternate: bool,
    pub zero: bool,
    pub width: Count,
    pub precision: Count,
    pub conv: Conv,
}

impl Spec {
    pub const PLAIN: Spec = Spec {
        fill: ' ',
        align: None,
        plus: false,
        alternate: false,
        zero: false,
        width: Count::None,
        precision: Count::None,
        conv: Conv::Display,
    };
}

/// What comes next in a format string.
pub(super) enum Token {
    End,
    /// Bytes `from..to` of the format string, as they are.
    Text(usize, usize),
    Arg(u8, Spec),
    Bad(&'static str),
}

const NAMED: &str = "a named argument in the format string that is not there";
const UNCLOSED: &str = "a { in the format string has no } (a brace itself is written {{)";
const UNKNOWN: &str = "unknown or unsupported format specification in the format string";
const TOO_LARGE: &str = "a width, precision or argument number in the format string is too large";

/// Which arguments have names: those behind the first `from`.
#[derive(Clone, Copy)]
struct Names<'a> {
    from: usize,
    names: &'a [&'a str],
    /// Names that are none of these are captured from where the call stands.
    capture: bool,
}

/// A name in a format string: where, and the argument that it is; [`CAPTURED`] = none.
#[derive(Clone, Copy)]
struct Named {
    at: usize,
    end: usize,
    arg: usize,
}

const CAPTURED: usize = usize::MAX;

/// Reads a format string from the left.
pub(super) struct Parser<'a> {
    fmt: &'a [u8],
    at: usize,
    next_arg: usize,
    names: Names<'a>,
    /// The names in the placeholder that was read last, left to right: argument, width, precision.
    named: [Named; 3],
    named_len: usize,
    /// The argument of that placeholder is captured.
    captured: bool,
}

impl<'a> Parser<'a> {
    /// Of a stored format string: its arguments have numbers only.
    pub const fn new(fmt: &'a str) -> Self {
        Self::with_names(fmt, Names { from: 0, names: &[], capture: false })
    }

    const fn with_names(fmt: &'a str, names: Names<'a>) -> Self {
        let none = Named { at: 0, end: 0, arg: 0 };
        Parser {
            fmt: fmt.as_bytes(),
            at: 0,
            next_arg: 0,
            names,
            named: [none; 3],
            named_len: 0,
            captured: false,
        }
    }

    /// Reads the name at this place, if one is there. Answers the argument that it stands for.
    const fn name(&mut self) -> Result<Option<usize>, &'static str> {
        let from = self.at;
        if !is_word(self.peek(0)) {
            return Ok(None);
        }
        let mut end = from;
        while end < self.fmt.len() && (is_word(self.fmt[end]) || self.fmt[end].is_ascii_digit()) {
            end += 1;
        }
        let (mut i, mut arg) = (0, CAPTURED);
        while i < self.names.names.len() {
            if same(self.fmt, from, end, name_of(self.names.names[i]).as_bytes()) {
                arg = self.names.from + i;
            }
            i += 1;
        }
        if arg == CAPTURED && !self.names.capture {
            return Err(NAMED);
        }
        self.at = end;
        self.named[self.named_len] = Named { at: from, end, arg };
        self.named_len += 1;
        Ok(Some(arg))
    }

    const fn peek(&self, ahead: usize) -> u8 {
        // 0 stands for the end: a NUL is nothing that the grammar knows, so the two need no telling apart.
        if self.at + ahead < self.fmt.len() { self.fmt[self.at + ahead] } else { 0 }
    }

    const fn eat(&mut self, b: u8) -> bool {
        let found = self.peek(0) == b;
        if found {
            self.at += 1;
        }
        found
    }

    pub const fn next(&mut self) -> Token {
        self.named_len = 0;
        let from = self.at;
        if from == self.fmt.len() {
            return Token::End;
        }
        match (self.peek(0), self.peek(1)) {
            (b'{', b'{') | (b'}', b'}') => {
                self.at += 2;
                Token::Text(from, from + 1)
            }
            (b'}', _) => Token::Bad("a } in the format string has no { (a brace itself is written }})"),
            (b'{', _) => {
                self.at += 1;
                self.placeholder()
            }
            _ => {
                while self.at < self.fmt.len() && !matches!(self.fmt[self.at], b'{' | b'}') {
                    self.at += 1;
                }
                Token::Text(from, self.at)
            }
        }
    }

    const fn placeholder(&mut self) -> Token {
        let position = match self.number() {
            Ok(n) => n,
            Err(e) => return Token::Bad(e),
        };
        let name = match position {
            Some(_) => None,
            None => match self.name() {
                Ok(n) => n,
                Err(e) => return Token::Bad(e),
            },
        };
        self.captured = matches!(name, Some(CAPTURED));
        let mut spec = Spec::PLAIN;
        if self.eat(b':')
            && let Err(e) = self.spec(&mut spec)
        {
            return Token::Bad(e);
        }
        while matches!(self.peek(0), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        if !self.eat(b'}') {
            return Token::Bad(if self.at == self.fmt.len() { UNCLOSED } else { UNKNOWN });
        }
        let position = match (position, name) {
            (Some(n), _) => n as usize,
            // One that is captured is no argument of the record.
            (None, Some(CAPTURED)) => 0,
            (None, Some(n)) => n,
            // After the specification: in {:.*} the precision is the first of the two arguments.
            (None, None) => self.implicit(),
        };
        if position < MAX_ARGS { Token::Arg(position as u8, spec) } else { Token::Bad(TOO_LARGE) }
    }

    const fn implicit(&mut self) -> usize {
        self.next_arg += 1;
        self.next_arg - 1
    }

    const fn spec(&mut self, spec: &mut Spec) -> Result<(), &'static str> {
        if self.at < self.fmt.len() {
            let (fill, len) = first_char(self.fmt, self.at);
            if let Some(align) = align_of(self.peek(len)) {
                spec.fill = fill;
                spec.align = Some(align);
                self.at += len + 1;
            } else if let Some(align) = align_of(self.peek(0)) {
                spec.align = Some(align);
                self.at += 1;
            }
        }
        if self.eat(b'+') {
            spec.plus = true;
        } else {
            // Has no meaning, and is allowed.
            self.eat(b'-');
        }
        spec.alternate = self.eat(b'#');
        // "0$" is a width, taken from argument 0.
        if self.peek(0) == b'0' && self.peek(1) != b'$' {
            self.at += 1;
            spec.zero = true;
        }
        match self.count() {
            Ok(count) => spec.width = count,
            Err(e) => return Err(e),
        }
        if self.eat(b'.') {
            if self.eat(b'*') {
                let arg = self.implicit();
                if arg >= MAX_ARGS {
                    return Err(TOO_LARGE);
                }
                spec.precision = Count::Arg(arg as u8);
            } else {
                match self.count() {
                    Ok(count) => spec.precision = count,
                    Err(e) => return Err(e),
                }
            }
        }
        let (conv, len) = match (self.peek(0), self.peek(1)) {
            (b'?', _) => (Conv::Debug, 1),
            (b'x', b'?') => (Conv::DebugLowerHex, 2),
            (b'X', b'?') => (Conv::DebugUpperHex, 2),
            (b'x', _) => (Conv::LowerHex, 1),
            (b'X', _) => (Conv::UpperHex, 1),
            (b'o', _) => (Conv::Octal, 1),
            (b'b', _) => (Conv::Binary, 1),
            (b'e', _) => (Conv::LowerExp, 1),
            (b'E', _) => (Conv::UpperExp, 1),
            _ => (Conv::Display, 0),
        };
        spec.conv = conv;
        self.at += len;
        Ok(())
    }

    const fn count(&mut self) -> Result<Count, &'static str> {
        match self.number() {
            Ok(Some(n)) if self.eat(b'$') => {
                if (n as usize) < MAX_ARGS {
                    Ok(Count::Arg(n as u8))
                } else {
                    Err(TOO_LARGE)
                }
            }
            Ok(Some(n)) => Ok(Count::Is(n)),
            Ok(None) => {
                // A name, if a $ follows it: else it is the conversion.
                let mut ahead = 0;
                while is_word(self.peek(ahead)) || (ahead > 0 && self.peek(ahead).is_ascii_digit()) {
                    ahead += 1;
                }
                if ahead == 0 || self.peek(ahead) != b'$' {
                    return Ok(Count::None);
                }
                match self.name() {
                    Ok(arg) => {
                        self.at += 1;
                        match arg {
                            Some(n) if n < MAX_ARGS => Ok(Count::Arg(n as u8)),
                            Some(CAPTURED) => Ok(Count::None),
                            _ => Err(TOO_LARGE),
                        }
                    }
                    Err(e) => Err(e),
                }
            }
            Err(e) => Err(e),
        }
    }

    const fn number(&mut self) -> Result<Option<u16>, &'static str> {
        let from = self.at;
        let mut n = 0;
        while self.peek(0).is_ascii_digit() {
            n = n * 10 + (self.peek(0) - b'0') as u32;
            if n > u16::MAX as u32 {
                return Err(TOO_LARGE);
            }
            self.at += 1;
        }
        Ok(if self.at > from { Some(n as u16) } else { None })
    }
}

/// Whether a name may begin with it.
const fn is_word(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_' || b >= 0x80
}

/// The name as it is written in a format string: `r#type` is `type` there.
pub(super) const fn name_of(ident: &str) -> &str {
    match ident.as_bytes() {
        [b'r', b'#', ..] => ident.split_at(2).1,
        _ => ident,
    }
}

/// Whether `text[from..end]` is `other`.
const fn same(text: &[u8], from: usize, end: usize, other: &[u8]) -> bool {
    let mut i = 0;
    while i < other.len() && from + i < end && text[from + i] == other[i] {
        i += 1;
    }
    i == other.len() && from + i == end
}

const fn align_of(b: u8) -> Option<Align> {
    match b {
        b'<' => Some(Align::Left),
        b'^' => Some(Align::Center),
        b'>' => Some(Align::Right),
        _ => None,
    }
}

/// The character at `at` and its bytes. The text is valid UTF-8 and `at` a boundary in it.
const fn first_char(text: &[u8], at: usize) -> (char, usize) {
    let lead = text[at];
    let (len, mut c) = match lead {
        0xf0.. => (4, lead as u32 & 0x07),
        0xe0.. => (3, lead as u32 & 0x0f),
        0xc0.. => (2, lead as u32 & 0x1f),
        _ => (1, lead as u32),
    };
    let mut i = 1;
    while i < len && at + i < text.len() {
        c = c << 6 | (text[at + i] as u32 & 0x3f);
        i += 1;
    }
    match char::from_u32(c) {
        Some(c) => (c, len),
        None => (char::REPLACEMENT_CHARACTER, len),
    }
}

/// A set of arguments.
pub(super) struct Used(u32);

impl Used {
    pub const fn none() -> Used {
        Used(0)
    }
    pub const fn by(&mut self, arg: u8, spec: &Spec) {
        self.0 |= 1 << arg;
        self.by_counts(spec);
    }
    const fn by_counts(&mut self, spec: &Spec) {
        if let Count::Arg(n) = spec.width {
            self.0 |= 1 << n;
        }
        if let Count::Arg(n) = spec.precision {
            self.0 |= 1 << n;
        }
    }
    /// What is wrong with this set as the arguments that a format string uses, if `n` are given.
    pub const fn mismatch(&self, n: usize) -> Option<&'static str> {
        let given = (1 << n) - 1;
        if self.0 & !given != 0 {
            Some("the format string uses more arguments than are given")
        } else if self.0 != given {
            Some("an argument is not used by the format string")
        } else {
            None
        }
    }
}

/// What a call site's format string was found to be, at compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// It names variables that are no arguments of the call: its text is made at the call.
    pub captures: bool,
    /// Bytes of the string that is stored where the string itself can't be; else 0.
    pub rewritten: usize,
}

/// Refuses, at compile time, a format string that does not go with `positional` arguments, those with
/// these names behind them, and fields with these keys.
///
/// # Panics
/// If so. It is there for constants, where a panic is a compile error.
pub const fn check(fmt: &str, positional: usize, names: &[&str], keys: &[&str]) -> Checked {
    let args = positional + names.len();
    assert!(args + keys.len() <= MAX_ARGS, "a log call takes at most 16 arguments and fields");
    assert!(fmt.len() <= MAX_FMT, "a format string has at most 4096 bytes");
    let mut i = 0;
    while i < keys.len() {
        assert!(!keys[i].is_empty() && keys[i].len() <= MAX_KEY, "a field's key has 1 to 64 bytes");
        let mut j = 0;
        while j < i {
            let (a, b) = (keys[i].as_bytes(), keys[j].as_bytes());
            assert!(!same(a, 0, a.len(), b), "two fields of a log call have the same key");
            j += 1;
        }
        assert!(keys[i].as_bytes()[0] != b'*', "a field's key may not begin with *");
        i += 1;
    }
    assert!(keys_len(keys) <= MAX_FIELDS, "the keys of a log call's fields have at most 1024 bytes together");
    let mut parser = Parser::with_names(fmt, Names { from: positional, names, capture: true });
    let mut used = Used::none();
    let (mut captures, mut named, mut len) = (false, false, fmt.len());
    loop {
        match parser.next() {
            Token::End => break,
            Token::Text(..) => {}
            Token::Arg(arg, spec) => {
                if parser.captured {
                    used.by_counts(&spec);
                } else {
                    used.by(arg, &spec);
                }
                let mut i = 0;
                while i < parser.named_len {
                    let n = parser.named[i];
                    captures |= n.arg == CAPTURED;
                    named = true;
                    // Wrapping, because a digit may be more than a name; the sum is right in the end.
                    len = len.wrapping_sub(n.end - n.at).wrapping_add(if n.arg > 9 { 2 } else { 1 });
                    i += 1;
                }
            }
            Token::Bad(why) => panic!("{}", why),
        }
    }
    if let Some(why) = used.mismatch(args) {
        panic!("{}", why);
    }
    Checked { captures, rewritten: if captures || !named { 0 } else { len } }
}

/// The format string with numbers in place of names: what is stored has arguments, and no names for them.
/// `N` as [`check`] answers it.
pub const fn rewrite<const N: usize>(fmt: &str, positional: usize, names: &[&str]) -> [u8; N] {
    let mut out = [0; N];
    if N == 0 {
        return out;
    }
    let (text, mut parser) =
        (fmt.as_bytes(), Parser::with_names(fmt, Names { from: positional, names, capture: true }));
    let (mut from, mut to) = (0, 0);
    loop {
        match parser.next() {
            Token::End | Token::Bad(_) => break,
            Token::Text(..) => {}
            Token::Arg(..) => {
                let mut i = 0;
                while i < parser.named_len {
                    let n = parser.named[i];
                    while from < n.at {
                        out[to] = text[from];
                        (from, to) = (from + 1, to + 1);
                    }
                    if n.arg > 9 {
                        out[to] = b'0' + (n.arg / 10) as u8;
                        to += 1;
                    }
                    out[to] = b'0' + (n.arg % 10) as u8;
                    (from, to) = (n.end, to + 1);
                    i += 1;
                }
            }
        }
    }
    while from < text.len() {
        out[to] = text[from];
        (from, to) = (from + 1, to + 1);
    }
    out
}

/// Bytes of the names of these fields, with a NUL behind each.
pub const fn keys_len(keys: &[&str]) -> usize {
    let (mut n, mut i) = (0, 0);
    while i < keys.len() {
        n += name_of(keys[i]).len() + 1;
        i += 1;
    }
    n
}

/// The names of these fields as a site stores them, with a NUL behind each.
pub const fn keys<const N: usize>(keys: &[&str]) -> [u8; N] {
    let (mut out, mut to, mut i) = ([0; N], 0, 0);
    while i < keys.len() {
        let (key, mut j) = (name_of(keys[i]).as_bytes(), 0);
        while j < key.len() {
            assert!(key[j] != 0, "a field's key may not hold a NUL");
            out[to] = key[j];
            (to, j) = (to + 1, j + 1);
        }
        (to, i) = (to + 1, i + 1);
    }
    out
}

/// Bytes that were strings.
pub const fn utf8(bytes: &[u8]) -> &str {
    match core::str::from_utf8(bytes) {
        Ok(s) => s,
        Err(_) => panic!("a character was cut"),
    }
}

/// The format string to be stored: itself, with numbers for names, or, where the text is made at the
/// call, one for a text.
pub const fn stored<'a>(fmt: &'a str, checked: Checked, rewritten: &'a [u8]) -> &'a str {
    if checked.captures {
        "{}"
    } else if checked.rewritten == 0 {
        fmt
    } else {
        utf8(rewritten)
    }
}
