//! Runs the drain over a channel whose owners are dead, and holds what comes out against what was
//! acknowledged.

use super::events::{Call, Seen};
use spillring::channel::{Channel, Dead, Role};
use spillring::drain::{Drain, DrainConfig};
use spillring::env::Settings;
use spillring::journal::{Item, Reader, kind};
use spillring::lane::{shared, thread::written_count};
use spillring::layout::ctl;
use spillring::layout::ring::{ack, lane, word};
use spillring::record::CompiledFormat;
use spillring::ringview::View;
use spillring::snapshot::RingRead;
use spillring::sync::Ordering::SeqCst;
use spillring::sys::process::Facts;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// One delivered record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub pid: u32,
    pub thread: u64,
    pub text: String,
}

/// What came out of a whole channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub records: Vec<Record>,
    /// Losses that the headers count (and the journal reports, or this is an error).
    pub lost: u64,
    /// Claims of the shared lane that hold no record.
    pub holes: u64,
    /// Records that were delivered from the spill and not counted there.
    pub uncounted: u64,
}

/// The settings of a channel below `base`, its journal beside it.
pub fn settings(base: &Path) -> Settings {
    let mut s = Settings::from(|_| None, 0).0;
    s.dir = base.to_path_buf();
    s.channel = "t".into();
    s.journal_dir = Some(base.join("journals"));
    s.lane_bytes = 4096;
    s.lanes = 2;
    s
}

/// Everything that is in the channel goes to its journal. A drain keeps its locks for the life of the
/// process: call it in one that ends.
pub fn drain(base: &Path) -> Result<(), String> {
    let s = settings(base);
    let mut said = Vec::new();
    let mut d = Drain::open(DrainConfig::new(&s, s.channel_dir()).0).map_err(|e| e.to_string())?;
    d.finish(&mut |l: &str| said.push(l.to_string())).map_err(|e| e.to_string())?;
    // What a killed attach leaves is taken away, and that is said.
    said.retain(|l| !(l.starts_with("removed ") && l.ends_with(" leftovers of dead processes")));
    if said.is_empty() { Ok(()) } else { Err(format!("the drain has something to say: {said:?}")) }
}

fn journal(s: &Settings) -> Result<(Vec<Record>, u64), String> {
    let dir = s.journal_dir.as_ref().expect("set above").join(&s.channel);
    let mut r = Reader::open(dir).map_err(|e| e.to_string())?;
    let (mut all, mut lost) = (Vec::new(), 0);
    while let Some(item) = r.next_batch().map_err(|e| e.to_string())? {
        let Item::Batch(b) = item else { return Err("the journal has a gap".into()) };
        for e in b.entries() {
            match e.kind {
                kind::LOG => {
                    let site = e.site.ok_or("a record without a site")?;
                    let mut text = Vec::new();
                    CompiledFormat::new(&site.fmt, &site.types)
                        .render(e.payload, &mut text)
                        .map_err(|e| format!("{:?}: {e:?}", String::from_utf8_lossy(&site.fmt)))?;
                    all.push(Record {
                        pid: e.thread.pid,
                        thread: e.thread.thread,
                        text: String::from_utf8_lossy(&text).into_owned(),
                    });
                }
                kind::LOSS => {
                    lost +=
                        spillring::journal::Loss::decode(e.payload).ok_or("a loss record that is none")?.count
                }
                k => return Err(format!("a journal record of kind {k}")),
            }
        }
    }
    Ok((all, lost))
}

