//! Rows of the call itself.
#![allow(unsafe_code)] // the thread's block, and an exported name for objdump

use crate::calls::{Size, TEXT, int_sides, means, our_text, tails, text_sides, ticks_per_ns};
use crate::child::{Done, output, with_us};
use crate::floor::{FloorRing, INTS_BYTES, text_bytes};
use crate::output::Row;
use crate::pairs::{Pairs, Target, median};
use crate::place::{DrainPlan, DrainProcess, Place, count_journal, failed, pin};
use crate::{Bench, Mode};
use spillring::channel::{Channel, Role};
use spillring::env::{Clock, Overflow};
use spillring::lane::shared::position;
use spillring::layout::ctl;
use spillring::layout::ring::{ack, word};
use spillring::ringview::View;
use spillring::snapshot::RingRead;
use spillring::sync::{AtomicBool, AtomicU64, Ordering::*};
use spillring::sys::thread::nanosleep;
use spillring::sys::time::ticks;
use spillring::{Error, Result, tls};
use std::hint::black_box;
use std::io::IoSlice;
use std::time::{Duration, Instant};

const SIDES: (&str, &str) = ("ours", "floor");

/// Checks that nothing went another way than it should, and that the journal holds all of it.
fn lossless(place: &Place, expected: u64, spills: bool) -> Result<()> {
    let st = spillring::writer::status();
    if st.lost + st.unattached > 0 || !spills && st.spilled > 0 {
        return Err(failed(format!("{} lost, {} spilled", st.lost + st.unattached, st.spilled)));
    }
    let held = count_journal(&place.journal())?;
    if held != expected {
        return Err(failed(format!("the journal holds {held} records of {expected}")));
    }
    Ok(())
}

fn plan<'a>(b: &'a Bench, idle: &'a str, grace: &'a str) -> DrainPlan<'a> {
    DrainPlan { exe: b.exe(), idle, grace, cpu: Some(b.cpus.0), args: Vec::new() }
}

/// `call text|ints|tail|tick|paced`
pub fn call_child(b: &Bench, args: &[&str]) -> Result<Done> {
    let kind = args.first().copied().unwrap_or("text");
    let mut place = b.place()?;
    let idle = if kind == "tick" {
        place.settings.clock = Clock::Tick;
        "spin"
    } else {
        "adaptive"
    };
    let drain = DrainProcess::start(&plan(b, idle, "5ms"), &place)?;
    let guard = spillring::init_with(&place.settings)?;
    pin(b.cpus.1);
    let capacity = place.settings.lane_bytes;
    let dir = place.settings.channel_dir();
    let size = match kind {
        "tail" => Size { pairs: b.pairs(), bursts: b.size(3, 150, 300), calls: 20, apart: 1500 },
        // In the rhythm of the rivals.
        "paced" => Size { pairs: 1, bursts: b.size(20, 1000, 2000), calls: 50, apart: 200 },
        // 7 pairs of 600 bursts: 210 000 calls of each side.
        _ => Size { pairs: b.pairs(), bursts: b.size(20, 300, 600), calls: 50, apart: 0 },
    };
    let warm = Size { pairs: 1, bursts: b.size(2, 200, 200), calls: 50, apart: 0 };
    let pairs = if kind == "ints" {
        let ring = FloorRing::create::<(u64, u32, i32)>(&dir, 1, capacity)?;
        let lane = ring.lane(0);
        let (mut ours, mut floor) = int_sides(&lane);
        means(warm, INTS_BYTES, &lane, &mut ours, &mut floor);
        means(size, INTS_BYTES, &lane, ours, floor)
    } else {
        let ring = FloorRing::create::<(i32, f64, &str)>(&dir, 1, capacity)?;
        let lane = ring.lane(0);
        let (mut ours, mut floor) = text_sides(&lane);
        let bytes = text_bytes(TEXT.len());
        means(warm, bytes, &lane, &mut ours, &mut floor);
        match kind {
            "tail" => tails(size, bytes, 0.999, &lane, ours, floor),
            _ => means(size, bytes, &lane, ours, floor),
        }
    };
    let calls = |s: Size| (s.pairs * s.bursts) as u64 * s.calls;
    let mut made = 2 * (calls(size) + calls(warm));
    let mut done = Done::pairs(pairs).note(format!("{} calls of each side", calls(size)));
    if kind == "text" {
        // What there is to gain by asking for the lane's lines: the floor with that, and the floor, in one lane.
        let ring = FloorRing::create::<(i32, f64, &str)>(&dir, 1, capacity)?;
        let lane = ring.lane(0);
        let ahead = |i: u64| lane.text_ahead(black_box(i as i32), 0.5, black_box(TEXT));
        let plain = |i: u64| lane.text(black_box(i as i32), 0.5, black_box(TEXT));
        let sides = means(size, 2 * text_bytes(TEXT.len()), &lane, ahead, plain).sides();
        made += 2 * calls(size);
        done = done.number("the floor that asks for lines ahead", sides.0, "ns");
    }
    if kind == "tick" {
        // What is left of the floor without its rdtsc, with the same drain; in turn in one lane.
        let ring = FloorRing::create::<(i32, f64, &str)>(&dir, 1, capacity)?;
        let lane = ring.lane(0);
        let channel = place.channel()?;
        let word = channel.ctl().word(ctl::TICK);
        let without = |i: u64| lane.text_at(word, black_box(i as i32), 0.5, black_box(TEXT));
        let with = |i: u64| lane.text(black_box(i as i32), 0.5, black_box(TEXT));
        let sides = means(size, 2 * text_bytes(TEXT.len()), &lane, without, with).sides();
        made += 2 * calls(size);
        done = done.number("the floor by the drain's clock", sides.0, "ns");
        done = done.number("beside it the floor", sides.1, "ns");
    }
    drop(guard);
    drain.end()?;
    lossless(&place, made, false)?;
    Ok(done)
}

