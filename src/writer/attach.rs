//! This process's ring: how it comes to be, and what every call reads of it.
//!
//! Everything here but [`init`](super::init) is async-signal-safe: a forked child attaches in its first
//! log call, which may be in a handler.

use super::quota::Quota;
use super::{Base, fork};
use crate::channel::{self, AttachError, ChannelPaths, ClockFacts, ProducerFiles, ProducerSpec, Step};
use crate::env::Overflow;
use crate::lane::{
    SharedLane,
    shared::{GROWTH, places},
};
use crate::layout::{
    ctl,
    ring::{self, GRANULE, Geometry, ack, word},
    spill,
};
use crate::record::{Args, Site, SiteFacts, SiteId};
use crate::sync::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering::*, near};
use crate::sys::{self, Errno, Map, process::Facts};
use core::ptr::null_mut;

/// What is done with a record that does not fit the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Into the spill file.
    Spill,
    /// Counted, not written.
    DropNewest,
    /// Wait so many ns on threads that opted in, then spill.
    Block(u64),
}

/// What an attach needs to know; made once by `init` and never freed, so that forked children find it.
pub(super) struct Config {
    pub paths: ChannelPaths,
    pub geometry: Geometry,
    pub lane_bytes: u64,
    pub policy: Policy,
    /// Bytes for all spill files of the channel.
    pub spill_quota: Option<u64>,
    pub clock: u32,
    /// Calls wake a drain that parks.
    pub wakes: bool,
    /// How the ring's memory is held.
    pub memory: Memory,
}

/// How the ring's memory is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Locked in RAM.
    pub lock: bool,
    /// In huge pages, where there are any.
    pub huge: bool,
    /// All of it from the start.
    pub prefault: bool,
}

/// The ring of this process, in a page of its own: a forked child's ring gets another page, so that a
/// call that was interrupted by the fork resumes on what it had.
pub(super) struct Ring {
    /// Mappings and descriptors, kept for the life of the process.
    pub files: ProducerFiles,
    pub base: *mut u8,
    pub geometry: Geometry,
    /// The shared lane's commit words and granules, where the geometry says.
    commit_words: *const AtomicU64,
    pub granules: *mut u8,
    pub ack: *mut u8,
    pub nonce: u64,
    pub pid: u32,
    /// O_RDONLY, for the private copy in a forked child.
    pub read_fd: AtomicI32,
    /// To be asked for the spill's blocks.
    pub spill_fd: i32,
    /// The spill's mapping; its granules, 0 = there is none.
    pub spill: *mut u8,
    pub spill_granules: u64,
    /// Blocks that it may take.
    pub quota: Quota,
    pub policy: Policy,
    pub lane_bytes: u64,
    /// Lanes were prepared: claims make no system call.
    pub prepared: AtomicU32,
    /// Lanes are locked when they are claimed.
    pub lock: bool,
    /// The memory of all lanes is there.
    pub prefaulted: bool,
    /// errno of what was asked for the memory and could not be had, 0 = none: locking, huge pages, prefault.
    pub refused: [AtomicI32; 3],
}

