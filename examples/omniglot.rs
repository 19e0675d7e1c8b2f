//! The paper's Omniglot experiment: initializations are meta-trained on some alphabets, and alphabets that they
//! have never seen are learned from them. One method or all of them, any number of alphabets and seeds.
//!
//! ```text
//! cargo run --example omniglot -- --quick
//! cargo run --example omniglot -- --methods leap,reptile,none --alphabets 5,20 --seeds 1,2,3
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use burn::module::ParamGroup;
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use leap_core::{
    Leap, LearnedRates, MetaTrainer, Method, RateOf, Rated, Reptile, Sequential, Statistics,
    TaskError,
};
use leap_lab::{
    Error, Experiment, Initialization, Run, RunOptions, Session, Sweep, end, interruption,
    none_or_up_to, not_negative, positive, show_log, up_to,
};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::DataError;
use leap_tasks::omniglot::{Omniglot, OmniglotSplits, OmniglotTasks, OmniglotTasksConfig};
use serde::Serialize;
use serde_json::{Value, json};

/// Meta-learning on Omniglot: an alphabet is a task of 20 characters to tell apart.
///
/// The defaults are the paper's; --quick is a smaller experiment of about two minutes on 2 cores.
#[derive(Clone, Parser)]
#[command(args_override_self = true, allow_negative_numbers = true)]
struct Args {
    /// A smaller experiment; flags given as well have precedence
    #[arg(long)]
    quick: bool,
    /// Methods: leap, reptile, sequential-reptile, reptile-shifting, leap-shifting, warp-leap, fomaml, fomaml-query, anil,
    /// boil, maml, finetuning; for leap with the endings -energy, -noloss, -nostab, in this order. Learning from scratch (none) is always there
    #[arg(long, value_delimiter = ',', default_value = "leap,none", value_parser = known)]
    methods: Vec<String>,
    /// All eight variants of Leap as well
    #[arg(long)]
    ablation: bool,
    /// Seeds of all that is random
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Numbers of alphabets to meta-train on
    #[arg(long, value_delimiter = ',', default_value = "20", value_parser = up_to::<1_000_000>)]
    alphabets: Vec<usize>,
    /// Alphabets held out for the test [default: 10; quick: 5]
    #[arg(long, value_parser = positive::<usize>)]
    test_alphabets: Option<usize>,
    /// Meta-steps [default: 1000; quick: 40]
    #[arg(long, value_parser = not_negative::<usize>)]
    meta_steps: Option<usize>,
    /// Tasks in a meta-batch [default: 20; quick: 5]
    #[arg(long, value_parser = up_to::<1_000_000>)]
    meta_batch: Option<usize>,
    /// Training steps of a task [default: 100; quick: 50]
    #[arg(long, value_parser = positive::<usize>)]
    task_steps: Option<usize>,
    /// Drawings in a batch
    #[arg(long, default_value_t = 20, value_parser = up_to::<1_000_000>)]
    batch: usize,
    /// Learning rate of the tasks
    #[arg(long, default_value_t = 0.1, value_parser = positive::<f64>)]
    task_lr: f64,
    /// Learning rate of meta-training. Of several, each method takes the one with the lowest AUC on the validation alphabets;
    /// finetuning trains with it then [default: 0.1; maml, fomaml, anil and boil 0.5]
    #[arg(long, value_delimiter = ',', value_parser = positive::<f64>)]
    meta_lr: Vec<f64>,
    /// Meta-steps with each of several learning rates; with --resume the same as before [default: a tenth of --meta-steps]
    #[arg(long, value_parser = positive::<usize>)]
    search_meta_steps: Option<usize>,
    /// Learn the validation alphabets, too, after every so many meta-steps; 0 is never
    #[arg(long, default_value_t = 0, value_parser = not_negative::<usize>)]
    validate_every: usize,
    /// Training steps that maml differentiates through
    #[arg(long, default_value_t = 5, value_parser = positive::<usize>)]
    maml_steps: usize,
    /// Step of maml's differences; networks with ReLU and max-pooling need a large one
    #[arg(long, default_value_t = 0.1, value_parser = positive::<f64>)]
    maml_difference: f64,
    /// Optimizer of the tasks
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    task_optimizer: Optimizer,
    /// Optimizer of meta-training
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    meta_optimizer: Optimizer,
    /// Characters in a task
    #[arg(long, default_value_t = 20, value_parser = up_to::<1_000_000>)]
    classes: usize,
    /// Filters in each convolution
    #[arg(long, default_value_t = 64, value_parser = up_to::<4096>)]
    filters: usize,
    /// Convolution blocks
    #[arg(long, default_value_t = 4, value_parser = up_to::<1024>)]
    layers: usize,
    /// Height and width of the kernels
    #[arg(long, default_value_t = 3, value_parser = up_to::<1024>)]
    kernel_size: usize,
    /// Padding of the convolutions
    #[arg(long, default_value_t = 1, value_parser = none_or_up_to::<1024>)]
    padding: usize,
    /// Average over the image after the last block instead of max-pooling in each
    #[arg(long)]
    no_max_pool: bool,
    /// No batch-normalization
    #[arg(long)]
    no_batch_norm: bool,
    /// What held-out drawings are normalized by: running statistics, or those of their batch, the transductive setting
    /// [default: running; batch for tasks of fewer than 30 steps]
    #[arg(long, value_name = "running|batch")]
    held_out_statistics: Option<Statistics>,
    /// Meta-train from an initialization that this program saved, and not from random parameters
    #[arg(long, value_name = "INIT")]
    from: Option<PathBuf>,
    /// Leap learns learning rates, too: one for each parameter, for each tensor of them, or for each tensor at each step
    #[arg(long, value_name = "parameter|tensor|step")]
    learned_rates: Option<RateOf>,
    /// Only the head is each task's own, drawn anew; the encoder alone is meta-learned
    #[arg(long)]
    own_head: bool,
    /// Official files, zips or unpacked folders, in place of the data that ship with the program
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Height and width to which the official files are resized
    #[arg(long, default_value_t = 28, requires = "data", value_parser = up_to::<1024>)]
    image_size: usize,
    /// Save a checkpoint after every so many meta-steps
    #[arg(long, default_value_t = 5, value_parser = not_negative::<usize>)]
    checkpoint_every: usize,
    #[command(flatten)]
    options: RunOptions,
}

