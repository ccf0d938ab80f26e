//! The drain: one bounded pass, and what it does when nothing comes.
//!
//! A pass polls every ring of the channel ([`Snapshot`](crate::snapshot::Snapshot)), merges what is due
//! ([`merge`]), appends it as one checksummed batch to the journal together with the
//! cursors of everything it took ([`Journal::commit`]: the batch is the commit), and only then stores
//! `released` into each `P.ack`. Whichever instruction it dies at, the next drain folds the cursors and
//! goes on: nothing is lost or doubled.
//!
//! Not async-signal-safe. The embedded drain is the same code on a thread with all signals blocked.

mod around;
mod idle;
mod ring;

use crate::channel::{Channel, Dead, DrainLock, Kind, Role, Stem};
use crate::clock::{Calibration, Pair};
use crate::env::{Idle, Settings, SyncPolicy};
use crate::error::{Code, Error, Result};
use crate::journal::{CursorKey, DirStorage, Journal, Options, Sync};
use crate::lane::calibration::Line as ClockLine;
use crate::layout::ctl;
use crate::layout::ring::{ack, lane, word};
use crate::merge::{self, Queue};
use crate::release::{self, GoneCursor, Part};
use crate::ringview::View;
use crate::snapshot::{Limits, RingRead};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use crate::sys::hash::HashSet;
use crate::sys::{self, process::Facts};
use around::Around;
use ring::{Calibrations, Line, Now, Ring};
use std::cell::OnceCell;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A batch is written when it has this many bytes, or when nothing more is due.
const BATCH: usize = 1 << 20;
/// Bytes that wait in memory; above, rings are not read until the journal has taken some.
const QUEUED: usize = 16 << 20;
/// Bytes of a spill read in one look at a ring.
const PARSE: u64 = 1 << 20;
/// Bytes taken from one lane in a pass: the processor's cache holds them together with what is made of them.
const LANE_TAKE: u64 = 256 << 10;
/// How often a spinning drain refreshes the clock of those who log by its word: each time costs them a cache
/// miss.
const TICK_NS: u64 = 5_000;
/// How often a drain that sleeps makes a whole pass although no call moved anything, at least.
const WHOLE_NS: u64 = 500_000_000;
const RETRY_NS: u64 = 100_000_000;
/// Bytes given back by one punch: it holds the inode lock that growing needs (0.2 to 0.6 ms).
const PUNCH: u64 = 1 << 20;

/// What a drain needs to know.
#[derive(Clone, Debug)]
pub struct DrainConfig {
    /// The channel's directory.
    pub channel_dir: PathBuf,
    /// The journal's directory.
    pub journal_dir: PathBuf,
    /// How the journal is kept.
    pub journal: Options,
    /// How long a record waits for an older one of another thread.
    pub grace: Duration,
    /// What is done when nothing comes.
    pub idle: Idle,
    /// Processor to pin to.
    pub cpu: Option<u32>,
    /// Bytes that spills may take, as the settings say for this channel.
    pub spill_quota: u64,
    /// How long an ending drain tries to write to a journal that fails.
    pub flush_timeout: Duration,
}

impl DrainConfig {
    /// As the settings say, for one channel; the journal's place is made. Second: what the user should
    /// know about that place.
    pub fn new(settings: &Settings, channel_dir: PathBuf) -> (DrainConfig, Option<String>) {
        let place = settings.journal_place(&channel_dir);
        let ns = |d: Duration| d.as_nanos().min(u128::from(u64::MAX)) as u64;
        let config = DrainConfig {
            spill_quota: settings.spill_quota_for(channel_dir.parent().unwrap_or(&channel_dir)),
            channel_dir,
            journal_dir: place.dir.clone(),
            journal: Options {
                max_segment_bytes: place.segment_bytes,
                max_segment_age_ns: settings.segment_age.map(ns),
                retention_bytes: place.retain_bytes,
                retention_age_ns: settings.retain_age.map(ns),
                sync: match settings.sync {
                    SyncPolicy::None => Sync::None,
                    SyncPolicy::EveryBatch => Sync::EveryBatch,
                    SyncPolicy::Every(d) => Sync::EveryMs(d.as_millis().min(u128::from(u32::MAX)) as u32),
                },
            },
            grace: settings.grace,
            idle: settings.idle,
            cpu: settings.drain_cpu,
            flush_timeout: settings.flush_timeout,
        };
        (config, place.problem.map(|p| p.to_string()))
    }
}

