//! The outer loop: meta-training, and evaluation on held-out tasks.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::{Module, ParamGroup};
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;

use crate::devices::cluster;
use crate::devices::device::is_cube;
use crate::devices::lanes::Lanes;
use crate::error::{Error, TaskError};
use crate::saving::checkpoint::Settings;
use crate::saving::task::{Breaks, TaskFolder};
use crate::seed::{Purpose, TaskSeed};
use crate::space::copy::{task_copy, task_copy_on};
use crate::space::meta_gradient::{MetaGradient, coherence};
use crate::space::params::{ParamSpace, digest};
use crate::space::trace::PathTrace;
use crate::stacking::Plans;
use crate::tasks::report::{Report, TaskReport};
use crate::tasks::task::{TaskContext, TaskSet};
use crate::training::attempt::Attempt;
use crate::training::learner::MetaLearner;
use crate::training::probe::probe;
use crate::training::seeded::Seeded;
use crate::training::trainer::MetaTrainer;

/// Steps whose learning rates tell one schedule from another.
const LOOKED_AT: usize = 1000;
/// Tasks in a meta-batch, at most.
const LARGEST_META_BATCH: usize = 1 << 20;

/// Meta-training under way.
pub struct MetaRun<M: Module, L> {
    trainer: MetaTrainer<L>,
    init: M,
    space: Arc<ParamSpace>,
    optimizer: ModuleOptimizer,
    lr: ModuleLrScheduler,
    meta_step: usize,
    /// What its checkpoints are of, where there are any.
    settings: Option<Settings>,
    /// Whether what is in the folder of checkpoints is of an earlier run.
    replaces: bool,
    /// Whether tasks draw from their device when they are set up, once that is known.
    set_ups_draw: OnceLock<bool>,
    /// How tasks are trained as one.
    plans: Plans,
}

impl<M: Module, L: MetaLearner<M>> MetaRun<M, L> {
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

    /// Whether tasks have been trained [as one](MetaTrainer::with_task_batch).
    pub fn stacks(&self) -> bool {
        self.plans.bytes().is_some()
    }

    /// Bytes of the device's memory that each of the tasks takes which are trained as one, about, the largest of them; `None`
    /// before there are any.
    pub fn task_bytes(&self) -> Option<u64> {
        self.plans.bytes()
    }

    /// Takes a meta-step: trains a meta-batch of tasks and moves the initialization by the mean of their
    /// meta-gradients. Saves a checkpoint when one is due.
    ///
    /// Tasks whose loss or meta-gradient is not finite are left out of the mean, logged with their seed
    /// and marked in the report.
    ///
    /// # Errors
    /// [`Error::AllTasksLeftOut`] if no task is left, [`Error::Task`] if one failed,
    /// [`Error::InvalidSetting`] if there are no tasks, [`Error::Interrupted`] if it was
    /// [stopped](MetaTrainer::with_stop), [`Error::Io`] and [`Error::Checkpoint`] if a
    /// checkpoint could not be saved. The initialization is unchanged but for the last two.
    pub fn step<S: TaskSet<M>>(&mut self, tasks: &S, lanes: &Lanes) -> Result<Report, Error> {
        let picks = self.sample(tasks.len())?;
        if let Some(checkpoints) = &self.trainer.checkpoints
            && lanes.cluster().is_some_and(|cluster| cluster.rank() > 0)
        {
            checkpoints.forget_tasks(self.meta_step)?;
        }
        let (report, mut meta, folder) =
            self.train_tasks(&picks, Purpose::Training, tasks, lanes, |_, _| Ok(()))?;
        if meta.tasks() == 0 {
            folder.map_or(Ok(()), TaskFolder::remove)?;
            return Err(Error::AllTasksLeftOut {
                meta_step: self.meta_step,
                tasks: report.tasks.len(),
                first: report.tasks[0].seed,
            });
        }
        let gradient = meta.take(&self.init.devices().remove(0))?;
        let lr = self.lr.step();
        self.init = self.optimizer.step(lr, self.init.clone(), gradient);
        self.meta_step += 1;
        if let Some(checkpoints) = &self.trainer.checkpoints
            && checkpoints.is_due(self.meta_step)
            && lanes.cluster().is_none_or(|cluster| cluster.rank() == 0)
        {
            self.save_checkpoint()?;
        }
        Ok(report)
    }

    /// Saves a checkpoint now, where the trainer has a folder for them.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Checkpoint`] if it could not be written.
    pub fn save_checkpoint(&mut self) -> Result<(), Error> {
        let (Some(checkpoints), Some(settings)) = (&self.trainer.checkpoints, &self.settings)
        else {
            return Ok(());
        };
        if self.replaces {
            checkpoints.check_unused()?;
            checkpoints.remove_all()?;
            self.replaces = false;
        }
        checkpoints.save(&self.init, &self.optimizer, self.meta_step, settings)
    }

