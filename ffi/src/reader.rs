//! Records read back, from a journal, live or not.

use crate::codes;
use crate::guard::{failed, guard, message};
use crate::handles::Handles;
use crate::life::{give_sized, initial, settings, sized};
use crate::site::Value;
use spillring::Code;
use spillring::env::{Settings, name};
use spillring::journal::{DirSource, Item, Loss, Reader, Segment, Site, Thread, kind};
use spillring::layout::site::ty;
use spillring::record::{CompiledFormat, Value as Stored, show_value};
use spillring::sys::hash::HashMap;
use std::collections::VecDeque;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a reader begins.
pub const FROM_OLDEST: u32 = 0;
/// Behind what is there.
pub const FROM_NOW: u32 = 1;
/// So many records before the end.
pub const FROM_LAST: u32 = 2;
/// No journal yet is no error: it is waited for.
pub const WAIT: u32 = 1;

/// What a record is: the journal's kinds, and one for what is missing.
pub const KIND_GAP: i32 = 100;

/// The options, as C lays them out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReaderOptions {
    /// Size of this struct as the caller knows it.
    pub size: usize,
    /// Directory of one journal; else that of the channel is looked for.
    pub journal: *const c_char,
    /// As SPILLRING_DIR.
    pub dir: *const c_char,
    /// As SPILLRING_CHANNEL.
    pub channel: *const c_char,
    /// As SPILLRING_JOURNAL_DIR.
    pub journal_dir: *const c_char,
    /// Records, with `FROM_LAST`.
    pub last: u64,
    /// Where to begin.
    pub from: u32,
    /// [`WAIT`].
    pub flags: u32,
}

/// A record, as C lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Record {
    /// Size of this struct as the caller knows it.
    pub size: usize,
    /// Its number in the journal.
    pub number: u64,
    /// Time, ns since the epoch.
    pub utc_ns: i64,
    /// Raw time.
    pub ticks: u64,
    /// Records that are missing, for a loss or a gap.
    pub lost: u64,
    /// Text of it.
    pub message: *const c_char,
    /// Bytes of that.
    pub message_len: usize,
    /// Source file.
    pub file: *const c_char,
    /// Bytes of that.
    pub file_len: usize,
    /// Target.
    pub target: *const c_char,
    /// Bytes of that.
    pub target_len: usize,
    /// Name of the thread.
    pub thread: *const c_char,
    /// Bytes of that.
    pub thread_len: usize,
    /// Line.
    pub line: u32,
    /// Pid in its own namespace.
    pub pid: u32,
    /// Tid in its own namespace.
    pub tid: u32,
    /// Fields.
    pub n_fields: u32,
    /// What it is.
    pub kind: i32,
    /// Level, 0 = none.
    pub level: i32,
}

/// A field of a record, as C lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Field {
    /// Size of this struct as the caller knows it.
    pub size: usize,
    /// Name.
    pub name: *const c_char,
    /// Bytes of that.
    pub name_len: usize,
    /// The value as text.
    pub text: *const c_char,
    /// Bytes of that.
    pub text_len: usize,
    /// The value, if it is no string.
    pub value: Value,
    /// Its type.
    pub type_: i32,
    /// Zero.
    pub reserved: i32,
}

/// A record as it waits to be asked for.
struct Waiting {
    number: u64,
    kind: i32,
    utc_ns: i64,
    ticks: u64,
    lost: u64,
    site: Option<Arc<Site>>,
    thread: Option<Arc<Thread>>,
    payload: std::ops::Range<usize>,
}

struct OwnField {
    name: Vec<u8>,
    text: Vec<u8>,
    value: Value,
    type_: u8,
}

/// A reader behind its handle.
pub(crate) struct State {
    places: Vec<PathBuf>,
    from: (u32, u64),
    /// None: there is no journal yet.
    reader: Option<Reader<DirSource>>,
    waiting: VecDeque<Waiting>,
    payloads: Vec<u8>,
    formats: HashMap<usize, (Arc<Site>, CompiledFormat)>,
    // The record that was given last; each with a NUL behind it.
    message: Vec<u8>,
    file: Vec<u8>,
    target: Vec<u8>,
    thread: Vec<u8>,
    fields: Vec<OwnField>,
}

