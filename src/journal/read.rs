//! The reading half: batches and records across segments, in order, beside a writer or without one.
//!
//! A reader only reads. What it may meet, and what it makes of it:
//!
//! | seen | made of it |
//! |---|---|
//! | a torn batch at the end of the newest segment | wait: it is being written, or was cut off by a crash |
//! | the same with a valid batch or a newer segment behind it | [`Item::Damaged`], and on behind it |
//! | record numbers that go on further ahead | [`Item::Missed`]: retention was faster |
//! | a file that is no segment | not looked at |

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::format::{
    BadHeader, BatchHeader, Position, Segment, SegmentHeader, Site, Tables, Thread, pull_record,
};
use super::storage::{DirSource, Source};
use super::write::version;
use crate::error::{Code, Error, Result};
use crate::layout::journal::{self as l, batch as b};

/// Segments in order.
pub(super) fn segments<S: Source + ?Sized>(source: &S) -> io::Result<Vec<Segment>> {
    let mut all: Vec<Segment> = source.list()?.iter().filter_map(|n| Segment::parse(n)).collect();
    all.sort();
    Ok(all)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub header: std::result::Result<SegmentHeader, BadHeader>,
    /// From the header or, if that is damaged, from the first batch.
    pub key: Option<u64>,
}

pub(super) fn open_header<S: Source + ?Sized>(source: &S, name: &str) -> io::Result<Opened> {
    let mut head = [0u8; l::SEG_HEADER as usize];
    let n = source.read_at(name, 0, &mut head)?;
    let mut header = SegmentHeader::decode(&head[..n]);
    if header == Err(BadHeader::Damaged) && n == head.len() {
        // A newer version may have a longer header.
        let mut page = vec![0u8; 4096];
        let n = source.read_at(name, 0, &mut page)?;
        header = SegmentHeader::decode(&page[..n]);
    }
    let key = match header {
        Ok(h) => Some(h.key),
        Err(BadHeader::Version(_)) => None,
        Err(BadHeader::Damaged) => {
            // No payload can stand here, so whatever is sound here is the writer's.
            let (mut buf, len) = (Vec::new(), source.len(name)?);
            match look(source, name, None, l::SEG_HEADER, len, &mut buf)? {
                Look::Good(h) => Some(h.key),
                Look::Bad(_) => None,
            }
        }
    };
    Ok(Opened { header, key })
}

/// What stands at a place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    /// A valid batch; it is in the buffer.
    Good(BatchHeader),
    /// None; with its header if that is sound and only the rest is not (or not there).
    Bad(Option<BatchHeader>),
}

/// Looks for a whole batch at `at` of a file that is `len` bytes long.
pub(super) fn look<S: Source + ?Sized>(
    source: &S,
    name: &str,
    key: Option<u64>,
    at: u64,
    len: u64,
    buf: &mut Vec<u8>,
) -> io::Result<Look> {
    let Some(h) = header_at(source, name, key, at)? else { return Ok(Look::Bad(None)) };
    if h.end() > len {
        return Ok(Look::Bad(Some(h)));
    }
    // At most as long as the file and as MAX_BATCH: a hostile length costs no more memory.
    buf.resize(h.len as usize, 0);
    let n = source.read_at(name, at, buf)?;
    let same = n == buf.len() && BatchHeader::at(buf, at, key) == Some(h);
    Ok(if same && h.sound(buf) { Look::Good(h) } else { Look::Bad(Some(h)) })
}

fn header_at<S: Source + ?Sized>(
    source: &S,
    name: &str,
    key: Option<u64>,
    at: u64,
) -> io::Result<Option<BatchHeader>> {
    if key.is_none() && at != l::SEG_HEADER {
        return Ok(None);
    }
    let mut head = [0u8; b::HEADER as usize];
    let n = source.read_at(name, at, &mut head)?;
    Ok(BatchHeader::at(&head[..n], at, key))
}

const WINDOW: u64 = 256 << 10;

