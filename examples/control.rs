//! Small control problems and a game of few pixels: environments of a family are meta-trained on, and others of the same
//! family are learned from the initialization and from scratch, by advantage actor-critic.
//!
//! ```text
//! cargo run --example control
//! cargo run --example control -- --family catch --seeds 1,2,3
//! ```

use std::process::ExitCode;

use anyhow::Result;
use burn::module::ParamGroup;
use burn::nn::activation::ActivationConfig;
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use leap_core::{InnerLoop, MetaTrainer, Method, TaskError};
use leap_lab::{
    Experiment, Run, RunOptions, Sweep, animate, end, finite, interruption, not_negative, positive,
    share, show_log, up_to,
};
use leap_models::{ActorCriticConfig, ActorCriticNet, ConvLayer};
use leap_tasks::rl::{
    A2cConfig, A2cTasks, Acrobots, CartPoles, Catches, EnvFamily, MountainCars, Picture, Render,
};
use serde::Serialize;
use serde_json::{Value, json};

/// Meta-learning of control: each task is an environment with its own physics, or its own looks.
#[derive(Clone, Parser)]
#[command(args_override_self = true, allow_negative_numbers = true)]
struct Args {
    /// Environments
    #[arg(long, value_enum, default_value_t = Family::CartPole)]
    family: Family,
    /// Environments held out for the test
    #[arg(long, default_value_t = 5, value_parser = up_to::<1_000_000>)]
    held_out: usize,
    /// Seeds of all that is random
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Meta-learners: leap, leap-energy, reptile, fomaml. Learning from scratch is always there
    #[arg(long, alias = "method", value_delimiter = ',', default_value = "leap", value_parser = known)]
    methods: Vec<Method>,
    /// Meta-steps; without any, held-out environments are learned from scratch alone
    #[arg(long, default_value = "60", default_value_if("family", "catch", "20"), value_parser = not_negative::<usize>)]
    meta_steps: usize,
    /// Environments in a meta-batch
    #[arg(long, default_value_t = 8, value_parser = up_to::<1_000_000>)]
    meta_batch: usize,
    /// Environment steps that an environment is learned for
    #[arg(
        long,
        default_value = "60000",
        default_value_if("family", "catch", "100000")
    , value_parser = positive::<usize>)]
    env_steps: usize,
    /// Environment steps that a held-out environment is learned for [default: as many]
    #[arg(long, value_parser = positive::<usize>)]
    held_out_env_steps: Option<usize>,
    /// Copies of an environment side by side
    #[arg(long, default_value = "16", default_value_if("family", "catch", "8"), value_parser = up_to::<1_000_000>)]
    envs: usize,
    /// Steps in each copy before the model is trained on them
    #[arg(long, default_value_t = 5, value_parser = up_to::<1_000_000>)]
    unroll: usize,
    /// What a reward counts a step later
    #[arg(long, default_value_t = 0.99, value_parser = share)]
    discount: f64,
    /// Weight of the policy's entropy
    #[arg(long, default_value_t = 0.01, value_parser = not_negative::<f64>)]
    entropy: f64,
    /// Weight of the value's squared error
    #[arg(long, default_value_t = 0.5, value_parser = not_negative::<f64>)]
    value_loss: f64,
    /// Rewards that are learned from are cut off at ± this
    #[arg(long, default_value_t = 5.0, value_parser = positive::<f64>)]
    reward_clip: f64,
    /// Optimizer of the tasks
    #[arg(
        long,
        value_enum,
        default_value = "rms-prop",
        default_value_if("family", "catch", "adam")
    )]
    task_optimizer: Optimizer,
    /// Learning rate of the tasks
    #[arg(
        long,
        default_value = "3e-3",
        default_value_if("family", "catch", "1e-3")
    , value_parser = positive::<f64>)]
    task_lr: f64,
    /// Optimizer of meta-training
    #[arg(long, value_enum, default_value_t = Optimizer::Adam)]
    meta_optimizer: Optimizer,
    /// Learning rate of meta-training
    #[arg(
        long,
        default_value = "1e-2",
        default_value_if("family", "catch", "5e-3")
    , value_parser = positive::<f64>)]
    meta_lr: f64,
    /// Whether policy and value are meta-learned with the encoder, or each task's own, drawn anew (in catch, left and right
    /// may be exchanged, so that a policy is the task's own)
    #[arg(
        long,
        value_enum,
        default_value = "shared",
        default_value_if("family", "catch", "own")
    )]
    heads: Heads,
    /// A score that counts as learned: how many steps it takes is reported
    #[arg(
        long, allow_negative_numbers = true, default_value = "195",
        default_value_ifs([("family", "catch", "0.8"), ("family", "acrobot", "-150"), ("family", "mountain-car", "-150")]),
        value_parser = finite::<f64>
    )]
    target: f64,
    /// Save within a task after every so many environment steps
    #[arg(long, default_value_t = 20_000, value_parser = positive::<usize>)]
    checkpoint_env_steps: usize,
    #[command(flatten)]
    options: RunOptions,
}

