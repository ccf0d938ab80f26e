//! What really happened in one execution, and the checks against it.
//!
//! Loom runs all threads of an execution as coroutines on one thread of the operating system, so
//! plain cells serve for what is not part of the model.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A thread's number and the number of its call.
pub type Id = (u64, u64);

/// What the operations are done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Tail(usize),
    Written(usize),
    Lost(usize),
    Marked(usize),
    Released(usize),
    Data(usize, u64),
    SharedTail,
    SharedReleased,
    Word(u64),
    SharedData(u64),
    SpillTail,
    SpillBacked,
    SpillReleased,
    SpillWord(u64),
    SpillData(u64),
    ProcessLost,
    Alive,
    Gone(usize),
    Busy,
    Limit,
    Fork,
    Renew,
    Call,
    Journal,
    /// A word of the calibration in `ctl`.
    Calibration(&'static str),
}

/// One line of the schedule.
#[derive(Clone, Copy)]
pub struct Event {
    who: char,
    level: usize,
    what: &'static str,
    name: Name,
    v: u64,
}

/// How the thread ends, at the operation whose number is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole process: every thread of it stops at its next operation.
    Process,
    /// This thread alone.
    Thread,
    /// `longjmp` out of the call: it never returns, the thread goes on.
    Longjmp,
    /// It becomes the child of a fork; the parent is killed at the same instant.
    Fork,
    /// The drain: it starts again from its journal.
    Drain,
}

/// The unwinding of a planned end.
pub struct Ended(pub End);

/// What is planned for one thread.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// At which of its operations it ends, and how.
    pub end: Option<(u32, End)>,
    /// Before which of its operations a handler runs.
    pub handlers: Vec<u32>,
}

/// What is known of one call.
pub struct Call {
    pub payload: u64,
    pub returned: bool,
    pub lost: bool,
    /// Where its loss was counted: in a lane, in the process.
    lost_in: Option<u32>,
    /// Calls of the thread that had returned when it began.
    before: Vec<Id>,
    /// Of them, how many were lost.
    lost_before: Vec<Option<u32>>,
    pub delivered: bool,
    /// Whether it began before the fork that made the process it belongs to a child.
    pub inherited: bool,
}

/// The truth about one execution.
pub struct World {
    pub model: &'static str,
    pub variant: String,
    trace: Rc<RefCell<Vec<Event>>>,
    pub calls: RefCell<HashMap<Id, Call>>,
    order: RefCell<Vec<Id>>,
    /// Everybody of the process stops.
    pub dead: Cell<bool>,
    /// A call was cut off by a kill, a fork or `longjmp`.
    pub cut_off: Cell<bool>,
    /// The largest operation number that the planned thread reached, over all executions.
    pub reached: Arc<[AtomicU32; 4]>,
    /// Loss that is in the journal: of a lane, of the process.
    pub reported: RefCell<HashMap<Option<u32>, u64>>,
    /// Observers' accepted records.
    pub observed: Cell<u64>,
}

impl World {
    pub fn new(model: &'static str, variant: String, reached: Arc<[AtomicU32; 4]>) -> Rc<World> {
        Rc::new(World {
            model,
            variant,
            trace: Rc::new(RefCell::new(Vec::with_capacity(256))),
            calls: RefCell::default(),
            order: RefCell::default(),
            dead: Cell::new(false),
            cut_off: Cell::new(false),
            reached,
            reported: RefCell::default(),
            observed: Cell::new(0),
        })
    }

    /// The world of a forked child: open calls are there, and nobody waits for them.
    pub fn child(&self) -> Rc<World> {
        let inherited = |(id, c): (&Id, &Call)| {
            let c = Call {
                payload: c.payload,
                returned: false,
                lost: false,
                lost_in: None,
                before: vec![],
                lost_before: vec![],
                delivered: false,
                inherited: true,
            };
            (*id, c)
        };
        let calls = self.calls.borrow().iter().filter(|(_, c)| !c.returned).map(inherited).collect();
        Rc::new(World {
            model: self.model,
            variant: self.variant.clone(),
            trace: self.trace.clone(),
            calls: RefCell::new(calls),
            order: RefCell::default(),
            dead: Cell::new(false),
            cut_off: Cell::new(true),
            reached: self.reached.clone(),
            reported: RefCell::default(),
            observed: Cell::new(0),
        })
    }

    pub fn trace(&self, who: char, level: usize, what: &'static str, name: Name, v: u64) {
        self.trace.borrow_mut().push(Event { who, level, what, name, v });
    }

    /// A check failed: prints the schedule of this execution and ends the model.
    pub fn fail(&self, what: &str) -> ! {
        let mut s = format!("CHECK FAILED [{}] {what}\nvariant: {}\nschedule:\n", self.model, self.variant);
        for e in self.trace.borrow().iter() {
            let _ = writeln!(
                s,
                "  {}{:indent$} {:<9} {:<18} {:#x}",
                e.who,
                "",
                e.what,
                format!("{:?}", e.name),
                e.v,
                indent = e.level * 2
            );
        }
        println!("{s}");
        panic!("CHECK FAILED [{}] {what}", self.model);
    }

    pub fn check(&self, ok: bool, what: impl FnOnce() -> String) {
        if !ok {
            self.fail(&what());
        }
    }

    pub fn begin(&self, id: Id, payload: u64) {
        let calls = self.calls.borrow();
        let returned = |i: &&Id| i.0 == id.0 && calls[*i].returned;
        let order = self.order.borrow();
        let before: Vec<Id> = order.iter().filter(returned).filter(|i| !calls[*i].lost).copied().collect();
        let lost = order.iter().filter(returned).filter(|i| calls[*i].lost);
        let lost_before = lost.map(|i| calls[i].lost_in).collect();
        drop((calls, order));
        self.order.borrow_mut().push(id);
        let call = Call {
            payload,
            returned: false,
            lost: false,
            lost_in: None,
            before,
            lost_before,
            delivered: false,
            inherited: false,
        };
        self.calls.borrow_mut().insert(id, call);
    }

