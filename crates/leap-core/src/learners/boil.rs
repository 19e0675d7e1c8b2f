//! BOIL: a task trains all but its head.
//!
//! Oh, Yoo, Kim, Yun: "BOIL: Towards Representation Change for Few-shot Learning", ICLR 2021,
//! [arXiv 2008.08882](https://arxiv.org/abs/2008.08882), section 3.

use std::sync::Arc;

use burn::module::{Module, ParamGroup};

use crate::error::TaskError;
use crate::learners::fomaml::Fomaml;
use crate::space::params::ParamSpace;
use crate::space::path::LearningPath;
use crate::tasks::curve::LearningCurve;
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};

/// BOIL ("body only update in inner loop"), first-order. In training a task, and in learning a held-out one, the head stays as
/// it is; all of the model is meta-learned.
///
/// The meta-gradient is that of [`Fomaml`] with a query batch. A model without such a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boil {
    /// What the paths of the head's parameters have in them.
    pub head: &'static str,
}

impl Default for Boil {
    /// The head is what is named `head`.
    fn default() -> Self {
        Self { head: "head" }
    }
}

impl Boil {
    fn inside(&self, inner: &InnerLoop) -> InnerLoop {
        let head = ParamGroup::from_predicate(self.head);
        let body = ParamGroup::all().exclude(head);
        inner.clone().with_trained(body)
    }
}

impl<M: Module> MetaLearner<M> for Boil {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        ParamSpace::new(&model, &ParamGroup::from_predicate(self.head))?;
        let inner = self.inside(inner);
        Fomaml { query: true }.learn(space, &inner, model, task)
    }

    fn adapt<T: Task<M>>(
        &self,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
        path: &mut impl LearningPath,
    ) -> Result<(M, LearningCurve), TaskError> {
        ParamSpace::new(&model, &ParamGroup::from_predicate(self.head))?;
        self.inside(inner).run(model, task, path)
    }

    fn stacks(&self) -> bool {
        true
    }
}
