//! What the reinforcement-learning examples share: an experiment that meta-trains on some environments and compares how
//! others are learned from the initialization and from scratch.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};
use burn::module::ParamGroup;
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::store::{ModuleSnapshot, SafetensorsStore};
use clap::{Args, ValueEnum};
use leap_core::{
    Checkpoints, Error, Lanes, MetaTrainer, Method, Report, Summary, is_cpu, redraw, run_rng,
};
use leap_models::{ActorCriticConfig, ActorCriticNet};
use leap_tasks::rl::{A2cConfig, A2cTasks, Draw, EnvFamily, Monitor};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::figures::mean_and_deviation;
use crate::{Chart, Figure, Progress, RunFolder, Section, Series, Table, animate, report, write};

/// Settings that all experiments of this kind have.
#[derive(Args, Clone, Debug)]
pub struct ActingArgs {
    /// Seeds of all that is random
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub seeds: Vec<u64>,
    /// Meta-learner: leap, leap-energy, reptile, fomaml, …
    #[arg(long)]
    pub method: Option<Method>,
    /// Meta-steps; without any, held-out environments are learned from scratch alone
    #[arg(long)]
    pub meta_steps: Option<usize>,
    /// Environments in a meta-batch
    #[arg(long)]
    pub meta_batch: Option<usize>,
    /// Environment steps that an environment is learned for
    #[arg(long)]
    pub env_steps: Option<usize>,
    /// Environment steps that a held-out environment is learned for [default: as many]
    #[arg(long)]
    pub held_out_env_steps: Option<usize>,
    /// Copies of an environment side by side
    #[arg(long)]
    pub envs: Option<usize>,
    /// Steps in each copy before the model is trained on them
    #[arg(long, default_value_t = 5)]
    pub unroll: usize,
    /// What a reward counts a step later
    #[arg(long, default_value_t = 0.99)]
    pub discount: f64,
    /// Weight of the policy's entropy
    #[arg(long, default_value_t = 0.01)]
    pub entropy: f64,
    /// Weight of the value's squared error
    #[arg(long, default_value_t = 0.5)]
    pub value_loss: f64,
    /// Rewards that are learned from are cut off at ± this
    #[arg(long, default_value_t = 5.0)]
    pub reward_clip: f64,
    /// Optimizer of the tasks
    #[arg(long, value_enum)]
    pub task_optimizer: Option<Optimizer>,
    /// Learning rate of the tasks
    #[arg(long)]
    pub task_lr: Option<f64>,
    /// Optimizer of meta-training
    #[arg(long, value_enum, default_value_t = Optimizer::Adam)]
    pub meta_optimizer: Optimizer,
    /// Learning rate of meta-training
    #[arg(long)]
    pub meta_lr: Option<f64>,
    /// Whether policy and value are meta-learned with the encoder, or each task's own, drawn anew
    #[arg(long, value_enum)]
    pub heads: Option<Heads>,
    /// A score that counts as learned: how many steps it takes is reported
    #[arg(long)]
    pub target: Option<f64>,
    /// Where to compute, several separated by commas
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// CPU threads, each with an environment to learn [default: the cores]
    #[arg(long)]
    pub lanes: Option<usize>,
    /// Folder of the results
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Go on with what is in the folder
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace what is in the folder
    #[arg(long)]
    pub overwrite: bool,
    /// Save within a task after every so many environment steps
    #[arg(long)]
    pub checkpoint_env_steps: Option<usize>,
}

/// What trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd,
    /// Adam.
    Adam,
    /// RMSProp as the paper has it on Atari.
    RmsProp,
}

/// What becomes of policy and value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
pub enum Heads {
    /// They are meta-learned, too; all environments need the same actions.
    Shared,
    /// They are each task's own; the encoder alone is meta-learned.
    Own,
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

/// An experiment: environments to meta-train on, others to test, and what is not said by flags.
pub struct Acting<F> {
    /// What it is called, in its report.
    pub title: String,
    /// Environments to meta-train on.
    pub train: F,
    /// Environments to test.
    pub held_out: F,
    /// The same, to be looked at.
    pub shown: F,
    /// The model.
    pub model: ActorCriticConfig,
    /// The budget where no flag says otherwise.
    pub budget: Budget,
    /// Milliseconds for which a picture of a recorded episode is shown.
    pub frame: u64,
}

/// How it is trained, and how much.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// The meta-learner.
    pub method: Method,
    /// What is meta-learned besides the encoder.
    pub heads: Heads,
    /// Optimizer of the tasks.
    pub task_optimizer: Optimizer,
    /// Meta-steps.
    pub meta_steps: usize,
    /// Environments in a meta-batch.
    pub meta_batch: usize,
    /// Environment steps that an environment is learned for.
    pub env_steps: usize,
    /// Copies of an environment side by side.
    pub envs: usize,
    /// Learning rate of the tasks.
    pub task_lr: f64,
    /// Learning rate of meta-training.
    pub meta_lr: f64,
    /// A score that counts as learned.
    pub target: Option<f64>,
    /// Environment steps between checkpoints within a task.
    pub checkpoint_env_steps: usize,
}

