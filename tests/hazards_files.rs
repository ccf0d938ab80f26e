//! What the kernel does to files, leases and mappings, and that the channel stands it. Each test is one
//! observation that an implementation without it would get wrong. They run one after another on the only
//! thread of this process, so that they can fork; those that mount are ignored without root.
#![allow(unsafe_code)] // forks, and misuses files as strangers would

use libtest_mimic::{Arguments, Failed, Trial};
use spillring::channel::*;
use spillring::error::Code;
use spillring::layout::ring::Geometry;
use spillring::sync::Ordering::SeqCst;
use spillring::sys::file::{self, Access};
use spillring::sys::lease::{LeaseAnswer, can_nobody_write};
use spillring::sys::process::{self, Facts};
use spillring::sys::{Errno, FixedPath, mem};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const GEOMETRY: Geometry = Geometry { lanes: 4, slots: 8, granules: 16, lane_stride: 1 << 16, arena: 8192 };

fn main() {
    let mut args = Arguments::from_args();
    args.test_threads = Some(1);
    let root = process::euid() == 0;
    let mut trials = Vec::new();
    let mut add = |needs_root: bool, name: &str, f: fn()| {
        let ignored = needs_root && !root;
        let name = if ignored { format!("{name} (needs root to mount)") } else { name.to_string() };
        let run = move || -> Result<(), Failed> {
            f();
            Ok(())
        };
        trials.push(Trial::test(name, run).with_ignored_flag(ignored));
    };
    add(false, "lease_refused_while_stopped_granted_after_sigkill", stopped_and_killed);
    add(false, "lease_refused_while_a_clone_vm_sharer_of_a_zombie_lives", clone_vm_sharer);
    add(false, "lease_refused_while_a_vfork_child_of_a_reaped_parent_lives", vfork_sharer);
    add(false, "lease_granted_after_exec_in_the_same_pid", after_exec);
    add(false, "lease_probe_survives_being_broken", broken_lease);
    add(false, "lease_of_another_uid_is_unavailable", other_uid);
    add(false, "forked_child_with_private_view_does_not_hold_the_ring", forked_private);
    add(true, "lease_is_right_across_pid_namespaces", pid_namespace);
    add(true, "overlayfs_is_not_asked_for_leases", overlay);
    add(true, "full_tmpfs_is_enospc_and_leaves_nothing", full_tmpfs);
    add(true, "unreserved_page_read_on_a_full_tmpfs_kills_nobody", unreserved_page);
    add(false, "file_size_limit_is_an_error_not_a_signal", size_limit);
    add(false, "fifo_link_or_directory_in_place_of_a_file_does_not_block", planted);
    add(false, "write_lease_of_a_stranger_is_look_again", stranger_lease);
    add(false, "ring_and_ack_cut_short_under_the_reader", cut_short);
    add(false, "each_bad_byte_has_its_own_message", bad_bytes);
    add(false, "channel_errors_name_path_and_remedy", channel_errors);
    add(false, "many_first_comers_share_one_ctl", racing_creators);
    add(false, "second_drain_in_this_process_is_refused_and_drops_nothing", drain_lock_same_process);
    add(false, "second_copy_of_the_library_does_not_open_the_lock", drain_lock_second_copy);
    add(false, "drain_lock_is_not_passed_to_children", drain_lock_fork);
    add(false, "killed_attaches_leave_nothing_that_sweep_does_not_take", killed_attaches);
    add(false, "sweep_takes_no_file_of_a_living_maker", sweep_spares_the_living);
    add(false, "files_removed_by_a_stranger_are_noticed", removed_by_a_stranger);
    add(false, "unlink_takes_the_ring_last_and_strangers_files_never", unlink_order);
    add(false, "attach_allocates_what_it_says", attach);
    add(false, "golden_bytes", golden);
    libtest_mimic::run(&args, trials).exit();
}

// ---- helpers

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::Builder::new().prefix("spillring-test-").tempdir_in("/dev/shm").unwrap())
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("c")
    }
    fn channel(&self) -> Channel {
        Channel::create_or_open(&self.path(), true, Role::Drain).unwrap()
    }
    fn names(&self) -> Vec<String> {
        names(&self.path())
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut v: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    v.sort();
    v
}

fn spec() -> ProducerSpec {
    let clock = ClockFacts { source: 2, anchor_ticks: 1, anchor_utc: 2, tick_hz: 1_000_000_000 };
    ProducerSpec { facts: Facts::read(), geometry: GEOMETRY, clock, spill_granules: 4096 }
}

fn attach_here(c: &Channel) -> ProducerFiles {
    create_producer(c.paths(), &spec()).unwrap()
}

/// Runs `f` in a forked child, which leaves with its answer.
fn fork(f: impl FnOnce() -> i32) -> i32 {
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(99);
        unsafe { libc::_exit(r) };
    }
    pid
}

fn wait(pid: i32) -> i32 {
    let mut st = 0;
    assert_eq!(unsafe { libc::waitpid(pid, &mut st, 0) }, pid);
    st
}

fn kill(pid: i32, sig: i32) {
    assert!(pid > 0); // 0 would be this test's own process group
    assert_eq!(unsafe { libc::kill(pid, sig) }, 0);
}

/// A pipe to wait for a child: the child writes a byte when it has come to the interesting point.
struct Signal(i32, i32);
impl Signal {
    fn new() -> Signal {
        let mut p = [0; 2];
        assert_eq!(unsafe { libc::pipe(p.as_mut_ptr()) }, 0);
        Signal(p[0], p[1])
    }
    fn give(&self) {
        assert_eq!(unsafe { libc::write(self.1, b"x".as_ptr().cast(), 1) }, 1);
    }
    fn take(&self) {
        let mut b = 0u8;
        assert_eq!(unsafe { libc::read(self.0, (&raw mut b).cast(), 1) }, 1);
    }
}
impl Drop for Signal {
    fn drop(&mut self) {
        unsafe { (libc::close(self.0), libc::close(self.1)) };
    }
}

