//! What the hazard tests of the writer share: real processes, a timer that interrupts anywhere, and the
//! journal as the judge.
#![allow(dead_code, unsafe_code)]

use crate::common::{Child, Scratch, fork_and, settings};
use libtest_mimic::{Arguments, Failed, Trial};
use spillring::drain::{Drain, DrainConfig, Totals};
use spillring::env::Settings;
use spillring::journal::{Item, Reader, kind};
use spillring::record::CompiledFormat;
use spillring::sync::AtomicU64;
use spillring::sync::Ordering::SeqCst;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One test: its name, why it can't run here, and what it does.
pub type Case = (&'static str, Option<String>, fn());

/// Runs them one after another on the only thread of this process, so that they can fork.
pub fn run(cases: Vec<Case>) -> ! {
    let mut args = Arguments::from_args();
    args.test_threads = Some(1);
    // Where tests must be complete, what can't run has failed.
    let strict = std::env::var("CI").is_ok_and(|v| v == "true");
    let trials = cases
        .into_iter()
        .map(|(name, lacks, f)| {
            let name = lacks.as_ref().map_or(name.to_string(), |why| format!("{name} ({why})"));
            let ignored = lacks.is_some() && !strict;
            let run = move || -> Result<(), Failed> {
                if let Some(why) = lacks {
                    return Err(why.into());
                }
                f();
                Ok(())
            };
            Trial::test(name, run).with_ignored_flag(ignored)
        })
        .collect();
    libtest_mimic::run(&args, trials).exit()
}

pub fn needs_root() -> Option<String> {
    (spillring::sys::process::euid() != 0).then(|| "needs root".into())
}

pub fn needs_tool(name: &str) -> Option<String> {
    let there =
        std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(name).is_file()));
    (!there).then(|| format!("needs {name}"))
}

/// A memory control group of version 1 for this process to make, inside its own, so that nothing outside it is
/// touched.
pub fn cgroup() -> PathBuf {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let line = own.lines().find_map(|l| l.split_once(":memory:").map(|l| l.1.to_string()));
    Path::new("/sys/fs/cgroup/memory")
        .join(line.unwrap_or_default().trim_start_matches('/'))
        .join(format!("spillring-test-{}", std::process::id()))
}

pub fn needs_cgroup() -> Option<String> {
    let d = cgroup();
    let ok = std::fs::create_dir(&d).is_ok() && d.join("memory.limit_in_bytes").exists();
    let _ = std::fs::remove_dir(&d);
    (!ok).then(|| "needs a writable memory control group of version 1".into())
}

pub fn small(dir: &Scratch) -> Settings {
    let mut s = settings(dir);
    s.lane_bytes = 4096;
    s.lanes = 4;
    s
}

/// A forked child that logs to the channel; it is ended by SIGALRM if it hangs.
pub fn producer(s: &Settings, f: impl FnOnce()) -> Child {
    fork_and(|| {
        unsafe { libc::alarm(50) };
        let guard = spillring::init_with(s).unwrap();
        f();
        std::mem::forget(guard);
    })
}

/// Waits for a child of this process; its status.
pub fn wait(pid: i32) -> i32 {
    let mut st = 0;
    loop {
        let r = unsafe { libc::waitpid(pid, &mut st, 0) };
        if r == pid {
            return st;
        }
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINTR));
    }
}

pub fn kill(pid: i32, sig: i32) {
    assert!(pid > 1);
    assert_eq!(unsafe { libc::kill(pid, sig) }, 0);
}

