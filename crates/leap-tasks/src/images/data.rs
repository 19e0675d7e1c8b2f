//! Labelled images in memory.

use std::hash::Hasher;

use burn::data::dataset::{Dataset, DatasetError};
use fnv::FnvHasher;
use image::DynamicImage;
use image::imageops::{FilterType, resize};
use leap_core::run_rng;
use rand::seq::SliceRandom;

use crate::error::DataError;

/// Images of one size, each with its class, in memory as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    shape: [usize; 3],
    /// Of all images, one behind the other.
    pixels: Vec<u8>,
    labels: Vec<usize>,
    classes: Vec<String>,
}

/// An image as it comes from a file or a [`Dataset`], before it is brought to a common size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Bytes by rows, pixels and channels, as in most files: shape `[height, width, channels]`.
    pub pixels: Vec<u8>,
    /// Height and width.
    pub size: [usize; 2],
    /// 1 is grey, 3 is red, green and blue.
    pub channels: usize,
    /// The number of its class, from 0.
    pub label: usize,
}

/// More bytes than a set may have, so that a damaged header cannot ask for more.
const LARGEST: usize = 1 << 35;

impl Images {
    /// No images yet, of shape `[channels, height, width]`, whose classes have names.
    ///
    /// # Errors
    /// [`DataError`] if a size is 0, or all are too large, or there are neither 1 nor 3 channels.
    pub fn new(shape: [usize; 3], classes: Vec<String>) -> Result<Self, DataError> {
        let bytes = shape.iter().try_fold(1_usize, |a, b| a.checked_mul(*b));
        if bytes.is_none_or(|bytes| bytes == 0 || bytes > LARGEST) || ![1, 3].contains(&shape[0]) {
            let reason = format!("images cannot be of shape {shape:?}: channels, height, width");
            return Err(DataError::new("images", reason));
        }
        Ok(Self {
            shape,
            pixels: Vec::new(),
            labels: Vec::new(),
            classes,
        })
    }

    /// Appends an image, as bytes of shape `[channels, height, width]`.
    ///
    /// # Errors
    /// [`DataError`] if it has not so many bytes, or no class has its label.
    pub fn push(&mut self, pixels: &[u8], label: usize) -> Result<(), DataError> {
        let wrong = |reason: String| Err(DataError::new("images", reason));
        let bytes = self.bytes();
        if pixels.len() != bytes {
            return wrong(format!("an image of {} bytes, not {bytes}", pixels.len()));
        }
        if self.pixels.len() + bytes > LARGEST {
            return wrong(format!("more than {LARGEST} bytes"));
        }
        if label >= self.classes.len() {
            let count = self.classes.len();
            return wrong(format!("the label {label}, but there are {count} classes"));
        }
        self.pixels.extend_from_slice(pixels);
        self.labels.push(label);
        Ok(())
    }

    /// All that is in a Burn [`Dataset`] whose items `sample` makes into images; they are brought to the shape
    /// `[channels, height, width]`.
    ///
    /// # Errors
    /// [`DataError`] if an item cannot be read, or is no image of these classes.
    pub fn from_dataset<I, D: Dataset<I, DatasetError>>(
        dataset: &D,
        shape: [usize; 3],
        classes: Vec<String>,
        sample: impl Fn(I) -> Sample,
    ) -> Result<Self, DataError> {
        let mut images = Self::new(shape, classes)?;
        for i in 0..dataset.len() {
            let place = format!("item {i} of the data set");
            let wrong = |reason: String| DataError::new(&place, reason);
            let item = dataset.get(i).map_err(|e| wrong(e.to_string()))?;
            let Sample {
                pixels,
                size,
                channels,
                label,
            } = sample(item);
            let image = decoded(pixels, size, channels)
                .ok_or_else(|| wrong(format!("no image of {size:?} with {channels} channels")))?;
            images.push(&brought_to(image, shape), label)?;
        }
        Ok(images)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Shape of an image: channels (1 or 3), height, width.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Names of the classes; the label of an image is the place of its class here.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Label of each image.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// An image's bytes, of shape `[channels, height, width]`; none of an image that there is not.
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.bytes();
        let range = index.saturating_mul(bytes)..index.saturating_add(1).saturating_mul(bytes);
        self.pixels.get(range).unwrap_or_default()
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product()
    }

