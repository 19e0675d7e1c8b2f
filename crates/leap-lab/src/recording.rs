//! Recorded episodes, as animated pictures.

use std::time::Duration;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, DynamicImage, Frame, RgbImage};

use crate::error::Error;

/// An animated GIF of `pictures`, each shown for so many milliseconds.
///
/// # Errors
/// [`Error::Drawing`] if there is no picture, or their sizes differ.
pub fn animate(
    pictures: impl IntoIterator<Item = RgbImage>,
    milliseconds: u64,
) -> Result<Vec<u8>, Error> {
    let wrong = |reason: String| Error::drawing("recording", reason);
    let delay = Delay::from_saturating_duration(Duration::from_millis(milliseconds));
    let mut gif = Vec::new();
    let mut size = None;
    {
        let mut encoder = GifEncoder::new_with_speed(&mut gif, 10);
        let repeated = encoder.set_repeat(Repeat::Infinite);
        repeated.map_err(|error| wrong(error.to_string()))?;
        for picture in pictures {
            let first = *size.get_or_insert(picture.dimensions());
            if picture.dimensions() != first {
                return Err(wrong("its pictures have several sizes".into()));
            }
            let picture = DynamicImage::from(picture).into_rgba8();
            let encoded = encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay));
            encoded.map_err(|error| wrong(error.to_string()))?;
        }
    }
    match size {
        None => Err(wrong("there is no picture to show".into())),
        Some(_) => Ok(gif),
    }
}
