//! A drain as small as it can be: one pass of the snapshot, one batch into the journal, then the
//! `released` stores. What a batch carries, what is released of it and when, and where a drain begins are
//! the real function bodies (`spillring::release`); the journal is a map.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use spillring::lane::shared;
use spillring::layout::ring::{GRANULE, ack, record};
use spillring::release::{self, Acks, GivenBack, LaneCursor, Part, Positions, SlowCursor, Taken};
use spillring::snapshot::{Item, Limits, RingRead, Seen, Snapshot, Source};
use spillring::sync::Ordering::{self, Acquire, Relaxed, Release};
use spillring::sync::Word;

use crate::thread::word_of;
use crate::words::{Claims, Ring, SPILL, Shared};
use crate::world::{Ctx, End, Ended, Id, Name, World};

/// A ring as the drain sees it.
pub struct DrainView {
    ring: Rc<Ring>,
    ctx: Rc<Ctx>,
}

impl DrainView {
    fn load(&self, w: &Shared) -> u64 {
        self.ctx.op();
        let v = w.load(Acquire); // tail:A, claim:A, word:A, back:A
        self.ctx.trace("load", w.name, v);
        v
    }
    fn copy(&self, words: &[Rc<Shared>], at: u64, to: &mut [u8]) {
        for (i, b) in to.chunks_mut(8).enumerate() {
            let w = words[at as usize / 8 + i].load(Relaxed);
            b.copy_from_slice(&w.to_le_bytes()[..b.len()]);
        }
    }
}

impl RingRead for DrainView {
    fn lanes(&self) -> u32 {
        self.ring.lanes.len() as u32
    }
    fn lane_capacity(&self, lane: u32) -> u64 {
        self.ring.lanes[lane as usize].capacity
    }
    fn lane_tail(&self, lane: u32) -> u64 {
        self.load(&self.ring.lanes[lane as usize].tail)
    }
    fn lane_read(&self, lane: u32, at: u64, to: &mut [u8]) {
        self.copy(&self.ring.lanes[lane as usize].data, at, to);
    }
    fn shared_tail(&self) -> u64 {
        self.load(&self.ring.tail)
    }
    fn granules(&self) -> u64 {
        self.ring.words.len() as u64
    }
    fn word(&self, granule: u64) -> u64 {
        self.load(&self.ring.words[shared::word_at(granule, self.granules()) as usize])
    }
    fn granule_read(&self, at: u64, to: &mut [u8]) {
        self.copy(&self.ring.granules, at, to);
    }
    fn spill_tail(&self) -> u64 {
        self.load(&self.ring.spill.tail)
    }
    fn spill_backed(&self) -> u64 {
        self.load(&self.ring.spill.backed)
    }
    fn spill_granules(&self) -> u64 {
        SPILL
    }
    fn spill_words(&self, granule: u64, to: &mut [u64]) -> std::io::Result<()> {
        let from = &self.ring.spill.words[granule as usize..];
        to.iter_mut().zip(from).for_each(|(t, w)| *t = self.load(w));
        Ok(())
    }
    fn spill_read(&self, granule: u64, to: &mut [u8]) -> std::io::Result<()> {
        self.copy(&self.ring.spill.granules, granule * GRANULE, to);
        Ok(())
    }
}

/// What is durable of the cursors: by part, as the batches carried them. (The records are in [`World`].)
type Journal = Rc<RefCell<BTreeMap<u32, Vec<u8>>>>;

fn lane_cursor(journal: &Journal, lane: u32) -> LaneCursor {
    let bytes = journal.borrow().get(&Part::Lane(lane).number()).cloned();
    bytes.and_then(|b| LaneCursor::decode(&b)).unwrap_or_default()
}

/// A word of the ring's ack, as the drain stores it.
struct AckWord {
    what: Option<Released>,
    ring: Rc<Ring>,
    ctx: Rc<Ctx>,
    journal: Journal,
}

#[derive(Clone, Copy)]
enum Released {
    Lane(u32),
    Shared,
    Spill,
}

