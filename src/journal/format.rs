//! Encoding and decoding of what stands in a segment. Pure; all decoding is safe on hostile bytes.

use crate::sys::hash::HashMap;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::layout::journal::{self as l, batch as b, cursor as c, record as r, site as s, table as t};
use crate::layout::journal::{loss, position as p, thread as h};

/// Kinds of records. A reader skips what it does not know.
pub mod kind {
    /// A log record.
    pub const LOG: u8 = 1;
    /// A chunk of captured output.
    pub const OUTPUT: u8 = 2;
    /// Records were lost: a [`super::Loss`].
    pub const LOSS: u8 = 16;
    /// A note by the drain, text.
    pub const NOTE: u8 = 17;
}

pub(super) fn get<const N: usize>(bytes: &[u8], at: u64) -> Option<[u8; N]> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
pub(super) fn u16_at(bytes: &[u8], at: u64) -> Option<u16> {
    get(bytes, at).map(u16::from_le_bytes)
}
pub(super) fn u32_at(bytes: &[u8], at: u64) -> Option<u32> {
    get(bytes, at).map(u32::from_le_bytes)
}
pub(super) fn u64_at(bytes: &[u8], at: u64) -> Option<u64> {
    get(bytes, at).map(u64::from_le_bytes)
}
pub(super) fn i64_at(bytes: &[u8], at: u64) -> Option<i64> {
    get(bytes, at).map(i64::from_le_bytes)
}
pub(super) fn put(bytes: &mut [u8], at: u64, value: &[u8]) {
    bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
}
pub(super) fn pad8(n: usize) -> usize {
    n.next_multiple_of(8) - n
}
const ZEROS: [u8; 8] = [0; 8];
pub(super) fn push_padded(out: &mut Vec<u8>, content: &[u8]) {
    out.extend_from_slice(content);
    out.extend_from_slice(&ZEROS[..pad8(content.len())]);
}

/// crc32c of `header` with the four bytes at `at` taken as zero.
fn crc_without(header: &[u8], at: u64) -> u32 {
    let at = at as usize;
    let crc = crc32c::crc32c(&header[..at]);
    let crc = crc32c::crc32c_append(crc, &ZEROS[..4]);
    crc32c::crc32c_append(crc, &header[at + 4..])
}

/// A segment by its file name: `journal-<first record>-<number, hex>.spj`. Names sort in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Number of its first record.
    pub first_record: u64,
    /// Number of the segment.
    pub id: u32,
}

impl Segment {
    /// From a file name; `None` for a foreign file.
    pub fn parse(name: &str) -> Option<Segment> {
        let rest = name.strip_prefix("journal-")?.strip_suffix(".spj")?;
        let (first, id) = rest.split_once('-')?;
        let s = Segment { first_record: first.parse().ok()?, id: u32::from_str_radix(id, 16).ok()? };
        // One spelling only, so that no two files claim to be the same segment.
        (s.to_string() == name).then_some(s)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "journal-{:020}-{:08x}.spj", self.first_record, self.id)
    }
}

/// What a segment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub journal_id: u64,
    pub key: u64,
    pub id: u32,
    pub first_record: u64,
    pub created: i64,
}

