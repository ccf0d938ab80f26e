//! What one pass over one ring may deliver.
//!
//! A pass reads, all with acquire: **S1** = the shared lane's tail and words, then the spill's; **T** = the
//! tails of all thread lanes; **S2** = as S1, again. Everything that had returned before something in S1 ∪ T began is in T ∪ S2: a thread publishes a call before it
//! begins the next, so whoever sees the later one (in S1 or T) and then looks again (T, S2) sees the
//! earlier one. So for each thread, with `E` its lane's tail in T and `A` the largest order of its slow
//! records in S1 ([`Order`]): its lane records below `E`, and its slow records with `t < E` or an order ≤
//! `A`, in that order, are closed under "returned before". What else S2 showed waits and is part of the
//! next pass's S1.
//!
//! That uses two things of the order ([`crate::lane::call`] shows both): of two calls of a thread the one
//! that had returned before the other began stands first, and what begins after a call has got its place
//! stands behind it. The first gives the order of what is delivered, and lets `t` be compared instead of a
//! position (it does not fall along the order). The second is the cut: let a slow record X be delivered for
//! its order ≤ `A`, that of R. Then X began before R got its place, so before R was published, and
//! whatever had returned before X began was published before R: it is in T ∪ S2, since R is in S1. With
//! `t < E` some record of the lane that came after X is in T, and stands for R.
//!
//! Reading of the spill is bounded. Where it was not read to its tail: of each thread, let R be the record read
//! there of largest order. Slow records of an order ≤ R's, and lane records below its `t`, began before R got its
//! place, so what had returned before them had claimed before R did; of this, what was spilled lies below R and
//! was read (by S2, if S1 found it open), and for the rest the cut above holds as well (both are asked for). Of a
//! thread of which nothing was read there nothing goes.
//!
//! `E` is 0 for a thread until its own THREAD note lies below the tail: what a dead owner left in
//! the lane says nothing about the new one.
//!
//! Nothing in the mapping is trusted: every word is loaded once, every length is checked on a copy.
//! A violation is an error for this ring alone.

use crate::sys::hash::HashMap;
use std::collections::{BTreeMap, btree_map::Entry};
use std::io;

use crate::lane::{
    Order, SlowKey, SpillKey,
    shared::{self, State},
};
use crate::layout::ring::{GRANULE, MAX_RECORD, commit, record, slow};
use crate::layout::spill;

/// The shared words of a ring, as the drain sees them. Every word load is an acquire load.
pub trait RingRead {
    /// Number of lanes.
    fn lanes(&self) -> u32;
    /// No lane with this number or a higher one has a capacity yet.
    fn lanes_used(&self) -> u32 {
        self.lanes()
    }
    /// Capacity of a lane, 0 = not there.
    fn lane_capacity(&self, lane: u32) -> u64;
    /// Its tail.
    fn lane_tail(&self, lane: u32) -> u64;
    /// Copies from its data.
    fn lane_read(&self, lane: u32, at: u64, to: &mut [u8]);
    /// The shared lane's tail word.
    fn shared_tail(&self) -> u64;
    /// Its granules.
    fn granules(&self) -> u64;
    /// A commit word.
    fn word(&self, granule: u64) -> u64;
    /// Copies from its data.
    fn granule_read(&self, at: u64, to: &mut [u8]);
    /// The spill's tail word.
    fn spill_tail(&self) -> u64;
    /// The position up to which the spill is backed.
    fn spill_backed(&self) -> u64;
    /// Its granules, 0 = there is none.
    fn spill_granules(&self) -> u64;
    /// Its commit words from this granule on. What is read behind this call was published before what is read here
    /// says so.
    ///
    /// # Errors
    /// They cannot be had; UnexpectedEof: the file ends before.
    fn spill_words(&self, granule: u64, to: &mut [u64]) -> io::Result<()>;
    /// Copies from its data, from this granule on.
    ///
    /// # Errors
    /// Likewise.
    fn spill_read(&self, granule: u64, to: &mut [u8]) -> io::Result<()>;
}

/// Where a record stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a lane, up to position `end` (a PAD before it included).
    Lane {
        /// Which.
        lane: u32,
        /// Position behind it.
        end: u64,
    },
    /// In the shared lane.
    Shared {
        /// Position in granules.
        at: u64,
        /// Granules.
        len: u64,
    },
    /// In the spill.
    Spill {
        /// Position in granules.
        at: u64,
        /// Granules.
        len: u64,
    },
}

/// One thing that a pass delivers.
#[derive(Debug)]
pub enum Item<'a> {
    /// A record of `thread`; `bytes` is its header and payload.
    Record {
        /// The thread's number.
        thread: u64,
        /// Where it stood.
        source: Source,
        /// [`record::RECORD`], or a kind that is unknown here.
        kind: u8,
        /// Raw ticks.
        ticks: u64,
        /// Site offset / 8 (0: entry before the payload).
        site: u32,
        /// Kind-specific.
        flags: u32,
        /// Payload.
        payload: &'a [u8],
    },
    /// From here on the lane belongs to another thread.
    Thread {
        /// The lane.
        lane: u32,
        /// Position behind the note.
        end: u64,
        /// The thread's number.
        thread: u64,
        /// Its tid.
        tid: u32,
        /// Its name, zero padded.
        comm: [u8; 16],
    },
    /// The owner of the lane (None: threads without one) has lost so many records by now, before
    /// what follows of `thread`.
    Loss {
        /// The lane.
        lane: Option<u32>,
        /// The thread.
        thread: u64,
        /// Cumulative count (only its growth means something).
        lost: u64,
        /// Where the marker stood; None: it was in a key.
        source: Option<Source>,
    },
    /// Space that holds no record: PAD, a skipped hole.
    Skip {
        /// Where.
        source: Source,
        /// Whether it was a hole, not PAD.
        hole: bool,
    },
}

/// Who takes what a pass finds: a closure does it item by item.
pub trait Out {
    /// Takes an item.
    fn item(&mut self, item: Item<'_>);
    /// Takes records of a lane that stand one behind the other, as many as it likes but one at least: the same as
    /// so many [`Item::Record`]. Most records of a program come this way, and what is the same for all of a run is
    /// done once.
    fn run(&mut self, run: &mut Run<'_>) {
        while let Some(LaneRecord { ticks, site, flags, payload, .. }) = run.next() {
            let (thread, source) = (run.thread, run.source());
            self.item(Item::Record { thread, source, kind: record::RECORD, ticks, site, flags, payload });
        }
    }
}

impl<F: FnMut(Item<'_>)> Out for F {
    fn item(&mut self, item: Item<'_>) {
        self(item);
    }
}

/// A ring that breaks the rules: everything of it from here on is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

macro_rules! check {
    ($c:expr, $($m:tt)*) => { if !$c { return Err(Violation(format!($($m)*))) } };
}

/// A set of positions as ranges; small, since it only holds what is resolved above a frontier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// The beginning of the first range behind `p`.
    pub fn start_behind(&self, p: u64) -> Option<u64> {
        self.0.range(p..).next().map(|(&f, _)| f)
    }
    /// Adds `[from, to)`.
    pub fn insert(&mut self, from: u64, to: u64) {
        let (mut from, mut to) = (from, to);
        if let Some((&f, &t)) = self.0.range(..=from).next_back()
            && t >= from
        {
            from = f;
            to = to.max(t);
        }
        while let Some((&f, &t)) = self.0.range(from..=to).next() {
            to = to.max(t);
            self.0.remove(&f);
        }
        self.0.insert(from, to);
    }
    /// The end of the range that holds `p`.
    pub fn end_of(&self, p: u64) -> Option<u64> {
        self.0.range(..=p).next_back().and_then(|(_, &t)| (t > p).then_some(t))
    }
    /// Moves `frontier` over what is in the set, and forgets what lies below.
    pub fn advance(&mut self, mut frontier: u64) -> u64 {
        while let Some(e) = self.0.first_entry() {
            if *e.key() > frontier {
                break;
            }
            frontier = frontier.max(e.remove());
        }
        frontier
    }
    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(&a, &b)| (a, b))
    }
    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where reading of a lane stands.
