//! Tasks that are trained as one come to what they come to one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Module, Param, ParamGroup};
use burn::nn::conv::{Conv3d, Conv3dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::interpolate::{Interpolate2d, Interpolate2dConfig};
use burn::nn::pool::{MaxPool1d, MaxPool1dConfig};
use burn::nn::{
    Dropout, DropoutConfig, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear,
    LinearConfig, PRelu, PReluConfig,
};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, ModuleOptimizer, RmsPropConfig, SgdConfig};
use burn::tensor::activation::{gelu, sigmoid, softmax, tanh};
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use leap_core::{
    Anil, Boil, InnerLoop, Lanes, Leap, Learned, LearningCurve, Maml, MetaLearner, MetaTrainer,
    Method, ParamSpace, Predict, Report, Statistics, StepLoss, Task, TaskContext, TaskError,
    TaskSet, product_roundoff, reinitialize, run_rng,
};
use leap_models::{ActorCriticConfig, ConvNet, ConvNetConfig, Mlp, MlpConfig};
use leap_tasks::Sinusoids;
use leap_tasks::omniglot::{Omniglot, OmniglotSplits, OmniglotTasksConfig};
use leap_tasks::rl::{A2cConfig, CartPoles};
use leap_tests::{apart, cpu_devices, floats};

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
fn compare<M: Module, S: TaskSet<M>, L: MetaLearner<M>>(
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
        let start = floats(init);
        let moved = floats(run.init()).into_iter().zip(start);
        let moved = Vec::from_iter(moved.map(|(now, before)| now - before));
        (moved, reports, held_out, run.stacks())
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
        // Where nothing is learned, nothing moves.
        if alone.0.iter().any(|moved| *moved != 0.0) {
            let apart = apart(&stacked.0, &alone.0);
            println!("{what}: the initializations' steps are {apart:.1e} apart");
            assert!(apart < tolerance, "{what}: {apart}");
        } else {
            assert_eq!(stacked.0, alone.0);
        }
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
        let parts = [Anil::default().into(), Boil::default().into()];
        for method in methods().into_iter().chain(parts) {
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

#[test]
fn other_layers_heads_and_optimizers_on_omniglot() {
    let tasks = omniglot();
    let device = Device::flex().autodiff();
    let trainer = |optimizer: ModuleOptimizer, lr: f64| {
        MetaTrainer::new(Leap::new())
            .with_meta_batch_size(5)
            .with_task_optimizer(optimizer, lr)
            .with_task_steps(3)
    };
    let sgd = || SgdConfig::new().init();
    let momentum = SgdConfig::new().with_momentum(Some(MomentumConfig::new()));
    let cases = [
        (
            "averages",
            small().with_max_pool(false),
            trainer(sgd(), 0.02),
        ),
        (
            "pooled last",
            small().with_pool_last(true),
            trainer(sgd(), 0.02),
        ),
        (
            "without normalization",
            small().with_batch_norm(false),
            trainer(sgd(), 0.02),
        ),
        ("momentum", small(), trainer(momentum.init(), 0.01)),
        (
            "RMSProp",
            small(),
            trainer(RmsPropConfig::new().init(), 1e-4),
        ),
        (
            "a head for each task",
            small(),
            trainer(sgd(), 0.02).with_shared(ParamGroup::from_predicate("encoder")),
        ),
    ];
    for (what, config, trainer) in cases {
        let init = conv_net(&device, config);
        compare(what, &trainer, &init, &tasks.train, &tasks.test, 1e-2);
    }
}

/// Layers and operations that the others do not have.
#[derive(Module, Debug)]
struct Mixture {
    places: Embedding,
    first: Linear,
    norm: LayerNorm,
    gate: Linear,
    last: Linear,
    scale: Param<Tensor<1>>,
}

impl Mixture {
    fn new(device: &Device) -> Self {
        let mixture = Self {
            places: EmbeddingConfig::new(4, 8).init(device),
            first: LinearConfig::new(1, 8).init(device),
            norm: LayerNormConfig::new(8).init(device),
            gate: LinearConfig::new(8, 8).with_bias(false).init(device),
            last: LinearConfig::new(8, 1).init(device),
            scale: Param::from_data([0.7], device),
        };
        let all = ParamGroup::all();
        reinitialize(mixture, &all, &mut run_rng(5, "parameters"))
    }
}

impl Predict<Tensor<2>> for Mixture {
    fn predict(&self, x: Tensor<2>) -> Tensor<2> {
        let rows = x.dims()[0];
        let device = x.device();
        let places = Vec::from_iter((0..rows).map(|row| (row % 4) as i32));
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [rows]), &device);
        let places = self
            .places
            .forward(places.reshape([1, rows]))
            .squeeze_dim::<2>(0);
        let hidden = gelu(self.norm.forward(self.first.forward(x.clone()) + places));
        let hidden = hidden.clone() * sigmoid(self.gate.forward(hidden.clone()));
        let weights = softmax(hidden.clone().swap_dims(0, 1), 0).swap_dims(0, 1);
        let mixed = Tensor::cat(
            vec![
                hidden.clone().slice([0..rows, 0..4]),
                weights.clone().slice([0..rows, 4..8]),
            ],
            1,
        );
        let mixed = mixed.mask_fill(x.clone().expand([rows, 8]).greater_elem(4.9), 0.1);
        let far = tanh(self.last.forward(mixed)) * self.scale.val().unsqueeze();
        far + hidden.abs().clamp(0.0, 2.0).mean_dim(1) * weights.max_dim(1)
            + x.exp().neg().powf_scalar(2.0).log1p() * 1e-3
    }
}

