//! The hash by which the owner of a partition knows a key: used by SQL changes and by appends that expect something of a key.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The hash of a record's key. The same for the same bytes as long as the process lives, which is as long as it is compared.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
