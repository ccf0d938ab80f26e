//! The journal: every prefix of its writes as a crash, damage of all sorts, the stored bytes.
#![cfg(feature = "drain")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use spillring::error::Code;
use spillring::journal::{
    CursorKey, DirStorage, Encoder, Item, Journal, Loss, MemStorage, Op, Options, Position, Reader, Record,
    Segment, SiteFacts, Source, Standing, Storage, Sync, Taken, ThreadFacts, Together, kind,
};

type Files = BTreeMap<String, Vec<u8>>;
type Cursors = BTreeMap<CursorKey, Vec<u8>>;

const T0: i64 = 1_700_000_000_000_000_000;

fn site(n: u32) -> (u32, String, String) {
    (n, format!("src/file{n}.rs"), format!("value {{}} of {n}"))
}
fn put_site<S: Storage>(j: &mut Journal<S>, n: u32) -> u32 {
    let (line, file, fmt) = site(n);
    let facts = SiteFacts {
        level: 3,
        line,
        file: file.as_bytes(),
        target: b"app",
        fmt: fmt.as_bytes(),
        types: &[7],
        fields: b"",
        style: 0,
    };
    j.site(&facts)
}
fn put_thread<S: Storage>(j: &mut Journal<S>, n: u64) -> u32 {
    let name = format!("worker-{n}");
    j.thread(&ThreadFacts {
        nonce: 99,
        pid: 4711,
        thread: n,
        tid: 4711 + n as u32,
        name: name.as_bytes(),
        ..ThreadFacts::default()
    })
}
fn key(part: u32) -> CursorKey {
    CursorKey { nonce: 99, pid: 4711, part }
}
/// A payload that says which record it belongs to.
fn payload(n: u64) -> Vec<u8> {
    let mut p = format!("record {n}:").into_bytes();
    p.extend((0..n % 23).map(|i| (n + i) as u8));
    p
}

/// All a reader yields: records by number, missed, damaged (records, places).
#[derive(Debug, Default, PartialEq)]
struct Seen {
    records: Vec<(u64, Vec<u8>)>,
    missed: u64,
    damaged: Vec<(String, u64, u64, u64)>,
    /// Records whose site's or thread's definition is lost.
    undefined: u64,
}
fn drain_reader<S: Source>(r: &mut Reader<S>) -> Seen {
    let mut seen = Seen::default();
    while let Some(item) = r.next_batch().expect("reading") {
        match item {
            Item::Batch(view) => {
                for e in view.entries() {
                    if e.kind == kind::LOG {
                        // Site and thread are those that the writer gave it.
                        let (line, file, fmt) = site((e.record_no % 5) as u32);
                        if let Some(s) = e.site {
                            assert_eq!((s.line, &s.file[..]), (line, file.as_bytes()));
                            assert_eq!((s.level, &s.fmt[..]), (3, fmt.as_bytes()));
                        }
                        if e.thread.nonce != 0 {
                            assert_eq!(e.thread.thread, e.record_no % 3);
                        }
                        seen.undefined += u64::from(e.site.is_none() || e.thread.nonce == 0);
                    }
                    seen.records.push((e.record_no, e.payload.to_vec()));
                }
            }
            Item::Missed { records } => seen.missed += records,
            Item::Damaged { segment, offset, bytes, records } => {
                seen.damaged.push((segment.to_string(), offset, bytes, records));
            }
        }
    }
    seen
}
fn read_all<S: Source>(source: S) -> Seen {
    drain_reader(&mut Reader::new(source))
}
fn numbers(seen: &Seen) -> Vec<u64> {
    seen.records.iter().map(|r| r.0).collect()
}

/// Adds `n` self-describing records to the batch in progress.
fn add<S: Storage>(j: &mut Journal<S>, n: u64) {
    for _ in 0..n {
        // The number is known only afterwards, and the payload shall contain it.
        let no = j.next_record() + count(j);
        let s = put_site(j, (no % 5) as u32);
        let t = put_thread(j, no % 3);
        assert_eq!(j.record(kind::LOG, 0, t, s, T0 + no as i64, no, &payload(no)).unwrap(), no);
    }
}
fn count<S: Storage>(j: &mut Journal<S>) -> u64 {
    // An aside to learn how many are in the batch: a record that is refused changes nothing.
    let e = j.record(kind::LOG, 0, 0, 1 << 20, 0, 0, b"").unwrap_err();
    assert_eq!(e.code, Code::BadValue);
    BATCH.with(|b| {
        let key = j.next_record();
        let mut b = b.borrow_mut();
        if b.0 != key || j.batch_bytes() == 0 {
            *b = (key, 0);
        }
        b.1 += 1;
        b.1 - 1
    })
}
thread_local!(static BATCH: std::cell::RefCell<(u64, u64)> = const { std::cell::RefCell::new((0, 0)) });

fn small() -> Options {
    Options { max_segment_bytes: 4096, retention_bytes: 16384, ..Options::default() }
}
fn keep_all() -> Options {
    Options { max_segment_bytes: 4096, retention_bytes: 1 << 40, ..Options::default() }
}
fn fresh(options: Options) -> (MemStorage, Journal<MemStorage>) {
    let m = MemStorage::new(Files::new(), 7);
    let (j, r) = Journal::open(m.clone(), options, T0).unwrap();
    assert!(r.lines.is_empty() && r.next_record == 0 && r.cursors.is_empty() && r.last_time.is_none());
    (m, j)
}

/// What must be there once a mark is in the log.
struct Model {
    next: u64,
    cursors: Cursors,
}

/// A workload with rotation, retention, full disks, dropped cursors, aborted batches.
fn workload(sync: Sync) -> (Vec<Op>, Vec<Model>, u64) {
    let m = MemStorage::new(Files::new(), 7);
    let options = Options { sync, ..small() };
    let (mut j, _) = Journal::open(m.clone(), options, T0).unwrap();
    let mut models = vec![Model { next: 0, cursors: Cursors::new() }];
    m.mark(0);
    let mut failed = 0;
    for i in 0..60u32 {
        let now = T0 + i64::from(i) * 1_000_000;
        j.begin(now);
        if i % 9 == 8 {
            // Taken back: nothing of it may ever be seen.
            add(&mut j, 3);
            j.cursor(key(77), b"never");
            j.abort();
            assert!(!j.pending());
        }
        if i % 10 != 9 {
            add(&mut j, 1 + u64::from(i % 4) * u64::from(i % 3));
        }
        if i == 40 {
            // A large one, so that segments fill up.
            let no = j.next_record() + count(&mut j);
            let big = vec![b'x'; 3000];
            j.record(kind::OUTPUT, 1, 0, 0, T0 + no as i64, no, &big).unwrap();
        }
        j.cursor(key(i % 4), format!("cursor {i}").as_bytes());
        if i % 7 == 6 {
            j.cursor(key((i + 1) % 4), b"");
        }
        if i % 5 == 3 {
            m.set_space(Some(u64::from(i) * 3));
            let r = j.commit(now);
            if let Err(e) = r {
                assert_eq!(e.code, Code::NoSpace, "{e}");
                assert!(j.pending());
                failed += 1;
                m.set_space(None);
                j.commit(now).unwrap();
            }
            m.set_space(None);
        } else {
            j.commit(now).unwrap();
        }
        models.push(Model { next: j.next_record(), cursors: j.cursors().clone() });
        m.mark(u64::from(i) + 1);
    }
    let log = m.log();
    let is = |f: fn(&Op) -> bool| log.iter().filter(|&op| f(op)).count();
    println!(
        "workload: {} operations, {} appends, {} segments made, {} removed, {} cuts, {failed} full disks",
        log.len(),
        is(|op| matches!(op, Op::Append(..))),
        is(|op| matches!(op, Op::Create(_))),
        is(|op| matches!(op, Op::Remove(_))),
        is(|op| matches!(op, Op::Truncate(..))),
    );
    assert!(is(|op| matches!(op, Op::Create(_))) > 5 && is(|op| matches!(op, Op::Remove(_))) > 2);
    assert!(failed > 5 && is(|op| matches!(op, Op::Truncate(..))) > 5);
    (log, models, j.journal_id())
}

