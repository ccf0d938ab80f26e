//! What a sink is doing, in words that others may read at any time: `sink-NAME.stat` in the channel.

use std::path::Path;

use crate::error::{Code, Error, Result};
use crate::journal::{DirSource, Position, Reader, Segment, Source};
use crate::layout::sink::stat as s;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::file::{self, Access};
use crate::sys::{FixedPath, Map, process, time};
use std::os::unix::ffi::OsStrExt;

/// The words, in the channel's directory or, where no file can be made, only in this process.
pub(super) enum Words {
    Shared(Map),
    Own(Box<[AtomicU64]>),
}

impl Words {
    pub fn own() -> Words {
        Words::Own((0..s::ST_MISSED / 8 + 1).map(|_| AtomicU64::new(0)).collect())
    }

    /// Takes the place of the file that an earlier sink of the name left.
    pub fn create(dir: &Path, name: &str) -> Result<Words> {
        let path = dir.join(format!("sink-{name}.stat"));
        let make = || {
            let group = std::fs::metadata(dir).is_ok_and(|m| {
                use std::os::unix::fs::MetadataExt;
                m.mode() & 0o060 == 0o060
            });
            let name = FixedPath::from_bytes(path.as_os_str().as_bytes())?;
            let mut temp = name;
            temp.push(b".new-")?.push_hex(process::nonce())?;
            let mode = if group { 0o660 } else { 0o600 };
            let fd = file::create_excl(&temp, mode)?;
            let fill = || {
                file::set_mode(fd.raw(), mode)?;
                // Every byte is there before anybody touches it: a full disk is an error here, not a SIGBUS.
                file::allocate(fd.raw(), 0, s::LEN)?;
                let map = Map::shared(fd.raw(), s::LEN, true)?;
                map.word32(s::ST_VERSION).store(s::VERSION, Ordering::Relaxed);
                map.word32(s::ST_PID).store(process::pid(), Ordering::Relaxed);
                let start = process::start_time(process::pid()).unwrap_or(0);
                map.word(s::ST_START).store(start, Ordering::Relaxed);
                map.word(s::ST_MAGIC).store(s::MAGIC, Ordering::Release);
                Ok(map)
            };
            let map = fill().inspect_err(|_| {
                let _ = file::unlink(&temp);
            })?;
            std::fs::rename(temp.to_path(), &path).map_err(|e| {
                let _ = file::unlink(&temp);
                crate::sys::Errno(e.raw_os_error().unwrap_or(libc::EIO))
            })?;
            Ok(Words::Shared(map))
        };
        make().map_err(|e: crate::sys::Errno| Error::os(format!("make {}", path.display()), e.into()))
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        match self {
            Words::Shared(map) => map.word(at),
            Words::Own(words) => &words[at as usize / 8],
        }
    }

    /// Every word stands for itself; one is written by one thread. Relaxed: nothing hangs on their order.
    pub fn set(&self, at: u64, v: u64) {
        self.word(at).store(v, Ordering::Relaxed);
    }
    pub fn get(&self, at: u64) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }
}

/// What a sink says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// The process its thread belongs to.
    pub pid: u32,
    /// Whether that process is there (in this pid namespace).
    pub alive: bool,
    /// Its state.
    pub state: State,
    /// Records delivered since the sink exists.
    pub records: u64,
    /// Bytes delivered since the sink exists.
    pub bytes: u64,
    /// Number of the next record to deliver.
    pub next: u64,
    /// Number of the next record of the journal, as the drain has last told the sink.
    pub known: u64,
    /// Emitted time of the last delivered record, ns since the epoch, 0 = none.
    pub last_utc: i64,
    /// How long the present write has not moved, ns; `None`: no write is going on.
    pub blocked_ns: Option<u64>,
    /// Emitted time of the oldest record that is read and not delivered, ns since the epoch.
    pub pending_utc: Option<i64>,
    /// Bytes that wait to be written.
    pub pending_bytes: u64,
    /// Tries that failed since the last success (disk full).
    pub retries: u64,
    /// Records that it could not deliver: deleted or damaged before it read them.
    pub missed: u64,
}

/// What a sink's thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It follows the journal.
    Following,
    /// It stopped with everything delivered.
    Delivered,
    /// It stopped with records pending.
    Stopped,
    /// The reader of its output has gone.
    Broken,
    /// Its output or the journal cannot be used; it was reported why.
    Failed,
}

impl State {
    pub(super) fn to_word(self) -> u64 {
        match self {
            State::Following => s::STATE_FOLLOWING,
            State::Delivered => s::STATE_DELIVERED,
            State::Stopped => s::STATE_STOPPED,
            State::Broken => s::STATE_BROKEN,
            State::Failed => s::STATE_FAILED,
        }
    }
    pub(super) fn from_word(v: u64) -> State {
        match v {
            s::STATE_FOLLOWING => State::Following,
            s::STATE_DELIVERED => State::Delivered,
            s::STATE_STOPPED => State::Stopped,
            s::STATE_BROKEN => State::Broken,
            _ => State::Failed,
        }
    }
    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Following => "following",
            State::Delivered => "delivered",
            State::Stopped => "stopped",
            State::Broken => "broken",
            State::Failed => "failed",
        }
    }
}

