//! Memory and files that run out, are cut short or lie: what a writer counts, and what a drain refuses
//! without harm to the others.
#![allow(unsafe_code)] // limits, mounts, control groups, and files that a stranger wrote

mod common;
mod hazard_kit;

use common::{Scratch, fork_and, settings};
use hazard_kit::*;
use spillring::drain::{DrainConfig, Embedded};
use spillring::env::Settings;
use spillring::info;
use spillring::sync::Ordering::SeqCst;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn main() {
    run(vec![
        ("file_size_limit_counts_what_the_spill_may_not_hold", None, fsize_spill),
        ("file_size_limit_smaller_than_a_ring", None, fsize_attach),
        ("file_size_limit_and_the_journal_of_an_embedded_drain", None, fsize_journal),
        ("no_room_to_attach", needs_root(), full_at_attach),
        ("no_room_for_lanes_loses_nothing", needs_root(), full_at_claim),
        ("no_room_for_the_spill_is_counted", needs_root(), full_at_spill),
        ("mlockall_takes_what_the_spill_holds", needs_root(), locked),
        ("an_address_space_limit_leaves_the_program_its_own", None, few_addresses),
        ("the_quota_is_the_channels_and_shared", None, quota_of_a_channel),
        ("memory_control_group_at_its_limit_kills_nobody", needs_cgroup(), cgroup_full),
        ("ring_cut_short_under_a_running_drain", None, cut_short),
        ("hostile_rings_are_refused_and_harm_nobody", None, hostile_rings),
        ("hostile_spills_harm_nobody", None, hostile_spills),
        ("twenty_processes_of_four_threads_in_64_mb", needs_root(), twenty_processes),
    ])
}

fn limit(resource: libc::__rlimit_resource_t, to: u64) {
    let r = libc::rlimit { rlim_cur: to, rlim_max: to };
    assert_eq!(unsafe { libc::setrlimit(resource, &r) }, 0);
}

// ---- the file size limit

fn fsize_spill() {
    const N: u64 = 4000;
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let child = fork_and(|| {
        unsafe { libc::alarm(50) };
        limit(libc::RLIMIT_FSIZE, 300 << 10);
        std::mem::forget(spillring::init_with(&s).unwrap());
        std::thread::scope(|scope| {
            for t in 0..4u64 {
                scope.spawn(move || {
                    for i in 0..N {
                        info!("t{} {} {}", t, i, "forty bytes of text, so that it is full soon");
                    }
                });
            }
        });
        let st = spillring::writer::status();
        out[0].store(st.lost, SeqCst);
        out[1].store(st.spilled, SeqCst);
    });
    let j = drained_after(&s, child);
    // SIGXFSZ would be its status.
    assert_eq!((j.status, j.left), (0, (0, 0)), "{:?}", j.notices);
    let (lost, spilled) = (out[0].load(SeqCst), out[1].load(SeqCst));
    assert!(lost > 1000 && spilled > 500, "{lost} {spilled}");
    assert_eq!((j.totals.lost, j.totals.records + lost), (lost, 4 * N));
}

fn fsize_attach() {
    // Down to a limit that no ring fits in: an error with a remedy, then calls that are counted.
    let (mut fits, mut refused) = (0, 0);
    for kib in [4096, 1024, 600, 400, 300, 200, 100, 16, 0] {
        let dir = Scratch::new();
        let s = settings(&dir);
        // `ctl` is there already; it is not the subject.
        drop(drain_of(&s));
        let out = shared_words();
        let child = fork_and(|| {
            limit(libc::RLIMIT_FSIZE, kib << 10);
            match spillring::init_with(&s) {
                Ok(g) => {
                    std::mem::forget(g);
                    out[0].store(1, SeqCst);
                }
                Err(e) => assert!(e.to_string().len() > 20, "{e}"),
            }
            for i in 0..100 {
                info!("p {}", i);
            }
            let st = spillring::writer::status();
            assert_eq!(st.unattached, 100 * (1 - out[0].load(SeqCst)));
        });
        let j = drained_after(&s, child);
        let _ = j.clean();
        assert_eq!(j.totals.records, 100 * out[0].load(SeqCst), "{kib} KiB");
        fits += out[0].load(SeqCst);
        refused += 1 - out[0].load(SeqCst);
    }
    eprintln!("{fits} limits fit a ring, {refused} do not");
    assert!(fits >= 3 && refused >= 2);
}

