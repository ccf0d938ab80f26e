//! How far a sink has delivered, in `sink-NAME.cursor` beside the journal.
//!
//! Saved after every write to the output. Two slots are written in turn, so that a process killed
//! while it writes one leaves the other. Not synced: what a sink delivers is promised over the death of
//! processes, not of the machine.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Held, check_name};
use crate::error::{Code, Error, Result};
use crate::journal::Position;
use crate::layout::sink::cursor as c;
use crate::layout::sink::held as h;
use crate::sys::FileId;

/// What a sink knows of its progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Where to read from.
    pub position: Position,
    /// The first record that is not delivered; records before it are read only for what is `held`.
    pub next: u64,
    /// So many bytes of the text from `next` on are delivered nevertheless.
    pub skip: u64,
    /// Records delivered since the sink exists.
    pub records: u64,
    /// Bytes delivered since the sink exists.
    pub bytes: u64,
    /// Emitted time of the last delivered record, ns since the epoch.
    pub last_utc: i64,
    /// The output file and its length after the last write.
    pub file: Option<(FileId, u64)>,
    /// Nothing was written behind this cursor.
    pub clean: bool,
    /// Unfinished lines.
    pub held: Vec<Held>,
}

fn put(b: &mut [u8], at: u64, v: &[u8]) {
    b[at as usize..at as usize + v.len()].copy_from_slice(v);
}
fn u32_at(b: &[u8], at: u64) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at as usize..at as usize + 4)?.try_into().ok()?))
}
fn u64_at(b: &[u8], at: u64) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at as usize..at as usize + 8)?.try_into().ok()?))
}

impl Cursor {
    /// The bytes of a slot.
    pub fn encode(&self, seq: u64) -> [u8; c::SLOT as usize] {
        let mut o = [0; c::SLOT as usize];
        let held = &self.held[..self.held.len().min(c::MAX_HELD)];
        put(&mut o, c::CUR_MAGIC, &c::MAGIC.to_le_bytes());
        put(&mut o, c::CUR_VERSION, &c::VERSION.to_le_bytes());
        put(&mut o, c::CUR_SEQ, &seq.to_le_bytes());
        put(&mut o, c::CUR_FLAGS, &(if self.clean { c::CLEAN } else { 0 }).to_le_bytes());
        put(&mut o, c::CUR_HELD_COUNT, &(held.len() as u32).to_le_bytes());
        put(&mut o, c::CUR_NEXT, &self.next.to_le_bytes());
        put(&mut o, c::CUR_SKIP, &self.skip.to_le_bytes());
        put(&mut o, c::CUR_RECORDS, &self.records.to_le_bytes());
        put(&mut o, c::CUR_BYTES, &self.bytes.to_le_bytes());
        put(&mut o, c::CUR_LAST_UTC, &self.last_utc.to_le_bytes());
        let (id, len) = self.file.unwrap_or_default();
        put(&mut o, c::CUR_DEV, &id.dev.to_le_bytes());
        put(&mut o, c::CUR_INO, &id.ino.to_le_bytes());
        put(&mut o, c::CUR_LEN, &len.to_le_bytes());
        put(&mut o, c::CUR_POSITION, &self.position.to_bytes());
        for (i, x) in held.iter().enumerate() {
            let at = c::CUR_HELD + i as u64 * h::LEN;
            put(&mut o, at + h::HELD_NONCE, &x.nonce.to_le_bytes());
            put(&mut o, at + h::HELD_THREAD, &x.thread.to_le_bytes());
            put(&mut o, at + h::HELD_FIRST, &x.first.to_le_bytes());
            put(&mut o, at + h::HELD_SKIP, &x.skip.to_le_bytes());
            let flags = x.flags();
            put(&mut o, at + h::HELD_FLAGS, &flags.to_le_bytes());
        }
        let crc = crc32c::crc32c(&o);
        put(&mut o, c::CUR_CRC, &crc.to_le_bytes());
        o
    }

