//! Leap: an initialization from which the paths of training are short.
//!
//! Flennerhag, Moreno, Lawrence, Damianou: "Transferring Knowledge across Learning Processes",
//! ICLR 2019, [arXiv 1812.01054](https://arxiv.org/abs/1812.01054).

use std::sync::Arc;

use burn::config::Config;
use burn::module::{Module, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::meta::{DeviceFigures, LearningPath, MetaLearner, TaskGradient};
use crate::params::{ParamSpace, ParamVector};
use crate::{Error, task_copy};

/// How a path's segments add up to the distance that is minimised.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Norm {
    /// d1, the sum of the segments' lengths.
    Length,
    /// d2, the sum of the segments' squared lengths. Its factor of 2 is left to the meta learning
    /// rate, as in the authors' code.
    Energy,
}

/// Leap's settings.
///
/// A task's path visits the points γ = (θ, f(θ)). Leap holds the point at the end of each segment
/// and pulls the one before towards it ("pull-forward"); with the Jacobians of the training process
/// taken as the identity, the meta-gradient of a task is (section 2.3 of the paper, p = 1 for the length and
/// p = 2, without the factor, for the energy)
///
/// ```text
/// − Σᵢ (Δf ∇f(θⁱ) + Δθ) ‖γⁱ⁺¹ − γⁱ‖^(p−2),    Δθ = θⁱ⁺¹ − θⁱ,  Δf = f(θⁱ⁺¹) − f(θⁱ)
/// ```
///
/// All of it is known from training the task: no pass forward or backward is added, and memory
/// does not grow with the number of steps (one point, one gradient and the sum are kept).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct Leap {
    /// The distance to minimise.
    #[config(default = "Norm::Length")]
    pub norm: Norm,
    /// Whether the loss is a dimension of the manifold. Without it, points are parameters alone.
    #[config(default = true)]
    pub loss: bool,
    /// Whether a rise in loss, which the noise of batches brings about, counts as a fall of the same
    /// size, so that the loss term never points uphill.
    #[config(default = true)]
    pub stabilizer: bool,
}

impl Default for Leap {
    fn default() -> Self {
        Self::new()
    }
}

impl Leap {
    /// For a training loop by hand: a model that starts at `init`, and its path over all trainable
    /// parameters.
    ///
    /// The model is a [`task_copy`]: plain clones of a Burn module share running statistics.
    ///
    /// # Errors
    /// [`Error::NothingShared`] if `init` has no trainable parameter.
    pub fn begin<M: Module>(&self, init: &M) -> Result<(M, LeapPath), Error> {
        let space = ParamSpace::new(init, &ParamGroup::all())?;
        Ok((task_copy(init), self.path(&space)))
    }
}

impl MetaLearner for Leap {
    type Path = LeapPath;

    fn path(&self, space: &Arc<ParamSpace>) -> LeapPath {
        LeapPath {
            leap: *self,
            space: space.clone(),
            last: None,
            sums: None,
            segments: 0,
        }
    }
}

/// A task's path, from which Leap's meta-gradient grows as training goes.
///
/// K recorded points give K − 1 segments.
#[derive(Clone, Debug)]
pub struct LeapPath {
    leap: Leap,
    space: Arc<ParamSpace>,
    last: Option<Point>,
    sums: Option<Sums>,
    segments: usize,
}

#[derive(Clone, Debug)]
struct Point {
    theta: ParamVector,
    gradient: ParamVector,
    loss: Tensor<1>,
}

#[derive(Clone, Debug)]
struct Sums {
    gradient: ParamVector,
    length: Tensor<1>,
    energy: Tensor<1>,
}

impl LearningPath for LeapPath {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        let here = Point {
            theta: self.space.point(model)?,
            gradient: self.space.gradient(model, grads)?,
            loss: loss.clone().inner(),
        };
        let next = here.clone();
        if let Some(last) = self.last.replace(here) {
            self.add_segment(last, next);
        }
        Ok(())
    }

    fn finish<M: Module>(self, _model: &M) -> Result<TaskGradient, Error> {
        let sums = self.sums.ok_or_else(|| {
            Error::InvalidSetting("a path needs at least two recorded steps".into())
        })?;
        Ok(TaskGradient {
            gradient: sums.gradient,
            figures: Some(DeviceFigures {
                length: sums.length,
                energy: sums.energy,
                segments: self.segments,
            }),
        })
    }
}

impl LeapPath {
    fn add_segment(&mut self, last: Point, next: Point) {
        let mut step = next.theta - last.theta;
        let mut energy = step.dot(&step);
        if self.leap.loss {
            let mut rise = next.loss - last.loss;
            energy = energy + rise.clone() * rise.clone();
            if self.leap.stabilizer {
                rise = -rise.abs();
            }
            step = step + last.gradient.scale(&rise);
        }
        let length = energy.clone().sqrt();
        if self.leap.norm == Norm::Length {
            // Where nothing moved the step is zero and stays so. The bound is the square root of
            // the smallest normal float32: shorter segments have no measurable length.
            step = step.scale(&length.clone().clamp_min(1e-19).recip());
        }
        self.segments += 1;
        self.sums = Some(match self.sums.take() {
            None => Sums {
                gradient: step.map(|t| -t),
                length,
                energy,
            },
            Some(sums) => Sums {
                gradient: sums.gradient - step,
                length: sums.length + length,
                energy: sums.energy + energy,
            },
        });
    }
}
