//! What came after Leap, against loops by hand: ANIL, BOIL, Sequential Reptile, trajectory shifting, the coherence of a
//! meta-batch.

use burn::module::{Module, ParamGroup};
use burn::nn::{Linear, LinearConfig};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, GradientsParams, SgdConfig};
use burn::tensor::activation::tanh;
use burn::tensor::{Device, Tensor};
use leap_core::{
    Anil, Boil, Error, InnerLoop, Lanes, Leap, LearnedRates, LearningPath, MetaLearner,
    MetaTrainer, Method, ParamSpace, Predict, Pulled, Purpose, RateOf, Rated, Reptile, Sequential,
    Shifting, StepLoss, Task, TaskContext, TaskError, TaskSeed, TaskSet, WarpLeap, reinitialize,
    run_rng, task_copy,
};
use leap_models::MlpConfig;
use leap_tasks::Sinusoids;
use leap_tests::floats;

#[derive(Module, Debug)]
struct Net {
    body: Linear,
    head: Linear,
}

impl Predict<Tensor<2>> for Net {
    fn predict(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(tanh(self.body.forward(x)))
    }
}

fn net() -> Net {
    let device = Device::flex().autodiff();
    let net = Net {
        body: LinearConfig::new(1, 12).init(&device),
        head: LinearConfig::new(12, 1).init(&device),
    };
    reinitialize(net, &ParamGroup::all(), &mut run_rng(3, "parameters"))
}

const STEPS: usize = 4;
const LR: f64 = 0.02;

fn context(seed: u64, purpose: Purpose, task: u64) -> TaskContext {
    TaskContext {
        seed: TaskSeed {
            seed,
            purpose,
            meta_step: 0,
            task,
        },
        device: Device::flex().autodiff(),
        steps: STEPS,
    }
}

/// A task of the first meta-batch of a set of one.
fn first_task(tasks: &Sinusoids) -> impl Task<Net> {
    TaskSet::<Net>::task(tasks, 0, &context(0, Purpose::Training, 0)).unwrap()
}

#[test]
fn anil_and_boil_move_a_part_inside_and_learn_all_of_the_model() {
    let tasks = Sinusoids::new().with_tasks(1);
    let cases = [
        (Method::Anil(Anil::default()), "head"),
        (Method::Boil(Boil::default()), "body"),
    ];
    for (method, part) in cases {
        let init = net();
        let meta_lr = 0.1;
        let trainer = MetaTrainer::new(method)
            .with_meta_batch_size(1)
            .with_task_steps(STEPS)
            .with_task_optimizer(SgdConfig::new().init(), LR)
            .with_meta_optimizer(SgdConfig::new().init(), meta_lr);
        let mut run = trainer.begin(init.clone()).unwrap();
        let lanes = Lanes::single(&Device::flex());
        let report = run.step(&tasks, &lanes).unwrap();

        // By hand: SGD on one part, then the gradient of a query batch for both.
        let mut task = first_task(&tasks);
        let mut model = task_copy(&init);
        let mut losses = Vec::new();
        for _ in 0..STEPS {
            let loss = task.loss(&model).unwrap().loss;
            losses.push(f64::from(loss.clone().into_scalar::<f32>()));
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            let mut optimizer = SgdConfig::new().init();
            let moved = optimizer.step(LR, task_copy(&model), grads);
            model = match part {
                "head" => Net {
                    body: model.body,
                    head: moved.head,
                },
                _ => Net {
                    body: moved.body,
                    head: model.head,
                },
            };
        }
        let grads = task.query(&model).unwrap().backward();
        let grads = GradientsParams::from_grads(grads, &model);
        let space = ParamSpace::new(&init, &ParamGroup::all()).unwrap();
        let gradient = space.gradient(&model, &grads).unwrap().to_vec().unwrap();
        assert_eq!(report.tasks[0].curve.loss, losses, "{method}");
        let moved = floats(run.init());
        for ((new, old), gradient) in moved.iter().zip(floats(&init)).zip(gradient) {
            let expected = f64::from(old) - meta_lr * gradient;
            assert!(
                (f64::from(*new) - expected).abs() < 1e-6,
                "{method}: {new} for {expected}"
            );
        }
        // Both parts are meta-learned.
        let body = 24;
        assert_ne!(moved[..body], floats(&init)[..body], "{method}");
        assert_ne!(moved[body..], floats(&init)[body..], "{method}");
        // A held-out task leaves the other part alone, too.
        let kept = |_: &leap_core::TaskReport, trained: &Net| {
            let (old, new) = (floats(&init), floats(trained));
            let (body_moved, head_moved) = (old[..body] != new[..body], old[body..] != new[body..]);
            assert_eq!((body_moved, head_moved), (part == "body", part == "head"));
            Ok(())
        };
        trainer.evaluate_with(&init, &tasks, &lanes, kept).unwrap();
    }
}

