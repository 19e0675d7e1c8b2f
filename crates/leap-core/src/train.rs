//! The outer loop: meta-training, and evaluation on held-out tasks.

use std::sync::Arc;
use std::time::Instant;

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::{Module, ParamGroup};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::adapt::{InnerLoop, task_copy, task_copy_on};
use crate::checkpoint::Checkpoints;
use crate::lanes::Lanes;
use crate::meta::{LearningPath, MetaGradient, MetaLearner};
use crate::params::{ParamSpace, ParamVector, read_back};
use crate::redraw::redraw;
use crate::report::{Report, TaskReport};
use crate::seed::{Purpose, TaskSeed};
use crate::task::{Task, TaskContext, TaskSet};
use crate::{Error, TaskError};

/// Meta-trains an initialization: the outer loop, with the paper's settings for Omniglot as defaults.
#[derive(Clone)]
pub struct MetaTrainer<L> {
    learner: L,
    seed: u64,
    meta_batch_size: usize,
    inner: InnerLoop,
    shared: ParamGroup,
    meta_optimizer: ModuleOptimizer,
    meta_lr: ModuleLrScheduler,
    checkpoints: Option<Checkpoints>,
}

/// What decides, next to the optimizers, which numbers a run computes; a resumed run must have the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub learner: String,
    pub seed: u64,
    pub meta_batch_size: usize,
    pub task_steps: usize,
}

impl<L: MetaLearner> MetaTrainer<L> {
    /// A trainer with the paper's settings for Omniglot: 20 tasks a meta-batch, 100 steps a task, SGD
    /// with a learning rate of 0.1 inside and outside.
    pub fn new(learner: L) -> Self {
        Self {
            learner,
            seed: 0,
            meta_batch_size: 20,
            inner: InnerLoop::new(100, SgdConfig::new().init(), 0.1),
            shared: ParamGroup::all(),
            meta_optimizer: SgdConfig::new().init(),
            meta_lr: 0.1.into(),
            checkpoints: None,
        }
    }

    /// Seeds all that is random (default 0).
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Number of tasks in a meta-batch (default 20).
    pub fn with_meta_batch_size(mut self, tasks: usize) -> Self {
        self.meta_batch_size = tasks;
        self
    }

    /// Number of training steps a task (default 100).
    pub fn with_task_steps(mut self, steps: usize) -> Self {
        self.inner.steps = steps;
        self
    }

    /// The optimizer that trains the tasks, and its learning rate: a number or any Burn scheduler
    /// (default SGD, 0.1). Every task starts with the optimizer and the scheduler as given here.
    pub fn with_task_optimizer(
        mut self,
        optimizer: impl Into<ModuleOptimizer>,
        lr: impl Into<ModuleLrScheduler>,
    ) -> Self {
        self.inner = InnerLoop::new(self.inner.steps, optimizer, lr);
        self
    }

    /// The optimizer that takes the meta-gradient, and its learning rate: a number or any Burn
    /// scheduler, which steps once a meta-step (default SGD, 0.1).
    pub fn with_meta_optimizer(
        mut self,
        optimizer: impl Into<ModuleOptimizer>,
        lr: impl Into<ModuleLrScheduler>,
    ) -> Self {
        self.meta_optimizer = optimizer.into();
        self.meta_lr = lr.into();
        self
    }

    /// The part of the model that is meta-learned (default all of it).
    ///
    /// The rest is each task's own: its linear and convolution layers are drawn anew for every task,
    /// and [`Task::start`] may replace it. The path runs over the shared part alone, while the task's
    /// optimizer moves all of the model.
    pub fn with_shared(mut self, shared: ParamGroup) -> Self {
        self.shared = shared;
        self
    }

    /// Saves a checkpoint every so many meta-steps (default never).
    pub fn with_checkpoints(mut self, checkpoints: Checkpoints) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Starts meta-training from `init`. Take its [steps](MetaRun::step) one by one, or have
    /// [`fit`](Self::fit) take them all.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] for settings that cannot work, [`Error::NothingShared`] if no
    /// trainable parameter of `init` is shared.
    pub fn begin<M: Module>(&self, init: M) -> Result<MetaRun<M, L>, Error> {
        if self.meta_batch_size == 0 {
            return Err(Error::InvalidSetting(
                "a meta-batch needs at least one task".into(),
            ));
        }
        if self.inner.steps < 2 {
            return Err(Error::InvalidSetting(
                "a task needs at least two steps: a path's segment joins two of them".into(),
            ));
        }
        let init = task_copy(&init);
        Ok(MetaRun {
            space: ParamSpace::new(&init, &self.shared)?,
            init,
            optimizer: self.meta_optimizer.clone(),
            lr: self.meta_lr.clone(),
            meta_step: 0,
            trainer: self.clone(),
        })
    }

