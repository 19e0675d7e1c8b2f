//! The inner loop: a model is adapted to a task, step by step.

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};

use crate::params::read_back;
use crate::path::LearningPath;
use crate::report::LearningCurve;
use crate::task::{StepLoss, Task};
use crate::{Error, TaskError};

/// How a task trains: for how long, and with which optimizer.
#[derive(Clone)]
pub struct InnerLoop {
    /// Number of steps.
    pub steps: usize,
    /// The optimizer as it is at the start of every task.
    pub optimizer: ModuleOptimizer,
    /// The learning rate as it is at the start of every task.
    pub lr: ModuleLrScheduler,
}

impl InnerLoop {
    /// `steps` steps of `optimizer` with a learning rate that is a number or any Burn scheduler.
    pub fn new(
        steps: usize,
        optimizer: impl Into<ModuleOptimizer>,
        lr: impl Into<ModuleLrScheduler>,
    ) -> Self {
        Self {
            steps,
            optimizer: optimizer.into(),
            lr: lr.into(),
        }
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
        let mut optimizer = self.optimizer.clone();
        let mut lr = self.lr.clone();
        let (mut losses, mut accuracies) = (ScalarLog::default(), ScalarLog::default());
        for _ in 0..self.steps {
            let StepLoss { loss, accuracy } = task.loss(&model)?;
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            let loss = loss.inner();
            path.record(&model, &loss, &grads)?;
            let grads = transform(&model, grads)?;
            model = optimizer.step(lr.step(), model, grads);
            losses.push(loss)?;
            if let Some(accuracy) = accuracy {
                accuracies.push(accuracy.inner())?;
            }
        }
        let curve = LearningCurve {
            loss: losses.finish()?,
            accuracy: accuracies.finish()?,
        };
        Ok((model, curve))
    }
}

/// A model that starts at `init` and shares nothing with it that training changes.
///
/// A plain clone of a Burn module shares its running statistics with the original, so that training
/// the one would change the other.
pub fn task_copy<M: Module>(init: &M) -> M {
    init.valid().train()
}

/// As [`task_copy`], on `device`.
pub(crate) fn task_copy_on<M: Module>(init: &M, device: &Device) -> M {
    let copy = task_copy(init);
    match copy.devices().iter().all(|d| d == device) {
        true => copy,
        false => copy.fork(device),
    }
}

/// Scalars that stay on the device until there are many, or the task ends.
#[derive(Default)]
struct ScalarLog {
    waiting: Vec<Tensor<1>>,
    values: Vec<f64>,
}

impl ScalarLog {
    /// Bounds the memory of very long tasks; a read-back every so many steps costs nothing.
    const CHUNK: usize = 1024;

    fn push(&mut self, value: Tensor<1>) -> Result<(), Error> {
        self.waiting.push(value);
        if self.waiting.len() == Self::CHUNK {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if !self.waiting.is_empty() {
            let all = Tensor::cat(std::mem::take(&mut self.waiting), 0);
            self.values.extend(read_back(all)?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<f64>, Error> {
        self.flush()?;
        Ok(self.values)
    }
}
