//! The paper's Multi-CV experiment: whole data sets are the tasks. An encoder is meta-trained on all of them but one, which
//! is then learned from it, each in turn.
//!
//! ```text
//! cargo run --example multi_cv -- --data FOLDER --held-out cifar10
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::{Module, ParamGroup};
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::{Device, Tensor};
use clap::Parser;
use leap_core::{
    EarlyStopping, InnerLoop, Learned, LearningCurve, LearningPath, MetaLearner, MetaTrainer,
    Method, ParamSpace, Predict, Task, TaskError, with_norms_of,
};
use leap_lab::{
    Error, Experiment, Run, RunOptions, RunResult, Session, Sweep, Table, end, interruption,
    not_negative, positive, say, show_log, up_to,
};
use leap_models::{
    AsHat, AsProgressive, ConvNet, ConvNetConfig, Hat, HatNet, ProgressiveNet, ProgressiveNets,
};
use leap_tasks::images::{DataSet, DataSetTasks, DataSetTasksConfig, Images, ImagesConfig};
use serde_json::{Value, json};

/// A data set of the experiment.
struct Known {
    /// Its name, which is that of its folder in --data.
    name: &'static str,
    /// Where it is published, and as what.
    published: &'static str,
    /// Test error in the paper, in %: no pretraining, multi-headed finetuning, HAT, Progressive Nets, Leap.
    paper: Option<[f64; 5]>,
}

const SETS: [Known; 8] = [
    Known {
        name: "mnist",
        published: "yann.lecun.com/exdb/mnist: train-images-idx3-ubyte.gz and three more",
        paper: None,
    },
    Known {
        name: "fashion-mnist",
        published: "github.com/zalandoresearch/fashion-mnist, or Debian's package dataset-fashion-mnist: as MNIST's files",
        paper: None,
    },
    Known {
        name: "notmnist",
        published: "yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html: notMNIST_small.tar.gz, notMNIST_large.tar.gz",
        paper: None,
    },
    Known {
        name: "svhn",
        published: "ufldl.stanford.edu/housenumbers: train_32x32.mat, test_32x32.mat",
        paper: None,
    },
    Known {
        name: "cifar10",
        published: "www.cs.toronto.edu/~kriz/cifar.html: cifar-10-binary.tar.gz",
        paper: Some([26.2, 27.4, 27.7, 24.2, 21.2]),
    },
    Known {
        name: "cifar100",
        published: "www.cs.toronto.edu/~kriz/cifar.html: cifar-100-binary.tar.gz",
        paper: Some([54.8, 59.2, 62.0, 55.7, 52.0]),
    },
    Known {
        name: "gtsrb",
        published: "benchmark.ini.rub.de: GTSRB_Final_Training_Images.zip, GTSRB_Final_Test_Images.zip, GTSRB_Final_Test_GT.zip",
        paper: Some([3.6, 5.7, 5.4, 3.6, 2.9]),
    },
    Known {
        name: "facescrub",
        published: "vintage.winklerbros.net/facescrub.html: a folder of photographs for each person",
        paper: None,
    },
];

