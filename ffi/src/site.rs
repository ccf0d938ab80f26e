//! A call site of C or C++, and the log call.
//!
//! A call gives the address of its static [`Site`] and its arguments. How they are to be taken (which are strings,
//! how long those may be) is worked out from types and format string in the site's first call and kept in the site, as
//! a plan: one operation for each argument that is stored.
//!
//! The macros' calls ([`spr_log_packed`]) bring numbers as they will lie in the record, and strings measured: what a
//! compiler knows is settled where it knows it. Where the plan takes them just so, which is the usual case, the site has
//! a *quick word*, and the call copies them into the lane and is done. A single string that ends with a NUL
//! ([`spr_log_text`]) is measured in the same pass that copies it, behind the clock's reading, which most of that work
//! overlaps with. All others, and the calls of sites that are filled in at run time ([`spr_log`]), give 64-bit values, to
//! which the plan's operations are applied one by one.

use crate::codes;
use crate::guard::guard;
use spillring::lane::Outcome;
use spillring::layout::site::{MAX_ARGS, MAX_FIELDS, MAX_FMT, style, ty};
use spillring::record::printf::{self, Bound, PrintfArg};
use spillring::record::{ForeignVerdict, Level, Payload, SiteFacts, SiteId};
use spillring::sync::{AtomicU64, Ordering::*};
use spillring::sys::Errno;
use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;

/// Version of the site struct.
pub const SITE_ABI: u8 = 1;
/// Limit: bytes of a string that ends with a NUL; what is longer is cut, and says so.
pub const MAX_STRING: usize = 65535;
/// How it says so.
const CUT: &[u8] = b"[cut]";

/// Types of arguments beyond those that are stored ([`ty`]): how a value is taken.
pub mod take {
    /// A string that ends with a NUL, stored as STR.
    pub const CSTR: u8 = 32;
    /// An address, stored as U64.
    pub const POINTER: u8 = 33;
    /// Two values, is there one and which; stored as STR: the number, or `none`.
    pub const OPT_I64: u8 = 40;
    /// As OPT_I64.
    pub const OPT_U64: u8 = 41;
    /// As OPT_I64.
    pub const OPT_F64: u8 = 42;
    /// As OPT_I64.
    pub const OPT_BOOL: u8 = 43;
    /// Address and length; without one the address is NULL.
    pub const OPT_STR: u8 = 44;
    /// A count and its unit (up to 8 letters in a word); stored as STR.
    pub const DURATION_I64: u8 = 45;
    /// As DURATION_I64.
    pub const DURATION_F64: u8 = 46;
}

/// One argument (or half of one): see the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Value {
    /// Signed.
    pub i: i64,
    /// Unsigned.
    pub u: u64,
    /// A double.
    pub f: f64,
    /// An address.
    pub p: *const u8,
}

/// The static facts of a call site, as C lays them out.
#[repr(C)]
pub struct Site {
    /// The library's; starts as zero.
    pub id: SiteId,
    /// Line in the source file.
    pub line: u32,
    /// The library's; starts as zero: see [`quick`].
    pub quick: AtomicU64,
    /// The library's; starts as zeros.
    pub plan: [AtomicU64; PLAN],
    /// Source file.
    pub file: *const c_char,
    /// Target.
    pub target: *const c_char,
    /// Format string.
    pub fmt: *const c_char,
    /// Field names, a NUL behind each.
    pub fields: *const c_char,
    /// Types of the arguments.
    pub types: *const u8,
    /// Bytes of `file`.
    pub file_len: u16,
    /// Bytes of `target`.
    pub target_len: u16,
    /// Bytes of `fmt`.
    pub fmt_len: u16,
    /// Bytes of `fields`.
    pub fields_len: u16,
    /// Level, 1 to 5.
    pub level: u8,
    /// Grammar of `fmt`.
    pub style: u8,
    /// Number of `types`.
    pub n_args: u8,
    /// [`SITE_ABI`].
    pub abi: u8,
    /// The library's; starts as zero.
    pub verdict: ForeignVerdict,
}

// SAFETY: the facts are static and never change; the rest is atomic.
unsafe impl Sync for Site {}

/// A string of a packed call.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PackedText {
    /// Its bytes.
    pub p: *const u8,
    /// Bytes of the numbers up to them; the last 4 of those are their length, or [`UNMEASURED`]. Behind that the
    /// numbers go on with a new word.
    pub at: u64,
}

/// Instead of a string's length: the library is to find out.
pub const UNMEASURED: u32 = u32::MAX;

/// The word of a site whose packed calls are stored as they come: 0 = not known yet. All of it is said at once, and
/// never changes. Its lower half is the number of the site's entry.
pub mod quick {
    /// Its packed calls are not.
    pub const NONE: u64 = 1 << 32;
    /// From this bit on: how many strings there are.
    pub const TEXTS: u32 = 32;
    /// From this bit on, for each string: the `int` before it bounds its length.
    pub const BOUNDED: u32 = 40;
    /// With one string only: it ends with a NUL and has no such bound, and FIRST is a multiple of 4.
    pub const OPEN: u64 = 1 << 47;
    /// From this bit on, with one string only: bytes of the numbers up to it.
    pub const FIRST: u32 = 48;
    /// From this bit on: bytes of the numbers.
    pub const BYTES: u32 = 56;
    /// Of a longer string the plan is followed: for those the time is in the copy.
    pub const MAX_TEXT: usize = 1024;
}

/// Words of a plan: 16 operations, 16 precisions, a word of sums, 16 types as they are stored.
pub const PLAN: usize = 9;
const BOUNDS: usize = 2;
const SUMS: usize = 6;
const TYPES: usize = 7;

/// Operations. Up to 8: so many low bytes of the value.
mod op {
    /// Two values, 16 bytes.
    pub const WIDE: u8 = 16;
    /// 0 or 1.
    pub const BOOL: u8 = 17;
    /// A Unicode scalar value, checked.
    pub const CHAR: u8 = 18;
    /// errno, which takes no value.
    pub const ERRNO: u8 = 19;
    /// Address and length.
    pub const STR: u8 = 24;
    /// Address; ends with a NUL.
    pub const CSTR: u8 = 25;
    /// Address; ends with a NUL or at the precision.
    pub const CSTR_FIXED: u8 = 26;
    /// Address; ends with a NUL or where the value before says.
    pub const CSTR_BEFORE: u8 = 27;
    /// This and above: a value that is stored as text ([`take`](super::take), shifted).
    pub const TEXT: u8 = 64;
}

/// In a plan's last word: bytes of all but strings (16 bits), operations (8 bits), flags.
mod sum {
    pub const OPS: u32 = 16;
    pub const READY: u64 = 1 << 32;
    pub const STRINGS: u64 = 1 << 33;
    pub const ERRNO: u64 = 1 << 34;
    pub const TEXTS: u64 = 1 << 35;
}

#[derive(Clone, Copy)]
struct Plan {
    ops: [u8; MAX_ARGS],
    bounds: [u16; MAX_ARGS],
    types: [u8; MAX_ARGS],
    n: usize,
    fixed: u16,
    flags: u64,
}

impl Plan {
    fn add(&mut self, op: u8, stored: u8, bytes: u16, bound: u16, flags: u64) -> Option<()> {
        *self.ops.get_mut(self.n)? = op;
        self.types[self.n] = stored;
        self.bounds[self.n] = bound;
        self.n += 1;
        self.fixed += bytes;
        self.flags |= flags;
        Some(())
    }

