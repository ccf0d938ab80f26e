//! The library as C and C++ programs meet it: built, installed, compiled against, linked, loaded, misused. The
//! programs are in tests/c and examples.
//!
//! `SPILLRING_HAMMER=full` runs the handlers' hammer at its full 10 s.

mod kit;

use kit::{Build, check, have, installed, root, run, s, source, text, within};
use libtest_mimic::{Arguments, Failed, Trial};
use spillring_ffi::abi;
use std::path::Path;
use std::process::Command;

type Case = (&'static str, &'static [&'static str], fn());

const CASES: &[Case] = &[
    ("header_and_library_agree", &["gcc", "g++", "clang", "clang++"], header_and_library_agree),
    ("headers_compile_without_a_warning", &["gcc", "g++", "clang", "clang++"], headers_compile),
    ("the_cpp_header_is_light", &["g++"], light_header),
    ("what_cannot_be_logged_does_not_compile", &["gcc", "g++", "clang", "clang++"], compile_errors),
    ("exported_symbols_are_those_of_the_list", &["gcc", "nm"], exported_symbols),
    ("the_shared_object_is_what_it_must_be", &["gcc", "readelf"], shared_object),
    ("copies_of_the_library_fit_static_tls", &["gcc"], copies),
    ("musl_is_refused_by_name", &["musl-gcc"], musl),
    ("no_panic_crosses", &["gcc"], no_panic_crosses),
    ("printf_is_printf", &["gcc"], differential),
    ("calls_of_c", &["gcc"], calls_c),
    ("levels_of_targets", &["gcc"], targets),
    ("calls_of_cpp", &["g++", "clang++"], calls_cpp),
    ("bad_input", &["gcc"], bad_input),
    ("logs_at_exit_are_kept", &["g++"], at_exit),
    ("safe_in_a_handler_linked_static_loaded_preloaded", &["gcc"], safe),
    ("hammer_of_handlers_c_linked", &["gcc"], hammer_c_linked),
    ("hammer_of_handlers_c_loaded", &["gcc"], hammer_c_loaded),
    ("hammer_of_handlers_cpp_linked", &["gcc", "g++"], hammer_cpp_linked),
    ("hammer_of_handlers_cpp_loaded", &["gcc", "g++"], hammer_cpp_loaded),
    ("a_million_calls_and_no_system_call", &["gcc", "strace"], no_system_calls),
    ("sanitizers_find_nothing", &["gcc", "g++"], sanitizers),
    ("valgrind_finds_nothing", &["gcc", "g++", "valgrind"], valgrind),
    ("installed_below_destdir_for_its_prefix", &["gcc"], destdir),
    ("a_cmake_project_of_its_own", &["gcc", "g++", "cmake", "make"], cmake_project),
    ("a_make_project_of_its_own", &["gcc", "g++", "pkg-config", "make"], make_project),
    ("man_pages_are_well_formed", &["gcc", "mandoc"], man_pages),
];

fn main() {
    let mut args = Arguments::from_args();
    // They time themselves, and build: one after another.
    args.test_threads = Some(1);
    let trials = CASES
        .iter()
        .map(|&(name, tools, f)| {
            let missing = tools.iter().find(|t| !have(t));
            let shown = missing.map_or(name.to_string(), |t| format!("{name} (needs {t})"));
            let body = move || -> Result<(), Failed> {
                match missing {
                    Some(t) => Err(format!("{t} is not installed").into()),
                    None => {
                        f();
                        Ok(())
                    }
                }
            };
            Trial::test(shown, body).with_ignored_flag(missing.is_some() && !kit::ci())
        })
        .collect();
    libtest_mimic::run(&args, trials).exit()
}

/// Compiles a text; answers whether that worked, and what was said.
fn compiles(compiler: &str, flags: &[&str], suffix: &str, code: &str) -> (bool, String) {
    let dir = kit::dir();
    let file = dir.path().join(format!("test{suffix}"));
    std::fs::write(&file, code).expect("a file");
    let out = Command::new(compiler)
        .args(flags)
        .arg(installed().include())
        .args(["-c", &s(&file), "-o", "/dev/null"])
        .output()
        .expect("a compiler");
    (out.status.success(), text(&out.stderr))
}

fn must_compile(compiler: &str, flags: &[&str], suffix: &str, code: &str) {
    let (ok, said) = compiles(compiler, flags, suffix, code);
    assert!(ok, "{compiler} {flags:?}: {said}");
}

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn with(std: &'static str) -> Vec<&'static str> {
    STRICT.into_iter().chain([std]).collect()
}

fn header_and_library_agree() {
    let asserts = abi::static_asserts();
    println!("{} static asserts", asserts.matches("CHECK(").count());
    assert!(asserts.matches("CHECK(").count() > 150);
    for compiler in ["gcc", "clang"] {
        must_compile(compiler, &with("-std=c11"), ".c", &asserts);
    }
    for compiler in ["g++", "clang++"] {
        must_compile(compiler, &with("-std=c++17"), ".cpp", &asserts);
    }
    // It can fail.
    let wrong = format!("{asserts}\nCHECK(SPR_E_NULL == 1, \"\");");
    assert!(!compiles("gcc", &["-std=c11"], ".c", &wrong).0);
    // Every constant that the header defines is among them, so none is left unchecked.
    let header = std::fs::read_to_string(root().join("include/spillring.h")).expect("the header");
    for line in header.lines().filter_map(|l| l.strip_prefix("#define ")) {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        if name.contains('(')
            || name.ends_with("_0_")
            || !rest.trim_start().starts_with(|c: char| c.is_ascii_digit())
        {
            continue;
        }
        assert!(asserts.contains(&format!("CHECK({name} == ")), "{name} is in the header and not in abi.rs");
    }
}

/// Uses all that there is, in each language.
const C_USE: &str = r#"#include "spillring.h"
int main(void) {
    spr_options o = SPR_OPTIONS_INIT; spr_counters c = SPR_COUNTERS_INIT; spr_record r = SPR_RECORD_INIT;
    spr_reader_options ro = SPR_READER_OPTIONS_INIT; spr_field f = SPR_FIELD_INIT;
    (void)o; (void)c; (void)r; (void)ro; (void)f;
    SPR_SITE(site, SPR_LEVEL_INFO, "%s"); (void)site;
    SPR_TRACE("a"); SPR_DEBUG("%d", 1); SPR_INFO("%s %f", "a", 1.5); SPR_WARN("%zu", sizeof o); SPR_ERROR("%p", (void *)&o);
    for (int i = 0; i < 3; i++) SPR_LOG_EVERY_N(SPR_LEVEL_INFO, 2, "%d", i);
    if (spr_enabled(SPR_LEVEL_WARN)) SPR_LOG_FIRST_N(SPR_LEVEL_INFO, 2, "x"); else SPR_LOG_AT(SPR_LEVEL_INFO, 1, "x");
    return 0;
}
"#;

fn headers_compile() {
    let cpp_use = C_USE
        .replace("spillring.h", "spillring.hpp")
        .replace("    SPR_SITE(site, SPR_LEVEL_INFO, \"%s\"); (void)site;\n", "")
        .replace("\"%s %f\"", "\"{} {}\"")
        .replace("\"%p\"", "\"{:#x}\"")
        .replace("%d", "{}")
        .replace("%zu", "{}")
        .replace("(void *)&o", "static_cast<void *>(&o)");
    for compiler in ["gcc", "clang"] {
        must_compile(compiler, &with("-std=c11"), ".c", C_USE);
        must_compile(compiler, &with("-std=c17"), ".c", C_USE);
    }
    for compiler in ["g++", "clang++"] {
        for std in ["-std=c++17", "-std=c++20"] {
            must_compile(compiler, &with(std), ".cpp", "#include \"spillring.h\"\nint x = spr_enabled(1);\n");
            must_compile(compiler, &with(std), ".cpp", &cpp_use);
            let small: Vec<_> =
                with(std).into_iter().chain(["-fno-exceptions", "-fno-rtti", "-O2"]).collect();
            must_compile(compiler, &small, ".cpp", &cpp_use);
        }
    }
    // A minimum level leaves the calls below it out.
    let dir = kit::dir();
    for (compiler, std, header) in
        [("gcc", "-std=c11", "spillring.h"), ("g++", "-std=c++17", "spillring.hpp")]
    {
        let (source, o) = (
            dir.path().join(format!("{header}.{}", if compiler == "gcc" { "c" } else { "cpp" })),
            dir.path().join("a.o"),
        );
        let code = format!(
            "#define SPR_MIN_LEVEL SPR_LEVEL_WARN\n#include \"{header}\"\nvoid f(int i) {{ SPR_INFO(\"left out\"); \
             SPR_LOG_EVERY_N(SPR_LEVEL_DEBUG, 2, \"left out\"); SPR_WARN(\"is there\"); (void)i; }}"
        );
        std::fs::write(&source, code).expect("a file");
        run(compiler, &[std, "-O1", "-c", &s(&source), "-o", &s(&o), &installed().include()]);
        let object = std::fs::read(&o).expect("an object");
        let has = |text: &[u8]| object.windows(text.len()).any(|w| w == text);
        assert!(has(b"is there") && !has(b"left out"), "{compiler}");
    }
}

fn light_header() {
    let time = |include: &str| {
        let mut best = f64::MAX;
        for _ in 0..5 {
            let before = children_cpu();
            must_compile("g++", &["-std=c++17"], ".cpp", &format!("#include {include}\n"));
            best = best.min(children_cpu() - before);
        }
        best
    };
    let (string, ours) = (time("<string>"), time("<spillring.hpp>"));
    println!(
        "#include <string> {:.0} ms, <spillring.hpp> {:.0} ms of processor time",
        string * 1e3,
        ours * 1e3
    );
    assert!(ours <= 2.0 * string);
}

/// Processor time of the children that have ended, s.
fn children_cpu() -> f64 {
    // "pid (comm) state ..." with cutime and cstime at 16 and 17, in hundredths.
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let behind: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|w| w.parse().unwrap_or(0.0)).collect();
    (behind[13] + behind[14]) / 100.0
}

fn compile_errors() {
    let c = |body: &str| {
        format!(
            "#include \"spillring.h\"\n#include <wchar.h>\nstruct s {{ int a; }};\nvoid f(int n, int *p, long double l, const wchar_t *w, struct s s, const char *fmt) {{ (void)n, (void)p, (void)l, (void)w, (void)s, (void)fmt; {body}; }}"
        )
    };
    for compiler in ["gcc", "clang"] {
        must_compile(
            compiler,
            &["-std=c11", "-Werror=format"],
            ".c",
            &c("SPR_INFO(\"%d %p\", n, (void *)p)"),
        );
        for (body, why) in [
            ("SPR_INFO(\"%Lf\", l)", "spillring:"),
            ("SPR_INFO(\"%ls\", w)", "spillring:"),
            ("SPR_INFO(\"%n\", p)", "spillring:"),
            ("SPR_INFO(\"%d\", s)", ""),
            ("SPR_INFO(\"%s\", n)", "format"),
            ("SPR_INFO(\"%d\", \"text\")", "format"),
            ("SPR_INFO(\"%d\")", "format"),
            ("SPR_INFO(\"%d\", n, n)", "format"),
            ("SPR_INFO(fmt)", ""),
            ("SPR_LOG(n, \"a\")", ""),
            ("SPR_INFO(\"%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d\", 1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7)", ""),
        ] {
            let (ok, said) = compiles(
                compiler,
                &["-std=c11", "-Wall", "-Werror=format", "-Werror=format-extra-args"],
                ".c",
                &c(body),
            );
            assert!(!ok && said.contains(why), "{compiler} takes {body}: {said}");
        }
    }
    let cpp = |body: &str| {
        format!(
            "#include \"spillring.hpp\"\nstruct S {{ int a; }};\nvoid f(int n, long double l, const wchar_t *w, S s, double d, const char *t, void *p) {{ (void)n, (void)l, (void)w, (void)s, (void)d, (void)t, (void)p; {body}; }}"
        )
    };
    for compiler in ["g++", "clang++"] {
        must_compile(
            compiler,
            &["-std=c++17"],
            ".cpp",
            &cpp("SPR_INFO(\"{} {:x} {:>5} {:.2} {{}} {1}\", n, n, t, d)"),
        );
        for body in [
            "SPR_INFO(\"{}\")",
            "SPR_INFO(\"{} {}\", n)",
            "SPR_INFO(\"{}\", n, n)",
            "SPR_INFO(\"{\", n)",
            "SPR_INFO(\"}\")",
            "SPR_INFO(\"{:x}\", t)",
            "SPR_INFO(\"{:x}\", d)",
            "SPR_INFO(\"{:q}\", n)",
            "SPR_INFO(\"{name}\", n)",
            "SPR_INFO(\"{}\", l)",
            "SPR_INFO(\"{}\", w)",
            "SPR_INFO(\"{}\", s)",
            "SPR_INFO(\"{}\", p)",
            "SPR_INFO(\"{} {}\", spr::field(\"a\", 1), n)",
            "SPR_INFO(t)",
        ] {
            let (ok, said) = compiles(compiler, &["-std=c++17"], ".cpp", &cpp(body));
            assert!(!ok && said.contains("error"), "{compiler} takes {body}: {said}");
        }
    }
}

/// The names of spillring.map.
fn list() -> Vec<String> {
    let map = std::fs::read_to_string(root().join("ffi/spillring.map")).expect("the map");
    let mut names: Vec<String> = map
        .lines()
        .filter_map(|l| l.trim().strip_suffix(';'))
        .filter(|n| n.starts_with("spr_"))
        .map(Into::into)
        .collect();
    names.sort();
    names
}

fn exported_symbols() {
    let shared = run("nm", &["-D", "--defined-only", &s(&installed().so())]);
    let mut found: Vec<String> = shared
        .lines()
        .filter_map(|l| l.split(' ').nth(2))
        .filter(|n| *n != "SPR_1")
        .map(Into::into)
        .collect();
    found.sort();
    let versioned: Vec<String> = list().iter().map(|n| format!("{n}@@SPR_1")).collect();
    assert_eq!(found, versioned);
    let archive = run("nm", &["-g", "--defined-only", &s(&installed().archive())]);
    let mut found: Vec<String> =
        archive.lines().filter_map(|l| l.split(' ').nth(2)).map(Into::into).collect();
    found.sort();
    assert_eq!(found, list());
    // Each has its prototype, and no prototype is without one.
    let header = std::fs::read_to_string(root().join("include/spillring.h")).expect("the header");
    let mut declared: Vec<String> = header
        .lines()
        .filter(|l| (l.starts_with("int spr_") || l.starts_with("const char *spr_")) && l.contains('('))
        .filter_map(|l| Some(l.split_once("spr_")?.1.split_once('(')?.0))
        .map(|n| format!("spr_{n}"))
        .collect();
    declared.sort();
    assert_eq!(declared, list());
}

fn shared_object() {
    let so = s(&installed().so());
    let dynamic = run("readelf", &["-dW", &so]);
    let mut needed: Vec<&str> = dynamic
        .lines()
        .filter(|l| l.contains("(NEEDED)"))
        .filter_map(|l| l.split(['[', ']']).nth(1))
        .collect();
    needed.sort_unstable();
    let size = std::fs::metadata(&so).expect("a file").len();
    println!("{size} bytes, needs {needed:?}");
    assert!(size <= 1_000_000);
    let loader = |n: &str| n.starts_with("ld-linux");
    assert!(needed.iter().all(|n| *n == "libc.so.6" || *n == "libgcc_s.so.1" || loader(n)), "{needed:?}");
    assert!(dynamic.contains("[libspillring.so.0]") && dynamic.contains("NODELETE"), "{dynamic}");
    let relocations = run("readelf", &["-rW", &so]);
    let of = |kind: &str| relocations.lines().filter(|l| l.contains(kind)).collect::<Vec<_>>();
    if cfg!(target_arch = "x86_64") {
        // Initial-exec, by the one symbol that is ours; what is std's is by its module, and names nobody.
        assert_eq!(of("R_X86_64_TPOFF64").len(), 1, "{relocations}");
        assert_eq!(of("TLSDESC").len(), 0);
        assert!(of("R_X86_64_DTPMOD64").iter().all(|l| !l.contains("spillring") && !l.contains("spr_")));
    }
    // The unstripped object says that it is our block that this one relocation leads to.
    let symbols = run("nm", &["--defined-only", &s(&installed().archive())]);
    assert!(symbols.lines().any(|l| l.ends_with("d __spillring_block_0_1")), "{symbols}");
    let headers = run("readelf", &["-lW", &so]);
    let tls = headers.lines().find(|l| l.trim_start().starts_with("TLS")).expect("a TLS segment");
    println!("{}", tls.trim());
    // "TLS offset address address filesize size": of it 64 are ours, the rest is std's (threads, panics).
    let size =
        tls.split_whitespace().nth(5).and_then(|n| u64::from_str_radix(n.strip_prefix("0x")?, 16).ok());
    let size = size.expect("a size");
    assert!(size <= 176, "{size} bytes of static thread-local storage");
    let header = std::fs::read_to_string(root().join("include/spillring.h")).expect("the header");
    assert!(
        !cfg!(target_arch = "x86_64") || header.contains(&format!("takes {size} bytes of static")),
        "{size} bytes, and the header says something else"
    );
}

/// dlopen of a copy after another: each takes static thread-local storage, of which there is little.
fn copies() {
    let dir = kit::dir();
    let program = dir.path().join("copies");
    let code = dir.path().join("copies.c");
    std::fs::write(
        &code,
        "#include <dlfcn.h>\n#include <stdio.h>\nint main(int c, char **v) { for (int i = 1; i < c; i++) if (!dlopen(v[i], RTLD_NOW)) { printf(\"%d: %s\\n\", i - 1, dlerror()); return 0; } printf(\"all\\n\"); }\n",
    )
    .expect("a file");
    run("gcc", &[&s(&code), "-o", &s(&program), "-ldl"]);
    let all: Vec<_> = (0..20).map(|i| dir.path().join(format!("copy{i}.so"))).collect();
    for c in &all {
        std::fs::copy(installed().so(), c).expect("a copy");
    }
    let said = run(&s(&program), &all.iter().map(|p| p.to_str().expect("UTF-8")).collect::<Vec<_>>());
    println!("{}", said.trim());
    let fit: u32 = said.split(':').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(fit >= 9 && said.contains("cannot allocate memory in static TLS block"), "{said}");
    // What the header advises then: preloaded, it is the one that everybody gets.
    let header = std::fs::read_to_string(root().join("include/spillring.h")).expect("the header");
    assert!(header.contains("cannot allocate memory in static TLS block") && header.contains("LD_PRELOAD"));
}

/// musl has no static thread-local storage left for what is loaded: why, and that it is said before anything is made.
fn musl() {
    let dir = kit::dir();
    let out = Command::new(root().join("ffi/install.sh"))
        .env("CC", "musl-gcc")
        .env("PREFIX", dir.path().join("to"))
        .env_remove("DESTDIR")
        .output()
        .expect("sh");
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("musl's dlopen cannot load") && said.contains("libspillring_ffi.a"), "{said}");
    assert!(!dir.path().join("to").exists());
    // A block as ours, in an object of musl's own.
    let (so, program) = (s(&dir.path().join("block.so")), s(&dir.path().join("load")));
    let file = |name: &str, code: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, code).expect("a file");
        s(&path)
    };
    let block = "__attribute__((tls_model(\"initial-exec\"))) _Thread_local long block[8];\nlong *f(void) { return block; }\n";
    run("musl-gcc", &["-shared", "-fPIC", "-o", &so, &file("block.c", block)]);
    let load = "#include <dlfcn.h>\n#include <stdio.h>\nint main(int c, char **v) { (void)c; void *p = dlopen(v[1], RTLD_NOW); puts(p ? \"loaded\" : dlerror()); return !!p; }\n";
    run("musl-gcc", &["-o", &program, &file("load.c", load)]);
    let said = run(&program, &[&so]);
    assert!(said.contains("initial-exec TLS"), "{said}");
    // And of the library that glibc's programs use nothing is loaded by half.
    println!("{} {}", said.trim(), run(&program, &[&s(&installed().so())]).trim());
}

