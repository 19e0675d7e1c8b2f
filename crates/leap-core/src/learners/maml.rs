//! MAML, with its second derivatives: the initialization from which a few steps of gradient descent go
//! furthest.
//!
//! Finn, Abbeel, Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
//! [arXiv 1703.03400](https://arxiv.org/abs/1703.03400), algorithm 1.

use std::sync::Arc;

use burn::config::Config;
use burn::module::{Module, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::error::{Error, TaskError};
use crate::space::copy::task_copy;
use crate::space::params::{ParamSpace, ParamVector, read_back};
use crate::space::path::{LearningPath, PathMeter, SHORTEST};
use crate::tasks::task::{StepLoss, Task};
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};
use crate::training::probe::is_plain_sgd;

use crate::learners::fomaml::query_gradient;

/// MAML. A task's meta-gradient is the gradient, with respect to θ⁰, of a [query](Task::query) batch's loss
/// at θᴷ.
///
/// With θⁱ⁺¹ = θⁱ − α ∇fᵢ(θⁱ), it is carried back through the steps, the last one first, by
///
/// ```text
/// v ← v − α ∇²fᵢ(θⁱ) v
/// ```
///
/// Burn differentiates once, so the product is a central difference of gradients on step i's own data,
/// (∇fᵢ(θⁱ + εv) − ∇fᵢ(θⁱ − εv)) / 2ε. The task has to be able to repeat a step ([`Task::fork`]), and its optimizer has
/// to be plain SGD.
///
/// K steps cost 3K + 1 gradients, three times those of plain training, and the memory of K models and K
/// forks of the task.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Maml {
    /// The length of the step εv of the difference, as a share of 1 + ‖θ‖.
    ///
    /// On smooth networks the error of the default is about 1e-4 of the meta-gradient, and grows with the
    /// square of the step. Where a network has kinks (ReLU, max-pooling), units that switch within the step add
    /// noise that grows as it shrinks, by 1/√ε a product: on the Omniglot convnet 0.01 gives noise alone after 5
    /// steps, and 0.1 is needed.
    #[config(default = 1e-2)]
    pub difference: f64,
}

impl Default for Maml {
    fn default() -> Self {
        Self::new()
    }
}

impl Maml {
    fn check_difference(&self) -> Result<(), Error> {
        match self.difference.is_finite() && self.difference > 0.0 {
            true => Ok(()),
            false => Err(Error::InvalidSetting(format!(
                "a difference of {}, which must be above 0",
                self.difference
            ))),
        }
    }
}

impl<M: Module> MetaLearner<M> for Maml {
    fn check(&self, model: &M, inner: &InnerLoop) -> Result<(), Error> {
        self.check_difference()?;
        let all = ParamSpace::new(model, &ParamGroup::all())?;
        match is_plain_sgd(&all, model, &inner.optimizer, &inner.lr(inner.steps)?)? {
            true => Ok(()),
            false => Err(no_sgd()),
        }
    }

    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        self.check_difference()?;
        // The way back leads through all parameters that training moves, meta-learned or not.
        let all = ParamSpace::new(&model, &ParamGroup::all())?;
        let mut path = Steps {
            space: &all,
            meter: PathMeter::new(space, true),
            steps: Vec::new(),
        };
        let forks = Vec::new();
        let mut repeatable = Repeatable { task, forks };
        if inner.stopping.is_some() {
            let wrong = "MAML cannot differentiate through training that may stop early";
            return Err(Error::InvalidSetting(wrong.into()).into());
        }
        let (model, curve) = inner.run(model, &mut repeatable, &mut path)?;
        let Repeatable { task, forks } = repeatable;

        let mut lr = inner.lr(path.steps.len())?;
        let rates: Vec<Vec<f64>> = (0..path.steps.len())
            .map(|_| lr.step())
            .map(|lr| {
                all.params()
                    .map(|(id, path)| lr.lr_from_param(id, Some(path)))
                    .collect()
            })
            .collect();
        check_sgd(&path.steps, all.point(&model)?, &rates)?;