/// Drains a channel whose owners are dead, and adds up as `stat` does: for each lane of each ring, what the
/// producer counted against what the drain did.
pub fn drain_dead(base: &Path) -> Result<Found, String> {
    let s = settings(base);
    let channel = Channel::create_or_open(&s.channel_dir(), false, Role::Drain).map_err(|e| e.to_string())?;
    let me = Facts::read();
    let mut rings = Vec::new();
    for stem in channel.producers().map_err(|e| e.to_string())? {
        let view = channel.open_ring(stem).map_err(|e| e.to_string())?;
        let begun = Instant::now();
        while view.dead(&me) != Dead::Yes {
            if begun.elapsed() > Duration::from_secs(5) {
                return Err(format!("ring {stem} is not found dead: {:?}", view.dead(&me)));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        rings.push(View::new(view));
    }
    drain(base)?;
    let (records, reported) = journal(&s)?;
    let mut found = Found { records, ..Found::default() };
    // The files are gone, their memory is still here.
    for ring in &rings {
        if ring.files.is_linked() {
            return Err(format!("ring {} of a dead process is still there", ring.files.stem));
        }
        for i in (0..ring.lanes()).filter(|i| ring.lane_capacity(*i) != 0) {
            let written = written_count(ring.lane_word(i, lane::WRITTEN), ring.lane_tail(i));
            let delivered = ring.lane_ack(i, ack::COUNT).load(SeqCst);
            if written != delivered {
                return Err(format!("stat: lane {i} has {written} written and {delivered} delivered"));
            }
            if ring.lane_ack(i, ack::RELEASED).load(SeqCst) != ring.lane_tail(i) {
                return Err(format!("stat: lane {i} is not released to its tail"));
            }
            found.lost += ring.lane_word(i, lane::LOST);
        }
        found.lost += ring.load(word::LOST);
        let tail = ring.load(word::SHARED_TAIL);
        let delivered = ring.ack(ack::SHARED_COUNT).load(SeqCst);
        if shared::claims(tail) < delivered {
            return Err(format!("stat: {} claims, {delivered} delivered", shared::claims(tail)));
        }
        if ring.ack(ack::SHARED_RELEASED).load(SeqCst) != shared::position(tail) {
            return Err("stat: the shared lane is not released to its tail".into());
        }
        found.holes += shared::claims(tail) - delivered;
        let (counted, spilled) = (ring.load(word::SPILLED), ring.ack(ack::SPILL_COUNT).load(SeqCst));
        if spilled < counted {
            return Err(format!("stat: {counted} records spilled, {spilled} delivered"));
        }
        let tail = ring.load(word::SPILL_TAIL);
        if ring.ack(ack::SPILL_DELIVERED).load(SeqCst) != shared::position(tail) {
            return Err("stat: the spill is not delivered to its tail".into());
        }
        found.uncounted += spilled - counted;
        found.holes += shared::claims(tail) - spilled;
    }
    if found.lost != reported {
        return Err(format!("stat: {} lost by the headers, {reported} in the journal", found.lost));
    }
    let c = |at| channel.ctl().word(at).load(SeqCst);
    let (written, delivered, lost) = (c(ctl::GONE_WRITTEN), c(ctl::GONE_DELIVERED), c(ctl::GONE_LOST));
    if written != delivered + lost || delivered != found.records.len() as u64 || lost != found.lost {
        return Err(format!(
            "stat: {written} written, {delivered} delivered, {lost} lost; the journal has {}",
            found.records.len()
        ));
    }
    Ok(found)
}

/// Holds what was found against the acknowledgement log.
pub fn judge(calls: &[Seen], found: &Found) -> Result<(), String> {
    let by_text: HashMap<String, usize> = calls.iter().enumerate().map(|(i, s)| (s.call.text(), i)).collect();
    let mut place: Vec<Option<usize>> = vec![None; calls.len()];
    for (n, r) in found.records.iter().enumerate() {
        let Some(&i) = by_text.get(&r.text) else {
            return Err(format!("torn or foreign: {:?} was never logged", r.text));
        };
        if let Some(first) = place[i].replace(n) {
            return Err(format!("doubled: {:?} at {first} and {n}", r.text));
        }
    }
    let short = |c: Call| c.text().chars().take(40).collect::<String>();
    let open = calls.iter().filter(|s| s.ended.is_none()).count() as u64;
    let missing: Vec<Call> = calls
        .iter()
        .zip(&place)
        .filter(|(s, p)| s.ended.is_some() && p.is_none())
        .map(|(s, _)| s.call)
        .collect();
    let missed = missing.len() as u64;
    if missed > found.lost {
        let (lost, first) = (found.lost, short(missing[0]));
        return Err(format!(
            "missing: {missed} acknowledged, {lost} counted as lost, the first is {first:?}"
        ));
    }
    if found.lost > missed + open {
        return Err(format!("{} counted as lost, {missed} missing", found.lost));
    }
    for (what, n) in
        [("claims without a record", found.holes), ("spilled records that are not counted", found.uncounted)]
    {
        if n > open {
            return Err(format!("stat: {n} {what}, {open} calls under way"));
        }
    }
    // A call that ended before another one of its thread began stands before it.
    let mut by_thread: HashMap<u32, Vec<(usize, &Seen)>> = HashMap::new();
    for (s, p) in calls.iter().zip(&place) {
        if let Some(p) = p {
            by_thread.entry(s.call.thread()).or_default().push((*p, s));
        }
    }
    for list in by_thread.values_mut() {
        list.sort_by_key(|(p, _)| *p);
        // Walking backwards: the earliest end of all that stand behind must not precede this begin.
        let mut earliest: Option<&Seen> = None;
        for (_, s) in list.iter().rev() {
            if let Some(e) = earliest
                && e.ended.is_some_and(|end| end < s.begun)
            {
                return Err(format!("order: {:?} behind {:?}", short(e.call), short(s.call)));
            }
            let end = |s: &Seen| s.ended.unwrap_or(usize::MAX);
            if earliest.is_none_or(|e| end(s) < end(e)) {
                earliest = Some(s);
            }
        }
    }
    Ok(())
}
