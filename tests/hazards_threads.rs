//! Threads, signal handlers and what interrupts a log call for good. Real processes log, and the journal
//! tells what came of it.
#![allow(unsafe_code)] // signal handlers that never return, sandboxes, cancelled threads

mod common;
mod hazard_kit;

use common::{Scratch, fork_and, settings};
use hazard_kit::*;
use spillring::sync::Ordering::SeqCst;
use spillring::sync::{AtomicBool, AtomicU64};
use spillring::{info, warn};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn main() {
    match std::env::var("SPILLRING_HAZARD_ROLE").as_deref() {
        Ok("guarded") => return guarded_role(),
        Ok("traced") => return traced_role(),
        _ => {}
    }
    run(vec![
        ("first_contact_is_in_a_handler", None, first_contact),
        ("interrupted_before_it_had_a_lane", None, interrupted_before_it_had_a_lane),
        ("handlers_nested_two_deep", None, nested_two_deep),
        ("handlers_while_threads_start_and_end", None, handlers_and_threads),
        ("handler_on_an_alternate_stack", None, alternate_stack),
        ("handler_that_never_returns_leaves_busy_set", None, never_returns),
        ("cancelled_thread_finishes_its_call", None, cancelled),
        ("exit_handlers_log", None, exit_handlers),
        ("errno_is_kept", None, errno_kept),
        ("more_threads_than_lanes", None, more_threads_than_lanes),
        ("more_threads_than_slots", None, more_threads_than_slots),
        ("lanes_pass_from_dead_threads_to_new_ones", None, inheritance),
        ("thread_id_that_comes_back", needs_root(), tid_reuse),
        ("log_calls_make_no_system_call", needs_tool("strace"), no_system_calls),
        ("prepared_claims_make_no_system_call", None, prepared),
        ("no_malloc_no_lock_no_mapping_in_a_call", needs_tool("gcc"), no_malloc),
        ("stopped_writer_holds_up_nobody", None, stopped_writer),
        ("zombie_leader_with_live_threads", None, zombie_leader),
        ("dead_ring_goes_within_two_seconds", None, dead_ring_goes),
        ("dead_ring_of_another_pid_namespace_goes", needs_root(), dead_ring_of_namespace_goes),
        ("one_thread_takes_at_most_a_mebibyte", None, memory_of_one_thread),
    ])
}

fn has_lane() -> bool {
    !unsafe { &*spillring::tls::block() }.lane.load(SeqCst).is_null()
}

// ---- handlers

static A: AtomicU64 = AtomicU64::new(0);
static B: AtomicU64 = AtomicU64::new(0);
static INSIDE: AtomicU64 = AtomicU64::new(0);

extern "C" fn log_a(_: i32) {
    INSIDE.fetch_add(u64::from(call_open()), SeqCst);
    info!("a {}", A.fetch_add(1, SeqCst));
}

extern "C" fn log_b(_: i32) {
    INSIDE.fetch_add(1 << 32 & u64::from(call_open()) << 32, SeqCst);
    info!("b {}", B.fetch_add(1, SeqCst));
}

fn first_contact() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        on(libc::SIGUSR1, log_a, 0);
        for i in 0..20u64 {
            std::thread::spawn(move || {
                unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
                assert_eq!(A.load(SeqCst), i + 1);
                info!("t{} {}", i, 0);
            })
            .join()
            .unwrap();
        }
    });
    let j = drained(&s, child);
    let mut c = counts(&j.clean().texts);
    assert_eq!(c.remove("a"), Some(20));
    assert!(c.len() == 20 && c.values().all(|n| *n == 1), "{c:?}");
}

