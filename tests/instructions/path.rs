//! The paths of a log call, walked instruction by instruction.

use super::events::{Events, Kind, Seen};
use super::judge::{self, Found};
use super::state::{Distinct, Files};
use super::trace::{self, Stop, Traced};
use super::victim as v;
use libtest_mimic::{Arguments, Failed, Trial};
use spillring::env::{Overflow, Settings};
use spillring::lane::shared;
use spillring::layout::ring::{lane, word};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

/// Where the call under test goes; a path that does not go there tests nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    /// Its lane, so many bytes.
    Lane(u64),
    /// The shared lane, so many granules.
    Shared(u64),
    Spill,
    Lost,
    /// Not asked: another ring than the first.
    Elsewhere,
}

/// One path.
#[derive(Clone, Copy)]
struct Path {
    name: &'static str,
    adapt: fn(&mut Settings),
    prepare: fn(),
    /// Passes of a drain on the way.
    drains: u32,
    call: fn(),
    went: Went,
    handler: fn(),
}

const PLAIN: Path = Path {
    name: "steady",
    adapt: |_| {},
    prepare: v::warm,
    drains: 0,
    call: v::small,
    went: Went::Lane(40),
    handler: v::nested_handler,
};

/// Kills at random boundaries of a path that is longer than the steady one.
const KILLS: usize = 200;

/// Everything: no samples.
fn all() -> bool {
    std::env::var("SPILLRING_INSTRUCTIONS").is_ok_and(|v| v == "all")
}

struct Rng(u64);
impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

/// A directory in shared memory for everything of one path.
struct Scratch(PathBuf);
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One copied channel, to be drained; with a twin, two that must answer alike.
struct Job {
    dir: PathBuf,
    twin: Option<PathBuf>,
    calls: Vec<Seen>,
    label: String,
}

impl Job {
    fn check(&self) -> std::result::Result<(), String> {
        let found = judge::drain_dead(&self.dir)?;
        judge::judge(&self.calls, &found)?;
        if let Some(twin) = &self.twin {
            let other: Found = judge::drain_dead(twin).map_err(|e| format!("killed: {e}"))?;
            judge::judge(&self.calls, &other).map_err(|e| format!("killed: {e}"))?;
            if found != other {
                return Err(format!(
                    "the killed channel gives {} records, its copy {}: {other:?} {found:?}",
                    other.records.len(),
                    found.records.len()
                ));
            }
            let _ = std::fs::remove_dir_all(twin);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        Ok(())
    }
}

/// Drains copies in processes of their own (a drain keeps its locks for life), beside the stepping.
struct Checker {
    waiting: Vec<Job>,
    running: VecDeque<(i32, std::fs::File)>,
    failures: Vec<String>,
    done: usize,
}

const BATCH: usize = 8;
/// Checkers at a time; they mostly sleep (a drain measures its clock when it opens).
const CHECKERS: usize = 16;

impl Checker {
    fn new() -> Checker {
        Checker { waiting: Vec::new(), running: VecDeque::new(), failures: Vec::new(), done: 0 }
    }

    fn add(&mut self, job: Job) {
        self.waiting.push(job);
        if self.waiting.len() >= BATCH {
            self.launch();
        }
    }

    fn launch(&mut self) {
        while self.running.len() >= CHECKERS {
            self.wait();
        }
        let jobs = std::mem::take(&mut self.waiting);
        self.done += jobs.len();
        let mut ends = [0; 2];
        // SAFETY: a pipe, and a child of this process with one thread that leaves by itself.
        unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
            let pid = libc::fork();
            assert!(pid >= 0);
            use std::os::fd::FromRawFd;
            if pid == 0 {
                trace::limit();
                let mut out = std::fs::File::from_raw_fd(ends[1]);
                let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    for j in &jobs {
                        if let Err(e) = j.check() {
                            let _ = writeln!(out, "{}: {}", j.label, e.replace('\n', " "));
                        }
                    }
                }));
                if r.is_err() {
                    let _ = writeln!(out, "the checker panicked");
                }
                libc::_exit(0);
            }
            libc::close(ends[1]);
            self.running.push_back((pid, std::fs::File::from_raw_fd(ends[0])));
        }
    }

    fn wait(&mut self) {
        if let Some((pid, mut from)) = self.running.pop_front() {
            let mut said = String::new();
            let _ = from.read_to_string(&mut said);
            self.failures.extend(said.lines().map(str::to_string));
            match trace::wait_for(pid, None) {
                Ok(0) => {}
                ended => self.failures.push(format!("a checker died: wait status {ended:x?}")),
            }
        }
    }

    fn finish(&mut self) {
        if !self.waiting.is_empty() {
            self.launch();
        }
        while !self.running.is_empty() {
            self.wait();
        }
    }
}

