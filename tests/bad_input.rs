//! What must not be: one row a case, with its exit status, its stable code, what the message names, and
//! whether a healthy producer beside it lost nothing.
#![cfg(feature = "cli")]

mod command_kit;

use command_kit::{BIN, Place};
use spillring::layout::ring::id;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Records of the healthy producer.
const HEALTHY: usize = 500;

impl Place {
    /// A program that logs through the library and ends; nobody drains meanwhile.
    fn program(&self, what: &str, vars: &[(&str, &str)]) -> Output {
        let mut c = Command::new(std::env::current_exe().unwrap());
        c.args(["--exact", "a_program_that_logs", "--nocapture"]);
        self.env(&mut c);
        let o = c.env("BAD_INPUT_PROGRAM", what).envs(vars.iter().copied()).output().unwrap();
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        o
    }
    /// A drain of the channel, which passes over everything that is there.
    fn drain(&self) -> Output {
        let mut c = self.command(&["drain", "x"]);
        let mut drain = Killed(Some(c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()));
        let pid = drain.0.as_ref().unwrap().id().to_string();
        let begun = Instant::now();
        while !String::from_utf8_lossy(&self.spillring(&["ls"]).stdout).contains(&pid) {
            assert!(begun.elapsed() < Duration::from_secs(20), "no drain");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        drain.0.take().unwrap().wait_with_output().unwrap()
    }
    fn ring(&self) -> PathBuf {
        let all = fs::read_dir(self.channel("x")).unwrap().map(|e| e.unwrap().path());
        all.into_iter().find(|p| p.extension().is_some_and(|e| e == "ring")).expect("a ring")
    }
    fn segment(&self) -> PathBuf {
        let mut all: Vec<_> = fs::read_dir(self.journal("x")).unwrap().map(|e| e.unwrap().path()).collect();
        all.retain(|p| p.extension().is_some_and(|e| e == "spj"));
        all.sort();
        all.pop().expect("a segment")
    }
    /// The healthy producer's records are all in the journal, once and in order.
    fn nothing_lost(&self) {
        let o = self.spillring(&["cat", "x"]);
        let text = String::from_utf8_lossy(&o.stdout);
        let got: Vec<usize> = text
            .lines()
            .filter_map(|l| l.split(" healthy ").nth(1)?.split(' ').next()?.parse().ok())
            .collect();
        assert!(got == (0..HEALTHY).collect::<Vec<_>>(), "{} of {HEALTHY}: {got:?}", got.len());
    }
}

struct Killed(Option<Child>);
impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(c) = &mut self.0 {
            let _ = c.kill();
            let _ = c.wait();
        }
    }
}

/// Not a test by itself: the program that [`Place::program`] starts.
#[test]
fn a_program_that_logs() {
    let Ok(what) = std::env::var("BAD_INPUT_PROGRAM") else { return };
    let _guard = spillring::init().unwrap();
    match what.split_once(' ') {
        Some(("text", len)) => spillring::info!("{}", "x".repeat(len.parse().unwrap()).as_str()),
        Some(("escape", _)) => spillring::info!("nul \0 esc \x1b[31m end {}", "\u{9b}1m\n"),
        _ => (0..HEALTHY).for_each(|i| spillring::info!("healthy {}", i)),
    }
}

/// The table's check: status, code and words of a message.
fn check(case: &str, o: &Output, status: i32, code: &str, words: &[&str]) {
    let e = String::from_utf8_lossy(&o.stderr);
    assert_eq!(o.status.code(), Some(status), "{case}: {e}");
    if code.is_empty() {
        assert_eq!(e, "", "{case}");
    } else {
        assert!(e.contains(&format!("[{code}]")), "{case}: {code} in {e}");
    }
    for w in words {
        assert!(e.contains(w), "{case}: {w:?} in {e}");
    }
}

#[test]
fn no_channel() {
    let p = Place::of_channel("x");
    let path = p.channel("x").display().to_string();
    for args in [&["stat", "x"][..], &["rm", "x"], &["inspect", "channel", "x"]] {
        check("no channel", &p.spillring(args), 4, "E02", &[&path, "start a drain"]);
    }
    for args in [&["cat", "x"][..], &["inspect", "journal", "x"]] {
        let journal = p.journal("x").display().to_string();
        check("no journal", &p.spillring(args), 4, "E02", &[&journal, "spillring ls"]);
    }
}

