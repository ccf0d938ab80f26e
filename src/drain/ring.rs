//! One ring as the drain knows it: what was read and waits for its turn, and how far the journal has it.

use super::around::Probe;
use super::{BATCH, Log};
use crate::channel::Stem;
use crate::clock::{Calibration, Pair, Straight};
use crate::journal::{
    CursorKey, DirStorage, Encoder, Journal, Loss, Record, SiteFacts as JournalSite, Taken, ThreadFacts,
    Together, kind,
};
use crate::lane::shared::{self, places};
use crate::lane::thread::written_count;
use crate::layout::ring::{GRANULE, ack, lane, record, slot, word};
use crate::layout::spill;
use crate::merge;
use crate::record::SiteFacts;
use crate::release::{Acks, GivenBack, Part, Positions, Taken as Stood};
use crate::ringview::View;
use crate::snapshot::{Item, Limits, Out, RingRead, Run, Seen, Snapshot, Source};
use crate::sync::AtomicU64;
use crate::sync::Ordering::*;
use crate::sys::hash::HashMap;
use std::collections::{BTreeMap, VecDeque};

/// A queue of one ring: a lane with everything its owners did on the slow path, or a thread without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Lane(u32),
    Thread(u64),
}

enum What {
    /// So many records of so many bytes, as the journal will have them. Of a lane they stand one behind the
    /// other, without a gap, up to the end of the source.
    Records {
        count: u32,
        len: usize,
        /// What is known of them together; not of single ones.
        names: Option<Box<Names>>,
    },
    // Boxed: there are few of them.
    Owner(Box<(u64, u32, [u8; 16])>),
    Loss(Box<LossNote>),
    Nothing,
}

/// Of records: their thread, their sites, and the bytes of their payloads.
struct Names {
    thread: u32,
    sites: Vec<u32>,
    payload: u64,
}

impl Names {
    /// More sites than that are looked for in the records themselves.
    const MOST: usize = 64;

    /// Takes others along. False: they are of another thread.
    fn join(&mut self, other: &Names) -> bool {
        self.payload += other.payload;
        other.sites.iter().for_each(|s| self.add(*s));
        self.thread == other.thread
    }
    fn known(&self) -> bool {
        self.sites.len() <= Self::MOST
    }
    fn add(&mut self, site: u32) {
        if self.known() && !self.sites.contains(&site) {
            self.sites.push(site);
        }
    }
}

#[derive(Clone, Copy)]
struct LossNote {
    thread: u32,
    count: u64,
    from: i64,
    to: i64,
    of: Option<u32>,
    total: u64,
}

struct Entry {
    /// Effective time, of records that of the last one.
    time: i64,
    seen: u64,
    source: Option<Source>,
    what: What,
}

/// The lines of a ring. Those of lanes by number: every record goes through here.
#[derive(Default)]
struct Lines {
    lanes: Vec<Option<Line>>,
    threads: HashMap<u64, Line>,
}

impl Lines {
    fn values(&self) -> impl Iterator<Item = &Line> {
        self.lanes.iter().flatten().chain(self.threads.values())
    }
    fn values_mut(&mut self) -> impl Iterator<Item = &mut Line> {
        self.lanes.iter_mut().flatten().chain(self.threads.values_mut())
    }
    /// Takes out those that hold something.
    fn take_full(&mut self) -> impl Iterator<Item = Line> + '_ {
        let full = |l: &Line| !l.entries.is_empty();
        let lanes = self.lanes.iter_mut().filter_map(move |l| l.take_if(|l| full(l)));
        lanes.chain(self.threads.extract_if(move |_, l| full(l)).map(|(_, l)| l))
    }
    fn put(&mut self, line: Line) {
        match line.key {
            Key::Lane(i) => *self.lane(i) = Some(line),
            Key::Thread(t) => drop(self.threads.insert(t, line)),
        }
    }
    fn lane(&mut self, i: u32) -> &mut Option<Line> {
        let i = i as usize;
        if self.lanes.len() <= i {
            self.lanes.resize_with(i + 1, || None);
        }
        &mut self.lanes[i]
    }
    #[inline]
    fn get_or_insert_with(&mut self, key: Key, make: impl FnOnce() -> Line) -> &mut Line {
        match key {
            Key::Lane(i) => self.lane(i).get_or_insert_with(make),
            Key::Thread(t) => self.threads.entry(t).or_insert_with(make),
        }
    }
}

const ROOM: usize = Journal::<DirStorage>::ROOM;

/// Bytes, first in, first out, each taking in one piece.
#[derive(Default)]
struct Fifo {
    all: Vec<u8>,
    /// Of those, taken out already.
    taken: usize,
}

impl Fifo {
    /// What is taken out is given back when it is more than this, and more than what is left.
    const SLACK: usize = 64 << 10;

    /// Where bytes may be appended.
    fn back(&mut self) -> &mut Vec<u8> {
        if self.taken == self.all.len() {
            // A journal takes it as it is.
            self.all.resize(ROOM, 0);
            self.taken = ROOM;
        } else if self.taken > Self::SLACK && self.taken > self.all.len() / 2 {
            self.all.drain(..self.taken);
            self.taken = 0;
        }
        &mut self.all
    }
    fn first(&self, n: usize) -> &[u8] {
        &self.all[self.taken..self.taken + n]
    }
    fn take(&mut self, n: usize) {
        self.taken += n;
        debug_assert!(self.taken <= self.all.len());
    }
    /// Whether a batch that begins with the first `n` bytes takes them as they are.
    fn goes_uncopied(&self, n: usize) -> bool {
        Journal::<DirStorage>::goes_uncopied(&self.all, self.taken, n)
    }
    /// Takes the first `n` bytes out into the batch, if it takes them whole.
    fn take_into(&mut self, journal: &mut Journal<DirStorage>, n: usize, of: &Together<'_>) -> bool {
        let whole = journal.take_whole(&mut self.all, self.taken, n, of);
        if whole {
            // Behind them, or all that there is of another vector.
            self.taken = (self.taken + n).min(self.all.len());
        }
        whole
    }
}