    /// The tasks of the next meta-batch: drawn without replacement, as long as there are enough, or the next ones in turn.
    fn sample(&self, len: usize) -> Result<Vec<usize>, Error> {
        if len == 0 {
            return Err(Error::InvalidSetting(
                "there are no tasks to draw from".into(),
            ));
        }
        let size = self.trainer.meta_batch_size;
        if self.trainer.in_turn {
            let first = self.meta_step * size;
            return Ok((first..first + size).map(|i| i % len).collect());
        }
        let mut rng = self.seed(Purpose::Sampling, 0).rng(0);
        let mut picks = Vec::new();
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

    /// Trains the picked tasks on the lanes, those of the whole cluster; reports come in the order of `picks`.
    fn train_tasks<S: TaskSet<M>>(
        &self,
        picks: &[usize],
        purpose: Purpose,
        tasks: &S,
        lanes: &Lanes,
        keep: impl Fn(&TaskReport, &M) -> Result<(), TaskError> + Sync,
    ) -> Result<(Report, MetaGradient, Option<TaskFolder>), Error> {
        let start = Instant::now();
        let trainer = &self.trainer;
        let folder = match &trainer.checkpoints {
            Some(checkpoints) if checkpoints.keeps_tasks() => {
                let name = match purpose {
                    Purpose::HeldOut => "held-out".to_string(),
                    _ => format!("{:08}", self.meta_step),
                };
                let how = self.how(purpose, tasks)?;
                checkpoints.tasks(&name, &how, &self.space, &self.init)?
            }
            _ => None,
        };
        let (rank, size) = lanes.cluster().map_or((0, 1), |c| (c.rank(), c.size()));
        let share = picks.iter().copied().enumerate();
        let share = Vec::from_iter(share.filter(|(place, _)| place % size == rank));
        let (folder_of, plans) = (folder.as_ref(), &self.plans);
        let batch = trainer.task_batch(share.len(), lanes);
        // Nobody else may allocate or compile while a step is captured.
        let gpus = lanes.devices().filter(|device| is_cube(device)).count();
        plans.are_uncaptured(gpus > 1);
        let trained = self.on_lanes(&share, batch, purpose, tasks, lanes, |attempts, init| {
            trainer.train_tasks(&attempts, init, folder_of, plans, &keep)
        });
        let trained = trained.map(|batches| batches.into_iter().flatten().collect::<Vec<_>>());
        let (tasks, meta, coherence) = match lanes.cluster() {
            None => {
                let (reports, gradients): (_, Vec<_>) = trained?.into_iter().unzip();
                let coherence = coherence(&Vec::from_iter(gradients.iter().flatten()))?;
                let mut meta = MetaGradient::new();
                for gradient in gradients.into_iter().flatten() {
                    meta.add(gradient)?;
                }
                (reports, meta, coherence)
            }
            Some(cluster) => {
                let trained = trained.map(|trained| {
                    let places = share.iter().map(|(place, _)| *place);
                    places
                        .zip(trained)
                        .map(|(place, (report, gradient))| (place, report, gradient))
                        .collect()
                });
                let init = self.space.point(&self.init)?;
                let summation = lanes.summation();
                let (reports, meta) =
                    cluster::join(cluster, summation, &init, picks.len(), trained)?;
                (reports, meta, None)
            }
        };
        let report = Report {
            meta_step: self.meta_step,
            tasks,
            coherence,
            seconds: start.elapsed().as_secs_f64(),
        };
        Ok((report, meta, folder))
    }

    /// All that decides how tasks of an initialization are trained: those that were saved otherwise are not gone on with.
    fn how<S: TaskSet<M>>(&self, purpose: Purpose, tasks: &S) -> Result<String, Error> {
        let trainer = &self.trainer;
        let inner = trainer.inner(purpose);
        let (steps, stopping) = (inner.steps, inner.stopping);
        let (id, path) = self.space.params().next().ok_or(Error::NothingShared)?;
        let mut schedule = inner.lr(steps)?;
        let rates = (0..steps.min(LOOKED_AT)).map(|_| schedule.step());
        let rates = rates.map(|rate| rate.lr_from_param(id, Some(path)));
        let lr = digest(&Vec::from_iter(rates));
        let all = ParamSpace::new(&self.init, &ParamGroup::all())?;
        let moves = probe(&all, &self.init, &inner.optimizer, &inner.lr(steps)?)?;
        // The same on devices that round differently, as a task may go on elsewhere.
        let moves = Vec::from_iter(moves.iter().map(|moved| format!("{moved:.2e}")));
        let (seed, batch) = (trainer.seed, trainer.meta_batch_size);
        let (learner, statistics) = (&trainer.learner, trainer.statistics);
        let (len, fingerprint) = (tasks.len(), tasks.fingerprint());
        Ok(format!(
            "{learner:?}, seed {seed}, {batch} x {steps}, learning rates {lr:x}, {statistics:?}, {stopping:?}, optimizer \
             {moves:?}, {len} tasks {fingerprint:x}"
        ))
    }

    /// Does `work` for the picked tasks, with their places in the meta-batch, so many at once, on the lanes; the results come
    /// in the order of `picks`.
    fn on_lanes<S: TaskSet<M>, T: Send>(
        &self,
        picks: &[(usize, usize)],
        batch: usize,
        purpose: Purpose,
        tasks: &S,
        lanes: &Lanes,
        work: impl Fn(Vec<Attempt<S>>, &M) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        // What the lanes share; the run itself holds a model, which must not cross threads.
        let seeds = picks.iter().map(|(place, _)| self.seed(purpose, *place));
        let seeds: Vec<TaskSeed> = seeds.collect();
        let steps = self.trainer.inner(purpose).steps;
        let (space, set_ups_draw) = (&self.space, &self.set_ups_draw);
        let home = &self.init.devices().remove(0);
        let work = |init: &M, device: &Device, i: usize| {
            let attempt = |i: usize| Attempt {
                space,
                home,
                tasks,
                index: picks[i].1,
                set_ups_draw,
                context: TaskContext {
                    seed: seeds[i],
                    device: device.clone(),
                    steps,
                },
            };
            let places = i * batch..picks.len().min((i + 1) * batch);
            work(places.map(attempt).collect(), init)
        };
        let prepare = |device: &Device| task_copy_on(&self.init, device);
        lanes.run(picks.len().div_ceil(batch), prepare, work)
    }
}

impl<L: Clone> MetaTrainer<L> {
    /// Starts meta-training from `init`. Take its [steps](MetaRun::step) one by one, or have
    /// [`fit`](Self::fit) take them all.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] for settings that cannot work, or with which the [meta-learner](MetaLearner::check) cannot,
    /// [`Error::NothingShared`] if no trainable parameter of `init` is shared.
    pub fn begin<M: Module>(&self, init: M) -> Result<MetaRun<M, L>, Error>
    where
        L: MetaLearner<M>,
    {
        let run = self.start(init)?;
        self.learner.check(&run.init, &self.inner)?;
        Ok(run)
    }