/// What a drain has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records delivered to the journal.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Of the records, those that came through a spill.
    pub spilled: u64,
    /// Records reported lost.
    pub lost: u64,
}

/// The journal, and what people should hear.
struct Log {
    journal: Journal<DirStorage>,
    totals: Totals,
    notices: Vec<String>,
    /// Time of the last record that the journal had when this drain began.
    floor: i64,
}

impl Log {
    fn say(&mut self, line: String) {
        self.notices.push(line);
    }
    /// Adds a record of the drain's own to the batch.
    fn note(&mut self, kind: u8, thread: u32, utc: i64, payload: &[u8]) -> Result<u64> {
        self.journal.record(kind, 0, thread, 0, utc, 0, payload)
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records read out of rings.
    pub read: u64,
    /// Records that went to the journal.
    pub written: u64,
    /// Records and notes that wait in memory.
    pub waiting: bool,
    /// Something was left unread because of a bound.
    pub more: bool,
    /// The journal could not be written; it is tried again.
    pub stuck: bool,
}

/// One drain of one channel.
pub struct Drain {
    config: DrainConfig,
    channel: &'static Channel,
    lock: DrainLock<'static>,
    log: Log,
    rings: Vec<Ring>,
    refused: HashSet<Stem>,
    /// Rings that could not be opened for now; each was told once.
    later: HashSet<Stem>,
    told: HashSet<String>,
    clocks: Calibrations,
    me: Facts,
    known_journal: bool,
    gone: GoneCursor,
    gone_dirty: bool,
    around: Around,
    /// The last pass found records.
    busy: bool,
    /// When the tick word was last refreshed (monotonic ns).
    ticked: u64,
    retry_at: u64,
    failing: Option<String>,
    wake: Vec<Box<dyn Fn() + Send>>,
    may_punch: bool,
    half_quota: u64,
    _journal_lock: JournalLock,
}

/// Counts that the journal holds: of rings that are gone, and in all.
fn publish_totals(ctl: &sys::Map, gone: &GoneCursor, next_record: u64, lost: u64) {
    let w = |at, v| ctl.word(at).store(v, Release);
    w(ctl::GONE_WRITTEN, gone.written);
    w(ctl::GONE_DELIVERED, gone.delivered);
    w(ctl::GONE_LOST, gone.lost);
    w(ctl::GONE_RINGS, gone.rings);
    w(ctl::DELIVERED, next_record);
    w(ctl::LOST, lost);
    counted(ctl);
}

/// A ring is about to be taken away: who adds up the channel waits until it is counted. (A drain that is killed in
/// between leaves that to the next one, which counts it by its cursors.)
fn taking(ctl: &sys::Map) {
    let seq = ctl.word(ctl::GONE_SEQ);
    // The reader sees this before it can miss the ring: it looks at the directory in between.
    seq.store(seq.load(Relaxed) | 1, SeqCst);
}

/// None is missing any more.
fn counted(ctl: &sys::Map) {
    let seq = ctl.word(ctl::GONE_SEQ);
    let was = seq.load(Relaxed);
    if was & 1 == 1 {
        // After the sums.
        seq.store(was.wrapping_add(1), Release);
    }
}

static KEPT: Mutex<Vec<&'static Channel>> = Mutex::new(Vec::new());

impl Drain {
    /// Becomes the drain of a channel; makes channel and journal if they are not there.
    ///
    /// # Errors
    /// [`Code::DrainRunning`]; whatever channel and journal say.
    pub fn open(config: DrainConfig) -> Result<Drain> {
        let channel = Channel::create_or_open(&config.channel_dir, true, Role::Drain)?;
        // The lock is held by a descriptor that is never closed, so this costs nothing that was not kept
        // anyway: a drain is opened once in a process's life.
        let channel: &'static Channel = Box::leak(Box::new(channel));
        // Named, so that leak checkers of the programs that embed a drain take it for what it is: kept.
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
        let lock = channel.lock_drain()?;
        let storage = DirStorage::create(&config.journal_dir)?;
        let journal_lock = JournalLock::take(&config)?;
        let (journal, recovered) =
            Journal::open(storage, config.journal.clone(), sys::time::utc_ns() as i64)?;
        let mut log = Log {
            journal,
            totals: Totals::default(),
            notices: recovered.lines,
            floor: recovered.last_time.unwrap_or(0),
        };
        log.notices.extend(channel.warning().map(str::to_string));
        let id = channel.ctl().word(ctl::JOURNAL_ID);
        let known = id.load(Acquire);
        if known != 0 && known != recovered.journal_id {
            log.say(format!(
                "{} was drained to another journal before: what that one has is not in {}",
                config.channel_dir.display(),
                config.journal_dir.display()
            ));
        }
        id.store(recovered.journal_id, Release);
        let tick_hz = match sys::time::ticks_hz() {
            // Good to a few parts in 10^5, until the first adjustment a second later.
            0 => sys::time::measured_hz(Duration::from_millis(2)) as u64,
            hz => hz,
        };
        let clocks = Calibrations {
            tsc: Calibration::new(Pair::now(sys::time::ticks), tick_hz),
            mono: Calibration::new(Pair::now(sys::time::monotonic_raw_ns), 1_000_000_000),
        };
        let gone_key = CursorKey { nonce: 0, pid: 0, part: Part::Gone.number() };
        let gone = recovered.cursors.get(&gone_key).and_then(|b| GoneCursor::decode(b)).unwrap_or_default();
        let mut drain = Drain {
            channel,
            lock,
            log,
            rings: Vec::new(),
            refused: HashSet::default(),
            later: HashSet::default(),
            told: HashSet::default(),
            clocks,
            me: Facts::read(),
            known_journal: known == recovered.journal_id,
            gone,
            gone_dirty: false,
            around: Around::new(channel.watch()),
            busy: false,
            ticked: 0,
            retry_at: 0,
            failing: None,
            wake: Vec::new(),
            may_punch: sys::thread::normal_priority(),
            half_quota: config.spill_quota / 2,
            config,
            _journal_lock: journal_lock,
        };
        let (next, lost) = (drain.log.journal.next_record(), drain.log.totals.lost);
        publish_totals(drain.channel.ctl(), &drain.gone, next, lost);
        // Also because the drain before this one may have died in the midst of it.
        drain.publish_calibration();
        let swept = drain.channel.sweep(&drain.me)?;
        if !swept.removed.is_empty() {
            drain.log.say(format!("removed {} leftovers of dead processes", swept.removed.len()));
        }
        drain.scan();
        drain.forget_unlinked()?;
        Ok(drain)
    }