#[test]
fn a_model_of_many_operations() {
    let tasks = Sinusoids::new().with_tasks(12);
    for (name, device) in cpu_devices() {
        for optimizer in [SgdConfig::new().init(), AdamConfig::new().init()] {
            let trainer = MetaTrainer::new(Leap::new())
                .with_meta_batch_size(5)
                .with_task_optimizer(optimizer, 0.005)
                .with_task_steps(5);
            let what = format!("many operations on {name}");
            compare(
                &what,
                &trainer,
                &Mixture::new(&device),
                &tasks,
                &tasks,
                1e-3,
            );
        }
    }
}

/// Layers and operations that have no rule for all tasks.
#[derive(Module, Debug)]
struct Rare {
    first: Linear,
    bend: PRelu,
    up: ConvTranspose2d,
    pool: MaxPool1d,
    volume: Conv3d,
    resize: Interpolate2d,
    last: Linear,
    /// Whether it sorts, which reads back on GPUs.
    sorts: bool,
    /// Whether it has a transposed convolution, from whose weights Burn 0.22's fusion subtracts a wrong gradient on GPUs, and
    /// the one of three dimensions behind it.
    transposes: bool,
}

impl Rare {
    fn new(device: &Device, sorts: bool, transposes: bool) -> Self {
        let size = Some([3, 5]);
        let rare = Self {
            first: LinearConfig::new(1, 16).init(device),
            bend: PReluConfig::new().with_num_parameters(16).init(device),
            up: ConvTranspose2dConfig::new([1, 2], [2, 2])
                .with_stride([2, 2])
                .init(device),
            pool: MaxPool1dConfig::new(2).init(),
            volume: Conv3dConfig::new([1, 2], [2, 2, 2]).init(device),
            resize: Interpolate2dConfig::new().with_output_size(size).init(),
            last: LinearConfig::new(16, 1).init(device),
            sorts,
            transposes,
        };
        let all = ParamGroup::all();
        let rare = reinitialize(rare, &all, &mut run_rng(5, "parameters"));
        // Slopes that differ.
        let slopes = Vec::from_iter((0..16).map(|i| 0.05 * i as f32));
        Self {
            bend: PRelu {
                alpha: Param::from_data(TensorData::new(slopes, [16]), device),
                ..rare.bend
            },
            ..rare
        }
    }
}

