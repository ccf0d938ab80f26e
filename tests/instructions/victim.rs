//! What runs under the tracer: the log calls, their preparation, and writers that are wrong on purpose.

use super::events::{Call, Events, Kind, letters};
use spillring::lane::call::Local;
use spillring::lane::{Record, ThreadLane};
use spillring::layout::ring::{lane, record};
use spillring::record::{Level, Site};
use spillring::sync::{AtomicPtr, AtomicU32, AtomicU64, Bytes, Ordering::*, compiler_fence};
use spillring::tls::{self, Block};

static EVENTS: AtomicPtr<Events> = AtomicPtr::new(core::ptr::null_mut());
static NEXT: AtomicU32 = AtomicU32::new(1);
static NEXT_NESTED: AtomicU32 = AtomicU32::new(1000);
/// What the handler of SIGUSR1 does.
static HANDLER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

static SMALL: Site = Site::new(Level::Info, "victim", file!(), line!(), "small {} of {}");

pub fn use_events(e: &'static Events) {
    EVENTS.store(core::ptr::from_ref(e).cast_mut(), SeqCst);
}

fn events() -> &'static Events {
    // SAFETY: set before anything is logged, never unmapped.
    unsafe { &*EVENTS.load(SeqCst) }
}

/// Hands over to the tracer.
#[inline(always)]
pub fn trap() {
    // SAFETY: the tracer swallows the signal and goes on behind the instruction.
    unsafe { core::arch::asm!("int3") };
}

fn next() -> u32 {
    NEXT.fetch_add(1, SeqCst)
}

/// Runs one call between its two events.
#[inline(always)]
fn acknowledged(call: Call, body: impl FnOnce()) {
    let e = events();
    e.begin(call);
    compiler_fence(SeqCst);
    body();
    compiler_fence(SeqCst);
    e.end(call);
}

pub fn small() {
    let id = next();
    let args = (id, u64::from(id) * 3);
    acknowledged(Call { id, kind: Kind::Small, len: 0 }, || spillring::writer::log(&SMALL, args));
}

pub fn text(len: u32) {
    let id = next();
    let t = letters(id, len);
    acknowledged(Call { id, kind: Kind::Text, len }, || spillring::info!("text {} {}", id, t));
}

pub fn wide() {
    let (id, len) = (next(), 240);
    let (t, n) = (letters(id, len), u64::from(id));
    acknowledged(Call { id, kind: Kind::Wide, len }, || {
        spillring::info!("wide {} {} {} {} {} {} {} {} {}", id, t, t, t, t, n * 3, n * 5, n * 7, t)
    });
}

pub fn fresh() {
    let id = next();
    acknowledged(Call { id, kind: Kind::Fresh, len: 0 }, || spillring::info!("fresh {}", id));
}

pub fn other() {
    let id = next();
    acknowledged(Call { id, kind: Kind::Other, len: 0 }, || spillring::warn!("other {}", id));
}

fn nested() {
    let id = NEXT_NESTED.fetch_add(1, SeqCst);
    acknowledged(Call { id, kind: Kind::Nested, len: 0 }, || {
        spillring::warn!("nested {} {:?}", id, id.is_multiple_of(2))
    });
}

extern "C" fn on_signal(_: i32) {
    let f = HANDLER.load(SeqCst);
    // SAFETY: set by `handle` from a function of this type.
    unsafe { core::mem::transmute::<*mut (), fn()>(f)() }
}

/// Installs `f` as what SIGUSR1 does.
pub fn handle(f: fn()) {
    HANDLER.store(f as *mut (), SeqCst);
    // SAFETY: a handler that only logs.
    unsafe {
        let mut sa: libc::sigaction = core::mem::zeroed();
        sa.sa_sigaction = on_signal as *const () as usize;
        sa.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &sa, core::ptr::null_mut()), 0);
    }
}

pub fn nested_handler() {
    nested();
}

