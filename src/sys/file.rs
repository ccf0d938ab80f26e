//! Files and descriptors. Everything here is async-signal-safe.
//!
//! Two ways to open: [`create_excl`] for one's own files, [`open_foreign`] for files that somebody
//! else may have put there.

use super::errno::{check, retry};
use super::{Errno, FixedPath, SavedErrno};
use std::ffi::CStr;
use std::mem::MaybeUninit;

/// An open descriptor, closed when dropped (errno stays as it was).
#[derive(Debug, PartialEq, Eq)]
pub struct Fd(i32);

impl Fd {
    /// Takes over `raw`.
    ///
    /// # Safety
    /// `raw` is open and nobody else closes it.
    pub unsafe fn from_raw(raw: i32) -> Fd {
        Fd(raw)
    }
    /// Its number.
    pub fn raw(&self) -> i32 {
        self.0
    }
    /// Its number; it is not closed any more.
    pub fn into_raw(self) -> i32 {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        let _keep = SavedErrno::save();
        // SAFETY: this value owns the descriptor.
        unsafe { libc::close(self.0) };
    }
}

/// What stays the same while a file exists: two descriptors with one `FileId` are one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// The part of `stat` that is used here.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Device and inode.
    pub id: FileId,
    /// Size in bytes.
    pub size: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Names.
    pub nlink: u64,
    /// Last change of content, seconds since the epoch.
    pub mtime: i64,
}

impl Stat {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

fn convert(st: &libc::stat) -> Stat {
    Stat {
        id: FileId { dev: st.st_dev, ino: st.st_ino },
        size: st.st_size as u64,
        allocated: st.st_blocks as u64 * 512,
        mode: st.st_mode,
        uid: st.st_uid,
        // The width of st_nlink differs between architectures.
        #[allow(clippy::unnecessary_cast)]
        nlink: st.st_nlink as u64,
        mtime: st.st_mtime,
    }
}

/// `fstat`.
pub fn fstat(fd: i32) -> Result<Stat, Errno> {
    let mut st = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `st` is large enough; it is read only after success filled it.
    unsafe {
        check(libc::fstat(fd, st.as_mut_ptr()))?;
        Ok(convert(st.assume_init_ref()))
    }
}

/// `stat`, following links only when asked to.
pub fn stat(path: &CStr, follow: bool) -> Result<Stat, Errno> {
    let mut st = MaybeUninit::<libc::stat>::uninit();
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    // SAFETY: as above; `path` is NUL-terminated.
    unsafe {
        check(libc::fstatat(libc::AT_FDCWD, path.as_ptr(), st.as_mut_ptr(), flags))?;
        Ok(convert(st.assume_init_ref()))
    }
}

/// Whether descriptor `fd` is (still) the file `id`: programs close and reuse descriptors.
pub fn is_same_file(fd: i32, id: FileId) -> bool {
    fstat(fd).is_ok_and(|st| st.id == id)
}

/// `open` with these flags, O_CLOEXEC and O_NOCTTY added.
pub fn open(path: &CStr, flags: i32, mode: u32) -> Result<Fd, Errno> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: `path` is NUL-terminated.
    let fd = retry(|| i64::from(unsafe { libc::open(path.as_ptr(), flags, mode) }))?;
    Ok(Fd(fd as i32))
}

/// Creates a file that must not exist and opens it for reading and writing.
///
/// # Errors
/// EEXIST when something of that name is there, a link too.
pub fn create_excl(path: &FixedPath, mode: u32) -> Result<Fd, Errno> {
    open(path.as_c(), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, mode)
}

/// How to open somebody else's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// O_RDONLY.
    Read,
    /// O_RDWR. Never for a ring: a writable descriptor on it refuses the lease that tells death.
    ReadWrite,
    /// O_WRONLY: to punch holes.
    Write,
}