/// The name of a method, if it is one.
fn known(name: &str) -> Result<String, leap_core::Error> {
    if name != SEQUENTIAL {
        name.parse::<Method>()?;
    }
    Ok(name.to_string())
}

/// The setting that is searched for.
const META_LR: &str = "meta-lr";

/// Reptile on one path over batches of all tasks of a meta-batch.
const SEQUENTIAL: &str = "sequential-reptile";

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize)]
enum Optimizer {
    Sgd,
    Adam,
}

impl Optimizer {
    fn init(self) -> ModuleOptimizer {
        match self {
            Self::Sgd => SgdConfig::new().init(),
            Self::Adam => AdamConfig::new().init(),
        }
    }
}

struct Alphabets {
    args: Args,
    model: ConvNetConfig,
    tasks: OmniglotTasksConfig,
    data: Arc<Omniglot>,
    /// What meta-training begins from, where it is from a file.
    from: Option<Initialization>,
    meta_batch: usize,
    task_steps: usize,
}

impl Alphabets {
    /// The learning rate of meta-training, where there is one for all methods.
    fn meta_lr(&self) -> Option<f64> {
        match *self.args.meta_lr {
            [lr] => Some(lr),
            _ => None,
        }
    }

    /// Whether validation alphabets decide anything, or are shown.
    fn validates(&self) -> bool {
        self.args.validate_every > 0 || self.args.meta_lr.len() > 1
    }

    fn most_alphabets(&self) -> usize {
        self.args.alphabets.iter().copied().max().unwrap_or(0)
    }