// SAFETY: `Value` holds numbers here, and no address that anybody follows.
unsafe impl Send for State {}

static READERS: Handles<State> = Handles::new(1);

/// Limit: formats that a reader keeps.
const FORMATS: usize = 4096;

fn has_segments(dir: &Path) -> bool {
    let segment = |n: &OsStr| n.to_str().is_some_and(|n| Segment::parse(n).is_some());
    std::fs::read_dir(dir).is_ok_and(|d| d.flatten().any(|e| segment(&e.file_name())))
}

impl State {
    fn open(&mut self) -> Result<bool, spillring::Error> {
        let Some(dir) = self.places.iter().find(|p| has_segments(p)) else { return Ok(false) };
        let source = DirSource::open(dir)?;
        self.reader = Some(match self.from {
            (FROM_NOW, _) => Reader::tail(source, 0)?,
            (FROM_LAST, n) => Reader::tail(source, n)?,
            _ => Reader::new(source),
        });
        Ok(true)
    }

    /// Takes what the journal has next. False: nothing yet.
    fn more(&mut self) -> Result<bool, spillring::Error> {
        if self.reader.is_none() && !self.open()? {
            return Ok(false);
        }
        let Some(reader) = &mut self.reader else { return Ok(false) };
        let number = reader.position().map_or(0, |p| p.next_record);
        let gap = |lost: u64, text: String, payloads: &mut Vec<u8>, waiting: &mut VecDeque<Waiting>| {
            payloads.clear();
            payloads.extend_from_slice(text.as_bytes());
            let (site, thread) = (None, None);
            let payload = 0..payloads.len();
            let (utc_ns, ticks) = (0, 0);
            waiting.push_back(Waiting { number, kind: KIND_GAP, utc_ns, ticks, lost, site, thread, payload });
        };
        match reader.next_batch()? {
            None => return Ok(false),
            Some(Item::Batch(batch)) => {
                self.payloads.clear();
                for e in batch.entries() {
                    let from = self.payloads.len();
                    self.payloads.extend_from_slice(e.payload);
                    let lost =
                        if e.kind == kind::LOSS { Loss::decode(e.payload).map_or(0, |l| l.count) } else { 0 };
                    self.waiting.push_back(Waiting {
                        number: e.record_no,
                        kind: e.kind.into(),
                        utc_ns: e.utc_ns,
                        ticks: e.ticks,
                        lost,
                        site: e.site.cloned(),
                        thread: Some(e.thread.clone()),
                        payload: from..self.payloads.len(),
                    });
                }
            }
            Some(Item::Missed { records }) => {
                let text = format!("{records} records that retention deleted before they were read");
                gap(records, text, &mut self.payloads, &mut self.waiting);
            }
            Some(Item::Damaged { segment, offset, bytes, records }) => {
                let text = format!("{records} records in {bytes} damaged bytes at {offset} of {segment}");
                gap(records, text, &mut self.payloads, &mut self.waiting);
            }
        }
        Ok(true)
    }

