//! Sinks: what their lines look like, and that every record comes out once whatever happens to the sink
//! or to what it writes to.
//!
//! Started as `sinks --child ...` this program is the sink in a process of its own, to be killed.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use spillring::journal::{
    DirStorage, Item, Journal, Loss, MemStorage, Options, Reader, SiteFacts, Source, Storage, ThreadFacts,
    kind,
};
use spillring::layout::site::ty;
use spillring::sink::{
    Cursor, Dest, Follower, Format, Formatter, Gap, Held, Json, Lag, Outcome, Output, Places, Raw, Reporter,
    Rotate, SinkSpec, SinkStatus, State, Take, Text,
};

/// 2026-11-21T02:44:42Z.
const T0: i64 = 1_795_229_082_000_000_000;

struct Log<S: Storage>(Journal<S>);

impl Log<DirStorage> {
    fn create(dir: &Path, options: Options) -> Log<DirStorage> {
        Log(Journal::open(DirStorage::create(dir).unwrap(), options, T0).unwrap().0)
    }
}

impl<S: Storage> Log<S> {
    fn thread(&mut self, tid: u32) -> u32 {
        self.0.thread(&ThreadFacts { nonce: 9, pid: 4711, thread: tid.into(), tid, ..ThreadFacts::default() })
    }
    fn log(&mut self, utc: i64, level: u8, target: &str, text: &[u8]) {
        let payload = [&(text.len() as u32).to_le_bytes()[..], text].concat();
        let facts = SiteFacts {
            level,
            line: 12,
            file: b"src/db.rs",
            target: target.as_bytes(),
            fmt: b"said {}",
            types: &[ty::STR],
            fields: b"",
            style: 0,
        };
        let (site, thread) = (self.0.site(&facts), self.thread(4712));
        self.0.record(kind::LOG, 0, thread, site, utc, 0, &payload).unwrap();
    }
    fn out(&mut self, utc: i64, tid: u32, stream: &str, bytes: &[u8]) {
        let target = stream.as_bytes();
        let facts =
            SiteFacts { level: 0, line: 0, file: b"", target, fmt: b"", types: &[], fields: b"", style: 0 };
        let (site, thread) = (self.0.site(&facts), self.thread(tid));
        self.0.record(kind::OUTPUT, 0, thread, site, utc, 0, bytes).unwrap();
    }
    fn commit(&mut self) -> u64 {
        self.0.commit(T0).unwrap();
        self.0.next_record()
    }
    /// `n` lines that say their number, whole ones and lines in parts.
    fn lines(&mut self, n: u64) {
        for _ in 0..n {
            LINE.with(|c| {
                let i = c.get();
                c.set(i + 1);
                let text = line(i);
                let t = T0 + i as i64;
                if i % 7 == 3 {
                    self.out(t, 1, "stdout", &text.as_bytes()[..5]);
                    self.log(t, 3, "app", b"between");
                    self.out(t, 1, "stdout", &text.as_bytes()[5..]);
                } else {
                    self.out(t, 1, "stdout", text.as_bytes());
                }
            });
        }
    }
}
thread_local!(static LINE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
fn line(i: u64) -> String {
    format!("line {i} {}\n", "x".repeat((i % 90) as usize))
}

/// What a formatter makes of a whole journal.
fn render<S: Source>(source: S, mut f: impl Formatter) -> Vec<u8> {
    let (mut reader, mut out) = (Reader::new(source), Vec::new());
    while let Some(item) = reader.next_batch().unwrap() {
        match item {
            Item::Batch(view) => view.entries().for_each(|e| {
                f.entry(&e, &mut out);
            }),
            Item::Missed { records } => {
                f.gap(&Gap::Missed { first: None, records }, &mut out);
            }
            Item::Damaged { segment, offset, bytes, records } => {
                let segment = segment.to_string();
                f.gap(&Gap::Damaged { segment, offset, bytes, records }, &mut out);
            }
        }
    }
    f.finish(&mut out);
    out
}

/// All that is in the journal.
fn render_as(dir: &Dir, format: Format) -> Vec<u8> {
    let source = spillring::journal::DirSource::open(dir.at("j")).unwrap();
    match format {
        Format::Text => render(source, Text::new()),
        Format::Raw => render(source, Raw::new(false)),
        Format::Json => render(source, Json::new()),
    }
}

fn memory() -> Log<MemStorage> {
    Log(Journal::open(MemStorage::new(BTreeMap::new(), 1), Options::default(), T0).unwrap().0)
}
fn text_of(mut log: Log<MemStorage>) -> String {
    log.commit();
    String::from_utf8(render(log.0.storage(), Text::new())).unwrap()
}

struct Dir(PathBuf);
impl Dir {
    fn new() -> Dir {
        let d = tempfile::Builder::new().prefix("spillring-sinks-").tempdir_in("/dev/shm").unwrap().keep();
        std::fs::create_dir(d.join("j")).unwrap();
        std::fs::create_dir(d.join("c")).unwrap();
        Dir(d)
    }
    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    fn places(&self) -> Places {
        Places { journal: self.at("j"), channel: Some(self.at("c")) }
    }
    fn log(&self) -> Log<DirStorage> {
        Log::create(&self.at("j"), Options::default())
    }
    fn fifo(&self, name: &str) -> (PathBuf, File) {
        let path = self.at(name);
        let c = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a valid path.
        assert_eq!(unsafe { libc::mkfifo(c.as_ptr(), 0o600) }, 0);
        let r = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        (path, r)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);
impl Said {
    fn reporter(&self) -> Reporter {
        let said = self.0.clone();
        Arc::new(move |s| said.lock().unwrap().push(s.to_owned()))
    }
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
/// For sinks that have nothing to tell.
fn quiet() -> Reporter {
    Arc::new(|s| panic!("reported: {s}"))
}

fn file_sink(dir: &Dir, format: Format) -> SinkSpec {
    SinkSpec::new("f", Output::File(dir.at("out")), format)
}
fn stop<S: Storage>(f: &mut Follower, log: &Log<S>, timeout: u64) -> Outcome {
    f.stop_when(&log.0.position());
    f.wait(Some(Duration::from_millis(timeout)))
}
fn until(what: &str, mut f: impl FnMut() -> bool) {
    let t = Instant::now();
    while !f() {
        assert!(t.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
/// Reads what a non-blocking reader gets until the sink is done with `wait`.
fn read_some(r: &mut File, to: &mut Vec<u8>) -> usize {
    let mut buf = [0; 65536];
    match r.read(&mut buf) {
        Ok(n) => {
            to.extend_from_slice(&buf[..n]);
            n
        }
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => 0,
        Err(e) => panic!("{e}"),
    }
}
fn same(got: &[u8], want: &[u8]) {
    if got != want {
        let at = got.iter().zip(want).take_while(|(a, b)| a == b).count();
        let around = |b: &[u8]| {
            String::from_utf8_lossy(&b[at.saturating_sub(120)..(at + 120).min(b.len())]).into_owned()
        };
        panic!(
            "{} bytes, not {}; they differ at {at}:\n got: {}\nwant: {}",
            got.len(),
            want.len(),
            around(got),
            around(want)
        );
    }
}

fn golden_text() {
    let mut log = memory();
    log.log(T0 + 123_456_789, 3, "app::db", b"hello");
    log.log(T0 + 1_000_000_000, 5, "app", "a\0b\x1b[31m\nc\t\\ é \u{9b}".as_bytes());
    log.log(T0 + 1_000_000_001, 1, "evil\ntarget", b"not utf-8: \xff\xc3");
    log.out(T0 + 2_000_000_000, 4720, "stdout", b"captured\r\n");
    log.out(T0 + 2_000_000_001, 4720, "stderr", b"\n");
    log.out(T0 + 2_000_000_002, 4720, "stderr", b"two\nlines\n");
    let thread = log.thread(4712);
    let loss = Loss { count: 7, from_utc: T0, to_utc: T0 + 5 }.encode();
    log.0.record(kind::LOSS, 0, thread, 0, T0 + 3_000_000_000, 0, &loss).unwrap();
    log.0.record(kind::NOTE, 0, 0, 0, T0 + 3_000_000_000, 0, b"a note").unwrap();
    log.0.record(99, 0, 0, 0, T0, 0, b"of a later version").unwrap();
    log.out(T0 + 4_000_000_000, 4720, "stdout", b"no newline");
    let want = r"2026-11-21T02:44:42.123456789Z INFO  app::db[4711:4712] said hello (src/db.rs:12)
2026-11-21T02:44:43.000000000Z ERROR app[4711:4712] said a\0b\x1b[31m\nc	\ é \u{9b} (src/db.rs:12)
2026-11-21T02:44:43.000000001Z TRACE evil\ntarget[4711:4712] said not utf-8: \xff\xc3 (src/db.rs:12)
2026-11-21T02:44:44.000000000Z -     stdout[4711:4720] captured\r
2026-11-21T02:44:44.000000001Z -     stderr[4711:4720] 
2026-11-21T02:44:44.000000002Z -     stderr[4711:4720] two
2026-11-21T02:44:44.000000002Z -     stderr[4711:4720] lines
2026-11-21T02:44:45.000000000Z LOST  spillring[4711:4712] 7 records of 4711/4712 between 2026-11-21T02:44:42.000000000Z and 2026-11-21T02:44:42.000000005Z
2026-11-21T02:44:45.000000000Z NOTE  spillring[0:0] a note
2026-11-21T02:44:46.000000000Z -     stdout[4711:4720] no newline
";
    assert_eq!(text_of(log), want);
}

fn golden_raw() {
    let mut log = memory();
    log.out(T0, 1, "stdout", b"prompt: \0\x1b\xff");
    log.log(T0, 3, "app", b"exact \0\x1b\xff");
    let loss = Loss { count: 1, from_utc: T0, to_utc: T0 }.encode();
    log.0.record(kind::LOSS, 0, 0, 0, T0, 0, &loss).unwrap();
    log.out(T0, 1, "stderr", b"err");
    log.out(T0, 1, "stdout", b"out, no newline");
    log.commit();
    let t = "2026-11-21T02:44:42.000000000Z";
    let lost = format!("spillring: lost 1 record of 0/0 between {t} and {t}\n");
    // In one place everything else waits for the end of the first line, which has none here.
    let first = b"prompt: \0\x1b\xffout, no newline\n";
    let want = [first, &b"said exact \0\x1b\xff\n"[..], lost.as_bytes(), b"err"].concat();
    assert_eq!(render(log.0.storage(), Raw::new(false)), want);
    // Apart: log records go with stderr, and stdout stays exact.
    let (mut raw, mut to) = (Raw::new(true), [Vec::new(), Vec::new()]);
    let mut reader = Reader::new(log.0.storage());
    while let Some(Item::Batch(view)) = reader.next_batch().unwrap() {
        for e in view.entries() {
            let mut b = Vec::new();
            let dest: Dest = raw.entry(&e, &mut b);
            to[dest as usize].extend(b);
        }
    }
    assert_eq!(to[0], b"prompt: \0\x1b\xffout, no newline");
    assert_eq!(to[1], [b"said exact \0\x1b\xff\n", lost.as_bytes(), b"err"].concat());
}

/// In one place streams change at the ends of lines, or when a line has had none for a second.
fn one_place() {
    const S: i64 = 1_000_000_000;
    let mut log = memory();
    let mut say = |t: i64, stream: &str, text: &str| log.out(T0 + t, 1, stream, text.as_bytes());
    say(0, "stdout", "Contin");
    say(1, "stderr", "warning\npart");
    say(2, "stdout", "ue?\nname: ");
    say(3, "stderr", " of it\n");
    say(4, "stdout", "x\n");
    // A second without an end of the line.
    say(5, "stdout", "slow ");
    say(6, "stderr", "waits ");
    say(6 + S, "stderr", "no more\n");
    say(7 + S, "stdout", "end\n");
    // Much more of one line than may wait is nothing to wait for either.
    say(8 + S, "stderr", "err ");
    say(9 + S, "stdout", &"y".repeat(spillring::sink::MAX_WAITING + 1));
    say(10 + S, "stdout", "\n");
    say(11 + S, "stderr", "end\n");
    log.log(T0 + 12 + S, 3, "app", b"hello");
    log.commit();
    let y = "y".repeat(spillring::sink::MAX_WAITING + 1);
    let want = format!(
        "Continue?\nwarning\npart of it\nname: x\nslow waits no more\nend\nerr {y}\nend\nsaid hello\n"
    );
    let got = String::from_utf8(render(log.0.storage(), Raw::new(false))).unwrap();
    assert!(got == want, "{:?}", &got[..got.len().min(200)]);
    // Time alone shows what waits.
    let mut raw = Raw::new(false);
    let mut out = Vec::new();
    let mut reader = Reader::new(log.0.storage());
    if let Some(Item::Batch(view)) = reader.next_batch().unwrap() {
        for e in view.entries().take(2) {
            raw.entry(&e, &mut out);
        }
    }
    raw.settle(Some(5000), &mut out);
    raw.settle(Some(5999), &mut out);
    assert_eq!(out, b"Contin");
    assert_eq!(raw.oldest_held(), Some(1));
    raw.settle(Some(6000), &mut out);
    assert_eq!(out, b"Continwarning\npart");
    assert_eq!(raw.oldest_held(), None);
}

/// Another sink goes on in the place of one that was killed with something waiting.
fn one_place_goes_on() {
    let mut log = memory();
    let pieces =
        [("stdout", "a "), ("stderr", "E1\n"), ("stdout", "b "), ("stderr", "E2 "), ("stdout", "c\nd ")];
    for (i, (stream, text)) in pieces.into_iter().enumerate() {
        log.out(T0 + i as i64, 1, stream, text.as_bytes());
        log.log(T0 + i as i64, 3, "app", b"line");
    }
    log.out(T0 + 9, 1, "stdout", b"end\n");
    log.out(T0 + 10, 1, "stderr", b"end\n");
    log.commit();
    let want = render(log.0.storage(), Raw::new(false));
    for cut in 0..12u64 {
        let (mut first, mut out) = (Raw::new(false), Vec::new());
        let mut second = Raw::new(false);
        let mut reader = Reader::new(log.0.storage());
        let Some(Item::Batch(view)) = reader.next_batch().unwrap() else { panic!() };
        view.entries().take_while(|e| e.record_no < cut).for_each(|e| {
            first.entry(&e, &mut out);
        });
        second.restore(&first.held());
        let from = first.oldest_held().unwrap_or(cut);
        for e in view.entries().filter(|e| e.record_no >= from) {
            if e.record_no < cut {
                second.hold_again(&e);
            } else {
                second.entry(&e, &mut out);
            }
        }
        second.finish(&mut out);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        assert_eq!(text(&out), text(&want), "cut at {cut}");
    }
}

fn parts_are_joined() {
    let mut log = memory();
    log.out(T0, 1, "stdout", b"one ");
    log.out(T0 + 1, 1, "stderr", b"other stream\n");
    log.out(T0 + 2, 2, "stdout", b"other thread, whole\n");
    log.out(T0 + 3, 1, "stdout", b"line, with \xe2");
    log.out(T0 + 4, 1, "stdout", b"\x82\xac\nand the next");
    log.out(T0 + 5, 1, "stdout", b" one\n");
    let p = "2026-11-21T02:44:42.00000000";
    let want = format!(
        "{p}1Z -     stderr[4711:1] other stream\n{p}2Z -     stdout[4711:2] other thread, whole\n\
         {p}0Z -     stdout[4711:1] one line, with €\n{p}4Z -     stdout[4711:1] and the next one\n"
    );
    assert_eq!(text_of(log), want);
}

/// A line far over the limit: one line while nothing comes between, and bounded memory.
fn long_lines() {
    let mut log = memory();
    let piece = "€".repeat(20_000);
    for (i, half) in piece.as_bytes().chunks(1000).enumerate() {
        log.out(T0, 1, "stdout", half);
        if i == 50 {
            // Between two lines of another stream, in its own hold.
            log.out(T0, 1, "stderr", b"part ");
        }
    }
    for _ in 0..9 {
        log.out(T0, 1, "stdout", piece.as_bytes());
    }
    log.out(T0 + 1, 1, "stdout", b"\n");
    log.out(T0 + 2, 1, "stderr", b"done\n");
    for _ in 0..3 {
        log.out(T0 + 3, 2, "stdout", piece.as_bytes());
        log.log(T0 + 3, 3, "app", b"between");
    }
    log.out(T0 + 4, 2, "stdout", b" end\n");
    let text = text_of(log);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].len(), "2026-11-21T02:44:42.000000000Z -     stdout[4711:1] ".len() + 600_000);
    assert!(!lines[0].contains('\\'), "a character cut in two was not joined");
    assert!(lines[1].ends_with("stderr[4711:1] part done"), "{}", lines[1]);
    assert!(lines[2].contains("said between"), "{}", lines[2]);
    // The first part is over 64 KiB only with the second one.
    assert!(lines[3].contains("stdout[4711:2] €"), "{}", &lines[3][..80]);
    assert!(lines[4].contains("said between") && lines[5].contains("said between"));
    assert!(lines[6].contains("stdout[4711:2]+ €") && lines[6].ends_with(" end"), "{}", &lines[6][..80]);
    let shown: usize = lines.iter().map(|l| l.matches('€').count()).sum();
    assert_eq!(shown, 20_000 * 13);
}

/// More unfinished lines than are held, none of them lost, one line each.
fn many_unfinished_lines() {
    let mut log = memory();
    for tid in 0..40 {
        log.out(T0, tid, "stdout", format!("line of {tid}").as_bytes());
    }
    let text = text_of(log);
    for tid in 0..40 {
        assert_eq!(text.matches(&format!("stdout[4711:{tid}] line of {tid}\n")).count(), 1, "{tid}\n{text}");
    }
    assert_eq!(text.lines().count(), 40);
}

/// Against numbers written down here, not the writer's constants.
fn golden_cursor() {
    let mut log = memory();
    log.out(T0, 1, "stdout", b"x");
    log.commit();
    let c = Cursor {
        position: log.0.position(),
        next: 0x1122,
        skip: 3,
        records: 4,
        bytes: 5,
        last_utc: 6,
        file: Some((spillring::sys::FileId { dev: 7, ino: 8 }, 9)),
        clean: true,
        held: vec![Held {
            nonce: 10,
            thread: 11,
            stderr: true,
            broken: false,
            open: true,
            first: 12,
            skip: 13,
        }],
    };
    let slot = c.encode(0x33);
    assert_eq!(slot.len(), 1024);
    let mut want = vec![0u8; 1024];
    let mut put = |at: usize, b: &[u8]| want[at..at + b.len()].copy_from_slice(b);
    put(0, b"SPRSINK\x01\x01\0\0\0");
    for (at, v) in
        [(16, 0x33u64), (32, 0x1122), (40, 3), (48, 4), (56, 5), (64, 6), (72, 7), (80, 8), (88, 9)]
    {
        put(at, &v.to_le_bytes());
    }
    put(24, &[1, 0, 0, 0, 1]);
    put(96, &log.0.position().to_bytes());
    for (at, v) in [(256, 10u64), (264, 11), (272, 12)] {
        put(at, &v.to_le_bytes());
    }
    put(280, &[13, 0, 0, 0, 5]);
    let crc = crc32c::crc32c(&want);
    want[12..16].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(&slot[..], &want[..]);
    assert_eq!(Cursor::decode(&slot), Some((0x33, c)));
    for at in [0, 8, 13, 33, 100, 260, 1000] {
        let mut bad = slot;
        bad[at] ^= 0x10;
        assert_eq!(Cursor::decode(&bad), None, "flipped at {at}");
    }
}

fn stop_and_go_on() {
    for format in [Format::Text, Format::Raw, Format::Json] {
        let dir = Dir::new();
        let mut log = dir.log();
        std::fs::write(dir.at("out"), "before\n").unwrap();
        std::fs::set_permissions(dir.at("out"), std::fs::Permissions::from_mode(0o640)).unwrap();
        for round in 0..6 {
            let mut f = Follower::start(&file_sink(&dir, format), &dir.places(), quiet()).unwrap();
            for _ in 0..20 {
                log.lines(50);
                f.wake(log.commit());
            }
            assert_eq!(stop(&mut f, &log, 2000), Outcome::Delivered);
            let s = SinkStatus::read_all(&dir.at("c")).unwrap().remove(0);
            assert_eq!((s.name.as_str(), s.state, s.alive), ("f", State::Delivered, true));
            let n = log.0.next_record();
            assert_eq!((s.records, s.next, s.known, s.blocked_ns), (n, n, n, None), "round {round}");
            assert_eq!(s.bytes + 7, std::fs::metadata(dir.at("out")).unwrap().len());
        }
        let text = render_as(&dir, format);
        same(&std::fs::read(dir.at("out")).unwrap(), &[b"before\n", &text[..]].concat());
        let mode = |p: &str| std::fs::metadata(dir.at(p)).unwrap().mode() & 0o777;
        assert_eq!((mode("out"), mode("c/sink-f.stat"), mode("j/sink-f.cursor")), (0o640, 0o600, 0o600));
    }
    let dir = Dir::new();
    let mut log = dir.log();
    let mut f = Follower::start(&file_sink(&dir, Format::Raw), &dir.places(), quiet()).unwrap();
    log.lines(1);
    log.commit();
    assert_eq!(stop(&mut f, &log, 2000), Outcome::Delivered);
    assert_eq!(std::fs::metadata(dir.at("out")).unwrap().mode() & 0o777, 0o600);
}

/// A line in parts over a stop, and over a stop with the cursor before the part.
fn unfinished_line_over_a_stop() {
    let dir = Dir::new();
    let mut log = dir.log();
    let run = |log: &mut Log<DirStorage>| {
        log.commit();
        let mut f = Follower::start(&file_sink(&dir, Format::Text), &dir.places(), quiet()).unwrap();
        assert_eq!(stop(&mut f, log, 2000), Outcome::Delivered);
    };
    log.out(T0, 1, "stdout", b"begun, ");
    run(&mut log);
    log.log(T0, 3, "app", b"between");
    log.out(T0, 1, "stdout", b"ended\n");
    run(&mut log);
    let t = "2026-11-21T02:44:42.000000000Z";
    let want = format!(
        "{t} -     stdout[4711:1] begun, \n{t} INFO  app[4711:4712] said between (src/db.rs:12)\n\
         {t} -     stdout[4711:1]+ ended\n"
    );
    assert_eq!(std::fs::read_to_string(dir.at("out")).unwrap(), want);
}

/// A prompt is seen although its line does not end.
fn a_prompt_is_shown_after_a_second() {
    let dir = Dir::new();
    let mut log = dir.log();
    let mut f = Follower::start(&file_sink(&dir, Format::Text), &dir.places(), quiet()).unwrap();
    log.out(T0, 1, "stdout", b"Continue?");
    f.wake(log.commit());
    let t = Instant::now();
    until("the prompt", || std::fs::read_to_string(dir.at("out")).unwrap().ends_with("] Continue?"));
    assert!(t.elapsed() > Duration::from_millis(800), "held to be joined");
    log.out(T0, 1, "stdout", b" yes\n");
    f.wake(log.commit());
    assert_eq!(stop(&mut f, &log, 2000), Outcome::Delivered);
    assert!(std::fs::read_to_string(dir.at("out")).unwrap().ends_with("stdout[4711:1] Continue? yes\n"));
}

/// The sink's process is killed again and again; the file in the end is exact.
fn killed_sinks_double_nothing() {
    for (format, name) in [(Format::Text, "text"), (Format::Raw, "raw"), (Format::Json, "json")] {
        let dir = Dir::new();
        let mut log = dir.log();
        let mut moved = 0;
        for kill in 0..12 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--child", name])
                .arg(&dir.0)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let before = std::fs::metadata(dir.at("out")).map_or(0, |m| m.len());
            let t = Instant::now();
            let mut i = 0u64;
            while t.elapsed() < Duration::from_millis(12 + kill * 5) {
                log.lines(1 + i * 7 % 900);
                log.commit();
                i += 1;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            moved += u32::from(std::fs::metadata(dir.at("out")).map_or(0, |m| m.len()) > before);
        }
        assert!(moved >= 3, "only {moved} children wrote before they were killed");
        let mut f = Follower::start(&file_sink(&dir, format), &dir.places(), quiet()).unwrap();
        assert_eq!(stop(&mut f, &log, 5000), Outcome::Delivered);
        let want = render_as(&dir, format);
        same(&std::fs::read(dir.at("out")).unwrap(), &want);
    }
}

/// What stands in the files that were moved away and in the last one, in order; each is at most `most` bytes.
fn rotated(dir: &Dir, most: usize) -> (Vec<u8>, usize, usize) {
    let mut names: Vec<_> = std::fs::read_dir(&dir.0).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|p| p.file_name().unwrap().to_str().unwrap().starts_with("out."));
    names.sort();
    let (mut all, mut packed) = (Vec::new(), 0);
    for path in names.iter().chain([&dir.at("out")]) {
        let bytes = std::fs::read(path).unwrap();
        let bytes = if path.extension().is_some_and(|e| e == "zst") {
            packed += 1;
            let mut d = Vec::new();
            let mut from = &bytes[..];
            // Frame by frame.
            while !from.is_empty() {
                let mut f = ruzstd::decoding::StreamingDecoder::new(&mut from).unwrap();
                f.read_to_end(&mut d).unwrap();
            }
            d
        } else {
            assert!(path.extension().is_none_or(|e| e != "new"), "{} is left", path.display());
            bytes
        };
        assert!(bytes.len() <= most, "{}: {} bytes", path.display(), bytes.len());
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{} ends in a line", path.display());
        all.extend_from_slice(&bytes);
    }
    (all, names.len(), packed)
}

const SMALL: Rotate = Rotate { bytes: Some(20 << 10), age: None, keep: 10_000, compress: true };

fn files_are_moved_away_and_compressed() {
    let dir = Dir::new();
    let mut log = dir.log();
    let spec = SinkSpec { rotate: Some(SMALL), ..file_sink(&dir, Format::Text) };
    for _ in 0..3 {
        let mut f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
        for _ in 0..10 {
            log.lines(200);
            f.wake(log.commit());
        }
        assert_eq!(stop(&mut f, &log, 5000), Outcome::Delivered);
    }
    let (all, files, packed) = rotated(&dir, 20 << 10);
    same(&all, &render_as(&dir, Format::Text));
    assert!(files > 20 && packed > 0, "{files} files, {packed} compressed");
    // The next one compresses what is left, and deletes what is too much, without a line to write.
    let spec = SinkSpec { rotate: Some(Rotate { keep: 5, ..SMALL }), ..spec };
    let f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
    until("five are left, compressed", || {
        let names = std::fs::read_dir(&dir.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let names: Vec<_> = names.filter(|n| n.starts_with("out.")).collect();
        names.len() == 5 && names.iter().all(|n| n.ends_with(".zst"))
    });
    drop(f);
    let (kept, ..) = rotated(&dir, 20 << 10);
    assert!(all.ends_with(&kept));
}

fn an_old_file_is_moved_away_with_the_next_line() {
    let dir = Dir::new();
    let mut log = dir.log();
    let rule = Rotate { bytes: None, age: Some(Duration::from_millis(50)), keep: 3, compress: false };
    let spec = SinkSpec { rotate: Some(rule), ..file_sink(&dir, Format::Raw) };
    let f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
    for n in 1..=3 {
        log.out(T0, 1, "stdout", format!("line {n}\n").as_bytes());
        f.wake(log.commit());
        let path = dir.at("out");
        until("the line", || std::fs::read_to_string(&path).is_ok_and(|t| t == format!("line {n}\n")));
        std::thread::sleep(Duration::from_millis(60));
    }
    drop(f);
    let (all, files, packed) = rotated(&dir, 1000);
    assert_eq!((String::from_utf8(all).unwrap().as_str(), files, packed), ("line 1\nline 2\nline 3\n", 2, 0));
}

/// As [`killed_sinks_double_nothing`], with a rotation every few hundred lines.
fn killed_sinks_rotate_and_double_nothing() {
    let dir = Dir::new();
    let mut log = dir.log();
    let mut moved = 0;
    for kill in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--child", "rotate"])
            .arg(&dir.0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let before = std::fs::read_dir(&dir.0).unwrap().count();
        let t = Instant::now();
        while t.elapsed() < Duration::from_millis(10 + kill * 2) {
            log.lines(700);
            log.commit();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        moved += u32::from(std::fs::read_dir(&dir.0).unwrap().count() > before);
    }
    assert!(moved >= 5, "only {moved} children rotated before they were killed");
    let spec = SinkSpec { rotate: Some(SMALL), ..file_sink(&dir, Format::Text) };
    let mut f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
    assert_eq!(stop(&mut f, &log, 5000), Outcome::Delivered);
    let (all, files, packed) = rotated(&dir, 20 << 10);
    same(&all, &render_as(&dir, Format::Text));
    println!("{moved} of 25 killed sinks had rotated; {files} files, {packed} compressed");
}

/// A kill between write and cursor, with files moved away in between, at every place: a cursor of before, and
/// the files cut where the kill may have left them.
fn a_cut_rotation_is_completed() {
    let rule = Rotate { bytes: Some(400), age: None, keep: 100, compress: false };
    // All places near the ends of lines and files, and some between.
    for cut in (0..901).filter(|c| (c + 4) % 24 < 2 || (c + 4) % 24 == 23 || c % 13 == 0) {
        let dir = Dir::new();
        let mut log = dir.log();
        let spec = SinkSpec { rotate: Some(rule), ..file_sink(&dir, Format::Raw) };
        let run = |log: &Log<DirStorage>| {
            let mut f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
            assert_eq!(stop(&mut f, log, 2000), Outcome::Delivered);
        };
        let text: Vec<u8> =
            (0..40).flat_map(|i| format!("this is line {i:02} of this\n").into_bytes()).collect();
        log.out(T0, 1, "stdout", &text[..100]);
        log.commit();
        run(&log);
        log.out(T0, 1, "stdout", &text[100..]);
        log.commit();
        // By hand what a sink has done that dies `cut` bytes behind the cursor: files of 400 bytes at most,
        // 16 whole lines; and where one is full, before or after the next one was begun.
        let path = dir.at("j/sink-f.cursor");
        let saved = std::fs::read(&path).unwrap();
        let (seq, mut c) = saved.chunks(1024).filter_map(Cursor::decode).max_by_key(|x| x.0).unwrap();
        c.clean = false;
        std::fs::write(&path, [&c.encode(seq + 1)[..], &[0; 1024]].concat()).unwrap();
        let end = (100 + cut).min(text.len());
        let per_file = 400 / 24 * 24;
        let (mut at, mut n) = (100, 0);
        while at < end {
            let to = end.min((at / per_file + 1) * per_file);
            let mut f = OpenOptions::new().append(true).create(true).open(dir.at("out")).unwrap();
            std::io::Write::write_all(&mut f, &text[at..to]).unwrap();
            if to % per_file == 0 && (to < end || cut % 2 == 0) {
                n += 1;
                std::fs::rename(dir.at("out"), dir.at(&format!("out.20261121T0244{n:02}.000000000Z")))
                    .unwrap();
            }
            at = to;
        }
        run(&log);
        let (all, ..) = rotated(&dir, 400);
        assert!(all == text, "cut at {cut}: {}", String::from_utf8_lossy(&all));
    }
}

/// A kill between write and cursor, at every byte, made by hand: a cursor of before, and a file that was
/// written further.
fn a_cut_write_is_completed() {
    let dir = Dir::new();
    let mut log = dir.log();
    let run = |log: &Log<DirStorage>| {
        let mut f = Follower::start(&file_sink(&dir, Format::Raw), &dir.places(), quiet()).unwrap();
        assert_eq!(stop(&mut f, log, 2000), Outcome::Delivered);
    };
    log.lines(2);
    log.commit();
    run(&log);
    let cursor_path = dir.at("j/sink-f.cursor");
    let old = {
        // As a running sink leaves it: not clean.
        let (seq, mut c) = std::fs::read(&cursor_path)
            .unwrap()
            .chunks(1024)
            .filter_map(Cursor::decode)
            .max_by_key(|x| x.0)
            .unwrap();
        c.clean = false;
        c.encode(seq + 1)
    };
    let from = std::fs::metadata(dir.at("out")).unwrap().len() as usize;
    log.lines(3);
    log.commit();
    run(&log);
    let whole = std::fs::read(dir.at("out")).unwrap();
    for cut in from..=whole.len() {
        for foreign in [&b""[..], b"somebody else\n"] {
            let cut_file = [&whole[..cut], foreign].concat();
            std::fs::write(&cursor_path, [&old[..], &[0; 1024]].concat()).unwrap();
            // In place: it is to be the same file.
            let f = OpenOptions::new().write(true).open(dir.at("out")).unwrap();
            f.set_len(0).unwrap();
            f.write_all_at(&cut_file, 0).unwrap();
            run(&log);
            let got = std::fs::read(dir.at("out")).unwrap();
            if foreign.is_empty() {
                same(&got, &whole);
            } else {
                // Whole lines before theirs are not doubled, and all of ours is there.
                let ours = whole[from..cut].iter().rposition(|&b| b == b'\n').map_or(from, |n| from + n + 1);
                same(&got, &[&cut_file[..], &whole[ours..]].concat());
            }
        }
    }
}

fn a_blocked_reader_blocks_nobody() {
    let dir = Dir::new();
    let mut log = dir.log();
    let (path, mut reader) = dir.fifo("fifo");
    let spec = SinkSpec::new("stuck", Output::File(path), Format::Raw);
    let mut f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
    let mut other = Follower::start(&file_sink(&dir, Format::Raw), &dir.places(), quiet()).unwrap();
    let mut longest = Duration::ZERO;
    for _ in 0..40 {
        log.lines(500);
        let next = log.commit();
        let t = Instant::now();
        f.wake(next);
        other.wake(next);
        longest = longest.max(t.elapsed());
    }
    let n = log.0.next_record();
    until("the other sink", || other.status().next == n);
    until("the block", || f.status().blocked_ns.is_some_and(|ns| ns > 30_000_000));
    assert!(longest < Duration::from_millis(200), "wake took {longest:?}");
    // Seen from another process the same way.
    let all = SinkStatus::read_all(&dir.at("c")).unwrap();
    let (free, stuck) = (&all[0], &all[1]);
    assert_eq!((free.name.as_str(), free.next, free.blocked_ns), ("f", n, None));
    assert_eq!((stuck.name.as_str(), stuck.state, stuck.known), ("stuck", State::Following, n));
    assert!(stuck.blocked_ns.unwrap() > 30_000_000 && stuck.pending_bytes > 0, "{stuck:?}");
    // What the pipe holds: 16 pages, not all of them full.
    assert!((32 << 10..=64 << 10).contains(&stuck.bytes), "{stuck:?}");
    assert!(stuck.lag_ns(T0 + 60_000_000_000) > 50_000_000_000);
    let saved = Cursor::load(&dir.at("j"), "stuck").unwrap().unwrap();
    let lag = Lag::measure(&dir.at("j"), Some(&saved.position), saved.next).unwrap();
    assert_eq!((lag, lag.records), (f.lag(), n - stuck.next));
    let file: u64 = std::fs::read_dir(dir.at("j"))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name().to_str().unwrap().ends_with(".spj"))
        .map(|e| e.metadata().unwrap().len())
        .sum();
    assert!(lag.bytes > file / 2 && lag.bytes < file, "{lag:?} of {file}");
    assert_eq!(stop(&mut other, &log, 2000), Outcome::Delivered);
    // The reader comes back.
    f.stop_when(&log.0.position());
    let mut got = Vec::new();
    until("the rest", || {
        while read_some(&mut reader, &mut got) > 0 {}
        f.ended().is_some()
    });
    while read_some(&mut reader, &mut got) > 0 {}
    assert_eq!(f.wait(Some(Duration::from_secs(1))), Outcome::Delivered);
    let source = spillring::journal::DirSource::open(dir.at("j")).unwrap();
    let want = render(source, Raw::new(false));
    same(&got, &want);
    same(&std::fs::read(dir.at("out")).unwrap(), &want);
}

/// A stop that gives up says what is pending; the next sink goes on at the very byte.
fn giving_up_and_going_on() {
    for format in [Format::Raw, Format::Text] {
        let dir = Dir::new();
        let mut log = dir.log();
        let (path, mut reader) = dir.fifo("fifo");
        let spec = SinkSpec::new("slow", Output::File(path), format);
        let mut got = Vec::new();
        for round in 0..4 {
            log.lines(3000);
            log.commit();
            let mut f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
            f.stop_when(&log.0.position());
            // Some of it is read, slowly: as long as it moves nobody gives up.
            for _ in 0..round {
                std::thread::sleep(Duration::from_millis(30));
                read_some(&mut reader, &mut got);
            }
            let t = Instant::now();
            let outcome = f.wait(Some(Duration::from_millis(100)));
            let Outcome::Lagging(pending) = outcome else { panic!("{round}: {outcome:?}") };
            assert!(t.elapsed() > Duration::from_millis(90) && t.elapsed() < Duration::from_secs(1));
            let Lag { records, bytes } = pending.lag;
            assert!(records > 0 && bytes > 0);
            assert_eq!(
                pending.line("web"),
                format!(
                    "spillring: sink slow is {records} records ({bytes} bytes) behind: \
                     spillring cat web --from-sink slow"
                )
            );
            assert_eq!(f.status().state, State::Stopped);
            let c = Cursor::load(&dir.at("j"), "slow").unwrap().unwrap();
            assert_eq!(c.next + records, log.0.next_record());
        }
        let f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
        f.stop_when(&log.0.position());
        until("the rest", || {
            while read_some(&mut reader, &mut got) > 0 {}
            f.ended().is_some()
        });
        while read_some(&mut reader, &mut got) > 0 {}
        let want = render_as(&dir, format);
        same(&got, &want);
    }
}

fn a_reader_that_goes() {
    let dir = Dir::new();
    let mut log = dir.log();
    let (path, reader) = dir.fifo("fifo");
    let spec = SinkSpec::new("gone", Output::File(path.clone()), Format::Raw);
    let said = Said::default();
    let mut f = Follower::start(&spec, &dir.places(), said.reporter()).unwrap();
    log.lines(5000);
    f.wake(log.commit());
    until("the block", || f.status().blocked_ns.is_some());
    drop(reader);
    until("the end", || f.ended() == Some(State::Broken));
    log.lines(10);
    f.wake(log.commit());
    let Outcome::Broken(p) = stop(&mut f, &log, 2000) else { panic!() };
    assert!(p.lag.records > 10);
    assert_eq!(said.all().len(), 1, "{:?}", said.all());
    assert!(said.all()[0].contains("sink gone") && said.all()[0].contains("broken pipe"));
    // Nobody reads it: the error names it and what to do.
    let e = Follower::start(&spec, &dir.places(), quiet()).err().unwrap();
    assert!(e.message.contains("fifo") && e.message.contains("start its reader"), "{e}");
}

/// A full disk: reported once, and it goes on by itself.
fn full_disk() {
    let dir = Dir::new();
    let mount = dir.at("small");
    std::fs::create_dir(&mount).unwrap();
    let c = std::ffi::CString::new(mount.as_os_str().as_bytes()).unwrap();
    // SAFETY: valid strings.
    let r = unsafe {
        libc::mount(c"none".as_ptr(), c.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=512k".as_ptr().cast())
    };
    assert_eq!(r, 0, "mount: {}", std::io::Error::last_os_error());
    struct Unmount(std::ffi::CString);
    impl Drop for Unmount {
        fn drop(&mut self) {
            // SAFETY: a valid path.
            unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
        }
    }
    let _unmount = Unmount(c);
    std::fs::write(mount.join("ballast"), vec![0; 300 << 10]).unwrap();
    let mut log = dir.log();
    log.lines(5000);
    log.commit();
    let spec = SinkSpec::new("full", Output::File(mount.join("out")), Format::Raw);
    let said = Said::default();
    let mut f = Follower::start(&spec, &dir.places(), said.reporter()).unwrap();
    until("retries", || f.status().retries >= 2);
    assert!(f.status().blocked_ns.is_some());
    assert_eq!(said.all().len(), 1, "{:?}", said.all());
    assert!(said.all()[0].contains("small/out") && said.all()[0].contains("make room"), "{:?}", said.all());
    std::fs::remove_file(mount.join("ballast")).unwrap();
    assert_eq!(stop(&mut f, &log, 3000), Outcome::Delivered);
    assert_eq!(said.all().len(), 2, "{:?}", said.all());
    let source = spillring::journal::DirSource::open(dir.at("j")).unwrap();
    same(&std::fs::read(mount.join("out")).unwrap(), &render(source, Raw::new(false)));
}

/// Retention was faster than the sink: the number of missing records stands where they are missing.
fn overtaken_by_retention() {
    let dir = Dir::new();
    let options = Options { max_segment_bytes: 8192, retention_bytes: 65536, ..Options::default() };
    let mut log = Log::create(&dir.at("j"), options);
    let spec = file_sink(&dir, Format::Text);
    for i in 0..10 {
        log.log(T0 + i, 3, "app", format!("{i}").as_bytes());
    }
    log.commit();
    let mut f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
    assert_eq!(stop(&mut f, &log, 2000), Outcome::Delivered);
    for i in 10..3010 {
        log.log(T0 + i, 3, "app", format!("{i}").as_bytes());
        if i % 20 == 0 {
            log.commit();
        }
    }
    log.commit();
    let mut f = Follower::start(&spec, &dir.places(), quiet()).unwrap();
    assert_eq!(stop(&mut f, &log, 2000), Outcome::Delivered);
    let missed = f.status().missed;
    let text = std::fs::read_to_string(dir.at("out")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(missed > 500 && lines.len() as u64 == 3010 - missed + 1, "{missed} of {}", lines.len());
    assert!(lines[9].contains("said 9 "));
    let want = format!(
        " LOST  spillring[0:0] {missed} records (10 to {}) that retention deleted before they were read",
        9 + missed
    );
    assert!(lines[10].ends_with(&want), "{}", lines[10]);
    assert!(lines[11].contains(&format!("said {} ", 10 + missed)), "{}", lines[11]);
}

fn damage_is_said() {
    let dir = Dir::new();
    let mut log = dir.log();
    for i in 0..30 {
        log.log(T0 + i, 3, "app", format!("{i}").as_bytes());
        if i % 10 == 9 {
            log.commit();
        }
    }
    let name = std::fs::read_dir(dir.at("j")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&name).unwrap();
    let at = bytes.windows(2).rposition(|w| w == b"15").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&name, &bytes).unwrap();
    let mut f = Follower::start(&file_sink(&dir, Format::Text), &dir.places(), quiet()).unwrap();
    assert_eq!(stop(&mut f, &log, 2000), Outcome::Delivered);
    let text = std::fs::read_to_string(dir.at("out")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 21, "{text}");
    let segment = name.file_name().unwrap().to_str().unwrap();
    assert!(lines[10].contains("LOST  spillring[0:0] 10 records in "), "{}", lines[10]);
    assert!(lines[10].contains("damaged bytes at ") && lines[10].ends_with(segment), "{}", lines[10]);
    assert!(lines[11].contains("said 20"));
}

fn streams_apart() {
    let dir = Dir::new();
    let mut log = dir.log();
    let mut sinks = Vec::new();
    for (name, take) in [("a", Take::Stdout), ("b", Take::AllButStdout)] {
        let mut spec = SinkSpec::new(name, Output::File(dir.at(name)), Format::Raw);
        spec.take = take;
        sinks.push(Follower::start(&spec, &dir.places(), quiet()).unwrap());
    }
    log.out(T0, 1, "stdout", b"out");
    log.out(T0, 1, "stderr", b"err\n");
    log.log(T0, 3, "app", b"x");
    log.commit();
    for f in &mut sinks {
        assert_eq!(stop(f, &log, 2000), Outcome::Delivered);
    }
    assert_eq!(std::fs::read(dir.at("a")).unwrap(), b"out");
    assert_eq!(std::fs::read(dir.at("b")).unwrap(), b"err\nsaid x\n");
}

/// Far behind, in a process of its own (without a drain to wake it), with bounded memory.
fn memory_is_bounded() {
    let dir = Dir::new();
    let mut log = dir.log();
    let chunk = vec![b'c'; 60_000];
    for i in 0..600 {
        log.out(T0, 1, "stdout", &chunk);
        if i % 8 == 0 {
            log.commit();
        }
    }
    let n = log.commit();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--child", "peak"])
        .arg(&dir.0)
        .arg(n.to_string())
        .output()
        .unwrap();
    let peak: u64 = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(std::fs::metadata(dir.at("out")).unwrap().len(), 600 * 60_000);
    assert!(peak < 12 << 10, "{peak} KiB resident");
    println!("36 MB behind: {peak} KiB resident at most");
}

fn bad_names_and_files() {
    let dir = Dir::new();
    let _log = dir.log();
    for name in ["", ".x", "a/b", "a b", &"n".repeat(65)] {
        let spec = SinkSpec::new(name, Output::File(dir.at("out")), Format::Raw);
        let e = Follower::start(&spec, &dir.places(), quiet()).err().unwrap();
        assert!(e.message.contains("no name for a sink"), "{e}");
    }
    let spec = SinkSpec::new("x", Output::File(dir.at("no/such")), Format::Raw);
    let e = Follower::start(&spec, &dir.places(), quiet()).err().unwrap();
    assert!(e.message.contains("no/such"), "{e}");
    std::fs::write(dir.at("j/sink-f.cursor"), b"rubbish").unwrap();
    let e = Follower::start(&file_sink(&dir, Format::Raw), &dir.places(), quiet()).err().unwrap();
    assert!(e.message.contains("sink-f.cursor") && e.message.contains("remove it"), "{e}");
    assert!(Cursor::remove(&dir.at("j"), "f").unwrap() && !Cursor::remove(&dir.at("j"), "f").unwrap());
    // A status file cut short or foreign is passed over.
    std::fs::write(dir.at("c/sink-short.stat"), b"x").unwrap();
    assert_eq!(SinkStatus::read_all(&dir.at("c")).unwrap(), []);
    let e = SinkStatus::read_all(&dir.at("none")).err().unwrap();
    assert_eq!(e.code, spillring::Code::NoChannel);
}

/// The sink as a process.
fn child(args: &[String]) -> ExitCode {
    let dir = PathBuf::from(&args[1]);
    let format = match args[0].as_str() {
        "text" => Format::Text,
        "json" => Format::Json,
        _ => Format::Raw,
    };
    let mut spec = SinkSpec::new("f", Output::File(dir.join("out")), format);
    if args[0] == "rotate" {
        (spec.rotate, spec.format) = (Some(SMALL), Format::Text);
    }
    let places = Places { journal: dir.join("j"), channel: Some(dir.join("c")) };
    let f = Follower::start(&spec, &places, Arc::new(|s| eprintln!("{s}"))).unwrap();
    if args[0] != "peak" {
        // Until it is killed.
        loop {
            std::thread::park();
        }
    }
    let n: u64 = args[2].parse().unwrap();
    until("everything", || f.status().next == n);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    println!("{}", peak.trim().trim_end_matches(" kB"));
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args().collect();
    if argv.get(1).is_some_and(|a| a == "--child") {
        return child(&argv[2..]);
    }
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let t = |name: &str, f: fn()| {
        Trial::test(name.to_owned(), move || {
            f();
            Ok(())
        })
    };
    let full = if root { "full_disk" } else { "full_disk (needs root: mounts a small tmpfs)" };
    let tests = vec![
        t("golden_text", golden_text),
        t("golden_raw", golden_raw),
        t("one_place", one_place),
        t("one_place_goes_on", one_place_goes_on),
        t("parts_are_joined", parts_are_joined),
        t("long_lines", long_lines),
        t("many_unfinished_lines", many_unfinished_lines),
        t("golden_cursor", golden_cursor),
        t("stop_and_go_on", stop_and_go_on),
        t("unfinished_line_over_a_stop", unfinished_line_over_a_stop),
        t("a_prompt_is_shown_after_a_second", a_prompt_is_shown_after_a_second),
        t("killed_sinks_double_nothing", killed_sinks_double_nothing),
        t("a_cut_write_is_completed", a_cut_write_is_completed),
        t("files_are_moved_away_and_compressed", files_are_moved_away_and_compressed),
        t("an_old_file_is_moved_away_with_the_next_line", an_old_file_is_moved_away_with_the_next_line),
        t("killed_sinks_rotate_and_double_nothing", killed_sinks_rotate_and_double_nothing),
        t("a_cut_rotation_is_completed", a_cut_rotation_is_completed),
        t("a_blocked_reader_blocks_nobody", a_blocked_reader_blocks_nobody),
        t("giving_up_and_going_on", giving_up_and_going_on),
        t("a_reader_that_goes", a_reader_that_goes),
        t(full, full_disk).with_ignored_flag(!root),
        t("overtaken_by_retention", overtaken_by_retention),
        t("damage_is_said", damage_is_said),
        t("streams_apart", streams_apart),
        t("memory_is_bounded", memory_is_bounded),
        t("bad_names_and_files", bad_names_and_files),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