fn nested_two_deep() {
    for lane in [4096, 256 << 10] {
        let dir = Scratch::new();
        let mut s = small(&dir);
        s.lane_bytes = lane;
        let out = shared_words();
        let child = producer(&s, || {
            on(libc::SIGUSR1, log_a, 0);
            on(libc::SIGUSR2, log_b, 0);
            let (a, b) = (Timer::new(libc::SIGUSR1), Timer::new(libc::SIGUSR2));
            let begin = Instant::now();
            let mut i = 0u64;
            while begin.elapsed() < Duration::from_millis(400) {
                // Each fires once a turn: handlers that come faster than they end would let nothing else run.
                a.arm(2000 + (i * 7919 % 9000) as i64, 0);
                b.arm(2000 + (i * 6271 % 9700) as i64, 0);
                for _ in 0..300 {
                    info!("p {}", i);
                    i += 1;
                }
                // Not faster than the drain for long: the lane is used too.
                std::thread::sleep(Duration::from_micros(50));
            }
            drop((a, b));
            for (at, n) in [i, A.load(SeqCst), B.load(SeqCst), INSIDE.load(SeqCst)].into_iter().enumerate() {
                out[at].store(n, SeqCst);
            }
            out[4].store(spillring::writer::status().nested, SeqCst);
        });
        let j = drained(&s, child);
        let n: Vec<u64> = out[..5].iter().map(|w| w.load(SeqCst)).collect();
        let all = [("p", n[0]), ("a", n[1]), ("b", n[2])].map(|(w, n)| (w.to_string(), n));
        assert_eq!(counts(&j.clean().texts), all.into());
        eprintln!("{} and {} handlers, {} calls found another one open", n[1], n[2], n[4]);
        assert!(n[4] > 20, "{n:?}");
    }
}

fn handlers_and_threads() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    const N: u64 = 300;
    const EACH: u64 = 80;
    let child = producer(&s, || {
        on(libc::SIGUSR1, log_a, 0);
        for t in 0..N {
            std::thread::scope(|scope| {
                for k in 0..2 {
                    scope.spawn(move || {
                        // Two threads log through one handler: only the number is checked of those.
                        let timer = Timer::new(libc::SIGUSR1);
                        // The first of them meets the thread's first call.
                        for i in 0..EACH {
                            if i.is_multiple_of(40) {
                                timer.arm(1000 + ((t * 37 + i * 1709) % 15_000) as i64, 0);
                            }
                            info!("t{}-{} {}", t, k, i);
                        }
                        drop(timer);
                    });
                }
            });
        }
        out[0].store(A.load(SeqCst), SeqCst);
        out[1].store(INSIDE.load(SeqCst), SeqCst);
    });
    let mut j = drained(&s, child);
    let _ = j.clean();
    let mut handled: Vec<u64> =
        j.texts.iter().filter_map(|t| t.strip_prefix("a ")).map(|n| n.parse().unwrap()).collect();
    handled.sort_unstable();
    assert_eq!(handled, (0..out[0].load(SeqCst)).collect::<Vec<_>>());
    j.texts.retain(|t| !t.starts_with("a "));
    let c = counts(&j.texts);
    assert!(c.len() as u64 == 2 * N && c.values().all(|n| *n == EACH));
    eprintln!("{} handlers, {} inside a call", handled.len(), out[1].load(SeqCst));
    assert!(out[1].load(SeqCst) > 50);
}