impl Ring {
    #[inline(always)]
    pub fn word(&self, at: u64) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at < self.geometry.lane_data(0));
        // SAFETY: offsets come from the layout, inside the part of the mapping that is always allocated.
        unsafe { &*self.base.add(at as usize).cast::<AtomicU64>() }
    }
    pub fn ack_word(&self, at: u64) -> &AtomicU64 {
        // SAFETY: likewise in the ack file.
        unsafe { &*self.ack.add(at as usize).cast::<AtomicU64>() }
    }
    #[inline(always)]
    pub fn commit_words(&self) -> &[AtomicU64] {
        // SAFETY: the layout has `granules` words there.
        unsafe { core::slice::from_raw_parts(self.commit_words, self.geometry.granules as usize) }
    }
    pub fn shared_released(&self) -> &AtomicU64 {
        self.ack_word(ack::SHARED_RELEASED)
    }
    pub fn lane_word(&self, lane: u32, at: u64) -> &AtomicU64 {
        self.word(self.geometry.lane_header(lane) + at)
    }
    pub fn slot_word(&self, slot: u32, at: u64) -> &AtomicU64 {
        self.word(self.geometry.slot(slot) + at)
    }
    pub fn spill_lane(&self) -> SharedLane<'_, AtomicU64, Base> {
        let at = |offset: u64| {
            // SAFETY: inside the mapping, which is as long as its granules say. (The ring's start where there is none.)
            unsafe { self.spill.add(if self.spill_granules > 0 { offset as usize } else { 0 }) }
        };
        SharedLane {
            tail: self.word(word::SPILL_TAIL),
            // SAFETY: so many words are there. Most cannot be touched, and are not before they are backed.
            words: unsafe {
                core::slice::from_raw_parts(at(spill::commit_word(0)).cast(), self.spill_granules as usize)
            },
            released: self.ack_word(ack::SPILL_RELEASED),
            // SAFETY: as above.
            data: unsafe { Base::at(at(spill::granule(self.spill_granules, 0))) },
            backed: Some(self.word(word::SPILL_BACKED)),
        }
    }
    /// Puts memory behind the spill's positions from `from` up to one between `least` and `most`, as far as the
    /// quota goes. `now`: CLOCK_MONOTONIC, ns.
    pub fn populate_spill(&self, from: u64, least: u64, most: u64, now: u64) -> Option<u64> {
        let map = self.files.spill_map.as_ref()?;
        let to = self.quota.allows(self, from, least, most, now)?;
        // Memory only: the file has its length from the start, so neither a descriptor nor RLIMIT_FSIZE has a say.
        let open = |offset, len| map.open(offset, len).is_ok();
        let size = self.spill_granules;
        let all = places(from, to, size)
            .all(|(i, n)| open(spill::commit_word(i), n * 8) && open(spill::granule(size, i), n * GRANULE));
        if !all {
            self.quota.close(now);
        }
        // A window as large as a growth: one after the other they leave nothing out.
        if let Some(old) = from.checked_sub(RESIDENT + GROWTH.1) {
            places(old, old + GROWTH.1, size)
                .for_each(|(i, n)| map.let_go(spill::granule(size, i), n * GRANULE));
        }
        all.then_some(to)
    }
}

/// Granules of the spill that count as resident in its program: 4 MiB. What was written before is there for the drain,
/// and need not swell a program that it has nothing to do with.
const RESIDENT: u64 = (4 << 20) / GRANULE;

/// How large a spill's file is made: it takes no memory before it is needed. Twice what it may hold at a time, so
/// that one call that never ends (its thread was cancelled in the midst of it) costs no space that others need.
fn spill_granules(policy: Policy, quota: Option<u64>) -> u64 {
    match (policy, quota) {
        (Policy::DropNewest, _) => 0,
        (_, None) => spill::USUAL_GRANULES,
        (_, Some(q)) => {
            let granules = (q / GRANULE).saturating_mul(2).min(spill::MAX_GRANULES);
            granules.next_power_of_two().max(spill::WHOLE_GRANULES)
        }
    }
}

static CONFIG: AtomicPtr<Config> = AtomicPtr::new(null_mut());
static CURRENT: AtomicPtr<Ring> = AtomicPtr::new(null_mut());
/// `ctl`, mapped read-only by `init`; it is the channel's, so forked children keep it.
static CTL: AtomicPtr<u8> = AtomicPtr::new(null_mut());

static ZERO: AtomicU64 = AtomicU64::new(0);

/// What every call reads of its process, in one cache line that hardly anything writes.
#[repr(C, align(64))]
struct Hot {
    /// Word in a page that the kernel wipes in forked children.
    generation: AtomicPtr<AtomicU64>,
    /// How a call reads the clock (`READ_*`), and [`WAKES`]. One word, so that the usual cases are one compare.
    clock: AtomicU32,
    /// The drain's clock: `ctl`'s tick word once it is mapped.
    tick: AtomicPtr<AtomicU64>,
}