/// Opens a file that somebody else may have replaced. Does not block: not on a FIFO, not on a lease.
///
/// # Errors
/// EWOULDBLOCK: somebody holds a lease on it, look again later. ELOOP: a symbolic link. EINVAL: not a
/// regular file. ENXIO likewise (a FIFO opened for writing, a socket).
pub fn open_foreign(path: &FixedPath, access: Access) -> Result<(Fd, Stat), Errno> {
    let access = match access {
        Access::Read => libc::O_RDONLY,
        Access::ReadWrite => libc::O_RDWR,
        Access::Write => libc::O_WRONLY,
    };
    let fd = open(path.as_c(), access | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0)?;
    let st = fstat(fd.raw())?;
    if !st.is_file() {
        return Err(Errno(libc::EINVAL));
    }
    Ok((fd, st))
}

/// Gives `fd` a high number, out of the way of programs that count on low ones; on failure it keeps its
/// own. Stays inside the descriptor table as large as it is: growing it makes a process with threads
/// wait for an RCU grace period, milliseconds.
pub fn dup_high(fd: Fd) -> Fd {
    let limit = rlimit(libc::RLIMIT_NOFILE).min(1 << 20);
    let size = table_size().clamp(64, 4096).min(limit);
    let from = size.saturating_sub(size.min(256) / 4).max(3);
    // SAFETY: a call on a descriptor this value owns.
    match check(unsafe { libc::fcntl(fd.raw(), libc::F_DUPFD_CLOEXEC, from as i32) }) {
        Ok(high) if high > i64::from(fd.raw()) => Fd(high as i32),
        Ok(low) => {
            drop(Fd(low as i32));
            fd
        }
        Err(_) => fd,
    }
}

/// Present size of the descriptor table (`FDSize`), 64 where it can't be read.
fn table_size() -> u64 {
    let mut size = 64;
    let _ = for_each_line(c"/proc/self/status", |line| match line.strip_prefix(b"FDSize:") {
        Some(v) => {
            size = parse_dec(v.trim_ascii()).unwrap_or(64);
            false
        }
        None => true,
    });
    size
}

/// The C library's type of RLIMIT_*.
#[cfg(not(target_env = "musl"))]
pub type Resource = libc::__rlimit_resource_t;
/// The C library's type of RLIMIT_*.
#[cfg(target_env = "musl")]
pub type Resource = libc::c_int;

/// The soft limit of a resource, `u64::MAX` for none.
pub fn rlimit(resource: Resource) -> u64 {
    let mut r = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct; on failure it counts as no limit.
    let got = unsafe { libc::getrlimit(resource, &raw mut r) == 0 };
    if got && r.rlim_cur != libc::RLIM_INFINITY { r.rlim_cur } else { u64::MAX }
}

/// The largest size a file of this process may have (RLIMIT_FSIZE), `u64::MAX` for no limit. Whatever
/// would cross it is refused here before the kernel can answer with SIGXFSZ, which kills.
pub fn file_size_limit() -> u64 {
    rlimit(libc::RLIMIT_FSIZE)
}

fn check_size(end: u64) -> Result<(), Errno> {
    if end > file_size_limit() || end > i64::MAX as u64 { Err(Errno(libc::EFBIG)) } else { Ok(()) }
}

/// Allocates `len` bytes from `at` on (they read as zeros) and extends the file to hold them.
///
/// # Errors
/// EFBIG beyond RLIMIT_FSIZE; ENOSPC, with nothing left behind.
pub fn allocate(fd: i32, at: u64, len: u64) -> Result<(), Errno> {
    let end = at.checked_add(len).ok_or(Errno(libc::EFBIG))?;
    check_size(end)?;
    // SAFETY: a call on a descriptor.
    match retry(|| i64::from(unsafe { libc::fallocate(fd, 0, at as i64, len as i64) })) {
        // File systems without fallocate (ramfs, NFS) allocate what is written.
        Err(Errno(libc::EOPNOTSUPP)) => {
            static ZEROS: [u8; 4096] = [0; 4096];
            let mut at = at;
            while at < end {
                let n = (end - at).min(ZEROS.len() as u64);
                write_all_at(fd, &ZEROS[..n as usize], at)?;
                at += n;
            }
            Ok(())
        }
        r => r.map(drop),
    }
}

