//! A thread's first call: its number, its slot, its lane.
//!
//! All of it runs with `busy` set (by this call, or by the one it interrupted), and a handler may come
//! between any two instructions and do all of it itself. So each thing is published by one
//! compare-exchange from "none", and the loser gives its own back.
//!
//! Which kind a thread is, with a lane or without, is decided once, by its first call that is not
//! nested; a thread whose first call was interrupted and never resumed has none, for life.

use super::attach::{self, Ring};
use super::{Base, Call, fork};
use crate::lane::shared::{self, State};
use crate::lane::{Env, ThreadLane};
use crate::layout::ring::{MIN_LANE, NO_SLOT, ack, lane, record, slot, word};
use crate::sync::{AtomicU64, Ordering::*, compiler_fence};
use crate::sys::{self, process};
use crate::tls::{self, Block};

/// In a block's identity: this thread agreed to wait (policy `block`).
pub(super) const WAITS: u64 = 1 << 63;

/// Makes the thread's block good for the ring of this process, and makes that ring if need be.
#[cold]
#[inline(never)]
pub(super) fn renew(block: &Block, nested: bool) -> Option<*const Ring> {
    let _errno = sys::SavedErrno::save();
    // Files are opened on the way, and that is where a cancelled thread ends: in the midst of a call.
    let _uncancelled = sys::thread::CancelDisabled::new();
    // An attach, and a forked child's work, block signals; those that came meanwhile are to come when the
    // block is set up and this looks once more: a handler that forks before that would leave a child that
    // takes this call for its own, beside its parent. (Who has a ring has lanes without a system call.)
    let mut blocked = None;
    // Bounded: each turn settles one thing that no later turn unsettles (a fork, an attach).
    for _ in 0..4 {
        let generation = attach::generation();
        let ring = attach::current();
        if ring.is_null() {
            if !attach::configured() {
                return None;
            }
            blocked.get_or_insert_with(sys::thread::SignalsBlocked::new);
            if attach::attach().is_err() {
                return None;
            }
        } else if generation == 0 {
            blocked.get_or_insert_with(sys::thread::SignalsBlocked::new);
            fork::child(block, nested);
        } else {
            // SAFETY: a published ring is never freed.
            set_up(block, unsafe { &*ring }, nested, generation);
            drop(blocked);
            if attach::generation() != generation {
                resumed_in_child(block);
            }
            return Some(ring);
        }
    }
    None
}

/// A handler forked within [`set_up`], and this is the child: what was done there since then is of the
/// parent's ring, which is private memory here. Left in the block it would take the thread's records, and
/// nobody would ever see them.
fn resumed_in_child(block: &Block) {
    // This call goes on with the parent's ring and without a lane: the parent delivers it.
    block.lane.store(core::ptr::null_mut(), Relaxed);
    compiler_fence(SeqCst);
    let (ring, generation) = (attach::current(), attach::generation());
    // Had `set_up` changed the identity after the handler made one, it had also stored its ring again.
    if !ring.is_null() && generation != 0 && block.ring.load(Relaxed) == ring.cast() {
        // The handler has logged here: what it made is good.
        block.generation.store(generation, Relaxed);
    } else {
        // The next call begins anew.
        block.generation.store(tls::NO_GENERATION, Relaxed);
        compiler_fence(SeqCst);
        block.ring.store(core::ptr::null_mut(), Relaxed);
        block.identity.store(0, Relaxed);
    }
}

fn set_up(block: &Block, ring: &Ring, nested: bool, generation: u32) {
    let me = core::ptr::from_ref(ring).cast_mut().cast::<u8>();
    let old = block.identity.load(Relaxed);
    if block.ring.load(Relaxed) != me {
        // What the block holds is of another ring (the parent's). The lane first: a handler that comes
        // now must find none. The identity by exchange: a handler may have made the new one already.
        block.lane.store(core::ptr::null_mut(), Relaxed);
        compiler_fence(SeqCst);
        let _ = block.identity.compare_exchange(old, 0, Relaxed, Relaxed);
        compiler_fence(SeqCst);
        block.ring.store(me, Relaxed);
    }
    if block.identity.load(Relaxed) == 0 {
        let number = ring.word(word::THREADS).fetch_add(1, Relaxed) + 1;
        let mine = claim_slot(ring, number);
        let identity = number << 16 | u64::from(mine.unwrap_or(NO_SLOT));
        if block.identity.compare_exchange(0, identity, Relaxed, Relaxed).is_err()
            && let Some(s) = mine
        {
            ring.slot_word(u32::from(s), slot::OWNER).store(0, Release);
        }
    }
    compiler_fence(SeqCst);
    // That of the ring, not that of now: a handler may have forked meanwhile.
    block.generation.store(generation, Relaxed);
    if !nested && block.lane.load(Relaxed).is_null() {
        claim_lane(block, ring);
    }
}