impl Budget {
    fn with(self, args: &ActingArgs) -> Self {
        Self {
            method: args.method.unwrap_or(self.method),
            heads: args.heads.unwrap_or(self.heads),
            task_optimizer: args.task_optimizer.unwrap_or(self.task_optimizer),
            meta_steps: args.meta_steps.unwrap_or(self.meta_steps),
            meta_batch: args.meta_batch.unwrap_or(self.meta_batch),
            env_steps: args.env_steps.unwrap_or(self.env_steps),
            envs: args.envs.unwrap_or(self.envs),
            task_lr: args.task_lr.unwrap_or(self.task_lr),
            meta_lr: args.meta_lr.unwrap_or(self.meta_lr),
            target: args.target.or(self.target),
            checkpoint_env_steps: args
                .checkpoint_env_steps
                .unwrap_or(self.checkpoint_env_steps),
        }
    }

    /// How many initializations are compared: without meta-training, there is scratch alone.
    fn evaluations(&self) -> usize {
        if self.meta_steps == 0 { 1 } else { NAMES.len() }
    }
}

/// What came of a seed.
struct Compared {
    seed: u64,
    meta_steps: Vec<MetaStepMetrics>,
    /// Held-out environments from scratch, and from the initialization if it was meta-trained: in the order of [`NAMES`].
    reports: Vec<Report>,
}

/// A line of `metrics.jsonl`.
#[derive(Serialize, Deserialize)]
struct MetaStepMetrics {
    meta_step: usize,
    #[serde(flatten)]
    tasks: Summary,
    seconds: f64,
}

/// `scratch.json` and `meta-trained.json`: what came of held-out environments.
#[derive(Serialize, Deserialize)]
struct Evaluation {
    /// Meta-steps of the initialization.
    meta_steps: usize,
    report: Report,
}

/// A line of `results.csv`.
struct Row {
    name: &'static str,
    seed: u64,
    summary: Summary,
    /// Environment steps to the target, of those environments that reached it.
    reached: Vec<usize>,
}

const NAMES: [&str; 2] = ["scratch", "meta-trained"];

