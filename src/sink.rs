//! Sinks: what follows the journal with a cursor of its own, each in a thread of its own, so that one
//! that is slow or stuck holds back nothing but itself.
//!
//! ```text
//! journal → Reader → Formatter (text, JSON, raw) → buffer → one write a batch → cursor
//! ```
//!
//! **Delivery.** After a clean stop (also one that gave up on a stuck output) the next sink of the name
//! goes on exactly where it stopped. After a kill nothing is left out; what was written and not yet noted
//! in the cursor (one write at most, normally 256 KiB) comes again, except in a regular file: there the
//! sink compares what stands behind the noted length with what it is about to write, and leaves out what
//! is there already. It never cuts a file. When others append to the same file, that comparison ends
//! where theirs begins.
//!
//! **Memory.** A buffer of 256 KiB, one batch of the journal, the caches of the formatter; a record whose
//! text is longer than the buffer makes it grow for the time being.
//!
//! Nothing here is async-signal-safe.

mod cursor;
mod escape;
mod follow;
mod formats;
mod json;
mod output;
mod parts;
mod raw;
mod rotate;
mod status;
mod stream;
mod text;
mod time;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::error::{Code, Error, Result};
use crate::journal::{Entry, Position};
use crate::layout::sink::held as h;

pub use crate::env::Format;
pub use cursor::Cursor;
pub use escape::escape;
pub use follow::{Follower, Outcome, Pending, Places, Reporter};
pub use formats::Formats;
pub use json::Json;
pub use parts::{Parts, Start, Style};
pub use raw::{MAX_WAITING, Raw};
pub use rotate::Rotate;
pub use status::{Lag, SinkStatus, State};
pub use stream::Stream;
pub use text::{MAX_PART, Text};
pub use time::Clock;

/// Records that a sink cannot deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Deleted before they were read.
    Missed {
        /// The first of them; `None`: not known.
        first: Option<u64>,
        /// How many, exactly.
        records: u64,
    },
    /// They stood in bytes of the journal that are damaged.
    Damaged {
        /// File of the journal.
        segment: String,
        /// Where in it.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// How many records, by the numbers before and behind.
        records: u64,
    },
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: u64| if n == 1 { "record" } else { "records" };
        match self {
            Gap::Missed { first: Some(first), records } => {
                let (last, what) = (first + records.saturating_sub(1), plural(*records));
                write!(f, "{records} {what} ({first} to {last}) that retention deleted before they were read")
            }
            Gap::Missed { first: None, records } => {
                write!(f, "{records} {} that retention deleted before they were read", plural(*records))
            }
            Gap::Damaged { segment, offset, bytes, records } => {
                let what = plural(*records);
                write!(f, "{records} {what} in {bytes} damaged bytes at {offset} of {segment}")
            }
        }
    }
}

/// A captured line whose end was not yet seen, as a cursor keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Nonce of the producer.
    pub nonce: u64,
    /// Process-wide number of the thread.
    pub thread: u64,
    /// stderr, else stdout.
    pub stderr: bool,
    /// The beginning of the line is delivered, and something else behind it.
    pub broken: bool,
    /// What is delivered ends in this line.
    pub open: bool,
    /// The record that the part not yet delivered begins in; `u64::MAX` = all is delivered so far.
    pub first: u64,
    /// Where in its payload.
    pub skip: u32,
}

impl Held {
    fn flags(&self) -> u32 {
        u32::from(self.stderr) * h::STDERR
            + u32::from(self.broken) * h::BROKEN
            + u32::from(self.open) * h::OPEN
    }
}

/// Where a piece of output goes, where a sink has two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dest {
    /// The first, or only one.
    Out = 0,
    /// The second.
    Err = 1,
}

/// Makes bytes of records. Pure: no I/O, no clock; the same records give the same bytes.
pub trait Formatter: Send {
    /// Appends what a record becomes (it may be nothing, and more later), and says where it goes.
    fn entry(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) -> Dest;
    /// Appends a line that says what is missing here.
    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) -> Dest;
    /// Appends what has been held back for long (captured parts of lines); it goes to [`Dest::Out`].
    /// `now_ms`: any clock; `None`: everything, whatever its age.
    fn settle(&mut self, _now_ms: Option<u64>, _out: &mut Vec<u8>) {}
    /// Appends all that is held back, and ends the last line. There is nothing more to come.
    fn finish(&mut self, _out: &mut Vec<u8>) {}
    /// What is unfinished: with [`restore`](Formatter::restore), and each record from the first held on
    /// given to [`hold_again`](Formatter::hold_again), another formatter goes on in its place.
    fn held(&self) -> Vec<Held> {
        Vec::new()
    }
    /// Takes over what another one had unfinished.
    fn restore(&mut self, _held: &[Held]) {}
    /// A record that the other one had already taken.
    fn hold_again(&mut self, _e: &Entry<'_>) {}
    /// The first record that is needed for what is held.
    fn oldest_held(&self) -> Option<u64> {
        None
    }
}

/// How a write ended that did not deliver everything.
#[derive(Debug)]
pub enum WriteEnd {
    /// The reader has gone, for good.
    Broken,
    /// The sink was told to give up; it can go on later.
    GivenUp,
    /// The output cannot be used.
    Failed(io::Error),
}

/// Where a writing sink tells that it moves, and hears that it shall give up.
pub trait Watch {
    /// So many bytes went out.
    fn moved(&self, bytes: usize);
    /// A try failed (disk full); another one follows.
    fn retry(&self, what: &str, e: &io::Error);
    /// Something that people should know.
    fn say(&self, _line: &str) {}
    /// Whether to give up.
    fn given_up(&self) -> bool;
    /// Whether somebody asked since the last time that files be opened anew.
    fn reopen(&self) -> bool {
        false
    }
}

