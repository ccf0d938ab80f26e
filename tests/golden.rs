//! The bytes of a spill frame, its key and its record, built by hand: offsets, magics and the checksum are
//! written out here and shared with nobody. (The other formats' golden bytes: `tests/golden`, read by
//! `tests/journal.rs`, `tests/hazards_files.rs`, `tests/sinks.rs`; `tests/record.rs` for payloads and sites;
//! `src/release.rs` for cursors.)

use spillring::lane::{SlowKey, SpillKey};
use spillring::spill::{Checksum, Parser, SpillRead, Step};

/// crc32c (Castagnoli, reflected), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
    })
}

struct File(Vec<u8>);

impl SpillRead for File {
    fn spill_len(&self) -> std::io::Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn spill_read(&self, at: u64, to: &mut [u8]) -> std::io::Result<usize> {
        let from = &self.0[(at as usize).min(self.0.len())..];
        let n = from.len().min(to.len());
        to[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }
}

#[test]
fn a_spill_frame() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    const NONCE: u64 = 0x0123_4567_89ab_cdef;
    // Record: length 27 with kind 1, ticks, site 3, flags 0, payload "abc".
    let mut record = Vec::new();
    record.extend([27, 0, 0, 0, 1, 0, 0, 0]);
    record.extend(0x1122_3344_5566_7788u64.to_le_bytes());
    record.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    record.extend(b"abc");
    // Position 7 of the shared lane, counter 9; key: thread 5, t 4096, lost 2.
    let key: Vec<u8> = [7u64, 9, 5, 4096, 2].into_iter().flat_map(u64::to_le_bytes).collect();
    // Frame: "SPRFRAME" xor nonce, length 32 + 24 + 27, crc of the length and of all behind the crc.
    let len = 83u32.to_le_bytes();
    let mut frame: Vec<u8> = b"SPRFRAME".iter().zip(NONCE.to_le_bytes()).map(|(a, b)| a ^ b).collect();
    frame.extend(len);
    frame.extend(crc32c(&[&len[..], &key, &record].concat()).to_le_bytes());
    frame.extend(&key);
    frame.extend(&record);
    frame.resize(88, 0); // padded to 8

    let mine = SpillKey { slow: SlowKey { thread: 5, t: 4096, lost: 2 }, at: 7, aux: 9 };
    let mut crc = Checksum::new(mine, 27);
    crc.add(&record);
    assert_eq!(crc.prefix(NONCE)[..], frame[..56], "the writer's bytes");

    let file = File([vec![0; 4096], frame].concat());
    let (mut parser, mut budget, mut out) = (Parser::new(NONCE, 4096), u64::MAX, Vec::new());
    let step = parser.next(&file, file.0.len() as u64, false, &mut budget, &mut out);
    assert_eq!(step, Step::Frame { at: 4096, len: 88, key: mine });
    assert_eq!(out, record);
}
