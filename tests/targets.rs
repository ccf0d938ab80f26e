//! The numbers that spillring promises, measured: each test prints what it found, with its unit.
//!
//! What is counted is asserted (records, losses, memory); times are printed, and asserted only with bounds
//! that a busy machine keeps. `SPILLRING_TARGETS=full` runs them at the size of the promise (minutes), else
//! they are shorter. That twenty processes of four threads fit 64 MB with the default settings is shown by
//! `twenty_processes_of_four_threads_in_64_mb` of `hazards_memory`.
#![allow(unsafe_code)] // processes, signals and namespaces

mod common;
mod hazard_kit;

use common::{Child, Scratch, fork_and, settings};
use hazard_kit::{kill, needs_root, run, shared_words, wait, with_tmpfs};
use serde_json::Value;
use spillring::env::Settings;
use spillring::info;
use spillring::journal::{Item, Loss, Reader, Site, kind};
use spillring::record::CompiledFormat;
use spillring::sync::Ordering::SeqCst;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BIN: &str = env!("CARGO_BIN_EXE_spillring");

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("as-attach") => return as_attach(),
        Some("as-flood") => return as_flood(args[2].parse().unwrap(), Path::new(&args[3])),
        _ => {}
    }
    run(vec![
        ("one_logging_thread_in_1_mib", None, one_mib),
        ("attach_and_first_call", None, attach_and_first_call),
        ("a_stopped_drain_loses_nothing_within_the_quota", None, stopped_drain),
        ("a_full_64_mb_is_counted_to_the_record", needs_root(), full_tmpfs),
        ("run_into_a_stdout_that_nobody_reads", None, nobody_reads),
        ("a_killed_process_is_delivered_and_unlinked", None, killed),
        ("a_process_killed_in_another_pid_namespace", needs_pid_namespace(), killed_elsewhere),
    ])
}

/// The size of the promise, or less of it.
fn size<T>(short: T, full: T) -> T {
    if std::env::var("SPILLRING_TARGETS").is_ok_and(|v| v == "full") { full } else { short }
}

fn needs_pid_namespace() -> Option<String> {
    let st = fork_and(|| unsafe {
        if libc::unshare(libc::CLONE_NEWPID) != 0 {
            libc::_exit(1);
        }
    })
    .wait();
    (st != 0).then(|| "needs the right to make a pid namespace".into())
}

/// The default settings in shared memory, with the journal on the disk.
fn place() -> (Settings, Scratch, tempfile::TempDir) {
    let dir = Scratch::new();
    let disk = tempfile::tempdir().unwrap();
    let mut s = settings(&dir);
    s.dir = dir.path().join("c");
    s.journal_dir = Some(disk.path().join("j"));
    (s, dir, disk)
}

/// A program that finds these settings in its environment, and ends with this process.
fn program(exe: impl AsRef<std::ffi::OsStr>, s: &Settings) -> Command {
    let mut c = Command::new(exe);
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("SPILLRING_")) {
        c.env_remove(name);
    }
    c.env("SPILLRING_DIR", &s.dir).env("SPILLRING_CHANNEL", &s.channel);
    c.env("SPILLRING_JOURNAL_DIR", s.journal_dir.as_ref().unwrap());
    if let Some(n) = s.spill_quota {
        c.env("SPILLRING_SPILL_QUOTA", n.to_string());
    }
    // SAFETY: a system call only.
    unsafe {
        c.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    c
}

/// What `stat` says; that it adds up is checked.
fn stat(s: &Settings) -> Value {
    let o = program(BIN, s).args(["stat", "--json", &s.channel]).stdin(Stdio::null()).output().unwrap();
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    assert_eq!(o.status.code(), Some(0), "stat: {err}{}", String::from_utf8_lossy(&o.stdout));
    let v: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(v["adds_up"], true, "{v}");
    let n = |name: &str| v[name].as_i64().unwrap();
    assert_eq!(n("written"), n("delivered") + n("pending") + n("suppressed") + n("lost"), "{v}");
    v
}

