//! Atari: games of the Arcade Learning Environment are meta-trained on, and others are learned from the initialization and
//! from scratch, by advantage actor-critic, as in section 4.3 of the Leap paper.
//!
//! ```text
//! cargo run --example atari --features atari -- --setup
//! cargo run --example atari --features atari -- --games pong,breakout --held-out space_invaders
//! ```

use std::process::ExitCode;

use anyhow::{Result, anyhow, ensure};
use burn::module::ParamGroup;
use burn::optim::AdamConfig;
use burn::tensor::Device;
use clap::Parser;
use leap_core::{InnerLoop, MetaTrainer, Method, TaskError};
use leap_lab::{
    Experiment, Run, RunOptions, Sweep, animate, end, finite, interruption, not_negative, positive,
    say, share, show_log, up_to,
};
use leap_models::{ActorCriticConfig, ActorCriticNet};
use leap_tasks::rl::atari::{AtariConfig, AtariGames, HELD_OUT, set_up, virtual_environment};
use leap_tasks::rl::{A2cConfig, A2cTasks, EnvFamily, Picture};
use serde_json::{Value, json};

/// Meta-learning on Atari: each task is a game. The defaults are the paper's, but for its 16 games a meta-batch, its 5 million
/// steps a game and its 100 meta-steps, which are weeks of training.
#[derive(Clone, Parser)]
#[command(args_override_self = true, allow_negative_numbers = true)]
struct Args {
    /// Set up the virtual environment with the Arcade Learning Environment (`$VIRTUAL_ENV`, or else .venv), and end
    #[arg(long)]
    setup: bool,
    /// List the games with their numbers of actions, and end
    #[arg(long)]
    list: bool,
    /// Games to meta-train on [default: those of at most 10 actions that are not held out]
    #[arg(long, value_delimiter = ',')]
    games: Vec<String>,
    /// Games to test
    #[arg(long, value_delimiter = ',', default_values = HELD_OUT)]
    held_out: Vec<String>,
    /// Frames in colour, as the paper has them, in place of grey ones
    #[arg(long)]
    colour: bool,
    /// Frames that are seen at once
    #[arg(long, default_value_t = 4, value_parser = up_to::<1_000_000>)]
    stack: usize,
    /// Threads that play the copies of a game [default: one for each core]
    #[arg(long, value_parser = up_to::<1_000_000>)]
    play_threads: Option<usize>,
    /// Seeds of all that is random
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Meta-learners: leap, leap-energy, reptile, fomaml. Learning from scratch is always there
    #[arg(
        long,
        alias = "method",
        value_delimiter = ',',
        default_value = "leap-energy",
        value_parser = known
    )]
    methods: Vec<Method>,
    /// Meta-steps; without any, held-out games are learned from scratch alone
    #[arg(long, default_value_t = 2, value_parser = not_negative::<usize>)]
    meta_steps: usize,
    /// Games in a meta-batch
    #[arg(long, default_value_t = 2, value_parser = up_to::<1_000_000>)]
    meta_batch: usize,
    /// Environment steps that a game is learned for
    #[arg(long, default_value_t = 100_000, value_parser = positive::<usize>)]
    env_steps: usize,
    /// Environment steps that a held-out game is learned for [default: as many]
    #[arg(long, value_parser = positive::<usize>)]
    held_out_env_steps: Option<usize>,
    /// Copies of a game side by side
    #[arg(long, default_value_t = 32, value_parser = up_to::<1_000_000>)]
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
    /// Learning rate of the tasks, which RMSProp trains
    #[arg(long, default_value_t = 1e-4, value_parser = positive::<f64>)]
    task_lr: f64,
    /// Learning rate of meta-training, by Adam
    #[arg(long, default_value_t = 1e-3, value_parser = positive::<f64>)]
    meta_lr: f64,
    /// Policy and value are meta-learned with the encoder; all games need the same actions then
    #[arg(long)]
    shared_heads: bool,
    /// A score that counts as learned: how many steps it takes is reported
    #[arg(long, allow_negative_numbers = true, value_parser = finite::<f64>)]
    target: Option<f64>,
    /// Save within a task after every so many environment steps
    #[arg(long, default_value_t = 50_000, value_parser = positive::<usize>)]
    checkpoint_env_steps: usize,
    #[command(flatten)]
    options: RunOptions,
}

/// A meta-learner that learns from environments, by its name.
fn known(name: &str) -> Result<Method> {
    let method: Method = name.parse()?;
    ensure!(
        method.learns_by_acting(),
        "leap, reptile, fomaml and none learn from environments, and it does not"
    );
    Ok(method)
}

