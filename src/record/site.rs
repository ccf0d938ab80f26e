//! A call site in this process, and its entry as it is stored.
#![allow(unsafe_code)] // An entry is written through a raw pointer, into shared memory.

use super::filter::Verdict;
use super::{Args, Level};
use crate::layout::site as at;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::fmt;

/// The static facts of one call site, and the number of its entry in this process's ring.
///
/// The argument types are not among them: a call site in a generic function has one static and as
/// many lists of types as there are instances of the function. The first list to
/// [`claim`](Site::claim) the site is the one its entry is written for; calls with another one carry
/// the entry with them, each time.
#[repr(C)]
pub struct Site {
    /// Signature of the types that `id` is for; 0 = not claimed (or no arguments: there is one such list).
    /// It changes once.
    signature: AtomicU64,
    /// 0 = no entry yet. It changes once.
    id: AtomicU32,
    /// Whether the filter in force lets it through.
    pub(super) verdict: Verdict,
    /// Line in the source file.
    pub line: u32,
    /// Source file, as the compiler names it.
    pub file: &'static str,
    /// Target: the module's path, unless the call names another.
    pub target: &'static str,
    /// Format string.
    pub fmt: &'static str,
    /// Names of the fields, a NUL behind each: the call's last arguments. See [`crate::layout::site`].
    pub fields: &'static str,
    /// Level.
    pub level: Level,
    /// Grammar of the format string ([`crate::layout::site::style`]).
    pub style: u8,
}

impl Site {
    /// A site that has no entry yet: brace grammar, no fields.
    pub const fn new(
        level: Level,
        target: &'static str,
        file: &'static str,
        line: u32,
        fmt: &'static str,
    ) -> Site {
        let (signature, id) = (AtomicU64::new(0), AtomicU32::new(0));
        let (verdict, style) = (Verdict::new(), at::style::BRACE);
        Site { signature, id, verdict, line, file, target, fmt, fields: "", level, style }
    }

    /// The same with these fields: names, each with a NUL behind it (`"user\0path\0"`).
    pub const fn with_fields(mut self, fields: &'static str) -> Site {
        self.fields = fields;
        self
    }

    /// Whether its entry is, or will be, for these argument types; if there is a number, it tells. The signature needs
    /// no order: it only ever becomes what a claim made it, and numbers are only stored for claims that held.
    #[inline(always)]
    pub(crate) fn is_for<A: Args>(&self) -> bool {
        A::TYPES.is_empty() || self.signature.load(Ordering::Relaxed) == A::SIGNATURE
    }

    /// The number of its entry for these argument types, 0 = none. Async-signal-safe.
    #[inline(always)]
    pub fn id<A: Args>(&self) -> u32 {
        // Acquire, pairs with `set_id`: a thread that stores this number in a record and publishes that has
        // the entry published before it, whoever wrote it.
        let id = self.id.load(Ordering::Acquire);
        if self.is_for::<A>() { id } else { 0 }
    }

    /// The number of its entry, where [`passes`](Site::passes) has answered that there is one. Async-signal-safe.
    #[inline(always)]
    pub(crate) fn usual_id(&self) -> u32 {
        // Relaxed: that answer was ordered behind the number.
        self.id.load(Ordering::Relaxed)
    }

    /// Whether the entry of this site is the one for these argument types. Ask before making one: if
    /// not, no entry is to be made and every such record carries its own. Async-signal-safe.
    pub fn claim<A: Args>(&self) -> bool {
        if A::TYPES.is_empty() {
            return true;
        }
        match self.signature.compare_exchange(0, A::SIGNATURE, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(other) => other == A::SIGNATURE,
        }
    }

    /// Says that the entry `id` is written; for whoever [claimed](Site::claim) the site. The first one
    /// stays: of two threads (or a call and a handler that interrupted it) both entries are right.
    /// Async-signal-safe.
    pub fn set_id(&self, id: u32) {
        // Release, pairs with `id`: the entry's bytes come before its number.
        let _ = self.id.compare_exchange(0, id, Ordering::Release, Ordering::Relaxed);
    }

    /// What is stored of it.
    #[inline]
    pub fn facts<A: Args>(&self) -> SiteFacts<'static> {
        SiteFacts {
            level: self.level,
            line: self.line,
            file: self.file.as_bytes(),
            target: self.target.as_bytes(),
            fmt: self.fmt.as_bytes(),
            types: A::TYPES,
            fields: self.fields.as_bytes(),
            style: self.style,
        }
    }
}

