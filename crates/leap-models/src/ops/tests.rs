//! The block against Burn's own operations, and against finite differences.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
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

/// The block in one operation, where there is one for it.
fn fused(block: &ConvBlock, x: &Tensor<4>) -> Option<Tensor<4>> {
    let params = block.fused(x)?;
    Some(block.forward_fused(x.clone(), params))
}

/// Everything that a training pass computes: result, gradients of input and parameters, running statistics.
fn train(block: &ConvBlock, x: &Tensor<4>, fused: bool) -> Vec<Vec<f32>> {
    let block = leap_core::task_copy(block);
    let x = x.clone().detach().require_grad();
    let y = match fused {
        true => super::tests::fused(&block, &x).expect("the fused operation applies"),
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
    // Over a few values normalization takes away almost all of them, and of a gradient rounding is what is left.
    let [batch, height, width] = size;
    let values = batch * (height / 2) * (width / 2);
    let tolerance = if values < 8 { 2e-3 } else { 2e-4 };
    for device in devices() {
        let (block, x) = block(inputs, outputs, size, &device, seed);
        let (ours, theirs) = (train(&block, &x, true), train(&block, &x, false));
        for ((what, ours), theirs) in PARTS.iter().zip(&ours).zip(&theirs) {
            let floor = match *what {
                // The bias has no effect behind the normalization: what its gradient has is rounding.
                "dbias" => 10.0,
                // Sums over the values, which may take each other away: 1e-6 for each, as roundings add up.
                "dgamma" | "dbeta" => 1e-2_f32.max(5e-3 * (values as f32).sqrt()),
                _ => 1e-2,
            };
            assert_close(what, ours, theirs, tolerance * largest(theirs, floor));
        }
        // Evaluation, with the running statistics.
        let (block, x) = (block.valid(), x.inner());
        let ours = fused(&block, &x).expect("the fused operation applies");
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
    // Its gradient of gamma is what is left of a sum of larger terms.
    compare(8, 1, [4, 7, 8], 3_882_770_903_610_144_394);
    for (inputs, side) in [(1, 28), (64, 14), (64, 7), (64, 3)] {
        compare(inputs, 64, [20, side, side], 1);
    }
    // Normalization over two values.
    compare(40, 2, [2, 2, 2], 15287452404211797865);
}

/// Narrower registers than this processor's: other tests that run meanwhile use them too, which must make no difference.
#[test]
fn every_set_of_instructions_is_right() {
    for instructions in [1, 2, 0] {
        super::simd::FORCED.store(instructions, std::sync::atomic::Ordering::Relaxed);
        for (inputs, side) in [(1, 9), (16, 14), (33, 7), (8, 3)] {
            compare(inputs, 37, [5, side, side], 1);
            compare_norm([3, inputs, side, side], true, true, 1);
        }
        compare_conv(3, [9, 8], &Conv2dConfig::new([17, 40], [3, 3]));
        compare_conv(3, [9, 8], &Conv2dConfig::new([3, 70], [3, 2]));
    }
}

/// The gradients are the slopes of the loss, along random directions.
#[test]
fn gradients_are_finite_differences() {
    for device in devices() {
        for inputs in [2, 9] {
            let (block, x) = block(inputs, 5, [3, 6, 7], &device, 4);
            let loss = |block: &ConvBlock, x: &Tensor<4>| {
                let y = fused(block, x).expect("the fused operation applies");
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
            let y = fused(&block, &Tensor::from_inner(bad)).unwrap();
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
        (fused(block, x).is_some(), block.forward(x.clone()).dims())
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
    assert!(fused(&net.encoder.blocks[0], &x).is_none());
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

/// A random tensor with a gradient.
fn random_images(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let mut rng = run_rng(1, "images");
    let values = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0f32));
    let data = TensorData::new(values.collect(), shape);
    Tensor::from_data(data, device).require_grad()
}

/// What a layer's training pass gives: its result, the gradient of its input, those of its parameters.
fn layer_pass<M: Module>(
    layer: &M,
    x: &Tensor<4>,
    forward: impl Fn(&M, Tensor<4>) -> Tensor<4>,
) -> Vec<Vec<f32>> {
    let layer = leap_core::task_copy(layer);
    let x = x.clone().detach().require_grad();
    let y = forward(&layer, x.clone());
    let weights = Tensor::arange(0..y.shape().num_elements() as i64, &y.device());
    let loss = (y.clone() * weights.float().sin().reshape(y.dims())).sum();
    let mut grads = loss.backward();
    let flat = |t: Tensor<4>| t.into_data().try_to_vec::<f32>().unwrap();
    let of_x = flat(x.grad(&grads).unwrap());
    let of_params = GradientsParams::from_module(&mut grads, &layer);
    let space = leap_core::ParamSpace::new(&layer, &burn::module::ParamGroup::all()).unwrap();
    let of_params = space
        .gradient(&layer, &of_params)
        .unwrap()
        .to_vec()
        .unwrap();
    let of_params = of_params.into_iter().map(|v| v as f32);
    vec![flat(y.inner()), of_x, of_params.collect()]
}

fn assert_passes_agree(what: &str, ours: &[Vec<f32>], theirs: &[Vec<f32>]) {
    let parts = ["y", "dx", "dparameters"].iter().zip(ours).zip(theirs);
    for ((part, ours), theirs) in parts {
        let scale = 2e-4 * largest(theirs, 1e-1);
        assert_close(&format!("{part} of {what}"), ours, theirs, scale);
    }
}

fn compare_conv(batch: usize, size: [usize; 2], config: &Conv2dConfig) {
    for device in devices() {
        let device = device.autodiff();
        let mut rng = run_rng(2, "filters");
        let all = burn::module::ParamGroup::all();
        let conv = leap_core::reinitialize(config.init(&device), &all, &mut rng);
        let x = random_images([batch, config.channels[0], size[0], size[1]], &device);
        let ours = layer_pass(&conv, &x, |conv, x| {
            let sizes = super::conv_for(conv, &x).expect("there is code for it");
            super::conv2d(conv, x, sizes)
        });
        let theirs = layer_pass(&conv, &x, Conv2d::forward);
        assert_passes_agree(&format!("{config:?} on {size:?}"), &ours, &theirs);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_convolution_is_burns(
        batch in 1usize..6,
        channels in (prop_oneof![1usize..4, 8usize..20], prop_oneof![1usize..4, 8usize..20]),
        kernel in (1usize..5, 1usize..5),
        stride in (1usize..4, 1usize..4),
        dilation in (1usize..3, 1usize..3),
        padding in (0usize..3, 0usize..3, 0usize..3, 0usize..3),
        same in any::<bool>(),
        bias in any::<bool>(),
        extra in (0usize..7, 0usize..7),
    ) {
        let (stride, dilation, padding) = match same {
            true => ([1, 1], [1, 1], PaddingConfig2d::Same),
            false => {
                let (top, left, bottom, right) = padding;
                let padding = PaddingConfig2d::Explicit(top, left, bottom, right);
                ([stride.0, stride.1], [dilation.0, dilation.1], padding)
            }
        };
        let size = [
            dilation[0] * (kernel.0 - 1) + 1 + extra.0,
            dilation[1] * (kernel.1 - 1) + 1 + extra.1,
        ];
        let config = Conv2dConfig::new([channels.0, channels.1], [kernel.0, kernel.1])
            .with_stride(stride)
            .with_dilation(dilation)
            .with_padding(padding)
            .with_bias(bias);
        compare_conv(batch, size, &config);
    }

    /// The convolutions that Winograd's form is for.
    #[test]
    fn any_convolution_of_three_by_three_is_burns(
        batch in 1usize..6,
        channels in (8usize..20, 8usize..34),
        padding in (0usize..4, 0usize..4, 0usize..4, 0usize..4),
        size in (3usize..12, 3usize..12),
    ) {
        let (top, left, bottom, right) = padding;
        let config = Conv2dConfig::new([channels.0, channels.1], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(top, left, bottom, right));
        compare_conv(batch, [size.0, size.1], &config);
    }

    #[test]
    fn any_normalization_is_burns(
        batch in 1usize..5,
        channels in prop_oneof![1usize..4, 15usize..34],
        size in (2usize..9, 2usize..9),
        relu in any::<bool>(),
        pool in any::<bool>(),
        seed in 0u64..1000,
    ) {
        compare_norm([batch, channels, size.0, size.1], relu, pool, seed);
    }
}

#[test]
fn the_layers_of_a_readers_network_are_burns() {
    for (inputs, side) in [(3, 32), (64, 16), (64, 8), (64, 4)] {
        let config = Conv2dConfig::new([inputs, 64], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        compare_conv(20, [side, side], &config);
        compare_norm([20, 64, side, side], true, true, 1);
    }
    compare_conv(4, [84, 84], &Conv2dConfig::new([3, 32], [3, 3]));
    compare_conv(4, [16, 16], &Conv2dConfig::new([64, 96], [1, 1]));
}

fn compare_norm(shape: [usize; 4], with_relu: bool, with_pool: bool, seed: u64) {
    if shape[0] * shape[2] * shape[3] < 8 {
        return; // Of so few values, those that are almost the same decide.
    }
    for device in devices() {
        let (block, _) = block(1, shape[1], [2, 4, 4], &device, seed);
        let norm = block.norm.unwrap();
        let x = random_images(shape, &device.clone().autodiff());
        let burns = |norm: &BatchNorm, x: Tensor<4>| {
            let mut x = norm.forward(x);
            if with_relu {
                x = burn::tensor::activation::relu(x);
            }
            match with_pool {
                true => MaxPool2dConfig::new([2, 2]).init().forward(x),
                false => x,
            }
        };
        let ours = |norm: &BatchNorm, x: Tensor<4>| {
            let sizes = super::norm_for(norm, &x, with_relu, with_pool);
            super::norm(norm, x, sizes.expect("there is code for it"))
        };
        let what = format!("normalization of {shape:?}, ReLU {with_relu}, pooling {with_pool}");
        let (a, b) = (layer_pass(&norm, &x, ours), layer_pass(&norm, &x, burns));
        assert_passes_agree(&what, &a, &b);
        // Running statistics, and evaluation by them.
        let (a, b) = (leap_core::task_copy(&norm), leap_core::task_copy(&norm));
        let _ = (ours(&a, x.clone()), burns(&b, x.clone()));
        let (a, b) = (a.valid(), b.valid());
        let flat = |state: &burn::module::RunningState<Tensor<1>>| {
            state.value().into_data().try_to_vec::<f32>().unwrap()
        };
        for (a, b) in [
            (&a.running_mean, &b.running_mean),
            (&a.running_var, &b.running_var),
        ] {
            assert_close(&what, &flat(a), &flat(b), 1e-5);
        }
        let flat = |t: Tensor<4>| t.into_data().try_to_vec::<f32>().unwrap();
        let x = x.inner();
        assert_close(&what, &flat(ours(&a, x.clone())), &flat(burns(&b, x)), 1e-4);
    }
}

#[test]
fn layers_without_code_of_ours_are_burns() {
    let device = Device::flex().autodiff();
    let x = Tensor::<4>::ones([2, 4, 6, 6], &device);
    let groups = Conv2dConfig::new([4, 8], [3, 3])
        .with_groups(2)
        .init(&device);
    assert!(super::conv_for(&groups, &x).is_none());
    assert_eq!(crate::fast::conv2d(&groups, x.clone()).dims(), [2, 8, 4, 4]);
    let doubles = x.clone().cast(burn::tensor::DType::F64);
    assert!(
        super::norm_for(&BatchNormConfig::new(4).init(&device), &doubles, true, true).is_none()
    );
    let frozen = BatchNormConfig::new(4).init(&device).freeze();
    assert!(super::norm_for(&frozen, &x, false, false).is_none());
    assert_eq!(crate::fast::norm_relu_pool(&frozen, x).dims(), [2, 4, 3, 3]);
}

/// All settings of a block against Burn's operations, whichever code they take.
#[test]
fn blocks_of_all_settings_are_burns() {
    for device in devices() {
        let device = device.autodiff();
        for i in 0..32 {
            let is_on = |bit: usize| i >> bit & 1 == 1;
            let side = if is_on(4) { 84 } else { 12 };
            let config = ConvNetConfig::new()
                .with_layers(1)
                .with_filters(9)
                .with_channels(if is_on(4) { 3 } else { 8 })
                .with_kernel_size(if is_on(3) { 5 } else { 3 })
                .with_max_pool(is_on(0))
                .with_pool_last(is_on(1))
                .with_batch_norm(is_on(2))
                .with_image_size([side; 2]);
            let net = config.init(&device).unwrap();
            let all = burn::module::ParamGroup::all();
            let net = leap_core::reinitialize(net, &all, &mut run_rng(3, "net"));
            let block = net.encoder.blocks.into_iter().next().unwrap();
            let x = random_images([3, config.channels, side, side], &device);
            let ours = layer_pass(&block, &x, ConvBlock::forward);
            let theirs = layer_pass(&block, &x, ConvBlock::forward_unfused);
            assert_passes_agree(&format!("{config:?}"), &ours, &theirs);
        }
    }
}

/// How far a 3 x 3 convolution of 64 channels is off from float64, relative to its results, root mean square.
fn rounding(side: usize, device: &Device) -> f64 {
    let mut rng = run_rng(3, "rounding");
    let mut values =
        |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (batch, channels) = (2, 64);
    let (x, weight) = (
        values(batch * channels * side * side),
        values(channels * channels * 9),
    );
    let mut conv = Conv2dConfig::new([channels, channels], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(false)
        .init(device);
    let data = TensorData::new(weight.clone(), [channels, channels, 3, 3]);
    conv.weight = burn::module::Param::from_tensor(Tensor::from_data(data, device));
    let images = TensorData::new(x.clone(), [batch, channels, side, side]);
    let images = Tensor::<4>::from_data(images, device);
    let sizes = super::conv_for(&conv, &images).expect("there is code for it");
    let ours = super::conv2d(&conv, images, sizes).into_data();
    let ours: Vec<f32> = ours.try_to_vec().expect("floats");

    let (mut error, mut size) = (0.0, 0.0);
    for (i, ours) in ours.into_iter().enumerate() {
        let (image, output) = (i / (side * side * channels), i / (side * side) % channels);
        let (row, column) = (i / side % side, i % side);
        let mut exact = 0.0;
        for input in 0..channels {
            for tap in 0..9 {
                let (y, x_at) = (row + tap / 3, column + tap % 3);
                if (1..=side).contains(&y) && (1..=side).contains(&x_at) {
                    let at = ((image * channels + input) * side + y - 1) * side + x_at - 1;
                    exact +=
                        f64::from(x[at]) * f64::from(weight[(output * channels + input) * 9 + tap]);
                }
            }
        }
        error += (f64::from(ours) - exact).powi(2);
        size += exact * exact;
    }
    (error / size).sqrt()
}

/// What F(4 x 4) costs, which an image of 8 x 8 takes, against F(2 x 2), which one of 6 x 6 takes.
#[test]
fn larger_tiles_are_off_by_three_times_as_much() {
    for device in devices() {
        let [two, four] = [6, 8].map(|side| rounding(side, &device));
        println!("F(2 x 2) is off by {two:.1e}, F(4 x 4) by {four:.1e}");
        assert!(two < 4e-7 && four < 1.2e-6, "{two:e}, {four:e}");
    }
}