/// What is wrong with a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Cut short, or damaged.
    Damaged,
    /// Sound, and of this version.
    Version(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; l::SEG_HEADER as usize] {
        let mut o = [0; l::SEG_HEADER as usize];
        put(&mut o, l::SEG_MAGIC, &l::MAGIC.to_le_bytes());
        put(&mut o, l::SEG_VERSION, &l::VERSION.to_le_bytes());
        put(&mut o, l::SEG_JOURNAL_ID, &self.journal_id.to_le_bytes());
        put(&mut o, l::SEG_KEY, &self.key.to_le_bytes());
        put(&mut o, l::SEG_ID, &self.id.to_le_bytes());
        put(&mut o, l::SEG_HEADER_LEN, &(l::SEG_HEADER as u32).to_le_bytes());
        put(&mut o, l::SEG_FIRST_RECORD, &self.first_record.to_le_bytes());
        put(&mut o, l::SEG_CREATED, &self.created.to_le_bytes());
        let crc = crc_without(&o, l::SEG_CRC);
        put(&mut o, l::SEG_CRC, &crc.to_le_bytes());
        o
    }

    /// `bytes` is the beginning of the file, at most a page of it.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let parse = || {
            if u64_at(bytes, l::SEG_MAGIC)? != l::MAGIC {
                return None;
            }
            let version = u32_at(bytes, l::SEG_VERSION)?;
            let len = u32_at(bytes, l::SEG_HEADER_LEN)?;
            let header = bytes.get(..len as usize).filter(|h| h.len() >= l::SEG_HEADER as usize)?;
            if crc_without(header, l::SEG_CRC) != u32_at(header, l::SEG_CRC)? {
                return None;
            }
            if version != l::VERSION {
                return Some(Err(BadHeader::Version(version)));
            }
            if u64::from(len) != l::SEG_HEADER || u64_at(header, l::SEG_RESERVED)? != 0 {
                return None;
            }
            Some(Ok(SegmentHeader {
                journal_id: u64_at(header, l::SEG_JOURNAL_ID)?,
                key: u64_at(header, l::SEG_KEY)?,
                id: u32_at(header, l::SEG_ID)?,
                first_record: u64_at(header, l::SEG_FIRST_RECORD)?,
                created: i64_at(header, l::SEG_CREATED)?,
            }))
        };
        parse().unwrap_or(Err(BadHeader::Damaged))
    }
}

/// What a batch header says. Lengths and offsets in bytes, times in ns since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// crc32c of the header, which covers the other crcs.
    pub crc: u32,
    /// Flags.
    pub flags: u16,
    /// Bytes of the batch.
    pub len: u32,
    /// Number of records.
    pub count: u32,
    /// Offset in the segment.
    pub offset: u64,
    /// The segment's key.
    pub key: u64,
    /// Number of the batch.
    pub seq: u64,
    /// Number of the first record.
    pub first_record: u64,
    /// The latest time of a record so far.
    pub last_time: i64,
    /// When the batch was begun.
    pub written: i64,
    /// The batch before, 0 = none in this segment.
    pub prev: u64,
    /// The nearest batch before with definitions, 0 = none.
    pub prev_tables: u64,
    /// Bytes of the records.
    pub records_len: u32,
    /// Bytes of the definitions.
    pub tables_len: u32,
    /// Bytes of the cursors.
    pub cursors_len: u32,
    /// crc32c of the records.
    pub records_crc: u32,
    /// crc32c of definitions and cursors.
    pub meta_crc: u32,
}

impl BatchHeader {
    /// Writes the header over the beginning of `batch`; answers its crc. `crc` of `self` is not used.
    pub(super) fn encode(&self, batch: &mut [u8]) -> u32 {
        let o = &mut batch[..b::HEADER as usize];
        o.fill(0);
        put(o, b::B_MAGIC, &b::MAGIC.to_le_bytes());
        put(o, b::B_VERSION, &(l::VERSION as u16).to_le_bytes());
        put(o, b::B_FLAGS, &self.flags.to_le_bytes());
        put(o, b::B_LEN, &self.len.to_le_bytes());
        put(o, b::B_COUNT, &self.count.to_le_bytes());
        put(o, b::B_OFFSET, &self.offset.to_le_bytes());
        put(o, b::B_KEY, &self.key.to_le_bytes());
        put(o, b::B_SEQ, &self.seq.to_le_bytes());
        put(o, b::B_FIRST_RECORD, &self.first_record.to_le_bytes());
        put(o, b::B_LAST_TIME, &self.last_time.to_le_bytes());
        put(o, b::B_WRITTEN, &self.written.to_le_bytes());
        put(o, b::B_PREV, &self.prev.to_le_bytes());
        put(o, b::B_PREV_TABLES, &self.prev_tables.to_le_bytes());
        put(o, b::B_RECORDS_LEN, &self.records_len.to_le_bytes());
        put(o, b::B_TABLES_LEN, &self.tables_len.to_le_bytes());
        put(o, b::B_CURSORS_LEN, &self.cursors_len.to_le_bytes());
        put(o, b::B_RECORDS_CRC, &self.records_crc.to_le_bytes());
        put(o, b::B_META_CRC, &self.meta_crc.to_le_bytes());
        let crc = crc_without(o, b::B_CRC);
        put(o, b::B_CRC, &crc.to_le_bytes());
        crc
    }

