//! What a meta-learner is, and the meta-gradient that its tasks add up to.

use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;

use crate::adapt::InnerLoop;
use crate::params::{ParamSpace, ParamVector};
use crate::path::{DeviceFigures, LearningPath};
use crate::report::LearningCurve;
use crate::task::Task;
use crate::{Error, TaskError};

/// A meta-learner: what is to be learned from a task's training.
///
/// It is a small value that holds settings alone, so that tasks can run side by side; what is learned
/// lives in the model, whose parameters are moved by the mean of the meta-gradients. A learner that
/// works for any model implements this for every `M`; one with parameters of its own, such as
/// learning rates, implements it for the module that holds them.
pub trait MetaLearner<M: Module>: Clone + std::fmt::Debug + Send + Sync {
    /// Trains `model`, which is at the initialization, on `task`, and returns the meta-gradient: the
    /// direction in `space`, the part of the model that is meta-learned, against which the
    /// initialization is to move.
    ///
    /// # Errors
    /// An error of the task, or whatever prevents a meta-gradient.
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError>;

    /// Trains `model` on `task` where nothing is learned from it, as on held-out tasks. Override it
    /// for a learner that changes how tasks are trained.
    ///
    /// # Errors
    /// An error of the task, or of the path.
    fn adapt<T: Task<M>>(
        &self,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
        path: &mut impl LearningPath,
    ) -> Result<(M, LearningCurve), TaskError> {
        inner.run(model, task, path)
    }
}

/// What came of training a task.
#[derive(Clone, Debug)]
pub struct Learned<M> {
    /// The trained model.
    pub model: M,
    /// Loss and accuracy at each step.
    pub curve: LearningCurve,
    /// The task's meta-gradient.
    pub gradient: ParamVector,
    /// The figures of its path, still on the device; `None` where the meta-learner does not measure
    /// them.
    pub figures: Option<DeviceFigures>,
}

/// The mean of the meta-gradients of a meta-batch's tasks: an ordinary gradient, for any Burn
/// optimizer.
#[derive(Debug, Default)]
pub struct MetaGradient {
    sum: Option<ParamVector>,
    tasks: usize,
}

impl MetaGradient {
    /// No task yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task's meta-gradient. The order of additions is the order of the float sum.
    ///
    /// # Errors
    /// [`Error::SpaceMismatch`] if the gradient is of another parameter space than the first.
    pub fn add(&mut self, gradient: ParamVector) -> Result<(), Error> {
        self.sum = Some(match self.sum.take() {
            None => gradient,
            Some(sum) if sum.space() != gradient.space() => {
                self.sum = Some(sum);
                return Err(Error::SpaceMismatch);
            }
            Some(sum) => sum + gradient,
        });
        self.tasks += 1;
        Ok(())
    }

    /// The sum of `tasks` meta-gradients.
    pub(crate) fn of_sum(sum: ParamVector, tasks: usize) -> Self {
        Self {
            sum: Some(sum),
            tasks,
        }
    }

    pub(crate) fn sum(&self) -> Option<&ParamVector> {
        self.sum.as_ref()
    }

    /// Number of tasks added so far.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Takes the mean over the tasks, on `device`, and starts anew.
    ///
    /// # Errors
    /// [`Error::EmptyMetaBatch`] if no task was added.
    pub fn take(&mut self, device: &Device) -> Result<GradientsParams, Error> {
        let Self { sum, tasks } = std::mem::take(self);
        let mean = sum.ok_or(Error::EmptyMetaBatch)?.map(|t| t / tasks as f64);
        Ok(mean.to_device(device).into_gradients())
    }
}