fn no_panic_crosses() {
    let tree = kit::panicking();
    let dir = kit::dir();
    let mut code = String::from(
        "#include \"spillring.h\"\n#include <stdio.h>\n#include <string.h>\nint main(void) { int wrong = 0;\n",
    );
    // Called as if they took integers only: whatever the arguments, the panic comes first.
    for name in list().iter().filter(|n| *n != "spr_strerror") {
        code += &format!(
            "{{ int (*f)(long, long, long, long, long) = (int (*)(long, long, long, long, long)){name}; \
             int c = f(0, 0, 0, 0, 0); if (c != SPR_E_PANIC) {{ printf(\"{name}: %d\\n\", c); wrong++; }} }}\n"
        );
    }
    code += "if (!strstr(spr_strerror(0), \"panicked\")) wrong++;\nprintf(\"done\\n\"); return wrong; }\n";
    let (file, program) = (dir.path().join("p.c"), dir.path().join("p"));
    std::fs::write(&file, code).expect("a file");
    run(
        "gcc",
        &[
            "-std=c11",
            &s(&file),
            "-o",
            &s(&program),
            &tree.include(),
            &tree.lib(),
            "-lspillring",
            &format!("-Wl,-rpath,{}", tree.libdir()),
        ],
    );
    let out = within(60, &mut Command::new(&program));
    let said = text(&out.stdout);
    assert!(out.status.success() && said.contains("done"), "{said}");
    // It was a panic each time.
    let panics = text(&out.stderr).matches("panic-test").count();
    println!("{panics} functions panicked");
    assert_eq!(panics, list().len());
}

