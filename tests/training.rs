//! What meta-training promises: the same numbers on any number of lanes, tasks that diverge are left out, initializations
//! that training leaves alone, models that it works with or refuses.

use burn::module::{Module, ModuleMapper, Param, ParamGroup};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use leap_core::{
    Error, Finetuning, InnerLoop, Lanes, Leap, LearningPath, Maml, MetaLearner, MetaTrainer,
    Method, ParamSpace, Purpose, Report, StepLoss, Task, TaskContext, TaskError, TaskSeed, TaskSet,
    project_paths, reinitialize, run_rng, task_copy, with_norms_of,
};
use leap_models::{ConvNet, ConvNetConfig, Mlp, MlpConfig};
use leap_tasks::Sinusoids;
use leap_tasks::omniglot::{Omniglot, OmniglotSplits, OmniglotTasksConfig};
use leap_tests::cpu_devices;

fn flex() -> Device {
    Device::flex().autodiff()
}

fn mlp(device: &Device) -> Mlp {
    let mlp = MlpConfig::new(vec![1, 16, 16, 1]).init(device).unwrap();
    reinitialize(mlp, &ParamGroup::all(), &mut run_rng(3, "parameters"))
}

fn conv_net(device: &Device) -> ConvNet {
    let config = ConvNetConfig::new().with_filters(4).with_classes(5);
    let net = config.init(device).unwrap();
    reinitialize(net, &ParamGroup::all(), &mut run_rng(3, "parameters"))
}

fn omniglot() -> OmniglotSplits {
    let config = OmniglotTasksConfig::new()
        .with_classes(5)
        .with_train_alphabets(8);
    config.init(Omniglot::bundled().unwrap()).unwrap()
}

/// All floats of a module, running statistics too, as bits.
fn bits<M: Module>(model: &M) -> Vec<u32> {
    leap_tests::floats(model)
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

/// Reports without what may differ: the time they took.
fn timeless(mut reports: Vec<Report>) -> Vec<Report> {
    reports.iter_mut().for_each(|r| r.seconds = 0.0);
    reports
}

#[test]
fn one_and_four_lanes_agree_bit_for_bit() {
    let tasks = omniglot();
    for (name, device) in cpu_devices() {
        let trainer = MetaTrainer::new(Leap::new())
            .with_meta_batch_size(5)
            .with_task_steps(4);
        let run = |lanes: usize| {
            let lanes = Lanes::threads(&device, lanes).unwrap();
            let mut run = trainer.begin(conv_net(&device)).unwrap();
            let reports = (0..3)
                .map(|_| run.step(&tasks.train, &lanes).unwrap())
                .collect();
            let test = trainer.evaluate(run.init(), &tasks.test, &lanes).unwrap();
            (bits(run.init()), timeless(reports), timeless(vec![test]))
        };
        let (one, four) = (run(1), run(4));
        assert_eq!(one.0, four.0, "parameters on {name}");
        assert_eq!(one.1, four.1, "meta-training on {name}");
        assert_eq!(one.2, four.2, "evaluation on {name}");
        assert!(
            one.1
                .iter()
                .all(|r| r.tasks.iter().all(|t| t.held_out.is_some()))
        );
    }
}

/// A model of one layer, used twice.
#[derive(Module, Debug)]
struct Tied {
    encode: Linear,
    decode: Linear,
}

#[test]
fn a_parameter_in_two_places_is_refused_when_the_path_begins() {
    let device = flex();
    let encode = LinearConfig::new(4, 4).with_bias(false).init(&device);
    let decode = Linear {
        weight: encode.weight.clone(),
        bias: None,
    };
    let error = Leap::new().begin(&Tied { encode, decode }).err().unwrap();
    let error = error.to_string();
    assert!(
        error.contains("encode.weight") && error.contains("decode.weight"),
        "{error}"
    );
}

/// Casts parameters.
struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|values| Tensor::from_inner(values.inner().cast(self.0)).require_grad())
    }
}