/// Entries of one lane (or lane-less thread) that are not in the journal yet.
pub(super) struct Line {
    key: Key,
    entries: VecDeque<Entry>,
    bytes: Fifo,
    /// Effective time of the last entry that came in, and of the last one that went out.
    last_in: i64,
    last_out: i64,
    /// Entries that came in and went out, ever; and how many must have gone out for the flush under way.
    pushed: u64,
    popped: u64,
    mark: u64,
    ring: usize,
}

impl Line {
    fn push(&mut self, e: Entry) {
        self.pushed += 1;
        self.entries.push_back(e);
    }

    /// Takes a record in; answers by how many bytes the line has grown.
    #[inline]
    fn record(&mut self, r: &Record<'_>, source: Source, seen: u64) -> usize {
        self.last_in = r.utc_ns;
        let bytes = self.bytes.back();
        let before = bytes.len();
        r.encode(bytes);
        let n = bytes.len() - before;
        self.records(source, 1, n, None, seen)
    }

    /// Takes in the records that were appended to its bytes last, which stood one behind the other if there are
    /// several; answers by how many bytes the line has grown.
    fn records(&mut self, source: Source, n: u32, bytes: usize, of: Option<Box<Names>>, seen: u64) -> usize {
        let time = self.last_in;
        if let (Some(e), Source::Lane { end, .. }) = (self.entries.back_mut(), source)
            && let (What::Records { count, len, names }, Some(Source::Lane { end: last, .. })) = (&mut e.what, &mut e.source)
            // Seen in the same pass, and nothing stood between the two.
            && e.seen == seen
            && end.wrapping_sub(*last) == in_lane(bytes, n)
        {
            (*count, *len, *last, e.time) = (*count + n, *len + bytes, end, time);
            names.take_if(|a| of.is_none_or(|b| !a.join(&b)));
            return bytes;
        }
        let what = What::Records { count: n, len: bytes, names: of };
        self.push(Entry { time, seen, source: Some(source), what });
        bytes + size_of::<Entry>()
    }
}

/// Bytes that records take in a lane which take `len` bytes in the journal.
fn in_lane(len: usize, count: u32) -> u64 {
    const { assert!(Record::HEAD as u64 == record::HEADER + 8) };
    len as u64 - 8 * u64::from(count)
}

impl merge::Queue for Line {
    fn first(&self) -> Option<i64> {
        self.entries.front().map(|e| match e.what {
            What::Records { .. } => Record::first_time(self.bytes.first(Record::HEAD)),
            _ => e.time,
        })
    }
}

/// What one pass found in a ring.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub seen: Seen,
    pub records: u64,
    pub flush: Option<u64>,
}

impl Acks for View {
    type W = AtomicU64;
    fn ack(&self, at: u64) -> &AtomicU64 {
        View::ack(self, at)
    }
}

/// One ring: its files, how far they were read, and what of it waits for the journal.
pub(super) struct Ring {
    pub view: View,
    snapshot: Snapshot,
    pub state: State,
    pub dead: bool,
    /// A whole pass was made after death was established: only then is it known what it left, losses that
    /// no marker tells included.
    pub passed: bool,
    /// When death is asked for.
    pub probe: Probe,
    pub quarantined: Option<String>,
    /// What of the spill was given back.
    given: GivenBack,
    /// Tail of the spill, and when it had another one (monotonic ns).
    grown: (u64, u64),
    flush_due: Option<u64>,
    holes_since: Option<u64>,
    pub last_found: Found,
}

/// What takes the items of a pass.
struct Taking<'a> {
    state: &'a mut State,
    view: &'a View,
    log: &'a mut Log,
    now: &'a Now<'a>,
    records: &'a mut u64,
}

impl Out for Taking<'_> {
    fn item(&mut self, item: Item<'_>) {
        *self.records += u64::from(matches!(item, Item::Record { .. }));
        self.state.take(self.view, self.log, self.now, item);
    }

    fn run(&mut self, run: &mut Run<'_>) {
        let Taking { state, view, log, now, records } = self;
        let who = state.thread(view, run.thread, log);
        state.line(Key::Lane(run.lane()));
        let mut line = state.lines.lane(run.lane()).take().expect("made just now");
        **records += u64::from(state.take_run(view, log, now, run, who, &mut line));
        state.lines.put(line);
    }
}