/// Whether the thread in this slot is gone: then what it left may be taken.
fn gone(ring: &Ring, s: u32, also_by_start: bool) -> bool {
    let owner = ring.slot_word(s, slot::OWNER).load(Acquire);
    let tid = (owner >> 32) as u32;
    if owner & slot::TAKEN == 0 || owner & slot::FOREIGN != 0 || tid == 0 {
        return false;
    }
    if !process::thread_exists(ring.pid, tid) {
        return true;
    }
    // The tid may be another thread's by now: one that started after the claim.
    also_by_start
        && process::proc_is_ours()
        && process::thread_start_time(ring.pid, tid).is_ok_and(|ticks| {
            let hz = 100; // USER_HZ, part of the kernel's ABI
            let began = ticks.saturating_mul(1_000_000_000 / hz);
            began > ring.slot_word(s, slot::CLAIMED_AT).load(Relaxed).saturating_add(20_000_000)
        })
}

/// Only the process of the header may ask who is gone: tids of another one mean nothing here.
fn may_ask(ring: &Ring) -> bool {
    ring.prepared.load(Relaxed) == 0 && process::pid() == ring.pid
}

fn claim_slot(ring: &Ring, number: u64) -> Option<u16> {
    let slots = ring.geometry.slots;
    // What the C library says is stale in a child of a raw fork; then its thread would be taken for one
    // that is gone. A prepared claim makes no system call.
    let prepared = ring.prepared.load(Relaxed) != 0;
    let tid = u64::from(if prepared { process::tid_no_syscall() } else { process::tid() });
    // A thread of another process that shares this memory (vfork, CLONE_VM): never judged gone.
    let foreign = !prepared && process::pid() != ring.pid;
    let flags = slot::TAKEN | if foreign { slot::FOREIGN } else { 0 };
    // A tid comes back, a number does not: so no value comes back, and an exchange is of what was judged.
    let owner = tid << 32 | (number & ((1 << 30) - 1)) << 2 | flags;
    let take = |s: u32, old: u64| {
        let w = ring.slot_word(s, slot::OWNER);
        if w.compare_exchange(old, owner, AcqRel, Relaxed).is_err() {
            return false;
        }
        ring.slot_word(s, slot::CLAIMED_AT).store(sys::time::boottime_ns(), Relaxed);
        ring.slot_word(s, slot::THREAD).store(number, Relaxed);
        true
    };
    // Numbers count up, so the slot after the last one given is most likely free.
    for i in 0..slots {
        let s = (number - 1 + u64::from(i)) as u32 % slots;
        if ring.slot_word(s, slot::OWNER).load(Relaxed) == 0 && take(s, 0) {
            return Some(s as u16);
        }
    }
    if !may_ask(ring) {
        return None;
    }
    for s in 0..slots {
        let old = ring.slot_word(s, slot::OWNER).load(Acquire);
        if old != 0 && gone(ring, s, false) && !has_open_word(ring, s) {
            // The lane it held is free, before the slot that names its owner is another thread's.
            let held = ring.slot_word(s, slot::LANE).load(Acquire);
            if held != 0 && held <= u64::from(ring.geometry.lanes) {
                let w = ring.lane_word(held as u32 - 1, lane::OWNER);
                let (holder, thread) = (w.load(Acquire), ring.slot_word(s, slot::THREAD).load(Relaxed));
                if holder == (thread << 16) | (u64::from(s) + 1) {
                    let _ = w.compare_exchange(holder, 0, AcqRel, Relaxed);
                }
            }
            if take(s, old) {
                ring.slot_word(s, slot::LANE).store(0, Relaxed);
                return Some(s as u16);
            }
        }
    }
    None
}

/// A slot that an OPEN word names is not reused: the drain asks by it whether the hole's writer lives. (The words
/// of the spill are not looked at: they are many, and those that were given back must not be touched. A hole there
/// whose slot is another thread's by now lasts as long as that one, too.)
fn has_open_word(ring: &Ring, s: u32) -> bool {
    let size = u64::from(ring.geometry.granules);
    let tail = shared::position(ring.word(word::SHARED_TAIL).load(Acquire));
    let from = ring.shared_released().load(Acquire);
    (from..tail).any(|p| {
        let w = ring.commit_words()[shared::word_at(p % size, size) as usize].load(Acquire);
        shared::state(w, shared::lap(p, size)) == State::Open(s as u16)
    })
}

