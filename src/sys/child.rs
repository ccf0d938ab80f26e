//! What a program needs that runs another one in its place: the signals that it was started with, waiting
//! for signals and for children, polling pipes, starting a command as it would have been started without.
//!
//! Allocates; not for signal handlers.

use super::Errno;
use super::errno::check;
use crate::sync::{AtomicI32, Ordering::Relaxed};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// What SIGPIPE was before Rust's runtime set it to ignored: 1 = ignored, 0 = not, -1 = not known.
static SIGPIPE_WAS_IGNORED: AtomicI32 = AtomicI32::new(-1);
/// Bit n: descriptor n (0 to 2) was closed before Rust's runtime opened /dev/null there.
static WAS_CLOSED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note_start() {
    SIGPIPE_WAS_IGNORED.store(i32::from(is_ignored(libc::SIGPIPE)), Relaxed);
    // SAFETY: asks only.
    let closed = |fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0;
    WAS_CLOSED.store((0..3).map(|fd| i32::from(closed(fd)) << fd).sum(), Relaxed);
}

// Run by the loader, before the runtime's own start: afterwards it can't be found out any more.
// SAFETY: the section holds pointers to functions without arguments that are needed (the loader passes
// some, which the C calling convention lets go unread); this one makes plain calls and stores two words.
#[unsafe(link_section = ".init_array")]
#[used]
static NOTE_START: extern "C" fn() = note_start;

fn is_ignored(signal: i32) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks only; `now` is read after success.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init_ref().sa_sigaction == libc::SIG_IGN
    }
}

/// Whether this program was started with SIGPIPE ignored.
pub fn sigpipe_ignored_at_start() -> bool {
    SIGPIPE_WAS_IGNORED.load(Relaxed) == 1
}

/// Whether this program was started with descriptor `fd` (0 to 2) closed. It is /dev/null by now.
pub fn closed_at_start(fd: i32) -> bool {
    WAS_CLOSED.load(Relaxed) & 1 << fd != 0
}

/// Ignores SIGINT from now on: for as long as a pager shows what is printed, which takes it.
pub fn ignore_interrupts() {
    set_ignored(libc::SIGINT, true);
}

/// Gives SIGPIPE the disposition that this program was started with: for commands that print, and that
/// should end like any other when nobody reads on.
pub fn restore_sigpipe() {
    set_ignored(libc::SIGPIPE, sigpipe_ignored_at_start());
}

fn set_ignored(signal: i32, ignored: bool) {
    // SAFETY: no handler is installed, only one of the two standard dispositions. Async-signal-safe.
    unsafe { libc::signal(signal, if ignored { libc::SIG_IGN } else { libc::SIG_DFL }) };
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl Signals {
    /// These signals.
    pub fn of(signals: impl IntoIterator<Item = i32>) -> Signals {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: filled by sigemptyset before it is used; a number that is no signal is refused.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for s in signals {
                libc::sigaddset(&mut set, s);
            }
            Signals(set)
        }
    }
}

/// The signal mask and the dispositions that a command gets: those that this program was started with.
#[derive(Clone, Copy)]
pub struct Inherited {
    mask: libc::sigset_t,
    sigpipe_ignored: bool,
    sigchld_ignored: bool,
}

/// A signal that was taken from the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Which.
    pub signal: i32,
    /// The process that sent it; `None`: the kernel did (a terminal's signals, which go to a whole group).
    /// 0: a process of another pid namespace.
    pub sender: Option<u32>,
}

/// Blocks `wanted` (those that this program was not started to ignore) in this thread and in all that it
/// starts from here on, to be taken by [`wait`]. Answers what commands are to inherit, and what is waited for.
pub fn take_signals(wanted: &[i32]) -> Result<(Inherited, Signals), Errno> {
    let sigchld_ignored = is_ignored(libc::SIGCHLD);
    if sigchld_ignored {
        // Ignored, the kernel would reap children itself and their status would be lost.
        set_ignored(libc::SIGCHLD, false);
    }
    // A blocked signal is queued even when it is ignored: those stay as they are. (But SIGCONT does what it is for
    // even then.)
    let all = wanted.iter().copied().filter(|&s| s == libc::SIGCONT || !is_ignored(s));
    let set = Signals::of(all.chain([libc::SIGCHLD]));
    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid; `mask` is read after success.
    let mask = unsafe {
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set.0, mask.as_mut_ptr()) {
            0 => mask.assume_init(),
            e => return Err(Errno(e)),
        }
    };
    Ok((Inherited { mask, sigpipe_ignored: sigpipe_ignored_at_start(), sigchld_ignored }, set))
}

