//! What fork does to a program that logs, in all its forms and at any instruction. Each test lets real
//! processes log and has the journal tell what came of it: the parent's records once each, the child's
//! under its own ring, and nothing of the parent's from a child.
#![allow(unsafe_code)] // forks in signal handlers, which is the point

mod common;
mod hazard_kit;

use common::{Scratch, fork_and, settings};
use hazard_kit::*;
use spillring::record::{Level, Site};
use spillring::sync::Ordering::SeqCst;
use spillring::sync::{AtomicI32, AtomicU64};
use spillring::{info, warn};
use std::time::Duration;

fn main() {
    run(vec![
        ("plain_fork_lets_go_of_the_parents_ring", None, plain_fork),
        ("parent_is_found_dead_while_its_child_lives", None, parent_dead_child_alive),
        ("fork_in_a_handler_at_any_instruction_of_a_call", None, handler_fork_fast),
        ("fork_in_a_handler_while_calls_spill", None, handler_fork_spilling),
        ("fork_in_a_handler_at_a_threads_first_call", None, handler_fork_first_call),
        ("fork_in_a_handler_while_a_site_is_registered", None, handler_fork_new_sites),
        ("fork_in_a_handler_that_interrupted_a_flush", None, handler_fork_flush),
        ("grandchild_of_a_handler_fork_keeps_its_private_view", None, grandchild_private),
        ("signals_in_a_child_that_attaches", None, signals_in_attaching_child),
        ("child_of_child_of_child", None, generations),
        ("fork_out_of_a_vfork_child", None, fork_in_vfork),
        ("raw_fork_with_no_call_open", None, raw),
        ("raw_forked_child_with_threads_and_one_lane", None, raw_threads),
        ("vfork_child_logs_into_the_parents_lane", None, vfork_logs),
        ("vfork_child_killed_inside_a_call", None, vfork_killed),
        ("exec_after_vfork_holds_nothing", None, spawn_holds_nothing),
        ("daemon_forks_twice", None, daemon),
        ("fork_while_another_thread_attaches", None, fork_during_attach),
        ("hook_of_another_library_logs_before_ours", None, foreign_hook),
        ("sites_registered_before_and_after_fork", None, sites),
        ("child_that_closes_all_descriptors", None, child_closes_all),
        ("parent_that_closed_all_descriptors_forks", None, parent_closed_all),
        ("reused_descriptor_numbers_are_never_written", None, reused_numbers),
        ("a_moved_descriptor_is_still_the_spill", None, moved_position),
        ("lane_of_a_dead_thread_after_fork_is_not_overwritten", None, stale_released),
    ])
}

// ---- plain

fn plain_fork() {
    let dir = Scratch::new();
    let s = settings(&dir);
    let child = producer(&s, || {
        info!("p {}", 0);
        let nonce = only_nonce(&s);
        let me = unsafe { libc::getpid() };
        // The judge can see: this process itself holds ring, ack and spill.
        assert!(holds(me, &nonce).len() >= 4);
        let c = fork_and(|| {
            // Before any call of the child: its hook has done the work.
            let left = holds(unsafe { libc::getpid() }, &nonce);
            assert!(left.is_empty(), "{left:?}");
            info!("c {}", 0);
            assert!(holds(unsafe { libc::getpid() }, &nonce).is_empty());
        });
        info!("p {}", 1);
        assert_eq!(c.wait(), 0);
    });
    let j = drained_after(&s, child);
    assert_eq!(counts(&j.clean().texts), [("c".into(), 1), ("p".into(), 2)].into());
}