/// A victim, stopped before its call.
struct Victim {
    traced: Traced,
    /// A parent that lives on (path of a forked child).
    parent: Option<Traced>,
    files: Files,
    base: PathBuf,
}

impl Victim {
    fn end(self) {
        self.traced.kill();
        if let Some(p) = self.parent {
            p.kill();
        }
    }
}

struct Lab {
    scratch: Scratch,
    events: &'static Events,
    checker: Checker,
    runs: u32,
    copies: u32,
    rng: Rng,
}

type Result<T> = std::result::Result<T, Failed>;

/// Where a walk is.
#[derive(Clone, Copy, Debug, Default)]
struct At {
    /// Instructions since the call began.
    k: u64,
    /// System calls since then, and instructions since the last of them.
    syscalls: u64,
    since: u64,
    rip: u64,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::Builder::new().prefix("spillring-steps-").tempdir_in("/dev/shm");
        let events = Events::new();
        v::use_events(events);
        Lab {
            scratch: Scratch(dir.expect("a directory in /dev/shm").keep()),
            events,
            checker: Checker::new(),
            runs: 0,
            copies: 0,
            rng: Rng(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Runs a victim to the instruction before its call.
    fn start(&mut self, p: &Path) -> Result<Victim> {
        self.runs += 1;
        let since = spillring::sys::time::ticks();
        let base = self.scratch.0.join(format!("run-{}", self.runs));
        let mut s = judge::settings(&base);
        (p.adapt)(&mut s);
        self.events.clear();
        let (prepare, call, handler) = (p.prepare, p.call, p.handler);
        let mut traced = Traced::fork(|| {
            v::handle(handler);
            let guard = spillring::init_with(&s).expect("init");
            std::mem::forget(guard);
            prepare();
            v::trap();
            call();
            v::end();
        })?;
        let mut parent = None;
        for _ in 0..p.drains {
            expect(traced.run_to_trap()?, Stop::Trap)?;
            let b = base.clone();
            in_child(move || judge::drain(&b))?;
        }
        match traced.run_to_trap()? {
            Stop::Trap => {}
            Stop::Forked(child) => {
                traced.go()?;
                parent = Some(std::mem::replace(&mut traced, Traced::adopt(child)?));
                expect(traced.run_to_trap()?, Stop::Trap)?;
            }
            other => return Err(format!("the victim did not come to its call: {other:?}").into()),
        }
        Ok(Victim { traced, parent, files: Files::new(&base, since), base })
    }

    fn copy(&mut self, f: &Files) -> Result<PathBuf> {
        self.copies += 1;
        let dir = self.scratch.0.join(format!("copy-{}", self.copies));
        f.copy_to(&dir)?;
        // As init makes it: nobody else's business.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.join("t"), std::fs::Permissions::from_mode(0o700))?;
        Ok(dir)
    }

    /// Has the present state drained, if no state like it was.
    fn look(&mut self, victim: &Victim, seen: &mut Distinct, label: impl FnOnce() -> String) -> Result<()> {
        if seen.insert(victim.files.hash(), self.events.key()) {
            let dir = self.copy(&victim.files)?;
            let job = Job { dir, twin: None, calls: self.events.calls(), label: label() };
            self.checker.add(job);
        }
        Ok(())
    }

    /// One instruction; answers whether it was a system call.
    fn step(&mut self, victim: &mut Victim, at: &mut At, signal: i32) -> Result<bool> {
        let mut signal = signal;
        loop {
            match victim.traced.step(signal)? {
                Stop::Stepped => break,
                // It was blocked where it was sent (an attach, a forked child's work), and comes now.
                Stop::Signal(libc::SIGUSR1) => signal = libc::SIGUSR1,
                other => return Err(format!("{other:?} while stepping, at {at:?}").into()),
            }
        }
        let (rip, syscall) = victim.traced.at()?;
        (at.k, at.since, at.rip) = (at.k + 1, at.since + 1, rip);
        if syscall {
            (at.syscalls, at.since) = (at.syscalls + 1, 0);
        }
        Ok(syscall)
    }

    /// Walks one whole call. With `inject`, the handler's signal is delivered at that boundary. Looks at
    /// every distinct state from there on. Answers all boundaries, and that of the signal's return.
    fn walk(&mut self, p: &Path, inject: Option<At>, seen: &mut Distinct) -> Result<Vec<At>> {
        let mut victim = self.start(p)?;
        let before = Counts::of(&victim.files);
        let first = self.events.len();
        let base_calls = self.events.calls().len();
        let (mut at, mut way, mut key) = (At::default(), Vec::new(), self.events.key());
        let (mut begun, mut over) = (false, false);
        let name = p.name;
        match inject {
            None => self.look(&victim, seen, || format!("{name} at its beginning"))?,
            Some(to) => {
                at = self.go_to(&mut victim, to)?;
                victim.files.look(true);
                (begun, key) = (true, self.events.key());
            }
        }
        let mut handled = inject.is_none();
        loop {
            if begun && !over {
                way.push(at);
            }
            let signal = match inject {
                Some(_) if !handled => {
                    handled = true;
                    libc::SIGUSR1
                }
                _ => 0,
            };
            let syscall = self.step(&mut victim, &mut at, signal)?;
            let mut changed = victim.files.look(syscall);
            if self.events.key() != key {
                key = self.events.key();
                changed = true;
                let calls = self.events.calls();
                let mut outer = calls[base_calls..].iter().filter(|s| s.call.kind != Kind::Nested);
                if let Some(o) = outer.next() {
                    if !begun {
                        at = At { rip: at.rip, ..At::default() };
                    }
                    begun = true;
                    over = o.ended.is_some();
                }
            }
            if changed {
                self.look(&victim, seen, || format!("{name} inject {inject:?} {at:x?}"))?;
            }
            if over && victim.traced.was_trap()? {
                break;
            }
            if at.k > 3_000_000 {
                return Err(format!("{name}: no end after {} instructions", at.k).into());
            }
        }
        self.look(&victim, seen, || format!("{name} inject {inject:?}, returned"))?;
        if self.events.len() < first + 2 || inject.is_some() && self.events.len() < first + 4 {
            return Err(format!("{name}: {} events", self.events.len() - first).into());
        }
        if inject.is_none() {
            let went = Counts::of(&victim.files).since(&before);
            if !went.is(p.went) {
                return Err(format!("{name} should have gone to {:?}: {went:?}", p.went).into());
            }
        }
        let base = victim.base.clone();
        victim.end();
        std::fs::remove_dir_all(base)?;
        Ok(way)
    }

    /// Brings a victim to a boundary of its call: from system call to system call, then by steps.
    fn go_to(&mut self, victim: &mut Victim, at: At) -> Result<At> {
        let n = self.events.calls().len();
        let mut here = At::default();
        while self.events.calls().len() == n {
            self.step(victim, &mut here, 0)?;
        }
        if at.syscalls > 0 {
            match victim.traced.run_to_syscall_exit(at.syscalls)? {
                // What the kernel answers (room that is left, numbers to be read) makes a way shorter now
                // and then. The end of the call is a boundary too; behind it the victim only traps.
                Stop::Trap => return Ok(at),
                other => expect(other, Stop::Stepped)?,
            }
        }
        for _ in 0..at.since {
            self.step(victim, &mut here, 0)?;
            if victim.traced.was_trap()? {
                break;
            }
        }
        Ok(at)
    }

    /// Kills a victim at the boundary `at`, where its copy was taken, and has both drained. With `inject`:
    /// `then` instructions into what the signal at `at` does.
    fn kill(&mut self, p: &Path, at: At, inject: Option<u64>) -> Result<()> {
        let mut victim = self.start(p)?;
        let mut here = self.go_to(&mut victim, at)?;
        if let Some(then) = inject {
            for i in 0..=then {
                let signal = if i == 0 { libc::SIGUSR1 } else { 0 };
                self.step(&mut victim, &mut here, signal)?;
                // At the end of the call: behind it the victim only traps.
                if victim.traced.was_trap()? {
                    break;
                }
            }
        }
        victim.files.look(true);
        let dir = self.copy(&victim.files)?;
        let (calls, base) = (self.events.calls(), victim.base.clone());
        victim.end();
        let label = format!("{} killed at {at:x?} inject {inject:?}", p.name);
        self.checker.add(Job { dir, twin: Some(base), calls, label });
        Ok(())
    }

    fn verdict(&mut self, name: &str) -> Result<()> {
        self.checker.finish();
        if self.checker.failures.is_empty() {
            return Ok(());
        }
        let n = self.checker.failures.len();
        let some: Vec<&str> = self.checker.failures.iter().take(5).map(String::as_str).collect();
        Err(format!("{name}: {n} of {} states are wrong:\n{}", self.checker.done, some.join("\n")).into())
    }
}

fn expect(is: Stop, should: Stop) -> Result<()> {
    if is == should { Ok(()) } else { Err(format!("the victim: {is:?} instead of {should:?}").into()) }
}

/// Runs `f` in a process of its own.
fn in_child(f: impl FnOnce() -> std::result::Result<(), String>) -> Result<()> {
    // SAFETY: a child of this process with one thread, which leaves by itself.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            trace::limit();
            let r = f();
            if let Err(e) = &r {
                eprintln!("{e}");
            }
            libc::_exit(i32::from(r.is_err()));
        }
        let st = trace::wait_for(pid, None)?;
        if st == 0 { Ok(()) } else { Err("a drain on the way failed".into()) }
    }
}

