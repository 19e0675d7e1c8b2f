//! What an experiment is about.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{Module, ParamGroup};
use burn::tensor::Device;
use leap_core::{
    Checkpoints, Lanes, MetaLearner, MetaTrainer, Summary, TaskError, TaskSet, reinitialize,
    run_rng, task_copy, with_device_seed,
};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::folder::RunFolder;
use crate::initialization::{Initialization, to_safetensors};
use crate::progress::Progress;
use crate::sweep::plan::Sweep;
use crate::sweep::run::Run;
use crate::terminal::say;
use crate::tracking::json_lines::{JsonLines, MetaStepMetrics};
use crate::tracking::tracker::Tracker;

/// A model that comes from the run's seed.
pub(crate) fn drawn<M: Module, E>(
    run: &Run,
    device: &Device,
    model: impl FnOnce() -> Result<M, E>,
) -> Result<M, E> {
    with_device_seed(device, run.seed, || {
        let mut rng = run_rng(run.seed, "initial parameters");
        let model = reinitialize(model()?, &ParamGroup::all(), &mut rng);
        Ok(task_copy(&model))
    })
}

/// What an experiment is about: a model, tasks to meta-train on, tasks that are held out, and how they are trained.
///
/// A [`Sweep`](crate::Sweep) does the rest.
pub trait Experiment: Sync {
    /// The model.
    type Model: Module;
    /// The meta-learners that are compared; [`Method`](leap_core::Method) is any of leap-core's.
    type Learner: MetaLearner<Self::Model>;
    /// Tasks to meta-train on.
    type Train: TaskSet<Self::Model>;
    /// Tasks to test.
    type HeldOut: TaskSet<Self::Model>;

    /// All settings that decide the numbers: they are written to the experiment's `config.json`, and a run is resumed
    /// with the same ones only.
    fn settings(&self) -> serde_json::Value;

    /// Settings that decide the numbers of a run and not those of others, beside its own: they are written to the run's
    /// `config.json`. There are none by default, which is `null`.
    fn settings_of(&self, run: &Run) -> serde_json::Value {
        let _ = run;
        serde_json::Value::Null
    }

    /// The model, on `device`. All that Burn draws for it comes from the run's seed; the weights of linear and convolution
    /// layers are drawn on the host, so that they are the same on every backend.
    ///
    /// # Errors
    /// Any error, before anything is trained.
    fn model(&self, run: &Run, device: &Device) -> Result<Self::Model, TaskError>;

    /// The tasks to meta-train on.
    ///
    /// # Errors
    /// Any error, before anything is trained.
    fn train(&self, run: &Run) -> Result<Self::Train, TaskError>;

    /// The tasks to test. They depend on the seed at most, so that all methods and settings are compared on the same ones.
    ///
    /// # Errors
    /// Any error, before anything is trained.
    fn held_out(&self, run: &Run) -> Result<Self::HeldOut, TaskError>;

    /// Tasks to choose settings by, and to watch meta-training on, apart from those of the test and of meta-training: for
    /// [`Sweep::with_search`](crate::Sweep::with_search) and
    /// [`Sweep::with_validation_every`](crate::Sweep::with_validation_every). They depend on the seed at most, as held-out ones.
    /// There are none by default.
    ///
    /// # Errors
    /// Any error, before anything is trained.
    fn validation(&self, run: &Run) -> Result<Option<Self::HeldOut>, TaskError> {
        let _ = run;
        Ok(None)
    }

    /// How tasks are trained, held-out ones too, and the initialization. Seed, checkpoints and the like are added to it.
    ///
    /// # Errors
    /// Any error, before anything is trained.
    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Self::Learner>, TaskError>;

    /// Meta-trains. Override it for methods that train something else, such as another model, or other tasks.
    ///
    /// # Errors
    /// [`Error::Training`], [`Error::Interrupted`], or any error of a file.
    fn meta_train(&self, session: &Session<Self>) -> Result<Self::Model, Error> {
        let tasks = self.train(session.run())?;
        session.meta_train(session.trainer()?, session.scratch()?, &tasks)
    }

    /// An animated GIF of what the model does that was trained on the first held-out task, if there is something to see
    /// ([`animate`](crate::animate)).
    ///
    /// # Errors
    /// Any error ends the run.
    fn record(&self, run: &Run, model: &Self::Model) -> Result<Option<Vec<u8>>, TaskError> {
        let _ = (run, model);
        Ok(None)
    }

    /// What a training step counts as on axes, and how many of it it is, such as `("environment steps", 160)`.
    fn unit(&self) -> (String, usize) {
        ("training steps".into(), 1)
    }
}

/// A run under way, as [`Experiment::meta_train`] sees it.
pub struct Session<'a, E: Experiment + ?Sized> {
    pub(crate) experiment: &'a E,
    pub(crate) sweep: &'a Sweep,
    pub(crate) progress: &'a Progress,
    pub(crate) run: &'a Run,
    pub(crate) config: Value,
    pub(crate) folder: RunFolder,
    /// Where initializations are kept, with autodiff.
    pub(crate) home: Device,
    pub(crate) lanes: Lanes,
    pub(crate) trackers: Mutex<Vec<Box<dyn Tracker>>>,
}