pub fn soon(what: &str, mut f: impl FnMut() -> bool) {
    let t = Instant::now();
    while !f() {
        assert!(t.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Words that forked children share.
pub fn shared_words() -> &'static [AtomicU64; 512] {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    unsafe {
        let p = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(p, libc::MAP_FAILED);
        &*p.cast()
    }
}

/// What a channel's journal says when all is over.
pub struct Judged {
    pub status: i32,
    pub texts: Vec<String>,
    /// Whose they are.
    pub pids: Vec<u32>,
    /// The child that was waited for.
    pub pid: u32,
    pub totals: Totals,
    pub notices: Vec<String>,
    /// Rings left, and those thought alive.
    pub left: (usize, usize),
}

impl Judged {
    /// A fork between two calls, or in one that had not looked at its ring yet, leaves that call to parent
    /// and child, each its own. Takes those of the children out, at most one each, and answers how many
    /// there were. What the parent's process delivered stays as it is.
    pub fn without_childrens_own(&mut self, prefix: &str) -> usize {
        let mut seen = std::collections::BTreeSet::new();
        let pids = std::mem::take(&mut self.pids);
        let mut at = pids.iter();
        self.texts.retain(|t| {
            let pid = *at.next().unwrap();
            if pid == self.pid || !t.starts_with(prefix) {
                assert!(pid != self.pid || t.starts_with(prefix), "{t:?} in the parent's ring");
                return true;
            }
            assert!(seen.insert(pid), "a child delivered two records of its parent: {t}");
            false
        });
        seen.len()
    }
    /// Everything was delivered, nothing was refused, and nothing is left behind.
    pub fn clean(&self) -> &Judged {
        assert_eq!(self.status, 0, "{:?}", self.notices);
        assert_eq!((self.left, self.totals.lost), ((0, 0), 0), "{:?}", self.notices);
        assert!(!self.notices.iter().any(|n| n.contains("quarantine")), "{:?}", self.notices);
        self
    }
}

pub fn drain_of(s: &Settings) -> Drain {
    Drain::open(DrainConfig::new(s, s.channel_dir()).0).unwrap()
}

/// Drains while the child runs, then to the end.
pub fn drained(s: &Settings, child: Child) -> Judged {
    let mut d = drain_of(s);
    let mut notices = Vec::new();
    while child.running() {
        let p = d.pass(false).unwrap();
        notices.extend(d.take_notices());
        if p.read == 0 {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    let pid = child.pid() as u32;
    let j = finished(s, d, child.wait(), notices);
    Judged { pid, ..j }
}

/// Drains only when the child has ended.
pub fn drained_after(s: &Settings, child: Child) -> Judged {
    let pid = child.pid() as u32;
    let status = child.wait();
    Judged { pid, ..finished(s, drain_of(s), status, Vec::new()) }
}

pub fn finished(s: &Settings, mut d: Drain, status: i32, mut notices: Vec<String>) -> Judged {
    let t = Instant::now();
    loop {
        d.finish(&mut |l: &str| notices.push(l.to_string())).unwrap();
        if d.producers().0 == 0 || t.elapsed() > Duration::from_secs(5) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (totals, left) = (d.totals(), d.producers());
    drop(d);
    let (pids, texts) = journal(s).into_iter().unzip();
    Judged { status, texts, pids, pid: 0, totals, notices, left }
}

/// Pid and text of each record of the settings' journal.
pub fn journal(s: &Settings) -> Vec<(u32, String)> {
    let mut r = Reader::open(s.journal_dir.as_ref().unwrap().join(&s.channel)).unwrap();
    let mut all = Vec::new();
    while let Some(item) = r.next_batch().unwrap() {
        let Item::Batch(b) = item else { panic!("the journal has a gap") };
        for e in b.entries().filter(|e| e.kind == kind::LOG) {
            // Only a hostile ring has records without one.
            let Some(site) = e.site else {
                all.push((e.thread.pid, "? 0".into()));
                continue;
            };
            let mut text = Vec::new();
            let good = CompiledFormat::new(&site.fmt, &site.types).render(e.payload, &mut text).is_ok();
            let text = if good { String::from_utf8_lossy(&text).into_owned() } else { "? 0".into() };
            all.push((e.thread.pid, text));
        }
    }
    all
}

/// Texts of the form "who n": each `who` counts from 0, in order, without a gap or a double. Answers how
/// many each has.
pub fn counts(texts: &[String]) -> BTreeMap<String, u64> {
    let mut next = BTreeMap::new();
    for t in texts {
        let (who, n) = t.split_once(' ').unwrap_or_else(|| panic!("{t:?}"));
        let n: u64 = n.split(' ').next().unwrap().parse().unwrap();
        let expected = next.entry(who.to_string()).or_insert(0);
        assert_eq!(n, *expected, "{who} out of order");
        *expected += 1;
    }
    next
}

/// Installs a handler.
pub fn on(sig: i32, f: extern "C" fn(i32), flags: i32) {
    unsafe {
        let mut a: libc::sigaction = std::mem::zeroed();
        a.sa_sigaction = f as *const () as usize;
        a.sa_flags = flags | libc::SA_RESTART;
        assert_eq!(libc::sigaction(sig, &a, std::ptr::null_mut()), 0);
    }
}

/// A timer that sends `sig` to the thread that made it.
pub struct Timer(libc::timer_t);

impl Timer {
    pub fn new(sig: i32) -> Timer {
        unsafe {
            let mut e: libc::sigevent = std::mem::zeroed();
            e.sigev_notify = libc::SIGEV_THREAD_ID;
            e.sigev_signo = sig;
            e.sigev_notify_thread_id = libc::syscall(libc::SYS_gettid) as i32;
            let mut t: libc::timer_t = std::mem::zeroed();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut e, &mut t), 0);
            Timer(t)
        }
    }
    /// Once after `ns`, then every `every` ns (0 = no more).
    pub fn arm(&self, ns: i64, every: i64) {
        let at = |n| libc::timespec { tv_sec: 0, tv_nsec: n };
        let spec = libc::itimerspec { it_interval: at(every), it_value: at(ns) };
        unsafe { assert_eq!(libc::timer_settime(self.0, 0, &spec, std::ptr::null_mut()), 0) };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Whether a call of this thread is open: what a handler has interrupted.
pub fn call_open() -> bool {
    unsafe { &*spillring::tls::block() }.busy.load(SeqCst) != 0
}

/// A child by the bare system call: no hook runs, the C library knows nothing.
pub fn raw_fork() -> i32 {
    unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0usize, 0usize, 0usize, 0usize) as i32 }
}

/// `f` in a child that shares this process's memory, TLS included, while it waits (as vfork does).
pub fn vfork_and(f: &mut dyn FnMut()) -> i32 {
    extern "C" fn enter(arg: *mut libc::c_void) -> i32 {
        let f: &mut &mut dyn FnMut() = unsafe { &mut *arg.cast() };
        f();
        unsafe { libc::_exit(0) }
    }
    let mut stack = vec![0u8; 256 << 10];
    let top = (stack.as_mut_ptr_range().end as usize & !15) as *mut libc::c_void;
    let mut f = f;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    unsafe { libc::clone(enter, top, flags, (&raw mut f).cast()) }
}

/// Lines of `/proc/PID/maps` and descriptors of a process that contain `part`.
pub fn holds(pid: i32, part: &str) -> Vec<String> {
    let mut v: Vec<String> = std::fs::read_to_string(format!("/proc/{pid}/maps"))
        .unwrap()
        .lines()
        .filter(|l| l.contains(part))
        .map(String::from)
        .collect();
    for e in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let to = std::fs::read_link(e.path()).unwrap_or_default();
        if to.to_string_lossy().contains(part) {
            v.push(to.to_string_lossy().into_owned());
        }
    }
    v
}

/// The nonce of the only ring there is, as it stands in file names.
pub fn only_nonce(s: &Settings) -> String {
    let mut v: Vec<String> = std::fs::read_dir(s.channel_dir())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".ring") && !n.starts_with('.'))
        .collect();
    assert_eq!(v.len(), 1, "{v:?}");
    v.pop().unwrap().strip_suffix(".ring").unwrap().split_once('-').unwrap().1.to_string()
}

