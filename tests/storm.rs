//! The storm: processes that log are killed and stopped at random, so is the drain, and what is in the
//! journal afterwards is held, record by record, against an acknowledgement log outside of the ring.
//!
//! Every producer process has three streams of calls (two threads that signal handlers interrupt, and a
//! succession of short-lived ones), forks children between its calls and inside of them, and ends by
//! SIGKILL, by exit or by exec. Each record describes itself (who, which call, what had returned before it
//! was made, a checksum over all of it), so tearing, doubling, loss and disorder show without an oracle.
//! Before a call its thread stores "call n in progress" into a plain shared file and after it "n returned":
//! those words, left behind by the dead, are what the journal must agree with.
//!
//! `SPILLRING_STORM=<n>`: kills of producers (default 200); `SPILLRING_STORM_SEED=<n>` repeats the plan
//! (not the scheduling); `SPILLRING_STORM_KEEP=1` leaves the files.
#![allow(unsafe_code)]

use spillring::drain::{Drain, DrainConfig};
use spillring::env::{Idle, Settings};
use spillring::journal::{Item, Loss, Reader, kind};
use spillring::layout::{ctl, ring};
use spillring::record::CompiledFormat;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

const LANE: u64 = 4096;
/// Largest text of a record.
const BIG: usize = 40 << 10;
const DEADLINE: Duration = Duration::from_secs(300);

// ---------------------------------------------------------------- random numbers

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn between(&mut self, a: u64, b: u64) -> u64 {
        a + self.below(b - a)
    }
}

// ---------------------------------------------------------------- the acknowledgement log

/// Pages of one group (a process, its image after exec, its forked children): page 0 is the process,
/// [`EXEC`] its next image, the others children; behind them a page of control words.
const PAGES: usize = 64;
const EXEC: usize = 63;
/// Most children of a group: each brings a ring, and a drain opens them all before its first commit.
const CHILDREN: usize = 5;
const CONTROL: usize = PAGES;
const PAGE: usize = 4096;
/// Streams of calls of one process, and contexts (main, two nested handlers) of each.
const STREAMS: usize = 3;
const CONTEXTS: usize = 3;

// Words of a page.
const W_PID: usize = 0;
const W_KIND: usize = 1;
const W_ENDED: usize = 2;
const W_RESUMED: usize = 3;
// Words of the control page.
const C_CHILDREN: usize = 0;
const C_REQUEST: usize = 1;
const C_FRENZY: usize = 2;
const C_HOLD: usize = 3;

// Kinds of a page.
const MAIN: u64 = 1;
const EXECED: u64 = 2;
const FORKED: u64 = 3;
const FORKED_IN_HANDLER: u64 = 4;

const REQUEST_EXIT: u64 = 1;
const REQUEST_EXEC: u64 = 2;

#[derive(Clone, Copy)]
struct Acks(*mut AtomicU64);

// SAFETY: a shared mapping of atomic words that is never unmapped while it is used.
unsafe impl Send for Acks {}
// SAFETY: likewise.
unsafe impl Sync for Acks {}

impl Acks {
    fn map(path: &Path, create: bool) -> Acks {
        let f = File::options().read(true).write(true).create(create).truncate(false).open(path).unwrap();
        let len = (PAGES + 1) * PAGE;
        if create {
            f.set_len(len as u64).unwrap();
        }
        // SAFETY: a new shared mapping of a file that is as long.
        let p = unsafe {
            use std::os::fd::AsRawFd;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, f.as_raw_fd(), 0)
        };
        assert!(p != libc::MAP_FAILED, "mmap {}", path.display());
        Acks(p.cast())
    }
    fn unmap(self) {
        // SAFETY: mapped by `map`; the caller keeps no copy.
        unsafe { libc::munmap(self.0.cast(), (PAGES + 1) * PAGE) };
    }
    fn word(&self, page: usize, i: usize) -> &AtomicU64 {
        assert!(page <= PAGES && i < PAGE / 8);
        // SAFETY: inside the mapping.
        unsafe { &*self.0.add(page * PAGE / 8 + i) }
    }
    /// The last call of this context that returned.
    fn returned(&self, page: usize, stream: usize, context: usize) -> &AtomicU64 {
        self.word(page, 8 + (stream * CONTEXTS + context) * 8)
    }
    /// The call that is in progress, 0 = none.
    fn progress(&self, page: usize, stream: usize, context: usize) -> &AtomicU64 {
        self.word(page, 9 + (stream * CONTEXTS + context) * 8)
    }
    /// Calls in progress.
    fn open(&self, page: usize) -> usize {
        (0..STREAMS * CONTEXTS)
            .filter(|i| {
                let (s, c) = (i / CONTEXTS, i % CONTEXTS);
                let p = self.progress(page, s, c).load(Relaxed);
                p != 0 && p != self.returned(page, s, c).load(Relaxed)
            })
            .count()
    }
}

fn ack_path(dir: &Path, group: u64) -> PathBuf {
    dir.join("acks").join(group.to_string())
}

// ---------------------------------------------------------------- one record

/// What a record says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rec {
    /// Group and page: who made it.
    producer: u64,
    stream: u64,
    /// Which of the threads that followed each other in the stream.
    thread: u64,
    context: u64,
    /// Which call of its context.
    seq: u64,
    /// Of each context of its thread: the last call that had returned before this one was made.
    before: [u64; CONTEXTS],
    len: u64,
}

impl Rec {
    fn crc(&self, filler: &[u8]) -> u32 {
        let b = self.before;
        let head =
            [self.producer, self.stream, self.thread, self.context, self.seq, b[0], b[1], b[2], self.len];
        let crc = head.iter().fold(0, |crc, w| crc32c::crc32c_append(crc, &w.to_le_bytes()));
        crc32c::crc32c_append(crc, filler)
    }

    /// Reads a rendered record back. None: it is torn.
    fn parse(text: &[u8]) -> Option<Rec> {
        let mut words = text.splitn(12, |b| *b == b' ');
        if !matches!(words.next()?, b"a" | b"b" | b"c") {
            return None;
        }
        let mut n = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
        let mut r = Rec {
            producer: n()?,
            stream: n()?,
            thread: n()?,
            context: n()?,
            seq: n()?,
            before: [n()?, n()?, n()?],
            len: n()?,
        };
        let crc = n()?;
        let filler = words.next()?;
        r.len = (filler.len() as u64 == r.len && u64::from(r.crc(filler)) == crc).then_some(r.len)?;
        Some(r)
    }

