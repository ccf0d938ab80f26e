//! The rules of the house, kept by a test: what a program that only writes depends on, which module may
//! use which, where atomics are named.

use std::path::{Path, PathBuf};
use std::process::Command;

fn cargo_tree(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            "spillring",
            "--no-default-features",
            "--prefix",
            "none",
        ])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("names")
}

#[test]
fn a_program_that_only_writes_depends_on_little() {
    let tree = cargo_tree(&["-e", "normal"]);
    let mut crates: Vec<&str> =
        tree.lines().filter_map(|l| l.split(' ').next()).filter(|n| *n != "spillring").collect();
    crates.sort_unstable();
    crates.dedup();
    println!("{} crates: {}", crates.len(), crates.join(" "));
    assert!((1..=10).contains(&crates.len()), "{crates:?}");
    assert!(!tree.contains("(proc-macro)"), "{tree}");
    let adapters = cargo_tree(&["-e", "normal", "--features", "log,tracing"]);
    assert!(adapters.contains("tracing-core") && !adapters.contains("(proc-macro)"), "{adapters}");
    let build = cargo_tree(&["-e", "normal,build"]);
    for compiler in ["cc ", "cmake ", "bindgen ", "pkg-config "] {
        assert!(
            !build.lines().any(|l| l.starts_with(compiler)),
            "a build script needs a C compiler: {build}"
        );
    }
}

/// Each module may use those of lower rows only.
const ROWS: &[&[&str]] = &[
    &["layout", "sync", "error"],
    &["record", "lane", "sys", "tls"],
    &["clock", "env", "merge", "journal", "channel"],
    &["snapshot", "sink", "doctor"],
    &["ringview", "release"],
    &["writer", "drain"],
    &["site", "main", "cli"],
    &["logger"],
    &["adapter"],
];

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|r| r.contains(&module))
}

fn sources(dir: &Path, all: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).expect("src") {
        let p = e.expect("entry").path();
        if p.is_dir() {
            sources(&p, all);
        } else if p.extension().is_some_and(|e| e == "rs") {
            all.push(p);
        }
    }
}

/// The code of a file: no comments, no tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("source");
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().map(|l| l.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn modules_use_lower_rows_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    sources(&src, &mut all);
    let (mut uses, mut wrong) = (0, Vec::new());
    for file in &all {
        let rel = file.strip_prefix(&src).expect("inside");
        let module = rel.iter().next().and_then(|m| m.to_str()).expect("name").trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let mine = row(module)
            .unwrap_or_else(|| panic!("src/{}: say in tests/house.rs which row it is in", rel.display()));
        for part in code(file).split("crate::").skip(1) {
            // `crate::a::b` and `crate::{a::b, c}`.
            let names: Vec<&str> = match part.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
                None => vec![part],
            };
            for n in names {
                let name: String = n.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if let Some(theirs) = row(&name) {
                    uses += 1;
                    if name != module && theirs >= mine {
                        wrong.push(format!("src/{} (row {mine}) uses {name} (row {theirs})", rel.display()));
                    }
                }
            }
        }
    }
    println!("{uses} uses in {} files", all.len());
    assert!(uses > 50, "the search found next to nothing");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_sync_names_atomics() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    sources(&src, &mut all);
    let offenders: Vec<_> =
        all.iter().filter(|p| !p.ends_with("sync.rs")).filter(|p| code(p).contains("sync::atomic")).collect();
    assert!(offenders.is_empty(), "{offenders:?}: take them from crate::sync");
}
