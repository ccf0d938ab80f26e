//! `spillring stat`: what became of every record, and whether it adds up.

use super::counts::{self, Producer, Row};
use super::place::{self, ChannelArg};
use super::{Exit, StatArgs};
use serde_json::{Value, json};
use spillring::channel::{Channel, Dead};
use spillring::env::Settings;
use spillring::journal::Segment;
use spillring::layout::ctl;
use spillring::sink::{Cursor, Lag, SinkStatus, State};
use spillring::sync::Ordering::Acquire;
use spillring::sys::process::Facts;
use spillring::{Error, Result};
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a drain gets to pass once more, when what is pending should not be.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything that is shown.
struct Stat {
    channel: String,
    drain: Option<u32>,
    passes: u64,
    producers: Vec<Producer>,
    unreadable: Vec<String>,
    journal: Option<Journal>,
    /// Sums of the producers whose files are taken away, and how many they were.
    gone: Row,
    gone_producers: u64,
    /// Of one that is being taken away nothing may be in this.
    between: bool,
    sinks: Vec<Sink>,
}

/// One output.
struct Sink {
    status: SinkStatus,
    lag: Lag,
    lag_ns: u64,
}

/// What the journal's files say by their names.
struct Journal {
    dir: PathBuf,
    segments: usize,
    bytes: u64,
    /// Number of the oldest record that is kept.
    oldest: u64,
    /// Records ever written to it.
    records: u64,
}

/// Runs it.
pub fn run(args: &StatArgs, settings: &Settings) -> Result<Exit> {
    let arg = args.channel.clone().unwrap_or_else(|| ChannelArg::Name(settings.channel.clone()));
    let dir = arg.dir(settings);
    let channel = place::open(&dir)?;
    let mut stat = read(&channel, &dir, &arg, settings)?;
    let begun = Instant::now();
    // Everybody is dead and a drain runs: it needs a pass after the last death, and one to take away. And
    // the sums of who is gone are stored one by one, when their rings are not there any more.
    while (stat.overdue() || stat.gone.pending != 0 || stat.between) && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(if stat.between { 1 } else { 20 }));
        stat = read(&channel, &dir, &arg, settings)?;
    }
    let wrong = stat.wrong();
    let text = if args.json {
        let mut text = stat.json(&wrong).to_string();
        text.push('\n');
        text
    } else {
        stat.table(&wrong)
    };
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|e| Error::os("writing to stdout", e))?;
    for what in wrong.iter().chain(&stat.unreadable) {
        say!("{what}");
    }
    Ok(if wrong.is_empty() && stat.unreadable.is_empty() { Exit::Done } else { Exit::Failed })
}

fn read(channel: &Channel, dir: &Path, arg: &ChannelArg, settings: &Settings) -> Result<Stat> {
    let me = Facts::read();
    let (mut producers, mut unreadable) = (Vec::new(), Vec::new());
    // Before the rings are looked at: one that is taken away meanwhile is counted once at most.
    let c = |at| channel.ctl().word(at).load(Acquire);
    let taken = c(ctl::GONE_SEQ);
    let gone_producers = c(ctl::GONE_RINGS);
    let gone = Row {
        name: format!("{gone_producers} gone"),
        written: c(ctl::GONE_WRITTEN),
        delivered: c(ctl::GONE_DELIVERED),
        lost: c(ctl::GONE_LOST),
        reported: c(ctl::GONE_LOST),
        ..Row::default()
    };
    let mut stems = channel.producers()?;
    stems.sort();
    for stem in stems {
        match channel.open_ring(stem) {
            Ok(view) => producers.push(counts::read(view, &me)),
            // Taken away meanwhile: the journal has it.
            Err(e) if e.errno == Some(libc::ENOENT) => {}
            Err(e) => unreadable.push(e.to_string()),
        }
    }
    // Or it was not counted at all: then this is to be read again, as long as a drain is there to count it.
    let drain = place::drain_of(channel);
    let between = drain.is_some() && (taken & 1 == 1 || c(ctl::GONE_SEQ) != taken);
    let place = arg.journal(settings).ok();
    let journal = place.as_deref().and_then(journal);
    Ok(Stat {
        channel: dir.display().to_string(),
        gone: gone.balance(),
        gone_producers,
        sinks: sinks(dir, journal.as_ref())?,
        drain,
        between,
        passes: channel.ctl().word(ctl::PASSES).load(Acquire),
        producers,
        unreadable,
        journal,
    })
}

