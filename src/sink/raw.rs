//! The exact bytes.
//!
//! Captured output byte for byte, whatever it is. A log record is its message as it is and a newline.
//! Losses and notes are lines that begin with `spillring: `. What is not captured output begins at the
//! beginning of a line.
//!
//! **Two places** (stdout and stderr apart): each piece goes to its place at once; where that stands within
//! a line and something else than its stream comes, a newline comes first.
//!
//! **One place**: the bytes of each stream are exact and in order, and what is shown changes from one
//! stream to another (or to a log record) only at the end of a line, or when the line has had no end for a
//! second. So a part of a line is shown at once, and what the others have to say waits behind it:
//!
//! ```text
//! stdout "Contin"            → Contin
//! stderr "warning\n"           (waits)
//! stdout "ue?\nname: "       → ue?
//!                            → warning
//!                            → name:
//! ```
//!
//! What waits is at most [`MAX_WAITING`] bytes; beyond that it is shown although the line has no end.

use std::collections::VecDeque;

use super::formats::Formats;
use super::text::loss_text;
use super::time::Clock;
use super::{Dest, Formatter, Gap, Held, is_stderr};
use crate::journal::{Entry, kind};

/// Limit: bytes that wait for the end of another stream's line.
pub const MAX_WAITING: usize = 4 << 20;
/// Limit: pieces that they come in.
const MAX_PIECES: usize = 1 << 14;
/// How long they wait, ns.
const PATIENCE_NS: i64 = 1_000_000_000;
const PATIENCE_MS: u64 = 1000;

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Stdout,
    Stderr,
    /// Lines of their own: log records, losses, notes.
    Lines,
}

impl Whose {
    const ALL: [Whose; 3] = [Whose::Stdout, Whose::Stderr, Whose::Lines];

    /// In [`Held::thread`], which is of no other use here: the streams of all processes are one.
    fn number(self) -> u64 {
        u64::from(self == Whose::Lines)
    }
    fn of(h: &Held) -> Whose {
        match (h.thread, h.stderr) {
            (0, false) => Whose::Stdout,
            (0, true) => Whose::Stderr,
            _ => Whose::Lines,
        }
    }
}

/// What waits.
#[derive(Debug)]
struct Piece {
    whose: Whose,
    /// Record and place in its payload of the first of `bytes`.
    from: (u64, usize),
    bytes: Vec<u8>,
    /// Time of the record.
    utc: i64,
}

/// The line that a single place stands within.
#[derive(Clone, Copy, Debug)]
struct Open {
    whose: Whose,
    /// Time of its first piece.
    since: i64,
}

/// Passes bytes on. Does no I/O.
#[derive(Debug, Default)]
pub struct Raw {
    formats: Formats,
    clock: Clock,
    /// Whether stdout and stderr go to places of their own.
    apart: bool,
    /// Whether a line is unfinished, for each of two places.
    within: [bool; 2],
    /// The same of a single one.
    open: Option<Open>,
    waiting: VecDeque<Piece>,
    waiting_bytes: usize,
    /// When something was first seen to wait, ms.
    since_ms: Option<u64>,
    /// From where on what waits is to be read again.
    again: [Option<(u64, usize)>; 3],
    last_utc: i64,
}

impl Raw {
    /// `apart`: stdout and stderr go to places of their own; log records, losses and notes go with stderr.
    pub fn new(apart: bool) -> Raw {
        Raw { apart, ..Raw::default() }
    }

    /// A line of its own; nothing for a kind of a later version.
    fn line(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        match e.kind {
            kind::LOG => self.formats.message(e, out),
            kind::LOSS => {
                out.extend_from_slice(b"spillring: lost ");
                loss_text(&mut self.clock, e, out);
            }
            kind::NOTE => {
                out.extend_from_slice(b"spillring: ");
                out.extend_from_slice(e.payload);
            }
            _ => return,
        }
        out.push(b'\n');
    }

