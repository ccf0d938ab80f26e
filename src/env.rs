//! The environment: read once, into typed settings. A value that is not allowed is reported by name,
//! with what is allowed, and its default is used: it never stops the program.
//!
//! [`TABLE`] names every variable with its unit, default and bound; the README's table and
//! `spillring --help` are made from it. Nothing here is async-signal-safe: it is read at init.

use crate::layout::ring::{MAX_LANE, MAX_LANES, MIN_LANE};
use crate::record::{Filter, Level};
use crate::sys;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One variable, as documentation shows it.
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What a value is measured in, or the form it has.
    pub unit: &'static str,
    /// What holds when it is not set.
    pub default: &'static str,
    /// What is allowed.
    pub bound: &'static str,
    /// What it is for.
    pub help: &'static str,
}

/// Declares the variables: a constant for each name, and the table.
macro_rules! variables {
    ($($id:ident $unit:literal, $default:literal, $bound:literal, $help:literal;)*) => {
        /// The names of the variables.
        pub mod name {
            $(#[doc = $help] pub const $id: &str = concat!("SPILLRING_", stringify!($id));)*
        }
        /// Every variable that is read.
        pub const TABLE: &[Variable] = &[$(Variable {
            name: name::$id, unit: $unit, default: $default, bound: $bound, help: $help,
        },)*];
    };
}

variables! {
    DIR "path", "$XDG_RUNTIME_DIR/spillring where that is tmpfs, else /dev/shm/spillring-UID",
        "an absolute path; elsewhere than on tmpfs it works, and a store may wait for the disk",
        "directory of the channels, in shared memory";
    CHANNEL "name", "default", "1 to 64 of A-Z a-z 0-9 . _ -, the first neither . nor -",
        "channel that the program logs to";
    JOURNAL_DIR "path",
        "/var/log/spillring for uid 0, else $XDG_STATE_HOME/spillring, else ~/.local/state/spillring",
        "an absolute path; where it is not writable the journal goes into the channel, at most 16 MiB of it",
        "directory of the journals, one directory a channel";
    LANE "bytes", "256k", "a power of two, 4k to 256m",
        "shared memory of each thread that logs";
    LANES "number", "64", "1 to 256",
        "threads of a process that may have a lane; others share one";
    LOCK "choice", "no", "no, yes",
        "lock the shared memory in RAM (mlock), so that no call waits for swapped pages; needs ulimit -l";
    HUGE "choice", "no", "no, yes",
        "ask for huge pages (madvise); needs a tmpfs mounted with huge=advise, within_size or always";
    PREFAULT "choice", "no", "no, yes",
        "allocate and map the memory of all lanes at init, so that no later call meets a page fault";
    OVERFLOW "policy", "spill", "spill, drop-newest, block:TIME (1us to 60s)",
        "what becomes of a record when the shared memory is full";
    SPILL_QUOTA "bytes", "a quarter of the free tmpfs or of what the memory cgroup has left, the lesser",
        "0 to 1t", "what the spill files of a channel may take together; a quarter of it is for processes that \
         have spilled little";
    LEVEL "levels", "info",
        "trace, debug, info, warn, error, off, and TARGET=LEVEL for all targets that begin so, separated by commas",
        "what is logged, by target: info,hyper=warn,app::db=trace (where only targets are named, nothing else is)";
    DRAIN_CPU "number", "not pinned", "0 to 1023",
        "processor that the drain pins itself to";
    IDLE "policy", "adaptive", "adaptive, spin, yield, park, sleep:TIME (1us to 1s)",
        "what the drain does when nothing comes";
    SYNC "policy", "none", "none, batch, or a time from 1ms to 1h",
        "when the journal is synced to the disk: never, after every batch, every so often";
    SEGMENT_BYTES "bytes", "64m", "64k to 16g",
        "size at which the journal begins a new file";
    SEGMENT_AGE "time", "1d", "1s to 365d, or none",
        "age at which the journal begins a new file";
    RETAIN_BYTES "bytes", "1g or 10 % of the file system, the lesser", "128k to 16t",
        "size of the journal beyond which its oldest files are deleted";
    RETAIN_AGE "time", "none", "1s to 3650d, or none",
        "age at which files of the journal are deleted";
    FLUSH_TIMEOUT "time", "2s", "0 to 1h",
        "how long a drain that ends waits for an output that makes no progress, and a run for one that it \
         cannot write (it waits for readers)";
    FORMAT "format", "text", "text, json, raw",
        "form of what run and drain write to files";
    ROTATE_BYTES "bytes", "none", "4k to 16t, or none",
        "size beyond which a file that run or drain writes is moved away and begun anew";
    ROTATE_AGE "time", "none", "1s to 3650d, or none",
        "age at which such a file is moved away, when the next line is written";
    ROTATE_KEEP "number", "10", "1 to 10000",
        "how many of the files moved away are kept";
    ROTATE_COMPRESS "method", "zstd", "zstd, none",
        "how they are compressed";
    GRACE "time", "5ms", "0 to 10s",
        "how long a record waits for an older one of another thread";
    CLOCK "clock", "tsc where it is invariant, else monotonic", "tsc, monotonic, tick",
        "where timestamps come from; tick: from a drain that spins";
}

/// What a process does with a record for which the shared memory has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// It goes to the spill file; past the quota it is counted as lost.
    Spill,
    /// It is counted as lost.
    DropNewest,
    /// A thread that opted in waits for room, so long; then as [`Overflow::Spill`].
    Block(Duration),
}

