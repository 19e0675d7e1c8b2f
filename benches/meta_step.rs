//! The Omniglot meta-step as `examples/omniglot` runs it, data and Leap included: prints task steps a second over the
//! whole machine, and the peak memory in MiB.
//!
//! ```text
//! cargo bench --profile dev --bench meta_step -- [DEVICE] [LANES] [TASK_STEPS] [SECONDS]
//! ```

use std::time::Instant;

use leap_core::{Lanes, Leap, MetaTrainer};
use leap_models::ConvNetConfig;
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

fn main() {
    let arg = leap_tests::arguments();
    let number = |i: usize, default: &str| arg(i, default).parse::<usize>().expect("a number");
    let device = leap_core::device(&arg(0, "flex")).expect("a device of this build");
    let (count, steps, seconds) = (number(1, "2"), number(2, "100"), number(3, "6"));
    let lanes = Lanes::threads(&device, count).expect("lanes");

    let init = ConvNetConfig::new()
        .init(&device.autodiff())
        .expect("sound settings");
    let data = Omniglot::bundled().expect("sound data");
    let tasks = OmniglotTasksConfig::new()
        .with_held_out(0)
        .init(data)
        .expect("sound settings");
    let trainer = |steps| {
        MetaTrainer::new(Leap::new())
            .with_meta_batch_size(count)
            .with_task_steps(steps)
    };
    let mut warm_up = trainer(2).begin(init.clone()).expect("sound settings");
    warm_up.step(&tasks.train, &lanes).expect("a meta-step");

    let mut run = trainer(steps).begin(init).expect("sound settings");
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds as f64 {
        run.step(&tasks.train, &lanes).expect("a meta-step");
    }
    let done = run.meta_step() * count * steps;
    let rate = done as f64 / start.elapsed().as_secs_f64();
    println!("{rate} {}", leap_tests::peak_memory());
}
