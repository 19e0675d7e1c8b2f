//! Hard attention to the task: units of a network are lent to tasks by gates, and those that earlier tasks use are kept.
//!
//! Serrà, Surís, Miron, Karatzoglou: "Overcoming Catastrophic Forgetting with Hard Attention to the Task", ICML 2018,
//! [arXiv 1801.01423](https://arxiv.org/abs/1801.01423). The Leap paper compares with it in section 4.2.

use std::cell::Cell;
use std::sync::Arc;

use burn::config::Config;
use burn::module::{Module, Param, ParamId};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};
use leap_core::{
    Error, HeldOut, InnerLoop, Learned, LearningCurve, LearningPath, MetaLearner, ParamSpace,
    PathMeter, Predict, StepLoss, Task, TaskError,
};

use crate::conv_net::{ConvBlock, ConvNetConfig, with_outputs};
use crate::error::ModelError;

/// A [`ConvNet`](crate::ConvNet) whose filters have gates.
///
/// A task's gates and head are its own: meta-learn `encoder` alone
/// ([`with_shared`](leap_core::MetaTrainer::with_shared)).
#[derive(Module, Debug)]
pub struct HatNet {
    /// From images to features, and which of its filters are in use.
    pub encoder: HatEncoder,
    /// For each block, the task's embedding, of which the gates of its filters are made, as weights of shape `[1, filters]` (e in
    /// the paper).
    pub embeddings: Vec<Linear>,
    /// From features to classes.
    pub head: Linear,
    /// What embeddings are multiplied by, so that gates are soft or hard (s in the paper).
    pub scale: f64,
}

/// The part of a [`HatNet`] that tasks share.
#[derive(Module, Debug)]
pub struct HatEncoder {
    /// The blocks, from the image on.
    pub blocks: Vec<ConvBlock>,
    /// For each block, the cumulative attention: how much its filters are used by the tasks so far, in [0, 1], of shape
    /// `[filters]`. [`Hat`] moves it
    /// from one task to the next; nothing else does.
    pub cumulative: Vec<Param<Tensor<1>>>,
}

impl HatNet {
    /// The model on `device`: the network of `config`, which has max-pooling, with gates.
    ///
    /// # Errors
    /// [`ModelError`] as for the network.
    pub fn new(config: &ConvNetConfig, device: &Device) -> Result<Self, ModelError> {
        let net = config.clone().with_max_pool(true).init(device)?;
        let filters = |block: &ConvBlock| block.conv.weight.dims()[0];
        let unused = |block| Param::from_tensor(Tensor::zeros([filters(block)], device));
        let gates = |block| LinearConfig::new(1, filters(block)).with_bias(false);
        let blocks = &net.encoder.blocks;
        Ok(Self {
            embeddings: blocks.iter().map(|b| gates(b).init(device)).collect(),
            encoder: HatEncoder {
                cumulative: blocks.iter().map(unused).collect(),
                blocks: net.encoder.blocks,
            },
            head: net.head,
            scale: Hat::new().max_scale,
        })
    }

    /// From images of shape `[batch, channels, height, width]` to logits of shape `[batch, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let blocks = self.encoder.blocks.iter().zip(&self.embeddings);
        let x = blocks.fold(images, |x, (block, gates)| {
            let x = block.forward(x);
            let filters = x.dims()[1];
            x * gate(gates, self.scale).reshape([1, filters, 1, 1])
        });
        self.head.forward(x.flatten(1, 3))
    }

    /// With what the gates let through counted as used.
    fn with_used(mut self, max_scale: f64) -> Self {
        for (gates, used) in self.embeddings.iter().zip(&mut self.encoder.cumulative) {
            let gate = gate(gates, max_scale).inner();
            *used = used.clone().map(|used| {
                let more = used.inner().max_pair(gate);
                Tensor::from_inner(more).require_grad()
            });
        }
        self
    }
}

/// Where gates are made of more, they have next to no gradient left (section 2.5 of the paper, and the authors' code).
const FARTHEST: f64 = 6.0;