fn raise() {
    // SAFETY: runs the handler here and now.
    unsafe { libc::raise(libc::SIGUSR1) };
}

// How each path is made ready. Each `trap` on the way is a pass of a drain.

/// Site, thread and handler are known.
pub fn warm() {
    (0..5).for_each(|_| small());
    raise();
    small();
}

/// Room before the end of the lane's lap for less than the next record, and the lane drained.
pub fn before_the_wrap() {
    // The thread's note takes 56 bytes, a text of 128 bytes 160.
    (0..12).for_each(|_| text(128));
    trap();
    (0..12).for_each(|_| text(128));
    text(100); // 136: 64 bytes are left
    trap();
}

/// Lane and shared lane full, something in the spill.
pub fn full() {
    warm();
    while spillring::writer::status().spilled == 0 {
        text(12_000);
    }
    let before = spillring::writer::status().spilled;
    while spillring::writer::status().spilled < before + 2 {
        small();
    }
    wide();
}

/// As above, and the next call finds no more of the spill backed.
pub fn before_the_spill_grows() {
    full();
    // SAFETY: a word in the header of the lane that this thread has.
    let growths = || unsafe {
        let header = (*tls::block()).lane.load(Relaxed);
        (*header.add(lane::KERNEL_CALLS as usize).cast::<AtomicU64>()).load(Relaxed)
    };
    let before = growths();
    while growths() == before {
        small();
    }
    // It grew for that one from 512 granules to twice as many; each takes two.
    (0..255).for_each(|_| small());
    assert_eq!(growths(), before + 1);
}

/// Lane and shared lane full, and nothing may spill.
pub fn full_without_spill() {
    warm();
    let lost = || spillring::writer::status().lost;
    while lost() == 0 {
        text(12_000);
    }
    let before = lost();
    while lost() < before + 2 {
        small();
    }
}

/// As above, and then room again: the next record is preceded by a marker.
pub fn after_a_loss() {
    full_without_spill();
    trap();
}

/// Near the end of the shared lane's first lap, drained.
pub fn before_the_shared_wrap() {
    warm();
    // 1024 granules of 64 bytes; a text of 2000 takes 33 with its key.
    (0..15).for_each(|_| text(2000));
    trap();
    (0..15).for_each(|_| text(2000));
    text(1300);
    trap();
}

/// This thread has not logged; another one has, and is gone.
pub fn after_another_thread() {
    let t = std::thread::spawn(|| {
        (0..3).for_each(|_| other());
        // SAFETY: no arguments.
        unsafe { libc::gettid() }
    });
    let tid = t.join().unwrap_or(0);
    // Joined is a moment before gone.
    // SAFETY: signal 0 is sent to nobody.
    while unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, 0) } == 0 {
        std::thread::yield_now();
    }
}

pub fn nothing() {}

/// A child, whose parent has logged and lives on.
pub fn in_a_child() {
    (0..3).for_each(|_| other());
    // The child's calls are another thread's; it knows the site.
    // SAFETY: this process has one thread.
    if unsafe { libc::fork() } != 0 {
        forever();
    }
}

/// Behind the call: whoever steps on comes to the tracer again, whatever it has missed.
pub fn end() -> ! {
    loop {
        trap();
    }
}

