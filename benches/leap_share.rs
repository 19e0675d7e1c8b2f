//! What Leap adds to a training step of the Omniglot convnet, on one thread: the same loop with and without
//! it, in turns, so that a noisy machine disturbs both alike.
//!
//! ```text
//! cargo bench --profile dev --bench leap_share
//! ```

use std::time::Instant;

use burn::module::ParamGroup;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::Device;
use leap_core::{Leap, LearningPath, ParamSpace, Task, TaskSet, task_copy};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

const PAIRS: usize = 101;
const STEPS: usize = 4;

fn main() {
    // One thread, as in a lane.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread");
    pool.install(|| {
        let device = Device::flex().autodiff();
        let init = ConvNetConfig::new().init(&device).expect("sound settings");
        let data = Omniglot::bundled().expect("sound data");
        let tasks = OmniglotTasksConfig::new()
            .init(data)
            .expect("sound settings")
            .train;
        let context = leap_tests::context(&device, STEPS);
        let space = ParamSpace::new(&init, &ParamGroup::all()).expect("trainable");

        let mut recording = Vec::new();
        // Seconds a step.
        let mut run = |with_leap: bool| {
            let mut task = TaskSet::<ConvNet>::task(&tasks, 0, &context).expect("a task");
            let mut model = task_copy(&init);
            let mut optimizer = SgdConfig::new().init();
            let mut path = with_leap.then(|| Leap::new().path(&space));
            let start = Instant::now();
            for _ in 0..STEPS {
                let loss = task.loss(&model).expect("a batch").loss;
                let grads = GradientsParams::from_grads(loss.backward(), &model);
                if let Some(path) = &mut path {
                    let start = Instant::now();
                    path.record(&model, &loss, &grads)
                        .expect("the same parameters");
                    recording.push(start.elapsed().as_secs_f64());
                }
                model = optimizer.step(0.1, model, grads);
            }
            start.elapsed().as_secs_f64() / STEPS as f64
        };
        run(true);
        let mut pairs: Vec<(f64, f64)> = (0..PAIRS)
            .map(|i| match i % 2 {
                0 => (run(false), run(true)),
                _ => {
                    let with = run(true);
                    (run(false), with)
                }
            })
            .collect();
        pairs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let share = |(without, with): (f64, f64)| 100.0 * (with / without - 1.0);
        let (without, with) = pairs[PAIRS / 2];
        println!(
            "a step without Leap {:.2} ms, with Leap {:.2} ms",
            1e3 * without,
            1e3 * with
        );
        println!(
            "Leap's share: {:.2} % (median of {PAIRS} pairs; quartiles {:.2} and {:.2} %)",
            share(pairs[PAIRS / 2]),
            share(pairs[PAIRS / 4]),
            share(pairs[3 * PAIRS / 4])
        );
        recording.sort_by(f64::total_cmp);
        let alone = recording[recording.len() / 2];
        println!(
            "recording alone {:.2} ms a step: {:.2} %",
            1e3 * alone,
            100.0 * alone / without
        );
    });
}