    /// Says a line, once in this drain's life.
    fn say_once(&mut self, line: String) {
        if self.told.len() < 1000 && self.told.insert(line.clone()) {
            self.log.say(line);
        }
    }

    /// Cursors of rings that are not there any more: a drain died between unlinking them and the batch
    /// that would have dropped the cursors and counted the rings as gone.
    fn forget_unlinked(&mut self) -> Result<()> {
        // By the directory, not by what could be opened: a ring that is held by a stranger is still there.
        let there: HashSet<u64> = self.channel.producers()?.iter().map(|s| s.nonce).collect();
        let cursors = self.log.journal.cursors();
        let stale = cursors.iter().filter(|(k, _)| k.nonce != 0 && !there.contains(&k.nonce));
        let stale: Vec<(CursorKey, Vec<u8>)> = stale.map(|(k, v)| (*k, v.clone())).collect();
        let mut rings = HashSet::default();
        for (key, value) in stale {
            let (delivered, lost) = release::sums(key.part, &value);
            self.gone.written = self.gone.written.saturating_add(delivered).saturating_add(lost);
            self.gone.delivered = self.gone.delivered.saturating_add(delivered);
            self.gone.lost = self.gone.lost.saturating_add(lost);
            self.gone.rings += u64::from(rings.insert(key.nonce));
            self.gone_dirty = true;
            self.log.journal.cursor(key, &[]);
        }
        Ok(())
    }

