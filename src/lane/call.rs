//! The body of one log call, for everybody: main, a thread, a handler that interrupted another
//! call of the same thread, a forked child.
//!
//! # The order of a thread's slow records
//!
//! A record in the shared lane stands at the position `p` that its call claimed (behind a PAD, if there is
//! one); one in the spill carries `S`, the position of the shared lane's tail, loaded in its call before it
//! claims, and stands at the position `c` that it claimed there. Their order is that of the
//! triples `(p, 1, 0)` and `(S, 0, c)` ([`super::Order`]). If call A returned before call B of the same
//! thread began, A stands before B:
//!
//! | A | B | |
//! |---|---|---|
//! | shared | shared | B's claim begins at or behind A's end: `p < p'` |
//! | shared | spill | the tail that B loads is at or behind A's end: `p < S'` |
//! | spill | shared | B claims at or behind the tail that A loaded: `S ≤ p'`; at `S = p'` the 0 stands before the 1 |
//! | spill | spill | `S ≤ S'`, and `c < c'` |
//!
//! One thread's accesses to one word never see it go back, whatever their ordering, and the tail only grows;
//! so all of this holds with relaxed loads, and in a closed lane, whose tail stands still. No two records
//! have the same triple: positions are claimed once. A nested call is concurrent with
//! the one it interrupted, which may get its place before or after it; either is an order. What begins after
//! both stands behind both, and what returned before both, before them: the table looks at two calls at a
//! time. `t` follows: with A before B its lane's tail grew or stood still, and it stands still while `busy`
//! is set, so for calls that are nested in each other it is the same.
//!
//! More is needed where [`crate::snapshot`] cuts: a call that begins after R has got its place stands behind
//! R. That is the same table: R's claim, and its load before that, lie before it.

use super::{OpenRecord, Record, Refused, SharedLane, SlowKey, SpillKey, ThreadLane, shared};
use crate::layout::ring::{MAX_RECORD, slow::NO_LANE};
use crate::sync::{Bytes, Ordering::*, Word};

/// What one thread and its handlers see.
pub trait Local: Clone {
    /// Shared words.
    type W: Word;
    /// Records of up to so many bytes are never above a quarter of a lane.
    const SHORT: u64 = 0;
    /// Is a call of this thread open?
    fn busy(&self) -> bool;
    /// Plain store, kept in program order by the caller's compiler fences.
    fn set_busy(&self, v: bool);
    /// How far this thread may write its lane without looking at what is released
    /// ([`ThreadLane::limit`]).
    fn limit(&self) -> u64;
    /// Remembers it.
    fn set_limit(&self, v: u64);
    /// What the drain has released of this thread's lane, which it has (the word in `P.ack`).
    fn released(&self) -> &Self::W;
    /// A compiler fence: what is above stays above for a handler of this thread.
    fn fence(&self);
}

/// Everything a log call touches.
pub trait Env: Local {
    /// Shared payload bytes.
    type B: Bytes;
    /// Whether this thread's state is from before a fork, or it has none: one load, one compare.
    fn stale(&self) -> bool;
    /// Makes the state good: attaches a forked child, gives a new thread its number, slot and lane.
    /// `nested`: this call interrupted another one of the same thread. False: there is no ring.
    fn renew(&self, nested: bool) -> bool;
    /// This thread's lane.
    fn lane(&self) -> Option<ThreadLane<'_, Self::W, Self::B>>;
    /// This thread's number.
    fn thread(&self) -> u64;
    /// This thread's slot.
    fn slot(&self) -> u16;
    /// The shared lane.
    fn shared(&self) -> SharedLane<'_, Self::W, Self::B>;
    /// The spill; None: nothing may spill here.
    fn spill(&self) -> Option<SharedLane<'_, Self::W, Self::B>>;
    /// Has the spill backed up to this position ([`SharedLane::back`]). False: there is no memory for it, or no
    /// more is allowed. The only place of a call that enters the kernel.
    fn back_spill(&self, end: u64) -> bool;
    /// Called when a call has committed its record in the spill.
    fn count_spilled(&self);
    /// Loss of threads without a lane.
    fn process_lost(&self) -> &Self::W;
    /// Policy `block`: waits until the drain has moved on. False at once where waiting is not asked
    /// for, not allowed (nested, the drain's own threads), or the time is over.
    fn wait_for_room(&self) -> bool;
    /// Called when a call found `busy` set, once the thread's state is good.
    fn count_nested(&self);
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its thread's lane.
    Lane,
    /// The shared lane.
    Shared,
    /// The spill.
    Spilled,
    /// Nowhere; it is counted.
    Lost,
    /// Nowhere: this process has no ring.
    NoRing,
}