fn main() -> ExitCode {
    show_log();
    end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let venv = virtual_environment();
    if args.setup {
        set_up(&venv).map_err(|e| anyhow!(e))?;
        say(&format!(
            "{} has the Arcade Learning Environment",
            venv.display()
        ));
        return Ok(());
    }
    ensure!(!args.held_out.is_empty(), "--held-out needs a game");
    let config = AtariConfig::new()
        .with_colour(args.colour)
        .with_stack(args.stack)
        .with_threads(args.play_threads.unwrap_or(0));
    let all = AtariGames::all(&venv, config.clone()).map_err(|e| anyhow!(e))?;
    if args.list {
        for (name, actions) in all.names().zip(all.actions()) {
            say(&format!("{name:20} {actions:3} actions"));
        }
        return Ok(());
    }
    let named = |names: &[String]| all.named(names).map_err(|e| anyhow!(e));
    let train = match args.games.as_slice() {
        [] => all.meta_training(),
        names => named(names)?,
    };
    let held_out = named(&args.held_out)?;
    let a2c = A2cConfig::new()
        .with_envs(args.envs)
        .with_unroll(args.unroll)
        .with_discount(args.discount)
        .with_entropy(args.entropy)
        .with_value_loss(args.value_loss)
        .with_reward_clip(Some(args.reward_clip));
    let steps = |env_steps: usize| (env_steps / a2c.env_steps()).max(2);
    let experiment = Atari {
        task_steps: steps(args.env_steps),
        held_out_steps: steps(args.held_out_env_steps.unwrap_or(args.env_steps)),
        shown: held_out.clone().with_config(config.with_screen(true)),
        model: ActorCriticConfig::atari(args.stack * if args.colour { 3 } else { 1 }, 6),
        args: args.clone(),
        a2c: a2c.clone(),
        train,
        held_out,
    };
    Sweep::new("Atari", "runs/atari")
        .with_methods(&args.methods)
        .with_seeds(args.seeds.iter().copied())
        .with_meta_steps(args.meta_steps)
        .with_checkpoint_every(1)
        .with_task_checkpoints(steps(args.checkpoint_env_steps))
        .with_path_pictures(0)
        .with_models()
        .with_target(args.target)
        .with_options(args.options.clone())
        .with_stop(interruption()?)
        .run(&experiment)?;
    Ok(())
}

struct Atari {
    args: Args,
    model: ActorCriticConfig,
    a2c: A2cConfig,
    task_steps: usize,
    held_out_steps: usize,
    train: AtariGames,
    held_out: AtariGames,
    /// The held-out games, to be looked at.
    shown: AtariGames,
}

impl Experiment for Atari {
    type Model = ActorCriticNet;
    type Learner = Method;
    type Train = A2cTasks<AtariGames>;
    type HeldOut = A2cTasks<AtariGames>;

    fn settings(&self) -> Value {
        let names = |games: &AtariGames| Vec::from_iter((0..games.len()).map(|i| games.name(i)));
        json!({
            "train": names(&self.train),
            "held_out": names(&self.held_out),
            "meta_batch": self.args.meta_batch,
            "task_steps": self.task_steps,
            "held_out_steps": self.held_out_steps,
            "a2c": self.a2c,
            "task_lr": self.args.task_lr,
            "meta_lr": self.args.meta_lr,
            "shared_heads": self.args.shared_heads,
            "colour": self.args.colour,
            "stack": self.args.stack,
            "model": self.model,
        })
    }

    fn model(&self, _run: &Run, device: &Device) -> Result<ActorCriticNet, TaskError> {
        Ok(self.model.init(device)?)
    }

    fn train(&self, _run: &Run) -> Result<A2cTasks<AtariGames>, TaskError> {
        Ok(self.a2c.tasks(self.train.clone()))
    }

    fn held_out(&self, _run: &Run) -> Result<A2cTasks<AtariGames>, TaskError> {
        Ok(self.a2c.tasks(self.held_out.clone()))
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Method>, TaskError> {
        let training = |steps| InnerLoop::new(steps, A2cConfig::optimizer().0, self.args.task_lr);
        Ok(MetaTrainer::new(run.method()?)
            .with_meta_batch_size(self.args.meta_batch)
            .with_task_training(training(self.task_steps))
            .with_held_out_training(training(self.held_out_steps))
            .with_meta_optimizer(AdamConfig::new().init(), self.args.meta_lr)
            .with_shared(match self.args.shared_heads {
                true => ParamGroup::all(),
                false => ParamGroup::from_predicate("encoder"),
            }))
    }

    fn record(&self, run: &Run, model: &ActorCriticNet) -> Result<Option<Vec<u8>>, TaskError> {
        let shown = self.a2c.tasks(self.shown.clone());
        let (pictures, _) = shown.record(model, 0, 500, run.seed)?;
        let pictures: Result<Vec<_>, _> = pictures.iter().map(Picture::rasterize).collect();
        Ok(Some(animate(pictures?, 60)?))
    }

    fn unit(&self) -> (String, usize) {
        ("environment steps".into(), self.a2c.env_steps())
    }
}
