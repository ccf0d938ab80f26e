//! Rows of rivals: `benches/rivals`, built here, in processes of their own, the same workload and clock.

use crate::child::{Running, output, with_us};
use crate::drain_rows::{WITH_LINE, text_rate};
use crate::machine::warm;
use crate::output::Row;
use crate::pairs::{Pairs, Target};
use crate::place::{Scratch, failed};
use crate::{Bench, Mode, flood};
use spillring::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A rival that can be run, or why it cannot.
struct Rival {
    name: &'static str,
    program: Result<PathBuf>,
    /// What stands before the arguments.
    first: Vec<&'static str>,
}

impl Rival {
    fn command(&self, args: &[String]) -> Result<Command> {
        let program = self.program.as_ref().map_err(|e| failed(e.message.clone()))?;
        let mut c = with_us(program);
        c.args(&self.first).args(args).stdin(Stdio::null());
        Ok(c)
    }

    fn number(&self, b: &Bench, args: &[String]) -> Result<f64> {
        let out = output(self.command(args)?, b.limit())?;
        let text = String::from_utf8_lossy(&out);
        let last = text.lines().last().unwrap_or_default().trim();
        last.parse().map_err(|_| failed(format!("{}: it says {text:?}", self.name)))
    }
}

/// Runs a compiler; where that fails the reason is its first error.
fn build(c: Command, result: PathBuf) -> Result<PathBuf> {
    output(c, Duration::from_secs(900)).map(|_| result)
}

/// All of them, built.
fn all(b: &Bench) -> Vec<Rival> {
    let (from, to) = (b.root.join("benches/rivals"), b.target.join("rivals"));
    let _ = std::fs::create_dir_all(&to);
    let later =
        || Err(failed("rivals are not built under cargo test; cargo bench --bench report builds them"));
    let tiny = b.mode == Mode::Tiny;
    let rust = if tiny {
        later()
    } else {
        let mut c = with_us(env!("CARGO"));
        c.args(["build", "--release", "--locked", "--manifest-path"]).arg(from.join("Cargo.toml"));
        c.arg("--target-dir").arg(&to).stdin(Stdio::null());
        build(c, to.join("release/rivals"))
    };
    let spdlog = if tiny {
        later()
    } else {
        let mut c = with_us("c++");
        c.args([
            "-O3",
            "-std=c++17",
            "-DSPDLOG_SHARED_LIB",
            "-DSPDLOG_COMPILED_LIB",
            "-DSPDLOG_FMT_EXTERNAL",
        ]);
        c.arg("-o").arg(to.join("spdlog")).arg(from.join("spdlog.cpp"));
        c.args(["-lspdlog", "-lfmt", "-pthread"]);
        build(c, to.join("spdlog")).map_err(|e| failed(format!("needs c++ and libspdlog-dev: {}", e.message)))
    };
    let lttng = if tiny {
        later()
    } else {
        let mut c = with_us("cc");
        c.arg("-O2").arg("-I").arg(&from).arg("-o").arg(to.join("lttng")).arg(from.join("lttng.c"));
        c.args(["-llttng-ust", "-llttng-ust-common", "-ldl"]);
        build(c, to.join("lttng"))
            .map_err(|e| failed(format!("needs cc, liblttng-ust-dev and lttng-tools: {}", e.message)))
    };
    let again = || rust.as_ref().map(PathBuf::clone).map_err(|e| failed(e.message.clone()));
    let of = |name| Rival { name, program: again(), first: vec![name] };
    vec![
        Rival { name: "spdlog", program: spdlog, first: vec![] },
        Rival { name: "LTTng-UST", program: lttng, first: vec![] },
        of("tracing-appender"),
        of("ftlog"),
        of("spdlog-rs"),
        of("write"),
    ]
}

fn shown(name: &str) -> String {
    if name == "write" { "a write(2) a record".into() } else { name.into() }
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|s| s.to_string()).collect()
}

/// A session that takes the tracepoint of `lttng.c`, with a session daemon of its own where none runs.
struct Session {
    name: String,
    _daemon: Option<Running>,
}

impl Session {
    fn tool(args: &[&str]) -> Result<Vec<u8>> {
        let mut c = with_us("lttng");
        // Without a daemon it says so, instead of starting one that stays.
        c.args(["--no-sessiond"]).args(args).stdin(Stdio::null());
        output(c, Duration::from_secs(30))
    }

