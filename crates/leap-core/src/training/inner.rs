//! The inner loop: a model is adapted to a task, step by step.

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, TaskError};
use crate::saving::task::{Breaks, SavedTask};
use crate::space::params::{ParamSpace, read_back};
use crate::space::path::LearningPath;
use crate::tasks::curve::{CurveLog, LearningCurve};
use crate::tasks::monitor::Watched;
use crate::tasks::task::{StepLoss, Task};
use crate::training::statistics::Statistics;
use crate::training::stopping::{Checks, EarlyStopping};

type Schedule = dyn Fn(usize) -> Result<ModuleLrScheduler, String> + Send + Sync;

/// How a task trains: for how long, and with which optimizer.
#[derive(Clone)]
pub struct InnerLoop {
    /// Number of steps; a task may take [fewer](Task::steps).
    pub steps: usize,
    /// The optimizer as it is at the start of every task.
    pub optimizer: ModuleOptimizer,
    /// The learning rate as it is at the start of a task of so many steps.
    lr: Arc<Schedule>,
    /// When training ends before its last step.
    pub stopping: Option<EarlyStopping>,
    /// The part of the model that is trained, where it is not all of it.
    pub(crate) trained: Option<ParamGroup>,
    /// By which statistics a model is looked at on the way.
    pub(crate) statistics: Option<Statistics>,
    /// When training is saved, and when it stops before its end.
    pub(crate) breaks: Breaks,
    /// Who is told of each step.
    pub(crate) watched: Option<Watched>,
    /// Where the curves of stacked tasks go, each by itself.
    pub(crate) curves: Option<Arc<Mutex<Vec<LearningCurve>>>>,
}

impl InnerLoop {
    /// `steps` steps of `optimizer` with a learning rate that is a number or any Burn scheduler.
    pub fn new(
        steps: usize,
        optimizer: impl Into<ModuleOptimizer>,
        lr: impl Into<ModuleLrScheduler>,
    ) -> Self {
        let lr = lr.into();
        Self {
            steps,
            optimizer: optimizer.into(),
            lr: Arc::new(move |_| Ok(lr.clone())),
            stopping: None,
            trained: None,
            statistics: None,
            breaks: Breaks::default(),
            watched: None,
            curves: None,
        }
    }

    /// A learning rate that is made for a task's number of steps, such as one that is annealed along it:
    ///
    /// ```
    /// # use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
    /// # use burn::optim::SgdConfig;
    /// # use leap_core::InnerLoop;
    /// let inner = InnerLoop::new(100, SgdConfig::new().init(), 0.1)
    ///     .with_lr_schedule(|steps| CosineAnnealingLrSchedulerConfig::new(0.1, steps).init());
    /// ```
    pub fn with_lr_schedule(
        mut self,
        lr: impl Fn(usize) -> Result<ModuleLrScheduler, String> + Send + Sync + 'static,
    ) -> Self {
        self.lr = Arc::new(lr);
        self
    }

    /// Ends training when a task's [validation](Task::validate) error no longer falls.
    pub fn with_early_stopping(mut self, stopping: EarlyStopping) -> Self {
        self.stopping = Some(stopping);
        self
    }

    /// Trains that part of the model alone; a path's gradients are of all of it nevertheless.
    pub(crate) fn with_trained(mut self, part: ParamGroup) -> Self {
        self.trained = Some(part);
        self
    }

    /// The learning rate as it is at the start of a task of so many steps.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] if the [schedule](Self::with_lr_schedule) has none for them.
    pub fn lr(&self, steps: usize) -> Result<ModuleLrScheduler, Error> {
        (self.lr)(steps).map_err(Error::InvalidSetting)
    }

    /// How many steps a task takes that has so many of its [own](Task::steps).
    pub(crate) fn steps_of(&self, own: Option<usize>) -> usize {
        own.map_or(self.steps, |own| own.min(self.steps))
    }

    /// Trains `model` on `task` and lets `path` record each step. Nothing is read back from the
    /// device from one step to the next.
    ///
    /// # Errors
    /// An error of the task, or of the path.
    pub fn run<M: Module>(
        &self,
        model: M,
        task: &mut impl Task<M>,
        path: &mut impl LearningPath,
    ) -> Result<(M, LearningCurve), TaskError> {
        self.run_with(model, task, path, |_, grads| Ok(grads))
    }

