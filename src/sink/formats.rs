//! Compiled format strings and what else is the same for all records of a site or a thread.

use std::sync::Arc;

use super::escape::escape;
use crate::journal::{Entry, Site, Thread};
use crate::record::{CompiledFormat, Level};

/// Entries of each cache. Numbers of sites and threads are dense, so most programs fit.
const SLOTS: usize = 2048;

/// What was made of sites (threads), a table with one place a number. An entry is used only for the very
/// one it was made of, whose memory it keeps: numbers begin anew with every segment.
#[derive(Debug)]
pub(super) struct Table<K, V>(Vec<Option<(Arc<K>, V)>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        let mut slots = Vec::new();
        slots.resize_with(SLOTS, || None);
        Table(slots)
    }
}

impl<K, V> Table<K, V> {
    /// Of the one with this number; made now if it is not there.
    #[inline]
    pub fn get(&mut self, number: u32, of: &Arc<K>, make: impl FnOnce(&K) -> V) -> &V {
        let slot = &mut self.0[number as usize % SLOTS];
        if !slot.as_ref().is_some_and(|(k, _)| Arc::ptr_eq(k, of)) {
            *slot = None;
        }
        &slot.get_or_insert_with(|| (of.clone(), make(of))).1
    }
}

/// Text that is mostly short: then it is copied with all that there may be, which is cheaper than a copy of unknown
/// length.
#[derive(Debug)]
pub(super) struct Piece {
    len: usize,
    /// That, and zeros.
    text: Box<[u8]>,
}

impl Piece {
    pub fn new(mut text: Vec<u8>) -> Piece {
        let len = text.len();
        text.resize(len.max(64), 0);
        Piece { len, text: text.into() }
    }

    #[inline]
    pub fn put(&self, out: &mut Vec<u8>) {
        match self.text.first_chunk::<64>() {
            Some(all) if self.len <= all.len() => {
                let end = out.len() + self.len;
                out.extend_from_slice(all);
                out.truncate(end);
            }
            _ => out.extend_from_slice(self.bytes()),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

/// What is the same for all records of a site.
#[derive(Debug)]
pub(super) struct SiteText {
    pub format: CompiledFormat,
    /// Level and target: ` INFO  app::db`.
    pub head: Piece,
    /// File and line, and the end of the line: ` (src/db.rs:12)\n`.
    pub tail: Piece,
}

/// Caches.
#[derive(Debug, Default)]
pub struct Formats {
    sites: Table<Site, SiteText>,
    /// `[pid:tid] `.
    threads: Table<Thread, Piece>,
}

impl Formats {
    /// What is the same for all records of this one's site (`None`: it has none), and `[pid:tid] `.
    #[inline]
    pub(super) fn both(&mut self, e: &Entry<'_>) -> (Option<&SiteText>, &Piece) {
        (site_of(&mut self.sites, e), thread_of(&mut self.threads, e))
    }

    /// `[pid:tid]` of a record.
    #[inline]
    pub(super) fn thread(&mut self, e: &Entry<'_>) -> &[u8] {
        thread_of(&mut self.threads, e).bytes().trim_ascii_end()
    }

    /// The message of a log record, as `format!` would have made it.
    #[inline]
    pub fn message(&mut self, e: &Entry<'_>, out: &mut Vec<u8>) {
        match site_of(&mut self.sites, e) {
            // What is wrong with a damaged one stands in the text.
            Some(s) => drop(s.format.render(e.payload, out)),
            None => no_site(e, out),
        }
    }
}

#[inline]
fn site_of<'a>(sites: &'a mut Table<Site, SiteText>, e: &Entry<'_>) -> Option<&'a SiteText> {
    Some(sites.get(e.site_ref, e.site?, site_text))
}

#[inline]
fn thread_of<'a>(threads: &'a mut Table<Thread, Piece>, e: &Entry<'_>) -> &'a Piece {
    threads.get(e.thread_ref, e.thread, |t| Piece::new(format!("[{}:{}] ", t.pid, t.tid).into()))
}

/// The message of a record whose call site is not known.
pub(super) fn no_site(e: &Entry<'_>, out: &mut Vec<u8>) {
    let n = e.payload.len();
    out.extend_from_slice(
        format!("(the call site stood in a damaged part of the journal; {n} bytes of arguments)").as_bytes(),
    );
}

/// The level's column, five letters wide.
pub(super) fn level(level: u8) -> &'static [u8; 6] {
    match Level::from_u8(level) {
        Some(Level::Trace) => b"TRACE ",
        Some(Level::Debug) => b"DEBUG ",
        Some(Level::Info) => b"INFO  ",
        Some(Level::Warn) => b"WARN  ",
        Some(Level::Error) => b"ERROR ",
        None => b"-     ",
    }
}

fn site_text(site: &Site) -> SiteText {
    let mut head = b" ".to_vec();
    head.extend_from_slice(level(site.level));
    escape(&site.target, &mut head);
    let mut tail = Vec::new();
    if site.line != 0 || !site.file.is_empty() {
        tail.extend_from_slice(b" (");
        escape(&site.file, &mut tail);
        tail.extend_from_slice(format!(":{})", site.line).as_bytes());
    }
    tail.push(b'\n');
    let format = CompiledFormat::with_fields(&site.fmt, &site.types, &site.fields, site.style);
    SiteText { format, head: Piece::new(head), tail: Piece::new(tail) }
}
