//! A number that is the same for the same data.

use std::fmt::Debug;

/// FNV-1a, 64 bits.
pub(crate) struct Digest(u64);

impl Digest {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn finish(self) -> u64 {
        self.0
    }
}

/// A number that is the same for the same data, of which it has a digest, and settings.
pub(crate) fn fingerprint(data: u64, settings: impl Debug) -> u64 {
    let mut digest = Digest::new();
    digest.add(&data.to_le_bytes());
    digest.add(format!("{settings:?}").as_bytes());
    digest.finish()
}
