//! Experiments in meta-learning with [Leap](leap_core): what a researcher wants around training.
//!
//! - An [`Experiment`] is a model, tasks, and how they are trained.
//! - A [`Sweep`] runs it for methods × settings × seeds, side by side. It can be interrupted or killed, goes on from there
//!   to the same numbers, skips what is done, and ends in a table and a report page.
//! - A [`RunFolder`] holds what came out; a [`Tracker`] is told on the way ([`TensorBoard`], or one of your own).
//! - [`Chart`], [`draw_paths`], [`animate`] and [`report`] make pictures and pages, for experiments of another shape.
//!
//! A whole experiment, on tasks of the reader's own:
//!
//! ```no_run
#![doc = include_str!("../examples/own_experiment.rs")]
//! ```

// Nothing that comes in from outside may end the program. What may panic nevertheless says beside it why it does not.
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod error;
mod figures;
mod folder;
mod initialization;
mod options;
mod progress;
mod recording;
mod report;
mod sweep;
mod terminal;
mod tracking;

pub use error::Error;
pub use figures::{Chart, Series, draw_paths};
pub use folder::{Existing, RunFolder};
pub use initialization::Initialization;
pub use options::{RunOptions, finite, none_or_up_to, not_negative, positive, share, up_to};
pub use recording::animate;
pub use report::{Figure, Section, Table, report};
pub use sweep::experiment::{Experiment, Session};
pub use sweep::plan::Sweep;
pub use sweep::results::{RunResult, RunSummary};
pub use sweep::run::Run;
pub use terminal::{end, interruption, say, show_log};
pub use tracking::json_lines::MetaStepMetrics;
pub use tracking::tensorboard::TensorBoard;
pub use tracking::tracker::Tracker;
