//! Learning rates that are learned together with the initialization, from Leap's path.
//!
//! Meta-SGD (Li, Zhou, Chen, Li: "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
//! [arXiv 1707.09835](https://arxiv.org/abs/1707.09835)) does it for MAML, one for each parameter; MAML++ (Antoniou, Edwards,
//! Storkey: "How to train your MAML", [arXiv 1810.09502](https://arxiv.org/abs/1810.09502), section 4) one for each layer and step.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use burn::module::{Module, ModuleDisplay, Param, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};

use crate::error::{Error, TaskError};
use crate::learners::leap::{Leap, LeapPath, Pull, check_steps};
use crate::space::params::{ParamSpace, ParamVector};
use crate::space::path::LearningPath;
use crate::tasks::curve::LearningCurve;
use crate::tasks::task::{Predict, Task};
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};
use crate::training::probe::is_plain_sgd;

/// What has a learning rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateOf {
    /// Each number of the model.
    Parameter,
    /// Each tensor of parameters, such as a layer's weight.
    Tensor,
    /// Each tensor at each step. A path of K steps keeps 2 K vectors.
    TensorAndStep,
}

impl fmt::Display for RateOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parameter => "parameter",
            Self::Tensor => "tensor",
            Self::TensorAndStep => "step",
        })
    }
}

impl FromStr for RateOf {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let all = [Self::Parameter, Self::Tensor, Self::TensorAndStep];
        let mut all = all.into_iter();
        all.find(|of| of.to_string() == name).ok_or_else(|| {
            Error::InvalidSetting(format!("`{name}` is none of parameter, tensor and step"))
        })
    }
}

/// A model with the logarithms of its learning rates, which multiply that of the optimizer. They are meta-learned like any
/// parameter.
#[derive(Module, Debug)]
pub struct Rated<N: Module> {
    /// The model.
    pub net: N,
    /// Log rates ρ, of shape `[rates]`: of each number in the order of its [`ParamSpace`], of each of its parameters, or of
    /// these at each step, one step behind the other.
    pub log_rates: Param<Tensor<1>>,
}

impl<N: Module> Rated<N> {
    /// `net` with rates of 1, for tasks of so many steps: steps beyond have the rates of the last.
    ///
    /// # Errors
    /// [`Error::NothingShared`] if the model has no trainable parameter, [`Error::InvalidSetting`] for more rates than a gigabyte
    /// holds.
    pub fn new(net: N, of: RateOf, steps: usize) -> Result<Self, Error> {
        let space = ParamSpace::new(&net, &ParamGroup::all())?;
        let tensors = space.params().count();
        let rates = match of {
            RateOf::Parameter => space.num_params(),
            RateOf::Tensor => tensors,
            RateOf::TensorAndStep => tensors.saturating_mul(steps.max(1)),
        };
        if rates > MOST_RATES {
            return Err(Error::InvalidSetting(format!(
                "{rates} learning rates, for {steps} steps; {MOST_RATES} are the most"
            )));
        }
        let device = net.devices().remove(0);
        Ok(Self {
            net,
            log_rates: Param::from_data(TensorData::zeros::<f32, _>([rates]), &device),
        })
    }
}

impl<X, N: Predict<X> + ModuleDisplay> Predict<X> for Rated<N> {
    fn predict(&self, inputs: X) -> Tensor<2> {
        self.net.predict(inputs)
    }
}

/// Learning rates, at most.
const MOST_RATES: usize = 1 << 28;

/// Leap with learned learning rates, for [`Rated`] models that SGD without momentum trains.
///
/// A point of the path is θⁱ = θ⁰ − Σ_{k<i} η e^ρ ∇f(θᵏ), so that dθⁱ/dρ is what the steps before it have moved, and the
/// force of [`Leap`] on a point is one on the log rates ρ as well. As in Leap, gradients are held where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedRates {
    /// The path.
    pub leap: Leap,
    /// What has a rate of its own, as in [`Rated::new`].
    pub of: RateOf,
}

impl LearnedRates {
    /// Leap, with a rate for each of these.
    pub fn new(of: RateOf) -> Self {
        Self {
            leap: Leap::new(),
            of,
        }
    }

    /// That so many rates are of what this learner learns them of.
    fn check_rates(&self, net: &ParamSpace, rates: usize) -> Result<(), Error> {
        let tensors = net.params().count();
        let fits = match self.of {
            RateOf::Parameter => rates == net.num_params(),
            RateOf::Tensor => rates == tensors,
            RateOf::TensorAndStep => rates >= tensors && rates.is_multiple_of(tensors),
        };
        let (of, numbers) = (self.of, net.num_params());
        match fits {
            true => Ok(()),
            false => Err(Error::InvalidSetting(format!(
                "{rates} learning rates, where there is one for each {of}, of {numbers} parameters in {tensors} tensors"
            ))),
        }
    }

    /// The rates of all numbers at a step, from the log rates.
    fn rates(&self, space: &ParamSpace, log_rates: &Tensor<1>, step: usize) -> Tensor<1> {
        let tensors = space.params().count();
        let rates = log_rates.clone().exp();
        let of_tensors = match self.of {
            RateOf::Parameter => return rates,
            RateOf::Tensor => rates,
            RateOf::TensorAndStep => {
                let last = rates.dims()[0] / tensors - 1;
                rates.narrow(0, step.min(last) * tensors, tensors)
            }
        };
        let each = of_tensors.split(1, 0).into_iter().zip(space.sizes());
        Tensor::cat(each.map(|(rate, size)| rate.expand([size])).collect(), 0)
    }
}