    /// The quick word of a site with these types and this entry.
    fn quick(&self, types: &[u8], id: u32) -> u64 {
        let (mut bytes, mut texts, mut bounded, mut first) = (0, 0, 0, 0);
        for (i, &t) in types.iter().enumerate() {
            let natural = match t {
                ty::BOOL => op::BOOL,
                ty::CHAR => op::CHAR,
                ty::STR => op::STR,
                take::CSTR => op::CSTR,
                _ => packed_bytes(t).unwrap_or(0),
            };
            if self.ops[i] == op::CSTR_BEFORE && i > 0 && types[i - 1] == ty::I32 {
                bounded |= 1 << texts;
            } else if self.ops[i] != natural || natural == 0 {
                return quick::NONE;
            }
            texts += u64::from(natural == op::STR || natural == op::CSTR);
            bytes += u64::from(packed_bytes(t).unwrap_or(0));
            if natural == op::CSTR {
                first = bytes;
            }
        }
        if self.n != types.len() || id == 0 || bytes > 255 {
            return quick::NONE;
        }
        let mut word =
            u64::from(id) | texts << quick::TEXTS | bounded << quick::BOUNDED | bytes << quick::BYTES;
        if texts == 1 && first != 0 {
            let open = if bounded == 0 && first % 4 == 0 { quick::OPEN } else { 0 };
            word |= open | first << quick::FIRST;
        }
        word
    }

    /// An argument of type `t`. None: no such type, or too many.
    fn arg(&mut self, t: u8, bound: Bound) -> Option<()> {
        match t {
            ty::I8 | ty::U8 => self.add(1, t, 1, 0, 0),
            ty::I16 | ty::U16 => self.add(2, t, 2, 0, 0),
            ty::I32 | ty::U32 | ty::F32 => self.add(4, t, 4, 0, 0),
            ty::I64 | ty::U64 | ty::F64 => self.add(8, t, 8, 0, 0),
            ty::I128 | ty::U128 => self.add(op::WIDE, t, 16, 0, 0),
            ty::BOOL => self.add(op::BOOL, t, 1, 0, 0),
            ty::CHAR => self.add(op::CHAR, t, 4, 0, 0),
            ty::STR => self.add(op::STR, t, 4, 0, sum::STRINGS),
            take::CSTR => {
                let (op, n) = match bound {
                    Bound::None => (op::CSTR, 0),
                    // A longer one is cut, as without a precision.
                    Bound::Bytes(n) if n as usize > MAX_STRING => (op::CSTR, 0),
                    Bound::Bytes(n) => (op::CSTR_FIXED, n as u16),
                    Bound::Before => (op::CSTR_BEFORE, 0),
                };
                self.add(op, ty::STR, 4, n, sum::STRINGS)
            }
            take::POINTER => self.add(8, ty::U64, 8, 0, 0),
            take::OPT_I64..=take::DURATION_F64 => {
                self.add(op::TEXT + t, ty::STR, 4, 0, sum::STRINGS | sum::TEXTS)
            }
            _ => None,
        }
    }
}

/// Bytes that an argument takes among a packed call's numbers. None: it is none of those.
fn packed_bytes(t: u8) -> Option<u8> {
    match t {
        ty::I8 | ty::U8 | ty::BOOL => Some(1),
        ty::I16 | ty::U16 => Some(2),
        ty::I32 | ty::U32 | ty::F32 | ty::CHAR | ty::STR | take::CSTR => Some(4),
        ty::I64 | ty::U64 | ty::F64 | take::POINTER => Some(8),
        ty::I128 | ty::U128 => Some(16),
        _ => None,
    }
}
const _: () = assert!(MAX_ARGS == 16); // bits of BOUNDED
const _: () = assert!(op::WIDE == 16); // as its bytes

impl Site {
    /// Whether its pointers may be followed.
    fn plausible(&self) -> bool {
        let some = |p: *const c_char, n: u16| n == 0 || !p.is_null();
        self.abi == SITE_ABI
            && Level::from_u8(self.level).is_some()
            && usize::from(self.n_args) <= MAX_ARGS
            && (self.n_args == 0 || !self.types.is_null())
            && (self.style == style::BRACE || self.style == style::PRINTF)
            && some(self.file, self.file_len)
            && some(self.target, self.target_len)
            && some(self.fmt, self.fmt_len)
            && some(self.fields, self.fields_len)
            && usize::from(self.fmt_len) <= MAX_FMT
            && usize::from(self.fields_len) <= MAX_FIELDS
    }

    fn bytes(&self, p: *const c_char, n: u16) -> &[u8] {
        if n == 0 {
            return &[];
        }
        // SAFETY: `plausible`: not null; the header's macros give the length of the literal that it is.
        unsafe { core::slice::from_raw_parts(p.cast(), usize::from(n)) }
    }

    pub(crate) fn fmt(&self) -> &[u8] {
        self.bytes(self.fmt, self.fmt_len)
    }

    pub(crate) fn arg_types(&self) -> &[u8] {
        if self.n_args == 0 {
            return &[];
        }
        // SAFETY: `plausible`: not null, and as many.
        unsafe { core::slice::from_raw_parts(self.types, usize::from(self.n_args)) }
    }

    /// How its arguments are taken. None: its facts make no sense. Async-signal-safe.
    #[cold]
    #[inline(never)]
    fn make_plan(&self) -> Option<Plan> {
        if !self.plausible() {
            return None;
        }
        let zero = [0; MAX_ARGS];
        let mut plan = Plan { ops: zero, bounds: [0; MAX_ARGS], types: zero, n: 0, fixed: 0, flags: 0 };
        let types = self.arg_types();
        let fields = self.field_names().iter().filter(|b| **b == 0).count();
        if fields > types.len() || self.field_names().last().is_some_and(|b| *b != 0) {
            return None;
        }
        let (own, named) = types.split_at(types.len() - fields);
        if self.style == style::PRINTF && self.printf_plan(&mut plan, own).is_none() {
            // The format string does not go with the arguments (the compiler has warned). Nothing is known of
            // what is behind a char*: addresses are stored as such.
            plan = Plan { n: 0, fixed: 0, flags: 0, ..plan };
            for &t in own {
                plan.arg(if t == take::CSTR { take::POINTER } else { t }, Bound::None)?;
            }
        } else if self.style == style::BRACE {
            for &t in own {
                plan.arg(t, Bound::None)?;
            }
        }
        for &t in named {
            plan.arg(t, Bound::None)?;
        }
        Some(plan)
    }

    fn printf_plan(&self, plan: &mut Plan, own: &[u8]) -> Option<()> {
        let (mut left, mut ok) = (own.iter(), Some(()));
        printf::conversions(self.fmt(), |arg| {
            ok = ok.and_then(|()| match arg {
                PrintfArg::Errno => plan.add(op::ERRNO, ty::I32, 4, 0, sum::ERRNO),
                PrintfArg::Text(bound) => match *left.next()? {
                    t @ (take::CSTR | ty::STR) => plan.arg(t, bound),
                    _ => None,
                },
                PrintfArg::Pointer => match *left.next()? {
                    take::CSTR | take::POINTER | ty::U64 => plan.arg(take::POINTER, Bound::None),
                    _ => None,
                },
                PrintfArg::Count | PrintfArg::Integer => match *left.next()? {
                    t @ (ty::I8..=ty::I64 | ty::U8..=ty::U64 | ty::BOOL | ty::CHAR) => {
                        plan.arg(t, Bound::None)
                    }
                    _ => None,
                },
                PrintfArg::Float => match *left.next()? {
                    t @ (ty::F32 | ty::F64) => plan.arg(t, Bound::None),
                    _ => None,
                },
            });
        })
        .ok()?;
        ok.filter(|()| left.next().is_none())
    }

    pub(crate) fn file_bytes(&self) -> &[u8] {
        self.bytes(self.file, self.file_len)
    }

