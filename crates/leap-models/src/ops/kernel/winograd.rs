//! Winograd's convolution: the transforms of tiles, filters and products, pooled or not, and their adjoints.

use rayon::prelude::*;

use crate::ops::buffer::Buffer;
use crate::ops::gemm::{Matrix, gemm};
use crate::ops::simd::{LANES, V, vectorized};

use super::geometry::{Geometry, POSITIONS};
use super::pool::{keep_largest, unpool};
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
            vectorized!(unpool_products(g, dz, winners, products));
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
                vectorized!(transform_tiles_back(g, &tiles, images, count));
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
    vectorized!(transform_filters_back(g, &filters))
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
pub(super) fn transform_tiles(g: Geometry, images: &[f32], tiles: &mut [f32], count: usize) {
    let outside = vec![0.0; g.inputs];
    for tile in 0..count {
        let patch = g.patch(images, tile, &outside);
        for c in (0..g.inputs).step_by(LANES) {
            let mut d = [V::ZERO; POSITIONS];
            for k in 0..POSITIONS {
                d[k] = V::load(patch[k], c);
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
fn transform_tiles_back(g: Geometry, tiles: &[f32], images: &mut [f32], count: usize) {
    for tile in 0..count {
        let pixels = g.pixels(tile);
        for c in (0..g.inputs).step_by(LANES) {
            let mut d = [V::ZERO; POSITIONS];
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.inputs;
                d[k] = V::load(&tiles[at..at + g.inputs], c);
            }
            for j in 0..4 {
                let [p, q, r, s] = [d[j], d[4 + j], d[8 + j], d[12 + j]];
                [d[j], d[4 + j], d[8 + j], d[12 + j]] = [p, q - r + s, q + r - p, V::ZERO - s];
            }
            for i in 0..4 {
                let [p, q, r, s] = [d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]];
                [d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]] =
                    [p, q - r + s, q + r - p, V::ZERO - s];
            }
            for k in 0..POSITIONS {
                if let Some(at) = pixels[k] {
                    let pixel = &mut images[at..at + g.inputs];
                    (V::load(pixel, c) + d[k]).store(pixel, c);
                }
            }
        }
    }
}

/// The four outputs of a tile from its products, in vectors.
#[inline(always)]
fn outputs_of(m: &[V; POSITIONS]) -> [V; 4] {
    let (mut upper, mut lower) = ([V::ZERO; 4], [V::ZERO; 4]);
    for j in 0..4 {
        upper[j] = m[j] + m[4 + j] + m[8 + j];
        lower[j] = m[4 + j] - m[8 + j] - m[12 + j];
    }
    let left = |s: [V; 4]| s[0] + s[1] + s[2];
    let right = |s: [V; 4]| s[1] - s[2] - s[3];
    [left(upper), right(upper), left(lower), right(lower)]
}

/// The adjoint of [`outputs_of`]: first along columns, then along rows.
#[inline(always)]
fn outputs_back(four: [V; 4]) -> [V; POSITIONS] {
    let along = |a: V, b: V| [a, a + b, a - b, V::ZERO - b];
    let (upper, lower) = (along(four[0], four[1]), along(four[2], four[3]));
    let mut m = [V::ZERO; POSITIONS];
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
pub(super) fn store_products(
    g: Geometry,
    size: [usize; 2],
    products: &[f32],
    bias: &[f32],
    images: &mut [f32],
) {
    let count = products.len() / (POSITIONS * g.outputs);
    for tile in 0..count {
        let places = places(g, size, tile);
        for c in (0..g.outputs).step_by(LANES) {
            let mut m = [V::ZERO; POSITIONS];
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.outputs;
                m[k] = V::load(&products[at..at + g.outputs], c);
            }
            let bias = V::load(bias, c);
            let four = outputs_of(&m);
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
pub(super) fn spread_products(g: Geometry, size: [usize; 2], images: &[f32], products: &mut [f32]) {
    let count = products.len() / (POSITIONS * g.outputs);
    for tile in 0..count {
        let places = places(g, size, tile);
        for c in (0..g.outputs).step_by(LANES) {
            let mut four = [V::ZERO; 4];
            for i in 0..4 {
                if let Some(at) = places[i] {
                    four[i] = V::load(&images[at..at + g.outputs], c);
                }
            }
            let m = outputs_back(four);
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.outputs;
                m[k].store(&mut products[at..at + g.outputs], c);
            }
        }
    }
}

/// The four outputs of each tile, of which the largest is kept.
#[inline(always)]
pub(super) fn pool_products(
    g: Geometry,
    products: &[f32],
    bias: &[f32],
    windows: &mut [f32],
    winners: &mut [u8],
) {
    let count = winners.len() / g.outputs;
    for tile in 0..count {
        let window = tile * g.outputs..(tile + 1) * g.outputs;
        for c in (0..g.outputs).step_by(LANES) {
            let mut m = [V::ZERO; POSITIONS];
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.outputs;
                m[k] = V::load(&products[at..at + g.outputs], c);
            }
            keep_largest(
                outputs_of(&m),
                bias,
                c,
                &mut windows[window.clone()],
                &mut winners[window.clone()],
            );
        }
    }
}

/// The adjoint of [`pool_products`].
#[inline(always)]
fn unpool_products(g: Geometry, dz: &[f32], winners: &[u8], products: &mut [f32]) {
    let count = winners.len() / g.outputs;
    for tile in 0..count {
        let window = tile * g.outputs..(tile + 1) * g.outputs;
        for c in (0..g.outputs).step_by(LANES) {
            let four = unpool(&dz[window.clone()], &winners[window.clone()], c);
            let m = outputs_back(four);
            for k in 0..POSITIONS {
                let at = (k * count + tile) * g.outputs;
                m[k].store(&mut products[at..at + g.outputs], c);
            }
        }
    }
}

/// G w Gᵀ with Winograd's matrix for filters, [1 0 0; ½ ½ ½; ½ −½ ½; 0 0 1] in rows.
#[inline(always)]
pub(super) fn transform_filters(g: Geometry, weight: &[f32]) -> Buffer {
    let mut filters = Buffer::take(POSITIONS * g.inputs * g.outputs);
    let half = V::splat(0.5);
    for input in 0..g.inputs {
        for c in (0..g.outputs).step_by(LANES) {
            let mut w = [V::ZERO; 9];
            for lane in 0..LANES.min(g.outputs - c) {
                let at = 9 * ((c + lane) * g.inputs + input);
                for (w, tap) in w.iter_mut().zip(&weight[at..at + 9]) {
                    w.0[lane] = *tap;
                }
            }
            let mut rows = [V::ZERO; 12];
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
fn transform_filters_back(g: Geometry, filters: &[f32]) -> Vec<f32> {
    let mut weight = vec![0.0; 9 * g.inputs * g.outputs];
    let half = V::splat(0.5);
    for input in 0..g.inputs {
        for c in (0..g.outputs).step_by(LANES) {
            let mut rows = [V::ZERO; 12];
            for i in 0..4 {
                let mut u = [V::ZERO; 4];
                for (j, u) in u.iter_mut().enumerate() {
                    let at = ((4 * i + j) * g.inputs + input) * g.outputs;
                    *u = V::load(&filters[at..at + g.outputs], c);
                }
                let (sum, difference) = ((u[1] + u[2]) * half, (u[1] - u[2]) * half);
                [rows[3 * i], rows[3 * i + 1], rows[3 * i + 2]] =
                    [u[0] + sum, difference, sum + u[3]];
            }
            let mut w = [V::ZERO; 9];
            for j in 0..3 {
                let u = [rows[j], rows[3 + j], rows[6 + j], rows[9 + j]];
                let (sum, difference) = ((u[1] + u[2]) * half, (u[1] - u[2]) * half);
                [w[j], w[3 + j], w[6 + j]] = [u[0] + sum, difference, sum + u[3]];
            }
            for lane in 0..LANES.min(g.outputs - c) {
                let at = 9 * ((c + lane) * g.inputs + input);
                for (tap, w) in weight[at..at + 9].iter_mut().zip(&w) {
                    *tap = w.0[lane];
                }
            }
        }
    }
    weight
}
