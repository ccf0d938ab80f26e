//! The Rust front door: what the macros hand over, and what of it is found in a journal.
#![cfg(feature = "cli")]
#![allow(unsafe_code)]

use common::{Found, Scratch, fork_and, journal_records, settings};
use spillring::drain::{Drain, DrainConfig};
use spillring::env::Settings;
use spillring::record::{Args, CompiledFormat, Site, Way, show_value};
use spillring::site::{Filter, Gate, Level, MAX_TEXT, Time, set_filter, set_gate};
use spillring::sync::{AtomicU32, Ordering::Relaxed};
use spillring::{Code, Logger};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

mod common;

/// The filter is the process's: tests that log hold this.
fn filter_lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- the macros: what they hand over

struct Logged {
    site: &'static Site,
    text: String,
}

thread_local! {
    static LOGGED: RefCell<Vec<Logged>> = const { RefCell::new(Vec::new()) };
}

/// Stands in for the writer; keeps text and fields as readers find them.
fn keep<A: Args>(_: Way, site: &'static Site, args: A) {
    let mut payload = vec![0; args.encoded_len()];
    // SAFETY: there is room for so many bytes.
    unsafe { args.put(payload.as_mut_ptr()) };
    let f = site.facts::<A>();
    let format = CompiledFormat::with_fields(f.fmt, f.types, f.fields, f.style);
    assert_eq!(format.error(), None, "{}", site.fmt);
    let mut out = Vec::new();
    format.render(&payload, &mut out).unwrap();
    for f in format.fields(&payload) {
        out.push(b' ');
        out.extend_from_slice(f.name);
        out.push(b'=');
        show_value(&f.value, &mut out);
    }
    LOGGED.with_borrow_mut(|all| all.push(Logged { site, text: String::from_utf8(out).unwrap() }));
}

fn taken() -> Vec<Logged> {
    LOGGED.with_borrow_mut(std::mem::take)
}

fn texts() -> Vec<String> {
    taken().into_iter().map(|l| l.text).collect()
}

macro_rules! log_here {
    ($($t:tt)*) => { spillring::__log_to!(keep, Level::Error, $($t)*) };
}

/// A type that only has `Display` and `Debug`.
struct Shy(&'static str);
impl fmt::Display for Shy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
impl fmt::Debug for Shy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shy<{}>", self.0)
    }
}

#[test]
fn fields_stand_before_the_format_string() {
    let _lock = filter_lock();
    let (user, ok, shy) = (7u32, true, Shy("two words"));
    struct Deep {
        inner: u8,
    }
    let deep = Deep { inner: 9 };
    log_here!(user = user, "served");
    log_here!(user, ok, "served {} in {:.1} ms", "all", 2.25);
    log_here!(http.status = 200i16, "content-type" = "text/html", r#type = 'x', "served",);
    log_here!(path = %shy, err = ?shy, "{}", user);
    log_here!(%shy, ?ok, deep.inner, "mixed {}", 1);
    log_here!(only = 1, fields = user + 1);
    log_here!(user);
    log_here!(a = %"x y".to_uppercase(), b = ?vec![1, 2], c = String::from("temporary").as_str(), "t");
    let line = line!() - 1;
    let all = taken();
    let texts: Vec<_> = all.iter().map(|l| l.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "served user=7",
            "served all in 2.2 ms user=7 ok=true",
            "served http.status=200 content-type=text/html type=x",
            "7 path=\"two words\" err=\"Shy<two words>\"",
            "mixed 1 shy=\"two words\" ok=true deep.inner=9",
            " only=1 fields=8",
            " user=7",
            "t a=\"X Y\" b=\"[1, 2]\" c=temporary",
        ]
    );
    assert_eq!((all[1].site.fmt, all[1].site.fields), ("served {} in {:.1} ms", "user\0ok\0"));
    assert_eq!((all[7].site.line, all[7].site.target), (line, module_path!()));
}