fn pause_for_ever() -> ! {
    loop {
        unsafe { libc::pause() };
    }
}

fn the_ring(c: &Channel) -> RingView {
    let p = c.producers().unwrap();
    assert_eq!(p.len(), 1, "{p:?}");
    c.open_ring(p[0]).unwrap()
}

fn soon(what: &str, mut f: impl FnMut() -> bool) {
    let t = Instant::now();
    while !f() {
        assert!(t.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A child that attaches and waits to be killed.
fn living_producer(c: &Channel) -> i32 {
    let s = Signal::new();
    let pid = fork(|| {
        let _files = attach_here(c);
        s.give();
        pause_for_ever()
    });
    s.take();
    pid
}

fn corrupt(path: &Path, at: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Runs `f` in a child with mounts of its own and a tmpfs (or what `options` say) on a fresh directory.
fn with_mount(size: &str, f: impl FnOnce(&Path)) {
    let d = Dir::new();
    fs::create_dir(d.path()).unwrap();
    let pid = fork(|| unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
        let private = libc::MS_REC | libc::MS_PRIVATE;
        assert_eq!(
            libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()),
            0
        );
        let at = std::ffi::CString::new(d.path().as_os_str().as_bytes()).unwrap();
        let opt = std::ffi::CString::new(format!("size={size},mode=700")).unwrap();
        let r = libc::mount(c"t".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), 0, opt.as_ptr().cast());
        assert_eq!(r, 0);
        f(&d.path());
        0
    });
    assert_eq!(wait(pid), 0);
}

// ---- death

fn stopped_and_killed() {
    let d = Dir::new();
    let c = d.channel();
    let me = Facts::read();
    let pid = living_producer(&c);
    let v = the_ring(&c);
    assert_eq!(v.dead(&me), Dead::No);
    kill(pid, libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(v.dead(&me), Dead::No);
    kill(pid, libc::SIGKILL);
    // Not waited for: a zombie has its pid still, and writes nothing.
    soon("the lease of a zombie", || v.dead(&me) == Dead::Yes);
    assert!(process::pid_exists(pid as u32));
    wait(pid);
    v.unlink().unwrap();
    assert_eq!(d.names(), ["ctl"]);
}

fn clone_child(flags: i32) -> i32 {
    extern "C" fn child(_: *mut libc::c_void) -> i32 {
        pause_for_ever()
    }
    let stack = vec![0u8; 64 << 10].leak();
    let top = stack.as_mut_ptr_range().end;
    let top = (top as usize & !15) as *mut libc::c_void;
    unsafe { libc::clone(child, top, flags, std::ptr::null_mut()) }
}

fn clone_vm_sharer() {
    let d = Dir::new();
    let c = d.channel();
    let me = Facts::read();
    let shared = shared_word();
    let pid = fork(|| {
        let _files = attach_here(&c);
        shared.store(clone_child(libc::CLONE_VM) as u64, SeqCst);
        unsafe { libc::_exit(0) }
    });
    soon("the sharer", || shared.load(SeqCst) != 0);
    let v = the_ring(&c);
    soon("the zombie", || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z"));
    assert_eq!(v.dead(&me), Dead::No);
    wait(pid);
    assert!(!process::pid_exists(pid as u32));
    assert_eq!(v.dead(&me), Dead::No);
    kill(shared.load(SeqCst) as i32, libc::SIGKILL);
    soon("the lease after the last sharer", || v.dead(&me) == Dead::Yes);
}

fn vfork_sharer() {
    let d = Dir::new();
    let c = d.channel();
    let me = Facts::read();
    let pid = fork(|| {
        let _files = attach_here(&c);
        clone_child(libc::CLONE_VM | libc::CLONE_VFORK);
        0
    });
    let children = format!("/proc/{pid}/task/{pid}/children");
    let child = || fs::read_to_string(&children).ok()?.trim().parse::<i32>().ok();
    soon("the vfork child", || child().is_some());
    let child = child().unwrap();
    let v = the_ring(&c);
    kill(pid, libc::SIGKILL);
    wait(pid);
    assert!(!process::pid_exists(pid as u32));
    assert_eq!(v.dead(&me), Dead::No);
    kill(child, libc::SIGKILL);
    soon("the lease after the vfork child", || v.dead(&me) == Dead::Yes);
}

fn after_exec() {
    let d = Dir::new();
    let c = d.channel();
    let me = Facts::read();
    let pid = fork(|| {
        std::mem::forget(attach_here(&c));
        let args = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
        unsafe { libc::execvp(args[0], args.as_ptr()) };
        1
    });
    soon("the ring", || !c.producers().unwrap().is_empty());
    let v = the_ring(&c);
    soon("the lease after exec", || v.dead(&me) == Dead::Yes);
    // Pid and start time alone would say that it lives.
    assert_eq!(process::fate(&me, &v.identity.facts), process::Fate::There);
    kill(pid, libc::SIGKILL);
    wait(pid);
}

/// A word that forked children share.
fn shared_word() -> &'static spillring::sync::AtomicU64 {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    unsafe {
        let p = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(p, libc::MAP_FAILED);
        &*p.cast()
    }
}

fn broken_lease() {
    let d = Dir::new();
    let path = FixedPath::from_bytes(d.0.path().join("f").as_os_str().as_bytes()).unwrap();
    drop(file::create_excl(&path, 0o600).unwrap());
    let broken = shared_word();
    let pid = fork(|| {
        extern "C" fn count(_: i32) {}
        // With the default action SIGIO would end this child.
        unsafe { libc::signal(libc::SIGURG, count as *const () as usize) };
        let (fd, _) = file::open_foreign(&path, Access::Read).unwrap();
        while broken.load(SeqCst) == 0 {
            for _ in 0..100 {
                assert!(!matches!(can_nobody_write(fd.raw()), LeaseAnswer::Unavailable(_)));
            }
        }
        7
    });
    let t = Instant::now();
    let mut longest = Duration::ZERO;
    while t.elapsed() < Duration::from_millis(300) {
        let t = Instant::now();
        drop(file::open_foreign(&path, Access::Write));
        longest = longest.max(t.elapsed());
    }
    broken.store(1, SeqCst);
    assert_eq!(libc::WEXITSTATUS(wait(pid)), 7);
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

fn other_uid() {
    if process::euid() != 0 {
        return; // one uid only
    }
    let d = Dir::new();
    let c = d.channel();
    let pid = living_producer(&c);
    let v = the_ring(&c);
    let child = fork(|| {
        assert_eq!(unsafe { libc::setuid(65534) }, 0);
        assert_eq!(can_nobody_write(v.ring_fd()), LeaseAnswer::Unavailable(Errno(libc::EACCES)));
        let me = Facts::read();
        assert_eq!(v.dead(&me), Dead::No);
        0
    });
    assert_eq!(wait(child), 0);
    kill(pid, libc::SIGKILL);
    wait(pid);
    // The same producer, gone: only probably dead for one who can't ask.
    let child = fork(|| {
        assert_eq!(unsafe { libc::setuid(65534) }, 0);
        assert_eq!(v.dead(&Facts::read()), Dead::Probably);
        assert_eq!(v.dead(&Facts { pid_ns: 1, ..Facts::read() }), Dead::Unknown);
        assert_eq!(v.dead(&Facts { boot_id: [1; 16], ..Facts::read() }), Dead::Unknown);
        0
    });
    assert_eq!(wait(child), 0);
}

fn forked_private() {
    let me = Facts::read();
    for (remap, close_ack) in [(0, true), (1, false), (2, false)] {
        let d = Dir::new();
        let c = d.channel();
        let (s, child) = (Signal::new(), shared_word());
        let pid = fork(|| {
            let files = attach_here(&c);
            files.ring.word(8192).store(11, SeqCst);
            let inner = fork(|| {
                let (addr, len) = (files.ring.addr(), files.ring.len() as usize);
                unsafe {
                    match remap {
                        1 => mem::over_map_private(addr, len, files.ring_fd.raw()).unwrap(),
                        2 => mem::over_map_none(addr, len).unwrap(),
                        _ => {}
                    }
                }
                if remap == 1 {
                    assert_eq!(files.ring.word(8192).load(SeqCst), 11);
                    files.ring.word(8192).store(12, SeqCst);
                }
                let mut writable = 0;
                file::for_each_fd_of(files.ring_id, |_| writable += 1);
                assert_eq!(writable, 1); // the read-only one
                s.give();
                pause_for_ever()
            });
            child.store(inner as u64, SeqCst);
            pause_for_ever()
        });
        s.take();
        soon("the child's pid", || child.load(SeqCst) != 0);
        let v = the_ring(&c);
        assert_eq!(v.word(8192).load(SeqCst), 11);
        assert_eq!(v.dead(&me), Dead::No);
        kill(pid, libc::SIGKILL);
        wait(pid);
        if close_ack {
            // Nothing done about the mapping: it counts as alive, as it must.
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(v.dead(&me), Dead::No);
        } else {
            soon("the lease with a forked child alive", || v.dead(&me) == Dead::Yes);
        }
        kill(child.load(SeqCst) as i32, libc::SIGKILL);
        soon("the lease without anybody", || v.dead(&me) == Dead::Yes);
    }
}

fn pid_namespace() {
    let d = Dir::new();
    let c = d.channel();
    let me = Facts::read();
    let s = Signal::new();
    let outer = fork(|| {
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
        let inner = fork(|| {
            let mut spec = spec();
            // /proc still shows the outer namespace here; a container has its own.
            spec.facts.pid = process::pid();
            spec.facts.pid_ns = 1;
            assert_eq!(spec.facts.pid, 1);
            let _files = create_producer(c.paths(), &spec).unwrap();
            s.give();
            pause_for_ever()
        });
        s.give();
        wait(inner);
        0
    });
    s.take();
    s.take();
    let v = the_ring(&c);
    assert_eq!(v.stem.pid, 1);
    assert_eq!(process::fate(&me, &v.identity.facts), process::Fate::Unknown);
    assert_eq!(v.dead(&me), Dead::No);
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
    kill(children.trim().parse().unwrap(), libc::SIGKILL);
    assert_eq!(wait(outer), 0);
    soon("the lease", || v.dead(&me) == Dead::Yes);
}

fn overlay() {
    with_mount("4m", |at| {
        for n in ["lower", "upper", "work", "merged"] {
            fs::create_dir(at.join(n)).unwrap();
        }
        let a = at.display();
        let opt = format!("lowerdir={a}/lower,upperdir={a}/upper,workdir={a}/work\0");
        let merged = std::ffi::CString::new(at.join("merged").as_os_str().as_bytes()).unwrap();
        let r = unsafe {
            libc::mount(c"o".as_ptr(), merged.as_ptr(), c"overlay".as_ptr(), 0, opt.as_ptr().cast())
        };
        if r != 0 {
            eprintln!("no overlayfs in this kernel: {}", Errno::last());
            return;
        }
        let c = Channel::create_or_open(&at.join("merged/c"), true, Role::Drain).unwrap();
        assert!(c.warning().unwrap().contains("SPILLRING_DIR"));
        let files = attach_here(&c);
        let v = the_ring(&c);
        let asked = can_nobody_write(v.ring_fd());
        assert_eq!(asked, LeaseAnswer::Unavailable(Errno(libc::EOPNOTSUPP)));
        assert_eq!(v.dead(&Facts::read()), Dead::No);
        drop(files);
    });
}

// ---- memory and limits

fn full_tmpfs() {
    with_mount("400k", |at| {
        let c = Channel::create_or_open(at, true, Role::Drain).unwrap();
        let filler = FixedPath::from_bytes(at.join("filler").as_os_str().as_bytes()).unwrap();
        let filler = file::create_excl(&filler, 0o600).unwrap();
        // From nothing left to enough: whichever step fails, nothing is left behind.
        let mut failed = 0;
        let mut seen = Vec::new();
        for left in (0..60).map(|pages| pages * 4096) {
            file::set_len(filler.raw(), 0).unwrap();
            let free = file::statfs(c.paths().dir().as_c()).unwrap().free;
            file::allocate(filler.raw(), 0, free - left).unwrap();
            match create_producer(c.paths(), &spec()) {
                Err(e) => {
                    assert_eq!(e.errno, Errno(libc::ENOSPC));
                    let wide = e.widen(c.paths());
                    assert_eq!(wide.code, Code::NoSpace);
                    assert!(wide.message.contains(at.to_str().unwrap()), "{wide}");
                    assert_eq!(names(at), ["ctl", "filler"]);
                    assert_eq!(file::statfs(c.paths().dir().as_c()).unwrap().free, left);
                    seen.push(e.step);
                    failed += 1;
                }
                Ok(files) => {
                    // All that is allocated now can be written; a lane can't be had, by an error.
                    for at in (0..GEOMETRY.lane_data(0)).step_by(4096) {
                        files.ring.word(at + 8).store(1, SeqCst);
                    }
                    if left < GEOMETRY.lane_data(1) {
                        let r = files.ring.populate(GEOMETRY.lane_data(0), GEOMETRY.lane_stride);
                        assert_eq!(r.unwrap_err(), Errno(libc::ENOSPC));
                    }
                    files.discard(c.paths());
                }
            }
        }
        assert!((10..60).contains(&failed), "{failed}");
        for step in [Step::Ack, Step::Spill, Step::Ring] {
            assert!(seen.contains(&step), "{step:?} in {seen:?}");
        }
    });
}

fn unreserved_page() {
    with_mount("600k", |at| {
        let c = Channel::create_or_open(at, true, Role::Drain).unwrap();
        let _files = attach_here(&c);
        let v = the_ring(&c);
        let filler = FixedPath::from_bytes(at.join("filler").as_os_str().as_bytes()).unwrap();
        let filler = file::create_excl(&filler, 0o600).unwrap();
        let free = || file::statfs(c.paths().dir().as_c()).unwrap().free;
        file::allocate(filler.raw(), 0, free()).unwrap();
        // pread of the same place allocates nothing and fails nothing.
        let mut b = [1; 64];
        let lane = GEOMETRY.lane_data(0);
        assert_eq!(file::read_at(v.ring_fd(), &mut b, lane).unwrap(), 64);
        assert_eq!((b, free()), ([0; 64], 0));
        assert!(!v.cut_short());
        v.ring().read(lane, &mut b);
        assert!(v.cut_short());
    });
}

fn size_limit() {
    let d = Dir::new();
    let c = d.channel();
    let limit = |bytes: u64| {
        let l = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &l) }, 0);
    };
    // SIGXFSZ has its default action in the child: it would kill, and wait() would say so.
    let pid = fork(|| {
        limit(4096);
        let e = create_producer(c.paths(), &spec()).unwrap_err();
        assert_eq!(e.errno, Errno(libc::EFBIG));
        assert_eq!(e.widen(c.paths()).code, Code::FileLimit);
        assert_eq!(d.names(), ["ctl"]);
        let f = c.paths().dir().join(b"f").unwrap();
        let f = file::create_excl(&f, 0o600).unwrap();
        assert_eq!(file::allocate(f.raw(), 4096, 1), Err(Errno(libc::EFBIG)));
        assert_eq!(file::set_len(f.raw(), 4097), Err(Errno(libc::EFBIG)));
        assert_eq!(file::write_all_at(f.raw(), &[1; 2], 4095), Err(Errno(libc::EFBIG)));
        file::write_all_at(f.raw(), &[1; 2], 4094).unwrap();
        // Between the smallest and the wanted size: fewer lanes.
        limit(GEOMETRY.file_len() - 1);
        let files = create_producer(c.paths(), &spec()).unwrap();
        assert_eq!(files.geometry.lanes, 2);
        assert_eq!(the_ring(&c).geometry, files.geometry);
        files.discard(c.paths());
        0
    });
    assert_eq!(wait(pid), 0);
}

