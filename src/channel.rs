//! The files of a channel: made, opened, validated, handed out as views.
//!
//! A channel is one directory, `DIR/NAME/`, that producers, the drain and readers share:
//!
//! | file | made by | written by |
//! |---|---|---|
//! | `ctl` | the first comer | the drain |
//! | `drain.lock` | the first drain | nobody |
//! | `P.ring` | producer `P` | producer `P` only |
//! | `P.ack` | producer `P` | the drain only |
//! | `P.spill` | producer `P` | producer `P`; the drain punches holes |
//!
//! `P` is pid and nonce: pids collide between containers, after restarts and across exec. A file is made
//! complete under a temporary name and then given its own, so a name in the directory always means a
//! complete file; `P.ring` comes last and is taken away last. Nothing here knows what the words mean.
//!
//! The producer's side ([`create_producer`]) is async-signal-safe, since a forked child may attach from a
//! signal handler; the consumer's side allocates. It never trusts what it opens: each file is checked
//! before it is mapped, and mapped under a guard against being cut short.

mod consumer;
mod lock;
mod producer;

pub use consumer::{Channel, Dead, RingView, Role, Swept};
pub use lock::DrainLock;
pub use producer::{AttachError, ProducerFiles, ProducerSpec, Step, create_producer};

use crate::error::{Code, Error, Result};
use crate::layout::ring::{self, Geometry, id};
use crate::layout::{ARCH, LAYOUT_VERSION, ctl, spill};
use crate::sync::{AtomicU32, Ordering::*, fence};
use crate::sys::file::{parse_dec, parse_hex16};
use crate::sys::process::Facts;
use crate::sys::{self, Errno, FixedPath};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Wakes a drain that sleeps on this word of `ctl` ([`ctl::SLEEP`](crate::layout::ctl::SLEEP)), whatever its policy:
/// for who waits for it. Async-signal-safe; a system call if it sleeps. One that is just falling asleep may miss it.
pub(crate) fn wake_drain(sleep: &AtomicU32) {
    // What it is to see stands before its word is looked at.
    fence(SeqCst);
    if sleep.load(Relaxed) & (ctl::PARKS | ctl::SLEEPS) != 0 {
        let _errno = sys::SavedErrno::save();
        sys::thread::futex_wake(sleep, 1);
    }
}

/// The name of a producer in a channel, the stem of its files: `<pid>-<16 hexadecimal digits>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stem {
    /// Pid in the producer's own namespace.
    pub pid: u32,
    /// Random, never 0.
    pub nonce: u64,
}

impl Stem {
    /// The stem that `name` is, if it is one exactly as it would be written.
    pub fn parse(name: &[u8]) -> Option<Stem> {
        let dash = name.iter().position(|&b| b == b'-')?;
        let (pid, nonce) = (parse_dec(&name[..dash])?, parse_hex16(&name[dash + 1..])?);
        if name[0] == b'0' || nonce == 0 {
            return None;
        }
        Some(Stem { pid: u32::try_from(pid).ok()?, nonce })
    }

    /// The producer whose ring has this name.
    pub fn of_ring(name: &[u8]) -> Option<Stem> {
        name.strip_suffix(Kind::Ring.suffix()).and_then(Stem::parse)
    }

    fn push_to(self, path: &mut FixedPath) -> std::result::Result<(), Errno> {
        path.push_dec(u64::from(self.pid))?.push(b"-")?.push_hex(self.nonce)?;
        Ok(())
    }
}

impl fmt::Display for Stem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.pid, self.nonce)
    }
}

/// The files of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `P.ring`
    Ring,
    /// `P.ack`
    Ack,
    /// `P.spill`
    Spill,
}

impl Kind {
    /// In the order in which they are made; they are taken away with the first two exchanged.
    pub const ALL: [Kind; 3] = [Kind::Ack, Kind::Spill, Kind::Ring];

    fn suffix(self) -> &'static [u8] {
        match self {
            Kind::Ring => b".ring",
            Kind::Ack => b".ack",
            Kind::Spill => b".spill",
        }
    }

    fn magic(self) -> u64 {
        match self {
            Kind::Ring => ring::MAGIC,
            Kind::Ack => ring::ACK_MAGIC,
            Kind::Spill => spill::MAGIC,
        }
    }
}

