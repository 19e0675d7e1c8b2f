//! Ranges that what is random is drawn from.

use rand::Rng;

/// A number drawn uniformly from a range that may be a single value.
pub(super) fn draw(range: [f64; 2], rng: &mut impl Rng) -> f64 {
    let share: f64 = rng.random();
    range[0] + share * (range[1] - range[0])
}
