//! ANIL: a task trains its head alone, on features that are meta-learned.
//!
//! Raghu, Raghu, Bengio, Vinyals: "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML",
//! ICLR 2020, [arXiv 1909.09157](https://arxiv.org/abs/1909.09157), section 4.1.

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

/// ANIL ("almost no inner loop"), first-order. In training a task, and in learning a held-out one, the head alone moves; all of
/// the model is meta-learned.
///
/// The meta-gradient is that of [`Fomaml`] with a query batch. A model without such a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anil {
    /// What the paths of the head's parameters have in them.
    pub head: &'static str,
}

impl Default for Anil {
    /// The head is what is named `head`.
    fn default() -> Self {
        Self { head: "head" }
    }
}

impl Anil {
    fn inside(&self, inner: &InnerLoop) -> InnerLoop {
        let head = ParamGroup::from_predicate(self.head);
        inner.clone().with_trained(head)
    }
}

impl<M: Module> MetaLearner<M> for Anil {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
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
        self.inside(inner).run(model, task, path)
    }

    fn stacks(&self) -> bool {
        true
    }
}
