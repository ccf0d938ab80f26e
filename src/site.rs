//! The Rust front door: the macros of a log call.
//!
//! A call is a static ([`Site`]), one load and compare (the level gate), another one (the site's verdict on
//! its target), the capture of its arguments, and [`writer::log`](crate::writer::log). Below the gate no
//! argument is evaluated. None of this allocates, locks or panics, so a call is as async-signal-safe as its
//! arguments' expressions (and, of `%` and `?`, their `fmt`).

pub use crate::record::{
    BadFilter, Filter, Gate, Level, MAX_TEXT, STATIC_GATE, Site, allows, enabled, gate, set_filter, set_gate,
};
pub use crate::writer::Time;

use crate::record::{TEXT_ROOM, text_in};
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::sys;
use std::fmt;
use std::time::Duration;

/// Logs at a level that is a constant expression: `log!(Level::Warn, "{} left", n)`.
///
/// The format string is one of `std::fmt`; arguments are numbers, `bool`, `char`, strings, references
/// to these, and whatever implements [`Capture`](crate::record::Capture). They are stored as they are and
/// become text when the record is read. `name = value` behind the format string is the argument `{name}`.
/// A width or precision taken from an argument is a `usize` that says so (`8usize`).
/// ```
/// use spillring::site::Level;
/// let (id, name) = (7_u32, String::from("water"));
/// spillring::log!(Level::Warn, "order {} of {:>10}", id, name);
/// spillring::log!(Level::Warn, "order {id:#x} of {what}", id = id, what = name);
/// spillring::log!(Level::Warn, "{:.*} {{}}", 3usize, 0.1,);
/// spillring::log!(Level::Warn, concat!("nothing", " more"));
/// ```
/// # Fields
/// `key = value` *before* the format string is a field, as with `tracing`. It is stored and shown by its
/// key (` user=7 ok=true` behind the text, a key of its own in JSON), and readers filter by it. A key is a
/// name, names with dots between them, or a string; a variable alone is its own key.
/// ```
/// # let (user, path, elapsed) = (7, std::path::Path::new("/"), 2.5);
/// spillring::info!(user = user, http.status = 200, "content-type" = "text/html", "served");
/// spillring::info!(user, elapsed, "took {} ms", 3);
/// ```
/// # Values that can only show themselves
/// `%value` is a value's `Display`, `?value` its `Debug`, for fields and for arguments. Its text is made at
/// the call, on the stack ([`MAX_TEXT`] bytes of it for each such value), and stored: that costs what
/// formatting costs. No memory is allocated. Longer text is cut, and says how many bytes were. It is made
/// before the record is begun: a `Display` that logs logs its own record first, and one that panics loses
/// this record and no other (the panic goes on, through the call).
/// ```
/// # let (path, error) = (std::path::Path::new("/tmp/a"), std::io::Error::other("torn"));
/// spillring::info!(path = %path.display(), err = ?error, "opened {}", %path.display());
/// spillring::info!(%error, "failed");
/// ```
/// # Captured variables
/// A variable named in the format string alone, `"{user}"`, has no type that a call could store: only the
/// compiler's own formatting can reach it. So where a format string captures a variable the *whole text* is
/// made at the call, as `%` does it, and readers find the text instead of the arguments. In a hot path write
/// `"{user}", user = user`, which is stored as it is.
/// ```
/// # let (user, list) = ("me", [1, 2]);
/// spillring::info!("{user} has {list:?}, {} more", 7);
/// ```
/// # Target and time
/// `target: "name"` (else the module's path) and `at: time` (else now; [`Time`]) stand before the format
/// string, too.
/// ```
/// use spillring::site::Time;
/// let began = Time::now();
/// spillring::info!(target: "orders", at: began, id = 7, "began");
/// spillring::info!(at: std::time::SystemTime::now(), "now");
/// ```
/// There are at most 16 arguments and fields together.
///
/// # What does not go together
/// is a compile error: a missing argument,
/// ```compile_fail
/// spillring::info!("{} {}", 1);
/// ```
/// one that is not used,
/// ```compile_fail
/// spillring::info!("{}", 1, 2);
/// ```
/// ```compile_fail
/// spillring::info!("{}", 1, name = 2);
/// ```
/// a variable that is not there,
/// ```compile_fail
/// spillring::info!("{nobody}");
/// ```
/// a specification that the type does not have,
/// ```compile_fail
/// spillring::info!("{:x}", "text");
/// ```
/// ```compile_fail
/// spillring::info!("{:?}", %"text");
/// ```
/// a type that cannot be stored (`?vec![1]` can),
/// ```compile_fail
/// spillring::info!("{:?}", vec![1]);
/// ```
/// ```compile_fail
/// spillring::info!(list = vec![1], "no");
/// ```
/// two fields with one key,
/// ```compile_fail
/// spillring::info!(user = 1, user = 2, "who?");
/// ```
/// a field behind the text that it does not stand in,
/// ```compile_fail
/// spillring::info!("served", user = 1);
/// ```
/// more than 16 arguments and fields,
/// ```compile_fail
/// spillring::info!(a = 1, "{}{}{}{}{}{}{}{}{}{}{}{}{}{}{}{}", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
/// ```
/// a time that is none,
/// ```compile_fail
/// spillring::info!(at: "now", "text");
/// ```
/// or a level that is not constant.
/// ```compile_fail
/// let level = spillring::site::Level::Warn;
/// spillring::log!(level, "text");
/// ```
#[macro_export]
macro_rules! log {
    ($level:expr, $($rest:tt)+) => { $crate::__log_to!($crate::writer::logged, $level, $($rest)+) };
}