#[test]
fn no_permission() {
    let p = Place::of_channel("x");
    p.program("healthy", &[]);
    let path = p.channel("x").display().to_string();
    fs::set_permissions(p.channel("x"), fs::Permissions::from_mode(0o777)).unwrap();
    for args in [&["stat", "x"][..], &["drain", "x"]] {
        check("everybody may write", &p.spillring(args), 1, "E03", &[&path, "chmod o-w"]);
    }
    let o = p.spillring(&["run", "--channel", "x", "--strict", "--", "true"]);
    check("run --strict", &o, 125, "E03", &[&path, "not started"]);
    fs::set_permissions(p.channel("x"), fs::Permissions::from_mode(0o700)).unwrap();
    check("and then", &p.drain(), 0, "", &[]);
    p.nothing_lost();
}

#[test]
fn full_shared_memory() {
    let p = Place::of_channel("x");
    // A file system of its own, of 16 KiB.
    let dir = p.channels().with_file_name("small");
    fs::create_dir(&dir).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16k none {0} || exit 99; export SPILLRING_DIR={0}/c; \
         {BIN} run -- echo ran; {BIN} run --strict -- echo ran; exit $?",
        dir.display()
    );
    let mut c = Command::new("unshare");
    p.env(&mut c);
    let o = match c.args(["-m", "sh", "-c", &script]).output() {
        Ok(o) if o.status.code() != Some(99) && !String::from_utf8_lossy(&o.stderr).contains("unshare") => o,
        _ => {
            assert!(std::env::var_os("CI").is_none(), "no mount namespace can be made here");
            return println!("left out: no mount namespace can be made here");
        }
    };
    check("full", &o, 125, "E04", &[&dir.display().to_string(), "runs without", "not started", "free some"]);
    assert_eq!(o.stdout, b"ran\n");
}

#[test]
fn a_ring_that_cannot_be_read() {
    let patch = |path: &Path, at: u64, b: u8| {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[b], at).unwrap();
    };
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str, &'a [&'a str]);
    let cases: &[Damage] = &[
        (
            "cut short",
            &|r| fs::OpenOptions::new().write(true).open(r).unwrap().set_len(8192).unwrap(),
            "E05",
            &["cut short", "move it"],
        ),
        ("empty", &|r| fs::write(r, "").unwrap(), "E05", &["cut short", "move it"]),
        ("not a ring", &|r| patch(r, id::MAGIC, b'X'), "E05", &["magic", "move it"]),
        ("another version", &|r| patch(r, id::VERSION, 99), "E06", &["version 99", "another channel"]),
        ("another architecture", &|r| patch(r, id::ARCH, 77), "E07", &["77", "another channel"]),
    ];
    for (case, damage, code, words) in cases {
        let p = Place::of_channel("x");
        p.program("text 10", &[]);
        let ring = p.ring();
        damage(&ring);
        p.program("healthy", &[]);
        let name = ring.display().to_string();
        let words: Vec<&str> = words.iter().copied().chain([name.as_str()]).collect();
        check(case, &p.spillring(&["stat", "x"]), 1, code, &words);
        check(case, &p.spillring(&["ls"]), 1, code, &words);
        let o = p.spillring(&["inspect", "channel", "x"]);
        assert_eq!(o.status.code(), Some(6), "{case}");
        assert!(String::from_utf8_lossy(&o.stdout).contains(code), "{case}");
        check(case, &p.drain(), 0, code, &words);
        p.nothing_lost();
        check(case, &p.spillring(&["rm", "x"]), 5, code, &words);
        check(case, &p.spillring(&["rm", "--force", "x"]), 0, "", &[]);
        assert!(!p.channel("x").exists());
    }
}

#[test]
fn a_journal_with_a_torn_tail() {
    let p = Place::of_channel("x");
    p.program("healthy", &[]);
    check("healthy", &p.drain(), 0, "", &[]);
    let segment = p.segment();
    let sound = fs::read(&segment).unwrap();
    // A batch begun and not finished: half a copy of the first one.
    let torn = [&sound[..], &sound[64..64 + 100]].concat();
    fs::write(&segment, &torn).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    check(
        "torn tail",
        &p.spillring(&["cat", "x"]),
        6,
        "E10",
        &[name, "torn tail", "100 bytes", "next drain"],
    );
    p.nothing_lost();
    let o = p.spillring(&["inspect", "journal", "x"]);
    assert_eq!(o.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&o.stdout).contains("TORN: 100 bytes"));
    // The next drain goes on before it.
    assert_eq!(p.drain().status.code(), Some(0));
    check("mended", &p.spillring(&["cat", "x"]), 0, "", &[]);
    p.nothing_lost();
}

