//! Other loggers' calls, stored as records: the `log` crate and `tracing`, each behind the feature of its name.
//!
//! Their calls have no static site of ours, so sites are made as they come and kept for the life of the
//! process: at most [`MAX_SITES`], in [`POOL`] bytes; what comes from more places carries its description with
//! each record. Their messages are formatted at the call, on the stack, and cut behind
//! [`MAX_MESSAGE`] bytes; a value among their fields that is not a number or text behind
//! [`MAX_TEXT`](crate::record::MAX_TEXT). What was cut is said. Nothing here allocates or locks, but what they
//! adapt may.
#![allow(unsafe_code)] // Sites are made in static memory.

#[cfg(feature = "log")]
pub mod log;
#[cfg(feature = "tracing")]
pub mod tracing;

use crate::layout::site::{MAX_FILE, MAX_TARGET, style};
use crate::record::{DynFields, Level, Site, SiteFacts, TEXT_ROOM, Value, text_in};
use crate::sync::{AtomicPtr, AtomicUsize, Ordering::*};
use crate::writer;
use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;

/// Limit: sites that are kept.
pub const MAX_SITES: usize = 4096;
/// Limit: bytes for them. (It is zeroed memory of the program, which takes up room only where it is used.)
pub const POOL: usize = 1 << 20;
/// Limit: bytes of a message.
pub const MAX_MESSAGE: usize = 16 << 10;
/// Limit: bytes of the fields of a record (and of each span), and of all its spans. What does not fit is left
/// out whole, and a field `left_out` says how many.
pub const MAX_FIELDS: usize = 8 << 10;

/// Where a call came from.
#[derive(Clone, Copy)]
struct Place<'a> {
    level: Level,
    target: &'a str,
    file: &'a str,
    line: u32,
}

struct Pool(UnsafeCell<[u8; POOL]>);
// SAFETY: each byte is handed out once, to one thread, which writes it before it publishes where it is.
unsafe impl Sync for Pool {}
static BYTES: Pool = Pool(UnsafeCell::new([0; POOL]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// `len` bytes that nobody else has; `align` is a power of two.
fn take(len: usize, align: usize) -> Option<*mut u8> {
    let at = USED.fetch_add(len + align - 1, Relaxed);
    if at.checked_add(len + align - 1)? > POOL {
        return None;
    }
    let base: *mut u8 = BYTES.0.get().cast();
    // SAFETY: inside the pool, by the check above.
    let p = unsafe { base.add(at) };
    // SAFETY: less than `align` further, for which there is room.
    Some(unsafe { p.add(p.align_offset(align)) })
}

fn keep(s: &str) -> Option<&'static str> {
    let to = take(s.len(), 1)?;
    // SAFETY: `to` has as many bytes, nobody else's, and they become a copy of a string.
    unsafe {
        core::ptr::copy_nonoverlapping(s.as_ptr(), to, s.len());
        Some(core::str::from_utf8_unchecked(core::slice::from_raw_parts(to, s.len())))
    }
}

static SITES: [AtomicPtr<Site>; 2 * MAX_SITES] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; 2 * MAX_SITES];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The site of a place, made when it is first seen. None: there are too many.
fn site(place: Place<'_>, fields: &'static str) -> Option<&'static Site> {
    // FNV-1a. The places are the program's own call sites, not chosen by anybody else.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(place.line) << 8 ^ place.level as u64;
    for b in place.target.bytes().chain(place.file.bytes()) {
        hash = (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    }
    let mut made = None;
    // The table is twice as large as the number of sites: a free place comes.
    for i in 0..SITES.len() {
        let entry = &SITES[(hash as usize).wrapping_add(i) % SITES.len()];
        let mut there = entry.load(Acquire);
        if there.is_null() {
            if made.is_none() {
                made = Some(make(place, fields)?);
            }
            let new = made.unwrap_or_default();
            match entry.compare_exchange(core::ptr::null_mut(), new, AcqRel, Acquire) {
                Ok(_) => there = new,
                Err(other) => there = other,
            }
        }
        // SAFETY: a site in the pool, written before it was published here.
        let s = unsafe { &*there };
        if s.line == place.line
            && s.level == place.level
            && s.target == place.target
            && s.file == place.file
            && s.fields == fields
        {
            return Some(s);
        }
    }
    None
}

fn make(place: Place<'_>, fields: &'static str) -> Option<*mut Site> {
    if COUNT.fetch_add(1, Relaxed) >= MAX_SITES {
        COUNT.fetch_sub(1, Relaxed);
        return None;
    }
    let (target, file) = (keep(place.target)?, keep(place.file)?);
    let to: *mut Site = take(size_of::<Site>(), align_of::<Site>())?.cast();
    let new = Site::new(place.level, target, file, place.line, "{}").with_fields(fields);
    // SAFETY: room for a site, aligned, nobody else's.
    unsafe { to.write(new) };
    Some(to)
}