    /// As [`run`](Self::run), with gradients that `transform` changes, once the path has recorded them and
    /// before the optimizer takes them.
    ///
    /// # Errors
    /// As [`run`](Self::run), and those of `transform`.
    pub fn run_with<M: Module>(
        &self,
        mut model: M,
        task: &mut impl Task<M>,
        path: &mut impl LearningPath,
        mut transform: impl FnMut(&M, GradientsParams) -> Result<GradientsParams, Error>,
    ) -> Result<(M, LearningCurve), TaskError> {
        let steps = self.steps_of(task.steps());
        let mut optimizer = self.optimizer.clone();
        let mut lr = self.lr(steps)?;
        let mut log = ScalarLog::default();
        let by = || Statistics::choose(self.statistics, &model, steps);
        let checks = self.stopping.map(|stopping| Checks::new(stopping, by()));
        let mut checks = checks.transpose()?;
        let mut first = 0;
        let breaks = self.breaks.begin();
        if let Some(saved) = breaks.saved() {
            (first, log.curves) = (saved.steps, vec![saved.curve.clone()]);
            if first > steps {
                let (all, why) = (steps, "steps were saved of a task that has");
                return Err(Error::Saved(format!("{first} {why} {all}")).into());
            }
            (0..first).for_each(|_| drop(lr.step()));
            (model, optimizer) = saved.restore(model, optimizer)?;
            task.restore(&saved.task)?;
            path.restore(&saved.path, &model.devices().remove(0).without_autodiff())?;
            if let (Some(checks), Some(saved)) = (&mut checks, &saved.checks) {
                checks.restore(saved, &model)?;
            }
            if let Some(watched) = &self.watched {
                watched.restored(first);
            }
        }
        let frozen = self.trained.as_ref().map(|group| frozen(&model, group));
        let frozen = frozen.transpose()?;
        let mut taken = steps;
        for step in first..steps {
            // The path is asked first: a task may change when it is saved.
            if step > first
                && breaks.are_due(step)
                && let Some(path) = path.save()?
                && let Some(task) = task.save()?
            {
                let curve = log.save()?;
                let checks = checks.as_ref().map(Checks::save).transpose()?;
                let saved = SavedTask::new(step, &model, &optimizer, task, path, curve, checks)?;
                breaks.save(saved)?;
            }
            if breaks.are_stopped() {
                return Err(Error::Interrupted.into());
            }
            let (step_loss, grads) = task.loss_and_gradients(&model)?;
            let StepLoss {
                loss,
                accuracy,
                score,
            } = step_loss;
            path.record(&model, &loss, &grads)?;
            let mut grads = transform(&model, grads)?;
            if let Some(frozen) = &frozen {
                model.visit(&mut Forget {
                    ids: frozen,
                    grads: &mut grads,
                });
            }
            model = optimizer.step(lr.step(), model, grads);
            if let Some(watched) = &self.watched {
                (0..loss.dims()[0]).for_each(|_| watched.step(score.flatten()));
            }
            log.push(loss, accuracy, score, path.newest_length())?;
            if let Some(checks) = &mut checks
                && checks.is_over(step + 1, &model, task)?
            {
                taken = step + 1;
                break;
            }
        }
        if let Some(watched) = &self.watched {
            // Nothing is left to be done of them.
            watched.restored((self.steps - taken) * log.tasks());
        }
        let model = match checks {
            None => model,
            Some(checks) => checks.finish(model),
        };
        let curves = log.finish()?;
        let curve = curves.first().cloned().unwrap_or_default();
        if let Some(each) = &self.curves {
            *each.lock().unwrap_or_else(PoisonError::into_inner) = curves;
        }
        Ok((model, curve))
    }
}

/// The parameters of `model` that `trained` does not match.
fn frozen<M: Module>(model: &M, trained: &ParamGroup) -> Result<HashSet<ParamId>, Error> {
    let all = ParamSpace::new(model, &ParamGroup::all())?;
    let trained = ParamSpace::new(model, trained)?;
    let kept: HashSet<ParamId> = trained.params().map(|(id, _)| id).collect();
    let ids = all.params().map(|(id, _)| id);
    Ok(ids.filter(|id| !kept.contains(id)).collect())
}

/// Takes gradients away.
struct Forget<'a> {
    ids: &'a HashSet<ParamId>,
    grads: &'a mut GradientsParams,
}

impl ModuleVisitor for Forget<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.ids.contains(&param.id) {
            drop(self.grads.remove::<D>(param.id));
        }
    }
}

/// Learning curves whose scalars stay on the device until there are many, or the task ends: that of a task, or those of
/// stacked ones, each of whose tensors has a number for each task.
#[derive(Default)]
pub(crate) struct ScalarLog {
    losses: Vec<Tensor<1>>,
    accuracies: Vec<Tensor<1>>,
    lengths: Vec<Tensor<1>>,
    scores: Vec<Option<Option<f64>>>,
    /// Of each task, once there is a step.
    curves: Vec<CurveLog>,
}

impl ScalarLog {
    /// Bounds the memory of very long tasks; a read-back every so many steps costs nothing.
    const CHUNK: usize = 1024;

    pub fn push(
        &mut self,
        loss: Tensor<1>,
        accuracy: Option<Tensor<1>>,
        score: Option<Option<f64>>,
        length: Option<Tensor<1>>,
    ) -> Result<(), Error> {
        self.losses.push(loss);
        self.accuracies.extend(accuracy);
        self.lengths.extend(length);
        self.scores.push(score);
        match self.losses.len() {
            Self::CHUNK => self.flush(),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let read = |waiting: &mut Vec<Tensor<1>>| match waiting.is_empty() {
            true => Ok(Vec::new()),
            false => read_back(Tensor::cat(std::mem::take(waiting), 0)),
        };
        let steps = self.losses.len();
        let losses = read(&mut self.losses)?;
        let accuracies = read(&mut self.accuracies)?;
        let lengths = read(&mut self.lengths)?;
        let tasks = losses.len().checked_div(steps).unwrap_or(1);
        self.curves.resize_with(tasks, CurveLog::default);
        let scores = self.scores.drain(..).flat_map(|score| vec![score; tasks]);
        for (i, (loss, score)) in losses.into_iter().zip(scores).enumerate() {
            let accuracy = accuracies.get(i).copied();
            let segment = lengths.get(i).copied();
            self.curves[i % tasks].push(loss, accuracy, score, segment);
        }
        Ok(())
    }

    /// Number of tasks.
    fn tasks(&self) -> usize {
        match self.losses.first() {
            Some(loss) => loss.dims()[0],
            None => self.curves.len().max(1),
        }
    }

    fn save(&mut self) -> Result<CurveLog, Error> {
        self.flush()?;
        Ok(self.curves.first().cloned().unwrap_or_default())
    }

    pub fn finish(mut self) -> Result<Vec<LearningCurve>, Error> {
        self.flush()?;
        Ok(self.curves.into_iter().map(CurveLog::finish).collect())
    }
}