#[test]
fn a_journal_with_a_flipped_bit() {
    let p = Place::of_channel("x");
    p.program("text 5000", &[]);
    assert_eq!(p.drain().status.code(), Some(0));
    let segment = p.segment();
    let len = fs::metadata(&segment).unwrap().len();
    p.program("healthy", &[]);
    assert_eq!(p.drain().status.code(), Some(0));
    assert_eq!(segment, p.segment(), "one segment");
    // In the text of the first record.
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(8).position(|w| w == b"xxxxxxxx").unwrap();
    assert!((at as u64) < len);
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    check("flipped bit", &p.spillring(&["cat", "x"]), 6, "E10", &[name, "damaged", "1 records are missing"]);
    // What is behind the damaged batch is read.
    p.nothing_lost();
    let o = p.spillring(&["inspect", "journal", "x"]);
    assert_eq!(o.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&o.stdout).contains("DAMAGED"));
}

#[test]
fn a_second_drain() {
    let p = Place::of_channel("x");
    p.program("healthy", &[]);
    let first = Killed(Some(p.command(&["drain", "x"]).spawn().unwrap()));
    let pid = first.0.as_ref().unwrap().id().to_string();
    let begun = Instant::now();
    while !String::from_utf8_lossy(&p.spillring(&["ls"]).stdout).contains(&pid) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no drain");
    }
    let path = p.channel("x").display().to_string();
    check("second drain", &p.spillring(&["drain", "x"]), 5, "E08", &[&path, &pid, "stop that one"]);
    let o = p.spillring(&["run", "--channel", "x", "--strict", "--", "true"]);
    check("run --strict", &o, 125, "E08", &[&path, &pid]);
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut first = first;
    assert_eq!(first.0.take().unwrap().wait().unwrap().code(), Some(0));
    p.nothing_lost();
}

#[test]
fn an_unknown_level() {
    let p = Place::of_channel("x");
    let o = p.program("healthy", &[("SPILLRING_LEVEL", "loud")]);
    let e = String::from_utf8_lossy(&o.stderr);
    assert_eq!(e.matches("SPILLRING_LEVEL=\"loud\"").count(), 1, "{e}");
    assert!(e.contains("trace, debug, info, warn, error, off"), "{e}");
    check("drain", &p.drain(), 0, "", &[]);
    p.nothing_lost();
}

#[test]
fn a_record_larger_than_the_lane() {
    let p = Place::of_channel("x");
    p.program("text 60000", &[("SPILLRING_LANE", "4k")]);
    p.program("healthy", &[("SPILLRING_LANE", "4k")]);
    check("drain", &p.drain(), 0, "", &[]);
    let o = p.spillring(&["cat", "x"]);
    assert!(String::from_utf8_lossy(&o.stdout).contains(&"x".repeat(60000)));
    p.nothing_lost();
    check("stat", &p.spillring(&["stat", "x"]), 0, "", &[]);
}

#[test]
fn a_record_of_16_mib() {
    let p = Place::of_channel("x");
    // The record is the text, its length and a header: the largest that goes, and one that does not.
    p.program(&format!("text {}", (16 << 20) - 256), &[]);
    p.program(&format!("text {}", 16 << 20), &[]);
    p.program("healthy", &[]);
    check("drain", &p.drain(), 0, "", &[]);
    let o = p.spillring(&["cat", "x"]);
    let text = String::from_utf8_lossy(&o.stdout);
    let longest = text.lines().map(|l| l.matches('x').count()).max().unwrap();
    assert!(longest >= (16 << 20) - 256, "{longest}");
    assert_eq!(text.lines().filter(|l| l.contains("LOST")).count(), 1);
    p.nothing_lost();
    let o = p.spillring(&["stat", "--json", "x"]);
    let j: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!((&j["lost"], &j["pending"], &j["adds_up"]), (&1.into(), &0.into(), &true.into()), "{j}");
}

#[test]
fn bytes_that_act_on_a_terminal() {
    let p = Place::of_channel("x");
    p.program("escape 1", &[]);
    let o = p.spillring(&["run", "--channel", "x", "--", "printf", "a\\0b\\033[1m\\377c"]);
    assert_eq!(o.stdout, b"a\0b\x1b[1m\xffc");
    p.program("healthy", &[]);
    check("drain", &p.drain(), 0, "", &[]);
    let o = p.spillring(&["cat", "x"]);
    let text = String::from_utf8(o.stdout).expect("text is UTF-8 whatever was logged");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let line = |word: &str| text.lines().find(|l| l.contains(word)).map(str::to_string).unwrap_or_default();
    assert!(line("nul").contains("esc") && line("nul").contains("end"), "{text}");
    assert!(line("stdout").contains("\\xff") && line("stdout").contains("[1m"), "{text}");
    // Exact in raw.
    let o = p.spillring(&["cat", "--format", "raw", "x"]);
    assert_eq!(o.stdout, b"a\0b\x1b[1m\xffc");
    p.nothing_lost();
}