#[derive(Clone, Debug, Default)]
pub struct LaneAt {
    /// Position up to which records were delivered to the caller.
    pub at: u64,
    /// The thread whose records stand there; 0 = not known.
    pub owner: u64,
}

struct Slow {
    key: SlowKey,
    order: Order,
    source: Source,
    record: Vec<u8>,
}

/// Bounds of one pass.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the spill read in one snapshot (a record or window more, and what was open again).
    pub parse: u64,
    /// Bytes taken from one lane (one record at least).
    pub lane: u64,
}

/// What a pass saw beside its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The spill was not read to its tail: the budget was used up, or it is [clogged](Seen::clogged).
    pub truncated: bool,
    /// More granules of the spill than [`MAX_HOLES`] are claimed and hold nothing: it is read on when that changes.
    pub clogged: bool,
    /// The spill could not be read to its end (errno, 0 if there is none). The next pass tries again.
    pub unreadable: Option<i32>,
    /// Lanes were not read to their tail.
    pub lanes_cut: bool,
    /// Slow records that wait for a later pass.
    pub waiting: usize,
    /// Granules claimed in the shared lane, and claims or granules of the spill, that hold no record yet.
    pub holes: u64,
    /// Ticks of the last record read from the spill, when truncated.
    pub parsed_ticks: u64,
    /// The shared lane's tail word, as of S2.
    pub shared_tail: u64,
    /// The spill's.
    pub spill_tail: u64,
}

/// The reading side of one ring.
pub struct Snapshot {
    /// Lanes.
    pub lanes: Vec<LaneAt>,
    frontier: u64,
    seen: Ranges,
    spill: Spill,
    waiting: BTreeMap<u64, BTreeMap<Order, Slow>>,
    lane_of: HashMap<u64, u32>,
    lane_buf: Vec<u8>,
    tails: Vec<u64>,
}

/// Granules of the spill that may be claimed and hold nothing before it is not read further: each is looked at again
/// in each pass. Two threads can't leave so many that were stopped between claim and OPEN, with the largest records.
pub const MAX_HOLES: u64 = commit::MAX_GRANULES;
/// Granules of the spill that are read at a time.
const WINDOW: u64 = 4096;

/// Where reading of the spill stands.
#[derive(Default)]
struct Spill {
    /// Everything below was taken or skipped.
    frontier: u64,
    /// Likewise, above it.
    seen: Ranges,
    /// Everything below was looked at.
    reach: u64,
    /// What was found OPEN in the last look: position and slot.
    open: Vec<(u64, u16)>,
    words: Vec<u64>,
    data: Vec<u8>,
}

#[derive(Default)]
struct Cut {
    /// Largest order a thread's slow records may have.
    order: Order,
    /// Position its lane records must lie below.
    t: u64,
}

impl Snapshot {
    /// A reader that starts at the given cursors: `lanes` (position and owner of each), the shared
    /// lane's frontier with what is resolved above it, the spill's likewise.
    pub fn new(lanes: Vec<LaneAt>, shared: (u64, Ranges), spill: (u64, Ranges)) -> Self {
        let lane_of = lanes
            .iter()
            .enumerate()
            .filter(|(_, l)| l.owner != 0)
            .map(|(i, l)| (l.owner, i as u32))
            .collect();
        Snapshot {
            lanes,
            frontier: shared.0,
            seen: shared.1,
            spill: Spill { frontier: spill.0, seen: spill.1, ..Spill::default() },
            waiting: BTreeMap::new(),
            lane_of,
            lane_buf: Vec::new(),
            tails: Vec::new(),
        }
    }

