//! The writing half: recovery, batches, rotation, retention, sync.

use crate::sys::hash::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::format::{
    BadHeader, BatchHeader, CursorKey, Position, Record, Segment, SegmentHeader, SiteFacts, ThreadFacts,
    fold_cursors, pull_definition, pull_record, push_cursor, push_definition, push_record, put,
};
use super::read::{Look, all_zero, find_forward, look, open_header, segments};
use super::storage::{Standing, Storage};
use crate::error::{Code, Error, Result};
use crate::layout::journal::{self as l, batch as b, record as r, table as t};

/// When bytes are made durable against the death of the machine. Processes may die at any time anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// Never: the kernel writes them when it likes.
    #[default]
    None,
    /// At most so many milliseconds after they were written; the caller must call [`Journal::tick`].
    EveryMs(u32),
    /// Before [`Journal::commit`] returns.
    EveryBatch,
}

/// How the journal is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment that would pass this many bytes is not continued. A larger batch gets one of its own.
    /// At most a quarter of `retention_bytes` is used of it, and at least 4096.
    pub max_segment_bytes: u64,
    /// A segment older than this is not continued, ns.
    pub max_segment_age_ns: Option<u64>,
    /// Old segments are deleted while all together have more bytes; passed by a batch at most.
    pub retention_bytes: u64,
    /// Segments last written longer ago than this are deleted, ns.
    pub retention_age_ns: Option<u64>,
    /// Durability.
    pub sync: Sync,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_segment_bytes: 64 << 20,
            max_segment_age_ns: None,
            retention_bytes: 1 << 30,
            retention_age_ns: None,
            sync: Sync::None,
        }
    }
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The cursors, folded.
    pub cursors: BTreeMap<CursorKey, Vec<u8>>,
    /// Number of the next record.
    pub next_record: u64,
    /// The latest time of a record so far, ns since the epoch.
    pub last_time: Option<i64>,
    /// Random number of the journal, the same for its whole life.
    pub journal_id: u64,
    /// What was cut or is damaged, a sentence each, for people.
    pub lines: Vec<String>,
}

/// Where a batch went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPos {
    /// The place behind the batch.
    pub position: Position,
    /// Bytes of the batch; 0 if there was nothing to write.
    pub len: u64,
    /// Records in it.
    pub records: u32,
}

/// What [`Journal::take`] took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Records.
    pub records: u32,
    /// Their bytes, encoded.
    pub bytes: usize,
    /// Bytes of their payloads.
    pub payload: u64,
    /// Time of the last one.
    pub last_time: i64,
}

/// What encoded records are together, for [`Journal::take_whole`].
#[derive(Clone, Copy, Debug)]
pub struct Together<'a> {
    /// Records.
    pub records: u32,
    /// Bytes of their payloads.
    pub payload: u64,
    /// Time of the last one: the latest.
    pub last_time: i64,
    /// Their thread.
    pub thread: u32,
    /// Their sites, each at least once.
    pub sites: &'a [u32],
}

/// Facts by number, and numbers by facts.
#[derive(Debug, Default)]
struct Interner {
    numbers: HashMap<Arc<[u8]>, u32>,
    /// By number; number 0 is nobody.
    facts: Vec<Option<Arc<[u8]>>>,
    /// By number: whether the current segment (or the batch in progress) defines it.
    defined: Vec<bool>,
}

impl Interner {
    /// Sets a number that an earlier writer gave.
    fn restore(&mut self, number: u32, content: &[u8]) {
        let i = number as usize;
        if self.facts.len() <= i {
            self.facts.resize(i + 1, None);
            self.defined.resize(i + 1, false);
        }
        let content: Arc<[u8]> = content.into();
        self.numbers.insert(content.clone(), number);
        self.facts[i] = Some(content);
        self.defined[i] = true;
    }
    fn number(&mut self, content: &[u8]) -> u32 {
        if let Some(&n) = self.numbers.get(content) {
            return n;
        }
        let n = self.facts.len().max(1);
        self.restore(n as u32, content);
        self.defined[n] = false;
        n as u32
    }
    /// The facts of a number that the segment does not define yet. An error if there is no such number.
    #[inline(always)]
    fn missing(&mut self, number: u32) -> std::result::Result<Option<Arc<[u8]>>, ()> {
        // Number 0 is nobody, and never to be defined.
        if number == 0 || self.defined.get(number as usize) == Some(&true) {
            Ok(None)
        } else {
            self.first(number)
        }
    }
    #[cold]
    fn first(&mut self, number: u32) -> std::result::Result<Option<Arc<[u8]>>, ()> {
        let content = self.facts.get(number as usize).and_then(Option::as_ref).ok_or(())?;
        self.defined[number as usize] = true;
        Ok(Some(content.clone()))
    }
    fn retire(&mut self, number: u32) {
        if let Some(content) = self.facts.get_mut(number as usize).and_then(Option::take) {
            self.numbers.remove(&content);
            self.defined[number as usize] = false;
        }
    }
}

