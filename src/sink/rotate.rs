//! Files that a sink moves away when they are large or old, and compresses.
//!
//! `FILE` becomes `FILE.20261121T024442.123456789Z` (the time it was moved away, in UTC: names sort by time and
//! never change again) and then, when its compressed copy is complete, `FILE.20261121T024442.123456789Z.zst`.
//! A file holds whole lines: it is moved away at the end of one, before the line that would make it too long.
//!
//! **The cursor over a rotation.** It says how long which file was. When the process was killed since, the
//! text behind that place stands in that file, in those moved away after it and in `FILE`, in this order; it is
//! compared with what comes ([`Rotation::behind`]). So nothing that a cursor may still name is compressed or
//! deleted before the next one is saved: [`Rotation::tidy`] is called after that.
//!
//! **Killed while compressing**, the copy under its temporary name is begun anew by the next sink of the file,
//! and a copy that is complete takes the place of its original.

use crate::sys::hash::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use ruzstd::decoding::FrameDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::Watch;
use super::output::Out;
use super::time::Clock;
use crate::sync::{AtomicBool, Ordering};
use crate::sys::{FileId, thread, time};

/// When a file is moved away and begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// Before it becomes longer than so many bytes (unless one line is).
    pub bytes: Option<u64>,
    /// When something is written and it is so old.
    pub age: Option<Duration>,
    /// How many of those moved away are kept; the oldest are deleted.
    pub keep: u32,
    /// Whether they are compressed (zstd).
    pub compress: bool,
}

/// How long a sink that ends waits for a file that is being compressed.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it is not tried again to move a file away that could not be.
const AGAIN: Duration = Duration::from_secs(60);
/// What is compressed at a time, each a frame of its own: the files are a sequence of frames.
const FRAME: usize = 1 << 20;
const STAMP: usize = "20261121T024442.123456789Z".len();

/// The rotation of one file.
#[derive(Debug)]
pub(super) struct Rotation {
    rule: Rotate,
    path: PathBuf,
    size: u64,
    /// The file ends in a newline, or is empty.
    line_ended: bool,
    begun: SystemTime,
    not_before: Option<Instant>,
    untidy: bool,
    worker: Option<Worker>,
    /// What could not be compressed.
    given_up: Arc<std::sync::Mutex<HashSet<PathBuf>>>,
}

