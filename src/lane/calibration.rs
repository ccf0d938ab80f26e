//! The clock calibration in `ctl`: a seqlock with one writer, the drain, and any number of readers.
//!
//! The sequence word is odd while the line is written. A drain that is killed there leaves it odd, with
//! any mixture of two lines behind it, until the next drain writes: so a reader looks a bounded number of
//! times, and a writer sets the parity instead of toggling it.
//!
//! No fences: the words of the line are stored with release and loaded with acquire. Whoever loads a word
//! of a new line (`odd:A`) sees the odd number that was stored before it (`odd:R`) when it looks again.

use crate::sync::{Ordering::*, Word};

/// UTC = `utc` + (ticks − `ticks`) × `mult` / 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Ticks of the anchor.
    pub ticks: u64,
    /// UTC of the anchor, ns since the epoch (two's complement).
    pub utc: u64,
    /// ns per tick, 2^-32 fixed point.
    pub mult: u64,
}

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole line.
    Line(Line),
    /// No drain has written one yet.
    Never,
    /// At every look it was being written: by a drain that was killed or stopped in it, or that is
    /// faster than this reader.
    Unfinished,
}

/// The four words.
pub struct Calibration<'a, W> {
    /// Odd while the others are written, 0 = never written.
    pub seq: &'a W,
    /// [`Line::ticks`].
    pub ticks: &'a W,
    /// [`Line::utc`].
    pub utc: &'a W,
    /// [`Line::mult`].
    pub mult: &'a W,
}

impl<W: Word> Calibration<'_, W> {
    /// Writes the line. Only the present drain may: one writer at a time.
    pub fn write(&self, line: Line) {
        // The dead writer before this one may have left it odd: set, not toggled, so that it is odd from
        // here on whatever it was.
        let odd = self.seq.load(Relaxed) | 1;
        self.seq.store(odd, Relaxed);
        // odd:R, each of them: whoever sees one of these words sees the odd number.
        self.ticks.store(line.ticks, Release);
        self.utc.store(line.utc, Release);
        self.mult.store(line.mult, Release);
        // 0 is for "never", also when the number wraps. cal:R, pairs with cal:A
        self.seq.store(odd.wrapping_add(1).max(2), Release);
    }

    /// Reads the line, in at most `looks` looks. Never waits.
    pub fn read(&self, looks: u32) -> Found {
        for _ in 0..looks {
            let before = self.seq.load(Acquire); // cal:A, pairs with cal:R
            if before == 0 {
                return Found::Never;
            }
            if before & 1 == 1 {
                continue;
            }
            // odd:A, each of them.
            let line = Line {
                ticks: self.ticks.load(Acquire),
                utc: self.utc.load(Acquire),
                mult: self.mult.load(Acquire),
            };
            // The second look. Had one of these words been of a later line, its odd number were seen here.
            if self.seq.load(Relaxed) == before {
                return Found::Line(line);
            }
        }
        Found::Unfinished
    }
}