fn differential() {
    let dir = kit::dir();
    let program = Build::new("gcc").program("differential.c", dir.path());
    let said = check(&program, &[], &[]);
    println!("{}", said.trim());
    assert!(said.contains(" 0 wrong"));
}

fn calls_c() {
    let dir = kit::dir();
    check(&Build::new("gcc").program("calls.c", dir.path()), &[], &[]);
    check(&Build::new("gcc").archive().program("calls.c", dir.path()), &[], &[]);
    if have("clang") {
        check(&Build::new("clang").flag("-O2").program("calls.c", dir.path()), &[], &[]);
    }
}

fn targets() {
    let dir = kit::dir();
    check(&Build::new("gcc").flag("-O2").program("targets.c", dir.path()), &[], &[]);
}

fn calls_cpp() {
    let dir = kit::dir();
    check(&Build::new("g++").program("calls.cpp", dir.path()), &[], &[]);
    check(
        &Build::new("g++").flag("-O2").flag("-std=c++20").archive().program("calls.cpp", dir.path()),
        &[],
        &[],
    );
    check(&Build::new("clang++").flag("-O2").program("calls.cpp", dir.path()), &[], &[]);
}

fn bad_input() {
    let dir = kit::dir();
    check(&Build::new("gcc").program("bad.c", dir.path()), &[], &[]);
}

