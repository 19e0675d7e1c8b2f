//! Convolutions of all tasks as one product of matrices for each.
//!
//! Burn's convolution with a group for each task is not made for many groups: on a GPU, each output is summed up by a thread
//! of its own, and the gradient of the weights is taken group by group. Here the numbers that a filter is laid over are
//! copied into a matrix (*im2col*), by a table of where each comes from, and the convolution is a product (Chellapilla, Puri
//! and Simard: "High Performance Convolutional Neural Networks for Document Processing", 2006), and so are both gradients.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::ConvOptions;
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{
    Autodiff, Backend, Dispatch, DispatchTensor, TensorMetadata, backend_extension,
};
use burn::tensor::{Bool, Device, Int, Shape, Tensor, TensorData};

/// What a convolution is of, but for channels and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Geometry {
    images: usize,
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    before: [usize; 2],
    dilation: [usize; 2],
}

impl Geometry {
    /// That of images of shape `[images, channels, height, width]`, or `[images, channels, width]`.
    pub fn new<const D: usize>(
        x: &Shape,
        weight: &Shape,
        y: &Shape,
        options: &ConvOptions<D>,
    ) -> Self {
        // What has no height has that of 1.
        let both = |own: &[usize], one| [if D == 2 { own[0] } else { one }, own[D - 1]];
        let before = options.padding.map(|(before, _)| before);
        Self {
            images: x[0],
            input: both(&x[2..], 1),
            output: both(&y[2..], 1),
            kernel: both(&weight[2..], 1),
            stride: both(&options.stride, 1),
            before: both(&before, 0),
            dilation: both(&options.dilation, 1),
        }
    }

    /// Where the input lies that a number of the filter is laid upon, at a place of the output.
    fn input_at(&self, dim: usize, filter: usize, output: usize) -> Option<usize> {
        let at = output * self.stride[dim] + filter * self.dilation[dim];
        let at = at.checked_sub(self.before[dim])?;
        (at < self.input[dim]).then_some(at)
    }

    /// Where in the output a number of the filter is laid upon a place of the input.
    fn output_at(&self, dim: usize, filter: usize, input: usize) -> Option<usize> {
        let at = (input + self.before[dim]).checked_sub(filter * self.dilation[dim])?;
        let stride = self.stride[dim];
        (at.is_multiple_of(stride) && at / stride < self.output[dim]).then_some(at / stride)
    }

    /// For each number of the filter, image and place of the one side, the place in the images of the other.
    fn table(
        &self,
        [here, there]: [[usize; 2]; 2],
        at: impl Fn(usize, usize, usize) -> Option<usize>,
    ) -> Vec<Option<usize>> {
        let [rows, columns] = [0, 1].map(|dim| {
            let filter = 0..self.kernel[dim];
            let places = filter.map(|k| Vec::from_iter((0..here[dim]).map(|i| at(dim, k, i))));
            Vec::from_iter(places)
        });
        let mut table = Vec::new();
        for rows in &rows {
            for columns in &columns {
                for image in 0..self.images {
                    for row in rows {
                        let row = row.map(|row| (image * there[0] + row) * there[1]);
                        let places = columns.iter().map(|column| Some(row? + (*column)?));
                        table.extend(places);
                    }
                }
            }
        }
        table
    }
}

/// How many terms more than sums there are where the gradient of weights is taken image by image.
const IMAGES_APART: usize = 8;

/// From where in a row of images the numbers of a matrix are copied, and which of them are zero, since they lie outside of the
/// image.
#[derive(Clone, Debug)]
struct Table {
    places: DispatchTensor,
    outside: DispatchTensor,
}

impl Table {
    fn new(table: Vec<Option<usize>>, device: &Device) -> Self {
        let outside = Vec::from_iter(table.iter().map(Option::is_none));
        let outside = TensorData::new(outside, [1, table.len()]);
        let places = table.into_iter().map(|place| place.unwrap_or(0) as i32);
        let places = TensorData::from(&Vec::from_iter(places)[..]);
        Self {
            places: Tensor::<1, Int>::from_data(places, device).into_dispatch(),
            outside: Tensor::<2, Bool>::from_data(outside, device).into_dispatch(),
        }
    }
}

/// The tables of a convolution and of the gradient of its input.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    images: usize,
    forward: Table,
    backward: Table,
}

impl Tables {
    pub fn new(of: &Geometry, device: &Device) -> Self {
        let forward = of.table([of.output, of.input], |d, k, at| of.input_at(d, k, at));
        let backward = of.table([of.input, of.output], |d, k, at| of.output_at(d, k, at));
        Self {
            images: of.images,
            forward: Table::new(forward, device),
            backward: Table::new(backward, device),
        }
    }

