//! One program, one answer: every backend that can be had computes what flex computes in float64.
//!
//! ```text
//! cargo test -p leap-tests --test parity -- --nocapture
//! cargo test -p leap-tests --test parity --features cuda -- --nocapture
//! ```
//!
//! Tolerances are derived. Rounding at every addition of a sum of n terms, each time by a random relative error of at most
//! u = 2⁻²⁴, gives the exact sum of terms that are off by a relative error with a standard deviation of at most √n u (Higham, Mary:
//! "A New Approach to Probabilistic Rounding Error Analysis", 2019). Storing a parameter after a step puts it off by u. So everything
//! is computed again in float64 with such errors put in: in parameters and inputs wherever a loss is computed, with n the longest
//! sum there is, in the loss, and in parameters after each step. As far as this moves a result, rounding may move it.
//!
//! Where a device rounds the factors of products, as CUDA's tensor cores do with TF32, parameters and inputs are put off by
//! as much as that as well.
//!
//! A unit with a kink (ReLU, max-pooling) that is near it may be on one side on one backend and on the other side on
//! another, which moves what comes later by far more than rounding does. It happens to any method, and so there the worst that
//! happened to any of them is what is allowed to each.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup};
use burn::nn::activation::ActivationConfig;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::module::{conv2d, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use leap_core::{
    ActorCritic, InnerLoop, Lanes, Maml, MetaGradient, MetaLearner, MetaTrainer, Method,
    ParamSpace, Predict, Purpose, StepLoss, Task, TaskContext, TaskError, TaskRng, TaskSeed,
    TaskSet, is_software, product_roundoff, reinitialize, run_rng, task_copy,
};
use leap_models::{ActorCriticConfig, ActorCriticNet, ConvLayer, ConvNetConfig, MlpConfig};
use leap_tests::{apart, devices};
use rand::Rng;

const CLASSES: usize = 5;
const BATCH: usize = 4;
const TASKS: usize = 2;
const STEPS: usize = 3;
const META_STEPS: usize = 10;
/// Half the distance from 1 to the next number in float32.
const U: f64 = 1.0 / (1 << 24) as f64;
/// How often everything is computed with errors put in.
const TRIALS: u64 = 4;
/// Rounding may do as much more than the worst of the trials.
const MARGIN: f64 = 2.0;
/// Small enough that training is not chaotic, in which any error grows without bound.
const TASK_LR: f64 = 0.03;
const META_LR: f64 = 0.05;

const QUANTITIES: [&str; 7] = [
    "forward",
    "loss",
    "gradients",
    "path",
    "meta-gradient",
    "1 meta-step",
    "10 meta-steps",
];

/// The methods that are compared, by their names.
fn methods(maml: Maml) -> Vec<Method> {
    let others = ["reptile", "fomaml", "fomaml-query", "finetuning"];
    let others = others.map(|name| name.parse::<Method>().expect("a method"));
    let mut methods: Vec<Method> = Method::leap_variants().collect();
    methods.extend(others);
    methods.push(Method::Maml(maml));
    methods
}

/// Random batches of inputs and classes, for a model whose inputs have rank `D`.
#[derive(Clone)]
struct Random<const D: usize> {
    shape: [usize; D],
    dtype: DType,
    noise: Option<Noise>,
}

/// Relative errors of parameters and inputs.
#[derive(Clone)]
struct Noise {
    /// Their standard deviation.
    size: f64,
    rng: TaskRng,
}

impl Noise {
    fn on<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        let shape = tensor.dims();
        let errors = (0..shape.iter().product()).map(|_| self.rng.random_range(-1.0..1.0));
        let size = self.size * 3f64.sqrt();
        let factors: Vec<f64> = errors.map(|error: f64| 1.0 + size * error).collect();
        let factors = TensorData::new(factors, shape);
        tensor.clone() * Tensor::from_data(factors, (&tensor.device(), DType::F64))
    }
}

impl Noise {
    /// `loss` as float32 would store it, with a gradient from which a step leads to where float32 would store its end.
    fn on_step<M: Module>(&mut self, model: &M, loss: Tensor<1>) -> Tensor<1> {
        struct Ends<'a>(&'a mut Noise, Tensor<1>);
        impl ModuleVisitor for Ends<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if param.is_require_grad() {
                    let here = param.val();
                    let fixed = here.clone().detach();
                    let error = self.0.on(fixed.clone()) - fixed.clone();
                    self.1 = self.1.clone() + ((here - fixed) * error / TASK_LR).sum();
                }
            }
        }
        let size = std::mem::replace(&mut self.size, U);
        let fixed = loss.clone().detach();
        let error = self.on(fixed.clone()) - fixed;
        let mut ends = Ends(self, loss + error);
        model.visit(&mut ends);
        let loss = ends.1;
        self.size = size;
        loss
    }
}