fn fsize_journal() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = fork_and(|| {
        unsafe { libc::alarm(50) };
        limit(libc::RLIMIT_FSIZE, 500 << 10);
        std::mem::forget(spillring::init_with(&s).unwrap());
        let d = Embedded::start(DrainConfig::new(&s, s.channel_dir()).0, |l: &str| eprintln!("{l}")).unwrap();
        for i in 0..20_000 {
            info!("p {} {}", i, "some more text in each, so that segments are full");
            if i % 50 == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let _ = d.stop();
    });
    let j = drained_after(&s, child);
    assert_eq!((j.status, j.left), (0, (0, 0)), "{:?}", j.notices);
    assert_eq!(j.totals.lost, 0);
    assert_eq!(counts(&j.texts), [("p".to_string(), 20_000)].into());
}

// ---- no room

fn fill(dir: &Path, leave: u64) {
    let path = dir.join("filler");
    let mut f = fs::File::create(&path).unwrap();
    while std::io::Write::write(&mut f, &[1; 65536]).is_ok_and(|n| n > 0) {}
    let len = f.metadata().unwrap().len();
    f.set_len(len.saturating_sub(leave)).unwrap();
}

/// Journals are elsewhere: it is the shared memory that is full.
fn with_journal_apart(mut s: Settings) -> (Settings, tempfile::TempDir) {
    let t = tempfile::tempdir().unwrap();
    s.journal_dir = Some(t.path().to_path_buf());
    s.dir = s.dir.join("mnt");
    (s, t)
}

fn full_at_attach() {
    let dir = Scratch::new();
    let (s, _t) = with_journal_apart(settings(&dir));
    let st = with_tmpfs(&s, "4m", || {
        drop(drain_of(&s));
        for leave in [0, 64 << 10, 128 << 10, 200 << 10] {
            fill(&s.dir, leave);
            let before = fs::read_dir(s.channel_dir()).unwrap().count();
            let c = fork_and(|| {
                let e = spillring::init_with(&s).unwrap_err();
                assert_eq!(e.code, spillring::Code::NoSpace, "{e}");
                for i in 0..10 {
                    info!("p {}", i);
                }
                let st = spillring::writer::status();
                assert_eq!((st.unattached, st.attach_errno), (10, libc::ENOSPC));
                // It is tried again when there is room.
                fs::remove_file(s.dir.join("filler")).unwrap();
                std::mem::forget(spillring::init_with(&s).unwrap());
                info!("p {}", leave);
            });
            assert_eq!(c.wait(), 0, "{leave}");
            assert_eq!(fs::read_dir(s.channel_dir()).unwrap().count(), before + 3);
            let j = finished(&s, drain_of(&s), 0, Vec::new());
            assert_eq!((j.totals.records, j.left), (1, (0, 0)));
        }
    });
    assert_eq!(st, 0);
}

fn full_at_claim() {
    let dir = Scratch::new();
    let (mut s, _t) = with_journal_apart(settings(&dir));
    s.spill_quota = Some(1 << 30);
    let st = with_tmpfs(&s, "8m", || {
        drop(drain_of(&s));
        let child = producer(&s, || {
            // Room for a small lane or two, not for twelve.
            fill(&s.dir, 200 << 10);
            let go = std::sync::Barrier::new(12);
            std::thread::scope(|scope| {
                for t in 0..12u64 {
                    let go = &go;
                    scope.spawn(move || {
                        for i in 0..20 {
                            info!("t{} {}", t, i);
                        }
                        go.wait();
                    });
                }
            });
            assert_eq!(spillring::writer::status().lost, 0);
        });
        let j = drained(&s, child);
        let c = counts(&j.clean().texts);
        assert!(c.len() == 12 && c.values().all(|n| *n == 20), "{c:?}");
    });
    assert_eq!(st, 0);
}