#[test]
fn a_head_that_is_not_there_is_refused() {
    let anil = Anil { head: "classifier" };
    let trainer = MetaTrainer::new(anil)
        .with_meta_batch_size(1)
        .with_task_steps(2);
    let mut run = trainer.begin(net()).unwrap();
    let step = run.step(&Sinusoids::new(), &Lanes::single(&Device::flex()));
    assert!(matches!(step, Err(Error::NothingShared)), "{step:?}");

    // Nor is a held-out task trained as a whole.
    let methods = ["boil", "warp-leap"].map(|name| name.parse::<Method>().unwrap());
    let device = Device::flex().autodiff();
    for method in methods {
        let model = MlpConfig::new(vec![1, 4, 1]).init(&device).unwrap();
        let trainer = MetaTrainer::new(method).with_task_steps(2);
        let lanes = Lanes::single(&device);
        let error = trainer.evaluate(&model, &Sinusoids::new().with_tasks(1), &lanes);
        assert!(matches!(error, Err(Error::NothingShared)), "{method}");
    }
}

/// A set whose tasks have heads of their own.
struct OwnHeads(Sinusoids);

struct OwnHead<T>(T);

impl TaskSet<Net> for OwnHeads {
    type Task = OwnHead<<Sinusoids as TaskSet<Net>>::Task>;

    fn len(&self) -> usize {
        TaskSet::<Net>::len(&self.0)
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        Ok(OwnHead(TaskSet::<Net>::task(&self.0, index, context)?))
    }
}

impl<T: Task<Net>> Task<Net> for OwnHead<T> {
    fn start(&mut self, init: Net) -> Result<Net, TaskError> {
        let head = LinearConfig::new(12, 1).init(&Device::flex().autodiff());
        Ok(Net { head, ..init })
    }

    fn loss(&mut self, model: &Net) -> Result<StepLoss, TaskError> {
        self.0.loss(model)
    }
}

#[test]
fn tasks_of_one_path_share_all_of_the_model() {
    let trainer = MetaTrainer::new(Reptile)
        .with_shared(ParamGroup::from_predicate("body"))
        .with_meta_batch_size(1)
        .with_task_steps(4);
    let tasks = Sequential::new(OwnHeads(Sinusoids::new()), 2);
    let lanes = Lanes::single(&Device::flex());
    let error = trainer.fit(net(), 1, &tasks, &lanes).unwrap_err();
    assert!(error.to_string().contains("must share all"), "{error}");
}

#[test]
fn sequential_reptile_is_one_path_over_all_tasks() {
    let tasks = Sinusoids::new().with_tasks(5);
    let (together, steps) = (3, 12);
    let trainer = MetaTrainer::new(Reptile)
        .with_meta_batch_size(1)
        .with_task_steps(steps)
        .with_task_optimizer(SgdConfig::new().init(), LR)
        .with_meta_optimizer(SgdConfig::new().init(), 0.5);
    let init = net();
    let lanes = Lanes::single(&Device::flex());
    let sequential = Sequential::new(tasks, together);
    let mut run = trainer.begin(init.clone()).unwrap();
    let report = run.step(&sequential, &lanes).unwrap();
    assert_eq!(report.tasks.len(), 1);
    assert_eq!(report.tasks[0].curve.loss.len(), steps);

    // By hand: the initialization goes half of the way to where one path over the same batches ends.
    let context = TaskContext {
        steps,
        ..context(0, Purpose::Training, 0)
    };
    let mut task = TaskSet::<Net>::task(&sequential, 0, &context).unwrap();
    let (mut model, mut optimizer) = (task_copy(&init), SgdConfig::new().init());
    let mut losses = Vec::new();
    for _ in 0..steps {
        let loss = task.loss(&model).unwrap().loss;
        losses.push(f64::from(loss.clone().into_scalar::<f32>()));
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(LR, model, grads);
    }
    assert_eq!(report.tasks[0].curve.loss, losses);
    let half = floats(&init).into_iter().zip(floats(&model));
    for (new, (start, end)) in floats(run.init()).iter().zip(half) {
        assert!((new - (start + end) / 2.0).abs() < 1e-6);
    }
    // Several sinusoids took part: losses of one fall, those of a mixture jump.
    let turns = Sequential::new(Sinusoids::new().with_tasks(5), 1);
    let mut alone = trainer.begin(init).unwrap();
    let one = alone.step(&turns, &lanes).unwrap();
    assert_ne!(one.tasks[0].curve.loss, losses);
}

