//! Your own images: an initialization is meta-trained on some of them, from which others are learned quickly. A second
//! command adapts it to images that came later.
//!
//! ```text
//! cargo run --example images -- --data FOLDER
//! cargo run --example images -- --adapt runs/images/leap-seed-0/init.safetensors --data NEW
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::module::ParamGroup;
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::Device;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, ValueEnum};
use leap_core::{
    EarlyStopping, InnerLoop, MetaTrainer, Method, Predict, Statistics, TaskError, TaskSet,
};
use leap_lab::{
    Error, Experiment, Initialization, Run, RunOptions, Session, Sweep, end, interruption,
    not_negative, positive, show_log, up_to,
};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::images::{
    DataSet, DataSetTasks, DataSetTasksConfig, EpisodesConfig, ImageTask, Images, ImagesConfig,
    RandomAffine,
};
use leap_tasks::omniglot::Omniglot;
use serde::Serialize;
use serde_json::{Value, json};

/// Flags that an initialization which is there already has no use for.
const OF_META_TRAINING: [&str; 18] = [
    "tasks",
    "methods",
    "image_size",
    "grey",
    "ways",
    "shots",
    "train_shots",
    "queries",
    "train_queries",
    "test_classes",
    "test_sets",
    "rotations",
    "meta_steps",
    "meta_batch",
    "meta_lr",
    "filters",
    "layers",
    "own_head",
];

