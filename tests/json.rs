//! JSON lines: valid for `jq` whatever the bytes, exact where they are not UTF-8, and of the keys that are
//! promised.
#![cfg(feature = "cli")]

mod command_kit;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde_json::{Value as Json_, json};
use spillring::journal::{Item, Journal, Loss, MemStorage, Options, Reader, SiteFacts, ThreadFacts, kind};
use spillring::layout::site::{style, ty};
use spillring::record::{DynFields, Value};
use spillring::sink::{Formatter, Gap, Json};

/// 2026-11-21T02:44:42Z.
const T0: i64 = 1_795_229_082_000_000_000;

struct Log(Journal<MemStorage>);

impl Log {
    fn new() -> Log {
        Log(Journal::open(MemStorage::new(BTreeMap::new(), 1), Options::default(), T0).unwrap().0)
    }
    #[allow(clippy::too_many_arguments)]
    fn log(&mut self, target: &[u8], file: &[u8], fmt: &[u8], types: &[u8], fields: &[u8], payload: &[u8]) {
        let facts = SiteFacts { level: 3, line: 12, file, target, fmt, types, fields, style: style::BRACE };
        let name =
            ThreadFacts { nonce: 9, pid: 4711, thread: 1, tid: 4712, name: b"worker", ..Default::default() };
        let (site, thread) = (self.0.site(&facts), self.0.thread(&name));
        self.0.record(kind::LOG, 0, thread, site, T0 + 123_456_789, 0, payload).unwrap();
    }
    fn thread(&mut self, tid: u32, name: &[u8]) -> u32 {
        self.0.thread(&ThreadFacts {
            nonce: 9,
            pid: 4711,
            thread: tid.into(),
            tid,
            name,
            ..Default::default()
        })
    }
    fn out(&mut self, tid: u32, stream: &[u8], bytes: &[u8]) {
        let facts = SiteFacts {
            level: 0,
            line: 0,
            file: b"",
            target: stream,
            fmt: b"",
            types: &[],
            fields: b"",
            style: style::BRACE,
        };
        let (site, thread) = (self.0.site(&facts), self.thread(tid, b""));
        self.0.record(kind::OUTPUT, 0, thread, site, T0, 0, bytes).unwrap();
    }
    /// What becomes of it.
    fn text(mut self) -> Vec<u8> {
        self.0.commit(T0).unwrap();
        let (mut reader, mut json, mut out) = (Reader::new(self.0.storage()), Json::new(), Vec::new());
        while let Some(item) = reader.next_batch().unwrap() {
            let Item::Batch(b) = item else { panic!("the journal has a gap") };
            for e in b.entries() {
                json.entry(&e, &mut out);
            }
        }
        json.finish(&mut out);
        out
    }
    fn objects(self) -> Vec<Json_> {
        objects(&self.text())
    }
}

