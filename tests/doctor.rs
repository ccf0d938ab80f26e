//! `spillring doctor` on machines made of files; the unit, the man pages and the completions as those who take
//! them read them.
#![cfg(feature = "cli")]

mod command_kit;

use command_kit::{Killed, Place, err, out, wait_until};
use spillring::doctor::{Check, Machine, Verdict, any_bad};
use spillring::env::{Idle, Settings};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A machine of these files, on which everything is good but for what they say.
fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
    let root = tempfile::tempdir().unwrap();
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                  Max file size             unlimited            unlimited            bytes     \n\
                  Max open files            4096                 4096                 files     \n\
                  Max locked memory         unlimited            unlimited            bytes     \n";
    let usual = [
        ("proc/cpuinfo", "processor : 0\nflags\t\t: fpu tsc constant_tsc nonstop_tsc\n"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
        ("proc/self/limits", limits),
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/devices/system/cpu/isolated", "\n"),
        ("proc/sys/kernel/yama/ptrace_scope", "0\n"),
        ("proc/self/mounts", "tmpfs / tmpfs rw 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,size=64m 0 0\n"),
        ("run/systemd/system/x", ""),
        ("etc/systemd/logind.conf", "[Login]\nRemoveIPC=no\n"),
    ];
    for (path, text) in usual.iter().chain(files) {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let m = Machine { root: root.path().into(), uid: 1000, file_system: Some((true, 4 << 30, 4 << 30)) };
    (root, m)
}

fn settings() -> Settings {
    Settings::from(|n| (n == "SPILLRING_DIR").then(|| "/dev/shm/spillring-1000".into()), 1000).0
}

fn find<'a>(all: &'a [Check], name: &str) -> &'a Check {
    let mut found = all.iter().filter(|c| c.name == name);
    let c = found.next().unwrap_or_else(|| panic!("{name} in {all:?}"));
    assert!(found.next().is_none(), "one line a check");
    c
}

/// What a machine with these files says to one question, and that it has nothing new to say to the others.
fn says(name: &str, files: &[(&str, &str)], s: &Settings) -> Check {
    let (_root, m) = machine(files);
    let all = m.checks(s);
    for c in &all {
        let line = c.to_string();
        assert!(!line.contains('\n') && line.len() < 400, "{line}");
        assert_eq!(c.verdict == Verdict::Good, c.remedy.is_empty(), "what is not good has a remedy: {line}");
        assert!(c.name == name || c.name == "drain's core" || c.verdict == Verdict::Good, "{line}");
    }
    find(&all, name).clone()
}

fn a_good_machine() {
    let (_root, m) = machine(&[]);
    let all = m.checks(&settings());
    let names: Vec<_> = all.iter().map(|c| c.name).collect();
    let want = [
        "clock",
        "shared memory",
        "locked memory",
        "drain's core",
        "memory cgroup",
        "ptrace",
        "logind",
        "open files",
        "file size",
    ];
    assert_eq!(names, want);
    assert!(!any_bad(&all));
    // Nothing there at all, as in a bare container: answers, no errors.
    let m = Machine { root: "/nonexistent".into(), uid: 1000, file_system: Some((true, 1 << 30, 1 << 30)) };
    assert_eq!(m.checks(&settings()).len(), want.len());
}

