//! What a meta-learner is.

use std::sync::Arc;

use burn::module::Module;

use crate::error::{Error, TaskError};
use crate::space::figures::DeviceFigures;
use crate::space::params::{ParamSpace, ParamVector};
use crate::space::path::LearningPath;
use crate::tasks::curve::LearningCurve;
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;

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

    /// What it needs of the way in which tasks train `model`; asked when meta-training
    /// [begins](crate::MetaTrainer::begin), before anything is trained. By default nothing.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] says what is missing.
    fn check(&self, _model: &M, _inner: &InnerLoop) -> Result<(), Error> {
        Ok(())
    }

    /// Whether several tasks may be learned from [as one](crate::MetaTrainer::with_task_batch), with a model, losses of shape
    /// `[tasks]` and vectors that are those of all of them.
    ///
    /// Say so for a learner that handles parameters as [`ParamVector`]s alone, whose operations know of it, and losses
    /// and other scalars elementwise, and that takes all of a task's steps, and asks for queries after them alone: steps
    /// are recorded ahead.
    fn stacks(&self) -> bool {
        false
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