/// A destructor of a static object logs after the drain has ended with the process: the next drain finds it.
fn at_exit() {
    let dir = kit::dir();
    let program = Build::new("g++").program("at_exit.cpp", dir.path());
    let place = kit::dir();
    for turn in ["first", "second"] {
        let out = within(60, Command::new(&program).arg(turn).env("TEST_DIR", place.path()));
        assert!(out.status.success(), "{turn}: {}{}", text(&out.stdout), text(&out.stderr));
    }
}

/// A program of several files of tests/c.
fn host(dir: &Path, name: &str, compiler: &str, files: &[&str], flags: &[&str]) -> String {
    let program = dir.join(name);
    let mut args: Vec<String> =
        vec!["-O1".into(), "-g".into(), "-D_GNU_SOURCE".into(), installed().include()];
    args.extend(flags.iter().map(|f| f.to_string()));
    args.extend(files.iter().map(|f| if f.starts_with('/') { f.to_string() } else { source(f) }));
    args.extend(["-o".into(), s(&program), "-lpthread".into(), "-ldl".into(), "-lrt".into()]);
    run(compiler, &args.iter().map(String::as_str).collect::<Vec<_>>());
    s(&program)
}

fn shared_flags() -> [String; 3] {
    [installed().lib(), "-lspillring".into(), format!("-Wl,-rpath,{}", installed().libdir())]
}