/// Logs the program's steps. See [`log!`](crate::log).
#[macro_export]
macro_rules! trace {
    ($($rest:tt)+) => { $crate::log!($crate::site::Level::Trace, $($rest)+) };
}

/// Logs what helps to find a fault. See [`log!`](crate::log).
#[macro_export]
macro_rules! debug {
    ($($rest:tt)+) => { $crate::log!($crate::site::Level::Debug, $($rest)+) };
}

/// Logs what happens in normal operation. See [`log!`](crate::log).
#[macro_export]
macro_rules! info {
    ($($rest:tt)+) => { $crate::log!($crate::site::Level::Info, $($rest)+) };
}

/// Logs what should not happen, and did no harm yet. See [`log!`](crate::log).
#[macro_export]
macro_rules! warn {
    ($($rest:tt)+) => { $crate::log!($crate::site::Level::Warn, $($rest)+) };
}

/// Logs what failed. See [`log!`](crate::log).
#[macro_export]
macro_rules! error {
    ($($rest:tt)+) => { $crate::log!($crate::site::Level::Error, $($rest)+) };
}

/// Logs the first of every `n` calls at this place: `every_n!(100, Level::Warn, "retried")`.
///
/// Calls below the level are not counted. When one or more were left out since the last record, the next one
/// says so by a field `suppressed`. Counts are of this place in the source, over all threads, exact, and
/// async-signal-safe. What is left out after the last record is told by none.
/// ```
/// use spillring::site::Level;
/// for i in 0..1000 {
///     spillring::every_n!(100, Level::Warn, host = "db1", "retry {}", i); // 10 records
/// }
/// ```
#[macro_export]
macro_rules! every_n {
    ($n:expr, $level:expr, $($rest:tt)+) => {
        $crate::__limited!(($crate::site::EveryN) ($n), $level, $($rest)+)
    };
}