    /// Goes on from the newest checkpoint, if there is one, and from `init` if there is none. The
    /// numbers that follow are those of a run that was never interrupted, bit for bit.
    ///
    /// # Errors
    /// As [`begin`](Self::begin); [`Error::InvalidSetting`] without
    /// [`with_checkpoints`](Self::with_checkpoints); [`Error::Checkpoint`] if the checkpoint is damaged,
    /// or of another model, or of a run with other settings.
    pub fn resume<M: Module>(&self, init: M) -> Result<MetaRun<M, L>, Error> {
        let Some(checkpoints) = &self.checkpoints else {
            return Err(Error::InvalidSetting(
                "no folder for checkpoints was given".into(),
            ));
        };
        let mut run = self.begin(init)?;
        if let Some(loaded) =
            checkpoints.load(run.init.clone(), &self.settings(), &run.optimizer)?
        {
            run.init = task_copy(&loaded.init);
            run.space = ParamSpace::new(&run.init, &self.shared)?;
            run.optimizer = loaded.optimizer;
            run.meta_step = loaded.meta_step;
            for _ in 0..run.meta_step {
                run.lr.step();
            }
        }
        Ok(run)
    }

    /// Meta-trains from `init` for `meta_steps` meta-steps.
    ///
    /// # Errors
    /// As [`begin`](Self::begin) and [`MetaRun::step`].
    pub fn fit<M: Module, S: TaskSet<M>>(
        &self,
        init: M,
        meta_steps: usize,
        tasks: &S,
        lanes: &Lanes,
    ) -> Result<M, Error> {
        let mut run = self.begin(init)?;
        while run.meta_step() < meta_steps {
            run.step(tasks, lanes)?;
        }
        Ok(run.into_init())
    }

    /// Trains each task of `tasks` from `init`, as meta-training would, without learning from it.
    ///
    /// The random numbers depend on the seed and the task's index alone, so that two
    /// initializations are compared on the same batches.
    ///
    /// # Errors
    /// As [`MetaRun::step`]; tasks that diverge are reported as left out, never an error.
    pub fn evaluate<M: Module, S: TaskSet<M>>(
        &self,
        init: &M,
        tasks: &S,
        lanes: &Lanes,
    ) -> Result<Report, Error> {
        let run = self.begin(init.clone())?;
        let picks: Vec<usize> = (0..tasks.len()).collect();
        run.train_tasks(&picks, Purpose::HeldOut, tasks, lanes)
            .map(|(report, _)| report)
    }
}

/// Meta-training under way.
pub struct MetaRun<M: Module, L> {
    trainer: MetaTrainer<L>,
    init: M,
    space: Arc<ParamSpace>,
    optimizer: ModuleOptimizer,
    lr: ModuleLrScheduler,
    meta_step: usize,
}

impl<M: Module, L: MetaLearner> MetaRun<M, L> {
    /// The initialization as it is now.
    pub fn init(&self) -> &M {
        &self.init
    }

    /// Ends the run with the initialization as it is now.
    pub fn into_init(self) -> M {
        self.init
    }

    /// Number of meta-steps taken.
    pub fn meta_step(&self) -> usize {
        self.meta_step
    }

    /// Takes a meta-step: trains a meta-batch of tasks and moves the initialization by the mean of their
    /// meta-gradients. Saves a checkpoint when one is due.
    ///
    /// Tasks whose loss or meta-gradient is not finite are left out of the mean, logged with their seed
    /// and marked in the report.
    ///
    /// # Errors
    /// [`Error::AllTasksLeftOut`] if no task is left, [`Error::Task`] if one failed,
    /// [`Error::InvalidSetting`] if there are no tasks, [`Error::Io`] and [`Error::Checkpoint`] if a
    /// checkpoint could not be saved. The initialization is unchanged but for the last two.
    pub fn step<S: TaskSet<M>>(&mut self, tasks: &S, lanes: &Lanes) -> Result<Report, Error> {
        let picks = self.sample(tasks.len())?;
        let (report, gradients) = self.train_tasks(&picks, Purpose::Training, tasks, lanes)?;

        let mut meta = MetaGradient::new();
        let home = self.init.devices().remove(0);
        for gradient in gradients.into_iter().flatten() {
            meta.add(gradient.to_device(&home))?;
        }
        if meta.tasks() == 0 {
            return Err(Error::AllTasksLeftOut {
                meta_step: self.meta_step,
                tasks: report.tasks.len(),
                first: report.tasks[0].seed,
            });
        }
        let gradient = meta.take(&home)?;
        let lr = self.lr.step();
        self.init = self.optimizer.step(lr, self.init.clone(), gradient);
        self.meta_step += 1;
        if let Some(checkpoints) = &self.trainer.checkpoints
            && checkpoints.is_due(self.meta_step)
        {
            self.save_checkpoint()?;
        }
        Ok(report)
    }

