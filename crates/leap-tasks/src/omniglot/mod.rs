//! Omniglot: 1,623 characters of 50 alphabets, an alphabet a task.
//!
//! [`Omniglot`] is the data set, which ships with this crate; [`OmniglotTasksConfig`] makes tasks of it.

mod augment;
mod data;
mod official;
mod tasks;

use std::path::{Path, PathBuf};

pub use augment::RandomAffine;
pub use data::{Alphabet, Character, Drawing, Omniglot};
pub use tasks::{MixedOmniglot, OmniglotSplits, OmniglotTask, OmniglotTasks, OmniglotTasksConfig};

/// Data that cannot be read, or settings that do not suit them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Omniglot: {}: {reason}", place.display())]
pub struct OmniglotError {
    place: PathBuf,
    reason: String,
}

impl OmniglotError {
    fn new(place: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self {
            place: place.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }
}