/// The first valid batch at or behind `from`. Batches stand at multiples of 8.
pub(super) fn find_forward<S: Source + ?Sized>(
    source: &S,
    name: &str,
    key: Option<u64>,
    from: u64,
    len: u64,
    buf: &mut Vec<u8>,
) -> io::Result<Option<u64>> {
    let mut window = Vec::new();
    let mut start = from.max(l::SEG_HEADER).next_multiple_of(8);
    while key.is_some() && start + b::HEADER <= len {
        for at in candidates(source, name, key, start, start + WINDOW, len, &mut window)? {
            if let Look::Good(_) = look(source, name, key, at, len, buf)? {
                return Ok(Some(at));
            }
        }
        start += WINDOW;
    }
    Ok(None)
}

/// The same towards the front: the end of a whole segment is near, and memory that is touched first costs more than
/// one more read.
const BACK: u64 = 64 << 10;

/// The last valid batch that begins before `below`.
fn find_backward<S: Source + ?Sized>(
    source: &S,
    name: &str,
    key: Option<u64>,
    below: u64,
    len: u64,
    buf: &mut Vec<u8>,
) -> io::Result<Option<BatchHeader>> {
    backward_until(source, name, key, below, len, |at| match look(source, name, key, at, len, buf)? {
        Look::Good(h) => Ok(Some(h)),
        Look::Bad(_) => Ok(None),
    })
}

/// The same, with what `take` makes of a sound header's place.
fn backward_until<S: Source + ?Sized, T>(
    source: &S,
    name: &str,
    key: Option<u64>,
    below: u64,
    len: u64,
    mut take: impl FnMut(u64) -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let mut window = Vec::new();
    let mut end = below;
    while key.is_some() && end > l::SEG_HEADER {
        let start = (end.saturating_sub(BACK) & !7).max(l::SEG_HEADER);
        for at in candidates(source, name, key, start, end, len, &mut window)?.into_iter().rev() {
            if let Some(t) = take(at)? {
                return Ok(Some(t));
            }
        }
        end = start;
    }
    Ok(None)
}

/// Places in `start..end` where a sound header stands. `start` is a multiple of 8.
fn candidates<S: Source + ?Sized>(
    source: &S,
    name: &str,
    key: Option<u64>,
    start: u64,
    end: u64,
    len: u64,
    window: &mut Vec<u8>,
) -> io::Result<Vec<u64>> {
    let want = (end - start).min(len.saturating_sub(start)) + b::HEADER;
    window.resize(want as usize, 0);
    let n = source.read_at(name, start, window)?;
    let window = &window[..n];
    let mut found = Vec::new();
    let words = window.chunks_exact(8).take(((end - start) as usize).div_ceil(8));
    for (i, word) in words.enumerate() {
        // Nearly all of what is looked through: one comparison.
        if word == b::MAGIC.to_le_bytes() {
            let i = i * 8;
            if BatchHeader::at(&window[i..], start + i as u64, key).is_some() {
                found.push(start + i as u64);
            }
        }
    }
    Ok(found)
}

/// The definitions of the batch with this sound header, or none if they are damaged.
fn sound_tables<S: Source + ?Sized>(source: &S, name: &str, h: &BatchHeader) -> io::Result<Vec<u8>> {
    let mut meta = Vec::new();
    if h.end() <= source.len(name)? {
        meta.resize(h.tables_len as usize + h.cursors_len as usize, 0);
        let n = source.read_at(name, h.tables_at(), &mut meta)?;
        let sound = n == meta.len() && crc32c::crc32c(&meta) == h.meta_crc;
        meta.truncate(if sound { h.tables_len as usize } else { 0 });
    }
    Ok(meta)
}

pub(super) fn all_zero<S: Source + ?Sized>(source: &S, name: &str, from: u64, to: u64) -> io::Result<bool> {
    let mut buf = vec![0u8; WINDOW as usize];
    let mut at = from;
    while at < to {
        let want = (to - at).min(WINDOW) as usize;
        let n = source.read_at(name, at, &mut buf[..want])?;
        if n == 0 || buf[..n].iter().any(|&x| x != 0) {
            return Ok(false);
        }
        at += n as u64;
    }
    Ok(true)
}

