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

use super::escape::{escape, plain};
use super::formats::{Formats, SiteText, no_site};
use super::parts::{Parts, Start, Style};
use super::time::Clock;
use super::{Dest, Formatter, Gap, Held, is_stderr};
use crate::journal::{Entry, Loss, kind};
use crate::record::{Fields, show_value};

/// Limit: bytes of an unfinished line that are held to be joined with their rest.
pub const MAX_PART: usize = 64 << 10;

/// Makes lines. Does no I/O and knows no clock; memory is bounded: 64 KiB for each of 16 unfinished
/// lines, beside caches for sites and threads.
#[derive(Debug, Default)]
pub struct Text {
    look: Look,
    /// Unfinished lines, each with its prefix up to the bracket.
    parts: Parts<Vec<u8>>,
    last_utc: i64,
}

/// How lines look.
#[derive(Debug, Default)]
struct Look {
    formats: Formats,
    clock: Clock,
    scratch: Vec<u8>,
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

    fn stamp(&mut self, utc_ns: i64, what: &[u8], out: &mut Vec<u8>) {
        self.parts.close(out);
        self.look.clock.put(utc_ns, out);
        out.extend_from_slice(what);
    }

    fn loss(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        self.stamp(e.utc_ns, b" LOST  spillring", out);
        out.extend_from_slice(self.look.formats.thread(e));
        out.push(b' ');
        loss_text(&mut self.look.clock, e, out);
        out.push(b'\n');
    }
}

impl Look {
    #[inline]
    fn log(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        self.clock.put(e.utc_ns, out);
        let (site, thread) = self.formats.both(e);
        let Some(site) = site else {
            out.extend_from_slice(b" -     ?");
            thread.put(out);
            no_site(e, out);
            return out.push(b'\n');
        };
        site.head.put(out);
        thread.put(out);
        let at = out.len();
        if site.format.has_fields() {
            spans(site, e, out);
        }
        // What is wrong with a damaged record stands in its text.
        let mut harmless = site.format.render_and_look(e.payload, out) == Ok(true);
        if site.format.has_fields() {
            fields(site.format.fields(e.payload), out);
            harmless = false;
        }
        if !harmless && !plain(&out[at..]) {
            self.scratch.clear();
            self.scratch.extend_from_slice(&out[at..]);
            out.truncate(at);
            escape(&self.scratch, out);
            self.scratch.shrink_to(MAX_PART);
        }
        site.tail.put(out);
    }

    /// Time, column and target of a captured line.
    fn head(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
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
}

impl Style for Look {
    type Prefix = Vec<u8>;
    const CONTINUES: bool = true;
    const LIMIT: usize = MAX_PART;

    fn prefix(&mut self, e: &Entry<'_>, to: &mut Vec<u8>) {
        to.clear();
        self.head(e, to);
    }

    fn line(&mut self, prefix: &Vec<u8>, start: Start, bytes: &[u8], complete: bool, out: &mut Vec<u8>) {
        match start {
            Start::Behind => {}
            Start::Rest => {
                out.extend_from_slice(prefix);
                out.extend_from_slice(b"+ ");
            }
            Start::Line => {
                out.extend_from_slice(prefix);
                out.push(b' ');
            }
        }
        escape(bytes, out);
        if complete {
            out.push(b'\n');
        }
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
                self.parts.close(out);
                self.look.log(e, out);
            }
            kind::OUTPUT => self.parts.output(e, &mut self.look, out),
            kind::LOSS => self.loss(e, out),
            kind::NOTE => {
                self.stamp(e.utc_ns, b" NOTE  spillring", out);
                out.extend_from_slice(self.look.formats.thread(e));
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
        self.parts.settle(now_ms, &mut self.look, out);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.settle(None, out);
        self.parts.close(out);
    }

    fn held(&self) -> Vec<Held> {
        self.parts.held()
    }

    fn restore(&mut self, held: &[Held]) {
        self.parts.restore(held);
    }

    fn hold_again(&mut self, e: &Entry<'_>) {
        if e.kind == kind::OUTPUT {
            self.parts.hold_again(e, &mut self.look);
        }
    }

    fn oldest_held(&self) -> Option<u64> {
        self.parts.oldest_held()
    }
}
