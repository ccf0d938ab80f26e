//! `spillring cat` and `spillring tail`: the journals of channels, oldest record first.

use super::filter::Filter;
use super::place::ChannelArg;
use super::read::{Merged, View};
use super::screen::{FULL, Screen, Wish};
use super::{CatArgs, Exit, Format, ShowArgs, TailArgs};
use spillring::env::Settings;
use spillring::journal::{DirSource, Entry, Reader, kind};
use spillring::sink::{Cursor, Formatter, Json, Raw, Text};
use spillring::sys::child::{Polled, poll};
use spillring::{Code, Error, Result};
use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often `tail -f` looks: soon after something came, and when nothing has come for long. It asks, and is not
/// told: who tells pays for it, and that would be the drain.
const SOON: Duration = Duration::from_micros(250);
const LATE: Duration = Duration::from_millis(80);
/// In between it waits for this part of the time since something came.
const PART: u32 = 8;
/// Bytes that a line is thought to have, by `tail`, before it has read any.
const LINE: u64 = 1024;
/// How often it goes further back only because a line may have begun there.
const MORE: u32 = 2;
/// Bytes of text beyond which `tail` drops what is not among the last lines.
const KEPT: usize = 1 << 20;

/// Runs `cat`.
pub fn run(args: &CatArgs, settings: &Settings) -> Result<Exit> {
    let dirs = places(&args.channel, settings)?;
    if args.from_sink.is_some() && dirs.len() > 1 {
        let text = "--from-sink is of one channel: name one";
        return Err(Error::new(Code::BadValue, text));
    }
    // What run prints is raw, one sink a stream.
    let by_default = match args.from_sink.as_deref() {
        Some("stdout" | "stderr") => Format::Raw,
        _ => Format::Text,
    };
    let mut printer = Printer::new(&args.show, by_default, true);
    let mut readers = Vec::new();
    for (name, dir) in &dirs {
        let reader = match (&args.from_sink, args.show.filter.since) {
            (Some(sink), _) => printer.where_sink_stopped(sink, dir)?,
            (None, Some(since)) => Reader::since(DirSource::open(dir)?, since)?,
            (None, None) => Reader::open(dir)?,
        };
        readers.push((name.clone(), reader));
    }
    let mut merged = Merged::new(readers)?;
    merged.as_of_now(&dirs)?;
    let mut filter = Filter::new(&args.show.filter);
    printer.all(&mut merged, &mut filter)?;
    printer.end(&filter, true)
}

/// Runs `tail`.
pub fn tail(args: &TailArgs, settings: &Settings) -> Result<Exit> {
    let dirs = places(&args.channel, settings)?;
    let mut printer = Printer::new(&args.show, Format::Text, !args.follow);
    let mut filter = Filter::new(&args.show.filter);
    // From further and further back, until there are enough lines: one more, so that the first one is whole.
    let mut back = args.lines as u64 + 1;
    let (mut bytes, mut tries) = (back.saturating_mul(LINE), 0);
    let mut merged = loop {
        let mut readers = Vec::new();
        for (name, dir) in &dirs {
            readers.push((name.clone(), Reader::last(DirSource::open(dir)?, back, bytes)?));
        }
        let mut merged = Merged::new(readers)?;
        merged.as_of_now(&dirs)?;
        printer.last = Some(Last::new(args.lines));
        if args.follow {
            merged.run(&mut filter, &mut printer)?;
            printer.settle(&mut filter, None)?;
        } else {
            printer.all(&mut merged, &mut filter)?;
        }
        printer.cut();
        let enough = printer.last.as_ref().is_some_and(|l| l.dropped && (l.sure() || tries >= MORE));
        if enough || merged.whole() {
            break merged;
        }
        tries += u32::from(printer.last.as_ref().is_some_and(|l| l.dropped));
        // Large records may have few lines after all.
        if std::mem::replace(&mut bytes, u64::MAX) == u64::MAX {
            back = back.saturating_mul(8);
        }
        printer.again();
        filter = Filter::new(&args.show.filter);
    };
    let whole = merged.whole();
    for (what, damaged) in printer.last.take().map(|l| l.said).unwrap_or_default() {
        printer.say(what, damaged)?;
    }
    if !args.follow {
        return printer.end(&filter, whole);
    }
    printer.screen.flush()?;
    merged.and_on();
    let mut came = Instant::now();
    loop {
        // A reader that goes away is noticed also while nothing is printed.
        let mut out = [Polled::reader_of(std::io::stdout().as_raw_fd())];
        poll(&mut out, Some((came.elapsed() / PART).clamp(SOON, LATE)))
            .map_err(|e| Error::os("waiting", e.into()))?;
        if out[0].broken {
            return Ok(Exit::Done);
        }
        merged.run(&mut filter, &mut printer)?;
        printer.settle(&mut filter, Some(spillring::sys::time::monotonic_ns() / 1_000_000))?;
        if !printer.screen.buf.is_empty() {
            printer.screen.flush()?;
            came = Instant::now();
        }
    }
}