/// Sets the file's size; what is added is sparse.
///
/// # Errors
/// EFBIG beyond RLIMIT_FSIZE.
pub fn set_len(fd: i32, len: u64) -> Result<(), Errno> {
    check_size(len)?;
    // SAFETY: a call on a descriptor.
    retry(|| i64::from(unsafe { libc::ftruncate(fd, len as i64) })).map(drop)
}

/// Gives the space of a range back; it reads as zeros, the size stays. The caller bounds `len`
/// (1 MiB): this holds the inode lock.
pub fn punch_hole(fd: i32, at: u64, len: u64) -> Result<(), Errno> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a call on a descriptor.
    retry(|| i64::from(unsafe { libc::fallocate(fd, mode, at as i64, len as i64) })).map(drop)
}

/// Reads until `buf` is full or the file ends; answers the bytes read.
pub fn read_at(fd: i32, buf: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &mut buf[done..];
        // SAFETY: `rest` is writable for its length.
        let n = retry(|| unsafe {
            libc::pread(fd, rest.as_mut_ptr().cast(), rest.len(), (at + done as u64) as i64) as i64
        })?;
        if n == 0 {
            break;
        }
        done += n as usize;
    }
    Ok(done)
}

/// Writes all of `buf` at `at`.
///
/// # Errors
/// EFBIG beyond RLIMIT_FSIZE, before anything is written; ENOSPC, part of it may be written.
pub fn write_all_at(fd: i32, buf: &[u8], at: u64) -> Result<(), Errno> {
    check_size(at.saturating_add(buf.len() as u64))?;
    let mut done = 0;
    while done < buf.len() {
        let rest = &buf[done..];
        // SAFETY: `rest` is readable for its length.
        let n = retry(|| unsafe {
            libc::pwrite(fd, rest.as_ptr().cast(), rest.len(), (at + done as u64) as i64) as i64
        })?;
        if n == 0 {
            return Err(Errno(libc::ENOSPC));
        }
        done += n as usize;
    }
    Ok(())
}

/// Gives the complete file `temp` its name, and takes the temporary one away.
///
/// # Errors
/// EEXIST: there is such a file already; `temp` stays.
pub fn publish(temp: &FixedPath, name: &FixedPath) -> Result<(), Errno> {
    let (from, to) = (temp.as_c().as_ptr(), name.as_c().as_ptr());
    // SAFETY: both are NUL-terminated.
    let r = unsafe {
        libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, libc::RENAME_NOREPLACE)
    };
    match check(r) {
        Ok(_) => Ok(()),
        // The file system or a sandbox has no such rename: link does the same in two steps.
        Err(Errno(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP)) => {
            // SAFETY: as above.
            check(unsafe { libc::link(from, to) })?;
            unlink(temp)
        }
        Err(e) => Err(e),
    }
}

/// Removes a name.
pub fn unlink(path: &FixedPath) -> Result<(), Errno> {
    // SAFETY: NUL-terminated.
    check(unsafe { libc::unlink(path.as_c().as_ptr()) }).map(drop)
}

/// The file system behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsInfo {
    /// Its magic (see [`fs_magic`]).
    pub magic: u64,
    /// Free bytes that this user may take.
    pub free: u64,
    /// Its size in bytes.
    pub total: u64,
}

/// Magics of file systems, as `statfs` answers them.
pub mod fs_magic {
    /// tmpfs.
    pub const TMPFS: u64 = 0x0102_1994;
    /// ramfs.
    pub const RAMFS: u64 = 0x8584_58f6;
    /// ext2, ext3, ext4.
    pub const EXT: u64 = 0xef53;
    /// XFS.
    pub const XFS: u64 = 0x5846_5342;
    /// Btrfs.
    pub const BTRFS: u64 = 0x9123_683e;
    /// overlayfs.
    pub const OVERLAY: u64 = 0x794c_7630;
}