impl<F> Acting<F>
where
    F: EnvFamily<Env: Draw> + Clone,
{
    /// Runs the experiment, or what is left of it.
    ///
    /// # Errors
    /// If a setting cannot work, a file cannot be written, or training fails.
    pub fn run(&self, args: &ActingArgs, default_out: &str) -> Result<()> {
        let budget = self.budget.with(args);
        let out = args.out.clone().unwrap_or(default_out.into());
        let a2c = A2cConfig::new()
            .with_envs(budget.envs)
            .with_unroll(args.unroll)
            .with_discount(args.discount)
            .with_entropy(args.entropy)
            .with_value_loss(args.value_loss)
            .with_reward_clip(Some(args.reward_clip));
        let steps = |env_steps: usize| (env_steps / a2c.env_steps().max(1)).max(2);
        let held_out_env_steps = args.held_out_env_steps.unwrap_or(budget.env_steps);
        let devices = leap_core::devices(&args.device)?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let lanes = Lanes::on(&devices, args.lanes.unwrap_or(cores))?;
        let home = match devices.iter().find(|device| is_cpu(device)) {
            Some(cpu) => cpu.clone(),
            None => leap_core::device("flex").unwrap_or(devices[0].clone()),
        }
        .autodiff();
        self.model.init(&home)?;
        ensure!(!args.seeds.is_empty(), "--seeds needs a seed");
        ensure!(
            budget.envs > 0 && args.unroll > 0 && budget.meta_batch > 0,
            "--envs, --unroll and --meta-batch must be above 0"
        );
        ensure!(args.reward_clip > 0.0, "--reward-clip must be above 0");
        ensure!(
            budget.checkpoint_env_steps > 0,
            "--checkpoint-env-steps must be above 0"
        );

        let folder = RunFolder::open(
            &out,
            &json!({
                "title": self.title,
                "train": first_names(&self.train),
                "held_out": first_names(&self.held_out),
                "environments": self.train.len(),
                "method": budget.method,
                "meta_steps": budget.meta_steps,
                "meta_batch": budget.meta_batch,
                "env_steps": budget.env_steps,
                "held_out_env_steps": held_out_env_steps,
                "a2c": a2c,
                "task_optimizer": budget.task_optimizer,
                "task_lr": budget.task_lr,
                "meta_optimizer": args.meta_optimizer,
                "meta_lr": budget.meta_lr,
                "heads": budget.heads,
                "checkpoint_env_steps": budget.checkpoint_env_steps,
                "model": self.model,
                "device": args.device,
            }),
            args.resume,
            args.overwrite,
        )?;
        let stop = crate::interruption_at("the last checkpoint within each task is kept")?;
        let train = a2c.tasks(self.train.clone());
        let monitor = train.monitor();
        let held_out = a2c
            .tasks(self.held_out.clone())
            .with_monitor(monitor.clone());
        let trained = budget.meta_steps * budget.meta_batch * steps(budget.env_steps);
        let tested = budget.evaluations() * self.held_out.len() * steps(held_out_env_steps);
        let total = args.seeds.len() * (trained + tested) * a2c.env_steps();
        println!(
            "{}: {} million environment steps on {} lanes, results in {}",
            self.title,
            total as f64 / 1e6,
            lanes.len(),
            out.display()
        );
        let watch = Watch::begin(&monitor, total as f64);
        let mut done = Vec::new();
        for &seed in &args.seeds {
            let trainer = MetaTrainer::new(budget.method)
                .with_seed(seed)
                .with_meta_batch_size(budget.meta_batch)
                .with_task_steps(steps(budget.env_steps))
                .with_task_optimizer(budget.task_optimizer.init(), budget.task_lr)
                .with_meta_optimizer(args.meta_optimizer.init(), budget.meta_lr)
                .with_shared(match budget.heads {
                    Heads::Shared => ParamGroup::all(),
                    Heads::Own => ParamGroup::from_predicate("encoder"),
                })
                .with_checkpoints(
                    Checkpoints::new(out.join(format!("seed-{seed}/checkpoints")), 1)
                        .with_task_steps(steps(budget.checkpoint_env_steps)),
                )
                .with_stop(stop.clone());
            let model = self.model.init(&home)?;
            let mut rng = run_rng(seed, "initial parameters");
            let scratch = redraw(model, &ParamGroup::all(), &mut rng);
            let evaluation = trainer.clone().with_task_steps(steps(held_out_env_steps));
            let result = self.compare(
                seed, &folder, trainer, evaluation, scratch, &train, &held_out, &lanes, &budget,
                &watch,
            );
            match result {
                Ok(compared) => done.push(compared),
                Err(error) if is_interruption(&error) => {
                    watch.end();
                    println!("interrupted; --resume goes on");
                    std::process::exit(130);
                }
                Err(error) => return Err(error),
            }
            self.write_results(&folder, &a2c, &budget, &done)?;
        }
        watch.end();
        let rows = rows(&done, a2c.env_steps(), budget.target);
        print!("\n{}", results_table(&rows, budget.target).text());
        println!("Everything is in {}; see report.html there", out.display());
        Ok(())
    }

    /// Meta-trains with one seed, then learns the held-out environments from both initializations.
    #[allow(clippy::too_many_arguments)]
    fn compare(
        &self,
        seed: u64,
        folder: &RunFolder,
        trainer: MetaTrainer<Method>,
        evaluation: MetaTrainer<Method>,
        scratch: ActorCriticNet,
        train: &A2cTasks<F>,
        held_out: &A2cTasks<F>,
        lanes: &Lanes,
        budget: &Budget,
        watch: &Watch,
    ) -> Result<Compared> {
        let here = folder.subfolder(&format!("seed-{seed}"))?;
        let meta_train_steps = trainer.task_steps() * train.config().env_steps();
        let mut run = trainer.resume(scratch.clone())?;
        let mut metrics = here.metrics(run.meta_step())?;
        watch.skip(run.meta_step() * budget.meta_batch * meta_train_steps);
        while run.meta_step() < budget.meta_steps {
            let report = run.step(train, lanes)?;
            let tasks = report.summary();
            metrics.write(&MetaStepMetrics {
                meta_step: run.meta_step(),
                tasks,
                seconds: report.seconds,
            })?;
            watch.say(&format!(
                "seed {seed}, meta-step {}/{}: score {:.1}, at the end {:.1}; path length {:.3}, energy {:.2e}",
                run.meta_step(),
                budget.meta_steps,
                tasks.score.unwrap_or(f64::NAN),
                tasks.last_score.unwrap_or(f64::NAN),
                tasks.path_length.unwrap_or(f64::NAN),
                tasks.path_energy.unwrap_or(f64::NAN),
            ));
        }
        let init = run.into_init();
        let path = here.join("init.safetensors");
        init.save_into(&mut SafetensorsStore::from_file(&path).overwrite(true))
            .map_err(|e| anyhow::anyhow!("{}: {e:?}", path.display()))?;

        let shown = held_out.config().tasks(self.shown.clone());
        let mut reports = Vec::new();
        let both = NAMES.into_iter().zip([&scratch, &init]);
        for (name, init) in both.take(budget.evaluations()) {
            let file = format!("{name}.json");
            // That of an initialization that was trained on since is no more of use.
            let meta_steps = if name == NAMES[0] {
                0
            } else {
                budget.meta_steps
            };
            let done = here.read_json::<Evaluation>(&file)?;
            let report = match done.filter(|done| done.meta_steps == meta_steps) {
                Some(Evaluation { report, .. }) => {
                    let steps = evaluation.task_steps() * held_out.config().env_steps();
                    watch.skip(self.held_out.len() * steps);
                    report
                }
                None => {
                    let report =
                        evaluation.evaluate_with(init, held_out, lanes, |task, model| {
                            let index = task.index;
                            let path = here.join(&format!("{name}-{index}.safetensors"));
                            model
                                .save_into(&mut SafetensorsStore::from_file(&path).overwrite(true))
                                .map_err(|e| format!("{}: {e:?}", path.display()))?;
                            if index == 0 {
                                let (pictures, _) = shown.record(model, 0, 500, seed)?;
                                let gif = animate(&pictures, self.frame)?;
                                std::fs::write(here.join(&format!("{name}.gif")), gif)?;
                            }
                            Ok(())
                        })?;
                    let done = Evaluation { meta_steps, report };
                    here.write_json(&file, &done)?;
                    done.report
                }
            };
            let tasks = report.summary();
            watch.say(&format!(
                "seed {seed}, held-out environments, {name}: score {:.1}, at the end {:.1}; path length {:.3}",
                tasks.score.unwrap_or(f64::NAN),
                tasks.last_score.unwrap_or(f64::NAN),
                tasks.path_length.unwrap_or(f64::NAN),
            ));
            reports.push(report);
        }
        Ok(Compared {
            seed,
            meta_steps: here.read_lines("metrics.jsonl")?,
            reports,
        })
    }

    /// `results.csv`, the figures and `report.html`, of the seeds that are done.
    fn write_results(
        &self,
        folder: &RunFolder,
        a2c: &A2cConfig,
        budget: &Budget,
        done: &[Compared],
    ) -> Result<()> {
        let rows = rows(done, a2c.env_steps(), budget.target);
        write(&folder.join("results.csv"), &csv(&rows))?;
        let mut sections = vec![Section {
            title: "Held-out environments".into(),
            text: format!(
                "The score is the mean return of the last {} episodes, over {} environments. Bands and ± are one \
                 standard deviation over seeds, here {}.",
                a2c.score_episodes,
                self.held_out.len(),
                done.len()
            ),
            tables: vec![results_table(&rows, budget.target)],
            figures: figures(folder, "score", score_charts(done, a2c.env_steps()))?,
        }];
        sections.push(Section {
            title: "Meta-training".into(),
            text: format!(
                "{} meta-steps of {} environments, each learned for {} environment steps.",
                budget.meta_steps, budget.meta_batch, budget.env_steps
            ),
            tables: vec![],
            figures: figures(folder, "meta-training", meta_charts(done))?,
        });
        let seed = done[0].seed;
        let mut recorded = Vec::new();
        for name in NAMES {
            let path = folder.join(&format!("seed-{seed}/{name}.gif"));
            if let Ok(gif) = std::fs::read(&path) {
                let description = format!("{}, {name}", self.held_out.name(0));
                let data = BASE64_STANDARD.encode(gif);
                recorded.push(Figure {
                    svg: format!("<img alt=\"\" src=\"data:image/gif;base64,{data}\">"),
                    description,
                    wide: false,
                });
            }
        }
        sections.push(Section {
            title: "An episode".into(),
            text: format!("{}, after it was learned.", self.held_out.name(0)),
            tables: vec![],
            figures: recorded,
        });
        sections.retain(|s| !s.tables.is_empty() || !s.figures.is_empty());
        let html = report(&self.title, "", &sections);
        write(&folder.join("report.html"), &html)
    }
}