    pub(crate) fn target_bytes(&self) -> &[u8] {
        self.bytes(self.target, self.target_len)
    }

    pub(crate) fn field_names(&self) -> &[u8] {
        self.bytes(self.fields, self.fields_len)
    }

    fn keep(&self, plan: &Plan) {
        let word = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap_or_default());
        for i in 0..2 {
            self.plan[TYPES + i].store(word(&plan.types[8 * i..8 * i + 8]), Relaxed);
        }
        for i in 0..4 {
            let b: [u16; 4] = plan.bounds[4 * i..4 * i + 4].try_into().unwrap_or_default();
            let w = b.iter().rev().fold(0, |w, b| w << 16 | u64::from(*b));
            self.plan[BOUNDS + i].store(w, Relaxed);
        }
        // Nothing else is ever stored to a word: another thread may be taking arguments by it.
        for i in 0..2 {
            self.plan[i].store(word(&plan.ops[8 * i..8 * i + 8]), Relaxed);
        }
        let sums = u64::from(plan.fixed) | (plan.n as u64) << sum::OPS | plan.flags | sum::READY;
        // Release, pairs with the load in `sums`. Whoever else is here stores the same.
        self.plan[SUMS].store(sums, Release);
    }

    /// Its plan's sums; in its first call the plan is made. None: its facts make no sense.
    #[inline]
    fn sums(&self) -> Option<u64> {
        let sums = self.plan[SUMS].load(Acquire);
        if sums & sum::READY != 0 { Some(sums) } else { self.first_sums() }
    }

    #[cold]
    #[inline(never)]
    fn first_sums(&self) -> Option<u64> {
        let _errno = spillring::sys::SavedErrno::save();
        self.keep(&self.make_plan()?);
        Some(self.plan[SUMS].load(Acquire))
    }

    /// After a packed call that was not quick: the next one may be.
    #[cold]
    #[inline(never)]
    fn settle(&self) {
        let _errno = spillring::sys::SavedErrno::save();
        if let Some(plan) = self.make_plan() {
            // The entry's number, and that the entry is published before it: release, pairs with the load in
            // `packed_quick`. Whoever else is here stores the same.
            self.quick.store(plan.quick(self.arg_types(), self.id.get()), Release);
        }
    }

    /// What is stored of it, given its plan's types.
    pub(crate) fn facts<'a>(&'a self, types: &'a [u8]) -> SiteFacts<'a> {
        SiteFacts {
            level: Level::from_u8(self.level).unwrap_or(Level::Error),
            line: self.line,
            file: self.file_bytes(),
            target: self.target_bytes(),
            fmt: self.fmt(),
            types,
            fields: self.field_names(),
            style: self.style,
        }
    }

    /// Whether a record of it can be made.
    pub(crate) fn makes_sense(&self) -> bool {
        self.make_plan().is_some()
    }

    /// Whether its one argument is stored as a string.
    pub(crate) fn is_one_string(&self) -> bool {
        self.make_plan().is_some_and(|p| p.n == 1 && p.types[0] == ty::STR)
    }
}

/// The arguments of one call, measured.
#[derive(Clone, Copy)]
struct Captured<'a> {
    /// One a byte.
    ops: *const u8,
    n: usize,
    values: *const Value,
    lens: &'a [MaybeUninit<u32>; MAX_ARGS],
    len: usize,
    errno: i32,
}

impl Captured<'_> {
    /// The value of a number, in its low `bytes`; how many values it took.
    #[inline(always)]
    unsafe fn scalar(&self, op: u8, values: *const Value) -> (u128, usize, usize) {
        // SAFETY: by the caller, there is such a value.
        unsafe {
            match op {
                op::WIDE => (u128::from((*values).u) | u128::from((*values.add(1)).u) << 64, 16, 2),
                op::BOOL => (u128::from((*values).u & 0xff != 0), 1, 1),
                op::CHAR => {
                    let c = char::from_u32((*values).u as u32).unwrap_or(char::REPLACEMENT_CHARACTER);
                    (u128::from(u32::from(c)), 4, 1)
                }
                op::ERRNO => (u128::from(self.errno as u32), 4, 0),
                _ => (u128::from((*values).u), usize::from(op), 1),
            }
        }
    }

    /// A string: where it is, and how many values it took.
    #[inline(always)]
    unsafe fn text(&self, op: u8, values: *const Value) -> (*const u8, usize) {
        // SAFETY: by the caller, there is such a value.
        let p = unsafe { (*values).p };
        // printf shows a NULL as this, where the precision leaves room for all of it.
        let shown = if p.is_null() && op != op::STR { NULL_TEXT.as_ptr() } else { p };
        (shown, if op == op::STR { 2 } else { 1 })
    }

    /// The end of a string of `len` bytes that was cut.
    #[inline(always)]
    fn is_cut(op: u8, len: u32) -> bool {
        len as usize == MAX_STRING + CUT.len() && op != op::STR
    }
}

const NULL_TEXT: &[u8] = b"(null)";

// SAFETY: `put` goes through the operations with the lengths whose sum `len` is.
unsafe impl Payload for Captured<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) {
        // SAFETY: the caller gives room for `len` bytes, rounded up to a multiple of 8; the operations write
        // `len` together, and what a number writes beyond itself the next one overwrites. Values and strings are
        // the caller's: as many, and as long, as its site says.
        unsafe {
            let end = dst.add((self.len + 7) & !7);
            let (mut to, mut values) = (dst, self.values);
            for i in 0..self.n {
                let op = *self.ops.add(i);
                if op <= 8 {
                    let v = (*values).u;
                    values = values.add(1);
                    let n = usize::from(op);
                    if end.offset_from(to) >= 8 {
                        to.cast::<u64>().write_unaligned(v);
                    } else {
                        core::ptr::copy_nonoverlapping((&raw const v).cast::<u8>(), to, n);
                    }
                    to = to.add(n);
                } else if op >= op::STR {
                    let (from, took) = self.text(op, values);
                    values = values.add(took);
                    let len = self.lens.get_unchecked(i).assume_init();
                    to.cast::<u32>().write_unaligned(len);
                    to = to.add(4);
                    let n = len as usize - if Self::is_cut(op, len) { CUT.len() } else { 0 };
                    core::ptr::copy_nonoverlapping(from, to, n);
                    core::ptr::copy_nonoverlapping(CUT.as_ptr(), to.add(n), len as usize - n);
                    to = to.add(len as usize);
                } else {
                    let (v, n, took) = self.scalar(op, values);
                    values = values.add(took);
                    core::ptr::copy_nonoverlapping((&raw const v).cast::<u8>(), to, n);
                    to = to.add(n);
                }
            }
        }
    }
}

/// Bytes of a string that are stored.
///
/// # Safety
/// `values` are at the string; the one before is there if the operation asks for it.
#[inline(always)]
unsafe fn measure(op: u8, bound: u16, values: *const Value) -> Result<u32, i32> {
    // SAFETY: by the caller; a string that has no NUL within its bound is as long as that.
    unsafe {
        let p = (*values).p;
        if op == op::STR {
            let len = (*values.add(1)).u;
            if p.is_null() && len != 0 {
                return Err(codes::NULL);
            }
            return u32::try_from(len).map_err(|_| spillring::Code::TooLarge as i32);
        }
        let precision = if op == op::CSTR {
            None
        } else if op == op::CSTR_FIXED {
            Some(usize::from(bound))
        } else {
            usize::try_from((*values.sub(1)).i as i32).ok().filter(|n| *n <= MAX_STRING)
        };
        if p.is_null() {
            let whole = precision.is_none_or(|n| n >= NULL_TEXT.len());
            return Ok(if whole { NULL_TEXT.len() as u32 } else { 0 });
        }
        let len = libc::strnlen(p.cast(), precision.unwrap_or(MAX_STRING + 1));
        Ok(if len > MAX_STRING { (MAX_STRING + CUT.len()) as u32 } else { len as u32 })
    }
}