    /// Makes the record that waits next the one that was given last.
    fn give(&mut self, w: &Waiting) -> Record {
        for text in [&mut self.message, &mut self.file, &mut self.target, &mut self.thread] {
            text.clear();
        }
        self.fields.clear();
        let payload = &self.payloads[w.payload.clone()];
        let mut level = 0;
        let mut line = 0;
        if let Some(site) = &w.site {
            self.file.extend_from_slice(&site.file);
            self.target.extend_from_slice(&site.target);
            (level, line) = (site.level.into(), site.line);
        }
        match &w.site {
            Some(site) if w.kind == i32::from(kind::LOG) => {
                if self.formats.len() > FORMATS {
                    self.formats.clear();
                }
                // By address: the entry keeps the site, so no other one can have it.
                let (_, format) = self.formats.entry(Arc::as_ptr(site) as usize).or_insert_with(|| {
                    let format =
                        CompiledFormat::with_fields(&site.fmt, &site.types, &site.fields, site.style);
                    (site.clone(), format)
                });
                // What is wrong with a damaged record stands in its text.
                let _ = format.render(payload, &mut self.message);
                if format.has_fields() {
                    self.fields.extend(format.fields(payload).map(|f| own_field(f.name, &f.value)));
                }
            }
            None if w.kind == i32::from(kind::LOG) => {
                self.message.extend_from_slice(b"(its call site stood in a damaged part of the journal)");
            }
            _ if w.kind == i32::from(kind::LOSS) => {
                self.message.extend_from_slice(format!("{} records were lost", w.lost).as_bytes());
            }
            _ => self.message.extend_from_slice(payload),
        }
        let (mut pid, mut tid) = (0, 0);
        if let Some(t) = &w.thread {
            (pid, tid) = (t.pid, t.tid);
            self.thread.extend_from_slice(&t.name);
        }
        for text in [&mut self.message, &mut self.file, &mut self.target, &mut self.thread] {
            text.push(0);
        }
        let at = |v: &Vec<u8>| v.as_ptr().cast::<c_char>();
        Record {
            size: 0,
            number: w.number,
            utc_ns: w.utc_ns,
            ticks: w.ticks,
            lost: w.lost,
            message: at(&self.message),
            message_len: self.message.len() - 1,
            file: at(&self.file),
            file_len: self.file.len() - 1,
            target: at(&self.target),
            target_len: self.target.len() - 1,
            thread: at(&self.thread),
            thread_len: self.thread.len() - 1,
            line,
            pid,
            tid,
            n_fields: self.fields.len() as u32,
            kind: w.kind,
            level,
        }
    }
}

fn own_field(name: &[u8], value: &Stored<'_>) -> OwnField {
    let mut text = Vec::new();
    let (type_, number) = match *value {
        Stored::Signed(v, bits) => match (bits, i64::try_from(v)) {
            (128, Err(_)) => (ty::STR, Value { u: 0 }),
            (_, v) => (ty::I64, Value { i: v.unwrap_or_default() }),
        },
        Stored::Unsigned(v) => match u64::try_from(v) {
            Ok(v) => (ty::U64, Value { u: v }),
            Err(_) => (ty::STR, Value { u: 0 }),
        },
        Stored::F32(v) => (ty::F64, Value { f: v.into() }),
        Stored::F64(v) => (ty::F64, Value { f: v }),
        Stored::Bool(v) => (ty::BOOL, Value { u: v.into() }),
        Stored::Char(v) => (ty::CHAR, Value { u: u32::from(v).into() }),
        Stored::Str(_) => (ty::STR, Value { u: 0 }),
    };
    match value {
        Stored::Str(s) => text.extend_from_slice(s),
        other => show_value(other, &mut text),
    }
    text.push(0);
    let mut name = name.to_vec();
    name.push(0);
    OwnField { name, text, value: number, type_ }
}

