//! Continual trajectory shifting: the initialization moves while tasks are learned, and their trajectories with it.
//!
//! Shin, Lee, Gong, Hwang: "Large-Scale Meta-Learning with Continual Trajectory Shifting", ICML 2021,
//! [arXiv 2102.07215](https://arxiv.org/abs/2102.07215).

use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::error::{Error, TaskError};
use crate::learners::leap::{Leap, LeapPath};
use crate::space::copy::task_copy;
use crate::space::params::{ParamSpace, ParamVector};
use crate::tasks::task::{StepLoss, Task};
use crate::training::inner::{InnerLoop, ScalarLog};
use crate::training::learner::{Learned, MetaLearner};

/// Where the initialization is drawn to, a step of the tasks at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pulled {
    /// To where the tasks are, by the mean of φ − θᵏ, as in the paper.
    ByEnds,
    /// Along their newest segments, by the mean of [`Leap`]'s pull on them. This is ours: the terms of Leap's sum, each taken
    /// as soon as it is known.
    ByPaths(Leap),
}

/// Continual trajectory shifting. The tasks of a meta-batch step together. After each step the initialization φ moves by
/// −β times the meta-gradient as it is then, and the same is added to the parameters of all tasks: to first order that is where
/// their training would be, had it begun at the new φ,
///
/// ```text
/// Uᵏ(φ + Δ) ≈ Uᵏ(φ) + Δ
/// ```
///
/// So the initialization moves as often as tasks step, and not once in a whole training of them. The meta-gradient that comes
/// back is φ before − φ after: SGD with a learning rate of 1 takes it as it is. A meta-batch is one task of a
/// [`Sequential`](crate::Sequential::in_turn) set, of as many steps as those of its tasks together:
///
/// ```
/// use burn::optim::SgdConfig;
/// use leap_core::{MetaTrainer, Sequential, Shifting};
/// # use leap_core::TaskSet;
/// # fn example<M: burn::module::Module, S: TaskSet<M> + Clone>(tasks: S) {
/// let trainer = MetaTrainer::new(Shifting::reptile().with_lr(0.001))
///     .with_meta_batch_size(1)
///     .with_task_steps(20 * 100)
///     .with_meta_optimizer(SgdConfig::new().init(), 1.0);
/// let tasks = Sequential::new(tasks, 20).in_turn();
/// # }
/// ```
///
/// It holds a model and an optimizer for each task of a meta-batch, all on one lane, and is not saved within a meta-step. Held-out
/// tasks are learned as ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shifting {
    /// Where the initialization is drawn to.
    pub pulled: Pulled,
    /// β.
    pub lr: f64,
}

impl Shifting {
    /// As in the paper, with a learning rate of 0.001.
    pub fn reptile() -> Self {
        Self {
            pulled: Pulled::ByEnds,
            lr: 0.001,
        }
    }

    /// With Leap's pulls, and a learning rate of 0.1.
    pub fn leap(leap: Leap) -> Self {
        Self {
            pulled: Pulled::ByPaths(leap),
            lr: 0.1,
        }
    }

    /// β, by which the initialization moves after each step.
    pub fn with_lr(mut self, lr: f64) -> Self {
        self.lr = lr;
        self
    }

    /// β for tasks of `steps` steps, such that the initialization is drawn about as far by them as by those of
    /// [`Reptile`](crate::Reptile) or [`Leap`] at a meta learning rate of `lr`: the ends of paths are looked at in each step,
    /// while Leap's pulls are the terms of one sum.
    pub fn with_meta_lr(self, lr: f64, steps: usize) -> Self {
        self.with_lr(match self.pulled {
            Pulled::ByEnds => lr / steps.max(1) as f64,
            Pulled::ByPaths(_) => lr,
        })
    }
}

/// The mean of vectors.
fn mean(vectors: Vec<ParamVector>) -> Option<ParamVector> {
    let count = vectors.len() as f64;
    let sum = vectors.into_iter().reduce(|a, b| a + b);
    sum.map(|sum| sum.map(|values| values / count))
}

impl<M: Module> MetaLearner<M> for Shifting {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        let wrong = |why: String| Err(Error::InvalidSetting(why).into());
        let Some(tasks @ 1..) = task.turns() else {
            return wrong("trajectory shifting needs tasks of `Sequential::in_turn`".into());
        };
        if inner.stopping.is_some() {
            return wrong("trajectory shifting does not stop early".into());
        }
        let steps = inner.steps_of(task.steps());
        let rounds = steps / tasks;
        if rounds == 0 {
            return wrong(format!("{steps} steps are not enough for {tasks} tasks"));
        }
        let start = space.point(&model)?;
        let mut init = start.clone();
        let mut models = Vec::from_iter((0..tasks).map(|_| task_copy(&model)));
        let mut optimizers = vec![inner.optimizer.clone(); tasks];
        let path = || match self.pulled {
            Pulled::ByEnds => None,
            Pulled::ByPaths(leap) => Some(leap.path(space)),
        };
        let mut paths: Vec<Option<LeapPath>> = (0..tasks).map(|_| path()).collect();
        let mut lr = inner.lr(rounds)?;
        let mut log = ScalarLog::default();
        let breaks = inner.breaks.begin();
        for _ in 0..rounds {
            let rate = lr.step();
            let (mut losses, mut accuracies) = (Vec::new(), Vec::new());
            let mut pulls = Vec::new();
            let each = models.iter_mut().zip(&mut optimizers).zip(&mut paths);
            for ((model, optimizer), path) in each {
                if breaks.are_stopped() {
                    return Err(Error::Interrupted.into());
                }
                let StepLoss { loss, accuracy, .. } = task.loss(model)?;
                let grads = GradientsParams::from_grads(loss.backward(), model);
                let loss = loss.inner();
                // Leap's pulls begin with the second point.
                if let Some(path) = path {
                    let pull = path.advance(model, &loss, &grads)?;
                    pulls.extend(pull.map(|pull| pull.force));
                }
                *model = optimizer.step(rate.clone(), model.clone(), grads);
                if path.is_none() {
                    pulls.push(space.point(model)? - init.clone());
                }
                losses.push(loss);
                accuracies.extend(accuracy.map(Tensor::inner));
                if let Some(watched) = &inner.watched {
                    watched.step(None);
                }
            }
            let of_all = |values: Vec<Tensor<1>>| Tensor::cat(values, 0).mean();
            let accuracy = (accuracies.len() == tasks).then(|| of_all(accuracies));
            log.push(of_all(losses), accuracy, None, None)?;
            let Some(pull) = mean(pulls) else {
                continue;
            };
            let shift = pull.map(|values| values * self.lr);
            init = init + shift.clone();
            for (model, path) in models.iter_mut().zip(&mut paths) {
                let moved = space.point(model)? + shift.clone();
                *model = moved.place(model.clone());
                if let Some(path) = path {
                    path.shift(&shift);
                }
            }
        }
        if let Some(watched) = &inner.watched {
            watched.restored(inner.steps - rounds * tasks);
        }
        Ok(Learned {
            // Each task has its own; that of the first stands for them.
            model: models.swap_remove(0),
            curve: log.finish()?.swap_remove(0),
            gradient: start - init,
            figures: None,
        })
    }
}