#[test]
fn coherence_is_the_mean_cosine_between_meta_gradients() {
    let tasks = Sinusoids::new().with_tasks(20);
    let lanes = Lanes::single(&Device::flex());
    let trainer = |tasks: usize| {
        MetaTrainer::new(Leap::new())
            .with_meta_batch_size(tasks)
            .with_task_steps(STEPS)
            .with_task_optimizer(SgdConfig::new().init(), LR)
    };
    let report = trainer(4)
        .begin(net())
        .unwrap()
        .step(&tasks, &lanes)
        .unwrap();
    let found = report.coherence.unwrap();
    // By hand, from each task's meta-gradient.
    let gradients = report.tasks.iter().map(|task| {
        let context = context(0, Purpose::Training, task.seed.task);
        let mut own = TaskSet::<Net>::task(&tasks, task.index, &context).unwrap();
        let (mut model, mut path) = Leap::new().begin(&net()).unwrap();
        let mut optimizer = SgdConfig::new().init();
        for _ in 0..STEPS {
            let loss = own.loss(&model).unwrap().loss;
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            path.record(&model, &loss, &grads).unwrap();
            model = optimizer.step(LR, model, grads);
        }
        path.finish().unwrap().gradient.to_vec().unwrap()
    });
    let gradients = Vec::from_iter(gradients);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let pairs = (0..4).flat_map(|a| (0..a).map(move |b| (a, b)));
    let cosines = Vec::from_iter(pairs.map(|(a, b)| cosine(&gradients[a], &gradients[b])));
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    assert!((found - mean).abs() < 1e-5, "{found} for {mean}");
    assert!(found.abs() < 1.0);
    let one = trainer(1)
        .begin(net())
        .unwrap()
        .step(&tasks, &lanes)
        .unwrap();
    assert_eq!(one.coherence, None);
}

