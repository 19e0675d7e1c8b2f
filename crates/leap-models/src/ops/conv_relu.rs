//! A convolution without padding, then ReLU, on plain slices: products of filters with [shifted planes](super::planes).

// Loops that count are turned into vector instructions more often than iterators.
#![allow(clippy::needless_range_loop, clippy::manual_memcpy)]
#![allow(deprecated)] // Burn prefers flex to ndarray; the latter is served as long as it is there.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::TensorData;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::backend::{data, floats, tensor};
use super::buffer::Buffer;
use super::planes::{Gradient, LANES, Product, ROWS, pack};

/// Images that are taken at a time: a fixed number, so that sums do not depend on the number of threads, and few enough for
/// a core's cache.
const IMAGES_AT_A_TIME: usize = 4;

/// Filters as [`pack`] lays them out, and the shifts of the planes that their floats are multiplied with.
type Filters = (Vec<[f32; ROWS]>, Vec<usize>);

/// Sizes of a convolution.
///
/// A group of images is laid out as planes, `[inputs][stride][stride][group][…]`, in which the images follow each other.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    /// Images at a time.
    group: usize,
    inputs: usize,
    height: usize,
    width: usize,
    outputs: usize,
    /// Of the filters.
    side: usize,
    stride: usize,
}

impl Geometry {
    fn new(x: &[usize], weight: &[usize], stride: usize) -> Self {
        let geometry = Self {
            group: x[0].min(IMAGES_AT_A_TIME),
            inputs: x[1],
            height: x[2],
            width: x[3],
            outputs: weight[0],
            side: weight[2],
            stride,
        };
        assert_eq!(
            weight[1..],
            [x[1], weight[2], weight[2]],
            "filters of {x:?}"
        );
        assert!(stride > 0 && geometry.side <= geometry.height.min(geometry.width));
        geometry
    }

    /// Height and width of the result.
    fn size(&self) -> [usize; 2] {
        [self.height, self.width].map(|side| (side - self.side) / self.stride + 1)
    }

    /// Outputs of a filter in an image.
    fn pixels(&self) -> usize {
        self.size().iter().product()
    }

    /// Floats in an image.
    fn image(&self) -> usize {
        self.inputs * self.height * self.width
    }

    /// Floats in a filter.
    fn filter(&self) -> usize {
        self.inputs * self.side * self.side
    }

    /// Number of planes.
    fn planes(&self) -> usize {
        self.inputs * self.stride * self.stride
    }

    /// Width of a plane. Results lie in rows of this width too, with something of no use behind each.
    fn columns(&self) -> usize {
        self.width.div_ceil(self.stride)
    }

    /// Floats of an image in a plane.
    fn step(&self) -> usize {
        self.height.div_ceil(self.stride) * self.columns()
    }

    /// Floats of a plane.
    fn plane(&self) -> usize {
        self.group * self.step()
    }

    /// Floats of a filter's results in so many images, from the first to the last that counts, in whole vectors.
    fn length(&self, images: usize) -> usize {
        let [rows, columns] = self.size();
        let last = (images - 1) * self.step() + (rows - 1) * self.columns();
        (last + columns).next_multiple_of(LANES)
    }

    /// Where in the planes the first output finds what each float of a filter is multiplied with.
    fn shifts(&self) -> Vec<usize> {
        let (side, s) = (self.side, self.stride);
        let shift = |k: usize| {
            let (c, y, x) = (k / (side * side), k / side % side, k % side);
            let plane = (c * s + y % s) * s + x % s;
            plane * self.plane() + y / s * self.columns() + x / s
        };
        (0..self.filter()).map(shift).collect()
    }

    /// Where, in planes that begin `apart` floats after one another, the rows of an image begin.
    fn places(&self, apart: usize) -> Vec<usize> {
        let s = self.stride;
        let place = |i: usize| {
            let (c, y) = (i / self.height, i % self.height);
            (c * s + y % s) * s * apart + y / s * self.columns()
        };
        (0..self.inputs * self.height).map(place).collect()
    }

