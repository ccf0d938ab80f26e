//! Overflow frames: how one is built, and how a file of them is parsed.
//!
//! The file is only appended to. A frame, or its header, may end anywhere at the end of the file
//! (the kernel copies page by page, and a killed writer stops in between), and another writer's
//! frame may follow a torn one. Hence: what does not parse is *in progress* until a valid frame
//! stands behind it, or the owner is dead; the search for that frame looks at every byte, inside the
//! bad frame's claimed extent too.
//!
//! # A frame inside a frame
//!
//! A record may hold frames of this very file (somebody prints it, and the output is captured). Of
//! such an outer frame that is seen half appended, a copy inside is whole already: taking it would
//! lose the outer one and deliver the copy again. What tells them apart is `aux`, which one process
//! gives to one call that spills:
//!
//! - A frame whose `aux` was parsed before is a copy. So are all copies of what stands below the
//!   parser, and a copy was made from what stood there.
//! - Whoever copied read the original before the outer call began, and so before that took its `aux`:
//!   a copy's `aux` is smaller than that of every frame around it. So a frame inside the claimed extent
//!   with an `aux` no smaller (another writer's, or the same frame written again) proves that the outer
//!   one is torn.
//! - What is neither (a smaller `aux`, from before this parser's memory: the drain was started again
//!   in the middle of the file, or it is thousands of gaps old) waits until the outer frame is whole, or
//!   the file is longer than it claims and it is not whole, or something proves it torn, or the owner is
//!   dead. If the outer one turns out to be torn it is taken then: rather twice than never.
//!
//! # A frame that the next one completes
//!
//! A torn frame may lack just the bytes that the next one begins with: then it is whole, with a valid
//! checksum (it had not returned, and is there whole: that is allowed), and the next one begins inside it. So
//! behind a frame whose last bytes look like the beginning of a header, the next one is looked for there too.
//! (Only of a header: of more, its checksum would have to be the same by chance.)
//!
//! # What remains
//!
//! (1) A copy of a frame from before a restart, inside a frame that is torn for good, is
//! delivered again. (2) After a restart, behind a live process's torn frame, a frame whose writer took
//! its `aux` before the torn one's did and appended after it, waits for the next frame (or death), and
//! later records of its thread may pass it. (3) A record that holds a *forged* frame (it needs the
//! file's nonce and an `aux` that was not parsed yet) and is seen half appended is taken for torn: the
//! forged one is delivered in its place.
//!
//! # Work
//!
//! Nothing is looked at twice while the file does not grow: bytes searched stay searched, a bad
//! checksum stays bad, and a frame that claims more than there is costs none until there is as much.
//! All that is read and summed counts against the caller's budget, and what was summed in vain against
//! a credit of the file, [`CREDIT`]; a file that overdraws it is no writer's work.

use std::collections::BTreeMap;
use std::io;

use crate::lane::{SlowKey, SpillKey};
use crate::layout::ring::{MAX_RECORD, record, slow};
use crate::layout::spill::{AT, AUX, CRC, FRAME_HEADER, FRAME_MAGIC_VALUE, HEADER};

/// Bytes in front of the record in a frame.
pub const PREFIX: usize = (FRAME_HEADER + slow::LEN) as usize;
const MIN_FRAME: u64 = FRAME_HEADER + slow::LEN + record::HEADER;
const MAX_FRAME: u64 = FRAME_HEADER + slow::LEN + MAX_RECORD;

/// Bytes of a frame around a record of `record_len` bytes, without padding.
pub const fn frame_len(record_len: u64) -> u64 {
    PREFIX as u64 + record_len
}

/// The magic of frames in the file of the producer with this nonce.
pub const fn magic(nonce: u64) -> u64 {
    FRAME_MAGIC_VALUE ^ nonce
}

/// The checksum of a frame whose record comes in pieces. No allocation; async-signal-safe.
pub struct Checksum {
    prefix: [u8; PREFIX],
    crc: u32,
}

impl Checksum {
    /// For a record of `record_len` bytes under `key`.
    pub fn new(key: SpillKey, record_len: u64) -> Self {
        let mut prefix = [0; PREFIX];
        prefix[8..12].copy_from_slice(&(frame_len(record_len) as u32).to_le_bytes());
        prefix[AT as usize..][..8].copy_from_slice(&key.at.to_le_bytes());
        prefix[AUX as usize..][..8].copy_from_slice(&key.aux.to_le_bytes());
        prefix[FRAME_HEADER as usize..].copy_from_slice(&key.slow.to_bytes());
        let crc = summed(&prefix);
        Checksum { prefix, crc }
    }
    /// The next piece of the record.
    pub fn add(&mut self, piece: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, piece);
    }
    /// Header and key of the frame, in the file of the producer with this nonce.
    pub fn prefix(mut self, nonce: u64) -> [u8; PREFIX] {
        self.prefix[..8].copy_from_slice(&magic(nonce).to_le_bytes());
        self.prefix[12..16].copy_from_slice(&self.crc.to_le_bytes());
        self.prefix
    }
}

/// The checksum of a frame's bytes, or of as many as there are, of its magic and itself without.
fn summed(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[8..12]), &frame[CRC as usize + 4..])
}

/// The key of the frame that begins with these bytes, [`PREFIX`] at least.
fn key_of(frame: &[u8]) -> SpillKey {
    let w = |at: u64| u64::from_le_bytes(frame[at as usize..][..8].try_into().expect("8 bytes"));
    SpillKey { slow: SlowKey::from_bytes(&frame[FRAME_HEADER as usize..]), at: w(AT), aux: w(AUX) }
}

