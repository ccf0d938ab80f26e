//! The words of the protocol on loom: every operation of a thread comes by its [`Ctx`] first.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use loom::sync::atomic::{AtomicU64, Ordering};
use spillring::lane::{SharedLane, ThreadLane, shared, thread};
use spillring::layout::ring::{GRANULE, commit};
use spillring::sync::{Bytes, Word};

use crate::world::{Ctx, Name};

/// One shared word, and its newest value in the order of this execution (for the checks only).
pub struct Shared {
    /// None: a word that everybody sees at once, and whose store is no step.
    a: Option<AtomicU64>,
    now: Cell<u64>,
    pub name: Name,
}

impl Shared {
    pub fn new(name: Name, v: u64) -> Rc<Shared> {
        Rc::new(Shared { a: Some(AtomicU64::new(v)), now: Cell::new(v), name })
    }
    pub fn plain(name: Name) -> Rc<Shared> {
        Rc::new(Shared { a: None, now: Cell::new(0), name })
    }
    pub fn now(&self) -> u64 {
        self.now.get()
    }
    pub fn load(&self, o: Ordering) -> u64 {
        self.a.as_ref().map_or(self.now.get(), |a| a.load(o))
    }
    pub fn store(&self, v: u64, o: Ordering) {
        self.a.iter().for_each(|a| a.store(v, o));
        self.now.set(v);
    }
    pub fn fetch_add(&self, v: u64, o: Ordering) -> u64 {
        let was = self.a.as_ref().expect("no plain word").fetch_add(v, o);
        self.now.set(was.wrapping_add(v));
        was
    }
}

/// One lane of a ring.
pub struct LaneWords {
    pub tail: Rc<Shared>,
    pub written: Rc<Shared>,
    pub lost: Rc<Shared>,
    pub marked: Rc<Shared>,
    pub released: Rc<Shared>,
    pub data: Vec<Rc<Shared>>,
    pub capacity: u64,
}

/// The spill. Of each granule the last word alone is one of the model's: a record fills its granules, and is
/// whole when that is seen; what lies before it is seen at once.
pub struct Spill {
    pub claims: Claims,
    pub tail: Rc<Shared>,
    pub backed: Rc<Shared>,
    pub released: Rc<Shared>,
    pub words: Vec<Rc<Shared>>,
    pub granules: Vec<Rc<Shared>>,
    /// Whether there is memory behind a granule and its word; what the kernel does, everybody sees.
    pub memory: RefCell<Vec<bool>>,
}

/// Granules of the spill: a record of [`crate::thread::LARGE`] takes three.
pub const SPILL: u64 = 16;

impl Spill {
    fn new(start: u64) -> Spill {
        let data = |w: u64| match w % 8 {
            7 => Shared::new(Name::SpillData(w * 8), 0),
            _ => Shared::plain(Name::SpillData(w * 8)),
        };
        Spill {
            claims: Claims::default(),
            tail: Shared::new(Name::SpillTail, shared::tail_word(start, 0)),
            backed: Shared::new(Name::SpillBacked, start),
            released: Shared::new(Name::SpillReleased, start),
            words: (0..SPILL).map(|g| Shared::new(Name::SpillWord(g), 0)).collect(),
            granules: (0..SPILL * GRANULE / 8).map(data).collect(),
            memory: RefCell::new(vec![false; SPILL as usize]),
        }
    }

    /// A hole in the file: zeros, and no memory.
    pub fn punch(&self, from: u64, to: u64) {
        for p in from..to {
            let g = (p % SPILL) as usize;
            self.memory.borrow_mut()[g] = false;
            self.words[g].store(0, Ordering::Relaxed);
            let data = &self.granules[g * GRANULE as usize / 8..][..GRANULE as usize / 8];
            data.iter().for_each(|w| w.store(0, Ordering::Relaxed));
        }
    }
}

/// One claim of the shared lane or the spill: `[from, to)`, by which thread, and whether it was committed.
pub struct Claim {
    pub from: u64,
    pub to: u64,
    pub by: usize,
    /// Granules at its start that are PAD, stored.
    pub pad: u64,
    pub committed: bool,
}
pub type Claims = Rc<RefCell<Vec<Claim>>>;

/// Everything of one process that others see.
pub struct Ring {
    pub claims: Claims,
    pub lanes: Vec<LaneWords>,
    pub tail: Rc<Shared>,
    pub words: Vec<Rc<Shared>>,
    pub released: Rc<Shared>,
    pub granules: Vec<Rc<Shared>>,
    pub process_lost: Rc<Shared>,
    pub spill: Spill,
    /// Threads of the process that can still write.
    pub alive: Rc<Shared>,
    pub gone: Vec<Rc<Shared>>,
}

