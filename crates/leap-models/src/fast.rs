//! Layers of Burn, faster on CPUs: the same modules, records and results, with other code behind them.
//!
//! In a network of one's own, `fast::conv2d(&self.conv, x)` takes the place of `self.conv.forward(x)`, and so on. On GPUs,
//! for other types than float32 and for settings that it has no code for, each falls back to Burn's own operation.
//! Between these functions images keep their channels last, so that nothing is moved: use them for a whole run of layers.
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::conv::Conv2d;
//! use burn::nn::{BatchNorm, Linear};
//! use burn::tensor::Tensor;
//! use leap_models::fast;
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     convs: Vec<Conv2d>,
//!     norms: Vec<BatchNorm>,
//!     head: Linear,
//! }
//!
//! impl Net {
//!     fn forward(&self, images: Tensor<4>) -> Tensor<2> {
//!         let layers = self.convs.iter().zip(&self.norms);
//!         let x = layers.fold(images, |x, (conv, norm)| {
//!             fast::norm_relu_pool(norm, fast::conv2d(conv, x))
//!         });
//!         self.head.forward(x.flatten(1, 3))
//!     }
//! }
//! ```

use burn::nn::BatchNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;

#[cfg(any(feature = "flex", feature = "ndarray"))]
use crate::ops;

/// What [`Conv2d::forward`] gives: from `[batch, channels_in, height, width]` to `[batch, channels_out, height', width']`.
///
/// Any size, stride, padding and dilation, with and without bias; groups are left to Burn. Convolutions of 3 x 3 in steps
/// of one are Winograd's F(2 x 2, 3 x 3) or F(4 x 4, 3 x 3) (Lavin, Gray,
/// [arXiv 1509.09308](https://arxiv.org/abs/1509.09308)), where there are at least 8 channels on both sides; others are
/// matrix products.
///
/// # Panics
/// As Burn's, for shapes that do not fit together.
pub fn conv2d(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if let Some(sizes) = ops::conv_for(conv, &x) {
        return ops::conv2d(conv, x, sizes);
    }
    conv.forward(x)
}

/// What [`BatchNorm::forward`] gives for images of shape `[batch, channels, height, width]`; running statistics are kept as
/// there.
///
/// # Panics
/// As Burn's, for shapes that do not fit together.
pub fn norm(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    run(norm, x, false, false)
}

/// [`norm`], then ReLU.
///
/// # Panics
/// As [`norm`].
pub fn norm_relu(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    run(norm, x, true, false)
}

/// [`norm`], then ReLU, then max-pooling of 2 x 2: the result has shape `[batch, channels, height / 2, width / 2]`.
///
/// # Panics
/// As [`norm`].
pub fn norm_relu_pool(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    run(norm, x, true, true)
}

fn run(norm: &BatchNorm, x: Tensor<4>, with_relu: bool, with_pool: bool) -> Tensor<4> {
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    if let Some(sizes) = ops::norm_for(norm, &x, with_relu, with_pool) {
        return ops::norm(norm, x, sizes);
    }
    let mut x = norm.forward(x);
    if with_relu {
        x = relu(x);
    }
    match with_pool {
        true => max_pool2d(x, MaxPoolOptions::new([2, 2])),
        false => x,
    }
}
