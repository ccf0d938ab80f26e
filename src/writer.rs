//! gate → encode → thread lane, else shared lane, else spill, else count.
//!
//! [`logged`] is the real instance of [`lane::call`](crate::lane::call): thread-local words in the
//! thread's block, shared words in the mappings of its ring and its spill. Everything on that path is
//! async-signal-safe; the kernel is entered when the spill has to grow, on a thread's first call (tid
//! probes, a lane's pages) and in a forked child's first call (its ring).
#![allow(unsafe_code)]

mod attach;
mod foreign;
mod fork;
mod guard;
mod quota;
mod sinks;
mod thread;
mod time;

pub use attach::{Status, attached, status, wake_drain};
pub use foreign::{Reservation, ReserveError, log_payload, log_usual, log_usual_open, now, reserve};
#[cfg(feature = "log")]
pub(crate) use guard::settle;
pub use guard::{Guard, drain_present, flush, flush_sinks, init, init_with};
pub use thread::{may_wait, prepare, thread_prefault, thread_reset};
pub use time::Time;

use crate::lane::call::{self, Env, Local, Tried};
use crate::lane::{Outcome, Record, SharedLane, ThreadLane};
use crate::layout::ring::{MIN_LANE, lane, record, word};
use crate::record::{Apart, Args, Site, SiteFacts, Way};
use crate::sync::{self, AtomicU64, Bytes, Ordering::*, Word, compiler_fence};
use crate::sys::{self, SavedErrno};
use crate::tls::{self, Block};
use attach::{Policy, Ring};
use core::cell::{Cell, UnsafeCell};
use time::{At, Now, Stamp, Usual};

/// Memory of a ring that this process maps, from the address of this value on. Opaque and of no size:
/// a reference to it is an address, which costs the hot path a register and no memory.
pub(crate) struct Base([UnsafeCell<u8>; 0]);

impl Base {
    /// The memory at `p`.
    ///
    /// # Safety
    /// `p` is not null, and stays mapped for `'a`.
    #[inline(always)]
    pub(crate) unsafe fn at<'a>(p: *mut u8) -> &'a Base {
        // SAFETY: a value of no size is valid anywhere but at null.
        unsafe { &*p.cast::<Base>() }
    }
    #[inline(always)]
    fn ptr(&self) -> *mut u8 {
        self.0.as_ptr().cast::<u8>().cast_mut()
    }
}

impl Bytes for Base {
    #[inline(always)]
    fn write(&self, at: u64, src: &[u8]) {
        // SAFETY: the caller (a lane) has claimed these bytes, which lie inside the mapping of its data;
        // `src` is private memory. Readers know that what they copy may change under them.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), self.ptr().add(at as usize), src.len()) };
    }
    fn read(&self, at: u64, dst: &mut [u8]) {
        // SAFETY: as above, the other way.
        unsafe { core::ptr::copy_nonoverlapping(self.ptr().add(at as usize), dst.as_mut_ptr(), dst.len()) };
    }
    #[inline(always)]
    fn prefetch_write<const AHEAD: usize>(&self, at: u64) {
        sync::prefetch_write::<AHEAD>(self.ptr().wrapping_add(at as usize));
    }
}

/// Writes a record's header at a pointer that is a multiple of 8 and valid for that. A macro: the number of the record's
/// entry is evaluated where it is stored, behind the rest.
macro_rules! put_header {
    ($to:expr, $word0:expr, $ticks:expr, $site:expr) => {{
        let p: *mut u8 = $to;
        p.cast::<u64>().write($word0);
        p.add(record::TICKS as usize).cast::<u64>().write($ticks);
        p.add(record::SITE as usize).cast::<u64>().write(u64::from($site));
    }};
}
use put_header;

/// The record of a call site.
#[derive(Clone, Copy)]
struct SiteRecord<A, T> {
    time: T,
    site: &'static Site,
    id: u32,
    args: A,
    /// Length of the site's entry in front of the payload, where it has no number.
    inline_site: u64,
}

impl<A: Args, T: Stamp> Record<Base> for SiteRecord<A, T> {
    #[inline(always)]
    fn size(&self) -> u64 {
        record::HEADER + self.inline_site + self.args.encoded_len() as u64
    }
    #[inline(always)]
    fn time(&self) -> u64 {
        self.time.get()
    }
    #[inline(always)]
    fn write(&self, to: &Base, at: u64, time: u64) {
        // SAFETY: `size()` bytes from `at` on are claimed for this record, inside the mapping.
        unsafe {
            let word0 = record::word0(self.size(), record::RECORD);
            let p = to.ptr().add(at as usize);
            put_header!(p, word0, time, self.id);
            let mut payload = p.add(record::HEADER as usize);
            if self.inline_site != 0 {
                payload = put_site::<A>(self.site, payload);
            }
            self.args.put(payload);
        }
    }
}

