//! The drain over real processes: delivery, death, restart, loss, flush.
#![cfg(feature = "drain")]
#![allow(unsafe_code)]

mod common;
use common::{Scratch, fork_and, journal_texts, settings};
use spillring::drain::{Drain, DrainConfig};
use spillring::env::Settings;
use spillring::journal::{Item, Journal, MemStorage, Reader};
use spillring::release::LaneCursor;
use std::time::{Duration, Instant};

fn drain_of(s: &Settings) -> Drain {
    Drain::open(DrainConfig::new(s, s.channel_dir()).0).unwrap()
}

fn finish(d: &mut Drain) {
    d.finish(&mut |l: &str| eprintln!("{l}")).unwrap();
}

#[test]
fn what_a_killed_process_logged_is_delivered_and_its_ring_goes() {
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = fork_and(|| {
        let _guard = spillring::init_with(&s).unwrap();
        for i in 0..5000u32 {
            spillring::info!("record {} of {}", i, "child");
        }
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    assert_eq!(child.wait(), libc::SIGKILL);
    let mut d = drain_of(&s);
    assert_eq!(d.producers(), (1, 1));
    finish(&mut d);
    assert_eq!(d.producers(), (0, 0));
    let texts = journal_texts(&s);
    assert_eq!(texts.len(), 5000);
    for (i, t) in texts.iter().enumerate() {
        assert_eq!(*t, format!("record {i} of child"));
    }
    assert!(std::fs::read_dir(s.channel_dir()).unwrap().all(|e| {
        let n = e.unwrap().file_name().into_string().unwrap();
        n == "ctl" || n == "drain.lock"
    }));
}

#[test]
fn small_lanes_spill_and_lose_nothing_while_a_drain_comes_and_goes() {
    let dir = Scratch::new();
    let mut s = settings(&dir);
    s.lane_bytes = 4096;
    const N: u32 = 50_000;
    let child = fork_and(|| {
        let _guard = spillring::init_with(&s).unwrap();
        std::thread::scope(|scope| {
            for t in 0..3u32 {
                scope.spawn(move || {
                    for i in 0..N {
                        spillring::info!("{} {} {}", t, i, "x".repeat((i % 50) as usize));
                    }
                });
            }
        });
        let st = spillring::writer::status();
        assert!(st.spilled > 1000 && st.lost == 0, "{st:?}");
    });
    let mut passes = 0;
    while child.running() {
        let mut d = drain_of(&s);
        for _ in 0..20 {
            d.pass(false).unwrap();
            passes += 1;
        }
    }
    assert_eq!(child.wait(), 0);
    let mut d = drain_of(&s);
    finish(&mut d);
    assert_eq!(d.producers(), (0, 0));
    let mut next = [0u32; 3];
    for t in journal_texts(&s) {
        let mut w = t.split(' ');
        let (th, i): (usize, u32) = (w.next().unwrap().parse().unwrap(), w.next().unwrap().parse().unwrap());
        assert_eq!(i, next[th], "thread {th} out of order");
        assert_eq!(w.next().unwrap().len(), (i % 50) as usize);
        next[th] += 1;
    }
    assert_eq!(next, [N; 3]);
    println!("{passes} passes while it ran");
}

/// Records wait in runs that a batch cuts anywhere: what it says of the lane is where its own records end.
#[test]
fn each_batch_says_where_it_was_cut() {
    const N: usize = 30_000;
    let text = |i: usize| "x".repeat(i * 37 % 120);
    let dir = Scratch::new();
    let mut s = settings(&dir);
    // Nothing is due before all of it waits: half of the lane stays empty, and its writer lives.
    s.lane_bytes = 8 << 20;
    s.grace = Duration::from_secs(600);
    let child = fork_and(|| {
        let _guard = spillring::init_with(&s).unwrap();
        for i in 0..N {
            spillring::info!("{}", text(i));
        }
        let st = spillring::writer::status();
        assert!(st.spilled == 0 && st.lost == 0, "{st:?}");
        std::thread::sleep(Duration::from_secs(60));
    });
    let (mut d, begun, mut read) = (drain_of(&s), Instant::now(), 0);
    while read < N as u64 {
        let p = d.pass(false).unwrap();
        read += p.read;
        assert!(p.written == 0 && begun.elapsed() < Duration::from_secs(30), "{p:?}");
    }
    assert_eq!(d.pass(true).unwrap().written, N as u64);
    let journal = DrainConfig::new(&s, s.channel_dir()).0.journal_dir;
    let mut ends = Vec::new();
    let mut r = Reader::open(&journal).unwrap();
    while let Some(item) = r.next_batch().unwrap() {
        let Item::Batch(b) = item else { panic!("{item:?}") };
        ends.push((b.position().segment.to_string(), b.header().end(), b.header().end_record()));
    }
    assert!(ends.len() > 2, "{ends:?}");
    for (segment, end, records) in ends {
        // As if the drain had been killed behind this batch.
        let all = std::fs::read(journal.join(&segment)).unwrap();
        let storage = MemStorage::new([(segment, all[..end as usize].to_vec())].into(), 1);
        let (_, recovered) = Journal::open(storage, Default::default(), 0).unwrap();
        let cursors = recovered.cursors.iter().filter(|(k, _)| k.part == 0 && k.nonce != 0);
        let at: Vec<_> = cursors.filter_map(|(_, v)| LaneCursor::decode(v)).collect();
        // The thread's note, and then each record: its header, the text's length, the text.
        let size = |i: usize| (24 + 4 + text(i).len() as u64).next_multiple_of(8);
        let position = 24 + 32 + (0..records as usize).map(size).sum::<u64>();
        assert_eq!((at.len(), at[0].count, at[0].position), (1, records, position));
    }
    // SAFETY: a child of ours.
    unsafe { libc::kill(child.pid(), libc::SIGKILL) };
    assert_eq!(child.wait(), libc::SIGKILL);
    finish(&mut d);
    assert_eq!(journal_texts(&s).len(), N);
}

#[test]
fn flush_and_embedded_drain() {
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = fork_and(|| {
        let _guard = spillring::init_with(&s).unwrap();
        let e = spillring::flush(std::time::Duration::from_millis(30));
        spillring::warn!("before the drain");
        let e2 = spillring::flush(std::time::Duration::from_millis(30)).unwrap_err();
        assert!(e2.to_string().contains("1 records are not in the journal"), "{e2}");
        assert_eq!(e.unwrap_err().code, spillring::Code::Timeout);
        let d = spillring::drain::Embedded::start(DrainConfig::new(&s, s.channel_dir()).0, |l: &str| {
            eprintln!("{l}")
        })
        .unwrap();
        spillring::flush(std::time::Duration::from_secs(10)).unwrap();
        assert_eq!(journal_texts(&s), ["before the drain"]);
        for i in 0..100 {
            spillring::error!("now {}", i);
            spillring::flush(std::time::Duration::from_secs(10)).unwrap();
            assert_eq!(journal_texts(&s).len(), i + 2);
        }
        d.stop().unwrap();
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn loss_is_counted_exactly_and_stands_in_the_stream() {
    let dir = Scratch::new();
    let mut s = settings(&dir);
    s.lane_bytes = 4096;
    s.spill_quota = Some(64 << 10);
    let child = fork_and(|| {
        let _guard = spillring::init_with(&s).unwrap();
        for i in 0..20_000u32 {
            spillring::info!("n {}", i);
        }
        println!("{:?}", spillring::writer::status());
    });
    assert_eq!(child.wait(), 0);
    let mut d = drain_of(&s);
    finish(&mut d);
    let t = d.totals();
    println!("{t:?}");
    assert!(t.lost > 1000 && t.spilled > 100);
    assert_eq!(t.records + t.lost, 20_000);
}

#[test]
fn a_forked_child_has_its_own_ring_and_the_parent_loses_nothing() {
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = fork_and(|| {
        let _guard = spillring::init_with(&s).unwrap();
        spillring::info!("parent {}", 0);
        let kids: Vec<_> = (1..=5)
            .map(|k| {
                let c = fork_and(|| {
                    for i in 0..100 {
                        spillring::info!("child {} {}", k, i);
                    }
                });
                spillring::info!("parent {}", k);
                c
            })
            .collect();
        for k in kids {
            assert_eq!(k.wait(), 0);
        }
    });
    assert_eq!(child.wait(), 0);
    let mut d = drain_of(&s);
    assert_eq!(d.producers(), (6, 6));
    finish(&mut d);
    assert_eq!(d.producers(), (0, 0));
    let texts = journal_texts(&s);
    assert_eq!(texts.len(), 506);
    for k in 1..=5 {
        let mine: Vec<_> = texts.iter().filter(|t| t.starts_with(&format!("child {k} "))).collect();
        assert!(mine.iter().enumerate().all(|(i, t)| **t == format!("child {k} {i}")));
        assert_eq!(mine.len(), 100);
    }
}