    /// Floats of a group's planes, and of what a vector reads behind the last.
    fn all_planes(&self) -> usize {
        self.planes() * self.plane() + LANES
    }

    /// Lays out up to a group of images as planes.
    #[inline(always)]
    fn split(&self, images: &[f32], planes: &mut [f32]) {
        let (s, apart) = (self.stride, self.plane());
        // Where there is no pixel, there is not to be "not a number" either.
        match images.len() + LANES == planes.len() {
            true => planes[images.len()..].fill(0.0),
            false => planes.fill(0.0),
        }
        let (places, step) = (self.places(apart), self.step());
        for (i, image) in images.chunks_exact(self.image()).enumerate() {
            for (row, place) in image.chunks_exact(self.width).zip(&places) {
                let planes = &mut planes[place + i * step..];
                match (s, self.width % s) {
                    (1, _) => split_row::<1>(row, planes, apart),
                    (2, 0) => split_row::<2>(row, planes, apart),
                    (4, 0) => split_row::<4>(row, planes, apart),
                    _ => {
                        for (x, pixel) in row.iter().enumerate() {
                            planes[x % s * apart + x / s] = *pixel;
                        }
                    }
                }
            }
        }
    }

    /// The reverse of [`split`](Self::split), for planes that begin `apart` floats after one another.
    #[inline(always)]
    fn join(&self, planes: &[f32], apart: usize, images: &mut [f32]) {
        let s = self.stride;
        let (places, step) = (self.places(apart), self.step());
        for (i, image) in images.chunks_exact_mut(self.image()).enumerate() {
            for (row, place) in image.chunks_exact_mut(self.width).zip(&places) {
                let planes = &planes[place + i * step..];
                match (s, self.width % s) {
                    (1, _) => join_row::<1>(planes, apart, row),
                    (2, 0) => join_row::<2>(planes, apart, row),
                    (4, 0) => join_row::<4>(planes, apart, row),
                    _ => {
                        for (x, pixel) in row.iter_mut().enumerate() {
                            *pixel = planes[x % s * apart + x / s];
                        }
                    }
                }
            }
        }
    }

