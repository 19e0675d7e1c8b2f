//! The block against Burn's own operations, and against finite differences.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use leap_core::run_rng;
use proptest::prelude::*;
use rand::Rng;

use crate::conv_net::{ConvBlock, ConvNetConfig};

fn devices() -> Vec<Device> {
    ["flex", "ndarray"]
        .into_iter()
        .filter_map(|name| leap_core::device(name).ok())
        .collect()
}

/// A block with random parameters, and a random input.
fn block(
    inputs: usize,
    outputs: usize,
    size: [usize; 3],
    device: &Device,
    seed: u64,
) -> (ConvBlock, Tensor<4>) {
    let net = ConvNetConfig::new()
        .with_layers(1)
        .with_channels(inputs)
        .with_filters(outputs)
        .with_image_size([size[1], size[2]]);
    let net = net.init(&device.clone().autodiff()).unwrap();
    let mut rng = run_rng(seed, "block");
    let net = leap_core::reinitialize(net, &burn::module::ParamGroup::all(), &mut rng);
    let mut block = net.encoder.blocks.into_iter().next().unwrap();
    let mut values = |n: usize, range: std::ops::Range<f32>| -> Vec<f32> {
        (0..n).map(|_| rng.random_range(range.clone())).collect()
    };
    let norm = block.norm.as_mut().unwrap();
    let set = |param: &mut burn::module::Param<Tensor<1>>, values: Vec<f32>| {
        *param = param.clone().map(|old| {
            let new = Tensor::from_data(TensorData::from(values.as_slice()), &old.device());
            new.require_grad()
        });
    };
    set(&mut norm.gamma, values(outputs, 0.5..1.5));
    set(&mut norm.beta, values(outputs, -0.5..0.5));
    let shape = [size[0], inputs, size[1], size[2]];
    let x = TensorData::new(values(shape.iter().product(), -1.0..1.0), shape);
    (block, Tensor::from_data(x, &device.clone().autodiff()))
}

/// Everything that a training pass computes: result, gradients of input and parameters, running statistics.
fn train(block: &ConvBlock, x: &Tensor<4>, fused: bool) -> Vec<Vec<f32>> {
    let block = leap_core::task_copy(block);
    let x = x.clone().detach().require_grad();
    let y = match fused {
        true => block
            .forward_fused(&x)
            .expect("the fused operation applies"),
        false => block.forward_unfused(x.clone()),
    };
    // Weights that make the gradient of each output another.
    let weights = Tensor::arange(0..y.shape().num_elements() as i64, &y.device())
        .float()
        .sin();
    let loss = (y.clone() * weights.reshape(y.dims())).sum();
    let mut grads = loss.backward();
    let of_x = x.grad(&grads).unwrap();
    let of_params = GradientsParams::from_module(&mut grads, &block);
    let norm = block.norm.as_ref().unwrap();
    let bias = block.conv.bias.as_ref().unwrap();
    let vector = |id| of_params.get::<1>(id).unwrap();
    let valid = block.valid();
    let statistics = valid.norm.as_ref().unwrap();
    let flat = |t: Tensor<1>| t.into_data().try_to_vec::<f32>().unwrap();
    vec![
        flat(y.inner().flatten(0, 3)),
        flat(of_x.flatten(0, 3)),
        flat(
            of_params
                .get::<4>(block.conv.weight.id)
                .unwrap()
                .flatten(0, 3),
        ),
        flat(vector(bias.id)),
        flat(vector(norm.gamma.id)),
        flat(vector(norm.beta.id)),
        flat(statistics.running_mean.value()),
        flat(statistics.running_var.value()),
    ]
}

const PARTS: [&str; 8] = [
    "y", "dx", "dweight", "dbias", "dgamma", "dbeta", "mean", "variance",
];

fn assert_close(what: &str, ours: &[f32], theirs: &[f32], scale: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(
            (a - b).abs() <= scale,
            "{what}[{i}]: {a}, not {b} (within {scale})"
        );
    }
}

/// The largest absolute value, at least `floor`.
fn largest(values: &[f32], floor: f32) -> f32 {
    values.iter().fold(floor, |m, v| m.max(v.abs()))
}

