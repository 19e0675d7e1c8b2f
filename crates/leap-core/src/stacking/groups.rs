//! A convolution with a group for each task, whose backward pass is as long for any number of them.
//!
//! Burn takes the gradient of such a convolution's weights group by group, each with kernels of its own. Here it is one
//! convolution: with input channels as its batch, and groups and images as its channels, the output's gradient is its filter
//! (Goodfellow: "Technical report: Multidimensional, Downsampled Convolution for Autoencoders", 2010, of which groups
//! are the plain continuation).

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::ConvOptions;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Slice};

/// Images are `[batch, groups * channels, height, width]`, weights `[groups * filters, channels, height, width]`.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    Autodiff
)]
pub(super) trait GroupedConv: Backend {
    fn grouped_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv2d(x, weight, None, options)
    }

    fn grouped_conv_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv2d(x, weight, Some(bias), options)
    }
}

#[cfg(feature = "cube")]
impl GroupedConv for burn::backend::Cube {}

#[cfg(feature = "flex")]
impl GroupedConv for burn::backend::Flex {}

/// Input, weights and, of `N = 3`, a bias.
#[derive(Debug)]
struct GroupedConvBackward;

impl<B: Backend, const N: usize> Backward<B, N> for GroupedConvBackward {
    type State = ([FloatTensor<B>; N], ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (inputs, options) = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let [x, weight] = [0, 1].map(|i| inputs[i].clone());
        for (place, parent) in ops.parents.into_iter().enumerate() {
            let Some(parent) = parent else {
                continue;
            };
            let dy = dy.clone();
            let gradient = match place {
                0 => of_input::<B>(x.clone(), weight.clone(), dy, &options),
                1 => of_weight::<B>(x.clone(), weight.shape(), dy, &options),
                _ => B::conv2d_bias_backward(x.clone(), inputs[place].clone(), dy),
            };
            grads.register::<B>(parent.id, gradient);
        }
    }
}

/// `forward` with its backward pass.
fn tracked<B: Backend, C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<B, C>>; N],
    options: ConvOptions<2>,
    forward: impl FnOnce([FloatTensor<B>; N], ConvOptions<2>) -> FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let nodes = inputs.each_ref().map(|input| input.node());
    let inputs = inputs.map(|input| input.into_primitive());
    let y = forward(inputs.clone(), options.clone());
    let prepared = Backward::<B, N>::prepare::<C>(GroupedConvBackward, nodes);
    match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((inputs, options), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

impl<B: GroupedConv, C: CheckpointStrategy> GroupedConv for Autodiff<B, C> {
    fn grouped_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        tracked::<B, C, 2>([x, weight], options, |[x, weight], options| {
            B::grouped_conv(x, weight, options)
        })
    }

    fn grouped_conv_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        tracked::<B, C, 3>([x, weight, bias], options, |[x, weight, bias], options| {
            B::grouped_conv_with_bias(x, weight, bias, options)
        })
    }
}

/// A convolution of the output's gradient with the filters turned around, where the stride is 1.
fn of_input<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    dy: FloatTensor<B>,
    options: &ConvOptions<2>,
) -> FloatTensor<B> {
    let [all, channels, height, width] = weight.shape().dims();
    let (groups, filters) = (options.groups, all / options.groups);
    let padding = [height, width].into_iter().zip(options.padding);
    let padding = padding.zip(options.dilation);
    // A padding wider than the filter reaches leaves nothing to be added, and is Burn's.
    let padding = padding.map(|((size, (begin, end)), dilation)| {
        let reach = dilation * (size - 1);
        Some((reach.checked_sub(begin)?, reach.checked_sub(end)?))
    });
    let padding: Option<Vec<(usize, usize)>> = padding.collect();
    let (Some(padding), [1, 1]) = (padding, options.stride) else {
        return B::conv2d_x_backward(x, weight, dy, options.clone());
    };
    let parts = Shape::new([groups, filters, channels, height * width]);
    let weight = B::float_permute(B::float_reshape(weight, parts), &[0, 2, 1, 3]);
    // Turned in both dimensions at once.
    let weight = B::float_flip(weight, &[3]);
    let weight = B::float_reshape(
        weight,
        Shape::new([groups * channels, filters, height, width]),
    );
    let options = ConvOptions {
        padding: [padding[0], padding[1]],
        ..options.clone()
    };
    B::conv2d(dy, weight, None, options)
}

