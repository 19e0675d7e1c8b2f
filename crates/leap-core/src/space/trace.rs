//! Whole paths, and pictures of them.

use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::error::Error;
use crate::space::params::{ParamSpace, ParamVector, read_back};
use crate::space::path::LearningPath;

/// Keeps every point of a path, for pictures of it. Its memory grows with the path.
#[derive(Clone, Debug)]
pub struct PathTrace {
    space: Arc<ParamSpace>,
    /// The points, in order.
    pub points: Vec<ParamVector>,
}

impl PathTrace {
    /// A path of no points yet.
    pub fn new(space: &Arc<ParamSpace>) -> Self {
        Self {
            space: space.clone(),
            points: Vec::new(),
        }
    }
}

impl LearningPath for PathTrace {
    fn record<M: Module>(
        &mut self,
        model: &M,
        _loss: &Tensor<1>,
        _grads: &GradientsParams,
    ) -> Result<(), Error> {
        self.points.push(self.space.point(model)?);
        Ok(())
    }
}

/// A path in a plane: its points' coordinates.
pub type PlanePath = Vec<[f64; 2]>;

/// The paths in the plane that shows most of them: the coordinates of all points along their first two
/// principal components, in the units of parameter space, and the share of the points' variance that the
/// plane holds.
///
/// The first path's first point is the origin. A path that diverged, with a point that is not finite, is left out: it has no
/// points in the plane.
///
/// # Errors
/// [`Error::InvalidSetting`] without points, [`Error::ReadBack`] if a device does not deliver them.
pub fn project_paths(paths: &[PathTrace]) -> Result<(Vec<PlanePath>, f64), Error> {
    let squares = paths.iter().map(|path| {
        let each = path.points.iter().map(|point| point.dot(point));
        let each = Vec::from_iter(each);
        match each.is_empty() {
            true => Ok(0.0),
            false => Ok(read_back(Tensor::cat(each, 0).sum())?.iter().sum()),
        }
    });
    let squares = squares.collect::<Result<Vec<f64>, Error>>()?;
    let is_finite = squares.iter().map(|square| square.is_finite());
    let shown = paths.iter().zip(is_finite);
    let shown = Vec::from_iter(shown.map(|(path, is_finite)| match is_finite {
        true => &path.points[..],
        false => &[],
    }));
    let points = shown.iter().copied().flatten();
    let points = Vec::from_iter(points.map(|point| point.values().clone()));
    let count = points.len();
    if count == 0 {
        return Err(Error::InvalidSetting("there is no path to look at".into()));
    }
    // With fewer points than dimensions, the matrix of inner products is the small one to decompose.
    let points = Tensor::stack::<2>(points, 0);
    let centred = points.clone() - points.mean_dim(0);
    let gram = centred.clone().matmul(centred.transpose());
    let gram = nalgebra::DMatrix::from_vec(count, count, read_back(gram.reshape([-1]))?);
    let total = gram.trace();
    let eigen = nalgebra::SymmetricEigen::new(gram);
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let axes: Vec<(f64, usize)> = order
        .into_iter()
        .take(2)
        .map(|i| (eigen.eigenvalues[i].max(0.0), i))
        .collect();
    let at = |point: usize, axis: usize| match axes.get(axis) {
        Some((value, i)) => value.sqrt() * eigen.eigenvectors[(point, *i)],
        None => 0.0,
    };
    let mut next = 0..count;
    let plane = shown
        .iter()
        .map(|points| {
            let points = next.by_ref().take(points.len());
            points
                .map(|i| [at(i, 0) - at(0, 0), at(i, 1) - at(0, 1)])
                .collect()
        })
        .collect();
    let held: f64 = axes.iter().map(|(value, _)| value).sum();
    Ok((plane, if total > 0.0 { held / total } else { 1.0 }))
}
