//! The thread that follows the journal for one sink.
//!
//! It reads a batch, lets the sink take its records, and goes on reading until there is nothing more or
//! the buffer is full; then one write, then the cursor. The drain wakes it after each batch and never
//! waits for it; without a drain in this process it looks every 50 ms.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::cursor::CursorFile;
use super::status::Words;
use super::{Cursor, Gap, Lag, Sink, SinkSpec, SinkStatus, State, Stream, Watch, WriteEnd, check_name};
use crate::error::{Code, Error, Result};
use crate::journal::{DirSource, Item, Position, Reader};
use crate::layout::sink::stat as s;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::sys::{process, time};

/// Bytes after which a buffer is written although there is more to read.
const FULL: usize = 256 << 10;
/// How long it sleeps when nobody wakes it, or when something is held back that time alone lets go.
const POLL: Duration = Duration::from_millis(50);
/// The same where a drain wakes it: then only to see whether its file was moved away.
const WOKEN: Duration = Duration::from_millis(250);
/// How long a sink that is to end tries to read a journal that cannot be read (it was removed, perhaps).
const UNREADABLE: Duration = Duration::from_secs(2);
/// Records that are read again at most, on restart, for lines that were unfinished.
const MAX_BEHIND: u64 = 1 << 16;

/// Takes what a sink has to tell people, one line without a newline. Called by the sink's thread: it must
/// not wait for the sink.
pub type Reporter = Arc<dyn Fn(&str) + Send + Sync>;

/// The directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The journal's. The cursor is kept there too.
    pub journal: PathBuf,
    /// The channel's: for the status file. `None`: there will be none.
    pub channel: Option<PathBuf>,
}

/// What is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The sink.
    pub name: String,
    /// How far it is behind.
    pub lag: Lag,
}

impl Pending {
    /// The line to print for it: names sink, what is pending, and the command that prints it.
    pub fn line(&self, channel: &str) -> String {
        let Pending { name, lag: Lag { records, bytes } } = self;
        let plural = if *records == 1 { "record" } else { "records" };
        format!(
            "spillring: sink {name} is {records} {plural} ({bytes} bytes) behind: \
             spillring cat {channel} --from-sink {name}"
        )
    }
}

/// How a sink ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is delivered.
    Delivered,
    /// Its output did not move for the given time. The next sink of the name goes on where it stopped.
    Lagging(Pending),
    /// Its reader has gone.
    Broken(Pending),
    /// Its output or the journal cannot be used; it was reported why.
    Failed(Pending),
}

impl Outcome {
    /// What is pending.
    pub fn pending(&self) -> Option<&Pending> {
        match self {
            Outcome::Delivered => None,
            Outcome::Lagging(p) | Outcome::Broken(p) | Outcome::Failed(p) => Some(p),
        }
    }
}

/// What the thread and its owner share.
struct Shared {
    name: String,
    words: Words,
    report: Reporter,
    /// Deliver what is before this record, then end; `u64::MAX` = go on.
    stop_at: AtomicU64,
    give_up: AtomicBool,
    reopen: AtomicBool,
    /// Somebody wakes it when there is more.
    woken: AtomicBool,
    /// Moves with whatever moves.
    progress: AtomicU64,
    /// Where the sink stands: for the lag.
    place: Mutex<(Option<Position>, u64)>,
    ended: Mutex<Option<State>>,
    end: Condvar,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked with it left plain values behind.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch for Shared {
    fn moved(&self, bytes: usize) {
        let w = &self.words;
        w.set(s::ST_BYTES, w.get(s::ST_BYTES) + bytes as u64);
        w.set(s::ST_PENDING_BYTES, w.get(s::ST_PENDING_BYTES).saturating_sub(bytes as u64));
        w.set(s::ST_BLOCKED, time::boottime_ns());
        if w.get(s::ST_RETRIES) > 0 {
            w.set(s::ST_RETRIES, 0);
            (self.report)(&format!("sink {} can write again and goes on", self.name));
        }
        self.progress.fetch_add(1, Ordering::Relaxed);
    }
    fn retry(&self, what: &str, e: &io::Error) {
        let tries = self.words.get(s::ST_RETRIES) + 1;
        self.words.set(s::ST_RETRIES, tries);
        if tries == 1 {
            (self.report)(&format!(
                "sink {} cannot write to {what}: {e}; nothing is lost, it tries again until it can: make room \
                 there",
                self.name
            ));
        }
    }
    fn say(&self, line: &str) {
        (self.report)(&format!("sink {}: {line}", self.name));
    }
    fn given_up(&self) -> bool {
        self.give_up.load(Ordering::Relaxed)
    }
    fn reopen(&self) -> bool {
        self.reopen.swap(false, Ordering::Relaxed)
    }
}

/// A sink at work. Dropped, it is told to stop as soon as it can, and nobody waits for it.
pub struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    journal: PathBuf,
}

