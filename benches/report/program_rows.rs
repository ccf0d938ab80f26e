//! Rows of whole programs: `run`, attaching, memory, a drain with nothing to do.

use crate::child::{Done, Running, output, with_us};
use crate::generator::{LINE, TIME};
use crate::output::Row;
use crate::pairs::{Pairs, Target, median, percentile};
use crate::place::{DrainPlan, DrainProcess, Place, failed, program, until};
use crate::{Bench, Mode};
use spillring::layout::ctl;
use spillring::sync::Ordering::*;
use spillring::sys::Map;
use spillring::sys::thread::nanosleep;
use spillring::{Error, Result, info};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A generator as words of a shell, and as a command; None: what it needs is missing.
fn generators(bytes: u64) -> Vec<(&'static str, Result<Vec<String>>)> {
    let exe = std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned();
    let ours = |kind: &str| {
        Ok(["--child", "generate", kind, &bytes.to_string()].iter().fold(vec![exe.clone()], |mut v, a| {
            v.push(a.to_string());
            v
        }))
    };
    let line = LINE.trim_end();
    let script = format!(
        "import os,time\nt=time.monotonic_ns()\nfor i in range({}): print({line:?})\n\
         import sys; sys.stdout.flush()\n\
         f=os.environ.get({TIME:?})\nif f: open(f,'w').write(str(time.monotonic_ns()-t))",
        bytes / 100
    );
    let mut probe = with_us("python3");
    probe.arg("--version");
    let python = output(probe, Duration::from_secs(20)).map(|_| vec!["python3".into(), "-c".into(), script]);
    vec![("64 KiB writes", ours("blocks")), ("a write a line", ours("lines")), ("Python's print()", python)]
}

/// `run` with these arguments, in a place of its own.
fn spillring_run(b: &Bench, place: &Place, args: &[&str], generator: &[String]) -> Command {
    let mut c = program(b.exe(), &place.settings);
    c.arg("run").args(args).arg("--").args(generator).stdin(Stdio::null());
    c
}

fn timed(mut c: Command, limit: Duration) -> Result<f64> {
    c.stdout(Stdio::null());
    let t = Instant::now();
    let status = Running::start(c)?.wait(limit)?;
    let took = t.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        return Err(failed(format!("it ended with {status}")));
    }
    Ok(took)
}

/// A shell that runs the generator with this behind it.
fn shell(generator: &[String], rest: &str) -> Command {
    let mut c = with_us("sh");
    c.arg("-c").arg(format!("\"$@\" {rest}")).arg("sh").args(generator).stdin(Stdio::null());
    c
}

/// `run -o F -- GEN` against `GEN | cat > F`.
pub fn run(b: &Bench) -> Result<Vec<Row>> {
    let bytes = b.size(200_000, 25_000_000, 25_000_000);
    let mut rows = Vec::new();
    for (name, generator) in generators(bytes) {
        let name = format!("run -o F, {name}");
        let generator = match generator {
            Ok(g) => g,
            Err(e) => {
                rows.push(Row { name, ..Row::missing("run", e.message).foreign() });
                continue;
            }
        };
        let mut pairs = Pairs::default();
        let mut starts = Vec::new();
        for i in 0..b.pairs() {
            let (mut ours, mut base) = (0.0, 0.0);
            let place = b.place()?;
            let nothing = spillring_run(b, &place, &[], &["true".into()]);
            let start = timed(nothing, b.limit())?;
            for which in [i % 2, (i + 1) % 2] {
                let file = place.disk.path().join(if which == 0 { "ours" } else { "cat" });
                let path = file.to_string_lossy().into_owned();
                if which == 0 {
                    ours = timed(spillring_run(b, &place, &["-o", &path], &generator), b.limit())?;
                    check_lines(&file, bytes, true)?;
                } else {
                    let mut c = shell(&generator, "| cat > \"$F\"");
                    c.env("F", &file);
                    base = timed(c, b.limit())?;
                    check_lines(&file, bytes, false)?;
                }
            }
            pairs.0.push((ours - start, base));
            starts.push(start);
        }
        let row = Row::ratio("run", name, "ms", ("run, less run -- true", "| cat > F"), pairs)
            .target(Target::Most(1.5))
            .number("run -- true", median(starts), "ms", None);
        rows.push(row);
    }
    let bytes = format!("{bytes} bytes in lines of 100; every line is checked");
    if let Some(last) = rows.last_mut() {
        last.notes.push(bytes);
    }
    Ok(rows)
}

