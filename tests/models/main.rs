//! Loom models of the real function bodies: `lane`, `spill`, `snapshot` and the log call run here
//! unchanged on loom's words. README.md lists the models and what loom cannot show.

mod calibration;
mod ledger;
mod scenario;
mod thread;
mod words;
mod world;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use scenario::*;
use thread::{LARGE, OPEN_END, Script};
use world::{End, Plan};

type Body = fn(&Model);

const MODELS: &[(&str, Body)] = &[
    ("lane", lane),
    ("open", open),
    ("handler", handler),
    ("handlers", handlers),
    ("full", full),
    ("shared", shared),
    ("holes", holes),
    ("laneless", laneless),
    ("laneless_spill", laneless_spill),
    ("inherit", inherit),
    ("heirs", heirs),
    ("longjmp", longjmp),
    ("spill", spill),
    ("given", given),
    ("parse", parse),
    ("restart", restart),
    ("observer", observer),
    ("loss", loss),
    ("fork", fork),
    ("laps", laps),
    ("spill_holes", spill_holes),
    ("calibration", calibration::calibration),
];

fn main() {
    let args = Arguments::from_args();
    let trials = MODELS.iter().map(|&(name, body)| Trial::test(name, move || run(name, body))).collect();
    libtest_mimic::run(&args, trials).exit();
}

fn run(name: &'static str, body: Body) -> Result<(), Failed> {
    let mode = std::env::var("SPILLRING_MODELS").unwrap_or_default();
    let (deep, every) = (mode == "deep", mode == "deep" || mode == "every");
    let bound = if deep { 4 } else { 3 };
    let m = Model { name, bound, deep, every, executions: Arc::default(), runs: Cell::new(0) };
    let start = Instant::now();
    body(&m);
    let n = m.executions.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "model {name}: {n} executions in {} explorations, preemption bound {bound}, {:.1} s",
        m.runs.get(),
        start.elapsed().as_secs_f64()
    );
    if n < 1000 {
        return Err(format!("model {name} explored {n} executions: it shows nothing").into());
    }
    Ok(())
}

fn ends(k: u32, end: End) -> Plan {
    Plan { end: Some((k, end)), handlers: vec![] }
}

fn interrupted(k: u32) -> Plan {
    Plan { end: None, handlers: vec![k] }
}

/// Payloads by where they go: into a lane, into the shared lane (of 8 granules), into the spill.
const L: u64 = 8;
const S: u64 = 16;
/// Into the shared lane also from a lane of 256 bytes.
const M: u64 = 48;
const F: u64 = LARGE;

fn one(s: Script, plan: Plan) -> Vec<(Script, Plan)> {
    vec![(s, plan)]
}

/// One thread, a lane that wraps with PAD, and the drain; the process killed at every operation.
fn lane(m: &Model) {
    let s = Scenario {
        threads: one(script(Some(0), &[8, 0, 8, 8, 0], &[], &[]), Plan::default()),
        passes: 2,
        watch: true,
        ..Scenario::default()
    };
    m.explore(&s);
    let s = Scenario {
        threads: one(script(Some(0), &[0, 8, 8], &[], &[]), Plan::default()),
        passes: m.more(1),
        ..s
    };
    m.every(0, 1, &s, |s, k| s.threads[0].1 = ends(k, End::Process));
}

/// Records whose size shows while they are written, one of them as too large for that: the process killed, a handler and a
/// fork at every operation; somebody reads along. Then the same where the room for the largest is not released.
fn open(m: &Model) {
    let mut t = script(Some(0), &[8, OPEN_END, 0], &[8], &[]);
    (t.open, t.before) = (true, vec![8]);
    let s = Scenario {
        lanes: vec![(256, 256 * 3 + 64, 1)],
        threads: one(t.clone(), Plan::default()),
        passes: 1,
        watch: true,
        ..Scenario::default()
    };
    m.every(0, 9, &s, |s, k| s.threads[0].1 = ends(k, End::Process));
    m.every(0, 9, &s, |s, k| s.threads[0].1 = interrupted(k));
    m.every(0, 9, &s, |s, k| s.threads[0].1 = ends(k, End::Fork));
    (t.calls[0], t.before) = (vec![0, 8], vec![8; 7]);
    let s = Scenario {
        lanes: vec![(256, 256 * 3 + 192, 1)],
        threads: one(t, Plan::default()),
        observer: m.deep,
        ..s
    };
    m.explore(&s);
    m.every(0, 9, &s, |s, k| s.threads[0].1 = interrupted(k));
    let mut t = script(Some(0), &[8], &[], &[]);
    (t.open, t.before) = (true, vec![8; 2]);
    m.explore(&Scenario { threads: one(t, Plan::default()), observer: true, ..s });
}

