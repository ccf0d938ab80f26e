//! A call site of C or C++, and the log call.
//!
//! A call gives the address of its static [`Site`] and its arguments as 64-bit values. How they are to be taken
//! (which are strings, how long those may be) is worked out from types and format string in the site's first
//! call and kept in the site, as a plan: one operation for each argument that is stored.

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

/// Words of a plan: 16 operations (of a quick one 8, and how the quick call takes them), 16 precisions, a word of sums,
/// 16 types as they are stored, the strings of a quick one.
pub const PLAN: usize = 10;
const QUICK_OPS: usize = 1;
const TYPES: usize = 7;
const QUICK: usize = 9;

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
    /// In a quick call, this and its bytes (1, 2, 4): a number behind which there is no room for 8.
    pub const TIGHT: u8 = 8;
    /// Address and length. (Even, and those below odd: see `Quick::put`.)
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
    /// At most 8 operations, all of them numbers of up to 8 bytes, STR, CSTR and CSTR_BEFORE: the usual case, whose
    /// code stays in registers. The strings stand in a word of their own, a byte each: where in the values (5 bits),
    /// and the operation less STR.
    pub const QUICK: u64 = 1 << 36;
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
            self.plan[2 + i].store(w, Relaxed);
        }
        let (mut strings, mut n, mut at, mut quick) = (0, 0, 0u64, plan.n <= 8);
        let (mut quick_ops, mut offset) = (0, 0);
        for (i, &op) in plan.ops[..plan.n].iter().enumerate() {
            let (mut how, mut bytes) = (op, 4);
            match op {
                1..=8 => {
                    at += 1;
                    bytes = u16::from(op);
                    // All 8 bytes of the value are written where they fit: a payload is a multiple of 8 long. Behind
                    // a string nothing is known but what follows.
                    let fits = plan.fixed.saturating_sub(offset) >= 8
                        || n == 0 && offset + 8 <= plan.fixed.next_multiple_of(8);
                    if !fits {
                        how = op::TIGHT + op;
                    }
                }
                op::STR | op::CSTR | op::CSTR_BEFORE => {
                    // The highest bit says that there is one: a place in the values may be 0.
                    strings |= (0x80 | u64::from(op - op::STR) << 5 | at & 31) << (8 * (n & 7));
                    n += 1;
                    at += if op == op::STR { 2 } else { 1 };
                }
                _ => quick = false,
            }
            offset += bytes;
            quick_ops |= u64::from(how) << (8 * (i & 7));
        }
        self.plan[QUICK].store(strings, Relaxed);
        // Nothing else is ever stored to a word: another thread may be taking arguments by it.
        self.plan[0].store(word(&plan.ops[..8]), Relaxed);
        self.plan[QUICK_OPS].store(if quick { quick_ops } else { word(&plan.ops[8..]) }, Relaxed);
        let quick = if quick { sum::QUICK } else { 0 };
        let sums = u64::from(plan.fixed) | (plan.n as u64) << sum::OPS | plan.flags | quick | sum::READY;
        // Release, pairs with the load in `log`. Whoever else is here stores the same.
        self.plan[6].store(sums, Release);
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

