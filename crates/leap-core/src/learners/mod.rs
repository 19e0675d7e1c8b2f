//! The meta-learners, a file each.

mod finetuning;
mod fomaml;
mod leap;
mod maml;
mod method;
mod no_pretraining;
mod reptile;

pub use finetuning::Finetuning;
pub use fomaml::Fomaml;
pub use leap::{Leap, LeapPath, Norm, Pull, TaskGradient};
pub use maml::Maml;
pub use method::Method;
pub use no_pretraining::NoPretraining;
pub use reptile::Reptile;
