//! A convolution without padding, then ReLU, on plain slices: products of filters with [shifted planes](super::planes).

// Loops that count are turned into vector instructions more often than iterators.
#![allow(clippy::needless_range_loop, clippy::manual_memcpy)]

mod backend;
mod backward;
mod forward;
mod geometry;

pub(super) use backend::ConvReluBackend;
