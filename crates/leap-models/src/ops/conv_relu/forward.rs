//! The convolution and its ReLU, forward.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::ops::buffer::Buffer;
use crate::ops::planes::{Product, pack};

use super::geometry::{Filters, Geometry};

/// What a forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) geometry: Geometry,
    /// Of all groups.
    pub(super) planes: Buffer,
    /// Which results were above zero, as they lie behind each other in a group's planes.
    pub(super) active: Vec<bool>,
}

impl Geometry {
    /// The convolution, and ReLU; also, what the backward pass needs.
    pub(super) fn forward(self, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Kept) {
        let arch = Arch::new();
        let filters = pack(self.outputs, self.filter(), |row, k| {
            weight[row * self.filter() + k]
        });
        let filters = (filters, self.shifts());
        let images = x.len() / self.image();
        let groups = images.div_ceil(self.group);
        let (per_image, results) = (self.outputs * self.pixels(), self.results(self.group));
        let mut y = vec![0.0; images * per_image];
        let mut planes = Buffer::take(groups * self.all_planes());
        let mut active = vec![false; groups * results];
        y.par_chunks_mut(self.group * per_image)
            .zip(planes.par_chunks_mut(self.all_planes()))
            .zip(active.par_chunks_mut(results))
            .zip(x.par_chunks(self.group * self.image()))
            .for_each(|(((y, planes), active), images)| {
                arch.dispatch(GroupForward {
                    geometry: &self,
                    filters: &filters,
                    bias,
                    images,
                    planes,
                    active,
                    y,
                })
            });
        let kept = Kept {
            geometry: self,
            planes,
            active,
        };
        (y, kept)
    }
}

/// The forward pass of a group of images. All of `with_simd` is compiled for the processor's vectors, which a closure of
/// this size would not be.
struct GroupForward<'a> {
    geometry: &'a Geometry,
    filters: &'a Filters,
    bias: &'a [f32],
    images: &'a [f32],
    /// Receives the images' planes: [`Geometry::all_planes`] floats.
    planes: &'a mut [f32],
    /// Receives which results are above zero: [`Geometry::results`] flags.
    active: &'a mut [bool],
    /// Receives the results of the group's images.
    y: &'a mut [f32],
}

impl WithSimd for GroupForward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let g = self.geometry;
        g.split(self.images, self.planes);
        let length = g.length(self.images.len() / g.image());
        let mut result = Buffer::take(g.outputs * length);
        let product = Product {
            filters: &self.filters.0,
            shifts: &self.filters.1,
            planes: self.planes,
            length,
            result: &mut result,
        };
        product.with_simd(simd);
        let rows = result.chunks_exact_mut(length);
        for ((row, active), bias) in rows
            .zip(self.active.chunks_exact_mut(length))
            .zip(self.bias)
        {
            for (v, active) in row.iter_mut().zip(active) {
                *v += bias;
                *active = *v > 0.0;
                // As `max`, but it keeps what is not a number.
                *v = if *v < 0.0 { 0.0 } else { *v };
            }
        }
        let ([rows, columns], step) = (g.size(), g.step());
        for (i, image) in self
            .y
            .chunks_exact_mut(g.outputs * rows * columns)
            .enumerate()
        {
            for (output, plane) in image.chunks_exact_mut(rows * columns).enumerate() {
                let result = &result[output * length + i * step..];
                for (y, row) in plane.chunks_exact_mut(columns).enumerate() {
                    row.copy_from_slice(&result[y * g.columns()..][..columns]);
                }
            }
        }
    }
}
