//! Models for meta-learning with Leap: the multi-layer perceptron, the convolutional
//! classifier of the paper's Omniglot experiment, the actor-critic of that on Atari, and those that the Multi-CV experiment
//! compares with: hard attention to the task and progressive networks, each with its learner.
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
mod hat;
mod mlp;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod ops;
pub mod pretrained;
mod progressive;
#[cfg(test)]
mod tests;

pub use actor_critic::{ActorCriticConfig, ActorCriticEncoder, ActorCriticNet, ConvLayer};
pub use conv_net::{ConvBlock, ConvEncoder, ConvNet, ConvNetConfig};
pub use error::ModelError;
pub use hat::{AsHat, Hat, HatEncoder, HatNet};
pub use mlp::{Mlp, MlpConfig};
pub use progressive::{AsProgressive, Column, Columns, ProgressiveNet, ProgressiveNets};
