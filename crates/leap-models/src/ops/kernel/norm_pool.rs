//! Batch-normalization with ReLU and 2 x 2 max-pooling behind it, both or none, in one pass each way.

use rayon::prelude::*;

use crate::ops::backend::Floats;
use crate::ops::buffer::Buffer;
use crate::ops::simd::{Simd, V, each, vectorized};

use super::normalize::{column_sums, moments};
use super::pool::{largest, pick, unpool};

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
            None => vectorized!(|simd| moments(simd, &x, self.channels)),
        };
        let inverse_deviation: Vec<f32> = variance
            .iter()
            .map(|v| (v + self.epsilon).sqrt().recip())
            .collect();
        let saved = SavedNorm {
            norm: self,
            x,
            mean: mean.clone(),
            inverse_deviation,
            gamma: gamma.to_vec(),
            beta: beta.to_vec(),
        };
        let mut y = Buffer::take(self.batch * self.result());
        let images = y
            .par_chunks_mut(self.result())
            .zip(saved.x.par_chunks(self.image()));
        match self.pool {
            true => images.for_each(|(y, x)| {
                vectorized!(|simd| saved.normalize_and_pool(simd, x, y));
            }),
            false => images.for_each(|(y, x)| vectorized!(|simd| saved.normalize(simd, x, y))),
        }
        (y, mean, variance, saved)
    }
}

impl SavedNorm {
    #[inline(always)]
    fn normalized<S: Simd>(&self, simd: S, x: V<S>, c: usize) -> V<S> {
        (x - V::load(simd, &self.mean, c)) * V::load(simd, &self.inverse_deviation, c)
    }

    #[inline(always)]
    fn scaled<S: Simd>(&self, simd: S, x: V<S>, c: usize) -> V<S> {
        let normalized = self.normalized(simd, x, c);
        normalized * V::load(simd, &self.gamma, c) + V::load(simd, &self.beta, c)
    }

    /// Scaled and shifted, with the ReLU if there is one.
    #[inline(always)]
    fn activated<S: Simd>(&self, simd: S, x: V<S>, c: usize) -> V<S> {
        let scaled = self.scaled(simd, x, c);
        match self.norm.relu {
            true => scaled.relu(),
            false => scaled,
        }
    }

