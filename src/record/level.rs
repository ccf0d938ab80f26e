//! Levels.

use std::fmt;
use std::str::FromStr;

/// How much a record matters. The numbers are stored; 0 is no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// The program's steps.
    Trace = 1,
    /// What helps to find a fault.
    Debug = 2,
    /// What happens in normal operation.
    Info = 3,
    /// What should not happen, and did no harm yet.
    Warn = 4,
    /// What failed.
    Error = 5,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 5] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];

    /// Its name, in small letters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
    /// The level of a stored number.
    pub const fn from_u8(v: u8) -> Option<Level> {
        match v {
            1..=5 => Some(Level::ALL[v as usize - 1]),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = BadLevel;
    fn from_str(s: &str) -> Result<Self, BadLevel> {
        match s.parse() {
            Ok(Gate::From(level)) => Ok(level),
            _ => Err(BadLevel),
        }
    }
}

/// What the gate lets through: a level and what is above it, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// This level and those above it.
    From(Level),
    /// Nothing.
    Off,
}

impl Gate {
    const OFF: u32 = Level::Error as u32 + 1;

    /// Its number: the lowest level that passes, or one above all.
    pub(super) const fn number(self) -> u32 {
        match self {
            Gate::From(level) => level as u32,
            Gate::Off => Gate::OFF,
        }
    }
    pub(super) const fn of_number(n: u32) -> Gate {
        match Level::from_u8(if n > Gate::OFF { 0 } else { n as u8 }) {
            Some(level) => Gate::From(level),
            None => Gate::Off,
        }
    }
    /// Whether it lets this level through.
    pub const fn passes(self, level: Level) -> bool {
        level as u32 >= self.number()
    }

    /// The level's name, or "off".
    pub const fn as_str(self) -> &'static str {
        match self {
            Gate::From(level) => level.as_str(),
            Gate::Off => "off",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Gate {
    type Err = BadLevel;
    /// Capitals are as good as small letters.
    fn from_str(s: &str) -> Result<Self, BadLevel> {
        let all = Level::ALL.map(Gate::From);
        let found = all.into_iter().chain([Gate::Off]).find(|g| s.eq_ignore_ascii_case(g.as_str()));
        found.ok_or(BadLevel)
    }
}

/// A word that is no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLevel;

impl fmt::Display for BadLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown level: use trace, debug, info, warn or error (or off, to log nothing)")
    }
}

impl std::error::Error for BadLevel {}