fn compare(inputs: usize, outputs: usize, size: [usize; 3], seed: u64) {
    for device in devices() {
        let (block, x) = block(inputs, outputs, size, &device, seed);
        let (ours, theirs) = (train(&block, &x, true), train(&block, &x, false));
        for ((what, ours), theirs) in PARTS.iter().zip(&ours).zip(&theirs) {
            // The bias has no effect behind the normalization: what its gradient has is rounding.
            let floor = if *what == "dbias" { 10.0 } else { 1e-2 };
            assert_close(what, ours, theirs, 2e-4 * largest(theirs, floor));
        }
        // Evaluation, with the running statistics.
        let (block, x) = (block.valid(), x.inner());
        let ours = block
            .forward_fused(&x)
            .expect("the fused operation applies");
        let theirs = block.forward_unfused(x);
        let flat = |t: Tensor<4>| t.into_data().try_to_vec::<f32>().unwrap();
        assert_close("evaluated", &flat(ours), &flat(theirs), 1e-4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_block_is_burns_own(
        inputs in prop_oneof![1usize..4, 7usize..10, 15usize..18, Just(40)],
        outputs in prop_oneof![1usize..4, 15usize..18, Just(33)],
        batch in 2usize..5,
        height in 2usize..10,
        width in 2usize..10,
        seed in any::<u64>(),
    ) {
        compare(inputs, outputs, [batch, height, width], seed);
    }
}

#[test]
fn the_papers_blocks_are_burns_own() {
    for (inputs, side) in [(1, 28), (64, 14), (64, 7), (64, 3)] {
        compare(inputs, 64, [20, side, side], 1);
    }
}

/// The gradients are the slopes of the loss, along random directions.
#[test]
fn gradients_are_finite_differences() {
    for device in devices() {
        for inputs in [2, 9] {
            let (block, x) = block(inputs, 5, [3, 6, 7], &device, 4);
            let loss = |block: &ConvBlock, x: &Tensor<4>| {
                let y = block.forward_fused(x).expect("the fused operation applies");
                let weights = Tensor::arange(0..y.shape().num_elements() as i64, &y.device());
                let weights = weights.float().sin().reshape(y.dims());
                (y * weights).sum()
            };
            let x = x.require_grad();
            let grads = loss(&block, &x).backward();
            let slope_of = |step: f32, direction: &Tensor<4>, of_weight: bool| {
                let at = |step: f32| {
                    let (mut block, mut x) = (leap_core::task_copy(&block), x.clone().detach());
                    if of_weight {
                        let weight = block.conv.weight.clone();
                        block.conv.weight = weight.map(|w| {
                            Tensor::from_inner(w.inner() + direction.clone() * step).require_grad()
                        });
                    } else {
                        x = x + Tensor::from_inner(direction.clone() * step);
                    }
                    f64::from(loss(&block, &x).into_scalar::<f32>())
                };
                (at(step) - at(-step)) / (2.0 * f64::from(step))
            };
            for (of_weight, gradient) in [
                (true, block.conv.weight.val().grad(&grads).unwrap()),
                (false, x.grad(&grads).unwrap()),
            ] {
                let mut rng = run_rng(1, "direction");
                for _ in 0..3 {
                    let count = gradient.shape().num_elements();
                    let direction: Vec<f32> =
                        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
                    let direction = TensorData::new(direction, gradient.dims());
                    let direction = Tensor::<4>::from_data(direction, &gradient.device());
                    let analytic = (gradient.clone() * direction.clone())
                        .sum()
                        .into_scalar::<f32>();
                    // Pooling and ReLU have kinks, which a step may cross.
                    let slope = slope_of(1e-4, &direction, of_weight);
                    let error = (slope - f64::from(analytic)).abs();
                    assert!(
                        error < 0.02 * slope.abs().max(1.0),
                        "{slope}, not {analytic}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_number_is_not_lost() {
    for device in devices() {
        for inputs in [1, 8] {
            let (block, x) = block(inputs, 4, [2, 4, 4], &device, 0);
            let x = x.inner();
            let bad = x.clone().slice_fill([0..1, 0..1, 1..2, 1..2], f32::NAN);
            let y = block.forward_fused(&Tensor::from_inner(bad)).unwrap();
            let values = y.inner().into_data().try_to_vec::<f32>().unwrap();
            assert!(
                values.iter().all(|v| v.is_nan()),
                "the batch's statistics spread it"
            );
        }
    }
}

#[test]
fn tiny_numbers_stay_finite_and_right() {
    for device in devices() {
        let (block, x) = block(8, 16, [2, 6, 6], &device, 0);
        let denormal = x * 1e-39;
        let (ours, theirs) = (
            train(&block, &denormal, true),
            train(&block, &denormal, false),
        );
        for (what, ours, theirs) in
            [(0, 0, 0), (4, 4, 4), (5, 5, 5)].map(|(i, j, k)| (PARTS[i], &ours[j], &theirs[k]))
        {
            assert!(ours.iter().all(|v| v.is_finite()));
            assert_close(what, ours, theirs, 1e-4 * largest(theirs, 1.0));
        }
    }
}

/// Where the operation does not apply, the block is computed all the same.
#[test]
fn other_blocks_fall_back_to_burn() {
    let device = Device::flex();
    let config = ConvNetConfig::new()
        .with_layers(1)
        .with_filters(3)
        .with_image_size([6, 6]);
    let images = Tensor::<4>::ones([2, 1, 6, 6], &device);
    let result = |config: ConvNetConfig, x: &Tensor<4>| {
        let net = config.init(&x.device()).unwrap();
        let block = &net.encoder.blocks[0];
        (
            block.forward_fused(x).is_some(),
            block.forward(x.clone()).dims(),
        )
    };
    assert_eq!(result(config.clone(), &images), (true, [2, 3, 3, 3]));
    let others = [
        (config.clone().with_kernel_size(5), [2, 3, 2, 2]),
        (config.clone().with_padding(0), [2, 3, 2, 2]),
        (config.clone().with_max_pool(false), [2, 3, 6, 6]),
        (config.clone().with_batch_norm(false), [2, 3, 3, 3]),
    ];
    for (other, shape) in others {
        assert_eq!(result(other, &images), (false, shape));
    }
    let doubles = images.clone().cast(burn::tensor::DType::F64);
    assert!(!super::applies(&doubles));
    assert!(!super::applies(&images.clone().slice([
        0..2,
        0..1,
        0..1,
        0..6
    ])));
    assert!(!super::applies(&images.slice([0..0, 0..1, 0..6, 0..6])));

    // Frozen normalization within a graph is Burn's.
    let net = config.init(&device.autodiff()).unwrap().freeze();
    let x = Tensor::<4>::ones([2, 1, 6, 6], &Device::flex().autodiff());
    assert!(net.encoder.blocks[0].forward_fused(&x).is_none());
}

/// The convolution with ReLU against Burn's operations: result, and gradients of input, filters and bias.
fn compare_conv_relu(size: [usize; 4], outputs: usize, side: usize, stride: usize, seed: u64) {
    for device in devices() {
        let device = device.autodiff();
        let mut rng = run_rng(seed, "convolution");
        let mut random = |shape: [usize; 4]| {
            let values = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0f32));
            let data = TensorData::new(values.collect(), shape);
            Tensor::<4>::from_data(data, &device).require_grad()
        };
        let x = random(size);
        let weight = random([outputs, size[1], side, side]);
        let bias = random([1, 1, 1, outputs])
            .reshape([outputs])
            .detach()
            .require_grad();
        let run = |fused: bool| {
            let y = match fused {
                true => super::conv_relu(x.clone(), weight.clone(), bias.clone(), stride),
                false => {
                    let options = ConvOptions::new([stride; 2], [0, 0], [1, 1], 1);
                    let y = conv2d(x.clone(), weight.clone(), Some(bias.clone()), options);
                    burn::tensor::activation::relu(y)
                }
            };
            let weights = Tensor::arange(0..y.shape().num_elements() as i64, &device);
            let loss = (y.clone() * weights.float().sin().reshape(y.dims())).sum();
            let grads = loss.backward();
            let flat = |t: Tensor<4>| t.into_data().try_to_vec::<f32>().unwrap();
            [
                flat(y.inner()),
                flat(x.grad(&grads).unwrap()),
                flat(weight.grad(&grads).unwrap()),
                flat(bias.grad(&grads).unwrap().reshape([1, 1, 1, outputs])),
            ]
        };
        let (ours, theirs) = (run(true), run(false));
        for ((what, ours), theirs) in ["y", "dx", "dweight", "dbias"]
            .iter()
            .zip(&ours)
            .zip(&theirs)
        {
            assert_close(what, ours, theirs, 2e-4 * largest(theirs, 1e-2));
        }
    }
}

#[test]
fn the_convolutions_for_atari_are_burns() {
    compare_conv_relu([9, 4, 84, 84], 16, 8, 4, 1);
    compare_conv_relu([17, 16, 20, 20], 32, 4, 2, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_convolution_with_relu_is_burns(
        batch in 1usize..20, inputs in 1usize..6, outputs in 1usize..20, side in 1usize..7,
        extra in (0usize..9, 0usize..9), stride in 1usize..5, seed in 0u64..1000,
    ) {
        compare_conv_relu([batch, inputs, side + extra.0.max(2), side + extra.1.max(2)], outputs, side, stride, seed);
    }
}
