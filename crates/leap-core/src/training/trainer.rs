//! The settings of meta-training.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::ParamGroup;
use burn::optim::{ModuleOptimizer, SgdConfig};

use crate::devices::device::{is_cpu, is_remote};
use crate::devices::lanes::Lanes;
use crate::saving::checkpoint::Checkpoints;
use crate::seed::Purpose;
use crate::tasks::monitor::Monitor;
use crate::training::inner::InnerLoop;
use crate::training::statistics::Statistics;

/// Meta-trains an initialization: the outer loop, with the paper's settings for Omniglot as defaults.
#[derive(Clone)]
pub struct MetaTrainer<L> {
    pub(super) learner: L,
    pub(super) seed: u64,
    pub(super) meta_batch_size: usize,
    pub(super) in_turn: bool,
    pub(super) inner: InnerLoop,
    /// For held-out tasks, where it is another.
    pub(super) held_out: Option<InnerLoop>,
    pub(super) shared: ParamGroup,
    pub(super) meta_optimizer: ModuleOptimizer,
    pub(super) meta_lr: ModuleLrScheduler,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) stop: Option<Arc<AtomicBool>>,
    pub(super) monitor: Option<Arc<Monitor>>,
    pub(super) statistics: Option<Statistics>,
    pub(super) task_batch: Option<usize>,
    pub(super) task_memory: Option<u64>,
}

impl<L: Clone> MetaTrainer<L> {
    /// A trainer with the paper's settings for Omniglot: 20 tasks a meta-batch, 100 steps a task, SGD
    /// with a learning rate of 0.1 inside and outside.
    pub fn new(learner: L) -> Self {
        Self {
            learner,
            seed: 0,
            meta_batch_size: 20,
            in_turn: false,
            inner: InnerLoop::new(100, SgdConfig::new().init(), 0.1),
            held_out: None,
            shared: ParamGroup::all(),
            meta_optimizer: SgdConfig::new().init(),
            meta_lr: 0.1.into(),
            checkpoints: None,
            stop: None,
            monitor: None,
            statistics: None,
            task_batch: None,
            task_memory: None,
        }
    }

    /// Seeds all that is random (default 0): tasks, their batches, and what models and tasks draw on their device, such as
    /// dropout's masks. The latter are the same for any number of lanes, but not from one backend to another.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Number of tasks in a meta-batch (default 20).
    pub fn with_meta_batch_size(mut self, tasks: usize) -> Self {
        self.meta_batch_size = tasks;
        self
    }

    /// Number of tasks in a meta-batch.
    pub fn meta_batch_size(&self) -> usize {
        self.meta_batch_size
    }

    /// Takes the tasks of a set in turn, one meta-batch after the other, for learners that go from task to task. By default
    /// they are drawn at random.
    pub fn with_tasks_in_turn(mut self) -> Self {
        self.in_turn = true;
        self
    }

    /// Number of training steps a task (default 100).
    pub fn with_task_steps(mut self, steps: usize) -> Self {
        self.inner.steps = steps;
        self
    }

    /// Number of training steps a task.
    pub fn task_steps(&self) -> usize {
        self.inner.steps
    }

    /// The optimizer that trains the tasks, and its learning rate: a number or any Burn scheduler
    /// (default SGD, 0.1). Every task starts with the optimizer and the scheduler as given here.
    pub fn with_task_optimizer(
        mut self,
        optimizer: impl Into<ModuleOptimizer>,
        lr: impl Into<ModuleLrScheduler>,
    ) -> Self {
        let InnerLoop {
            steps, stopping, ..
        } = self.inner;
        self.inner = InnerLoop::new(steps, optimizer, lr);
        self.inner.stopping = stopping;
        self
    }

    /// How tasks train, all at once: their steps, optimizer, learning rate or [schedule](InnerLoop::with_lr_schedule), and
    /// [early stopping](InnerLoop::with_early_stopping).
    pub fn with_task_training(mut self, inner: InnerLoop) -> Self {
        self.inner = inner;
        self
    }

    /// How held-out tasks train, where it is not as in meta-training: for more steps, say.
    pub fn with_held_out_training(mut self, inner: InnerLoop) -> Self {
        self.held_out = Some(inner);
        self
    }

    /// How tasks train for a purpose.
    pub(super) fn inner(&self, purpose: Purpose) -> &InnerLoop {
        match (purpose, &self.held_out) {
            (Purpose::HeldOut, Some(inner)) => inner,
            _ => &self.inner,
        }
    }

    /// Number of training steps a held-out task.
    pub fn held_out_steps(&self) -> usize {
        self.inner(Purpose::HeldOut).steps
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
    /// and [`Task::start`](crate::Task::start) may replace it. The path runs over the shared part alone, while the task's
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

    /// Stops tasks in the middle when the flag is set, as Ctrl-C may do. What was trained since the last checkpoint
    /// [within the task](Checkpoints::with_task_steps) is lost.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// By which statistics held-out samples are normalized, for models with batch-normalization (default
    /// [`Statistics::Running`], and for tasks of fewer than 30 steps [`Statistics::Batch`]).
    pub fn with_held_out_statistics(mut self, statistics: Statistics) -> Self {
        self.statistics = Some(statistics);
        self
    }

    /// Trains so many tasks of a meta-batch at once on a lane, in one program that is about as long as that of a single task:
    /// on a GPU, where a small task waits for launches and not for arithmetic. Held-out tasks too. The default is all that a
    /// lane has of a meta-batch on GPUs, and 1 on CPUs, where nothing is gained by it, and on workers.
    ///
    /// Neither model nor task has to know of it: a task's [`loss`](crate::Task::loss) is recorded on a device that computes
    /// nothing, [`TaskContext::device`](crate::TaskContext::device), and played for all of them. It must make its tensors
    /// there, at each step, and read nothing back. A first step is compared with those of tasks by themselves. Tasks whose
    /// steps differ in more than their batches, models with dropout, operations that there is no rule for, early stopping,
    /// optimizers that do not move each number by itself and meta-learners that do not [stack](crate::MetaLearner::stacks)
    /// are trained one by one, and a warning says why. Numbers are the same up to the order in which they are added up.
    pub fn with_task_batch(mut self, tasks: usize) -> Self {
        self.task_batch = Some(tasks.max(1));
        self
    }

    /// Bytes of a device's memory that the tasks which are trained at once may take (default no limit). What they would take
    /// is [predicted](crate::MetaRun::task_bytes); a batch that would take more is split.
    pub fn with_task_memory(mut self, bytes: u64) -> Self {
        self.task_memory = Some(bytes);
        self
    }

    /// Tasks that a lane trains at once.
    pub(super) fn task_batch(&self, tasks: usize, lanes: &Lanes) -> usize {
        self.task_batch.unwrap_or_else(|| {
            match lanes.devices().any(|d| is_cpu(d) || is_remote(d)) {
                true => 1,
                false => tasks.div_ceil(lanes.len()).max(1),
            }
        })
    }

    /// Tells `monitor` of each step of each task, for a progress bar, say.
    pub fn with_monitor(mut self, monitor: Arc<Monitor>) -> Self {
        self.monitor = Some(monitor);
        self
    }
}