/// A handler at every operation of two calls into a lane.
fn handler(m: &Model) {
    let s = Scenario {
        threads: one(script(Some(0), &[L, L], &[L], &[]), Plan::default()),
        passes: 1,
        ..Scenario::default()
    };
    m.every(0, 1, &s, |s, k| s.threads[0].1 = interrupted(k));
    // Two records of the handler on different slow paths, main's around them.
    let s =
        Scenario { granules: 8, threads: one(script(Some(0), &[L, L], &[S, F], &[]), Plan::default()), ..s };
    m.every(0, 12, &s, |s, k| s.threads[0].1 = interrupted(k));
}

/// A handler at every operation, and in it or behind it another one at every operation.
fn handlers(m: &Model) {
    for k1 in 1.. {
        let mut reached = 0;
        for k2 in k1 + 1.. {
            let both = Plan { end: None, handlers: vec![k1, k2] };
            let s = Scenario {
                threads: one(script(Some(0), &[L], &[L], &[L]), both),
                // Every pair of operations; every third pair with a drain at work meanwhile.
                passes: usize::from(m.deep || (k1 + k2) % 3 == 0),
                ..Scenario::default()
            };
            reached = m.explore(&s)[0];
            if reached < k2 {
                break;
            }
        }
        if reached <= k1 {
            break;
        }
    }
}

/// A lane that is full, then the shared lane, then the spill, and back again as the drain goes on.
fn full(m: &Model) {
    let mut t = script(Some(0), &[L, L], &[L], &[]);
    t.before = vec![L; 7];
    let s = Scenario { threads: one(t, Plan::default()), passes: 1, ..Scenario::default() };
    m.every(0, 20, &s, |s, k| s.threads[0].1 = interrupted(k));
    let mut t = script(Some(0), if m.deep { &[S, L, F, L] } else { &[S, L] }, &[], &[]);
    t.before = vec![L];
    let s = Scenario { granules: 8, threads: one(t, Plan::default()), passes: m.more(1), ..s };
    m.explore(&s);
}

/// Two threads without lanes.
fn shared(m: &Model) {
    let t = |calls: &[u64]| (script(None, calls, &[], &[]), Plan::default());
    let s = Scenario { threads: vec![t(&[8]), t(&[8])], passes: 1, ..Scenario::default() };
    m.explore(&s);
    // Records of one and two granules: PAD, and a lane that is full.
    let s = Scenario {
        granules: 8,
        shared_start: 8 * 5 + 6,
        threads: one(
            script(None, if m.deep { &[S, 8, S, S, 8] } else { &[S, 8, S] }, &[], &[]),
            Plan::default(),
        ),
        passes: m.more(1),
        ..s
    };
    m.explore(&s);
}

/// Kills at every operation of calls into the shared lane: holes of every kind.
fn holes(m: &Model) {
    let t = |calls: &[u64]| (script(None, calls, &[], &[]), Plan::default());
    let two = Scenario {
        granules: 8,
        shared_start: 8 * 5 + 5,
        threads: vec![t(&[S, S])],
        passes: 1,
        watch: true,
        ..Scenario::default()
    };
    m.every(0, 3, &two, |s, k| s.threads[0].1 = ends(k, End::Thread));
    m.every(0, 3, &two, |s, k| s.threads[0].1 = ends(k, End::Process));
    // The second time around: words of the lap before stand where it dies.
    let mut again = script(None, &[8, 8], &[], &[]);
    again.before = vec![8; 4];
    let again =
        Scenario { threads: one(again, Plan::default()), passes: 1, watch: true, ..Scenario::default() };
    m.every(0, 2, &again, |s, k| s.threads[0].1 = ends(k, End::Process));
    // Another thread goes on meanwhile.
    let s = Scenario { threads: vec![t(&[8]), t(&[8])], passes: 1, watch: true, ..Scenario::default() };
    m.every(0, 99, &s, |s, k| s.threads[0].1 = ends(k, End::Process));
    m.every(0, 99, &s, |s, k| s.threads[0].1 = ends(k, End::Thread));
}

/// A thread without a lane, and a handler at every operation of it.
fn laneless(m: &Model) {
    without_a_lane(m, &[8, F], &[8], 7);
    without_a_lane(m, &[8], &[8, F], 7);
    without_a_lane(m, &[8, F], &[8, F], 99);
}

