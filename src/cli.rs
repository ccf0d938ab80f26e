//! The command line: typed arguments, checked before anything is opened, and the table of exit statuses.

/// A line on stderr, after the program's name.
macro_rules! say {
    ($($t:tt)*) => { crate::cli::print_line(&format!($($t)*)) };
}

mod bench;
mod capture;
mod cat;
mod counts;
mod drain;
mod engine;
mod filter;
mod holders;
mod inspect;
mod keep;
mod ls;
mod notify;
mod pages;
mod place;
mod read;
mod rm;
mod run;
mod screen;
mod stat;
mod times;

use clap::{CommandFactory, Parser, Subcommand};
use place::ChannelArg;
use spillring::doctor::{Machine, any_bad};
use spillring::env::{Settings, TABLE};
use spillring::sys::child;
use spillring::{Code, Error};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// How a command ended. `run` ends with its command's status instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Done = 0,
    /// An error, which was named; `stat`: the numbers do not add up; `doctor`: something is bad.
    Failed = 1,
    /// An argument that is not allowed.
    Usage = 2,
    /// `drain`: all is in the journal, a sink has not got all of it.
    SinkLags = 3,
    /// There is no such channel or journal.
    NoChannel = 4,
    /// Another drain has the channel; `rm`: it is in use.
    InUse = 5,
    /// `cat`, `inspect`: a part of the journal or a file is damaged; the rest was shown.
    Damaged = 6,
    /// `run --strict`: run itself failed, and the command was not started.
    RunFailed = 125,
    /// `run`: the command is not executable.
    NotExecutable = 126,
    /// `run`: there is no such command.
    NotFound = 127,
}

/// Exit statuses as `--help` shows them.
pub const EXITS: &[(&str, &str)] = &[
    ("0", "done"),
    ("1", "an error, named on stderr; stat: the numbers do not add up; doctor: something is bad"),
    ("2", "an argument that is not allowed"),
    ("3", "drain: a sink has not got all that is in the journal"),
    ("4", "there is no such channel or journal"),
    ("5", "drain: another drain has the channel; rm: it is in use"),
    ("6", "cat, inspect: a part is damaged; the rest was shown"),
    ("125", "run --strict: run itself failed, the command was not started"),
    ("126", "run: the command is not executable"),
    ("127", "run: there is no such command"),
    ("128+n", "run: signal n ended the command"),
    ("other", "run: the command's own status"),
];

impl From<Exit> for ExitCode {
    fn from(e: Exit) -> ExitCode {
        ExitCode::from(e as u8)
    }
}

impl From<&Error> for Exit {
    fn from(e: &Error) -> Exit {
        match e.code {
            Code::NoChannel => Exit::NoChannel,
            Code::DrainRunning => Exit::InUse,
            Code::Damaged => Exit::Damaged,
            _ => Exit::Failed,
        }
    }
}

const ABOUT: &str = "\
Runs a command, or serves programs that log through the spillring library, so that nothing that was \
logged is lost: records go through shared memory, which outlives the program that wrote them, into a \
journal on disk, and from there to wherever they are wanted.";

const EXAMPLES: &str = "\
Examples:
  spillring run -- make -j8                    as `make -j8`, and everything it printed is in a journal
  spillring run -o build.log -- make -j8       the same, with a time before each line, into a file
  spillring drain web &                        serve the channel `web` ...
  SPILLRING_CHANNEL=web ./server               ... for a program that logs to it
  spillring cat web                            what is in its journal
  spillring tail -f web                        the end of it, and what comes
  spillring cat web --since -5min --level warn --grep 'time.?out'
  spillring stat web                           written = delivered + pending + suppressed + lost ?
  spillring ls                                 all channels, their producers and what is pending";

/// The part of `--help` behind the options.
fn after_help() -> String {
    let mut s = format!("{EXAMPLES}\n\nExit status:\n");
    for (status, what) in EXITS {
        let _ = writeln!(s, "  {status:<6} {what}");
    }
    s.push_str("\nEnvironment (a value that is not allowed is named, and the default is used):\n");
    for v in TABLE {
        let _ = writeln!(s, "  {} ({}): {}", v.name, v.unit, v.help);
        let _ = writeln!(s, "      default {}; allowed: {}", v.default, v.bound);
    }
    s.push_str("\nSizes take k, m, g and t (powers of 1024); times take us, ms, s, m, h and d.");
    s
}

