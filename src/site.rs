//! The Rust front door: the macros of a log call.
//!
//! A call is a static ([`Site`]), one load and compare (the level gate), the capture of its arguments,
//! and [`writer::log`](crate::writer::log). Below the gate no argument is evaluated. None of this
//! allocates, locks or panics, so a call is as async-signal-safe as its arguments' expressions.

pub use crate::record::{Gate, Level, Site, enabled, gate, set_gate};

/// Logs at a level that is a constant expression: `log!(Level::Warn, "{} left", n)`.
///
/// The format string is one of `std::fmt`; arguments are numbers, `bool`, `char`, strings, references
/// to these, and whatever implements [`Capture`](crate::record::Capture), at most 16. They are stored
/// as they are and become text when the record is read. `target: "name",` may stand before the format
/// string; else the target is the module's path. A width or precision taken from an argument is a `usize`
/// that says so (`8usize`).
/// ```
/// use spillring::site::Level;
/// let (id, name) = (7_u32, String::from("water"));
/// spillring::log!(Level::Warn, "order {} of {:>10}", id, name);
/// spillring::log!(Level::Warn, target: "orders", "order {0:#x}, again {0:1$}", id, 8usize);
/// spillring::log!(Level::Warn, "{:.*} {{}}", 3usize, 0.1,);
/// spillring::log!(Level::Warn, concat!("nothing", " more"));
/// ```
/// What does not go together is a compile error: a missing argument,
/// ```compile_fail
/// spillring::info!("{} {}", 1);
/// ```
/// one that is not used,
/// ```compile_fail
/// spillring::info!("{}", 1, 2);
/// ```
/// a specification that the type does not have,
/// ```compile_fail
/// spillring::info!("{:x}", "text");
/// ```
/// a type that cannot be stored,
/// ```compile_fail
/// spillring::info!("{:?}", vec![1]);
/// ```
/// a name in the format string (not supported yet: pass the value and use `{}`),
/// ```compile_fail
/// let name = 1;
/// spillring::info!("{name}");
/// ```
/// or a named argument (likewise),
/// ```compile_fail
/// spillring::info!("{name}", name = 1);
/// ```
/// or a level that is not constant.
/// ```compile_fail
/// let level = spillring::site::Level::Warn;
/// spillring::log!(level, "text");
/// ```
#[macro_export]
macro_rules! log {
    ($level:expr, $($rest:tt)+) => { $crate::__log_to!($crate::writer::log, $level, $($rest)+) };
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

/// A log call to any function `fn(&'static Site, impl Args)`.
///
/// The arguments are taken one by one, so that `name = value` is seen before it is taken for an
/// assignment, and each gets a name for `format_args!`, which checks the types in code that never runs.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_to {
    (@ $to:path, $level:expr, $target:expr, $fmt:expr, [$($id:ident = $arg:expr,)*] [$($free:ident)*]) => {{
        const _: () = $crate::record::check($fmt, <[&str]>::len(&[$(::core::stringify!($id)),*]));
        const __SPILLRING_LEVEL: $crate::record::Level = $level;
        static __SPILLRING_SITE: $crate::record::Site =
            $crate::record::Site::new(__SPILLRING_LEVEL, $target, ::core::file!(), ::core::line!(), $fmt);
        if $crate::record::enabled(__SPILLRING_LEVEL) {
            // A match, so that what the arguments borrow from lives until the call is done.
            match ($($crate::record::Capture::capture(&$arg),)*) {
                ($($id,)*) => {
                    if false {
                        let _ = ::core::format_args!($fmt, $($id),*);
                    }
                    $to(&__SPILLRING_SITE, ($($id,)*))
                }
            }
        }
    }};
    (@ $to:path, $level:expr, $target:expr, $fmt:expr, [$($done:tt)*] [$($free:ident)*]
        $name:ident = $($rest:tt)*) => {
        ::core::compile_error!("named arguments are not supported yet: pass the value and use {}")
    };
    (@ $to:path, $level:expr, $target:expr, $fmt:expr, [$($done:tt)*] [] $($rest:tt)+) => {
        ::core::compile_error!("a log call takes at most 16 arguments")
    };
    (@ $to:path, $level:expr, $target:expr, $fmt:expr, [$($done:tt)*] [$next:ident $($free:ident)*]
        $arg:expr $(, $($rest:tt)*)?) => {
        $crate::__log_to!(@ $to, $level, $target, $fmt, [$($done)* $next = $arg,] [$($free)*] $($($rest)*)?)
    };
    ($to:path, $level:expr, target: $target:expr, $fmt:expr $(, $($args:tt)*)?) => {
        $crate::__log_to!(@ $to, $level, $target, $fmt, [] [a b c d e f g h i j k l m n o p] $($($args)*)?)
    };
    ($to:path, $level:expr, $fmt:expr $(, $($args:tt)*)?) => {
        $crate::__log_to!(@ $to, $level, ::core::module_path!(), $fmt,
            [] [a b c d e f g h i j k l m n o p] $($($args)*)?)
    };
}
