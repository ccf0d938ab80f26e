//! A writing thread: what its calls see ([`Env`]), its script, its handlers.

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};

use spillring::lane::call::{self, Env, Local, Outcome};
use spillring::lane::{OpenRecord, Record, SharedLane, ThreadLane};
use spillring::layout::ring::{GRANULE, record};
use spillring::layout::spill;
use spillring::sync::Bytes;

use crate::words::{B, Mode, View, W};
use crate::world::{Ctx, End, Ended, Id, Name, World};

/// Bytes of payload that fit no lane of a model: the record goes to the spill, where it fills three granules.
pub const LARGE: u64 = 3 * GRANULE - spill::KEY - record::HEADER;

/// A record that describes itself.
#[derive(Clone)]
pub struct Rec {
    pub id: Id,
    pub payload: u64,
}

/// The `i`th word of the payload of `id`. A scramble: no two words of two records are alike.
pub fn word_of(id: Id, i: u64) -> u64 {
    (id.0 << 48 | id.1 << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Rec {
    fn words(&self) -> impl Iterator<Item = u64> {
        let id = self.id;
        let header = [record::word0(record::HEADER + self.payload, record::RECORD), id.1, id.0];
        header.into_iter().chain((0..self.payload / 8).map(move |i| word_of(id, i)))
    }
    fn len(&self) -> u64 {
        record::HEADER + self.payload
    }
}

impl<T: Bytes> Record<T> for Rec {
    fn size(&self) -> u64 {
        self.len()
    }
    fn time(&self) -> u64 {
        0
    }
    fn write(&self, to: &T, at: u64, _: u64) {
        for (i, w) in self.words().enumerate() {
            to.write(at + i as u64 * 8, &w.to_le_bytes());
        }
    }
}

/// The same with a size that shows while it is written: at first something else is where it will be, and where a larger
/// one would be.
struct Open<'a>(&'a Rec);

impl OpenRecord<B> for Open<'_> {
    fn most(&self) -> u64 {
        self.0.len() + 16
    }
    fn write(&self, to: &B, at: u64) -> Option<u64> {
        for i in (0..self.most() / 8).rev() {
            to.write(at + i * 8, &word_of((99, 99), i).to_le_bytes());
        }
        // Too large, as it shows now.
        (self.0.payload < OPEN_END).then(|| {
            self.0.write(to, at, 0);
            self.0.len()
        })
    }
}

/// Bytes of payload that show only when they are written to be too many for an open record.
pub const OPEN_END: u64 = 16;

/// What a thread does.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Its calls try it as open records first.
    pub open: bool,
    /// Payload bytes of main's calls, of a handler's, of a handler's handler's.
    pub calls: [Vec<u64>; 3],
    /// Calls that main has made before anything else runs.
    pub before: Vec<u64>,
    /// The lane it has from the start, with its first record still to come.
    pub lane: Option<usize>,
    /// The lane it takes at its first call, whose owner is gone.
    pub inherits: Option<usize>,
    /// Nothing may spill.
    pub no_spill: bool,
}

/// The state of a thread that its handlers share, and what its process looks like to it.
pub struct Thread {
    pub ctx: Rc<Ctx>,
    world: RefCell<Rc<World>>,
    view: RefCell<Rc<View>>,
    /// After a fork: what the child attaches to.
    child: RefCell<Option<(Rc<View>, Rc<World>)>>,
    pub number: Cell<u64>,
    slot: u16,
    lane: Cell<Option<usize>>,
    takes: Cell<Option<usize>>,
    /// Attached, in this very process, and its kind of lane decided.
    ready: Cell<bool>,
    busy: Cell<bool>,
    limit: Cell<u64>,
    seq: Cell<u64>,
    script: Script,
}

