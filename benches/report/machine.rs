//! What the numbers were measured on, and in which state it is.
#![allow(unsafe_code)] // mmap

use crate::calls::{TEXT, tick_step, ticks_per_ns};
use crate::floor::{INTS_BYTES, text_bytes};
use crate::pairs::short;
use crate::{Bench, Mode};
use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// The type of the file system that holds `path`, or will when it is made.
pub fn file_system(path: &Path) -> String {
    let path = path.ancestors().find_map(|p| std::fs::canonicalize(p).ok()).unwrap_or_default();
    let mounts = read("/proc/self/mountinfo");
    let of = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?.to_string();
        path.starts_with(&point).then(|| (point.len(), right.split(' ').next().unwrap_or("?").to_string()))
    };
    // The last one of the longest: it lies on top.
    mounts.lines().filter_map(of).max_by_key(|(len, _)| *len).map_or("unknown".into(), |(_, kind)| kind)
}

/// Takes so much memory (half of what is available, at most) and gives it back, before a run that touches as much for
/// the first time. Where a virtual machine hands free pages to its host, the next touch of one costs up to ten times
/// what it costs otherwise, and which side of a pair meets them would be chance. It helps where single pages are taken,
/// as in memory; a disk's page cache takes runs of pages that had been free for longer.
pub fn warm(bytes: u64) {
    let available = read("/proc/meminfo");
    let kib = available.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    let most = kib.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024 / 2;
    let len = bytes.min(most) as usize;
    if len == 0 {
        return;
    }
    let (how, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, which nothing refers to when it is taken away.
    unsafe {
        let p = libc::mmap(std::ptr::null_mut(), len, how, flags | libc::MAP_POPULATE, -1, 0);
        if p != libc::MAP_FAILED {
            libc::munmap(p, len);
        }
    }
}

/// Names and values.
pub fn facts(b: &Bench) -> Vec<(String, String)> {
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    let virtual_machine = flags.split(' ').any(|f| f == "hypervisor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let fact = |name: &str, value: String| (name.to_string(), value);
    let mut all = vec![
        fact("kernel", read("/proc/sys/kernel/osrelease")),
        fact(
            "processor",
            format!(
                "{}, {cores} cores{}",
                model.trim_start_matches([' ', '\t', ':']),
                if virtual_machine { ", a virtual machine" } else { "" }
            ),
        ),
        fact("clock", format!("rdtsc; the smallest step seen is {} ns", short(tick_step(ticks_per_ns())))),
        fact("cores", format!("producer on {}, drain on {}", b.cpus.1, b.cpus.0)),
        fact(
            "file systems",
            format!("channels {}, journals and text {}", file_system(&b.shm), { file_system(&b.disk) }),
        ),
        fact(
            "records",
            format!(
                "(i32, f64, text of {}): {} bytes in a lane; (u64, u32, i32): {INTS_BYTES} bytes",
                TEXT.len(),
                text_bytes(TEXT.len())
            ),
        ),
        fact("load before", load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
    ];
    match b.mode {
        Mode::Tiny => all.push(fact("size", "tiny: says nothing about speed".into())),
        Mode::Quick => all.push(fact("size", "quick".into())),
        Mode::Full => {}
    }
    all
}