#[test]
fn models_in_half_precision_have_paths_in_single_precision() {
    let device = flex();
    let length = |dtype| {
        let net = MlpConfig::new(vec![2, 8, 1]).init(&device).unwrap();
        let net = reinitialize(net, &ParamGroup::all(), &mut run_rng(1, "half"));
        let net = task_copy(&net).map(&mut Cast(dtype));
        let (mut model, mut path) = Leap::new().begin(&net).unwrap();
        let mut inner = SgdConfig::new().init();
        for step in 0..4 {
            let points: Vec<f32> = (0..16)
                .map(|i| ((i * 7 + step * 5) % 13) as f32 / 13.0)
                .collect();
            let x = Tensor::<2>::from_data(TensorData::new(points, [8, 2]), &device).cast(dtype);
            let loss = (model.forward(x.clone()) - x.sum_dim(1)).square().mean();
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            path.record(&model, &loss, &grads).unwrap();
            model = inner.step(0.05, model, grads);
        }
        let learned = path.finish().unwrap();
        learned.figures.read().unwrap().length
    };
    let (half, single) = (length(DType::F16), length(DType::F32));
    assert!((half / single - 1.0).abs() < 0.02, "{half} and {single}");
}

/// Sinusoids of which some diverge at once.
struct Diverging {
    every: usize,
}

struct MaybeDiverges(leap_tasks::Sinusoid, bool);

impl TaskSet<Mlp> for Diverging {
    type Task = MaybeDiverges;
    fn len(&self) -> usize {
        4
    }
    fn task(&self, index: usize, context: &TaskContext) -> Result<MaybeDiverges, TaskError> {
        let task = TaskSet::<Mlp>::task(&Sinusoids::new(), index, context)?;
        Ok(MaybeDiverges(task, index.is_multiple_of(self.every)))
    }
}

impl Task<Mlp> for MaybeDiverges {
    fn loss(&mut self, model: &Mlp) -> Result<StepLoss, TaskError> {
        let loss = Task::<Mlp>::loss(&mut self.0, model)?.loss;
        Ok((if self.1 { loss * f32::INFINITY } else { loss }).into())
    }
}