/// The gates of a block, in [0, 1], of shape `[filters]`. The gradient is that of weights within ±6, and goes on beyond.
fn gate(gates: &Linear, scale: f64) -> Tensor<1> {
    let e = gates.weight.val().flatten(0, 1);
    let beyond = e.clone().detach() - e.clone().detach().clamp(-FARTHEST, FARTHEST);
    sigmoid((e - beyond) * scale)
}

impl Predict<Tensor<4>> for HatNet {
    fn predict(&self, images: Tensor<4>) -> Tensor<2> {
        self.forward(images)
    }

    fn with_outputs(self, outputs: usize) -> Result<Self, TaskError> {
        let head = with_outputs(self.head, outputs);
        Ok(Self { head, ..self })
    }
}

/// A model that is, or may be, a [`HatNet`].
pub trait AsHat: Module {
    /// The network with gates, if it is one.
    fn as_hat(&mut self) -> Option<&mut HatNet>;
}

impl AsHat for HatNet {
    fn as_hat(&mut self) -> Option<&mut HatNet> {
        Some(self)
    }
}

/// Hard attention to the task, as a learner of tasks one after the other.
///
/// Gates are soft at the beginning of a period of steps and hard at its end (section 2.5 of the paper); weights between
/// filters that earlier tasks use do not move (section 2.3). With a meta-batch of one task and SGD with a learning rate of 1
/// as meta-optimizer, the network goes from task to task.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Hat {
    /// The scale of the hardest gates (s max in the paper).
    #[config(default = 400.0)]
    pub max_scale: f64,
    /// Weight of the regularization: what a task pays for filters that no other uses (c in the paper).
    #[config(default = 0.75)]
    pub regularization: f64,
    /// Steps from the softest gates to the hardest, an epoch in the paper.
    #[config(default = 300)]
    pub period: usize,
}

impl Default for Hat {
    fn default() -> Self {
        Self::new()
    }
}

/// Beyond it, a gate is open or closed for good.
const FAR: f64 = 50.0;

impl Hat {
    /// The scale at a step: annealed from the softest gates to the hardest (equation 3).
    pub(crate) fn scale(&self, step: usize) -> f64 {
        let last = self.period.saturating_sub(1).max(1);
        let along = (step % self.period.max(1)) as f64 / last as f64;
        let softest = self.max_scale.recip();
        softest + (self.max_scale - softest) * along
    }

    /// Leaves used weights alone (equation 2), adds the price's gradient (equation 5), and makes up for the small gradients of
    /// hard gates (equation 4).
    pub(crate) fn transform(
        &self,
        net: &HatNet,
        scale: f64,
        mut grads: GradientsParams,
    ) -> GradientsParams {
        let used = net.encoder.cumulative.iter().map(|used| used.val().inner());
        let used = Vec::from_iter(used);
        for (i, block) in net.encoder.blocks.iter().enumerate() {
            let out = &used[i];
            let [filters, channels, ..] = block.conv.weight.dims();
            let both = out.clone().reshape([filters, 1, 1, 1]);
            let both = match i.checked_sub(1) {
                None => both,
                Some(before) => {
                    let into = used[before].clone().reshape([1, channels, 1, 1]);
                    both.repeat_dim(1, channels)
                        .min_pair(into.repeat_dim(0, filters))
                }
            };
            multiply(&mut grads, block.conv.weight.id, both.neg() + 1.0);
            let bias = block.conv.bias.iter();
            let norm = block.norm.iter().flat_map(|norm| [&norm.gamma, &norm.beta]);
            for param in bias.chain(norm) {
                multiply(&mut grads, param.id, out.clone().neg() + 1.0);
            }
        }
        // What the loss would have to say of the price, c R, is said to the gates alone, so that losses stay comparable.
        let left = Vec::from_iter(used.into_iter().map(|used| used.neg() + 1.0));
        let sums = left.iter().map(|left| left.clone().sum());
        let Some(all) = sums.reduce(|a, b| a + b) else {
            return grads;
        };
        for (gates, left) in net.embeddings.iter().zip(left) {
            let Some(grad) = grads.remove::<2>(gates.weight.id) else {
                continue;
            };
            let e = gates.weight.val().inner();
            let near = e.clone().clamp(-FARTHEST, FARTHEST);
            let gate = gate(gates, scale).inner();
            let slope = gate.clone() * (gate.neg() + 1.0) * (self.regularization * scale);
            let price = slope * left / all.clone().clamp_min(1e-6);
            let grad = grad + price.unsqueeze_dim(0);
            let hard = (near.clone() * scale).clamp(-FAR, FAR).cosh() + 1.0;
            let makes_up = hard / (near.cosh() + 1.0) * (self.max_scale / scale);
            // Beyond, embeddings go back only.
            let is_out = e.clone().abs().greater_elem(FARTHEST);
            let stays = is_out.bool_and((e * grad.clone()).lower_elem(0.0));
            let grad = (grad * makes_up).mask_fill(stays, 0.0);
            grads.register(gates.weight.id, grad);
        }
        grads
    }
}

