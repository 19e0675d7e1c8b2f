//! A hash that stays the same for ever: FNV-1a, 64 bits.

/// The hash that nothing has been added to.
pub(crate) const START: u64 = 0xcbf2_9ce4_8422_2325;

/// The hash of `bytes`, from `start` on.
pub(crate) fn fnv1a(start: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(start, mix)
}