/// What the words of the first ring count.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    tails: u64,
    granules: u64,
    claims: u64,
    spilled: u64,
    lost: u64,
}

impl Counts {
    fn of(f: &Files) -> Counts {
        let (ring, Some(g)) = (f.bytes(".ring"), f.geometry()) else { return Counts::default() };
        let w = |at: u64| u64::from_le_bytes(ring[at as usize..at as usize + 8].try_into().expect("8 bytes"));
        let mut c = Counts {
            granules: shared::position(w(word::SHARED_TAIL)),
            claims: shared::claims(w(word::SHARED_TAIL)),
            spilled: w(word::SPILLED),
            lost: w(word::LOST),
            tails: 0,
        };
        for i in 0..g.lanes {
            c.tails += w(g.lane_header(i) + lane::TAIL);
            c.lost += w(g.lane_header(i) + lane::LOST);
        }
        c
    }
    fn since(&self, b: &Counts) -> Counts {
        Counts {
            tails: self.tails - b.tails,
            granules: self.granules - b.granules,
            claims: self.claims - b.claims,
            spilled: self.spilled - b.spilled,
            lost: self.lost - b.lost,
        }
    }
    fn is(&self, w: Went) -> bool {
        let all = (self.tails, self.granules, self.claims, self.spilled, self.lost);
        match w {
            Went::Lane(n) => all == (n, 0, 0, 0, 0),
            Went::Shared(n) => all == (0, n, 1, 0, 0),
            Went::Spill => all == (0, 0, 0, 1, 0),
            Went::Lost => all == (0, 0, 0, 0, 1),
            Went::Elsewhere => true,
        }
    }
}