/// Where a channel's files are: an absolute directory in a fixed buffer, no descriptor. A forked child
/// can use it whatever directory it is in and whatever descriptors the program has closed.
#[derive(Clone, Copy, Debug)]
pub struct ChannelPaths {
    dir: FixedPath,
    group: bool,
}

impl ChannelPaths {
    /// Bytes that the longest file name needs.
    const LONGEST_NAME: usize = 144;

    /// The files of the channel in `dir`; `group`: they are shared with the directory's group. Allocates.
    ///
    /// # Errors
    /// BadValue: the path is too long or has a NUL in it.
    pub fn new(dir: &Path, group: bool) -> Result<ChannelPaths> {
        let absolute = std::path::absolute(dir).map_err(|e| Error::os(dir.display(), e))?;
        let bytes = absolute.as_os_str().as_bytes();
        let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        FixedPath::from_bytes(bytes)
            .ok()
            .filter(|p| p.as_bytes().len() + Self::LONGEST_NAME < crate::sys::path::CAPACITY)
            .map(|dir| ChannelPaths { dir, group })
            .ok_or_else(|| {
                let most = crate::sys::path::CAPACITY - Self::LONGEST_NAME - 1;
                let text = "is too long for a channel's directory";
                Error::new(
                    Code::BadValue,
                    format!("{} {text} ({most} bytes at most): name a shorter one", dir.display()),
                )
            })
    }

    /// The directory.
    pub fn dir(&self) -> &FixedPath {
        &self.dir
    }

    /// `ctl`. Async-signal-safe, as are the following.
    pub fn ctl(&self) -> std::result::Result<FixedPath, Errno> {
        self.dir.join(b"ctl")
    }

    /// `drain.lock`.
    pub fn lock(&self) -> std::result::Result<FixedPath, Errno> {
        self.dir.join(b"drain.lock")
    }

    /// A producer's file.
    pub fn file(&self, stem: Stem, kind: Kind) -> std::result::Result<FixedPath, Errno> {
        let mut p = self.dir.join(b"")?;
        stem.push_to(&mut p)?;
        p.push(kind.suffix())?;
        Ok(p)
    }

    /// The name a file has while it is made. It says who makes it, so that anybody can tell whether that
    /// one is still there.
    fn temp(&self, me: &Facts, nonce: u64, suffix: &[u8]) -> std::result::Result<FixedPath, Errno> {
        let mut p = self.dir.join(TEMP)?;
        p.push_dec(u64::from(me.pid))?.push(b"-")?.push_dec(me.start)?.push(b"-")?;
        p.push_dec(me.pid_ns)?.push(b"-")?.push_dec(me.time_ns)?.push(b"-")?;
        let boot = u128::from_be_bytes(me.boot_id);
        p.push_hex((boot >> 64) as u64)?.push_hex(boot as u64)?;
        p.push(b"-")?.push_hex(nonce)?.push(suffix)?;
        Ok(p)
    }

    fn mode(&self) -> u32 {
        if self.group { 0o660 } else { 0o600 }
    }
}

const TEMP: &[u8] = b".tmp-";

/// Who makes the file of this temporary name; the uid and the program's name are not in it.
fn parse_temp(name: &[u8]) -> Option<Facts> {
    let mut parts = name.strip_prefix(TEMP)?.splitn(6, |&b| b == b'-');
    let mut number = || parts.next().and_then(parse_dec);
    let (pid, start, pid_ns, time_ns) = (number()?, number()?, number()?, number()?);
    let boot = parts.next()?;
    let (high, low) = (parse_hex16(boot.get(..16)?)?, parse_hex16(boot.get(16..)?)?);
    parse_hex16(parts.next()?.get(..16)?)?;
    let boot_id = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    Some(Facts { pid: u32::try_from(pid).ok()?, uid: 0, start, pid_ns, time_ns, boot_id, comm: [0; 16] })
}

/// Who a producer is: the same bytes at the head of its ring, ack and spill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random number, part of the files' name.
    pub nonce: u64,
    /// The process.
    pub facts: Facts,
}

/// Bytes of the identity.
const ID_LEN: usize = id::LEN as usize;
/// Bytes of a ring's header that are used.
const HEADER_LEN: usize = ring::TICK_HZ as usize + 8;