/// Where the parser reads from.
pub trait SpillRead {
    /// Length of the file now, bytes.
    ///
    /// # Errors
    /// The file cannot be asked.
    fn spill_len(&self) -> io::Result<u64>;
    /// Reads at `at`; answers how many bytes came (fewer only at the end of the file).
    ///
    /// # Errors
    /// The bytes are there and cannot be had: that says nothing about what they are.
    fn spill_read(&self, at: u64, to: &mut [u8]) -> io::Result<usize>;
}

/// One step of the parser.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A valid frame of `len` bytes (padding included) at `at`; its record is in the buffer.
    Frame {
        /// Offset in the file.
        at: u64,
        /// Bytes up to the next frame.
        len: u64,
        /// Its key.
        key: SpillKey,
    },
    /// Bytes that will never be a frame, or a frame that was parsed before.
    Torn {
        /// Offset in the file.
        at: u64,
        /// How many.
        len: u64,
    },
    /// What stands at the position may still become a frame, or nothing stands there: nothing comes of
    /// it while the file is as long as it is and its owner lives.
    Wait,
    /// The budget is used up, and there is more to look at.
    More,
    /// The file could not be read (its errno, 0 if there is none): nothing was decided.
    Unreadable(i32),
    /// More false frames than [`CREDIT`] pays for: no writer leaves such a file.
    Overdrawn,
}

/// Bytes of checksums that may be computed in vain: this much at first, four times what was parsed
/// meanwhile, this much at most. Copies of frames in a torn frame of the largest size, eight deep.
pub const CREDIT: u64 = 8 * MAX_FRAME;
const REFILL: u64 = 4;

/// Which values of `aux` were parsed, as ranges.
#[derive(Default)]
struct Known {
    ranges: BTreeMap<u64, u64>,
    /// Below this it is not remembered what was parsed.
    floor: u64,
}

impl Known {
    /// They grow by calls that went nowhere, and where frames are not in the order of their calls.
    const RANGES: usize = 4096;

    fn has(&self, aux: u64) -> bool {
        self.ranges.range(..=aux).next_back().is_some_and(|(_, last)| *last >= aux)
    }

    fn insert(&mut self, aux: u64) {
        if self.has(aux) {
            return;
        }
        let (mut first, mut last) = (aux, aux);
        if let Some((f, l)) = self.ranges.range(..aux).next_back()
            && l.checked_add(1) == Some(aux)
        {
            first = *f;
        }
        if let Some(next) = aux.checked_add(1)
            && let Some(l) = self.ranges.remove(&next)
        {
            last = l;
        }
        self.ranges.insert(first, last);
        if self.ranges.len() > Self::RANGES
            && let Some((_, last)) = self.ranges.pop_first()
        {
            self.floor = self.floor.max(last.saturating_add(1));
        }
    }
}

/// A plausible header whose frame would end behind the end of the file.
#[derive(Clone, Copy)]
struct Open {
    at: u64,
    end: u64,
    aux: u64,
}

/// What is known of the bytes from the parser's position on, none of which is a frame yet.
#[derive(Default)]
struct Search {
    /// Every place below this was looked at; 0 = none was.
    to: u64,
    /// Of them, those that may be frames once the file is longer; in order.
    open: Vec<Open>,
    /// The first valid frame that may be a copy inside one of them.
    maybe: Option<u64>,
    /// The last look that came to nothing: length of the file, and whether its owner was dead.
    looked: Option<(u64, bool)>,
}

impl Search {
    /// Half a frame, and as much nesting as that holds. Where there are more, no further ones are
    /// looked for until the first of them is decided.
    const OPEN: usize = 256;
}

/// What stands at a place.
enum Place {
    Valid(u64, SpillKey),
    /// Not to be told yet.
    Open(Open),
    /// No frame, now and later.
    Never,
}

/// Parses a spill file, frame by frame.
pub struct Parser {
    magic: u64,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
    known: Known,
    search: Search,
    /// So many bytes before the position, at most, a frame may begin.
    overlap: u64,
    /// And it does: so many bytes before the position.
    early: u64,
    credit: u64,
    /// Bytes read and summed in this step, and how many may be.
    work: u64,
    limit: u64,
}

const WINDOW: usize = 256 << 10;

impl Parser {
    /// A parser for the file of the producer with this nonce, from `at` on (at least the header).
    pub fn new(nonce: u64, at: u64) -> Self {
        // What stands below `at` was parsed by somebody else.
        let known = Known { floor: if at > HEADER { u64::MAX } else { 0 }, ..Known::default() };
        Parser {
            magic: magic(nonce),
            at: at.max(HEADER),
            window: Vec::new(),
            window_at: 0,
            known,
            search: Search::default(),
            overlap: 0,
            early: 0,
            credit: CREDIT,
            work: 0,
            limit: 0,
        }
    }

    /// Offset of the next frame. Beyond the end of the file if that is what the caller began with.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Goes on at `at`: what lies before it is settled elsewhere, and was not parsed here.
    pub fn skip_to(&mut self, at: u64) {
        self.known.floor = u64::MAX;
        self.go_to(at.max(self.at));
    }

    /// Whether nothing can come of another look at a file of this length.
    pub fn settled(&self, end: u64, dead: bool) -> bool {
        self.at >= end || self.search.looked == Some((end, dead))
    }

    /// Whether bytes below the end, as of the last look, may still become a frame.
    pub fn waits(&self) -> bool {
        self.search.looked.is_some_and(|(end, _)| self.at < end)
    }

    fn go_to(&mut self, at: u64) {
        let refill = (at - self.at).saturating_mul(REFILL);
        self.credit = self.credit.saturating_add(refill).min(CREDIT);
        self.at = at;
        self.search = Search::default();
        (self.overlap, self.early) = (0, 0);
    }