    /// Indices of the images of each class, in their order.
    pub fn by_class(&self) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new(); self.classes.len()];
        for (i, label) in self.labels.iter().enumerate() {
            all[*label].push(i);
        }
        all
    }

    /// Splits the classes at random into disjoint lists of so many, by a seed. What is left over is the last list.
    ///
    /// # Errors
    /// [`DataError`] if there are not as many classes.
    pub fn split_classes(&self, counts: &[usize], seed: u64) -> Result<Vec<Vec<usize>>, DataError> {
        let mut order: Vec<usize> = (0..self.classes.len()).collect();
        let wanted = counts
            .iter()
            .fold(0, |sum: usize, n| sum.saturating_add(*n));
        if wanted > order.len() {
            let reason = format!("{wanted} classes were asked for, of {}", order.len());
            return Err(DataError::new("classes", reason));
        }
        order.shuffle(&mut run_rng(seed, "classes"));
        let mut rest = &order[..];
        let mut lists = Vec::new();
        for count in counts {
            let (list, others) = rest.split_at(*count);
            lists.push(list.to_vec());
            rest = others;
        }
        lists.push(rest.to_vec());
        Ok(lists)
    }

    /// The classes with these names, for splits that others have published.
    ///
    /// # Errors
    /// [`DataError`] names one that there is not.
    pub fn find_classes<S: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = S>,
    ) -> Result<Vec<usize>, DataError> {
        let find = |name: S| {
            let name = name.as_ref();
            let found = self.classes.iter().position(|class| class == name);
            found.ok_or_else(|| DataError::new(name, "there is no such class"))
        };
        names.into_iter().map(find).collect()
    }

    /// These classes alone, as other images: their labels are their places in `classes`.
    ///
    /// # Errors
    /// [`DataError`] if there is no such class.
    pub fn of_classes(&self, classes: &[usize]) -> Result<Self, DataError> {
        let name = |class: &usize| {
            let name = self.classes.get(*class).cloned();
            name.ok_or_else(|| DataError::new("classes", format!("there is no class {class}")))
        };
        let names = classes.iter().map(name).collect::<Result<_, _>>()?;
        let mut images = Self::new(self.shape, names)?;
        let by_class = self.by_class();
        for (label, class) in classes.iter().enumerate() {
            for i in &by_class[*class] {
                images.push(self.image(*i), label)?;
            }
        }
        Ok(images)
    }

    /// The same images and those turned by 90, 180 and 270 degrees, each turn of a class a class of its own, as papers on
    /// few-shot learning have it for Omniglot (Santoro et al., [arXiv 1605.06065](https://arxiv.org/abs/1605.06065)).
    ///
    /// # Errors
    /// [`DataError`] if the images are not square.
    pub fn with_rotations(&self) -> Result<Self, DataError> {
        let [channels, height, width] = self.shape;
        if height != width {
            let reason = format!("images of {height} x {width} cannot be turned");
            return Err(DataError::new("images", reason));
        }
        let turns = ["", " turned by 90", " turned by 180", " turned by 270"];
        let names = turns.iter().flat_map(|turn| {
            let names = self.classes.iter();
            names.map(move |name| format!("{name}{turn}"))
        });
        let mut images = Self::new(self.shape, names.collect())?;
        for turn in 0..turns.len() {
            for (i, label) in self.labels.iter().enumerate() {
                let turned = turned(self.image(i), channels, width, turn);
                images.push(&turned, turn * self.classes.len() + label)?;
            }
        }
        Ok(images)
    }

    /// Mean and standard deviation of each channel over some of the images, of values in [0, 1].
    pub fn statistics(&self, images: impl IntoIterator<Item = usize>) -> Vec<[f64; 2]> {
        let [channels, height, width] = self.shape;
        let plane = height * width;
        let (mut sums, mut count) = (vec![[0u64; 2]; channels], 0);
        for image in images {
            count += plane;
            for (plane, sums) in self.image(image).chunks_exact(plane).zip(&mut sums) {
                for pixel in plane {
                    sums[0] += u64::from(*pixel);
                    sums[1] += u64::from(*pixel).pow(2);
                }
            }
        }
        let of = |[sum, squares]: [u64; 2]| {
            let count = count.max(1) as f64;
            let mean = sum as f64 / count;
            let variance = (squares as f64 / count - mean.powi(2)).max(0.0);
            [mean / 255.0, variance.sqrt() / 255.0]
        };
        sums.into_iter().map(of).collect()
    }

    /// A number that is the same for the same images (FNV-1a), to tell whether files have changed.
    pub fn digest(&self) -> u64 {
        let mut digest = FnvHasher::default();
        let sides = self.shape.iter();
        sides.for_each(|side| digest.write(&side.to_le_bytes()));
        let names = self.classes.iter();
        names.for_each(|name| digest.write(name.as_bytes()));
        let labels = self.labels.iter();
        labels.for_each(|label| digest.write(&label.to_le_bytes()));
        digest.write(&self.pixels);
        digest.finish()
    }
}

