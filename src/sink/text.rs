//! Lines for people and `grep`.
//!
//! ```text
//! 2026-11-21T02:44:42.123456789Z INFO  app::db[4711:4712] connected to 10.0.0.7 (src/db.rs:12)
//! 2026-11-21T02:44:42.200000000Z -     stdout[4720:4720] a captured line
//! 2026-11-21T02:44:43.000000000Z LOST  spillring[4711:4712] 7 records of 4711/4712 between ... and ...
//! 2026-11-21T02:44:43.000000000Z NOTE  spillring[0:0] what the drain has to say
//! ```
//!
//! Time in UTC with nanoseconds, level (`-` for captured output), target, pid and tid in the producer's
//! own namespace, the message with everything [escaped](super::escape::escape) that is not to reach a
//! terminal, fields behind it (` name=value`) and open spans before it (`{name#id name=value}: `), and where it
//! was logged. Fields stand in fixed columns up to the target.
//!
//! Captured output comes in parts when the program writes parts of lines. They are joined, for each
//! thread and stream, and a line has the time of the first part in it. A line that is still unfinished
//! after a second, or beyond 64 KiB, is shown as far as it goes, and its rest behind it; when something
//! else has to be shown in between, the rest stands in a line of its own with a `+` behind the bracket:
//!
//! ```text
//! 2026-11-21T02:44:42.200000000Z -     stdout[4720:4720] Continue? [y/n]
//! 2026-11-21T02:44:51.000000000Z INFO  app[4711:4711] something else (src/main.rs:3)
//! 2026-11-21T02:44:51.200000000Z -     stdout[4720:4720]+ yes
//! ```

use std::collections::VecDeque;

use super::escape::{escape, plain, unfinished_char};
use super::formats::{Formats, SiteText, no_site};
use super::time::Clock;
use super::{Dest, Formatter, Gap, Held, is_stderr};
use crate::journal::{Entry, Loss, kind};
use crate::layout::sink::cursor::MAX_HELD;
use crate::record::{Fields, show_value};

/// Limit: bytes of an unfinished line that are held to be joined with their rest.
pub const MAX_PART: usize = 64 << 10;
/// How long they are held at most while nothing more of the line comes, ms.
const HOLD_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    nonce: u64,
    thread: u64,
    stderr: bool,
}

impl Key {
    fn of(e: &Entry<'_>) -> Key {
        Key { nonce: e.thread.nonce, thread: e.thread.thread, stderr: is_stderr(e) }
    }
}

/// A line that is not finished.
#[derive(Debug)]
struct Part {
    key: Key,
    /// Record and place in its payload of the first of `bytes`.
    from: (u64, usize),
    /// The last piece: record, place, length.
    last: (u64, usize, usize),
    /// What is not shown yet.
    bytes: Vec<u8>,
    /// The line's prefix up to the bracket.
    prefix: Vec<u8>,
    /// Its beginning is shown, in a line that has ended since.
    broken: bool,
    /// When it was first looked at and had something to show, ms.
    since: Option<u64>,
}

/// Makes lines. Does no I/O and knows no clock; memory is bounded: 64 KiB for each of 16 unfinished
/// lines, beside caches for sites and threads.
#[derive(Debug, Default)]
pub struct Text {
    formats: Formats,
    clock: Clock,
    scratch: Vec<u8>,
    /// Oldest first.
    parts: VecDeque<Part>,
    /// Whose unfinished line the output ends in.
    open: Option<Key>,
    last_utc: i64,
}

/// ` name=value` for each.
fn fields(all: Fields<'_>, out: &mut Vec<u8>) {
    for f in all {
        out.push(b' ');
        out.extend_from_slice(f.name);
        out.push(b'=');
        show_value(&f.value, out);
    }
}

/// `{name#id name=value}: ` for each.
fn spans(site: &SiteText, e: &Entry<'_>, out: &mut Vec<u8>) {
    for s in site.format.fields(e.payload).spans() {
        out.push(b'{');
        out.extend_from_slice(s.name);
        out.extend_from_slice(format!("#{}", s.id).as_bytes());
        fields(s.fields, out);
        out.extend_from_slice(b"}: ");
    }
}

impl Text {
    /// Nothing unfinished.
    pub fn new() -> Text {
        Text::default()
    }