/// What the drain does when nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Spins briefly, then sleeps for times that grow to 10 ms.
    Adaptive,
    /// Polls without a pause: for a core of its own.
    Spin,
    /// Gives the core away after each pass.
    Yield,
    /// Sleeps so long.
    Sleep(Duration),
    /// Sleeps until a writer wakes it.
    Park,
}

/// When the journal is synced to its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Never: survives the death of any process, not of the machine.
    None,
    /// When this time has passed since the last one.
    Every(Duration),
    /// After every batch.
    EveryBatch,
}

/// How a sink writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What was captured, byte for byte.
    Raw,
    /// A line a record, for people and `grep`.
    Text,
    /// A JSON object a record, one a line.
    Json,
}

/// Where timestamps come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The processor's counter where it is invariant, else the kernel's clock.
    Auto,
    /// The processor's counter.
    Tsc,
    /// `CLOCK_MONOTONIC_RAW`.
    Monotonic,
    /// A word that a spinning drain refreshes.
    Tick,
}

/// Everything the environment can say, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the channels.
    pub dir: PathBuf,
    /// Name of the channel.
    pub channel: String,
    /// Directory of the journals; `None`: there is no place for one (no HOME), so it goes into the channel.
    pub journal_dir: Option<PathBuf>,
    /// Bytes of a lane, a power of two.
    pub lane_bytes: u64,
    /// Lanes of a process.
    pub lanes: u32,
    /// The shared memory is locked in RAM.
    pub lock: bool,
    /// Huge pages are asked for.
    pub huge: bool,
    /// The memory of all lanes is allocated and mapped at init.
    pub prefault: bool,
    /// What happens when the shared memory is full.
    pub overflow: Overflow,
    /// Bytes that spill files may take; `None`: see [`Settings::spill_quota_for`].
    pub spill_quota: Option<u64>,
    /// What is logged, by target.
    pub level: Filter,
    /// The drain's processor.
    pub drain_cpu: Option<u32>,
    /// What the drain does when nothing comes.
    pub idle: Idle,
    /// When the journal is synced.
    pub sync: SyncPolicy,
    /// Size at which a segment ends.
    pub segment_bytes: u64,
    /// Age at which a segment ends.
    pub segment_age: Option<Duration>,
    /// Size of the journal; `None`: see [`Settings::retain_bytes_for`].
    pub retain_bytes: Option<u64>,
    /// Age at which segments are deleted.
    pub retain_age: Option<Duration>,
    /// Patience of an ending drain with a sink that makes no progress.
    pub flush_timeout: Duration,
    /// How long a record waits for older ones of other threads.
    pub grace: Duration,
    /// Form of what goes to files.
    pub format: Format,
    /// Size beyond which a sink's file is moved away.
    pub rotate_bytes: Option<u64>,
    /// Age at which it is.
    pub rotate_age: Option<Duration>,
    /// How many of those are kept.
    pub rotate_keep: u32,
    /// Whether they are compressed.
    pub rotate_compress: bool,
    /// Where timestamps come from.
    pub clock: Clock,
}

/// A value that was not taken, or a choice that deserves a word. `Display` is one line, without the
/// program's name before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable that it is about.
    pub variable: &'static str,
    /// The line.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Limit: bytes of a journal that had to go into the shared directory.
pub const FALLBACK_JOURNAL: u64 = 16 << 20;
/// Limit: bytes of a channel's name.
pub const MAX_CHANNEL_NAME: usize = 64;

/// A parser's answer: the value, or what is allowed.
pub type Parsed<T> = Result<T, &'static str>;

fn bound(variable: &str) -> &'static str {
    TABLE.iter().find(|v| v.name == variable).map_or("", |v| v.bound)
}

