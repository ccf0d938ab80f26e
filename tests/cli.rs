//! The command as its user sees it: statuses, streams, signals, messages.
#![cfg(feature = "cli")]

mod command_kit;

use command_kit::{BIN, Killed, Place, err, out, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

impl Place {
    /// `run` of a shell line.
    fn sh(&self, line: &str) -> Output {
        self.spillring(&["run", "--", "sh", "-c", line])
    }
}

/// The output of a shell line without us, for comparison.
fn plain(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().unwrap()
}

fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap().success());
}

#[test]
fn help_says_what_is_needed() {
    let p = Place::new();
    let o = p.spillring(&["--help"]);
    assert_eq!(o.status.code(), Some(0));
    for word in ["Examples:", "Exit status:", "128+n", "SPILLRING_DIR", "SPILLRING_IDLE", "spillring run"] {
        assert!(out(&o).contains(word), "{word}");
    }
    for command in ["run", "drain", "cat", "stat", "ls", "rm", "inspect"] {
        let o = p.spillring(&[command, "--help"]);
        assert_eq!(o.status.code(), Some(0));
        assert!(out(&o).len() > 100 && out(&o).contains("Usage:"), "{command}");
    }
    assert!(out(&p.spillring(&["--version"])).starts_with("spillring "));
}

#[test]
fn bad_arguments_are_named_and_end_with_2() {
    let p = Place::new();
    for (args, words) in [
        (&["run"][..], &["COMMAND"][..]),
        (&["run", "--format", "xml", "--", "true"], &["xml", "raw", "text"]),
        (&["run", "--channel", "../x", "--", "true"], &["../x", "1 to 64"]),
        (&["drain"], &["CHANNEL"]),
        (&["stat", "a b"], &["a b", "path"]),
        (&["cat", "x", "--format", "y"], &["y", "--format"]),
        (&["nonsense"], &["nonsense"]),
        (&["inspect", "brain"], &["brain", "--help"]),
    ] {
        let o = p.spillring(args);
        assert_eq!(o.status.code(), Some(2), "{args:?}");
        for w in words {
            assert!(err(&o).contains(w), "{args:?}: {w}: {}", err(&o));
        }
    }
    assert!(!p.channels().exists(), "nothing was made");
}

#[test]
fn a_bad_variable_is_named_and_stops_nothing() {
    let p = Place::new();
    let mut c = p.command(&["run", "--", "echo", "hello"]);
    let o = c.env("SPILLRING_IDLE", "sleeep").env("SPILLRING_LEVEL", "loud").output().unwrap();
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(0), "hello\n"));
    let e = err(&o);
    assert!(e.contains("SPILLRING_IDLE=\"sleeep\"") && e.contains("sleep:TIME"), "{e}");
    assert!(e.contains("SPILLRING_LEVEL=\"loud\"") && e.contains("trace, debug"), "{e}");
    assert_eq!(e.lines().count(), 2, "{e}");
}

#[test]
fn the_status_is_the_commands() {
    let p = Place::new();
    for (line, status) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(p.sh(line).status.code(), Some(status), "{line}");
    }
    let o = p.spillring(&["run", "--", "/no/such/command"]);
    assert_eq!(o.status.code(), Some(127));
    assert!(err(&o).contains("/no/such/command"));
    let file = p.file("not-executable");
    fs::write(&file, "echo").unwrap();
    let o = p.spillring(&["run", "--", file.to_str().unwrap()]);
    assert_eq!(o.status.code(), Some(126));
    // A script without a first line that names its interpreter runs, as it does in a shell.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&file, "echo script\nexit 5\n").unwrap();
    let o = p.spillring(&["run", "--", file.to_str().unwrap()]);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(5), "script\n"));
}

#[test]
fn both_streams_come_byte_for_byte() {
    let p = Place::new();
    let line =
        "printf 'a\\0b\\033[1m\\377'; printf 'x\\r\\ny' >&2; seq 3000; printf 'no newline'; echo e >&2";
    let (ours, theirs) = (p.sh(line), plain(line));
    assert!(ours.stdout == theirs.stdout && ours.stderr == theirs.stderr, "{:?}", err(&ours));
    // What was made for it is gone.
    assert_eq!(fs::read_dir(p.channels()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(p.journals()).unwrap().count(), 0);
}

#[test]
fn much_output_comes_whole() {
    let p = Place::new();
    let line = "seq 1 400000; seq 1 50000 >&2; head -c 3000000 /dev/zero";
    let (ours, theirs) = (p.sh(line), plain(line));
    assert_eq!((ours.stdout.len(), ours.stderr.len()), (theirs.stdout.len(), theirs.stderr.len()));
    assert!(ours.stdout == theirs.stdout && ours.stderr == theirs.stderr);
}

#[test]
fn stdin_is_the_commands_own() {
    let p = Place::new();
    let mut c = p.command(&["run", "--", "cat"]);
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"through").unwrap();
    drop(stdin);
    let o = child.wait_with_output().unwrap();
    assert_eq!(out(&o), "through");
}

