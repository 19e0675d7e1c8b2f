//! Random rotations, scalings and shifts.

use burn::config::Config;
use rand::Rng;

use crate::error::DataError;

/// A random affine change of an image, with the distribution of the authors' code (torchvision's
/// `RandomAffine` on PIL images, nearest neighbour).
///
/// What comes into the image from outside is 0.
#[derive(Config, Debug, PartialEq)]
pub struct RandomAffine {
    /// Rotation in degrees, drawn uniformly from this range.
    #[config(default = "[0.0, 360.0]")]
    pub degrees: [f64; 2],
    /// Shift in each direction, of up to this share of the side, in whole pixels.
    #[config(default = 0.2)]
    pub shift: f64,
    /// Scale, drawn uniformly from this range.
    #[config(default = "[0.8, 1.2]")]
    pub scale: [f64; 2],
}

impl RandomAffine {
    /// That the settings say something.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let is_range = |[low, high]: [f64; 2]| low.is_finite() && high.is_finite() && low <= high;
        let wrong = match () {
            () if !is_range(self.degrees) => "degrees: a range from a low number to a high one",
            () if !is_range(self.scale) || self.scale[0] <= 0.0 => {
                "scale: a range from a low number above 0 to a high one"
            }
            () if !(0.0..=1.0).contains(&self.shift) => "shift: a share in [0, 1]",
            () => return Ok(()),
        };
        Err(DataError::new("augmentation", wrong))
    }

    /// Appends the changed `image`, planes of `height` rows of `width` pixels, to `out`, as the numbers that each plane's
    /// bytes stand for.
    pub(super) fn apply(
        &self,
        image: &[u8],
        [height, width]: [usize; 2],
        values: &[[f32; 256]],
        rng: &mut impl Rng,
        out: &mut Vec<f32>,
    ) {
        let angle = rng
            .random_range(self.degrees[0]..=self.degrees[1])
            .to_radians();
        let mut shift = |side: usize| {
            let most = self.shift * side as f64;
            rng.random_range(-most..=most).round()
        };
        let (shift_x, shift_y) = (shift(width), shift(height));
        let scale = rng.random_range(self.scale[0]..=self.scale[1]);

        // From the centre of a pixel of the result back to a place in the image.
        let (sin, cos) = (angle.sin() / scale, angle.cos() / scale);
        let (centre_x, centre_y) = (width as f64 / 2.0, height as f64 / 2.0);
        let inside = |v: f64, side: usize| (v >= 0.0 && v < side as f64).then_some(v as usize);
        for (plane, values) in image.chunks_exact(height * width).zip(values) {
            for row in 0..height {
                let dy = row as f64 + 0.5 - centre_y - shift_y;
                for column in 0..width {
                    let dx = column as f64 + 0.5 - centre_x - shift_x;
                    let x = inside(cos * dx + sin * dy + centre_x, width);
                    let y = inside(cos * dy - sin * dx + centre_y, height);
                    let byte = match (x, y) {
                        (Some(x), Some(y)) => plane[y * width + x],
                        _ => 0,
                    };
                    out.push(values[usize::from(byte)]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leap_core::run_rng;

    /// Bytes stand for themselves.
    fn as_is() -> [f32; 256] {
        std::array::from_fn(|byte| byte as f32)
    }

    fn apply(affine: &RandomAffine, image: &[u8], size: usize) -> Vec<f32> {
        let mut out = Vec::new();
        affine.apply(
            image,
            [size; 2],
            &[as_is()],
            &mut run_rng(0, "test"),
            &mut out,
        );
        out
    }

    #[test]
    fn known_changes() {
        let none = RandomAffine::new()
            .with_degrees([0.0, 0.0])
            .with_shift(0.0)
            .with_scale([1.0, 1.0]);
        let image = [1, 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(apply(&none, &image, 3), image.map(f32::from));
        // A positive angle turns clockwise where rows go down: the corner (0, 0) goes to the right.
        let quarter = none.clone().with_degrees([90.0, 90.0]);
        assert_eq!(
            apply(&quarter, &image, 3),
            [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        );
        let half = none.with_scale([0.5, 0.5]);
        let shrunk = apply(&half, &[1; 16], 4);
        assert_eq!(shrunk.iter().sum::<f32>(), 4.0);
        assert_eq!(shrunk[5], 1.0);
    }

    #[test]
    fn most_of_a_random_image_stays() {
        let image = [1; 28 * 28];
        let mut out = Vec::new();
        let mut rng = run_rng(1, "test");
        for _ in 0..200 {
            RandomAffine::new().apply(&image, [28; 2], &[as_is()], &mut rng, &mut out);
        }
        let mean = out.iter().sum::<f32>() / out.len() as f32;
        assert!((0.6..0.9).contains(&mean), "{mean}");
    }
}