/// The same, its first record in the spill.
fn laneless_spill(m: &Model) {
    without_a_lane(m, &[F, 8], &[F], 7);
}

fn without_a_lane(m: &Model, main: &[u64], handler: &[u64], stride: u32) {
    let s = Scenario {
        threads: one(script(None, main, handler, &[]), Plan::default()),
        passes: 1,
        ..Scenario::default()
    };
    m.every(0, stride, &s, |s, k| s.threads[0].1 = interrupted(k));
}

/// Where a lane that is taken over stands: somewhere, near the wrap, at its start.
const STARTS: [u64; 3] = [256, 0u64.wrapping_sub(184), 0];

fn heir(start: u64, calls: &[u64]) -> (Script, Scenario) {
    let mut heir = script(None, calls, &[S, F], &[]);
    heir.inherits = Some(0);
    let s = Scenario {
        lanes: vec![(256, start, 7)],
        granules: 8,
        threads: one(heir.clone(), Plan::default()),
        passes: 1,
        ..Scenario::default()
    };
    (heir, s)
}

/// A lane taken over from a thread that is gone, a handler at every operation.
fn inherit(m: &Model) {
    for start in STARTS {
        let (_, s) = heir(start, &[L, L]);
        m.explore(&s);
        m.every(0, if start == 256 { 12 } else { 99 }, &s, |s, k| s.threads[0].1 = interrupted(k));
    }
}

/// The lane's last owner, killed at every operation.
fn heirs(m: &Model) {
    for start in STARTS {
        let (next, mut s) = heir(start, &[L]);
        s.lanes[0].2 = 1;
        s.threads = one(script(Some(0), &[S, L], &[], &[]), Plan::default());
        s.successor = Some(next);
        s.watch = true;
        m.every(0, 10, &s, |s, k| s.threads[0].1 = ends(k, End::Thread));
        // Both owners' records in a spill of which one is read a pass, and in the lane records of both:
        // the last owner's may go with the heir's first one there, the heir's wait for its second one.
        let (next, mut s) = heir(start, &[F, F, L]);
        (s.lanes[0].2, s.parse) = (1, 1);
        let mut last = script(Some(0), &[L], &[], &[]);
        last.before = vec![F, L];
        s.threads = one(last, Plan::default());
        s.successor = Some(next);
        m.every(0, 10, &s, |s, k| s.threads[0].1 = ends(k, End::Thread));
        // The heir has a slow record that is not in the spill: it says nothing about those that are.
        s.threads[0].0.before = vec![F, F, L];
        s.successor.iter_mut().for_each(|next| next.calls[0] = vec![M, L]);
        m.every(0, 10, &s, |s, k| s.threads[0].1 = ends(k, End::Thread));
    }
}

/// `longjmp` out of a call at every operation: `busy` stays set.
fn longjmp(m: &Model) {
    let s = Scenario {
        threads: one(script(Some(0), &[L, F, L], &[], &[]), Plan::default()),
        passes: 1,
        ..Scenario::default()
    };
    m.every(0, 1, &s, |s, k| s.threads[0].1 = ends(k, End::Longjmp));
}

/// Calls that spill while the drain looks: each has to back its place first.
fn spill(m: &Model) {
    let t = |calls: &[u64]| (script(None, calls, &[], &[]), Plan::default());
    let s = Scenario { threads: vec![t(&[F]), t(&[F])], passes: m.more(0), ..Scenario::default() };
    m.explore(&s);
    let s = Scenario {
        threads: one(script(Some(0), &[F, L], &[F], &[]), Plan::default()),
        passes: m.more(1),
        ..Scenario::default()
    };
    m.every(0, 3, &s, |s, k| s.threads[0].1 = interrupted(k));
    let s = Scenario { threads: one(script(None, &[F], &[F, F], &[]), Plan::default()), ..s };
    m.every(0, 99, &s, |s, k| s.threads[0].1 = interrupted(k));
}

/// Space of the spill that is given back and used again: a lap holds five records, and the PAD before the next.
fn given(m: &Model) {
    let mut t = script(None, &[F, F], &[F], &[]);
    t.before = vec![F; 4];
    let s = Scenario { threads: one(t, Plan::default()), passes: m.more(1), ..Scenario::default() };
    m.explore(&s);
    m.every(0, 4, &s, |s, k| s.threads[0].1 = interrupted(k));
    // The drain is killed between the hole in the file and `released`, and everywhere else.
    m.every(3, 6, &s, |s, k| s.drain_ends = Some(k));
}

