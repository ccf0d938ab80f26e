//! The Python package as its users meet it: the wheel is built by its one command, installed into a fresh
//! venv by pip with neither a compiler nor Rust on its PATH nor an index, and driven by the programs in
//! python/tests.
//!
//! PYTHON names another interpreter than python3. `SPILLRING_TARGETS=full` runs the queue that does not
//! deadlock and the signal handler at the size of the promise.
#![allow(unsafe_code)] // the end of a program that hangs

mod kit;

use kit::root;
use libtest_mimic::{Arguments, Failed, Trial};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A test: its name, whether it needs gunicorn, and the program with its arguments.
const CASES: &[(&str, bool, &[&str])] = &[
    ("wheel_carries_all_it_needs", false, &["wheel.py", "WHEEL"]),
    ("handler_keeps_what_logging_knows", false, &["handler.py"]),
    ("reader", false, &["reading.py"]),
    ("finalisers_and_callbacks_log", false, &["finalisers.py"]),
    ("a_signal_handler_every_50_us", false, &["signals.py"]),
    ("fork_and_multiprocessing", false, &["forks.py"]),
    ("gunicorn_preload", true, &["preload.py"]),
    ("no_deadlock_spill", false, &["deadlock.py", "spill"]),
    ("no_deadlock_block", false, &["deadlock.py", "block:1s"]),
    ("control_a_bounded_queue_deadlocks", false, &["deadlock.py", "queue"]),
    ("bad_input", false, &["misuse.py"]),
    ("nothing_leaks", false, &["leaks.py"]),
    ("cost_of_a_call", false, &["cost.py"]),
    ("examples", false, &["examples.py", "EXAMPLES"]),
];

/// What this test makes, under target/.
fn place() -> PathBuf {
    root().join("target/ffi-tests")
}

fn python() -> OsString {
    std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into())
}

/// Why the package cannot be built and installed here.
fn lacks() -> Option<String> {
    let look = "import sys, sysconfig, os\n\
                assert sys.version_info >= (3, 9), 'CPython 3.9 or later'\n\
                try: import venv, ensurepip\n\
                except ImportError: sys.exit('python3-venv')\n\
                os.path.isfile(sysconfig.get_paths()['include'] + '/Python.h') or sys.exit('python3-dev')\n";
    for tool in ["cc", "readelf"] {
        let there = |p: OsString| std::env::split_paths(&p).any(|d| d.join(tool).is_file());
        if !std::env::var_os("PATH").is_some_and(there) {
            return Some(format!("needs {tool}"));
        }
    }
    match Command::new(python()).args(["-c", look]).stdin(Stdio::null()).output() {
        Ok(o) if o.status.success() => None,
        Ok(o) => {
            let said = String::from_utf8_lossy(&o.stderr).into_owned();
            Some(format!("needs {}", said.lines().last().unwrap_or("python3")))
        }
        Err(_) => Some("needs python3".into()),
    }
}

const GUNICORN: &str = "gunicorn==23.0.0";

/// A folder with gunicorn's wheels, fetched once.
fn gunicorn() -> Result<PathBuf, String> {
    let dir = place().join("gunicorn");
    let there = |d: &Path| {
        let name = |e: std::fs::DirEntry| e.file_name().to_string_lossy().starts_with("gunicorn-");
        std::fs::read_dir(d).is_ok_and(|all| all.flatten().any(name))
    };
    if there(&dir) {
        return Ok(dir);
    }
    let out = Command::new(python())
        .args(["-m", "pip", "download", "-q", "--disable-pip-version-check", "--only-binary", ":all:"])
        .args(["--timeout", "10", "--retries", "1", GUNICORN, "-d"])
        .arg(&dir)
        .stdin(Stdio::null())
        .output();
    match out {
        Ok(o) if o.status.success() && there(&dir) => Ok(dir),
        _ => Err(format!("pip cannot fetch {GUNICORN}")),
    }
}

/// Output of a command that must succeed.
fn run(c: &mut Command) -> String {
    let o = c.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{c:?}: {e}"));
    let said = String::from_utf8_lossy(&o.stdout).into_owned();
    assert!(o.status.success(), "{c:?}: {}\n{said}{}", o.status, String::from_utf8_lossy(&o.stderr));
    said
}

/// The wheel, and a fresh venv that it is installed in.
struct Installed {
    wheel: PathBuf,
    venv: PathBuf,
}

impl Installed {
    /// A program of the venv, on whose PATH nothing else is.
    fn command(&self, name: &str) -> Command {
        let bin = self.venv.join("bin");
        let mut c = Command::new(bin.join(name));
        for (n, _) in std::env::vars_os() {
            let n = n.to_string_lossy();
            if (n.starts_with("SPILLRING_") && n != "SPILLRING_TARGETS") || n.starts_with("PYTHON") {
                c.env_remove(&*n);
            }
        }
        c.env("PATH", bin);
        c
    }

