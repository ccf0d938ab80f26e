//! Calls from other languages: sites and arguments that are described at run time, timestamps of the caller's
//! own, and records that are filled in place.
#![allow(unsafe_code)]

use super::time::{Given, Stamp, Usual};
use super::{Base, Call, attach, put_header};
use crate::lane::call::{self, Local};
use crate::lane::thread::Place;
use crate::lane::{Env, OpenRecord, Outcome, Record};
use crate::layout::ring::record;
use crate::record::payload::{self, Inline};
use crate::record::{OpenPayload, Payload, SiteFacts, SiteId};
use crate::sync::{Bytes, Ordering::*};
use crate::sys::SavedErrno;
use crate::tls::{self, Block};

/// The record of a site that is described at run time.
#[derive(Clone, Copy)]
struct PayloadRecord<'a, P, T> {
    id: u32,
    time: T,
    inline: Inline<'a>,
    payload: P,
}

impl<P: Payload, T> PayloadRecord<'_, P, T> {
    #[inline(always)]
    fn bytes(&self) -> u64 {
        record::HEADER + self.inline.len + self.payload.len() as u64
    }
}

impl<P: Payload, T: Stamp> Record<Base> for PayloadRecord<'_, P, T> {
    #[inline(always)]
    fn size(&self) -> u64 {
        self.bytes()
    }
    #[inline(always)]
    fn time(&self) -> u64 {
        self.time.get()
    }
    #[inline(always)]
    fn write(&self, to: &Base, at: u64, time: u64) {
        // SAFETY: `size()` bytes from `at` on, rounded up to a multiple of 8, are claimed for this record,
        // inside the mapping; the header and an entry are multiples of 8.
        unsafe {
            let p = to.ptr().add(at as usize);
            put_header!(p, record::word0(self.bytes(), record::RECORD), time, self.id);
            let mut payload = p.add(record::HEADER as usize);
            if let Some(facts) = self.inline.facts {
                payload = put_site(facts, payload);
            }
            self.payload.put(payload);
        }
    }
}

/// The record of a site that has a number, with an open payload, now.
#[derive(Clone, Copy)]
struct OpenPayloadRecord<P> {
    id: u32,
    payload: P,
}

impl<P: OpenPayload> OpenRecord<Base> for OpenPayloadRecord<P> {
    #[inline(always)]
    fn most(&self) -> u64 {
        record::HEADER + self.payload.most() as u64
    }
    #[inline(always)]
    fn write(&self, to: &Base, at: u64) -> Option<u64> {
        // SAFETY: `most()` bytes from `at` on are free, inside the mapping; the header is a multiple of 8, and of it
        // the payload may write the end, before it is written.
        unsafe {
            let p = to.ptr().add(at as usize);
            // First: what comes behind this overlaps with it, and what comes before does not.
            let ticks = Usual.get();
            let size = record::HEADER + self.payload.put(p.add(record::HEADER as usize))? as u64;
            put_header!(p, record::word0(size, record::RECORD), ticks, self.id);
            Some(size)
        }
    }
}
const _: () = assert!(payload::BEFORE <= record::HEADER as usize);

#[cold]
#[inline(never)]
unsafe fn put_site(facts: &SiteFacts<'_>, to: *mut u8) -> *mut u8 {
    // SAFETY: by the caller, who has room for `encoded_len`.
    unsafe { facts.put(to) }
}

/// The time that a record would get now, in ticks of this process's clock. Async-signal-safe.
pub fn now() -> u64 {
    attach::now()
}

/// Logs one record of a site that is described at run time. `facts` is asked for in the site's first calls
/// only. `ticks`: when it happened, as [`now`] answered it; 0 = now. Of one thread, a record with an earlier
/// time than the one before it is shown with that one's.
///
/// Async-signal-safe. Never waits (unless the policy is `block`), keeps errno. A call before
/// [`init`](super::init) is counted ([`status`](super::status)) and goes nowhere.
pub fn log_payload<'a, P: Payload>(
    id: &SiteId,
    facts: impl FnOnce() -> SiteFacts<'a>,
    payload: P,
    ticks: u64,
) -> Outcome {
    let time = Given(ticks);
    let n = id.get();
    if n == 0 {
        return first_of_site(id, &facts(), payload, time);
    }
    send(PayloadRecord { id: n, time, inline: Inline { facts: None, len: 0 }, payload })
}

/// The usual way of [`log_payload`] by itself, now, for a site that has the number `id`. False: nothing is logged, and
/// [`log_payload`] is to be called. A leaf: it calls no function, unless the payload does.
#[inline(always)]
pub fn log_usual<P: Payload>(id: u32, payload: P) -> bool {
    attach::usual() && {
        let r = PayloadRecord { id, time: Usual, inline: Inline { facts: None, len: 0 }, payload };
        call::log_usual(&Call::new(), &r)
    }
}

/// As [`log_usual`], with a payload whose length shows while it is written.
#[inline(always)]
pub fn log_usual_open<P: OpenPayload>(id: u32, payload: P) -> bool {
    attach::usual() && call::log_usual_open(&Call::new(), &OpenPayloadRecord { id, payload })
}

fn send<P: Payload>(r: PayloadRecord<'_, P, Given>) -> Outcome {
    let out = call::log(&Call::new(), &r);
    attach::published();
    out
}

