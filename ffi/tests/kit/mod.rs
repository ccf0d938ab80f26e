//! What the tests of the C ABI share: the library, built and installed once into a folder under target/, and the
//! running of compilers and programs. A tool that is missing is said; with CI=true that is a failure.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub fn have(tool: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(tool).is_file()))
}

pub fn ci() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "true")
}

/// For tests without a list of trials.
pub fn leave_out(tool: &str) {
    assert!(!ci(), "{tool} is missing, and CI=true");
    println!("ignored: {tool} is not installed");
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf()
}

/// A program or header of tests/c.
pub fn source(name: &str) -> String {
    s(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name))
}

pub fn s(p: &Path) -> String {
    p.to_str().expect("UTF-8").to_string()
}

/// A directory in shared memory that goes away with the test.
pub fn dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("spillring-test-").tempdir_in("/dev/shm").expect("tmpfs")
}

/// The installed tree.
pub struct Tree(PathBuf);

impl Tree {
    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn libdir(&self) -> String {
        s(&self.0.join("lib"))
    }
    pub fn lib(&self) -> String {
        format!("-L{}", self.libdir())
    }
    pub fn include(&self) -> String {
        format!("-I{}", s(&self.0.join("include")))
    }
    pub fn so(&self) -> PathBuf {
        self.0.join("lib/libspillring.so.0")
    }
    pub fn archive(&self) -> PathBuf {
        self.0.join("lib/libspillring.a")
    }
}

fn install(name: &str, features: &str) -> Tree {
    let to = root().join("target/ffi-tests").join(name);
    let _ = std::fs::remove_dir_all(&to);
    std::fs::create_dir_all(&to).expect("a folder under target");
    install_with(&[("PREFIX", &s(&to)), ("FEATURES", features)]);
    Tree(to)
}

/// Runs install.sh with these variables and no other.
pub fn install_with(variables: &[(&str, &str)]) {
    let mut c = Command::new(root().join("ffi/install.sh"));
    for name in ["PREFIX", "DESTDIR", "LIBDIR", "FEATURES"] {
        c.env_remove(name);
    }
    // A folder of its own for what cargo makes: the one of this very run is locked by it.
    c.env("CARGO_TARGET_DIR", root().join("target/ffi-tests/build"));
    let out = c.envs(variables.iter().copied()).output().expect("sh");
    assert!(out.status.success(), "install.sh: {}{}", text(&out.stdout), text(&out.stderr));
}

/// The library as it is delivered. Two test programs that come here at a time take turns.
pub fn installed() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(|| {
        let _turn = Turn::take();
        install("tree", "")
    })
}

/// The one that panics in every function.
pub fn panicking() -> Tree {
    let _turn = Turn::take();
    install("panics", "panic-test")
}

/// A lock file, held while it lives.
struct Turn(std::fs::File);

impl Turn {
    fn take() -> Turn {
        let dir = root().join("target/ffi-tests");
        std::fs::create_dir_all(&dir).expect("a folder under target");
        let f = std::fs::File::create(dir.join("lock")).expect("a lock file");
        f.lock().expect("flock");
        Turn(f)
    }
}

pub fn text(b: &[u8]) -> String {
    String::from_utf8_lossy(b).into_owned()
}

/// Runs a command that must succeed; answers what it printed.
pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}\n{}{}",
        out.status,
        text(&out.stdout),
        text(&out.stderr)
    );
    text(&out.stdout) + &text(&out.stderr)
}

/// Runs a prepared command to its end; one that hangs is killed and a failure.
pub fn within(seconds: u64, command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a program that starts");
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read = |r: &mut dyn std::io::Read| {
        let mut b = Vec::new();
        let _ = r.read_to_end(&mut b);
        b
    };
    let stdout = std::thread::spawn(move || read(&mut out));
    let stderr = std::thread::spawn(move || read(&mut err));
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("a child of ours") {
            Some(status) => break status,
            None if start.elapsed() > Duration::from_secs(seconds) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{command:?} hangs: {}", text(&stderr.join().unwrap_or_default()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    Output { status, stdout: stdout.join().unwrap_or_default(), stderr: stderr.join().unwrap_or_default() }
}

/// How a program is made of a source in tests/c.
pub struct Build<'a> {
    pub compiler: &'a str,
    pub flags: Vec<String>,
    pub archive: bool,
}

impl Build<'_> {
    pub fn new(compiler: &str) -> Build<'_> {
        Build { compiler, flags: Vec::new(), archive: false }
    }
    pub fn flag(mut self, f: &str) -> Self {
        self.flags.push(f.into());
        self
    }
    /// Against libspillring.a.
    pub fn archive(mut self) -> Self {
        self.archive = true;
        self
    }
    /// Builds it into `dir`.
    pub fn program(&self, source_name: &str, dir: &Path) -> PathBuf {
        let at = installed();
        let to = dir.join(source_name.replace('.', "_"));
        let std = if source_name.ends_with(".c") { "-std=gnu11" } else { "-std=c++17" };
        let mut args: Vec<String> = [std, "-O1", "-g", "-Wall", "-Wextra"].map(Into::into).to_vec();
        args.extend(self.flags.iter().cloned());
        args.extend([at.include(), source(source_name), "-o".into(), s(&to)]);
        if self.archive {
            args.push(s(&at.archive()));
        } else {
            args.extend([at.lib(), "-lspillring".into(), format!("-Wl,-rpath,{}", at.libdir())]);
        }
        args.extend(["-lm".into(), "-lpthread".into(), "-ldl".into()]);
        run(self.compiler, &args.iter().map(String::as_str).collect::<Vec<_>>());
        to
    }
}

/// Runs a program of tests/c in a directory of its own; it must end with 0. Answers what it printed.
pub fn check(program: &Path, args: &[&str], variables: &[(&str, &str)]) -> String {
    let place = dir();
    let mut command = Command::new(program);
    command.args(args).env("TEST_DIR", place.path()).envs(variables.iter().copied());
    for v in ["SPILLRING_DIR", "SPILLRING_CHANNEL", "SPILLRING_JOURNAL_DIR", "SPILLRING_LEVEL"] {
        if !variables.iter().any(|(n, _)| *n == v) {
            command.env_remove(v);
        }
    }
    let out = within(300, &mut command);
    let all = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success(), "{}: {}\n{all}", program.display(), out.status);
    all
}