/// The same in the usual way: its site has a number.
#[derive(Clone, Copy)]
struct UsualRecord<A> {
    site: &'static Site,
    args: A,
}

impl<A: Args> Record<Base> for UsualRecord<A> {
    #[inline(always)]
    fn size(&self) -> u64 {
        record::HEADER + self.args.encoded_len() as u64
    }
    #[inline(always)]
    fn time(&self) -> u64 {
        Usual.get()
    }
    #[inline(always)]
    fn write(&self, to: &Base, at: u64, time: u64) {
        // SAFETY: `size()` bytes from `at` on are claimed for this record, inside the mapping.
        unsafe {
            // The number is loaded here, where registers are free.
            let word0 = record::word0(self.size(), record::RECORD);
            let p = to.ptr().add(at as usize);
            put_header!(p, word0, time, self.site.usual_id());
            let payload = p.add(record::HEADER as usize);
            self.args.put(payload);
        }
    }
}

#[cold]
#[inline(never)]
unsafe fn put_site<A: Args>(site: &'static Site, to: *mut u8) -> *mut u8 {
    // SAFETY: by the caller, who has room for `encoded_len`.
    unsafe { site.facts::<A>().put(to) }
}

/// The record of a call whose site is not static: it carries its entry.
#[derive(Clone, Copy)]
struct FactsRecord<'a, A> {
    facts: SiteFacts<'a>,
    args: A,
}

impl<A: Args> Record<Base> for FactsRecord<'_, A> {
    fn size(&self) -> u64 {
        record::HEADER + self.facts.encoded_len() as u64 + self.args.encoded_len() as u64
    }
    fn time(&self) -> u64 {
        attach::now()
    }
    fn write(&self, to: &Base, at: u64, time: u64) {
        // SAFETY: `size()` bytes from `at` on are claimed for this record, inside the mapping.
        unsafe {
            let word0 = record::word0(self.size(), record::RECORD);
            let p = to.ptr().add(at as usize);
            put_header!(p, word0, time, 0u32);
            let payload = p.add(record::HEADER as usize);
            self.args.put(self.facts.put(payload));
        }
    }
}

/// A chunk of captured output.
#[derive(Clone, Copy)]
struct CaptureRecord<'a> {
    site: u32,
    bytes: &'a [u8],
}

impl Record<Base> for CaptureRecord<'_> {
    fn size(&self) -> u64 {
        record::HEADER + self.bytes.len() as u64
    }
    fn time(&self) -> u64 {
        attach::now()
    }
    fn write(&self, to: &Base, at: u64, time: u64) {
        let word0 = record::word0(Record::<Base>::size(self), record::CAPTURE);
        // SAFETY: `size()` bytes from `at` on are claimed for this record, inside the mapping.
        unsafe { put_header!(to.ptr().add(at as usize), word0, time, self.site) };
        to.write(at + record::HEADER, self.bytes);
    }
}

/// One call: the thread's block, and the ring as it was found after `busy` was set.
#[derive(Clone)]
struct Call<'a> {
    block: &'a Block,
    ring: Cell<*const Ring>,
    /// When waiting for room ends (CLOCK_MONOTONIC ns), 0 = it has not begun.
    until: Cell<u64>,
}

impl<'a> Call<'a> {
    #[inline(always)]
    fn new() -> Self {
        // SAFETY: the block of the running thread, which outlives this call.
        let block = unsafe { &*tls::block() };
        Call { block, ring: Cell::new(core::ptr::null()), until: Cell::new(0) }
    }
    #[inline(always)]
    fn ring(&self) -> &Ring {
        // SAFETY: set by `stale` or `renew` to a ring, which is never unmapped while the process lives
        // (a forked child keeps the parent's, made private), before the body of a call goes on.
        unsafe { &*self.ring.get() }
    }
}

impl Local for Call<'_> {
    type W = AtomicU64;
    const SHORT: u64 = MIN_LANE / 4;

    #[inline(always)]
    fn busy(&self) -> bool {
        self.block.busy.load(Relaxed) != 0
    }
    #[inline(always)]
    fn set_busy(&self, v: bool) {
        self.block.busy.store(u32::from(v), Relaxed);
    }
    #[inline(always)]
    fn limit(&self) -> u64 {
        self.block.limit.load(Relaxed)
    }
    fn set_limit(&self, v: u64) {
        self.block.limit.store(v, Relaxed);
    }
    fn released(&self) -> &AtomicU64 {
        // SAFETY: stored before the lane; inside the mapping, which is never unmapped.
        unsafe { &*self.block.released.load(Relaxed) }
    }
    #[inline(always)]
    fn fence(&self) {
        compiler_fence(SeqCst);
    }
}

