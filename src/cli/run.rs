//! `spillring run`: a command, and everything it prints, kept.
//!
//! Threads: this one waits (for the command, for signals, for the others); one takes signals; one reads
//! the command's pipes and logs each line; the drain and its sinks are as they are for everybody. What is
//! pending is in shared memory and in the journal, never in a queue of ours.

use super::capture::{self, Source, Stream};
use super::{Exit, Format, RunArgs, engine, rm};
use spillring::env::{Overflow, Settings};
use spillring::sink::{Outcome, Output, SinkSpec};
use spillring::site::{Level, Site};
use spillring::sync::{AtomicBool, Ordering::*};
use spillring::sys::child::{self, Arrived, Inherited, Signals};
use spillring::writer::{self, CaptureSite};
use spillring::{Code, Error, Result};
use std::ffi::OsString;
use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

static STDOUT: Site = Site::new(Level::Info, "stdout", file!(), line!(), "");
static STDERR: Site = Site::new(Level::Info, "stderr", file!(), line!(), "");

/// What is passed on to the command when it is sent to run.
const PASSED_ON: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
];
/// Of those, what ends run's own waiting after the command has ended.
const ENDING: &[i32] = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// How long a captured line waits for room in the lane before it goes to the spill.
const WAIT: Duration = Duration::from_millis(100);
/// How long lines go to the spill without waiting, once one has waited in vain.
const NO_WAIT: Duration = Duration::from_secs(1);

enum Event {
    Signal(Arrived),
    Ended(ExitStatus),
    Captured(Result<()>),
    Drained(Result<engine::Summary>),
}

/// Runs it.
pub fn run(args: &RunArgs, mut settings: Settings) -> ExitCode {
    let (inherited, signals) = match child::take_signals(PASSED_ON) {
        Ok(taken) => taken,
        Err(e) => {
            say!("blocking signals: {e}");
            return Exit::RunFailed.into();
        }
    };
    let unnamed = args.channel.is_none();
    settings.channel = args.channel.clone().unwrap_or_else(|| {
        format!("run-{}-{:08x}", std::process::id(), spillring::sys::process::nonce() as u32)
    });
    let (events, inbox) = channel();
    let ready = Ready::new(args, &settings, &events);
    match ready {
        Ok(ready) => supervise(args, &settings, ready, (inherited, signals), (events, inbox), unnamed),
        Err(e) => {
            if unnamed {
                // What was made of it before it failed.
                let _ = rm::remove(&settings.channel_dir(), &settings, false);
            }
            fall_back(args, &inherited, &e)
        }
    }
}

/// Without a channel: the command on the streams as they are, in place of this process.
fn fall_back(args: &RunArgs, inherited: &Inherited, why: &Error) -> ExitCode {
    let name = args.command[0].to_string_lossy();
    if args.strict {
        say!("{why}: {name} is not started (--strict)");
        return Exit::RunFailed.into();
    }
    say!("{why}: {name} runs without spillring");
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    child::inherit(&mut command, inherited);
    not_started(&args.command[0], &command.exec()).into()
}

/// The exit status for a command that could not be executed, with a line that says so.
fn not_started(name: &OsString, e: &std::io::Error) -> Exit {
    let name = name.to_string_lossy();
    if e.kind() == std::io::ErrorKind::NotFound {
        say!("{name}: command not found");
        Exit::NotFound
    } else {
        say!("{name} can't be executed: {e}");
        Exit::NotExecutable
    }
}

/// Everything that can fail before the command starts.
struct Ready {
    engine: engine::Engine,
    guard: spillring::Guard,
    sites: Option<[CaptureSite; 2]>,
}

impl Ready {
    fn new(args: &RunArgs, settings: &Settings, events: &Sender<Event>) -> Result<Ready> {
        let events = events.clone();
        let sinks = match &args.output {
            Some(file) => {
                vec![engine::to_file(file, args.format.map_or(settings.format, Into::into))]
            }
            None if args.no_capture => Vec::new(),
            None => match args.format {
                Some(format @ (Format::Text | Format::Json)) => {
                    vec![SinkSpec::new("stdout", Output::Stdout, format.into())]
                }
                Some(Format::Raw) | None => SinkSpec::inherited(),
            },
        };
        let plan =
            engine::Plan { channel_dir: settings.channel_dir(), sinks, from_now_on: true, patience: None };
        let engine = engine::Engine::start(settings, plan, move |done| {
            let _ = events.send(Event::Drained(done));
        })?;
        // Our own lines wait for the drain a little rather than spill: they would only be copied twice.
        let overflow = match settings.overflow {
            Overflow::Spill => Overflow::Block(WAIT),
            other => other,
        };
        let guard = writer::init_with(&Settings { overflow, ..settings.clone() })?;
        let sites = if args.no_capture {
            None
        } else {
            let register = |site| {
                writer::capture_site(site).ok_or_else(|| {
                    let text = "registering what is captured: no room in the ring: use another channel";
                    Error::new(Code::NotAttached, text)
                })
            };
            Some([register(&STDOUT)?, register(&STDERR)?])
        };
        Ok(Ready { engine, guard, sites })
    }
}