static HOT: Hot = Hot {
    generation: AtomicPtr::new((&raw const ZERO).cast_mut()),
    clock: AtomicU32::new(READ_UNKNOWN),
    tick: AtomicPtr::new((&raw const ZERO).cast_mut()),
};

#[inline(always)]
fn hot() -> &'static Hot {
    let p = near!(HOT: Hot);
    // SAFETY: the address of a static.
    unsafe { &*p }
}
/// Counts up in ordinary memory, so that no descendant repeats a generation.
static LAST_GENERATION: AtomicU32 = AtomicU32::new(0);
/// Attaches under way; a child forked in the midst of one looks for what they left open.
pub(super) static ATTACHING: AtomicU32 = AtomicU32::new(0);
static UNATTACHED: AtomicU64 = AtomicU64::new(0);
/// errno of the last attach that failed, and when (monotonic ns): a call tries again a second later.
static FAILED: AtomicI32 = AtomicI32::new(0);
static FAILED_AT: AtomicU64 = AtomicU64::new(0);
const TRY_AGAIN_NS: u64 = 1_000_000_000;

/// In [`Hot::clock`]: the processor's counter; the drain's word.
const READ_TSC: u32 = 0;
const READ_TICK: u32 = 1;
/// A system call; nothing is known before `init`.
const READ_MONOTONIC: u32 = 2;
const READ_UNKNOWN: u32 = 3;
/// A call wakes a drain that sleeps (idle policy `park`).
const WAKES: u32 = 1 << 8;
static LAST_WOKEN: AtomicU32 = AtomicU32::new(0);
pub(super) const CLOCK_TSC: u32 = 1;
pub(super) const CLOCK_MONOTONIC: u32 = 2;
pub(super) const CLOCK_TICK: u32 = 3;

/// Whether the clock is the processor's or the drain's, and no call wakes a drain. Never true before `init`: the
/// ring that a call then finds may be of another clock.
#[inline(always)]
pub(super) fn usual() -> bool {
    hot().clock.load(Relaxed) <= READ_TICK
}

/// The timestamp of a record, where [`usual`] was true.
#[inline(always)]
pub(super) fn usual_now() -> u64 {
    if hot().clock.load(Relaxed) == READ_TSC { sys::time::ticks() } else { tick() }
}

/// The drain's clock.
#[inline(always)]
fn tick() -> u64 {
    // SAFETY: points to a static, or into `ctl`, which is mapped for the life of the process.
    unsafe { &*hot().tick.load(Relaxed) }.load(Relaxed)
}

/// The timestamp of a record.
#[inline(always)]
pub(super) fn now() -> u64 {
    match hot().clock.load(Relaxed) {
        READ_TSC => sys::time::ticks(),
        READ_TICK => tick(),
        _ => other_clock(),
    }
}

/// Whether [`now`] counts as the processor does: read there, or by the drain.
pub(super) fn ticks_are_tsc() -> bool {
    hot().clock.load(Relaxed) & !WAKES != READ_MONOTONIC
}

#[cold]
#[inline(never)]
fn other_clock() -> u64 {
    match hot().clock.load(Relaxed) & !WAKES {
        READ_MONOTONIC => sys::time::monotonic_raw_ns(),
        READ_TICK => tick(),
        _ => sys::time::ticks(),
    }
}

/// The fork generation: 0 in a forked child that has not attached yet.
#[inline(always)]
pub(super) fn generation() -> u32 {
    // SAFETY: points to a static or to a page that is never unmapped.
    unsafe { &*hot().generation.load(Relaxed) }.load(Relaxed) as u32
}

pub(super) fn count_unattached() {
    UNATTACHED.fetch_add(1, Relaxed);
}

/// Whether this process has a ring (a forked child gets its own with its first log call).
pub fn attached() -> bool {
    !CURRENT.load(Acquire).is_null() && generation() != 0
}

