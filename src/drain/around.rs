//! What a drain looks for beside records: new rings, and owners that died.
//!
//! The kernel tells of both (inotify): of a name that is new in the channel's directory, and of each ring whose
//! writer has closed it. The last mapping of a ring goes with exec, exit or SIGKILL, in whatever namespace, so this
//! comes when the lease can be had, which alone decides. Where it cannot be had, and rarely in any case, drain
//! and lease are asked as if nobody told anything.

use super::{Drain, Ring};
use crate::channel::Stem;
use crate::sys::watch::{Event, Watch, Watched};
use std::time::Duration;

/// How often is asked what the kernel has to tell, by a drain that does not sleep: without records, and with.
const HEAR_NS: u64 = 5_000_000;
const HEAR_BUSY_NS: u64 = 50_000_000;
/// How often the directory is looked through: where nobody tells of it, and where somebody does.
const SCAN_NS: u64 = 50_000_000;
const RESCAN_NS: u64 = 5_000_000_000;
/// How often a ring is asked for its owner's death: at first and while records come, while none come, and where
/// somebody tells.
const PROBE_NS: u64 = 300_000_000;
const PROBE_QUIET_NS: u64 = 1_000_000_000;
const PROBE_TOLD_NS: u64 = 10_000_000_000;
/// How soon again when it was closed and is not dead: the kernel tells of it an instant before the lease can be had.
const PROBE_CLOSED_NS: u64 = 1_000_000;

/// When a ring is asked for its owner's death.
pub(super) struct Probe {
    told: Option<Watched>,
    /// When next (monotonic ns), and how long after the last time.
    at: u64,
    every: u64,
}

impl Probe {
    pub fn new() -> Probe {
        Probe { told: None, at: 0, every: PROBE_NS / 2 }
    }
    pub fn due(&self, mono: u64) -> bool {
        mono >= self.at
    }
    /// It was asked and is alive. `busy`: its records come.
    pub fn alive(&mut self, mono: u64, busy: bool) {
        let most = match self.told {
            Some(_) => PROBE_TOLD_NS,
            None if busy => PROBE_NS,
            None => PROBE_QUIET_NS,
        };
        self.every = (self.every * 2).min(most);
        self.at = mono + self.every;
    }
    fn closed(&mut self) {
        (self.at, self.every) = (0, PROBE_CLOSED_NS / 2);
    }
}

/// The ears of a drain.
pub(super) struct Around {
    watch: Option<Watch>,
    /// When it was asked, and when the directory was looked through (monotonic ns).
    heard: u64,
    scanned: u64,
}

impl Around {
    pub fn new(watch: Option<Watch>) -> Around {
        Around { watch, heard: 0, scanned: 0 }
    }
    /// A ring is told of from here on, before it is first asked.
    pub fn add(&self, ring: &mut Ring) {
        ring.probe.told = self.watch.as_ref().and_then(|w| ring.view.files.watch(w));
    }
    /// A ring is not there any more.
    pub fn remove(&self, ring: &Ring) {
        if let (Some(w), Some(told)) = (&self.watch, ring.probe.told) {
            w.remove(told);
        }
    }
    /// Whether somebody tells of what is new, so that it need not be looked for.
    pub fn told(&self) -> bool {
        self.watch.is_some()
    }
    /// Whether there is something to hear.
    pub fn tells(&self) -> bool {
        self.watch.as_ref().is_some_and(|w| w.wait(Duration::ZERO).unwrap_or(true))
    }
}

impl Drain {
    /// Hears what is new and looks at it. `busy`: records came with the last pass, and what is rare can wait a little.
    pub(super) fn look_around(&mut self, all: bool, busy: bool, mono: u64) {
        let pause = if busy { HEAR_BUSY_NS } else { HEAR_NS };
        if !all && mono.saturating_sub(self.around.heard) < pause {
            return;
        }
        self.around.heard = mono;
        let mut scan = self.hear();
        let told = self.around.watch.is_some() && self.later.is_empty();
        scan |= all || mono.saturating_sub(self.around.scanned) >= if told { RESCAN_NS } else { SCAN_NS };
        if scan {
            self.around.scanned = mono;
            self.scan();
        }
    }

    /// What the kernel tells. True: the directory is to be looked through.
    fn hear(&mut self) -> bool {
        let Some(w) = &self.around.watch else { return false };
        let (mut scan, rings) = (false, &mut self.rings);
        let taken = match w.wait(Duration::ZERO) {
            Ok(false) => return false,
            // A program that closed all descriptors may have given the number to another file, from which
            // nothing may be taken.
            Ok(true) if !self.lock.still_held() => Err(crate::sys::Errno(libc::EBADF)),
            Ok(true) => w.take(|e| match e {
                Event::Named(name) => scan |= Stem::of_ring(name).is_some(),
                Event::Closed(what) => {
                    rings.iter_mut().filter(|r| r.probe.told == Some(what)).for_each(|r| r.probe.closed());
                }
                Event::Missed => {
                    scan = true;
                    rings.iter_mut().for_each(|r| r.probe.closed());
                }
            }),
            Err(e) => Err(e),
        };
        if taken.is_err() {
            // From here on by looking. Not closed: the number may be another file's.
            std::mem::forget(self.around.watch.take());
            self.rings.iter_mut().for_each(|r| r.probe = Probe::new());
            scan = true;
        }
        scan
    }
}