fn apply(files: &mut Files, op: &Op) {
    match op {
        Op::Create(n) => assert!(files.insert(n.clone(), Vec::new()).is_none()),
        Op::Append(n, b) => files.get_mut(n).unwrap().extend_from_slice(b),
        Op::Truncate(n, len) => files.get_mut(n).unwrap().truncate(*len as usize),
        Op::Remove(n) => {
            files.remove(n).unwrap();
        }
        Op::Sync(_) | Op::SyncDir | Op::Mark(_) => {}
    }
}

/// Recovers from `files` and checks it against the model. `deep`: writes on, and crashes in recovery too.
fn check(files: &Files, models: &[Model], mark: Option<u64>, id: u64, deep: bool) -> Vec<Op> {
    let m = MemStorage::new(files.clone(), 1234);
    let (mut j, r) = Journal::open(m.clone(), keep_all(), T0).expect("recovery");
    let at = mark.map_or(0, |n| n as usize);
    let model = models[at..models.len().min(at + 2)]
        .iter()
        .find(|m| m.next == r.next_record && m.cursors == r.cursors)
        .unwrap_or_else(|| {
            panic!("after mark {at}: {} {:?} is neither state; {:?}", r.next_record, r.cursors, r.lines)
        });
    if mark.is_some() {
        assert_eq!(r.journal_id, id);
    }
    let log = m.log();
    let seen = read_all(&m);
    let first = m.list().unwrap().iter().filter_map(|n| Segment::parse(n)).min().unwrap().first_record;
    assert_eq!(numbers(&seen), (first..model.next).collect::<Vec<_>>(), "after mark {at}");
    assert_eq!((seen.missed, seen.undefined, &seen.damaged[..]), (0, 0, &[][..]));
    for (n, p) in &seen.records {
        assert!(*p == payload(*n) || *p == vec![b'x'; 3000], "record {n} is torn");
    }
    // What was there of released records is still there.
    let before = files.keys().filter_map(|n| Segment::parse(n)).min().map_or(0, |s| s.first_record);
    assert_eq!(first, before);
    if deep {
        add(&mut j, 2);
        j.cursor(key(50), b"after");
        let pos = j.commit(T0 + 5).unwrap();
        assert_eq!(pos.position.next_record, model.next + 2);
        drop(j);
        let (_, again) = Journal::open(m.clone(), keep_all(), T0).unwrap();
        let mut cursors = model.cursors.clone();
        cursors.insert(key(50), b"after".to_vec());
        assert_eq!((again.next_record, again.cursors), (model.next + 2, cursors));
        assert!(again.lines.is_empty(), "{:?}", again.lines);
        assert_eq!(numbers(&read_all(&m)), (first..model.next + 2).collect::<Vec<_>>());
    }
    log
}

/// Many at once are encoded as each is by itself, and taken at once they are what they are one by one.
#[test]
fn records_taken_at_once_are_the_same_ones() {
    let lens = |n: usize| (0..n).map(|i| [i % 70, i % 70, 65, 5000, i * 7 % 300][i % 5]).collect::<Vec<_>>();
    for (n, fore) in [(1, 0), (7, 0), (7, 3), (600, 0), (600, 5)] {
        let run = |whole: bool| {
            let (storage, mut j) = fresh(keep_all());
            let thread = put_thread(&mut j, 1);
            let sites = [put_site(&mut j, 1), put_site(&mut j, 2)];
            // As in a lane: one behind the other, and something behind the last.
            let lens = lens(n);
            let all: Vec<u8> = (0..lens.iter().sum::<usize>() + n).map(|i| i as u8 | 1).collect();
            let mut rest = &all[..];
            let mut bytes = vec![0; Journal::<MemStorage>::ROOM];
            let mut single = bytes.clone();
            let mut encoder = Encoder::new(&mut bytes, n * 40);
            for (i, len) in lens.iter().enumerate() {
                let (site, utc_ns) = (sites[i % 2], T0 + i as i64);
                let (ticks, payload) = (i as u64, &rest[..*len]);
                let r = Record { site, thread, kind: kind::LOG, flags: 3, utc_ns, ticks, payload };
                r.encode(&mut single);
                encoder.push(r, rest);
                rest = &rest[*len..];
            }
            drop(encoder);
            assert!(bytes == single, "{n}");
            for i in 0..fore {
                j.record(kind::LOG, 0, thread, sites[0], T0, i, b"before").unwrap();
            }
            let (from, len) = (Journal::<MemStorage>::ROOM, bytes.len() - Journal::<MemStorage>::ROOM);
            let payload = lens.iter().sum::<usize>() as u64;
            let last_time = T0 + n as i64 - 1;
            if whole {
                let of =
                    Together { records: n as u32, payload, last_time, thread, sites: &sites[..n.min(2)] };
                assert!(j.take_whole(&mut bytes, from, len, &of));
                let swapped = fore == 0 && n == 600;
                assert_eq!(bytes.len(), if swapped { from } else { from + len });
            } else {
                let taken = j.take(&bytes[from..], 0, i64::MAX, usize::MAX).unwrap();
                let all = Taken { records: n as u32, bytes: len, payload, last_time };
                assert_eq!(taken, all);
            }
            assert_eq!(j.commit(T0).unwrap().records as usize, n + fore as usize);
            storage.files()
        };
        assert!(run(true) == run(false), "{n} {fore}");
    }
    let (_, mut j) = fresh(keep_all());
    let mut bytes = vec![0; Journal::<MemStorage>::ROOM + 32];
    let of = Together { records: 1, payload: 0, last_time: T0, thread: 0, sites: &[7] };
    assert!(!j.take_whole(&mut bytes, Journal::<MemStorage>::ROOM, 32, &of));
    assert!(!j.pending());
}