    /// The convolution, and ReLU; also, what the backward pass needs.
    fn forward(self, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Kept) {
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

    /// Results of all filters for so many images, with what lies between rows.
    fn results(&self, images: usize) -> usize {
        self.outputs * self.length(images)
    }

    /// Zeros before the gradients of a filter's results, for a backward pass; there are more between and behind its rows.
    fn lead(&self) -> usize {
        (self.side.div_ceil(self.stride) - 1) * (self.columns() + 1)
    }

    /// Floats of the gradients of a filter's results, with all these zeros.
    fn frame(&self) -> usize {
        self.lead() + self.plane().next_multiple_of(LANES)
    }

    /// The filters that make the gradients of the planes from such frames, and where in them each float of a filter begins.
    fn backward_filters(&self, weight: &[f32]) -> Filters {
        let (s, reach) = (self.stride, self.side.div_ceil(self.stride));
        let places = reach * reach;
        let filters = pack(self.planes(), self.outputs * places, |plane, k| {
            let (output, place, input) = (k / places, k % places, plane / (s * s));
            let y = place / reach * s + plane / s % s;
            let x = place % reach * s + plane % s;
            match y < self.side && x < self.side {
                true => weight[((output * self.inputs + input) * self.side + y) * self.side + x],
                false => 0.0,
            }
        });
        let shift = |k: usize| {
            let (output, place) = (k / places, k % places);
            let back = place / reach * self.columns() + place % reach;
            output * self.frame() + self.lead() - back
        };
        (filters, (0..self.outputs * places).map(shift).collect())
    }
}

#[inline(always)]
fn split_row<const STRIDE: usize>(row: &[f32], planes: &mut [f32], apart: usize) {
    let pixels = row.as_chunks::<STRIDE>().0;
    for px in 0..STRIDE {
        let plane = &mut planes[px * apart..][..pixels.len()];
        for x in 0..pixels.len() {
            plane[x] = pixels[x][px];
        }
    }
}

#[inline(always)]
fn join_row<const STRIDE: usize>(planes: &[f32], apart: usize, row: &mut [f32]) {
    let pixels = row.as_chunks_mut::<STRIDE>().0;
    for px in 0..STRIDE {
        let plane = &planes[px * apart..][..pixels.len()];
        for x in 0..pixels.len() {
            pixels[x][px] = plane[x];
        }
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

/// What a forward pass keeps for the backward pass.
#[derive(Debug)]
struct Kept {
    geometry: Geometry,
    /// Of all groups.
    planes: Buffer,
    /// Which results were above zero, as they lie behind each other in a group's planes.
    active: Vec<bool>,
}

impl Kept {
    /// The gradients of input (if wanted), filters and bias, given that of the result.
    fn backward(
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

/// The convolution with ReLU on a backend whose tensors are in the host's memory.
#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Autodiff)]
pub(crate) trait ConvReluBackend: Backend {
    /// Images are `[batch, channels, height, width]`.
    fn conv_relu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
    ) -> FloatTensor<Self> {
        run::<Self>(x, weight, bias, stride).0
    }
}

#[cfg(feature = "flex")]
impl ConvReluBackend for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl ConvReluBackend for burn::backend::NdArray {}

impl<B: ConvReluBackend, C: CheckpointStrategy> ConvReluBackend for Autodiff<B, C> {
    fn conv_relu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ConvReluBackward;

        impl<B: Backend> Backward<B, 3> for ConvReluBackward {
            type State = (Arc<Saved>, B::Device);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (saved, device) = ops.state;
                let dy = data::<B>(grads.consume::<B>(&ops.node));
                let x_wanted = ops.parents[0].is_some();
                let (dx, dweight, dbias) =
                    saved
                        .kept
                        .backward(floats(&saved.weight), floats(&dy), x_wanted);
                let all = [
                    (dx, saved.shape.clone()),
                    (Some(dweight), saved.weight.shape().to_vec()),
                    (Some(dbias), vec![saved.kept.geometry.outputs]),
                ];
                for (parent, (gradient, shape)) in ops.parents.into_iter().zip(all) {
                    if let (Some(node), Some(gradient)) = (parent, gradient) {
                        grads.register::<B>(node.id, tensor::<B>(gradient, shape, &device));
                    }
                }
            }
        }

        let nodes = [x.node(), weight.node(), bias.node()];
        let device = x.primitive().device();
        let (x, weight, bias) = (
            x.into_primitive(),
            weight.into_primitive(),
            bias.into_primitive(),
        );
        let (y, saved) = run::<B>(x, weight, bias, stride);
        match ConvReluBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((Arc::new(saved), device), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// What a forward pass keeps, and the filters.
#[derive(Debug)]
struct Saved {
    kept: Kept,
    /// Of the input.
    shape: Vec<usize>,
    weight: TensorData,
}

/// Runs the kernel on a backend's tensors.
fn run<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    stride: usize,
) -> (FloatTensor<B>, Saved) {
    let (device, shape) = (x.device(), x.shape().to_vec());
    let (x, weight, bias) = (data::<B>(x), data::<B>(weight), data::<B>(bias));
    let geometry = Geometry::new(&shape, weight.shape().as_slice(), stride);
    let (y, kept) = geometry.forward(floats(&x), floats(&weight), floats(&bias));
    let [rows, columns] = geometry.size();
    let y = tensor::<B>(y, vec![shape[0], geometry.outputs, rows, columns], &device);
    let saved = Saved {
        kept,
        shape,
        weight,
    };
    (y, saved)
}