/// Counters of this process. Async-signal-safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Log calls that found no ring: before `init`, or after attaching failed.
    pub unattached: u64,
    /// errno of the attach that failed, 0 = none did.
    pub attach_errno: i32,
    /// Calls that found another call of their thread open.
    pub nested: u64,
    /// Records lost by threads without a lane, and by those with one.
    pub lost: u64,
    /// Calls whose record went to the spill.
    pub spilled: u64,
    /// Random number of this process's ring, 0 = none.
    pub nonce: u64,
}

/// Counters of this process. Async-signal-safe.
pub fn status() -> Status {
    let mut s = Status {
        unattached: UNATTACHED.load(Relaxed),
        attach_errno: FAILED.load(Relaxed),
        ..Status::default()
    };
    if let Some(ring) = usable() {
        s.nonce = ring.nonce;
        s.nested = ring.word(word::NESTED).load(Relaxed);
        s.lost = ring.word(word::LOST).load(Relaxed);
        s.spilled = ring.word(word::SPILLED).load(Relaxed);
        for i in 0..ring.geometry.lanes {
            s.lost += ring.lane_word(i, ring::lane::LOST).load(Relaxed);
        }
    }
    s
}

/// The ring, if it is this process's own (and not one inherited by a fork).
pub(super) fn usable() -> Option<&'static Ring> {
    let p = CURRENT.load(Acquire);
    // SAFETY: a published ring is never freed.
    (!p.is_null() && generation() != 0).then(|| unsafe { &*p })
}

/// The ring as it stands, whoever made it.
pub(super) fn current() -> *mut Ring {
    CURRENT.load(Acquire)
}

/// A forked child lets go of its parent's ring, and of what its parent counted.
pub(super) fn forget(ring: *mut Ring) {
    UNATTACHED.store(0, Relaxed);
    FAILED.store(0, Relaxed);
    let _ = CURRENT.compare_exchange(ring, null_mut(), AcqRel, Acquire);
}

/// A word of the channel's `ctl`, 0 before `init`.
pub(super) fn ctl_word(at: u64) -> u64 {
    let ctl = CTL.load(Acquire);
    if ctl.is_null() {
        return 0;
    }
    // SAFETY: mapped for the life of the process and longer than any offset of the layout.
    unsafe { &*ctl.add(at as usize).cast::<AtomicU64>() }.load(Acquire)
}

/// After a call that published something: wakes a drain that sleeps and asked for it.
#[inline(always)]
pub(super) fn published() {
    if hot().clock.load(Relaxed) & WAKES != 0 {
        published_to_a_sleeper();
    }
}

#[cold]
#[inline(never)]
fn published_to_a_sleeper() {
    // No fence between the record's publication and the load of the word: the drain makes up for it by a
    // membarrier between its store of the word and its last look at the rings.
    wake_once(ctl::PARKS);
}

/// After a call that spilled: a drain that sleeps has room to make.
pub(super) fn spilled() {
    wake_once(ctl::PARKS | ctl::SLEEPS);
}

/// Wakes a drain that sleeps in one of these ways, once a process and sleep.
fn wake_once(how: u32) {
    let word = ctl_word(ctl::SLEEP) as u32;
    if word & how != 0 && LAST_WOKEN.swap(word, Relaxed) != word {
        wake_drain();
    }
}

/// Wakes a drain that sleeps, whatever its policy: for who waits for it. Async-signal-safe; a system call if it
/// sleeps. One that is just falling asleep may miss it.
pub fn wake_drain() {
    let ctl = CTL.load(Acquire);
    if !ctl.is_null() {
        // SAFETY: as in `ctl_word`.
        channel::wake_drain(unsafe { &*ctl.add(ctl::SLEEP as usize).cast::<AtomicU32>() });
    }
}

pub(super) fn configured() -> bool {
    !CONFIG.load(Acquire).is_null()
}

pub(super) fn channel_paths() -> Option<&'static ChannelPaths> {
    let c = CONFIG.load(Acquire);
    // SAFETY: never freed.
    (!c.is_null()).then(|| unsafe { &(*c).paths })
}