// ---- what strangers put there

fn planted() {
    let d = Dir::new();
    let c = d.channel();
    let me = attach_here(&c);
    let file = |kind| c.paths().file(me.stem, kind).unwrap();
    let t = Instant::now();
    for kind in [Kind::Ring, Kind::Ack, Kind::Spill] {
        let path = file(kind);
        let kept = d.path().join("kept");
        fs::rename(path.to_path(), &kept).unwrap();
        let refused = |what: &str| {
            let e = c.open_ring(me.stem).unwrap_err();
            assert_eq!(e.code, Code::BadFile, "{what}: {e}");
            assert!(e.message.contains(path.to_path().to_str().unwrap()), "{what}: {e}");
            assert!(e.message.contains("remove it"), "{what}: {e}");
        };
        assert_eq!(unsafe { libc::mkfifo(path.as_c().as_ptr(), 0o600) }, 0);
        refused("fifo");
        fs::remove_file(path.to_path()).unwrap();
        std::os::unix::fs::symlink(&kept, path.to_path()).unwrap();
        refused("link");
        fs::remove_file(path.to_path()).unwrap();
        fs::create_dir(path.to_path()).unwrap();
        refused("directory");
        fs::remove_dir(path.to_path()).unwrap();
        let e = c.open_ring(me.stem).unwrap_err();
        assert_eq!(e.errno, Some(libc::ENOENT));
        fs::rename(&kept, path.to_path()).unwrap();
        c.open_ring(me.stem).unwrap();
    }
    let ctl = c.paths().ctl().unwrap();
    fs::remove_file(ctl.to_path()).unwrap();
    assert_eq!(unsafe { libc::mkfifo(ctl.as_c().as_ptr(), 0o600) }, 0);
    for role in [Role::Producer, Role::Drain] {
        let e = Channel::create_or_open(&d.path(), true, role).unwrap_err();
        assert_eq!(e.code, Code::BadFile, "{e}");
    }
    assert!(t.elapsed() < Duration::from_secs(5));
}