fn safe() {
    let dir = kit::dir();
    let flags = shared_flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let linked: Vec<&str> =
        ["-DLINKED", "-Wl,--no-as-needed"].into_iter().chain(flags.iter().copied()).collect();
    let all = ["host.c", "interpose.c", "safe.c"];
    println!(
        "linked: {}",
        check(Path::new(&host(dir.path(), "linked", "gcc", &all, &linked)), &[], &[]).trim()
    );
    let archive = s(&installed().archive());
    let with_archive = ["host.c", "interpose.c", "safe.c", &archive];
    let program = host(dir.path(), "static", "gcc", &with_archive, &["-DLINKED"]);
    println!("static: {}", check(Path::new(&program), &[], &[]).trim());
    let so: Vec<&str> =
        ["-fPIC", "-shared", "-Wl,--no-as-needed"].into_iter().chain(flags.iter().copied()).collect();
    let plugin = host(dir.path(), "safe.so", "gcc", &["safe.c"], &so);
    let loader = host(dir.path(), "loader", "gcc", &["host.c", "interpose.c"], &["-rdynamic"]);
    println!("loaded: {}", check(Path::new(&loader), &[&plugin], &[]).trim());
    let preload = s(&installed().so());
    println!("preloaded: {}", check(Path::new(&loader), &[&plugin], &[("LD_PRELOAD", &preload)]).trim());
}