    /// A header that is sound by itself; whether it is at its place is for [`BatchHeader::at`].
    fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        let o = bytes.get(..b::HEADER as usize)?;
        if u64_at(o, b::B_MAGIC)? != b::MAGIC || crc_without(o, b::B_CRC) != u32_at(o, b::B_CRC)? {
            return None;
        }
        let x = BatchHeader {
            crc: u32_at(o, b::B_CRC)?,
            flags: u16_at(o, b::B_FLAGS)?,
            len: u32_at(o, b::B_LEN)?,
            count: u32_at(o, b::B_COUNT)?,
            offset: u64_at(o, b::B_OFFSET)?,
            key: u64_at(o, b::B_KEY)?,
            seq: u64_at(o, b::B_SEQ)?,
            first_record: u64_at(o, b::B_FIRST_RECORD)?,
            last_time: i64_at(o, b::B_LAST_TIME)?,
            written: i64_at(o, b::B_WRITTEN)?,
            prev: u64_at(o, b::B_PREV)?,
            prev_tables: u64_at(o, b::B_PREV_TABLES)?,
            records_len: u32_at(o, b::B_RECORDS_LEN)?,
            tables_len: u32_at(o, b::B_TABLES_LEN)?,
            cursors_len: u32_at(o, b::B_CURSORS_LEN)?,
            records_crc: u32_at(o, b::B_RECORDS_CRC)?,
            meta_crc: u32_at(o, b::B_META_CRC)?,
        };
        let parts = u64::from(x.records_len) + u64::from(x.tables_len) + u64::from(x.cursors_len);
        let sound = u16_at(o, b::B_VERSION)? == l::VERSION as u16
            && u32_at(o, b::B_RESERVED)? == 0
            && u64::from(x.len) == b::HEADER + parts
            && u64::from(x.len) <= l::MAX_BATCH
            && [x.records_len, x.tables_len, x.cursors_len].iter().all(|n| n % 8 == 0)
            && x.prev < x.offset
            && x.prev_tables < x.offset
            && x.first_record.checked_add(u64::from(x.count)).is_some();
        sound.then_some(x)
    }

    /// The header at `offset` of a segment, if it is one. Without a key (lost with a damaged segment
    /// header) any is taken: to be used only where no payload can stand.
    pub(super) fn at(bytes: &[u8], offset: u64, key: Option<u64>) -> Option<BatchHeader> {
        // Cheap tests first: resynchronising asks at every word.
        if u64_at(bytes, b::B_MAGIC)? != b::MAGIC || u64_at(bytes, b::B_OFFSET)? != offset {
            return None;
        }
        if key.is_some_and(|k| u64_at(bytes, b::B_KEY) != Some(k)) {
            return None;
        }
        Self::decode(bytes)
    }

    /// Whether this is a full set of cursors.
    pub fn full(&self) -> bool {
        self.flags & b::FULL != 0
    }
    /// Number of the record behind the last one.
    pub fn end_record(&self) -> u64 {
        self.first_record + u64::from(self.count)
    }
    /// Offset behind the batch.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
    /// Offset of the definitions.
    pub(super) fn tables_at(&self) -> u64 {
        self.offset + b::HEADER + u64::from(self.records_len)
    }
    /// Records, definitions and cursors of a whole batch.
    pub(super) fn split<'a>(&self, batch: &'a [u8]) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
        let body = batch.get(b::HEADER as usize..self.len as usize)?;
        let (records, meta) = body.split_at_checked(self.records_len as usize)?;
        let (tables, cursors) = meta.split_at_checked(self.tables_len as usize)?;
        Some((records, tables, cursors))
    }
    /// Whether a whole batch is what the header says, by its crcs and its records' lengths.
    pub(super) fn sound(&self, batch: &[u8]) -> bool {
        let Some((records, _, _)) = self.split(batch) else { return false };
        let meta = &batch[b::HEADER as usize + records.len()..self.len as usize];
        crc32c::crc32c(records) == self.records_crc
            && crc32c::crc32c(meta) == self.meta_crc
            && records_sound(records, self.count)
    }
}