/// The meta-gradient of the log rates against sums by hand: a force on a point is one on the rates of the steps before it.
#[test]
fn rates_feel_the_forces_on_the_points_behind_their_steps() {
    let tasks = Sinusoids::new().with_tasks(1);
    let all = ParamGroup::all();
    for (of, steps) in [
        (RateOf::Parameter, STEPS),
        (RateOf::Tensor, STEPS),
        (RateOf::TensorAndStep, STEPS),
        // The last rates are those of two steps.
        (RateOf::TensorAndStep, STEPS - 1),
    ] {
        let mut rated = Rated::new(net(), of, steps).unwrap();
        // Rates that differ, so that they must be at the right places.
        rated.log_rates = rated.log_rates.map(|rates| {
            let count = rates.dims()[0] as i64;
            let some = Tensor::<1, burn::tensor::Int>::arange(0..count, &rates.device()).float();
            (some * 0.7).sin().mul_scalar(0.5).require_grad()
        });
        let space = ParamSpace::new(&rated, &all).unwrap();
        let inner = InnerLoop::new(STEPS, SgdConfig::new().init(), LR);
        let mut task =
            TaskSet::<Rated<Net>>::task(&tasks, 0, &context(0, Purpose::Training, 0)).unwrap();
        let learned = LearnedRates::new(of)
            .learn(&space, &inner, task_copy(&rated), &mut task)
            .unwrap();
        let found = learned.gradient.to_vec().unwrap();

        // By hand.
        let net_space = ParamSpace::new(&rated.net, &all).unwrap();
        let sizes = Vec::from_iter(
            net_space
                .point(&rated.net)
                .unwrap()
                .split()
                .iter()
                .map(|t| t.dims()[0]),
        );
        let log_rates = rated
            .log_rates
            .val()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        let rate = |step: usize, place: usize| -> usize {
            let mut tensor = 0;
            let mut end = sizes[0];
            while place >= end {
                tensor += 1;
                end += sizes[tensor];
            }
            match of {
                RateOf::Parameter => place,
                RateOf::Tensor => tensor,
                RateOf::TensorAndStep => step.min(steps - 1) * sizes.len() + tensor,
            }
        };
        let mut task = first_task(&tasks);
        let mut model = task_copy(&rated.net);
        let mut path = Leap::new().path(&net_space);
        let (mut pulls, mut losses) = (Vec::new(), Vec::new());
        for step in 0..STEPS {
            let loss = task.loss(&model).unwrap().loss;
            losses.push(f64::from(loss.clone().into_scalar::<f32>()));
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            if let Some(pull) = path.advance(&model, &loss, &grads).unwrap() {
                pulls.push((
                    pull.segment.step.to_vec().unwrap(),
                    pull.force.to_vec().unwrap(),
                ));
            }
            let gradient = net_space.gradient(&model, &grads).unwrap();
            let count = net_space.num_params();
            let rates = Vec::from_iter((0..count).map(|place| log_rates[rate(step, place)].exp()));
            let rates = Tensor::<1>::from_data(&rates[..], &Device::flex());
            let grads = gradient.map(|g| g * rates).into_gradients();
            model = SgdConfig::new().init().step(LR, model, grads);
        }
        assert_eq!(learned.curve.loss, losses, "{of}");
        let mut expected = vec![0.0; log_rates.len()];
        for point in 1..pulls.len() {
            for step in 0..point {
                let pairs = pulls[step].0.iter().zip(&pulls[point].1);
                for (place, (moved, force)) in pairs.enumerate() {
                    expected[rate(step, place)] -= moved * force;
                }
            }
        }
        let on_rates = &found[net_space.num_params()..];
        assert_eq!(on_rates.len(), expected.len());
        assert!(
            expected.iter().any(|value| value.abs() > 1e-4),
            "{of}: {expected:?}"
        );
        for (found, expected) in on_rates.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-6 + 1e-4 * expected.abs(),
                "{of}: {found} for {expected}"
            );
        }
        // The net's own meta-gradient is Leap's on that path.
        let own = path.finish().unwrap().gradient.to_vec().unwrap();
        for (found, expected) in found.iter().zip(&own) {
            assert!((found - expected).abs() < 1e-6, "{of}");
        }
    }
}

/// Of a part alone, Leap's path is that of the part, and the rates of the rest feel nothing.
#[test]
fn rates_of_a_shared_part_are_on_its_path() {
    let tasks = Sinusoids::new().with_tasks(1);
    let inner = InnerLoop::new(STEPS, SgdConfig::new().init(), LR);
    let context = context(0, Purpose::Training, 0);
    let body = ParamSpace::new(&net(), &ParamGroup::from_predicate("body")).unwrap();
    for of in [RateOf::Parameter, RateOf::Tensor, RateOf::TensorAndStep] {
        let rated = Rated::new(net(), of, STEPS).unwrap();
        let shared = ParamGroup::from_any_predicates(vec!["body", "log_rates"]);
        let space = ParamSpace::new(&rated, &shared).unwrap();
        let mut task = TaskSet::<Rated<Net>>::task(&tasks, 0, &context).unwrap();
        let learned = LearnedRates::new(of)
            .learn(&space, &inner, task_copy(&rated), &mut task)
            .unwrap();
        let found = learned.gradient.to_vec().unwrap();

        // With rates of 1, it is Leap.
        let plain = task_copy(&rated.net);
        let part = ParamSpace::new(&plain, &ParamGroup::from_predicate("body")).unwrap();
        let mut task = first_task(&tasks);
        let leap = Leap::new().learn(&part, &inner, plain, &mut task).unwrap();
        let expected = leap.gradient.to_vec().unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6 + 1e-5 * b.abs();
        let pairs = found.iter().zip(&expected);
        assert!({ pairs }.all(|(a, b)| close(*a, *b)), "{of}");
        let lengths = [learned.figures, leap.figures].map(|figures| {
            let length = figures.unwrap().length;
            f64::from(length.into_scalar::<f32>())
        });
        assert!(close(lengths[0], lengths[1]), "{of}: {lengths:?}");

        let on_rates = &found[body.num_params()..];
        let of_head = match of {
            RateOf::Parameter => &on_rates[body.num_params()..],
            RateOf::Tensor => &on_rates[2..],
            RateOf::TensorAndStep => &on_rates[2..4],
        };
        assert!(on_rates.iter().any(|rate| *rate != 0.0), "{of}");
        assert!(of_head.iter().all(|rate| *rate == 0.0), "{of}");
    }
}

