//! What is wrong with the settings of a model.

/// Settings from which no model can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ModelError {
    reason: String,
}

impl ModelError {
    pub(crate) fn new(reason: String) -> Self {
        Self { reason }
    }
}