fn full_at_spill() {
    let dir = Scratch::new();
    let (mut s, _t) = with_journal_apart(small(&dir));
    s.spill_quota = Some(1 << 30);
    let out = shared_words();
    let st = with_tmpfs(&s, "4m", || {
        let child = producer(&s, || {
            info!("p {}", 0);
            fill(&s.dir, 100 << 10);
            for i in 1..20_000 {
                info!("p {}", i);
            }
            let st = spillring::writer::status();
            out[0].store(st.lost, SeqCst);
            out[1].store(st.spilled, SeqCst);
        });
        let j = drained_after(&s, child);
        assert_eq!((j.status, j.left), (0, (0, 0)), "{:?}", j.notices);
        let (lost, spilled) = (out[0].load(SeqCst), out[1].load(SeqCst));
        assert!(lost > 1000 && spilled > 100, "{lost} {spilled}");
        assert_eq!((j.totals.lost, j.totals.records + lost), (lost, 20_000));
    });
    assert_eq!(st, 0);
}

/// A program that locks all its memory, before and after it attaches: the spill's file stays as sparse as it is.
fn locked() {
    use std::os::unix::fs::MetadataExt;
    let dir = Scratch::new();
    let s = small(&dir);
    for first in [true, false] {
        let child = fork_and(|| {
            unsafe { libc::alarm(50) };
            let lock = || unsafe {
                let all = libc::MCL_CURRENT | libc::MCL_FUTURE;
                assert_eq!(libc::mlockall(all), 0, "{}", std::io::Error::last_os_error());
            };
            if first {
                lock();
            }
            std::mem::forget(spillring::init_with(&s).unwrap());
            (0..3000).for_each(|i| info!("p {}", i));
            lock();
            (0..3000).for_each(|i| info!("q {}", i));
            assert_eq!(spillring::writer::status().lost, 0);
            let all = fs::read_dir(s.channel_dir()).unwrap().map(|e| e.unwrap());
            let mut spills = all.filter(|e| e.file_name().to_string_lossy().ends_with(".spill"));
            let st = spills.next().unwrap().metadata().unwrap();
            assert!(st.len() > 1 << 30 && st.blocks() * 512 < 4 << 20, "{} {}", st.len(), st.blocks());
        });
        let j = drained_after(&s, child);
        assert_eq!(counts(&j.clean().texts), [("p".into(), 3000), ("q".into(), 3000)].into());
        let _ = fs::remove_dir_all(s.journal_dir.as_ref().unwrap());
    }
}

fn few_addresses() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = fork_and(|| {
        unsafe { libc::alarm(50) };
        limit(libc::RLIMIT_AS, 1 << 30);
        std::mem::forget(spillring::init_with(&s).unwrap());
        (0..3000).for_each(|i| info!("p {}", i));
        assert_eq!(spillring::writer::status().lost, 0);
        drop(vec![1u8; 700 << 20]);
    });
    let j = drained_after(&s, child);
    assert_eq!(counts(&j.clean().texts), [("p".into(), 3000)].into());
}

// ---- a memory cgroup

fn cgroup_full() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let d = cgroup();
    fs::create_dir(&d).unwrap();
    fs::write(d.join("memory.limit_in_bytes"), "24M").unwrap();
    let child = fork_and(|| {
        unsafe { libc::alarm(50) };
        fs::write(d.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        std::mem::forget(spillring::init_with(&s).unwrap());
        // 60 MB of records.
        let text = "x".repeat(1000);
        for i in 0..60_000 {
            info!("p {} {}", i, text);
        }
        out[0].store(spillring::writer::status().lost, SeqCst);
        out[1].store(spillring::writer::status().spilled, SeqCst);
    });
    let st = child.wait();
    let j = finished(&s, drain_of(&s), st, Vec::new());
    soon("the group to be empty", || fs::remove_dir(&d).is_ok());
    assert_eq!(j.status, 0, "killed at the limit");
    let (lost, spilled) = (out[0].load(SeqCst), out[1].load(SeqCst));
    eprintln!("{spilled} spilled, {lost} lost");
    assert!(lost > 1000 && spilled > 100);
    assert_eq!((j.totals.lost, j.totals.records + lost), (lost, 60_000));
}