impl FsInfo {
    /// Whether it lives in memory: stores into a mapping of it never wait for a disk.
    pub fn in_memory(&self) -> bool {
        matches!(self.magic, fs_magic::TMPFS | fs_magic::RAMFS)
    }
}

fn fs_info(st: &libc::statfs) -> FsInfo {
    // The widths differ between architectures and C libraries.
    #[allow(clippy::unnecessary_cast)]
    let (magic, block) = (st.f_type as u64 & 0xffff_ffff, st.f_bsize as u64);
    #[allow(clippy::unnecessary_cast)]
    let (free, total) = (st.f_bavail as u64, st.f_blocks as u64);
    // A tmpfs without a size limit answers no blocks at all: then memory is the limit.
    let unlimited = total == 0 && magic == fs_magic::TMPFS;
    let bytes = |n: u64| if unlimited { u64::MAX } else { n.saturating_mul(block) };
    FsInfo { magic, free: bytes(free), total: bytes(total) }
}

/// `statfs` of a path.
pub fn statfs(path: &CStr) -> Result<FsInfo, Errno> {
    let mut st = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `st` is large enough and read only after success.
    unsafe {
        check(libc::statfs(path.as_ptr(), st.as_mut_ptr()))?;
        Ok(fs_info(st.assume_init_ref()))
    }
}

/// `fstatfs`.
pub fn fstatfs(fd: i32) -> Result<FsInfo, Errno> {
    let mut st = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: as above.
    unsafe {
        check(libc::fstatfs(fd, st.as_mut_ptr()))?;
        Ok(fs_info(st.assume_init_ref()))
    }
}

/// Reads the beginning of a small file (of /proc, say) into `buf`; answers what was read.
pub fn read_small<'a>(path: &CStr, buf: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let fd = open(path, libc::O_RDONLY, 0)?;
    let n = read_at(fd.raw(), buf, 0)?;
    Ok(&buf[..n])
}

/// Calls `f` with each line of a file, without its newline and cut at 512 bytes, until `f` says false.
pub fn for_each_line(path: &CStr, mut f: impl FnMut(&[u8]) -> bool) -> Result<(), Errno> {
    let fd = open(path, libc::O_RDONLY, 0)?;
    let mut buf = [0u8; 512];
    let (mut have, mut skipping) = (0, false);
    loop {
        let rest = &mut buf[have..];
        // SAFETY: `rest` is writable for its length.
        let n =
            retry(|| unsafe { libc::read(fd.raw(), rest.as_mut_ptr().cast(), rest.len()) as i64 })? as usize;
        have += n;
        let mut start = 0;
        while let Some(len) = buf[start..have].iter().position(|&b| b == b'\n') {
            if !std::mem::take(&mut skipping) && !f(&buf[start..start + len]) {
                return Ok(());
            }
            start += len + 1;
        }
        buf.copy_within(start..have, 0);
        have -= start;
        if n == 0 || have == buf.len() {
            if have > 0 && !skipping && !f(&buf[..have]) {
                return Ok(());
            }
            skipping = true;
            have = 0;
        }
        if n == 0 {
            return Ok(());
        }
    }
}

/// A decimal number, and nothing else.
pub fn parse_dec(s: &[u8]) -> Option<u64> {
    if s.is_empty() {
        return None;
    }
    s.iter().try_fold(0u64, |v, &b| {
        let d = b.wrapping_sub(b'0');
        if d > 9 { None } else { v.checked_mul(10)?.checked_add(u64::from(d)) }
    })
}

/// A number of exactly 16 hexadecimal digits in lower case.
pub fn parse_hex16(s: &[u8]) -> Option<u64> {
    if s.len() != 16 {
        return None;
    }
    s.iter().try_fold(0u64, |v, &b| {
        let d = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            _ => return None,
        };
        Some(v << 4 | u64::from(d))
    })
}