/// What a site entry says. The strings may be anything: they come from another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteFacts<'a> {
    /// Level.
    pub level: Level,
    /// Line in the source file.
    pub line: u32,
    /// Source file.
    pub file: &'a [u8],
    /// Target.
    pub target: &'a [u8],
    /// Format string.
    pub fmt: &'a [u8],
    /// Type codes of the arguments ([`crate::layout::site::ty`]).
    pub types: &'a [u8],
    /// Names of the fields, a NUL behind each.
    pub fields: &'a [u8],
    /// Grammar of the format string ([`crate::layout::site::style`]).
    pub style: u8,
}

/// The longest run of whole names within `max` bytes.
fn whole_names(s: &[u8], max: usize) -> &[u8] {
    let s = &s[..s.len().min(max)];
    &s[..s.iter().rposition(|&b| b == 0).map_or(0, |i| i + 1)]
}

/// Names in a list with a NUL behind each.
fn names(s: &[u8]) -> usize {
    s.iter().filter(|&&b| b == 0).count()
}

/// Whether a string may not be cut before `b` (it would split a character).
fn inside(b: u8) -> bool {
    b & 0xc0 == 0x80
}

fn head(s: &[u8], max: usize) -> &[u8] {
    if s.len() <= max {
        return s;
    }
    // A character has at most three such bytes.
    let end = (max - 3..=max).rev().find(|&i| !inside(s[i])).unwrap_or(max);
    &s[..end]
}

fn tail(s: &[u8], max: usize) -> &[u8] {
    if s.len() <= max {
        return s;
    }
    let from = s.len() - max;
    let from = (from..from + 3).find(|&i| !inside(s[i])).unwrap_or(from);
    &s[from..]
}