/// What comes next in the journal.
#[derive(Debug)]
pub enum Item<'a> {
    /// Records.
    Batch(BatchView<'a>),
    /// Records that were deleted before they were read.
    Missed {
        /// How many, exactly.
        records: u64,
    },
    /// Bytes that are no batch. Reading goes on behind them.
    Damaged {
        /// The segment.
        segment: Segment,
        /// Where in it.
        offset: u64,
        /// How many.
        bytes: u64,
        /// How many records are missing for it, by the record numbers before and behind.
        records: u64,
    },
}

/// Notes of the same, without a loan.
#[derive(Debug)]
enum Gap {
    Missed { records: u64 },
    Damaged { segment: Segment, offset: u64, bytes: u64, records: u64 },
}

/// The records of one batch.
#[derive(Debug)]
pub struct BatchView<'a> {
    header: BatchHeader,
    records: &'a [u8],
    tables: &'a Tables,
    nobody: &'a Arc<Thread>,
    skip_below: u64,
    before: Position,
    after: Position,
}

impl<'a> BatchView<'a> {
    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
    /// The place before this batch; see [`Position::at_record`] for places within it.
    pub fn before(&self) -> &Position {
        &self.before
    }
    /// The place behind this batch.
    pub fn position(&self) -> &Position {
        &self.after
    }
    /// The records, in order.
    pub fn entries(&self) -> Entries<'a> {
        Entries {
            bytes: self.records,
            next: self.header.first_record,
            skip_below: self.skip_below,
            tables: self.tables,
            nobody: self.nobody,
            site: (0, None),
            thread: (0, self.nobody),
        }
    }
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its number in the journal.
    pub record_no: u64,
    /// What it is; see [`kind`](super::kind).
    pub kind: u8,
    /// Flags of that kind.
    pub flags: u8,
    /// Emitted time, ns since the epoch.
    pub utc_ns: i64,
    /// Raw time, in ticks of the producer's clock.
    pub ticks: u64,
    /// Number of the site in its segment, 0 = none.
    pub site_ref: u32,
    /// The site. `None` although `site_ref` is not 0: its definition stood in a damaged batch.
    pub site: Option<&'a Arc<Site>>,
    /// Number of the thread in its segment, 0 = none.
    pub thread_ref: u32,
    /// The thread; all zero if there is none, or if its definition stood in a damaged batch.
    pub thread: &'a Arc<Thread>,
    /// The payload.
    pub payload: &'a [u8],
}

/// Iterates over the records of a batch.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    next: u64,
    skip_below: u64,
    tables: &'a Tables,
    nobody: &'a Arc<Thread>,
    // The last ones looked up: most records have the site or thread of the one before.
    site: (u32, Option<&'a Arc<Site>>),
    thread: (u32, &'a Arc<Thread>),
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;
    // In the loop that uses it: an entry handed over in memory is stored in words and loaded in pairs of them, which
    // waits for the stores.
    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        loop {
            let x = pull_record(&mut self.bytes)?;
            let record_no = self.next;
            self.next += 1;
            if record_no < self.skip_below {
                continue;
            }
            if x.site != self.site.0 {
                self.site = (x.site, self.tables.sites.get(&x.site));
            }
            if x.thread != self.thread.0 {
                self.thread = (x.thread, self.tables.threads.get(&x.thread).unwrap_or(self.nobody));
            }
            return Some(Entry {
                record_no,
                kind: x.kind,
                flags: x.flags,
                utc_ns: x.utc_ns,
                ticks: x.ticks,
                site_ref: x.site,
                site: self.site.1,
                thread_ref: x.thread,
                thread: self.thread.1,
                payload: x.payload,
            });
        }
    }
}

#[derive(Debug)]
struct At {
    segment: Segment,
    name: String,
    key: Option<u64>,
    /// Where the next batch is looked for.
    next: u64,
    /// The last batch read: offset and crc, 0 = none.
    last: (u64, u32),
    /// Length of the file when nothing valid was found behind a bad batch at `next`.
    searched: u64,
}

