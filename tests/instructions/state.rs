//! The files of a channel as the victim's memory shows them now: compared after every instruction, copied
//! when they have changed.

use spillring::channel::Stem;
use spillring::layout::PAGE;
use spillring::layout::ring::{self, Geometry, lane};
use spillring::layout::spill;
use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

struct Mapped {
    addr: *const u8,
    len: usize,
    part: Part,
}

/// What of a mapped file is looked at.
#[derive(Clone, Copy)]
enum Part {
    Ack,
    /// But for the lanes that nobody has claimed.
    Ring(Geometry),
    /// What is backed, of so many granules, in the first lap. In `Entry::last` unit by unit: a page of words, and
    /// what they speak of.
    Spill(u64),
}

/// Pages of a unit of a spill.
const UNIT: usize = 1 + (spill::UNIT * ring::GRANULE / PAGE) as usize;

/// Where page `i` of what is looked at lies in the file.
fn place(part: Option<Part>, i: usize) -> u64 {
    let (Some(Part::Spill(granules)), Some(j)) = (part, i.checked_sub(1)) else { return i as u64 * PAGE };
    let unit = (j / UNIT) as u64 * spill::UNIT;
    match (j % UNIT) as u64 {
        0 => spill::commit_word(unit),
        n => spill::granule(granules, unit) + (n - 1) * PAGE,
    }
}

/// Bytes that are looked at of a file of this name: a spill is sparse, and has its header only at first.
fn looked_at(name: &str, len: u64) -> usize {
    if name.ends_with(".spill") { len.min(spill::HEADER) as usize } else { len as usize }
}

struct Entry {
    name: String,
    len: u64,
    mapped: Option<Mapped>,
    /// What was seen last (the parts of a ring that nobody has claimed are left out, as zeros).
    last: Vec<u8>,
    /// What was seen first, when the call had not begun.
    start: Vec<u8>,
    /// For each page of `last`, a hash of what differs from `start`.
    pages: Vec<u64>,
}

/// What of a page differs from how it was, as a number that is the same in every run: a time of this run is
/// any time.
fn fingerprint(now: &[u8], start: &[u8], times: std::ops::RangeInclusive<u64>) -> u64 {
    let mut h = DefaultHasher::new();
    let mut differs = false;
    for (i, w) in now.chunks(8).enumerate() {
        let was = start.get(i * 8..(i * 8 + w.len()).min(start.len())).unwrap_or(&[]);
        if w != was && !(was.is_empty() && w.iter().all(|b| *b == 0)) {
            differs = true;
            h.write_usize(i);
            match w.try_into().map(u64::from_le_bytes) {
                Ok(n) if times.contains(&n) => h.write_u64(1),
                _ => h.write(w),
            }
        }
    }
    if differs { h.finish() } else { 0 }
}

impl Entry {
    fn take(&mut self, at: usize, now: &[u8], since: u64) {
        self.last[at..at + now.len()].copy_from_slice(now);
        let start = self.start.get(at..(at + now.len()).min(self.start.len())).unwrap_or(&[]);
        let times = since..=spillring::sys::time::ticks();
        self.pages[at / PAGE as usize] = fingerprint(&self.last[at..at + now.len()], start, times);
    }

    fn resize(&mut self, len: usize) {
        self.last.resize(len, 0);
        self.pages.resize(len.div_ceil(PAGE as usize), 0);
    }

