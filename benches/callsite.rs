//! The call site against its floor: `rdtsc`, a copy of the same bytes, one release store, into a lane that
//! the same reader polls. Alternating burst by burst in one loop; per burst the mean, over bursts the
//! median. Under `cargo test` it runs small.
#![allow(unsafe_code)]

use spillring::channel::{Channel, Role};
use spillring::layout::ring::ack;
use spillring::ringview::View;
use spillring::snapshot::RingRead;
use spillring::sync::{AtomicBool, AtomicU64, Ordering::*};
use spillring::sys::time::ticks;
use std::sync::Arc;

const BURST: u64 = 50;
const CAPACITY: u64 = 4 << 20;

/// A lane with nothing around it.
struct Floor {
    tail: AtomicU64,
    _a: [u64; 15],
    released: AtomicU64,
    _b: [u64; 15],
    data: *mut u8,
}
// SAFETY: one writer and one reader, through the words.
unsafe impl Sync for Floor {}
// SAFETY: the data is leaked.
unsafe impl Send for Floor {}

/// What any logger must do: read the clock, copy the arguments, publish.
#[inline(never)]
fn floor_call(f: &Floor, cached: &mut u64, a: i32, b: f64, s: &str) -> bool {
    let n = (24 + 4 + 8 + 4 + s.len() as u64 + 7) & !7;
    let tail = f.tail.load(Relaxed);
    let at = tail & (CAPACITY - 1);
    if tail + n - *cached > CAPACITY || at + n > CAPACITY {
        *cached = f.released.load(Acquire);
        if tail + n - *cached > CAPACITY {
            return false;
        }
        if at + n > CAPACITY {
            f.tail.store(tail + CAPACITY - at, Release);
            return floor_call(f, cached, a, b, s);
        }
    }
    // SAFETY: inside the data, which the reader has released.
    unsafe {
        let p = f.data.add(at as usize);
        p.cast::<u64>().write(n);
        p.add(8).cast::<u64>().write(ticks());
        p.add(16).cast::<u64>().write(7);
        p.add(24).cast::<i32>().write_unaligned(a);
        p.add(28).cast::<f64>().write_unaligned(b);
        p.add(36).cast::<u32>().write_unaligned(s.len() as u32);
        std::ptr::copy_nonoverlapping(s.as_ptr(), p.add(40), s.len());
    }
    f.tail.store(tail + n, Release);
    true
}

#[inline(never)]
fn our_call(a: i32, b: f64, s: &str) {
    spillring::info!("{} {} {}", a, b, s);
}

fn pin(cpu: usize) {
    let _ = spillring::sys::thread::set_affinity(cpu);
}

fn percentile(v: &mut [f64], p: f64) -> f64 {
    v.sort_by(f64::total_cmp);
    v[((v.len() - 1) as f64 * p) as usize]
}

/// Ticks per ns.
fn ghz() -> f64 {
    use spillring::sys::time::monotonic_raw_ns;
    let (t, n) = (ticks(), monotonic_raw_ns());
    spillring::sys::thread::nanosleep(std::time::Duration::from_millis(50));
    (ticks() - t) as f64 / (monotonic_raw_ns() - n) as f64
}

fn main() {
    let small = std::env::args().any(|a| a == "--test") || !std::env::args().any(|a| a == "--bench");
    let bursts = if small { 400 } else { 20_000 };
    let dir = tempfile::Builder::new().prefix("spillring-bench-").tempdir_in("/dev/shm").expect("tmpfs");
    let mut s = spillring::env::Settings::from(|_| None, 0).0;
    s.dir = dir.path().to_path_buf();
    s.lane_bytes = CAPACITY;
    let _guard = spillring::init_with(&s).expect("a ring");
    let text = "a string of thirty-five characters.";
    assert_eq!(text.len(), 35);
    our_call(1, 2.0, text);

    let data = vec![0u8; CAPACITY as usize].leak().as_mut_ptr();
    let floor = Arc::new(Floor {
        tail: AtomicU64::new(0),
        _a: [0; 15],
        released: AtomicU64::new(0),
        _b: [0; 15],
        data,
    });
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (floor, stop, dir) = (floor.clone(), stop.clone(), s.channel_dir());
        std::thread::spawn(move || {
            pin(0);
            let channel = Channel::create_or_open(&dir, false, Role::Drain).expect("channel");
            let stem = channel.producers().expect("scan")[0];
            let view = View::new(channel.open_ring(stem).expect("ring"));
            let mut buf = vec![0u8; CAPACITY as usize];
            let (mut at, mut sum) = (0u64, 0u64);
            while !stop.load(Relaxed) {
                let tail = view.lane_tail(0);
                let (index, n) = (at & (CAPACITY - 1), tail - at);
                let first = n.min(CAPACITY - index);
                view.lane_read(0, index, &mut buf[..first as usize]);
                view.lane_read(0, 0, &mut buf[first as usize..n as usize]);
                sum += u64::from(buf[0]);
                at = tail;
                view.lane_ack(0, ack::RELEASED).store(at, Release);
                let tail = floor.tail.load(Acquire);
                let from = floor.released.load(Relaxed);
                let (index, n) = (from & (CAPACITY - 1), tail - from);
                let first = n.min(CAPACITY - index);
                // SAFETY: inside the data.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        floor.data.add(index as usize),
                        buf.as_mut_ptr(),
                        first as usize,
                    );
                    std::ptr::copy_nonoverlapping(
                        floor.data,
                        buf.as_mut_ptr().add(first as usize),
                        (n - first) as usize,
                    );
                }
                sum += u64::from(buf[0]);
                floor.released.store(tail, Release);
                spillring::sys::thread::nanosleep(std::time::Duration::from_micros(50));
            }
            std::hint::black_box(sum);
        })
    };
    pin(1);
    let (mut ours, mut theirs, mut cached, mut full) = (Vec::new(), Vec::new(), 0, 0u64);
    for i in 0..bursts {
        for which in [i % 2, (i + 1) % 2] {
            let t = ticks();
            for j in 0..BURST {
                if which == 0 {
                    our_call(std::hint::black_box(j as i32), 0.5, std::hint::black_box(text));
                } else {
                    full += u64::from(!floor_call(
                        &floor,
                        &mut cached,
                        std::hint::black_box(j as i32),
                        0.5,
                        std::hint::black_box(text),
                    ));
                }
            }
            let mean = (ticks() - t) as f64 / BURST as f64;
            if which == 0 { ours.push(mean) } else { theirs.push(mean) }
        }
        // Both lanes hold hundreds of bursts: the reader keeps up, and neither side meets a full one.
        if i % 16 == 0 {
            spillring::sys::thread::nanosleep(std::time::Duration::from_micros(200));
        }
    }
    stop.store(true, Relaxed);
    reader.join().expect("reader");
    let hz = ghz();
    let st = spillring::writer::status();
    let (o, f) = (percentile(&mut ours, 0.5), percentile(&mut theirs, 0.5));
    println!(
        "call site, thread lane, record (i32, f64, 35 characters), {} calls each, bursts of {BURST}:",
        bursts as u64 * BURST
    );
    println!("  p50 ours {:.2} ns, floor {:.2} ns, ratio {:.3}", o / hz, f / hz, o / f);
    println!(
        "  p90 ours {:.2} ns, floor {:.2} ns; spilled {}, lost {}, floor full {full}",
        percentile(&mut ours, 0.9) / hz,
        percentile(&mut theirs, 0.9) / hz,
        st.spilled,
        st.lost
    );
    let _ = std::fs::remove_dir_all(dir.path());
}
