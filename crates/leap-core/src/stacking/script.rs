//! A step that was recorded, to be played.

use std::collections::HashMap;

use burn::backend::ir::{BaseOperationIr, OperationIr, TensorId};
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Shape, Tensor};

use super::Unstackable;
use super::conv::{Geometry, Tables};
use super::play::{BatchStatistics, Constant, Normalization, Player, Types};
use super::record::Record;
use super::stack::BatchNormLayer;

pub(super) type Constants = Vec<(TensorId, Constant)>;

/// A step to be played.
pub(super) struct Script {
    pub tasks: usize,
    pub device: Device,
    pub types: Types,
    pub record: Record,
    /// Layers of batch-normalization with running mean and variance, of shape `[tasks * channels]`.
    pub norms: Vec<(BatchNormLayer, [Tensor<1>; 2])>,
    pub tables: HashMap<Geometry, Tables>,
}

/// What came of a step.
#[derive(Clone, Debug)]
pub(super) struct Played {
    /// Of shape `[tasks]`.
    pub loss: Tensor<1>,
    pub accuracy: Option<Tensor<1>>,
    /// Mean and variance of the batch at each layer of batch-normalization, of shape `[tasks * channels]`.
    pub statistics: Vec<Option<[Tensor<1>; 2]>>,
}

impl Played {
    pub fn map(self, of: impl Fn(Tensor<1>) -> Tensor<1>) -> Self {
        let statistics = self.statistics.into_iter();
        Self {
            loss: of(self.loss),
            accuracy: self.accuracy.map(&of),
            statistics: statistics
                .map(|pair| pair.map(|pair| pair.map(&of)))
                .collect(),
        }
    }
}

impl Script {
    /// Plays the step on a model, which is the tasks' models stacked, and their batches.
    pub fn play<M: Module>(
        &mut self,
        model: &M,
        constants: Constants,
    ) -> Result<Played, Unstackable> {
        struct Bind<'a> {
            player: &'a mut Player,
            tasks: usize,
            ids: std::slice::Iter<'a, Option<TensorId>>,
        }
        impl ModuleVisitor for Bind<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let Some(id) = self.ids.next().copied().flatten() else {
                    return;
                };
                let mut dims = param.val().dims().to_vec();
                dims[0] /= self.tasks;
                dims.insert(0, self.tasks);
                let tensor = param.val().into_dispatch();
                let tensor = Dispatch::float_reshape(tensor, Shape::from(dims));
                self.player.bind(id, tensor);
            }
        }
        let (tasks, record) = (self.tasks, &self.record);
        let norms = self.norms.iter().filter_map(|(norm, [mean, variance])| {
            let of = |t: &Tensor<1>| Tensor::<1>::from_inner(t.clone()).into_dispatch();
            let how = match norm.is_training {
                true => Normalization::Batch,
                false => Normalization::Running(Box::new([of(mean), of(variance)])),
            };
            Some((record.floats[norm.mean]?, how))
        });
        let mut player = Player::new(tasks, &self.device, self.types, norms.collect());
        player.tables = std::mem::take(&mut self.tables);
        model.visit(&mut Bind {
            player: &mut player,
            tasks,
            ids: record.floats.iter(),
        });
        for (id, constant) in constants {
            player.bind_constant(id, constant);
        }
        let bound: Vec<TensorId> = record.floats.iter().flatten().copied().collect();
        for operation in &record.operations {
            // Parameters have their values.
            let fills = match operation {
                OperationIr::BaseFloat(BaseOperationIr::Zeros(op)) => Some(op.out.id),
                _ => None,
            };
            if fills.is_none_or(|id| !bound.contains(&id)) {
                player.play(operation)?;
            }
        }
        let scalar = |tensor: DispatchTensor| {
            let flat = Dispatch::float_reshape(tensor, Shape::new([tasks]));
            Tensor::<1>::from_dispatch(flat)
        };
        let loss = scalar(player.value(&record.loss)?);
        let accuracy = record.accuracy.as_ref().map(|a| player.value(a));
        let accuracy = accuracy.transpose()?.map(scalar);
        let statistics = self.norms.iter().map(|(norm, _)| {
            let id = record.floats[norm.mean]?;
            let BatchStatistics { mean, variance } = player.statistics.remove(&id)?;
            Some([mean, variance].map(Tensor::<1>::from_dispatch))
        });
        let statistics = statistics.collect();
        self.tables = player.tables;
        Ok(Played {
            loss,
            accuracy,
            statistics,
        })
    }

    /// The step with its gradients.
    pub fn step<M: Module>(
        &mut self,
        model: &M,
        constants: Constants,
    ) -> Result<(Played, GradientsParams), Unstackable> {
        let played = self.play(model, constants)?;
        let grads = GradientsParams::from_grads(played.loss.clone().backward(), model);
        Ok((played.map(Tensor::inner), grads))
    }
}