/// A log call that is not quick, after the checks. Async-signal-safe.
///
/// # Safety
/// `values` are as many, and of such types, as the site says.
#[inline(never)]
unsafe fn send(
    site: &Site,
    ops: *const u8,
    bounds: *const u16,
    values: *const Value,
    sums: u64,
    ticks: u64,
) -> i32 {
    let n = (sums >> sum::OPS) as usize & 0xff;
    let mut len = sums as usize & 0xffff;
    let mut lens = [const { MaybeUninit::uninit() }; MAX_ARGS];
    let errno = if sums & sum::ERRNO != 0 { Errno::last().0 } else { 0 };
    if sums & sum::STRINGS != 0 {
        let mut at = values;
        for (i, room) in lens.iter_mut().enumerate().take(n) {
            // SAFETY: `ops` and `bounds` are 16 each, and `values` as many as they take.
            unsafe {
                let op = *ops.add(i);
                if op >= op::STR {
                    match measure(op, *bounds.add(i), at) {
                        Ok(l) => {
                            room.write(l);
                            len += l as usize;
                        }
                        Err(code) => return code,
                    }
                }
                at = at.add(match op {
                    op::ERRNO => 0,
                    op::WIDE | op::STR => 2,
                    _ => 1,
                });
            }
        }
    }
    let payload = Captured { ops, n, values, lens: &lens, len, errno };
    let mut types = [const { MaybeUninit::uninit() }; 2];
    let room = &mut types;
    let facts = move || {
        let room = room; // moved out: it is asked for once
        site_facts(site, n, room)
    };
    translate(spillring::writer::log_payload(&site.id, facts, payload, ticks))
}

/// Only the first calls of a site ask for them. `room`: where the types it is stored with are put.
#[cold]
#[inline(never)]
fn site_facts<'a>(site: &'a Site, n: usize, room: &'a mut [MaybeUninit<u64>; 2]) -> SiteFacts<'a> {
    for (to, from) in room.iter_mut().zip(&site.plan[TYPES..]) {
        to.write(from.load(Relaxed));
    }
    // SAFETY: both words are written, and any bytes of them are bytes; `n` is at most 16.
    site.facts(unsafe { core::slice::from_raw_parts(room.as_ptr().cast(), n.min(MAX_ARGS)) })
}

#[inline(always)]
fn translate(o: Outcome) -> i32 {
    match o {
        Outcome::Lane | Outcome::Shared | Outcome::Spilled => codes::OK,
        Outcome::Lost => codes::LOST,
        Outcome::NoRing => spillring::Code::NotAttached as i32,
    }
}

unsafe fn log(site: *const Site, ticks: u64, values: *const Value) -> i32 {
    // SAFETY: NULL, or the caller's site.
    let Some(site) = (unsafe { site.as_ref() }) else { return codes::NULL };
    if !site.verdict.passes(site.level, || site.target_bytes()) {
        return codes::OK;
    }
    let Some(sums) = site.sums() else { return codes::ARGUMENT };
    let ops = site.plan.as_ptr();
    if values.is_null() {
        // Right where errno is all that is stored.
        let n = (sums >> sum::OPS) as usize & 0xff;
        // SAFETY: the operations of a plan that is ready.
        if (0..n).any(|i| unsafe { *ops.cast::<u8>().add(i) } != op::ERRNO) {
            return codes::NULL;
        }
    } else if sums & sum::TEXTS != 0 {
        return with_texts(site, sums, ticks, values);
    }
    // SAFETY: the first two words of a plan are its operations, the next four its bounds; they do not change
    // once it is ready.
    unsafe { send(site, ops.cast(), ops.add(BOUNDS).cast(), values, sums, ticks) }
}

/// The arguments of a packed call of a site that has a quick word: numbers, and texts among them.
#[derive(Clone, Copy)]
struct Packed {
    numbers: *const u8,
    texts: *const PackedText,
    /// Bytes of the numbers.
    bytes: usize,
    /// How many texts.
    n: usize,
    /// Bytes of all.
    len: usize,
}

/// The same without texts, and with one: those stay in registers.
#[derive(Clone, Copy)]
struct Numbers {
    numbers: *const u8,
    bytes: usize,
}
#[derive(Clone, Copy)]
struct OneText {
    numbers: *const u8,
    bytes: usize,
    /// Of them, those before the text.
    first: usize,
    p: *const u8,
    len: usize,
}

/// Bytes of a text. 0xffff...: it was not measured, because the site had no quick word yet.
#[inline(always)]
unsafe fn len_of(numbers: *const u8, text: &PackedText) -> usize {
    // SAFETY: by the caller, one of the call's texts, whose length stands right before it.
    unsafe { numbers.add(text.at as usize - 4).cast::<u32>().read_unaligned() as usize }
}

// SAFETY: `put` writes the numbers, and each text at its place among them.
unsafe impl Payload for Packed {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) {
        // SAFETY: the caller gives room for `len` bytes, rounded up to a multiple of 8, from a multiple of 8 on.
        unsafe {
            let (mut text, mut at, mut rest, mut to) = (self.texts, 0, self.bytes, dst);
            for left in (0..self.n).rev() {
                let n = (*text).at as usize - at;
                put_words(self.numbers.add(at), to, n);
                to = to.add(n);
                rest -= n;
                at += (n + 7) & !7;
                let n = len_of(self.numbers, &*text);
                copy((*text).p, to, n);
                to = to.add(n);
                text = text.add(1);
                if rest == 0 && left == 0 {
                    return;
                }
            }
            put_words(self.numbers.add(at), to, rest);
        }
    }
}

// SAFETY: as for `Packed`.
unsafe impl Payload for Numbers {
    #[inline(always)]
    fn len(&self) -> usize {
        self.bytes
    }
    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) {
        // SAFETY: room for `bytes`, rounded up to a multiple of 8, from a multiple of 8 on.
        unsafe { put_whole_words(self.numbers, dst, self.bytes) };
    }
}

// SAFETY: as for `Packed`.
unsafe impl Payload for OneText {
    #[inline(always)]
    fn len(&self) -> usize {
        self.bytes + self.len
    }
    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) {
        // SAFETY: as for `Packed`.
        unsafe {
            put_whole_words(self.numbers, dst, self.first);
            let to = dst.add(self.first);
            copy(self.p, to, self.len);
            if self.bytes != self.first {
                let from = self.numbers.add((self.first + 7) & !7);
                put_words(from, to.add(self.len), self.bytes - self.first);
            }
        }
    }
}

/// A text whose length does not stand among the numbers.
#[derive(Clone, Copy)]
struct LateText(OneText);

// SAFETY: as for `Packed`.
unsafe impl Payload for LateText {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len()
    }
    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) {
        // SAFETY: as for `Packed`; the length stands before the text.
        unsafe {
            self.0.put(dst);
            dst.add(self.0.first - 4).cast::<u32>().write_unaligned(self.0.len as u32);
        }
    }
}

/// Numbers, and among them a string that is measured while it is copied. It ends with a NUL.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct OpenText {
    numbers: *const u8,
    bytes: usize,
    /// Of them, those before the text; a multiple of 4.
    first: usize,
    p: *const u8,
}

#[cfg(target_arch = "x86_64")]
const PIECE: usize = 16;

