//! JSON lines: an object a record, for collectors and `jq`.
//!
//! ```text
//! {"ts":"2026-11-21T02:44:42.123456789Z","level":"info","target":"app::db","pid":4711,"tid":4712,
//!  "thread":"worker","msg":"connected to 10.0.0.7","file":"src/db.rs","line":12}
//! {"ts":"2026-11-21T02:44:42.200000000Z","target":"stdout","pid":4720,"tid":4720,"msg":"a captured line"}
//! ```
//!
//! | key | what |
//! |---|---|
//! | `ts` | time in UTC, RFC 3339 with nanoseconds |
//! | `level` | `trace`, `debug`, `info`, `warn`, `error`; not there for captured output |
//! | `target` | as logged; `stdout` or `stderr` for captured output; `spillring` for losses and notes |
//! | `pid`, `tid`, `thread` | in the producer's own namespace; the thread's name if it has one |
//! | `msg` | the message; of captured output a line without its newline |
//! | `msg_b64` | only when `msg` was not UTF-8: its exact bytes in base64 (`msg` has U+FFFD in their place) |
//! | `partial` | only of a line too long or too slow to be one object: `begin`, `middle`, `end` |
//! | `lost`, `lost_from`, `lost_to` | of a loss: how many records, and between which times |
//! | `file`, `line` | where it was logged |
//! | a field's name | its value: numbers, truth values and text; a number of 128 bits and a float that is not finite are text |
//! | `spans` | the open spans, outermost first, each with `name`, `id` and its fields |
//! | `left_out` | how many fields beyond 1024 are not shown |
//!
//! A field whose name is one of these keys (in a span: `name`, `id`), is empty, is not UTF-8, begins with
//! `field_`, ends in `_b64` or came before in the same object has `field_` before its name, as often as it takes.
//! As with `msg`, text that is not UTF-8 is repeated exactly in `NAME_b64`.
//!
//! Whatever the bytes, each line is one valid object. Control characters are escaped, those of a terminal
//! too. Captured output is joined to lines; one that is not finished after a second, or longer than 1 MiB,
//! comes in several objects of the same `pid`, `tid` and `target`, whose `msg` (or bytes) one behind the
//! other are the line.

use crate::sys::hash::HashSet;

use super::escape::valid_chunks;
use super::formats::{Piece, Table, no_site};
use super::parts::{Parts, Start, Style};
use super::text::loss_text;
use super::time::Clock;
use super::{Dest, Formatter, Gap, Held, is_stderr};
use crate::journal::{Entry, Loss, Site, Thread, kind};
use crate::record::{CompiledFormat, Fields, Level, Value, no_byte};

/// Limit: bytes of a captured line that become one object.
const MAX_LINE: usize = 1 << 20;
/// A scratch buffer that has grown beyond this is given back.
const KEEP: usize = 64 << 10;

/// Makes JSON lines. Does no I/O and knows no clock; memory is bounded: 1 MiB for each of 16 unfinished
/// lines, beside caches for sites and threads.
#[derive(Debug, Default)]
pub struct Json {
    look: Look,
    /// Each with its object up to `"msg":`.
    parts: Parts<Vec<u8>>,
    last_utc: i64,
}

#[derive(Debug, Default)]
struct Look {
    sites: Table<Site, SiteJson>,
    /// `,"pid":1,"tid":2,"thread":"name"`
    threads: Table<Thread, Piece>,
    clock: Clock,
    scratch: Vec<u8>,
}

/// What is the same for all records of a site.
#[derive(Debug)]
struct SiteJson {
    format: CompiledFormat,
    /// `","level":"info","target":"app::db"`
    head: Piece,
    /// `,"file":"src/db.rs","line":12}` and a newline.
    tail: Piece,
}

fn site_json(site: &Site) -> SiteJson {
    let mut head = b"\"".to_vec();
    if let Some(level) = Level::from_u8(site.level) {
        head.extend_from_slice(format!(",\"level\":\"{level}\"").as_bytes());
    }
    text(b",\"target", &site.target, &mut head);
    let mut tail = Vec::new();
    if site.line != 0 || !site.file.is_empty() {
        text(b",\"file", &site.file, &mut tail);
        tail.extend_from_slice(format!(",\"line\":{}", site.line).as_bytes());
    }
    tail.extend_from_slice(b"}\n");
    let format = CompiledFormat::with_fields(&site.fmt, &site.types, &site.fields, site.style);
    SiteJson { format, head: Piece::new(head), tail: Piece::new(tail) }
}

