//! One configuration of threads, drain and plans, explored by loom.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use loom::sync::atomic::Ordering;
use spillring::lane::shared;
use spillring::layout::ring::record;

use crate::ledger::Drain;
use crate::thread::{Script, Thread, word_of};
use crate::words::{Ring, SPILL, View};
use crate::world::{Ctx, End, Plan, World};

/// What one exploration runs. Planned operations are filled in by [`Model::every`].
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Capacity and first position of each lane, and the number of the thread that owns it already.
    pub lanes: Vec<(u64, u64, u64)>,
    pub granules: u64,
    /// First position of the shared lane, in granules.
    pub shared_start: u64,
    /// Writing threads (two at most), each with its plan.
    pub threads: Vec<(Script, Plan)>,
    /// A thread that begins on the first thread's place once that is gone, and takes over its lane.
    pub successor: Option<Script>,
    /// Passes of the drain while the threads run.
    pub passes: usize,
    /// At which of its operations the drain is killed.
    pub drain_ends: Option<u32>,
    /// First position of the spill, in granules.
    pub spill_start: u64,
    /// Bytes of the spill that one pass reads.
    pub parse: u64,
    /// The drain sees deaths while it runs.
    pub watch: bool,
    /// Somebody reads along.
    pub observer: bool,
}

/// Lanes of 128 bytes: records of 32 bytes (a quarter of it), positions that wrap at once.
pub const LANE: u64 = 128;
pub const NEAR_WRAP: u64 = 0u64.wrapping_sub(96);
/// The shared lane starts here: an ordinary lap, the last granule of it.
pub const SHARED_START: u64 = 4 * 7 + 3;

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            lanes: vec![(LANE, NEAR_WRAP, 1)],
            granules: 4,
            shared_start: SHARED_START,
            spill_start: SPILL * 5,
            threads: vec![],
            successor: None,
            passes: 1,
            drain_ends: None,
            parse: u64::MAX,
            watch: false,
            observer: false,
        }
    }
}

/// A script of main's calls, a handler's, a handler's handler's.
pub fn script(lane: Option<usize>, main: &[u64], handler: &[u64], second: &[u64]) -> Script {
    Script { calls: [main.to_vec(), handler.to_vec(), second.to_vec()], lane, ..Script::default() }
}

/// A model in the making: counts what it explores.
pub struct Model {
    pub name: &'static str,
    pub bound: usize,
    pub deep: bool,
    /// The drain works meanwhile at every planned operation.
    pub every: bool,
    pub executions: Arc<AtomicUsize>,
    pub runs: std::cell::Cell<usize>,
}

/// Stack of a modelled thread, in words.
const STACK: usize = 0x8000;

/// A closure that loom wants to be `Send`.
struct Here<F>(F);
// SAFETY: loom runs the threads of a model as coroutines of the one thread that called `check`.
#[allow(unsafe_code)]
unsafe impl<F> Send for Here<F> {}
impl<F: FnOnce()> Here<F> {
    fn go(self) {
        (self.0)();
    }
}

pub fn spawn(f: impl FnOnce() + 'static) -> loom::thread::JoinHandle<()> {
    let f = Here(f);
    loom::thread::Builder::new().stack_size(STACK).spawn(move || f.go()).expect("a loom thread")
}

impl Model {
    /// One more in the deep mode.
    pub fn more(&self, n: usize) -> usize {
        n + usize::from(self.deep)
    }

    /// Explores one scenario. How many operations each thread (the drain: 3) did at most.
    pub fn explore(&self, s: &Scenario) -> [u32; 4] {
        let before = self.executions.load(Relaxed);
        let (owned, name) = (s.clone(), self.name);
        let reached = self.check(move |reached| owned.execute(name, reached));
        if std::env::var_os("SPILLRING_MODELS_VERBOSE").is_some() {
            let plans: Vec<_> = s.threads.iter().map(|t| &t.1).collect();
            let n = self.executions.load(Relaxed) - before;
            println!("  {n} executions, {plans:?} {:?}", s.drain_ends);
        }
        reached
    }

    /// Has loom explore `body`, which gets the place to note how far each planned thread came.
    pub fn check(&self, body: impl Fn(Arc<[AtomicU32; 4]>) + Send + Sync + 'static) -> [u32; 4] {
        let reached: Arc<[AtomicU32; 4]> = Arc::default();
        let (executions, r) = (self.executions.clone(), reached.clone());
        self.runs.set(self.runs.get() + 1);
        let mut b = loom::model::Builder::new();
        b.preemption_bound = Some(self.bound);
        b.max_branches = 20_000;
        b.check(move || {
            executions.fetch_add(1, Relaxed);
            body(r.clone());
        });
        [0, 1, 2, 3].map(|i| reached[i].load(Relaxed))
    }

    /// Explores a scenario for every operation of thread `index` (3: the drain) at which something
    /// can be planned, until no execution reaches that operation.
    ///
    /// Outside the deep mode the drain works meanwhile at every `stride`th operation only, and looks
    /// when all is over at the others.
    pub fn every(&self, index: usize, stride: u32, s: &Scenario, plan: impl Fn(&mut Scenario, u32)) {
        for k in 1.. {
            let mut at_k = s.clone();
            if !self.every && k % stride != 0 {
                at_k.passes = 0;
            }
            plan(&mut at_k, k);
            if self.explore(&at_k)[index] < k {
                break;
            }
        }
    }
}