impl Ring {
    pub fn new(lanes: &[(u64, u64)], granules: u64, starts: (u64, u64), threads: usize) -> Rc<Ring> {
        let (shared_start, spill_start) = starts;
        let lane = |(i, &(capacity, start)): (usize, &(u64, u64))| LaneWords {
            tail: Shared::new(Name::Tail(i), start),
            written: Shared::new(Name::Written(i), thread::written_start(start)),
            lost: Shared::new(Name::Lost(i), 0),
            marked: Shared::new(Name::Marked(i), 0),
            released: Shared::new(Name::Released(i), start),
            data: (0..capacity / 8).map(|w| Shared::new(Name::Data(i, w * 8), 0)).collect(),
            capacity,
        };
        Rc::new(Ring {
            claims: Claims::default(),
            lanes: lanes.iter().enumerate().map(lane).collect(),
            tail: Shared::new(Name::SharedTail, shared::tail_word(shared_start, 0)),
            words: (0..granules).map(|g| Shared::new(Name::Word(g), 0)).collect(),
            released: Shared::new(Name::SharedReleased, shared_start),
            granules: (0..granules * GRANULE / 8).map(|w| Shared::new(Name::SharedData(w * 8), 0)).collect(),
            process_lost: Shared::new(Name::ProcessLost, 0),
            spill: Spill::new(spill_start),
            alive: Shared::new(Name::Alive, threads as u64),
            gone: (0..3).map(|t| Shared::new(Name::Gone(t), 0)).collect(),
        })
    }
}

/// What became of a process's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Shared, writable.
    Shared,
    /// In a forked child, with a call open at the fork: a private copy.
    Private,
    /// In a forked child, with no call open: no access.
    None,
}

/// One thread's way to a shared word.
pub struct W {
    pub word: Rc<Shared>,
    ctx: Rc<Ctx>,
    mode: Rc<Cell<Mode>>,
    foreign: Rc<Cell<bool>>,
    private: Cell<Option<u64>>,
    ring: Rc<Ring>,
}

impl W {
    fn spilled(&self) -> bool {
        matches!(self.word.name, Name::SpillTail | Name::SpillWord(_))
    }

    fn claims(&self) -> &Claims {
        if self.spilled() { &self.ring.spill.claims } else { &self.ring.claims }
    }

    /// The hook; afterwards whether the operation is done in a private copy.
    fn op(&self) -> bool {
        self.ctx.op();
        match self.mode.get() {
            Mode::Shared => {
                self.ctx.world.check(!self.foreign.get(), || {
                    format!("the child of a fork writes its parent's ring: {:?}", self.word.name)
                });
                false
            }
            Mode::Private => true,
            Mode::None => self
                .ctx
                .world
                .fail(&format!("the child of a fork touches its parent's ring: {:?}", self.word.name)),
        }
    }

    fn private(&self) -> u64 {
        self.private.get().unwrap_or(self.word.now())
    }

    fn claimed(&self, from: u64, to: u64) {
        if matches!(self.word.name, Name::SharedTail | Name::SpillTail) {
            let (from, to) = (shared::position(from), shared::position(to));
            self.ctx.claim.borrow_mut()[self.ctx.level.get()] = (from, to);
            self.claims().borrow_mut().push(Claim { from, to, by: self.ctx.index, pad: 0, committed: false });
        }
    }

    fn before_store(&self, v: u64) {
        let grows = self.word.name != Name::SpillBacked || v > self.word.now();
        self.ctx.world.check(grows, || format!("backed goes from {} back to {v}", self.word.now()));
        if let Name::Word(g) | Name::SpillWord(g) = self.word.name {
            let (from, to) = self.ctx.claim.borrow()[self.ctx.level.get()];
            let size = if self.spilled() { SPILL } else { self.ring.words.len() as u64 };
            let word = |p| if self.spilled() { p % size } else { shared::word_at(p % size, size) };
            self.ctx.world.check((from..to).any(|p| word(p) == g), || {
                format!("commit word {g} stored outside the claim [{from}, {to})")
            });
            let memory = !self.spilled() || self.ring.spill.memory.borrow()[g as usize];
            self.ctx.world.check(memory, || format!("no memory behind word {g} of the spill"));
            let mut claims = self.claims().borrow_mut();
            let c = claims.iter_mut().rev().find(|c| (c.from, c.to) == (from, to)).expect("claimed");
            match v & 3 {
                commit::COMMITTED => c.committed = true,
                commit::PAD => c.pad = commit::granules(v),
                _ => {}
            }
        }
    }
}