// SAFETY: `put` and `pieces` go through the same operations with the same lengths, whose sum `len` is. What is
// longer than 32 bytes is the caller's string.
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

    fn pieces(&self, f: &mut dyn FnMut(&[u8])) {
        // SAFETY: as in `put`.
        unsafe {
            let mut values = self.values;
            for i in 0..self.n {
                let op = *self.ops.add(i);
                if op >= op::STR {
                    let (from, took) = self.text(op, values);
                    values = values.add(took);
                    let len = self.lens[i].assume_init();
                    f(&len.to_le_bytes());
                    let cut = Self::is_cut(op, len);
                    if len > 0 {
                        f(core::slice::from_raw_parts(from, len as usize - if cut { CUT.len() } else { 0 }));
                    }
                    if cut {
                        f(CUT);
                    }
                } else {
                    let (v, n, took) = self.scalar(op, values);
                    values = values.add(took);
                    f(&v.to_le_bytes()[..n]);
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

#[inline(always)]
unsafe fn log(site: *const Site, ticks: u64, values: *const Value) -> i32 {
    // SAFETY: NULL, or the caller's site.
    let Some(site) = (unsafe { site.as_ref() }) else { return codes::NULL };
    if !site.verdict.passes(site.level, || site.target_bytes()) {
        return codes::OK;
    }
    let sums = site.plan[6].load(Acquire);
    let ops = site.plan[QUICK_OPS].load(Relaxed);
    if sums & sum::QUICK == 0 {
        // SAFETY: by the caller.
        return unsafe { general(site, sums, ticks, values) };
    }
    if values.is_null() {
        return quick_without_values(site, ops, sums, ticks);
    }
    let mut lens = [const { MaybeUninit::uninit() }; 8];
    let mut len = sums as usize & 0xffff;
    let mut strings = site.plan[QUICK].load(Relaxed);
    if strings != 0 {
        let mut to = lens.as_mut_ptr();
        loop {
            // SAFETY: the plan says where in the values a string is, and that one is before it where it needs that;
            // there are at most 8.
            unsafe {
                let n = usual_string(strings, values);
                if n > MAX_STRING {
                    return general(site, sums, ticks, values);
                }
                (*to).write(n as u32);
                to = to.add(1);
                len += n;
            }
            strings >>= 8;
            if strings == 0 {
                break;
            }
        }
    }
    let payload = Quick { ops, values, lens: &lens, len };
    match spillring::writer::log_registered(&site.id, payload, ticks) {
        Some(outcome) => translate(outcome),
        // SAFETY: by the caller.
        None => unsafe { general(site, sums, ticks, values) },
    }
}

/// In a byte of the word of a quick plan's strings, less [`op::STR`]: it ends with a NUL; its bound is before it.
const ENDS: u64 = 1 << 5;
const BOUNDED: u64 = 2 << 5;
const _: () = assert!(op::CSTR - op::STR == 1 && op::CSTR_BEFORE - op::STR == 3);

/// Bytes of the first of these strings; more than [`MAX_STRING`]: it is long, or NULL.
///
/// # Safety
/// `strings` are of a quick plan, and `values` as many as it takes.
#[inline(always)]
unsafe fn usual_string(strings: u64, values: *const Value) -> usize {
    const OTHER: usize = MAX_STRING + 1;
    // SAFETY: by the caller.
    unsafe {
        let at = values.add(strings as usize & 31);
        let p = (*at).p;
        if p.is_null() {
            return OTHER;
        }
        let mut most = OTHER;
        if strings & (ENDS | BOUNDED) != ENDS {
            if strings & ENDS == 0 {
                return (*at.add(1)).u as usize;
            }
            // Below 0 it bounds nothing.
            most = most.min((*at.sub(1)).i as i32 as u32 as usize);
        }
        libc::strnlen(p.cast(), most)
    }
}

/// NULL is right where nothing is stored.
#[cold]
#[inline(never)]
fn quick_without_values(site: &Site, ops: u64, sums: u64, ticks: u64) -> i32 {
    if ops == 0 { without_values(site, sums, ticks) } else { codes::NULL }
}

/// The arguments of a call whose plan is a quick one: see [`sum::QUICK`].
#[derive(Clone, Copy)]
struct Quick<'a> {
    /// One a byte, the first one lowest.
    ops: u64,
    values: *const Value,
    /// Of the strings.
    lens: &'a [MaybeUninit<u32>; 8],
    len: usize,
}

// SAFETY: as for `Captured`.
unsafe impl Payload for Quick<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    unsafe fn put(&self, dst: *mut u8) {
        // SAFETY: as for `Captured`. What a number writes beyond itself the next one overwrites, or is padding: see
        // `Site::keep`.
        unsafe {
            let (mut to, mut values, mut ops) = (dst, self.values, self.ops);
            let mut lens = self.lens.as_ptr();
            while ops != 0 {
                let op = ops as u8;
                ops >>= 8;
                if op <= 8 {
                    to.cast::<u64>().write_unaligned((*values).u);
                    to = to.add(usize::from(op));
                    values = values.add(1);
                } else if op >= op::STR {
                    let len = (*lens).assume_init();
                    to.cast::<u32>().write_unaligned(len);
                    to = to.add(4);
                    copy((*values).p, to, len as usize);
                    if ops == 0 {
                        return;
                    }
                    lens = lens.add(1);
                    to = to.add(len as usize);
                    // STR is the only even one.
                    values = values.add(2 - usize::from(op & 1));
                } else {
                    let (v, n) = ((*values).u, usize::from(op - op::TIGHT));
                    core::ptr::copy_nonoverlapping((&raw const v).cast::<u8>(), to, n);
                    to = to.add(n);
                    values = values.add(1);
                }
            }
        }
    }

    fn pieces(&self, f: &mut dyn FnMut(&[u8])) {
        // As a call that is not quick has them.
        let ops = self
            .ops
            .to_le_bytes()
            .map(|op| if op > op::TIGHT && op < op::WIDE { op - op::TIGHT } else { op });
        let n = ops.iter().position(|op| *op == 0).unwrap_or(8);
        let (mut lens, mut next) = ([const { MaybeUninit::uninit() }; MAX_ARGS], 0);
        for i in 0..n {
            if ops[i] >= op::STR {
                lens[i] = self.lens[next];
                next += 1;
            }
        }
        let all =
            Captured { ops: ops.as_ptr(), n, values: self.values, lens: &lens, len: self.len, errno: 0 };
        all.pieces(f);
    }
}

/// As memcpy; short ones without a call.
///
/// # Safety
/// `n` bytes at both, which do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, n: usize) {
    // SAFETY: all of it within the `n` bytes; what two pieces have in common is written twice.
    unsafe {
        let piece = |at: usize, len: usize| core::ptr::copy_nonoverlapping(from.add(at), to.add(at), len);
        match n {
            16..=32 => {
                piece(0, 16);
                piece(n - 16, 16);
            }
            33..=64 => {
                piece(0, 16);
                piece(16, 16);
                piece(n - 32, 16);
                piece(n - 16, 16);
            }
            8..=15 => {
                piece(0, 8);
                piece(n - 8, 8);
            }
            4..=7 => {
                piece(0, 4);
                piece(n - 4, 4);
            }
            _ => piece(0, n),
        }
    }
}

/// A call that is not quick.
#[cold]
#[inline(never)]
unsafe fn general(site: &Site, sums: u64, ticks: u64, values: *const Value) -> i32 {
    if sums & (sum::READY | sum::TEXTS) != sum::READY {
        return unusual(site, ticks, values);
    }
    if values.is_null() && sums & (0xff << sum::OPS) != 0 {
        return without_values(site, sums, ticks);
    }
    let ops = site.plan.as_ptr();
    // SAFETY: the first two words of a plan are its operations, the next four its bounds; they do not change
    // once it is ready.
    unsafe { send(site, ops.cast(), ops.add(2).cast(), values, sums, ticks) }
}

/// NULL is right where errno is all that is stored.
#[cold]
#[inline(never)]
fn without_values(site: &Site, sums: u64, ticks: u64) -> i32 {
    let n = (sums >> sum::OPS) as usize & 0xff;
    let ops = site.plan.as_ptr().cast::<u8>();
    // SAFETY: the operations of a plan that is ready.
    if (0..n).any(|i| unsafe { *ops.add(i) } != op::ERRNO) {
        return codes::NULL;
    }
    // SAFETY: no value is looked at.
    unsafe { send(site, ops, ops.add(16).cast(), core::ptr::null(), sums, ticks) }
}

/// A site's first call, and those with arguments that are stored as text.
#[cold]
#[inline(never)]
fn unusual(site: &Site, ticks: u64, values: *const Value) -> i32 {
    let keep = spillring::sys::SavedErrno::save();
    if site.plan[6].load(Acquire) & sum::READY == 0 {
        match site.make_plan() {
            Some(plan) => site.keep(&plan),
            None => return codes::ARGUMENT,
        }
    }
    drop(keep);
    let sums = site.plan[6].load(Acquire);
    if values.is_null() && sums & (0xff << sum::OPS) != 0 {
        return without_values(site, sums, ticks);
    }
    let words: [u64; PLAN] = core::array::from_fn(|i| site.plan[i].load(Relaxed));
    let ops = words.as_ptr();
    if sums & sum::TEXTS == 0 {
        // SAFETY: as in `log`.
        return unsafe { send(site, ops.cast(), ops.add(2).cast(), values, sums, ticks) };
    }
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
    unsafe { send(site, p.cast(), p.add(2).cast(), given.as_ptr(), sums, ticks) }
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

    /// The quick call stores the bytes that the other one does, and none beyond them.
    #[test]
    fn quick_and_general_calls_store_the_same() {
        const KINDS: [u8; 7] = [ty::U8, ty::I16, ty::U32, ty::F64, ty::STR, take::CSTR, take::POINTER];
        let text = b"0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\0";
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
                // SAFETY: a site of zeros is one without facts; none of its pointers is followed.
                let site: Site = unsafe { std::mem::zeroed() };
                site.keep(&plan);
                let ops = site.plan[QUICK_OPS].load(Relaxed);
                assert!(site.plan[6].load(Relaxed) & sum::QUICK != 0 && (ops >> (8 * n)) == 0);
                // Of all lengths a string has code of its own for.
                for size in [0, 1, 3, 4, 7, 8, 15, 16, 17, 32, 33, 64, 65, 72] {
                    if size != 0 && !types.iter().any(|t| *t == ty::STR || *t == take::CSTR) {
                        break;
                    }
                    let (mut values, mut lens, mut all, mut len, mut k) =
                        (Vec::new(), [MaybeUninit::uninit(); 8], [MaybeUninit::uninit(); MAX_ARGS], 0, 0);
                    for (i, t) in types.iter().enumerate() {
                        if *t == ty::STR || *t == take::CSTR {
                            let p = text[text.len() - 1 - size..].as_ptr();
                            values.push(Value { p });
                            values.extend((*t == ty::STR).then_some(Value { u: size as u64 }));
                            lens[k].write(size as u32);
                            all[i].write(size as u32);
                            (k, len) = (k + 1, len + size);
                        } else {
                            values.push(Value { u: 0x1122_3344_5566_7788u64.wrapping_mul(i as u64 + 3) });
                        }
                    }
                    len += usize::from(plan.fixed);
                    let quick = Quick { ops, values: values.as_ptr(), lens: &lens, len };
                    let captured = Captured {
                        ops: plan.ops.as_ptr(),
                        n: plan.n,
                        values: quick.values,
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
                    let a = stored(&|to| unsafe { quick.put(to) });
                    // SAFETY: the same.
                    let b = stored(&|to| unsafe { captured.put(to) });
                    assert!(a == b && a == gathered(&quick) && a == gathered(&captured), "{types:?} {size}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 20_000);
    }

    fn gathered(p: &impl Payload) -> Vec<u8> {
        let mut all = Vec::new();
        p.pieces(&mut |p| all.extend_from_slice(p));
        all
    }
}