/// `init`'s part: remembers what attaching needs. Not async-signal-safe. False: it was done before.
pub(super) fn configure(config: Config, ctl_map: *mut u8) -> bool {
    let clock = match config.clock {
        CLOCK_TSC => READ_TSC,
        CLOCK_TICK => READ_TICK,
        _ => READ_MONOTONIC,
    };
    let clock = clock | if config.wakes { WAKES } else { 0 };
    let p = Box::into_raw(Box::new(config));
    if CONFIG.compare_exchange(null_mut(), p, AcqRel, Acquire).is_err() {
        // SAFETY: ours, and nobody saw it.
        drop(unsafe { Box::from_raw(p) });
        return false;
    }
    fork::register();
    CTL.store(ctl_map, Release);
    if !ctl_map.is_null() {
        // SAFETY: mapped for the life of the process, and longer than any offset of the layout.
        hot().tick.store(unsafe { ctl_map.add(ctl::TICK as usize) }.cast(), Relaxed);
    }
    // After the word that it may be read from.
    hot().clock.store(clock, Release);
    if usual() {
        crate::record::calls_are_usual();
    }
    true
}

/// The overflow policy as the environment names it.
pub(super) fn policy(o: Overflow) -> Policy {
    match o {
        Overflow::Spill => Policy::Spill,
        Overflow::DropNewest => Policy::DropNewest,
        Overflow::Block(t) => Policy::Block(t.as_nanos().min(u128::from(u64::MAX)) as u64),
    }
}

/// Makes this process's ring and publishes it. Another thread's, made meanwhile, stands.
///
/// # Errors
/// [`AttachError`]; ENXIO before `init`. What failed once is not tried again until the next `init`.
pub(super) fn attach() -> Result<(), AttachError> {
    let config = CONFIG.load(Acquire);
    let refused = |e| Err(AttachError { step: Step::Arguments, errno: Errno(e) });
    if config.is_null() {
        return refused(libc::ENXIO);
    }
    let since = || sys::time::monotonic_ns().saturating_sub(FAILED_AT.load(Relaxed));
    if FAILED.load(Relaxed) != 0 && since() < TRY_AGAIN_NS {
        return refused(FAILED.load(Relaxed));
    }
    // A handler that forked in the midst of this would leave two processes with one ring.
    let _blocked = sys::thread::SignalsBlocked::new();
    ATTACHING.fetch_add(1, SeqCst);
    // SAFETY: never freed.
    let r = try_attach(unsafe { &*config });
    ATTACHING.fetch_sub(1, SeqCst);
    if let Err(e) = r {
        FAILED_AT.store(sys::time::monotonic_ns(), Relaxed);
        FAILED.store(e.errno.0, Relaxed);
    } else {
        FAILED.store(0, Relaxed);
    }
    r
}

/// `init` tries again what failed before.
pub(super) fn clear_failure() {
    FAILED.store(0, Relaxed);
}