/// Calls `f` with the name of each entry of a directory, `.` and `..` too. `f` may remove it.
pub fn for_each_name(path: &CStr, mut f: impl FnMut(&[u8])) -> Result<(), Errno> {
    let dir = open(path, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    #[repr(C, align(8))]
    struct Buf([u8; 512]);
    let mut buf = Buf([0; 512]);
    loop {
        // SAFETY: `buf` is writable for its length.
        let r = unsafe { libc::syscall(libc::SYS_getdents64, dir.raw(), buf.0.as_mut_ptr(), buf.0.len()) };
        let n = check(r)?;
        if n == 0 {
            return Ok(());
        }
        let mut entries = &buf.0[..n as usize];
        // struct linux_dirent64: ino u64, off i64, reclen u16, type u8, name.
        while entries.len() > 19 {
            let reclen = usize::from(u16::from_le_bytes([entries[16], entries[17]]));
            if reclen <= 19 || reclen > entries.len() {
                return Err(Errno(libc::EIO));
            }
            let name = &entries[19..reclen];
            f(&name[..name.iter().position(|&b| b == 0).unwrap_or(name.len())]);
            entries = &entries[reclen..];
        }
    }
}

/// Calls `f` with the number of each open descriptor of this process (and perhaps of some that are not);
/// `f` may close it.
pub fn for_each_fd(mut f: impl FnMut(i32)) {
    let from_proc = for_each_name(c"/proc/self/fd", |name| {
        if let Some(fd) = parse_dec(name) {
            f(fd as i32);
        }
    });
    if from_proc.is_err() {
        // No /proc: try the numbers.
        (0..rlimit(libc::RLIMIT_NOFILE).min(1 << 16) as i32).for_each(f);
    }
}

/// Calls `f` with each open descriptor of this process that is the file `id`; `f` may close it.
pub fn for_each_fd_of(id: FileId, mut f: impl FnMut(i32)) {
    for_each_fd(|fd| {
        if is_same_file(fd, id) {
            f(fd);
        }
    });
}

/// Takes an exclusive POSIX lock on the whole file, without waiting. It belongs to this process, passes
/// to no child, and goes with the first close of *any* descriptor of this file in this process.
///
/// # Errors
/// EAGAIN or EACCES when another process has it.
pub fn lock_exclusive(fd: i32) -> Result<(), Errno> {
    let lock = whole_file();
    // SAFETY: `lock` is a valid flock.
    check(unsafe { libc::fcntl(fd, libc::F_SETLK, &lock) }).map(drop)
}

/// Gives the lock of [`lock_exclusive`] back.
pub fn unlock(fd: i32) -> Result<(), Errno> {
    let mut lock = whole_file();
    lock.l_type = libc::F_UNLCK as i16;
    // SAFETY: `lock` is a valid flock.
    check(unsafe { libc::fcntl(fd, libc::F_SETLK, &lock) }).map(drop)
}

/// Sets the permission bits, whatever the umask.
pub fn set_mode(fd: i32, mode: u32) -> Result<(), Errno> {
    // SAFETY: a call on a descriptor.
    check(unsafe { libc::fchmod(fd, mode) }).map(drop)
}

/// Rows of the terminal behind a descriptor; `None`: it is none.
pub fn terminal_rows(fd: i32) -> Option<u16> {
    let mut size = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: `size` is for the kernel to write, and read after success.
    unsafe {
        (libc::ioctl(fd, libc::TIOCGWINSZ, size.as_mut_ptr()) == 0).then(|| size.assume_init_ref().ws_row)
    }
}

/// The pid of the process that stands in the way of [`lock_exclusive`] (0: in another pid namespace).
pub fn lock_holder(fd: i32) -> Option<u32> {
    let mut lock = whole_file();
    // SAFETY: `lock` is a valid flock.
    check(unsafe { libc::fcntl(fd, libc::F_GETLK, &mut lock) }).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid as u32)
}