fn each_question() {
    let s = settings();
    use Verdict::{Bad, Good, Note};
    let case = |name: &str, files: &[(&str, &str)], s: &Settings, verdict: Verdict, words: &[&str]| {
        let c = says(name, files, s);
        let line = c.to_string();
        assert_eq!(c.verdict, verdict, "{line}");
        for w in words {
            assert!(line.contains(w), "{w:?} in {line}");
        }
    };
    let clock = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    case("clock", &[("proc/cpuinfo", "flags : fpu tsc constant_tsc\n")], &s, Note, &["not invariant"]);
    case("clock", &[(clock, "kvm-clock\n")], &s, Note, &["kvm-clock", "SPILLRING_CLOCK=monotonic"]);
    case("clock", &[("proc/cpuinfo", "Features : fp asimd\n"), (clock, "arch_sys_counter")], &s, Good, &[]);

    let limit = |what: &str, n: &str| format!("{what:<25} {n:<20} unlimited bytes\n");
    let locked = limit("Max locked memory", "65536");
    let files = [("proc/self/limits", locked.as_str())];
    case("locked memory", &files, &s, Note, &["64 KiB", "SPILLRING_LOCK=yes", "ulimit -l", "LimitMEMLOCK="]);
    case("locked memory", &files, &Settings { lock: true, ..s.clone() }, Bad, &["64 KiB", "ulimit -l"]);
    let small = Settings { lanes: 1, lane_bytes: 4096, ..s.clone() };
    case("locked memory", &[("proc/self/limits", &limit("Max locked memory", "8388608"))], &small, Good, &[]);
    let open = limit("Max open files", "512");
    case("open files", &[("proc/self/limits", &open)], &s, Note, &["512", "128 producers", "ulimit -n"]);
    let open = limit("Max open files", "20");
    case("open files", &[("proc/self/limits", &open)], &s, Bad, &["ulimit -n", "LimitNOFILE"]);
    let size = limit("Max file size", "1048576");
    case("file size", &[("proc/self/limits", &size)], &s, Bad, &["1024 KiB", "ulimit -f unlimited"]);

    let isolated = ("sys/devices/system/cpu/isolated", "2-3\n");
    case("drain's core", &[], &s, Note, &["none of 4", "isolcpus=", "SPILLRING_DRAIN_CPU"]);
    case("drain's core", &[isolated], &s, Note, &["2 are isolated"]);
    case("drain's core", &[isolated], &Settings { drain_cpu: Some(3), ..s.clone() }, Good, &["3"]);
    case("drain's core", &[], &Settings { drain_cpu: Some(9), ..s.clone() }, Bad, &["SPILLRING_DRAIN_CPU=9"]);
    case("drain's core", &[], &Settings { idle: Idle::Spin, ..s.clone() }, Note, &["others run"]);

    let group = ("proc/self/cgroup", "0::/a/b\n");
    let max = |n: &'static str| ("sys/fs/cgroup/a/memory.max", n);
    let used = ("sys/fs/cgroup/a/memory.current", "33554432\n");
    case("memory cgroup", &[group, max("67108864\n"), used], &s, Bad, &["32 MiB are left", "MemoryMax="]);
    case("memory cgroup", &[group, max("167772160\n"), used], &s, Note, &["128 MiB are left"]);
    case("memory cgroup", &[group, max("max\n"), used], &s, Good, &["no limit"]);
    case("memory cgroup", &[group, max("1073741824\n"), used], &s, Good, &["992 MiB"]);

    let scope = |n: &'static str| ("proc/sys/kernel/yama/ptrace_scope", n);
    case("ptrace", &[scope("1\n")], &s, Note, &["scope 1", "sysctl kernel.yama.ptrace_scope=0"]);
    case("ptrace", &[scope("3\n")], &s, Note, &["nobody"]);

    let conf = |t: &'static str| ("etc/systemd/logind.conf", t);
    case(
        "logind",
        &[conf("#RemoveIPC=no\n")],
        &s,
        Bad,
        &["user 1000 logs out", "RemoveIPC=no", "XDG_RUNTIME_DIR"],
    );
    let drop_in = ("etc/systemd/logind.conf.d/10.conf", "[Login]\n RemoveIPC=yes\n");
    case("logind", &[drop_in], &s, Bad, &["RemoveIPC=no in"]);
    case(
        "logind",
        &[conf("RemoveIPC=yes\n"), ("run/systemd/logind.conf.d/1.conf", "RemoveIPC=no\n")],
        &s,
        Good,
        &[],
    );
    let elsewhere = Settings { dir: "/run/user/1000/spillring".into(), ..s.clone() };
    case("logind", &[conf("RemoveIPC=yes\n")], &elsewhere, Good, &["elsewhere"]);

    let huge = Settings { huge: true, ..s.clone() };
    case("huge pages", &[], &huge, Bad, &["SPILLRING_HUGE=yes", "remount,huge=advise /dev/shm"]);
    let mounts = "tmpfs / tmpfs rw 0 0\ntmpfs /dev/shm tmpfs rw,huge=within_size 0 0\n";
    case("huge pages", &[("proc/self/mounts", mounts)], &huge, Good, &["within_size"]);
}

