//! A drain as small as it can be: one pass of the snapshot, one batch into the journal, then the
//! `released` stores. It keeps the order of the real one: the batch carries records and cursors, and
//! nothing is released that the journal does not hold.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use spillring::layout::ring::record;
use spillring::layout::spill::HEADER;
use spillring::snapshot::{Item, LaneAt, Limits, Ranges, RingRead, Seen, Snapshot, Source};
use spillring::spill::SpillRead;
use spillring::sync::Ordering::{Acquire, Relaxed, Release};

use crate::thread::{NONCE, word_of};
use crate::words::Ring;
use crate::world::{Ctx, End, Ended, Id, Name, World};

/// A ring as the drain sees it.
pub struct DrainView {
    ring: Rc<Ring>,
    ctx: Rc<Ctx>,
}

impl DrainView {
    fn load(&self, w: &crate::words::Shared) -> u64 {
        self.ctx.op();
        let v = w.load(Acquire); // tail:A, claim:A, word:A, bell:A
        self.ctx.trace("load", w.name, v);
        v
    }
    fn copy(&self, words: &[Rc<crate::words::Shared>], at: u64, to: &mut [u8]) {
        for (i, b) in to.chunks_mut(8).enumerate() {
            let w = words[at as usize / 8 + i].load(Relaxed);
            b.copy_from_slice(&w.to_le_bytes()[..b.len()]);
        }
    }
}

impl SpillRead for DrainView {
    fn spill_len(&self) -> std::io::Result<u64> {
        Ok(HEADER + self.load(&self.ring.file.len))
    }
    fn spill_read(&self, at: u64, to: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.ring.file.bytes.borrow();
        let at = ((at - HEADER) as usize).min(bytes.len());
        let n = to.len().min(bytes.len() - at);
        to[..n].copy_from_slice(&bytes[at..at + n]);
        Ok(n)
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
        self.load(&self.ring.words[granule as usize])
    }
    fn granule_read(&self, at: u64, to: &mut [u8]) {
        self.copy(&self.ring.granules, at, to);
    }
    fn doorbell(&self) -> u64 {
        self.load(&self.ring.bell)
    }
}

/// What a batch says beside its records: everything a restart needs.
#[derive(Clone, Default)]
pub struct Cursors {
    pub lanes: Vec<LaneAt>,
    pub shared: (u64, Ranges),
    pub spill: (u64, Ranges),
}

impl Cursors {
    fn take(&mut self, source: Source) {
        match source {
            Source::Lane { lane, end } => self.lanes[lane as usize].at = end,
            Source::Shared { at, len } => {
                self.shared.1.insert(at, at + len);
                self.shared.0 = self.shared.1.advance(self.shared.0);
            }
            Source::Spill { at, len } => {
                self.spill.1.insert(at, at + len);
                self.spill.0 = self.spill.1.advance(self.spill.0);
            }
        }
    }
}

enum Entry {
    /// Its id, where its thread's losses are counted, the lane it stood in.
    Record(Id, Option<u32>, Option<u32>),
    Loss(Option<u32>, u64),
}

