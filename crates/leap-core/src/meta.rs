//! What a meta-learner is, and the meta-gradient that its tasks add up to.

use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

use crate::Error;
use crate::params::{ParamSpace, ParamVector};
use crate::report::PathFigures;

/// A meta-learner: what is to be learned from the path that a task's training takes.
///
/// It is a small value that holds settings alone. What it sees of a task is kept in its
/// [`Path`](MetaLearner::Path), one a task, so that tasks can run side by side.
pub trait MetaLearner: Clone + std::fmt::Debug + Send + Sync {
    /// What is kept of a task while it trains.
    type Path: LearningPath;

    /// Starts to follow a task.
    fn path(&self, space: &Arc<ParamSpace>) -> Self::Path;
}

/// A task's path from the initialization, as far as its meta-learner needs to remember it.
pub trait LearningPath {
    /// Records the point at which a loss and its gradients were measured, before the optimizer
    /// moves on from there.
    ///
    /// `loss` has shape `[1]`; nothing is read back from the device.
    ///
    /// # Errors
    /// [`Error::MissingParameter`] if `model` has lost a shared parameter.
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error>;

    /// The task's meta-gradient and the figures of its path. `model` is the trained model.
    ///
    /// # Errors
    /// Whatever prevents a meta-gradient, such as a path without a segment.
    fn finish<M: Module>(self, model: &M) -> Result<TaskGradient, Error>;
}

/// What a task contributes to a meta-step.
#[derive(Clone, Debug)]
pub struct TaskGradient {
    /// The task's meta-gradient.
    pub gradient: ParamVector,
    /// Length and energy of its path, still on the device; `None` where the meta-learner does not
    /// follow the path.
    pub figures: Option<DeviceFigures>,
}

/// The figures of a path on its device, each of shape `[1]`.
#[derive(Clone, Debug)]
pub struct DeviceFigures {
    /// Sum of the segments' lengths.
    pub length: Tensor<1>,
    /// Sum of the segments' squared lengths.
    pub energy: Tensor<1>,
    /// Number of segments.
    pub segments: usize,
}

impl DeviceFigures {
    /// Reads the figures back from the device.
    ///
    /// # Errors
    /// [`Error::ReadBack`] if the device does not deliver them.
    pub fn read(&self) -> Result<PathFigures, Error> {
        let both = Tensor::cat(vec![self.length.clone(), self.energy.clone()], 0);
        let values = crate::params::read_back(both)?;
        Ok(PathFigures {
            length: values[0],
            energy: values[1],
            segments: self.segments,
        })
    }
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