    /// As [`begin`](Self::begin), where nothing is meta-learned.
    fn start<M: Module>(&self, init: M) -> Result<MetaRun<M, L>, Error>
    where
        L: MetaLearner<M>,
    {
        if self.meta_batch_size == 0 {
            return Err(Error::InvalidSetting(
                "a meta-batch needs at least one task".into(),
            ));
        }
        if self.meta_batch_size > LARGEST_META_BATCH {
            return Err(Error::InvalidSetting(format!(
                "a meta-batch of {} tasks; {LARGEST_META_BATCH} is the most",
                self.meta_batch_size
            )));
        }
        if self.inner.steps == 0 || self.held_out_steps() == 0 {
            return Err(Error::InvalidSetting(
                "a task needs at least one step".into(),
            ));
        }
        let init = task_copy(&init);
        let space = ParamSpace::new(&init, &self.shared)?;
        let settings = match &self.checkpoints {
            None => None,
            Some(_) => Some(self.settings(&init, &space)?),
        };
        Ok(MetaRun {
            space,
            init,
            optimizer: self.meta_optimizer.clone(),
            lr: self.meta_lr.clone(),
            meta_step: 0,
            trainer: self.clone(),
            settings,
            replaces: true,
            set_ups_draw: OnceLock::new(),
            plans: Plans::default(),
        })
    }

    fn settings<M: Module>(&self, init: &M, space: &Arc<ParamSpace>) -> Result<Settings, Error>
    where
        L: MetaLearner<M>,
    {
        let all = ParamSpace::new(init, &ParamGroup::all())?;
        let lr = self.inner.lr(self.inner.steps)?;
        Ok(Settings {
            learner: format!("{:?}", self.learner),
            seed: self.seed,
            meta_batch_size: self.meta_batch_size,
            task_steps: self.inner.steps,
            in_turn: self.in_turn,
            // What a check says depends on the statistics.
            stopping: self
                .inner
                .stopping
                .map_or(String::new(), |s| format!("{s:?}, {:?}", self.statistics)),
            task_optimizer: probe(&all, init, &self.inner.optimizer, &lr)?,
            meta_optimizer: probe(space, init, &self.meta_optimizer, &self.meta_lr)?,
            shared: space.paths().map(String::from).collect(),
            init: format!("{:016x}", digest(&all.point(init)?.to_vec()?)),
        })
    }

