//! `spillring bench`: what a log call costs on this machine, and how fast records become lines of a text
//! file, each beside its floor. `cargo bench --bench report` shows all rows, and rivals.

// The report of `cargo bench` uses all of them.
#[allow(dead_code)]
mod calls;
#[allow(dead_code)]
mod flood;
#[allow(dead_code)]
mod floor;
#[allow(dead_code)]
mod pairs;
#[allow(dead_code)]
mod place;

use super::{BenchArgs, Exit};
use calls::{Size, TEXT};
use floor::FloorRing;
use pairs::{Pairs, line, short};
use place::{DrainPlan, DrainProcess, Place, count_journal, cpus, pin};
use spillring::env::Settings;
use spillring::{Error, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// Lane of the floor, and ours: what the settings say, and enough for a few bursts.
const LEAST_LANE: u64 = 64 << 10;
const PAIRS: usize = 5;

/// Runs it.
pub fn run(args: &BenchArgs, settings: &Settings) -> Result<Exit> {
    let exe = std::env::current_exe().map_err(|e| Error::os("this program's own path", e))?;
    let disk = match &args.dir {
        Some(d) => d.clone(),
        None => settings.journal_dir.clone().unwrap_or_else(std::env::temp_dir),
    };
    let mut place = Place::new(&settings.dir, &disk)?;
    place.settings.lane_bytes = settings.lane_bytes.max(LEAST_LANE);
    place.settings.clock = settings.clock;
    let (drain_cpu, producer_cpu) = cpus();
    let file = place.disk.path().join("text");
    let plan = DrainPlan {
        exe: &exe,
        idle: "adaptive",
        grace: "5ms",
        cpu: Some(drain_cpu),
        args: vec!["-o".into(), file.display().to_string()],
    };
    let drain = DrainProcess::start(&plan, &place)?;
    let guard = spillring::init_with(&place.settings)?;
    pin(producer_cpu);
    let capacity = place.settings.lane_bytes;
    let ring = FloorRing::create::<(i32, f64, &str)>(&place.settings.channel_dir(), 1, capacity)?;
    let lane = ring.lane(0);
    let per_ns = calls::ticks_per_ns();
    let bytes = floor::text_bytes(TEXT.len());

    let kib = place.settings.lane_bytes >> 10;
    println!("Producer on processor {producer_cpu}, drain on {drain_cpu}; a lane of {kib} KiB;");
    println!(
        "records of (i32, f64, {} characters), {bytes} bytes in the lane; {}",
        TEXT.len(),
        disk.display()
    );
    println!("Ratios: median of {PAIRS} pairs measured in turn (smallest to largest).");
    println!();
    if drain_cpu == producer_cpu {
        println!("There is one processor only: what is printed is not what two would do.");
    }
    let step = calls::tick_step(per_ns);
    let (mut ours, mut theirs) = calls::text_sides(&lane);
    // Warm: the lane's pages, the site, the drain's memory.
    let warm = Size { pairs: 1, bursts: 200, calls: 50, apart: 0 };
    calls::means(warm, bytes, &lane, &mut ours, &mut theirs);
    let size = Size { pairs: PAIRS, bursts: args.bursts, calls: 50, apart: 0 };
    let p50 = calls::means(size, bytes, &lane, &mut ours, &mut theirs);
    let sides = ("ours", "floor");
    println!("{}", line("log call, p50", "ns", sides, &p50, None));
    let size = Size { pairs: PAIRS, bursts: (args.bursts / 20).max(5), calls: 20, apart: 1500 };
    let p999 = calls::tails(size, bytes, 0.999, &lane, &mut ours, &mut theirs);
    println!("{}", line("log call, p99.9, after 1.5 ms", "ns", sides, &p999, None));

    // The file is one of all runs, so each begins where the one before ended.
    let records = args.records;
    let mut text = Pairs::default();
    let quiet = Duration::from_secs(30);
    let mut from = settled(&file, quiet)?;
    for i in 0..PAIRS {
        let floor_file = place.disk.path().join("floor");
        let floor_side = || flood::floor(&floor_file, records);
        let mut floor_time = Duration::ZERO;
        if i % 2 == 1 {
            floor_time = floor_side()?;
        }
        let begun = Instant::now();
        flood::log(records);
        let end = flood::last_line(&file, records, Duration::from_secs(120))?;
        if i % 2 == 0 {
            floor_time = floor_side()?;
        }
        from += flood::check(&file, from, records)?;
        flood::check(&floor_file, 0, records)?;
        let rate = |t: Duration| records as f64 / t.as_secs_f64() / 1e6;
        text.0.push((rate(end - begun), rate(floor_time)));
    }
    println!("{}", line("call to text file", "M/s", sides, &text, None));
    let status = spillring::writer::status();
    drop(guard);
    drain.end()?;
    let held = count_journal(&place.journal())?;
    let floors = {
        let bursts = 200 + PAIRS * args.bursts;
        let tails = PAIRS * (args.bursts / 20).max(5);
        bursts as u64 * 50 + tails as u64 * 20
    };
    let expected = 2 * floors + PAIRS as u64 * records;
    println!();
    println!("Floor of a call: read the clock, copy the same bytes, one release store, the same drain.");
    println!("Floor of the text: one thread that makes the same lines and writes 64 KiB at a time.");
    println!(
        "{held} records in the journal, {expected} logged, {} lost, {} spilled; the clock steps by {} ns.",
        status.lost,
        status.spilled,
        short(step)
    );
    if held != expected {
        return Err(place::failed(format!("{} records are missing", expected as i64 - held as i64)));
    }
    Ok(Exit::Done)
}

/// The length of a file that has not grown for a while.
fn settled(file: &Path, limit: Duration) -> Result<u64> {
    let len = || std::fs::metadata(file).map_or(0, |m| m.len());
    let (begun, mut last, mut since) = (Instant::now(), len(), Instant::now());
    while since.elapsed() < Duration::from_millis(300) {
        if begun.elapsed() > limit {
            return Err(place::failed(format!("{} still grows", file.display())));
        }
        std::thread::sleep(Duration::from_millis(10));
        if len() != last {
            (last, since) = (len(), Instant::now());
        }
    }
    Ok(last)
}