impl Word for W {
    fn load(&self, o: Ordering) -> u64 {
        let v = if self.op() { self.private() } else { self.word.load(o) };
        self.ctx.trace("load", self.word.name, v);
        v
    }
    fn store(&self, v: u64, o: Ordering) {
        if self.op() {
            self.private.set(Some(v));
        } else {
            self.before_store(v);
            self.word.store(v, o);
        }
        self.ctx.trace("store", self.word.name, v);
    }
    fn fetch_add(&self, v: u64, o: Ordering) -> u64 {
        let was = if self.op() {
            let was = self.private();
            self.private.set(Some(was.wrapping_add(v)));
            was
        } else {
            self.word.fetch_add(v, o)
        };
        self.ctx.trace("xadd", self.word.name, was.wrapping_add(v));
        was
    }
    fn compare_exchange(&self, old: u64, new: u64, ok: Ordering, no: Ordering) -> Result<u64, u64> {
        let r = if self.op() {
            let was = self.private();
            if was == old {
                self.private.set(Some(new));
                Ok(old)
            } else {
                Err(was)
            }
        } else {
            let r = self.word.a.as_ref().expect("no plain word").compare_exchange(old, new, ok, no);
            if r.is_ok() {
                self.word.now.set(new);
                self.claimed(old, new);
            }
            r
        };
        self.ctx.trace(if r.is_ok() { "cas" } else { "cas fails" }, self.word.name, new);
        r
    }
    fn local_add(&self, v: u64) {
        // One operation: no handler comes between its load and its store.
        self.fetch_add(v, Ordering::Relaxed);
    }
}

enum Window {
    /// A lane: its tail, released and capacity.
    Lane(Rc<Shared>, Rc<Shared>, u64),
    /// The shared lane: released and granules.
    Granules(Rc<Shared>, u64),
    /// The spill.
    Spill(Rc<Ring>),
}

/// One thread's way to payload bytes. Every word of 8 bytes is an operation of its own.
pub struct B {
    words: Vec<Rc<Shared>>,
    ctx: Rc<Ctx>,
    mode: Rc<Cell<Mode>>,
    private: RefCell<HashMap<u64, u64>>,
    window: Window,
    store: Ordering,
}

impl B {
    /// Invariant: a write lies inside [released, released + capacity).
    fn inside(&self, at: u64) {
        match &self.window {
            Window::Lane(tail, released, capacity) => {
                let ahead = at.wrapping_sub(tail.now()) & (capacity - 1);
                let behind = tail.now().wrapping_add(ahead).wrapping_sub(released.now());
                self.ctx.world.check(behind + 8 <= *capacity, || {
                    format!("write at {at} of a lane is not in its free space, [tail, released + capacity)")
                });
            }
            Window::Granules(released, size) => self.inside_claim(at, released, *size),
            Window::Spill(ring) => {
                self.inside_claim(at, &ring.spill.released, SPILL);
                let memory = ring.spill.memory.borrow()[(at / GRANULE) as usize];
                self.ctx.world.check(memory, || format!("no memory behind byte {at} of the spill"));
            }
        }
    }
}

impl B {
    fn inside_claim(&self, at: u64, released: &Shared, size: u64) {
        let (from, to) = self.ctx.claim.borrow()[self.ctx.level.get()];
        let p = (from..to).find(|p| p % size == at / GRANULE);
        self.ctx.world.check(p.is_some(), || format!("write at {at} outside the claim [{from}, {to})"));
        let (p, r) = (p.unwrap_or(0), released.now());
        self.ctx.world.check((r..r + size).contains(&p), || {
            format!("write at granule {p}, outside [released, released + capacity), {r} + {size}")
        });
    }
}

