//! The convolutional classifier of the Omniglot experiment: an encoder and a head.

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use leap_core::{Predict, TaskError};

use crate::error::ModelError;
use crate::fast;
#[cfg(any(feature = "flex", feature = "ndarray"))]
use crate::ops;

/// Settings of a [`ConvNet`]; the defaults are the paper's for Omniglot.
#[derive(Config, Debug)]
pub struct ConvNetConfig {
    /// Number of classes.
    #[config(default = 20)]
    pub classes: usize,
    /// Number of convolution blocks.
    #[config(default = 4)]
    pub layers: usize,
    /// Number of filters in each block.
    #[config(default = 64)]
    pub filters: usize,
    /// Height and width of the kernels.
    #[config(default = 3)]
    pub kernel_size: usize,
    /// Rows and columns of zeros around the input of each convolution.
    #[config(default = 1)]
    pub padding: usize,
    /// Whether each block ends in 2 x 2 max-pooling. Without it, what the last block gives is averaged over
    /// the whole image.
    #[config(default = true)]
    pub max_pool: bool,
    /// Whether max-pooling is what a block ends in, after normalization and ReLU, as papers on few-shot learning have it. In
    /// the code of Leap's authors it comes first, right behind the convolution.
    #[config(default = false)]
    pub pool_last: bool,
    /// Whether each block normalizes its batches.
    #[config(default = true)]
    pub batch_norm: bool,
    /// Whether a convolution of its own, `warp`, follows each block, for [`WarpLeap`](leap_core::WarpLeap): it is meta-learned,
    /// and stays as it is while a task is learned.
    #[config(default = false)]
    pub warp: bool,
    /// Channels of the images.
    #[config(default = 1)]
    pub channels: usize,
    /// Height and width of the images.
    #[config(default = "[28, 28]")]
    pub image_size: [usize; 2],
}

/// An encoder, and a linear head on the features that it finds.
#[derive(Module, Debug)]
pub struct ConvNet {
    /// From images to features.
    pub encoder: ConvEncoder,
    /// From features to classes.
    pub head: Linear,
}

/// Convolution blocks, from images to a vector of features.
#[derive(Module, Debug)]
pub struct ConvEncoder {
    /// The blocks, from the image on.
    pub blocks: Vec<ConvBlock>,
    average: bool,
}

/// Convolution, max-pooling, batch-normalization and ReLU.
///
/// The paper normalizes before it pools; the authors' code pools first, and so does this one unless
/// [told](ConvNetConfig::pool_last) otherwise.
#[derive(Module, Debug)]
pub struct ConvBlock {
    /// The convolution, with bias.
    pub conv: Conv2d,
    /// 2 x 2 max-pooling.
    pub pool: Option<MaxPool2d>,
    /// Batch-normalization.
    pub norm: Option<BatchNorm>,
    /// Whether pooling comes last, and not right behind the convolution.
    pub pool_last: bool,
    /// A convolution behind all of it that warps the space in which the others are learned, with as many channels on both sides
    /// and the same size of the image.
    pub warp: Option<Conv2d>,
}

impl ConvNetConfig {
    /// The model on `device`.
    ///
    /// # Errors
    /// [`ModelError`] if a size is 0, or if nothing is left of the image after the last block.
    pub fn init(&self, device: &Device) -> Result<ConvNet, ModelError> {
        let features = self.features()?;
        let block = |i: usize| {
            let channels = if i == 0 { self.channels } else { self.filters };
            self.block(channels, device)
        };
        Ok(ConvNet {
            encoder: ConvEncoder {
                blocks: (0..self.layers).map(block).collect(),
                average: !self.max_pool,
            },
            head: LinearConfig::new(features, self.classes).init(device),
        })
    }

    /// A block that takes so many channels.
    pub(crate) fn block(&self, channels: usize, device: &Device) -> ConvBlock {
        let p = self.padding;
        ConvBlock {
            conv: Conv2dConfig::new([channels, self.filters], [self.kernel_size; 2])
                .with_padding(PaddingConfig2d::Explicit(p, p, p, p))
                .init(device),
            pool: self
                .max_pool
                .then(|| MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init()),
            norm: self
                .batch_norm
                .then(|| BatchNormConfig::new(self.filters).init(device)),
            pool_last: self.pool_last,
            warp: self.warp.then(|| {
                Conv2dConfig::new([self.filters; 2], [3, 3])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .init(device)
            }),
        }
    }

    /// Number of features that the encoder finds.
    fn features(&self) -> Result<usize, ModelError> {
        let sizes = [
            self.classes,
            self.layers,
            self.filters,
            self.kernel_size,
            self.channels,
            self.image_size[0],
            self.image_size[1],
        ];
        if sizes.contains(&0) {
            return Err(ModelError::new(format!(
                "no size of a ConvNet may be 0: {self:?}"
            )));
        }
        let mut size = self.image_size;
        for layer in 0..self.layers {
            for side in &mut size {
                let padding = self.padding.saturating_mul(2);
                *side = side.saturating_add(padding).saturating_add(1);
                *side = side.saturating_sub(self.kernel_size);
                if self.max_pool {
                    *side /= 2;
                }
                if *side == 0 {
                    let [height, width] = self.image_size;
                    return Err(ModelError::new(format!(
                        "nothing is left of an image of {height} x {width} after block {} of {}",
                        layer + 1,
                        self.layers
                    )));
                }
            }
        }
        let pixels = if self.max_pool { size[0] * size[1] } else { 1 };
        Ok(self.filters * pixels)
    }
}