#[test]
fn tasks_that_diverge_are_left_out_of_the_mean_and_reported() {
    let device = flex();
    let lanes = Lanes::threads(&device, 2).unwrap();
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(4)
        .with_task_steps(3)
        .with_task_optimizer(SgdConfig::new().init(), 0.01);
    let mut run = trainer.begin(mlp(&device)).unwrap();
    let report = run.step(&Diverging { every: 2 }, &lanes).unwrap();
    assert_eq!((report.summary().tasks, report.summary().left_out), (2, 2));
    for task in &report.tasks {
        assert_eq!(task.left_out.is_some(), task.index % 2 == 0);
    }
    let values = bits(run.init());
    assert!(values.iter().all(|v| f32::from_bits(*v).is_finite()));
    assert_ne!(values, bits(&mlp(&device)), "the others still count");

    let before = bits(run.init());
    let error = run.step(&Diverging { every: 1 }, &lanes).unwrap_err();
    assert!(
        matches!(
            error,
            Error::AllTasksLeftOut {
                meta_step: 1,
                tasks: 4,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("seed 0, meta-step 1, task 0"),
        "{error}"
    );
    assert_eq!(bits(run.init()), before);
    // In an evaluation there is no mean to save.
    let report = trainer
        .evaluate(run.init(), &Diverging { every: 1 }, &lanes)
        .unwrap();
    assert_eq!(report.summary().left_out, 4);
}

#[test]
fn training_leaves_the_initialization_alone() {
    let device = flex();
    let tasks = omniglot();
    let init = conv_net(&device);
    let before = bits(&init);
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(2)
        .with_task_steps(3);
    let moved = trainer
        .fit(
            init.clone(),
            2,
            &tasks.train,
            &Lanes::threads(&device, 2).unwrap(),
        )
        .unwrap();
    assert_eq!(bits(&init), before, "running statistics too");
    assert_ne!(bits(&moved), before);
    let statistics = |net: &ConvNet| {
        let norm = net.encoder.blocks[0].norm.as_ref().unwrap();
        norm.running_var.value().into_data()
    };
    assert_eq!(
        statistics(&moved),
        statistics(&init),
        "meta-training leaves statistics alone"
    );

    // The trap that `task_copy` is for.
    let images = Tensor::<4>::ones([2, 1, 28, 28], &device);
    task_copy(&init).forward(images.clone());
    assert_eq!(bits(&init), before);
}

/// Alphabets of which each has as many classes as its index says, and a head for them.
struct OwnHeads(leap_tasks::omniglot::OmniglotTasks);

struct OwnHead(leap_tasks::images::ImageTask, usize, leap_core::TaskRng);

impl TaskSet<ConvNet> for OwnHeads {
    type Task = OwnHead;
    fn len(&self) -> usize {
        4
    }
    fn task(&self, index: usize, context: &TaskContext) -> Result<OwnHead, TaskError> {
        let task = TaskSet::<ConvNet>::task(&self.0, index, context)?;
        Ok(OwnHead(task, 5 + index, context.seed.rng(7)))
    }
}

impl Task<ConvNet> for OwnHead {
    fn start(&mut self, init: ConvNet) -> Result<ConvNet, TaskError> {
        let head = ParamGroup::from_predicate("head");
        Ok(reinitialize(init.with_new_head(self.1), &head, &mut self.2))
    }
    fn loss(&mut self, model: &ConvNet) -> Result<StepLoss, TaskError> {
        assert_eq!(model.head.weight.dims()[1], self.1);
        Task::<ConvNet>::loss(&mut self.0, model)
    }
}

#[test]
fn an_encoder_is_meta_learned_while_heads_are_the_tasks_own() {
    let device = flex();
    let tasks = omniglot().train;
    let init = conv_net(&device);
    let trainer = MetaTrainer::new(Leap::new())
        .with_shared(ParamGroup::from_predicate("encoder"))
        .with_meta_batch_size(4)
        .with_task_steps(3);
    let lanes = Lanes::threads(&device, 2).unwrap();
    let head = |net: &ConvNet| net.head.weight.val().into_data();
    let moved = trainer.fit(init.clone(), 1, &tasks, &lanes).unwrap();
    assert_eq!(head(&moved), head(&init), "the head is no part of the path");
    assert_ne!(bits(&moved.encoder), bits(&init.encoder));

    // With the initialization's head, other heads would give another meta-gradient.
    let other = ConvNet {
        head: LinearConfig::new(4, 5).init(&device),
        ..init.clone()
    };
    let again = trainer.fit(other, 1, &tasks, &lanes).unwrap();
    assert_eq!(
        bits(&again.encoder),
        bits(&moved.encoder),
        "heads are drawn anew"
    );

    // A task may bring a head of its own size.
    let sized = trainer
        .fit(init.clone(), 1, &OwnHeads(tasks.clone()), &lanes)
        .unwrap();
    assert_ne!(bits(&sized.encoder), bits(&init.encoder));
    // But it must not replace what is shared.
    let error = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(1)
        .with_task_steps(3)
        .fit(init, 1, &OwnHeads(tasks), &lanes)
        .unwrap_err();
    assert!(error.to_string().contains("head.weight"), "{error}");
}

#[test]
fn kernels_get_the_norms_of_another_model_and_their_direction_stays() {
    let device = flex();
    let kernels = ParamGroup::from_predicate("conv.weight");
    let net = conv_net(&device);
    // The same model, with kernels three times as long; and one that is zero.
    let longer = net.clone().map(&mut Times(3.0));
    let norms = |net: &ConvNet| -> Vec<f32> {
        let kernels = net.encoder.blocks.iter().map(|b| b.conv.weight.val());
        let norms = kernels.map(|kernel| kernel.powi_scalar(2).sum().sqrt());
        norms.map(|norm| norm.into_scalar::<f32>()).collect()
    };
    let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * b.abs();
    let back = with_norms_of(longer.clone(), &net, &kernels).unwrap();
    for ((long, own), back) in norms(&longer).iter().zip(norms(&net)).zip(norms(&back)) {
        assert!(
            near(*long, 3.0 * own) && near(back, own),
            "{long} {own} {back}"
        );
    }
    let floats = [&net, &back].map(leap_tests::floats);
    for (own, back) in floats[0].iter().zip(&floats[1]) {
        assert!((own - back).abs() <= 1e-6, "{own} {back}");
    }
    assert_eq!(bits(&back.head), bits(&net.head));
    // By path, whatever the ids.
    let other = conv_net(&device).map(&mut Times(0.5));
    let shorter = with_norms_of(net.clone(), &other, &kernels).unwrap();
    assert!(near(norms(&shorter)[0], 0.5 * norms(&net)[0]));
    let zero = net.clone().map(&mut Times(0.0));
    let zero = with_norms_of(zero, &net, &kernels).unwrap();
    assert_eq!(norms(&zero), vec![0.0; 4]);

    // What it is for: the output is the same, and a step of SGD turns kernels that are c times as long by one over c².
    let images = Tensor::<4>::random([8, 1, 28, 28], Distribution::Uniform(0.0, 1.0), &device);
    let outputs = [&net, &longer].map(|net| net.forward(images.clone()));
    let [output, apart] = [outputs[0].clone(), outputs[0].clone() - outputs[1].clone()];
    let largest = |tensor: Tensor<2>| tensor.abs().max().into_scalar::<f32>();
    assert!(largest(apart) < 1e-2 * largest(output));
    let turned = |net: &ConvNet, output: &Tensor<2>| {
        let grads = output.clone().powi_scalar(2).mean().backward();
        let grads = GradientsParams::from_grads(grads, net);
        let moved = SgdConfig::new().init().step(0.01, net.clone(), grads);
        let [from, to] = [net, &moved].map(|net| net.encoder.blocks[1].conv.weight.val());
        let moved = (to - from.clone()).powi_scalar(2).sum() / from.powi_scalar(2).sum();
        moved.sqrt().into_scalar::<f32>()
    };
    let ratio = turned(&net, &outputs[0]) / turned(&longer, &outputs[1]);
    assert!((ratio - 9.0).abs() < 0.2, "{ratio}");

    let none = ParamGroup::from_predicate("no such parameter");
    let error = with_norms_of(net.clone(), &other, &none).unwrap_err();
    assert!(matches!(error, Error::NothingShared), "{error}");
    let wide = ConvNetConfig::new().with_filters(5).with_classes(5);
    let error = with_norms_of(net, &wide.init(&device).unwrap(), &kernels).unwrap_err();
    assert!(matches!(error, Error::SpaceMismatch), "{error}");
}

/// Multiplies all that has four dimensions.
struct Times(f64);

impl ModuleMapper for Times {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match D {
            4 => param.map(|values| Tensor::from_inner(values.inner() * self.0).require_grad()),
            _ => param,
        }
    }
}

#[test]
fn settings_that_cannot_work_are_errors() {
    let device = flex();
    let lanes = Lanes::single(&device);
    let trainer = MetaTrainer::new(Leap::new());
    let fit = |trainer: MetaTrainer<Leap>, tasks: usize| {
        let tasks = Sinusoids::new().with_tasks(tasks);
        trainer
            .fit(mlp(&device), 1, &tasks, &lanes)
            .unwrap_err()
            .to_string()
    };
    assert!(fit(trainer.clone().with_meta_batch_size(0), 1).contains("at least one task"));
    assert!(fit(trainer.clone().with_meta_batch_size(usize::MAX), 1).contains("is the most"));
    let none = Sinusoids::new().with_tasks(0);
    let evaluated = trainer.evaluate(&mlp(&device), &none, &lanes);
    assert!(matches!(evaluated, Err(Error::InvalidSetting(_))));
    for difference in [0.0, -1.0, f64::NAN] {
        let maml = Maml::new().with_difference(difference);
        let maml = MetaTrainer::new(maml).with_task_steps(2);
        let error = maml.fit(mlp(&device), 1, &Sinusoids::new(), &lanes);
        assert!(error.unwrap_err().to_string().contains("a difference of"));
    }
    assert!(fit(trainer.clone().with_task_steps(1), 1).contains("at least two steps"));
    assert!(fit(trainer.clone(), 0).contains("no tasks to draw from"));
    assert!(
        fit(
            trainer.clone().with_shared(ParamGroup::from_predicate("x")),
            1
        )
        .contains("nothing to meta-learn")
    );
    assert!(Lanes::threads(&device, 0).is_err());
    assert!(trainer.resume(mlp(&device)).is_err());
}

/// A path of a task from `init`: its length, energy, and the trained model.
fn path_of<T: Task<Mlp>>(init: &Mlp, task: &mut T, leap: Leap, lr: f64) -> (f64, f64) {
    let space = ParamSpace::new(init, &ParamGroup::all()).unwrap();
    let mut path = leap.path(&space);
    let inner = InnerLoop::new(20, SgdConfig::new().init(), lr);
    inner.run(task_copy(init), task, &mut path).unwrap();
    let figures = path.finish().unwrap().figures.read().unwrap();
    (figures.length, figures.energy)
}

/// A sinusoid whose loss is changed to `factor` · loss + `shift`.
struct Rescaled(leap_tasks::Sinusoid, f64, f64);

impl Task<Mlp> for Rescaled {
    fn loss(&mut self, model: &Mlp) -> Result<StepLoss, TaskError> {
        let loss = Task::<Mlp>::loss(&mut self.0, model)?.loss;
        Ok((loss * self.1 + self.2).into())
    }
}

#[test]
fn the_length_of_a_path_is_invariant_where_it_should_be() {
    let device = flex();
    let context = TaskContext {
        seed: leap_core::TaskSeed {
            seed: 5,
            purpose: leap_core::Purpose::HeldOut,
            meta_step: 0,
            task: 0,
        },
        device: device.clone(),
        steps: 20,
    };
    let sinusoid = |factor, shift| {
        Rescaled(
            TaskSet::<Mlp>::task(&Sinusoids::new(), 0, &context).unwrap(),
            factor,
            shift,
        )
    };
    let close = |a: (f64, f64), b: (f64, f64)| {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-4 * b;
        near(a.0, b.0) && near(a.1, b.1)
    };
    let init = mlp(&device);
    let leap = Leap::new();
    let length = path_of(&init, &mut sinusoid(1.0, 0.0), leap, 0.01);

    // To where the loss has its zero.
    let shifted = path_of(&init, &mut sinusoid(1.0, 3.0), leap, 0.01);
    assert!(close(shifted, length), "{shifted:?} {length:?}");

    // To the order of the hidden units.
    let reverse = |t: Tensor<2>, dim: usize| t.flip([dim as isize]);
    let mut permuted = init.clone();
    let layers = &mut permuted.layers;
    layers[0].weight = layers[0].weight.clone().map(|w| reverse(w.inner(), 1));
    layers[0].bias = layers[0]
        .bias
        .clone()
        .map(|b| b.map(|b| b.inner().flip([0])));
    layers[1].weight = layers[1].weight.clone().map(|w| reverse(w.inner(), 0));
    let permuted = permuted.train();
    assert_ne!(bits(&permuted), bits(&init));
    let other = path_of(&permuted, &mut sinusoid(1.0, 0.0), leap, 0.01);
    assert!(close(other, length), "{other:?} {length:?}");

    // Without the loss dimension, to the unit of the loss, if the learning rate makes up for it.
    let flat = leap.with_loss(false);
    let plain = path_of(&init, &mut sinusoid(1.0, 0.0), flat, 0.01);
    let scaled = path_of(&init, &mut sinusoid(4.0, 0.0), flat, 0.0025);
    assert!(close(scaled, plain), "{scaled:?} {plain:?}");
    assert!(length.0 > plain.0, "the loss dimension adds to the length");
    // With it, it is not.
    let scaled = path_of(&init, &mut sinusoid(4.0, 0.0), leap, 0.0025);
    assert!(!close(scaled, length));
}

#[test]
fn a_path_that_goes_nowhere_has_length_zero_and_no_pull() {
    let device = flex();
    struct Still;
    impl Task<Mlp> for Still {
        fn loss(&mut self, model: &Mlp) -> Result<StepLoss, TaskError> {
            let x = Tensor::ones([1, 1], &model.layers[0].weight.device());
            Ok(model.forward(x).mean().into())
        }
    }
    let init = mlp(&device);
    let space = ParamSpace::new(&init, &ParamGroup::all()).unwrap();
    let mut path = Leap::new().path(&space);
    let inner = InnerLoop::new(3, SgdConfig::new().init(), 0.0);
    inner.run(task_copy(&init), &mut Still, &mut path).unwrap();
    let learned = path.finish().unwrap();
    assert!(learned.gradient.to_vec().unwrap().iter().all(|g| *g == 0.0));
    assert_eq!(learned.figures.read().unwrap().length, 0.0);
}

/// Every method is a meta-learner of one shape; without pretraining, the initialization stays as it is.
#[test]
fn every_method_meta_trains_alike_on_any_number_of_lanes() {
    let device = flex();
    let names = [
        "leap",
        "reptile",
        "fomaml",
        "fomaml-query",
        "maml",
        "finetuning",
        "none",
    ];
    let mut results = Vec::new();
    for name in names {
        let trainer = MetaTrainer::new(name.parse::<Method>().unwrap())
            .with_meta_batch_size(3)
            .with_task_steps(4)
            .with_task_optimizer(SgdConfig::new().init(), 0.01);
        let init = mlp(&device);
        let fit = |lanes| {
            let lanes = Lanes::threads(&device, lanes).unwrap();
            bits(
                &trainer
                    .fit(init.clone(), 3, &Sinusoids::new(), &lanes)
                    .unwrap(),
            )
        };
        let result = fit(1);
        assert_eq!(result, fit(3), "{name}");
        assert_eq!(result == bits(&init), name == "none", "{name}");
        let changes = result
            .iter()
            .zip(bits(&init))
            .map(|(a, b)| f32::from_bits(*a) - f32::from_bits(b));
        results.push(changes.collect::<Vec<f32>>());
    }
    for (i, a) in results.iter().enumerate() {
        for (j, b) in results[..i].iter().enumerate() {
            // Finetuning is Reptile, on other tasks.
            assert!(a != b || (names[i], names[j]) == ("finetuning", "reptile"));
        }
    }
}

/// What the encoder's share of MAML's meta-gradient is does not depend on whether the head is shared: the way back
/// leads through all that training moves.
#[test]
fn maml_goes_back_through_the_tasks_own_parameters() {
    let device = flex();
    let init = mlp(&device);
    let gradient = |group: &ParamGroup| {
        let space = ParamSpace::new(&init, group).unwrap();
        let context = TaskContext {
            seed: TaskSeed {
                seed: 3,
                purpose: Purpose::Training,
                meta_step: 0,
                task: 0,
            },
            device: device.clone(),
            steps: 4,
        };
        let mut task = TaskSet::<Mlp>::task(&Sinusoids::new(), 0, &context).unwrap();
        let inner = InnerLoop::new(4, SgdConfig::new().init(), 0.05);
        let learned = Maml::new().learn(&space, &inner, task_copy(&init), &mut task);
        learned.unwrap().gradient.to_vec().unwrap()
    };
    let first = ParamGroup::from_predicate("layers.0");
    let (part, all) = (gradient(&first), gradient(&ParamGroup::all()));
    assert_eq!(part, all[..part.len()]);
    assert!(part.len() < all.len());
}

/// A task that can neither repeat a step nor give a query batch says so to the methods that need it.
#[test]
fn methods_say_what_they_miss_in_a_task() {
    struct Plain;
    impl Task<Mlp> for Plain {
        fn loss(&mut self, model: &Mlp) -> Result<StepLoss, TaskError> {
            let x = Tensor::ones([1, 1], &model.layers[0].weight.device());
            Ok(model.forward(x).mean().into())
        }
    }
    let init = mlp(&flex());
    let space = ParamSpace::new(&init, &ParamGroup::all()).unwrap();
    let error = |name: &str, steps| {
        let inner = InnerLoop::new(steps, SgdConfig::new().init(), 0.1);
        let method: Method = name.parse().unwrap();
        let result = method.learn(&space, &inner, task_copy(&init), &mut Plain);
        result.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(error("maml", 3).contains("`Task::fork`"));
    assert!(error("fomaml-query", 3).contains("`Task::query`"));
    assert!(error("leap", 1).contains("at least two steps"));
    assert_eq!(error("reptile", 1), "");
}

/// A trace is the path that evaluation takes: it starts at the initialization, has a point a step, and its
/// length is that of the report.
#[test]
fn a_trace_is_the_path_of_the_evaluation() {
    let device = flex();
    let lanes = Lanes::threads(&device, 2).unwrap();
    let init = mlp(&device);
    let trainer = MetaTrainer::new(Leap::new())
        .with_task_steps(6)
        .with_task_optimizer(SgdConfig::new().init(), 0.01);
    let tasks = Sinusoids::new().with_tasks(3);
    let report = trainer.evaluate(&init, &tasks, &lanes).unwrap();
    let traces = trainer.trace(&init, &tasks, 2, &lanes).unwrap();
    assert_eq!(traces.len(), 2);
    let space = ParamSpace::new(&init, &ParamGroup::all()).unwrap();
    let start = space.point(&init).unwrap().to_vec().unwrap();
    for (trace, task) in traces.iter().zip(&report.tasks) {
        assert_eq!(trace.points.len(), 6);
        assert_eq!(trace.points[0].to_vec().unwrap(), start);
        let points = trace.points.windows(2).zip(task.curve.loss.windows(2));
        let length: f64 = points
            .map(|(points, losses)| {
                let [a, b] = [0, 1].map(|i| points[i].to_vec().unwrap());
                let squares = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2));
                (squares.sum::<f64>() + (losses[1] - losses[0]).powi(2)).sqrt()
            })
            .sum();
        let reported = task.path.unwrap().length;
        assert!(
            (length - reported).abs() < 1e-5 * length,
            "{length} {reported}"
        );
    }
    let (paths, shown) = project_paths(&traces).unwrap();
    assert_eq!((paths.len(), paths[1].len()), (2, 6));
    assert!(shown > 0.5 && shown <= 1.0 + 1e-6);

    // One that diverged takes nothing from the other.
    let alone = project_paths(&traces[1..]).unwrap();
    let mut one_of_two = traces.clone();
    one_of_two[0].points[3] = one_of_two[0].points[3].clone().map(|values| values / 0.0);
    let (paths, shown) = project_paths(&one_of_two).unwrap();
    assert_eq!((&paths[1], shown), (&alone.0[0], alone.1));
    assert_eq!(paths[0].len(), 0);
    assert!(project_paths(&one_of_two[..1]).is_err());
}

