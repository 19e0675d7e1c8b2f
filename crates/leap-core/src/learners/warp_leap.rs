//! Warp-Leap: Leap through layers that warp the space in which tasks are learned.
//!
//! Flennerhag, Rusu, Pascanu, Visin, Yin, Hadsell: "Meta-Learning with Warped Gradient Descent", ICLR 2020,
//! [arXiv 1909.00025](https://arxiv.org/abs/1909.00025), section 3.

use std::sync::Arc;

use burn::module::{Module, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::error::{Error, TaskError};
use crate::learners::leap::{Leap, LeapPath, check_steps};
use crate::space::params::{ParamSpace, ParamVector};
use crate::space::path::LearningPath;
use crate::space::sum::LongSum;
use crate::tasks::curve::LearningCurve;
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};

/// Warp-Leap, first-order. Some of the model's layers, the *warp*, stay as they are while a task is learned: gradients pass
/// through them, and so do activations, which is a preconditioner of the other layers' steps. The others' initialization is
/// meta-learned by [`Leap`], on the path that they take alone.
///
/// The warp φ is meta-learned by the paper's approximate objective, which holds the update inside fixed (sg), on the points that
/// training visits anyway: its meta-gradient is the mean of
///
/// ```text
/// ∇_φ f(sg[θⁱ − η ∇_θ f(θⁱ; φ)]; φ) = ∇_φ f(θⁱ⁺¹; φ)
/// ```
///
/// over the steps of a task, each on the next step's batch. Nothing is computed for it that training does not compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarpLeap {
    /// What the paths of the warp's parameters have in them.
    pub warp: &'static str,
    /// The path of the others.
    pub leap: Leap,
}

impl Default for WarpLeap {
    /// The warp is what is named `warp`.
    fn default() -> Self {
        Self {
            warp: "warp",
            leap: Leap::new(),
        }
    }
}

impl WarpLeap {
    fn parts(&self) -> [ParamGroup; 2] {
        let warp = ParamGroup::from_predicate(self.warp);
        [ParamGroup::all().exclude(warp.clone()), warp]
    }

    fn inside(&self, inner: &InnerLoop) -> InnerLoop {
        let [others, _] = self.parts();
        inner.clone().with_trained(others)
    }
}

struct WarpPath {
    leap: LeapPath,
    warp: Arc<ParamSpace>,
    /// Gradients of the warp, at each point but the first.
    gradients: LongSum<ParamVector>,
    is_first: bool,
}

impl LearningPath for WarpPath {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        self.leap.record(model, loss, grads)?;
        if !std::mem::replace(&mut self.is_first, false) {
            self.gradients.add(self.warp.gradient(model, grads)?);
        }
        Ok(())
    }

    fn newest_length(&self) -> Option<Tensor<1>> {
        self.leap.newest_length()
    }
}

impl<M: Module> MetaLearner<M> for WarpLeap {
    fn check(&self, model: &M, inner: &InnerLoop) -> Result<(), Error> {
        check_steps(inner)?;
        let [_, warp] = self.parts();
        match ParamSpace::new(model, &warp) {
            Err(Error::NothingShared) => Err(Error::InvalidSetting(format!(
                "Warp-Leap needs a model with layers that warp, which have `{}` in their paths",
                self.warp
            ))),
            other => other.map(|_| ()),
        }
    }

    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        let [others, warp] = self.parts();
        let mut path = WarpPath {
            leap: self.leap.path(&space.within(&model, &others)?),
            warp: space.within(&model, &warp)?,
            gradients: LongSum::default(),
            is_first: true,
        };
        let (model, curve) = self.inside(inner).run(model, task, &mut path)?;
        let points = path.gradients.terms as f64;
        let learned = path.leap.finish()?;
        let gradient = space.embed(learned.gradient);
        let gradient = match path.gradients.total() {
            None => gradient,
            Some(warp) => gradient + space.embed(warp.map(|sum| sum / points)),
        };
        Ok(Learned {
            model,
            curve,
            gradient,
            figures: Some(learned.figures),
        })
    }

    fn adapt<T: Task<M>>(
        &self,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
        path: &mut impl LearningPath,
    ) -> Result<(M, LearningCurve), TaskError> {
        ParamSpace::new(&model, &ParamGroup::from_predicate(self.warp))?;
        self.inside(inner).run(model, task, path)
    }
}