#[test]
fn rates_that_cannot_be_learned_are_refused() {
    let all = [RateOf::Parameter, RateOf::Tensor, RateOf::TensorAndStep];
    let lanes = Lanes::single(&Device::flex());
    let trainer = |of| {
        MetaTrainer::new(LearnedRates::new(of))
            .with_meta_batch_size(1)
            .with_task_steps(2)
    };
    let tasks = Sinusoids::new();
    for (learner, model) in all.into_iter().flat_map(|a| all.map(|b| (a, b))) {
        let rated = Rated::new(net(), model, 2).unwrap();
        let fit = trainer(learner).fit(rated, 1, &tasks, &lanes);
        let fits = match (learner, model) {
            // The rates of all steps, of which there is one.
            (RateOf::TensorAndStep, RateOf::Tensor) => true,
            (learner, model) => learner == model,
        };
        match fit {
            Ok(_) => assert!(fits, "{learner} {model}"),
            Err(error) => {
                let is_known = matches!(error, Error::InvalidSetting(_));
                assert!(!fits && is_known, "{learner} {model}: {error}");
            }
        }
    }
    let momentum = MomentumConfig::new().with_momentum(0.9);
    for optimizer in [
        AdamConfig::new().init(),
        SgdConfig::new().with_momentum(Some(momentum)).init(),
    ] {
        let trainer = trainer(RateOf::Tensor).with_task_optimizer(optimizer, 0.01);
        let rated = Rated::new(net(), RateOf::Tensor, 2).unwrap();
        let error = trainer.fit(rated, 1, &tasks, &lanes).unwrap_err();
        assert!(error.to_string().contains("plain SGD"), "{error}");
    }
}

#[derive(Module, Debug)]
struct Warped {
    first: Linear,
    warp: Linear,
    last: Linear,
}

impl Predict<Tensor<2>> for Warped {
    fn predict(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = self.warp.forward(tanh(self.first.forward(x)));
        self.last.forward(tanh(hidden))
    }
}

