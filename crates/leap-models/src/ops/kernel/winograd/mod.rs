//! Winograd's convolution: tiles are transformed and multiplied with filters, and the adjoints of both.

mod filters;
mod outputs;
mod transforms;

use rayon::prelude::*;

use crate::ops::buffer::Buffer;
use crate::ops::product::{self, Left};
use crate::ops::simd::{Simd, V, each, vectorized};

use super::geometry::{Geometry, OUTSIDE};
use super::saved::Saved;
use filters::transform_filters_back;
use outputs::unpool_products;
use transforms::{Four, Transforms, Two, by_tile, load_at, store_at, transform};

pub(super) use filters::transform_filters;
pub(super) use outputs::{pool_products, spread_products, store_products};

/// Tiles of images, each transformed: `[position][tile][inputs]`.
pub(super) fn transform_tiles(g: Geometry, images: &[f32], tiles: &mut [f32]) {
    by_tile!(
        g,
        vectorized!(|simd| tiles_of::<_, T, SIDE>(simd, g, images, tiles))
    )
}

#[inline(always)]
fn tiles_of<S: Simd, T: Transforms, const SIDE: usize>(
    simd: S,
    g: Geometry,
    images: &[f32],
    tiles: &mut [f32],
) {
    let count = g.tiles_of(images);
    let block = count * g.inputs;
    for tile in 0..count {
        let pixels = g.pixels::<SIDE>(tile);
        for c in (0..g.inputs).step_by(V::<S>::LANES) {
            let mut d = [[V::zero(simd); SIDE]; SIDE];
            each!(i < SIDE, {
                each!(j < SIDE, {
                    let at = pixels[i][j];
                    if at != OUTSIDE {
                        d[i][j] = V::load(simd, &images[at..at + g.inputs], c);
                    }
                });
            });
            let d = transform!(simd, d, input, SIDE => SIDE);
            store_at(&d, tiles, [block, tile, g.inputs], c);
        }
    }
}

/// The adjoint of [`transform_tiles`], added to the images.
#[inline(always)]
fn tiles_back<S: Simd, T: Transforms, const SIDE: usize>(
    simd: S,
    g: Geometry,
    tiles: &[f32],
    images: &mut [f32],
) {
    let count = g.tiles_of(images);
    let block = count * g.inputs;
    for tile in 0..count {
        let pixels = g.pixels::<SIDE>(tile);
        for c in (0..g.inputs).step_by(V::<S>::LANES) {
            let d = load_at::<S, SIDE>(simd, tiles, [block, tile, g.inputs], c);
            let d = transform!(simd, d, input_back, SIDE => SIDE);
            each!(i < SIDE, {
                each!(j < SIDE, {
                    let at = pixels[i][j];
                    if at != OUTSIDE {
                        let pixel = &mut images[at..at + g.inputs];
                        (V::load(simd, pixel, c) + d[i][j]).store(pixel, c);
                    }
                });
            });
        }
    }
}

/// The products of `count` tiles and the filters, position by position.
pub(super) fn multiply(g: Geometry, count: usize, tiles: &[f32], filters: &[f32]) -> Buffer {
    let mut products = Buffer::take(g.positions() * count * g.outputs);
    let rows = [count, g.inputs, g.outputs];
    vectorized!(|simd| multiply_all(simd, g, rows, &mut products, tiles, filters));
    products
}

/// The products at all positions, for rows, channels before and channels behind.
#[inline(always)]
fn multiply_all<S: Simd>(
    simd: S,
    g: Geometry,
    [rows, from, to]: [usize; 3],
    products: &mut [f32],
    tiles: &[f32],
    filters: &[f32],
) {
    for k in 0..g.positions() {
        product::multiply(
            simd,
            [rows, to, from],
            at_mut(products, k, [rows, to]),
            false,
            Left::Rows(at(tiles, k, [rows, from])),
            at(filters, k, [from, to]),
        );
    }
}

/// What belongs to position `k`, of this number of rows and channels.
fn at(values: &[f32], k: usize, [rows, channels]: [usize; 2]) -> &[f32] {
    &values[k * rows * channels..][..rows * channels]
}

fn at_mut(values: &mut [f32], k: usize, [rows, channels]: [usize; 2]) -> &mut [f32] {
    &mut values[k * rows * channels..][..rows * channels]
}

/// The gradient of the filters, given that of the products; that of the images is added to `x`. `tiles` are the transformed
/// input, in chunks.
pub(super) fn through_products(
    g: Geometry,
    tiles: &[f32],
    weight: &[f32],
    products: &[f32],
    x: Option<&mut [f32]>,
) -> Vec<f32> {
    if let Some(x) = x {
        let transposed = transform_filters(g, weight, true);
        x.par_chunks_mut(g.chunk() * g.image())
            .zip(products.par_chunks(g.chunk_tiles(g.outputs)))
            .for_each(|(images, products)| {
                let count = g.tiles_of(images);
                let mut tiles = Buffer::take(g.positions() * count * g.inputs);
                let rows = [count, g.outputs, g.inputs];
                vectorized!(|simd| multiply_all(simd, g, rows, &mut tiles, products, &transposed));
                by_tile!(
                    g,
                    vectorized!(|simd| tiles_back::<_, T, SIDE>(simd, g, &tiles, images))
                );
            });
    }
    let mut filters = Buffer::take(g.filters());
    filters
        .par_chunks_mut(g.inputs * g.outputs)
        .enumerate()
        .for_each(|(k, filters)| {
            for chunk in 0..g.chunks() {
                let count = g.tiles_in(chunk);
                let tiles = &tiles[chunk * g.chunk_tiles(g.inputs)..];
                let products = &products[chunk * g.chunk_tiles(g.outputs)..];
                vectorized!(|simd| product::multiply(
                    simd,
                    [g.inputs, g.outputs, count],
                    filters,
                    chunk > 0,
                    Left::Columns(at(tiles, k, [count, g.inputs]), g.inputs),
                    at(products, k, [count, g.outputs]),
                ));
            }
        });
    transform_filters_back(g, &filters)
}

/// The gradients of a pooled convolution: that of the filters comes back, that of the images is added to `x`.
pub(super) fn winograd_backward(saved: &Saved, dz: &[f32], x: Option<&mut [f32]>) -> Vec<f32> {
    let g = saved.geometry;
    // The gradient of the products.
    let mut products = Buffer::take(g.chunks() * g.chunk_tiles(g.outputs));
    products
        .par_chunks_mut(g.chunk_tiles(g.outputs))
        .zip(dz.par_chunks(g.chunk_windows()))
        .zip(saved.winners.par_chunks(g.chunk_windows()))
        .for_each(|((products, dz), winners)| {
            unpool_products(g, dz, winners, products);
        });
    through_products(g, &saved.input, &saved.filters, &products, x)
}
