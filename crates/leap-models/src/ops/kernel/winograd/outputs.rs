//! From products to outputs, pooled or not, and back.

use crate::ops::simd::{Simd, V, each, vectorized};

use super::super::geometry::{Geometry, OUTSIDE};
use super::super::pool::{largest, unpool};
use super::transforms::{Four, Transforms, Two, by_tile, load_at, store_at, transform};

/// The outputs of all tiles, with bias, in images of `g.size`.
pub(in crate::ops::kernel) fn store_products(
    g: Geometry,
    products: &[f32],
    bias: &[f32],
    images: &mut [f32],
) {
    by_tile!(
        g,
        vectorized!(|simd| store_outputs::<_, T, SIDE, OUT>(simd, g, products, bias, images))
    )
}

#[inline(always)]
fn store_outputs<S: Simd, T: Transforms, const SIDE: usize, const OUT: usize>(
    simd: S,
    g: Geometry,
    products: &[f32],
    bias: &[f32],
    images: &mut [f32],
) {
    let count = images.len() / g.result() * g.tiles_per_image();
    let block = count * g.outputs;
    for tile in 0..count {
        let places = places::<OUT>(g, tile, false);
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let m = load_at::<S, SIDE>(simd, products, [block, tile, g.outputs], c);
            let y = transform!(simd, m, output, SIDE => OUT);
            let bias = V::load(simd, bias, c);
            each!(i < OUT, {
                each!(j < OUT, {
                    let at = places[i][j];
                    if at != OUTSIDE {
                        (y[i][j] + bias).store(&mut images[at..at + g.outputs], c);
                    }
                });
            });
        }
    }
}

/// The adjoint of [`store_products`].
pub(in crate::ops::kernel) fn spread_products(g: Geometry, images: &[f32], products: &mut [f32]) {
    by_tile!(
        g,
        vectorized!(|simd| load_outputs::<_, T, SIDE, OUT>(simd, g, images, products))
    )
}

#[inline(always)]
fn load_outputs<S: Simd, T: Transforms, const SIDE: usize, const OUT: usize>(
    simd: S,
    g: Geometry,
    images: &[f32],
    products: &mut [f32],
) {
    let count = images.len() / g.result() * g.tiles_per_image();
    let block = count * g.outputs;
    for tile in 0..count {
        let places = places::<OUT>(g, tile, false);
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let mut y = [[V::zero(simd); OUT]; OUT];
            each!(i < OUT, {
                each!(j < OUT, {
                    let at = places[i][j];
                    if at != OUTSIDE {
                        y[i][j] = V::load(simd, &images[at..at + g.outputs], c);
                    }
                });
            });
            let m = transform!(simd, y, output_back, OUT => SIDE);
            store_at(&m, products, [block, tile, g.outputs], c);
        }
    }
}

/// Where the outputs of tile `tile` of a chunk lie in images of `g.size`, or [`OUTSIDE`]; with `pooled`, where the window lies
/// that each belongs to.
#[inline(always)]
fn places<const OUT: usize>(g: Geometry, tile: usize, pooled: bool) -> [[usize; OUT]; OUT] {
    let [image, row, column] = g.place(tile);
    let ([height, width], side) = match pooled {
        true => (g.pooled_size(), 2),
        false => (g.size, 1),
    };
    let mut places = [[OUTSIDE; OUT]; OUT];
    each!(i < OUT, {
        each!(j < OUT, {
            let (y, x) = ((row + i) / side, (column + j) / side);
            if y < height && x < width {
                places[i][j] = ((image * height + y) * width + x) * g.outputs;
            }
        });
    });
    places
}

/// The outputs of all tiles, of which the largest of each window is kept.
pub(in crate::ops::kernel) fn pool_products(
    g: Geometry,
    products: &[f32],
    bias: &[f32],
    pooled: &mut [f32],
    winners: &mut [f32],
) {
    by_tile!(
        g,
        vectorized!(|simd| pool_outputs::<_, T, SIDE, OUT>(
            simd, g, products, bias, pooled, winners
        ))
    )
}

#[inline(always)]
fn pool_outputs<S: Simd, T: Transforms, const SIDE: usize, const OUT: usize>(
    simd: S,
    g: Geometry,
    products: &[f32],
    bias: &[f32],
    pooled: &mut [f32],
    winners: &mut [f32],
) {
    let count = winners.len() / (g.windows_per_image() * g.outputs) * g.tiles_per_image();
    let block = count * g.outputs;
    for tile in 0..count {
        let windows = places::<OUT>(g, tile, true);
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let m = load_at::<S, SIDE>(simd, products, [block, tile, g.outputs], c);
            let y = transform!(simd, m, output, SIDE => OUT);
            let bias = V::load(simd, bias, c);
            each!(half < OUT / 2, {
                let i = 2 * half;
                each!(half < OUT / 2, {
                    let j = 2 * half;
                    let at = windows[i][j];
                    if at != OUTSIDE {
                        let four = [y[i][j], y[i][j + 1], y[i + 1][j], y[i + 1][j + 1]];
                        let [best, winner] = largest(simd, four);
                        (best + bias).store(&mut pooled[at..at + g.outputs], c);
                        winner.store(&mut winners[at..at + g.outputs], c);
                    }
                });
            });
        }
    }
}

#[inline(always)]
fn unpool_outputs<S: Simd, T: Transforms, const SIDE: usize, const OUT: usize>(
    simd: S,
    g: Geometry,
    dz: &[f32],
    winners: &[f32],
    products: &mut [f32],
) {
    let count = winners.len() / (g.windows_per_image() * g.outputs) * g.tiles_per_image();
    let block = count * g.outputs;
    for tile in 0..count {
        let windows = places::<OUT>(g, tile, true);
        for c in (0..g.outputs).step_by(V::<S>::LANES) {
            let mut y = [[V::zero(simd); OUT]; OUT];
            each!(half < OUT / 2, {
                let i = 2 * half;
                each!(half < OUT / 2, {
                    let j = 2 * half;
                    let four = match windows[i][j] {
                        OUTSIDE => [V::zero(simd); 4],
                        at => unpool(
                            simd,
                            V::load(simd, &dz[at..at + g.outputs], c),
                            V::load(simd, &winners[at..at + g.outputs], c),
                        ),
                    };
                    [y[i][j], y[i][j + 1], y[i + 1][j], y[i + 1][j + 1]] = four;
                });
            });
            let m = transform!(simd, y, output_back, OUT => SIDE);
            store_at(&m, products, [block, tile, g.outputs], c);
        }
    }
}

/// The adjoint of [`pool_products`].
pub(super) fn unpool_products(g: Geometry, dz: &[f32], winners: &[f32], products: &mut [f32]) {
    by_tile!(
        g,
        vectorized!(|simd| unpool_outputs::<_, T, SIDE, OUT>(simd, g, dz, winners, products))
    )
}
