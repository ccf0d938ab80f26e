//! Which records are shown: by level, target, process, thread, time, field and text.

use super::times;
use regex::bytes::Regex;
use spillring::journal::{Entry, Site, Thread, kind};
use spillring::record::{CompiledFormat, Fields, Level, Value, show_value};
use spillring::sink::{Formatter, Parts, Start, Style, Text};
use spillring::{Code, Error};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The filters, as arguments.
#[derive(clap::Args, Debug, Default)]
#[command(next_help_heading = "Filters (several of one kind: any of them; of several kinds: all)")]
pub struct FilterArgs {
    /// This level and those above it (captured output has none)
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub level: Option<Level>,
    /// This target, and those below it (a::b for a); stdout and stderr are what was captured
    #[arg(long, value_name = "TARGET")]
    pub target: Vec<String>,
    /// This process, by the pid in its own namespace
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// This thread, by its number or its name
    #[arg(long, value_name = "TID|NAME")]
    pub thread: Vec<String>,
    /// Not before: -5min, 2026-11-21T02:44:42Z, 2026-11-21, 02:44 (without a zone: local time)
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    pub since: Option<i64>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    pub until: Option<i64>,
    /// With this field (KEY), or with this value of it as text shows it; fields of open spans count too
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = field)]
    pub field: Vec<FieldArg>,
    /// Whose message or captured line matches this regular expression; (?i) before it: whatever the case
    #[arg(long, value_name = "REGEX", value_parser = regex)]
    pub grep: Option<Regex>,
}

/// A field that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldArg {
    key: String,
    value: Option<String>,
}

fn level(s: &str) -> Result<Level, String> {
    s.parse().map_err(|_| "allowed: trace, debug, info, warn, error".to_string())
}

fn field(s: &str) -> Result<FieldArg, String> {
    let (key, value) = s.split_once('=').map_or((s, None), |(k, v)| (k, Some(v.to_string())));
    if key.is_empty() {
        return Err("allowed: KEY or KEY=VALUE".into());
    }
    Ok(FieldArg { key: key.into(), value })
}

/// The error shows the place in the expression.
fn regex(s: &str) -> Result<Regex, String> {
    Regex::new(s).map_err(|e| e.to_string())
}

/// What is known of the call sites that were met, at most.
const SITES: usize = 4096;

/// Answers which records are shown.
pub struct Filter<'a> {
    args: &'a FilterArgs,
    sites: HashMap<*const Site, (Arc<Site>, CompiledFormat)>,
    /// Names of fields that were met, kept only when one is asked for.
    names: BTreeSet<String>,
    /// The text of a record.
    text: Vec<u8>,
    /// Lines of captured output, where they are looked at.
    parts: Parts<Owned>,
    lines: Lines,
    plain: Text,
}