/// The mixture of alphabets has a head for each, and trains all of them.
#[test]
fn finetuning_trains_a_body_with_a_head_for_each_alphabet() {
    let device = flex();
    let lanes = Lanes::threads(&device, 1).unwrap();
    let tasks = omniglot().train;
    let classes = 5 * tasks.heads();
    let model = ConvNetConfig::new().with_filters(8).with_classes(classes);
    let init = model.init(&device).unwrap();
    let init = reinitialize(init, &ParamGroup::all(), &mut run_rng(3, "parameters"));
    let trainer = MetaTrainer::new(Finetuning)
        .with_meta_batch_size(1)
        .with_task_steps(30)
        .with_meta_optimizer(SgdConfig::new().init(), 1.0);
    let mut run = trainer.begin(init.clone()).unwrap();
    let first = run.step(&tasks.mixed(), &lanes).unwrap().summary();
    run.step(&tasks.mixed(), &lanes).unwrap();
    let last = run.step(&tasks.mixed(), &lanes).unwrap().summary();
    assert!(last.loss < first.loss, "{} {}", last.loss, first.loss);
    let moved = bits(&run.init().head);
    let before = bits(&init.head);
    // Weights are [features, classes], then come the biases: each class's values are so many apart.
    let changed = |class: usize| {
        let values = moved.iter().zip(&before).skip(class).step_by(classes);
        values.into_iter().any(|(a, b)| a != b)
    };
    assert!((0..classes).all(changed));
}

/// The length of a segment is as accurate for a million parameters as for ten.
#[test]
fn a_segment_of_a_million_parameters_has_its_length() {
    let device = flex();
    let model = LinearConfig::new(1024, 1024).init(&device);
    let space = ParamSpace::new(&model, &ParamGroup::all()).unwrap();
    let start = space.point(&model).unwrap();
    // Steps of one size, whose squares a plain sum would get wrong from some point on.
    let end = start.clone().map(|v| v.clone() + (v.abs() * 1e-4 + 1e-4));
    let (from, to) = (start.to_vec().unwrap(), end.to_vec().unwrap());
    let squares = from.iter().zip(&to).map(|(a, b)| (b - a).powi(2));
    let exact = squares.sum::<f64>().sqrt();
    let step = end - start;
    let length = f64::from(step.dot(&step).sqrt().into_scalar::<f32>());
    let deviation = (length / exact - 1.0).abs();
    assert!(deviation < 1e-5, "{length} is {exact}: {deviation:.1e}");
}
