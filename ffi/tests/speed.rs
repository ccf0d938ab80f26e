//! The call sites of C and C++, through the shared library, against those of the Rust macro: the same records,
//! alternating burst by burst in one process that holds both libraries. For each burst the mean of a call; of the
//! bursts of a round p50 and p99.9, and their ratios to Rust's in that round. Said is the median of the rounds, and
//! `noisy` where they lie more than 25 % of it apart: then nothing is to be concluded. The ratio may be 1.3; here, in
//! the test command, the run is short and only p50 is judged, at twice that, since other tests run beside it. `cargo
//! test --release -p spillring-ffi --test speed -- --full` runs long and judges both, where they are not noisy.
#![allow(unsafe_code)]

mod kit;

use spillring::sys::time::ticks;
use std::ffi::{CString, c_char, c_int, c_long};
use std::hint::black_box;

const BURST: u64 = 20;
const TEXT: &str = "a string of thirty-five characters.";

// Called as those of C are, by address.
extern "C" fn rust_string(a: c_int, b: f64, s: *const c_char, len: usize) {
    // SAFETY: the text of this test, which is UTF-8.
    let s = unsafe { std::str::from_utf8_unchecked(std::slice::from_raw_parts(s.cast(), len)) };
    spillring::info!("{} {} {}", a, b, s);
}

extern "C" fn rust_numbers(a: c_int, b: f64, c: c_long) {
    spillring::info!("{} {} {}", a, b, c);
}

fn symbol<T: Copy>(library: *mut libc::c_void, name: &str) -> T {
    let name = CString::new(name).unwrap();
    // SAFETY: an open library; the caller names the type that the symbol has.
    unsafe {
        let p = libc::dlsym(library, name.as_ptr());
        assert!(!p.is_null(), "{name:?}");
        std::mem::transmute_copy(&p)
    }
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * p) as usize]
}