/// A size: digits, and `k`, `m`, `g` or `t` (powers of 1024; `kb`, `KiB` and capitals too).
pub fn bytes(s: &str) -> Option<u64> {
    let s = s.trim();
    let (digits, unit) = s.split_at(s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len()));
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A time: digits and `ns`, `us`, `ms`, `s`, `m`, `h` or `d`. Without a unit only 0 is clear, and what is
/// counted in `unit` where that is given.
pub fn time(s: &str, unit: Option<Duration>) -> Option<Duration> {
    let s = s.trim();
    let (digits, name) = s.split_at(s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len()));
    let n: u64 = digits.parse().ok()?;
    let ns: u64 = match name.trim_start() {
        "" if n == 0 => return Some(Duration::ZERO),
        "" => u64::try_from(unit?.as_nanos()).ok()?,
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return None,
    };
    n.checked_mul(ns).map(Duration::from_nanos)
}

fn bytes_in(s: &str, allowed: std::ops::RangeInclusive<u64>) -> Option<u64> {
    bytes(s).filter(|n| allowed.contains(n))
}

fn time_in(s: &str, unit: Option<Duration>, least: Duration, most: Duration) -> Option<Duration> {
    time(s, unit).filter(|t| (least..=most).contains(t))
}

const US: Duration = Duration::from_micros(1);
const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A channel's name.
pub fn channel_name(s: &str) -> Parsed<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !s.is_empty() && s.len() <= MAX_CHANNEL_NAME && s.chars().all(good) && !s.starts_with(['.', '-']) {
        Ok(s.to_string())
    } else {
        Err(bound(name::CHANNEL))
    }
}

/// Bytes of a lane.
pub fn lane_bytes(s: &str) -> Parsed<u64> {
    bytes_in(s, MIN_LANE..=MAX_LANE).filter(|n| n.is_power_of_two()).ok_or(bound(name::LANE))
}

/// Number of lanes.
pub fn lanes(s: &str) -> Parsed<u32> {
    s.trim().parse().ok().filter(|n| (1..=MAX_LANES).contains(n)).ok_or(bound(name::LANES))
}

fn choice(s: &str, variable: &'static str) -> Parsed<bool> {
    match s.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(bound(variable)),
    }
}

/// Whether the shared memory is locked in RAM.
pub fn lock(s: &str) -> Parsed<bool> {
    choice(s, name::LOCK)
}

/// Whether huge pages are asked for.
pub fn huge(s: &str) -> Parsed<bool> {
    choice(s, name::HUGE)
}

/// Whether all lanes are allocated and mapped at init.
pub fn prefault(s: &str) -> Parsed<bool> {
    choice(s, name::PREFAULT)
}

/// Overflow policy.
pub fn overflow(s: &str) -> Parsed<Overflow> {
    match s.trim() {
        "spill" => Ok(Overflow::Spill),
        "drop-newest" => Ok(Overflow::DropNewest),
        s => s
            .strip_prefix("block:")
            .and_then(|t| time_in(t, Some(MS), US, 60 * S))
            .map(Overflow::Block)
            .ok_or(bound(name::OVERFLOW)),
    }
}

/// Levels, by target.
pub fn level(s: &str) -> Parsed<Filter> {
    s.parse().map_err(|_| bound(name::LEVEL))
}

/// Idle policy.
pub fn idle(s: &str) -> Parsed<Idle> {
    match s.trim() {
        "adaptive" => Ok(Idle::Adaptive),
        "spin" => Ok(Idle::Spin),
        "yield" => Ok(Idle::Yield),
        "park" => Ok(Idle::Park),
        s => s
            .strip_prefix("sleep:")
            .and_then(|t| time_in(t, Some(US), US, S))
            .map(Idle::Sleep)
            .ok_or(bound(name::IDLE)),
    }
}

/// Sync policy.
pub fn sync(s: &str) -> Parsed<SyncPolicy> {
    match s.trim() {
        "none" => Ok(SyncPolicy::None),
        "batch" => Ok(SyncPolicy::EveryBatch),
        s => time_in(s, None, MS, 3600 * S).map(SyncPolicy::Every).ok_or(bound(name::SYNC)),
    }
}

/// Clock.
pub fn clock(s: &str) -> Parsed<Clock> {
    match s.trim() {
        "tsc" => Ok(Clock::Tsc),
        "monotonic" => Ok(Clock::Monotonic),
        "tick" => Ok(Clock::Tick),
        _ => Err(bound(name::CLOCK)),
    }
}

fn age(s: &str, most: Duration) -> Option<Option<Duration>> {
    if s.trim() == "none" { Some(None) } else { time_in(s, None, S, most).map(Some) }
}