/// One record as it stands in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Number of its site, 0 = none.
    pub site: u32,
    /// Number of its thread, 0 = none.
    pub thread: u32,
    /// What it is; see [`kind`].
    pub kind: u8,
    /// Flags of that kind.
    pub flags: u8,
    /// Emitted time, ns since the epoch.
    pub utc_ns: i64,
    /// Raw time, in ticks of the producer's clock.
    pub ticks: u64,
    /// The payload.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes before the payload, which is padded to 8 bytes.
    pub const HEAD: usize = r::HEAD as usize;

    /// Appends it as it will stand in a batch, for [`Journal::take`](super::Journal::take).
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_record(out, self);
    }

    /// The time of the first of encoded records.
    #[inline]
    pub fn first_time(encoded: &[u8]) -> i64 {
        i64::from_le_bytes(encoded[r::R_UTC as usize..][..8].try_into().expect("8 bytes"))
    }

    /// The bytes of the first of encoded records.
    pub fn first_len(encoded: &[u8]) -> usize {
        let mut rest = encoded;
        pull_record(&mut rest).map_or(0, |_| encoded.len() - rest.len())
    }
}

/// Payloads up to this many bytes are copied as so many, in a few instructions and without a call; what is too
/// much is overwritten by the next one.
const SMALL: usize = 64;
/// Zeros are appended so many at a time, at most: few enough that the processor's nearest cache still has them.
const AHEAD: usize = 8 << 10;

/// Appends many records as they will stand in a batch, as [`Record::encode`] does one.
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    /// Where the records end. Behind it stand bytes that are to be overwritten.
    at: usize,
    ahead: usize,
}

impl<'a> Encoder<'a> {
    /// Behind what is there. `most`: bytes that the records will take, at most; it may be exceeded.
    pub fn new(out: &'a mut Vec<u8>, most: usize) -> Self {
        let at = out.len();
        // Behind them as well: definitions and cursors follow.
        out.reserve(most + most / 8 + Record::HEAD + SMALL + 8);
        Encoder { out, at, ahead: most.min(AHEAD) }
    }

    /// Appends a record. `rest`: its payload, and whatever stands behind it where it was found.
    #[inline(always)]
    pub fn push(&mut self, x: Record<'_>, rest: &[u8]) {
        const ALL: usize = Record::HEAD + SMALL + 8;
        let len = x.payload.len();
        match rest.first_chunk::<SMALL>() {
            Some(some) if len <= SMALL => {
                if self.out.len() - self.at < ALL {
                    Self::room(self.out, self.at, self.ahead.max(ALL));
                }
                let to: &mut [u8; ALL] = self.out[self.at..].first_chunk_mut().expect("as much room");
                to[..Record::HEAD].copy_from_slice(&record_head(&x));
                to[Record::HEAD..][..SMALL].copy_from_slice(some);
                to[Record::HEAD + len..][..8].fill(0);
            }
            _ => Self::larger(self.out, self.at, self.ahead, x),
        }
        self.at += Record::HEAD + len.next_multiple_of(8);
    }

