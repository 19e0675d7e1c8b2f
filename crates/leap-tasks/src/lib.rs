//! Task families for meta-learning with Leap: sinusoids; labelled images from folders, archives and the files that data
//! sets are published in; the Omniglot data set, which is part of this crate; environments for reinforcement learning.

// Nothing that comes in from outside may end the program. What may panic nevertheless says beside it why it does not.
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod digest;
mod error;
mod files;
pub mod images;
pub mod omniglot;
pub mod rl;
mod sinusoid;

pub use error::DataError;
pub use sinusoid::{Sinusoid, Sinusoids};