/// Leap's meta-gradient on what moves, and the mean of the warp's gradients behind the first step.
#[test]
fn warp_leap_learns_the_warp_from_the_points_of_the_path() {
    let device = Device::flex().autodiff();
    let all = ParamGroup::all();
    let init = Warped {
        first: LinearConfig::new(1, 8).init(&device),
        warp: LinearConfig::new(8, 8).init(&device),
        last: LinearConfig::new(8, 1).init(&device),
    };
    let init = reinitialize(init, &all, &mut run_rng(3, "parameters"));
    let tasks = Sinusoids::new().with_tasks(1);
    let context = context(0, Purpose::Training, 0);
    let mut task = TaskSet::<Warped>::task(&tasks, 0, &context).unwrap();
    let space = ParamSpace::new(&init, &all).unwrap();
    let inner = InnerLoop::new(STEPS, SgdConfig::new().init(), LR);
    let learned = WarpLeap::default()
        .learn(&space, &inner, task_copy(&init), &mut task)
        .unwrap();
    let found = learned.gradient.to_vec().unwrap();

    let mut task = TaskSet::<Warped>::task(&tasks, 0, &context).unwrap();
    let warp = ParamGroup::from_predicate("warp");
    let moving = ParamSpace::new(&init, &all.clone().exclude(warp.clone())).unwrap();
    let warp = ParamSpace::new(&init, &warp).unwrap();
    let mut path = Leap::new().path(&moving);
    let mut model = task_copy(&init);
    let mut sum = vec![0.0; warp.num_params()];
    for step in 0..STEPS {
        let loss = task.loss(&model).unwrap().loss;
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        path.record(&model, &loss, &grads).unwrap();
        if step > 0 {
            let gradient = warp.gradient(&model, &grads).unwrap().to_vec().unwrap();
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
        let moved = SgdConfig::new().init().step(LR, task_copy(&model), grads);
        model = Warped {
            warp: model.warp,
            ..moved
        };
    }
    let own = path.finish().unwrap().gradient.to_vec().unwrap();
    let (first, last) = own.split_at(16);
    let mean = sum.iter().map(|sum| sum / (STEPS - 1) as f64);
    let expected = Vec::from_iter(
        first
            .iter()
            .copied()
            .chain(mean)
            .chain(last.iter().copied()),
    );
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
    assert_eq!(floats(&learned.model.warp), floats(&init.warp));
    assert_ne!(floats(&learned.model.first), floats(&init.first));
}

/// How far shifting a task by itself moves the initialization, and its losses.
fn shifted(shifting: Shifting) -> (Vec<f64>, Vec<f64>) {
    let tasks = Sequential::new(Sinusoids::new().with_tasks(1), 1).in_turn();
    let trainer = MetaTrainer::new(shifting)
        .with_meta_batch_size(1)
        .with_task_steps(STEPS)
        .with_task_optimizer(SgdConfig::new().init(), LR)
        .with_meta_optimizer(SgdConfig::new().init(), 1.0);
    let mut run = trainer.begin(net()).unwrap();
    let report = run.step(&tasks, &Lanes::single(&Device::flex())).unwrap();
    let moved = floats(run.init()).into_iter().zip(floats(&net()));
    let moved = moved.map(|(new, old)| f64::from(new) - f64::from(old));
    (moved.collect(), report.tasks[0].curve.loss.clone())
}

#[test]
fn shifting_moves_the_initialization_and_all_trajectories_at_each_step() {
    let (count, rounds, lr) = (3, 6, 0.05);
    for shifting in [Shifting::reptile(), Shifting::leap(Leap::new())] {
        let set = Sequential::new(Sinusoids::new().with_tasks(5), count).in_turn();
        let trainer = MetaTrainer::new(shifting.with_lr(lr))
            .with_meta_batch_size(1)
            .with_task_steps(count * rounds)
            .with_task_optimizer(SgdConfig::new().init(), LR)
            .with_meta_optimizer(SgdConfig::new().init(), 1.0);
        let mut run = trainer.begin(net()).unwrap();
        let report = run.step(&set, &Lanes::single(&Device::flex())).unwrap();
        assert_eq!(report.tasks[0].curve.loss.len(), rounds);

        // By hand, with flat parameters: θ of each task, where it was, the loss and the gradient there.
        let mut task = TaskSet::<Net>::task(&set, 0, &context(0, Purpose::Training, 0)).unwrap();
        let origin = net();
        let space = ParamSpace::new(&origin, &ParamGroup::all()).unwrap();
        let mut init: Vec<f64> = space.point(&origin).unwrap().to_vec().unwrap();
        let start = init.clone();
        let mut models = Vec::from_iter((0..count).map(|_| task_copy(&origin)));
        // Parameters, loss and gradient.
        type Point = (Vec<f64>, f64, Vec<f64>);
        let mut last: Vec<Option<Point>> = vec![None; count];
        let mut means = Vec::new();
        for _ in 0..rounds {
            let mut pull = vec![0.0; init.len()];
            let mut mean = 0.0;
            for (model, last) in models.iter_mut().zip(&mut last) {
                let at = space.point(model).unwrap().to_vec().unwrap();
                let loss = task.loss(model).unwrap().loss;
                let value = f64::from(loss.clone().into_scalar::<f32>());
                mean += value / count as f64;
                let grads = GradientsParams::from_grads(loss.backward(), model);
                let gradient = space.gradient(model, &grads).unwrap().to_vec().unwrap();
                if let (Pulled::ByPaths(_), Some((from, before, slope))) = (shifting.pulled, &last)
                {
                    let fall = -(value - before).abs();
                    let step = at.iter().zip(from).map(|(b, a)| b - a);
                    let step = Vec::from_iter(step);
                    let square: f64 = step.iter().map(|s| s * s).sum();
                    let length = (square + fall * fall).sqrt();
                    for ((pull, step), slope) in pull.iter_mut().zip(&step).zip(slope) {
                        *pull += (step + fall * slope) / length / count as f64;
                    }
                }
                *model = SgdConfig::new().init().step(LR, task_copy(model), grads);
                if shifting.pulled == Pulled::ByEnds {
                    let end = space.point(model).unwrap().to_vec().unwrap();
                    for ((pull, end), init) in pull.iter_mut().zip(end).zip(&init) {
                        *pull += (end - init) / count as f64;
                    }
                }
                *last = Some((at, value, gradient));
            }
            means.push(mean);
            let shift = Vec::from_iter(pull.iter().map(|p| lr * p));
            let moved = |values: &[f64]| {
                let moved = values.iter().zip(&shift).map(|(v, s)| v + s);
                moved.collect::<Vec<f64>>()
            };
            init = moved(&init);
            for (model, last) in models.iter_mut().zip(&mut last) {
                let at = moved(&space.point(model).unwrap().to_vec().unwrap());
                let values = Vec::from_iter(at.iter().map(|v| *v as f32));
                let mut rest = &values[..];
                let vector = space.point(model).unwrap().map_params(|old| {
                    let (own, later) = rest.split_at(old.dims()[0]);
                    rest = later;
                    Tensor::from_floats(own, &old.device())
                });
                *model = vector.place(task_copy(model));
                if let Some((from, ..)) = last {
                    *from = moved(from);
                }
            }
        }
        let found = floats(run.init());
        let largest = init.iter().zip(&start).map(|(a, b)| (a - b).abs());
        let largest = largest.fold(0.0, f64::max);
        assert!(largest > 1e-3, "it hardly moves");
        for (found, expected) in found.iter().zip(&init) {
            let apart = (f64::from(*found) - expected).abs();
            assert!(
                apart < 1e-3 * largest,
                "{shifting:?}: {found} for {expected}"
            );
        }
        for (found, expected) in report.tasks[0].curve.loss.iter().zip(means) {
            assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
        }
    }
}

#[test]
fn shifting_by_little_is_leap() {
    // Where trajectories hardly move, the pulls add up to Leap's meta-gradient.
    let lr = 1e-4;
    let (moved, losses) = shifted(Shifting::leap(Leap::new()).with_lr(lr));
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(1)
        .with_task_steps(STEPS)
        .with_task_optimizer(SgdConfig::new().init(), LR)
        .with_meta_optimizer(SgdConfig::new().init(), lr);
    let mut run = trainer.begin(net()).unwrap();
    let tasks = Sequential::new(Sinusoids::new().with_tasks(1), 1).in_turn();
    let report = run.step(&tasks, &Lanes::single(&Device::flex())).unwrap();
    assert!((report.tasks[0].curve.loss[3] - losses[3]).abs() < 1e-2);
    let leap = floats(run.init()).into_iter().zip(floats(&net()));
    let leap = Vec::from_iter(leap.map(|(new, old)| f64::from(new) - f64::from(old)));
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let apart = Vec::from_iter(moved.iter().zip(&leap).map(|(a, b)| a - b));
    assert!(
        norm(&apart) < 0.01 * norm(&leap),
        "{} of {}",
        norm(&apart),
        norm(&leap)
    );
    // Too few steps for all tasks to have one, and tasks that do not take turns.
    let trainer = MetaTrainer::new(Shifting::reptile())
        .with_meta_batch_size(1)
        .with_task_steps(2);
    let mut run = trainer.begin(net()).unwrap();
    let mut refused = |tasks: Sequential<Sinusoids>| {
        let step = run.step(&tasks, &Lanes::single(&Device::flex()));
        step.unwrap_err().to_string()
    };
    let tasks = Sequential::new(Sinusoids::new(), 3);
    let few = refused(tasks.clone().in_turn());
    assert!(few.contains("not enough for 3 tasks"), "{few}");
    let random = refused(tasks);
    assert!(random.contains("Sequential::in_turn"), "{random}");
}

#[test]
fn fewer_tasks_than_a_path_has_are_there_several_times() {
    let few = Sequential::new(Sinusoids::new().with_tasks(2), 5).in_turn();
    let task = TaskSet::<Net>::task(&few, 0, &context(0, Purpose::Training, 0)).unwrap();
    assert_eq!(Task::<Net>::turns(&task), Some(5));
}