impl<'a> Filter<'a> {
    pub fn new(args: &'a FilterArgs) -> Filter<'a> {
        Filter {
            args,
            sites: HashMap::new(),
            names: BTreeSet::new(),
            text: Vec::new(),
            parts: Parts::default(),
            lines: Lines { regex: args.grep.clone(), found: Vec::new() },
            plain: Text::new(),
        }
    }

    /// Whether a record is shown; of captured output whether one of its lines may be.
    pub fn wants(&mut self, e: &Entry<'_>) -> bool {
        let a = self.args;
        if !a.field.is_empty() {
            self.learn(e);
        }
        // What the drain says is of its target, and losses are errors.
        let (level, target): (_, &[u8]) = match (e.kind, e.site) {
            (kind::LOSS, _) => (Some(Level::Error), b"spillring"),
            (kind::NOTE, _) => (Some(Level::Info), b"spillring"),
            (_, Some(s)) => (Level::from_u8(s.level), &s.target),
            _ => (None, b""),
        };
        let level = level.filter(|_| e.kind != kind::OUTPUT);
        let below = |t: &String| {
            let rest = target.strip_prefix(t.as_bytes());
            rest.is_some_and(|r| r.is_empty() || r.starts_with(b"::"))
        };
        let thread = |t: &String| t.parse() == Ok(e.thread.tid) || t.as_bytes() == e.thread.name;
        a.level.is_none_or(|l| level.is_some_and(|x| x >= l))
            && a.since.is_none_or(|t| e.utc_ns >= t)
            && a.until.is_none_or(|t| e.utc_ns <= t)
            && (a.target.is_empty() || a.target.iter().any(below))
            && (a.pid.is_empty() || a.pid.contains(&e.thread.pid))
            && (a.thread.is_empty() || a.thread.iter().any(thread))
            && (a.field.is_empty() || self.fields(e))
            && (a.grep.is_none() || e.kind == kind::OUTPUT || self.matches(e))
    }

    /// Gives a wanted record to `show`; of captured output, with `--grep`, the lines that match.
    pub fn show(&mut self, e: &Entry<'_>, show: &mut impl FnMut(&Entry<'_>)) {
        if self.args.grep.is_none() || e.kind != kind::OUTPUT {
            return show(e);
        }
        self.parts.output(e, &mut self.lines, &mut Vec::new());
        self.lines.give(show);
    }

    /// Captured lines that are not finished, and whose rest is not waited for (any more).
    pub fn settle(&mut self, now_ms: Option<u64>, show: &mut impl FnMut(&Entry<'_>)) {
        self.parts.settle(now_ms, &mut self.lines, &mut Vec::new());
        self.lines.give(show);
    }

    /// Fields that were asked for and that no record had, once records were read.
    pub fn unknown_fields(&self) -> Option<Error> {
        let missing = self.args.field.iter().find(|f| !self.names.contains(&f.key))?;
        let there: Vec<_> = self.names.iter().take(20).map(String::as_str).collect();
        let there = match &there[..] {
            [] => "no record has any".to_string(),
            names => format!("there are: {}", names.join(", ")),
        };
        Some(Error::new(Code::BadValue, format!("no record has a field {:?}; {there}", missing.key)))
    }

    /// Notes the names of a record's fields.
    fn learn(&mut self, e: &Entry<'_>) {
        const MOST: usize = 1000;
        if e.kind != kind::LOG || self.names.len() >= MOST {
            return;
        }
        let Some(format) = compiled(&mut self.sites, e) else { return };
        let all = format.fields(e.payload);
        let mut know = |fields: Fields<'_>| {
            for f in fields {
                if let Ok(name) = std::str::from_utf8(f.name)
                    && !self.names.contains(name)
                {
                    self.names.insert(name.to_string());
                }
            }
        };
        know(all.clone());
        all.spans().for_each(|s| know(s.fields));
    }

    fn fields(&mut self, e: &Entry<'_>) -> bool {
        let Some(format) = compiled(&mut self.sites, e).filter(|_| e.kind == kind::LOG) else { return false };
        let all = format.fields(e.payload);
        let mut text = Vec::new();
        let mut has = |want: &FieldArg, fields: Fields<'_>| {
            let mut fields = fields.filter(|f| f.name == want.key.as_bytes());
            fields.any(|f| {
                want.value.as_ref().is_none_or(|v| match f.value {
                    Value::Str(s) => s == v.as_bytes(),
                    other => {
                        text.clear();
                        show_value(&other, &mut text);
                        text == v.as_bytes()
                    }
                })
            })
        };
        self.args
            .field
            .iter()
            .all(|want| has(want, all.clone()) || all.clone().spans().any(|s| has(want, s.fields)))
    }

    /// Whether the message of a record matches, with its fields as text shows them.
    fn matches(&mut self, e: &Entry<'_>) -> bool {
        let Some(regex) = &self.args.grep else { return true };
        self.text.clear();
        match compiled(&mut self.sites, e).filter(|_| e.kind == kind::LOG) {
            Some(format) => {
                let _ = format.render(e.payload, &mut self.text);
                for f in format.fields(e.payload) {
                    self.text.push(b' ');
                    self.text.extend_from_slice(f.name);
                    self.text.push(b'=');
                    show_value(&f.value, &mut self.text);
                }
            }
            None if e.kind == kind::NOTE => self.text.extend_from_slice(e.payload),
            None => {
                self.plain.entry(e, &mut self.text);
            }
        }
        regex.is_match(&self.text)
    }
}

