//! The drain of a `run`, in a process of its own.
//!
//! `run` starts it before the command and leaves it the reading ends of the command's pipes. It drains and
//! delivers; it reads the pipes only when `run` does not: when that was killed, or has exited while somebody
//! still holds them. `run` in its turn starts another one when this one is killed. So either may die at any
//! time, and neither the command nor what it prints is touched.
//!
//! The two talk over a socket, in lines:
//!
//! | from run | |
//! |---|---|
//! | `shut N` | stream N is at its end, or nobody reads it any more: close its pipe |
//! | `flush` | say `flushed` when all that is there by now is delivered |
//! | `reopen` | open output files anew |
//! | `cut` | wait for no sink any longer |
//! | `watch PID` | run stops because its command has: continue run when the command is not stopped any more |
//! | `on` | run goes on |
//! | `stop` | all is there: deliver it, say `done`, end |
//! | `take` | run ends; read what others still hold open, and end when they do |
//! | end of file | run was killed: read what it has read so far |
//!
//! | to run | |
//! |---|---|
//! | `ready POSITION` | it works; its sinks begin there if they never ran before |
//! | `failed TEXT` | it cannot (any more) |
//! | `flushed RECORDS LOST` | numbers since it began |
//! | `done RECORDS BYTES SPILLED LOST KEEP` | numbers since it began; whether the channel is to be kept |

use super::capture::{self, Source, Stream, Taker};
use super::engine::{Begin, Engine, Plan, Summary};
use super::{Exit, KeepArgs, counts, place, run};
use spillring::env::Settings;
use spillring::journal::Position;
use spillring::layout::ctl;
use spillring::sink::Outcome;
use spillring::sync::{AtomicBool, Ordering::*};
use spillring::sys::child;
use spillring::sys::process::Facts;
use spillring::{Error, Result};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeWriter, Write, pipe};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long it waits, before it reads the pipes, until everything is in the journal that run had read: what
/// comes later shall stand behind it.
const BEHIND: Duration = Duration::from_secs(10);
/// How often it looks whether run is to be continued. Twice, before it does: whoever continues both is not done at
/// once.
const WATCH: Duration = Duration::from_millis(20);
/// How often it looks for somebody who still logs.
const LOOK: Duration = Duration::from_millis(50);

enum Event {
    Said(String),
    RunGone,
    Signal(i32),
    /// What run had read is in the journal.
    Behind,
    Captured(Result<Vec<Source>>),
    /// Nobody logs to the channel any more.
    Quiet,
    /// What was there when run asked for a flush is in the journal.
    Journaled,
    Drained(Result<Summary>),
}

/// A position as run hands it on.
pub fn encode(at: &Position) -> String {
    at.to_bytes().iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

fn decode(hex: &str) -> Option<Position> {
    let digits = hex.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> =
        digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()).collect();
    Position::from_bytes(&bytes?)
}

