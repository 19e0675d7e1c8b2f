//! Multi-headed finetuning: plain training on all tasks at once, as in section 4 of the
//! [Leap paper](https://arxiv.org/abs/1812.01054).

use std::sync::Arc;

use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::error::TaskError;
use crate::space::params::ParamSpace;
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};

use crate::learners::reptile::Reptile;

/// Finetuning. One body is trained on batches in which all tasks are mixed, with a head for each; a new
/// task starts from the body, with a new head.
///
/// The mixture is a single [`Task`] of its own (for Omniglot, `OmniglotTasks::mixed`), a meta-step is a
/// round of its training, and the meta-gradient is θ⁰ − θᴷ: with a meta-batch of one task and SGD
/// with a learning rate of 1 as meta-optimizer, the initialization goes where training went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finetuning;

impl<M: Module> MetaLearner<M> for Finetuning {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        Reptile.learn(space, inner, model, task)
    }

    fn stacks(&self) -> bool {
        true
    }
}
