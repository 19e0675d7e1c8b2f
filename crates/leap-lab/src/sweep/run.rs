//! Which runs there are.

use std::collections::BTreeMap;

use leap_core::Method;
use serde::{Deserialize, Serialize, Serializer};

/// A run of an experiment: a method with its settings, and a seed of all that is random.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The method; `none` is learning from scratch.
    pub method: String,
    /// The settings that a sweep goes through, by name; 0 when learning from scratch, which has none.
    #[serde(serialize_with = "as_numbers")]
    pub settings: BTreeMap<String, f64>,
    /// The settings that were [searched](crate::Sweep::with_search) for this method, by name.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "as_numbers"
    )]
    pub searched: BTreeMap<String, f64>,
    /// The seed.
    pub seed: u64,
}

/// The method that every sweep has, as what the others are compared with.
pub(crate) const SCRATCH: &str = "none";

impl Run {
    /// The method, if it is one of leap-core's.
    ///
    /// # Errors
    /// [`leap_core::Error::InvalidSetting`] lists those that there are.
    pub fn method(&self) -> Result<Method, leap_core::Error> {
        self.method.parse()
    }

    /// A setting by its name, one that was searched for too; `None` where it is none of the run's, and when learning from
    /// scratch, which has none.
    pub fn setting(&self, name: &str) -> Option<f64> {
        let value = self.settings.get(name).or(self.searched.get(name));
        value.copied().filter(|_| self.is_trained())
    }

    /// Whether an initialization is meta-trained at all.
    pub fn is_trained(&self) -> bool {
        self.method != SCRATCH
    }

    /// The name of its folder, such as `leap-20-alphabets-seed-1`.
    pub fn name(&self) -> String {
        let mut name = self.method.clone();
        for (setting, value) in self.settings.iter().filter(|_| self.is_trained()) {
            name += &format!("-{value}-{setting}");
        }
        format!("{name}-seed-{}", self.seed)
    }
}

/// Whole numbers without a point.
pub(crate) fn number(value: f64) -> serde_json::Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => (value as i64).into(),
        false => value.into(),
    }
}

fn as_numbers<S: Serializer>(settings: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(settings.iter().map(|(name, value)| (name, number(*value))))
}
