//! What a model draws itself, such as dropout's masks, comes from the task's seed; and statistics of held-out batches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{Module, ParamGroup};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::activation::tanh;
use burn::tensor::{Device, Distribution, Tensor};
use leap_core::{
    Checkpoints, HeldOut, Lanes, Leap, Maml, MetaTrainer, ParamSpace, Predict, Statistics,
    StepLoss, Task, TaskContext, TaskError, TaskSet, reinitialize, run_rng,
};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::Sinusoids;
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

#[derive(Module, Debug)]
struct Net {
    hidden: Linear,
    norm: Option<BatchNorm>,
    dropout: Dropout,
    output: Linear,
}

impl Predict<Tensor<2>> for Net {
    fn predict(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = tanh(self.hidden.forward(x));
        let hidden = match &self.norm {
            Some(norm) => norm.forward(hidden),
            None => hidden,
        };
        self.output.forward(self.dropout.forward(hidden))
    }
}

fn net(device: &Device, dropout: f64) -> Net {
    let net = Net {
        hidden: LinearConfig::new(1, 32).init(device),
        norm: None,
        dropout: DropoutConfig::new(dropout).init(),
        output: LinearConfig::new(32, 1).init(device),
    };
    reinitialize(net, &ParamGroup::all(), &mut run_rng(1, "net"))
}

/// Burn's generators are one for all threads: each test has them for itself.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cpus() -> Vec<(&'static str, Device)> {
    vec![
        ("flex", Device::flex().autodiff()),
        ("ndarray", leap_core::device("ndarray").unwrap().autodiff()),
    ]
}

fn values<M: Module>(model: &M) -> Vec<f64> {
    let space = ParamSpace::new(model, &ParamGroup::all()).unwrap();
    space.point(model).unwrap().to_vec().unwrap()
}

fn trainer<L: Clone>(learner: L) -> MetaTrainer<L> {
    MetaTrainer::new(learner)
        .with_seed(1)
        .with_meta_batch_size(4)
        .with_task_steps(10)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
}

#[test]
fn dropout_is_seeded_by_the_task() {
    let _alone = alone();
    for (name, device) in cpus() {
        let fit = |seed: u64, dropout: f64, lanes: usize| {
            let lanes = Lanes::threads(&device, lanes).unwrap();
            let trainer = trainer(Leap::new()).with_seed(seed);
            let init = trainer.fit(net(&device, dropout), 3, &Sinusoids::new(), &lanes);
            values(&init.unwrap())
        };
        let once = fit(1, 0.2, 1);
        assert_eq!(once, fit(1, 0.2, 1), "{name}: twice");
        for lanes in [2, 4] {
            assert_eq!(once, fit(1, 0.2, lanes), "{name}: {lanes} lanes");
        }
        assert_ne!(once, fit(1, 0.0, 1), "{name}: dropout does something");
        assert_ne!(once, fit(2, 0.2, 1), "{name}: another seed");

        // A run that is broken off between meta-steps.
        let folder = tempfile::tempdir().unwrap();
        let trainer = trainer(Leap::new()).with_checkpoints(Checkpoints::new(folder.path(), 1));
        let lanes = Lanes::threads(&device, 2).unwrap();
        let tasks = Sinusoids::new();
        trainer.fit(net(&device, 0.2), 2, &tasks, &lanes).unwrap();
        let mut run = trainer.resume(net(&device, 0.2)).unwrap();
        run.step(&tasks, &lanes).unwrap();
        assert_eq!(once, values(run.init()), "{name}: resumed");
    }
}

#[test]
fn a_generator_that_was_seeded_by_hand_goes_on() {
    let _alone = alone();
    for (name, device) in cpus() {
        let plain = device.clone().without_autodiff();
        let draw = || {
            let drawn = Tensor::<1>::random([3], Distribution::Default, &plain);
            drawn.into_data().iter::<f32>().collect::<Vec<_>>()
        };
        let fit = |lanes: usize| {
            device.seed(7);
            let lanes = Lanes::threads(&device, lanes).unwrap();
            let init = trainer(Leap::new()).fit(net(&device, 0.2), 1, &Sinusoids::new(), &lanes);
            init.unwrap();
            (draw(), draw())
        };
        let (first, second) = fit(1);
        assert_ne!(first, second, "{name}");
        assert_eq!(
            (first.clone(), second),
            fit(1),
            "{name}: the same each time"
        );
        device.seed(7);
        assert_ne!(first, draw(), "{name}: training does not wind it back");
    }
}