/// What is encoded beforehand and taken in any portions is what single records would have been.
#[test]
fn encoded_records_are_the_same_ones() {
    let times = [5, 5, 7, 9, 9, 12];
    let run = |taking: bool, most: usize, until: i64, from: i64| {
        let (storage, mut j) = fresh(keep_all());
        let thread = put_thread(&mut j, 1);
        let sites = [put_site(&mut j, 1), put_site(&mut j, 2)];
        let one = |i: usize| (sites[i / 2 % 2], T0 + times[i], payload(i as u64));
        let mut encoded = Vec::new();
        let mut all = times.len();
        if taking {
            for i in 0..times.len() {
                let (site, utc_ns, p) = one(i);
                let r =
                    Record { site, thread, kind: kind::LOG, flags: 0, utc_ns, ticks: i as u64, payload: &p };
                r.encode(&mut encoded);
            }
            assert_eq!(Record::first_time(&encoded), T0 + 5);
            let taken = j.take(&encoded, T0 + from, T0 + until, most).unwrap();
            all = taken.records as usize;
            let bytes: usize = (0..all).map(|i| payload(i as u64).len()).sum();
            assert_eq!((taken.payload, taken.last_time), (bytes as u64, T0 + times[all - 1].max(from)));
            assert_eq!(Record::first_len(&encoded), j.take(&encoded, 0, 0, 0).unwrap().bytes);
            j.abort();
            assert_eq!(j.take(&encoded[..taken.bytes], T0 + from, i64::MAX, usize::MAX).unwrap(), taken);
        } else {
            all = (0..all).take_while(|i| *i == 0 || T0 + times[*i] <= T0 + until).count();
            all = if most == 0 { 1 } else { all };
            for i in 0..all {
                let (site, utc, p) = one(i);
                j.record(kind::LOG, 0, thread, site, utc.max(T0 + from), i as u64, &p).unwrap();
            }
        }
        assert_eq!(j.commit(T0).unwrap().records as usize, all);
        storage.files()
    };
    for (most, until, from) in
        [(1 << 20, 100, 0), (1 << 20, 9, 0), (1 << 20, 4, 0), (0, 100, 0), (1 << 20, 100, 8)]
    {
        assert_eq!(run(true, most, until, from), run(false, most, until, from), "{most} {until} {from}");
    }
    let (_, mut j) = fresh(keep_all());
    let mut bad = Vec::new();
    let r = Record { site: 7, thread: 0, kind: kind::LOG, flags: 0, utc_ns: T0, ticks: 0, payload: b"" };
    r.encode(&mut bad);
    assert_eq!(j.take(&bad, 0, T0, 1 << 20).unwrap_err().code, Code::BadValue);
    assert!(!j.pending());
}

#[test]
fn every_prefix_of_the_writes_is_a_crash() {
    let (log, models, id) = workload(Sync::None);
    let (mut files, mut mark) = (Files::new(), None);
    let (mut prefixes, mut cuts, mut nested) = (0u64, 0u64, 0u64);
    // A crash in recovery itself, too: each prefix of what it did.
    let recover = |files: &Files, mark, deep, nested: &mut u64| {
        let ops = check(files, &models, mark, id, deep);
        let mut partly = files.clone();
        for op in ops.iter().take(ops.len().saturating_sub(1)) {
            apply(&mut partly, op);
            check(&partly, &models, mark, id, false);
            *nested += 1;
        }
    };
    for op in &log {
        if let Op::Append(name, bytes) = op {
            let step = if bytes.len() <= 1024 { 1 } else { 64 };
            for cut in (1..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
                let mut torn = files.clone();
                torn.get_mut(name).unwrap().extend_from_slice(&bytes[..cut]);
                recover(&torn, mark, cut % 16 == 1, &mut nested);
                cuts += 1;
            }
        }
        apply(&mut files, op);
        if let Op::Mark(n) = op {
            mark = Some(*n);
        }
        recover(&files, mark, true, &mut nested);
        prefixes += 1;
    }
    println!("crashes: {prefixes} prefixes, {cuts} torn writes, {nested} within a recovery");
    assert!(prefixes > 100 && prefixes + cuts > 500, "too few crash states: {prefixes} + {cuts}");
}

#[test]
fn what_was_synced_survives_the_power() {
    let (log, models, id) = workload(Sync::EveryBatch);
    let (mut files, mut mark, mut states) = (Files::new(), None, 0);
    // What is durable: contents as of a file's last sync, names as of the directory's.
    let (mut contents, mut names) = (Files::new(), Vec::<String>::new());
    for op in &log {
        apply(&mut files, op);
        match op {
            Op::Sync(n) => {
                contents.insert(n.clone(), files[n].clone());
            }
            Op::SyncDir => names = files.keys().cloned().collect(),
            Op::Truncate(n, len) => contents.get_mut(n).unwrap().truncate(*len as usize),
            Op::Mark(n) => mark = Some(*n),
            _ => {}
        }
        let durable = |n: &String| contents.get(n).cloned().unwrap_or_default();
        let old_names: Files = names.iter().map(|n| (n.clone(), durable(n))).collect();
        let new_names: Files = files.keys().map(|n| (n.clone(), durable(n))).collect();
        // Contents went out before names, and the other way round.
        let mut contents_first = old_names.clone();
        contents_first
            .extend(files.iter().filter(|(n, _)| names.contains(n)).map(|(n, b)| (n.clone(), b.clone())));
        // The size went out and the bytes did not.
        let mut zeros = new_names.clone();
        for (n, b) in &mut zeros {
            b.resize(files[n].len().max(b.len()), 0);
        }
        for state in [old_names, new_names, contents_first, zeros] {
            check(&state, &models, mark, id, states % 3 == 0);
            states += 1;
        }
    }
    println!("power: {states} states");
    assert!(states > 500);
}

