//! In containers: a user without a name, a root that is read-only, little shared memory, several pid
//! namespaces on one channel, a memory limit that kills. Made by `unshare`, `setpriv` and a tmpfs.
#![cfg(feature = "cli")]
#![allow(dead_code)] // parts of the shared kits

mod common;
mod hazard_kit;

use hazard_kit::{Case, cgroup, needs_cgroup, needs_root, needs_tool, soon};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const BIN: &str = env!("CARGO_BIN_EXE_spillring");

fn main() {
    // This binary is also the program in the container.
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("--log") => return log(args.next().expect("how many").parse().expect("a number"), false),
        Some("--log-and-die") => {
            return log(args.next().expect("how many").parse().expect("a number"), true);
        }
        Some("--flood") => return flood(),
        _ => {}
    }
    let lacks = || needs_root().or(needs_tool("unshare")).or(needs_tool("setpriv"));
    let cases: Vec<Case> = vec![
        ("a_user_without_name_or_home_on_a_read_only_root", lacks(), nameless),
        ("a_channel_of_several_pid_namespaces", lacks(), namespaces),
        (
            "the_unit_as_far_as_it_goes_without_systemd",
            lacks().or(needs_tool("prlimit")).or(needs_tool("taskset")),
            service,
        ),
        ("a_memory_limit_of_128_mib_loses_and_counts_and_kills_nobody", needs_cgroup(), limited),
    ];
    hazard_kit::run(cases)
}

// ---- the program

fn log(n: u64, die: bool) {
    let guard = spillring::init().expect("init");
    for i in 0..n {
        spillring::info!("record {} of {}", i, n);
    }
    let st = spillring::writer::status();
    println!("pid {} logged {n}, lost {}", std::process::id(), st.lost);
    if die {
        hazard_kit::kill(std::process::id().cast_signed(), libc::SIGKILL);
    }
    drop(guard);
}

fn flood() {
    const N: u64 = 300_000;
    std::mem::forget(spillring::init().expect("init"));
    let text = "x".repeat(1000);
    for i in 0..N {
        spillring::info!("p {} {}", i, text);
    }
    let st = spillring::writer::status();
    println!("{N} {} {}", st.spilled, st.lost);
}

// ---- the containers

/// A temporary directory of the test, and in it what a container finds below `/mnt`.
struct Host {
    disk: tempfile::TempDir,
    shm: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        use std::os::unix::fs::PermissionsExt;
        let open = |d: &Path| fs::set_permissions(d, fs::Permissions::from_mode(0o755)).unwrap();
        let (disk, shm) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        open(disk.path());
        let mnt = disk.path().join("mnt");
        fs::create_dir(&mnt).unwrap();
        for (from, to) in [(Path::new(BIN), "spillring"), (&std::env::current_exe().unwrap(), "program")] {
            fs::copy(from, mnt.join(to)).unwrap();
            open(&mnt.join(to));
        }
        Host { disk, shm }
    }

    /// A shell in mount and pid namespaces of its own, which dies with this process.
    fn container(&self, script: &str) -> Command {
        let mut c = Command::new("unshare");
        c.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", script]);
        c.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("T", self.disk.path());
        c.env("SPILLRING_DIR", self.shm.path().join("c"));
        c.env("SPILLRING_JOURNAL_DIR", self.disk.path().join("j"));
        c.stdin(Stdio::null());
        c
    }
    fn program(&self) -> PathBuf {
        self.disk.path().join("mnt/program")
    }
}

fn text(o: &Output) -> (String, String) {
    let s = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (s(&o.stdout), s(&o.stderr))
}

/// Waits with an end: a container that hangs is a failure.
fn ended(mut c: Child) -> i32 {
    soon("a container to end", || c.try_wait().unwrap().is_some());
    c.wait().unwrap().code().unwrap_or(-1)
}

