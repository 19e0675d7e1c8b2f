//! The way of a gradient back through the ReLU and the convolution.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::ops::buffer::Buffer;
use crate::ops::planes::{Gradient, LANES, Product, ROWS};

use super::forward::Kept;
use super::geometry::{Filters, Geometry};

impl Kept {
    /// The gradients of input (if wanted), filters and bias, given that of the result.
    pub(super) fn backward(
        &self,
        weight: &[f32],
        dy: &[f32],
        x_wanted: bool,
    ) -> (Option<Vec<f32>>, Vec<f32>, Vec<f32>) {
        let (g, arch) = (&self.geometry, Arch::new());
        let shifts = g.shifts();
        let backward_filters = x_wanted.then(|| g.backward_filters(weight));
        let per_image = g.outputs * g.pixels();
        let mut dx = vec![
            0.0;
            if x_wanted {
                dy.len() / per_image * g.image()
            } else {
                0
            }
        ];
        let mut dx_chunks: Vec<Option<&mut [f32]>> = match x_wanted {
            true => dx.chunks_mut(g.group * g.image()).map(Some).collect(),
            false => self.planes.chunks(g.all_planes()).map(|_| None).collect(),
        };
        let sums: Vec<(Vec<f32>, Vec<f32>)> = dx_chunks
            .par_iter_mut()
            .zip(self.planes.par_chunks(g.all_planes()))
            .zip(self.active.par_chunks(g.results(g.group)))
            .zip(dy.par_chunks(g.group * per_image))
            .map(|(((dx, planes), active), dy)| {
                arch.dispatch(GroupBackward {
                    geometry: g,
                    shifts: &shifts,
                    planes,
                    active,
                    dy,
                    dx: dx.as_deref_mut().zip(backward_filters.as_ref()),
                })
            })
            .collect();
        let (mut dweight, mut dbias) = (vec![0.0; weight.len()], vec![0.0; g.outputs]);
        for (weight, bias) in &sums {
            dweight.iter_mut().zip(weight).for_each(|(s, v)| *s += v);
            dbias.iter_mut().zip(bias).for_each(|(s, v)| *s += v);
        }
        (x_wanted.then_some(dx), dweight, dbias)
    }
}

/// The backward pass of a group of images; the gradients of filters and bias come back.
struct GroupBackward<'a> {
    geometry: &'a Geometry,
    shifts: &'a [usize],
    planes: &'a [f32],
    active: &'a [bool],
    dy: &'a [f32],
    /// The gradient of the input, if it is wanted, and [`Geometry::backward_filters`].
    dx: Option<(&'a mut [f32], &'a Filters)>,
}

impl WithSimd for GroupBackward<'_> {
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let g = self.geometry;
        let ([rows, columns], step) = (g.size(), g.step());
        let images = self.dy.len() / (g.outputs * rows * columns);
        let (length, lead) = (g.length(images), g.lead());
        let mut frames = Buffer::zeroed(g.outputs.next_multiple_of(ROWS) * g.frame() + LANES);
        for (i, image) in self.dy.chunks_exact(g.outputs * rows * columns).enumerate() {
            for (output, plane) in image.chunks_exact(rows * columns).enumerate() {
                let frame = &mut frames[output * g.frame() + lead + i * step..];
                for (y, row) in plane.chunks_exact(columns).enumerate() {
                    frame[y * g.columns()..][..columns].copy_from_slice(row);
                }
            }
        }
        let mut dbias = vec![0.0; g.outputs];
        for (output, active) in self.active.chunks_exact(length).take(g.outputs).enumerate() {
            let frame = &mut frames[output * g.frame() + lead..][..length];
            for (dy, active) in frame.iter_mut().zip(active) {
                *dy = if *active { *dy } else { 0.0 };
            }
            let mut sums = [0.0; LANES];
            for run in frame.as_chunks::<LANES>().0 {
                for i in 0..LANES {
                    sums[i] += run[i];
                }
            }
            dbias[output] = sums.iter().sum();
        }
        let mut dweight = vec![0.0; g.outputs * g.filter()];
        let gradient = Gradient {
            rows: &frames[lead..],
            apart: g.frame(),
            shifts: self.shifts,
            planes: self.planes,
            length,
            result: &mut dweight,
        };
        gradient.with_simd(simd);
        if let Some((dx, (filters, shifts))) = self.dx {
            let length = (images * step).next_multiple_of(LANES);
            let mut result = Buffer::take(g.planes() * length);
            let product = Product {
                filters,
                shifts,
                planes: &frames,
                length,
                result: &mut result,
            };
            product.with_simd(simd);
            g.join(&result, length, dx);
        }
        (dweight, dbias)
    }
}
