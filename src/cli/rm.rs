//! `spillring rm`: removes a channel that nobody uses any more.

use super::counts;
use super::place;
use super::{Exit, RmArgs};
use spillring::channel::{Channel, Stem};
use spillring::env::Settings;
use spillring::journal::Segment;
use spillring::sys::process::Facts;
use spillring::{Code, Error, Result};
use std::path::Path;

/// Runs it.
pub fn run(args: &RmArgs, settings: &Settings) -> Result<Exit> {
    let mut exit = Exit::Done;
    for channel in &args.channel {
        let dir = channel.dir(settings);
        let done = check(&dir, args.force).and_then(|in_use| match in_use {
            Some(why) => {
                say!("{channel} is in use: {why}; stop that first, or use --force");
                Ok(false)
            }
            None => remove(&dir, settings, args.keep_journal).map(|()| true),
        });
        match done {
            Ok(true) => {}
            Ok(false) => exit = Exit::InUse,
            Err(e) => {
                say!("{e}");
                exit = Exit::from(&e);
            }
        }
    }
    Ok(exit)
}

/// Why a channel must stay.
fn check(dir: &Path, force: bool) -> Result<Option<String>> {
    let channel = match place::open(dir) {
        Ok(c) => c,
        // Whatever is wrong with it, what is asked for is that it goes; but it must be one.
        Err(e) if force && e.code != Code::NoChannel && dir.join("ctl").exists() => return Ok(None),
        Err(e) => return Err(e),
    };
    if force {
        return Ok(None);
    }
    if let Some(pid) = place::drain_of(&channel) {
        return Ok(Some(match pid {
            0 => "a drain in another pid namespace has it".to_string(),
            pid => format!("a drain (pid {pid}) has it"),
        }));
    }
    used_by(&channel, &[])
}

/// The producers' reason why a channel must stay: one is alive, or something is pending. `except`: pids of
/// the asker's own.
pub fn used_by(channel: &Channel, except: &[u32]) -> Result<Option<String>> {
    let me = Facts::read();
    for stem in channel.producers()?.into_iter().filter(|s| !except.contains(&s.pid)) {
        let p = match channel.open_ring(stem) {
            Ok(view) => counts::read(view, &me),
            Err(e) if e.errno == Some(libc::ENOENT) => continue,
            Err(e) => return Ok(Some(e.to_string())),
        };
        if p.alive() {
            return Ok(Some(format!("producer {} (pid {}, {}) is alive", p.stem, p.pid, p.comm)));
        }
        if p.pending() != 0 {
            let n = p.pending();
            return Ok(Some(format!(
                "{n} records of {} are in no journal yet: start a drain for it",
                p.stem
            )));
        }
    }
    Ok(None)
}

/// Whether a file of this name is one of a channel's own.
fn is_ours(name: &str) -> bool {
    let producers = [".ring", ".ack", ".spill"].iter().find_map(|s| name.strip_suffix(s));
    name == "ctl"
        || name == "drain.lock"
        || name.starts_with(".tmp-")
        || name.starts_with("sink-") && name.contains(".stat")
        || producers.is_some_and(|p| Stem::parse(p.as_bytes()).is_some())
}

/// Removes the files of a channel and of its journal, and nothing else: what else stands in these
/// directories stays, and is named.
pub fn remove(dir: &Path, settings: &Settings, keep_journal: bool) -> Result<()> {
    let inside = dir.join("journal");
    let mut journals = settings.journal_candidates(dir);
    if !journals.contains(&inside) {
        journals.push(inside);
    }
    if !keep_journal {
        for j in &journals {
            clear(j, is_journals)?;
        }
    } else if journals.iter().any(|j| j.starts_with(dir) && j.exists()) {
        let place = dir.join("journal");
        return Err(Error::new(
            Code::BadValue,
            format!(
                "the journal is inside the channel, {}: copy it, or leave out --keep-journal",
                place.display()
            ),
        ));
    }
    clear(dir, is_ours)
}

/// Whether a file of this name is one of a journal's own.
fn is_journals(name: &str) -> bool {
    Segment::parse(name).is_some()
        || name == "journal.lock"
        || name.starts_with("sink-") && name.contains(".cursor")
        || name.starts_with(".probe-")
}

fn clear(dir: &Path, ours: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(e) => e,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::os(format!("reading {}", dir.display()), e)),
    };
    let files: Vec<_> = entries.flatten().collect();
    let foreign = |e: &&std::fs::DirEntry| {
        let journal = e.file_name() == "journal" && e.path().is_dir();
        !journal && !e.file_name().to_str().is_some_and(&ours)
    };
    if let Some(f) = files.iter().find(foreign) {
        let text = "is no file of spillring: nothing in this directory is removed; move it away first";
        return Err(Error::new(Code::BadFile, format!("{} {text}", f.path().display())));
    }
    for f in &files {
        match std::fs::remove_file(f.path()) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::os(format!("removing {}", f.path().display()), e)),
        }
    }
    std::fs::remove_dir(dir).map_err(|e| Error::os(format!("removing {}", dir.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_files_are_removed() {
        assert!(is_ours("ctl") && is_ours("17-0000000000000abc.spill") && is_ours(".tmp-1-2"));
        assert!(!is_ours("notes.ring") && !is_ours("journal") && !is_ours("ctl.bak"));
        let d = tempfile::tempdir().unwrap();
        let dir = d.path().join("c");
        std::fs::create_dir(&dir).unwrap();
        for f in ["ctl", "drain.lock", "17-0000000000000abc.ring", "mine.txt"] {
            std::fs::write(dir.join(f), "").unwrap();
        }
        let e = clear(&dir, is_ours).unwrap_err();
        assert!(e.message.contains("mine.txt"), "{e}");
        assert!(dir.join("mine.txt").exists() && dir.join("ctl").exists());
        std::fs::remove_file(dir.join("mine.txt")).unwrap();
        clear(&dir, is_ours).unwrap();
        assert!(!dir.exists());
    }
}