fn whole_file() -> libc::flock {
    // SAFETY: flock is plain numbers, and zero is a value of each.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn dir() -> (tempfile::TempDir, FixedPath) {
        let d = tempfile::tempdir_in("/dev/shm").unwrap();
        let p = FixedPath::from_bytes(d.path().as_os_str().as_bytes()).unwrap();
        (d, p)
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_dec(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_dec(b"18446744073709551616"), None);
        assert_eq!(parse_dec(b""), None);
        assert_eq!(parse_dec(b"1x"), None);
        assert_eq!(parse_hex16(b"0123456789abcdef"), Some(0x0123_4567_89ab_cdef));
        assert_eq!(parse_hex16(b"0123456789ABCDEF"), None);
        assert_eq!(parse_hex16(b"123"), None);
    }

    #[test]
    fn lines_of_all_lengths() {
        let (_d, p) = dir();
        let p = p.join(b"lines").unwrap();
        let mut want = Vec::new();
        let mut text = Vec::new();
        for len in [0usize, 1, 511, 512, 513, 2000, 3, 1024, 5] {
            let line = vec![b'a' + (len % 26) as u8; len];
            text.extend_from_slice(&line);
            text.push(b'\n');
            want.push(line[..len.min(512)].to_vec());
        }
        text.extend_from_slice(b"no newline");
        want.push(b"no newline".to_vec());
        let fd = create_excl(&p, 0o600).unwrap();
        write_all_at(fd.raw(), &text, 0).unwrap();
        let mut got = Vec::new();
        for_each_line(p.as_c(), |l| {
            got.push(l.to_vec());
            true
        })
        .unwrap();
        assert_eq!(got, want);
    }

    #[test]
    fn publish_replaces_nothing() {
        let (_d, p) = dir();
        let (a, b) = (p.join(b"a").unwrap(), p.join(b"b").unwrap());
        let fd = create_excl(&a, 0o600).unwrap();
        assert_eq!(create_excl(&a, 0o600).unwrap_err(), Errno(libc::EEXIST));
        publish(&a, &b).unwrap();
        assert_eq!(stat(a.as_c(), false).unwrap_err(), Errno(libc::ENOENT));
        let other = create_excl(&a, 0o600).unwrap();
        assert_eq!(publish(&a, &b).unwrap_err(), Errno(libc::EEXIST));
        assert!(is_same_file(fd.raw(), stat(b.as_c(), false).unwrap().id));
        assert!(!is_same_file(other.raw(), stat(b.as_c(), false).unwrap().id));
    }

    #[test]
    fn a_high_descriptor_is_found_by_its_file() {
        let (_d, p) = dir();
        let low = create_excl(&p.join(b"a").unwrap(), 0o600).unwrap();
        let id = fstat(low.raw()).unwrap().id;
        let was = low.raw();
        let high = dup_high(low);
        assert!(high.raw() >= 40 && high.raw() > was, "{} -> {}", was, high.raw());
        let mut found = Vec::new();
        for_each_fd_of(id, |fd| found.push(fd));
        assert_eq!(found, [high.raw()]);
        // SAFETY: asks for the flags of an own descriptor.
        let flags = unsafe { libc::fcntl(high.raw(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }

    #[test]
    fn punched_space_is_given_back_and_reads_as_zeros() {
        let (_d, p) = dir();
        let fd = create_excl(&p.join(b"a").unwrap(), 0o600).unwrap();
        write_all_at(fd.raw(), &[7; 16384], 0).unwrap();
        punch_hole(fd.raw(), 4096, 8192).unwrap();
        let st = fstat(fd.raw()).unwrap();
        assert_eq!((st.size, st.allocated), (16384, 8192));
        let mut b = [1; 8];
        read_at(fd.raw(), &mut b, 4096).unwrap();
        assert_eq!(b, [0; 8]);
    }

    #[test]
    fn shm_is_memory_and_proc_is_not() {
        assert!(statfs(c"/dev/shm").unwrap().in_memory());
        assert!(!statfs(c"/proc").unwrap().in_memory());
    }
}
