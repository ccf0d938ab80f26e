//! A program's logging, set up in the program: [`Logger::builder`].

use crate::env::{Clock, Format, Idle, Overflow, Problem, Settings, SyncPolicy, TABLE, name};
use crate::error::{Code, Error, Result};
use crate::sync::{AtomicBool, Ordering::Relaxed};
use crate::writer::{Guard, init_with};
use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// Where [`Logger::builder`] stands.
#[derive(Debug)]
pub struct Logger(());

impl Logger {
    /// Everything that the environment can set, set by the program: see [`Builder`].
    pub fn builder() -> Builder {
        Builder { values: Vec::new(), environment: true, panics: false }
    }
}

/// Everything that the environment can set, set by the program.
///
/// What the program sets takes the place of the *default*: a variable of the environment that is set wins over
/// it, so that `spillring run` and whoever operates the program have the last word
/// ([`ignore_environment`](Builder::ignore_environment) takes it from them). Values are checked as those of
/// the environment are, all of them, when the builder is used; an error names the method.
/// ```no_run
/// use std::time::Duration;
/// let _log = spillring::Logger::builder()
///     .channel("orders")
///     .level("info,hyper=warn")
///     .lane_bytes(1 << 20)
///     .grace(Duration::from_millis(2))
///     .panic_hook()
///     .start()?;
/// # Ok::<(), spillring::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct Builder {
    /// Method, variable, value as the environment would say it.
    values: Vec<(&'static str, &'static str, OsString)>,
    environment: bool,
    panics: bool,
}

fn ns(t: Duration) -> String {
    format!("{}ns", t.as_nanos())
}