#[cold]
#[inline(never)]
fn first_of_site<P: Payload>(id: &SiteId, facts: &SiteFacts<'_>, payload: P, time: Given) -> Outcome {
    let _errno = SavedErrno::save();
    send(match attach::register_facts(id, facts) {
        Some(id) => PayloadRecord { id, time, inline: Inline { facts: None, len: 0 }, payload },
        None => {
            let inline = Inline { facts: Some(facts), len: facts.encoded_len() as u64 };
            PayloadRecord { id: 0, time, inline, payload }
        }
    })
}

/// Why there is no place to fill in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveError {
    /// No ring: before `init`, or attaching failed. (Not counted: the caller logs by copy, which is.)
    NotAttached,
    /// Another call of this thread is open, the thread has no lane, or the lane has no room for it: log by copy.
    NoRoom,
    /// Committed by another thread than the one that reserved, or in a forked child.
    Foreign,
    /// More bytes than were reserved.
    TooLarge,
}

/// A record that is filled in where it will lie, in the calling thread's lane. Until it is committed or dropped,
/// the thread's other log calls (also those of its signal handlers) take the slow path, and nothing of this one
/// exists. It belongs to its thread.
#[derive(Debug)]
pub struct Reservation {
    block: *const Block,
    data: *mut u8,
    tail: u64,
    pad: u64,
    /// Bytes of payload.
    room: u64,
    site: u32,
    generation: u32,
}

/// Reserves `len` bytes of payload for a record of this site. Async-signal-safe, never waits.
///
/// # Errors
/// [`ReserveError::NotAttached`], [`ReserveError::NoRoom`].
pub fn reserve(id: &SiteId, facts: &SiteFacts<'_>, len: u64) -> Result<Reservation, ReserveError> {
    let _errno = SavedErrno::save();
    if !attach::configured() {
        return Err(ReserveError::NotAttached);
    }
    if len > crate::layout::ring::MAX_RECORD {
        return Err(ReserveError::NoRoom);
    }
    let call = Call::new();
    if call.busy() {
        return Err(ReserveError::NoRoom);
    }
    call.set_busy(true);
    call.fence();
    let found = (|| {
        if call.stale() && !call.renew(false) {
            return Err(ReserveError::NotAttached);
        }
        let site = attach::register_facts(id, facts).ok_or(ReserveError::NoRoom)?;
        let lane = call.lane().ok_or(ReserveError::NoRoom)?;
        let place = lane.reserve(&call, record::HEADER + len).ok_or(ReserveError::NoRoom)?;
        let at = if place.pad == 0 { place.tail & lane.mask } else { 0 };
        Ok(Reservation {
            block: call.block,
            // SAFETY: the place lies inside the lane's data.
            data: unsafe { lane.data.ptr().add(at as usize) },
            tail: place.tail,
            pad: place.pad,
            room: len,
            site,
            generation: attach::generation(),
        })
    })();
    if found.is_err() {
        call.fence();
        call.set_busy(false);
    }
    found
}

impl Reservation {
    /// Where the payload goes: [`len`](Reservation::len) bytes, the first at a multiple of 8. Arguments as
    /// [`Payload::put`] writes them; what is there now is anything.
    pub fn payload(&self) -> *mut u8 {
        // SAFETY: behind the header, inside the place that was reserved.
        unsafe { self.data.add(record::HEADER as usize) }
    }

    /// Whether the calling thread made it.
    pub fn is_mine(&self) -> bool {
        core::ptr::eq(tls::block(), self.block)
    }

    /// Bytes of payload.
    #[allow(clippy::len_without_is_empty)] // of no use
    pub fn len(&self) -> u64 {
        self.room
    }

    /// Makes the record exist, with the first `len` bytes of the payload. Async-signal-safe.
    ///
    /// # Errors
    /// [`ReserveError::Foreign`], [`ReserveError::TooLarge`]: then nothing of it exists.
    pub fn commit(self, len: u64) -> Result<(), ReserveError> {
        if !self.is_mine() {
            return Err(ReserveError::Foreign); // and dropping does nothing on this thread
        }
        if len > self.room {
            return Err(ReserveError::TooLarge);
        }
        if attach::generation() != self.generation {
            // A child that was forked in between: the parent's lane is private memory here, and the parent alone
            // delivers.
            return Err(ReserveError::Foreign);
        }
        let call = Call::new();
        let lane = call.lane().ok_or(ReserveError::Foreign)?;
        let size = record::HEADER + len;
        if self.pad != 0 {
            let word = record::word0(self.pad, record::PAD);
            lane.data.write(self.tail & lane.mask, &word.to_le_bytes());
        }
        // SAFETY: the header of the place that was reserved, aligned to 8.
        unsafe { put_header!(self.data, record::word0(size, record::RECORD), attach::now(), self.site) };
        lane.publish(Place { tail: self.tail, pad: self.pad, n: crate::lane::round8(size) });
        drop(self); // clears `busy`, after the tail
        attach::published();
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // Another thread's `busy` is not this one's to clear.
        if self.is_mine() {
            let call = Call::new();
            call.fence();
            call.block.busy.store(0, Relaxed);
        }
    }
}