    /// A larger one, or one of the last ones where it was found. Neither this nor the record is lent to it:
    /// they are to stay in registers.
    #[inline(never)]
    fn larger(out: &mut Vec<u8>, at: usize, ahead: usize, x: Record<'_>) {
        let end = Record::HEAD + x.payload.len();
        if out.len() - at < end + 8 {
            // Not of large ones: those bytes would be written twice.
            if end > AHEAD / 2 {
                out.truncate(at);
                return push_record(out, &x);
            }
            Self::room(out, at, ahead.max(end + 8));
        }
        let to = &mut out[at..at + end + 8];
        to[..Record::HEAD].copy_from_slice(&record_head(&x));
        to[Record::HEAD..end].copy_from_slice(x.payload);
        to[end..].fill(0);
    }

    #[cold]
    fn room(out: &mut Vec<u8>, at: usize, n: usize) {
        out.resize(at + n, 0);
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        self.out.truncate(self.at);
    }
}

#[inline]
fn record_head(x: &Record<'_>) -> [u8; r::HEAD as usize] {
    const _: () = assert!(r::R_SITE == 4 && r::R_THREAD == 8 && r::R_KIND == 12 && r::R_FLAGS == 13);
    const _: () = assert!(r::R_UTC == 16 && r::R_TICKS == 24 && r::HEAD == 32);
    // Four whole words: this is the loop that every record goes through.
    let words = [
        x.payload.len() as u64 | u64::from(x.site) << 32,
        u64::from(x.thread) | u64::from(x.kind) << 32 | u64::from(x.flags) << 40,
        x.utc_ns as u64,
        x.ticks,
    ];
    let mut head = [0u8; r::HEAD as usize];
    for (to, word) in head.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    head
}

#[inline]
pub(super) fn push_record(out: &mut Vec<u8>, x: &Record<'_>) {
    let head = record_head(x);
    out.reserve(head.len() + x.payload.len() + 8);
    out.extend_from_slice(&head);
    out.extend_from_slice(x.payload);
    // Eight bytes at once and back again is cheaper than a copy of unknown length.
    let end = out.len() + pad8(x.payload.len());
    out.extend_from_slice(&ZEROS);
    out.truncate(end);
}

/// Takes one record off the front.
#[inline]
pub(super) fn pull_record<'a>(bytes: &mut &'a [u8]) -> Option<Record<'a>> {
    let head = bytes.get(..r::HEAD as usize)?;
    let len = u32_at(head, r::R_LEN)? as usize;
    let rest = &bytes[r::HEAD as usize..];
    let x = Record {
        site: u32_at(head, r::R_SITE)?,
        thread: u32_at(head, r::R_THREAD)?,
        kind: head[r::R_KIND as usize],
        flags: head[r::R_FLAGS as usize],
        utc_ns: i64_at(head, r::R_UTC)?,
        ticks: u64_at(head, r::R_TICKS)?,
        payload: rest.get(..len)?,
    };
    *bytes = rest.get(len + pad8(len)..)?;
    Some(x)
}

/// Whether these bytes are exactly `count` records.
fn records_sound(mut bytes: &[u8], count: u32) -> bool {
    let mut n = 0u64;
    while !bytes.is_empty() {
        if pull_record(&mut bytes).is_none() {
            return false;
        }
        n += 1;
    }
    n == u64::from(count)
}

/// Whose progress a cursor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorKey {
    /// The producer's nonce.
    pub nonce: u64,
    /// The producer's pid.
    pub pid: u32,
    /// A lane's index, or a number of the drain's choice.
    pub part: u32,
}