fn sinks(dir: &Path, journal: Option<&Journal>) -> Result<Vec<Sink>> {
    let now = spillring::sys::time::utc_ns().cast_signed();
    let all = SinkStatus::read_all(dir)?.into_iter().map(|status| {
        let position =
            journal.and_then(|j| Cursor::load(&j.dir, &status.name).ok().flatten()).map(|c| c.position);
        // One that ended with all delivered may have had nothing to write of it.
        let lag = match status.state {
            State::Delivered => None,
            _ => journal.and_then(|j| Lag::before(j.records, &j.dir, position.as_ref(), status.next).ok()),
        }
        .unwrap_or_default();
        let lag_ns = if lag.records == 0 { 0 } else { status.lag_ns(now) };
        Sink { status, lag, lag_ns }
    });
    Ok(all.collect())
}

/// Reads the end of the newest segment only: a journal may be large.
fn journal(dir: &Path) -> Option<Journal> {
    use spillring::journal::{DirSource, Reader};
    let mut segments = Vec::new();
    let mut bytes = 0;
    for e in std::fs::read_dir(dir).ok()?.flatten() {
        if let Some(s) = e.file_name().to_str().and_then(Segment::parse) {
            segments.push(s);
            bytes += e.metadata().map_or(0, |m| m.len());
        }
    }
    let oldest = segments.iter().map(|s| s.first_record).min()?;
    let newest = segments.iter().map(|s| s.first_record).max()?;
    let records = Reader::end(DirSource::open(dir).ok()?).ok().flatten().unwrap_or(0).max(newest);
    Some(Journal { dir: dir.to_path_buf(), segments: segments.len(), bytes, oldest, records })
}

impl Stat {
    fn rows(&self) -> impl Iterator<Item = (&Producer, &Row)> {
        self.producers.iter().flat_map(|p| p.rows.iter().map(move |r| (p, r)))
    }

    fn sum(&self, f: impl Fn(&Row) -> u64) -> u64 {
        self.rows().map(|(_, r)| f(r)).sum::<u64>() + f(&self.gone)
    }

    /// Something is pending that a drain should have taken.
    fn overdue(&self) -> bool {
        self.drain.is_some()
            && self.producers.iter().all(|p| p.dead == Dead::Yes)
            && self.rows().any(|(_, r)| r.pending > 0)
    }