/// The drain meets a thread first by a record of a handler that interrupted the claim of its lane. What it then forgets
/// of threads that are silent, the records of the lane must not need.
fn interrupted_before_it_had_a_lane() {
    static EARLY: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32) {
        let early = call_open() && !has_lane();
        info!("a {}", A.fetch_add(1, SeqCst));
        if early {
            // Until the drain has seen it, and nothing else of this thread.
            std::thread::sleep(Duration::from_millis(50));
            EARLY.fetch_add(1, SeqCst);
        }
    }
    let dir = Scratch::new();
    let s = settings(&dir);
    let out = shared_words();
    let child = producer(&s, || {
        on(libc::SIGUSR1, handler, 0);
        let log = || info!("b {}", B.fetch_add(1, SeqCst));
        for turn in 0.. {
            let thread = std::thread::spawn(move || {
                let timer = Timer::new(libc::SIGUSR1);
                timer.arm(5_000 + turn % 20 * 5_000, 0);
                log();
                drop(timer);
                let begun = Instant::now();
                while EARLY.load(SeqCst) > 0 && begun.elapsed() < Duration::from_millis(2_500) {
                    log();
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
            thread.join().unwrap();
            if EARLY.load(SeqCst) > 0 {
                break;
            }
        }
        out[0].store(A.load(SeqCst), SeqCst);
        out[1].store(B.load(SeqCst), SeqCst);
    });
    let mut d = drain_of(&s);
    soon("the thread's seconds", || {
        d.pass(false).unwrap();
        out[1].load(SeqCst) > 0
    });
    drop(d);
    let j = drained(&s, child);
    let all = [("a".to_string(), out[0].load(SeqCst)), ("b".to_string(), out[1].load(SeqCst))];
    assert_eq!(counts(&j.clean().texts), all.into());
}

fn alternate_stack() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let child = producer(&s, || {
        let stack = vec![0u8; 64 << 10].leak();
        let st = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
        assert_eq!(unsafe { libc::sigaltstack(&st, std::ptr::null_mut()) }, 0);
        on(libc::SIGUSR1, log_a, libc::SA_ONSTACK);
        let timer = Timer::new(libc::SIGUSR1);
        let mut i = 0u64;
        while A.load(SeqCst) < 2000 {
            if i.is_multiple_of(16) {
                timer.arm(300 + (i * 1709 % 3000) as i64, 0);
            }
            info!("p {}", i);
            i += 1;
        }
        drop(timer);
        out[0].store(i, SeqCst);
        out[1].store(A.load(SeqCst), SeqCst);
    });
    let j = drained(&s, child);
    let all = [("a".to_string(), out[1].load(SeqCst)), ("p".to_string(), out[0].load(SeqCst))];
    assert_eq!(counts(&j.clean().texts), all.into());
}

/// A handler that leaves by longjmp and one that goes on with the thread's work and never comes back are
/// the same to the call that was interrupted: it is not resumed.
fn never_returns() {
    static GO_ON: AtomicBool = AtomicBool::new(false);
    static OUT: AtomicU64 = AtomicU64::new(0);
    extern "C" fn rest_of_life(_: i32) {
        if !call_open() || GO_ON.swap(true, SeqCst) {
            return;
        }
        let nested = spillring::writer::status().nested;
        for i in 0..500 {
            info!("after {}", i);
        }
        // Each of them on the slow path, and counted.
        assert_eq!(spillring::writer::status().nested, nested + 500);
        spillring::writer::thread_reset();
        for i in 500..1000 {
            info!("after {}", i);
        }
        assert_eq!(spillring::writer::status().nested, nested + 500);
        let shared = unsafe { &*(OUT.load(SeqCst) as *const AtomicU64) };
        shared.fetch_add(1, SeqCst);
        unsafe { libc::_exit(0) };
    }
    for round in 0..40i64 {
        let dir = Scratch::new();
        let s = small(&dir);
        let out = shared_words();
        let child = producer(&s, || {
            OUT.store(&raw const out[0] as u64, SeqCst);
            on(libc::SIGUSR1, rest_of_life, 0);
            // What interrupts a thread's first call is not counted.
            info!("p {}", 0);
            let timer = Timer::new(libc::SIGUSR1);
            timer.arm(1000 + round * 711, 30_000 + round * 13);
            let mut i = 1u64;
            loop {
                out[1].store(i, SeqCst);
                info!("p {}", i);
                i += 1;
            }
        });
        let j = drained(&s, child);
        assert_eq!(out[0].load(SeqCst), 1);
        let mut c = counts(&j.clean().texts);
        assert_eq!(c.remove("after"), Some(1000));
        // The call that was left may have been done or not.
        let returned = out[1].load(SeqCst);
        let p = c.remove("p").unwrap_or(0);
        assert!(p == returned || p == returned + 1, "{p} of {returned}");
        let last_p = j.texts.iter().rposition(|t| t.starts_with("p "));
        let first_after = j.texts.iter().position(|t| t == "after 0").unwrap();
        assert!(last_p.is_none_or(|at| at < first_after), "order lost");
    }
}

fn cancelled() {
    unsafe extern "C" {
        fn pthread_setcanceltype(kind: i32, old: *mut i32) -> i32;
    }
    let dir = Scratch::new();
    let mut s = small(&dir);
    s.lanes = 1;
    let child = producer(&s, || {
        extern "C" fn body(kind: *mut libc::c_void) -> *mut libc::c_void {
            let k = kind as u64;
            if k % 2 == 1 {
                for i in 0..3 {
                    info!("t{} {}", k, i);
                }
            }
            // Deferred, the default: whatever is a cancellation point inside a call would end the thread.
            unsafe { pthread_setcanceltype(0, std::ptr::null_mut()) };
            unsafe { libc::pthread_cancel(libc::pthread_self()) };
            for i in 0..300 {
                info!("t{} {}", k, if k % 2 == 1 { i + 3 } else { i });
            }
            unsafe { &*DONE.load(SeqCst).cast::<AtomicU64>() }.fetch_add(1, SeqCst);
            loop {
                unsafe { libc::pause() };
            }
        }
        static DONE: spillring::sync::AtomicPtr<u8> = spillring::sync::AtomicPtr::new(std::ptr::null_mut());
        let out = shared_words();
        DONE.store((&raw const out[0]).cast_mut().cast(), SeqCst);
        for k in 0..8usize {
            unsafe {
                let mut t = std::mem::zeroed();
                let arg = k as *mut libc::c_void;
                assert_eq!(libc::pthread_create(&mut t, std::ptr::null(), body, arg), 0);
                assert_eq!(libc::pthread_join(t, std::ptr::null_mut()), 0);
            }
        }
        assert_eq!(out[0].load(SeqCst), 8, "threads that came to the end of their calls");
    });
    let j = drained_after(&s, child);
    let c = counts(&j.clean().texts);
    for k in 0..8u64 {
        assert_eq!(c[&format!("t{k}")], 300 + k % 2 * 3);
    }
}

fn exit_handlers() {
    extern "C" fn at_exit() {
        info!("exit {}", 0);
    }
    extern "C" fn destructor(_: *mut libc::c_void) {
        warn!("destructor {}", 0);
    }
    unsafe extern "C" {
        fn __cxa_atexit(
            f: extern "C" fn(*mut libc::c_void),
            arg: *mut libc::c_void,
            dso: *mut libc::c_void,
        ) -> i32;
    }
    struct Local;
    impl Drop for Local {
        fn drop(&mut self) {
            info!("local {}", 0);
        }
    }
    thread_local!(static LOCAL: Local = const { Local });
    let dir = Scratch::new();
    let s = small(&dir);
    let child = fork_and(|| {
        unsafe {
            // Before init, so that they run after whatever it registers.
            assert_eq!(libc::atexit(at_exit), 0);
            assert_eq!(__cxa_atexit(destructor, std::ptr::null_mut(), std::ptr::null_mut()), 0);
        }
        std::mem::forget(spillring::init_with(&s).unwrap());
        std::thread::spawn(|| {
            LOCAL.with(|_| ());
            info!("thread {}", 0);
        })
        .join()
        .unwrap();
        unsafe { libc::exit(0) };
    });
    let j = drained(&s, child);
    let c = counts(&j.clean().texts);
    assert_eq!(c, ["destructor", "exit", "local", "thread"].map(|w| (w.to_string(), 1)).into());
}

fn errno_kept() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        let errno = || unsafe { &mut *libc::__errno_location() };
        *errno() = 4711;
        // First call, fast, shared, spill; a forked child's first.
        for i in 0..3000 {
            info!("p {}", i);
            assert_eq!(*errno(), 4711, "call {i}");
        }
        let c = unsafe { libc::fork() };
        *errno() = 4712;
        info!("q {}", 0);
        let kept = *errno() == 4712;
        if c == 0 {
            unsafe { libc::_exit(i32::from(!kept)) };
        }
        assert!(kept);
        assert_eq!(wait(c), 0);
    });
    let j = drained_after(&s, child);
    assert!(j.clean().totals.spilled > 0);
}

