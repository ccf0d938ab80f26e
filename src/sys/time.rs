//! Clocks. Everything here is async-signal-safe, and the clocks enter the kernel only where the vDSO
//! can't read them.

use super::file::read_small;
use std::time::Duration;

fn clock_ns(id: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is writable; these clocks exist on every Linux this is built for.
    unsafe { libc::clock_gettime(id, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// Time since boot, sleep included, ns (in this time namespace).
pub fn boottime_ns() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME)
}
/// UTC, ns since the epoch.
pub fn utc_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}
/// Time since some instant, never set and never slewed, ns.
pub fn monotonic_raw_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC_RAW)
}
/// Time since some instant, slewed, ns (of no namespace's CPU clocks; for time-outs).
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The processor's counter: TSC, or the generic timer's. Not ordered with the instructions around it.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has it; a program that had it forbidden (PR_SET_TSC) can't run this.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let t: u64;
        // SAFETY: Linux lets user space read the virtual counter.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) t, options(nomem, nostack)) };
        t
    }
}

/// Whether [`ticks`] runs at one speed, in step on all processors, whatever sleeps: the processor says
/// that it is invariant, and the kernel has it among the clocks it would use (it strikes out a TSC that
/// it has seen go astray). False when that can't be read.
pub fn ticks_invariant() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        if cpuid(0x8000_0000).0 < 0x8000_0007 || cpuid(0x8000_0007).3 & 1 << 8 == 0 {
            return false;
        }
        let mut buf = [0u8; 256];
        let path = c"/sys/devices/system/clocksource/clocksource0/available_clocksource";
        read_small(path, &mut buf).is_ok_and(|s| s.split(|b| b.is_ascii_whitespace()).any(|w| w == b"tsc"))
    }
    #[cfg(target_arch = "aarch64")]
    {
        let _ = read_small; // the architecture promises it
        true
    }
}

/// Two clocks read at one moment: the second between two readings of the first, the tightest of three. (Between two
/// readings this thread may lose its processor.) Async-signal-safe.
pub fn both(ticks: impl Fn() -> u64, ns: impl Fn() -> u64) -> (u64, u64) {
    let one = || {
        let (a, n, b) = (ticks(), ns(), ticks());
        (b.wrapping_sub(a), (a.wrapping_add(b.wrapping_sub(a) / 2), n))
    };
    let tries = [one(), one(), one()];
    tries.into_iter().min_by_key(|t| t.0).map_or((0, 0), |t| t.1)
}

/// Frequency of [`ticks`] in Hz, measured over so long a sleep.
pub fn measured_hz(over: Duration) -> f64 {
    let now = || both(ticks, monotonic_raw_ns);
    let (t0, n0) = now();
    super::thread::nanosleep(over);
    let (t1, n1) = now();
    (t1 - t0) as f64 * 1e9 / (n1 - n0).max(1) as f64
}

/// Frequency of [`ticks`] in Hz as the processor or the hypervisor tells it; 0 = not told: measure.
pub fn ticks_hz() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let hypervisor = cpuid(1).2 & 1 << 31 != 0;
        if hypervisor && cpuid(0x4000_0000).0 >= 0x4000_0010 {
            let khz = u64::from(cpuid(0x4000_0010).0);
            if khz != 0 {
                return khz * 1000;
            }
        }
        let max = cpuid(0).0;
        if max < 0x15 {
            return 0;
        }
        let (den, num, crystal, _) = cpuid(0x15);
        if den == 0 || num == 0 {
            return 0;
        }
        if crystal != 0 {
            return u64::from(crystal) * u64::from(num) / u64::from(den);
        }
        // Some processors tell the ratio and not the crystal; then the base frequency is the TSC's.
        if max >= 0x16 { u64::from(cpuid(0x16).0 & 0xffff) * 1_000_000 } else { 0 }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let f: u64;
        // SAFETY: as `ticks`.
        unsafe { core::arch::asm!("mrs {}, cntfrq_el0", out(reg) f, options(nomem, nostack)) };
        f
    }
}

#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32) -> (u32, u32, u32, u32) {
    #[allow(unused_unsafe)] // safe in newer compilers
    // SAFETY: every x86-64 has the instruction.
    let r = unsafe { core::arch::x86_64::__cpuid(leaf) };
    (r.eax, r.ebx, r.ecx, r.edx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        assert!(utc_ns().abs_diff(now as u64) < 5_000_000_000);
        let (b, r, m) = (boottime_ns(), monotonic_raw_ns(), monotonic_ns());
        assert!(b > 0 && monotonic_raw_ns() >= r && monotonic_ns() >= m && boottime_ns() >= b);
    }

    #[test]
    fn a_told_frequency_is_the_measured_one() {
        if !ticks_invariant() || ticks_hz() == 0 {
            return;
        }
        let measured = measured_hz(Duration::from_millis(50));
        let told = ticks_hz() as f64;
        assert!((measured / told - 1.0).abs() < 0.02, "told {told}, measured {measured}");
    }
}