impl Predict<Tensor<2>> for Rare {
    fn predict(&self, x: Tensor<2>) -> Tensor<2> {
        let rows = x.dims()[0];
        let hidden = self.bend.forward(self.first.forward(x.clone()));
        let image = match self.transposes {
            true => {
                let image = self.up.forward(hidden.clone().reshape([rows, 1, 4, 4]));
                image.reshape([rows, 128])
            }
            false => hidden.clone().repeat_dim(1, 8),
        };
        let line = self.pool.forward(image.reshape([rows, 2, 64]));
        let volume = match self.transposes {
            true => {
                let volume = self.volume.forward(line.reshape([rows, 1, 4, 4, 4]));
                volume.reshape([rows, 2, 27])
            }
            false => line.slice([0..rows, 0..2, 0..27]),
        };
        let volume = volume.reshape([rows, 2, 9, 3]);
        let volume: Tensor<4> = self.resize.forward(volume);
        let flat = volume.reshape([rows, 30]);
        let highest = flat.clone().topk(8, 1);
        let lowest = match self.sorts {
            true => flat.clone().sort_with_indices(1).0,
            false => flat.clone(),
        };
        let lowest = lowest.slice([0..rows, 0..4]).cummax(1);
        let mixed = hidden.slice_assign([0..rows, 2..10], highest);
        let mixed = mixed.slice_assign([0..rows, 10..14], lowest);
        let at = Tensor::<1, Int>::from_data(TensorData::from([1, 15]), &x.device());
        let added = flat.slice([0..rows, 0..2]).sinh();
        let mixed = mixed.select_assign(1, at, added, IndexingUpdateOp::Add);
        self.last.forward(
            mixed
                .pad((0, 1, 0, 0), PadMode::Constant(0.3))
                .slice([0..rows, 1..17]),
        )
    }
}

#[test]
fn operations_without_a_rule_are_played_for_each_task() {
    let tasks = Sinusoids::new().with_tasks(12);
    for (name, device) in cpu_devices() {
        let trainer = MetaTrainer::new(Leap::new())
            .with_meta_batch_size(5)
            .with_task_optimizer(SgdConfig::new().init(), 1e-3)
            .with_meta_optimizer(SgdConfig::new().init(), 1e-3)
            .with_task_steps(5);
        let (what, init) = (
            format!("rare operations on {name}"),
            Rare::new(&device, true, true),
        );
        assert_eq!(
            floats(&init),
            floats(&Rare::new(&device, true, true)),
            "drawn on {name}"
        );
        compare(&what, &trainer, &init, &tasks, &tasks, 1e-3);
    }
}

/// How many tasks are being trained, now and at most.
#[derive(Clone, Default)]
struct Count(Arc<Mutex<[usize; 2]>>);

/// A task that is counted from its second step on, for as long as it lives: a first one may be a trial.
struct Counted<T> {
    task: T,
    count: Count,
    steps: usize,
}

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        self.count.0.lock().unwrap()[0] -= usize::from(self.steps > 1);
    }
}

impl<M: Module, T: Task<M>> Task<M> for Counted<T> {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        self.steps += 1;
        if self.steps == 2 {
            let [now, most] = &mut *self.count.0.lock().unwrap();
            *now += 1;
            *most = (*most).max(*now);
        }
        self.task.loss(model)
    }
}

/// Batches of several sizes, by turns.
struct CountedSet(Vec<Sinusoids>, Count);

impl<M: Predict<Tensor<2>>> TaskSet<M> for CountedSet {
    type Task = Counted<<Sinusoids as TaskSet<M>>::Task>;
    fn len(&self) -> usize {
        TaskSet::<M>::len(&self.0[0])
    }
    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        Ok(Counted {
            task: TaskSet::<M>::task(&self.0[index % self.0.len()], index, context)?,
            count: self.1.clone(),
            steps: 0,
        })
    }
}

/// What came of two meta-steps on tasks of batches of some sizes, the bytes of a task, and how many were trained at once.
fn at_once(
    trainer: &MetaTrainer<Leap>,
    batch_sizes: &[usize],
) -> ((Vec<f32>, Vec<LearningCurve>), Option<u64>, usize) {
    let device = Device::flex().autodiff();
    let lanes = Lanes::threads(&device, 1).unwrap();
    let sets = batch_sizes.iter();
    let sets = sets.map(|n| Sinusoids::new().with_tasks(12).with_batch_size(*n));
    let tasks = CountedSet(sets.collect(), Count::default());
    let mut run = trainer.begin(mlp(&device)).unwrap();
    let mut curves = Vec::new();
    for _ in 0..2 {
        // What the first meta-step finds out takes tasks of its own.
        *tasks.1.0.lock().unwrap() = [0, 0];
        let report = run.step(&tasks, &lanes).unwrap();
        curves.extend(report.tasks.into_iter().map(|t| t.curve));
    }
    let [left, most] = *tasks.1.0.lock().unwrap();
    assert_eq!(left, 0);
    ((floats(run.init()), curves), run.task_bytes(), most)
}

