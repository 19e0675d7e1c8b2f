//! Operations of our own, where Burn's cost a training step most of its time.
//!
//! [`conv_block`] is what the Omniglot convnet does four times, in one: a 3 x 3 convolution, max-pooling,
//! batch-normalization and ReLU, forward and backward, on plain slices. [`conv_relu`] is what the encoders for
//! reinforcement learning do: a convolution in steps of any length, and ReLU. [`applies`] says where they can take the
//! place of Burn's own operations.
//!
//! Slices are indexed without a look in each place: all indices come from a geometry that is made of the tensors' own
//! shapes, which [`applies`] and Burn have checked, and tests go over random ones.

mod backend;
mod buffer;
mod conv_relu;
mod gemm;
mod kernel;
mod planes;
mod simd;
#[cfg(test)]
mod tests;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Tensor};

use backend::ConvBlockBackend;
use conv_relu::ConvReluBackend;

/// The parameters of a block.
pub(crate) struct BlockParams {
    /// Shape `[channels_out, channels_in, 3, 3]`.
    pub weight: Tensor<4>,
    /// Shape `[channels_out]`, as all that follow.
    pub bias: Tensor<1>,
    pub gamma: Tensor<1>,
    pub beta: Tensor<1>,
    pub epsilon: f64,
}

/// Whether the operations can take `x` of shape `[batch, channels, height, width]`: 32-bit floats on a CPU backend, and
/// something left after pooling.
pub(crate) fn applies(x: &Tensor<4>) -> bool {
    let [batch, channels, height, width] = x.dims();
    let device = x.device().without_autodiff();
    let on_cpu = match device.as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        _ => false,
    };
    on_cpu && x.dtype() == DType::F32 && batch > 0 && channels > 0 && height > 1 && width > 1
}

/// A 3 x 3 convolution with padding 1 and bias, 2 x 2 max-pooling, batch-normalization, ReLU.
///
/// `x` has shape `[batch, channels_in, height, width]`, the result `[batch, channels_out, height / 2, width / 2]`. It is
/// normalized by `running`, mean and variance, where they are given; else by those of the batch, which come back with
/// the result, the variance biased.
pub(crate) fn conv_block(
    x: Tensor<4>,
    params: BlockParams,
    running: Option<(Tensor<1>, Tensor<1>)>,
) -> (Tensor<4>, Option<(Tensor<1>, Tensor<1>)>) {
    // Channels last. Between blocks the two permutations cancel out.
    let x = x.permute([0, 2, 3, 1]).into_dispatch();
    let weight = params.weight.into_dispatch();
    let [bias, gamma, beta] = [params.bias, params.gamma, params.beta].map(Tensor::into_dispatch);
    let epsilon = params.epsilon;
    let (y, batch) = match running {
        None => {
            let (y, mean, variance) =
                Dispatch::conv_block_train(x, weight, bias, gamma, beta, epsilon);
            (
                y,
                Some((Tensor::from_dispatch(mean), Tensor::from_dispatch(variance))),
            )
        }
        Some((mean, variance)) => {
            let (mean, variance) = (mean.into_dispatch(), variance.into_dispatch());
            let y = Dispatch::conv_block_evaluate(
                x, weight, bias, gamma, beta, mean, variance, epsilon,
            );
            (y, None)
        }
    };
    (Tensor::<4>::from_dispatch(y).permute([0, 3, 1, 2]), batch)
}

/// A convolution with bias, without padding, in steps of `stride` pixels, and ReLU.
///
/// `x` has shape `[batch, channels_in, height, width]`, `weight` `[channels_out, channels_in, side, side]` with a side of
/// no more than height and width; the result is `[batch, channels_out, (height − side) / stride + 1, …]`.
pub(crate) fn conv_relu(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
) -> Tensor<4> {
    let [x, weight] = [x, weight].map(Tensor::into_dispatch);
    let y = Dispatch::conv_relu(x, weight, bias.into_dispatch(), stride);
    Tensor::from_dispatch(y)
}
