//! How far the sinks of the channel are, as their status pages say. Not async-signal-safe.

use crate::error::{Error, Result};
use crate::layout::sink::stat as s;
use std::fmt;
use std::path::Path;

/// A sink that has not delivered everything.
pub(super) struct Behind {
    name: String,
    pending: u64,
    /// It will not go on by itself.
    pub gave_up: bool,
    state: u64,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            s::STATE_FOLLOWING => "is behind",
            s::STATE_DELIVERED | s::STATE_STOPPED => "has stopped (start a drain with this output)",
            s::STATE_BROKEN => "has lost its reader",
            _ => "has given up (its output cannot be used)",
        };
        write!(f, "sink {} {state}, {} records pending", self.name, self.pending)
    }
}

/// The sinks of a channel that have not delivered the record before number `end`.
pub(super) fn behind(channel: &Path, end: u64) -> Result<Vec<Behind>> {
    let failed = |e| Error::os(format!("list the channel's directory {}", channel.display()), e);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(channel).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|n| n.strip_prefix("sink-")?.strip_suffix(".stat")) else {
            continue;
        };
        // Gone, or replaced, meanwhile: another look follows, or there is nothing to wait for.
        let Ok(page) = std::fs::read(entry.path()) else { continue };
        let word = |at: u64| {
            let bytes = page.get(at as usize..at as usize + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        if word(s::ST_MAGIC) != Some(s::MAGIC) || word(s::ST_VERSION).map(|v| v as u32) != Some(s::VERSION) {
            continue;
        }
        let (Some(next), Some(state)) = (word(s::ST_NEXT), word(s::ST_STATE)) else { continue };
        if next < end {
            let gave_up = matches!(state, s::STATE_BROKEN | s::STATE_FAILED);
            all.push(Behind { name: name.to_owned(), pending: end - next, gave_up, state });
        }
    }
    Ok(all)
}