#[derive(Debug)]
struct Current {
    segment: Segment,
    name: String,
    key: u64,
    created: i64,
    /// Bytes of valid batches and header.
    len: u64,
    /// The last batch: offset and crc.
    prev: u64,
    crc: u32,
    prev_tables: u64,
}

#[derive(Debug)]
struct Kept {
    segment: Segment,
    len: u64,
    last_written: i64,
}

/// The journal, for its one writer. Not async-signal-safe; may block on the disk.
///
/// A batch is built by [`site`](Self::site), [`thread`](Self::thread), [`record`](Self::record) and
/// [`cursor`](Self::cursor) between [`begin`](Self::begin) and [`commit`](Self::commit).
#[derive(Debug)]
pub struct Journal<S: Storage> {
    storage: S,
    options: Options,
    journal_id: u64,
    current: Current,
    next_id: u32,
    /// All segments, oldest first; the last one is the current one.
    kept: VecDeque<Kept>,
    sites: Interner,
    threads: Interner,
    cursors: BTreeMap<CursorKey, Vec<u8>>,
    next_record: u64,
    last_time: i64,
    seq: u64,

    /// Room for a segment header and a batch header, then the records of the batch in progress.
    batch: Vec<u8>,
    tables: Vec<u8>,
    /// Cursors of the batch in progress, encoded.
    changed: Vec<u8>,
    /// What the batch in progress defines, so that `abort` can take it back.
    defines: Vec<(u32, u32)>,
    count: u32,
    begun: i64,
    batch_last_time: i64,

    /// The next batch must start a segment: decided once, kept until it is done, because the
    /// definitions were made anew for it.
    rotate: bool,
    /// The file may have bytes behind `current.len` that could not be cut away yet.
    uncut: bool,
    /// Files of failed rotations that could not be removed yet.
    garbage: Vec<String>,
    dirty_since: Option<i64>,
    /// Whether a cursor was dropped since the last batch.
    dropping: bool,
    dir_dirty: bool,
    retention_stuck: bool,
    notices: Vec<String>,
    scratch: Vec<u8>,
    /// Length of the segment from which on definitions are made once more, so that one damaged batch
    /// does not take the format strings of all the rest of the segment with it.
    repeat_at: u64,
}

const RECORDS_AT: usize = (l::SEG_HEADER + b::HEADER) as usize;
const HEADER_AT: usize = l::SEG_HEADER as usize;
/// Bytes of records that a copy is saved for.
const MANY: usize = 64 << 10;
/// Room that records leave in the largest batch for definitions and cursors.
const META_ROOM: u64 = 64 << 20;
/// How often a segment defines a site or thread that it uses all the time.
const REPEATS: u64 = 16;
/// Numbers of sites and threads above this are not taken over from a file.
const MAX_RESTORED: u32 = 1 << 24;

