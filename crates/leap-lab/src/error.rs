//! What can go wrong, and where.

use std::path::PathBuf;

use leap_core::TaskError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot work.
    #[error("{0}")]
    Setting(String),

    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },

    /// A file of an experiment cannot be understood.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The parameters in a file are not those of the model that is to have them.
    #[error("{} is of another model: {reason}", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// Where they differ.
        reason: String,
    },

    /// The folder is that of a run, which an experiment looks after.
    #[error("{} is the folder of a run: --out names that of an experiment", path.display())]
    RunOfAnother {
        /// The folder.
        path: PathBuf,
    },

    /// The folder holds something, and nobody said what is to become of it.
    #[error(
        "{} holds a run already: --resume goes on with it, --overwrite starts anew, --out names another folder",
        path.display()
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
    },

    /// The folder holds something that is not of this program, which is left alone.
    #[error("{} is not empty, and not a run of this program: --out names another folder", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },

    /// Another process is at work in the folder.
    #[error("another process is at work in {}", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },

    /// What is in the folder was made with other settings.
    #[error("{} is of a run with other settings:\n  {}", path.display(), changes.join("\n  "))]
    OtherSettings {
        /// The folder.
        path: PathBuf,
        /// Each setting with its value then and now.
        changes: Vec<String>,
    },

    /// Training failed.
    #[error(transparent)]
    Training(leap_core::Error),

    /// What the experiment provides failed.
    #[error("{0}")]
    Experiment(TaskError),

    /// Some runs failed; the others were done.
    #[error("{} runs failed:\n{}", failures.len(), failures.join("\n"))]
    Failed {
        /// The name of each, and why.
        failures: Vec<String>,
    },

    /// A picture could not be drawn.
    #[error("{what}: {reason}")]
    Drawing {
        /// The picture.
        what: String,
        /// The reason.
        reason: String,
    },

    /// The experiment was stopped from outside, and can be resumed.
    #[error("interrupted; --resume goes on")]
    Interrupted,

    /// Ctrl-C cannot be handled.
    #[error("Ctrl-C cannot be handled: {0}")]
    Signal(String),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn damaged(path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        Self::Damaged {
            path: path.into(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn drawing(what: &str, reason: impl std::fmt::Display) -> Self {
        Self::Drawing {
            what: what.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl From<leap_core::Error> for Error {
    fn from(error: leap_core::Error) -> Self {
        match error {
            leap_core::Error::Interrupted => Self::Interrupted,
            error => Self::Training(error),
        }
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(error) => return *error,
            Err(error) => error,
        };
        match error.downcast::<leap_core::Error>() {
            Ok(error) => (*error).into(),
            Err(error) => Self::Experiment(error),
        }
    }
}