    /// The bytes at `at`, `n` of them or as many as there are below `end`.
    fn bytes(&mut self, file: &impl SpillRead, at: u64, n: u64, end: u64) -> io::Result<&[u8]> {
        let want = n.min(end.saturating_sub(at)) as usize;
        let from = at.checked_sub(self.window_at).unwrap_or(u64::MAX);
        let have = (self.window.len() as u64).saturating_sub(from) as usize;
        if want > have {
            let size = want.max((end - at).min(WINDOW as u64) as usize);
            self.window.resize(size, 0);
            let got = match file.spill_read(at, &mut self.window) {
                Ok(got) => got.min(size),
                Err(e) => {
                    self.window.clear();
                    return Err(e);
                }
            };
            self.window.truncate(got);
            self.window_at = at;
            self.work = self.work.saturating_add(got as u64);
            return Ok(&self.window[..want.min(got)]);
        }
        if want == 0 {
            return Ok(&[]);
        }
        Ok(&self.window[from as usize..][..want])
    }

    /// What stands at `at`. With a valid frame, `record` gets its record, out of the bytes that were
    /// checked: the next read of the same place may come back shorter.
    fn place(
        &mut self,
        file: &impl SpillRead,
        at: u64,
        end: u64,
        record: Option<&mut Vec<u8>>,
    ) -> io::Result<Place> {
        let magic = self.magic;
        let head = self.bytes(file, at, PREFIX as u64, end)?;
        if head.len() < PREFIX || head[..8] != magic.to_le_bytes() {
            return Ok(Place::Never);
        }
        let len = u64::from(u32::from_le_bytes(head[8..12].try_into().expect("4 bytes")));
        let crc = u32::from_le_bytes(head[12..16].try_into().expect("4 bytes"));
        let key = key_of(head);
        if !(MIN_FRAME..=MAX_FRAME).contains(&len) {
            return Ok(Place::Never);
        }
        if len > end - at {
            return Ok(Place::Open(Open { at, end: at.saturating_add(len), aux: key.aux }));
        }
        let f = self.bytes(file, at, len, end)?;
        if f.len() < len as usize {
            return Ok(Place::Never);
        }
        let mine = summed(f);
        // The key from the bytes that were summed, too: the window may have been read again.
        let key = key_of(f);
        if let Some(record) = record
            && mine == crc
        {
            record.clear();
            record.extend_from_slice(&f[PREFIX..]);
        }
        self.work = self.work.saturating_add(len);
        if mine == crc {
            return Ok(Place::Valid(len, key));
        }
        self.credit = self.credit.saturating_sub(len);
        Ok(Place::Never)
    }

    /// The next step below `end` (a length of the file that was read once for this snapshot). `dead`:
    /// the owner cannot write any more. What is read and summed goes off the budget, by one frame or one
    /// window more than there is at most. With [`Step::Frame`], `record` holds the record's bytes.
    pub fn next(
        &mut self,
        file: &impl SpillRead,
        end: u64,
        dead: bool,
        budget: &mut u64,
        record: &mut Vec<u8>,
    ) -> Step {
        if self.settled(end, dead) {
            return Step::Wait;
        }
        if *budget == 0 {
            return Step::More;
        }
        if self.search.looked.is_some_and(|(before, _)| before > end) {
            // Somebody cut the file: nothing that is known of it holds.
            self.search = Search::default();
            self.window.clear();
        }
        self.search.looked = None;
        (self.work, self.limit) = (0, *budget);
        let step = match self.step(file, end, dead, record) {
            Ok(step) => step,
            Err(e) => Step::Unreadable(e.raw_os_error().unwrap_or(0)),
        };
        *budget = budget.saturating_sub(self.work.max(1));
        if step == Step::Wait {
            self.search.looked = Some((end, dead));
        }
        step
    }

    fn step(
        &mut self,
        file: &impl SpillRead,
        end: u64,
        dead: bool,
        record: &mut Vec<u8>,
    ) -> io::Result<Step> {
        if self.search.to == 0 && self.overlap > 0 {
            match self.begins_early(file, end)? {
                Some(early) => (self.overlap, self.early) = (0, early),
                None if dead => self.overlap = 0,
                None => return Ok(Step::Wait),
            }
        }
        let at = self.at - self.early;
        if end - at >= MIN_FRAME {
            let undecided = self.search.open.first().is_some_and(|o| o.at == at && o.end <= end);
            if self.search.to == 0 || undecided {
                match self.place(file, at, end, Some(record))? {
                    Place::Valid(len, key) => return self.accept(file, at, len, key, end),
                    Place::Open(o) => self.search.open.push(o),
                    Place::Never if self.early > 0 => {
                        // Only the magic stood there. Nothing is lost with what is known of the search.
                        (self.early, self.search) = (0, Search::default());
                        return self.step(file, end, dead, record);
                    }
                    Place::Never if undecided => drop(self.search.open.remove(0)),
                    Place::Never => {}
                }
                self.search.to = self.search.to.max(at + 1).max(self.at);
                if self.work >= self.limit {
                    return Ok(Step::More);
                }
            }
            match self.resync(file, end, dead)? {
                Found::Frame(next) => return Ok(self.torn(next)),
                Found::Nothing => {}
                Found::More => return Ok(Step::More),
                Found::Overdrawn => return Ok(Step::Overdrawn),
            }
        }
        Ok(if dead { self.torn(end) } else { Step::Wait })
    }