/// What the drain knows of a ring beside its files.
pub(super) struct State {
    pub stem: Stem,
    index: usize,
    lines: Lines,
    /// Lane of each thread that has or had one, and when that was last news.
    lane_of: HashMap<u64, (u32, u64)>,
    /// When silent threads were looked for (monotonic ns).
    pruned: u64,
    /// The journal's numbers of this ring's sites and threads.
    sites: HashMap<u32, u32>,
    threads: HashMap<u64, u32>,
    /// The last thread and site that were asked for: mostly the next record has the same.
    last_thread: (u64, u32),
    last_site: (u32, u32),
    /// How far the journal has it, the batch under way included.
    pub at: Positions,
    dirty: Vec<Part>,
    /// Whether `at` is ahead of what writers were told.
    unpublished: bool,
    /// Loss known so far, in the journal or on its way there: by lane, and of threads without one; and
    /// since when a larger one is known (monotonic ns, 0 = none is).
    losses: HashMap<Option<u32>, (u64, u64)>,
    /// When losses were looked for (monotonic ns).
    losses_seen: u64,
    anchor: Pair,
    clock: u32,
    bad_site_told: bool,
    /// Entries of sites that came with their records.
    inline_sites: usize,
    /// No record of a ring that was there before is given an earlier time than the journal had then.
    floor: i64,
    /// Records that were counted as spilled and are not there.
    pub missing: u64,
    /// Bytes in the lines.
    pub queued: usize,
}

impl Ring {
    /// Takes a ring on, from where the journal (`cursors`) and its own ack say that it was left.
    pub fn new(
        view: View,
        cursors: &BTreeMap<CursorKey, Vec<u8>>,
        known_journal: bool,
        log: &mut Log,
    ) -> Ring {
        let stem = view.files.stem;
        let of = |part: Part| {
            cursors
                .get(&CursorKey { nonce: stem.nonce, pid: stem.pid, part: part.number() })
                .map(Vec::as_slice)
        };
        let owner = |i| view.lane_word(i, lane::OWNER) >> 16;
        // `short`: records that `released` says are delivered and the journal does not have.
        let (at, short) = Positions::restore(view.lanes(), of, &view, owner);
        let seen_before = !at.lanes.is_empty() || at.shared.count + at.spill.count > 0;
        let snapshot = at.reader(view.lanes());
        let mut losses: HashMap<_, _> = at.lanes.iter().map(|(i, c)| (Some(*i), (c.reported, 0))).collect();
        losses.insert(None, (at.process.reported, 0));
        let owned = at.lanes.iter().filter(|(_, c)| c.owner != 0);
        let lane_of = owned.map(|(i, c)| (c.owner, (*i, 0))).collect();
        let clock = view.files.clock;
        let given = GivenBack::new(&view);
        let state = State {
            stem,
            index: 0,
            lines: Lines::default(),
            lane_of,
            pruned: 0,
            losses_seen: 0,
            sites: HashMap::default(),
            threads: HashMap::default(),
            last_thread: NO_THREAD,
            last_site: (0, 0),
            at,
            dirty: Vec::new(),
            unpublished: true,
            losses,
            anchor: Pair { ticks: clock.anchor_ticks, utc: clock.anchor_utc as i64 },
            clock: clock.source,
            bad_site_told: false,
            inline_sites: 0,
            floor: if seen_before { log.floor } else { 0 },
            missing: 0,
            queued: 0,
        };
        let mut ring = Ring {
            view,
            snapshot,
            state,
            dead: false,
            passed: false,
            probe: Probe::new(),
            quarantined: None,
            given,
            grown: (0, 0),
            flush_due: None,
            holes_since: None,
            last_found: Found::default(),
        };
        if short > 0 {
            if known_journal {
                // The journal was cut or is damaged: an exact loss.
                let line = ring.state.line(Key::Thread(0));
                let entry = Entry {
                    time: line.last_in.max(0),
                    seen: 0,
                    source: None,
                    what: What::Loss(Box::new(LossNote {
                        thread: 0,
                        count: short,
                        from: 0,
                        to: 0,
                        of: None,
                        total: 0,
                    })),
                };
                line.push(entry);
                log.say(format!(
                    "{stem}: {short} records had been delivered to this journal and are not in it any more"
                ));
            } else {
                log.say(format!("{stem}: {short} records are in another journal; going on behind them"));
            }
        }
        ring.publish();
        ring
    }

    /// One pass over the ring. What it holds and may be delivered goes into its lines.
    pub fn pass(&mut self, log: &mut Log, now: &Now<'_>, limits: Limits) -> Found {
        if self.quarantined.is_some() {
            return Found::default();
        }
        // Before S1: what had returned when the flush was asked for is in this pass. flush:A
        let flush = self.view.load(word::FLUSH);
        let asked = flush > self.view.ack(ack::FLUSHED).load(Relaxed);
        let mut found = Found { flush: asked.then_some(flush), ..Found::default() };
        let (view, state) = (&self.view, &mut self.state);
        let r = self.snapshot.pass_to(
            view,
            limits,
            self.dead,
            Taking { state, view, log, now, records: &mut found.records },
        );
        match r {
            Ok(seen) => found.seen = seen,
            Err(v) => self.quarantine(format!("it breaks the rules: {}", v.0), log),
        }
        if self.view.files.cut_short() {
            self.quarantine("one of its files was cut short".to_string(), log);
        }
        if found.flush.is_some()
            && self.flush_due.is_none()
            && self.quarantined.is_none()
            && !found.seen.truncated
            && !found.seen.lanes_cut
            && found.seen.unreadable.is_none()
        {
            self.flush_due = found.flush;
            self.state.lines.values_mut().for_each(|l| l.mark = l.pushed);
        }
        if self.quarantined.is_none() {
            self.last_found = found;
        }
        found
    }

    fn quarantine(&mut self, why: String, log: &mut Log) {
        log.say(format!(
            "{}: {why}. This producer's ring is left alone from here on; its files stay \
             (spillring inspect channel; spillring rm)",
            self.view.files.path(crate::channel::Kind::Ring).display()
        ));
        self.quarantined = Some(why);
        // What it had not been read to the end of must not hold the others back.
        self.last_found = Found::default();
    }