        let mut v = query_gradient(&all, &model, task)?;
        let steps = path.steps.into_iter().zip(forks).zip(rates);
        for ((step, (before, fork)), rates) in steps.rev() {
            let product = self.hessian_product(&all, step.theta, before, fork, &v)?;
            v = v - product.scaled(&rates);
        }
        Ok(Learned {
            gradient: space.gradient(&model, &v.into_gradients())?,
            model,
            curve,
            figures: path.meter.figures(),
        })
    }
}

impl Maml {
    /// The product with `v` of the Hessian of `task`'s next loss at `theta`.
    fn hessian_product<M: Module, T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        theta: ParamVector,
        model: M,
        task: T,
        v: &ParamVector,
    ) -> Result<ParamVector, TaskError> {
        let norm = |v: &ParamVector| v.dot(v).sqrt().clamp_min(SHORTEST);
        let size = (norm(&theta) + 1.0) * self.difference / norm(v);
        let shift = v.clone().scale(&size);
        let gradient_at = |theta: ParamVector, mut task: T| {
            let model = theta.place(task_copy(&model));
            let loss = task.loss(&model)?.loss;
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            Ok::<_, TaskError>(space.gradient(&model, &grads)?)
        };
        let again = task.fork().ok_or_else(no_fork)?;
        let ahead = gradient_at(theta.clone() + shift.clone(), again)?;
        let behind = gradient_at(theta - shift, task)?;
        Ok((ahead - behind).scale(&(size * 2.0).recip()))
    }
}

/// That each step was one of plain SGD, as the way back assumes.
fn check_sgd(steps: &[Step], end: ParamVector, rates: &[Vec<f64>]) -> Result<(), Error> {
    let mut sums = Vec::new();
    for (i, (step, rates)) in steps.iter().zip(rates).enumerate() {
        let next = steps.get(i + 1).map_or(&end, |s| &s.theta).clone();
        let moved = next - step.theta.clone();
        let rest = moved.clone() + step.gradient.clone().scaled(rates);
        sums.extend([&rest, &moved, &step.theta].map(|v| v.dot(v).sqrt()));
    }
    if sums.is_empty() {
        return Ok(());
    }
    for norms in read_back(Tensor::cat(sums, 0))?.chunks_exact(3) {
        if norms[0] > 1e-3 * norms[1] + 1e-6 * norms[2] {
            return Err(no_sgd());
        }
    }
    Ok(())
}

fn no_sgd() -> Error {
    Error::InvalidSetting(
        "MAML differentiates through tasks that are trained with plain SGD, without momentum, weight decay or clipping"
            .into(),
    )
}

fn no_fork() -> TaskError {
    Error::InvalidSetting("MAML needs tasks that can repeat a step (`Task::fork`)".into()).into()
}

/// The points of a path, and the gradients there.
struct Steps<'a> {
    space: &'a Arc<ParamSpace>,
    meter: PathMeter,
    steps: Vec<Step>,
}

struct Step {
    theta: ParamVector,
    gradient: ParamVector,
}

impl LearningPath for Steps<'_> {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        self.steps.push(Step {
            theta: self.space.point(model)?,
            gradient: self.space.gradient(model, grads)?,
        });
        self.meter.record(model, loss, grads)
    }
}

/// A task whose steps can be repeated.
struct Repeatable<'a, M, T> {
    task: &'a mut T,
    /// Model and task as they were before each step.
    forks: Vec<(M, T)>,
}

impl<M: Module, T: Task<M>> Task<M> for Repeatable<'_, M, T> {
    fn steps(&self) -> Option<usize> {
        self.task.steps()
    }

    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let fork = self.task.fork().ok_or_else(no_fork)?;
        self.forks.push((task_copy(model), fork));
        self.task.loss(model)
    }
}