fn parent_dead_child_alive() {
    let dir = Scratch::new();
    let s = settings(&dir);
    // (1) plain, no call in the child; (2) the child logged; (3) forked in a handler inside a call.
    for way in 1..=3 {
        let pid = shared_words();
        let child = producer(&s, || {
            info!("p{} {}", way, 0);
            let body = || {
                if way == 2 {
                    info!("c {}", 0);
                }
                pid[0].store(u64::from(std::process::id()), SeqCst);
                loop {
                    unsafe { libc::pause() };
                }
            };
            if way == 3 {
                open_a_call();
                let c = unsafe { libc::fork() };
                if c == 0 {
                    body();
                }
                assert!(c > 0);
                spillring::writer::thread_reset();
            } else {
                fork_and(body);
            }
            soon("the child", || pid[0].load(SeqCst) != 0);
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        assert_eq!(child.wait(), libc::SIGKILL);
        let mut d = drain_of(&s);
        soon("the parent's end", || {
            d.finish(&mut |_: &str| ()).unwrap();
            d.producers().0 == usize::from(way == 2)
        });
        let pid = pid[0].load(SeqCst) as i32;
        assert!(spillring::sys::process::pid_exists(pid as u32));
        if way != 3 {
            let deleted = holds(pid, ".ring (deleted)");
            assert!(deleted.is_empty(), "an unlinked ring is pinned: {deleted:?}");
        }
        kill(pid, libc::SIGKILL);
        soon("the child's end", || {
            d.finish(&mut |_: &str| ()).unwrap();
            d.producers().0 == 0
        });
    }
}

fn has_lane() -> bool {
    !unsafe { &*spillring::tls::block() }.lane.load(SeqCst).is_null()
}

/// As if a call of this thread were open: what a handler sees that interrupted one.
fn open_a_call() {
    unsafe { &*spillring::tls::block() }.busy.store(1, SeqCst);
}

// ---- in a handler

static CHILD: AtomicI32 = AtomicI32::new(0);
static FORKS: AtomicI32 = AtomicI32::new(0);
static LAST: AtomicI32 = AtomicI32::new(0);
static INSIDE: AtomicU64 = AtomicU64::new(0);

extern "C" fn fork_here(_: i32) {
    if CHILD.load(SeqCst) != 0 {
        return;
    }
    INSIDE.fetch_add(u64::from(call_open()), SeqCst);
    let k = FORKS.fetch_add(1, SeqCst) + 1;
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        CHILD.store(k, SeqCst);
        // Every third child first logs after the interrupted call has been resumed.
        if k % 3 != 0 {
            info!("c{} {}", k, 0);
        }
    } else {
        LAST.store(pid, SeqCst);
    }
}

/// Calls `log(i)` for i = 0.. with a fork somewhere in it, `rounds` times; answers the calls made. The
/// child's part ends here.
fn fork_storm(rounds: i32, mut log: impl FnMut(u64)) -> u64 {
    on(libc::SIGUSR1, fork_here, 0);
    let timer = Timer::new(libc::SIGUSR1);
    let mut i = 0;
    for round in 0..rounds {
        LAST.store(0, SeqCst);
        timer.arm(1000 + i64::from(round) * 7919 % 24_000, 0);
        while LAST.load(SeqCst) == 0 && CHILD.load(SeqCst) == 0 {
            log(i);
            i += 1;
        }
        let k = CHILD.load(SeqCst);
        if k != 0 {
            let from = u32::from(k % 3 != 0);
            info!("c{} {}", k, from);
            info!("c{} {}", k, from + 1);
            unsafe { libc::_exit(0) };
        }
        let st = wait(LAST.load(SeqCst));
        assert_eq!(st, 0, "child {round} ended with {st:#x}");
    }
    i
}

fn check_storm(mut j: Judged, out: &[AtomicU64; 512], rounds: i32) {
    let logged = out[0].load(SeqCst);
    let _ = j.clean();
    let own = j.without_childrens_own("p ");
    eprintln!(
        "{} of {rounds} forks were inside a call, {own} calls were parent's and child's",
        out[1].load(SeqCst)
    );
    let mut c = counts(&j.texts);
    assert_eq!(c.remove("p"), Some(logged));
    assert_eq!(c.len(), rounds as usize, "children that delivered");
    for k in 1..=rounds {
        assert_eq!(c[&format!("c{k}")], 2 + u64::from(k % 3 != 0), "child {k}");
    }
}

fn handler_fork_fast() {
    let dir = Scratch::new();
    let mut s = settings(&dir);
    s.lanes = 4;
    let out = shared_words();
    const ROUNDS: i32 = 600;
    let child = producer(&s, || {
        let n = fork_storm(ROUNDS, |i| info!("p {} {} {}", i, i * 3, "some text to copy"));
        out[0].store(n, SeqCst);
        out[1].store(INSIDE.load(SeqCst), SeqCst);
    });
    let j = drained(&s, child);
    check_storm(j, out, ROUNDS);
    assert!(out[1].load(SeqCst) > 20, "{} forks inside a call", out[1].load(SeqCst));
}

fn handler_fork_spilling() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    const ROUNDS: i32 = 150;
    let child = producer(&s, || {
        let mut i = 0;
        while spillring::writer::status().spilled == 0 {
            info!("f {}", i);
            i += 1;
        }
        let n = fork_storm(ROUNDS, |i| info!("p {}", i));
        out[0].store(n, SeqCst);
        out[1].store(INSIDE.load(SeqCst), SeqCst);
        out[2].store(i, SeqCst);
    });
    // No drain meanwhile: every call of the storm goes to the spill.
    let mut j = drained_after(&s, child);
    let before = out[2].load(SeqCst) as usize;
    assert_eq!(j.texts.iter().filter(|t| t.starts_with("f ")).count(), before);
    assert!(j.totals.spilled >= out[0].load(SeqCst));
    let keep: Vec<bool> = j.texts.iter().map(|t| !t.starts_with("f ")).collect();
    let (mut a, mut b) = (keep.iter(), keep.iter());
    j.texts.retain(|_| *a.next().unwrap());
    j.pids.retain(|_| *b.next().unwrap());
    check_storm(j, out, ROUNDS);
    assert!(out[1].load(SeqCst) > 10, "{} forks inside a call", out[1].load(SeqCst));
}

