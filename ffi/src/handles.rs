//! Handles that can be wrong and do no harm: what the caller holds is a number in a pointer's clothes, looked up
//! in a table. A closed one, a stranger, and one that another thread is using each get a code. No locks, so
//! nothing is left locked in a forked child.

use crate::codes;
use spillring::sync::{AtomicU64, Ordering::*};
use std::cell::UnsafeCell;

/// Limit: open handles of one kind.
pub const MAX: usize = 256;

/// Low bits of a slot's word: free, open, in use. The rest counts up with each close.
const FREE: u64 = 0;
const OPEN: u64 = 1;
const USED: u64 = 2;
const STATE: u64 = 3;

struct Slot<T> {
    word: AtomicU64,
    value: UnsafeCell<Option<Box<T>>>,
}

/// A table of them.
pub struct Handles<T> {
    slots: [Slot<T>; MAX],
    /// Differs between kinds, so that a handle of one is none of another.
    kind: u64,
}

// SAFETY: a value is reached only by whoever has moved its slot's word to USED.
unsafe impl<T: Send> Sync for Handles<T> {}

impl<T> Handles<T> {
    /// All free.
    pub const fn new(kind: u64) -> Self {
        Handles {
            slots: [const { Slot { word: AtomicU64::new(FREE), value: UnsafeCell::new(None) } }; MAX],
            kind,
        }
    }

    /// The handle of slot `i` in its generation: never NULL, never a multiple of 8.
    fn handle(&self, i: usize, word: u64) -> u64 {
        (word >> 2) << 16 | (i as u64) << 8 | self.kind << 4 | 1
    }

    fn slot(&self, handle: u64) -> Option<(&Slot<T>, u64)> {
        let i = (handle >> 8) as usize & 0xff;
        (handle & 0xff == self.kind << 4 | 1).then(|| (&self.slots[i], (handle >> 16) << 2))
    }

    /// A handle for `value`; None: the table is full.
    pub fn open(&self, value: Box<T>) -> Option<u64> {
        for (i, slot) in self.slots.iter().enumerate() {
            let word = slot.word.load(Acquire);
            // 46 bits of generation in a handle: they do not come round.
            if word & STATE == FREE
                && slot.word.compare_exchange(word, word & !STATE | USED, AcqRel, Relaxed).is_ok()
            {
                // SAFETY: USED is ours.
                unsafe { *slot.value.get() = Some(value) };
                slot.word.store(word & !STATE | OPEN, Release);
                return Some(self.handle(i, word));
            }
        }
        None
    }

    fn take(&self, handle: u64) -> Result<(&Slot<T>, u64), i32> {
        let (slot, generation) = self.slot(handle).ok_or(codes::CLOSED)?;
        match slot.word.compare_exchange(generation | OPEN, generation | USED, AcqRel, Acquire) {
            Ok(_) => Ok((slot, generation)),
            Err(now) if now == generation | USED => Err(codes::BUSY),
            Err(_) => Err(codes::CLOSED),
        }
    }

    /// Runs `f` on the value.
    pub fn with(&self, handle: u64, f: impl FnOnce(&mut T) -> i32) -> i32 {
        let (slot, generation) = match self.take(handle) {
            Ok(s) => s,
            Err(code) => return code,
        };
        /// A panic on the way gives the handle back too.
        struct Back<'a>(&'a AtomicU64, u64);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.store(self.1 | OPEN, Release);
            }
        }
        let _back = Back(&slot.word, generation);
        // SAFETY: USED is ours.
        match unsafe { &mut *slot.value.get() } {
            Some(value) => f(value),
            None => codes::CLOSED,
        }
    }

    /// Takes the value out; the handle is closed from then on.
    pub fn close(&self, handle: u64) -> Result<Box<T>, i32> {
        let (slot, generation) = self.take(handle)?;
        // SAFETY: USED is ours.
        let value = unsafe { (*slot.value.get()).take() };
        slot.word.store((generation + (1 << 2)) | FREE, Release);
        value.ok_or(codes::CLOSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_handle_is_never_another_ones() {
        static TABLE: Handles<u32> = Handles::new(3);
        let a = TABLE.open(Box::new(7)).unwrap();
        assert_eq!(TABLE.with(a, |v| *v as i32), 7);
        assert_eq!(TABLE.with(a, |_| TABLE.with(a, |_| 0)), codes::BUSY);
        assert_eq!(TABLE.close(a), Ok(Box::new(7)));
        let b = TABLE.open(Box::new(8)).unwrap();
        assert_ne!(a, b);
        for bad in [a, 0, 1, u64::MAX, b ^ 0x10, b + (1 << 16)] {
            assert_eq!(TABLE.with(bad, |_| 0), codes::CLOSED, "{bad:x}");
            assert_eq!(TABLE.close(bad), Err(codes::CLOSED));
        }
        let all: Vec<_> = std::iter::from_fn(|| TABLE.open(Box::new(0))).collect();
        assert_eq!(all.len(), MAX - 1);
        all.into_iter().chain([b]).for_each(|h| assert!(TABLE.close(h).is_ok()));
    }
}