#[test]
fn a_payload_that_is_a_batch_is_not_taken_for_one() {
    // Another journal's batch, and this one's own bytes, as payload of this one; then damage before it, so
    // that the reader has to search through the payload.
    let (m, mut j) = fresh(Options::default());
    add(&mut j, 3);
    j.commit(T0).unwrap();
    let (name, bytes) = m.files().into_iter().next().unwrap();
    let own = bytes[64..].to_vec();
    // The payload's place is known to whoever wrote it; the key is not.
    for key in [None, Some(0x1234_5678u64)] {
        let at = m.len(&name).unwrap();
        let mut fake = own[own.len() - 400..].to_vec();
        fake.splice(0..0, own.iter().copied());
        if let Some(key) = key {
            fake = forged(at + 112 + 32, key);
        }
        j.record(kind::OUTPUT, 0, 0, 0, T0, 0, &fake).unwrap();
        j.commit(T0).unwrap();
        add(&mut j, 1);
        j.commit(T0).unwrap();
        m.edit(&name, |b| b[at as usize + 8] ^= 1);
    }
    let seen = read_all(&m);
    assert_eq!(numbers(&seen), [0, 1, 2, 4, 6]);
    assert_eq!(seen.damaged.iter().map(|d| d.3).collect::<Vec<_>>(), [1, 1]);
    // The same forgery with the right key is a batch: so the test would notice.
    let at = m.len(&name).unwrap();
    let right = u64::from_le_bytes(m.files()[&name][24..32].try_into().unwrap());
    j.record(kind::OUTPUT, 0, 0, 0, T0, 0, &forged(at + 112 + 32, right)).unwrap();
    j.commit(T0).unwrap();
    m.edit(&name, |b| b[at as usize + 8] ^= 1);
    assert_eq!(read_all(&m).damaged.len(), 3);
}

/// A batch of one empty record with number 1000 and everything right for `offset` and `key`.
fn forged(offset: u64, key: u64) -> Vec<u8> {
    let mut b = vec![0u8; 112 + 32];
    let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
    put(0, b"SPRBATCH");
    put(12, &1u16.to_le_bytes());
    put(16, &144u32.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &offset.to_le_bytes());
    put(32, &key.to_le_bytes());
    put(48, &1000u64.to_le_bytes());
    put(88, &32u32.to_le_bytes());
    put(100, &crc32c::crc32c(&[0; 32]).to_le_bytes());
    let crc = crc32c::crc32c(&b[..112]);
    b[8..12].copy_from_slice(&crc.to_le_bytes());
    b
}

/// Batches of the newest file: offset and length.
fn batches(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut v) = (64, Vec::new());
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap()) as usize;
        v.push((at, len));
        at += len;
    }
    v
}

#[test]
fn a_flipped_bit_costs_one_batch() {
    let (m, mut j) = fresh(Options::default());
    for i in 0..8 {
        add(&mut j, 4);
        j.cursor(key(i), b"at");
        j.commit(T0).unwrap();
    }
    drop(j);
    let (name, bytes) = m.files().into_iter().next().unwrap();
    let all = batches(&bytes);
    assert_eq!(all.len(), 9);
    for (i, &(at, len)) in all.iter().enumerate() {
        for hit in [0, 9, 17, 40, 105, len - 1] {
            let mut files = m.files();
            files.get_mut(&name).unwrap()[at + hit] ^= 0x10;
            let m = MemStorage::new(files, 5);
            // A reader beside no writer: damage at the very end looks like a batch in progress.
            let seen = read_all(&m);
            let lost = if i == 0 { 0 } else { 4 };
            let last = i + 1 == all.len();
            let expect: Vec<u64> = (0..32).filter(|n| i == 0 || n / 4 != i as u64 - 1).collect();
            assert_eq!(numbers(&seen), expect, "batch {i} byte {hit}");
            if !last {
                assert_eq!(seen.damaged, [(name.clone(), at as u64, len as u64, lost)]);
            }
            // The writer leaves the damaged file alone and begins another one.
            let (mut j, r) = Journal::open(m.clone(), Options::default(), T0).unwrap();
            assert!(!r.lines.is_empty());
            assert_eq!(r.cursors.len(), if i == 0 { 8 } else { 7 });
            let cut = bytes.len() - all[8].1;
            let torn = last && m.files()[&name].len() == cut;
            assert!(m.files()[&name].len() == bytes.len() || torn);
            let next = r.next_record;
            assert!(next == 32 || last);
            add(&mut j, 2);
            j.commit(T0).unwrap();
            let seen = read_all(&m);
            assert_eq!(numbers(&seen)[expect.len()..], [next, next + 1]);
            if last {
                // Whether the number is known depends on whether the header is sound.
                assert_eq!(seen.damaged.len(), 1);
                assert_eq!(seen.damaged[0].3 + 28, next);
            }
        }
    }
    // The segment header: the key is taken from the first batch.
    for hit in [0, 8, 13, 25, 60] {
        let mut files = m.files();
        files.get_mut(&name).unwrap()[hit] ^= 0x20;
        let m = MemStorage::new(files, 5);
        let seen = read_all(&m);
        assert_eq!(numbers(&seen), (0..32).collect::<Vec<_>>());
        assert_eq!(seen.damaged, [(name.clone(), 0, 64, 0)]);
        let (_, r) = Journal::open(m.clone(), Options::default(), T0).unwrap();
        assert_eq!((r.next_record, r.cursors.len()), (32, 8));
    }
}

#[test]
fn a_torn_tail_waits_until_something_follows() {
    let (m, mut j) = fresh(Options::default());
    add(&mut j, 2);
    j.commit(T0).unwrap();
    let name = m.list().unwrap().remove(0);
    let before = m.files()[&name].len();
    add(&mut j, 2);
    j.commit(T0).unwrap();
    let whole = m.files()[&name].clone();
    let mut r = Reader::new(m.clone());
    m.edit(&name, |b| b.truncate(before + 150));
    assert_eq!(numbers(&drain_reader(&mut r)), [0, 1]);
    assert_eq!(drain_reader(&mut r), Seen::default());
    m.edit(&name, |b| *b = whole);
    assert_eq!(numbers(&drain_reader(&mut r)), [2, 3]);
    // Beside a writer that goes on, over many segments.
    let (m, mut j) = fresh(small());
    let (mut r, mut got) = (Reader::new(m.clone()), Vec::new());
    for i in 0..100 {
        add(&mut j, 3);
        j.commit(T0).unwrap();
        if i % 3 == 0 {
            let seen = drain_reader(&mut r);
            assert_eq!((seen.missed, seen.undefined, seen.damaged.len()), (0, 0, 0));
            got.extend(numbers(&seen));
        }
    }
    assert_eq!(got, (0..300 - 6 + 6).collect::<Vec<_>>());
}

