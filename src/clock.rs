//! From a ring's ticks to UTC.
//!
//! Writers never calibrate: the drain does, once a second, from a pair (ticks, CLOCK_REALTIME) read
//! together. It follows the kernel's clock by slewing its own rate, so that a small correction of NTP
//! never makes time step; a step of the kernel's clock (more than [`STEP`]) is taken over at once.

use crate::sys;

/// An error larger than this is a step of the kernel's clock, ns.
pub const STEP: i64 = 500_000_000;
/// Seconds over which a smaller one is made good.
const SLEW: f64 = 4.0;
const WINDOW: u64 = 1_000_000_000;

/// A pair of ticks and UTC that belong together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Ticks.
    pub ticks: u64,
    /// UTC, ns since the epoch.
    pub utc: i64,
}

impl Pair {
    /// Read now: UTC between two readings of the ticks, the tightest of a few.
    pub fn now(ticks: impl Fn() -> u64) -> Pair {
        let (ticks, utc) = sys::time::both(ticks, sys::time::utc_ns);
        Pair { ticks, utc: utc as i64 }
    }
}

/// The line from ticks to UTC.
#[derive(Clone, Debug)]
pub struct Calibration {
    at: Pair,
    ns_per_tick: f64,
    /// Where the present measurement of the rate began.
    since: Pair,
    rate: f64,
    /// The first pair: what is older is read on the line from the ring's own anchor to it.
    first: Pair,
}

impl Calibration {
    /// Starts at `now`; `hz` as the kernel or an earlier measurement tells it.
    pub fn new(now: Pair, hz: u64) -> Self {
        let rate = 1e9 / hz.max(1) as f64;
        Calibration { at: now, ns_per_tick: rate, since: now, rate, first: now }
    }

    /// UTC of `ticks`, ns.
    pub fn utc(&self, ticks: u64) -> i64 {
        let d = ticks.wrapping_sub(self.at.ticks) as i64;
        self.at.utc.saturating_add((d as f64 * self.ns_per_tick) as i64)
    }

    /// UTC of ticks of a ring whose own anchor is `anchor`. What lies before the drain's start is read
    /// between the two anchors, whatever the clock did in between.
    pub fn utc_of_ring(&self, ticks: u64, anchor: Pair) -> i64 {
        let before = anchor.ticks.wrapping_sub(ticks) as i64;
        if before > 0 && (self.first.ticks.wrapping_sub(anchor.ticks) as i64) > 0 {
            // Older than the ring: its caller said so. The two anchors may lie close together, so what lies
            // before both of them is read by the rate.
            return anchor.utc.saturating_sub((before as f64 * self.rate) as i64);
        }
        if (ticks.wrapping_sub(self.first.ticks) as i64) < 0 {
            let (dt, du) = (
                self.first.ticks.wrapping_sub(anchor.ticks) as i64,
                self.first.utc.saturating_sub(anchor.utc),
            );
            if dt > 0 && du > 0 {
                let part = ticks.wrapping_sub(anchor.ticks) as i64 as f64 / dt as f64;
                return anchor.utc.saturating_add((part * du as f64) as i64);
            }
        }
        self.utc(ticks)
    }

    /// The straight part of [`utc_of_ring`](Self::utc_of_ring) around now, for many ticks of one ring.
    pub fn straight(&self, anchor: Pair) -> Straight {
        let later = |a: u64, b: u64| if (a.wrapping_sub(b) as i64) > 0 { a } else { b };
        let first = later(self.first.ticks, anchor.ticks);
        let from = later(first, self.at.ticks.wrapping_sub(Straight::REACH / 2));
        let mult = (self.ns_per_tick * Straight::ONE) as i64;
        Straight { from, reach: Straight::REACH, at: self.at, mult }
    }

    /// Takes a new pair over: at least a second after the last one, else it does nothing. True: it did.
    pub fn adjust(&mut self, now: Pair) -> bool {
        let passed = now.utc.saturating_sub(self.at.utc);
        if passed.unsigned_abs() < WINDOW {
            return false;
        }
        let here = self.utc(now.ticks);
        let error = now.utc.saturating_sub(here);
        if error.abs() > STEP {
            *self = Calibration {
                at: now,
                ns_per_tick: self.rate,
                since: now,
                rate: self.rate,
                first: self.first,
            };
            return true;
        }
        let ticks = now.ticks.wrapping_sub(self.since.ticks) as i64;
        if ticks > 0 {
            self.rate = now.utc.saturating_sub(self.since.utc) as f64 / ticks as f64;
        }
        // A long baseline measures best, but must follow a change of the rate: a minute.
        if now.utc.saturating_sub(self.since.utc) > 60 * WINDOW as i64 {
            self.since = now;
        }
        self.at = Pair { ticks: now.ticks, utc: here };
        // Never backwards, however large the error: at least half the rate.
        let slew = (error as f64 / (SLEW * 1e9)).clamp(-0.5, 0.5);
        self.ns_per_tick = self.rate * (1.0 + slew);
        true
    }

