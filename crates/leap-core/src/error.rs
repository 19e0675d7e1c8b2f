//! What can go wrong, and where.

use std::path::PathBuf;

use crate::seed::TaskSeed;

/// An error raised by a task or a task set; any error type will do.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No parameter of the model is both trainable and in the group that is to be meta-learned.
    #[error("nothing to meta-learn: no trainable parameter of the model is in the shared group")]
    NothingShared,

    /// A task's model lacks a parameter that the initialization shares with it.
    #[error(
        "the task's model lost the shared parameter `{path}` (a task may replace only parameters \
         outside the shared group, and must keep the ids of the others)"
    )]
    MissingParameter {
        /// Path of the parameter in the initialization.
        path: String,
    },

    /// A parameter is in two places of the model, of which Burn's optimizers move one only.
    #[error(
        "`{first}` and `{second}` are one parameter, which is not supported: use it from one place"
    )]
    TiedParameter {
        /// Its path in the model.
        first: String,
        /// Its other path.
        second: String,
    },

    /// A gradient or a point from another parameter space was added.
    #[error("the parameter vectors belong to different parameter spaces")]
    SpaceMismatch,

    /// The mean of no gradients was asked for.
    #[error("the meta-batch is empty: no task's gradient was added")]
    EmptyMetaBatch,

    /// A task failed.
    #[error("task `{name}` ({seed}) failed: {source}")]
    Task {
        /// The task's name.
        name: String,
        /// The seed that draws the same task again.
        seed: TaskSeed,
        /// What the task reported.
        source: TaskError,
    },

    /// Every task of a meta-batch had a loss or a meta-gradient that is not finite.
    #[error(
        "meta-step {meta_step}: no task is left, all {tasks} had a loss or a meta-gradient that is \
         not finite; lower the learning rates (first task: {first})"
    )]
    AllTasksLeftOut {
        /// The meta-step, counted from 0.
        meta_step: usize,
        /// Tasks in the meta-batch.
        tasks: usize,
        /// The seed of the first of them.
        first: TaskSeed,
    },

    /// A setting that cannot work.
    #[error("invalid setting: {0}")]
    InvalidSetting(String),

    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },

    /// A checkpoint cannot be used.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint's folder, or the file in it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// What was saved of a task's training cannot be gone on from.
    #[error("a task that was broken off cannot go on: {0}")]
    Saved(String),

    /// Training was stopped from outside; see [`MetaTrainer::with_stop`](crate::MetaTrainer::with_stop).
    #[error("training was interrupted")]
    Interrupted,

    /// The threads of a lane could not be started.
    #[error("could not start the threads of a lane: {0}")]
    Lane(String),

    /// Every lane's device stopped answering.
    #[error("no lane is left to train tasks on: {0}")]
    NoLaneLeft(String),

    /// The processes of a cluster cannot go on together.
    #[error("the cluster cannot go on: {0}")]
    Cluster(String),

    /// A device that cannot be had.
    #[error("device `{name}`: {reason}")]
    Device {
        /// The name that was asked for.
        name: String,
        /// What is missing, and what there is.
        reason: String,
    },

    /// A tensor's values could not be read back from its device.
    #[error("could not read values back from the device: {0}")]
    ReadBack(String),
}

impl Error {
    pub(crate) fn saved(error: impl std::fmt::Display) -> Self {
        Self::Saved(error.to_string())
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
