//! `spillring ls`: the channels of this user.

use super::counts;
use super::place;
use super::{Exit, LsArgs};
use spillring::env::Settings;
use spillring::sys::process::Facts;
use spillring::{Error, Result};
use std::io::Write;
use std::path::PathBuf;

/// The directories below the one of the channels that hold a `ctl`.
pub fn channels(settings: &Settings) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(&settings.dir) {
        Ok(e) => e,
        // No channel was ever made.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::os(format!("reading {}", settings.dir.display()), e)),
    };
    let mut found: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| p.join("ctl").exists()).collect();
    found.sort();
    Ok(found)
}

/// Runs it.
pub fn run(_: &LsArgs, settings: &Settings) -> Result<Exit> {
    let me = Facts::read();
    let mut lines = vec![["CHANNEL", "DRAIN", "PRODUCERS", "PENDING", "BYTES"].map(String::from)];
    let mut exit = Exit::Done;
    for dir in channels(settings)? {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let channel = match place::open(&dir) {
            Ok(c) => c,
            Err(e) => {
                say!("{e}");
                exit = Exit::Failed;
                continue;
            }
        };
        let (mut alive, mut dead, mut pending, mut bytes) = (0, 0, 0, 0);
        for stem in channel.producers()? {
            match channel.open_ring(stem) {
                Ok(view) => {
                    let p = counts::read(view, &me);
                    *if p.alive() { &mut alive } else { &mut dead } += 1;
                    pending += p.pending();
                    bytes += p.pending_bytes();
                }
                // Taken away meanwhile.
                Err(e) if e.errno == Some(libc::ENOENT) => {}
                Err(e) => {
                    say!("{e}");
                    exit = Exit::Failed;
                }
            }
        }
        let drain = match place::drain_of(&channel) {
            Some(0) => "elsewhere".into(),
            Some(pid) => pid.to_string(),
            None => "-".into(),
        };
        let producers = if dead == 0 { alive.to_string() } else { format!("{alive} + {dead} dead") };
        lines.push([name, drain, producers, pending.to_string(), bytes.to_string()]);
    }
    let width = |c: usize| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..5).map(width).collect();
    let mut out = std::io::stdout().lock();
    for l in &lines {
        let cells = l.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(out, "{}", line.trim_end()).map_err(|e| Error::os("writing to stdout", e))?;
    }
    Ok(exit)
}
