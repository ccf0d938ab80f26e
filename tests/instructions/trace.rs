//! A child process under ptrace, stepped by single instructions.

use std::io;
use std::sync::OnceLock;

/// Why a traced process stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// One instruction was executed (or a signal's frame was set up).
    Stepped,
    /// It executed `int3`.
    Trap,
    /// A signal is about to be delivered.
    Signal(i32),
    /// It has forked; the child is stopped too.
    Forked(i32),
    /// It is gone.
    Gone(i32),
}

/// A process that this thread traces. Dropping it kills it.
pub struct Traced {
    pub pid: i32,
    gone: bool,
}

fn check(r: libc::c_long, what: &str) -> io::Result<libc::c_long> {
    if r < 0 {
        let e = io::Error::last_os_error();
        return Err(io::Error::new(e.kind(), format!("ptrace {what}: {e}")));
    }
    Ok(r)
}

const SI_KERNEL: i32 = 0x80;

/// Seconds between two alarms, and how many of them a stop may take: a victim that waits for nobody (a call
/// that blocks, a step behind the end of its way) is an error with its place, not a test that hangs.
const ALARM: i64 = 10;
const PATIENCE: u32 = 6;

extern "C" fn on_alarm(_: i32) {}

/// Where this process may run when nobody has pinned it.
static PROCESSORS: OnceLock<libc::cpu_set_t> = OnceLock::new();

/// Keeps this process on the processor where it is now, and with it the victims that it forks: a stop and a wake
/// between two processors take an interrupt each, ten times as long as the step itself.
pub fn stay() {
    // SAFETY: a cpu set is plain bits, filled by the call.
    let here = unsafe {
        PROCESSORS.get_or_init(|| {
            let mut all: libc::cpu_set_t = core::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&all), &mut all), 0);
            all
        });
        libc::sched_getcpu()
    };
    spillring::sys::thread::set_affinity(here as usize).expect("the processor that it runs on");
}

/// Interrupts the waits of this process every [`ALARM`] seconds. Forks do not have the timer.
pub fn watch() {
    // SAFETY: a handler that does nothing, and a timer of this process.
    unsafe {
        let mut sa: libc::sigaction = core::mem::zeroed();
        sa.sa_sigaction = on_alarm as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGALRM, &sa, core::ptr::null_mut()), 0);
        let every = libc::timeval { tv_sec: ALARM, tv_usec: 0 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        assert_eq!(libc::setitimer(libc::ITIMER_REAL, &timer, core::ptr::null_mut()), 0);
    }
}

/// In a fork that has to end by itself, on any processor: it dies of SIGALRM if it has not after a minute.
pub fn limit() {
    // SAFETY: settings of this process alone.
    unsafe {
        if let Some(all) = PROCESSORS.get() {
            libc::sched_setaffinity(0, size_of_val(all), all);
        }
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::alarm(ALARM as u32 * PATIENCE);
    }
}

