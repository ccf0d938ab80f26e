//! How much memory the control groups of this process leave it. Async-signal-safe.
//!
//! A memory cgroup at its limit kills whoever asks for another page, of a tmpfs file too: there is no
//! error code. So whoever allocates asks here first.

use super::file::{for_each_line, parse_dec, read_small};
use super::{Errno, FixedPath};

/// Bytes that may still be allocated before the nearest limit of this process's memory cgroup or one
/// above it; `None` without a limit (or without a way to know). File cache that the kernel would drop
/// first counts as free.
pub fn memory_room() -> Option<u64> {
    memory_room_below(b"")
}

/// The same of the machine whose files are below `root`.
pub fn memory_room_below(root: &[u8]) -> Option<u64> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    let below = |path: &[u8]| {
        let mut p = FixedPath::from_bytes(root)?;
        p.push(path)?;
        Ok::<_, Errno>(p)
    };
    let (mut v1, mut v2) = (None, None);
    for_each_line(below(b"/proc/self/cgroup").ok()?.as_c(), |line| {
        let mut parts = line.splitn(3, |&b| b == b':');
        let (_, controllers, path) = (parts.next(), parts.next(), parts.next());
        if let (Some(controllers), Some(path)) = (controllers, path) {
            if controllers.split(|&b| b == b',').any(|c| c == b"memory") {
                v1 = FixedPath::from_bytes(path).ok();
            } else if controllers.is_empty() {
                v2 = FixedPath::from_bytes(path).ok();
            }
        }
        v1.is_none()
    })
    .ok()?;
    let (base, path, names) = match (v1, v2) {
        (Some(p), _) => (&b"/sys/fs/cgroup/memory"[..], p, &V1),
        (None, Some(p)) => (&b"/sys/fs/cgroup"[..], p, &V2),
        (None, None) => return None,
    };
    walk(below(base).ok()?.as_bytes(), path.as_bytes(), names).ok()?
}

struct Names {
    limits: &'static [&'static [u8]],
    usage: &'static [u8],
    cache: &'static [u8],
}
static V1: Names = Names {
    limits: &[b"/memory.limit_in_bytes"],
    usage: b"/memory.usage_in_bytes",
    cache: b"total_inactive_file ",
};
// Above `high` the kernel does not kill, it makes the writer wait.
static V2: Names =
    Names { limits: &[b"/memory.max", b"/memory.high"], usage: b"/memory.current", cache: b"inactive_file " };

/// The least room on the way from `base``path` up to `base`. A path that is not there (in a container
/// that sees its own part of the tree only) counts for nothing, its parents do.
fn walk(base: &[u8], path: &[u8], names: &Names) -> Result<Option<u64>, Errno> {
    let mut dir = FixedPath::from_bytes(base)?;
    dir.push(path)?;
    let mut room: Option<u64> = None;
    loop {
        while dir.as_bytes().ends_with(b"/") {
            dir.truncate(dir.as_bytes().len() - 1);
        }
        if let Some(here) = room_of(&mut dir, names) {
            room = Some(room.map_or(here, |r| r.min(here)));
        }
        if dir.as_bytes().len() <= base.len() {
            return Ok(room);
        }
        let cut = dir.as_bytes().iter().rposition(|&b| b == b'/').unwrap_or(0);
        dir.truncate(cut.max(base.len()));
    }
}

fn room_of(dir: &mut FixedPath, names: &Names) -> Option<u64> {
    let len = dir.as_bytes().len();
    let mut number = |name: &[u8]| {
        let mut buf = [0u8; 32];
        let v = dir.push(name).ok().and_then(|p| {
            let text = read_small(p.as_c(), &mut buf).ok()?;
            parse_dec(text.trim_ascii())
        });
        dir.truncate(len);
        v
    };
    // "max" is no number; the first version writes a huge one.
    let limit = names.limits.iter().filter_map(|n| number(n)).filter(|&l| l < 1 << 62).min()?;
    let usage = number(names.usage)?;
    let mut cache = 0;
    if dir.push(b"/memory.stat").is_ok() {
        let _ = for_each_line(dir.as_c(), |line| match line.strip_prefix(names.cache) {
            Some(v) => {
                cache = parse_dec(v).unwrap_or(0);
                false
            }
            None => true,
        });
    }
    dir.truncate(len);
    Some(limit.saturating_sub(usage.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    fn write(dir: &std::path::Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_nearest_limit_counts() {
        let d = tempfile::tempdir().unwrap();
        let base = d.path();
        let filler = "some_counter 123456789\n".repeat(100);
        write(base, &[("memory.current", "999")]); // the root has no limit
        write(&base.join("a"), &[("memory.max", "10000\n"), ("memory.high", "max\n")]);
        write(&base.join("a"), &[("memory.current", "9000\n")]);
        write(&base.join("a"), &[("memory.stat", &format!("{filler}inactive_file 500\nx 1\n"))]);
        write(&base.join("a/b"), &[("memory.max", "max\n"), ("memory.current", "1\n")]);
        let walk = |p: &[u8], n| super::walk(base.as_os_str().as_bytes(), p, n).unwrap();
        assert_eq!(walk(b"/a/b", &V2), Some(1500));
        assert_eq!(walk(b"/a", &V2), Some(1500));
        assert_eq!(walk(b"/a/b/not/there", &V2), Some(1500));
        assert_eq!(walk(b"/", &V2), None);
        assert_eq!(walk(b"/a", &V1), None);
        write(&base.join("a/b"), &[("memory.high", "101\n")]);
        assert_eq!(walk(b"/a/b", &V2), Some(100));
        write(&base.join("v1"), &[("memory.limit_in_bytes", "9223372036854771712\n")]);
        write(&base.join("v1"), &[("memory.usage_in_bytes", "5\n")]);
        assert_eq!(walk(b"/v1", &V1), None);
        write(&base.join("v1"), &[("memory.limit_in_bytes", "4\n")]);
        assert_eq!(walk(b"/v1", &V1), Some(0));
    }

    #[test]
    fn of_this_process_it_can_be_asked() {
        // Whatever the answer, it is not that nothing is left: this test runs.
        assert_ne!(memory_room(), Some(0));
    }
}