fn handler_fork_first_call() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    const ROUNDS: u64 = 250;
    let child = producer(&s, || {
        for round in 0..ROUNDS {
            // A new thread each time: the fork hits its number, slot and lane being claimed.
            std::thread::spawn(move || {
                on(libc::SIGUSR1, fork_here, 0);
                let timer = Timer::new(libc::SIGUSR1);
                LAST.store(0, SeqCst);
                let mut i = 0;
                timer.arm(500 + round as i64 * 97 % 40_000, 0);
                while LAST.load(SeqCst) == 0 && CHILD.load(SeqCst) == 0 {
                    info!("t{} {}", round, i);
                    i += 1;
                }
                let k = CHILD.load(SeqCst);
                if k != 0 {
                    let from = u32::from(k % 3 != 0);
                    info!("c{} {}", k, from);
                    info!("c{} {}", k, from + 1);
                    unsafe { libc::_exit(0) };
                }
                out[round as usize].store(i + 1, SeqCst);
                let st = wait(LAST.load(SeqCst));
                assert_eq!(st, 0, "child {round} ended with {st:#x}");
            })
            .join()
            .unwrap();
        }
        out[511].store(INSIDE.load(SeqCst), SeqCst);
    });
    let mut j = drained(&s, child);
    let _ = j.clean();
    j.without_childrens_own("t");
    let mut c = counts(&j.texts);
    for round in 0..ROUNDS {
        assert_eq!(c.remove(&format!("t{round}")).unwrap_or(0) + 1, out[round as usize].load(SeqCst));
    }
    for k in 1..=ROUNDS {
        assert_eq!(c.remove(&format!("c{k}")), Some(2 + u64::from(k % 3 != 0)), "child {k}");
    }
    assert!(c.is_empty(), "{c:?}");
    assert!(out[511].load(SeqCst) > 20, "{} forks inside a call", out[511].load(SeqCst));
}

fn handler_fork_new_sites() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    const ROUNDS: i32 = 200;
    let child = producer(&s, || {
        let sites: Vec<Site> = (0..1 << 16)
            .map(|_| Site::new(Level::Info, "a target", "a file with a longer name.rs", 7, "p {}"))
            .collect();
        let sites = sites.leak();
        let mut used = 0;
        let n = fork_storm(ROUNDS, |i| {
            let site: &'static Site = &sites[used % sites.len()];
            // The numbers run out with the arena; what was registered in a child is only the child's.
            used += 1;
            spillring::writer::log(site, (i,));
        });
        out[0].store(n, SeqCst);
        out[1].store(INSIDE.load(SeqCst), SeqCst);
    });
    let j = drained(&s, child);
    check_storm(j, out, ROUNDS);
}