fn try_attach(config: &Config) -> Result<(), AttachError> {
    let memory = |errno| AttachError { step: Step::Memory, errno };
    let generation = wiped_word().map_err(memory)?;
    let page = page().map_err(memory)?;
    let spec = ProducerSpec {
        facts: Facts::read(),
        geometry: config.geometry,
        clock: clock_facts(config.clock),
        spill_granules: spill_granules(config.policy, config.spill_quota),
    };
    let files = match channel::create_producer(&config.paths, &spec) {
        Ok(f) => f,
        Err(e) => {
            // SAFETY: mapped above, unseen by anybody.
            unsafe { libc::munmap(page.cast(), size_of::<Ring>()) };
            return Err(e);
        }
    };
    let (prefaulted, refused) = hold_memory(&files, config.memory);
    let geometry = files.geometry;
    let ring = Ring {
        geometry,
        nonce: files.stem.nonce,
        pid: files.stem.pid,
        read_fd: AtomicI32::new(-1),
        spill_fd: files.spill.raw(),
        // Where there is none nothing of it is touched.
        spill: files.spill_map.as_ref().map_or(files.ring.addr(), Map::addr),
        spill_granules: files.spill_granules,
        quota: Quota::new(config.spill_quota),
        policy: config.policy,
        lane_bytes: config.lane_bytes.min(geometry.lane_stride),
        prepared: AtomicU32::new(0),
        lock: config.memory.lock,
        prefaulted,
        refused: refused.map(AtomicI32::new),
        base: files.ring.addr(),
        commit_words: files.ring.word(geometry.commit_word(0)),
        granules: files.ring.addr().wrapping_add(geometry.granule(0) as usize),
        ack: files.ack.addr(),
        files,
    };
    if config.wakes {
        sys::thread::membarrier_register();
    }
    // The generation before the ring: whoever finds a ring and generation 0 is a forked child.
    let next = loop {
        let n = LAST_GENERATION.fetch_add(1, Relaxed) + 1;
        // 0 is "wiped", u32::MAX is the complement of "never".
        if n != 0 && n != u32::MAX {
            break n;
        }
    };
    let _ = generation.compare_exchange(0, u64::from(next), AcqRel, Acquire);
    ring.read_fd.store(ring.files.ring_fd.raw(), Relaxed);
    copy_parents_sites(&ring);
    // What was logged while there was no ring is lost, and this ring says so.
    ring.word(word::LOST).store(UNATTACHED.load(Relaxed), Relaxed);
    // SAFETY: `page` is ours, large enough and aligned.
    unsafe { page.write(ring) };
    if CURRENT.compare_exchange(null_mut(), page, AcqRel, Acquire).is_err() {
        // A call that interrupted this one, or another thread, was first: ours goes.
        // SAFETY: ours, unseen; what is read out of it is not used there again.
        unsafe { page.read() }.files.discard(&config.paths);
        // SAFETY: likewise.
        unsafe { libc::munmap(page.cast(), size_of::<Ring>()) };
    }
    Ok(())
}

/// Does for a new ring's memory what the settings ask for. Nothing of it is needed to log: what cannot be had is
/// noted. Answers whether all lanes are there, and the errnos of locking, huge pages and prefault.
fn hold_memory(files: &ProducerFiles, memory: Memory) -> (bool, [i32; 3]) {
    let errno = |r: Result<(), Errno>| r.map_or_else(|e| e.0, |()| 0);
    let (map, g) = (&files.ring, &files.geometry);
    let mut refused = [0; 3];
    if memory.huge {
        // Before the lanes are allocated: they are what may lie in huge pages.
        refused[1] = errno(map.advise_huge());
    }
    if memory.prefault {
        // At its limit a memory cgroup kills whoever allocates: leave half of what there is.
        let len = g.file_len();
        let fits = sys::room::memory_room().is_none_or(|room| len <= room / 2);
        refused[2] = if fits { errno(map.populate(0, len)) } else { libc::ENOMEM };
        if refused[2] != 0 {
            let _ = map.discard(g.lane_data(0), len - g.lane_data(0));
        }
    }
    let prefaulted = memory.prefault && refused[2] == 0;
    if memory.lock {
        refused[0] = errno(map.lock(0, if prefaulted { g.file_len() } else { g.lane_data(0) }));
    }
    (prefaulted, refused)
}

fn wiped_word() -> Result<&'static AtomicU64, Errno> {
    let p = hot().generation.load(Acquire);
    if !core::ptr::eq(p, &raw const ZERO) {
        // SAFETY: never unmapped.
        return Ok(unsafe { &*p });
    }
    let word = sys::mem::wipe_on_fork_word()?;
    match hot().generation.compare_exchange(p, core::ptr::from_ref(word).cast_mut(), AcqRel, Acquire) {
        Ok(_) => Ok(word),
        // SAFETY: never unmapped. (Ours stays mapped, one page, once in a process's life.)
        Err(theirs) => Ok(unsafe { &*theirs }),
    }
}

fn page() -> Result<*mut Ring, Errno> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping.
    let p = unsafe { libc::mmap(null_mut(), size_of::<Ring>(), prot, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(p.cast()) }
}