/// Data sets as tasks: an encoder is meta-trained on all of them but one, which is then learned from it.
///
/// The defaults are the paper's, as far as it says them.
#[derive(Clone, Parser)]
#[command(args_override_self = true, allow_negative_numbers = true)]
struct Args {
    /// A folder with a folder or an archive for each data set: mnist, fashion-mnist, notmnist, svhn, cifar10, cifar100, gtsrb,
    /// facescrub, as many of them as there are, and any others
    #[arg(long)]
    data: PathBuf,
    /// Data sets to hold out, one after the other [default: all that there are]
    #[arg(long, value_delimiter = ',')]
    held_out: Vec<String>,
    /// Methods: leap-energy, leap, reptile, fomaml, finetuning; hat, hard attention to the task; progressive, progressive
    /// nets. Learning from scratch (none) is always there
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "leap-energy,finetuning,hat,progressive,none",
        value_parser = known
    )]
    methods: Vec<String>,
    /// Seeds of all that is random
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Meta-steps
    #[arg(long, default_value_t = 100, value_parser = not_negative::<usize>)]
    meta_steps: usize,
    /// Tasks in a meta-batch
    #[arg(long, default_value_t = 10, value_parser = up_to::<1_000_000>)]
    meta_batch: usize,
    /// How often a task goes through its images in meta-training
    #[arg(long, default_value_t = 1.0, value_parser = positive::<f64>)]
    epochs: f64,
    /// Training steps of the held-out data set, at most
    #[arg(long, default_value_t = 10_000, value_parser = positive::<usize>)]
    test_steps: usize,
    /// Training steps from one look at its validation images to the next
    #[arg(long, default_value_t = 100, value_parser = positive::<usize>)]
    check_every: usize,
    /// Looks without a lower error there, after which training stops
    #[arg(long, default_value_t = 10, value_parser = positive::<usize>)]
    patience: usize,
    /// Images in a batch
    #[arg(long, default_value_t = 32, value_parser = up_to::<1_000_000>)]
    batch: usize,
    /// Use this many images of each data set at most
    #[arg(long, value_parser = up_to::<1_000_000>)]
    images: Option<usize>,
    /// Learning rate of the tasks, which goes to 0 along half a wave of the cosine
    #[arg(long, default_value_t = 0.1, value_parser = positive::<f64>)]
    task_lr: f64,
    /// Learning rate of meta-training, with Adam
    #[arg(long, default_value_t = 0.01, value_parser = positive::<f64>)]
    meta_lr: f64,
    /// Scale the kernels of an encoder, once it is meta-trained, back to the norms that they began with, so that the learning
    /// rate does behind their normalization what it does from scratch
    #[arg(long)]
    restore_norms: bool,
    /// Filters in each convolution
    #[arg(long, default_value_t = 64, value_parser = up_to::<4096>)]
    filters: usize,
    /// Save a checkpoint after every so many meta-steps
    #[arg(long, default_value_t = 1, value_parser = not_negative::<usize>)]
    checkpoint_every: usize,
    #[command(flatten)]
    options: RunOptions,
}

/// The name of a method, if it is one.
fn known(name: &str) -> Result<String, String> {
    if [HAT, PROGRESSIVE].contains(&name) {
        return Ok(name.to_string());
    }
    match name.parse().map_err(|e: leap_core::Error| e.to_string())? {
        Method::WarpLeap(_) | Method::Shifting(_) => {
            Err("it is in the example omniglot alone".into())
        }
        _ => Ok(name.to_string()),
    }
}

const HAT: &str = "hat";
const PROGRESSIVE: &str = "progressive";

/// Height and width that all images are brought to, in colour.
const SIZE: usize = 32;

/// The models that are compared: the encoder as it is, with gates, or once for each data set.
#[derive(Module, Debug)]
enum Net {
    Conv(ConvNet),
    Hat(HatNet),
    Progressive(ProgressiveNet),
}

impl Predict<Tensor<4>> for Net {
    fn predict(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Conv(net) => net.forward(images),
            Self::Hat(net) => net.forward(images),
            Self::Progressive(net) => net.forward(images),
        }
    }

    fn with_outputs(self, outputs: usize) -> Result<Self, TaskError> {
        Ok(match self {
            Self::Conv(net) => Self::Conv(net.with_outputs(outputs)?),
            Self::Hat(net) => Self::Hat(net.with_outputs(outputs)?),
            Self::Progressive(net) => Self::Progressive(net.with_outputs(outputs)?),
        })
    }
}

impl AsHat for Net {
    fn as_hat(&mut self) -> Option<&mut HatNet> {
        match self {
            Self::Hat(net) => Some(net),
            _ => None,
        }
    }
}

impl AsProgressive for Net {
    fn as_progressive(&mut self) -> Option<&mut ProgressiveNet> {
        match self {
            Self::Progressive(net) => Some(net),
            _ => None,
        }
    }
}

/// The learners that are compared.
#[derive(Clone, Copy, Debug)]
enum Learner {
    Method(Method),
    Hat(Hat),
    Progressive(ProgressiveNets),
}

