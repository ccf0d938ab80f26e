//! Where `cat` and `tail` print: a pipe or file as it is; a terminal with colour, local time and a pager.

use super::{ColorWhen, times};
use jiff::tz::TimeZone;
use spillring::sys::child;
use spillring::{Error, Result};
use std::io::{IsTerminal, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes that are printed at once.
pub const FULL: usize = 64 << 10;
/// After so long without a line on the terminal, something is said of how far it is.
const SILENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(200);

/// What is asked for.
pub struct Wish {
    pub color: ColorWhen,
    /// The output may go through a pager.
    pub pager: bool,
    /// It is our text, which may be dressed for people.
    pub text: bool,
}

/// The output.
pub struct Screen {
    /// What is to be printed next.
    pub buf: Vec<u8>,
    /// Bytes that a sink has delivered already, which are left out.
    pub skip: u64,
    dress: Option<Dress>,
    to: To,
    /// Said while a pager has the terminal; printed when it has gone.
    later: Vec<String>,
    progress: Option<Progress>,
}

enum To {
    Stdout,
    /// Until more than a screen has come.
    Held {
        bytes: Vec<u8>,
        lines: usize,
        rows: usize,
        pager: String,
    },
    Pager(Child, Option<ChildStdin>),
}

impl Screen {
    pub fn new(wish: &Wish) -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let color = match wish.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => {
                terminal
                    && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
                    && std::env::var_os("TERM").is_none_or(|v| v != "dumb")
            }
        };
        let zone = terminal.then(TimeZone::system);
        let dress = (wish.text && (color || zone.is_some())).then_some(Dress { color, zone, within: false });
        let pager = if wish.pager && terminal { pager() } else { None };
        let to = match pager {
            Some(pager) => {
                let rows = terminal_rows();
                To::Held { bytes: Vec::new(), lines: 0, rows, pager }
            }
            None => To::Stdout,
        };
        // A terminal shows by what it prints that it works.
        let progress = std::io::stderr().is_terminal().then(Progress::new);
        Screen { buf: Vec::new(), skip: 0, dress, to, later: Vec::new(), progress }
    }

    /// Prints the buffer.
    pub fn flush(&mut self) -> Result<()> {
        let skipped = self.buf.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        let plain = &self.buf[skipped..];
        if plain.is_empty() {
            self.buf.clear();
            return Ok(());
        }
        if let Some(p) = &mut self.progress {
            p.quiet();
        }
        let mut dressed = Vec::new();
        let bytes = match &mut self.dress {
            Some(d) => {
                d.put(plain, &mut dressed);
                &dressed[..]
            }
            None => plain,
        };
        let done = match &mut self.to {
            To::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            To::Held { bytes: held, lines, .. } => {
                *lines += bytes.iter().filter(|&&b| b == b'\n').count();
                held.extend_from_slice(bytes);
                Ok(())
            }
            To::Pager(_, Some(to)) => to.write_all(bytes),
            To::Pager(_, None) => Ok(()),
        };
        self.buf.clear();
        done.map_err(|e| Error::os("writing to stdout", e))?;
        if let To::Held { lines, rows, .. } = &self.to
            && lines >= rows
        {
            self.start_pager()?;
        }
        Ok(())
    }

    fn start_pager(&mut self) -> Result<()> {
        let To::Held { bytes, pager, .. } = std::mem::replace(&mut self.to, To::Stdout) else {
            return Ok(());
        };
        let mut c = Command::new("sh");
        c.args(["-c", &pager]).stdin(Stdio::piped());
        // Leave colours alone, and cut no line.
        if std::env::var_os("LESS").is_none() {
            c.env("LESS", "FRSX");
        }
        let failed = |e| Error::os(format!("starting the pager {pager:?}"), e);
        let mut child = c.spawn().map_err(failed)?;
        child::ignore_interrupts();
        let mut to = child.stdin.take();
        let done = to.as_mut().map_or(Ok(()), |to| to.write_all(&bytes));
        self.to = To::Pager(child, to);
        done.map_err(|e| Error::os("writing to the pager", e))
    }

    /// Something for people, at its place between the records.
    pub fn say(&mut self, what: String) -> Result<()> {
        self.flush()?;
        if let Some(p) = &mut self.progress {
            p.quiet();
        }
        match self.to {
            To::Stdout => say!("{what}"),
            _ => self.later.push(what),
        }
        Ok(())
    }

    /// So much of the work is done.
    pub fn progress(&mut self, done: u64, of: u64) {
        if let (Some(p), To::Stdout | To::Held { .. }) = (&mut self.progress, &self.to) {
            p.show(done, of);
        }
    }

    /// The end: the pager is waited for.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        if let Some(p) = &mut self.progress {
            p.quiet();
        }
        match std::mem::replace(&mut self.to, To::Stdout) {
            To::Stdout => {}
            To::Held { bytes, .. } => {
                let mut out = std::io::stdout().lock();
                let done = out.write_all(&bytes).and_then(|()| out.flush());
                done.map_err(|e| Error::os("writing to stdout", e))?;
            }
            To::Pager(mut child, to) => {
                drop(to);
                child.wait().map_err(|e| Error::os("waiting for the pager", e))?;
            }
        }
        self.later.iter().for_each(|l| say!("{l}"));
        Ok(())
    }
}

/// The user's pager; `None`: none is wanted, or there is none.
fn pager() -> Option<String> {
    match std::env::var("PAGER") {
        Ok(p) if p.trim().is_empty() || p == "cat" => None,
        Ok(p) => Some(p),
        Err(_) => {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).any(|d| d.join("less").is_file()).then(|| "less".to_string())
        }
    }
}

