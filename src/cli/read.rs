//! Journals, read in order: one, or several merged by time.

use super::filter::{Filter, Owned};
use spillring::journal::{DirSource, Entry, Item, Reader, Segment, Source};
use spillring::layout::journal::{SEG_HEADER, batch};
use spillring::{Code, Error, Result};
use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Who is told what a journal holds.
pub trait Visitor {
    /// The next item.
    fn item(&mut self, item: Item<'_>) -> Result<()>;
    /// After the last one: bytes at the end of the newest segment that are no whole batch.
    fn torn(&mut self, segment: &str, offset: u64, bytes: u64);
    /// The end.
    fn done(&mut self) -> Result<()>;
}

/// Shows everything that `reader` finds now to `visitor`.
pub fn each(mut reader: Reader<DirSource>, visitor: &mut impl Visitor) -> Result<()> {
    while let Some(item) = reader.next_batch()? {
        visitor.item(item)?;
    }
    let mut waited = 0;
    while let Some((segment, offset, bytes)) = torn(&reader)? {
        // A batch that is being written looks the same: look again.
        if waited == 5 {
            visitor.torn(&segment, offset, bytes);
            break;
        }
        waited += 1;
        std::thread::sleep(Duration::from_millis(10));
        while let Some(item) = reader.next_batch()? {
            visitor.item(item)?;
        }
    }
    visitor.done()
}

/// Bytes behind the last batch of the segment that was read last.
fn torn(reader: &Reader<DirSource>) -> Result<Option<(String, u64, u64)>> {
    let Some(p) = reader.position() else { return Ok(None) };
    let name = p.segment.to_string();
    let source = reader.source();
    let err = |e| Error::os(format!("reading {}/{name}", source.place()), e);
    let end = behind(source, &name, p.offset).map_err(err)?;
    let behind = source.len(&name).map_err(err)?.saturating_sub(end);
    Ok((behind > 0).then_some((name, end, behind)))
}

/// Where the batch at `offset` ends; 0 = the segment's header.
fn behind(source: &DirSource, name: &str, offset: u64) -> std::io::Result<u64> {
    if offset == 0 {
        return Ok(SEG_HEADER);
    }
    let mut len = [0; 4];
    source.read_at(name, offset + batch::B_LEN, &mut len)?;
    Ok(offset + u64::from(u32::from_le_bytes(len)))
}

/// Who is shown records.
pub trait View {
    /// A record that is wanted.
    fn entry(&mut self, e: &Entry<'_>) -> Result<()>;
    /// Something for people at this place. `damaged`: a part of the journal is.
    fn say(&mut self, what: String, damaged: bool) -> Result<()>;
    /// Bytes read, of how many. Called every now and then.
    fn progress(&mut self, done: u64, of: u64);
}

/// One journal.
struct Feed {
    channel: String,
    reader: Reader<DirSource>,
    /// Records of the batch that was read last, where several journals are merged.
    ready: VecDeque<(Owned, Range<usize>)>,
    bytes: Vec<u8>,
    /// The first record that was read, and the oldest there was.
    first: Option<u64>,
    oldest: u64,
    /// What comes from this record on is not waited for.
    until: Option<u64>,
}

/// Several journals, by time.
pub struct Merged {
    feeds: Vec<Feed>,
    looked: Instant,
    /// What comes is waited for: there is no end to get nearer to.
    follows: bool,
}

impl Merged {
    /// Of these channels' readers.
    pub fn new(readers: Vec<(String, Reader<DirSource>)>) -> Result<Merged> {
        let feed = |(channel, reader): (String, Reader<DirSource>)| {
            let list = reader.source().list();
            let list = list.map_err(|e| Error::os(format!("list the journal of {channel}"), e))?;
            let oldest = list.iter().filter_map(|n| Segment::parse(n)).map(|s| s.first_record).min();
            Ok(Feed {
                channel,
                reader,
                ready: VecDeque::new(),
                bytes: Vec::new(),
                first: None,
                oldest: oldest.unwrap_or(0),
                until: None,
            })
        };
        Ok(Merged {
            feeds: readers.into_iter().map(feed).collect::<Result<_>>()?,
            looked: Instant::now(),
            follows: false,
        })
    }

    /// Reads only what is there now, however fast more comes. `dirs`: where the journals are.
    pub fn as_of_now(&mut self, dirs: &[(String, PathBuf)]) -> Result<()> {
        for (f, (_, dir)) in self.feeds.iter_mut().zip(dirs) {
            f.until = match f.reader.end_then() {
                Some(n) => Some(n),
                None => Reader::tail(DirSource::open(dir)?, 0)?.end_then(),
            };
        }
        Ok(())
    }

    /// From here on everything that comes.
    pub fn and_on(&mut self) {
        self.follows = true;
        self.feeds.iter_mut().for_each(|f| f.until = None);
    }

    /// Whether reading began at the oldest record of each.
    pub fn whole(&self) -> bool {
        self.feeds.iter().all(|f| f.first.is_none_or(|n| n <= f.oldest))
    }