#[test]
fn names_in_the_format_string() {
    let _lock = filter_lock();
    let (id, what, width) = (7, "water", 9usize);
    log_here!("{id} of {what:>w$}|", id = id, what = what, w = width);
    log_here!("{0} {name} {1:?} {name:#x}", 1, "two", name = 255u8);
    log_here!(extra = 1, "{r:.prec$}|{:0w$.prec$}", 2.5, r = 1.25, prec = 1usize, w = 6usize);
    #[rustfmt::skip]
    log_here!("{}{}{}{}{}{}{}{}{}{}{}{k}{l}", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, k = 'k', l = 'l');
    log_here!("{in}", r#in = 5u8);
    log_here!("{}-{shown}-{}", %Shy("s"), ?Shy("d"), shown = %Shy("n"));
    let all = taken();
    let texts: Vec<_> = all.iter().map(|l| l.text.as_str()).collect();
    assert_eq!(
        texts,
        ["7 of     water|", "1 255 \"two\" 0xff", "1.2|0002.5 extra=1", "012345678910kl", "5", "s-n-Shy<d>"]
    );
    // What is stored has typed arguments and numbers for names.
    assert_eq!(all[0].site.fmt, "{0} of {1:>2$}|");
    assert_eq!(all[3].site.fmt, "{}{}{}{}{}{}{}{}{}{}{}{11}{12}");
}

#[test]
fn captured_variables_become_text_at_the_call() {
    let _lock = filter_lock();
    let (user, list, a) = ("me", [1, 2], 5);
    log_here!("{user} has {list:?}");
    log_here!(n = 3u8, shy = %Shy("x"), "{user:>5} {} {named:?} {a}", 2.5, named = "q");
    log_here!("{} {user}", ?Shy("d"));
    log_here!("{:w$} {}|", 1, user, w = a);
    log_here!("{:>a$} {user:.1}|", 1);
    let all = taken();
    let texts: Vec<_> = all.iter().map(|l| l.text.as_str()).collect();
    assert_eq!(
        texts,
        ["me has [1, 2]", "   me 2.5 \"q\" 5 n=3 shy=x", "Shy<d> me", "    1 me|", "    1 m|",]
    );
    // Stored as one text; but what names only what is given is stored as it is.
    assert_eq!(all[0].site.fmt, "{}");
    assert_eq!(all[3].site.fmt, "{:2$} {}|");
}

#[test]
fn long_texts_are_cut_and_say_so() {
    let _lock = filter_lock();
    let long = "é".repeat(MAX_TEXT);
    log_here!(field = %long, "{}", %long);
    log_here!("{long}");
    let cut = format!("{} ({MAX_TEXT} bytes cut)", "é".repeat(MAX_TEXT / 2));
    assert_eq!(texts(), [format!("{cut} field=\"{cut}\""), cut.clone()]);
    // What is stored as it is has no such limit.
    log_here!("{}", long);
    assert_eq!(texts()[0].len(), 2 * MAX_TEXT);
}

#[test]
fn a_display_that_panics_or_logs_loses_only_its_own_record() {
    let _lock = filter_lock();
    struct Panics;
    impl fmt::Display for Panics {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("in a Display")
        }
    }
    struct Logs;
    impl fmt::Display for Logs {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            log_here!("inner {}", %Shy("logged"));
            f.write_str("outer")
        }
    }
    log_here!(a = %Logs, "{} {}", %Logs, 1);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked = std::panic::catch_unwind(|| log_here!("lost {}", %Panics));
    let captured = std::panic::catch_unwind(|| {
        let p = Panics;
        log_here!("lost {p}");
    });
    std::panic::set_hook(hook);
    assert!(panicked.is_err() && captured.is_err());
    log_here!("after");
    assert_eq!(texts(), ["inner logged", "inner logged", "outer 1 a=outer", "after"]);
}

