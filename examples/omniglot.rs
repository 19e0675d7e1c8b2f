//! The paper's Omniglot experiment: meta-trains an initialization with Leap on some alphabets, then learns
//! alphabets it has never seen from it, and from scratch.
//!
//! ```text
//! cargo run --example omniglot -- --quick
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use burn::module::ParamGroup;
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::store::{ModuleSnapshot, SafetensorsStore};
use clap::{Parser, ValueEnum};
use leap_core::{Checkpoints, Lanes, Leap, MetaTrainer, Norm, Report, Summary, redraw, run_rng};
use leap_examples::{Progress, RunFolder, draw_curves, end, interruption};
use leap_models::ConvNetConfig;
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};
use serde::Serialize;
use serde_json::json;

/// Leap on Omniglot: an alphabet is a task of 20 characters to tell apart.
///
/// The defaults are the paper's; --quick is a smaller experiment of about two minutes on 2 cores.
#[derive(Parser)]
struct Args {
    /// A smaller experiment; flags given as well have precedence
    #[arg(long)]
    quick: bool,
    /// Seed of all that is random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Alphabets to meta-train on
    #[arg(long, default_value_t = 20)]
    alphabets: usize,
    /// Alphabets held out for the test [default: 10; quick: 5]
    #[arg(long)]
    test_alphabets: Option<usize>,
    /// Meta-steps [default: 1000; quick: 40]
    #[arg(long)]
    meta_steps: Option<usize>,
    /// Tasks in a meta-batch [default: 20; quick: 5]
    #[arg(long)]
    meta_batch: Option<usize>,
    /// Training steps of a task [default: 100; quick: 50]
    #[arg(long)]
    task_steps: Option<usize>,
    /// Drawings in a batch
    #[arg(long, default_value_t = 20)]
    batch: usize,
    /// Learning rate of the tasks
    #[arg(long, default_value_t = 0.1)]
    task_lr: f64,
    /// Learning rate of meta-training
    #[arg(long, default_value_t = 0.1)]
    meta_lr: f64,
    /// Optimizer of the tasks
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    task_optimizer: Optimizer,
    /// Optimizer of meta-training
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    meta_optimizer: Optimizer,
    /// Distance to minimise
    #[arg(long, value_enum, default_value_t = NormArg::Length)]
    norm: NormArg,
    /// Leave the loss out of the manifold
    #[arg(long)]
    no_loss: bool,
    /// Let a rise in loss point uphill
    #[arg(long)]
    no_stabilizer: bool,
    /// Characters in a task
    #[arg(long, default_value_t = 20)]
    classes: usize,
    /// Filters in each convolution
    #[arg(long, default_value_t = 64)]
    filters: usize,
    /// Convolution blocks
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Height and width of the kernels
    #[arg(long, default_value_t = 3)]
    kernel_size: usize,
    /// Padding of the convolutions
    #[arg(long, default_value_t = 1)]
    padding: usize,
    /// Average over the image after the last block instead of max-pooling in each
    #[arg(long)]
    no_max_pool: bool,
    /// No batch-normalization
    #[arg(long)]
    no_batch_norm: bool,
    /// Only the head is each task's own, drawn anew; the encoder alone is meta-learned
    #[arg(long)]
    own_head: bool,
    /// Official files, zips or unpacked folders, in place of the data that ship with the program
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Height and width to which the official files are resized
    #[arg(long, default_value_t = 28, requires = "data")]
    image_size: usize,
    /// Where to compute: flex, ndarray, wgpu, vulkan, metal, cuda:0, … as built
    #[arg(long, default_value = "flex")]
    device: String,
    /// CPU threads, each with a task of its own; 0 is one lane without a limit of threads, for GPUs
    /// [default: number of cores; 0 on GPUs]
    #[arg(long)]
    lanes: Option<usize>,
    /// Folder of the run [default: runs/omniglot-<seed>, runs/omniglot-quick-<seed>]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the run in the folder
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace the run in the folder
    #[arg(long)]
    overwrite: bool,
    /// Save a checkpoint after every so many meta-steps
    #[arg(long, default_value_t = 5)]
    checkpoint_every: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize)]
