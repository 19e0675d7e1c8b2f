//! A training step of the Omniglot convnet on one thread, as in a lane: batch 20, 28 x 28, four blocks of 64 filters; ours
//! and the same network made of Burn's own layers; and a meta-step of two tasks on two lanes.
//!
//! ```text
//! cargo bench --profile dev --bench step
//! ```

use std::time::Duration;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor};
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use leap_core::{Lanes, Leap, MetaTrainer, Predict};
use leap_models::ConvNetConfig;
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

/// The network in Burn's layers.
#[derive(Module, Debug)]
struct BurnNet {
    blocks: Vec<BurnBlock>,
    head: Linear,
}

#[derive(Module, Debug)]
struct BurnBlock {
    conv: Conv2d,
    pool: MaxPool2d,
    norm: BatchNorm,
}

impl BurnNet {
    fn new(device: &Device) -> Self {
        let block = |channels| BurnBlock {
            conv: Conv2dConfig::new([channels, 64], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            norm: BatchNormConfig::new(64).init(device),
        };
        Self {
            blocks: [1, 64, 64, 64].map(block).into(),
            head: LinearConfig::new(64, 20).init(device),
        }
    }
}

impl Predict<Tensor<4>> for BurnNet {
    fn predict(&self, images: Tensor<4>) -> Tensor<2> {
        let block = |x, b: &BurnBlock| relu(b.norm.forward(b.pool.forward(b.conv.forward(x))));
        self.head
            .forward(self.blocks.iter().fold(images, block).flatten(1, 3))
    }
}

fn steps<M: Predict<Tensor<4>>>(criterion: &mut Criterion, name: &str, device: &Device, model: M) {
    let images = Tensor::<4>::random([20, 1, 28, 28], Distribution::Default, device);
    let classes = Tensor::<1, Int>::arange(0..20, device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    let (valid, plain) = (model.valid(), images.clone().inner());
    group.bench_function("forward, in evaluation", |b| {
        b.iter(|| valid.predict(plain.clone()));
    });
    group.bench_function("forward and backward", |b| {
        b.iter(|| {
            loss.forward(model.predict(images.clone()), classes.clone())
                .backward()
        });
    });
    let mut model = model.clone();
    let mut optimizer = SgdConfig::new().init();
    group.bench_function("step", |b| {
        b.iter(|| {
            let loss = loss.forward(model.predict(images.clone()), classes.clone());
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(0.01, model.clone(), grads);
        });
    });
    group.finish();
}

fn single_thread(criterion: &mut Criterion) {
    // All that is not in a lane's own pool runs here.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    pool.build_global().expect("the first to ask for it");
    for name in ["flex", "ndarray"] {
        let device = leap_core::device(name).expect("built in").autodiff();
        let ours = ConvNetConfig::new().init(&device).expect("sound settings");
        steps(criterion, &format!("ours on {name}"), &device, ours);
        let burns = BurnNet::new(&device);
        steps(
            criterion,
            &format!("Burn's layers on {name}"),
            &device,
            burns,
        );
    }
}

fn meta_step(criterion: &mut Criterion) {
    let device = Device::flex().autodiff();
    let data = Omniglot::bundled().expect("sound data");
    let tasks = OmniglotTasksConfig::new()
        .init(data)
        .expect("sound settings");
    let lanes = Lanes::threads(&device, 2).expect("lanes");
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(2)
        .with_task_steps(20);
    let init = ConvNetConfig::new().init(&device).expect("sound settings");
    let mut run = trainer.begin(init).expect("sound settings");
    criterion.bench_function(
        "meta-step: 2 tasks of 20 steps, 2 lanes, data and held-out pass included",
        |b| {
            b.iter(|| run.step(&tasks.train, &lanes).expect("a meta-step"));
        },
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = single_thread, meta_step
}
criterion_main!(benches);
