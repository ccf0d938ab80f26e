//! What the tests of the command share: cases that need a tool, a place of its own for the command, a terminal.
#![allow(dead_code, unsafe_code)]

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

/// The command.
pub const BIN: &str = env!("CARGO_BIN_EXE_spillring");

/// One test: its name, the tools that it starts, and what it does.
pub type Case = (&'static str, &'static [&'static str], fn());

/// Runs them. One whose tools are missing is ignored and says so; where tests must be complete it fails.
pub fn run(cases: Vec<Case>) -> ExitCode {
    let strict = std::env::var("CI").is_ok_and(|v| v == "true");
    let trial = |(name, tools, f): Case| {
        let lacks: Vec<_> = tools.iter().filter(|t| !have(t)).copied().collect();
        let name = match lacks[..] {
            [] => name.to_string(),
            _ => format!("{name} (needs {})", lacks.join(", ")),
        };
        let missing = !lacks.is_empty();
        let run = move || -> Result<(), Failed> {
            if missing {
                return Err("its tools are missing".into());
            }
            f();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(missing && !strict)
    };
    libtest_mimic::run(&Arguments::from_args(), cases.into_iter().map(trial).collect()).exit_code()
}

pub fn have(tool: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(tool).is_file()))
}

/// A place of its own for channels and journals.
pub struct Place {
    shm: tempfile::TempDir,
    disk: tempfile::TempDir,
    channel: Option<&'static str>,
}

impl Place {
    pub fn new() -> Place {
        let (shm, disk) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap());
        Place { shm, disk, channel: None }
    }
    /// Where programs log to this channel.
    pub fn of_channel(channel: &'static str) -> Place {
        Place { channel: Some(channel), ..Place::new() }
    }
    pub fn channels(&self) -> PathBuf {
        self.shm.path().join("c")
    }
    pub fn channel(&self, name: &str) -> PathBuf {
        self.channels().join(name)
    }
    pub fn journals(&self) -> PathBuf {
        self.disk.path().join("j")
    }
    pub fn journal(&self, channel: &str) -> PathBuf {
        self.journals().join(channel)
    }
    pub fn file(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }
    /// The environment of a user who has set nothing.
    pub fn env(&self, c: &mut Command) {
        let ours = |n: &str| n.starts_with("SPILLRING_") || matches!(n, "PAGER" | "LESS" | "NO_COLOR" | "TZ");
        for (name, _) in std::env::vars_os().filter(|(n, _)| ours(&n.to_string_lossy())) {
            c.env_remove(name);
        }
        c.env("SPILLRING_DIR", self.channels()).env("SPILLRING_JOURNAL_DIR", self.journals());
        c.envs(self.channel.map(|name| ("SPILLRING_CHANNEL", name)));
        c.stdin(Stdio::null());
    }
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(BIN);
        c.args(args);
        self.env(&mut c);
        c
    }
    pub fn spillring(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
    /// stdout of a command that must succeed, without a word on stderr.
    pub fn says(&self, args: &[&str]) -> String {
        let o = self.spillring(args);
        assert!(o.status.success() && o.stderr.is_empty(), "{args:?}: {:?} {}", o.status, err(&o));
        out(&o)
    }
}

pub fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}
pub fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

/// Waits, but not for ever.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that does not outlive the test.
pub struct Killed(pub std::process::Child);
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `run` that does not outlive the test: told to end, and its command with it (SIGKILL would leave that).
pub struct Running(pub std::process::Child);
impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: plain numbers; the process is our child and not waited for yet.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let begun = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command on a terminal of 24 lines: what it shows, and its status.
pub fn on_terminal(mut c: Command) -> (String, std::process::ExitStatus) {
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptors are written by the call and owned from here on; name and modes are not asked for.
    let (mut ours, theirs) = unsafe {
        let (name, modes) = (std::ptr::null_mut(), std::ptr::null());
        assert_eq!(libc::openpty(&mut ours, &mut theirs, name, modes, &size), 0);
        (std::fs::File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    };
    let same = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = c.stdin(same()).stdout(same()).stderr(same()).spawn().unwrap();
    drop((c, theirs));
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    // Its end is an error (EIO) when the last one on the other side has gone.
    while let Ok(n) = ours.read(&mut chunk) {
        if n == 0 {
            break;
        }
        text.extend_from_slice(&chunk[..n]);
    }
    let status = child.wait().unwrap();
    (String::from_utf8_lossy(&text).replace("\r\n", "\n"), status)
}