// SAFETY: the string is copied in pieces, of which the first begins at most 15 bytes before its place, and all begin
// less than MAX_TEXT behind it. It ends in the last one. What is wiped ends 16 bytes behind it, and the numbers behind
// it within `most` as well.
#[cfg(target_arch = "x86_64")]
unsafe impl spillring::record::OpenPayload for OpenText {
    #[inline(always)]
    fn most(&self) -> usize {
        self.bytes + quick::MAX_TEXT + 2 * PIECE
    }

    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) -> Option<usize> {
        use core::arch::x86_64::*;
        // SAFETY: room: as above. Each load is of a byte of the string: of its first one, or the one behind those that
        // are no NUL.
        unsafe {
            let (off, to) = (self.p as usize % PIECE, dst.add(self.first));
            let nuls = |at: usize| {
                let piece = load(self.p, at);
                _mm_storeu_si128(to.wrapping_add(at).cast(), piece);
                _mm_movemask_epi8(_mm_cmpeq_epi8(piece, _mm_setzero_si128())) as u32
            };
            let mut at = 0usize.wrapping_sub(off);
            let mut nul = nuls(at) >> off;
            let mut len = 0;
            if nul == 0 {
                loop {
                    at = at.wrapping_add(PIECE);
                    if at >= quick::MAX_TEXT {
                        return None;
                    }
                    nul = nuls(at);
                    if nul != 0 {
                        break;
                    }
                }
                len = at;
            }
            len += nul.trailing_zeros() as usize;
            // Nothing leaves the caller but the string: not what lies behind it, nor what lies before it, in whose
            // place the numbers come.
            _mm_storeu_si128(to.add(len).cast(), _mm_setzero_si128());
            put_whole_words(self.numbers, dst, self.first - 4);
            to.sub(4).cast::<u32>().write_unaligned(len as u32);
            if self.bytes != self.first {
                let from = self.numbers.add((self.first + 7) & !7);
                put_words(from, to.add(len), self.bytes - self.first);
            }
            Some(self.bytes + len)
        }
    }
}

/// The 16 bytes at `p + at`, of which some may be of no object, or change: so for the compiler it is no load.
///
/// # Safety
/// `p + at` is a multiple of 16; one of the bytes can be read.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load(p: *const u8, at: usize) -> core::arch::x86_64::__m128i {
    let piece;
    // SAFETY: aligned, so all of it is of one page, and by the caller that can be read.
    unsafe {
        core::arch::asm!("movdqa {}, [{} + {}]", out(xmm_reg) piece, in(reg) p, in(reg) at,
            options(readonly, nostack, preserves_flags));
    }
    piece
}

/// A packed call of a site that has no text.
///
/// # Safety
/// As [`spr_log_packed`]; `word` is the site's quick word.
#[inline(never)]
unsafe extern "C" fn packed_numbers(
    site: *const Site,
    ticks: u64,
    numbers: *const u8,
    texts: *const PackedText,
    word: u64,
) -> c_int {
    let bytes = (word >> quick::BYTES) as usize;
    if spillring::writer::log_usual(word as u32, Numbers { numbers, bytes }) {
        return codes::OK;
    }
    // SAFETY: by the caller.
    unsafe { packed(site, ticks, numbers, texts) }
}

/// A packed call of a site that has one text.
///
/// # Safety
/// As [`packed_numbers`].
#[inline(never)]
unsafe extern "C" fn packed_text(
    site: *const Site,
    ticks: u64,
    numbers: *const u8,
    texts: *const PackedText,
    word: u64,
) -> c_int {
    // SAFETY: NULL, or the caller's text.
    if let Some(text) = unsafe { texts.as_ref() } {
        // SAFETY: its length.
        let len = unsafe { len_of(numbers, text) };
        let (bytes, first) = ((word >> quick::BYTES) as usize, text.at as usize);
        if len <= quick::MAX_TEXT
            && !text.p.is_null()
            && spillring::writer::log_usual(word as u32, OneText { numbers, bytes, first, p: text.p, len })
        {
            return codes::OK;
        }
    }
    // SAFETY: by the caller.
    unsafe { packed(site, ticks, numbers, texts) }
}

/// A packed call of a site that has several.
///
/// # Safety
/// As [`packed_numbers`].
#[inline(never)]
unsafe extern "C" fn packed_texts(
    site: *const Site,
    ticks: u64,
    numbers: *const u8,
    texts: *const PackedText,
    word: u64,
) -> c_int {
    let (bytes, n) = ((word >> quick::BYTES) as usize, (word >> quick::TEXTS) as usize & 0xff);
    let mut len = bytes;
    let mut good = !texts.is_null();
    let mut i = 0;
    while good && i < n {
        // SAFETY: by the caller, as many as its site's types say.
        let (l, p) = unsafe { (len_of(numbers, &*texts.add(i)), (*texts.add(i)).p) };
        good = l <= quick::MAX_TEXT && !p.is_null();
        len += l;
        i += 1;
    }
    if good && spillring::writer::log_usual(word as u32, Packed { numbers, texts, bytes, n, len }) {
        return codes::OK;
    }
    // SAFETY: by the caller.
    unsafe { packed(site, ticks, numbers, texts) }
}

/// A packed call that is not quick: by values.
///
/// # Safety
/// As [`spr_log_packed`].
#[cold]
#[inline(never)]
unsafe extern "C" fn packed(
    site: *const Site,
    ticks: u64,
    numbers: *const u8,
    texts: *const PackedText,
) -> c_int {
    guard(|| {
        // SAFETY: NULL, or the caller's site.
        let Some(it) = (unsafe { site.as_ref() }) else { return codes::NULL };
        if it.sums().is_none() {
            return codes::ARGUMENT;
        }
        let mut values = [Value { u: 0 }; 2 * MAX_ARGS];
        let (mut from, mut to, mut text) = (0, 0, 0);
        for &t in it.arg_types() {
            let Some(n) = packed_bytes(t) else { return codes::ARGUMENT };
            if numbers.is_null() {
                return codes::NULL;
            }
            let mut word = [0u8; 16];
            // SAFETY: by the caller, its numbers are as many bytes as these types take.
            unsafe {
                core::ptr::copy_nonoverlapping(numbers.add(from), word.as_mut_ptr(), usize::from(n));
            }
            from += usize::from(n);
            let word = u128::from_le_bytes(word);
            if t == ty::STR || t == take::CSTR {
                from = (from + 7) & !7;
                if texts.is_null() {
                    return codes::NULL;
                }
                // SAFETY: and its texts as many as these types say.
                values[to].p = unsafe { (*texts.add(text)).p };
                text += 1;
                if t == ty::STR {
                    to += 1;
                    // Not measured is too long.
                    values[to].u = if word as u32 == UNMEASURED { u64::MAX } else { word as u64 };
                }
            } else {
                values[to].u = word as u64;
                if n == 16 {
                    to += 1;
                    values[to].u = (word >> 64) as u64;
                }
            }
            to += 1;
        }
        // SAFETY: values as the site's types say.
        let code = unsafe { log(site, ticks, values.as_ptr()) };
        if it.quick.load(Relaxed) == 0 && it.id.get() != 0 {
            it.settle();
        }
        code
    })
}

/// In a loop that copies: else the compiler finds out what it is, and calls memcpy.
#[inline(always)]
fn not_memcpy() {
    // SAFETY: no instruction.
    unsafe { core::arch::asm!("", options(nostack, preserves_flags)) };
}