    /// The convolution of `x`, `[groups * channels, images * places]`, with filters
    /// `[groups, filters, channels * size of a filter]`: of shape `[groups, filters, images * places]`.
    pub fn conv(&self, x: DispatchTensor, weight: DispatchTensor) -> DispatchTensor {
        let [forward, backward] = [&self.forward, &self.backward].map(Clone::clone);
        Dispatch::product_conv(
            x,
            weight,
            forward.places,
            forward.outside,
            backward.places,
            backward.outside,
            self.images,
        )
    }
}

#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    Autodiff
)]
pub(super) trait ProductConv: Backend {
    fn product_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        places: IntTensor<Self>,
        outside: BoolTensor<Self>,
        _back_places: IntTensor<Self>,
        _back_outside: BoolTensor<Self>,
        _images: usize,
    ) -> FloatTensor<Self> {
        let [groups, _, size] = weight.shape().dims();
        Self::float_matmul(
            weight,
            columns::<Self>(x, [groups, size], (places, outside)),
        )
    }
}

#[cfg(feature = "cube")]
impl ProductConv for burn::backend::Cube {}

#[cfg(feature = "flex")]
impl ProductConv for burn::backend::Flex {}

/// What each filter, of `size` numbers, is laid over, `[groups, size, places]`.
///
/// A mask makes the zeros. With a column of zeros for the table to point to there is less to write, but on an H100, where the
/// first meta-step takes half a minute to compile and tune kernels, it then took more than one and a half.
fn columns<B: Backend>(
    x: FloatTensor<B>,
    [groups, size]: [usize; 2],
    (places, outside): (IntTensor<B>, BoolTensor<B>),
) -> FloatTensor<B> {
    let copied = Shape::new([x.shape()[0], places.shape()[0]]);
    let count = copied.num_elements() / (groups * size);
    let columns = B::float_select(x, 1, places);
    let columns = B::float_mask_fill(columns, B::bool_expand(outside, copied), 0.0.into());
    B::float_reshape(columns, Shape::new([groups, size, count]))
}

#[derive(Debug)]
struct ProductConvBackward;

#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    forward: (IntTensor<B>, BoolTensor<B>),
    backward: (IntTensor<B>, BoolTensor<B>),
    images: usize,
}

impl<B: Backend> Backward<B, 2> for ProductConvBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let saved = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let [of_x, of_weight] = ops.parents;
        if let Some(parent) = of_weight {
            grads.register::<B>(parent.id, weight_gradient::<B>(&saved, dy.clone()));
        }
        if let Some(parent) = of_x {
            grads.register::<B>(parent.id, input_gradient::<B>(saved, dy));
        }
    }
}

fn weight_gradient<B: Backend>(saved: &Saved<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
    let [groups, filters, size] = saved.weight.shape().dims();
    let columns = columns::<B>(saved.x.clone(), [groups, size], saved.forward.clone());
    let count = columns.shape()[2];
    // Few sums of very many terms keep little of a GPU busy: then each image has its own.
    let images = match filters * size * IMAGES_APART < count {
        true => saved.images,
        false => 1,
    };
    let apart = |t, rows| {
        let parts = Shape::new([groups, rows, images, count / images]);
        B::float_permute(B::float_reshape(t, parts), &[0, 2, 1, 3])
    };
    let columns = B::float_swap_dims(apart(columns, size), 2, 3);
    let gradient = B::float_matmul(apart(dy, filters), columns);
    let gradient = match images {
        1 => gradient,
        _ => B::float_sum_dim(gradient, 1),
    };
    B::float_reshape(gradient, saved.weight.shape())
}

/// The filters are laid over the output's gradient.
fn input_gradient<B: Backend>(saved: Saved<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
    let [groups, filters, size] = saved.weight.shape().dims();
    let channels = saved.x.shape()[0] / groups;
    let turned = size / channels;
    let parts = Shape::new([groups, filters, channels, turned]);
    let weight = B::float_permute(B::float_reshape(saved.weight, parts), &[0, 2, 1, 3]);
    let weight = B::float_reshape(weight, Shape::new([groups, channels, filters * turned]));
    let places = dy.shape()[2];
    let dy = B::float_reshape(dy, Shape::new([groups * filters, places]));
    let columns = columns::<B>(dy, [groups, filters * turned], saved.backward);
    B::float_reshape(B::float_matmul(weight, columns), saved.x.shape())
}

