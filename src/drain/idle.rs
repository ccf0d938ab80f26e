//! What the drain does when nothing comes.

use super::Progress;
use crate::env::Idle;
use crate::layout::ctl;
use crate::sync::{AtomicU32, Ordering::*, fence};
use crate::sys::{self, Map, time::monotonic_ns};
use std::time::Duration;

/// Empty passes that an adaptive drain spins through before it sleeps.
const SPINS: u32 = 200;
const SHORTEST: Duration = Duration::from_micros(50);
/// Between two looks in a row that find something, at least, ns. A drain that follows the records closely takes the
/// lines from the writer's processor that it has just asked for (its own asks ahead for what it reads in a row): calls
/// of 20 ns became 31, with a drain that spins 40. A record after a pause is met by a drain that looks all the time.
const GATHER_NS: u64 = 5_000;
/// The longest sleep of an adaptive drain, and when nothing has come for [`STILL_NS`]. A sleep costs about 30 us
/// of processor time on a virtual machine, whatever is done in between: 100 of them a second are 0.3 % of a core.
const LONGEST: Duration = Duration::from_millis(10);
const LONGEST_STILL: Duration = Duration::from_millis(80);
const STILL_NS: u64 = 1_000_000_000;
/// The longest sleep of a parked drain: the bound on a wake that was missed, since it came between the
/// last look and the sleep. (A writer cannot change the word that the sleep would notice: it is the drain's.)
const PARKED: Duration = Duration::from_millis(50);
/// The same while something waits for its grace; and the sleep of a drain that cannot park.
const SHORT: Duration = Duration::from_millis(1);

/// What a drain that sleeps can do without a pass.
pub(super) struct Rest<'a> {
    pub ctl: &'a Map,
    /// Whether something else than a record is there to look at.
    pub told: &'a dyn Fn() -> bool,
    /// Whether somebody waits for a pass.
    pub asked: &'a dyn Fn() -> bool,
    /// Whether a pass would find something, or somebody waits for one.
    pub news: &'a dyn Fn() -> bool,
    /// How long it may sleep on while there are no news, ns; 0: a pass is to follow each sleep.
    pub on_ns: u64,
}

pub(super) struct Idler {
    policy: Idle,
    empty: u32,
    pause: Duration,
    /// When something came last (monotonic ns).
    came: u64,
    /// When the pass began that followed the last find (monotonic ns).
    began: u64,
}

impl Idler {
    pub fn new(policy: Idle) -> Self {
        Idler { policy, empty: 0, pause: SHORTEST, came: monotonic_ns(), began: 0 }
    }

    /// After a pass. Answers what people should know.
    pub fn after(&mut self, p: &Progress, rest: &Rest<'_>) -> Option<String> {
        if p.read > 0 || p.written > 0 || (p.more && !p.stuck) {
            self.empty = 0;
            self.pause = SHORTEST;
            match self.policy {
                Idle::Sleep(_) if !p.more => self.sleep(p, rest),
                _ => self.gather(p),
            }
            return None;
        }
        if self.empty == 0 {
            self.came = monotonic_ns();
        }
        self.empty = self.empty.saturating_add(1);
        match self.policy {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Yield => std::thread::yield_now(),
            Idle::Adaptive | Idle::Park if self.empty < SPINS && !p.stuck => std::hint::spin_loop(),
            Idle::Sleep(_) | Idle::Adaptive => self.sleep(p, rest),
            Idle::Park => return self.park(p, rest),
        }
        None
    }

    /// Lets some records come together, unless the pass took long enough for that, or has left some.
    fn gather(&mut self, p: &Progress) {
        let mut now = monotonic_ns();
        while !p.more && now < self.began + GATHER_NS {
            match self.policy {
                Idle::Yield => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
            now = monotonic_ns();
        }
        self.began = now;
    }

    fn sleep(&mut self, p: &Progress, rest: &Rest<'_>) {
        let until = monotonic_ns() + rest.on_ns;
        loop {
            let pause = match self.policy {
                Idle::Sleep(d) => d,
                // What waits for its grace is due soon.
                _ if p.waiting => self.pause.min(SHORT),
                _ => self.pause,
            };
            let asleep = Asleep::new(rest.ctl, ctl::SLEEPS);
            // The other half of the pair: who waits for us (a flush, the end) has told so before it looks at the
            // word.
            fence(SeqCst);
            // Records do not keep a drain awake that is to sleep so long between looks.
            let up = if matches!(self.policy, Idle::Sleep(_)) { rest.asked } else { rest.news };
            if up() {
                return;
            }
            asleep.wait(pause);
            drop(asleep);
            let now = monotonic_ns();
            let still = now.saturating_sub(self.came) >= STILL_NS;
            self.pause = (self.pause * 2).min(if still { LONGEST_STILL } else { LONGEST });
            if (rest.told)() || now >= until || (rest.news)() {
                return;
            }
            looked(rest.ctl);
        }
    }

    fn park(&mut self, p: &Progress, rest: &Rest<'_>) -> Option<String> {
        let until = monotonic_ns() + rest.on_ns;
        loop {
            let asleep = Asleep::new(rest.ctl, ctl::PARKS);
            // The other half of the pair: a writer's store of its tail and its load of this word are
            // ordered by a compiler fence only. After this, either it sees the word or we see its tail.
            let paired = sys::thread::membarrier();
            if paired.is_ok() && !(rest.news)() {
                asleep.wait(if p.waiting { SHORT } else { PARKED });
            }
            drop(asleep);
            if let Err(e) = paired {
                // No wake can be relied on, so nobody shall pay for one: no logging call wakes a drain that sleeps.
                self.policy = Idle::Sleep(SHORT);
                self.sleep(p, rest);
                return Some(format!(
                    "SPILLRING_IDLE=park: there is no expedited membarrier here ({e}): the drain looks every \
                     {} ms instead, and no writer wakes it",
                    SHORT.as_millis()
                ));
            }
            if monotonic_ns() >= until || (rest.told)() || (rest.news)() {
                return None;
            }
            looked(rest.ctl);
        }
    }
}

/// The drain's sleep word says that it sleeps, until this is dropped.
struct Asleep<'a> {
    word: &'a AtomicU32,
    said: u32,
}

impl<'a> Asleep<'a> {
    fn new(ctl: &'a Map, how: u32) -> Asleep<'a> {
        let word = ctl.word32(ctl::SLEEP);
        // A drain that was killed in its sleep has left its bits there.
        let said = ((word.load(Relaxed) & !(ctl::A_SLEEP - 1)) | how).wrapping_add(ctl::A_SLEEP);
        word.store(said, SeqCst);
        Asleep { word, said }
    }
    fn wait(&self, time: Duration) {
        sys::thread::futex_wait(self.word, self.said, time);
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.word.store(self.said & !(ctl::A_SLEEP - 1), SeqCst);
    }
}

/// A look that finds nothing counts as a pass: who waits for one waits for this.
fn looked(ctl: &Map) {
    ctl.word(ctl::PASSES).fetch_add(1, Relaxed);
}
