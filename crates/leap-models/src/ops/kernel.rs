//! The convolution block on plain slices.
//!
//! Images are kept with the channels last, `[batch, height, width, channels]`, so that vector instructions run along
//! channels. The convolution is Winograd's F(2 x 2, 3 x 3) (Lavin, Gray: "Fast Algorithms for Convolutional Neural
//! Networks", [arXiv 1509.09308](https://arxiv.org/abs/1509.09308)): an input tile of 4 x 4 pixels and the filter
//! are transformed, multiplied position by position, which over all tiles and channels makes 16 matrix products, and
//! transformed back to 2 x 2 outputs. These four are just what one max-pooling window sees: a tile is a pixel of the
//! result, outputs that pooling would drop at odd edges are never computed, and none of the four is ever stored.
//!
//! The backward pass is the adjoint of each of these steps. Inputs of few channels, for which the products would be
//! too thin, are convolved directly.

// Positions are counted as in the formulas.
#![allow(clippy::needless_range_loop)]

use pulp::Arch;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::gemm::{Matrix, gemm};
use super::simd::{LANES, V};

/// Positions of a transformed tile.
const POSITIONS: usize = 16;
/// Tiles that are worked on at a time: their transforms should stay in a core's cache.
const TILES_AT_A_TIME: usize = 64;
/// With fewer input channels, the convolution is direct.
const WINOGRAD_CHANNELS: usize = 8;
/// Rows that are added up before they join a sum, for the sake of accuracy.
const ROWS_AT_A_TIME: usize = 64;

/// Sizes of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub inputs: usize,
    pub outputs: usize,
}

impl Geometry {
    /// Height of the result.
    pub fn rows(&self) -> usize {
        self.height / 2
    }

    /// Width of the result.
    pub fn columns(&self) -> usize {
        self.width / 2
    }

    fn tiles_per_image(&self) -> usize {
        self.rows() * self.columns()
    }

    fn tiles(&self) -> usize {
        self.batch * self.tiles_per_image()
    }

    /// Tiles of as many whole images as are worked on at a time.
    fn chunk(&self) -> usize {
        let images = (TILES_AT_A_TIME / self.tiles_per_image()).clamp(1, self.batch);
        images * self.tiles_per_image()
    }

    fn winograd(&self) -> bool {
        self.inputs >= WINOGRAD_CHANNELS
    }

    /// Floats in an image.
    fn image(&self) -> usize {
        self.height * self.width * self.inputs
    }

    /// The 4 x 4 pixels that tile `tile` of a chunk looks at, each a slice of channels; `images` are the chunk's,
    /// `outside` is what lies beyond the edges.
    #[inline(always)]
    fn patch<'a>(
        &self,
        images: &'a [f32],
        tile: usize,
        outside: &'a [f32],
    ) -> [&'a [f32]; POSITIONS] {
        let mut patch = [outside; POSITIONS];
        for (position, pixel) in self.pixels(tile).into_iter().enumerate() {
            if let Some(at) = pixel {
                patch[position] = &images[at..at + self.inputs];
            }
        }
        patch
    }

    /// Where these pixels start in the chunk's images; `None` is beyond an edge.
    #[inline(always)]
    fn pixels(&self, tile: usize) -> [Option<usize>; POSITIONS] {
        let (image, tile) = (tile / self.tiles_per_image(), tile % self.tiles_per_image());
        let (row, column) = (2 * (tile / self.columns()), 2 * (tile % self.columns()));
        let mut pixels = [None; POSITIONS];
        for i in 0..4 {
            for j in 0..4 {
                // The filter looks one pixel up and left.
                let (y, x) = (row + i, column + j);
                if (1..=self.height).contains(&y) && (1..=self.width).contains(&x) {
                    let pixel = (image * self.height + y - 1) * self.width + x - 1;
                    pixels[4 * i + j] = Some(pixel * self.inputs);
                }
            }
        }
        pixels
    }
}

/// How a block normalizes.
#[derive(Clone, Copy)]
pub(super) enum Statistics<'a> {
    /// By mean and variance of the batch, as in training.
    Batch,
    /// By these means and variances, as in evaluation.
    Running(&'a [f32], &'a [f32]),
}

