//! Winograd's convolution: the transforms of tiles, filters and products, pooled or not, and their adjoints.

use rayon::prelude::*;

use crate::ops::buffer::Buffer;
use crate::ops::product::{self, Left};
use crate::ops::simd::{Simd, V, each, vectorized};

use super::geometry::{Geometry, OUTSIDE};
use super::pool::{largest, unpool};
use super::saved::Saved;

/// A side of a tile as it is transformed: as many as the tile has, then nothing.
type Side<S> = [V<S>; 6];
/// The rows of a tile.
type Tile<S, const N: usize> = [[V<S>; N]; N];

/// The transforms along a side of tiles of one size, and their adjoints.
trait Transforms {
    fn input<S: Simd>(simd: S, d: Side<S>) -> Side<S>;
    fn input_back<S: Simd>(simd: S, t: Side<S>) -> Side<S>;
    fn output<S: Simd>(simd: S, m: Side<S>) -> Side<S>;
    fn output_back<S: Simd>(simd: S, y: Side<S>) -> Side<S>;
    fn filter<S: Simd>(simd: S, w: Side<S>) -> Side<S>;
    fn filter_back<S: Simd>(simd: S, u: Side<S>) -> Side<S>;
}

/// F(2 x 2, 3 x 3): the polynomial is looked at in 0, 1, −1 and at infinity.
struct Two;

impl Transforms for Two {
    /// [1 0 −1 0; 0 1 1 0; 0 −1 1 0; 0 1 0 −1] in rows.
    #[inline(always)]
    fn input<S: Simd>(simd: S, [a, b, c, d, ..]: Side<S>) -> Side<S> {
        let no = V::zero(simd);
        [a - c, b + c, c - b, b - d, no, no]
    }

    #[inline(always)]
    fn input_back<S: Simd>(simd: S, [p, q, r, s, ..]: Side<S>) -> Side<S> {
        let no = V::zero(simd);
        [p, q - r + s, q + r - p, no - s, no, no]
    }

    /// [1 1 1 0; 0 1 −1 −1] in rows.
    #[inline(always)]
    fn output<S: Simd>(simd: S, [p, q, r, s, ..]: Side<S>) -> Side<S> {
        let no = V::zero(simd);
        [p + q + r, q - r - s, no, no, no, no]
    }

    #[inline(always)]
    fn output_back<S: Simd>(simd: S, [a, b, ..]: Side<S>) -> Side<S> {
        let no = V::zero(simd);
        [a, a + b, a - b, no - b, no, no]
    }

    /// [1 0 0; ½ ½ ½; ½ −½ ½; 0 0 1] in rows.
    #[inline(always)]
    fn filter<S: Simd>(simd: S, [p, q, r, ..]: Side<S>) -> Side<S> {
        let (no, half) = (V::zero(simd), V::splat(simd, 0.5));
        [p, (p + q + r) * half, (p - q + r) * half, r, no, no]
    }

    #[inline(always)]
    fn filter_back<S: Simd>(simd: S, [p, q, r, s, ..]: Side<S>) -> Side<S> {
        let (no, half) = (V::zero(simd), V::splat(simd, 0.5));
        let (sum, difference) = ((q + r) * half, (q - r) * half);
        [p + sum, difference, sum + s, no, no, no]
    }
}

/// F(4 x 4, 3 x 3), looked at in 0, ±1/√2, ±√2 and at infinity. With these points results are off by 3 times as much as with
/// [`Two`], with the usual 0, ±1, ±2 by 6 times (root mean square, 64 channels).
struct Four;

const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

impl Transforms for Four {
    /// With a = 1/√2 and b = √2, [1 0 −5/2 0 1 0; 0 −b −2 a 1 0; 0 b −2 −a 1 0; 0 −a −½ b 1 0; 0 a −½ −b 1 0;
    /// 0 1 0 −5/2 0 1] in rows.
    #[inline(always)]
    fn input<S: Simd>(simd: S, d: Side<S>) -> Side<S> {
        let off = V::splat(simd, -2.5);
        let even = d[2].mul_add(V::splat(simd, -2.0), d[4]);
        let odd = d[3] * A - d[1] * B;
        let even_far = d[2].mul_add(V::splat(simd, -0.5), d[4]);
        let odd_far = d[3] * B - d[1] * A;
        [
            d[2].mul_add(off, d[0] + d[4]),
            even + odd,
            even - odd,
            even_far + odd_far,
            even_far - odd_far,
            d[3].mul_add(off, d[1] + d[5]),
        ]
    }