/// Waits for one of the signals; `None`: the time is over.
pub fn wait(set: &Signals, timeout: Duration) -> Option<Arrived> {
    let ts = libc::timespec {
        tv_sec: timeout.as_secs().min(1 << 30) as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    // SAFETY: set and time are valid; `info` is read after success.
    unsafe {
        let signal = libc::sigtimedwait(&set.0, info.as_mut_ptr(), &ts);
        // SI_USER is 0, and what kill, tgkill and sigqueue send is never positive.
        (signal > 0).then(|| {
            let info = info.assume_init_ref();
            Arrived { signal, sender: (info.si_code <= 0).then(|| info.si_pid() as u32) }
        })
    }
}

/// Sends a signal. ESRCH when the process is gone.
pub fn kill(pid: u32, signal: i32) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    check(unsafe { libc::kill(pid as i32, signal) }).map(drop)
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// It has ended.
    Ended(ExitStatus),
    /// It is stopped (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU).
    Stopped,
    /// It goes on.
    Continued,
}

/// Takes one piece of news of a child, our own or an adopted one; `None`: there is none.
pub fn reap() -> Option<(u32, Became)> {
    let mut status = 0;
    // SAFETY: `status` is a valid int.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) };
    let became = if libc::WIFSTOPPED(status) {
        Became::Stopped
    } else if libc::WIFCONTINUED(status) {
        Became::Continued
    } else {
        Became::Ended(ExitStatus::from_raw(status))
    };
    (pid > 0).then_some((pid as u32, became))
}

/// Stops this whole process until somebody sends SIGCONT.
pub fn stop_myself() {
    // SAFETY: plain numbers. Nothing here can be left half done by it that would not go on later.
    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
}

/// Whether a signal has come that nobody has taken yet.
pub fn is_pending(signal: i32) -> bool {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is read after success; a number that is no signal is in none.
    unsafe { libc::sigpending(set.as_mut_ptr()) == 0 && libc::sigismember(set.as_ptr(), signal) == 1 }
}

/// Whether a process is stopped (also under a debugger). Of one that there is, and that /proc does not show, also yes.
pub fn is_stopped(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|s| s.starts_with(['T', 't'])),
        // SAFETY: plain numbers; signal 0 only asks.
        Err(_) => check(unsafe { libc::kill(pid as i32, 0) }) != Err(Errno(libc::ESRCH)),
    }
}

/// Whether nobody has the other end of a pipe or terminal open any more.
pub fn is_hung_up(fd: i32) -> bool {
    let mut p = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one valid pollfd; it does not wait.
    unsafe { libc::poll(&mut p, 1, 0) == 1 && p.revents & libc::POLLHUP != 0 }
}

/// Bytes that can be read at once from a pipe or terminal; 0 where that is not known.
pub fn readable_bytes(fd: i32) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int.
    if unsafe { libc::ioctl(fd, libc::FIONREAD, &mut n) } == 0 { n.max(0) as usize } else { 0 }
}

/// The highest number of a signal.
pub fn last_signal() -> i32 {
    libc::SIGRTMAX()
}

/// Leaves the session and process group that it was started in: what a terminal sends to those does not
/// reach it, and it has no controlling terminal. Also gives the process a name.
pub fn leave_session(name: &std::ffi::CStr) {
    // SAFETY: plain calls; the name is copied by the kernel.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
    }
}

/// The descriptor `fd`, which whoever started this program left open for it; from here on commands do
/// not get it. `None`: it is not open.
pub fn adopt(fd: i32) -> Option<OwnedFd> {
    // SAFETY: an open descriptor above the standard ones that nothing in this program knows by now is taken
    // over once; the caller names each only once.
    unsafe {
        let open = fd > 2 && libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) == 0;
        open.then(|| OwnedFd::from_raw_fd(fd))
    }
}

/// Closes every descriptor above the standard ones but those in `keep`: what a shell left open (a lock, the
/// end of a pipe) is not ours to hold. Before anything else has been opened.
pub fn close_all_but(keep: &[i32]) {
    let mut keep: Vec<u32> = keep.iter().filter(|&&fd| fd > 2).map(|&fd| fd as u32).collect();
    keep.sort_unstable();
    let mut from = 3u32;
    for k in keep.into_iter().chain([u32::MAX]) {
        if from < k {
            // SAFETY: nothing has been opened yet that anybody counts on.
            unsafe { libc::syscall(libc::SYS_close_range, from, k - 1, 0) };
        }
        from = k.saturating_add(1);
    }
}

/// Puts /dev/null in the place of a standard descriptor.
pub fn silence(fd: i32) {
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        // SAFETY: both are descriptors; what was at `fd` is closed.
        unsafe { libc::dup2(null.as_raw_fd(), fd) };
    }
}

