//! The floor of a log call: what any logger must do that stores arguments and publishes them, and nothing
//! else.
//!
//! It reads the clock, copies the bytes, and makes one release store. The bytes are those of our own record,
//! header included; they go into a lane of a ring like any other, in shared memory, made here by hand in the
//! same channel. So the same drain polls it, reads it and journals it, and what it was told is checked to be
//! there. [`FloorLane::text`] does not even look for room: whoever calls it has seen to that, and keeps away
//! from the end of the lap. [`FloorLane::text_checked`] does, with one compare against a remembered position,
//! for runs without a pause.
#![allow(unsafe_code)]

use spillring::Result;
use spillring::channel::{ChannelPaths, ClockFacts, ProducerFiles, ProducerSpec, Stem, create_producer};
use spillring::lane::thread::AHEAD;
use spillring::layout::ring::{self, Geometry, ack, lane, record, slot, word};
use spillring::record::{Args, Level, SiteFacts};
use spillring::sync::{AtomicU64, Ordering::*, prefetch_write};
use spillring::sys::process::{Facts, tid};
use spillring::sys::time::{ticks, ticks_hz, utc_ns};
use std::cell::Cell;
use std::path::Path;

/// A ring made by hand, its lanes written by [`FloorLane`]s.
pub struct FloorRing {
    files: ProducerFiles,
    capacity: u64,
}

// SAFETY: the mapping is valid on every thread; each lane has one writing thread, its `FloorLane`'s.
unsafe impl Sync for FloorRing {}

/// The message, so that both sides have the same text.
pub const FORMAT: &str = "{} {} {}";

impl FloorRing {
    /// Makes the ring in a channel: `lanes` lanes of `capacity` bytes, allocated and mapped, for records of
    /// arguments `A`.
    pub fn create<A: Args>(channel: &Path, lanes: u32, capacity: u64) -> Result<FloorRing> {
        let paths = ChannelPaths::new(channel, false)?;
        let geometry =
            Geometry { lanes, slots: lanes, granules: 4, lane_stride: capacity, arena: ring::ARENA };
        let clock =
            ClockFacts { source: 1, anchor_ticks: ticks(), anchor_utc: utc_ns(), tick_hz: ticks_hz() };
        let spec = ProducerSpec { facts: Facts::read(), geometry, clock, spill_granules: 0 };
        let files = create_producer(&paths, &spec).map_err(|e| e.widen(&paths))?;
        let facts = SiteFacts {
            level: Level::Info,
            line: line!(),
            file: file!().as_bytes(),
            target: module_path!().as_bytes(),
            fmt: FORMAT.as_bytes(),
            types: A::TYPES,
            fields: b"",
            style: 0,
        };
        let mut entry = vec![0; facts.encoded_len()];
        facts.encode(&mut entry);
        files.ring.write(geometry.arena_at(), &entry);
        files.ring.word(word::SITES_TAIL).store(entry.len() as u64, Release);
        let f = FloorRing { files, capacity };
        for i in 0..lanes {
            f.make(i)?;
        }
        Ok(f)
    }

    fn make(&self, i: u32) -> Result<()> {
        let (g, r) = (&self.files.geometry, &self.files.ring);
        let what = |e: spillring::sys::Errno| spillring::Error::os("the floor's lane", e.into());
        r.populate(g.lane_data(i), self.capacity).map_err(what)?;
        let number = u64::from(i) + 1;
        r.word(g.slot(i) + slot::OWNER).store(u64::from(tid()) << 32 | number << 2 | slot::TAKEN, Release);
        r.word(g.slot(i) + slot::THREAD).store(number, Release);
        r.word(g.slot(i) + slot::LANE).store(number, Release);
        // A lane begins with the name of its thread.
        let mut note = [0; (record::HEADER + record::THREAD_LEN) as usize];
        let len = note.len() as u64;
        note[..8].copy_from_slice(&record::word0(len, record::THREAD).to_le_bytes());
        note[24..32].copy_from_slice(&number.to_le_bytes());
        note[32..36].copy_from_slice(&tid().to_le_bytes());
        note[36..40].copy_from_slice(&i.to_le_bytes());
        r.write(g.lane_data(i), &note);
        let at = |word| r.word(g.lane_header(i) + word);
        at(lane::OWNER).store(number << 16 | number, Release);
        r.word(word::LANES_USED).fetch_max(number, AcqRel);
        at(lane::CAPACITY).store(self.capacity, Release);
        at(lane::TAIL).store(len, Release);
        Ok(())
    }

