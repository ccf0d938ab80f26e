//! Who am I, and is that one still there? Everything here is async-signal-safe.

use super::errno::check;
use super::file::{parse_dec, read_small, stat};
use super::{Errno, FixedPath};
use std::ffi::CStr;

/// What tells this process from every other one, now and later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Pid in its own namespace.
    pub pid: u32,
    /// Effective uid.
    pub uid: u32,
    /// Start time, clock ticks since boot; 0 = not known.
    pub start: u64,
    /// Inode number of the pid namespace, 0 = not known.
    pub pid_ns: u64,
    /// Inode number of the time namespace, 0 = not known.
    pub time_ns: u64,
    /// Boot id of the kernel, zeros = not known.
    pub boot_id: [u8; 16],
    /// The name of the program, zero padded.
    pub comm: [u8; 16],
}

impl Facts {
    /// Of this process, read anew (about 40 µs): what a parent knew is wrong in its child.
    pub fn read() -> Facts {
        let mut buf = [0u8; 512];
        let (mut start, mut comm) = (0, [0; 16]);
        if let Ok(s) = read_small(c"/proc/self/stat", &mut buf) {
            start = parse_start(s).unwrap_or(0);
            comm = parse_comm(s);
        }
        Facts {
            pid: pid(),
            uid: euid(),
            start,
            pid_ns: inode(c"/proc/self/ns/pid"),
            time_ns: inode(c"/proc/self/ns/time"),
            boot_id: boot_id(),
            comm,
        }
    }
}

/// The pid of this process.
pub fn pid() -> u32 {
    // SAFETY: no arguments to be wrong.
    unsafe { libc::getpid() as u32 }
}

/// The effective uid of this process.
pub fn euid() -> u32 {
    // SAFETY: no arguments to be wrong.
    unsafe { libc::geteuid() }
}

fn inode(path: &CStr) -> u64 {
    stat(path, true).map_or(0, |st| st.id.ino)
}

/// The kernel's boot id (RFC 4122 bytes), zeros where it can't be read. Containers may have it replaced:
/// two ids do not prove two boots.
pub fn boot_id() -> [u8; 16] {
    let mut buf = [0u8; 64];
    let mut id = [0u8; 16];
    let text = read_small(c"/proc/sys/kernel/random/boot_id", &mut buf).unwrap_or(&[]);
    let mut digits = 0;
    for &b in text {
        let d = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            b'-' => continue,
            _ => break,
        };
        if digits == 32 {
            break;
        }
        id[digits / 2] |= d << (4 * (1 - digits % 2));
        digits += 1;
    }
    if digits == 32 { id } else { [0; 16] }
}

/// Field 22 of a `stat` line: start time, clock ticks since boot. The name in field 2 may hold anything,
/// `") ("` too: the fields go on behind the last parenthesis.
fn parse_start(stat: &[u8]) -> Option<u64> {
    let after = stat.iter().rposition(|&b| b == b')')? + 1;
    let field = stat[after..].split(|&b| b == b' ').filter(|f| !f.is_empty()).nth(19)?;
    parse_dec(field.trim_ascii_end())
}

fn parse_comm(stat: &[u8]) -> [u8; 16] {
    let mut comm = [0; 16];
    let from = stat.iter().position(|&b| b == b'(').map_or(0, |i| i + 1);
    let to = stat.iter().rposition(|&b| b == b')').unwrap_or(0).max(from);
    let name = &stat[from..to];
    let n = name.len().min(15);
    comm[..n].copy_from_slice(&name[..n]);
    comm
}

/// Start time of process `pid`, clock ticks since boot *in this time namespace*.
///
/// # Errors
/// ENOENT: no such process, or /proc hides it or is not there.
pub fn start_time(pid: u32) -> Result<u64, Errno> {
    let mut path = FixedPath::from_bytes(b"/proc/")?;
    path.push_dec(u64::from(pid))?.push(b"/stat")?;
    read_start(&path)
}

/// Whether /proc shows the pid namespace of this process: only then do its numbers mean what ours do.
pub fn proc_is_ours() -> bool {
    let mut to = [0u8; 24];
    // SAFETY: a path and a buffer of that size.
    let n = unsafe { libc::readlink(c"/proc/self".as_ptr(), to.as_mut_ptr().cast(), to.len()) };
    n > 0 && super::file::parse_dec(&to[..n as usize]) == Some(u64::from(pid()))
}

/// Start time of thread `tid` of process `pid`, likewise.
pub fn thread_start_time(pid: u32, tid: u32) -> Result<u64, Errno> {
    let mut path = FixedPath::from_bytes(b"/proc/")?;
    path.push_dec(u64::from(pid))?.push(b"/task/")?.push_dec(u64::from(tid))?.push(b"/stat")?;
    read_start(&path)
}

fn read_start(path: &FixedPath) -> Result<u64, Errno> {
    let mut buf = [0u8; 512];
    parse_start(read_small(path.as_c(), &mut buf)?).ok_or(Errno(libc::EIO))
}

/// Whether there is a process `pid` in this pid namespace (a zombie counts).
pub fn pid_exists(pid: u32) -> bool {
    let Ok(pid @ 1..) = i32::try_from(pid) else { return false };
    // SAFETY: signal 0 is sent to nobody.
    check(unsafe { libc::kill(pid, 0) }) != Err(Errno(libc::ESRCH))
}