/// One descriptor to poll.
#[derive(Clone, Copy, Debug)]
pub struct Polled {
    /// The descriptor; negative: left out.
    pub fd: i32,
    /// Whether reading is waited for; errors and hang-ups always are.
    pub read: bool,
    /// Something can be read, or the other end is closed.
    pub readable: bool,
    /// The reader of this writing end is gone, or the descriptor is none.
    pub broken: bool,
}

impl Polled {
    /// Waits until something can be read.
    pub fn reading(fd: i32) -> Polled {
        Polled { fd, read: true, readable: false, broken: false }
    }
    /// Waits until the reader is gone.
    pub fn reader_of(fd: i32) -> Polled {
        Polled { fd, read: false, readable: false, broken: false }
    }
}

/// Waits until one of the descriptors has something to say; answers whether one has.
pub fn poll(fds: &mut [Polled], timeout: Option<Duration>) -> Result<bool, Errno> {
    let deadline = timeout.map(|t| Instant::now() + t);
    let mut raw: Vec<libc::pollfd> = fds
        .iter()
        .map(|p| libc::pollfd { fd: p.fd, events: if p.read { libc::POLLIN } else { 0 }, revents: 0 })
        .collect();
    let n = loop {
        let left = deadline.map(|d| super::thread::timespec(d.saturating_duration_since(Instant::now())));
        let time = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let len = raw.len() as libc::nfds_t;
        // SAFETY: as many entries as it says; the time lives for the call.
        match check(unsafe { libc::ppoll(raw.as_mut_ptr(), len, time, std::ptr::null()) }) {
            Err(Errno(libc::EINTR)) => {}
            other => break other?,
        }
    };
    for (p, r) in fds.iter_mut().zip(&raw) {
        let failed = r.revents & (libc::POLLERR | libc::POLLNVAL) != 0;
        p.readable = p.read && r.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0;
        p.broken = failed && (!p.read || r.revents & libc::POLLNVAL != 0);
    }
    Ok(n > 0)
}

/// Leaves these descriptors open for `command`, under their numbers, and closes the standard ones that
/// `closed` names.
pub fn hand_over(command: &mut Command, fds: Vec<i32>, closed: Vec<i32>) {
    // SAFETY: the closure runs between fork and exec and calls only fcntl and close, which are
    // async-signal-safe; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            for &fd in &fds {
                if libc::fcntl(fd, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            for &fd in &closed {
                libc::close(fd);
            }
            Ok(())
        });
    }
}

/// Makes `command` start with the signal mask and the dispositions in `inherited`, whether it is spawned or
/// executed in place.
pub fn inherit(command: &mut Command, inherited: &Inherited) {
    let i = *inherited;
    // SAFETY: the closure runs between fork and exec and calls only signal and sigprocmask, which are
    // async-signal-safe; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // After the standard library's own reset of both.
            set_ignored(libc::SIGPIPE, i.sigpipe_ignored);
            set_ignored(libc::SIGCHLD, i.sigchld_ignored);
            match libc::sigprocmask(libc::SIG_SETMASK, &i.mask, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_pipe_without_a_reader_is_broken_and_one_without_a_writer_readable() {
        let (r, mut w) = io::pipe().unwrap();
        let mut p = [Polled::reading(r.as_raw_fd()), Polled::reader_of(w.as_raw_fd())];
        assert!(!poll(&mut p, Some(Duration::ZERO)).unwrap());
        w.write_all(b"x").unwrap();
        assert!(poll(&mut p, None).unwrap());
        assert!(p[0].readable && !p[1].broken);
        drop(r);
        let mut p = [Polled::reader_of(w.as_raw_fd())];
        assert!(poll(&mut p, None).unwrap() && p[0].broken);
        let (r, w) = io::pipe().unwrap();
        drop(w);
        let mut p = [Polled::reading(r.as_raw_fd())];
        assert!(poll(&mut p, None).unwrap() && p[0].readable);
    }

    #[test]
    fn signals_come_with_their_sender() {
        // In a thread of its own: its mask is nobody else's.
        std::thread::spawn(|| {
            let (_, set) = take_signals(&[libc::SIGWINCH]).unwrap();
            assert_eq!(wait(&set, Duration::ZERO), None);
            // SAFETY: plain numbers; the signal is blocked in this thread, and ignored by default.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGWINCH) };
            let got = wait(&set, Duration::from_secs(5));
            assert_eq!(got, Some(Arrived { signal: libc::SIGWINCH, sender: Some(std::process::id()) }));
        })
        .join()
        .unwrap();
    }
}