fn report(name: &str, boundaries: usize, seen: &Distinct, lab: &Lab, kills: usize, since: Instant) {
    println!(
        "{name}: boundaries {boundaries}, distinct states {}, states checked {}, kills that agree {kills}, {:.1} s",
        seen.len(),
        lab.checker.done - kills,
        since.elapsed().as_secs_f64()
    );
}

/// A path alone, and kills on it: at every boundary, or at [`KILLS`] random ones.
fn alone(p: Path, every: bool) -> Result<()> {
    let since = Instant::now();
    let (mut lab, mut seen) = (Lab::new(), Distinct::default());
    let way = lab.walk(&p, None, &mut seen)?;
    let kills: Vec<At> = if every || all() {
        way.clone()
    } else {
        (0..KILLS).map(|_| way[lab.rng.below(way.len() as u64) as usize]).collect()
    };
    for at in &kills {
        lab.kill(&p, *at, None)?;
    }
    lab.verdict(p.name)?;
    report(p.name, way.len(), &seen, &lab, kills.len(), since);
    Ok(())
}

/// A handler's call at boundaries of the path: at every one, or at `sample` random ones.
fn with_handler(p: Path, sample: Option<usize>, kills: usize) -> Result<()> {
    let since = Instant::now();
    let (mut lab, mut seen) = (Lab::new(), Distinct::default());
    let way = lab.walk(&p, None, &mut Distinct::default())?;
    let outer: Vec<At> = match sample {
        // Half of them near the end: there the words are that others see.
        Some(n) if !all() => (0..n)
            .map(|i| {
                let of = if i % 2 == 0 { way.len() } else { (way.len() / 10).max(1) };
                way[way.len() - 1 - lab.rng.below(of as u64) as usize]
            })
            .collect(),
        _ => way.clone(),
    };
    let mut boundaries = 0;
    let mut longest = 0;
    for at in &outer {
        let n = lab.walk(&p, Some(*at), &mut seen)?.len();
        boundaries += n;
        longest = longest.max((n + at.k as usize).saturating_sub(way.len()));
        if lab.checker.failures.len() > 20 {
            break;
        }
    }
    for _ in 0..kills {
        let at = outer[lab.rng.below(outer.len() as u64) as usize];
        let then = lab.rng.below(longest as u64);
        lab.kill(&p, at, Some(then))?;
    }
    lab.verdict(p.name)?;
    let name = format!("{} (at {} of {} boundaries)", p.name, outer.len(), way.len());
    report(&name, boundaries, &seen, &lab, kills, since);
    Ok(())
}

