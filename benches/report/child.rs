//! Processes: a program attaches once in its life, so each measurement that attaches has one of its own.

use crate::output::Row;
use crate::pairs::Pairs;
use crate::place::failed;
use crate::{Bench, Mode, call_rows, drain_rows, generator, place, program_rows};
use serde_json::{Value, json};
use spillring::{Error, Result};
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const DISK: &str = "REPORT_DISK";
const SHM: &str = "REPORT_SHM";
const TARGET: &str = "REPORT_TARGET";
const MODE: &str = "REPORT_MODE";

/// What a child has measured.
#[derive(Debug, Default)]
pub struct Done {
    /// Pairs.
    pub pairs: Pairs,
    /// Name, value, unit.
    pub numbers: Vec<(String, f64, String)>,
    /// For people.
    pub notes: Vec<String>,
}

impl Done {
    /// Of these pairs.
    pub fn pairs(pairs: Pairs) -> Done {
        Done { pairs, ..Done::default() }
    }
    /// With a number.
    pub fn number(mut self, name: &str, value: f64, unit: &str) -> Done {
        self.numbers.push((name.into(), value, unit.into()));
        self
    }
    /// With a note.
    pub fn note(mut self, text: impl Into<String>) -> Done {
        self.notes.push(text.into());
        self
    }
    /// The number of that name.
    pub fn get(&self, name: &str) -> Result<f64> {
        let found = self.numbers.iter().find(|n| n.0 == name);
        found.map(|n| n.1).ok_or_else(|| failed(format!("no {name} was measured")))
    }
    /// As a row, with its numbers and notes.
    pub fn row(self, group: &str, name: &str, unit: &str, sides: (&str, &str)) -> Row {
        let mut row = Row::ratio(group, name, unit, sides, self.pairs);
        for (name, value, unit) in self.numbers {
            row = row.number(name, value, &unit, None);
        }
        row.notes = self.notes;
        row
    }

    fn to_json(&self) -> Value {
        json!({
            "pairs": self.pairs.0.iter().map(|(a, b)| json!([a, b])).collect::<Vec<_>>(),
            "numbers": self.numbers.iter().map(|(n, v, u)| json!([n, v, u])).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    /// From what a child printed.
    pub fn from_json(v: &Value) -> Option<Done> {
        let list = |name: &str| v[name].as_array();
        let text = |v: &Value| v.as_str().map(str::to_string);
        Some(Done {
            pairs: Pairs(
                list("pairs")?
                    .iter()
                    .map(|p| Some((p[0].as_f64()?, p[1].as_f64()?)))
                    .collect::<Option<_>>()?,
            ),
            numbers: list("numbers")?
                .iter()
                .map(|n| Some((text(&n[0])?, n[1].as_f64()?, text(&n[2])?)))
                .collect::<Option<_>>()?,
            notes: list("notes")?.iter().map(text).collect::<Option<_>>()?,
        })
    }
}

impl Bench {
    /// What the parent of this child is.
    fn from_env() -> Result<Bench> {
        let get = |n: &str| std::env::var_os(n).ok_or_else(|| failed(format!("{n}: started by hand?")));
        let mode = match get(MODE)?.to_str() {
            Some("tiny") => Mode::Tiny,
            Some("quick") => Mode::Quick,
            _ => Mode::Full,
        };
        Ok(Bench {
            mode,
            disk: get(DISK)?.into(),
            shm: get(SHM)?.into(),
            cpus: place::cpus(),
            root: Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf(),
            target: get(TARGET)?.into(),
        })
    }

    /// This program again.
    pub fn again(&self, args: &[&str]) -> Command {
        let exe = std::env::current_exe().unwrap_or_default();
        let mut c = with_us(exe);
        let mode = self.size("tiny", "quick", "full");
        c.env(DISK, &self.disk).env(SHM, &self.shm).env(TARGET, &self.target).env(MODE, mode);
        c.arg("--child").args(args).stdin(Stdio::null());
        c
    }

    /// How long a child may take.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.size(60, 300, 900))
    }

    /// What a child measures.
    pub fn measure(&self, args: &[&str]) -> Result<Done> {
        let out = output(self.again(args), self.limit())?;
        let text = String::from_utf8_lossy(&out);
        let last = text.lines().last().unwrap_or_default();
        let v = serde_json::from_str(last).ok();
        v.as_ref()
            .and_then(Done::from_json)
            .ok_or_else(|| failed(format!("{}: it says {text:?}", args.join(" "))))
    }
}

/// A command that ends when this process ends.
#[allow(unsafe_code)]
pub fn with_us(program: impl AsRef<OsStr>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut c = Command::new(program);
    // SAFETY: a system call only.
    unsafe {
        c.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    c
}

/// A process that does not outlive this value.
pub struct Running(pub Child);

impl Running {
    /// Starts it.
    pub fn start(mut c: Command) -> Result<Running> {
        let name = c.get_program().to_string_lossy().into_owned();
        c.spawn().map(Running).map_err(|e| Error::os(name, e))
    }
    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            match self.0.try_wait() {
                Ok(Some(s)) => return Ok(s),
                Ok(None) if begun.elapsed() > limit => {
                    return Err(failed(format!("a process did not end in {limit:?}")));
                }
                Ok(None) => std::thread::sleep(Duration::from_micros(200)),
                Err(e) => return Err(Error::os("waiting for a process", e)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it to its end; answers what it printed. An error with what it said on stderr where it failed.
pub fn output(mut c: Command, limit: Duration) -> Result<Vec<u8>> {
    let name = c.get_program().to_string_lossy().into_owned();
    c.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut r = Running::start(c)?;
    let (out, err) = (r.0.stdout.take(), r.0.stderr.take());
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut v = Vec::new();
            let _ = from.read_to_end(&mut v);
            v
        })
    };
    let out = out.map(|o| read(Box::new(o)));
    let err = err.map(|e| read(Box::new(e)));
    let status = r.wait(limit)?;
    let text =
        |t: Option<std::thread::JoinHandle<Vec<u8>>>| t.and_then(|t| t.join().ok()).unwrap_or_default();
    let (out, err) = (text(out), text(err));
    if status.success() {
        return Ok(out);
    }
    let said = String::from_utf8_lossy(&err);
    let line = said.lines().find(|l| l.contains("error")).or(said.lines().last()).unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy();
    Err(failed(format!("{name}: {status}: {line}")))
}

/// The part of this program that children are.
pub fn main(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (what, rest) = args.split_first().ok_or_else(|| failed("--child of what?"))?;
    if *what == "generate" {
        return generator::main(rest);
    }
    let b = Bench::from_env()?;
    let done = match *what {
        "call" => call_rows::call_child(&b, rest)?,
        "sustained" => call_rows::sustained_child(&b)?,
        "shared" => call_rows::shared_child(&b, rest)?,
        "spill" => call_rows::spill_child(&b)?,
        "journal" => drain_rows::journal_child(&b, rest)?,
        "lanes" => drain_rows::lanes_child(&b, rest)?,
        "readers" => drain_rows::readers_child(&b)?,
        "delay" => drain_rows::delay_child(&b, rest)?,
        "producer" => drain_rows::producer_child(&b, rest)?,
        "lines" => drain_rows::lines_child(&b, rest)?,
        "attach" => program_rows::attach_child()?,
        "sleeper" => return program_rows::sleeper_child(rest),
        other => return Err(failed(format!("--child {other}?"))),
    };
    println!("{}", done.to_json());
    Ok(())
}