impl AckWord {
    fn word(&self) -> Option<&Rc<Shared>> {
        match self.what? {
            Released::Lane(i) => Some(&self.ring.lanes[i as usize].released),
            Released::Shared => Some(&self.ring.released),
            Released::Spill => Some(&self.ring.spill.released),
        }
    }

    /// What may be released at all: nothing that the journal does not have, nothing at or above a hole.
    fn before_store(&self, v: u64) {
        let world = &self.ctx.world;
        match self.what {
            Some(Released::Lane(i)) => {
                let at = lane_cursor(&self.journal, i).position;
                world.check(at.wrapping_sub(v) as i64 >= 0, || {
                    format!("released {v} of a lane is past its cursor in the journal, {at}")
                });
            }
            Some(what) => {
                let (part, claims) = match what {
                    Released::Spill => (Part::Spill, &self.ring.spill.claims),
                    _ => (Part::Shared, &self.ring.claims),
                };
                let was = self.word().map_or(0, |w| w.now());
                self.no_holes_below(claims, v);
                let cursor = self.journal.borrow().get(&part.number()).cloned();
                let at = cursor.and_then(|b| SlowCursor::decode(&b)).map_or(0, |c| c.frontier);
                world.check(at >= v && v > was, || {
                    format!("released {v} of {part:?}: cursor in the journal {at}, before {was}")
                });
            }
            None => {}
        }
    }

    /// Invariant: released is at most the lowest hole, unless nobody is left who could fill it.
    fn no_holes_below(&self, claims: &Claims, frontier: u64) {
        for c in claims.borrow().iter().filter(|c| c.from + c.pad < frontier) {
            let gone = self.ring.alive.now() == 0 || self.ring.gone[c.by].now() != 0;
            self.ctx.world.check(c.committed || gone, || {
                format!("released {frontier} is past the hole at {}, whose writer lives", c.from)
            });
        }
    }
}

impl Word for AckWord {
    fn load(&self, _: Ordering) -> u64 {
        // Only drains store it, one after the other.
        self.word().map_or(0, |w| w.now())
    }
    fn store(&self, v: u64, o: Ordering) {
        // Nobody in the models reads the counts; and what stands there already is no step.
        let Some(word) = self.word().filter(|w| w.now() != v) else { return };
        self.ctx.op();
        self.before_store(v);
        word.store(v, o); // room:R
        self.ctx.trace("store", word.name, v);
    }
    fn fetch_add(&self, _: u64, _: Ordering) -> u64 {
        unreachable!("acks are stored")
    }
    fn compare_exchange(&self, _: u64, _: u64, _: Ordering, _: Ordering) -> Result<u64, u64> {
        unreachable!("acks are stored")
    }
    fn local_add(&self, _: u64) {
        unreachable!("acks are stored")
    }
}

/// A ring's ack.
struct Ack {
    lanes: Vec<AckWord>,
    shared: AckWord,
    spill: AckWord,
    other: AckWord,
}

impl Ack {
    fn new(ring: &Rc<Ring>, ctx: &Rc<Ctx>, journal: &Journal) -> Ack {
        let word = |what| AckWord { what, ring: ring.clone(), ctx: ctx.clone(), journal: journal.clone() };
        Ack {
            lanes: (0..ring.lanes.len() as u32).map(|i| word(Some(Released::Lane(i)))).collect(),
            shared: word(Some(Released::Shared)),
            spill: word(Some(Released::Spill)),
            other: word(None),
        }
    }
}

impl Acks for Ack {
    type W = AckWord;
    fn ack(&self, at: u64) -> &AckWord {
        match at {
            ack::SHARED_RELEASED => return &self.shared,
            ack::SPILL_RELEASED => return &self.spill,
            _ => {}
        }
        let lane = self.lanes.iter().zip(0..).find(|(_, i)| at == ack::lane(*i) + ack::RELEASED);
        lane.map_or(&self.other, |(w, _)| w)
    }
}

enum Entry {
    /// Its id, where its thread's losses are counted.
    Record(Id, Option<u32>),
    Loss(Option<u32>, u64),
}

