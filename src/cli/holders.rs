//! Who has a pipe or terminal open that a command was given.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Processes (pid and name) that have the other end of one of these open, in the order of their pids. Only
/// those that this user may look into, and none where there is no /proc.
pub fn holders(ends: &[&fs::File], except: &[u32]) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let wanted: Vec<Wanted> = ends.iter().filter_map(|f| Wanted::of(f)).collect();
    for e in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if except.contains(&pid) {
            continue;
        }
        let fds = fs::read_dir(e.path().join("fd")).into_iter().flatten().flatten();
        if fds.map(|fd| fd.path()).any(|fd| wanted.iter().any(|w| w.is(&fd))) {
            let name = fs::read_to_string(e.path().join("comm")).unwrap_or_default();
            found.push((pid, name.trim_end().to_string()));
        }
    }
    found.sort();
    found
}

/// How the other end of a pipe or terminal shows in /proc.
enum Wanted {
    Pipe { dev: u64, ino: u64 },
    Terminal { name: String },
}

impl Wanted {
    fn of(f: &fs::File) -> Option<Wanted> {
        if let Some(name) = spillring::sys::pty::other_end(f.as_raw_fd()) {
            return Some(Wanted::Terminal { name });
        }
        let m = f.metadata().ok()?;
        Some(Wanted::Pipe { dev: m.dev(), ino: m.ino() })
    }

    fn is(&self, fd: &Path) -> bool {
        match self {
            // Both ends of a pipe are one inode; who only reads holds nobody up.
            Wanted::Pipe { dev, ino } => {
                fs::metadata(fd).is_ok_and(|m| (m.dev(), m.ino()) == (*dev, *ino)) && writes(fd)
            }
            Wanted::Terminal { name } => fs::read_link(fd).is_ok_and(|l| l == Path::new(name)),
        }
    }
}

/// Whether a descriptor is open for writing.
fn writes(fd: &Path) -> bool {
    let info = fd.parent().and_then(Path::parent).zip(fd.file_name());
    let Some(text) = info.and_then(|(p, n)| fs::read_to_string(p.join("fdinfo").join(n)).ok()) else {
        return false;
    };
    let flags = text.lines().find_map(|l| l.strip_prefix("flags:"));
    flags.and_then(|f| i32::from_str_radix(f.trim(), 8).ok()).is_some_and(|f| f & libc::O_ACCMODE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::process::{Command, Stdio};

    #[test]
    fn who_writes_to_a_pipe_is_named_and_who_reads_is_not() {
        let (r, w) = std::io::pipe().unwrap();
        let end = fs::File::from(OwnedFd::from(r.try_clone().unwrap()));
        let sleep = |c: &mut Command| c.arg("60").spawn().unwrap();
        let mut writer = sleep(Command::new("sleep").stdin(Stdio::null()).stdout(w.try_clone().unwrap()));
        let mut reader = sleep(Command::new("sleep").stdin(r));
        let found = holders(&[&end], &[std::process::id()]);
        let _ = (writer.kill(), writer.wait(), reader.kill(), reader.wait());
        // (Another test may be about to start a process, which has it open for an instant.)
        assert!(found.contains(&(writer.id(), "sleep".to_string())), "{found:?}");
        assert!(found.iter().all(|h| h.0 != reader.id()), "{found:?}");
        assert!(holders(&[&end], &[]).iter().any(|h| h.0 == std::process::id()), "we have it open too");
        drop(w);
        assert!(holders(&[&end], &[]).iter().all(|h| h.0 != std::process::id()));
    }
}
