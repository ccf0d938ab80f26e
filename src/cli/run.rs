//! `spillring run`: a command, and everything it prints, kept.
//!
//! This process is the command's parent. It waits for the command and for signals, and one thread reads what
//! the command prints and logs it, a record a read. Drain and sinks are in a process of their own
//! ([`keep`](super::keep)), which has the reading ends of the pipes too: if this process is killed, that one
//! reads on; if that one is killed, this one starts another. What is pending is in shared memory and in the
//! journal, never in a queue of ours.

use super::capture::{self, Source, Stream, Taker};
use super::holders::holders;
use super::{Exit, Format, RunArgs, engine, keep, rm};
use spillring::env::Settings;
use spillring::sink::{Output, SinkSpec};
use spillring::sync::{AtomicBool, AtomicU64, Ordering::*};
use spillring::sys::child::{self, Arrived, Became, Inherited, Signals};
use spillring::sys::pty::{self, Size};
use spillring::{Error, Result, writer};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, PipeWriter, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Signals that are this process's own: what the kernel tells it about itself, and what can't be caught.
const OWN: &[i32] = &[
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCHLD,
    libc::SIGPIPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
    // The C library's.
    32,
    33,
];
/// Of the others, what ends run's own waiting after the command has ended.
const ENDING: &[i32] = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// How long the drain may take to start: a directory on a dead disk must not keep the command from running.
const START: Duration = Duration::from_secs(10);
/// So many drains that die within [`START`] are enough.
const MOST_DRAINS: usize = 5;

enum Event {
    Signal(Arrived),
    /// What became of the command, and how many SIGCONTs had come to us by then.
    Command(Became, u64),
    Closed(Stream),
    Captured(Result<Vec<Source>>),
    /// A line of drain number n.
    Said(u64, String),
    /// Drain number n is gone.
    Gone(u64),
}

/// Where the journal of a run goes besides.
pub fn sinks(
    settings: &Settings,
    output: Option<&Path>,
    format: Option<Format>,
    no_capture: bool,
) -> Vec<SinkSpec> {
    match (output, format) {
        (Some(file), _) => vec![engine::to_file(file, format.map_or(settings.format, Into::into))],
        _ if no_capture => Vec::new(),
        (None, None | Some(Format::Raw)) => SinkSpec::inherited(),
        (None, Some(format)) => vec![SinkSpec::new("stdout", Output::Stdout, format.into())],
    }
}

/// Our own descriptor whose reader may go away, and with it the command's.
pub fn reader(output: Option<&Path>, format: Option<Format>, stream: Stream) -> Option<RawFd> {
    match (output, format, stream) {
        (Some(file), ..) if file.as_os_str() != "-" => None,
        (None, None | Some(Format::Raw), Stream::Err) => Some(2),
        _ => Some(1),
    }
}

/// Runs it.
pub fn run(args: &RunArgs, mut settings: Settings) -> ExitCode {
    let wanted: Vec<i32> = (1..=child::last_signal()).filter(|s| !OWN.contains(s)).collect();
    let (inherited, signals) = match child::take_signals(&wanted) {
        Ok(taken) => taken,
        Err(e) => {
            say!("blocking signals: {e}");
            return Exit::RunFailed.into();
        }
    };
    settings.channel = args.channel.clone().unwrap_or_else(|| {
        format!("run-{}-{:08x}", std::process::id(), spillring::sys::process::nonce() as u32)
    });
    let (events, inbox) = channel();
    let ready = Ready::new(args, &settings, &inherited, &events, &inbox);
    match ready {
        Ok(ready) => supervise(args, &settings, ready, (inherited, signals), (events, inbox)),
        Err(e) => {
            if args.channel.is_none() {
                // What was made of it before it failed.
                let _ = rm::remove(&settings.channel_dir(), &settings, false);
            }
            fall_back(args, &inherited, &e)
        }
    }
}

/// Standard descriptors that were closed when this program started: the command is to find them so.
fn closed_ones() -> Vec<i32> {
    (0..3).filter(|&fd| child::closed_at_start(fd)).collect()
}

