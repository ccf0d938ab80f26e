//! Where segments lie: a trait at the write/fsync boundary, the directory, and a memory that records
//! every operation so that a test can replay each prefix of them as a crash.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Code, Error, Result};

/// What a reader needs. Nothing here changes anything.
pub trait Source {
    /// Names of the files, in any order. A missing directory is `NotFound`.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Length of a file in bytes.
    fn len(&self, name: &str) -> io::Result<u64>;
    /// Reads at `offset`; short at the end of the file.
    fn read_at(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// The directory, for messages.
    fn place(&self) -> String;
}

/// What became of the open segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The descriptor is the one that was opened, and the file is as long as what was written.
    Ours,
    /// The file has no name any more: somebody deleted it.
    Unlinked,
    /// The number stands for another file, or somebody else writes to ours: nothing may be appended.
    Replaced,
}

/// The write/fsync boundary. One writer at a time.
pub trait Storage: Source {
    /// Creates a file that must not exist.
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Appends with one write; answers how many bytes it took, which may be fewer.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Makes the bytes of the file durable.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&mut self) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Checks each open descriptor.
    fn still_ours(&self) -> io::Result<Standing>;
    /// The length that no file here may pass (RLIMIT_FSIZE).
    fn file_limit(&self) -> u64 {
        u64::MAX
    }
    /// An unpredictable number.
    fn random(&mut self) -> u64 {
        // From the system's random source: what producers cannot guess.
        crate::sys::process::nonce()
    }
}

impl<T: Source + ?Sized> Source for &T {
    fn list(&self) -> io::Result<Vec<String>> {
        (**self).list()
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        (**self).len(name)
    }
    fn read_at(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(name, offset, buf)
    }
    fn place(&self) -> String {
        (**self).place()
    }
}