#[test]
fn arguments_may_leave_the_function_and_are_evaluated_once_in_order() {
    let _lock = filter_lock();
    let order = RefCell::new(Vec::new());
    let note = |n: u32| {
        order.borrow_mut().push(n);
        n
    };
    log_here!(a = note(1), b = %note(2), "{} {x}", ?note(3), x = note(4));
    assert_eq!((texts().join(""), order.take()), ("3 4 a=1 b=2".into(), vec![1, 2, 3, 4]));
    fn early(v: Option<u32>) -> Option<u32> {
        log_here!(a = %v?, "{}", ?v?);
        v
    }
    assert_eq!((early(None), early(Some(1))), (None, Some(1)));
    assert_eq!(texts(), ["1 a=1"]);
}

#[test]
fn limits_tell_what_they_left_out() {
    let _lock = filter_lock();
    // The macros log for real; here it is enough that they evaluate what passes.
    let passed = Cell::new(0);
    let pass = || {
        passed.set(passed.get() + 1);
        passed.get()
    };
    for _ in 0..7 {
        spillring::every_n!(3, Level::Warn, target: "t", "{}", pass());
        spillring::every_n!(3, Level::Trace, "{}", pass());
    }
    assert_eq!(passed.get(), 3);
    for _ in 0..7 {
        spillring::rate!(4, std::time::Duration::from_secs(1 << 40), Level::Warn, n = pass(), "x");
    }
    assert_eq!(passed.get(), 7);
}

#[test]
fn a_target_that_is_off_evaluates_nothing() {
    let _lock = filter_lock();
    let evaluated = Cell::new(0);
    let arg = || {
        evaluated.set(evaluated.get() + 1);
        1
    };
    let all = || {
        evaluated.set(0);
        spillring::debug!(target: "app::db", "{}", arg());
        spillring::warn!(target: "app::db", "{}", arg());
        spillring::debug!(target: "app::web", a = arg(), "x");
        spillring::info!("{}", arg());
        evaluated.get()
    };
    // Each site twice under each filter: found out, and remembered.
    let count = |f: &str| {
        set_filter(&f.parse::<Filter>().unwrap());
        let first = all();
        assert_eq!(first, all(), "{f}");
        first
    };
    let here = module_path!();
    for (f, n) in [
        ("info", 2),
        ("off,app=debug", 3),
        ("warn,app=debug,app::db=error", 1),
        ("debug", 4),
        ("app::db=trace", 2),
        (&format!("off,{here}=info"), 1),
        ("off", 0),
    ] {
        assert_eq!(count(f), n, "{f}");
    }
    set_gate(Gate::From(Level::Info));
    assert_eq!(all(), 2);
}

// ---- the journal: what of it is found

/// Drains what dead processes left, and reads it.
fn drained(s: &Settings) -> Vec<Found> {
    let mut d = Drain::open(DrainConfig::new(s, s.channel_dir()).0).unwrap();
    d.finish(&mut |l: &str| eprintln!("{l}")).unwrap();
    journal_records(s)
}

fn kill_self() -> ! {
    // SAFETY: ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    unreachable!()
}

fn utc_now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64
}

