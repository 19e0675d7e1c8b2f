//! Leap in seconds: sinusoids of any amplitude and phase, learned from a meta-trained initialization and
//! from scratch.
//!
//! ```text
//! cargo run --example sinusoid
//! ```

use burn::module::ParamGroup;
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::Device;
use leap_core::{Lanes, Leap, MetaTrainer, reinitialize, run_rng};
use leap_lab::say;
use leap_models::MlpConfig;
use leap_tasks::Sinusoids;

const SEED: u64 = 0;
const META_STEPS: usize = 200;
const META_BATCH: usize = 10;
const TASK_STEPS: usize = 50;
const TASK_LR: f64 = 0.01;
const META_LR: f64 = 0.01;

fn main() -> anyhow::Result<()> {
    let device = Device::flex().autodiff();
    let lanes = Lanes::threads(&device, 2)?;
    let model = MlpConfig::new(vec![1, 40, 40, 1]).init(&device)?;
    let scratch = reinitialize(
        model,
        &ParamGroup::all(),
        &mut run_rng(SEED, "initial parameters"),
    );
    let train = Sinusoids::new();
    let held_out = Sinusoids::new().with_tasks(20).with_seed(1);

    let trainer = MetaTrainer::new(Leap::new())
        .with_seed(SEED)
        .with_meta_batch_size(META_BATCH)
        .with_task_steps(TASK_STEPS)
        .with_task_optimizer(SgdConfig::new().init(), TASK_LR)
        .with_meta_optimizer(AdamConfig::new().init(), META_LR);
    let mut run = trainer.begin(scratch.clone())?;
    while run.meta_step() < META_STEPS {
        let summary = run.step(&train, &lanes)?.summary();
        if run.meta_step() % 20 == 0 {
            say(&format!(
                "meta-step {:3}: loss over the steps {:.3}, path length {:.2}",
                run.meta_step(),
                summary.loss,
                summary.path_length.unwrap_or(f64::NAN)
            ));
        }
    }

    say(&format!(
        "\n{} held-out sinusoids, mean squared error:",
        held_out.tasks
    ));
    say(&format!(
        "{:>14} {:>8} {:>8} {:>8} {:>10}",
        "from", "step 1", "step 10", "AUC", "at the end"
    ));
    for (name, init) in [("scratch", &scratch), ("Leap", run.init())] {
        let report = trainer.evaluate(init, &held_out, &lanes)?;
        let (curve, summary) = (report.curve(), report.summary());
        let end = summary.held_out_loss.unwrap_or(f64::NAN);
        say(&format!(
            "{name:>14} {:8.3} {:8.3} {:8.3} {end:10.3}",
            curve.loss[0], curve.loss[9], summary.auc
        ));
    }
    Ok(())
}