impl ConvNet {
    /// From images of shape `[batch, channels, height, width]` to logits of shape `[batch, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.encoder.forward(images))
    }

    /// The same encoder with a new head for `classes` classes, as a task with its own classes needs it.
    ///
    /// The head is drawn by Burn; [`leap_core::reinitialize`] draws it from a seed.
    pub fn with_new_head(self, classes: usize) -> Self {
        Self {
            head: new_head(&self.head, classes),
            ..self
        }
    }
}

/// A new head on the same features.
fn new_head(head: &Linear, outputs: usize) -> Linear {
    LinearConfig::new(head.weight.dims()[0], outputs).init(&head.weight.device())
}

/// The head, or a new one if it has another number of outputs.
pub(crate) fn with_outputs(head: Linear, outputs: usize) -> Linear {
    match head.weight.dims()[1] == outputs {
        true => head,
        false => new_head(&head, outputs),
    }
}

impl ConvEncoder {
    /// From images of shape `[batch, channels, height, width]` to features of shape `[batch, features]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.blocks.iter().fold(images, |x, block| block.forward(x));
        match self.average {
            true => x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2),
            false => x.flatten(1, 3),
        }
    }
}

impl ConvBlock {
    /// From `[batch, channels, height, width]` to `[batch, filters, height', width']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.learn(x);
        match &self.warp {
            Some(warp) => fast::conv2d(warp, x),
            None => x,
        }
    }

    /// What is learned on each task: all but the warp.
    fn learn(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(any(feature = "flex", feature = "ndarray"))]
        if let Some(params) = self.fused(&x) {
            return self.forward_fused(x, params);
        }
        let (first, last) = self.pools();
        let mut x = fast::conv2d(&self.conv, x);
        if let Some(pool) = first {
            x = pool.forward(x);
        }
        match (&self.norm, last) {
            (Some(norm), Some(pool)) if is_usual(pool) => fast::norm_relu_pool(norm, x),
            (Some(norm), Some(pool)) => pool.forward(fast::norm_relu(norm, x)),
            (Some(norm), None) => fast::norm_relu(norm, x),
            (None, Some(pool)) => pool.forward(relu(x)),
            (None, None) => relu(x),
        }
    }

    /// The pooling behind the convolution, and that at the end.
    fn pools(&self) -> (Option<&MaxPool2d>, Option<&MaxPool2d>) {
        match self.pool_last {
            true => (None, self.pool.as_ref()),
            false => (self.pool.as_ref(), None),
        }
    }

    /// The block in Burn's own operations.
    #[cfg(test)]
    pub(crate) fn forward_unfused(&self, x: Tensor<4>) -> Tensor<4> {
        let (first, last) = self.pools();
        let mut x = self.conv.forward(x);
        if let Some(pool) = first {
            x = pool.forward(x);
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(x);
        }
        x = relu(x);
        match last {
            Some(pool) => pool.forward(x),
            None => x,
        }
    }

    /// The parameters of the block as one operation, where there is one for it.
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    pub(crate) fn fused(&self, x: &Tensor<4>) -> Option<ops::BlockParams> {
        let (conv, norm, bias) = (&self.conv, self.norm.as_ref()?, self.conv.bias.as_ref()?);
        let is_paper = self.pool.as_ref().is_some_and(is_usual)
            && !self.pool_last
            && conv.kernel_size == [3, 3]
            && conv.stride == [1, 1]
            && conv.dilation == [1, 1]
            && conv.groups == 1
            && conv.padding == PaddingConfig2d::Explicit(1, 1, 1, 1);
        let by_batch = x.device().is_autodiff() && norm.training.is_enabled();
        // Frozen normalization within a training graph is left to Burn.
        if !is_paper || !ops::applies(x) || (x.device().is_autodiff() && !by_batch) {
            return None;
        }
        Some(ops::BlockParams {
            weight: conv.weight.val(),
            bias: bias.val(),
            gamma: norm.gamma.val(),
            beta: norm.beta.val(),
            epsilon: norm.epsilon,
            running: (!by_batch).then(|| (norm.running_mean.value(), norm.running_var.value())),
        })
    }

    /// The block in one operation.
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    pub(crate) fn forward_fused(&self, x: Tensor<4>, params: ops::BlockParams) -> Tensor<4> {
        let (y, batch) = ops::conv_block(x, params);
        if let (Some(norm), Some((mean, variance))) = (&self.norm, batch) {
            ops::keep_statistics(norm, mean, variance);
        }
        y
    }
}

/// Whether the pooling is what [`ConvNetConfig`] makes.
fn is_usual(pool: &MaxPool2d) -> bool {
    pool.kernel_size == [2, 2]
        && pool.stride == [2, 2]
        && pool.padding == PaddingConfig2d::Valid
        && pool.dilation == [1, 1]
        && !pool.ceil_mode
}

impl Predict<Tensor<4>> for ConvNet {
    fn predict(&self, images: Tensor<4>) -> Tensor<2> {
        self.forward(images)
    }

    fn with_outputs(self, outputs: usize) -> Result<Self, TaskError> {
        let head = with_outputs(self.head, outputs);
        Ok(Self { head, ..self })
    }
}
