//! The vector of a model's parameters, and the paths that training takes through its space.

pub(crate) mod copy;
pub(crate) mod figures;
pub(crate) mod meta_gradient;
pub(crate) mod norms;
pub(crate) mod params;
pub(crate) mod path;
pub(crate) mod reinitialize;
pub(crate) mod sum;
pub(crate) mod trace;