#[test]
fn a_prompt_comes_at_once() {
    let p = Place::new();
    let mut c = p.command(&["run", "--", "sh", "-c", "printf 'name? '; read n; echo \"hello $n\""]);
    let mut child = Killed(c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut prompt = [0; 6];
    child.0.stdout.as_mut().unwrap().read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"name? ");
    child.0.stdin.take().unwrap().write_all(b"you\n").unwrap();
    let mut rest = String::new();
    child.0.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "hello you\n");
}

/// Without the two signals that the C library keeps for itself: it takes them once there are threads.
fn comparable(text: &str) -> String {
    let line = |l: &str| match l.strip_prefix("SigIgn:\t").map(|v| u64::from_str_radix(v, 16)) {
        Some(Ok(v)) => format!("SigIgn {:x}\n", v & !(3 << 31)),
        _ => format!("{l}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_command_finds_what_it_would_find_without_us() {
    let p = Place::new();
    // Signal mask and dispositions, descriptors, process group, limits, directory, umask, affinity.
    let line = "grep -E '^(Sig(Blk|Ign|Cgt)|Cpus_allowed_list|NoNewPrivs)' /proc/self/status; ls /proc/self/fd; \
                ulimit -a; pwd; umask; env | grep -v -E '^(SPILLRING_|_=)' | sort";
    for setup in
        ["", "trap '' PIPE; ", "trap '' HUP INT; ", "umask 027; exec 7</dev/null; ", "trap '' CHLD; "]
    {
        let with = format!("{setup}exec {BIN} run -- sh -c \"$LINE\"");
        let without = format!("{setup}exec sh -c \"$LINE\"");
        let sh = |script: &str| {
            let mut c = Command::new("sh");
            p.env(&mut c);
            c.args(["-c", script]).env("LINE", line).stdin(Stdio::null()).output().unwrap()
        };
        let (ours, theirs) = (sh(&with), sh(&without));
        assert_eq!(comparable(&out(&ours)), comparable(&out(&theirs)), "{setup}");
    }
    let o = p.sh("cut -d' ' -f5 /proc/$$/stat /proc/$PPID/stat");
    let groups = out(&o);
    let mut groups = groups.split_whitespace();
    assert_eq!(groups.next(), groups.next());
    let o = p.sh("echo $SPILLRING_DIR; test -e $SPILLRING_DIR/$SPILLRING_CHANNEL/ctl && echo there");
    assert_eq!(out(&o), format!("{}\nthere\n", p.channels().display()));
}

#[test]
fn a_signal_to_run_is_passed_on_once() {
    let p = Place::new();
    let log = p.file("signals");
    let script = format!(
        "for s in TERM INT USR1 HUP QUIT; do trap \"echo $s >>{0}\" $s; done; echo ready >{0}; \
         while ! grep -q QUIT {0}; do sleep 0.02; done",
        log.display()
    );
    let mut c = p.command(&["run", "--", "sh", "-c", &script]);
    let mut child = Killed(c.stdin(Stdio::null()).spawn().unwrap());
    let text = || fs::read_to_string(&log).unwrap_or_default();
    wait_until("the script is ready", || text().contains("ready"));
    let mut expected = "ready\n".to_string();
    for s in ["TERM", "INT", "USR1", "HUP", "QUIT"] {
        kill(child.0.id(), s);
        expected += &format!("{s}\n");
        wait_until(s, || text().lines().count() >= expected.lines().count());
    }
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert_eq!(text(), expected);
}

#[test]
fn without_a_channel_the_command_runs_all_the_same() {
    let p = Place::new();
    // Below a file no directory can be made, whoever asks.
    let bad = p.file("file");
    fs::write(&bad, "").unwrap();
    let run = |args: &[&str]| {
        let mut c = p.command(args);
        c.env("SPILLRING_DIR", bad.join("x")).stdin(Stdio::null()).output().unwrap()
    };
    let o = run(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(9), "out\n"));
    let e = err(&o);
    assert!(e.ends_with("err\n") && e.lines().count() == 2, "{e}");
    assert!(e.contains(bad.to_str().unwrap()) && e.contains("without spillring") && e.contains("[E"), "{e}");
    let o = run(&["run", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(o.status.signal(), Some(libc::SIGTERM));
    assert_eq!(run(&["run", "--", "/no/such/command"]).status.code(), Some(127));
    let o = run(&["run", "--strict", "--", "echo", "started"]);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(125), ""));
    assert!(err(&o).contains("not started"), "{}", err(&o));
}

#[test]
fn output_to_a_file_is_text_appended_for_us_alone() {
    let p = Place::new();
    let file = p.file("log");
    let path = file.to_str().unwrap();
    for n in ["one", "two"] {
        let o =
            p.spillring(&["run", "-o", path, "--", "sh", "-c", &format!("echo {n}; printf '\\033[1m' >&2")]);
        assert_eq!((o.status.code(), o.stdout.len(), err(&o).as_str()), (Some(0), 0, ""));
    }
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("stdout") && text.contains("stderr") && text.contains("\\x1b[1m"), "{text}");
    assert!(text.find("one").unwrap() < text.find("two").unwrap());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // Raw on request.
    let raw = p.file("raw");
    p.spillring(&["run", "-o", raw.to_str().unwrap(), "--format", "raw", "--", "printf", "a\\0b"]);
    assert_eq!(fs::read(raw).unwrap(), b"a\0b");
}

