//! Norms of parameters whose output is normalized.

use burn::module::{Module, ParamGroup};
use burn::tensor::Tensor;

use crate::error::Error;
use crate::space::params::ParamSpace;
use crate::space::path::SHORTEST;

/// `model` with each trainable parameter that `group` matches scaled to the Euclidean norm that it has in `other`, which is
/// on the same device. A parameter that is zero stays so.
///
/// This is for weights whose output is normalized, as the kernels of a convolution before batch-normalization. Their norm does
/// nothing to what the model computes, but the larger it is, the less a step of SGD does: the learning rate has the effect
/// of one over the norm's square (van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", 2017, arXiv
/// 1706.05350, section 3). Meta-training makes norms larger. With those of the initialization that it began from, the
/// learning rate of a new task has the effect that it has from scratch.
///
/// # Errors
/// [`Error::NothingShared`] if the group matches no trainable parameter, [`Error::SpaceMismatch`] if it matches others in
/// `other`, by path and shape, [`Error::TiedParameter`] if one is in two places.
pub fn with_norms_of<M: Module>(model: M, other: &M, group: &ParamGroup) -> Result<M, Error> {
    let [space, of_other] = [
        ParamSpace::new(&model, group)?,
        ParamSpace::new(other, group)?,
    ];
    if !space.paths().eq(of_other.paths()) || !space.sizes().eq(of_other.sizes()) {
        return Err(Error::SpaceMismatch);
    }
    let square = |values: Tensor<1>| values.powi_scalar(2).sum();
    let (point, wanted) = (space.point(&model)?, of_other.point(other)?);
    let pairs = point.split().into_iter().zip(wanted.split());
    let factors =
        pairs.map(|(own, wanted)| (square(wanted) / square(own).clamp_min(SHORTEST)).sqrt());
    let mut factors = factors.collect::<Vec<_>>().into_iter();
    let scaled = point.map_params(|values| match factors.next() {
        Some(factor) => values * factor,
        None => values,
    });
    Ok(scaled.place(model))
}