/// Every line is one object.
fn objects(text: &[u8]) -> Vec<Json_> {
    let text = std::str::from_utf8(text).expect("UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'));
    let parse = |l: &str| {
        assert!(l.chars().all(|c| !c.is_control()), "{l:?}");
        let v: Json_ = serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
        assert!(v.is_object());
        v
    };
    text.lines().map(parse).collect()
}

fn str_arg(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

fn decode64(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    for c in text.as_bytes().chunks(4) {
        let used = c.iter().filter(|&&b| b != b'=').count();
        let word = c.iter().take(used).fold(0u32, |w, &b| w << 6 | u32::from(digit(b))) << (6 * (4 - used));
        out.extend_from_slice(&word.to_be_bytes()[1..used]);
    }
    out
}

/// The bytes that an object repeats exactly under `key`.
fn exact(o: &Json_, key: &str) -> Vec<u8> {
    match o.get(format!("{key}_b64")) {
        Some(code) => {
            let bytes = decode64(code.as_str().unwrap());
            // The text beside it is the same with what is no UTF-8 replaced.
            assert_eq!(o[key].as_str().unwrap(), String::from_utf8_lossy(&bytes), "{o}");
            assert!(std::str::from_utf8(&bytes).is_err());
            bytes
        }
        None => o[key].as_str().unwrap_or_else(|| panic!("{key} in {o}")).as_bytes().to_vec(),
    }
}

/// `jq` over the text: the answer, one compact line a value.
fn jq(filter: &str, text: &[u8]) -> String {
    let mut c =
        Command::new("jq").args(["-c", filter]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut to = c.stdin.take().unwrap();
    let o = std::thread::scope(|s| {
        s.spawn(move || to.write_all(text).unwrap());
        c.wait_with_output().unwrap()
    });
    assert!(o.status.success(), "jq: {:?}", o.status);
    String::from_utf8(o.stdout).unwrap()
}

fn golden() {
    let mut log = Log::new();
    log.log(b"app::db", b"src/db.rs", b"connected to {}", &[ty::STR], b"", &str_arg(b"10.0.0.7"));
    let thread = log.thread(4713, b"");
    let loss = Loss { count: 7, from_utc: T0 - 1, to_utc: T0 };
    log.0.record(kind::LOSS, 0, thread, 0, T0, 0, &loss.encode()).unwrap();
    log.0.record(kind::NOTE, 0, thread, 0, T0, 0, b"said \"so\"").unwrap();
    log.out(4720, b"stdout", b"a captured line\nand\t");
    log.out(4720, b"stderr", b"other\n");
    log.out(4720, b"stdout", b"its rest\nunfinished");
    let want = concat!(
        r#"{"ts":"2026-11-21T02:44:42.123456789Z","level":"info","target":"app::db","pid":4711,"tid":4712,"#,
        r#""thread":"worker","msg":"connected to 10.0.0.7","file":"src/db.rs","line":12}"#,
        "\n",
        r#"{"ts":"2026-11-21T02:44:42.000000000Z","level":"error","target":"spillring","pid":4711,"tid":4713,"#,
        r#""msg":"lost 7 records of 4711/4713 between 2026-11-21T02:44:41.999999999Z and "#,
        r#"2026-11-21T02:44:42.000000000Z","lost":7,"lost_from":"2026-11-21T02:44:41.999999999Z","#,
        r#""lost_to":"2026-11-21T02:44:42.000000000Z"}"#,
        "\n",
        r#"{"ts":"2026-11-21T02:44:42.000000000Z","level":"info","target":"spillring","pid":4711,"tid":4713,"#,
        r#""msg":"said \"so\""}"#,
        "\n",
        r#"{"ts":"2026-11-21T02:44:42.000000000Z","target":"stdout","pid":4711,"tid":4720,"#,
        r#""msg":"a captured line"}"#,
        "\n",
        r#"{"ts":"2026-11-21T02:44:42.000000000Z","target":"stderr","pid":4711,"tid":4720,"msg":"other"}"#,
        "\n",
        r#"{"ts":"2026-11-21T02:44:42.000000000Z","target":"stdout","pid":4711,"tid":4720,"#,
        r#""msg":"and\tits rest"}"#,
        "\n",
        r#"{"ts":"2026-11-21T02:44:42.000000000Z","target":"stdout","pid":4711,"tid":4720,"#,
        r#""msg":"unfinished","partial":"begin"}"#,
        "\n",
    );
    let text = log.text();
    assert_eq!(String::from_utf8(text.clone()).unwrap(), want);
    assert_eq!(jq("select(.level == \"error\") | .lost", &text), "7\n");
    assert_eq!(jq(".ts | sub(\"\\\\.[0-9]+\"; \"\") | fromdate", &text).lines().next(), Some("1795229082"));
    let mut out = Vec::new();
    Json::new().gap(&Gap::Missed { first: Some(3), records: 4 }, &mut out);
    let o = objects(&out).remove(0);
    assert_eq!((&o["lost"], &o["target"]), (&json!(4), &json!("spillring")));
}

fn fields_are_keys() {
    let (mut dynamic, mut inner, mut spans) = ([0; 2000], [0; 200], [0; 400]);
    let mut d = DynFields::new(&mut dynamic);
    d.field(b"big", Value::Unsigned(u128::MAX));
    d.field(b"small", Value::Signed(i64::MIN.into(), 64));
    d.field(b"nan", Value::F64(f64::NAN));
    d.field(b"huge", Value::F64(1e300));
    d.field(b"third", Value::F32(0.1));
    d.field(b"yes", Value::Bool(true));
    d.field(b"c", Value::Char('\u{1}'));
    d.field(b"bytes", Value::Str(b"a\xff"));
    d.field(b"msg", Value::Str(b"mine"));
    d.field(b"msg_b64", Value::Unsigned(1));
    d.field(b"user", Value::Str(b"again"));
    d.field(b"user", Value::Str(b"and again"));
    d.field(b"field_x", Value::Bool(false));
    d.field(b"", Value::Bool(false));
    d.field(b"k\"\n", Value::Bool(false));
    d.field(b"\xff", Value::Bool(false));
    assert_eq!(d.left_out(), 0);
    let mut i = DynFields::new(&mut inner);
    i.field(b"id", Value::Unsigned(9));
    i.field(b"ts", Value::Str(b"its own"));
    let mut s = DynFields::new(&mut spans);
    s.span(b"request", 7, i.bytes());
    s.span(b"in\xfener", 8, b"");
    let payload = [&[5u8][..], &str_arg(b"me"), &str_arg(d.bytes()), &str_arg(s.bytes())].concat();
    let types = [ty::U8, ty::STR, ty::STR, ty::STR];
    let mut log = Log::new();
    log.log(b"t", b"f", b"n {}", &types, b"user\0*\0*spans\0", &payload);
    let o = log.objects().remove(0);
    let max = u128::MAX.to_string();
    let want = json!({
        "ts": "2026-11-21T02:44:42.123456789Z", "level": "info", "target": "t", "pid": 4711, "tid": 4712,
        "thread": "worker", "msg": "n 5", "file": "f", "line": 12,
        "user": "me", "big": max, "small": i64::MIN, "nan": "NaN", "huge": 1e300, "third": 0.1, "yes": true,
        "c": "\u{1}", "bytes": "a\u{fffd}", "bytes_b64": "Yf8=", "field_msg": "mine",
        "field_field_msg_b64": 1, "field_user": "again", "field_field_user": "and again",
        "field_field_x": false, "field_": false, "k\"\n": false, "field_\u{fffd}": false,
        "spans": [
            {"name": "request", "id": 7, "field_id": 9, "ts": "its own"},
            {"name": "in\u{fffd}ner", "name_b64": "aW7+bmVy", "id": 8},
        ],
    });
    assert_eq!(o, want, "{o:#}\n{want:#}");
}

/// A producer that sends a million fields of one name gets an object, and does not stop the sink.
fn fields_without_end() {
    let mut room = vec![0; 4 << 20];
    let mut d = DynFields::new(&mut room);
    (0..300_000).for_each(|_| d.field(b"ts", Value::Bool(true)));
    let mut log = Log::new();
    log.log(b"t", b"f", b"", &[ty::STR], b"*\0", &str_arg(d.bytes()));
    let text = log.text();
    let o = objects(&text).remove(0);
    assert_eq!(o["left_out"], json!(300_000 - 1024));
    assert!(text.len() < 8 << 20, "{}", text.len());
}

/// A line longer than an object, and one that is slow.
fn long_and_slow_lines() {
    let long: Vec<u8> = (0..2_500_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    let mut log = Log::new();
    long.chunks(60_000).for_each(|c| log.out(1, b"stdout", c));
    log.out(1, b"stdout", b"\nshort\n");
    let all = log.objects();
    let partial: Vec<_> =
        all.iter().map(|o| o.get("partial").and_then(Json_::as_str).unwrap_or("")).collect();
    assert_eq!(partial, ["begin", "middle", "end", ""]);
    let joined: Vec<u8> = all[..3].iter().flat_map(|o| exact(o, "msg")).collect();
    assert!(joined == long);
    // 100 KiB are one object, and so is what stands behind it in the same record.
    let mut log = Log::new();
    log.out(1, b"stderr", &[&long[..100 << 10], b"\nnext"].concat());
    log.out(1, b"stderr", b" one\n");
    let all = log.objects();
    assert_eq!(
        (all.len(), exact(&all[0], "msg").len(), all[1]["msg"].as_str()),
        (2, 100 << 10, Some("next one"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Whatever stands in a site, a thread's name, an argument, a field, captured output or a note.
    fn whatever_the_bytes(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 8),
        nice in any::<prop::sample::Index>(),
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        payload in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut parts = parts;
        // Not only noise: one of them is text with all that is special in it.
        let n = nice.index(parts.len());
        parts[n] = "\"\\/\u{0}\u{1f}\u{7f}\u{9b}\u{2028}\u{1f600} ".as_bytes().to_vec();
        let [target, file, arg, field, name, thread, note, fmt] = &parts[..] else { unreachable!() };
        let mut log = Log::new();
        log.log(target, file, b"{}", &[ty::STR, ty::STR], b"f\0", &[str_arg(arg), str_arg(field)].concat());
        // The name of a field, and a payload and a format string that are nothing of the kind.
        let mut room = [0; 200];
        let mut d = DynFields::new(&mut room);
        d.field(name, Value::Str(field));
        log.log(target, file, fmt, &[ty::STR, ty::STR], b"*\0*spans\0", &[str_arg(d.bytes()), str_arg(&payload)].concat());
        log.log(target, file, fmt, &[ty::STR, ty::BOOL, ty::CHAR], b"", &payload);
        let t = log.thread(77, thread);
        log.0.record(kind::NOTE, 0, t, 0, T0, 0, note).unwrap();
        log.0.record(kind::LOSS, 0, t, 0, T0, 0, &payload).unwrap();
        chunks.iter().for_each(|c| log.out(78, b"stdout", c));
        let text = log.text();
        let all = objects(&text);
        prop_assert_eq!(&exact(&all[0], "msg"), arg);
        prop_assert_eq!(&exact(&all[0], "target"), target);
        prop_assert_eq!(&exact(&all[0], "file"), file);
        prop_assert_eq!(&exact(&all[0], "f"), field);
        prop_assert_eq!(&exact(&all[3], "msg"), note);
        if !thread.is_empty() {
            prop_assert_eq!(&exact(&all[3], "thread"), thread);
        }
        let lines = &all[5..];
        let ends = |o: &Json_| o.get("partial").is_none();
        let joined: Vec<u8> = lines
            .iter()
            .flat_map(|o| exact(o, "msg").into_iter().chain(ends(o).then_some(b'\n')))
            .collect();
        prop_assert_eq!(joined, chunks.concat());
        TEXTS.with(|t| t.borrow_mut().extend_from_slice(&text));
    }
}
thread_local!(static TEXTS: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });

fn jq_takes_whatever_the_bytes() {
    whatever_the_bytes();
    let text = TEXTS.with(|t| std::mem::take(&mut *t.borrow_mut()));
    let lines = text.iter().filter(|&&b| b == b'\n').count();
    let answer = jq("[.ts, (.msg | type), .pid] | length", &text);
    assert_eq!(answer.lines().count(), lines);
    assert!(answer.lines().all(|l| l == "3"));
    // And gives the text back.
    let back = jq(".msg // \"\"", &text);
    let ours: Vec<String> =
        objects(&text).iter().map(|o| o["msg"].as_str().unwrap_or("").to_string()).collect();
    let theirs: Vec<String> = back.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(ours == theirs);
    println!("{lines} lines of {} bytes through jq", text.len());
}

fn main() -> std::process::ExitCode {
    command_kit::run(vec![
        ("golden", &["jq"], golden),
        ("fields_are_keys", &[], fields_are_keys),
        ("fields_without_end", &[], fields_without_end),
        ("long_and_slow_lines", &[], long_and_slow_lines),
        ("jq_takes_whatever_the_bytes", &["jq"], jq_takes_whatever_the_bytes),
    ])
}
