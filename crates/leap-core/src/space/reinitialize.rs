//! Drawing parameters on the host, so that every backend starts from the same numbers.

use burn::module::{Module, ModuleMapper, Param, ParamGroup};
use burn::tensor::{Tensor, TensorData};
use rand::{Rng, RngCore};

/// Draws anew those weights and biases of linear and convolution layers, transposed ones included, that `group` matches.
///
/// The values are uniform in ±1/√fan-in, as PyTorch and Burn initialize these layers, but come from
/// `rng` on the host: the same on every backend and in every thread, which Burn's own initializers,
/// with one generator a device, cannot promise. Parameters of other layers, such as the gains of
/// normalizations, keep their values.
pub fn reinitialize<M: Module>(model: M, group: &ParamGroup, rng: &mut impl RngCore) -> M {
    model.map(&mut Reinitialize {
        group,
        rng,
        path: Vec::new(),
        layers: Vec::new(),
    })
}

/// Changes a model, and [draws](reinitialize) the linear and convolution layers that it did not have before, such as a new
/// head.
///
/// # Errors
/// That of `change`.
pub fn reinitialize_new<M: Module, E>(
    model: M,
    change: impl FnOnce(M) -> Result<M, E>,
    rng: &mut impl RngCore,
) -> Result<M, E> {
    let kept = ParamGroup::ids_from_module(model.clone());
    let new = ParamGroup::all().exclude(kept);
    Ok(reinitialize(change(model)?, &new, rng))
}

struct Reinitialize<'a, R> {
    group: &'a ParamGroup,
    rng: &'a mut R,
    path: Vec<String>,
    layers: Vec<Layer>,
}

/// A layer that is being walked through; its weight comes before its bias.
struct Layer {
    kind: String,
    bound: Option<f64>,
}

impl<R: RngCore> ModuleMapper for Reinitialize<'_, R> {
    fn enter_module(&mut self, name: &str, container: &str) {
        // The fields of a container are entered one after the other at one depth.
        if self.layers.len() == self.path.len() {
            self.layers.push(Layer {
                kind: container.to_string(),
                bound: None,
            });
        }
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
        self.layers.truncate(self.path.len() + 1);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(layer) = self.layers.last_mut() else {
            return param;
        };
        let shape = param.lazy_shape();
        let fan_in: usize = match (layer.kind.as_str(), shape.num_dims()) {
            ("Struct:Linear", 2) => shape[0],
            (
                "Struct:Conv1d"
                | "Struct:Conv2d"
                | "Struct:Conv3d"
                | "Struct:DeformConv2d"
                | "Struct:ConvTranspose1d"
                | "Struct:ConvTranspose2d"
                | "Struct:ConvTranspose3d",
                3..,
            ) => shape[1..].iter().product(),
            _ => 0,
        };
        if fan_in > 0 {
            layer.bound = Some((fan_in as f64).sqrt().recip());
        }
        let Some(bound) = layer.bound else {
            return param;
        };
        if !self.group.matches(&param.id, Some(&self.path.join("."))) {
            return param;
        }
        let values: Vec<f32> = (0..shape.num_elements())
            .map(|_| self.rng.random_range(-bound..=bound) as f32)
            .collect();
        param.map(|old| {
            let data = TensorData::new(values, old.shape());
            let new = Tensor::from_data(data, (&old.device(), old.dtype()));
            new.set_require_grad(old.is_require_grad())
        })
    }
}