/// Reads a journal. Not async-signal-safe; may block on the disk. Never writes.
#[derive(Debug)]
pub struct Reader<S: Source> {
    source: S,
    journal_id: Option<u64>,
    at: Option<At>,
    /// Number of the record that should come next.
    expected: Option<u64>,
    skip_below: u64,
    /// Number behind the last record that there was when the place to begin at was looked for.
    end_then: Option<u64>,
    /// Bytes without a batch, whose records are known once the next batch is.
    damage: Option<(u64, u64)>,
    gaps: VecDeque<Gap>,
    held: Option<(BatchHeader, Position)>,
    tables: Tables,
    nobody: Arc<Thread>,
    buf: Vec<u8>,
}

impl Reader<DirSource> {
    /// A directory, from the oldest record on. Errors: [`Code::NoChannel`] (no such directory),
    /// [`Code::BadFile`], [`Code::Permission`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Reader::new(DirSource::open(dir)?))
    }
}

impl<S: Source> Reader<S> {
    /// From the oldest record on.
    pub fn new(source: S) -> Self {
        Reader {
            source,
            journal_id: None,
            at: None,
            expected: None,
            skip_below: 0,
            end_then: None,
            damage: None,
            gaps: VecDeque::new(),
            held: None,
            tables: Tables::default(),
            nobody: Arc::default(),
            buf: Vec::new(),
        }
    }

    /// From a position on, which is checked against the crc of the batch before it. Where that does not
    /// hold (the batch is damaged, or vanished with the machine's power and others took its place), the
    /// reader goes by record numbers. Errors: [`Code::OtherJournal`], and those of reading.
    pub fn at(source: S, position: &Position) -> Result<Self> {
        let mut r = Reader::new(source);
        r.journal_id = (position.journal_id != 0).then_some(position.journal_id);
        r.expected = Some(position.next_record);
        r.skip_below = position.next_record;
        let all = r.list()?;
        let Some(i) = all.iter().position(|s| *s >= position.segment) else {
            // The journal's end is before the position: power was lost. Go on at its end.
            if let Some(newest) = all.last() {
                let end = r.end_of(newest)?.map_or(newest.first_record, |h| h.end_record());
                r.rewound_to(end);
                r.enter(newest.clone())?;
            }
            return Ok(r);
        };
        if all[i] != position.segment {
            // Deleted. What is missing shows by the first record's number.
            r.rewound_to(all[i].first_record);
            r.enter_if_started(&all, i)?;
            return Ok(r);
        }
        r.enter(all[i].clone())?;
        if position.offset == 0 {
            return Ok(r);
        }
        let name = all[i].to_string();
        let key = r.at.as_ref().and_then(|at| at.key);
        let os = |e| Error::os(format!("read {}/{name}", r.source.place()), e);
        let here = header_at(&r.source, &name, key, position.offset).map_err(os)?;
        match here {
            Some(h) if h.crc == position.crc => {
                let tables = if h.tables_len > 0 { h.offset } else { h.prev_tables };
                r.load_tables(tables)?;
                if let Some(at) = &mut r.at {
                    at.next = h.end();
                    at.last = (h.offset, h.crc);
                }
            }
            // Another batch took its place: all of that is new.
            Some(h) => r.rewound_to(h.first_record),
            None => {
                let end = match all.get(i + 1) {
                    Some(next) => next.first_record,
                    None => r.end_of(&all[i])?.map_or(all[i].first_record, |h| h.end_record()),
                };
                r.rewound_to(end);
            }
        }
        Ok(r)
    }