/// The drain of one ring.
pub struct Drain {
    pub world: Rc<World>,
    pub ring: Rc<Ring>,
    ctx: Rc<Ctx>,
    journal: Journal,
    ack: Ack,
    /// What a killed drain takes along: how far it is, and what it has read.
    memory: Option<(Positions, Snapshot, GivenBack)>,
    parse: u64,
    /// Whether death and gone threads can be seen before the writers are joined.
    watch: bool,
}

impl Drain {
    pub fn new(
        world: &Rc<World>,
        ring: &Rc<Ring>,
        ctx: &Rc<Ctx>,
        owners: &[u64],
        parse: u64,
        watch: bool,
    ) -> Drain {
        // What an earlier drain has taken is in the journal already.
        let mut at = Positions::default();
        for (i, (l, owner)) in (0..).zip(ring.lanes.iter().zip(owners)) {
            let c = LaneCursor { position: l.released.now(), owner: *owner, ..LaneCursor::default() };
            at.lanes.insert(i, c);
        }
        (at.shared.frontier, at.spill.frontier) = (ring.released.now(), ring.spill.released.now());
        let journal = Journal::default();
        let drain = Drain {
            world: world.clone(),
            ring: ring.clone(),
            ctx: ctx.clone(),
            ack: Ack::new(ring, ctx, &journal),
            journal,
            memory: None,
            parse,
            watch,
        };
        drain.write(&at);
        drain
    }

    /// Begins at the start of the lanes, whatever they hold by now.
    pub fn start_at(&mut self, lanes: &[(u64, u64)]) {
        for (i, g) in (0..).zip(lanes) {
            let c = LaneCursor { position: g.1, ..lane_cursor(&self.journal, i) };
            self.journal.borrow_mut().insert(Part::Lane(i).number(), c.encode());
        }
    }

    /// The cursors of a batch.
    fn write(&self, at: &Positions) {
        let lanes = at.lanes.keys().map(|i| Part::Lane(*i));
        for part in lanes.chain([Part::Shared, Part::Spill, Part::Process]) {
            let value = at.encode(part).expect("has a value");
            self.journal.borrow_mut().insert(part.number(), value);
        }
    }

    /// One pass, from the snapshot to the `released` stores. After a planned kill it starts again.
    pub fn pass(&mut self, dead: bool) -> Option<Seen> {
        match catch_unwind(AssertUnwindSafe(|| self.whole_pass(dead))) {
            Ok(seen) => Some(seen),
            Err(e) => match e.downcast::<Ended>() {
                Ok(e) if e.0 == End::Drain => {
                    self.memory = None; // a new process: it has the journal, and nothing else
                    None
                }
                Ok(e) => resume_unwind(e),
                Err(e) => resume_unwind(e),
            },
        }
    }