    /// Called after each batch; must not block.
    pub fn on_batch(&mut self, f: impl Fn() + Send + 'static) {
        self.wake.push(Box::new(f));
    }

    /// Lines for people since the last call.
    pub fn take_notices(&mut self) -> Vec<String> {
        let mut n = std::mem::take(&mut self.log.notices);
        n.extend(self.log.journal.take_notices());
        n
    }

    /// What was done since the start.
    pub fn totals(&self) -> Totals {
        self.log.totals
    }

    /// The place behind the last batch.
    pub fn position(&self) -> crate::journal::Position {
        self.log.journal.position()
    }

    /// Rings that are there, and of those the ones whose owner is alive.
    pub fn producers(&self) -> (usize, usize) {
        (self.rings.len(), self.rings.iter().filter(|r| !r.dead).count())
    }

    /// Takes on the rings that are new.
    fn scan(&mut self) {
        let stems = match self.channel.producers() {
            Ok(s) => s,
            Err(e) => return self.say_once(e.to_string()),
        };
        let there: HashSet<Stem> = stems.iter().copied().collect();
        self.refused.retain(|s| there.contains(s));
        self.later.retain(|s| there.contains(s));
        let known: HashSet<Stem> = self.rings.iter().map(|r| r.state.stem).collect();
        for stem in stems {
            if self.refused.contains(&stem) || known.contains(&stem) {
                continue;
            }
            match self.channel.open_ring(stem) {
                Ok(files) => {
                    self.later.remove(&stem);
                    let of = |pid, part| CursorKey { nonce: stem.nonce, pid, part };
                    let cursors = self.log.journal.cursors().range(of(0, 0)..=of(u32::MAX, u32::MAX));
                    let cursors = cursors.map(|(k, v)| (*k, v.clone())).collect();
                    let mut ring = Ring::new(View::new(files), &cursors, self.known_journal, &mut self.log);
                    self.around.add(&mut ring);
                    self.rings.push(ring);
                    self.index();
                }
                Err(e) if e.errno == Some(libc::ENOENT) => {
                    self.channel.remove_remains(stem);
                }
                Err(e) if matches!(e.code, Code::BadFile | Code::Version | Code::Arch) => {
                    self.log.say(format!("{e}. It is left alone; every other producer goes on"));
                    self.refused.insert(stem);
                }
                // Out of descriptors, a stranger's lease: tried again with each scan, told once.
                Err(e) => {
                    if self.later.insert(stem) && e.code != Code::WouldBlock {
                        self.log.say(format!("{e}. It is tried again"));
                    }
                }
            }
        }
    }

    fn index(&mut self) {
        for (i, r) in self.rings.iter_mut().enumerate() {
            r.state.set_index(i);
        }
    }

    /// One bounded pass. `all`: everything that is there is due, whatever its time.
    ///
    /// # Errors
    /// The drain must stop: the lock or the journal is not its own any more.
    pub fn pass(&mut self, all: bool) -> Result<Progress> {
        // Before anything is read: what is read later cannot be of the future.
        let (utc, mono) = (sys::time::utc_ns() as i64, sys::time::monotonic_ns());
        self.keep_time(mono);
        self.look_around(all, self.busy, mono);
        let mut p = Progress::default();
        if self.log.journal.pending() && self.failing.is_some() {
            if mono < self.retry_at {
                p.stuck = true;
            } else {
                p.stuck = !self.commit(mono)?;
            }
        }
        let before = self.log.totals.records;
        let queued: usize = self.rings.iter().map(|r| r.state.queued).sum();
        if queued < QUEUED {
            p.more |= self.read(utc, mono, all, &mut p.read);
        } else {
            p.more = true;
        }
        if !p.stuck {
            p.stuck = !self.write(utc, mono, all || queued > QUEUED / 2)?;
        }
        p.written = self.log.totals.records - before;
        self.busy = p.read > 0;
        if !p.stuck {
            self.settle(utc, mono)?;
        }
        p.waiting = self.rings.iter().any(|r| !r.state.empty());
        self.channel.ctl().word(ctl::PASSES).fetch_add(1, Relaxed);
        Ok(p)
    }