/// With a mask of its own for each gradient, the difference that stands for a product with the Hessian would be noise that
/// grows with one over its step.
#[test]
fn maml_differentiates_through_one_mask() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    let gradient = |difference: f64| {
        let init = net(&device, 0.5);
        let trainer = trainer(Maml::new().with_difference(difference))
            .with_task_steps(3)
            .with_meta_batch_size(1)
            .with_meta_optimizer(SgdConfig::new().init(), 1.0);
        let before = values(&init);
        let after = trainer.fit(init, 1, &Sinusoids::new(), &Lanes::single(&device));
        let moved = values(&after.unwrap()).into_iter().zip(before);
        moved
            .map(|(after, before)| after - before)
            .collect::<Vec<_>>()
    };
    let (coarse, fine) = (gradient(1e-2), gradient(1e-3));
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let apart = norm(&mut coarse.iter().zip(&fine).map(|(a, b)| a - b));
    let apart = apart / norm(&mut fine.iter().copied());
    assert!(apart < 1e-2, "{apart}");
}

/// A task that draws its target when it is set up, and notices what the model does in training mode.
struct Noisy;

struct NoisyTask {
    target: Tensor<2>,
    device: Device,
}

impl TaskSet<Net> for Noisy {
    type Task = NoisyTask;

    fn len(&self) -> usize {
        6
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<NoisyTask, TaskError> {
        Ok(NoisyTask {
            target: Tensor::random([8, 1], Distribution::Default, &context.device),
            device: context.device.clone(),
        })
    }
}

impl Task<Net> for NoisyTask {
    fn start(&mut self, init: Net) -> Result<Net, TaskError> {
        Ok(Net {
            output: LinearConfig::new(32, 1).init(&self.device), // Drawn by Burn, when it is first asked for.
            ..init
        })
    }

    fn loss(&mut self, model: &Net) -> Result<StepLoss, TaskError> {
        let x = Tensor::random([8, 1], Distribution::Default, &self.device);
        Ok((model.predict(x) - self.target.clone())
            .square()
            .mean()
            .into())
    }

    fn held_out(&mut self, model: &Net) -> Result<Option<HeldOut>, TaskError> {
        let x = Tensor::<2>::from_floats([[-1.0], [1.0]], &model.devices()[0]);
        let [once, twice] = [x.clone(), x].map(|x| model.predict(x).into_data());
        once.assert_eq(&twice, true); // No dropout.
        let loss = once.iter::<f64>().sum::<f64>();
        Ok(Some(HeldOut {
            loss,
            accuracy: None,
        }))
    }
}

#[test]
fn what_tasks_draw_on_the_device_is_seeded_too() {
    let _alone = alone();
    for (name, device) in cpus() {
        let report = |lanes: usize, statistics: Statistics| {
            let lanes = Lanes::threads(&device, lanes).unwrap();
            let trainer = trainer(Leap::new())
                .with_held_out_statistics(statistics)
                .with_shared(ParamGroup::from_predicate("hidden"));
            let init = Net {
                norm: Some(BatchNormConfig::new(32).init(&device)),
                ..net(&device, 0.2)
            };
            let report = trainer.evaluate(&init, &Noisy, &lanes).unwrap();
            report.tasks
        };
        let running = report(1, Statistics::Running);
        assert_eq!(running, report(3, Statistics::Running), "{name}");
        let by_batch = report(1, Statistics::Batch);
        assert_eq!(by_batch, report(3, Statistics::Batch), "{name}");
        assert_eq!(
            running[0].curve, by_batch[0].curve,
            "{name}: training is the same"
        );
        assert_ne!(running[0].held_out, by_batch[0].held_out, "{name}");
    }
}

/// After five steps, running statistics are still those of no data at all.
#[test]
fn held_out_drawings_of_short_tasks_are_normalized_by_their_batch() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    let splits = OmniglotTasksConfig::new()
        .with_classes(5)
        .with_train_alphabets(1)
        .with_test_alphabets(4)
        .init(Omniglot::bundled().unwrap())
        .unwrap();
    let net: ConvNet = ConvNetConfig::new()
        .with_classes(5)
        .with_filters(16)
        .init(&device)
        .unwrap();
    let net = reinitialize(net, &ParamGroup::all(), &mut run_rng(1, "net"));
    let before = values(&net);
    let accuracy = |steps: usize, chosen: Option<Statistics>| {
        let trainer = MetaTrainer::new(Leap::new()).with_task_steps(steps);
        let trainer = match chosen {
            Some(statistics) => trainer.with_held_out_statistics(statistics),
            None => trainer,
        };
        let lanes = Lanes::single(&device);
        let report = trainer.evaluate(&net, &splits.test, &lanes).unwrap();
        report.summary().held_out_accuracy.unwrap()
    };
    let [short, by_batch, running] =
        [None, Some(Statistics::Batch), Some(Statistics::Running)].map(|s| accuracy(20, s));
    assert_eq!(short, by_batch);
    assert!(
        running < short - 0.1 && short > 0.4,
        "{running} by running statistics, {short} by the batch's"
    );
    assert_eq!(accuracy(30, None), accuracy(30, Some(Statistics::Running)));
    assert_eq!(before, values(&net), "the initialization is as it was");
}