/// Copies words until `n` bytes are copied. By words everywhere, as they were stored: else the loads wait until the
/// stores are done.
///
/// # Safety
/// Room for `n` bytes, rounded up to a multiple of 8; at both.
#[inline(always)]
unsafe fn put_whole_words(from: *const u8, to: *mut u8, n: usize) {
    // SAFETY: by the caller.
    let word = |at: usize| unsafe {
        to.add(at).cast::<u64>().write_unaligned(from.add(at).cast::<u64>().read_unaligned());
    };
    if n > 0 {
        word(0);
    }
    if n > 8 {
        word(8);
        let mut at = 16;
        while at < n {
            word(at);
            at += 8;
            not_memcpy();
        }
    }
}

/// Copies `n` bytes by words, which can be read whole.
///
/// # Safety
/// `n` bytes at `to`; at `from` up to the next multiple of 8.
#[inline(always)]
unsafe fn put_words(from: *const u8, to: *mut u8, n: usize) {
    // SAFETY: by the caller.
    unsafe {
        let mut at = 0;
        while at + 8 <= n {
            to.add(at).cast::<u64>().write_unaligned(from.add(at).cast::<u64>().read_unaligned());
            at += 8;
            not_memcpy();
        }
        if n & 7 != 0 {
            let mut word = from.add(at).cast::<u64>().read_unaligned();
            if n & 4 != 0 {
                to.add(at).cast::<u32>().write_unaligned(word as u32);
                at += 4;
                word >>= 32;
            }
            if n & 2 != 0 {
                to.add(at).cast::<u16>().write_unaligned(word as u16);
                at += 2;
                word >>= 16;
            }
            if n & 1 != 0 {
                to.add(at).write(word as u8);
            }
        }
    }
}

/// As memcpy, without a call.
///
/// # Safety
/// `n` bytes at both, which do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, n: usize) {
    // SAFETY: all of it within the `n` bytes; what two pieces have in common is written twice.
    unsafe {
        let piece = |at: usize, len: usize| core::ptr::copy_nonoverlapping(from.add(at), to.add(at), len);
        if n >= 16 {
            if n > 32 {
                let mut at = 0;
                loop {
                    piece(at, 16);
                    piece(at + 16, 16);
                    at += 32;
                    not_memcpy();
                    if at + 32 >= n {
                        break;
                    }
                }
                piece(n - 32, 16);
            } else {
                piece(0, 16);
            }
            piece(n - 16, 16);
        } else if n >= 8 {
            piece(0, 8);
            piece(n - 8, 8);
        } else if n >= 4 {
            piece(0, 4);
            piece(n - 4, 4);
        } else if n != 0 {
            piece(0, 1);
            piece(n / 2, 1);
            piece(n - 1, 1);
        }
    }
}

/// A call with arguments that are stored as text.
#[cold]
#[inline(never)]
fn with_texts(site: &Site, sums: u64, ticks: u64, values: *const Value) -> i32 {
    let words: [u64; PLAN] = core::array::from_fn(|i| site.plan[i].load(Relaxed));
    let mut ops = words;
    // Optional values and times become text here, in memory of this call.
    let mut texts = [const { Text::new() }; MAX_ARGS];
    let mut given = [Value { u: 0 }; 2 * MAX_ARGS];
    let (n, mut from, mut to) = ((sums >> sum::OPS) as usize & 0xff, values, 0);
    for (i, text) in texts.iter_mut().enumerate().take(n) {
        let op = (words[i / 8] >> (8 * (i % 8))) as u8;
        // SAFETY: the caller's values are as many as the operations take.
        unsafe {
            if op >= op::TEXT {
                let (p, len) = text.make(op - op::TEXT, *from, *from.add(1));
                given[to] = Value { p };
                given[to + 1] = Value { u: len };
                (from, to) = (from.add(2), to + 2);
                ops[i / 8] = ops[i / 8] & !(0xff << (8 * (i % 8))) | u64::from(op::STR) << (8 * (i % 8));
                continue;
            }
            let took = match op {
                op::ERRNO => 0,
                op::WIDE | op::STR => 2,
                _ => 1,
            };
            for _ in 0..took {
                given[to] = *from;
                (from, to) = (from.add(1), to + 1);
            }
        }
    }
    let p = ops.as_ptr();
    // SAFETY: the values are those of these operations; the texts live until the call is over.
    unsafe { send(site, p.cast(), p.add(BOUNDS).cast(), given.as_ptr(), sums, ticks) }
}

/// A number as text, without allocating. A piece of at most 32 bytes.
struct Text {
    bytes: [u8; 32],
    len: usize,
}

impl core::fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let n = s.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

impl Text {
    const fn new() -> Text {
        Text { bytes: [0; 32], len: 0 }
    }

    fn make(&mut self, t: u8, a: Value, b: Value) -> (*const u8, u64) {
        use core::fmt::Write;
        const NONE: &[u8] = b"none";
        // SAFETY: all are 64 bits of something.
        let (first, second) = unsafe { (a.u, b.u) };
        let unit = second.to_le_bytes();
        let unit = core::str::from_utf8(unit.split(|b| *b == 0).next().unwrap_or_default()).unwrap_or("?");
        if t == take::OPT_STR {
            // SAFETY: as above.
            let p = unsafe { a.p };
            return if p.is_null() { (NONE.as_ptr(), NONE.len() as u64) } else { (p, second) };
        }
        let _ = match t {
            take::DURATION_I64 => write!(self, "{}{unit}", first as i64),
            take::DURATION_F64 => float(self, f64::from_bits(first)).and_then(|()| self.write_str(unit)),
            _ if first == 0 => self.write_str("none"),
            take::OPT_I64 => write!(self, "{}", second as i64),
            take::OPT_U64 => write!(self, "{second}"),
            take::OPT_BOOL => write!(self, "{}", second != 0),
            _ => float(self, f64::from_bits(second)),
        };
        (self.bytes.as_ptr(), self.len as u64)
    }
}

/// As `{}` does, but in few letters however large.
fn float(to: &mut Text, v: f64) -> core::fmt::Result {
    use core::fmt::Write;
    let a = v.abs();
    if a == 0.0 || (1e-5..1e16).contains(&a) || !v.is_finite() {
        write!(to, "{v}")
    } else {
        write!(to, "{v:e}")
    }
}

/// See the header.
///
/// # Safety
/// `site` is NULL or a site; `values` are as its types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_log(site: *const Site, values: *const Value) -> c_int {
    // SAFETY: by the caller.
    guard(|| unsafe { log(site, 0, values) })
}

/// See the header.
///
/// # Safety
/// As [`spr_log`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_log_at(site: *const Site, ticks: u64, values: *const Value) -> c_int {
    // SAFETY: by the caller.
    guard(|| unsafe { log(site, ticks, values) })
}

/// See the header.
///
/// # Safety
/// `site` is NULL or a site; `numbers` and `texts` are as its types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_log_packed(
    site: *const Site,
    ticks: u64,
    numbers: *const u64,
    texts: *const PackedText,
) -> c_int {
    let numbers = numbers.cast::<u8>();
    // No guard: nothing on the usual way panics, and with nothing to come back to there is nothing to save.
    // SAFETY: NULL, or the caller's site.
    if !cfg!(feature = "panic-test")
        && let Some(it) = unsafe { site.as_ref() }
    {
        // Acquire, pairs with `settle`.
        let word = it.quick.load(Acquire);
        if word as u32 != 0 && ticks == 0 && !numbers.is_null() && it.verdict.is_known_to_pass() {
            // As many functions as there are shapes, so that each call saves only the registers that its own needs.
            // SAFETY: by the caller.
            return match (word >> quick::TEXTS) as u8 {
                0 => unsafe { packed_numbers(site, ticks, numbers, texts, word) },
                1 => unsafe { packed_text(site, ticks, numbers, texts, word) },
                _ => unsafe { packed_texts(site, ticks, numbers, texts, word) },
            };
        }
    }
    // SAFETY: by the caller.
    unsafe { packed(site, ticks, numbers, texts) }
}