    /// One pass, item by item. `dead`: it was established before this pass that nobody can write this ring any
    /// more; then this is the one more pass, and what is not a record by its end never will be.
    ///
    /// # Errors
    /// The ring breaks the rules.
    pub fn pass(
        &mut self,
        ring: &impl RingRead,
        limits: Limits,
        dead: bool,
        out: impl FnMut(Item<'_>),
    ) -> Result<Seen, Violation> {
        self.pass_to(ring, limits, dead, out)
    }

    /// The same, for who takes runs as well.
    ///
    /// # Errors
    /// As [`pass`](Self::pass).
    pub fn pass_to(
        &mut self,
        ring: &impl RingRead,
        limits: Limits,
        dead: bool,
        mut out: impl Out,
    ) -> Result<Seen, Violation> {
        let mut seen = Seen::default();
        let mut parsed: HashMap<u64, Cut> = HashMap::default();
        let mut budget = limits.parse;
        // S1
        self.look(ring, dead, &mut budget, &mut seen, &mut parsed, &mut out)?;
        let largest: HashMap<u64, Order> = self
            .waiting
            .iter()
            .filter_map(|(th, w)| w.last_key_value().map(|(order, _)| (*th, *order)))
            .collect();
        // T
        let mut tails = std::mem::take(&mut self.tails);
        tails.clear();
        tails.extend((0..ring.lanes_used().min(self.lanes.len() as u32)).map(|i| ring.lane_tail(i)));
        // S2
        self.look(ring, dead, &mut budget, &mut seen, &mut parsed, &mut out)?;
        let short = seen.truncated || seen.unreadable.is_some();
        if short {
            for (th, w) in &self.waiting {
                for s in w.values() {
                    let c = parsed.entry(*th).or_default();
                    if matches!(s.source, Source::Spill { .. }) && s.order > c.order {
                        *c = Cut { order: s.order, t: s.key.t };
                    }
                }
            }
        }
        let cuts = short.then_some(parsed);
        for (lane, tail) in (0u32..).zip(&tails) {
            // Of a thousand lanes mostly one has news.
            if *tail != self.lanes[lane as usize].at || !self.waiting.is_empty() {
                self.deliver_lane(ring, lane, *tail, &largest, cuts.as_ref(), limits, &mut seen, &mut out)?;
            }
        }
        self.tails = tails;
        self.deliver_laneless(&largest, cuts.as_ref(), seen.lanes_cut, &mut out);
        if dead && !short {
            self.skip_holes(ring, &mut out)?;
        }
        seen.waiting = self.waiting.values().map(BTreeMap::len).sum();
        self.waiting.retain(|_, w| !w.is_empty());
        Ok(seen)
    }

    /// One look at the slow path (S1 or S2): the shared lane, the spill.
    fn look(
        &mut self,
        ring: &impl RingRead,
        dead: bool,
        budget: &mut u64,
        seen: &mut Seen,
        parsed: &mut HashMap<u64, Cut>,
        out: &mut impl Out,
    ) -> Result<(), Violation> {
        self.walk_shared(ring, seen, out)?;
        (seen.truncated, seen.clogged, seen.unreadable) = (false, false, None);
        let mut s = std::mem::take(&mut self.spill);
        let done = self.walk_spill(&mut s, ring, dead, budget, seen, parsed, out);
        self.spill = s;
        done
    }

    fn walk_shared(
        &mut self,
        ring: &impl RingRead,
        seen: &mut Seen,
        out: &mut impl Out,
    ) -> Result<(), Violation> {
        let size = ring.granules();
        let word = ring.shared_tail();
        let tail = shared::position(word);
        check!(
            tail >= self.frontier && tail - self.frontier <= size,
            "shared tail {tail} is outside the lane (released {})",
            self.frontier
        );
        let (mut p, mut holes) = (self.frontier, 0);
        while p < tail {
            if let Some(end) = self.seen.end_of(p) {
                p = end;
                continue;
            }
            let index = p % size;
            match shared::state(ring.word(index), shared::lap(p, size)) {
                State::Committed(n) => {
                    check!(
                        n >= 1 && index + n <= size && p + n <= tail,
                        "shared record of {n} granules at {p}"
                    );
                    let mut record = vec![0; (n * GRANULE) as usize];
                    ring.granule_read(index * GRANULE, &mut record);
                    let key = SlowKey::from_bytes(&record);
                    record.drain(..slow::LEN as usize);
                    let len = record_len(&record)?;
                    check!(len <= record.len() as u64, "shared record at {p} is longer than its granules");
                    record.truncate(len as usize);
                    self.seen.insert(p, p + n);
                    let source = Source::Shared { at: p, len: n };
                    self.wait_for(Slow { key, order: Order::shared(p), source, record }, out);
                    p += n;
                }
                State::Pad(n) => {
                    check!(index + n == size && p + n <= tail, "shared PAD of {n} granules at {p}");
                    self.seen.insert(p, p + n);
                    out.item(Item::Skip { source: Source::Shared { at: p, len: n }, hole: false });
                    p += n;
                }
                State::Open(_) | State::None => {
                    holes += 1;
                    p += 1;
                }
            }
        }
        self.frontier = self.seen.advance(self.frontier);
        (seen.holes, seen.shared_tail) = (holes, word);
        Ok(())
    }

    /// Reads the spill from its frontier to its tail: what was open before, and of what was not looked at yet as
    /// much as the budget pays for. `dead`: what holds no record by now never will, and is skipped.
    #[allow(clippy::too_many_arguments)]
    fn walk_spill(
        &mut self,
        s: &mut Spill,
        ring: &impl RingRead,
        dead: bool,
        budget: &mut u64,
        seen: &mut Seen,
        parsed: &mut HashMap<u64, Cut>,
        out: &mut impl Out,
    ) -> Result<(), Violation> {
        let word = ring.spill_tail();
        let (tail, size) = (shared::position(word), ring.spill_granules());
        seen.spill_tail = word;
        s.open.clear();
        if tail == s.frontier {
            return Ok(());
        }
        // After the tail: what was claimed was backed before.
        let backed = ring.spill_backed();
        check!(
            tail >= s.frontier && tail - s.frontier <= size && tail <= backed,
            "spill tail {tail} is outside the spill (released {}, backed {backed}, {size} granules)",
            s.frontier
        );
        let (mut p, mut holes) = (s.frontier, 0);
        while p < tail {
            if let Some(end) = s.seen.end_of(p) {
                p = end;
                continue;
            }
            let index = p % size;
            let mut n = (tail - p).min(size - index).min(WINDOW);
            n = s.seen.start_behind(p).map_or(n, |q| n.min(q - p));
            if p >= s.reach {
                seen.clogged = holes > MAX_HOLES;
                if *budget == 0 || seen.clogged {
                    seen.truncated = true;
                    break;
                }
                n = n.min((*budget / (GRANULE + 8)).max(1));
                *budget = budget.saturating_sub(n * 8);
            } else {
                n = n.min(s.reach - p);
            }
            let read = self.spill_window(s, ring, p, n, tail, dead, budget, &mut holes, seen, parsed, out);
            match read? {
                Ok(end) => p = end,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Violation("the spill file was cut short".into()));
                }
                Err(e) => {
                    seen.unreadable = Some(e.raw_os_error().unwrap_or(0));
                    break;
                }
            }
            s.reach = s.reach.max(p);
        }
        s.frontier = s.seen.advance(s.frontier);
        seen.holes += holes;
        Ok(())
    }

    /// The `n` granules of the spill from `p` on, none of which is resolved; answers where to go on.
    #[allow(clippy::too_many_arguments)]
    fn spill_window(
        &mut self,
        s: &mut Spill,
        ring: &impl RingRead,
        p: u64,
        n: u64,
        tail: u64,
        dead: bool,
        budget: &mut u64,
        holes: &mut u64,
        seen: &mut Seen,
        parsed: &mut HashMap<u64, Cut>,
        out: &mut impl Out,
    ) -> Result<io::Result<u64>, Violation> {
        macro_rules! io {
            ($r:expr) => {
                match $r {
                    Ok(v) => v,
                    Err(e) => return Ok(Err(e)),
                }
            };
        }
        let size = ring.spill_granules();
        let (first, lap) = (p % size, shared::lap(p, size));
        s.words.resize(n as usize, 0);
        io!(ring.spill_words(first, &mut s.words));
        // Data of `[from, to)`, relative to `p`.
        let (mut i, mut from, mut to) = (0, 0, 0);
        while i < n {
            let at = p + i;
            let left = (tail - at).min(size - first - i);
            match shared::state(s.words[i as usize], lap) {
                State::Committed(g) => {
                    check!(g >= 1 && g <= left, "spilled record of {g} granules at {at}");
                    check!(
                        g * GRANULE <= spill::KEY + MAX_RECORD + GRANULE,
                        "spilled record of {g} granules at {at}"
                    );
                    if i + g > to {
                        // To the end of the window, which a record may reach over.
                        (from, to) = (i, n.max(i + g));
                        s.data.resize(((to - from) * GRANULE) as usize, 0);
                        io!(ring.spill_read(first + from, &mut s.data));
                        if at >= s.reach {
                            *budget = budget.saturating_sub(s.data.len() as u64);
                        }
                    }
                    let bytes = &s.data[((i - from) * GRANULE) as usize..][..(g * GRANULE) as usize];
                    let SpillKey { slow: key, at: tail } = SpillKey::from_bytes(bytes);
                    let order = Order::spilled(tail, at);
                    let record = &bytes[spill::KEY as usize..];
                    let len = record_len(record)?;
                    check!(len <= record.len() as u64, "spilled record at {at} is longer than its granules");
                    let record = record[..len as usize].to_vec();
                    let c = parsed.entry(key.thread).or_default();
                    if order > c.order {
                        *c = Cut { order, t: key.t };
                    }
                    seen.parsed_ticks = ticks(&record);
                    s.seen.insert(at, at + g);
                    self.wait_for(Slow { key, order, source: Source::Spill { at, len: g }, record }, out);
                    i += g;
                }
                State::Pad(g) => {
                    check!(first + i + g == size && g <= left, "spill PAD of {g} granules at {at}");
                    s.seen.insert(at, at + g);
                    out.item(Item::Skip { source: Source::Spill { at, len: g }, hole: false });
                    i += g;
                }
                // A granule at a time: its extent is the dead writer's word.
                State::Open(_) | State::None if dead => {
                    s.seen.insert(at, at + 1);
                    out.item(Item::Skip { source: Source::Spill { at, len: 1 }, hole: true });
                    i += 1;
                }
                State::Open(slot) => {
                    s.open.push((at, slot));
                    *holes += 1;
                    // No word of this lap is inside. Who lies about that has no more of it delivered.
                    i += commit::granules(s.words[i as usize]).clamp(1, left);
                }
                State::None => {
                    *holes += 1;
                    i += 1;
                }
            }
        }
        Ok(Ok(p + i))
    }

    fn wait_for(&mut self, s: Slow, out: &mut impl Out) {
        let source = s.source;
        match self.waiting.entry(s.key.thread).or_default().entry(s.order) {
            Entry::Vacant(e) => {
                e.insert(s);
            }
            // One call has one key: a second record under it is not its writer's work.
            Entry::Occupied(_) => out.item(Item::Skip { source, hole: false }),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn deliver_lane(
        &mut self,
        ring: &impl RingRead,
        lane: u32,
        tail: u64,
        largest: &HashMap<u64, Order>,
        cuts: Option<&HashMap<u64, Cut>>,
        limits: Limits,
        seen: &mut Seen,
        out: &mut impl Out,
    ) -> Result<(), Violation> {
        let LaneAt { at, mut owner } = self.lanes[lane as usize];
        let capacity = ring.lane_capacity(lane);
        if capacity == 0 {
            return Ok(());
        }
        let behind = tail.wrapping_sub(at);
        check!(
            capacity.is_power_of_two() && capacity <= crate::layout::ring::MAX_LANE,
            "lane {lane}: capacity {capacity}"
        );
        check!(
            behind <= capacity && tail.is_multiple_of(8) && at.is_multiple_of(8),
            "lane {lane}: tail {tail} is outside [{at}, +{capacity}]"
        );
        let mut buf = std::mem::take(&mut self.lane_buf);
        let mut take = behind.min(limits.lane);
        let most = (capacity / 4).min(MAX_RECORD);
        let window = loop {
            // Longer is good enough: what is not read anew is not looked at.
            if buf.len() < take as usize {
                buf.resize(take as usize, 0);
            }
            let data = &mut buf[..take as usize];
            let index = at & (capacity - 1);
            let first = take.min(capacity - index);
            ring.lane_read(lane, index, &mut data[..first as usize]);
            ring.lane_read(lane, 0, &mut data[first as usize..]);
            let enough = behind.min(capacity / 2);
            if take >= enough || (Window { lane, capacity, at, behind, most, data }).next(0)?.is_some() {
                break Window { lane, capacity, at, behind, most, data: &buf[..take as usize] };
            }
            // The largest record with the largest PAD before it is not longer.
            take = enough;
        };
        let next = |p| window.next(p);
        let data = window.data;
        let word_at = |q: u64| u64::from_le_bytes(data[q as usize..][..8].try_into().expect("8 bytes"));

        // A thread takes a lane only when its last owner is gone, and the spill is in the order of the
        // claims. So once a record of a lane's owner has been read there, every one of the owners before it
        // has been, and what they left in the lane is not held back by what is not read yet.
        let mut complete = 0;
        if let Some(cuts) = cuts {
            let mut p = 0;
            while let Some((q, len, kind)) = next(p)? {
                let thread = || word_at(q + record::HEADER);
                if kind == record::THREAD && cuts.get(&thread()).is_some_and(|c| c.order > Order::default()) {
                    complete = q;
                }
                p = q + crate::lane::round8(len);
            }
        }

        let mut p = 0u64;
        while let Some((q, len, kind)) = next(p)? {
            let n = crate::lane::round8(len);
            let cuts = if q <= complete && complete > 0 { None } else { cuts };
            if cuts.is_none() && self.waiting.get(&owner).is_none_or(BTreeMap::is_empty) {
                // Nothing is to go in between: none of it waits, and what waits comes from looks at the slow path.
                let mut run = Run::new(&window, q, owner);
                if run.clone().next().is_some() {
                    out.run(&mut run);
                    p = run.end.wrapping_sub(at);
                    continue;
                }
            }
            let r = &data[q as usize..(q + len) as usize];
            let (start, end) = (at.wrapping_add(p), at.wrapping_add(q + n));
            if kind == record::THREAD {
                // All that the old owner did on the slow path lies before the lane's new owner.
                if owner != 0 {
                    if cuts.is_some_and(|c| !c.contains_key(&owner)) {
                        break;
                    }
                    self.deliver_slow(owner, u64::MAX, tail, largest, cuts, Some((lane, start)), out);
                }
                let b = &r[record::HEADER as usize..];
                owner = word_at(q + record::HEADER);
                check!(owner != 0, "lane {lane}: THREAD note without a number");
                self.lane_of.retain(|_, l| *l != lane);
                self.lane_of.insert(owner, lane);
                out.item(Item::Thread {
                    lane,
                    end,
                    thread: owner,
                    tid: u32::from_le_bytes(b[8..12].try_into().expect("4")),
                    comm: b[16..32].try_into().expect("16"),
                });
                p = q + n;
                continue;
            }
            self.deliver_slow(owner, p, tail, largest, cuts, Some((lane, at)), out);
            if let Some(cuts) = cuts {
                let below = cuts.get(&owner).is_some_and(|c| {
                    let t = c.t.wrapping_sub(at);
                    p < t && t <= behind
                });
                if !below {
                    break;
                }
            }
            let source = Source::Lane { lane, end };
            if kind == record::LOSS {
                let lost = u64::from_le_bytes(r[record::HEADER as usize..].try_into().expect("8"));
                out.item(Item::Loss { lane: Some(lane), thread: owner, lost, source: Some(source) });
            } else {
                emit(owner, source, kind, r, out);
            }
            p = q + n;
        }
        self.lanes[lane as usize] = LaneAt { at: at.wrapping_add(p), owner };
        if p < behind {
            seen.lanes_cut = true;
        } else if owner != 0 {
            self.deliver_slow(owner, u64::MAX, tail, largest, cuts, Some((lane, at)), out);
        }
        self.lane_buf = buf;
        Ok(())
    }

    /// Slow records of `thread` that may go and stand before position `before` of its lane
    /// (relative to the base in `lane`).
    #[allow(clippy::too_many_arguments)]
    fn deliver_slow(
        &mut self,
        thread: u64,
        before: u64,
        tail: u64,
        largest: &HashMap<u64, Order>,
        cuts: Option<&HashMap<u64, Cut>>,
        lane: Option<(u32, u64)>,
        out: &mut impl Out,
    ) {
        let Some(w) = self.waiting.get_mut(&thread) else { return };
        let a = largest.get(&thread).copied().unwrap_or_default();
        let limit = cuts.map_or(Order::MAX, |c| c.get(&thread).map_or(Order::default(), |c| c.order));
        while let Some(e) = w.first_entry() {
            let Slow { key, order, .. } = *e.get();
            // Positions wrap: compare distances from the lane's base, at most a capacity away. A key
            // from before the base counts as standing at it.
            let (stands, below_tail) = match lane {
                // Logged before the thread had a lane: its note is in the lane, and came later.
                _ if key.t == slow::NO_LANE => (0, lane.is_some()),
                Some((_, base)) => {
                    let d = key.t.wrapping_sub(base) as i64;
                    (d.max(0) as u64, (key.t.wrapping_sub(tail) as i64) < 0)
                }
                None => (key.t, false),
            };
            if stands > before || order > limit || !(below_tail || order <= a) {
                break;
            }
            let s = e.remove();
            // The counter that the key speaks of: of the thread's lane, or of the process without one. Where
            // the lane is not known any more, its markers and its header tell.
            let of = lane.map(|l| l.0).or_else(|| self.lane_of.get(&thread).copied());
            if key.t == slow::NO_LANE {
                out.item(Item::Loss { lane: None, thread, lost: key.lost, source: None });
            } else if of.is_some() {
                out.item(Item::Loss { lane: of, thread, lost: key.lost, source: None });
            }
            emit(thread, s.source, word0(&s.record).1, &s.record, out);
        }
    }

    /// Threads without a lane, and those whose lane passed to another thread.
    fn deliver_laneless(
        &mut self,
        largest: &HashMap<u64, Order>,
        cuts: Option<&HashMap<u64, Cut>>,
        lanes_cut: bool,
        out: &mut impl Out,
    ) {
        let threads: Vec<u64> = self.waiting.keys().copied().collect();
        for th in threads {
            let before = match self.lane_of.get(&th) {
                // Has been served with its lane.
                Some(&lane) if self.lanes[lane as usize].owner == th => continue,
                // Its lane was not read far enough to name it: what it logged before it had one may go.
                None if lanes_cut => 0,
                _ => u64::MAX,
            };
            self.deliver_slow(th, before, 0, largest, cuts, None, out);
        }
    }

    /// After the last pass over a dead process's ring: what is claimed and holds no record.
    fn skip_holes(&mut self, ring: &impl RingRead, out: &mut impl Out) -> Result<(), Violation> {
        let tail = shared::position(ring.shared_tail());
        let mut p = self.frontier;
        while p < tail {
            match self.seen.end_of(p) {
                Some(end) => p = end,
                None => {
                    self.seen.insert(p, p + 1);
                    out.item(Item::Skip { source: Source::Shared { at: p, len: 1 }, hole: true });
                    p += 1;
                }
            }
        }
        self.frontier = self.seen.advance(self.frontier);
        Ok(())
    }

    /// OPEN holes of the last pass: where, and the slot. The caller asks whether the thread is gone and then calls
    /// [`Snapshot::skip_open`].
    pub fn open_holes(&self, ring: &impl RingRead) -> Vec<(Source, u16)> {
        let (size, tail) = (ring.granules(), shared::position(ring.shared_tail()));
        let mut found: Vec<_> =
            self.spill.open.iter().map(|&(at, slot)| (Source::Spill { at, len: 1 }, slot)).collect();
        let mut p = self.frontier;
        while p < tail {
            if let Some(end) = self.seen.end_of(p) {
                p = end;
                continue;
            }
            if let State::Open(slot) = shared::state(ring.word(p % size), shared::lap(p, size)) {
                found.push((Source::Shared { at: p, len: 1 }, slot));
            }
            p += 1;
        }
        found
    }

    /// Skips the hole that begins there, whose thread was found gone *before* this call: the word is loaded
    /// again, and only if it is still OPEN nobody is left who could commit it.
    pub fn skip_open(&mut self, ring: &impl RingRead, hole: Source, out: &mut impl FnMut(Item<'_>)) {
        // The extent is the writer's word for it: no further than the lap, the tail, and the next
        // granule that has a word of this lap.
        let extent = |words: &mut dyn FnMut(u64, u64) -> Option<Vec<u64>>,
                      at: u64,
                      tail: u64,
                      size: u64,
                      seen: &Ranges| {
            let (index, lap) = (at % size, shared::lap(at, size));
            let open = |w| matches!(shared::state(w, lap), State::Open(_));
            let first = words(index, 1)?.first().copied().filter(|w| open(*w))?;
            let mut n = commit::granules(first).min(size - index).min(tail - at).max(1);
            n = seen.start_behind(at).map_or(n, |q| n.min(q - at));
            let all = words(index, n)?;
            let next = all.iter().skip(1).position(|w| shared::state(*w, lap) != State::None);
            // The same look says that it is still OPEN.
            all.first().filter(|w| open(**w)).map(|_| at + next.map_or(n, |i| i as u64 + 1))
        };
        match hole {
            Source::Shared { at, .. } => {
                let mut words = |i, n| Some((i..i + n).map(|i| ring.word(i)).collect());
                let tail = shared::position(ring.shared_tail());
                let Some(end) = extent(&mut words, at, tail, ring.granules(), &self.seen) else { return };
                self.seen.insert(at, end);
                self.frontier = self.seen.advance(self.frontier);
                out(Item::Skip { source: Source::Shared { at, len: end - at }, hole: true });
            }
            Source::Spill { at, .. } => {
                let mut words = |i, n| {
                    let mut all = vec![0; n as usize];
                    ring.spill_words(i, &mut all).is_ok().then_some(all)
                };
                let (tail, s) = (shared::position(ring.spill_tail()), &mut self.spill);
                let Some(end) = extent(&mut words, at, tail, ring.spill_granules(), &s.seen) else { return };
                s.seen.insert(at, end);
                s.frontier = s.seen.advance(s.frontier);
                out(Item::Skip { source: Source::Spill { at, len: end - at }, hole: true });
            }
            Source::Lane { .. } => {}
        }
    }

    /// Whether everything this ring ever held has been handed out (meaningful once it is dead).
    pub fn drained(&self, ring: &impl RingRead) -> bool {
        self.waiting.is_empty()
            && self.frontier == shared::position(ring.shared_tail())
            && self.spill.frontier == shared::position(ring.spill_tail())
            && (0..self.lanes.len() as u32)
                .all(|i| ring.lane_capacity(i) == 0 || self.lanes[i as usize].at == ring.lane_tail(i))
    }
}

/// Bytes of a lane, copied. Positions in it are relative to `at`.
struct Window<'a> {
    lane: u32,
    capacity: u64,
    at: u64,
    /// Bytes up to the lane's tail, which may be more than were copied.
    behind: u64,
    /// Bytes that a record may take.
    most: u64,
    data: &'a [u8],
}

impl Window<'_> {
    /// The record at or behind `p` (a PAD may come first): where it stands, its length, its kind; None where
    /// what was copied ends.
    #[inline]
    fn next(&self, p: u64) -> Result<Option<(u64, u64, u8)>, Violation> {
        let &Window { lane, capacity, at, behind, data, most } = self;
        let take = data.len() as u64;
        if p >= take {
            return Ok(None);
        }
        let mut q = p;
        let mut to_end = capacity - (at.wrapping_add(q) & (capacity - 1));
        let (mut len, mut kind) = word0(&data[q as usize..]);
        if kind == record::PAD {
            check!(len == to_end, "lane {lane}: PAD of {len} bytes, {to_end} before the wrap");
            q += to_end;
            to_end = capacity;
            if q >= take {
                check!(take < behind, "lane {lane}: PAD at the tail");
                return Ok(None);
            }
            (len, kind) = word0(&data[q as usize..]);
        }
        let n = crate::lane::round8(len);
        let fits = len >= record::HEADER && n <= to_end && n <= most;
        check!(fits, "lane {lane}: record of {len} bytes at {}", at.wrapping_add(q));
        let known = matches!(kind, record::RECORD | record::CAPTURE | record::THREAD | record::LOSS);
        check!(known, "lane {lane}: a record of kind {kind}");
        let note = len == record::HEADER + record::THREAD_LEN;
        check!(kind != record::THREAD || note, "lane {lane}: THREAD note of {len} bytes");
        let marker = len == record::HEADER + 8;
        check!(kind != record::LOSS || marker, "lane {lane}: LOSS marker of {len} bytes");
        if q + n > take {
            check!(take < behind, "lane {lane}: a record reaches over the tail");
            return Ok(None);
        }
        Ok(Some((q, len, kind)))
    }
}