// ---- threads

fn many(lanes: u32, threads: u64, each: u64) -> Judged {
    let dir = Scratch::new();
    let mut s = settings(&dir);
    s.lanes = lanes;
    let child = producer(&s, || {
        let go = std::sync::Barrier::new(threads as usize);
        std::thread::scope(|scope| {
            for t in 0..threads {
                let go = &go;
                std::thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn_scoped(scope, move || {
                        info!("t{} {}", t, 0);
                        go.wait();
                        for i in 1..each {
                            info!("t{} {}", t, i);
                        }
                        // All of them live until the last one is done: nothing is passed on.
                        go.wait();
                    })
                    .unwrap();
            }
        });
    });
    drained(&s, child)
}

fn more_threads_than_lanes() {
    let j = many(2, 24, 500);
    let c = counts(&j.clean().texts);
    assert!(c.len() == 24 && c.values().all(|n| *n == 500), "{c:?}");
}

fn more_threads_than_slots() {
    let n = u64::from(spillring::layout::ring::MAX_SLOTS) + 60;
    let j = many(2, n, 8);
    let c = counts(&j.clean().texts);
    assert!(c.len() as u64 == n && c.values().all(|n| *n == 8));
}

fn inheritance() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        info!("main {}", 0);
        let mut had = 0;
        for t in 0..150u64 {
            had += std::thread::spawn(move || {
                for i in 0..25 {
                    info!("t{} {}", t, i);
                }
                u64::from(has_lane())
            })
            .join()
            .unwrap();
            // Joined is not gone yet.
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(had > 100, "{had} of 150 threads had a lane");
        info!("main {}", 1);
    });
    let j = drained(&s, child);
    let mut c = counts(&j.clean().texts);
    assert_eq!(c.remove("main"), Some(2));
    assert!(c.len() == 150 && c.values().all(|n| *n == 25), "{c:?}");
}