/// Meta-learning on labelled images: a folder of classes, an archive of it, the files of a published data set, or a folder of
/// several of these.
#[derive(Clone, Parser)]
#[command(args_override_self = true, allow_negative_numbers = true)]
struct Args {
    /// Images, a folder or an archive [default: Omniglot, which ships with the program]
    #[arg(long)]
    data: Option<PathBuf>,
    /// What a task is: a few images of a few classes, all images of a few classes, or a whole data set, of which --data
    /// holds several
    #[arg(long, value_enum, default_value_t = Kind::Episodes)]
    tasks: Kind,
    /// Adapt an initialization that this program saved to all of --data, and compare it with training from scratch
    #[arg(long, requires = "data", value_name = "INIT", conflicts_with_all = OF_META_TRAINING)]
    adapt: Option<PathBuf>,
    /// Methods: leap, reptile, fomaml, fomaml-query, anil, boil, maml, finetuning; for leap with the endings -energy,
    /// -noloss, -nostab, in this order. Learning from scratch (none) is always there
    #[arg(long, value_delimiter = ',', default_value = "leap,none", value_parser = known)]
    methods: Vec<Method>,
    /// Seeds of all that is random
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Height and width of the images [default: those of the first image; folders: 32]
    #[arg(long, requires = "data", value_parser = up_to::<1024>)]
    image_size: Option<usize>,
    /// Make all images grey
    #[arg(long, requires = "data")]
    grey: bool,
    /// A damaged image is an error, and not left out
    #[arg(long, requires = "data")]
    strict: bool,
    /// Classes in a task
    #[arg(long, default_value_t = 5, value_parser = up_to::<1_000_000>)]
    ways: usize,
    /// Images of each class that a held-out episode trains on
    #[arg(long, default_value_t = 1, value_parser = up_to::<1_000_000>)]
    shots: usize,
    /// The same of an episode in meta-training [default: as many]
    #[arg(long, value_parser = up_to::<1_000_000>)]
    train_shots: Option<usize>,
    /// Images of each class that a task holds out
    #[arg(long, default_value_t = 15, value_parser = up_to::<1_000_000>)]
    queries: usize,
    /// The same of a task in meta-training [default: as many]
    #[arg(long, value_parser = up_to::<1_000_000>)]
    train_queries: Option<usize>,
    /// Held-out tasks [default: episodes 600, classes 20]
    #[arg(long, value_parser = up_to::<1_000_000>)]
    test_tasks: Option<usize>,
    /// Classes for held-out tasks alone [default: a third of all; Omniglot: 423, as in most papers]
    #[arg(long, value_parser = up_to::<1_000_000>)]
    test_classes: Option<usize>,
    /// Data sets to hold out, by their names [default: the last]
    #[arg(long, value_delimiter = ',')]
    test_sets: Vec<String>,
    /// In meta-training, turns of a class by 90, 180 and 270 degrees are classes of their own
    #[arg(long)]
    rotations: bool,
    /// Rotate, scale and shift images at random in training
    #[arg(long)]
    augment: bool,
    /// Meta-steps
    #[arg(long, default_value_t = 200, value_parser = not_negative::<usize>)]
    meta_steps: usize,
    /// Tasks in a meta-batch
    #[arg(long, default_value_t = 5, value_parser = up_to::<1_000_000>)]
    meta_batch: usize,
    /// Training steps of a task [default: episodes 5, others 50]
    #[arg(long, value_parser = positive::<usize>)]
    task_steps: Option<usize>,
    /// The same of a held-out task, at most [default: as many]
    #[arg(long, value_parser = positive::<usize>)]
    test_steps: Option<usize>,
    /// Images in a batch [default: episodes all, others 32]
    #[arg(long, value_parser = up_to::<1_000_000>)]
    batch: Option<usize>,
    /// Learning rate of the tasks
    #[arg(long, default_value_t = 0.1, value_parser = positive::<f64>)]
    task_lr: f64,
    /// Let it go to 0 along half a wave of the cosine
    #[arg(long)]
    cosine: bool,
    /// Held-out data sets stop when the error on validation images has not fallen so many times, a check every 10 steps
    #[arg(long, value_name = "CHECKS", value_parser = positive::<usize>)]
    early_stopping: Option<usize>,
    /// Learning rate of meta-training
    #[arg(long, default_value_t = 0.1, value_parser = positive::<f64>)]
    meta_lr: f64,
    /// Let it go to 0 along a line
    #[arg(long)]
    meta_anneal: bool,
    /// Optimizer of the tasks
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    task_optimizer: Optimizer,
    /// Optimizer of meta-training
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    meta_optimizer: Optimizer,
    /// Filters in each convolution
    #[arg(long, default_value_t = 64, value_parser = up_to::<4096>)]
    filters: usize,
    /// Convolution blocks
    #[arg(long, default_value_t = 4, value_parser = up_to::<1024>)]
    layers: usize,
    /// What held-out images are normalized by: running statistics, or those of their batch, the transductive setting
    /// [default: running; batch for tasks of fewer than 30 steps]
    #[arg(long, value_name = "running|batch")]
    held_out_statistics: Option<Statistics>,
    /// Only the head is each task's own, drawn anew; the encoder alone is meta-learned. Data sets always do so
    #[arg(long)]
    own_head: bool,
    /// Save a checkpoint after every so many meta-steps
    #[arg(long, default_value_t = 50, value_parser = not_negative::<usize>)]
    checkpoint_every: usize,
    #[command(flatten)]
    options: RunOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize)]
enum Kind {
    Episodes,
    Classes,
    Folders,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize)]
enum Optimizer {
    Sgd,
    Adam,
    /// Adam with a first beta of 0, as Reptile's authors have it inside
    AdamNoMomentum,
}

impl Optimizer {
    fn init(self) -> ModuleOptimizer {
        match self {
            Self::Sgd => SgdConfig::new().init(),
            Self::Adam => AdamConfig::new().init(),
            Self::AdamNoMomentum => AdamConfig::new().with_beta_1(0.0).init(),
        }
    }
}

/// What tasks are made of.
enum Data {
    Classes(Arc<Images>),
    Sets(DataSetTasks),
}

type Tasks = Box<dyn TaskSet<ConvNet, Task = ImageTask>>;

struct OwnImages {
    args: Args,
    data: Data,
    /// Of each data set's bytes.
    digests: Vec<String>,
    /// The initialization that is adapted.
    adapted: Option<Initialization>,
    /// Whether the images of data sets are standardized.
    standardize: bool,
    model: ConvNetConfig,
    task_steps: usize,
}