fn thread_json(t: &Thread) -> Piece {
    let mut out = format!(",\"pid\":{},\"tid\":{}", t.pid, t.tid).into_bytes();
    if !t.name.is_empty() {
        text(b",\"thread", &t.name, &mut out);
    }
    Piece::new(out)
}

/// Appends `,"key":"text"`, and the exact bytes under `key_b64` where they are not UTF-8. `key` is given with
/// all that stands before its closing quote.
fn text(key: &[u8], bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    out.extend_from_slice(b"\":\"");
    let whole = string(bytes, out);
    out.push(b'"');
    if !whole {
        out.extend_from_slice(key);
        out.extend_from_slice(b"_b64\":\"");
        base64(bytes, out);
        out.push(b'"');
    }
}

/// Appends the inside of a JSON string. False: bytes that are not UTF-8 became U+FFFD.
#[inline]
fn string(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    if plain(bytes) {
        out.extend_from_slice(bytes);
        return true;
    }
    escaped(bytes, out)
}

/// Whether bytes stand in a JSON string as they are. True for nearly all.
#[inline]
fn plain(bytes: &[u8]) -> bool {
    no_byte(bytes, |b| (b.wrapping_sub(0x20) > 0x5e) | (b == b'"') | (b == b'\\'))
}

fn escaped(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut whole = true;
    valid_chunks(bytes, |valid, invalid| {
        let (mut from, mut i) = (0, 0);
        while i < valid.len() {
            let b = valid[i];
            // Controls of a terminal in Unicode's second block: C2 80 to C2 9F.
            let c1 = b == 0xc2 && valid[i + 1] < 0xa0;
            if b >= 0x20 && b != b'"' && b != b'\\' && b != 0x7f && !c1 {
                i += 1;
                continue;
            }
            out.extend_from_slice(&valid[from..i]);
            let short = match b {
                b'"' | b'\\' => Some(b),
                b'\n' => Some(b'n'),
                b'\r' => Some(b'r'),
                b'\t' => Some(b't'),
                _ => None,
            };
            if let Some(short) = short {
                out.extend_from_slice(&[b'\\', short]);
            } else {
                i += usize::from(c1);
                let code = valid[i] as usize;
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', DIGITS[code >> 4], DIGITS[code & 15]]);
            }
            i += 1;
            from = i;
        }
        out.extend_from_slice(&valid[from..]);
        if !invalid.is_empty() {
            whole = false;
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    });
    whole
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for c in bytes.chunks(3) {
        let byte = |i: usize| u32::from(c.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= c.len() { digit } else { b'=' });
        }
    }
}

impl Json {
    /// Nothing unfinished.
    pub fn new() -> Json {
        Json::default()
    }

    fn own(&mut self, utc_ns: i64, level: &str, thread: Option<&Entry<'_>>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":\"");
        self.look.clock.put(utc_ns, out);
        out.extend_from_slice(format!("\",\"level\":\"{level}\",\"target\":\"spillring\"").as_bytes());
        if let Some(e) = thread {
            out.extend_from_slice(self.look.thread(e));
        }
    }