/// A spill of which one record a pass is read.
fn parse(m: &Model) {
    let mut t = script(Some(0), &[L, F, L], &[F], &[]);
    t.before = vec![F, L, F];
    let s = Scenario {
        granules: 4,
        threads: one(t, Plan::default()),
        passes: m.more(1),
        parse: 1,
        ..Scenario::default()
    };
    m.explore(&s);
    m.every(0, 4, &s, |s, k| s.threads[0].1 = interrupted(k));
}

/// The drain is killed at every operation and starts again from its journal.
fn restart(m: &Model) {
    let t = |calls: &[u64]| (script(None, calls, &[], &[]), Plan::default());
    let s = Scenario { threads: vec![t(&[8]), t(&[8])], passes: 1, ..Scenario::default() };
    m.every(3, 99, &s, |s, k| s.drain_ends = Some(k));
    let mut t = script(Some(0), &[S, L], &[], &[]);
    t.before = vec![F, L, S];
    let s = Scenario { granules: 8, threads: one(t, Plan::default()), passes: m.more(1), ..s };
    m.every(3, 4, &s, |s, k| s.drain_ends = Some(k));
}

/// Somebody reads a lane while it wraps.
fn observer(m: &Model) {
    let mut t = script(Some(0), &[L], &[], &[]);
    t.before = vec![L; 4];
    let s = Scenario { threads: one(t, Plan::default()), passes: 1, observer: true, ..Scenario::default() };
    m.explore(&s);
}

/// No spill: what fits nowhere is counted, and marked where it is missing.
fn loss(m: &Model) {
    let mut t = script(Some(0), &[L, F, L, L], &[F], &[]);
    t.no_spill = true;
    let s = Scenario { threads: one(t, Plan::default()), passes: 1, ..Scenario::default() };
    m.every(0, 3, &s, |s, k| s.threads[0].1 = interrupted(k));
    // In the middle of taking over a lane.
    let mut t = script(None, &[L, L], &[F], &[]);
    (t.no_spill, t.inherits) = (true, Some(0));
    let s = Scenario { lanes: vec![(256, 0, 7)], threads: one(t, Plan::default()), ..s };
    m.every(0, 3, &s, |s, k| s.threads[0].1 = interrupted(k));
    let mut t = script(None, &[8, F, 8], &[F], &[]);
    t.no_spill = true;
    let s = Scenario { threads: one(t, Plan::default()), ..s };
    m.every(0, 3, &s, |s, k| s.threads[0].1 = interrupted(k));
}

/// A fork at every operation; the parent dies with it, its child goes on.
fn fork(m: &Model) {
    for calls in [[L, L, L], [L, S, F]] {
        let s = Scenario {
            lanes: vec![(256, 256, 1)],
            granules: 8,
            threads: one(script(Some(0), &calls, &[L], &[]), Plan::default()),
            passes: 1,
            ..Scenario::default()
        };
        m.every(0, 1, &s, |s, k| s.threads[0].1 = ends(k, End::Fork));
        // The handler that forked logs, too.
        m.every(0, 1, &s, |s, k| s.threads[0].1 = Plan { end: Some((k, End::Fork)), handlers: vec![k] });
    }
}

/// The last lap of the shared lane: it is closed, and what comes goes to the spill.
fn laps(m: &Model) {
    let t = |calls: &[u64]| (script(None, calls, &[], &[]), Plan::default());
    let s = Scenario {
        shared_start: last_lap(4) + 3,
        threads: vec![t(&[8]), t(&[8])],
        passes: 1,
        ..Scenario::default()
    };
    m.explore(&s);
    // The last granule, and what comes when the tail moves no more.
    let s = Scenario { threads: vec![t(&[8, 8, 8])], ..s };
    m.explore(&s);
}

/// Kills at every operation of calls that spill: holes of every kind, also behind another thread's back.
fn spill_holes(m: &Model) {
    let t = || (script(None, &[F], &[], &[]), Plan::default());
    let mut again = script(None, &[F], &[], &[]);
    again.before = vec![F; 4];
    for (threads, stride) in [(one(again, Plan::default()), 2), (vec![t(), t()], 99)] {
        let s = Scenario { threads, passes: 1, watch: true, ..Scenario::default() };
        m.every(0, stride, &s, |s, k| s.threads[0].1 = ends(k, End::Process));
        m.every(0, stride, &s, |s, k| s.threads[0].1 = ends(k, End::Thread));
    }
}
