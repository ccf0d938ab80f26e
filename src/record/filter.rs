//! What is logged: a level for each target, and the gate that every call passes first.
//!
//! A call looks at two words. The *gate* is the lowest level that any target has: one load, one compare,
//! and a call below it is done. Behind it the site's own *verdict*, found out once by its target and tagged
//! with the filter that it was found under: one load, one compare with the word of now. Three answers of one
//! compare, so that a call whose target is switched off takes as few instructions: equal (it passes, the site has a
//! number, and calls go the usual way), more (it does not pass), or less (it is to be found out).
#![allow(unsafe_code)] // The filter in force is reached through a pointer, because a handler may ask.

use super::{BadLevel, Gate, Level, Site, look};
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering, Ordering::*, near};
use std::fmt;
use std::str::FromStr;

/// What a program was built to log at most: calls below it are not even compiled. By the features
/// `max_level_*`, and in builds without `debug_assertions` by `release_max_level_*` where one is given.
pub const STATIC_GATE: Gate = {
    let debug = cfg!(debug_assertions);
    if !debug && cfg!(feature = "release_max_level_off") {
        Gate::Off
    } else if !debug && cfg!(feature = "release_max_level_error") {
        Gate::From(Level::Error)
    } else if !debug && cfg!(feature = "release_max_level_warn") {
        Gate::From(Level::Warn)
    } else if !debug && cfg!(feature = "release_max_level_info") {
        Gate::From(Level::Info)
    } else if !debug && cfg!(feature = "release_max_level_debug") {
        Gate::From(Level::Debug)
    } else if !debug && cfg!(feature = "release_max_level_trace") {
        Gate::From(Level::Trace)
    } else if cfg!(feature = "max_level_off") {
        Gate::Off
    } else if cfg!(feature = "max_level_error") {
        Gate::From(Level::Error)
    } else if cfg!(feature = "max_level_warn") {
        Gate::From(Level::Warn)
    } else if cfg!(feature = "max_level_info") {
        Gate::From(Level::Info)
    } else if cfg!(feature = "max_level_debug") {
        Gate::From(Level::Debug)
    } else {
        // `max_level_trace`, or nothing said.
        Gate::From(Level::Trace)
    }
};

/// A level for each target: `info`, or `warn,hyper=info,app::db=trace`.
///
/// The grammar of env_logger, without its regular expressions: levels (`trace debug info warn error off`)
/// and `TARGET=LEVEL`, separated by commas. A target stands for all that begin with it; of several that
/// do, the longest decides; a level alone is for the rest. As with env_logger, where targets are named and
/// no level stands alone, nothing else is logged. (A target alone, which env_logger takes for "all of it",
/// is refused, because a misspelt level looks the same.)
/// ```
/// use spillring::site::{Filter, Level};
/// let f: Filter = "warn,app=debug,app::db=off".parse().unwrap();
/// assert!(f.allows(Level::Debug, "app::web") && !f.allows(Level::Error, "app::db"));
/// assert!(f.allows(Level::Warn, "hyper") && !f.allows(Level::Info, "hyper"));
/// assert_eq!(f.to_string(), "warn,app=debug,app::db=off");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// For targets that no directive names.
    rest: Gate,
    /// Longest target first, so that the first one that fits decides.
    targets: Vec<(Box<str>, Gate)>,
}

impl From<Gate> for Filter {
    fn from(rest: Gate) -> Filter {
        Filter { rest, targets: Vec::new() }
    }
}

impl From<Level> for Filter {
    fn from(level: Level) -> Filter {
        Gate::From(level).into()
    }
}

impl Filter {
    /// The same with another level for the targets that begin with `target`.
    #[must_use]
    pub fn with(mut self, target: &str, gate: Gate) -> Filter {
        self.targets.retain(|(t, _)| &**t != target);
        self.targets.push((target.into(), gate));
        self.targets.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        self
    }

