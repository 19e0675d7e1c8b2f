//! How the kernels hang in Burn: a backend extension, and its backward pass.

#![allow(deprecated)] // Burn prefers flex to ndarray; the latter is served as long as it is there.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata, backend_extension};
use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};
use std::ops::Deref;
use std::sync::Arc;

use super::buffer::Buffer;
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
                let result = kernel::backward(&saved, &dy, x_wanted);
                let vector = vec![result.bias.len()];
                let vectors = [result.bias, result.gamma, result.beta];
                let vectors = vectors.map(|v| Some(tensor::<B>(v, vector.clone(), &device)));
                let [bias, gamma, beta] = vectors;
                let all = [
                    result.x.map(|x| images::<B>(x, x_shape, &device)),
                    Some(tensor::<B>(result.weight, weight_shape, &device)),
                    bias,
                    gamma,
                    beta,
                ];
                register!(B, ops.parents, all, grads);
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
    let geometry = Geometry::pooled([shape[0], shape[1], shape[2], shape[3]], outputs);
    let x = data::<B>(x);
    let [weight, bias, gamma, beta] = params.map(data::<B>);
    let params = Params {
        weight: &weight,
        bias: &bias,
        gamma: &gamma,
        beta: &beta,
        epsilon: epsilon as f32,
    };
    let running = running.map(|(mean, variance)| (data::<B>(mean), data::<B>(variance)));
    let statistics = match &running {
        None => Statistics::Batch,
        Some((mean, variance)) => Statistics::Running(mean, variance),
    };
    let Forward {
        y,
        mean,
        variance,
        saved,
    } = kernel::forward(geometry, &x, params, statistics);
    let [rows, columns] = geometry.pooled_size();
    let shape = vec![geometry.batch, rows, columns, outputs];
    (
        images::<B>(y, shape, &device),
        tensor::<B>(mean, vec![outputs], &device),
        tensor::<B>(variance, vec![outputs], &device),
        saved,
    )
}

/// A tensor's values in the host's memory: those of the tensor itself, where nothing else looks at it.
#[derive(Debug)]
pub(super) struct Floats(TensorData);

impl Deref for Floats {
    type Target = [f32];
    #[expect(clippy::expect_used, reason = "`is_ours` lets nothing but float32 in")]
    fn deref(&self) -> &[f32] {
        self.0.as_slice().expect("only float32 comes here")
    }
}

#[expect(
    clippy::expect_used,
    reason = "on CPUs, which these operations are for, data are there at once"
)]
pub(super) fn data<B: Backend>(tensor: FloatTensor<B>) -> Floats {
    let data = burn::tensor::try_read_sync(B::float_into_data(tensor));
    let data = data.expect("a CPU backend does not make wait");
    Floats(data.expect("a CPU backend can be read"))
}

/// A tensor of parameters, or of their gradients.
pub(super) fn tensor<B: Backend>(
    values: Vec<f32>,
    shape: Vec<usize>,
    device: &B::Device,
) -> FloatTensor<B> {
    B::float_from_data(TensorData::new(values, shape), device)
}

/// A tensor of images, whose memory is used again when the last that looks at it is gone: pages that are new each time cost
/// as much as what is written to them.
pub(super) fn images<B: Backend>(
    values: Buffer,
    shape: Vec<usize>,
    device: &B::Device,
) -> FloatTensor<B> {
    let bytes = bytes::Bytes::from_owner(values);
    let bytes = Bytes::from_shared(bytes, AllocationProperty::Native);
    B::float_from_data(TensorData::from_bytes(bytes, shape, DType::F32), device)
}

/// Registers gradients for those parents of a node that want one.
macro_rules! register {
    ($backend:ty, $parents:expr, $gradients:expr, $grads:ident) => {
        for (parent, gradient) in $parents.into_iter().zip($gradients) {
            if let (Some(node), Some(gradient)) = (parent, gradient) {
                $grads.register::<$backend>(node.id, gradient);
            }
        }
    };
}
pub(super) use register;