impl<S: Storage> Journal<S> {
    /// Recovers what is there, and opens it for writing; the first segment is made if there is none.
    ///
    /// Errors: [`Code::Version`] (a segment of a newer version), [`Code::OtherJournal`] (segments of
    /// several journals in one directory), [`Code::NoSpace`], [`Code::Permission`], [`Code::Os`].
    /// Nothing was changed then, except that a torn tail may have been cut.
    pub fn open(mut storage: S, options: Options, now_utc: i64) -> Result<(Journal<S>, Recovered)> {
        let place = storage.place();
        let mut lines = Vec::new();
        let all = segments(&storage).map_err(|e| Error::os(format!("list the journal in {place}"), e))?;

        // Newest first, down to the newest one with a full set of cursors.
        let mut scans: VecDeque<Scan> = VecDeque::new();
        for segment in all.iter().rev() {
            let scan = Scan::of(&storage, segment.clone())?;
            let full = scan.full;
            scans.push_back(scan);
            if full {
                break;
            }
        }
        let mut journal_id = None;
        for id in scans.iter().filter_map(|s| s.journal_id) {
            if *journal_id.get_or_insert(id) != id {
                return Err(Error::new(
                    Code::OtherJournal,
                    format!("{place} holds segments of two journals: move one of them to another directory"),
                ));
            }
        }

        // A newest segment that a crash left before its first batch holds nothing. Only one can be there,
        // but a second costs nothing.
        let mut removed = 0;
        while let Some(s) = scans.front().filter(|s| s.batches == 0 && s.tail == Tail::Torn) {
            let name = s.segment.to_string();
            let what = || format!("remove {place}/{name}, which was begun and not written");
            storage.remove(&name).map_err(|e| Error::os(what(), e))?;
            lines.push(format!("{place}/{name}: begun and not written ({} bytes), removed", s.len));
            scans.pop_front();
            removed += 1;
        }

        let mut cursors = BTreeMap::new();
        let (mut next_record, mut last_time, mut seq) = (0, i64::MIN, 0);
        for s in scans.iter().rev() {
            if s.full {
                cursors.clear();
            }
            cursors.extend(s.cursors.iter().map(|(k, v)| (*k, v.clone())));
            next_record = next_record.max(s.end_record);
            last_time = last_time.max(s.last_time);
            seq = seq.max(s.next_seq);
            for &(from, to) in &s.damage {
                let bytes = to - from;
                lines.push(format!(
                    "{place}/{}: {bytes} damaged bytes at {from}, kept as they are",
                    s.segment
                ));
            }
            if let Err(BadHeader::Damaged) = s.header {
                lines.push(format!("{place}/{}: its header is damaged, kept as it is", s.segment));
            }
        }
        cursors.retain(|_, v: &mut Vec<u8>| !v.is_empty());
        if !scans.is_empty() && !scans.iter().any(|s| s.full) {
            lines.push(format!("{place}: no segment holds a full set of cursors; what is there is used"));
        }

        let mut kept = VecDeque::new();
        for segment in &all[..all.len() - removed] {
            let name = segment.to_string();
            let len = storage.len(&name).unwrap_or(0);
            let header = open_header(&storage, &name).ok().and_then(|h| h.header.ok());
            if let Some(h) = header {
                // The segment before was last written when this one was made, at the latest.
                if let Some(before) = kept.back_mut().map(|k: &mut Kept| &mut k.last_written) {
                    *before = h.created;
                }
                journal_id = journal_id.or(Some(h.journal_id));
            }
            let created = header.map_or(now_utc, |h| h.created);
            kept.push_back(Kept { segment: segment.clone(), len, last_written: created });
        }

        // Only an undamaged newest segment is continued, its torn tail cut off.
        let mut continued = None;
        if let (Some(s), Some(k)) = (scans.front(), kept.back_mut()) {
            k.last_written = k.last_written.max(s.last_written);
            let sound = s.header.is_ok() && s.full && s.damage.is_empty() && s.tail != Tail::Damaged;
            if sound && s.tables_restorable() {
                let name = s.segment.to_string();
                if s.tail == Tail::Torn {
                    let what = || format!("cut the torn tail of {place}/{name}");
                    storage.truncate(&name, s.valid_end).map_err(|e| Error::os(what(), e))?;
                    let bytes = s.len - s.valid_end;
                    let at = s.valid_end;
                    lines.push(format!("{place}/{name}: {bytes} bytes of a torn batch at {at}, cut off"));
                    k.len = s.valid_end;
                }
                continued = scans.pop_front();
            } else if s.tail != Tail::Clean {
                let (bytes, at) = (s.len - s.valid_end, s.valid_end);
                lines.push(format!("{place}/{}: {bytes} damaged bytes at {at}, kept as they are", s.segment));
            }
        }

        let journal_id = match journal_id {
            Some(id) => id,
            // 0 stands for not known.
            None => storage.random().max(1),
        };
        let next_id = all.iter().map(|s| s.id).max().map_or(1, |id| id.wrapping_add(1));
        let rotate = continued.is_none();
        let mut j = Journal {
            journal_id,
            current: Current {
                segment: Segment { first_record: next_record, id: 0 },
                name: String::new(),
                key: 0,
                created: now_utc,
                len: 0,
                prev: 0,
                crc: 0,
                prev_tables: 0,
            },
            next_id,
            kept,
            sites: Interner::default(),
            threads: Interner::default(),
            cursors: cursors.clone(),
            next_record,
            last_time,
            seq,
            batch: vec![0; RECORDS_AT],
            tables: Vec::new(),
            changed: Vec::new(),
            defines: Vec::new(),
            count: 0,
            begun: now_utc,
            batch_last_time: last_time,
            rotate,
            uncut: false,
            garbage: Vec::new(),
            // What an earlier writer left may be not durable yet.
            dropping: false,
            dirty_since: (options.sync != Sync::None && !rotate).then_some(now_utc),
            dir_dirty: options.sync != Sync::None,
            retention_stuck: false,
            notices: Vec::new(),
            scratch: Vec::new(),
            repeat_at: 0,
            storage,
            options,
        };
        if let Some(s) = continued {
            j.current = Current {
                name: s.segment.to_string(),
                segment: s.segment,
                key: s.key.unwrap_or(0),
                created: s.header.map_or(now_utc, |h| h.created),
                len: s.valid_end,
                prev: s.prev,
                crc: s.crc,
                prev_tables: s.prev_tables,
            };
            for (of, number, content) in s.tables {
                let interner = if of == t::SITE { &mut j.sites } else { &mut j.threads };
                interner.restore(number, &content);
            }
        } else {
            // The journal's id must outlive this writer, so the segment is made at once.
            j.write(now_utc)?;
            j.sync_due(now_utc)?;
        }
        j.retain(now_utc);
        let last_time = (last_time != i64::MIN).then_some(last_time);
        Ok((j, Recovered { cursors, next_record, last_time, journal_id, lines }))
    }

