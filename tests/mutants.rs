//! Every known-wrong variant of the protocol must be caught by the model that is named for it.
//!
//! Each `tests/mutants/NAME.patch` is applied to a scratch copy of the package under
//! `target/mutants`, `tests/models` is built there, and the named model must fail with a check of
//! its own and print the schedule. A patch that no longer applies, a copy that does not build, a
//! model that passes or that fails otherwise: each fails here.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use libtest_mimic::{Arguments, Failed, Trial};

/// The patch, the model that must fail, and a part of what its check must say.
const MUTANTS: &[(&str, &str, &str)] = &[
    ("backed-before-the-memory", "spill", "no memory"),
    ("backed-by-a-store", "spill", ""),
    ("backed-past-the-lap", "given", ""),
    ("busy-cleared-before-tail", "handler", ""),
    ("calibration-parity-toggled", "calibration", ""),
    ("calibration-without-odd-step", "calibration", "a mixture"),
    ("calibration-without-second-look", "calibration", "a mixture"),
    ("child-writes-parents-ring", "fork", "the child of a fork"),
    ("claim-beyond-what-is-backed", "spill", "no memory"),
    ("commit-relaxed", "shared", ""),
    ("commit-words-in-band", "shared", ""),
    ("complete-without-a-frame", "heirs", "order"),
    ("cursor-without-holes", "restart", "twice"),
    ("dead-owners-count", "heirs", "WRITTEN"),
    ("dead-owners-tail", "inherit", "order"),
    ("fork-check-before-busy", "fork", "the child of a fork"),
    ("given-back-below-released", "given", ""),
    ("heir-complete-too", "heirs", "order"),
    ("holes-skipped-without-the-pass", "holes", "never delivered"),
    ("limit-after-the-loss", "loss", "were lost before it"),
    ("limit-unsigned", "loss", ""),
    ("limit-without-released", "full", "not in its free space"),
    ("loss-unmarked", "loss", "loss"),
    ("nested-in-the-busy-lane", "handler", ""),
    ("nested-without-fork-check", "fork", ""),
    ("no-second-look", "handler", "order"),
    ("note-before-lane-pointer", "inherit", "order"),
    ("observer-without-reread", "observer", "an observer accepts"),
    ("open-call-given-back", "spill", ""),
    ("open-call-not-looked-at-again", "spill", "order"),
    ("open-hole-without-reload", "holes", ""),
    ("open-record-beyond-the-limit", "open", "not in its free space"),
    ("position-of-what-is-released", "laneless", "order"),
    ("released-before-journal", "restart", "journal"),
    ("released-before-the-hole-in-the-file", "given", ""),
    ("released-past-a-hole", "holes", "released"),
    ("run-past-what-waits", "handler", "order"),
    ("second-look-without-cut", "laneless", "order"),
    ("shared-by-its-end", "laneless", "order"),
    ("spilled-behind-shared", "laneless_spill", "order"),
    ("spilled-without-position", "laneless", "order"),
    ("tail-before-copy", "lane", ""),
    ("tail-read-before-busy", "handler", ""),
    ("tail-relaxed", "lane", ""),
    ("tails-before-first-look", "handler", "order"),
    ("truncation-ignored", "parse", "order"),
    ("words-without-lap", "holes", ""),
];

/// One scratch copy: a mutant at a time is built in it.
static COPY: Mutex<()> = Mutex::new(());

fn main() {
    let args = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut trials = vec![Trial::test("every_patch_is_named", move || named(root))];
    let have_patch = Command::new("patch").arg("--version").stdout(Stdio::null()).status().is_ok();
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    if !have_patch {
        println!("the mutants need patch(1): {}", if ci { "missing" } else { "ignored without it" });
    }
    for &(name, model, says) in MUTANTS {
        let t = Trial::test(format!("{name}_is_caught_by_{model}"), move || caught(root, name, model, says));
        trials.push(t.with_ignored_flag(!have_patch && !ci));
    }
    libtest_mimic::run(&args, trials).exit();
}

fn named(root: &Path) -> Result<(), Failed> {
    let files = fs::read_dir(root.join("tests/mutants"))?.map(|f| f.map(|f| f.file_name()));
    let files = files.collect::<Result<BTreeSet<_>, _>>()?;
    let names = MUTANTS.iter().map(|m| format!("{}.patch", m.0).into()).collect::<BTreeSet<_>>();
    if files != names {
        let odd: Vec<_> = files.symmetric_difference(&names).collect();
        return Err(format!("tests/mutants and the table in tests/mutants.rs differ: {odd:?}").into());
    }
    Ok(())
}

/// Copies what differs; what is the same keeps its time, so that cargo builds only what changed.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        let mut there = BTreeSet::new();
        for f in fs::read_dir(from)? {
            let name = f?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
            there.insert(name);
        }
        for f in fs::read_dir(to)? {
            let f = f?;
            if !there.contains(&f.file_name()) && f.file_type()?.is_file() {
                fs::remove_file(f.path())?;
            }
        }
        return Ok(());
    }
    let new = fs::read(from)?;
    if fs::read(to).ok().as_ref() != Some(&new) {
        fs::write(to, new)?;
    }
    Ok(())
}