    fn whole_pass(&mut self, dead: bool) -> Seen {
        let view = DrainView { ring: self.ring.clone(), ctx: self.ctx.clone() };
        let (mut at, mut snapshot, mut given) = self.memory.take().unwrap_or_else(|| {
            let journal = self.journal.borrow();
            let cursor = |p: Part| journal.get(&p.number()).map(Vec::as_slice);
            let lanes = self.ring.lanes.len() as u32;
            let (at, short) = Positions::restore(lanes, cursor, &self.ack, |_| 0);
            self.world.check(short == 0, || format!("{short} records are released and not in the journal"));
            at.publish(&self.ack);
            let snapshot = at.reader(lanes);
            (at, snapshot, GivenBack::new(&self.ack))
        });
        // Death is established before the pass: what the dead had published is in it.
        let dead = dead || (self.watch && view.load(&self.ring.alive) == 0);
        let world = &self.world;
        let mut batch = Vec::new();
        let mut out = |item: Item<'_>| match item {
            Item::Record { thread, source, kind, ticks, site, flags, payload } => {
                let id = (u64::from(site) | u64::from(flags) << 32, ticks);
                whole(world, id, thread, kind, payload);
                let lane = at.lanes.iter().find(|(_, c)| c.owner == id.0).map(|(i, _)| *i);
                batch.push(Entry::Record(id, lane));
                at.take(source, Taken::Record);
            }
            Item::Thread { lane, end, thread, tid, comm } => {
                at.take(Source::Lane { lane, end }, Taken::Owner { thread, tid, comm });
            }
            Item::Loss { lane, lost, source, .. } => {
                batch.push(Entry::Loss(lane, lost));
                source.map(|s| at.take(s, Taken::Note));
            }
            Item::Skip { source, .. } => {
                at.skip(source);
            }
        };
        let limits = Limits { parse: self.parse, lane: u64::MAX };
        let mut seen = match snapshot.pass(&view, limits, dead, &mut out) {
            Ok(seen) => seen,
            Err(v) => world.fail(&format!("a healthy ring breaks the rules: {}", v.0)),
        };
        if self.watch && !dead {
            for (hole, slot) in snapshot.open_holes(&view) {
                if view.load(&self.ring.gone[usize::from(slot)]) != 0 {
                    snapshot.skip_open(&view, hole, &mut out);
                    seen.holes = 0;
                }
            }
        }
        let write = || {
            // The batch is the commit: records and cursors in one append.
            self.ctx.op();
            self.ctx.trace("journal", Name::Journal, batch.len() as u64);
            for e in batch {
                match e {
                    Entry::Record(id, domain) => world.deliver(id, domain),
                    Entry::Loss(domain, lost) => {
                        let mut reported = world.reported.borrow_mut();
                        let r = reported.entry(domain).or_default();
                        *r = lost.max(*r);
                    }
                }
            }
            self.write(&at);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = release::commit(write, || at.publish(&self.ack));
        if let Some(piece) = given.next(&at.spill, 1, 2 * SPILL, SPILL) {
            given.give(piece, &self.ack, |from, to| {
                self.ctx.op();
                self.ctx.trace("punch", Name::SpillReleased, to);
                self.ring.spill.punch(from, to);
            });
        }
        self.memory = Some((at, snapshot, given));
        seen
    }

    /// Nobody writes any more: some passes deliver everything, then the one after death the rest.
    pub fn finish(&mut self, killed: bool) {
        self.watch = false;
        if !killed {
            for n in 0.. {
                self.world.check(n < 20, || "the drain does not come to an end".into());
                if let Some(seen) = self.pass(false)
                    && !seen.truncated
                    && n >= 1
                {
                    break;
                }
            }
            self.world.all_delivered("the owner lives");
        }
        self.ring.alive.store(0, Release);
        while self.pass(true).is_none() {}
        self.world.all_delivered("the owner is dead");
        let view = DrainView { ring: self.ring.clone(), ctx: self.ctx.clone() };
        self.ctx.plans(false);
        let drained = self.memory.as_ref().expect("after a pass").1.drained(&view);
        self.world.check(drained, || "something is left of a dead process's ring".into());
    }

    /// Counts agree with what the calls said.
    pub fn reconcile(&self) {
        let calls = self.world.calls.borrow();
        let mine = |c: &&crate::world::Call| !c.inherited;
        let lost = calls.values().filter(mine).filter(|c| c.lost).count() as u64;
        let open = calls.values().filter(mine).filter(|c| !c.returned).count() as u64;
        let counted =
            self.ring.process_lost.now() + self.ring.lanes.iter().map(|l| l.lost.now()).sum::<u64>();
        self.world.check((lost..=lost + open).contains(&counted), || {
            format!("loss: counted {counted}, {lost} calls said so ({open} were cut off)")
        });
        for (i, l) in self.ring.lanes.iter().enumerate() {
            let written = spillring::lane::thread::written_count(l.written.now(), l.tail.now());
            let delivered = lane_cursor(&self.journal, i as u32).count;
            self.world.check(written == delivered, || {
                format!("lane {i}: WRITTEN says {written} records, {delivered} were delivered")
            });
        }
    }
}

/// The record is what its call wrote.
fn whole(world: &World, id: Id, thread: u64, kind: u8, payload: &[u8]) {
    let ok = kind == record::RECORD
        && world
            .calls
            .borrow()
            .get(&id)
            .is_some_and(|c| c.payload == payload.len() as u64 && (c.inherited || thread == id.0))
        && payload.chunks(8).enumerate().all(|(i, w)| w == word_of(id, i as u64).to_le_bytes());
    world.check(ok, || format!("torn or foreign record: thread {thread} kind {kind} {id:?} {payload:02x?}"));
}
