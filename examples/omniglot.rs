//! The paper's Omniglot experiment: initializations are meta-trained on some alphabets, and alphabets that they
//! have never seen are learned from them. One method or all of them, any number of alphabets and seeds.
//!
//! ```text
//! cargo run --example omniglot -- --quick
//! cargo run --example omniglot -- --methods leap,reptile,none --alphabets 5,20 --seeds 1,2,3
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Result, bail};
use burn::module::ParamGroup;
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use leap_core::{
    Checkpoints, Finetuning, Lanes, LearningCurve, MetaTrainer, Method, Report, Summary, TaskSet,
    is_cpu, project_paths, redraw, run_rng,
};
use leap_examples::{
    Chart, Figure, Progress, RunFolder, Section, Series, Table, draw_paths, end, interruption,
    report, write,
};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::omniglot::{Omniglot, OmniglotSplits, OmniglotTasksConfig};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Meta-learning on Omniglot: an alphabet is a task of 20 characters to tell apart.
///
/// The defaults are the paper's; --quick is a smaller experiment of about two minutes on 2 cores.
#[derive(Clone, Parser)]
struct Args {
    /// A smaller experiment; flags given as well have precedence
    #[arg(long)]
    quick: bool,
    /// Methods: leap, reptile, fomaml, fomaml-query, maml, finetuning, none; for leap with the endings
    /// -energy, -noloss, -nostab, in this order
    #[arg(long, value_delimiter = ',', default_value = "leap,none")]
    methods: Vec<Method>,
    /// All eight variants of Leap as well
    #[arg(long)]
    ablation: bool,
    /// Seeds of all that is random
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Numbers of alphabets to meta-train on
    #[arg(long, value_delimiter = ',', default_value = "20")]
    alphabets: Vec<usize>,
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
    /// Learning rate of meta-training [default: 0.1; maml and fomaml 0.5]
    #[arg(long)]
    meta_lr: Option<f64>,
    /// Training steps that maml differentiates through
    #[arg(long, default_value_t = 5)]
    maml_steps: usize,
    /// Step of maml's differences; networks with ReLU and max-pooling need a large one
    #[arg(long, default_value_t = 0.1)]
    maml_difference: f64,
    /// Optimizer of the tasks
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    task_optimizer: Optimizer,
    /// Optimizer of meta-training
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    meta_optimizer: Optimizer,
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
    /// Where to compute, several separated by commas: flex, ndarray, wgpu, vulkan, metal, cuda:0, ws://host:port, … as
    /// built; tasks are shared among them
    #[arg(long, default_value = "flex")]
    device: String,
    /// Runs side by side [default: on CPUs one a core, as far as there are runs; else 1]
    #[arg(long)]
    jobs: Option<usize>,
    /// CPU threads of a run, each with a task of its own [default: the cores that its jobs leave]
    #[arg(long)]
    lanes: Option<usize>,
    /// Folder of the results [default: runs/omniglot, runs/omniglot-quick]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with what is in the folder: runs that are done are skipped, others go on, new ones are added
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace what is in the folder
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

/// A run: a method, meta-trained on some alphabets, with a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Run {
    method: Method,
    /// Number of alphabets that are meta-trained on; 0 without pretraining.
    alphabets: usize,
    seed: u64,
}

/// A run's `summary.json`, and an entry of `results.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RunSummary {
    #[serde(flatten)]
    run: Run,
    meta_steps: usize,
    meta_batch: usize,
    task_steps: usize,
    #[serde(flatten)]
    held_out_tasks: Summary,
    /// Of meta-training, on the run's lanes.
    training_seconds: f64,
    /// Of learning the held-out tasks.
    evaluation_seconds: f64,
}

/// A line of `metrics.jsonl`.
#[derive(Serialize, Deserialize)]
struct MetaStepMetrics {
    /// Meta-steps taken, this one included.
    meta_step: usize,
    #[serde(flatten)]
    tasks: Summary,
    seconds: f64,
}