    /// Holes of threads that are gone while their process lives.
    pub fn skip_gone(&mut self, me: &crate::sys::process::Facts, mono: u64) {
        if self.last_found.seen.holes == 0 || self.quarantined.is_some() {
            self.holes_since = None;
            return;
        }
        let since = *self.holes_since.get_or_insert(mono);
        if mono.saturating_sub(since) < 500_000_000 {
            return;
        }
        self.holes_since = Some(mono);
        let them = self.view.files.identity.facts;
        if them.pid_ns != me.pid_ns || them.boot_id != me.boot_id {
            return;
        }
        for (hole, s) in self.snapshot.open_holes(&self.view) {
            if u32::from(s) >= self.view.files.geometry.slots {
                continue;
            }
            let owner = self.view.slot_word(u32::from(s), slot::OWNER);
            let tid = (owner >> 32) as u32;
            let ours = owner & slot::TAKEN != 0 && owner & slot::FOREIGN == 0 && tid != 0;
            if ours && !crate::sys::process::thread_exists(them.pid, tid) {
                let (at_all, dirty) = (&mut self.state.at, &mut self.state.dirty);
                self.snapshot.skip_open(&self.view, hole, &mut |i| {
                    if let Item::Skip { source, .. } = i {
                        dirty.extend(at_all.skip(source));
                        let spilled = matches!(source, Source::Spill { .. });
                        let of = if spilled { &mut at_all.spill } else { &mut at_all.shared };
                        of.skipped += 1;
                    }
                });
            }
        }
    }

    /// Loss that stands in the headers and was never marked: the thread has not logged since.
    pub fn unmarked_losses(&mut self, log: &mut Log, now: &Now<'_>, at_once: bool) {
        let (view, state) = (&self.view, &mut self.state);
        if self.quarantined.is_some() || !at_once && now.mono.saturating_sub(state.losses_seen) < LOOK_NS {
            return;
        }
        state.losses_seen = now.mono;
        let lanes = (0..view.lanes_used()).filter(|i| view.lane_capacity(*i) != 0);
        let lanes = lanes.map(|i| (Some(i), view.lane_word(i, lane::LOST)));
        // Mostly nothing was ever lost: then nothing is looked up.
        for (of, total) in lanes.chain([(None, view.load(word::LOST))]).filter(|(_, total)| *total != 0) {
            let (known, since) = state.losses.get(&of).copied().unwrap_or_default();
            if total <= known {
                continue;
            }
            if at_once || since != 0 && now.mono.saturating_sub(since) > 1_000_000_000 {
                let thread = of.and_then(|l| state.at.lanes.get(&l)).map_or(0, |c| c.owner);
                state.loss(view, log, of, thread, total, None, now);
            } else if since == 0 {
                state.losses.insert(of, (known, now.mono));
            }
        }
    }

    /// Whether a flush waits for what is in the lines.
    pub fn flush_due(&self) -> bool {
        self.flush_due.is_some()
    }

    /// Nothing is under way in it: the words that calls move tell whether a pass would find anything.
    pub fn quiet(&self) -> bool {
        let seen = &self.last_found.seen;
        let settled = seen.holes == 0 && seen.waiting == 0 && seen.unreadable.is_none();
        let given_back = || self.next_to_give().is_none();
        self.quarantined.is_some() || settled && given_back() && !self.dead && self.flush_due.is_none()
    }

    /// Whether its program waits for a flush.
    pub fn flushes(&self) -> bool {
        self.quarantined.is_none() && self.view.load(word::FLUSH) != self.view.ack(ack::FLUSHED).load(Relaxed)
    }

    /// Where the last pass left off: what is different now is news.
    pub fn lane_seen(&self, i: u32) -> u64 {
        self.snapshot.lanes[i as usize].at
    }
    /// The spill's tail word as of the last pass.
    pub fn spill_seen(&self) -> u64 {
        self.last_found.seen.spill_tail
    }
    /// The shared lane's tail word as of the last pass.
    pub fn shared_seen(&self) -> u64 {
        self.last_found.seen.shared_tail
    }

    fn next_to_give(&self) -> Option<(u64, u64)> {
        let size = self.view.spill_granules();
        if size == 0 {
            return None;
        }
        self.given.next(&self.state.at.spill, spill::UNIT, super::PUNCH / GRANULE, size)
    }

    /// Gives spill space back, at most [`PUNCH`](super::PUNCH) bytes. It holds the inode lock that growing needs;
    /// `quiet`: this thread may be preempted for long while it does, so it waits until the spill has not grown for
    /// a second or takes half of what it may.
    pub fn punch(&mut self, quiet: bool, mono: u64, half_quota: u64) {
        let Some((from, to)) = self.next_to_give() else { return };
        let tail = shared::position(self.view.spill_tail());
        if tail != self.grown.0 {
            self.grown = (tail, mono);
        }
        let (size, len) = (self.view.spill_granules(), (to - from) * GRANULE);
        let still = mono.saturating_sub(self.grown.1) > 1_000_000_000;
        let much = len >= super::PUNCH.min(half_quota / 4) || to - from >= size / 4;
        if !(still || !quiet && much) {
            let Ok(st) = self.view.files.spill_stat() else { return };
            if st.allocated <= half_quota {
                return;
            }
        }
        let view = &self.view;
        self.given.give((from, to), view, |from, to| {
            for (i, n) in places(from, to, size) {
                let _ = view.files.punch_spill(spill::commit_word(i), n * 8);
                let _ = view.files.punch_spill(spill::granule(size, i), n * GRANULE);
            }
        });
    }

