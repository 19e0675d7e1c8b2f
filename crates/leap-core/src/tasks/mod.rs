//! What a task is, and what it reports.

pub(crate) mod curve;
pub(crate) mod monitor;
pub(crate) mod report;
pub(crate) mod sequential;
pub(crate) mod task;