#[test]
fn a_position_goes_on_where_it_was() {
    let (m, mut j) = fresh(keep_all());
    for _ in 0..80 {
        add(&mut j, 3);
        j.commit(T0).unwrap();
    }
    // From behind each batch, and from each record within one.
    let (mut r, mut places) = (Reader::new(m.clone()), Vec::new());
    while let Some(Item::Batch(v)) = r.next_batch().unwrap() {
        for e in v.entries() {
            places.push((v.before().clone().at_record(e.record_no), e.record_no));
        }
        places.push((v.position().clone(), v.header().end_record()));
    }
    assert_eq!(places.len(), 320);
    for (p, n) in &places {
        let p = Position::from_bytes(&p.to_bytes()).unwrap();
        let seen = drain_reader(&mut Reader::at(&m, &p).unwrap());
        assert_eq!(numbers(&seen), (*n..240).collect::<Vec<_>>());
        assert_eq!((seen.missed, seen.undefined, seen.damaged.len()), (0, 0, 0));
    }
    let mut bad = places[9].0.to_bytes();
    bad[20] ^= 1;
    assert_eq!(Position::from_bytes(&bad), None);

    // Retention was faster: exactly so many.
    let segments = m.list().unwrap();
    let third = Segment::parse(&segments[2]).unwrap().first_record;
    let mut files = m.files();
    files.retain(|n, _| *n >= segments[2]);
    let cut = MemStorage::new(files, 1);
    for (p, n) in places.iter().filter(|(_, n)| *n < third) {
        let seen = drain_reader(&mut Reader::at(&cut, p).unwrap());
        assert_eq!((seen.missed, numbers(&seen)), (third - n, (third..240).collect()));
    }
    // A live reader that is overtaken.
    let mut r = Reader::at(m.clone(), &places[3].0).unwrap();
    for name in &segments[..2] {
        m.clone().remove(name).unwrap();
    }
    let seen = drain_reader(&mut r);
    assert_eq!((seen.missed, numbers(&seen)), (third - places[3].1, (third..240).collect()));

    // The batch before the position is damaged: by record number.
    let (p, n) = &places[places.len() - 21];
    let m2 = MemStorage::new(m.files(), 1);
    m2.edit(&p.segment.to_string(), |b| b[p.offset as usize + 30] ^= 1);
    assert_eq!(numbers(&drain_reader(&mut Reader::at(&m2, p).unwrap())), (*n..240).collect::<Vec<_>>());
    // Power was lost behind it: what is written instead is new.
    let last = Segment::parse(segments.last().unwrap()).unwrap();
    let m3 = MemStorage::new(m.files(), 1);
    let (before_last, len) = *batches(&m3.files()[&last.to_string()]).last().unwrap();
    m3.edit(&last.to_string(), |b| b.truncate(before_last));
    let at_end = &places.last().unwrap().0;
    let mut r = Reader::at(m3.clone(), at_end).unwrap();
    let (mut j3, _) = Journal::open(m3.clone(), keep_all(), T0 + 99).unwrap();
    add(&mut j3, 2);
    j3.commit(T0).unwrap();
    assert_eq!(numbers(&drain_reader(&mut r)), [237, 238]);
    assert_eq!(numbers(&drain_reader(&mut Reader::at(&m3, at_end).unwrap())), [237, 238]);
    assert!(len > 0);
    // Another journal.
    let (other, _) = fresh(Options::default());
    let mut p = at_end.clone();
    p.journal_id ^= 1;
    assert_eq!(Reader::at(&other, &p).unwrap_err().code, Code::OtherJournal);
}

#[test]
fn the_tail_is_found_from_the_end() {
    let (m, mut j) = fresh(keep_all());
    for _ in 0..60 {
        add(&mut j, 3);
        j.commit(T0).unwrap();
    }
    for n in [0, 1, 2, 3, 50, 179, 180, 1000] {
        let seen = drain_reader(&mut Reader::tail(&m, n).unwrap());
        assert_eq!(numbers(&seen), (180 - n.min(180)..180).collect::<Vec<_>>(), "{n}");
        assert_eq!((seen.missed, seen.undefined, seen.damaged.len()), (0, 0, 0));
    }
    // A damaged link of the chain is passed over.
    let name = m.list().unwrap().pop().unwrap();
    let all = batches(&m.files()[&name]);
    let hit = all[all.len() / 2].0 + 25;
    m.edit(&name, |b| b[hit] ^= 4);
    let seen = drain_reader(&mut Reader::tail(&m, 100).unwrap());
    assert_eq!(seen.damaged.len(), 1);
    assert_eq!(*numbers(&seen).last().unwrap(), 179);
    assert_eq!(numbers(&Seen { ..drain_reader(&mut Reader::tail(&m, 1).unwrap()) }), [179]);
}

#[test]
fn rotation_and_retention_keep_their_bounds() {
    let (m, mut j) = fresh(Options { max_segment_age_ns: Some(1000), ..small() });
    for i in 0..300 {
        add(&mut j, 2);
        j.commit(T0 + i).unwrap();
        assert!(j.total_bytes() <= 16384 + 4096);
        assert_eq!(j.total_bytes(), m.files().values().map(|f| f.len() as u64).sum::<u64>());
    }
    assert!(m.files().values().all(|f| f.len() <= 4096));
    let n = m.files().len();
    add(&mut j, 1);
    j.commit(T0 + 5000).unwrap();
    assert!(m.files().len() <= n + 1);
    assert_eq!(batches(m.files().values().last().unwrap()).len(), 1, "a segment too old is not continued");
    // By age: never the newest.
    let (m, mut j) = fresh(Options { retention_age_ns: Some(1000), ..keep_all() });
    for _ in 0..100 {
        add(&mut j, 2);
        j.commit(T0).unwrap();
    }
    assert!(m.files().len() > 3);
    j.tick(T0 + 5000).unwrap();
    assert_eq!(m.files().len(), 1);
    assert_eq!(*numbers(&read_all(&m)).last().unwrap(), 199);
}

#[test]
fn sync_is_done_when_it_is_due() {
    let syncs = |m: &MemStorage| m.log().iter().filter(|op| matches!(op, Op::Sync(_))).count();
    let (m, mut j) = fresh(Options { sync: Sync::EveryMs(10), ..Options::default() });
    add(&mut j, 1);
    j.commit(T0 + 1).unwrap();
    j.tick(T0 + 9_000_000).unwrap();
    assert_eq!(syncs(&m), 0);
    j.tick(T0 + 10_000_001).unwrap();
    j.tick(T0 + 90_000_000).unwrap();
    assert_eq!(syncs(&m), 1);
    // A sync that fails: the batch is in, once, and the sync is tried again.
    let (m, mut j) = fresh(Options { sync: Sync::EveryBatch, ..Options::default() });
    m.fail_syncs(1);
    add(&mut j, 1);
    assert_eq!(j.commit(T0).unwrap_err().code, Code::Os);
    assert!(!j.pending());
    j.commit(T0).unwrap();
    assert_eq!(numbers(&read_all(&m)), [0]);
}

#[test]
fn nothing_is_deleted_before_its_successor_is_durable() {
    let (m, mut j) = fresh(Options { sync: Sync::EveryMs(1_000_000), ..small() });
    for _ in 0..200 {
        add(&mut j, 3);
        j.commit(T0).unwrap();
    }
    let (mut synced, mut removed) = (true, 0);
    for op in m.log() {
        match op {
            Op::Append(..) | Op::Create(_) => synced = false,
            Op::SyncDir => synced = true,
            Op::Remove(name) => {
                assert!(synced, "{name} was removed while the cursors were not durable elsewhere");
                removed += 1;
            }
            _ => {}
        }
    }
    assert!(removed > 3);
}