    /// Goes from the last batch to the first, by their headers alone, until `go_on` says no.
    fn backward(&mut self, mut go_on: impl FnMut(&Segment, &BatchHeader) -> bool) -> Result<()> {
        for segment in self.list()?.iter().rev() {
            let name = segment.to_string();
            let place = self.source.place();
            let os = |e| Error::os(format!("read {place}/{name}"), e);
            let Some(opened) = self.opened(segment)? else { continue };
            let (source, buf, key) = (&self.source, &mut self.buf, opened.key);
            let len = source.len(&name).map_err(os)?;
            let mut h = find_backward(source, &name, key, len, len, buf).map_err(os)?;
            while let Some(x) = h {
                self.end_then.get_or_insert(x.end_record());
                if !go_on(segment, &x) {
                    return Ok(());
                }
                // The chain, or if it is broken, a search.
                h = match header_at(source, &name, key, x.prev).map_err(os)? {
                    Some(prev) if x.prev != 0 => Some(prev),
                    _ if x.offset <= l::SEG_HEADER => None,
                    _ => find_backward(source, &name, key, x.offset, len, buf).map_err(os)?,
                };
            }
        }
        Ok(())
    }

    /// Number behind the last record, by the last sound header whose batch is all there: for who wants nothing but
    /// the number. `None`: there is no record.
    pub fn end(source: S) -> Result<Option<u64>> {
        let mut r = Reader::new(source);
        for segment in r.list()?.iter().rev() {
            let Some(opened) = r.opened(segment)? else { continue };
            let (name, source) = (segment.to_string(), &r.source);
            let last = source.len(&name).and_then(|len| {
                backward_until(source, &name, opened.key, len, len, |at| {
                    Ok(header_at(source, &name, opened.key, at)?.filter(|h| h.end() <= len))
                })
            });
            if let Some(h) = last.map_err(|e| r.os(&name, e))? {
                return Ok(Some(h.end_record()));
            }
        }
        Ok(None)
    }

    /// The last `records` records, and what follows. Does not read what is before them.
    pub fn tail(source: S, records: u64) -> Result<Self> {
        Reader::last(source, records, u64::MAX)
    }

    /// The same, with fewer records where those at the end are so large that they would be more than about
    /// `bytes`, but two.
    pub fn last(source: S, records: u64, bytes: u64) -> Result<Self> {
        let mut r = Reader::new(source);
        let (mut want, mut found) = (None, None);
        r.backward(|segment, x| {
            let each = u64::from(x.records_len) / u64::from(x.count).max(1);
            let records = records.min((bytes / each.max(1)).max(2));
            let want = *want.get_or_insert(x.end_record().saturating_sub(records));
            if x.first_record <= want {
                found = Some((segment.clone(), *x));
            }
            found.is_none()
        })?;
        r.skip_below = want.unwrap_or(0);
        if let Some((segment, h)) = found {
            r.start_with(&segment, &h)?;
        }
        Ok(r)
    }

    /// From the first batch on that may hold a record of `utc_ns` (since the epoch) or later: no record before it
    /// is as late. Reads headers only of what is behind that place.
    pub fn since(source: S, utc_ns: i64) -> Result<Self> {
        let mut r = Reader::new(source);
        // The earliest batch found so far that ends late enough, and where to go on when there is none.
        let mut first: Option<(Segment, BatchHeader)> = None;
        let mut end: Option<(Segment, BatchHeader)> = None;
        r.backward(|segment, x| {
            end.get_or_insert_with(|| (segment.clone(), *x));
            let late = x.last_time >= utc_ns;
            if late {
                first = Some((segment.clone(), *x));
            }
            late
        })?;
        match (first, end) {
            (Some((segment, h)), _) => {
                r.skip_below = h.first_record;
                r.start_with(&segment, &h)?;
            }
            (None, Some((segment, h))) => {
                r.skip_below = h.end_record();
                r.start_with(&segment, &h)?;
            }
            (None, None) => {}
        }
        Ok(r)
    }

    /// Goes to a batch.
    fn start_with(&mut self, segment: &Segment, h: &BatchHeader) -> Result<()> {
        self.enter(segment.clone())?;
        self.load_tables(h.prev_tables)?;
        self.expected = Some(h.first_record);
        self.gaps.clear();
        if let Some(at) = &mut self.at {
            at.next = h.offset;
        }
        Ok(())
    }

    /// The journal, once a segment of it was read.
    pub fn journal_id(&self) -> Option<u64> {
        self.journal_id
    }