/// Multiplies a parameter's gradient, if it has one.
fn multiply<const D: usize>(grads: &mut GradientsParams, id: ParamId, by: Tensor<D>) {
    if let Some(grad) = grads.remove::<D>(id) {
        grads.register(id, grad * by);
    }
}

fn no_hat() -> Error {
    Error::InvalidSetting("hard attention needs a network with gates (`HatNet`)".into())
}

impl<M: AsHat> MetaLearner<M> for Hat {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        let start = space.point(&model)?;
        let mut path = PathMeter::new(space, true);
        let (mut model, curve) = self.adapt(inner, model, task, &mut path)?;
        let net = model.as_hat().ok_or_else(no_hat)?;
        *net = net.clone().with_used(self.max_scale);
        Ok(Learned {
            gradient: start - space.point(&model)?,
            model,
            curve,
            figures: path.figures(),
        })
    }

    fn adapt<T: Task<M>>(
        &self,
        inner: &InnerLoop,
        mut model: M,
        task: &mut T,
        path: &mut impl LearningPath,
    ) -> Result<(M, LearningCurve), TaskError> {
        // As it is looked at between two steps, and from now on.
        let net = model.as_hat().ok_or_else(no_hat)?;
        net.scale = self.max_scale;
        let scale = Cell::new(self.max_scale);
        let mut gated = Gated {
            hat: self,
            task,
            step: 0,
            scale: &scale,
        };
        inner.run_with(model, &mut gated, path, |model, grads| {
            let mut model = model.clone();
            let net = model.as_hat().ok_or_else(no_hat)?;
            Ok(self.transform(net, scale.get(), grads))
        })
    }
}

/// A task whose gates harden.
struct Gated<'a, T> {
    hat: &'a Hat,
    task: &'a mut T,
    step: usize,
    /// At the newest step.
    scale: &'a Cell<f64>,
}

impl<M: AsHat, T: Task<M>> Task<M> for Gated<'_, T> {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        self.scale.set(self.hat.scale(self.step));
        self.step += 1;
        let mut model = model.clone();
        let net = model.as_hat().ok_or_else(no_hat)?;
        net.scale = self.scale.get();
        self.task.loss(&model)
    }

    fn steps(&self) -> Option<usize> {
        self.task.steps()
    }

    fn validate(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        self.task.validate(model)
    }

    fn save(&mut self) -> Result<Option<Vec<u8>>, TaskError> {
        let saved = self.task.save()?;
        Ok(saved.map(|task| [&(self.step as u64).to_le_bytes(), &task[..]].concat()))
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), TaskError> {
        let (step, task) = saved.split_first_chunk().ok_or("it is cut off")?;
        self.step = u64::from_le_bytes(*step) as usize;
        self.task.restore(task)
    }
}
