//! What the drain does when nothing comes.

use super::Progress;
use crate::env::Idle;
use crate::layout::ctl;
use crate::sync::Ordering::*;
use crate::sys::{self, Map, time::monotonic_ns};
use std::time::Duration;

/// Empty passes that an adaptive drain spins through before it sleeps.
const SPINS: u32 = 200;
const SHORTEST: Duration = Duration::from_micros(50);
/// The longest sleep of an adaptive drain, and when nothing has come for [`STILL_NS`]. A sleep costs about 30 us
/// of processor time on a virtual machine, whatever is done in between: 100 of them a second are 0.3 % of a core.
const LONGEST: Duration = Duration::from_millis(10);
const LONGEST_STILL: Duration = Duration::from_millis(50);
const STILL_NS: u64 = 1_000_000_000;
/// The longest sleep of a parked drain: the bound on a wake that was missed, since it came between the
/// last look and the sleep. (A writer cannot change the word that the sleep would notice: it is the drain's.)
const PARKED: Duration = Duration::from_millis(50);
/// The same while something waits for its grace; and the sleep of a drain that cannot park.
const SHORT: Duration = Duration::from_millis(1);

/// What a drain that sleeps can do without a pass.
pub(super) struct Rest<'a> {
    pub ctl: &'a Map,
    /// Sleeps. True: something else than a record is there to look at.
    pub wait: &'a dyn Fn(Duration) -> bool,
    /// Whether a pass would find something.
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
}

impl Idler {
    pub fn new(policy: Idle) -> Self {
        Idler { policy, empty: 0, pause: SHORTEST, came: monotonic_ns() }
    }

    /// After a pass. Answers what people should know.
    pub fn after(&mut self, p: &Progress, rest: &Rest<'_>) -> Option<String> {
        if p.read > 0 || p.written > 0 || (p.more && !p.stuck) {
            self.empty = 0;
            self.pause = SHORTEST;
            if matches!(self.policy, Idle::Sleep(_)) && !p.more {
                self.sleep(p, rest);
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

    fn sleep(&mut self, p: &Progress, rest: &Rest<'_>) {
        let until = monotonic_ns() + rest.on_ns;
        loop {
            let pause = match self.policy {
                Idle::Sleep(d) => d,
                // What waits for its grace is due soon.
                _ if p.waiting => self.pause.min(SHORT),
                _ => self.pause,
            };
            let woken = (rest.wait)(pause);
            let now = monotonic_ns();
            let still = now.saturating_sub(self.came) >= STILL_NS;
            self.pause = (self.pause * 2).min(if still { LONGEST_STILL } else { LONGEST });
            if woken || now >= until || (rest.news)() {
                return;
            }
            looked(rest.ctl);
        }
    }

    fn park(&mut self, p: &Progress, rest: &Rest<'_>) -> Option<String> {
        let until = monotonic_ns() + rest.on_ns;
        let word = rest.ctl.word32(ctl::SLEEP);
        loop {
            // Odd = asleep; a drain that was killed in its sleep has left it odd.
            let asleep = (word.load(Relaxed) | 1).wrapping_add(2);
            word.store(asleep, SeqCst);
            // The other half of the pair: a writer's store of its tail and its load of this word are
            // ordered by a compiler fence only. After this, either it sees the word or we see its tail.
            let paired = sys::thread::membarrier();
            if paired.is_ok() && !(rest.news)() {
                sys::thread::futex_wait(word, asleep, if p.waiting { SHORT } else { PARKED });
            }
            word.store(asleep.wrapping_add(1), SeqCst);
            if let Err(e) = paired {
                // No wake can be relied on, so nobody shall pay for one: the word stays even from here.
                self.policy = Idle::Sleep(SHORT);
                self.sleep(p, rest);
                return Some(format!(
                    "SPILLRING_IDLE=park: there is no expedited membarrier here ({e}): the drain looks every \
                     {} ms instead, and no writer wakes it",
                    SHORT.as_millis()
                ));
            }
            if monotonic_ns() >= until || (rest.wait)(Duration::ZERO) || (rest.news)() {
                return None;
            }
            looked(rest.ctl);
        }
    }
}

/// A look that finds nothing counts as a pass: who waits for one waits for this.
fn looked(ctl: &Map) {
    ctl.word(ctl::PASSES).fetch_add(1, Relaxed);
}
