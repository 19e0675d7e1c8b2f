//! What an optimizer does, as numbers: optimizers do not tell what they are.

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Tensor;

use crate::error::Error;
use crate::space::copy::task_copy;
use crate::space::params::{ParamSpace, read_back};
use std::sync::Arc;

/// Steps after which a learning rate is looked at.
const LOOKS: [usize; 7] = [0, 1, 2, 9, 49, 199, 999];

/// How far an optimizer moves a model on a few made-up gradients, and how its learning rate goes on. Two optimizers with the
/// same settings have the same numbers, up to rounding.
pub(super) fn probe<M: Module>(
    space: &Arc<ParamSpace>,
    model: &M,
    optimizer: &ModuleOptimizer,
    lr: &ModuleLrScheduler,
) -> Result<Vec<f64>, Error> {
    // Without gradients, what is left is weight decay, which moves little beside them.
    let before = space.point(model)?;
    let nothing = before.clone().map(|values| values.zeros_like());
    let nothing = nothing.into_gradients();
    let decayed = optimizer
        .clone()
        .step(lr.clone().step(), task_copy(model), nothing);
    let decay = space.point(&decayed)? - before;
    let (mut model, mut optimizer) = (task_copy(model), optimizer.clone());
    let (mut rates, mut numbers) = (lr.clone(), Vec::new());
    let (id, path) = space.params().next().ok_or(Error::NothingShared)?;
    for step in 0..=LOOKS[LOOKS.len() - 1] {
        let rate = rates.step();
        if LOOKS.contains(&step) {
            numbers.push(rate.lr_from_param(id, Some(path)));
        }
        // Small gradients, large ones that are clipped if any are, and small ones again.
        if step < 3 {
            let before = space.point(&model)?;
            let size = [0.01, 100.0, -0.01][step];
            let gradient = before.clone().map(|values| values.ones_like() * size);
            model = optimizer.step(rate, model, gradient.into_gradients());
            let moved = space.point(&model)? - before;
            numbers.extend(read_back(moved.dot(&moved).sqrt())?);
        }
    }
    numbers.extend(read_back(decay.dot(&decay).sqrt())?);
    Ok(numbers)
}

/// Whether an optimizer's steps are minus the gradient times the learning rate.
pub(crate) fn is_plain_sgd<M: Module>(
    space: &Arc<ParamSpace>,
    model: &M,
    optimizer: &ModuleOptimizer,
    lr: &ModuleLrScheduler,
) -> Result<bool, Error> {
    if space.is_half() {
        // Steps are rounded more than other optimizers differ.
        return Ok(true);
    }
    let (mut model, mut optimizer) = (task_copy(model), optimizer.clone());
    let mut lr = lr.clone();
    let mut norms = Vec::new();
    for size in [1.0, 1000.0, 1.0] {
        let rate = lr.step();
        let before = space.point(&model)?;
        let gradient = before.clone().map(|values| values.ones_like() * size);
        let rates = space
            .params()
            .map(|(id, path)| rate.lr_from_param(id, Some(path)));
        let expected = gradient.clone().scaled(&Vec::from_iter(rates));
        model = optimizer.step(rate, model, gradient.into_gradients());
        let moved = space.point(&model)? - before.clone();
        let rest = moved + expected.clone();
        norms.extend([&rest, &expected, &before].map(|v| v.dot(v).sqrt()));
    }
    let norms = read_back(Tensor::cat(norms, 0))?;
    // With a learning rate that is not finite nothing can be said.
    let differs = |norms: &[f64]| norms[0] > 1e-3 * norms[1] + 1e-6 * norms[2];
    Ok(!norms.chunks_exact(3).any(differs))
}