    /// What it lets through of a target.
    pub fn gate_of(&self, target: &str) -> Gate {
        let fits = |(t, gate): &(Box<str>, Gate)| target.starts_with(&**t).then_some(*gate);
        self.targets.iter().find_map(fits).unwrap_or(self.rest)
    }

    /// Whether a record is logged. Async-signal-safe.
    pub fn allows(&self, level: Level, target: &str) -> bool {
        self.gate_of(target).passes(level)
    }

    /// The lowest level that any target has.
    pub fn lowest(&self) -> Gate {
        let all = self.targets.iter().map(|t| t.1).chain([self.rest]);
        Gate::of_number(all.map(Gate::number).min().unwrap_or(Gate::Off.number()))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rest.as_str())?;
        self.targets.iter().rev().try_for_each(|(t, gate)| write!(f, ",{t}={gate}"))
    }
}

/// What is wrong with a filter: the part, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFilter {
    /// The part between two commas.
    pub part: String,
    /// Why it is none.
    pub why: &'static str,
}

impl fmt::Display for BadFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.part, self.why)
    }
}

impl std::error::Error for BadFilter {}

const UNKNOWN: &str = "unknown level: use trace, debug, info, warn, error or off";

impl FromStr for Filter {
    type Err = BadFilter;
    fn from_str(s: &str) -> Result<Self, BadFilter> {
        let (mut rest, mut filter) = (None, Filter::from(Gate::Off));
        for part in s.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let bad = |why| Err(BadFilter { part: part.to_string(), why });
            if part.contains('/') {
                return bad("regular expressions are not supported");
            }
            if part.contains(['[', ']', '{', '}']) {
                return bad("filters by span or field are not supported");
            }
            match part.split_once('=') {
                None => match part.parse() {
                    Ok(gate) => rest = Some(gate),
                    Err(BadLevel) => {
                        return bad(
                            "unknown level: use trace, debug, info, warn, error or off, or TARGET=LEVEL",
                        );
                    }
                },
                Some((target, level)) => {
                    let target = target.trim();
                    if target.is_empty() {
                        return bad("there is no target before the =");
                    }
                    match level.trim().parse() {
                        Ok(gate) => filter = filter.with(target, gate),
                        Err(BadLevel) => return bad(UNKNOWN),
                    }
                }
            }
        }
        match rest {
            Some(gate) => filter.rest = gate,
            None if filter.targets.is_empty() => return Err(BadFilter { part: s.to_string(), why: UNKNOWN }),
            None => {}
        }
        Ok(filter)
    }
}

/// What every call loads and hardly anything stores, side by side: one address, one cache line.
#[repr(C, align(16))]
struct Words {
    /// Lowest level that passes for any target.
    gate: AtomicU32,
    /// What a site's verdict is compared with: a multiple of [`STEP`], one more step with each filter that has
    /// targets or follows one, and [`USUAL`]. It never goes back.
    now: AtomicU64,
}
static WORDS: Words = Words { gate: AtomicU32::new(Level::Info as u32), now: AtomicU64::new(NO_FILTER) };

/// From one filter to the next. Between lie a site's verdicts: with `B` the multiple of the filter in force, `B - 1`
/// it passes, `B + USUAL` it passes, has a number, and its calls go the usual way, `B + OFF` it does not pass.
const STEP: u64 = 4;
/// In [`Words::now`]: calls go the usual way ([`calls_are_usual`]).
const USUAL: u64 = 1;
const OFF: u64 = 2;

/// What [`Words::now`] is before the first filter that has targets: then every target passes.
const NO_FILTER: u64 = STEP;

#[inline(always)]
fn words() -> &'static Words {
    let p = near!(WORDS: Words);
    // SAFETY: the address of a static.
    unsafe { &*p }
}

/// The number of the filter in force, a multiple of [`STEP`].
#[inline(always)]
fn filter_in_force(order: Ordering) -> u64 {
    words().now.load(order) & !(STEP - 1)
}

