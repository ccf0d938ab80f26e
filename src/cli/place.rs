//! Where a channel is that a command names, and where its journal is.

use spillring::channel::{Channel, Role};
use spillring::env::{self, Settings};
use spillring::{Code, Error, Result};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A channel by name, or by the path of its directory (which has a `/` in it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelArg {
    /// Inside the directory of the channels.
    Name(String),
    /// Anywhere.
    Path(PathBuf),
}

/// A channel's name, for clap.
pub fn channel_name(s: &str) -> std::result::Result<String, String> {
    env::channel_name(s).map_err(|allowed| format!("allowed: {allowed}"))
}

impl FromStr for ChannelArg {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        if s.contains('/') {
            return Ok(ChannelArg::Path(s.into()));
        }
        channel_name(s)
            .map(ChannelArg::Name)
            .map_err(|e| format!("{e}; or the path of a directory, with a /"))
    }
}

impl fmt::Display for ChannelArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelArg::Name(n) => f.write_str(n),
            ChannelArg::Path(p) => p.display().fmt(f),
        }
    }
}

impl ChannelArg {
    /// The channel's directory.
    pub fn dir(&self, settings: &Settings) -> PathBuf {
        match self {
            ChannelArg::Name(n) => settings.dir.join(n),
            ChannelArg::Path(p) => std::path::absolute(p).unwrap_or_else(|_| p.clone()),
        }
    }

    /// The directory of its journal, or of the journal that is named itself.
    ///
    /// # Errors
    /// [`Code::NoChannel`], which names every place that was looked at.
    pub fn journal(&self, settings: &Settings) -> Result<PathBuf> {
        let dir = self.dir(settings);
        let mut places = settings.journal_candidates(&dir);
        if matches!(self, ChannelArg::Path(_)) {
            places.push(dir);
        }
        if let Some(found) = places.iter().find(|p| has_segments(p)) {
            return Ok(found.clone());
        }
        let looked: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
        let text = "check the name (spillring ls), or start a drain for it";
        Err(Error::new(
            Code::NoChannel,
            format!("there is no journal of channel {self} in {}: {text}", looked.join(", ")),
        ))
    }
}

fn has_segments(dir: &Path) -> bool {
    let segment =
        |name: &OsStr| name.to_str().is_some_and(|n| spillring::journal::Segment::parse(n).is_some());
    std::fs::read_dir(dir).is_ok_and(|d| d.flatten().any(|e| segment(&e.file_name())))
}

/// Opens a channel for looking at it.
pub fn open(dir: &Path) -> Result<Channel> {
    Channel::create_or_open(dir, false, Role::Producer)
}

/// The pid of the drain that has the channel, 0 = in another pid namespace; `None`: there is no drain. Not
/// to be asked by a process that drains: closing the lock's file would drop its lock.
pub fn drain_of(channel: &Channel) -> Option<u32> {
    use spillring::sys::file;
    let path = channel.paths().lock().ok()?;
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let fd = file::open(path.as_c(), flags, 0).ok()?;
    file::lock_holder(fd.raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_a_path() {
        assert_eq!("web".parse(), Ok(ChannelArg::Name("web".into())));
        assert_eq!("./web".parse(), Ok(ChannelArg::Path("./web".into())));
        assert!("a b".parse::<ChannelArg>().is_err() && "".parse::<ChannelArg>().is_err());
    }
}
