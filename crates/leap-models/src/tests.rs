//! The models.

use burn::module::{Module, ParamGroup};
use burn::nn::conv::Conv2d;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::SgdConfig;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use leap_core::{
    HeldOut, Lanes, MetaTrainer, ParamSpace, Predict, StepLoss, Task, TaskContext, TaskError,
    TaskSet,
};
use rand::Rng;

use super::*;

#[test]
fn the_default_is_the_papers_network() {
    let net = ConvNetConfig::new().init(&Device::flex()).unwrap();
    // Weights and biases of four convolutions and the head, gains and offsets of four
    // normalizations; the rest of the floats are running statistics.
    let trainable = 576 + 3 * 36_864 + 4 * 64 + 8 * 64 + 64 * 20 + 20;
    assert_eq!(net.num_params(), trainable + 8 * 64);
    let logits = net.forward(Tensor::zeros([3, 1, 28, 28], &Device::flex()));
    assert_eq!(logits.dims(), [3, 20]);
}

#[test]
fn shapes_follow_the_settings() {
    let device = Device::flex();
    let images = |c, h, w| Tensor::zeros([2, c, h, w], &device);
    let net = ConvNetConfig::new()
        .with_layers(2)
        .with_filters(5)
        .with_kernel_size(5)
        .with_padding(0)
        .with_channels(3)
        .with_image_size([21, 17])
        .with_batch_norm(false)
        .with_classes(7);
    assert_eq!(
        net.init(&device).unwrap().forward(images(3, 21, 17)).dims(),
        [2, 7]
    );
    let net = net.with_max_pool(false).init(&device).unwrap();
    assert_eq!(net.encoder.forward(images(3, 21, 17)).dims(), [2, 5]);
    assert_eq!(
        net.with_new_head(3).forward(images(3, 21, 17)).dims(),
        [2, 3]
    );
}

#[test]
fn impossible_settings_are_errors() {
    let device = Device::flex();
    let error = ConvNetConfig::new()
        .with_layers(5)
        .init(&device)
        .unwrap_err();
    assert!(error.to_string().contains("after block 5 of 5"), "{error}");
    assert!(ConvNetConfig::new().with_filters(0).init(&device).is_err());
    assert!(MlpConfig::new(vec![3]).init(&device).is_err());
    assert!(MlpConfig::new(vec![3, 0, 1]).init(&device).is_err());
}

#[test]
fn a_redrawn_head_leaves_the_encoder_alone() {
    let device = Device::flex();
    let net = ConvNetConfig::new().init(&device).unwrap();
    let group = ParamGroup::from_predicate("head");
    let draw =
        |seed| leap_core::reinitialize(net.clone(), &group, &mut leap_core::run_rng(seed, "head"));
    let (a, b, c) = (draw(1), draw(1), draw(2));
    let weight = |net: &ConvNet| net.head.weight.val().into_data();
    assert_eq!(weight(&a), weight(&b));
    assert_ne!(weight(&a), weight(&c));
    assert_ne!(weight(&a), weight(&net));
    let bound = 1.0 / 64f32.sqrt();
    for net in [&a, &c] {
        let values = weight(net).try_to_vec::<f32>().unwrap();
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest <= bound && largest > 0.95 * bound);
        assert_ne!(
            net.head
                .bias
                .as_ref()
                .unwrap()
                .val()
                .into_data()
                .try_to_vec::<f32>()
                .unwrap(),
            [0.0; 20]
        );
    }
    let conv = |net: &ConvNet| net.encoder.blocks[2].conv.weight.val().into_data();
    assert_eq!(conv(&a), conv(&net));
}

/// Random images of two kinds: bright above and bright below.
#[derive(Clone)]
struct Halves {
    flipped: bool,
}

struct HalvesTask {
    flipped: bool,
    rng: leap_core::TaskRng,
    device: Device,
}

impl<M: Predict<Tensor<4>>> TaskSet<M> for Halves {
    type Task = HalvesTask;