    #[inline(always)]
    fn normalize<S: Simd>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        let width = self.norm.channels;
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            for c in (0..width).step_by(V::<S>::LANES) {
                self.activated(simd, V::load(simd, x, c), c).store(y, c);
            }
        }
    }

    /// The four of a window, and what is kept of them with which it was. Cheaper done again than kept from the forward pass.
    #[inline(always)]
    fn window<S: Simd>(
        &self,
        simd: S,
        x: &[f32],
        pixels: [usize; 4],
        c: usize,
    ) -> ([V<S>; 4], [V<S>; 2]) {
        let mut four = [V::zero(simd); 4];
        let mut activated = four;
        each!(i < 4, {
            four[i] = V::load(simd, &x[pixels[i]..pixels[i] + self.norm.channels], c);
            activated[i] = self.activated(simd, four[i], c);
        });
        (four, largest(simd, activated))
    }

    #[inline(always)]
    fn normalize_and_pool<S: Simd>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        let width = self.norm.channels;
        for (place, y) in y.chunks_exact_mut(width).enumerate() {
            let pixels = self.norm.pixels(place);
            for c in (0..width).step_by(V::<S>::LANES) {
                let (_, [best, _]) = self.window(simd, x, pixels, c);
                best.store(y, c);
            }
        }
    }

    /// The gradient before the ReLU, if there is one.
    #[inline(always)]
    fn before_relu<S: Simd>(&self, simd: S, d: V<S>, x: V<S>, c: usize) -> V<S> {
        match self.norm.relu {
            true => d.where_above(self.scaled(simd, x, c), V::zero(simd)),
            false => d,
        }
    }

    /// The gradients of the input, if it is wanted, of gain and shift, given that of the result. The forward pass must have
    /// normalized by the batch.
    pub fn backward(&self, dy: &[f32], x_wanted: bool) -> (Option<Buffer>, Vec<f32>, Vec<f32>) {
        let norm = self.norm;
        assert_eq!(dy.len(), norm.batch * norm.result());
        let images = || {
            let dy = dy.par_chunks(norm.result());
            self.x.par_chunks(norm.image()).zip(dy)
        };
        let sums: Vec<[Vec<f32>; 2]> = images()
            .map(|(x, dy)| vectorized!(|simd| self.sums(simd, x, dy)))
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
                .for_each(|(dx, (x, dy))| {
                    vectorized!(|simd| self.input_back(simd, x, dy, [&dgamma, &dbeta], dx));
                });
            dx
        });
        (x, dgamma, dbeta)
    }

    /// An image's sums of the gradient behind the normalization, and of that times the normalized values: the gradients of
    /// shift and gain.
    #[inline(always)]
    fn sums<S: Simd>(&self, simd: S, x: &[f32], dy: &[f32]) -> [Vec<f32>; 2] {
        let width = self.norm.channels;
        column_sums(
            simd,
            dy.len() / width,
            width,
            #[inline(always)]
            |row, c| {
                let d = V::load(simd, &dy[row..row + width], c);
                let x = match self.norm.pool {
                    true => {
                        let pixels = self.norm.pixels(row / width);
                        let (four, [_, winner]) = self.window(simd, x, pixels, c);
                        pick(simd, four, winner)
                    }
                    false => V::load(simd, &x[row..row + width], c),
                };
                let d = self.before_relu(simd, d, x, c);
                [d, d * self.normalized(simd, x, c)]
            },
        )
    }

    /// The gradient of a pixel, given that behind the ReLU.
    #[inline(always)]
    fn pixel_back<S: Simd>(
        &self,
        simd: S,
        x: V<S>,
        d: V<S>,
        c: usize,
        [dgamma, dbeta]: [&[f32]; 2],
    ) -> V<S> {
        let width = self.norm.channels;
        let share = V::splat(simd, width as f32 / self.x.len() as f32);
        let of_gain = self.normalized(simd, x, c) * V::load(simd, dgamma, c);
        let common = (V::load(simd, dbeta, c) + of_gain) * share;
        let scale = V::load(simd, &self.gamma, c) * V::load(simd, &self.inverse_deviation, c);
        (self.before_relu(simd, d, x, c) - common) * scale
    }

    /// An image's gradient.
    #[inline(always)]
    fn input_back<S: Simd>(
        &self,
        simd: S,
        x: &[f32],
        dy: &[f32],
        sums: [&[f32]; 2],
        dx: &mut [f32],
    ) {
        let (norm, width) = (self.norm, self.norm.channels);
        if !norm.pool {
            for at in (0..dy.len()).step_by(width) {
                let pixel = at..at + width;
                for c in (0..width).step_by(V::<S>::LANES) {
                    let x = V::load(simd, &x[pixel.clone()], c);
                    let d = V::load(simd, &dy[pixel.clone()], c);
                    let back = self.pixel_back(simd, x, d, c, sums);
                    back.store(&mut dx[pixel.clone()], c);
                }
            }
            return;
        }
        for (place, dy) in dy.chunks_exact(width).enumerate() {
            let pixels = norm.pixels(place);
            for c in (0..width).step_by(V::<S>::LANES) {
                let (four, [_, winner]) = self.window(simd, x, pixels, c);
                let upstream = unpool(simd, V::load(simd, dy, c), winner);
                each!(i < 4, {
                    let back = self.pixel_back(simd, four[i], upstream[i], c, sums);
                    back.store(&mut dx[pixels[i]..pixels[i] + width], c);
                });
            }
        }
        // An odd row or column is in no window.
        let [rows, columns] = norm.size();
        for row in 0..norm.height {
            let first = if row < 2 * rows { 2 * columns } else { 0 };
            for column in first..norm.width {
                let at = (row * norm.width + column) * width;
                for c in (0..width).step_by(V::<S>::LANES) {
                    let x = V::load(simd, &x[at..at + width], c);
                    let back = self.pixel_back(simd, x, V::zero(simd), c, sums);
                    back.store(&mut dx[at..at + width], c);
                }
            }
        }
    }
}