/// Leap's path of the net, with what its forces do to the log rates.
struct RatedPath {
    leap: LeapPath,
    of: RateOf,
    /// Of all of the net, whereas Leap's path may be of a part: the rest feels no force.
    net: Arc<ParamSpace>,
    /// How far the net has moved, and the meta-gradient of the log rates of each number.
    sums: Option<[ParamVector; 2]>,
    /// Steps and forces, where each step has rates of its own.
    pulls: Vec<[ParamVector; 2]>,
}

impl LearningPath for RatedPath {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        let Some(Pull { segment, force }) = self.leap.advance(model, loss, grads)? else {
            return Ok(());
        };
        let [step, force] = [segment.step, force].map(|part| self.net.embed(part));
        if self.of == RateOf::TensorAndStep {
            self.pulls.push([step, force]);
            return Ok(());
        }
        let zero = || step.clone().map(|values| values.zeros_like());
        let [moved, on_rates] = self.sums.take().unwrap_or_else(|| [zero(), zero()]);
        let pulled = product(&moved, &force);
        self.sums = Some([moved + step, on_rates - pulled]);
        Ok(())
    }

    fn newest_length(&self) -> Option<Tensor<1>> {
        self.leap.newest_length()
    }
}

/// The elementwise product.
fn product(a: &ParamVector, b: &ParamVector) -> ParamVector {
    let b = b.values().clone();
    a.clone().map(|a| a * b)
}

/// The sum over each tensor of parameters.
fn over_tensors(vector: &ParamVector) -> Tensor<1> {
    let parts = vector.split().into_iter().map(Tensor::sum);
    Tensor::cat(parts.collect(), 0)
}

impl RatedPath {
    /// The meta-gradient of the log rates, of which there are so many.
    fn on_rates(&self, rates: usize, device: &Device) -> Tensor<1> {
        match (self.of, &self.sums) {
            (RateOf::Parameter, Some([_, sum])) => sum.values().clone(),
            (RateOf::Tensor, Some([_, sum])) => over_tensors(sum),
            (RateOf::TensorAndStep, _) => {
                // A step is felt by the forces on all points behind it.
                let mut behind: Option<ParamVector> = None;
                let mut each = Vec::new();
                for [step, force] in self.pulls.iter().rev() {
                    let felt = behind
                        .as_ref()
                        .map(|forces| -over_tensors(&product(step, forces)));
                    each.push(felt.unwrap_or_else(|| over_tensors(step).zeros_like()));
                    behind = Some(match behind {
                        None => force.clone(),
                        Some(forces) => forces + force.clone(),
                    });
                }
                each.reverse();
                let tensors = each.first().map_or(1, |one| one.dims()[0]);
                let steps = rates / tensors;
                // The last rates are those of all steps beyond.
                let beyond = each.split_off(steps.min(each.len()));
                for more in beyond {
                    if let Some(last) = each.last_mut() {
                        *last = last.clone() + more;
                    }
                }
                // No force is felt by steps that were not taken, or lead to the last point.
                let taken = each.len() * tensors;
                if taken < rates {
                    each.push(Tensor::zeros([rates - taken], device));
                }
                Tensor::cat(each, 0)
            }
            (_, None) => Tensor::zeros([rates], device),
        }
    }
}

impl<N: Module + ModuleDisplay> MetaLearner<Rated<N>> for LearnedRates {
    fn check(&self, model: &Rated<N>, inner: &InnerLoop) -> Result<(), Error> {
        check_steps(inner)?;
        let net = ParamSpace::new(&model.net, &ParamGroup::all())?;
        match is_plain_sgd(&net, model, &inner.optimizer, &inner.lr(inner.steps)?)? {
            true => Ok(()),
            false => Err(Error::InvalidSetting(
                "learning rates are learned of tasks that are trained with plain SGD, without momentum, weight decay or \
                 clipping"
                    .into(),
            )),
        }
    }

    fn learn<T: Task<Rated<N>>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: Rated<N>,
        task: &mut T,
    ) -> Result<Learned<Rated<N>>, TaskError> {
        MetaLearner::check(self, &model, inner)?;
        let net = ParamSpace::new(&model.net, &ParamGroup::all())?;
        let shared = space.within(&model.net, &ParamGroup::all())?;
        let mut path = RatedPath {
            leap: self.leap.path(&shared),
            net,
            of: self.of,
            sums: None,
            pulls: Vec::new(),
        };
        let (model, curve) = self.adapt(inner, model, task, &mut path)?;
        let log_rates = model.log_rates.val().inner();
        let on_rates = path.on_rates(log_rates.dims()[0], &log_rates.device());
        let learned = path.leap.finish()?;
        let mut gradient = learned.gradient.into_gradients();
        gradient.register(model.log_rates.id, on_rates);
        Ok(Learned {
            gradient: space.gradient(&model, &gradient)?,
            figures: Some(learned.figures),
            model,
            curve,
        })
    }

    fn adapt<T: Task<Rated<N>>>(
        &self,
        inner: &InnerLoop,
        model: Rated<N>,
        task: &mut T,
        path: &mut impl LearningPath,
    ) -> Result<(Rated<N>, LearningCurve), TaskError> {
        let net = ParamSpace::new(&model.net, &ParamGroup::all())?;
        let log_rates = model.log_rates.val().inner();
        self.check_rates(&net, log_rates.dims()[0])?;
        let mut step = inner.breaks.saved().map_or(0, |saved| saved.steps);
        let mut rates = self.rates(&net, &log_rates, 0);
        inner.run_with(model, task, path, |model, grads| {
            let gradient = net.gradient(model, &grads)?;
            if self.of == RateOf::TensorAndStep {
                rates = self.rates(&net, &log_rates, step);
                step += 1;
            }
            Ok(gradient.map(|g| g * rates.clone()).into_gradients())
        })
    }
}
