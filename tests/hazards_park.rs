//! Who enters the kernel to wake a drain, and who never does: the idle policies and membarrier. What an idle
//! drain asks the kernel, and that it misses nothing for it; that readers cost a writer no call.
#![allow(unsafe_code)] // sandboxes, words shared with children

mod common;
mod hazard_kit;

use common::{Scratch, fork_and, settings};
use hazard_kit::*;
use spillring::channel::{Channel, Role};
use spillring::drain::{Drain, DrainConfig, Embedded};
use spillring::env::{Idle, Overflow, Settings};
use spillring::info;
use spillring::layout::ctl;
use spillring::sync::Ordering::SeqCst;
use spillring::sync::{AtomicBool, AtomicU64};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

fn main() {
    match std::env::var("SPILLRING_HAZARD_ROLE").as_deref() {
        Ok("parked") => return parked_role(),
        Ok("idle") => return idle_role(),
        _ => {}
    }
    run(vec![
        ("no_other_policy_enters_the_kernel_for_a_drain_that_sleeps", None, others_never_wake),
        ("a_writer_wakes_once_a_sleep", None, once_a_sleep),
        ("a_parked_drain_is_woken_by_its_writer", needs_tool("strace"), parked),
        ("who_waits_wakes_a_drain_of_any_policy", None, who_waits),
        ("without_membarrier_the_drain_says_so_and_looks_by_itself", None, no_membarrier),
        ("an_idle_drain_sleeps_and_asks_for_nothing", needs_tool("strace"), idle),
        ("rings_and_deaths_are_seen_told_or_not", None, told_or_not),
        #[cfg(feature = "cli")]
        ("readers_cost_a_writer_no_call", None, readers_and_a_writer),
        #[cfg(feature = "cli")]
        ("stat_misses_no_ring_that_is_taken_away", needs_tool("strace"), taken_away),
    ])
}

/// The drain's sleep word, as a drain would store it.
struct Sleep(std::fs::File);

impl Sleep {
    fn of(s: &Settings) -> Sleep {
        Channel::create_or_open(&s.channel_dir(), true, Role::Producer).unwrap();
        let ctl = s.channel_dir().join("ctl");
        Sleep(std::fs::OpenOptions::new().read(true).write(true).open(ctl).unwrap())
    }
    fn set(&self, v: u64) {
        self.0.write_all_at(&v.to_le_bytes(), ctl::SLEEP).unwrap();
    }
    fn get(&self) -> u64 {
        let mut b = [0; 8];
        self.0.read_exact_at(&mut b, ctl::SLEEP).unwrap();
        u64::from_le_bytes(b)
    }
}

fn with_idle(dir: &Scratch, idle: Idle) -> Settings {
    let mut s = settings(dir);
    (s.idle, s.lane_bytes) = (idle, 1 << 20);
    s
}

/// Logs, with `sleep` in the drain's word, in a process that the kernel kills for any system call. How it
/// ended.
fn logs_in_a_sandbox(idle: Idle, sleep: u64) -> i32 {
    let dir = Scratch::new();
    let s = with_idle(&dir, idle);
    let word = Sleep::of(&s);
    producer(&s, || {
        let log = |i: u64| info!("p {}", i);
        // The first call makes the thread's lane and registers the site.
        log(0);
        word.set(sleep);
        sandbox(&[libc::SYS_exit_group]);
        (1..10_000).for_each(log);
    })
    .wait()
}