/// A block's parameters: `weight` of shape `[outputs, inputs, 3, 3]`, the others of shape `[outputs]`.
#[derive(Clone, Copy)]
pub(super) struct Params<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub epsilon: f32,
}

/// What a forward pass gives.
pub(super) struct Forward {
    /// Shape `[batch, rows, columns, outputs]`.
    pub y: Vec<f32>,
    /// Mean by which the batch was normalized.
    pub mean: Vec<f32>,
    /// Biased variance by which the batch was normalized.
    pub variance: Vec<f32>,
    /// What the backward pass needs.
    pub saved: Saved,
}

/// What a forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct Saved {
    geometry: Geometry,
    /// The input: transformed tiles `[chunk][position][tile][inputs]`, or as it was.
    input: Buffer,
    /// The filters: `[position][inputs][outputs]` transformed, or `[tap][inputs][outputs]`.
    filters: Buffer,
    /// Which of a window's four was the largest, `[tile][outputs]`.
    winners: Vec<u8>,
    /// The normalized windows, `[tile][outputs]`.
    normalized: Buffer,
    inverse_deviation: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// What a backward pass gives, in the shapes of the forward pass's inputs.
pub(super) struct Gradients {
    pub x: Option<Vec<f32>>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
}

/// Convolution with bias, 2 x 2 max-pooling, normalization, ReLU. `x` has shape `[batch, height, width, inputs]`.
pub(super) fn forward(g: Geometry, x: &[f32], params: Params, statistics: Statistics) -> Forward {
    assert_eq!(x.len(), g.batch * g.image());
    assert_eq!(params.weight.len(), 9 * g.inputs * g.outputs);
    for vector in [params.bias, params.gamma, params.beta] {
        assert_eq!(vector.len(), g.outputs);
    }
    let (chunk, arch) = (g.chunk(), Arch::new());
    let mut windows = Buffer::take(g.tiles() * g.outputs);
    let mut winners = vec![0; g.tiles() * g.outputs];
    let images = x.par_chunks(chunk / g.tiles_per_image() * g.image());
    let results = windows
        .par_chunks_mut(chunk * g.outputs)
        .zip(winners.par_chunks_mut(chunk * g.outputs));

    let (input, filters);
    if g.winograd() {
        filters = arch.dispatch(|| transform_filters(g, params.weight));
        let mut tiles = Buffer::take(POSITIONS * g.tiles() * g.inputs);
        tiles
            .par_chunks_mut(POSITIONS * chunk * g.inputs)
            .zip(images)
            .zip(results)
            .for_each(|((tiles, images), (windows, winners))| {
                let count = winners.len() / g.outputs;
                arch.dispatch(|| transform_tiles(g, images, tiles, count));
                let mut products = Buffer::take(POSITIONS * count * g.outputs);
                for k in 0..POSITIONS {
                    gemm(
                        [count, g.outputs, g.inputs],
                        position_mut(&mut products, k),
                        false,
                        Matrix::Rows(position(tiles, k)),
                        Matrix::Rows(position(&filters, k)),
                    );
                }
                arch.dispatch(|| pool_products(g, &products, params.bias, windows, winners));
            });
        input = tiles;
    } else {
        filters = reorder_filters(g, params.weight);
        images
            .zip(results)
            .for_each(|(images, (windows, winners))| {
                arch.dispatch(|| convolve(g, images, &filters, params.bias, windows, winners));
            });
        let mut copy = Buffer::take(x.len());
        copy.copy_from_slice(x);
        input = copy;
    }

    let (mean, variance) = match statistics {
        Statistics::Running(mean, variance) => (mean.to_vec(), variance.to_vec()),
        Statistics::Batch => arch.dispatch(|| moments(&windows, g.outputs)),
    };
    let inverse_deviation: Vec<f32> = variance
        .iter()
        .map(|v| (v + params.epsilon).sqrt().recip())
        .collect();
    let mut y = vec![0.0; windows.len()];
    y.par_chunks_mut(chunk * g.outputs)
        .zip(windows.par_chunks_mut(chunk * g.outputs))
        .for_each(|(y, windows)| {
            arch.dispatch(|| {
                normalize(
                    windows,
                    y,
                    &mean,
                    &inverse_deviation,
                    params.gamma,
                    params.beta,
                )
            });
        });
    Forward {
        y,
        mean,
        variance,
        saved: Saved {
            geometry: g,
            input,
            filters,
            winners,
            normalized: windows,
            inverse_deviation,
            gamma: params.gamma.to_vec(),
            beta: params.beta.to_vec(),
        },
    }
}