/// A method that the program has, by its name.
fn known(name: &str) -> Result<Method, String> {
    match name.parse().map_err(|e: leap_core::Error| e.to_string())? {
        Method::WarpLeap(_) | Method::Shifting(_) => {
            Err("it is in the example omniglot alone".into())
        }
        method => Ok(method),
    }
}

/// The name of the method that is an initialization from a file.
const ADAPTED: &str = "adapted";
/// Training steps from one look at validation images to the next.
const CHECK_EVERY: usize = 10;

impl OwnImages {
    /// How tasks train for so many steps.
    fn training(&self, steps: usize) -> InnerLoop {
        let (args, lr) = (&self.args, self.args.task_lr);
        let inner = InnerLoop::new(steps, args.task_optimizer.init(), lr);
        match args.cosine {
            true => inner.with_lr_schedule(move |steps| {
                CosineAnnealingLrSchedulerConfig::new(lr, steps).init()
            }),
            false => inner,
        }
    }

    fn episodes(&self, shots: usize, queries: usize) -> EpisodesConfig {
        let args = &self.args;
        let (batch, tasks) = match args.tasks {
            Kind::Episodes => (args.batch, 600),
            _ => (Some(args.batch.unwrap_or(32)), 20),
        };
        EpisodesConfig::new()
            .with_ways(args.ways)
            .with_shots((args.tasks == Kind::Episodes).then_some(shots))
            .with_queries(queries)
            .with_episodes(args.test_tasks.unwrap_or(tasks))
            .with_batch_size(batch)
            .with_augment(args.augment.then(RandomAffine::new))
    }

    /// Classes to meta-train on and to test.
    fn split(&self, images: &Images, run: &Run) -> Result<[Vec<usize>; 2], TaskError> {
        let count = images.classes().len();
        let test = match (self.args.test_classes, &self.args.data) {
            (Some(test), _) => test,
            (None, None) => 423,
            (None, Some(_)) => (count / 3).max(self.args.ways),
        };
        let ways = self.args.ways;
        let turns = if self.args.rotations { 4 } else { 1 };
        if test < ways || turns * count.saturating_sub(test) < ways {
            return Err(format!(
                "--ways: tasks of {ways} classes, of {count} of which {test} are for held-out tasks (--test-classes)"
            )
            .into());
        }
        let mut lists = images.split_classes(&[test], run.seed)?;
        let train = lists.pop().unwrap_or_default();
        Ok([train, lists.remove(0)])
    }

    /// The images to meta-train on.
    fn train_images(&self, images: &Images, run: &Run) -> Result<Images, TaskError> {
        let images = images.of_classes(&self.split(images, run)?[0])?;
        Ok(match self.args.rotations {
            true => images.with_rotations()?,
            false => images,
        })
    }

    fn is_test(&self, set: &str, sets: &DataSetTasks) -> bool {
        let is_chosen = |name: &str| self.args.test_sets.iter().any(|test| test == name);
        match self.args.test_sets.is_empty() {
            true => sets.names().last() == Some(set),
            false => is_chosen(set),
        }
    }
}

impl Experiment for OwnImages {
    type Model = ConvNet;
    type Learner = Method;
    type Train = Tasks;
    type HeldOut = Tasks;

    fn settings(&self) -> Value {
        let args = &self.args;
        json!({
            "data": self.digests,
            "tasks": args.tasks,
            "adapt": self.adapted.as_ref().map(Initialization::digest),
            "standardize": self.standardize,
            "ways": args.ways,
            "shots": args.shots,
            "train_shots": args.train_shots,
            "queries": args.queries,
            "train_queries": args.train_queries,
            "test_tasks": args.test_tasks,
            "test_classes": args.test_classes,
            "test_sets": args.test_sets,
            "rotations": args.rotations,
            "augment": args.augment,
            "meta_batch": args.meta_batch,
            "task_steps": self.task_steps,
            "test_steps": args.test_steps,
            "batch": args.batch,
            "task_lr": args.task_lr,
            "cosine": args.cosine,
            "early_stopping": args.early_stopping,
            "meta_lr": args.meta_lr,
            "meta_anneal": args.meta_anneal.then_some(args.meta_steps),
            "task_optimizer": args.task_optimizer,
            "meta_optimizer": args.meta_optimizer,
            "held_out_statistics": args.held_out_statistics,
            "own_head": args.own_head,
            "model": self.model,
        })
    }

