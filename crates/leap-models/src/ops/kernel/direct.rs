//! The direct convolution of few channels, pooled, and its backward pass.

use crate::ops::buffer::Buffer;
use crate::ops::simd::{Simd, V, vectorized};

use super::geometry::{Geometry, OUTSIDE, ROWS_AT_A_TIME};
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
    let mut seen_by_tile = vec![[0.0; PIXELS]; g.inputs];
    for tile in 0..winners.len() / g.outputs {
        let pixels = g.pixels::<4>(tile);
        for (input, seen) in seen_by_tile.iter_mut().enumerate() {
            *seen = pixels_of(images, &pixels, input);
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

/// Pixels that a window's four outputs see.
const PIXELS: usize = 16;

/// An input channel of these pixels.
#[inline(always)]
fn pixels_of(images: &[f32], pixels: &[[usize; 4]; 4], input: usize) -> [f32; PIXELS] {
    let mut values = [0.0; PIXELS];
    for (value, at) in values.iter_mut().zip(pixels.as_flattened()) {
        if *at != OUTSIDE {
            *value = images[at + input];
        }
    }
    values
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
    let mut filters = Buffer::zeroed(9 * g.inputs * g.outputs);
    let mut patches = [[0.0; PIXELS]; ROWS_AT_A_TIME];
    for first in (0..g.windows()).step_by(ROWS_AT_A_TIME) {
        let tiles = first..g.windows().min(first + ROWS_AT_A_TIME);
        for input in 0..g.inputs {
            for (patch, tile) in patches.iter_mut().zip(tiles.clone()) {
                *patch = pixels_of(images, &g.pixels::<4>(tile), input);
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
    for tile in 0..g.windows() {
        let pixels = g.pixels::<4>(tile);
        for output in 0..g.outputs {
            let at = tile * g.outputs + output;
            for tap in 0..9 {
                let pixel = pixels.as_flattened()[seen(winners[at] as usize, tap)];
                if pixel == OUTSIDE {
                    continue;
                }
                for input in 0..g.inputs {
                    x[pixel + input] +=
                        dz[at] * filters[(tap * g.inputs + input) * g.outputs + output];
                }
            }
        }
    }
}
