//! What an environment looks like.

/// Something that can be looked at.
pub trait Draw {
    /// As it is now.
    fn picture(&self) -> Picture;
}

/// A picture, for recordings of an episode.
#[derive(Clone, Debug, PartialEq)]
pub enum Picture {
    /// Red, green and blue of each pixel, row after row.
    Pixels {
        /// Width and height.
        size: [usize; 2],
        /// `width * height * 3` values.
        rgb: Vec<u8>,
    },
    /// Strokes in a plane.
    Strokes {
        /// What is in view: left, right, bottom, top.
        view: [f64; 4],
        /// The strokes, the hindmost first.
        strokes: Vec<Stroke>,
    },
}

/// A line through some points, or a dot at a single one.
#[derive(Clone, Debug, PartialEq)]
pub struct Stroke {
    /// The points.
    pub points: Vec<[f64; 2]>,
    /// Width of the line, in the units of the plane.
    pub width: f64,
    /// Number of a colour; 0 is that of ink.
    pub colour: usize,
}

impl Stroke {
    /// A stroke.
    pub fn new(points: &[[f64; 2]], width: f64, colour: usize) -> Self {
        Self {
            points: points.to_vec(),
            width,
            colour,
        }
    }
}
