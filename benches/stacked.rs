//! Tasks that are trained at once against tasks one by one, on the Omniglot convnet: task steps a second, and the bytes that
//! are predicted and those that the device reserved. The first meta-step compiles and tunes, and is timed apart. Then how far
//! the meta-gradients are apart, on a GPU the kernels that are launched in a task step (in a loop written by hand, one by
//! one, at once, and at once without Leap), and how often numbers are read back for a task. Without Burn's fusion, launches
//! are counted where `BURN_FUSION_MAX_EXPLORATIONS=0` is set.
//!
//! ```text
//! cargo bench --profile dev --bench stacked -- [DEVICE] [TASKS,…] [FILTERS] [TASK_STEPS] [META_STEPS]
//! ```

use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::Device;
use leap_core::{
    InnerLoop, Lanes, Leap, Learned, MetaLearner, MetaTrainer, ParamSpace, Task, TaskError, TaskSet,
};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::omniglot::{Omniglot, OmniglotSplits, OmniglotTasksConfig};
use leap_tests::{Launches, ReadBacks, floats};

struct Measured {
    /// Task steps a second, of the fastest meta-step.
    speed: f64,
    predicted: Option<u64>,
    used: Option<u64>,
    /// Seconds of the first meta-step.
    begin: f64,
    first: Vec<f32>,
}

fn main() {
    let arg = leap_tests::arguments();
    let number = |i: usize, default: &str| arg(i, default).parse::<usize>().expect("a number");
    let device = leap_core::device(&arg(0, "flex")).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(1)
    });
    let counts = arg(1, "1,5,20");
    let counts = counts
        .split(',')
        .map(|n| n.parse::<usize>().expect("a number"));
    let counts = Vec::from_iter(counts);
    let (filters, steps, meta_steps) = (number(2, "64"), number(3, "10"), number(4, "3"));
    let config = ConvNetConfig::new().with_filters(filters);
    let init = config
        .init(&device.clone().autodiff())
        .expect("sound settings");
    let data = Omniglot::bundled().expect("sound data");
    let tasks = OmniglotTasksConfig::new()
        .with_held_out(0)
        .init(data)
        .expect("sound settings");

    println!("{}", leap_core::describe_device(&device));
    let mib =
        |bytes: Option<u64>| bytes.map_or("–".into(), |b| format!("{:.0}", b as f64 / 1048576.0));
    println!(
        "| tasks | at once, steps/s | one by one | ratio | predicted MiB | reserved MiB | first meta-step, s |"
    );
    println!("|{}", " --- |".repeat(7));
    for count in counts.iter().copied() {
        let at_once = measure(&device, &init, &tasks, [count, count], steps, meta_steps);
        let alone = measure(&device, &init, &tasks, [count, 1], steps, 1);
        println!(
            "| {count} | {:.1} | {:.1} | {:.2} | {} | {} | {:.1} |",
            at_once.speed,
            alone.speed,
            at_once.speed / alone.speed,
            mib(at_once.predicted.map(|bytes| bytes * count as u64)),
            mib(at_once.used),
            at_once.begin,
        );
    }

    println!();
    println!(
        "| tasks | apart | launches by hand | one by one | at once | without Leap | read-backs a task |"
    );
    println!("|{}", " --- |".repeat(7));
    for count in counts {
        // After two steps of a task. Training at the paper's learning rate multiplies any difference, rounding too.
        let [one, other] =
            [1, count].map(|at_once| measure(&device, &init, &tasks, [count, at_once], 2, 0).first);
        let pairs = other.iter().zip(&one);
        let start = floats(&init);
        let moved = one.iter().zip(&start);
        let norm = |pairs: &mut dyn Iterator<Item = (&f32, &f32)>| {
            pairs
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let apart = norm(&mut { pairs }) / norm(&mut { moved });
        println!(
            "| {count} | {apart:.1e} | {} | {} | {} | {} | {:.1} |",
            by_hand(&device, &init, &tasks),
            launches(Leap::new(), &device, &init, &tasks, [count, 1]),
            launches(Leap::new(), &device, &init, &tasks, [count, count]),
            launches(Plain, &device, &init, &tasks, [count, count]),
            read_backs(&device, &init, &tasks, count),
        );
    }
}

/// Training without meta-learning.
#[derive(Clone, Debug)]
struct Plain;

