//! Models for meta-learning with Leap: the multi-layer perceptron, the convolutional
//! classifier of the paper's Omniglot experiment, and the actor-critic of that on Atari.
//!
//! They are plain Burn modules; any other will do as well.

// Nothing that comes in from outside may end the program. What may panic nevertheless says beside it why it does not.
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod actor_critic;
mod conv_net;
mod error;
pub mod fast;
mod mlp;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod ops;

pub use actor_critic::{ActorCriticConfig, ActorCriticEncoder, ActorCriticNet, ConvLayer};
pub use conv_net::{ConvBlock, ConvEncoder, ConvNet, ConvNetConfig};
pub use error::ModelError;
pub use mlp::{Mlp, MlpConfig};

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::{Module, ParamGroup};
    use burn::tensor::{Device, Tensor};

    #[test]
    fn the_default_is_the_papers_network() {
        let net = ConvNetConfig::new().init(&Device::flex()).unwrap();
        // Weights and biases of four convolutions and the head, gains and offsets of four
        // normalizations; the rest of the floats are running statistics.
        let trainable = 576 + 3 * 36_864 + 4 * 64 + 8 * 64 + 64 * 20 + 20;
        assert_eq!(net.num_params(), trainable + 8 * 64);
        let logits = net.forward(Tensor::zeros([3, 1, 28, 28], &Device::flex()));
        assert_eq!(logits.dims(), [3, 20]);
    }

    #[test]
    fn shapes_follow_the_settings() {
        let device = Device::flex();
        let images = |c, h, w| Tensor::zeros([2, c, h, w], &device);
        let net = ConvNetConfig::new()
            .with_layers(2)
            .with_filters(5)
            .with_kernel_size(5)
            .with_padding(0)
            .with_channels(3)
            .with_image_size([21, 17])
            .with_batch_norm(false)
            .with_classes(7);
        assert_eq!(
            net.init(&device).unwrap().forward(images(3, 21, 17)).dims(),
            [2, 7]
        );
        let net = net.with_max_pool(false).init(&device).unwrap();
        assert_eq!(net.encoder.forward(images(3, 21, 17)).dims(), [2, 5]);
        assert_eq!(
            net.with_new_head(3).forward(images(3, 21, 17)).dims(),
            [2, 3]
        );
    }

    #[test]
    fn impossible_settings_are_errors() {
        let device = Device::flex();
        let error = ConvNetConfig::new()
            .with_layers(5)
            .init(&device)
            .unwrap_err();
        assert!(error.to_string().contains("after block 5 of 5"), "{error}");
        assert!(ConvNetConfig::new().with_filters(0).init(&device).is_err());
        assert!(MlpConfig::new(vec![3]).init(&device).is_err());
        assert!(MlpConfig::new(vec![3, 0, 1]).init(&device).is_err());
    }

    #[test]
    fn a_redrawn_head_leaves_the_encoder_alone() {
        let device = Device::flex();
        let net = ConvNetConfig::new().init(&device).unwrap();
        let group = ParamGroup::from_predicate("head");
        let draw = |seed| {
            leap_core::reinitialize(net.clone(), &group, &mut leap_core::run_rng(seed, "head"))
        };
        let (a, b, c) = (draw(1), draw(1), draw(2));
        let weight = |net: &ConvNet| net.head.weight.val().into_data();
        assert_eq!(weight(&a), weight(&b));
        assert_ne!(weight(&a), weight(&c));
        assert_ne!(weight(&a), weight(&net));
        let bound = 1.0 / 64f32.sqrt();
        for net in [&a, &c] {
            let values = weight(net).try_to_vec::<f32>().unwrap();
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(largest <= bound && largest > 0.95 * bound);
            assert_ne!(
                net.head
                    .bias
                    .as_ref()
                    .unwrap()
                    .val()
                    .into_data()
                    .try_to_vec::<f32>()
                    .unwrap(),
                [0.0; 20]
            );
        }
        let conv = |net: &ConvNet| net.encoder.blocks[2].conv.weight.val().into_data();
        assert_eq!(conv(&a), conv(&net));
    }
}