const RUN: &str = "\
Runs COMMAND as it would run by itself, captures its stdout and stderr as records, and prints them: what \
it wrote to stdout goes to stdout, what it wrote to stderr to stderr, byte for byte, a part of a line at \
once. A reader that stops reading never slows the command: what it printed is in the journal, and comes out \
when the reader returns. A reader that goes away closes the command's stream, as a pipe would.

The command gets a channel by SPILLRING_DIR and SPILLRING_CHANNEL; what it logs there through the library \
is in the same journal. stdin is its own. stdout and stderr are pipes, to which the C library writes in \
blocks: what is in the program's own buffer dies with it; --pty gives it terminals instead. It stays in this \
process group: what the terminal sends reaches it once, a signal that is sent to spillring is passed on \
once, and when it stops or goes on, so does spillring. The exit status is the command's.

A second process, the drain, delivers; each of the two goes on if the other is killed. When the command has \
ended and others still have its stdout or stderr open, they are read for --linger and then named, and the \
drain reads on until they end. Without --channel the channel is removed when all was delivered and the \
command was not killed; else it is named.

A file (-o) may be moved away at any time: within a second, or at once on SIGHUP, a new one is begun. One that \
cannot be written (a full disk) is tried again; when the command has ended, for SPILLRING_FLUSH_TIMEOUT, and then \
the channel is kept and named. With raw in one file the streams change only at the ends of lines, or after a second without one.

If no channel can be made, a line on stderr says why, and the command runs on the streams as they are.";

const DRAIN: &str = "\
Serves CHANNEL until it gets SIGTERM or SIGINT: takes every record from the shared memory of its \
producers, dead ones included, in order into the journal; and from there to each output.

At the end everything is in the journal. Outputs get SPILLRING_FLUSH_TIMEOUT beyond their last progress; \
if one has not got all by then, a line names it, what is pending and the command that prints it, and the \
exit status is 3. The next drain goes on where each output stopped.";

const CAT: &str = "\
Prints the journal of CHANNEL to stdout, oldest record first; of several channels, by time. It never disturbs \
who logs or who drains. What is damaged or was deleted is said on stderr, and the rest is printed.

On a terminal text has colours (not with NO_COLOR) and local time, and goes through $PAGER (less) when it is \
longer than the screen. In a pipe or a file it is what a sink writes: UTC, no colours.";

const TAIL: &str = "\
Prints the last lines of the journal of CHANNEL, and with -f what comes from then on; of several channels, by \
time. It reads from the end: how large the journal is does not matter. With filters it goes back until it has \
found as many lines as asked for.";

const STAT: &str = "\
Shows what became of every record of CHANNEL: written = delivered + pending + suppressed + lost, for every \
lane of every producer; what each output lags behind; how long calls were in the kernel.

`delivered` is what is in the journal. The exit status is 1 when that does not add up: `pending` is \
negative, or is not 0 although every producer is dead and the drain has passed.";

const DOCTOR: &str = "\
Looks at this machine as a program with the present environment would find it, a line for each question: good; \
note (it costs something, or matters to some uses only); BAD (records may be lost, or calls may wait), each with \
what to do. The exit status is 1 when something is BAD.";

const SERVICE: &str = "\
Prints the unit spillring@.service: `systemctl start spillring@web` then drains the channel `web`. It is notified \
when the drain is ready, has its directories made, and may do nothing else.";

const LS: &str = "\
Lists the channels in SPILLRING_DIR: the pid of the drain, producers alive and dead, and how many records \
and bytes are not in the journal yet.";

const RM: &str = "\
Removes a channel: its files in shared memory, and its journal. It refuses while a producer lives, while a \
drain runs, and while there are records that are in no journal yet.";

const BENCH: &str = "\
Measures on this machine, in less than 30 s: what a log call costs, in the middle and in the worst of a \
thousand; and how many records a second become lines of a text file, from the first call to the last byte. \
Each beside its floor: for the call, reading the clock, copying the same bytes and one release store into a \
lane of the same drain; for the text, one thread that makes the same lines and writes 64 KiB at a time.

It makes a channel of its own in SPILLRING_DIR and a journal of its own in the journal directory, and takes \
both away. SPILLRING_LANE and SPILLRING_CLOCK are those of the environment.";