/// The journals of channels, each with the channel's name.
fn places(channels: &[ChannelArg], settings: &Settings) -> Result<Vec<(String, PathBuf)>> {
    channels.iter().map(|c| Ok((c.to_string(), c.journal(settings)?))).collect()
}

/// Which records are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    Captured,
    Stdout,
    AllButStdout,
}

impl Wanted {
    fn wants(self, e: &Entry<'_>) -> bool {
        let stderr = || e.site.is_some_and(|s| s.target == b"stderr");
        match self {
            Wanted::All => true,
            Wanted::Captured => e.kind == kind::OUTPUT,
            Wanted::Stdout => e.kind == kind::OUTPUT && !stderr(),
            Wanted::AllButStdout => e.kind != kind::OUTPUT || stderr(),
        }
    }
}

/// Only the last lines are kept, until they are known.
struct Last {
    lines: usize,
    dropped: bool,
    said: Vec<(String, bool)>,
    /// Lines so far, dropped ones too.
    total: usize,
    /// How many there were when the first line of some captured stream had ended: that one may have begun
    /// before what is read.
    unsure: usize,
    /// Streams, and whether their first line has ended.
    streams: HashMap<(u64, u64, bool), bool>,
}

impl Last {
    fn new(lines: usize) -> Last {
        Last { lines, dropped: false, said: Vec::new(), total: 0, unsure: 0, streams: HashMap::new() }
    }

    /// `new`: what was made of the record.
    fn count(&mut self, e: &Entry<'_>, new: &[u8]) {
        self.total += new.iter().filter(|&&b| b == b'\n').count();
        if e.kind != kind::OUTPUT {
            return;
        }
        let stderr = e.site.is_some_and(|s| s.target == b"stderr");
        let ended = self.streams.entry((e.thread.nonce, e.thread.thread, stderr)).or_insert(false);
        if !*ended {
            *ended = e.payload.contains(&b'\n');
            self.unsure = self.total;
        }
    }

    /// Whether each of the last lines is whole.
    fn sure(&self) -> bool {
        self.unsure + self.lines <= self.total
    }
}

struct Printer {
    screen: Screen,
    format: Format,
    formatter: Box<dyn Formatter>,
    wanted: Wanted,
    /// Records before this one are delivered; they are read for lines that are not finished.
    next: u64,
    damaged: bool,
    last: Option<Last>,
}

fn formatter(format: Format) -> Box<dyn Formatter> {
    match format {
        Format::Raw => Box::new(Raw::new(false)),
        Format::Text => Box::new(Text::new()),
        Format::Json => Box::new(Json::new()),
    }
}

impl Printer {
    fn new(args: &ShowArgs, by_default: Format, pager: bool) -> Printer {
        let format = if args.json { Format::Json } else { args.format.unwrap_or(by_default) };
        let wish = Wish {
            color: args.color,
            pager: pager && !args.no_pager && format != Format::Raw,
            text: format == Format::Text,
        };
        Printer {
            screen: Screen::new(&wish),
            format,
            formatter: formatter(format),
            wanted: if format == Format::Raw { Wanted::Captured } else { Wanted::All },
            next: 0,
            damaged: false,
            last: None,
        }
    }