    fn accept(
        &mut self,
        file: &impl SpillRead,
        at: u64,
        len: u64,
        key: SpillKey,
        end: u64,
    ) -> io::Result<Step> {
        // A cut padding belongs to the frame: the next frame's magic tells.
        let padded = self.end_of(file, at, len, end)?;
        let (from, to) = (self.at, at + padded);
        let overlap = if padded == len { self.begun_before(file, to, end)? } else { 0 };
        self.go_to(to);
        self.overlap = overlap;
        // Steps do not overlap, though frames do.
        let (at, len) = (from, to - from);
        // One call has one `aux`: this one was written again, or is a copy inside a torn frame.
        if self.known.has(key.aux) {
            return Ok(Step::Torn { at, len });
        }
        self.known.insert(key.aux);
        Ok(Step::Frame { at, len, key })
    }

    /// How many bytes before `to`, at most, look like the beginning of a header that goes on behind it.
    fn begun_before(&mut self, file: &impl SpillRead, to: u64, end: u64) -> io::Result<u64> {
        let magic = self.magic.to_le_bytes();
        let last = self.bytes(file, to - (PREFIX as u64 - 1), PREFIX as u64 - 1, end)?;
        let begins = |k: &usize| last[last.len() - k..].starts_with(&magic[..magic.len().min(*k)]);
        Ok((1..=last.len()).rev().find(begins).unwrap_or(0) as u64)
    }

    /// How many bytes before the position the next frame begins, as far as the file tells; `None`: not yet.
    fn begins_early(&mut self, file: &impl SpillRead, end: u64) -> io::Result<Option<u64>> {
        let (at, magic) = (self.at, self.magic.to_le_bytes());
        for early in (1..=self.overlap).rev() {
            let there = self.bytes(file, at - early, PREFIX as u64, end)?;
            let (whole, n) = (there.len() == PREFIX, there.len().min(magic.len()));
            if there[..n] != magic[..n] {
                continue;
            }
            if !whole {
                return Ok(None);
            }
            if !matches!(self.place(file, at - early, end, None)?, Place::Never) {
                return Ok(Some(early));
            }
        }
        Ok(Some(0))
    }

    fn torn(&mut self, to: u64) -> Step {
        let at = self.at;
        self.go_to(to);
        Step::Torn { at, len: to - at }
    }

    /// Bytes from a valid frame to the next one: its padding to 8, unless a frame starts before.
    fn end_of(&mut self, file: &impl SpillRead, at: u64, len: u64, end: u64) -> io::Result<u64> {
        let zeros = crate::lane::round8(len) - len;
        let pad = self.bytes(file, at + len, zeros, end)?;
        Ok(len + pad.iter().take_while(|b| **b == 0).count() as u64)
    }

    /// The next frame behind the position that is not a copy. Goes on where the last look ended.
    fn resync(&mut self, file: &impl SpillRead, end: u64, dead: bool) -> io::Result<Found> {
        // What could not be told when the file was shorter.
        let mut i = 0;
        while let Some(o) = self.search.open.get(i).copied() {
            if o.end > end {
                i += 1;
                continue;
            }
            if self.credit == 0 {
                return Ok(self.overdrawn(end, dead));
            }
            let place = self.place(file, o.at, end, None)?;
            self.search.open.remove(i);
            if let Place::Valid(len, key) = place
                && let Some(found) = self.candidate(o.at, len, key, end, dead)
            {
                return Ok(found);
            }
            if self.work >= self.limit {
                return Ok(Found::More);
            }
        }
        if let Some(m) = self.search.maybe
            && (dead || self.around(m, end).is_none())
        {
            return Ok(Found::Frame(m));
        }
        let last = end - MIN_FRAME;
        let magic = self.magic.to_le_bytes();
        while self.search.to <= last {
            let from = self.search.to;
            let chunk = self.bytes(file, from, (last - from + 8).min(WINDOW as u64), end)?;
            if chunk.len() < 8 {
                return Ok(Found::Nothing); // the file became shorter
            }
            let behind = from + chunk.len() as u64 - 7;
            let starts: Vec<u64> =
                (0u64..).zip(chunk.windows(8)).filter(|(_, w)| *w == magic).map(|(i, _)| from + i).collect();
            self.work = self.work.saturating_add(behind - from);
            for p in starts {
                if p < self.search.to {
                    continue; // inside a valid frame: a copy in a copy
                }
                if self.credit == 0 {
                    self.search.to = p;
                    return Ok(self.overdrawn(end, dead));
                }
                match self.place(file, p, end, None)? {
                    Place::Valid(len, key) => {
                        if let Some(found) = self.candidate(p, len, key, end, dead) {
                            return Ok(found);
                        }
                        // A cut copy that the next frame completes, likewise.
                        let early = self.begun_before(file, p + len, end)?;
                        self.search.to = p + len - early;
                    }
                    // Of a dead owner's file they are torn.
                    Place::Open(_) if dead => self.search.to = p + 1,
                    Place::Open(_) if self.search.open.len() >= Search::OPEN => {
                        self.search.to = p;
                        return Ok(Found::Nothing);
                    }
                    Place::Open(o) => {
                        self.search.open.push(o);
                        self.search.to = p + 1;
                    }
                    Place::Never => self.search.to = p + 1,
                }
                if self.work >= self.limit {
                    return Ok(Found::More);
                }
            }
            self.search.to = self.search.to.max(behind);
            if self.work >= self.limit {
                return Ok(Found::More);
            }
        }
        Ok(match self.search.maybe {
            Some(m) if dead => Found::Frame(m),
            _ => Found::Nothing,
        })
    }

    /// The largest `aux` of a frame around `p` that may still be in progress. What stands in the place of
    /// its key or its record's header is no copy in a payload.
    fn around(&self, p: u64, end: u64) -> Option<u64> {
        let payload = |o: &Open| o.at.saturating_add(MIN_FRAME);
        self.search.open.iter().filter(|o| payload(o) <= p && o.end > end).map(|o| o.aux).max()
    }