fn killed_by(status: i32) -> Option<i32> {
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

fn others_never_wake() {
    let ms = Duration::from_millis(1);
    for idle in [Idle::Adaptive, Idle::Spin, Idle::Yield, Idle::Sleep(ms)] {
        // Odd: a drain sleeps, or was killed in its sleep.
        assert_eq!(logs_in_a_sandbox(idle, 7), 0, "{idle:?}");
    }
    assert_eq!(logs_in_a_sandbox(Idle::Park, 8), 0, "a drain that is awake");
    assert_eq!(killed_by(logs_in_a_sandbox(Idle::Park, 7)), Some(libc::SIGSYS), "one that sleeps");
}

fn once_a_sleep() {
    // A call that wakes somebody inside the sandbox is killed for it.
    let dir = Scratch::new();
    let s = with_idle(&dir, Idle::Park);
    let sleep = Sleep::of(&s);
    sleep.set(8);
    let out = shared_words();
    let child = producer(&s, || {
        let log = |i: u64| info!("p {}", i);
        log(0);
        out[0].store(1, SeqCst);
        while out[1].load(SeqCst) == 0 {
            std::hint::spin_loop();
        }
        // Asleep since then: this one pays, and nobody after it.
        log(1);
        sandbox(&[libc::SYS_exit_group]);
        (2..5000).for_each(log);
        out[0].store(2, SeqCst);
        // The next sleep: somebody has to pay again, and dies of it here.
        while out[1].load(SeqCst) == 1 {
            std::hint::spin_loop();
        }
        out[0].store(3, SeqCst);
        log(5000);
        out[0].store(4, SeqCst);
    });
    for (step, value) in [(1, 11), (2, 15)] {
        soon("the writer comes so far", || out[0].load(SeqCst) == step || !child.running());
        assert_eq!(out[0].load(SeqCst), step, "it was killed before");
        sleep.set(value);
        out[1].store(step, SeqCst);
    }
    let status = child.wait();
    assert_eq!((killed_by(status), out[0].load(SeqCst)), (Some(libc::SIGSYS), 3), "status {status:#x}");
}

const RECORDS: u64 = 200;

/// A writer, and a drain that parks, in two processes.
fn parked_role() {
    // SAFETY: ends this process if it hangs.
    unsafe { libc::alarm(100) };
    let mut s = Settings::from(|_| None, 0).0;
    s.dir = PathBuf::from(std::env::var_os("SPILLRING_HAZARD_DIR").unwrap());
    (s.channel, s.idle) = ("t".into(), Idle::Park);
    s.journal_dir = Some(s.dir.join("journals"));
    let sleep = Sleep::of(&s);
    let writer = producer(&s, || {
        for i in 0..RECORDS {
            // Each into a sleep of its own, if the drain comes to it.
            let seen = sleep.get();
            for _ in 0..200 {
                let now = sleep.get();
                if now & 1 == 1 && now != seen {
                    break;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            // Between the word and the sleep lies the drain's last look.
            std::thread::sleep(Duration::from_millis(2));
            info!("p {}", i);
        }
    });
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut drain = Drain::open(DrainConfig::new(&s, s.channel_dir()).0).unwrap();
    let waits = std::thread::spawn(move || {
        let status = writer.wait();
        STOP.store(true, SeqCst);
        status
    });
    let totals = drain.run(&STOP, |l: &str| eprintln!("{l}")).unwrap();
    assert_eq!(waits.join().unwrap(), 0, "the writer");
    assert_eq!((totals.records, totals.lost), (RECORDS, 0));
    println!("sleeps {}", sleep.get() / 4);
}

fn parked() {
    let dir = Scratch::new();
    let log = dir.path().join("strace");
    let mut c = std::process::Command::new("strace");
    c.args(["-f", "-e", "trace=futex,membarrier", "-o"]).arg(&log).arg(std::env::current_exe().unwrap());
    c.env("SPILLRING_HAZARD_ROLE", "parked").env("SPILLRING_HAZARD_DIR", dir.path());
    let o = c.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
    assert!(o.status.success(), "{out}{err}");
    let sleeps: u64 = out.trim().strip_prefix("sleeps ").unwrap().parse().unwrap();
    let (mut wakes, mut woken, mut waits) = (0, 0, 0);
    // A call that others ran into stands in two lines: its beginning, by pid, until it is resumed.
    let mut begun: HashMap<&str, String> = HashMap::new();
    let text = std::fs::read_to_string(&log).unwrap();
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').unwrap();
        let mut call = rest.trim().to_string();
        if let Some(start) = call.strip_suffix("<unfinished ...>") {
            begun.insert(pid, start.to_string());
            continue;
        }
        if call.starts_with("<...") {
            let end = call.split_once("resumed>").unwrap().1.to_string();
            call = begun.remove(pid).unwrap_or_default() + &end;
        }
        // Not the private ones of the standard library.
        if call.contains("FUTEX_WAKE, 1") {
            wakes += 1;
            woken += u64::from(call.ends_with("= 1"));
        }
        waits += u64::from(call.contains("FUTEX_WAIT, "));
    }
    eprintln!(
        "{sleeps} sleeps, {waits} in the kernel, {wakes} calls of the writer for them, {woken} woke the drain"
    );
    // At most one for each sleep of the drain; and most of them found it in the kernel, but one is enough:
    // nobody else wakes it.
    assert!(wakes <= sleeps && waits <= sleeps, "{wakes} wakes, {waits} waits in {sleeps} sleeps");
    assert!(woken >= 1, "no wake of {wakes} found the drain asleep");
}

/// Nobody waits for the end of a drain's sleep: not a flush, not a call that waits for room, not its stop.
fn who_waits() {
    let long = Duration::from_secs(3600);
    for idle in [Idle::Sleep(long), Idle::Adaptive, Idle::Park] {
        let dir = Scratch::new();
        let mut s = with_idle(&dir, idle);
        (s.lane_bytes, s.overflow) = (16 << 10, Overflow::Block(Duration::from_secs(20)));
        let child = fork_and(|| {
            // SAFETY: ends this process if it hangs.
            unsafe { libc::alarm(50) };
            std::mem::forget(spillring::init_with(&s).unwrap());
            let drain = Embedded::start(DrainConfig::new(&s, s.channel_dir()).0, |_: &str| {}).unwrap();
            spillring::writer::may_wait(true);
            for i in 0..20u64 {
                info!("p {}", i);
                spillring::flush(Duration::from_secs(20)).unwrap();
            }
            // A lane has room for some hundred of these.
            (20..5000u64).for_each(|i| info!("p {} {}", i, "x".repeat(20)));
            assert_eq!(spillring::writer::status().spilled, 0, "a call has waited for room in vain");
            spillring::flush(Duration::from_secs(20)).unwrap();
            // Deep in its sleep.
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(drain.stop().unwrap().records, 5000);
        });
        assert_eq!(child.wait(), 0, "{idle:?}");
    }
}

/// `call` fails with ENOSYS from here on.
fn without(call: i64) {
    let stmt = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut f = [
        stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        stmt(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, 0, 1),
        stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0),
        stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let prog = libc::sock_fprog { len: f.len() as u16, filter: f.as_mut_ptr() };
    // SAFETY: the filter lives for the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &prog), 0);
    }
}

fn no_membarrier() {
    static SAID: AtomicU64 = AtomicU64::new(0);
    let dir = Scratch::new();
    let s = with_idle(&dir, Idle::Park);
    let sleep = Sleep::of(&s);
    let child = fork_and(|| {
        // SAFETY: ends this process if it hangs.
        unsafe { libc::alarm(50) };
        without(libc::SYS_membarrier);
        std::mem::forget(spillring::init_with(&s).unwrap());
        let hear = |l: &str| {
            SAID.fetch_add(
                u64::from(l.starts_with("SPILLRING_IDLE=park: ") && l.contains("membarrier")),
                SeqCst,
            );
        };
        let drain = Embedded::start(DrainConfig::new(&s, s.channel_dir()).0, hear).unwrap();
        for i in 0..20u64 {
            info!("p {}", i);
            spillring::flush(Duration::from_secs(20)).unwrap();
        }
        soon("the drain says so", || SAID.load(SeqCst) > 0);
        for i in 20..40u64 {
            info!("p {}", i);
            spillring::flush(Duration::from_secs(20)).unwrap();
            assert_eq!(sleep.get() & 1, 0, "it wants to be woken");
        }
        assert_eq!(drain.stop().unwrap().records, 40);
        assert_eq!(SAID.load(SeqCst), 1);
    });
    assert_eq!(child.wait(), 0);
    let texts: Vec<String> = journal(&s).into_iter().map(|r| r.1).collect();
    assert_eq!(counts(&texts), [("p".to_string(), 40)].into());
}

/// Looks that an idle drain is left alone for.
const LOOKS: u64 = 120;

/// Two writers that have nothing to say, and a drain of the default policy that has nothing to do.
fn idle_role() {
    // SAFETY: ends this process if it hangs.
    unsafe { libc::alarm(100) };
    let mut s = Settings::from(|_| None, 0).0;
    s.dir = PathBuf::from(std::env::var_os("SPILLRING_HAZARD_DIR").unwrap());
    (s.channel, s.journal_dir) = ("t".into(), Some(s.dir.join("journals")));
    let out = shared_words();
    let writers = [0, 1].map(|i| {
        producer(&s, || {
            info!("p {}", i);
            soon("the drain has been idle", || out[0].load(SeqCst) == 1);
        })
    });
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut drain = Drain::open(DrainConfig::new(&s, s.channel_dir()).0).unwrap();
    let channel = Channel::create_or_open(&s.channel_dir(), false, Role::Producer).unwrap();
    let ends = std::thread::spawn(move || {
        let word = |at| channel.ctl().word(at).load(SeqCst);
        soon("both are drained", || word(ctl::DELIVERED) == 2);
        // Those that it spins through before it sleeps are seen as one.
        let (mut looks, mut last) = (0, 0);
        soon("it has looked often enough", || {
            looks += u64::from(std::mem::replace(&mut last, word(ctl::PASSES)) != last);
            looks >= LOOKS
        });
        out[0].store(1, SeqCst);
        soon("it has taken the rings away", || word(ctl::GONE_RINGS) == 2);
        STOP.store(true, SeqCst);
    });
    assert_eq!(drain.run(&STOP, |l: &str| eprintln!("{l}")).unwrap().records, 2);
    ends.join().unwrap();
    writers.into_iter().for_each(|w| assert_eq!(w.wait(), 0));
}

fn idle() {
    let dir = Scratch::new();
    let log = dir.path().join("strace");
    let mut c = std::process::Command::new("strace");
    let calls = "trace=ppoll,getdents64,fcntl";
    c.args(["-f", "-e", calls, "-o"]).arg(&log).arg(std::env::current_exe().unwrap());
    c.env("SPILLRING_HAZARD_ROLE", "idle").env("SPILLRING_HAZARD_DIR", dir.path());
    let o = c.output().unwrap();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    let text = std::fs::read_to_string(&log).unwrap();
    let count = |what: &str| text.lines().filter(|l| l.contains(what)).count() as u64;
    let (sleeps, scans, probes) = (count("ppoll("), count("getdents64("), count("F_SETLEASE, F_RDLCK"));
    eprintln!("{sleeps} sleeps, {scans} reads of directories, {probes} leases asked for");
    // Each look is a sleep. Directories are read at the beginning and the end, and every few seconds; leases are
    // asked for less and less often, and when the kernel has told of a death.
    assert!(sleeps >= LOOKS - 10 && scans < LOOKS / 4 && probes < LOOKS / 4, "{sleeps} {scans} {probes}");
}

fn rings(s: &Settings) -> usize {
    let all = std::fs::read_dir(s.channel_dir()).into_iter().flatten().flatten();
    all.filter(|e| e.file_name().to_string_lossy().ends_with(".ring")).count()
}

fn told_or_not() {
    for told in [true, false] {
        let dir = Scratch::new();
        let s = with_idle(&dir, Idle::Adaptive);
        let out = shared_words();
        let drain = fork_and(|| {
            // SAFETY: ends this process if it hangs.
            unsafe { libc::alarm(50) };
            static STOP: AtomicBool = AtomicBool::new(false);
            if !told {
                without(libc::SYS_inotify_init1);
            }
            let mut drain = Drain::open(DrainConfig::new(&s, s.channel_dir()).0).unwrap();
            std::thread::spawn(|| {
                soon("it is to end", || out[0].load(SeqCst) == 1);
                STOP.store(true, SeqCst);
            });
            out[1].store(1, SeqCst);
            assert_eq!(drain.run(&STOP, |l: &str| eprintln!("{l}")).unwrap().records, 6);
        });
        soon("the drain is there", || out[1].load(SeqCst) == 1);
        for i in 0..3u64 {
            let child = producer(&s, || {
                info!("p {}", i);
                out[2].store(i + 1, SeqCst);
                soon("it is to go on", || out[3].load(SeqCst) == i + 1);
                info!("p {}", i);
            });
            soon("it has logged", || out[2].load(SeqCst) == i + 1);
            // The last one has its ring killed at once, and the drain has long slept by then.
            if i == 2 {
                std::thread::sleep(Duration::from_millis(1500));
            }
            out[3].store(i + 1, SeqCst);
            assert_eq!(child.wait(), 0);
            soon("its ring is taken away", || rings(&s) == 0);
        }
        out[0].store(1, SeqCst);
        assert_eq!(drain.wait(), 0, "told: {told}");
        assert_eq!(journal(&s).len(), 6);
    }
}

/// `stat`, `tail` and the others look into a ring, and ask it for a lease, while its process logs and may not
/// enter the kernel at all.
#[cfg(feature = "cli")]
fn readers_and_a_writer() {
    const EACH: u64 = 2000;
    let dir = Scratch::new();
    let s = with_idle(&dir, Idle::Adaptive);
    let out = shared_words();
    let drain = {
        let (s, out) = (&s, out);
        fork_and(move || {
            // SAFETY: ends this process if it hangs.
            unsafe { libc::alarm(50) };
            static STOP: AtomicBool = AtomicBool::new(false);
            let mut drain = Drain::open(DrainConfig::new(s, s.channel_dir()).0).unwrap();
            std::thread::spawn(|| {
                soon("it is to end", || out[2].load(SeqCst) == 1);
                STOP.store(true, SeqCst);
            });
            drain.run(&STOP, |l: &str| eprintln!("{l}")).unwrap();
        })
    };
    out[0].store(1, SeqCst);
    let writer = producer(&s, || {
        info!("p {}", 0u64);
        sandbox(&[libc::SYS_exit_group]);
        // Each round takes longer than a reader lives; the lane has room for more than one.
        for round in 1.. {
            out[1].store(round, SeqCst);
            while out[0].load(SeqCst) == round {
                std::hint::spin_loop();
            }
            if out[0].load(SeqCst) == 0 {
                break;
            }
            for i in 0..EACH {
                info!("p {}", i);
                (0..300).for_each(|_| std::hint::spin_loop());
            }
        }
    });
    soon("the writer writes", || out[1].load(SeqCst) == 1 || !writer.running());
    let delivered = || {
        let channel = Channel::create_or_open(&s.channel_dir(), false, Role::Producer).unwrap();
        channel.ctl().word(ctl::DELIVERED).load(SeqCst)
    };
    let channel = s.channel_dir().display().to_string();
    let commands: [&[&str]; 4] =
        [&["stat", &channel], &["tail", "-n", "10", &channel], &["inspect", "channel", &channel], &["ls"]];
    let mut round = 1;
    for args in commands.iter().cycle().take(20) {
        soon("what is written is delivered", || delivered() == 1 + (round - 1) * EACH);
        let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_spillring"));
        c.args(*args)
            .env("SPILLRING_DIR", &s.dir)
            .env("SPILLRING_JOURNAL_DIR", s.journal_dir.as_ref().unwrap());
        let reader = c.stdout(std::process::Stdio::null()).spawn().unwrap();
        out[0].store(round + 1, SeqCst);
        let status = { reader }.wait().unwrap();
        assert!(status.success(), "{args:?}: {status}");
        round += 1;
        soon("the round is over", || out[1].load(SeqCst) == round || !writer.running());
    }
    out[0].store(0, SeqCst);
    assert_eq!(writer.wait(), 0, "a call entered the kernel");
    soon("all is delivered", || delivered() == 1 + (round - 1) * EACH);
    out[2].store(1, SeqCst);
    assert_eq!(drain.wait(), 0);
}

/// The ring of a dead process is removed before it is counted among those that are gone: `stat` waits in between.
#[cfg(feature = "cli")]
fn taken_away() {
    const RECORDS: u64 = 10;
    let dir = Scratch::new();
    let s = with_idle(&dir, Idle::Adaptive);
    let command = |args: &[&str]| {
        let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_spillring"));
        c.args(args).env("SPILLRING_DIR", &s.dir);
        c.env("SPILLRING_JOURNAL_DIR", s.journal_dir.as_ref().unwrap());
        c
    };
    let stat = || -> serde_json::Value {
        let o = command(&["stat", "--json", &s.channel]).output().unwrap();
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        serde_json::from_slice(&o.stdout).unwrap()
    };
    let mut drain = command(&["drain", &s.channel]).spawn().unwrap();
    soon("the channel", || s.channel_dir().join("ctl").exists());
    let out = shared_words();
    let child = producer(&s, || {
        (0..RECORDS).for_each(|i| info!("p {}", i));
        soon("it is to end", || out[0].load(SeqCst) == 1);
    });
    soon("its records are delivered", || stat()["delivered"] == RECORDS);
    // Its files go slowly, and it is counted after that.
    let (pid, log) = (drain.id().to_string(), dir.path().join("strace"));
    let slowly = ["-f", "-qq", "-e", "trace=unlink", "-e", "inject=unlink:delay_exit=200000", "-o"];
    let mut strace =
        std::process::Command::new("strace").args(slowly).arg(&log).args(["-p", &pid]).spawn().unwrap();
    soon("strace looks on", || {
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|t| {
            let status = std::fs::read_to_string(t.unwrap().path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        })
    });
    out[0].store(1, SeqCst);
    assert_eq!(child.wait(), 0);
    soon("it is counted as gone", || {
        let v = stat();
        assert_eq!((&v["written"], &v["delivered"]), (&RECORDS.into(), &RECORDS.into()), "{v}");
        v["gone"]["producers"] == 1
    });
    let _ = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(drain.wait().unwrap().success());
    let _ = strace.wait();
    let slow = std::fs::read_to_string(&log).unwrap();
    assert!(slow.contains("DELAYED"), "{slow}");
}