#[derive(Debug)]
struct Worker {
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Rotation {
    /// Of the file at `path`, as it is now; `None`: it cannot be asked.
    pub fn new(rule: Rotate, path: &Path) -> Option<Rotation> {
        let meta = fs::metadata(path).ok()?;
        let mut r = Rotation {
            rule,
            path: path.to_path_buf(),
            size: 0,
            line_ended: true,
            begun: SystemTime::now(),
            not_before: None,
            untidy: true,
            worker: None,
            given_up: Arc::default(),
        };
        r.at(&meta);
        Some(r)
    }

    fn at(&mut self, meta: &Metadata) {
        self.size = meta.len();
        self.begun = meta.created().unwrap_or_else(|_| SystemTime::now());
        self.line_ended = self.size == 0 || ends_a_line(&self.path, self.size);
    }

    /// Somebody else has moved the file away, and another one is open in its place.
    pub fn begun_anew(&mut self) {
        if let Ok(meta) = fs::metadata(&self.path) {
            self.at(&meta);
        }
    }

    /// How many of the first of these bytes go to the file as it is; 0: it is to be moved away first.
    pub fn take(&self, bytes: &[u8]) -> usize {
        let line = |from: usize| bytes[from..].iter().position(|&b| b == b'\n').map(|n| from + n + 1);
        let room = self.rule.bytes.unwrap_or(u64::MAX).saturating_sub(self.size);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let blocked = self.not_before.is_some_and(|t| Instant::now() < t);
        if blocked {
            return bytes.len();
        }
        let Some(first) = line(0) else {
            // A part of a line: to its beginning, or to a new file.
            return if self.line_ended && self.due(room < bytes.len()) { 0 } else { bytes.len() };
        };
        if self.line_ended && self.due(room < first) {
            return 0;
        }
        // As many lines as there is room for, and the end of the one that was begun.
        let fit = &bytes[..room.min(bytes.len())];
        fit.iter().rposition(|&b| b == b'\n').map_or(first, |n| n + 1).max(first)
    }

    fn due(&self, full: bool) -> bool {
        let old = |age| self.begun.elapsed().is_ok_and(|e| e >= age);
        self.size > 0 && (full || self.rule.age.is_some_and(old))
    }

    /// These bytes were written.
    pub fn wrote(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if let Some(last) = bytes.last() {
            self.line_ended = *last == b'\n';
        }
    }

    /// Moves the file away; what comes goes to a new one. Where that cannot be done, it is said, and the file
    /// grows on.
    pub fn rotate(&mut self, out: &mut Out, watch: &dyn Watch) {
        if let Err(e) = self.try_rotate(out) {
            self.not_before = Some(Instant::now() + AGAIN);
            watch.say(&format!(
                "{} cannot be moved away and grows on: {e}; it is tried again every minute",
                self.path.display()
            ));
        }
    }

    fn try_rotate(&mut self, out: &mut Out) -> Result<(), String> {
        let ours = out.regular().map(|(id, _)| id);
        let here = fs::metadata(&self.path).ok().map(|m| id_of(&m));
        let mut moved = None;
        if here.is_some() && here == ours {
            let name = self.free_name();
            fs::rename(&self.path, &name).map_err(|e| e.to_string())?;
            moved = Some(name);
        }
        // Where somebody else has moved it away, or put another in its place, only that one is opened.
        match Out::append(&self.path) {
            Ok(new) => {
                *out = new;
                self.untidy = true;
                let meta = fs::metadata(&self.path).map_err(|e| e.to_string())?;
                self.at(&meta);
                Ok(())
            }
            Err(e) => {
                if let Some(name) = moved {
                    let _ = fs::hard_link(&name, &self.path).and_then(|()| fs::remove_file(&name));
                }
                Err(e.to_string())
            }
        }
    }

    fn free_name(&self) -> PathBuf {
        let mut now = time::utc_ns() as i64;
        loop {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{}", stamp(now)));
            let name = PathBuf::from(name);
            if !name.exists() && !compressed(&name).exists() {
                return name;
            }
            now += 1;
        }
    }

    /// What was written behind the first `len` bytes of file `id`: at most `most` bytes of it and of the files
    /// after it, in order. `None`: it is not one of those moved away.
    pub fn behind(&self, id: FileId, len: u64, most: u64) -> Option<Vec<u8>> {
        let files: Vec<_> = moved_away(&self.path).into_iter().filter(|f| !is_compressed(f)).collect();
        let is = |p: &PathBuf| fs::metadata(p).is_ok_and(|m| m.is_file() && id_of(&m) == id);
        let first = files.iter().position(is)?;
        let mut all = Vec::new();
        for (i, path) in files[first..].iter().chain([&self.path]).enumerate() {
            let mut file = File::open(path).ok()?;
            if i == 0 {
                std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(len)).ok()?;
            }
            let left = most.saturating_sub(all.len() as u64);
            file.take(left).read_to_end(&mut all).ok()?;
        }
        Some(all)
    }

