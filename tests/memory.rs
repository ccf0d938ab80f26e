//! What the settings of the shared memory do, as the kernel sees it: locked, in huge pages, there from the start.
#![cfg(feature = "cli")]
#![allow(unsafe_code)]

mod command_kit;

use command_kit::{Place, err, out};
use std::collections::BTreeMap;
use std::process::{Command, Output};

/// The program: attaches, logs, and tells what `/proc` says of its ring.
fn program(what: &str) {
    if let Some(limit) = what.strip_prefix("limit ") {
        let n = limit.parse().unwrap();
        // Root is asked too, once it has given its capabilities away.
        let l = libc::rlimit { rlim_cur: n, rlim_max: n };
        // SAFETY: a valid limit; plain numbers.
        unsafe {
            assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &l), 0);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if libc::geteuid() == 0 {
                let id = 65_534;
                let dir = std::env::var("SPILLRING_DIR").unwrap();
                std::fs::create_dir_all(&dir).unwrap();
                let up = std::path::Path::new(&dir).parent().unwrap();
                for p in [up, std::path::Path::new(&dir)] {
                    std::os::unix::fs::chown(p, Some(id), Some(id)).unwrap();
                }
                assert_eq!(libc::setresuid(id, id, id), 0);
            }
        }
    }
    let guard = spillring::init().unwrap();
    let before = smaps();
    spillring::info!("here");
    let after = smaps();
    println!("problems {}", guard.problems().len());
    for (name, map) in [("init", &before), ("logged", &after)] {
        for key in ["Size", "Rss", "Locked", "ShmemPmdMapped", "VmFlags"] {
            println!("{name} {key} {}", map.get(key).map_or("", String::as_str));
        }
    }
    // SAFETY: plain number; a child that logs has a ring of its own.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            spillring::info!("child");
            println!("child Locked {}", smaps()["Locked"]);
            println!("child Rss {}", smaps()["Rss"]);
            std::process::exit(0);
        }
        let mut st = 0;
        libc::waitpid(pid, &mut st, 0);
        assert_eq!(st, 0);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let lck = status.lines().find_map(|l| l.strip_prefix("VmLck:")).unwrap();
    println!("all VmLck {}", lck.trim().trim_end_matches(" kB"));
}

/// What /proc/self/smaps says of this process's ring; sizes in KiB.
fn smaps() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let me = format!("/{}-", std::process::id());
    let mut mine = false;
    let mut found = BTreeMap::new();
    for l in text.lines() {
        let first = l.split(' ').next().unwrap();
        if !first.ends_with(':') {
            mine = l.contains(&me) && l.ends_with(".ring") && l.contains(" rw-s ");
        } else if mine {
            let value = l[first.len()..].trim().trim_end_matches(" kB").to_string();
            // Locking a part makes several mappings of it: their sum.
            let all: &mut String = found.entry(first.trim_end_matches(':').to_string()).or_default();
            *all = match (all.parse::<u64>(), value.parse::<u64>()) {
                (Ok(a), Ok(b)) => (a + b).to_string(),
                _ => format!("{all} {value}").trim().to_string(),
            };
        }
    }
    found
}

struct Said(BTreeMap<String, String>, String);

impl Said {
    fn of(o: &Output) -> Said {
        assert!(o.status.success(), "{}{}", out(o), err(o));
        let text = out(o);
        let line = |l: &str| {
            let mut w = l.splitn(3, ' ');
            Some((format!("{} {}", w.next()?, w.next()?), w.next().unwrap_or("").to_string()))
        };
        let mut all: BTreeMap<String, String> = text.lines().filter_map(line).collect();
        if let Some(n) = text.lines().find_map(|l| l.strip_prefix("problems ")) {
            all.insert("problems".into(), n.into());
        }
        Said(all, err(o))
    }
    fn n(&self, key: &str) -> u64 {
        self.0.get(key).and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{key} in {:?}", self.0))
    }
}

fn start(p: &Place, what: &str, vars: &[(&str, &str)]) -> Said {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.arg("--program").arg(what);
    p.env(&mut c);
    Said::of(&c.envs(vars.iter().copied()).output().unwrap())
}

const LANES: (&str, &str) = ("SPILLRING_LANES", "4");

fn as_it_is_by_default() {
    let s = start(&Place::new(), "plain", &[LANES]);
    assert_eq!((s.n("problems"), s.n("all VmLck"), s.n("init Locked")), (0, 0, 0));
    assert!(s.n("init Rss") < s.n("init Size") - 3 * 256, "lanes come when they are needed: {:?}", s.0);
    assert!(!s.0["init VmFlags"].contains("hg"), "{:?}", s.0);
}