impl Thread {
    pub fn new(ctx: &Rc<Ctx>, view: Rc<View>, script: Script) -> Rc<Thread> {
        let index = ctx.index;
        // As after a look at what is released now.
        let limit = script.lane.map_or(0, |l| {
            let l = &view.ring.lanes[l];
            let (tail, end) = (l.tail.now(), l.capacity - (l.tail.now() & (l.capacity - 1)));
            let free = l.capacity - tail.wrapping_sub(l.released.now());
            tail.wrapping_add(free.min(end))
        });
        let t = Rc::new(Thread {
            ctx: ctx.clone(),
            world: RefCell::new(ctx.world.clone()),
            view: RefCell::new(view),
            child: RefCell::default(),
            number: Cell::new(index as u64 + 1),
            slot: index as u16,
            lane: Cell::new(script.lane),
            takes: Cell::new(script.inherits),
            ready: Cell::new(script.inherits.is_none()),
            busy: Cell::new(false),
            limit: Cell::new(limit),
            seq: Cell::new(0),
            script,
        });
        let me = Rc::downgrade(&t);
        ctx.on_handler(move || {
            let t = me.upgrade().expect("its thread runs");
            let level = t.ctx.level.get();
            for &payload in t.script.calls.get(level).into_iter().flatten() {
                t.call(payload);
            }
        });
        t
    }

    /// Makes a planned fork possible: the child attaches to `child`.
    pub fn may_fork(self: &Rc<Thread>, child: Rc<View>, world: Rc<dyn Fn() -> Rc<World>>) {
        let me: Weak<Thread> = Rc::downgrade(self);
        *self.ctx.fork.borrow_mut() = Some(Box::new(move || {
            let t = me.upgrade().expect("its thread runs");
            // The parent is gone from here on; this thread goes on as the child. Its hook has run:
            // the ring is a private copy if a call is open, else not accessible at all.
            t.view.borrow().foreign.set(true);
            t.view.borrow().mode.set(if t.busy.get() { Mode::Private } else { Mode::None });
            *t.child.borrow_mut() = Some((child.clone(), world()));
            // The page marked MADV_WIPEONFORK is zeros.
            t.ready.set(false);
            t.number.set(t.number.get() + 10);
            t.ctx.trace("fork", Name::Fork, 0);
        }));
    }

    /// One log call of main or of a handler.
    fn call(self: &Rc<Thread>, payload: u64) {
        let seq = self.seq.get() + 1;
        self.seq.set(seq);
        let r = Rec { id: (self.number.get(), seq), payload };
        let world = || match &*self.child.borrow() {
            Some((_, w)) => w.clone(),
            None => self.world.borrow().clone(),
        };
        world().begin(r.id, payload);
        self.ctx.opens();
        self.ctx.trace("begins", Name::Call, seq);
        let mut env = CallEnv { t: self.clone(), now: Rc::default() };
        let out = if self.script.open && call::log_usual_open(&env, &Open(&r)) {
            Outcome::Lane
        } else {
            env.now = Rc::default();
            call::log(&env, &r)
        };
        self.ctx.closes();
        let lost_in = env.now.get().and_then(|n| n.1).map(|l| l as u32);
        world().returned(r.id, matches!(out, Outcome::Lost | Outcome::NoRing), lost_in);
        self.ctx.trace(
            match out {
                Outcome::Lane => "in lane",
                Outcome::Shared => "in shared",
                Outcome::Spilled => "in spill",
                Outcome::Lost => "is lost",
                Outcome::NoRing => "no ring",
            },
            Name::Call,
            seq,
        );
    }

    /// What had been logged before this execution begins.
    pub fn prologue(self: &Rc<Thread>) {
        self.ctx.plans(false);
        self.script.before.iter().for_each(|p| self.call(*p));
        self.ctx.plans(true);
    }

    /// Runs the script. The planned end, if it came.
    pub fn run(self: &Rc<Thread>) -> Option<End> {
        for &payload in &self.script.calls[0] {
            match catch_unwind(AssertUnwindSafe(|| self.call(payload))) {
                Ok(()) => {}
                Err(e) => match e.downcast::<Ended>() {
                    Ok(e) if e.0 == End::Longjmp => self.ctx.forget_calls(),
                    Ok(e) => return Some(e.0),
                    Err(e) => resume_unwind(e),
                },
            }
        }
        None
    }
}

/// What one call sees: view, lane and thread number, loaded once, right behind the fork check.
type Now = (Rc<View>, Option<usize>, u64);

