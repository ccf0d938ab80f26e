//! The only file that names atomics.
//!
//! The protocol (`lane`, `spill`, `snapshot`, the body of a log call) is written against [`Word`]
//! and [`Bytes`], so that the same function bodies run on words in a mapping and on the words of a
//! model checker (`tests/models`).

#![allow(unsafe_code)] // one hint to the processor

pub use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};

/// The address of a static by its distance from the code: `near!(NAME: Type)`. As a static of another crate the
/// compiler would load it from the GOT for each use, and calls are inlined into other crates. The library is
/// linked in whole ([`tls`](crate::tls) asks for the same), so the distance is known.
macro_rules! near {
    ($name:ident: $type:ty) => {{
        let p: *const $type;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: computes an address and nothing else.
        unsafe {
            core::arch::asm!(
                "lea {p}, [rip + {name}]",
                p = out(reg) p,
                name = sym $name,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            core::arch::asm!(
                "adrp {p}, {name}",
                "add {p}, {p}, :lo12:{name}",
                p = out(reg) p,
                name = sym $name,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        p
    }};
}
pub(crate) use near;

/// One shared 64-bit word.
pub trait Word {
    /// Load.
    fn load(&self, o: Ordering) -> u64;
    /// Store.
    fn store(&self, v: u64, o: Ordering);
    /// Adds, answers what was there (one LOCK xadd).
    fn fetch_add(&self, v: u64, o: Ordering) -> u64;
    /// Compare-exchange (strong).
    fn compare_exchange(&self, old: u64, new: u64, ok: Ordering, no: Ordering) -> Result<u64, u64>;
    /// Adds with an instruction that a signal handler of the same thread cannot split, but that
    /// other processors may. For words with one writing thread.
    fn local_add(&self, v: u64);
    /// Asks for the cache line, to write it; a hint.
    fn prefetch_write(&self) {}
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self, o: Ordering) -> u64 {
        AtomicU64::load(self, o)
    }
    #[inline(always)]
    fn store(&self, v: u64, o: Ordering) {
        AtomicU64::store(self, v, o);
    }
    #[inline(always)]
    fn fetch_add(&self, v: u64, o: Ordering) -> u64 {
        AtomicU64::fetch_add(self, v, o)
    }
    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64, ok: Ordering, no: Ordering) -> Result<u64, u64> {
        AtomicU64::compare_exchange(self, old, new, ok, no)
    }
    #[inline(always)]
    fn local_add(&self, v: u64) {
        // Slow path only: a locked add is as good as an unlocked one there, and portable.
        AtomicU64::fetch_add(self, v, Ordering::Relaxed);
    }
    #[inline(always)]
    fn prefetch_write(&self) {
        prefetch_write::<0>(core::ptr::from_ref(self).cast());
    }
}

/// Asks for the cache line of `p + AHEAD`, to write it; a hint. Nothing need be there.
#[inline(always)]
pub fn prefetch_write<const AHEAD: usize>(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads and writes nothing, and never faults; a processor without it does nothing.
    unsafe {
        core::arch::asm!(
            "prefetchw [{} + {}]",
            in(reg) p,
            const AHEAD,
            options(nostack, preserves_flags, readonly),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Payload bytes in shared memory. Offsets are multiples of 8.
pub trait Bytes {
    /// Copies `src` to `at`. The caller has made sure that it fits.
    fn write(&self, at: u64, src: &[u8]);
    /// Copies from `at` to `dst`. What comes is to be validated: it may be overwritten meanwhile.
    fn read(&self, at: u64, dst: &mut [u8]);
    /// Asks for the cache line of `at + AHEAD`, to write it; a hint. Nothing need be there.
    fn prefetch_write<const AHEAD: usize>(&self, _at: u64) {}
}