    fn pip(&self, args: &[&std::ffi::OsStr]) {
        let mut c = self.command("python");
        c.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index"]).args(args);
        run(&mut c);
    }
}

fn installed() -> &'static Installed {
    static ONCE: OnceLock<Installed> = OnceLock::new();
    ONCE.get_or_init(|| {
        // Cargo keeps others out of the folder of this very run; this one is that of the tests of C.
        let out = run(Command::new(python())
            .arg(root().join("ffi/python/build_wheel.py"))
            .arg("--out")
            .arg(place().join("wheel"))
            .env("CARGO_TARGET_DIR", place().join("build")));
        let wheel = PathBuf::from(out.trim());
        let venv = place().join(format!("venv-{}", std::process::id()));
        run(Command::new(python()).args(["-m", "venv"]).arg(&venv));
        let all = Installed { wheel, venv };
        all.pip(&[all.wheel.as_os_str()]);
        all
    })
}

/// Removes the venv.
struct CleanUp;

impl Drop for CleanUp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(place().join(format!("venv-{}", std::process::id())));
    }
}

/// Runs a program of python/tests in a process group of its own, with channels and journals of its own; what
/// hangs says where, and ends.
fn drive(args: &[&str], with: Option<&Path>) -> Result<(), Failed> {
    let all = installed();
    if let Some(wheels) = with {
        static INSTALLED: Mutex<bool> = Mutex::new(false);
        let mut done = INSTALLED.lock().expect("no panic");
        if !*done {
            all.pip(&["--find-links".as_ref(), wheels.as_os_str(), "gunicorn".as_ref()]);
            *done = true;
        }
    }
    let shm = tempfile::Builder::new().prefix("spillring-test-").tempdir_in("/dev/shm").expect("tmpfs");
    let disk = tempfile::tempdir().expect("a directory");
    let said = disk.path().join("said");
    let output = std::fs::File::create(&said).expect("a file");
    let mut c = all.command("python");
    // What is about time goes without the checks of the development mode.
    if !["cost.py", "signals.py"].contains(&args[0]) {
        c.args(["-X", "dev"]);
    }
    c.arg(root().join("ffi/python/tests").join(args[0]));
    for a in &args[1..] {
        match *a {
            "WHEEL" => c.arg(&all.wheel),
            "EXAMPLES" => c.arg(root().join("ffi/examples")),
            a => c.arg(a),
        };
    }
    c.env("SPILLRING_DIR", shm.path().join("c")).env("SPILLRING_JOURNAL_DIR", disk.path().join("j"));
    c.env("PYTHONDONTWRITEBYTECODE", "1").process_group(0).stdin(Stdio::null());
    c.stderr(output.try_clone().expect("a file")).stdout(output);
    std::fs::create_dir(disk.path().join("j")).expect("a directory");
    let mut child = c.spawn().expect("the venv's python");
    let full = std::env::var("SPILLRING_TARGETS").is_ok_and(|v| v == "full");
    let limit = Duration::from_secs(if full { 400 } else { 120 });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break Some(status);
        }
        if begun.elapsed() > limit {
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let group = -child.id().cast_signed();
    // SAFETY: kill takes numbers only; the group is the child's, whose pid is not reused before its wait.
    unsafe {
        if status.is_none() {
            libc::kill(group, libc::SIGABRT);
            std::thread::sleep(Duration::from_millis(500));
        }
        // What it may have left behind.
        libc::kill(group, libc::SIGKILL);
    }
    if status.is_none() {
        let _ = child.wait();
    }
    let text = String::from_utf8_lossy(&std::fs::read(&said).expect("a file")).into_owned();
    match status {
        Some(s) if s.success() => {
            println!("{} ({:.1} s):\n{text}", args.join(" "), begun.elapsed().as_secs_f64());
            Ok(())
        }
        Some(s) => Err(format!("{}: {s}\n{text}", args.join(" ")).into()),
        None => Err(format!("{}: hung, for {} s\n{text}", args.join(" "), limit.as_secs()).into()),
    }
}

fn main() {
    let mut args = Arguments::from_args();
    args.test_threads = args.test_threads.or(Some(2));
    let strict = kit::ci();
    let lacks = lacks();
    let wheels = if lacks.is_none() && !args.list { gunicorn() } else { Err("gunicorn".into()) };
    let trials = CASES
        .iter()
        .map(|&(name, needs_gunicorn, program)| {
            let why = lacks.clone().or_else(|| wheels.clone().err().filter(|_| needs_gunicorn && !args.list));
            let shown = why.as_ref().map_or(name.to_string(), |w| format!("{name} ({w})"));
            let ignored = why.is_some() && !strict;
            let with = wheels.clone().ok().filter(|_| needs_gunicorn);
            let body = move || why.map_or_else(|| drive(program, with.as_deref()), |w| Err(w.into()));
            Trial::test(shown, body).with_ignored_flag(ignored)
        })
        .collect();
    let result = {
        let _clean = CleanUp;
        libtest_mimic::run(&args, trials)
    };
    result.exit()
}
