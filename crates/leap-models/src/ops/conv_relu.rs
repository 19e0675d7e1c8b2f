//! A convolution without padding, then ReLU, on plain slices: products of filters with [shifted planes](super::planes).

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

    /// Where, in planes that begin `apart` floats after one another, the pixels of row `i` of all images lie of which `px`
    /// is the first.
    #[inline(always)]
    fn place(&self, i: usize, px: usize, apart: usize) -> usize {
        let (channel, y, s) = (i / self.height, i % self.height, self.stride);
        let (image, c) = (channel / self.inputs, channel % self.inputs);
        let plane = (c * s + y % s) * s + px;
        plane * apart + image * self.step() + y / s * self.columns()
    }

    /// The planes of up to a group of images.
    #[inline(always)]
    fn split(&self, images: &[f32]) -> Buffer {
        /// With a step that the compiler knows.
        #[inline(always)]
        fn copy<const STRIDE: usize>(row: &[f32], px: usize, plane: &mut [f32]) {
            assert!(px < STRIDE);
            for (to, from) in plane.iter_mut().zip(row.as_chunks::<STRIDE>().0) {
                *to = from[px];
            }
        }
        let (s, length) = (self.stride, self.planes() * self.plane());
        // What a vector reads behind the last plane is not to be "not a number".
        let mut planes = Buffer::take(length + LANES);
        match length == images.len() {
            true => planes[length..].fill(0.0),
            false => planes.fill(0.0),
        }
        for (i, row) in images.chunks_exact(self.width).enumerate() {
            for px in 0..s.min(self.width) {
                let to =
                    &mut planes[self.place(i, px, self.plane())..][..(self.width - px).div_ceil(s)];
                match (s, self.width % s) {
                    (1, 0) => copy::<1>(row, px, to),
                    (2, 0) => copy::<2>(row, px, to),
                    (4, 0) => copy::<4>(row, px, to),
                    _ => to
                        .iter_mut()
                        .zip(row[px..].iter().step_by(s))
                        .for_each(|(to, from)| *to = *from),
                }
            }
        }
        planes
    }

    /// The reverse of [`split`](Self::split), for planes that begin `apart` floats after one another.
    #[inline(always)]
    fn join(&self, planes: &[f32], apart: usize, images: &mut [f32]) {
        let s = self.stride;
        for (i, row) in images.chunks_exact_mut(self.width).enumerate() {
            for px in 0..s.min(self.width) {
                let from = &planes[self.place(i, px, apart)..];
                let pixels = row[px..].iter_mut().step_by(s);
                pixels.zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }

    /// The convolution, and ReLU; also, which of the results were above zero.
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<bool>) {
        let (arch, shifts) = (Arch::new(), self.shifts());
        let filters = pack(self.outputs, self.filter(), |row, k| {
            weight[row * self.filter() + k]
        });
        let per_image = self.outputs * self.pixels();
        let mut y = vec![0.0; x.len() / self.image() * per_image];
        let mut active = vec![false; y.len()];
        y.par_chunks_mut(self.group * per_image)
            .zip(active.par_chunks_mut(self.group * per_image))
            .zip(x.par_chunks(self.group * self.image()))
            .for_each(|((y, active), images)| {
                let planes = arch.dispatch(Split(self, images));
                let length = self.length(images.len() / self.image());
                let mut result = Buffer::take(self.outputs * length);
                arch.dispatch(Product {
                    filters: &filters,
                    shifts: &shifts,
                    planes: &planes,
                    length,
                    result: &mut result,
                });
                let [rows, columns] = self.size();
                let ys = y.chunks_exact_mut(columns);
                for (i, (y, active)) in ys.zip(active.chunks_exact_mut(columns)).enumerate() {
                    let (image, output, row) =
                        (i / rows / self.outputs, i / rows % self.outputs, i % rows);
                    let at = output * length + image * self.step() + row * self.columns();
                    let results = result[at..].iter().zip(active);
                    for (y, (result, active)) in y.iter_mut().zip(results) {
                        let v = result + bias[output];
                        // As `max`, but it keeps what is not a number.
                        *y = if v < 0.0 { 0.0 } else { v };
                        *active = v > 0.0;
                    }
                }
            });
        (y, active)
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
    fn backward_filters(&self, weight: &[f32]) -> (Vec<[f32; ROWS]>, Vec<usize>) {
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

    /// The gradients of input (if wanted), filters and bias, given that of the result and which results were above zero.
    fn backward(
        &self,
        x: &[f32],
        weight: &[f32],
        active: &[bool],
        dy: &[f32],
        x_wanted: bool,
    ) -> (Option<Vec<f32>>, Vec<f32>, Vec<f32>) {
        let (arch, shifts) = (Arch::new(), self.shifts());
        let backward_filters = x_wanted.then(|| self.backward_filters(weight));
        let per_group = self.group * self.outputs * self.pixels();
        let mut dx = vec![0.0; if x_wanted { x.len() } else { 0 }];
        let mut dx_chunks: Vec<Option<&mut [f32]>> = match x_wanted {
            true => dx.chunks_mut(self.group * self.image()).map(Some).collect(),
            false => (0..dy.len().div_ceil(per_group)).map(|_| None).collect(),
        };
        let sums: Vec<(Vec<f32>, Vec<f32>)> = dx_chunks
            .par_iter_mut()
            .zip(x.par_chunks(self.group * self.image()))
            .zip(active.par_chunks(per_group))
            .zip(dy.par_chunks(per_group))
            .map(|(((dx, images), active), dy)| {
                let mut dbias = vec![0.0; self.outputs];
                let all = self.outputs.next_multiple_of(ROWS) * self.frame() + LANES;
                let mut frames = Buffer::zeroed(all);
                let [rows, columns] = self.size();
                let dy = dy.chunks_exact(columns);
                for (i, (dy, active)) in dy.zip(active.chunks_exact(columns)).enumerate() {
                    let (image, output, row) =
                        (i / rows / self.outputs, i / rows % self.outputs, i % rows);
                    let at = image * self.step() + row * self.columns();
                    let frame = &mut frames[output * self.frame() + self.lead() + at..];
                    for (to, (dy, active)) in frame.iter_mut().zip(dy.iter().zip(active)) {
                        *to = if *active { *dy } else { 0.0 };
                    }
                    dbias[output] += frame[..columns].iter().sum::<f32>();
                }
                let mut dweight = vec![0.0; weight.len()];
                let planes = arch.dispatch(Split(self, images));
                let count = images.len() / self.image();
                arch.dispatch(Gradient {
                    rows: &frames[self.lead()..],
                    apart: self.frame(),
                    shifts: &shifts,
                    planes: &planes,
                    length: self.length(count),
                    result: &mut dweight,
                });
                if let (Some(dx), Some((filters, shifts))) = (dx, &backward_filters) {
                    let length = (count * self.step()).next_multiple_of(LANES);
                    let mut result = Buffer::take(self.planes() * length);
                    arch.dispatch(Product {
                        filters,
                        shifts,
                        planes: &frames,
                        length,
                        result: &mut result,
                    });
                    arch.dispatch(|| self.join(&result, length, dx));
                }
                (dweight, dbias)
            })
            .collect();
        let (mut dweight, mut dbias) = (vec![0.0; weight.len()], vec![0.0; self.outputs]);
        for (weight, bias) in &sums {
            dweight.iter_mut().zip(weight).for_each(|(s, v)| *s += v);
            dbias.iter_mut().zip(bias).for_each(|(s, v)| *s += v);
        }
        (x_wanted.then_some(dx), dweight, dbias)
    }
}

/// [`Geometry::split`], compiled for the processor's vectors: a closure of its size would not be.
struct Split<'a>(&'a Geometry, &'a [f32]);

impl WithSimd for Split<'_> {
    type Output = Buffer;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Buffer {
        self.0.split(self.1)
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
                let g = saved.geometry;
                let (dx, dweight, dbias) = g.backward(
                    floats(&saved.x),
                    floats(&saved.weight),
                    &saved.active,
                    floats(&dy),
                    x_wanted,
                );
                let all = [
                    (dx, saved.x.shape().to_vec()),
                    (Some(dweight), saved.weight.shape().to_vec()),
                    (Some(dbias), vec![g.outputs]),
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

/// What a forward pass keeps for the backward pass.
#[derive(Debug)]
struct Saved {
    geometry: Geometry,
    x: TensorData,
    weight: TensorData,
    active: Vec<bool>,
}

/// Runs the kernel on a backend's tensors.
fn run<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    stride: usize,
) -> (FloatTensor<B>, Saved) {
    let device = x.device();
    let batch = x.shape()[0];
    let (x, weight, bias) = (data::<B>(x), data::<B>(weight), data::<B>(bias));
    let geometry = Geometry::new(x.shape().as_slice(), weight.shape().as_slice(), stride);
    let (y, active) = geometry.forward(floats(&x), floats(&weight), floats(&bias));
    let [rows, columns] = geometry.size();
    let shape = vec![batch, geometry.outputs, rows, columns];
    let saved = Saved {
        geometry,
        x,
        weight,
        active,
    };
    (tensor::<B>(y, shape, &device), saved)
}
