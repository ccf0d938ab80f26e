//! The Rust front door: what the macros hand over, and what of it is found in a journal.
#![allow(unsafe_code)]

use spillring::record::{Args, CompiledFormat, Site, show_value};
use spillring::site::{Filter, Gate, Level, MAX_TEXT, set_filter, set_gate};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
fn keep<A: Args>(site: &'static Site, args: A) {
    let mut payload = Vec::new();
    args.pieces(&mut |p| payload.extend_from_slice(p));
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
