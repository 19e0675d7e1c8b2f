//! What the tasks of a meta-batch add up to.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

use crate::error::Error;
use crate::space::params::{ParamVector, read_back};
use crate::space::path::SHORTEST;

/// The mean cosine between two of `gradients`, as the square of the sum of unit vectors has it; `None` if fewer than two of
/// them have a direction.
pub(crate) fn coherence(gradients: &[&ParamVector]) -> Result<Option<f64>, Error> {
    let [first, _, ..] = gradients else {
        return Ok(None);
    };
    if gradients.iter().any(|g| g.space() != first.space()) {
        return Err(Error::SpaceMismatch);
    }
    let mut squares = Vec::with_capacity(gradients.len() + 1);
    let mut sum: Option<ParamVector> = None;
    for gradient in gradients {
        let square = gradient.dot(gradient);
        let unit = (*gradient).clone();
        let unit = unit.scale(&square.clone().clamp_min(SHORTEST).sqrt().recip());
        squares.push(square);
        sum = Some(match sum {
            None => unit,
            Some(sum) => sum + unit,
        });
    }
    squares.extend(sum.map(|sum| sum.dot(&sum)));
    let squares = read_back(Tensor::cat(squares, 0))?;
    let Some((whole, squares)) = squares.split_last() else {
        return Ok(None);
    };
    let count = squares.iter().filter(|square| **square > SHORTEST).count() as f64;
    Ok((count > 1.0).then(|| (whole - count) / (count * (count - 1.0))))
}

/// The mean of the meta-gradients of a meta-batch's tasks: an ordinary gradient, for any Burn
/// optimizer.
#[derive(Debug, Default)]
pub struct MetaGradient {
    sum: Option<ParamVector>,
    tasks: usize,
}

impl MetaGradient {
    /// No task yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task's meta-gradient. The order of additions is the order of the float sum.
    ///
    /// # Errors
    /// [`Error::SpaceMismatch`] if the gradient is of another parameter space than the first.
    pub fn add(&mut self, gradient: ParamVector) -> Result<(), Error> {
        self.sum = Some(match self.sum.take() {
            None => gradient,
            Some(sum) if sum.space() != gradient.space() => {
                self.sum = Some(sum);
                return Err(Error::SpaceMismatch);
            }
            Some(sum) => sum + gradient,
        });
        self.tasks += 1;
        Ok(())
    }

    /// The sum of `tasks` meta-gradients.
    pub(crate) fn of_sum(sum: ParamVector, tasks: usize) -> Self {
        Self {
            sum: Some(sum),
            tasks,
        }
    }

    pub(crate) fn sum(&self) -> Option<&ParamVector> {
        self.sum.as_ref()
    }

    /// Number of tasks added so far.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Takes the mean over the tasks, on `device`, and starts anew.
    ///
    /// # Errors
    /// [`Error::EmptyMetaBatch`] if no task was added.
    pub fn take(&mut self, device: &Device) -> Result<GradientsParams, Error> {
        let Self { sum, tasks } = std::mem::take(self);
        let mean = sum.ok_or(Error::EmptyMetaBatch)?.map(|t| t / tasks as f64);
        Ok(mean.to_device(device).into_gradients())
    }
}