    fn log(&self, filler: &str) {
        let crc = self.crc(filler.as_bytes());
        let (p, s, t, c, q, b, n) =
            (self.producer, self.stream, self.thread, self.context, self.seq, self.before, self.len);
        match q % 3 {
            0 => spillring::info!(
                "a {} {} {} {} {} {} {} {} {} {} {}",
                p,
                s,
                t,
                c,
                q,
                b[0],
                b[1],
                b[2],
                n,
                crc,
                filler
            ),
            1 => spillring::warn!(
                "b {} {} {} {} {} {} {} {} {} {} {}",
                p,
                s,
                t,
                c,
                q,
                b[0],
                b[1],
                b[2],
                n,
                crc,
                filler
            ),
            _ => spillring::error!(
                "c {} {} {} {} {} {} {} {} {} {} {}",
                p,
                s,
                t,
                c,
                q,
                b[0],
                b[1],
                b[2],
                n,
                crc,
                filler
            ),
        }
    }
}

/// Most records fit a lane of 4 KiB, some only the shared lane, a few only the spill.
fn size_of_text(random: u64) -> usize {
    let r = (random >> 16) as usize;
    match random % 100 {
        0..84 => 20 + r % 700,
        84..97 => 1000 + r % 6000,
        _ => (16 << 10) + r % (BIG - (16 << 10)),
    }
}

// ---------------------------------------------------------------- a producer

static ACKS: AtomicUsize = AtomicUsize::new(0);
static GROUP: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
/// This process's page: a forked child changes its own copy.
static MY_PAGE: AtomicUsize = AtomicUsize::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

thread_local! {
    static STREAM: Cell<usize> = const { Cell::new(usize::MAX) };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

fn acks() -> Acks {
    Acks(ACKS.load(Relaxed) as *mut AtomicU64)
}

/// Where fillers come from: a call is to be most of what a producer does, so nothing is made for it.
const SHIFT: usize = 32 << 10;
static TABLE: AtomicUsize = AtomicUsize::new(0);

fn table() -> &'static str {
    // SAFETY: set by `make_table` before any call, to ASCII text that lives for ever.
    unsafe {
        let p = TABLE.load(Relaxed) as *const u8;
        std::str::from_utf8_unchecked(std::slice::from_raw_parts(p, SHIFT + BIG))
    }
}

fn make_table() {
    let text: Vec<u8> = (0..(SHIFT + BIG) as u64).map(|i| b'0' + (mix(i) & 63) as u8).collect();
    TABLE.store(text.leak().as_ptr() as usize, SeqCst);
}

/// One call with its marks. False: the process is a child by now that a handler forked inside the call.
/// No allocation: handlers come here, and children that were forked in one.
#[inline(never)]
fn call(stream: usize, thread: u64, context: usize) -> bool {
    let (a, page) = (acks(), MY_PAGE.load(Relaxed));
    let returned = a.returned(page, stream, context);
    let seq = returned.load(Relaxed) + 1;
    let producer = GROUP.load(Relaxed) * PAGES as u64 + page as u64;
    let random =
        mix(SEED.load(Relaxed) ^ producer << 40 ^ (stream as u64) << 36 ^ (context as u64) << 32 ^ seq);
    let len = size_of_text(random);
    let filler = &table()[(random >> 40) as usize % SHIFT..][..len];
    let record = Rec {
        producer,
        stream: stream as u64,
        thread,
        context: context as u64,
        seq,
        before: std::array::from_fn(|c| a.returned(page, stream, c).load(Relaxed)),
        len: len as u64,
    };
    let progress = a.progress(page, stream, context);
    progress.store(seq, SeqCst);
    record.log(filler);
    if MY_PAGE.load(Relaxed) != page {
        return false; // this call is the parent's, and so are its marks
    }
    returned.store(seq, SeqCst);
    progress.store(0, SeqCst);
    true
}

/// Forks; in the child the process has a page of its own. None: in the parent.
fn fork(kind: u64) -> Option<u64> {
    let a = acks();
    let page = a.word(CONTROL, C_CHILDREN).fetch_add(1, SeqCst) as usize + 1;
    if page > CHILDREN {
        return None;
    }
    // A handler that comes within must not fork, too: glibc's fork holds locks.
    let depth = DEPTH.replace(1);
    // SAFETY: no thread that is signalled allocates; the child only makes system calls and logs.
    let forked = unsafe { libc::fork() };
    DEPTH.set(depth);
    if forked != 0 {
        return None;
    }
    // SAFETY: always succeeds.
    let pid = unsafe { libc::getpid() };
    a.word(page, W_PID).store(pid as u64, SeqCst);
    a.word(page, W_KIND).store(kind, SeqCst);
    MY_PAGE.store(page, SeqCst);
    let random = mix(SEED.load(Relaxed) ^ GROUP.load(Relaxed) << 20 ^ page as u64);
    if random.is_multiple_of(2) {
        // It dies at a random instruction: nobody handles SIGALRM.
        let mut t: libc::itimerval = unsafe { std::mem::zeroed() };
        t.it_value.tv_usec = (100 + (random >> 8) % 6000) as libc::suseconds_t;
        // SAFETY: a timer of this process.
        unsafe { libc::setitimer(libc::ITIMER_REAL, &t, std::ptr::null_mut()) };
    }
    Some(random)
}

