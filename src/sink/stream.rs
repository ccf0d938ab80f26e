//! The sink that writes to one or two descriptors.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use super::output::Out;
use super::rotate::Rotation;
use super::{Dest, Format, Formatter, Gap, Json, Output, Raw, Sink, SinkSpec, Take, Text, Watch, WriteEnd};
use crate::error::Result;
use crate::journal::Entry;
use crate::sys::FileId;

/// Limit: bytes of the end of a file that are compared on restart. More than one write of a sink.
const MAX_COMPARED: u64 = 8 << 20;
/// How often a file is looked for at its place.
const LOOK: Duration = Duration::from_millis(400);
/// A buffer that has grown beyond this is given back.
const KEEP: usize = 1 << 20;

/// Writes to stdout, stderr, both, or a file.
pub struct Stream {
    format: Box<dyn Formatter>,
    take: Take,
    buf: Vec<u8>,
    /// Where the buffer goes: up to which byte, and whither. The last one goes to the end.
    runs: Vec<(usize, Dest)>,
    dest: Dest,
    written: u64,
    /// Bytes that are not to be written: they are there already.
    skip: u64,
    /// The end of the file that is to be compared with what comes.
    there: Vec<u8>,
    outs: [Option<Out>; 2],
    path: Option<std::path::PathBuf>,
    /// When the file was last looked for at its place.
    looked: Instant,
    /// It could not be opened anew, which was told.
    told: bool,
    rotation: Option<Rotation>,
}

impl Stream {
    /// Opens the outputs.
    ///
    /// # Errors
    /// [`Code::Os`](crate::error::Code::Os), `Permission`, `NoSpace`: an output cannot be opened.
    pub fn open(spec: &SinkSpec) -> Result<Stream> {
        let apart = spec.output == Output::StdoutStderr && spec.format == Format::Raw;
        let outs = match &spec.output {
            Output::Stdout => [Some(Out::standard(false)?), None],
            Output::Stderr => [Some(Out::standard(true)?), None],
            Output::StdoutStderr => [Some(Out::standard(false)?), Some(Out::standard(true)?)],
            Output::File(path) => [Some(Out::append(path)?), None],
        };
        let format: Box<dyn Formatter> = match spec.format {
            Format::Raw => Box::new(Raw::new(apart)),
            Format::Text => Box::new(Text::new()),
            Format::Json => Box::new(Json::new()),
        };
        let path = match &spec.output {
            Output::File(path) => Some(path.clone()),
            _ => None,
        };
        let regular = outs[0].as_ref().is_some_and(|o| o.regular().is_some());
        let rotation = match (spec.rotate, &path) {
            (Some(rule), Some(path)) if regular => Rotation::new(rule, path),
            _ => None,
        };
        Ok(Stream {
            rotation,
            format,
            take: spec.take,
            buf: Vec::new(),
            runs: Vec::new(),
            dest: Dest::Out,
            written: 0,
            skip: 0,
            there: Vec::new(),
            outs,
            path,
            looked: Instant::now(),
            told: false,
        })
    }

    /// What was appended since the buffer was `from` bytes long goes to `dest`.
    #[inline]
    fn went(&mut self, from: usize, dest: Dest) {
        if dest != self.dest && self.buf.len() > from {
            if from > 0 {
                self.runs.push((from, self.dest));
            }
            self.dest = dest;
        }
    }

    /// After a cursor was saved (or before any was needed): nothing names a file that was moved away.
    fn tidy(&mut self, watch: Option<&dyn Watch>) {
        if self.there.is_empty()
            && let Some(r) = &mut self.rotation
        {
            r.tidy(watch);
        }
    }

    /// Bytes at the beginning of the buffer that the output has already.
    fn already(&mut self) -> usize {
        let skip = self.skip.min(self.buf.len() as u64);
        self.skip -= skip;
        let skip = skip as usize;
        if self.there.is_empty() {
            return skip;
        }
        let (new, there) = (&self.buf[skip..], std::mem::take(&mut self.there));
        let same = new.iter().zip(&there).take_while(|(a, b)| a == b).count();
        if same == there.len() {
            // All that is there is ours; a kill may have cut it anywhere.
            skip + same
        } else if same == new.len() {
            self.there = there[same..].to_vec();
            skip + same
        } else {
            // Somebody else's bytes begin: whole lines up to there are ours.
            skip + new[..same].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)
        }
    }
}

