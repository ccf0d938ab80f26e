//! Rows of the drain and of what follows it.

use crate::calls::{TEXT, our_text};
use crate::child::{Done, Running};
use crate::floor::{FloorRing, text_bytes};
use crate::machine::warm;
use crate::output::Row;
use crate::pairs::{Pairs, Target, percentile};
use crate::place::{DrainPlan, DrainProcess, Place, count_journal, failed, pin, program, until};
use crate::program_rows::on_cpu;
use crate::{Bench, flood};
use spillring::channel::{Channel, Role};
use spillring::drain::{Drain, DrainConfig};
use spillring::layout::ctl;
use spillring::layout::ring::ack;
use spillring::ringview::View;
use spillring::snapshot::RingRead;
use spillring::sync::{AtomicBool, Ordering::*};
use spillring::sys::thread::nanosleep;
use spillring::sys::time::monotonic_ns;
use spillring::{Error, Result};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn number(args: &[&str], i: usize) -> Result<u64> {
    let n = args.get(i).and_then(|s| s.parse().ok());
    n.ok_or_else(|| failed(format!("argument {i} of {args:?} is no number")))
}

/// Records that are written before the drain is let loose on them, so that they lie in a lane of 4 MiB and
/// not in one that no cache holds.
const CHUNK: u64 = 40_000;

/// Bytes of a record in a journal, about, and with those of its line: 250 in JSON, and some over, since warm pages grow
/// cold in seconds.
const JOURNALED: u64 = 100;
pub const WITH_LINE: u64 = JOURNALED + 300;

/// A drain in this process, of a place.
fn drain_of(place: &Place) -> Result<Drain> {
    let mut s = place.settings.clone();
    s.retain_bytes = Some(1 << 40);
    Drain::open(DrainConfig::new(&s, s.channel_dir()).0)
}

/// Passes until `n` records are in the journal.
fn passes(drain: &mut Drain, n: u64) -> Result<()> {
    let begun = Instant::now();
    while drain.totals().records < n {
        drain.pass(false)?;
        if begun.elapsed() > Duration::from_secs(300) {
            return Err(failed(format!("{} records of {n} after 300 s", drain.totals().records)));
        }
    }
    Ok(())
}

