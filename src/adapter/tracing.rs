//! `tracing`: events become records, their fields fields; each carries the spans that were open, outermost
//! first, with name, id and the fields they have at that moment.
//!
//! ```no_run
//! let _log = spillring::adapter::tracing::init()?; // the whole change to a program that uses `tracing`
//! let span = tracing::info_span!("request", id = 7, status = tracing::field::Empty);
//! span.in_scope(|| tracing::info!(user = "me", "served"));
//! # Ok::<(), spillring::Error>(())
//! ```
//! With other layers: `registry().with(spillring::adapter::tracing::layer())`.
//!
//! Spans are kept by `tracing_subscriber`'s registry, which allocates and locks; so events may not be made in
//! signal handlers (the macros of this crate may).

use super::{Collect, MAX_FIELDS, Message, Place, collected, event};
use crate::error::{Code, Error, Result};
use crate::record::{DynFields, Gate, Level, Value, allows, gate, on_filter_change};
use crate::writer::Guard;
use std::fmt;
use tracing_core::field::{Field, Visit};
use tracing_core::{Event, Metadata, Subscriber, callsite, span, subscriber::Interest};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Attaches this process as the environment says, and makes spillring its `tracing` subscriber.
///
/// # Errors
/// Those of [`init`](crate::init); [`Code::BadValue`]: there is another subscriber already.
pub fn init() -> Result<Guard> {
    let guard = crate::init()?;
    install()?;
    Ok(guard)
}

/// Makes spillring the `tracing` subscriber of this process. For programs that attach by
/// [`Logger`](crate::Logger).
///
/// # Errors
/// [`Code::BadValue`]: there is another subscriber already.
pub fn install() -> Result<()> {
    let all = tracing_core::Dispatch::new(Registry::default().with(layer()));
    tracing_core::dispatcher::set_global_default(all).map_err(|e| {
        let say = "`tracing` has a subscriber already: add `spillring::adapter::tracing::layer()` to it";
        Error::new(Code::BadValue, format!("{say} ({e})"))
    })
}

/// The layer, for a subscriber of the program's own making. It takes the spans and events that the filter
/// ([`set_filter`](crate::site::set_filter)) lets through, by level and target, and leaves other layers theirs.
pub fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    on_filter_change(callsite::rebuild_interest_cache);
    Spillring.with_filter(ByTarget)
}

fn level(l: &tracing_core::Level) -> Level {
    match *l {
        tracing_core::Level::ERROR => Level::Error,
        tracing_core::Level::WARN => Level::Warn,
        tracing_core::Level::INFO => Level::Info,
        tracing_core::Level::DEBUG => Level::Debug,
        tracing_core::Level::TRACE => Level::Trace,
    }
}

struct ByTarget;

impl<S> Filter<S> for ByTarget {
    fn enabled(&self, m: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        allows(level(m.level()), m.target())
    }
    fn callsite_enabled(&self, m: &'static Metadata<'static>) -> Interest {
        // Asked anew after each change of the filter.
        if allows(level(m.level()), m.target()) { Interest::always() } else { Interest::never() }
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match gate() {
            Gate::Off => LevelFilter::OFF,
            Gate::From(Level::Error) => LevelFilter::ERROR,
            Gate::From(Level::Warn) => LevelFilter::WARN,
            Gate::From(Level::Info) => LevelFilter::INFO,
            Gate::From(Level::Debug) => LevelFilter::DEBUG,
            Gate::From(Level::Trace) => LevelFilter::TRACE,
        })
    }
}

struct Spillring;

