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
    a: AtomicU64,
    now: Cell<u64>,
    pub name: Name,
}

impl Shared {
    pub fn new(name: Name, v: u64) -> Rc<Shared> {
        Rc::new(Shared { a: AtomicU64::new(v), now: Cell::new(v), name })
    }
    pub fn now(&self) -> u64 {
        self.now.get()
    }
    pub fn load(&self, o: Ordering) -> u64 {
        self.a.load(o)
    }
    pub fn store(&self, v: u64, o: Ordering) {
        self.a.store(v, o);
        self.now.set(v);
    }
    pub fn fetch_add(&self, v: u64, o: Ordering) -> u64 {
        let was = self.a.fetch_add(v, o);
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

/// The spill file: its length is one word; an append writes the bytes and adds to it. Weaker than
/// the kernel's: a reader may see an old length until something tells it otherwise.
pub struct File {
    pub len: Rc<Shared>,
    pub bytes: RefCell<Vec<u8>>,
}

/// One claim of the shared lane: `[from, to)`, by which thread, and whether it was committed.
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
    pub aux: Rc<Shared>,
    pub bell: Rc<Shared>,
    pub spill_size: Rc<Shared>,
    pub process_lost: Rc<Shared>,
    pub file: File,
    /// Threads of the process that can still write.
    pub alive: Rc<Shared>,
    pub gone: Vec<Rc<Shared>>,
}

impl Ring {
    pub fn new(lanes: &[(u64, u64)], granules: u64, shared_start: u64, threads: usize) -> Rc<Ring> {
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
            aux: Shared::new(Name::Aux, 0),
            bell: Shared::new(Name::Bell, 0),
            spill_size: Shared::new(Name::SpillSize, 0),
            process_lost: Shared::new(Name::ProcessLost, 0),
            file: File { len: Shared::new(Name::SpillLen, 0), bytes: RefCell::default() },
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
    claims: Claims,
}

impl W {
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
        if self.word.name == Name::SharedTail {
            let (from, to) = (shared::position(from), shared::position(to));
            self.ctx.claim.borrow_mut()[self.ctx.level.get()] = (from, to);
            self.claims.borrow_mut().push(Claim { from, to, by: self.ctx.index, pad: 0, committed: false });
        }
    }

    fn before_store(&self, v: u64) {
        if let Name::Word(g) = self.word.name {
            let (from, to) = self.ctx.claim.borrow()[self.ctx.level.get()];
            let n = self.ctx.granules.get();
            self.ctx.world.check((from..to).any(|p| shared::word_at(p % n, n) == g), || {
                format!("commit word {g} stored outside the claim [{from}, {to})")
            });
            let mut claims = self.claims.borrow_mut();
            let c = claims.iter_mut().rev().find(|c| (c.from, c.to) == (from, to)).expect("claimed");
            match v & 3 {
                commit::COMMITTED => c.committed = true,
                commit::PAD => c.pad = v >> 16 & 0xffff,
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
            let r = self.word.a.compare_exchange(old, new, ok, no);
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
            Window::Granules(released, size) => {
                let (from, to) = self.ctx.claim.borrow()[self.ctx.level.get()];
                let p = (from..to).find(|p| p % size == at / GRANULE);
                self.ctx
                    .world
                    .check(p.is_some(), || format!("write at {at} outside the claim [{from}, {to})"));
                let (p, r) = (p.unwrap_or(0), released.now());
                self.ctx.world.check((r..r + size).contains(&p), || {
                    format!("write at granule {p}, outside [released, released + capacity), {r} + {size}")
                });
            }
        }
    }
}

impl Bytes for B {
    fn write(&self, at: u64, src: &[u8]) {
        assert!(at.is_multiple_of(8) && src.len().is_multiple_of(8), "models write whole words");
        for (i, w) in src.chunks(8).enumerate() {
            let at = at + i as u64 * 8;
            let v = u64::from_le_bytes(w.try_into().expect("8 bytes"));
            self.ctx.op();
            let word = &self.words[(at / 8) as usize];
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
            self.ctx.trace("write", word.name, v);
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
    released: W,
    data: B,
    capacity: u64,
}

impl LaneView {
    pub fn lane(&self) -> ThreadLane<'_, W, B> {
        ThreadLane {
            tail: &self.tail,
            written: &self.written,
            lost: &self.lost,
            marked: &self.marked,
            released: &self.released,
            data: &self.data,
            capacity: self.capacity,
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
    pub aux: W,
    pub bell: W,
    pub spill_size: W,
    pub process_lost: W,
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
            claims: ring.claims.clone(),
        };
        let b = |words: &[Rc<Shared>], window| B {
            words: words.to_vec(),
            ctx: ctx.clone(),
            mode: mode.clone(),
            private: RefCell::default(),
            window,
            store: payload_store,
        };
        ctx.granules.set(ring.words.len() as u64);
        let lane = |l: &LaneWords| LaneView {
            tail: w(&l.tail),
            written: w(&l.written),
            lost: w(&l.lost),
            marked: w(&l.marked),
            released: w(&l.released),
            data: b(&l.data, Window::Lane(l.tail.clone(), l.released.clone(), l.capacity)),
            capacity: l.capacity,
        };
        Rc::new(View {
            lanes: ring.lanes.iter().map(lane).collect(),
            tail: w(&ring.tail),
            words: ring.words.iter().map(w).collect(),
            released: w(&ring.released),
            data: b(&ring.granules, Window::Granules(ring.released.clone(), ring.words.len() as u64)),
            aux: w(&ring.aux),
            bell: w(&ring.bell),
            spill_size: w(&ring.spill_size),
            process_lost: w(&ring.process_lost),
            mode: mode.clone(),
            foreign: foreign.clone(),
            ring: ring.clone(),
        })
    }

    pub fn shared(&self) -> SharedLane<'_, W, B> {
        SharedLane { tail: &self.tail, words: &self.words, released: &self.released, data: &self.data }
    }

    /// Appends to the spill file: one operation. A planned end at it leaves `cut` bytes.
    pub fn append(&self, ctx: &Ctx, bytes: &[u8], cut: Option<usize>) {
        let add = |b: &[u8]| {
            // One step: nothing is scheduled behind the addition.
            self.ring.file.len.fetch_add(b.len() as u64, Ordering::AcqRel);
            self.ring.file.bytes.borrow_mut().extend(b);
        };
        if let Some(cut) = cut {
            // The kernel copies page by page: a kill in between leaves what was copied.
            if ctx.ends_here() {
                add(&bytes[..cut.min(bytes.len())]);
            }
        }
        ctx.op();
        if self.mode.get() == Mode::None {
            ctx.world.fail("the child of a fork appends to its parent's spill");
        }
        // Over the descriptor of a child with a call open lies /dev/null.
        if self.mode.get() == Mode::Shared {
            add(bytes);
        }
        ctx.trace("append", Name::SpillLen, bytes.len() as u64);
    }
}