pub(super) fn push_cursor(out: &mut Vec<u8>, key: CursorKey, value: &[u8]) {
    let mut head = [0u8; c::HEAD as usize];
    put(&mut head, c::C_NONCE, &key.nonce.to_le_bytes());
    put(&mut head, c::C_PID, &key.pid.to_le_bytes());
    put(&mut head, c::C_PART, &key.part.to_le_bytes());
    put(&mut head, c::C_LEN, &(value.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    push_padded(out, value);
}

/// Folds the cursors of one batch into `map`. An empty value stays there as such: it says that the
/// cursor was dropped. Stops at what makes no sense.
pub(super) fn fold_cursors(mut bytes: &[u8], map: &mut BTreeMap<CursorKey, Vec<u8>>) -> Option<()> {
    while !bytes.is_empty() {
        let key = CursorKey {
            nonce: u64_at(bytes, c::C_NONCE)?,
            pid: u32_at(bytes, c::C_PID)?,
            part: u32_at(bytes, c::C_PART)?,
        };
        let len = u32_at(bytes, c::C_LEN)? as usize;
        let rest = bytes.get(c::HEAD as usize..)?;
        let value = rest.get(..len)?;
        let kept = map.entry(key).or_default();
        kept.clear();
        kept.extend_from_slice(value);
        bytes = rest.get(len + pad8(len)..)?;
    }
    Some(())
}

/// A call site's static facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteFacts<'a> {
    /// Level.
    pub level: u8,
    /// Line.
    pub line: u32,
    /// Source file.
    pub file: &'a [u8],
    /// Target.
    pub target: &'a [u8],
    /// Format string.
    pub fmt: &'a [u8],
    /// Argument types.
    pub types: &'a [u8],
    /// Field names, a NUL behind each.
    pub fields: &'a [u8],
    /// Grammar of the format string.
    pub style: u8,
}

/// A call site as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Level.
    pub level: u8,
    /// Line.
    pub line: u32,
    /// Source file.
    pub file: Vec<u8>,
    /// Target.
    pub target: Vec<u8>,
    /// Format string.
    pub fmt: Vec<u8>,
    /// Argument types.
    pub types: Vec<u8>,
    /// Field names, a NUL behind each.
    pub fields: Vec<u8>,
    /// Grammar of the format string ([`crate::layout::site::style`]).
    pub style: u8,
}

impl SiteFacts<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut o = [0u8; s::FIXED as usize];
        o[s::S_LEVEL as usize] = self.level;
        o[s::S_STYLE as usize] = self.style;
        // The writer's limit keeps it far below.
        let fields = &self.fields[..self.fields.len().min(u16::MAX as usize)];
        put(&mut o, s::S_FIELDS_LEN, &(fields.len() as u16).to_le_bytes());
        put(&mut o, s::S_LINE, &self.line.to_le_bytes());
        put(&mut o, s::S_FILE_LEN, &(self.file.len() as u32).to_le_bytes());
        put(&mut o, s::S_TARGET_LEN, &(self.target.len() as u32).to_le_bytes());
        put(&mut o, s::S_FMT_LEN, &(self.fmt.len() as u32).to_le_bytes());
        put(&mut o, s::S_TYPES_LEN, &(self.types.len() as u32).to_le_bytes());
        out.extend_from_slice(&o);
        for part in [self.file, self.target, self.fmt, self.types, fields] {
            out.extend_from_slice(part);
        }
    }
}

impl Site {
    fn decode(bytes: &[u8]) -> Option<Site> {
        let mut rest = bytes.get(s::FIXED as usize..)?;
        let mut part = |len: u32| -> Option<Vec<u8>> {
            let (part, r) = rest.split_at_checked(len as usize)?;
            rest = r;
            Some(part.to_vec())
        };
        let fields = [bytes[s::S_FIELDS_LEN as usize], bytes[s::S_FIELDS_LEN as usize + 1]];
        Some(Site {
            level: bytes[s::S_LEVEL as usize],
            line: u32_at(bytes, s::S_LINE)?,
            file: part(u32_at(bytes, s::S_FILE_LEN)?)?,
            target: part(u32_at(bytes, s::S_TARGET_LEN)?)?,
            fmt: part(u32_at(bytes, s::S_FMT_LEN)?)?,
            types: part(u32_at(bytes, s::S_TYPES_LEN)?)?,
            fields: part(u16::from_le_bytes(fields).into())?,
            style: bytes[s::S_STYLE as usize],
        })
    }
}

