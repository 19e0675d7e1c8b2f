//! What a run tells while it goes on.

pub(crate) mod json_lines;
pub(crate) mod tensorboard;
pub(crate) mod tracker;
