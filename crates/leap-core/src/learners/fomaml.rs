//! First-order MAML: the gradient at the end of a task's training, taken at its start.
//!
//! Finn, Abbeel, Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
//! [arXiv 1703.03400](https://arxiv.org/abs/1703.03400), section 5.2; Nichol, Achiam, Schulman,
//! [arXiv 1803.02999](https://arxiv.org/abs/1803.02999), section 2.2.

use std::sync::Arc;

use burn::config::Config;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};

use crate::error::{Error, TaskError};
use crate::space::copy::task_copy;
use crate::space::params::{ParamSpace, ParamVector};
use crate::space::path::{LearningPath, PathMeter};
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};

/// First-order MAML.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct Fomaml {
    /// Whether the gradient is that of a [query](Task::query) batch at θᴷ, as in MAML. Otherwise it is that of
    /// the last training step, at θᴷ⁻¹, which costs nothing.
    #[config(default = false)]
    pub query: bool,
}

impl Default for Fomaml {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Module> MetaLearner<M> for Fomaml {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        let mut path = LastGradient {
            space,
            meter: PathMeter::new(space, true),
            gradient: None,
        };
        let (model, curve) = inner.run(model, task, &mut path)?;
        let gradient = match self.query {
            true => query_gradient(space, &model, task)?,
            false => path.gradient.ok_or_else(|| {
                Error::InvalidSetting("first-order MAML needs tasks of at least one step".into())
            })?,
        };
        Ok(Learned {
            model,
            curve,
            gradient,
            figures: path.meter.figures(),
        })
    }

    fn stacks(&self) -> bool {
        true
    }
}

/// The gradient of a query batch's loss at `model`, whose running statistics stay as they are.
pub(super) fn query_gradient<M: Module>(
    space: &Arc<ParamSpace>,
    model: &M,
    task: &mut impl Task<M>,
) -> Result<ParamVector, TaskError> {
    let copy = task_copy(model);
    let loss = task.query(&copy)?;
    let grads = GradientsParams::from_grads(loss.backward(), &copy);
    Ok(space.gradient(&copy, &grads)?)
}

struct LastGradient<'a> {
    space: &'a Arc<ParamSpace>,
    meter: PathMeter,
    gradient: Option<ParamVector>,
}

impl LearningPath for LastGradient<'_> {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        self.gradient = Some(self.space.gradient(model, grads)?);
        self.meter.record(model, loss, grads)
    }

    fn save(&self) -> Result<Option<Vec<u8>>, Error> {
        let gradient = self.gradient.as_ref().map(ParamVector::save).transpose()?;
        let saved = (self.meter.save()?, gradient);
        rmp_serde::to_vec(&saved).map(Some).map_err(Error::saved)
    }

    fn restore(&mut self, saved: &[u8], device: &Device) -> Result<(), Error> {
        type Saved = (Option<Vec<u8>>, Option<TensorData>);
        let (meter, gradient): Saved = rmp_serde::from_slice(saved).map_err(Error::saved)?;
        self.meter.restore(&meter.unwrap_or_default(), device)?;
        let restore = |data| ParamVector::restore(self.space, data, device);
        self.gradient = gradient.map(restore).transpose()?;
        Ok(())
    }
}