/// What a family is known by.
fn first_names(family: &impl EnvFamily) -> Vec<String> {
    (0..family.len().min(30)).map(|i| family.name(i)).collect()
}

fn is_interruption(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::Interrupted))
}

/// Progress, from what the tasks' monitor says.
struct Watch {
    progress: Arc<Progress>,
    ended: Arc<AtomicBool>,
}

impl Watch {
    fn begin(monitor: &Arc<Monitor>, total: f64) -> Self {
        let progress = Arc::new(Progress::new(total));
        let ended = Arc::new(AtomicBool::new(false));
        let watch = Self {
            progress: progress.clone(),
            ended: ended.clone(),
        };
        let monitor = monitor.clone();
        std::thread::spawn(move || {
            let (mut seen, mut restored, start) = (0, 0, Instant::now());
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(500));
                let now = monitor.restored_env_steps();
                progress.skip((now - restored) as f64);
                restored = now;
                let now = monitor.env_steps();
                let rate = now as f64 / start.elapsed().as_secs_f64();
                let scores = monitor.scores();
                let mut message = format!("{rate:.0} environment steps a second");
                if let Some(best) = scores.into_values().reduce(f64::max) {
                    message += &format!(", best score {best:.1}");
                }
                progress.advance((now - seen) as f64, &message);
                seen = now;
            }
        });
        watch
    }

    fn skip(&self, env_steps: usize) {
        self.progress.skip(env_steps as f64);
    }

    fn say(&self, line: &str) {
        self.progress.say(line);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.progress.finish();
    }
}