enum Optimizer {
    Sgd,
    Adam,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize)]
enum NormArg {
    Length,
    Energy,
}

/// An entry of `summary.json`.
#[derive(Serialize)]
struct Entry<'a> {
    method: &'a str,
    seed: u64,
    meta_steps: usize,
    meta_batch: usize,
    task_steps: usize,
    #[serde(flatten)]
    held_out_tasks: Summary,
    /// Of meta-training, where there was any, and of learning the held-out tasks.
    seconds: f64,
}

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
struct MetaStepMetrics {
    /// Meta-steps taken, this one included.
    meta_step: usize,
    #[serde(flatten)]
    tasks: Summary,
    seconds: f64,
}

fn main() -> ExitCode {
    end(run())
}

fn run() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let args = Args::parse();
    let or =
        |given: Option<usize>, paper, quick| given.unwrap_or([paper, quick][args.quick as usize]);

    let seed = args.seed;
    let model = ConvNetConfig::new()
        .with_classes(args.classes)
        .with_filters(args.filters)
        .with_layers(args.layers)
        .with_kernel_size(args.kernel_size)
        .with_padding(args.padding)
        .with_max_pool(!args.no_max_pool)
        .with_batch_norm(!args.no_batch_norm)
        .with_image_size([args.image_size; 2]);
    let tasks = OmniglotTasksConfig::new()
        .with_train_alphabets(args.alphabets)
        .with_test_alphabets(or(args.test_alphabets, 10, 5))
        .with_classes(args.classes)
        .with_batch_size(args.batch)
        .with_seed(seed);
    let leap = Leap::new()
        .with_norm(match args.norm {
            NormArg::Length => Norm::Length,
            NormArg::Energy => Norm::Energy,
        })
        .with_loss(!args.no_loss)
        .with_stabilizer(!args.no_stabilizer);
    let meta_steps = or(args.meta_steps, 1000, 40);
    let meta_batch = or(args.meta_batch, 20, 5);
    let task_steps = or(args.task_steps, 100, 50);
    let config = json!({
        "seed": seed,
        "meta_steps": meta_steps,
        "meta_batch": meta_batch,
        "task_steps": task_steps,
        "task_lr": args.task_lr,
        "meta_lr": args.meta_lr,
        "task_optimizer": args.task_optimizer,
        "meta_optimizer": args.meta_optimizer,
        "leap": leap,
        "own_head": args.own_head,
        "model": model,
        "tasks": tasks,
        "data": args.data,
        "device": args.device,
    });

    let device = leap_core::device(&args.device)?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let is_cpu = matches!(args.device.as_str(), "flex" | "ndarray");
    let lanes = match args.lanes.unwrap_or(if is_cpu { cores } else { 0 }) {
        0 => Lanes::single(&device),
        count => Lanes::threads(&device, count)?,
    };

    let data = match args.data.as_slice() {
        [] => Omniglot::bundled()?,
        paths => Omniglot::load(paths, args.image_size)?,
    };
    let tasks = tasks.init(data)?;
    let scratch = redraw(
        model.init(&device.autodiff())?,
        &ParamGroup::all(),
        &mut run_rng(seed, "initial parameters"),
    );

    let quick = if args.quick { "quick-" } else { "" };
    let default_out = PathBuf::from(format!("runs/omniglot-{quick}{seed}"));
    let out = args.out.clone().unwrap_or(default_out);
    let folder = RunFolder::open(&out, &config, args.resume, args.overwrite)?;
    let mut trainer = MetaTrainer::new(leap)
        .with_seed(seed)
        .with_meta_batch_size(meta_batch)
        .with_task_steps(task_steps)
        .with_task_optimizer(optimizer(args.task_optimizer), args.task_lr)
        .with_meta_optimizer(optimizer(args.meta_optimizer), args.meta_lr)
        .with_checkpoints(Checkpoints::new(
            folder.join("checkpoints"),
            args.checkpoint_every,
        ));
    if args.own_head {
        trainer = trainer.with_shared(ParamGroup::from_predicate("encoder"));
    }

    // Meta-training. Without a checkpoint in the folder, `resume` begins at the beginning.
    let interrupted = interruption()?;
    let mut run = trainer.resume(scratch.clone())?;
    let mut metrics = folder.metrics(run.meta_step())?;
    println!(
        "Meta-training on {} alphabets, {} lanes on {}, results in {}",
        tasks.train.names().count(),
        lanes.len(),
        args.device,
        out.display()
    );
    let mut progress = Progress::new("meta-step", run.meta_step(), meta_steps);
    while run.meta_step() < meta_steps {
        let report = run.step(&tasks.train, &lanes)?;
        let summary = report.summary();
        metrics.write(&MetaStepMetrics {
            meta_step: run.meta_step(),
            tasks: summary,
            seconds: report.seconds,
        })?;
        progress.advance(&describe(&summary));
        if interrupted.load(Ordering::Relaxed) {
            run.save_checkpoint()?;
            println!(
                "ended after meta-step {}; --resume goes on",
                run.meta_step()
            );
            std::process::exit(130);
        }
    }
    progress.finish();
    run.save_checkpoint()?;
    let init = run.into_init();
    let path = folder.join("init.safetensors");
    init.save_into(&mut SafetensorsStore::from_file(&path).overwrite(true))
        .map_err(|e| anyhow::anyhow!("{}: {e:?}", path.display()))?;

    // Held-out alphabets: the same batches from scratch and from Leap's initialization.
    println!(
        "Learning {} held-out alphabets …",
        tasks.test.names().count()
    );
    let from_scratch = trainer.evaluate(&scratch, &tasks.test, &lanes)?;
    let from_leap = trainer.evaluate(&init, &tasks.test, &lanes)?;
    print_table(&from_scratch, &from_leap);

    let entry = |method, report: &Report, meta_steps, meta_seconds: f64| Entry {
        method,
        seed,
        meta_steps,
        meta_batch,
        task_steps,
        held_out_tasks: report.summary(),
        seconds: meta_seconds + report.seconds,
    };
    folder.write_json(
        "summary.json",
        &[
            entry("leap", &from_leap, meta_steps, metrics.seconds()),
            entry("scratch", &from_scratch, 0, 0.0),
        ],
    )?;
    folder.write_json(
        "held_out.json",
        &[("leap", &from_leap), ("scratch", &from_scratch)],
    )?;
    draw_curves(
        &folder.join("curves.svg"),
        "Learning held-out alphabets",
        &[
            ("Leap", from_leap.curve()),
            ("from scratch", from_scratch.curve()),
        ],
    )
    .context("the learning curves could not be drawn")?;
    println!(
        "Curves, tables and the initialization are in {}",
        out.display()
    );
    Ok(())
}

