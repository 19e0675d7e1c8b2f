//! Sizes of a convolution, and how images, filters and gradients are laid out for it.

use crate::ops::planes::{LANES, ROWS, pack};

/// Images that are taken at a time: a fixed number, so that sums do not depend on the number of threads, and few enough for
/// a core's cache.
const IMAGES_AT_A_TIME: usize = 4;

/// Filters as [`pack`] lays them out, and the shifts of the planes that their floats are multiplied with.
pub(super) type Filters = (Vec<[f32; ROWS]>, Vec<usize>);

/// Sizes of a convolution.
///
/// A group of images is laid out as planes, `[inputs][stride][stride][group][…]`, in which the images follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Images at a time.
    pub(super) group: usize,
    inputs: usize,
    height: usize,
    width: usize,
    pub(super) outputs: usize,
    /// Of the filters.
    side: usize,
    stride: usize,
}

impl Geometry {
    pub(super) fn new(x: &[usize], weight: &[usize], stride: usize) -> Self {
        let geometry = Self {
            group: x[0].min(IMAGES_AT_A_TIME),
            inputs: x[1],
            height: x[2],
            width: x[3],
            outputs: weight[0],
            side: weight[2],
            stride,
        };
        assert_eq!(
            weight[1..],
            [x[1], weight[2], weight[2]],
            "filters of {x:?}"
        );
        assert!(stride > 0 && geometry.side <= geometry.height.min(geometry.width));
        geometry
    }

