//! The meta-learners, a file each.

pub(crate) mod anil;
pub(crate) mod boil;
pub(crate) mod finetuning;
pub(crate) mod fomaml;
pub(crate) mod leap;
pub(crate) mod learned_rates;
pub(crate) mod maml;
pub(crate) mod method;
pub(crate) mod no_pretraining;
pub(crate) mod reptile;
pub(crate) mod shifting;
pub(crate) mod warp_leap;