impl MetaLearner<Net> for Learner {
    fn learn<T: Task<Net>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: Net,
        task: &mut T,
    ) -> Result<Learned<Net>, TaskError> {
        match self {
            Self::Method(learner) => learner.learn(space, inner, model, task),
            Self::Hat(learner) => learner.learn(space, inner, model, task),
            Self::Progressive(learner) => learner.learn(space, inner, model, task),
        }
    }

    fn adapt<T: Task<Net>>(
        &self,
        inner: &InnerLoop,
        model: Net,
        task: &mut T,
        path: &mut impl LearningPath,
    ) -> Result<(Net, LearningCurve), TaskError> {
        match self {
            Self::Method(learner) => learner.adapt(inner, model, task, path),
            Self::Hat(learner) => learner.adapt(inner, model, task, path),
            Self::Progressive(learner) => learner.adapt(inner, model, task, path),
        }
    }
}

struct HeldOutSet {
    args: Args,
    name: String,
    /// Of each data set's bytes.
    digests: Vec<String>,
    train: DataSetTasks,
    held_out: DataSetTasks,
}

impl HeldOutSet {
    /// How tasks train for so many steps.
    fn training(&self, steps: usize) -> InnerLoop {
        let lr = self.args.task_lr;
        InnerLoop::new(steps, SgdConfig::new().init(), lr)
            .with_lr_schedule(move |steps| CosineAnnealingLrSchedulerConfig::new(lr, steps).init())
    }

    /// Steps of the longest task in meta-training.
    fn longest(&self) -> usize {
        let images = self.train.train_images().max().unwrap_or(1);
        let steps = (self.args.epochs * images as f64 / self.args.batch as f64).ceil() as usize;
        steps.max(2) // A path needs two.
    }
}

impl Experiment for HeldOutSet {
    type Model = Net;
    type Learner = Learner;
    type Train = DataSetTasks;
    type HeldOut = DataSetTasks;

    fn settings(&self) -> Value {
        let args = &self.args;
        json!({
            "data": self.digests,
            "train": self.train.names().collect::<Vec<_>>(),
            "held_out": self.name,
            "meta_batch": args.meta_batch,
            "epochs": args.epochs,
            "test_steps": args.test_steps,
            "check_every": args.check_every,
            "patience": args.patience,
            "batch": args.batch,
            "images": args.images,
            "task_lr": args.task_lr,
            "meta_lr": args.meta_lr,
            "restore_norms": args.restore_norms,
            "model": self.model_config(),
        })
    }

    fn settings_of(&self, run: &Run) -> Value {
        match &*run.method {
            // They see each data set the longer, the more meta-steps the others have.
            HAT | PROGRESSIVE => json!({ "meta_steps": self.args.meta_steps }),
            _ => Value::Null,
        }
    }

    fn model(&self, run: &Run, device: &Device) -> Result<Net, TaskError> {
        let config = self.model_config();
        // A column for each data set, that which is held out as well.
        let columns = self.train.names().count() + 1;
        Ok(match &*run.method {
            HAT => Net::Hat(HatNet::new(&config, device)?),
            PROGRESSIVE => Net::Progressive(ProgressiveNet::new(&config, columns, device)?),
            _ => Net::Conv(config.init(device)?),
        })
    }

    fn train(&self, _run: &Run) -> Result<DataSetTasks, TaskError> {
        Ok(self.train.clone())
    }