    /// Whether the valid frame at `p` is what follows a torn one.
    fn candidate(&mut self, p: u64, len: u64, key: SpillKey, end: u64, dead: bool) -> Option<Found> {
        let copy = self.known.has(key.aux);
        let around = if dead { None } else { self.around(p, end) };
        if !copy && around.is_none_or(|outer| key.aux >= outer || key.aux >= self.known.floor) {
            // What may have been a copy before it stands in a torn frame.
            return Some(Found::Frame(self.search.maybe.map_or(p, |m| m.min(p))));
        }
        self.credit = self.credit.saturating_sub(len);
        if !copy {
            self.search.maybe = Some(self.search.maybe.map_or(p, |m| m.min(p)));
        }
        None
    }

    /// Too much was summed in vain. If what stands first may be a frame in progress, all of it may be
    /// payload: then it is left alone until that is decided.
    fn overdrawn(&self, end: u64, dead: bool) -> Found {
        let first = self.search.open.first().is_some_and(|o| o.end > end);
        if first && !dead { Found::Nothing } else { Found::Overdrawn }
    }
}

enum Found {
    Frame(u64),
    Nothing,
    More,
    Overdrawn,
}

#[cfg(test)]
mod tests {
    use super::*;

    impl SpillRead for Vec<u8> {
        fn spill_len(&self) -> io::Result<u64> {
            Ok(self.len() as u64)
        }
        fn spill_read(&self, at: u64, to: &mut [u8]) -> io::Result<usize> {
            let at = (at as usize).min(self.len());
            let n = to.len().min(self.len() - at);
            to[..n].copy_from_slice(&self[at..at + n]);
            Ok(n)
        }
    }

    const NONCE: u64 = 0x1234_5678_9abc_def0;

    fn key(aux: u64) -> SpillKey {
        SpillKey { slow: SlowKey { thread: 1, t: 8, lost: 0 }, at: 3, aux }
    }

    fn frame(aux: u64, n: usize) -> Vec<u8> {
        around(aux, &(0..n).map(|i| (i as u64 * 7 + aux) as u8).collect::<Vec<u8>>())
    }

    /// A frame around this record.
    fn around(aux: u64, r: &[u8]) -> Vec<u8> {
        let mut crc = Checksum::new(key(aux), r.len() as u64);
        crc.add(r);
        let mut f = crc.prefix(NONCE).to_vec();
        f.extend(r);
        f.resize(crate::lane::round8(f.len() as u64) as usize, 0);
        f
    }

    fn file(parts: &[&[u8]]) -> Vec<u8> {
        let mut f = vec![0; HEADER as usize];
        parts.iter().for_each(|p| f.extend(*p));
        f
    }

    /// A parser and what came of it so far.
    struct Reader {
        p: Parser,
        seen: Vec<u64>,
        torn: u64,
        record: Vec<u8>,
        /// What the last call cost.
        work: u64,
        /// Checks that records are those of [`frame`].
        plain: bool,
    }

    fn from(at: u64) -> Reader {
        Reader { p: Parser::new(NONCE, at), seen: vec![], torn: 0, record: vec![], work: 0, plain: false }
    }

    impl Reader {
        /// Steps until there is nothing to do, `budget` at a time; the last step.
        fn read(&mut self, f: &impl SpillRead, dead: bool, budget: u64) -> Step {
            let end = f.spill_len().expect("a length");
            self.work = 0;
            for _ in 0..1_000_000 {
                let mut left = budget;
                let step = self.p.next(f, end, dead, &mut left, &mut self.record);
                self.work += self.p.work;
                self.p.work = 0;
                match step {
                    Step::Frame { key, .. } => {
                        let whole = |(i, b): (usize, &u8)| *b == (i as u64 * 7 + key.aux) as u8;
                        assert!(!self.plain || self.record.iter().enumerate().all(whole));
                        self.seen.push(key.aux);
                    }
                    Step::Torn { len, .. } => self.torn += len,
                    Step::More => {}
                    last => return last,
                }
            }
            panic!("it does not come to an end");
        }
    }

    /// All frames' `aux`, how much is torn, and whether the parser waits before the end.
    fn parse(f: &Vec<u8>, dead: bool) -> (Vec<u64>, u64, bool) {
        let all = [u64::MAX, 1].map(|budget| {
            let mut r = from(0);
            r.plain = true;
            assert_eq!(r.read(f, dead, budget), Step::Wait);
            (r.seen, r.torn, r.p.at < f.len() as u64)
        });
        assert_eq!(all[0], all[1], "the budget changes what is found");
        let [all, _] = all;
        all
    }

    #[test]
    fn a_cut_at_every_byte_waits_for_a_live_owner_and_is_dropped_for_a_dead_one() {
        let (a, b, c) = (frame(1, 30), frame(2, 100), frame(3, 41));
        let b_len = frame_len(100) as usize;
        for cut in 0..b_len {
            let f = file(&[&a, &b[..cut]]);
            assert_eq!(parse(&f, false), (vec![1], 0, cut > 0), "cut {cut}");
            assert_eq!(parse(&f, true), (vec![1], cut as u64, false), "cut {cut}");
            // Another writer's frame right behind the torn one, at whatever offset.
            let f = file(&[&a, &b[..cut], &c, &b]);
            assert_eq!(parse(&f, false), (vec![1, 3, 2], cut as u64, false), "cut {cut}");
        }
        for cut in b_len..=b.len() {
            assert_eq!(parse(&file(&[&a, &b[..cut], &c]), false), (vec![1, 2, 3], 0, false), "padding {cut}");
        }
    }