    /// Looks at a mapped file again, page by page. A lane that nobody has claimed is not looked at: reading
    /// its pages would allocate them. `backed`: granules of the spill.
    fn look(&mut self, since: u64, backed: u64) -> bool {
        let Some(m) = &self.mapped else { return false };
        let (addr, len, part) = (m.addr, m.len, m.part);
        let mut changed = false;
        if let Part::Spill(_) = part {
            let pages = 1 + backed.div_ceil(spill::UNIT) as usize * UNIT;
            changed = self.last.len() != pages * PAGE as usize;
            self.resize(pages * PAGE as usize);
        }
        let mut compare = |me: &mut Entry, from: usize, to: usize| {
            for at in (from..to).step_by(PAGE as usize) {
                let n = (to - at).min(PAGE as usize);
                let place = place(Some(part), at / PAGE as usize) as usize;
                // SAFETY: inside the mapping; the victim, its only writer, is stopped.
                let now = unsafe { core::slice::from_raw_parts(addr.add(place), n) };
                if now != &me.last[at..at + n] {
                    me.take(at, now, since);
                    changed = true;
                }
            }
        };
        match part {
            Part::Ack => compare(self, 0, len),
            // The end of the last unit may not be backed, and is there by now all the same.
            Part::Spill(_) => {
                let n = self.last.len();
                compare(self, 0, n);
            }
            Part::Ring(g) => {
                compare(self, 0, g.lane_data(0) as usize);
                for i in 0..g.lanes {
                    let at = (g.lane_header(i) + lane::CAPACITY) as usize;
                    let capacity = u64::from_le_bytes(self.last[at..at + 8].try_into().expect("8 bytes"));
                    let from = g.lane_data(i) as usize;
                    compare(self, from, from + capacity as usize);
                }
            }
        }
        changed
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(m) = &self.mapped {
            // SAFETY: mapped by `Files::scan`, and no reference into it is left.
            unsafe { libc::munmap(m.addr.cast_mut().cast(), m.len) };
        }
    }
}

/// All files under a directory, as deep as one journal.
pub struct Files {
    dir: PathBuf,
    entries: Vec<Entry>,
    /// Ticks when this run began.
    since: u64,
}

fn geometry(head: &[u8]) -> Geometry {
    let w = |at: u64| u64::from_le_bytes(head[at as usize..at as usize + 8].try_into().expect("8 bytes"));
    Geometry {
        lanes: w(ring::LANES) as u32,
        slots: w(ring::SLOTS) as u32,
        granules: w(ring::GRANULES) as u32,
        lane_stride: w(ring::LANE_STRIDE),
        arena: w(ring::ARENA_LEN),
    }
}

impl Files {
    /// As they are when the call has not begun; `since`: ticks when its process had not.
    pub fn new(dir: &Path, since: u64) -> Files {
        let mut f = Files { dir: dir.to_path_buf(), entries: Vec::new(), since };
        f.look(true);
        for e in &mut f.entries {
            e.start = e.last.clone();
            e.pages.fill(0);
        }
        f
    }

    /// Looks again; answers whether anything has changed. `deep`: a system call was made since, so that files
    /// may have come or gone, and those that are not mapped may have grown.
    pub fn look(&mut self, deep: bool) -> bool {
        let mut changed = false;
        if deep {
            changed |= self.scan();
        }
        let mut backed = 0;
        for e in &mut self.entries {
            changed |= e.look(self.since, backed);
            // In the order of their names a ring stands right before its spill.
            if matches!(e.mapped, Some(Mapped { part: Part::Ring(_), .. })) {
                let at = ring::word::SPILL_BACKED as usize;
                backed = u64::from_le_bytes(e.last[at..at + 8].try_into().expect("8 bytes"));
            }
        }
        changed
    }

    fn scan(&mut self) -> bool {
        let mut changed = false;
        let mut names = Vec::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(sub) = todo.pop() {
            let Ok(list) = std::fs::read_dir(self.dir.join(&sub)) else { continue };
            for e in list.flatten() {
                let name = sub.join(e.file_name());
                if e.file_type().is_ok_and(|t| t.is_dir()) {
                    todo.push(name);
                } else {
                    names.push(name.to_string_lossy().into_owned());
                }
            }
        }
        names.sort();
        let before = self.entries.len();
        self.entries.retain(|e| names.contains(&e.name));
        changed |= before != self.entries.len();
        for name in names {
            let Ok(file) = File::open(self.dir.join(&name)) else { continue };
            let Ok(len) = file.metadata().map(|m| m.len()) else { continue };
            let i = match self.entries.iter().position(|e| e.name == name) {
                Some(i) => i,
                None => {
                    changed = true;
                    let mapped = map(&file, &name, len);
                    self.entries.push(Entry {
                        name,
                        len: 0,
                        mapped,
                        last: Vec::new(),
                        start: Vec::new(),
                        pages: Vec::new(),
                    });
                    self.entries.len() - 1
                }
            };
            let e = &mut self.entries[i];
            if e.len != len {
                changed = true;
                e.len = len;
                e.resize(looked_at(&e.name, len));
            }
            if e.mapped.is_none() {
                // By pread: a hole reads as zeros and stays a hole.
                let mut page = [0; PAGE as usize];
                let len = e.last.len();
                for at in (0..len).step_by(PAGE as usize) {
                    let n = file.read_at(&mut page, at as u64).unwrap_or(0).min(len - at);
                    if page[..n] != e.last[at..at + n] {
                        e.take(at, &page[..n], self.since);
                        changed = true;
                    }
                }
            }
        }
        self.entries.sort_by(|a, b| a.name.cmp(&b.name));
        changed
    }