/// A thread's facts, with those of its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadFacts<'a> {
    /// Nonce of the producer.
    pub nonce: u64,
    /// Pid in the producer's own namespace.
    pub pid: u32,
    /// Start time of the process, clock ticks since boot.
    pub start: u64,
    /// Boot id.
    pub boot_id: [u8; 16],
    /// Command name of the process, zero padded.
    pub comm: [u8; 16],
    /// Process-wide number of the thread.
    pub thread: u64,
    /// Tid in the producer's own namespace.
    pub tid: u32,
    /// Name of the thread.
    pub name: &'a [u8],
}

/// A thread as it was read. All zero where the record names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Nonce of the producer.
    pub nonce: u64,
    /// Pid in the producer's own namespace.
    pub pid: u32,
    /// Start time of the process, clock ticks since boot.
    pub start: u64,
    /// Boot id.
    pub boot_id: [u8; 16],
    /// Command name of the process, zero padded.
    pub comm: [u8; 16],
    /// Process-wide number of the thread.
    pub thread: u64,
    /// Tid in the producer's own namespace.
    pub tid: u32,
    /// Name of the thread.
    pub name: Vec<u8>,
}

impl ThreadFacts<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut o = [0u8; h::FIXED as usize];
        put(&mut o, h::H_NONCE, &self.nonce.to_le_bytes());
        put(&mut o, h::H_START, &self.start.to_le_bytes());
        put(&mut o, h::H_THREAD, &self.thread.to_le_bytes());
        put(&mut o, h::H_BOOT_ID, &self.boot_id);
        put(&mut o, h::H_COMM, &self.comm);
        put(&mut o, h::H_PID, &self.pid.to_le_bytes());
        put(&mut o, h::H_TID, &self.tid.to_le_bytes());
        put(&mut o, h::H_NAME_LEN, &(self.name.len() as u32).to_le_bytes());
        out.extend_from_slice(&o);
        out.extend_from_slice(self.name);
    }
}

impl Thread {
    fn decode(bytes: &[u8]) -> Option<Thread> {
        let len = u32_at(bytes, h::H_NAME_LEN)? as usize;
        Some(Thread {
            nonce: u64_at(bytes, h::H_NONCE)?,
            start: u64_at(bytes, h::H_START)?,
            thread: u64_at(bytes, h::H_THREAD)?,
            boot_id: get(bytes, h::H_BOOT_ID)?,
            comm: get(bytes, h::H_COMM)?,
            pid: u32_at(bytes, h::H_PID)?,
            tid: u32_at(bytes, h::H_TID)?,
            name: bytes.get(h::FIXED as usize..)?.get(..len)?.to_vec(),
        })
    }
}

/// One definition as it stands in a batch: type, number, content.
pub(super) struct Definition<'a> {
    pub of: u32,
    pub number: u32,
    pub content: &'a [u8],
}

pub(super) fn push_definition(out: &mut Vec<u8>, of: u32, number: u32, content: &[u8]) {
    let mut head = [0u8; t::HEAD as usize];
    put(&mut head, t::T_TYPE, &of.to_le_bytes());
    put(&mut head, t::T_LEN, &(content.len() as u32).to_le_bytes());
    put(&mut head, t::T_REF, &number.to_le_bytes());
    out.extend_from_slice(&head);
    push_padded(out, content);
}

pub(super) fn pull_definition<'a>(bytes: &mut &'a [u8]) -> Option<Definition<'a>> {
    let of = u32_at(bytes, t::T_TYPE)?;
    let len = u32_at(bytes, t::T_LEN)? as usize;
    let number = u32_at(bytes, t::T_REF)?;
    let rest = bytes.get(t::HEAD as usize..)?;
    let content = rest.get(..len)?;
    *bytes = rest.get(len + pad8(len)..)?;
    Some(Definition { of, number, content })
}

/// Sites and threads that a segment has defined so far.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub sites: HashMap<u32, Arc<Site>>,
    pub threads: HashMap<u32, Arc<Thread>>,
}