/// Starts the command and stays until everything it printed is delivered.
fn supervise(
    args: &RunArgs,
    settings: &Settings,
    ready: Ready,
    (inherited, signals): (Inherited, Signals),
    (events, inbox): (Sender<Event>, Receiver<Event>),
    unnamed: bool,
) -> ExitCode {
    let Ready { engine, guard, sites } = ready;
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    command.env(spillring::env::name::DIR, &settings.dir);
    command.env(spillring::env::name::CHANNEL, &settings.channel);
    child::inherit(&mut command, &inherited);

    let pipes = match sites.map(|sites| Pipes::new(&mut command, args, sites)).transpose() {
        Ok(p) => p,
        Err(e) => {
            engine.stop();
            return fall_back(args, &inherited, &Error::os("making pipes", e));
        }
    };
    let child = match command.spawn() {
        Ok(c) => c,
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
            ) =>
        {
            engine.stop();
            return fall_back(args, &inherited, &Error::os("starting a process", e));
        }
        Err(e) => {
            let exit = not_started(&args.command[0], &e);
            engine.stop();
            let _ = inbox.recv();
            if unnamed {
                let _ = rm::remove(&settings.channel_dir(), settings, false);
            }
            return exit.into();
        }
    };
    // Our ends of the command's pipes.
    drop(command);
    let (pid, begun) = (child.id(), Instant::now());
    watch_signals(signals, pid, events.clone());

    let direct = Arc::new(AtomicBool::new(false));
    let mut stop_capture = None;
    match pipes {
        Some(pipes) => {
            let (stop, hold) = match pipe() {
                Ok((r, w)) => (Some(r), Some(w)),
                Err(_) => (None, None),
            };
            stop_capture = hold;
            pipes.read(stop, settings, &events, &direct);
        }
        None => {
            let _ = events.send(Event::Captured(Ok(())));
        }
    }

    let mut s =
        Supervisor { pid, status: None, captured: false, drained: None, cut_off: None, engine, direct };
    s.run(&inbox, &mut stop_capture);
    let code = s.finish(settings, begun, unnamed);
    // Everything is delivered, or was said not to be: nothing is left to flush.
    std::mem::forget(guard);
    code
}

/// The command's stdout and stderr, as far as they are captured.
struct Pipes {
    sources: Vec<Source>,
    sites: [CaptureSite; 2],
}

impl Pipes {
    fn new(command: &mut Command, args: &RunArgs, sites: [CaptureSite; 2]) -> std::io::Result<Pipes> {
        let ((out, out_end), (err, err_end)) = (pipe()?, pipe()?);
        command.stdout(out_end).stderr(err_end);
        // What goes to our own streams ends when their reader goes away; a file has no reader.
        let ours = args.output.is_none();
        Ok(Pipes {
            sources: vec![
                Source { stream: Stream::Out, pipe: out, reader: ours.then_some(1) },
                Source { stream: Stream::Err, pipe: err, reader: ours.then_some(2) },
            ],
            sites,
        })
    }

    /// Starts the thread that reads them.
    fn read(
        self,
        stop: Option<PipeReader>,
        settings: &Settings,
        events: &Sender<Event>,
        direct: &Arc<AtomicBool>,
    ) {
        // A record larger than a quarter of its lane would not go through the lane at all.
        let most = usize::try_from(settings.lane_bytes / 4).unwrap_or(usize::MAX).saturating_sub(64);
        let most = most.clamp(512, capture::READ);
        let (events, direct) = (events.clone(), direct.clone());
        let thread = std::thread::Builder::new().name("capture".into());
        let sites = self.sites;
        let sources = self.sources;
        let body = move || {
            let mut patience = Patience::new();
            let take = |stream, line: &[u8]| {
                let (site, out): (_, &mut dyn Write) = match stream {
                    Stream::Out => (sites[0], &mut std::io::stdout()),
                    Stream::Err => (sites[1], &mut std::io::stderr()),
                };
                if direct.load(Relaxed) {
                    // The drain has failed: the lines go where they would have gone.
                    let _ = out.write_all(line).and_then(|()| out.flush());
                } else {
                    writer::capture(site, line);
                    patience.after();
                }
            };
            let done = match stop.map_or_else(|| pipe().map(|(r, _)| r), Ok) {
                Ok(stop) => capture::capture(sources, &stop, most, take),
                Err(e) => Err(Error::os("making a pipe", e)),
            };
            let _ = events.send(Event::Captured(done));
        };
        // Without a thread nothing can be captured; the closed pipes tell the command.
        if let Err(e) = thread.spawn(body) {
            say!("starting a thread: {e}");
        }
    }
}