impl Follower {
    /// Opens the output, finds the cursor and starts the thread. May block on the disk.
    ///
    /// # Errors
    /// [`Code::BadValue`] (the name), [`Code::BadFile`] (the cursor is damaged), and those of opening the
    /// output and the journal.
    pub fn start(spec: &SinkSpec, places: &Places, report: Reporter) -> Result<Follower> {
        check_name(&spec.name)?;
        let sink = Box::new(Stream::open(spec)?);
        Follower::start_sink(&spec.name, spec.start.as_ref(), sink, places, report)
    }

    /// The same with any sink. `start`: where it begins if it never ran before.
    ///
    /// # Errors
    /// As [`start`](Follower::start).
    pub fn start_sink(
        name: &str,
        start: Option<&Position>,
        mut sink: Box<dyn Sink>,
        places: &Places,
        report: Reporter,
    ) -> Result<Follower> {
        check_name(name)?;
        let (file, saved) = CursorFile::open(&places.journal, name)?;
        let (reader, next, resumed) =
            begin(name, &places.journal, saved.as_ref(), start, &mut *sink, &report)?;
        // Only now: a sink that cannot start leaves no trace in the channel.
        let words = match places.channel.as_deref().map(|dir| Words::create(dir, name)) {
            Some(Ok(words)) => words,
            Some(Err(e)) => {
                report(&format!("sink {name} works without a status file: {e}"));
                Words::own()
            }
            None => Words::own(),
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            words,
            report,
            stop_at: AtomicU64::new(u64::MAX),
            give_up: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            progress: AtomicU64::new(0),
            place: Mutex::new((None, 0)),
            ended: Mutex::new(None),
            end: Condvar::new(),
        });
        let mut work = Work {
            sink,
            file,
            saved,
            save_failed: false,
            next,
            reading: reader.position().map(|p| p.next_record),
            taken: 0,
            last_utc: 0,
            low: None,
            settled: false,
            shared: shared.clone(),
        };
        if let Some(mut saved) = work.saved.clone() {
            let file = work.sink.file();
            if saved.clean || !resumed && file.map(|f| f.0) != saved.file.map(|f| f.0) {
                // From here on a kill may leave something behind the end of the file as it is now.
                (saved.clean, saved.file) = (false, file);
                work.save(saved.clone());
            }
            work.last_utc = saved.last_utc;
            shared.words.set(s::ST_RECORDS, saved.records);
            shared.words.set(s::ST_BYTES, saved.bytes);
            shared.words.set(s::ST_LAST_UTC, saved.last_utc as u64);
        }
        shared.words.set(s::ST_NEXT, next);
        *lock(&shared.place) = (reader.position(), next);
        let mine = shared.clone();
        let run = move || {
            // The program's handlers shall not run here; SIGPIPE and SIGXFSZ stay error codes.
            let _ = crate::sys::thread::block_signals();
            let mut reader = reader;
            let state = work.follow(&mut reader);
            drop(work);
            mine.words.set(s::ST_STATE, state.to_word());
            mine.words.set(s::ST_BLOCKED, 0);
            *lock(&mine.ended) = Some(state);
            mine.end.notify_all();
        };
        let thread = thread::Builder::new()
            .name(format!("spr-sink-{name}").chars().take(15).collect())
            .spawn(run)
            .map_err(|e| Error::os(format!("start the thread of sink {name}"), e))?;
        Ok(Follower { shared, thread: Some(thread), journal: places.journal.clone() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// There is more in the journal, up to record `next_record`. Never blocks and never waits for the
    /// sink; wakes its thread if that sleeps.
    pub fn wake(&self, next_record: u64) {
        self.shared.words.set(s::ST_KNOWN, next_record);
        self.shared.woken.store(true, Ordering::Relaxed);
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(t) = &self.thread {
            t.thread().unpark();
        }
    }

    /// What it is doing.
    pub fn status(&self) -> SinkStatus {
        SinkStatus::of(&self.shared.name, &self.shared.words, process::pid(), true)
    }

    /// The first record that it has not delivered.
    pub fn delivered(&self) -> u64 {
        self.shared.words.get(s::ST_NEXT)
    }

    /// Its file, if it writes to one, is opened anew before the next write: it may have been moved away.
    /// (That a file is gone from its place is found within a second anyway.) Does not wait.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
        self.unpark();
    }

    /// How it ended, if it did. A sink ends by itself only when its output is broken or fails.
    pub fn ended(&self) -> Option<State> {
        *lock(&self.shared.ended)
    }

    /// How long it has not been able to write, for want of room or by another error that it outwaits.
    pub fn fails_for(&self) -> Option<Duration> {
        let w = &self.shared.words;
        let since = w.get(s::ST_BLOCKED);
        let fails = w.get(s::ST_RETRIES) > 0 && since > 0;
        fails.then(|| Duration::from_nanos(time::boottime_ns().saturating_sub(since)))
    }

    /// Asks it to end once everything before `end` (the journal's, after its last batch) is delivered.
    /// Does not wait.
    pub fn stop_when(&self, end: &Position) {
        self.shared.words.set(s::ST_KNOWN, end.next_record);
        self.shared.stop_at.store(end.next_record, Ordering::Relaxed);
        self.unpark();
    }

    /// Asks it to end at once, with whatever is delivered. Does not wait.
    pub fn give_up(&self) {
        self.shared.give_up.store(true, Ordering::Relaxed);
        self.unpark();
    }

    /// Waits for the end after [`stop_when`](Follower::stop_when) as long as something moves, and gives up
    /// when nothing has moved for `timeout` (`None`: never). Then the sink has up to a second to note how
    /// far it came; one that is stuck in the kernel (a dead disk) is left behind.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Outcome {
        let mut moved = self.shared.progress.load(Ordering::Relaxed);
        let mut since = Instant::now();
        let mut limit = timeout;
        let mut ended = lock(&self.shared.ended);
        let state = loop {
            if let Some(state) = *ended {
                break Some(state);
            }
            ended = match self.shared.end.wait_timeout(ended, Duration::from_millis(10)) {
                Ok((guard, _)) => guard,
                Err(e) => e.into_inner().0,
            };
            let now = self.shared.progress.load(Ordering::Relaxed);
            let given_up = self.shared.given_up();
            if now != moved && !given_up {
                (moved, since) = (now, Instant::now());
            }
            if limit.is_some_and(|l| since.elapsed() >= l) && ended.is_none() {
                if given_up {
                    break None;
                }
                self.give_up();
                (limit, since) = (Some(Duration::from_secs(1)), Instant::now());
            }
        };
        drop(ended);
        match (state, self.thread.take()) {
            // It has said that it is at its end: this does not wait.
            (Some(_), Some(thread)) => drop(thread.join()),
            (None, thread) => self.thread = thread,
            _ => {}
        }
        let pending = || Pending { name: self.shared.name.clone(), lag: self.lag() };
        match state {
            Some(State::Delivered) => Outcome::Delivered,
            Some(State::Broken) => Outcome::Broken(pending()),
            Some(State::Failed) => Outcome::Failed(pending()),
            Some(State::Stopped | State::Following) | None => Outcome::Lagging(pending()),
        }
    }