/// The drain of one ring.
pub struct Drain {
    pub world: Rc<World>,
    pub ring: Rc<Ring>,
    ctx: Rc<Ctx>,
    /// The durable part: the cursors of the last batch. (The records are in [`World`].)
    journal: RefCell<Cursors>,
    snapshot: Option<Snapshot>,
    parse: u64,
    /// Records in lanes that were delivered, per lane.
    pub from_lane: Vec<u64>,
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
        let lane =
            |(l, owner): (&crate::words::LaneWords, &u64)| LaneAt { at: l.released.now(), owner: *owner };
        let journal = Cursors {
            lanes: ring.lanes.iter().zip(owners).map(lane).collect(),
            shared: (ring.released.now(), Ranges::default()),
            spill: (HEADER, Ranges::default()),
        };
        Drain {
            world: world.clone(),
            ring: ring.clone(),
            ctx: ctx.clone(),
            from_lane: vec![0; journal.lanes.len()],
            journal: RefCell::new(journal),
            snapshot: None,
            parse,
            watch,
        }
    }

    /// Begins at the start of the lanes, whatever they hold by now.
    pub fn start_at(&mut self, lanes: &[(u64, u64)]) {
        let mut journal = self.journal.borrow_mut();
        journal.lanes.iter_mut().zip(lanes).for_each(|(l, g)| l.at = g.1);
    }

    /// One pass, from the snapshot to the `released` stores. After a planned kill it starts again.
    pub fn pass(&mut self, dead: bool) -> Option<Seen> {
        match catch_unwind(AssertUnwindSafe(|| self.whole_pass(dead))) {
            Ok(seen) => Some(seen),
            Err(e) => match e.downcast::<Ended>() {
                Ok(e) if e.0 == End::Drain => {
                    self.snapshot = None; // a new process: it has the journal, and nothing else
                    None
                }
                Ok(e) => resume_unwind(e),
                Err(e) => resume_unwind(e),
            },
        }
    }

    fn whole_pass(&mut self, dead: bool) -> Seen {
        let view = DrainView { ring: self.ring.clone(), ctx: self.ctx.clone() };
        let mut cursors = self.journal.borrow().clone();
        let snapshot = self.snapshot.get_or_insert_with(|| {
            let c = cursors.clone();
            Snapshot::new(NONCE, c.lanes, c.shared, c.spill)
        });
        // Death is established before the pass: what the dead had published is in it.
        let dead = dead || (self.watch && view.load(&self.ring.alive) == 0);
        let world = &self.world;
        let mut batch = Vec::new();
        let mut out = |item: Item<'_>| match item {
            Item::Record { thread, source, kind, ticks, site, flags, payload } => {
                let id = (u64::from(site) | u64::from(flags) << 32, ticks);
                whole(world, id, thread, kind, payload);
                let lane = cursors.lanes.iter().position(|l| l.owner == id.0).map(|l| l as u32);
                let stood = if let Source::Lane { lane, .. } = source { Some(lane) } else { None };
                batch.push(Entry::Record(id, lane, stood));
                cursors.take(source);
            }
            Item::Thread { lane, end, thread, .. } => {
                cursors.lanes[lane as usize] = LaneAt { at: end, owner: thread };
            }
            Item::Loss { lane, lost, source, .. } => {
                batch.push(Entry::Loss(lane, lost));
                source.into_iter().for_each(|s| cursors.take(s));
            }
            Item::Skip { source, .. } => cursors.take(source),
        };
        let limits = Limits { parse: self.parse, lane: u64::MAX };
        let mut seen = match snapshot.pass(&view, limits, dead, &mut out) {
            Ok(seen) => seen,
            Err(v) => world.fail(&format!("a healthy ring breaks the rules: {}", v.0)),
        };
        if self.watch && !dead {
            for (at, slot) in snapshot.open_holes(&view) {
                if view.load(&self.ring.gone[usize::from(slot)]) != 0 {
                    snapshot.skip_open(&view, at, &mut out);
                    seen.holes = 0;
                }
            }
        }
        // The batch is the commit: records and cursors in one append.
        self.ctx.op();
        self.ctx.trace("journal", Name::Journal, batch.len() as u64);
        for e in batch {
            match e {
                Entry::Record(id, domain, stood) => {
                    world.deliver(id, domain);
                    stood.into_iter().for_each(|l| self.from_lane[l as usize] += 1);
                }
                Entry::Loss(domain, lost) => {
                    let mut reported = world.reported.borrow_mut();
                    let r = reported.entry(domain).or_default();
                    *r = lost.max(*r);
                }
            }
        }
        *self.journal.borrow_mut() = cursors.clone();
        self.release(&cursors);
        seen
    }

    /// Publishes what the journal holds.
    fn release(&self, cursors: &Cursors) {
        for (l, c) in self.ring.lanes.iter().zip(&cursors.lanes) {
            if l.released.now() != c.at {
                self.ctx.op();
                let journal = self.journal.borrow();
                let at = journal.lanes[self.lane_index(l)].at;
                self.world.check(at.wrapping_sub(c.at) as i64 >= 0, || {
                    format!("released {} of a lane is past its cursor in the journal, {at}", c.at)
                });
                l.released.store(c.at, Release); // room:R
                self.ctx.trace("store", l.released.name, c.at);
            }
        }
        let (frontier, was) = (cursors.shared.0, self.ring.released.now());
        if was != frontier {
            self.ctx.op();
            let at = self.journal.borrow().shared.0;
            self.world.check(at >= frontier && frontier > was, || {
                format!("released {frontier} of the shared lane: cursor in the journal {at}, before {was}")
            });
            self.no_holes_below(frontier);
            self.ring.released.store(frontier, Release); // room:R
            self.ctx.trace("store", self.ring.released.name, frontier);
        }
    }

    fn lane_index(&self, l: &crate::words::LaneWords) -> usize {
        self.ring.lanes.iter().position(|x| std::ptr::eq(x, l)).expect("a lane of this ring")
    }

    /// Invariant: released is at most the lowest hole, unless nobody is left who could fill it.
    fn no_holes_below(&self, frontier: u64) {
        for c in self.ring.claims.borrow().iter().filter(|c| c.from + c.pad < frontier) {
            let gone = self.ring.alive.now() == 0 || self.ring.gone[c.by].now() != 0;
            self.world.check(c.committed || gone, || {
                format!("released {frontier} is past the hole at {}, whose writer lives", c.from)
            });
        }
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
        let drained = self.snapshot.as_ref().expect("after a pass").drained(&view);
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
            self.world.check(written == self.from_lane[i], || {
                format!("lane {i}: WRITTEN says {written} records, {} were delivered", self.from_lane[i])
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
