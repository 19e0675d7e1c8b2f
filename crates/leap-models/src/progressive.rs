//! Progressive networks: a column for each task, which sees what the columns before it found, and leaves them alone.
//!
//! Rusu, Rabinowitz, Desjardins, Soyer, Kirkpatrick, Kavukcuoglu, Pascanu, Hadsell: "Progressive Neural Networks",
//! [arXiv 1606.04671](https://arxiv.org/abs/1606.04671). The Leap paper compares with it in section 4.2.
//!
//! Here the head sees the features of its own column alone, and adapters have no learned scale before their nonlinearity (α
//! in section 2.1), as convolution and normalization scale what they see.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use leap_core::{
    Error, InnerLoop, Learned, LearningCurve, LearningPath, MetaLearner, ParamSpace, PathMeter,
    Predict, Task, TaskError,
};

use crate::conv_net::{ConvBlock, ConvNetConfig, with_outputs};
use crate::error::ModelError;
use crate::fast;

/// Columns of convolution blocks, each for a task, and the head of the task at hand.
///
/// The head is a task's own: meta-learn `encoder` alone ([`with_shared`](leap_core::MetaTrainer::with_shared)).
#[derive(Module, Debug)]
pub struct ProgressiveNet {
    /// The columns, from the first task on.
    pub encoder: Columns,
    /// From the features of the column in training to classes.
    pub head: Linear,
}

/// The part of a [`ProgressiveNet`] that tasks share.
#[derive(Module, Debug)]
pub struct Columns {
    /// The columns.
    pub columns: Vec<Column>,
    /// How many of them have been trained, of shape `[1]`. [`ProgressiveNets`] counts; nothing else does.
    pub finished: Param<Tensor<1>>,
    /// The place of the column in training; those before it are left as they are.
    pub active: usize,
}

/// A task's column.
#[derive(Module, Debug)]
pub struct Column {
    /// The blocks, from the image on. Those behind the first take what the adapter gives as further channels, so that one
    /// convolution is W h + U a (equation 2 of the paper).
    pub blocks: Vec<ConvBlock>,
    /// For each block behind the first: from the channels of all columns before this one to those of one, by 1 x 1
    /// convolutions and ReLU (section 2.1). None in the first column.
    pub adapters: Vec<Conv2d>,
}

impl ProgressiveNet {
    /// A network of `columns` columns on `device`, each the encoder of `config`, which has max-pooling.
    ///
    /// # Errors
    /// [`ModelError`] as for the network, or if there is no column.
    pub fn new(
        config: &ConvNetConfig,
        columns: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        if columns == 0 {
            return Err(ModelError::new(
                "a progressive network needs a column".into(),
            ));
        }
        let config = config.clone().with_max_pool(true);
        let net = config.init(device)?;
        let filters = config.filters;
        let column = |place: usize| Column {
            blocks: (0..config.layers)
                .map(|layer| match (layer, place) {
                    (0, _) => config.block(config.channels, device),
                    (_, 0) => config.block(filters, device),
                    _ => config.block(2 * filters, device),
                })
                .collect(),
            adapters: (1..config.layers)
                .filter(|_| place > 0)
                .map(|_| Conv2dConfig::new([place * filters, filters], [1, 1]).init(device))
                .collect(),
        };
        Ok(Self {
            encoder: Columns {
                columns: (0..columns).map(column).collect(),
                finished: Param::from_tensor(Tensor::zeros([1], device)),
                active: 0,
            },
            head: net.head,
        })
    }

    /// From images of shape `[batch, channels, height, width]` to logits of shape `[batch, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.encoder.forward(images))
    }
}

impl Columns {
    /// From images of shape `[batch, channels, height, width]` to the features of the column in training, of shape
    /// `[batch, features]`. No gradient reaches the columns before it; only their normalization follows the task.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let active = self.active.min(self.columns.len() - 1);
        // Without a graph, which nothing would go back along; their running statistics are shared by the copies.
        let frozen = self.columns[..active].to_vec().no_grad();
        let column = &self.columns[active];
        // What each column before this one found, layer by layer.
        let mut found: Vec<Tensor<4>> = vec![images.clone(); active];
        let mut x = images;
        for layer in 0..column.blocks.len() {
            x = column.forward(layer, x, &found);
            if layer + 1 == column.blocks.len() {
                break; // Nothing asks for the last features of the others.
            }
            let next = |(place, column): (usize, &Column)| {
                let here = found[place].clone();
                column.forward(layer, here, &found[..place])
            };
            found = frozen.iter().enumerate().map(next).collect();
        }
        x.flatten(1, 3)
    }
}

impl Column {
    /// A layer, given what it and the columns before it found in the layer below.
    fn forward(&self, layer: usize, x: Tensor<4>, before: &[Tensor<4>]) -> Tensor<4> {
        let adapter = layer
            .checked_sub(1)
            .and_then(|layer| self.adapters.get(layer));
        let x = match adapter {
            None => x,
            Some(adapter) => {
                let seen = relu(fast::conv2d(adapter, Tensor::cat(before.to_vec(), 1)));
                Tensor::cat(vec![x, seen], 1)
            }
        };
        self.blocks[layer].forward(x)
    }
}

impl Predict<Tensor<4>> for ProgressiveNet {
    fn predict(&self, images: Tensor<4>) -> Tensor<2> {
        self.forward(images)
    }

    fn with_outputs(self, outputs: usize) -> Result<Self, TaskError> {
        let head = with_outputs(self.head, outputs);
        Ok(Self { head, ..self })
    }
}

/// A model that is, or may be, a [`ProgressiveNet`].
pub trait AsProgressive: Module {
    /// The network of columns, if it is one.
    fn as_progressive(&mut self) -> Option<&mut ProgressiveNet>;
}

impl AsProgressive for ProgressiveNet {
    fn as_progressive(&mut self) -> Option<&mut ProgressiveNet> {
        Some(self)
    }
}

/// Progressive networks, as a learner of tasks one after the other: each trains the next column.
///
/// With a meta-batch of one task and SGD with a learning rate of 1 as meta-optimizer, the network goes from task to task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressiveNets;

/// The network with its next column in training.
fn next_column<M: AsProgressive>(model: &mut M) -> Result<&mut ProgressiveNet, Error> {
    let wrong = "progressive networks need a network of columns (`ProgressiveNet`)";
    let net = model.as_progressive();
    let net = net.ok_or_else(|| Error::InvalidSetting(wrong.into()))?;
    let finished = net.encoder.finished.val().inner().into_scalar::<f32>();
    net.encoder.active = finished.round() as usize;
    match net.encoder.active < net.encoder.columns.len() {
        true => Ok(net),
        false => Err(Error::InvalidSetting(format!(
            "all {} columns have been trained: a progressive network needs one for each task",
            net.encoder.columns.len()
        ))),
    }
}

impl<M: AsProgressive> MetaLearner<M> for ProgressiveNets {
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
        let net = next_column(&mut model)?;
        net.encoder.finished = net.encoder.finished.clone().map(|finished| {
            let more = finished.inner() + 1.0;
            Tensor::from_inner(more).require_grad()
        });
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
        next_column(&mut model)?;
        inner.run(model, task, path)
    }
}
