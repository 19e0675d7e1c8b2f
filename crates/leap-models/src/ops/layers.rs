//! How convolution and normalization hang in Burn, one by one: a backend extension, and their backward passes.

#![allow(deprecated)] // Burn prefers flex to ndarray; the latter is served as long as it is there.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata, backend_extension};

use super::backend::{data, images, register, tensor};
use super::buffer::Buffer;
use super::kernel::{Conv, Norm, SavedConv, SavedNorm};

/// Layers on a backend whose tensors are in the host's memory. Images are `[batch, height, width, channels]`.
#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Autodiff)]
pub(crate) trait LayersBackend: Backend {
    /// The convolution.
    fn conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        conv: Conv,
    ) -> FloatTensor<Self> {
        convolve::<Self>(x, weight, bias, conv).0
    }

    /// The normalization and what is behind it, with mean and biased variance of the batch, by which it normalizes.
    fn norm_train(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        norm: Norm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (y, mean, variance, _) = normalize::<Self>(x, gamma, beta, norm, None);
        (y, mean, variance)
    }

    /// The same by the given mean and variance.
    fn norm_evaluate(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self> {
        normalize::<Self>(x, gamma, beta, norm, Some((mean, variance))).0
    }
}

#[cfg(feature = "flex")]
impl LayersBackend for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl LayersBackend for burn::backend::NdArray {}

/// What a layer's forward pass keeps for its backward pass.
trait Saved: std::fmt::Debug + Send + Sync + 'static {
    /// The gradients of the input, if it is wanted, and of two parameters, given that of the result.
    fn backward(&self, dy: &[f32], x_wanted: bool) -> (Option<Buffer>, Vec<f32>, Vec<f32>);
}

impl Saved for SavedConv {
    fn backward(&self, dy: &[f32], x_wanted: bool) -> (Option<Buffer>, Vec<f32>, Vec<f32>) {
        self.backward(dy, x_wanted)
    }
}

impl Saved for SavedNorm {
    fn backward(&self, dy: &[f32], x_wanted: bool) -> (Option<Buffer>, Vec<f32>, Vec<f32>) {
        self.backward(dy, x_wanted)
    }
}

#[derive(Debug)]
struct LayerBackward<S>(Arc<S>);

impl<B: Backend, S: Saved> Backward<B, 3> for LayerBackward<S> {
    /// Shapes of input and parameters, and where they are.
    type State = ([Vec<usize>; 3], B::Device);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([of_x, of_first, of_second], device) = ops.state;
        let dy = data::<B>(grads.consume::<B>(&ops.node));
        let (dx, first, second) = self.0.backward(&dy, ops.parents[0].is_some());
        let all = [
            dx.map(|dx| images::<B>(dx, of_x, &device)),
            Some(tensor::<B>(first, of_first, &device)),
            Some(tensor::<B>(second, of_second, &device)),
        ];
        register!(B, ops.parents, all, grads);
    }
}

impl<B: LayersBackend, C: CheckpointStrategy> LayersBackend for Autodiff<B, C> {
    fn conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        conv: Conv,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let device = x.primitive().device();
        let shapes = [&x, &weight, &bias].map(|t| t.primitive().shape().to_vec());
        let [x, weight, bias] = [x, weight, bias].map(|t| t.into_primitive());
        let (y, saved) = convolve::<B>(x, weight, bias, conv);
        let layer = LayerBackward(Arc::new(saved));
        match layer.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((shapes, device), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn norm_train(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        norm: Norm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [x.node(), gamma.node(), beta.node()];
        let device = x.primitive().device();
        let shapes = [&x, &gamma, &beta].map(|t| t.primitive().shape().to_vec());
        let [x, gamma, beta] = [x, gamma, beta].map(|t| t.into_primitive());
        let (y, mean, variance, saved) = normalize::<B>(x, gamma, beta, norm, None);
        let layer = LayerBackward(Arc::new(saved));
        let y = match layer.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((shapes, device), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, Self::from_inner(mean), Self::from_inner(variance))
    }
}

fn convolve<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    conv: Conv,
) -> (FloatTensor<B>, SavedConv) {
    let device = x.device();
    let [x, weight, bias] = [x, weight, bias].map(data::<B>);
    let (y, saved) = conv.forward(x, &weight, &bias);
    let [rows, columns] = conv.size;
    let shape = vec![conv.batch, rows, columns, conv.outputs];
    (images::<B>(y, shape, &device), saved)
}

fn normalize<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    norm: Norm,
    running: Option<(FloatTensor<B>, FloatTensor<B>)>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, SavedNorm) {
    let device = x.device();
    let [x, gamma, beta] = [x, gamma, beta].map(data::<B>);
    let running = running.map(|(mean, variance)| (data::<B>(mean), data::<B>(variance)));
    let running = running.as_ref();
    let running = running.map(|(mean, variance)| (&**mean, &**variance));
    let (y, mean, variance, saved) = norm.forward(x, &gamma, &beta, running);
    let [rows, columns] = norm.size();
    let vector = |values| tensor::<B>(values, vec![norm.channels], &device);
    (
        images::<B>(y, vec![norm.batch, rows, columns, norm.channels], &device),
        vector(mean),
        vector(variance),
        saved,
    )
}