/// A reader in the middle of everything that a writer does to the files: appends, rotation, a batch that
/// is cut off again.
#[test]
fn a_reader_beside_a_writer_sees_all_of_it() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_owned();
    let storage = DirStorage::create(&dir).unwrap();
    let (mut j, _) =
        Journal::open(storage, Options { max_segment_bytes: 1 << 16, ..keep_all() }, T0).unwrap();
    let reading = std::thread::spawn(move || {
        let mut r = Reader::open(&dir).unwrap();
        let (mut next, mut polls) = (0u64, 0u64);
        while next < 20_000 {
            let seen = drain_reader(&mut r);
            assert_eq!((seen.missed, seen.undefined, seen.damaged.len()), (0, 0, 0));
            for (n, p) in seen.records {
                assert_eq!((n, &p), (next, &payload(n)));
                next += 1;
            }
            polls += 1;
        }
        polls
    });
    for i in 0..4000 {
        add(&mut j, 5);
        if i % 50 == 7 {
            // A torn batch that goes away again, as a full disk leaves it.
            let name = j.position().segment.to_string();
            let path = tmp.path().join(name);
            let len = std::fs::metadata(&path).unwrap().len();
            use std::io::Write;
            let mut f = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            f.write_all(&[b"SPRBATCH".as_slice(), &[0x11; 700]].concat()).unwrap();
            f.set_len(len).unwrap();
        }
        j.commit(T0).unwrap();
    }
    println!("reader beside a writer: {} polls", reading.join().unwrap());
}

#[test]
fn a_descriptor_that_is_not_ours_is_not_written_to() {
    let (m, mut j) = fresh(Options::default());
    add(&mut j, 1);
    m.set_standing(Standing::Replaced);
    let before = m.files();
    let e = j.commit(T0).unwrap_err();
    assert_eq!(e.code, Code::BadFile);
    assert_eq!(m.files(), before);
    assert!(j.pending());

    // The real one: closed and reused, appended to by another, deleted.
    let dir = tempfile::tempdir().unwrap();
    let (mut j, _) = Journal::open(DirStorage::create(dir.path()).unwrap(), Options::default(), T0).unwrap();
    add(&mut j, 1);
    j.commit(T0).unwrap();
    let name = j.position().segment.to_string();
    std::fs::remove_file(dir.path().join(&name)).unwrap();
    add(&mut j, 1);
    j.commit(T0).unwrap();
    assert!(j.take_notices()[0].contains("deleted"));
    assert_eq!(numbers(&drain_reader(&mut Reader::open(dir.path()).unwrap())), [1]);
    let path = dir.path().join(j.position().segment.to_string());
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(3).unwrap();
    add(&mut j, 1);
    assert_eq!(j.commit(T0).unwrap_err().code, Code::BadFile);
}

#[test]
fn a_real_directory() {
    use std::os::unix::fs::PermissionsExt;
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("a/journal");
    let e = Reader::open(&dir).unwrap_err();
    assert_eq!(e.code, Code::NoChannel);
    assert!(e.message.contains("a/journal") && e.message.contains("check the name"), "{e}");
    std::fs::create_dir_all(&dir).unwrap();
    assert_eq!(drain_reader(&mut Reader::open(&dir).unwrap()), Seen::default());
    for foreign in ["README", "journal-1-2.spj", "journal-00000000000000000000-zzzzzzzz.spj"] {
        std::fs::write(dir.join(foreign), b"foreign").unwrap();
    }
    for round in 0..3u64 {
        let storage = DirStorage::create(&dir).unwrap();
        let (mut j, r) = Journal::open(storage, small(), T0).unwrap();
        assert_eq!((r.next_record, r.lines.len()), (round * 120, 0));
        assert_eq!(r.cursors.get(&key(1)).map(|v| v[0] as u64), (round > 0).then(|| round - 1));
        for _ in 0..40 {
            add(&mut j, 3);
            j.cursor(key(1), &[round as u8]);
            j.commit(T0).unwrap();
        }
        j.sync().unwrap();
        let path = dir.join(j.position().segment.to_string());
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let seen = drain_reader(&mut Reader::open(&dir).unwrap());
    let first = seen.records[0].0;
    assert!(first > 0, "retention has deleted some");
    assert_eq!(numbers(&seen), (first..360).collect::<Vec<_>>());
    // A FIFO or a link with a segment's name is an error, and nothing waits for it.
    std::os::unix::fs::symlink("/dev/zero", dir.join("journal-99999999999999999999-00000001.spj")).ok();
    std::os::unix::fs::symlink("/dev/zero", dir.join("journal-00000000000000099999-00000001.spj")).unwrap();
    let e = Journal::open(DirStorage::create(&dir).unwrap(), small(), T0).unwrap_err();
    assert!(e.message.contains("journal-00000000000000099999-00000001.spj"), "{e}");
}

/// Passing RLIMIT_FSIZE would raise SIGXFSZ, which kills: the journal begins a new segment before, and
/// what can fit in none is an error.
#[test]
fn a_file_size_limit_is_an_error_and_no_signal() {
    let name = "a_file_size_limit_is_an_error_and_no_signal";
    if std::env::var_os("SPILLRING_TEST_LIMITED").is_none() {
        let exe = std::env::current_exe().unwrap();
        // 16 blocks of 512 bytes.
        let out = std::process::Command::new("sh")
            .args(["-c", "ulimit -f 16; exec \"$0\" --exact \"$1\""])
            .arg(exe)
            .arg(name)
            .env("SPILLRING_TEST_LIMITED", "1")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut j, _) = Journal::open(DirStorage::create(dir.path()).unwrap(), Options::default(), T0).unwrap();
    for _ in 0..200 {
        add(&mut j, 2);
        j.commit(T0).unwrap();
    }
    j.record(kind::OUTPUT, 0, 0, 0, T0, 0, &[b'x'; 20_000]).unwrap();
    let e = j.commit(T0).unwrap_err();
    assert_eq!(e.code, Code::FileLimit, "{e}");
    j.abort();
    add(&mut j, 1);
    j.commit(T0).unwrap();
    let seen = drain_reader(&mut Reader::open(dir.path()).unwrap());
    assert_eq!(numbers(&seen), (0..401).collect::<Vec<_>>());
    let sizes: Vec<u64> =
        std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() > 2 && sizes.iter().all(|&n| n <= 8192), "{sizes:?}");
}

