//! The life of a program's logging, its levels, its threads, its counters.

use crate::codes;
use crate::guard::{failed, guard, message};
use spillring::drain::{DrainConfig, Embedded};
use spillring::env::{Settings, name};
use spillring::record::{Gate, Level};
use spillring::sync::{AtomicBool, AtomicPtr, AtomicU32, Ordering::*};
use spillring::{Code, writer};
use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::time::Duration;

/// Version of the ABI.
pub const ABI: i32 = 1;
/// Level that lets nothing through.
pub const LEVEL_OFF: i32 = Level::Error as i32 + 1;

/// The options, as C lays them out. Strings are NULL, and numbers 0, where the environment decides.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Options {
    /// Size of this struct as the caller knows it.
    pub size: usize,
    /// As SPILLRING_DIR.
    pub dir: *const c_char,
    /// As SPILLRING_CHANNEL.
    pub channel: *const c_char,
    /// As SPILLRING_JOURNAL_DIR.
    pub journal_dir: *const c_char,
    /// As SPILLRING_LEVEL.
    pub level: *const c_char,
    /// As SPILLRING_OVERFLOW.
    pub overflow: *const c_char,
    /// As SPILLRING_LANE.
    pub lane_bytes: u64,
    /// As SPILLRING_LANES.
    pub lanes: u32,
    /// Run a drain as a thread of this process.
    pub drain: u32,
}

/// Copies a struct of the caller's that says its size first. One of a newer header is taken if what this library
/// does not know is zero.
pub(crate) unsafe fn sized<T: Copy>(p: *const T, zero: T) -> Result<T, i32> {
    if p.is_null() {
        return Err(codes::NULL);
    }
    let mut all = zero;
    // SAFETY: every such struct begins with its size, and has as many bytes, by the caller.
    unsafe {
        let size = p.cast::<usize>().read();
        if size < size_of::<usize>() || size > 4096 {
            return Err(message(codes::SIZE, &format!("a struct of {size} bytes: set its size to sizeof")));
        }
        let known = size.min(size_of::<T>());
        core::ptr::copy_nonoverlapping(p.cast::<u8>(), (&raw mut all).cast::<u8>(), known);
        let newer = core::slice::from_raw_parts(p.cast::<u8>().add(known), size - known);
        if newer.iter().any(|b| *b != 0) {
            return Err(message(
                codes::SIZE,
                "an option that this libspillring does not know is set: it is older than the header that the \
                 program was built with",
            ));
        }
    }
    Ok(all)
}

/// # Safety
/// NULL or a string.
unsafe fn text(p: *const c_char) -> Option<OsString> {
    // SAFETY: by the caller.
    (!p.is_null()).then(|| OsStr::from_bytes(unsafe { CStr::from_ptr(p) }.to_bytes()).to_os_string())
}