    /// The cursor in a slot and its number; `None`: there is no sound one.
    pub fn decode(slot: &[u8]) -> Option<(u64, Cursor)> {
        let mut o = slot.get(..c::SLOT as usize)?.to_vec();
        let crc = u32_at(&o, c::CUR_CRC)?;
        put(&mut o, c::CUR_CRC, &[0; 4]);
        let sound = u64_at(&o, c::CUR_MAGIC)? == c::MAGIC
            && u32_at(&o, c::CUR_VERSION)? == c::VERSION
            && crc32c::crc32c(&o) == crc;
        let count = u32_at(&o, c::CUR_HELD_COUNT)? as usize;
        if !sound || count > c::MAX_HELD {
            return None;
        }
        let mut held = Vec::new();
        for i in 0..count as u64 {
            let at = c::CUR_HELD + i * h::LEN;
            let flags = u32_at(&o, at + h::HELD_FLAGS)?;
            held.push(Held {
                nonce: u64_at(&o, at + h::HELD_NONCE)?,
                thread: u64_at(&o, at + h::HELD_THREAD)?,
                stderr: flags & h::STDERR != 0,
                broken: flags & h::BROKEN != 0,
                open: flags & h::OPEN != 0,
                first: u64_at(&o, at + h::HELD_FIRST)?,
                skip: u32_at(&o, at + h::HELD_SKIP)?,
            });
        }
        let id = FileId { dev: u64_at(&o, c::CUR_DEV)?, ino: u64_at(&o, c::CUR_INO)? };
        Some((
            u64_at(&o, c::CUR_SEQ)?,
            Cursor {
                position: Position::from_bytes(&o[c::CUR_POSITION as usize..])?,
                next: u64_at(&o, c::CUR_NEXT)?,
                skip: u64_at(&o, c::CUR_SKIP)?,
                records: u64_at(&o, c::CUR_RECORDS)?,
                bytes: u64_at(&o, c::CUR_BYTES)?,
                last_utc: u64_at(&o, c::CUR_LAST_UTC)? as i64,
                file: (id != FileId::default()).then_some((id, u64_at(&o, c::CUR_LEN)?)),
                clean: u32_at(&o, c::CUR_FLAGS)? & c::CLEAN != 0,
                held,
            },
        ))
    }

    /// The cursor of sink `name` of the journal in `dir`, for who reads on where it stopped. `None`: it
    /// never delivered anything.
    ///
    /// # Errors
    /// [`Code::BadValue`] (no name for a sink), [`Code::BadFile`] (damaged), and those of reading.
    pub fn load(dir: &Path, name: &str) -> Result<Option<Cursor>> {
        let path = path(dir, name)?;
        match File::open(&path) {
            Ok(file) => Ok(Some(read(&file, &path)?.1)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::os(format!("open {}", path.display()), e)),
        }
    }

    /// Forgets how far sink `name` has delivered; it must not be running. False: there was nothing.
    ///
    /// # Errors
    /// As [`Cursor::load`].
    pub fn remove(dir: &Path, name: &str) -> Result<bool> {
        let path = path(dir, name)?;
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::os(format!("remove {}", path.display()), e)),
        }
    }
}

fn path(dir: &Path, name: &str) -> Result<PathBuf> {
    check_name(name)?;
    Ok(dir.join(format!("sink-{name}.cursor")))
}

fn read(file: &File, path: &Path) -> Result<(u64, Cursor)> {
    let mut b = [0; c::LEN as usize];
    let mut n = 0;
    while n < b.len() {
        match file.read_at(&mut b[n..], n as u64) {
            Ok(0) => break,
            Ok(k) => n += k,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::os(format!("read {}", path.display()), e)),
        }
    }
    b.chunks(c::SLOT as usize).filter_map(Cursor::decode).max_by_key(|(seq, _)| *seq).ok_or_else(|| {
        let text = "holds no sound cursor of a sink: remove it, and the sink begins at the oldest record";
        Error::new(Code::BadFile, format!("{} {text}", path.display()))
    })
}

/// The file of a running sink's cursor.
#[derive(Debug)]
pub(super) struct CursorFile {
    path: PathBuf,
    file: Option<File>,
    seq: u64,
}

impl CursorFile {
    /// With what it holds. The file is made with the first save.
    pub fn open(dir: &Path, name: &str) -> Result<(CursorFile, Option<Cursor>)> {
        let path = path(dir, name)?;
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok((CursorFile { path, file: None, seq: 0 }, None));
            }
            Err(e) => return Err(Error::os(format!("open {}", path.display()), e)),
        };
        let (seq, cursor) = read(&file, &path)?;
        Ok((CursorFile { path, file: Some(file), seq }, Some(cursor)))
    }

    /// Writes the slot that does not hold the last cursor.
    pub fn save(&mut self, cursor: &Cursor) -> Result<()> {
        let seq = self.seq + 1;
        let slot = cursor.encode(seq);
        let os = |e| Error::os(format!("save the cursor {}", self.path.display()), e);
        let file = match &self.file {
            Some(file) => file,
            None => {
                // Complete before it has its name, so that no kill leaves a file without a cursor.
                let temp = self.path.with_extension("cursor.new");
                let mut both = [0; c::LEN as usize];
                let at = (seq % 2 * c::SLOT) as usize;
                both[at..at + slot.len()].copy_from_slice(&slot);
                let mut o = OpenOptions::new();
                let file = o.read(true).write(true).create(true).truncate(true).mode(0o600).open(&temp);
                let file = file.map_err(os)?;
                file.write_all_at(&both, 0).map_err(os)?;
                std::fs::rename(&temp, &self.path).map_err(os)?;
                self.seq = seq;
                self.file = Some(file);
                return Ok(());
            }
        };
        file.write_all_at(&slot, seq % 2 * c::SLOT).map_err(os)?;
        self.seq = seq;
        Ok(())
    }
}
