//! What of this machine keeps a promise from holding, and what to do about it: `spillring doctor`.
//!
//! Everything is read below a root, so that tests can make a machine of files. Reads only; allocates; may
//! block on the disk.

use crate::env::{Idle, Settings, name};
use crate::layout::ring::{ARENA, Geometry, MAX_SLOTS};
use crate::sys::{file, process, room};
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing: it costs something, or matters to some uses only.
    Note,
    /// Records may be lost, or calls may wait.
    Bad,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing is to be done.
    pub remedy: String,
}

impl fmt::Display for Check {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Good => "good",
            Verdict::Note => "note",
            Verdict::Bad => "BAD",
        };
        write!(f, "{verdict:<4}  {:<14}  {}", self.name, self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

fn good(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Good, found: found.into(), remedy: String::new() }
}
fn note(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Note, found: found.into(), remedy: remedy.into() }
}
fn bad(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Bad, found: found.into(), remedy: remedy.into() }
}

const MIB: u64 = 1 << 20;

/// The machine that is looked at.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Where its files are: `/`.
    pub root: PathBuf,
    /// Who asks.
    pub uid: u32,
    /// The file system of the channels, if it is not to be asked: whether it is in memory, bytes in all, and free.
    pub file_system: Option<(bool, u64, u64)>,
}

impl Machine {
    /// The one that this process runs on.
    pub fn this() -> Machine {
        Machine { root: "/".into(), uid: process::euid(), file_system: None }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read(self.at(path)).ok().map(|b| String::from_utf8_lossy(&b).trim().to_string())
    }

    /// A line for each question, for a program with these settings.
    pub fn checks(&self, settings: &Settings) -> Vec<Check> {
        let mut all = vec![self.tsc(), self.shared_memory(settings), self.memlock(settings)];
        all.extend(settings.huge.then(|| self.huge(settings)));
        all.extend([self.cores(settings), self.cgroup(), self.ptrace(), self.remove_ipc(settings)]);
        all.extend([self.open_files(), self.file_size()]);
        all
    }

    fn tsc(&self) -> Check {
        let name = "clock";
        let cpu = self.read("/proc/cpuinfo").unwrap_or_default();
        let line = |key: &str| cpu.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        if !line("Features").is_empty() {
            return good(name, "the generic timer, which is invariant");
        }
        let flags: Vec<&str> = line("flags").split_whitespace().collect();
        let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let source = self.read(clock).unwrap_or_else(|| "unknown".into());
        if !["constant_tsc", "nonstop_tsc"].iter().all(|f| flags.contains(f)) {
            return note(
                name,
                "the TSC of this processor is not invariant: timestamps come from clock_gettime",
                "nothing to do; a log call takes some 20 ns longer than on a machine with an invariant TSC",
            );
        }
        if source == "tsc" {
            return good(name, "the TSC is invariant, and the kernel's own clock");
        }
        note(
            name,
            format!("the TSC is invariant, but the kernel takes {source} for its clock"),
            format!(
                "in a virtual machine that is usual; where times of threads contradict each other, set {}=monotonic",
                name::CLOCK
            ),
        )
    }

    /// Bytes of a ring as these settings make it.
    fn ring(settings: &Settings) -> u64 {
        Geometry {
            lanes: settings.lanes,
            slots: MAX_SLOTS,
            granules: 1024,
            lane_stride: settings.lane_bytes,
            arena: ARENA,
        }
        .file_len()
    }