    /// Saves a checkpoint now, where the trainer has a folder for them.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Checkpoint`] if it could not be written.
    pub fn save_checkpoint(&self) -> Result<(), Error> {
        match &self.trainer.checkpoints {
            None => Ok(()),
            Some(checkpoints) => checkpoints.save(
                &self.init,
                &self.optimizer,
                self.meta_step,
                &self.trainer.settings(),
            ),
        }
    }

    /// Draws the tasks of the next meta-batch: without replacement, as long as there are enough.
    fn sample(&self, len: usize) -> Result<Vec<usize>, Error> {
        if len == 0 {
            return Err(Error::InvalidSetting(
                "there are no tasks to draw from".into(),
            ));
        }
        let mut rng = self.seed(Purpose::Sampling, 0).rng(0);
        let size = self.trainer.meta_batch_size;
        let mut picks = Vec::with_capacity(size);
        while picks.len() < size {
            let count = len.min(size - picks.len());
            picks.extend(rand::seq::index::sample(&mut rng, len, count));
        }
        Ok(picks)
    }

    fn seed(&self, purpose: Purpose, task: usize) -> TaskSeed {
        let meta_step = match purpose {
            Purpose::HeldOut => 0,
            _ => self.meta_step as u64,
        };
        TaskSeed {
            seed: self.trainer.seed,
            purpose,
            meta_step,
            task: task as u64,
        }
    }

    /// Trains the picked tasks on the lanes; reports and meta-gradients come in the order of `picks`.
    fn train_tasks<S: TaskSet<M>>(
        &self,
        picks: &[usize],
        purpose: Purpose,
        tasks: &S,
        lanes: &Lanes,
    ) -> Result<(Report, Vec<Option<ParamVector>>), Error> {
        let start = Instant::now();
        let copies = lanes
            .devices()
            .map(|device| task_copy_on(&self.init, device))
            .collect();
        // What the lanes share; the run itself holds a model, which must not cross threads.
        let seeds: Vec<TaskSeed> = (0..picks.len()).map(|i| self.seed(purpose, i)).collect();
        let (trainer, space) = (&self.trainer, &self.space);
        let work = |init: &M, device: &Device, i: usize| {
            trainer.train_task(init, space, tasks, picks[i], seeds[i], device)
        };
        let results = lanes.run(copies, picks.len(), work);
        let (mut reports, mut gradients) = (Vec::new(), Vec::new());
        for result in results {
            let (report, gradient) = result?;
            reports.push(report);
            gradients.push(gradient);
        }
        let report = Report {
            meta_step: self.meta_step,
            tasks: reports,
            seconds: start.elapsed().as_secs_f64(),
        };
        Ok((report, gradients))
    }
}

impl<L: MetaLearner> MetaTrainer<L> {
    fn settings(&self) -> Settings {
        Settings {
            learner: format!("{:?}", self.learner),
            seed: self.seed,
            meta_batch_size: self.meta_batch_size,
            task_steps: self.inner.steps,
        }
    }

    fn train_task<M: Module, S: TaskSet<M>>(
        &self,
        init: &M,
        space: &Arc<ParamSpace>,
        tasks: &S,
        index: usize,
        seed: TaskSeed,
        device: &Device,
    ) -> Result<(TaskReport, Option<ParamVector>), Error> {
        let failed = |source: TaskError| match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Task {
                name: tasks.name(index),
                seed,
                source,
            },
        };
        let context = TaskContext {
            seed,
            device: device.clone(),
            steps: self.inner.steps,
        };
        let mut task = tasks.task(index, &context).map_err(failed)?;
        let own = ParamGroup::all().exclude(self.shared.clone());
        let model = redraw(task_copy(init), &own, &mut seed.rng(1));
        let model = task.start(model).map_err(failed)?;
        let mut path = self.learner.path(space);
        let (model, curve) = self
            .inner
            .run(model, &mut task, &mut path)
            .map_err(failed)?;
        let held_out = task.held_out(&model.valid()).map_err(failed)?;
        let learned = path.finish(&model)?;

        let figures = learned.figures.map(|f| f.read()).transpose()?;
        let gradient = learned.gradient;
        let finite = read_back(gradient.dot(&gradient))?[0].is_finite();
        let left_out = match curve.loss.iter().position(|loss| !loss.is_finite()) {
            Some(step) => Some(format!("the loss is not finite at step {step}")),
            None if !finite => Some("the meta-gradient is not finite".to_string()),
            None => None,
        };
        let name = tasks.name(index);
        if let Some(reason) = &left_out {
            log::warn!("task `{name}` ({seed}) is left out: {reason}");
        }
        let gradient = left_out.is_none().then_some(gradient);
        let report = TaskReport {
            index,
            name,
            seed,
            curve,
            path: figures,
            held_out,
            left_out,
        };
        Ok((report, gradient))
    }
}