pub fn forever() -> ! {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

// The writers that are wrong.

struct Mem(*mut u8);
impl Bytes for Mem {
    #[inline(never)]
    fn write(&self, at: u64, src: &[u8]) {
        // SAFETY: bytes of this thread's lane that it has reserved.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), self.0.add(at as usize), src.len()) };
    }
    fn read(&self, _: u64, _: &mut [u8]) {}
}

#[derive(Clone)]
struct Mine(&'static Block);
impl Local for Mine {
    type W = AtomicU64;
    fn busy(&self) -> bool {
        self.0.busy.load(Relaxed) != 0
    }
    fn set_busy(&self, v: bool) {
        compiler_fence(SeqCst);
        self.0.busy.store(u32::from(v), Relaxed);
        compiler_fence(SeqCst);
    }
    fn limit(&self) -> u64 {
        self.0.limit.load(Relaxed)
    }
    fn set_limit(&self, v: u64) {
        self.0.limit.store(v, Relaxed);
    }
    fn released(&self) -> &AtomicU64 {
        // SAFETY: the thread has a lane, whose word this is.
        unsafe { &*self.0.released.load(Relaxed) }
    }
    fn fence(&self) {
        compiler_fence(SeqCst);
    }
}

fn mine() -> Mine {
    // SAFETY: the block of the running thread.
    Mine(unsafe { &*tls::block() })
}

#[derive(Clone)]
struct Small(u32);
impl Small {
    fn bytes(&self) -> [u8; 36] {
        let mut b = [0; 36];
        b[..8].copy_from_slice(&record::word0(36, record::RECORD).to_le_bytes());
        b[8..16].copy_from_slice(&spillring::sys::time::ticks().to_le_bytes());
        b[16..20].copy_from_slice(&SMALL.id::<(u32, u64)>().to_le_bytes());
        b[24..28].copy_from_slice(&self.0.to_le_bytes());
        b[28..].copy_from_slice(&(u64::from(self.0) * 3).to_le_bytes());
        b
    }
}
impl Record<Mem> for Small {
    fn size(&self) -> u64 {
        36
    }
    fn time(&self) -> u64 {
        0 // it takes it while it is written
    }
    fn write(&self, to: &Mem, at: u64, _: u64) {
        to.write(at, &self.bytes());
    }
}

/// The lane of this thread, which has logged before.
fn with_lane(f: impl FnOnce(&Mine, &ThreadLane<'_, AtomicU64, Mem>)) {
    let me = mine();
    let (header, data) = (me.0.lane.load(Relaxed), Mem(me.0.data.load(Relaxed)));
    // SAFETY: the thread has a lane, whose words these are.
    let w = |at: u64| unsafe { &*header.add(at as usize).cast::<AtomicU64>() };
    let lane = ThreadLane {
        tail: w(lane::TAIL),
        written: w(lane::WRITTEN),
        lost: w(lane::LOST),
        marked: w(lane::MARKED),
        data: &data,
        mask: me.0.mask.load(Relaxed),
    };
    f(&me, &lane);
}

fn wrong(body: impl FnOnce(&Mine, &ThreadLane<'_, AtomicU64, Mem>, Small)) {
    let id = next();
    acknowledged(Call { id, kind: Kind::Small, len: 0 }, || with_lane(|me, l| body(me, l, Small(id))));
}

/// No mistake: what the other two differ from.
pub fn by_hand() {
    wrong(|me, l, r| {
        me.set_busy(true);
        if let Some(p) = l.reserve(me, 36) {
            r.write(l.data, p.tail & l.mask, 0);
            l.publish(p);
        }
        me.set_busy(false);
    });
}

/// The tail is published before the copy is complete.
pub fn tail_before_the_copy() {
    wrong(|me, l, r| {
        me.set_busy(true);
        if let Some(p) = l.reserve(me, 36) {
            let at = p.tail & l.mask;
            l.data.write(at, &r.bytes()[..24]);
            l.publish(p);
            l.data.write(at + 24, &r.bytes()[24..]);
        }
        me.set_busy(false);
    });
}

/// `busy` is cleared before the tail is stored.
pub fn busy_cleared_before_the_tail() {
    wrong(|me, l, r| {
        me.set_busy(true);
        let p = l.reserve(me, 36);
        if let Some(p) = p {
            r.write(l.data, p.tail & l.mask, 0);
        }
        me.set_busy(false);
        if let Some(p) = p {
            l.publish(p);
        }
    });
}

/// A handler whose call takes the lane although a call is open in it.
pub fn nested_in_the_busy_lane() {
    let me = mine();
    let open = me.busy();
    me.set_busy(false);
    nested();
    me.set_busy(open);
}