#[test]
fn tasks_that_fit_together_are_trained_at_once_beside_the_others() {
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(12)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
        .with_task_steps(4);
    for (sizes, most) in [(&[10, 7][..], 6), (&[10, 7, 4], 4)] {
        let [alone, together] =
            [1, 12].map(|n| at_once(&trainer.clone().with_task_batch(n), sizes));
        assert_eq!((alone.2, together.2), (1, most));
        assert_eq!(alone.0, together.0);
    }
    // Two of one kind at most, some by themselves.
    let sizes = [10, 7, 4, 12, 13, 14];
    let few = trainer.with_meta_batch_size(6);
    let [alone, together] = [1, 6].map(|n| at_once(&few.clone().with_task_batch(n), &sizes));
    assert_eq!((alone.2, together.2), (1, 2));
    assert_eq!(alone.0, together.0);
}

#[test]
fn tasks_are_as_many_at_once_as_there_is_memory_for() {
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(5)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
        .with_task_steps(4);
    let run = |trainer: MetaTrainer<Leap>| at_once(&trainer, &[10]);
    let alone = run(trainer.clone().with_task_batch(1));
    assert_eq!((alone.1, alone.2), (None, 1));
    let whole = run(trainer.clone().with_task_batch(5));
    assert_eq!(whole.2, 5);
    let bytes = whole.1.unwrap();
    // Two, two and the last by itself; one by one.
    for (memory, at_once) in [(2 * bytes, 2), (1, 1)] {
        let trainer = trainer.clone().with_task_batch(5);
        let split = run(trainer.with_task_memory(memory));
        assert_eq!(split.0, alone.0);
        assert_eq!(split.2, at_once);
    }
}

/// What cannot be stacked is trained one by one, bit for bit as without the setting.
fn refuses<M: Module, S: TaskSet<M>, L: MetaLearner<M>>(
    what: &str,
    trainer: &MetaTrainer<L>,
    init: &M,
    tasks: &S,
) {
    let run = |at_once: usize| {
        let trainer = trainer.clone().with_task_batch(at_once);
        let lanes = Lanes::threads(&init.devices().remove(0), 1).unwrap();
        let mut run = trainer.begin(init.clone()).unwrap();
        let reports = (0..2).map(|_| run.step(tasks, &lanes).unwrap());
        let curves = Vec::from_iter(reports.flat_map(|r| r.tasks).map(|t| t.curve));
        assert!(!run.stacks(), "{what} was stacked");
        (floats(run.init()), curves)
    };
    assert_eq!(run(1), run(4), "{what}");
}

/// A task that makes a layer for its model on the device that it was given.
struct Starting<T>(T, Device);

impl<T: Task<Mlp>> Task<Mlp> for Starting<T> {
    fn start(&mut self, init: Mlp) -> Result<Mlp, TaskError> {
        let weight = Tensor::<2>::ones([2, 2], &self.1).sum();
        assert_eq!(weight.into_scalar::<f32>(), 4.0);
        Ok(init)
    }
    fn loss(&mut self, model: &Mlp) -> Result<StepLoss, TaskError> {
        self.0.loss(model)
    }
}

struct StartingSet(Sinusoids);

impl TaskSet<Mlp> for StartingSet {
    type Task = Starting<<Sinusoids as TaskSet<Mlp>>::Task>;
    fn len(&self) -> usize {
        TaskSet::<Mlp>::len(&self.0)
    }
    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        let task = TaskSet::<Mlp>::task(&self.0, index, context)?;
        Ok(Starting(task, context.device.clone()))
    }
}

/// A task that fails at its third step.
struct Failing<T>(T, usize);

impl<M: Module, T: Task<M>> Task<M> for Failing<T> {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        self.1 += 1;
        match self.1 {
            3 => Err("no data are left".into()),
            _ => self.0.loss(model),
        }
    }
}

struct FailingSet(Sinusoids);

impl<M: Predict<Tensor<2>>> TaskSet<M> for FailingSet {
    type Task = Failing<<Sinusoids as TaskSet<M>>::Task>;
    fn len(&self) -> usize {
        TaskSet::<M>::len(&self.0)
    }
    fn name(&self, index: usize) -> String {
        format!("wave {index}")
    }
    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        // All but one never come so far.
        let before = if index == 7 { 0 } else { 100 };
        Ok(Failing(
            TaskSet::<M>::task(&self.0, index, context)?,
            before,
        ))
    }
}