/// Takes a lane for this thread: a prepared one, one whose owner is gone, a new one.
fn claim_lane(block: &Block, ring: &Ring) {
    let me = block.identity.load(Relaxed) as u16;
    if me == NO_SLOT {
        return; // without a slot nobody could tell when the lane is free again
    }
    let number = (block.identity.load(Relaxed) & !WAITS) >> 16;
    let owner = (number << 16) | (u64::from(me) + 1);
    let ask = may_ask(ring);
    let lanes = ring.geometry.lanes;
    let take = |i: u32, old: u64| {
        ring.lane_word(i, lane::OWNER).compare_exchange(old, owner, AcqRel, Acquire).is_ok()
    };
    for i in 0..lanes {
        let (capacity, old) =
            (ring.lane_word(i, lane::CAPACITY).load(Acquire), ring.lane_word(i, lane::OWNER).load(Acquire));
        if capacity == 0 {
            continue;
        }
        let free = old == 0 || ask && slot_is_gone(ring, old, false);
        if free && take(i, old) {
            if move_in(block, ring, i, capacity) {
                return;
            }
            // Full to the brim: its next owner may find room for its name.
            ring.lane_word(i, lane::OWNER).store(0, Release);
        }
    }
    if ring.prepared.load(Relaxed) != 0 {
        return;
    }
    for i in 0..lanes {
        if ring.lane_word(i, lane::CAPACITY).load(Acquire) == 0 && take(i, 0) {
            let Some(capacity) = populate(ring, i) else {
                ring.lane_word(i, lane::OWNER).store(0, Release);
                break;
            };
            make(ring, i, capacity);
            if move_in(block, ring, i, capacity) {
                return;
            }
        }
    }
    if !ask {
        return;
    }
    for i in 0..lanes {
        let (capacity, old) =
            (ring.lane_word(i, lane::CAPACITY).load(Acquire), ring.lane_word(i, lane::OWNER).load(Acquire));
        if capacity != 0 && old != 0 && slot_is_gone(ring, old, true) && take(i, old) {
            if move_in(block, ring, i, capacity) {
                return;
            }
            ring.lane_word(i, lane::OWNER).store(0, Release);
        }
    }
}

fn slot_is_gone(ring: &Ring, owner: u64, also_by_start: bool) -> bool {
    match (owner & 0xffff).checked_sub(1) {
        Some(s) if s < u64::from(ring.geometry.slots) => gone(ring, s as u32, also_by_start),
        _ => false,
    }
}

/// Allocates and maps a new lane's pages: the size asked for, else smaller.
fn populate(ring: &Ring, i: u32) -> Option<u64> {
    if ring.prefaulted {
        return Some(ring.lane_bytes);
    }
    // At its limit a memory cgroup kills whoever allocates: leave some room.
    let room = sys::room::memory_room().unwrap_or(u64::MAX) / 4;
    let mut size = ring.lane_bytes;
    while size >= MIN_LANE.max(16 << 10).min(ring.lane_bytes) {
        let at = ring.geometry.lane_data(i);
        if size <= room && ring.files.ring.populate(at, size).is_ok() {
            if ring.lock
                && let Err(e) = ring.files.ring.lock(at, size)
            {
                // It is a lane all the same; `init` has told of the first one that could not be locked.
                ring.refused[0].store(e.0, Relaxed);
            }
            return Some(size);
        }
        let _ = ring.files.ring.discard(at, size);
        size /= 4;
    }
    None
}

/// The lane is there from now on.
fn make(ring: &Ring, i: u32, capacity: u64) {
    // First: the drain looks at lanes below this number only.
    ring.word(word::LANES_USED).fetch_max(u64::from(i) + 1, AcqRel);
    ring.lane_word(i, lane::CAPACITY).store(capacity, Release);
}

fn lane_data(ring: &Ring, i: u32) -> *mut u8 {
    // SAFETY: inside the mapping, which is as long as the geometry says.
    unsafe { ring.base.add(ring.geometry.lane_data(i) as usize) }
}