/// One call. The cold parts of a call get it by value: what a copy has loaded, all of them have, so that
/// [`Thread::call`] can tell where a loss was counted.
#[derive(Clone)]
struct CallEnv {
    t: Rc<Thread>,
    now: Rc<OnceCell<Now>>,
}

impl CallEnv {
    fn load(&self) -> &Now {
        let t = &self.t;
        self.now.get_or_init(|| (t.view.borrow().clone(), t.lane.get(), t.number.get()))
    }
    fn view(&self) -> &View {
        &self.load().0
    }
}

impl Local for CallEnv {
    type W = W;
    fn busy(&self) -> bool {
        self.t.ctx.op();
        let b = self.t.busy.get();
        self.t.ctx.trace("load", Name::Busy, u64::from(b));
        b
    }
    fn set_busy(&self, v: bool) {
        self.t.ctx.op();
        self.t.busy.set(v);
        self.t.ctx.trace("store", Name::Busy, u64::from(v));
    }
    fn limit(&self) -> u64 {
        self.t.ctx.op();
        let v = self.t.limit.get();
        self.t.ctx.trace("load", Name::Limit, v);
        v
    }
    fn set_limit(&self, v: u64) {
        self.t.ctx.op();
        self.t.limit.set(v);
        self.t.ctx.trace("store", Name::Limit, v);
    }
    fn released(&self) -> &W {
        &self.view().lanes[self.load().1.expect("asked of a lane")].released
    }
    fn fence(&self) {}
}

impl Env for CallEnv {
    type B = B;

    fn stale(&self) -> bool {
        self.t.ctx.op();
        let stale = !self.t.ready.get();
        self.t.ctx.trace("load", Name::Fork, u64::from(stale));
        if !stale {
            self.load();
        }
        stale
    }

    fn renew(&self, nested: bool) -> bool {
        let t = &self.t;
        t.ctx.op();
        if let Some((view, world)) = &*t.child.borrow()
            && !Rc::ptr_eq(view, &t.view.borrow())
        {
            // The child attaches: a ring of its own, and no lane before it has claimed one.
            let had_lane = t.lane.get();
            *t.view.borrow_mut() = view.clone();
            *t.world.borrow_mut() = world.clone();
            t.lane.set(None);
            t.takes.set(had_lane);
            t.ctx.trace("attaches", Name::Renew, t.number.get());
        }
        if !nested {
            t.ctx.op();
            if let Some(lane) = t.takes.take() {
                // The lane is this thread's from here on, before its note is published: a handler
                // that comes in between takes its keys from the lane's tail.
                t.lane.set(Some(lane));
                self.load();
                t.ctx.trace("claims", Name::Renew, lane as u64);
                let mut payload = [0; record::THREAD_LEN as usize];
                payload[..8].copy_from_slice(&t.number.get().to_le_bytes());
                let l = &self.view().lanes[lane];
                let noted = l.lane().note(self, &l.released, record::THREAD, &payload);
                t.ctx.world.check(noted, || "no room for the THREAD note".into());
            }
            t.ctx.op();
            t.ready.set(true);
            t.ctx.trace("ready", Name::Renew, t.number.get());
        }
        self.load();
        true
    }

    fn lane(&self) -> Option<ThreadLane<'_, W, B>> {
        let (view, lane, _) = self.load();
        lane.map(|l| view.lanes[l].lane())
    }
    fn thread(&self) -> u64 {
        self.load().2
    }
    fn slot(&self) -> u16 {
        self.t.slot
    }
    fn shared(&self) -> SharedLane<'_, W, B> {
        self.view().shared()
    }
    fn spill(&self) -> Option<SharedLane<'_, W, B>> {
        (!self.t.script.no_spill).then(|| self.view().spill())
    }
    fn back_spill(&self, end: u64) -> bool {
        self.view().back_spill(&self.t.ctx, end)
    }
    fn count_spilled(&self) {}
    fn process_lost(&self) -> &W {
        &self.view().process_lost
    }
    fn wait_for_room(&self) -> bool {
        false
    }
    fn count_nested(&self) {}
}