    /// Written, delivered and lost, of a ring that is finished.
    pub fn sums(&self) -> (u64, u64, u64) {
        let (view, s, missing) = (&self.view, &self.state.at, self.state.missing);
        let sum = |it: &mut dyn Iterator<Item = u64>| it.fold(0u64, u64::saturating_add);
        let delivered = sum(&mut s.lanes.values().map(|c| c.count).chain([s.shared.count, s.spill.count]));
        let lost = sum(&mut s.lanes.values().map(|c| c.reported).chain([s.process.reported, missing]));
        let written = sum(&mut (0..view.lanes_used())
            .map(|i| written_count(view.lane_word(i, lane::WRITTEN), view.lane_word(i, lane::TAIL))));
        // Of a call on the slow path that had returned either the record is there, or it is missing. (A
        // call that died in between may be there too.)
        let slow = s.shared.count.saturating_add(s.spill.count).saturating_add(missing);
        let told = lost.saturating_sub(missing);
        (written.saturating_add(slow).saturating_add(told), delivered, lost)
    }

    /// Of a dead ring that was read to its end: records in the spill whose calls had returned (each counted it
    /// after its commit) and that are not there. There are none unless somebody damaged the file; they
    /// are told as lost.
    pub fn missing_spilled(&mut self, log: &mut Log, now: &Now<'_>) {
        let counted = self.view.load(word::SPILLED);
        if self.passed && self.snapshot.drained(&self.view) && self.state.empty() {
            let missing = counted.saturating_sub(self.state.at.spill.count);
            if missing > self.state.missing {
                let count = missing - self.state.missing;
                self.state.missing = missing;
                log.say(format!(
                    "{}: {count} spilled records are damaged; they count as lost",
                    self.state.stem
                ));
                let line = self.state.line(Key::Thread(0));
                let (from, to) = (line.last_in, now.utc);
                let note = LossNote { thread: 0, count, from, to, of: None, total: 0 };
                let what = What::Loss(Box::new(note));
                line.push(Entry { time: from.max(1), seen: now.mono, source: None, what });
            }
        }
    }

    /// Whether everything it ever held is in the journal (of a dead ring: it may be unlinked).
    pub fn finished(&self) -> bool {
        self.passed && self.quarantined.is_none() && self.state.empty() && self.snapshot.drained(&self.view)
    }

    /// Stores what the journal has into `P.ack`. Only after the batch with the same cursors is written.
    pub fn publish(&mut self) {
        if std::mem::take(&mut self.state.unpublished) {
            self.state.at.publish(&self.view);
        }
    }

    /// The flush that a pass took in whole, once nothing of it is left in the lines.
    pub fn publish_flush(&mut self) {
        if let Some(f) = self.flush_due
            && self.state.lines.values().all(|l| l.popped >= l.mark)
        {
            self.view.ack(ack::FLUSHED).store(f, Release);
            self.flush_due = None;
        }
    }
}

impl State {
    fn line(&mut self, key: Key) -> &mut Line {
        let ring = self.index;
        let last_out = self.floor;
        self.lines.get_or_insert_with(key, || Line {
            key,
            entries: VecDeque::new(),
            bytes: Fifo::default(),
            last_in: 0,
            last_out,
            pushed: 0,
            popped: 0,
            mark: 0,
            ring,
        })
    }

