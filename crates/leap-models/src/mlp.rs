//! The multi-layer perceptron.

use burn::config::Config;
use burn::module::Module;
use burn::nn::activation::{Activation, ActivationConfig};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use leap_core::Predict;

use crate::error::ModelError;

/// Settings of an [`Mlp`].
#[derive(Config, Debug)]
pub struct MlpConfig {
    /// Sizes of the layers: inputs, any number of hidden layers, outputs.
    pub sizes: Vec<usize>,
    /// What follows each hidden layer.
    #[config(default = "ActivationConfig::Relu")]
    pub activation: ActivationConfig,
}

/// Linear layers with an activation between them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// The layers, from the inputs on.
    pub layers: Vec<Linear>,
    activation: Activation,
}

impl MlpConfig {
    /// The model on `device`.
    ///
    /// # Errors
    /// [`ModelError`] if there are fewer than two sizes, or one of them is 0.
    pub fn init(&self, device: &Device) -> Result<Mlp, ModelError> {
        if self.sizes.len() < 2 || self.sizes.contains(&0) {
            return Err(ModelError::new(format!(
                "an MLP needs at least two sizes, all above 0; got {:?}",
                self.sizes
            )));
        }
        let layers = self.sizes.windows(2);
        Ok(Mlp {
            layers: layers
                .map(|size| LinearConfig::new(size[0], size[1]).init(device))
                .collect(),
            activation: self.activation.clone().init(device),
        })
    }
}

impl Mlp {
    /// From inputs of shape `[batch, inputs]` to outputs of shape `[batch, outputs]`.
    pub fn forward(&self, inputs: Tensor<2>) -> Tensor<2> {
        let mut x = inputs;
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                x = self.activation.forward(x);
            }
            x = layer.forward(x);
        }
        x
    }
}

impl Predict<Tensor<2>> for Mlp {
    fn predict(&self, inputs: Tensor<2>) -> Tensor<2> {
        self.forward(inputs)
    }
}