    /// Shows everything that is there now.
    pub fn run(&mut self, filter: &mut Filter<'_>, view: &mut impl View) -> Result<()> {
        if self.feeds.len() == 1 {
            // Nothing to merge: from the batch to the view without a copy.
            loop {
                let more = self.feeds[0].next(view, |e, view| show(e, filter, view))?;
                if !more {
                    return Ok(());
                }
                self.look(view);
            }
        }
        loop {
            for i in 0..self.feeds.len() {
                while self.feeds[i].ready.is_empty() {
                    let f = &mut self.feeds[i];
                    let (mut ready, mut bytes) = (std::mem::take(&mut f.ready), std::mem::take(&mut f.bytes));
                    bytes.clear();
                    let more = f.next(view, |e, _| {
                        if filter.wants(e) {
                            let from = bytes.len();
                            bytes.extend_from_slice(e.payload);
                            ready.push_back((Owned::of(e), from..bytes.len()));
                        }
                        Ok(())
                    })?;
                    (f.ready, f.bytes) = (ready, bytes);
                    if !more {
                        break;
                    }
                    self.look(view);
                }
            }
            // Up to the end of one of them: there it has to be seen what comes next.
            loop {
                let head = |f: &Feed| f.ready.front().map(|(e, _)| e.utc_ns);
                let first = (0..self.feeds.len()).filter_map(|i| Some((head(&self.feeds[i])?, i))).min();
                let Some((_, i)) = first else { return Ok(()) };
                let f = &mut self.feeds[i];
                if let Some((e, at)) = f.ready.pop_front() {
                    let mut done = Ok(());
                    filter.show(&e.entry(&f.bytes[at]), &mut |e| {
                        if done.is_ok() {
                            done = view.entry(e);
                        }
                    });
                    done?;
                }
                if f.ready.is_empty() {
                    break;
                }
            }
        }
    }

    /// After the end: what stands behind the last whole batch of each. `true`: look again.
    pub fn torn(&mut self, waited: u32, view: &mut impl View) -> Result<bool> {
        let mut again = false;
        for f in &mut self.feeds {
            match torn(&f.reader)? {
                // More than was asked for stands there.
                Some(_) if f.at_end() && f.reader.next_batch()?.is_some() => {}
                Some(_) if waited < 5 => again = true,
                Some((segment, offset, bytes)) => view.say(
                    format!(
                        "{segment} of {} has a torn tail: {bytes} bytes at {offset} are no whole batch (the writer \
                         died or is stopped; the next drain goes on before them) [E{:02}]",
                        f.channel,
                        Code::Damaged as i32
                    ),
                    true,
                )?,
                None => {}
            }
        }
        Ok(again)
    }

    fn look(&mut self, view: &mut impl View) {
        if self.follows || self.looked.elapsed() < Duration::from_millis(200) {
            return;
        }
        self.looked = Instant::now();
        let (mut done, mut of) = (0, 0);
        for f in &self.feeds {
            let (source, at) = (f.reader.source(), f.reader.position());
            for name in source.list().unwrap_or_default() {
                let Some(segment) = Segment::parse(&name) else { continue };
                let len = source.len(&name).unwrap_or(0);
                of += len;
                done += match &at {
                    Some(p) if segment < p.segment => len,
                    Some(p) if segment == p.segment => p.offset,
                    _ => 0,
                };
            }
        }
        view.progress(done, of);
    }
}

fn show(e: &Entry<'_>, filter: &mut Filter<'_>, view: &mut impl View) -> Result<()> {
    let mut done = Ok(());
    if filter.wants(e) {
        filter.show(e, &mut |e| {
            if done.is_ok() {
                done = view.entry(e);
            }
        });
    }
    done
}

impl Feed {
    /// All that was asked for was read.
    fn at_end(&self) -> bool {
        self.until.is_some_and(|end| self.reader.position().is_some_and(|p| p.next_record >= end))
    }

    /// The next item: its records to `take`, everything else to `view`. False: nothing yet.
    fn next<V: View>(
        &mut self,
        view: &mut V,
        mut take: impl FnMut(&Entry<'_>, &mut V) -> Result<()>,
    ) -> Result<bool> {
        if self.at_end() {
            return Ok(false);
        }
        match self.reader.next_batch()? {
            None => return Ok(false),
            Some(Item::Batch(batch)) => {
                for e in batch.entries() {
                    self.first.get_or_insert(e.record_no);
                    take(&e, view)?;
                }
            }
            Some(Item::Missed { records }) => view.say(
                format!("{records} records of {} were deleted by retention while they were read", self.channel),
                false,
            )?,
            Some(Item::Damaged { segment, offset, bytes, records }) => view.say(
                format!(
                    "{segment} of {} is damaged: {bytes} bytes at {offset}, {records} records are missing; what is \
                     behind them follows [E{:02}]",
                    self.channel,
                    Code::Damaged as i32
                ),
                true,
            )?,
        }
        Ok(true)
    }
}
