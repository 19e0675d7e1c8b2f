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

mod adapt;
mod checkpoint;
mod cluster;
mod device;
mod error;
mod lanes;
mod learners;
mod meta;
mod params;
mod path;
mod redraw;
#[cfg(feature = "remote")]
mod remote;
mod report;
mod saved;
mod seed;
mod sum;
mod task;
mod train;

pub use adapt::{InnerLoop, task_copy};
pub use checkpoint::Checkpoints;
#[cfg(feature = "mpi")]
pub use cluster::MpiCluster;
pub use cluster::{Cluster, Summation};
pub use device::{available_devices, describe_device, device, devices, is_cpu};
pub use error::{Error, TaskError};
pub use lanes::Lanes;
pub use learners::{
    Finetuning, Fomaml, Leap, LeapPath, Maml, Method, NoPretraining, Norm, Pull, Reptile,
    TaskGradient,
};
pub use meta::{Learned, MetaGradient, MetaLearner};
pub use params::{ParamSpace, ParamVector};
pub use path::{
    DeviceFigures, LearningPath, PathFigures, PathMeter, PathTrace, PlanePath, Segment,
    project_paths,
};
pub use redraw::redraw;
pub use report::{LearningCurve, Report, Summary, TaskReport};
pub use seed::{Purpose, TaskRng, TaskSeed, run_rng};
pub use task::{ActorCritic, HeldOut, Predict, StepLoss, Task, TaskContext, TaskSet};
pub use train::{MetaRun, MetaTrainer};