fn hammer(file: &str, compiler: &str, loaded: bool) {
    let dir = kit::dir();
    let flags = shared_flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let full = std::env::var("SPILLRING_HAMMER").is_ok_and(|v| v == "full");
    let records = if full { "200000" } else { "20000" };
    let said = if loaded {
        let so: Vec<&str> = ["-fPIC", "-shared", "-Wl,--no-as-needed"].into_iter().chain(flags).collect();
        let plugin = host(dir.path(), "hammer.so", compiler, &[file], &so);
        let loader = host(dir.path(), "loader", "gcc", &["host.c"], &[]);
        check(Path::new(&loader), &[&plugin, records], &[])
    } else {
        // The host is C: compiled on its own, so that it may be linked with C++.
        let object = host(dir.path(), "host.o", "gcc", &["host.c"], &["-DLINKED", "-c"]);
        let linked: Vec<&str> = ["-Wl,--no-as-needed"].into_iter().chain(flags).collect();
        let program = host(dir.path(), "hammer", compiler, &[file, &object], &linked);
        check(Path::new(&program), &[records], &[])
    };
    println!("{}", said.trim());
}

fn hammer_c_linked() {
    hammer("hammer.c", "gcc", false);
}
fn hammer_c_loaded() {
    hammer("hammer.c", "gcc", true);
}
fn hammer_cpp_linked() {
    hammer("hammer.cpp", "g++", false);
}
fn hammer_cpp_loaded() {
    hammer("hammer.cpp", "g++", true);
}