fn compiled<'a>(
    sites: &'a mut HashMap<*const Site, (Arc<Site>, CompiledFormat)>,
    e: &Entry<'_>,
) -> Option<&'a CompiledFormat> {
    let site = e.site?;
    if sites.len() >= SITES && !sites.contains_key(&Arc::as_ptr(site)) {
        sites.clear();
    }
    // The entry keeps the site, so that no other one gets its address.
    let make = || {
        let format = CompiledFormat::with_fields(&site.fmt, &site.types, &site.fields, site.style);
        (site.clone(), format)
    };
    Some(&sites.entry(Arc::as_ptr(site)).or_insert_with(make).1)
}

/// A record without its payload, for itself.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    pub record_no: u64,
    pub kind: u8,
    pub flags: u8,
    pub utc_ns: i64,
    pub ticks: u64,
    pub site_ref: u32,
    pub site: Option<Arc<Site>>,
    pub thread_ref: u32,
    pub thread: Arc<Thread>,
}

impl Owned {
    pub fn of(e: &Entry<'_>) -> Owned {
        Owned {
            record_no: e.record_no,
            kind: e.kind,
            flags: e.flags,
            utc_ns: e.utc_ns,
            ticks: e.ticks,
            site_ref: e.site_ref,
            site: e.site.cloned(),
            thread_ref: e.thread_ref,
            thread: e.thread.clone(),
        }
    }
    pub fn entry<'a>(&'a self, payload: &'a [u8]) -> Entry<'a> {
        Entry {
            record_no: self.record_no,
            kind: self.kind,
            flags: self.flags,
            utc_ns: self.utc_ns,
            ticks: self.ticks,
            site_ref: self.site_ref,
            site: self.site.as_ref(),
            thread_ref: self.thread_ref,
            thread: &self.thread,
            payload,
        }
    }
}

/// Takes the captured lines that match.
struct Lines {
    regex: Option<Regex>,
    found: Vec<(Owned, Vec<u8>)>,
}

impl Lines {
    fn give(&mut self, show: &mut impl FnMut(&Entry<'_>)) {
        for (e, line) in self.found.drain(..) {
            show(&e.entry(&line));
        }
    }
}

impl Style for Lines {
    type Prefix = Owned;
    const CONTINUES: bool = false;
    const LIMIT: usize = 1 << 20;
    fn prefix(&mut self, e: &Entry<'_>, to: &mut Owned) {
        *to = Owned::of(e);
    }
    fn line(&mut self, prefix: &Owned, _: Start, bytes: &[u8], complete: bool, _: &mut Vec<u8>) {
        if self.regex.as_ref().is_none_or(|r| r.is_match(bytes)) {
            let mut line = bytes.to_vec();
            if complete {
                line.push(b'\n');
            }
            self.found.push((prefix.clone(), line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_says_what_is() {
        assert!(level("loud").unwrap_err().contains("warn"));
        assert_eq!(level("WARN"), Ok(Level::Warn));
        assert!(level("off").is_err() && field("=x").is_err());
        assert_eq!(field("a=b=c"), Ok(FieldArg { key: "a".into(), value: Some("b=c".into()) }));
        assert_eq!(field("a").unwrap().value, None);
        let e = regex("ab(c").unwrap_err();
        assert!(e.contains("ab(c\n      ^") && e.contains("unclosed group"), "{e}");
    }
}