/// Opens for reading without following a link or waiting on a FIFO or a lease; regular files only.
fn open_read(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    regular(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.file_type().is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"))
}

fn list_dir(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        // A name that is not UTF-8 is none of ours.
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// A journal directory, for reading. Keeps the last file read open, so that a segment that retention
/// deletes can be read to its end.
#[derive(Debug)]
pub struct DirSource {
    dir: PathBuf,
    open: RefCell<Option<(String, File)>>,
    listed: RefCell<Option<Listed>>,
}

/// The names in a directory, for who asks again and again.
#[derive(Debug)]
struct Listed {
    names: Vec<String>,
    /// When the directory had been changed last.
    changed: SystemTime,
    at: Instant,
}

impl Listed {
    /// Time within which two changes may leave the same time behind.
    const TICK: Duration = Duration::from_millis(50);
    /// However that is: file systems keep time in their own ways.
    const AGE: Duration = Duration::from_secs(1);
}

impl DirSource {
    /// A directory, which must exist. [`Code::NoChannel`] if it does not.
    pub fn open(dir: impl AsRef<Path>) -> Result<DirSource> {
        let dir = dir.as_ref();
        match fs::metadata(dir) {
            Ok(m) if m.is_dir() => {
                Ok(DirSource { dir: dir.to_owned(), open: RefCell::new(None), listed: RefCell::new(None) })
            }
            Ok(_) => Err(Error::new(
                Code::BadFile,
                format!("{} is not a directory: name the directory of a journal", dir.display()),
            )),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error {
                code: Code::NoChannel,
                message: format!(
                    "there is no journal directory {}: check the name, or start a drain for it first",
                    dir.display()
                ),
                errno: e.raw_os_error(),
            }),
            Err(e) => Err(Error::os(format!("open the journal directory {}", dir.display()), e)),
        }
    }
    fn with<T>(&self, name: &str, f: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let mut open = self.open.borrow_mut();
        match &*open {
            Some((n, file)) if n == name => f(file),
            _ => {
                let file = open_read(&self.dir.join(name))?;
                let r = f(&file);
                *open = Some((name.to_owned(), file));
                r
            }
        }
    }
}

impl Source for DirSource {
    fn list(&self) -> io::Result<Vec<String>> {
        let changed = fs::metadata(&self.dir)?.modified()?;
        let mut listed = self.listed.borrow_mut();
        if let Some(l) = &*listed
            && l.changed == changed
            && l.at.elapsed() < Listed::AGE
        {
            return Ok(l.names.clone());
        }
        let (at, names) = (Instant::now(), list_dir(&self.dir)?);
        // What is changed in this very moment may be changed again without a trace.
        let settled = SystemTime::now().duration_since(changed).is_ok_and(|d| d > Listed::TICK);
        *listed = settled.then(|| Listed { names: names.clone(), changed, at });
        Ok(names)
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        let m = self.with(name, |f| f.metadata())?;
        if m.nlink() == 0 {
            // Deleted. A recovering writer may have made another file of this name since.
            if let Ok(file) = open_read(&self.dir.join(name)) {
                let len = file.metadata()?.len();
                *self.open.borrow_mut() = Some((name.to_owned(), file));
                return Ok(len);
            }
        }
        Ok(m.len())
    }
    fn read_at(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(name, |f| read_full(f, offset, buf))
    }
    fn place(&self) -> String {
        self.dir.display().to_string()
    }
}

fn read_full(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match file.read_at(&mut buf[n..], offset + n as u64) {
            Ok(0) => break,
            Ok(k) => n += k,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

#[derive(Debug)]
struct Current {
    name: String,
    file: ManuallyDrop<File>,
    dev: u64,
    ino: u64,
    len: u64,
}

impl Drop for Current {
    fn drop(&mut self) {
        // If the number stands for another file by now, closing it would hit a stranger.
        if self.file.metadata().is_ok_and(|m| (m.dev(), m.ino()) == (self.dev, self.ino)) {
            // SAFETY: dropped here once, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.file) }
        }
    }
}

/// A journal directory, for the one that writes. Keeps the descriptor of the current segment, at a
/// high number: programs close and reuse low ones.
#[derive(Debug)]
pub struct DirStorage {
    source: DirSource,
    current: Option<Current>,
}

impl DirStorage {
    /// The directory, made with mode 0700 if it is missing. May block on the disk.
    pub fn create(dir: impl AsRef<Path>) -> Result<DirStorage> {
        let dir = dir.as_ref();
        let what = || format!("make the journal directory {}", dir.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::os(what(), e))?;
        // Absolute, so that a later chdir of an embedding program changes nothing.
        let dir = fs::canonicalize(dir).map_err(|e| Error::os(what(), e))?;
        Ok(DirStorage { source: DirSource::open(dir)?, current: None })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.source.dir
    }

    fn keep(&mut self, name: &str, file: File) -> io::Result<()> {
        let file = high(regular(file)?);
        let m = file.metadata()?;
        let (dev, ino, len) = (m.dev(), m.ino(), m.len());
        self.current = Some(Current { name: name.to_owned(), dev, ino, len, file: ManuallyDrop::new(file) });
        Ok(())
    }

    fn current(&mut self, name: &str) -> io::Result<&mut Current> {
        if self.current.as_ref().is_none_or(|c| c.name != name) {
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
            let path = self.source.dir.join(name);
            let file = OpenOptions::new().read(true).append(true).custom_flags(flags).open(path)?;
            self.keep(name, file)?;
        }
        Ok(self.current.as_mut().expect("was opened just now"))
    }
}

/// Moves a descriptor to a high number, if there is one.
fn high(file: File) -> File {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local struct of the right type.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return file;
    }
    let least = (limit.rlim_cur / 4 * 3).min(1 << 16) as libc::c_int;
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and touches no memory.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    if fd < 0 {
        return file;
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    unsafe { File::from_raw_fd(fd) }
}

impl Source for DirStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        self.source.list()
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.source.len(name)
    }
    fn read_at(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.source.read_at(name, offset, buf)
    }
    fn place(&self) -> String {
        self.source.place()
    }
}

impl Storage for DirStorage {
    fn create(&mut self, name: &str) -> io::Result<()> {
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let path = self.source.dir.join(name);
        let mut how = OpenOptions::new();
        how.read(true).append(true).create_new(true).mode(0o600).custom_flags(flags);
        self.keep(name, how.open(path)?)
    }
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<usize> {
        let limit = self.file_limit();
        let c = self.current(name)?;
        // A write across RLIMIT_FSIZE raises SIGXFSZ, which kills. Only this thread appends here, so
        // looking first is enough.
        if c.len + bytes.len() as u64 > limit {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        loop {
            match c.file.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(n) => {
                    c.len += n as u64;
                    return Ok(n);
                }
            }
        }
    }
    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        let c = self.current(name)?;
        c.file.set_len(len)?;
        c.len = len;
        Ok(())
    }
    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.current(name)?.file.sync_data()
    }
    fn sync_dir(&mut self) -> io::Result<()> {
        File::open(&self.source.dir)?.sync_all()
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|c| c.name == name) {
            self.current = None;
        }
        *self.source.open.borrow_mut() = None;
        fs::remove_file(self.source.dir.join(name))
    }
    fn still_ours(&self) -> io::Result<Standing> {
        let Some(c) = &self.current else { return Ok(Standing::Ours) };
        let m = match c.file.metadata() {
            Ok(m) => m,
            // Somebody closed the number.
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => return Ok(Standing::Replaced),
            Err(e) => return Err(e),
        };
        Ok(match () {
            () if (m.dev(), m.ino()) != (c.dev, c.ino) => Standing::Replaced,
            () if m.nlink() == 0 => Standing::Unlinked,
            () if m.len() != c.len => Standing::Replaced,
            () => Standing::Ours,
        })
    }
    fn file_limit(&self) -> u64 {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a local struct of the right type.
        match unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } {
            0 => limit.rlim_cur,
            _ => u64::MAX,
        }
    }
}

