//! Policy and value on one encoder, for advantage actor-critic.

use burn::config::Config;
use burn::module::Module;
use burn::nn::activation::{Activation, ActivationConfig};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use leap_core::ActorCritic;

use crate::error::ModelError;
#[cfg(any(feature = "flex", feature = "ndarray"))]
use crate::ops;

/// A convolution of an [`ActorCriticNet`]'s encoder, without padding.
#[derive(Config, Debug)]
pub struct ConvLayer {
    /// Number of filters.
    pub filters: usize,
    /// Height and width of the kernel.
    pub kernel_size: usize,
    /// Rows and columns from one position of the kernel to the next.
    #[config(default = 1)]
    pub stride: usize,
}

/// Settings of an [`ActorCriticNet`].
#[derive(Config, Debug)]
pub struct ActorCriticConfig {
    /// Shape of an observation: `[features]`, or `[channels, height, width]` where there are convolutions.
    pub observation: Vec<usize>,
    /// Number of actions.
    pub actions: usize,
    /// Convolutions of the encoder, from the image on.
    #[config(default = "Vec::new()")]
    pub convolutions: Vec<ConvLayer>,
    /// Sizes of the encoder's linear layers, after the convolutions.
    #[config(default = "vec![64, 64]")]
    pub hidden: Vec<usize>,
    /// What follows each layer of the encoder.
    #[config(default = "ActivationConfig::Relu")]
    pub activation: ActivationConfig,
}

/// An encoder, with a linear head each for policy and value.
#[derive(Module, Debug)]
pub struct ActorCriticNet {
    /// From observations to features.
    pub encoder: ActorCriticEncoder,
    /// From features to the logits of actions.
    pub policy: Linear,
    /// From features to the value.
    pub value: Linear,
}

/// Convolutions, then linear layers, each followed by an activation.
#[derive(Module, Debug)]
pub struct ActorCriticEncoder {
    /// The convolutions, from the image on.
    pub convolutions: Vec<Conv2d>,
    /// The linear layers.
    pub layers: Vec<Linear>,
    activation: Activation,
    observation: Vec<usize>,
}

impl ActorCriticConfig {
    /// The network for Atari of Mnih, Kavukcuoglu, Silver, Graves, Antonoglou, Wierstra, Riedmiller: "Playing Atari with
    /// Deep Reinforcement Learning", 2013, for images of 84 x 84 pixels: 16 filters of 8 x 8 in steps of 4, 32 of 4 x 4
    /// in steps of 2, 256 units.
    pub fn atari(channels: usize, actions: usize) -> Self {
        Self::new(vec![channels, 84, 84], actions)
            .with_convolutions(vec![
                ConvLayer::new(16, 8).with_stride(4),
                ConvLayer::new(32, 4).with_stride(2),
            ])
            .with_hidden(vec![256])
    }

    /// The model on `device`.
    ///
    /// # Errors
    /// [`ModelError`] if a size is 0, or if nothing is left of the image after the last convolution.
    pub fn init(&self, device: &Device) -> Result<ActorCriticNet, ModelError> {
        let wrong = |what: &str| Err(ModelError::new(format!("{what}: {self:?}")));
        let convolutions = self.convolutions.iter();
        let sizes = convolutions.flat_map(|c| [c.filters, c.kernel_size, c.stride]);
        let mut sizes = sizes.chain(self.hidden.iter().chain(&self.observation).copied());
        if sizes.any(|size| size == 0) || self.actions == 0 || self.observation.is_empty() {
            return wrong("no size of an ActorCriticNet may be 0");
        }
        let mut convolutions = Vec::new();
        let mut features: usize = self.observation.iter().product();
        if !self.convolutions.is_empty() {
            let [mut channels, mut height, mut width] = self.observation[..] else {
                return wrong("convolutions need observations of channels, height and width");
            };
            for layer in &self.convolutions {
                let size = [layer.kernel_size; 2];
                let config = Conv2dConfig::new([channels, layer.filters], size);
                convolutions.push(config.with_stride([layer.stride; 2]).init(device));
                for side in [&mut height, &mut width] {
                    if *side < layer.kernel_size {
                        return wrong("nothing is left of the image");
                    }
                    *side = (*side - layer.kernel_size) / layer.stride + 1;
                }
                channels = layer.filters;
            }
            features = channels * height * width;
        }
        let mut layers = Vec::new();
        for &size in &self.hidden {
            layers.push(LinearConfig::new(features, size).init(device));
            features = size;
        }
        let encoder = ActorCriticEncoder {
            convolutions,
            layers,
            activation: self.activation.clone().init(device),
            observation: self.observation.clone(),
        };
        Ok(ActorCriticNet {
            encoder,
            policy: LinearConfig::new(features, self.actions).init(device),
            value: LinearConfig::new(features, 1).init(device),
        })
    }
}

impl ActorCriticEncoder {
    /// From observations, flat, of shape `[batch, size]` to features of shape `[batch, features]`.
    pub fn forward(&self, observations: Tensor<2>) -> Tensor<2> {
        let mut x = observations;
        if let (false, &[channels, height, width]) =
            (self.convolutions.is_empty(), &self.observation[..])
        {
            let [batch, _] = x.dims();
            let mut images = x.reshape([batch, channels, height, width]);
            for convolution in &self.convolutions {
                images = self.convolve(convolution, images);
            }
            x = images.flatten(1, 3);
        }
        for layer in &self.layers {
            x = self.activation.forward(layer.forward(x));
        }
        x
    }
}

impl ActorCriticEncoder {
    /// A convolution and the activation behind it: in one operation, where there is one for it.
    fn convolve(&self, convolution: &Conv2d, images: Tensor<4>) -> Tensor<4> {
        #[cfg(any(feature = "flex", feature = "ndarray"))]
        if let (Activation::Relu(_), Some(bias)) = (&self.activation, &convolution.bias) {
            let [side, width] = convolution.kernel_size;
            let [step, across] = convolution.stride;
            let is_plain = convolution.padding == burn::nn::PaddingConfig2d::Valid
                && convolution.dilation == [1, 1]
                && convolution.groups == 1
                && (side, step) == (width, across);
            if is_plain && ops::applies(&images) {
                return ops::conv_relu(images, convolution.weight.val(), bias.val(), step);
            }
        }
        self.activation.forward(convolution.forward(images))
    }
}

impl ActorCritic for ActorCriticNet {
    fn act(&self, observations: Tensor<2>) -> (Tensor<2>, Tensor<1>) {
        let features = self.encoder.forward(observations);
        let value = self.value.forward(features.clone());
        (self.policy.forward(features), value.squeeze_dim(1))
    }

    fn actions(&self) -> usize {
        self.policy.weight.dims()[1]
    }

    fn with_actions(self, actions: usize) -> Self {
        let [features, _] = self.policy.weight.dims();
        let device = self.policy.weight.device();
        Self {
            policy: LinearConfig::new(features, actions).init(&device),
            value: LinearConfig::new(features, 1).init(&device),
            ..self
        }
    }
}
