//! Batch-normalization with ReLU and 2 x 2 max-pooling behind it, both or none, in one pass each way.

use pulp::Arch;
use rayon::prelude::*;

use crate::ops::backend::Floats;
use crate::ops::buffer::Buffer;
use crate::ops::simd::{LANES, V};

use super::normalize::{column_sums, moments};
use super::pool::{keep_largest, unpool};

/// Sizes, and what is done. Images are `[batch, height, width, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub relu: bool,
    /// A last odd row or column has no window.
    pub pool: bool,
    pub epsilon: f32,
}

/// What a forward pass keeps for the backward pass.
#[derive(Debug)]
pub(in crate::ops) struct SavedNorm {
    norm: Norm,
    x: Floats,
    mean: Vec<f32>,
    inverse_deviation: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    /// Which of a window's four was the largest.
    winners: Vec<u8>,
}

impl Norm {
    /// Height and width of the result.
    pub fn size(&self) -> [usize; 2] {
        match self.pool {
            true => [self.height / 2, self.width / 2],
            false => [self.height, self.width],
        }
    }

    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn result(&self) -> usize {
        self.size()[0] * self.size()[1] * self.channels
    }

    /// Where the pixels of a place of the result lie in their image.
    #[inline(always)]
    fn pixels(&self, place: usize) -> [usize; 4] {
        let columns = self.size()[1];
        let (row, column) = (2 * (place / columns), 2 * (place % columns));
        std::array::from_fn(|i| ((row + i / 2) * self.width + column + i % 2) * self.channels)
    }

    /// The result `[batch, height', width', channels]`, with mean and biased variance of the batch, by which it is
    /// normalized where no others are given.
    pub(in crate::ops) fn forward(
        self,
        x: Floats,
        gamma: &[f32],
        beta: &[f32],
        running: Option<(&[f32], &[f32])>,
    ) -> (Buffer, Vec<f32>, Vec<f32>, SavedNorm) {
        assert_eq!(x.len(), self.batch * self.image());
        assert!(gamma.len() == self.channels && beta.len() == self.channels);
        let arch = Arch::new();
        let (mean, variance) = match running {
            Some((mean, variance)) => (mean.to_vec(), variance.to_vec()),
            None => arch.dispatch(|| moments(&x, self.channels)),
        };
        let inverse_deviation: Vec<f32> = variance
            .iter()
            .map(|v| (v + self.epsilon).sqrt().recip())
            .collect();
        let mut saved = SavedNorm {
            norm: self,
            x,
            mean: mean.clone(),
            inverse_deviation,
            gamma: gamma.to_vec(),
            beta: beta.to_vec(),
            winners: vec![
                0;
                if self.pool {
                    self.batch * self.result()
                } else {
                    0
                }
            ],
        };
        let mut y = Buffer::take(self.batch * self.result());
        let mut winners = std::mem::take(&mut saved.winners);
        if self.result() > 0 {
            match self.pool {
                true => y
                    .par_chunks_mut(self.result())
                    .zip(winners.par_chunks_mut(self.result()))
                    .zip(saved.x.par_chunks(self.image()))
                    .for_each(|((y, winners), x)| {
                        arch.dispatch(|| saved.normalize_and_pool(x, y, winners));
                    }),
                false => y
                    .par_chunks_mut(self.result())
                    .zip(saved.x.par_chunks(self.image()))
                    .for_each(|(y, x)| arch.dispatch(|| saved.normalize(x, y))),
            }
        }
        saved.winners = winners;
        (y, mean, variance, saved)
    }
}

impl SavedNorm {
    #[inline(always)]
    fn normalized(&self, x: V, c: usize) -> V {
        (x - V::load(&self.mean, c)) * V::load(&self.inverse_deviation, c)
    }

    /// Scaled and shifted, with the ReLU if there is one. As `max`, but it keeps what is not a number.
    #[inline(always)]
    fn activated(&self, normalized: V, c: usize) -> V {
        let scaled = normalized * V::load(&self.gamma, c) + V::load(&self.beta, c);
        match self.norm.relu {
            true => scaled.map(
                #[inline(always)]
                |v| if v < 0.0 { 0.0 } else { v },
            ),
            false => scaled,
        }
    }