/// One operation on a [`MemStorage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A file was created.
    Create(String),
    /// Bytes were appended.
    Append(String, Vec<u8>),
    /// A file was cut to a length.
    Truncate(String, u64),
    /// A file was removed.
    Remove(String),
    /// A file was made durable.
    Sync(String),
    /// Names were made durable.
    SyncDir,
    /// A mark by the test: what stands before it has returned.
    Mark(u64),
}

#[derive(Debug, Default)]
struct Mem {
    files: BTreeMap<String, Vec<u8>>,
    log: Vec<Op>,
    space: Option<u64>,
    seed: u64,
    standing: Option<Standing>,
    sync_errors: u32,
}

/// A storage in memory that records its operations. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct MemStorage(Arc<Mutex<Mem>>);

impl MemStorage {
    /// With these files. Keys are made from `seed`, so that the bytes can be foretold.
    pub fn new(files: BTreeMap<String, Vec<u8>>, seed: u64) -> MemStorage {
        MemStorage(Arc::new(Mutex::new(Mem { files, seed, ..Mem::default() })))
    }
    fn mem(&self) -> MutexGuard<'_, Mem> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
    /// What was done so far.
    pub fn log(&self) -> Vec<Op> {
        self.mem().log.clone()
    }
    /// Adds a mark to the log.
    pub fn mark(&self, n: u64) {
        self.mem().log.push(Op::Mark(n));
    }
    /// The files.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.mem().files.clone()
    }
    /// Changes a file behind the writer's back.
    pub fn edit(&self, name: &str, f: impl FnOnce(&mut Vec<u8>)) {
        f(self.mem().files.entry(name.to_owned()).or_default());
    }
    /// From now on only so many bytes fit: the append that crosses it is short, the next is ENOSPC.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.mem().space = bytes;
    }
    /// What `still_ours` is to answer.
    pub fn set_standing(&self, s: Standing) {
        self.mem().standing = Some(s);
    }
    /// Lets the next `n` syncs fail.
    pub fn fail_syncs(&self, n: u32) {
        self.mem().sync_errors = n;
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

impl Source for MemStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.mem().files.keys().cloned().collect())
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.mem().files.get(name).map(|f| f.len() as u64).ok_or_else(gone)
    }
    fn read_at(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mem = self.mem();
        let file = mem.files.get(name).ok_or_else(gone)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let n = buf.len().min(file.len() - from);
        buf[..n].copy_from_slice(&file[from..from + n]);
        Ok(n)
    }
    fn place(&self) -> String {
        "memory".into()
    }
}

impl Storage for MemStorage {
    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut mem = self.mem();
        if mem.files.contains_key(name) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        mem.files.insert(name.to_owned(), Vec::new());
        mem.log.push(Op::Create(name.to_owned()));
        Ok(())
    }
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<usize> {
        let mut mem = self.mem();
        let n = mem.space.unwrap_or(u64::MAX).min(bytes.len() as u64);
        if n == 0 && !bytes.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if let Some(s) = &mut mem.space {
            *s -= n;
        }
        let bytes = &bytes[..n as usize];
        mem.files.get_mut(name).ok_or_else(gone)?.extend_from_slice(bytes);
        mem.log.push(Op::Append(name.to_owned(), bytes.to_vec()));
        Ok(bytes.len())
    }
    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut mem = self.mem();
        mem.files.get_mut(name).ok_or_else(gone)?.resize(len as usize, 0);
        mem.log.push(Op::Truncate(name.to_owned(), len));
        Ok(())
    }
    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut mem = self.mem();
        if mem.sync_errors > 0 {
            mem.sync_errors -= 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        mem.log.push(Op::Sync(name.to_owned()));
        Ok(())
    }
    fn sync_dir(&mut self) -> io::Result<()> {
        self.mem().log.push(Op::SyncDir);
        Ok(())
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut mem = self.mem();
        mem.files.remove(name).ok_or_else(gone)?;
        mem.log.push(Op::Remove(name.to_owned()));
        Ok(())
    }
    fn still_ours(&self) -> io::Result<Standing> {
        Ok(self.mem().standing.unwrap_or(Standing::Ours))
    }
    fn random(&mut self) -> u64 {
        let mut mem = self.mem();
        mem.seed = mem.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (mem.seed ^ (mem.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 27)
    }
}