/// What all runs of an experiment have in common.
struct Experiment {
    args: Args,
    out: PathBuf,
    model: ConvNetConfig,
    tasks: OmniglotTasksConfig,
    data: Arc<Omniglot>,
    /// Where initializations are kept; they visit the others.
    home: Device,
    devices: Vec<Device>,
    /// Threads of a CPU.
    lanes: usize,
    meta_steps: usize,
    meta_batch: usize,
    task_steps: usize,
    progress: Progress,
    interrupted: Arc<AtomicBool>,
}

fn main() -> ExitCode {
    end(start())
}

fn start() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let args = Args::parse();
    let or =
        |given: Option<usize>, paper, quick| given.unwrap_or([paper, quick][args.quick as usize]);

    let runs = runs(&args);
    let devices = leap_core::devices(&args.device)?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let jobs = match args.jobs {
        Some(0) => bail!("--jobs must be at least 1"),
        Some(jobs) => jobs,
        None if devices.iter().all(is_cpu) => {
            cores.min(runs.iter().filter(|r| r.is_trained()).count().max(1))
        }
        None => 1,
    };
    let data = match args.data.as_slice() {
        [] => Omniglot::bundled()?,
        paths => Omniglot::load(paths, args.image_size)?,
    };
    let default_out = ["runs/omniglot", "runs/omniglot-quick"][args.quick as usize];
    let experiment = Experiment {
        out: args.out.clone().unwrap_or(default_out.into()),
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
        // On the CPU, which cannot be lost, if there is one.
        home: match devices.iter().find(|device| is_cpu(device)) {
            Some(cpu) => cpu.clone(),
            None => leap_core::device("flex").unwrap_or(devices[0].clone()),
        },
        devices,
        lanes: args.lanes.unwrap_or((cores / jobs).max(1)),
        meta_steps: or(args.meta_steps, 1000, 40),
        meta_batch: or(args.meta_batch, 20, 5),
        task_steps: or(args.task_steps, 100, 50),
        progress: Progress::new(0.0),
        interrupted: interruption()?,
        args,
    };
    // What cannot work is said before the first run begins.
    experiment.model.init(&experiment.home)?;
    Lanes::on(&experiment.devices, experiment.lanes)?;
    for run in &runs {
        experiment.split(run)?;
    }
    let folder = RunFolder::open(
        &experiment.out,
        &experiment.config(),
        experiment.args.resume,
        experiment.args.overwrite,
    )?;
    println!(
        "{} runs, {jobs} side by side on {}, results in {}",
        runs.len(),
        experiment.args.device,
        experiment.out.display()
    );
    let failures = experiment.run_all(&runs, jobs, &folder)?;
    experiment.progress.finish();
    if experiment.interrupted.load(Ordering::Relaxed) {
        println!("interrupted; --resume goes on");
        std::process::exit(130);
    }
    let done = experiment.done(&folder)?;
    print_tasks(&done);
    println!("{}", results_table(&done).text());
    println!(
        "Everything is in {}; see report.html there",
        experiment.out.display()
    );
    if !failures.is_empty() {
        bail!("{} runs failed:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

/// The runs that the flags ask for, those of a seed together.
fn runs(args: &Args) -> Vec<Run> {
    let variants: Vec<Method> = Method::leap_variants().collect();
    let variants = if args.ablation { &variants[..] } else { &[] };
    let mut runs = Vec::new();
    for &seed in &args.seeds {
        for &alphabets in &args.alphabets {
            for method in args.methods.iter().chain(variants) {
                let run = Run {
                    method: *method,
                    alphabets: match method {
                        Method::NoPretraining(_) => 0,
                        _ => alphabets,
                    },
                    seed,
                };
                if !runs.contains(&run) {
                    runs.push(run);
                }
            }
        }
    }
    runs
}

impl Run {
    /// The name of its folder.
    fn name(&self) -> String {
        let Self {
            method,
            alphabets,
            seed,
        } = self;
        match self.is_trained() {
            true => format!("{method}-{alphabets}-alphabets-seed-{seed}"),
            false => format!("{method}-seed-{seed}"),
        }
    }

    fn is_trained(&self) -> bool {
        !matches!(self.method, Method::NoPretraining(_))
    }
}

/// A run that is done, as its folder has it.
struct Done {
    summary: RunSummary,
    held_out: Report,
    metrics: Vec<MetaStepMetrics>,
    paths: Option<String>,
}

impl Experiment {
    fn config(&self) -> serde_json::Value {
        let args = &self.args;
        json!({
            "meta_steps": self.meta_steps,
            "meta_batch": self.meta_batch,
            "task_steps": self.task_steps,
            "task_lr": args.task_lr,
            "meta_lr": args.meta_lr,
            "maml_steps": args.maml_steps,
            "maml_difference": args.maml_difference,
            "task_optimizer": args.task_optimizer,
            "meta_optimizer": args.meta_optimizer,
            "own_head": args.own_head,
            "model": self.model,
            "tasks": self.tasks,
            "data": args.data,
            "device": args.device,
        })
    }

    fn split(&self, run: &Run) -> Result<OmniglotSplits> {
        let config = self.tasks.clone();
        let config = config
            .with_train_alphabets(run.alphabets)
            .with_seed(run.seed);
        Ok(config.init(self.data.clone())?)
    }

    /// Gradients that a meta-step of a method takes.
    fn work(&self, run: &Run) -> f64 {
        let tasks = self.meta_batch as f64;
        match run.method {
            Method::Maml(_) => tasks * (3 * self.args.maml_steps + 1) as f64,
            Method::NoPretraining(_) => 0.0,
            _ => tasks * self.task_steps as f64,
        }
    }

    /// Does the runs, `jobs` at a time; what went wrong comes back.
    fn run_all(&self, runs: &[Run], jobs: usize, folder: &RunFolder) -> Result<Vec<String>> {
        self.progress
            .add(runs.iter().map(|run| self.total_work(run)).sum());
        let queue = AtomicUsize::new(0);
        let failures = std::sync::Mutex::new(Vec::new());
        let results = std::sync::Mutex::new(());
        let work = || {
            while let Some(run) = runs.get(queue.fetch_add(1, Ordering::Relaxed)) {
                if self.interrupted.load(Ordering::Relaxed) {
                    break;
                }
                log::info!("{} begins", run.name());
                let result = self.run(run).and_then(|summary| {
                    if let Some(summary) = summary {
                        let _one_at_a_time = results.lock().expect("no thread panics with it");
                        self.progress.say(&describe_run(&summary));
                        self.write_results(folder)?;
                    }
                    Ok(())
                });
                if let Err(error) = result {
                    log::error!("{}: {error:#}", run.name());
                    let mut failures = failures.lock().expect("no thread panics with it");
                    failures.push(format!("  {}: {error:#}", run.name()));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(work);
            }
        });
        Ok(failures.into_inner().expect("no thread panicked with it"))
    }

    fn total_work(&self, run: &Run) -> f64 {
        self.work(run) * self.meta_steps as f64 + self.held_out_work()
    }

    fn held_out_work(&self) -> f64 {
        (self.tasks.test_alphabets * self.task_steps) as f64
    }

    /// A run from where it is to its end; `None` if it was interrupted.
    fn run(&self, run: &Run) -> Result<Option<RunSummary>> {
        let config = json!({ "run": run, "experiment": self.config() });
        let path = self.out.join(run.name());
        let folder = RunFolder::open(&path, &config, true, false)?;
        if let Some(done) = folder.read_json::<RunSummary>("summary.json")?
            && done.meta_steps == self.meta_steps
        {
            self.progress.skip(self.total_work(run));
            return Ok(Some(done));
        }
        let device = self.home.clone().autodiff();
        let lanes = Lanes::on(&self.devices, self.lanes)?;
        let tasks = self.split(run)?;
        let drawn = |model: ConvNet| {
            let mut rng = run_rng(run.seed, "initial parameters");
            redraw(model, &ParamGroup::all(), &mut rng)
        };
        let scratch = drawn(self.model.init(&device)?);

        let learner = match run.method {
            Method::Maml(maml) => Method::Maml(maml.with_difference(self.args.maml_difference)),
            other => other,
        };
        let mut trainer = MetaTrainer::new(learner)
            .with_seed(run.seed)
            .with_meta_batch_size(self.meta_batch)
            .with_task_steps(self.task_steps)
            .with_task_optimizer(optimizer(self.args.task_optimizer), self.args.task_lr)
            .with_checkpoints(Checkpoints::new(
                folder.join("checkpoints"),
                self.args.checkpoint_every,
            ));
        if self.args.own_head {
            trainer = trainer.with_shared(ParamGroup::from_predicate("encoder"));
        }
        let evaluation = trainer.clone();
        let meta_lr = self.args.meta_lr;
        let meta_optimizer = || optimizer(self.args.meta_optimizer);
        let init = match run.method {
            Method::NoPretraining(_) => Some(scratch.clone()),
            Method::Finetuning(Finetuning) => {
                let model = self.model.clone();
                let model = model.with_classes(self.args.classes * run.alphabets);
                let trainer = trainer
                    .with_shared(ParamGroup::all())
                    .with_meta_batch_size(1)
                    .with_task_steps(self.meta_batch * self.task_steps)
                    .with_meta_optimizer(SgdConfig::new().init(), 1.0);
                let model = drawn(model.init(&device)?);
                let trained =
                    self.meta_train(run, &folder, trainer, model, &tasks.train.mixed(), &lanes)?;
                trained.map(|trained| ConvNet {
                    encoder: trained.encoder,
                    head: scratch.head.clone(),
                })
            }
            Method::Maml(_) | Method::Fomaml(_) => {
                if let Method::Maml(_) = run.method {
                    trainer = trainer.with_task_steps(self.args.maml_steps);
                }
                let trainer = trainer.with_meta_optimizer(meta_optimizer(), meta_lr.unwrap_or(0.5));
                self.meta_train(run, &folder, trainer, scratch.clone(), &tasks.train, &lanes)?
            }
            Method::Leap(_) | Method::Reptile(_) => {
                let trainer = trainer.with_meta_optimizer(meta_optimizer(), meta_lr.unwrap_or(0.1));
                self.meta_train(run, &folder, trainer, scratch.clone(), &tasks.train, &lanes)?
            }
        };
        let Some(init) = init else {
            return Ok(None);
        };
        let path = folder.join("init.safetensors");
        init.save_into(&mut SafetensorsStore::from_file(&path).overwrite(true))
            .map_err(|e| anyhow::anyhow!("{}: {e:?}", path.display()))?;

        // Held-out alphabets: the same batches for every method.
        let held_out = evaluation.evaluate(&init, &tasks.test, &lanes)?;
        folder.write_json("held_out.json", &held_out)?;
        if run.is_trained() && self.args.seeds.first() == Some(&run.seed) {
            let picture = self.draw_paths(run, &evaluation, [&scratch, &init], &tasks, &lanes)?;
            write(&folder.join("paths.svg"), &picture)?;
        }
        let summary = RunSummary {
            run: run.clone(),
            meta_steps: self.meta_steps,
            meta_batch: self.meta_batch,
            task_steps: self.task_steps,
            held_out_tasks: held_out.summary(),
            training_seconds: folder
                .read_lines::<MetaStepMetrics>("metrics.jsonl")?
                .iter()
                .map(|m| m.seconds)
                .sum(),
            evaluation_seconds: held_out.seconds,
        };
        folder.write_json("summary.json", &summary)?;
        self.progress
            .advance(self.held_out_work(), &format!("{} is done", run.name()));
        Ok(Some(summary))
    }

    /// Meta-trains from the newest checkpoint, or from `init`; `None` if it was interrupted.
    fn meta_train<S: TaskSet<ConvNet>>(
        &self,
        run: &Run,
        folder: &RunFolder,
        trainer: MetaTrainer<Method>,
        init: ConvNet,
        tasks: &S,
        lanes: &Lanes,
    ) -> Result<Option<ConvNet>> {
        let mut meta = trainer.resume(init)?;
        let mut metrics = folder.metrics(meta.meta_step())?;
        self.progress.skip(self.work(run) * meta.meta_step() as f64);
        while meta.meta_step() < self.meta_steps {
            let report = meta.step(tasks, lanes)?;
            let summary = report.summary();
            metrics.write(&MetaStepMetrics {
                meta_step: meta.meta_step(),
                tasks: summary,
                seconds: report.seconds,
            })?;
            let message = format!(
                "{} {}/{}: {}",
                run.name(),
                meta.meta_step(),
                self.meta_steps,
                describe(&summary)
            );
            log::debug!("{message}");
            self.progress.advance(self.work(run), &message);
            if self.interrupted.load(Ordering::Relaxed) {
                meta.save_checkpoint()?;
                return Ok(None);
            }
        }
        meta.save_checkpoint()?;
        Ok(Some(meta.into_init()))
    }

    /// The paths of some held-out tasks before and after meta-training.
    fn draw_paths(
        &self,
        run: &Run,
        trainer: &MetaTrainer<Method>,
        inits: [&ConvNet; 2],
        tasks: &OmniglotSplits,
        lanes: &Lanes,
    ) -> Result<String> {
        let titles = [
            "before meta-training".to_string(),
            format!("after {}", run.method),
        ];
        let mut panels = Vec::new();
        for (title, init) in titles.into_iter().zip(inits) {
            let traces = trainer.trace(init, &tasks.test, 4, lanes)?;
            let (paths, shown) = project_paths(&traces)?;
            panels.push((
                format!("{title} ({:.0} % of variance)", 100.0 * shown),
                paths,
            ));
        }
        draw_paths(&panels)
    }

    /// All runs in the folder that are done, in the order of their names.
    fn done(&self, folder: &RunFolder) -> Result<Vec<Done>> {
        let mut done = BTreeMap::new();
        for entry in std::fs::read_dir(&self.out)? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .to_string();
            let run = |file: &str| format!("{name}/{file}");
            let Some(summary) = folder.read_json::<RunSummary>(&run("summary.json"))? else {
                continue;
            };
            let Some(held_out) = folder.read_json(&run("held_out.json"))? else {
                bail!("{name} has a summary, but no held_out.json");
            };
            let metrics = folder.read_lines(&run("metrics.jsonl"))?;
            let paths = std::fs::read_to_string(folder.join(&run("paths.svg"))).ok();
            let place = METHODS
                .iter()
                .position(|m| *m == summary.run.method.to_string());
            let place = (place.unwrap_or(METHODS.len()), name, summary.run.seed);
            done.insert(
                place,
                Done {
                    summary,
                    held_out,
                    metrics,
                    paths,
                },
            );
        }
        Ok(done.into_values().collect())
    }

    /// `results.json`, `results.csv` and `report.html`, of what is done so far.
    fn write_results(&self, folder: &RunFolder) -> Result<()> {
        let done = self.done(folder)?;
        let summaries: Vec<&RunSummary> = done.iter().map(|d| &d.summary).collect();
        folder.write_json("results.json", &summaries)?;
        write(&folder.join("results.csv"), &csv(&summaries)?)?;
        let figures = |charts: Vec<Chart>, folder: &RunFolder, name: &str| -> Result<Vec<Figure>> {
            let mut figures = Vec::new();
            for (i, chart) in charts.into_iter().enumerate() {
                // A chart of what no run measured yet is left out.
                let Ok(svg) = chart.svg() else { continue };
                write(&folder.join(&format!("{name}-{}.svg", i + 1)), &svg)?;
                figures.push(Figure {
                    svg,
                    description: chart.title,
                    wide: false,
                });
            }
            Ok(figures)
        };
        let budget = format!(
            "{} meta-steps of {} tasks of {} steps; then {} held-out alphabets are learned for {} steps. Bands and ± are one \
             standard deviation over seeds.",
            self.meta_steps,
            self.meta_batch,
            self.task_steps,
            self.tasks.test_alphabets,
            self.task_steps
        );
        let paths = done.iter().filter_map(|d| {
            let svg = d.paths.clone()?;
            Some(Figure {
                svg,
                description: format!("paths of {}", d.summary.run.name()),
                wide: true,
            })
        });
        let sections = [
            Section {
                title: "Held-out alphabets".into(),
                text: "AUC is the area under the curve of the training loss, lower is better. Train is the accuracy over all \
                       training batches, held out that on drawings that were kept back, after training."
                    .into(),
                tables: vec![results_table(&done)],
                figures: figures(learning_curves(&done), folder, "curves")?,
            },
            Section {
                title: "Against the number of alphabets".into(),
                text: "How the results change with the number of alphabets that were meta-trained on.".into(),
                tables: vec![],
                figures: figures(against_alphabets(&done), folder, "alphabets")?,
            },
            Section {
                title: "Meta-training".into(),
                text: "Means over the tasks of a meta-batch. The path runs through parameters and loss: its length and energy, its \
                       straightness (the distance between its ends over its length), and the cosine between segments that follow \
                       each other."
                    .into(),
                tables: vec![],
                figures: figures(over_meta_steps(&done), folder, "meta-training")?,
            },
            Section {
                title: "Paths".into(),
                text: "Four held-out alphabets, from the same initialization, in the plane of the paths' first two principal \
                       components. Both panels have one scale."
                    .into(),
                tables: vec![],
                figures: paths.collect(),
            },
        ];
        let sections: Vec<Section> = sections
            .into_iter()
            .filter(|s| !s.tables.is_empty() || !s.figures.is_empty())
            .collect();
        write(
            &folder.join("report.html"),
            &report("Meta-learning on Omniglot", &budget, &sections),
        )
    }
}

/// The order of methods in tables and figures; Leap's variants come last.
const METHODS: [&str; 7] = [
    "leap",
    "reptile",
    "fomaml",
    "fomaml-query",
    "maml",
    "finetuning",
    "none",
];

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

fn describe_run(summary: &RunSummary) -> String {
    let tasks = &summary.held_out_tasks;
    format!(
        "{}: AUC {:.3}, accuracy {:.3} in training, {:.3} held out",
        summary.run.name(),
        tasks.auc,
        tasks.accuracy.unwrap_or(f64::NAN),
        tasks.held_out_accuracy.unwrap_or(f64::NAN)
    )
}

/// The runs of each (method, number of alphabets), in order.
fn groups(done: &[Done]) -> Vec<((String, usize), Vec<&Done>)> {
    let mut groups: Vec<((String, usize), Vec<&Done>)> = Vec::new();
    for run in done {
        let key = (
            run.summary.run.method.to_string(),
            run.summary.run.alphabets,
        );
        match groups.iter_mut().find(|(k, _)| *k == key) {
            Some((_, runs)) => runs.push(run),
            None => groups.push((key, vec![run])),
        }
    }
    groups
}

/// Methods in the order of the groups, with a colour for each.
fn colour(done: &[Done], method: &str) -> usize {
    let mut methods: Vec<String> = Vec::new();
    for ((method, _), _) in groups(done) {
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    methods.iter().position(|m| m == method).unwrap_or(0)
}

/// Mean and standard deviation of a result over runs, as text.
fn spread(runs: &[&Done], result: fn(&Summary) -> Option<f64>) -> String {
    let values: Vec<f64> = runs
        .iter()
        .filter_map(|r| result(&r.summary.held_out_tasks))
        .collect();
    match Series::over(
        "",
        0,
        0.0,
        &values.iter().map(|v| vec![*v]).collect::<Vec<_>>(),
    )
    .points
    .first()
    {
        None => "–".into(),
        Some((_, mean, _)) if values.len() == 1 => format!("{mean:.3}"),
        Some((_, mean, deviation)) => format!("{mean:.3} ± {deviation:.3}"),
    }
}

fn results_table(done: &[Done]) -> Table {
    let head = [
        "method",
        "alphabets",
        "seeds",
        "AUC",
        "train",
        "held out",
        "path length",
        "seconds",
    ];
    let rows = groups(done).into_iter().map(|((method, alphabets), runs)| {
        let seconds = runs.iter().map(|r| r.summary.training_seconds);
        let seconds = seconds.fold(0.0, |a, b| a + b) / runs.len() as f64;
        vec![
            method,
            match alphabets {
                0 => "–".into(),
                count => count.to_string(),
            },
            runs.len().to_string(),
            spread(&runs, |s| Some(s.auc)),
            spread(&runs, |s| s.accuracy),
            spread(&runs, |s| s.held_out_accuracy),
            spread(&runs, |s| s.path_length),
            format!("{seconds:.0}"),
        ]
    });
    Table {
        head: head.map(String::from).to_vec(),
        rows: rows.collect(),
    }
}

/// Every held-out alphabet, where the runs are few enough for it: one seed, one number of alphabets.
fn print_tasks(done: &[Done]) {
    let same = |f: fn(&Run) -> u64| {
        done.iter()
            .all(|d| f(&d.summary.run) == f(&done[0].summary.run))
    };
    if done.is_empty() || done.len() > 4 || !same(|r| r.seed) {
        return;
    }
    let mut head = vec!["alphabet".to_string()];
    head.extend(done.iter().flat_map(|d| {
        let method = d.summary.run.method;
        [format!("{method}: AUC"), "held out".to_string()]
    }));
    let rows = (0..done[0].held_out.tasks.len()).map(|i| {
        let mut row = vec![done[0].held_out.tasks[i].name.clone()];
        for run in done {
            let task = Summary::of(&run.held_out.tasks[i..=i]);
            row.push(format!("{:.3}", task.auc));
            row.push(format!("{:.3}", task.held_out_accuracy.unwrap_or(f64::NAN)));
        }
        row
    });
    let rows = rows.collect();
    println!("\n{}", Table { head, rows }.text());
}

fn csv(summaries: &[&RunSummary]) -> Result<String> {
    let mut text = String::new();
    for summary in summaries {
        let serde_json::Value::Object(fields) = serde_json::to_value(summary)? else {
            bail!("a summary is an object");
        };
        if text.is_empty() {
            text = fields.keys().cloned().collect::<Vec<_>>().join(",") + "\n";
        }
        let cells = fields.values().map(|value| match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => String::new(),
            other => other.to_string(),
        });
        text += &(cells.collect::<Vec<_>>().join(",") + "\n");
    }
    Ok(text)
}

/// Loss and accuracy on held-out tasks at each step, of the runs with most alphabets.
fn learning_curves(done: &[Done]) -> Vec<Chart> {
    let most = done.iter().map(|d| d.summary.run.alphabets).max();
    type Pick = fn(LearningCurve) -> Vec<f64>;
    let panels: [(&str, Pick); 2] = [("loss", |c| c.loss), ("accuracy", |c| c.accuracy)];
    let chart = |(name, pick): (&str, Pick)| Chart {
        title: format!("Learning held-out alphabets: {name}"),
        x: "training step".into(),
        y: name.into(),
        from_zero: true,
        series: groups(done)
            .into_iter()
            .filter(|((_, alphabets), _)| *alphabets == 0 || Some(*alphabets) == most)
            .map(|((method, _), runs)| {
                let curves: Vec<_> = runs.iter().map(|r| pick(r.held_out.curve())).collect();
                Series::over(&method, colour(done, &method), 1.0, &curves)
            })
            .collect(),
        marks: false,
    };
    panels.map(chart).to_vec()
}

/// AUC and held-out accuracy against the number of alphabets, if there are several.
fn against_alphabets(done: &[Done]) -> Vec<Chart> {
    type Pick = fn(&Summary) -> Option<f64>;
    let panels: [(&str, Pick); 2] = [
        ("AUC", |s| Some(s.auc)),
        ("held-out accuracy", |s| s.held_out_accuracy),
    ];
    let groups = groups(done);
    let trained = groups.iter().map(|((_, alphabets), _)| *alphabets);
    let trained: Vec<usize> = trained.filter(|alphabets| *alphabets > 0).collect();
    let (Some(&fewest), Some(&most)) = (trained.iter().min(), trained.iter().max()) else {
        return Vec::new();
    };
    if fewest == most {
        return Vec::new();
    }
    let chart = |(name, pick): (&str, Pick)| {
        let mut series: BTreeMap<usize, Series> = BTreeMap::new();
        for ((method, alphabets), runs) in &groups {
            let values: Vec<_> = runs
                .iter()
                .filter_map(|r| pick(&r.summary.held_out_tasks).map(|v| vec![v]))
                .collect();
            let at =
                |alphabets| Series::over(method, colour(done, method), alphabets as f64, &values);
            let line = match alphabets {
                0 => [at(fewest), at(most)],
                &count => [at(count), Series::default()],
            };
            let first = Series {
                points: vec![],
                ..line[0].clone()
            };
            let all = series.entry(first.colour).or_insert(first);
            all.points.extend(line.into_iter().flat_map(|s| s.points));
            all.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        Chart {
            title: format!("Held-out alphabets: {name}"),
            x: "alphabets meta-trained on".into(),
            y: name.into(),
            series: series.into_values().collect(),
            from_zero: false,
            marks: true,
        }
    };
    panels.map(chart).to_vec()
}

/// The tasks of each meta-batch, over meta-steps, of the runs with most alphabets.
fn over_meta_steps(done: &[Done]) -> Vec<Chart> {
    let most = done.iter().map(|d| d.summary.run.alphabets).max();
    type Pick = fn(&Summary) -> Option<f64>;
    let panels: [(&str, Pick); 5] = [
        ("Training loss", |s| Some(s.loss)),
        ("Length of the path", |s| s.path_length),
        ("Energy of the path", |s| s.path_energy),
        ("Straightness of the path", |s| s.path_straightness),
        ("Cosine between segments", |s| s.path_cosine),
    ];
    let chart = |(name, pick): (&str, Pick)| Chart {
        title: name.into(),
        x: "meta-step".into(),
        y: name.to_lowercase(),
        series: groups(done)
            .into_iter()
            // MAML's tasks are of other lengths, and those of finetuning are other tasks.
            .filter(|((method, alphabets), _)| {
                Some(*alphabets) == most
                    && !["maml", "finetuning", "none"].contains(&method.as_str())
            })
            .map(|((method, _), runs)| {
                let curves: Vec<Vec<f64>> = runs
                    .iter()
                    .map(|r| {
                        r.metrics
                            .iter()
                            .map(|m| pick(&m.tasks).unwrap_or(f64::NAN))
                            .collect()
                    })
                    .collect();
                Series::over(&method, colour(done, &method), 1.0, &curves)
            })
            .collect(),
        from_zero: false,
        marks: false,
    };
    panels.map(chart).to_vec()
}