fn age(t: Option<Duration>) -> String {
    t.map_or_else(|| "none".into(), ns)
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// One method for each variable: its name, the variable, the type, and how it is said in the environment.
macro_rules! setters {
    ($($(#[$doc:meta])* $method:ident $variable:ident ($v:ident: $t:ty) $say:expr;)*) => {
        impl Builder {
            $($(#[$doc])*
            #[doc = concat!("\n\n(`SPILLRING_", stringify!($variable), "`)")]
            pub fn $method(self, $v: $t) -> Builder {
                self.set(stringify!($method), name::$variable, $say.into())
            })*
        }
        /// The variables that have a method.
        #[cfg(test)]
        const METHODS: &[&str] = &[$(name::$variable),*];
    };
}

setters! {
    /// Directory of the channels, in shared memory; an absolute path.
    dir DIR (path: impl AsRef<Path>) path.as_ref().as_os_str();
    /// Name of the channel: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    channel CHANNEL (name: &str) name;
    /// Directory of the journals (of a drain that this process embeds); an absolute path.
    journal_dir JOURNAL_DIR (path: impl AsRef<Path>) path.as_ref().as_os_str();
    /// Shared memory of each thread that logs, bytes: a power of two, 4 KiB to 256 MiB.
    lane_bytes LANE (bytes: u64) bytes.to_string();
    /// Threads that may have a lane, 1 to 256; others share one.
    lanes LANES (n: u32) n.to_string();
    /// Whether the shared memory is locked in RAM, so that no call waits for swapped pages; needs `ulimit -l`.
    lock LOCK (yes: bool) yes_no(yes);
    /// Whether huge pages are asked for; needs a tmpfs mounted so.
    huge HUGE (yes: bool) yes_no(yes);
    /// Whether the memory of all lanes is allocated and mapped at once, so that no later call meets a page fault.
    prefault PREFAULT (yes: bool) yes_no(yes);
    /// What becomes of a record when the shared memory is full.
    overflow OVERFLOW (policy: Overflow) match policy {
        Overflow::Spill => "spill".into(),
        Overflow::DropNewest => "drop-newest".into(),
        Overflow::Block(t) => format!("block:{}", ns(t)),
    };
    /// What spill files may take, bytes.
    spill_quota SPILL_QUOTA (bytes: u64) bytes.to_string();
    /// What is logged: a [`Filter`](crate::site::Filter), a level, or their text (`"info,hyper=warn"`).
    level LEVEL (filter: impl Display) filter.to_string();
    /// Processor that an embedded drain pins itself to.
    drain_cpu DRAIN_CPU (cpu: u32) cpu.to_string();
    /// What an embedded drain does when nothing comes (`Park` also says that log calls wake a drain).
    idle IDLE (policy: Idle) match policy {
        Idle::Adaptive => "adaptive".into(),
        Idle::Spin => "spin".into(),
        Idle::Yield => "yield".into(),
        Idle::Park => "park".into(),
        Idle::Sleep(t) => format!("sleep:{}", ns(t)),
    };
    /// When the journal of an embedded drain is synced to the disk.
    sync SYNC (policy: SyncPolicy) match policy {
        SyncPolicy::None => "none".into(),
        SyncPolicy::EveryBatch => "batch".into(),
        SyncPolicy::Every(t) => ns(t),
    };
    /// Size at which the journal begins a new file, bytes: 64 KiB to 16 GiB.
    segment_bytes SEGMENT_BYTES (bytes: u64) bytes.to_string();
    /// Age at which the journal begins a new file, 1 s to 365 days; `None`: none.
    segment_age SEGMENT_AGE (t: Option<Duration>) age(t);
    /// Size of the journal beyond which its oldest files are deleted, bytes: 128 KiB to 16 TiB.
    retain_bytes RETAIN_BYTES (bytes: u64) bytes.to_string();
    /// Age at which files of the journal are deleted, 1 s to 3650 days; `None`: none.
    retain_age RETAIN_AGE (t: Option<Duration>) age(t);
    /// How long an embedded drain that ends waits for a sink that makes no progress, at most an hour.
    flush_timeout FLUSH_TIMEOUT (t: Duration) ns(t);
    /// How long a record waits for an older one of another thread, at most 10 s.
    grace GRACE (t: Duration) ns(t);
    /// Where timestamps come from.
    clock CLOCK (clock: Clock) match clock {
        Clock::Auto => "",
        Clock::Tsc => "tsc",
        Clock::Monotonic => "monotonic",
        Clock::Tick => "tick",
    };
    /// Form of what an embedded drain writes to files.
    format FORMAT (format: Format) match format {
        Format::Text => "text",
        Format::Json => "json",
        Format::Raw => "raw",
    };
    /// Size beyond which such a file is moved away and begun anew, bytes; `None`: never.
    rotate_bytes ROTATE_BYTES (bytes: Option<u64>) bytes.map_or_else(|| "none".into(), |n| n.to_string());
    /// Age at which it is; `None`: never.
    rotate_age ROTATE_AGE (t: Option<Duration>) age(t);
    /// How many of the files moved away are kept, 1 to 10000.
    rotate_keep ROTATE_KEEP (n: u32) n.to_string();
    /// Whether they are compressed (zstd).
    rotate_compress ROTATE_COMPRESS (yes: bool) if yes { "zstd" } else { "none" };
}

impl Builder {
    fn set(mut self, method: &'static str, variable: &'static str, value: OsString) -> Builder {
        self.values.retain(|v| v.1 != variable);
        self.values.push((method, variable, value));
        self
    }

    /// Reads no `SPILLRING_*` variable: the program alone decides.
    pub fn ignore_environment(mut self) -> Builder {
        self.environment = false;
        self
    }

    /// Logs panics, too: at `error`, target `panic`, with message, place and thread. The hook that was there
    /// before is called afterwards.
    pub fn panic_hook(mut self) -> Builder {
        self.panics = true;
        self
    }

    fn said(&self, variable: &str) -> Option<OsString> {
        self.values.iter().find(|v| v.1 == variable).map(|v| v.2.clone())
    }

    /// The settings, as [`init_with`] and [`DrainConfig::new`](crate::drain::DrainConfig::new) take them, and
    /// what is wrong with the environment.
    ///
    /// # Errors
    /// [`Code::BadValue`]: what the program set is not allowed; all of it is named, by its method.
    pub fn settings(&self) -> Result<(Settings, Vec<Problem>)> {
        let (_, wrong) = Settings::read(|n| self.said(n));
        let mut lines = Vec::new();
        for (method, variable, value) in &self.values {
            // In the environment an empty value is one that is not set; only `Clock::Auto` means that.
            let empty = value.is_empty() && *variable != name::CLOCK;
            let machine = *variable == name::CLOCK; // a clock that this machine has not is a problem, not an error
            if empty || !machine && wrong.iter().any(|p| p.variable == *variable) {
                let allowed = TABLE.iter().find(|v| v.name == *variable).map_or("", |v| v.bound);
                lines.push(format!("{method}({value:?}) is not allowed; allowed: {allowed}"));
            }
        }
        if !lines.is_empty() {
            return Err(Error::new(Code::BadValue, format!("Logger::builder(): {}", lines.join("; "))));
        }
        let set = |n: &str| std::env::var_os(n).filter(|v| !v.is_empty());
        let ours = |n: &str| n.starts_with("SPILLRING_");
        let problems = if self.environment { Settings::from_env().1 } else { Vec::new() };
        let (settings, more) = Settings::read(|n| {
            let good = !ours(n) || self.environment && problems.iter().all(|p| p.variable != n);
            set(n).filter(|_| good).or_else(|| self.said(n))
        });
        Ok((settings, problems.into_iter().chain(more).collect()))
    }

    /// Attaches this process to its channel, as [`init`](crate::init) does. What is wrong with the environment
    /// is reported on stderr and stops nothing. Not async-signal-safe; call it once, early.
    ///
    /// # Errors
    /// Those of [`settings`](Builder::settings) and of [`init_with`].
    pub fn start(self) -> Result<Guard> {
        let (settings, problems) = self.settings()?;
        for p in &problems {
            eprintln!("spillring: {p}");
        }
        if self.panics {
            install_panic_hook();
        }
        Ok(init_with(&settings)?.with_problems(problems))
    }
}

fn install_panic_hook() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.swap(true, Relaxed) {
        return;
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("(a value that is no text)");
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("(no name)");
        match info.location() {
            Some(l) => crate::error!(target: "panic", thread, location = %l, "{}", message),
            None => crate::error!(target: "panic", thread, "{}", message),
        }
        before(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_method_for_each_variable() {
        for v in TABLE {
            assert!(METHODS.contains(&v.name), "Builder has no method for {}", v.name);
        }
    }

    #[test]
    fn what_the_program_sets_is_checked_and_named() {
        let b = Logger::builder().ignore_environment();
        let s =
            b.clone().channel("web").lane_bytes(8192).overflow(Overflow::Block(Duration::from_micros(20)));
        let s = s.level("info,hyper=warn").idle(Idle::Sleep(Duration::from_millis(3))).clock(Clock::Auto);
        let s = s.segment_age(None).grace(Duration::from_nanos(1_500_000)).dir("/dev/shm/x").lane_bytes(4096);
        let (s, problems) = s.rotate_bytes(Some(10 << 20)).format(Format::Json).settings().unwrap();
        assert_eq!(problems, []);
        assert_eq!((s.channel.as_str(), s.lane_bytes, s.dir.to_str()), ("web", 4096, Some("/dev/shm/x")));
        assert_eq!(s.overflow, Overflow::Block(Duration::from_micros(20)));
        assert_eq!((s.level.to_string().as_str(), s.grace), ("info,hyper=warn", Duration::from_micros(1500)));
        assert_eq!((s.idle, s.segment_age), (Idle::Sleep(Duration::from_millis(3)), None));
        assert_eq!((s.rotate_bytes, s.format), (Some(10 << 20), Format::Json));
        for (b, words) in [
            (b.clone().lane_bytes(5000), ["lane_bytes(\"5000\")", "a power of two"]),
            (b.clone().channel(""), ["channel(\"\")", "1 to 64"]),
            (b.clone().level("loud"), ["level(\"loud\")", "trace, debug"]),
            (b.clone().dir("relative"), ["dir(\"relative\")", "absolute"]),
            (b.clone().lanes(0).grace(Duration::MAX), ["lanes(\"0\")", "; grace("]),
        ] {
            let e = b.settings().unwrap_err();
            assert_eq!(e.code, Code::BadValue);
            assert!(words.iter().all(|w| e.message.contains(w)), "{e}");
        }
    }
}