// ---- files that lie

fn cut_short() {
    for len in [0, 100, 4096, 9000, 64 << 10] {
        let dir = Scratch::new();
        let s = small(&dir);
        let out = shared_words();
        let victim = producer(&s, || {
            for i in 0..10 {
                info!("v {}", i);
            }
            out[0].store(1, SeqCst);
            loop {
                unsafe { libc::pause() };
            }
        });
        soon("the victim", || out[0].load(SeqCst) == 1);
        let ring = rings(&s).pop().unwrap();
        let mut d = drain_of(&s);
        d.pass(true).unwrap();
        let healthy = producer(&s, || {
            for i in 0..5000 {
                info!("h {}", i);
            }
        });
        fs::OpenOptions::new().write(true).open(&ring).unwrap().set_len(len).unwrap();
        let mut notices = Vec::new();
        while healthy.running() {
            d.pass(false).unwrap();
            notices.extend(d.take_notices());
        }
        assert_eq!(healthy.wait(), 0);
        d.finish(&mut |l: &str| notices.push(l.into())).unwrap();
        // Behind the words that every pass reads nothing is missed of a producer that is quiet.
        let named = |n: &String| n.contains(ring.file_stem().unwrap().to_str().unwrap());
        assert!(len >= 9000 || notices.iter().any(named), "{len}: {notices:?}");
        let texts: Vec<String> = journal(&s).into_iter().map(|(_, t)| t).collect();
        let c = counts(&texts);
        assert_eq!((c["h"], c["v"]), (5000, 10), "{len}");
        kill(victim.pid(), libc::SIGKILL);
        victim.wait();
    }
}

fn rings(s: &Settings) -> Vec<PathBuf> {
    fs::read_dir(s.channel_dir())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "ring"))
        .collect()
}

/// A dead producer's files, as bytes: lanes, shared lane and spill all hold something.
fn specimen(s: &Settings) -> (String, Vec<(String, Vec<u8>)>) {
    let child = fork_and(|| {
        unsafe { libc::alarm(50) };
        // A spill of 256 KiB, a file that can be read and written as a whole.
        limit(libc::RLIMIT_FSIZE, 400 << 10);
        std::mem::forget(spillring::init_with(s).unwrap());
        for i in 0..3000 {
            info!("v {} {}", i, "text");
        }
        std::thread::spawn(|| (0..50).for_each(|i| info!("w {}", i))).join().unwrap();
    });
    assert_eq!(child.wait(), 0);
    let ring = rings(s).pop().unwrap();
    let stem = ring.file_stem().unwrap().to_str().unwrap().to_string();
    let files = ["ack", "spill", "ring"].map(|x| {
        let p = ring.with_extension(x);
        let bytes = fs::read(&p).unwrap();
        fs::remove_file(&p).unwrap();
        (x.to_string(), bytes)
    });
    (stem, files.into())
}

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn word(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => self.below(64),
            3 => self.below(1 << 16) * 8,
            4 => 1 << self.below(64),
            5 => u64::MAX - self.below(4096),
            6 => self.next() >> 32,
            _ => self.next(),
        }
    }
}

