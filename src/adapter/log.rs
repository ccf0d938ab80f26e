//! The `log` crate: `log::info!` and the like become records, its key-values fields.
//!
//! ```no_run
//! let _log = spillring::adapter::log::init()?; // the whole change to a program that uses `log`
//! log::info!(user = 7; "logged in");
//! # Ok::<(), spillring::Error>(())
//! ```
//! It knows no spans. A program that uses `tracing` too installs both adapters.

use super::{Collect, MAX_FIELDS, Message, Place, collected, event};
use crate::error::{Code, Error, Result};
use crate::record::{Gate, Level, Value, allows, gate, on_filter_change};
use crate::writer::{self, Guard};

/// Attaches this process as the environment says, and makes spillring its logger for the `log` crate.
///
/// # Errors
/// Those of [`init`](crate::init); [`Code::BadValue`]: there is another logger already.
pub fn init() -> Result<Guard> {
    let guard = crate::init()?;
    install()?;
    Ok(guard)
}

/// Makes spillring the logger of the `log` crate, and keeps its `max_level` at what the filter lets through
/// ([`set_filter`](crate::site::set_filter)). For programs that attach by [`Logger`](crate::Logger).
///
/// # Errors
/// [`Code::BadValue`]: there is another logger already.
pub fn install() -> Result<()> {
    log::set_logger(&Adapter).map_err(|e| {
        let say = "the `log` crate has a logger already: initialise spillring instead of it";
        Error::new(Code::BadValue, format!("{say} ({e})"))
    })?;
    on_filter_change(keep_level);
    keep_level();
    Ok(())
}

fn keep_level() {
    log::set_max_level(match gate() {
        Gate::Off => log::LevelFilter::Off,
        Gate::From(Level::Error) => log::LevelFilter::Error,
        Gate::From(Level::Warn) => log::LevelFilter::Warn,
        Gate::From(Level::Info) => log::LevelFilter::Info,
        Gate::From(Level::Debug) => log::LevelFilter::Debug,
        Gate::From(Level::Trace) => log::LevelFilter::Trace,
    });
}

fn level(l: log::Level) -> Level {
    match l {
        log::Level::Error => Level::Error,
        log::Level::Warn => Level::Warn,
        log::Level::Info => Level::Info,
        log::Level::Debug => Level::Debug,
        log::Level::Trace => Level::Trace,
    }
}

struct Adapter;

impl log::Log for Adapter {
    fn enabled(&self, m: &log::Metadata<'_>) -> bool {
        allows(level(m.level()), m.target())
    }

    fn log(&self, r: &log::Record<'_>) {
        if !self.enabled(r.metadata()) {
            return;
        }
        let place = Place {
            level: level(r.level()),
            target: r.target(),
            file: r.file().unwrap_or(""),
            line: r.line().unwrap_or(0),
        };
        let mut message = Message::new();
        let text = match r.args().as_str() {
            // No variables in it: no need to copy, and as long as it is.
            Some(text) => text,
            None => {
                message.set(*r.args());
                message.text()
            }
        };
        if r.key_values().count() == 0 {
            return event(place, text, b"", None);
        }
        let mut room = [0; MAX_FIELDS];
        let fields = collected(&mut room, |c| {
            // Only the visitor can fail, and ours does not.
            let _ = r.key_values().visit(&mut Pairs(c));
        });
        event(place, text, fields, None);
    }

    fn flush(&self) {
        writer::settle();
    }
}

struct Pairs<'a, 'b>(&'a mut Collect<'b>);

impl<'kvs> log::kv::VisitSource<'kvs> for Pairs<'_, '_> {
    fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Visited {
        value.visit(One { name: key.as_str(), to: self.0 })
    }
}

type Visited = std::result::Result<(), log::kv::Error>;

struct One<'a, 'b> {
    name: &'a str,
    to: &'a mut Collect<'b>,
}

macro_rules! plain {
    ($($visit:ident($v:ident: $t:ty) $value:expr;)*) => {$(
        fn $visit(&mut self, $v: $t) -> Visited {
            self.to.value(self.name, $value);
            Ok(())
        }
    )*};
}

impl<'v> log::kv::VisitValue<'v> for One<'_, '_> {
    fn visit_any(&mut self, value: log::kv::Value<'_>) -> Visited {
        self.to.text(self.name, format_args!("{value}"));
        Ok(())
    }
    plain! {
        visit_u64(v: u64) Value::Unsigned(v.into());
        visit_i64(v: i64) Value::Signed(v.into(), 64);
        visit_u128(v: u128) Value::Unsigned(v);
        visit_i128(v: i128) Value::Signed(v, 128);
        visit_f64(v: f64) Value::F64(v);
        visit_bool(v: bool) Value::Bool(v);
        visit_char(v: char) Value::Char(v);
        visit_str(v: &str) Value::Str(v.as_bytes());
    }
}
