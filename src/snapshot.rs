//! What one pass over one ring may deliver.
//!
//! A pass reads, all with acquire: **S1** = the shared lane's tail and words, then the doorbell and
//! the spill to its end; **T** = the tails of all thread lanes; **S2** = as S1, again. Everything that
//! had returned before something in S1 ∪ T began is in T ∪ S2: a thread publishes a call before it
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
//! Where the spill was not parsed to its end: of each thread, let R be the parsed frame of largest order.
//! Slow records of an order ≤ R's, and lane records below its `t`, began before R got its place, so what
//! had returned before them was published before R's append; of this, what was spilled lies below R in the
//! file and was parsed, and for the rest the cut above holds as well (both are asked for).
//!
//! `E` is 0 for a thread until its own THREAD note lies below the tail: what a dead owner left in
//! the lane says nothing about the new one.
//!
//! Nothing in the mapping is trusted: every word is loaded once, every length is checked on a copy.
//! A violation is an error for this ring alone.

use crate::sys::hash::HashMap;
use std::collections::{BTreeMap, btree_map::Entry};

use crate::lane::{
    Order, SlowKey,
    shared::{self, State},
};
use crate::layout::ring::{GRANULE, MAX_RECORD, record, slow};
use crate::spill::{Parser, SpillRead, Step};

/// The shared words of a ring, as the drain sees them. Every word load is an acquire load.
pub trait RingRead: SpillRead {
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
    /// The doorbell.
    fn doorbell(&self) -> u64;
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
        /// Offset.
        at: u64,
        /// Bytes.
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
    /// Space that holds no record: PAD, a skipped hole, a torn frame.
    Skip {
        /// Where.
        source: Source,
        /// Whether it was a hole or a torn frame, not PAD.
        hole: bool,
    },
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
    /// Bytes of the spill read and checksums computed in one snapshot (one frame or window at least).
    pub parse: u64,
    /// Bytes taken from one lane (one record at least).
    pub lane: u64,
}

/// What a pass saw beside its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The spill was not parsed to its end: the budget was used up.
    pub truncated: bool,
    /// The spill could not be read to its end (errno, 0 if there is none). The next pass tries again.
    pub unreadable: Option<i32>,
    /// Lanes were not read to their tail.
    pub lanes_cut: bool,
    /// Slow records or frames that wait for a later pass.
    pub waiting: usize,
    /// Granules claimed in the shared lane that hold no record yet.
    pub holes: u64,
    /// Ticks of the last frame parsed, when truncated.
    pub parsed_ticks: u64,
    /// The shared lane's tail word, as of S2.
    pub shared_tail: u64,
}