/// See the header.
///
/// # Safety
/// `options` is NULL or begins with its size; `out` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_reader_open(
    options: *const ReaderOptions,
    out: *mut *mut core::ffi::c_void,
) -> c_int {
    guard(|| {
        if out.is_null() {
            return codes::NULL;
        }
        let none = core::ptr::null();
        let zero = ReaderOptions {
            size: 0,
            journal: none,
            dir: none,
            channel: none,
            journal_dir: none,
            last: 0,
            from: FROM_OLDEST,
            flags: 0,
        };
        // SAFETY: by the caller.
        let o = match if options.is_null() { Ok(zero) } else { unsafe { sized(options, zero) } } {
            Ok(o) => o,
            Err(code) => return code,
        };
        if o.from > FROM_LAST || o.flags & !WAIT != 0 {
            return message(codes::ARGUMENT, "from is SPR_FROM_*, flags is SPR_READER_WAIT or 0");
        }
        // SAFETY: a string or NULL, by the caller.
        let text = |p: *const c_char| -> Option<OsString> {
            (!p.is_null()).then(|| OsStr::from_bytes(unsafe { CStr::from_ptr(p) }.to_bytes()).to_os_string())
        };
        let places = if let Some(journal) = text(o.journal) {
            vec![PathBuf::from(journal)]
        } else {
            let named = [o.dir, o.channel, o.journal_dir].iter().any(|p| !p.is_null());
            let s: Settings = match initial().filter(|_| !named) {
                Some(s) => s.clone(),
                None => match settings(&[
                    (name::DIR, text(o.dir)),
                    (name::CHANNEL, text(o.channel)),
                    (name::JOURNAL_DIR, text(o.journal_dir)),
                ]) {
                    Ok(s) => s,
                    Err(code) => return code,
                },
            };
            s.journal_candidates(&s.channel_dir())
        };
        let mut state = State {
            places,
            from: (o.from, o.last),
            reader: None,
            waiting: VecDeque::new(),
            payloads: Vec::new(),
            formats: HashMap::default(),
            message: Vec::new(),
            file: Vec::new(),
            target: Vec::new(),
            thread: Vec::new(),
            fields: Vec::new(),
        };
        match state.open() {
            Ok(true) => {}
            Ok(false) if o.flags & WAIT != 0 => {
                // What comes first is new.
                state.from = (FROM_OLDEST, 0);
            }
            Ok(false) => {
                let looked: Vec<_> = state.places.iter().map(|p| p.display().to_string()).collect();
                return message(
                    Code::NoChannel as i32,
                    &format!(
                        "there is no journal in {}: start a drain, or name the channel",
                        looked.join(", ")
                    ),
                );
            }
            Err(e) => return failed(&e),
        }
        match READERS.open(Box::new(state)) {
            Some(handle) => {
                // SAFETY: by the caller. The handle is a number, and nobody follows it.
                unsafe { out.write(core::ptr::without_provenance_mut(handle as usize)) };
                codes::OK
            }
            None => codes::LIMIT,
        }
    })
}

/// See the header.
///
/// # Safety
/// `out` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_reader_next(
    reader: *mut core::ffi::c_void,
    timeout_ms: u32,
    out: *mut Record,
) -> c_int {
    guard(|| {
        if reader.is_null() || out.is_null() {
            return codes::NULL;
        }
        READERS.with(reader.addr() as u64, |state| {
            let (start, timeout) = (Instant::now(), Duration::from_millis(timeout_ms.into()));
            let mut pause = Duration::from_micros(100);
            loop {
                if let Some(w) = state.waiting.pop_front() {
                    let record = state.give(&w);
                    // SAFETY: by the caller.
                    let code = unsafe { give_sized(out, record) };
                    if code != codes::OK {
                        state.waiting.push_front(w);
                    }
                    return code;
                }
                match state.more() {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(e) => return failed(&e),
                }
                let left = timeout.saturating_sub(start.elapsed());
                if left.is_zero() {
                    return Code::Timeout as i32;
                }
                std::thread::sleep(pause.min(left));
                pause = (pause * 2).min(Duration::from_millis(10));
            }
        })
    })
}

/// See the header.
///
/// # Safety
/// `out` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_reader_field(reader: *mut core::ffi::c_void, i: u32, out: *mut Field) -> c_int {
    guard(|| {
        if reader.is_null() || out.is_null() {
            return codes::NULL;
        }
        READERS.with(reader.addr() as u64, |state| {
            let Some(f) = state.fields.get(i as usize) else { return codes::ARGUMENT };
            let field = Field {
                size: 0,
                name: f.name.as_ptr().cast(),
                name_len: f.name.len() - 1,
                text: f.text.as_ptr().cast(),
                text_len: f.text.len() - 1,
                value: f.value,
                type_: f.type_.into(),
                reserved: 0,
            };
            // SAFETY: by the caller.
            unsafe { give_sized(out, field) }
        })
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_reader_close(reader: *mut core::ffi::c_void) -> c_int {
    guard(|| {
        if reader.is_null() {
            return codes::NULL;
        }
        READERS.close(reader.addr() as u64).map_or_else(|code| code, |_| codes::OK)
    })
}