    fn held_out(&self, _run: &Run) -> Result<DataSetTasks, TaskError> {
        Ok(self.held_out.clone())
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Learner>, TaskError> {
        let learner = match &*run.method {
            HAT => {
                // Gates harden along an epoch; all data sets have that of the one that is held out.
                let images = self.held_out.train_images().next().unwrap_or(0);
                Learner::Hat(Hat::new().with_period(images.div_ceil(self.args.batch).max(2)))
            }
            PROGRESSIVE => Learner::Progressive(ProgressiveNets),
            _ => Learner::Method(run.method()?),
        };
        let stopping = EarlyStopping {
            every: self.args.check_every,
            patience: self.args.patience,
        };
        let held_out = self.training(self.args.test_steps);
        Ok(MetaTrainer::new(learner)
            .with_meta_batch_size(self.args.meta_batch)
            .with_task_training(self.training(self.longest()))
            .with_held_out_training(held_out.with_early_stopping(stopping))
            .with_meta_optimizer(AdamConfig::new().init(), self.args.meta_lr)
            .with_shared(ParamGroup::from_predicate("encoder")))
    }

    fn meta_train(&self, session: &Session<Self>) -> Result<Net, Error> {
        let (trainer, scratch) = (session.trainer()?, session.scratch()?);
        let steps = self.args.meta_batch.saturating_mul(self.longest());
        // Those that go on from what they have trained, and not from a mean: as many steps as a meta-batch has at most.
        let on = |trainer: MetaTrainer<Learner>, steps| {
            trainer
                .with_meta_batch_size(1)
                .with_task_training(self.training(steps))
                .with_meta_optimizer(SgdConfig::new().init(), 1.0)
        };
        let init = match (&*session.run().method, scratch.clone()) {
            // One data set after the other, as often as the others see it.
            (HAT | PROGRESSIVE, scratch) => {
                let sets = self.train.names().count();
                let visits =
                    self.args.meta_steps as f64 * self.args.meta_batch as f64 / sets as f64;
                let longest = (visits * self.longest() as f64).ceil() as usize;
                let trainer = on(trainer, longest).with_tasks_in_turn();
                let epochs = Some(visits * self.args.epochs);
                let tasks = self.train.clone().with_epochs(epochs);
                session.meta_train_as(sets, trainer, scratch, &tasks, |model| model)
            }
            // One body on batches of all data sets, with a head for each.
            ("finetuning", Net::Conv(scratch)) => {
                let model = scratch.clone().with_outputs(self.train.classes().sum())?;
                let model = Net::Conv(session.initialize(model));
                let trainer = on(trainer, steps).with_shared(ParamGroup::all());
                let finish = |trained| match trained {
                    Net::Conv(net) => Net::Conv(ConvNet {
                        encoder: net.encoder,
                        head: scratch.head.clone(),
                    }),
                    other => other,
                };
                let (steps, tasks) = (session.meta_steps(), self.train.mixed());
                session.meta_train_as(steps, trainer, model, &tasks, finish)
            }
            (_, scratch) => session.meta_train(trainer, scratch, &self.train),
        }?;
        Ok(match (self.args.restore_norms, &init) {
            (true, Net::Conv(_)) => {
                with_norms_of(init, &scratch, &ParamGroup::from_predicate("conv.weight"))?
            }
            _ => init,
        })
    }
}

impl HeldOutSet {
    fn model_config(&self) -> ConvNetConfig {
        ConvNetConfig::new()
            .with_channels(3)
            .with_image_size([SIZE; 2])
            .with_filters(self.args.filters)
            .with_classes(self.held_out.classes().next().unwrap_or(1))
    }
}

fn main() -> ExitCode {
    show_log();
    end(run(Args::parse()))
}

/// The data sets in a folder, those of the paper that are missing named.
fn load(args: &Args) -> Result<Vec<DataSet>, TaskError> {
    let config = ImagesConfig::new()
        .with_size(Some([SIZE; 2]))
        .with_channels(Some(3))
        .with_most(args.images);
    let sets = config.load_each(&args.data)?;
    for known in &SETS {
        if sets.iter().all(|set| set.name != known.name) {
            say(&format!(
                "{} is not there; it is published at {}",
                known.name, known.published
            ));
        }
    }
    for set in &sets {
        let (train, classes) = (set.train.len(), set.train.classes().len());
        let test = set.test.as_ref().map_or(0, Images::len);
        say(&format!(
            "{}: {train} images to train on, {test} to test, {classes} classes",
            set.name
        ));
    }
    Ok(sets)
}

fn run(args: Args) -> Result<(), TaskError> {
    let sets = load(&args)?;
    if sets.len() < 2 {
        return Err("there must be at least two data sets, one of them to hold out".into());
    }
    if let Some(name) = args
        .held_out
        .iter()
        .find(|name| sets.iter().all(|s| s.name != **name))
    {
        return Err(format!("--held-out: there is no data set {name}").into());
    }
    let digests = Vec::from_iter(sets.iter().map(DataSet::digest));
    let config = DataSetTasksConfig::new().with_batch_size(args.batch);
    let whole = config.init(sets)?;
    let validated = whole.names().zip(whole.validation_images());
    if let Some((name, _)) = { validated }.find(|(_, images)| *images == 0) {
        return Err(format!("{name} has too few images of each class to validate on").into());
    }
    let epochs = whole.clone().with_epochs(Some(args.epochs));
    let names = Vec::from_iter(whole.names().map(String::from));
    let stop = interruption()?;
    let out = args.options.out.clone().unwrap_or("runs/multi-cv".into());
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for name in names
        .iter()
        .filter(|name| args.held_out.is_empty() || args.held_out.contains(name))
    {
        let sweep = Sweep::new(format!("Multi-CV: {name} held out"), out.join(name))
            .with_methods(&args.methods)
            .with_seeds(args.seeds.clone())
            .with_meta_steps(args.meta_steps)
            .with_checkpoint_every(args.checkpoint_every)
            .with_path_pictures(0)
            .with_options(RunOptions {
                out: Some(out.join(name)),
                ..args.options.clone()
            })
            .with_stop(stop.clone());
        let experiment = HeldOutSet {
            args: args.clone(),
            name: name.clone(),
            digests: digests.clone(),
            train: epochs.only(|set| set != name),
            held_out: whole.only(|set| set == name),
        };
        match sweep.run(&experiment) {
            Ok(results) => done.push((name.as_str(), results)),
            // The others can be had nevertheless.
            Err(Error::Failed { failures: these }) => {
                failures.extend(these.iter().map(|this| format!("  {name}:{this}")));
            }
            Err(error) if done.is_empty() => return Err(error.into()),
            Err(error @ Error::Interrupted) => return Err(error.into()),
            Err(error) => failures.push(format!("  {name}: {error}")),
        }
    }
    say("\nErrors in %; that of training is over the last tenth of its steps");
    for (name, results) in &done {
        say(&format!(
            "\n{name} held out\n{}",
            errors(name, results).text()
        ));
    }
    say(&format!(
        "A report for each data set is in {}",
        out.display()
    ));
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::Failed { failures }.into()),
    }
}