fn locked() {
    // Locked are the part that all share, and the lane of the one thread that has logged.
    let s = start(&Place::new(), "plain", &[LANES, ("SPILLRING_LOCK", "yes")]);
    assert_eq!((s.n("problems"), s.1.as_str()), (0, ""));
    let (init, logged) = (s.n("init Locked"), s.n("logged Locked"));
    println!("{init} KiB locked at init, {logged} with a lane, of {}", s.n("init Size"));
    assert!(init > 0 && logged == init + 256 && s.n("all VmLck") == logged, "{:?}", s.0);
    assert_eq!(s.n("child Locked"), logged, "a forked child locks its own: {:?}", s.0);
}

fn locked_as_far_as_the_limit_goes() {
    let p = Place::new();
    let s = start(&p, "limit 65536", &[LANES, ("SPILLRING_LOCK", "yes")]);
    assert_eq!((s.n("problems"), s.n("all VmLck")), (1, 0));
    assert!(s.1.contains("SPILLRING_LOCK=yes") && s.1.contains("ulimit -l"), "{}", s.1);
    assert_eq!(s.1.lines().count(), 1, "{}", s.1);
}

fn there_from_the_start() {
    let s = start(&Place::new(), "plain", &[LANES, ("SPILLRING_PREFAULT", "yes")]);
    assert_eq!((s.n("problems"), s.1.as_str()), (0, ""));
    assert_eq!((s.n("init Rss"), s.n("logged Rss")), (s.n("init Size"), s.n("init Size")), "{:?}", s.0);
    assert_eq!(s.n("child Rss"), s.n("init Size"), "{:?}", s.0);
    // And locked, all of it.
    let vars = [LANES, ("SPILLRING_PREFAULT", "yes"), ("SPILLRING_LOCK", "yes")];
    let s = start(&Place::new(), "plain", &vars);
    assert_eq!((s.n("all VmLck"), s.n("problems")), (s.n("init Size"), 0), "{:?}", s.0);
}

/// In a tmpfs of its own that gives huge pages, and in one that is too small for all lanes.
fn mounted() {
    let p = Place::new();
    let dir = p.file("mnt");
    std::fs::create_dir(&dir).unwrap();
    let run = |options: &str, vars: &[(&str, &str)]| {
        let script = format!(
            "mount -t tmpfs -o {options} none {0} && SPILLRING_DIR={0}/c exec {1} --program plain",
            dir.display(),
            std::env::current_exe().unwrap().display()
        );
        let mut c = Command::new("unshare");
        c.args(["-m", "sh", "-c", &script]);
        p.env(&mut c);
        Said::of(&c.envs(vars.iter().copied()).output().unwrap())
    };
    let vars = [("SPILLRING_LANES", "16"), ("SPILLRING_LANE", "1m"), ("SPILLRING_PREFAULT", "yes")];
    let huge = [("SPILLRING_HUGE", "yes")];
    let s = run("size=64m,huge=advise", &[&vars[..], &huge].concat());
    assert_eq!((s.n("problems"), s.1.as_str()), (0, ""));
    assert!(s.0["init VmFlags"].split(' ').any(|f| f == "hg"), "{:?}", s.0);
    println!("{} of {} KiB in huge pages", s.n("init ShmemPmdMapped"), s.n("init Size"));
    assert!(s.n("init ShmemPmdMapped") >= 2048, "{:?}", s.0);
    // Without asking there are none.
    let s = run("size=64m,huge=advise", &vars);
    assert_eq!(s.n("init ShmemPmdMapped"), 0, "{:?}", s.0);
    // Too small: said, and it logs.
    let s = run("size=4m", &vars);
    assert_eq!(s.n("problems"), 1);
    assert!(s.1.contains("SPILLRING_PREFAULT=yes") && s.1.contains("fewer or smaller lanes"), "{}", s.1);
    assert!(s.n("logged Rss") >= 256 && s.n("logged Rss") < 4096, "{:?}", s.0);
}

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == "--program") {
        program(&args[2]);
        return std::process::ExitCode::SUCCESS;
    }
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let mut cases: Vec<command_kit::Case> = vec![
        ("as_it_is_by_default", &[], as_it_is_by_default),
        ("locked", &[], locked),
        ("locked_as_far_as_the_limit_goes", &[], locked_as_far_as_the_limit_goes),
        ("there_from_the_start", &[], there_from_the_start),
    ];
    // A name that nobody's tool has: what can't be done here is said.
    let needs: &[&str] = if root { &["unshare"] } else { &["root (it mounts a tmpfs)"] };
    cases.push(("mounted", needs, mounted));
    command_kit::run(cases)
}