fn a_system_user_and_no_systemd() {
    let (root, mut m) = machine(&[("etc/systemd/logind.conf", "RemoveIPC=yes\n")]);
    m.uid = 999;
    assert_eq!(find(&m.checks(&settings()), "logind").verdict, Verdict::Good);
    m.uid = 1000;
    assert_eq!(find(&m.checks(&settings()), "logind").verdict, Verdict::Bad);
    std::fs::remove_dir_all(root.path().join("run/systemd")).unwrap();
    assert_eq!(find(&m.checks(&settings()), "logind").verdict, Verdict::Good);
}

fn the_file_system_of_the_channels() {
    let (root, mut m) = machine(&[]);
    let mut s = settings();
    let mut case = |fs, verdict, words: &[&str]| {
        m.file_system = fs;
        let c = find(&m.checks(&s), "shared memory").clone();
        assert_eq!(c.verdict, verdict, "{c}");
        words.iter().for_each(|w| assert!(c.to_string().contains(w), "{w:?} in {c}"));
    };
    case(Some((false, 1 << 40, 1 << 40)), Verdict::Bad, &["not on a tmpfs", "SPILLRING_DIR"]);
    case(
        Some((true, 64 << 20, 20 << 20)),
        Verdict::Bad,
        &["20 of 64 MiB", "--shm-size=1g", "SPILLRING_LANES"],
    );
    case(Some((true, 64 << 20, 64 << 20)), Verdict::Note, &["size=1g"]);
    case(Some((true, 4 << 30, 1 << 30)), Verdict::Good, &["1024 of 4096"]);
    // Asked: the fake root is on a disk, or in shared memory.
    m.file_system = None;
    s.dir = "/made/later".into();
    let asked = find(&m.checks(&s), "shared memory").clone();
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    m.root = shm.path().into();
    let in_memory = find(&m.checks(&s), "shared memory").clone();
    assert!(in_memory.found.contains("/made/later has "), "{in_memory}");
    if !root.path().starts_with("/dev/shm") && asked.verdict == Verdict::Bad {
        assert!(asked.found.contains("not on a tmpfs"), "{asked}");
    }
}

/// The command, on this machine: a line a check, and the status that goes with them.
fn the_command() {
    let p = Place::new();
    let o = p.spillring(&["doctor"]);
    let text = out(&o);
    let bad = text.lines().any(|l| l.starts_with("BAD "));
    assert_eq!(o.status.code(), Some(i32::from(bad)), "{text}");
    assert!(text.lines().count() >= 9 && err(&o).is_empty(), "{text}{}", err(&o));
    assert!(text.lines().all(|l| ["good  ", "note  ", "BAD   "].iter().any(|v| l.starts_with(v))), "{text}");
    // What the environment asks for is looked at; here it cannot be had anywhere.
    let mut c = p.command(&["doctor"]);
    let o = c.env("SPILLRING_DRAIN_CPU", "1023").output().unwrap();
    assert_eq!(o.status.code(), Some(1));
    assert!(
        out(&o).lines().any(|l| l.starts_with("BAD ") && l.contains("SPILLRING_DRAIN_CPU=1023")),
        "{}",
        out(&o)
    );
}

fn the_unit_is_sound() {
    let p = Place::new();
    let text = p.says(&["service", "--cpu", "3"]);
    for line in [
        "Type=notify",
        "RuntimeDirectory=spillring",
        "RuntimeDirectoryPreserve=yes",
        "CPUAffinity=3",
        "NoNewPrivileges=yes",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    assert!(text.contains(&format!("ExecStart={} drain %i", command_kit::BIN)), "{text}");
    let unit = p.file("spillring@web.service");
    std::fs::write(&unit, &text).unwrap();
    let o = Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit).output().unwrap();
    assert!(o.status.success() && err(&o).is_empty(), "{}{}", out(&o), err(&o));
    let o = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--threshold=20"])
        .arg(&unit)
        .output();
    let o = o.unwrap();
    let text = out(&o);
    let level = text.lines().find(|l| l.contains("Overall exposure")).unwrap_or_default();
    assert!(o.status.success(), "exposed by more than 2.0: {text}");
    println!("{level}");
}