/// The gradients, given that of the result; that of `x` only if it is wanted. The forward pass must have normalized by the
/// batch.
pub(super) fn backward(saved: &Saved, dy: &[f32], x_wanted: bool) -> Gradients {
    let g = saved.geometry;
    assert_eq!(dy.len(), g.tiles() * g.outputs);
    let (chunk, arch) = (g.chunk(), Arch::new());

    let [dbeta, dgamma] = arch.dispatch(|| {
        column_sums(
            g.tiles(),
            g.outputs,
            #[inline(always)]
            |row, c| {
                let normalized = V::load(&saved.normalized[row..row + g.outputs], c);
                let upstream =
                    saved.through_relu(normalized, V::load(&dy[row..row + g.outputs], c), c);
                [upstream, upstream * normalized]
            },
        )
    });
    let mut dz = Buffer::take(dy.len());
    dz.par_chunks_mut(chunk * g.outputs)
        .zip(saved.normalized.par_chunks(chunk * g.outputs))
        .zip(dy.par_chunks(chunk * g.outputs))
        .for_each(|((dz, normalized), dy)| {
            arch.dispatch(|| saved.through_normalization(normalized, dy, &dgamma, &dbeta, dz));
        });
    let [bias] = arch.dispatch(|| {
        column_sums(
            g.tiles(),
            g.outputs,
            #[inline(always)]
            |row, c| [V::load(&dz[row..row + g.outputs], c)],
        )
    });

    let mut x = x_wanted.then(|| vec![0.0; g.batch * g.image()]);
    let weight = match g.winograd() {
        true => winograd_backward(arch, saved, &dz, x.as_deref_mut()),
        false => direct_backward(arch, saved, &dz, x.as_deref_mut()),
    };
    Gradients {
        x,
        weight,
        bias,
        gamma: dgamma,
        beta: dbeta,
    }
}

impl Saved {
    /// The gradient behind the ReLU.
    #[inline(always)]
    fn through_relu(&self, normalized: V, dy: V, c: usize) -> V {
        let y = normalized * V::load(&self.gamma, c) + V::load(&self.beta, c);
        dy.where_above(y, V::ZERO)
    }

    /// The gradient of the pooled convolution.
    #[inline(always)]
    fn through_normalization(
        &self,
        normalized: &[f32],
        dy: &[f32],
        dgamma: &[f32],
        dbeta: &[f32],
        dz: &mut [f32],
    ) {
        let width = self.geometry.outputs;
        let share = V::splat(1.0 / self.geometry.tiles() as f32);
        let rows = normalized.chunks_exact(width).zip(dy.chunks_exact(width));
        for ((normalized, dy), dz) in rows.zip(dz.chunks_exact_mut(width)) {
            for c in (0..width).step_by(LANES) {
                let at = V::load(normalized, c);
                let upstream = self.through_relu(at, V::load(dy, c), c);
                let common = (V::load(dbeta, c) + at * V::load(dgamma, c)) * share;
                let scale = V::load(&self.gamma, c) * V::load(&self.inverse_deviation, c);
                ((upstream - common) * scale).store(dz, c);
            }
        }
    }
}

