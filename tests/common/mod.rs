//! What several tests need: a directory in shared memory, and a reader of a channel's rings.
#![allow(dead_code, unsafe_code)]

use spillring::channel::Channel;
use spillring::record::{CompiledFormat, SiteFacts};
use spillring::snapshot::{Item, LaneAt, Limits, Ranges, RingRead, Snapshot};
use std::path::{Path, PathBuf};

/// A directory in /dev/shm that goes away with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        let d = tempfile::Builder::new().prefix("spillring-test-").tempdir_in("/dev/shm").unwrap();
        Scratch(d.keep())
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Seen {
    pub thread: u64,
    pub text: String,
}

/// Everything in the rings of a channel whose owners are dead.
pub fn read_all(channel: &Channel) -> Vec<Seen> {
    let mut all = Vec::new();
    for stem in channel.producers().unwrap() {
        let view = channel.open_ring(stem).unwrap();
        let ring = spillring::ringview::View::new(view);
        let lanes = (0..ring.lanes()).map(|_| LaneAt::default()).collect();
        let mut snap = Snapshot::new(lanes, (0, Ranges::default()), (0, Ranges::default()));
        let limits = Limits { parse: 1 << 30, lane: 1 << 30 };
        let mut take = |i: Item<'_>| {
            if let Item::Record { thread, site, payload, .. } = i {
                let entry = if site == 0 { payload.to_vec() } else { ring.site(site).unwrap() };
                let (facts, n) = SiteFacts::decode(&entry).unwrap();
                let rest = if site == 0 { &payload[n..] } else { payload };
                let mut text = Vec::new();
                CompiledFormat::new(facts.fmt, facts.types).render(rest, &mut text).unwrap();
                all.push(Seen { thread, text: String::from_utf8(text).unwrap() });
            }
        };
        snap.pass(&ring, limits, true, &mut take).unwrap();
        assert!(snap.drained(&ring));
    }
    all
}

/// Default settings in a directory of the test's own, journal included.
pub fn settings(dir: &Scratch) -> spillring::env::Settings {
    let mut s = spillring::env::Settings::from(|_| None, 0).0;
    s.dir = dir.path().to_path_buf();
    s.channel = "t".into();
    s.journal_dir = Some(dir.path().join("journals"));
    s
}

/// A forked child.
pub struct Child(i32);

impl Child {
    /// Its wait status.
    pub fn wait(self) -> i32 {
        let mut st = 0;
        // SAFETY: waits for a child of this process.
        unsafe { libc::waitpid(self.0, &mut st, 0) };
        st
    }
    pub fn pid(&self) -> i32 {
        self.0
    }
    /// Whether it still runs; it stays to be waited for.
    pub fn running(&self) -> bool {
        // SAFETY: the siginfo is written by the call.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            libc::waitid(libc::P_PID, self.0 as u32, &mut info, flags);
            info.si_pid() == 0
        }
    }
}

/// Runs `f` in a forked child, which leaves with 0, or 1 when `f` panicked.
pub fn fork_and(f: impl FnOnce()) -> Child {
    // SAFETY: glibc keeps its allocator usable in the child of a threaded process; the child runs `f` and
    // leaves without returning into the test runner.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            libc::_exit(i32::from(r.is_err()));
        }
        Child(pid)
    }
}

/// The rendered records of the settings' journal.
#[cfg(feature = "drain")]
pub fn journal_texts(s: &spillring::env::Settings) -> Vec<String> {
    journal_records(s).into_iter().map(|r| r.text).collect()
}

/// One record of a journal, as readers see it.
#[cfg(feature = "drain")]
#[derive(Debug)]
pub struct Found {
    pub level: u8,
    pub target: String,
    pub file: String,
    pub line: u32,
    pub utc: i64,
    pub ticks: u64,
    pub text: String,
    /// ` key=value` each.
    pub fields: String,
    /// `name{ key=value}` each, outermost first.
    pub spans: Vec<String>,
    pub span_ids: Vec<u64>,
}

/// The logged records of the settings' journal, with fields and spans.
#[cfg(feature = "drain")]
pub fn journal_records(s: &spillring::env::Settings) -> Vec<Found> {
    use spillring::journal::{Item, Reader, kind};
    use spillring::record::{Fields, show_value};
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    let show = |fields: Fields<'_>| {
        let mut out = Vec::new();
        for f in fields {
            out.push(b' ');
            out.extend_from_slice(f.name);
            out.push(b'=');
            show_value(&f.value, &mut out);
        }
        String::from_utf8(out).unwrap()
    };
    let dir = s.journal_dir.as_ref().unwrap().join(&s.channel);
    let mut r = Reader::open(dir).unwrap();
    let mut all = Vec::new();
    while let Some(item) = r.next_batch().unwrap() {
        let Item::Batch(b) = item else { panic!("the journal has a gap") };
        for e in b.entries() {
            if e.kind != kind::LOG {
                continue;
            }
            let site = e.site.unwrap();
            let f = CompiledFormat::with_fields(&site.fmt, &site.types, &site.fields, site.style);
            let mut out = Vec::new();
            f.render(e.payload, &mut out).unwrap();
            let spans: Vec<_> = f.fields(e.payload).spans().collect();
            all.push(Found {
                level: site.level,
                target: text(&site.target),
                file: text(&site.file),
                line: site.line,
                utc: e.utc_ns,
                ticks: e.ticks,
                text: text(&out),
                fields: show(f.fields(e.payload)),
                span_ids: spans.iter().map(|s| s.id).collect(),
                spans: spans.into_iter().map(|s| format!("{}{{{}}}", text(s.name), show(s.fields))).collect(),
            });
        }
    }
    all
}