    /// Random number of the journal.
    pub fn journal_id(&self) -> u64 {
        self.journal_id
    }
    /// Number of the next record, without those of the batch in progress.
    pub fn next_record(&self) -> u64 {
        self.next_record
    }
    /// The cursors as committed.
    pub fn cursors(&self) -> &BTreeMap<CursorKey, Vec<u8>> {
        &self.cursors
    }
    /// Bytes of records in the batch in progress.
    pub fn batch_bytes(&self) -> usize {
        self.batch.len() - RECORDS_AT
    }
    /// Whether there is a batch in progress: something that `commit` would write.
    pub fn pending(&self) -> bool {
        self.count > 0 || !self.changed.is_empty() || !self.tables.is_empty()
    }
    /// Bytes of all segments.
    pub fn total_bytes(&self) -> u64 {
        self.kept.iter().map(|k| k.len).sum()
    }
    /// The storage, for a reader beside the writer.
    pub fn storage(&self) -> &S {
        &self.storage
    }
    /// What people should know, since the last call.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
    /// The place behind the last batch.
    pub fn position(&self) -> Position {
        Position {
            journal_id: self.journal_id,
            segment: self.current.segment.clone(),
            offset: self.current.prev,
            crc: self.current.crc,
            next_record: self.next_record,
        }
    }

    /// Begins a batch. One that a failed commit left is continued.
    pub fn begin(&mut self, now_utc: i64) {
        if !self.pending() {
            self.begun = now_utc;
        }
    }

    /// The number of a site; the same facts get the same number. To be cached by the caller.
    pub fn site(&mut self, facts: &SiteFacts<'_>) -> u32 {
        self.scratch.clear();
        facts.encode(&mut self.scratch);
        self.sites.number(&self.scratch)
    }
    /// The number of a thread, likewise.
    pub fn thread(&mut self, facts: &ThreadFacts<'_>) -> u32 {
        self.scratch.clear();
        facts.encode(&mut self.scratch);
        self.threads.number(&self.scratch)
    }
    /// Forgets a thread that writes no more, so that memory is bounded by the living ones. Its number is
    /// not used again. Not while the batch in progress has records of it.
    pub fn retire_thread(&mut self, number: u32) {
        self.threads.retire(number);
    }

    /// Adds a record to the batch and answers its number. Sites and threads (0 = none) are defined in the
    /// segment as needed. Errors: [`Code::TooLarge`] (the payload, or commit first), [`Code::BadValue`]
    /// (no such site or thread); nothing was added then.
    #[allow(clippy::too_many_arguments)]
    pub fn record(
        &mut self,
        kind: u8,
        flags: u8,
        thread: u32,
        site: u32,
        utc_ns: i64,
        ticks: u64,
        payload: &[u8],
    ) -> Result<u64> {
        let len = payload.len() as u64;
        if len > l::MAX_PAYLOAD || self.batch.len() as u64 + len + 64 > l::MAX_BATCH - META_ROOM {
            return Err(too_large(len));
        }
        self.define(site, thread)?;
        push_record(&mut self.batch, &Record { site, thread, kind, flags, utc_ns, ticks, payload });
        let number = self.next_record + u64::from(self.count);
        self.count += 1;
        self.batch_last_time = self.batch_last_time.max(utc_ns);
        Ok(number)
    }

    /// Adds records that are [encoded](Record::encode), from the front: the first one, and those behind it
    /// as long as the batch has less than `most` bytes and none is later than `until`. Each gets the time
    /// `from` if its own is earlier. Their times do not step back. Errors as those of [`record`](Self::record)
    /// for the first one; nothing was added then.
    pub fn take(&mut self, records: &[u8], from: i64, until: i64, most: usize) -> Result<Taken> {
        let room = (l::MAX_BATCH - META_ROOM - 64).saturating_sub(self.batch.len() as u64) as usize;
        let most = most.saturating_sub(self.batch_bytes());
        let mut taken = Taken::default();
        let (mut rest, mut last) = (records, (0, 0));
        while let Some(x) = pull_record(&mut rest) {
            let end = records.len() - rest.len();
            let more = taken.records > 0;
            if more && (taken.bytes >= most || x.utc_ns > until) {
                break;
            }
            if end > room || x.payload.len() as u64 > l::MAX_PAYLOAD {
                if more {
                    break;
                }
                return Err(too_large(x.payload.len() as u64));
            }
            // Mostly the next record has the same.
            if last != (x.site, x.thread) {
                match self.define(x.site, x.thread) {
                    Err(_) if more => break,
                    defined => defined?,
                }
                last = (x.site, x.thread);
            }
            taken.bytes = end;
            taken.records += 1;
            taken.payload += x.payload.len() as u64;
            taken.last_time = x.utc_ns.max(from);
        }
        let at = self.batch.len();
        self.batch.extend_from_slice(&records[..taken.bytes]);
        let (mut rest, mut head) = (&records[..taken.bytes], at);
        while pull_record(&mut rest).is_some_and(|x| x.utc_ns < from) {
            put(&mut self.batch[head..], r::R_UTC, &from.to_le_bytes());
            head = at + taken.bytes - rest.len();
        }
        self.count += taken.records;
        self.batch_last_time = self.batch_last_time.max(taken.last_time);
        Ok(taken)
    }