fn stranger_lease() {
    let d = Dir::new();
    let c = d.channel();
    let pid = living_producer(&c);
    kill(pid, libc::SIGKILL);
    wait(pid);
    let stem = c.producers().unwrap()[0];
    let path = c.paths().file(stem, Kind::Ring).unwrap();
    let s = Signal::new();
    let stranger = fork(|| {
        let fd = file::open(path.as_c(), libc::O_RDWR, 0).unwrap();
        unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            assert_eq!(libc::fcntl(fd.raw(), libc::F_SETLEASE, libc::F_WRLCK), 0);
        }
        s.give();
        pause_for_ever()
    });
    s.take();
    let t = Instant::now();
    let e = c.open_ring(stem).unwrap_err();
    assert_eq!(e.code, Code::WouldBlock, "{e}");
    assert!(t.elapsed() < Duration::from_secs(1));
    kill(stranger, libc::SIGKILL);
    wait(stranger);
    c.open_ring(stem).unwrap();
}

fn cut_short() {
    let d = Dir::new();
    let c = d.channel();
    let healthy = attach_here(&c);
    let files = attach_here(&c);
    let v = c.open_ring(files.stem).unwrap();
    let other = c.open_ring(healthy.stem).unwrap();
    files.ring.word(8192).store(5, SeqCst);
    let cut = |kind, len| {
        let f = fs::OpenOptions::new().write(true).open(v.path(kind)).unwrap();
        f.set_len(len).unwrap();
    };
    cut(Kind::Ring, 4096);
    let mut b = vec![1; 4096];
    v.ring().read(8192, &mut b);
    assert!(b.iter().all(|&b| b == 0) && v.cut_short() && !other.cut_short());
    // Opened anew it is refused for what it is.
    let e = c.open_ring(files.stem).unwrap_err();
    assert!(e.code == Code::BadFile && e.message.contains("cut short"), "{e}");
    cut(Kind::Ack, 0);
    v.ack().word(192).store(9, SeqCst);
    assert_eq!(v.ack().word(192).load(SeqCst), 9);
    healthy.ring.word(8192).store(6, SeqCst);
    assert_eq!(other.word(8192).load(SeqCst), 6);
    // An ack alone, too.
    let third = attach_here(&c);
    let v = c.open_ring(third.stem).unwrap();
    fs::OpenOptions::new().write(true).open(v.path(Kind::Ack)).unwrap().set_len(0).unwrap();
    assert!(!v.cut_short());
    v.ack().word(192).store(9, SeqCst);
    assert!(v.cut_short());
}