    /// What does not add up.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (p, r) in self.rows() {
            if r.pending < 0 {
                wrong.push(format!(
                    "{} of {} does not add up: {} delivered, suppressed or lost, of {} written",
                    r.name,
                    p.stem,
                    r.delivered + r.suppressed + r.lost,
                    r.written
                ));
            }
            if r.reported > r.lost {
                let (a, b) = (r.reported, r.lost);
                wrong.push(format!("{} of {} does not add up: {a} reported as lost, of {b}", r.name, p.stem));
            }
        }
        if self.gone.pending != 0 {
            let g = &self.gone;
            let (w, d, l) = (g.written, g.delivered, g.lost);
            wrong.push(format!(
                "what gone producers wrote does not add up: {w} written, {d} delivered, {l} lost"
            ));
        }
        if self.overdue() {
            let n: i64 = self.rows().map(|(_, r)| r.pending).sum();
            wrong.push(format!("{n} records are pending, although every producer is dead and a drain runs"));
        }
        wrong
    }

    fn json(&self, wrong: &[String]) -> Value {
        let row = |r: &Row| {
            json!({
                "name": r.name, "written": r.written, "delivered": r.delivered, "pending": r.pending,
                "suppressed": r.suppressed, "lost": r.lost, "lost_reported": r.reported,
                "pending_bytes": r.pending_bytes, "kernel_calls": r.kernel_calls,
                "kernel_max_ns": r.kernel_max_ns, "thread": r.thread, "tid": r.tid,
            })
        };
        let producer = |p: &Producer| {
            json!({
                "name": p.stem, "pid": p.pid, "comm": p.comm, "alive": p.alive(),
                "dead": match p.dead {
                    Dead::Yes => "yes", Dead::No => "no", Dead::Probably => "probably", Dead::Unknown => "unknown",
                },
                "nested": p.nested, "holes_skipped": p.skipped, "spill_bytes": p.spill_bytes,
                "lanes": p.rows.iter().map(row).collect::<Vec<_>>(),
            })
        };
        let sink = |s: &Sink| {
            let t = &s.status;
            json!({
                "name": t.name, "state": t.state.as_str(), "pid": t.pid, "alive": t.alive,
                "records": t.records, "bytes": t.bytes, "missed": t.missed, "retries": t.retries,
                "lag_records": s.lag.records, "lag_bytes": s.lag.bytes, "lag_ns": s.lag_ns,
                "blocked_ns": t.blocked_ns, "waiting_bytes": t.pending_bytes,
            })
        };
        let journal = self.journal.as_ref().map(|j| {
            json!({
                "dir": j.dir.display().to_string(), "segments": j.segments, "bytes": j.bytes,
                "oldest_record": j.oldest, "records": j.records,
            })
        });
        json!({
            "channel": self.channel,
            "drain": self.drain,
            "drain_passes": self.passes,
            "written": self.sum(|r| r.written), "delivered": self.sum(|r| r.delivered),
            "pending": self.rows().map(|(_, r)| r.pending).sum::<i64>() + self.gone.pending,
            "suppressed": self.sum(|r| r.suppressed), "lost": self.sum(|r| r.lost),
            "producers": self.producers.iter().map(producer).collect::<Vec<_>>(),
            "gone": {
                "producers": self.gone_producers, "written": self.gone.written,
                "delivered": self.gone.delivered, "pending": self.gone.pending, "lost": self.gone.lost,
            },
            "journal": journal,
            "sinks": self.sinks.iter().map(sink).collect::<Vec<_>>(),
            "adds_up": wrong.is_empty(),
            "wrong": wrong,
            "unreadable": self.unreadable,
        })
    }

    fn table(&self, wrong: &[String]) -> String {
        let mut s = String::new();
        let drain = match self.drain {
            Some(0) => "in another pid namespace".to_string(),
            Some(pid) => format!("pid {pid}, {} passes", self.passes),
            None => "none".to_string(),
        };
        let _ = writeln!(s, "channel {}\ndrain   {drain}", self.channel);
        match &self.journal {
            Some(j) => {
                let (n, dir) = (j.records, j.dir.display());
                let _ = writeln!(
                    s,
                    "journal {dir}: {n} records, the oldest kept is {}; {} bytes in {} files",
                    j.oldest, j.bytes, j.segments
                );
            }
            None => s.push_str("journal none\n"),
        }
        let head = ["", "written", "delivered", "pending", "suppressed", "lost", "in kernel", "longest"];
        let mut lines: Vec<Vec<String>> = Vec::new();
        for p in &self.producers {
            let state = match p.dead {
                Dead::Yes => "dead",
                Dead::Probably => "probably dead",
                Dead::No => "alive",
                Dead::Unknown => "can't be told",
            };
            lines.push(vec![format!("{} {} ({state})", p.comm, p.stem)]);
            lines.extend(p.rows.iter().filter(|r| !r.is_empty() || r.pending != 0).map(|r| {
                let who = if r.tid == 0 { String::new() } else { format!(" (tid {})", r.tid) };
                cells(format!("  {}{who}", r.name), r)
            }));
        }
        if self.gone_producers > 0 {
            lines.push(cells(self.gone.name.clone(), &self.gone));
        }
        if !lines.is_empty() {
            let mut all = Row::default();
            for r in self.rows().map(|(_, r)| r).chain([&self.gone]) {
                all.written += r.written;
                all.delivered += r.delivered;
                all.pending += r.pending;
                all.suppressed += r.suppressed;
                all.lost += r.lost;
                all.kernel_calls += r.kernel_calls;
                all.kernel_max_ns = all.kernel_max_ns.max(r.kernel_max_ns);
            }
            lines.push(cells("all".into(), &all));
            lines.insert(0, head.map(String::from).to_vec());
        }
        columns(&lines, &mut s);
        if !self.sinks.is_empty() {
            let head = ["sink", "state", "delivered", "behind", "bytes", "age", "write blocked", "missed"];
            let mut lines = vec![head.map(String::from).to_vec()];
            lines.extend(self.sinks.iter().map(|k| {
                let t = &k.status;
                let running = t.alive || t.state != State::Following;
                let state = if running { t.state.as_str() } else { "not running" };
                vec![
                    t.name.clone(),
                    state.to_string(),
                    t.records.to_string(),
                    k.lag.records.to_string(),
                    k.lag.bytes.to_string(),
                    if k.lag_ns == 0 { "-".into() } else { seconds(k.lag_ns) },
                    t.blocked_ns.filter(|_| t.alive).map_or("-".into(), seconds),
                    t.missed.to_string(),
                ]
            }));
            columns(&lines, &mut s);
        }
        if lines.is_empty() {
            s.push_str("no producer was ever here\n");
        } else if wrong.is_empty() {
            s.push_str("written = delivered + pending + suppressed + lost, in every lane\n");
        }
        s
    }
}