impl Sink for Stream {
    #[inline]
    fn entry(&mut self, e: &Entry<'_>) -> usize {
        if self.take.wants(e) {
            let from = self.buf.len();
            let dest = self.format.entry(e, &mut self.buf);
            self.went(from, dest);
        }
        self.buf.len()
    }

    fn gap(&mut self, gap: &Gap) {
        if self.take != Take::Stdout {
            let from = self.buf.len();
            let dest = self.format.gap(gap, &mut self.buf);
            self.went(from, dest);
        }
    }

    fn buffered(&self) -> usize {
        self.buf.len()
    }

    fn flush(&mut self, watch: &dyn Watch) -> std::result::Result<(), WriteEnd> {
        self.follow_file(watch);
        self.tidy(Some(watch));
        let skip = self.already();
        self.written = skip as u64;
        let mut at = 0;
        let last = (self.buf.len(), self.dest);
        for &(end, dest) in self.runs.iter().chain([&last]) {
            let from = at.max(skip).min(end);
            at = end;
            let [first, second] = &mut self.outs;
            let out = if dest == Dest::Err && second.is_some() { second } else { first };
            let Some(out) = out else { continue };
            let mut rest = &self.buf[from..end];
            while let Some(r) = self.rotation.as_mut().filter(|_| !rest.is_empty()) {
                let n = r.take(rest);
                if n == 0 {
                    r.rotate(out, watch);
                    continue;
                }
                out.write_all(&rest[..n], &mut self.written, watch)?;
                r.wrote(&rest[..n]);
                rest = &rest[n..];
            }
            out.write_all(rest, &mut self.written, watch)?;
        }
        self.runs.clear();
        self.dest = Dest::Out;
        self.written = 0;
        self.buf.clear();
        self.buf.shrink_to(KEEP);
        Ok(())
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn skip(&mut self, bytes: u64) {
        self.skip = bytes;
    }

    fn skipping(&self) -> u64 {
        self.skip
    }

    fn file(&self) -> Option<(FileId, u64)> {
        self.path.as_ref()?;
        self.outs[0].as_ref()?.regular()
    }

    fn follow_file(&mut self, watch: &dyn Watch) {
        let (Some(path), Some(out)) = (&self.path, &self.outs[0]) else { return };
        // Not while what stands at its end is compared with what comes: that is quickly over.
        if !self.there.is_empty() {
            return;
        }
        let asked = watch.reopen();
        if !asked && self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        // Only a regular file is moved away.
        let Some((id, _)) = out.regular() else { return };
        let there = std::fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (id.dev, id.ino));
        if there && !asked {
            return;
        }
        match Out::append(path) {
            Ok(new) => {
                self.outs[0] = Some(new);
                if let Some(r) = &mut self.rotation {
                    r.begun_anew();
                }
                if std::mem::take(&mut self.told) {
                    watch.say("its file is at its place again");
                }
            }
            Err(e) if !std::mem::replace(&mut self.told, true) => {
                watch.say(&format!("{e}; until then it writes to the file that was moved away"));
            }
            Err(_) => {}
        }
    }

    fn is_standard(&self) -> bool {
        self.path.is_none()
    }

    fn resume(&mut self, (id, len): (FileId, u64)) -> bool {
        let (Some((now, end)), Some(path)) = (self.file(), &self.path) else { return false };
        if now != id {
            // It may have been moved away before the kill.
            let behind = self.rotation.as_ref().and_then(|r| r.behind(id, len, MAX_COMPARED));
            self.there = behind.unwrap_or_default();
            return !self.there.is_empty();
        }
        if end <= len {
            return false;
        }
        // A file that may be written and not read is not compared.
        let Ok(file) = File::open(path) else { return false };
        let mut there = vec![0; (end - len).min(MAX_COMPARED) as usize];
        let mut n = 0;
        while n < there.len() {
            match file.read_at(&mut there[n..], len + n as u64) {
                Ok(0) => break,
                Ok(k) => n += k,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        there.truncate(n);
        self.there = there;
        true
    }

    fn formatter(&mut self) -> &mut dyn Formatter {
        &mut *self.format
    }

    fn settle(&mut self, now_ms: Option<u64>) {
        self.tidy(None);
        let from = self.buf.len();
        self.format.settle(now_ms, &mut self.buf);
        self.went(from, Dest::Out);
    }

    fn finish(&mut self) {
        let from = self.buf.len();
        self.format.finish(&mut self.buf);
        self.went(from, Dest::Out);
    }
}