#[derive(Parser, Debug)]
#[command(name = "spillring", version, about = ABOUT, after_long_help = after_help(), max_term_width = 110)]
#[command(after_help = "--help shows examples, exit statuses and the environment.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
enum Command {
    /// Run a command and keep what it prints
    #[command(long_about = RUN)]
    Run(RunArgs),
    /// The drain of a run, in a process of its own
    #[command(hide = true)]
    KeepRun(KeepArgs),
    /// Deliver a channel: shared memory to journal, journal to files
    #[command(long_about = DRAIN)]
    Drain(DrainArgs),
    /// Print the journal of a channel
    #[command(long_about = CAT)]
    Cat(CatArgs),
    /// Print the end of the journal of a channel, and follow it
    #[command(long_about = TAIL)]
    Tail(TailArgs),
    /// Show the counters of a channel, and whether they add up
    #[command(long_about = STAT)]
    Stat(StatArgs),
    /// List the channels
    #[command(long_about = LS)]
    Ls(LsArgs),
    /// Remove a channel and its journal
    #[command(long_about = RM)]
    Rm(RmArgs),
    /// Show what is in the files, field by field or batch by batch
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Measure a log call and the way to a text file on this machine, beside their floors (under 30 s)
    #[command(long_about = BENCH)]
    Bench(BenchArgs),
    /// Look whether this machine lets everything promised hold, and say what to do
    #[command(long_about = DOCTOR)]
    Doctor(DoctorArgs),
    /// Print a systemd unit that drains a channel
    #[command(long_about = SERVICE)]
    Service(ServiceArgs),
    /// Print a man page, or write all of them
    Man(ManArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// What was captured, byte for byte
    Raw,
    /// A line a record: time, level, process, target, text
    Text,
    /// A JSON object a record, one a line
    Json,
}

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// Append to FILE (made with mode 0600) instead of printing
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Form of the output [default: raw; with -o: SPILLRING_FORMAT]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Name of the channel; without one it is made for this run, and removed when all was delivered
    #[arg(long, value_name = "NAME", value_parser = place::channel_name)]
    channel: Option<String>,
    /// Leave stdout and stderr alone: only provide a channel
    #[arg(long, conflicts_with = "pty")]
    no_capture: bool,
    /// Give the command terminals for stdout and stderr instead of pipes: it prints line by line, in colour;
    /// they have the size of this one, also when that changes. stdin stays as it is
    #[arg(long)]
    pty: bool,
    /// How long to read on after the command has ended, while others have its stdout or stderr open; `inf`
    /// waits for all of them, as a shell's pipe does
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = Linger::from_str, allow_hyphen_values = true)]
    linger: Linger,
    /// Always say at the end how much it was (else: on a terminal, or when something was lost)
    #[arg(long)]
    summary: bool,
    /// Do not start the command when no channel can be made: exit with 125
    #[arg(long)]
    strict: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How long `run` reads on after its command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger(Option<Duration>);

impl Linger {
    /// `None`: for ever.
    pub fn limit(self) -> Option<Duration> {
        self.0
    }
}

impl FromStr for Linger {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Linger, String> {
        if s == "inf" {
            return Ok(Linger(None));
        }
        let most = Duration::from_secs(365 * 86_400);
        let time = spillring::env::time(s, Some(Duration::from_secs(1))).filter(|t| *t <= most);
        time.map(|t| Linger(Some(t))).ok_or("allowed: inf, or 0 to 365d, such as 500ms, 3s, 2m".to_string())
    }
}

/// Arguments of the drain that `run` starts.
#[derive(clap::Args, Debug)]
pub struct KeepArgs {
    /// Descriptor of the socket to run
    #[arg(long)]
    control: i32,
    /// Descriptor of the command's stdout
    #[arg(long)]
    out: Option<i32>,
    /// Descriptor of the command's stderr
    #[arg(long)]
    err: Option<i32>,
    /// The channel's directory
    #[arg(long)]
    channel_dir: PathBuf,
    /// Pid of run
    #[arg(long)]
    run: u32,
    /// As for run
    #[arg(long)]
    output: Option<PathBuf>,
    /// As for run
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// As for run
    #[arg(long)]
    no_capture: bool,
    /// The channel goes with the run
    #[arg(long)]
    unnamed: bool,
    /// Where the drain before this one had begun
    #[arg(long)]
    again: Option<String>,
}

