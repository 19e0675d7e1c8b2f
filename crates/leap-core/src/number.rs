//! Floats in JSON, which has neither NaN nor infinity: those are written as text, and read again.
//!
//! For `#[serde(with = "…")]`; formats that are not for humans have floats as they are.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.is_finite() || !to.is_human_readable() {
            true => to.serialize_f64(self.0),
            // NaN, inf, -inf
            false => to.serialize_str(&self.0.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a number, or `NaN`, `inf` or `-inf` as text")
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                text.parse().map(Number).map_err(E::custom)
            }
        }
        match from.is_human_readable() {
            true => from.deserialize_any(Any),
            false => f64::deserialize(from).map(Number),
        }
    }
}

/// A module for `#[serde(with = "…")]`, from and to what [`Number`] stands for in it.
macro_rules! with {
    ($name:ident: $floats:ty as $numbers:ty, $to:expr, $from:expr) => {
        pub(crate) mod $name {
            use super::*;

            pub fn serialize<S: Serializer>(floats: &$floats, to: S) -> Result<S::Ok, S::Error> {
                let to_numbers: fn(&$floats) -> $numbers = $to;
                to_numbers(floats).serialize(to)
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$floats, D::Error> {
                <$numbers>::deserialize(from).map($from)
            }
        }
    };
}

with!(one: f64 as Number, |v| Number(*v), |n| n.0);
with!(option: Option<f64> as Option<Number>, |v| v.map(Number), |n| n.map(|n| n.0));
with!(list: Vec<f64> as Vec<Number>, |v| v.iter().map(|v| Number(*v)).collect(), |n| {
    n.into_iter().map(|n| n.0).collect()
});
with!(options: Vec<Option<f64>> as Vec<Option<Number>>, |v| {
    v.iter().map(|v| v.map(Number)).collect()
}, |n| n.into_iter().map(|n| n.map(|n| n.0)).collect());