    /// Polls all rings. True: something was left because of a bound.
    fn read(&mut self, utc: i64, mono: u64, all: bool, read: &mut u64) -> bool {
        let limits = Limits { parse: PARSE, lane: LANE_TAKE };
        let now = Now { utc, mono, clocks: &self.clocks };
        let mut more = false;
        let mut queued = self.rings.iter().map(|r| r.state.queued).sum::<usize>();
        let mut unreadable = Vec::new();
        for r in &mut self.rings {
            // Memory is bounded.
            if queued > QUEUED {
                more = true;
                break;
            }
            queued -= r.state.queued;
            let was_dead = r.dead;
            let found = r.pass(&mut self.log, &now, limits);
            queued += r.state.queued;
            *read += found.records;
            more |= found.seen.truncated && !found.seen.clogged || found.seen.lanes_cut;
            if let Some(errno) = found.seen.unreadable {
                let (path, e) = (r.view.files.path(Kind::Spill), sys::Errno(errno));
                unreadable.push(format!("{}: {e}. Its producer waits; it is tried again", path.display()));
            }
            r.unmarked_losses(&mut self.log, &now, all || r.dead || found.flush.is_some());
            r.skip_gone(&self.me, mono);
            r.missing_spilled(&mut self.log, &now);
            r.passed = was_dead;
            if !r.dead && r.quarantined.is_none() && (all || r.probe.due(mono)) {
                // Only from the next pass on: that is the one more full pass after death.
                r.dead = r.view.files.dead(&self.me) == Dead::Yes;
                more |= r.dead;
                r.probe.alive(mono, found.records > 0);
            }
        }
        unreadable.into_iter().for_each(|line| self.say_once(line));
        more
    }

    /// Writes what is due. False: the journal would not take it.
    fn write(&mut self, utc: i64, mono: u64, all: bool) -> Result<bool> {
        let grace = self.config.grace.as_nanos() as i64;
        loop {
            let mut lines: Vec<Line> = Vec::new();
            let mut hold: Option<i64> = None;
            let mut due = Vec::new();
            for r in &mut self.rings {
                let found = r.last_found;
                let everything = all || r.dead || r.flush_due();
                if found.seen.truncated && found.seen.parsed_ticks != 0 && !all {
                    let now = Now { utc, mono, clocks: &self.clocks };
                    let t = r.state.time(found.seen.parsed_ticks, &now).max(utc - 2 * grace);
                    hold = Some(hold.map_or(t, |h| h.min(t)));
                }
                let (view, state) = (&r.view, &mut r.state);
                let half: Vec<u32> = state.lanes_half_full(view);
                for line in state.take_lines() {
                    let half_full = line.lane().is_some_and(|l| half.contains(&l));
                    if line.first().is_some() {
                        due.push(line.due(mono.saturating_sub(grace as u64), everything || half_full));
                    }
                    lines.push(line);
                }
            }
            let horizon = merge::horizon(utc, grace, due.into_iter(), hold);
            self.log.journal.begin(utc);
            let (rings, log) = (&mut self.rings, &mut self.log);
            let mut full = false;
            merge::merge(&mut lines, horizon, |line, _, until| {
                full = !line.take(until, rings, log) || log.journal.batch_bytes() >= BATCH;
                !full
            });
            for line in lines {
                self.rings[line.ring()].state.put_line(line);
            }
            if !self.commit(mono)? {
                return Ok(false);
            }
            if !full {
                return Ok(true);
            }
        }
    }