/// The fields of a span, as they are stored in a record.
struct SpanFields {
    /// Name, and where its field ends in `bytes`.
    names: Vec<(&'static str, usize)>,
    bytes: Vec<u8>,
}

impl SpanFields {
    fn new() -> SpanFields {
        SpanFields { names: Vec::new(), bytes: Vec::new() }
    }
    /// Takes over what was recorded later: a field that is there gets the new value, in its place.
    fn merge(&mut self, later: SpanFields) {
        let mut from = 0;
        for (name, end) in later.names {
            let field = &later.bytes[from..end];
            from = end;
            let Some(at) = self.names.iter().position(|n| n.0 == name) else {
                if self.bytes.len() + field.len() <= MAX_FIELDS {
                    self.bytes.extend_from_slice(field);
                    self.names.push((name, self.bytes.len()));
                }
                continue;
            };
            let begin = if at == 0 { 0 } else { self.names[at - 1].1 };
            let old = self.names[at].1 - begin;
            if self.bytes.len() - old + field.len() <= MAX_FIELDS {
                self.bytes.splice(begin..begin + old, field.iter().copied());
                for n in &mut self.names[at..] {
                    n.1 = n.1 - old + field.len();
                }
            }
        }
    }
}

/// The fields as an event or a span has them. Values are shown here, before anything is locked: one that logs
/// while it is shown must find no lock held.
fn span_fields(record: impl FnOnce(&mut dyn Visit)) -> SpanFields {
    let mut all = SpanFields::new();
    let names = &mut all.names;
    let mut room = [0; MAX_FIELDS];
    let bytes = collected(&mut room, |c| record(&mut Fields { to: c, of: Of::Span(names) })).to_vec();
    // Behind the last name stands what says how many were left out.
    if let Some(&(_, end)) = all.names.last()
        && bytes.len() > end
    {
        all.names.push(("left_out", bytes.len()));
    }
    all.bytes = bytes;
    all
}

impl<S> Layer<S> for Spillring
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attrs: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let fields = span_fields(|v| attrs.record(v));
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let later = span_fields(|v| values.record(v));
        if let Some(span) = ctx.span(id) {
            let mut extensions = span.extensions_mut();
            match extensions.get_mut::<SpanFields>() {
                Some(fields) => fields.merge(later),
                None => extensions.insert(later),
            }
        }
    }

    fn on_event(&self, e: &Event<'_>, ctx: Context<'_, S>) {
        let mut room = [0; MAX_FIELDS];
        let mut spans = DynFields::new(&mut room);
        if let Some(scope) = ctx.event_scope(e) {
            for span in scope.from_root() {
                let extensions = span.extensions();
                let fields = extensions.get::<SpanFields>().map_or(&[][..], |f| &f.bytes);
                spans.span(span.name().as_bytes(), span.id().into_u64(), fields);
            }
        }
        let left_out = spans.left_out();
        let (mut message, mut bridged) = (Message::new(), Bridged::default());
        let mut own = [0; MAX_FIELDS];
        let own = collected(&mut own, |c| {
            e.record(&mut Fields { to: c, of: Of::Event(&mut message, &mut bridged) });
            if left_out > 0 {
                c.value("spans_left_out", Value::Unsigned(left_out as u128));
            }
        });
        let m = e.metadata();
        let place = Place {
            level: level(m.level()),
            target: bridged.target.as_deref().unwrap_or(m.target()),
            file: bridged.file.as_deref().or(m.file()).unwrap_or(""),
            line: bridged.line.or(m.line()).unwrap_or(0),
        };
        event(place, message.text(), own, Some(spans.bytes()));
    }
}

/// What `tracing-log` tells of a call of the `log` crate that it made an event of.
#[derive(Default)]
struct Bridged {
    target: Option<String>,
    file: Option<String>,
    line: Option<u32>,
}

/// Whose fields are visited.
enum Of<'a> {
    /// An event's: one of them is the message.
    Event(&'a mut Message, &'a mut Bridged),
    /// A span's: where each one ends.
    Span(&'a mut Vec<(&'static str, usize)>),
}

struct Fields<'a, 'b> {
    to: &'a mut Collect<'b>,
    of: Of<'a>,
}

impl Fields<'_, '_> {
    fn add(&mut self, field: &Field, add: impl FnOnce(&mut Collect<'_>, &'static str)) {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        let before = self.to.fields.bytes().len();
        add(self.to, name);
        let after = self.to.fields.bytes().len();
        if let Of::Span(names) = &mut self.of
            && after > before
        {
            names.push((name, after));
        }
    }
    fn value(&mut self, field: &Field, value: Value<'_>) {
        self.add(field, |c, name| c.value(name, value));
    }
}

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match &mut self.of {
            Of::Event(message, _) if field.name() == "message" => message.set(format_args!("{value:?}")),
            _ => self.add(field, |c, name| c.text(name, format_args!("{value:?}"))),
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        match (&mut self.of, field.name()) {
            (Of::Event(message, _), "message") => message.set(format_args!("{value}")),
            (Of::Event(_, b), "log.target") => b.target = Some(value.to_string()),
            (Of::Event(_, b), "log.file") => b.file = Some(value.to_string()),
            (Of::Event(..), "log.module_path") => {}
            _ => self.value(field, Value::Str(value.as_bytes())),
        }
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, |c, name| c.text(name, format_args!("{value}")));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        match (&mut self.of, field.name()) {
            (Of::Event(_, b), "log.line") => b.line = u32::try_from(value).ok(),
            _ => self.value(field, Value::Unsigned(value.into())),
        }
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, Value::Signed(value.into(), 64));
    }
    fn record_u128(&mut self, field: &Field, value: u128) {
        self.value(field, Value::Unsigned(value));
    }
    fn record_i128(&mut self, field: &Field, value: i128) {
        self.value(field, Value::Signed(value, 128));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field, Value::F64(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, Value::Bool(value));
    }
}
