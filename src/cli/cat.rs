//! `spillring cat`: the journal of a channel, oldest record first.

use super::{CatArgs, Exit, Format};
use spillring::env::Settings;
use spillring::journal::{DirSource, Entry, Item, Reader, Source, kind};
use spillring::layout::journal::{SEG_HEADER, batch};
use spillring::sink::{Cursor, Formatter, Raw, Text};
use spillring::{Code, Error, Result};
use std::io::Write;

/// Runs it.
pub fn run(args: &CatArgs, settings: &Settings) -> Result<Exit> {
    let dir = args.channel.journal(settings)?;
    let mut printer = Printer {
        out: Out { to: std::io::stdout().lock(), buf: Vec::new(), skip: 0 },
        args,
        formatter: Box::new(Text::new()),
        wanted: Wanted::All,
        next: 0,
        damaged: false,
    };
    // What run prints is raw, one sink a stream.
    let by_default = match args.from_sink.as_deref() {
        Some("stdout" | "stderr") => Format::Raw,
        _ => Format::Text,
    };
    let raw = args.format.unwrap_or(by_default) == Format::Raw;
    if raw {
        printer.formatter = Box::new(Raw::new(false));
        printer.wanted = Wanted::Captured;
    }
    let reader = match &args.from_sink {
        None => Reader::open(&dir)?,
        Some(sink) => {
            let cursor = Cursor::load(&dir, sink)?.ok_or_else(|| {
                Error::new(
                    Code::BadValue,
                    format!(
                        "no sink {sink} has ever delivered from {}: leave out --from-sink",
                        dir.display()
                    ),
                )
            })?;
            // A sink of stdout takes all where there is none of stderr beside it.
            let both = Cursor::load(&dir, "stderr")?.is_some();
            match sink.as_str() {
                "stdout" if raw && both => printer.wanted = Wanted::Stdout,
                "stderr" if raw => printer.wanted = Wanted::AllButStdout,
                _ => {}
            }
            printer.formatter.restore(&cursor.held);
            printer.next = cursor.next;
            printer.out.skip = cursor.skip;
            Reader::at(DirSource::open(&dir)?, &cursor.position)?
        }
    };
    each(reader, &mut printer)?;
    printer.out.flush()?;
    Ok(if printer.damaged { Exit::Damaged } else { Exit::Done })
}

/// Who is told what a journal holds.
pub trait Visitor {
    /// The next item.
    fn item(&mut self, item: Item<'_>) -> Result<()>;
    /// After the last one: bytes at the end of the newest segment that are no whole batch.
    fn torn(&mut self, segment: &str, offset: u64, bytes: u64);
    /// The end.
    fn done(&mut self) -> Result<()>;
}

/// Shows everything that `reader` finds now to `visitor`.
pub fn each(mut reader: Reader<DirSource>, visitor: &mut impl Visitor) -> Result<()> {
    let mut waited = 0;
    loop {
        while let Some(item) = reader.next_batch()? {
            visitor.item(item)?;
        }
        match torn(&reader)? {
            // A batch that is being written looks the same: look again.
            Some(_) if waited < 5 => {
                waited += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Some((segment, offset, bytes)) => {
                visitor.torn(&segment, offset, bytes);
                break;
            }
            None => break,
        }
    }
    visitor.done()
}

/// Bytes behind the last batch of the segment that was read last.
fn torn(reader: &Reader<DirSource>) -> Result<Option<(String, u64, u64)>> {
    let Some(p) = reader.position() else { return Ok(None) };
    let name = p.segment.to_string();
    let source = reader.source();
    let err = |e| Error::os(format!("reading {}/{name}", source.place()), e);
    let end = if p.offset == 0 {
        SEG_HEADER
    } else {
        let mut len = [0; 4];
        source.read_at(&name, p.offset + batch::B_LEN, &mut len).map_err(err)?;
        p.offset + u64::from(u32::from_le_bytes(len))
    };
    let behind = source.len(&name).map_err(err)?.saturating_sub(end);
    Ok((behind > 0).then_some((name, end, behind)))
}

/// Buffered output whose errors are ours: a full disk is said, and ends it.
struct Out<W> {
    to: W,
    buf: Vec<u8>,
    /// Bytes that the sink has delivered already.
    skip: u64,
}

const FULL: usize = 64 << 10;

impl<W: Write> Out<W> {
    fn flush(&mut self) -> Result<()> {
        let skipped = self.buf.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        let done = self.to.write_all(&self.buf[skipped..]).and_then(|()| self.to.flush());
        self.buf.clear();
        done.map_err(|e| Error::os("writing to stdout", e))
    }
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

struct Printer<'a, W> {
    out: Out<W>,
    args: &'a CatArgs,
    formatter: Box<dyn Formatter>,
    wanted: Wanted,
    /// Records before this one are delivered; they are read for lines that are not finished.
    next: u64,
    damaged: bool,
}

impl<W: Write> Printer<'_, W> {
    /// What is said on stderr comes at its place between the records.
    fn say(&mut self, what: &str) -> Result<()> {
        self.out.flush()?;
        say!("{what}");
        Ok(())
    }
}

impl<W: Write> Visitor for Printer<'_, W> {
    fn item(&mut self, item: Item<'_>) -> Result<()> {
        match item {
            Item::Batch(batch) => {
                for e in batch.entries().filter(|e| self.wanted.wants(e)) {
                    if e.record_no < self.next {
                        self.formatter.hold_again(&e);
                        continue;
                    }
                    self.formatter.entry(&e, &mut self.out.buf);
                    if self.out.buf.len() >= FULL {
                        self.out.flush()?;
                    }
                }
                Ok(())
            }
            Item::Missed { records } => {
                self.say(&format!("{records} records were deleted by retention while they were read"))
            }
            Item::Damaged { segment, offset, bytes, records } => {
                self.damaged = true;
                self.say(&format!(
                    "{} is damaged: {bytes} bytes at {offset}, {records} records are missing; \
                     what is behind them follows [E{:02}]",
                    self.args.channel_file(&segment.to_string()),
                    Code::Damaged as i32
                ))
            }
        }
    }

    fn torn(&mut self, segment: &str, offset: u64, bytes: u64) {
        self.damaged = true;
        let _ = self.say(&format!(
            "{} has a torn tail: {bytes} bytes at {offset} are no whole batch (the writer died or is \
             stopped; the next drain goes on before them) [E{:02}]",
            self.args.channel_file(segment),
            Code::Damaged as i32
        ));
    }

    fn done(&mut self) -> Result<()> {
        self.formatter.finish(&mut self.out.buf);
        Ok(())
    }
}

impl CatArgs {
    fn channel_file(&self, segment: &str) -> String {
        format!("{segment} of {}", self.channel)
    }
}