/// That a file has the generator's lines: as they are, or at the end of text lines.
fn check_lines(file: &Path, bytes: u64, text: bool) -> Result<()> {
    let all = std::fs::read(file).map_err(|e| Error::os(file.display(), e))?;
    // Where a generator counts in blocks, its last line may be cut.
    let cut = (bytes % 100) as usize;
    let (mut whole, mut odd) = (0, 0);
    for line in all.split_inclusive(|&c| c == b'\n') {
        let good = if text { line.ends_with(LINE.as_bytes()) } else { line == LINE.as_bytes() };
        if good { whole += 1 } else { odd += 1 }
    }
    if whole == bytes / 100 && odd == u64::from(cut > 0) {
        return Ok(());
    }
    Err(failed(format!("{}: {whole} lines of {}, {odd} others", file.display(), bytes / 100)))
}

/// A reader that never reads: the generator's own time.
pub fn run_stuck(b: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for bytes in b.size([200_000, 400_000], [5_000_000, 25_000_000], [25_000_000, 250_000_000]) {
        let (_, generator) = generators(bytes).swap_remove(1);
        let generator = generator?;
        let mut pairs = Pairs::default();
        for i in 0..b.pairs().min(5) {
            let place = b.place()?;
            let time = place.disk.path().join("time");
            let took = || {
                let text = std::fs::read_to_string(&time).unwrap_or_default();
                let ns: Option<f64> = text.parse().ok();
                let _ = std::fs::remove_file(&time);
                ns.map(|n| n / 1e6).ok_or_else(|| failed("the generator did not come to its end"))
            };
            let (mut ours, mut base) = (0.0, 0.0);
            for which in [i % 2, (i + 1) % 2] {
                if which == 0 {
                    let mut c = spillring_run(b, &place, &[], &generator);
                    c.env(TIME, &time).stdout(Stdio::piped()).stderr(Stdio::null());
                    let mut r = Running::start(c)?;
                    let unread = r.0.stdout.take();
                    until("the generator's end", b.limit(), || time.exists())?;
                    nanosleep(Duration::from_millis(5));
                    ours = took()?;
                    // Its reader goes away: it ends.
                    drop(unread);
                    r.wait(b.limit())?;
                } else {
                    let mut c = shell(&generator, "| cat > /dev/null");
                    c.env(TIME, &time);
                    timed(c, b.limit())?;
                    base = took()?;
                }
            }
            pairs.0.push((ours, base));
        }
        let name = format!("run, nobody reads, {} MB", bytes as f64 / 1e6);
        let row = Row::ratio("run-stuck", name, "ms", ("GEN into run", "GEN | cat"), pairs);
        rows.push(row.target(Target::Most(1.2)));
    }
    let what = "the time the generator itself takes, one write a line";
    if let Some(last) = rows.last_mut() {
        last.notes.push(what.into());
    }
    Ok(rows)
}

/// In a fresh process: what attaching takes.
pub fn attach_child() -> Result<Done> {
    let t0 = Instant::now();
    let guard = spillring::init()?;
    let t1 = Instant::now();
    info!("a {}", 0);
    let t2 = Instant::now();
    info!("a {}", 1);
    let t3 = Instant::now();
    std::mem::forget(guard);
    // The parts, once more, on a file of the same size in the same place.
    let s = spillring::env::Settings::from_env().0;
    let path = s.channel_dir().join(format!("parts-{}", std::process::id()));
    let what = |e| Error::os(path.display(), e);
    let os = |e: spillring::sys::Errno| Error::os(path.display(), e.into());
    let ring = std::fs::read_dir(s.channel_dir()).map_err(what)?.flatten().find_map(|e| {
        let mine = e.file_name().to_string_lossy().starts_with(&format!("{}-", std::process::id()));
        (mine && e.path().extension().is_some_and(|x| x == "ring")).then(|| e.metadata().ok())?
    });
    let ring = ring.ok_or_else(|| failed("our own ring is not there"))?;
    use std::os::unix::fs::MetadataExt;
    let (allocated, len) = (ring.blocks() * 512, ring.size());
    let lane = s.lane_bytes;
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path).map_err(what)?;
    file.set_len(len).map_err(what)?;
    let a0 = Instant::now();
    spillring::sys::file::allocate(file.as_raw_fd(), 0, allocated.saturating_sub(lane)).map_err(os)?;
    let a1 = Instant::now();
    let map = Map::shared(file.as_raw_fd(), len, true).map_err(os)?;
    let a2 = Instant::now();
    map.populate(len - lane, lane).map_err(os)?;
    let a3 = Instant::now();
    std::fs::remove_file(&path).map_err(what)?;
    let us = |d: Duration| d.as_nanos() as f64 / 1e3;
    Ok(Done::default()
        .number("init", us(t1 - t0), "us")
        .number("first call", us(t2 - t1), "us")
        .number("second call", us(t3 - t2), "us")
        .number("fallocate", us(a1 - a0), "us")
        .number("mmap", us(a2 - a1), "us")
        .number("populate", us(a3 - a2), "us")
        .number("ring", allocated as f64 / 1024.0, "KiB"))
}

