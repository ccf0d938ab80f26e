//! Hash maps that need no thread-local storage.
//!
//! std's [`RandomState`](std::hash::RandomState) keeps its keys in 24 bytes of it for each thread: in a shared library
//! those are taken from the little that a `dlopen` finds. Here the process has one key, from the system. What a producer
//! sends is put into maps: who could guess the key would send what all collides.

use super::process;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::sync::OnceLock;

/// A map; `HashMap::default()` makes one, and allocates nothing.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Keyed>;
/// A set, likewise.
pub type HashSet<T> = std::collections::HashSet<T, Keyed>;

/// SipHash that has been fed 128 secret bits before anything else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keyed;

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;
    #[inline]
    fn build_hasher(&self) -> DefaultHasher {
        static FED: OnceLock<DefaultHasher> = OnceLock::new();
        FED.get_or_init(|| {
            let mut h = DefaultHasher::new();
            h.write_u64(process::nonce());
            h.write_u64(process::nonce());
            h
        })
        .clone()
    }
}
