//! Tasks that are trained as one come to what they come to one by one.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::activation::{gelu, relu};
use burn::tensor::{Device, Tensor};
use leap_core::{
    InnerLoop, Lanes, Leap, MetaLearner, MetaTrainer, Method, Predict, Report, reinitialize,
    run_rng,
};
use leap_models::{ConvNet, ConvNetConfig, Mlp, MlpConfig};
use leap_tasks::Sinusoids;
use leap_tasks::omniglot::{Omniglot, OmniglotSplits, OmniglotTasksConfig};
use leap_tests::cpu_devices;

fn mlp(device: &Device) -> Mlp {
    let mlp = MlpConfig::new(vec![1, 16, 16, 1]).init(device).unwrap();
    reinitialize(mlp, &ParamGroup::all(), &mut run_rng(3, "parameters"))
}

fn conv_net(device: &Device, config: ConvNetConfig) -> ConvNet {
    let net = config.init(device).unwrap();
    reinitialize(net, &ParamGroup::all(), &mut run_rng(3, "parameters"))
}

fn small() -> ConvNetConfig {
    ConvNetConfig::new().with_filters(4).with_classes(5)
}

fn omniglot() -> OmniglotSplits {
    let config = OmniglotTasksConfig::new()
        .with_classes(5)
        .with_train_alphabets(8);
    config.init(Omniglot::bundled().unwrap()).unwrap()
}

/// All floats of a module, running statistics too.
fn floats<M: Module>(model: &M) -> Vec<f32> {
    struct Values(Vec<f32>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut values = Values(Vec::new());
    model.visit(&mut values);
    values.0
}

/// The distance of two vectors, relative to the second's length.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    (difference / norm(&mut b.iter().copied())).sqrt()
}

/// What is measured of tasks, of which numbers may be off by so much.
fn assert_alike(stacked: &Report, alone: &Report, tolerance: f64, what: &str) {
    assert_eq!(stacked.tasks.len(), alone.tasks.len());
    let close = |a: f64, b: f64| (a - b).abs() <= tolerance * b.abs().max(0.1);
    for (a, b) in stacked.tasks.iter().zip(&alone.tasks) {
        assert_eq!((&a.name, a.seed, a.index), (&b.name, b.seed, b.index));
        assert_eq!(a.left_out, b.left_out, "{what}");
        assert_eq!(a.normalized_by, b.normalized_by);
        assert_eq!(a.curve.loss.len(), b.curve.loss.len(), "{what}");
        assert_eq!(a.curve.accuracy.len(), b.curve.accuracy.len());
        for (step, (x, y)) in a.curve.loss.iter().zip(&b.curve.loss).enumerate() {
            assert!(
                close(*x, *y),
                "{what}, {}: loss {x} for {y} at step {step}",
                a.name
            );
        }
        let length = |r: &leap_core::TaskReport| r.path.map(|path| path.length);
        if let (Some(x), Some(y)) = (length(a), length(b)) {
            assert!(close(x, y), "{what}, {}: a path of {x} for {y}", a.name);
        }
        assert_eq!(length(a).is_some(), length(b).is_some());
        let held_out = |r: &leap_core::TaskReport| r.held_out.map(|h| h.loss);
        if let (Some(x), Some(y)) = (held_out(a), held_out(b)) {
            assert!(close(x, y), "{what}, {}: held-out loss {x} for {y}", a.name);
        }
        assert_eq!(held_out(a).is_some(), held_out(b).is_some());
    }
}

/// Meta-trains with and without stacking, and compares what comes of it.
fn compare<M: Module, S: leap_core::TaskSet<M>, L: MetaLearner<M>>(
    what: &str,
    trainer: &MetaTrainer<L>,
    init: &M,
    tasks: &S,
    test: &S,
    tolerance: f64,
) {
    let device = init.devices().remove(0);
    let run = |tasks_at_once: usize| {
        let trainer = trainer.clone().with_task_batch(tasks_at_once);
        let lanes = Lanes::threads(&device, 1).unwrap();
        let mut run = trainer.begin(init.clone()).unwrap();
        let reports = Vec::from_iter((0..2).map(|_| run.step(tasks, &lanes).unwrap()));
        let held_out = trainer.evaluate(run.init(), test, &lanes).unwrap();
        (floats(run.init()), reports, held_out, run.stacks())
    };
    let alone = run(1);
    for at_once in [2, 5] {
        let stacked = run(at_once);
        let what = &format!("{what}, {at_once} at once");
        assert!(stacked.3, "{what} was not stacked");
        for (a, b) in stacked.1.iter().zip(&alone.1) {
            assert_alike(a, b, tolerance, what);
        }
        assert_alike(&stacked.2, &alone.2, tolerance, what);
        let apart = apart(&stacked.0, &alone.0);
        println!("{what}: initializations are {apart:.1e} apart");
        assert!(apart < tolerance, "{what}: {apart}");
        assert!(!alone.3);
    }
}

fn methods() -> Vec<Method> {
    let names = "leap,leap-energy,leap-noloss,reptile,fomaml,fomaml-query,finetuning,none";
    names.split(',').map(|name| name.parse().unwrap()).collect()
}

#[test]
fn every_first_order_method_on_sinusoids() {
    let tasks = Sinusoids::new().with_tasks(12);
    for (name, device) in cpu_devices() {
        for method in methods() {
            let trainer = MetaTrainer::new(method)
                .with_meta_batch_size(5)
                .with_task_optimizer(SgdConfig::new().init(), 0.01)
                .with_task_steps(6)
                .with_meta_optimizer(SgdConfig::new().init(), 0.01);
            let what = format!("{method} on {name}");
            compare(&what, &trainer, &mlp(&device), &tasks, &tasks, 1e-4);
        }
    }
}

#[test]
fn convolutions_and_normalization_on_omniglot() {
    let tasks = omniglot();
    for (name, device) in cpu_devices() {
        for method in methods() {
            let trainer = MetaTrainer::new(method)
                .with_meta_batch_size(5)
                .with_task_optimizer(SgdConfig::new().init(), 0.02)
                .with_task_steps(4);
            let init = conv_net(&device, small());
            let what = format!("{method} on {name}");
            compare(&what, &trainer, &init, &tasks.train, &tasks.test, 1e-2);
        }
    }
}