    fn entry_apart(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) -> Dest {
        if e.kind == kind::OUTPUT {
            let dest = if is_stderr(e) { Dest::Err } else { Dest::Out };
            if let Some(last) = e.payload.last() {
                self.within[dest as usize] = *last != b'\n';
                out.extend_from_slice(e.payload);
            }
            return dest;
        }
        let at = out.len();
        self.line(e, out);
        if out.len() > at && std::mem::take(&mut self.within[Dest::Err as usize]) {
            out.insert(at, b'\n');
        }
        Dest::Err
    }

    /// Shows `bytes` if their turn has come, else they wait.
    fn put(&mut self, whose: Whose, from: (u64, usize), bytes: &[u8], utc: i64, out: &mut Vec<u8>) {
        let other = self.open.filter(|o| o.whose != whose);
        let waits = other.is_some_and(|o| utc.saturating_sub(o.since) < PATIENCE_NS);
        if other.is_some() && !waits {
            self.force(out);
        }
        match waits {
            true => self.wait(whose, from, bytes, utc),
            // A line that goes on, or begins; and nobody waits.
            _ if self.waiting.is_empty() => self.show(whose, bytes, utc, out),
            _ => {
                let end = bytes.iter().rposition(|&b| b == b'\n').map_or(bytes.len(), |n| n + 1);
                self.show(whose, &bytes[..end], utc, out);
                // In front of the rest, which begins a new line.
                self.next(out);
                if end < bytes.len() {
                    self.put(whose, (from.0, from.1 + end), &bytes[end..], utc, out);
                }
            }
        }
        if self.waiting_bytes > MAX_WAITING || self.waiting.len() > MAX_PIECES {
            self.force(out);
        }
    }

    fn wait(&mut self, whose: Whose, from: (u64, usize), bytes: &[u8], utc: i64) {
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(Piece { whose, from, bytes: bytes.to_vec(), utc });
    }

    fn show(&mut self, whose: Whose, bytes: &[u8], utc: i64, out: &mut Vec<u8>) {
        let Some(last) = bytes.last() else { return };
        if whose == Whose::Lines && self.open.is_some() {
            out.push(b'\n');
        }
        out.extend_from_slice(bytes);
        self.open = match self.open {
            _ if *last == b'\n' => None,
            Some(o) if o.whose == whose && !bytes.contains(&b'\n') => Some(o),
            _ => Some(Open { whose, since: utc }),
        };
    }

    /// What waits, as far as its turn has come.
    fn next(&mut self, out: &mut Vec<u8>) {
        loop {
            let i = match self.open {
                None => 0,
                Some(o) => match self.waiting.iter().position(|p| p.whose == o.whose) {
                    Some(i) => i,
                    None => break,
                },
            };
            let Some(mut p) = self.waiting.remove(i) else { break };
            // Others of an earlier time may wait for the end of this line.
            let end = match p.bytes.iter().rposition(|&b| b == b'\n') {
                Some(n) if i > 0 => n + 1,
                _ => p.bytes.len(),
            };
            self.waiting_bytes -= end;
            self.show(p.whose, &p.bytes[..end], p.utc, out);
            if end < p.bytes.len() {
                p.bytes.drain(..end);
                p.from.1 += end;
                self.waiting.insert(i, p);
            }
        }
        if self.waiting.is_empty() {
            self.since_ms = None;
            self.waiting.shrink_to(64);
        }
    }

    /// The line has no end: the next may begin within it.
    fn force(&mut self, out: &mut Vec<u8>) {
        while let Some(p) = self.waiting.pop_front() {
            self.waiting_bytes -= p.bytes.len();
            self.show(p.whose, &p.bytes, p.utc, out);
            // One of them ended in a whole line, perhaps: from there on all goes by its turn again.
            self.next(out);
        }
        self.since_ms = None;
        if let Some(o) = &mut self.open {
            // Whoever comes now comes in between too.
            o.since = i64::MIN;
        }
    }