    fn loss(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        self.own(e.utc_ns, "error", Some(e), out);
        let mut said = b"lost ".to_vec();
        loss_text(&mut self.look.clock, e, &mut said);
        text(b",\"msg", &said, out);
        if let Some(loss) = Loss::decode(e.payload) {
            out.extend_from_slice(format!(",\"lost\":{}", loss.count).as_bytes());
            for (key, time) in [(",\"lost_from\":\"", loss.from_utc), (",\"lost_to\":\"", loss.to_utc)] {
                out.extend_from_slice(key.as_bytes());
                self.look.clock.put(time, out);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

impl Look {
    fn thread(&mut self, e: &Entry<'_>) -> &[u8] {
        self.threads.get(e.thread_ref, e.thread, thread_json).bytes()
    }

    #[inline]
    fn log(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":\"");
        self.clock.put(e.utc_ns, out);
        let thread = self.threads.get(e.thread_ref, e.thread, thread_json);
        let Some(site) = e.site.map(|s| self.sites.get(e.site_ref, s, site_json)) else {
            out.push(b'"');
            thread.put(out);
            let mut said = Vec::new();
            no_site(e, &mut said);
            text(b",\"msg", &said, out);
            return out.extend_from_slice(b"}\n");
        };
        site.head.put(out);
        thread.put(out);
        out.extend_from_slice(b",\"msg\":\"");
        let at = out.len();
        // What is wrong with a damaged record stands in its text.
        if site.format.render_and_look(e.payload, out) == Ok(true) || plain(&out[at..]) {
            out.push(b'"');
        } else {
            self.scratch.clear();
            self.scratch.extend_from_slice(&out[at..]);
            out.truncate(at - b",\"msg\":\"".len());
            text(b",\"msg", &self.scratch, out);
            self.scratch.shrink_to(KEEP);
        }
        if site.format.has_fields() {
            let all = site.format.fields(e.payload);
            fields(all.clone(), RESERVED, out);
            let mut some = false;
            for s in all.spans() {
                out.extend_from_slice(if some { b"," } else { b",\"spans\":[" });
                some = true;
                out.extend_from_slice(format!("{{\"id\":{}", s.id).as_bytes());
                text(b",\"name", s.name, out);
                fields(s.fields, RESERVED_IN_SPANS, out);
                out.push(b'}');
            }
            out.extend_from_slice(if some { b"]" } else { b"" });
        }
        site.tail.put(out);
    }
}

/// Keys of ours, which no field has.
const RESERVED: &[&[u8]] = &[
    b"ts",
    b"level",
    b"target",
    b"pid",
    b"tid",
    b"thread",
    b"msg",
    b"partial",
    b"lost",
    b"lost_from",
    b"lost_to",
    b"file",
    b"line",
    b"spans",
];
const RESERVED_IN_SPANS: &[&[u8]] = &[b"name", b"id", b"left_out"];
/// Limit: fields of an object. What is beyond is counted in `left_out`.
const MAX_FIELDS: usize = 1024;
/// What a name gets that is taken.
const PREFIX: &[u8] = b"field_";

/// Appends `,"name":value` for each.
fn fields(all: Fields<'_>, reserved: &[&[u8]], out: &mut Vec<u8>) {
    let mut seen: Seen<'_> = Seen { few: [b""; 16], n: 0, many: HashSet::default() };
    // Keys with a prefix, which are rare; no other key begins with it.
    let mut made: Vec<Vec<u8>> = Vec::new();
    let mut left_out = 0u64;
    for (i, f) in all.enumerate() {
        if i >= MAX_FIELDS {
            left_out += 1;
            continue;
        }
        let odd = f.name.is_empty()
            || f.name.starts_with(PREFIX)
            || f.name.ends_with(b"_b64")
            || reserved.contains(&f.name)
            || std::str::from_utf8(f.name).is_err();
        if !odd && seen.first_time(f.name) {
            value(f.name, &f.value, out);
            continue;
        }
        let mut key = PREFIX.to_vec();
        key.extend_from_slice(String::from_utf8_lossy(f.name).as_bytes());
        while made.contains(&key) || made.contains(&[&key[..], b"_b64"].concat()) {
            key.splice(..0, PREFIX.iter().copied());
        }
        value(&key, &f.value, out);
        made.push([&key[..], b"_b64"].concat());
        made.push(key);
    }
    if left_out > 0 {
        out.extend_from_slice(format!(",\"left_out\":{left_out}").as_bytes());
    }
}

/// Names that an object has.
struct Seen<'a> {
    few: [&'a [u8]; 16],
    n: usize,
    many: HashSet<&'a [u8]>,
}

impl<'a> Seen<'a> {
    fn first_time(&mut self, name: &'a [u8]) -> bool {
        if self.few[..self.n].contains(&name) {
            return false;
        }
        if self.n < self.few.len() {
            self.few[self.n] = name;
            self.n += 1;
            return true;
        }
        self.many.insert(name)
    }
}

fn value(name: &[u8], value: &Value<'_>, out: &mut Vec<u8>) {
    let mut key = b",\"".to_vec();
    string(name, &mut key);
    let mut bare = |v: std::fmt::Arguments<'_>| {
        out.extend_from_slice(&key);
        out.extend_from_slice(format!("\":{v}").as_bytes());
    };
    match *value {
        Value::Str(v) => text(&key, v, out),
        Value::Char(c) => text(&key, c.encode_utf8(&mut [0; 4]).as_bytes(), out),
        Value::Bool(v) => bare(format_args!("{v}")),
        Value::Signed(v, _) if i64::try_from(v).is_ok() => bare(format_args!("{v}")),
        Value::Unsigned(v) if u64::try_from(v).is_ok() => bare(format_args!("{v}")),
        Value::Signed(v, _) => bare(format_args!("\"{v}\"")),
        Value::Unsigned(v) => bare(format_args!("\"{v}\"")),
        // `{:?}` has an exponent where the digits would be many.
        Value::F32(v) if v.is_finite() => bare(format_args!("{v:?}")),
        Value::F64(v) if v.is_finite() => bare(format_args!("{v:?}")),
        Value::F32(v) => bare(format_args!("\"{v}\"")),
        Value::F64(v) => bare(format_args!("\"{v}\"")),
    }
}

impl Style for Look {
    type Prefix = Vec<u8>;
    const CONTINUES: bool = false;
    const LIMIT: usize = MAX_LINE;

    fn prefix(&mut self, e: &Entry<'_>, to: &mut Vec<u8>) {
        to.clear();
        to.extend_from_slice(b"{\"ts\":\"");
        self.clock.put(e.utc_ns, to);
        to.push(b'"');
        match e.site {
            Some(_) if is_stderr(e) => to.extend_from_slice(b",\"target\":\"stderr\""),
            Some(s) if s.target == b"stdout" => to.extend_from_slice(b",\"target\":\"stdout\""),
            Some(s) => text(b",\"target", &s.target, to),
            None => {}
        }
        to.extend_from_slice(self.thread(e));
    }

    fn line(&mut self, prefix: &Vec<u8>, start: Start, bytes: &[u8], complete: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(prefix);
        text(b",\"msg", bytes, out);
        let partial: &[u8] = match (start, complete) {
            (Start::Line, true) => b"",
            (Start::Line, false) => b",\"partial\":\"begin\"",
            (_, false) => b",\"partial\":\"middle\"",
            (_, true) => b",\"partial\":\"end\"",
        };
        out.extend_from_slice(partial);
        out.extend_from_slice(b"}\n");
    }
}

impl Formatter for Json {
    #[inline]
    fn entry(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) -> Dest {
        self.last_utc = e.utc_ns;
        match e.kind {
            kind::LOG => self.look.log(e, out),
            kind::OUTPUT => self.parts.output(e, &mut self.look, out),
            kind::LOSS => self.loss(e, out),
            kind::NOTE => {
                self.own(e.utc_ns, "info", Some(e), out);
                text(b",\"msg", e.payload, out);
                out.extend_from_slice(b"}\n");
            }
            // A kind of a later version.
            _ => {}
        }
        Dest::Out
    }

    /// The time is that of the record before.
    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) -> Dest {
        self.own(self.last_utc, "error", None, out);
        text(b",\"msg", format!("lost {gap}").as_bytes(), out);
        let (Gap::Missed { records, .. } | Gap::Damaged { records, .. }) = gap;
        out.extend_from_slice(format!(",\"lost\":{records}}}\n").as_bytes());
        Dest::Out
    }

    fn settle(&mut self, now_ms: Option<u64>, out: &mut Vec<u8>) {
        self.parts.settle(now_ms, &mut self.look, out);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.settle(None, out);
    }

    fn held(&self) -> Vec<Held> {
        self.parts.held()
    }

    fn restore(&mut self, held: &[Held]) {
        self.parts.restore(held);
    }

    fn hold_again(&mut self, e: &Entry<'_>) {
        if e.kind == kind::OUTPUT {
            self.parts.hold_again(e, &mut self.look);
        }
    }

    fn oldest_held(&self) -> Option<u64> {
        self.parts.oldest_held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        base64(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The vectors of RFC 4648.
    #[test]
    fn base64_is_the_usual_one() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (text, code) in vectors {
            assert_eq!(encoded(text.as_bytes()), code);
        }
        assert_eq!(encoded(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    /// Every byte at every place of a chunk is seen.
    #[test]
    fn all_bytes_at_all_places() {
        for b in 0..=255u8 {
            for at in [0, 1, 31, 32, 40] {
                let mut bytes = vec![b'a'; 41];
                bytes[at] = b;
                let mut out = Vec::new();
                assert_eq!(string(&bytes, &mut out), b < 0x80, "{b:#x} at {at}");
                let as_is = (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\';
                assert_eq!(plain(&bytes), as_is, "{b:#x} at {at}");
                assert!(String::from_utf8(out).unwrap().chars().all(|c| !c.is_control()), "{b:#x}");
            }
        }
    }
}