/// See the header.
///
/// # Safety
/// `site` is NULL or a site; `numbers` and `text` are as its types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_log_text(site: *const Site, numbers: *const u64, text: *const c_char) -> c_int {
    let (numbers, p) = (numbers.cast::<u8>(), text.cast::<u8>());
    // As in `spr_log_packed`.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: NULL, or the caller's site.
    if !cfg!(feature = "panic-test")
        && let Some(it) = unsafe { site.as_ref() }
    {
        // Acquire, pairs with `settle`.
        let word = it.quick.load(Acquire);
        let (first, bytes) = (usize::from((word >> quick::FIRST) as u8), (word >> quick::BYTES) as usize);
        if word & quick::OPEN != 0
            && !numbers.is_null()
            && !p.is_null()
            && it.verdict.is_known_to_pass()
            && spillring::writer::log_usual_open(word as u32, OpenText { numbers, bytes, first, p })
        {
            return codes::OK;
        }
    }
    // SAFETY: by the caller.
    unsafe { late_text(site, numbers, p) }
}

/// Its other calls: the string has a bound, or is long, or the lane may have no room for a long one, or nothing is known
/// of the site yet. Here it is measured first, if it is known to be one.
///
/// # Safety
/// As [`spr_log_text`].
#[inline(never)]
unsafe extern "C" fn late_text(site: *const Site, numbers: *const u8, p: *const u8) -> c_int {
    // SAFETY: NULL, or the caller's site.
    if !cfg!(feature = "panic-test")
        && let Some(it) = unsafe { site.as_ref() }
    {
        // Acquire, pairs with `settle`.
        let word = it.quick.load(Acquire);
        let (first, bytes) = (usize::from((word >> quick::FIRST) as u8), (word >> quick::BYTES) as usize);
        if (word >> quick::TEXTS) as u8 == 1
            && first != 0
            && !numbers.is_null()
            && !p.is_null()
            && it.verdict.is_known_to_pass()
        {
            let mut most = quick::MAX_TEXT + 1;
            if word >> quick::BOUNDED & 1 != 0 {
                // SAFETY: an int stands before its length. Below 0 it is no bound, nor is it here, as a large number.
                most = most.min(unsafe { numbers.add(first - 8).cast::<u32>().read_unaligned() } as usize);
            }
            // SAFETY: by the caller, a string, that ends with a NUL or at its bound.
            let len = unsafe { libc::strnlen(p.cast(), most) };
            let late = LateText(OneText { numbers, bytes, first, p, len });
            if len <= quick::MAX_TEXT && spillring::writer::log_usual(word as u32, late) {
                return codes::OK;
            }
        }
    }
    // Where it stands is not asked for.
    // SAFETY: by the caller.
    unsafe { packed(site, 0, numbers, &PackedText { p, at: 0 }) }
}

