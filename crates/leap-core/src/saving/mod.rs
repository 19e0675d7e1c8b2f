//! What is saved of a run, so that it survives being killed at any moment.

pub(crate) mod checkpoint;
pub(crate) mod files;
pub(crate) mod task;
