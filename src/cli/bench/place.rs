//! Where a measurement runs: a channel of its own in shared memory, a journal of its own on a disk, a drain
//! in a process of its own. Everything is taken away at the end.
#![allow(unsafe_code)] // pre_exec

use spillring::channel::{Channel, Role};
use spillring::env::{Overflow, Settings, name};
use spillring::journal::{Item, Reader, kind};
use spillring::layout::ctl;
use spillring::sync::Ordering::*;
use spillring::{Code, Error, Result, sys};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An error of this program's own.
pub fn failed(text: impl Into<String>) -> Error {
    Error::new(Code::Os, text)
}

/// A directory that goes away with this.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in `parent`, which is made too.
    pub fn new(parent: &Path) -> Result<Scratch> {
        let what = |e| Error::os(parent.display(), e);
        std::fs::create_dir_all(parent).map_err(what)?;
        let unique = format!("bench-{}-{:08x}", std::process::id(), sys::process::nonce() as u32);
        let dir = parent.join(unique);
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(what)?;
        Ok(Scratch(dir))
    }
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A channel and a journal.
pub struct Place {
    /// On the disk that is measured.
    pub disk: Scratch,
    /// Settings for a program that logs there.
    pub settings: Settings,
}

impl Place {
    /// With a channel of its own among those in `shm`, and the journal in `disk`.
    pub fn new(shm: &Path, disk: &Path) -> Result<Place> {
        let disk = Scratch::new(disk)?;
        let mut settings = Settings::from(|_| None, sys::process::euid()).0;
        settings.dir = shm.to_path_buf();
        settings.channel = disk.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        settings.journal_dir = Some(disk.path().join("journals"));
        settings.lane_bytes = 4 << 20;
        // Lossless by waiting, as the rivals are; a thread waits only where it says so.
        settings.overflow = Overflow::Block(Duration::from_secs(60));
        settings.spill_quota = Some(4 << 30);
        Ok(Place { disk, settings })
    }
    /// The journal's directory.
    pub fn journal(&self) -> PathBuf {
        self.disk.path().join("journals").join(&self.settings.channel)
    }
    /// Opens the channel as a reader.
    pub fn channel(&self) -> Result<Channel> {
        Channel::create_or_open(&self.settings.channel_dir(), true, Role::Producer)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.settings.channel_dir());
    }
}

/// Processors that this process may use: (the drain's, the producer's). The same one twice where there is
/// only one.
pub fn cpus() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap_or("0").trim();
    let mut all = list.split(',').flat_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let n = |s: &str| s.parse::<usize>().unwrap_or(0);
        n(from)..=n(to)
    });
    let first = all.next().unwrap_or(0);
    (first, all.next().unwrap_or(first))
}

/// Pins this thread; where that is not allowed it runs where it runs.
pub fn pin(cpu: usize) {
    let _ = sys::thread::set_affinity(cpu);
}

/// How a drain is started.
#[derive(Clone, Debug)]
pub struct DrainPlan<'a> {
    /// The command itself.
    pub exe: &'a Path,
    /// `SPILLRING_IDLE`.
    pub idle: &'a str,
    /// `SPILLRING_GRACE`.
    pub grace: &'a str,
    /// `SPILLRING_DRAIN_CPU`.
    pub cpu: Option<usize>,
    /// Further arguments.
    pub args: Vec<String>,
}

/// A program that finds the settings in its environment, and ends with this process.
pub fn program(exe: &Path, s: &Settings) -> Command {
    let mut c = Command::new(exe);
    for (n, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("SPILLRING_")) {
        c.env_remove(n);
    }
    c.env(name::DIR, &s.dir).env(name::CHANNEL, &s.channel);
    c.env(name::JOURNAL_DIR, s.journal_dir.as_deref().unwrap_or(Path::new("/")));
    c.env(name::SPILL_QUOTA, "4g").env(name::RETAIN_BYTES, "1t").env(name::FLUSH_TIMEOUT, "1m");
    // SAFETY: a system call only.
    unsafe {
        c.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    c
}

/// A drain in a process of its own.
pub struct DrainProcess {
    child: Child,
    name: String,
}

impl DrainProcess {
    /// Starts it, and waits until it serves the channel.
    pub fn start(plan: &DrainPlan<'_>, place: &Place) -> Result<DrainProcess> {
        let channel = place.channel()?;
        let mut c = program(plan.exe, &place.settings);
        c.env(name::IDLE, plan.idle).env(name::GRACE, plan.grace);
        if let Some(cpu) = plan.cpu {
            c.env(name::DRAIN_CPU, cpu.to_string());
        }
        c.arg("drain").arg(&place.settings.channel).args(&plan.args);
        c.stdin(Stdio::null()).stdout(Stdio::null());
        let child = c.spawn().map_err(|e| Error::os(plan.exe.display(), e))?;
        let mut d = DrainProcess { child, name: plan.exe.display().to_string() };
        let (word, me) = (channel.ctl().word(ctl::DRAIN), u64::from(d.child.id()));
        let begun = Instant::now();
        while word.load(Acquire) >> 32 != me {
            if let Ok(Some(status)) = d.child.try_wait() {
                return Err(failed(format!("{} drain ended at once: {status}", d.name)));
            }
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(failed(format!("{} drain did not come up in 30 s", d.name)));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(d)
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it: then everything is in the journal, and in its outputs.
    pub fn end(mut self) -> Result<()> {
        let _ = sys::child::kill(self.child.id(), libc::SIGTERM);
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(s)) if s.success() => return Ok(()),
                Ok(Some(s)) => return Err(failed(format!("{} drain ended with {s}", self.name))),
                _ if begun.elapsed() > Duration::from_secs(120) => {
                    return Err(failed(format!("{} drain did not end in 120 s", self.name)));
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for DrainProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Log records in a journal. An error where any was lost, or a part is damaged.
pub fn count_journal(dir: &Path) -> Result<u64> {
    let mut n = 0;
    let mut r = Reader::open(dir)?;
    while let Some(item) = r.next_batch()? {
        let Item::Batch(b) = item else { return Err(failed(format!("the journal has a gap: {item:?}"))) };
        for e in b.entries() {
            match e.kind {
                kind::LOG | kind::OUTPUT => n += 1,
                kind::LOSS => return Err(failed("the journal has a loss record")),
                _ => {}
            }
        }
    }
    Ok(n)
}

/// Waits until `f` says so.
pub fn until(what: &str, limit: Duration, mut f: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !f() {
        if begun.elapsed() > limit {
            return Err(failed(format!("not within {limit:?}: {what}")));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
