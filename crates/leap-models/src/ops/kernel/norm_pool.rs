//! Batch-normalization with ReLU and 2 x 2 max-pooling behind it, both or none, in one pass each way.

use rayon::prelude::*;

use crate::ops::backend::Floats;
use crate::ops::buffer::Buffer;
use crate::ops::simd::{LANES, V, vectorized};

use super::normalize::{column_sums, moments};
use super::pool::{keep_largest, pick, unpool};

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
    /// Which of a window's four was the largest, where there is pooling.
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
        let (mean, variance) = match running {
            Some((mean, variance)) => (mean.to_vec(), variance.to_vec()),
            None => vectorized!(moments(&x, self.channels)),
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
            winners: Vec::new(),
        };
        let mut y = Buffer::take(self.batch * self.result());
        let images = y
            .par_chunks_mut(self.result())
            .zip(saved.x.par_chunks(self.image()));
        if self.pool {
            let mut winners = vec![0; self.batch * self.result()];
            images
                .zip(winners.par_chunks_mut(self.result()))
                .for_each(|((y, x), winners)| {
                    vectorized!(saved.normalize_and_pool(x, y, winners));
                });
            saved.winners = winners;
        } else {
            images.for_each(|(y, x)| vectorized!(saved.normalize(x, y)));
        }
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
                let mut four = [V::ZERO; 4];
                for i in 0..4 {
                    let at = pixels[i];
                    four[i] = self.activated(self.normalized(V::load(&x[at..at + width], c), c), c);
                }
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
        let norm = self.norm;
        assert_eq!(dy.len(), norm.batch * norm.result());
        let winners = |image: usize| match norm.pool {
            true => &self.winners[image * norm.result()..][..norm.result()],
            false => &[],
        };
        let images = || {
            let dy = dy.par_chunks(norm.result());
            self.x.par_chunks(norm.image()).zip(dy).enumerate()
        };
        let sums: Vec<[Vec<f32>; 2]> = images()
            .map(|(i, (x, dy))| vectorized!(self.sums(x, dy, winners(i))))
            .collect();
        let mut totals = [(); 2].map(|()| vec![0.0; norm.channels]);
        for sums in &sums {
            for (total, sum) in totals.iter_mut().zip(sums) {
                total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
            }
        }
        let [dbeta, dgamma] = totals;
        let x = x_wanted.then(|| {
            let mut dx = Buffer::take(self.x.len());
            dx.par_chunks_mut(norm.image())
                .zip(images())
                .for_each(|(dx, (i, (x, dy)))| {
                    vectorized!(self.input_back(x, dy, winners(i), [&dgamma, &dbeta], dx));
                });
            dx
        });
        (x, dgamma, dbeta)
    }

    /// An image's sums of the gradient behind the normalization, and of that times the normalized values: the gradients of
    /// shift and gain.
    #[inline(always)]
    fn sums(&self, x: &[f32], dy: &[f32], winners: &[u8]) -> [Vec<f32>; 2] {
        let width = self.norm.channels;
        column_sums(
            dy.len() / width,
            width,
            #[inline(always)]
            |row, c| {
                let d = V::load(&dy[row..row + width], c);
                let x = match self.norm.pool {
                    true => {
                        let pixels = self.norm.pixels(row / width);
                        let mut four = [V::ZERO; 4];
                        for i in 0..4 {
                            four[i] = V::load(&x[pixels[i]..pixels[i] + width], c);
                        }
                        pick(four, &winners[row..row + width], c)
                    }
                    false => V::load(&x[row..row + width], c),
                };
                let d = self.before_relu(d, x, c);
                [d, d * self.normalized(x, c)]
            },
        )
    }

    /// The gradient of the pixel at `at`, given that behind the ReLU.
    #[inline(always)]
    fn pixel_back(
        &self,
        x: &[f32],
        at: usize,
        d: V,
        c: usize,
        [dgamma, dbeta]: [&[f32]; 2],
        dx: &mut [f32],
    ) {
        let width = self.norm.channels;
        let share = V::splat(width as f32 / self.x.len() as f32);
        let x = V::load(&x[at..at + width], c);
        let common = (V::load(dbeta, c) + self.normalized(x, c) * V::load(dgamma, c)) * share;
        let scale = V::load(&self.gamma, c) * V::load(&self.inverse_deviation, c);
        ((self.before_relu(d, x, c) - common) * scale).store(&mut dx[at..at + width], c);
    }

    /// An image's gradient.
    #[inline(always)]
    fn input_back(&self, x: &[f32], dy: &[f32], winners: &[u8], sums: [&[f32]; 2], dx: &mut [f32]) {
        let (norm, width) = (self.norm, self.norm.channels);
        if !norm.pool {
            for at in (0..dy.len()).step_by(width) {
                for c in (0..width).step_by(LANES) {
                    self.pixel_back(x, at, V::load(&dy[at..at + width], c), c, sums, dx);
                }
            }
            return;
        }
        for place in 0..dy.len() / width {
            let row = place * width..(place + 1) * width;
            let pixels = norm.pixels(place);
            for c in (0..width).step_by(LANES) {
                let four = unpool(&dy[row.clone()], &winners[row.clone()], c);
                for i in 0..4 {
                    self.pixel_back(x, pixels[i], four[i], c, sums, dx);
                }
            }
        }
        // An odd row or column is in no window.
        let [rows, columns] = norm.size();
        for row in 0..norm.height {
            let first = if row < 2 * rows { 2 * columns } else { 0 };
            for column in first..norm.width {
                let at = (row * norm.width + column) * width;
                for c in (0..width).step_by(LANES) {
                    self.pixel_back(x, at, V::ZERO, c, sums, dx);
                }
            }
        }
    }
}
