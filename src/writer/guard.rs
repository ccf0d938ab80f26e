//! The life of a program's logging: `init`, `flush`, and the guard between them.

use super::attach::{self, CLOCK_MONOTONIC, CLOCK_TICK, CLOCK_TSC, Config, Memory};
use super::sinks;
use crate::channel::{Channel, Role};
use crate::env::{Clock, Idle, Problem, Settings, name};
use crate::error::{Code, Error, Result};
use crate::lane::shared;
use crate::lane::thread::written_count;
use crate::layout::ring::{self, Geometry, ack, lane, word};
use crate::record::set_filter;
use crate::sync::Ordering::*;
use crate::sys;
use std::time::{Duration, Instant};

/// Says that this process logs. Dropping it flushes, for as long as a drain makes progress and at most
/// [`Guard::DROP_TIMEOUT`]; without it nothing is lost either: the memory outlives the process.
#[derive(Debug)]
#[must_use = "dropping the guard flushes; bind it to a name"]
pub struct Guard {
    problems: Vec<Problem>,
}

impl Guard {
    /// How long dropping it waits at most.
    pub const DROP_TIMEOUT: Duration = Duration::from_secs(2);

    pub(crate) fn with_problems(mut self, problems: Vec<Problem>) -> Guard {
        self.problems.splice(0..0, problems);
        self
    }

    /// Values of the environment that were not taken, and what was used instead.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        settle();
    }
}

/// Flushes, if a drain is there. Else there is nobody to wait for: the next drain of the channel finds the ring.
pub(crate) fn settle() {
    if drain_present() {
        let _ = journaled("flush", Guard::DROP_TIMEOUT);
    }
}

/// Whether a drain has taken this process's channel. Async-signal-safe.
pub fn drain_present() -> bool {
    attach::ctl_word(crate::layout::ctl::DRAIN) != 0
}

/// Attaches this process to its channel, as the environment says. What is wrong with the environment is
/// reported once on stderr and never stops the program.
///
/// Not async-signal-safe; call it once, early. May block on the directory.
///
/// # Errors
/// No ring can be made ([`Code::NoSpace`], [`Code::Permission`], ...). Log calls are then counted
/// ([`super::status`]) and go nowhere; the program runs on.
pub fn init() -> Result<Guard> {
    let (settings, problems) = Settings::from_env();
    for p in &problems {
        eprintln!("spillring: {p}");
    }
    Ok(init_with(&settings)?.with_problems(problems))
}

/// As [`init`], with settings of the program's own. A second call in one process keeps the first one's
/// settings.
pub fn init_with(settings: &Settings) -> Result<Guard> {
    set_filter(&settings.level);
    if attach::configured() {
        attach::clear_failure();
    } else {
        let channel = Channel::create_or_open(&settings.channel_dir(), true, Role::Producer)?;
        if let Some(w) = channel.warning() {
            eprintln!("spillring: {w}");
        }
        let (paths, ctl) = channel.into_paths_and_ctl();
        let clock = match settings.clock {
            Clock::Auto if sys::time::ticks_invariant() => CLOCK_TSC,
            Clock::Tsc => CLOCK_TSC,
            Clock::Auto | Clock::Monotonic => CLOCK_MONOTONIC,
            Clock::Tick => CLOCK_TICK,
        };
        attach::configure(
            Config {
                paths,
                geometry: Geometry {
                    lanes: settings.lanes,
                    slots: ring::MAX_SLOTS,
                    granules: 1024,
                    lane_stride: settings.lane_bytes,
                    arena: ring::ARENA,
                },
                lane_bytes: settings.lane_bytes,
                policy: attach::policy(settings.overflow),
                spill_quota: settings.spill_quota,
                clock,
                wakes: settings.idle == Idle::Park,
                memory: Memory { lock: settings.lock, huge: settings.huge, prefault: settings.prefault },
            },
            ctl.leak().as_ptr(),
        );
    }
    if !attach::attached() {
        attach::attach().map_err(|e| match attach::channel_paths() {
            Some(p) => e.widen(p),
            None => Error::os("attaching", e.errno.into()),
        })?;
    }
    let problems = refused_memory();
    for p in &problems {
        eprintln!("spillring: {p}");
    }
    Ok(Guard { problems })
}

/// What was asked for this ring's memory and could not be had.
fn refused_memory() -> Vec<Problem> {
    let Some(ring) = attach::usable() else { return Vec::new() };
    let what = [
        (name::LOCK, "the shared memory is not locked in RAM", "raise the limit (ulimit -l, LimitMEMLOCK=)"),
        (name::HUGE, "there are no huge pages for the shared memory", "mount the tmpfs with huge=advise"),
        (
            name::PREFAULT,
            "the lanes are not allocated at once but when they are needed",
            "make room in the shared memory, or take fewer or smaller lanes",
        ),
    ];
    let refused = ring.refused.iter().map(|e| e.load(Relaxed)).zip(what).filter(|(e, _)| *e != 0);
    refused
        .map(|(e, (variable, what, remedy))| Problem {
            variable,
            message: format!("{variable}=yes: {what} ({}): {remedy}", sys::Errno(e)),
        })
        .collect()
}

