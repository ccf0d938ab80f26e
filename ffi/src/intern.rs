//! Sites described at run time: what a program in another language has. Each is kept once, for ever.
//!
//! No lock and no malloc: a list a bucket, to whose head a new site is put by compare-exchange, in memory that is
//! handed out by one addition. So it may be called from anywhere, and nothing is left locked in a forked child.

use crate::codes;
use crate::guard::guard;
use crate::site::{PLAN, Site};
use spillring::record::{ForeignVerdict, SiteId};
use spillring::sync::{AtomicPtr, AtomicU64, Ordering::*};
use std::ffi::{c_char, c_int};
use std::ptr::null_mut;

/// Limit: sites described at run time.
pub const MAX_SITES: u64 = 65_536;
const BUCKETS: usize = 4096;
const CHUNK: usize = 64 << 10;
const CHUNK_HEADER: usize = 16;

struct Node {
    next: *mut Node,
    hash: u64,
    site: Site,
}

/// Memory that is handed out from its beginning on.
struct Chunk {
    used: AtomicU64,
    len: u64,
}

const _: () = assert!(size_of::<Chunk>() <= CHUNK_HEADER && align_of::<Node>() <= 16);

static TABLE: [AtomicPtr<Node>; BUCKETS] = [const { AtomicPtr::new(null_mut()) }; BUCKETS];
static CURRENT: AtomicPtr<Chunk> = AtomicPtr::new(null_mut());
static SITES: AtomicU64 = AtomicU64::new(0);

/// `n` bytes that stay, at a multiple of 16.
fn room(n: usize) -> Option<*mut u8> {
    let n = (n + 15) & !15;
    // Bounded: each turn another call has made a chunk, or this one has.
    for _ in 0..1000 {
        let chunk = CURRENT.load(Acquire);
        if !chunk.is_null() {
            // SAFETY: chunks are never freed.
            let c = unsafe { &*chunk };
            let at = c.used.fetch_add(n as u64, Relaxed);
            if at + n as u64 <= c.len {
                // SAFETY: inside the chunk, and this call's alone.
                return Some(unsafe { chunk.cast::<u8>().add(at as usize) });
            }
        }
        let len = CHUNK.max(n + CHUNK_HEADER);
        let fresh = spillring::sys::mem::zeros(len).ok()?.cast::<Chunk>();
        let used = AtomicU64::new((CHUNK_HEADER + n) as u64);
        // SAFETY: new memory of that size, at a page.
        unsafe { fresh.write(Chunk { used, len: len as u64 }) };
        if CURRENT.compare_exchange(chunk, fresh, AcqRel, Relaxed).is_ok() {
            // SAFETY: inside it.
            return Some(unsafe { fresh.cast::<u8>().add(CHUNK_HEADER) });
        }
        // SAFETY: nobody saw it.
        unsafe { libc::munmap(fresh.cast(), len) };
    }
    None
}

/// What makes a site: everything but what the library keeps in it.
fn parts(s: &Site) -> [&[u8]; 5] {
    [s.fmt(), s.arg_types(), s.field_names(), s.file_bytes(), s.target_bytes()]
}

fn same(a: &Site, b: &Site) -> bool {
    (a.line, a.level, a.style) == (b.line, b.level, b.style) && parts(a) == parts(b)
}

fn hash(s: &Site) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |b: u8| h = (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    s.line.to_le_bytes().into_iter().chain([s.level, s.style]).for_each(&mut add);
    for part in parts(s) {
        part.iter().copied().chain([0xff]).for_each(&mut add);
    }
    h ^ h >> 29
}

fn find(mut node: *mut Node, until: *mut Node, hash: u64, site: &Site) -> Option<&'static Site> {
    while node != until {
        // SAFETY: nodes are complete when they are in a list, and never freed.
        let n = unsafe { &*node };
        if n.hash == hash && same(&n.site, site) {
            return Some(&n.site);
        }
        node = n.next;
    }
    None
}

fn intern(site: &Site) -> Result<&'static Site, i32> {
    let hash = hash(site);
    let bucket = &TABLE[hash as usize % BUCKETS];
    let mut head = bucket.load(Acquire);
    if let Some(found) = find(head, null_mut(), hash, site) {
        return Ok(found);
    }
    if SITES.fetch_add(1, Relaxed) >= MAX_SITES {
        SITES.fetch_sub(1, Relaxed);
        return Err(codes::LIMIT);
    }
    let all = parts(site);
    let bytes: usize = all.iter().map(|p| p.len()).sum();
    let Some(memory) = room(size_of::<Node>() + bytes) else {
        SITES.fetch_sub(1, Relaxed);
        return Err(spillring::Code::NoSpace as i32);
    };
    let node = memory.cast::<Node>();
    // SAFETY: room for a node and the strings behind it, this call's alone.
    let ends = unsafe {
        let mut to = memory.add(size_of::<Node>());
        all.map(|p| {
            core::ptr::copy_nonoverlapping(p.as_ptr(), to, p.len());
            let at = to;
            to = to.add(p.len());
            at.cast_const()
        })
    };
    let [fmt, types, fields, file, target] = ends;
    let text = |p: *const u8| p.cast::<c_char>();
    let copy = Site {
        id: SiteId::new(),
        verdict: ForeignVerdict::new(),
        quick: AtomicU64::new(0),
        plan: [const { AtomicU64::new(0) }; PLAN],
        fmt: text(fmt),
        types,
        fields: text(fields),
        file: text(file),
        target: text(target),
        ..*site
    };
    // SAFETY: as above.
    unsafe { node.write(Node { next: head, hash, site: copy }) };
    loop {
        match bucket.compare_exchange(head, node, AcqRel, Acquire) {
            // SAFETY: complete, and never freed.
            Ok(_) => return Ok(unsafe { &(*node).site }),
            Err(now) => {
                // Somebody else's may be this very one; then ours is never used.
                if let Some(found) = find(now, head, hash, site) {
                    return Ok(found);
                }
                head = now;
                // SAFETY: nobody has seen the node yet.
                unsafe { (*node).next = head };
            }
        }
    }
}

/// See the header.
///
/// # Safety
/// `facts` is NULL or a site; `out` is NULL or can be stored to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_site_intern(facts: *const Site, out: *mut *const Site) -> c_int {
    guard(|| {
        // SAFETY: by the caller.
        let (Some(facts), false) = (unsafe { facts.as_ref() }, out.is_null()) else { return codes::NULL };
        let _errno = spillring::sys::SavedErrno::save();
        if !facts.makes_sense() {
            return codes::ARGUMENT;
        }
        match intern(facts) {
            Ok(site) => {
                // SAFETY: by the caller.
                unsafe { out.write(site) };
                codes::OK
            }
            Err(code) => code,
        }
    })
}