    fn len(&self) -> usize {
        1
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<HalvesTask, TaskError> {
        Ok(HalvesTask {
            flipped: self.flipped,
            rng: context.rng(),
            device: context.device.clone(),
        })
    }
}

impl HalvesTask {
    fn batch(&mut self, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
        let (mut pixels, mut classes) = (Vec::new(), Vec::new());
        for i in 0..16 {
            let class = i % 2;
            for place in 0..64 {
                let bright = (place < 32) == (class == 0);
                pixels.push(self.rng.random::<f32>() + if bright { 1.0 } else { 0.0 });
            }
            classes.push(if self.flipped { 1 - class } else { class });
        }
        (
            Tensor::from_data(TensorData::new(pixels, [16, 1, 8, 8]), device),
            Tensor::from_data(TensorData::new(classes, [16]), device),
        )
    }
}

impl<M: Predict<Tensor<4>>> Task<M> for HalvesTask {
    fn start(&mut self, init: M) -> Result<M, TaskError> {
        init.with_outputs(2)
    }

    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let (images, classes) = self.batch(&self.device.clone());
        let loss = CrossEntropyLossConfig::new().init(&self.device);
        Ok(loss.forward(model.predict(images), classes).into())
    }

    fn held_out(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        let device = model.devices().remove(0);
        let (images, classes) = self.batch(&device);
        let right = model
            .predict(images)
            .argmax(1)
            .squeeze_dim::<1>(1)
            .equal(classes);
        let accuracy = right.float().mean().into_scalar::<f32>();
        Ok(Some(HeldOut {
            loss: 0.0,
            accuracy: Some(accuracy.into()),
        }))
    }
}

fn small() -> ConvNetConfig {
    ConvNetConfig::new()
        .with_layers(2)
        .with_filters(6)
        .with_image_size([8, 8])
        .with_classes(3)
}

fn one_after_the_other<L: Clone>(learner: L, steps: usize) -> MetaTrainer<L> {
    MetaTrainer::new(learner)
        .with_shared(ParamGroup::from_predicate("encoder"))
        .with_meta_batch_size(1)
        .with_task_steps(steps)
        .with_meta_optimizer(SgdConfig::new().init(), 1.0)
}

fn seeded<M: Module>(model: M) -> M {
    leap_core::reinitialize(
        model,
        &ParamGroup::all(),
        &mut leap_core::run_rng(7, "model"),
    )
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[cfg(feature = "flex")]
#[test]
fn hard_attention_keeps_what_earlier_tasks_use() {
    let device = Device::flex().autodiff();
    let lanes = Lanes::single(&device);
    let hat = Hat::new().with_period(40).with_regularization(0.1);
    let trainer = one_after_the_other(hat, 80);
    let mut net = seeded(HatNet::new(&small(), &device).unwrap());
    // Four of six filters of the first block are used by others, three of the second, one of them by half.
    let used = [
        [1.0, 1.0, 1.0, 1.0, 0.0, 0.0],
        [1.0, 1.0, 0.5, 0.0, 0.0, 0.0f32],
    ];
    for (param, used) in net.encoder.cumulative.iter_mut().zip(used) {
        let values = Tensor::<1>::from_floats(used, &device);
        *param = burn::module::Param::from_tensor(values);
    }
    let mut run = trainer.begin(net.clone()).unwrap();
    let report = run.step(&Halves { flipped: false }, &lanes).unwrap();
    assert!(
        report.tasks[0].held_out.unwrap().accuracy.unwrap() > 0.9,
        "{report:?}"
    );
    let after = run.init();
    let weights = |net: &HatNet, i: usize| values(net.encoder.blocks[i].conv.weight.val());
    let moved = |i: usize, filter: usize| {
        let (before, after) = (weights(&net, i), weights(after, i));
        let size = before.len() / 6;
        let of = filter * size..(filter + 1) * size;
        let pairs = before[of.clone()].iter().zip(&after[of]);
        pairs.map(|(a, b)| (a - b).abs()).collect::<Vec<f32>>()
    };
    for filter in 0..4 {
        assert!(
            moved(0, filter).iter().all(|moved| *moved == 0.0),
            "filter {filter}"
        );
    }
    assert!((4..6).any(|filter| moved(0, filter).iter().any(|moved| *moved > 0.0)));
    // In the second block, what leads from a used filter to a used one stays; nine weights each.
    for filter in 0..2 {
        let moved = moved(1, filter);
        assert!(
            moved[..36].iter().all(|moved| *moved == 0.0),
            "filter {filter}"
        );
    }
    // What is used stays so, and the task adds to it.
    for (i, before) in used.into_iter().enumerate() {
        let after = values(after.encoder.cumulative[i].val());
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(before, after)| after >= before),
            "{after:?}"
        );
        assert!(after.iter().all(|used| (0.0..=1.0).contains(used)));
    }
    let all = |net: &HatNet| {
        net.encoder
            .cumulative
            .iter()
            .flat_map(|u| values(u.val()))
            .sum::<f32>()
    };
    assert!(all(after) > all(&net), "the task takes something");

    // The gates' formula: soft at first, hard at the end of each period.
    let hat = Hat::new().with_period(5);
    let scale = |step| hat.scale(step);
    assert_eq!((scale(0), scale(5)), (1.0 / 400.0, 1.0 / 400.0));
    assert_eq!((scale(4), scale(9)), (400.0, 400.0));
    assert!((scale(2) - (400.0 + 1.0 / 400.0) / 2.0).abs() < 1e-9);
    // And another model is refused.
    #[derive(Module, Debug)]
    struct Other {
        net: ConvNet,
    }
    impl AsHat for Other {
        fn as_hat(&mut self) -> Option<&mut HatNet> {
            None
        }
    }
    impl Predict<Tensor<4>> for Other {
        fn predict(&self, images: Tensor<4>) -> Tensor<2> {
            self.net.forward(images)
        }
        fn with_outputs(self, _outputs: usize) -> Result<Self, TaskError> {
            Ok(self)
        }
    }
    let net = small().init(&device).unwrap();
    let error = trainer.fit(Other { net }, 1, &Halves { flipped: false }, &lanes);
    assert!(error.unwrap_err().to_string().contains("HatNet"));
}

