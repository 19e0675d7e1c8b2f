//! How the convolution hangs in Burn: a backend extension, and its backward pass.

#![allow(deprecated)] // Burn prefers flex to ndarray; the latter is served as long as it is there.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};

use crate::ops::backend::{Floats, data, register, tensor};

use super::forward::Kept;
use super::geometry::Geometry;

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
                let (dx, dweight, dbias) = saved.kept.backward(&saved.weight, &dy, x_wanted);
                let [of_x, of_weight] = saved.shapes.clone();
                let of_bias = vec![saved.kept.geometry.outputs];
                let all = [
                    dx.map(|dx| tensor::<B>(dx, of_x, &device)),
                    Some(tensor::<B>(dweight, of_weight, &device)),
                    Some(tensor::<B>(dbias, of_bias, &device)),
                ];
                register!(B, ops.parents, all, grads);
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
    /// Of input and filters.
    shapes: [Vec<usize>; 2],
    weight: Floats,
}

/// Runs the kernel on a backend's tensors.
fn run<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    stride: usize,
) -> (FloatTensor<B>, Saved) {
    let device = x.device();
    let shapes = [&x, &weight].map(|t| t.shape().to_vec());
    let (x, weight, bias) = (data::<B>(x), data::<B>(weight), data::<B>(bias));
    let geometry = Geometry::new(&shapes[0], &shapes[1], stride);
    let (y, kept) = geometry.forward(&x, &weight, &bias);
    let [rows, columns] = geometry.size();
    let y = tensor::<B>(
        y,
        vec![shapes[0][0], geometry.outputs, rows, columns],
        &device,
    );
    let saved = Saved {
        kept,
        shapes,
        weight,
    };
    (y, saved)
}