    #[inline]
    fn log(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        self.clock.put(e.utc_ns, out);
        out.push(b' ');
        let (site, thread) = self.formats.both(e);
        let Some(site) = site else {
            out.extend_from_slice(b"-     ?");
            out.extend_from_slice(thread);
            out.push(b' ');
            no_site(e, out);
            return out.push(b'\n');
        };
        out.extend_from_slice(&site.head);
        out.extend_from_slice(thread);
        out.push(b' ');
        let at = out.len();
        if site.format.has_fields() {
            spans(site, e, out);
        }
        // What is wrong with a damaged record stands in its text.
        let _ = site.format.render(e.payload, out);
        if site.format.has_fields() {
            fields(site.format.fields(e.payload), out);
        }
        if !plain(&out[at..]) {
            self.scratch.clear();
            self.scratch.extend_from_slice(&out[at..]);
            out.truncate(at);
            escape(&self.scratch, out);
            self.scratch.shrink_to(MAX_PART);
        }
        out.extend_from_slice(&site.tail);
    }

    /// Time, column and target of a captured line.
    fn prefix(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        self.clock.put(e.utc_ns, out);
        match e.site {
            Some(_) if is_stderr(e) => out.extend_from_slice(b" -     stderr"),
            Some(s) if s.target == b"stdout" => out.extend_from_slice(b" -     stdout"),
            Some(s) => {
                out.extend_from_slice(b" -     ");
                escape(&s.target, out);
            }
            None => out.extend_from_slice(b" -     ?"),
        }
        out.extend_from_slice(self.formats.thread(e));
    }

    fn output(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        let (key, mut at) = (Key::of(e), 0);
        // Nearly all: one whole line, and nothing to join it with.
        if (self.parts.is_empty() || self.open.is_none() && self.parts.iter().all(|p| p.key != key))
            && let Some((b'\n', line)) = e.payload.split_last()
            && plain(line)
        {
            self.prefix(e, out);
            out.push(b' ');
            out.extend_from_slice(line);
            return out.push(b'\n');
        }
        while at < e.payload.len() {
            let rest = &e.payload[at..];
            let end = rest.iter().position(|&b| b == b'\n');
            self.piece(key, e, at, &rest[..end.unwrap_or(rest.len())], end.is_some(), out);
            at += end.map_or(rest.len(), |n| n + 1);
        }
    }

    /// A piece of a line that begins at `at` of the payload; `complete`: the line ends with it.
    fn piece(&mut self, key: Key, e: &Entry<'_>, at: usize, bytes: &[u8], complete: bool, out: &mut Vec<u8>) {
        let i = match self.parts.iter().position(|p| p.key == key) {
            Some(i) => i,
            None if complete => {
                self.close(out);
                self.prefix(e, out);
                out.push(b' ');
                escape(bytes, out);
                return out.push(b'\n');
            }
            None => {
                self.make_room(out);
                self.parts.push_back(Part {
                    key,
                    from: (e.record_no, at),
                    last: (e.record_no, at, 0),
                    bytes: Vec::new(),
                    prefix: Vec::new(),
                    broken: false,
                    since: None,
                });
                self.parts.len() - 1
            }
        };
        if self.parts[i].bytes.is_empty() {
            let mut prefix = std::mem::take(&mut self.parts[i].prefix);
            prefix.clear();
            self.prefix(e, &mut prefix);
            let part = &mut self.parts[i];
            (part.from, part.since, part.prefix) = ((e.record_no, at), None, prefix);
        }
        let part = &mut self.parts[i];
        part.last = (e.record_no, at, bytes.len());
        part.bytes.extend_from_slice(bytes);
        if complete || part.bytes.len() >= MAX_PART || self.open == Some(key) {
            self.show(i, complete, out);
        }
    }

    /// At most [`MAX_HELD`] unfinished lines: forgets that one is unfinished, of a program that ended
    /// within it perhaps, else the oldest.
    fn make_room(&mut self, out: &mut Vec<u8>) {
        if self.parts.len() < MAX_HELD {
            return;
        }
        let i = self.parts.iter().position(|p| p.bytes.is_empty()).unwrap_or(0);
        if !self.parts[i].bytes.is_empty() {
            self.show(i, false, out);
        }
        if self.open == Some(self.parts[i].key) {
            self.close(out);
        }
        self.parts.remove(i);
    }

    /// Ends the line that the output ends in, if it is unfinished.
    fn close(&mut self, out: &mut Vec<u8>) {
        if let Some(key) = self.open.take() {
            out.push(b'\n');
            if let Some(p) = self.parts.iter_mut().find(|p| p.key == key) {
                p.broken = true;
            }
        }
    }