/// Size of a segment.
pub fn segment_bytes(s: &str) -> Parsed<u64> {
    bytes_in(s, 64 << 10..=16 << 30).ok_or(bound(name::SEGMENT_BYTES))
}

/// Age of a segment.
pub fn segment_age(s: &str) -> Parsed<Option<Duration>> {
    age(s, 365 * 86_400 * S).ok_or(bound(name::SEGMENT_AGE))
}

/// Size of a journal.
pub fn retain_bytes(s: &str) -> Parsed<u64> {
    bytes_in(s, 128 << 10..=16 << 40).ok_or(bound(name::RETAIN_BYTES))
}

/// Age of a journal's oldest segment.
pub fn retain_age(s: &str) -> Parsed<Option<Duration>> {
    age(s, 3650 * 86_400 * S).ok_or(bound(name::RETAIN_AGE))
}

/// Bytes of spill files.
pub fn spill_quota(s: &str) -> Parsed<u64> {
    bytes_in(s, 0..=1 << 40).ok_or(bound(name::SPILL_QUOTA))
}

/// Patience of an ending drain.
pub fn flush_timeout(s: &str) -> Parsed<Duration> {
    time_in(s, None, Duration::ZERO, 3600 * S).ok_or(bound(name::FLUSH_TIMEOUT))
}

/// How long a record waits for older ones.
pub fn grace(s: &str) -> Parsed<Duration> {
    time_in(s, None, Duration::ZERO, 10 * S).ok_or(bound(name::GRACE))
}

/// Form of a sink's output.
pub fn format(s: &str) -> Parsed<Format> {
    match s.trim() {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        "raw" => Ok(Format::Raw),
        _ => Err(bound(name::FORMAT)),
    }
}

/// Size of a sink's file.
pub fn rotate_bytes(s: &str) -> Parsed<Option<u64>> {
    if s.trim() == "none" {
        return Ok(None);
    }
    bytes_in(s, 4 << 10..=16 << 40).map(Some).ok_or(bound(name::ROTATE_BYTES))
}

/// Age of a sink's file.
pub fn rotate_age(s: &str) -> Parsed<Option<Duration>> {
    age(s, 3650 * 86_400 * S).ok_or(bound(name::ROTATE_AGE))
}

/// Number of files that were moved away.
pub fn rotate_keep(s: &str) -> Parsed<u32> {
    s.trim().parse().ok().filter(|n| (1..=10_000).contains(n)).ok_or(bound(name::ROTATE_KEEP))
}

/// Whether those are compressed.
pub fn rotate_compress(s: &str) -> Parsed<bool> {
    match s.trim() {
        "zstd" => Ok(true),
        "none" => Ok(false),
        _ => Err(bound(name::ROTATE_COMPRESS)),
    }
}

/// A processor.
pub fn cpu(s: &str) -> Parsed<Option<u32>> {
    s.trim().parse().ok().filter(|&n| n < 1024).map(Some).ok_or(bound(name::DRAIN_CPU))
}

fn absolute(s: &OsStr) -> bool {
    s.as_bytes().first() == Some(&b'/') && !s.as_bytes().contains(&0)
}

/// The file system that a path is on, or will be on once it is made.
fn file_system(path: &Path) -> Option<sys::file::FsInfo> {
    path.ancestors().find_map(|p| {
        let c = std::ffi::CString::new(p.as_os_str().as_bytes()).ok()?;
        sys::file::statfs(&c).ok()
    })
}

fn in_memory(path: &Path) -> bool {
    file_system(path).is_some_and(|f| f.in_memory())
}

/// Creates a directory for this user alone, with what is missing above it.
fn make_private(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Whether a file can be made in `dir`, found out by making one: permissions, a read-only file system and
/// a full one all show.
fn can_write(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(format!(".probe-{}-{:x}", std::process::id(), sys::process::nonce()));
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(&probe)
}

/// Where a channel's journal is, and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPlace {
    /// Its directory. It exists.
    pub dir: PathBuf,
    /// Bytes beyond which its oldest segments are deleted.
    pub retain_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// A warning, where it is not where it should be.
    pub problem: Option<Problem>,
}

impl Settings {
    /// The environment of this process, and what is wrong with it. Allocates; call it once. (That a
    /// directory is not on tmpfs is said by [`Channel`](crate::channel::Channel), when it opens it.)
    pub fn from_env() -> (Settings, Vec<Problem>) {
        Settings::read(|name| std::env::var_os(name))
    }

