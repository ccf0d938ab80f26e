//! What a call costs that logs nothing: by the level that a program was built for, none; by the one that is set
//! at run time, three instructions and a jump. And of one that logs, that it is one piece. A program built for this,
//! in `target/gate`.

mod command_kit;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the program, which depends on what writes only; answers the executable.
fn build(release: bool) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let base = root.join("target/gate");
    std::fs::create_dir_all(&base).unwrap();
    let manifest = format!(
        "[package]\nname = \"gate\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\nspillring = {{ path = {root:?}, default-features = false, \
         features = [\"max_level_debug\", \"release_max_level_warn\"] }}\n\
         [[bin]]\nname = \"gate\"\npath = {:?}\n[workspace]\n",
        root.join("tests/gate/program.rs")
    );
    let write = |name: &str, new: Vec<u8>| {
        let to = base.join(name);
        if std::fs::read(&to).ok().as_ref() != Some(&new) {
            std::fs::write(to, new).unwrap();
        }
    };
    write("Cargo.toml", manifest.into_bytes());
    if !base.join("Cargo.lock").exists() {
        write("Cargo.lock", std::fs::read(root.join("Cargo.lock")).unwrap());
    }
    let mut c = Command::new(env!("CARGO"));
    c.args(["build", "--offline", "-q"]).args(release.then_some("--release"));
    // Not what this test was built with.
    for (name, _) in std::env::vars_os() {
        let n = name.to_string_lossy();
        if n.starts_with("CARGO") && n != "CARGO_HOME" || n == "RUSTFLAGS" {
            c.env_remove(&name);
        }
    }
    let o = c.current_dir(&base).env("CARGO_TARGET_DIR", &base).output().unwrap();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    base.join(if release { "release/gate" } else { "debug/gate" })
}

fn output(program: &Path) -> String {
    let o = Command::new(program).output().unwrap();
    assert!(o.status.success());
    String::from_utf8(o.stdout).unwrap()
}

fn what_is_not_compiled_is_not_evaluated() {
    assert_eq!(output(&build(false)), "debug info warn error debug from debug\n");
    let program = build(true);
    assert_eq!(output(&program), "warn error from warn\n");
    let bytes = std::fs::read(program).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|w| w == text);
    assert_eq!((holds(b"this text is not in the program"), holds(b"and this one is")), (false, true));
}

/// The instructions of a function, without addresses.
fn instructions(program: &Path, function: &str) -> Vec<String> {
    let mut c = Command::new("objdump");
    c.args(["-d", "--no-show-raw-insn", "--no-addresses", &format!("--disassemble={function}")]);
    let o = c.arg(program).output().unwrap();
    let text = String::from_utf8(o.stdout).unwrap();
    let body =
        text.split(&format!("<{function}>:")).nth(1).unwrap_or_else(|| panic!("no {function}: {text}"));
    let lines = body.lines().map(|l| l.split('#').next().unwrap_or_default());
    let words = lines.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
    words.filter(|l| !l.is_empty()).collect()
}

fn a_call_below_the_level_is_three_instructions() {
    let program = build(true);
    let all = instructions(&program, "a_call");
    let jumps: Vec<usize> =
        (0..all.len()).filter(|&i| all[i].starts_with('j') && !all[i].starts_with("jmp")).collect();
    // Loads and compares, back from a jump: what is before them is the function's own beginning, or the first
    // of what a call that passes does.
    let gate = |upto: usize, from: usize| -> Vec<&String> {
        let looks = |l: &String| {
            let to_register = l.rsplit(',').next().is_some_and(|to| to.trim().starts_with('%'));
            l.starts_with("cmp") || l.starts_with("mov") && l.contains('(') && to_register
        };
        all[from..upto].iter().filter(|l| looks(l)).collect()
    };
    let (level, target) = (gate(jumps[0], 0), gate(jumps[1], jumps[0]));
    println!("by level: {level:?} {}\nby target: {target:?} {}", all[jumps[0]], all[jumps[1]]);
    for part in [&level, &target] {
        assert!(
            part.len() <= 3 && part.last().is_some_and(|l| l.starts_with("cmp")),
            "{:?}",
            &all[..=jumps[1]]
        );
    }
}

/// All of the usual way stands in the function that logs: what it calls is off that way.
fn a_call_calls_nothing() {
    let all = instructions(&build(true), "a_call");
    let has = |what: &str| all.iter().filter(|l| l.starts_with(what)).count();
    assert_eq!((has("rdtsc"), has("prefetchw")), (1, 2), "{all:#?}");
    let calls = all.iter().filter(|l| l.starts_with("call") || l.starts_with("jmp"));
    // The last one: what a panic in a function of the C ABI leads to.
    for l in calls.filter(|l| !l.contains("<a_call") && !l.starts_with("call *")) {
        println!("{l}");
        assert!(l.contains("apart") || l.contains("__spillring_find_out"), "{l}: {all:#?}");
    }
}

fn main() -> std::process::ExitCode {
    let mut cases: Vec<command_kit::Case> =
        vec![("what_is_not_compiled_is_not_evaluated", &[], what_is_not_compiled_is_not_evaluated)];
    if cfg!(target_arch = "x86_64") {
        cases.push((
            "a_call_below_the_level_is_three_instructions",
            &["objdump"],
            a_call_below_the_level_is_three_instructions,
        ));
        cases.push(("a_call_calls_nothing", &["objdump"], a_call_calls_nothing));
    }
    command_kit::run(cases)
}