fn handler_fork_flush() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        on(libc::SIGUSR1, fork_here, 0);
        info!("p {}", 0);
        let timer = Timer::new(libc::SIGUSR1);
        timer.arm(30_000_000, 0);
        let r = spillring::flush(Duration::from_millis(120));
        assert!(r.is_err(), "without a drain nothing is flushed");
        if CHILD.load(SeqCst) != 0 {
            unsafe { libc::_exit(0) };
        }
        assert_eq!(wait(LAST.load(SeqCst)), 0);
    });
    let j = drained_after(&s, child);
    assert_eq!(counts(&j.clean().texts), [("c1".into(), 1), ("p".into(), 1)].into());
}

fn grandchild_private() {
    extern "C" fn fork_twice(_: i32) {
        if CHILD.load(SeqCst) != 0 {
            return;
        }
        INSIDE.fetch_add(u64::from(call_open()), SeqCst);
        let k = FORKS.fetch_add(1, SeqCst) + 1;
        let pid = unsafe { libc::fork() };
        if pid != 0 {
            LAST.store(pid, SeqCst);
            return;
        }
        CHILD.store(k, SeqCst);
        if k % 2 == 0 {
            info!("c{} {}", k, 0);
        }
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            CHILD.store(k + 1000, SeqCst);
            info!("c{} {}", k + 1000, 0);
        } else if wait(pid) != 0 {
            unsafe { libc::_exit(9) };
        }
    }
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    const ROUNDS: i32 = 200;
    let child = producer(&s, || {
        on(libc::SIGUSR1, fork_twice, 0);
        let timer = Timer::new(libc::SIGUSR1);
        let mut i = 0u64;
        for round in 0..ROUNDS {
            LAST.store(0, SeqCst);
            timer.arm(1000 + i64::from(round) * 7919 % 24_000, 0);
            while LAST.load(SeqCst) == 0 && CHILD.load(SeqCst) == 0 {
                info!("p {}", i);
                i += 1;
            }
            let k = CHILD.load(SeqCst);
            if k != 0 {
                info!("c{} {}", k, u32::from(k > 1000 || k % 2 == 0));
                unsafe { libc::_exit(0) };
            }
            assert_eq!(wait(LAST.load(SeqCst)), 0);
        }
        out[0].store(i, SeqCst);
        out[1].store(INSIDE.load(SeqCst), SeqCst);
    });
    let mut j = drained(&s, child);
    let _ = j.clean();
    j.without_childrens_own("p ");
    let mut c = counts(&j.texts);
    assert_eq!(c.remove("p"), Some(out[0].load(SeqCst)));
    for k in 1..=ROUNDS {
        assert_eq!(c.remove(&format!("c{k}")), Some(1 + u64::from(k % 2 == 0)));
        assert_eq!(c.remove(&format!("c{}", k + 1000)), Some(2));
    }
    assert!(c.is_empty(), "{c:?}");
    assert!(out[1].load(SeqCst) > 5, "{} forks inside a call", out[1].load(SeqCst));
}

static TICKS: AtomicU64 = AtomicU64::new(0);

fn signals_in_attaching_child() {
    extern "C" fn tick(_: i32) {
        let n = TICKS.fetch_add(1, SeqCst);
        info!("h{} {}", CHILD.load(SeqCst), n);
    }
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    const ROUNDS: i32 = 200;
    let child = producer(&s, || {
        info!("p {}", 0);
        on(libc::SIGUSR2, tick, 0);
        for round in 1..=ROUNDS {
            let c = fork_and(|| {
                CHILD.store(round, SeqCst);
                let timer = Timer::new(libc::SIGUSR2);
                timer.arm(1000 + i64::from(round) * 37, 60_000 + i64::from(round) * 11);
                for i in 0..20 {
                    info!("c{} {}", round, i);
                }
                timer.arm(0, 0);
                out[round as usize].store(TICKS.load(SeqCst), SeqCst);
            });
            assert_eq!(c.wait(), 0, "round {round}");
        }
    });
    let j = drained(&s, child);
    let mut c = counts(&j.clean().texts);
    assert_eq!(c.remove("p"), Some(1));
    let mut handled = 0;
    for k in 1..=ROUNDS {
        assert_eq!(c.remove(&format!("c{k}")), Some(20));
        let ticks = out[k as usize].load(SeqCst);
        assert_eq!(c.remove(&format!("h{k}")).unwrap_or(0), ticks, "round {k}");
        handled += ticks;
    }
    assert!(handled > 200, "{handled} handlers ran");
}

// ---- other ways to fork

