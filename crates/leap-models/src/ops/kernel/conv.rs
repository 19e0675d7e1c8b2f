//! A convolution of any size, step, padding and dilation: Winograd's where it applies, else by patches.

use rayon::prelude::*;

use crate::ops::backend::Floats;
use crate::ops::buffer::Buffer;
use crate::ops::simd::{V, vectorized};

use super::direct::{reorder_back, reorder_filters};
use super::geometry::{Geometry, WINOGRAD_CHANNELS};
use super::normalize::column_sums;
use super::winograd::{
    multiply, spread_products, store_products, through_products, transform_filters, transform_tiles,
};

/// Parts of a batch whose gradients of the filters are computed side by side: always as many, so that sums do not depend on
/// the number of threads.
const PARTS: usize = 4;

/// Sizes of a convolution. Images are `[batch, height, width, channels]`, filters `[outputs, inputs, rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Rows and columns of zeros above and left of the images.
    pub padding: [usize; 2],
    /// Height and width of the result, which is what lies below and right decides.
    pub size: [usize; 2],
}

/// What a forward pass keeps for the backward pass.
#[derive(Debug)]
pub(in crate::ops) struct SavedConv {
    conv: Conv,
    input: Input,
    /// As they were for transformed tiles, else `[tap][inputs][outputs]`.
    filters: Buffer,
}

/// What is kept of a convolution's input.
#[derive(Debug)]
enum Input {
    /// Transformed tiles, in chunks.
    Tiles(Geometry, Buffer),
    Images(Floats),
}

impl Conv {
    fn winograd(&self) -> Option<Geometry> {
        let is_plain = self.kernel == [3, 3] && self.stride == [1, 1] && self.dilation == [1, 1];
        let applies = is_plain && self.inputs.min(self.outputs) >= WINOGRAD_CHANNELS;
        applies.then(|| {
            let image = [self.batch, self.height, self.width, self.inputs];
            Geometry::new(image, self.outputs, self.padding, self.size)
        })
    }

    fn image(&self) -> usize {
        self.height * self.width * self.inputs
    }

    fn result(&self) -> usize {
        self.size[0] * self.size[1] * self.outputs
    }

    /// Taps of a filter, inputs and outputs.
    fn filters(&self) -> [usize; 3] {
        [self.kernel[0] * self.kernel[1], self.inputs, self.outputs]
    }

    /// The result, `[batch, height, width, outputs]`, and what the backward pass needs.
    pub(in crate::ops) fn forward(
        self,
        x: Floats,
        weight: &[f32],
        bias: &[f32],
    ) -> (Buffer, SavedConv) {
        assert_eq!(x.len(), self.batch * self.image());
        assert_eq!(weight.len(), self.filters().iter().product::<usize>());
        assert_eq!(bias.len(), self.outputs);
        let mut y = Buffer::take(self.batch * self.result());
        let (input, filters);
        match self.winograd() {
            Some(g) => {
                let transformed = transform_filters(g, weight, false);
                let mut tiles = Buffer::take(g.chunks() * g.chunk_tiles(g.inputs));
                tiles
                    .par_chunks_mut(g.chunk_tiles(g.inputs))
                    .zip(x.par_chunks(g.chunk() * self.image()))
                    .zip(y.par_chunks_mut(g.chunk() * self.result()))
                    .for_each(|((tiles, x), y)| {
                        transform_tiles(g, x, tiles);
                        let count = g.tiles_of(x);
                        let products = multiply(g, count, tiles, &transformed);
                        store_products(g, &products, bias, y);
                    });
                input = Input::Tiles(g, tiles);
                filters = Buffer::of(weight);
            }
            None => {
                filters = reorder_filters(self.filters(), weight);
                x.par_chunks(self.image())
                    .zip(y.par_chunks_mut(self.result()))
                    .for_each(|(x, y)| self.convolve_image(x, &filters, bias, y));
                input = Input::Images(x);
            }
        }
        let saved = SavedConv {
            conv: self,
            input,
            filters,
        };
        (y, saved)
    }
}

impl SavedConv {
    /// The gradients of the input, if it is wanted, of the filters and of the bias, given that of the result.
    pub fn backward(&self, dy: &[f32], x_wanted: bool) -> (Option<Buffer>, Vec<f32>, Vec<f32>) {
        let conv = self.conv;
        assert_eq!(dy.len(), conv.batch * conv.result());
        let [bias] = vectorized!(|simd| {
            column_sums(
                simd,
                dy.len() / conv.outputs,
                conv.outputs,
                #[inline(always)]
                |row, c| [V::load(simd, &dy[row..row + conv.outputs], c)],
            )
        });
        let mut x = x_wanted.then(|| Buffer::zeroed(conv.batch * conv.image()));
        let weight = match &self.input {
            Input::Tiles(g, tiles) => {
                let g = *g;
                let mut products = Buffer::take(g.chunks() * g.chunk_tiles(g.outputs));
                products
                    .par_chunks_mut(g.chunk_tiles(g.outputs))
                    .zip(dy.par_chunks(g.chunk() * conv.result()))
                    .for_each(|(products, dy)| spread_products(g, dy, products));
                through_products(g, tiles, &self.filters, &products, x.as_deref_mut())
            }
            Input::Images(images) => self.patches_backward(images, dy, x.as_deref_mut()),
        };
        (x, weight, bias)
    }

    fn patches_backward(&self, input: &[f32], dy: &[f32], x: Option<&mut [f32]>) -> Vec<f32> {
        let conv = self.conv;
        if let Some(x) = x {
            let mut transposed = Buffer::take(self.filters.len());
            let seen = self.filters.len() / conv.outputs;
            for (i, taps) in transposed.chunks_exact_mut(seen).enumerate() {
                let filter = self.filters.iter().skip(i).step_by(conv.outputs);
                taps.iter_mut().zip(filter).for_each(|(tap, w)| *tap = *w);
            }
            x.par_chunks_mut(conv.image())
                .zip(dy.par_chunks(conv.result()))
                .for_each(|(x, dy)| conv.image_back(&transposed, dy, x));
        }
        let images = conv.batch.div_ceil(PARTS);
        let parts: Vec<Buffer> = input
            .par_chunks(images * conv.image())
            .zip(dy.par_chunks(images * conv.result()))
            .map(|(x, dy)| {
                let mut sum = Buffer::zeroed(self.filters.len());
                let images = x.chunks_exact(conv.image());
                for (x, dy) in images.zip(dy.chunks_exact(conv.result())) {
                    conv.filters_back(x, dy, &mut sum);
                }
                sum
            })
            .collect();
        let mut parts = parts.into_iter();
        let mut sum = parts
            .next()
            .unwrap_or_else(|| Buffer::zeroed(self.filters.len()));
        for part in parts {
            sum.iter_mut()
                .zip(&*part)
                .for_each(|(sum, part)| *sum += part);
        }
        reorder_back(conv.filters(), &sum)
    }
}