    /// The call returned; `lost_in`: where its loss is counted, if it said that it is lost.
    pub fn returned(&self, id: Id, lost: bool, lost_in: Option<u32>) {
        let mut calls = self.calls.borrow_mut();
        let c = calls.get_mut(&id).expect("begun");
        (c.returned, c.lost, c.lost_in) = (true, lost, lost_in);
    }

    /// The journal holds `id` now. `domain`: where its thread's losses are counted.
    pub fn deliver(&self, id: Id, domain: Option<u32>) {
        let mut calls = self.calls.borrow_mut();
        let Some(c) = calls.get(&id) else { self.fail(&format!("delivered {id:?}, which nobody logged")) };
        self.check(!c.delivered, || format!("delivered {id:?} twice"));
        self.check(!c.lost, || format!("delivered {id:?}, which was reported lost"));
        for b in &c.before {
            self.check(calls[b].delivered, || {
                format!("order: {id:?} delivered before {b:?}, which had returned before it began")
            });
        }
        let reported = self.reported.borrow().get(&domain).copied().unwrap_or(0);
        let lost = c.lost_before.iter().filter(|d| **d == domain).count() as u64;
        self.check(reported >= lost, || {
            format!("loss: {id:?} delivered with {reported} reported, {lost} were lost before it")
        });
        calls.get_mut(&id).expect("there").delivered = true;
    }

    /// Everything that returned is in the journal.
    pub fn all_delivered(&self, when: &str) {
        for (id, c) in self.calls.borrow().iter() {
            self.check(!c.returned || c.lost || c.delivered || c.inherited, || {
                format!("{id:?} returned and was never delivered ({when})")
            });
            self.check(c.returned || !c.delivered || self.cut_off.get(), || {
                format!("{id:?} was delivered and never returned, with nobody killed")
            });
        }
    }
}

/// One thread of an execution: counts its operations and does at them what is planned.
pub struct Ctx {
    pub world: Rc<World>,
    pub who: char,
    /// Which planned thread this is (its place in `World::reached`).
    pub index: usize,
    plan: Plan,
    ops: Cell<u32>,
    pub level: Cell<usize>,
    steps: RefCell<Vec<u32>>,
    handler: RefCell<Option<Box<dyn Fn()>>>,
    /// Latest claim in the shared lane or the spill of each open call.
    pub claim: RefCell<[(u64, u64); 4]>,
    pub fork: RefCell<Option<Box<dyn Fn()>>>,
    is_drain: bool,
    ended: Cell<bool>,
    /// Whether operations count.
    counting: Cell<bool>,
}

/// More operations than a call may take (its kernel calls are one or two of them).
const STEPS: u32 = 200;

impl Ctx {
    pub fn new(world: &Rc<World>, who: char, index: usize, plan: Plan, is_drain: bool) -> Rc<Ctx> {
        Rc::new(Ctx {
            world: world.clone(),
            who,
            index,
            plan,
            ops: Cell::new(0),
            level: Cell::new(0),
            steps: RefCell::default(),
            handler: RefCell::default(),
            claim: RefCell::new([(0, 0); 4]),
            fork: RefCell::default(),
            is_drain,
            ended: Cell::new(false),
            counting: Cell::new(true),
        })
    }

    pub fn on_handler(&self, f: impl Fn() + 'static) {
        *self.handler.borrow_mut() = Some(Box::new(f));
    }

    pub fn opens(&self) {
        self.steps.borrow_mut().push(0);
    }

    pub fn closes(&self) {
        self.steps.borrow_mut().pop();
    }

    /// Whether operations count, and something can be planned at them.
    pub fn plans(&self, on: bool) {
        self.counting.set(on);
    }

    /// Forgets open calls (`longjmp`).
    pub fn forget_calls(&self) {
        self.steps.borrow_mut().clear();
        self.level.set(0);
    }

    /// Before every operation.
    pub fn op(&self) {
        if !self.is_drain && self.world.dead.get() {
            std::panic::resume_unwind(Box::new(Ended(End::Process)));
        }
        if !self.counting.get() {
            return;
        }
        let n = self.ops.get() + 1;
        self.ops.set(n);
        self.world.reached[self.index].fetch_max(n, Relaxed);
        if let Some(steps) = self.steps.borrow_mut().last_mut() {
            *steps += 1;
            self.world.check(*steps <= STEPS, || format!("a call of {} takes {steps} steps", self.who));
        }
        if let Some((k, end)) = self.plan.end
            && k == n
            && !self.ended.replace(true)
        {
            self.world.trace(self.who, self.level.get(), "ENDS", Name::Call, u64::from(n));
            match end {
                End::Fork => {
                    self.world.cut_off.set(true);
                    let f = self.fork.borrow_mut().take().expect("a fork is set up");
                    f();
                }
                End::Drain => std::panic::resume_unwind(Box::new(Ended(end))),
                _ => {
                    self.world.cut_off.set(true);
                    if end == End::Process {
                        self.world.dead.set(true);
                    }
                    std::panic::resume_unwind(Box::new(Ended(end)));
                }
            }
        }
        if self.plan.handlers.contains(&n) {
            self.level.set(self.level.get() + 1);
            let f = self.handler.borrow();
            f.as_ref().expect("a handler is set up")();
            self.level.set(self.level.get() - 1);
        }
    }

    pub fn trace(&self, what: &'static str, name: Name, v: u64) {
        self.world.trace(self.who, self.level.get(), what, name, v);
    }
}