    #[test]
    fn every_flipped_byte_costs_its_own_frame_only() {
        let (a, b, c) = (frame(1, 30), frame(2, 64), frame(3, 41));
        for i in 0..frame_len(64) as usize {
            let mut bad = b.clone();
            bad[i] ^= 0x41;
            let (seen, ..) = parse(&file(&[&a, &bad, &c]), false);
            assert_eq!(seen, vec![1, 3], "byte {i}");
        }
    }

    #[test]
    fn an_exact_double_is_dropped() {
        let (a, b) = (frame(1, 30), frame(2, 64));
        assert_eq!(parse(&file(&[&a, &b, &b, &a]), false).0, vec![1, 2]);
        assert_eq!(parse(&file(&[&a, &b[..40], &b]), false).0, vec![1, 2]);
    }

    #[test]
    fn frames_larger_than_the_window_and_a_magic_across_its_edge() {
        let big = frame(1, WINDOW * 3);
        for shift in 0..16 {
            let junk = vec![0x55; WINDOW - 8 + shift];
            let f = file(&[&big, &junk, &frame(2, 60)]);
            assert_eq!(parse(&f, false), (vec![1, 2], junk.len() as u64, false));
        }
    }

    #[test]
    fn false_frames_cost_no_more_than_the_credit() {
        // A magic every 16 bytes, each with a length that there is room for.
        let mut f = file(&[]);
        let n = (256 << 10) / 16u64;
        for i in 0..n {
            f.extend(magic(NONCE).to_le_bytes());
            f.extend(((n - i) as u32 * 16).saturating_sub(i as u32 % 64).max(72).to_le_bytes());
            f.extend([0x5a; 4]);
        }
        f.extend([0; 4096]);
        for dead in [false, true] {
            let mut r = from(0);
            let budget = 1 << 20;
            for _ in 0..1000 {
                let mut left = budget;
                let step = r.p.next(&f, f.len() as u64, dead, &mut left, &mut r.record);
                // A frame and the window it may need, beyond the budget.
                assert!(r.p.work <= budget + 2 * f.len() as u64, "{} bytes in one step", r.p.work);
                r.work += r.p.work;
                if step != Step::More {
                    assert_eq!(step, Step::Overdrawn);
                    break;
                }
            }
            assert!(r.work < 4 * CREDIT, "{} bytes in all", r.work);
        }
    }

    #[test]
    fn what_waits_is_looked_at_once() {
        let (a, b) = (frame(1, 30), frame(2, 3 << 20));
        let mut f = file(&[&a, &b[..2 << 20]]);
        let mut r = from(0);
        r.read(&f, false, u64::MAX);
        assert!(r.p.waits() && r.p.settled(f.len() as u64, false));
        r.read(&f, false, u64::MAX);
        assert_eq!(r.work, 0);
        // Growing page by page costs what came, not what is there.
        for cut in ((2 << 20)..b.len()).step_by(4096).skip(1) {
            f.extend(&b[f.len() - HEADER as usize - a.len()..cut]);
            r.read(&f, false, u64::MAX);
            assert!(r.work < 4 * 4096, "{} bytes for 4096 new ones", r.work);
        }
        f.extend(&b[f.len() - HEADER as usize - a.len()..]);
        r.read(&f, false, u64::MAX);
        assert_eq!(r.seen, [1, 2]);
    }

    #[test]
    fn frames_in_a_payload_are_payload() {
        let (a, b) = (frame(1, 30), frame(2, 100));
        // The record's header stands before its payload.
        let copy = [&[0; 24][..], &a, &b, &a, &[0x11; 500]].concat();
        let outer = around(9, &copy);
        let outer2 = around(12, &[&[0; 24][..], &outer].concat());
        // From the beginning, and from a restart right before the frame in question.
        for (before, last, aux) in [(vec![&a, &b], &outer, 9), (vec![&a, &b, &outer], &outer2, 12)] {
            let before = before.into_iter().flatten().copied().collect::<Vec<u8>>();
            for cut in 0..last.len() {
                for start in [0, HEADER + before.len() as u64] {
                    let mut r = from(start);
                    r.read(&file(&[&before, &last[..cut]]), false, u64::MAX);
                    r.read(&file(&[&before, last]), false, u64::MAX);
                    let all = [1, 2, 9, 12].into_iter().filter(|n| *n == aux || start == 0 && *n < aux);
                    assert_eq!((r.seen, r.torn), (all.collect(), 0), "cut {cut}");
                }
            }
        }
    }

    #[test]
    fn what_follows_a_torn_frame_is_found_and_the_copies_in_it_are_not() {
        let (a, b) = (frame(1, 30), frame(2, 100));
        let outer = around(9, &[&[0; 24][..], &a, &b, &a, &[0x11; 500]].concat());
        for cut in 1..frame_len(0) as usize + 24 + a.len() + b.len() + a.len() + 400 {
            // An earlier `aux` that was appended later, the frame written again, a later one.
            for (next, aux) in [(frame(8, 40), 8), (outer.clone(), 9), (frame(10, 40), 10)] {
                let mut r = from(0);
                r.read(&file(&[&a, &b, &outer[..cut]]), false, u64::MAX);
                assert_eq!(r.seen, [1, 2]);
                r.read(&file(&[&a, &b, &outer[..cut], &next]), false, u64::MAX);
                assert_eq!(r.seen, [1, 2, aux], "cut {cut}");
            }
            let mut r = from(0);
            r.read(&file(&[&a, &b, &outer[..cut]]), true, u64::MAX);
            assert_eq!((&r.seen[..], r.p.at), (&[1, 2][..], HEADER + (a.len() + b.len() + cut) as u64));
        }
    }

