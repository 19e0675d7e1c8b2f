//! What a forward pass keeps for the backward pass.

use crate::ops::buffer::Buffer;

use super::geometry::Geometry;

/// What a forward pass keeps for the backward pass.
#[derive(Debug)]
pub(in crate::ops) struct Saved {
    pub(super) geometry: Geometry,
    /// The input: transformed tiles `[chunk][position][tile][inputs]`, or as it was.
    pub(super) input: Buffer,
    /// The filters: as they were for transformed tiles, else `[tap][inputs][outputs]`.
    pub(super) filters: Buffer,
    /// Which of a window's four was the largest, `[tile][outputs]`.
    pub(super) winners: Buffer,
    /// The normalized windows, `[tile][outputs]`.
    pub(super) normalized: Buffer,
    pub(super) inverse_deviation: Vec<f32>,
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
}