/// Log records of one thread in its lane, one behind the other without a gap, each with the number of its site, that
/// may all go: nothing of the slow path is to go in between.
#[derive(Clone)]
pub struct Run<'a> {
    /// The thread's number.
    pub thread: u64,
    lane: u32,
    most: u64,
    /// What may yet be of the run: no further than the lap.
    rest: &'a [u8],
    /// Position behind the last one that was given.
    end: u64,
}

/// A record of a [`Run`]. The fields are those of [`Item::Record`].
pub struct LaneRecord<'a> {
    /// Raw ticks.
    pub ticks: u64,
    /// Site offset / 8.
    pub site: u32,
    /// Kind-specific.
    pub flags: u32,
    /// Payload.
    pub payload: &'a [u8],
    /// The payload and what stands behind it, as far as it was read.
    pub rest: &'a [u8],
}

impl<'a> Run<'a> {
    fn new(window: &Window<'a>, p: u64, thread: u64) -> Self {
        let &Window { lane, capacity, at, most, data, .. } = window;
        let end = at.wrapping_add(p);
        let to_end = (capacity - (end & (capacity - 1))) as usize;
        let rest = &data[p as usize..];
        Run { thread, lane, most, rest: &rest[..to_end.min(rest.len())], end }
    }
    /// The lane.
    pub fn lane(&self) -> u32 {
        self.lane
    }
    /// Where the last one stood.
    pub fn source(&self) -> Source {
        Source::Lane { lane: self.lane, end: self.end }
    }
    /// Bytes that are left to look at.
    pub fn left(&self) -> usize {
        self.rest.len()
    }
    /// The next record. None: the run ends here, with whatever is nothing but a log record that everything is
    /// right with.
    #[inline(always)]
    #[allow(clippy::should_implement_trait)] // who takes it asks for more between two of them
    pub fn next(&mut self) -> Option<LaneRecord<'a>> {
        let (head, rest) = self.rest.split_first_chunk::<{ record::HEADER as usize }>()?;
        let ((len, kind), last) = (word0(head), u64::from_le_bytes(*head.last_chunk()?));
        let (n, site) = (crate::lane::round8(len), last as u32);
        if kind != record::RECORD || site == 0 || n > self.most {
            return None;
        }
        let behind = self.rest.get(n as usize..)?;
        let payload = rest.get(..len.checked_sub(record::HEADER)? as usize)?;
        self.rest = behind;
        self.end = self.end.wrapping_add(n);
        Some(LaneRecord { ticks: ticks(head), site, flags: (last >> 32) as u32, payload, rest })
    }
}

