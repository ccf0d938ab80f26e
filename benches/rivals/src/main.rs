//! Rivals, with the workload and the clock of the report:
//!
//! - `rivals NAME calls FILE BURSTS CALLS APART_US PRODUCER DRAIN`: bursts of calls, so far apart; prints the
//!   median over the bursts of a burst's mean, ns a call.
//! - `rivals NAME text FILE N PRODUCER DRAIN`: N calls, then waits for the last line; prints the ns from the
//!   first call to then.
//!
//! The last two arguments are the processors of the logging thread and of whatever the logger starts. Every
//! logger blocks when its queue is full: none may lose a record.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const TEXT: &str = "a string of thirty-five characters.";

fn number(i: u64) -> f64 {
    (i % 1000) as f64 * 0.5 + 0.25
}

fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `t` is writable.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &mut t) };
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
}

fn ticks_per_ns() -> f64 {
    let (t, i) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_millis(50));
    (ticks() - t) as f64 / i.elapsed().as_nanos() as f64
}

fn pin(cpu: usize) {
    // SAFETY: a set of zeros is a set; the call only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// One logger: a call, and what is to be done at the end.
trait Rival {
    fn call(&mut self, a: i32, b: f64, s: &str);
    /// Sends on its way what is still held.
    fn finish(&mut self);
}

struct Tracing {
    _guard: tracing_appender::non_blocking::WorkerGuard,
}

impl Tracing {
    fn new(file: &Path) -> Tracing {
        let file = File::create(file).expect("the file");
        let lossless = tracing_appender::non_blocking::NonBlockingBuilder::default().lossy(false);
        let (writer, guard) = lossless.finish(file);
        tracing_subscriber::fmt().with_writer(writer).with_ansi(false).init();
        Tracing { _guard: guard }
    }
}

impl Rival for Tracing {
    #[inline(never)]
    fn call(&mut self, a: i32, b: f64, s: &str) {
        tracing::info!("{} {} {}", a, b, s);
    }
    // Its guard gives up after a second: the line is waited for instead.
    fn finish(&mut self) {}
}

struct Ftlog;

impl Ftlog {
    fn new(file: &Path) -> Ftlog {
        let appender = ftlog::appender::FileAppender::builder().path(file).build();
        let logger = ftlog::builder().root(appender).bounded(100_000, true).build().expect("ftlog");
        // Its guard flushes and never ends; the process does.
        std::mem::forget(logger.init().expect("the only logger"));
        Ftlog
    }
}

impl Rival for Ftlog {
    #[inline(never)]
    fn call(&mut self, a: i32, b: f64, s: &str) {
        ftlog::info!("{} {} {}", a, b, s);
    }
    fn finish(&mut self) {
        ftlog::logger().flush();
    }
}

struct SpdlogRs(std::sync::Arc<spdlog::Logger>);

impl SpdlogRs {
    fn new(file: &Path) -> SpdlogRs {
        use std::sync::Arc;
        let sink = spdlog::sink::FileSink::builder().path(file).truncate(true).build_arc().expect("the file");
        let pool = spdlog::ThreadPool::builder().build_arc().expect("a thread");
        let pooled = spdlog::sink::AsyncPoolSink::builder()
            .sink(sink)
            .thread_pool(pool)
            .overflow_policy(spdlog::sink::OverflowPolicy::Block)
            .build_arc()
            .expect("a sink");
        SpdlogRs(Arc::new(spdlog::Logger::builder().sink(pooled).build().expect("a logger")))
    }
}

impl Rival for SpdlogRs {
    #[inline(never)]
    fn call(&mut self, a: i32, b: f64, s: &str) {
        spdlog::info!(logger: self.0, "{} {} {}", a, b, s);
    }
    fn finish(&mut self) {
        self.0.flush();
    }
}

/// One write(2) a record, formatted on the stack: no logger, and no thread.
struct WriteEach {
    file: File,
    line: Vec<u8>,
}

impl Rival for WriteEach {
    #[inline(never)]
    fn call(&mut self, a: i32, b: f64, s: &str) {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `t` is writable.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut t) };
        self.line.clear();
        let _ = writeln!(self.line, "{}.{:09} INFO {a} {b} {s}", t.tv_sec, t.tv_nsec);
        self.file.write_all(&self.line).expect("the file");
    }
    fn finish(&mut self) {}
}

fn calls(mut r: impl Rival, args: &[u64]) {
    let &[bursts, calls, apart, producer, _] = args else { panic!("calls FILE BURSTS CALLS APART CPU CPU") };
    pin(producer as usize);
    let per_ns = ticks_per_ns();
    let mut means = Vec::new();
    for i in 0..bursts + bursts / 4 {
        std::thread::sleep(Duration::from_micros(apart));
        let t = ticks();
        for n in 0..calls {
            r.call(black_box(n as i32), 0.5, black_box(TEXT));
        }
        let mean = (ticks() - t) as f64 / calls as f64 / per_ns;
        if i >= bursts / 4 {
            means.push(mean);
        }
    }
    means.sort_by(f64::total_cmp);
    println!("{:.2}", means[(means.len() - 1) / 2]);
}

fn text(mut r: impl Rival, file: &Path, args: &[u64]) {
    let &[n, producer, _] = args else { panic!("text FILE N CPU CPU") };
    pin(producer as usize);
    let begun = Instant::now();
    for i in 0..n {
        r.call(i as i32, number(i), TEXT);
    }
    r.finish();
    let f = File::open(file).expect("the file");
    let marker = format!("{} {} {TEXT}", n - 1, number(n - 1));
    let mut buf = [0; 512];
    loop {
        let len = f.metadata().expect("its length").len();
        let k = f.read_at(&mut buf, len.saturating_sub(512)).expect("its end");
        let end = String::from_utf8_lossy(&buf[..k]);
        if end.ends_with('\n') && end.lines().last().is_some_and(|l| l.contains(&marker)) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "the last line does not come");
        std::thread::sleep(Duration::from_micros(200));
    }
    println!("{}", begun.elapsed().as_nanos());
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (name, what, file) = (args[1].as_str(), args[2].as_str(), Path::new(&args[3]));
    let numbers: Vec<u64> = args[4..].iter().map(|a| a.parse().expect("a number")).collect();
    // What the logger starts runs where the drain would.
    pin(*numbers.last().expect("processors") as usize);
    macro_rules! go {
        ($rival:expr) => {
            if what == "calls" { calls($rival, &numbers) } else { text($rival, file, &numbers) }
        };
    }
    match name {
        "tracing-appender" => go!(Tracing::new(file)),
        "ftlog" => go!(Ftlog::new(file)),
        "spdlog-rs" => go!(SpdlogRs::new(file)),
        "write" => go!(WriteEach { file: File::create(file).expect("the file"), line: Vec::new() }),
        other => panic!("no rival {other}"),
    }
    // Some never end their threads.
    std::process::exit(0);
}