/// `journal ours|floor`: one thread logs without a pause and waits where there is no room; on the other
/// processor a drain takes it into a journal, or the floor takes it into a file.
pub fn journal_child(b: &Bench, args: &[&str]) -> Result<Done> {
    let floor = args.first() == Some(&"floor");
    let n: u64 = b.size(20_000, 2_000_000, 5_000_000);
    let place = b.place()?;
    let guard = spillring::init_with(&place.settings)?;
    pin(b.cpus.0);
    let (go, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let took = std::thread::scope(|s| -> Result<Duration> {
        s.spawn(|| {
            pin(b.cpus.1);
            our_text(0, 0.5, TEXT); // the lane
            spillring::writer::may_wait(true);
            done.store(true, Release);
            while !go.load(Acquire) {
                std::hint::spin_loop();
            }
            (1..n).for_each(|i| our_text(i as i32, flood::number(i), TEXT));
            done.store(false, Release);
        });
        let ready = || done.load(Acquire);
        let result = (|| {
            until("the writer", Duration::from_secs(20), ready)?;
            warm(n * JOURNALED);
            if floor {
                let channel = Channel::create_or_open(&place.settings.channel_dir(), false, Role::Drain)?;
                let stem = channel.producers()?.into_iter().next().ok_or_else(|| failed("no ring"))?;
                let view = View::new(channel.open_ring(stem)?);
                let begun = Instant::now();
                go.store(true, Release);
                floor_journal(&place, &view, || !ready())?;
                return Ok(begun.elapsed());
            }
            let mut drain = drain_of(&place)?;
            let begun = Instant::now();
            go.store(true, Release);
            passes(&mut drain, n)?;
            Ok(begun.elapsed())
        })();
        // Whatever happened, the writer ends: it does not wait for ever for room.
        go.store(true, Release);
        result
    })?;
    let st = spillring::writer::status();
    std::mem::forget(guard);
    if st.spilled + st.lost > 0 {
        return Err(failed(format!("{} spilled, {} lost", st.spilled, st.lost)));
    }
    let mut done = Done::default().number("rate", n as f64 / took.as_secs_f64() / 1e6, "M/s");
    if !floor {
        let held = count_journal(&place.journal())?;
        if held != n {
            return Err(failed(format!("the journal holds {held} of {n} records")));
        }
        let journal: u64 = std::fs::read_dir(place.journal())
            .map_err(|e| Error::os("the journal", e))?
            .flatten()
            .map(|e| e.metadata().map_or(0, |m| m.len()))
            .sum();
        done = done.number("bytes", journal as f64 / n as f64, "").number("records", n as f64, "");
    }
    Ok(done)
}

/// Copies the same bytes out of the same lane, makes a crc32c of each batch, writes it to the same file
/// system, and only then releases it.
fn floor_journal(place: &Place, view: &View, writer_is_done: impl Fn() -> bool) -> Result<()> {
    const BATCH: u64 = 1 << 20;
    let path = place.disk.path().join("floor");
    let what = |e| Error::os(path.display(), e);
    let mut file = std::fs::File::create(&path).map_err(what)?;
    let mut buf = vec![0u8; BATCH as usize];
    let capacity = view.lane_capacity(0);
    let released = view.lane_ack(0, ack::RELEASED);
    let mut at = released.load(Acquire);
    let begun = Instant::now();
    let mut crc = 0;
    loop {
        // Before the tail: what was written by then is in it.
        let last = writer_is_done();
        let tail = view.lane_tail(0);
        let index = at & (capacity - 1);
        let n = BATCH.min(tail - at).min(capacity - index) as usize;
        if n == 0 {
            if last {
                break;
            }
            if begun.elapsed() > Duration::from_secs(300) {
                return Err(failed("the floor waits for records"));
            }
            std::hint::spin_loop();
            continue;
        }
        view.lane_read(0, index, &mut buf[..n]);
        crc ^= crc32c::crc32c(&buf[..n]);
        file.write_all(&buf[..n]).map_err(what)?;
        at += n as u64;
        released.store(at, Release);
    }
    std::hint::black_box(crc);
    Ok(())
}

/// What one drain on one core brings into the journal: on the disk, and in memory.
pub fn journal(b: &Bench) -> Result<Vec<Row>> {
    Ok(vec![journal_row(b, "ring to journal")?, journal_row(&b.in_memory(), "ring to journal in memory")?])
}

fn journal_row(b: &Bench, name: &str) -> Result<Row> {
    let mut pairs = Pairs::default();
    let (mut records, mut bytes) = (0.0, 0.0);
    for i in 0..b.pairs() {
        let (mut ours, mut floor) = (0.0, 0.0);
        for which in [i % 2, (i + 1) % 2] {
            if which == 0 {
                let d = b.measure(&["journal", "ours"])?;
                (ours, records, bytes) = (d.get("rate")?, d.get("records")?, d.get("bytes")?);
            } else {
                floor = b.measure(&["journal", "floor"])?.get("rate")?;
            }
        }
        pairs.0.push((ours, floor));
    }
    let row = Row::ratio("journal", name, "M/s", ("ours", "copy, crc, write"), pairs)
        .number("records a run", records, "", None)
        .number("bytes a record in the lane", text_bytes(TEXT.len()) as f64, "", None)
        .number("bytes a record in the journal", bytes, "", None);
    Ok(row.target(Target::Least(0.7)))
}

/// A channel with hand-made rings, which a drain of this process empties again and again.
struct Fill {
    place: Place,
    rings: Vec<FloorRing>,
    drain: Drain,
    delivered: u64,
    busy: usize,
}

impl Fill {
    /// `busy` rings that are written to, and `idle` lanes in others that are not.
    fn new(b: &Bench, busy: usize, idle: u32) -> Result<Fill> {
        type Record = (i32, f64, &'static str);
        let mut place = b.place()?;
        place.settings.grace = Duration::ZERO;
        place.channel()?;
        let dir = place.settings.channel_dir();
        let each = CHUNK.div_ceil(busy as u64) * text_bytes(TEXT.len());
        let capacity = (each + 4096).next_power_of_two().max(64 << 10);
        let mut rings = Vec::new();
        for _ in 0..busy {
            rings.push(FloorRing::create::<Record>(&dir, 1, capacity)?);
        }
        let mut left = idle;
        while left > 0 {
            let lanes = left.min(250);
            rings.push(FloorRing::create::<Record>(&dir, lanes, 4096)?);
            left -= lanes;
        }
        let drain = drain_of(&place)?;
        Ok(Fill { place, rings, drain, delivered: 0, busy })
    }

    /// Processor time of a record, ns, of `n` records.
    fn cost(&mut self, n: u64) -> Result<f64> {
        warm(n * JOURNALED);
        let each = CHUNK.min(n) / self.busy as u64;
        let (mut took, mut made) = (0, 0);
        while made < n {
            for ring in &self.rings[..self.busy] {
                let lane = ring.lane(0);
                for i in 0..each {
                    if !lane.text_checked(i as i32, 0.5, TEXT) {
                        return Err(failed("the lane is full"));
                    }
                }
            }
            made += each * self.busy as u64;
            self.delivered += each * self.busy as u64;
            let t = thread_cpu_ns();
            passes(&mut self.drain, self.delivered)?;
            took += thread_cpu_ns() - t;
        }
        Ok(took as f64 / made as f64)
    }

    fn check(self) -> Result<()> {
        let held = count_journal(&self.place.journal())?;
        if held == self.delivered {
            return Ok(());
        }
        Err(failed(format!("the journal holds {held} of {} records", self.delivered)))
    }
}

#[allow(unsafe_code)]
fn thread_cpu_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// `lanes many|producers|behind`: one pair after the other, against one lane in a fresh channel.
pub fn lanes_child(b: &Bench, args: &[&str]) -> Result<Done> {
    let kind = args.first().copied().unwrap_or("many");
    pin(b.cpus.0);
    let n: u64 = b.size(16_000, 800_000, 1_600_000);
    let behind: u64 = b.size(64_000, 8_000_000, 100_000_000);
    let (busy, idle) = match kind {
        "many" => (1, b.size(50, 999, 999)),
        "producers" => (16, 0),
        _ => (1, 0),
    };
    let mut other = Fill::new(b, busy, idle)?;
    other.cost(n)?;
    if kind == "behind" {
        while other.delivered < behind {
            other.cost(n)?;
            // The disk need not hold it all: what is behind is behind.
            let keep = 256 << 20;
            remove_old(&other.place.journal(), keep)?;
        }
    }
    let mut pairs = Pairs::default();
    for i in 0..b.pairs() {
        // Fresh each time, but not cold.
        let mut fresh = Fill::new(b, 1, 0)?;
        fresh.cost(n)?;
        let (mut a, mut f) = (0.0, 0.0);
        for which in [i % 2, (i + 1) % 2] {
            if which == 0 { a = other.cost(n)? } else { f = fresh.cost(n)? }
        }
        pairs.0.push((a, f));
        fresh.check()?;
    }
    let delivered = other.delivered;
    if kind != "behind" {
        other.check()?;
    }
    Ok(Done::pairs(pairs).note(format!("{n} records a run; {delivered} in its journal at the end")))
}

/// Removes the oldest segments while there is more than `keep` bytes.
fn remove_old(journal: &Path, keep: u64) -> Result<()> {
    let what = |e| Error::os(journal.display(), e);
    let mut all: Vec<_> = std::fs::read_dir(journal).map_err(what)?.flatten().collect();
    all.retain(|e| e.file_name().to_string_lossy().ends_with(".spj"));
    all.sort_by_key(std::fs::DirEntry::file_name);
    let mut sum: u64 = all.iter().map(|e| e.metadata().map_or(0, |m| m.len())).sum();
    for e in &all {
        if sum <= keep {
            break;
        }
        sum -= e.metadata().map_or(0, |m| m.len());
        std::fs::remove_file(e.path()).map_err(what)?;
    }
    Ok(())
}

/// What a record costs the drain when there is more to look at. Journals are in memory, all of them: one that is made
/// anew for each pair would meet other pages than one that grows.
pub fn lanes(b: &Bench) -> Result<Vec<Row>> {
    let b = &b.in_memory();
    let behind = b.size("64 000 records behind", "8 million records behind", "10^8 records behind");
    let many = b.size("50 lanes, one busy", "1000 lanes, one busy", "1000 lanes, one busy");
    let row = |kind: &str, name: &str| -> Result<Row> {
        let row = b.measure(&["lanes", kind])?.row("lanes", name, "ns", ("this", "one lane, fresh"));
        Ok(row.target(Target::Most(1.1)))
    };
    Ok(vec![
        row("many", &format!("drain's cost: {many}"))?,
        row("producers", "drain's cost: 16 producers")?,
        row("behind", &format!("drain's cost: {behind}"))?,
    ])
}

/// Readers as people use them during a flood: one that follows, and those that come and go.
struct Readers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Result<u64>>>,
}

impl Readers {
    fn start(b: &Bench, place: &Place) -> Result<Readers> {
        let stop = Arc::new(AtomicBool::new(false));
        let command = |args: &[&str]| {
            let mut c = program(b.exe(), &place.settings);
            c.args(args).arg(&place.settings.channel).stdin(Stdio::null()).stdout(Stdio::piped());
            c
        };
        let mut follows = Running::start(command(&["tail", "-f"]))?;
        let mut out = follows.0.stdout.take().ok_or_else(|| failed("no pipe"))?;
        // What is there already: it is at work.
        out.read_exact(&mut [0; 64]).map_err(|e| Error::os("tail -f", e))?;
        let mut threads = Vec::new();
        threads.push(std::thread::spawn(move || {
            let mut buf = vec![0; 64 << 10];
            let mut n = 0;
            loop {
                match out.read(&mut buf) {
                    Ok(0) | Err(_) => return Ok(n),
                    Ok(k) => n += k as u64,
                }
            }
        }));
        let (stops, commands) = (stop.clone(), [command(&["stat"]), command(&["tail", "-n", "10"])]);
        threads.push(std::thread::spawn(move || {
            // Ends with this thread, and with it the other one's pipe.
            let _follows = follows;
            let mut n = 0;
            let mut commands = commands;
            while !stops.load(Acquire) {
                for c in &mut commands {
                    let mut one = Running(c.spawn().map_err(|e| Error::os("a reader", e))?);
                    let mut said = Vec::new();
                    if let Some(mut out) = one.0.stdout.take() {
                        out.read_to_end(&mut said).map_err(|e| Error::os("a reader", e))?;
                    }
                    if !one.wait(Duration::from_secs(60))?.success() || said.is_empty() {
                        return Err(failed("a reader failed"));
                    }
                    n += 1;
                }
            }
            Ok(n)
        }));
        Ok(Readers { stop, threads })
    }

    /// Bytes that the one that follows has printed, and how many of the others there were.
    fn end(self) -> Result<(u64, u64)> {
        self.stop.store(true, Release);
        let mut all = self.threads.into_iter().map(|t| t.join().map_err(|_| failed("a thread panicked"))?);
        let mut next = || all.next().unwrap_or(Ok(0));
        Ok((next()?, next()?))
    }
}

/// `readers`: pairs of the drain process's time on a processor, ns a record, with readers and without; as numbers
/// those of the thread that logs.
pub fn readers_child(b: &Bench) -> Result<Done> {
    let n: u64 = b.size(CHUNK, 1_200_000, 4_000_000);
    let place = b.place()?;
    let plan =
        DrainPlan { exe: b.exe(), idle: "adaptive", grace: "0", cpu: Some(b.cpus.0), args: Vec::new() };
    let drain = DrainProcess::start(&plan, &place)?;
    let guard = spillring::init_with(&place.settings)?;
    let channel = place.channel()?;
    let delivered = || channel.ctl().word(ctl::DELIVERED).load(Acquire);
    // The readers inherit it: they share caches with the drain, and the writer shares nothing with them but memory.
    // (On the writer's processor they would take turns with it, as any program does.)
    pin(b.cpus.0);
    let mut sent = 0;
    let (mut flood, cpu) = (
        |n: u64| -> Result<f64> {
            std::thread::scope(|s| {
                let body = || -> Result<f64> {
                    pin(b.cpus.1);
                    let mut took = 0;
                    for _ in 0..n / CHUNK {
                        let t = thread_cpu_ns();
                        (0..CHUNK).for_each(|i| our_text(i as i32, flood::number(i), TEXT));
                        took += thread_cpu_ns() - t;
                        sent += CHUNK;
                        until("a chunk is delivered", Duration::from_secs(60), || delivered() >= sent)?;
                    }
                    Ok(took as f64 / n as f64)
                };
                s.spawn(body).join().map_err(|_| failed("the writer panicked"))?
            })
        },
        || on_cpu(drain.pid()),
    );
    flood(CHUNK)?;
    let (mut drains, mut writers) = (Pairs::default(), Vec::new());
    let (mut bytes, mut commands) = (0, 0);
    for i in 0..b.pairs() {
        let (mut d, mut w) = ([0.0; 2], [0.0; 2]);
        for with in [i % 2, (i + 1) % 2] {
            let readers = if with == 0 { Some(Readers::start(b, &place)?) } else { None };
            let before = cpu()?;
            w[with] = flood(n)?;
            d[with] = (cpu()? - before) as f64 / n as f64;
            if let Some(r) = readers {
                let (more, others) = r.end()?;
                (bytes, commands) = (bytes + more, commands + others);
            }
        }
        drains.0.push((d[0], d[1]));
        writers.extend([("with", w[0]), ("without", w[1])]);
    }
    drop(guard);
    drain.end()?;
    let held = count_journal(&place.journal())?;
    if held != sent {
        return Err(failed(format!("the journal holds {held} of {sent} records")));
    }
    let mut done = Done::pairs(drains).note(format!(
        "{n} records a run, all in the journal; the readers: tail -f ({} MB), stat and tail -n 10 ({commands} in all)",
        bytes / 1_000_000
    ));
    for (name, value) in writers {
        done = done.number(name, value, "ns");
    }
    Ok(done)
}

/// Whether readers cost the drain or a writer time on their processors.
pub fn readers(b: &Bench) -> Result<Vec<Row>> {
    let mut d = b.measure(&["readers"])?;
    let mut side = |name: &str| -> Vec<f64> {
        d.numbers.extract_if(.., |(n, _, _)| n == name).map(|(_, value, _)| value).collect()
    };
    let writers = Pairs(side("with").into_iter().zip(side("without")).collect());
    let sides = ("with readers", "without");
    let row = d.row("readers", "drain's time, with readers", "ns", sides).target(Target::Most(1.1));
    let writer = Row::ratio("readers", "a writer's time, with readers", "ns", sides, writers);
    Ok(vec![row, writer.target(Target::Most(1.1))])
}

/// `delay IDLE GRACE journal|tail`
pub fn delay_child(b: &Bench, args: &[&str]) -> Result<Done> {
    let [idle, grace, to] = args else { return Err(failed("delay IDLE GRACE TO")) };
    let n = b.size(10, 200, 500);
    let mut place = b.place()?;
    if *idle == "park" {
        place.settings.idle = spillring::env::Idle::Park;
    }
    let plan = DrainPlan { exe: b.exe(), idle, grace, cpu: Some(b.cpus.0), args: Vec::new() };
    let drain = DrainProcess::start(&plan, &place)?;
    let guard = spillring::init_with(&place.settings)?;
    pin(b.cpus.1);
    let channel = place.channel()?;
    let delivered = || channel.ctl().word(ctl::DELIVERED).load(Acquire);
    our_text(-1, 0.5, TEXT);
    until("the first record", Duration::from_secs(20), || delivered() == 1)?;
    let mut reader = None;
    if *to == "tail" {
        let mut c = program(b.exe(), &place.settings);
        c.args(["tail", "-f", &place.settings.channel]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut r = Running::start(c)?;
        let out = r.0.stdout.take().ok_or_else(|| failed("no pipe"))?;
        reader = Some((r, Lines { from: out, held: Vec::new() }));
    }
    if let Some((_, lines)) = &mut reader {
        lines.wait_for(" -1 0.5 ")?;
    }
    let mut all = Vec::with_capacity(n);
    for i in 0..n {
        // Not in step with anybody's sleep.
        nanosleep(Duration::from_micros(1000 + (i as u64 * 7919) % 3000));
        let before = delivered();
        let t = Instant::now();
        our_text(i as i32, 0.5, TEXT);
        match &mut reader {
            Some((_, lines)) => lines.wait_for(&format!(" {i} 0.5 "))?,
            None => {
                while delivered() == before {
                    if t.elapsed() > Duration::from_secs(20) {
                        return Err(failed("a record did not come in 20 s"));
                    }
                    std::hint::spin_loop();
                }
            }
        }
        all.push(t.elapsed().as_nanos() as f64 / 1e3);
    }
    drop(reader);
    drop(guard);
    drain.end()?;
    let held = count_journal(&place.journal())?;
    if held != n as u64 + 1 {
        return Err(failed(format!("the journal holds {held} of {} records", n + 1)));
    }
    let (p50, p99) = (percentile(&mut all, 0.5), percentile(&mut all, 0.99));
    Ok(Done::default().number("p50", p50, "us").number("p99", p99, "us"))
}

/// Lines from a pipe.
struct Lines {
    from: std::process::ChildStdout,
    held: Vec<u8>,
}

impl Lines {
    /// Reads up to a line that has `what` in it.
    fn wait_for(&mut self, what: &str) -> Result<()> {
        let begun = Instant::now();
        let mut buf = [0; 4096];
        loop {
            while let Some(end) = self.held.iter().position(|&c| c == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                if String::from_utf8_lossy(&line).contains(what) {
                    return Ok(());
                }
            }
            let mut fd =
                [spillring::sys::child::Polled::reading(std::os::fd::AsRawFd::as_raw_fd(&self.from))];
            let _ = spillring::sys::child::poll(&mut fd, Some(Duration::from_secs(20)));
            if begun.elapsed() > Duration::from_secs(20) {
                return Err(failed(format!("no line with {what:?} in 20 s")));
            }
            match self.from.read(&mut buf) {
                Ok(0) => return Err(failed("the reader's pipe ended")),
                Ok(k) => self.held.extend_from_slice(&buf[..k]),
                Err(e) => return Err(Error::os("the reader's pipe", e)),
            }
        }
    }
}

/// Delays, by idle policy.
pub fn delay(b: &Bench) -> Result<Vec<Row>> {
    let mut journal = Row::numbers("delay", "call to journal, grace 0");
    let mut graced = Row::numbers("delay", "call to journal, grace 5 ms (the default)");
    let mut tail = Row::numbers("delay", "call to tail -f, grace 0");
    let policies = b.size(
        ["spin", "adaptive"].as_slice(),
        ["spin", "yield", "sleep:50us", "park", "adaptive"].as_slice(),
        ["spin", "yield", "sleep:50us", "park", "adaptive"].as_slice(),
    );
    let has_tail = has_command(b, "tail");
    for p in policies {
        let target = (*p == "spin").then_some(Target::Most(20.0));
        let put = |row: &mut Row, grace: &str, to: &str, target: Option<Target>| -> Result<()> {
            let d = b.measure(&["delay", p, grace, to])?;
            *row = std::mem::take(row).number(format!("{p} p50"), d.get("p50")?, "us", None).number(
                format!("{p} p99"),
                d.get("p99")?,
                "us",
                target,
            );
            Ok(())
        };
        put(&mut journal, "0", "journal", target)?;
        put(&mut graced, "5ms", "journal", None)?;
        if has_tail {
            put(&mut tail, "0", "tail", None)?;
        }
    }
    if !has_tail {
        tail.missing = Some("this build of spillring has no command `tail`".into());
        tail.foreign = true;
    }
    Ok(vec![journal, graced, tail])
}

/// Whether our command has a command of that name.
fn has_command(b: &Bench, name: &str) -> bool {
    let mut c = crate::child::with_us(b.exe());
    c.arg("--help");
    let Ok(help) = crate::child::output(c, b.limit()) else { return false };
    String::from_utf8_lossy(&help).lines().any(|l| l.trim_start().starts_with(&format!("{name} ")))
}

/// `producer N`: floods the channel of the environment; when the first call was, in the monotonic clock.
pub fn producer_child(b: &Bench, args: &[&str]) -> Result<Done> {
    let n = number(args, 0)?;
    let mut s = spillring::env::Settings::from_env().0;
    s.overflow = spillring::env::Overflow::Block(Duration::from_secs(60));
    s.lane_bytes = 4 << 20;
    pin(b.cpus.1);
    let guard = spillring::init_with(&s)?;
    let t = monotonic_ns();
    flood::log(n);
    let took = monotonic_ns() - t;
    let st = spillring::writer::status();
    std::mem::forget(guard);
    let lost = (st.lost + st.unattached) as f64;
    // As two numbers that a float holds exactly.
    Ok(Done::default()
        .number("s", (t / 1_000_000_000) as f64, "")
        .number("ns", (t % 1_000_000_000) as f64, "")
        .number("took", took as f64, "ns")
        .number("lost", lost, "")
        .number("spilled", st.spilled as f64, ""))
}

/// `lines FILE N`: the floor of the text.
pub fn lines_child(b: &Bench, args: &[&str]) -> Result<Done> {
    let file = args.first().ok_or_else(|| failed("lines FILE N"))?;
    pin(b.cpus.1);
    warm(number(args, 1)? * WITH_LINE);
    let took = flood::floor(Path::new(file), number(args, 1)?)?;
    Ok(Done::default().number("took", took.as_nanos() as f64, "ns"))
}

/// First call to last byte of a file: records a second, in millions.
pub fn text_rate(b: &Bench, n: u64, format: &str) -> Result<f64> {
    let place = b.place()?;
    warm(n * WITH_LINE);
    let file = place.disk.path().join("text");
    let args = ["-o", &file.to_string_lossy(), "--format", format].map(String::from).to_vec();
    let plan = DrainPlan { exe: b.exe(), idle: "adaptive", grace: "5ms", cpu: Some(b.cpus.0), args };
    let drain = DrainProcess::start(&plan, &place)?;
    let mut c = b.again(&["producer", &n.to_string()]);
    for (name, value) in program(b.exe(), &place.settings).get_envs() {
        if let Some(value) = value {
            c.env(name, value);
        }
    }
    let end = std::thread::scope(|s| -> Result<(u64, Vec<u8>)> {
        let producer = s.spawn(|| crate::child::output(c, b.limit()));
        until("the text file", Duration::from_secs(20), || file.exists())?;
        let marker = flood::last_line(&file, n, b.limit());
        let now = monotonic_ns();
        let said = producer.join().unwrap_or_else(|_| Err(failed("the producer's thread panicked")))?;
        let seen = marker?;
        Ok((now - seen.elapsed().as_nanos() as u64, said))
    })?;
    let said: serde_json::Value = serde_json::from_slice(&end.1).map_err(|e| failed(e.to_string()))?;
    let get = |name: &str| {
        let all = said["numbers"].as_array().into_iter().flatten();
        all.filter(|v| v[0] == name).find_map(|v| v[1].as_f64()).unwrap_or(0.0)
    };
    if get("lost") > 0.0 {
        return Err(failed(format!("{} records lost", get("lost"))));
    }
    let first = get("s") as u64 * 1_000_000_000 + get("ns") as u64;
    drain.end()?;
    flood::check(&file, 0, n)?;
    let held = count_journal(&place.journal())?;
    if held != n {
        return Err(failed(format!("the journal holds {held} of {n} records")));
    }
    Ok(n as f64 * 1e3 / end.0.saturating_sub(first).max(1) as f64)
}

/// Text, and JSON lines: on the disk, and in memory.
pub fn text(b: &Bench) -> Result<Vec<Row>> {
    let mut rows = text_rows(b, "")?;
    rows.extend(text_rows(&b.in_memory(), ", in memory")?);
    Ok(rows)
}

fn text_rows(b: &Bench, at: &str) -> Result<Vec<Row>> {
    let n: u64 = b.size(5_000, 1_000_000, 10_000_000);
    let scratch = crate::place::Scratch::new(&b.disk)?;
    let file = scratch.path().join("floor");
    let path = file.to_string_lossy();
    let (mut text, mut json) = (Pairs::default(), Pairs::default());
    for i in 0..b.pairs().min(5) {
        let (mut ours, mut floor, mut lines) = (0.0, 0.0, 0.0);
        for which in [i % 3, (i + 1) % 3, (i + 2) % 3] {
            match which {
                0 => ours = text_rate(b, n, "text")?,
                1 => lines = text_rate(b, n, "json")?,
                _ => {
                    let d = b.measure(&["lines", &path, &n.to_string()])?;
                    flood::check(&file, 0, n)?;
                    std::fs::remove_file(&file).map_err(|e| Error::os(file.display(), e))?;
                    floor = n as f64 * 1e3 / d.get("took")?;
                }
            }
        }
        text.0.push((ours, floor));
        json.0.push((lines, ours));
    }
    let sides = ("ours", "one thread");
    let text =
        Row::ratio("text", format!("call to text file{at}"), "M/s", sides, text).target(Target::Least(0.6));
    let json = Row::ratio("text", format!("call to JSON lines{at}"), "M/s", ("JSON", "text"), json);
    let records = format!("{n} records a run, first call to last byte, each line checked");
    Ok(vec![text.note(records.clone()), json.target(Target::Least(0.8)).note(records)])
}