    /// The same, with values of the program's own: what `first` answers for a name goes before the
    /// environment, and is checked as strictly.
    pub fn from_env_with(first: impl Fn(&str) -> Option<OsString>) -> (Settings, Vec<Problem>) {
        Settings::read(|name| first(name).or_else(|| std::env::var_os(name)))
    }

    /// The same for any environment, of this process's user on this machine.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> (Settings, Vec<Problem>) {
        let mut s = Settings::from(get, sys::process::Facts::read().uid);
        if s.0.clock == Clock::Tsc && !sys::time::ticks_invariant() {
            s.0.clock = Clock::Monotonic;
            s.1.push(Problem {
                variable: name::CLOCK,
                message: format!(
                    "{}=tsc: this machine's counter is not invariant; using monotonic",
                    name::CLOCK
                ),
            });
        }
        s
    }

    /// The same for any user, whatever the machine.
    pub fn from(get: impl Fn(&str) -> Option<OsString>, uid: u32) -> (Settings, Vec<Problem>) {
        let mut problems = Vec::new();
        // An empty value is a variable that is not set.
        let get = |n: &str| get(n).filter(|v| !v.is_empty());
        let path = |n: &str| get(n).filter(|v| absolute(v)).map(PathBuf::from);

        let default_dir = || {
            path("XDG_RUNTIME_DIR")
                .filter(|p| in_memory(p))
                .map_or_else(|| PathBuf::from(format!("/dev/shm/spillring-{uid}")), |p| p.join("spillring"))
        };
        let default_journal = || {
            if uid == 0 {
                return Some(PathBuf::from("/var/log/spillring"));
            }
            path("XDG_STATE_HOME")
                .or_else(|| path("HOME").map(|h| h.join(".local/state")))
                .map(|p| p.join("spillring"))
        };
        let mut place = |variable: &'static str| match get(variable) {
            Some(v) if absolute(&v) => Some(PathBuf::from(v)),
            Some(v) => {
                problems.push(bad(variable, &v, bound(variable)));
                None
            }
            None => None,
        };
        let given_dir = place(name::DIR);
        let given_journal = place(name::JOURNAL_DIR);
        let dir = given_dir.unwrap_or_else(default_dir);
        let mut read = Reader { get: &get, problems: &mut problems };
        let settings = Settings {
            channel: read.value(name::CHANNEL, channel_name, "default".to_string()),
            lane_bytes: read.value(name::LANE, lane_bytes, 256 << 10),
            lanes: read.value(name::LANES, lanes, 64),
            lock: read.value(name::LOCK, lock, false),
            huge: read.value(name::HUGE, huge, false),
            prefault: read.value(name::PREFAULT, prefault, false),
            overflow: read.value(name::OVERFLOW, overflow, Overflow::Spill),
            spill_quota: read.value(name::SPILL_QUOTA, |s| spill_quota(s).map(Some), None),
            level: read.value(name::LEVEL, level, Level::Info.into()),
            drain_cpu: read.value(name::DRAIN_CPU, cpu, None),
            idle: read.value(name::IDLE, idle, Idle::Adaptive),
            sync: read.value(name::SYNC, sync, SyncPolicy::None),
            segment_bytes: read.value(name::SEGMENT_BYTES, segment_bytes, 64 << 20),
            segment_age: read.value(name::SEGMENT_AGE, segment_age, Some(86_400 * S)),
            retain_bytes: read.value(name::RETAIN_BYTES, |s| retain_bytes(s).map(Some), None),
            retain_age: read.value(name::RETAIN_AGE, retain_age, None),
            flush_timeout: read.value(name::FLUSH_TIMEOUT, flush_timeout, 2 * S),
            grace: read.value(name::GRACE, grace, 5 * MS),
            format: read.value(name::FORMAT, format, Format::Text),
            rotate_bytes: read.value(name::ROTATE_BYTES, rotate_bytes, None),
            rotate_age: read.value(name::ROTATE_AGE, rotate_age, None),
            rotate_keep: read.value(name::ROTATE_KEEP, rotate_keep, 10),
            rotate_compress: read.value(name::ROTATE_COMPRESS, rotate_compress, true),
            clock: read.value(name::CLOCK, clock, Clock::Auto),
            dir,
            journal_dir: given_journal.or_else(default_journal),
        };
        (settings, problems)
    }

    /// The channel's directory.
    pub fn channel_dir(&self) -> PathBuf {
        self.dir.join(&self.channel)
    }

    /// What spill files may take in `dir` when nothing else is said: a quarter of what its file system has
    /// free, and in shared memory a quarter of what the memory cgroup has left, if that is less (past that
    /// limit the kernel kills instead of failing). Ask it once: what was spilled since counts as taken.
    pub fn spill_quota_for(&self, dir: &Path) -> u64 {
        if let Some(n) = self.spill_quota {
            return n;
        }
        let fs = file_system(dir);
        let free = fs.map_or(0, |f| f.free);
        let room = if fs.is_some_and(|f| f.in_memory()) { sys::room::memory_room() } else { None };
        free.min(room.unwrap_or(u64::MAX)) / 4
    }

    /// How large the journal in `dir` may become: as asked for, else 1 GiB or a tenth of the file system,
    /// whichever is less.
    pub fn retain_bytes_for(&self, dir: &Path) -> u64 {
        let tenth = || file_system(dir).map_or(u64::MAX, |f| f.total / 10);
        self.retain_bytes.unwrap_or_else(|| (1 << 30).min(tenth()))
    }

    /// Where readers look for the journal of the channel in `channel_dir`: the place it should be at, and
    /// the one inside the channel that it falls back to.
    pub fn journal_candidates(&self, channel_dir: &Path) -> Vec<PathBuf> {
        let name = channel_dir.file_name().unwrap_or_default();
        let there = self.journal_dir.as_ref().map(|d| d.join(name));
        there.into_iter().chain([channel_dir.join("journal")]).collect()
    }

    /// The directory for the journal of the channel in `channel_dir`, made if need be. Where the journal
    /// directory can't be written, it is inside the channel, with a bound of 16 MiB and a warning; a journal
    /// that went there is continued there, since a channel never changes its journal. It always answers a
    /// place; that this one can't be written either is found by whoever writes.
    pub fn journal_place(&self, channel_dir: &Path) -> JournalPlace {
        let candidates = self.journal_candidates(channel_dir);
        let inside = candidates.last().cloned().unwrap_or_default();
        let begun = |d: &Path| std::fs::read_dir(d).is_ok_and(|mut d| d.next().is_some());
        let wanted = candidates.first().filter(|d| **d != inside);
        let (why, remedy) = match wanted {
            Some(d) if begun(&inside) && !begun(d) => {
                (format!("the journal of this channel was begun in {}", inside.display()), "")
            }
            Some(d) => match make_private(d).and_then(|()| can_write(d)) {
                Ok(()) => {
                    let retain_bytes = self.retain_bytes_for(d);
                    return JournalPlace {
                        dir: d.clone(),
                        retain_bytes,
                        segment_bytes: self.segment_bytes.min(retain_bytes / 2),
                        problem: None,
                    };
                }
                Err(e) => {
                    (format!("no journal can be written in {}: {e}", d.display()), "; name a directory by ")
                }
            },
            None => ("there is no HOME for the journal".to_string(), "; name a directory by "),
        };
        let _ = make_private(&inside);
        let remedy = if remedy.is_empty() { String::new() } else { format!("{remedy}{}", name::JOURNAL_DIR) };
        let retain_bytes = self.retain_bytes.unwrap_or(FALLBACK_JOURNAL).min(FALLBACK_JOURNAL);
        JournalPlace {
            retain_bytes,
            segment_bytes: self.segment_bytes.min(retain_bytes / 4),
            problem: Some(Problem {
                variable: name::JOURNAL_DIR,
                message: format!(
                    "{why}: it is in shared memory, {}, and keeps its last {} MiB{remedy}",
                    inside.display(),
                    retain_bytes >> 20
                ),
            }),
            dir: inside,
        }
    }
}