/// The filter in force, null = the gate alone. Never freed: a handler may be reading it.
static FILTER: AtomicPtr<Filter> = AtomicPtr::new(core::ptr::null_mut());

/// Whether a record of this level passes the gate: one load, one compare. That its target passes too is
/// asked of its site ([`Site::passes`](super::Site::passes)), or by [`allows`]. Async-signal-safe.
#[inline(always)]
pub fn enabled(level: Level) -> bool {
    // Relaxed: nothing but the decision hangs on it, and a call that races with a change may go either way.
    STATIC_GATE.passes(level) && level as u32 >= words().gate.load(Relaxed)
}

/// A site's verdict: see the head of the module. 0 = none.
#[derive(Debug)]
pub(super) struct Verdict(AtomicU64);

impl Verdict {
    pub const fn new() -> Verdict {
        Verdict(AtomicU64::new(0))
    }
}

/// How a call that passes goes on.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its site has a number, the process reads one of the usual clocks, and no call wakes a drain.
    Usual,
    /// Not all of that is known.
    Otherwise,
}

/// From now on calls may go the usual way: the clock is known, and one of the usual ones, and no call wakes a drain.
pub(crate) fn calls_are_usual() {
    // Release, pairs with `passes`: what the writer has stored for such calls comes before it.
    words().now.fetch_or(USUAL, Release);
}

