//! Tasks of equal shapes train as one: a step of one task is recorded as a graph, and played for all of them at once.
//!
//! What a step is made of does not depend on the values of the parameters. So each task's own [`loss`](crate::Task::loss) is
//! called with a copy of the model on a device that records what it is asked to do and computes nothing
//! ([`Device::capture`](burn::tensor::Device::capture)). Where the records of all tasks are the same but for their constants,
//! which are the tasks' batches, one of them is [played](play) with the parameters and batches of all, in a program that is as
//! long as that of a single task. Neither the model nor the task has to know of it.
//!
//! The stacked model is of the model's own type: each of its parameters is that of all tasks, one behind the other along the
//! first dimension. An optimizer that moves each number by itself moves it as it is, and a path through the space of its
//! parameters is as many paths.

mod ahead;
mod captured;
mod conv;
mod each;
mod play;
mod record;
mod script;
mod stack;
mod task;

pub(crate) use ahead::Own;
pub(crate) use record::{Recorder, fenced};
pub(crate) use task::{Kind, Plan, Plans, StackedTask};

/// Why tasks cannot be trained as one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Unstackable {
    why: String,
    /// Whether other tasks of the family may be.
    pub only_these: bool,
}

impl Unstackable {
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            only_these: false,
        }
    }

    /// These tasks do not fit together.
    pub fn these(why: impl Into<String>) -> Self {
        Self {
            only_these: true,
            ..Self::new(why)
        }
    }

    fn no_tensor() -> Self {
        Self::new("a tensor that the record does not have")
    }

    /// There is no rule for an operation.
    fn no_rule(op: &impl std::fmt::Debug) -> Self {
        let op = format!("{op:?}");
        let name = op.split(['(', '{', ' ']).next().unwrap_or(&op);
        Self::new(format!("there is no rule for the operation {name}"))
    }
}