/// A convolution of the input with the output's gradient, in which stride and dilation change places.
fn of_weight<B: Backend>(
    x: FloatTensor<B>,
    shape: Shape,
    dy: FloatTensor<B>,
    options: &ConvOptions<2>,
) -> FloatTensor<B> {
    let [batch, all, height, width] = x.shape().dims();
    let (groups, channels) = (options.groups, all / options.groups);
    let x = B::float_reshape(x, Shape::new([batch, groups, channels, height * width]));
    let x = B::float_permute(x, &[2, 1, 0, 3]);
    let x = B::float_reshape(x, Shape::new([channels, groups * batch, height, width]));
    let options = ConvOptions {
        stride: options.dilation,
        dilation: options.stride,
        ..options.clone()
    };
    let gradient = B::conv2d(x, B::float_swap_dims(dy, 0, 1), None, options);
    let gradient = B::float_swap_dims(gradient, 0, 1);
    // Where a stride does not divide the input, there is more than was asked for.
    match gradient.shape() == shape {
        true => gradient,
        false => {
            let ranges = shape
                .iter()
                .map(|&size| Slice::new(0, Some(size as isize), 1));
            B::float_slice(gradient, &Vec::from_iter(ranges))
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::backend::Dispatch;
    use burn::backend::ops::ModuleOps;
    use burn::tensor::{Device, Tensor, TensorData};
    use rand::Rng;

    use super::*;
    use crate::run_rng;

    /// Result and gradients, with Burn's own backward pass and with that of this file.
    #[test]
    fn gradients_are_burns() {
        let rng = &mut run_rng(0, "numbers");
        let mut random = |dims: Vec<usize>| {
            let count = dims.iter().product::<usize>();
            let values = Vec::from_iter((0..count).map(|_| rng.random_range(-1.0..1.0)));
            TensorData::new::<f32, _>(values, dims)
        };
        let device = Device::flex().autodiff();
        let options = |stride, padding, dilation, groups| {
            ConvOptions::new_with_padding(stride, padding, dilation, groups)
        };
        let same = [(1, 1), (1, 1)];
        let none = [(0, 0), (0, 0)];
        for (batch, channels, filters, [height, width], kernel, options) in [
            (2, 3, 4, [5, 6], [3, 3], options([1, 1], same, [1, 1], 3)),
            (2, 1, 2, [7, 5], [3, 1], options([1, 1], none, [1, 1], 2)),
            (1, 2, 3, [8, 9], [3, 3], options([2, 3], same, [1, 1], 2)),
            (
                3,
                2,
                1,
                [9, 9],
                [2, 3],
                options([1, 1], [(2, 0), (1, 3)], [2, 1], 4),
            ),
            (2, 2, 2, [6, 6], [1, 1], options([1, 1], same, [1, 1], 3)),
            (2, 1, 1, [6, 7], [3, 3], options([2, 2], same, [2, 1], 5)),
        ] {
            let groups = options.groups;
            let x = random(vec![batch, groups * channels, height, width]);
            let weight = random(vec![groups * filters, channels, kernel[0], kernel[1]]);
            let bias = random(vec![groups * filters]);
            let run = |own: bool, with_bias: bool| {
                let x = Tensor::<4>::from_data(x.clone(), &device).require_grad();
                let weight = Tensor::<4>::from_data(weight.clone(), &device).require_grad();
                let bias = Tensor::<1>::from_data(bias.clone(), &device).require_grad();
                let [of_x, of_weight] = [&x, &weight].map(|t| t.clone().into_dispatch());
                let of_bias = bias.clone().into_dispatch();
                let options = options.clone();
                let y = match (own, with_bias) {
                    (true, true) => {
                        Dispatch::grouped_conv_with_bias(of_x, of_weight, of_bias, options)
                    }
                    (true, false) => Dispatch::grouped_conv(of_x, of_weight, options),
                    (false, true) => Dispatch::conv2d(of_x, of_weight, Some(of_bias), options),
                    (false, false) => Dispatch::conv2d(of_x, of_weight, None, options),
                };
                let y = Tensor::<4>::from_dispatch(y);
                let grads = y.clone().powi_scalar(2).sum().backward();
                let mut all = vec![y.into_data(), x.grad(&grads).unwrap().into_data()];
                all.push(weight.grad(&grads).unwrap().into_data());
                all.extend(bias.grad(&grads).map(Tensor::into_data));
                all
            };
            for with_bias in [true, false] {
                let (own, burns) = (run(true, with_bias), run(false, with_bias));
                assert_eq!(own.len(), 3 + usize::from(with_bias));
                for (own, burns) in own.iter().zip(&burns) {
                    assert_eq!(own.shape(), burns.shape(), "{options:?}");
                    for (a, b) in own.iter::<f32>().zip(burns.iter::<f32>()) {
                        assert!((a - b).abs() < 1e-4, "{options:?}: {a} for {b}");
                    }
                }
            }
        }
    }
}