fn generations() {
    let dir = Scratch::new();
    let s = small(&dir);
    fn down(depth: u32) {
        info!("g{} {}", depth, 0);
        if depth < 6 {
            let c = fork_and(|| down(depth + 1));
            assert_eq!(c.wait(), 0);
        }
        info!("g{} {}", depth, 1);
    }
    let child = producer(&s, || down(0));
    let j = drained(&s, child);
    let c = counts(&j.clean().texts);
    assert!(c.len() == 7 && c.values().all(|n| *n == 2), "{c:?}");
}

fn fork_in_vfork() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        info!("p {}", 0);
        let v = vfork_and(&mut || {
            info!("p {}", 1);
            let c = raw_fork();
            if c == 0 {
                info!("c {}", 0);
                info!("c {}", 1);
                unsafe { libc::_exit(0) };
            }
            assert_eq!(wait(c), 0);
        });
        assert_eq!(wait(v), 0);
        info!("p {}", 2);
    });
    let j = drained(&s, child);
    assert_eq!(counts(&j.clean().texts), [("c".into(), 2), ("p".into(), 3)].into());
}

fn raw() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        info!("p {}", 0);
        let nonce = only_nonce(&s);
        let c = raw_fork();
        if c == 0 {
            info!("c {}", 0);
            // The first call did the hook's work.
            let ok = holds(unsafe { libc::syscall(libc::SYS_getpid) } as i32, &nonce).is_empty();
            let g = raw_fork();
            if g == 0 {
                info!("g {}", 0);
                unsafe { libc::_exit(0) };
            }
            info!("c {}", 1);
            unsafe { libc::_exit(i32::from(!ok) + 2 * i32::from(wait(g) != 0)) };
        }
        info!("p {}", 1);
        assert_eq!(wait(c), 0);
    });
    let j = drained(&s, child);
    assert_eq!(counts(&j.clean().texts), [("c".into(), 2), ("g".into(), 1), ("p".into(), 2)].into());
}

fn raw_threads() {
    let dir = Scratch::new();
    let mut s = settings(&dir);
    s.lanes = 1;
    let child = producer(&s, || {
        info!("p {}", 0);
        let c = raw_fork();
        if c == 0 {
            info!("c {}", 0);
            // The C library still has the parent's thread id for this thread: it must not be taken for
            // one that is gone, or its lane gets a second writer.
            let t = std::thread::spawn(|| {
                for i in 0..3000 {
                    info!("t {}", i);
                    std::thread::yield_now();
                }
                assert!(!has_lane());
            });
            for i in 1..3000 {
                info!("c {}", i);
                std::thread::yield_now();
            }
            let ok = t.join().is_ok();
            unsafe { libc::_exit(i32::from(!ok)) };
        }
        assert_eq!(wait(c), 0);
    });
    let j = drained_after(&s, child);
    let all = [("c".to_string(), 3000), ("p".to_string(), 1), ("t".to_string(), 3000)];
    assert_eq!(counts(&j.clean().texts), all.into());
}

fn vfork_logs() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        for k in 0..50 {
            info!("p {}", 2 * k);
            let v = vfork_and(&mut || info!("p {}", 2 * k + 1));
            assert_eq!(wait(v), 0);
        }
    });
    let j = drained_after(&s, child);
    assert_eq!(counts(&j.clean().texts), [("p".into(), 100)].into());
}