impl Env for Call<'_> {
    type B = Base;

    #[inline(always)]
    fn stale(&self) -> bool {
        let stale = attach::generation() != self.block.generation.load(Relaxed);
        // The ring after that: a handler that sets up the thread in between would leave this call, its
        // first, with "not stale" and no ring.
        compiler_fence(SeqCst);
        self.ring.set(self.block.ring.load(Relaxed).cast());
        stale
    }

    #[inline(always)]
    fn renew(&self, nested: bool) -> bool {
        match thread::renew(self.block, nested) {
            Some(ring) => {
                self.ring.set(ring);
                true
            }
            None => {
                // Here and not where the outcome is known: then the usual way need not look at it.
                attach::count_unattached();
                false
            }
        }
    }

    #[inline(always)]
    fn lane(&self) -> Option<ThreadLane<'_, AtomicU64, Base>> {
        let header = self.block.lane.load(Relaxed);
        if header.is_null() {
            return None;
        }
        // SAFETY: `lane` is set last when a lane is claimed: then the header lies in the mapped ring, its
        // fields are aligned words, and `released` and `data` are those of the same lane.
        unsafe {
            let w = |at: u64| &*header.add(at as usize).cast::<AtomicU64>();
            Some(ThreadLane {
                tail: w(lane::TAIL),
                written: w(lane::WRITTEN),
                lost: w(lane::LOST),
                marked: w(lane::MARKED),
                data: Base::at(self.block.data.load(Relaxed)),
                mask: self.block.mask.load(Relaxed),
            })
        }
    }

    #[inline(always)]
    fn thread(&self) -> u64 {
        (self.block.identity.load(Relaxed) & !thread::WAITS) >> 16
    }
    #[inline(always)]
    fn slot(&self) -> u16 {
        self.block.identity.load(Relaxed) as u16
    }
    #[inline(always)]
    fn shared(&self) -> SharedLane<'_, AtomicU64, Base> {
        let ring = self.ring();
        SharedLane {
            tail: ring.word(word::SHARED_TAIL),
            words: ring.commit_words(),
            released: ring.shared_released(),
            // SAFETY: inside the mapping, which is never unmapped.
            data: unsafe { Base::at(ring.granules) },
            backed: None,
        }
    }
    fn spill(&self) -> Option<SharedLane<'_, AtomicU64, Base>> {
        let ring = self.ring();
        (!matches!(ring.policy, Policy::DropNewest)).then(|| ring.spill_lane())
    }
    #[inline(always)]
    fn process_lost(&self) -> &AtomicU64 {
        self.ring().word(word::LOST)
    }
    fn count_nested(&self) {
        self.ring().word(word::NESTED).fetch_add(1, Relaxed);
    }

    fn count_spilled(&self) {
        self.ring().word(word::SPILLED).fetch_add(1, Relaxed);
        attach::spilled();
    }

    #[cold]
    #[inline(never)]
    fn back_spill(&self, end: u64) -> bool {
        let ring = self.ring();
        let _errno = SavedErrno::save();
        let began = sys::time::monotonic_ns();
        if ring.quota.closed(began) {
            return false;
        }
        let backed =
            ring.spill_lane().back(end, |from, least, most| ring.populate_spill(from, least, most, began));
        let took = sys::time::monotonic_ns() - began;
        let lane = self.block.lane.load(Relaxed);
        let (calls, longest) = if lane.is_null() {
            (ring.word(word::KERNEL_CALLS), ring.word(word::KERNEL_MAX_NS))
        } else {
            // SAFETY: as in `lane`.
            unsafe {
                (
                    &*lane.add(lane::KERNEL_CALLS as usize).cast::<AtomicU64>(),
                    &*lane.add(lane::KERNEL_MAX_NS as usize).cast::<AtomicU64>(),
                )
            }
        };
        calls.local_add(1);
        if took > longest.load(Relaxed) {
            longest.fetch_max(took, Relaxed);
        }
        backed
    }

    #[cold]
    fn wait_for_room(&self) -> bool {
        let ring = self.ring();
        match ring.policy {
            Policy::Block(timeout) if self.block.identity.load(Relaxed) & thread::WAITS != 0 => {
                let _errno = SavedErrno::save();
                let now = sys::time::monotonic_ns();
                if self.until.get() == 0 {
                    self.until.set(now.saturating_add(timeout));
                }
                let more = now < self.until.get();
                if more {
                    attach::wake_drain();
                    let _uncancelled = sys::thread::CancelDisabled::new();
                    sys::thread::nanosleep(core::time::Duration::from_micros(100));
                }
                more
            }
            _ => false,
        }
    }
}