    #[inline(always)]
    fn input_back<S: Simd>(simd: S, t: Side<S>) -> Side<S> {
        let off = V::splat(simd, -2.5);
        let (sum, difference) = (t[1] + t[2], t[1] - t[2]);
        let (sum_far, difference_far) = (t[3] + t[4], t[3] - t[4]);
        [
            t[0],
            t[5] - difference * B - difference_far * A,
            t[0] * off + sum * -2.0 + sum_far * -0.5,
            t[5].mul_add(off, difference * A + difference_far * B),
            t[0] + sum + sum_far,
            t[5],
        ]
    }

    /// [1 1 1 1 1 0; 0 a −a b −b 0; 0 ½ ½ 2 2 0; 0 a/2 −a/2 2b −2b 1] in rows.
    #[inline(always)]
    fn output<S: Simd>(simd: S, m: Side<S>) -> Side<S> {
        let (sum, difference) = (m[1] + m[2], m[1] - m[2]);
        let (sum_far, difference_far) = (m[3] + m[4], m[3] - m[4]);
        let no = V::zero(simd);
        [
            m[0] + sum + sum_far,
            difference * A + difference_far * B,
            sum * 0.5 + sum_far * 2.0,
            difference.mul_add(
                V::splat(simd, A / 2.0),
                difference_far.mul_add(V::splat(simd, 2.0 * B), m[5]),
            ),
            no,
            no,
        ]
    }

    #[inline(always)]
    fn output_back<S: Simd>(simd: S, y: Side<S>) -> Side<S> {
        let even = y[2].mul_add(V::splat(simd, 0.5), y[0]);
        let odd = y[1] * A + y[3] * (A / 2.0);
        let even_far = y[2].mul_add(V::splat(simd, 2.0), y[0]);
        let odd_far = y[1] * B + y[3] * (2.0 * B);
        [
            y[0],
            even + odd,
            even - odd,
            even_far + odd_far,
            even_far - odd_far,
            y[3],
        ]
    }

    /// [1 0 0; (−1 −a −½) 2/3; (−1 a −½) 2/3; (1 b 2)/6; (1 −b 2)/6; 0 0 1] in rows.
    #[inline(always)]
    fn filter<S: Simd>(simd: S, w: Side<S>) -> Side<S> {
        let even = w[2].mul_add(V::splat(simd, 0.5), w[0]) * (-2.0 / 3.0);
        let odd = w[1] * (A * -2.0 / 3.0);
        let even_far = w[2].mul_add(V::splat(simd, 2.0), w[0]) * (1.0 / 6.0);
        let odd_far = w[1] * (B / 6.0);
        [
            w[0],
            even + odd,
            even - odd,
            even_far + odd_far,
            even_far - odd_far,
            w[2],
        ]
    }

    #[inline(always)]
    fn filter_back<S: Simd>(simd: S, u: Side<S>) -> Side<S> {
        let (sum, difference) = (u[1] + u[2], u[1] - u[2]);
        let (sum_far, difference_far) = (u[3] + u[4], u[3] - u[4]);
        let no = V::zero(simd);
        [
            u[0] + sum * (-2.0 / 3.0) + sum_far * (1.0 / 6.0),
            difference * (A * -2.0 / 3.0) + difference_far * (B / 6.0),
            u[5] + (sum_far - sum) * (1.0 / 3.0),
            no,
            no,
            no,
        ]
    }
}

/// An expression with `T` for the transforms of `g`'s tiles, `OUT` for the outputs along a side of them, and `SIDE` for the
/// pixels that these see.
macro_rules! by_tile {
    ($g:expr, $work:expr) => {
        match $g.tile {
            4 => {
                type T = Four;
                const SIDE: usize = 6;
                #[allow(dead_code)]
                const OUT: usize = 4;
                $work
            }
            _ => {
                type T = Two;
                const SIDE: usize = 4;
                #[allow(dead_code)]
                const OUT: usize = 2;
                $work
            }
        }
    };
}