fn main() {
    let full = std::env::args().any(|a| a == "--full");
    if std::env::args().any(|a| a == "--list") {
        return println!("speed: test");
    }
    for tool in ["gcc", "g++"] {
        if !kit::have(tool) {
            return kit::leave_out(tool);
        }
    }
    let at = kit::installed();
    let dir = kit::dir();
    let so = dir.path().join("calls.so");
    let c = kit::source("bench_call.c");
    let cpp = kit::source("bench_call.cpp");
    let object = dir.path().join("c.o");
    kit::run("gcc", &["-O2", "-fPIC", "-std=c11", "-c", &c, "-o", &kit::s(&object), &at.include()]);
    let (lib, rpath) = (at.lib(), format!("-Wl,-rpath,{}", at.libdir()));
    kit::run(
        "g++",
        &[
            "-O2",
            "-fPIC",
            "-std=c++17",
            "-shared",
            &cpp,
            &kit::s(&object),
            "-o",
            &kit::s(&so),
            &at.include(),
            &lib,
            &rpath,
            "-lspillring",
        ],
    );

    // Each library has a ring of its own, large enough for a burst of bursts, and a drain: both are polled alike.
    let settings = |channel: &str| {
        let mut s = spillring::env::Settings::from(|_| None, 0).0;
        s.dir = dir.path().to_path_buf();
        s.journal_dir = Some(dir.path().join("journals"));
        s.channel = channel.into();
        s.lane_bytes = 4 << 20;
        s.retain_bytes = Some(16 << 20);
        s.segment_bytes = 4 << 20;
        s
    };
    let mine = settings("rust");
    let _guard = spillring::init_with(&mine).expect("a ring");
    let (config, _) = spillring::drain::DrainConfig::new(&mine, mine.channel_dir());
    let drain = spillring::drain::Embedded::start(config, |l| println!("{l}")).expect("a drain");
    // SAFETY: the first thread is the only one that looks at the environment by now (the drain has read it).
    unsafe {
        std::env::set_var("SPILLRING_RETAIN_BYTES", "16m");
        std::env::set_var("SPILLRING_SEGMENT_BYTES", "4m");
    }
    let path = CString::new(kit::s(&so)).unwrap();
    // SAFETY: a library made above.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    // SAFETY: dlerror answers a string when dlopen has failed.
    assert!(!library.is_null(), "{:?}", unsafe { std::ffi::CStr::from_ptr(libc::dlerror()) });
    let texts = [
        CString::new(kit::s(dir.path())).unwrap(),
        CString::new("c").unwrap(),
        CString::new(kit::s(&dir.path().join("journals"))).unwrap(),
    ];
    let none = std::ptr::null();
    let options = spillring_ffi::Options {
        size: size_of::<spillring_ffi::Options>(),
        dir: texts[0].as_ptr(),
        channel: texts[1].as_ptr(),
        journal_dir: texts[2].as_ptr(),
        level: none,
        overflow: none,
        lane_bytes: 4 << 20,
        lanes: 0,
        drain: 1,
    };
    let init: extern "C" fn(*const spillring_ffi::Options) -> c_int = symbol(library, "spr_init");
    let flush: extern "C" fn(u32) -> c_int = symbol(library, "spr_flush");
    let shutdown: extern "C" fn(u32) -> c_int = symbol(library, "spr_shutdown");
    assert_eq!(init(&options), 0);
    type StringCall = extern "C" fn(c_int, f64, *const c_char);
    type ViewCall = extern "C" fn(c_int, f64, *const c_char, usize);
    type NumberCall = extern "C" fn(c_int, f64, c_long);
    let c_string: StringCall = symbol(library, "c_call_string");
    let c_numbers: NumberCall = symbol(library, "c_call_numbers");
    let cpp_string: ViewCall = symbol(library, "cpp_call_string");
    let cpp_numbers: NumberCall = symbol(library, "cpp_call_numbers");
    let text = CString::new(TEXT).unwrap();

    let p = text.as_ptr();
    let (rust_string, rust_numbers): (ViewCall, NumberCall) = black_box((rust_string, rust_numbers));
    type Call<'a> = Box<dyn Fn(i32) + 'a>;
    let calls: [(&str, Call<'_>); 6] = [
        ("rust, i32 f64 and 35 characters", Box::new(|i| rust_string(i, 0.5, black_box(p), TEXT.len()))),
        ("C, the same, with strlen", Box::new(|i| c_string(i, 0.5, black_box(p)))),
        ("C++, the same, a view", Box::new(|i| cpp_string(i, 0.5, black_box(p), TEXT.len()))),
        ("rust, i32 f64 i64", Box::new(|i| rust_numbers(i, 0.5, black_box(7)))),
        ("C, the same", Box::new(|i| c_numbers(i, 0.5, black_box(7)))),
        ("C++, the same", Box::new(|i| cpp_numbers(i, 0.5, black_box(7)))),
    ];
    let (rounds, bursts) = if full { (7, 50_000) } else { (5, 800) };
    // Of each call and round.
    let mut found: Vec<Vec<[f64; 2]>> = vec![Vec::new(); calls.len()];
    let mut means: Vec<Vec<f64>> = vec![Vec::with_capacity(bursts); calls.len()];
    for _ in 0..rounds {
        for n in 0..bursts {
            for i in 0..calls.len() {
                let which = (i + n) % calls.len();
                let call = &calls[which].1;
                let t = ticks();
                for j in 0..BURST {
                    call(black_box(j as i32));
                }
                means[which].push((ticks() - t) as f64 / BURST as f64);
            }
            if n % 64 == 0 {
                // Both drains have taken all: what is measured is never a full ring.
                let mine = spillring::flush(std::time::Duration::from_secs(60));
                assert_eq!((mine.map_err(|e| e.message), flush(60_000)), (Ok(()), 0));
            }
        }
        for (found, means) in found.iter_mut().zip(&mut means) {
            means.sort_by(f64::total_cmp);
            found.push([percentile(means, 0.5), percentile(means, 0.999)]);
            means.clear();
        }
    }
    let hz = {
        let (t, n) = (ticks(), spillring::sys::time::monotonic_raw_ns());
        spillring::sys::thread::nanosleep(std::time::Duration::from_millis(20));
        (ticks() - t) as f64 / (spillring::sys::time::monotonic_raw_ns() - n) as f64
    };
    let mut wrong = Vec::new();
    for (i, (name, _)) in calls.iter().enumerate() {
        println!("{name}");
        // The call of Rust before it.
        let base = (0..=i).rev().find(|&i| calls[i].0.starts_with("rust")).unwrap_or(i);
        for (k, what) in ["p50", "p99.9"].into_iter().enumerate() {
            let sorted = |f: &dyn Fn(usize) -> f64| {
                let mut all: Vec<f64> = (0..rounds).map(f).collect();
                all.sort_by(f64::total_cmp);
                (all[rounds / 2], all[0], all[rounds - 1])
            };
            let (ns, ..) = sorted(&|r| found[i][r][k] / hz);
            let (ratio, least, most) = sorted(&|r| found[i][r][k] / found[base][r][k]);
            let noisy = most - least > 0.25 * ratio;
            let said = if noisy { "  noisy" } else { "" };
            println!("    {what:5} {ns:7.1} ns  ratio {ratio:.2} ({least:.2} to {most:.2}){said}");
            let judged = if full { !noisy } else { k == 0 };
            if judged && ratio > if full { 1.3 } else { 2.6 } {
                wrong.push(format!("{name}: {what}"));
            }
        }
    }
    assert_eq!(spillring::flush(std::time::Duration::from_secs(60)).map_err(|e| e.message), Ok(()));
    drain.stop().expect("drained");
    assert_eq!(shutdown(60_000), 0);
    assert!(wrong.is_empty(), "more than promised: {wrong:?}");
}