fn vfork_killed() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let child = producer(&s, || {
        let killer = fork_and(|| {
            // Kills whoever it is told, a little later each time.
            let mut n = 0u64;
            while out[2].load(SeqCst) == 0 {
                let pid = out[0].swap(0, SeqCst);
                if pid != 0 {
                    n += 1;
                    let t = std::time::Instant::now();
                    while t.elapsed() < Duration::from_nanos(n * 1709 % 60_000) {}
                    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
                }
            }
        });
        let mut next = 0u64;
        let mut open = 0;
        for round in 0..200 {
            if round % 2 == 0 {
                spillring::writer::thread_reset();
            }
            let at = std::cell::Cell::new(next);
            let v = vfork_and(&mut || {
                out[0].store(unsafe { libc::syscall(libc::SYS_getpid) } as u64, SeqCst);
                loop {
                    // What is told before the call may or may not be delivered.
                    out[1].store(at.get() + 1, SeqCst);
                    info!("v {}", at.get());
                    at.set(at.get() + 1);
                }
            });
            assert_eq!(wait(v), libc::SIGKILL);
            open += u64::from(call_open());
            next = at.get();
            // The record that was cut may exist: skip its number by a mark.
            warn!("mark {} {}", 0, next);
        }
        out[3].store(open, SeqCst);
        out[2].store(1, SeqCst);
        assert_eq!(killer.wait(), 0);
    });
    let j = drained(&s, child);
    j.clean();
    // v n: each number that had returned is there at least once, a cut one at most once more.
    let mut expected = 0u64;
    let (mut marks, mut doubled) = (0, 0);
    for t in &j.texts {
        let w: Vec<&str> = t.split(' ').collect();
        if w[0] == "mark" {
            let next: u64 = w[2].parse().unwrap();
            assert!(expected == next || expected == next + 1, "{expected} at mark {next}");
            doubled += u64::from(expected == next + 1);
            expected = next;
            marks += 1;
        } else {
            assert_eq!(w[1].parse::<u64>().unwrap(), expected);
            expected += 1;
        }
    }
    assert_eq!(marks, 200);
    eprintln!(
        "after {} of 200 kills a call was open, {doubled} after its record was there",
        out[3].load(SeqCst)
    );
    assert!(out[3].load(SeqCst) > 0 && doubled < 100);
}

fn spawn_holds_nothing() {
    let dir = Scratch::new();
    let s = small(&dir);
    let pid = shared_words();
    let child = producer(&s, || {
        info!("p {}", 0);
        // posix_spawn: CLONE_VM | CLONE_VFORK, then exec.
        #[allow(clippy::zombie_processes)] // it outlives this process: that is the point
        let c = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        pid[0].store(u64::from(c.id()), SeqCst);
        info!("p {}", 1);
    });
    let j = drained_after(&s, child);
    let sleeper = pid[0].load(SeqCst) as i32;
    assert!(holds(sleeper, ".ring").is_empty() && holds(sleeper, ".spill").is_empty());
    kill(sleeper, libc::SIGKILL);
    assert_eq!(counts(&j.clean().texts), [("p".into(), 2)].into());
}

fn daemon() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let child = producer(&s, || {
        info!("p {}", 0);
        assert_eq!(unsafe { libc::daemon(0, 0) }, 0);
        info!("d {}", 0);
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
        info!("d {}", 1);
        out[0].store(1, SeqCst);
    });
    // The first parent has left; the daemon is nobody's child here.
    assert_eq!(child.wait(), 0);
    soon("the daemon", || out[0].load(SeqCst) == 1);
    let d = drain_of(&s);
    let j = finished(&s, d, 0, Vec::new());
    assert_eq!(counts(&j.clean().texts), [("d".into(), 2), ("p".into(), 1)].into());
}

fn fork_during_attach() {
    let mut met = 0;
    for round in 0..60u64 {
        let dir = Scratch::new();
        let s = small(&dir);
        let out = shared_words();
        let child = fork_and(|| {
            unsafe { libc::alarm(50) };
            let t = std::thread::spawn({
                let s = s.clone();
                move || {
                    std::mem::forget(spillring::init_with(&s).unwrap());
                    info!("p {}", 0);
                }
            });
            let begin = std::time::Instant::now();
            while begin.elapsed() < Duration::from_micros(100 + round * 37 % 1200) {}
            let c = unsafe { libc::fork() };
            if c == 0 {
                let me = std::process::id() as i32;
                out[1].store(u64::from(!holds(me, "/t/").is_empty()), SeqCst);
                if round % 2 == 0 {
                    info!("c {}", 0);
                }
                out[0].store(me as u64, SeqCst);
                loop {
                    unsafe { libc::pause() };
                }
            }
            t.join().unwrap();
            soon("the child", || out[0].load(SeqCst) != 0);
        });
        let parent = child.pid();
        assert_eq!(child.wait(), 0);
        met += out[1].load(SeqCst);
        let pid = out[0].load(SeqCst) as i32;
        // With its child alive, the parent is found dead.
        let mut d = drain_of(&s);
        let t = std::time::Instant::now();
        let rings = || -> Vec<String> {
            std::fs::read_dir(s.channel_dir())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .filter(|n| n.ends_with(".ring") && n.starts_with(&format!("{parent}-")))
                .collect()
        };
        while !rings().is_empty() && t.elapsed() < Duration::from_secs(2) {
            d.finish(&mut |_: &str| ()).unwrap();
        }
        let held = holds(pid, "/t/");
        kill(pid, libc::SIGKILL);
        assert!(rings().is_empty(), "round {round}: the child keeps its parent's ring: {held:?}");
        let j = finished(&s, d, 0, Vec::new());
        assert!(j.texts.contains(&"p 0".to_string()), "round {round}: {:?} {:?}", j.texts, j.notices);
    }
    eprintln!("{met} of 60 children began with files of the attach");
}