    fn start(dir: &Path) -> Result<Session> {
        let mut daemon = None;
        if Session::tool(&["list"]).is_err() {
            let mut c = with_us("lttng-sessiond");
            c.arg("--no-kernel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            daemon =
                Some(Running::start(c).map_err(|e| failed(format!("needs lttng-tools: {}", e.message)))?);
            crate::place::until("the session daemon", Duration::from_secs(20), || {
                Session::tool(&["list"]).is_ok()
            })?;
        }
        let name = format!("spillring-bench-{}", std::process::id());
        let session = Session { name: name.clone(), _daemon: daemon };
        let path = dir.join("lttng");
        let output = path.to_string_lossy();
        Session::tool(&["create", &name, "--output", &output])?;
        Session::tool(&["enable-event", "--userspace", "--session", &name, "spillring_bench:record"])?;
        Session::tool(&["start", &name])?;
        Ok(session)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = Session::tool(&["destroy", &self.name]);
    }
}

/// A call of each, bursts of 50, 200 us apart, ours in the same rhythm.
pub fn calls(b: &Bench) -> Result<Vec<Row>> {
    let scratch = Scratch::new(&b.disk)?;
    let file = scratch.path().join("rival").to_string_lossy().into_owned();
    let bursts = b.size("20", "1000", "2000");
    let (drain, producer) = (b.cpus.0.to_string(), b.cpus.1.to_string());
    let args = words(&["calls", &file, bursts, "50", "200", &producer, &drain]);
    let mut rows = Vec::new();
    for rival in all(b) {
        let title = format!("log call: ours / {}", shown(rival.name));
        let measured = (|| -> Result<Pairs> {
            let _session = if rival.name == "LTTng-UST" && rival.program.is_ok() {
                Some(Session::start(scratch.path())?)
            } else {
                None
            };
            let mut pairs = Pairs::default();
            for i in 0..b.pairs().min(5) {
                let (mut ours, mut theirs) = (0.0, 0.0);
                for which in [i % 2, (i + 1) % 2] {
                    if which == 1 {
                        theirs = rival.number(b, &args)?;
                    } else if rival.program.is_ok() {
                        ours = b.measure(&["call", "paced"])?.pairs.sides().0;
                    }
                }
                pairs.0.push((ours, theirs));
            }
            Ok(pairs)
        })();
        rows.push(match measured {
            Ok(pairs) => Row::ratio("rival-calls", title, "ns", ("ours", "theirs"), pairs)
                .target(Target::Most(1.0))
                .foreign(),
            Err(e) => Row { name: title, ..Row::missing("rival-calls", e.message).foreign() },
        });
    }
    Ok(rows)
}

/// First call to last byte of each, against ours.
pub fn text(b: &Bench) -> Result<Vec<Row>> {
    let rivals = all(b);
    let mut rows = text_rows(b, &rivals, "text file")?;
    rows.extend(text_rows(&b.in_memory(), &rivals, "text file in memory")?);
    Ok(rows)
}

fn text_rows(b: &Bench, rivals: &[Rival], what: &str) -> Result<Vec<Row>> {
    let n: u64 = b.size(5_000, 1_000_000, 3_000_000);
    let scratch = Scratch::new(&b.disk)?;
    let file = scratch.path().join("rival");
    let path = file.to_string_lossy().into_owned();
    let (drain, producer) = (b.cpus.0.to_string(), b.cpus.1.to_string());
    let mut rows = Vec::new();
    for rival in rivals {
        let title = format!("{what}: ours / {}", shown(rival.name));
        if rival.name == "LTTng-UST" {
            let why = "it writes a binary trace, and no text";
            rows.push(Row { name: title, ..Row::missing("rival-text", why).foreign() });
            continue;
        }
        let args = words(&["text", &path, &n.to_string(), &producer, &drain]);
        let measured = (|| -> Result<Pairs> {
            let mut pairs = Pairs::default();
            for i in 0..b.pairs().min(5) {
                let (mut ours, mut theirs) = (0.0, 0.0);
                for which in [i % 2, (i + 1) % 2] {
                    if which == 1 {
                        warm(n * WITH_LINE);
                        theirs = n as f64 * 1e3 / rival.number(b, &args)?;
                        flood::check(&file, 0, n)?;
                        std::fs::remove_file(&file).map_err(|e| Error::os(file.display(), e))?;
                    } else if rival.program.is_ok() {
                        ours = text_rate(b, n, "text")?;
                    }
                }
                pairs.0.push((ours, theirs));
            }
            Ok(pairs)
        })();
        let target = if rival.name == "spdlog" { 3.4 } else { 1.0 };
        rows.push(match measured {
            Ok(pairs) => Row::ratio("rival-text", title, "M/s", ("ours", "theirs"), pairs)
                .target(Target::Least(target))
                .foreign(),
            Err(e) => Row { name: title, ..Row::missing("rival-text", e.message).foreign() },
        });
    }
    Ok(rows)
}
