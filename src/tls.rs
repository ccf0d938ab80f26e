//! The thread's block: 64 bytes of initial-exec thread-local storage.
//!
//! `thread_local!` would do on most threads, but not on all: under dlopen it is allocated lazily, on a
//! thread's first touch, which may be in a signal handler that interrupted malloc. Stable Rust cannot
//! ask for the initial-exec model, so the symbol is defined and loaded in assembly; in an executable
//! the linker relaxes the load to a constant.
//!
//! It stands in .tdata, also because .tbss follows that at its own alignment, and the gap would be static thread-local
//! storage, which is scarce under dlopen. For the same reason the block is aligned to half a cache line: what a dlopen
//! takes is rounded up to the alignment.
#![allow(unsafe_code)]

use crate::sync::{AtomicPtr, AtomicU32, AtomicU64};

/// What a thread and its signal handlers know. Written by this thread only; atomics because a handler
/// may come between any two instructions.
#[repr(C, align(32))]
pub struct Block {
    /// 1 while a call of this thread is open.
    pub busy: AtomicU32,
    /// The fork generation that the rest belongs to, [`NO_GENERATION`] = none.
    pub generation: AtomicU32,
    /// Header of this thread's lane in the ring, null = none.
    pub lane: AtomicPtr<u8>,
    /// Data of the lane.
    pub data: AtomicPtr<u8>,
    /// The lane's `released` word in `P.ack`.
    pub released: AtomicPtr<AtomicU64>,
    /// How far the thread may write the lane before it looks there again.
    pub limit: AtomicU64,
    /// Capacity of the lane, bytes, less one.
    pub mask: AtomicU64,
    /// Thread number (48 bits) and slot (16 bits); 0 = none yet.
    pub identity: AtomicU64,
    /// The process's ring ([`crate::writer`]), as of the last call that looked.
    pub ring: AtomicPtr<u8>,
}

/// Of a thread that never logged. Not 0, which is what a forked child's page says before it has attached.
pub const NO_GENERATION: u32 = u32::MAX;

const _: () = assert!(size_of::<Block>() == 64 && core::mem::offset_of!(Block, generation) == 4);

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .tdata.spillring_block,\"awT\",@progbits",
    ".globl __spillring_block_0_1",
    ".hidden __spillring_block_0_1",
    ".type __spillring_block_0_1, @object",
    ".size __spillring_block_0_1, 64",
    ".balign 32",
    "__spillring_block_0_1:",
    ".long 0, 0xffffffff", // busy, generation
    ".zero 56",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".pushsection .tdata.spillring_block,\"awT\",%progbits",
    ".globl __spillring_block_0_1",
    ".hidden __spillring_block_0_1",
    ".type __spillring_block_0_1, %object",
    ".size __spillring_block_0_1, 64",
    ".balign 32",
    "__spillring_block_0_1:",
    ".long 0, 0xffffffff", // busy, generation
    ".zero 56",
    ".popsection",
);

/// This thread's block. Async-signal-safe, also as a thread's first contact with the library.
#[inline(always)]
pub fn block() -> *const Block {
    let p: *const Block;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: adds the symbol's offset, which the loader has put into the GOT, to the thread pointer;
    // the result is this thread's block for as long as the thread lives.
    unsafe {
        core::arch::asm!(
            "mov {p}, qword ptr [rip + __spillring_block_0_1@GOTTPOFF]",
            "add {p}, qword ptr fs:[0]",
            p = out(reg) p,
            options(pure, readonly, nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "adrp {p}, :gottprel:__spillring_block_0_1",
            "ldr {p}, [{p}, :gottprel_lo12:__spillring_block_0_1]",
            "mrs {t}, tpidr_el0",
            "add {p}, {p}, {t}",
            p = out(reg) p,
            t = out(reg) _,
            options(pure, readonly, nostack),
        );
    }
    p
}
