//! A function that is called from every call site, hardly ever, and costs the site no register.
//!
//! An ordinary call may change half of the registers. A call site that has one on a cold way, before its arguments are
//! evaluated, therefore saves some of the others when it begins and gives them back when it ends: 6 of a call's 70
//! instructions, each time. So the function is called as one that changes none. That is no calling convention of
//! stable Rust: the call is written in assembly, and so is what saves the registers.
#![allow(unsafe_code)]

use super::Site;

/// [`Site::find_out`], for call sites. Async-signal-safe.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn find_out(site: &Site) -> bool {
    let mut word = core::ptr::from_ref(site).expose_provenance();
    // SAFETY: the function below takes a site in rax and answers in al. It returns, keeps all general registers but
    // that one, and those that it does not keep (libc's string functions use them) are named. It does not unwind. No
    // `nostack`: the stack is aligned here, and nothing of the caller's lies below its end.
    unsafe {
        core::arch::asm!(
            "call {function}",
            function = sym __spillring_find_out_0_1,
            inout("rax") word,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _,
            out("xmm20") _, out("xmm21") _, out("xmm22") _, out("xmm23") _,
            out("xmm24") _, out("xmm25") _, out("xmm26") _, out("xmm27") _,
            out("xmm28") _, out("xmm29") _, out("xmm30") _, out("xmm31") _,
            out("k0") _, out("k1") _, out("k2") _, out("k3") _,
            out("k4") _, out("k5") _, out("k6") _, out("k7") _,
            out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
            out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    word as u8 != 0
}

/// For call sites.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn find_out(site: &Site) -> bool {
    site.find_out()
}

#[cfg(target_arch = "x86_64")]
extern "C" fn find_out_c(site: &Site) -> bool {
    site.find_out()
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn __spillring_find_out_0_1();
}

// What it calls saves rbx, rbp and r12 to r15, and finds the stack at a multiple of 16 and the direction flag clear, as the
// C ABI has it.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.spillring_find_out,\"ax\",@progbits",
    ".globl __spillring_find_out_0_1",
    ".hidden __spillring_find_out_0_1",
    ".type __spillring_find_out_0_1, @function",
    "__spillring_find_out_0_1:",
    ".cfi_startproc",
    // Nine words with the address to return to, and one that makes it ten.
    "push rcx",
    ".cfi_adjust_cfa_offset 8",
    "push rdx",
    ".cfi_adjust_cfa_offset 8",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "push r8",
    ".cfi_adjust_cfa_offset 8",
    "push r9",
    ".cfi_adjust_cfa_offset 8",
    "push r10",
    ".cfi_adjust_cfa_offset 8",
    "push r11",
    ".cfi_adjust_cfa_offset 8",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "mov rdi, rax",
    "call {function}",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "pop r11",
    ".cfi_adjust_cfa_offset -8",
    "pop r10",
    ".cfi_adjust_cfa_offset -8",
    "pop r9",
    ".cfi_adjust_cfa_offset -8",
    "pop r8",
    ".cfi_adjust_cfa_offset -8",
    "pop rdi",
    ".cfi_adjust_cfa_offset -8",
    "pop rsi",
    ".cfi_adjust_cfa_offset -8",
    "pop rdx",
    ".cfi_adjust_cfa_offset -8",
    "pop rcx",
    ".cfi_adjust_cfa_offset -8",
    "ret",
    ".cfi_endproc",
    ".size __spillring_find_out_0_1, . - __spillring_find_out_0_1",
    ".popsection",
    function = sym find_out_c,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Level;
    use std::hint::black_box;

    #[test]
    fn a_first_look_changes_nothing_that_lives_across_it() {
        let words: [u64; 14] = std::array::from_fn(|i| black_box(i as u64 + 1));
        let floats: [f64; 16] = std::array::from_fn(|i| black_box(i as f64 + 0.5));
        for _ in 0..3 {
            // In registers, as far as there are any: what is made of them is made behind the call again.
            let site = Site::new(Level::Error, "look", "f", 1, "");
            let (w, f) = (words.map(|w| w.wrapping_mul(0x9e37)), floats.map(|f| f * 3.0));
            let passes = find_out(black_box(&site));
            let (v, g) = (words.map(|w| w.wrapping_mul(0x9e37)), floats.map(|f| f * 3.0));
            assert_eq!((w, f, passes), (black_box(v), black_box(g), site.find_out()));
        }
    }
}