/// A pid namespace of its own, with /proc, in which the next thread id can be chosen.
fn tid_reuse() {
    let dir = Scratch::new();
    let mut s = small(&dir);
    s.lanes = 2;
    let outer = fork_and(|| unsafe {
        libc::alarm(50);
        assert_eq!(libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS), 0);
        let child = producer_in_namespace(&s);
        assert_eq!(wait(child), 0);
    });
    let j = drained(&s, outer);
    let c = counts(&j.clean().texts);
    assert_eq!(c, ["main", "t0", "t1", "t2"].map(|w| (w.to_string(), 20)).into());
}

fn producer_in_namespace(s: &spillring::env::Settings) -> i32 {
    let c = fork_and(|| {
        unsafe {
            let (no, root) = (c"none".as_ptr(), c"/".as_ptr());
            let private = libc::MS_REC | libc::MS_PRIVATE;
            assert_eq!(libc::mount(no, root, std::ptr::null(), private, std::ptr::null()), 0);
            let proc = c"proc".as_ptr();
            assert_eq!(libc::mount(proc, c"/proc".as_ptr(), proc, 0, std::ptr::null()), 0);
        }
        std::mem::forget(spillring::init_with(s).unwrap());
        for i in 0..20 {
            info!("main {}", i);
        }
        for k in 0..3u64 {
            // The same id for every thread.
            std::fs::write("/proc/sys/kernel/ns_last_pid", "4999").unwrap();
            let (tid, lane) = std::thread::spawn(move || {
                for i in 0..20 {
                    info!("t{} {}", k, i);
                }
                (spillring::sys::process::tid(), has_lane())
            })
            .join()
            .unwrap();
            assert_eq!(tid, 5000);
            assert!(lane, "thread {k}: the lane of a dead thread with the same id");
            // Start times have 10 ms, and a claim has 20 ms of doubt.
            std::thread::sleep(Duration::from_millis(60));
        }
    });
    c.pid()
}

// ---- system calls

fn this_program(role: &str, dir: &Path) -> std::process::Command {
    let mut c = std::process::Command::new(std::env::current_exe().unwrap());
    c.env("SPILLRING_HAZARD_ROLE", role).env("SPILLRING_HAZARD_DIR", dir);
    c
}

fn role_settings() -> spillring::env::Settings {
    let mut s = spillring::env::Settings::from(|_| None, 0).0;
    s.dir = PathBuf::from(std::env::var_os("SPILLRING_HAZARD_DIR").unwrap());
    s.channel = "t".into();
    s
}

const CALLS: u64 = 1_000_000;

