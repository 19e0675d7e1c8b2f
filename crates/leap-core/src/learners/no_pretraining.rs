//! No pretraining: the baseline that everything is compared with.

use std::sync::Arc;

use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::error::TaskError;
use crate::space::params::ParamSpace;
use crate::tasks::curve::LearningCurve;
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};

/// No pretraining. The meta-gradient is zero, and tasks are not trained for it: the initialization stays
/// where it is, at no cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoPretraining;

impl<M: Module> MetaLearner<M> for NoPretraining {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        _inner: &InnerLoop,
        model: M,
        _task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        Ok(Learned {
            gradient: space.point(&model)?.map(|t| t.zeros_like()),
            model,
            curve: LearningCurve::default(),
            figures: None,
        })
    }

    fn stacks(&self) -> bool {
        true
    }
}