impl<M: Module> MetaLearner<M> for Plain {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        let start = space.point(&model)?;
        let (model, curve) = inner.run(model, task, &mut ())?;
        Ok(Learned {
            gradient: start - space.point(&model)?,
            model,
            curve,
            figures: None,
        })
    }

    fn stacks(&self) -> bool {
        true
    }
}

/// Kernels of a task step: what a meta-step of tasks of 4 steps has more than one of 2.
fn launches<L: MetaLearner<ConvNet>>(
    learner: L,
    device: &Device,
    init: &ConvNet,
    tasks: &OmniglotSplits,
    [count, at_once]: [usize; 2],
) -> String {
    let counts = [2, 4].map(|steps| {
        let trainer = MetaTrainer::new(learner.clone())
            .with_task_steps(steps)
            .with_task_batch(at_once);
        second_step(trainer, device, init, tasks, count, |step| {
            let launches = Launches::new();
            step();
            launches.count()
        })
    });
    of_a_step(counts, count)
}

/// What is counted in the second meta-step; the first compares, compiles and tunes.
fn second_step<L: MetaLearner<ConvNet>>(
    trainer: MetaTrainer<L>,
    device: &Device,
    init: &ConvNet,
    tasks: &OmniglotSplits,
    count: usize,
    counted: impl FnOnce(&mut dyn FnMut()) -> usize,
) -> usize {
    let lanes = Lanes::single(device);
    let trainer = trainer.with_meta_batch_size(count);
    let mut run = trainer.begin(init.clone()).expect("sound settings");
    let mut step = || drop(run.step(&tasks.train, &lanes).expect("a meta-step"));
    step();
    counted(&mut step)
}

/// What is counted in a step of one of `count` tasks, from the counts of tasks of 2 steps and of 4.
fn of_a_step([few, many]: [usize; 2], count: usize) -> String {
    match many {
        0 => "–".into(),
        _ => format!("{:.1}", (many as f64 - few as f64) / (2 * count) as f64),
    }
}

/// Kernels of a step of the loop that a user of Burn writes.
fn by_hand(device: &Device, init: &ConvNet, tasks: &OmniglotSplits) -> String {
    let device = device.clone().autodiff();
    let counts = [2, 4].map(|steps| {
        let context = leap_tests::context(&device, steps);
        let mut task = TaskSet::<ConvNet>::task(&tasks.train, 0, &context).expect("a task");
        let mut optimizer = SgdConfig::new().init();
        let mut model = init.clone();
        let launches = Launches::new();
        for _ in 0..steps {
            let loss = task.loss(&model).expect("a loss").loss;
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(0.1, model, grads);
        }
        drop(floats(&model));
        launches.count()
    });
    of_a_step(counts, 1)
}

/// How often numbers are read back for a task of 10 steps.
fn read_backs(device: &Device, init: &ConvNet, tasks: &OmniglotSplits, count: usize) -> f64 {
    let trainer = MetaTrainer::new(Leap::new())
        .with_task_steps(10)
        .with_task_batch(count);
    let counted = second_step(trainer, device, init, tasks, count, |step| {
        let read = ReadBacks::new(device);
        step();
        read.count()
    });
    counted as f64 / count as f64
}

fn measure(
    device: &Device,
    init: &ConvNet,
    tasks: &OmniglotSplits,
    [count, at_once]: [usize; 2],
    steps: usize,
    meta_steps: usize,
) -> Measured {
    device.memory_cleanup();
    let lanes = Lanes::single(device);
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(count)
        .with_task_steps(steps)
        .with_task_batch(at_once);
    let mut run = trainer.begin(init.clone()).expect("sound settings");
    // Kernels are compiled and tuned at their first use.
    let start = Instant::now();
    run.step(&tasks.train, &lanes).expect("a meta-step");
    let begin = start.elapsed().as_secs_f64();
    let first = floats(run.init());
    let mut best = f64::INFINITY;
    for _ in 0..meta_steps {
        let start = Instant::now();
        run.step(&tasks.train, &lanes).expect("a meta-step");
        let seconds = start.elapsed().as_secs_f64();
        let speed = (count * steps) as f64 / seconds;
        eprintln!("{count} tasks, {at_once} at once: {speed:.1} steps/s");
        best = best.min(seconds);
    }
    let used = device.memory_pool_usage();
    Measured {
        speed: (count * steps) as f64 / best,
        predicted: run.task_bytes(),
        used: used.map(|used| used.bytes_reserved),
        begin,
        first,
    }
}