fn foreign_hook() {
    extern "C" fn before() {
        info!("p {}", TICKS.fetch_add(1, SeqCst));
    }
    extern "C" fn in_child() {
        info!("c {}", 0);
    }
    let dir = Scratch::new();
    let s = small(&dir);
    let child = fork_and(|| {
        // Registered before ours, so it runs before ours in the child.
        assert_eq!(unsafe { libc::pthread_atfork(Some(before), Some(before), Some(in_child)) }, 0);
        std::mem::forget(spillring::init_with(&s).unwrap());
        let nonce = only_nonce(&s);
        let c = fork_and(|| {
            assert!(holds(std::process::id() as i32, &nonce).is_empty());
            info!("c {}", 1);
        });
        assert_eq!(c.wait(), 0);
    });
    let j = drained(&s, child);
    assert_eq!(counts(&j.clean().texts), [("c".into(), 2), ("p".into(), 2)].into());
}

fn sites() {
    fn a(who: &str, n: u32) {
        info!("{} {} first", who, n);
    }
    fn b(who: &str, n: u32) {
        warn!("{} {} second", who, n);
    }
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        a("p", 0);
        let c = fork_and(|| {
            a("c", 0);
            b("c", 1);
            let g = fork_and(|| {
                a("g", 0);
                b("g", 1);
            });
            assert_eq!(g.wait(), 0);
        });
        // The same site gets its number in parent and child apart.
        info!("p {} between", 1);
        b("p", 2);
        assert_eq!(c.wait(), 0);
    });
    let j = drained_after(&s, child);
    let mut t = j.clean().texts.clone();
    t.sort();
    let all =
        ["c 0 first", "c 1 second", "g 0 first", "g 1 second", "p 0 first", "p 1 between", "p 2 second"];
    assert_eq!(t, all);
}

// ---- descriptors

fn close_all() {
    unsafe { assert_eq!(libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0), 0) };
}

fn child_closes_all() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let child = producer(&s, || {
        info!("p {}", 0);
        // Before its ring is made, and after: the spill needs no descriptor.
        let c = fork_and(|| {
            close_all();
            info!("c {}", 0);
            info!("c {}", 1);
        });
        assert_eq!(c.wait(), 0);
        let c = fork_and(|| {
            info!("d {}", 0);
            close_all();
            for i in 1..4000 {
                info!("d {}", i);
            }
            let st = spillring::writer::status();
            assert_eq!(st.lost, 0);
            out[0].store(st.spilled, SeqCst);
        });
        assert_eq!(c.wait(), 0);
    });
    let j = drained_after(&s, child);
    assert_eq!((j.status, j.left), (0, (0, 0)));
    assert!(out[0].load(SeqCst) > 1000);
    assert_eq!(j.totals.lost, 0);
    let c = counts(&j.texts);
    assert_eq!(c, [("c".into(), 2), ("d".into(), 4000), ("p".into(), 1)].into());
}

fn parent_closed_all() {
    let dir = Scratch::new();
    let s = small(&dir);
    let child = producer(&s, || {
        for i in 0..3 {
            info!("p {}", i);
        }
        close_all();
        // Other files on the numbers that ours had.
        let zeros: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/zero").unwrap()).collect();
        // The sites that the parent registered go on in the child, without a descriptor to read them from.
        let c = fork_and(|| {
            for i in 0..3 {
                info!("c {}", i);
            }
        });
        assert_eq!(c.wait(), 0);
        // Likewise with a call open.
        open_a_call();
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            for i in 0..3 {
                info!("d {}", i);
            }
            unsafe { libc::_exit(0) };
        }
        assert_eq!(wait(pid), 0);
        spillring::writer::thread_reset();
        info!("p {}", 3);
        drop(zeros);
    });
    let j = drained_after(&s, child);
    let _ = j.clean();
    // The same sites in parent and child: the child's texts are whole.
    assert_eq!(counts(&j.texts), [("c".into(), 3), ("d".into(), 3), ("p".into(), 4)].into());
}