    /// Room that a vector of encoded records has at its beginning for [`take_whole`](Self::take_whole).
    pub const ROOM: usize = RECORDS_AT;

    /// Whether [`take_whole`](Self::take_whole) takes these without a copy if they are the first of a batch.
    pub fn goes_uncopied(all: &[u8], from: usize, len: usize) -> bool {
        // Few are copied: else large vectors would go round among all that bring records.
        len >= MANY && (from, all.len()) == (RECORDS_AT, RECORDS_AT + len)
    }

    /// Adds all the [encoded](Record::encode) records in `all[from..][..len]`, without a look at each of them: their
    /// times are as they are to be. Into an empty batch many that fill the vector behind its [`ROOM`](Self::ROOM) go
    /// without a copy: `all` gets another vector then, with that room and nothing else. False: nothing was added;
    /// they go one by one ([`take`](Self::take)), or not at all.
    pub fn take_whole(&mut self, all: &mut Vec<u8>, from: usize, len: usize, of: &Together<'_>) -> bool {
        if of.sites.iter().any(|&site| self.define(site, of.thread).is_err()) {
            return false;
        }
        if self.batch.len() == RECORDS_AT && Self::goes_uncopied(all, from, len) {
            std::mem::swap(&mut self.batch, all);
        } else {
            self.batch.extend_from_slice(&all[from..from + len]);
        }
        self.count += of.records;
        self.batch_last_time = self.batch_last_time.max(of.last_time);
        true
    }

    /// Sets a cursor: its whole value; empty drops it. The last one of a batch counts.
    pub fn cursor(&mut self, key: CursorKey, value: &[u8]) {
        self.dropping |= value.is_empty();
        push_cursor(&mut self.changed, key, value);
    }

    /// Drops the batch in progress. Its record numbers are given again.
    pub fn abort(&mut self) {
        self.batch.truncate(RECORDS_AT);
        self.tables.clear();
        self.changed.clear();
        for (of, number) in self.defines.drain(..) {
            let interner = if of == t::SITE { &mut self.sites } else { &mut self.threads };
            interner.defined[number as usize] = false;
        }
        self.count = 0;
        self.batch_last_time = self.last_time;
    }

    /// Writes the batch: one append, which is the commit. Without a batch only a sync that is due is done.
    ///
    /// On an error either the batch is still [`pending`](Self::pending), and nothing of it is in the
    /// journal: commit again, or abort. Or it is not pending any more, and is in the journal but not
    /// durable as [`Sync`] asks: commit again to have the sync tried again. (A kernel that has reported
    /// a failed sync may have dropped the bytes and report success then.)
    ///
    /// Codes: [`Code::NoSpace`], [`Code::FileLimit`], [`Code::BadFile`] (the descriptor or the file is not
    /// ours any more: stop), [`Code::TooLarge`], [`Code::Os`].
    pub fn commit(&mut self, now_utc: i64) -> Result<BatchPos> {
        let mut pos = BatchPos { position: self.position(), len: 0, records: self.count };
        if self.pending() {
            let standing = self.storage.still_ours().map_err(|e| Error::os(self.what("check"), e))?;
            match standing {
                Standing::Ours => {}
                Standing::Replaced => {
                    return Err(Error::new(
                        Code::BadFile,
                        format!(
                            "{} is not what this journal wrote: its descriptor was closed or another program \
                             writes to it; stop that program and start the drain again",
                            self.what("journal segment")
                        ),
                    ));
                }
                Standing::Unlinked => {
                    if !self.rotate {
                        let what = self.what("journal segment");
                        self.notices.push(format!("{what} was deleted by somebody; a new one is begun"));
                    }
                    self.rotate = true;
                    self.uncut = false;
                }
            }
            pos.len = self.write(now_utc)?;
            pos.position = self.position();
        }
        self.sync_due(now_utc)?;
        self.retain(now_utc);
        Ok(pos)
    }

    /// Does what is due by time: sync, retention by age. Call it at least as often as the sync interval.
    pub fn tick(&mut self, now_utc: i64) -> Result<()> {
        self.sync_due(now_utc)?;
        self.retain(now_utc);
        Ok(())
    }

    /// Makes everything committed durable, whatever the policy.
    pub fn sync(&mut self) -> Result<()> {
        self.storage.sync(&self.current.name).map_err(|e| Error::os(self.what("sync"), e))?;
        self.storage.sync_dir().map_err(|e| Error::os(self.what("sync the directory of"), e))?;
        self.dirty_since = None;
        self.dir_dirty = false;
        Ok(())
    }

    fn what(&self, verb: &str) -> String {
        format!("{verb} {}/{}", self.storage.place(), self.current.name)
    }

