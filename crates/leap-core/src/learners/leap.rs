//! Leap: an initialization from which the paths of training are short.
//!
//! Flennerhag, Moreno, Lawrence, Damianou: "Transferring Knowledge across Learning Processes",
//! ICLR 2019, [arXiv 1812.01054](https://arxiv.org/abs/1812.01054).

use std::sync::Arc;

use burn::config::Config;
use burn::module::{Module, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::{Error, TaskError};
use crate::space::copy::task_copy;
use crate::space::figures::DeviceFigures;
use crate::space::params::{ParamSpace, ParamVector};
use crate::space::path::{LearningPath, PathMeter, SHORTEST, Segment};
use crate::space::sum::LongSum;
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};

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
/// does not grow with the number of steps: the path's ends, the last segment and gradient and the sum are kept, the sum in
/// blocks, a vector for each power of 64 in the number of steps, so that it stays accurate in float32 over millions.
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

    /// A path through `space`, of no points yet.
    pub fn path(&self, space: &Arc<ParamSpace>) -> LeapPath {
        LeapPath {
            leap: *self,
            space: space.clone(),
            meter: PathMeter::new(space, self.loss),
            last: None,
            forces: LongSum::default(),
        }
    }
}

impl<M: Module> MetaLearner<M> for Leap {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        let mut path = self.path(space);
        let (model, curve) = inner.run(model, task, &mut path)?;
        let TaskGradient { gradient, figures } = path.finish()?;
        Ok(Learned {
            model,
            curve,
            gradient,
            figures: Some(figures),
        })
    }

    fn check(&self, _model: &M, inner: &InnerLoop) -> Result<(), Error> {
        check_steps(inner)
    }

    fn stacks(&self) -> bool {
        true
    }
}

/// That tasks are long enough to have a path.
pub(super) fn check_steps(inner: &InnerLoop) -> Result<(), Error> {
    match inner.steps < 2 {
        true => Err(too_short()),
        false => Ok(()),
    }
}

fn too_short() -> Error {
    Error::InvalidSetting(
        "Leap needs tasks of at least two steps: a path's segment joins two of them".into(),
    )
}

/// A task's path, from which Leap's meta-gradient grows as training goes.
///
/// K recorded points give K − 1 segments.
#[derive(Clone, Debug)]
pub struct LeapPath {
    leap: Leap,
    space: Arc<ParamSpace>,
    meter: PathMeter,
    /// The gradient at the last point.
    last: Option<ParamVector>,
    /// The meta-gradient so far, without its sign.
    forces: LongSum<ParamVector>,
}

impl LearningPath for LeapPath {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        self.advance(model, loss, grads).map(|_| ())
    }

    fn newest_length(&self) -> Option<Tensor<1>> {
        self.meter.newest_length()
    }

    fn save(&self) -> Result<Option<Vec<u8>>, Error> {
        let vector = |v: &Option<ParamVector>| v.as_ref().map(ParamVector::save).transpose();
        let forces = self.forces.levels.iter().map(vector);
        let saved = SavedPath {
            meter: self.meter.save()?.unwrap_or_default(),
            last: vector(&self.last)?,
            forces: forces.collect::<Result<_, _>>()?,
            terms: self.forces.terms,
        };
        rmp_serde::to_vec(&saved).map(Some).map_err(Error::saved)
    }

    fn restore(&mut self, saved: &[u8], device: &Device) -> Result<(), Error> {
        let saved: SavedPath = rmp_serde::from_slice(saved).map_err(Error::saved)?;
        self.meter.restore(&saved.meter, device)?;
        let restore = |data| ParamVector::restore(&self.space, data, device);
        let vector = |v: Option<TensorData>| v.map(restore).transpose();
        self.last = vector(saved.last)?;
        let forces = saved.forces.into_iter().map(vector);
        self.forces = LongSum {
            levels: forces.collect::<Result<_, _>>()?,
            terms: saved.terms,
        };
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct SavedPath {
    #[serde(with = "serde_bytes")]
    meter: Vec<u8>,
    last: Option<TensorData>,
    forces: Vec<Option<TensorData>>,
    terms: u64,
}

/// What a segment does to the initialization.
#[derive(Clone, Debug)]
pub struct Pull {
    /// The segment.
    pub segment: Segment,
    /// The pull on the segment's first point: a term of the meta-gradient's sum, without the sign.
    pub force: ParamVector,
}

impl LeapPath {
    /// As [`record`](LearningPath::record); what the new segment adds comes back, for meta-learners that learn
    /// more from it. The first point has no segment.
    ///
    /// # Errors
    /// [`Error::MissingParameter`] if `model` has lost a shared parameter.
    pub fn advance<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<Option<Pull>, Error> {
        let segment = self.meter.advance(model, loss)?;
        let here = self.space.gradient(model, grads)?;
        let (Some(segment), Some(gradient)) = (segment, self.last.replace(here)) else {
            return Ok(None);
        };
        let mut force = segment.step.clone();
        if self.leap.loss {
            let rise = match self.leap.stabilizer {
                true => -segment.rise.clone().abs(),
                false => segment.rise.clone(),
            };
            force = force + gradient.scale(&rise);
        }
        if self.leap.norm == Norm::Length {
            // Where nothing moved the force is zero and stays so.
            force = force.scale(&segment.length.clone().clamp_min(SHORTEST).recip());
        }
        self.forces.add(force.clone());
        Ok(Some(Pull { segment, force }))
    }

    /// Moves all points of the path by a vector.
    pub(crate) fn shift(&mut self, by: &ParamVector) {
        self.meter.shift(by);
    }

    /// The task's meta-gradient, and the figures of its path.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] if fewer than two points were recorded.
    pub fn finish(self) -> Result<TaskGradient, Error> {
        match (self.forces.total(), self.meter.figures()) {
            (Some(forces), Some(figures)) => Ok(TaskGradient {
                gradient: forces.map(|t| -t),
                figures,
            }),
            _ => Err(too_short()),
        }
    }
}

/// What a path comes to.
#[derive(Clone, Debug)]
pub struct TaskGradient {
    /// The task's meta-gradient.
    pub gradient: ParamVector,
    /// The figures of its path, still on the device.
    pub figures: DeviceFigures,
}
