//! Any of the meta-learners, by name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::error::{Error, TaskError};
use crate::learners::anil::Anil;
use crate::learners::boil::Boil;
use crate::learners::finetuning::Finetuning;
use crate::learners::fomaml::Fomaml;
use crate::learners::leap::{Leap, Norm};
use crate::learners::maml::Maml;
use crate::learners::no_pretraining::NoPretraining;
use crate::learners::reptile::Reptile;
use crate::learners::shifting::{Pulled, Shifting};
use crate::learners::warp_leap::WarpLeap;
use crate::space::params::ParamSpace;
use crate::space::path::LearningPath;
use crate::tasks::curve::LearningCurve;
use crate::tasks::task::Task;
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};

/// Any of the meta-learners, for comparisons.
///
/// Its names are `leap`, `reptile`, `fomaml`, `fomaml-query`, `anil`, `boil`, `maml`, `finetuning`, `reptile-shifting`, `leap-shifting`,
/// `warp-leap` and `none`; Leap's settings are
/// endings: `leap-energy`, `leap-noloss`, `leap-nostab`, `leap-energy-noloss`, …
///
/// ```
/// use leap_core::{Leap, Method};
///
/// let method: Method = "leap-noloss".parse()?;
/// assert_eq!(method, Method::Leap(Leap::new().with_loss(false)));
/// # Ok::<(), leap_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Method {
    /// [`Leap`].
    Leap(Leap),
    /// [`Reptile`].
    Reptile(Reptile),
    /// [`Fomaml`].
    Fomaml(Fomaml),
    /// [`Anil`].
    Anil(Anil),
    /// [`Boil`].
    Boil(Boil),
    /// [`Maml`].
    Maml(Maml),
    /// [`Finetuning`].
    Finetuning(Finetuning),
    /// [`WarpLeap`].
    WarpLeap(WarpLeap),
    /// [`Shifting`].
    Shifting(Shifting),
    /// [`NoPretraining`].
    NoPretraining(NoPretraining),
}

impl<M: Module> MetaLearner<M> for Method {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        match self {
            Self::Leap(learner) => learner.learn(space, inner, model, task),
            Self::Reptile(learner) => learner.learn(space, inner, model, task),
            Self::Fomaml(learner) => learner.learn(space, inner, model, task),
            Self::Anil(learner) => learner.learn(space, inner, model, task),
            Self::Boil(learner) => learner.learn(space, inner, model, task),
            Self::Maml(learner) => learner.learn(space, inner, model, task),
            Self::Finetuning(learner) => learner.learn(space, inner, model, task),
            Self::WarpLeap(learner) => learner.learn(space, inner, model, task),
            Self::Shifting(learner) => learner.learn(space, inner, model, task),
            Self::NoPretraining(learner) => learner.learn(space, inner, model, task),
        }
    }

    fn adapt<T: Task<M>>(
        &self,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
        path: &mut impl LearningPath,
    ) -> Result<(M, LearningCurve), TaskError> {
        match self {
            Self::Anil(learner) => learner.adapt(inner, model, task, path),
            Self::Boil(learner) => learner.adapt(inner, model, task, path),
            Self::WarpLeap(learner) => learner.adapt(inner, model, task, path),
            _ => inner.run(model, task, path),
        }
    }

    fn check(&self, model: &M, inner: &InnerLoop) -> Result<(), Error> {
        match self {
            Self::Leap(learner) => learner.check(model, inner),
            Self::Maml(learner) => learner.check(model, inner),
            Self::WarpLeap(learner) => learner.check(model, inner),
            _ => Ok(()),
        }
    }

    fn stacks(&self) -> bool {
        // MAML goes back over a model's steps, which it places by itself; shifting has several models already; the path of
        // Warp-Leap is through a part of its space.
        !matches!(self, Self::Maml(_) | Self::Shifting(_) | Self::WarpLeap(_))
    }
}

impl Method {
    /// Whether it asks no more of a task than a loss at each step, as tasks that act in an environment have.
    pub fn learns_by_acting(&self) -> bool {
        match self {
            Self::Leap(_) | Self::Reptile(_) | Self::NoPretraining(_) => true,
            Self::Fomaml(learner) => *learner == Fomaml::new(),
            _ => false,
        }
    }