    /// Compresses what was moved away and deletes what is too many, in a thread of its own. To be called when
    /// the cursor names none of them.
    pub fn tidy(&mut self, watch: Option<&dyn Watch>) {
        if self.worker.as_ref().is_some_and(|w| w.thread.is_finished())
            && let Some(w) = self.worker.take()
        {
            let said = match w.thread.join() {
                Ok(Ok(())) => None,
                Ok(Err(e)) => Some(e),
                Err(_) => Some("a file could not be compressed and stays as it is".into()),
            };
            if let (Some(said), Some(watch)) = (said, watch) {
                watch.say(&said);
            }
        }
        if !self.untidy || self.worker.is_some() {
            return;
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let (rule, path, given_up, stop) =
            (self.rule, self.path.clone(), self.given_up.clone(), cancel.clone());
        let body = move || {
            thread::be_nice();
            put_in_order(&rule, &path, &given_up, &stop)
        };
        self.untidy = false;
        // Without a thread they stay as they are until the next rotation.
        if let Ok(thread) = std::thread::Builder::new().name("spr-rotate".into()).spawn(body) {
            self.worker = Some(Worker { cancel, thread });
        }
    }
}

impl Drop for Rotation {
    fn drop(&mut self) {
        let Some(w) = self.worker.take() else { return };
        let begun = Instant::now();
        while !w.thread.is_finished() && begun.elapsed() < PATIENCE {
            thread::nanosleep(Duration::from_millis(2));
        }
        w.cancel.store(true, Ordering::Relaxed);
        let _ = w.thread.join();
    }
}

fn id_of(meta: &Metadata) -> FileId {
    FileId { dev: meta.dev(), ino: meta.ino() }
}

fn ends_a_line(path: &Path, len: u64) -> bool {
    let mut last = [0];
    // A file that may be written and not read counts as ending in a line.
    let read = File::open(path).and_then(|f| std::os::unix::fs::FileExt::read_at(&f, &mut last, len - 1));
    !matches!(read, Ok(1)) || last[0] == b'\n'
}

/// `20261121T024442.123456789Z`
fn stamp(utc_ns: i64) -> String {
    let mut text = Vec::new();
    Clock::default().put(utc_ns, &mut text);
    text.retain(|b| !matches!(b, b'-' | b':'));
    String::from_utf8_lossy(&text).into_owned()
}

fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".zst");
    PathBuf::from(name)
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "zst")
}

/// Files that were moved away from `path`, oldest first; compressed ones too.
pub(super) fn moved_away(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(base)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let ours = |name: &str| {
        let stamp = name.strip_prefix(base)?.strip_prefix('.')?;
        let stamp = stamp.strip_suffix(".zst").unwrap_or(stamp);
        let digit = |i: usize, b: u8| match i {
            8 => b == b'T',
            15 => b == b'.',
            25 => b == b'Z',
            _ => b.is_ascii_digit(),
        };
        (stamp.len() == STAMP && stamp.bytes().enumerate().all(|(i, b)| digit(i, b))).then_some(())
    };
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().filter(|e| e.file_name().to_str().and_then(ours).is_some());
    let mut all: Vec<PathBuf> = names.map(|e| e.path()).collect();
    all.sort();
    all
}

fn put_in_order(
    rule: &Rotate,
    path: &Path,
    given_up: &std::sync::Mutex<HashSet<PathBuf>>,
    stop: &AtomicBool,
) -> Result<(), String> {
    let mut all = moved_away(path);
    // Both forms of one file: the copy is complete, or it would not have its name.
    let twice: Vec<PathBuf> =
        all.iter().filter(|p| !is_compressed(p) && all.contains(&compressed(p))).cloned().collect();
    for p in twice {
        fs::remove_file(&p).map_err(|e| format!("{} cannot be deleted: {e}", p.display()))?;
        all.retain(|q| *q != p);
    }
    let surplus = all.len().saturating_sub(rule.keep as usize);
    for p in all.drain(..surplus) {
        match fs::remove_file(&p) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(format!("{} cannot be deleted: {e}", p.display()));
            }
            _ => {}
        }
    }
    if !rule.compress {
        return Ok(());
    }
    for p in all.iter().filter(|p| !is_compressed(p)) {
        let lock = || given_up.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Noted before: one that makes the compressor panic is not tried again.
        if !lock().insert(p.clone()) {
            continue;
        }
        match compress(p, stop) {
            Ok(true) => drop(lock().remove(p)),
            Ok(false) => return Ok(()),
            Err(e) => return Err(format!("{} cannot be compressed and stays as it is: {e}", p.display())),
        }
    }
    Ok(())
}

