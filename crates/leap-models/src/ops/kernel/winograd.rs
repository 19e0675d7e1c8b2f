//! Winograd's convolution: the transforms of tiles, filters and products, pooled or not, and their adjoints.

use rayon::prelude::*;

use crate::ops::buffer::Buffer;
use crate::ops::gemm::{Matrix, gemm};
use crate::ops::simd::{Simd, V, vectorized};

use super::geometry::{Geometry, POSITIONS};
use super::pool::{largest, unpool};
use super::saved::Saved;

pub(super) fn winograd_backward(saved: &Saved, dz: &[f32], x: Option<&mut [f32]>) -> Vec<f32> {
    let g = saved.geometry;
    let chunk = g.chunk();
    // The gradient of the products.
    let mut products = Buffer::take(POSITIONS * g.tiles() * g.outputs);
    products
        .par_chunks_mut(POSITIONS * chunk * g.outputs)
        .zip(dz.par_chunks(chunk * g.outputs))
        .zip(saved.winners.par_chunks(chunk * g.outputs))
        .for_each(|((products, dz), winners)| {
            vectorized!(|simd| unpool_products(simd, g, dz, winners, products));
        });
    through_products(g, &saved.input, &saved.filters, &products, x)
}

/// The products of a chunk of tiles and the filters, position by position.
pub(super) fn multiply(g: Geometry, tiles: &[f32], filters: &[f32]) -> Buffer {
    let count = tiles.len() / (POSITIONS * g.inputs);
    let mut products = Buffer::take(POSITIONS * count * g.outputs);
    for k in 0..POSITIONS {
        gemm(
            [count, g.outputs, g.inputs],
            position_mut(&mut products, k),
            false,
            Matrix::Rows(position(tiles, k)),
            Matrix::Rows(position(filters, k)),
        );
    }
    products
}

/// The gradient of the filters, given that of the products; that of the images is added to `x`. `tiles` are the transformed
/// input, in chunks.
pub(super) fn through_products(
    g: Geometry,
    tiles: &[f32],
    transformed: &[f32],
    products: &[f32],
    x: Option<&mut [f32]>,
) -> Vec<f32> {
    let chunk = g.chunk();
    if let Some(x) = x {
        x.par_chunks_mut(chunk / g.tiles_per_image() * g.image())
            .zip(products.par_chunks(POSITIONS * chunk * g.outputs))
            .for_each(|(images, products)| {
                let count = products.len() / (POSITIONS * g.outputs);
                let mut tiles = Buffer::take(POSITIONS * count * g.inputs);
                for k in 0..POSITIONS {
                    gemm(
                        [count, g.inputs, g.outputs],
                        position_mut(&mut tiles, k),
                        false,
                        Matrix::Rows(position(products, k)),
                        Matrix::Columns(position(transformed, k)),
                    );
                }
                vectorized!(|simd| transform_tiles_back(simd, g, &tiles, images, count));
            });
    }
    let mut filters = Buffer::zeroed(POSITIONS * g.inputs * g.outputs);
    filters
        .par_chunks_mut(g.inputs * g.outputs)
        .enumerate()
        .for_each(|(k, filters)| {
            let chunks = tiles.chunks(POSITIONS * chunk * g.inputs);
            for (tiles, products) in chunks.zip(products.chunks(POSITIONS * chunk * g.outputs)) {
                gemm(
                    [
                        g.inputs,
                        g.outputs,
                        products.len() / (POSITIONS * g.outputs),
                    ],
                    filters,
                    true,
                    Matrix::Columns(position(tiles, k)),
                    Matrix::Rows(position(products, k)),
                );
            }
        });
    vectorized!(|simd| transform_filters_back(simd, g, &filters))
}

/// Position `k` of a chunk that has them one after the other.
fn position(chunk: &[f32], k: usize) -> &[f32] {
    let len = chunk.len() / POSITIONS;
    &chunk[k * len..(k + 1) * len]
}

fn position_mut(chunk: &mut [f32], k: usize) -> &mut [f32] {
    let len = chunk.len() / POSITIONS;
    &mut chunk[k * len..(k + 1) * len]
}

/// Mᵀ d M with Winograd's matrix for tiles, [1 0 −1 0; 0 1 1 0; 0 −1 1 0; 0 1 0 −1] in rows.
#[inline(always)]
pub(super) fn transform_tiles<S: Simd>(
    simd: S,
    g: Geometry,
    images: &[f32],
    tiles: &mut [f32],
    count: usize,
) {
    let outside = vec![0.0; g.inputs];
    for tile in 0..count {
        let patch = g.patch(images, tile, &outside);
        for c in (0..g.inputs).step_by(V::<S>::LANES) {
            let mut d = [V::zero(simd); POSITIONS];
            for k in 0..POSITIONS {
                d[k] = V::load(simd, patch[k], c);
            }
            for j in 0..4 {
                let [a, b, c, e] = [d[j], d[4 + j], d[8 + j], d[12 + j]];
                [d[j], d[4 + j], d[8 + j], d[12 + j]] = [a - c, b + c, c - b, b - e];
            }
            for i in 0..4 {
                let [a, b, c, e] = [d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]];
                [d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]] = [a - c, b + c, c - b, b - e];
            }
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.inputs;
                d[k].store(&mut tiles[at..at + g.inputs], c);
            }
        }
    }
}