impl<'a> SiteFacts<'a> {
    /// The same with every string inside its limit.
    fn cut(&self) -> SiteFacts<'a> {
        SiteFacts {
            file: tail(self.file, at::MAX_FILE),
            target: head(self.target, at::MAX_TARGET),
            fmt: head(self.fmt, at::MAX_FMT),
            types: &self.types[..self.types.len().min(at::MAX_ARGS)],
            fields: whole_names(self.fields, at::MAX_FIELDS),
            ..*self
        }
    }

    fn plain_len(&self) -> usize {
        at::HEADER as usize
            + self.types.len()
            + self.file.len()
            + self.target.len()
            + self.fmt.len()
            + self.fields.len()
    }

    /// Bytes of the entry: a multiple of 8, at most [`MAX_LEN`](crate::layout::site::MAX_LEN).
    /// Async-signal-safe.
    pub fn encoded_len(&self) -> usize {
        self.cut().plain_len().next_multiple_of(8)
    }

    /// What follows the header, without padding.
    fn parts(&self) -> [&'a [u8]; 5] {
        [self.types, self.file, self.target, self.fmt, self.fields]
    }

    /// The header of an entry that is cut already, and the bytes of padding at its end.
    fn header(&self) -> ([u8; at::HEADER as usize], usize) {
        let (plain, len) = (self.plain_len(), self.plain_len().next_multiple_of(8));
        let mut header = [0; at::HEADER as usize];
        let mut set = |offset: u64, bytes: &[u8]| {
            header[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes)
        };
        set(at::LEN, &(len as u32).to_le_bytes());
        set(at::LINE, &self.line.to_le_bytes());
        set(at::LEVEL, &[self.level as u8]);
        set(at::TYPES_LEN, &[self.types.len() as u8]);
        set(at::FILE_LEN, &(self.file.len() as u16).to_le_bytes());
        set(at::TARGET_LEN, &(self.target.len() as u16).to_le_bytes());
        set(at::FMT_LEN, &(self.fmt.len() as u16).to_le_bytes());
        set(at::STYLE, &[self.style]);
        set(at::FIELDS_LEN, &(self.fields.len() as u16).to_le_bytes());
        (header, len - plain)
    }

    /// Writes the entry, answers where it ends. Strings over their limit are cut. Async-signal-safe.
    ///
    /// # Safety
    /// `dst` is valid for writes of [`encoded_len`](SiteFacts::encoded_len) bytes, and none of the
    /// strings lies there.
    pub unsafe fn put(&self, dst: *mut u8) -> *mut u8 {
        let facts = self.cut();
        let (header, pad) = facts.header();
        let mut to = dst;
        let [types, file, target, fmt, fields] = facts.parts();
        for part in [&header[..], types, file, target, fmt, fields, &[0; 7][..pad]] {
            // SAFETY: the parts together are `encoded_len` bytes, for which the caller gives room. No part
            // lies there: by the caller's word for the strings; the rest is on this stack or static.
            unsafe {
                core::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
                to = to.add(part.len());
            }
        }
        to
    }

    /// Writes the entry to the beginning of `dst`, answers its length; None = `dst` is too short.
    /// Async-signal-safe.
    pub fn encode(&self, dst: &mut [u8]) -> Option<usize> {
        let len = self.encoded_len();
        let room = dst.get_mut(..len)?;
        // SAFETY: `room` has `encoded_len` bytes, and as it is borrowed mutably, no string lies there.
        unsafe { self.put(room.as_mut_ptr()) };
        Some(len)
    }

    /// The entry at the beginning of `bytes`, and its length. `bytes` may hold anything, but must not
    /// change meanwhile: copy first what comes from shared memory.
    pub fn decode(bytes: &'a [u8]) -> Result<(SiteFacts<'a>, usize), BadSite> {
        let (header, _) = bytes.split_at_checked(at::HEADER as usize).ok_or(BadSite::Short)?;
        let u16_at = |offset: u64| u16::from_le_bytes([header[offset as usize], header[offset as usize + 1]]);
        let u32_at = |offset: u64| u16_at(offset) as u32 | (u16_at(offset + 2) as u32) << 16;
        let (types, file) = (header[at::TYPES_LEN as usize] as usize, u16_at(at::FILE_LEN) as usize);
        let (target, fmt) = (u16_at(at::TARGET_LEN) as usize, u16_at(at::FMT_LEN) as usize);
        let fields = u16_at(at::FIELDS_LEN) as usize;
        if types > at::MAX_ARGS
            || file > at::MAX_FILE
            || target > at::MAX_TARGET
            || fmt > at::MAX_FMT
            || fields > at::MAX_FIELDS
        {
            return Err(BadSite::Limit);
        }
        let plain = at::HEADER as usize + types + file + target + fmt + fields;
        let len = plain.next_multiple_of(8);
        if u32_at(at::LEN) as usize != len {
            return Err(BadSite::Length);
        }
        let level = Level::from_u8(header[at::LEVEL as usize]).ok_or(BadSite::Level)?;
        let entry = bytes.get(..len).ok_or(BadSite::Short)?;
        let (entry, padding) = entry.split_at(plain);
        let (types, rest) = entry[at::HEADER as usize..].split_at(types);
        let (file, rest) = rest.split_at(file);
        let (target, rest) = rest.split_at(target);
        let (fmt, fields) = rest.split_at(fmt);
        if !types.iter().all(|t| (at::ty::I8..=at::ty::STR).contains(t)) {
            return Err(BadSite::Type);
        }
        if fields.last().is_some_and(|&b| b != 0) || names(fields) > types.len() {
            return Err(BadSite::Fields);
        }
        let reserved = header[at::RESERVED as usize] != 0 || u32_at(at::RESERVED2) != 0;
        if reserved || padding.iter().any(|&b| b != 0) {
            return Err(BadSite::Padding);
        }
        let style = header[at::STYLE as usize];
        Ok((SiteFacts { level, line: u32_at(at::LINE), file, target, fmt, types, fields, style }, len))
    }
}

/// What is wrong with the bytes of a site entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSite {
    /// Fewer bytes than the entry says it has.
    Short,
    /// A string, or the number of arguments, over its limit.
    Limit,
    /// The entry's length is not the sum of its parts.
    Length,
    /// No level.
    Level,
    /// An argument of unknown type.
    Type,
    /// Field names that do not end, or more of them than arguments.
    Fields,
    /// Padding that is not zero.
    Padding,
}

impl fmt::Display for BadSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadSite::Short => "site entry is cut short",
            BadSite::Limit => "site entry has a string or a number of arguments over its limit",
            BadSite::Length => "site entry's length is not the sum of its parts",
            BadSite::Level => "site entry has an unknown level",
            BadSite::Type => "site entry has an argument of unknown type",
            BadSite::Fields => "site entry's field names do not end, or are more than its arguments",
            BadSite::Padding => "site entry's padding is not zero",
        })
    }
}

impl std::error::Error for BadSite {}
