//! When a record is from: now, or when its caller says.

use super::attach;
use crate::layout::{ctl, ring};
use crate::sync::Ordering::Acquire;
use crate::sys;
use std::time::SystemTime;

/// A time that the caller of a log call says (`at:`).
///
/// The drain emits a record with this time, with two limits: one in the future is cut to the drain's now,
/// and within one thread time never steps back, so that a record with an earlier time than the one before it
/// gets that one's. The raw time is kept in the journal beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// A reading of this process's own clock ([`Time::now`]), taken over as it is.
    Ticks(u64),
    /// UTC, ns since the epoch. It is turned into ticks by its distance from now, so it is as exact as the rate
    /// of the processor's counter is known: some parts in a million once a drain has measured it for seconds,
    /// before that, where the processor does not tell, as exact as it can be measured since `init`: parts in a
    /// thousand after a millisecond.
    Utc(i64),
}

impl Time {
    /// Now, by the clock of this process's ring: some ns. Async-signal-safe.
    #[inline]
    pub fn now() -> Time {
        Time::Ticks(attach::now())
    }

    /// In ticks of the ring's clock. 0 would be "none".
    pub(super) fn ticks(self) -> u64 {
        let ticks = match self {
            Time::Ticks(t) => t,
            Time::Utc(utc) => {
                let (now, here) = sys::time::both(attach::now, sys::time::utc_ns);
                let here = here as i64;
                let ago = i128::from(here) - i128::from(utc);
                (i128::from(now) - ticks_in(ago, now, here)).clamp(1, i128::from(i64::MAX)) as u64
            }
        };
        ticks.max(1)
    }
}

/// Ticks that pass in so many ns: as the drain has measured it, else as the processor tells, else as they have
/// passed since this ring was made.
fn ticks_in(ns: i128, now: u64, utc: i64) -> i128 {
    // ns per tick, 2^-32 fixed point.
    let measured = if attach::ticks_are_tsc() { attach::ctl_word(ctl::CAL_MULT) } else { 0 };
    if measured != 0 {
        return ns.saturating_mul(1 << 32) / i128::from(measured);
    }
    let Some(ring) = attach::usable() else { return 0 };
    let word = |at| ring.word(at).load(Acquire);
    match word(ring::TICK_HZ) {
        0 => {
            let ticks = i128::from(now) - i128::from(word(ring::ANCHOR_TICKS));
            let took = (i128::from(utc) - i128::from(word(ring::ANCHOR_UTC))).max(1);
            ns.saturating_mul(ticks) / took
        }
        hz => ns.saturating_mul(i128::from(hz)) / 1_000_000_000,
    }
}

impl From<SystemTime> for Time {
    fn from(t: SystemTime) -> Time {
        let ns = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        Time::Utc(match t.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(d) => ns(d),
            Err(e) => -ns(e.duration()),
        })
    }
}

/// A record's timestamp, or that there is none and now is meant.
pub(super) trait Stamp: Copy {
    /// It, in ticks.
    fn get(&self) -> u64;
}

/// When it is asked for: now.
#[derive(Clone, Copy)]
pub(super) struct Now;

impl Stamp for Now {
    #[inline(always)]
    fn get(&self) -> u64 {
        attach::now()
    }
}

/// The same, where the clock is known to be a usual one ([`attach::usual`]).
#[derive(Clone, Copy)]
pub(super) struct Usual;

impl Stamp for Usual {
    #[inline(always)]
    fn get(&self) -> u64 {
        attach::usual_now()
    }
}

/// Ticks.
#[derive(Clone, Copy)]
pub(super) struct At(pub u64);

impl Stamp for At {
    #[inline(always)]
    fn get(&self) -> u64 {
        self.0
    }
}

/// Ticks, or 0: now.
#[derive(Clone, Copy)]
pub(super) struct Given(pub u64);

impl Stamp for Given {
    #[inline(always)]
    fn get(&self) -> u64 {
        if self.0 == 0 { attach::now() } else { self.0 }
    }
}