/// The call in the middle of what happens.
pub fn call_site(b: &Bench) -> Result<Vec<Row>> {
    let group = "call-site";
    let text = b.measure(&["call", "text"])?.row(group, "log call (i32, f64, text), p50", "ns", SIDES);
    let ints = b.measure(&["call", "ints"])?.row(group, "log call (three integers), p50", "ns", SIDES);
    Ok(vec![text.target(Target::Most(1.15)), ints.target(Target::Most(1.15))])
}

/// The worst of a thousand.
pub fn call_tail(b: &Bench) -> Result<Vec<Row>> {
    let row = b.measure(&["call", "tail"])?.row("call-tail", "log call, p99.9 after 1.5 ms", "ns", SIDES);
    Ok(vec![row.target(Target::Most(1.2))])
}

/// The clock of the drain.
pub fn tick(b: &Bench) -> Result<Vec<Row>> {
    let row = b.measure(&["call", "tick"])?.row("tick", "log call, SPILLRING_CLOCK=tick", "ns", SIDES);
    Ok(vec![row.target(Target::Most(0.5)).note("the floor reads the TSC; a drain that spins reads both")])
}

/// How the reader of the sustained row looks.
#[derive(Clone, Copy, PartialEq)]
enum Look {
    /// Takes what there is, then lets some come together.
    Batches,
    /// After every record.
    Every,
    /// Not at all.
    Never,
}