/// Runs it. Not for people: `run` starts it.
pub fn run(args: &KeepArgs, settings: Settings) -> ExitCode {
    let fds = [Some(args.control), args.out, args.err];
    child::close_all_but(&fds.into_iter().flatten().collect::<Vec<_>>());
    child::leave_session(c"spillring");
    let Some(control) = child::adopt(args.control) else {
        say!("this command is started by `spillring run`, and by nobody else");
        return Exit::Usage.into();
    };
    let mut control = UnixStream::from(control);
    let pipes = [args.out, args.err].map(|fd| fd.and_then(child::adopt).map(File::from));
    match Keeper::start(args, settings, &control, pipes) {
        Ok((mut keeper, inbox)) => keeper.serve(&inbox).into(),
        Err(e) => {
            let _ = writeln!(control, "failed {}", e.to_string().replace('\n', " "));
            Exit::Failed.into()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// run reads the pipes.
    Serving,
    /// This process does, or will when it may.
    Reading,
    /// The drain was told to end.
    Ending,
}

struct Keeper<'a> {
    args: &'a KeepArgs,
    settings: Settings,
    engine: Engine,
    control: UnixStream,
    pipes: [Option<File>; 2],
    events: Sender<Event>,
    phase: Phase,
    run_gone: bool,
    /// run ended by itself: whoever holds a pipe is to find it open.
    handed_over: bool,
    /// Ends the reading when it is dropped.
    stop_reading: Option<PipeWriter>,
    direct: Arc<AtomicBool>,
    guard: Option<spillring::Guard>,
    /// The drain has failed.
    failed: bool,
    /// A flush waits until the sinks have delivered what is before this record.
    flush_to: Option<u64>,
    /// The command with which run is stopped, and how often in a row run alone was.
    watched: Option<(u32, u32)>,
}

impl<'a> Keeper<'a> {
    fn start(
        args: &'a KeepArgs,
        mut settings: Settings,
        control: &UnixStream,
        pipes: [Option<File>; 2],
    ) -> Result<(Keeper<'a>, Receiver<Event>)> {
        let signals = child::take_signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .map_err(|e| Error::os("blocking signals", e.into()))?
            .1;
        // As run has it: what this process logs itself goes to the same channel.
        settings.dir = args.channel_dir.parent().unwrap_or(Path::new("/")).to_path_buf();
        settings.channel = args.channel_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sinks = run::sinks(&settings, args.output.as_deref(), args.format, args.no_capture);
        // Paths are absolute by now, and no file system is to be kept busy.
        let _ = std::env::set_current_dir("/");
        let begin = match args.again.as_deref().map(decode) {
            None => Begin::Now,
            Some(Some(at)) => Begin::Again(at),
            Some(None) => Begin::WhereTheyStopped,
        };
        let (events, inbox) = channel();
        let drained = events.clone();
        let (channel_dir, patience) = (args.channel_dir.clone(), settings.flush_timeout);
        let plan = Plan { channel_dir, sinks, begin, patience, readers_may_pause: true };
        let engine = Engine::start(&settings, plan, move |done| {
            let _ = drained.send(Event::Drained(done));
        })?;
        let failed = |e| Error::os("starting a thread", e);
        let clone = |c: &UnixStream| c.try_clone().map_err(failed);
        let (lines, heard) = (BufReader::new(clone(control)?), events.clone());
        let listen = move || {
            for line in lines.lines().map_while(std::io::Result::ok) {
                if heard.send(Event::Said(line)).is_err() {
                    return;
                }
            }
            let _ = heard.send(Event::RunGone);
        };
        std::thread::Builder::new().name("control".into()).spawn(listen).map_err(failed)?;
        let signalled = events.clone();
        let watch = move || {
            loop {
                while child::reap().is_some() {}
                if let Some(s) = child::wait(&signals, Duration::from_secs(3600))
                    && s.signal != libc::SIGCHLD
                    && signalled.send(Event::Signal(s.signal)).is_err()
                {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(failed)?;
        let keeper = Keeper {
            args,
            settings,
            engine,
            control: clone(control)?,
            pipes,
            events,
            phase: Phase::Serving,
            run_gone: false,
            handed_over: false,
            stop_reading: None,
            direct: Arc::new(AtomicBool::new(false)),
            guard: None,
            failed: false,
            flush_to: None,
            watched: None,
        };
        let at = encode(keeper.engine.begun());
        keeper.tell(&format!("ready {at}"));
        Ok((keeper, inbox))
    }

    /// To run, if it is there.
    fn tell(&self, line: &str) -> bool {
        (&self.control).write_all(format!("{line}\n").as_bytes()).is_ok()
    }

    fn serve(&mut self, inbox: &Receiver<Event>) -> Exit {
        loop {
            let Some(event) = self.next(inbox) else { return Exit::Failed };
            match event {
                Event::Said(line) => self.hear(&line),
                Event::RunGone => {
                    self.run_gone = true;
                    self.watched = None;
                    if self.phase == Phase::Serving {
                        self.take_over();
                    }
                }
                Event::Signal(libc::SIGHUP) => self.engine.reopen(),
                // While run is there it says when it is the end.
                Event::Signal(_) if self.run_gone || self.handed_over => {
                    self.stop_reading.take();
                    self.engine.cut_off();
                    self.end();
                }
                Event::Signal(_) => {}
                Event::Behind => self.read(),
                Event::Captured(done) => {
                    if let Err(e) = done {
                        say!("{e}");
                    }
                    self.when_quiet();
                }
                Event::Quiet => self.end(),
                Event::Journaled => self.flush_to = Some(self.engine.journaled()),
                Event::Drained(Err(e)) if self.phase == Phase::Reading => {
                    // Who prints is not to be stopped by it.
                    say!("{e}: from here on the output is not kept");
                    self.direct.store(true, Relaxed);
                    self.failed = true;
                }
                Event::Drained(Err(e)) => {
                    self.tell(&format!("failed {}", e.to_string().replace('\n', " ")));
                    return Exit::Failed;
                }
                Event::Drained(Ok(summary)) => return self.finish(&summary),
            }
            if self.failed && self.phase == Phase::Ending {
                run::remove_or_name(&self.settings, true, &[]);
                return Exit::Failed;
            }
        }
    }

    /// The next event; looks meanwhile whether a flush is done, and after a run that is stopped.
    fn next(&mut self, inbox: &Receiver<Event>) -> Option<Event> {
        loop {
            let often = match (self.flush_to, self.watched) {
                (Some(_), _) => Duration::from_millis(2),
                (None, Some(_)) => WATCH,
                (None, None) => return inbox.recv().ok(),
            };
            match inbox.recv_timeout(often) {
                Ok(event) => return Some(event),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(end) = self.flush_to
                && self.engine.delivered(end)
            {
                self.flush_to = None;
                let records = end.saturating_sub(self.engine.begun().next_record);
                self.tell(&format!("flushed {records} {}", self.lost()));
            }
            if let Some((command, alone)) = &mut self.watched {
                let run = self.args.run;
                *alone = if child::is_stopped(run) && !child::is_stopped(*command) { *alone + 1 } else { 0 };
                if *alone >= 2 {
                    *alone = 0;
                    let _ = child::kill(run, libc::SIGCONT);
                }
            }
        }
    }

    fn hear(&mut self, line: &str) {
        match line {
            "shut 0" => drop(self.pipes[0].take()),
            "shut 1" => drop(self.pipes[1].take()),
            "flush" => self.when_delivered(),
            "reopen" => self.engine.reopen(),
            "cut" => self.engine.cut_off(),
            "on" => self.watched = None,
            "stop" => self.end(),
            "take" => {
                self.handed_over = true;
                if self.args.output.as_deref().is_some_and(|f| f.as_os_str() != "-") {
                    // Nothing of ours goes there: who waits for the end of these is not to wait for us.
                    child::silence(1);
                    child::silence(2);
                }
                self.take_over();
            }
            _ => {
                if let Some(pid) = line.strip_prefix("watch ").and_then(|n| n.parse().ok()) {
                    self.watched = Some((pid, 0));
                }
            }
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Ending;
        self.engine.stop();
    }

    fn lost(&self) -> u64 {
        place::open(&self.args.channel_dir).map_or(0, |c| c.ctl().word(ctl::LOST).load(Acquire))
    }

    /// In a thread: what is there by now, from shared memory to the sinks.
    fn when_delivered(&self) {
        let (dir, events) = (self.args.channel_dir.clone(), self.events.clone());
        let done = move || {
            // A program that goes on logging would keep this here for ever.
            let _ = wait_journaled(&dir, None, Duration::from_secs(2));
            // The pass that released them tells its totals after that.
            let (passes, begun) = (passes(&dir), Instant::now());
            while self::passes(&dir) == passes && begun.elapsed() < Duration::from_secs(1) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = events.send(Event::Journaled);
        };
        self.in_thread(done);
    }

    fn in_thread(&self, body: impl FnOnce() + Send + 'static) {
        if let Err(e) = std::thread::Builder::new().name("wait".into()).spawn(body) {
            say!("starting a thread: {e}");
        }
    }

    /// run does not read any more: this process does, once everything is in the journal that run had read.
    fn take_over(&mut self) {
        self.phase = Phase::Reading;
        let (dir, pid, events) = (self.args.channel_dir.clone(), self.args.run, self.events.clone());
        self.in_thread(move || {
            if !wait_journaled(&dir, Some(pid), BEHIND) {
                say!("what run had read is still on its way; what is read from here on may stand before it");
            }
            let _ = events.send(Event::Behind);
        });
    }

    fn read(&mut self) {
        let mut sources = Vec::new();
        for stream in Stream::BOTH {
            if let Some(pipe) = self.pipes[stream as usize].take() {
                let ours = run::reader(self.args.output.as_deref(), self.args.format, stream);
                let reader = if self.handed_over { None } else { ours };
                sources.push(Source { stream, pipe, reader });
            }
        }
        if sources.is_empty() {
            return self.when_quiet();
        }
        let taker = match Taker::new(&self.settings, &self.direct) {
            Ok((guard, taker)) => {
                self.guard = Some(guard);
                Some(taker)
            }
            Err(e) => {
                say!("{e}: from here on the output is not kept");
                None
            }
        };
        let events = self.events.clone();
        let (stop, hold) = match pipe() {
            Ok(p) => p,
            Err(e) => return say!("making a pipe: {e}"),
        };
        self.stop_reading = Some(hold);
        self.in_thread(move || {
            let done = capture::run(sources, &stop, taker, |_| {});
            let _ = events.send(Event::Captured(done));
        });
    }

    /// The end, when nobody but this process can log to the channel any more.
    fn when_quiet(&self) {
        let (dir, events, me) = (self.args.channel_dir.clone(), self.events.clone(), std::process::id());
        self.in_thread(move || {
            while alive(&dir, me) {
                std::thread::sleep(LOOK);
            }
            let _ = events.send(Event::Quiet);
        });
    }

    fn finish(&mut self, summary: &Summary) -> Exit {
        let t = &summary.totals;
        // Also what a drain before this one has delivered.
        let records = self.engine.journaled().saturating_sub(self.engine.begun().next_record);
        let mut keep = t.lost > 0;
        for o in &summary.outcomes {
            match o {
                Outcome::Delivered => {}
                // A reader that goes away has what it wants. Who prints after that was not told.
                Outcome::Broken(_) => keep |= self.handed_over,
                // Cut off before there was anything: its command could not be started.
                Outcome::Lagging(p) if records == 0 && p.lag.records == 0 => {}
                Outcome::Lagging(p) | Outcome::Failed(p) => {
                    say!("{}", p.line(&self.settings.channel));
                    keep = true;
                }
            }
        }
        let done = format!("done {records} {} {} {} {}", t.bytes, t.spilled, t.lost, u8::from(keep));
        let heard = self.tell(&done);
        if (self.run_gone || self.handed_over || !heard) && self.args.unnamed {
            run::remove_or_name(&self.settings, keep, &[std::process::id(), self.args.run]);
        }
        std::mem::forget(self.guard.take());
        Exit::Done
    }
}

/// Waits until everything that process `pid` (`None`: anybody) has logged by now is in the journal. False: it
/// took too long.
fn wait_journaled(dir: &Path, pid: Option<u32>, patience: Duration) -> bool {
    let (begun, me) = (Instant::now(), Facts::read());
    let pending = || -> Result<bool> {
        let channel = place::open(dir)?;
        for stem in channel.producers()?.into_iter().filter(|s| pid.is_none_or(|p| s.pid == p)) {
            // One that is gone has been delivered; one that nobody can read never will be.
            if channel.open_ring(stem).is_ok_and(|view| counts::read(view, &me).pending() > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    while let Ok(true) = pending() {
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Passes that the drain of a channel has made.
fn passes(dir: &Path) -> u64 {
    place::open(dir).map_or(0, |c| c.ctl().word(ctl::PASSES).load(Acquire))
}

/// Whether a process other than `me` may still log to the channel.
pub fn alive(dir: &Path, me: u32) -> bool {
    let facts = Facts::read();
    let Ok(channel) = place::open(dir) else { return false };
    let stems = channel.producers().unwrap_or_default();
    stems.into_iter().filter(|s| s.pid != me).any(|s| {
        // What can't be read is nobody's that this drain serves.
        channel.open_ring(s).is_ok_and(|view| counts::read(view, &facts).alive())
    })
}