impl<B: ProductConv, C: CheckpointStrategy> ProductConv for Autodiff<B, C> {
    fn product_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        places: IntTensor<Self>,
        outside: BoolTensor<Self>,
        back_places: IntTensor<Self>,
        back_outside: BoolTensor<Self>,
        images: usize,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let saved = Saved::<B> {
            x: x.into_primitive(),
            weight: weight.into_primitive(),
            forward: (places, outside),
            backward: (back_places, back_outside),
            images,
        };
        let (x, weight) = (saved.x.clone(), saved.weight.clone());
        let [(places, outside), (back_places, back_outside)] =
            [&saved.forward, &saved.backward].map(Clone::clone);
        let y = B::product_conv(
            x,
            weight,
            places,
            outside,
            back_places,
            back_outside,
            images,
        );
        let prepared = Backward::<B, 2>::prepare::<C>(ProductConvBackward, nodes);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[cfg(all(test, feature = "flex"))]
#[expect(clippy::disallowed_methods, reason = "a test reads what comes out")]
mod tests {
    use burn::tensor::module::conv2d;
    use rand::Rng;

    use super::*;
    use crate::run_rng;

    /// Result and gradients, with Burn's own backward pass and as a product of matrices.
    #[test]
    fn gradients_are_burns() {
        let rng = &mut run_rng(0, "numbers");
        let mut random = |dims: Vec<usize>| {
            let count = dims.iter().product::<usize>();
            let values = Vec::from_iter((0..count).map(|_| rng.random_range(-1.0..1.0)));
            TensorData::new::<f32, _>(values, dims)
        };
        let device = Device::flex().autodiff();
        let options = |stride, padding, dilation, groups| {
            ConvOptions::new_with_padding(stride, padding, dilation, groups)
        };
        let same = [(1, 1), (1, 1)];
        let none = [(0, 0), (0, 0)];
        for (batch, channels, filters, [height, width], kernel, options) in [
            (2, 3, 4, [5, 6], [3, 3], options([1, 1], same, [1, 1], 3)),
            (2, 1, 2, [7, 5], [3, 1], options([1, 1], none, [1, 1], 2)),
            (1, 2, 3, [8, 9], [3, 3], options([2, 3], same, [1, 1], 2)),
            (
                3,
                2,
                1,
                [9, 9],
                [2, 3],
                options([1, 1], [(2, 0), (1, 3)], [2, 1], 4),
            ),
            (2, 2, 2, [6, 6], [1, 1], options([1, 1], same, [1, 1], 3)),
            (2, 1, 1, [6, 7], [3, 3], options([2, 2], same, [2, 1], 5)),
        ] {
            let groups = options.groups;
            let x = random(vec![batch, groups * channels, height, width]);
            let weight = random(vec![groups * filters, channels, kernel[0], kernel[1]]);
            let run = |own: bool| {
                let x = Tensor::<4>::from_data(x.clone(), &device).require_grad();
                let weight = Tensor::<4>::from_data(weight.clone(), &device).require_grad();
                let options = options.clone();
                let y = conv2d(x.clone(), weight.clone(), None, options.clone());
                let y = match own {
                    false => y,
                    true => {
                        let [x_of, weight_of, y_of] = [&x, &weight, &y].map(|t| t.shape());
                        let geometry = Geometry::new(&x_of, &weight_of, &y_of, &options);
                        let tables = Tables::new(&geometry, &device);
                        let x = x
                            .clone()
                            .swap_dims(0, 1)
                            .reshape([groups * channels, batch * height * width]);
                        let weight = weight.clone().reshape([
                            groups,
                            filters,
                            channels * kernel[0] * kernel[1],
                        ]);
                        let own = tables.conv(x.into_dispatch(), weight.into_dispatch());
                        let [images, all, height, width] = y.dims();
                        let own = Tensor::<3>::from_dispatch(own);
                        let own = own.reshape([all, images, height, width]);
                        own.swap_dims(0, 1)
                    }
                };
                let grads = y.clone().powi_scalar(2).sum().backward();
                let gradients = [x.grad(&grads), weight.grad(&grads)];
                let gradients = gradients.map(|gradient| gradient.unwrap().into_data());
                [&[y.into_data()], &gradients[..]].concat()
            };
            let (own, burns) = (run(true), run(false));
            for (own, burns) in own.iter().zip(&burns) {
                assert_eq!(own.shape(), burns.shape(), "{options:?}");
                for (a, b) in own.iter::<f32>().zip(burns.iter::<f32>()) {
                    assert!((a - b).abs() < 1e-4, "{options:?}: {a} for {b}");
                }
            }
        }
    }
}