    fn shared_memory(&self, settings: &Settings) -> Check {
        let name = "shared memory";
        let dir = settings.dir.display();
        let asked = || {
            let below = self.at(&settings.dir.to_string_lossy());
            below.ancestors().take_while(|p| p.starts_with(&self.root)).find_map(|p| {
                let info = file::statfs(&CString::new(p.as_os_str().as_bytes()).ok()?).ok()?;
                Some((info.in_memory(), info.total, info.free))
            })
        };
        let Some((in_memory, total, free)) = self.file_system.or_else(asked) else {
            return bad(
                name,
                format!("{dir} cannot be looked at"),
                "make its directory, or name another place",
            );
        };
        let dir_var = name::DIR;
        if !in_memory {
            return bad(
                name,
                format!("{dir} is not on a tmpfs: a log call may wait for the disk"),
                format!("name a directory on one by {dir_var}"),
            );
        }
        let (ring, total, free) = (Self::ring(settings).div_ceil(MIB), total / MIB, free / MIB);
        let found = format!("{dir} has {free} of {total} MiB free; a ring takes up to {ring}");
        let remedy = format!(
            "mount -o remount,size=1g {} (containers: --shm-size=1g), or take fewer or smaller lanes ({}, {})",
            if settings.dir.starts_with("/dev/shm") { "/dev/shm" } else { "the file system" },
            name::LANES,
            name::LANE
        );
        // Beside the ring, the spill may take a quarter of what is free.
        match free {
            f if f < ring + 16 => bad(name, found, remedy),
            f if f < 4 * ring + 64 => note(name, found, remedy),
            _ => good(name, found),
        }
    }

    /// The soft limit of a line in /proc/self/limits; `None` = unlimited.
    fn limit(&self, of: &str) -> Option<u64> {
        let text = self.read("/proc/self/limits")?;
        let line = text.lines().find_map(|l| l.strip_prefix(of))?;
        line.split_whitespace().next()?.parse().ok()
    }

    fn memlock(&self, settings: &Settings) -> Check {
        let name = "locked memory";
        let ring = Self::ring(settings);
        match self.limit("Max locked memory") {
            None => good(name, "unlimited"),
            Some(n) if n >= ring => {
                good(name, format!("{} KiB may be locked, a ring has {}", n >> 10, ring >> 10))
            }
            Some(n) => {
                let found = format!("{} KiB may be locked, a ring has {}", n >> 10, ring >> 10);
                let remedy = format!("ulimit -l {}, or LimitMEMLOCK={} for a service", ring >> 10, ring);
                match settings.lock {
                    true => bad(name, found, remedy),
                    false => note(name, found, format!("only for {}=yes: {remedy}", name::LOCK)),
                }
            }
        }
    }

    /// Asked only where they are wanted.
    fn huge(&self, settings: &Settings) -> Check {
        let name = "huge pages";
        let mounts = self.read("/proc/self/mounts").unwrap_or_default();
        let of = |l: &str| {
            let mut w = l.split(' ').skip(1);
            let (dir, options) = (w.next()?, w.nth(1)?);
            settings.dir.starts_with(dir).then(|| (dir.len(), dir.to_string(), options.to_string()))
        };
        let Some((_, dir, options)) = mounts.lines().filter_map(of).max_by_key(|m| m.0) else {
            return note(name, "the mounts cannot be read", "look at /proc/self/mounts");
        };
        let given = options.split(',').find_map(|o| o.strip_prefix("huge="));
        match given {
            Some(how @ ("always" | "within_size" | "advise")) => good(name, format!("{dir} has huge={how}")),
            _ => bad(
                name,
                format!("{dir} gives none, and {}=yes asks for them", name::HUGE),
                format!("mount -o remount,huge=advise {dir}"),
            ),
        }
    }

    fn cores(&self, settings: &Settings) -> Check {
        let name = "drain's core";
        let list =
            |what: &str| cpus(&self.read(&format!("/sys/devices/system/cpu/{what}")).unwrap_or_default());
        let (isolated, online) = (list("isolated"), list("online"));
        if let Some(cpu) = settings.drain_cpu {
            if !online.is_empty() && !online.contains(&cpu) {
                return bad(
                    name,
                    format!("{}={cpu}, and there is no such processor online", name::DRAIN_CPU),
                    "name one of /sys/devices/system/cpu/online",
                );
            }
            if isolated.contains(&cpu) {
                return good(name, format!("processor {cpu}, which is isolated"));
            }
        }
        let remedy = format!("isolcpus=N on the kernel's command line, then {}=N", name::DRAIN_CPU);
        let found = match isolated.len() {
            0 => format!("none of {} is isolated: others run where the drain runs", online.len()),
            n => format!("{n} are isolated, and the drain is on none of them"),
        };
        match settings.idle {
            // A drain that spins keeps everybody else off its core, or they it.
            Idle::Spin => note(name, found, remedy),
            _ => note(name, found, format!("needed only for {}=spin: {remedy}", name::IDLE)),
        }
    }

