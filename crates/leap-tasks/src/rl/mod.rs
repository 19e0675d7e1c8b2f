//! Reinforcement learning: environments, and advantage actor-critic as a way to learn them.
//!
//! A family of environments ([`EnvFamily`]) becomes a set of tasks with [`A2cConfig::tasks`]. One task is one
//! environment, played by many copies of it side by side ([`VectorEnv`]).

mod a2c;
mod acrobot;
#[cfg(feature = "atari")]
pub mod atari;
mod cart_pole;
mod catch;
mod env;
mod mountain_car;
mod picture;
mod range;
mod recycle;

pub use a2c::{A2cConfig, A2cTask, A2cTasks};
pub use acrobot::{Acrobot, Acrobots};
pub use cart_pole::{CartPole, CartPoles};
pub use catch::{Catch, Catches};
pub use env::{Ending, EnvFamily, SavedEnv, SyncVectorEnv, Transition, VectorEnv};
pub use mountain_car::{MountainCar, MountainCars};
pub use picture::{Picture, Render, Stroke};
