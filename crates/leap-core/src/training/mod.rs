//! The two loops: a task's training inside, meta-training outside.

pub(crate) mod attempt;
pub(crate) mod inner;
pub(crate) mod learner;
pub(crate) mod probe;
pub(crate) mod run;
mod seeded;
pub(crate) mod statistics;
pub(crate) mod stopping;
pub(crate) mod trainer;