fn traced_role() {
    let mut s = role_settings();
    s.lane_bytes = 64 << 20;
    std::mem::forget(spillring::init_with(&s).unwrap());
    info!("p {}", 0);
    unsafe { libc::write(2, b"begin".as_ptr().cast(), 5) };
    for i in 1..CALLS {
        info!("p {}", i);
    }
    unsafe { libc::write(2, b"end".as_ptr().cast(), 3) };
}

fn no_system_calls() {
    let dir = Scratch::new();
    let s = settings(&dir);
    std::fs::create_dir(dir.path().join("x")).unwrap();
    let log = dir.path().join("x/strace");
    let me = this_program("traced", dir.path());
    let mut c = std::process::Command::new("strace");
    c.arg("-f").arg("-o").arg(&log).arg(me.get_program()).stderr(std::process::Stdio::null());
    for (k, v) in me.get_envs() {
        c.env(k, v.unwrap());
    }
    assert!(c.status().unwrap().success());
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = |what: &str| lines.iter().position(|l| l.contains(what)).unwrap();
    let (begin, end) = (at("\"begin\""), at("\"end\""));
    assert!(begin > 10);
    assert_eq!(lines[begin + 1..end], [""; 0]);
    let mut d = drain_of(&s);
    soon("the ring to go", || {
        d.finish(&mut |_: &str| ()).unwrap();
        d.producers().0 == 0
    });
    assert_eq!(d.totals().records, CALLS);
}

fn prepared() {
    let dir = Scratch::new();
    let s = small(&dir);
    static GO: AtomicBool = AtomicBool::new(false);
    static READY: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    for with in [true, false] {
        let child = producer(&s, || {
            if with {
                assert_eq!(spillring::writer::prepare(3), 3);
            }
            for t in 0..3u64 {
                std::thread::spawn(move || {
                    READY.fetch_add(1, SeqCst);
                    while !GO.load(SeqCst) {
                        std::hint::spin_loop();
                    }
                    for i in 0..20 {
                        info!("t{} {}", t, i);
                    }
                    if has_lane() {
                        DONE.fetch_add(1, SeqCst);
                    }
                    unsafe { libc::syscall(libc::SYS_exit, 0) };
                });
            }
            while READY.load(SeqCst) < 3 {
                std::thread::yield_now();
            }
            sandbox(&[libc::SYS_write, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_futex]);
            GO.store(true, SeqCst);
            while DONE.load(SeqCst) < 3 {
                std::hint::spin_loop();
            }
            unsafe { libc::syscall(libc::SYS_exit_group, 0) };
        });
        let j = drained(&s, child);
        if with {
            let c = counts(&j.clean().texts);
            assert_eq!(c, ["t0", "t1", "t2"].map(|w| (w.to_string(), 20)).into());
        } else {
            // The judge judges: a claim that was not prepared is killed.
            assert_eq!(j.status & 0x7f, libc::SIGSYS);
        }
    }
}

const GUARD_C: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
extern void *__libc_malloc(size_t); extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t); extern void __libc_free(void *);
static __thread int armed __attribute__((tls_model("initial-exec")));
void hazard_arm(int on) { armed = on; }
static void hit(const char *what, size_t n) {
  if (armed) { armed = 0; write(2, what, n); _exit(66); }
}
#define HIT(s) hit(s "\n", sizeof s)
void *malloc(size_t n) { HIT("malloc in a log call"); return __libc_malloc(n); }
void *calloc(size_t a, size_t b) { HIT("calloc in a log call"); return __libc_calloc(a, b); }
void *realloc(void *p, size_t n) { HIT("realloc in a log call"); return __libc_realloc(p, n); }
void free(void *p) { HIT("free in a log call"); __libc_free(p); }
void *mmap(void *a, size_t n, int p, int f, int fd, off_t o) {
  if (f & MAP_ANONYMOUS) HIT("anonymous mmap in a log call");
  return (void *)syscall(SYS_mmap, a, n, p, f, fd, o);
}
static int (*next_lock)(pthread_mutex_t *);
int pthread_mutex_lock(pthread_mutex_t *m) {
  HIT("pthread_mutex_lock in a log call");
  if (!next_lock) next_lock = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
  return next_lock(m);
}
"#;