impl Site {
    /// Whether its target lets its level through, and how; ask [`enabled`] first. Two loads and a compare, but for
    /// the first call after each new filter. Async-signal-safe.
    #[inline(always)]
    pub fn passes(&self) -> Option<Way> {
        // Its own word first: what it was compared with when it was stored is then seen here, or something later,
        // so that only a verdict that says so is more than now. Acquire, pairs with `settle` (the site's number)
        // and with `calls_are_usual`.
        let mine = self.verdict.0.load(Acquire);
        let now = words().now.load(Acquire);
        if mine == now {
            Some(Way::Usual)
        } else if mine < now && look::find_out(self) {
            Some(Way::Otherwise)
        } else {
            None
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn find_out(&self) -> bool {
        // Acquire, pairs with `put`: with this number comes its filter, or a later one; then the verdict that is
        // stored here is of an old one, and the next call asks again.
        let base = filter_in_force(Acquire);
        if self.verdict.0.load(Relaxed) == base - 1 {
            return true;
        }
        let yes = allows(self.level, self.target);
        // That it was settled meanwhile may get lost: the next call settles it.
        self.verdict.0.store(if yes { base - 1 } else { base + OFF }, Relaxed);
        yes
    }

    /// It has a number: if it is known to pass, and calls go the usual way, its next ones do. Async-signal-safe.
    pub(crate) fn settle(&self) {
        let now = words().now.load(Acquire);
        let passes = (now & !(STEP - 1)) - 1;
        if now & USUAL != 0 && self.verdict.0.load(Relaxed) == passes {
            // Release, pairs with `passes`: whoever sees it sees the number. By exchange: a verdict that somebody
            // else has found under a later filter stays.
            let _ = self.verdict.0.compare_exchange(passes, now, Release, Relaxed);
        }
    }
}

/// The same for a call site of another language, which the library cannot lay out: the low half of the multiple of
/// [`STEP`] (it passes), or one more (it does not). (It comes around after 2^30 filters: then a site may go by an old one
/// until the next.)
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct ForeignVerdict(AtomicU32);

impl ForeignVerdict {
    /// None yet.
    pub const fn new() -> ForeignVerdict {
        ForeignVerdict(AtomicU32::new(0))
    }

    /// Whether the filter in force lets a target through at this level (1 to 5; another one passes: it is for
    /// the caller to refuse). Without levels for targets, one load and a compare. Async-signal-safe, if
    /// `target` is.
    #[inline(always)]
    pub fn passes<'a>(&self, level: u8, target: impl FnOnce() -> &'a [u8]) -> bool {
        let now = filter_in_force(Relaxed) as u32;
        if now == NO_FILTER as u32 {
            return true;
        }
        let mine = self.0.load(Relaxed);
        if mine & !1 == now { mine == now } else { self.find_out(level, target()) }
    }

    /// Whether it is known that this site passes: two loads and a compare, and no call. Async-signal-safe.
    #[inline(always)]
    pub fn is_known_to_pass(&self) -> bool {
        let now = filter_in_force(Relaxed) as u32;
        now == NO_FILTER as u32 || self.0.load(Relaxed) == now
    }

    #[cold]
    #[inline(never)]
    fn find_out(&self, level: u8, target: &[u8]) -> bool {
        let Some(level) = Level::from_u8(level) else { return true };
        // Acquire, pairs with `put`, as in `Site::find_out`.
        let base = filter_in_force(Acquire) as u32;
        // A target that is no text is none that a filter names.
        let yes = allows(level, std::str::from_utf8(target).unwrap_or(""));
        self.0.store(base + u32::from(!yes), Relaxed);
        yes
    }
}

/// Whether a record of this level and target is logged, for targets that no static site has.
/// Async-signal-safe.
pub fn allows(level: Level, target: &str) -> bool {
    if !enabled(level) {
        return false;
    }
    let f = FILTER.load(Acquire);
    // SAFETY: null, or a filter that was leaked by `set_filter`.
    f.is_null() || unsafe { &*f }.allows(level, target)
}

/// Sets what this process logs (`info` and above, until then). Not async-signal-safe: it allocates, and
/// keeps what it allocates for the life of the process. Of two threads that do it at a time either may win.
pub fn set_filter(filter: &Filter) {
    if filter.targets.is_empty() {
        return set_gate(filter.rest);
    }
    put(Box::leak(Box::new(filter.clone())), filter.lowest());
}

/// Sets one level for all targets. Async-signal-safe (unless an adapter for `tracing` is in use, which
/// then tells its callsites).
pub fn set_gate(gate: Gate) {
    put(core::ptr::null_mut(), gate);
}

fn put(filter: *mut Filter, gate: Gate) {
    let had = FILTER.swap(filter, AcqRel);
    words().gate.store(gate.number(), Relaxed);
    if !filter.is_null() || !had.is_null() {
        // Release: after the filter.
        words().now.fetch_add(STEP, Release);
    }
    for hook in &HOOKS {
        let f = hook.load(Acquire);
        if !f.is_null() {
            // SAFETY: only `on_filter_change` stores there, and only pointers of this type.
            let f = unsafe { core::mem::transmute::<*mut (), fn()>(f) };
            f();
        }
    }
}

/// The gate's word: the number of the lowest level that passes. For calls from other languages, which load
/// it themselves; they never store it.
pub fn gate_word() -> &'static AtomicU32 {
    &words().gate
}

/// The lowest level that any target has, as it stands.
pub fn gate() -> Gate {
    Gate::of_number(words().gate.load(Relaxed))
}

/// Who wants to know of a new filter: the adapters, which tell it to what they adapt.
static HOOKS: [AtomicPtr<()>; 4] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 4];