    /// UTC of a record's ticks, cut to `now`: one bad stamp must not hold up the rest.
    pub fn time(&self, ticks: u64, now: &Now<'_>) -> i64 {
        match now.clocks.of(self.clock) {
            Some(c) if ticks != 0 => c.utc_of_ring(ticks, self.anchor).min(now.utc),
            _ => now.utc,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn loss(
        &mut self,
        view: &View,
        log: &mut Log,
        of: Option<u32>,
        thread: u64,
        total: u64,
        source: Option<Source>,
        now: &Now<'_>,
    ) {
        let (known, _) = self.losses.get(&of).copied().unwrap_or_default();
        if total <= known && source.is_none() {
            return;
        }
        self.losses.insert(of, (known.max(total), 0));
        let who = if thread == 0 { 0 } else { self.thread(view, thread, log) };
        let key = of.map_or(Key::Thread(thread), Key::Lane);
        let line = self.line(key);
        let (from, to) = (line.last_in, now.utc);
        let what = match total.checked_sub(known) {
            Some(count) if count > 0 => {
                What::Loss(Box::new(LossNote { thread: who, count, from, to, of, total }))
            }
            _ => What::Nothing,
        };
        line.push(Entry { time: from.max(1), seen: now.mono, source, what });
    }

    /// The journal's number for a thread of this ring.
    fn thread(&mut self, view: &View, number: u64, log: &mut Log) -> u32 {
        if self.last_thread.0 == number {
            return self.last_thread.1;
        }
        if let Some(n) = self.threads.get(&number) {
            self.last_thread = (number, *n);
            return *n;
        }
        if self.threads.len() >= MOST_NAMES {
            return 0;
        }
        // A thread without a lane: its slot knows its tid.
        let tid = (0..view.files.geometry.slots)
            .find(|s| view.slot_word(*s, slot::THREAD) == number)
            .map_or(0, |s| (view.slot_word(s, slot::OWNER) >> 32) as u32);
        self.name_thread(view, number, tid, &[], log)
    }

    fn name_thread(&mut self, view: &View, number: u64, tid: u32, name: &[u8], log: &mut Log) -> u32 {
        let who = &view.files.identity;
        let n = log.journal.thread(&ThreadFacts {
            nonce: who.nonce,
            pid: who.facts.pid,
            start: who.facts.start,
            boot_id: who.facts.boot_id,
            comm: who.facts.comm,
            thread: number,
            tid,
            name,
        });
        self.threads.insert(number, n);
        self.last_thread = (number, n);
        n
    }

    fn site(&mut self, view: &View, id: u32, log: &mut Log) -> u32 {
        if self.last_site.0 == id {
            return self.last_site.1;
        }
        if let Some(n) = self.sites.get(&id) {
            self.last_site = (id, *n);
            return *n;
        }
        let n = match view.site(id).as_deref().map(SiteFacts::decode) {
            Some(Ok((f, _))) => log.journal.site(&journal_site(&f)),
            _ => {
                if !std::mem::replace(&mut self.bad_site_told, true) {
                    log.say(format!(
                        "{}: site {id} cannot be read; records of such sites are kept without it",
                        self.stem
                    ));
                }
                return 0;
            }
        };
        self.sites.insert(id, n);
        n
    }

    /// Lines carry the place of their ring, which moves when another ring goes.
    pub fn set_index(&mut self, index: usize) {
        self.index = index;
        self.lines.values_mut().for_each(|l| l.ring = index);
    }

    /// The lines that hold something.
    pub fn take_lines(&mut self) -> impl Iterator<Item = Line> + '_ {
        self.lines.take_full()
    }

    /// Back with a line.
    pub fn put_line(&mut self, line: Line) {
        self.lines.put(line);
    }

    /// Whether nothing of it waits for the journal.
    pub fn empty(&self) -> bool {
        self.lines.values().all(|l| l.entries.is_empty())
    }

    /// Lanes that are more than half full of what the journal does not have yet.
    pub fn lanes_half_full(&self, view: &View) -> Vec<u32> {
        let due = |l: &Line| match l.key {
            Key::Lane(i) if !l.entries.is_empty() => {
                let released = self.at.lanes.get(&i).map_or(0, |c| c.position);
                let used = view.lane_tail(i).wrapping_sub(released);
                (used > view.lane_capacity(i) / 2).then_some(i)
            }
            _ => None,
        };
        self.lines.values().filter_map(due).collect()
    }

    /// Writes the changed cursors into the batch.
    pub fn put_cursors(&mut self, log: &mut Log) {
        self.dirty.sort();
        self.dirty.dedup();
        self.unpublished |= !self.dirty.is_empty();
        for part in std::mem::take(&mut self.dirty) {
            if let Some(v) = self.at.encode(part) {
                log.journal.cursor(self.key(part), &v);
            }
        }
    }

    fn key(&self, part: Part) -> CursorKey {
        CursorKey { nonce: self.stem.nonce, pid: self.stem.pid, part: part.number() }
    }

    /// All cursors of this ring are dropped with the next batch.
    pub fn drop_cursors(&self, log: &mut Log) {
        let mine: Vec<CursorKey> = log
            .journal
            .cursors()
            .keys()
            .filter(|k| k.nonce == self.stem.nonce && k.pid == self.stem.pid)
            .copied()
            .collect();
        for key in mine {
            log.journal.cursor(key, &[]);
        }
        for n in self.threads.values() {
            log.journal.retire_thread(*n);
        }
    }

    /// Forgets threads that have been silent for a while and have no lane (any more): their lines, and
    /// what the journal keeps of them. Not while a batch is under way, which may name them.
    pub fn prune(&mut self, utc: i64, mono: u64, log: &mut Log) {
        if log.journal.pending() || mono.saturating_sub(self.pruned) < LOOK_NS {
            return;
        }
        self.pruned = mono;
        let silent = |l: &Line| l.entries.is_empty() && utc.saturating_sub(l.last_in) > SILENT_NS;
        self.last_thread = NO_THREAD;
        for (th, _) in self.lines.threads.extract_if(|_, l| silent(l)) {
            // Of one that has got a lane since, the lane's entries may name it: see below.
            if !self.lane_of.contains_key(&th)
                && let Some(n) = self.threads.remove(&th)
            {
                log.journal.retire_thread(n);
            }
        }
        let lanes = &self.at.lanes;
        let left = |th: &u64, l: &u32, since: u64| {
            lanes.get(l).is_none_or(|c| c.owner != *th) && mono.saturating_sub(since) > SILENT_NS as u64
        };
        if !self.empty() {
            return; // entries of a lane may name its former owners
        }
        for (th, _) in self.lane_of.extract_if(|th, (l, since)| left(th, l, *since)) {
            if let Some(n) = self.threads.remove(&th) {
                log.journal.retire_thread(n);
            }
        }
    }
}

/// No thread has this number: numbers have 48 bits.
const NO_THREAD: (u64, u32) = (u64::MAX, 0);
/// How long a thread without a lane is remembered.
const SILENT_NS: i64 = 2_000_000_000;
/// How often what shows after a second or more is looked for.
const LOOK_NS: u64 = 100_000_000;
/// Sites and threads of one ring that are told apart; a ring with more breaks the rules of any program.
const MOST_NAMES: usize = 1 << 17;

/// The calibrations of the clocks that rings may use.
pub(super) struct Calibrations {
    pub tsc: Calibration,
    pub mono: Calibration,
}

impl Calibrations {
    fn of(&self, source: u32) -> Option<&Calibration> {
        match source {
            1 | 3 => Some(&self.tsc),
            2 => Some(&self.mono),
            _ => None,
        }
    }
}

/// What a pass knows about time, read before it began.
pub(super) struct Now<'a> {
    pub utc: i64,
    pub mono: u64,
    pub clocks: &'a Calibrations,
}