    /// Shows what part `i` holds: behind its beginning if the output ends in that, else in a new line.
    fn show(&mut self, i: usize, complete: bool, out: &mut Vec<u8>) {
        let key = self.parts[i].key;
        if self.open != Some(key) {
            self.close(out);
            let part = &mut self.parts[i];
            out.extend_from_slice(&part.prefix);
            out.extend_from_slice(if part.broken { b"+ " } else { b" " });
        }
        let part = &mut self.parts[i];
        if complete {
            escape(&part.bytes, out);
            out.push(b'\n');
            self.open = None;
            self.parts.remove(i);
            return;
        }
        // The beginning of a character waits for its end, if it lies in one piece.
        let mut keep = unfinished_char(&part.bytes);
        if keep > part.last.2 {
            keep = 0;
        }
        let n = part.bytes.len() - keep;
        escape(&part.bytes[..n], out);
        part.bytes.drain(..n);
        part.bytes.shrink_to(4096);
        part.from = (part.last.0, part.last.1 + part.last.2 - keep);
        part.broken = false;
        part.since = None;
        self.open = Some(key);
    }

    fn stamp(&mut self, utc_ns: i64, what: &[u8], out: &mut Vec<u8>) {
        self.close(out);
        self.clock.put(utc_ns, out);
        out.extend_from_slice(what);
    }

    fn loss(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        self.stamp(e.utc_ns, b" LOST  spillring", out);
        out.extend_from_slice(self.formats.thread(e));
        out.push(b' ');
        loss_text(&mut self.clock, e, out);
        out.push(b'\n');
    }
}

/// `7 records of 4711/4712 between 2026-... and 2026-...`, without an end of line.
pub(super) fn loss_text(clock: &mut Clock, e: &Entry<'_>, out: &mut Vec<u8>) {
    let Some(loss) = Loss::decode(e.payload) else {
        return out.extend_from_slice(b"an unknown number of records (this loss record is damaged)");
    };
    let records = if loss.count == 1 { "record" } else { "records" };
    let (pid, tid) = (e.thread.pid, e.thread.tid);
    out.extend_from_slice(format!("{} {records} of {pid}/{tid} between ", loss.count).as_bytes());
    clock.put(loss.from_utc, out);
    out.extend_from_slice(b" and ");
    clock.put(loss.to_utc, out);
}

impl Formatter for Text {
    #[inline]
    fn entry(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) -> Dest {
        self.last_utc = e.utc_ns;
        match e.kind {
            kind::LOG => {
                if self.open.is_some() {
                    self.close(out);
                }
                self.log(e, out);
            }
            kind::OUTPUT => self.output(e, out),
            kind::LOSS => self.loss(e, out),
            kind::NOTE => {
                self.stamp(e.utc_ns, b" NOTE  spillring", out);
                out.extend_from_slice(self.formats.thread(e));
                out.push(b' ');
                escape(e.payload, out);
                out.push(b'\n');
            }
            // A kind of a later version.
            _ => {}
        }
        Dest::Out
    }

    /// The time is that of the record before.
    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) -> Dest {
        self.stamp(self.last_utc, b" LOST  spillring[0:0] ", out);
        out.extend_from_slice(gap.to_string().as_bytes());
        out.push(b'\n');
        Dest::Out
    }

    fn settle(&mut self, now_ms: Option<u64>, out: &mut Vec<u8>) {
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
                self.show(i, false, out);
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.settle(None, out);
        self.close(out);
    }

    fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for p in &self.parts {
            let Key { nonce, thread, stderr } = p.key;
            let (broken, open) = (p.broken, self.open == Some(p.key));
            let (first, skip) = if p.bytes.is_empty() { (u64::MAX, 0) } else { (p.from.0, p.from.1 as u32) };
            held.push(Held { nonce, thread, stderr, broken, open, first, skip });
        }
        held
    }

    fn restore(&mut self, held: &[Held]) {
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
                prefix: Vec::new(),
                broken: h.broken,
                since: None,
            });
        }
    }

    fn hold_again(&mut self, e: &Entry<'_>) {
        let key = Key::of(e);
        let Some(i) = self.parts.iter().position(|p| p.key == key) else { return };
        let from = self.parts[i].from;
        if e.kind != kind::OUTPUT || e.record_no < from.0 {
            return;
        }
        let at = if e.record_no == from.0 { from.1.min(e.payload.len()) } else { 0 };
        let mut prefix = Vec::new();
        if self.parts[i].prefix.is_empty() {
            self.prefix(e, &mut prefix);
            self.parts[i].prefix = prefix;
        }
        let part = &mut self.parts[i];
        part.last = (e.record_no, at, e.payload.len() - at);
        part.bytes.extend_from_slice(&e.payload[at..]);
    }

    fn oldest_held(&self) -> Option<u64> {
        self.parts.iter().filter(|p| !p.bytes.is_empty()).map(|p| p.from.0).min()
    }
}