impl Scenario {
    fn execute(&self, name: &'static str, reached: Arc<[AtomicU32; 4]>) {
        let plans: Vec<_> = self.threads.iter().map(|t| &t.1).collect();
        let variant = format!("threads {plans:?}, drain ends at {:?}", self.drain_ends);
        let world = World::new(name, variant, reached);
        let geometry: Vec<(u64, u64)> = self.lanes.iter().map(|l| (l.0, l.1)).collect();
        // A thread that has no lane owns none.
        let laneless = |n: u64| self.threads.get(n as usize - 1).is_some_and(|t| t.0.lane.is_none());
        let owners: Vec<u64> = self.lanes.iter().map(|l| if laneless(l.2) { 7 } else { l.2 }).collect();
        let forks = plans.iter().any(|p| matches!(p.end, Some((_, End::Fork))));
        let kills = plans.iter().any(|p| matches!(p.end, Some((_, End::Process))));
        let starts = (self.shared_start, self.spill_start);
        let ring = Ring::new(&geometry, self.granules, starts, self.threads.len());
        let store = if self.observer { Ordering::Release } else { Ordering::Relaxed };
        // The child of a fork has a ring of its own, with nothing in it.
        let child = forks.then(|| {
            let ring = Ring::new(&geometry, self.granules, starts, 1);
            (ring, Rc::new(std::cell::RefCell::new(None::<Rc<World>>)))
        });

        let mut writers = Vec::new();
        for (index, (script, plan)) in self.threads.iter().enumerate() {
            let ctx = Ctx::new(&world, ['A', 'B'][index], index, plan.clone(), false);
            let thread = Thread::new(&ctx, View::new(&ring, &ctx, store), script.clone());
            if let Some((child, made)) = &child {
                let (parent, made) = (world.clone(), made.clone());
                let make = move || made.borrow_mut().get_or_insert_with(|| parent.child()).clone();
                thread.may_fork(View::new(child, &ctx, store), Rc::new(make));
            }
            thread.prologue();
            let successor = self.successor.clone().filter(|_| index == 0).map(|script| {
                let ctx = Ctx::new(&world, 'S', 2, Plan::default(), false);
                let t = Thread::new(&ctx, View::new(&ring, &ctx, store), script);
                t.number.set(self.threads.len() as u64 + 1);
                t
            });
            let ring = ring.clone();
            writers.push(spawn(move || {
                let end = thread.run();
                if end == Some(End::Thread) {
                    ring.gone[index].store(1, Ordering::Release);
                }
                if let Some(s) = successor {
                    s.run();
                }
                // The lease is granted when the last one is gone.
                ring.alive.fetch_add(u64::MAX, Ordering::AcqRel);
            }));
        }
        let observer = self.observer.then(|| {
            let (ring, world) = (ring.clone(), world.clone());
            spawn(move || observe(&ring, &world))
        });

        let plan = Plan { end: self.drain_ends.map(|k| (k, End::Drain)), handlers: vec![] };
        let ctx = Ctx::new(&world, 'D', 3, plan, true);
        let mut drain = Drain::new(&world, &ring, &ctx, &owners, self.parse, self.watch);
        let (passes, expects_child) = (self.passes, child);
        let d = spawn(move || {
            for _ in 0..passes {
                drain.pass(false);
            }
            writers.into_iter().for_each(|w| w.join().expect("joined"));
            drain.finish(kills || forks);
            drain.reconcile();
            if let Some((ring, made)) = expects_child
                && let Some(world) = made.take()
            {
                let owners: Vec<u64> = owners.iter().map(|_| 0).collect();
                let mut drain = Drain::new(&world, &ring, &ctx, &owners, u64::MAX, false);
                drain.start_at(&geometry);
                drain.finish(false);
                drain.reconcile();
            }
        });
        d.join().expect("joined");
        observer.into_iter().for_each(|o| o.join().expect("joined"));
    }
}

/// A reader that disturbs nobody: takes what a lane held, and says whether that was good.
fn observe(ring: &Ring, world: &World) {
    let l = &ring.lanes[0];
    let from = l.released.load(Ordering::Acquire);
    let tail = l.tail.load(Ordering::Acquire);
    if tail == from || tail.wrapping_sub(from) > l.capacity {
        return;
    }
    let mut copy = Vec::new();
    let mut p = from;
    while p != tail {
        copy.push(l.data[((p & (l.capacity - 1)) / 8) as usize].load(Ordering::Relaxed));
        p = p.wrapping_add(8);
    }
    loom::sync::atomic::fence(Ordering::Acquire);
    // What was copied is good only if its space was not given back meanwhile.
    let released = l.released.load(Ordering::Relaxed);
    world.trace('O', 0, "copied", l.released.name, released);
    if released != from {
        return;
    }
    let mut i = 0;
    while i < copy.len() {
        let (len, kind) = (copy[i] & 0xffff_ffff, (copy[i] >> 32) as u8);
        if kind == record::RECORD {
            let id = (copy[i + 2], copy[i + 1]);
            let words = &copy[i + 3..i + (len / 8) as usize];
            let whole = words.iter().enumerate().all(|(n, w)| *w == word_of(id, n as u64));
            world.check(whole, || format!("an observer accepts torn bytes at {from}"));
            world.observed.set(world.observed.get() + 1);
        }
        world.check(len >= 8, || format!("an observer accepts a record of {len} bytes at {from}"));
        i += (len / 8) as usize;
    }
}

/// A shared lane that has one lap left.
pub fn last_lap(granules: u64) -> u64 {
    let p = (u64::from(u32::MAX) - 1) * granules;
    assert_eq!(shared::lap(p, granules), u64::from(u32::MAX));
    p
}