pub(super) fn journal_site<'a>(f: &SiteFacts<'a>) -> JournalSite<'a> {
    JournalSite {
        level: f.level as u8,
        line: f.line,
        file: f.file,
        target: f.target,
        fmt: f.fmt,
        types: f.types,
        fields: f.fields,
        style: f.style,
    }
}

/// A record as it was found, and the journal's number of its thread.
struct Raw<'a> {
    who: u32,
    source: Source,
    kind: u8,
    ticks: u64,
    site: u32,
    payload: &'a [u8],
}

fn journal_kind(kind: u8) -> u8 {
    match kind {
        record::RECORD => kind::LOG,
        record::CAPTURE => kind::OUTPUT,
        other => other,
    }
}

impl State {
    /// One item of a pass.
    fn take(&mut self, view: &View, log: &mut Log, now: &Now<'_>, item: Item<'_>) {
        match item {
            Item::Record { thread, source, kind, ticks, site, payload, .. } => {
                let key = self.queue_of(thread, source);
                let who = self.thread(view, thread, log);
                self.take_record(view, log, now, key, Raw { who, source, kind, ticks, site, payload });
            }
            Item::Thread { lane, end, thread, tid, comm } => {
                self.lane_of.values_mut().filter(|(l, _)| *l == lane).for_each(|v| v.1 = now.mono);
                self.lane_of.insert(thread, (lane, now.mono));
                let name = comm.split(|b| *b == 0).next().unwrap_or(&[]);
                self.name_thread(view, thread, tid, name, log);
                let line = self.line(Key::Lane(lane));
                let what = What::Owner(Box::new((thread, tid, comm)));
                let source = Some(Source::Lane { lane, end });
                line.push(Entry { time: line.last_in, seen: now.mono, source, what });
            }
            Item::Loss { lane, thread, lost, source } => {
                self.loss(view, log, lane, thread, lost, source, now);
            }
            Item::Skip { source, hole } => {
                if let (true, Source::Shared { len, .. }) = (hole, source) {
                    self.at.shared.skipped_granules += len;
                }
                self.dirty.extend(self.at.skip(source));
            }
        }
    }

    /// One record into its line.
    fn take_record(&mut self, view: &View, log: &mut Log, now: &Now<'_>, key: Key, r: Raw<'_>) {
        let (site, payload) = if r.site != 0 {
            (self.site(view, r.site, log), r.payload)
        } else if r.kind == record::RECORD
            && self.inline_sites < MOST_NAMES
            && let Ok((f, n)) = SiteFacts::decode(r.payload)
        {
            self.inline_sites += 1;
            (log.journal.site(&journal_site(&f)), &r.payload[n..])
        } else {
            (0, r.payload)
        };
        let (time, kind, ticks) = (self.time(r.ticks, now), journal_kind(r.kind), r.ticks);
        let line = self.line(key);
        let utc_ns = line.last_in.max(time);
        let record = Record { site, thread: r.who, kind, flags: 0, utc_ns, ticks, payload };
        self.queued += line.record(&record, r.source, now.mono);
    }

    /// Records of one thread's lane, into its line; answers how many.
    fn take_run(
        &mut self,
        view: &View,
        log: &mut Log,
        now: &Now<'_>,
        run: &mut Run<'_>,
        who: u32,
        line: &mut Line,
    ) -> u32 {
        let times = now.clocks.of(self.clock).map_or(Straight::NOWHERE, |c| c.straight(self.anchor));
        let mut names = Box::new(Names { thread: who, sites: Vec::new(), payload: 0 });
        let (mut site, mut last_in, mut count, mut payloads) = ((0, 0), line.last_in, 0, 0);
        let bytes = line.bytes.back();
        let before = bytes.len();
        // Each takes eight bytes more than in the lane, where it has a header at least.
        let mut encoder = Encoder::new(bytes, run.left() / 3 * 4);
        // A copy of its own, which stays in registers.
        let mut records = run.clone();
        while let Some(r) = records.next() {
            if site.0 != r.site {
                site = (r.site, self.site(view, r.site, log));
                names.add(site.1);
            }
            let time = times.utc(r.ticks).map(|t| t.min(now.utc));
            last_in = last_in.max(time.unwrap_or_else(|| self.time(r.ticks, now)));
            let (site, utc_ns, ticks, payload) = (site.1, last_in, r.ticks, r.payload);
            let record = Record { site, thread: who, kind: kind::LOG, flags: 0, utc_ns, ticks, payload };
            encoder.push(record, r.rest);
            payloads += payload.len() as u64;
            count += 1;
        }
        drop(encoder);
        *run = records;
        names.payload = payloads;
        line.last_in = last_in;
        let grown = line.bytes.all.len() - before;
        self.queued += line.records(run.source(), count, grown, Some(names), now.mono);
        count
    }

    fn queue_of(&self, thread: u64, source: Source) -> Key {
        match source {
            Source::Lane { lane, .. } => Key::Lane(lane),
            _ => match self.lane_of.get(&thread) {
                Some((lane, _)) => Key::Lane(*lane),
                None => Key::Thread(thread),
            },
        }
    }

    /// A cursor moves with the batch. (It is published after the commit.)
    fn changed(&mut self, part: Option<Part>) {
        if let Some(part) = part
            && self.dirty.last() != Some(&part)
        {
            self.dirty.push(part);
        }
    }
}