    #[test]
    fn after_a_restart_a_frame_with_an_earlier_aux_waits_for_proof() {
        let (a, torn, late) = (frame(1, 30), frame(9, 4000), frame(8, 40));
        let mut r = from(HEADER + a.len() as u64);
        let mut f = file(&[&a, &torn[..2000], &late]);
        assert_eq!(r.read(&f, false, u64::MAX), Step::Wait);
        assert_eq!(r.seen, [0; 0]);
        let mut dead = from(HEADER + a.len() as u64);
        dead.read(&f, true, u64::MAX);
        assert_eq!(dead.seen, [8]);
        let mut long = f.clone();
        long.extend([7; 4000]);
        r.read(&long, false, u64::MAX);
        assert_eq!(r.seen, [8]);
        let mut r = from(HEADER + a.len() as u64);
        r.read(&f, false, u64::MAX);
        f.extend(frame(10, 40));
        r.read(&f, false, u64::MAX);
        assert_eq!(r.seen, [8, 10]);
    }

    /// Cut after so many reads.
    struct Shrinking(Vec<u8>, usize, std::cell::Cell<u32>);
    impl SpillRead for Shrinking {
        fn spill_len(&self) -> io::Result<u64> {
            self.0.spill_len()
        }
        fn spill_read(&self, at: u64, to: &mut [u8]) -> io::Result<usize> {
            self.2.set(self.2.get().wrapping_sub(1));
            if self.2.get() < u32::MAX / 2 {
                self.0.spill_read(at, to)
            } else {
                self.0[..self.1].to_vec().spill_read(at, to)
            }
        }
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_no_panic() {
        let f = file(&[&frame(1, WINDOW * 2 - 3), &frame(2, 77), &frame(3, WINDOW + 5)]);
        for reads in 0..8 {
            for cut in [0, 10, HEADER as usize, 5000, WINDOW, WINDOW * 2, WINDOW * 2 + 5000] {
                let f = Shrinking(f.clone(), cut, std::cell::Cell::new(reads));
                for dead in [false, true] {
                    from(0).read(&f, dead, u64::MAX);
                }
            }
        }
    }

    struct Failing(Vec<u8>, std::cell::Cell<u32>);
    impl SpillRead for Failing {
        fn spill_len(&self) -> io::Result<u64> {
            self.0.spill_len()
        }
        fn spill_read(&self, at: u64, to: &mut [u8]) -> io::Result<usize> {
            if self.1.get() == 0 {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.1.set(self.1.get() - 1);
            self.0.spill_read(at, to)
        }
    }

    #[test]
    fn an_error_decides_nothing() {
        let torn = [&frame(2, 300)[..100], &vec![0x55; WINDOW][..]].concat();
        let f = file(&[&frame(1, WINDOW * 2 - 3), &torn, &frame(3, 77)]);
        for reads in 0.. {
            let f = Failing(f.clone(), std::cell::Cell::new(reads));
            let mut r = from(0);
            if r.read(&f, true, 1) == Step::Wait {
                assert!(reads > 2);
                break;
            }
            assert!(r.p.at < f.0.len() as u64 && !r.p.settled(f.0.len() as u64, true));
            assert_eq!(r.read(&f, true, u64::MAX), Step::Unreadable(5));
            f.1.set(u32::MAX);
            assert_eq!(r.read(&f, true, u64::MAX), Step::Wait);
            assert_eq!((&r.seen[..], r.torn), (&[1, 3][..], torn.len() as u64), "after {reads} reads");
        }
    }

    /// A file of any length with nothing but one header at its end.
    struct Endless(u64);
    impl SpillRead for Endless {
        fn spill_len(&self) -> io::Result<u64> {
            Ok(self.0)
        }
        fn spill_read(&self, _: u64, to: &mut [u8]) -> io::Result<usize> {
            to.fill(0);
            let head = frame(1, 100);
            let n = to.len().min(head.len());
            to[..n].copy_from_slice(&head[..n]);
            Ok(to.len())
        }
    }

    #[test]
    fn no_position_overflows() {
        for at in [0, 1, u64::MAX - 200, u64::MAX - 100, u64::MAX - 1, u64::MAX] {
            for end in [0, 1, HEADER, HEADER + 1, u64::MAX - 150, u64::MAX - 1, u64::MAX] {
                if end > HEADER + 1 && at < HEADER {
                    continue; // as long as it says
                }
                for dead in [false, true] {
                    let mut r = from(at);
                    r.read(&Endless(end), dead, u64::MAX);
                    r.p.skip_to(u64::MAX);
                    assert_eq!(r.read(&Endless(end), dead, 1), Step::Wait);
                }
            }
        }
    }

    #[test]
    fn the_memory_of_keys_is_bounded() {
        let mut k = Known::default();
        for aux in (0..20_000).rev().chain(u64::MAX - 3..=u64::MAX) {
            k.insert(aux);
            k.insert(aux);
        }
        assert_eq!((k.ranges.len(), k.floor), (2, 0));
        assert!(k.has(0) && k.has(19_999) && !k.has(20_000) && k.has(u64::MAX));
        let mut k = Known::default();
        (0..3 * Known::RANGES as u64).for_each(|i| k.insert(i * 2));
        assert_eq!(k.ranges.len(), Known::RANGES);
        assert_eq!(k.floor, 4 * Known::RANGES as u64 - 1);
    }

    use proptest::prelude::*;

    /// What may stand in a file.
    fn piece() -> impl Strategy<Value = (u8, Vec<u8>, u16)> {
        (0u8..6, proptest::collection::vec(any::<u8>(), 0..120), any::<u16>())
    }