/// Takes records and delivers them. The [`Follower`] reads the journal for it, keeps its cursor, and
/// runs it in a thread of its own.
pub trait Sink: Send {
    /// Takes a record into its buffer, and answers how many bytes are in there. Does not block.
    fn entry(&mut self, e: &Entry<'_>) -> usize;
    /// Takes a note of missing records.
    fn gap(&mut self, gap: &Gap);
    /// Bytes in the buffer.
    fn buffered(&self) -> usize;
    /// Writes out the whole buffer; may block for as long as `watch` lets it. When it ends early, the
    /// answer is in [`written`](Sink::written).
    fn flush(&mut self, watch: &dyn Watch) -> std::result::Result<(), WriteEnd>;
    /// Bytes of the present buffer that are written: what a flush that ended early has done.
    fn written(&self) -> u64;
    /// The first `bytes` bytes that are made from now on are delivered already.
    fn skip(&mut self, bytes: u64);
    /// How many of those are still to come.
    fn skipping(&self) -> u64;
    /// What it writes to and how long that is, if it is a regular file.
    fn file(&self) -> Option<(crate::sys::FileId, u64)> {
        None
    }
    /// Opens its file anew if that is not at its place any more, or if it was asked to. Called between
    /// writes, often.
    fn follow_file(&mut self, _watch: &dyn Watch) {}
    /// Whether it writes to this process's own stdout or stderr.
    fn is_standard(&self) -> bool {
        false
    }
    /// Its file was this long at the last cursor, and the process was killed: whatever of the text from
    /// now on stands there already is not written again. False: nothing stands there.
    fn resume(&mut self, _file: (crate::sys::FileId, u64)) -> bool {
        false
    }
    /// What makes its text.
    fn formatter(&mut self) -> &mut dyn Formatter;
    /// See [`Formatter::settle`].
    fn settle(&mut self, now_ms: Option<u64>);
    /// See [`Formatter::finish`].
    fn finish(&mut self);
}

/// Where a sink writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// This process's stdout.
    Stdout,
    /// This process's stderr.
    Stderr,
    /// Captured stdout to stdout, everything else to stderr (raw; text goes to stdout). The order of the
    /// two is kept, so when one is stuck, so is the other: see [`SinkSpec::inherited`].
    StdoutStderr,
    /// Appended to this file, which is made with mode 0600 if it is not there; when it is moved away or
    /// deleted, a new one is made within a second. May be a FIFO that somebody reads.
    File(PathBuf),
}

/// Which records a sink takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Take {
    /// All.
    #[default]
    All,
    /// Captured stdout.
    Stdout,
    /// Everything else.
    AllButStdout,
}

impl Take {
    fn wants(self, e: &Entry<'_>) -> bool {
        use crate::journal::kind;
        match self {
            Take::All => true,
            Take::Stdout => e.kind == kind::OUTPUT && !is_stderr(e),
            Take::AllButStdout => e.kind != kind::OUTPUT || is_stderr(e),
        }
    }
}

/// A sink to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSpec {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot. One sink of a name follows a
    /// journal at a time; its cursor has that name.
    pub name: String,
    /// Where it writes.
    pub output: Output,
    /// How it writes.
    pub format: Format,
    /// What it takes.
    pub take: Take,
    /// Where it begins if it never ran before; `None` = at the oldest record.
    pub start: Option<Position>,
    /// When its file is moved away and begun anew; for regular files.
    pub rotate: Option<Rotate>,
}

impl SinkSpec {
    /// A sink that takes everything from the oldest record on.
    pub fn new(name: impl Into<String>, output: Output, format: Format) -> SinkSpec {
        SinkSpec { name: name.into(), output, format, take: Take::All, start: None, rotate: None }
    }

    /// The raw sinks that give captured stdout and stderr to this process's own: one, `stdout`, that keeps
    /// the order between them, where both are the same file or terminal; else two, `stdout` and `stderr`,
    /// so that a stuck stdout does not hold back stderr.
    pub fn inherited() -> Vec<SinkSpec> {
        use crate::sys::file::fstat;
        let same = match (fstat(1), fstat(2)) {
            (Ok(a), Ok(b)) => a.id == b.id,
            _ => false,
        };
        if same {
            // One file holds whole lines of each stream; a terminal or a pipe has both at once.
            let file = fstat(1).is_ok_and(|s| s.is_file());
            let to = if file { Output::Stdout } else { Output::StdoutStderr };
            return vec![SinkSpec::new("stdout", to, Format::Raw)];
        }
        let mut out = SinkSpec::new("stdout", Output::Stdout, Format::Raw);
        let mut err = SinkSpec::new("stderr", Output::Stderr, Format::Raw);
        (out.take, err.take) = (Take::Stdout, Take::AllButStdout);
        vec![out, err]
    }
}

fn check_name(name: &str) -> Result<()> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=64).contains(&name.len()) && name.bytes().all(ok) && !name.starts_with('.') {
        return Ok(());
    }
    let text = "is no name for a sink: use 1 to 64 of A-Z a-z 0-9 . _ -, with no dot first";
    Err(Error::new(Code::BadValue, format!("{name:?} {text}")))
}

/// Whether captured output is from stderr.
#[inline]
fn is_stderr(e: &Entry<'_>) -> bool {
    e.site.is_some_and(|s| s.target == b"stderr")
}