/// The package without its members, its benches and what its other tests need.
fn manifest(root: &Path) -> std::io::Result<String> {
    let whole = fs::read_to_string(root.join("Cargo.toml"))?;
    let mut out = String::new();
    let (mut section, mut keep) = (String::new(), true);
    for line in whole.lines() {
        if line.starts_with('[') {
            section = line.trim().to_owned();
            keep = !matches!(section.as_str(), "[[bin]]" | "[[bench]]" | "[[test]]");
        }
        let needed = match section.as_str() {
            "[dev-dependencies]" => {
                line.starts_with('[') || line.starts_with("loom") || line.starts_with("libtest-mimic")
            }
            "[workspace]" => !line.starts_with("members"),
            "[package]" => !line.starts_with("readme"),
            _ => true,
        };
        if keep && needed {
            out += line;
            out.push('\n');
        }
        if line == "[package]" {
            out += "autobins = false\n"; // the command needs what is left out here
        }
    }
    out += "[[test]]\nname = \"models\"\npath = \"tests/models/main.rs\"\nharness = false\n";
    // Most are caught within a second: the time goes into building them, half of it into debug information.
    out += "[profile.test.package.spillring]\nopt-level = 0\ndebug = false\n";
    Ok(out)
}

/// Builds the models with the patch applied; answers the executable, under a name of its own.
fn build(root: &Path, name: &str) -> Result<PathBuf, String> {
    let _one = COPY.lock().unwrap_or_else(|e| e.into_inner());
    let base = root.join("target/mutants");
    let pkg = base.join("package");
    let io = |e: std::io::Error| format!("{}: {e}", pkg.display());
    for part in ["src", "tests/models", "Cargo.lock"] {
        copy(&root.join(part), &pkg.join(part)).map_err(io)?;
    }
    let m = manifest(root).map_err(io)?;
    if fs::read_to_string(pkg.join("Cargo.toml")).ok().as_ref() != Some(&m) {
        fs::write(pkg.join("Cargo.toml"), m).map_err(io)?;
    }
    let patch = fs::read(root.join(format!("tests/mutants/{name}.patch"))).map_err(|e| e.to_string())?;
    let mut child = Command::new("patch")
        .args(["-p1", "--force", "--no-backup-if-mismatch", "--fuzz=0", "--reject-file=-"])
        .current_dir(&pkg)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("patch(1): {e}: install it"))?;
    child.stdin.take().expect("piped").write_all(&patch).map_err(io)?;
    let out = child.wait_with_output().map_err(io)?;
    if !out.status.success() {
        return Err(format!("the patch no longer applies:\n{}", String::from_utf8_lossy(&out.stdout)));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["test", "--offline", "--no-default-features", "--test", "models", "--no-run"])
        .args(["--message-format", "json", "--quiet"])
        // Most of what it depends on is there already: this very test was built with it.
        .arg("--target-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder for what is built"))
        .current_dir(&pkg)
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let built = text.lines().rev().find_map(|l| {
        let path = l.split("\"executable\":\"").nth(1)?.split('"').next()?;
        l.contains("\"name\":\"models\"").then(|| PathBuf::from(path))
    });
    let Some(exe) = built.filter(|_| out.status.success()) else {
        return Err(format!("the mutant does not build:\n{text}\n{}", String::from_utf8_lossy(&out.stderr)));
    };
    let own = base.join(format!("models-{name}"));
    fs::copy(exe, &own).map_err(io)?;
    Ok(own)
}

fn caught(root: &Path, name: &str, model: &str, says: &str) -> Result<(), Failed> {
    let exe = build(root, name)?;
    let run = |mode: &str| {
        let mut c = Command::new(&exe);
        c.args(["--exact", model]).env("SPILLRING_MODELS", mode);
        c.output().map_err(|e| format!("{}: {e}", exe.display()))
    };
    // As the models run here; the few that this lets by, with the drain at work at every operation.
    let mut out = run("")?;
    if out.status.success() {
        out = run("every")?;
    }
    let _ = fs::remove_file(&exe);
    let text = String::from_utf8_lossy(&out.stdout);
    let check = text.lines().find(|l| l.starts_with(&format!("CHECK FAILED [{model}] ")));
    let Some(check) = check.filter(|_| !out.status.success()) else {
        let tail: Vec<_> = text.lines().rev().take(30).collect();
        let err = String::from_utf8_lossy(&out.stderr);
        return Err(format!("model {model} did not catch {name}: {tail:#?}\n{err}").into());
    };
    if !check.contains(says) {
        return Err(format!("model {model} fails on {name} for another reason: {check}").into());
    }
    let schedule = text.lines().skip_while(|l| *l != "schedule:").count();
    if schedule < 2 {
        return Err(format!("model {model} printed no schedule for {name}").into());
    }
    println!("{name}: {check} ({schedule} steps)");
    Ok(())
}
