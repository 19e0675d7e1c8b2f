//! What is wrong with data, or with settings that do not suit them.

use std::path::{Path, PathBuf};

/// Data that cannot be read, or settings that do not suit them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", place.display())]
pub struct DataError {
    place: PathBuf,
    reason: String,
}

impl DataError {
    /// That `place`, a file or what settings are of, is wrong, for a reason.
    pub(crate) fn new(place: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self {
            place: place.as_ref().to_path_buf(),
            reason: reason.to_string(),
        }
    }
}
