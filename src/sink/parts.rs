//! Captured output as lines: pieces of lines, of any number of streams, joined again.
//!
//! A record of captured output holds any bytes: whole lines, parts of one, the end of one and the
//! beginning of the next. [`Parts`] cuts and joins them, for each thread and stream, and gives whole lines
//! to a [`Style`]. A line whose end does not come within a second, or that is longer than the style's
//! limit, is given as far as it goes, and its rest later.

use std::collections::VecDeque;

use super::escape::unfinished_char;
use super::{Held, is_stderr};
use crate::journal::Entry;
use crate::layout::sink::cursor::MAX_HELD;

/// How long an unfinished line is held at most while nothing more of it comes, ms.
const HOLD_MS: u64 = 1000;

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    nonce: u64,
    thread: u64,
    stderr: bool,
}

impl Key {
    fn of(e: &Entry<'_>) -> Key {
        Key { nonce: e.thread.nonce, thread: e.thread.thread, stderr: is_stderr(e) }
    }
}

/// Where a line, or a part of one, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It is the beginning of a line.
    Line,
    /// Its beginning was shown, and something else behind it.
    Rest,
    /// Its beginning is what the output ends in (only with [`Style::CONTINUES`]).
    Behind,
}

/// What becomes of lines.
pub trait Style {
    /// What is kept of the record that a line begins in.
    type Prefix: Default + std::fmt::Debug;
    /// An unfinished line can be gone on with where the output ends in it.
    const CONTINUES: bool;
    /// Bytes of an unfinished line that are held.
    const LIMIT: usize;
    /// Takes what it needs of the record that a line begins in.
    fn prefix(&mut self, e: &Entry<'_>, to: &mut Self::Prefix);
    /// A line without its newline, or a part of one (not `complete`).
    fn line(&mut self, prefix: &Self::Prefix, start: Start, bytes: &[u8], complete: bool, out: &mut Vec<u8>);
}

/// A line that is not finished.
#[derive(Debug)]
struct Part<P> {
    key: Key,
    /// Record and place in its payload of the first of `bytes`.
    from: (u64, usize),
    /// The last piece: record, place, length.
    last: (u64, usize, usize),
    /// What is not shown yet.
    bytes: Vec<u8>,
    prefix: P,
    prefixed: bool,
    /// Its beginning is shown, in a line that has ended since.
    broken: bool,
    /// When it was first looked at and had something to show, ms.
    since: Option<u64>,
}

/// Where the first newline stands: eight bytes at a time.
#[inline]
fn newline(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        // A newline is zero here. What the subtraction makes of the bytes above the first zero does not matter.
        let x = u64::from_le_bytes(*word) ^ (ONES * b'\n' as u64);
        let zero = x.wrapping_sub(ONES) & !x & (ONES << 7);
        if zero != 0 {
            return Some(i * 8 + zero.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|&b| b == b'\n').map(|n| words.len() * 8 + n)
}

/// Lines that are not finished. Knows no clock; memory is bounded: [`Style::LIMIT`] for each of 16.
#[derive(Debug)]
pub struct Parts<P> {
    /// Oldest first.
    parts: VecDeque<Part<P>>,
    /// Whose unfinished line the output ends in.
    open: Option<Key>,
    /// Of the record that is taken.
    prefix: P,
}

impl<P: Default> Default for Parts<P> {
    fn default() -> Self {
        Parts { parts: VecDeque::new(), open: None, prefix: P::default() }
    }
}

impl<P: Default> Parts<P> {
    /// Takes a record of captured output.
    #[inline]
    pub fn output<S: Style<Prefix = P>>(&mut self, e: &Entry<'_>, style: &mut S, out: &mut Vec<u8>) {
        let (key, mut at, mut prefixed) = (Key::of(e), 0, false);
        let mut mine = self.parts.iter().any(|p| p.key == key);
        while at < e.payload.len() {
            let rest = &e.payload[at..];
            match newline(rest) {
                // Nearly all: a whole line, and nothing to join it with.
                Some(n) if !mine => {
                    self.close(out);
                    // The same for all lines of a record.
                    if !std::mem::replace(&mut prefixed, true) {
                        style.prefix(e, &mut self.prefix);
                    }
                    style.line(&self.prefix, Start::Line, &rest[..n], true, out);
                    at += n + 1;
                }
                end => {
                    let n = end.unwrap_or(rest.len());
                    self.piece(key, e, at, &rest[..n], end.is_some(), style, out);
                    mine = end.is_none();
                    at += end.map_or(rest.len(), |n| n + 1);
                }
            }
        }
    }

    /// A piece of a line that begins at `at` of the payload; `complete`: the line ends with it.
    #[allow(clippy::too_many_arguments)]
    fn piece<S: Style<Prefix = P>>(
        &mut self,
        key: Key,
        e: &Entry<'_>,
        at: usize,
        bytes: &[u8],
        complete: bool,
        style: &mut S,
        out: &mut Vec<u8>,
    ) {
        let i = match self.parts.iter().position(|p| p.key == key) {
            Some(i) => i,
            None => {
                self.make_room(style, out);
                self.parts.push_back(Part {
                    key,
                    from: (e.record_no, at),
                    last: (e.record_no, at, 0),
                    bytes: Vec::new(),
                    prefix: P::default(),
                    prefixed: false,
                    broken: false,
                    since: None,
                });
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[i];
        if part.bytes.is_empty() {
            style.prefix(e, &mut part.prefix);
            (part.from, part.since, part.prefixed) = ((e.record_no, at), None, true);
        }
        part.last = (e.record_no, at, bytes.len());
        part.bytes.extend_from_slice(bytes);
        if complete || part.bytes.len() >= S::LIMIT || self.open == Some(key) {
            self.show(i, complete, false, style, out);
        }
    }

    /// At most [`MAX_HELD`] unfinished lines: forgets that one is unfinished, of a program that ended
    /// within it perhaps, else the oldest.
    fn make_room<S: Style<Prefix = P>>(&mut self, style: &mut S, out: &mut Vec<u8>) {
        if self.parts.len() < MAX_HELD {
            return;
        }
        let i = self.parts.iter().position(|p| p.bytes.is_empty()).unwrap_or(0);
        if !self.parts[i].bytes.is_empty() {
            self.show(i, false, true, style, out);
        }
        if self.open == Some(self.parts[i].key) {
            self.close(out);
        }
        self.parts.remove(i);
    }

    /// Ends the line that the output ends in, if it is unfinished.
    #[inline]
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if let Some(key) = self.open.take() {
            out.push(b'\n');
            if let Some(p) = self.parts.iter_mut().find(|p| p.key == key) {
                p.broken = true;
            }
        }
    }

    /// Shows what part `i` holds: behind its beginning if the output ends in that, else in a new line.
    /// `last`: nothing more of it is waited for.
    fn show<S: Style<Prefix = P>>(
        &mut self,
        i: usize,
        complete: bool,
        last: bool,
        style: &mut S,
        out: &mut Vec<u8>,
    ) {
        let key = self.parts[i].key;
        let behind = self.open == Some(key);
        if !behind {
            self.close(out);
        }
        let part = &mut self.parts[i];
        let start = match (behind, part.broken) {
            (true, _) => Start::Behind,
            (false, true) => Start::Rest,
            (false, false) => Start::Line,
        };
        if complete {
            style.line(&part.prefix, start, &part.bytes, true, out);
            self.open = None;
            self.parts.remove(i);
            return;
        }
        // The beginning of a character waits for its end, if it lies in one piece.
        let mut keep = unfinished_char(&part.bytes);
        if last || keep > part.last.2 || keep == part.bytes.len() && !S::CONTINUES {
            keep = 0;
        }
        let n = part.bytes.len() - keep;
        style.line(&part.prefix, start, &part.bytes[..n], false, out);
        part.bytes.drain(..n);
        part.bytes.shrink_to(4096);
        part.from = (part.last.0, part.last.1 + part.last.2 - keep);
        part.broken = !S::CONTINUES;
        part.since = None;
        self.open = S::CONTINUES.then_some(key);
    }

    /// Shows what has been held for a second; `None`: everything.
    pub fn settle<S: Style<Prefix = P>>(&mut self, now_ms: Option<u64>, style: &mut S, out: &mut Vec<u8>) {
        for part in &mut self.parts {
            if !part.bytes.is_empty() && part.since.is_none() {
                part.since = now_ms;
            }
        }
        for i in 0..self.parts.len() {
            let p = &self.parts[i];
            let old = match (now_ms, p.since) {
                (Some(now), Some(since)) => now.saturating_sub(since) >= HOLD_MS,
                (now, _) => now.is_none(),
            };
            if old && !p.bytes.is_empty() {
                self.show(i, false, now_ms.is_none(), style, out);
            }
        }
    }

    /// What is unfinished, as a cursor keeps it.
    pub fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for p in &self.parts {
            let Key { nonce, thread, stderr } = p.key;
            let (broken, open) = (p.broken, self.open == Some(p.key));
            let (first, skip) = if p.bytes.is_empty() { (u64::MAX, 0) } else { (p.from.0, p.from.1 as u32) };
            held.push(Held { nonce, thread, stderr, broken, open, first, skip });
        }
        held
    }

    /// Takes over what another one had unfinished.
    pub fn restore(&mut self, held: &[Held]) {
        self.open = None;
        self.parts.clear();
        for h in held {
            let key = Key { nonce: h.nonce, thread: h.thread, stderr: h.stderr };
            if h.open {
                self.open = Some(key);
            }
            self.parts.push_back(Part {
                key,
                from: (h.first, h.skip as usize),
                last: (h.first, h.skip as usize, 0),
                bytes: Vec::new(),
                prefix: P::default(),
                prefixed: false,
                broken: h.broken,
                since: None,
            });
        }
    }

    /// A record of captured output that the other one had already taken.
    pub fn hold_again<S: Style<Prefix = P>>(&mut self, e: &Entry<'_>, style: &mut S) {
        let key = Key::of(e);
        let Some(part) = self.parts.iter_mut().find(|p| p.key == key) else { return };
        if e.record_no < part.from.0 {
            return;
        }
        let at = if e.record_no == part.from.0 { part.from.1.min(e.payload.len()) } else { 0 };
        if !part.prefixed {
            style.prefix(e, &mut part.prefix);
            part.prefixed = true;
        }
        part.last = (e.record_no, at, e.payload.len() - at);
        part.bytes.extend_from_slice(&e.payload[at..]);
    }

    /// The first record that is needed for what is held.
    pub fn oldest_held(&self) -> Option<u64> {
        self.parts.iter().filter(|p| !p.bytes.is_empty()).map(|p| p.from.0).min()
    }
}

#[cfg(test)]
mod tests {
    use super::newline;

    #[test]
    fn the_first_newline() {
        for len in 0..40 {
            for other in [0, b'\n' - 1, b'\n' + 1, 0x80 | b'\n', 0xff] {
                let mut text = vec![other; len];
                assert_eq!(newline(&text), None);
                for at in (0..len).rev() {
                    // More of them behind it.
                    text[at] = b'\n';
                    assert_eq!(newline(&text), Some(at), "{text:?}");
                }
            }
        }
    }
}