fn rows(done: &[Compared], env_steps: usize, target: Option<f64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, name) in NAMES.into_iter().enumerate() {
        for compared in done {
            let Some(report) = compared.reports.get(i) else {
                continue;
            };
            let reached = target.map_or(Vec::new(), |target| {
                let kept = report.tasks.iter().filter(|t| t.left_out.is_none());
                let steps = kept.map(|t| t.curve.steps_to_score(target));
                steps.flatten().map(|s| (s + 1) * env_steps).collect()
            });
            rows.push(Row {
                name,
                seed: compared.seed,
                summary: report.summary(),
                reached,
            });
        }
    }
    rows
}

fn results_table(rows: &[Row], target: Option<f64>) -> Table {
    let mut head = vec![
        "from",
        "seeds",
        "mean score",
        "score at the end",
        "path length",
        "path energy",
    ];
    let target_names = target.map(|t| [format!("reached {t}"), "steps to it".to_string()]);
    if let Some(names) = &target_names {
        head.extend(names.iter().map(String::as_str));
    }
    let names = NAMES
        .into_iter()
        .filter(|name| rows.iter().any(|r| r.name == *name));
    let table = names.map(|name| {
        let of = || rows.iter().filter(|r| r.name == name);
        let spread = |pick: fn(&Row) -> Option<f64>, scientific: bool| {
            let values: Vec<f64> = of().filter_map(pick).collect();
            match (values.len(), mean_and_deviation(values.iter().copied())) {
                (0, _) => "–".to_string(),
                (1, (mean, _)) if scientific => format!("{mean:.2e}"),
                (1, (mean, _)) => format!("{mean:.2}"),
                (_, (mean, deviation)) if scientific => format!("{mean:.2e} ± {deviation:.0e}"),
                (_, (mean, deviation)) => format!("{mean:.2} ± {deviation:.2}"),
            }
        };
        let mut row = vec![
            name.to_string(),
            of().count().to_string(),
            spread(|r| r.summary.score, false),
            spread(|r| r.summary.last_score, false),
            spread(|r| r.summary.path_length, false),
            spread(|r| r.summary.path_energy, true),
        ];
        if target.is_some() {
            let tasks: usize = of().map(|r| r.summary.tasks).sum();
            let reached: usize = of().map(|r| r.reached.len()).sum();
            row.push(format!("{reached} of {tasks}"));
            row.push(spread(
                |r| {
                    let count = r.reached.len();
                    (count > 0).then(|| r.reached.iter().sum::<usize>() as f64 / count as f64)
                },
                false,
            ));
        }
        row
    });
    Table {
        rows: table.collect(),
        head: head.into_iter().map(String::from).collect(),
    }
}