/// Writes the new owner's name into the lane and makes it the thread's. False: no room for the name.
fn move_in(block: &Block, ring: &Ring, i: u32, capacity: u64) -> bool {
    debug_assert!(capacity >= MIN_LANE); // what `Call::SHORT` goes by
    let identity = block.identity.load(Relaxed);
    let (number, s) = (identity << 1 >> 17, identity as u16);
    let header = ring.lane_word(i, 0);
    let released = ring.ack_word(ack::lane(i) + ack::RELEASED);
    let mut payload = [0u8; record::THREAD_LEN as usize];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload[8..12].copy_from_slice(&process::tid_no_syscall().to_le_bytes());
    payload[12..16].copy_from_slice(&u32::from(s).to_le_bytes());
    if ring.prepared.load(Relaxed) == 0 {
        // SAFETY: the kernel writes at most 16 bytes, NUL included.
        unsafe { libc::prctl(libc::PR_GET_NAME, payload[16..32].as_mut_ptr()) };
    }
    let l = ThreadLane {
        tail: ring.lane_word(i, lane::TAIL),
        written: ring.lane_word(i, lane::WRITTEN),
        lost: ring.lane_word(i, lane::LOST),
        marked: ring.lane_word(i, lane::MARKED),
        // SAFETY: inside the mapping.
        data: unsafe { Base::at(lane_data(ring, i)) },
        mask: capacity - 1,
    };
    // Only this thread takes room from the lane, so what there is now stays.
    if !l.has_room(released, record::HEADER + record::THREAD_LEN) {
        return false;
    }
    ring.slot_word(u32::from(s), slot::LANE).store(u64::from(i) + 1, Relaxed);
    block.data.store(lane_data(ring, i), Relaxed);
    block.released.store(core::ptr::from_ref(released).cast_mut(), Relaxed);
    block.mask.store(capacity - 1, Relaxed);
    compiler_fence(SeqCst);
    // After the rest: a handler that finds a lane finds all of it. Before the note: a handler's record
    // without a position must be from before the note, since a note below the drain's cut makes all such
    // records due (the model `inherit` shows what happens otherwise).
    block.lane.store(core::ptr::from_ref::<AtomicU64>(header).cast_mut().cast(), Relaxed);
    compiler_fence(SeqCst);
    l.note(&Call::new(), released, record::THREAD, &payload)
}

/// Reserves `n` lanes for threads that come later, so that their first log call makes no system call
/// (for programs that enter a sandbox). Answers how many there are; fewer when memory is short. May
/// block in the kernel while it allocates; not async-signal-safe in spirit: call it before the sandbox.
pub fn prepare(n: u32) -> u32 {
    let Some(ring) = attach::usable() else { return 0 };
    let mut have = 0;
    for i in 0..ring.geometry.lanes {
        if have == n {
            break;
        }
        let owner = ring.lane_word(i, lane::OWNER);
        if ring.lane_word(i, lane::CAPACITY).load(Acquire) != 0 {
            have += u32::from(owner.load(Acquire) == 0);
            continue;
        }
        // Held while it is made, under a slot number that no thread has.
        if owner.compare_exchange(0, u64::from(NO_SLOT) + 1, AcqRel, Acquire).is_err() {
            continue;
        }
        let capacity = populate(ring, i);
        if let Some(c) = capacity {
            make(ring, i, c);
            have += 1;
        }
        owner.store(0, Release);
        if capacity.is_none() {
            break;
        }
    }
    ring.prepared.store(1, Release);
    have
}

/// Clears `busy` of the calling thread, after a log call of it was left by `longjmp` or cancellation.
///
/// Never needed for correctness: until then the thread's calls take the slow path, and are counted.
/// Call it only where no log call of this thread is under way (not in a handler).
pub fn thread_reset() {
    // SAFETY: the running thread's block.
    let block = unsafe { &*tls::block() };
    if let Some(lane) = Call::new().lane()
        && attach::usable().is_some()
    {
        // The call that was left may have counted its record without publishing it.
        lane.settle();
    }
    compiler_fence(SeqCst);
    block.busy.store(0, Relaxed);
}

/// Does now what the calling thread's first log call would do: its number, its slot, its lane with its pages.
/// Answers whether the thread has a lane. False without a ring. Async-signal-safe; enters the kernel.
pub fn thread_prefault() -> bool {
    // SAFETY: the running thread's block.
    let block = unsafe { &*tls::block() };
    // As a call would.
    let was = block.busy.swap(1, Relaxed);
    compiler_fence(SeqCst);
    let mut has = false;
    if attach::usable().is_some() && renew(block, was != 0).is_some() {
        has = !block.lane.load(Relaxed).is_null();
    }
    compiler_fence(SeqCst);
    block.busy.store(was, Relaxed);
    has
}

/// Lets the calling thread wait for room, up to the time that the policy `block:<timeout>` gives. The
/// drain's own threads and nested calls never wait. Without a ring: no effect.
pub fn may_wait(yes: bool) {
    // SAFETY: the running thread's block.
    let block = unsafe { &*tls::block() };
    // As a call would: a handler that finds `busy` set takes no lane away from under this.
    let was = block.busy.swap(1, Relaxed);
    compiler_fence(SeqCst);
    if attach::usable().is_some() {
        renew(block, was != 0);
    }
    if block.identity.load(Relaxed) != 0 {
        if yes {
            block.identity.fetch_or(WAITS, Relaxed);
        } else {
            block.identity.fetch_and(!WAITS, Relaxed);
        }
    }
    compiler_fence(SeqCst);
    block.busy.store(was, Relaxed);
}
