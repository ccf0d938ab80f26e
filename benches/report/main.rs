//! `cargo bench --bench report`: where every nanosecond, system call and page goes, against a floor and
//! against rivals. See `benches/README.md` for how it is measured. Under `cargo test` it runs tiny.

#[path = "../../src/cli/bench/calls.rs"]
mod calls;
#[path = "../../src/cli/bench/flood.rs"]
mod flood;
#[path = "../../src/cli/bench/floor.rs"]
mod floor;
#[path = "../../src/cli/bench/pairs.rs"]
mod pairs;
#[path = "../../src/cli/bench/place.rs"]
mod place;

mod call_rows;
mod child;
mod drain_rows;
mod generator;
mod machine;
mod output;
mod program_rows;
mod rivals;

use output::{Report, Row};
use place::failed;
use spillring::Result;
use std::path::{Path, PathBuf};

/// The command, built along with this.
const BIN: &str = env!("CARGO_BIN_EXE_spillring");

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Seconds in all: only that everything works.
    Tiny,
    /// A few minutes.
    Quick,
    /// As the targets say.
    Full,
}

/// What every row knows.
#[derive(Clone)]
pub struct Bench {
    mode: Mode,
    /// The disk that is measured.
    disk: PathBuf,
    /// Where channels are.
    shm: PathBuf,
    /// The drain's processor, and the producer's.
    cpus: (usize, usize),
    /// The repository.
    root: PathBuf,
    /// Cargo's directory for what it builds.
    target: PathBuf,
}

impl Bench {
    /// A number by mode.
    fn size<T>(&self, tiny: T, quick: T, full: T) -> T {
        match self.mode {
            Mode::Tiny => tiny,
            Mode::Quick => quick,
            Mode::Full => full,
        }
    }
    /// Pairs of a row.
    fn pairs(&self) -> usize {
        self.size(1, 5, 7)
    }
    /// A place for one measurement.
    fn place(&self) -> Result<place::Place> {
        place::Place::new(&self.shm, &self.disk)
    }
    /// The same with journals and text in memory, as the channels are: a disk's page cache takes pages of any kind,
    /// and where a virtual machine gives its free ones to the host, the first touch of one costs up to ten times the
    /// second.
    fn in_memory(&self) -> Bench {
        Bench { disk: self.shm.join("disk"), ..self.clone() }
    }
    /// Our command.
    fn exe(&self) -> &'static Path {
        Path::new(BIN)
    }
}

type RowFn = fn(&Bench) -> Result<Vec<Row>>;

/// The rows by the name that `--rows` takes.
const ROWS: &[(&str, &str, RowFn)] = &[
    ("call-site", "a log call, thread lane, p50", call_rows::call_site),
    ("call-tail", "p99.9 of bursts of 20, 1.5 ms apart", call_rows::call_tail),
    ("sustained", "calls without a pause while a reader takes everything", call_rows::sustained),
    ("shared", "shared lane: one writer, two writers, a nested call", call_rows::shared),
    ("tick", "the call with SPILLRING_CLOCK=tick", call_rows::tick),
    ("disabled", "a call below the level", call_rows::disabled),
    ("spill", "a call that spills", call_rows::spill),
    ("journal", "ring to journal", drain_rows::journal),
    ("lanes", "cost of a record with many lanes, producers, records behind", drain_rows::lanes),
    ("readers", "what readers cost the drain and a writer", drain_rows::readers),
    ("delay", "call to journal and to tail -f, by idle policy", drain_rows::delay),
    ("text", "call to text file, and JSON lines", drain_rows::text),
    ("run", "run -o F -- GEN", program_rows::run),
    ("run-stuck", "run with a reader that never reads", program_rows::run_stuck),
    ("attach", "attach plus first call", program_rows::attach),
    ("memory", "shared, and resident in the drain", program_rows::memory),
    ("idle", "an idle drain", program_rows::idle),
    ("rival-calls", "a log call of each rival", rivals::calls),
    ("rival-text", "call to text file of each rival", rivals::text),
];