    /// The place behind the last item, once a segment was found.
    pub fn position(&self) -> Option<Position> {
        if let Some((_, before)) = &self.held {
            return Some(before.clone());
        }
        let at = self.at.as_ref()?;
        Some(Position {
            // 0 = not known: the header of the only segment read so far is damaged.
            journal_id: self.journal_id.unwrap_or(0),
            segment: at.segment.clone(),
            offset: at.last.0,
            crc: at.last.1,
            next_record: self.expected.unwrap_or(at.segment.first_record).max(self.skip_below),
        })
    }

    /// The number behind the last record that there was when [`Reader::tail`] or [`Reader::since`] made this
    /// reader: who wants what is there now stops at it, however fast more comes.
    pub fn end_then(&self) -> Option<u64> {
        self.end_then
    }

    /// The source.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// What comes next; `None`: nothing yet, try again later. Batches without records are passed over.
    ///
    /// Errors: [`Code::Version`], [`Code::OtherJournal`], [`Code::Os`], [`Code::Permission`]. A damaged
    /// file is not an error but an [`Item::Damaged`].
    pub fn next_batch(&mut self) -> Result<Option<Item<'_>>> {
        if self.held.is_none() && self.gaps.is_empty() && !self.advance()? {
            return Ok(None);
        }
        if let Some(gap) = self.gaps.pop_front() {
            // A position taken from here on does not tell the gap again.
            if let Some((h, before)) = &mut self.held {
                before.next_record = before.next_record.max(h.first_record);
            }
            return Ok(Some(match gap {
                Gap::Missed { records } => Item::Missed { records },
                Gap::Damaged { segment, offset, bytes, records } => {
                    Item::Damaged { segment, offset, bytes, records }
                }
            }));
        }
        let Some((header, before)) = self.held.take() else { return Ok(None) };
        let Some(after) = self.position() else { return Ok(None) };
        let records = &self.buf[b::HEADER as usize..(b::HEADER + u64::from(header.records_len)) as usize];
        Ok(Some(Item::Batch(BatchView {
            header,
            records,
            tables: &self.tables,
            nobody: &self.nobody,
            skip_below: self.skip_below,
            before,
            after,
        })))
    }

    fn list(&self) -> Result<Vec<Segment>> {
        segments(&self.source)
            .map_err(|e| Error::os(format!("list the journal directory {}", self.source.place()), e))
    }

    fn os(&self, name: &str, e: io::Error) -> Error {
        Error::os(format!("read {}/{name}", self.source.place()), e)
    }

    /// Header and key of a segment. `None`: the file has gone meanwhile.
    fn opened(&mut self, segment: &Segment) -> Result<Option<Opened>> {
        let name = segment.to_string();
        let opened = match open_header(&self.source, &name) {
            Ok(o) => o,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.os(&name, e)),
        };
        match opened.header {
            Err(BadHeader::Version(v)) => return Err(version(&self.source.place(), &name, v)),
            Ok(h) if *self.journal_id.get_or_insert(h.journal_id) != h.journal_id => {
                return Err(Error::new(
                    Code::OtherJournal,
                    format!(
                        "{}/{name} belongs to another journal than the one read so far: read from the oldest \
                         record, or name the right directory",
                        self.source.place()
                    ),
                ));
            }
            _ => {}
        }
        Ok(Some(opened))
    }

    /// The last valid batch of a segment.
    fn end_of(&mut self, segment: &Segment) -> Result<Option<BatchHeader>> {
        let Some(opened) = self.opened(segment)? else { return Ok(None) };
        let name = segment.to_string();
        let len = self.source.len(&name).map_err(|e| self.os(&name, e))?;
        find_backward(&self.source, &name, opened.key, len, len, &mut self.buf).map_err(|e| self.os(&name, e))
    }

    /// The journal has other records from `record` on than those that were read: they are to be read.
    fn rewound_to(&mut self, record: u64) {
        if record < self.skip_below {
            self.skip_below = record;
            self.expected = Some(record);
        }
    }

    /// Goes to the beginning of a segment. False: it has gone.
    fn enter(&mut self, segment: Segment) -> Result<bool> {
        let Some(opened) = self.opened(&segment)? else { return Ok(false) };
        self.tables.clear();
        let next = if opened.key.is_some() { l::SEG_HEADER } else { 0 };
        if opened.header.is_err() && opened.key.is_some() && self.skip_below <= segment.first_record {
            let (segment, bytes) = (segment.clone(), l::SEG_HEADER);
            self.gaps.push_back(Gap::Damaged { segment, offset: 0, bytes, records: 0 });
        }
        self.expected.get_or_insert(segment.first_record);
        let name = segment.to_string();
        self.at = Some(At { segment, name, key: opened.key, next, last: (0, 0), searched: 0 });
        Ok(true)
    }

    /// Goes to the first segment from `i` on that can be read: the newest one only once its first batch is
    /// there (before that its writer may still take it back). False: none yet.
    fn enter_if_started(&mut self, all: &[Segment], i: usize) -> Result<bool> {
        for (k, segment) in all.iter().enumerate().skip(i) {
            if k + 1 == all.len() && !self.started(segment)? {
                return Ok(false);
            }
            if self.enter(segment.clone())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn started(&mut self, segment: &Segment) -> Result<bool> {
        let Some(opened) = self.opened(segment)? else { return Ok(false) };
        let name = segment.to_string();
        let found = || -> io::Result<bool> {
            let len = self.source.len(&name)?;
            // Not `self.buf`: it may hold a batch.
            let mut buf = Vec::new();
            Ok(matches!(look(&self.source, &name, opened.key, l::SEG_HEADER, len, &mut buf)?, Look::Good(_))
                || find_forward(&self.source, &name, opened.key, l::SEG_HEADER, len, &mut buf)?.is_some())
        };
        found().map_err(|e| self.os(&name, e))
    }

    /// Definitions of the segment up to and including the batch at `from`, along the chain.
    fn load_tables(&mut self, from: u64) -> Result<()> {
        let Some(at) = &self.at else { return Ok(()) };
        let (name, key, mut from) = (at.name.clone(), at.key, from);
        while from != 0 {
            let Some(h) = header_at(&self.source, &name, key, from).map_err(|e| self.os(&name, e))? else {
                return self.scan_tables(from);
            };
            let tables = sound_tables(&self.source, &name, &h).map_err(|e| self.os(&name, e))?;
            self.tables.add(&tables);
            from = h.prev_tables;
        }
        Ok(())
    }

    /// The same by reading every batch before `below`: a link of the chain is damaged.
    fn scan_tables(&mut self, below: u64) -> Result<()> {
        let Some(at) = &self.at else { return Ok(()) };
        let (name, key) = (at.name.clone(), at.key);
        let mut scan = || -> io::Result<()> {
            let len = self.source.len(&name)?;
            let (mut next, mut buf) = (l::SEG_HEADER, Vec::new());
            while next < below.min(len) {
                match look(&self.source, &name, key, next, len, &mut buf)? {
                    Look::Good(h) => {
                        if let Some((_, tables, _)) = h.split(&buf) {
                            self.tables.add(tables);
                        }
                        next = h.end();
                    }
                    Look::Bad(_) => match find_forward(&self.source, &name, key, next + 8, len, &mut buf)? {
                        Some(n) => next = n,
                        None => break,
                    },
                }
            }
            Ok(())
        };
        scan().map_err(|e| self.os(&name, e))
    }

    /// Reads on until there is a gap to tell or a batch to hold. False: nothing yet.
    fn advance(&mut self) -> Result<bool> {
        loop {
            if self.held.is_some() || !self.gaps.is_empty() {
                return Ok(true);
            }
            let Some(at) = &self.at else {
                let all = self.list()?;
                if !self.enter_if_started(&all, 0)? {
                    return Ok(false);
                }
                continue;
            };
            let (name, key, next) = (at.name.clone(), at.key, at.next);
            let len = match self.source.len(&name) {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.damage = None;
                    if !self.next_segment(None)? {
                        return Ok(false);
                    }
                    continue;
                }
                Err(e) => return Err(self.os(&name, e)),
            };
            let os = |e| Error::os(format!("read {}/{name}", self.source.place()), e);
            if next < len {
                let here = look(&self.source, &name, key, next, len, &mut self.buf).map_err(os)?;
                if let Look::Good(h) = here {
                    self.accept(h);
                    continue;
                }
                if at.searched != len {
                    let found = find_forward(&self.source, &name, key, next + 8, len, &mut self.buf);
                    if let Some(behind) = found.map_err(os)? {
                        // A torn batch may have been cut off and written again since it was looked at.
                        if let Look::Good(h) =
                            look(&self.source, &name, key, next, len, &mut self.buf).map_err(os)?
                        {
                            self.accept(h);
                            continue;
                        }
                        // Its definitions may be sound: they have a crc of their own.
                        if let Look::Bad(Some(h)) = here {
                            let tables = sound_tables(&self.source, &name, &h).map_err(os)?;
                            self.tables.add(&tables);
                        }
                        let from = self.damage.map_or(next, |(from, _)| from);
                        self.damage = Some((from, behind));
                        if let Some(at) = &mut self.at {
                            at.next = behind;
                        }
                        continue;
                    }
                    if let Some(at) = &mut self.at {
                        at.searched = len;
                    }
                }
            }
            // The end of this segment, for now or for good.
            if !self.next_segment(Some(len))? {
                return Ok(false);
            }
        }
    }

    /// At the end of a segment whose length was `len` (`None`: deleted): goes to the next one, if there is
    /// one, or back to the loop if this one has grown. False: nothing yet.
    fn next_segment(&mut self, len: Option<u64>) -> Result<bool> {
        let Some(at) = &self.at else { return Ok(true) };
        let (segment, name, next) = (at.segment.clone(), at.name.clone(), at.next);
        let all = self.list()?;
        let Some(i) = all.iter().position(|s| *s > segment) else { return Ok(false) };
        if i + 1 == all.len() && !self.started(&all[i])? {
            return Ok(false);
        }
        // The writer leaves a segment for good before it starts the next; but it may have written to it
        // since we looked.
        if let (Some(len), Ok(now)) = (len, self.source.len(&name))
            && now != len
        {
            return Ok(true);
        }
        if let Some(len) = len
            && (next < len || self.damage.is_some())
        {
            let from = self.damage.take().map_or(next, |(from, _)| from);
            // The numbers go on in the next segment, unless that one was deleted too: then what it had
            // cannot be told from what is damaged, and counts as damaged.
            let records = all[i].first_record.saturating_sub(self.expected.unwrap_or(u64::MAX));
            if self.skip_below < all[i].first_record || records > 0 || self.skip_below == 0 {
                self.gaps.push_back(Gap::Damaged {
                    segment,
                    offset: from,
                    bytes: len.max(next) - from,
                    records,
                });
                self.expected = self.expected.max(Some(all[i].first_record));
            }
            if let Some(at) = &mut self.at {
                at.next = len.max(next);
            }
        }
        self.enter_if_started(&all, i)
    }

    /// Takes the batch in `buf`.
    fn accept(&mut self, h: BatchHeader) {
        if let Some((_, tables, _)) = h.split(&self.buf) {
            self.tables.add(tables);
        }
        let before = self.position();
        let missing = h.first_record.saturating_sub(self.expected.unwrap_or(h.first_record));
        if let (Some((from, to)), Some(at)) = (self.damage.take(), &self.at) {
            if self.skip_below < h.first_record || missing > 0 || self.skip_below == 0 {
                let (segment, bytes) = (at.segment.clone(), to - from);
                self.gaps.push_back(Gap::Damaged { segment, offset: from, bytes, records: missing });
            }
        } else if missing > 0 {
            self.gaps.push_back(Gap::Missed { records: missing });
        }
        if let Some(at) = &mut self.at {
            at.next = h.end();
            at.last = (h.offset, h.crc);
            at.searched = 0;
        }
        // Numbers never go back, except when power was lost: then by what is there.
        self.expected = Some(h.end_record().max(self.skip_below));
        if h.end_record() > self.skip_below
            && h.count > 0
            && let Some(before) = before
        {
            self.held = Some((h, before));
        }
    }
}