/// Room for a message, on the stack.
struct Message {
    room: [MaybeUninit<u8>; MAX_MESSAGE + 64],
    len: usize,
}

impl Message {
    fn new() -> Message {
        Message { room: [const { MaybeUninit::uninit() }; MAX_MESSAGE + 64], len: 0 }
    }
    fn set(&mut self, text: fmt::Arguments<'_>) {
        self.len = text_in(text, &mut self.room).len();
    }
    fn text(&self) -> &str {
        // SAFETY: `text_in` has written so many bytes, a string.
        unsafe {
            let bytes = core::slice::from_raw_parts(self.room.as_ptr().cast::<u8>(), self.len);
            core::str::from_utf8_unchecked(bytes)
        }
    }
}

/// Logs a record with fields that only this call knows, and the open spans where there may be some.
fn event(place: Place<'_>, message: &str, own: &[u8], spans: Option<&[u8]>) {
    match spans {
        None => to_writer(place, "*\0", (message, own)),
        Some(spans) => to_writer(place, "*\0*spans\0", (message, own, spans)),
    }
}

fn to_writer<A: crate::record::Args>(place: Place<'_>, fields: &'static str, args: A) {
    // Strings over the limits are cut in the entry; they must be the same here, to be found again.
    let boundary =
        |s: &str, from: usize| (from..=s.len()).find(|&i| s.is_char_boundary(i)).unwrap_or(s.len());
    let (t, f) = (place.target, place.file);
    let target = if t.len() <= MAX_TARGET { t } else { &t[..boundary(t, MAX_TARGET - 3)] };
    let file = if f.len() <= MAX_FILE { f } else { &f[boundary(f, f.len() - MAX_FILE)..] };
    let place = Place { target, file, ..place };
    match site(place, fields) {
        Some(site) => writer::log(site, args),
        None => writer::log_facts(
            &SiteFacts {
                level: place.level,
                line: place.line,
                file: file.as_bytes(),
                target: target.as_bytes(),
                fmt: b"{}",
                types: A::TYPES,
                fields: fields.as_bytes(),
                style: style::BRACE,
            },
            args,
        ),
    }
}

/// Fields as they come, in memory on the stack.
struct Collect<'b> {
    fields: DynFields<'b>,
}

/// Bytes that stay free for `left_out`.
const RESERVE: usize = 32;

impl Collect<'_> {
    fn value(&mut self, name: &str, value: Value<'_>) {
        self.fields.field(name.as_bytes(), value);
    }
    fn text(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.value(name, Value::Str(text_in(value, &mut { TEXT_ROOM }).as_bytes()));
    }
}

/// Room for fields, on the stack.
type Room = [u8; MAX_FIELDS];

/// The fields that `fill` adds.
fn collected(room: &mut Room, fill: impl FnOnce(&mut Collect<'_>)) -> &[u8] {
    let (mut len, left_out) = {
        let mut c = Collect { fields: DynFields::new(&mut room[..MAX_FIELDS - RESERVE]) };
        fill(&mut c);
        (c.fields.bytes().len(), c.fields.left_out())
    };
    if left_out > 0 {
        let mut more = DynFields::new(&mut room[len..]);
        more.field(b"left_out", Value::Unsigned(left_out as u128));
        len += more.bytes().len();
    }
    &room[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_site() {
        let place = |line| Place { level: Level::Info, target: "t", file: "f", line };
        let a = site(place(1), "*\0").unwrap();
        let b = site(Place { target: &String::from("t"), ..place(1) }, "*\0").unwrap();
        assert!(core::ptr::eq(a, b));
        let other = site(Place { level: Level::Warn, ..place(1) }, "*\0").unwrap();
        assert!(!core::ptr::eq(a, other));
        assert_eq!((other.level, other.target, other.file, other.line), (Level::Warn, "t", "f", 1));
        // Several threads at once, and more than there may be: those that are there stay what they are.
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || (0..6000).filter(|&i| site(place(i), "*\0").is_some()).count())
            })
            .collect();
        let counts: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(counts.iter().all(|&n| n <= MAX_SITES && n > 1000), "{counts:?}");
        assert!(core::ptr::eq(a, site(place(1), "*\0").unwrap()));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let fill = |c: &mut Collect<'_>| {
            for _ in 0..3 {
                c.text("long", format_args!("{}", "x".repeat(MAX_FIELDS)));
            }
        };
        let mut room = [0; MAX_FIELDS];
        let bytes = collected(&mut room, fill);
        assert!(bytes.ends_with(b"\x08\0left_out\x09\x02\0\0\0\0\0\0\0"), "two of three, and it says so");
    }
}