fn reused_numbers() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let victims = dir.path().join("victims");
    std::fs::create_dir(&victims).unwrap();
    let child = producer(&s, || {
        info!("p {}", 0);
        close_all();
        let mut open: Vec<std::fs::File> = Vec::new();
        for i in 0..200 {
            let f = std::fs::OpenOptions::new().append(true).create(true).open(victims.join(i.to_string()));
            open.push(f.unwrap());
        }
        for i in 1..3000 {
            info!("p {}", i);
        }
        out[0].store(spillring::writer::status().spilled, SeqCst);
        // A child whose parent's numbers are other files must leave those alone too.
        let c = fork_and(|| {
            for f in &open {
                assert!(spillring::sys::file::fstat(std::os::fd::AsRawFd::as_raw_fd(f)).is_ok());
            }
            info!("c {}", 0);
        });
        assert_eq!(c.wait(), 0);
    });
    let j = drained_after(&s, child);
    assert_eq!((j.status, j.left), (0, (0, 0)));
    for f in std::fs::read_dir(&victims).unwrap() {
        let f = f.unwrap();
        assert_eq!(f.metadata().unwrap().len(), 0, "{:?} was written into", f.path());
    }
    assert!(out[0].load(SeqCst) > 1000);
    assert_eq!(j.totals.lost, 0);
    assert_eq!(counts(&j.texts), [("c".into(), 1), ("p".into(), 3000)].into());
}

/// Who moves the position of every descriptor loses nothing: the spill has none.
fn moved_position() {
    let dir = Scratch::new();
    let s = small(&dir);
    let out = shared_words();
    let child = producer(&s, || {
        for i in 0..3000 {
            if i % 1000 == 500 {
                (3..4096).for_each(|fd| unsafe {
                    libc::lseek(fd, 0, libc::SEEK_SET);
                });
            }
            info!("p {}", i);
        }
        out[0].store(spillring::writer::status().spilled, SeqCst);
    });
    let j = drained_after(&s, child);
    assert!(out[0].load(SeqCst) > 1000, "{}", out[0].load(SeqCst));
    assert_eq!(counts(&j.clean().texts), [("p".into(), 3000)].into());
}

/// A thread that logged before the fork remembers how far its lane was released. In the child it takes
/// over the lane of a dead thread, to which that number says nothing.
fn stale_released() {
    let dir = Scratch::new();
    let mut s = small(&dir);
    s.lanes = 1;
    let out = shared_words();
    let child = producer(&s, || {
        for i in 0..40 {
            info!("p {}", i);
        }
        out[0].store(40, SeqCst);
        soon("the drain to have been", || out[1].load(SeqCst) == 1);
        // Until it looks, and remembers what those 40 gave back.
        let mut i = 40;
        let limit = || unsafe { &*spillring::tls::block() }.limit.load(SeqCst);
        while limit() <= s.lane_bytes {
            info!("p {}", i);
            i += 1;
        }
        assert!(limit() < s.lane_bytes + 2000, "{}", limit());
        out[0].store(i, SeqCst);
        let c = fork_and(|| {
            std::thread::spawn(|| {
                // Fills the only lane.
                for i in 0..90 {
                    info!("t {}", i);
                }
            })
            .join()
            .unwrap();
            // Joined is not gone yet.
            std::thread::sleep(Duration::from_millis(20));
            for i in 0..60 {
                info!("c {}", i);
            }
            assert!(has_lane());
        });
        assert_eq!(c.wait(), 0);
    });
    let mut d = drain_of(&s);
    soon("its first records", || {
        d.pass(true).unwrap();
        d.totals().records == 40 || !child.running()
    });
    drop(d);
    out[1].store(1, SeqCst);
    let j = drained_after(&s, child);
    let all = [("c".to_string(), 60), ("p".to_string(), out[0].load(SeqCst)), ("t".to_string(), 90)];
    assert_eq!(counts(&j.clean().texts), all.into());
}