#[test]
fn a_task_that_fails_is_named() {
    let device = Device::flex().autodiff();
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(12)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
        .with_task_steps(4)
        .with_task_batch(12);
    let mut run = trainer.begin(mlp(&device)).unwrap();
    let tasks = FailingSet(Sinusoids::new().with_tasks(12));
    let error = run
        .step(&tasks, &Lanes::single(&device))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("wave 7") && error.contains("no data are left"),
        "{error}"
    );
}

#[test]
fn actors_are_trained_one_by_one() {
    let device = Device::flex().autodiff();
    let config = ActorCriticConfig::new(vec![4], 2).with_hidden(vec![8]);
    let init = config.init(&device).unwrap();
    let init = reinitialize(init, &ParamGroup::all(), &mut run_rng(3, "parameters"));
    let family = CartPoles::new().with_environments(4);
    let tasks = A2cConfig::new().with_envs(2).tasks(family);
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(4)
        .with_task_steps(3)
        .with_task_optimizer(SgdConfig::new().init(), 0.01);
    refuses("actors", &trainer, &init, &tasks);
}

#[derive(Module, Debug)]
struct Dropped {
    mlp: Mlp,
    dropout: Dropout,
}

impl Predict<Tensor<2>> for Dropped {
    fn predict(&self, x: Tensor<2>) -> Tensor<2> {
        self.dropout.forward(self.mlp.predict(x))
    }
}

/// Reads its loss back.
struct Reading<T>(T);

impl<M: Module, T: Task<M>> Task<M> for Reading<T> {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let step = self.0.loss(model)?;
        let value = step.loss.clone().into_scalar::<f32>();
        Ok((step.loss * f64::from(value > 1.0)).into())
    }
}

struct ReadingSet(Sinusoids);

impl<M: Predict<Tensor<2>>> TaskSet<M> for ReadingSet {
    type Task = Reading<<Sinusoids as TaskSet<M>>::Task>;
    fn len(&self) -> usize {
        TaskSet::<M>::len(&self.0)
    }
    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        Ok(Reading(TaskSet::<M>::task(&self.0, index, context)?))
    }
}

#[test]
fn what_cannot_be_stacked_is_trained_one_by_one() {
    let device = Device::flex().autodiff();
    let tasks = Sinusoids::new().with_tasks(12);
    let trainer = |optimizer: ModuleOptimizer| {
        MetaTrainer::new(Leap::new())
            .with_meta_batch_size(5)
            .with_task_optimizer(optimizer, 0.01)
            .with_task_steps(4)
    };
    let sgd = trainer(SgdConfig::new().init());
    let dropped = Dropped {
        mlp: mlp(&device),
        dropout: DropoutConfig::new(0.3).init(),
    };
    refuses("dropout", &sgd, &dropped, &tasks);
    let clipped = SgdConfig::new().with_gradient_clipping(Some(GradientClippingConfig::Norm(0.5)));
    refuses(
        "clipping by norm",
        &trainer(clipped.init()),
        &mlp(&device),
        &tasks,
    );
    refuses(
        "a task that reads back",
        &sgd,
        &mlp(&device),
        &ReadingSet(tasks.clone()),
    );
    refuses(
        "a layer made at the start",
        &sgd,
        &mlp(&device),
        &StartingSet(tasks.clone()),
    );
    let maml = MetaTrainer::new(Maml::new())
        .with_meta_batch_size(5)
        .with_task_steps(2);
    refuses("MAML", &maml, &mlp(&device), &tasks);
}

/// Targets that are beyond all bounds in one of the tasks.
struct Wild {
    device: Device,
    target: f32,
}

impl<M: Predict<Tensor<2>>> Task<M> for Wild {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let data = |value| Tensor::from_data(TensorData::new(vec![value; 4], [4, 1]), &self.device);
        Ok((model.predict(data(0.5)) - data(self.target))
            .square()
            .mean()
            .into())
    }
}

struct WildSet;

impl<M: Predict<Tensor<2>>> TaskSet<M> for WildSet {
    type Task = Wild;
    fn len(&self) -> usize {
        5
    }
    fn task(&self, index: usize, context: &TaskContext) -> Result<Wild, TaskError> {
        Ok(Wild {
            device: context.device.clone(),
            target: if index == 3 { 1e30 } else { index as f32 },
        })
    }
}

