//! `spillring inspect`: what is in the files.

use super::place;
use super::read::{Visitor, each};
use super::{Exit, InspectCommand};
use spillring::channel::{Channel, Kind, Stem};
use spillring::env::Settings;
use spillring::journal::{Item, Reader, Segment};
use spillring::lane::calibration::Found;
use spillring::layout::{self, Field, ctl, journal, ring, sink, spill};
use spillring::sync::Ordering::Acquire;
use spillring::{Error, Result};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Runs it.
pub fn run(what: &InspectCommand, settings: &Settings) -> Result<Exit> {
    let mut out = std::io::stdout().lock();
    let written = |e| Error::os("writing to stdout", e);
    match what {
        InspectCommand::Layout => print_layout(&mut out).map_err(written).map(|()| Exit::Done),
        InspectCommand::Channel { channel } => inspect_channel(&channel.dir(settings), &mut out),
        InspectCommand::Journal { channel } => inspect_journal(&channel.journal(settings)?, &mut out),
    }
}

/// Every table, in the order of the way of a record.
fn tables() -> Vec<&'static [Field]> {
    let mut all = vec![ctl::TABLE];
    all.extend_from_slice(ring::TABLES);
    all.extend([ring::record::TABLE, ring::slow::TABLE, spill::TABLE, layout::site::TABLE]);
    all.extend([
        journal::TABLE,
        journal::batch::TABLE,
        journal::record::TABLE,
        journal::table::TABLE,
        journal::site::TABLE,
        journal::thread::TABLE,
        journal::cursor::TABLE,
        journal::position::TABLE,
        journal::loss::TABLE,
        sink::cursor::TABLE,
        sink::held::TABLE,
        sink::stat::TABLE,
    ]);
    all
}

fn print_layout(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "layout version {}, little-endian; offset and size in bytes", layout::LAYOUT_VERSION)?;
    for table in tables() {
        let Some(first) = table.first() else { continue };
        writeln!(out, "\n{}", first.of)?;
        for f in table {
            writeln!(out, "  {:>6} {:>4}  {}", f.offset, f.size, f.name)?;
        }
    }
    Ok(())
}

fn inspect_channel(dir: &Path, out: &mut impl Write) -> Result<Exit> {
    let channel = place::open(dir)?;
    let written = |e| Error::os("writing to stdout", e);
    let mut text = Vec::new();
    let mut bad = false;
    describe(&channel, &mut text, &mut bad)?;
    out.write_all(&text).map_err(written)?;
    Ok(if bad { Exit::Damaged } else { Exit::Done })
}

fn describe(channel: &Channel, text: &mut Vec<u8>, bad: &mut bool) -> Result<()> {
    // Writing to memory can't fail.
    macro_rules! line { ($($t:tt)*) => { let _ = writeln!(text, $($t)*); } }
    line!("{}", channel.paths().dir().to_path().display());
    line!("ctl");
    for f in ctl::TABLE {
        let v = channel.ctl().word(f.offset & !7).load(Acquire);
        // Halves of a word: version and architecture.
        let v = if f.size == 4 { (v >> (8 * (f.offset & 7))) & 0xffff_ffff } else { v };
        line!("  {:<16} {v:#x}", f.name);
    }
    line!("  calibration: {}", calibration(channel));
    let mut stems = channel.producers()?;
    stems.sort();
    for stem in stems {
        if let Err(e) = producer(channel, stem, text) {
            *bad = true;
            line!("{stem}\n  can't be read: {e}");
        }
    }
    Ok(())
}