/// Runs `f` in a child with mounts of its own and a tmpfs of `size` at the settings' directory.
pub fn with_tmpfs(s: &Settings, size: &str, f: impl FnOnce()) -> i32 {
    use std::os::unix::ffi::OsStrExt;
    std::fs::create_dir_all(&s.dir).unwrap();
    fork_and(|| unsafe {
        libc::alarm(80);
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let (no, root) = (c"none".as_ptr(), c"/".as_ptr());
        assert_eq!(libc::mount(no, root, std::ptr::null(), private, std::ptr::null()), 0);
        let at = std::ffi::CString::new(s.dir.as_os_str().as_bytes()).unwrap();
        let opt = std::ffi::CString::new(format!("size={size},mode=700")).unwrap();
        let r = libc::mount(c"t".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), 0, opt.as_ptr().cast());
        assert_eq!(r, 0);
        f();
    })
    .wait()
}

/// Every system call but these kills the process.
pub fn sandbox(allowed: &[i64]) {
    let stmt = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut f = vec![stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (i, nr) in allowed.iter().enumerate() {
        let to = (allowed.len() - i) as u8;
        f.push(stmt(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *nr as u32, to, 0));
    }
    f.push(stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS, 0, 0));
    f.push(stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    let prog = libc::sock_fprog { len: f.len() as u16, filter: f.as_mut_ptr() };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let tsync = libc::SECCOMP_FILTER_FLAG_TSYNC;
        let r = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, tsync, &prog);
        assert_eq!(r, 0);
    }
}