/// The ring, wholly or in part, is what a hostile process would write into its own, before the drain
/// looks and while it polls.
fn hostile_rings() {
    hostile(2000, |r, files, live| {
        let ring = &mut files[2].1;
        let len = ring.len() as u64;
        for _ in 0..1 + r.below(12) {
            let (at, w) = match r.below(10) {
                // Mostly the words that the protocol runs on: the header's rest, process words, lanes,
                // slots, commit words.
                0 if !live => (96 + r.below(7) * 8, r.word()),
                0..=2 => (4096 + r.below(12) * 128, r.word()),
                3..=5 => (8192 + r.below(4) * 128 + r.below(8) * 8, r.word()),
                6 => (12288 + r.below(32768), r.word()),
                _ => (r.below(len - 4104) + 4096, r.word()),
            };
            let at = (at & !7) as usize;
            if at + 8 <= ring.len() {
                ring[at..at + 8].copy_from_slice(&w.to_le_bytes());
            }
        }
    });
}

fn hostile_spills() {
    hostile(800, |r, files, _| {
        let spill = &mut files[1].1;
        match r.below(4) {
            0 => spill.truncate((4096 + r.below(spill.len() as u64 - 4096)) as usize),
            1 => {
                let at = 4096 + r.below(spill.len() as u64 - 4096) as usize;
                let n = r.below(9000) as usize;
                spill.splice(at..at, std::iter::repeat_n(0, n));
            }
            _ => {
                for _ in 0..1 + r.below(20) {
                    let at = (4096 + r.below(spill.len() as u64 - 4104)) as usize;
                    spill[at..at + 8].copy_from_slice(&r.word().to_le_bytes());
                }
            }
        }
    });
}

type Files = Vec<(String, Vec<u8>)>;

