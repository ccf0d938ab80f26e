//! A log call against its floor, in one thread, burst by burst.

use super::floor::FloorLane;
use super::pairs::{Pairs, median, percentile};
use spillring::sys::thread::nanosleep;
use spillring::sys::time::{measured_hz, ticks};
use std::hint::black_box;
use std::time::Duration;

/// The string of the records: 35 characters.
pub const TEXT: &str = "a string of thirty-five characters.";
const _: () = assert!(TEXT.len() == 35);

/// Logs (i32, f64, text).
#[inline(never)]
pub fn our_text(a: i32, b: f64, s: &str) {
    spillring::info!("{} {} {}", a, b, s);
}

/// Ticks a nanosecond.
pub fn ticks_per_ns() -> f64 {
    measured_hz(Duration::from_millis(20)) / 1e9
}

/// The smallest step that was seen of the clock, ns.
pub fn tick_step(per_ns: f64) -> f64 {
    let mut least = u64::MAX;
    let mut last = ticks();
    for _ in 0..10_000 {
        let t = ticks();
        if t != last {
            least = least.min(t.wrapping_sub(last));
        }
        last = t;
    }
    least as f64 / per_ns
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pairs.
    pub pairs: usize,
    /// Bursts a pair and side.
    pub bursts: usize,
    /// Calls a burst.
    pub calls: u64,
    /// Sleep between bursts, us; 0 = none but to let the drain come along.
    pub apart: u64,
}

/// The mean of each burst, ns a call; a pair is the medians of its bursts. The sides take turns in being the
/// first.
pub fn means(
    size: Size,
    bytes: u64,
    lane: &FloorLane<'_>,
    mut ours: impl FnMut(u64),
    mut floor: impl FnMut(u64),
) -> Pairs {
    let per_ns = ticks_per_ns();
    let mut pairs = Pairs::default();
    for _ in 0..size.pairs {
        let (mut a, mut b) = (Vec::with_capacity(size.bursts), Vec::with_capacity(size.bursts));
        for i in 0..size.bursts {
            settle(lane, bytes * size.calls);
            for which in [i % 2, (i + 1) % 2] {
                if size.apart > 0 {
                    nanosleep(Duration::from_micros(size.apart));
                }
                let t = ticks();
                if which == 0 {
                    (0..size.calls).for_each(&mut ours);
                } else {
                    (0..size.calls).for_each(&mut floor);
                }
                let mean = (ticks() - t) as f64 / size.calls as f64 / per_ns;
                if which == 0 { a.push(mean) } else { b.push(mean) }
            }
        }
        pairs.0.push((median(a), median(b)));
    }
    pairs
}

/// Each call by itself, ns; a pair is the percentiles `p` of all calls of its bursts.
pub fn tails(
    size: Size,
    bytes: u64,
    p: f64,
    lane: &FloorLane<'_>,
    mut ours: impl FnMut(u64),
    mut floor: impl FnMut(u64),
) -> Pairs {
    let per_ns = ticks_per_ns();
    let mut pairs = Pairs::default();
    for _ in 0..size.pairs {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        a.reserve(size.bursts * size.calls as usize);
        b.reserve(size.bursts * size.calls as usize);
        for i in 0..size.bursts {
            for which in [i % 2, (i + 1) % 2] {
                settle(lane, bytes * size.calls);
                nanosleep(Duration::from_micros(size.apart));
                for n in 0..size.calls {
                    let t = ticks();
                    if which == 0 {
                        ours(n)
                    } else {
                        floor(n)
                    }
                    let d = ticks().wrapping_sub(t) as f64 / per_ns;
                    if which == 0 { a.push(d) } else { b.push(d) }
                }
            }
        }
        pairs.0.push((percentile(&mut a, p), percentile(&mut b, p)));
    }
    pairs
}

/// Until there is room for the next burst, and the drain is not far behind. Both sides have written the same
/// number of bytes to the same drain, so this goes for our lane too, which is as large.
fn settle(lane: &FloorLane<'_>, bytes: u64) {
    while !lane.ready(bytes) || lane.pending() > lane.capacity() / 4 {
        nanosleep(Duration::from_micros(100));
    }
}

/// Logs three integers.
#[inline(never)]
pub fn our_ints(a: u64, b: u32, c: i32) {
    spillring::info!("{} {} {}", a, b, c);
}

/// The two sides for records of three integers.
pub fn int_sides<'a>(lane: &'a FloorLane<'a>) -> (impl FnMut(u64), impl FnMut(u64) + 'a) {
    (|i: u64| our_ints(black_box(i), 7, black_box(-3)), |i: u64| lane.ints(black_box(i), 7, black_box(-3)))
}

/// The two sides for records of (i32, f64, text).
pub fn text_sides<'a>(lane: &'a FloorLane<'a>) -> (impl FnMut(u64), impl FnMut(u64) + 'a) {
    (
        |i: u64| our_text(black_box(i as i32), 0.5, black_box(TEXT)),
        |i: u64| lane.text(black_box(i as i32), 0.5, black_box(TEXT)),
    )
}