/// A meta-learner that learns from environments, by its name.
fn known(name: &str) -> Result<Method, String> {
    let method: Method = name.parse().map_err(|e: leap_core::Error| e.to_string())?;
    match method.learns_by_acting() {
        true => Ok(method),
        false => {
            Err("leap, reptile, fomaml and none learn from environments, and it does not".into())
        }
    }
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

#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
enum Heads {
    Shared,
    Own,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
enum Optimizer {
    Sgd,
    Adam,
    RmsProp,
}

impl Optimizer {
    fn init(self) -> ModuleOptimizer {
        match self {
            Self::Sgd => SgdConfig::new().init(),
            Self::Adam => AdamConfig::new().init(),
            Self::RmsProp => A2cConfig::optimizer().0,
        }
    }
}

/// Held-out environments are drawn from another seed than those to meta-train on.
const TRAIN: u64 = 0;
const HELD_OUT: u64 = 1;

fn main() -> ExitCode {
    show_log();
    end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mlp = |features, actions| {
        ActorCriticConfig::new(vec![features], actions).with_activation(ActivationConfig::Tanh)
    };
    let catch = ActorCriticConfig::new(vec![1, 10, 10], 3)
        .with_convolutions(vec![
            ConvLayer::new(8, 3),
            ConvLayer::new(16, 3).with_stride(2),
        ])
        .with_hidden(vec![64]);
    /// Its environments to meta-train on, and those that are held out.
    macro_rules! family {
        ($family:ty) => {{
            let held_out = <$family>::new().with_environments(args.held_out);
            (
                <$family>::new().with_seed(TRAIN),
                held_out.with_seed(HELD_OUT),
            )
        }};
    }
    // Title, where the results go, and for how long a picture of a recorded episode is shown, in milliseconds.
    match args.family {
        Family::CartPole => learn(
            args,
            family!(CartPoles),
            mlp(4, 2),
            ("Carts and poles", "cart-pole", 20),
        ),
        Family::Acrobot => learn(
            args,
            family!(Acrobots),
            mlp(6, 3),
            ("Acrobots", "acrobot", 60),
        ),
        Family::MountainCar => {
            let names = ("Cars in a valley", "mountain-car", 30);
            learn(args, family!(MountainCars), mlp(2, 3), names)
        }
        Family::Catch => learn(args, family!(Catches), catch, ("Catch", "catch", 120)),
    }
}

fn learn<F: EnvFamily<Env: Render> + Clone>(
    args: &Args,
    (train, held_out): (F, F),
    model: ActorCriticConfig,
    (title, name, milliseconds): (&str, &str, u64),
) -> Result<()> {
    let a2c = A2cConfig::new()
        .with_envs(args.envs)
        .with_unroll(args.unroll)
        .with_discount(args.discount)
        .with_entropy(args.entropy)
        .with_value_loss(args.value_loss)
        .with_reward_clip(Some(args.reward_clip));
    let steps = |env_steps: usize| (env_steps / a2c.env_steps()).max(2);
    let experiment = Control {
        args: args.clone(),
        task_steps: steps(args.env_steps),
        held_out_steps: steps(args.held_out_env_steps.unwrap_or(args.env_steps)),
        model,
        a2c: a2c.clone(),
        train,
        held_out,
        milliseconds,
    };
    Sweep::new(title, format!("runs/{name}"))
        .with_methods(&args.methods)
        .with_seeds(args.seeds.iter().copied())
        .with_meta_steps(args.meta_steps)
        .with_checkpoint_every(1)
        .with_task_checkpoints(steps(args.checkpoint_env_steps))
        .with_path_pictures(0)
        .with_models()
        .with_target(Some(args.target))
        .with_options(args.options.clone())
        .with_stop(interruption()?)
        .run(&experiment)?;
    Ok(())
}

struct Control<F> {
    args: Args,
    model: ActorCriticConfig,
    a2c: A2cConfig,
    task_steps: usize,
    held_out_steps: usize,
    train: F,
    held_out: F,
    milliseconds: u64,
}

impl<F: EnvFamily<Env: Render> + Clone> Experiment for Control<F> {
    type Model = ActorCriticNet;
    type Learner = Method;
    type Train = A2cTasks<F>;
    type HeldOut = A2cTasks<F>;

    fn settings(&self) -> Value {
        let names = |family: &F| Vec::from_iter((0..family.len().min(30)).map(|i| family.name(i)));
        json!({
            "train": names(&self.train),
            "held_out": names(&self.held_out),
            "environments": self.train.len(),
            "held_out_environments": self.held_out.len(),
            "meta_batch": self.args.meta_batch,
            "task_steps": self.task_steps,
            "held_out_steps": self.held_out_steps,
            "a2c": self.a2c,
            "task_optimizer": self.args.task_optimizer,
            "task_lr": self.args.task_lr,
            "meta_optimizer": self.args.meta_optimizer,
            "meta_lr": self.args.meta_lr,
            "heads": self.args.heads,
            "model": self.model,
        })
    }

    fn model(&self, _run: &Run, device: &Device) -> Result<ActorCriticNet, TaskError> {
        Ok(self.model.init(device)?)
    }

    fn train(&self, _run: &Run) -> Result<A2cTasks<F>, TaskError> {
        Ok(self.a2c.tasks(self.train.clone()))
    }

    fn held_out(&self, _run: &Run) -> Result<A2cTasks<F>, TaskError> {
        Ok(self.a2c.tasks(self.held_out.clone()))
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Method>, TaskError> {
        let training =
            |steps| InnerLoop::new(steps, self.args.task_optimizer.init(), self.args.task_lr);
        Ok(MetaTrainer::new(run.method()?)
            .with_meta_batch_size(self.args.meta_batch)
            .with_task_training(training(self.task_steps))
            .with_held_out_training(training(self.held_out_steps))
            .with_meta_optimizer(self.args.meta_optimizer.init(), self.args.meta_lr)
            .with_shared(match self.args.heads {
                Heads::Shared => ParamGroup::all(),
                Heads::Own => ParamGroup::from_predicate("encoder"),
            }))
    }

    fn record(&self, run: &Run, model: &ActorCriticNet) -> Result<Option<Vec<u8>>, TaskError> {
        let (pictures, _) = self.held_out(run)?.record(model, 0, 500, run.seed)?;
        let pictures: Result<Vec<_>, _> = pictures.iter().map(Picture::rasterize).collect();
        Ok(Some(animate(pictures?, self.milliseconds)?))
    }

    fn unit(&self) -> (String, usize) {
        ("environment steps".into(), self.a2c.env_steps())
    }
}
