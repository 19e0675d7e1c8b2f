//! Atari: games of the Arcade Learning Environment are meta-trained on, and others are learned from the initialization and
//! from scratch, by advantage actor-critic, as in section 4.3 of the Leap paper.
//!
//! ```text
//! cargo run --example atari --features atari -- --setup
//! cargo run --example atari --features atari -- --games pong,breakout --held-out space_invaders
//! ```

use std::process::ExitCode;

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use leap_core::{Leap, Norm};
use leap_examples::{Acting, ActingArgs, Budget, Heads, Optimizer, end};
use leap_models::ActorCriticConfig;
use leap_tasks::rl::atari::{AtariConfig, AtariGames, HELD_OUT, set_up, virtual_environment};

/// Meta-learning on Atari: each task is a game. The defaults are the paper's, but for its 16 games a meta-batch, its 5 million
/// steps a game and its 100 meta-steps, which are weeks of training.
#[derive(Parser)]
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
    #[arg(long, default_value_t = 4)]
    stack: usize,
    /// Threads that play the copies of a game [default: one for each core]
    #[arg(long, default_value_t = 0)]
    play_threads: usize,
    #[command(flatten)]
    acting: ActingArgs,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let venv = virtual_environment();
    if args.setup {
        set_up(&venv).map_err(|e| anyhow!(e))?;
        println!("{} has the Arcade Learning Environment", venv.display());
        return Ok(());
    }
    let config = AtariConfig::new()
        .with_colour(args.colour)
        .with_stack(args.stack)
        .with_threads(args.play_threads);
    ensure!(args.stack > 0, "--stack must be at least 1");
    let all = AtariGames::all(&venv, config.clone()).map_err(|e| anyhow!(e))?;
    if args.list {
        for (name, actions) in all.names().zip(all.actions()) {
            println!("{name:20} {actions:3} actions");
        }
        return Ok(());
    }
    let named = |names: &[String]| all.named(names).map_err(|e| anyhow!(e));
    let train = match args.games.as_slice() {
        [] => all.meta_training(),
        names => named(names)?,
    };
    let held_out = named(&args.held_out)?;
    ensure!(!args.held_out.is_empty(), "--held-out needs a game");
    let channels = args.stack * if args.colour { 3 } else { 1 };
    let experiment = Acting {
        title: "Atari".into(),
        model: ActorCriticConfig::atari(channels, 6),
        shown: held_out.clone().with_config(config.with_screen(true)),
        train,
        held_out,
        budget: Budget {
            method: Leap::new().with_norm(Norm::Energy).into(),
            heads: Heads::Own,
            task_optimizer: Optimizer::RmsProp,
            meta_steps: 2,
            meta_batch: 2,
            env_steps: 100_000,
            envs: 32,
            task_lr: 1e-4,
            meta_lr: 1e-3,
            target: None,
            checkpoint_env_steps: 50_000,
        },
        frame: 60,
    };
    experiment.run(&args.acting, "runs/atari")
}