/// A square image turned by so many quarters, clockwise.
fn turned(image: &[u8], channels: usize, side: usize, quarters: usize) -> Vec<u8> {
    let last = side - 1;
    let from = |row: usize, column: usize| match quarters {
        0 => (row, column),
        1 => (last - column, row),
        2 => (last - row, last - column),
        _ => (column, last - row),
    };
    let places = (0..channels * side * side).map(|i| {
        let (channel, row, column) = (i / (side * side), i / side % side, i % side);
        let (row, column) = from(row, column);
        channel * side * side + row * side + column
    });
    places.map(|place| image[place]).collect()
}

/// An image of bytes `[height, width, channels]`, if there are as many.
pub(super) fn decoded(
    pixels: Vec<u8>,
    [height, width]: [usize; 2],
    channels: usize,
) -> Option<DynamicImage> {
    let (height, width) = (u32::try_from(height).ok()?, u32::try_from(width).ok()?);
    if height == 0 || width == 0 {
        return None;
    }
    let bytes = (u64::from(height) * u64::from(width)).checked_mul(channels as u64)?;
    if bytes != pixels.len() as u64 {
        return None;
    }
    match channels {
        1 => image::GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8),
        3 => image::RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
        _ => None,
    }
}

/// The image's bytes in the shape `[channels, height, width]`: resized (bilinear, over all pixels that become one), its
/// colours made grey or its grey repeated. What is transparent shows a white ground.
pub(super) fn brought_to(image: DynamicImage, [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let (width, height) = (width as u32, height as u32);
    let image = match image.color().has_alpha() {
        true => DynamicImage::ImageRgb8(on_white(&image)),
        false => image,
    };
    match channels {
        1 => {
            let mut image = image.into_luma8();
            if image.dimensions() != (width, height) {
                image = resize(&image, width, height, FilterType::Triangle);
            }
            image.into_raw()
        }
        _ => {
            let mut image = image.into_rgb8();
            if image.dimensions() != (width, height) {
                image = resize(&image, width, height, FilterType::Triangle);
            }
            let pixels = image.into_raw();
            let plane = |channel: usize| pixels.iter().skip(channel).step_by(3);
            (0..3).flat_map(plane).copied().collect()
        }
    }
}

fn on_white(image: &DynamicImage) -> image::RgbImage {
    let image = image.to_rgba8();
    image::RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, opacity] = image.get_pixel(x, y).0.map(u32::from);
        let shown = |light: u32| ((light * opacity + 255 * (255 - opacity) + 127) / 255) as u8;
        image::Rgb([shown(red), shown(green), shown(blue)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::data::dataset::InMemDataset;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| i.to_string()).collect()
    }

    #[test]
    fn a_quarter_turns_clockwise() {
        let mut images = Images::new([1, 2, 2], names(1)).unwrap();
        images.push(&[1, 2, 3, 4], 0).unwrap();
        let turned = images.with_rotations().unwrap();
        assert_eq!(turned.classes()[1], "0 turned by 90");
        let expected: [&[u8]; 4] = [&[1, 2, 3, 4], &[3, 1, 4, 2], &[4, 3, 2, 1], &[2, 4, 1, 3]];
        for (i, expected) in expected.into_iter().enumerate() {
            assert_eq!((turned.image(i), turned.labels()[i]), (expected, i));
        }
        assert!(
            Images::new([1, 2, 3], names(1))
                .unwrap()
                .with_rotations()
                .is_err()
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for shape in [[0, 2, 2], [2, 2, 2], [1, 0, 2]] {
            assert!(Images::new(shape, names(1)).is_err());
        }
        let mut images = Images::new([1, 2, 2], names(2)).unwrap();
        assert!(images.push(&[0; 3], 0).is_err());
        assert!(images.push(&[0; 4], 2).is_err());
        assert!(images.split_classes(&[2, 1], 0).is_err());
        assert!(images.find_classes(["0", "9"]).is_err());
        assert!(images.of_classes(&[2]).is_err());
        assert_eq!(images.find_classes(["1"]).unwrap(), [1]);
        assert_eq!(images.image(7), &[] as &[u8]);
    }

    #[test]
    fn classes_are_split_disjointly_and_by_the_seed() {
        let images = Images::new([1, 1, 1], names(10)).unwrap();
        let lists = images.split_classes(&[5, 2], 1).unwrap();
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [5, 2, 3]);
        let mut all = lists.concat();
        all.sort();
        assert_eq!(all, Vec::from_iter(0..10));
        assert_eq!(images.split_classes(&[5, 2], 1).unwrap(), lists);
        assert_ne!(images.split_classes(&[5, 2], 2).unwrap(), lists);
    }

    #[test]
    fn burn_data_sets_become_images() {
        let items = vec![
            (vec![0u8, 100, 200, 255], 1usize),
            (vec![10, 10, 10, 10], 0),
        ];
        let dataset = InMemDataset::new(items);
        let sample = |(pixels, label)| Sample {
            pixels,
            size: [2, 2],
            channels: 1,
            label,
        };
        let images = Images::from_dataset(&dataset, [3, 2, 2], names(2), sample).unwrap();
        assert_eq!(images.labels(), [1, 0]);
        assert_eq!(images.image(0), [0, 100, 200, 255].repeat(3));
        // One pixel for all four.
        let small = Images::from_dataset(&dataset, [1, 1, 1], names(2), sample).unwrap();
        assert_eq!((small.image(0), small.image(1)), (&[139][..], &[10][..]));
        let wrong = |(pixels, label)| Sample {
            size: [3, 3],
            ..sample((pixels, label))
        };
        let error = Images::from_dataset(&dataset, [1, 2, 2], names(2), wrong).unwrap_err();
        assert!(error.to_string().contains("item 0"), "{error}");

        let statistics = images.statistics(0..2);
        let mean = (0.0 + 100.0 + 200.0 + 255.0 + 40.0) / 8.0;
        assert!((statistics[2][0] - mean / 255.0).abs() < 1e-12);
        let one = images.statistics([1])[0];
        assert!((one[0] - 10.0 / 255.0).abs() < 1e-12 && one[1] < 1e-6);
        let of = images.of_classes(&[1]).unwrap();
        assert_eq!(
            (of.len(), of.labels()[0], of.image(0)),
            (1, 0, images.image(0))
        );
    }

    #[test]
    fn what_is_transparent_is_white() {
        let image = image::RgbaImage::from_raw(2, 1, vec![0, 0, 0, 0, 255, 0, 0, 255]).unwrap();
        let image = DynamicImage::ImageRgba8(image);
        assert_eq!(brought_to(image, [3, 1, 2]), [255, 255, 255, 0, 255, 0]);
    }
}
