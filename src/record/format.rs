//! The brace grammar of `std::fmt`, read at compile time (the macros' check) and at run time
//! ([`CompiledFormat`](super::CompiledFormat)) by the same code.

use crate::layout::site::{MAX_ARGS, MAX_FMT};

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

const NAMED: &str = "named arguments are not supported yet: pass the value and use {}";
const UNCLOSED: &str = "a { in the format string has no } (a brace itself is written {{)";
const UNKNOWN: &str = "unknown or unsupported format specification in the format string";
const TOO_LARGE: &str = "a width, precision or argument number in the format string is too large";

/// Reads a format string from the left.
pub(super) struct Parser<'a> {
    fmt: &'a [u8],
    at: usize,
    next_arg: usize,
}

impl<'a> Parser<'a> {
    pub const fn new(fmt: &'a str) -> Self {
        Parser { fmt: fmt.as_bytes(), at: 0, next_arg: 0 }
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
        if position.is_none() && is_word(self.peek(0)) {
            return Token::Bad(NAMED);
        }
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
        let position = match position {
            Some(n) => n as usize,
            // After the specification: in {:.*} the precision is the first of the two arguments.
            None => self.implicit(),
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
                let mut ahead = 0;
                while is_word(self.peek(ahead)) || (ahead > 0 && self.peek(ahead).is_ascii_digit()) {
                    ahead += 1;
                }
                if ahead > 0 && self.peek(ahead) == b'$' { Err(NAMED) } else { Ok(Count::None) }
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

/// Refuses, at compile time, a format string that does not go with `args` arguments.
///
/// # Panics
/// If so. It is there for constants, where a panic is a compile error.
pub const fn check(fmt: &str, args: usize) {
    assert!(args <= MAX_ARGS, "a log call takes at most 16 arguments");
    assert!(fmt.len() <= MAX_FMT, "a format string has at most 4096 bytes");
    let mut parser = Parser::new(fmt);
    let mut used = Used::none();
    loop {
        match parser.next() {
            Token::End => break,
            Token::Text(..) => {}
            Token::Arg(arg, spec) => used.by(arg, &spec),
            Token::Bad(why) => panic!("{}", why),
        }
    }
    if let Some(why) = used.mismatch(args) {
        panic!("{}", why);
    }
}