#[test]
fn no_capture_leaves_the_streams_alone() {
    let p = Place::new();
    let o = p.spillring(&[
        "run",
        "--no-capture",
        "--",
        "sh",
        "-c",
        "readlink /proc/self/fd/1; readlink /proc/$PPID/fd/1",
    ]);
    let text = out(&o);
    let mut lines = text.lines();
    assert_eq!(lines.next(), lines.next());
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn a_stalled_reader_does_not_slow_the_command_and_gets_everything() {
    let p = Place::new();
    let done = p.file("done");
    let line = format!("seq 1 1000000; touch {}", done.display());
    let mut c = p.command(&["run", "--", "sh", "-c", &line]);
    let mut child = Killed(c.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    // Nobody reads, and the command ends: 7 MB are in the journal.
    wait_until("the command ends", || done.exists());
    let status = fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak <= 64 << 10, "{peak} KiB resident");
    let mut got = Vec::new();
    child.0.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert!(got == plain("seq 1 1000000").stdout, "{} bytes", got.len());
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let p = Place::new();
    let mut c = p.command(&["run", "--", "yes"]);
    let mut child =
        Killed(c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut first = [0; 2];
    child.0.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let begun = Instant::now();
    // `yes` dies of SIGPIPE.
    assert_eq!(child.0.wait().unwrap().code(), Some(141));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_named_channel_is_kept_and_can_be_read_and_removed() {
    let p = Place::new();
    let o =
        p.spillring(&["run", "--channel", "web", "--", "sh", "-c", "echo one; printf 'tw'; echo three >&2"]);
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    let o = p.spillring(&["cat", "--format", "raw", "web"]);
    let mut words: Vec<_> = out(&o).lines().map(str::to_string).collect();
    words.sort();
    assert_eq!(out(&o).len(), 12, "{words:?}");
    let o = p.spillring(&["cat", "web"]);
    assert_eq!(o.status.code(), Some(0));
    assert!(out(&o).lines().any(|l| l.contains("stdout") && l.ends_with("one")), "{}", out(&o));
    let o = p.spillring(&["stat", "web"]);
    assert_eq!(o.status.code(), Some(0), "{}{}", out(&o), err(&o));
    let o = p.spillring(&["stat", "--json", "web"]);
    let j: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!((&j["adds_up"], &j["pending"]), (&true.into(), &0.into()));
    assert!(out(&p.spillring(&["ls"])).contains("web"));
    let o = p.spillring(&["inspect", "journal", "web"]);
    assert!(o.status.success() && out(&o).contains("batch"), "{}", out(&o));
    let o = p.spillring(&["inspect", "channel", "web"]);
    assert!(o.status.success() && out(&o).contains("CTL_MAGIC"), "{}", out(&o));
    assert!(out(&p.spillring(&["inspect", "layout"])).contains("SHARED_TAIL"));
    assert_eq!(p.spillring(&["rm", "web"]).status.code(), Some(0));
    assert!(!p.channels().join("web").exists() && !p.journals().join("web").exists());
    let o = p.spillring(&["cat", "web"]);
    assert_eq!(o.status.code(), Some(4));
    assert!(err(&o).contains("web") && err(&o).contains("[E02]"), "{}", err(&o));
    assert_eq!(p.spillring(&["stat", "web"]).status.code(), Some(4));
    assert_eq!(p.spillring(&["rm", "web"]).status.code(), Some(4));
}

#[test]
fn a_channel_in_use_is_not_removed() {
    let p = Place::new();
    let up = p.file("up");
    let line = format!("touch {}; exec sleep 30", up.display());
    let mut c = p.command(&["run", "--channel", "busy", "--", "sh", "-c", &line]);
    let mut child = Killed(c.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    let drain = || drain_of(child.0.id());
    // A run whose channel goes away before its command is there becomes its command.
    wait_until("the command runs", || up.exists());
    wait_until("it runs", || drain().is_some_and(|d| out(&p.spillring(&["ls"])).contains(&d.to_string())));
    let drain = drain().expect("a drain").to_string();
    let o = p.spillring(&["rm", "busy"]);
    assert_eq!(o.status.code(), Some(5));
    assert!(err(&o).contains(&drain) && err(&o).contains("--force"), "{}", err(&o));
    let o = p.spillring(&["drain", "busy"]);
    assert_eq!(o.status.code(), Some(5), "{}", err(&o));
    assert!(err(&o).contains(&drain) && err(&o).contains("[E08]"), "{}", err(&o));
    // Another command in the same channel runs, without.
    let o = p.spillring(&["run", "--channel", "busy", "--", "echo", "second"]);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(0), "second\n"));
    assert!(err(&o).contains("[E08]"), "{}", err(&o));
    assert_eq!(p.spillring(&["rm", "--force", "busy"]).status.code(), Some(0));
    // What runs in it ends as it would, and what it had to say is said not to be kept.
    kill(child.0.id(), "TERM");
    let status = child.0.wait().unwrap();
    assert_eq!(status.code(), Some(143), "{status}");
}

/// The drain that a `run` has started: its child of that name.
fn drain_of(run: u32) -> Option<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1)?.parse().ok());
        let args = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parent == Some(run) && args.contains("keep-run")
    })
}

