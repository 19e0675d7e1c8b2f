//! Task families for meta-learning with Leap: sinusoids, and the Omniglot data set, which is part of
//! this crate.

pub mod omniglot;
mod sinusoid;

pub use sinusoid::{Sinusoid, Sinusoids};