    /// How far it is behind the journal now. Reads the journal's end.
    pub fn lag(&self) -> Lag {
        let (position, next) = lock(&self.shared.place).clone();
        Lag::measure(&self.journal, position.as_ref(), next).unwrap_or_else(|_| Lag {
            records: self.shared.words.get(s::ST_KNOWN).saturating_sub(next),
            bytes: 0,
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A reader where the sink goes on, the first record that it has not delivered, and whether a part of what
/// comes may stand in its files already.
fn begin(
    name: &str,
    journal: &Path,
    saved: Option<&Cursor>,
    start: Option<&Position>,
    sink: &mut dyn Sink,
    report: &Reporter,
) -> Result<(Reader<DirSource>, u64, bool)> {
    let Some(saved) = saved else {
        return Ok(match start {
            Some(p) => (Reader::at(DirSource::open(journal)?, p)?, p.next_record, false),
            None => (Reader::open(journal)?, 0, false),
        });
    };
    let reader = match Reader::at(DirSource::open(journal)?, &saved.position) {
        Ok(reader) => reader,
        Err(e) if e.code == Code::OtherJournal => {
            report(&format!(
                "sink {name} was following another journal than the one in {}: it begins at its oldest record",
                journal.display()
            ));
            return Ok((Reader::open(journal)?, 0, false));
        }
        Err(e) => return Err(e),
    };
    let at = reader.position().map_or(saved.position.next_record, |p| p.next_record);
    if at < saved.position.next_record {
        // The machine lost power, and with it records that were delivered: the numbers begin again there.
        return Ok((reader, at, false));
    }
    sink.formatter().restore(&saved.held);
    sink.skip(saved.skip);
    let resumed = saved.file.filter(|_| !saved.clean).is_some_and(|file| sink.resume(file));
    Ok((reader, saved.next, resumed))
}

struct Work {
    sink: Box<dyn Sink>,
    file: CursorFile,
    saved: Option<Cursor>,
    save_failed: bool,
    /// The first record that the sink has not taken.
    next: u64,
    /// The first record that the reader has not given.
    reading: Option<u64>,
    /// Records taken since the last write.
    taken: u64,
    last_utc: i64,
    /// Where to read from for what the sink holds back.
    low: Option<Position>,
    /// The buffer holds what was held back for long: a part of it cannot be told apart on restart.
    settled: bool,
    shared: Arc<Shared>,
}

impl Work {
    fn follow(&mut self, reader: &mut Reader<DirSource>) -> State {
        self.run(reader).unwrap_or_else(|state| state)
    }

    fn run(&mut self, reader: &mut Reader<DirSource>) -> std::result::Result<State, State> {
        let (mut failing, mut quiet) = (false, None);
        loop {
            if self.shared.given_up() {
                return Ok(State::Stopped);
            }
            let item = match reader.next_batch() {
                Ok(item) => {
                    failing = false;
                    item
                }
                Err(e) => {
                    if matches!(e.code, Code::Version | Code::OtherJournal) {
                        (self.shared.report)(&format!("sink {} stops: {e}", self.shared.name));
                        return Err(State::Failed);
                    }
                    if !std::mem::replace(&mut failing, true) {
                        let name = &self.shared.name;
                        (self.shared.report)(&format!("sink {name} cannot read and tries again: {e}"));
                    }
                    if self.shared.stop_at.load(Ordering::Relaxed) != u64::MAX
                        && quiet.get_or_insert_with(Instant::now).elapsed() >= UNREADABLE
                    {
                        return Err(State::Failed);
                    }
                    thread::park_timeout(Duration::from_millis(500));
                    continue;
                }
            };
            let more = item.is_some();
            match item {
                Some(Item::Batch(view)) => {
                    self.begin(view.before());
                    let mut buffered = self.sink.buffered();
                    for e in view.entries() {
                        if e.record_no < self.next {
                            self.sink.formatter().hold_again(&e);
                            continue;
                        }
                        if buffered == 0 {
                            self.shared.words.set(s::ST_PENDING_UTC, e.utc_ns as u64);
                        }
                        buffered = self.sink.entry(&e);
                        self.next = e.record_no + 1;
                        self.taken += 1;
                        self.last_utc = e.utc_ns;
                        if buffered >= FULL {
                            let here = view.before().clone().at_record(self.next);
                            self.anchor(view.before());
                            self.flush(&here)?;
                            buffered = self.sink.buffered();
                            if self.shared.given_up() {
                                return Ok(State::Stopped);
                            }
                        }
                    }
                    self.anchor(view.before());
                    self.next = self.next.max(view.header().end_record());
                    self.reading = Some(view.position().next_record);
                }
                Some(Item::Missed { records }) => {
                    let (first, records) = self.missing(records);
                    self.gap(records, Gap::Missed { first, records });
                }
                Some(Item::Damaged { segment, offset, bytes, records }) => {
                    let (_, records) = self.missing(records);
                    self.gap(records, Gap::Damaged { segment: segment.to_string(), offset, bytes, records });
                }
                None => {}
            }
            if more {
                self.shared.progress.fetch_add(1, Ordering::Relaxed);
                quiet = None;
                if let Some(low) = &self.low
                    && self.next.saturating_sub(low.next_record) > MAX_BEHIND
                {
                    // Lines that never end: nobody shall read all of this again for them.
                    self.write_out(reader)?;
                    self.settle(None, reader)?;
                }
                continue;
            }
            if self.sink.buffered() > 0 {
                self.write_out(reader)?;
                continue;
            }
            self.sink.follow_file(&*self.shared);
            self.settle(Some(time::monotonic_ns() / 1_000_000), reader)?;
            if self.sink.buffered() == 0 && self.low.is_none() {
                // Records that this sink does not take (another stream's) count as seen.
                self.shared.words.set(s::ST_NEXT, self.next);
                self.shared.words.set(s::ST_PENDING_UTC, 0);
            }
            let stop_at = self.shared.stop_at.load(Ordering::Relaxed);
            if stop_at != u64::MAX {
                let since = *quiet.get_or_insert_with(Instant::now);
                // The last batches may be damaged: then their number never comes.
                if self.next >= stop_at || since.elapsed() >= Duration::from_secs(1) {
                    return self.finish(reader);
                }
                thread::park_timeout(Duration::from_millis(5));
            } else {
                let woken = self.shared.woken.load(Ordering::Relaxed) && self.low.is_none();
                thread::park_timeout(if woken { WOKEN } else { POLL });
            }
        }
    }

    /// Before the first batch: the cursor that a sink begins with.
    fn begin(&mut self, before: &Position) {
        if self.saved.is_none() {
            self.next = self.next.max(before.next_record);
            self.save(Cursor {
                position: before.clone(),
                next: self.next,
                skip: 0,
                records: 0,
                bytes: 0,
                last_utc: 0,
                file: self.sink.file(),
                clean: false,
                held: Vec::new(),
            });
        }
    }

    /// Of `records` that are missing before the next batch, those that this sink has not had: the first,
    /// and how many.
    fn missing(&mut self, records: u64) -> (Option<u64>, u64) {
        let Some(from) = self.reading else { return (None, records) };
        let (first, end) = (from.max(self.next), from.saturating_add(records));
        self.reading = Some(end);
        self.next = self.next.max(end);
        (Some(first), end.saturating_sub(first))
    }

    fn gap(&mut self, records: u64, gap: Gap) {
        if records == 0 && matches!(gap, Gap::Missed { .. }) {
            return;
        }
        // What was delivered of the records that are gone cannot be told from what comes now.
        self.sink.skip(0);
        self.sink.gap(&gap);
        let w = &self.shared.words;
        w.set(s::ST_MISSED, w.get(s::ST_MISSED) + records);
    }

    /// Keeps in `low` a place from which everything that is held back can be read again.
    fn anchor(&mut self, before: &Position) {
        match self.sink.formatter().oldest_held() {
            None => self.low = None,
            Some(first) if self.low.is_none() => self.low = Some(before.clone().at_record(first)),
            Some(_) => {}
        }
    }

    fn write_out(&mut self, reader: &Reader<DirSource>) -> std::result::Result<(), State> {
        match reader.position() {
            Some(here) => self.flush(&here),
            None => Ok(()),
        }
    }

    /// Shows what was held back for long. Only with an empty buffer, so that the rest of the text depends
    /// on nothing but the records.
    fn settle(&mut self, now_ms: Option<u64>, reader: &Reader<DirSource>) -> std::result::Result<(), State> {
        self.sink.settle(now_ms);
        if self.sink.buffered() == 0 {
            return Ok(());
        }
        self.settled = true;
        if self.sink.formatter().oldest_held().is_none() {
            self.low = None;
        }
        self.write_out(reader)
    }

    /// All is delivered, and nothing more will come.
    fn finish(&mut self, reader: &Reader<DirSource>) -> std::result::Result<State, State> {
        self.sink.finish();
        self.settled = self.sink.buffered() > 0;
        self.low = None;
        if self.settled {
            self.write_out(reader)?;
        }
        if let Some(mut saved) = self.saved.clone() {
            saved.clean = true;
            if let Some(here) = reader.position() {
                saved.position = here;
            }
            saved.next = self.next;
            saved.held = self.sink.formatter().held();
            self.save(saved);
        }
        Ok(State::Delivered)
    }

    /// Writes the buffer, then notes in the cursor that everything before `here` is delivered.
    fn flush(&mut self, here: &Position) -> std::result::Result<(), State> {
        let w = &self.shared.words;
        w.set(s::ST_PENDING_BYTES, self.sink.buffered() as u64);
        w.set(s::ST_BLOCKED, time::boottime_ns());
        let end = self.sink.flush(&*self.shared);
        w.set(s::ST_BLOCKED, 0);
        let Err(end) = end else {
            w.set(s::ST_PENDING_BYTES, 0);
            w.set(s::ST_PENDING_UTC, 0);
            let records = w.get(s::ST_RECORDS) + std::mem::take(&mut self.taken);
            w.set(s::ST_RECORDS, records);
            w.set(s::ST_LAST_UTC, self.last_utc as u64);
            w.set(s::ST_NEXT, self.next);
            self.settled = false;
            let cursor = Cursor {
                position: self.low.clone().unwrap_or_else(|| here.clone()),
                next: self.next,
                skip: self.sink.skipping(),
                records,
                bytes: w.get(s::ST_BYTES),
                last_utc: self.last_utc,
                file: self.sink.file(),
                clean: false,
                held: self.sink.formatter().held(),
            };
            self.save(cursor);
            return Ok(());
        };
        if let Some(mut saved) = self.saved.clone() {
            // Rather a part of a line again than one too few.
            if !self.settled {
                saved.skip = saved.skip.max(self.sink.written());
            }
            saved.bytes = w.get(s::ST_BYTES);
            saved.file = self.sink.file();
            saved.clean = true;
            self.save(saved);
        }
        match end {
            WriteEnd::GivenUp => Err(State::Stopped),
            // As for any command that prints: a reader that has seen enough is nobody's trouble.
            WriteEnd::Broken if self.sink.is_standard() => Err(State::Broken),
            WriteEnd::Broken => {
                (self.shared.report)(&format!(
                    "sink {} has no reader left (broken pipe) and stops; its records stay in the journal",
                    self.shared.name
                ));
                Err(State::Broken)
            }
            WriteEnd::Failed(e) => {
                (self.shared.report)(&format!(
                    "sink {} stops: its output cannot be written: {e}; its records stay in the journal",
                    self.shared.name
                ));
                Err(State::Failed)
            }
        }
    }

    fn save(&mut self, cursor: Cursor) {
        match self.file.save(&cursor) {
            Ok(()) => self.save_failed = false,
            Err(e) if !std::mem::replace(&mut self.save_failed, true) => {
                // It goes on: at worst a restart delivers again what was delivered since.
                (self.shared.report)(&format!("sink {}: {e}", self.shared.name));
            }
            Err(_) => {}
        }
        *lock(&self.shared.place) = (Some(cursor.position.clone()), cursor.next);
        self.saved = Some(cursor);
    }
}
