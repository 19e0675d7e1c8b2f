//! Normalization with the ReLU behind it, and the way of a gradient back through both.

use crate::ops::simd::{Simd, V};

use super::geometry::ROWS_AT_A_TIME;
use super::saved::Saved;

/// The sum over rows of what `row` gives, for each column; `row` gets where the row starts, and a column.
#[inline(always)]
pub(super) fn column_sums<S: Simd, const N: usize>(
    simd: S,
    rows: usize,
    width: usize,
    row: impl Fn(usize, usize) -> [V<S>; N],
) -> [Vec<f32>; N] {
    let mut totals = [(); N].map(|()| vec![0.0; width]);
    // Row by row, as they lie in memory; what is added up stays in the nearest cache.
    let mut sums = totals.clone();
    for first in (0..rows).step_by(ROWS_AT_A_TIME) {
        for i in first..rows.min(first + ROWS_AT_A_TIME) {
            for c in (0..width).step_by(V::<S>::LANES) {
                let values = row(i * width, c);
                for n in 0..N {
                    (V::load(simd, &sums[n], c) + values[n]).store(&mut sums[n], c);
                }
            }
        }
        for (total, sum) in totals.iter_mut().zip(&mut sums) {
            for (total, sum) in total.iter_mut().zip(sum) {
                *total += std::mem::take(sum);
            }
        }
    }
    totals
}

/// Mean and biased variance of each column. The rows are read once: blocks that fit into the nearest cache have moments of
/// their own, which are joined (Chan, Golub, LeVeque: "Updating Formulae and a Pairwise Algorithm for Computing Sample
/// Variances", 1979).
#[inline(always)]
pub(super) fn moments<S: Simd>(simd: S, rows: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut mean, mut squares) = (vec![0.0; width], vec![0.0; width]);
    let (mut sum, mut own_squares) = (mean.clone(), mean.clone());
    let mut before = 0;
    for block in rows.chunks(ROWS_AT_A_TIME * width) {
        let count = block.len() / width;
        let (share, joined) = (V::splat(simd, 1.0 / count as f32), (before + count) as f32);
        let of_block = V::splat(simd, count as f32 / joined);
        let of_both = V::splat(simd, before as f32 * count as f32 / joined);
        sum.fill(0.0);
        own_squares.fill(0.0);
        for row in block.chunks_exact(width) {
            for c in (0..width).step_by(V::<S>::LANES) {
                (V::load(simd, &sum, c) + V::load(simd, row, c)).store(&mut sum, c);
            }
        }
        for row in block.chunks_exact(width) {
            for c in (0..width).step_by(V::<S>::LANES) {
                let offset = V::load(simd, row, c) - V::load(simd, &sum, c) * share;
                let squares = offset.mul_add(offset, V::load(simd, &own_squares, c));
                squares.store(&mut own_squares, c);
            }
        }
        for c in (0..width).step_by(V::<S>::LANES) {
            let apart = V::load(simd, &sum, c) * share - V::load(simd, &mean, c);
            (V::load(simd, &mean, c) + apart * of_block).store(&mut mean, c);
            let own = V::load(simd, &squares, c) + V::load(simd, &own_squares, c);
            (own + apart * apart * of_both).store(&mut squares, c);
        }
        before += count;
    }
    let share = 1.0 / before as f32;
    squares.iter_mut().for_each(|v| *v *= share);
    (mean, squares)
}

/// Normalizes `windows` in place; `y` is what the ReLU makes of them, scaled and shifted.
#[inline(always)]
pub(super) fn normalize<S: Simd>(
    simd: S,
    windows: &mut [f32],
    y: &mut [f32],
    mean: &[f32],
    inverse_deviation: &[f32],
    gamma: &[f32],
    beta: &[f32],
) {
    let width = mean.len();
    for (window, y) in windows
        .chunks_exact_mut(width)
        .zip(y.chunks_exact_mut(width))
    {
        for c in (0..width).step_by(V::<S>::LANES) {
            let normalized = (V::load(simd, window, c) - V::load(simd, mean, c))
                * V::load(simd, inverse_deviation, c);
            normalized.store(window, c);
            let scaled = normalized * V::load(simd, gamma, c) + V::load(simd, beta, c);
            scaled.relu().store(y, c);
        }
    }
}

impl Saved {
    /// The gradient behind the ReLU.
    #[inline(always)]
    pub(super) fn through_relu<S: Simd>(
        &self,
        simd: S,
        normalized: V<S>,
        dy: V<S>,
        c: usize,
    ) -> V<S> {
        let y = normalized * V::load(simd, &self.gamma, c) + V::load(simd, &self.beta, c);
        dy.where_above(y, V::zero(simd))
    }

    /// The gradient of the pooled convolution.
    #[inline(always)]
    pub(super) fn through_normalization<S: Simd>(
        &self,
        simd: S,
        normalized: &[f32],
        dy: &[f32],
        dgamma: &[f32],
        dbeta: &[f32],
        dz: &mut [f32],
    ) {
        let width = self.geometry.outputs;
        let share = V::splat(simd, 1.0 / self.geometry.windows() as f32);
        let rows = normalized.chunks_exact(width).zip(dy.chunks_exact(width));
        for ((normalized, dy), dz) in rows.zip(dz.chunks_exact_mut(width)) {
            for c in (0..width).step_by(V::<S>::LANES) {
                let at = V::load(simd, normalized, c);
                let upstream = self.through_relu(simd, at, V::load(simd, dy, c), c);
                let common = (V::load(simd, dbeta, c) + at * V::load(simd, dgamma, c)) * share;
                let scale =
                    V::load(simd, &self.gamma, c) * V::load(simd, &self.inverse_deviation, c);
                ((upstream - common) * scale).store(dz, c);
            }
        }
    }
}