#[cfg(feature = "flex")]
#[test]
fn hard_attention_says_the_price_to_the_gates() {
    use burn::optim::GradientsParams;
    // With no gradient of the loss, what is left is c dR/de, made up for: checked against differences of R.
    let device = Device::flex().autodiff();
    let mut net = seeded(HatNet::new(&small(), &device).unwrap());
    let used = [[0.0, 0.25, 1.0, 0.0, 0.5, 0.0f32], [0.0; 6]];
    for (param, used) in net.encoder.cumulative.iter_mut().zip(used) {
        *param = burn::module::Param::from_tensor(Tensor::<1>::from_floats(used, &device));
    }
    let (hat, scale) = (
        Hat::new().with_regularization(0.5).with_max_scale(20.0),
        2.0,
    );
    let mut grads = GradientsParams::new();
    for gates in &net.embeddings {
        grads.register(gates.weight.id, gates.weight.val().inner().zeros_like());
    }
    let grads = hat.transform(&net, scale, grads);
    let embeddings: Vec<Vec<f32>> = net
        .embeddings
        .iter()
        .map(|g| values(g.weight.val()))
        .collect();
    let taken = |embeddings: &[Vec<f32>]| {
        let (mut sum, mut all) = (0.0, 0.0);
        for (embeddings, used) in embeddings.iter().zip(used) {
            for (e, used) in embeddings.iter().zip(used) {
                let gate = 1.0 / (1.0 + (-scale * f64::from(*e)).exp());
                sum += gate * (1.0 - f64::from(used));
                all += 1.0 - f64::from(used);
            }
        }
        0.5 * sum / all
    };
    for (i, gates) in net.embeddings.iter().enumerate() {
        let found = values(grads.get::<2>(gates.weight.id).unwrap());
        for (j, found) in found.into_iter().enumerate() {
            let at = |shift: f32| {
                let mut moved = embeddings.clone();
                moved[i][j] += shift;
                taken(&moved)
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            let e = f64::from(embeddings[i][j]);
            let makes_up = 20.0 / scale * ((scale * e).cosh() + 1.0) / (e.cosh() + 1.0);
            let expected = slope * makes_up;
            assert!(
                (f64::from(found) - expected).abs() < 1e-3 * (1.0 + expected.abs()),
                "{found} {expected}"
            );
        }
    }
}

#[cfg(feature = "flex")]
#[test]
fn gates_stay_where_they_have_a_gradient() {
    use burn::optim::GradientsParams;
    let device = Device::flex().autodiff();
    let mut net = seeded(HatNet::new(&small(), &device).unwrap());
    let far = Tensor::<2>::from_floats([[6.5, 6.5, -7.0, -7.0, 5.0, -5.0]], &device);
    net.embeddings[0].weight = burn::module::Param::from_tensor(far);
    let (hat, id) = (
        Hat::new().with_regularization(0.0),
        net.embeddings[0].weight.id,
    );
    let mut grads = GradientsParams::new();
    let grad = [[-1.0, 1.0, 1.0, -1.0, -1.0, 1.0]];
    grads.register(id, Tensor::<2>::from_floats(grad, &Device::flex()));
    let grads = hat.transform(&net, 1.0, grads);
    let found = values(grads.get::<2>(id).unwrap());
    let moves = found.iter().map(|grad| *grad != 0.0).collect::<Vec<_>>();
    // Beyond 6, those that would go farther out stay.
    assert_eq!(moves, [false, true, false, true, true, true]);
    // What is beyond counts as 6, and goes on having a gradient there.
    let images = Tensor::ones([2, 1, 8, 8], &device);
    net.scale = 0.5;
    let logits = net.forward(images.clone());
    let gradient = GradientsParams::from_grads(logits.sum().backward(), &net);
    let gradient = values(gradient.get::<2>(id).unwrap());
    assert!(gradient.iter().any(|grad| *grad != 0.0), "{gradient:?}");
    let at = |e: f32| {
        let mut net = net.clone();
        let e = Tensor::<2>::from_floats([[e, 6.0, -6.0, -6.0, 5.0, -5.0]], &device);
        net.embeddings[0].weight = burn::module::Param::from_tensor(e);
        values(net.forward(images.clone()).inner())
    };
    assert_eq!(at(6.5), at(6.0));
    assert_ne!(at(5.5), at(6.0));
}

#[cfg(feature = "flex")]
#[test]
fn progressive_columns_are_left_as_they_are() {
    let device = Device::flex().autodiff();
    let lanes = Lanes::single(&device);
    let trainer = one_after_the_other(ProgressiveNets, 30);
    let net = seeded(ProgressiveNet::new(&small(), 3, &device).unwrap());
    let mut run = trainer.begin(net.clone()).unwrap();
    let column = |net: &ProgressiveNet, place: usize| {
        let space = ParamSpace::new(&net.encoder.columns[place], &ParamGroup::all()).unwrap();
        space
            .point(&net.encoder.columns[place])
            .unwrap()
            .to_vec()
            .unwrap()
    };
    let mut before = net.clone();
    for place in 0..3 {
        let tasks = Halves {
            flipped: place % 2 == 1,
        };
        // What a held-out task would train is the same column, and nothing stays of it.
        let held_out = trainer.evaluate(run.init(), &tasks, &lanes).unwrap();
        assert!(held_out.tasks[0].held_out.unwrap().accuracy.unwrap() > 0.9);
        assert_eq!(column(run.init(), place), column(&before, place));
        let report = run.step(&tasks, &lanes).unwrap();
        assert!(
            report.tasks[0].held_out.unwrap().accuracy.unwrap() > 0.9,
            "column {place}"
        );
        for other in 0..3 {
            let has_moved = column(run.init(), other) != column(&before, other);
            assert_eq!(has_moved, other == place, "column {other} of task {place}");
        }
        before = run.init().clone();
    }
    let error = run.step(&Halves { flipped: false }, &lanes).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("all 3 columns have been trained"),
        "{error}"
    );

    // The second column sees the first: W h + U a is not W h alone.
    let mut net = run.init().valid();
    net.encoder.active = 1;
    let images = Tensor::ones([2, 1, 8, 8], &Device::flex());
    let seen = values(net.encoder.forward(images.clone()));
    let first = &mut net.encoder.columns[0].blocks[0].conv;
    first.weight = first.weight.clone().map(|w| w * -3.0);
    assert_ne!(values(net.encoder.forward(images)), seen);
    assert!(ProgressiveNet::new(&small(), 0, &device).is_err());
}