    /// Goes on from the newest checkpoint, if there is one, and from `init` if there is none. The
    /// numbers that follow are those of a run that was never interrupted, bit for bit.
    ///
    /// # Errors
    /// As [`begin`](Self::begin); [`Error::InvalidSetting`] without
    /// [`with_checkpoints`](Self::with_checkpoints); [`Error::Checkpoint`] if the checkpoint is damaged,
    /// or of another model, or of a run with other settings: the meta-learner, the seed, the sizes, what the optimizers do and
    /// their learning rates, the part that is meta-learned, the initialization that it began from.
    pub fn resume<M: Module>(&self, init: M) -> Result<MetaRun<M, L>, Error>
    where
        L: MetaLearner<M>,
    {
        let Some(checkpoints) = &self.checkpoints else {
            return Err(Error::InvalidSetting(
                "no folder for checkpoints was given".into(),
            ));
        };
        let mut run = self.begin(init)?;
        run.replaces = false;
        let Some(settings) = &run.settings else {
            return Ok(run);
        };
        if let Some(loaded) = checkpoints.load(run.init.clone(), settings, &run.optimizer)? {
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
    /// As [`begin`](Self::begin) and [`MetaRun::step`]; [`Error::Checkpoint`] if the folder for checkpoints has those of an
    /// earlier run ([`Checkpoints::with_overwrite`](crate::Checkpoints::with_overwrite)).
    pub fn fit<M: Module, S: TaskSet<M>>(
        &self,
        init: M,
        meta_steps: usize,
        tasks: &S,
        lanes: &Lanes,
    ) -> Result<M, Error>
    where
        L: MetaLearner<M>,
    {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.check_unused()?;
        }
        let mut run = self.begin(init)?;
        while run.meta_step() < meta_steps {
            run.step(tasks, lanes)?;
        }
        Ok(run.into_init())
    }

    /// Trains each task of `tasks` from `init`, as meta-training would, without learning from it. The
    /// figures of each path are measured, with the loss as a dimension.
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
    ) -> Result<Report, Error>
    where
        L: MetaLearner<M>,
    {
        self.evaluate_with(init, tasks, lanes, |_, _| Ok(()))
    }

    /// As [`evaluate`](Self::evaluate), and hands each trained model to `keep`, on the lane that trained it: to save it,
    /// or to see what it does. An error of `keep` is one of the task. An evaluation that goes on after an interruption
    /// ([`Checkpoints::with_task_steps`](crate::Checkpoints::with_task_steps)) has handed out the models of the tasks that were done by then before.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub fn evaluate_with<M: Module, S: TaskSet<M>>(
        &self,
        init: &M,
        tasks: &S,
        lanes: &Lanes,
        keep: impl Fn(&TaskReport, &M) -> Result<(), TaskError> + Sync,
    ) -> Result<Report, Error>
    where
        L: MetaLearner<M>,
    {
        if tasks.is_empty() {
            return Err(Error::InvalidSetting(
                "there are no tasks to evaluate".into(),
            ));
        }
        let run = self.start(init.clone())?;
        let picks = Vec::from_iter(0..tasks.len());
        let (report, _, folder) = run.train_tasks(&picks, Purpose::HeldOut, tasks, lanes, keep)?;
        folder.map_or(Ok(()), TaskFolder::remove)?;
        Ok(report)
    }

    /// Trains the first `count` of `tasks` from `init` as [`evaluate`](Self::evaluate) does, and keeps every
    /// point of their paths, for [pictures](crate::project_paths).
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub fn trace<M: Module, S: TaskSet<M>>(
        &self,
        init: &M,
        tasks: &S,
        count: usize,
        lanes: &Lanes,
    ) -> Result<Vec<PathTrace>, Error>
    where
        L: MetaLearner<M>,
    {
        let run = self.start(init.clone())?;
        let picks = Vec::from_iter((0..tasks.len().min(count)).map(|i| (i, i)));
        let trainer = self;
        run.on_lanes(
            &picks,
            1,
            Purpose::HeldOut,
            tasks,
            lanes,
            |attempts, init| {
                let [attempt] = &attempts[..] else {
                    return Err(Error::InvalidSetting("a path is one task's".into()));
                };
                let mut path = PathTrace::new(attempt.space);
                let mut inner = trainer.inner(Purpose::HeldOut).clone();
                inner.statistics = trainer.statistics;
                inner.breaks = Breaks::stop(trainer.stop.clone());
                let train = |task: &mut Seeded<S::Task>, model| {
                    trainer.learner.adapt(&inner, model, task, &mut path)
                };
                trainer.attempt(attempt, init, train)?;
                for point in &mut path.points {
                    *point = point.clone().to_device(attempt.home);
                }
                Ok(path)
            },
        )
    }
}
