//! Fields that only the call knows: built in memory of the caller, given to a call as one string argument.

use crate::codes;
use crate::guard::guard;
use crate::site::Value;
use spillring::layout::site::ty;
use spillring::record::{DynFields, Value as Stored};
use std::ffi::{c_char, c_int};

/// The builder, as C lays it out.
#[repr(C)]
pub struct Fields {
    /// Memory of the caller.
    pub data: *mut u8,
    /// Its size.
    pub size: usize,
    /// Bytes that are used.
    pub used: usize,
    /// Fields that did not fit.
    pub left_out: usize,
}

/// See the header.
///
/// # Safety
/// `fields` is NULL or can be stored to; `buffer` has room for `size` bytes for as long as `fields` is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_fields_init(fields: *mut Fields, buffer: *mut u8, size: usize) -> c_int {
    guard(|| {
        if fields.is_null() || buffer.is_null() && size != 0 {
            return codes::NULL;
        }
        // SAFETY: by the caller.
        unsafe { fields.write(Fields { data: buffer, size, used: 0, left_out: 0 }) };
        codes::OK
    })
}

/// Adds to it by `f`, which says what.
unsafe fn add(fields: *mut Fields, f: impl FnOnce(&mut DynFields<'_>)) -> i32 {
    // SAFETY: by the caller.
    let Some(b) = (unsafe { fields.as_mut() }) else { return codes::NULL };
    if b.used > b.size || b.data.is_null() && b.size != 0 {
        return codes::ARGUMENT;
    }
    let free: &mut [u8] = if b.size == b.used {
        &mut []
    } else {
        // SAFETY: `size` bytes, by the caller of init; none of them is looked at before it is written.
        unsafe { core::slice::from_raw_parts_mut(b.data.add(b.used), b.size - b.used) }
    };
    let mut builder = DynFields::new(free);
    f(&mut builder);
    let (used, left_out) = (builder.bytes().len(), builder.left_out());
    b.used += used;
    b.left_out += left_out;
    if left_out == 0 { codes::OK } else { spillring::Code::NoSpace as i32 }
}

/// # Safety
/// `n` bytes at `p`, or none.
unsafe fn bytes<'a>(p: *const u8, n: usize) -> Option<&'a [u8]> {
    if p.is_null() {
        return (n == 0).then_some(&[]);
    }
    // SAFETY: by the caller.
    Some(unsafe { core::slice::from_raw_parts(p, n) })
}

/// See the header.
///
/// # Safety
/// `fields` was made by init; `name` has `name_len` bytes; `value` is as `type_` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_fields_add(
    fields: *mut Fields,
    name: *const c_char,
    name_len: usize,
    type_: c_int,
    value: *const Value,
) -> c_int {
    guard(|| {
        if value.is_null() {
            return codes::NULL;
        }
        // SAFETY: by the caller, for all of them.
        unsafe {
            let Some(name) = bytes(name.cast(), name_len) else { return codes::NULL };
            let v = *value;
            let stored = match u8::try_from(type_).unwrap_or(0) {
                ty::I8 => Stored::Signed((v.i as i8).into(), 8),
                ty::I16 => Stored::Signed((v.i as i16).into(), 16),
                ty::I32 => Stored::Signed((v.i as i32).into(), 32),
                ty::I64 => Stored::Signed(v.i.into(), 64),
                ty::U8 | ty::U16 | ty::U32 | ty::U64 => Stored::Unsigned(v.u.into()),
                ty::F64 => Stored::F64(v.f),
                ty::BOOL => Stored::Bool(v.u != 0),
                ty::CHAR => match char::from_u32(v.u as u32) {
                    Some(c) => Stored::Char(c),
                    None => return codes::ARGUMENT,
                },
                ty::STR => match bytes(v.p, (*value.add(1)).u as usize) {
                    Some(s) => Stored::Str(s),
                    None => return codes::NULL,
                },
                _ => return codes::ARGUMENT,
            };
            add(fields, |b| b.field(name, stored))
        }
    })
}

/// See the header.
///
/// # Safety
/// `spans` was made by init; `name` has `name_len` bytes; `fields` is NULL or was made by init.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_fields_span(
    spans: *mut Fields,
    name: *const c_char,
    name_len: usize,
    id: u64,
    fields: *const Fields,
) -> c_int {
    guard(|| {
        // SAFETY: by the caller, for all of them.
        unsafe {
            let Some(name) = bytes(name.cast(), name_len) else { return codes::NULL };
            let of = match fields.as_ref() {
                Some(f) if f.used <= f.size => bytes(f.data, f.used).unwrap_or_default(),
                Some(_) => return codes::ARGUMENT,
                None => &[],
            };
            add(spans, |b| b.span(name, id, of))
        }
    })
}