    /// Begins anew, with nothing printed yet.
    fn again(&mut self) {
        self.screen.buf.clear();
        self.formatter = formatter(self.format);
    }

    /// A reader where a sink stopped.
    fn where_sink_stopped(&mut self, sink: &str, dir: &Path) -> Result<Reader<DirSource>> {
        let cursor = Cursor::load(dir, sink)?.ok_or_else(|| {
            let text = "leave out --from-sink";
            let dir = dir.display();
            Error::new(Code::BadValue, format!("no sink {sink} has ever delivered from {dir}: {text}"))
        })?;
        // A sink of stdout takes all where there is none of stderr beside it.
        let both = Cursor::load(dir, "stderr")?.is_some();
        let raw = self.format == Format::Raw;
        match sink {
            "stdout" if raw && both => self.wanted = Wanted::Stdout,
            "stderr" if raw => self.wanted = Wanted::AllButStdout,
            _ => {}
        }
        self.formatter.restore(&cursor.held);
        self.next = cursor.next;
        self.screen.skip = cursor.skip;
        Reader::at(DirSource::open(dir)?, &cursor.position)
    }

    /// Everything that is there now, to the end.
    fn all(&mut self, merged: &mut Merged, filter: &mut Filter<'_>) -> Result<()> {
        let mut waited = 0;
        loop {
            merged.run(filter, self)?;
            // A batch that is being written looks torn: look again.
            if !merged.torn(waited, self)? {
                break;
            }
            waited += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        self.settle(filter, None)?;
        self.formatter.finish(&mut self.screen.buf);
        Ok(())
    }

    fn settle(&mut self, filter: &mut Filter<'_>, now_ms: Option<u64>) -> Result<()> {
        let mut done = Ok(());
        filter.settle(now_ms, &mut |e| {
            if done.is_ok() {
                done = self.entry(e);
            }
        });
        self.formatter.settle(now_ms, &mut self.screen.buf);
        done
    }

    /// Leaves the last lines.
    fn cut(&mut self) {
        let Some(last) = &mut self.last else { return };
        let buf = &mut self.screen.buf;
        // The newline at the end ends the last line, and begins none.
        let end = buf.len() - usize::from(buf.ends_with(b"\n"));
        let mut ends = buf[..end].iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(i, _)| i);
        let cut = match last.lines.checked_sub(1) {
            None => Some(buf.len()),
            Some(n) => ends.nth(n).map(|i| i + 1),
        };
        if let Some(cut) = cut.filter(|&n| n > 0) {
            buf.drain(..cut);
            last.dropped = true;
        }
    }

    fn end(self, filter: &Filter<'_>, whole: bool) -> Result<Exit> {
        let damaged = self.damaged;
        self.screen.finish()?;
        // Only where all was read: further back there may be some.
        if let Some(e) = filter.unknown_fields().filter(|_| whole) {
            return Err(e);
        }
        Ok(if damaged { Exit::Damaged } else { Exit::Done })
    }
}

impl View for Printer {
    fn entry(&mut self, e: &Entry<'_>) -> Result<()> {
        if !self.wanted.wants(e) {
            return Ok(());
        }
        if e.record_no < self.next {
            self.formatter.hold_again(e);
            return Ok(());
        }
        let from = self.screen.buf.len();
        self.formatter.entry(e, &mut self.screen.buf);
        if let Some(last) = &mut self.last {
            last.count(e, &self.screen.buf[from..]);
        }
        match &self.last {
            Some(_) if self.screen.buf.len() >= KEPT => self.cut(),
            None if self.screen.buf.len() >= FULL => self.screen.flush()?,
            _ => {}
        }
        Ok(())
    }

    fn say(&mut self, what: String, damaged: bool) -> Result<()> {
        if let Some(last) = &mut self.last {
            last.said.push((what, damaged));
            return Ok(());
        }
        self.damaged |= damaged;
        self.screen.say(what)
    }

    fn progress(&mut self, done: u64, of: u64) {
        self.screen.progress(done, of);
    }
}