fn nameless() {
    let host = Host::new();
    // What is mounted below the root stays as it is; the root itself, and so /etc, /tmp and /var, is read-only.
    let script = r#"
        R=$T/root; mkdir $R
        mount --make-rprivate /
        mount --rbind / $R
        mount -t tmpfs -o size=64m,mode=1777 tmpfs $R/dev/shm
        mount --bind $T/mnt $R/mnt
        mount -o remount,bind,ro $R
        exec chroot $R setpriv --reuid 54321 --regid 54321 --clear-groups --no-new-privs \
            env -i PATH=/usr/bin:/bin sh -uc '
                touch /etc/x 2>/dev/null && echo "the root can be written"
                cd /
                /mnt/spillring run --channel a -- sh -c "echo out; echo err >&2; exit 7"; echo "status $?"
                /mnt/spillring cat a
                /mnt/spillring run --no-capture --channel b -- /mnt/program --log 1000; echo "status $?"
                /mnt/spillring cat b | grep -c "record .* of 1000"
                /mnt/spillring stat b > /dev/null; echo "stat $?"
            '
    "#;
    let o = host.container(script).output().unwrap();
    let (out, err) = text(&o);
    let all = format!("{:?}\n{out}\n{err}", o.status);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["out", "status 7"], "{all}");
    assert!(lines[2].ends_with("] out") && lines[3].ends_with("] err"), "{all}");
    assert!(lines[4].ends_with("logged 1000, lost 0"), "{all}");
    assert_eq!(lines[5..], ["status 0", "1000", "stat 0"], "{all}");
    // What the command said, and one warning a command: the journal has no place but the channel.
    let told: Vec<&str> = err.lines().filter(|l| *l != "err").collect();
    assert!(told.len() <= 2 && told.iter().all(|l| l.contains("journal")), "{all}");
}

/// `spillring@web.service`: its command line and environment, with those of its restrictions that can be had without
/// systemd (not the filter of system calls, nor what not every root may: OOMScoreAdjust=, LimitNOFILE=), by a user without a name. It tells its manager twice.
fn service() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let path = host.disk.path().join("mnt/notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let script = r#"
        R=$T/root; mkdir $R
        mount --make-rprivate /
        mount --rbind / $R
        mount --bind $T/mnt $R/mnt
        CPU=$(taskset -pc $$ | sed "s/.*: *\([0-9]*\).*/\1/")
        $R/mnt/spillring service --cpu $CPU > $T/unit
        sed -i "s:^ExecStart=.*/spillring :ExecStart=/mnt/spillring :; s/%i/web/; s:%t:/run:; s:%S:/var/lib:" $T/unit
        of() { sed -n "s/^$1=//p" $T/unit; }
        U="--reuid 54321 --regid 54321 --clear-groups"
        # RuntimeDirectory=, StateDirectory=
        for d in run/$(of RuntimeDirectory) var/lib/$(of StateDirectory); do
            mount -t tmpfs -o mode=755 tmpfs $R/${d%/*}
            mkdir -m $(of RuntimeDirectoryMode) $R/$d
            chown 54321:54321 $R/$d
        done
        # PrivateTmp=, ProtectHome=, ProtectSystem=strict
        for d in tmp root home; do mount -t tmpfs -o mode=700 tmpfs $R/$d; done
        mount -o remount,bind,ro $R
        # UMask=, LimitCORE=, CPUAffinity=, NoNewPrivileges=, CapabilityBoundingSet=
        (
            umask $(of UMask)
            exec prlimit --core=$(of LimitCORE) taskset -c $(of CPUAffinity) \
                chroot $R setpriv $U --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all \
                env -i NOTIFY_SOCKET=/mnt/notify $(of Environment) $(of ExecStart)
        ) & D=$!
        i=0; until [ -e $R/run/spillring/web/ctl ]; do i=$((i + 1)); [ $i -lt 1000 ]; sleep 0.02; done
        grep -E "^(Uid|CapEff|CapBnd|NoNewPrivs|Cpus_allowed_list)" /proc/$D/status
        echo "$(of CPUAffinity) $(sed -n "s/^Max core file size *\([0-9a-z]*\).*/\1/p" /proc/$D/limits)"
        # The program's own unit, by the comment in this one.
        chroot $R setpriv $U env -i $(sed -n "s/^# *Environment=//p" $T/unit) /mnt/program --log 1000
        kill -TERM $D
        wait $D; echo "status $?"
        chroot $R setpriv $U env -i $(of Environment) /mnt/spillring cat web | grep -c "record .* of 1000"
        stat -c "%a %u" $R/run/spillring/web $R/var/lib/spillring/web
    "#;
    let o = host.container(script).output().unwrap();
    let (out, err) = text(&o);
    let all = format!("{:?}\n{out}\n{err}", o.status);
    let lines: Vec<&str> = out.lines().collect();
    assert!(o.status.success() && lines.len() == 11, "{all}");
    assert!(lines[0].starts_with("Uid:\t54321\t54321"), "{all}");
    assert!(lines[1] == "CapEff:\t0000000000000000" && lines[2] == "CapBnd:\t0000000000000000", "{all}");
    assert_eq!(lines[3], "NoNewPrivs:\t1", "{all}");
    let cpu = lines[4].strip_prefix("Cpus_allowed_list:\t").expect("the list");
    assert_eq!(lines[5], format!("{cpu} 0"), "{all}");
    assert!(lines[6].ends_with("logged 1000, lost 0"), "{all}");
    assert_eq!(lines[7..], ["status 0", "1000", "700 54321", "700 54321"], "{all}");
    assert_eq!(err, "", "{all}");
    socket.set_nonblocking(true).unwrap();
    let mut told = Vec::new();
    let mut b = [0; 100];
    while let Ok(n) = socket.recv(&mut b) {
        told.push(String::from_utf8_lossy(&b[..n]).into_owned());
    }
    assert_eq!(told, ["READY=1", "STOPPING=1"]);
}

fn namespaces() {
    let host = Host::new();
    let drain = host.container("exec $T/mnt/spillring drain c").spawn().unwrap();
    let channel = host.shm.path().join("c/c");
    let rings = || match fs::read_dir(&channel) {
        Ok(d) => d.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "ring")).count(),
        Err(_) => 0,
    };
    soon("the drain to make its channel", || channel.join("ctl").exists());
    // Three containers at a time, each with the same pids; two end by SIGKILL, one with its namespace.
    let script = "export SPILLRING_CHANNEL=c; $T/mnt/program --log-and-die 2000 || true";
    let kids: Vec<_> = [script, script, "export SPILLRING_CHANNEL=c; exec $T/mnt/program --log 2000"]
        .iter()
        .map(|s| host.container(s).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    let mut pids = Vec::new();
    for k in kids {
        let o = k.wait_with_output().unwrap();
        let out = text(&o).0;
        assert!(out.contains("logged 2000, lost 0"), "{:?} {out}", o.status);
        pids.push(out.split(' ').nth(1).unwrap().to_string());
    }
    assert_eq!(pids[0], pids[1], "the namespaces have the same pids");
    soon("the rings of the dead to be delivered and unlinked", || rings() == 0);
    // SIGTERM to the drain; unshare passes nothing on, so to its child.
    let of_unshare = format!("/proc/{0}/task/{0}/children", drain.id());
    let inner: i32 = fs::read_to_string(of_unshare).unwrap().trim().parse().expect("one child");
    hazard_kit::kill(inner, libc::SIGTERM);
    assert_eq!(ended(drain), 0);
    let o = host.container("exec $T/mnt/spillring cat c").output().unwrap();
    let (out, err) = text(&o);
    let mut count = std::collections::BTreeMap::<&str, u32>::new();
    out.lines().filter(|l| l.contains(" of 2000")).for_each(|l| {
        *count.entry(l.split("record ").nth(1).unwrap().split(' ').next().unwrap()).or_default() += 1;
    });
    assert!(count.len() == 2000 && count.values().all(|n| *n == 3), "{} {err}", count.len());
}