    /// A number for what has changed since the start, the same in every run: but for times, and for what
    /// names the process.
    pub fn hash(&self) -> u64 {
        let mut h = DefaultHasher::new();
        for e in &self.entries {
            (e.name.rsplit('.').next(), e.last.len() - e.start.len(), &e.pages).hash(&mut h);
        }
        h.finish()
    }

    /// Writes what was seen last into a fresh directory.
    pub fn copy_to(&self, dir: &Path) -> std::io::Result<()> {
        for e in &self.entries {
            let path = dir.join(&e.name);
            if let Some(parent) = path.parent() {
                std::fs::DirBuilder::new().recursive(true).create(parent)?;
            }
            let f = File::create(path)?;
            // SAFETY: sets the mode of a file that was just made.
            unsafe { libc::fchmod(f.as_raw_fd(), 0o600) };
            let part = e.mapped.as_ref().map(|m| m.part);
            let all = match part {
                Some(Part::Ring(g)) => g.lane_data(0) as usize,
                Some(Part::Spill(_)) => spill::HEADER as usize,
                _ => e.last.len(),
            };
            f.write_all_at(&e.last[..all], 0)?;
            f.set_len(e.len)?;
            for (i, page) in e.last[all..].chunks(PAGE as usize).enumerate() {
                if page.iter().any(|b| *b != 0) {
                    f.write_all_at(page, place(part, all / PAGE as usize + i))?;
                }
            }
        }
        Ok(())
    }

    /// The file of that suffix, as seen last. For a channel with one producer.
    pub fn bytes(&self, suffix: &str) -> &[u8] {
        self.entries.iter().find(|e| e.name.ends_with(suffix)).map_or(&[], |e| &e.last)
    }

    /// The geometry of the first ring.
    pub fn geometry(&self) -> Option<Geometry> {
        self.entries.iter().find_map(|e| match e.mapped.as_ref()?.part {
            Part::Ring(g) => Some(g),
            _ => None,
        })
    }
}

/// Maps what its maker has published and nobody renames.
fn map(file: &File, name: &str, len: u64) -> Option<Mapped> {
    let name = name.rsplit('/').next().unwrap_or(name);
    let is = |suffix: &str| name.strip_suffix(suffix).is_some_and(|s| Stem::parse(s.as_bytes()).is_some());
    let mut head = [0; 256];
    file.read_exact_at(&mut head, 0).ok()?;
    let word = |at: u64| u64::from_le_bytes(head[at as usize..at as usize + 8].try_into().expect("8 bytes"));
    let part = match () {
        () if is(".ring") => Part::Ring(geometry(&head)),
        () if is(".ack") => Part::Ack,
        () if is(".spill") => Part::Spill(word(spill::GRANULES)),
        () => return None,
    };
    // SAFETY: a new read-only mapping of a file that nobody cuts short.
    let addr = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            len as usize,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(addr, libc::MAP_FAILED);
    Some(Mapped { addr: addr.cast(), len: len as usize, part })
}

/// The states of one path that have been looked at.
#[derive(Default)]
pub struct Distinct(HashSet<(u64, u64)>);

impl Distinct {
    /// Whether this state (of the files, and of what has been acknowledged) is new.
    pub fn insert(&mut self, files: u64, acknowledged: u64) -> bool {
        self.0.insert((files, acknowledged))
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