fn hostile(rounds: u64, mutate: fn(&mut Random, &mut Files, bool)) {
    let dir = Scratch::new();
    let mut s = small(&dir);
    s.lanes = 4;
    let (stem, files) = specimen(&s);
    let out = shared_words();
    let seed = spillring::sys::process::nonce();
    // One process drains all of them, one after another, beside a healthy producer.
    let child = fork_and(|| {
        unsafe { libc::alarm(45) };
        let mut r = Random(seed);
        let mut d = drain_of(&s);
        for round in 0..rounds {
            out[0].store(round, SeqCst);
            let live = round % 2 == 1;
            let mut bad = files.clone();
            // A nonce of its own, so that the drain takes it for a new one.
            let nonce = r.next() | 1;
            let pid = stem.split_once('-').unwrap().0;
            let stem = format!("{pid}-{nonce:016x}");
            for (_, b) in &mut bad {
                b[24..32].copy_from_slice(&nonce.to_le_bytes());
            }
            let whole = bad.clone();
            mutate(&mut r, &mut bad, live);
            // The ring last: with it the three are there.
            let path = |x: &str| s.channel_dir().join(format!("{stem}.{x}"));
            for (x, b) in if live { &whole } else { &bad } {
                fs::write(path(x), b).unwrap();
            }
            // Held for writing, its owner lives.
            let owner = fs::OpenOptions::new().write(true).open(path("ring")).unwrap();
            if live {
                d.pass(true).unwrap();
                owner.write_all_at(&bad[2].1, 0).unwrap();
                if bad[1].1 != whole[1].1 {
                    fs::write(path("spill"), &bad[1].1).unwrap();
                }
                d.pass(true).unwrap();
            }
            drop(owner);
            for _ in 0..4 {
                d.pass(true).unwrap();
            }
            let _ = d.take_notices();
            for (x, _) in &bad {
                let _ = fs::remove_file(path(x));
            }
        }
        drop(d);
    });
    let healthy = producer(&s, || {
        for i in 0..2000 {
            info!("healthy {}", i);
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let status = child.wait();
    assert_eq!(status, 0, "seed {seed}, round {}", out[0].load(SeqCst));
    assert_eq!(healthy.wait(), 0);
    let j = finished(&s, drain_of(&s), 0, Vec::new());
    let c: u64 = j.texts.iter().filter(|t| t.starts_with("healthy ")).count() as u64;
    assert_eq!(c, 2000, "{:?}", j.notices);
}

// ---- many in little

/// No drain runs: six processes flood the channel, then one comes that is late.
fn quota_of_a_channel() {
    use std::os::unix::fs::MetadataExt;
    const QUOTA: u64 = 4 << 20;
    const EACH: u64 = 30_000;
    let dir = Scratch::new();
    let mut s = small(&dir);
    s.spill_quota = Some(QUOTA);
    let out = shared_words();
    let flood = |p: u64, tell: usize| {
        producer(&s, move || {
            for i in 0..EACH {
                info!("p{} {} {}", p, i, "a hundred bytes of text, a hundred bytes of text, a hundred bytes");
            }
            let st = spillring::writer::status();
            out[0].fetch_add(st.lost, SeqCst);
            out[tell].store(st.spilled, SeqCst);
        })
    };
    let taken = || {
        let all = fs::read_dir(s.channel_dir()).unwrap().map(|e| e.unwrap());
        let spills = all.filter(|e| e.file_name().to_string_lossy().ends_with(".spill"));
        spills.map(|e| e.metadata().unwrap().blocks() * 512).sum::<u64>()
    };
    let alone = flood(0, 1);
    assert_eq!(alone.wait(), 0);
    let one = taken();
    let others: Vec<_> = (1..6).map(|p| flood(p, 1 + p as usize)).collect();
    others.into_iter().for_each(|c| assert_eq!(c.wait(), 0));
    let six = taken();
    assert_eq!(flood(6, 7).wait(), 0);
    let seven = taken();
    let spilled: Vec<u64> = (1..8).map(|i| out[i].load(SeqCst)).collect();
    eprintln!("quota {QUOTA}: one takes {one}, six {six}, seven {seven}; spilled {spilled:?}");
    // It grows by pages, of words and of granules.
    assert!((QUOTA / 4 * 3 - 16384..=QUOTA / 4 * 3).contains(&one), "{one}");
    // Those that flood at a time do not see each other's last growth.
    let slack = 256 << 10;
    assert!(six <= QUOTA + 5 * slack && seven <= QUOTA + 6 * slack, "{six} {seven}");
    // Whoever is late has a sixteenth each, so at least four of them have something.
    assert!(spilled[1..6].iter().filter(|n| **n > 100).count() >= 4, "{spilled:?}");
    let j = finished(&s, drain_of(&s), 0, Vec::new());
    assert_eq!(j.left, (0, 0), "{:?}", j.notices);
    let lost = out[0].load(SeqCst);
    assert!(lost > EACH);
    assert_eq!((j.totals.lost, j.totals.records + lost), (lost, 7 * EACH));
}

fn twenty_processes() {
    const EACH: u64 = 400;
    let dir = Scratch::new();
    let (s, _t) = with_journal_apart(settings(&dir));
    let st = with_tmpfs(&s, "64m", || {
        let mut d = drain_of(&s);
        let out = shared_words();
        let children: Vec<_> = (0..20u64)
            .map(|p| {
                producer(&s, || {
                    std::thread::scope(|scope| {
                        for t in 0..4u64 {
                            scope.spawn(move || {
                                info!("p{}-{} {}", p, t, 0);
                                out[0].fetch_add(1, SeqCst);
                                // All at a time.
                                while out[0].load(SeqCst) < 80 {
                                    std::thread::sleep(Duration::from_millis(1));
                                }
                                for i in 1..EACH {
                                    info!("p{}-{} {}", p, t, i);
                                }
                            });
                        }
                    });
                    assert_eq!(spillring::writer::status().lost, 0);
                })
            })
            .collect();
        while children.iter().any(|c| c.running()) {
            d.pass(false).unwrap();
        }
        for c in children {
            assert_eq!(c.wait(), 0);
        }
        let j = finished(&s, d, 0, Vec::new());
        let c = counts(&j.clean().texts);
        assert!(c.len() == 80 && c.values().all(|n| *n == EACH), "{c:?}");
    });
    assert_eq!(st, 0);
}