/// What the drain's clock calibration says.
fn calibration(channel: &Channel) -> String {
    // A drain is done with it in less than a microsecond, but may be preempted in the midst of it.
    for _ in 0..20 {
        match channel.calibration().read(100) {
            Found::Line(l) => {
                let ns_per_tick = l.mult as f64 / 4_294_967_296.0;
                return format!("{} ticks at {} ns UTC, {ns_per_tick:.9} ns per tick", l.ticks, l.utc as i64);
            }
            Found::Never => return "not calibrated yet (no drain has been here)".into(),
            Found::Unfinished => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    "left unfinished by a drain that was killed (or is stopped) in it; the next drain writes it anew".into()
}

fn producer(channel: &Channel, stem: Stem, text: &mut Vec<u8>) -> Result<()> {
    let view = channel.open_ring(stem)?;
    macro_rules! line { ($($t:tt)*) => { let _ = writeln!(text, $($t)*); } }
    let (f, g, c) = (&view.identity.facts, &view.geometry, &view.clock);
    line!("{}", view.path(Kind::Ring).display());
    line!(
        "  pid {} uid {} start {} pid namespace {} time namespace {}",
        f.pid,
        f.uid,
        f.start,
        f.pid_ns,
        f.time_ns
    );
    line!("  comm {:?}", String::from_utf8_lossy(&f.comm).trim_end_matches('\0'));
    let hex: String = f.boot_id.iter().map(|b| format!("{b:02x}")).collect();
    line!("  boot id {hex} nonce {:016x}", view.identity.nonce);
    line!(
        "  {} lanes of {} bytes, {} slots, {} granules, {} bytes of sites; {} bytes in all",
        g.lanes,
        g.lane_stride,
        g.slots,
        g.granules,
        g.arena,
        g.file_len()
    );
    let clock = ["?", "tsc", "monotonic", "tick"].get(c.source as usize).unwrap_or(&"?");
    line!("  clock {clock}: {} ticks at {} ns UTC, {} Hz", c.anchor_ticks, c.anchor_utc, c.tick_hz);
    for f in ring::word::TABLE {
        line!("  {:<16} {:#x}", f.name, view.word(f.offset).load(Acquire));
    }
    for i in (0..g.lanes).filter(|&i| view.word(g.lane_header(i) + ring::lane::CAPACITY).load(Acquire) != 0) {
        let words = ring::lane::TABLE
            .iter()
            .map(|f| format!("{} {:#x}", f.name, view.word(g.lane_header(i) + f.offset).load(Acquire)));
        line!("  lane {i}: {}", words.collect::<Vec<_>>().join(", "));
    }
    line!("{}", view.path(Kind::Ack).display());
    for f in ring::ack::TABLE {
        line!("  {:<16} {:#x}", f.name, view.ack().word(f.offset).load(Acquire));
    }
    let st = view.spill_stat()?;
    line!("{}", view.path(Kind::Spill).display());
    line!("  {} granules; {} bytes, {} of them allocated", view.spill_granules(), st.size, st.allocated);
    Ok(())
}

fn inspect_journal(dir: &Path, out: &mut impl Write) -> Result<Exit> {
    let mut lister = Lister { out, segment: None, batches: 0, records: 0, damaged: false };
    lister.line(&format!("{}", dir.display()))?;
    each(Reader::open(dir)?, &mut lister)?;
    Ok(if lister.damaged { Exit::Damaged } else { Exit::Done })
}

struct Lister<'a, W> {
    out: &'a mut W,
    segment: Option<Segment>,
    batches: u64,
    records: u64,
    damaged: bool,
}

impl<W: Write> Lister<'_, W> {
    fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}").map_err(|e| Error::os("writing to stdout", e))
    }
}

impl<W: Write> Visitor for Lister<'_, W> {
    fn item(&mut self, item: Item<'_>) -> Result<()> {
        match item {
            Item::Batch(b) => {
                let at = &b.position().segment;
                if self.segment.as_ref() != Some(at) {
                    self.segment = Some(at.clone());
                    self.line(&at.to_string())?;
                }
                let h = b.header();
                self.batches += 1;
                self.records += u64::from(h.count);
                self.line(&format!(
                    "  batch {} at {}: {} bytes, {} records from {}{}; definitions {}, cursors {} bytes",
                    h.seq,
                    h.offset,
                    h.len,
                    h.count,
                    h.first_record,
                    if h.full() { ", full set of cursors" } else { "" },
                    h.tables_len,
                    h.cursors_len
                ))
            }
            Item::Missed { records } => self.line(&format!("  {records} records are deleted")),
            Item::Damaged { segment, offset, bytes, records } => {
                self.damaged = true;
                self.line(&format!(
                    "{segment}: DAMAGED: {bytes} bytes at {offset}, {records} records are missing"
                ))
            }
        }
    }

    fn torn(&mut self, segment: &str, offset: u64, bytes: u64) {
        self.damaged = true;
        let _ = self.line(&format!("{segment}: TORN: {bytes} bytes at {offset} are no whole batch"));
    }

    fn done(&mut self) -> Result<()> {
        let (batches, records) = (self.batches, self.records);
        self.line(&format!("{batches} batches with {records} records"))
    }
}
