//! Reads what a command prints, a record a read, and never waits for whoever wants to see it.

use spillring::env::{Overflow, Settings};
use spillring::site::{Level, Site};
use spillring::sync::{AtomicBool, AtomicU64, Ordering::*};
use spillring::sys::child::{self, Polled, poll};
use spillring::writer::{self, CaptureSite};
use spillring::{Code, Error, Result};
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one read at most: what is lost when its reader is killed between a read and its record.
pub const READ: usize = 64 << 10;
/// Least shared memory for what is captured: many reads, so that reader and drain need not take turns.
const LANE: u64 = 2 << 20;

/// How long a read waits for room in the lane before it goes to the spill.
const WAIT: Duration = Duration::from_millis(100);
/// How long reads go to the spill without waiting, once one has waited in vain.
const NO_WAIT: Duration = Duration::from_secs(1);
/// After how long without output the drain is woken for what comes.
const SILENT: Duration = Duration::from_millis(5);

static STDOUT: Site = Site::new(Level::Info, "stdout", file!(), line!(), "");
static STDERR: Site = Site::new(Level::Info, "stderr", file!(), line!(), "");

/// What the command wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its stdout.
    Out = 0,
    /// Its stderr.
    Err = 1,
}

impl Stream {
    /// Both.
    pub const BOTH: [Stream; 2] = [Stream::Out, Stream::Err];
}

/// One of the two pipes (or terminals).
#[derive(Debug)]
pub struct Source {
    /// What comes out of it.
    pub stream: Stream,
    /// The end that is read.
    pub pipe: File,
    /// Our own descriptor that this stream goes to in the end, if its reader may go away: then the command
    /// is to meet a closed pipe too.
    pub reader: Option<RawFd>,
}

/// Takes what was read.
pub struct Taker {
    sites: [CaptureSite; 2],
    patience: Patience,
    /// The drain has failed: what is read goes where it would have gone.
    direct: Arc<AtomicBool>,
    /// Bytes taken so far.
    bytes: Arc<AtomicU64>,
    /// When something was taken last.
    last: Option<Instant>,
}

impl Taker {
    /// Attaches this process to the channel, to log what it reads there.
    ///
    /// # Errors
    /// Those of [`writer::init_with`]; there is no room for the call sites.
    pub fn new(settings: &Settings, direct: &Arc<AtomicBool>) -> Result<(spillring::Guard, Taker)> {
        // What waits for room waits for the drain, which will have some: in the spill it would be copied twice.
        let overflow = match settings.overflow {
            Overflow::Spill => Overflow::Block(WAIT),
            other => other,
        };
        let lane_bytes = settings.lane_bytes.max(LANE);
        let guard = writer::init_with(&Settings { overflow, lane_bytes, ..settings.clone() })?;
        let register = |site| {
            writer::capture_site(site).ok_or_else(|| {
                let text = "registering what is captured: no room in the ring: use another channel";
                Error::new(Code::NotAttached, text)
            })
        };
        let sites = [register(&STDOUT)?, register(&STDERR)?];
        let (direct, bytes) = (direct.clone(), Arc::new(AtomicU64::new(0)));
        Ok((guard, Taker { sites, patience: Patience::new(), direct, bytes, last: None }))
    }

    /// Bytes taken so far, also by the thread that will have this.
    pub fn bytes(&self) -> Arc<AtomicU64> {
        self.bytes.clone()
    }

    /// Before the first read, on the thread that reads.
    fn begin(&self) {
        writer::may_wait(true);
    }

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        if self.direct.load(Relaxed) {
            return pass_on(stream, bytes);
        }
        writer::capture(self.sites[stream as usize], bytes);
        // After a silence the drain sleeps for longer than somebody waits for a prompt.
        let silent = self.last.replace(Instant::now()).is_none_or(|t| t.elapsed() >= SILENT);
        if silent {
            writer::wake_drain();
        }
        self.bytes.fetch_add(bytes.len() as u64, Relaxed);
        self.patience.after();
    }
}

