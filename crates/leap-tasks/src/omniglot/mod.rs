//! Omniglot: 1,623 characters of 50 alphabets, an alphabet a task.
//!
//! [`Omniglot`] is the data set, which ships with this crate; [`OmniglotTasksConfig`] makes tasks of it.

mod data;
mod format;
mod official;
mod tasks;

pub use data::{Alphabet, Character, Drawing, Omniglot};
pub use tasks::{MixedOmniglot, OmniglotSplits, OmniglotTasks, OmniglotTasksConfig};