fn within<T>(what: &str, limit: Duration, mut f: impl FnMut() -> Option<T>) -> T {
    let t = Instant::now();
    loop {
        if let Some(v) = f() {
            return v;
        }
        assert!(t.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Nothing pending and no producer left; what `stat` says then.
fn all_delivered(s: &Settings) -> Value {
    within("everything delivered", Duration::from_secs(60), || {
        let v = stat(s);
        let done = v["pending"] == 0 && v["producers"].as_array().unwrap().is_empty();
        if !done {
            std::thread::sleep(Duration::from_millis(50));
        }
        done.then_some(v)
    })
}

/// The longest call that entered the kernel, ns, and how many did.
fn kernel(v: &Value) -> (u64, u64) {
    let lanes = v["producers"].as_array().unwrap().iter().flat_map(|p| p["lanes"].as_array().unwrap());
    lanes.fold((0, 0), |(longest, calls), l| {
        (longest.max(l["kernel_max_ns"].as_u64().unwrap()), calls + l["kernel_calls"].as_u64().unwrap())
    })
}

/// The command in a process of its own, which does not outlive the test.
struct Spillring(process::Child);

impl Spillring {
    fn drain(s: &Settings) -> Spillring {
        let d = program(BIN, s).args(["drain", &s.channel]).stdin(Stdio::null()).spawn().unwrap();
        let d = Spillring(d);
        within("a drain that runs", Duration::from_secs(20), || {
            let ctl = s.channel_dir().join("ctl");
            (ctl.exists() && stat(s)["drain"] == d.0.id()).then_some(())
        });
        d
    }
    fn signal(&self, sig: i32) {
        kill(self.0.id() as i32, sig);
    }
    /// A drain ends when everything is in the journal.
    fn end(mut self) {
        self.signal(libc::SIGTERM);
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Spillring {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A forked child that logs; nothing here ends it but its end.
fn producer(s: &Settings, f: impl FnOnce()) -> Child {
    fork_and(|| {
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let guard = spillring::init_with(s).unwrap();
        f();
        std::mem::forget(guard);
    })
}

/// What a journal has: texts of the form "who n ...", in order for each `who`.
#[derive(Default)]
struct Found {
    records: u64,
    /// Numbers left out, of all together, up to each one's last.
    left_out: u64,
    /// Loss records, and what they count.
    losses: u64,
    lost: u64,
    /// The next number of each.
    next: BTreeMap<String, u64>,
}

/// Reads it record by record: a journal may be larger than memory.
fn read_journal(s: &Settings) -> Found {
    let mut found = Found::default();
    let mut known: Option<(Arc<Site>, CompiledFormat)> = None;
    let mut text = Vec::new();
    let mut r = Reader::open(s.journal_dir.as_ref().unwrap().join(&s.channel)).unwrap();
    while let Some(item) = r.next_batch().unwrap() {
        let Item::Batch(b) = item else { panic!("the journal has a gap: {item:?}") };
        for e in b.entries() {
            match e.kind {
                kind::LOSS => {
                    found.losses += 1;
                    found.lost += Loss::decode(e.payload).unwrap().count;
                }
                kind::LOG => {
                    let site = e.site.unwrap();
                    if !known.as_ref().is_some_and(|(k, _)| Arc::ptr_eq(k, site)) {
                        known = Some((site.clone(), CompiledFormat::new(&site.fmt, &site.types)));
                    }
                    text.clear();
                    known.as_ref().unwrap().1.render(e.payload, &mut text).unwrap();
                    let mut words = std::str::from_utf8(&text).unwrap().split(' ');
                    let (who, n) = (words.next().unwrap(), words.next().unwrap().parse::<u64>().unwrap());
                    if !found.next.contains_key(who) {
                        found.next.insert(who.to_string(), 0);
                    }
                    let next = found.next.get_mut(who).unwrap();
                    assert!(n >= *next, "{who} {n} comes after {}", *next - 1);
                    found.left_out += n - *next;
                    found.records += 1;
                    *next = n + 1;
                }
                _ => {}
            }
        }
    }
    found
}

fn us(ns: u64) -> String {
    format!("{:.1} us", ns as f64 / 1e3)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// Calls `f` with 0, 1, ... at so many a second, until `until` says so; how many.
fn at_rate(per_second: u64, mut until: impl FnMut(Duration) -> bool, mut f: impl FnMut(u64)) -> u64 {
    let (begun, mut n) = (Instant::now(), 0);
    loop {
        let t = begun.elapsed();
        if until(t) {
            return n;
        }
        let due = (t.as_nanos() * u128::from(per_second) / 1_000_000_000) as u64;
        while n < due {
            f(n);
            n += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

// ---- memory and time of a process that logs

fn one_mib() {
    let (s, _dir, _disk) = place();
    let out = shared_words();
    // More than the lane holds, with a drain that makes room for it.
    let drain = Spillring::drain(&s);
    let child = producer(&s, || {
        at_rate(
            100_000,
            |t| t > Duration::from_millis(500),
            |n| {
                info!("a {} {}", n, "forty bytes of text, so that it is full soon");
                out[0].store(n + 1, SeqCst);
            },
        );
        spillring::flush(Duration::from_secs(20)).unwrap();
        let mut sum = 0;
        for e in fs::read_dir(s.channel_dir()).unwrap().flatten() {
            if e.file_name().to_string_lossy().starts_with(&format!("{}-", std::process::id())) {
                let bytes = e.metadata().unwrap().blocks() * 512;
                println!("{}: {} KiB", e.file_name().to_string_lossy(), bytes >> 10);
                sum += bytes;
                out[2].fetch_add(1, SeqCst);
            }
        }
        out[1].store(sum, SeqCst);
    });
    assert_eq!(child.wait(), 0);
    let (records, sum) = (out[0].load(SeqCst), out[1].load(SeqCst));
    println!("one logging thread, {records} records: {} KiB of shared memory (target: 1024)", sum >> 10);
    assert_eq!(out[2].load(SeqCst), 3, "ring, ack and spill");
    assert!(sum <= 1 << 20 && sum > 256 << 10, "{sum}");
    all_delivered(&s);
    drain.end();
    let f = read_journal(&s);
    assert_eq!((f.records, f.left_out, f.losses), (records, 0, 0));
    stat(&s);
}

/// A fresh process: its times in ns, on stdout.
fn as_attach() {
    let t0 = Instant::now();
    let guard = spillring::init().unwrap();
    let t1 = Instant::now();
    info!("a {}", 0);
    let t2 = Instant::now();
    info!("a {}", 1);
    let t3 = Instant::now();
    println!("{} {} {}", (t1 - t0).as_nanos(), (t2 - t1).as_nanos(), (t3 - t2).as_nanos());
    std::mem::forget(guard);
}

fn attach_and_first_call() {
    const PROCESSES: usize = 20;
    let (s, _dir, _disk) = place();
    let fresh = || -> [u64; 3] {
        let o = program(std::env::current_exe().unwrap(), &s).arg("as-attach").output().unwrap();
        assert!(o.status.success(), "{o:?}");
        let text = String::from_utf8(o.stdout).unwrap();
        let v: Vec<u64> = text.split_whitespace().map(|w| w.parse().unwrap()).collect();
        v.try_into().unwrap()
    };
    let first = fresh();
    println!("the process that makes the channel: init {}, first call {}", us(first[0]), us(first[1]));
    let all: Vec<_> = (0..PROCESSES).map(|_| fresh()).collect();
    let show = |what: &str, f: &dyn Fn(&[u64; 3]) -> u64| {
        let mut v: Vec<u64> = all.iter().map(f).collect();
        v.sort();
        println!("{what}: median {}, max {}", us(v[PROCESSES / 2]), us(v[PROCESSES - 1]));
    };
    show("init (settings, channel, attach)", &|t| t[0]);
    show("first call (lane, site)         ", &|t| t[1]);
    show("both (target: 1000 us)          ", &|t| t[0] + t[1]);
    show("second call                     ", &|t| t[2]);
    let drain = Spillring::drain(&s);
    let v = all_delivered(&s);
    assert_eq!(v["delivered"], 2 * (PROCESSES as u64 + 1));
    drain.end();
    stat(&s);
}

// ---- a drain that is stopped

fn stopped_drain() {
    const RATE: u64 = 20_000;
    let stopped = Duration::from_secs(size(5, 60));
    let (mut s, _dir, _disk) = place();
    s.spill_quota = Some(512 << 20);
    let drain = Spillring::drain(&s);
    drain.signal(libc::SIGSTOP);
    let out = shared_words();
    let child = producer(&s, || {
        let n = at_rate(
            RATE,
            |t| t >= stopped,
            |n| {
                info!("a {} {}: {} of {} bytes", n, "a request", "/some/path/of/usual/length", n * 3);
            },
        );
        let st = spillring::writer::status();
        assert_eq!((st.lost, st.unattached), (0, 0));
        out[1].store(st.spilled, SeqCst);
        out[0].store(n, SeqCst);
        // Looked at while it lives.
        while out[2].load(SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let limit = stopped + Duration::from_secs(60);
    within("the producer's end", limit, || (out[0].load(SeqCst) != 0 || !child.running()).then_some(()));
    let v = stat(&s);
    let (longest, calls) = kernel(&v);
    let bytes: u64 =
        v["producers"].as_array().unwrap().iter().map(|p| p["spill_bytes"].as_u64().unwrap()).sum();
    let (n, spilled) = (out[0].load(SeqCst), out[1].load(SeqCst));
    println!(
        "drain stopped {} s at {RATE} records/s: {n} records, {spilled} spilled, {} in memory; {calls} calls \
         entered the kernel, the longest {}",
        stopped.as_secs(),
        mib(bytes),
        us(longest)
    );
    let t = Instant::now();
    drain.signal(libc::SIGCONT);
    out[2].store(1, SeqCst);
    assert_eq!(child.wait(), 0);
    let v = all_delivered(&s);
    println!("delivered {:.2} s after it went on", t.elapsed().as_secs_f64());
    assert!(n >= RATE * stopped.as_secs() * 9 / 10, "too slow a machine: {n} records");
    assert!(spilled > n / 2, "{spilled} of {n}");
    assert_eq!((&v["delivered"], &v["lost"]), (&n.into(), &0.into()), "{v}");
    drain.end();
    let f = read_journal(&s);
    assert_eq!((f.records, f.left_out, f.losses), (n, 0, 0));
    stat(&s);
}

fn full_tmpfs() {
    const RATE: u64 = 200_000;
    let stopped = Duration::from_secs(size(4, 30));
    // Once more, for a second gap; and what it runs before, between and after.
    let (again, running) = (Duration::from_secs(2), Duration::from_secs(1));
    let (s, _dir, _disk) = place();
    let st = with_tmpfs(&s, "64m", || {
        let out = shared_words();
        let drain = Spillring::drain(&s);
        let child = producer(&s, || {
            let mut longest = (Duration::ZERO, 0);
            let until = |t: Duration| t >= stopped + running + again + running;
            let n = at_rate(RATE, until, |n| {
                let t = Instant::now();
                info!("a {} {}: {} of {} bytes", n, "a request", "/some/path/of/usual/length", n * 3);
                let t = t.elapsed();
                longest.0 = longest.0.max(t);
                longest.1 += u64::from(t > Duration::from_millis(1));
            });
            let st = spillring::writer::status();
            assert_eq!((st.unattached, st.attach_errno), (0, 0));
            out[1].store(st.spilled, SeqCst);
            out[2].store(st.lost, SeqCst);
            out[3].store(longest.0.as_nanos() as u64, SeqCst);
            out[4].store(longest.1, SeqCst);
            out[0].store(n, SeqCst);
            while out[5].load(SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for (stop, next) in [(stopped, running), (again, Duration::ZERO)] {
            drain.signal(libc::SIGSTOP);
            std::thread::sleep(stop);
            let v = stat(&s);
            let [w, p, l] = ["written", "pending", "lost"].map(|n| v[n].as_u64().unwrap());
            println!("stopped for {} s: {w} written by now, {p} pending, {l} lost", stop.as_secs());
            drain.signal(libc::SIGCONT);
            std::thread::sleep(next);
        }
        let limit = Duration::from_secs(40);
        within("the producer's end", limit, || (out[0].load(SeqCst) != 0 || !child.running()).then_some(()));
        let (longest, calls) = kernel(&stat(&s));
        out[5].store(1, SeqCst);
        assert_eq!(child.wait(), 0);
        let v = all_delivered(&s);
        drain.end();
        let [n, spilled, lost, call, slow] = [0, 1, 2, 3, 4].map(|i| out[i].load(SeqCst));
        let f = read_journal(&s);
        println!(
            "64 MB, {RATE} records/s, drain stopped {} s: {n} written = {} delivered + {lost} lost; {} loss \
             records; {spilled} spilled",
            stopped.as_secs(),
            f.records,
            f.losses
        );
        println!(
            "{calls} calls entered the kernel, the longest {}; the longest of all {}, by its own clock; \
             {slow} took more than 1 ms",
            us(longest),
            us(call)
        );
        assert!(n >= RATE * stopped.as_secs() / 2, "too slow a machine: {n} records");
        assert!(lost > 1000 && spilled > 1000 && f.losses >= 2, "{lost} {spilled} {}", f.losses);
        assert_eq!((f.records + lost, f.lost, f.left_out), (n, lost, lost));
        let has = ["written", "delivered", "lost"].map(|name| v[name].as_u64().unwrap());
        assert_eq!(has, [n, f.records, lost], "{v}");
        stat(&s);
    });
    assert_eq!(st, 0);
}

// ---- a reader that does not read

/// Bytes of the flood from `at` on, a line of 100 bytes each: its number, and letters that depend on it.
fn flood_line(i: u64, line: &mut [u8; 100]) {
    let letter = |k: usize| b'a' + ((i * 7 + k as u64 * 3) % 26) as u8;
    for (k, b) in line.iter_mut().enumerate() {
        *b = letter(k);
    }
    line[..12].copy_from_slice(format!("{i:011} ").as_bytes());
    line[99] = b'\n';
}

/// The command: so many bytes on stdout, then its seconds into a file.
fn as_flood(bytes: u64, done: &Path) {
    let begun = Instant::now();
    let mut out = std::io::stdout().lock();
    let (mut i, mut line, mut chunk) = (0, [0; 100], Vec::new());
    while i < bytes / 100 {
        chunk.clear();
        while chunk.len() < 32_000 && i < bytes / 100 {
            flood_line(i, &mut line);
            chunk.extend_from_slice(&line);
            i += 1;
        }
        out.write_all(&chunk).unwrap();
    }
    let part = done.with_extension("part");
    fs::write(&part, format!("{:.2}", begun.elapsed().as_secs_f64())).unwrap();
    fs::rename(part, done).unwrap();
}

/// Most that a process ever had resident, bytes. 0: it is gone.
fn most_resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.map_or(0, |l| l.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10)
}

/// The processes that run the command `spillring` and belong to `run`.
fn spillrings(run: u32) -> Vec<u32> {
    let mut v = vec![run];
    for e in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(e.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|l| l.split_whitespace().nth(1)?.parse::<u32>().ok());
        let ours = fs::read_link(e.path().join("exe")).is_ok_and(|x| x == Path::new(BIN));
        if ours && pid != run && parent.is_some_and(|p| v.contains(&p)) {
            v.push(pid);
        }
    }
    v
}

fn nobody_reads() {
    let bytes = size(60_000_000, 250_000_000);
    let (s, _dir, disk) = place();
    let done = disk.path().join("done");
    let me = std::env::current_exe().unwrap();
    let mut run = Spillring(
        program(BIN, &s)
            .args(["run", "--channel", &s.channel, "--"])
            .arg(me)
            .args(["as-flood", &bytes.to_string()])
            .arg(&done)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let pid = run.0.id();
    let most = |before: u64| spillrings(pid).into_iter().map(most_resident).fold(before, u64::max);
    let mut resident = 0;
    within("the command's end, while nobody reads", Duration::from_secs(120), || {
        resident = most(resident);
        done.exists().then_some(())
    });
    let seconds = fs::read_to_string(&done).unwrap();
    println!("{bytes} bytes into a stdout that nobody reads: the command ended after {seconds} s");
    // What it did not take yet is in the pipe and the ring.
    std::thread::sleep(Duration::from_secs(1));
    resident = most(resident);
    assert!(run.0.try_wait().unwrap().is_none(), "it waits for its reader");
    let v = stat(&s);
    println!("resident at most {} (target: 64); {} records, lost {}", mib(resident), v["written"], v["lost"]);
    let t = Instant::now();
    let mut from = run.0.stdout.take().unwrap();
    let (mut sum, mut len, mut buf) = (0, 0, vec![0; 1 << 16]);
    loop {
        let n = from.read(&mut buf).unwrap();
        if n == 0 {
            break;
        }
        sum = crc32c::crc32c_append(sum, &buf[..n]);
        if len >> 22 != (len + n as u64) >> 22 {
            resident = most(resident);
        }
        len += n as u64;
    }
    println!(
        "{len} bytes came out in {:.2} s; resident at most {}",
        t.elapsed().as_secs_f64(),
        mib(resident)
    );
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    let (mut expected, mut line) = (0, [0; 100]);
    for i in 0..bytes / 100 {
        flood_line(i, &mut line);
        expected = crc32c::crc32c_append(expected, &line);
    }
    assert_eq!((len, sum), (bytes, expected));
    assert!(resident > 0 && resident <= 64 << 20, "{}", mib(resident));
    let v = stat(&s);
    assert_eq!((&v["pending"], &v["lost"]), (&0.into(), &0.into()));
}

// ---- how soon the ring of a dead process is gone

fn killed() {
    rings_of_the_killed(20, |s, who, logged| {
        let child = producer(s, || log_until_killed(who, logged));
        let pid = child.pid();
        (child, Box::new(move || pid))
    });
}

fn killed_elsewhere() {
    rings_of_the_killed(size(8, 20), |s, who, logged| {
        let inner = &shared_words()[0];
        let child = fork_and(|| {
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
            let c = producer(s, || log_until_killed(who, logged));
            inner.store(c.pid() as u64, SeqCst);
            wait(c.pid());
        });
        (child, Box::new(|| inner.load(SeqCst) as i32))
    });
}

/// Told how many records a victim has logged.
type Tell<'a> = &'a dyn Fn(u64);

fn log_until_killed(who: usize, logged: Tell) {
    for n in 0.. {
        info!("p{} {} {}", who, n, "some text, that there is something to deliver");
        logged(n + 1);
        if n > 200 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A child to wait for, and the process that logs.
type Victim = (Child, Box<dyn Fn() -> i32>);

fn rings_of_the_killed(count: usize, start: impl Fn(&Settings, usize, Tell) -> Victim) {
    let (s, _dir, _disk) = place();
    let drain = Spillring::drain(&s);
    let acked = shared_words();
    let rings = || {
        let names = fs::read_dir(s.channel_dir()).unwrap().flatten().map(|e| e.file_name());
        names.filter(|n| n.to_string_lossy().contains(".ring")).count()
    };
    let mut times = Vec::new();
    for (who, acked) in acked.iter().enumerate().take(count) {
        let (child, victim) = start(&s, who, &|n| acked.store(n, SeqCst));
        within("a producer that logs", Duration::from_secs(20), || {
            assert!(child.running(), "it ended");
            (acked.load(SeqCst) > 300).then_some(())
        });
        assert_eq!(rings(), 1);
        let t = Instant::now();
        kill(victim(), libc::SIGKILL);
        child.wait();
        within("an unlinked ring", Duration::from_secs(10), || (rings() == 0).then_some(()));
        times.push(t.elapsed());
        // In the journal by then, not later. One more may have been published than was said.
        let (said, f) = (acked.load(SeqCst), read_journal(&s));
        let there = f.next[&format!("p{who}")];
        assert!(there == said || there == said + 1, "p{who}: {said} {there}");
        assert_eq!((f.next.len(), f.left_out, f.losses), (who + 1, 0, 0));
        stat(&s);
    }
    times.sort();
    let ms: Vec<_> = times.iter().map(|t| t.as_millis()).collect();
    println!("killed, to delivered and unlinked (target: 2000 ms), ms: {ms:?}");
    let v = all_delivered(&s);
    assert_eq!(v["lost"], 0);
    drain.end();
    stat(&s);
}