/// Without a channel: the command on the streams as they are, in place of this process.
fn fall_back(args: &RunArgs, inherited: &Inherited, why: &str) -> ExitCode {
    let name = args.command[0].to_string_lossy();
    if args.strict {
        say!("{why}: {name} is not started (--strict)");
        return Exit::RunFailed.into();
    }
    say!("{why}: {name} runs without spillring");
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    child::inherit(&mut command, inherited);
    child::hand_over(&mut command, Vec::new(), closed_ones());
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

/// The command's stdout and stderr, as far as they are captured.
#[derive(Default)]
struct Pipes {
    /// What is read.
    ours: [Option<File>; 2],
    /// What the command gets.
    theirs: [Option<OwnedFd>; 2],
}

impl Pipes {
    fn new(args: &RunArgs) -> Result<Pipes> {
        let mut pipes = Pipes::default();
        for stream in Stream::BOTH {
            let i = stream as usize;
            // Nobody would get it: the command is to find it as it is.
            let closed =
                reader(args.output.as_deref(), args.format, stream).is_some_and(child::closed_at_start);
            if args.no_capture || closed {
                continue;
            }
            let (ours, theirs) = if args.pty {
                let size = terminal_size().unwrap_or(Size::USUAL);
                pty::open(size).map_err(|e| Error::os("making a terminal", e.into()))?
            } else {
                let (r, w) = pipe().map_err(|e| Error::os("making a pipe", e))?;
                (r.into(), w.into())
            };
            (pipes.ours[i], pipes.theirs[i]) = (Some(ours.into()), Some(theirs));
        }
        Ok(pipes)
    }

    /// A second descriptor of each.
    fn holds(&self) -> Result<[Option<File>; 2]> {
        let clone = |f: &Option<File>| f.as_ref().map(File::try_clone).transpose();
        let failed = |e| Error::os("making a second descriptor of a pipe", e);
        Ok([clone(&self.ours[0]).map_err(failed)?, clone(&self.ours[1]).map_err(failed)?])
    }
}

/// The size of the terminal that we run in.
fn terminal_size() -> Option<Size> {
    [1, 2, 0].into_iter().find_map(Size::of)
}

/// How a drain is started.
struct Launch {
    args: Vec<OsString>,
    inherited: Inherited,
    /// No sink of ours writes to stdout.
    no_stdout: bool,
}

impl Launch {
    fn new(args: &RunArgs, settings: &Settings, inherited: &Inherited) -> Launch {
        let mut all: Vec<OsString> = vec!["keep-run".into()];
        let mut push = |name: &str, value: OsString| all.extend([name.into(), value]);
        push("--channel-dir", settings.channel_dir().into());
        push("--run", std::process::id().to_string().into());
        if let Some(file) = &args.output {
            let file = if file.as_os_str() == "-" { file.clone() } else { super::absolute(file) };
            push("--output", file.into());
        }
        if let Some(format) = args.format {
            push("--format", format.name().into());
        }
        if args.no_capture {
            all.push("--no-capture".into());
        }
        if args.channel.is_none() {
            all.push("--unnamed".into());
        }
        let to_stdout = args.output.as_deref().is_none_or(|f| f.as_os_str() == "-") && !args.no_capture;
        Launch { args: all, inherited: *inherited, no_stdout: !to_stdout }
    }

    /// Starts one, which gets the pipes; what it says comes as events, under its number.
    fn start(
        &self,
        n: u64,
        again: Option<&str>,
        pipes: &[Option<File>; 2],
        events: &Sender<Event>,
    ) -> Result<Drain> {
        let failed = |e: std::io::Error| match e.raw_os_error() {
            Some(libc::ENOENT) => Error::os("starting the drain from /proc/self/exe (is /proc mounted?)", e),
            _ => Error::os("starting the drain", e),
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        // The very program that runs, also when its file was replaced meanwhile.
        let mut c = Command::new("/proc/self/exe");
        c.arg0("spillring").args(&self.args).stdin(Stdio::null());
        if self.no_stdout {
            c.stdout(Stdio::null());
        }
        c.arg("--control").arg(theirs.as_raw_fd().to_string());
        let mut fds = vec![theirs.as_raw_fd()];
        for (name, pipe) in ["--out", "--err"].into_iter().zip(pipes) {
            if let Some(p) = pipe {
                c.arg(name).arg(p.as_raw_fd().to_string());
                fds.push(p.as_raw_fd());
            }
        }
        if let Some(at) = again {
            c.arg("--again").arg(at);
        }
        child::inherit(&mut c, &self.inherited);
        child::hand_over(&mut c, fds, Vec::new());
        let child = c.spawn().map_err(failed)?;
        let (lines, events) = (BufReader::new(ours.try_clone().map_err(failed)?), events.clone());
        let listen = move || {
            for line in lines.lines().map_while(std::io::Result::ok) {
                if events.send(Event::Said(n, line)).is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Gone(n));
        };
        std::thread::Builder::new().name("drain".into()).spawn(listen).map_err(failed)?;
        Ok(Drain { n, pid: child.id(), to: ours })
    }
}

/// A drain in a process of its own.
struct Drain {
    n: u64,
    pid: u32,
    to: UnixStream,
}

impl Drain {
    /// If it is gone, that is told by its end of file.
    fn tell(&self, line: &str) {
        let _ = (&self.to).write_all(format!("{line}\n").as_bytes());
    }
}

/// Everything that can fail before the command starts.
struct Ready {
    pipes: Pipes,
    holds: [Option<File>; 2],
    launch: Launch,
    drain: Drain,
    /// Where its sinks began.
    begun: String,
    taker: Option<(spillring::Guard, Taker)>,
    direct: Arc<AtomicBool>,
}

impl Ready {
    fn new(
        args: &RunArgs,
        settings: &Settings,
        inherited: &Inherited,
        events: &Sender<Event>,
        inbox: &Receiver<Event>,
    ) -> std::result::Result<Ready, String> {
        let text = |e: Error| e.to_string();
        let pipes = Pipes::new(args).map_err(text)?;
        let holds = pipes.holds().map_err(text)?;
        let launch = Launch::new(args, settings, inherited);
        let drain = launch.start(0, None, &holds, events).map_err(text)?;
        let late = || format!("the drain did not start within {} s", START.as_secs());
        let begun = match inbox.recv_timeout(START) {
            Ok(Event::Said(_, line)) => match (line.strip_prefix("ready "), line.strip_prefix("failed ")) {
                (Some(at), _) => Ok(at.to_string()),
                (_, Some(why)) => Err(why.to_string()),
                _ => Err(format!("the drain said {line:?}")),
            },
            Ok(_) => Err("the drain died before it began".to_string()),
            Err(_) => Err(late()),
        };
        let give_up = || {
            let _ = child::kill(drain.pid, libc::SIGKILL);
        };
        let begun = begun.inspect_err(|_| give_up())?;
        let direct = Arc::new(AtomicBool::new(false));
        let taker = if args.no_capture {
            None
        } else {
            Some(Taker::new(settings, &direct).map_err(text).inspect_err(|_| give_up())?)
        };
        Ok(Ready { pipes, holds, launch, drain, begun, taker, direct })
    }
}

/// Starts the command and stays until everything it printed is delivered.
fn supervise(
    args: &RunArgs,
    settings: &Settings,
    ready: Ready,
    (inherited, signals): (Inherited, Signals),
    (events, inbox): (Sender<Event>, Receiver<Event>),
) -> ExitCode {
    let Ready { pipes, holds, launch, drain, begun, taker, direct } = ready;
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    command.env(spillring::env::name::DIR, &settings.dir);
    command.env(spillring::env::name::CHANNEL, &settings.channel);
    child::inherit(&mut command, &inherited);
    let [out, err] = pipes.theirs;
    let kept = [false, out.is_some(), err.is_some()];
    child::hand_over(
        &mut command,
        Vec::new(),
        closed_ones().into_iter().filter(|&fd| !kept[fd as usize]).collect(),
    );
    if let Some(out) = out {
        command.stdout(out);
    }
    if let Some(err) = err {
        command.stderr(err);
    }
    // What comes before it is there would reach nobody.
    let early: Vec<i32> =
        std::iter::from_fn(|| child::wait(&signals, Duration::ZERO)).map(|s| s.signal).collect();
    let started = Instant::now();
    let child = match command.spawn() {
        Ok(c) => c,
        Err(e) => {
            let passes = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE];
            let exit = if e.raw_os_error().is_some_and(|n| passes.contains(&n)) {
                Err(Error::os("starting a process", e).to_string())
            } else {
                Ok(not_started(&args.command[0], &e))
            };
            drain.tell("cut\nstop");
            let gone = |e: &Event| matches!(e, Event::Gone(_));
            while inbox.recv_timeout(START).is_ok_and(|e| !gone(&e)) {}
            if args.channel.is_none() {
                let _ = rm::remove(&settings.channel_dir(), settings, false);
            }
            return exit.map_or_else(|why| fall_back(args, &inherited, &why), ExitCode::from);
        }
    };
    // Our copies of the command's ends.
    drop(command);
    let pid = child.id();
    for signal in early.into_iter().filter(|&s| s != libc::SIGCHLD) {
        let _ = child::kill(pid, signal);
    }
    let conts = Arc::new(AtomicU64::new(0));
    watch_signals(signals, pid, conts.clone(), events.clone());

    let (guard, taker) = taker.unzip();
    let bytes = taker.as_ref().map(Taker::bytes).unwrap_or_default();
    let mut sources = Vec::new();
    for (stream, pipe) in Stream::BOTH.into_iter().zip(pipes.ours) {
        let reader = reader(args.output.as_deref(), args.format, stream);
        sources.extend(pipe.map(|pipe| Source { stream, pipe, reader }));
    }
    let stop_reading = read(sources, taker, &events);
    let mut s = Supervisor {
        args,
        settings,
        pid,
        started,
        status: None,
        ended: None,
        conts,
        resuming: false,
        captured: false,
        left_open: false,
        stop_reading,
        holds,
        launch,
        begun,
        drain: Some(drain),
        drains: vec![Instant::now()],
        events,
        end: End::Running,
        cut_off: None,
        direct,
        bytes,
        done: None,
        again: false,
    };
    s.serve(&inbox);
    let code = s.finish();
    // Everything is delivered, or was said not to be: nothing is left to flush.
    std::mem::forget(guard);
    code
}

/// Starts the thread that reads the pipes. What ends it when it is dropped.
fn read(sources: Vec<Source>, taker: Option<Taker>, events: &Sender<Event>) -> Option<PipeWriter> {
    if sources.is_empty() {
        let _ = events.send(Event::Captured(Ok(sources)));
        return None;
    }
    let (stop, hold) = match pipe() {
        Ok(p) => p,
        Err(e) => {
            let _ = events.send(Event::Captured(Err(Error::os("making a pipe", e))));
            return None;
        }
    };
    let (mine, closed) = (events.clone(), events.clone());
    let body = move || {
        let done = capture::run(sources, &stop, taker, |stream| {
            let _ = closed.send(Event::Closed(stream));
        });
        let _ = mine.send(Event::Captured(done));
    };
    if let Err(e) = std::thread::Builder::new().name("capture".into()).spawn(body) {
        // Without it nothing can be read; the closed pipes tell the command.
        let _ = events.send(Event::Captured(Err(Error::os("starting a thread", e))));
    }
    Some(hold)
}

/// Takes signals as they come, and news of children, for the life of this process.
fn watch_signals(signals: Signals, pid: u32, conts: Arc<AtomicU64>, events: Sender<Event>) {
    let body = move || {
        loop {
            // The command may have ended before this thread began: look first. As pid 1 there are orphans too.
            while let Some((who, became)) = child::reap() {
                if who == pid && events.send(Event::Command(became, conts.load(Relaxed))).is_err() {
                    return;
                }
            }
            let Some(s) = child::wait(&signals, Duration::from_secs(3600)) else { continue };
            if s.signal == libc::SIGCONT {
                // Before it is told: see `stop`.
                conts.fetch_add(1, Release);
            }
            if s.signal != libc::SIGCHLD && events.send(Event::Signal(s)).is_err() {
                return;
            }
        }
    };
    if let Err(e) = std::thread::Builder::new().name("signals".into()).spawn(body) {
        say!("starting a thread: {e}");
    }
}

/// How far it has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The command runs, or somebody still has a pipe open.
    Running,
    /// The drain was asked to deliver what is there by now; then it takes over what is left open.
    Flushing,
    /// The drain was told to end.
    Stopping,
    /// Nothing is to be waited for any more.
    Over,
}