#[test]
fn a_task_that_diverges_leaves_the_others_alone() {
    for (name, device) in cpu_devices() {
        for seed in [1, 2, 3] {
            let trainer = MetaTrainer::new(Leap::new())
                .with_seed(seed)
                .with_meta_batch_size(5)
                .with_task_optimizer(SgdConfig::new().init(), 0.01)
                .with_task_steps(4);
            let run = |at_once: usize| {
                let trainer = trainer.clone().with_task_batch(at_once);
                let lanes = Lanes::threads(&device, 1).unwrap();
                let mut run = trainer.begin(mlp(&device)).unwrap();
                let report = run.step(&WildSet, &lanes).unwrap();
                (floats(run.init()), report, run.stacks())
            };
            let (alone, stacked) = (run(1), run(5));
            assert!(stacked.2);
            let out = |r: &Report| Vec::from_iter(r.tasks.iter().map(|t| t.left_out.is_some()));
            assert_eq!(out(&stacked.1), out(&alone.1), "{name}, seed {seed}");
            assert_eq!(out(&alone.1).iter().filter(|out| **out).count(), 1);
            assert!(apart(&stacked.0, &alone.0) < 1e-4);
        }
    }
}

/// On all devices that can be had; where memory is counted, it does not grow.
#[test]
fn on_every_device() {
    let tasks = omniglot();
    let sinusoids = Sinusoids::new().with_tasks(6);
    let devices = leap_tests::devices();
    for (name, device) in &devices.devices {
        // Where products are rounded more than sums, so is what comes of them.
        let roundoff = product_roundoff(device);
        let trainer = |lr| {
            MetaTrainer::new(Leap::new())
                .with_meta_batch_size(5)
                .with_task_optimizer(SgdConfig::new().init(), lr)
                .with_task_steps(3)
        };
        let what = format!("sinusoids on {name}");
        compare(
            &what,
            &trainer(0.01),
            &mlp(device),
            &sinusoids,
            &sinusoids,
            (50.0 * roundoff).max(1e-3),
        );
        compare(
            &format!("rare operations on {name}"),
            &trainer(1e-3).with_meta_optimizer(SgdConfig::new().init(), 1e-3),
            &Rare::new(device, false, false),
            &sinusoids,
            &sinusoids,
            (50.0 * roundoff).max(1e-3),
        );
        let init = conv_net(device, small());
        let what = format!("Omniglot on {name}");
        compare(
            &what,
            // Steps so small that a unit with a kink, which rounding puts on its other side, does not grow to more.
            &trainer(0.005),
            &init,
            &tasks.train,
            &tasks.test,
            (400.0 * roundoff).max(3e-3),
        );

        let lanes = Lanes::single(device);
        // As many kernels for more tasks.
        let launches = |count: usize| {
            let trainer = trainer(0.01)
                .with_meta_batch_size(count)
                .with_task_batch(count);
            let mut run = trainer.begin(mlp(device)).unwrap();
            run.step(&sinusoids, &lanes).unwrap();
            let launches = leap_tests::Launches::new();
            run.step(&sinusoids, &lanes).unwrap();
            launches.count()
        };
        let (two, six) = (launches(2), launches(6));
        println!("{name}: {two} kernels in a meta-step of 2 tasks, {six} in one of 6");
        // Each task is looked at by itself in the end.
        assert!(six <= two + two / 2, "{name}: {two} kernels grew to {six}");
        let is_counted = !name.starts_with("remote") && !leap_core::is_cpu(device);
        assert_eq!(two > 0, is_counted, "{name}");
        // The steps of long tasks are captured on GPUs, and are as they were.
        let long = |steps: usize| trainer(0.01).with_task_steps(steps);
        compare(
            &format!("long sinusoids on {name}"),
            &long(30),
            &mlp(device),
            &sinusoids,
            &sinusoids,
            (50.0 * roundoff).max(1e-3),
        );
        if is_counted {
            let sorting = trainer(1e-3).with_task_batch(5);
            let mut sorting = sorting.begin(Rare::new(device, true, false)).unwrap();
            sorting.step(&sinusoids, &lanes).unwrap();
            assert!(!sorting.stacks(), "{name} sorts without waiting");
            // Where there are two lanes on a GPU, one may work while the other would capture, and so none does. What a
            // captured step leaves behind are running statistics, by which held-out samples are normalized here.
            let run = |lanes: usize| {
                let trainer = trainer(0.02).with_task_steps(26).with_task_batch(5);
                let trainer = trainer.with_held_out_statistics(Statistics::Running);
                let lanes = Lanes::threads(device, lanes).unwrap();
                let mut run = trainer.begin(init.clone()).unwrap();
                let mut reports =
                    Vec::from_iter((0..2).map(|_| run.step(&tasks.train, &lanes).unwrap()));
                reports.push(trainer.evaluate(run.init(), &tasks.test, &lanes).unwrap());
                reports
            };
            let what = format!("captured Omniglot on {name}");
            for (captured, launched) in run(1).iter().zip(&run(2)) {
                assert_alike(captured, launched, 1e-5, &what);
            }
        }
        let launches = |steps: usize| {
            let trainer = long(steps).with_task_batch(5);
            let mut run = trainer.begin(mlp(device)).unwrap();
            run.step(&sinusoids, &lanes).unwrap();
            let launches = leap_tests::Launches::new();
            run.step(&sinusoids, &lanes).unwrap();
            launches.count()
        };
        // Nothing is read back between the steps of a task, in what is launched and in what is captured.
        let read = |steps: usize| {
            let mut run = long(steps).with_task_batch(5).begin(mlp(device)).unwrap();
            run.step(&sinusoids, &lanes).unwrap();
            let read = leap_tests::ReadBacks::new(device);
            run.step(&sinusoids, &lanes).unwrap();
            read.count()
        };
        for [few, many] in [[4, 20], [30, 60]] {
            let [few, many] = [few, many].map(read);
            println!("{name}: {few} read-backs in a meta-step, {many} in one of longer tasks");
            assert!(many > 0, "{name}: they are not counted");
            assert!(is_counted <= (few == many), "{name}: {few} and {many}");
        }
        let few = (launches(20) - launches(10)) as f64 / 10.0;
        let many = (launches(60) - launches(30)) as f64 / 30.0;
        println!(
            "{name}: {few:.1} kernels launched in a step of short tasks, {many:.1} of long ones"
        );
        assert!(!is_counted || many < 0.8 * few, "{name}: {few} and {many}");
        // Where memory can be looked at, what is left of it after a hundred meta-steps is what was left after two.
        if device.memory_pool_usage().is_none() {
            continue;
        }
        let mut run = trainer(0.02).with_task_batch(5).begin(init).unwrap();
        let mut captured = long(24).with_task_batch(5).begin(mlp(device)).unwrap();
        let mut used = |meta_steps: usize| {
            for _ in 0..meta_steps {
                run.step(&tasks.train, &lanes).unwrap();
                captured.step(&sinusoids, &lanes).unwrap();
            }
            device.memory_cleanup();
            let used = device.memory_pool_usage();
            used.map_or(0, |used| used.bytes_in_use)
        };
        let (before, after) = (used(2), used(98));
        println!("{name}: {before} bytes in use after 2 meta-steps, {after} after 100");
        // A tensor that stays after each of them would be ten times as much.
        assert!(after <= before + 2048, "{name}: {before} grew to {after}");
    }
}

