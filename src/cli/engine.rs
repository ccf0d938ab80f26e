//! The drain with its outputs, on threads of their own, as `run` and `drain` use it.

use super::{Format, place};
use spillring::channel::Channel;
use spillring::drain::{Drain, DrainConfig, Totals};
use spillring::env::Settings;
use spillring::journal::Position;
use spillring::layout::ctl;
use spillring::sink::{self, Cursor, Follower, Outcome, Output, Places, Reporter, Rotate, SinkSpec};
use spillring::sync::{AtomicBool, Ordering::*};
use spillring::{Code, Error, Result, sys};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

impl From<Format> for sink::Format {
    fn from(f: Format) -> sink::Format {
        match f {
            Format::Raw => sink::Format::Raw,
            Format::Text => sink::Format::Text,
            Format::Json => sink::Format::Json,
        }
    }
}

/// The sink that appends to a file, or to stdout (`-`). Its name comes from the path, so that the next
/// drain with the same file goes on where this one stopped.
pub fn to_file(file: &Path, format: impl Into<sink::Format>) -> SinkSpec {
    if file.as_os_str() == "-" {
        return SinkSpec::new("stdout", Output::Stdout, format.into());
    }
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let base = file.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let base: String = base.chars().map(plain).take(40).collect();
    let name = format!("file-{base}-{:08x}", crc32c::crc32c(file.as_os_str().as_bytes()));
    SinkSpec::new(name, Output::File(file), format.into())
}

/// What an engine is to do.
pub struct Plan {
    /// The channel's directory.
    pub channel_dir: PathBuf,
    /// Where the journal goes besides.
    pub sinks: Vec<SinkSpec>,
    /// Where sinks begin.
    pub begin: Begin,
    /// How long a sink that does not move is waited for at the end.
    pub patience: Duration,
    /// One whose reader does not read is waited for until [`Engine::cut_off`], as `cat` would; patience is only
    /// for what fails (a full disk).
    pub readers_may_pause: bool,
}

/// Where the sinks of an engine begin.
#[derive(Clone, Debug)]
pub enum Begin {
    /// Where they stopped; those that never ran, at the oldest record.
    WhereTheyStopped,
    /// Those that never ran, and those of our own streams, with what comes from now on.
    Now,
    /// Where they stopped; those that never ran, here: an engine before this one had begun there.
    Again(Position),
}

/// What an engine has done when it ends.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What went into the journal.
    pub totals: Totals,
    /// How each sink ended.
    pub outcomes: Vec<Outcome>,
}

/// A drain that runs.
pub struct Engine {
    stop: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
    followers: Followers,
    channel: Channel,
    begun: Position,
}

/// What the thread for notices is given.
enum Notice {
    Line(String),
    Said(Sender<()>),
}

/// Sinks, shared between the drain that wakes them and the end that waits for them.
type Followers = Arc<Mutex<Vec<Follower>>>;

impl Engine {
    /// Opens everything and starts; `done` is called once, at the end, on a thread of the engine's. Errors
    /// are those of opening: then nothing runs and `done` is not called.
    pub fn start(
        settings: &Settings,
        mut plan: Plan,
        done: impl FnOnce(Result<Summary>) + Send + 'static,
    ) -> Result<Engine> {
        let rule = Rotate {
            bytes: settings.rotate_bytes,
            age: settings.rotate_age,
            keep: settings.rotate_keep,
            compress: settings.rotate_compress,
        };
        if rule.bytes.is_some() || rule.age.is_some() {
            plan.sinks.iter_mut().for_each(|s| s.rotate = Some(rule));
        }
        let (config, problem) = DrainConfig::new(settings, plan.channel_dir.clone());
        // Lines for people go through a thread of their own: a terminal that is stopped must not stop the
        // drain.
        let (say, lines) = channel::<Notice>();
        let talk = move || {
            for l in lines {
                match l {
                    Notice::Line(l) => say!("{l}"),
                    // Whoever asked may have stopped waiting.
                    Notice::Said(tell) => drop(tell.send(())),
                }
            }
        };
        let failed = |e| Error::os("starting a thread", e);
        let _blocked = sys::thread::SignalsBlocked::new();
        std::thread::Builder::new().name("notices".into()).spawn(talk).map_err(failed)?;
        if let Some(p) = problem {
            let _ = say.send(Notice::Line(p));
        }
        let (stop, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (its_stop, its_cut, dir) = (stop.clone(), cut.clone(), plan.channel_dir.clone());
        let (opened, wait) = channel();
        let body = move || {
            // Opened on the thread that drains: it pins itself to a processor, and nobody else.
            let mut hear = |line: &str| {
                let _ = say.send(Notice::Line(line.to_string()));
            };
            let (mut drain, followers, begun) = match open(config, &plan, &say, &mut hear) {
                Ok(o) => o,
                Err(e) => {
                    let _ = opened.send(Err(e));
                    return;
                }
            };
            let _ = opened.send(Ok((followers.clone(), begun)));
            let ran = drain.run(&its_stop, &mut hear);
            let end = drain.position();
            lock(&followers).iter().for_each(|f| f.stop_when(&end));
            let mut patience = plan.patience;
            if plan.readers_may_pause {
                wait_for_readers(&followers, patience, &its_cut);
                // To note how far they came.
                patience = Duration::from_secs(1);
            }
            let outcomes = lock(&followers).iter_mut().map(|f| f.wait(Some(patience))).collect();
            // What was to be said is said before the end, unless nobody takes it.
            let (tell, said) = channel();
            let _ = say.send(Notice::Said(tell));
            let _ = said.recv_timeout(Duration::from_secs(1));
            done(ran.map(|totals| Summary { totals, outcomes }));
        };
        std::thread::Builder::new().name("drain".into()).spawn(body).map_err(failed)?;
        match wait.recv() {
            Ok(Ok((followers, begun))) => {
                Ok(Engine { stop, cut, followers, channel: place::open(&dir)?, begun })
            }
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::new(Code::Os, "the drain's thread ended before it began")),
        }
    }