    fn model(&self, _run: &Run, device: &Device) -> Result<ConvNet, TaskError> {
        Ok(self.model.init(device)?)
    }

    fn train(&self, run: &Run) -> Result<Tasks, TaskError> {
        Ok(match &self.data {
            Data::Sets(sets) if self.args.adapt.is_some() => Box::new(sets.clone()),
            Data::Sets(sets) => Box::new(sets.only(|name| !self.is_test(name, sets))),
            Data::Classes(images) => {
                let images = self.train_images(images, run)?;
                let classes = Vec::from_iter(0..images.classes().len());
                let shots = self.args.train_shots.unwrap_or(self.args.shots);
                let queries = self.args.train_queries.unwrap_or(self.args.queries);
                Box::new(self.episodes(shots, queries).init(images, &classes)?)
            }
        })
    }

    fn held_out(&self, run: &Run) -> Result<Tasks, TaskError> {
        Ok(match &self.data {
            Data::Sets(sets) => Box::new(sets.only(|name| self.is_test(name, sets))),
            Data::Classes(images) => {
                let classes = &self.split(images, run)?[1];
                let config = self.episodes(self.args.shots, self.args.queries);
                Box::new(config.init(images.clone(), classes)?)
            }
        })
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Method>, TaskError> {
        let args = &self.args;
        let method = match &*run.method {
            ADAPTED => "none".parse()?,
            _ => run.method()?,
        };
        let held_out = self.training(args.test_steps.unwrap_or(self.task_steps));
        let held_out = match args.early_stopping {
            Some(patience) => held_out.with_early_stopping(EarlyStopping {
                every: CHECK_EVERY,
                patience,
            }),
            None => held_out,
        };
        let trainer = MetaTrainer::new(method)
            .with_meta_batch_size(args.meta_batch)
            .with_task_training(self.training(self.task_steps))
            .with_held_out_training(held_out);
        let optimizer = args.meta_optimizer.init();
        let trainer = match args.meta_anneal && args.meta_steps > 0 {
            true => {
                let line = LinearLrSchedulerConfig::new(args.meta_lr, 0.0, args.meta_steps);
                trainer.with_meta_optimizer(optimizer, line.init()?)
            }
            false => trainer.with_meta_optimizer(optimizer, args.meta_lr),
        };
        let trainer = match args.held_out_statistics {
            Some(statistics) => trainer.with_held_out_statistics(statistics),
            None => trainer,
        };
        Ok(match args.own_head || args.tasks == Kind::Folders {
            true => trainer.with_shared(ParamGroup::from_predicate("encoder")),
            false => trainer,
        })
    }

    fn meta_train(&self, session: &Session<Self>) -> Result<ConvNet, Error> {
        let (run, trainer, scratch) = (session.run(), session.trainer()?, session.scratch()?);
        if let Some(init) = self.adapted.as_ref().filter(|_| run.method == ADAPTED) {
            return session.load(init, scratch);
        }
        let tasks = self.train(run)?;
        let Method::Finetuning(_) = run.method()? else {
            return session.meta_train(trainer, scratch, &tasks);
        };
        // One body on batches of all classes, with a head for each data set: as many steps as a meta-batch has.
        let (tasks, classes): (Tasks, usize) = match &self.data {
            Data::Sets(sets) => {
                let sets = sets.only(|name| !self.is_test(name, sets));
                (Box::new(sets.mixed()), sets.classes().sum())
            }
            Data::Classes(images) => {
                let train = self.train_images(images, run)?;
                let (name, classes) = ("all classes".into(), train.classes().len());
                let set = DataSet {
                    name,
                    train,
                    test: None,
                    damaged: Vec::new(),
                };
                let batch = self.args.batch.unwrap_or(self.args.ways * self.args.shots);
                let config = DataSetTasksConfig::new()
                    .with_batch_size(batch)
                    .with_standardize(false)
                    .with_validation(0.0)
                    .with_held_out(0.0)
                    .with_augment(self.args.augment.then(RandomAffine::new));
                let tasks = config.init([set]).map_err(TaskError::from)?;
                (Box::new(tasks.mixed()), classes)
            }
        };
        let trainer = trainer
            .with_shared(ParamGroup::all())
            .with_meta_batch_size(1)
            .with_task_steps(self.args.meta_batch.saturating_mul(self.task_steps))
            .with_meta_optimizer(SgdConfig::new().init(), 1.0);
        let model = session.initialize(scratch.clone().with_outputs(classes)?);
        let steps = session.meta_steps();
        session.meta_train_as(steps, trainer, model, &tasks, |trained| ConvNet {
            encoder: trained.encoder,
            head: scratch.head.clone(),
        })
    }
}

fn main() -> ExitCode {
    show_log();
    let given = Args::command().get_matches();
    end(match Args::from_arg_matches(&given) {
        Ok(args) => ignored(&args, &given).and_then(|()| run(args)),
        Err(error) => error.exit(),
    })
}

/// Flags that say what episodes are, or tasks of a few classes, or which data sets are held out: an error where tasks are
/// something else.
fn ignored(args: &Args, given: &ArgMatches) -> Result<(), TaskError> {
    const OF_EPISODES: &[&str] = &["shots", "train_shots"];
    const OF_CLASSES: &[&str] = &[
        "ways",
        "queries",
        "train_queries",
        "test_tasks",
        "test_classes",
        "rotations",
    ];
    let is_given = |flag: &&str| given.value_source(flag) == Some(ValueSource::CommandLine);
    let (others, tasks) = match args.tasks {
        _ if args.adapt.is_some() => return Ok(()),
        Kind::Episodes => (vec!["test_sets"], "episodes"),
        Kind::Classes => ([OF_EPISODES, &["test_sets"]].concat(), "classes"),
        Kind::Folders => ([OF_EPISODES, OF_CLASSES].concat(), "folders"),
    };
    match others.into_iter().find(is_given) {
        None => Ok(()),
        Some(flag) => {
            let flag = flag.replace('_', "-");
            Err(format!("--{flag} says nothing of --tasks {tasks}").into())
        }
    }
}

fn run(mut args: Args) -> Result<(), TaskError> {
    let mut config = ImagesConfig::new()
        .with_size(args.image_size.map(|side| [side; 2]))
        .with_channels(args.grey.then_some(1))
        .with_strict(args.strict);
    let mut model = ConvNetConfig::new()
        .with_classes(args.ways)
        .with_filters(args.filters)
        .with_layers(args.layers);
    let (mut methods, mut meta_steps) = (Vec::new(), args.meta_steps);
    let (mut standardize, mut adapted) = (true, None);
    match &args.adapt {
        None => methods.extend(args.methods.iter().map(Method::to_string)),
        // Images are brought to the shape of those that the model knows.
        Some(path) => {
            let init = Initialization::read(path)?;
            let saved = init.settings().clone();
            let settings = &saved["experiment"]["settings"];
            model = serde_json::from_value(settings["model"].clone())
                .map_err(|_| format!("{} was not saved by this program", path.display()))?;
            // A model that was trained on a data set has a head for its classes.
            if let Some([_, classes]) = init.shape("head.weight") {
                model.classes = *classes;
            }
            config.size = Some(model.image_size);
            config.channels = Some(model.channels);
            meta_steps = saved["experiment"]["meta_steps"].as_u64().unwrap_or(1) as usize;
            if saved["run"]["method"] == "none" {
                meta_steps = 0;
            }
            if meta_steps == 0 {
                let why = "has not been meta-trained: it is of 0 meta-steps";
                return Err(format!("{} {why}", path.display()).into());
            }
            args.meta_batch = settings["meta_batch"].as_u64().unwrap_or(1) as usize;
            // As the model has seen images in meta-training.
            let of_sets = settings["tasks"] == json!(Kind::Folders);
            standardize = settings["standardize"].as_bool().unwrap_or(of_sets);
            adapted = Some(init);
            args.tasks = Kind::Folders;
            methods.push(ADAPTED.into());
        }
    }
    let sets = DataSetTasksConfig::new()
        .with_batch_size(args.batch.unwrap_or(32))
        .with_standardize(standardize)
        .with_augment(args.augment.then(RandomAffine::new));
    let (data, digests, shape) = match (args.tasks, &args.data, &args.adapt) {
        (Kind::Folders, None, _) => return Err("--tasks folders needs --data".into()),
        (Kind::Folders, Some(path), adapt) => {
            if adapt.is_none() {
                config.size.get_or_insert([32; 2]);
                config.channels.get_or_insert(3);
            }
            let all = match adapt {
                Some(_) => vec![config.load(path)?],
                None => config.load_each(path)?,
            };
            if let Some(set) = args
                .test_sets
                .iter()
                .find(|set| all.iter().all(|s| s.name != **set))
            {
                return Err(format!("--test-sets: there is no data set {set}").into());
            }
            let digests = all.iter().map(DataSet::digest).collect();
            let shape = all[0].train.shape();
            (Data::Sets(sets.init(all)?), digests, shape)
        }
        (_, path, _) => {
            let (images, digest) = match path {
                None => {
                    let omniglot = Omniglot::bundled()?;
                    (omniglot.images()?, format!("{:016x}", omniglot.digest()))
                }
                Some(path) => {
                    let set = config.load(path)?;
                    let digest = set.digest();
                    // All images of a class are one class, for the test or not.
                    (set.all()?, digest)
                }
            };
            let shape = images.shape();
            (Data::Classes(Arc::new(images)), vec![digest], shape)
        }
    };
    if args.early_stopping.is_some() {
        let Data::Sets(sets) = &data else {
            let wrong = "--early-stopping is for whole data sets: --tasks folders, or --adapt";
            return Err(wrong.into());
        };
        let steps = args.test_steps.or(args.task_steps);
        if steps.is_some_and(|steps| steps < CHECK_EVERY) {
            let wrong = "a held-out data set is trained for fewer (--test-steps)";
            return Err(
                format!("--early-stopping looks every {CHECK_EVERY} steps: {wrong}").into(),
            );
        }
        let mut validated = sets.names().zip(sets.validation_images());
        if let Some((name, _)) = validated.find(|(_, images)| *images == 0) {
            let wrong = "has too few images of each class to validate on";
            return Err(format!("--early-stopping: {name} {wrong}").into());
        }
    }
    let [channels, height, width] = shape;
    let out = match args.adapt {
        None => "runs/images",
        Some(_) => "runs/images-adapted",
    };
    let task_steps = args.task_steps.unwrap_or(match args.tasks {
        Kind::Episodes => 5,
        _ => 50,
    });
    let sweep = Sweep::new("Meta-learning on images", out)
        .with_methods(methods)
        .with_seeds(args.seeds.clone())
        .with_meta_steps(meta_steps)
        .with_checkpoint_every(args.checkpoint_every)
        .with_options(args.options.clone())
        .with_stop(interruption()?);
    let sweep = match args.adapt {
        Some(_) => sweep.with_models(),
        None => sweep,
    };
    let experiment = OwnImages {
        model: model
            .with_channels(channels)
            .with_image_size([height, width]),
        data,
        digests,
        adapted,
        standardize,
        task_steps,
        args,
    };
    if let Some(init) = &experiment.adapted {
        let device = &leap_core::devices(&experiment.args.options.device)?[0];
        init.load(experiment.model.init(device)?)?;
    }
    sweep.run(&experiment)?;
    Ok(())
}
