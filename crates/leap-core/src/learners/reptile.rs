//! Reptile: an initialization that is near to where the tasks' training ends.
//!
//! Nichol, Achiam, Schulman: "On First-Order Meta-Learning Algorithms", [arXiv 1803.02999](https://arxiv.org/abs/1803.02999).

use std::sync::Arc;

use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::error::TaskError;
use crate::space::params::ParamSpace;
use crate::space::path::PathMeter;
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};

/// Reptile. A task's meta-gradient is θ⁰ − θᴷ, from where its training ended to the initialization
/// (algorithm 2 of the paper).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reptile;

impl<M: Module> MetaLearner<M> for Reptile {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        let start = space.point(&model)?;
        let mut path = PathMeter::new(space, true);
        let (model, curve) = inner.run(model, task, &mut path)?;
        Ok(Learned {
            gradient: start - space.point(&model)?,
            model,
            curve,
            figures: path.figures(),
        })
    }

    fn stacks(&self) -> bool {
        true
    }
}
