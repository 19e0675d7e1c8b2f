//! Regression of sinusoids, the toy of Finn, Abbeel, Levine: "Model-Agnostic Meta-Learning",
//! [arXiv 1703.03400](https://arxiv.org/abs/1703.03400), section 5.1.

use std::f64::consts::PI;

use burn::config::Config;
use burn::tensor::{Device, Tensor, TensorData};
use leap_core::{
    HeldOut, Predict, StepLoss, Task, TaskContext, TaskError, TaskRng, TaskSet, run_rng,
};
use rand::Rng;

use crate::digest::fingerprint;

/// A family of sinusoids: y = amplitude · sin(x − phase).
///
/// Task `i`'s amplitude and phase are drawn from (`seed`, i), uniformly in [0.1, 5] and [0, π]; its points
/// anew at every step, uniformly in [−5, 5].
#[derive(Config, Debug)]
pub struct Sinusoids {
    /// Number of different sinusoids.
    #[config(default = 10000)]
    pub tasks: usize,
    /// Number of points at each step.
    #[config(default = 10)]
    pub batch_size: usize,
    /// Draws amplitudes and phases; sets of different seeds have different sinusoids.
    #[config(default = 0)]
    pub seed: u64,
}

/// One sinusoid, to be learned by least squares.
#[derive(Clone, Debug)]
pub struct Sinusoid {
    amplitude: f64,
    phase: f64,
    batch_size: usize,
    rng: TaskRng,
    device: Device,
}

impl<M: Predict<Tensor<2>>> TaskSet<M> for Sinusoids {
    type Task = Sinusoid;

    fn len(&self) -> usize {
        self.tasks
    }

    fn fingerprint(&self) -> u64 {
        fingerprint(self.seed, self.batch_size)
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<Sinusoid, TaskError> {
        let mut rng = run_rng(self.seed, &format!("sinusoid {index}"));
        Ok(Sinusoid {
            amplitude: rng.random_range(0.1..=5.0),
            phase: rng.random_range(0.0..=PI),
            batch_size: self.batch_size,
            rng: context.rng(),
            device: context.device.clone(),
        })
    }
}

impl Sinusoid {
    /// Points and values, both of shape `[points, 1]`.
    fn samples(&self, xs: Vec<f64>, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let ys = xs.iter().map(|x| self.amplitude * (x - self.phase).sin());
        let column = |values: Vec<f32>| {
            let shape = [values.len(), 1];
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        let ys = column(ys.map(|y| y as f32).collect());
        (column(xs.into_iter().map(|x| x as f32).collect()), ys)
    }

    /// The mean squared error on points.
    fn error<M: Predict<Tensor<2>>>(&self, model: &M, xs: impl Iterator<Item = f64>) -> HeldOut {
        let (x, y) = self.samples(xs.collect(), &model.devices().remove(0));
        let loss = (model.predict(x) - y).square().mean();
        HeldOut {
            loss: loss.into_scalar::<f32>().into(),
            accuracy: None,
        }
    }
}

impl<M: Predict<Tensor<2>>> Task<M> for Sinusoid {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let xs = (0..self.batch_size).map(|_| self.rng.random_range(-5.0..=5.0));
        let xs = xs.collect();
        let (x, y) = self.samples(xs, &self.device);
        Ok((model.predict(x) - y).square().mean().into())
    }

    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        Ok(self.loss(model)?.loss) // Points are never drawn twice.
    }

    fn fork(&self) -> Option<Self> {
        Some(self.clone())
    }

    /// The mean squared error on 100 points, evenly spaced between those that are held out.
    fn validate(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        let xs = (0..100).map(|i| -4.95 + 0.1 * f64::from(i));
        Ok(Some(self.error(model, xs)))
    }

    /// The mean squared error on 101 points, evenly spaced.
    fn held_out(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        let xs = (0..=100).map(|i| -5.0 + 0.1 * f64::from(i));
        Ok(Some(self.error(model, xs)))
    }
}