const HELP: &str = "\
usage: cargo bench --bench report -- [--quick] [--rows NAME,NAME...] [--disk DIR] [--list]

  --quick        smaller: a few minutes instead of about fifteen
  --rows NAMES   only these rows, by the names that --list shows
  --disk DIR     where journals and text files go: the file system that is measured [target/report]
  --list         the rows

Text on stdout; the same as text, JSON and SVG in target/report/.";

struct Options {
    mode: Mode,
    rows: Vec<&'static (&'static str, &'static str, RowFn)>,
    disk: Option<PathBuf>,
}

fn options(args: &[String]) -> Result<Options> {
    let mut o = Options { mode: Mode::Tiny, rows: ROWS.iter().collect(), disk: None };
    let mut args = args.iter();
    let mut quick = false;
    while let Some(a) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| failed(format!("{a} needs a value\n\n{HELP}")));
        match a.as_str() {
            // Cargo gives this one to a benchmark, and nothing to a test.
            "--bench" => o.mode = Mode::Full,
            "--test" => o.mode = Mode::Tiny,
            "--quick" => quick = true,
            "--disk" => o.disk = Some(value()?.into()),
            "--rows" => {
                let names = value()?;
                let find = |n: &str| {
                    let known = || ROWS.iter().map(|r| r.0).collect::<Vec<_>>().join(" ");
                    let row = ROWS.iter().find(|r| r.0 == n);
                    row.ok_or_else(|| failed(format!("there is no row {n:?}: {}", known())))
                };
                o.rows = names.split(',').map(|n| find(n.trim())).collect::<Result<_>>()?;
            }
            // What the harness of `cargo test` is given goes to every test: a filter, or its options.
            other if o.mode == Mode::Tiny && !other.starts_with("--ro") => {}
            other => return Err(failed(format!("{other:?} is not an option\n\n{HELP}"))),
        }
    }
    if quick {
        o.mode = Mode::Quick;
    }
    Ok(o)
}

fn run(args: &[String]) -> Result<bool> {
    let o = options(args)?;
    // .../target/tmp
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target")).to_path_buf();
    let out = target.join("report");
    let bench = Bench {
        mode: o.mode,
        disk: o.disk.unwrap_or_else(|| out.join("disk")),
        shm: Path::new("/dev/shm").join(format!("spillring-bench-{}", spillring::sys::process::euid())),
        cpus: place::cpus(),
        root: Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf(),
        target,
    };
    std::fs::create_dir_all(&bench.disk).map_err(|e| spillring::Error::os(bench.disk.display(), e))?;
    let mut report = Report::new(machine::facts(&bench));
    print!("{}", report.head());
    for (name, _, f) in &o.rows {
        let begun = std::time::Instant::now();
        let rows = f(&bench).unwrap_or_else(|e| vec![Row::missing(name, e.message)]);
        for row in rows {
            print!("{}", row.text());
            report.rows.push(row);
        }
        eprintln!("  [{name}: {:.1} s]", begun.elapsed().as_secs_f64());
    }
    print!("{}", report.foot());
    let name = if o.mode == Mode::Tiny { "tiny" } else { "report" };
    report.save(&out, name)?;
    // Tiny runs are a test: whatever is ours must work, on whatever machine; and where CI has installed the
    // tools, so must what needs them.
    let ci = std::env::var_os("CI").is_some_and(|v| v == "true");
    let excused = |r: &Row| r.foreign && !(ci && matches!(r.group.as_str(), "disabled" | "run"));
    Ok(bench.mode != Mode::Tiny || report.rows.iter().all(|r| r.missing.is_none() || excused(r)))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("--child") => child::main(&args[1..]).map(|()| true),
        Some("--list") => {
            ROWS.iter().for_each(|(name, what, _)| println!("{name:<12} {what}"));
            Ok(true)
        }
        Some("--help" | "-h") => {
            println!("{HELP}");
            Ok(true)
        }
        _ => run(&args),
    };
    match done {
        Ok(true) => {}
        Ok(false) => {
            eprintln!("report: a row of ours could not be measured");
            std::process::exit(1);
        }
        Err(e) => {
            eprintln!("report: {}", e.message);
            std::process::exit(2);
        }
    }
}
