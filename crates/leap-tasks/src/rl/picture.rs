//! What an environment looks like.

use image::RgbImage;
use leap_core::TaskError;
use plotters::prelude::{
    BitMapBackend, Circle, Color, IntoDrawingArea, PathElement, RGBColor, WHITE,
};

/// Something that can be looked at.
pub trait Render {
    /// As it is now.
    fn render(&self) -> Picture;
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

/// Colours of strokes that the colour-blind can tell apart (Okabe and Ito); the first is that of ink.
const COLOURS: [RGBColor; 4] = [
    RGBColor(40, 40, 40),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
];

/// Width of a drawing, in pixels.
const WIDTH: u32 = 320;

impl Picture {
    /// The picture in pixels: as it is, or its strokes drawn 320 pixels wide.
    ///
    /// # Errors
    /// If the pixels are fewer or more than the size says.
    pub fn rasterize(&self) -> Result<RgbImage, TaskError> {
        let ([width, height], pixels) = match self {
            Self::Pixels { size, rgb } => (size.map(|side| side as u32), rgb.clone()),
            Self::Strokes { view, strokes } => draw(*view, strokes)?,
        };
        let image = RgbImage::from_raw(width, height, pixels);
        image.ok_or_else(|| format!("a picture of {width} x {height} has other pixels").into())
    }
}

fn draw(view: [f64; 4], strokes: &[Stroke]) -> Result<([u32; 2], Vec<u8>), TaskError> {
    let [left, right, bottom, top] = view;
    let scale = f64::from(WIDTH) / (right - left);
    let height = ((top - bottom) * scale) as u32;
    let mut pixels = vec![0; (WIDTH * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let place = |[x, y]: [f64; 2]| (((x - left) * scale) as i32, ((top - y) * scale) as i32);
        for stroke in strokes {
            let colour = COLOURS[stroke.colour % COLOURS.len()];
            let width = (stroke.width * scale).max(1.0);
            let points: Vec<_> = stroke.points.iter().map(|p| place(*p)).collect();
            match points[..] {
                [dot] => {
                    let radius = (width / 2.0).ceil() as i32;
                    area.draw(&Circle::new(dot, radius, colour.filled()))?;
                }
                _ => {
                    let style = colour.stroke_width(width.round() as u32);
                    area.draw(&PathElement::new(points, style))?;
                }
            }
        }
        area.present()?;
    }
    Ok(([WIDTH, height], pixels))
}
