//! The drain's clock calibration as `inspect channel` shows it, also after a drain that died in it.
#![cfg(feature = "cli")]

mod common;
use common::{Scratch, settings};
use spillring::channel::{Channel, Role};
use spillring::drain::{Drain, DrainConfig};
use spillring::env::Settings;
use spillring::layout::ctl;
use std::os::unix::fs::FileExt;
use std::process::Command;

/// The line of `inspect channel`.
fn inspected(s: &Settings) -> String {
    let mut c = Command::new(env!("CARGO_BIN_EXE_spillring"));
    c.args(["inspect", "channel", &s.channel]).env("SPILLRING_DIR", &s.dir);
    let o = c.output().unwrap();
    let text = String::from_utf8(o.stdout).unwrap();
    assert!(o.status.success(), "{text}{}", String::from_utf8_lossy(&o.stderr));
    let line = text.lines().find_map(|l| l.strip_prefix("  calibration: "));
    line.unwrap_or_else(|| panic!("{text}")).to_string()
}

fn drain(s: &Settings) {
    drop(Drain::open(DrainConfig::new(s, s.channel_dir()).0).unwrap());
}

/// Ticks, UTC and ns per tick.
fn numbers(line: &str) -> (u64, i64, f64) {
    let w: Vec<&str> = line.split(' ').collect();
    assert_eq!((w.len(), w[1], w[4], &w[7..]), (10, "ticks", "ns", &["ns", "per", "tick"][..]), "{line}");
    (w[0].parse().unwrap(), w[3].parse().unwrap(), w[6].parse().unwrap())
}

#[test]
fn a_drain_writes_it_anew_whatever_the_last_one_left() {
    let dir = Scratch::new();
    let s = settings(&dir);
    Channel::create_or_open(&s.channel_dir(), true, Role::Producer).unwrap();
    assert!(inspected(&s).starts_with("not calibrated yet"), "{}", inspected(&s));
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(s.channel_dir().join("ctl")).unwrap();
    let put = |at: u64, v: u64| file.write_all_at(&v.to_le_bytes(), at).unwrap();
    let seq = || {
        let mut b = [0; 8];
        file.read_exact_at(&mut b, ctl::CAL_SEQ).unwrap();
        u64::from_le_bytes(b)
    };
    let hour = 3_600_000_000_000;
    let mut last_ticks = 0;
    // The first drain; one that finds it odd and mixed up; one that finds it whole; the number at its end.
    for left in [None, Some(seq() | 1), None, Some(u64::MAX)] {
        if let Some(odd) = left {
            put(ctl::CAL_SEQ, odd);
            put(ctl::CAL_UTC, 4711);
            let line = inspected(&s);
            assert!(line.starts_with("left unfinished by a drain that was killed"), "{line}");
            assert!(line.contains("next drain") && !line.contains("4711"), "{line}");
        }
        drain(&s);
        let (ticks, utc, ns_per_tick) = numbers(&inspected(&s));
        assert!(ticks > last_ticks && (now() - utc).abs() < hour, "{ticks} after {last_ticks}, {utc}");
        // From 10 MHz to 20 GHz.
        assert!((0.05..100.0).contains(&ns_per_tick), "{ns_per_tick}");
        assert_eq!(seq() & 1, 0);
        last_ticks = ticks;
    }
}
