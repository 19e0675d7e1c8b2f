//! What a sweep is to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use leap_core::MetaTrainer;

use crate::error::Error;
use crate::folder::{RunFolder, SEARCH};
use crate::options::RunOptions;
use crate::progress::Progress;
use crate::sweep::run::{Run, SCRATCH};
use crate::tracking::tensorboard::TensorBoard;
use crate::tracking::tracker::Tracker;

/// Makes a tracker for a run, whose files may go to a folder.
type MakeTracker = dyn Fn(&Run, &Path) -> Result<Box<dyn Tracker>, Error> + Send + Sync;

/// Runs of an experiment: methods × settings × seeds, side by side, each of which meta-trains an initialization and learns
/// the held-out tasks from it.
///
/// Learning from scratch, the method `none`, is part of every sweep. All that comes out lies in a folder, with a report
/// page; a sweep that was interrupted, or killed, goes on from there and comes to the same numbers.
#[derive(Clone)]
pub struct Sweep {
    pub(super) title: String,
    pub(super) out: PathBuf,
    pub(super) methods: Vec<String>,
    pub(super) settings: Vec<(String, Vec<f64>)>,
    pub(super) seeds: Vec<u64>,
    pub(super) meta_steps: usize,
    pub(super) every: usize,
    pub(super) every_task_steps: usize,
    pub(super) pictures: usize,
    pub(super) keep_models: bool,
    pub(super) target: Option<f64>,
    pub(super) options: RunOptions,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) tracker: Option<Arc<MakeTracker>>,
    pub(super) validate_every: usize,
    pub(super) search: Option<Search>,
    /// Whether it is itself a search, which the held-out tasks take no part in.
    pub(super) on_validation: bool,
}

/// A setting whose value is chosen on validation tasks.
#[derive(Clone)]
pub(super) struct Search {
    pub name: String,
    pub values: Vec<f64>,
    pub meta_steps: usize,
}

impl Sweep {
    /// A sweep called `title` whose results go to the folder `out`: Leap against learning from scratch, with seed 0, for
    /// 100 meta-steps.
    pub fn new(title: impl Into<String>, out: impl Into<PathBuf>) -> Self {
        Self {
            title: title.into(),
            out: out.into(),
            methods: vec!["leap".into()],
            settings: Vec::new(),
            seeds: vec![0],
            meta_steps: 100,
            every: 5,
            every_task_steps: 0,
            pictures: 4,
            keep_models: false,
            target: None,
            options: RunOptions::default(),
            stop: Arc::default(),
            tracker: None,
            validate_every: 0,
            search: None,
            on_validation: false,
        }
    }

    /// The methods, by their names (default `leap`).
    pub fn with_methods<S: ToString>(mut self, methods: impl IntoIterator<Item = S>) -> Self {
        self.methods = methods.into_iter().map(|m| m.to_string()).collect();
        self
    }

    /// A setting to go through, as [`Run::setting`] gives it to the experiment; every combination with the others is a run.
    pub fn with_setting(
        mut self,
        name: impl Into<String>,
        values: impl IntoIterator<Item = f64>,
    ) -> Self {
        self.settings
            .push((name.into(), values.into_iter().collect()));
        self
    }

    /// Seeds of all that is random (default 0).
    pub fn with_seeds(mut self, seeds: impl IntoIterator<Item = u64>) -> Self {
        self.seeds = seeds.into_iter().collect();
        self
    }

    /// Meta-steps of each run (default 100). Without any, there is learning from scratch alone.
    pub fn with_meta_steps(mut self, meta_steps: usize) -> Self {
        self.meta_steps = meta_steps;
        self
    }

    /// Saves a checkpoint every so many meta-steps (default 5).
    pub fn with_checkpoint_every(mut self, meta_steps: usize) -> Self {
        self.every = meta_steps;
        self
    }

    /// Saves within tasks too, every so many steps of each, and stops in their middle, for tasks that take hours (default
    /// never).
    pub fn with_task_checkpoints(mut self, steps: usize) -> Self {
        self.every_task_steps = steps;
        self
    }

    /// Of how many held-out tasks the paths are drawn, with the first seed (default 4). All of their points are kept in
    /// memory for it.
    pub fn with_path_pictures(mut self, tasks: usize) -> Self {
        self.pictures = tasks;
        self
    }

    /// Saves the model that was trained on each held-out task, too.
    pub fn with_models(mut self) -> Self {
        self.keep_models = true;
        self
    }

    /// A score that counts as learned: the report says how many held-out tasks came to it, and when.
    pub fn with_target(mut self, score: Option<f64>) -> Self {
        self.target = score;
        self
    }

    /// Where to compute, and what becomes of what is in the folder.
    pub fn with_options(mut self, options: RunOptions) -> Self {
        if let Some(out) = &options.out {
            self.out = out.clone();
        }
        self.options = options;
        self
    }

