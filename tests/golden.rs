//! The bytes of a record in the spill, its word and its key, built by hand: offsets are written out here and shared
//! with nobody. (The other formats' golden bytes: `tests/golden`, read by `tests/journal.rs`,
//! `tests/hazards_files.rs`, `tests/sinks.rs`; `tests/record.rs` for payloads and sites; `src/release.rs` for
//! cursors.)

use spillring::lane::{Record, SharedLane, SlowKey, SpillKey};
use spillring::sync::{AtomicU64, Bytes, Ordering::SeqCst};
use std::cell::RefCell;

struct Mem(RefCell<Vec<u8>>);
impl Bytes for Mem {
    fn write(&self, at: u64, src: &[u8]) {
        self.0.borrow_mut()[at as usize..at as usize + src.len()].copy_from_slice(src);
    }
    fn read(&self, _: u64, _: &mut [u8]) {}
}

struct Bytes27(Vec<u8>);
impl Record<Mem> for Bytes27 {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn time(&self) -> u64 {
        0
    }
    fn write(&self, to: &Mem, at: u64, _: u64) {
        to.write(at, &self.0);
    }
}

#[test]
fn a_spilled_record() {
    // Record: length 27 with kind 1, ticks, site 3, flags 0, payload "abc".
    let mut record = Vec::new();
    record.extend([27, 0, 0, 0, 1, 0, 0, 0]);
    record.extend(0x1122_3344_5566_7788u64.to_le_bytes());
    record.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    record.extend(b"abc");
    // Position 9 of the shared lane; key: thread 5, t 4096, lost 2.
    let key: Vec<u8> = [9u64, 5, 4096, 2].into_iter().flat_map(u64::to_le_bytes).collect();

    // 16 granules of 64 bytes; position 3 * 16 + 2, five claims so far.
    let word = |n| AtomicU64::new(n);
    let (tail, released, backed) = (word(50 << 20 | 5), word(48), word(52));
    let words: Vec<AtomicU64> = (0..16).map(|_| word(0)).collect();
    let data = Mem(RefCell::new(vec![0; 16 * 64]));
    let spill =
        SharedLane { tail: &tail, words: &words, released: &released, data: &data, backed: Some(&backed) };
    let mine = SpillKey { slow: SlowKey { thread: 5, t: 4096, lost: 2 }, at: 9 };
    spill.write(7, &mine.to_bytes(), &Bytes27(record.clone())).expect("there is room");

    assert_eq!(data.0.borrow()[2 * 64..][..59], [key, record].concat());
    // Lap 4 in 32 bits, 1 granule in 19, slot 7 in 11, state 2 in 2.
    assert_eq!(words[2].load(SeqCst), 4 << 32 | 1 << 13 | 7 << 2 | 2);
    assert_eq!(tail.load(SeqCst), 51 << 20 | 6);
}