/// The environment, with these before it. A bad value of the caller's own is an error, one of the environment is
/// said on stderr.
pub(crate) fn settings(own: &[(&'static str, Option<OsString>)]) -> Result<Settings, i32> {
    let find = |n: &str| own.iter().find(|(name, _)| *name == n).and_then(|(_, v)| v.clone());
    let (settings, problems) = Settings::from_env_with(find);
    for p in &problems {
        if find(p.variable).is_some() {
            return Err(message(Code::BadValue as i32, &p.message));
        }
        eprintln!("spillring: {p}");
    }
    Ok(settings)
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();
static READY: AtomicBool = AtomicBool::new(false);

/// The settings of `spr_init`, if there was one.
pub(crate) fn initial() -> Option<&'static Settings> {
    SETTINGS.get()
}

/// The drain of this process, and the pid it belongs to.
static DRAIN: AtomicPtr<Embedded> = AtomicPtr::new(null_mut());
static DRAIN_PID: AtomicU32 = AtomicU32::new(0);

fn start_drain(settings: &Settings) -> Result<(), i32> {
    let here = || !DRAIN.load(Acquire).is_null() && DRAIN_PID.load(Acquire) == spillring::sys::process::pid();
    if here() {
        return Ok(());
    }
    let (config, problem) = DrainConfig::new(settings, settings.channel_dir());
    if let Some(p) = problem {
        eprintln!("spillring: {p}");
    }
    let drain = match Embedded::start(config, |line| eprintln!("spillring: {line}")) {
        Ok(d) => d,
        // Whichever drain has the channel serves it.
        Err(e) if e.code == Code::DrainRunning => return Ok(()),
        Err(e) => return Err(failed(&e)),
    };
    // What stands there is a parent's, whose thread is not in this process.
    DRAIN_PID.store(spillring::sys::process::pid(), Release);
    DRAIN.store(Box::into_raw(Box::new(drain)), Release);
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, AcqRel) {
        // SAFETY: the function stays in memory: the library is linked nodelete.
        unsafe { libc::atexit(at_exit) };
    }
    Ok(())
}

/// Ends the drain of this process, if it has one.
fn stop_drain() -> i32 {
    let p = DRAIN.swap(null_mut(), AcqRel);
    if p.is_null() || DRAIN_PID.load(Acquire) != spillring::sys::process::pid() {
        return codes::OK;
    }
    // SAFETY: made by `start_drain`, and taken by this call alone.
    match unsafe { Box::from_raw(p) }.stop() {
        Ok(_) => codes::OK,
        Err(e) => failed(&e),
    }
}

extern "C" fn at_exit() {
    // What is logged after this, by destructors that run later, is in the ring, for the channel's next drain.
    let _ = guard(stop_drain);
}

/// See the header.
///
/// # Safety
/// `options` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_init(options: *const Options) -> c_int {
    guard(|| {
        let none = core::ptr::null();
        let zero = Options {
            size: 0,
            dir: none,
            channel: none,
            journal_dir: none,
            level: none,
            overflow: none,
            lane_bytes: 0,
            lanes: 0,
            drain: 0,
        };
        // SAFETY: by the caller.
        let o = match if options.is_null() { Ok(zero) } else { unsafe { sized(options, zero) } } {
            Ok(o) => o,
            Err(code) => return code,
        };
        let number = |n: u64| (n != 0).then(|| OsString::from(n.to_string()));
        // SAFETY: strings or NULL, by the caller.
        let own = unsafe {
            [
                (name::DIR, text(o.dir)),
                (name::CHANNEL, text(o.channel)),
                (name::JOURNAL_DIR, text(o.journal_dir)),
                (name::LEVEL, text(o.level)),
                (name::OVERFLOW, text(o.overflow)),
                (name::LANE, number(o.lane_bytes)),
                (name::LANES, number(o.lanes.into())),
            ]
        };
        if o.drain > 1 {
            return message(codes::ARGUMENT, "drain is 0 or 1");
        }
        let again = READY.load(Acquire);
        let settings = match SETTINGS.get().filter(|_| again) {
            Some(s) => s.clone(),
            None => match settings(&own) {
                Ok(s) => s,
                Err(code) => return code,
            },
        };
        if !again {
            match writer::init_with(&settings) {
                // Dropping it would flush.
                Ok(g) => std::mem::forget(g),
                Err(e) => return failed(&e),
            }
            let _ = SETTINGS.set(settings.clone());
            READY.store(true, Release);
        }
        if o.drain == 1
            && let Err(code) = start_drain(&settings)
        {
            return code;
        }
        if again { codes::ALREADY } else { codes::OK }
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_flush(timeout_ms: u32) -> c_int {
    guard(|| match writer::flush(Duration::from_millis(timeout_ms.into())) {
        Ok(()) => codes::OK,
        Err(e) => failed(&e),
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_shutdown(timeout_ms: u32) -> c_int {
    guard(|| {
        if !READY.load(Acquire) {
            return message(Code::NotAttached as i32, "spr_shutdown: spr_init was not called, or failed");
        }
        // Nobody to wait for: the next drain of the channel finds the ring.
        let flushed = if writer::drain_present() {
            writer::flush(Duration::from_millis(timeout_ms.into()))
                .map_or_else(|e| failed(&e), |()| codes::OK)
        } else {
            codes::OK
        };
        let stopped = stop_drain();
        if stopped != codes::OK { stopped } else { flushed }
    })
}

/// Checks `out`, and stores what `f` answers.
unsafe fn give<T>(out: *mut T, f: impl FnOnce() -> T) -> c_int {
    guard(|| {
        if out.is_null() {
            return codes::NULL;
        }
        let value = f();
        // SAFETY: by the caller, it can be stored to.
        unsafe { out.write(value) };
        codes::OK
    })
}

/// See the header.
///
/// # Safety
/// `out` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_abi(out: *mut c_int) -> c_int {
    // SAFETY: by the caller.
    unsafe { give(out, || ABI) }
}

/// See the header.
///
/// # Safety
/// `out` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_drain_present(out: *mut c_int) -> c_int {
    // SAFETY: by the caller.
    unsafe { give(out, || writer::drain_present().into()) }
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_set_level(level: c_int) -> c_int {
    guard(|| {
        let gate = match u8::try_from(level).ok().and_then(Level::from_u8) {
            Some(l) => Gate::From(l),
            None if level == LEVEL_OFF => Gate::Off,
            None => return codes::ARGUMENT,
        };
        spillring::record::set_gate(gate);
        codes::OK
    })
}

/// See the header.
///
/// # Safety
/// `out` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_get_level(out: *mut c_int) -> c_int {
    let level = || match spillring::record::gate() {
        Gate::From(l) => l as c_int,
        Gate::Off => LEVEL_OFF,
    };
    // SAFETY: by the caller.
    unsafe { give(out, level) }
}

/// See the header.
///
/// # Safety
/// `out` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_gate_word(out: *mut *const u32) -> c_int {
    // SAFETY: by the caller.
    unsafe { give(out, || core::ptr::from_ref(spillring::record::gate_word()).cast()) }
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_thread_prefault() -> c_int {
    guard(|| {
        if !writer::attached() {
            return Code::NotAttached as i32;
        }
        if writer::thread_prefault() { codes::OK } else { Code::NoSpace as i32 }
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_thread_reset() -> c_int {
    guard(|| {
        writer::thread_reset();
        codes::OK
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_thread_may_wait(yes: c_int) -> c_int {
    guard(|| {
        if !writer::attached() {
            return Code::NotAttached as i32;
        }
        writer::may_wait(yes != 0);
        codes::OK
    })
}

/// See the header.
///
/// # Safety
/// `have` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_prepare(n: u32, have: *mut u32) -> c_int {
    guard(|| {
        if !writer::attached() {
            return Code::NotAttached as i32;
        }
        let made = writer::prepare(n);
        if !have.is_null() {
            // SAFETY: by the caller.
            unsafe { have.write(made) };
        }
        if made < n { Code::NoSpace as i32 } else { codes::OK }
    })
}

/// Counters, as C lays them out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Counters {
    /// Size of this struct as the caller knows it.
    pub size: usize,
    /// Calls that found no ring.
    pub unattached: u64,
    /// Calls that found another call of their thread open.
    pub nested: u64,
    /// Records lost.
    pub lost: u64,
    /// Calls whose record went to the spill.
    pub spilled: u64,
    /// Random number of this process's ring, 0 = none.
    pub nonce: u64,
    /// errno of the attach that failed.
    pub attach_errno: i32,
    /// Zero.
    pub reserved: i32,
}

/// Stores `value` into a struct that says its size first, as far as the caller knows it.
pub(crate) unsafe fn give_sized<T: Copy>(out: *mut T, value: T) -> i32 {
    if out.is_null() {
        return codes::NULL;
    }
    // SAFETY: it begins with its size, and has as many bytes, by the caller.
    unsafe {
        let size = out.cast::<usize>().read();
        if !(16..=4096).contains(&size) {
            return message(codes::SIZE, &format!("a struct of {size} bytes: set its size to sizeof"));
        }
        let head = size_of::<usize>();
        let known = size.min(size_of::<T>());
        core::ptr::copy_nonoverlapping(
            (&raw const value).cast::<u8>().add(head),
            out.cast::<u8>().add(head),
            known - head,
        );
        // What a newer header knows and this library does not is zero.
        out.cast::<u8>().add(known).write_bytes(0, size - known);
    }
    codes::OK
}

/// See the header.
///
/// # Safety
/// `out` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_counters_get(out: *mut Counters) -> c_int {
    guard(|| {
        let s = writer::status();
        let c = Counters {
            size: 0,
            unattached: s.unattached,
            nested: s.nested,
            lost: s.lost,
            spilled: s.spilled,
            nonce: s.nonce,
            attach_errno: s.attach_errno,
            reserved: 0,
        };
        // SAFETY: by the caller.
        unsafe { give_sized(out, c) }
    })
}