    /// Commits the batch with the cursors of all that changed, then releases. False: not now.
    fn commit(&mut self, mono: u64) -> Result<bool> {
        for r in &mut self.rings {
            r.state.put_cursors(&mut self.log);
        }
        if std::mem::take(&mut self.gone_dirty) {
            let key = CursorKey { nonce: 0, pid: 0, part: Part::Gone.number() };
            self.log.journal.cursor(key, &self.gone.encode());
        }
        if !self.log.journal.pending() && self.failing.is_none() {
            return Ok(true);
        }
        if !self.lock.still_held() {
            return Err(Error::new(
                Code::DrainRunning,
                format!(
                    "{}: this drain's lock is not its own any more (its descriptors were closed, or the channel \
                     was removed): it stops without writing",
                    self.config.channel_dir.display()
                ),
            ));
        }
        let (journal, rings) = (&mut self.log.journal, &mut self.rings);
        let (channel, gone, lost) = (&self.channel, &self.gone, self.log.totals.lost);
        let written = release::commit(
            || {
                let batch = journal.commit(sys::time::utc_ns() as i64)?;
                // Who finds its records delivered finds them counted in the channel too.
                publish_totals(channel.ctl(), gone, journal.next_record(), lost);
                Ok::<_, Error>(batch)
            },
            || rings.iter_mut().for_each(Ring::publish),
        );
        match written {
            Ok(_) => {
                if self.failing.take().is_some() {
                    self.log
                        .say("the journal can be written again; nothing was lost on the way there".into());
                }
                self.wake.iter().for_each(|f| f());
                Ok(true)
            }
            Err(e) if e.code == Code::BadFile => Err(e),
            Err(e) => {
                let line = e.to_string();
                if self.failing.as_ref() != Some(&line) {
                    self.log.say(format!("{line}. Records wait in the rings and spills; it is tried again"));
                }
                self.failing = Some(line);
                self.retry_at = mono + RETRY_NS;
                Ok(false)
            }
        }
    }

    /// After a pass: flushes, spill space, dead rings.
    fn settle(&mut self, utc: i64, mono: u64) -> Result<()> {
        for r in &mut self.rings {
            r.publish_flush();
            r.punch(!self.may_punch, mono, self.half_quota);
            r.state.prune(utc, mono, &mut self.log);
        }
        if let Err(e) = self.log.journal.tick(utc) {
            if e.code == Code::BadFile {
                return Err(e);
            }
            self.say_once(format!("{e}. It is tried again"));
        }
        let mut i = 0;
        while i < self.rings.len() {
            if !self.rings[i].finished() {
                i += 1;
                continue;
            }
            taking(self.channel.ctl());
            // The ring before its cursors: a drain that dies in between finds cursors without a ring.
            if let Err(e) = self.rings[i].view.files.unlink() {
                if !self.gone_dirty {
                    counted(self.channel.ctl());
                }
                self.say_once(format!("{e}. All of it is delivered; its removal is tried again"));
                i += 1;
                continue;
            }
            let r = self.rings.swap_remove(i);
            self.around.remove(&r);
            self.index();
            r.state.drop_cursors(&mut self.log);
            let (written, delivered, lost) = r.sums();
            self.gone.written = self.gone.written.saturating_add(written);
            self.gone.delivered = self.gone.delivered.saturating_add(delivered);
            self.gone.lost = self.gone.lost.saturating_add(lost);
            self.gone.rings += 1;
            self.gone_dirty = true;
        }
        if self.gone_dirty {
            self.commit(mono)?;
        }
        Ok(())
    }

    /// Follows the kernel's clock, and tells readers.
    fn keep_time(&mut self, mono: u64) {
        let ctl = self.channel.ctl();
        if self.config.idle == Idle::Spin && mono.saturating_sub(self.ticked) >= TICK_NS {
            self.ticked = mono;
            ctl.word(ctl::TICK).store(sys::time::ticks(), Relaxed);
        }
        let raw = self.clocks.mono.line().0.ticks;
        if sys::time::monotonic_raw_ns().wrapping_sub(raw) < 1_000_000_000 {
            return;
        }
        self.clocks.mono.adjust(Pair::now(sys::time::monotonic_raw_ns));
        if self.clocks.tsc.adjust(Pair::now(sys::time::ticks)) {
            self.publish_calibration();
        }
    }

    fn publish_calibration(&self) {
        let (at, mult) = self.clocks.tsc.line();
        self.channel.calibration().write(ClockLine {
            ticks: at.ticks,
            utc: at.utc as u64,
            mult: (mult * 4_294_967_296.0) as u64,
        });
    }

