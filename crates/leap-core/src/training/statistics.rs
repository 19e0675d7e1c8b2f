//! By which statistics held-out samples are normalized.

use std::sync::Once;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};

use crate::error::Error;
use crate::space::copy::task_copy;

/// What a model with batch-normalization normalizes held-out samples by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistics {
    /// The running statistics that training collected, as in ordinary training. With the usual momentum of 0.1 they need
    /// some 30 steps to come near those of the task: after five, more than half of them is still the mean of 0 and the
    /// variance of 1 that they began with.
    Running,
    /// Those of the held-out samples' own batch: the transductive setting, in which most results of few-shot learning after
    /// MAML are reported. A sample's prediction depends on the others in its batch.
    Batch,
}

impl std::fmt::Display for Statistics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Batch => "batch",
        })
    }
}

impl std::str::FromStr for Statistics {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "running" => Ok(Self::Running),
            "batch" => Ok(Self::Batch),
            _ => Err(Error::InvalidSetting(format!(
                "`{name}` is neither `running` nor `batch`"
            ))),
        }
    }
}

/// Steps after which less than a twentieth of running statistics is what they began with, at a momentum of 0.1.
const ARRIVED: usize = 30;

impl Statistics {
    /// What is used where nothing was chosen, and a warning where what was chosen cannot work.
    pub(super) fn choose<M: Module>(chosen: Option<Self>, model: &M, steps: usize) -> Self {
        static WARNED: Once = Once::new();
        let is_short = steps < ARRIVED;
        match chosen {
            Some(Self::Running) if is_short && has_batch_norm(model) => {
                WARNED.call_once(|| {
                    log::warn!(
                        "held-out samples are normalized by running statistics that have moved for {steps} steps only, \
                         too few to arrive: their scores may be at chance (`Statistics::Batch`)"
                    );
                });
                Self::Running
            }
            Some(chosen) => chosen,
            None if is_short && has_batch_norm(model) => Self::Batch,
            None => Self::Running,
        }
    }

    /// Its name, for models that it makes a difference to.
    pub(super) fn named<M: Module>(self, model: &M) -> Option<String> {
        has_batch_norm(model).then(|| self.to_string())
    }

    /// A copy of `model` for held-out samples.
    pub(super) fn evaluated<M: Module>(self, model: &M) -> M {
        match self {
            Self::Running => model.valid(),
            // Without a graph, which nothing would go back along.
            Self::Batch => task_copy(model)
                .no_grad()
                .map(&mut NormalizeOnly::default()),
        }
    }
}

/// Whether a container of Burn's module tree is a layer of normalization.
fn is_norm(container: &str) -> bool {
    container.starts_with("Struct:") && container.contains("Norm")
}

/// Whether a layer of the model normalizes otherwise in training than in evaluation.
fn has_batch_norm<M: Module>(model: &M) -> bool {
    #[derive(Default)]
    struct Find {
        is_norm: bool,
        found: bool,
    }
    impl ModuleVisitor for Find {
        fn enter_module(&mut self, _name: &str, container: &str) {
            self.is_norm = is_norm(container);
        }
        fn visit_flag(&mut self, _flag: &Param<Flag>) {
            self.found |= self.is_norm;
        }
    }
    let mut find = Find::default();
    model.visit(&mut find);
    find.found
}

/// Leaves normalization in training mode, and nothing else, such as dropout.
#[derive(Default)]
struct NormalizeOnly {
    is_norm: bool,
}

impl ModuleMapper for NormalizeOnly {
    fn enter_module(&mut self, _name: &str, container: &str) {
        self.is_norm = is_norm(container);
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        match self.is_norm {
            true => flag,
            false => flag.with_value(false),
        }
    }
}