    /// Stops when the flag is set, as [`interruption`](crate::interruption) does at Ctrl-C, as soon as all that was done can
    /// be resumed from.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// Tells a tracker of your own how each run goes on. `make` gets the run and its folder.
    pub fn with_tracker(
        mut self,
        make: impl Fn(&Run, &Path) -> Result<Box<dyn Tracker>, Error> + Send + Sync + 'static,
    ) -> Self {
        self.tracker = Some(Arc::new(make));
        self
    }

    /// Learns the [validation tasks](crate::Experiment::validation) too, from the initialization after every so many
    /// meta-steps (default never): the metrics have what came of it, and the report a curve over meta-steps.
    pub fn with_validation_every(mut self, meta_steps: usize) -> Self {
        self.validate_every = meta_steps;
        self
    }

    /// Chooses a setting for each method, and for each combination of the settings that are gone through, before the runs:
    /// each of `values` is meta-trained with for `meta_steps` meta-steps, with the first seed, and the one with the lowest AUC
    /// on the [validation tasks](crate::Experiment::validation) is taken for all seeds, among those that leave out fewest of
    /// them. [`Run::setting`] gives it to the experiment. The search is a sweep of its own, with its report, in the folder
    /// `search`; a [tracker](Self::with_tracker) is told of its runs, too. There is one search in a sweep.
    pub fn with_search(
        mut self,
        name: impl Into<String>,
        values: impl IntoIterator<Item = f64>,
        meta_steps: usize,
    ) -> Self {
        self.search = Some(Search {
            name: name.into(),
            values: values.into_iter().collect(),
            meta_steps,
        });
        self
    }

    /// The sweep that a search is.
    pub(super) fn searching(&self, search: &Search) -> Self {
        let mut sweep = self.clone();
        sweep.title = format!("{}: search for {}", self.title, search.name);
        sweep.out = self.out.join(SEARCH);
        sweep.seeds.truncate(1);
        sweep.meta_steps = search.meta_steps;
        sweep
            .settings
            .push((search.name.clone(), search.values.clone()));
        (sweep.pictures, sweep.keep_models) = (0, false);
        (sweep.search, sweep.validate_every) = (None, 0);
        sweep.on_validation = true;
        sweep
    }

    /// The runs, those of a seed together, learning from scratch first.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut settings = vec![BTreeMap::new()];
        for (name, values) in &self.settings {
            let with = |settings: &BTreeMap<String, f64>, value: f64| {
                let mut settings = settings.clone();
                settings.insert(name.clone(), value);
                settings
            };
            let all = settings.iter();
            settings = all
                .flat_map(|s| values.iter().map(|v| with(s, *v)).collect::<Vec<_>>())
                .collect();
        }
        let mut runs: Vec<Run> = Vec::new();
        for &seed in &self.seeds {
            let mut add = |run: Run| {
                if !runs.contains(&run) {
                    runs.push(run);
                }
            };
            add(self.scratch(seed));
            for settings in settings.iter().filter(|_| self.meta_steps > 0) {
                for method in self.methods.iter().filter(|method| *method != SCRATCH) {
                    add(Run {
                        method: method.clone(),
                        settings: settings.clone(),
                        searched: BTreeMap::new(),
                        seed,
                    });
                }
            }
        }
        runs
    }

    /// The run of a seed that is not meta-trained.
    pub(super) fn scratch(&self, seed: u64) -> Run {
        let settings = self.settings.iter().map(|(name, _)| (name.clone(), 0.0));
        Run {
            method: SCRATCH.into(),
            settings: settings.collect(),
            searched: BTreeMap::new(),
            seed,
        }
    }

    /// The experiment's trainer, with what the sweep adds.
    pub(super) fn prepare<L: Clone>(
        &self,
        trainer: MetaTrainer<L>,
        run: &Run,
        progress: &Progress,
    ) -> MetaTrainer<L> {
        let trainer = trainer.with_seed(run.seed).with_monitor(progress.monitor());
        let trainer = match self.options.task_batch {
            None => trainer,
            Some(tasks) => trainer.with_task_batch(tasks),
        };
        let trainer = match self.options.task_memory {
            None => trainer,
            Some(mebibytes) => trainer.with_task_memory((mebibytes as u64).saturating_mul(1 << 20)),
        };
        match self.every_task_steps {
            0 => trainer,
            _ => trainer.with_stop(self.stop.clone()),
        }
    }

    pub(super) fn trackers(
        &self,
        run: &Run,
        folder: &RunFolder,
        meta_step: usize,
    ) -> Result<Vec<Box<dyn Tracker>>, Error> {
        let mut trackers: Vec<Box<dyn Tracker>> = Vec::new();
        if self.options.tensorboard {
            trackers.push(Box::new(TensorBoard::new(folder.path(), meta_step)?));
        }
        if let Some(make) = &self.tracker {
            trackers.push(make(run, folder.path())?);
        }
        Ok(trackers)
    }

    /// That a run has taken more meta-steps than it is to take.
    pub(super) fn fewer(&self, run: &Run, taken: usize) -> Error {
        Error::Setting(format!(
            "{} has taken {taken} meta-steps already, more than --meta-steps {}",
            run.name(),
            self.meta_steps
        ))
    }
}