/// The harness has to notice writers that are wrong, and must find nothing wrong with one that is right.
fn wrong_writers() -> Result<()> {
    let right = Path { name: "a writer by hand", call: v::by_hand, ..PLAIN };
    alone_quick(right, false)?.map_or(Ok(()), |e| Err(Failed::from(e)))?;
    alone_quick(right, true)?.map_or(Ok(()), |e| Err(Failed::from(e)))?;
    let wrong = [
        (Path { name: "tail before the copy", call: v::tail_before_the_copy, ..PLAIN }, false),
        (Path { name: "busy cleared before the tail", call: v::busy_cleared_before_the_tail, ..PLAIN }, true),
        (Path { name: "a nested call in the busy lane", handler: v::nested_in_the_busy_lane, ..PLAIN }, true),
    ];
    for (p, nested) in wrong {
        match alone_quick(p, nested)? {
            Some(e) => println!("caught: {}: {}", p.name, e.lines().nth(1).unwrap_or("")),
            None => return Err(format!("not caught: {}", p.name).into()),
        }
    }
    Ok(())
}

/// A way may be shorter than the one before it, by what the kernel answers: a boundary that this one does not
/// have is its end, and neither the walk nor the kill waits there for what does not come.
fn shorter_way(p: Path) -> Result<()> {
    let (mut lab, mut seen) = (Lab::new(), Distinct::default());
    let way = lab.walk(&p, None, &mut seen)?;
    let last = way[way.len() - 1];
    for beyond in [At { syscalls: last.syscalls + 3, ..last }, At { since: last.since + 30, ..last }] {
        lab.walk(&p, Some(beyond), &mut seen)?;
        lab.kill(&p, beyond, None)?;
        lab.kill(&p, beyond, Some(10))?;
        lab.kill(&p, beyond, Some(1_000_000))?;
    }
    lab.verdict(p.name)
}

/// Walks a path, with a handler or without, and answers what was found wrong with it.
fn alone_quick(p: Path, nested: bool) -> Result<Option<String>> {
    let (mut lab, mut seen) = (Lab::new(), Distinct::default());
    let way = lab.walk(&p, None, &mut seen)?;
    if nested {
        // From the end: what is wrong there is found sooner than it would be by chance.
        for at in way.iter().rev().step_by(if all() { 1 } else { 7 }) {
            lab.walk(&p, Some(*at), &mut seen)?;
            lab.checker.finish();
            if !lab.checker.failures.is_empty() {
                break;
            }
        }
    }
    Ok(lab.verdict(p.name).err().and_then(|e| e.message().map(str::to_string)))
}

fn permitted() -> std::io::Result<()> {
    Traced::fork(|| v::forever())?.step(0).map(drop)
}