/// How far a call came on the usual way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Its record is in its thread's lane.
    Done,
    /// Nowhere: another call of this thread is open.
    Nested,
    /// It has set `busy` and written nothing: [`rest`] is to be called. `stale`: as it was found then; a fork since
    /// is the parent's business.
    Left {
        /// [`Env::stale`].
        stale: bool,
    },
}

/// The usual way of a log call. Whatever it says is left to the caller, so that nothing need be kept for that.
#[inline(always)]
pub fn try_usual<R: Record<E::B>, E: Env>(env: &E, r: &R) -> Tried {
    usual(env, &Closed(r))
}

/// What the usual way does with its thread's lane. False: it has published nothing. (No closure: nothing would have it
/// inlined.)
trait Writes<E: Env> {
    fn write(&self, env: &E, lane: &ThreadLane<'_, E::W, E::B>) -> bool;
}

struct Closed<'a, R>(&'a R);
impl<E: Env, R: Record<E::B>> Writes<E> for Closed<'_, R> {
    #[inline(always)]
    fn write(&self, env: &E, lane: &ThreadLane<'_, E::W, E::B>) -> bool {
        lane.write(env, self.0)
    }
}

struct Open<'a, R>(&'a R);
impl<E: Env, R: OpenRecord<E::B>> Writes<E> for Open<'_, R> {
    #[inline(always)]
    fn write(&self, env: &E, lane: &ThreadLane<'_, E::W, E::B>) -> bool {
        lane.write_open(env, self.0)
    }
}

#[inline(always)]
fn usual<E: Env>(env: &E, record: &impl Writes<E>) -> Tried {
    if env.busy() {
        return Tried::Nested;
    }
    // A handler that comes between the load and this store finds `busy` clear, runs a whole call,
    // and leaves it clear again.
    env.set_busy(true);
    env.fence();
    // After `busy` is set: a handler that forked in between would leave the child a stale answer.
    let stale = env.stale();
    if !stale
        && let Some(lane) = env.lane()
        && record.write(env, &lane)
    {
        // After the tail store: until then a handler must not take the lane.
        env.fence();
        env.set_busy(false);
        return Tried::Done;
    }
    Tried::Left { stale }
}

/// One log call. Async-signal-safe; bounded steps; enters the kernel only in [`Env::back_spill`] (and
/// in [`Env::renew`] on a thread's first call, and where waiting was asked for).
#[inline(always)]
pub fn log<R: Record<E::B> + Clone, E: Env>(env: &E, r: &R) -> Outcome {
    match try_usual(env, r) {
        Tried::Done => Outcome::Lane,
        // By value, here and below: a reference that reaches a cold function would keep everything that
        // the hot path has in registers in memory.
        Tried::Nested => nested_apart(env.clone(), r.clone()),
        Tried::Left { stale } => rest_apart(env.clone(), r.clone(), stale),
    }
}

#[cold]
#[inline(never)]
fn rest_apart<R: Record<E::B>, E: Env>(env: E, r: R, stale: bool) -> Outcome {
    rest(&env, &r, stale)
}

#[cold]
#[inline(never)]
fn nested_apart<R: Record<E::B>, E: Env>(env: E, r: R) -> Outcome {
    nested(&env, &r)
}

/// [`try_usual`] for a caller that begins anew with [`log`] where that is not done: false, and nothing of the call is
/// left. (As a reservation that is aborted at once: `busy` was set and is clear again, no other word was stored.) No
/// function is called here, so that its caller has less to save.
#[inline(always)]
pub fn log_usual<R: Record<E::B>, E: Env>(env: &E, r: &R) -> bool {
    done(env, try_usual(env, r))
}

