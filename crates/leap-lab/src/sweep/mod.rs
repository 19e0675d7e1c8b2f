//! Sweeps: methods × settings × seeds of an experiment.

mod charts;
pub(crate) mod experiment;
mod page;
pub(crate) mod plan;
pub(crate) mod results;
pub(crate) mod run;
mod running;
mod tables;
