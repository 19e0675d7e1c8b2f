//! Task families for meta-learning with Leap: sinusoids, the Omniglot data set, which is part of
//! this crate, and environments for reinforcement learning.

pub mod omniglot;
pub mod rl;
mod sinusoid;

pub use sinusoid::{Sinusoid, Sinusoids};
