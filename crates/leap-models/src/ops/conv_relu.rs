//! A convolution without padding, then ReLU, on plain slices.
//!
//! The pixels that each output looks at are laid out as a row of a matrix, image by image, and the convolution is the
//! product with the filters. An image's rows fit into a core's cache; the backward pass lays them out again, which takes less
//! time than to keep them.

#![allow(deprecated)] // Burn prefers flex to ndarray; the latter is served as long as it is there.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::TensorData;
use rayon::prelude::*;

use super::backend::{data, floats, tensor};
use super::buffer::Buffer;
use super::gemm::{Matrix, gemm};

/// Images whose gradients of the filters are added up before they join the sum: a fixed number, so that the sum does not
/// depend on the number of threads.
const IMAGES_AT_A_TIME: usize = 8;

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug)]
struct Geometry {
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

    /// Floats that an output looks at.
    fn patch(&self) -> usize {
        self.inputs * self.side * self.side
    }

    /// Where the runs of `side` floats that make up the patches start in the image, patch by patch, with the place in the
    /// patches.
    #[inline(always)]
    fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        let g = *self;
        let [rows, columns] = g.size();
        let outputs = (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)));
        let corners = outputs.map(move |(row, column)| (row * g.width + column) * g.stride);
        corners
            .flat_map(move |corner| {
                let channels = 0..g.inputs;
                channels.flat_map(move |c| {
                    let first = corner + c * g.height * g.width;
                    (0..g.side).map(move |row| first + row * g.width)
                })
            })
            .enumerate()
            .map(move |(i, at)| (at, i * g.side))
    }

    /// Lays the patches of an image out, `[pixels][inputs][side][side]`.
    fn unfold(&self, image: &[f32], patches: &mut [f32]) {
        /// With a length that the compiler knows, a run is a register or two.
        fn copy<const SIDE: usize>(g: &Geometry, image: &[f32], patches: &mut [f32]) {
            let mut runs = patches.chunks_exact_mut(SIDE);
            let [rows, columns] = g.size();
            for row in 0..rows {
                for column in 0..columns {
                    for c in 0..g.inputs {
                        let first = (c * g.height + row * g.stride) * g.width + column * g.stride;
                        for y in 0..SIDE {
                            let at = first + y * g.width;
                            let run = runs.next().expect("as many as there are");
                            run.copy_from_slice(&image[at..at + SIDE]);
                        }
                    }
                }
            }
        }
        match self.side {
            3 => copy::<3>(self, image, patches),
            4 => copy::<4>(self, image, patches),
            5 => copy::<5>(self, image, patches),
            8 => copy::<8>(self, image, patches),
            side => {
                for (at, to) in self.runs() {
                    patches[to..to + side].copy_from_slice(&image[at..at + side]);
                }
            }
        }
    }

    /// The adjoint of [`unfold`](Self::unfold), added to the image.
    fn fold(&self, patches: &[f32], image: &mut [f32]) {
        fn add<const SIDE: usize>(g: &Geometry, patches: &[f32], image: &mut [f32]) {
            let mut runs = patches.chunks_exact(SIDE);
            let [rows, columns] = g.size();
            for row in 0..rows {
                for column in 0..columns {
                    for c in 0..g.inputs {
                        let first = (c * g.height + row * g.stride) * g.width + column * g.stride;
                        for y in 0..SIDE {
                            let at = first + y * g.width;
                            let run = runs.next().expect("as many as there are");
                            let pixels = &mut image[at..at + SIDE];
                            pixels.iter_mut().zip(run).for_each(|(p, r)| *p += r);
                        }
                    }
                }
            }
        }
        match self.side {
            3 => add::<3>(self, patches, image),
            4 => add::<4>(self, patches, image),
            8 => add::<8>(self, patches, image),
            side => {
                for (at, from) in self.runs() {
                    let run = &patches[from..from + side];
                    let pixels = &mut image[at..at + side];
                    pixels.iter_mut().zip(run).for_each(|(p, r)| *p += r);
                }
            }
        }
    }

    /// The convolution, and ReLU.
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let per_image = self.outputs * self.pixels();
        let mut y = vec![0.0; x.len() / self.image() * per_image];
        y.par_chunks_mut(per_image)
            .zip(x.par_chunks(self.image()))
            .for_each(|(y, image)| {
                let mut patches = Buffer::take(self.pixels() * self.patch());
                self.unfold(image, &mut patches);
                gemm(
                    [self.outputs, self.pixels(), self.patch()],
                    y,
                    false,
                    Matrix::Rows(weight),
                    Matrix::Columns(&patches),
                );
                for (y, bias) in y.chunks_exact_mut(self.pixels()).zip(bias) {
                    // As `max`, but it keeps what is not a number.
                    let relu = |v: f32| if v < 0.0 { 0.0 } else { v };
                    y.iter_mut().for_each(|v| *v = relu(*v + bias));
                }
            });
        y
    }

    /// The gradients of input (if wanted), filters and bias, given that of the result `y`.
    fn backward(
        &self,
        x: &[f32],
        weight: &[f32],
        y: &[f32],
        dy: &[f32],
        x_wanted: bool,
    ) -> (Option<Vec<f32>>, Vec<f32>, Vec<f32>) {
        let (pixels, per_image) = (self.pixels(), self.outputs * self.pixels());
        let mut dx = match x_wanted {
            true => vec![0.0; x.len()],
            false => Vec::new(),
        };
        let images = x.len() / self.image();
        let mut dx_chunks: Vec<Option<&mut [f32]>> = match x_wanted {
            true => dx
                .chunks_mut(IMAGES_AT_A_TIME * self.image())
                .map(Some)
                .collect(),
            false => (0..images.div_ceil(IMAGES_AT_A_TIME))
                .map(|_| None)
                .collect(),
        };
        let sums: Vec<(Buffer, Vec<f32>)> = dx_chunks
            .par_iter_mut()
            .zip(x.par_chunks(IMAGES_AT_A_TIME * self.image()))
            .zip(y.par_chunks(IMAGES_AT_A_TIME * per_image))
            .zip(dy.par_chunks(IMAGES_AT_A_TIME * per_image))
            .map(|(((dx, x), y), dy)| {
                let mut dweight = Buffer::zeroed(weight.len());
                let mut dbias = vec![0.0; self.outputs];
                let mut patches = Buffer::take(pixels * self.patch());
                let mut upstream = Buffer::take(per_image);
                for (i, image) in x.chunks_exact(self.image()).enumerate() {
                    let here = i * per_image..(i + 1) * per_image;
                    let through = dy[here.clone()].iter().zip(&y[here]);
                    for (u, (dy, y)) in upstream.iter_mut().zip(through) {
                        *u = if *y > 0.0 { *dy } else { 0.0 };
                    }
                    for (sum, row) in dbias.iter_mut().zip(upstream.chunks_exact(pixels)) {
                        *sum += row.iter().sum::<f32>();
                    }
                    self.unfold(image, &mut patches);
                    gemm(
                        [self.outputs, self.patch(), pixels],
                        &mut dweight,
                        true,
                        Matrix::Rows(&upstream),
                        Matrix::Rows(&patches),
                    );
                    if let Some(dx) = dx {
                        gemm(
                            [pixels, self.patch(), self.outputs],
                            &mut patches,
                            false,
                            Matrix::Columns(&upstream),
                            Matrix::Rows(weight),
                        );
                        self.fold(&patches, &mut dx[i * self.image()..(i + 1) * self.image()]);
                    }
                }
                (dweight, dbias)
            })
            .collect();
        let (mut dweight, mut dbias) = (vec![0.0; weight.len()], vec![0.0; self.outputs]);
        for (weight, bias) in &sums {
            dweight
                .iter_mut()
                .zip(weight.iter())
                .for_each(|(s, v)| *s += v);
            dbias.iter_mut().zip(bias).for_each(|(s, v)| *s += v);
        }
        (x_wanted.then_some(dx), dweight, dbias)
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
            type State = (Saved, B::Device);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (saved, device) = ops.state;
                let dy = data::<B>(grads.consume::<B>(&ops.node));
                let x_wanted = ops.parents[0].is_some();
                let (dx, dweight, dbias) = saved.geometry.backward(
                    floats(&saved.x),
                    floats(&saved.weight),
                    floats(&saved.y),
                    floats(&dy),
                    x_wanted,
                );
                let outputs = vec![saved.geometry.outputs];
                let all = [
                    (dx, saved.x.shape().to_vec()),
                    (Some(dweight), saved.weight.shape().to_vec()),
                    (Some(dbias), outputs),
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
            OpsKind::Tracked(prep) => prep.finish((saved(), device), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// What a forward pass keeps for the backward pass.
#[derive(Clone, Debug)]
struct Saved {
    geometry: Geometry,
    x: TensorData,
    weight: TensorData,
    y: TensorData,
}

/// Runs the kernel on a backend's tensors; what a backward pass needs is there for the asking.
fn run<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    stride: usize,
) -> (FloatTensor<B>, impl FnOnce() -> Saved) {
    let device = x.device();
    let batch = x.shape()[0];
    let (x, weight, bias) = (data::<B>(x), data::<B>(weight), data::<B>(bias));
    let geometry = Geometry::new(x.shape().as_slice(), weight.shape().as_slice(), stride);
    let y = geometry.forward(floats(&x), floats(&weight), floats(&bias));
    let [rows, columns] = geometry.size();
    let shape = vec![batch, geometry.outputs, rows, columns];
    let result = tensor::<B>(y, shape, &device);
    let y = result.clone();
    let saved = move || Saved {
        geometry,
        x,
        weight,
        y: data::<B>(y),
    };
    (result, saved)
}