    fn splits(&self, run: &Run) -> Result<OmniglotSplits, TaskError> {
        // Those of the test are the same for any number of others.
        let alphabets = run.setting("alphabets").map(|number| number as usize);
        let alphabets = alphabets.unwrap_or(self.most_alphabets());
        Ok(self.split(alphabets, run.seed)?)
    }

    fn split(&self, train_alphabets: usize, seed: u64) -> Result<OmniglotSplits, DataError> {
        let config = self.tasks.clone().with_seed(seed);
        let config = config.with_train_alphabets(train_alphabets);
        config.init(self.data.clone())
    }

    /// The experiment's trainer, for any meta-learner.
    fn trained<L: Clone>(&self, learner: L, meta_lr: f64) -> MetaTrainer<L> {
        let trainer = MetaTrainer::new(learner)
            .with_meta_batch_size(self.meta_batch)
            .with_task_steps(self.task_steps)
            .with_task_optimizer(self.args.task_optimizer.init(), self.args.task_lr)
            .with_meta_optimizer(self.args.meta_optimizer.init(), meta_lr);
        let trainer = match self.args.held_out_statistics {
            Some(statistics) => trainer.with_held_out_statistics(statistics),
            None => trainer,
        };
        match self.args.own_head {
            true => trainer.with_shared(ParamGroup::from_any_predicates(vec![
                "encoder",
                "log_rates",
            ])),
            false => trainer,
        }
    }

    /// The learning rate of a run's meta-training: that which was searched for or given, or the usual one.
    fn meta_lr_of(&self, run: &Run, usual: f64) -> f64 {
        run.setting(META_LR).or(self.meta_lr()).unwrap_or(usual)
    }
}

impl Experiment for Alphabets {
    type Model = ConvNet;
    type Learner = Method;
    type Train = OmniglotTasks;
    type HeldOut = OmniglotTasks;

    fn settings(&self) -> Value {
        json!({
            "meta_batch": self.meta_batch,
            "task_steps": self.task_steps,
            "task_lr": self.args.task_lr,
            "meta_lr": self.meta_lr(),
            "maml_steps": self.args.maml_steps,
            "maml_difference": self.args.maml_difference,
            "task_optimizer": self.args.task_optimizer,
            "meta_optimizer": self.args.meta_optimizer,
            "from": self.from.as_ref().map(|init| json!({
                "digest": init.digest(),
                "settings": init.settings(),
            })),
            // Those that are left to validate on.
            "validated_beside": self.validates().then(|| self.most_alphabets()),
            "own_head": self.args.own_head,
            "held_out_statistics": self.args.held_out_statistics,
            "model": self.model,
            "tasks": self.tasks,
            "data": format!("{:016x}", self.data.digest()),
        })
    }

    fn model(&self, run: &Run, device: &Device) -> Result<ConvNet, TaskError> {
        // Warp-Leap has a convolution more in each block, which tasks leave alone.
        let warp = matches!(run.method(), Ok(Method::WarpLeap(_)));
        Ok(self.model.clone().with_warp(warp).init(device)?)
    }

    fn train(&self, run: &Run) -> Result<OmniglotTasks, TaskError> {
        Ok(self.splits(run)?.train)
    }

    fn held_out(&self, run: &Run) -> Result<OmniglotTasks, TaskError> {
        Ok(self.splits(run)?.test)
    }