/// The rest of a child's life.
fn child(random: u64) -> ! {
    for _ in 0..20 + (random >> 32) % 200 {
        call(0, 0, 0);
    }
    acks().word(MY_PAGE.load(Relaxed), W_ENDED).store(1, SeqCst);
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

extern "C" fn handler(signal: i32) {
    // SAFETY: the running thread's errno.
    let errno = unsafe { *libc::__errno_location() };
    let stream = STREAM.get();
    if stream < STREAMS && !STOP.load(Relaxed) {
        let context = if signal == libc::SIGUSR1 { 1 } else { 2 };
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        let page = MY_PAGE.load(Relaxed);
        let n = acks().returned(page, stream, context).load(Relaxed);
        // A child that was forked and returns goes on with what it interrupted, so it may not do so in a
        // handler that interrupted another handler's way to its call.
        if context == 1
            && page == 0
            && depth == 0
            && mix(n ^ SEED.load(Relaxed) ^ GROUP.load(Relaxed) << 32).is_multiple_of(7)
        {
            if let Some(random) = fork(FORKED_IN_HANDLER) {
                for _ in 0..2 + random % 5 {
                    call(0, 0, 0);
                }
                // A nested call was counted: the call below is open, it resumes here and is not ours.
                if spillring::writer::status().nested == 0 || (random >> 4).is_multiple_of(3) {
                    child(random);
                }
                acks().word(MY_PAGE.load(Relaxed), W_RESUMED).store(1, SeqCst);
            } else {
                call(stream, 0, context);
            }
        } else if MY_PAGE.load(Relaxed) == page {
            call(stream, 0, context);
        }
        DEPTH.set(depth);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Waits where the drain is far behind: else writers outrun a drain that is killed ten times a second for
/// ever, and a lane whose spill is never parsed to its end never turns. Not for a victim's last moments.
fn pace() {
    let a = acks();
    let (hold, frenzy) = (a.word(CONTROL, C_HOLD), a.word(CONTROL, C_FRENZY));
    while hold.load(Relaxed) != 0 && frenzy.load(Relaxed) == 0 && !STOP.load(Relaxed) {
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// The two long-lived streams: handlers interrupt them, they fork.
fn stream(i: usize) {
    STREAM.set(i);
    let mut n = mix(SEED.load(Relaxed) ^ i as u64);
    while !STOP.load(Relaxed) {
        if !call(i, 0, 0) {
            // Forked by a handler inside the call, which has resumed and returned.
            child(mix(MY_PAGE.load(Relaxed) as u64));
        }
        pace();
        n = mix(n);
        if n.is_multiple_of(301)
            && let Some(random) = fork(FORKED)
        {
            child(random);
        }
    }
    STREAM.set(usize::MAX);
}

/// The third stream: threads that follow each other.
fn mayflies(i: usize) {
    let mut thread = 0;
    while !STOP.load(Relaxed) {
        thread += 1;
        let t = std::thread::Builder::new().spawn(move || {
            for _ in 0..20 + mix(thread) % 300 {
                call(i, thread, 0);
                pace();
            }
        });
        // None where the machine has no room for one more thread just now.
        if let Ok(t) = t {
            t.join().unwrap();
        }
    }
}

fn handle(signal: i32) {
    // SAFETY: the handler only does what may be done in one.
    unsafe {
        let mut a: libc::sigaction = std::mem::zeroed();
        a.sa_sigaction = handler as *const () as usize;
        a.sa_flags = libc::SA_RESTART;
        // The second may interrupt the first, which alone forks; not the other way round.
        if signal == libc::SIGUSR2 {
            libc::sigaddset(&mut a.sa_mask, libc::SIGUSR1);
        }
        libc::sigaction(signal, &a, std::ptr::null_mut());
    }
}

fn die_with_parent() {
    // SAFETY: a plain setting.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn settings(dir: &Path, quota: u64) -> Settings {
    let mut s = Settings::from(|_| None, 0).0;
    s.dir = dir.to_path_buf();
    s.channel = "storm".into();
    s.journal_dir = Some(dir.join("journals"));
    s.lane_bytes = LANE;
    s.spill_quota = Some(quota);
    s.segment_bytes = 4 << 20;
    s.retain_bytes = Some(1 << 40);
    s
}

fn producer(dir: &Path, quota: u64, group: u64, page: usize, seed: u64) {
    die_with_parent();
    let a = Acks::map(&ack_path(dir, group), false);
    ACKS.store(a.0 as usize, SeqCst);
    GROUP.store(group, SeqCst);
    SEED.store(seed, SeqCst);
    MY_PAGE.store(page, SeqCst);
    a.word(page, W_PID).store(u64::from(std::process::id()), SeqCst);
    a.word(page, W_KIND).store(if page == 0 { MAIN } else { EXECED }, SeqCst);
    let guard = spillring::init_with(&settings(dir, quota)).unwrap();
    make_table();
    handle(libc::SIGUSR1);
    handle(libc::SIGUSR2);
    // SAFETY: children are reaped by the kernel.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut random = Random(seed ^ group << 8);
    let threads: Vec<_> = (0..2).map(|i| std::thread::spawn(move || stream(i))).collect();
    let third = std::thread::spawn(|| mayflies(2));
    loop {
        std::thread::sleep(Duration::from_micros(random.between(50, 600)));
        let signal = if random.below(3) == 0 { libc::SIGUSR2 } else { libc::SIGUSR1 };
        use std::os::unix::thread::JoinHandleExt;
        let target = threads[random.below(2) as usize].as_pthread_t();
        // SAFETY: the thread is not joined yet.
        unsafe { libc::pthread_kill(target, signal) };
        match a.word(CONTROL, C_REQUEST).load(SeqCst) {
            REQUEST_EXIT => break,
            REQUEST_EXEC => {
                a.word(CONTROL, C_REQUEST).store(0, SeqCst);
                exec(dir, quota, group, seed);
            }
            _ => {}
        }
    }
    STOP.store(true, SeqCst);
    for t in threads {
        t.join().unwrap();
    }
    third.join().unwrap();
    a.word(page, W_ENDED).store(1, SeqCst);
    if random.below(2) == 0 {
        std::mem::forget(guard); // flushes if dropped
    }
}

/// The same process goes on as another image: the other threads end wherever they are.
fn exec(dir: &Path, quota: u64, group: u64, seed: u64) -> ! {
    let exe = CString::new(std::env::current_exe().unwrap().as_os_str().as_bytes()).unwrap();
    let dir = dir.to_str().unwrap().to_string();
    let args: Vec<CString> = [
        "storm",
        "producer",
        &dir,
        &quota.to_string(),
        &group.to_string(),
        &EXEC.to_string(),
        &seed.to_string(),
    ]
    .iter()
    .map(|s| CString::new(*s).unwrap())
    .collect();
    let mut p: Vec<*const libc::c_char> = args.iter().map(|c| c.as_ptr()).collect();
    p.push(std::ptr::null());
    // SAFETY: NUL-terminated strings in a null-terminated array.
    unsafe { libc::execv(exe.as_ptr(), p.as_ptr()) };
    panic!("exec: {}", std::io::Error::last_os_error());
}

// ---------------------------------------------------------------- the drain

fn drain(dir: &Path, quota: u64, last: bool, seed: u64) {
    if !last {
        die_with_parent();
    }
    let mut s = settings(dir, quota);
    s.idle = match seed % 5 {
        0 => Idle::Spin,
        1 => Idle::Yield,
        2 => Idle::Park,
        3 => Idle::Sleep(Duration::from_micros(200)),
        _ => Idle::Adaptive,
    };
    let mut lines = File::options().append(true).create(true).open(dir.join("drain.log")).unwrap();
    let mut hear = |l: &str| writeln!(lines, "{l}").unwrap();
    let mut d = Drain::open(DrainConfig::new(&s, s.channel_dir()).0).unwrap();
    if last {
        d.finish(&mut hear).unwrap();
        assert_eq!(d.producers(), (0, 0), "rings are left after the last drain");
    } else {
        let never = AtomicBool::new(false);
        d.run(&never, hear).unwrap();
    }
}

// ---------------------------------------------------------------- the storm itself

/// One run.
struct Plan {
    dir: PathBuf,
    seed: u64,
    quota: u64,
    kills: u64,
    drain_kills: u64,
    producers: usize,
}

#[derive(Debug, Default)]
struct Counts {
    processes: u64,
    kills: u64,
    in_call: u64,
    kills_while_stopped: u64,
    stops: u64,
    exits: u64,
    execs: u64,
    drain_kills: u64,
    drain_stops: u64,
    least_laps: u64,
    least_spilled: u64,
    spilled: u64,
}

fn word(f: &File, at: u64) -> u64 {
    let mut b = [0; 8];
    if f.read_exact_at(&mut b, at).is_err() {
        return 0;
    }
    u64::from_le_bytes(b)
}

/// CPU time of a child, which is how long a drain lives: a busy machine must not starve it.
fn cpu_time(pid: i32) -> Duration {
    // SAFETY: both write what they are given.
    unsafe {
        let (mut id, mut t) = (0, std::mem::zeroed::<libc::timespec>());
        if libc::clock_getcpuclockid(pid, &mut id) != 0 || libc::clock_gettime(id, &mut t) != 0 {
            return Duration::ZERO;
        }
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    }
}

/// A ring file, held open so that its words are still there when it is unlinked.
struct RingFile {
    ring: File,
    ack: Option<File>,
}

impl RingFile {
    fn word(&self, at: u64) -> u64 {
        word(&self.ring, at)
    }
    /// Bytes in the spill that the drain has not delivered.
    fn backlog(&self) -> u64 {
        let delivered = self.ack.as_ref().map_or(0, |f| word(f, ring::ack::SPILL_DELIVERED));
        let tail = spillring::lane::shared::position(self.word(ring::word::SPILL_TAIL));
        tail.saturating_sub(delivered) * ring::GRANULE
    }
    /// Most laps of a lane (lanes of short-lived threads may stand still), and records in the spill.
    fn state(&self) -> (u64, u64) {
        let lanes = self.word(ring::LANES) & 0xffff_ffff;
        let lane = |i: u64, at: u64| self.word(ring::LANE_HEADERS + i * ring::lane::LEN + at);
        let laps = (0..lanes)
            .take_while(|i| lane(*i, ring::lane::CAPACITY) != 0)
            .map(|i| lane(i, ring::lane::TAIL) / lane(i, ring::lane::CAPACITY));
        (laps.max().unwrap_or(0), self.word(ring::word::SPILLED))
    }
}

struct Slot {
    pid: i32,
    acks: Acks,
    page: usize,
    ring: Option<RingFile>,
    ends: Instant,
    end: End,
    stopped: Option<Instant>,
    started: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Kill,
    KillBlindly,
    Exit,
    Exec,
    Ending,
}

/// Every process of the storm is waited for here: children of dead producers come to us, too.
#[derive(Default)]
struct Family {
    /// Ours, and of these the ended ones. Others are forgotten: numbers of processes come again.
    ours: HashSet<i32>,
    ended: HashMap<i32, i32>,
}

impl Family {
    fn spawn(&mut self, dir: &Path, args: &[String]) -> i32 {
        let mut c = Command::new(std::env::current_exe().unwrap());
        let pid = c.args(&args[..1]).arg(dir).args(&args[1..]).spawn().unwrap().id() as i32;
        self.ours.insert(pid);
        pid
    }
    fn reap(&mut self, flags: i32) -> bool {
        let mut status = 0;
        // SAFETY: waits for any child of this process.
        let pid = unsafe { libc::waitpid(-1, &mut status, flags) };
        if self.ours.remove(&pid) {
            self.ended.insert(pid, status);
        }
        pid > 0
    }
    /// Its wait status, once it has ended.
    fn ended(&mut self, pid: i32) -> Option<i32> {
        while self.reap(libc::WNOHANG) {}
        self.ended.remove(&pid)
    }
    fn wait(&mut self, pid: i32) -> i32 {
        loop {
            if let Some(status) = self.ended(pid) {
                return status;
            }
            self.reap(0);
        }
    }
    fn wait_for_all(&mut self) {
        let begun = Instant::now();
        // SAFETY: asks whether there is a child, and takes none.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } >= 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "forked children do not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: a child of ours that was not waited for.
    unsafe { libc::kill(pid, signal) };
}

struct Storm {
    plan: Plan,
    random: Random,
    counts: Counts,
    next_group: u64,
    known: HashSet<String>,
    family: Family,
    /// So many rings that the drain is to catch up first.
    crowded: bool,
}

impl Storm {
    fn ms(&mut self, a: u64, b: u64) -> Duration {
        Duration::from_micros(self.random.between(a * 1000, b * 1000))
    }

    fn spawn(&mut self) -> Slot {
        let group = self.next_group;
        self.next_group += 1;
        self.counts.processes += 1;
        let acks = Acks::map(&ack_path(&self.plan.dir, group), true);
        let args = [
            "producer".into(),
            self.plan.quota.to_string(),
            group.to_string(),
            "0".into(),
            self.plan.seed.to_string(),
        ];
        let pid = self.family.spawn(&self.plan.dir, &args);
        let end = match self.random.below(20) {
            0 | 1 => End::Exit,
            2 | 3 => End::Exec,
            4 | 5 => End::KillBlindly,
            _ => End::Kill,
        };
        let ends = Instant::now() + self.ms(5, 60);
        Slot { pid, acks, page: 0, ring: None, ends, end, stopped: None, started: Instant::now() }
    }

    fn spawn_drain(&mut self, last: bool) -> i32 {
        let seed = self.random.next().to_string();
        let args = ["drain".into(), self.plan.quota.to_string(), u8::from(last).to_string(), seed];
        self.family.spawn(&self.plan.dir, &args)
    }

    /// The ring that a producer has made by now.
    fn find_ring(&mut self, pid: i32) -> Option<RingFile> {
        let dir = self.plan.dir.join("storm");
        let name = std::fs::read_dir(&dir).ok()?.find_map(|e| {
            let name = e.ok()?.file_name().into_string().ok()?;
            let stem = name.strip_suffix(".ring")?;
            (stem.starts_with(&format!("{pid}-")) && !self.known.contains(stem)).then(|| stem.to_string())
        })?;
        let open = |suffix: &str| {
            let path = dir.join(format!("{name}.{suffix}"));
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
        };
        let found = open("ring").map(|ring| RingFile { ring, ack: open("ack") });
        self.known.insert(name);
        found
    }

    fn note_victim(&mut self, s: &Slot) {
        let (laps, spilled) = s.ring.as_ref().map_or((0, 0), RingFile::state);
        self.counts.least_laps = self.counts.least_laps.min(laps);
        self.counts.least_spilled = self.counts.least_spilled.min(spilled);
        self.counts.spilled += spilled;
    }

    fn kill(&mut self, s: &mut Slot) {
        if s.end == End::Kill {
            // Victims are to die inside of their calls. What counts is what they leave, not what we see here.
            s.acks.word(CONTROL, C_FRENZY).store(1, SeqCst);
            let pause = self.ms(0, 6);
            std::thread::sleep(Duration::from_micros(150) + pause);
            let begun = Instant::now();
            while s.acks.open(s.page) == 0 && begun.elapsed() < Duration::from_millis(5) {
                std::hint::spin_loop();
            }
        }
        signal(s.pid, libc::SIGKILL);
        self.family.wait(s.pid);
        self.counts.kills += 1;
        self.counts.kills_while_stopped += u64::from(s.stopped.is_some());
        self.counts.in_call += u64::from(s.acks.open(s.page) > 0);
        self.note_victim(s);
    }

    /// One look at a producer. True: it has ended.
    fn tend(&mut self, s: &mut Slot) -> bool {
        let now = Instant::now();
        if let Some(status) = self.family.ended(s.pid) {
            assert!(
                s.end == End::Ending && status == 0,
                "a producer ended by itself ({:?}): {status}",
                s.end
            );
            self.counts.exits += 1;
            self.note_victim(s);
            return true;
        }
        assert!(
            now - s.started < Duration::from_secs(60),
            "producer {} (page {}, {:?}, stopped {:?}) did not get on: {:?}",
            s.pid,
            s.page,
            s.end,
            s.stopped,
            s.ring.as_ref().map(RingFile::state)
        );
        if s.ring.is_none() {
            s.ring = self.find_ring(s.pid);
        }
        if s.end == End::Ending {
            return false;
        }
        if let Some(until) = s.stopped
            && now >= until
        {
            signal(s.pid, libc::SIGCONT);
            s.stopped = None;
        }
        let behind = self.crowded || s.ring.as_ref().is_some_and(|r| r.backlog() > 1 << 20);
        s.acks.word(CONTROL, C_HOLD).store(u64::from(behind), SeqCst);
        let ready = !self.crowded
            && now >= s.ends
            && s.ring.as_ref().is_some_and(|r| {
                let (laps, spilled) = r.state();
                laps >= 3 && spilled > 0
            });
        if !ready {
            if s.stopped.is_none() && self.random.below(400) == 0 {
                signal(s.pid, libc::SIGSTOP);
                self.counts.stops += 1;
                s.stopped = Some(now + self.ms(1, 30));
            }
            return false;
        }
        match s.end {
            End::Kill | End::KillBlindly => {
                self.kill(s);
                return true;
            }
            End::Exit | End::Exec => {
                if s.stopped.take().is_some() {
                    signal(s.pid, libc::SIGCONT);
                }
                if s.end == End::Exit {
                    s.acks.word(CONTROL, C_REQUEST).store(REQUEST_EXIT, SeqCst);
                    s.end = End::Ending;
                    return false;
                }
                s.acks.word(CONTROL, C_REQUEST).store(REQUEST_EXEC, SeqCst);
                self.note_victim(s);
                self.counts.execs += 1;
                (s.page, s.ring, s.end) = (EXEC, None, End::Kill);
                s.ends = now + self.ms(5, 60);
            }
            End::Ending => {}
        }
        false
    }

    fn run(mut self) -> Counts {
        let dir = self.plan.dir.clone();
        std::fs::create_dir_all(dir.join("acks")).unwrap();
        (self.counts.least_laps, self.counts.least_spilled) = (u64::MAX, u64::MAX);
        let begun = Instant::now();
        let mut slots: Vec<Slot> = (0..self.plan.producers).map(|_| self.spawn()).collect();
        let mut drain: Option<i32> = None;
        let (mut drain_next, mut drain_ends, mut looked) = (begun, begun, begun);
        let (mut drain_cpu, mut drain_stopped) = (Duration::ZERO, false);
        while self.counts.kills < self.plan.kills || self.counts.drain_kills < self.plan.drain_kills {
            assert!(begun.elapsed() < DEADLINE, "the storm does not get on: {:?}", self.counts);
            for s in &mut slots {
                if self.tend(s) {
                    s.acks.unmap();
                    *s = self.spawn();
                }
            }
            if let Some(status) = drain.and_then(|d| self.family.ended(d)) {
                panic!("the drain ended by itself: {status}");
            }
            if Instant::now() >= looked + Duration::from_millis(20) {
                looked = Instant::now();
                self.crowded = std::fs::read_dir(dir.join("storm")).is_ok_and(|d| d.count() > 3 * 40);
            }
            match drain {
                None if Instant::now() >= drain_next => {
                    drain = Some(self.spawn_drain(false));
                    // Now and then so short that it dies while it recovers.
                    drain_cpu = if self.random.below(5) == 0 { self.ms(1, 8) } else { self.ms(8, 100) };
                    if self.crowded {
                        drain_cpu += Duration::from_millis(300);
                    }
                    drain_ends = Instant::now() + drain_cpu * 10;
                }
                Some(d) if drain_stopped && Instant::now() >= drain_next => {
                    if self.random.below(4) == 0 {
                        drain_ends = Instant::now(); // dies while it is stopped
                    }
                    if Instant::now() < drain_ends {
                        signal(d, libc::SIGCONT);
                    }
                    drain_stopped = false;
                }
                Some(d) if cpu_time(d) >= drain_cpu || Instant::now() >= drain_ends => {
                    signal(d, libc::SIGKILL);
                    self.family.wait(d);
                    drain = None;
                    self.counts.drain_kills += 1;
                    drain_next = Instant::now() + self.ms(0, 20);
                }
                Some(d) if !drain_stopped && self.random.below(300) == 0 => {
                    signal(d, libc::SIGSTOP);
                    drain_stopped = true;
                    self.counts.drain_stops += 1;
                    drain_next = Instant::now() + self.ms(1, 30);
                }
                _ => {}
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if let Some(d) = drain {
            signal(d, libc::SIGKILL);
            self.family.wait(d);
        }
        for s in slots {
            // The last ones are cut off wherever they are; they count for nothing.
            signal(s.pid, libc::SIGKILL);
            self.family.wait(s.pid);
            s.acks.unmap();
        }
        self.family.wait_for_all();
        let last = self.spawn_drain(true);
        let status = self.family.wait(last);
        assert!(status == 0, "the last drain: {status}");
        self.counts
    }
}

// ---------------------------------------------------------------- the reconciliation

/// What the journal has.
#[derive(Default)]
struct Journal {
    records: Vec<Rec>,
    /// Ring and thread that the journal names for each.
    threads: Vec<(u64, u64)>,
    torn: Vec<String>,
    gaps: Vec<String>,
    lost: u64,
    loss_records: u64,
    /// The first of them.
    losses: Vec<String>,
    bytes: u64,
    /// Text of one record, to tear.
    sample: Vec<u8>,
}

fn read_journal(dir: &Path) -> Journal {
    let mut j = Journal::default();
    let mut r = Reader::open(dir.join("journals").join("storm")).unwrap();
    let mut formats: HashMap<Vec<u8>, CompiledFormat> = HashMap::new();
    let mut text = Vec::new();
    while let Some(item) = r.next_batch().unwrap() {
        let batch = match item {
            Item::Batch(b) => b,
            gap => {
                j.gaps.push(format!("{gap:?}"));
                continue;
            }
        };
        for e in batch.entries() {
            match e.kind {
                kind::LOG => {}
                kind::LOSS => {
                    j.lost += Loss::decode(e.payload).unwrap().count;
                    j.loss_records += 1;
                    if j.loss_records < 6 {
                        j.losses.push(format!("record {}, {:?}", e.record_no, e.thread));
                    }
                    continue;
                }
                k => {
                    j.torn.push(format!("record {} of kind {k}", e.record_no));
                    continue;
                }
            }
            text.clear();
            let rendered = e.site.is_some_and(|site| {
                let f = match formats.get(&site.fmt) {
                    Some(f) => f,
                    None => formats
                        .entry(site.fmt.clone())
                        .or_insert_with(|| CompiledFormat::new(&site.fmt, &site.types)),
                };
                f.render(e.payload, &mut text).is_ok()
            });
            match Rec::parse(&text).filter(|_| rendered) {
                Some(rec) => {
                    j.bytes += text.len() as u64;
                    j.records.push(rec);
                    j.threads.push((e.thread.nonce, e.thread.thread));
                    if j.sample.is_empty() {
                        j.sample.clone_from(&text);
                    }
                }
                None => j.torn.push(format!(
                    "record {} ({} bytes of {:?}): {:?}",
                    e.record_no,
                    e.payload.len(),
                    e.thread,
                    String::from_utf8_lossy(&text[..text.len().min(200)])
                )),
            }
        }
    }
    j
}

/// What the acknowledgement log has: of each stream and context of each producer, the last call that
/// returned, and whether the next one was in progress.
#[derive(Default)]
struct Marks {
    calls: HashMap<(u64, u64, u64), (u64, bool)>,
    children: u64,
    children_cut: u64,
    children_cut_in_call: u64,
    forked_in_call: u64,
    resumed: u64,
}

fn read_marks(dir: &Path, groups: u64) -> Marks {
    let mut m = Marks::default();
    for group in 0..groups {
        let a = Acks::map(&ack_path(dir, group), false);
        for page in 0..PAGES {
            let word = |i| a.word(page, i).load(SeqCst);
            if matches!(word(W_KIND), FORKED | FORKED_IN_HANDLER) {
                m.children += 1;
                m.children_cut += u64::from(word(W_ENDED) == 0);
                m.children_cut_in_call += u64::from(word(W_ENDED) == 0 && a.open(page) > 0);
                m.forked_in_call += u64::from(word(W_KIND) == FORKED_IN_HANDLER);
                m.resumed += word(W_RESUMED);
            }
            for i in 0..STREAMS * CONTEXTS {
                let (s, c) = (i / CONTEXTS, i % CONTEXTS);
                let returned = a.returned(page, s, c).load(SeqCst);
                let open = a.progress(page, s, c).load(SeqCst) == returned + 1;
                if returned > 0 || open {
                    let key = (group * PAGES as u64 + page as u64, s as u64, c as u64);
                    m.calls.insert(key, (returned, open));
                }
            }
        }
        a.unmap();
    }
    m
}

#[derive(Debug, Default)]
struct Sum {
    returned: u64,
    /// Calls that had not returned: delivered, and not delivered.
    open_delivered: u64,
    open_not: u64,
}

/// Every violation, a few of each kind.
struct Violations(HashMap<&'static str, Vec<String>>);

impl Violations {
    fn add(&mut self, what: &'static str, detail: impl FnOnce() -> String) {
        let v = self.0.entry(what).or_default();
        v.push(if v.len() < 5 { detail() } else { String::new() });
    }
    fn verdict(self) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for (what, v) in self.0 {
            lines.push(format!("{what}: {} times", v.len()));
            lines.extend(v.into_iter().take(5).map(|d| format!("    {d}")));
        }
        Err(lines.join("\n"))
    }
}

/// Holds the journal's records against the marks. `lost`: how many the stream says are lost.
fn check(records: &[Rec], threads: &[(u64, u64)], lost: u64, marks: &Marks) -> Result<Sum, String> {
    let mut bad = Violations(HashMap::new());
    let mut seqs: HashMap<(u64, u64, u64), Vec<u64>> = HashMap::new();
    let mut before: HashMap<(u64, u64, u64), [u64; CONTEXTS]> = HashMap::new();
    let mut threads_of: HashMap<(u64, u64), (u64, u64, u64)> = HashMap::new();
    let mut names_of: HashMap<(u64, u64, u64), (u64, u64)> = HashMap::new();
    for (i, r) in records.iter().enumerate() {
        seqs.entry((r.producer, r.stream, r.context)).or_default().push(r.seq);
        // Order: nothing comes behind a record that was made when it had returned.
        let who = (r.producer, r.stream, r.thread);
        let b = before.entry(who).or_default();
        if r.seq <= b[r.context as usize] {
            bad.add("out of the order of calls (or doubled)", || format!("{r:?} behind {b:?}"));
        }
        for (b, r) in b.iter_mut().zip(r.before) {
            *b = r.max(*b);
        }
        b[r.context as usize] = b[r.context as usize].max(r.seq);
        if let Some(name) = threads.get(i) {
            let (a, b) = (*threads_of.entry(*name).or_insert(who), *names_of.entry(who).or_insert(*name));
            if a != who || b != *name {
                bad.add("under another thread's name", || format!("{r:?} under {name:?}: {a:?}, {b:?}"));
            }
        }
    }
    let mut sum = Sum::default();
    let mut delivered = 0;
    for (who, (returned, open)) in &marks.calls {
        let mut s = seqs.remove(who).unwrap_or_default();
        let all = s.len();
        s.sort_unstable();
        s.dedup();
        if s.len() != all {
            bad.add("delivered more than once", || format!("{who:?}: {} of {all}", all - s.len()));
        }
        delivered += s.len() as u64;
        sum.returned += returned;
        let most = returned + u64::from(*open);
        let last = s.last().copied().unwrap_or(0);
        if last > most || s.first() == Some(&0) {
            bad.add("never called", || format!("{who:?}: {last}, returned {returned}, open {open}"));
        }
        let beyond = u64::from(last > *returned);
        sum.open_delivered += beyond;
        sum.open_not += u64::from(*open) - beyond.min(u64::from(*open));
        if lost == 0 && s.len() as u64 - beyond != *returned {
            let missing: Vec<u64> = (1..=*returned).filter(|n| s.binary_search(n).is_err()).take(8).collect();
            bad.add("returned and not delivered", || {
                format!("{who:?}: {} of {returned}, first {missing:?}", returned - (s.len() as u64 - beyond))
            });
        }
    }
    for (who, s) in seqs {
        bad.add("from a producer that never called", || format!("{who:?}: {s:?}"));
    }
    // Written = delivered + lost: calls that had not returned may count or not.
    let (told, most) = (delivered + lost, sum.returned + sum.open_delivered + sum.open_not);
    if told < sum.returned || told > most {
        bad.add("written = delivered + lost", || {
            format!(
                "delivered {delivered} + lost {lost} = {told}, returned {} (with open calls {most})",
                sum.returned
            )
        });
    }
    bad.verdict()?;
    Ok(sum)
}

/// A checker that cannot fail proves nothing: the same journal with one record dropped, doubled, exchanged
/// with its successor, or with one byte changed.
fn the_checker_sees(j: &Journal, marks: &Marks, random: &mut Random) {
    let fails = |what: &str, records: &[Rec], lost| match check(records, &[], lost, marks) {
        Err(e) => println!("  control, {what}: {}", e.lines().next().unwrap_or("")),
        Ok(s) => panic!("the checker did not see {what}: {s:?}"),
    };
    // One that has returned for sure: not the last of its context.
    let returned = |r: &Rec| r.seq < marks.calls[&(r.producer, r.stream, r.context)].0;
    let i = loop {
        let i = random.below(j.records.len() as u64) as usize;
        if returned(&j.records[i]) {
            break i;
        }
    };
    let mut r = j.records.clone();
    let one = r.remove(i);
    fails("a record dropped", &r, j.lost);
    r.insert(i, one.clone());
    r.insert(random.below(r.len() as u64) as usize, one.clone());
    fails("a record doubled", &r, j.lost);
    let mut r = j.records.clone();
    let same = |x: &Rec| {
        (x.producer, x.stream, x.thread, x.context) == (one.producer, one.stream, one.thread, one.context)
    };
    let pair: Vec<usize> = (0..r.len()).filter(|k| same(&r[*k])).collect();
    if let [.., a, b] = pair[..] {
        r.swap(a, b);
        fails("two records exchanged", &r, j.lost);
    }
    fails("a loss that nobody had", &j.records, j.lost + 1_000_000);
    for _ in 0..100 {
        let mut torn = j.sample.clone();
        let at = random.below(torn.len() as u64) as usize;
        torn[at] ^= 1 << random.below(8);
        let same = Rec::parse(&torn).is_some_and(|r| Some(r) == Rec::parse(&j.sample));
        assert!(Rec::parse(&torn).is_none() || same && at < 2, "a flipped bit at {at} was not seen");
        let cut = &j.sample[..at];
        assert!(Rec::parse(cut).is_none(), "a record cut at {at} was not seen");
    }
}

fn storm(name: &str, plan: Plan) -> Counts {
    let begun = Instant::now();
    let (dir, seed, quota) = (plan.dir.clone(), plan.seed, plan.quota);
    let storm = Storm {
        random: Random(mix(seed)),
        counts: Counts::default(),
        next_group: 0,
        known: HashSet::new(),
        family: Family::default(),
        crowded: false,
        plan,
    };
    let counts = storm.run();
    let stormed = begun.elapsed();
    let groups = counts.processes;
    println!("{name}: seed {seed}, {stormed:.1?}");
    println!("  {counts:?}");
    let marks = read_marks(&dir, groups);
    println!(
        "  forked children {} (in a handler {}, of these resumed {}); ended before their time {}, in a call {}",
        marks.children, marks.forked_in_call, marks.resumed, marks.children_cut, marks.children_cut_in_call
    );
    let j = read_journal(&dir);
    println!(
        "  journal: {} records, {} MiB, {} lost in {} loss records",
        j.records.len(),
        j.bytes >> 20,
        j.lost,
        j.loss_records
    );
    let mut problems = Vec::new();
    problems.extend(j.torn.iter().take(10).map(|t| format!("torn: {t}")));
    problems.extend(j.gaps.iter().take(10).map(|g| format!("a gap: {g}")));
    match check(&j.records, &j.threads, j.lost, &marks) {
        Ok(s) => println!(
            "  returned {}, every one exactly once and in order; not returned: {} delivered, {} not",
            s.returned, s.open_delivered, s.open_not
        ),
        Err(e) => problems.push(e),
    }
    if quota > 1 << 30 && j.lost > 0 {
        problems.push(format!("{} records were lost although there was room: {:#?}", j.lost, j.losses));
    }
    // The drain's own account.
    let ctl_file = File::open(dir.join("storm/ctl")).unwrap();
    let [written, delivered, lost, rings] =
        [ctl::GONE_WRITTEN, ctl::GONE_DELIVERED, ctl::GONE_LOST, ctl::GONE_RINGS]
            .map(|at| word(&ctl_file, at));
    println!("  stat: {rings} rings, written {written} = delivered {delivered} + lost {lost}");
    if written != delivered + lost || delivered != j.records.len() as u64 || lost != j.lost {
        problems.push(format!(
            "the drain's account: {written} written, {delivered} delivered, {lost} lost; the journal: {}, {}",
            j.records.len(),
            j.lost
        ));
    }
    for e in std::fs::read_dir(dir.join("storm")).unwrap() {
        let n = e.unwrap().file_name().into_string().unwrap();
        if n != "ctl" && n != "drain.lock" {
            problems.push(format!("left in the channel: {n}"));
        }
    }
    let said = std::fs::read_to_string(dir.join("drain.log")).unwrap_or_default();
    for line in said.lines() {
        if ["left alone", "cannot", "not in it any more", "another journal"].iter().any(|w| line.contains(w))
        {
            problems.push(format!("the drain said: {line}"));
        }
    }
    assert!(problems.is_empty(), "{name}, seed {seed}, {}:\n{}", dir.display(), problems.join("\n"));
    if j.lost == 0 {
        the_checker_sees(&j, &marks, &mut Random(seed));
    }
    println!("  checked after {:.1?}", begun.elapsed());
    counts
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v}: a number is expected")))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let n = |i: usize| args[i].parse::<u64>().unwrap();
    match args.get(1).map(String::as_str) {
        Some("producer") => {
            producer(Path::new(&args[2]), n(3), n(4), n(5) as usize, n(6));
            return ExitCode::SUCCESS;
        }
        // Reads `DIR GROUPS` of a run that was kept.
        Some("check") => {
            let j = read_journal(Path::new(&args[2]));
            println!("{:#?}", j.losses);
            println!("{:?}", check(&j.records, &j.threads, 0, &read_marks(Path::new(&args[2]), n(3))));
            return ExitCode::SUCCESS;
        }
        Some("drain") => {
            drain(Path::new(&args[2]), n(3), n(4) == 1, n(5));
            return ExitCode::SUCCESS;
        }
        // What a test runner asks for.
        Some("--list") => {
            println!("storm: test");
            return ExitCode::SUCCESS;
        }
        Some(f) if !f.starts_with('-') && !"storm".contains(f) => return ExitCode::SUCCESS,
        _ => {}
    }
    // SAFETY: a plain setting: orphans come to this process.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let seed = number("SPILLRING_STORM_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        mix(now.as_nanos() as u64 ^ u64::from(std::process::id())) >> 32
    });
    let kills = number("SPILLRING_STORM").unwrap_or(200);
    println!("SPILLRING_STORM={kills} SPILLRING_STORM_SEED={seed}");
    let top = tempfile::Builder::new().prefix("spillring-storm-").tempdir_in("/dev/shm").unwrap().keep();
    let plan = |name: &str, quota, kills, drain_kills| Plan {
        dir: top.join(name),
        seed,
        quota,
        kills,
        drain_kills,
        producers: 4,
    };
    let c = storm("room for everything", plan("room", 1 << 40, kills, (kills * 3 / 10).max(60)));
    storm("too little room", plan("lossy", 256 << 10, (kills / 8).max(10), (kills / 20).max(5)));
    assert!(
        c.kills >= 200.min(kills) && c.in_call * 4 >= c.kills * 3,
        "too few kills inside of a call: {c:?}"
    );
    assert!(kills < 200 || c.in_call >= 150, "too few kills inside of a call: {c:?}");
    assert!(c.drain_kills >= 50, "too few kills of the drain: {c:?}");
    assert!(c.least_laps >= 3 && c.least_spilled >= 1, "a victim that did not wrap and spill: {c:?}");
    if number("SPILLRING_STORM_KEEP").is_none() {
        let _ = std::fs::remove_dir_all(&top);
    }
    ExitCode::SUCCESS
}