/// Whether there is a thread `tid` in process `pid` of this pid namespace.
pub fn thread_exists(pid: u32, tid: u32) -> bool {
    let (Ok(pid @ 1..), Ok(tid @ 1..)) = (i32::try_from(pid), i32::try_from(tid)) else { return false };
    // SAFETY: signal 0 is sent to nobody.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) }) != Err(Errno(libc::ESRCH))
}

/// The tid of this thread, by a system call.
pub fn tid() -> u32 {
    // SAFETY: no arguments to be wrong.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// The tid of this thread without a system call, 0 if the C library does not tell. glibc and musl keep
/// it in the thread's descriptor and show it in the number of its CPU clock, `~tid << 3 | 6`. Stale in a
/// child made by a raw `clone` system call.
pub fn tid_no_syscall() -> u32 {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is writable; the thread asks about itself.
    let r = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
    if r == 0 && clock & 7 == 6 { !(clock >> 3) as u32 } else { 0 }
}

/// A random number, never 0. Falls back to clocks and addresses where the kernel gives none: it only
/// has to differ from the ones of the same pid before.
pub fn nonce() -> u64 {
    let mut n = 0u64;
    // SAFETY: `n` is writable for 8 bytes.
    let r = unsafe { libc::getrandom((&raw mut n).cast(), 8, libc::GRND_NONBLOCK) };
    if r != 8 {
        let here = &raw const n as u64;
        n = super::time::boottime_ns() ^ here.rotate_left(32) ^ u64::from(tid()).rotate_left(48);
        n = (n ^ super::time::ticks()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        n ^= n >> 32;
    }
    n.max(1)
}

/// 32 bits that differ between two programs that had one pid after each other, the same in all copies
/// of the library within one: from start time and the random bytes the kernel gave at exec.
pub fn image_hash(start: u64) -> u32 {
    // SAFETY: AT_RANDOM is the address of 16 bytes on the initial stack, or 0.
    let random = unsafe {
        let p = libc::getauxval(libc::AT_RANDOM) as *const [u8; 16];
        if p.is_null() { [0; 16] } else { *p }
    };
    // FNV-1a: enough to tell two images apart.
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for b in start.to_le_bytes().into_iter().chain(random) {
        h = (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    }
    (h ^ h >> 32) as u32
}

/// What can be said about a process from outside, by its facts alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A process of that pid and start time is there.
    There,
    /// There is none.
    Gone,
    /// It can't be told from here: another pid namespace, another boot id.
    Unknown,
}

/// The fate of the process that `them` describes, judged by one that `me` describes.
pub fn fate(me: &Facts, them: &Facts) -> Fate {
    if me.boot_id != them.boot_id || me.pid_ns != them.pid_ns || me.pid_ns == 0 {
        return Fate::Unknown;
    }
    if !pid_exists(them.pid) {
        return Fate::Gone;
    }
    // Start times count from the boot as the time namespace has it: they compare only within one.
    if me.time_ns == them.time_ns && me.time_ns != 0 && them.start != 0 {
        match start_time(them.pid) {
            Ok(start) if start != them.start => return Fate::Gone,
            _ => {}
        }
    }
    Fate::There
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        let line = b"7 (a) (b) ) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 19 20";
        assert_eq!(parse_start(line), Some(4242));
        assert_eq!(&parse_comm(line)[..10], b"a) (b) \0\0\0");
        assert_eq!(parse_start(b"7 (x"), None);
        assert_eq!(parse_start(b"7 (x) R 1 2 3"), None);
        assert_eq!(parse_start(b""), None);
    }

    #[test]
    fn my_own_facts() {
        let f = Facts::read();
        assert_eq!(f.pid, std::process::id());
        assert_eq!(f.start, start_time(f.pid).unwrap());
        assert!(f.start > 0 && f.pid_ns > 0 && f.time_ns > 0 && f.boot_id != [0; 16]);
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let hex: String = f.boot_id.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, id.trim().replace('-', ""));
        let comm = std::fs::read("/proc/self/comm").unwrap();
        // /proc/self/stat names the leading thread, as /proc/self/comm does.
        assert!(comm.starts_with(f.comm.split(|&b| b == 0).next().unwrap()));
        assert_eq!(fate(&f, &f), Fate::There);
        assert_eq!(fate(&f, &Facts { start: f.start + 1, ..f }), Fate::Gone);
        assert_eq!(fate(&f, &Facts { pid: 0x7fff_fff0, ..f }), Fate::Gone);
        // In another time namespace start times do not compare; in another pid namespace nothing does.
        assert_eq!(fate(&f, &Facts { start: f.start + 1, time_ns: 1, ..f }), Fate::There);
        assert_eq!(fate(&f, &Facts { pid_ns: 1, pid: 0x7fff_fff0, ..f }), Fate::Unknown);
        assert_eq!(fate(&f, &Facts { boot_id: [9; 16], pid: 0x7fff_fff0, ..f }), Fate::Unknown);
    }

    #[test]
    fn tid_from_the_clock_number() {
        let check = || {
            assert_eq!(tid_no_syscall(), tid());
            assert!(thread_exists(pid(), tid()));
            assert!(thread_start_time(pid(), tid()).unwrap() >= start_time(pid()).unwrap());
            tid()
        };
        check();
        let gone = std::thread::spawn(check).join().unwrap();
        // The kernel reaps a joined thread a moment after its last instruction.
        for _ in 0..1000 {
            if !thread_exists(pid(), gone) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("thread {gone} is still there");
    }

    #[test]
    fn nonces_differ() {
        let mut seen: Vec<u64> = (0..100).map(|_| nonce()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100);
        assert_eq!(image_hash(5), image_hash(5));
        assert_ne!(image_hash(5), image_hash(6));
    }
}