fn terminal_rows() -> usize {
    let asked = spillring::sys::file::terminal_rows(1).map(usize::from).filter(|&n| n > 0);
    // One stays for the prompt.
    asked.unwrap_or(24) - 1
}

/// How far it is, on a line of stderr that goes away again.
struct Progress {
    since: Instant,
    drawn: Option<Instant>,
}

impl Progress {
    fn new() -> Progress {
        Progress { since: Instant::now(), drawn: None }
    }
    fn show(&mut self, done: u64, of: u64) {
        if let Some(line) = self.line(Instant::now(), done, of) {
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
    /// The line, if it is time for one.
    fn line(&mut self, now: Instant, done: u64, of: u64) -> Option<String> {
        if now - self.since < SILENCE || self.drawn.is_some_and(|t| now - t < REDRAW) {
            return None;
        }
        self.drawn = Some(now);
        let percent = (done.min(of) as f64 / of.max(1) as f64 * 100.0) as u32;
        Some(format!("\r{percent:3} %  {} of {} MiB read\x1b[K", done >> 20, of >> 20))
    }
    /// Something else is printed now.
    fn quiet(&mut self) {
        if self.drawn.take().is_some() {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
        self.since = Instant::now();
    }
}

/// Text as people like it: local time, and colour.
struct Dress {
    color: bool,
    zone: Option<TimeZone>,
    /// What was put ends within a line.
    within: bool,
}

/// Bytes of the time at the beginning of a line.
const TIME: usize = 30;

impl Dress {
    fn put(&mut self, text: &[u8], out: &mut Vec<u8>) {
        for line in text.split_inclusive(|&b| b == b'\n') {
            if self.within || line.len() <= TIME + 7 || line[TIME] != b' ' {
                out.extend_from_slice(line);
            } else {
                self.line(line, out);
            }
            self.within = !line.ends_with(b"\n");
        }
    }

    fn line(&self, line: &[u8], out: &mut Vec<u8>) {
        let (time, rest) = line.split_at(TIME);
        let local = self.zone.as_ref().and_then(|z| times::local(time, z));
        let time = local.as_ref().map_or(time, |t| t.as_bytes());
        if !self.color {
            out.extend_from_slice(time);
            return out.extend_from_slice(rest);
        }
        let paint = |out: &mut Vec<u8>, code: &str, text: &[u8]| {
            out.extend_from_slice(format!("\x1b[{code}m").as_bytes());
            out.extend_from_slice(text);
            out.extend_from_slice(b"\x1b[0m");
        };
        paint(out, "2", time);
        out.push(b' ');
        // The level's column, then the target up to its bracket.
        let (level, rest) = rest[1..].split_at(6);
        let code = match level {
            b"ERROR " => "1;31",
            b"WARN  " => "33",
            b"INFO  " => "32",
            b"DEBUG " => "34",
            b"LOST  " => "1;7;31",
            b"NOTE  " => "36",
            _ => "2",
        };
        paint(out, code, level);
        let target = rest.iter().position(|&b| b == b'[').unwrap_or(0);
        paint(out, "1", &rest[..target]);
        let end = rest.iter().position(|&b| b == b']').map_or(target, |n| n + 1).max(target);
        paint(out, "2", &rest[target..end]);
        out.extend_from_slice(&rest[end..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_shown_after_a_second_and_not_too_often() {
        let mut p = Progress::new();
        let at = |ms: u64| p.since + Duration::from_millis(ms);
        let (soon, late, again, later) = (at(900), at(1100), at(1200), at(1400));
        assert_eq!(p.line(soon, 1 << 20, 4 << 20), None);
        assert_eq!(p.line(late, 1 << 20, 4 << 20).as_deref(), Some("\r 25 %  1 of 4 MiB read\x1b[K"));
        assert_eq!(p.line(again, 2 << 20, 4 << 20), None);
        assert!(p.line(later, 9 << 20, 4 << 20).unwrap().starts_with("\r100 %"));
        assert_eq!(Progress::new().line(Instant::now(), 0, 0), None);
    }

    #[test]
    fn lines_are_dressed_and_their_rests_are_not() {
        let zone = Some(TimeZone::fixed(jiff::tz::offset(1)));
        let mut d = Dress { color: false, zone, within: false };
        let mut out = Vec::new();
        d.put(
            b"2026-11-21T02:44:42.000000000Z INFO  app[1:2] hello\nwhat is that\n2026-11-21T02:44:42.0000",
            &mut out,
        );
        d.put(b"\n2026-11-21T02:44:42.000000000Z -     stdout[1:1] x", &mut out);
        d.put(b"2026-11-21T02:44:42.000000000Z -     stdout[1:1] x\n", &mut out);
        let want = "2026-11-21T03:44:42.000000000+01:00 INFO  app[1:2] hello\nwhat is that\n2026-11-21T02:44:42.0000\n\
                    2026-11-21T03:44:42.000000000+01:00 -     stdout[1:1] x\
                    2026-11-21T02:44:42.000000000Z -     stdout[1:1] x\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
        let mut d = Dress { color: true, zone: None, within: false };
        let mut out = Vec::new();
        d.put(b"2026-11-21T02:44:42.000000000Z ERROR app[1:2] no\n", &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "\x1b[2m2026-11-21T02:44:42.000000000Z\x1b[0m \x1b[1;31mERROR \x1b[0m\x1b[1mapp\x1b[0m\x1b[2m[1:2]\x1b[0m no\n"
        );
    }
}