fn guarded_role() {
    let arm: extern "C" fn(i32) = unsafe {
        let p = libc::dlsym(libc::RTLD_DEFAULT, c"hazard_arm".as_ptr());
        assert!(!p.is_null());
        std::mem::transmute(p)
    };
    let mut s = role_settings();
    s.lane_bytes = 4096;
    s.lanes = 2;
    std::mem::forget(spillring::init_with(&s).unwrap());
    if std::env::var_os("SPILLRING_HAZARD_MALLOC").is_some() {
        arm(1);
        std::hint::black_box(vec![1u8; std::hint::black_box(100)]);
        return;
    }
    on(libc::SIGUSR1, log_a, 0);
    let body = move |t: u64| {
        // First call, lane, shared lane, spill, nested in each.
        arm(1);
        for i in 0..3000u64 {
            info!("t{} {} {} {} {}", t, i, "text", 1.5, 'c');
            if i % 10 == 0 {
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGUSR1) };
            }
        }
        arm(0);
    };
    body(0);
    for t in 1..5 {
        std::thread::spawn(move || body(t)).join().unwrap();
    }
    assert!(spillring::writer::status().spilled > 1000);
}

fn no_malloc() {
    let dir = Scratch::new();
    let s = settings(&dir);
    let at = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (c, so) = (at.join("hazard_guard.c"), at.join("hazard_guard.so"));
    std::fs::write(&c, GUARD_C).unwrap();
    let gcc = std::process::Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-w", "-fno-builtin", "-o"])
        .args([&so, &c])
        .arg("-ldl")
        .status();
    assert!(gcc.unwrap().success());
    let run = |malloc: bool| {
        let mut p = this_program("guarded", dir.path());
        p.env("LD_PRELOAD", &so);
        if malloc {
            p.env("SPILLRING_HAZARD_MALLOC", "1");
        }
        p.output().unwrap()
    };
    let caught = run(true);
    assert_eq!(caught.status.code(), Some(66), "{caught:?}");
    let out = run(false);
    assert!(out.status.success(), "{out:?}");
    let j = finished(&s, drain_of(&s), 0, Vec::new());
    let mut c = counts(&j.clean().texts.iter().filter(|t| t.starts_with('t')).cloned().collect::<Vec<_>>());
    c.retain(|_, n| *n != 3000);
    assert!(c.is_empty() && j.texts.len() == 5 * 3300, "{c:?} {}", j.texts.len());
}

// ---- death

fn stopped_writer() {
    let dir = Scratch::new();
    let s = small(&dir);
    let mut stopped = Vec::new();
    let out = shared_words();
    #[allow(clippy::needless_range_loop)] // it numbers ways, out is where they answer
    for k in 0..12 {
        let c = producer(&s, || {
            out[k].store(1, SeqCst);
            let mut i = 0;
            loop {
                info!("s{} {}", k, i);
                i += 1;
            }
        });
        soon("its start", || out[k].load(SeqCst) == 1);
        std::thread::sleep(Duration::from_micros(300 + k as u64 * 131));
        kill(c.pid(), libc::SIGSTOP);
        stopped.push(c);
    }
    // Healthy ones beside them.
    let mut d = drain_of(&s);
    let begin = Instant::now();
    let healthy = producer(&s, || {
        for i in 0..5000 {
            info!("h {}", i);
        }
    });
    while healthy.running() {
        d.pass(false).unwrap();
    }
    assert_eq!(healthy.wait(), 0);
    d.finish(&mut |_: &str| ()).unwrap();
    let h = journal(&s).into_iter().filter(|(_, t)| t.starts_with("h ")).count();
    assert_eq!(h, 5000, "after {:?}", begin.elapsed());
    for c in stopped {
        kill(c.pid(), libc::SIGCONT);
        kill(c.pid(), libc::SIGKILL);
        assert_eq!(c.wait(), libc::SIGKILL);
    }
    let j = finished(&s, d, 0, Vec::new());
    let c = counts(&j.clean().texts);
    assert_eq!(c["h"], 5000);
    assert!(c.len() > 10, "{c:?}");
}

