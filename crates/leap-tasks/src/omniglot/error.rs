//! What is wrong with data, or with settings that do not suit them.

use std::path::{Path, PathBuf};

/// Data that cannot be read, or settings that do not suit them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Omniglot: {}: {reason}", place.display())]
pub struct OmniglotError {
    place: PathBuf,
    reason: String,
}

impl OmniglotError {
    pub(super) fn new(place: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self {
            place: place.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }
}