/// Attach and first call.
pub fn attach(b: &Bench) -> Result<Vec<Row>> {
    let processes = b.size(2, 20, 40);
    let place = b.place()?;
    let mut all: Vec<Done> = Vec::new();
    for i in 0..=processes {
        let mut c = b.again(&["attach"]);
        for (name, value) in program(b.exe(), &place.settings).get_envs() {
            if let Some(value) = value {
                c.env(name, value);
            }
        }
        let out = output(c, b.limit())?;
        let text = String::from_utf8_lossy(&out).into_owned();
        let done = serde_json::from_str::<serde_json::Value>(text.trim()).ok();
        let done = done.as_ref().and_then(Done::from_json).ok_or_else(|| failed(text))?;
        // The first one makes the channel.
        if i > 0 {
            all.push(done);
        }
    }
    let both = |d: &Done| Ok::<f64, Error>(d.get("init")? + d.get("first call")?);
    let mut sums = all.iter().map(both).collect::<Result<Vec<f64>>>()?;
    let (mid, most) = (median(sums.clone()), percentile(&mut sums, 1.0));
    let mut row = Row::numbers("attach", "attach plus first call")
        .number("both, median", mid, "us", (b.mode != Mode::Tiny).then_some(Target::Most(1000.0)))
        .number("both, largest", most, "us", None);
    for name in ["init", "first call", "second call", "fallocate", "mmap", "populate", "ring"] {
        let values = all.iter().map(|d| d.get(name)).collect::<Result<Vec<f64>>>()?;
        let unit = if name == "ring" { "KiB" } else { "us" };
        let shown = match name {
            "fallocate" => "of init: fallocate of the ring",
            "mmap" => "of init: mmap",
            "populate" => "of the first call: the lane's pages",
            "ring" => "ring with a lane, in memory",
            other => other,
        };
        row = row.number(shown, median(values), unit, None);
    }
    Ok(vec![row.note(format!("{} fresh processes, default settings", all.len()))])
}

/// `sleeper THREADS`: logs once on each thread, then does nothing until it is killed.
pub fn sleeper_child(args: &[&str]) -> Result<()> {
    let threads: u32 = args.first().and_then(|a| a.parse().ok()).ok_or_else(|| failed("sleeper THREADS"))?;
    let mut s = spillring::env::Settings::from_env().0;
    s.lanes = s.lanes.max(threads);
    let guard = spillring::init_with(&s)?;
    std::mem::forget(guard);
    // Far more than any run; the parent kills it.
    let long = Duration::from_secs(3600);
    for i in 1..threads {
        let body = move || {
            info!("sleeper {}", i);
            std::thread::sleep(long);
        };
        let t = std::thread::Builder::new().stack_size(64 << 10).spawn(body);
        t.map_err(|e| Error::os("starting a thread", e))?;
    }
    info!("sleeper {}", 0);
    std::thread::sleep(long);
    Ok(())
}

/// Processes that sleep with so many lanes in all, attached and drained.
struct Sleepers {
    all: Vec<Running>,
    drain: DrainProcess,
    place: Place,
}