impl ModuleMapper for Noise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match param.is_require_grad() {
            true => param.map(|values| self.on(values)),
            false => param,
        }
    }
}

#[derive(Clone)]
struct RandomTask<const D: usize> {
    family: Random<D>,
    device: Device,
    rng: TaskRng,
}

impl<const D: usize> RandomTask<D> {
    fn batch(&mut self) -> (Tensor<D>, Tensor<1, Int>) {
        let Random { shape, dtype, .. } = self.family;
        let x: Vec<f32> = (0..shape.iter().product())
            .map(|_| self.rng.random_range(-1.0..1.0))
            .collect();
        let y: Vec<i32> = (0..shape[0])
            .map(|_| self.rng.random_range(0..CLASSES as i32))
            .collect();
        let x = Tensor::<D>::from_data(TensorData::new(x, shape), &self.device).cast(dtype);
        let x = match &mut self.family.noise {
            None => x,
            Some(noise) => noise.on(x),
        };
        let y = Tensor::from_data(TensorData::new(y, [shape[0]]), &self.device);
        (x, y)
    }

    /// Predictions for the next batch, and their loss.
    fn forward<M: Predict<Tensor<D>>>(&mut self, model: &M) -> (Tensor<2>, Tensor<1>) {
        let (x, y) = self.batch();
        let logits = match &mut self.family.noise {
            None => model.predict(x),
            Some(noise) => model.clone().map(noise).predict(x),
        };
        let loss = CrossEntropyLossConfig::new().init(&self.device);
        (logits.clone(), loss.forward(logits, y))
    }
}

impl<M: Predict<Tensor<D>>, const D: usize> Task<M> for RandomTask<D> {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let loss = self.forward(model).1;
        Ok(match &mut self.family.noise {
            None => loss,
            Some(noise) => noise.on_step(model, loss),
        }
        .into())
    }

    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        Ok(self.forward(model).1)
    }

    fn fork(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl<M: Predict<Tensor<D>>, const D: usize> TaskSet<M> for Random<D> {
    type Task = RandomTask<D>;

    fn len(&self) -> usize {
        TASKS
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<RandomTask<D>, TaskError> {
        Ok(RandomTask {
            family: self.clone(),
            device: context.device.clone(),
            rng: context.rng(),
        })
    }
}

/// Policy and value as the predictions for one class each.
#[derive(Module, Debug)]
struct Acting {
    net: ActorCriticNet,
}

impl Predict<Tensor<2>> for Acting {
    fn predict(&self, observations: Tensor<2>) -> Tensor<2> {
        let (policy, value) = self.net.act(observations);
        Tensor::cat(vec![policy, value.unsqueeze_dim(1)], 1)
    }
}

/// `model` with all of its numbers as `dtype`.
fn cast<M: Module>(model: &M, dtype: DType) -> M {
    struct Cast(DType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let is_trained = param.is_require_grad();
            param.map(|values| {
                let values = Tensor::from_inner(values.inner().cast(self.0));
                values.set_require_grad(is_trained)
            })
        }
    }
    task_copy(model).map(&mut Cast(dtype))
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Results of a quantity, in parts that are compared each for itself.
type Parts = Vec<Vec<f64>>;

/// A quantity of a method; of the model alone, where there is no method.
type Key = (&'static str, String);

/// Everything that is compared, of `init`, which is on the device to be tested.
fn measure<M: Predict<Tensor<D>>, const D: usize>(
    init: &M,
    family: &Random<D>,
    methods: &[Method],
) -> BTreeMap<Key, Parts> {
    let mut results = BTreeMap::new();
    let device = init.devices().remove(0);
    let space = ParamSpace::new(init, &ParamGroup::all()).expect("parameters");
    let context = |task| TaskContext {
        seed: TaskSeed {
            seed: 7,
            purpose: Purpose::Training,
            meta_step: 0,
            task,
        },
        device: device.clone(),
        steps: STEPS,
    };
    let task = |number| TaskSet::<M>::task(family, 0, &context(number)).expect("a task");

    let model = task_copy(init);
    let (logits, loss) = task(0).forward(&model);
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let gradients = space.gradient(&model, &gradients).expect("the same model");
    let alone = |quantity| (quantity, String::new());
    results.insert(alone("forward"), vec![read(logits.inner())]);
    results.insert(alone("loss"), vec![read(loss.inner())]);
    let gradients = gradients.to_vec().expect("read back");
    results.insert(alone("gradients"), vec![gradients]);

    for &method in methods {
        let key = |quantity| (quantity, method.to_string());
        let inner = InnerLoop::new(STEPS, SgdConfig::new().init(), TASK_LR);
        let (mut meta, mut path) = (MetaGradient::new(), Vec::new());
        for number in 0..TASKS {
            let learned = method.learn(&space, &inner, task_copy(init), &mut task(number as u64));
            let learned = learned.expect("a sound task");
            meta.add(learned.gradient).expect("the same space");
            let figures = learned.figures.expect("all methods measure").read();
            let figures = figures.expect("read back");
            path.push(vec![figures.length]);
            path.push(vec![figures.energy]);
            // These two are numbers from -1 to 1.
            path.push(vec![figures.straightness, 1.0]);
            path.push(vec![figures.cosine, 1.0]);
        }
        let gradient = meta.take(&device).expect("there are tasks");
        let gradient = space.gradient(init, &gradient).expect("the same space");
        results.insert(key("path"), path);
        let gradient = gradient.to_vec().expect("read back");
        results.insert(key("meta-gradient"), vec![gradient]);

        let trainer = MetaTrainer::new(method)
            .with_meta_batch_size(TASKS)
            .with_task_steps(STEPS)
            .with_task_optimizer(SgdConfig::new().init(), TASK_LR)
            .with_meta_optimizer(SgdConfig::new().init(), META_LR);
        let mut run = trainer.begin(task_copy(init)).expect("sound settings");
        let lanes = Lanes::single(&device);
        let start = space.point(init).expect("the same model");
        for meta_step in 1..=META_STEPS {
            run.step(family, &lanes).expect("a sound meta-step");
            let quantity = match meta_step {
                1 => "1 meta-step",
                META_STEPS => "10 meta-steps",
                _ => continue,
            };
            let moved = space.point(run.init()).expect("the same model") - start.clone();
            let moved = moved.to_vec().expect("read back");
            results.insert(key(quantity), vec![moved]);
        }
    }
    results
}

/// The largest ‖a − b‖ / ‖b‖ of the parts.
fn deviation(a: &Parts, b: &Parts) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let parts = a.iter().zip(b).map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
    });
    // What is not a number stays so.
    parts.fold(0.0, |worst: f64, d| {
        if worst.is_nan() || d <= worst {
            worst
        } else {
            d
        }
    })
}

