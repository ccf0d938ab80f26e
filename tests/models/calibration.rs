//! The seqlock in `ctl`: drains that write it, one after another and killed in the midst of it, and a
//! reader.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use loom::sync::atomic::Ordering;
use spillring::lane::calibration::{Calibration, Found, Line};
use spillring::sync::Word;

use crate::scenario::{Model, spawn};
use crate::thread::word_of;
use crate::words::Shared;
use crate::world::{Ctx, End, Ended, Name, Plan, World};

/// One party's way to a word.
struct CtlWord {
    word: Rc<Shared>,
    ctx: Rc<Ctx>,
}

impl Word for CtlWord {
    fn load(&self, o: Ordering) -> u64 {
        self.ctx.op();
        let v = self.word.load(o);
        self.ctx.trace("load", self.word.name, v);
        v
    }
    fn store(&self, v: u64, o: Ordering) {
        self.ctx.op();
        self.word.store(v, o);
        self.ctx.trace("store", self.word.name, v);
    }
    fn fetch_add(&self, _: u64, _: Ordering) -> u64 {
        unreachable!("nobody adds here")
    }
    fn compare_exchange(&self, _: u64, _: u64, _: Ordering, _: Ordering) -> Result<u64, u64> {
        unreachable!("one writer at a time")
    }
    fn local_add(&self, _: u64) {
        unreachable!("nobody adds here")
    }
}

/// The words of `ctl`, to be seen by one party.
#[derive(Clone)]
struct Ctl([Rc<Shared>; 4]);

impl Ctl {
    fn new() -> Ctl {
        Ctl([0, 1, 2, 3].map(|i| Shared::new(Name::Calibration(["seq", "ticks", "utc", "mult"][i]), 0)))
    }
    fn with<R>(&self, ctx: &Rc<Ctx>, f: impl FnOnce(&Calibration<'_, CtlWord>) -> R) -> R {
        let [seq, ticks, utc, mult] =
            [0, 1, 2, 3].map(|i| CtlWord { word: self.0[i].clone(), ctx: ctx.clone() });
        f(&Calibration { seq: &seq, ticks: &ticks, utc: &utc, mult: &mult })
    }
}

/// The `n`th line: no two lines share a word.
fn line(n: u64) -> Line {
    let w = |i| word_of((n, 0), i);
    Line { ticks: w(0), utc: w(1), mult: w(2) }
}

/// Which line was read; 0: none had been written. A mixture fails.
fn which(world: &World, found: Found) -> Option<u64> {
    match found {
        Found::Line(l) => {
            let n = (1..=LINES).find(|n| line(*n) == l);
            if n.is_none() {
                world.fail(&format!("a reader of the calibration accepts a mixture: {l:x?}"));
            }
            n
        }
        Found::Never => Some(0),
        Found::Unfinished => None,
    }
}

/// The first drain writes one or two lines, its heir another.
const LINES: u64 = 3;

/// One drain's life. Whether it was killed.
fn drain(ctl: &Ctl, ctx: &Rc<Ctx>, lines: std::ops::RangeInclusive<u64>, whole: &Cell<u64>) -> bool {
    let life = || {
        for n in lines {
            ctl.with(ctx, |c| c.write(line(n)));
            whole.set(n);
        }
    };
    match catch_unwind(AssertUnwindSafe(life)) {
        Ok(()) => false,
        Err(e) => match e.downcast::<Ended>() {
            Ok(_) => true,
            Err(e) => resume_unwind(e),
        },
    }
}

fn execute(name: &'static str, k: u32, heir: bool, reached: Arc<[AtomicU32; 4]>) {
    let variant = format!("the drain is killed at {k}, {} heir", if heir { "an" } else { "no" });
    let world = World::new(name, variant, reached);
    let ctl = Ctl::new();
    let plan = Plan { end: Some((k, End::Drain)), handlers: vec![] };
    let d = Ctx::new(&world, 'D', 0, plan, true);
    let s = Ctx::new(&world, 'S', 1, Plan::default(), true);
    let o = Ctx::new(&world, 'O', 2, Plan::default(), true);
    let whole = Rc::new(Cell::new(0));
    let writer = {
        let (ctl, whole) = (ctl.clone(), whole.clone());
        // The heir has the lock that the dead drain had: it begins behind its end.
        spawn(move || {
            drain(&ctl, &d, if heir { 2..=2 } else { 1..=2 }, &whole);
            if heir {
                drain(&ctl, &s, 3..=3, &whole);
            }
        })
    };
    let reader = {
        let (ctl, o, world) = (ctl.clone(), o.clone(), world.clone());
        spawn(move || {
            let mut last = 0;
            for _ in 0..2 {
                if let Some(n) = which(&world, ctl.with(&o, |c| c.read(1))) {
                    world.check(n >= last, || format!("a reader sees calibration {n} after {last}"));
                    last = n;
                }
            }
        })
    };
    writer.join().expect("joined");
    reader.join().expect("joined");
    // What stands there for good.
    let odd = ctl.0[0].now() & 1 == 1;
    world.check(!heir || !odd, || "the next drain left the calibration unfinished".into());
    let expected = if odd { None } else { Some(whole.get()) };
    let found = which(&world, ctl.with(&o, |c| c.read(2)));
    world.check(found == expected, || {
        format!("in the end a reader finds {found:?}, written was {expected:?}")
    });
}

/// The model: the first drain killed at every operation, with and without another one after it.
pub fn calibration(m: &Model) {
    for heir in [true, false] {
        for k in 1.. {
            let name = m.name;
            if m.check(move |reached| execute(name, k, heir, reached))[0] < k {
                break;
            }
        }
    }
}