/// Puts a compressed copy in the place of a file. False: it was told to stop.
fn compress(path: &Path, stop: &AtomicBool) -> std::io::Result<bool> {
    let target = compressed(path);
    let mut temp = target.clone().into_os_string();
    temp.push(".new");
    let temp = PathBuf::from(temp);
    let done = copy_compressed(path, &temp, stop).and_then(|done| {
        if done {
            fs::rename(&temp, &target)?;
            fs::remove_file(path)?;
        }
        Ok(done)
    });
    if !matches!(done, Ok(true)) {
        let _ = fs::remove_file(&temp);
    }
    done
}

fn copy_compressed(path: &Path, to: &Path, stop: &AtomicBool) -> std::io::Result<bool> {
    let mut from = File::open(path)?;
    let meta = from.metadata()?;
    let mut o = fs::OpenOptions::new();
    let mut to = o.write(true).create(true).truncate(true).mode(0o600).open(to)?;
    to.set_permissions(meta.permissions())?;
    let (mut chunk, mut decoded) = (Vec::new(), Vec::new());
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        chunk.clear();
        (&mut from).take(FRAME as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        // In memory: the compressor takes an error of reading or writing for a reason to panic.
        let frame = compress_to_vec(&chunk[..], CompressionLevel::Fastest);
        // The original is deleted for it, so it is looked at.
        decoded.clear();
        decoded.reserve(chunk.len());
        let sound = FrameDecoder::new().decode_all_to_vec(&frame, &mut decoded).is_ok() && decoded == chunk;
        if !sound {
            return Err(std::io::Error::other("its compressed copy is not the same"));
        }
        to.write_all(&frame)?;
    }
    to.set_modified(meta.modified()?)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(bytes: u64, size: u64, line_ended: bool) -> Rotation {
        let rule = Rotate { bytes: Some(bytes), age: None, keep: 1, compress: false };
        let mut r = Rotation::new(rule, Path::new("/dev/null")).unwrap();
        (r.size, r.line_ended, r.untidy) = (size, line_ended, false);
        r
    }

    #[test]
    fn files_hold_whole_lines() {
        // Room for two of three lines.
        assert_eq!(rotation(10, 0, true).take(b"abc\ndef\nghi\n"), 8);
        assert_eq!(rotation(10, 8, true).take(b"ghi\n"), 0);
        assert_eq!(rotation(12, 8, true).take(b"ghi\n"), 4);
        // A line longer than a file has one of its own.
        assert_eq!(rotation(10, 0, true).take(b"0123456789abc\nx\n"), 14);
        assert_eq!(rotation(10, 1, true).take(b"0123456789abc\nx\n"), 0);
        // One that was begun is ended where it began.
        assert_eq!(rotation(10, 9, false).take(b"defg\nx\n"), 5);
        assert_eq!(rotation(10, 9, false).take(b"no end"), 6);
        assert_eq!(rotation(10, 9, true).take(b"no end"), 0);
    }

    #[test]
    fn names_are_told_from_others() {
        let d = tempfile::tempdir().unwrap();
        let path = d.path().join("log");
        let old = format!("log.{}", stamp(1_795_229_082_123_456_789));
        assert_eq!(old, "log.20261121T024442.123456789Z");
        for name in
            ["log", &old, "log.1", "log.20261121T024442.12345678ZZ", "xlog.20261121T024442.123456789Z"]
        {
            fs::write(d.path().join(name), "").unwrap();
        }
        fs::write(d.path().join("log.20251121T024442.123456789Z.zst"), "").unwrap();
        let names: Vec<_> =
            moved_away(&path).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_string()).collect();
        assert_eq!(names, ["log.20251121T024442.123456789Z.zst", &old]);
    }
}