    /// Drains until `stop` is set, then until everything that was there by then is in the journal.
    /// `hear` gets the lines for people.
    ///
    /// # Errors
    /// As [`Drain::pass`]; [`Code::NoSpace`] and the like when the journal could not be written at the end.
    pub fn run(&mut self, stop: &AtomicBool, mut hear: impl FnMut(&str)) -> Result<Totals> {
        // Not when it is opened: the threads of the sinks are started in between, and would inherit it.
        if let Some(cpu) = self.config.cpu
            && let Err(e) = sys::thread::set_affinity(cpu as usize)
        {
            self.log.say(format!("the drain cannot be pinned to processor {cpu} ({e}): SPILLRING_DRAIN_CPU"));
        }
        let mut idle = idle::Idler::new(self.config.idle);
        let whole = match self.config.journal.sync {
            Sync::EveryMs(ms) => WHOLE_NS.min(u64::from(ms) * 1_000_000),
            _ => WHOLE_NS,
        };
        loop {
            let ending = stop.load(Acquire);
            if ending {
                break;
            }
            let p = self.pass(false)?;
            self.take_notices().iter().for_each(|l| hear(l));
            let quiet = p == Progress::default() && self.around.told() && self.rings.iter().all(Ring::quiet);
            let seen = OnceCell::new();
            let moved = || {
                let seen = seen.get_or_init(|| words(&self.rings));
                seen.iter().any(|(word, was)| word.load(Acquire) != *was)
            };
            let rest = idle::Rest {
                ctl: self.channel.ctl(),
                told: &|| self.around.tells(),
                asked: &|| stop.load(Acquire) || self.rings.iter().any(Ring::flushes),
                news: &|| stop.load(Acquire) || moved(),
                on_ns: if quiet { whole } else { 0 },
            };
            if let Some(line) = idle.after(&p, &rest) {
                hear(&line);
            }
        }
        self.finish(&mut hear)?;
        Ok(self.totals())
    }

    /// Everything that is there now goes to the journal.
    pub fn finish(&mut self, hear: &mut impl FnMut(&str)) -> Result<()> {
        let begun = sys::time::monotonic_ns();
        let patience = self.config.flush_timeout.as_nanos() as u64;
        loop {
            let p = self.pass(true)?;
            self.take_notices().iter().for_each(|l| hear(l));
            if p.stuck {
                if sys::time::monotonic_ns() - begun > patience {
                    return Err(Error::new(
                        Code::NoSpace,
                        format!(
                            "{}; what is not written stays in the channel and is delivered by the next drain",
                            self.failing.clone().unwrap_or_default()
                        ),
                    ));
                }
                sys::thread::nanosleep(Duration::from_millis(20));
            } else {
                // A producer that goes on logging would keep this here for ever.
                let over = sys::time::monotonic_ns() - begun > patience;
                if !p.waiting && (over || !p.more && p.read == 0) {
                    return Ok(());
                }
            }
        }
    }
}

/// The words of the rings that move when there is something which the last pass did not see, and what they were then.
/// In one piece: a drain that comes out of a sleep finds nothing of them in its caches, and waits for all of
/// them at once instead of one after the other.
fn words(rings: &[Ring]) -> Vec<(&AtomicU64, u64)> {
    let mut all = Vec::new();
    for r in rings.iter().filter(|r| r.quarantined.is_none()) {
        let (files, used) = (&r.view.files, r.view.load(word::LANES_USED));
        all.extend([
            (files.word(word::SPILL_TAIL), r.spill_seen()),
            (files.word(word::FLUSH), r.view.ack(ack::FLUSHED).load(Relaxed)),
            (files.word(word::SHARED_TAIL), r.shared_seen()),
            (files.word(word::LANES_USED), used),
        ]);
        all.extend((0..r.view.lanes_used()).map(|i| {
            let of = |at| files.word(files.geometry.lane_header(i) + at);
            match r.view.lane_capacity(i) {
                0 => (of(lane::CAPACITY), 0),
                _ => (of(lane::TAIL), r.lane_seen(i)),
            }
        }));
    }
    all
}

/// The right to write a journal: another drain with the same one, of whatever channel, would write into
/// it. A POSIX lock keeps other processes away, a list those of this one.
struct JournalLock {
    _fd: sys::Fd,
    id: sys::FileId,
}

static JOURNALS: Mutex<Vec<(u32, sys::FileId)>> = Mutex::new(Vec::new());

impl JournalLock {
    fn take(config: &DrainConfig) -> Result<JournalLock> {
        let path = config.journal_dir.join("journal.lock");
        let what = |e: sys::Errno| Error::os(path.display(), e.into());
        let taken = |pid: u32| {
            Error::new(
                Code::DrainRunning,
                format!(
                    "the journal {} is written by another drain (pid {pid}), of a channel of the same name \
                     elsewhere: name another SPILLRING_JOURNAL_DIR",
                    config.journal_dir.display()
                ),
            )
        };
        let fixed = sys::FixedPath::from_bytes(path.as_os_str().as_bytes()).map_err(what)?;
        let me = sys::process::pid();
        let mut held = JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it is opened: the close of a second descriptor would drop the first one's lock.
        if let Ok(st) = sys::file::stat(fixed.as_c(), false)
            && held.contains(&(me, st.id))
        {
            return Err(taken(me));
        }
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let fd = sys::file::dup_high(sys::file::open(fixed.as_c(), flags, 0o600).map_err(what)?);
        match sys::file::lock_exclusive(fd.raw()) {
            Ok(()) => {}
            Err(sys::Errno(libc::EAGAIN | libc::EACCES)) => {
                return Err(taken(sys::file::lock_holder(fd.raw()).unwrap_or(0)));
            }
            Err(e) => return Err(what(e)),
        }
        let id = sys::file::fstat(fd.raw()).map_err(what)?.id;
        held.push((me, id));
        Ok(JournalLock { _fd: fd, id })
    }
}

impl Drop for JournalLock {
    fn drop(&mut self) {
        let mut held = JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, id)| *id != self.id);
    }
}