    fn cgroup(&self) -> Check {
        let name = "memory cgroup";
        let Some(room) = room::memory_room_below(self.root.as_os_str().as_bytes()) else {
            return good(name, "no limit");
        };
        let found = format!("{} MiB are left of its limit", room / MIB);
        let remedy = "raise the limit (MemoryMax=, docker run --memory): rings and spills count, and past it the \
                      kernel kills";
        match room / MIB {
            0..64 => bad(name, found, remedy),
            64..256 => note(name, found, remedy),
            _ => good(name, found),
        }
    }

    fn ptrace(&self) -> Check {
        let name = "ptrace";
        let remedy = "spillring needs none of it; for debuggers: sysctl kernel.yama.ptrace_scope=0";
        match self.read("/proc/sys/kernel/yama/ptrace_scope").as_deref() {
            None => good(name, "not restricted"),
            Some("0") => good(name, "a user's processes may be looked at by that user"),
            Some("1") => note(name, "only a parent may look into a process (scope 1)", remedy),
            Some("2") => note(name, "only root may look into a process (scope 2)", remedy),
            Some(s) => note(name, format!("nobody may look into a process (scope {s})"), remedy),
        }
    }

    fn remove_ipc(&self, settings: &Settings) -> Check {
        let name = "logind";
        if self.uid < 1000 {
            return good(name, "leaves the files of system users alone");
        }
        if !settings.dir.starts_with("/dev/shm") {
            return good(name, "RemoveIPC is about /dev/shm, and the channels are elsewhere");
        }
        if !self.at("/run/systemd/system").is_dir() {
            return good(name, "systemd does not run here");
        }
        let mut files = vec![self.at("/etc/systemd/logind.conf")];
        for dir in ["/usr/lib", "/run", "/etc"] {
            let dir = self.at(&format!("{dir}/systemd/logind.conf.d"));
            let mut here: Vec<PathBuf> =
                fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
            here.retain(|p| p.extension().is_some_and(|e| e == "conf"));
            here.sort();
            files.extend(here);
        }
        let set = files.iter().filter_map(|f| fs::read_to_string(f).ok()).flat_map(|text| {
            text.lines()
                .filter_map(|l| Some(l.trim().strip_prefix("RemoveIPC=")?.to_ascii_lowercase()))
                .next_back()
        });
        match set.last().as_deref() {
            Some("no" | "0" | "false" | "off") => good(name, "RemoveIPC=no"),
            _ => bad(
                name,
                format!(
                    "deletes the channels in {} when user {} logs out (RemoveIPC)",
                    settings.dir.display(),
                    self.uid
                ),
                format!(
                    "RemoveIPC=no in /etc/systemd/logind.conf, a system account, or {}=$XDG_RUNTIME_DIR/spillring",
                    name::DIR
                ),
            ),
        }
    }

    fn open_files(&self) -> Check {
        let name = "open files";
        let remedy = "ulimit -n 4096, or LimitNOFILE=4096 for a service";
        match self.limit("Max open files") {
            None => good(name, "unlimited"),
            // The drain has three for each producer.
            Some(n) if n < 256 => bad(name, format!("{n}: a drain serves some {} producers", n / 4), remedy),
            Some(n) if n < 1024 => {
                note(name, format!("{n}: a drain serves some {} producers", n / 4), remedy)
            }
            Some(n) => good(name, format!("{n}")),
        }
    }

    fn file_size(&self) -> Check {
        let name = "file size";
        match self.limit("Max file size") {
            None => good(name, "unlimited"),
            Some(n) => bad(
                name,
                format!("{} KiB: what a spill holds at a time, and each file of a sink, ends there", n >> 10),
                "ulimit -f unlimited, or LimitFSIZE=infinity for a service",
            ),
        }
    }
}

/// `0-3,8` as numbers.
fn cpus(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        Some(a.trim().parse::<u32>().ok()?..=b.trim().parse::<u32>().ok()?.min(4095))
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Whether anything is bad.
pub fn any_bad(checks: &[Check]) -> bool {
    checks.iter().any(|c| c.verdict == Verdict::Bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpus("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!((cpus(""), cpus("x"), cpus("5").len()), (vec![], vec![], 1));
    }
}