/// Calls without a pause.
pub fn sustained_child(b: &Bench) -> Result<Done> {
    let place = b.place()?;
    let guard = spillring::init_with(&place.settings)?;
    pin(b.cpus.1);
    our_text(0, 0.5, TEXT); // the lane
    let dir = place.settings.channel_dir();
    let capacity = place.settings.lane_bytes;
    let ring = FloorRing::create::<(i32, f64, &str)>(&dir, 1, capacity)?;
    let unread = FloorRing::create::<(i32, f64, &str)>(&dir, 1, capacity)?;
    let (lane, alone) = (ring.lane(0), unread.lane(0));
    let channel = Channel::create_or_open(&dir, false, Role::Drain)?;
    let me = spillring::writer::status().nonce;
    let mut views = Vec::new();
    for stem in channel.producers()? {
        if stem.nonce == me || stem.nonce == ring.stem().nonce {
            views.push((stem.nonce == me, View::new(channel.open_ring(stem)?)));
        }
    }
    // How the reader looks (0 batches, 1 every record, 2 not at all), and what it has taken of each.
    let (look, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let taken = [AtomicU64::new(0), AtomicU64::new(0)];
    let n: u64 = b.size(20_000, 500_000, 2_000_000);
    let bytes = text_bytes(TEXT.len());
    let mut pairs = Pairs::default();
    let (mut nobody, mut every) = (Vec::new(), Vec::new());
    std::thread::scope(|s| -> Result<()> {
        s.spawn(|| {
            pin(b.cpus.0);
            take(&views, capacity, &look, &taken, &stop);
        });
        let quiet = || {
            let begun = Instant::now();
            let behind = |i: usize| {
                views.iter().any(|(ours, v)| {
                    *ours == (i == 0) && v.lane_tail(0) != v.lane_ack(0, ack::RELEASED).load(Acquire)
                })
            };
            while behind(0) || behind(1) {
                if begun.elapsed() > Duration::from_secs(30) {
                    return Err(failed("the reader is stuck"));
                }
                nanosleep(Duration::from_micros(100));
            }
            Ok(())
        };
        let set = |l: Look| look.store(l as u64, Relaxed);
        let ours = || {
            spillring::writer::may_wait(true);
            let t = Instant::now();
            (0..n).for_each(|i| our_text(black_box(i as i32), 0.5, black_box(TEXT)));
            t.elapsed().as_nanos() as f64 / n as f64
        };
        let floor = || {
            let t = Instant::now();
            for i in 0..n {
                while !lane.text_checked(black_box(i as i32), 0.5, black_box(TEXT)) {
                    std::hint::spin_loop();
                }
            }
            t.elapsed().as_nanos() as f64 / n as f64
        };
        let mut measure = || -> Result<()> {
            for i in 0..=b.pairs() {
                let (mut a, mut f) = (0.0, 0.0);
                for which in [i % 2, (i + 1) % 2] {
                    set(Look::Batches);
                    quiet()?;
                    if which == 0 { a = ours() } else { f = floor() }
                }
                quiet()?;
                set(Look::Every);
                let e = floor();
                quiet()?;
                set(Look::Never);
                let t = Instant::now();
                (0..n).for_each(|i| alone.text_unread(black_box(i as i32), 0.5, black_box(TEXT)));
                let alone = t.elapsed().as_nanos() as f64 / n as f64;
                set(Look::Batches);
                if i > 0 {
                    pairs.0.push((a, f));
                    nobody.push(alone);
                    every.push(e);
                }
            }
            Ok(())
        };
        let done = measure();
        stop.store(true, Relaxed);
        done
    })?;
    let st = spillring::writer::status();
    let records = (b.pairs() as u64 + 1) * n;
    // Beside the records: the name of the lane's thread, the first record, PADs of less than a record a lap.
    let slack = 1 << 20;
    let (ours, floor) = (taken[0].load(Relaxed), taken[1].load(Relaxed));
    if st.lost + st.spilled > 0 || ours < records * bytes || ours > records * bytes + slack {
        return Err(failed(format!("{} spilled, {ours} bytes taken of {}", st.spilled, records * bytes)));
    }
    if floor < 2 * records * bytes || floor > 2 * records * bytes + slack {
        return Err(failed(format!("{floor} bytes taken of the floor's {}", 2 * records * bytes)));
    }
    std::mem::forget(guard);
    Ok(Done::pairs(pairs)
        .number("floor that nobody reads", median(nobody), "ns")
        .number("floor, a look after every record", median(every), "ns")
        .note(format!("{n} calls a run; the reader copies batches out of the lane and releases them")))
}

/// The reader: copies what there is out of the lanes and releases it.
fn take(views: &[(bool, View)], capacity: u64, look: &AtomicU64, taken: &[AtomicU64; 2], stop: &AtomicBool) {
    let mut buf = vec![0u8; capacity as usize];
    let mut at = [0u64; 2];
    while !stop.load(Relaxed) {
        let how = look.load(Relaxed);
        if how == Look::Never as u64 {
            nanosleep(Duration::from_micros(50));
            continue;
        }
        let mut most = 0;
        for (i, (ours, v)) in views.iter().enumerate() {
            let tail = v.lane_tail(0);
            let n = tail - at[i];
            if n == 0 {
                continue;
            }
            let (index, first) = (at[i] & (capacity - 1), n.min(capacity - (at[i] & (capacity - 1))));
            v.lane_read(0, index, &mut buf[..first as usize]);
            v.lane_read(0, 0, &mut buf[first as usize..n as usize]);
            black_box(&buf);
            at[i] = tail;
            v.lane_ack(0, ack::RELEASED).store(tail, Release);
            taken[usize::from(!ours)].fetch_add(n, Relaxed);
            most = most.max(n);
        }
        if how == Look::Batches as u64 && most < 64 << 10 {
            // About what a drain does besides: a batch is worth waiting for.
            let t = Instant::now();
            while t.elapsed() < Duration::from_micros(20) {
                std::hint::spin_loop();
            }
        }
    }
}

/// Calls without a pause.
pub fn sustained(b: &Bench) -> Result<Vec<Row>> {
    let row = b.measure(&["sustained"])?.row("sustained", "log call, sustained", "ns", SIDES);
    Ok(vec![row.target(Target::Most(1.2))])
}

/// `shared one|two|nested`
pub fn shared_child(b: &Bench, args: &[&str]) -> Result<Done> {
    let kind = args.first().copied().unwrap_or("one");
    let writers: u64 = if kind == "two" { 2 } else { 1 };
    let mut place = b.place()?;
    place.settings.lanes = 1;
    let drain = DrainProcess::start(&plan(b, "sleep:50us", "0"), &place)?;
    let guard = spillring::init_with(&place.settings)?;
    our_text(0, 0.5, TEXT); // this thread takes the only lane
    let dir = place.settings.channel_dir();
    let ring = FloorRing::create::<(i32, f64, &str)>(&dir, writers as u32, place.settings.lane_bytes)?;
    let channel = place.channel()?;
    let me = spillring::writer::status().nonce;
    let stem = channel.producers()?.into_iter().find(|s| s.nonce == me);
    let view = View::new(channel.open_ring(stem.ok_or_else(|| failed("our own ring is not there"))?)?);
    let pending = || position(view.load(word::SHARED_TAIL)) - view.ack(ack::SHARED_RELEASED).load(Acquire);

    let (pair_count, bursts, calls) = (b.pairs(), b.size(5, 300, 1000), 20u64);
    let per_ns = ticks_per_ns();
    let gate = AtomicU64::new(0);
    let body = |me: u64| -> Result<Vec<(f64, f64)>> {
        // The second writer shares the drain's processor, which sleeps nearly always.
        pin(if me == 0 { b.cpus.1 } else { b.cpus.0 });
        let lane = ring.lane(me as u32);
        let bytes = text_bytes(TEXT.len()) * calls;
        let mut pairs = Vec::new();
        for _ in 0..pair_count {
            let (mut a, mut f) = (Vec::new(), Vec::new());
            for i in 0..bursts {
                for which in [i % 2, (i + 1) % 2] {
                    let begun = Instant::now();
                    while pending() > 256 || !lane.ready(bytes) {
                        nanosleep(Duration::from_micros(50));
                        if begun.elapsed() > Duration::from_secs(30) {
                            return Err(failed("the drain is stuck"));
                        }
                    }
                    // All writers at once.
                    let round = gate.fetch_add(1, AcqRel) / writers;
                    while gate.load(Acquire) < (round + 1) * writers {
                        std::hint::spin_loop();
                        if begun.elapsed() > Duration::from_secs(30) {
                            return Err(failed("the other writer is stuck"));
                        }
                    }
                    let t = ticks();
                    for n in 0..calls {
                        let n = black_box(n as i32);
                        if which == 0 {
                            our_text(n, 0.5, black_box(TEXT));
                        } else {
                            lane.text(n, 0.5, black_box(TEXT));
                        }
                    }
                    let mean = (ticks() - t) as f64 / calls as f64 / per_ns;
                    if which == 0 { a.push(mean) } else { f.push(mean) }
                }
            }
            pairs.push((median(a), median(f)));
        }
        Ok(pairs)
    };
    let all = if kind == "nested" {
        // What a handler finds that interrupted a call: the thread's block says that one is open.
        // SAFETY: this thread's block, for as long as the thread lives.
        let block = unsafe { &*tls::block() };
        block.busy.store(1, Relaxed);
        let r = body(0);
        block.busy.store(0, Relaxed);
        vec![r?]
    } else {
        std::thread::scope(|s| {
            let threads: Vec<_> =
                (0..writers).map(|i| (i, &body)).map(|(i, f)| s.spawn(move || f(i))).collect();
            let join = |t: std::thread::ScopedJoinHandle<'_, Result<Vec<(f64, f64)>>>| {
                t.join().unwrap_or_else(|_| Err(failed("a writer panicked")))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?
    };
    // Of pair i, ours and the floor's, over the writers.
    let mean = |i: usize| {
        let sum = all.iter().fold((0.0, 0.0), |(a, b), v| (a + v[i].0, b + v[i].1));
        (sum.0 / all.len() as f64, sum.1 / all.len() as f64)
    };
    let pairs = (0..pair_count).map(mean).collect();
    let status = spillring::writer::status();
    drop(guard);
    drain.end()?;
    let made = pair_count as u64 * bursts as u64 * calls * writers;
    if position(view.load(word::SHARED_TAIL)) < made {
        return Err(failed("the calls did not go through the shared lane"));
    }
    lossless(&place, 2 * made + 1, true)?;
    Ok(Done::pairs(Pairs(pairs)).note(format!("{} of {made} calls spilled", status.spilled)))
}

/// The slow path in memory.
pub fn shared(b: &Bench) -> Result<Vec<Row>> {
    let row = |kind: &str, name: &str, most: f64| -> Result<Row> {
        let row = b.measure(&["shared", kind])?.row("shared", name, "ns", SIDES);
        Ok(row.target(Target::Most(most)))
    };
    Ok(vec![
        row("one", "shared lane, one writer", 2.5)?,
        row("two", "shared lane, two writers", 8.0)?,
        row("nested", "shared lane, a nested call", 3.0)?,
    ])
}

/// What stands before the call, so that the code of the call alone can be told from its function's.
#[unsafe(export_name = "spillring_bench_before")]
#[inline(never)]
pub extern "C" fn before() {
    black_box(());
}

/// Below the level that this process logs: what a call costs that goes nowhere.
#[unsafe(export_name = "spillring_bench_disabled_call")]
#[inline(never)]
pub extern "C" fn disabled_call(a: i32) {
    before();
    spillring::trace!("{}", a);
}

/// Instructions before the jump, from the machine code of this very program.
pub fn disabled(b: &Bench) -> Result<Vec<Row>> {
    disabled_call(black_box(1));
    let exe = std::env::current_exe().map_err(|e| Error::os("this program", e))?;
    let mut c = with_us("objdump");
    c.args(["-d", "--no-show-raw-insn", "--disassemble=spillring_bench_disabled_call"]).arg(exe);
    let text = match output(c, b.limit()) {
        Ok(t) => String::from_utf8_lossy(&t).into_owned(),
        Err(e) => return Ok(vec![Row::missing("disabled", e.message).foreign()]),
    };
    let code = text.lines().skip_while(|l| !l.contains("<spillring_bench_disabled_call>:")).skip(1);
    let code: Vec<&str> = code.filter_map(|l| l.split_once(":\t").map(|(_, i)| i.trim())).collect();
    // From behind the call of the other function up to the first conditional jump (x86) or branch (aarch64).
    let from = code.iter().position(|i| i.contains("spillring_bench_before") || i.starts_with("call"));
    let jump = |i: &str| {
        i.starts_with('j') && !i.starts_with("jmp")
            || ["b.", "cbz", "cbnz", "tb"].iter().any(|p| i.starts_with(p))
    };
    let code = &code[from.map_or(0, |i| i + 1)..];
    let Some(n) = code.iter().position(|i| jump(i)) else {
        return Err(failed(format!("no jump found in {} instructions", code.len())));
    };
    // Unoptimised code is not what a user runs.
    let target = (b.mode != Mode::Tiny).then_some(Target::Most(3.0));
    let row = Row::numbers("disabled", "disabled call");
    let shown: Vec<String> =
        code[..=n].iter().map(|i| i.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    Ok(vec![row.number("instructions before the jump", n as f64, "", target).note(shown.join("; "))])
}

/// A spilling call against one writev of the same bytes.
pub fn spill_child(b: &Bench) -> Result<Done> {
    use std::io::Write;
    let mut place = b.place()?;
    place.settings.overflow = Overflow::Spill;
    place.settings.lane_bytes = 16 << 10;
    let guard = spillring::init_with(&place.settings)?;
    pin(b.cpus.1);
    // Nobody drains: from here on every call spills.
    let mut made = 0u64;
    while spillring::writer::status().spilled == 0 {
        our_text(0, 0.5, TEXT);
        made += 1;
        if made > 1_000_000 {
            return Err(failed("nothing spills"));
        }
    }
    let before = spillring::writer::status().spilled;
    let path = place.settings.channel_dir().join("floor");
    let what = |e| Error::os(path.display(), e);
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).map_err(what)?;
    // As many bytes as ours takes, in two parts: a key, and the record.
    let record = 24 + 16 + TEXT.len();
    let bytes = (32 + record).next_multiple_of(64);
    let (head, body) = ([7u8; 32], vec![1u8; bytes - 32]);
    let (bursts, calls) = (b.size(5, 200, 400), 100);
    let mut pairs = Pairs::default();
    for _ in 0..b.pairs() {
        let (mut a, mut f) = (Vec::new(), Vec::new());
        for i in 0..bursts {
            for which in [i % 2, (i + 1) % 2] {
                let t = Instant::now();
                for n in 0..calls {
                    if which == 0 {
                        our_text(black_box(n), 0.5, black_box(TEXT));
                        made += 1;
                    } else {
                        let parts = [IoSlice::new(&head), IoSlice::new(&body)];
                        file.write_vectored(&parts).map_err(what)?;
                    }
                }
                let mean = t.elapsed().as_nanos() as f64 / f64::from(calls);
                if which == 0 { a.push(mean) } else { f.push(mean) }
            }
        }
        pairs.0.push((median(a), median(f)));
    }
    let n = (b.pairs() * bursts) as u64 * calls as u64;
    let spilled = spillring::writer::status().spilled - before;
    if spilled != n {
        return Err(failed(format!("{spilled} calls of {n} spilled")));
    }
    drop(file);
    std::fs::remove_file(&path).map_err(what)?;
    // What was spilled is there: a drain delivers it.
    let drain = DrainProcess::start(&plan(b, "adaptive", "0"), &place)?;
    drop(guard);
    spillring::flush(Duration::from_secs(60))?;
    drain.end()?;
    lossless(&place, made, true)?;
    Ok(Done::pairs(pairs).note(format!("{bytes} bytes a record, {n} of each side")))
}

/// A spilling call.
pub fn spill(b: &Bench) -> Result<Vec<Row>> {
    let row = b.measure(&["spill"])?.row("spill", "a call that spills", "ns", ("ours", "writev"));
    Ok(vec![row.target(Target::Most(1.3))])
}