/// Errors in % with a data set held out, means over seeds, and the paper's test errors beside them.
fn errors(name: &str, results: &[RunResult]) -> Table {
    let known = SETS.iter().find(|known| known.name == name);
    let paper = known.and_then(|known| known.paper);
    let of_paper = ["none", "finetuning", HAT, PROGRESSIVE, "leap-energy"];
    let error = |accuracy: f64| 100.0 * (1.0 - accuracy);
    let mean = |values: Vec<f64>| match values.len() {
        0 => f64::NAN,
        count => values.iter().sum::<f64>() / count as f64,
    };
    // Single batches are noisy.
    let at_the_end = |curve: &[f64]| {
        let last = &curve[curve.len() - curve.len().div_ceil(10)..];
        mean(last.to_vec())
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for method in results.iter().map(|result| result.run.method.as_str()) {
        if rows.iter().any(|row| row[0] == method) {
            continue;
        }
        let of = || results.iter().filter(|result| result.run.method == method);
        let test = of().filter_map(|r| r.summary.held_out_tasks.held_out_accuracy);
        let train = of().filter_map(|r| Some(&r.held_out.tasks.first()?.curve.accuracy));
        let train = train.map(|curve| error(at_the_end(curve)));
        let place = of_paper.iter().position(|known| *known == method);
        let paper = place.and_then(|place| Some(paper?[place]));
        rows.push(vec![
            method.to_string(),
            of().count().to_string(),
            format!("{:.1}", mean(test.map(error).collect())),
            format!("{:.1}", mean(train.collect())),
            format!(
                "{:.3}",
                mean(of().map(|r| r.summary.held_out_tasks.auc).collect())
            ),
            paper.map_or("–".into(), |error| format!("{error:.1}")),
        ]);
    }
    let head = [
        "method",
        "seeds",
        "test error",
        "training error",
        "AUC",
        "paper: test error",
    ];
    Table {
        head: head.map(String::from).to_vec(),
        rows,
    }
}