/// Waiting for room pays while the drain moves on. When a line has waited in vain it does not, and the
/// command must not be slowed: then lines go straight to the spill for a while.
struct Patience {
    waits: bool,
    spilled: u64,
    since: Instant,
}

impl Patience {
    fn new() -> Patience {
        writer::may_wait(true);
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

/// Takes signals as they come, for the life of this process.
fn watch_signals(signals: Signals, pid: u32, events: Sender<Event>) {
    let body = move || {
        loop {
            // The command may have ended before this thread began: look first.
            while let Some((who, status)) = child::reap() {
                if who == pid && events.send(Event::Ended(status)).is_err() {
                    return;
                }
            }
            if let Some(s) = child::wait(&signals, Duration::from_secs(3600))
                && s.signal != libc::SIGCHLD
                && events.send(Event::Signal(s)).is_err()
            {
                return;
            }
        }
    };
    if let Err(e) = std::thread::Builder::new().name("signals".into()).spawn(body) {
        say!("starting a thread: {e}");
    }
}

struct Supervisor {
    pid: u32,
    status: Option<ExitStatus>,
    captured: bool,
    drained: Option<Result<engine::Summary>>,
    /// The signal that ended our waiting for readers.
    cut_off: Option<i32>,
    engine: engine::Engine,
    direct: Arc<AtomicBool>,
}

impl Supervisor {
    fn run(&mut self, inbox: &Receiver<Event>, stop_capture: &mut Option<PipeWriter>) {
        while self.drained.is_none() || self.status.is_none() || !self.captured {
            let Ok(event) = inbox.recv() else { return };
            match event {
                Event::Signal(s) if self.status.is_none() => self.pass_on(s),
                Event::Signal(s) if ENDING.contains(&s.signal) => {
                    // Somebody is impatient: what is in the pipes is taken, what is journaled stays.
                    stop_capture.take();
                    self.engine.cut_off();
                    self.cut_off = Some(s.signal);
                }
                Event::Signal(_) => {}
                Event::Ended(status) => self.status = Some(status),
                Event::Captured(done) => {
                    if let Err(e) = done {
                        say!("{e}");
                    }
                    self.captured = true;
                }
                Event::Drained(done) => {
                    if let Err(e) = &done {
                        self.direct.store(true, Relaxed);
                        say!("{e}: from here on the output is not kept");
                    }
                    self.drained = Some(done);
                }
            }
            if self.status.is_some() && self.captured {
                self.engine.stop();
            }
        }
    }

    /// What a terminal sends has reached the command too, and what the command sends to its whole group it
    /// knows of.
    fn pass_on(&self, s: Arrived) {
        if s.sender.is_some_and(|from| from != self.pid) {
            let _ = child::kill(self.pid, s.signal);
        }
    }

    fn finish(&self, settings: &Settings, begun: Instant, unnamed: bool) -> ExitCode {
        let name = &settings.channel;
        let mut keep = self.status.and_then(|s| s.signal()).is_some_and(|n| n != libc::SIGPIPE);
        match &self.drained {
            Some(Ok(summary)) => {
                for o in &summary.outcomes {
                    match o {
                        // A reader that goes away has what it wants; the command was told.
                        Outcome::Delivered | Outcome::Broken(_) => {}
                        Outcome::Lagging(p) | Outcome::Failed(p) => {
                            say!("{}", p.line(name));
                            keep = true;
                        }
                    }
                }
                let t = &summary.totals;
                if t.lost > 0 {
                    let elapsed = begun.elapsed().as_secs_f64();
                    say!(
                        "{} records, {} bytes, {} spilled, {} LOST in {elapsed:.1} s; channel {name}",
                        t.records,
                        t.bytes,
                        t.spilled,
                        t.lost
                    );
                    keep = true;
                }
            }
            Some(Err(_)) | None => keep = true,
        }
        if unnamed {
            self.remove_or_name(settings, keep);
        }
        let status = self.status.unwrap_or_default();
        match (self.cut_off, status.signal()) {
            (Some(n), _) | (None, Some(n)) => ExitCode::from(128u8.wrapping_add(n as u8)),
            (None, None) => ExitCode::from(status.code().unwrap_or(0) as u8),
        }
    }

    /// A channel that was made for this run goes with it, unless somebody may still want it.
    fn remove_or_name(&self, settings: &Settings, keep: bool) {
        let (dir, name) = (settings.channel_dir(), &settings.channel);
        let used = || {
            let channel = super::place::open(&dir)?;
            rm::used_by(&channel, Some(std::process::id()))
        };
        if !keep && matches!(used(), Ok(None)) {
            match rm::remove(&dir, settings, false) {
                Ok(()) => return,
                Err(e) => say!("{e}"),
            }
        }
        say!("the channel is kept: spillring cat {name}");
    }
}
