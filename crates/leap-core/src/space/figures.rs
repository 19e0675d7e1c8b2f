//! What a path comes to.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::number;
use crate::space::params::read_back;

/// The figures of a path on its device, each of shape `[1]`.
#[derive(Clone, Debug)]
pub struct DeviceFigures {
    /// Sum of the segments' lengths.
    pub length: Tensor<1>,
    /// Sum of the segments' squared lengths.
    pub energy: Tensor<1>,
    /// From the first point to the last.
    pub distance: Tensor<1>,
    /// Mean cosine between segments that follow each other.
    pub cosine: Tensor<1>,
    /// Number of segments.
    pub segments: usize,
}

impl DeviceFigures {
    /// Reads the figures back from the device.
    ///
    /// # Errors
    /// [`Error::ReadBack`] if the device does not deliver them.
    pub fn read(&self) -> Result<PathFigures, Error> {
        Ok(self.read_each()?.swap_remove(0))
    }

    /// The figures of each of the paths of stacked tasks, whose tensors have shape `[tasks]`.
    pub(crate) fn read_each(&self) -> Result<Vec<PathFigures>, Error> {
        let Self {
            length,
            energy,
            distance,
            cosine,
            segments,
        } = self.clone();
        let tasks = length.dims()[0];
        let values = read_back(Tensor::cat(vec![length, energy, distance, cosine], 0))?;
        let figures = (0..tasks).map(|task| {
            let [length, energy, distance, cosine] = [0, 1, 2, 3].map(|i| values[i * tasks + task]);
            PathFigures {
                length,
                energy,
                straightness: match length > 0.0 {
                    true => distance / length,
                    false => 1.0,
                },
                cosine,
                segments,
            }
        });
        Ok(figures.collect())
    }
}

/// What a path looks like on the task's manifold, whose points are (parameters, loss).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathFigures {
    /// Sum of the segments' lengths (d1).
    #[serde(with = "number::one")]
    pub length: f64,
    /// Sum of the segments' squared lengths (d2).
    #[serde(with = "number::one")]
    pub energy: f64,
    /// The distance between the path's ends over its length: 1 is a straight line.
    #[serde(with = "number::one")]
    pub straightness: f64,
    /// Mean cosine between segments that follow each other: 1 goes straight on, -1 goes back and forth.
    #[serde(with = "number::one")]
    pub cosine: f64,
    /// Number of segments.
    pub segments: usize,
}