impl Tables {
    pub fn clear(&mut self) {
        self.sites.clear();
        self.threads.clear();
    }
    pub fn add(&mut self, mut bytes: &[u8]) {
        while let Some(d) = pull_definition(&mut bytes) {
            match d.of {
                t::SITE => {
                    if let Some(site) = Site::decode(d.content) {
                        self.sites.insert(d.number, Arc::new(site));
                    }
                }
                t::THREAD => {
                    if let Some(thread) = Thread::decode(d.content) {
                        self.threads.insert(d.number, Arc::new(thread));
                    }
                }
                _ => {}
            }
        }
    }
}

/// What a loss record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How many records are lost.
    pub count: u64,
    /// None was called before, ns since the epoch.
    pub from_utc: i64,
    /// None was called after, ns since the epoch.
    pub to_utc: i64,
}

impl Loss {
    /// The payload of a record of kind [`kind::LOSS`].
    pub fn encode(&self) -> [u8; loss::LEN] {
        let mut o = [0; loss::LEN];
        put(&mut o, loss::L_COUNT, &self.count.to_le_bytes());
        put(&mut o, loss::L_FROM, &self.from_utc.to_le_bytes());
        put(&mut o, loss::L_TO, &self.to_utc.to_le_bytes());
        o
    }
    /// From such a payload; `None` if it is too short.
    pub fn decode(payload: &[u8]) -> Option<Loss> {
        Some(Loss {
            count: u64_at(payload, loss::L_COUNT)?,
            from_utc: i64_at(payload, loss::L_FROM)?,
            to_utc: i64_at(payload, loss::L_TO)?,
        })
    }
}

/// A place between two records, for a sink's durable cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The journal, 0 = not known.
    pub journal_id: u64,
    /// The segment.
    pub segment: Segment,
    /// Offset of the last batch that was read, 0 = none yet in this segment.
    pub offset: u64,
    /// Its crc, 0 = none.
    pub crc: u32,
    /// Number of the next record.
    pub next_record: u64,
}

impl Position {
    /// The same place, but only from record `n` on: for a sink that stops within a batch, from
    /// [`BatchView::before`](super::BatchView::before).
    pub fn at_record(mut self, n: u64) -> Position {
        self.next_record = self.next_record.max(n);
        self
    }
    /// Fixed bytes with a checksum.
    pub fn to_bytes(&self) -> [u8; p::LEN] {
        let mut o = [0; p::LEN];
        put(&mut o, p::P_MAGIC, &p::MAGIC.to_le_bytes());
        put(&mut o, p::P_JOURNAL_ID, &self.journal_id.to_le_bytes());
        put(&mut o, p::P_FIRST_RECORD, &self.segment.first_record.to_le_bytes());
        put(&mut o, p::P_SEGMENT_ID, &self.segment.id.to_le_bytes());
        put(&mut o, p::P_BATCH_CRC, &self.crc.to_le_bytes());
        put(&mut o, p::P_OFFSET, &self.offset.to_le_bytes());
        put(&mut o, p::P_NEXT_RECORD, &self.next_record.to_le_bytes());
        let crc = crc32c::crc32c(&o[p::P_JOURNAL_ID as usize..]);
        put(&mut o, p::P_CRC, &crc.to_le_bytes());
        o
    }
    /// From [`Position::to_bytes`]; `None` if they are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Position> {
        let o = bytes.get(..p::LEN)?;
        let crc = crc32c::crc32c(&o[p::P_JOURNAL_ID as usize..]);
        if u32_at(o, p::P_MAGIC)? != p::MAGIC || u32_at(o, p::P_CRC)? != crc {
            return None;
        }
        Some(Position {
            journal_id: u64_at(o, p::P_JOURNAL_ID)?,
            segment: Segment { first_record: u64_at(o, p::P_FIRST_RECORD)?, id: u32_at(o, p::P_SEGMENT_ID)? },
            offset: u64_at(o, p::P_OFFSET)?,
            crc: u32_at(o, p::P_BATCH_CRC)?,
            next_record: u64_at(o, p::P_NEXT_RECORD)?,
        })
    }
}