impl Sleepers {
    fn start(b: &Bench, processes: u32, threads: u32, lane: Option<u64>) -> Result<Sleepers> {
        let mut place = b.place()?;
        let d = spillring::env::Settings::from(|_| None, 0).0;
        place.settings.lane_bytes = lane.unwrap_or(d.lane_bytes);
        let plan = DrainPlan { exe: b.exe(), idle: "adaptive", grace: "5ms", cpu: None, args: Vec::new() };
        let drain = DrainProcess::start(&plan, &place)?;
        let mut all = Vec::new();
        for _ in 0..processes {
            let mut c = b.again(&["sleeper", &threads.to_string()]);
            for (name, value) in program(b.exe(), &place.settings).get_envs() {
                if let Some(value) = value {
                    c.env(name, value);
                }
            }
            c.env(spillring::env::name::LANE, place.settings.lane_bytes.to_string());
            all.push(Running::start(c)?);
        }
        let channel = place.channel()?;
        let lanes = u64::from(processes) * u64::from(threads);
        let delivered = || channel.ctl().word(ctl::DELIVERED).load(Acquire);
        until("a record of each sleeper", Duration::from_secs(120), || delivered() == lanes)?;
        Ok(Sleepers { all, drain, place })
    }

    fn end(self) -> Result<()> {
        drop(self.all);
        self.drain.end()
    }
}

/// Time on a processor, of all threads of a process, ns.
pub fn on_cpu(pid: u32) -> Result<u64> {
    let dir = format!("/proc/{pid}/task");
    let mut sum = 0;
    for e in std::fs::read_dir(&dir).map_err(|e| Error::os(&dir, e))?.flatten() {
        let stat = std::fs::read_to_string(e.path().join("schedstat")).unwrap_or_default();
        sum += stat.split(' ').next().and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// An idle drain.
pub fn idle(b: &Bench) -> Result<Vec<Row>> {
    let time = Duration::from_secs(b.size(1, 10, 60));
    let many = b.size(4, 64, 64);
    // Both at the same time: it is processor time that counts.
    let one = Sleepers::start(b, 1, 1, None)?;
    let all = Sleepers::start(b, many, 1, None)?;
    nanosleep(Duration::from_millis(500));
    let before = (on_cpu(one.drain.pid())?, on_cpu(all.drain.pid())?, Instant::now());
    std::thread::sleep(time);
    let after = (on_cpu(one.drain.pid())?, on_cpu(all.drain.pid())?, before.2.elapsed());
    let percent = |ns: u64| ns as f64 * 100.0 / after.2.as_nanos() as f64;
    let target = (b.mode != Mode::Tiny).then_some(Target::Most(0.2));
    let row = Row::numbers("idle", format!("idle drain over {} s, default policy", time.as_secs()))
        .number("1 attached producer", percent(after.0 - before.0), "% of a core", target)
        .number(format!("{many} attached producers"), percent(after.1 - before.1), "% of a core", target);
    one.end()?;
    all.end()?;
    Ok(vec![row])
}

fn resident(pid: u32) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::os(&path, e))?;
    let get = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("0");
        let kib = line.split_whitespace().next().and_then(|w| w.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    };
    Ok((get("VmRSS:"), get("RssAnon:")))
}

/// Bytes that the files of a directory take, MiB.
fn taken(dir: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    all.filter_map(|e| e.metadata().ok()).map(|m| m.blocks() * 512).sum::<u64>() as f64 / f64::from(1 << 20)
}

/// Memory with many lanes.
pub fn memory(b: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let sizes: &[(u32, u32)] =
        b.size(&[(1, 1), (1, 16)], &[(1, 1), (1, 16), (4, 250)], &[(1, 1), (1, 16), (4, 250)]);
    for &(processes, threads) in sizes {
        let lanes = processes * threads;
        let s = Sleepers::start(b, processes, threads, None)?;
        let shared = taken(&s.place.settings.channel_dir());
        let (all, own) = resident(s.drain.pid())?;
        let target = (lanes == 16 && b.mode != Mode::Tiny).then_some(Target::Most(32.0));
        rows.push(
            Row::numbers("memory", format!("memory with {lanes} lanes of 256 KiB"))
                .number("shared, by all files", shared, "MiB", None)
                .number("resident in the drain", all, "MiB", target)
                .number("of that its own", own, "MiB", None),
        );
        s.end()?;
    }
    Ok(rows)
}