#[test]
fn everything_that_a_call_says_is_in_the_journal() {
    let _lock = filter_lock();
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = fork_and(|| {
        let _log = spillring::init_with(&s).unwrap();
        let (user, list) = ("me", [1, 2]);
        spillring::info!(user, ok = true, "took {ms} ms", ms = 2.5);
        spillring::warn!(target: "orders", list = ?list, path = %std::path::Path::new("/a b").display(), "{}", user);
        spillring::error!("{user} has {list:?}");
        for i in 0..10 {
            spillring::every_n!(4, Level::Info, n = i, "every");
        }
        for i in 0..1000 {
            spillring::rate!(2, Duration::from_secs(1 << 40), Level::Info, "rate {}", i);
        }
        // A generic function: its site is claimed by one type, records of the other carry it.
        fn both(v: impl spillring::record::Capture) {
            spillring::info!(v = v, "generic");
        }
        both(1u8);
        both("one");
        // A value that panics while it is shown, and one that logs: no call was open, so none was nested.
        std::panic::set_hook(Box::new(|_| {}));
        struct Bad(bool);
        impl fmt::Display for Bad {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                spillring::info!("shown");
                assert!(self.0);
                f.write_str("good")
            }
        }
        let bad = Bad(false);
        assert!(std::panic::catch_unwind(|| spillring::info!("{}", %bad)).is_err());
        assert!(std::panic::catch_unwind(|| spillring::info!("{bad}")).is_err());
        spillring::info!(value = %Bad(true), "it is");
        assert_eq!(spillring::writer::status().nested, 0);
        // Spilled and shared records have fields, too: larger than the lane takes.
        spillring::info!(long = "x".repeat(100_000), "large");
        kill_self()
    });
    assert_eq!(child.wait(), libc::SIGKILL);
    let all = drained(&s);
    let shown: Vec<_> = all.iter().map(|r| format!("{}{}", r.text, r.fields)).collect();
    let long = format!("large long={}", "x".repeat(100_000));
    assert_eq!(
        shown,
        [
            "took 2.5 ms user=me ok=true",
            "me list=\"[1, 2]\" path=\"/a b\"",
            "me has [1, 2]",
            "every n=0",
            "every suppressed=3 n=4",
            "every suppressed=3 n=8",
            "rate 0",
            "rate 1",
            "generic v=1",
            "generic v=one",
            "shown",
            "shown",
            "shown",
            "it is value=good",
            &long
        ]
    );
    assert_eq!((all[1].target.as_str(), all[1].level, all[2].level), ("orders", 4, 5));
    assert_eq!(all[0].target, module_path!());
}