    /// ns per tick, and the pair it counts from.
    pub fn line(&self) -> (Pair, f64) {
        (self.at, self.ns_per_tick)
    }
}

/// Where a ring's ticks are UTC by one multiplication of integers: to a nanosecond near its pair, to a few at its
/// ends.
#[derive(Clone, Copy, Debug)]
pub struct Straight {
    from: u64,
    /// Ticks it holds for.
    reach: u64,
    at: Pair,
    mult: i64,
}

impl Straight {
    /// Seconds. What is further off is seldom, and rounding grows with the distance.
    const REACH: u64 = 1 << 34;
    const ONE: f64 = 4_294_967_296.0;
    /// Holds for no ticks.
    pub const NOWHERE: Straight = Straight { from: 0, reach: 0, at: Pair { ticks: 0, utc: 0 }, mult: 0 };

    /// UTC of `ticks`, ns. None: ask [`Calibration::utc_of_ring`].
    #[inline]
    pub fn utc(&self, ticks: u64) -> Option<i64> {
        let d = ticks.wrapping_sub(self.at.ticks) as i64;
        let ns = (i128::from(d) * i128::from(self.mult)) >> 32;
        (ticks.wrapping_sub(self.from) < self.reach).then(|| self.at.utc.wrapping_add(ns as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_a_slow_drift_without_a_step() {
        // A counter of 2 GHz that runs 50 ppm fast, and a told frequency that does not know.
        let utc_at = |s: f64| Pair { ticks: (s * 2.0001e9) as u64, utc: (s * 1e9) as i64 };
        let mut c = Calibration::new(utc_at(0.0), 2_000_000_000);
        let mut last = i64::MIN;
        for ms in 0..60_000u64 {
            let p = utc_at(ms as f64 / 1e3);
            let before = c.utc(p.ticks);
            if c.adjust(p) {
                assert!((c.utc(p.ticks) - before).abs() <= 1, "a step at {ms} ms");
            }
            assert!(c.utc(p.ticks) >= last);
            last = c.utc(p.ticks);
        }
        let p = utc_at(60.0);
        assert!((c.utc(p.ticks) - p.utc).abs() < 50_000, "{}", c.utc(p.ticks) - p.utc);
    }

    #[test]
    fn takes_over_a_step_and_reads_old_records_by_their_own_anchor() {
        let mut c = Calibration::new(Pair { ticks: 1_000_000_000, utc: 1_000_000_000 }, 1_000_000_000);
        assert!(c.adjust(Pair { ticks: 3_000_000_000, utc: 13_000_000_000 }));
        assert_eq!(c.utc(3_000_000_000), 13_000_000_000);
        let all = [0, 999_999_999, 1_000_000_000, 2_000_000_000, 3_000_000_001, 9_000_000_000, u64::MAX / 2];
        for ticks in all {
            for anchor in [0, 999_999_999, 1_000_000_000, 1_500_000_000] {
                let anchor = Pair { ticks: anchor, utc: anchor as i64 };
                let straight = c.straight(anchor).utc(ticks);
                assert!(straight.is_none_or(|t| t.abs_diff(c.utc_of_ring(ticks, anchor)) <= 1));
                let far = ticks < anchor.ticks.max(1_000_000_000) || ticks == u64::MAX / 2;
                assert_eq!(straight.is_none(), far, "{ticks} {anchor:?}");
            }
        }
        let anchor = Pair { ticks: 0, utc: 500_000_000 };
        assert_eq!(c.utc_of_ring(500_000_000, anchor), 750_000_000);
        assert_eq!(c.utc_of_ring(0, anchor), anchor.utc);
        // Older than the ring.
        let anchor = Pair { ticks: 999_999_990, utc: 999_000_000 };
        assert_eq!(c.utc_of_ring(499_999_990, anchor), 499_000_000);
    }
}
