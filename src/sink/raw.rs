//! The exact bytes.
//!
//! Captured output byte for byte, whatever it is. A log record is its message as it is and a newline.
//! Losses and notes are lines that begin with `spillring: `. What is not captured output begins at the
//! beginning of a line: where the output stands within one, a newline comes first.

use super::formats::Formats;
use super::text::loss_text;
use super::time::Clock;
use super::{Dest, Formatter, Gap, Held, is_stderr};
use crate::journal::{Entry, kind};

/// Passes bytes on. Does no I/O; holds nothing back.
#[derive(Debug, Default)]
pub struct Raw {
    formats: Formats,
    clock: Clock,
    /// Whether stdout and stderr go to places of their own.
    apart: bool,
    /// Whether a line is unfinished, for each of the two.
    within: [bool; 2],
}

impl Raw {
    /// `apart`: stdout and stderr go to places of their own; log records, losses and notes go with stderr.
    pub fn new(apart: bool) -> Raw {
        Raw { apart, ..Raw::default() }
    }

    fn own_line(&mut self, out: &mut Vec<u8>) -> Dest {
        let dest = if self.apart { Dest::Err } else { Dest::Out };
        if std::mem::take(&mut self.within[dest as usize]) {
            out.push(b'\n');
        }
        dest
    }
}

impl Formatter for Raw {
    #[inline]
    fn entry(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) -> Dest {
        let dest = match e.kind {
            kind::OUTPUT => {
                let dest = if self.apart && is_stderr(e) { Dest::Err } else { Dest::Out };
                if let Some(last) = e.payload.last() {
                    self.within[dest as usize] = *last != b'\n';
                    out.extend_from_slice(e.payload);
                }
                return dest;
            }
            kind::LOG => {
                let dest = self.own_line(out);
                self.formats.message(e, out);
                dest
            }
            kind::LOSS => {
                let dest = self.own_line(out);
                out.extend_from_slice(b"spillring: lost ");
                loss_text(&mut self.clock, e, out);
                dest
            }
            kind::NOTE => {
                let dest = self.own_line(out);
                out.extend_from_slice(b"spillring: ");
                out.extend_from_slice(e.payload);
                dest
            }
            // A kind of a later version.
            _ => return Dest::Out,
        };
        out.push(b'\n');
        dest
    }

    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) -> Dest {
        let dest = self.own_line(out);
        out.extend_from_slice(format!("spillring: lost {gap}\n").as_bytes());
        dest
    }

    fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for (stderr, open) in [(false, self.within[0]), (true, self.within[1])] {
            if open {
                held.push(Held { stderr, open, first: u64::MAX, ..Held::default() });
            }
        }
        held
    }

    fn restore(&mut self, held: &[Held]) {
        self.within = [false, true].map(|stderr| held.iter().any(|h| h.open && h.stderr == stderr));
    }
}