/// System calls of a whole run with a million calls, and of one with none: the same.
fn no_system_calls() {
    let dir = kit::dir();
    let program = Build::new("gcc").program("many.c", dir.path());
    let count = |n: &str| {
        let place = kit::dir();
        let table = place.path().join("table");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-o", &s(&table)]).arg(&program).arg(n).env("TEST_DIR", place.path());
        let out = within(120, &mut strace);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let table = std::fs::read_to_string(&table).expect("strace's table");
        let total = table.lines().find(|l| l.trim_end().ends_with("total")).expect("a total").to_string();
        total.split_whitespace().nth(3).and_then(|n| n.parse::<i64>().ok()).expect("a number")
    };
    let (none, million) = (count("0"), count("1000000"));
    println!("{none} system calls without a log call, {million} with a million");
    assert_eq!(none, million);
}

fn sanitizers() {
    let dir = kit::dir();
    for (file, compiler) in
        [("calls.c", "gcc"), ("calls.cpp", "g++"), ("bad.c", "gcc"), ("differential.c", "gcc")]
    {
        for sanitizer in ["address", "undefined"] {
            let build = Build::new(compiler)
                .flag(&format!("-fsanitize={sanitizer}"))
                .flag("-fno-sanitize-recover=all");
            // bad.c closes all descriptors and asks for allocations that cannot be: ASan's own would be lost.
            let options = [("ASAN_OPTIONS", "detect_leaks=1:allocator_may_return_null=1")];
            if file == "bad.c" && sanitizer == "address" {
                continue;
            }
            check(&build.program(file, dir.path()), &[], &options);
        }
    }
}