fn seconds(ns: u64) -> String {
    format!("{:.1} s", ns as f64 / 1e9)
}

/// Appends lines with aligned columns: the first to the left, the others to the right.
fn columns(lines: &[Vec<String>], s: &mut String) {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    // A line of one cell is a heading.
    let width = |c: usize| {
        let of = |l: &Vec<String>| if l.len() > 1 { l.get(c).map_or(0, |t| t.chars().count()) } else { 0 };
        lines.iter().map(of).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..count).map(width).collect();
    for l in lines {
        let mut line = String::new();
        for (i, cell) in l.iter().enumerate() {
            let w = widths[i];
            let _ = if i == 0 { write!(line, "{cell:<w$}") } else { write!(line, "  {cell:>w$}") };
        }
        let _ = writeln!(s, "{}", line.trim_end());
    }
}

fn cells(name: String, r: &Row) -> Vec<String> {
    let longest = match r.kernel_max_ns {
        0 => "-".to_string(),
        ns => format!("{:.1} us", ns as f64 / 1e3),
    };
    let numbers = [r.written, r.delivered].map(|n| n.to_string());
    let mut cells = vec![name];
    cells.extend(numbers);
    cells.extend([r.pending.to_string(), r.suppressed.to_string(), r.lost.to_string()]);
    cells.extend([r.kernel_calls.to_string(), longest]);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(rows: Vec<Row>, dead: Dead, drain: Option<u32>) -> Stat {
        let p = Producer {
            stem: "7-00000000000000ab".into(),
            pid: 7,
            comm: "web".into(),
            dead,
            rows,
            nested: 0,
            skipped: 0,
            spill_bytes: 0,
        };
        let (producers, unreadable) = (vec![p], Vec::new());
        Stat {
            channel: "/c".into(),
            drain,
            passes: 3,
            producers,
            unreadable,
            journal: None,
            gone: Row { name: "2 gone".into(), written: 40, delivered: 39, lost: 1, ..Row::default() }
                .balance(),
            gone_producers: 2,
            between: false,
            sinks: Vec::new(),
        }
    }

    fn row(written: u64, delivered: u64, lost: u64) -> Row {
        let pending = written as i64 - delivered as i64 - lost as i64;
        Row { name: "lane 0".into(), written, delivered, lost, pending, ..Row::default() }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(stat(vec![row(10, 7, 1)], Dead::No, Some(1)).wrong().is_empty());
        let wrong = stat(vec![row(10, 11, 0)], Dead::No, Some(1)).wrong();
        assert!(wrong.len() == 1 && wrong[0].contains("lane 0 of 7-00000000000000ab"), "{wrong:?}");
        // Pending of the dead is wrong once a drain runs.
        assert!(stat(vec![row(10, 9, 0)], Dead::Yes, None).wrong().is_empty());
        let wrong = stat(vec![row(10, 9, 0)], Dead::Yes, Some(1)).wrong();
        assert!(wrong.len() == 1 && wrong[0].contains("1 records are pending"), "{wrong:?}");
        let mut good = stat(vec![row(10, 9, 1)], Dead::Yes, Some(1));
        assert!(good.wrong().is_empty());
        good.gone.pending = 1;
        assert!(good.wrong()[0].contains("gone producers"));
    }

    #[test]
    fn table_and_json_show_the_same_numbers() {
        let s = stat(vec![row(1000, 700, 1), row(5, 5, 0)], Dead::No, None);
        let t = s.table(&[]);
        assert!(t.contains("web 7-00000000000000ab (alive)") && t.contains("in every lane"), "{t}");
        let all = t.lines().find(|l| l.starts_with("all")).unwrap();
        assert_eq!(all.split_whitespace().collect::<Vec<_>>()[1..6], ["1045", "744", "299", "0", "2"]);
        let j = s.json(&[]);
        assert_eq!((&j["written"], &j["pending"], &j["adds_up"]), (&json!(1045), &json!(299), &json!(true)));
        assert_eq!(j["producers"][0]["lanes"][0]["delivered"], 700);
    }
}