/// The reading side of one ring.
pub struct Snapshot {
    /// Lanes.
    pub lanes: Vec<LaneAt>,
    frontier: u64,
    seen: Ranges,
    parser: Parser,
    parsed: Ranges,
    /// The doorbell under which the spill was parsed as far as it can be.
    looked_under: Option<u64>,
    /// The doorbell as of the last look, unless that left something to the next one.
    bell: Option<u64>,
    waiting: BTreeMap<u64, BTreeMap<Order, Slow>>,
    lane_of: HashMap<u64, u32>,
    buf: Vec<u8>,
    lane_buf: Vec<u8>,
    tails: Vec<u64>,
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
    pub fn new(nonce: u64, lanes: Vec<LaneAt>, shared: (u64, Ranges), spill: (u64, Ranges)) -> Self {
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
            parser: Parser::new(nonce, spill.0),
            parsed: spill.1,
            looked_under: None,
            bell: None,
            waiting: BTreeMap::new(),
            lane_of,
            buf: Vec::new(),
            lane_buf: Vec::new(),
            tails: Vec::new(),
        }
    }

    /// One pass. `dead`: it was established before this pass that nobody can write this ring any
    /// more; then this is the one more pass, and what is not a record by its end never will be.
    pub fn pass(
        &mut self,
        ring: &impl RingRead,
        limits: Limits,
        dead: bool,
        mut out: impl FnMut(Item<'_>),
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
        let bell = self.look(ring, dead, &mut budget, &mut seen, &mut parsed, &mut out)?;
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
        // A doorbell is remembered when the spill was parsed under it as far as it can be: to its end, or
        // to bytes that may be a frame in progress. Such a frame has not rung: it rings when it is whole,
        // and no call returns before. What had rung by then lies below the end that was looked at.
        self.looked_under = (!short).then_some(bell);
        // A file that cannot be read is tried again in each pass, and keeps nobody awake in between.
        self.bell = (!seen.truncated).then_some(bell);
        Ok(seen)
    }

    /// One look at the slow path (S1 or S2): the shared lane, the doorbell, the spill.
    fn look(
        &mut self,
        ring: &impl RingRead,
        dead: bool,
        budget: &mut u64,
        seen: &mut Seen,
        parsed: &mut HashMap<u64, Cut>,
        out: &mut impl FnMut(Item<'_>),
    ) -> Result<u64, Violation> {
        self.walk_shared(ring, seen, out)?;
        let bell = ring.doorbell();
        // Where bytes at the end wait, the length is news too: a torn frame that grows, and may be told
        // apart then, rings for nobody.
        if dead || self.looked_under != Some(bell) || self.parser.waits() {
            (seen.truncated, seen.unreadable) = (false, None);
            match ring.spill_len() {
                // Sampled once a look.
                Ok(end) => self.parse_spill(ring, end, dead, budget, seen, parsed, out)?,
                Err(e) => seen.unreadable = Some(e.raw_os_error().unwrap_or(0)),
            }
        }
        Ok(bell)
    }

    fn walk_shared(
        &mut self,
        ring: &impl RingRead,
        seen: &mut Seen,
        out: &mut impl FnMut(Item<'_>),
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
                    let n = u64::from(n);
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
                    let n = u64::from(n);
                    check!(index + n == size && p + n <= tail, "shared PAD of {n} granules at {p}");
                    self.seen.insert(p, p + n);
                    out(Item::Skip { source: Source::Shared { at: p, len: n }, hole: false });
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

    #[allow(clippy::too_many_arguments)]
    fn parse_spill(
        &mut self,
        ring: &impl RingRead,
        end: u64,
        dead: bool,
        budget: &mut u64,
        seen: &mut Seen,
        parsed: &mut HashMap<u64, Cut>,
        out: &mut impl FnMut(Item<'_>),
    ) -> Result<(), Violation> {
        let mut record = std::mem::take(&mut self.buf);
        loop {
            if let Some(resolved) = self.parsed.end_of(self.parser.at()) {
                self.parser.skip_to(resolved); // in the journal already: a cursor said so
                continue;
            }
            match self.parser.next(ring, end, dead, budget, &mut record) {
                Step::Frame { at, len, key } => {
                    let n = record_len(&record)?;
                    check!(n <= record.len() as u64, "spilled record at {at} is longer than its frame");
                    record.truncate(n as usize);
                    let (key, order) = (key.slow, key.order());
                    let c = parsed.entry(key.thread).or_default();
                    if order > c.order {
                        *c = Cut { order, t: key.t };
                    }
                    seen.parsed_ticks = ticks(&record);
                    let source = Source::Spill { at, len };
                    self.wait_for(Slow { key, order, source, record: record.clone() }, out);
                }
                Step::Torn { at, len } => {
                    out(Item::Skip { source: Source::Spill { at, len }, hole: true });
                }
                Step::Wait => break,
                Step::More => {
                    seen.truncated = true;
                    break;
                }
                Step::Unreadable(errno) => {
                    seen.unreadable = Some(errno);
                    break;
                }
                Step::Overdrawn => {
                    let at = self.parser.at();
                    return Err(Violation(format!("spill: nothing but false frames from {at} on")));
                }
            }
        }
        self.parsed.advance(self.parser.at());
        self.buf = record;
        Ok(())
    }

    fn wait_for(&mut self, s: Slow, out: &mut impl FnMut(Item<'_>)) {
        let source = s.source;
        match self.waiting.entry(s.key.thread).or_default().entry(s.order) {
            Entry::Vacant(e) => {
                e.insert(s);
            }
            // One call has one place: a second record there is a double (a frame written again).
            Entry::Occupied(_) => out(Item::Skip { source, hole: false }),
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
        out: &mut impl FnMut(Item<'_>),
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
            if take >= enough || (Window { lane, capacity, at, behind, data }).next(0)?.is_some() {
                break Window { lane, capacity, at, behind, data: &buf[..take as usize] };
            }
            // The largest record with the largest PAD before it is not longer.
            take = enough;
        };
        let next = |p| window.next(p);
        let data = window.data;
        let word_at = |q: u64| u64::from_le_bytes(data[q as usize..][..8].try_into().expect("8 bytes"));

        // A thread takes a lane only when its last owner is gone, and the spill is in the order of the
        // appends. So once a frame of a lane's owner has been parsed, every frame of the owners before it
        // has been, and what they left in the lane is not held back by what is not parsed yet.
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
                out(Item::Thread {
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
                out(Item::Loss { lane: Some(lane), thread: owner, lost, source: Some(source) });
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
        out: &mut impl FnMut(Item<'_>),
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
                out(Item::Loss { lane: None, thread, lost: key.lost, source: None });
            } else if of.is_some() {
                out(Item::Loss { lane: of, thread, lost: key.lost, source: None });
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
        out: &mut impl FnMut(Item<'_>),
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
    fn skip_holes(&mut self, ring: &impl RingRead, out: &mut impl FnMut(Item<'_>)) -> Result<(), Violation> {
        let tail = shared::position(ring.shared_tail());
        let mut p = self.frontier;
        while p < tail {
            match self.seen.end_of(p) {
                Some(end) => p = end,
                None => {
                    self.seen.insert(p, p + 1);
                    out(Item::Skip { source: Source::Shared { at: p, len: 1 }, hole: true });
                    p += 1;
                }
            }
        }
        self.frontier = self.seen.advance(self.frontier);
        Ok(())
    }

    /// OPEN holes: position, granules by their own word, slot. The caller asks whether the thread is
    /// gone and then calls [`Snapshot::skip_open`].
    pub fn open_holes(&self, ring: &impl RingRead) -> Vec<(u64, u16)> {
        let (size, tail) = (ring.granules(), shared::position(ring.shared_tail()));
        let (mut p, mut found) = (self.frontier, Vec::new());
        while p < tail {
            if let Some(end) = self.seen.end_of(p) {
                p = end;
                continue;
            }
            if let State::Open(slot) = shared::state(ring.word(p % size), shared::lap(p, size)) {
                found.push((p, slot));
            }
            p += 1;
        }
        found
    }

    /// Skips the hole at `at`, whose thread was found gone *before* this call: the word is loaded
    /// again, and only if it is still OPEN nobody is left who could commit it.
    pub fn skip_open(&mut self, ring: &impl RingRead, at: u64, out: &mut impl FnMut(Item<'_>)) {
        let size = ring.granules();
        let word = ring.word(at % size);
        if !matches!(shared::state(word, shared::lap(at, size)), State::Open(_)) {
            return;
        }
        let n = u64::from((word >> 16) as u16);
        let tail = shared::position(ring.shared_tail());
        // The extent is the writer's word for it: no further than the lap, the tail, and the next
        // granule that has a word of this lap.
        let mut end = at + 1;
        while end < tail
            && end < at + n
            && !end.is_multiple_of(size)
            && self.seen.end_of(end).is_none()
            && shared::state(ring.word(end % size), shared::lap(end, size)) == State::None
        {
            end += 1;
        }
        self.seen.insert(at, end);
        self.frontier = self.seen.advance(self.frontier);
        out(Item::Skip { source: Source::Shared { at, len: end - at }, hole: true });
    }

    /// The doorbell as of the last pass: another one is news. None: there is more to do anyway.
    pub fn bell(&self) -> Option<u64> {
        self.bell
    }

    /// Whether everything this ring ever held has been handed out (meaningful once it is dead).
    pub fn drained(&self, ring: &impl RingRead) -> bool {
        self.waiting.is_empty()
            && self.frontier == shared::position(ring.shared_tail())
            && ring.spill_len().is_ok_and(|end| self.parser.at() >= end)
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
    data: &'a [u8],
}

impl Window<'_> {
    /// The record at or behind `p` (a PAD may come first): where it stands, its length, its kind; None where
    /// what was copied ends.
    #[inline]
    fn next(&self, p: u64) -> Result<Option<(u64, u64, u8)>, Violation> {
        let &Window { lane, capacity, at, behind, data } = self;
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
        let fits = len >= record::HEADER && n <= to_end && n <= capacity / 4 && len <= MAX_RECORD;
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

fn emit(thread: u64, source: Source, kind: u8, r: &[u8], out: &mut impl FnMut(Item<'_>)) {
    let h = record::HEADER as usize;
    out(Item::Record {
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
    use crate::lane::SpillKey;
    use crate::spill::Checksum;
    use std::cell::{Cell, RefCell};
    use std::io;

    const NONCE: u64 = 77;

    /// A ring that has a spill, and a lane if there is something in it.
    #[derive(Default)]
    struct Ring {
        lane: Vec<u8>,
        file: RefCell<Vec<u8>>,
        bell: Cell<u64>,
        fails: Cell<bool>,
        reads: Cell<u64>,
    }

    impl SpillRead for Ring {
        fn spill_len(&self) -> io::Result<u64> {
            if self.fails.get() {
                Err(io::Error::from_raw_os_error(5))
            } else {
                self.file.borrow().spill_len()
            }
        }
        fn spill_read(&self, at: u64, to: &mut [u8]) -> io::Result<usize> {
            self.reads.set(self.reads.get() + to.len() as u64);
            self.file.borrow().spill_read(at, to)
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
        fn doorbell(&self) -> u64 {
            self.bell.get()
        }
    }

    fn frame(aux: u64, payload: usize) -> Vec<u8> {
        frame_of(SlowKey { thread: 1, t: slow::NO_LANE, lost: 0 }, aux, payload)
    }

    fn frame_of(slow: SlowKey, aux: u64, payload: usize) -> Vec<u8> {
        let key = SpillKey { slow, at: 3, aux };
        let len = record::HEADER as usize + payload;
        let mut r = vec![0; len];
        r[..8].copy_from_slice(&(len as u64 | u64::from(record::RECORD) << 32).to_le_bytes());
        let mut crc = Checksum::new(key, len as u64);
        crc.add(&r);
        let mut f = crc.prefix(NONCE).to_vec();
        f.extend(&r);
        f.resize(crate::lane::round8(f.len() as u64) as usize, 0);
        f
    }

    fn ring(parts: &[&[u8]]) -> Ring {
        let r = Ring::default();
        let mut f = vec![0; crate::layout::spill::HEADER as usize];
        parts.iter().for_each(|p| f.extend(*p));
        r.file.replace(f);
        r
    }

    fn reader() -> Snapshot {
        Snapshot::new(NONCE, vec![], (0, Ranges::default()), (0, Ranges::default()))
    }

    /// How many records one pass gives, and what it saw.
    fn pass(s: &mut Snapshot, r: &Ring, parse: u64, dead: bool) -> Result<(usize, Seen), Violation> {
        let mut n = 0;
        r.reads.set(0);
        let limits = Limits { parse, lane: u64::MAX };
        let seen = s.pass(r, limits, dead, |i| n += usize::from(matches!(i, Item::Record { .. })))?;
        Ok((n, seen))
    }

    #[test]
    fn a_torn_tail_is_read_once_and_lets_the_drain_sleep() {
        let torn = frame(2, 300 << 10);
        let r = ring(&[&frame(1, 50), &torn[..200 << 10]]);
        r.bell.set(1);
        let mut s = reader();
        assert_eq!(pass(&mut s, &r, u64::MAX, false).expect("healthy").0, 1);
        assert_eq!(s.bell(), Some(1));
        pass(&mut s, &r, u64::MAX, false).expect("healthy");
        assert_eq!((r.reads.get(), s.bell()), (0, Some(1)));
        // It grows without a ring: a look at what is new.
        r.file.borrow_mut().extend(&torn[200 << 10..250 << 10]);
        pass(&mut s, &r, u64::MAX, false).expect("healthy");
        assert!((1..100 << 10).contains(&r.reads.get()), "{} bytes", r.reads.get());
        // Whole, and rung.
        r.file.borrow_mut().extend(&torn[250 << 10..]);
        r.bell.set(2);
        assert_eq!(pass(&mut s, &r, u64::MAX, false).expect("healthy").0, 1);
        assert!(s.drained(&r));
    }

    #[test]
    fn a_torn_tail_ends_with_its_owner() {
        let r = ring(&[&frame(1, 50), &frame(2, 90)[..100]]);
        let mut s = reader();
        pass(&mut s, &r, u64::MAX, false).expect("healthy");
        assert!(!s.drained(&r));
        pass(&mut s, &r, u64::MAX, true).expect("healthy");
        assert!(s.drained(&r));
    }

    #[test]
    fn a_hostile_spill_costs_a_pass_its_budget_and_then_its_ring() {
        let mut f = Vec::new();
        let n = (512 << 10) / 16u32;
        for i in 0..n {
            f.extend(crate::spill::magic(NONCE).to_le_bytes());
            f.extend(((n - i) * 16).max(72).to_le_bytes());
            f.extend([1; 4]);
        }
        let r = ring(&[&f, &[0; 100]]);
        let mut s = reader();
        let parse = 1 << 20;
        for i in 0.. {
            match pass(&mut s, &r, parse, false) {
                Ok((0, seen)) => assert!(seen.truncated && s.bell().is_none() && i < 1000),
                Ok(_) => panic!("a record"),
                Err(v) => {
                    assert!(i > 10 && v.0.contains("false frames"), "{v:?} in pass {i}");
                    break;
                }
            }
            assert!(r.reads.get() <= parse + (1 << 20), "{} bytes in a pass", r.reads.get());
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
        let spilled = |thread, aux| frame_of(SlowKey { thread, t, lost: 0 }, aux, 1000);
        // Thread 1 never spilled; its heir 2, and another thread, have, more than one pass parses.
        let many: Vec<u8> = (0..40).flat_map(|i| spilled(if i % 2 == 0 { 2 } else { 3 }, i + 1)).collect();
        let mut r = ring(&[&many]);
        r.lane = [before_heir, note(2), log(), log()].concat();
        r.bell.set(40);
        let lanes = vec![LaneAt::default()];
        let mut s = Snapshot::new(NONCE, lanes, (0, Ranges::default()), (0, Ranges::default()));
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
        assert!(passes > 3 && most < 20, "{most} frames waited in {passes} passes");
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
        let r = Ring { lane, ..ring(&[]) };
        for (limit, passes) in [(u64::MAX, 1..=1), (1 << 20, 2..=4), (5000, 40..=100), (0, 2..=4)] {
            let lanes = vec![LaneAt::default()];
            let mut s = Snapshot::new(NONCE, lanes, (0, Ranges::default()), (0, Ranges::default()));
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
    fn what_cannot_be_read_is_not_torn() {
        let r = ring(&[&frame(1, 50), &frame(2, 90)]);
        r.fails.set(true);
        r.bell.set(2);
        let mut s = reader();
        for dead in [false, true] {
            let (n, seen) = pass(&mut s, &r, u64::MAX, dead).expect("no violation");
            assert_eq!((n, seen.unreadable, seen.truncated), (0, Some(5), false));
            assert_eq!(s.bell(), Some(2), "nobody is kept awake");
            assert!(!s.drained(&r));
        }
        r.fails.set(false);
        assert!(!s.drained(&r));
        assert_eq!(pass(&mut s, &r, u64::MAX, false).expect("healthy"), (2, Seen::default()));
        assert!(s.drained(&r));
    }

    #[test]
    fn a_cursor_beyond_the_end_is_no_overflow() {
        let r = ring(&[&frame(1, 50)]);
        for at in [5000, u64::MAX - 7, u64::MAX] {
            let mut above = Ranges::default();
            above.insert(at.saturating_sub(1), u64::MAX);
            for above in [Ranges::default(), above] {
                let mut s = Snapshot::new(NONCE, vec![], (0, Ranges::default()), (at, above));
                for dead in [false, true] {
                    assert_eq!(pass(&mut s, &r, 1, dead).expect("healthy").0, 0);
                }
            }
        }
    }
}