/// What the parent's site arena held: a forked child's site numbers are its parent's.
static PARENTS_SITES: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static PARENTS_SITES_LEN: AtomicU64 = AtomicU64::new(0);

/// Keeps a copy of the parent's sites, before its ring is let go of. Read from the mapping, which is
/// still the shared one (of what it holds, entries whose numbers this process knows never change).
pub(super) fn keep_sites(ring: &Ring) {
    let len = ring.word(word::SITES_TAIL).load(Acquire).min(ring.geometry.arena);
    if len == 0 {
        return;
    }
    let Ok(copy) = sys::mem::zeros(len as usize) else { return };
    // SAFETY: both have `len` bytes, the arena is allocated from the start, and the copy is nobody else's.
    unsafe {
        let from = ring.base.add(ring.geometry.arena_at() as usize);
        core::ptr::copy_nonoverlapping(from, copy, len as usize);
    }
    PARENTS_SITES_LEN.store(len, Relaxed);
    PARENTS_SITES.store(copy, Release);
}

/// Into a new ring that nobody has logged to.
fn copy_parents_sites(ring: &Ring) {
    let from = PARENTS_SITES.load(Acquire);
    let len = PARENTS_SITES_LEN.load(Relaxed).min(ring.geometry.arena);
    if from.is_null() {
        return;
    }
    // The copy stays mapped: a grandchild that forks before this is done needs it, and two threads may
    // be here at a time. It is a few pages, once for each generation.
    // SAFETY: `from` has `len` bytes, and the arena has room for as many.
    unsafe {
        core::ptr::copy_nonoverlapping(from, ring.base.add(ring.geometry.arena_at() as usize), len as usize)
    };
    ring.word(word::SITES_TAIL).store(len, Release);
}

fn clock_facts(source: u32) -> ClockFacts {
    let read = || match source {
        CLOCK_TSC => sys::time::ticks(),
        _ => now(),
    };
    let (anchor_ticks, anchor_utc) = sys::time::both(read, sys::time::utc_ns);
    let tick_hz = match source {
        CLOCK_TSC => sys::time::ticks_hz(),
        CLOCK_MONOTONIC => 1_000_000_000,
        _ => 0,
    };
    ClockFacts { source, anchor_ticks, anchor_utc, tick_hz }
}

/// Registers the site in the arena. None: not attached, no room, or the site is another instance's.
pub(super) fn register<A: Args>(site: &'static Site) -> Option<u32> {
    let id = site.id::<A>();
    if id != 0 {
        return Some(id);
    }
    // A forked child's first call may be here: then its ring comes with the call, and its record
    // carries the entry.
    usable()?;
    if !site.claim::<A>() {
        return None;
    }
    site.set_id(write_entry(&site.facts::<A>())?);
    Some(site.id::<A>())
}

/// The same for a site that is described at run time.
pub(super) fn register_facts(id: &SiteId, facts: &SiteFacts<'_>) -> Option<u32> {
    if id.get() == 0 {
        id.set(write_entry(facts)?);
    }
    Some(id.get())
}

/// Writes an entry into the arena, answers its number. None: not attached, or no room.
fn write_entry(facts: &SiteFacts<'_>) -> Option<u32> {
    let ring = usable()?;
    let len = facts.encoded_len() as u64;
    let tail = ring.word(word::SITES_TAIL);
    // One xadd: two threads (or a call and a handler) that register one site each write an entry.
    let at = tail.fetch_add(len, AcqRel);
    if at + len > ring.geometry.arena {
        // Not given back: what another call got behind it would be given out twice.
        return None;
    }
    // SAFETY: these bytes of the arena were handed to this call alone.
    unsafe { facts.put(ring.base.add((ring.geometry.arena_at() + at) as usize)) };
    // A handler may have forked meanwhile: then the entry is not in the ring of this process.
    usable().is_some_and(|now| core::ptr::eq(now, ring)).then_some((at / 8) as u32 + 1)
}