/// Logs one record, whatever the filter says of its site's target.
///
/// Async-signal-safe. Never waits (unless the policy is `block`), keeps errno. A call before
/// [`init`] is counted ([`status`]) and goes nowhere.
#[inline(always)]
pub fn log<A: Args>(site: &'static Site, args: A) {
    logged(site.passes().unwrap_or(Way::Otherwise), site, args);
}

/// Logs one record of a site that has answered the way. What the macros call. Everything as [`log`].
#[inline(always)]
pub fn logged<A: Args>(way: Way, site: &'static Site, args: A) {
    if way == Way::Usual && site.is_for::<A>() {
        let call = Call::new();
        match call::try_usual(&call, &UsualRecord { site, args }) {
            Tried::Done => {}
            Tried::Nested => args.apart::<Nested>(site, 0),
            Tried::Left { stale: true } => args.apart::<Left>(site, STALE),
            Tried::Left { stale: false } => args.apart::<Left>(site, call.ring.get().expose_provenance()),
        }
    } else {
        args.apart::<Otherwise>(site, 0);
    }
}

struct Nested;

impl Apart for Nested {
    #[inline(always)]
    fn call<A: Args>(site: &'static Site, _: usize, args: A) {
        call::nested(&Call::new(), &UsualRecord { site, args });
    }
}

/// A call that finds no room, or whose thread has no lane or is new. The word is the ring as the call found it, or ...
struct Left;
/// ... that what it found was stale.
const STALE: usize = 0;

impl Apart for Left {
    #[inline(always)]
    fn call<A: Args>(site: &'static Site, ring: usize, args: A) {
        let call = Call::new();
        call.ring.set(core::ptr::with_exposed_provenance(ring));
        call::rest(&call, &UsualRecord { site, args }, ring == STALE);
    }
}

/// A site's first call in this process (or one whose site has no place in the arena), another clock, calls that wake
/// a drain.
struct Otherwise;

impl Apart for Otherwise {
    #[inline(always)]
    fn call<A: Args>(site: &'static Site, _: usize, args: A) {
        logged_otherwise(site, args, Now);
    }
}

#[inline(always)]
fn logged_otherwise<A: Args, T: Stamp>(site: &'static Site, args: A, time: T) {
    let mut r = SiteRecord { time, site, id: site.id::<A>(), args, inline_site: 0 };
    let _errno = (r.id == 0).then(SavedErrno::save);
    if r.id == 0 {
        let generation = attach::generation();
        match attach::register::<A>(site) {
            Some(id) => r.id = id,
            None => r.inline_site = site.facts::<A>().encoded_len() as u64,
        }
        if generation != 0 && attach::generation() != generation {
            return; // A handler has forked meanwhile, and this is the child: the call is its parent's.
        }
    }
    if r.id != 0 {
        site.settle();
    }
    call::log(&Call::new(), &r);
    attach::published();
}

/// The same at a time that the caller says. Async-signal-safe.
#[inline(never)]
pub fn log_at<A: Args>(site: &'static Site, args: A, time: Time) {
    logged_otherwise(site, args, At(time.ticks()));
}

/// Logs one record of a site that is not static: the record carries `facts`, so it is longer by as much.
/// Its argument types are those of `args`, whatever `facts` says. Async-signal-safe.
pub fn log_facts<A: Args>(facts: &SiteFacts<'_>, args: A) {
    let r = FactsRecord { facts: SiteFacts { types: A::TYPES, ..*facts }, args };
    call::log(&Call::new(), &r);
    attach::published();
}

/// Logs one chunk of captured output, under the site `id` that [`capture_site`] answered.
pub fn capture(id: CaptureSite, bytes: &[u8]) -> bool {
    let out = call::log(&Call::new(), &CaptureRecord { site: id.0, bytes });
    attach::published();
    matches!(out, Outcome::Lane | Outcome::Shared | Outcome::Spilled)
}

/// A registered source of captured output.
#[derive(Clone, Copy, Debug)]
pub struct CaptureSite(u32);

/// Registers a source of captured output (target `stdout`, `stderr`). None: not attached, or the site
/// arena is full.
pub fn capture_site(site: &'static Site) -> Option<CaptureSite> {
    attach::register::<()>(site).map(CaptureSite)
}