impl<E: Experiment + ?Sized> Session<'_, E> {
    /// Which run it is.
    pub fn run(&self) -> &Run {
        self.run
    }

    /// The device that initializations are kept on, with autodiff. They visit the lanes' devices.
    pub fn device(&self) -> &Device {
        &self.home
    }

    /// Where tasks run.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The experiment's trainer, with the run's seed.
    ///
    /// # Errors
    /// That of [`Experiment::trainer`].
    pub fn trainer(&self) -> Result<MetaTrainer<E::Learner>, Error> {
        let trainer = self.experiment.trainer(self.run)?;
        Ok(self.sweep.prepare(trainer, self.run, self.progress))
    }

    /// The experiment's model before meta-training.
    ///
    /// # Errors
    /// That of [`Experiment::model`].
    pub fn scratch(&self) -> Result<E::Model, Error> {
        Ok(drawn(self.run, &self.home, || {
            self.experiment.model(self.run, &self.home)
        })?)
    }

    /// A model whose linear and convolution layers are drawn from the run's seed.
    pub fn initialize<M: Module>(&self, model: M) -> M {
        let Ok(model) = drawn(self.run, &self.home, || Ok::<_, Infallible>(model));
        model
    }

    /// Meta-trains from the run's newest checkpoint, or from `init`, and tells the trackers of each meta-step.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the sweep was stopped, after a checkpoint; [`Error::Training`].
    pub fn meta_train<L, S>(
        &self,
        trainer: MetaTrainer<L>,
        init: E::Model,
        tasks: &S,
    ) -> Result<E::Model, Error>
    where
        L: MetaLearner<E::Model>,
        S: TaskSet<E::Model>,
    {
        self.meta_train_as(self.meta_steps(), trainer, init, tasks, |model| model)
    }

    /// Meta-steps of each run.
    pub fn meta_steps(&self) -> usize {
        self.sweep.meta_steps
    }

    /// As [`meta_train`](Self::meta_train), for a method whose meta-steps are longer or shorter than those of the others, so
    /// that it takes another number of them, or that trains another model, such as one with a larger head: `finish` makes the
    /// experiment's of it.
    ///
    /// # Errors
    /// As [`meta_train`](Self::meta_train).
    pub fn meta_train_as<M, L, S>(
        &self,
        meta_steps: usize,
        trainer: MetaTrainer<L>,
        init: M,
        tasks: &S,
        finish: impl Fn(M) -> E::Model,
    ) -> Result<E::Model, Error>
    where
        M: Module,
        L: MetaLearner<M>,
        S: TaskSet<M>,
    {
        let work = trainer.meta_batch_size() as f64 * trainer.task_steps() as f64;
        // The sweep took the run for one of the experiment's usual trainer.
        let usual = self.trainer()?;
        let usual = usual.meta_batch_size() as f64 * usual.task_steps() as f64;
        let usual = usual * self.sweep.meta_steps as f64;
        let validated = |times: usize| -> Result<f64, Error> {
            let tasks = self.sweep.validated(self.experiment, self.run, times)?;
            Ok(tasks as f64 * trainer.held_out_steps() as f64)
        };
        let more = validated(meta_steps)? - validated(self.sweep.meta_steps)?;
        self.progress.add(work * meta_steps as f64 - usual + more);

        // They are saved here, after the metrics of the meta-step: no line of them is lost at a kill.
        let checkpoints = Checkpoints::new(self.folder.join("checkpoints"), 0)
            .with_task_steps(self.sweep.every_task_steps);
        let mut meta = trainer
            .clone()
            .with_checkpoints(checkpoints.clone())
            .resume(init)?;
        if meta.meta_step() > meta_steps {
            return Err(self.sweep.fewer(self.run, meta.meta_step()));
        }
        let mut metrics = JsonLines::open(&self.folder, meta.meta_step())?;
        let added = self
            .sweep
            .trackers(self.run, &self.folder, meta.meta_step())?;
        self.lock_trackers().extend(added);
        let mut before = work * meta.meta_step() as f64;
        if let Some(times) = meta.meta_step().checked_div(self.sweep.validate_every) {
            before += validated(times * self.sweep.validate_every)?;
        }
        self.progress.skip(before);
        let begun = meta.meta_step();
        let validates = Some(self.sweep.validate_every).filter(|every| *every > 0);
        while meta.meta_step() < meta_steps {
            let report = match meta.step(tasks, &self.lanes) {
                Err(leap_core::Error::Interrupted) => {
                    metrics.flush()?;
                    meta.save_checkpoint()?;
                    return Err(Error::Interrupted);
                }
                report => report?,
            };
            let (name, step) = (self.run.name(), meta.meta_step());
            if let Some(bytes) = meta.task_bytes().filter(|_| step == begun + 1) {
                let mebibytes = bytes as f64 / (1 << 20) as f64;
                say(&format!(
                    "{name}: tasks are trained at once, each takes about {mebibytes:.1} MiB of the device's memory"
                ));
            }
            let mut line = MetaStepMetrics::of(&report);
            let mut found = scalars("meta-training", &line);
            if validates.is_some_and(|every| step.is_multiple_of(every) || step == meta_steps) {
                let tasks = validation(self.experiment, self.run)?;
                let init = finish(meta.init().clone());
                let trainer = self.trainer()?.with_checkpoints(checkpoints.clone());
                let report = match trainer.evaluate(&init, &tasks, &self.lanes) {
                    Err(leap_core::Error::Interrupted) => return Err(Error::Interrupted),
                    report => report?,
                };
                let summary = report.summary();
                found.extend(scalars("validation", &summary));
                line.validation = Some(summary);
            }
            metrics.write(&line)?;
            for tracker in self.lock_trackers().iter_mut() {
                tracker.scalars(line.meta_step, &found)?;
            }
            let message = format!("{name} {step}/{meta_steps}: {}", describe(&line.tasks));
            log::debug!("{message}");
            self.progress.tell(message);
            let is_stopped = self.sweep.stop.load(Ordering::Relaxed);
            if is_stopped || (self.sweep.every > 0 && step.is_multiple_of(self.sweep.every)) {
                metrics.flush()?;
                meta.save_checkpoint()?;
            }
            if is_stopped {
                return Err(Error::Interrupted);
            }
        }
        metrics.flush()?;
        meta.save_checkpoint()?;
        Ok(finish(meta.into_init()))
    }

    /// Takes an initialization from a file in place of meta-training. `model` is one of its kind.
    ///
    /// # Errors
    /// That of [`Initialization::load`].
    pub fn load(&self, init: &Initialization, model: E::Model) -> Result<E::Model, Error> {
        let trainer = self.trainer()?;
        let sizes = [
            self.sweep.meta_steps,
            trainer.meta_batch_size(),
            trainer.task_steps(),
        ];
        let work = sizes.map(|size| size as f64).iter().product::<f64>();
        let meta_steps = self.sweep.meta_steps;
        let tasks = self
            .sweep
            .validated(self.experiment, self.run, meta_steps)?;
        let work = work + tasks as f64 * trainer.held_out_steps() as f64;
        self.progress.add(-work);
        init.load(model)
    }

    /// Saves a model's parameters to the run's folder, with what they came from.
    pub(crate) fn save<M: Module>(&self, model: &M, name: &str) -> Result<(), Error> {
        self.folder
            .write(name, to_safetensors(model, &self.config)?)
    }

    pub(crate) fn lock_trackers(&self) -> MutexGuard<'_, Vec<Box<dyn Tracker>>> {
        self.trackers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An experiment's validation tasks, of which there must be some.