/// Arguments of `drain`.
#[derive(clap::Args, Debug)]
pub struct DrainArgs {
    /// Name of a channel, or the path of its directory
    channel: ChannelArg,
    /// Also append to FILE (made with mode 0600), `-` = stdout; may be given several times
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,
    /// Form of the outputs [default: SPILLRING_FORMAT]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// What `cat` and `tail` have in common.
#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    filter: filter::FilterArgs,
    /// Form of the output; raw prints what was captured (stdout and stderr) and nothing else
    /// [default: text; for a sink of run: raw]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// As --format json: an object a line
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Colours
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    color: ColorWhen,
    /// Do not start a pager on a terminal
    #[arg(long)]
    no_pager: bool,
}

/// When text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Arguments of `cat`.
#[derive(clap::Args, Debug)]
pub struct CatArgs {
    /// Names of channels, paths of their directories, or of journals
    #[arg(required = true)]
    channel: Vec<ChannelArg>,
    /// Begin where the sink NAME stopped (`drain` and `run` print it when one lags)
    #[arg(long, value_name = "NAME")]
    from_sink: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

/// Arguments of `tail`.
#[derive(clap::Args, Debug)]
pub struct TailArgs {
    /// Names of channels, paths of their directories, or of journals
    #[arg(required = true)]
    channel: Vec<ChannelArg>,
    /// Go on with what comes, until it is interrupted
    #[arg(short, long)]
    follow: bool,
    /// How many lines of what is there
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: usize,
    #[command(flatten)]
    show: ShowArgs,
}

/// Arguments of `stat`.
#[derive(clap::Args, Debug)]
pub struct StatArgs {
    /// Name of a channel, or the path of its directory [default: SPILLRING_CHANNEL]
    channel: Option<ChannelArg>,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `ls`.
#[derive(clap::Args, Debug)]
pub struct LsArgs {}

/// Arguments of `rm`.
#[derive(clap::Args, Debug)]
pub struct RmArgs {
    /// Names of channels, or paths of their directories
    #[arg(required = true)]
    channel: Vec<ChannelArg>,
    /// Whatever lives, runs or is pending
    #[arg(long)]
    force: bool,
    /// Leave the journal
    #[arg(long)]
    keep_journal: bool,
}

/// Arguments of `bench`.
#[derive(clap::Args, Debug)]
pub struct BenchArgs {
    /// Records of one run to the text file
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    records: u64,
    /// Bursts of 50 calls that each of the pairs measures
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = small)]
    bursts: usize,
    /// Directory for the journal and the text: the disk that is measured [default: the journal directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn small(s: &str) -> Result<usize, String> {
    s.parse().ok().filter(|n| (1..=1_000_000).contains(n)).ok_or("1 to 1000000".to_string())
}

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
pub struct DoctorArgs {}

/// Arguments of `service`.
#[derive(clap::Args, Debug)]
pub struct ServiceArgs {
    /// The processor that the drain is pinned to
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..1024))]
    cpu: Option<u32>,
}

/// Arguments of `man`.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// A command; without one the page of spillring itself
    command: Option<String>,
    /// Write the pages of all commands into DIR
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// What `inspect` shows.
#[derive(Subcommand, Debug)]
pub enum InspectCommand {
    /// Every field of every file: offset, size, name
    Layout,
    /// The headers of a channel's files
    Channel {
        /// Name of a channel, or the path of its directory
        channel: ChannelArg,
    },
    /// Segments and batches of a journal, and what is damaged
    Journal {
        /// Name of a channel, the path of its directory, or that of a journal
        channel: ChannelArg,
    },
}

impl Format {
    /// As on the command line.
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or(String::new(), |v| v.get_name().to_string())
    }
}

