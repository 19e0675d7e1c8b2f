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
mod kernel;
mod layers;
mod planes;
mod product;
mod simd;
#[cfg(test)]
mod tests;

use burn::backend::{Dispatch, DispatchDevice};
use burn::module::RunningState;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, PaddingConfig2d};
use burn::tensor::{DType, Tensor};

use backend::ConvBlockBackend;
use conv_relu::ConvReluBackend;
use kernel::{Conv, Norm};
use layers::LayersBackend;

/// The parameters of a block.
pub(crate) struct BlockParams {
    /// Shape `[channels_out, channels_in, 3, 3]`.
    pub weight: Tensor<4>,
    /// Shape `[channels_out]`, as all that follow.
    pub bias: Tensor<1>,
    pub gamma: Tensor<1>,
    pub beta: Tensor<1>,
    pub epsilon: f64,
    /// Mean and variance to normalize by, of shape `[channels_out]`, in place of the batch's.
    pub running: Option<(Tensor<1>, Tensor<1>)>,
}

/// Whether the block can take `x` of shape `[batch, channels, height, width]`: as [`is_ours`], and something is left after
/// pooling.
pub(crate) fn applies(x: &Tensor<4>) -> bool {
    let [_, _, height, width] = x.dims();
    is_ours(x) && height > 1 && width > 1
}

/// Whether `x` is of 32-bit floats on a CPU backend, and not empty.
fn is_ours(x: &Tensor<4>) -> bool {
    let device = x.device().without_autodiff();
    let on_cpu = match device.as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        _ => false,
    };
    on_cpu && x.dtype() == DType::F32 && x.shape().num_elements() > 0
}

/// The sizes of a convolution of `x`, if there is code for it.
pub(crate) fn conv_for(conv: &Conv2d, x: &Tensor<4>) -> Option<Conv> {
    let [batch, inputs, height, width] = x.dims();
    let [outputs, of_group, ..] = conv.weight.dims();
    if !is_ours(x) || conv.groups != 1 || of_group != inputs || conv.weight.dtype() != DType::F32 {
        return None;
    }
    let (image, kernel, stride) = ([height, width], conv.kernel_size, conv.stride);
    let pairs = match conv.padding {
        PaddingConfig2d::Valid => [(0, 0); 2],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
        // As Burn has it: an odd one goes below and right.
        PaddingConfig2d::Same => std::array::from_fn(|i| {
            let reach = (image[i].div_ceil(stride[i]) - 1) * stride[i] + kernel[i];
            let all = reach.saturating_sub(image[i]);
            (all / 2, all - all / 2)
        }),
    };
    let mut size = [0; 2];
    for i in 0..2 {
        let reach = conv.dilation[i] * (kernel[i] - 1) + 1;
        let free = (image[i] + pairs[i].0 + pairs[i].1).checked_sub(reach)?;
        size[i] = free / stride[i] + 1;
    }
    Some(Conv {
        batch,
        height,
        width,
        inputs,
        outputs,
        kernel,
        stride,
        dilation: conv.dilation,
        padding: pairs.map(|(before, _)| before),
        size,
    })
}

/// The convolution, of the sizes that [`conv_for`] found.
pub(crate) fn conv2d(conv: &Conv2d, x: Tensor<4>, sizes: Conv) -> Tensor<4> {
    let weight = conv.weight.val();
    let bias = match &conv.bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([sizes.outputs], &x.device()),
    };
    let y = Dispatch::conv(
        x.permute([0, 2, 3, 1]).into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        sizes,
    );
    Tensor::<4>::from_dispatch(y).permute([0, 3, 1, 2])
}

/// The sizes of a normalization of `x` and what is behind it, if there is code for it.
pub(crate) fn norm_for(norm: &BatchNorm, x: &Tensor<4>, relu: bool, pool: bool) -> Option<Norm> {
    let [batch, channels, height, width] = x.dims();
    let is_training = x.device().is_autodiff();
    // Frozen normalization within a training graph is left to Burn.
    let by_batch = is_training && norm.training.is_enabled();
    let fits = norm.gamma.dims() == [channels] && norm.gamma.dtype() == DType::F32;
    let is_left = !pool || (height > 1 && width > 1);
    if !is_ours(x) || !fits || !is_left || (is_training && !by_batch) {
        return None;
    }
    Some(Norm {
        batch,
        height,
        width,
        channels,
        relu,
        pool,
        epsilon: norm.epsilon as f32,
    })
}

/// The normalization and what is behind it, of the sizes that [`norm_for`] found.
pub(crate) fn norm(norm: &BatchNorm, x: Tensor<4>, sizes: Norm) -> Tensor<4> {
    let by_batch = x.device().is_autodiff();
    let x = x.permute([0, 2, 3, 1]).into_dispatch();
    let [gamma, beta] = [&norm.gamma, &norm.beta].map(|p| p.val().into_dispatch());
    let y = match by_batch {
        true => {
            let (y, mean, variance) = Dispatch::norm_train(x, gamma, beta, sizes);
            let [mean, variance] = [mean, variance].map(Tensor::from_dispatch);
            keep_statistics(norm, mean, variance);
            y
        }
        false => {
            let running = [&norm.running_mean, &norm.running_var];
            let [mean, variance] = running.map(|state| state.value().into_dispatch());
            Dispatch::norm_evaluate(x, gamma, beta, mean, variance, sizes)
        }
    };
    Tensor::<4>::from_dispatch(y).permute([0, 3, 1, 2])
}

/// Moves running statistics towards those of a batch, as Burn's batch-normalization does.
pub(crate) fn keep_statistics(norm: &BatchNorm, mean: Tensor<1>, variance: Tensor<1>) {
    let keep = |state: &RunningState<Tensor<1>>, now: Tensor<1>| {
        let before = state.value_sync() * (1.0 - norm.momentum);
        state.update((before + now.detach() * norm.momentum).detach());
    };
    keep(&norm.running_mean, mean);
    keep(&norm.running_var, variance);
}

/// A 3 x 3 convolution with padding 1 and bias, 2 x 2 max-pooling, batch-normalization, ReLU.
///
/// `x` has shape `[batch, channels_in, height, width]`, the result `[batch, channels_out, height / 2, width / 2]`. It is
/// normalized by the running mean and variance, where they are given; else by those of the batch, which come back with
/// the result, the variance biased.
pub(crate) fn conv_block(
    x: Tensor<4>,
    params: BlockParams,
) -> (Tensor<4>, Option<(Tensor<1>, Tensor<1>)>) {
    // Channels last. Between blocks the two permutations cancel out.
    let x = x.permute([0, 2, 3, 1]).into_dispatch();
    let weight = params.weight.into_dispatch();
    let [bias, gamma, beta] = [params.bias, params.gamma, params.beta].map(Tensor::into_dispatch);
    let epsilon = params.epsilon;
    let (y, batch) = match params.running {
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