fn bad_bytes() {
    let d = Dir::new();
    let c = d.channel();
    let healthy = attach_here(&c);
    // Offsets by number: the test shares no constant with the writer.
    let rows: &[(Kind, u64, &[u8], Code, &str)] = &[
        (Kind::Ring, 0, b"X", Code::BadFile, "wrong magic"),
        (Kind::Ring, 8, &[9], Code::Version, "layout version 9"),
        (Kind::Ring, 12, &[77], Code::Arch, "architecture 77"),
        (Kind::Ring, 16, &[1], Code::BadFile, "says that it has"),
        (Kind::Ring, 24, &[0x5a; 8], Code::BadFile, "not of the producer in its name"),
        (Kind::Ring, 48, &[1, 2, 3, 0], Code::BadFile, "not of the producer in its name"),
        (Kind::Ring, 32, &[1; 16], Code::BadFile, "does not belong to the ring"),
        (Kind::Ring, 96, &[0, 0, 0, 0], Code::BadFile, "geometry outside the limits"),
        (Kind::Ring, 96, &[3, 0, 0, 0], Code::BadFile, "by its geometry"),
        (Kind::Ring, 104, &[5, 0, 0, 0], Code::BadFile, "geometry outside the limits"),
        (Kind::Ring, 112, &[0xff; 8], Code::BadFile, "geometry outside the limits"),
        (Kind::Ring, 120, &[0xff; 8], Code::BadFile, "geometry outside the limits"),
        (Kind::Ring, 108, &[4], Code::BadFile, "unknown clock"),
        (Kind::Ring, 200, &[1], Code::BadFile, "reserved bytes"),
        (Kind::Ack, 0, b"X", Code::BadFile, "wrong magic"),
        (Kind::Ack, 8, &[9], Code::Version, "layout version 9"),
        (Kind::Ack, 12, &[3], Code::Arch, "architecture 3"),
        (Kind::Ack, 16, &[1], Code::BadFile, "says that it has"),
        (Kind::Ack, 56, &[0xff; 8], Code::BadFile, "does not belong to the ring"),
        (Kind::Spill, 0, b"X", Code::BadFile, "wrong magic"),
        (Kind::Spill, 8, &[9], Code::Version, "layout version 9"),
        (Kind::Spill, 12, &[3], Code::Arch, "architecture 3"),
        (Kind::Spill, 16, &[1], Code::BadFile, "header"),
        (Kind::Spill, 24, &[0x5a; 8], Code::BadFile, "does not belong to the ring"),
        (Kind::Spill, 96, &[1], Code::BadFile, "granules"),
        (Kind::Spill, 97, &[0x20], Code::BadFile, "cut short"),
    ];
    for (kind, at, bytes, code, message) in rows {
        let files = attach_here(&c);
        let path = c.paths().file(files.stem, *kind).unwrap().to_path();
        c.open_ring(files.stem).unwrap();
        corrupt(&path, *at, bytes);
        let e = c.open_ring(files.stem).unwrap_err();
        let row = format!("{kind:?} at {at}: {e}");
        assert!(e.code == *code && e.message.contains(message), "{row}");
        let named = if *message == "does not belong to the ring" {
            files.stem.to_string()
        } else {
            path.to_str().unwrap().to_string()
        };
        assert!(e.message.contains(&named), "{row}");
        assert!(e.message.contains("move it") || e.message.contains("use the spillring"), "{row}");
        files.discard(c.paths());
    }
    for (kind, len, message) in [
        (Kind::Ring, 100, "cut short"),
        (Kind::Ring, GEOMETRY.file_len() - 1, "cut short"),
        (Kind::Ring, GEOMETRY.file_len() + 1, "too long"),
        (Kind::Ack, 5, "cut short"),
        (Kind::Ack, 4096, "cut short"),
        (Kind::Spill, 4095, "cut short"),
    ] {
        let files = attach_here(&c);
        let path = c.paths().file(files.stem, kind).unwrap().to_path();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        let e = c.open_ring(files.stem).unwrap_err();
        assert!(e.code == Code::BadFile && e.message.contains(message), "{kind:?} {len}: {e}");
        files.discard(c.paths());
    }
    healthy.ring.word(8192).store(6, SeqCst);
    assert_eq!(c.open_ring(healthy.stem).unwrap().word(8192).load(SeqCst), 6);
}