impl Bytes for B {
    fn write(&self, at: u64, src: &[u8]) {
        assert!(at.is_multiple_of(8) && src.len().is_multiple_of(8), "models write whole words");
        for (i, w) in src.chunks(8).enumerate() {
            let at = at + i as u64 * 8;
            let v = u64::from_le_bytes(w.try_into().expect("8 bytes"));
            let all = self.words.len() as u64 * 8;
            self.ctx.world.check(at < all, || format!("write at {at} of {all} is not in its free space"));
            let word = &self.words[(at / 8) as usize];
            if word.a.is_some() {
                self.ctx.op();
            }
            match self.mode.get() {
                Mode::Shared => {
                    self.inside(at);
                    word.store(v, self.store);
                }
                Mode::Private => {
                    self.private.borrow_mut().insert(at, v);
                }
                Mode::None => self
                    .ctx
                    .world
                    .fail(&format!("the child of a fork writes its parent's ring: {:?}", word.name)),
            }
            if word.a.is_some() {
                self.ctx.trace("write", word.name, v);
            }
        }
    }
    fn read(&self, _: u64, _: &mut [u8]) {
        unreachable!("writers read no payload");
    }
}

/// One lane as one thread sees it.
pub struct LaneView {
    pub tail: W,
    written: W,
    pub lost: W,
    marked: W,
    pub released: W,
    data: B,
    mask: u64,
}

impl LaneView {
    pub fn lane(&self) -> ThreadLane<'_, W, B> {
        ThreadLane {
            tail: &self.tail,
            written: &self.written,
            lost: &self.lost,
            marked: &self.marked,
            data: &self.data,
            mask: self.mask,
        }
    }
}

/// A ring as one thread sees it.
pub struct View {
    pub ring: Rc<Ring>,
    pub mode: Rc<Cell<Mode>>,
    /// The thread is in a child by now, and the ring is its parent's.
    pub foreign: Rc<Cell<bool>>,
    pub lanes: Vec<LaneView>,
    tail: W,
    words: Vec<W>,
    released: W,
    data: B,
    pub process_lost: W,
    spill: (W, Vec<W>, W, B, W),
}

impl View {
    pub fn new(ring: &Rc<Ring>, ctx: &Rc<Ctx>, payload_store: Ordering) -> Rc<View> {
        let mode = Rc::new(Cell::new(Mode::Shared));
        let foreign = Rc::new(Cell::new(false));
        let w = |word: &Rc<Shared>| W {
            word: word.clone(),
            ctx: ctx.clone(),
            mode: mode.clone(),
            foreign: foreign.clone(),
            private: Cell::new(None),
            ring: ring.clone(),
        };
        let b = |words: &[Rc<Shared>], window| B {
            words: words.to_vec(),
            ctx: ctx.clone(),
            mode: mode.clone(),
            private: RefCell::default(),
            window,
            store: payload_store,
        };
        let lane = |l: &LaneWords| LaneView {
            tail: w(&l.tail),
            written: w(&l.written),
            lost: w(&l.lost),
            marked: w(&l.marked),
            released: w(&l.released),
            data: b(&l.data, Window::Lane(l.tail.clone(), l.released.clone(), l.capacity)),
            mask: l.capacity - 1,
        };
        Rc::new(View {
            lanes: ring.lanes.iter().map(lane).collect(),
            tail: w(&ring.tail),
            words: ring.words.iter().map(w).collect(),
            released: w(&ring.released),
            data: b(&ring.granules, Window::Granules(ring.released.clone(), ring.words.len() as u64)),
            process_lost: w(&ring.process_lost),
            spill: (
                w(&ring.spill.tail),
                ring.spill.words.iter().map(w).collect(),
                w(&ring.spill.released),
                b(&ring.spill.granules, Window::Spill(ring.clone())),
                w(&ring.spill.backed),
            ),
            mode: mode.clone(),
            foreign: foreign.clone(),
            ring: ring.clone(),
        })
    }

    pub fn shared(&self) -> SharedLane<'_, W, B> {
        let (tail, words, released, data) = (&self.tail, &self.words, &self.released, &self.data);
        SharedLane { tail, words, released, data, backed: None }
    }

    pub fn spill(&self) -> SharedLane<'_, W, B> {
        let (tail, words, released, data, backed) = &self.spill;
        SharedLane { tail, words, released, data, backed: Some(backed) }
    }

    /// Has the spill backed: no further than it must be, so that the next call needs it too.
    pub fn back_spill(&self, ctx: &Ctx, end: u64) -> bool {
        self.spill().back(end, |from, least, most| {
            ctx.op();
            ctx.world
                .check(least <= most && most <= from + SPILL, || format!("backs [{from}, {least}..{most})"));
            // In a child with a call open it is memory of its own.
            if self.mode.get() == Mode::Shared {
                let mut memory = self.ring.spill.memory.borrow_mut();
                (from..least).for_each(|p| memory[(p % SPILL) as usize] = true);
            }
            ctx.trace("populate", Name::SpillBacked, least);
            Some(least)
        })
    }
}