/// What the drain says at its end.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    records: u64,
    bytes: u64,
    spilled: u64,
    lost: u64,
    keep: bool,
}

impl Done {
    fn parse(text: &str) -> Option<Done> {
        let n: Vec<u64> = text.split(' ').map_while(|n| n.parse().ok()).collect();
        let &[records, bytes, spilled, lost, keep] = n.as_slice() else { return None };
        Some(Done { records, bytes, spilled, lost, keep: keep != 0 })
    }
}

struct Supervisor<'a> {
    args: &'a RunArgs,
    settings: &'a Settings,
    pid: u32,
    started: Instant,
    status: Option<ExitStatus>,
    /// When the command ended.
    ended: Option<Instant>,
    /// SIGCONTs that have been taken from the queue.
    conts: Arc<AtomicU64>,
    /// We have been stopped with the command; what continued us is not heard yet.
    resuming: bool,
    captured: bool,
    /// Somebody has a pipe open after the command has ended.
    left_open: bool,
    stop_reading: Option<PipeWriter>,
    holds: [Option<File>; 2],
    launch: Launch,
    begun: String,
    /// `None`: there is none any more.
    drain: Option<Drain>,
    /// When drains were started, the last few.
    drains: Vec<Instant>,
    events: Sender<Event>,
    end: End,
    /// The signal that ended our waiting for readers.
    cut_off: Option<i32>,
    direct: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    done: Option<Done>,
    /// A drain was killed and another one started.
    again: bool,
}