fn channel_errors() {
    let d = Dir::new();
    let open = |create| Channel::create_or_open(&d.path(), create, Role::Producer);
    let fails = |create, code: Code, text: &[&str]| {
        let e = open(create).unwrap_err();
        assert_eq!(e.code, code, "{e}");
        for t in text {
            assert!(e.message.contains(t), "{e}");
        }
        assert!(e.message.contains(d.path().to_str().unwrap()), "{e}");
    };
    fails(false, Code::NoChannel, &["start a drain"]);
    fs::create_dir(d.path()).unwrap();
    fails(false, Code::NoChannel, &["start a drain"]);
    assert!(open(true).unwrap().warning().is_none());
    let ctl = d.path().join("ctl");
    for (at, bytes, code, text) in [
        (0, &b"X"[..], Code::BadFile, "wrong magic"),
        (8, &[9], Code::Version, "layout version 9"),
        (12, &[9], Code::Arch, "architecture 9"),
    ] {
        let mut good = [0; 16];
        fs::File::open(&ctl).unwrap().read_exact_at(&mut good, 0).unwrap();
        corrupt(&ctl, at, bytes);
        fails(true, code, &[text]);
        corrupt(&ctl, 0, &good);
    }
    fs::OpenOptions::new().write(true).open(&ctl).unwrap().set_len(64).unwrap();
    fails(true, Code::BadFile, &["cut short"]);
    fs::set_permissions(d.path(), std::os::unix::fs::PermissionsExt::from_mode(0o707)).unwrap();
    fails(true, Code::Permission, &["chmod o-w"]);
    fs::remove_dir_all(d.path()).unwrap();
    fs::write(d.path(), b"").unwrap();
    fails(false, Code::BadFile, &["not a directory"]);
    fs::remove_file(d.path()).unwrap();
    std::os::unix::fs::symlink("/dev/shm", d.path()).unwrap();
    fails(true, Code::BadFile, &["not a directory"]);
    if process::euid() == 0 {
        fs::remove_file(d.path()).unwrap();
        fs::create_dir(d.path()).unwrap();
        std::os::unix::fs::chown(d.path(), Some(65534), None).unwrap();
        fails(true, Code::Permission, &["uid 65534"]);
        // root may look after anybody's channel.
        Channel::create_or_open(&d.path(), true, Role::Drain).unwrap();
    }
}

// ---- several at a time

fn racing_creators() {
    for round in 0..20 {
        let d = Dir::new();
        let go = std::sync::Barrier::new(8);
        let path = d.path();
        let channels: Vec<Channel> = std::thread::scope(|s| {
            let all: Vec<_> = (0..8)
                .map(|_| {
                    s.spawn(|| {
                        go.wait();
                        Channel::create_or_open(&path, true, Role::Drain).unwrap()
                    })
                })
                .collect();
            all.into_iter().map(|h| h.join().unwrap()).collect()
        });
        channels[0].ctl().word(32).store(round + 1, SeqCst);
        assert!(channels.iter().all(|c| c.ctl().word(32).load(SeqCst) == round + 1));
        assert_eq!(d.names(), ["ctl"]);
    }
}

fn drain_lock_same_process() {
    let d = Dir::new();
    let (a, b) = (d.channel(), d.channel());
    let lock = a.lock_drain().unwrap();
    assert!(lock.still_held());
    for c in [&a, &b] {
        let e = c.lock_drain().unwrap_err();
        assert_eq!(e.code, Code::DrainRunning);
        assert!(e.message.contains("this process") && e.message.contains("stop that one"), "{e}");
    }
    // The refused tries opened and closed nothing: another process is still kept away.
    let me = process::pid();
    let refused = || {
        wait(fork(|| {
            let e = d.channel().lock_drain().unwrap_err();
            assert_eq!(e.code, Code::DrainRunning);
            assert!(e.message.contains(&format!("pid {me}")), "{e}");
            0
        }))
    };
    assert_eq!(refused(), 0);
    assert!(lock.still_held());
    drop(lock);
    let lock = b.lock_drain().unwrap();
    assert_eq!(refused(), 0);
    // Replaced under it, it is no longer the lock.
    fs::remove_file(d.path().join("drain.lock")).unwrap();
    assert!(!lock.still_held());
    drop(lock);
    assert_eq!(a.ctl().word(16).load(SeqCst), 0);
    let reader = Channel::create_or_open(&d.path(), false, Role::Producer).unwrap();
    assert_eq!(reader.lock_drain().unwrap_err().code, Code::BadValue);
}

fn drain_lock_second_copy() {
    let d = Dir::new();
    let c = d.channel();
    // What another copy of the library, linked into this process, would have put there.
    let word = u64::from(process::pid()) << 32 | u64::from(process::image_hash(Facts::read().start));
    c.ctl().word(16).store(word, SeqCst);
    assert_eq!(c.lock_drain().unwrap_err().code, Code::DrainRunning);
    assert_eq!(d.names(), ["ctl"]);
    // What a killed drain left there keeps nobody away.
    c.ctl().word(16).store(word ^ 1, SeqCst);
    let lock = c.lock_drain().unwrap();
    assert_eq!(c.ctl().word(16).load(SeqCst), word);
    assert_eq!(c.ctl().word(24).load(SeqCst), lock.nonce());
}