/// A path that holds from any directory.
fn absolute(path: &std::path::Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// In one write, so that no other line comes between; and where nobody hears it, the work goes on.
fn print_line(line: &str) {
    let line = format!("spillring: {}\n", line.strip_prefix("spillring: ").unwrap_or(line));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn doctor(settings: &Settings) -> spillring::Result<Exit> {
    let checks = Machine::this().checks(settings);
    let text: String = checks.iter().map(|c| format!("{c}\n")).collect();
    let done = std::io::stdout().write_all(text.as_bytes());
    done.map_err(|e| Error::os("writing to stdout", e))?;
    Ok(if any_bad(&checks) { Exit::Failed } else { Exit::Done })
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap's own status for a usage error is 2; help and version are no error.
            let _ = e.print();
            return if e.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    if !matches!(cli.command, Command::Run(_) | Command::KeepRun(_) | Command::Drain(_)) {
        child::restore_sigpipe();
        // The runtime has put /dev/null there: what is printed would vanish without an error.
        if !matches!(cli.command, Command::Rm(_)) && child::closed_at_start(1) {
            say!("stdout is closed, so nothing can be printed: open it (`>FILE`, `>/dev/null`)");
            return Exit::Failed.into();
        }
    }
    let (settings, problems) = Settings::from_env();
    // What is wrong with the environment was said by run.
    if !matches!(cli.command, Command::KeepRun(_)) {
        problems.iter().for_each(|p| say!("{p}"));
    }
    let done = match cli.command {
        Command::Run(args) => return run::run(&args, settings),
        Command::KeepRun(args) => return keep::run(&args, settings),
        Command::Drain(args) => drain::run(&args, &settings),
        Command::Cat(args) => cat::run(&args, &settings),
        Command::Tail(args) => cat::tail(&args, &settings),
        Command::Stat(args) => stat::run(&args, &settings),
        Command::Ls(args) => ls::run(&args, &settings),
        Command::Rm(args) => rm::run(&args, &settings),
        Command::Inspect(what) => inspect::run(&what, &settings),
        Command::Bench(args) => bench::run(&args, &settings),
        Command::Doctor(_) => doctor(&settings),
        Command::Service(args) => pages::service(&args),
        Command::Man(args) => pages::man(&args, Cli::command()),
        Command::Completions(args) => pages::completions(&args, Cli::command()),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(e) => {
            say!("{e}");
            Exit::from(&e).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    fn parse(args: &[&str]) -> Result<Command, String> {
        let all = ["spillring"].iter().chain(args);
        Cli::try_parse_from(all).map(|c| c.command).map_err(|e| e.to_string())
    }

    #[test]
    fn run_takes_the_rest_as_its_command() {
        let Ok(Command::Run(a)) = parse(&["run", "-o", "f", "--", "ls", "-o", "--strict"]) else { panic!() };
        assert_eq!(a.command, ["ls", "-o", "--strict"]);
        assert_eq!((a.output, a.strict), (Some("f".into()), false));
        // Without `--` too, once the command has begun.
        let Ok(Command::Run(a)) = parse(&["run", "--strict", "ls", "-o", "x"]) else { panic!() };
        assert_eq!((a.command.len(), a.strict, a.output), (3, true, None));
        assert!(parse(&["run"]).is_err() && parse(&["run", "--"]).is_err());
        // An option that is misspelt is not the command, but for one that says so.
        let e = parse(&["run", "--fromat", "raw", "--", "ls"]).unwrap_err();
        assert!(e.contains("--fromat") && e.contains("--format"), "{e}");
        let Ok(Command::Run(a)) = parse(&["run", "--", "--fromat", "raw"]) else { panic!() };
        assert_eq!(a.command, ["--fromat", "raw"]);
    }

    #[test]
    fn bad_values_are_named_with_what_is_allowed() {
        let e = parse(&["run", "--channel", "a/b", "x"]).unwrap_err();
        assert!(e.contains("a/b") && e.contains("1 to 64"), "{e}");
        let e = parse(&["run", "--format", "yaml", "x"]).unwrap_err();
        assert!(e.contains("yaml") && e.contains("raw"), "{e}");
        let e = parse(&["drain", "a b"]).unwrap_err();
        assert!(e.contains("a b") && e.contains("path"), "{e}");
        assert!(parse(&["drain"]).is_err() && parse(&["cat", "x", "--from-sink"]).is_err());
    }

    #[test]
    fn help_names_every_variable_and_every_status() {
        let help = Cli::command().render_long_help().to_string();
        for v in TABLE {
            assert!(help.contains(v.name), "{}", v.name);
        }
        for e in [Exit::Failed, Exit::SinkLags, Exit::InUse, Exit::RunFailed, Exit::NotFound] {
            assert!(EXITS.iter().any(|(s, _)| *s == (e as u8).to_string()), "{e:?}");
        }
    }
}