fn valgrind() {
    let dir = kit::dir();
    for (file, compiler) in [("calls.c", "gcc"), ("calls.cpp", "g++")] {
        let program = Build::new(compiler).flag("-DVALGRIND").program(file, dir.path());
        let place = kit::dir();
        let mut command = Command::new("valgrind");
        command.args(["-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
        let out = within(200, command.arg(&program).env("TEST_DIR", place.path()));
        assert!(out.status.success(), "{file}: {}{}", text(&out.stdout), text(&out.stderr));
    }
}

/// Runs the examples that a project has built.
fn examples(dir: &Path, kinds: [&str; 2]) {
    for kind in kinds {
        for (name, lines) in [
            ("hello_c", &["3 main: order 7 of water at 1.50", "4 main: the 500th turn"][..]),
            (
                "hello_cpp",
                &["shop: order 7 of    water at 1.50, discount none user=ada", "shop: delivered in 1500ms"],
            ),
            ("in_place", &[]),
        ] {
            let program = dir.join(format!("{name}_{kind}"));
            let place = kit::dir();
            let journals = place.path().join("journals");
            let out = within(
                60,
                Command::new(&program)
                    .env("SPILLRING_DIR", place.path())
                    .env("SPILLRING_JOURNAL_DIR", &journals),
            );
            let said = text(&out.stdout) + &text(&out.stderr);
            assert!(out.status.success(), "{}: {said}", program.display());
            for line in lines {
                assert!(said.lines().any(|l| l == *line), "{}: no {line:?} in {said}", program.display());
            }
        }
    }
}

/// As a packager does: everything lies below DESTDIR, and nothing in it says so.
fn destdir() {
    let dir = kit::dir();
    let to = dir.path().join("package");
    let libdir = "/usr/lib/some-triplet";
    kit::install_with(&[("DESTDIR", &s(&to)), ("PREFIX", "/usr"), ("LIBDIR", libdir)]);
    let lib = to.join(&libdir[1..]);
    for file in ["libspillring.so", "libspillring.so.0", "libspillring.a"] {
        assert!(lib.join(file).is_file(), "{file}");
    }
    assert!(to.join("usr/include/spillring.hpp").is_file() && to.join("usr/share/man/man3").is_dir());
    let mut texts = String::new();
    for file in ["pkgconfig/spillring.pc", "cmake/spillring/spillringConfig.cmake"] {
        texts += &std::fs::read_to_string(lib.join(file)).expect("a file");
    }
    assert!(!texts.contains(&s(&to)) && texts.contains(libdir) && texts.contains("prefix=/usr\n"), "{texts}");
    let all = std::fs::read_dir(&to).expect("a folder").count();
    assert_eq!(
        (all, std::fs::read_link(lib.join("libspillring.so")).expect("a link")),
        (1, "libspillring.so.0".into())
    );
}

fn cmake_project() {
    let dir = kit::dir();
    let build = s(&dir.path().join("build"));
    let prefix = format!("-DCMAKE_PREFIX_PATH={}", s(installed().path()));
    run("cmake", &["-S", &s(&root().join("ffi/examples")), "-B", &build, &prefix]);
    run("cmake", &["--build", &build]);
    examples(Path::new(&build), ["spillring", "static"]);
}

fn make_project() {
    let dir = kit::dir();
    let pkgconfig = format!("PKG_CONFIG_PATH={}/pkgconfig", installed().libdir());
    let makefile = s(&root().join("ffi/examples/Makefile"));
    let out = within(
        120,
        Command::new("make")
            .args(["-f", &makefile, &format!("OUT={}", s(dir.path()))])
            .env_remove("MAKEFLAGS")
            .env("PKG_CONFIG_PATH", pkgconfig.split_once('=').expect("a pair").1),
    );
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    examples(dir.path(), ["shared", "static"]);
}

fn man_pages() {
    let man = installed().path().join("share/man/man3");
    let mut pages: Vec<_> =
        std::fs::read_dir(&man).expect("man pages").map(|e| e.expect("a page").path()).collect();
    pages.sort();
    let header = std::fs::read_to_string(root().join("include/spillring.h")).expect("the header");
    assert_eq!(pages.len(), header.lines().filter(|l| l.starts_with("/* == spr_")).count());
    let mut all = String::new();
    for p in &pages {
        let out = Command::new("mandoc").args(["-T", "lint", "-W", "error", &s(p)]).output().expect("mandoc");
        assert!(out.status.success(), "{}: {}", p.display(), text(&out.stdout));
        all += &run("mandoc", &["-T", "ascii", &s(p)]).replace('\u{8}', "");
    }
    // Every function is described in one of them.
    for name in list() {
        let doubled: String = name.chars().flat_map(|c| [c, c]).collect();
        assert!(all.contains(&doubled), "{name} is in no man page");
    }
    println!("{} pages", pages.len());
}