impl SinkStatus {
    pub(super) fn of(name: &str, w: &Words, pid: u32, alive: bool) -> SinkStatus {
        let some = |v: u64| (v != 0).then_some(v);
        SinkStatus {
            name: name.to_owned(),
            pid,
            alive,
            state: State::from_word(w.get(s::ST_STATE)),
            records: w.get(s::ST_RECORDS),
            bytes: w.get(s::ST_BYTES),
            next: w.get(s::ST_NEXT),
            known: w.get(s::ST_KNOWN),
            last_utc: w.get(s::ST_LAST_UTC) as i64,
            blocked_ns: some(w.get(s::ST_BLOCKED)).map(|t| time::boottime_ns().saturating_sub(t)),
            pending_utc: some(w.get(s::ST_PENDING_UTC)).map(|t| t as i64),
            pending_bytes: w.get(s::ST_PENDING_BYTES),
            retries: w.get(s::ST_RETRIES),
            missed: w.get(s::ST_MISSED),
        }
    }

    /// Of all sinks of a channel, by name. A file that is none (or is cut short) is passed over.
    ///
    /// # Errors
    /// [`Code::NoChannel`], [`Code::Permission`], [`Code::Os`]: the directory cannot be read.
    pub fn read_all(channel_dir: &Path) -> Result<Vec<SinkStatus>> {
        let os = |e: std::io::Error| {
            let mut error = Error::os(format!("list the channel's directory {}", channel_dir.display()), e);
            if error.errno == Some(libc::ENOENT) {
                error.code = Code::NoChannel;
            }
            error
        };
        let mut all = Vec::new();
        for entry in std::fs::read_dir(channel_dir).map_err(os)? {
            let name = entry.map_err(os)?.file_name();
            let sink = name.to_str().and_then(|n| n.strip_prefix("sink-")?.strip_suffix(".stat"));
            all.extend(sink.and_then(|sink| Self::read(channel_dir, sink)));
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Of one sink; `None`: it has no (sound) status file.
    pub fn read(channel_dir: &Path, name: &str) -> Option<SinkStatus> {
        let path = channel_dir.join(format!("sink-{name}.stat"));
        let path = FixedPath::from_bytes(path.as_os_str().as_bytes()).ok()?;
        let (fd, _) = file::open_foreign(&path, Access::Read).ok()?;
        // Read, not mapped: the file may be cut short meanwhile. Words are whole in one page.
        let mut page = [0u8; s::LEN as usize];
        let n = file::read_at(fd.raw(), &mut page, 0).ok()?;
        let word = |at: u64| {
            let at = at as usize;
            u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| page[at + i]))
        };
        let second = word(s::ST_VERSION);
        if n < page.len() || word(s::ST_MAGIC) != s::MAGIC || second as u32 != s::VERSION {
            return None;
        }
        let words = Words::own();
        for at in (0..=s::ST_MISSED).step_by(8) {
            words.set(at, word(at));
        }
        let pid = (second >> 32) as u32;
        let alive = process::start_time(pid).is_ok_and(|t| t == word(s::ST_START));
        Some(Self::of(name, &words, pid, alive))
    }

    /// How long the oldest undelivered record has waited, as far as the sink knows, ns; 0 if it is not
    /// behind. `now_utc` in ns since the epoch.
    pub fn lag_ns(&self, now_utc: i64) -> u64 {
        self.pending_utc.map_or(0, |t| now_utc.saturating_sub(t).max(0) as u64)
    }
}

/// How far a sink is behind the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Records.
    pub records: u64,
    /// Bytes of the journal, whole batches.
    pub bytes: u64,
}

impl Lag {
    /// Of a sink that reads on at `position`, with `next` its next record. Reads the end of the journal
    /// and the lengths of its segments, no more.
    ///
    /// # Errors
    /// Those of reading the journal.
    pub fn measure(journal_dir: &Path, position: Option<&Position>, next: u64) -> Result<Lag> {
        let end = Reader::end(DirSource::open(journal_dir)?)?;
        Lag::before(end.unwrap_or(0), journal_dir, position, next)
    }

    /// The same where `end` is known to be the number behind the journal's last record.
    ///
    /// # Errors
    /// Those of reading the journal.
    pub fn before(end: u64, journal_dir: &Path, position: Option<&Position>, next: u64) -> Result<Lag> {
        let records = end.saturating_sub(next);
        if records == 0 {
            return Ok(Lag::default());
        }
        let source = &DirSource::open(journal_dir)?;
        let os = |e| Error::os(format!("list the journal directory {}", journal_dir.display()), e);
        let mut bytes = 0;
        for name in source.list().map_err(os)? {
            let Some(segment) = Segment::parse(&name) else { continue };
            let from = match position {
                Some(p) if segment < p.segment => continue,
                Some(p) if segment == p.segment => batch_end(source, &name, p.offset),
                _ => 0,
            };
            // Deleted meanwhile: nothing of it is pending.
            bytes += source.len(&name).unwrap_or(0).saturating_sub(from);
        }
        Ok(Lag { records, bytes })
    }
}

/// Where the batch at `offset` ends.
fn batch_end(source: &DirSource, name: &str, offset: u64) -> u64 {
    use crate::layout::journal::batch as b;
    let mut len = [0; 4];
    match source.read_at(name, offset + b::B_LEN, &mut len) {
        Ok(4) if offset != 0 => offset + u64::from(u32::from_le_bytes(len)),
        _ => offset,
    }
}