/// Waits for `pid` through interruptions. `patience`: how many of them; none is for ever.
pub fn wait_for(pid: i32, patience: Option<u32>) -> io::Result<i32> {
    let (mut st, mut alarms) = (0, 0);
    // SAFETY: waits for a child of this process.
    while unsafe { libc::waitpid(pid, &mut st, libc::__WALL) } < 0 {
        let e = io::Error::last_os_error();
        alarms += 1;
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
        if patience.is_some_and(|p| alarms > p) {
            let where_ = ["wchan", "syscall"].map(|f| {
                std::fs::read_to_string(format!("/proc/{pid}/{f}")).unwrap_or_default().trim().to_string()
            });
            let what =
                format!("process {pid} did not stop within a minute: {}", where_.join(", system call "));
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
    }
    Ok(st)
}

impl Traced {
    /// Forks; the child asks to be traced, stops, then runs `f`.
    pub fn fork(f: impl FnOnce()) -> io::Result<Traced> {
        // SAFETY: the tracer has one thread; the child runs `f` and never returns into the caller's frames.
        unsafe {
            let pid = libc::fork();
            if pid < 0 {
                return Err(io::Error::last_os_error());
            }
            if pid == 0 {
                let none = core::ptr::null_mut::<libc::c_void>();
                libc::signal(libc::SIGALRM, libc::SIG_DFL);
                if libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) < 0 {
                    libc::_exit(99);
                }
                libc::raise(libc::SIGSTOP);
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
                libc::_exit(i32::from(ended.is_err()));
            }
            let me = Traced { pid, gone: false };
            let st = wait_for(pid, Some(PATIENCE))?;
            if !libc::WIFSTOPPED(st) {
                let e = io::ErrorKind::PermissionDenied;
                return Err(io::Error::new(e, "ptrace is not permitted (PTRACE_TRACEME failed)"));
            }
            let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEFORK;
            check(libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0usize, options as usize), "SETOPTIONS")?;
            Ok(me)
        }
    }

    /// A process that the kernel has attached by TRACEFORK; waits for its first stop.
    pub fn adopt(pid: i32) -> io::Result<Traced> {
        let me = Traced { pid, gone: false };
        wait_for(pid, Some(PATIENCE))?;
        Ok(me)
    }

    fn resume(&mut self, request: libc::c_uint, signal: i32) -> io::Result<Stop> {
        // SAFETY: requests on a stopped process that this thread traces.
        unsafe {
            check(libc::ptrace(request, self.pid, 0usize, signal as usize), "resume")?;
            let st = wait_for(self.pid, Some(PATIENCE))?;
            if !libc::WIFSTOPPED(st) {
                self.gone = true;
                return Ok(Stop::Gone(st));
            }
            if st >> 8 == (libc::SIGTRAP | libc::PTRACE_EVENT_FORK << 8) {
                let mut child = 0usize;
                let to = (&raw mut child).cast::<libc::c_void>();
                check(libc::ptrace(libc::PTRACE_GETEVENTMSG, self.pid, 0usize, to), "GETEVENTMSG")?;
                return Ok(Stop::Forked(child as i32));
            }
            match libc::WSTOPSIG(st) {
                libc::SIGTRAP => {}
                s => return Ok(Stop::Signal(s)),
            }
            if request == libc::PTRACE_SINGLESTEP as libc::c_uint {
                return Ok(Stop::Stepped);
            }
            Ok(if self.was_trap()? { Stop::Trap } else { Stop::Stepped })
        }
    }

    /// Whether the present SIGTRAP came from an `int3`.
    pub fn was_trap(&self) -> io::Result<bool> {
        // SAFETY: a siginfo is plain bits, filled by the call.
        unsafe {
            let mut si: libc::siginfo_t = core::mem::zeroed();
            let to = (&raw mut si).cast::<libc::c_void>();
            check(libc::ptrace(libc::PTRACE_GETSIGINFO, self.pid, 0usize, to), "GETSIGINFO")?;
            Ok(si.si_code == SI_KERNEL)
        }
    }

    /// One instruction (one iteration of a repeated one, or one whole system call); `signal` is delivered
    /// first, 0 = none.
    pub fn step(&mut self, signal: i32) -> io::Result<Stop> {
        self.resume(libc::PTRACE_SINGLESTEP as libc::c_uint, signal)
    }

    /// Runs to the next `int3`; signals on the way are delivered.
    pub fn run_to_trap(&mut self) -> io::Result<Stop> {
        let mut signal = 0;
        loop {
            match self.resume(libc::PTRACE_CONT as libc::c_uint, signal)? {
                Stop::Signal(libc::SIGSTOP) | Stop::Stepped => signal = 0,
                Stop::Signal(s) => signal = s,
                other => return Ok(other),
            }
        }
    }

    /// Runs until the `n`th next system call has returned. A program with no `int3` on the way.
    pub fn run_to_syscall_exit(&mut self, n: u64) -> io::Result<Stop> {
        let mut last = Stop::Stepped;
        for _ in 0..n * 2 {
            last = self.resume(libc::PTRACE_SYSCALL as libc::c_uint, 0)?;
            if last != Stop::Stepped {
                break;
            }
        }
        Ok(last)
    }

    /// Lets it run, unwatched.
    pub fn go(&mut self) -> io::Result<()> {
        // SAFETY: as in `resume`.
        unsafe { check(libc::ptrace(libc::PTRACE_CONT, self.pid, 0usize, 0usize), "CONT").map(drop) }
    }

    /// Instruction pointer, and whether the last instruction was a system call (which leaves the address
    /// behind it in `rcx`).
    pub fn at(&self) -> io::Result<(u64, bool)> {
        // SAFETY: registers are plain bits, filled by the call.
        unsafe {
            let mut r: libc::user_regs_struct = core::mem::zeroed();
            let to = (&raw mut r).cast::<libc::c_void>();
            check(libc::ptrace(libc::PTRACE_GETREGS, self.pid, 0usize, to), "GETREGS")?;
            // A call through `rcx` looks alike: ask what stands there.
            let word = || libc::ptrace(libc::PTRACE_PEEKTEXT, self.pid, r.rip as usize - 2, 0usize);
            Ok((r.rip, r.rcx == r.rip && word() & 0xffff == 0x050f))
        }
    }

    /// SIGKILL, and the end of it.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if !self.gone {
            self.gone = true;
            // SAFETY: a child of ours that nobody has waited for.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            while wait_for(self.pid, None).is_ok_and(|st| libc::WIFSTOPPED(st)) {}
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.end();
    }
}