fn csv(rows: &[Row]) -> String {
    let mut text = "from,seed,tasks,score,last_score,reached_target,mean_steps_to_target,path_length,path_energy,path_straightness,path_cosine\n".to_string();
    let cell = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    for row in rows {
        let s = &row.summary;
        let count = row.reached.len();
        let mean = (count > 0).then(|| row.reached.iter().sum::<usize>() as f64 / count as f64);
        text += &[
            row.name.to_string(),
            row.seed.to_string(),
            s.tasks.to_string(),
            cell(s.score),
            cell(s.last_score),
            count.to_string(),
            cell(mean),
            cell(s.path_length),
            cell(s.path_energy),
            cell(s.path_straightness),
            cell(s.path_cosine),
        ]
        .join(",");
        text.push('\n');
    }
    text
}

/// The score while held-out environments are learned: their mean, and one of them each.
fn score_charts(done: &[Compared], env_steps: usize) -> Vec<Chart> {
    let chart = |title: String, pick: &dyn Fn(&Report) -> Vec<Option<f64>>| Chart {
        title,
        x: "environment steps".into(),
        y: "score".into(),
        series: NAMES
            .into_iter()
            .take(done[0].reports.len())
            .enumerate()
            .map(|(i, name)| {
                let curves: Vec<Vec<f64>> = done
                    .iter()
                    .map(|c| {
                        pick(&c.reports[i])
                            .iter()
                            .map(|s| s.unwrap_or(f64::NAN))
                            .collect()
                    })
                    .collect();
                let stride = done[0].reports[i].curve().stride * env_steps;
                let mut series = Series::over(name, 1 - i, 1.0, &curves);
                series.points.iter_mut().for_each(|p| p.0 *= stride as f64);
                series
            })
            .collect(),
        from_zero: false,
        marks: false,
    };
    let mut charts = vec![chart("Learning held-out environments".into(), &|r| {
        r.curve().score
    })];
    for (i, task) in done[0].reports[0].tasks.iter().enumerate() {
        let of_task = move |r: &Report| r.tasks[i].curve.score.clone();
        charts.push(chart(task.name.clone(), &of_task));
    }
    charts
}

/// The tasks of each meta-batch, over meta-steps.
fn meta_charts(done: &[Compared]) -> Vec<Chart> {
    type Pick = fn(&Summary) -> Option<f64>;
    let panels: [(&str, Pick); 5] = [
        ("Score", |s| s.score),
        ("Length of the path", |s| s.path_length),
        ("Energy of the path", |s| s.path_energy),
        ("Straightness of the path", |s| s.path_straightness),
        ("Cosine between segments", |s| s.path_cosine),
    ];
    let chart = |(name, pick): (&str, Pick)| {
        let curve = |c: &Compared| {
            let last = c.meta_steps.last().map_or(0, |m| m.meta_step);
            let mut values = vec![f64::NAN; last];
            for metrics in &c.meta_steps {
                values[metrics.meta_step - 1] = pick(&metrics.tasks).unwrap_or(f64::NAN);
            }
            values
        };
        let curves: Vec<Vec<f64>> = done.iter().map(curve).collect();
        Chart {
            title: name.into(),
            x: "meta-step".into(),
            y: name.to_lowercase(),
            series: vec![Series::over("meta-training", 0, 1.0, &curves)],
            from_zero: false,
            marks: false,
        }
    };
    panels.map(chart).to_vec()
}

fn figures(folder: &RunFolder, name: &str, charts: Vec<Chart>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (i, chart) in charts.into_iter().enumerate() {
        // A chart of what was not measured is left out.
        let Ok(svg) = chart.svg() else { continue };
        write(&folder.join(&format!("{name}-{}.svg", i + 1)), &svg)?;
        figures.push(Figure {
            svg,
            description: chart.title,
            wide: false,
        });
    }
    Ok(figures)
}