/// The drain as a thread of the program.
pub struct Embedded {
    stop: Arc<AtomicBool>,
    channel: Option<Channel>,
    thread: Option<std::thread::JoinHandle<Result<Totals>>>,
}

impl Embedded {
    /// Runs a drain on a thread of its own, with all signals blocked before it starts; answers when it is
    /// open. `hear` gets lines for people. It only drains: sinks are started beside it
    /// ([`Follower`](crate::sink::Follower)), and follow the journal by themselves.
    ///
    /// # Errors
    /// As [`Drain::open`].
    pub fn start(config: DrainConfig, mut hear: impl FnMut(&str) + Send + 'static) -> Result<Embedded> {
        let stop = Arc::new(AtomicBool::new(false));
        // Not by a channel of the standard library: its thread-local storage would be that of every program that loads
        // libspillring.
        let opened = Arc::new(AtomicU32::new(0));
        let (mine, is_open) = (stop.clone(), opened.clone());
        let dir = config.channel_dir.clone();
        let _blocked = sys::thread::SignalsBlocked::new();
        let thread = std::thread::Builder::new()
            .name("spillring-drain".into())
            .spawn(move || {
                // Opened on its own thread: it is this one that is pinned to the drain's processor.
                let mut drain = Drain::open(config)?;
                is_open.store(1, Release);
                sys::thread::futex_wake(&is_open, 1);
                drain.run(&mine, &mut hear)
            })
            .map_err(|e| Error::os("the drain's thread", e))?;
        while opened.load(Acquire) == 0 {
            if thread.is_finished() {
                let ended = thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::new(Code::Os, "the drain's thread panicked")));
                return ended.and(Err(Error::new(Code::Os, "the drain's thread ended at once")));
            }
            sys::thread::futex_wait(&opened, 0, Duration::from_millis(5));
        }
        let channel = Channel::create_or_open(&dir, false, Role::Producer).ok();
        Ok(Embedded { stop, channel, thread: Some(thread) })
    }

    /// Ends it when everything that is there by now is in the journal.
    pub fn stop(mut self) -> Result<Totals> {
        self.end()
    }

    fn end(&mut self) -> Result<Totals> {
        self.stop.store(true, Release);
        while let (Some(c), Some(false)) = (&self.channel, self.thread.as_ref().map(|t| t.is_finished())) {
            c.wake_drain();
            sys::thread::nanosleep(Duration::from_millis(1));
        }
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(r)) => r,
            Some(Err(_)) => Err(Error::new(Code::Os, "the drain's thread panicked")),
            None => Ok(Totals::default()),
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