pub fn main() {
    let mut args = Arguments::from_args();
    // A tracer is one thread, and the victims are its forks.
    args.test_threads = Some(1);
    trace::watch();
    trace::stay();
    if let Err(e) = permitted() {
        println!("single-stepping is not possible here: {e}");
        let ci = std::env::var("CI").is_ok_and(|v| v == "true");
        let t = if ci {
            Trial::test("every_instruction", move || Err(format!("ptrace: {e}").into()))
        } else {
            Trial::test("every_instruction", || Ok(())).with_ignored_flag(true)
        };
        libtest_mimic::run(&args, vec![t]).exit();
    }
    let path = |name, f: fn(&mut Path)| {
        let mut p = Path { name, ..PLAIN };
        f(&mut p);
        p
    };
    let steady = PLAIN;
    let pad = path("PAD at the wrap", |p| {
        (p.prepare, p.drains, p.call, p.went) = (v::before_the_wrap, 2, || v::text(60), Went::Lane(64 + 96));
    });
    let large = path("too large for the lane", |p| {
        (p.call, p.went) = (|| v::text(2000), Went::Shared(33));
    });
    let shared_pad = path("PAD in the shared lane", |p| {
        (p.prepare, p.drains, p.call) = (v::before_the_shared_wrap, 2, || v::text(2000));
        p.went = Went::Shared(33 + 12);
    });
    let spill = path("full to spill", |p| (p.prepare, p.went) = (v::full, Went::Spill));
    let wide = path("full to spill, many strings", |p| {
        (p.prepare, p.call, p.went) = (v::full, v::wide, Went::Spill);
    });
    let grows = path("full to a spill that has to grow", |p| {
        (p.prepare, p.went) = (v::before_the_spill_grows, Went::Spill);
    });
    let first = path("first call of a thread and a site", |p| {
        (p.prepare, p.went) = (v::nothing, Went::Lane(56 + 40));
    });
    let heir = path("first call, in the lane of a thread that is gone", |p| {
        (p.prepare, p.went) = (v::after_another_thread, Went::Lane(56 + 40));
    });
    let fresh = path("first call of a site", |p| (p.call, p.went) = (v::fresh, Went::Lane(32)));
    let child = path("first call of a forked child", |p| {
        (p.prepare, p.went) = (v::in_a_child, Went::Elsewhere);
    });
    let dropped = path("lost: drop-newest", |p| {
        p.adapt = |s| s.overflow = Overflow::DropNewest;
        (p.prepare, p.went) = (v::full_without_spill, Went::Lost);
    });
    let quota = path("lost: over the quota", |p| {
        p.adapt = |s| s.spill_quota = Some(64 << 10);
        (p.prepare, p.went) = (v::full_without_spill, Went::Lost);
    });
    let marker = path("the marker of a loss", |p| {
        p.adapt = |s| s.overflow = Overflow::DropNewest;
        (p.prepare, p.drains, p.went) = (v::after_a_loss, 1, Went::Lane(16 + 32 + 40));
    });
    let nested = |mut p: Path, name| {
        p.name = name;
        p
    };
    let mut trials = vec![Trial::test("wrong_writers_are_caught", wrong_writers)];
    trials.push(Trial::test("a_shorter_way_has_an_end", move || {
        shorter_way(steady)?;
        shorter_way(spill)
    }));
    trials.push(Trial::test("steady", move || alone(steady, true)));
    for (id, p) in [
        ("pad", pad),
        ("large", large),
        ("shared_pad", shared_pad),
        ("spill", spill),
        ("spill_wide", wide),
        ("spill_grows", grows),
        ("first_of_thread", first),
        ("heir", heir),
        ("first_of_site", fresh),
        ("child", child),
        ("drop_newest", dropped),
        ("quota", quota),
        ("marker", marker),
    ] {
        trials.push(Trial::test(id, move || alone(p, false)));
    }
    for (id, p, sample) in [
        ("nested_steady", nested(steady, "a handler's call in the steady path"), None),
        ("nested_pad", nested(pad, "a handler's call at the wrap"), Some(20)),
        ("nested_spill", nested(spill, "a handler's call while spilling"), Some(20)),
        ("nested_growth", nested(grows, "a handler's call while the spill grows"), Some(40)),
        ("nested_lost", nested(dropped, "a handler's call while losing"), Some(20)),
        ("nested_marker", nested(marker, "a handler's call while marking"), Some(20)),
        ("nested_first", nested(first, "a handler's call in a first call"), Some(8)),
        ("nested_child", nested(child, "a handler's call in a forked child's first"), Some(8)),
    ] {
        let kills = if sample.is_none() { KILLS } else { 20 };
        trials.push(Trial::test(id, move || with_handler(p, sample, kills)));
    }
    libtest_mimic::run(&args, trials).exit();
}
