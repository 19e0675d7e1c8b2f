//! Small control problems and a game of few pixels: environments of a family are meta-trained on, and others of the same
//! family are learned from the initialization and from scratch, by advantage actor-critic.
//!
//! ```text
//! cargo run --example control
//! cargo run --example control -- --family catch --seeds 1,2,3
//! ```

use std::process::ExitCode;

use anyhow::{Result, ensure};
use burn::nn::activation::ActivationConfig;
use clap::{Parser, ValueEnum};
use leap_core::Leap;
use leap_examples::{Acting, ActingArgs, Budget, Heads, Optimizer, end};
use leap_models::{ActorCriticConfig, ConvLayer};
use leap_tasks::rl::{Acrobots, CartPoles, Catches, MountainCars};

/// Meta-learning of control: each task is an environment with its own physics, or its own looks.
#[derive(Parser)]
struct Args {
    /// Environments
    #[arg(long, value_enum, default_value_t = Family::CartPole)]
    family: Family,
    /// Environments held out for the test
    #[arg(long, default_value_t = 5)]
    held_out: usize,
    #[command(flatten)]
    acting: ActingArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Family {
    /// A pole to be kept upright on a cart
    CartPole,
    /// Two links to be swung up
    Acrobot,
    /// A car that has to build up speed to climb a hill
    MountainCar,
    /// A ball to be caught, on a screen
    Catch,
}

/// Held-out environments are drawn from another seed than those to meta-train on.
const TRAIN: u64 = 0;
const HELD_OUT: u64 = 1;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    ensure!(args.held_out > 0, "--held-out must be at least 1");
    let mlp = |features, actions| {
        ActorCriticConfig::new(vec![features], actions).with_activation(ActivationConfig::Tanh)
    };
    let budget = Budget {
        method: Leap::new().into(),
        heads: Heads::Shared,
        task_optimizer: Optimizer::RmsProp,
        meta_steps: 60,
        meta_batch: 8,
        env_steps: 60_000,
        envs: 16,
        task_lr: 3e-3,
        meta_lr: 1e-2,
        target: None,
        checkpoint_env_steps: 20_000,
    };
    /// One experiment for each family, which are of different types.
    macro_rules! experiment {
        ($family:ty, $title:literal, $model:expr, $budget:expr, $frame:literal) => {{
            let held_out = <$family>::new()
                .with_environments(args.held_out)
                .with_seed(HELD_OUT);
            let experiment = Acting {
                title: $title.into(),
                train: <$family>::new().with_seed(TRAIN),
                shown: held_out.clone(),
                held_out,
                model: $model,
                budget: $budget,
                frame: $frame,
            };
            let name = args
                .family
                .to_possible_value()
                .expect("no family is hidden");
            experiment.run(&args.acting, &format!("runs/{}", name.get_name()))
        }};
    }
    match args.family {
        Family::CartPole => experiment!(
            CartPoles,
            "Carts and poles",
            mlp(4, 2),
            Budget {
                target: Some(195.0),
                ..budget
            },
            20
        ),
        Family::Acrobot => experiment!(
            Acrobots,
            "Acrobots",
            mlp(6, 3),
            Budget {
                target: Some(-150.0),
                ..budget
            },
            60
        ),
        Family::MountainCar => experiment!(
            MountainCars,
            "Cars in a valley",
            mlp(2, 3),
            Budget {
                target: Some(-150.0),
                ..budget
            },
            30
        ),
        Family::Catch => experiment!(
            Catches,
            "Catch",
            ActorCriticConfig::new(vec![1, 10, 10], 3)
                .with_convolutions(vec![
                    ConvLayer::new(8, 3),
                    ConvLayer::new(16, 3).with_stride(2),
                ])
                .with_hidden(vec![64]),
            // Left and right may be exchanged, so that a policy is the task's own.
            Budget {
                heads: Heads::Own,
                task_optimizer: Optimizer::Adam,
                meta_steps: 20,
                env_steps: 100_000,
                envs: 8,
                task_lr: 1e-3,
                meta_lr: 5e-3,
                target: Some(0.8),
                ..budget
            },
            120
        ),
    }
}
