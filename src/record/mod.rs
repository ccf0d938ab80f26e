//! One record: what a call site is, what a call stores, and how it becomes text again.
//!
//! A log call stores its arguments as they are ([`Args::put`]), without any text. What is the same
//! for every call stands once, in the entry of its [`Site`]: level, file, line, target, format
//! string and argument types ([`SiteFacts`]). With both, whoever reads iterates the arguments
//! ([`Values`]) or makes the text that `format!` would have made ([`CompiledFormat`]).
//!
//! Everything here is pure: no system call, no file, no lock. What runs in a log call ([`Capture`],
//! [`Args`], [`Site`], [`enabled`], [`SiteFacts::put`]) does not allocate, does not panic, and is
//! async-signal-safe. What reads trusts nothing: bytes that no writer would have written give an
//! error value.

mod args;
mod fields;
mod filter;
mod format;
mod level;
mod look;
pub mod payload;
pub mod printf;
mod render;
mod site;
mod text;
mod value;

pub use args::{Apart, Arg, Args, Capture};
pub use fields::{DynFields, Field, Fields, Span, Spans, show_value};
pub(crate) use filter::calls_are_usual;
pub use filter::{
    BadFilter, Filter, ForeignVerdict, STATIC_GATE, Way, allows, enabled, gate, gate_word, on_filter_change,
    set_filter, set_gate,
};
pub use format::{Checked, MAX_KEY, check, keys, keys_len, rewrite, stored, utf8};
pub use level::{BadLevel, Gate, Level};
pub use payload::{OpenPayload, Payload, SiteId};
pub use render::CompiledFormat;
#[cfg(feature = "drain")]
pub(crate) use render::{PAIRS, no_byte};
pub use site::{BadSite, Site, SiteFacts};
pub use text::{MAX_TEXT, TEXT_ROOM, TextRoom, text_in};
pub use value::{DecodeError, Value, Values};