// ---- the memory limit

fn limited() {
    let (host, group) = (Host::new(), cgroup());
    fs::create_dir(&group).unwrap();
    fs::write(group.join("memory.limit_in_bytes"), "128M").unwrap();
    let o = host
        .container("echo $$ > $G/cgroup.procs; exec $T/mnt/program --flood")
        .env("G", &group)
        .env("SPILLRING_CHANNEL", "c")
        .output()
        .unwrap();
    let kills = fs::read_to_string(group.join("memory.oom_control")).unwrap();
    let (out, err) = text(&o);
    assert!(o.status.success(), "{:?} {out} {err} {kills}", o.status);
    assert!(kills.lines().all(|l| !l.starts_with("oom_kill ") || l == "oom_kill 0"), "{kills}");
    let said: Vec<u64> = out.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let (all, spilled, lost) = (said[0], said[1], said[2]);
    println!("{all} records of 1 KB: {spilled} spilled, {lost} lost");
    assert!(spilled > 1000 && lost > 1000);
    // Delivered outside; then nothing is charged to the group.
    let mut s = spillring::env::Settings::from(|_| None, 0).0;
    (s.dir, s.channel) = (host.shm.path().join("c"), "c".into());
    s.journal_dir = Some(host.disk.path().join("j"));
    let d = spillring::drain::Drain::open(spillring::drain::DrainConfig::new(&s, s.channel_dir()).0);
    let j = hazard_kit::finished(&s, d.unwrap(), 0, Vec::new());
    assert_eq!((j.totals.lost, j.totals.records + lost, j.left), (lost, all, (0, 0)), "{:?}", j.notices);
    soon("the group to be empty", || fs::remove_dir(&group).is_ok());
}