    /// Height and width of the result.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.height, self.width].map(|side| (side - self.side) / self.stride + 1)
    }

    /// Outputs of a filter in an image.
    pub(super) fn pixels(&self) -> usize {
        self.size().iter().product()
    }

    /// Floats in an image.
    pub(super) fn image(&self) -> usize {
        self.inputs * self.height * self.width
    }

    /// Floats in a filter.
    pub(super) fn filter(&self) -> usize {
        self.inputs * self.side * self.side
    }

    /// Number of planes.
    pub(super) fn planes(&self) -> usize {
        self.inputs * self.stride * self.stride
    }

    /// Width of a plane. Results lie in rows of this width too, with something of no use behind each.
    pub(super) fn columns(&self) -> usize {
        self.width.div_ceil(self.stride)
    }

    /// Floats of an image in a plane.
    pub(super) fn step(&self) -> usize {
        self.height.div_ceil(self.stride) * self.columns()
    }

    /// Floats of a plane.
    fn plane(&self) -> usize {
        self.group * self.step()
    }

    /// Floats of a filter's results in so many images, from the first to the last that counts, in whole vectors.
    pub(super) fn length(&self, images: usize) -> usize {
        let [rows, columns] = self.size();
        let last = (images - 1) * self.step() + (rows - 1) * self.columns();
        (last + columns).next_multiple_of(LANES)
    }

    /// Where in the planes the first output finds what each float of a filter is multiplied with.
    pub(super) fn shifts(&self) -> Vec<usize> {
        let (side, s) = (self.side, self.stride);
        let shift = |k: usize| {
            let (c, y, x) = (k / (side * side), k / side % side, k % side);
            let plane = (c * s + y % s) * s + x % s;
            plane * self.plane() + y / s * self.columns() + x / s
        };
        (0..self.filter()).map(shift).collect()
    }

    /// Where, in planes that begin `apart` floats after one another, the rows of an image begin.
    fn places(&self, apart: usize) -> Vec<usize> {
        let s = self.stride;
        let place = |i: usize| {
            let (c, y) = (i / self.height, i % self.height);
            (c * s + y % s) * s * apart + y / s * self.columns()
        };
        (0..self.inputs * self.height).map(place).collect()
    }

    /// Floats of a group's planes, and of what a vector reads behind the last.
    pub(super) fn all_planes(&self) -> usize {
        self.planes() * self.plane() + LANES
    }

    /// Lays out up to a group of images as planes.
    #[inline(always)]
    pub(super) fn split(&self, images: &[f32], planes: &mut [f32]) {
        let (s, apart) = (self.stride, self.plane());
        // Where there is no pixel, there is not to be "not a number" either.
        match images.len() + LANES == planes.len() {
            true => planes[images.len()..].fill(0.0),
            false => planes.fill(0.0),
        }
        let (places, step) = (self.places(apart), self.step());
        for (i, image) in images.chunks_exact(self.image()).enumerate() {
            for (row, place) in image.chunks_exact(self.width).zip(&places) {
                let planes = &mut planes[place + i * step..];
                match (s, self.width % s) {
                    (1, _) => split_row::<1>(row, planes, apart),
                    (2, 0) => split_row::<2>(row, planes, apart),
                    (4, 0) => split_row::<4>(row, planes, apart),
                    _ => {
                        for (x, pixel) in row.iter().enumerate() {
                            planes[x % s * apart + x / s] = *pixel;
                        }
                    }
                }
            }
        }
    }

    /// The reverse of [`split`](Self::split), for planes that begin `apart` floats after one another.
    #[inline(always)]
    pub(super) fn join(&self, planes: &[f32], apart: usize, images: &mut [f32]) {
        let s = self.stride;
        let (places, step) = (self.places(apart), self.step());
        for (i, image) in images.chunks_exact_mut(self.image()).enumerate() {
            for (row, place) in image.chunks_exact_mut(self.width).zip(&places) {
                let planes = &planes[place + i * step..];
                match (s, self.width % s) {
                    (1, _) => join_row::<1>(planes, apart, row),
                    (2, 0) => join_row::<2>(planes, apart, row),
                    (4, 0) => join_row::<4>(planes, apart, row),
                    _ => {
                        for (x, pixel) in row.iter_mut().enumerate() {
                            *pixel = planes[x % s * apart + x / s];
                        }
                    }
                }
            }
        }
    }

    /// Results of all filters for so many images, with what lies between rows.
    pub(super) fn results(&self, images: usize) -> usize {
        self.outputs * self.length(images)
    }

    /// Zeros before the gradients of a filter's results, for a backward pass; there are more between and behind its rows.
    pub(super) fn lead(&self) -> usize {
        (self.side.div_ceil(self.stride) - 1) * (self.columns() + 1)
    }

    /// Floats of the gradients of a filter's results, with all these zeros.
    pub(super) fn frame(&self) -> usize {
        self.lead() + self.plane().next_multiple_of(LANES)
    }

    /// The filters that make the gradients of the planes from such frames, and where in them each float of a filter begins.
    pub(super) fn backward_filters(&self, weight: &[f32]) -> Filters {
        let (s, reach) = (self.stride, self.side.div_ceil(self.stride));
        let places = reach * reach;
        let filters = pack(self.planes(), self.outputs * places, |plane, k| {
            let (output, place, input) = (k / places, k % places, plane / (s * s));
            let y = place / reach * s + plane / s % s;
            let x = place % reach * s + plane % s;
            match y < self.side && x < self.side {
                true => weight[((output * self.inputs + input) * self.side + y) * self.side + x],
                false => 0.0,
            }
        });
        let shift = |k: usize| {
            let (output, place) = (k / places, k % places);
            let back = place / reach * self.columns() + place % reach;
            output * self.frame() + self.lead() - back
        };
        (filters, (0..self.outputs * places).map(shift).collect())
    }
}

#[inline(always)]
fn split_row<const STRIDE: usize>(row: &[f32], planes: &mut [f32], apart: usize) {
    let pixels = row.as_chunks::<STRIDE>().0;
    for px in 0..STRIDE {
        let plane = &mut planes[px * apart..][..pixels.len()];
        for x in 0..pixels.len() {
            plane[x] = pixels[x][px];
        }
    }
}

#[inline(always)]
fn join_row<const STRIDE: usize>(planes: &[f32], apart: usize, row: &mut [f32]) {
    let pixels = row.as_chunks_mut::<STRIDE>().0;
    for px in 0..STRIDE {
        let plane = &planes[px * apart..][..pixels.len()];
        for x in 0..pixels.len() {
            pixels[x][px] = plane[x];
        }
    }
}