    /// The name of its files.
    pub fn stem(&self) -> Stem {
        self.files.stem
    }

    /// Lane `i`, for the one thread that writes it.
    pub fn lane(&self, i: u32) -> FloorLane<'_> {
        let (g, r) = (&self.files.geometry, &self.files.ring);
        // SAFETY: inside the mapping, which has the geometry's length.
        let data = unsafe { r.addr().add(g.lane_data(i) as usize) };
        FloorLane {
            tail: r.word(g.lane_header(i) + lane::TAIL),
            released: self.files.ack.word(ack::lane(i) + ack::RELEASED),
            data,
            capacity: self.capacity,
            at: Cell::new(r.word(g.lane_header(i) + lane::TAIL).load(Relaxed)),
            cached: Cell::new(0),
        }
    }
}

/// One lane of it.
pub struct FloorLane<'a> {
    tail: &'a AtomicU64,
    released: &'a AtomicU64,
    data: *mut u8,
    capacity: u64,
    /// Where the next record goes: the tail, or behind a PAD that is published with that record.
    at: Cell<u64>,
    /// The drain's position when last looked at.
    cached: Cell<u64>,
}

const SITE: u64 = 1;

#[inline(always)]
fn round8(n: u64) -> u64 {
    (n + 7) & !7
}

/// Bytes of a record of (i32, f64, text of `len` bytes) in a lane.
pub fn text_bytes(len: usize) -> u64 {
    round8(record::HEADER + 4 + 8 + 4 + len as u64)
}

/// Bytes of a record of three integers (u64, u32, i32) in a lane.
pub const INTS_BYTES: u64 = record::HEADER + 16;

