//! The acknowledgement log: what the victim was about to log, and what had returned, in shared memory that
//! has nothing to do with the ring.

use spillring::sync::{AtomicU64, Ordering::SeqCst};

const SLOTS: usize = 4096 - 1;

#[repr(C)]
pub struct Events {
    len: AtomicU64,
    slots: [AtomicU64; SLOTS],
}

/// What a call logs, so that its whole text follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    pub id: u32,
    pub kind: Kind,
    /// Bytes of text.
    pub len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Numbers only.
    Small = 1,
    /// One string.
    Text,
    /// Many strings.
    Wide,
    /// A signal handler's.
    Nested,
    /// A site of its own.
    Fresh,
    /// By another thread.
    Other,
}

const KINDS: [Kind; 6] = [Kind::Small, Kind::Text, Kind::Wide, Kind::Nested, Kind::Fresh, Kind::Other];

const BEGIN: u64 = 1;
const END: u64 = 2;

/// Letters, so that a text shifted or cut is another text.
static LETTERS: [u8; 16384] = {
    let mut b = [0; 16384];
    let (mut i, mut x) = (0, 12345u32);
    while i < b.len() {
        x = x.wrapping_mul(1_103_515_245).wrapping_add(12345);
        b[i] = b'a' + ((x >> 16) % 26) as u8;
        i += 1;
    }
    b
};

/// The text of `len` bytes that call `id` carries.
pub fn letters(id: u32, len: u32) -> &'static str {
    let from = id as usize * 7 % 1024;
    core::str::from_utf8(&LETTERS[from..from + len as usize]).unwrap_or("")
}

impl Call {
    fn word(self, event: u64) -> u64 {
        event | (self.kind as u64) << 2 | u64::from(self.len) << 8 | u64::from(self.id) << 32
    }

    /// What a reader has to find.
    pub fn text(self) -> String {
        let t = letters(self.id, self.len);
        match self.kind {
            Kind::Small => format!("small {} of {}", self.id, u64::from(self.id) * 3),
            Kind::Text => format!("text {} {t}", self.id),
            Kind::Wide => {
                let n = u64::from(self.id);
                format!("wide {} {t} {t} {t} {t} {} {} {} {t}", self.id, n * 3, n * 5, n * 7)
            }
            Kind::Nested => format!("nested {} {:?}", self.id, self.id.is_multiple_of(2)),
            Kind::Fresh => format!("fresh {}", self.id),
            Kind::Other => format!("other {}", self.id),
        }
    }

    /// The thread that made it.
    pub fn thread(self) -> u32 {
        u32::from(self.kind == Kind::Other)
    }
}

/// What the log says about one call.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub call: Call,
    pub begun: usize,
    pub ended: Option<usize>,
}

impl Events {
    /// A new log, shared with whoever is forked from here on.
    pub fn new() -> &'static Events {
        // SAFETY: a new zeroed mapping, never unmapped, large enough, shared.
        unsafe {
            let p = libc::mmap(
                core::ptr::null_mut(),
                size_of::<Events>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(p, libc::MAP_FAILED);
            &*p.cast::<Events>()
        }
    }

    pub fn clear(&self) {
        for s in &self.slots[..self.len() as usize] {
            s.store(0, SeqCst);
        }
        self.len.store(0, SeqCst);
    }

    /// A handler may come between the two: then this event stands earlier than what the handler wrote, and
    /// did happen earlier as far as the log call is concerned.
    fn put(&self, word: u64) {
        let at = self.len.fetch_add(1, SeqCst) as usize;
        self.slots[at].store(word, SeqCst);
    }

    pub fn begin(&self, c: Call) {
        self.put(c.word(BEGIN));
    }

    pub fn end(&self, c: Call) {
        self.put(c.word(END));
    }

    /// How many there are; changes with each.
    pub fn len(&self) -> u64 {
        self.len.load(SeqCst)
    }

    /// Changes with each step of the log: a call that was interrupted within it fills its place late.
    pub fn key(&self) -> u64 {
        let n = self.len();
        let last = &self.slots[n.saturating_sub(8) as usize..n as usize];
        n << 8 | last.iter().filter(|s| s.load(SeqCst) != 0).count() as u64
    }

    /// All calls of the log in the order in which they began.
    pub fn calls(&self) -> Vec<Seen> {
        let mut out: Vec<Seen> = Vec::new();
        for at in 0..self.len() as usize {
            let w = self.slots[at].load(SeqCst);
            let Some(kind) = KINDS.into_iter().find(|k| *k as u64 == w >> 2 & 63) else { continue };
            let call = Call { id: (w >> 32) as u32, kind, len: (w >> 8) as u32 & 0xff_ffff };
            if w & 3 == BEGIN {
                out.push(Seen { call, begun: at, ended: None });
            } else if let Some(s) = out.iter_mut().find(|s| s.call == call) {
                s.ended = Some(at);
            }
        }
        out
    }
}
