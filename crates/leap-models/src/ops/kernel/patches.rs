//! Any convolution as a matrix product: the pixels that each output sees, laid out in rows.

use crate::ops::buffer::Buffer;
use crate::ops::product::{self, Left};
use crate::ops::simd::vectorized;

use super::conv::Conv;

/// Outputs that are worked on at a time: what they see should stay in a core's cache.
const OUTPUTS_AT_A_TIME: usize = 128;

impl Conv {
    /// Values that an output sees.
    fn seen(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.inputs
    }

    /// Whether an output sees the pixel at its own place and nothing else.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.padding == [0, 0]
            && self.size == [self.height, self.width]
    }

    /// Rows of outputs that are worked on at a time.
    fn rows_at_a_time(&self) -> usize {
        (OUTPUTS_AT_A_TIME / self.size[1]).clamp(1, self.size[0])
    }

    /// Where the pixel that tap `tap` sees for an output lies in its image; `None` is beyond an edge.
    #[inline(always)]
    fn pixel(&self, [row, column]: [usize; 2], [i, j]: [usize; 2]) -> Option<usize> {
        let y = (row * self.stride[0] + i * self.dilation[0]).checked_sub(self.padding[0])?;
        let x = (column * self.stride[1] + j * self.dilation[1]).checked_sub(self.padding[1])?;
        (y < self.height && x < self.width).then(|| (y * self.width + x) * self.inputs)
    }

    /// What the outputs from row `first` on see, `[output][tap][input]`.
    #[inline(always)]
    fn gather(&self, image: &[f32], first: usize, patches: &mut [f32]) {
        let mut taps = patches.chunks_exact_mut(self.inputs);
        for output in 0..patches_in(taps.len(), self) {
            let place = [first + output / self.size[1], output % self.size[1]];
            for i in 0..self.kernel[0] {
                for j in 0..self.kernel[1] {
                    let Some(tap) = taps.next() else { return };
                    match self.pixel(place, [i, j]) {
                        Some(at) => tap.copy_from_slice(&image[at..at + self.inputs]),
                        None => tap.fill(0.0),
                    }
                }
            }
        }
    }

    /// The adjoint of [`gather`](Self::gather), added to the image.
    #[inline(always)]
    fn scatter(&self, patches: &[f32], first: usize, image: &mut [f32]) {
        let mut taps = patches.chunks_exact(self.inputs);
        for output in 0..patches_in(taps.len(), self) {
            let place = [first + output / self.size[1], output % self.size[1]];
            for i in 0..self.kernel[0] {
                for j in 0..self.kernel[1] {
                    let Some(tap) = taps.next() else { return };
                    if let Some(at) = self.pixel(place, [i, j]) {
                        let pixel = &mut image[at..at + self.inputs];
                        pixel.iter_mut().zip(tap).for_each(|(p, t)| *p += t);
                    }
                }
            }
        }
    }

    /// Does `work` for each chunk of an image's outputs: their first row, their number, and what they see.
    fn for_chunks(&self, image: &[f32], mut work: impl FnMut(usize, usize, &[f32])) {
        if self.is_pointwise() {
            return work(0, self.size[0] * self.size[1], image);
        }
        let at_a_time = self.rows_at_a_time();
        let mut patches = Buffer::take(at_a_time * self.size[1] * self.seen());
        for first in (0..self.size[0]).step_by(at_a_time) {
            let count = (self.size[0] - first).min(at_a_time) * self.size[1];
            let patches = &mut patches[..count * self.seen()];
            vectorized!(|_simd| self.gather(image, first, patches));
            work(first, count, patches);
        }
    }

    /// An image's outputs; `filters` are `[tap][input][output]`.
    pub(super) fn convolve_image(
        &self,
        image: &[f32],
        filters: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) {
        y.chunks_exact_mut(self.outputs)
            .for_each(|y| y.copy_from_slice(bias));
        self.for_chunks(image, |first, count, patches| {
            let at = first * self.size[1] * self.outputs;
            vectorized!(|simd| product::multiply(
                simd,
                [count, self.outputs, self.seen()],
                &mut y[at..at + count * self.outputs],
                true,
                Left::Rows(patches),
                filters,
            ));
        });
    }

    /// Adds the gradient of the filters that comes of an image.
    pub(super) fn filters_back(&self, image: &[f32], dy: &[f32], dfilters: &mut [f32]) {
        self.for_chunks(image, |first, count, patches| {
            let at = first * self.size[1] * self.outputs;
            vectorized!(|simd| product::multiply(
                simd,
                [self.seen(), self.outputs, count],
                dfilters,
                true,
                Left::Columns(patches, self.seen()),
                &dy[at..at + count * self.outputs],
            ));
        });
    }

    /// The gradient of an image, which is zero before; `transposed` are the filters, `[output][tap][input]`.
    pub(super) fn image_back(&self, transposed: &[f32], dy: &[f32], dimage: &mut [f32]) {
        let product = |count: usize, dy: &[f32], patches: &mut [f32]| {
            vectorized!(|simd| product::multiply(
                simd,
                [count, self.seen(), self.outputs],
                patches,
                false,
                Left::Rows(dy),
                transposed,
            ));
        };
        if self.is_pointwise() {
            return product(self.size[0] * self.size[1], dy, dimage);
        }
        let at_a_time = self.rows_at_a_time();
        let mut patches = Buffer::take(at_a_time * self.size[1] * self.seen());
        for first in (0..self.size[0]).step_by(at_a_time) {
            let count = (self.size[0] - first).min(at_a_time) * self.size[1];
            let patches = &mut patches[..count * self.seen()];
            let at = first * self.size[1] * self.outputs;
            product(count, &dy[at..at + count * self.outputs], patches);
            vectorized!(|_simd| self.scatter(patches, first, dimage));
        }
    }
}

fn patches_in(taps: usize, conv: &Conv) -> usize {
    taps / (conv.kernel[0] * conv.kernel[1])
}