    /// The piece's bytes; `next` gives the key of a new frame. And that key, if it is whole.
    fn bytes_of((kind, r, n): &(u8, Vec<u8>, u16), next: &mut u64, f: &[u8]) -> (Vec<u8>, Option<u64>) {
        *next += 1;
        let old = &f[HEADER as usize..];
        let old = &old[old.len() - old.len().min(usize::from(*n))..];
        let record = [&[0; 24][..], r].concat();
        match kind {
            0 => (r.clone(), None),
            // A header that claims something.
            1 => {
                let len = MIN_FRAME as u32 + u32::from(*n % 1024);
                ([&magic(NONCE).to_le_bytes()[..], &len.to_le_bytes(), r].concat(), None)
            }
            // Torn, with copies of what stands before it or without.
            2 | 3 => {
                let b = around(*next, &[&record[..], if *kind == 2 { old } else { &[] }].concat());
                // It lacks more than what follows may complete by chance: that is the test below.
                (b[..usize::from(*n) % (b.len() - PREFIX - 7)].to_vec(), None)
            }
            4 => (around(*next, &[&record[..], old].concat()), Some(*next)),
            _ => (around(*next, &record), Some(*next)),
        }
    }

    /// A frame that lacks what the next one begins with, then that: both are there, however the file grows.
    #[test]
    fn a_frame_that_the_next_one_completes() {
        let first = magic(NONCE).to_le_bytes();
        for k in 1..8 {
            let record = [&[0; 24 + 16][..], &[7; 8][k..], &first[..k]].concat();
            let (torn, next) = (around(1, &record), around(2, &[5; 40]));
            assert_eq!(torn.len(), PREFIX + record.len());
            let f = file(&[&torn[..torn.len() - k], &next, &around(3, &[6; 24])]);
            for dead in [false, true] {
                let mut r = from(0);
                r.read(&f, dead, u64::MAX);
                assert_eq!((r.seen, r.p.at), (vec![1, 2, 3], f.len() as u64), "{k}");
            }
            for cut in HEADER as usize..f.len() {
                let mut r = from(0);
                r.read(&f[..cut].to_vec(), false, u64::MAX);
                r.read(&f, false, u64::MAX);
                assert_eq!((r.seen, r.p.at), (vec![1, 2, 3], f.len() as u64), "{k} {cut}");
            }
        }
        // More than the magic, out of a record that ends in a copy of a frame's beginning.
        let next = around(2, &[5; 40]);
        for k in 8..PREFIX {
            let record = [&[0; 24 + 64][..], &vec![7; 64 - k], &next[..k]].concat();
            let torn = around(1, &record);
            let f = file(&[&torn[..torn.len() - k], &next]);
            for cut in HEADER as usize..=f.len() {
                let mut r = from(0);
                r.read(&f[..cut].to_vec(), false, u64::MAX);
                r.read(&f, false, u64::MAX);
                assert_eq!((r.seen, r.p.at), (vec![1, 2], f.len() as u64), "{k} {cut}");
            }
        }
        // The same bytes at the end of a frame that nothing overlaps.
        let record = [&[0; 24 + 16][..], &first].concat();
        for record in [&record[..], &record[..41]] {
            let f = file(&[&around(1, record), &around(2, &[5; 40])]);
            for cut in HEADER as usize..f.len() {
                let mut r = from(0);
                r.read(&f[..cut].to_vec(), false, u64::MAX);
                r.read(&f, false, u64::MAX);
                assert_eq!((r.seen, r.p.at), (vec![1, 2], f.len() as u64), "{cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn valid_frames_behind_garbage_are_found(
            pieces in proptest::collection::vec(piece(), 1..20),
            looks in proptest::collection::vec((any::<proptest::sample::Index>(), 1u64..2000), 0..6),
            restart in any::<Option<proptest::sample::Index>>(),
        ) {
            let (mut f, mut all, mut next) = (file(&[]), vec![], 0);
            for p in &pieces {
                let (b, whole) = bytes_of(p, &mut next, &f);
                f.extend(b);
                all.extend(whole);
            }
            let mut looks: Vec<(usize, u64)> = looks.iter().map(|(i, n)| (i.index(f.len()), *n)).collect();
            looks.sort_unstable();
            let (mut r, mut early) = (from(0), vec![]);
            let restart = restart.map(|i| i.index(looks.len() + 1));
            for (i, (cut, budget)) in looks.into_iter().enumerate() {
                r.read(&f[..cut.max(HEADER as usize)].to_vec(), false, budget);
                if restart == Some(i) {
                    early = r.seen;
                    r = from(r.p.at);
                }
            }
            r.read(&f, false, 700);
            r.read(&f, true, 700);
            prop_assert_eq!(r.p.at, f.len() as u64);
            let mut got = [early, r.seen].concat();
            if restart.is_some() {
                // Twice is possible then, of copies in torn frames; nothing is missing.
                got.sort_unstable();
                got.dedup();
            }
            prop_assert_eq!(got, all);
        }

        #[test]
        fn nothing_panics_and_the_work_is_bounded(
            pieces in proptest::collection::vec(piece(), 1..20),
            changes in proptest::collection::vec(
                (any::<proptest::sample::Index>(), any::<u8>(), 0u8..3, any::<bool>()), 0..20),
        ) {
            let (mut f, mut next) = (file(&[]), 0);
            let mut r = from(0);
            for p in &pieces {
                let b = bytes_of(p, &mut next, &f).0;
                f.extend(b);
            }
            for (i, byte, how, dead) in changes {
                let i = HEADER as usize + i.index(f.len() - HEADER as usize + 1);
                match how {
                    0 if i < f.len() => f[i] ^= byte,
                    1 => f.truncate(i),
                    _ => f.extend(frame(u64::from(byte), 50)),
                }
                r.read(&f, dead, 300);
                // A byte is summed once for each plausible header before it.
                r.read(&f, !dead, u64::MAX);
                prop_assert!(r.work <= (pieces.len() as u64 + 10) * f.len() as u64);
            }
        }
    }
}
