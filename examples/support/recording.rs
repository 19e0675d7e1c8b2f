//! Recorded episodes, as animated pictures.

use anyhow::Result;
use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, RgbImage};
use leap_tasks::rl::Picture;
use plotters::prelude::*;
use std::time::Duration;

use crate::figures::COLOURS;

/// Width of a drawing, in pixels.
const WIDTH: u32 = 320;

/// An animated GIF of an episode's pictures, each shown for so many milliseconds.
///
/// # Errors
/// If there is no picture, or their sizes differ.
pub fn animate(pictures: &[Picture], milliseconds: u64) -> Result<Vec<u8>> {
    anyhow::ensure!(!pictures.is_empty(), "there is no picture to show");
    let mut gif = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut gif, 10);
        encoder.set_repeat(Repeat::Infinite)?;
        let delay = Delay::from_saturating_duration(Duration::from_millis(milliseconds));
        for picture in pictures {
            let image = image::DynamicImage::from(rasterize(picture)?).into_rgba8();
            encoder.encode_frame(Frame::from_parts(image, 0, 0, delay))?;
        }
    }
    Ok(gif)
}

fn rasterize(picture: &Picture) -> Result<RgbImage> {
    let (width, height, pixels) = match picture {
        Picture::Pixels { size, rgb } => (size[0] as u32, size[1] as u32, rgb.clone()),
        Picture::Strokes { view, strokes } => {
            let [left, right, bottom, top] = *view;
            let scale = f64::from(WIDTH) / (right - left);
            let height = ((top - bottom) * scale) as u32;
            let mut pixels = vec![0; (WIDTH * height * 3) as usize];
            {
                let area = BitMapBackend::with_buffer(&mut pixels, (WIDTH, height));
                let area = area.into_drawing_area();
                area.fill(&WHITE)?;
                let place =
                    |[x, y]: [f64; 2]| (((x - left) * scale) as i32, ((top - y) * scale) as i32);
                for stroke in strokes {
                    let colour = match stroke.colour {
                        0 => RGBColor(40, 40, 40),
                        n => COLOURS[(n - 1) % COLOURS.len()],
                    };
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
            (WIDTH, height, pixels)
        }
    };
    let image = RgbImage::from_raw(width, height, pixels);
    image.ok_or_else(|| anyhow::anyhow!("a picture of {width} x {height} has other pixels"))
}