/// What systemd would be told.
fn a_drain_tells_its_manager() {
    let p = Place::new();
    for abstract_name in [false, true] {
        let path = p.file("notify");
        let (socket, name) = if abstract_name {
            use std::os::linux::net::SocketAddrExt;
            let name = format!("spillring-test-{}", std::process::id());
            let a = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
            (UnixDatagram::bind_addr(&a).unwrap(), format!("@{name}"))
        } else {
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string())
        };
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut c = p.command(&["drain", "web"]);
        let mut drain = Killed(c.env("NOTIFY_SOCKET", &name).stdout(Stdio::null()).spawn().unwrap());
        let hear = || {
            let mut b = [0; 100];
            let n = socket.recv(&mut b).expect("it tells");
            String::from_utf8_lossy(&b[..n]).into_owned()
        };
        assert_eq!(hear(), "READY=1");
        // It is: the channel is there, and has this drain.
        assert!(out(&p.spillring(&["ls"])).contains(&drain.0.id().to_string()));
        let pid = drain.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(hear(), "STOPPING=1");
        assert_eq!(drain.0.wait().unwrap().code(), Some(0));
    }
    // A manager that does not listen any more is no reason to fail.
    let mut c = p.command(&["drain", "web"]);
    let mut drain = Killed(c.env("NOTIFY_SOCKET", p.file("nobody")).stderr(Stdio::null()).spawn().unwrap());
    let pid = drain.0.id().to_string();
    wait_until("it drains", || out(&p.spillring(&["ls"])).contains(&pid));
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(drain.0.wait().unwrap().code(), Some(0));
}

const COMMANDS: &[&str] =
    &["run", "drain", "cat", "tail", "stat", "ls", "rm", "inspect", "doctor", "service"];

fn man_pages() {
    let p = Place::new();
    let dir = p.file("man");
    assert_eq!(p.says(&["man", "--dir", dir.to_str().unwrap()]), "");
    for c in COMMANDS {
        let page = dir.join(format!("spillring-{c}.1"));
        assert!(page.is_file(), "{}", page.display());
        let o = Command::new("man")
            .arg("-l")
            .arg(&page)
            .env("MANPAGER", "cat")
            .env("MANWIDTH", "100")
            .output()
            .unwrap();
        let text = out(&o);
        assert!(
            o.status.success() && text.contains("SYNOPSIS") && text.contains("OPTIONS"),
            "{c}: {text}{}",
            err(&o)
        );
    }
    let one = p.says(&["man", "tail"]);
    assert!(one.contains(".TH") && one.contains("follow") && one.contains("grep"), "{one}");
    assert!(p.says(&["man"]).contains("spillring\\-run"), "the main page names the others");
    let o = p.spillring(&["man", "nosuch"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("nosuch") && err(&o).contains("tail"), "{}", err(&o));
}

fn completions() {
    let p = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = p.says(&["completions", shell]);
        for c in COMMANDS {
            assert!(text.contains(c), "{c} in those of {shell}");
        }
    }
    // As bash uses them.
    let file = p.file("complete.bash");
    std::fs::write(&file, p.says(&["completions", "bash"])).unwrap();
    let script = format!(
        "source {0}; COMP_WORDS=(spillring tail --fo); COMP_CWORD=2; _spillring spillring --fo tail; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    let o = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!((out(&o), err(&o)), ("--follow\n--format\n".to_string(), String::new()));
    let o = p.spillring(&["completions", "tcsh"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(err(&o).contains("tcsh") && err(&o).contains("zsh"), "{}", err(&o));
}

fn main() -> std::process::ExitCode {
    command_kit::run(vec![
        ("a_good_machine", &[], a_good_machine),
        ("each_question", &[], each_question),
        ("a_system_user_and_no_systemd", &[], a_system_user_and_no_systemd),
        ("the_file_system_of_the_channels", &[], the_file_system_of_the_channels),
        ("the_command", &[], the_command),
        ("the_unit_is_sound", &["systemd-analyze"], the_unit_is_sound),
        ("a_drain_tells_its_manager", &[], a_drain_tells_its_manager),
        ("man_pages", &["man"], man_pages),
        ("completions", &["bash"], completions),
    ])
}