/// A transform of the columns of a tile, then of its rows: `$along` of `T`, from `FROM` x `FROM` to `TO` x `TO`. Not a
/// function that takes another, which would not be inlined.
macro_rules! transform {
    ($simd:expr, $tile:expr, $along:ident, $from:expr => $to:expr) => {{
        let mut half = [[V::zero($simd); $from]; $to];
        each!(j < $from, {
            let mut column = [V::zero($simd); 6];
            each!(i < $from, {
                column[i] = $tile[i][j];
            });
            let column = T::$along($simd, column);
            each!(i < $to, {
                half[i][j] = column[i];
            });
        });
        let mut whole = [[V::zero($simd); $to]; $to];
        each!(i < $to, {
            let mut row = [V::zero($simd); 6];
            each!(j < $from, {
                row[j] = half[i][j];
            });
            let row = T::$along($simd, row);
            each!(j < $to, {
                whole[i][j] = row[j];
            });
        });
        whole
    }};
}

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
    let count = images.len() / g.image() * g.tiles_per_image();
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
    let count = images.len() / g.image() * g.tiles_per_image();
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

/// A row of values at all positions, which are `block` apart: the channels from `c` on.
#[inline(always)]
fn load_at<S: Simd, const SIDE: usize>(
    simd: S,
    values: &[f32],
    [block, row, channels]: [usize; 3],
    c: usize,
) -> Tile<S, SIDE> {
    let mut d = [[V::zero(simd); SIDE]; SIDE];
    each!(i < SIDE, {
        each!(j < SIDE, {
            let at = (SIDE * i + j) * block + row * channels;
            d[i][j] = V::load(simd, &values[at..at + channels], c);
        });
    });
    d
}

#[inline(always)]
fn store_at<S: Simd, const SIDE: usize>(
    d: &Tile<S, SIDE>,
    values: &mut [f32],
    [block, row, channels]: [usize; 3],
    c: usize,
) {
    each!(i < SIDE, {
        each!(j < SIDE, {
            let at = (SIDE * i + j) * block + row * channels;
            d[i][j].store(&mut values[at..at + channels], c);
        });
    });
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
                let count = images.len() / g.image() * g.tiles_per_image();
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
    by_tile!(
        g,
        vectorized!(|simd| filters_back::<_, T, SIDE>(simd, g, &filters))
    )
}

/// The outputs of all tiles, with bias, in images of `g.size`.
pub(super) fn store_products(g: Geometry, products: &[f32], bias: &[f32], images: &mut [f32]) {
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
        let places = places::<OUT>(g, tile);
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
pub(super) fn spread_products(g: Geometry, images: &[f32], products: &mut [f32]) {
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
        let places = places::<OUT>(g, tile);
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

/// Where the outputs of tile `tile` of a chunk lie in images of `g.size`, or [`OUTSIDE`].
#[inline(always)]
fn places<const OUT: usize>(g: Geometry, tile: usize) -> [[usize; OUT]; OUT] {
    let [image, row, column] = g.place(tile);
    let [height, width] = g.size;
    let mut places = [[OUTSIDE; OUT]; OUT];
    each!(i < OUT, {
        each!(j < OUT, {
            let (y, x) = (row + i, column + j);
            if y < height && x < width {
                places[i][j] = ((image * height + y) * width + x) * g.outputs;
            }
        });
    });
    places
}

/// Where the window whose first output is at row `i` and column `j` of tile `tile` lies in a chunk's pooled images, or
/// [`OUTSIDE`].
#[inline(always)]
fn window(g: Geometry, tile: usize, i: usize, j: usize) -> usize {
    let [image, row, column] = g.place(tile);
    let [height, width] = g.pooled_size();
    let (y, x) = ((row + i) / 2, (column + j) / 2);
    match y < height && x < width {
        true => ((image * height + y) * width + x) * g.outputs,
        false => OUTSIDE,
    }
}

/// Where the windows of a tile lie.
#[inline(always)]
fn windows_of<const OUT: usize>(g: Geometry, tile: usize) -> [[usize; OUT]; OUT] {
    let mut windows = [[OUTSIDE; OUT]; OUT];
    each!(half < OUT / 2, {
        let i = 2 * half;
        each!(half < OUT / 2, {
            let j = 2 * half;
            windows[i][j] = window(g, tile, i, j);
        });
    });
    windows
}

/// The outputs of all tiles, of which the largest of each window is kept.
pub(super) fn pool_products(
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
        let windows = windows_of::<OUT>(g, tile);
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
        let windows = windows_of::<OUT>(g, tile);
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
            by_tile!(
                g,
                vectorized!(|simd| unpool_outputs::<_, T, SIDE, OUT>(
                    simd, g, dz, winners, products
                ))
            );
        });
    through_products(g, &saved.input, &saved.filters, &products, x)
}

/// The filters, each transformed: `[position][inputs][outputs]`, or with outputs before inputs.
pub(super) fn transform_filters(g: Geometry, weight: &[f32], transposed: bool) -> Buffer {
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