/// Has `f` called after each change of the filter. The same function is kept once; of more than four
/// others the last are not called.
pub fn on_filter_change(f: fn()) {
    let f = f as *mut ();
    for hook in &HOOKS {
        match hook.compare_exchange(core::ptr::null_mut(), f, AcqRel, Acquire) {
            Ok(_) => return,
            Err(there) if there == f => return,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(f: &str, targets: &[&str]) -> Vec<&'static str> {
        let f: Filter = f.parse().unwrap();
        targets.iter().map(|t| f.gate_of(t).as_str()).collect()
    }

    #[test]
    fn the_grammar_of_env_logger() {
        let targets = ["app", "app::db", "app::db::pool", "application", "hyper"];
        for (f, expected) in [
            ("warn", ["warn", "warn", "warn", "warn", "warn"]),
            // A prefix is one of letters, as there; the longest wins, wherever it stands.
            ("app=debug", ["debug", "debug", "debug", "debug", "off"]),
            ("app::db=trace,app=debug,error", ["debug", "trace", "trace", "debug", "error"]),
            (" INFO , app::db = Off ,", ["info", "off", "off", "info", "info"]),
            ("app=debug,app=warn,info,error", ["warn", "warn", "warn", "warn", "error"]),
        ] {
            assert_eq!(gates(f, &targets), expected, "{f}");
            let again = f.parse::<Filter>().unwrap().to_string();
            assert_eq!(gates(&again, &targets), expected, "{f} -> {again}");
        }
        for (bad, part) in [
            ("", ""),
            (",", ","),
            ("inof", "inof"),
            ("info,app=loud", "app=loud"),
            ("info,=warn", "=warn"),
            ("app=", "app="),
            ("info/re", "info/re"),
            ("warn,[span]=debug", "[span]=debug"),
            ("a[{f=1}]=debug", "a[{f=1}]=debug"),
        ] {
            assert_eq!(bad.parse::<Filter>().unwrap_err().part, part, "{bad}");
        }
        let lowest = |f: &str| f.parse::<Filter>().unwrap().lowest().as_str();
        assert_eq!(
            (lowest("off"), lowest("warn,a=trace"), lowest("a=error,b=warn")),
            ("off", "trace", "warn")
        );
    }

    #[test]
    fn a_sites_verdict_follows_the_filter() {
        // The only test of this program that has filters with targets.
        let site = |target| Site::new(Level::Debug, target, "f", 1, "");
        let (db, web) = (site("app::db"), site("app::web"));
        let ask = || {
            let one = |s: &Site| enabled(s.level) && s.passes().is_some();
            (one(&db), one(&web))
        };
        assert_eq!(ask(), (false, false), "info");
        for _ in 0..2 {
            set_filter(&"warn,app::db=debug".parse().unwrap());
            assert_eq!((ask(), ask(), gate()), ((true, false), (true, false), Gate::From(Level::Debug)));
            set_filter(&"debug,app::db=warn".parse().unwrap());
            assert_eq!((ask(), ask()), ((false, true), (false, true)));
            set_gate(Gate::From(Level::Debug));
            assert_eq!((ask(), ask()), ((true, true), (true, true)));
            set_filter(&"off".parse().unwrap());
            assert_eq!((ask(), allows(Level::Error, "x")), ((false, false), false));
        }
        // With a number, and where calls go the usual way, its own do: until the next filter, and not if it is off.
        set_filter(&"warn,app::db=debug".parse().unwrap());
        let settle = || {
            db.settle();
            web.settle();
            (db.passes(), web.passes())
        };
        assert_eq!((db.passes(), web.passes()), (Some(Way::Otherwise), None));
        assert_eq!(settle(), (Some(Way::Otherwise), None), "the clock is not known");
        calls_are_usual();
        assert_eq!((db.passes(), web.passes()), (Some(Way::Otherwise), None));
        assert_eq!(settle(), (Some(Way::Usual), None));
        set_filter(&"warn,app::web=debug".parse().unwrap());
        db.settle();
        assert_eq!((db.passes(), web.passes()), (None, Some(Way::Otherwise)), "a verdict of before");
        assert_eq!(settle(), (None, Some(Way::Usual)));
        set_gate(Gate::From(Level::Debug));
        assert_eq!((db.passes(), web.passes()), (Some(Way::Otherwise), Some(Way::Otherwise)));
        assert_eq!(settle(), (Some(Way::Usual), Some(Way::Usual)));
        set_gate(Gate::From(Level::Info));
        assert_eq!(ask(), (false, false));
    }
}
