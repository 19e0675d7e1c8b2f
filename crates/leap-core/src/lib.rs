//! Leap meta-learning for [Burn](burn): an initialization from which new tasks are learned along
//! short paths, at the price of plain training.
//!
//! - [`Leap`] is the method: it follows a task's [path](LeapPath) and turns it into a meta-gradient. The other
//!   [meta-learners](MetaLearner) that it is compared with have the same shape, [`Method`] is any of them.
//! - A [`Task`] is a learning process, a [`TaskSet`] a family of them.
//! - [`MetaTrainer`] runs both loops on [`Lanes`], with [`Checkpoints`], and evaluates.
//!
//! For those who own their loop:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::{GradientsParams, SgdConfig};
//! use burn::tensor::{Device, Distribution, Tensor};
//! use leap_core::{Leap, LearningPath, MetaGradient};
//!
//! # fn main() -> Result<(), leap_core::Error> {
//! let device = Device::flex().autodiff();
//! device.seed(0);
//! let mut init: Linear = LinearConfig::new(3, 1).init(&device);
//! let mut outer = SgdConfig::new().init();
//! let leap = Leap::new();
//!
//! for _ in 0..2 {
//!     let mut meta = MetaGradient::new();
//!     for task in 0..4 {
//!         let (mut model, mut path) = leap.begin(&init)?;
//!         let mut inner = SgdConfig::new().init();
//!         for _ in 0..5 {
//!             let x = Tensor::<2>::random([8, 3], Distribution::Default, &device);
//!             let target = x.clone().sum_dim(1) * task;
//!             let loss = (model.forward(x) - target).square().mean();
//!             let grads = GradientsParams::from_grads(loss.backward(), &model);
//!             path.record(&model, &loss, &grads)?;
//!             model = inner.step(0.1, model, grads);
//!         }
//!         meta.add(path.finish()?.gradient)?;
//!     }
//!     init = outer.step(0.1, init, meta.take(&device)?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! For those who do not, [`MetaTrainer::fit`] does the same in a few lines.

// Nothing that comes in from outside may end the program. What may panic nevertheless says beside it why it does not.
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod devices;
mod error;
mod learners;
mod number;
mod saving;
mod seed;
mod space;
mod stacking;
mod tasks;
mod training;

pub use devices::cluster::{Cluster, Summation};
pub use devices::device::{
    available_devices, describe_device, device, devices, is_cpu, is_software, product_roundoff,
};
pub use devices::generator::with_device_seed;
pub use devices::lanes::Lanes;
#[cfg(feature = "mpi")]
pub use devices::mpi::MpiCluster;
pub use error::{Error, TaskError};
pub use learners::anil::Anil;
pub use learners::boil::Boil;
pub use learners::finetuning::Finetuning;
pub use learners::fomaml::Fomaml;
pub use learners::leap::{Leap, LeapPath, Norm, Pull, TaskGradient};
pub use learners::learned_rates::{LearnedRates, RateOf, Rated};
pub use learners::maml::Maml;
pub use learners::method::Method;
pub use learners::no_pretraining::NoPretraining;
pub use learners::reptile::Reptile;
pub use learners::shifting::{Pulled, Shifting};
pub use learners::warp_leap::WarpLeap;
pub use saving::checkpoint::Checkpoints;
pub use seed::{Purpose, TaskRng, TaskSeed, run_rng};
pub use space::copy::task_copy;
pub use space::figures::{DeviceFigures, PathFigures};
pub use space::meta_gradient::MetaGradient;
pub use space::norms::with_norms_of;
pub use space::params::{ParamSpace, ParamVector};
pub use space::path::{LearningPath, PathMeter, Segment};
pub use space::reinitialize::{reinitialize, reinitialize_new};
pub use space::trace::{PathTrace, PlanePath, project_paths};
pub use tasks::curve::{Goal, LearningCurve, Reached};
pub use tasks::monitor::Monitor;
pub use tasks::report::{Report, Summary, TaskReport, ToScratch};
pub use tasks::sequential::{Sequential, SequentialTask};
pub use tasks::task::{ActorCritic, HeldOut, Predict, StepLoss, Task, TaskContext, TaskSet};
pub use training::inner::InnerLoop;
pub use training::learner::{Learned, MetaLearner};
pub use training::run::MetaRun;
pub use training::statistics::Statistics;
pub use training::stopping::EarlyStopping;
pub use training::trainer::MetaTrainer;
