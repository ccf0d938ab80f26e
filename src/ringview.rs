//! A ring as the drain and the readers see it: mapped read-only, bounds checked, nothing believed.
#![allow(unsafe_code)] // bulk copies out of a mapping that somebody else writes

use std::io;

use crate::channel::RingView;
use crate::lane::shared;
use crate::layout::ring::{ack, lane, slot, word};
use crate::layout::{site, spill};
use crate::snapshot::RingRead;
use crate::sync::{AtomicU64, Ordering::Acquire, fence};
use crate::sys::{self, Map};

/// The mapping of one producer's files. Loads only; what may be stored (`P.ack`) is the drain's.
#[derive(Debug)]
pub struct View {
    /// The files.
    pub files: RingView,
}

/// Copies `to.len()` bytes at `at` of a mapping, as fast as memory allows. What is copied may change
/// meanwhile: it is to be validated. Zeros where that is not inside the mapping.
fn copy(map: &Map, at: u64, to: &mut [u8]) {
    let inside = at.checked_add(to.len() as u64).is_some_and(|end| end <= map.len());
    if !inside {
        to.fill(0);
        return;
    }
    // SAFETY: inside the mapping, which lives as long as `map`; the bytes are plain memory shared with
    // another process, and no reference to them is made.
    unsafe { core::ptr::copy_nonoverlapping(map.addr().add(at as usize), to.as_mut_ptr(), to.len()) };
}

impl View {
    /// Over opened and validated files.
    pub fn new(files: RingView) -> View {
        View { files }
    }
    /// A word of the ring, loaded with acquire.
    pub fn load(&self, at: u64) -> u64 {
        self.files.word(at).load(Acquire)
    }
    /// A word of a lane header.
    pub fn lane_word(&self, i: u32, at: u64) -> u64 {
        self.load(self.files.geometry.lane_header(i) + at)
    }
    /// A word of a thread slot.
    pub fn slot_word(&self, i: u32, at: u64) -> u64 {
        debug_assert!(at < slot::LEN);
        self.load(self.files.geometry.slot(i) + at)
    }
    /// A word of `P.ack`.
    pub fn ack(&self, at: u64) -> &AtomicU64 {
        self.files.ack().word(at)
    }
    /// A word of a lane's line in `P.ack`.
    pub fn lane_ack(&self, i: u32, at: u64) -> &AtomicU64 {
        self.ack(ack::lane(i) + at)
    }
    /// A copy of the site entry with this number. None: no such entry.
    pub fn site(&self, id: u32) -> Option<Vec<u8>> {
        let g = &self.files.geometry;
        let at = u64::from(id.checked_sub(1)?) * 8;
        if at + site::HEADER > g.arena {
            return None;
        }
        let mut entry = vec![0; site::HEADER as usize];
        copy(self.files.ring(), g.arena_at() + at, &mut entry);
        let len = u32::from_le_bytes(entry[site::LEN as usize..][..4].try_into().expect("4 bytes"));
        if u64::from(len) < site::HEADER || u64::from(len) > (site::MAX_LEN as u64).min(g.arena - at) {
            return None;
        }
        entry.resize(len as usize, 0);
        copy(self.files.ring(), g.arena_at() + at, &mut entry);
        Some(entry)
    }
}

impl View {
    /// From the spill, by pread: a page that is not there reads as zeros and allocates nothing, and one that is cut
    /// off is no signal.
    fn spill_bytes(&self, at: u64, to: &mut [u8]) -> io::Result<()> {
        match sys::file::read_at(self.files.spill_fd(), to, at)? {
            n if n == to.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl RingRead for View {
    fn lanes(&self) -> u32 {
        self.files.geometry.lanes
    }
    fn lanes_used(&self) -> u32 {
        self.load(word::LANES_USED).min(u64::from(self.files.geometry.lanes)) as u32
    }
    fn lane_capacity(&self, i: u32) -> u64 {
        let c = self.lane_word(i, lane::CAPACITY);
        // What the lane's place cannot hold is no capacity, and will be found to be none.
        if c > self.files.geometry.lane_stride { u64::MAX } else { c }
    }
    fn lane_tail(&self, i: u32) -> u64 {
        self.lane_word(i, lane::TAIL) // tail:A
    }
    fn lane_read(&self, i: u32, at: u64, to: &mut [u8]) {
        copy(self.files.ring(), self.files.geometry.lane_data(i) + at, to);
    }
    fn shared_tail(&self) -> u64 {
        self.load(word::SHARED_TAIL) // claim:A
    }
    fn granules(&self) -> u64 {
        u64::from(self.files.geometry.granules)
    }
    fn word(&self, granule: u64) -> u64 {
        let i = shared::word_at(granule, self.granules());
        self.load(self.files.geometry.commit_word(i as u32)) // word:A
    }
    fn granule_read(&self, at: u64, to: &mut [u8]) {
        copy(self.files.ring(), self.files.geometry.granule(0) + at, to);
    }
    fn spill_tail(&self) -> u64 {
        self.load(word::SPILL_TAIL) // claim:A
    }
    fn spill_backed(&self) -> u64 {
        self.load(word::SPILL_BACKED) // back:A
    }
    fn spill_granules(&self) -> u64 {
        self.files.spill_granules()
    }
    /// The kernel copies as it likes: nothing says that a word comes in one piece. So they are read twice, and one
    /// that is not the same is none: whoever saw a part of a store sees all of it when it looks again.
    fn spill_words(&self, granule: u64, to: &mut [u64]) -> io::Result<()> {
        let mut b = vec![0; to.len() * 16];
        let (first, second) = b.split_at_mut(to.len() * 8);
        self.spill_bytes(spill::commit_word(granule), first)?;
        fence(Acquire);
        self.spill_bytes(spill::commit_word(granule), second)?;
        // word:A, for what is read from here on.
        fence(Acquire);
        let word = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("8 bytes"));
        for ((w, a), b) in to.iter_mut().zip(first.chunks_exact(8)).zip(second.chunks_exact(8)) {
            *w = if a == b { word(a) } else { 0 };
        }
        Ok(())
    }
    fn spill_read(&self, granule: u64, to: &mut [u8]) -> io::Result<()> {
        self.spill_bytes(spill::granule(self.files.spill_granules(), granule), to)
    }
}