fn bad(variable: &'static str, value: &OsStr, allowed: &str) -> Problem {
    let shown: String = value.to_string_lossy().chars().take(100).collect();
    Problem {
        variable,
        message: format!("{variable}={shown:?} is not allowed, the default is used; allowed: {allowed}"),
    }
}

/// Reads values, and notes the bad ones.
struct Reader<'a, G> {
    get: &'a G,
    problems: &'a mut Vec<Problem>,
}

impl<G: Fn(&str) -> Option<OsString>> Reader<'_, G> {
    fn value<T>(&mut self, variable: &'static str, parse: impl Fn(&str) -> Parsed<T>, default: T) -> T {
        let Some(v) = (self.get)(variable) else { return default };
        match v.to_str().map_or(Err(bound(variable)), parse) {
            Ok(v) => v,
            Err(allowed) => {
                self.problems.push(bad(variable, &v, allowed));
                default
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Gate;
    use std::os::unix::ffi::OsStringExt;

    fn read(vars: &[(&str, &str)]) -> (Settings, Vec<Problem>) {
        let get = |n: &str| vars.iter().find(|v| v.0 == n).map(|v| OsString::from(v.1));
        Settings::from(get, 1000)
    }

    #[test]
    fn defaults() {
        let (s, problems) = read(&[("HOME", "/home/u")]);
        assert_eq!(problems, []);
        assert_eq!(s.dir, Path::new("/dev/shm/spillring-1000"));
        assert_eq!(s.journal_dir.as_deref(), Some(Path::new("/home/u/.local/state/spillring")));
        assert_eq!((s.channel.as_str(), s.lane_bytes, s.lanes), ("default", 256 << 10, 64));
        assert_eq!((s.overflow, &s.level, s.idle), (Overflow::Spill, &Level::Info.into(), Idle::Adaptive));
        assert_eq!(s.channel_dir(), Path::new("/dev/shm/spillring-1000/default"));
        // The state directory, when it is named; nothing at all without a home; a fixed place for root.
        let (s, _) = read(&[("HOME", "/home/u"), ("XDG_STATE_HOME", "/s")]);
        assert_eq!(s.journal_dir.as_deref(), Some(Path::new("/s/spillring")));
        assert_eq!(read(&[("HOME", "relative")]).0.journal_dir, None);
        let root = Settings::from(|_| None, 0).0;
        assert_eq!(root.journal_dir.as_deref(), Some(Path::new("/var/log/spillring")));
        assert_eq!(root.dir, Path::new("/dev/shm/spillring-0"));
    }

    #[test]
    fn the_runtime_directory_counts_only_on_tmpfs() {
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = disk.path().to_str().unwrap();
        assert_eq!(read(&[("XDG_RUNTIME_DIR", disk)]).0.dir, Path::new("/dev/shm/spillring-1000"));
        let (s, problems) = read(&[("XDG_RUNTIME_DIR", "/dev/shm")]);
        assert_eq!((s.dir.as_path(), problems.len()), (Path::new("/dev/shm/spillring"), 0));
        // A directory elsewhere works when it is named (the channel warns when it is opened).
        assert_eq!(read(&[("SPILLRING_DIR", disk)]).0.dir, Path::new(disk));
    }

    #[test]
    fn every_bad_value_is_named_once_with_what_is_allowed() {
        for v in TABLE {
            for bad in ["-1", "no such thing", "99999999999999999999 t", "\u{fffd}"] {
                let (s, problems) = read(&[(v.name, bad), ("HOME", "/home/u")]);
                let all: Vec<_> = problems.iter().filter(|p| p.variable == v.name).collect();
                assert_eq!(all.len(), 1, "{}={bad}", v.name);
                let text = all[0].to_string();
                assert!(text.contains(v.name) && text.contains(v.bound) && text.contains(bad), "{text}");
                // The default holds.
                assert_eq!(s, read(&[("HOME", "/home/u")]).0, "{}={bad}", v.name);
            }
        }
        // Not UTF-8 either.
        let get = |n: &str| (n == "SPILLRING_LEVEL").then(|| OsString::from_vec(vec![0xff, 0xfe]));
        assert_eq!(Settings::from(get, 1).1.len(), 1);
    }

    #[test]
    fn good_values() {
        let (s, problems) = read(&[
            ("SPILLRING_DIR", "/dev/shm/x"),
            ("SPILLRING_CHANNEL", "web-1.a_b"),
            ("SPILLRING_JOURNAL_DIR", "/j"),
            ("SPILLRING_LANE", "1M"),
            ("SPILLRING_LANES", "3"),
            ("SPILLRING_LOCK", "yes"),
            ("SPILLRING_HUGE", "yes"),
            ("SPILLRING_PREFAULT", "yes"),
            ("SPILLRING_OVERFLOW", "block:20ms"),
            ("SPILLRING_SPILL_QUOTA", "512 MiB"),
            ("SPILLRING_LEVEL", "WARN,app::db=trace"),
            ("SPILLRING_DRAIN_CPU", "1"),
            ("SPILLRING_IDLE", "sleep:50"),
            ("SPILLRING_SYNC", "100ms"),
            ("SPILLRING_SEGMENT_BYTES", "1m"),
            ("SPILLRING_SEGMENT_AGE", "none"),
            ("SPILLRING_RETAIN_BYTES", "2g"),
            ("SPILLRING_RETAIN_AGE", "7d"),
            ("SPILLRING_FLUSH_TIMEOUT", "0"),
            ("SPILLRING_GRACE", "1500us"),
            ("SPILLRING_FORMAT", "json"),
            ("SPILLRING_ROTATE_BYTES", "10m"),
            ("SPILLRING_ROTATE_AGE", "1d"),
            ("SPILLRING_ROTATE_KEEP", "3"),
            ("SPILLRING_ROTATE_COMPRESS", "none"),
            ("SPILLRING_CLOCK", "tick"),
        ]);
        assert_eq!(problems, []);
        assert_eq!(
            s,
            Settings {
                dir: "/dev/shm/x".into(),
                channel: "web-1.a_b".into(),
                journal_dir: Some("/j".into()),
                lane_bytes: 1 << 20,
                lanes: 3,
                lock: true,
                huge: true,
                prefault: true,
                overflow: Overflow::Block(20 * MS),
                spill_quota: Some(512 << 20),
                level: Filter::from(Level::Warn).with("app::db", Gate::From(Level::Trace)),
                drain_cpu: Some(1),
                idle: Idle::Sleep(50 * US),
                sync: SyncPolicy::Every(100 * MS),
                segment_bytes: 1 << 20,
                segment_age: None,
                retain_bytes: Some(2 << 30),
                retain_age: Some(7 * 86_400 * S),
                flush_timeout: Duration::ZERO,
                grace: Duration::from_micros(1500),
                format: Format::Json,
                rotate_bytes: Some(10 << 20),
                rotate_age: Some(86_400 * S),
                rotate_keep: 3,
                rotate_compress: false,
                clock: Clock::Tick,
            }
        );
    }

    #[test]
    fn numbers_have_units_and_bounds() {
        assert_eq!(bytes("4k"), Some(4096));
        assert_eq!(bytes("1 GiB"), Some(1 << 30));
        assert_eq!((bytes("k"), bytes(""), bytes("1.5m"), bytes("99999999999t")), (None, None, None, None));
        assert_eq!(time("3ms", None), Some(3 * MS));
        assert_eq!((time("3", None), time("3", Some(S))), (None, Some(3 * S)));
        assert_eq!((time("", None), time("s", None), time("-1s", None)), (None, None, None));
        assert_eq!(time("0", None), Some(Duration::ZERO));
        assert!(lane_bytes("4k").is_ok() && lane_bytes("256m").is_ok());
        for v in ["2k", "512m", "5k", "0"] {
            assert!(lane_bytes(v).is_err(), "{v}");
        }
        assert_eq!(idle("sleep:1us"), Ok(Idle::Sleep(US)));
        assert!(idle("sleep:").is_err() && idle("sleep:2s").is_err() && overflow("block:0").is_err());
        for v in ["", ".", "..", "-x", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(channel_name(v).is_err(), "{v}");
        }
        assert!(channel_name(&"x".repeat(64)).is_ok());
    }

    #[test]
    fn a_journal_that_has_no_place_goes_into_the_channel() {
        let d = tempfile::tempdir().unwrap();
        let channel = d.path().join("shm/web");
        make_private(&channel).unwrap();
        let mut s = read(&[]).0;
        s.journal_dir = Some(d.path().join("journals"));
        let good = s.journal_place(&channel);
        assert_eq!((good.dir.as_path(), good.problem), (d.path().join("journals/web").as_path(), None));
        assert!(good.dir.is_dir() && good.retain_bytes <= 1 << 30);
        // A file stands where the directory should be: nobody can write there, root neither.
        std::fs::write(d.path().join("file"), "").unwrap();
        s.journal_dir = Some(d.path().join("file"));
        let fallback = s.journal_place(&channel);
        assert_eq!(fallback.dir, channel.join("journal"));
        assert_eq!(fallback.retain_bytes, 16 << 20);
        let text = fallback.problem.unwrap().to_string();
        assert!(
            text.contains("file") && text.contains(name::JOURNAL_DIR) && text.contains("16 MiB"),
            "{text}"
        );
        // A journal begun there stays there.
        std::fs::write(fallback.dir.join("segment"), "").unwrap();
        s.journal_dir = Some(d.path().join("other"));
        assert_eq!(s.journal_place(&channel).dir, fallback.dir);
        assert_eq!(s.journal_candidates(&channel), [d.path().join("other/web"), fallback.dir.clone()]);
        // No home.
        s.journal_dir = None;
        assert!(s.journal_place(&channel).problem.is_some());
    }

    #[test]
    fn quotas_follow_the_file_system() {
        let mut s = read(&[]).0;
        let shm = Path::new("/dev/shm");
        let free = file_system(shm).unwrap().free;
        assert!(s.spill_quota_for(shm) <= free / 4 + (1 << 20));
        assert!(s.retain_bytes_for(shm) <= 1 << 30);
        (s.spill_quota, s.retain_bytes) = (Some(5), Some(6));
        assert_eq!((s.spill_quota_for(shm), s.retain_bytes_for(shm)), (5, 6));
    }
}
