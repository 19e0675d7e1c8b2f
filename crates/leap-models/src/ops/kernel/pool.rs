//! Max-pooling of a window's four outputs, and its adjoint. Which of the four was the largest is a float, for its place in a
//! register beside them.

use crate::ops::simd::{Simd, V};

/// The largest of the four, and which it was. What is not a number must not get lost.
#[inline(always)]
pub(super) fn largest<S: Simd>(simd: S, four: [V<S>; 4]) -> [V<S>; 2] {
    let (mut best, mut winner) = (four[0], V::zero(simd));
    for which in 1..4 {
        let wins = four[which].wins_over(best);
        best = four[which].where_or(wins, best);
        winner = V::splat(simd, which as f32).where_or(wins, winner);
    }
    [best, winner]
}

/// Of four values the one at the place that was the largest.
#[inline(always)]
pub(super) fn pick<S: Simd>(simd: S, four: [V<S>; 4], winner: V<S>) -> V<S> {
    let mut picked = four[0];
    for which in 1..4 {
        picked = four[which].where_equal(winner, V::splat(simd, which as f32), picked);
    }
    picked
}

/// The gradient of a window, at the place of the four that was the largest.
#[inline(always)]
pub(super) fn unpool<S: Simd>(simd: S, upstream: V<S>, winner: V<S>) -> [V<S>; 4] {
    let mut four = [V::zero(simd); 4];
    for which in 0..4 {
        four[which] = upstream.where_equal(winner, V::splat(simd, which as f32), four[which]);
    }
    four
}
