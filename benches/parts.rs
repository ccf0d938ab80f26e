//! The inner parts by themselves: claim, encode, merge, crc, format, parse. `cargo bench --bench parts`;
//! under `cargo test` each runs once.
#![allow(unsafe_code)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use spillring::journal::{
    CursorKey, DirStorage, Item, Journal, Options, Reader, SiteFacts as JournalSite, ThreadFacts, kind,
};
use spillring::lane::{Record, SharedLane, SlowKey};
use spillring::merge::{Queue, merge};
use spillring::record::{Args, CompiledFormat};
use spillring::sync::{AtomicU64, Bytes, Ordering::*};
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::hint::black_box;

const TEXT: &str = "a string of thirty-five characters.";
const GRANULES: usize = 1024;

/// Plain memory as a lane's data.
struct Memory(UnsafeCell<Vec<u8>>);

impl Bytes for Memory {
    fn write(&self, at: u64, src: &[u8]) {
        // SAFETY: one thread, and no reference is kept.
        unsafe { (&mut *self.0.get())[at as usize..][..src.len()].copy_from_slice(src) };
    }
    fn read(&self, at: u64, dst: &mut [u8]) {
        // SAFETY: as above.
        unsafe { dst.copy_from_slice(&(&*self.0.get())[at as usize..][..dst.len()]) };
    }
}

/// Eighty bytes.
struct Eighty;

impl Record<Memory> for Eighty {
    fn size(&self) -> u64 {
        80
    }
    fn time(&self) -> u64 {
        0
    }
    fn write(&self, to: &Memory, at: u64, _: u64) {
        to.write(at, black_box(&[7; 80]));
    }
}

fn claim(c: &mut Criterion) {
    let (tail, released) = (AtomicU64::new(0), AtomicU64::new(0));
    let words: Vec<AtomicU64> = (0..GRANULES).map(|_| AtomicU64::new(0)).collect();
    let data = Memory(UnsafeCell::new(vec![0; GRANULES * 64]));
    let lane = SharedLane { tail: &tail, words: &words, released: &released, data: &data, backed: None };
    c.bench_function("claim: a record of 80 bytes into the shared lane", |b| {
        b.iter(|| {
            // As if the drain had taken everything.
            released.store(spillring::lane::shared::position(tail.load(Relaxed)), Relaxed);
            let key = SlowKey { thread: 1, t: 1, lost: 0 };
            lane.write(3, &key.to_bytes(), &Eighty).expect("there is room");
        });
    });
}

fn encode(c: &mut Criterion) {
    let mut to = [0u8; 128];
    c.bench_function("encode: (i32, f64, 35 characters)", |b| {
        b.iter(|| {
            let args = black_box((7i32, 0.5f64, TEXT));
            assert!(args.encoded_len() <= to.len());
            // SAFETY: there is room, it was just asked.
            unsafe { args.put(to.as_mut_ptr()) };
            black_box(&to);
        });
    });
}

struct Times(VecDeque<i64>);

impl Queue for Times {
    fn first(&self) -> Option<i64> {
        self.0.front().copied()
    }
}

fn merging(c: &mut Criterion) {
    const EACH: i64 = 1000;
    let mut group = c.benchmark_group("merge");
    for lanes in [1i64, 16] {
        group.throughput(Throughput::Elements((EACH * lanes) as u64));
        let queue = |l: i64| Times((0..EACH).map(|i| i * lanes + l).collect());
        group.bench_function(format!("{lanes} lanes"), |b| {
            b.iter_batched(
                || (0..lanes).map(queue).collect::<Vec<_>>(),
                |mut all| {
                    let mut last = -1;
                    merge(&mut all, i64::MAX, |q, _, until| {
                        while q.first().is_some_and(|t| t <= until) {
                            let t = q.0.pop_front().unwrap_or(-1);
                            assert!(t > last, "in order");
                            last = t;
                        }
                        true
                    });
                    all
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn crc(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc32c");
    let bytes: Vec<u8> = (0..1 << 20).map(|i| (i * 31) as u8).collect();
    for len in [80, 1 << 20] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len} bytes"), |b| b.iter(|| crc32c::crc32c(black_box(&bytes[..len]))));
    }
    group.finish();
}

fn format(c: &mut Criterion) {
    let args = (7i32, 0.5f64, TEXT);
    let mut payload = vec![0; args.encoded_len()];
    // SAFETY: exactly as long as it has to be.
    unsafe { args.put(payload.as_mut_ptr()) };
    fn types<A: Args>(_: &A) -> &'static [u8] {
        A::TYPES
    }
    let compiled = CompiledFormat::new(b"{} {} {}", types(&args));
    let mut out = Vec::new();
    c.bench_function("format: (i32, f64, 35 characters)", |b| {
        b.iter(|| {
            out.clear();
            compiled.render(black_box(&payload), &mut out).expect("a sound record");
        });
    });
    assert_eq!(out, format!("7 0.5 {TEXT}").as_bytes());
}

fn parse(c: &mut Criterion) {
    const RECORDS: u64 = 10_000;
    let dir = tempfile::tempdir().expect("a directory");
    let storage = DirStorage::create(dir.path()).expect("a journal's directory");
    let (mut j, _) = Journal::open(storage, Options::default(), 1).expect("a journal");
    let site = j.site(&JournalSite {
        level: 3,
        line: 1,
        file: b"f",
        target: b"t",
        fmt: b"{}",
        types: &[7],
        fields: b"",
        style: 0,
    });
    let thread = j.thread(&ThreadFacts {
        nonce: 1,
        pid: 1,
        start: 1,
        boot_id: [0; 16],
        comm: [0; 16],
        thread: 1,
        tid: 1,
        name: b"n",
    });
    j.begin(1);
    for i in 0..RECORDS {
        j.record(kind::LOG, 0, thread, site, i as i64, i, &[7; 51]).expect("a record");
    }
    j.cursor(CursorKey { nonce: 1, pid: 1, part: 0 }, &[1]);
    j.commit(1).expect("a batch");
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("a journal, checked and read", |b| {
        b.iter(|| {
            let mut r = Reader::open(dir.path()).expect("a journal");
            let mut n = 0;
            while let Some(item) = r.next_batch().expect("readable") {
                let Item::Batch(v) = item else { panic!("a gap") };
                n += v.entries().map(|e| e.payload.len() as u64).sum::<u64>();
            }
            assert_eq!(n, RECORDS * 51);
        });
    });
    group.finish();
}

criterion_group!(parts, claim, encode, merging, crc, format, parse);
criterion_main!(parts);