fn drain_lock_fork() {
    let d = Dir::new();
    let (s, child) = (Signal::new(), shared_word());
    let pid = fork(|| {
        let c = d.channel();
        let lock = c.lock_drain().unwrap();
        let inner = fork(|| {
            // Dropping the copy of the parent's lock must not touch the parent's.
            // (Read out of a borrow: a moved one would be dropped by the parent as well.)
            drop(unsafe { std::ptr::read(&lock) });
            s.give();
            pause_for_ever()
        });
        child.store(inner as u64, SeqCst);
        pause_for_ever()
    });
    s.take();
    soon("the child's pid", || child.load(SeqCst) != 0);
    let c = d.channel();
    let e = c.lock_drain().unwrap_err();
    assert!(e.message.contains(&format!("pid {pid}")), "{e}");
    kill(pid, libc::SIGKILL);
    wait(pid);
    c.lock_drain().unwrap();
    kill(child.load(SeqCst) as i32, libc::SIGKILL);
}

// ---- leftovers

fn killed_attaches() {
    let d = Dir::new();
    let c = d.channel();
    let me = Facts::read();
    let (mut temps, mut orphans, mut round) = (0, 0, 0u64);
    while round < 60 || (round < 1000 && (temps < 5 || orphans < 5)) {
        round += 1;
        let s = Signal::new();
        let pid = fork(|| {
            s.give();
            loop {
                let files = attach_here(&c);
                files.discard(c.paths());
            }
        });
        s.take();
        let (t, delay) = (Instant::now(), Duration::from_micros(50 + round * 37 % 700));
        while t.elapsed() < delay {}
        kill(pid, libc::SIGKILL);
        wait(pid);
        let n = d.names();
        temps += usize::from(n.iter().any(|n| n.starts_with(".tmp")));
        orphans += usize::from(n.iter().any(|n| n.ends_with(".ack")));
        c.sweep(&me).unwrap();
        for stem in c.producers().unwrap() {
            // A ring that has its name is complete; but its maker was taking it away: spill and ack may be gone.
            match c.open_ring(stem) {
                Ok(v) => {
                    soon("the lease", || v.dead(&me) == Dead::Yes);
                    v.unlink().unwrap();
                }
                Err(e) => {
                    assert_eq!(e.errno, Some(libc::ENOENT), "{e}");
                    fs::remove_file(c.paths().file(stem, Kind::Ring).unwrap().to_path()).unwrap();
                }
            }
        }
        c.sweep(&me).unwrap();
        assert_eq!(d.names(), ["ctl"], "round {round}");
    }
    eprintln!("{round} kills: {temps} left a temporary file, {orphans} left an ack");
    assert!(temps >= 2 && orphans >= 2);
}

fn sweep_spares_the_living() {
    let d = Dir::new();
    let c = d.channel();
    let me = Facts::read();
    let files = attach_here(&c);
    let ring = c.paths().file(files.stem, Kind::Ring).unwrap().to_path();
    // As if it had not come to its ring yet.
    fs::rename(&ring, d.path().join("hidden")).unwrap();
    // A temporary file of somebody who still writes it, whatever its name says about pid and boot.
    let boot = "0".repeat(32);
    let temp = d.path().join(format!(".tmp-1-1-1-1-{boot}-0000000000000001.ring"));
    let open = fs::File::create(&temp).unwrap();
    let swept = c.sweep(&me).unwrap();
    assert!(swept.removed.is_empty(), "{swept:?}");
    assert_eq!(swept.kept.len(), 3, "{swept:?}");
    drop((files, open));
    fs::write(d.path().join("notes.txt"), b"a stranger's").unwrap();
    fs::write(d.path().join("1-0000000000000001.ack"), b"not an ack").unwrap();
    let swept = c.sweep(&me).unwrap();
    assert_eq!(swept.removed.len(), 3, "{swept:?}");
    assert_eq!(d.names(), ["1-0000000000000001.ack", "ctl", "hidden", "notes.txt"]);
}

fn removed_by_a_stranger() {
    let d = Dir::new();
    let c = d.channel();
    let me = Facts::read();
    let pid = living_producer(&c);
    let v = the_ring(&c);
    assert!(v.is_linked());
    fs::remove_dir_all(d.path()).unwrap();
    assert!(!v.is_linked());
    // It can still be read, and its death still be told.
    assert_eq!(v.dead(&me), Dead::No);
    kill(pid, libc::SIGKILL);
    soon("the lease", || v.dead(&me) == Dead::Yes);
    wait(pid);
    v.unlink().unwrap();
}

fn unlink_order() {
    let d = Dir::new();
    let c = d.channel();
    let mut views = Vec::new();
    for _ in 0..3 {
        let files = attach_here(&c);
        views.push(c.open_ring(files.stem).unwrap());
    }
    // A drain that dies in between leaves the ring until the rest is gone: each prefix of the removal.
    fs::remove_file(views[0].path(Kind::Spill)).unwrap();
    views[0].unlink().unwrap();
    fs::remove_file(views[1].path(Kind::Spill)).unwrap();
    fs::remove_file(views[1].path(Kind::Ack)).unwrap();
    views[1].unlink().unwrap();
    views[1].unlink().unwrap();
    fs::remove_file(views[2].path(Kind::Ack)).unwrap();
    fs::write(views[2].path(Kind::Ack), b"a stranger's").unwrap();
    views[2].unlink().unwrap();
    assert_eq!(d.names(), [format!("{}.ack", views[2].stem), "ctl".to_string()]);
    // Punching needs the file that was opened, and spares its header.
    let files = attach_here(&c);
    let v = c.open_ring(files.stem).unwrap();
    assert_eq!(v.punch_spill(0, 4096).unwrap_err().code, Code::BadValue);
    files.spill_map.as_ref().unwrap().open(4096, 8192).unwrap();
    assert_eq!(v.spill_stat().unwrap().allocated, 4096 + 8192);
    v.punch_spill(4096, 4096).unwrap();
    let st = v.spill_stat().unwrap();
    assert_eq!((v.spill_granules(), st.size, st.allocated), (4096, 4096 + 4096 * 72, 8192));
}