    fn own_line(&mut self, out: &mut Vec<u8>) -> Dest {
        let dest = if self.apart { Dest::Err } else { Dest::Out };
        let within = if self.apart {
            std::mem::take(&mut self.within[dest as usize])
        } else {
            self.force(out);
            self.open.take().is_some()
        };
        if within {
            out.push(b'\n');
        }
        dest
    }
}

/// Whose a record is; `None`: nobody's that is shown.
fn whose(e: &Entry<'_>) -> Option<Whose> {
    match e.kind {
        kind::OUTPUT if is_stderr(e) => Some(Whose::Stderr),
        kind::OUTPUT => Some(Whose::Stdout),
        kind::LOG | kind::LOSS | kind::NOTE => Some(Whose::Lines),
        _ => None,
    }
}

impl Formatter for Raw {
    #[inline]
    fn entry(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) -> Dest {
        self.last_utc = e.utc_ns;
        if self.apart {
            return self.entry_apart(e, out);
        }
        match whose(e) {
            Some(Whose::Lines) => {
                let mut line = Vec::new();
                self.line(e, &mut line);
                self.put(Whose::Lines, (e.record_no, 0), &line, e.utc_ns, out);
            }
            Some(w) => self.put(w, (e.record_no, 0), e.payload, e.utc_ns, out),
            None => {}
        }
        Dest::Out
    }

    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) -> Dest {
        let dest = self.own_line(out);
        out.extend_from_slice(format!("spillring: lost {gap}\n").as_bytes());
        dest
    }

    fn settle(&mut self, now_ms: Option<u64>, out: &mut Vec<u8>) {
        if self.waiting.is_empty() {
            return;
        }
        match (now_ms, self.since_ms) {
            (None, _) => self.force(out),
            (Some(now), Some(since)) if now.saturating_sub(since) >= PATIENCE_MS => self.force(out),
            (Some(now), None) => self.since_ms = Some(now),
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.force(out);
    }

    fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for (stderr, open) in [(false, self.within[0]), (true, self.within[1])] {
            if open {
                held.push(Held { stderr, open, first: u64::MAX, ..Held::default() });
            }
        }
        for whose in Whose::ALL {
            let waits = self.waiting.iter().find(|p| p.whose == whose);
            let open = self.open.filter(|o| o.whose == whose);
            if waits.is_none() && open.is_none() {
                continue;
            }
            let (first, skip) = waits.map_or((u64::MAX, 0), |p| (p.from.0, p.from.1 as u32));
            held.push(Held {
                // Nobody's number is needed here: in its place the time that the line began at.
                nonce: open.map_or(0, |o| o.since as u64),
                thread: whose.number(),
                stderr: whose == Whose::Stderr,
                broken: false,
                open: open.is_some(),
                first,
                skip,
            });
        }
        held
    }

    fn restore(&mut self, held: &[Held]) {
        if self.apart {
            self.within = [false, true].map(|stderr| held.iter().any(|h| h.open && h.stderr == stderr));
            return;
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.open = held.iter().find(|h| h.open).map(|h| Open { whose: Whose::of(h), since: h.nonce as i64 });
        self.again = Whose::ALL.map(|w| {
            let mut of = held.iter().filter(|h| h.first != u64::MAX);
            of.find(|h| Whose::of(h) == w).map(|h| (h.first, h.skip as usize))
        });
    }

    fn hold_again(&mut self, e: &Entry<'_>) {
        let Some(w) = whose(e).filter(|_| !self.apart) else { return };
        let Some((first, skip)) = self.again[w as usize].filter(|f| e.record_no >= f.0) else { return };
        let at = if e.record_no == first { skip.min(e.payload.len()) } else { 0 };
        if w == Whose::Lines {
            let mut line = Vec::new();
            self.line(e, &mut line);
            self.wait(w, (e.record_no, 0), &line, e.utc_ns);
        } else {
            self.wait(w, (e.record_no, at), &e.payload[at..], e.utc_ns);
        }
    }

    fn oldest_held(&self) -> Option<u64> {
        self.waiting.iter().map(|p| p.from.0).min()
    }
}