fn put<const N: usize>(to: &mut [u8], at: u64, bytes: [u8; N]) {
    to[at as usize..at as usize + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(from: &[u8], at: u64) -> [u8; N] {
    let mut b = [0; N];
    b.copy_from_slice(&from[at as usize..at as usize + N]);
    b
}

impl Identity {
    /// The head of a file of `magic` whose length field says `file_len`.
    pub fn encode(&self, magic: u64, file_len: u64) -> [u8; ID_LEN] {
        let mut b = [0; ID_LEN];
        let f = &self.facts;
        put(&mut b, id::MAGIC, magic.to_le_bytes());
        put(&mut b, id::VERSION, LAYOUT_VERSION.to_le_bytes());
        put(&mut b, id::ARCH, ARCH.to_le_bytes());
        put(&mut b, id::FILE_LEN, file_len.to_le_bytes());
        put(&mut b, id::NONCE, self.nonce.to_le_bytes());
        put(&mut b, id::BOOT_ID, f.boot_id);
        put(&mut b, id::PID, f.pid.to_le_bytes());
        put(&mut b, id::UID, f.uid.to_le_bytes());
        put(&mut b, id::START, f.start.to_le_bytes());
        put(&mut b, id::PID_NS, f.pid_ns.to_le_bytes());
        put(&mut b, id::TIME_NS, f.time_ns.to_le_bytes());
        put(&mut b, id::COMM, f.comm);
        b
    }

    /// The identity in a file's head (its magic and version are checked by whoever opens).
    pub fn decode(b: &[u8; ID_LEN]) -> Identity {
        Identity {
            nonce: u64::from_le_bytes(get(b, id::NONCE)),
            facts: Facts {
                pid: u32::from_le_bytes(get(b, id::PID)),
                uid: u32::from_le_bytes(get(b, id::UID)),
                start: u64::from_le_bytes(get(b, id::START)),
                pid_ns: u64::from_le_bytes(get(b, id::PID_NS)),
                time_ns: u64::from_le_bytes(get(b, id::TIME_NS)),
                boot_id: get(b, id::BOOT_ID),
                comm: get(b, id::COMM),
            },
        }
    }

    /// The stem of this producer's files.
    pub fn stem(&self) -> Stem {
        Stem { pid: self.facts.pid, nonce: self.nonce }
    }
}

/// How a ring's timestamps are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockFacts {
    /// 1 = TSC, 2 = CLOCK_MONOTONIC_RAW in ns, 3 = `ctl`'s tick word.
    pub source: u32,
    /// Ticks at attach.
    pub anchor_ticks: u64,
    /// UTC at attach, ns since the epoch.
    pub anchor_utc: u64,
    /// Frequency in Hz, 0 = not known.
    pub tick_hz: u64,
}

/// The used bytes of a ring's header.
pub fn encode_ring_header(who: &Identity, g: &Geometry, c: &ClockFacts) -> [u8; HEADER_LEN] {
    let mut b = [0; HEADER_LEN];
    put(&mut b, 0, who.encode(ring::MAGIC, g.file_len()));
    put(&mut b, ring::LANES, g.lanes.to_le_bytes());
    put(&mut b, ring::SLOTS, g.slots.to_le_bytes());
    put(&mut b, ring::GRANULES, g.granules.to_le_bytes());
    put(&mut b, ring::CLOCK, c.source.to_le_bytes());
    put(&mut b, ring::LANE_STRIDE, g.lane_stride.to_le_bytes());
    put(&mut b, ring::ARENA_LEN, g.arena.to_le_bytes());
    put(&mut b, ring::ANCHOR_TICKS, c.anchor_ticks.to_le_bytes());
    put(&mut b, ring::ANCHOR_UTC, c.anchor_utc.to_le_bytes());
    put(&mut b, ring::TICK_HZ, c.tick_hz.to_le_bytes());
    b
}

fn decode_ring_header(b: &[u8; HEADER_LEN]) -> (Geometry, ClockFacts) {
    let word = |at| u64::from_le_bytes(get(b, at));
    let half = |at| u32::from_le_bytes(get(b, at));
    let g = Geometry {
        lanes: half(ring::LANES),
        slots: half(ring::SLOTS),
        granules: half(ring::GRANULES),
        lane_stride: word(ring::LANE_STRIDE),
        arena: word(ring::ARENA_LEN),
    };
    let c = ClockFacts {
        source: half(ring::CLOCK),
        anchor_ticks: word(ring::ANCHOR_TICKS),
        anchor_utc: word(ring::ANCHOR_UTC),
        tick_hz: word(ring::TICK_HZ),
    };
    (g, c)
}

/// Checks what every file begins with, magic, version, architecture, in this order, and says which one
/// is wrong and what to do.
fn check_head(path: &Path, head: &[u8], magic: u64) -> Result<()> {
    let at = path.display();
    if u64::from_le_bytes(get(head, id::MAGIC)) != magic {
        let what = "is not a file of spillring (wrong magic): move it out of the channel's directory";
        return Err(Error::new(Code::BadFile, format!("{at} {what}")));
    }
    let version = u32::from_le_bytes(get(head, id::VERSION));
    if version != LAYOUT_VERSION {
        return Err(Error::new(
            Code::Version,
            format!(
                "{at} has layout version {version}, this program reads {LAYOUT_VERSION}: \
                 use the spillring that made it, or another channel"
            ),
        ));
    }
    let arch = u32::from_le_bytes(get(head, id::ARCH));
    if arch != ARCH {
        return Err(Error::new(
            Code::Arch,
            format!(
                "{at} was made on architecture {arch}, this program is built for {ARCH} \
                 (1 = x86-64, 2 = aarch64): use the spillring that made it, or another channel"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            pid: 4242,
            uid: 1000,
            start: 99,
            pid_ns: 4_026_531_836,
            time_ns: 4_026_531_834,
            boot_id: *b"0123456789abcdef",
            comm: *b"worker (1)\0\0\0\0\0\0",
        }
    }

    #[test]
    fn stems_are_read_as_written() {
        let s = Stem { pid: 17, nonce: 0xabc };
        assert_eq!(s.to_string(), "17-0000000000000abc");
        assert_eq!(Stem::parse(b"17-0000000000000abc"), Some(s));
        for bad in ["", "17", "-", "17-", "017-0000000000000abc", "17-0000000000000ABC", "17-abc"] {
            assert_eq!(Stem::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Stem::parse(b"17-0000000000000000"), None);
        assert_eq!(Stem::parse(b"99999999999-0000000000000abc"), None);
    }

    #[test]
    fn temporary_names_say_who_makes_them() {
        let paths = ChannelPaths::new(Path::new("/dev/shm/x/"), false).unwrap();
        let f = facts();
        let p = paths.temp(&f, 7, b".ring").unwrap();
        let name = p.as_bytes().strip_prefix(b"/dev/shm/x/").unwrap();
        assert_eq!(parse_temp(name), Some(Facts { uid: 0, comm: [0; 16], ..f }));
        assert_eq!(parse_temp(&name[..name.len() - 6]), None);
        assert_eq!(parse_temp(b".tmp-1-2-3"), None);
        let longest = Facts { pid: u32::MAX, start: u64::MAX, pid_ns: 1 << 32, time_ns: 1 << 32, ..f };
        let p = paths.temp(&longest, 7, b".spill").unwrap();
        assert!(p.as_bytes().len() < paths.dir().as_bytes().len() + ChannelPaths::LONGEST_NAME);
    }

    #[test]
    fn relative_and_long_directories() {
        let p = ChannelPaths::new(Path::new("some/where"), false).unwrap();
        assert!(p.dir().as_bytes().starts_with(b"/"));
        let e = ChannelPaths::new(Path::new(&"x".repeat(400)), false).unwrap_err();
        assert_eq!(e.code, Code::BadValue);
        assert!(e.message.contains("shorter"));
    }

    #[test]
    fn identity_and_header_come_back() {
        let who = Identity { nonce: 5, facts: facts() };
        assert_eq!(Identity::decode(&who.encode(1, 2)), who);
        let g = Geometry { lanes: 3, slots: 4, granules: 8, lane_stride: 4096, arena: 8192 };
        let c = ClockFacts { source: 1, anchor_ticks: 2, anchor_utc: 3, tick_hz: 4 };
        assert_eq!(decode_ring_header(&encode_ring_header(&who, &g, &c)), (g, c));
    }
}