    /// Leap's eight variants: length or energy, with and without the loss, with and without the stabilizer.
    pub fn leap_variants() -> impl Iterator<Item = Method> {
        (0..8).map(|bits| {
            Method::Leap(
                Leap::new()
                    .with_norm(if bits & 4 == 0 {
                        Norm::Length
                    } else {
                        Norm::Energy
                    })
                    .with_loss(bits & 2 == 0)
                    .with_stabilizer(bits & 1 == 0),
            )
        })
    }
}

impl From<Leap> for Method {
    fn from(leap: Leap) -> Self {
        Self::Leap(leap)
    }
}

impl From<Reptile> for Method {
    fn from(reptile: Reptile) -> Self {
        Self::Reptile(reptile)
    }
}

impl From<Anil> for Method {
    fn from(anil: Anil) -> Self {
        Self::Anil(anil)
    }
}

impl From<Boil> for Method {
    fn from(boil: Boil) -> Self {
        Self::Boil(boil)
    }
}

impl From<Maml> for Method {
    fn from(maml: Maml) -> Self {
        Self::Maml(maml)
    }
}

impl From<Shifting> for Method {
    fn from(shifting: Shifting) -> Self {
        Self::Shifting(shifting)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shifting(Shifting { pulled, .. }) => match pulled {
                Pulled::ByEnds => f.write_str("reptile-shifting"),
                Pulled::ByPaths(leap) => write!(f, "{}-shifting", Self::Leap(*leap)),
            },
            Self::Leap(leap) => {
                f.write_str("leap")?;
                let endings = [
                    (leap.norm == Norm::Energy, "-energy"),
                    (!leap.loss, "-noloss"),
                    (!leap.stabilizer, "-nostab"),
                ];
                endings
                    .iter()
                    .filter(|(on, _)| *on)
                    .try_for_each(|(_, ending)| f.write_str(ending))
            }
            Self::Reptile(_) => f.write_str("reptile"),
            Self::Fomaml(Fomaml { query: false }) => f.write_str("fomaml"),
            Self::Fomaml(Fomaml { query: true }) => f.write_str("fomaml-query"),
            Self::Anil(_) => f.write_str("anil"),
            Self::Boil(_) => f.write_str("boil"),
            Self::Maml(_) => f.write_str("maml"),
            Self::Finetuning(_) => f.write_str("finetuning"),
            Self::WarpLeap(_) => f.write_str("warp-leap"),
            Self::NoPretraining(_) => f.write_str("none"),
        }
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let others = [
            Self::Reptile(Reptile),
            Self::Fomaml(Fomaml::new()),
            Self::Fomaml(Fomaml::new().with_query(true)),
            Self::Anil(Anil::default()),
            Self::Boil(Boil::default()),
            Self::Maml(Maml::new()),
            Self::Finetuning(Finetuning),
            Self::Shifting(Shifting::reptile()),
            Self::WarpLeap(WarpLeap::default()),
            Self::NoPretraining(NoPretraining),
        ];
        let shifting = Self::leap_variants().filter_map(|variant| match variant {
            Self::Leap(leap) => Some(Self::Shifting(Shifting::leap(leap))),
            _ => None,
        });
        let mut all = Self::leap_variants().chain(shifting).chain(others);
        all.find(|method| method.to_string() == name).ok_or_else(|| {
            Error::InvalidSetting(format!(
                "there is no method `{name}`; there are leap, reptile, fomaml, fomaml-query, anil, boil, maml, \
                 finetuning, reptile-shifting, leap-shifting, warp-leap and none, and for leap the endings -energy, -noloss and -nostab, in this order"
            ))
        })
    }
}

impl TryFrom<String> for Method {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<Method> for String {
    fn from(method: Method) -> Self {
        method.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_methods() {
        let names = [
            "reptile",
            "fomaml",
            "fomaml-query",
            "anil",
            "boil",
            "maml",
            "finetuning",
            "reptile-shifting",
            "leap-shifting",
            "leap-energy-noloss-shifting",
            "warp-leap",
            "none",
        ];
        for name in names {
            assert_eq!(name.parse::<Method>().unwrap().to_string(), name);
        }
        let mut variants: Vec<String> = Method::leap_variants().map(|m| m.to_string()).collect();
        assert_eq!(variants[0], "leap");
        for (variant, name) in Method::leap_variants().zip(&variants) {
            assert_eq!(name.parse::<Method>().unwrap(), variant);
        }
        variants.sort();
        variants.dedup();
        assert_eq!(variants.len(), 8);
        let error = "leaf".parse::<Method>().unwrap_err().to_string();
        assert!(error.contains("fomaml-query"), "{error}");
    }
}