#[test]
fn a_caller_says_when_it_was() {
    let _lock = filter_lock();
    let dir = Scratch::new();
    let s = settings(&dir);
    const HOUR: i64 = 3_600_000_000_000;
    let before = utc_now();
    let child = fork_and(|| {
        let _log = spillring::init_with(&s).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let began = Time::now();
        spillring::info!(at: Time::Utc(before - HOUR), "an hour ago");
        spillring::info!(at: Time::Utc(before - HOUR / 2), "half an hour ago");
        spillring::info!(at: SystemTime::UNIX_EPOCH, "long ago");
        spillring::info!(at: began, n = 1, "began");
        spillring::info!(at: Time::Utc(before + HOUR), "in an hour");
        spillring::info!("now");
        kill_self()
    });
    assert_eq!(child.wait(), libc::SIGKILL);
    let all = drained(&s);
    let after = utc_now();
    let texts: Vec<_> = all.iter().map(|r| r.text.as_str()).collect();
    assert_eq!(texts, ["an hour ago", "half an hour ago", "long ago", "began", "in an hour", "now"]);
    // As exact as the rate of the counter is known, here by a ring that is some ms old.
    let near = |r: &Found, utc: i64| assert!((r.utc - utc).abs() < HOUR / 100, "{r:?}, {}", r.utc - utc);
    near(&all[0], before - HOUR);
    near(&all[1], before - HOUR / 2);
    // Never back within a thread; the raw time is there.
    assert_eq!(all[2].utc, all[1].utc);
    assert!(all[2].ticks < all[0].ticks && all[0].ticks < all[1].ticks);
    assert!((before - 1_000_000..=after).contains(&all[3].utc), "{:?}", all[3]);
    // Never in the future of the drain.
    assert!(all[4].utc <= after && all[4].ticks > all[5].ticks);
}

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all of it.
unsafe impl std::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|n| n.set(n.get() + 1));
        // SAFETY: by the caller.
        unsafe { std::alloc::System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: by the caller.
        unsafe { std::alloc::System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Of any kind, also a thread's and a site's first.
#[test]
fn no_call_allocates() {
    let _lock = filter_lock();
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = fork_and(|| {
        let _log = spillring::init_with(&s).unwrap();
        let (user, list, long) = ("ada", [1, 2, 3], "x".repeat(5000));
        let path = std::path::Path::new("/a b");
        let calls = || {
            let before = ALLOCATED.get();
            for i in 0..100u32 {
                spillring::info!("{} {} {}", i, 2.5, user);
                spillring::warn!(target: "orders", list = ?list, path = %path.display(), "{}", user);
                spillring::error!(n = i, "{user} has {list:?} {long}");
                spillring::info!("{}", %long);
                spillring::every_n!(4, Level::Info, n = i, "every");
                spillring::rate!(5, Duration::from_secs(1), Level::Warn, "slow");
                spillring::debug!("off {}", user);
            }
            ALLOCATED.get() - before
        };
        assert_eq!(std::thread::scope(|t| t.spawn(calls).join().unwrap()), 0);
        assert_eq!(calls(), 0);
        // It counts.
        let before = ALLOCATED.get();
        drop(std::hint::black_box(Box::new(1)));
        assert_eq!(ALLOCATED.get() - before, 1);
    });
    assert_eq!(child.wait(), 0);
    assert!(drained(&s).len() > 800);
}

#[test]
fn exit_without_dropping_the_guard_loses_nothing() {
    let _lock = filter_lock();
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = fork_and(|| {
        let _log = spillring::init_with(&s).unwrap();
        let threads: Vec<_> = (0..3)
            .map(|t| std::thread::spawn(move || (0..2000).for_each(|i| spillring::info!("{} {}", t, i))))
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        std::process::exit(7)
    });
    assert_eq!(libc::WEXITSTATUS(child.wait()), 7);
    assert_eq!(drained(&s).len(), 6000);
}

#[test]
fn a_panic_is_logged_and_the_hook_before_is_called() {
    let _lock = filter_lock();
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = fork_and(|| {
        static CALLED: AtomicU32 = AtomicU32::new(0);
        std::panic::set_hook(Box::new(|_| {
            CALLED.fetch_add(1, Relaxed);
        }));
        let start = || {
            let b = Logger::builder().ignore_environment().panic_hook();
            b.dir(&s.dir).channel(&s.channel).lane_bytes(64 << 10).start().unwrap()
        };
        // Twice: the hook is installed once.
        let _log = (start(), start());
        let worker = std::thread::Builder::new().name("worker 1".into());
        assert!(worker.spawn(|| panic!("order {} failed", 7)).unwrap().join().is_err());
        assert!(std::thread::spawn(|| std::panic::panic_any(5)).join().is_err());
        assert_eq!(CALLED.load(Relaxed), 2);
        kill_self()
    });
    assert_eq!(child.wait(), libc::SIGKILL);
    let all = drained(&s);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!((all[0].target.as_str(), all[0].level, all[0].text.as_str()), ("panic", 5, "order 7 failed"));
    let place = format!(" thread=\"worker 1\" location={}:", file!());
    assert!(all[0].fields.starts_with(&place), "{}", all[0].fields);
    assert_eq!(all[1].text, "(a value that is no text)");
}

#[test]
fn in_a_handler_a_flush_answers_at_once() {
    let _lock = filter_lock();
    let dir = Scratch::new();
    let s = settings(&dir);
    static REFUSED: AtomicU32 = AtomicU32::new(0);
    static OTHER: AtomicU32 = AtomicU32::new(0);
    extern "C" fn handler(_: i32) {
        // Without a drain either would wait an hour.
        for r in
            [spillring::flush(Duration::from_secs(3600)), spillring::flush_sinks(Duration::from_secs(3600))]
        {
            let refused = r.is_err_and(|e| e.code == Code::WouldBlock);
            (if refused { &REFUSED } else { &OTHER }).fetch_add(1, Relaxed);
        }
        spillring::info!("in the handler");
    }
    let child = fork_and(|| {
        let _log = spillring::init_with(&s).unwrap();
        // SAFETY: the handler logs, which may be done in one, and counts.
        unsafe {
            let mut a: libc::sigaction = std::mem::zeroed();
            a.sa_sigaction = handler as *const () as usize;
            for signal in [libc::SIGUSR1, libc::SIGALRM] {
                a.sa_flags = if signal == libc::SIGUSR1 { libc::SA_NODEFER } else { libc::SA_RESTART };
                libc::sigaction(signal, &a, std::ptr::null_mut());
            }
            libc::raise(libc::SIGUSR1);
            let every = libc::timeval { tv_sec: 0, tv_usec: 500 };
            let timer = libc::itimerval { it_interval: every, it_value: every };
            libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
        }
        // Between and within log calls.
        let begun = Instant::now();
        while REFUSED.load(Relaxed) < 100 {
            spillring::info!("in the loop");
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        assert_eq!(OTHER.load(Relaxed), 0);
        // SAFETY: stops the timer.
        unsafe { libc::setitimer(libc::ITIMER_REAL, &std::mem::zeroed(), std::ptr::null_mut()) };
        // Outside it waits, and says what is missing.
        let e = spillring::flush(Duration::from_millis(1)).unwrap_err();
        assert!(e.code == Code::Timeout && e.to_string().contains("no drain is running"), "{e}");
        let e = spillring::Error::in_handler().to_string();
        assert!(e.contains("handler") && e.ends_with("[E15]"), "{e}");
    });
    assert_eq!(child.wait(), 0);
}

/// The command, with the settings of a test.
fn spillring(s: &Settings, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_spillring"));
    c.args(args).env("SPILLRING_DIR", &s.dir).env("SPILLRING_JOURNAL_DIR", s.journal_dir.as_ref().unwrap());
    c.stdin(Stdio::null()).stdout(Stdio::null());
    c
}

/// A child that is killed when the test is over.
struct Running(std::process::Child);
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn flush_sinks_waits_until_the_outputs_have_it() {
    let _lock = filter_lock();
    let dir = Scratch::new();
    let s = settings(&dir);
    let a = dir.path().join("a.log");
    let outputs = ["drain", "t", "-o", a.to_str().unwrap()];
    let drain = Running(spillring(&s, &outputs).spawn().unwrap());
    let stat = |name: &str| {
        let sinks = std::fs::read_dir(s.channel_dir()).ok()?.filter_map(|e| Some(e.ok()?.path()));
        sinks.into_iter().find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(name)))
    };
    wait_for("the drain's sink", || stat("sink-file-a").is_some());
    let child = fork_and(|| {
        let _log = spillring::init_with(&s).unwrap();
        for round in 0..5 {
            for i in 0..500 {
                spillring::info!("round {} line {}", round, i);
            }
            spillring::flush_sinks(Duration::from_secs(60)).unwrap();
            let text = std::fs::read_to_string(&a).unwrap();
            let last = text.lines().last().unwrap_or("nothing").to_owned();
            assert!(last.contains(&format!(" round {round} line 499 ")), "{round}: {last:?}");
        }
        // A sink that stopped behind: it is named.
        let page = std::fs::read(stat("sink-file-a").unwrap()).unwrap();
        let word = |at: u64, v: u64, page: &mut Vec<u8>| {
            page[at as usize..at as usize + 8].copy_from_slice(&v.to_le_bytes());
        };
        use spillring::layout::sink::stat as st;
        let old = s.channel_dir().join("sink-old.stat");
        for (state, words) in [(st::STATE_STOPPED, "has stopped"), (st::STATE_BROKEN, "has lost its reader")]
        {
            let mut page = page.clone();
            word(st::ST_NEXT, 1001, &mut page); // the first one is 1
            word(st::ST_STATE, state, &mut page);
            std::fs::write(&old, page).unwrap();
            let e = spillring::flush_sinks(Duration::from_millis(300)).unwrap_err();
            assert_eq!(e.code, Code::Timeout);
            assert!(e.message.contains("sink old") && e.message.contains(words), "{e}");
            assert!(e.message.contains("1500 records pending"), "{e}");
        }
        std::fs::remove_file(&old).unwrap();
        spillring::flush_sinks(Duration::from_secs(60)).unwrap();
    });
    assert_eq!(child.wait(), 0);
    drop(drain);
}