#[test]
fn cat_ends_like_any_other_command_when_nobody_reads_on() {
    let p = Place::new();
    assert!(p.spillring(&["run", "--channel", "x", "--", "seq", "200000"]).status.success());
    let mut c = p.command(&["cat", "x"]);
    let mut child = c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let o = child.wait_with_output().unwrap();
    assert_eq!((o.status.signal(), err(&o).as_str()), (Some(libc::SIGPIPE), ""));
}

#[test]
fn sigterm_ends_a_drain_when_all_is_delivered() {
    let p = Place::new();
    let log = p.file("log");
    let o = p.spillring(&["run", "--channel", "d", "--", "echo", "first"]);
    assert!(o.status.success());
    let mut c = p.command(&["drain", "d", "-o", log.to_str().unwrap()]);
    let mut drain = Killed(c.spawn().unwrap());
    wait_until("it delivers", || fs::read_to_string(&log).is_ok_and(|t| t.contains("first")));
    kill(drain.0.id(), "TERM");
    assert_eq!(drain.0.wait().unwrap().code(), Some(0));
}

#[test]
fn waiting_for_a_reader_can_be_cut_off_and_says_where_the_rest_is() {
    let p = Place::new();
    let done = p.file("done");
    let line = format!("seq 1 200000; touch {}", done.display());
    let mut c = p.command(&["run", "--channel", "cut", "--", "sh", "-c", &line]);
    let mut child = c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the command ends", || done.exists());
    std::thread::sleep(Duration::from_millis(200));
    kill(child.id(), "TERM");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    let mut e = String::new();
    child.stderr.take().unwrap().read_to_string(&mut e).unwrap();
    assert!(e.contains("spillring cat") && e.contains("cut"), "{e}");
    let o = p.spillring(&["cat", "--format", "raw", "cut"]);
    assert!(o.stdout == plain("seq 1 200000").stdout);
}

#[test]
fn a_program_in_the_background_is_waited_for_as_a_pipe_would() {
    let p = Place::new();
    let o = p.sh("(sleep 0.3; echo late) & echo early");
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(0), "early\nlate\n"));
}

#[test]
fn the_readme_has_the_table_of_variables() {
    let mut table =
        String::from("| variable | what for | unit | default | allowed |\n|---|---|---|---|---|\n");
    for v in spillring::env::TABLE {
        table += &format!("| `{}` | {} | {} | {} | {} |\n", v.name, v.help, v.unit, v.default, v.bound);
    }
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert!(readme.contains(&table), "README.md should hold this table:\n{table}");
}