impl Line {
    pub fn ring(&self) -> usize {
        self.ring
    }
    /// Its lane, if it is one.
    pub fn lane(&self) -> Option<u32> {
        match self.key {
            Key::Lane(l) => Some(l),
            Key::Thread(_) => None,
        }
    }
    /// Which of its entries are due by rule.
    pub fn due(&self, seen_before: u64, all: bool) -> merge::Due {
        let last = self.entries.back().map(|e| e.time);
        let n = self.entries.partition_point(|e| e.seen <= seen_before);
        merge::Due {
            seen: n.checked_sub(1).map(|i| self.entries[i].time),
            all: if all { last } else { None },
        }
    }

    /// Moves the first entry into the batch, and those behind it that are not later than `until`. False: the
    /// batch is full.
    pub fn take(&mut self, until: i64, rings: &mut [Ring], log: &mut Log) -> bool {
        let ring = &mut rings[self.ring].state;
        while let Some(e) = self.entries.front_mut() {
            match &mut e.what {
                What::Records { count, len, names } => {
                    let (n, first) = (*len, Record::first_time(self.bytes.first(*len)));
                    if first > until {
                        return true;
                    }
                    // All of it at once, if nothing asks for a part.
                    let due = e.time <= until && first >= self.last_out;
                    let whole = names.as_ref().is_some_and(|of| of.known() && due);
                    if whole && self.bytes.goes_uncopied(n) && log.journal.batch_bytes() > 0 {
                        return false; // the next batch begins with it
                    }
                    let whole = names.take().filter(|_| whole && log.journal.batch_bytes() + n <= BATCH);
                    let whole = whole.and_then(|of| {
                        let (records, payload, last_time) = (*count, of.payload, e.time);
                        let of =
                            Together { records, payload, last_time, thread: of.thread, sites: &of.sites };
                        let all = self.bytes.take_into(&mut log.journal, n, &of);
                        all.then_some(Taken { records, bytes: n, payload, last_time })
                    });
                    let taken = match whole {
                        Some(taken) => Ok(taken),
                        // One by one.
                        None => {
                            let taken = log.journal.take(self.bytes.first(n), self.last_out, until, BATCH);
                            taken.inspect(|t| self.bytes.take(t.bytes))
                        }
                    };
                    let taken = match taken {
                        Ok(taken) => {
                            log.totals.records += u64::from(taken.records);
                            log.totals.bytes += taken.payload;
                            let spilled = matches!(e.source, Some(Source::Spill { .. }));
                            log.totals.spilled += u64::from(spilled) * u64::from(taken.records);
                            taken
                        }
                        Err(_) if log.journal.batch_bytes() > 0 => return false, // commit it first
                        Err(error) => {
                            // Even alone the journal would not have it. It must not stand in the way for ever.
                            let (stem, bytes) = (&ring.stem, self.bytes.first(n));
                            log.say(format!("{stem}: a record cannot be stored and counts as lost: {error}"));
                            let time = Record::first_time(bytes).max(self.last_out);
                            let loss = Loss { count: 1, from_utc: time, to_utc: time };
                            if log.note(kind::LOSS, 0, time, &loss.encode()).is_err() {
                                return false;
                            }
                            log.totals.lost = log.totals.lost.saturating_add(1);
                            let one = Record::first_len(bytes);
                            self.bytes.take(one);
                            Taken { records: 1, bytes: one, payload: 0, last_time: time }
                        }
                    };
                    self.last_out = taken.last_time;
                    (*count, *len) = (*count - taken.records, *len - taken.bytes);
                    ring.queued = ring.queued.saturating_sub(taken.bytes);
                    let part = e.source.map(|s| match s {
                        Source::Lane { lane, end } => {
                            let end = end.wrapping_sub(in_lane(*len, *count));
                            ring.at.take_records(Source::Lane { lane, end }, taken.records.into())
                        }
                        slow => ring.at.take_records(slow, taken.records.into()),
                    });
                    ring.changed(part);
                    if *count > 0 {
                        if log.journal.batch_bytes() >= BATCH {
                            return false;
                        }
                        continue;
                    }
                    ring.queued = ring.queued.saturating_sub(size_of::<Entry>());
                }
                _ if e.time > until => return true,
                What::Loss(l) => {
                    let loss = Loss { count: l.count, from_utc: l.from, to_utc: l.to };
                    let time = e.time.max(self.last_out);
                    if log.note(kind::LOSS, l.thread, time, &loss.encode()).is_err() {
                        return false;
                    }
                    log.totals.lost = log.totals.lost.saturating_add(l.count);
                    // A loss of no counter (damage) moves no cursor.
                    let counted = l.of.is_some() || l.total != 0;
                    let part = counted.then(|| ring.at.lost(l.of, l.count));
                    ring.changed(part);
                    let part = e.source.map(|s| ring.at.take(s, Stood::Note));
                    ring.changed(part);
                }
                What::Owner(o) => {
                    let (thread, tid, comm) = **o;
                    let part = e.source.map(|s| ring.at.take(s, Stood::Owner { thread, tid, comm }));
                    ring.changed(part);
                }
                What::Nothing => {
                    let part = e.source.map(|s| ring.at.take(s, Stood::Note));
                    ring.changed(part);
                }
            }
            self.entries.pop_front();
            self.popped += 1;
            if log.journal.batch_bytes() >= BATCH {
                return false;
            }
        }
        true
    }
}