fn optimizer(choice: Optimizer) -> ModuleOptimizer {
    match choice {
        Optimizer::Sgd => SgdConfig::new().init(),
        Optimizer::Adam => AdamConfig::new().init(),
    }
}

fn describe(summary: &Summary) -> String {
    format!(
        "loss {:.3}, accuracy {:.3}, held-out accuracy {:.3}",
        summary.loss,
        summary.accuracy.unwrap_or(f64::NAN),
        summary.held_out_accuracy.unwrap_or(f64::NAN)
    )
}

fn print_table(scratch: &Report, leap: &Report) {
    println!("\n{:38} {:^23}   {:^23}", "", "from scratch", "Leap");
    let columns = format!("{:>7} {:>7} {:>7}", "AUC", "train", "held out");
    println!("{:38} {columns}   {columns}", "alphabet");
    let cells = |summary: Summary| {
        format!(
            "{:7.3} {:7.3} {:8.3}",
            summary.auc,
            summary.accuracy.unwrap_or(f64::NAN),
            summary.held_out_accuracy.unwrap_or(f64::NAN)
        )
    };
    for (a, b) in scratch.tasks.iter().zip(&leap.tasks) {
        let row = |task| cells(Summary::of(std::slice::from_ref(task)));
        println!("{:38} {}   {}", a.name, row(a), row(b));
    }
    let (a, b) = (cells(scratch.summary()), cells(leap.summary()));
    println!("{:38} {a}   {b}\n", "mean");
}