/// The adjoint of [`transform_tiles`], added to the images.
#[inline(always)]
fn transform_tiles_back<S: Simd>(
    simd: S,
    g: Geometry,
    tiles: &[f32],
    images: &mut [f32],
    count: usize,
) {
    for tile in 0..count {
        let pixels = g.pixels(tile);
        for c in (0..g.inputs).step_by(V::<S>::LANES) {
            let mut d = [V::zero(simd); POSITIONS];
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.inputs;
                d[k] = V::load(simd, &tiles[at..at + g.inputs], c);
            }
            for j in 0..4 {
                let [p, q, r, s] = [d[j], d[4 + j], d[8 + j], d[12 + j]];
                [d[j], d[4 + j], d[8 + j], d[12 + j]] =
                    [p, q - r + s, q + r - p, V::zero(simd) - s];
            }
            for i in 0..4 {
                let [p, q, r, s] = [d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]];
                [d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]] =
                    [p, q - r + s, q + r - p, V::zero(simd) - s];
            }
            for k in 0..POSITIONS {
                if let Some(at) = pixels[k] {
                    let pixel = &mut images[at..at + g.inputs];
                    (V::load(simd, pixel, c) + d[k]).store(pixel, c);
                }
            }
        }
    }
}

/// The four outputs of a tile from its products, in vectors.
#[inline(always)]
fn outputs_of<S: Simd>(simd: S, m: &[V<S>; POSITIONS]) -> [V<S>; 4] {
    let (mut upper, mut lower) = ([V::zero(simd); 4], [V::zero(simd); 4]);
    for j in 0..4 {
        upper[j] = m[j] + m[4 + j] + m[8 + j];
        lower[j] = m[4 + j] - m[8 + j] - m[12 + j];
    }
    let left = |s: [V<S>; 4]| s[0] + s[1] + s[2];
    let right = |s: [V<S>; 4]| s[1] - s[2] - s[3];
    [left(upper), right(upper), left(lower), right(lower)]
}

/// The adjoint of [`outputs_of`]: first along columns, then along rows.
#[inline(always)]
fn outputs_back<S: Simd>(simd: S, four: [V<S>; 4]) -> [V<S>; POSITIONS] {
    let along = |a: V<S>, b: V<S>| [a, a + b, a - b, V::zero(simd) - b];
    let (upper, lower) = (along(four[0], four[1]), along(four[2], four[3]));
    let mut m = [V::zero(simd); POSITIONS];
    for j in 0..4 {
        let column = along(upper[j], lower[j]);
        for i in 0..4 {
            m[4 * i + j] = column[i];
        }
    }
    m
}

/// Where the four outputs of tile `tile` of a chunk lie in images of `height` x `width`; `None` is beyond an edge.
#[inline(always)]
fn places(g: Geometry, [height, width]: [usize; 2], tile: usize) -> [Option<usize>; 4] {
    let (image, tile) = (tile / g.tiles_per_image(), tile % g.tiles_per_image());
    let (row, column) = (2 * (tile / g.columns()), 2 * (tile % g.columns()));
    std::array::from_fn(|i| {
        let (y, x) = (row + i / 2, column + i % 2);
        (y < height && x < width).then(|| ((image * height + y) * width + x) * g.outputs)
    })
}

/// The outputs of all tiles, with bias, in images of `size`.
#[inline(always)]
pub(super) fn store_products<S: Simd>(
    simd: S,
    g: Geometry,
    size: [usize; 2],
    products: &[f32],
    bias: &[f32],
    images: &mut [f32],
) {
    let count = products.len() / (POSITIONS * g.outputs);
    for tile in 0..count {
        let places = places(g, size, tile);
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let mut m = [V::zero(simd); POSITIONS];
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.outputs;
                m[k] = V::load(simd, &products[at..at + g.outputs], c);
            }
            let bias = V::load(simd, bias, c);
            let four = outputs_of(simd, &m);
            for i in 0..4 {
                if let Some(at) = places[i] {
                    (four[i] + bias).store(&mut images[at..at + g.outputs], c);
                }
            }
        }
    }
}

/// The adjoint of [`store_products`].
#[inline(always)]
pub(super) fn spread_products<S: Simd>(
    simd: S,
    g: Geometry,
    size: [usize; 2],
    images: &[f32],
    products: &mut [f32],
) {
    let count = products.len() / (POSITIONS * g.outputs);
    for tile in 0..count {
        let places = places(g, size, tile);
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let mut four = [V::zero(simd); 4];
            for i in 0..4 {
                if let Some(at) = places[i] {
                    four[i] = V::load(simd, &images[at..at + g.outputs], c);
                }
            }
            let m = outputs_back(simd, four);
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.outputs;
                m[k].store(&mut products[at..at + g.outputs], c);
            }
        }
    }
}