    /// Lets it end, when everything that is there by now is in the journal and the sinks are through.
    pub fn stop(&self) {
        self.stop.store(true, Release);
        self.channel.wake_drain();
    }

    /// Sinks are not waited for any longer.
    pub fn cut_off(&self) {
        self.cut.store(true, Release);
    }

    /// Where its sinks began that never ran before.
    pub fn begun(&self) -> &Position {
        &self.begun
    }

    /// Records that are in the journal.
    pub fn journaled(&self) -> u64 {
        self.channel.ctl().word(ctl::DELIVERED).load(Acquire)
    }

    /// Whether every sink that goes on has delivered what is before record `end`.
    pub fn delivered(&self, end: u64) -> bool {
        lock(&self.followers).iter().all(|f| f.ended().is_some() || f.delivered() >= end)
    }

    /// Files that are written to are opened anew: they may have been moved away.
    pub fn reopen(&self) {
        lock(&self.followers).iter().for_each(Follower::reopen);
    }
}

fn lock(f: &Followers) -> MutexGuard<'_, Vec<Follower>> {
    f.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(
    config: DrainConfig,
    plan: &Plan,
    say: &Sender<Notice>,
    hear: &mut impl FnMut(&str),
) -> Result<(Drain, Followers, Position)> {
    let journal = config.journal_dir.clone();
    let mut drain = Drain::open(config)?;
    let start = match &plan.begin {
        Begin::WhereTheyStopped => None,
        Begin::Now => {
            // What dead processes left here is theirs, not ours: into the journal before we begin.
            drain.finish(hear)?;
            Some(drain.position())
        }
        Begin::Again(at) => Some(at.clone()),
    };
    let places = Places { journal: journal.clone(), channel: Some(plan.channel_dir.clone()) };
    let mut followers = Vec::new();
    for spec in &plan.sinks {
        let spec = SinkSpec { start: start.clone(), ..spec.clone() };
        if matches!(plan.begin, Begin::Now) && !matches!(spec.output, Output::File(_)) {
            // What an earlier command printed and nobody read is not ours to print.
            Cursor::remove(&journal, &spec.name)?;
        }
        let say = Mutex::new(say.clone());
        let report: Reporter = Arc::new(move |line: &str| {
            let _ = say.lock().unwrap_or_else(PoisonError::into_inner).send(Notice::Line(line.to_string()));
        });
        followers.push(Follower::start(&spec, &places, report)?);
    }
    let followers = Arc::new(Mutex::new(followers));
    let (woken, channel) = (followers.clone(), place::open(&plan.channel_dir)?);
    drain.on_batch(move || {
        let next = channel.ctl().word(ctl::DELIVERED).load(Acquire);
        lock(&woken).iter().for_each(|f| f.wake(next));
    });
    let begun = start.unwrap_or_else(|| drain.position());
    Ok((drain, followers, begun))
}

/// Until each sink has ended, or cannot write for `patience`; or `cut`.
fn wait_for_readers(followers: &Followers, patience: Duration, cut: &AtomicBool) {
    let begun = Instant::now();
    loop {
        // Not for long under the lock: whoever waits may still be told that a file was moved away.
        let waits = lock(followers).iter().any(|f| {
            let gives_up = begun.elapsed() >= patience && f.fails_for() >= Some(patience);
            f.ended().is_none() && !gives_up
        });
        if !waits || cut.load(Acquire) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    lock(followers).iter().filter(|f| f.ended().is_none()).for_each(Follower::give_up);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_sink_has_the_same_name_every_time() {
        let a = to_file(Path::new("/var/log/my app.log"), Format::Text);
        assert_eq!(a, to_file(Path::new("/var/log/my app.log"), Format::Text));
        assert!(a.name.starts_with("file-my_app_log-") && a.name.len() <= 64, "{}", a.name);
        assert_ne!(a.name, to_file(Path::new("/tmp/my app.log"), Format::Text).name);
        assert!(to_file(Path::new(&"x".repeat(200)), Format::Raw).name.len() <= 64);
        assert_eq!(to_file(Path::new("-"), Format::Raw).output, Output::Stdout);
    }
}