/// Waits until every record whose call had returned, on any thread of this process, is in the journal.
///
/// In a signal handler it answers [`Code::WouldBlock`] at once (it looks at its stack, some microseconds).
///
/// # Errors
/// [`Code::Timeout`] with the number of records pending (is a drain running?);
/// [`Code::NotAttached`] without a ring; [`Code::WouldBlock`].
pub fn flush(timeout: Duration) -> Result<()> {
    if sys::handler::in_signal_handler() {
        return Err(Error::in_handler());
    }
    journaled("flush", timeout)
}

/// Waits until every record whose call had returned, on any thread of this process, is in the journal, and
/// every sink of the channel has delivered it: its cursor has passed it. Without a sink it is [`flush`].
///
/// A sink counts as long as its status stands in the channel, also one whose drain is not there: it is waited
/// for, and named. In a signal handler it answers [`Code::WouldBlock`] at once.
///
/// # Errors
/// As [`flush`]; [`Code::Timeout`] names the sinks that are behind and by how many records, and comes at once
/// where one has given up (its reader is gone, its output cannot be used).
pub fn flush_sinks(timeout: Duration) -> Result<()> {
    if sys::handler::in_signal_handler() {
        return Err(Error::in_handler());
    }
    let start = Instant::now();
    journaled("flush_sinks", timeout)?;
    let Some(paths) = attach::channel_paths() else { return Ok(()) };
    // The drain stores this before it says that the flush is done.
    let end = attach::ctl_word(crate::layout::ctl::DELIVERED);
    let mut pause = Duration::from_micros(200);
    loop {
        let behind = sinks::behind(&paths.dir().to_path(), end)?;
        if behind.is_empty() {
            return Ok(());
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() || behind.iter().any(|s| s.gave_up) {
            let each: Vec<String> = behind.iter().map(ToString::to_string).collect();
            return Err(Error::new(
                Code::Timeout,
                format!("flush_sinks: not delivered after {:?}: {}", start.elapsed(), each.join("; ")),
            ));
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// The waiting part of a flush; `what` is the name it has in errors.
fn journaled(what: &str, timeout: Duration) -> Result<()> {
    let Some(ring) = attach::usable() else {
        return Err(Error::new(
            Code::NotAttached,
            format!(
                "{what}: this process has no ring: call spillring::init first, and look at what it answered"
            ),
        ));
    };
    let mine = ring.word(word::FLUSH).fetch_add(1, AcqRel) + 1; // flush:AR, pairs with flush:A
    attach::wake_drain();
    let (start, mut pause) = (Instant::now(), Duration::from_micros(20));
    loop {
        if ring.ack_word(ack::FLUSHED).load(Acquire) >= mine {
            return Ok(());
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(1));
        // It may have fallen asleep just then.
        attach::wake_drain();
    }
    let hint = if drain_present() { "the drain is behind" } else { "no drain is running" };
    Err(Error::new(
        Code::Timeout,
        format!("{what}: {} records are not in the journal after {timeout:?}: {hint}", pending(ring)),
    ))
}

/// Records of this process that are written and not released.
fn pending(ring: &attach::Ring) -> u64 {
    let mut n = 0;
    for i in 0..ring.geometry.lanes {
        // The consumer's side first: what is delivered between the two loads must not make it negative.
        let done = ring.ack_word(ack::lane(i) + ack::COUNT).load(Acquire);
        if ring.lane_word(i, lane::CAPACITY).load(Acquire) == 0 {
            continue;
        }
        let tail = ring.lane_word(i, lane::TAIL).load(Acquire);
        let written = written_count(ring.lane_word(i, lane::WRITTEN).load(Acquire), tail);
        n += written.saturating_sub(done);
    }
    let shared_done =
        ring.ack_word(ack::SHARED_COUNT).load(Acquire) + ring.ack_word(ack::SHARED_SKIPPED).load(Acquire);
    let claims = shared::claims(ring.word(word::SHARED_TAIL).load(Acquire));
    let mask = (1 << shared::CLAIM_BITS) - 1;
    n += claims.wrapping_sub(shared_done) & mask;
    let spilled_done = ring.ack_word(ack::SPILL_COUNT).load(Acquire);
    n + ring.word(word::SPILLED).load(Acquire).saturating_sub(spilled_done)
}