/// The four outputs of each tile, of which the largest is kept.
#[inline(always)]
pub(super) fn pool_products<S: Simd>(
    simd: S,
    g: Geometry,
    products: &[f32],
    bias: &[f32],
    windows: &mut [f32],
    winners: &mut [f32],
) {
    let count = winners.len() / g.outputs;
    for tile in 0..count {
        let window = tile * g.outputs..(tile + 1) * g.outputs;
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let mut m = [V::zero(simd); POSITIONS];
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.outputs;
                m[k] = V::load(simd, &products[at..at + g.outputs], c);
            }
            let [best, winner] = largest(simd, outputs_of(simd, &m));
            (best + V::load(simd, bias, c)).store(&mut windows[window.clone()], c);
            winner.store(&mut winners[window.clone()], c);
        }
    }
}

/// The adjoint of [`pool_products`].
#[inline(always)]
fn unpool_products<S: Simd>(
    simd: S,
    g: Geometry,
    dz: &[f32],
    winners: &[f32],
    products: &mut [f32],
) {
    let count = winners.len() / g.outputs;
    for tile in 0..count {
        let window = tile * g.outputs..(tile + 1) * g.outputs;
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let upstream = V::load(simd, &dz[window.clone()], c);
            let winner = V::load(simd, &winners[window.clone()], c);
            let m = outputs_back(simd, unpool(simd, upstream, winner));
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.outputs;
                m[k].store(&mut products[at..at + g.outputs], c);
            }
        }
    }
}

/// G w Gᵀ with Winograd's matrix for filters, [1 0 0; ½ ½ ½; ½ −½ ½; 0 0 1] in rows.
#[inline(always)]
pub(super) fn transform_filters<S: Simd>(simd: S, g: Geometry, weight: &[f32]) -> Buffer {
    let mut filters = Buffer::take(POSITIONS * g.inputs * g.outputs);
    let half = V::splat(simd, 0.5);
    // What lies apart, in the order of registers.
    let lanes = V::<S>::LANES;
    let mut taps = vec![0.0; 9 * lanes];
    for input in 0..g.inputs {
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            for lane in 0..lanes.min(g.outputs - c) {
                let at = 9 * ((c + lane) * g.inputs + input);
                for (tap, w) in weight[at..at + 9].iter().enumerate() {
                    taps[tap * lanes + lane] = *w;
                }
            }
            let mut w = [V::zero(simd); 9];
            for tap in 0..9 {
                w[tap] = V::load(simd, &taps, tap * lanes);
            }
            let mut rows = [V::zero(simd); 12];
            for i in 0..3 {
                let [p, q, r] = [w[3 * i], w[3 * i + 1], w[3 * i + 2]];
                [
                    rows[4 * i],
                    rows[4 * i + 1],
                    rows[4 * i + 2],
                    rows[4 * i + 3],
                ] = [p, (p + q + r) * half, (p - q + r) * half, r];
            }
            for j in 0..4 {
                let [p, q, r] = [rows[j], rows[4 + j], rows[8 + j]];
                let column = [p, (p + q + r) * half, (p - q + r) * half, r];
                for i in 0..4 {
                    let at = ((4 * i + j) * g.inputs + input) * g.outputs;
                    column[i].store(&mut filters[at..at + g.outputs], c);
                }
            }
        }
    }
    filters
}

/// The adjoint of [`transform_filters`].
#[inline(always)]
fn transform_filters_back<S: Simd>(simd: S, g: Geometry, filters: &[f32]) -> Vec<f32> {
    let mut weight = vec![0.0; 9 * g.inputs * g.outputs];
    let half = V::splat(simd, 0.5);
    // What lies apart, in the order of registers.
    let lanes = V::<S>::LANES;
    let mut taps = vec![0.0; 9 * lanes];
    for input in 0..g.inputs {
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let mut rows = [V::zero(simd); 12];
            for i in 0..4 {
                let mut u = [V::zero(simd); 4];
                for (j, u) in u.iter_mut().enumerate() {
                    let at = ((4 * i + j) * g.inputs + input) * g.outputs;
                    *u = V::load(simd, &filters[at..at + g.outputs], c);
                }
                let (sum, difference) = ((u[1] + u[2]) * half, (u[1] - u[2]) * half);
                [rows[3 * i], rows[3 * i + 1], rows[3 * i + 2]] =
                    [u[0] + sum, difference, sum + u[3]];
            }
            let mut w = [V::zero(simd); 9];
            for j in 0..3 {
                let u = [rows[j], rows[3 + j], rows[6 + j], rows[9 + j]];
                let (sum, difference) = ((u[1] + u[2]) * half, (u[1] - u[2]) * half);
                [w[j], w[3 + j], w[6 + j]] = [u[0] + sum, difference, sum + u[3]];
            }
            for tap in 0..9 {
                w[tap].store(&mut taps, tap * lanes);
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
