//! How the kernels hang in Burn: a backend extension, and its backward pass.

#![allow(deprecated)] // Burn prefers flex to ndarray; the latter is served as long as it is there.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata, backend_extension};
use burn::tensor::TensorData;
use std::sync::Arc;

use super::kernel::{self, Forward, Geometry, Params, Saved, Statistics};

/// The convolution block on a backend whose tensors are in the host's memory.
///
/// Images are `[batch, height, width, channels]`.
#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Autodiff)]
pub(crate) trait ConvBlockBackend: Backend {
    /// The block, and mean and biased variance of the batch, by which it normalizes.
    fn conv_block_train(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (y, mean, variance, _) = run::<Self>(x, [weight, bias, gamma, beta], epsilon, None);
        (y, mean, variance)
    }

    /// The block, normalized by the given mean and variance.
    #[allow(clippy::too_many_arguments)]
    fn conv_block_evaluate(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        run::<Self>(
            x,
            [weight, bias, gamma, beta],
            epsilon,
            Some((mean, variance)),
        )
        .0
    }
}

#[cfg(feature = "flex")]
impl ConvBlockBackend for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl ConvBlockBackend for burn::backend::NdArray {}

impl<B: ConvBlockBackend, C: CheckpointStrategy> ConvBlockBackend for Autodiff<B, C> {
    fn conv_block_train(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct ConvBlockBackward;

        impl<B: Backend> Backward<B, 5> for ConvBlockBackward {
            type State = (Arc<Saved>, [Vec<usize>; 2], B::Device);

            fn backward(
                self,
                ops: Ops<Self::State, 5>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (saved, [x_shape, weight_shape], device) = ops.state;
                let dy = data::<B>(grads.consume::<B>(&ops.node));
                let x_wanted = ops.parents[0].is_some();
                let result = kernel::backward(&saved, floats(&dy), x_wanted);
                let vector = vec![result.bias.len()];
                let all = [
                    (result.x, x_shape),
                    (Some(result.weight), weight_shape),
                    (Some(result.bias), vector.clone()),
                    (Some(result.gamma), vector.clone()),
                    (Some(result.beta), vector),
                ];
                for (parent, (gradient, shape)) in ops.parents.into_iter().zip(all) {
                    if let (Some(node), Some(gradient)) = (parent, gradient) {
                        grads.register::<B>(node.id, tensor::<B>(gradient, shape, &device));
                    }
                }
            }
        }

        let nodes = [
            x.node(),
            weight.node(),
            bias.node(),
            gamma.node(),
            beta.node(),
        ];
        let shapes = [
            x.primitive().shape().to_vec(),
            weight.primitive().shape().to_vec(),
        ];
        let device = x.primitive().device();
        let params = [weight, bias, gamma, beta].map(|p| p.into_primitive());
        let (y, mean, variance, saved) = run::<B>(x.into_primitive(), params, epsilon, None);
        let y = match ConvBlockBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((Arc::new(saved), shapes, device), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, Self::from_inner(mean), Self::from_inner(variance))
    }
}

/// Runs the kernel on a backend's tensors, which are copied to slices where they are shared.
fn run<B: Backend>(
    x: FloatTensor<B>,
    params: [FloatTensor<B>; 4],
    epsilon: f64,
    running: Option<(FloatTensor<B>, FloatTensor<B>)>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, Saved) {
    let device = x.device();
    let shape = x.shape();
    let outputs = params[0].shape()[0];
    let geometry = Geometry {
        batch: shape[0],
        height: shape[1],
        width: shape[2],
        inputs: shape[3],
        outputs,
    };
    let x = data::<B>(x);
    let [weight, bias, gamma, beta] = params.map(data::<B>);
    let params = Params {
        weight: floats(&weight),
        bias: floats(&bias),
        gamma: floats(&gamma),
        beta: floats(&beta),
        epsilon: epsilon as f32,
    };
    let running = running.map(|(mean, variance)| (data::<B>(mean), data::<B>(variance)));
    let statistics = match &running {
        None => Statistics::Batch,
        Some((mean, variance)) => Statistics::Running(floats(mean), floats(variance)),
    };
    let Forward {
        y,
        mean,
        variance,
        saved,
    } = kernel::forward(geometry, floats(&x), params, statistics);
    let shape = vec![geometry.batch, geometry.rows(), geometry.columns(), outputs];
    (
        tensor::<B>(y, shape, &device),
        tensor::<B>(mean, vec![outputs], &device),
        tensor::<B>(variance, vec![outputs], &device),
        saved,
    )
}

#[expect(
    clippy::expect_used,
    reason = "on CPUs, which these operations are for, data are there at once"
)]
pub(super) fn data<B: Backend>(tensor: FloatTensor<B>) -> TensorData {
    burn::tensor::try_read_sync(B::float_into_data(tensor))
        .expect("a CPU backend does not make wait")
        .expect("a CPU backend can be read")
}

#[expect(clippy::expect_used, reason = "`applies` lets nothing but float32 in")]
pub(super) fn floats(data: &TensorData) -> &[f32] {
    data.as_slice::<f32>().expect("only float32 comes here")
}

pub(super) fn tensor<B: Backend>(
    values: Vec<f32>,
    shape: Vec<usize>,
    device: &B::Device,
) -> FloatTensor<B> {
    B::float_from_data(TensorData::new(values, shape), device)
}