/// Logs at most `n` records a period at this place: `rate!(5, Duration::from_secs(1), Level::Warn, "slow")`.
///
/// Periods follow one another from boot on (1 ns to 2^63 ns), so that around the end of one twice as many may
/// come close together. What was left out is told as by [`every_n!`](crate::every_n). Async-signal-safe.
/// ```
/// use spillring::site::Level;
/// use std::time::Duration;
/// spillring::rate!(5, Duration::from_secs(1), Level::Error, "no connection to {}", "db1");
/// ```
#[macro_export]
macro_rules! rate {
    ($n:expr, $period:expr, $level:expr, $($rest:tt)+) => {
        $crate::__limited!(($crate::site::Rate) ($n, $period), $level, $($rest)+)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __limited {
    (($limit:path) ($($how:expr),*), $level:expr, $($rest:tt)+) => {
        if $crate::site::enabled(const { $level }) {
            static __SPILLRING_LIMIT: $limit = <$limit>::new();
            match __SPILLRING_LIMIT.admit($($how),*) {
                ::core::option::Option::None => {}
                ::core::option::Option::Some(0) => $crate::log!($level, $($rest)+),
                ::core::option::Option::Some(n) => $crate::log!($level, suppressed = n, $($rest)+),
            }
        }
    };
}

/// Counts for [`every_n!`](crate::every_n).
#[doc(hidden)]
#[derive(Debug)]
pub struct EveryN {
    calls: AtomicU64,
    suppressed: AtomicU64,
}

impl EveryN {
    /// No call yet.
    #[allow(clippy::new_without_default)] // for statics
    pub const fn new() -> EveryN {
        EveryN { calls: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }
    /// Whether this call is logged, and how many were not since the last one that was.
    pub fn admit(&self, n: u64) -> Option<u64> {
        if self.calls.fetch_add(1, Relaxed).is_multiple_of(n.max(1)) {
            return Some(self.suppressed.swap(0, Relaxed));
        }
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

/// Counts for [`rate!`](crate::rate).
#[doc(hidden)]
#[derive(Debug)]
pub struct Rate {
    /// Number of the present period (44 bits) and records in it (20 bits).
    now: AtomicU64,
    suppressed: AtomicU64,
}

impl Rate {
    const COUNT: u32 = 20;
    /// Exchanges that a call may lose; then it is left out. Its steps are bounded.
    const TRIES: u32 = 32;

    /// No call yet.
    #[allow(clippy::new_without_default)] // for statics
    pub const fn new() -> Rate {
        Rate { now: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }
    /// Whether this call is logged, and how many were not since the last one that was.
    pub fn admit(&self, n: u64, period: Duration) -> Option<u64> {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.admit_in(n, sys::time::monotonic_ns() / period)
    }
    fn admit_in(&self, n: u64, period: u64) -> Option<u64> {
        // One more than its number, so that a word of zeros is of no period.
        let period = (period + 1) << Self::COUNT;
        let n = n.min((1 << Self::COUNT) - 1);
        for _ in 0..Self::TRIES {
            let seen = self.now.load(Relaxed);
            let next = if seen >> Self::COUNT != period >> Self::COUNT { period + 1 } else { seen + 1 };
            if next - period > n {
                break;
            }
            if self.now.compare_exchange(seen, next, Relaxed, Relaxed).is_ok() {
                return Some(self.suppressed.swap(0, Relaxed));
            }
        }
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

/// A value as its `Display` shows it. What `%` makes of it in a log call.
#[doc(hidden)]
#[allow(missing_debug_implementations)] // else `{:?}` would take it, and show something else than the record
pub struct Shown<'a, T: ?Sized>(pub &'a T);

impl<T: fmt::Display + ?Sized> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value as its `Debug` shows it. What `?` makes of it in a log call.
#[doc(hidden)]
#[allow(missing_debug_implementations)] // as `Shown`
pub struct Debugged<'a, T: ?Sized>(pub &'a T);

impl<T: fmt::Debug + ?Sized> fmt::Display for Debugged<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes texts on this function's stack, not on that of the function that logs, and hands them over.
#[doc(hidden)]
#[inline(never)]
pub fn with_texts<const N: usize>(values: [fmt::Arguments<'_>; N], f: impl FnOnce([&str; N])) {
    let mut rooms = [TEXT_ROOM; N];
    let mut texts = [""; N];
    for ((value, room), text) in values.into_iter().zip(&mut rooms).zip(&mut texts) {
        *text = text_in(value, room);
    }
    f(texts);
}

/// A log call to any function `fn(Way, &'static Site, impl Args)`.
///
/// It reads its tokens from the left: first what stands before the format string (`@head`), then the
/// arguments (`@args`), one by one, so that `name = value` is seen before it is taken for an assignment. It
/// keeps the context, and lists: `target`, `at`, what is evaluated (a name, how, and the expression), the
/// fields (name and key), those of them that are texts, and the names that are left. Evaluated is all in one
/// `match`, in the order of the source, so that what the arguments borrow from lives until the call is done,
/// and `?` and `.await` in them work.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_to {
    // Target and time.
    (@head $c:tt [$($t:tt)*] [$($at:tt)*] $b:tt $f:tt $x:tt $free:tt target: $target:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@head $c [$target] [$($at)*] $b $f $x $free $($($rest)*)?)
    };
    (@head $c:tt $t:tt [$($at:tt)*] $b:tt $f:tt $x:tt $free:tt at: $time:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@head $c $t [time ($time)] $b $f $x $free $($($rest)*)?)
    };
    // Fields: the key, how the value is taken, the value.
    (@head $c:tt $t:tt $at:tt $b:tt $f:tt $x:tt $free:tt $k:ident $(. $l:ident)* = $($rest:tt)+) => {
        $crate::__log_to!(@field (::core::concat!(::core::stringify!($k) $(, ".", ::core::stringify!($l))*))
            $c $t $at $b $f $x $free $($rest)+)
    };
    (@head $c:tt $t:tt $at:tt $b:tt $f:tt $x:tt $free:tt $k:literal = $($rest:tt)+) => {
        $crate::__log_to!(@field ($k) $c $t $at $b $f $x $free $($rest)+)
    };
    (@head $c:tt $t:tt $at:tt $b:tt $f:tt $x:tt $free:tt % $k:ident $(. $l:ident)* $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@field (::core::concat!(::core::stringify!($k) $(, ".", ::core::stringify!($l))*))
            $c $t $at $b $f $x $free % $k $(. $l)* $(, $($rest)*)?)
    };
    (@head $c:tt $t:tt $at:tt $b:tt $f:tt $x:tt $free:tt ? $k:ident $(. $l:ident)* $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@field (::core::concat!(::core::stringify!($k) $(, ".", ::core::stringify!($l))*))
            $c $t $at $b $f $x $free ? $k $(. $l)* $(, $($rest)*)?)
    };
    (@head $c:tt $t:tt $at:tt $b:tt $f:tt $x:tt $free:tt $k:ident $(. $l:ident)* $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@field (::core::concat!(::core::stringify!($k) $(, ".", ::core::stringify!($l))*))
            $c $t $at $b $f $x $free $k $(. $l)* $(, $($rest)*)?)
    };
    // The format string; none is an empty one.
    (@head $c:tt $t:tt $at:tt $b:tt $f:tt $x:tt $free:tt) => {
        $crate::__log_to!(@args $c $t $at "" $b $f $x [] [] [] $free)
    };
    (@head $c:tt $t:tt $at:tt $b:tt $f:tt $x:tt $free:tt $fmt:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@args $c $t $at $fmt $b $f $x [] [] [] $free $($($rest)*)?)
    };

    (@field $k:tt $c:tt $t:tt $at:tt [$($b:tt)*] [$($f:tt)*] [$($x:tt)*] [$next:ident $($free:ident)*]
        % $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@head $c $t $at [$($b)* {$next Shown ($v)}] [$($f)* {$next $k}] [$($x)* $next]
            [$($free)*] $($($rest)*)?)
    };
    (@field $k:tt $c:tt $t:tt $at:tt [$($b:tt)*] [$($f:tt)*] [$($x:tt)*] [$next:ident $($free:ident)*]
        ? $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@head $c $t $at [$($b)* {$next Debugged ($v)}] [$($f)* {$next $k}] [$($x)* $next]
            [$($free)*] $($($rest)*)?)
    };
    (@field $k:tt $c:tt $t:tt $at:tt [$($b:tt)*] [$($f:tt)*] $x:tt [$next:ident $($free:ident)*]
        $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@head $c $t $at [$($b)* {$next Stored ($v)}] [$($f)* {$next $k}] $x
            [$($free)*] $($($rest)*)?)
    };
    (@field $k:tt $c:tt $t:tt $at:tt $b:tt $f:tt $x:tt [] $($rest:tt)*) => {
        ::core::compile_error!("a log call takes at most 16 arguments and fields")
    };

    // Arguments: positional ones, named ones, and those of them that are texts.
    (@args $c:tt $t:tt $at:tt $fmt:tt $b:tt $f:tt $x:tt $p:tt $n:tt $y:tt $free:tt) => {
        $crate::__log_to!(@call $c $t $at $fmt $b $f $x $p $n $y)
    };
    (@args $c:tt $t:tt $at:tt $fmt:tt [$($b:tt)*] $f:tt $x:tt $p:tt [$($n:tt)*] [$($y:tt)*]
        [$next:ident $($free:ident)*] $name:ident = % $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@args $c $t $at $fmt [$($b)* {$next Shown ($v)}] $f $x $p [$($n)* {$name $next}]
            [$($y)* $next] [$($free)*] $($($rest)*)?)
    };
    (@args $c:tt $t:tt $at:tt $fmt:tt [$($b:tt)*] $f:tt $x:tt $p:tt [$($n:tt)*] [$($y:tt)*]
        [$next:ident $($free:ident)*] $name:ident = ? $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@args $c $t $at $fmt [$($b)* {$next Debugged ($v)}] $f $x $p [$($n)* {$name $next}]
            [$($y)* $next] [$($free)*] $($($rest)*)?)
    };
    (@args $c:tt $t:tt $at:tt $fmt:tt [$($b:tt)*] $f:tt $x:tt $p:tt [$($n:tt)*] $y:tt
        [$next:ident $($free:ident)*] $name:ident = $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@args $c $t $at $fmt [$($b)* {$next Stored ($v)}] $f $x $p [$($n)* {$name $next}]
            $y [$($free)*] $($($rest)*)?)
    };
    (@args $c:tt $t:tt $at:tt $fmt:tt [$($b:tt)*] $f:tt $x:tt [$($p:tt)*] [] [$($y:tt)*]
        [$next:ident $($free:ident)*] % $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@args $c $t $at $fmt [$($b)* {$next Shown ($v)}] $f $x [$($p)* $next] []
            [$($y)* $next] [$($free)*] $($($rest)*)?)
    };
    (@args $c:tt $t:tt $at:tt $fmt:tt [$($b:tt)*] $f:tt $x:tt [$($p:tt)*] [] [$($y:tt)*]
        [$next:ident $($free:ident)*] ? $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@args $c $t $at $fmt [$($b)* {$next Debugged ($v)}] $f $x [$($p)* $next] []
            [$($y)* $next] [$($free)*] $($($rest)*)?)
    };
    (@args $c:tt $t:tt $at:tt $fmt:tt [$($b:tt)*] $f:tt $x:tt [$($p:tt)*] [] $y:tt
        [$next:ident $($free:ident)*] $v:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@args $c $t $at $fmt [$($b)* {$next Stored ($v)}] $f $x [$($p)* $next] []
            $y [$($free)*] $($($rest)*)?)
    };
    (@args $c:tt $t:tt $at:tt $fmt:tt $b:tt $f:tt $x:tt $p:tt $n:tt $y:tt [] $($rest:tt)+) => {
        ::core::compile_error!("a log call takes at most 16 arguments and fields")
    };
    (@args $c:tt $t:tt $at:tt $fmt:tt $b:tt $f:tt $x:tt $p:tt $n:tt $y:tt $free:tt $($rest:tt)+) => {
        ::core::compile_error!("an argument without a name stands before those with one")
    };

    (@call ($to:path, $level:expr) [$target:expr] [$($at:ident ($time:expr))?] $fmt:tt
        [$({$id:ident $how:ident ($v:expr)})*] [$({$fid:ident ($key:expr)})*] [$($x:ident)*]
        [$($p:ident)*] [$({$name:ident $nid:ident})*] [$($y:ident)*]) => {{
        const __SPILLRING_LEVEL: $crate::record::Level = $level;
        const __SPILLRING_P: usize = <[&str]>::len(&[$(::core::stringify!($p)),*]);
        const __SPILLRING_NAMES: &[&str] = &[$(::core::stringify!($name)),*];
        const __SPILLRING_KEYS: &[&str] = &[$($key),*];
        const __SPILLRING_IS: $crate::record::Checked =
            $crate::record::check($fmt, __SPILLRING_P, __SPILLRING_NAMES, __SPILLRING_KEYS);
        const __SPILLRING_FMT: [u8; __SPILLRING_IS.rewritten] =
            $crate::record::rewrite($fmt, __SPILLRING_P, __SPILLRING_NAMES);
        const __SPILLRING_FIELDS: [u8; $crate::record::keys_len(__SPILLRING_KEYS)] =
            $crate::record::keys(__SPILLRING_KEYS);
        static __SPILLRING_SITE: $crate::record::Site = $crate::record::Site::new(
            __SPILLRING_LEVEL,
            $target,
            ::core::file!(),
            ::core::line!(),
            $crate::record::stored($fmt, __SPILLRING_IS, &__SPILLRING_FMT),
        )
        .with_fields($crate::record::utf8(&__SPILLRING_FIELDS));
        if $crate::record::enabled(__SPILLRING_LEVEL) {
            if let ::core::option::Option::Some(way) = __SPILLRING_SITE.passes() {
                match ($($crate::__log_to!(@value $how $v),)* $($crate::site::Time::from($time),)?) {
                    ($($id,)* $($at,)?) => {
                        if __SPILLRING_IS.captures {
                            $crate::site::with_texts(
                                [
                                    ::core::format_args!($fmt, $($p,)* $($name = $nid,)*),
                                    $(::core::format_args!("{}", $x),)*
                                ],
                                |[text, $($x),*]| {
                                    $crate::__log_to!(@to $to, [$($at)?] way, __SPILLRING_SITE, text, $($fid,)*)
                                },
                            );
                        } else {
                            if false {
                                let _ = ::core::format_args!($fmt, $($p,)* $($name = $nid,)*);
                            }
                            $crate::__log_to!(@texts [$($y)* $($x)*] $crate::__log_to!(
                                @to $to, [$($at)?] way, __SPILLRING_SITE, $($p,)* $($nid,)* $($fid,)*
                            ))
                        }
                    }
                }
            }
        }
    }};

    (@value Stored $v:expr) => { $crate::record::Capture::capture(&$v) };
    (@value Shown $v:expr) => { $crate::site::Shown(&$v) };
    (@value Debugged $v:expr) => { $crate::site::Debugged(&$v) };
    (@texts [] $do:expr) => { $do };
    (@texts [$($x:ident)+] $do:expr) => {
        $crate::site::with_texts([$(::core::format_args!("{}", $x)),+], |[$($x),+]| $do)
    };
    (@to $to:path, [] $way:ident, $site:expr, $($id:ident,)*) => { $to($way, &$site, ($($id,)*)) };
    (@to $to:path, [$at:ident] $way:ident, $site:expr, $($id:ident,)*) => {
        {
            let _ = $way;
            $crate::writer::log_at(&$site, ($($id,)*), $at)
        }
    };

    ($to:path, $level:expr, $($rest:tt)*) => {
        $crate::__log_to!(@head ($to, $level) [::core::module_path!()] [] [] [] []
            [a b c d e f g h i j k l m n o p] $($rest)*)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_count_what_they_leave_out() {
        let every = EveryN::new();
        let all: Vec<_> = (0..7).map(|_| every.admit(3)).collect();
        assert_eq!(all, [Some(0), None, None, Some(2), None, None, Some(2)]);
        assert_eq!([EveryN::new().admit(0), EveryN::new().admit(1)], [Some(0), Some(0)]);
        let rate = Rate::new();
        let all = [0, 0, 0, 0, 0, 1, 1, 7, 7, 7].map(|period| rate.admit_in(2, period));
        let n = None;
        assert_eq!(all, [Some(0), Some(0), n, n, n, Some(3), Some(0), Some(0), Some(0), n]);
        assert_eq!(Rate::new().admit(0, Duration::from_secs(1)), None);
    }
}