    fn validation(&self, run: &Run) -> Result<Option<OmniglotTasks>, TaskError> {
        // The same for all runs of a seed: what the one with most alphabets leaves.
        let splits = self.split(self.most_alphabets(), run.seed)?;
        Ok(Some(splits.validation))
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Method>, TaskError> {
        let method = match &*run.method {
            SEQUENTIAL => Reptile.into(),
            _ => run.method()?,
        };
        let (method, meta_lr) = match method {
            Method::Maml(m) => (m.with_difference(self.args.maml_difference).into(), 0.5),
            Method::Fomaml(_) | Method::Anil(_) | Method::Boil(_) => (method, 0.5),
            other => (other, 0.1),
        };
        let meta_lr = self.meta_lr_of(run, meta_lr);
        let method = match method {
            Method::Shifting(shifting) => shifting.with_meta_lr(meta_lr, self.task_steps).into(),
            other => other,
        };
        Ok(self.trained(method, meta_lr))
    }

    fn meta_train(&self, session: &Session<Self>) -> Result<ConvNet, Error> {
        let (run, trainer) = (session.run(), session.trainer()?);
        let tasks = self.train(run)?;
        let scratch = match &self.from {
            Some(init) => init.load(session.scratch()?)?,
            None => session.scratch()?,
        };
        if run.method == SEQUENTIAL {
            let trainer = trainer
                .with_meta_batch_size(1)
                .with_task_steps(self.meta_batch.saturating_mul(self.task_steps));
            let tasks = Sequential::new(tasks, self.meta_batch);
            return session.meta_train(trainer, scratch, &tasks);
        }
        match run.method()? {
            // One body on batches of all alphabets, with a head for each: as many steps as a meta-batch has.
            Method::Finetuning(_) => {
                let classes = self.args.classes * run.setting("alphabets").unwrap_or(0.0) as usize;
                let model = self.model.clone().with_classes(classes);
                let model = model.init(session.device()).map_err(TaskError::from)?;
                let model = session.initialize(model);
                let model = match self.from {
                    Some(_) => ConvNet {
                        encoder: scratch.encoder.clone(),
                        ..model
                    },
                    None => model,
                };
                let lr = run.setting(META_LR).unwrap_or(self.args.task_lr);
                let trainer = trainer
                    .with_shared(ParamGroup::all())
                    .with_meta_batch_size(1)
                    .with_task_steps(self.meta_batch.saturating_mul(self.task_steps))
                    .with_task_optimizer(self.args.task_optimizer.init(), lr)
                    .with_meta_optimizer(SgdConfig::new().init(), 1.0);
                let (steps, tasks) = (session.meta_steps(), tasks.mixed());
                session.meta_train_as(steps, trainer, model, &tasks, |trained| ConvNet {
                    encoder: trained.encoder,
                    head: scratch.head.clone(),
                })
            }
            Method::Shifting(_) => {
                let trainer = trainer
                    .with_meta_batch_size(1)
                    .with_task_steps(self.meta_batch.saturating_mul(self.task_steps))
                    .with_meta_optimizer(SgdConfig::new().init(), 1.0);
                let tasks = Sequential::new(tasks, self.meta_batch).in_turn();
                session.meta_train(trainer, scratch, &tasks)
            }
            Method::Maml(_) => {
                let trainer = trainer.with_task_steps(self.args.maml_steps);
                session.meta_train(trainer, scratch, &tasks)
            }
            _ => session.meta_train(trainer, scratch, &tasks),
        }
    }
}

/// The same with learned learning rates.
struct WithRates {
    alphabets: Alphabets,
    of: RateOf,
}

impl Experiment for WithRates {
    type Model = Rated<ConvNet>;
    type Learner = LearnedRates;
    type Train = OmniglotTasks;
    type HeldOut = OmniglotTasks;

    fn settings(&self) -> Value {
        let mut settings = self.alphabets.settings();
        settings["learned_rates"] = self.of.to_string().into();
        settings
    }

    fn model(&self, run: &Run, device: &Device) -> Result<Rated<ConvNet>, TaskError> {
        let net = self.alphabets.model(run, device)?;
        Ok(Rated::new(net, self.of, self.alphabets.task_steps)?)
    }

    fn train(&self, run: &Run) -> Result<OmniglotTasks, TaskError> {
        self.alphabets.train(run)
    }

    fn held_out(&self, run: &Run) -> Result<OmniglotTasks, TaskError> {
        self.alphabets.held_out(run)
    }