fn winograd_backward(arch: Arch, saved: &Saved, dz: &[f32], x: Option<&mut [f32]>) -> Vec<f32> {
    let g = saved.geometry;
    let chunk = g.chunk();
    // The gradient of the products.
    let mut products = Buffer::take(POSITIONS * g.tiles() * g.outputs);
    products
        .par_chunks_mut(POSITIONS * chunk * g.outputs)
        .zip(dz.par_chunks(chunk * g.outputs))
        .zip(saved.winners.par_chunks(chunk * g.outputs))
        .for_each(|((products, dz), winners)| {
            arch.dispatch(|| unpool_products(g, dz, winners, products));
        });
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
                        Matrix::Columns(position(&saved.filters, k)),
                    );
                }
                arch.dispatch(|| transform_tiles_back(g, &tiles, images, count));
            });
    }
    let mut filters = Buffer::zeroed(POSITIONS * g.inputs * g.outputs);
    filters
        .par_chunks_mut(g.inputs * g.outputs)
        .enumerate()
        .for_each(|(k, filters)| {
            let tiles = saved.input.chunks(POSITIONS * chunk * g.inputs);
            for (tiles, products) in tiles.zip(products.chunks(POSITIONS * chunk * g.outputs)) {
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
    arch.dispatch(|| transform_filters_back(g, &filters))
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
fn transform_tiles(g: Geometry, images: &[f32], tiles: &mut [f32], count: usize) {
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
            for (k, d) in d.into_iter().enumerate() {
                let at = (k * count + tile) * g.inputs;
                d.store(&mut tiles[at..at + g.inputs], c);
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
            for (k, d) in d.iter_mut().enumerate() {
                let at = (k * count + tile) * g.inputs;
                *d = V::load(&tiles[at..at + g.inputs], c);
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
            for (pixel, d) in pixels.iter().zip(d) {
                if let Some(at) = *pixel {
                    let pixel = &mut images[at..at + g.inputs];
                    (V::load(pixel, c) + d).store(pixel, c);
                }
            }
        }
    }
}

/// The four outputs of each tile, of which the largest is kept.
#[inline(always)]
fn pool_products(
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
            for (k, m) in m.iter_mut().enumerate() {
                let at = (k * count + tile) * g.outputs;
                *m = V::load(&products[at..at + g.outputs], c);
            }
            let (mut upper, mut lower) = ([V::ZERO; 4], [V::ZERO; 4]);
            for j in 0..4 {
                upper[j] = m[j] + m[4 + j] + m[8 + j];
                lower[j] = m[4 + j] - m[8 + j] - m[12 + j];
            }
            let left = |s: [V; 4]| s[0] + s[1] + s[2];
            let right = |s: [V; 4]| s[1] - s[2] - s[3];
            let four = [left(upper), right(upper), left(lower), right(lower)];
            keep_largest(
                four,
                bias,
                c,
                &mut windows[window.clone()],
                &mut winners[window.clone()],
            );
        }
    }
}

#[inline(always)]
fn keep_largest(four: [V; 4], bias: &[f32], c: usize, window: &mut [f32], winners: &mut [u8]) {
    let (mut best, mut winner) = (four[0], [0i32; LANES]);
    for (which, one) in four.into_iter().enumerate().skip(1) {
        for i in 0..LANES {
            // What is not a number must not get lost.
            let wins = (one.0[i] > best.0[i]) | one.0[i].is_nan();
            best.0[i] = if wins { one.0[i] } else { best.0[i] };
            winner[i] = if wins { which as i32 } else { winner[i] };
        }
    }
    (best + V::load(bias, c)).store(window, c);
    let winner = winner.map(|w| w as u8);
    match winners.get_mut(c..c + LANES) {
        Some(whole) => whole.copy_from_slice(&winner),
        None => winners[c..]
            .iter_mut()
            .zip(winner)
            .for_each(|(w, new)| *w = new),
    }
}

/// The gradient of a window, at the place of the four that was the largest.
#[inline(always)]
fn unpool(dz: &[f32], winners: &[u8], c: usize) -> [V; 4] {
    let upstream = V::load(dz, c);
    let winner: [u8; LANES] = match winners.get(c..c + LANES) {
        Some(whole) => whole.try_into().expect("as many as asked for"),
        None => std::array::from_fn(|i| winners.get(c + i).copied().unwrap_or(0)),
    };
    let mut four = [V::ZERO; 4];
    for (which, one) in four.iter_mut().enumerate() {
        for i in 0..LANES {
            one.0[i] = if winner[i] == which as u8 {
                upstream.0[i]
            } else {
                0.0
            };
        }
    }
    four
}

/// The adjoint of [`pool_products`].
#[inline(always)]
fn unpool_products(g: Geometry, dz: &[f32], winners: &[u8], products: &mut [f32]) {
    let count = winners.len() / g.outputs;
    for tile in 0..count {
        let window = tile * g.outputs..(tile + 1) * g.outputs;
        for c in (0..g.outputs).step_by(LANES) {
            let four = unpool(&dz[window.clone()], &winners[window.clone()], c);
            // First along columns, then along rows.
            let along = |a: V, b: V| [a, a + b, a - b, V::ZERO - b];
            let (upper, lower) = (along(four[0], four[1]), along(four[2], four[3]));
            for j in 0..4 {
                for (i, d) in along(upper[j], lower[j]).into_iter().enumerate() {
                    let at = ((4 * i + j) * count + tile) * g.outputs;
                    d.store(&mut products[at..at + g.outputs], c);
                }
            }
        }
    }
}

/// G w Gᵀ with Winograd's matrix for filters, [1 0 0; ½ ½ ½; ½ −½ ½; 0 0 1] in rows.
#[inline(always)]
fn transform_filters(g: Geometry, weight: &[f32]) -> Buffer {
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
                for (i, u) in column.into_iter().enumerate() {
                    let at = ((4 * i + j) * g.inputs + input) * g.outputs;
                    u.store(&mut filters[at..at + g.outputs], c);
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

/// From `[outputs, inputs, taps]` to `[taps, inputs, outputs]`.
fn reorder_filters(g: Geometry, weight: &[f32]) -> Buffer {
    let mut filters = Buffer::take(weight.len());
    for (i, w) in weight.iter().enumerate() {
        let (output, input, tap) = (i / (9 * g.inputs), i / 9 % g.inputs, i % 9);
        filters[(tap * g.inputs + input) * g.outputs + output] = *w;
    }
    filters
}

/// The direct convolution, pooled.
#[inline(always)]
fn convolve(
    g: Geometry,
    images: &[f32],
    filters: &[f32],
    bias: &[f32],
    windows: &mut [f32],
    winners: &mut [u8],
) {
    let outside = vec![0.0; g.inputs];
    for tile in 0..winners.len() / g.outputs {
        let patch = g.patch(images, tile, &outside);
        let window = tile * g.outputs..(tile + 1) * g.outputs;
        for c in (0..g.outputs).step_by(LANES) {
            let mut four = [V::ZERO; 4];
            for input in 0..g.inputs {
                for tap in 0..9 {
                    let at = (tap * g.inputs + input) * g.outputs;
                    let w = V::load(&filters[at..at + g.outputs], c);
                    for (which, one) in four.iter_mut().enumerate() {
                        *one = *one + V::splat(patch[seen(which, tap)][input]) * w;
                    }
                }
            }
            keep_largest(
                four,
                bias,
                c,
                &mut windows[window.clone()],
                &mut winners[window.clone()],
            );
        }
    }
}

/// The place in the 4 x 4 pixels that tap `tap` of the filter sees for the `which`-th of the four outputs.
#[inline(always)]
fn seen(which: usize, tap: usize) -> usize {
    4 * (which / 2 + tap / 3) + which % 2 + tap % 3
}

/// The gradient of the filters, `[outputs, inputs, taps]`, and that of the input, added to `x`.
fn direct_backward(arch: Arch, saved: &Saved, dz: &[f32], x: Option<&mut [f32]>) -> Vec<f32> {
    let g = saved.geometry;
    let filters = arch.dispatch(|| direct_filters_back(g, &saved.input, dz, &saved.winners));
    if let Some(x) = x {
        arch.dispatch(|| direct_input_back(g, &saved.filters, dz, &saved.winners, x));
    }
    let mut weight = vec![0.0; filters.len()];
    for (i, w) in weight.iter_mut().enumerate() {
        let (output, input, tap) = (i / (9 * g.inputs), i / 9 % g.inputs, i % 9);
        *w = filters[(tap * g.inputs + input) * g.outputs + output];
    }
    weight
}

#[inline(always)]
fn direct_filters_back(g: Geometry, images: &[f32], dz: &[f32], winners: &[u8]) -> Buffer {
    let outside = vec![0.0; g.inputs];
    let mut filters = Buffer::zeroed(9 * g.inputs * g.outputs);
    let mut patches = [[0.0; POSITIONS]; ROWS_AT_A_TIME];
    for first in (0..g.tiles()).step_by(ROWS_AT_A_TIME) {
        let tiles = first..g.tiles().min(first + ROWS_AT_A_TIME);
        for input in 0..g.inputs {
            for (patch, tile) in patches.iter_mut().zip(tiles.clone()) {
                *patch = g.patch(images, tile, &outside).map(|pixel| pixel[input]);
            }
            for c in (0..g.outputs).step_by(LANES) {
                let mut sums = [V::ZERO; 9];
                for (patch, tile) in patches.iter().zip(tiles.clone()) {
                    let window = tile * g.outputs..(tile + 1) * g.outputs;
                    let four = unpool(&dz[window.clone()], &winners[window], c);
                    for (tap, sum) in sums.iter_mut().enumerate() {
                        for (which, one) in four.iter().enumerate() {
                            *sum = *sum + V::splat(patch[seen(which, tap)]) * *one;
                        }
                    }
                }
                for (tap, sum) in sums.into_iter().enumerate() {
                    let at = (tap * g.inputs + input) * g.outputs;
                    let filter = &mut filters[at..at + g.outputs];
                    (V::load(filter, c) + sum).store(filter, c);
                }
            }
        }
    }
    filters
}

/// Rarely wanted: images seldom have a gradient.
#[inline(always)]
fn direct_input_back(g: Geometry, filters: &[f32], dz: &[f32], winners: &[u8], x: &mut [f32]) {
    for tile in 0..g.tiles() {
        let pixels = g.pixels(tile);
        for output in 0..g.outputs {
            let at = tile * g.outputs + output;
            for tap in 0..9 {
                let Some(pixel) = pixels[seen(winners[at].into(), tap)] else {
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

/// The sum over rows of what `row` gives, for each column; `row` gets where the row starts, and a column.
#[inline(always)]
fn column_sums<const N: usize>(
    rows: usize,
    width: usize,
    row: impl Fn(usize, usize) -> [V; N],
) -> [Vec<f32>; N] {
    let mut totals = [(); N].map(|()| vec![0.0; width]);
    for first in (0..rows).step_by(ROWS_AT_A_TIME) {
        for c in (0..width).step_by(LANES) {
            let mut sums = [V::ZERO; N];
            for i in first..rows.min(first + ROWS_AT_A_TIME) {
                let values = row(i * width, c);
                for n in 0..N {
                    sums[n] = sums[n] + values[n];
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                (V::load(total, c) + sum).store(total, c);
            }
        }
    }
    totals
}

/// Mean and biased variance of each column.
#[inline(always)]
fn moments(rows: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let count = rows.len() / width;
    let share = 1.0 / count as f32;
    let [mut mean] = column_sums(
        count,
        width,
        #[inline(always)]
        |row, c| [V::load(&rows[row..row + width], c)],
    );
    mean.iter_mut().for_each(|m| *m *= share);
    let [mut variance] = column_sums(
        count,
        width,
        #[inline(always)]
        |row, c| {
            let offset = V::load(&rows[row..row + width], c) - V::load(&mean, c);
            [offset * offset]
        },
    );
    variance.iter_mut().for_each(|v| *v *= share);
    (mean, variance)
}

/// Normalizes `windows` in place; `y` is what the ReLU makes of them, scaled and shifted.
#[inline(always)]
fn normalize(
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
        for c in (0..width).step_by(LANES) {
            let normalized =
                (V::load(window, c) - V::load(mean, c)) * V::load(inverse_deviation, c);
            normalized.store(window, c);
            let scaled = normalized * V::load(gamma, c) + V::load(beta, c);
            // As `max`, but it keeps what is not a number.
            scaled
                .map(
                    #[inline(always)]
                    |v| if v < 0.0 { 0.0 } else { v },
                )
                .store(y, c);
        }
    }
}
