//! Records that are filled in place.

use crate::codes;
use crate::guard::guard;
use crate::site::Site;
use spillring::layout::site::ty;
use spillring::writer::{self, ReserveError};
use std::ffi::c_int;

/// Bytes before the caller's: the length of the string that they are.
const LEN: u64 = 4;
const WORDS: usize = 8;
/// What `private_[0]` says while there is something to commit.
const OPEN: u64 = 0x7370_725f_6f70_656e;

/// A reservation, as C lays it out.
#[repr(C)]
pub struct Reservation {
    /// Where the caller writes.
    pub data: *mut u8,
    /// How much.
    pub size: usize,
    /// The library's.
    pub private_: [u64; WORDS],
}

const _: () = assert!(size_of::<writer::Reservation>() <= 8 * (WORDS - 1));
const _: () = assert!(align_of::<writer::Reservation>() <= 8);

fn code(e: ReserveError) -> i32 {
    match e {
        ReserveError::NotAttached => spillring::Code::NotAttached as i32,
        ReserveError::NoRoom => spillring::Code::WouldBlock as i32,
        ReserveError::Foreign => codes::ARGUMENT,
        ReserveError::TooLarge => spillring::Code::TooLarge as i32,
    }
}

/// See the header.
///
/// # Safety
/// `site` is NULL or a site; `out` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_reserve(site: *const Site, size: usize, out: *mut Reservation) -> c_int {
    guard(|| {
        // SAFETY: by the caller.
        let (Some(site), false) = (unsafe { site.as_ref() }, out.is_null()) else { return codes::NULL };
        if !site.is_one_string() {
            return codes::ARGUMENT;
        }
        match writer::reserve(&site.id, &site.facts(&[ty::STR]), LEN + size as u64) {
            Ok(r) => {
                // SAFETY: room for `out` by the caller; the reservation fits behind the first word.
                unsafe {
                    let p = r.payload();
                    let mut made = Reservation { data: p.add(LEN as usize), size, private_: [0; WORDS] };
                    made.private_[0] = OPEN;
                    made.private_.as_mut_ptr().add(1).cast::<writer::Reservation>().write(r);
                    out.write(made);
                }
                codes::OK
            }
            Err(e) => code(e),
        }
    })
}

/// What is in it, once. Of another thread's: nothing.
unsafe fn take(r: *mut Reservation) -> Result<writer::Reservation, i32> {
    // SAFETY: by the caller, NULL or made by `spr_reserve`.
    let Some(r) = (unsafe { r.as_mut() }) else { return Err(codes::NULL) };
    if r.private_[0] != OPEN {
        return Err(codes::CLOSED);
    }
    let inner = r.private_[1..].as_ptr().cast::<writer::Reservation>();
    // SAFETY: written by `spr_reserve`.
    if !unsafe { (*inner).is_mine() } {
        return Err(codes::ARGUMENT);
    }
    r.private_[0] = 0;
    // SAFETY: likewise, and not used there again.
    Ok(unsafe { inner.read() })
}

/// See the header.
///
/// # Safety
/// `r` is NULL or was filled by [`spr_reserve`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_commit(r: *mut Reservation, size: usize) -> c_int {
    guard(|| {
        // SAFETY: by the caller.
        let inner = match unsafe { take(r) } {
            Ok(i) => i,
            Err(code) => return code,
        };
        let Ok(n) = u32::try_from(size) else { return spillring::Code::TooLarge as i32 };
        // SAFETY: the first bytes of the payload, at a multiple of 8.
        unsafe { inner.payload().cast::<u32>().write(n) };
        inner.commit(LEN + u64::from(n)).map_or_else(code, |()| codes::OK)
    })
}

/// See the header.
///
/// # Safety
/// `r` is NULL or was filled by [`spr_reserve`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_abort(r: *mut Reservation) -> c_int {
    guard(|| {
        // SAFETY: by the caller.
        match unsafe { take(r) } {
            Ok(inner) => {
                drop(inner);
                codes::OK
            }
            Err(code) => code,
        }
    })
}