    #[inline(always)]
    fn normalize(&self, x: &[f32], y: &mut [f32]) {
        let width = self.norm.channels;
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            for c in (0..width).step_by(LANES) {
                let normalized = self.normalized(V::load(x, c), c);
                self.activated(normalized, c).store(y, c);
            }
        }
    }

    #[inline(always)]
    fn normalize_and_pool(&self, x: &[f32], y: &mut [f32], winners: &mut [u8]) {
        let width = self.norm.channels;
        let zeros = vec![0.0; width];
        let places = y
            .chunks_exact_mut(width)
            .zip(winners.chunks_exact_mut(width));
        for (place, (y, winners)) in places.enumerate() {
            let pixels = self.norm.pixels(place);
            for c in (0..width).step_by(LANES) {
                let four = pixels.map(|at| {
                    let x = V::load(&x[at..at + width], c);
                    self.activated(self.normalized(x, c), c)
                });
                keep_largest(four, &zeros, c, y, winners);
            }
        }
    }

    /// The gradient before the ReLU, if there is one.
    #[inline(always)]
    fn before_relu(&self, d: V, x: V, c: usize) -> V {
        match self.norm.relu {
            true => {
                let scaled =
                    self.normalized(x, c) * V::load(&self.gamma, c) + V::load(&self.beta, c);
                d.where_above(scaled, V::ZERO)
            }
            false => d,
        }
    }

    /// The gradients of the input, if it is wanted, of gain and shift, given that of the result. The forward pass must have
    /// normalized by the batch.
    pub fn backward(&self, dy: &[f32], x_wanted: bool) -> (Option<Buffer>, Vec<f32>, Vec<f32>) {
        let (norm, arch) = (self.norm, Arch::new());
        let width = norm.channels;
        assert_eq!(dy.len(), norm.batch * norm.result());
        // The gradient behind the normalization, in all pixels.
        let mut upstream = match norm.pool && (norm.height % 2 == 1 || norm.width % 2 == 1) {
            true => Buffer::zeroed(self.x.len()), // Some are in no window.
            false => Buffer::take(self.x.len()),
        };
        if norm.result() > 0 {
            upstream
                .par_chunks_mut(norm.image())
                .zip(self.x.par_chunks(norm.image()))
                .zip(dy.par_chunks(norm.result()))
                .enumerate()
                .for_each(|(i, ((upstream, x), dy))| {
                    arch.dispatch(|| match norm.pool {
                        true => {
                            let winners = &self.winners[i * norm.result()..][..norm.result()];
                            self.unpool(x, dy, winners, upstream);
                        }
                        false => self.through_relu(x, dy, upstream),
                    });
                });
        }
        let [dbeta, dgamma] = arch.dispatch(|| {
            column_sums(
                self.x.len() / width,
                width,
                #[inline(always)]
                |row, c| {
                    let d = V::load(&upstream[row..row + width], c);
                    let x = V::load(&self.x[row..row + width], c);
                    [d, d * self.normalized(x, c)]
                },
            )
        });
        let x = x_wanted.then(|| {
            let mut dx = Buffer::take(self.x.len());
            let share = V::splat(width as f32 / self.x.len() as f32);
            dx.par_chunks_mut(norm.image())
                .zip(self.x.par_chunks(norm.image()))
                .zip(upstream.par_chunks(norm.image()))
                .for_each(|((dx, x), upstream)| {
                    arch.dispatch(|| {
                        self.through_normalization(x, upstream, &dgamma, &dbeta, share, dx)
                    });
                });
            dx
        });
        (x, dgamma, dbeta)
    }

    #[inline(always)]
    fn unpool(&self, x: &[f32], dy: &[f32], winners: &[u8], upstream: &mut [f32]) {
        let width = self.norm.channels;
        for place in 0..dy.len() / width {
            let row = place * width..(place + 1) * width;
            let pixels = self.norm.pixels(place);
            for c in (0..width).step_by(LANES) {
                let four = unpool(&dy[row.clone()], &winners[row.clone()], c);
                for (at, d) in pixels.into_iter().zip(four) {
                    let d = self.before_relu(d, V::load(&x[at..at + width], c), c);
                    d.store(&mut upstream[at..at + width], c);
                }
            }
        }
    }

    #[inline(always)]
    fn through_relu(&self, x: &[f32], dy: &[f32], upstream: &mut [f32]) {
        let width = self.norm.channels;
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
        for ((x, dy), upstream) in rows.zip(upstream.chunks_exact_mut(width)) {
            for c in (0..width).step_by(LANES) {
                let d = self.before_relu(V::load(dy, c), V::load(x, c), c);
                d.store(upstream, c);
            }
        }
    }

    #[inline(always)]
    fn through_normalization(
        &self,
        x: &[f32],
        upstream: &[f32],
        dgamma: &[f32],
        dbeta: &[f32],
        share: V,
        dx: &mut [f32],
    ) {
        let width = self.norm.channels;
        let rows = x.chunks_exact(width).zip(upstream.chunks_exact(width));
        for ((x, upstream), dx) in rows.zip(dx.chunks_exact_mut(width)) {
            for c in (0..width).step_by(LANES) {
                let normalized = self.normalized(V::load(x, c), c);
                let common = (V::load(dbeta, c) + normalized * V::load(dgamma, c)) * share;
                let scale = V::load(&self.gamma, c) * V::load(&self.inverse_deviation, c);
                ((V::load(upstream, c) - common) * scale).store(dx, c);
            }
        }
    }
}