fn zombie_leader() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let child = producer(&s, || {
        info!("main {}", 0);
        std::thread::spawn(move || {
            let mut i = 0u64;
            while out[0].load(SeqCst) == 0 {
                info!("t {}", i);
                i += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            out[1].store(i, SeqCst);
            unsafe { libc::_exit(0) };
        });
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    let stat = format!("/proc/{}/stat", child.pid());
    soon("the zombie", || std::fs::read_to_string(&stat).unwrap().contains(") Z"));
    let mut d = drain_of(&s);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(700) {
        d.pass(false).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(d.producers(), (1, 1), "a process with a live thread was taken for dead");
    out[0].store(1, SeqCst);
    drop(d);
    let j = drained(&s, child);
    let all = [("main".to_string(), 1), ("t".to_string(), out[1].load(SeqCst))];
    assert_eq!(counts(&j.clean().texts), all.into());
}

fn goes_within_two_seconds(s: &spillring::env::Settings, start: impl FnOnce() -> common::Child) {
    use spillring::drain::{DrainConfig, Embedded};
    // A drain as it runs by itself, in a process of its own.
    let out = shared_words();
    let drain = fork_and(|| {
        unsafe { libc::alarm(50) };
        let d = Embedded::start(DrainConfig::new(s, s.channel_dir()).0, |l: &str| eprintln!("{l}")).unwrap();
        out[0].store(1, SeqCst);
        soon("the end", || out[1].load(SeqCst) == 1);
        d.stop().unwrap();
    });
    soon("the drain", || out[0].load(SeqCst) == 1);
    let child = start();
    let rings = || {
        std::fs::read_dir(s.channel_dir())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".ring"))
            .count()
    };
    soon("the ring", || rings() == 1);
    // Quiet, so that the drain sleeps.
    std::thread::sleep(Duration::from_millis(300));
    kill(child.pid(), libc::SIGKILL);
    let begin = Instant::now();
    child.wait();
    soon("the ring to go", || rings() == 0);
    let took = begin.elapsed();
    eprintln!("{took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    out[1].store(1, SeqCst);
    assert_eq!(drain.wait(), 0);
    assert_eq!(counts(&common::journal_texts(s)), [("p".to_string(), 10)].into());
}

fn ten_then_pause() -> ! {
    for i in 0..10 {
        info!("p {}", i);
    }
    loop {
        unsafe { libc::pause() };
    }
}

fn dead_ring_goes() {
    let dir = Scratch::new();
    let s = settings(&dir);
    goes_within_two_seconds(&s, || producer(&s, || ten_then_pause()));
}

fn dead_ring_of_namespace_goes() {
    let dir = Scratch::new();
    let s = settings(&dir);
    goes_within_two_seconds(&s, || {
        fork_and(|| {
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
            // Its pid is 1 in there; it goes with the one that is killed.
            let c = producer(&s, || {
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                ten_then_pause()
            });
            c.wait();
        })
    });
}

fn memory_of_one_thread() {
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = producer(&s, || {
        let begin = Instant::now();
        info!("p {}", 0);
        eprintln!("first call after init: {:?}", begin.elapsed());
        let mut bytes = 0;
        for e in std::fs::read_dir(s.channel_dir()).unwrap() {
            let m = e.unwrap().metadata().unwrap();
            bytes += std::os::unix::fs::MetadataExt::blocks(&m) * 512;
        }
        eprintln!("{} KiB of shared memory", bytes >> 10);
        assert!(bytes <= 1 << 20, "{bytes}");
    });
    let _ = drained(&s, child).clean();
    let mut took: Vec<Duration> = (0..20)
        .map(|_| {
            let dir = Scratch::new();
            let s = settings(&dir);
            let out = shared_words();
            let c = fork_and(|| {
                let begin = Instant::now();
                std::mem::forget(spillring::init_with(&s).unwrap());
                info!("p {}", 0);
                out[0].store(begin.elapsed().as_nanos() as u64, SeqCst);
            });
            assert_eq!(c.wait(), 0);
            Duration::from_nanos(out[0].load(SeqCst))
        })
        .collect();
    took.sort();
    eprintln!("attach and first call: median {:?}, longest {:?}", took[10], took[19]);
}