/// A panic in the middle of training ends the run. What is recorded ahead does not keep it waiting.
#[test]
fn a_panic_ends_the_run() {
    static STACKED: AtomicBool = AtomicBool::new(false);
    #[derive(Clone, Debug)]
    struct Panics;
    impl<M: Module> MetaLearner<M> for Panics {
        fn learn<T: Task<M>>(
            &self,
            _space: &Arc<ParamSpace>,
            _inner: &InnerLoop,
            model: M,
            task: &mut T,
        ) -> Result<Learned<M>, TaskError> {
            let loss = task.loss(&model)?.loss;
            STACKED.fetch_or(loss.dims() == [5], Ordering::Relaxed);
            panic!("in the middle of a task");
        }
        fn stacks(&self) -> bool {
            true
        }
    }
    let (send, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let device = Device::flex().autodiff();
        let trainer = MetaTrainer::new(Panics)
            .with_meta_batch_size(5)
            .with_task_steps(9)
            .with_task_batch(5);
        let mut run = trainer.begin(mlp(&device)).unwrap();
        let lanes = Lanes::single(&device);
        let step = AssertUnwindSafe(|| run.step(&Sinusoids::new(), &lanes).is_err());
        send.send(catch_unwind(step).unwrap_or(true)).unwrap();
    });
    let two_minutes = std::time::Duration::from_secs(120);
    assert_eq!(ended.recv_timeout(two_minutes), Ok(true));
    assert!(STACKED.load(Ordering::Relaxed));
}