fn word0(b: &[u8]) -> (u64, u8) {
    let w = u64::from_le_bytes(b[..8].try_into().expect("8 bytes"));
    (w & 0xffff_ffff, (w >> 32) as u8)
}

fn ticks(b: &[u8]) -> u64 {
    u64::from_le_bytes(b[8..16].try_into().expect("8 bytes"))
}

/// The length a record's own header gives; the caller holds it against what there is.
fn record_len(b: &[u8]) -> Result<u64, Violation> {
    check!(b.len() as u64 >= record::HEADER, "a record shorter than its header");
    let (len, kind) = word0(b);
    check!((record::HEADER..=MAX_RECORD).contains(&len), "a record of {len} bytes");
    check!(matches!(kind, record::RECORD | record::CAPTURE), "a slow record of kind {kind}");
    Ok(len)
}

fn emit(thread: u64, source: Source, kind: u8, r: &[u8], out: &mut impl Out) {
    let h = record::HEADER as usize;
    out.item(Item::Record {
        thread,
        source,
        kind,
        ticks: ticks(r),
        site: u32::from_le_bytes(r[16..20].try_into().expect("4 bytes")),
        flags: u32::from_le_bytes(r[20..24].try_into().expect("4 bytes")),
        payload: &r[h..],
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{Record, SharedLane};
    use crate::sync::{AtomicU64, Bytes, Ordering::*};
    use proptest::prelude::*;
    use std::cell::{Cell, RefCell};

    struct Mem(RefCell<Vec<u8>>);
    impl Bytes for Mem {
        fn write(&self, at: u64, src: &[u8]) {
            self.0.borrow_mut()[at as usize..at as usize + src.len()].copy_from_slice(src);
        }
        fn read(&self, at: u64, dst: &mut [u8]) {
            dst.copy_from_slice(&self.0.borrow()[at as usize..at as usize + dst.len()]);
        }
    }

    /// A ring that has a spill, and a lane if there is something in it.
    struct Ring {
        lane: Vec<u8>,
        tail: AtomicU64,
        backed: AtomicU64,
        released: AtomicU64,
        words: Vec<AtomicU64>,
        data: Mem,
        fails: Cell<bool>,
        reads: Cell<u64>,
    }

    impl Ring {
        fn new(granules: usize, start: u64) -> Ring {
            Ring {
                lane: vec![],
                tail: AtomicU64::new(shared::tail_word(start, 0)),
                backed: AtomicU64::new(start),
                released: AtomicU64::new(start),
                words: (0..granules).map(|_| AtomicU64::new(0)).collect(),
                data: Mem(RefCell::new(vec![0; granules * GRANULE as usize])),
                fails: Cell::new(false),
                reads: Cell::new(0),
            }
        }
        fn spill(&self) -> SharedLane<'_, AtomicU64, Mem> {
            SharedLane {
                tail: &self.tail,
                words: &self.words,
                released: &self.released,
                data: &self.data,
                backed: Some(&self.backed),
            }
        }
        /// As a call does. False: there is no room.
        fn write(&self, key: SlowKey, r: &Rec) -> bool {
            loop {
                match self.spill().write(3, &SpillKey { slow: key, at: 7 }.to_bytes(), r) {
                    Ok(()) => return true,
                    Err(shared::Refused::Unbacked(end)) if self.spill().back(end, |_, _, to| Some(to)) => {}
                    Err(_) => return false,
                }
            }
        }
        /// Claims as a call does whose thread is stopped before OPEN, or behind it.
        fn claim(&self, n: u64, open: bool) -> bool {
            let (r, before) = (Rec(n * GRANULE - spill::KEY - record::HEADER), self.tail.load(Relaxed));
            let (p, size) = (shared::position(before), self.words.len() as u64);
            let was: Vec<u64> = self.words.iter().map(|w| w.load(Relaxed)).collect();
            if !self.write(key(9), &r) {
                return false;
            }
            let p = p + if p % size + n > size { size - p % size } else { 0 };
            let (word, lap) = (&self.words[(p % size) as usize], shared::lap(p, size) as u32);
            let open = if open { commit::word(lap, n, 3, commit::OPEN) } else { was[(p % size) as usize] };
            word.store(open, Relaxed);
            true
        }
        fn left(&self) -> u64 {
            shared::position(self.tail.load(Relaxed))
        }
    }

    impl RingRead for Ring {
        fn lanes(&self) -> u32 {
            u32::from(!self.lane.is_empty())
        }
        fn lane_capacity(&self, _: u32) -> u64 {
            (self.lane.len() as u64).next_power_of_two().max(4096)
        }
        fn lane_tail(&self, _: u32) -> u64 {
            self.lane.len() as u64
        }
        fn lane_read(&self, _: u32, at: u64, to: &mut [u8]) {
            to.copy_from_slice(&self.lane[at as usize..at as usize + to.len()]);
        }
        fn shared_tail(&self) -> u64 {
            0
        }
        fn granules(&self) -> u64 {
            0
        }
        fn word(&self, _: u64) -> u64 {
            0
        }
        fn granule_read(&self, _: u64, _: &mut [u8]) {}
        fn spill_tail(&self) -> u64 {
            self.tail.load(Acquire)
        }
        fn spill_backed(&self) -> u64 {
            self.backed.load(Acquire)
        }
        fn spill_granules(&self) -> u64 {
            self.words.len() as u64
        }
        fn spill_words(&self, granule: u64, to: &mut [u64]) -> io::Result<()> {
            if self.fails.get() {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.reads.set(self.reads.get() + to.len() as u64 * 8);
            let from = &self.words[granule as usize..];
            to.iter_mut().zip(from).for_each(|(t, w)| *t = w.load(Acquire));
            Ok(())
        }
        fn spill_read(&self, granule: u64, to: &mut [u8]) -> io::Result<()> {
            self.reads.set(self.reads.get() + to.len() as u64);
            self.data.read(granule * GRANULE, to);
            Ok(())
        }
    }

    /// A record with so many bytes of payload, each the low byte of their number.
    #[derive(Clone)]
    struct Rec(u64);
    impl<B: Bytes> Record<B> for Rec {
        fn size(&self) -> u64 {
            record::HEADER + self.0
        }
        fn time(&self) -> u64 {
            0
        }
        fn write(&self, to: &B, at: u64, _: u64) {
            let mut r = record::word0(Record::<B>::size(self), record::RECORD).to_le_bytes().to_vec();
            r.resize(record::HEADER as usize, 0);
            r.resize(Record::<B>::size(self) as usize, self.0 as u8);
            to.write(at, &r);
        }
    }

    fn key(thread: u64) -> SlowKey {
        SlowKey { thread, t: slow::NO_LANE, lost: 0 }
    }

    fn reader(start: u64) -> Snapshot {
        Snapshot::new(vec![], (0, Ranges::default()), (start, Ranges::default()))
    }

    /// The records of one pass by thread and payload, and what it saw.
    #[allow(clippy::type_complexity)]
    fn pass(
        s: &mut Snapshot,
        r: &Ring,
        parse: u64,
        dead: bool,
    ) -> Result<(Vec<(u64, u64)>, Seen), Violation> {
        let mut all = vec![];
        r.reads.set(0);
        let limits = Limits { parse, lane: u64::MAX };
        let seen = s.pass(r, limits, dead, |i| {
            if let Item::Record { thread, payload, .. } = i {
                assert!(payload.iter().all(|b| *b == payload.len() as u8));
                all.push((thread, payload.len() as u64));
            }
        })?;
        Ok((all, seen))
    }

    #[test]
    fn a_hole_waits_and_the_rest_goes() {
        for (open, again) in [(true, 8 + 8 + 8 + 8), (false, (8 + 8) * 3)] {
            let r = Ring::new(512, 0);
            let mut s = reader(0);
            assert!(r.write(key(1), &Rec(50)) && r.claim(3, open) && r.write(key(1), &Rec(60)));
            let (all, seen) = pass(&mut s, &r, u64::MAX, false).expect("healthy");
            assert_eq!(all, [(1, 50), (1, 60)]);
            assert_eq!((seen.holes, s.drained(&r)), (if open { 1 } else { 3 }, false));
            // From then on nothing but its words is read.
            let (all, _) = pass(&mut s, &r, u64::MAX, false).expect("healthy");
            assert!(all.is_empty() && r.reads.get() <= again.max(2 * 3 * 8), "{}", r.reads.get());
            // It comes back.
            let n = 3 * GRANULE - spill::KEY - record::HEADER;
            r.words[2].store(commit::word(1, 3, 3, commit::COMMITTED), Release);
            let (all, seen) = pass(&mut s, &r, u64::MAX, false).expect("healthy");
            assert_eq!((all, seen.holes, s.drained(&r)), (vec![(9, n)], 0, true));
            assert_eq!(pass(&mut s, &r, u64::MAX, false).expect("healthy").0, []);
            assert_eq!(r.reads.get(), 0);
        }
    }

    #[test]
    fn holes_end_with_their_thread_or_process() {
        for open in [true, false] {
            let r = Ring::new(512, 0);
            let mut s = reader(0);
            assert!(r.claim(3, open) && r.write(key(1), &Rec(60)) && r.claim(2, open));
            pass(&mut s, &r, u64::MAX, false).expect("healthy");
            let holes = s.open_holes(&r);
            assert_eq!(holes.len(), if open { 2 } else { 0 });
            let mut skipped = vec![];
            if let Some((hole, slot)) = holes.first() {
                assert_eq!(*slot, 3);
                let mut skip = |i: Item<'_>| {
                    if let Item::Skip { source, hole: true } = i {
                        skipped.push(source);
                    }
                };
                s.skip_open(&r, *hole, &mut skip);
                r.words[5].store(commit::word(1, 2, 3, commit::COMMITTED), Release);
                s.skip_open(&r, holes[1].0, &mut skip);
                assert_eq!(skipped, [Source::Spill { at: 0, len: 3 }]);
                assert_eq!(s.spill.frontier, 5);
            } else {
                pass(&mut s, &r, 100, true).expect("healthy");
                pass(&mut s, &r, 100, true).expect("healthy");
            }
            let rest = pass(&mut s, &r, u64::MAX, true).expect("healthy").0;
            assert_eq!((rest.len(), s.drained(&r)), (usize::from(open), true));
        }
    }

    #[test]
    fn more_holes_than_any_program_leaves_stop_the_reading() {
        let r = Ring::new(1 << 21, 0);
        r.backed.store(1 << 21, Relaxed);
        r.tail.store(shared::tail_word(1 << 21, 0), Relaxed);
        let mut s = reader(0);
        let mut clogged = 0;
        for _ in 0..20 {
            let seen = pass(&mut s, &r, 1 << 20, false).expect("no violation").1;
            assert!(seen.truncated && r.reads.get() <= (1 << 20) + 4 * 8 * MAX_HOLES);
            clogged += u32::from(seen.clogged);
        }
        assert!(clogged > 1 && s.spill.reach < 2 * MAX_HOLES, "{}", s.spill.reach);
        // Its owner's death ends it.
        let mut passes = 0;
        while !s.drained(&r) {
            pass(&mut s, &r, 1 << 20, true).expect("no violation");
            passes += 1;
            assert!(passes < 100);
        }
    }

    #[test]
    fn a_lanes_former_owner_is_complete_once_its_heir_has_spilled() {
        let record = |kind: u8, payload: &[u8]| {
            let len = record::HEADER + payload.len() as u64;
            let mut r = record::word0(len, kind).to_le_bytes().to_vec();
            r.extend([0; 16]);
            r.extend(payload);
            r
        };
        let note = |thread: u64| {
            let mut payload = thread.to_le_bytes().to_vec();
            payload.resize(record::THREAD_LEN as usize, 0);
            record(record::THREAD, &payload)
        };
        let log = || record(record::RECORD, &[7; 8]);
        let before_heir = [note(1), log(), log()].concat();
        let t = (before_heir.len() + note(2).len() + log().len()) as u64;
        let mut r = Ring::new(4096, 0);
        // Thread 1 never spilled; its heir 2, and another thread, have, more than one pass reads.
        for i in 0..40 {
            let key = SlowKey { thread: if i % 2 == 0 { 2 } else { 3 }, t, lost: 0 };
            assert!(r.write(key, &Rec(1000)));
        }
        r.lane = [before_heir, note(2), log(), log()].concat();
        let lanes = vec![LaneAt::default()];
        let mut s = Snapshot::new(lanes, (0, Ranges::default()), (0, Ranges::default()));
        let (mut order, mut passes, mut most) = (Vec::new(), 0, 0);
        while !s.drained(&r) {
            let limits = Limits { parse: 4096, lane: u64::MAX };
            let seen = s.pass(&r, limits, false, |i| {
                if let Item::Record { thread, source, .. } = i {
                    order.push((thread, matches!(source, Source::Lane { .. })));
                }
            });
            most = most.max(seen.expect("healthy").waiting);
            passes += 1;
            assert!(passes < 100);
        }
        let of = |th| order.iter().filter(|o| o.0 == th).map(|o| o.1).collect::<Vec<_>>();
        assert_eq!(of(1), [true, true]);
        // The heir's first record, what it spilled, its second one.
        assert_eq!(of(2), [vec![true], vec![false; 20], vec![true]].concat());
        assert!(passes > 3 && most < 20, "{most} records waited in {passes} passes");
    }

    #[test]
    fn a_lane_is_read_in_pieces() {
        let record = |i: u64, len: u64| {
            let kind = if i == 0 { record::THREAD } else { record::RECORD };
            let mut r = record::word0(len, kind).to_le_bytes().to_vec();
            r.extend(i.to_le_bytes());
            r.resize(record::HEADER as usize, 0);
            r.push(1);
            r.resize(crate::lane::round8(len) as usize, 0);
            r
        };
        // Small ones, large ones, small ones again.
        let len = |i: u64| match i {
            0 => record::HEADER + record::THREAD_LEN,
            1000 | 1001 => 256 << 10,
            _ => record::HEADER + i % 400,
        };
        let lane: Vec<u8> = (0..8000).flat_map(|i| record(i, len(i))).collect();
        let r = Ring { lane, ..Ring::new(8, 0) };
        for (limit, passes) in [(u64::MAX, 1..=1), (1 << 20, 2..=4), (5000, 40..=100), (0, 2..=4)] {
            let lanes = vec![LaneAt::default()];
            let mut s = Snapshot::new(lanes, (0, Ranges::default()), (0, Ranges::default()));
            let (mut next, mut n) = (1, 0);
            while s.lanes[0].at < r.lane_tail(0) {
                let seen = s.pass(&r, Limits { parse: 4096, lane: limit }, false, |item| {
                    if let Item::Record { ticks, payload, .. } = item {
                        assert_eq!((ticks, payload.len() as u64), (next, len(next) - record::HEADER));
                        next += 1;
                    }
                });
                n += 1;
                assert_eq!(seen.expect("healthy").lanes_cut, s.lanes[0].at < r.lane_tail(0));
                assert!(n < 10_000, "no progress at {next}");
            }
            assert_eq!(next, 8000);
            assert!(passes.contains(&n), "{n} passes of {limit} bytes");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_hole() {
        let r = Ring::new(512, 0);
        assert!(r.write(key(1), &Rec(50)) && r.write(key(1), &Rec(90)));
        r.fails.set(true);
        let mut s = reader(0);
        for dead in [false, true] {
            let (all, seen) = pass(&mut s, &r, u64::MAX, dead).expect("no violation");
            assert_eq!((all.len(), seen.unreadable, seen.truncated, seen.holes), (0, Some(5), false, 0));
            assert!(!s.drained(&r));
        }
        r.fails.set(false);
        assert_eq!(pass(&mut s, &r, u64::MAX, false).expect("healthy").0.len(), 2);
        assert!(s.drained(&r));
    }

    #[test]
    fn a_cursor_beyond_the_tail_is_no_overflow() {
        let r = Ring::new(512, 0);
        assert!(r.write(key(1), &Rec(50)));
        for at in [2, 5000, u64::MAX - 7, u64::MAX] {
            let mut above = Ranges::default();
            above.insert(at.saturating_sub(1), u64::MAX);
            for above in [Ranges::default(), above] {
                let mut s = Snapshot::new(vec![], (0, Ranges::default()), (at, above));
                for dead in [false, true] {
                    let r = pass(&mut s, &r, 1, dead);
                    assert!(r.is_ok_and(|r| r.0.is_empty()) == (at == 2));
                }
            }
        }
    }

    /// What a process does to its spill.
    #[derive(Clone, Debug)]
    enum Do {
        Write {
            thread: u64,
            len: u64,
        },
        Claim {
            n: u64,
            open: bool,
        },
        Pass {
            parse: u64,
        },
        /// The drain has given everything below its frontier back, or the first hole ends.
        Release,
        Gone,
        Restart,
    }

    fn step() -> impl Strategy<Value = Do> {
        prop_oneof![
            8 => (1u64..4, 0u64..400).prop_map(|(thread, len)| Do::Write { thread, len }),
            1 => (1u64..5, any::<bool>()).prop_map(|(n, open)| Do::Claim { n, open }),
            3 => (1u64..2000).prop_map(|parse| Do::Pass { parse }),
            2 => Just(Do::Release),
            1 => Just(Do::Gone),
            1 => Just(Do::Restart),
        ]
    }

    proptest! {
        /// Whatever the budgets, the laps and the restarts: what was committed comes once, in each thread's order.
        #[test]
        fn everything_committed_comes_once_and_in_order(
            steps in prop::collection::vec(step(), 1..120),
            start in prop_oneof![Just(0u64), 0u64..200, Just(64 * 7 + 61)],
        ) {
            let r = Ring::new(64, start);
            let mut s = reader(start);
            let (mut expected, mut got) = (HashMap::<u64, Vec<u64>>::default(), HashMap::<u64, Vec<u64>>::default());
            let mut look = |s: &mut Snapshot, parse: u64, dead: bool| {
                let (all, _) = pass(s, &r, parse, dead).expect("healthy");
                all.into_iter().for_each(|(t, n)| got.entry(t).or_default().push(n));
            };
            for d in steps {
                match d {
                    Do::Write { thread, len } => {
                        if r.write(key(thread), &Rec(len)) {
                            expected.entry(thread).or_default().push(len);
                        }
                    }
                    Do::Claim { n, open } => drop(r.claim(n, open)),
                    Do::Pass { parse } => look(&mut s, parse, false),
                    Do::Release => {
                        // What was given back is zeros, in words and data.
                        let (from, to) = (r.released.load(Relaxed), s.spill.frontier);
                        for p in from..to {
                            r.words[(p % 64) as usize].store(0, Relaxed);
                            r.data.write(p % 64 * GRANULE, &[0; GRANULE as usize]);
                        }
                        r.released.store(to, Release);
                    }
                    Do::Gone => {
                        if let Some((hole, _)) = s.open_holes(&r).first() {
                            s.skip_open(&r, *hole, &mut |_| {});
                        }
                    }
                    // All that was read is in the journal.
                    Do::Restart => {
                        while { look(&mut s, u64::MAX, false); !s.waiting.is_empty() } {}
                        s = Snapshot::new(vec![], (0, Ranges::default()), (s.spill.frontier, s.spill.seen.clone()));
                    }
                }
                prop_assert!(r.left() <= r.backed.load(Relaxed));
                prop_assert!(r.backed.load(Relaxed) <= r.released.load(Relaxed) + 64);
            }
            for _ in 0..400 {
                look(&mut s, 100, true);
            }
            prop_assert!(s.drained(&r));
            prop_assert_eq!(got, expected);
        }

        /// Whatever stands in a spill: no panic, no endless loop, and a pass reads its budget and a bit.
        #[test]
        fn hostile_spills_are_read_within_bounds(
            words in prop::collection::vec((0usize..64, 0u64..4, 0u64..80, 0u64..4), 0..80),
            data in prop::collection::vec((0usize..512, any::<u64>()), 0..40),
            numbers in prop::collection::vec(prop_oneof![0u64..300, any::<u64>()], 3),
            dead in any::<bool>(),
        ) {
            let r = Ring::new(64, 0);
            for i in 0..12 {
                r.write(key(i % 3), &Rec(i * 30));
            }
            for (i, lap, n, state) in words {
                r.words[i].store(commit::word(lap as u32, n, 1, state), Relaxed);
            }
            for (i, w) in data {
                r.data.write(i as u64 * 8, &w.to_le_bytes());
            }
            let mut above = Ranges::default();
            above.insert(numbers[2], numbers[2].saturating_add(3));
            let mut s = Snapshot::new(vec![], (0, Ranges::default()), (numbers[2] % 70, above));
            let kept = (r.tail.load(Relaxed), r.backed.load(Relaxed));
            for (tail, backed) in [kept, (shared::tail_word(numbers[0], 1), numbers[1]), (numbers[0], u64::MAX)] {
                r.tail.store(tail, Relaxed);
                r.backed.store(backed, Relaxed);
                for _ in 0..5 {
                    r.reads.set(0);
                    let limits = Limits { parse: 300, lane: u64::MAX };
                    let seen = s.pass(&r, limits, dead, |_| {});
                    prop_assert!(r.reads.get() < 300 + 8 * (64 * (GRANULE + 8)));
                    for (hole, _) in s.open_holes(&r) {
                        s.skip_open(&r, hole, &mut |_| {});
                    }
                    if seen.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}