/// To where it would have gone without us. As `cat` would, this waits for whoever reads there.
fn pass_on(stream: Stream, bytes: &[u8]) {
    let out: &mut dyn Write = match stream {
        Stream::Out => &mut std::io::stdout(),
        Stream::Err => &mut std::io::stderr(),
    };
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Waiting for room pays while the drain moves on. When a read has waited in vain it does not, and the
/// command must not be slowed: then reads go straight to the spill for a while.
struct Patience {
    waits: bool,
    spilled: u64,
    since: Instant,
}

impl Patience {
    fn new() -> Patience {
        Patience { waits: true, spilled: writer::status().spilled, since: Instant::now() }
    }
    fn after(&mut self) {
        let spilled = writer::status().spilled;
        if self.waits && spilled != self.spilled {
            self.waits = false;
            self.since = Instant::now();
            writer::may_wait(false);
        } else if !self.waits && self.since.elapsed() > NO_WAIT {
            self.waits = true;
            writer::may_wait(true);
        }
        self.spilled = spilled;
    }
}

/// Reads and takes until all sources are closed on their other end, or until `stop` is (its writer is
/// dropped): then what is in them by now, and answers those that are not closed. `None` for `taker`: what is read goes straight on.
pub fn run(
    sources: Vec<Source>,
    stop: &PipeReader,
    mut taker: Option<Taker>,
    closed: impl FnMut(Stream),
) -> Result<Vec<Source>> {
    if let Some(t) = &taker {
        t.begin();
    }
    let take = move |stream, bytes: &[u8]| match &mut taker {
        Some(t) => t.take(stream, bytes),
        None => pass_on(stream, bytes),
    };
    capture(sources, stop, take, closed)
}

/// The same with any `take`.
fn capture(
    mut sources: Vec<Source>,
    stop: &PipeReader,
    mut take: impl FnMut(Stream, &[u8]),
    mut closed: impl FnMut(Stream),
) -> Result<Vec<Source>> {
    let failed = |e| Error::os("reading what the command prints", e);
    let mut buf = vec![0; READ];
    while !sources.is_empty() {
        let mut polled: Vec<Polled> = sources.iter().map(|s| Polled::reading(s.pipe.as_raw_fd())).collect();
        polled.extend(sources.iter().map(|s| Polled::reader_of(s.reader.unwrap_or(-1))));
        polled.push(Polled::reading(stop.as_raw_fd()));
        poll(&mut polled, None).map_err(|e| failed(e.into()))?;
        let n = sources.len();
        if polled[2 * n].readable {
            // What is in there by now, and not what comes meanwhile: others may print for ever.
            for source in &mut sources {
                let mut left = child::readable_bytes(source.pipe.as_raw_fd());
                while left > 0 {
                    let most = left.min(buf.len());
                    match source.pipe.read(&mut buf[..most]) {
                        Ok(0) => break,
                        Ok(len) => {
                            take(source.stream, &buf[..len]);
                            left -= len.min(left);
                        }
                        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(_) => break,
                    }
                }
            }
            // Those that have been closed meanwhile are at their end.
            sources.retain(|s| {
                let fd = s.pipe.as_raw_fd();
                let open = !child::is_hung_up(fd) || child::readable_bytes(fd) > 0;
                if !open {
                    closed(s.stream);
                }
                open
            });
            return Ok(sources);
        }
        let mut done = vec![false; n];
        for (i, source) in sources.iter_mut().enumerate() {
            if polled[n + i].broken {
                done[i] = true;
            } else if polled[i].readable {
                match source.pipe.read(&mut buf) {
                    Ok(0) => done[i] = true,
                    Ok(len) => take(source.stream, &buf[..len]),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    // A terminal that nobody has open any more.
                    Err(e) if e.raw_os_error() == Some(libc::EIO) => done[i] = true,
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        let mut i = 0;
        // Dropped here, a pipe is closed.
        sources.retain(|s| {
            i += 1;
            if done[i - 1] {
                closed(s.stream);
            }
            !done[i - 1]
        });
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Write, pipe};
    use std::os::fd::OwnedFd;

    fn source(stream: Stream, pipe: PipeReader) -> Source {
        Source { stream, pipe: OwnedFd::from(pipe).into(), reader: None }
    }

    #[test]
    fn both_pipes_are_read_to_their_end() {
        let ((r1, mut w1), (r2, mut w2), (stop, _hold)) = (pipe().unwrap(), pipe().unwrap(), pipe().unwrap());
        let writers = std::thread::spawn(move || {
            for i in 0..10_000 {
                writeln!(w1, "out {i}").unwrap();
                writeln!(w2, "err {i}").unwrap();
            }
            write!(w1, "no newline").unwrap();
        });
        let (mut out, mut err, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let sources = vec![source(Stream::Out, r1), source(Stream::Err, r2)];
        let take = |s, b: &[u8]| match s {
            Stream::Out => out.extend_from_slice(b),
            Stream::Err => err.extend_from_slice(b),
        };
        assert!(capture(sources, &stop, take, |s| ends.push(s)).unwrap().is_empty());
        writers.join().unwrap();
        let expected = |name: &str| (0..10_000).map(|i| format!("{name} {i}\n")).collect::<String>();
        assert!(out == (expected("out") + "no newline").into_bytes());
        assert!(err == expected("err").into_bytes());
        assert!(ends.contains(&Stream::Out) && ends.contains(&Stream::Err) && ends.len() == 2);
    }

    #[test]
    fn stopped_it_gives_back_what_is_open() {
        let ((r, mut w), (stop, hold)) = (pipe().unwrap(), pipe().unwrap());
        w.write_all(b"there\n").unwrap();
        drop(hold);
        let mut got = Vec::new();
        let take = |_, b: &[u8]| got.extend_from_slice(b);
        let left = capture(vec![source(Stream::Out, r)], &stop, take, |_| {}).unwrap();
        assert_eq!((left.len(), got.as_slice()), (1, &b"there\n"[..]));
        // Another reader finds what comes behind it, and the writer goes on.
        w.write_all(b"more\n").unwrap();
        drop(w);
        let mut rest = String::new();
        (&left[0].pipe).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "more\n");
    }

    #[test]
    fn when_our_reader_goes_the_command_finds_its_pipe_closed() {
        let ((r, mut w), (stop, _hold)) = (pipe().unwrap(), pipe().unwrap());
        let (our_reader, ours) = pipe().unwrap();
        drop(our_reader);
        let mut s = source(Stream::Out, r);
        s.reader = Some(ours.as_raw_fd());
        capture(vec![s], &stop, |_, _| {}, |_| {}).unwrap();
        assert!(w.write_all(b"y\n").is_err());
    }
}