impl FloorLane<'_> {
    /// Header and time of a record of `len` bytes at `p`.
    ///
    /// # Safety
    /// `p` has room for them.
    #[inline(always)]
    unsafe fn head(p: *mut u8, len: u64, ticks: u64) {
        // SAFETY: by the caller.
        unsafe {
            p.cast::<u64>().write(record::word0(len, record::RECORD));
            p.add(record::TICKS as usize).cast::<u64>().write(ticks);
            p.add(record::SITE as usize).cast::<u64>().write(SITE);
        }
    }

    /// # Safety
    /// `p` has room for the record.
    #[inline(always)]
    unsafe fn put_text(p: *mut u8, len: u64, ticks: u64, a: i32, b: f64, s: &str) {
        // SAFETY: by the caller.
        unsafe {
            Self::head(p, len, ticks);
            let p = p.add(record::HEADER as usize);
            p.cast::<i32>().write_unaligned(a);
            p.add(4).cast::<f64>().write_unaligned(b);
            p.add(12).cast::<u32>().write_unaligned(s.len() as u32);
            std::ptr::copy_nonoverlapping(s.as_ptr(), p.add(16), s.len());
        }
    }

    #[inline(always)]
    fn here(&self) -> *mut u8 {
        // SAFETY: inside the lane's data.
        unsafe { self.data.add((self.at.get() & (self.capacity - 1)) as usize) }
    }

    #[inline(always)]
    fn publish(&self, n: u64) {
        let tail = self.at.get() + n;
        self.at.set(tail);
        self.tail.store(tail, Release);
    }

    /// Logs (i32, f64, text). There must be room before the end of the lap: [`FloorLane::ready`].
    #[inline(never)]
    pub fn text(&self, a: i32, b: f64, s: &str) {
        let len = record::HEADER + 16 + s.len() as u64;
        // SAFETY: the caller has seen to it that there is room.
        unsafe { Self::put_text(self.here(), len, ticks(), a, b, s) };
        self.publish(round8(len));
    }

    /// The same with a time that somebody else has read.
    #[inline(never)]
    pub fn text_at(&self, time: &AtomicU64, a: i32, b: f64, s: &str) {
        let len = record::HEADER + 16 + s.len() as u64;
        // SAFETY: the caller has seen to it that there is room.
        unsafe { Self::put_text(self.here(), len, time.load(Relaxed), a, b, s) };
        self.publish(round8(len));
    }

    /// [`FloorLane::text`] with what ours does besides: it asks for the lines of records to come.
    #[inline(never)]
    pub fn text_ahead(&self, a: i32, b: f64, s: &str) {
        let len = record::HEADER + 16 + s.len() as u64;
        let p = self.here();
        // SAFETY: the caller has seen to it that there is room.
        unsafe { Self::put_text(p, len, ticks(), a, b, s) };
        prefetch_write::<AHEAD>(p);
        prefetch_write::<{ AHEAD + 64 }>(p);
        self.publish(round8(len));
    }

    /// Logs three integers. There must be room before the end of the lap: [`FloorLane::ready`].
    #[inline(never)]
    pub fn ints(&self, a: u64, b: u32, c: i32) {
        // SAFETY: the caller has seen to it that there is room.
        unsafe {
            let p = self.here();
            Self::head(p, INTS_BYTES, ticks());
            let p = p.add(record::HEADER as usize);
            p.cast::<u64>().write(a);
            p.add(8).cast::<u32>().write(b);
            p.add(12).cast::<i32>().write(c);
        }
        self.publish(INTS_BYTES);
    }

    /// Logs (i32, f64, text) if there is room.
    #[inline(never)]
    pub fn text_checked(&self, a: i32, b: f64, s: &str) -> bool {
        let len = record::HEADER + 16 + s.len() as u64;
        let n = round8(len);
        if !self.ready(n) {
            return false;
        }
        // SAFETY: it was just seen that there is room.
        unsafe { Self::put_text(self.here(), len, ticks(), a, b, s) };
        self.publish(n);
        true
    }

    /// Logs (i32, f64, text) into a lane that nobody reads: what the lap before holds is overwritten.
    #[inline(never)]
    pub fn text_unread(&self, a: i32, b: f64, s: &str) {
        let len = record::HEADER + 16 + s.len() as u64;
        if self.to_end() < round8(len) {
            self.at.set(self.at.get() + self.to_end());
        }
        // SAFETY: in one piece inside the lane.
        unsafe { Self::put_text(self.here(), len, ticks(), a, b, s) };
        self.publish(round8(len));
    }

    /// Whether `bytes` more lie in one piece and fit; skips the rest of the lap for that.
    #[inline(always)]
    pub fn ready(&self, bytes: u64) -> bool {
        if self.to_end() < bytes {
            return self.pad(bytes);
        }
        self.fits(bytes)
    }

    #[inline(always)]
    fn fits(&self, n: u64) -> bool {
        let end = self.at.get() + n;
        if end - self.cached.get() > self.capacity {
            self.cached.set(self.released.load(Acquire));
        }
        end - self.cached.get() <= self.capacity
    }

    #[inline(always)]
    fn to_end(&self) -> u64 {
        self.capacity - (self.at.get() & (self.capacity - 1))
    }

    #[cold]
    fn pad(&self, bytes: u64) -> bool {
        let rest = self.to_end();
        if !self.fits(rest + bytes) {
            return false;
        }
        // SAFETY: the rest of the lap is at least a word: everything is a multiple of 8.
        unsafe { self.here().cast::<u64>().write(record::word0(rest, record::PAD)) };
        self.at.set(self.at.get() + rest);
        true
    }

    /// Bytes that were written and not released.
    pub fn pending(&self) -> u64 {
        self.tail.load(Relaxed) - self.released.load(Acquire)
    }

    /// Bytes of the lane.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }
}