/// [`log_usual`] of a record whose size shows while it is written.
#[inline(always)]
pub fn log_usual_open<R: OpenRecord<E::B>, E: Env>(env: &E, r: &R) -> bool {
    done(env, usual(env, &Open(r)))
}

#[inline(always)]
fn done<E: Env>(env: &E, tried: Tried) -> bool {
    if let Tried::Left { .. } = tried {
        env.fence();
        env.set_busy(false);
    }
    tried == Tried::Done
}

/// The rest of a call that has [left](Tried::Left) the usual way. To be called in a cold function.
#[inline(always)]
pub fn rest<R: Record<E::B>, E: Env>(env: &E, r: &R, stale: bool) -> Outcome {
    let out = if stale && !env.renew(false) {
        Outcome::NoRing
    } else {
        match env.lane() {
            Some(lane) if lane.write_after_a_look(env, r) => Outcome::Lane,
            _ => outside(env, r),
        }
    };
    // As above.
    env.fence();
    env.set_busy(false);
    out
}

/// The rest of a call that is [nested](Tried::Nested) in another one. To be called in a cold function.
#[inline(always)]
pub fn nested<R: Record<E::B>, E: Env>(env: &E, r: &R) -> Outcome {
    env.fence();
    // Also here, after `busy` was found set: a child that was forked by a handler inside a call.
    if env.stale() && !env.renew(true) {
        return Outcome::NoRing;
    }
    // Not before: until then what the thread knows may be its parent's ring, which a forked child has
    // made inaccessible.
    env.count_nested();
    slow(env, r)
}

/// The lane would not take it, and the call is not nested.
fn outside<R: Record<E::B>, E: Env>(env: &E, r: &R) -> Outcome {
    if let Some(lane) = env.lane()
        && r.size() <= lane.capacity() / 4
    {
        while env.wait_for_room() {
            if lane.write_after_a_look(env, r) {
                return Outcome::Lane;
            }
        }
    }
    slow(env, r)
}

/// Shared lane, else spill, else counted. `busy` is set (by this call or by the one below it).
fn slow<R: Record<E::B>, E: Env>(env: &E, r: &R) -> Outcome {
    let lane = env.lane();
    // The lane's tail stands still while `busy` is set, so `t` says where between the lane's records
    // this one belongs.
    let (t, lost) = match &lane {
        Some(lane) => (lane.tail.load(Relaxed), lane.lost),
        None => (NO_LANE, env.process_lost()),
    };
    // Read within the call: it has what every call before it lost, and nothing of those after it. (Only its
    // growth means something: a nested call that was lost may be told by a record before this one.)
    let key = SlowKey { thread: env.thread(), t, lost: lost.load(Relaxed) };
    if env.shared().write(env.slot(), &key.to_bytes(), r).is_ok() {
        return Outcome::Shared;
    }
    if spill(env, key, r) {
        return Outcome::Spilled;
    }
    lost.local_add(1);
    if let Some(lane) = lane {
        // The next call of the fast path finds no room, looks, and marks.
        lane.spoil(env);
    }
    Outcome::Lost
}

/// How often a call has the spill backed for its record: other threads may take what it has backed.
const GROWTHS: u32 = 64;

/// Into the spill. The shared lane did not take the record, and will not.
#[cold]
#[inline(never)]
fn spill<R: Record<E::B>, E: Env>(env: &E, slow: SlowKey, r: &R) -> bool {
    // Before the claim.
    let at = shared::position(env.shared().tail.load(Relaxed));
    let key = SpillKey { slow, at }.to_bytes();
    let Some(lane) = env.spill().filter(|_| r.size() <= MAX_RECORD) else { return false };
    for _ in 0..GROWTHS {
        match lane.write(env.slot(), &key, r) {
            Ok(()) => {
                env.count_spilled();
                return true;
            }
            Err(Refused::Unbacked(end)) if env.back_spill(end) => {}
            Err(_) => return false,
        }
    }
    false
}