#[test]
fn filters_that_are_none() {
    let p = Place::of_channel("x");
    p.program("healthy", &[]);
    check("drain", &p.drain(), 0, "", &[]);
    // Arguments are checked before anything is opened; their messages are clap's, without a code of ours.
    let usage = |args: &[&str], words: &[&str]| {
        for command in ["cat", "tail"] {
            let all: Vec<&str> = [command, "x"].iter().chain(args).copied().collect();
            let o = p.spillring(&all);
            let e = String::from_utf8_lossy(&o.stderr);
            assert_eq!((o.status.code(), o.stdout.len()), (Some(2), 0), "{all:?}: {e}");
            words.iter().for_each(|w| assert!(e.contains(w), "{all:?}: {w:?} in {e}"));
        }
    };
    usage(&["--level", "loud"], &["'loud'", "--level", "trace, debug, info, warn, error"]);
    usage(&["--levle", "warn"], &["'--levle'", "'--level'"]);
    usage(&["--field", "=7"], &["'=7'", "KEY=VALUE"]);
    usage(&["--pid", "me"], &["'me'", "--pid"]);
    for bad in ["soon", "-5", "2026-13-01", "-5min ago", "25:00"] {
        usage(&["--since", bad], &[bad, "--since", "-5min", "2026-11-21T02:44:42Z"]);
    }
    usage(&["--until", "never"], &["never", "--until", "now"]);
    // The place in the expression is shown.
    usage(&["--grep", "ab(c"], &["--grep", "    ab(c\n      ^\n", "unclosed group"]);
    usage(&["--grep", "x{2,1}"], &["    x{2,1}\n     ^^^^^\n", "repetition"]);
    // A field that no record has.
    for command in ["cat", "tail"] {
        let o = p.spillring(&[command, "x", "--field", "usr=7"]);
        check("unknown field", &o, 1, "E11", &["\"usr\"", "no record has any"]);
    }
    let o = p.spillring(&["cat", "x", "x", "--from-sink", "stdout"]);
    check("a sink of two channels", &o, 1, "E11", &["--from-sink", "name one"]);
    p.nothing_lost();
}

#[test]
fn a_closed_stdout() {
    let p = Place::of_channel("x");
    p.program("healthy", &[]);
    check("drain", &p.drain(), 0, "", &[]);
    for args in ["cat x", "tail x", "stat x", "ls", "doctor", "man", "inspect layout"] {
        let mut c = Command::new("sh");
        p.env(&mut c);
        let o = c.args(["-c", &format!("exec {BIN} {args} >&-")]).output().unwrap();
        assert_eq!(o.status.code(), Some(1), "{args}");
        assert!(String::from_utf8_lossy(&o.stderr).contains("stdout is closed"), "{args}");
    }
    // A full one: said, and not a success.
    for args in ["cat x", "tail x", "stat x", "ls", "doctor", "man", "completions bash", "service"] {
        let mut c = Command::new("sh");
        p.env(&mut c);
        let o = c.args(["-c", &format!("exec {BIN} {args} >/dev/full")]).output().unwrap();
        check(args, &o, 1, "E04", &["writing to stdout"]);
    }
    p.nothing_lost();
}

#[test]
fn a_reader_that_goes_away() {
    let p = Place::of_channel("x");
    p.program("healthy", &[]);
    check("drain", &p.drain(), 0, "", &[]);
    // One that follows notices it although it has nothing to say.
    let mut c = p.command(&["tail", "-f", "-n", "1", "x"]);
    let mut tail = Killed(Some(c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()));
    let child = tail.0.as_mut().unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    drop(child.stdout.take());
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it follows for nobody");
        std::thread::sleep(Duration::from_millis(5));
    }
    let o = tail.0.take().unwrap().wait_with_output().unwrap();
    assert!(o.stderr.is_empty(), "{}", String::from_utf8_lossy(&o.stderr));
}

#[test]
fn a_journal_of_a_newer_version() {
    use spillring::layout::journal as j;
    let p = Place::of_channel("x");
    p.program("healthy", &[]);
    check("drain", &p.drain(), 0, "", &[]);
    let segment = p.segment();
    let sound = fs::read(&segment).unwrap();
    let mut newer = sound.clone();
    newer[j::SEG_VERSION as usize] = 9;
    newer[j::SEG_CRC as usize..][..4].fill(0);
    let crc = crc32c::crc32c(&newer[..j::SEG_HEADER as usize]);
    newer[j::SEG_CRC as usize..][..4].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, &newer).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    for args in [
        &["cat", "x"][..],
        &["tail", "x"],
        &["tail", "-f", "x"],
        &["cat", "x", "--since", "-1h"],
        &["drain", "x"],
    ] {
        check("newer version", &p.spillring(args), 1, "E06", &[name, "version 9"]);
    }
    assert!(fs::read(&segment).unwrap() == newer, "nobody touches what he does not understand");
    fs::write(&segment, &sound).unwrap();
    p.nothing_lost();
}
