//! The direct convolution of few channels, pooled, and its backward pass.

use crate::ops::buffer::Buffer;
use crate::ops::simd::{Simd, V, vectorized};

use super::geometry::{Geometry, POSITIONS, ROWS_AT_A_TIME};
use super::pool::{largest, unpool};
use super::saved::Saved;

/// Filters `[outputs, inputs, taps]` as `[taps, inputs, outputs]`.
pub(super) fn reorder_filters([taps, inputs, outputs]: [usize; 3], weight: &[f32]) -> Buffer {
    let mut filters = Buffer::take(weight.len());
    for (i, w) in weight.iter().enumerate() {
        let (output, input, tap) = (i / (taps * inputs), i / taps % inputs, i % taps);
        filters[(tap * inputs + input) * outputs + output] = *w;
    }
    filters
}

/// The reverse.
pub(super) fn reorder_back([taps, inputs, outputs]: [usize; 3], filters: &[f32]) -> Vec<f32> {
    let of_filter = |i: usize| {
        let (output, input, tap) = (i / (taps * inputs), i / taps % inputs, i % taps);
        filters[(tap * inputs + input) * outputs + output]
    };
    (0..filters.len()).map(of_filter).collect()
}

/// The direct convolution, pooled.
#[inline(always)]
pub(super) fn convolve<S: Simd>(
    simd: S,
    g: Geometry,
    images: &[f32],
    filters: &[f32],
    bias: &[f32],
    windows: &mut [f32],
    winners: &mut [f32],
) {
    let outside = vec![0.0; g.inputs];
    let mut seen_by_tile = vec![[0.0; POSITIONS]; g.inputs];
    for tile in 0..winners.len() / g.outputs {
        let patch = g.patch(images, tile, &outside);
        for (input, seen) in seen_by_tile.iter_mut().enumerate() {
            *seen = patch.map(|pixel| pixel[input]);
        }
        let window = tile * g.outputs..(tile + 1) * g.outputs;
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let mut four = [V::zero(simd); 4];
            for (input, patch) in seen_by_tile.iter().enumerate() {
                for tap in 0..9 {
                    let at = (tap * g.inputs + input) * g.outputs;
                    let w = V::load(simd, &filters[at..at + g.outputs], c);
                    for which in 0..4 {
                        let pixel = V::splat(simd, patch[seen(which, tap)]);
                        four[which] = pixel.mul_add(w, four[which]);
                    }
                }
            }
            let [best, winner] = largest(simd, four);
            (best + V::load(simd, bias, c)).store(&mut windows[window.clone()], c);
            winner.store(&mut winners[window.clone()], c);
        }
    }
}

/// The place in the 4 x 4 pixels that tap `tap` of the filter sees for the `which`-th of the four outputs.
#[inline(always)]
fn seen(which: usize, tap: usize) -> usize {
    4 * (which / 2 + tap / 3) + which % 2 + tap % 3
}

/// The gradient of the filters, `[outputs, inputs, taps]`, and that of the input, added to `x`.
pub(super) fn direct_backward(saved: &Saved, dz: &[f32], x: Option<&mut [f32]>) -> Vec<f32> {
    let g = saved.geometry;
    let filters =
        vectorized!(|simd| direct_filters_back(simd, g, &saved.input, dz, &saved.winners));
    if let Some(x) = x {
        vectorized!(|_simd| direct_input_back(g, &saved.filters, dz, &saved.winners, x));
    }
    reorder_back([9, g.inputs, g.outputs], &filters)
}

#[inline(always)]
fn direct_filters_back<S: Simd>(
    simd: S,
    g: Geometry,
    images: &[f32],
    dz: &[f32],
    winners: &[f32],
) -> Buffer {
    let outside = vec![0.0; g.inputs];
    let mut filters = Buffer::zeroed(9 * g.inputs * g.outputs);
    let mut patches = [[0.0; POSITIONS]; ROWS_AT_A_TIME];
    for first in (0..g.tiles()).step_by(ROWS_AT_A_TIME) {
        let tiles = first..g.tiles().min(first + ROWS_AT_A_TIME);
        for input in 0..g.inputs {
            for (patch, tile) in patches.iter_mut().zip(tiles.clone()) {
                *patch = g.patch(images, tile, &outside).map(|pixel| pixel[input]);
            }
            for c in (0..g.outputs).step_by(V::<S>::LANES) {
                let mut sums = [V::zero(simd); 9];
                for (patch, tile) in patches.iter().zip(tiles.clone()) {
                    let window = tile * g.outputs..(tile + 1) * g.outputs;
                    let upstream = V::load(simd, &dz[window.clone()], c);
                    let winner = V::load(simd, &winners[window], c);
                    let four = unpool(simd, upstream, winner);
                    for tap in 0..9 {
                        for which in 0..4 {
                            let pixel = V::splat(simd, patch[seen(which, tap)]);
                            sums[tap] = pixel.mul_add(four[which], sums[tap]);
                        }
                    }
                }
                for tap in 0..9 {
                    let at = (tap * g.inputs + input) * g.outputs;
                    let filter = &mut filters[at..at + g.outputs];
                    (V::load(simd, filter, c) + sums[tap]).store(filter, c);
                }
            }
        }
    }
    filters
}

/// Rarely wanted: images seldom have a gradient.
#[inline(always)]
fn direct_input_back(g: Geometry, filters: &[f32], dz: &[f32], winners: &[f32], x: &mut [f32]) {
    for tile in 0..g.tiles() {
        let pixels = g.pixels(tile);
        for output in 0..g.outputs {
            let at = tile * g.outputs + output;
            for tap in 0..9 {
                let Some(pixel) = pixels[seen(winners[at] as usize, tap)] else {
                    continue;
                };
                for input in 0..g.inputs {
                    x[pixel + input] +=
                        dz[at] * filters[(tap * g.inputs + input) * g.outputs + output];
                }
            }
        }
    }
}