#[test]
fn a_thread_that_ended_is_forgotten() {
    let (m, mut j) = fresh(keep_all());
    for n in 0..500u64 {
        let t = put_thread(&mut j, n);
        let no = j.record(kind::NOTE, 0, t, 0, T0, 0, &payload(n)).unwrap();
        assert_eq!(no, n);
        j.commit(T0).unwrap();
        j.retire_thread(t);
        assert_eq!(j.record(kind::NOTE, 0, t, 0, T0, 0, b"").unwrap_err().code, Code::BadValue);
    }
    // Numbers are not used again, across a restart either.
    drop(j);
    let (mut j, _) = Journal::open(m.clone(), keep_all(), T0).unwrap();
    let t = put_thread(&mut j, 7);
    j.record(kind::NOTE, 0, t, 0, T0, 0, &payload(500)).unwrap();
    j.commit(T0).unwrap();
    let (mut r, mut threads) = (Reader::new(&m), Vec::new());
    while let Some(Item::Batch(v)) = r.next_batch().unwrap() {
        threads.extend(v.entries().map(|e| e.thread.thread));
    }
    assert_eq!(threads, (0..500).chain([7]).collect::<Vec<_>>());
}

#[test]
fn one_damaged_batch_does_not_take_the_sites_with_it() {
    let (m, mut j) = fresh(Options::default());
    for _ in 0..400 {
        add(&mut j, 5);
        j.commit(T0).unwrap();
    }
    let name = m.list().unwrap().remove(0);
    let (first, _) = batches(&m.files()[&name])[1];
    // In the records: the definitions have a crc of their own.
    let damaged = MemStorage::new(m.files(), 1);
    damaged.edit(&name, |b| b[first + 120] ^= 1);
    let seen = read_all(&damaged);
    assert_eq!((seen.undefined, seen.damaged.len(), seen.records.len()), (0, 1, 1995));
    // In the header: until they are repeated, every 4 KiB here.
    let (m, mut j) = fresh(Options { max_segment_bytes: 1 << 16, ..Options::default() });
    for _ in 0..40 {
        add(&mut j, 5);
        j.commit(T0).unwrap();
    }
    let name = m.list().unwrap().remove(0);
    let (first, _) = batches(&m.files()[&name])[1];
    m.edit(&name, |b| b[first + 9] ^= 1);
    let seen = read_all(&m);
    assert_eq!(seen.records.len(), 195);
    assert!(seen.undefined > 0 && seen.undefined <= 60, "{}", seen.undefined);
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let (m, mut j) = fresh(Options::default());
    add(&mut j, 1);
    j.commit(T0).unwrap();
    let name = m.list().unwrap().remove(0);
    m.edit(&name, |b| {
        b[8] = 2;
        b[12..16].fill(0);
        let crc = crc32c::crc32c(&b[..64]);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let before = m.files();
    for e in [
        Journal::open(m.clone(), Options::default(), T0).unwrap_err(),
        Reader::new(m.clone()).next_batch().unwrap_err(),
        Reader::tail(m.clone(), 1).unwrap_err(),
    ] {
        assert_eq!(e.code, Code::Version);
        assert!(e.message.contains(&name) && e.message.contains("version 2"), "{e}");
    }
    assert_eq!(m.files(), before);
}

#[test]
fn large_records_and_bad_ones() {
    let (m, mut j) = fresh(Options { retention_bytes: 1 << 40, ..Options::default() });
    let big = vec![0xa5u8; 17 << 20];
    j.record(kind::OUTPUT, 0, 0, 0, T0, 0, &big).unwrap();
    j.commit(T0).unwrap();
    assert!(read_all(&m).records[0].1 == big);
    let huge = vec![0u8; (128 << 20) + 1];
    assert_eq!(j.record(kind::OUTPUT, 0, 0, 0, T0, 0, &huge).unwrap_err().code, Code::TooLarge);
    assert_eq!(j.record(kind::LOG, 0, 9, 0, T0, 0, b"").unwrap_err().code, Code::BadValue);
    assert!(!j.pending());
    let loss = Loss { count: 3, from_utc: 1, to_utc: -2 };
    assert_eq!(Loss::decode(&loss.encode()), Some(loss));
    assert_eq!(Loss::decode(&[0; 23]), None);
}

/// A journal that uses everything, always the same bytes.
fn golden() -> (String, Vec<u8>) {
    let m = MemStorage::new(Files::new(), 42);
    let (mut j, _) = Journal::open(m.clone(), Options::default(), T0).unwrap();
    j.begin(T0 + 1);
    let s = j.site(&SiteFacts {
        level: 2,
        line: 77,
        file: b"src/a.rs",
        target: b"app::db",
        fmt: b"took {} ms",
        types: &[4],
        fields: b"",
        style: 0,
    });
    let t = j.thread(&ThreadFacts {
        nonce: 0x1111_2222_3333_4444,
        pid: 500,
        start: 123_456,
        boot_id: *b"0123456789abcdef",
        comm: *b"server\0\0\0\0\0\0\0\0\0\0",
        thread: 3,
        tid: 501,
        name: b"io-1",
    });
    j.record(kind::LOG, 0x80, t, s, T0 + 10, 1000, &[1, 2, 3]).unwrap();
    let loss = Loss { count: 7, from_utc: T0 + 2, to_utc: T0 + 9 };
    j.record(kind::LOSS, 0, t, 0, T0 + 11, 1001, &loss.encode()).unwrap();
    j.cursor(CursorKey { nonce: 0x1111_2222_3333_4444, pid: 500, part: 6 }, b"opaque-cursor");
    j.commit(T0 + 12).unwrap();
    m.files().into_iter().next().unwrap()
}

#[test]
fn the_stored_bytes_are_those_of_version_1() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal-v1.spj");
    let (name, now) = golden();
    if std::env::var_os("SPILLRING_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let f = std::fs::read(&path).expect("tests/golden/journal-v1.spj");
    assert_eq!(name, "journal-00000000000000000000-00000001.spj");
    assert!(f == now, "the writer makes other bytes than tests/golden/journal-v1.spj: that is a new version");

    // By hand: no constant here comes from the library.
    let u16_ = |at: usize| u16::from_le_bytes(f[at..at + 2].try_into().unwrap());
    let u32_ = |at: usize| u32::from_le_bytes(f[at..at + 4].try_into().unwrap());
    let u64_ = |at: usize| u64::from_le_bytes(f[at..at + 8].try_into().unwrap());
    let crc = |from: usize, to: usize, hole: usize| {
        let mut c = f[from..to].to_vec();
        c[hole - from..hole - from + 4].fill(0);
        // crc32c bit by bit.
        !c.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
        })
    };
    assert_eq!(&f[0..8], b"SPRJRNL\x01");
    assert_eq!((u32_(8), u32_(12)), (1, crc(0, 64, 12)));
    assert_eq!((u32_(32), u32_(36), u64_(40), u64_(48)), (1, 64, 0, T0 as u64));
    let seg_key = u64_(24);
    // The first batch: all cursors, of which there are none.
    let b = 64;
    assert_eq!(&f[b..b + 8], b"SPRBATCH");
    assert_eq!((u32_(b + 8), u16_(b + 12), u16_(b + 14)), (crc(b, b + 112, b + 8), 1, 1));
    assert_eq!((u32_(b + 16), u32_(b + 20), u64_(b + 24), u64_(b + 32)), (112, 0, 64, seg_key));
    // The second one.
    let b = 176;
    assert_eq!(&f[b..b + 8], b"SPRBATCH");
    assert_eq!((u32_(b + 8), u16_(b + 12), u16_(b + 14)), (crc(b, b + 112, b + 8), 1, 0));
    assert_eq!((u32_(b + 16) as usize, u32_(b + 20)), (f.len() - b, 2));
    assert_eq!((u64_(b + 24), u64_(b + 32), u64_(b + 40), u64_(b + 48)), (176, seg_key, 1, 0));
    assert_eq!((u64_(b + 56), u64_(b + 64)), (T0 as u64 + 11, T0 as u64 + 1));
    assert_eq!((u64_(b + 72), u64_(b + 80)), (64, 0));
    let (records, tables, cursors) = (u32_(b + 88) as usize, u32_(b + 92) as usize, u32_(b + 96) as usize);
    assert_eq!((records, tables, cursors), (32 + 8 + 32 + 24, 16 + 56 + 16 + 80, 24 + 16));
    let plain = |from: usize, to: usize| {
        let mut c = f[from..to].to_vec();
        c.splice(0..0, []);
        !c.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
        })
    };
    assert_eq!(u32_(b + 100), plain(288, 288 + records));
    assert_eq!(u32_(b + 104), plain(288 + records, f.len()));
    let r = 288;
    assert_eq!((u32_(r), u32_(r + 4), u32_(r + 8), f[r + 12], f[r + 13]), (3, 1, 1, 1, 0x80));
    assert_eq!(
        (u64_(r + 16), u64_(r + 24), &f[r + 32..r + 40]),
        (T0 as u64 + 10, 1000, &[1, 2, 3, 0, 0, 0, 0, 0][..])
    );
    let r = r + 40;
    assert_eq!((u32_(r), u32_(r + 4), u32_(r + 8), f[r + 12]), (24, 0, 1, 16));
    assert_eq!((u64_(r + 32), u64_(r + 40), u64_(r + 48)), (7, T0 as u64 + 2, T0 as u64 + 9));
    let t = 288 + records;
    assert_eq!((u32_(t), u32_(t + 4), u32_(t + 8)), (1, 50, 1));
    assert_eq!((f[t + 16], u32_(t + 20), u32_(t + 24)), (2, 77, 8));
    assert_eq!((u32_(t + 28), u32_(t + 32), u32_(t + 36)), (7, 10, 1));
    assert_eq!(&f[t + 40..t + 66], b"src/a.rsapp::dbtook {} ms\x04");
    let t = t + 16 + 56;
    assert_eq!((u32_(t), u32_(t + 4), u32_(t + 8)), (2, 76, 1));
    let t = t + 16;
    assert_eq!((u64_(t), u64_(t + 8), u64_(t + 16)), (0x1111_2222_3333_4444, 123_456, 3));
    assert_eq!(&f[t + 24..t + 46], b"0123456789abcdefserver");
    assert_eq!((u32_(t + 56), u32_(t + 60), u32_(t + 64), &f[t + 72..t + 76]), (500, 501, 4, &b"io-1"[..]));
    let c = 288 + records + tables;
    assert_eq!((u64_(c), u32_(c + 8), u32_(c + 12), u32_(c + 16)), (0x1111_2222_3333_4444, 500, 6, 13));
    assert_eq!(&f[c + 24..c + 40], b"opaque-cursor\0\0\0");

    // By the library, as a file from another machine.
    let m = MemStorage::new([(name, f)].into(), 1);
    let mut r = Reader::new(&m);
    let Some(Item::Batch(v)) = r.next_batch().unwrap() else { panic!("no batch") };
    let e: Vec<_> = v.entries().collect();
    assert_eq!(
        (e[0].record_no, e[0].kind, e[0].flags, e[0].ticks, e[0].payload),
        (0, 1, 0x80, 1000, &[1, 2, 3][..])
    );
    let s = e[0].site.unwrap();
    assert_eq!((s.level, s.line, &s.file[..], &s.target[..]), (2, 77, &b"src/a.rs"[..], &b"app::db"[..]));
    assert_eq!((&s.fmt[..], &s.types[..]), (&b"took {} ms"[..], &[4u8][..]));
    assert_eq!((e[1].thread.tid, &e[1].thread.name[..], e[1].site.is_none()), (501, &b"io-1"[..], true));
    assert_eq!(Loss::decode(e[1].payload), Some(Loss { count: 7, from_utc: T0 + 2, to_utc: T0 + 9 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes, flips, cuts and insertions: no panic, no record that was not written.
    #[test]
    fn hostile_bytes_never_panic(
        flips in proptest::collection::vec((0usize..6000, any::<u8>()), 0..12),
        cut in proptest::option::of(0usize..6000),
        garbage in proptest::collection::vec(any::<u8>(), 0..300),
        at in 0usize..6000,
        whole in any::<bool>(),
    ) {
        let (m, mut j) = fresh(keep_all());
        for i in 0..30 {
            add(&mut j, 2);
            j.cursor(key(i % 3), b"c");
            j.commit(T0).unwrap();
        }
        let mut files = m.files();
        let names: Vec<String> = files.keys().cloned().collect();
        for (k, name) in names.iter().enumerate() {
            let b = files.get_mut(name).unwrap();
            for (at, x) in flips.iter().filter(|(at, _)| at % names.len() == k) {
                let n = b.len();
                b[at % n] ^= x;
            }
            if at % names.len() == k {
                let i = at % b.len();
                if whole { *b = garbage.clone() } else { b.splice(i..i, garbage.iter().copied()); }
            }
            if let Some(c) = cut && c % names.len() == k {
                let n = b.len() + 1;
                b.truncate(c % n);
            }
        }
        let m = MemStorage::new(files, 3);
        for seen in [
            read_all(&m),
            drain_reader(&mut Reader::tail(&m, 20).unwrap()),
            drain_reader(&mut Reader::at(&m, &j.position()).unwrap()),
        ] {
            for (n, p) in &seen.records {
                prop_assert!(*p == payload(*n));
            }
            prop_assert!(seen.records.windows(2).all(|w| w[0].0 < w[1].0));
        }
        let seen = read_all(&m);
        if let (Some((first, _)), Some((last, _))) = (seen.records.first(), seen.records.last()) {
            // What lies between is there or told, to the record.
            let told: u64 = seen.missed + seen.damaged.iter().map(|d| d.3).sum::<u64>();
            let between = last + 1 - first;
            prop_assert!(between <= seen.records.len() as u64 + told);
        }
        let (mut j, r) = Journal::open(m.clone(), keep_all(), T0).unwrap();
        add(&mut j, 1);
        j.commit(T0).unwrap();
        let seen = read_all(&m);
        prop_assert_eq!(seen.records.last().unwrap().0, r.next_record);
    }
}
