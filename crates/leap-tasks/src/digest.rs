//! A number that is the same for the same data, with any release of Rust: FNV-1a, 64 bits.

use std::fmt::Debug;
use std::hash::Hasher;

use fnv::FnvHasher;

/// A number that is the same for the same data, of which it has a digest, and settings.
pub(crate) fn fingerprint(data: u64, settings: impl Debug) -> u64 {
    let mut digest = FnvHasher::default();
    digest.write(&data.to_le_bytes());
    digest.write(format!("{settings:?}").as_bytes());
    digest.finish()
}