    /// Cuts away and removes what failed writes have left.
    fn tidy(&mut self) -> Result<()> {
        if self.uncut {
            let what = self.what("cut a torn batch off");
            self.storage.truncate(&self.current.name, self.current.len).map_err(|e| Error::os(what, e))?;
            self.uncut = false;
        }
        while let Some(name) = self.garbage.last() {
            match self.storage.remove(name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::os(format!("remove {}/{name}", self.storage.place()), e));
                }
                _ => self.garbage.pop(),
            };
        }
        Ok(())
    }

    fn largest(&self) -> u64 {
        self.options
            .max_segment_bytes
            .min(self.options.retention_bytes / 4)
            .max(4096)
            .min(self.storage.file_limit())
    }

    /// Appends the batch in progress, to a new segment if need be; answers its bytes.
    fn write(&mut self, now: i64) -> Result<u64> {
        self.tidy()?;
        let records_end = self.batch.len();
        let age = now.saturating_sub(self.current.created).max(0) as u64;
        let after = self.current.len
            + (records_end - HEADER_AT) as u64
            + (self.tables.len() + self.changed.len()) as u64;
        // A segment with nothing but its first cursors is never too old or too full.
        let used = self.next_record > self.current.segment.first_record || self.current.len > self.largest();
        if used && (after > self.largest() || self.options.max_segment_age_ns.is_some_and(|max| age >= max)) {
            self.rotate = true;
        }
        if self.rotate {
            // The old segment gets no sync any more once its successor is the current one.
            if self.options.sync != Sync::None && self.dirty_since.is_some() {
                self.storage.sync(&self.current.name).map_err(|e| Error::os(self.what("sync"), e))?;
                self.dirty_since = None;
            }
            self.define_anew()?;
        }
        self.batch.extend_from_slice(&self.tables);
        if self.rotate {
            let mut all = self.cursors.clone();
            // Encoded by us just now: it decodes.
            let _ = fold_cursors(&self.changed, &mut all);
            for (key, value) in all.iter().filter(|(_, v)| !v.is_empty()) {
                push_cursor(&mut self.batch, *key, value);
            }
        } else {
            self.batch.extend_from_slice(&self.changed);
        }
        let result = self.append(records_end, now);
        self.batch.truncate(records_end);
        let (next, len) = result?;

        // From here on the batch is in the journal.
        let rotated = self.rotate;
        if self.rotate {
            self.kept.push_back(Kept { segment: next.segment.clone(), len: 0, last_written: now });
            self.dir_dirty = true;
            self.retention_stuck = false;
            self.rotate = false;
        }
        self.current = next;
        if let Some(k) = self.kept.back_mut() {
            k.len = self.current.len;
            k.last_written = now;
        }
        let _ = fold_cursors(&self.changed, &mut self.cursors);
        if std::mem::take(&mut self.dropping) {
            self.cursors.retain(|_, v| !v.is_empty());
        }
        self.next_record += u64::from(self.count);
        self.last_time = self.batch_last_time;
        self.seq += 1;
        self.dirty_since.get_or_insert(now);
        self.defines.clear();
        self.abort();
        if rotated || self.current.len >= self.repeat_at {
            if !rotated {
                self.sites.defined.fill(false);
                self.threads.defined.fill(false);
            }
            self.repeat_at = self.current.len + self.largest() / REPEATS;
        }
        Ok(len)
    }

    /// Heads and appends what stands in `batch`. On an error the file is as before, or noted as not.
    fn append(&mut self, records_end: usize, now: i64) -> Result<(Current, u64)> {
        let len = (self.batch.len() - HEADER_AT) as u64;
        if len > l::MAX_BATCH {
            return Err(too_large(len));
        }
        let mut next = if self.rotate {
            let segment = Segment { first_record: self.next_record, id: self.next_id };
            self.next_id = self.next_id.wrapping_add(1);
            let name = segment.to_string();
            let (key, created) = (self.storage.random(), now);
            Current { segment, name, key, created, len: l::SEG_HEADER, prev: 0, crc: 0, prev_tables: 0 }
        } else {
            let Current { segment, name, key, created, len, prev, crc, prev_tables } = &self.current;
            let (segment, name) = (segment.clone(), name.clone());
            let (key, created, len, prev, crc) = (*key, *created, *len, *prev, *crc);
            Current { segment, name, key, created, len, prev, crc, prev_tables: *prev_tables }
        };
        let header = BatchHeader {
            crc: 0,
            flags: if self.rotate { b::FULL } else { 0 },
            len: len as u32,
            count: self.count,
            offset: next.len,
            key: next.key,
            seq: self.seq,
            first_record: self.next_record,
            last_time: self.batch_last_time,
            written: self.begun,
            prev: next.prev,
            prev_tables: next.prev_tables,
            records_len: (records_end - RECORDS_AT) as u32,
            tables_len: self.tables.len() as u32,
            cursors_len: (self.batch.len() - records_end - self.tables.len()) as u32,
            records_crc: crc32c::crc32c(&self.batch[RECORDS_AT..records_end]),
            meta_crc: crc32c::crc32c(&self.batch[records_end..]),
        };
        next.crc = header.encode(&mut self.batch[HEADER_AT..]);
        next.prev = header.offset;
        if header.tables_len > 0 {
            next.prev_tables = header.offset;
        }
        next.len = header.end();

        let place = self.storage.place();
        let what = || format!("append to {place}/{}", next.name);
        let bytes = if self.rotate {
            let head = SegmentHeader {
                journal_id: self.journal_id,
                key: next.key,
                id: next.segment.id,
                first_record: next.segment.first_record,
                created: next.created,
            };
            self.batch[..HEADER_AT].copy_from_slice(&head.encode());
            self.storage
                .create(&next.name)
                .map_err(|e| Error::os(format!("create {place}/{}", next.name), e))?;
            // Header and first batch in one write: the segment begins to exist with its cursors.
            &self.batch[..]
        } else {
            &self.batch[HEADER_AT..]
        };
        let error = match self.storage.append(&next.name, bytes) {
            Ok(n) if n == bytes.len() => return Ok((next, len)),
            Ok(n) => {
                let of = bytes.len();
                let message = format!(
                    "{}: only {n} of {of} bytes fit: free some space there; the rest is kept and tried again",
                    what()
                );
                Error::new(Code::NoSpace, message)
            }
            Err(e) => Error::os(what(), e),
        };
        if self.rotate {
            self.garbage.push(next.name);
        } else {
            self.uncut = true;
        }
        // If that fails too, nothing is appended before it is done.
        let _ = self.tidy();
        Err(error)
    }

    /// A new segment defines what its first batch uses, and nothing yet of what the old one had.
    fn define_anew(&mut self) -> Result<()> {
        self.sites.defined.fill(false);
        self.threads.defined.fill(false);
        self.tables.clear();
        self.defines.clear();
        let mut records = &self.batch[RECORDS_AT..];
        while let Some(x) = pull_record(&mut records) {
            define(&mut self.sites, t::SITE, x.site, &mut self.tables, &mut self.defines)?;
            define(&mut self.threads, t::THREAD, x.thread, &mut self.tables, &mut self.defines)?;
        }
        Ok(())
    }

    /// Sees to it that the segment has this site and this thread.
    fn define(&mut self, site: u32, thread: u32) -> Result<()> {
        define(&mut self.sites, t::SITE, site, &mut self.tables, &mut self.defines)?;
        define(&mut self.threads, t::THREAD, thread, &mut self.tables, &mut self.defines)
    }

    fn sync_due(&mut self, now: i64) -> Result<()> {
        let due = match (self.options.sync, self.dirty_since) {
            (Sync::None, _) | (_, None) => false,
            (Sync::EveryBatch, Some(_)) => true,
            (Sync::EveryMs(ms), Some(since)) => now.saturating_sub(since) >= i64::from(ms) * 1_000_000,
        };
        if due {
            self.storage.sync(&self.current.name).map_err(|e| Error::os(self.what("sync"), e))?;
            if self.dir_dirty {
                self.storage.sync_dir().map_err(|e| Error::os(self.what("sync the directory of"), e))?;
            }
            self.dirty_since = None;
            self.dir_dirty = false;
        }
        Ok(())
    }

    /// Deletes old segments, never the current one. What fails is tried again after the next rotation.
    fn retain(&mut self, now: i64) {
        let mut total = self.total_bytes();
        while !self.retention_stuck && self.kept.len() > 1 {
            let old = &self.kept[0];
            let age = now.saturating_sub(old.last_written).max(0) as u64;
            let aged = self.options.retention_age_ns.is_some_and(|max| age > max);
            if total <= self.options.retention_bytes && !aged {
                break;
            }
            // The cursors must not be durable only in what is about to go.
            if self.options.sync != Sync::None && self.dirty_since.is_some() && self.sync().is_err() {
                break;
            }
            let name = self.kept[0].segment.to_string();
            match self.storage.remove(&name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    let what = format!("remove the old segment {}/{name}", self.storage.place());
                    self.notices.push(Error::os(what, e).to_string());
                    self.retention_stuck = true;
                }
                _ => {
                    total -= self.kept[0].len.min(total);
                    self.kept.pop_front();
                }
            }
        }
    }
}