fn attach() {
    let d = Dir::new();
    let c = d.channel();
    let geometry =
        Geometry { lanes: 64, slots: 256, granules: 1024, lane_stride: 256 << 10, arena: 128 << 10 };
    let mut times = Vec::new();
    for _ in 0..50 {
        let t = Instant::now();
        let files = create_producer(c.paths(), &ProducerSpec { geometry, ..spec() }).unwrap();
        files.ring.populate(geometry.lane_data(0), 256 << 10).unwrap();
        times.push(t.elapsed());
        let fixed = geometry.lane_data(0) + (256 << 10);
        let st = file::fstat(files.ring_fd.raw()).unwrap();
        assert_eq!((st.size, st.allocated), (geometry.file_len(), fixed));
        let st = file::fstat(files.spill.raw()).unwrap();
        assert_eq!((st.size, st.allocated), (4096 + 4096 * 72, 4096));
        assert!(file::is_same_file(files.spill.raw(), files.spill_id));
        // No descriptor that could write the ring is left, and nothing is inherited by exec.
        let mut found = Vec::new();
        file::for_each_fd_of(files.ring_id, |fd| found.push(fd));
        assert_eq!(found, [files.ring_fd.raw()]);
        for fd in [files.ring_fd.raw(), files.spill.raw()] {
            assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
            assert!(fd > 30, "{fd}");
        }
        files.discard(c.paths());
        assert_eq!(d.names(), ["ctl"]);
    }
    times.sort();
    eprintln!(
        "attach with one lane of 256 KiB: median {:?}, longest {:?}; fixed part {} KiB",
        times[times.len() / 2],
        times[times.len() - 1],
        geometry.lane_data(0) >> 10
    );
}

// ---- stored bytes

/// The heads of the four files as version 3 writes them, checked in. Read by offsets as numbers.
fn golden() {
    let facts = Facts {
        pid: 0x0102_0304,
        uid: 0x0506_0708,
        start: 0x1112_1314_1516_1718,
        pid_ns: 0xf000_0001,
        time_ns: 0xf000_0002,
        boot_id: *b"\x21\x22\x23\x24\x25\x26\x27\x28\x29\x2a\x2b\x2c\x2d\x2e\x2f\x30",
        comm: *b"golden-program\0\0",
    };
    let geometry = Geometry { lanes: 5, slots: 6, granules: 8, lane_stride: 8192, arena: 4096 };
    let clock = ClockFacts { source: 1, anchor_ticks: 0x3132, anchor_utc: 0x4142, tick_hz: 0x5152 };
    let d = Dir::new();
    let c = d.channel();
    let files =
        create_producer(c.paths(), &ProducerSpec { facts, geometry, clock, spill_granules: 4096 }).unwrap();
    for (name, path) in [
        ("ring.bin", c.paths().file(files.stem, Kind::Ring).unwrap()),
        ("ack.bin", c.paths().file(files.stem, Kind::Ack).unwrap()),
        ("spill.bin", c.paths().file(files.stem, Kind::Spill).unwrap()),
        ("ctl.bin", c.paths().ctl().unwrap()),
    ] {
        let mut written = [0u8; 256];
        fs::File::open(path.to_path()).unwrap().read_exact_at(&mut written, 0).unwrap();
        if name != "ctl.bin" {
            // The nonce is random; it stands in the file's name as well.
            assert_eq!(written[24..32], files.stem.nonce.to_le_bytes());
            written[24..32].copy_from_slice(&0x7172_7374_7576_7778u64.to_le_bytes());
        }
        if cfg!(target_arch = "aarch64") {
            assert_eq!(written[12], 2);
            written[12] = 1;
        }
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("SPILLRING_WRITE_GOLDEN").is_some() {
            fs::write(&golden, written).unwrap();
        }
        let golden = fs::read(&golden).unwrap();
        assert_eq!(written[..], golden[..], "{name}");
        let u32_at = |at: usize| u32::from_le_bytes(golden[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(golden[at..at + 8].try_into().unwrap());
        assert_eq!((u32_at(8), u32_at(12)), (3, 1), "{name}");
        let magic: &[u8; 8] = match name {
            "ring.bin" => b"SPRRING\x01",
            "ack.bin" => b"SPRRACK\x01",
            "spill.bin" => b"SPRSPIL\x01",
            _ => b"SPRCTRL\x01",
        };
        assert_eq!(&golden[..8], magic);
        if name == "ctl.bin" {
            assert!(golden[16..].iter().all(|&b| b == 0));
            continue;
        }
        assert_eq!(u64_at(24), 0x7172_7374_7576_7778);
        assert_eq!(golden[32..48], facts.boot_id);
        assert_eq!((u32_at(48), u32_at(52)), (0x0102_0304, 0x0506_0708));
        assert_eq!(u64_at(56), 0x1112_1314_1516_1718);
        assert_eq!((u64_at(64), u64_at(72)), (0xf000_0001, 0xf000_0002));
        assert_eq!(&golden[80..96], b"golden-program\0\0");
        // Header 8 KiB, lane headers 5 x 128, slots 6 x 32, words 8 x 8, data 8 x 64, each on its own page;
        // arena 4 KiB, data 5 x 8 KiB.
        let len = match name {
            "ring.bin" => 8192 + 4 * 4096 + 4096 + 5 * 8192,
            "ack.bin" => 8192,
            _ => 4096,
        };
        assert_eq!(u64_at(16), len, "{name}");
        if name == "spill.bin" {
            assert_eq!(u64_at(96), 4096);
            assert!(golden[104..].iter().all(|&b| b == 0));
        }
        if name == "ring.bin" {
            assert_eq!((u32_at(96), u32_at(100), u32_at(104), u32_at(108)), (5, 6, 8, 1));
            assert_eq!((u64_at(112), u64_at(120)), (8192, 4096));
            assert_eq!((u64_at(128), u64_at(136), u64_at(144)), (0x3132, 0x4142, 0x5152));
            assert!(golden[152..].iter().all(|&b| b == 0));
        }
    }
}