fn validation<E: Experiment + ?Sized>(experiment: &E, run: &Run) -> Result<E::HeldOut, Error> {
    let tasks = experiment.validation(run)?;
    let none = || Error::Setting("there are no validation tasks".into());
    tasks.filter(|tasks| !tasks.is_empty()).ok_or_else(none)
}

impl Sweep {
    /// How many validation tasks are learned in so many meta-steps of a run.
    pub(super) fn validated<E: Experiment + ?Sized>(
        &self,
        experiment: &E,
        run: &Run,
        meta_steps: usize,
    ) -> Result<usize, Error> {
        match self.validate_every {
            every @ 1.. if run.is_trained() => {
                Ok(meta_steps.div_ceil(every) * validation(experiment, run)?.len())
            }
            _ => Ok(0),
        }
    }

    /// The tasks that its results are of.
    pub(super) fn tested<E: Experiment>(
        &self,
        experiment: &E,
        run: &Run,
    ) -> Result<E::HeldOut, Error> {
        match self.on_validation {
            true => validation(experiment, run),
            false => Ok(experiment.held_out(run)?),
        }
    }
}

/// What of a record is a finite number, by its name there.
pub(crate) fn scalars(group: &str, record: &impl Serialize) -> Vec<(String, f64)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(record) else {
        return Vec::new();
    };
    let numbers = fields.into_iter().filter(|(name, _)| name != "meta_step");
    numbers
        .filter_map(|(name, value)| Some((format!("{group}/{name}"), value.as_f64()?)))
        .collect()
}

fn describe(tasks: &Summary) -> String {
    let mut text = format!("loss {:.3}", tasks.loss);
    let figures = [
        ("accuracy", tasks.accuracy),
        ("held-out accuracy", tasks.held_out_accuracy),
        ("score", tasks.score),
        ("at the end", tasks.last_score),
    ];
    for (name, value) in figures {
        if let Some(value) = value {
            text += &format!(", {name} {value:.3}");
        }
    }
    text
}
