//! Filters transformed, and back.

use crate::ops::buffer::Buffer;
use crate::ops::simd::{Simd, V, each, vectorized};

use super::super::geometry::Geometry;
use super::transforms::{Four, Transforms, Two, by_tile, load_at, store_at, transform};

/// The filters, each transformed: `[position][inputs][outputs]`, or with outputs before inputs.
pub(in crate::ops::kernel) fn transform_filters(
    g: Geometry,
    weight: &[f32],
    transposed: bool,
) -> Buffer {
    // Rows and columns at a position, and the steps of each in the weight.
    let (sizes, steps) = match transposed {
        false => ([g.inputs, g.outputs], [9, 9 * g.inputs]),
        true => ([g.outputs, g.inputs], [9 * g.inputs, 9]),
    };
    by_tile!(
        g,
        vectorized!(|simd| filters_of::<_, T, SIDE>(simd, weight, sizes, steps))
    )
}

#[inline(always)]
fn filters_of<S: Simd, T: Transforms, const SIDE: usize>(
    simd: S,
    weight: &[f32],
    [rows, columns]: [usize; 2],
    [down, along]: [usize; 2],
) -> Buffer {
    let mut filters = Buffer::take(SIDE * SIDE * rows * columns);
    // What lies apart, in the order of registers.
    let lanes = V::<S>::LANES;
    let mut taps = vec![0.0; 9 * lanes];
    for row in 0..rows {
        for c in (0..columns).step_by(lanes) {
            for lane in 0..lanes.min(columns - c) {
                let at = row * down + (c + lane) * along;
                for (tap, w) in weight[at..at + 9].iter().enumerate() {
                    taps[tap * lanes + lane] = *w;
                }
            }
            let mut w = [[V::zero(simd); 3]; 3];
            for tap in 0..9 {
                w[tap / 3][tap % 3] = V::load(simd, &taps, tap * lanes);
            }
            let u = transform!(simd, w, filter, 3 => SIDE);
            store_at(&u, &mut filters, [rows * columns, row, columns], c);
        }
    }
    filters
}

/// The adjoint of [`transform_filters`].
pub(super) fn transform_filters_back(g: Geometry, filters: &[f32]) -> Vec<f32> {
    by_tile!(
        g,
        vectorized!(|simd| filters_back::<_, T, SIDE>(simd, g, filters))
    )
}

#[inline(always)]
fn filters_back<S: Simd, T: Transforms, const SIDE: usize>(
    simd: S,
    g: Geometry,
    filters: &[f32],
) -> Vec<f32> {
    let mut weight = vec![0.0; 9 * g.inputs * g.outputs];
    let block = g.inputs * g.outputs;
    let lanes = V::<S>::LANES;
    let mut taps = vec![0.0; 9 * lanes];
    for input in 0..g.inputs {
        for c in (0..g.outputs).step_by(lanes) {
            let u = load_at::<S, SIDE>(simd, filters, [block, input, g.outputs], c);
            let w = transform!(simd, u, filter_back, SIDE => 3);
            for tap in 0..9 {
                w[tap / 3][tap % 3].store(&mut taps, tap * lanes);
            }
            for lane in 0..lanes.min(g.outputs - c) {
                let at = 9 * ((c + lane) * g.inputs + input);
                for (tap, w) in weight[at..at + 9].iter_mut().enumerate() {
                    *w = taps[tap * lanes + lane];
                }
            }
        }
    }
    weight
}
