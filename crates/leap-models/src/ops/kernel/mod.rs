//! The convolution block on plain slices.
//!
//! Images are kept with the channels last, `[batch, height, width, channels]`, so that vector instructions run along
//! channels. The convolution is Winograd's F(2 x 2, 3 x 3) or F(4 x 4, 3 x 3) (Lavin, Gray: "Fast Algorithms for
//! Convolutional Neural Networks", [arXiv 1509.09308](https://arxiv.org/abs/1509.09308)): tiles of 4 x 4 or 6 x 6 pixels
//! and the filters are transformed, multiplied position by position, which over all tiles and channels makes 16 or 36
//! matrix products, and transformed back to 2 x 2 or 4 x 4 outputs. These are just what one max-pooling window sees, or
//! four: outputs that pooling would drop at odd edges are never computed, and none that it looks at is ever stored.
//!
//! The backward pass is the adjoint of each of these steps. Inputs of few channels, for which the products would be
//! too thin, are convolved directly.

// Positions are counted as in the formulas.
#![allow(clippy::needless_range_loop)]

mod conv;
mod direct;
mod geometry;
mod norm_pool;
mod normalize;
mod patches;
mod pool;
mod saved;
mod winograd;

use rayon::prelude::*;

use crate::ops::buffer::Buffer;
use crate::ops::simd::{V, vectorized};

use direct::{convolve, direct_backward, reorder_filters};
use normalize::{column_sums, moments, normalize};
use winograd::{multiply, pool_products, transform_filters, transform_tiles, winograd_backward};

pub(super) use conv::{Conv, SavedConv};
pub(super) use geometry::Geometry;
pub(super) use norm_pool::{Norm, SavedNorm};
pub(super) use saved::Saved;

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
    pub y: Buffer,
    /// Mean by which the batch was normalized.
    pub mean: Vec<f32>,
    /// Biased variance by which the batch was normalized.
    pub variance: Vec<f32>,
    /// What the backward pass needs.
    pub saved: Saved,
}

/// What a backward pass gives, in the shapes of the forward pass's inputs.
pub(super) struct Gradients {
    pub x: Option<Buffer>,
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
    let mut windows = Buffer::take(g.windows() * g.outputs);
    let mut winners = Buffer::take(g.windows() * g.outputs);
    let images = x.par_chunks(g.chunk() * g.image());
    let results = windows
        .par_chunks_mut(g.chunk_windows())
        .zip(winners.par_chunks_mut(g.chunk_windows()));

    let (input, filters);
    if g.winograd() {
        let transformed = transform_filters(g, params.weight, false);
        let mut tiles = Buffer::take(g.chunks() * g.chunk_tiles(g.inputs));
        tiles
            .par_chunks_mut(g.chunk_tiles(g.inputs))
            .zip(images)
            .zip(results)
            .for_each(|((tiles, images), (windows, winners))| {
                transform_tiles(g, images, tiles);
                let count = g.tiles_of(images);
                let products = multiply(g, count, tiles, &transformed);
                pool_products(g, &products, params.bias, windows, winners);
            });
        input = tiles;
        filters = Buffer::of(params.weight);
    } else {
        filters = reorder_filters([9, g.inputs, g.outputs], params.weight);
        images
            .zip(results)
            .for_each(|(images, (windows, winners))| {
                vectorized!(|simd| convolve(
                    simd,
                    g,
                    images,
                    &filters,
                    params.bias,
                    windows,
                    winners
                ));
            });
        input = Buffer::of(x);
    }

    let (mean, variance) = match statistics {
        Statistics::Running(mean, variance) => (mean.to_vec(), variance.to_vec()),
        Statistics::Batch => vectorized!(|simd| moments(simd, &windows, g.outputs)),
    };
    let inverse_deviation: Vec<f32> = variance
        .iter()
        .map(|v| (v + params.epsilon).sqrt().recip())
        .collect();
    let mut y = Buffer::take(windows.len());
    y.par_chunks_mut(g.chunk_windows())
        .zip(windows.par_chunks_mut(g.chunk_windows()))
        .for_each(|(y, windows)| {
            vectorized!(|simd| {
                normalize(
                    simd,
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
    assert_eq!(dy.len(), g.windows() * g.outputs);

    let [dbeta, dgamma] = vectorized!(|simd| {
        column_sums(
            simd,
            g.windows(),
            g.outputs,
            #[inline(always)]
            |row, c| {
                let normalized = V::load(simd, &saved.normalized[row..row + g.outputs], c);
                let upstream = saved.through_relu(
                    simd,
                    normalized,
                    V::load(simd, &dy[row..row + g.outputs], c),
                    c,
                );
                [upstream, upstream * normalized]
            },
        )
    });
    let mut dz = Buffer::take(dy.len());
    dz.par_chunks_mut(g.chunk_windows())
        .zip(saved.normalized.par_chunks(g.chunk_windows()))
        .zip(dy.par_chunks(g.chunk_windows()))
        .for_each(|((dz, normalized), dy)| {
            vectorized!(
                |simd| saved.through_normalization(simd, normalized, dy, &dgamma, &dbeta, dz)
            );
        });
    let [bias] = vectorized!(|simd| {
        column_sums(
            simd,
            g.windows(),
            g.outputs,
            #[inline(always)]
            |row, c| [V::load(simd, &dz[row..row + g.outputs], c)],
        )
    });

    let mut x = x_wanted.then(|| Buffer::zeroed(g.batch * g.image()));
    let weight = match g.winograd() {
        true => winograd_backward(saved, &dz, x.as_deref_mut()),
        false => direct_backward(saved, &dz, x.as_deref_mut()),
    };
    Gradients {
        x,
        weight,
        bias,
        gamma: dgamma,
        beta: dbeta,
    }
}