#[cold]
fn too_large(len: u64) -> Error {
    Error::new(
        Code::TooLarge,
        format!(
            "a payload of {len} bytes does not fit: a record may have {} and a batch {}; commit more often, \
             or split it",
            l::MAX_PAYLOAD,
            l::MAX_BATCH - META_ROOM
        ),
    )
}

/// Defines a site or thread in the batch in progress if its segment does not have it yet.
#[inline(always)]
fn define(
    interner: &mut Interner,
    of: u32,
    number: u32,
    tables: &mut Vec<u8>,
    defines: &mut Vec<(u32, u32)>,
) -> Result<()> {
    match interner.missing(number) {
        Ok(None) => Ok(()),
        Ok(Some(content)) => {
            push_definition(tables, of, number, &content);
            defines.push((of, number));
            Ok(())
        }
        Err(()) => Err(unknown(of, number)),
    }
}

#[cold]
fn unknown(of: u32, number: u32) -> Error {
    let what = if of == t::SITE { "site" } else { "thread" };
    Error::new(Code::BadValue, format!("there is no {what} {number}: ask the journal for its number first"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// The last valid batch ends where the file ends.
    Clean,
    /// A batch that was never written whole.
    Torn,
    /// Something else.
    Damaged,
}

/// What recovery reads of one segment.
#[derive(Debug)]
struct Scan {
    segment: Segment,
    header: std::result::Result<SegmentHeader, BadHeader>,
    journal_id: Option<u64>,
    key: Option<u64>,
    len: u64,
    full: bool,
    batches: u64,
    cursors: BTreeMap<CursorKey, Vec<u8>>,
    end_record: u64,
    last_time: i64,
    last_written: i64,
    next_seq: u64,
    valid_end: u64,
    prev: u64,
    crc: u32,
    prev_tables: u64,
    tables: Vec<(u32, u32, Vec<u8>)>,
    damage: Vec<(u64, u64)>,
    tail: Tail,
}

impl Scan {
    fn of<S: Storage>(storage: &S, segment: Segment) -> Result<Scan> {
        let name = segment.to_string();
        let what = format!("read {}/{name}", storage.place());
        let os = |e| Error::os(&what, e);
        let len = storage.len(&name).map_err(os)?;
        let opened = open_header(storage, &name).map_err(os)?;
        if let Err(BadHeader::Version(v)) = opened.header {
            return Err(version(&storage.place(), &name, v));
        }
        let mut s = Scan {
            journal_id: opened.header.ok().map(|h| h.journal_id),
            header: opened.header,
            key: opened.key,
            len,
            full: false,
            batches: 0,
            cursors: BTreeMap::new(),
            end_record: segment.first_record,
            last_time: i64::MIN,
            last_written: opened.header.map_or(i64::MIN, |h| h.created),
            next_seq: 0,
            valid_end: if opened.key.is_some() { l::SEG_HEADER.min(len) } else { 0 },
            prev: 0,
            crc: 0,
            prev_tables: 0,
            tables: Vec::new(),
            damage: Vec::new(),
            tail: Tail::Clean,
            segment,
        };
        let mut buf = Vec::new();
        while s.valid_end < len {
            let at = s.valid_end;
            match look(storage, &name, s.key, at, len, &mut buf).map_err(os)? {
                Look::Good(h) => s.take(&h, &buf),
                Look::Bad(h) => {
                    if let Some(next) =
                        find_forward(storage, &name, s.key, at + 8, len, &mut buf).map_err(os)?
                    {
                        s.damage.push((at, next));
                        s.valid_end = next;
                        continue;
                    }
                    let torn = len - at < b::HEADER
                        || h.is_some_and(|h| h.end() > len)
                        || all_zero(storage, &name, at, len).map_err(os)?;
                    s.tail = if torn { Tail::Torn } else { Tail::Damaged };
                    if let (Tail::Damaged, Some(h)) = (s.tail, h) {
                        // It was whole once, so its numbers are taken.
                        s.end_record = s.end_record.max(h.end_record());
                        s.next_seq = s.next_seq.max(h.seq + 1);
                    }
                    break;
                }
            }
        }
        if s.batches == 0 && s.tail == Tail::Clean {
            // Nothing behind the header, or nothing at all.
            s.tail = Tail::Torn;
        }
        Ok(s)
    }

    fn take(&mut self, h: &BatchHeader, batch: &[u8]) {
        // `look` has checked the parts.
        if let Some((_, mut tables, cursors)) = h.split(batch) {
            if h.full() {
                self.full = true;
                self.cursors.clear();
            }
            let _ = fold_cursors(cursors, &mut self.cursors);
            while let Some(d) = pull_definition(&mut tables) {
                self.tables.push((d.of, d.number, d.content.to_vec()));
            }
        }
        self.batches += 1;
        self.end_record = self.end_record.max(h.end_record());
        self.last_time = self.last_time.max(h.last_time);
        self.last_written = self.last_written.max(h.written);
        self.next_seq = self.next_seq.max(h.seq + 1);
        self.valid_end = h.end();
        self.prev = h.offset;
        self.crc = h.crc;
        self.prev_tables = if h.tables_len > 0 { h.offset } else { h.prev_tables };
    }

    fn tables_restorable(&self) -> bool {
        self.tables.iter().all(|(of, n, _)| (*of == t::SITE || *of == t::THREAD) && *n <= MAX_RESTORED)
    }
}

pub(super) fn version(place: &str, name: &str, v: u32) -> Error {
    Error::new(
        Code::Version,
        format!(
            "{place}/{name} is of journal version {v}, this program knows {}: use the program that wrote it, \
             or name another journal directory",
            l::VERSION
        ),
    )
}
