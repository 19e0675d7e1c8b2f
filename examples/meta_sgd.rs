//! Learning rates that are learned together with the initialization: one for each parameter, as Meta-SGD has them
//! (Li, Zhou, Chen, Li, [arXiv 1707.09835](https://arxiv.org/abs/1707.09835)), for each tensor, or for each tensor and step.
//! Compared with Leap on sinusoids:
//!
//! ```text
//! cargo run --example meta_sgd
//! ```

use burn::module::ParamGroup;
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::Device;
use clap::Parser;
use leap_core::{
    Lanes, Leap, LearnedRates, MetaTrainer, RateOf, Rated, Summary, reinitialize, run_rng,
};
use leap_lab::{not_negative, say};
use leap_models::MlpConfig;
use leap_tasks::Sinusoids;

/// Training steps of a task.
const STEPS: usize = 50;

/// Compares Leap with and without learned rates on 50 held-out sinusoids, a seed at a time.
#[derive(Parser)]
struct Args {
    /// Number of seeds
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    #[arg(long, default_value_t = 200, value_parser = not_negative::<usize>)]
    meta_steps: usize,
    /// What has a learning rate of its own: each parameter, each tensor of them, or each tensor at each step
    #[arg(long, default_value_t = RateOf::Parameter, value_name = "parameter|tensor|step")]
    rates: RateOf,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let device = Device::flex().autodiff();
    let lanes = Lanes::threads(&device, 2)?;
    for seed in 0..args.seeds {
        let net = MlpConfig::new(vec![1, 40, 40, 1]).init(&device)?;
        let rng = &mut run_rng(seed, "initial parameters");
        let net = reinitialize(net, &ParamGroup::all(), rng);
        let rated = Rated::new(net.clone(), args.rates, STEPS)?;
        let held_out = Sinusoids::new().with_tasks(50).with_seed(1000 + seed);

        let trainer = trainer(Leap::new(), seed);
        let init = trainer.fit(net, args.meta_steps, &Sinusoids::new(), &lanes)?;
        let plain = trainer.evaluate(&init, &held_out, &lanes)?.summary();

        let trainer = self::trainer(LearnedRates::new(args.rates), seed);
        let init = trainer.fit(rated, args.meta_steps, &Sinusoids::new(), &lanes)?;
        let learned = trainer.evaluate(&init, &held_out, &lanes)?.summary();
        let rates = init.log_rates.val().exp();
        let range = [rates.clone().min(), rates.max()].map(|rate| rate.into_scalar::<f32>());

        let error = |s: &Summary| s.held_out_loss.unwrap_or(f64::NAN);
        say(&format!(
            "seed {seed}: AUC {:.4} with Leap, {:.4} with learned rates; error at the end {:.4}, {:.4}; rates times {:.2} to {:.2}",
            plain.auc,
            learned.auc,
            error(&plain),
            error(&learned),
            range[0],
            range[1]
        ));
    }
    Ok(())
}

fn trainer<L: Clone>(learner: L, seed: u64) -> MetaTrainer<L> {
    MetaTrainer::new(learner)
        .with_seed(seed)
        .with_meta_batch_size(10)
        .with_task_steps(STEPS)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
        .with_meta_optimizer(AdamConfig::new().init(), 0.01)
}