impl Supervisor<'_> {
    fn serve(&mut self, inbox: &Receiver<Event>) {
        while self.end != End::Over {
            let event = match self.patience() {
                None => inbox.recv().ok(),
                Some(left) => match inbox.recv_timeout(left) {
                    Ok(event) => Some(event),
                    Err(RecvTimeoutError::Timeout) => {
                        self.leave_open();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            };
            match event {
                Some(event) => self.hear(event),
                None => return,
            }
            self.proceed();
        }
    }

    /// How long a pipe that somebody has open is read after the command has ended.
    fn patience(&self) -> Option<Duration> {
        let ended = self.ended.filter(|_| !self.captured && !self.left_open)?;
        Some(self.args.linger.limit()?.saturating_sub(ended.elapsed()))
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Signal(s) => self.signal(s),
            Event::Command(Became::Ended(status), _) => {
                self.status = Some(status);
                self.ended = Some(Instant::now());
            }
            Event::Command(Became::Stopped, conts) => self.stop(conts),
            Event::Command(Became::Continued, _) => {}
            Event::Closed(stream) => {
                self.holds[stream as usize] = None;
                self.tell(&format!("shut {}", stream as usize));
            }
            Event::Captured(done) => {
                match done {
                    Ok(left) => self.left_open = !left.is_empty(),
                    Err(e) => say!("{e}"),
                }
                self.captured = true;
            }
            Event::Said(n, line) if self.is_current(n) => self.said(&line),
            Event::Gone(n) if self.is_current(n) => self.drain_gone(),
            // Of a drain before.
            Event::Said(..) | Event::Gone(_) => {}
        }
    }

    fn is_current(&self, n: u64) -> bool {
        self.drain.as_ref().is_some_and(|d| d.n == n)
    }

    fn tell(&self, line: &str) {
        if let Some(d) = &self.drain {
            d.tell(line);
        }
    }

    fn signal(&mut self, s: Arrived) {
        match s.signal {
            libc::SIGHUP => self.tell("reopen"),
            libc::SIGWINCH if self.args.pty => {
                if let Some(size) = terminal_size() {
                    self.holds.iter().flatten().for_each(|f| size.give(f.as_raw_fd()));
                }
                // The terminal has told the command before its own one had that size: tell it again.
                let _ = child::kill(self.pid, s.signal);
                return;
            }
            // What continued us, or our drain, which looks after that: see `stop`.
            libc::SIGCONT if self.resuming || self.is_drain(s.sender) => {
                if std::mem::take(&mut self.resuming) {
                    self.go_on(self.is_drain(s.sender));
                }
                return;
            }
            _ => {}
        }
        if self.status.is_none() {
            self.pass_on(s);
        } else if ENDING.contains(&s.signal) {
            // Somebody is impatient: what is journaled stays there.
            self.cut_off = Some(s.signal);
            self.tell("cut");
            if !self.captured {
                self.leave_open();
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

    fn is_drain(&self, sender: Option<u32>) -> bool {
        sender.is_some() && sender == self.drain.as_ref().map(|d| d.pid)
    }

    /// The command is stopped: so are we, as its job; and when we go on, so does it. `conts`: SIGCONTs that had come
    /// when it was.
    ///
    /// Whoever continues one of us at this very moment must not leave the other one behind:
    /// - us: what came since the command stopped is passed on to it instead. (By the kernel's rule a stop voids the
    ///   SIGCONTs before it: one between our last look and our stop, which are two system calls, is void.)
    /// - the command: between our look at it and our stop nobody can tell us. So the drain watches meanwhile, and
    ///   continues us when the command is not stopped and we are. That also serves whoever continues, or kills, the
    ///   command alone at any later time.
    fn stop(&mut self, conts: u64) {
        // What it printed before is to be seen: the reader is stopped with us.
        let begun = Instant::now();
        let unread = || self.holds.iter().flatten().any(|f| child::readable_bytes(f.as_raw_fd()) > 0);
        while unread() && begun.elapsed() < Duration::from_millis(200) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !child::is_stopped(self.pid) {
            return;
        }
        self.tell(&format!("watch {}", self.pid));
        // One that has come is pending, then counted, then told.
        if !child::is_pending(libc::SIGCONT) && self.conts.load(Acquire) == conts {
            child::stop_myself();
            self.resuming = true;
        }
        self.tell("on");
    }

    /// We go on after having been stopped.
    fn go_on(&mut self, by_drain: bool) {
        if by_drain {
            // The command goes on; if it has been stopped again since, then so are we.
            self.stop(self.conts.load(Acquire));
        } else if child::is_stopped(self.pid) {
            // A shell continues the whole group, and with it the command.
            let _ = child::kill(self.pid, libc::SIGCONT);
        }
    }

    /// The command has ended and others have its pipes open: the drain reads on for them.
    fn leave_open(&mut self) {
        self.left_open = true;
        self.stop_reading.take();
    }

    /// Names who still has a pipe open.
    fn name_holders(&self) {
        let drain = self.drain.as_ref().map(|d| d.pid);
        let us: Vec<u32> = drain.into_iter().chain([std::process::id()]).collect();
        let ends: Vec<&File> = self.holds.iter().flatten().collect();
        let who: Vec<String> =
            holders(&ends, &us).iter().map(|(pid, name)| format!("{pid} ({name})")).collect();
        let who =
            if who.is_empty() { "somebody whom /proc does not show".to_string() } else { who.join(", ") };
        let reads = match drain {
            Some(pid) if std::process::id() != 1 => {
                format!("the drain (pid {pid}) reads on; channel {}", self.settings.channel)
            }
            _ => "nobody reads on".to_string(),
        };
        say!("still printing: {who}; {reads}");
    }

    fn said(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "ready" => self.again_what_was_said(),
            "done" => {
                self.done = Done::parse(rest);
                self.end = End::Over;
            }
            "flushed" => {
                let mut n = rest.split(' ').map_while(|n| n.parse().ok());
                let (records, lost) = (n.next().unwrap_or(0), n.next().unwrap_or(0));
                let spilled = writer::status().spilled;
                self.done = Some(Done { records, spilled, lost, ..Done::default() });
                self.hand_over();
            }
            "failed" => self.go_on_without(rest),
            _ => {}
        }
    }

    /// The drain reads on, and we are done.
    fn hand_over(&mut self) {
        self.tell("take");
        self.end = End::Over;
    }

    /// To a drain that has just started: what the one before it had been told.
    fn again_what_was_said(&mut self) {
        if self.cut_off.is_some() {
            self.tell("cut");
        }
        match self.end {
            End::Flushing => self.tell("flush"),
            End::Stopping => self.tell("stop"),
            End::Running | End::Over => {}
        }
    }

    /// It was killed: another one goes on where it stopped.
    fn drain_gone(&mut self) {
        let n = self.drain.take().map_or(0, |d| d.n) + 1;
        self.again = true;
        self.drains.retain(|t| t.elapsed() < START);
        if self.drains.len() >= MOST_DRAINS {
            return self.go_on_without("the drain died again and again");
        }
        self.drains.push(Instant::now());
        match self.launch.start(n, Some(&self.begun), &self.holds, &self.events) {
            Ok(drain) => self.drain = Some(drain),
            Err(e) => self.go_on_without(&e.to_string()),
        }
    }

    fn go_on_without(&mut self, why: &str) {
        say!("{why}: from here on the output is not kept");
        self.direct.store(true, Relaxed);
        self.drain = None;
    }

    fn proceed(&mut self) {
        if self.end != End::Running || self.status.is_none() || !self.captured {
            if self.drain.is_none() && self.status.is_some() && self.captured {
                self.end = End::Over;
            }
            return;
        }
        // Of a named channel others may be the producers, and have a drain of their own.
        let logs_on = !self.left_open
            && self.args.channel.is_none()
            && keep::alive(&self.settings.channel_dir(), std::process::id());
        if self.drain.is_none() {
            if self.left_open {
                self.name_holders();
            }
            self.end = End::Over;
        } else if logs_on && std::process::id() != 1 && self.cut_off.is_none() {
            let (pid, name) = (self.drain.as_ref().map_or(0, |d| d.pid), &self.settings.channel);
            say!("others still log to this channel: the drain (pid {pid}) goes on; channel {name}");
            self.left_open = true;
            self.end = End::Flushing;
            self.tell("flush");
        } else if self.left_open {
            self.name_holders();
            if std::process::id() == 1 {
                // The kernel kills whoever is left when we end: there is nothing to read on for.
                self.stop_drain();
            } else if self.cut_off.is_some() {
                self.hand_over();
            } else {
                self.end = End::Flushing;
                self.tell("flush");
            }
        } else {
            self.stop_drain();
        }
    }

    fn stop_drain(&mut self) {
        self.end = End::Stopping;
        self.tell("stop");
    }

    fn finish(&self) -> ExitCode {
        let name = &self.settings.channel;
        let killed = self.status.and_then(|s| s.signal()).is_some_and(|n| n != libc::SIGPIPE);
        let done = self.done.unwrap_or_default();
        let keep = killed || self.done.is_none_or(|d| d.keep) || self.left_open;
        let removed = self.args.channel.is_none()
            && !self.left_open
            && remove_or_name(self.settings, keep, &[std::process::id()]);
        if self.args.summary || done.lost > 0 || std::io::stderr().is_terminal() {
            let bytes = done.bytes.max(self.bytes.load(Relaxed));
            let spilled = done.spilled.max(writer::status().spilled);
            let lost = if done.lost > 0 { format!("{} LOST", done.lost) } else { "0 lost".to_string() };
            let elapsed = self.started.elapsed().as_secs_f64();
            let records = done.records;
            let gone = if removed { " (removed)" } else { "" };
            let what = if records == 1 { "record" } else { "records" };
            say!(
                "{records} {what}, {bytes} bytes, {spilled} spilled, {lost} in {elapsed:.1} s; channel {name}{gone}"
            );
        }
        let status = self.status.unwrap_or_default();
        match (self.cut_off, status.signal()) {
            (Some(n), _) | (None, Some(n)) => ExitCode::from(128u8.wrapping_add(n as u8)),
            (None, None) => ExitCode::from(status.code().unwrap_or(0) as u8),
        }
    }
}

/// A channel that was made for this run goes with it, unless somebody may still want it: then it is named.
/// `except`: producers that are our own. True: it was removed.
pub fn remove_or_name(settings: &Settings, keep: bool, except: &[u32]) -> bool {
    let (dir, name) = (settings.channel_dir(), &settings.channel);
    let used = || {
        let channel = super::place::open(&dir)?;
        rm::used_by(&channel, except)
    };
    if !keep && matches!(used(), Ok(None)) {
        match rm::remove(&dir, settings, false) {
            Ok(()) => return true,
            Err(e) => say!("{e}"),
        }
    }
    say!("the channel is kept: spillring cat {name}");
    false
}