    fn validation(&self, run: &Run) -> Result<Option<OmniglotTasks>, TaskError> {
        self.alphabets.validation(run)
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<LearnedRates>, TaskError> {
        let leap = match run.method()? {
            Method::Leap(leap) => leap,
            // Learning from scratch, with rates of 1.
            _ => Leap::new(),
        };
        let learner = LearnedRates { leap, of: self.of };
        let meta_lr = self.alphabets.meta_lr_of(run, 0.1);
        Ok(self.alphabets.trained(learner, meta_lr))
    }

    fn meta_train(&self, session: &Session<Self>) -> Result<Rated<ConvNet>, Error> {
        let mut model = session.scratch()?;
        if let Some(init) = &self.alphabets.from {
            model.net = init.load(model.net)?;
        }
        let tasks = self.train(session.run())?;
        session.meta_train(session.trainer()?, model, &tasks)
    }
}

fn main() -> ExitCode {
    show_log();
    end(run(Args::parse()))
}

fn run(args: Args) -> Result<(), TaskError> {
    let or = |given: Option<usize>, paper, quick| {
        given.unwrap_or(if args.quick { quick } else { paper })
    };
    let meta_steps = or(args.meta_steps, 1000, 40);
    if args.learned_rates.is_some() {
        let is_leap =
            |name: &&String| matches!(name.parse(), Ok(Method::Leap(_) | Method::NoPretraining(_)));
        if let Some(other) = args.methods.iter().find(|name| !is_leap(name)) {
            return Err(format!("--learned-rates: Leap learns them, {other} does not").into());
        }
        if args.task_optimizer != Optimizer::Sgd {
            return Err("--learned-rates: tasks that learn them are trained with SGD".into());
        }
    }
    let data = match args.data.as_slice() {
        [] => Omniglot::bundled()?,
        paths => Omniglot::load(paths, args.image_size)?,
    };
    let variants: Vec<String> = Method::leap_variants().map(|m| m.to_string()).collect();
    let variants = if args.ablation { &variants[..] } else { &[] };
    let out = if args.quick {
        "runs/omniglot-quick"
    } else {
        "runs/omniglot"
    };
    let sweep = Sweep::new("Meta-learning on Omniglot", out)
        .with_methods(args.methods.iter().chain(variants))
        .with_setting("alphabets", args.alphabets.iter().map(|n| *n as f64))
        .with_seeds(args.seeds.clone())
        .with_meta_steps(meta_steps)
        .with_checkpoint_every(args.checkpoint_every)
        .with_options(args.options.clone())
        .with_validation_every(args.validate_every)
        .with_stop(interruption()?);
    let sweep = match args.meta_lr.len() {
        0 | 1 => sweep,
        _ => {
            let tenth = (meta_steps / 10).max(1);
            let steps = args.search_meta_steps.unwrap_or(tenth);
            sweep.with_search(META_LR, args.meta_lr.clone(), steps)
        }
    };
    let experiment = Alphabets {
        model: ConvNetConfig::new()
            .with_classes(args.classes)
            .with_filters(args.filters)
            .with_layers(args.layers)
            .with_kernel_size(args.kernel_size)
            .with_padding(args.padding)
            .with_max_pool(!args.no_max_pool)
            .with_batch_norm(!args.no_batch_norm)
            .with_image_size([args.image_size; 2]),
        tasks: OmniglotTasksConfig::new()
            .with_test_alphabets(or(args.test_alphabets, 10, 5))
            .with_classes(args.classes)
            .with_batch_size(args.batch),
        data: Arc::new(data),
        from: args.from.as_ref().map(Initialization::read).transpose()?,
        meta_batch: or(args.meta_batch, 20, 5),
        task_steps: or(args.task_steps, 100, 50),
        args,
    };
    if let Some(init) = &experiment.from {
        let device = &leap_core::devices(&experiment.args.options.device)?[0];
        for method in &experiment.args.methods {
            let run = Run {
                method: method.clone(),
                ..Run::default()
            };
            init.load(experiment.model(&run, device)?)?;
        }
    }
    match experiment.args.learned_rates {
        None => sweep.run(&experiment)?,
        Some(of) => sweep.run(&WithRates {
            alphabets: experiment,
            of,
        })?,
    };
    Ok(())
}
