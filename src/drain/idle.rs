//! What the drain does when nothing comes.

use super::Progress;
use crate::env::Idle;
use crate::layout::ctl;
use crate::sync::Ordering::*;
use crate::sys::{self, Map};
use std::time::Duration;

/// Empty passes that an adaptive drain spins through before it sleeps.
const SPINS: u32 = 200;
const SHORTEST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(10);
/// The longest sleep of a parked drain: the bound on a wake that was missed, since it came between the
/// last look and the sleep. (A writer cannot change the word that the sleep would notice: it is the drain's.)
const PARKED: Duration = Duration::from_millis(50);
/// The same while something waits for its grace; and the sleep of a drain that cannot park.
const SHORT: Duration = Duration::from_millis(1);

pub(super) struct Idler {
    policy: Idle,
    empty: u32,
    pause: Duration,
}

impl Idler {
    pub fn new(policy: Idle) -> Self {
        Idler { policy, empty: 0, pause: SHORTEST }
    }

    /// After a pass. `news` looks once more, after a writer could have seen that the drain sleeps. Answers
    /// what people should know.
    pub fn after(&mut self, p: &Progress, ctl: &Map, news: impl Fn() -> bool) -> Option<String> {
        if p.read > 0 || p.written > 0 || (p.more && !p.stuck) {
            self.empty = 0;
            self.pause = SHORTEST;
            if matches!(self.policy, Idle::Sleep(_)) && !p.more {
                self.sleep(p);
            }
            return None;
        }
        self.empty = self.empty.saturating_add(1);
        match self.policy {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Yield => std::thread::yield_now(),
            Idle::Sleep(_) => self.sleep(p),
            Idle::Adaptive if self.empty < SPINS && !p.stuck => std::hint::spin_loop(),
            Idle::Adaptive => self.sleep(p),
            Idle::Park => {
                if self.empty < SPINS && !p.stuck {
                    std::hint::spin_loop();
                    return None;
                }
                let word = ctl.word32(ctl::SLEEP);
                // Odd = asleep; a drain that was killed in its sleep has left it odd.
                let asleep = (word.load(Relaxed) | 1).wrapping_add(2);
                word.store(asleep, SeqCst);
                // The other half of the pair: a writer's store of its tail and its load of this word are
                // ordered by a compiler fence only. After this, either it sees the word or we see its tail.
                let paired = sys::thread::membarrier();
                if paired.is_ok() && !news() {
                    sys::thread::futex_wait(word, asleep, if p.waiting { SHORT } else { PARKED });
                }
                word.store(asleep.wrapping_add(1), SeqCst);
                if let Err(e) = paired {
                    // No wake can be relied on, so nobody shall pay for one: the word stays even from here.
                    self.policy = Idle::Sleep(SHORT);
                    self.sleep(p);
                    return Some(format!(
                        "SPILLRING_IDLE=park: there is no expedited membarrier here ({e}): the drain looks every \
                         {} ms instead, and no writer wakes it",
                        SHORT.as_millis()
                    ));
                }
            }
        }
        None
    }

    fn sleep(&mut self, p: &Progress) {
        let pause = match self.policy {
            Idle::Sleep(d) => d,
            // What waits for its grace is due soon.
            _ if p.waiting => self.pause.min(SHORT),
            _ => self.pause,
        };
        sys::thread::nanosleep(pause);
        self.pause = (self.pause * 2).min(LONGEST);
    }
}