/// See the header.
///
/// # Safety
/// `ticks` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_now(ticks: *mut u64) -> c_int {
    guard(|| {
        if ticks.is_null() {
            return codes::NULL;
        }
        // SAFETY: by the caller.
        unsafe { ticks.write(spillring::writer::now()) };
        codes::OK
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packed call stores the bytes that values give, and none beyond them.
    #[test]
    fn packed_calls_and_values_store_the_same() {
        const KINDS: [u8; 8] =
            [ty::U8, ty::I16, ty::U32, ty::F64, ty::U128, ty::STR, take::CSTR, take::POINTER];
        let mut text = [b'x'; 201];
        text[200] = 0;
        let mut checked = 0;
        for n in 0..=4u32 {
            for which in 0..KINDS.len().pow(n) {
                let types: Vec<u8> =
                    (0..n).map(|i| KINDS[which / KINDS.len().pow(i) % KINDS.len()]).collect();
                let mut plan = Plan {
                    ops: [0; MAX_ARGS],
                    bounds: [0; MAX_ARGS],
                    types: [0; MAX_ARGS],
                    n: 0,
                    fixed: 0,
                    flags: 0,
                };
                types.iter().for_each(|t| plan.arg(*t, Bound::None).expect("room"));
                let word = plan.quick(&types, 7);
                assert!(word as u32 == 7 && word >> quick::BYTES == u64::from(plan.fixed));
                let strings = types.iter().filter(|t| **t == ty::STR || **t == take::CSTR).count();
                assert!(word & quick::OPEN == 0 || strings == 1 && types.contains(&take::CSTR));
                // Of all lengths a string has code of its own for.
                for size in [0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 32, 33, 64, 65, 96, 97, 161] {
                    let is_text = |t: &u8| *t == ty::STR || *t == take::CSTR;
                    if size != 0 && !types.iter().any(is_text) {
                        break;
                    }
                    let (mut values, mut all, mut len) =
                        (Vec::new(), [MaybeUninit::uninit(); MAX_ARGS], usize::from(plan.fixed));
                    let (mut numbers, mut texts) = (Vec::new(), Vec::new());
                    for (i, t) in types.iter().enumerate() {
                        let bytes = usize::from(packed_bytes(*t).expect("a packed type"));
                        if is_text(t) {
                            let p = text[200 - size..].as_ptr();
                            values.push(Value { p });
                            values.extend((*t == ty::STR).then_some(Value { u: size as u64 }));
                            all[i].write(size as u32);
                            len += size;
                            numbers.extend_from_slice(&(size as u32).to_le_bytes());
                            texts.push(PackedText { p, at: numbers.len() as u64 });
                            numbers.resize(numbers.len().next_multiple_of(8), 0xdd);
                        } else {
                            let words = [0x1122_3344_5566_7788u64.wrapping_mul(i as u64 + 3); 2];
                            values.extend(words[..bytes.div_ceil(8)].iter().map(|&u| Value { u }));
                            let b = words.map(u64::to_le_bytes).concat();
                            numbers.extend_from_slice(&b[..bytes]);
                        }
                    }
                    let bytes = usize::from(plan.fixed);
                    numbers.resize(numbers.len().next_multiple_of(8), 0xdd);
                    let packed = Packed {
                        numbers: numbers.as_ptr(),
                        texts: texts.as_ptr(),
                        bytes,
                        n: texts.len(),
                        len,
                    };
                    let captured = Captured {
                        ops: plan.ops.as_ptr(),
                        n: plan.n,
                        values: values.as_ptr(),
                        lens: &all,
                        len,
                        errno: 0,
                    };
                    let stored = |put: &dyn Fn(*mut u8)| {
                        let mut to = vec![0xee; len + 32];
                        put(to.as_mut_ptr());
                        let room = len.next_multiple_of(8);
                        assert!(to[room..].iter().all(|b| *b == 0xee), "{types:?} {size}");
                        to.truncate(len);
                        to
                    };
                    // SAFETY: as much room as it needs.
                    let a = stored(&|to| unsafe { packed.put(to) });
                    let mut numbers_of_late = numbers.clone();
                    let numbers = numbers.as_ptr();
                    // The same in another way.
                    let c = match &texts[..] {
                        [] => {
                            let some = Numbers { numbers, bytes };
                            // SAFETY: the same.
                            stored(&|to| unsafe { some.put(to) })
                        }
                        [t] => {
                            let first = t.at as usize;
                            let one = OneText { numbers, bytes, first, p: t.p, len: size };
                            // SAFETY: the same.
                            let c = stored(&|to| unsafe { one.put(to) });
                            if types.contains(&take::CSTR) {
                                // Whatever stands where its length would.
                                numbers_of_late[first - 4..first].fill(0x99);
                                let numbers = numbers_of_late.as_ptr();
                                let late = LateText(OneText { numbers, ..one });
                                // SAFETY: the same.
                                let late = stored(&|to| unsafe { late.put(to) });
                                assert!(late == c, "{types:?} {size}");
                                let open = copied(numbers, bytes, first, t.p);
                                assert!(
                                    word & quick::OPEN == 0 || open == Some(c.clone()),
                                    "{types:?} {size}"
                                );
                            }
                            c
                        }
                        _ => a.clone(),
                    };
                    assert!(a == c, "{types:?} {size}");
                    // SAFETY: the same.
                    let b = stored(&|to| unsafe { captured.put(to) });
                    assert!(a == b, "{types:?} {size}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 20_000);
    }

    /// What an open text stores. None: too long. It has written nothing but its room.
    #[cfg(target_arch = "x86_64")]
    fn copied(numbers: *const u8, bytes: usize, first: usize, p: *const u8) -> Option<Vec<u8>> {
        use spillring::record::{OpenPayload, payload::BEFORE};
        if !first.is_multiple_of(4) {
            return None;
        }
        let open = OpenText { numbers, bytes, first, p };
        let most = open.most();
        let mut to = vec![[0xee_u8; 8]; (BEFORE + most).div_ceil(8) + 8];
        let to = to.as_flattened_mut();
        // SAFETY: as much room as it asks for, and the bytes before it.
        let len = unsafe { open.put(to.as_mut_ptr().add(2 * BEFORE)) };
        let written = BEFORE..2 * BEFORE + most;
        assert!(to.iter().enumerate().all(|(i, b)| *b == 0xee || written.contains(&i)));
        len.map(|len| {
            assert!(len.next_multiple_of(8) <= most);
            // Of what lies around the string, nothing.
            let behind = &to[2 * BEFORE + len..];
            assert!(behind.iter().all(|b| *b == 0xee || *b == 0), "{behind:x?}");
            to[2 * BEFORE..][..len].to_vec()
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    fn copied(numbers: *const u8, bytes: usize, first: usize, p: *const u8) -> Option<Vec<u8>> {
        // SAFETY: a string.
        let len = unsafe { libc::strnlen(p.cast(), quick::MAX_TEXT + 1) };
        let mut to = vec![0; bytes + len + 8];
        // SAFETY: more room than it needs.
        unsafe { LateText(OneText { numbers, bytes, first, p, len }).put(to.as_mut_ptr()) };
        to.truncate(bytes + len);
        (len <= quick::MAX_TEXT).then_some(to)
    }

    /// At every distance from 16 bytes, of every length that matters; what is too long says so.
    #[test]
    fn a_string_is_measured_while_it_is_copied() {
        let numbers = [0x0102_0304_0506_0708_u64, 0x0807_0605_0403_0201, 0x1111_2222_3333_4444];
        let mut given = 0;
        for at in 0..32 {
            for len in (0..100).chain(1000..1100) {
                // What lies around it is no part of any record.
                let mut text = vec![0x5a_u8; 16 + at + len + 64];
                let from = text.as_ptr().align_offset(16) + at;
                text[from..from + len].fill(b'x');
                text[from + len] = 0;
                for (first, bytes) in [(16, 16), (4, 4), (12, 12), (12, 20)] {
                    let mut wanted = numbers.map(u64::to_le_bytes).concat();
                    let behind = wanted.split_off((first + 7) & !7);
                    wanted.truncate(first - 4);
                    wanted.extend((len as u32).to_le_bytes());
                    wanted.extend(&text[from..from + len]);
                    wanted.extend(&behind[..bytes - first]);
                    match copied(numbers.as_ptr().cast(), bytes, first, text[from..].as_ptr()) {
                        Some(found) => assert!(found == wanted, "{at} {len} {first} {bytes}"),
                        None => {
                            assert!(len >= quick::MAX_TEXT - 16, "{at} {len}");
                            given += 1;
                        }
                    }
                }
            }
        }
        assert!(given > 0);
    }

    /// Another thread may change the string meanwhile: what is stored is as long as it says, and no NUL is in it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_string_that_changes_meanwhile_is_stored_as_long_as_it_says() {
        const FULL: u64 = u64::from_ne_bytes([b'x'; 8]);
        // The last word is a NUL.
        let text: [AtomicU64; 8] = core::array::from_fn(|i| AtomicU64::new(if i < 7 { FULL } else { 0 }));
        struct Ends<'a>(&'a AtomicU64);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(1, Relaxed);
            }
        }
        let done = AtomicU64::new(0);
        std::thread::scope(|s| {
            // Also where a check below fails.
            let _ends = Ends(&done);
            s.spawn(|| {
                let mut n = 1_usize;
                while done.load(Relaxed) == 0 {
                    n = n.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    let nul = if n >> 60 & 1 == 0 { 0 } else { 0xff << (8 * (n >> 40 & 7)) };
                    text[(n >> 50) % 7].store(FULL & !nul, Relaxed);
                }
            });
            let mut lengths = std::collections::HashSet::new();
            for _ in 0..20_000 {
                let numbers = [7_u64, 0];
                let found = copied(numbers.as_ptr().cast(), 12, 12, text.as_ptr().cast()).expect("room");
                let len = u32::from_le_bytes(found[8..12].try_into().expect("4 bytes"));
                assert_eq!((len as usize, found[12..].iter().all(|b| *b == b'x')), (found.len() - 12, true));
                lengths.insert(len);
            }
            println!("{} lengths", lengths.len());
        });
    }

    /// What the plan takes in another way than it comes is not quick.
    #[test]
    fn only_what_is_stored_as_it_comes_is_quick() {
        let word = |fmt: &std::ffi::CStr, types: &[u8]| {
            // SAFETY: a site of zeros is one without facts.
            let mut site: Site = unsafe { std::mem::zeroed() };
            (site.abi, site.level, site.style) = (SITE_ABI, Level::Info as u8, style::PRINTF);
            (site.fmt, site.fmt_len) = (fmt.as_ptr(), fmt.count_bytes() as u16);
            (site.types, site.n_args) = (types.as_ptr(), types.len() as u8);
            site.make_plan().expect("a plan").quick(types, 9)
        };
        use take::{CSTR, POINTER};
        use ty::{F64, I32, I64};
        let quick = |bytes: u64, texts: u64, bounded: u64| 9 | texts << 32 | bounded << 40 | bytes << 56;
        let open = |first: u64| quick::OPEN | first << 48;
        assert_eq!(word(c"plain", &[]), quick(0, 0, 0));
        assert_eq!(word(c"%d %f %s", &[I32, F64, CSTR]), quick(16, 1, 0) | open(16));
        assert_eq!(word(c"%s", &[I32]), quick(4, 0, 0), "wrong, and stored as it is");
        assert_eq!(word(c"%s %d", &[CSTR, I32]), quick(8, 1, 0) | open(4));
        assert_eq!(word(c"%.*s", &[I32, CSTR]), quick(8, 1, 1) | 8 << 48);
        assert_eq!(word(c"%c %s", &[ty::I8, CSTR]), quick(5, 1, 0) | 5 << 48);
        assert_eq!(word(c"%s %.*s %p", &[CSTR, I32, CSTR, POINTER]), quick(20, 2, 0b10));
        for (fmt, types) in [
            (c"%.3s", &[CSTR][..]),
            (c"%p", &[CSTR]),
            (c"%d %m", &[I32]),
            (c"%.*s", &[I64, CSTR]),
            (c"%d", &[CSTR]),
        ] {
            assert_eq!(word(fmt, types), quick::NONE, "{fmt:?}");
        }
    }
}