#[test]
fn a_warp_follows_each_block_and_changes_nothing_else() {
    let device = Device::flex();
    let config = ConvNetConfig::new().with_filters(8).with_warp(true);
    let mut net = config.init(&device).unwrap();
    let x = Tensor::random([3, 1, 28, 28], Distribution::Default, &device);
    assert_eq!(net.forward(x.clone()).dims(), [3, 20]);
    for block in &mut net.encoder.blocks {
        let warp = block.warp.take().unwrap();
        assert_eq!(warp.weight.dims(), [8, 8, 3, 3]);
        // One that does nothing.
        let identity = Tensor::<2>::eye(8, &device).reshape([8, 8, 1, 1]);
        let weight = Tensor::zeros([8, 8, 3, 3], &device);
        let weight = weight.slice_assign([0..8, 0..8, 1..2, 1..2], identity);
        block.warp = Some(Conv2d {
            weight: warp.weight.map(|_| weight),
            bias: warp.bias.map(|bias| bias.map(|b| b.zeros_like())),
            ..warp
        });
    }
    let warped = net.forward(x.clone());
    net.encoder
        .blocks
        .iter_mut()
        .for_each(|block| block.warp = None);
    let apart = (warped - net.forward(x)).abs().max().into_scalar::<f32>();
    assert!(apart < 1e-4, "{apart}");
}