/// The largest deviation of a quantity on a backend, and the largest in shares of its tolerance.
#[derive(Clone, Copy, Default)]
struct Worst {
    deviation: f64,
    of_tolerance: f64,
}

type Table = BTreeMap<(String, &'static str), Worst>;

/// Compares all devices on a model; what is beyond its tolerance comes back.
fn compare<M: Predict<Tensor<D>>, const D: usize>(
    name: &str,
    init: M,
    shape: [usize; D],
    longest_sum: usize,
    kinks: bool,
    devices: &[(String, Device)],
    table: &mut Table,
) -> Vec<String> {
    // Differences of gradients have to step over kinks.
    let methods = methods(Maml::new().with_difference(if kinks { 0.1 } else { 0.01 }));
    let family = |dtype, noise| Random {
        shape,
        dtype,
        noise,
    };
    let exact = cast(&init, DType::F64);
    let reference = measure(&exact, &family(DType::F64, None), &methods);
    let tolerances = |roundoff: f64| {
        // Products may round their factors more than sums round their terms.
        let of_products = if roundoff > U { roundoff } else { 0.0 };
        let size = ((longest_sum as f64).sqrt() * U).hypot(of_products);
        let mut tolerances: BTreeMap<&Key, f64> = BTreeMap::new();
        for trial in 0..TRIALS {
            let rng = run_rng(trial, "rounding errors");
            let noisy = family(DType::F64, Some(Noise { size, rng }));
            let noisy = measure(&exact, &noisy, &methods);
            for (key, exact) in &reference {
                let tolerance = tolerances.entry(key).or_default();
                let trial = deviation(&noisy[key], exact);
                assert!(trial.is_finite(), "{name}, {key:?}: {trial}");
                *tolerance = tolerance.max(MARGIN * trial);
            }
        }
        if kinks {
            let all = tolerances.clone();
            for ((quantity, _), tolerance) in &mut tolerances {
                let same = all.iter().filter(|(other, _)| other.0 == *quantity);
                *tolerance = same.fold(0.0, |worst, (_, t)| worst.max(*t));
            }
        }
        let space = ParamSpace::new(&exact, &ParamGroup::all()).expect("parameters");
        let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let point = space.point(&exact).and_then(|point| point.to_vec());
        let point = norm(&point.expect("read back"));
        for (key, tolerance) in &mut tolerances {
            let times = match key.0 {
                "1 meta-step" => 1.0,
                "10 meta-steps" => META_STEPS as f64,
                _ => 0.0,
            };
            // The result is rounded too, and the initialization after each meta-step.
            *tolerance += U + times * U * point / norm(&reference[*key][0]);
        }
        tolerances
    };
    let mut by_roundoff: Vec<(f64, BTreeMap<&Key, f64>)> = Vec::new();
    let mut beyond = Vec::new();
    for (backend, device) in devices {
        let there = init.clone().fork(device);
        let results = measure(&there, &family(DType::F32, None), &methods);
        let roundoff = product_roundoff(device);
        let known = by_roundoff.iter().position(|(known, _)| *known == roundoff);
        let known = known.unwrap_or_else(|| {
            by_roundoff.push((roundoff, tolerances(roundoff)));
            by_roundoff.len() - 1
        });
        let tolerances = &by_roundoff[known].1;
        for (key, exact) in &reference {
            let (deviation, tolerance) = (deviation(&results[key], exact), tolerances[key]);
            let (quantity, method) = key;
            // A tolerance of a tenth would be no test.
            if roundoff > U && tolerance >= 0.1 {
                println!(
                    "*** NOT TESTED: {backend}, {name}, {method} {quantity}, which its rounding of products may move by \
                     {tolerance:.1e}; it is off by {deviation:.1e} ***"
                );
                continue;
            }
            if !(deviation <= tolerance && tolerance < 0.1) {
                beyond.push(format!(
                    "{backend}, {name}, {method} {quantity}: off by {deviation:.1e}, tolerance {tolerance:.1e}"
                ));
            }
            let worst = table.entry((backend.clone(), key.0)).or_default();
            worst.deviation = worst.deviation.max(deviation);
            worst.of_tolerance = worst.of_tolerance.max(deviation / tolerance);
        }
    }
    beyond
}

#[test]
fn every_backend_computes_the_same() {
    let home = Device::flex().autodiff();
    assert_eq!(product_roundoff(&home), U);
    let all = devices();
    let mut table = Table::new();

    let rng = &mut run_rng(0, "initial parameters");
    let mlp = MlpConfig::new(vec![8, 16, 16, CLASSES]).with_activation(ActivationConfig::Tanh);
    let mlp = mlp.init(&home);
    let mlp = reinitialize(mlp.expect("sound settings"), &ParamGroup::all(), rng);
    let shape = [BATCH, 8];
    let devices = &all.devices;
    let mut beyond = compare("mlp", mlp, shape, 16, false, devices, &mut table);

    let convnet = ConvNetConfig::new()
        .with_classes(CLASSES)
        .with_filters(4)
        .with_layers(2)
        .with_image_size([8, 8]);
    let shape = [BATCH, 1, 8, 8];
    for (name, config) in [
        ("convnet", convnet.clone()),
        (
            "convnet without batch-normalization",
            convnet.with_batch_norm(false).with_max_pool(false),
        ),
    ] {
        let model = config.init(&home).expect("sound settings");
        let model = reinitialize(model, &ParamGroup::all(), rng);
        // Of the gradient of a kernel's weight, over all images and pixels.
        let sum = BATCH * 8 * 8;
        beyond.extend(compare(name, model, shape, sum, true, devices, &mut table));
    }

    let net = ActorCriticConfig::new(vec![1, 8, 8], CLASSES - 1)
        .with_convolutions(vec![ConvLayer::new(4, 3).with_stride(2)])
        .with_hidden(vec![16]);
    let net = net.init(&home).expect("sound settings");
    let net = reinitialize(Acting { net }, &ParamGroup::all(), rng);
    // Of a hidden unit's features, and of a kernel's gradient over all observations and places: both 4 x 3 x 3.
    let (name, shape, sum) = ("actor-critic", [BATCH, 8 * 8], 4 * 3 * 3);
    beyond.extend(compare(name, net, shape, sum, true, devices, &mut table));

    println!(
        "largest deviation from float64, relative, and in per cent of what rounding may do:\n"
    );
    println!("| backend | device | {} |", QUANTITIES.join(" | "));
    println!("| --- | --- |{}", " --- |".repeat(QUANTITIES.len()));
    for (backend, device) in devices {
        let cells = QUANTITIES.map(|quantity| {
            let worst = table[&(backend.clone(), quantity)];
            format!(
                "{:.1e} ({:.0} %)",
                worst.deviation,
                100.0 * worst.of_tolerance
            )
        });
        let device = leap_core::describe_device(device);
        println!("| {backend} | {device} | {} |", cells.join(" | "));
    }
    assert!(beyond.is_empty(), "beyond rounding:\n{}", beyond.join("\n"));
}

/// Numbers from -1 to 1.
fn numbers(seed: u64, shape: &[usize]) -> TensorData {
    let mut rng = run_rng(seed, "numbers");
    let count: usize = shape.iter().product();
    let values = Vec::from_iter((0..count).map(|_| rng.random_range(-1.0_f32..1.0)));
    TensorData::new(values, shape.to_vec())
}

fn shown(numbers: &[f64]) -> String {
    Vec::from_iter(numbers.iter().map(|n| format!("{n:.1e}"))).join(", ")
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

/// A result, and the gradients of its inputs by its product with random numbers.
fn forward_and_backward<const D: usize>(
    inputs: &[Tensor<D>],
    operation: impl FnOnce(&[Tensor<D>]) -> Tensor<D>,
) -> Vec<Vec<f32>> {
    let inputs = Vec::from_iter(inputs.iter().map(|input| input.clone().require_grad()));
    let y = operation(&inputs);
    let weights = Tensor::<D>::from_data(numbers(9, &y.dims()), &y.device());
    let gradients = (y.clone() * weights).sum().backward();
    let of_inputs = inputs
        .iter()
        .map(|input| values(&input.grad(&gradients).expect("a gradient")));
    std::iter::once(values(&y)).chain(of_inputs).collect()
}

/// What the paper's convnet is made of, at its own width, where a GPU has several kernels to choose from: each device
/// computes what flex computes. Where a GPU is played by software, which takes minutes to compile kernels, some
/// shapes are left out, and said to be.
#[test]
fn operations_at_full_width_on_every_device() {
    let devices = leap_tests::devices();
    let every_device = |what: String, gpus_only: bool, run: &dyn Fn(&Device) -> Vec<Vec<f32>>| {
        let expected = run(&Device::flex().autodiff());
        for (name, device) in &devices.devices {
            if gpus_only && is_software(device) {
                println!("{what} on {name}: left out, since it is software");
                continue;
            }
            // The kernels may be others once they were compared.
            for _ in 0..2 {
                let found = run(device);
                let apart = Vec::from_iter(found.iter().zip(&expected).map(|(a, b)| apart(a, b)));
                println!(
                    "{what} on {name}: result and gradients {} apart",
                    shown(&apart)
                );
                let tolerance = (2.0 * product_roundoff(device)).max(1e-5);
                assert!(
                    apart.iter().all(|apart| *apart < tolerance),
                    "{what} on {name}: {}",
                    shown(&apart)
                );
            }
        }
    };
    let random = |seed, shape: [usize; 4], device: &Device| {
        Tensor::<4>::from_data(numbers(seed, &shape), device)
    };
    for tasks in [1, 3] {
        for (channels, size) in [(1, 28), (64, 14), (64, 7), (64, 3)] {
            let gpus_only = size != 7;
            every_device(
                format!("a convolution of {tasks} x {channels} channels, {size} x {size}"),
                gpus_only,
                &|device| {
                    let x = random(1, [20, channels * tasks, size, size], device);
                    let w = random(2, [64 * tasks, channels, 3, 3], device);
                    forward_and_backward(&[x, w], |inputs| {
                        let options = ConvOptions::new([1, 1], [1, 1], [1, 1], tasks);
                        conv2d(inputs[0].clone(), inputs[1].clone(), None, options)
                    })
                },
            );
            every_device(
                format!("pooling of {tasks} x 64 channels, {size} x {size}"),
                gpus_only,
                &|device| {
                    let x = random(1, [20, 64 * tasks, size, size], device);
                    forward_and_backward(&[x], |x| {
                        max_pool2d(x[0].clone(), MaxPoolOptions::new([2, 2]))
                    })
                },
            );
        }
        for (rows, columns) in [(20, 64), (20, 576), (400, 64)] {
            every_device(
                format!("{tasks} products of {rows} x {columns}"),
                rows != 400,
                &|device| {
                    let x = random(1, [1, tasks, rows, columns], device);
                    let w = random(2, [1, tasks, columns, 20], device);
                    forward_and_backward(&[x, w], |inputs| {
                        inputs[0].clone().matmul(inputs[1].clone())
                    })
                },
            );
        }
    }
}
