//! The models of several tasks as one of the same type.

use std::collections::HashMap;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::Unstackable;
use crate::space::copy::task_copy;

/// A tensor of floating-point numbers of a model: a parameter or a running statistic.
#[derive(Clone, Debug)]
pub(crate) struct FloatTensor {
    pub dims: Vec<usize>,
    pub is_trainable: bool,
    path: String,
}

/// A layer of batch-normalization: where its running mean and variance are among a model's [`Floats`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchNormLayer {
    pub mean: usize,
    pub variance: usize,
    pub is_training: bool,
}

/// The tensors of floating-point numbers of a model, in the order in which they are visited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Floats {
    pub tensors: Vec<FloatTensor>,
    pub norms: Vec<BatchNormLayer>,
}

impl Floats {
    pub fn of<M: Module>(model: &M) -> Self {
        #[derive(Default)]
        struct Visit {
            tensors: Vec<FloatTensor>,
            /// Whether a layer is in training mode, by its path.
            training: HashMap<String, bool>,
            path: Vec<String>,
        }
        impl ModuleVisitor for Visit {
            fn enter_module(&mut self, name: &str, _container: &str) {
                self.path.push(name.to_string());
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.path.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.tensors.push(FloatTensor {
                    dims: param.val().dims().to_vec(),
                    is_trainable: param.is_require_grad(),
                    path: self.path.join("."),
                });
            }
            fn visit_flag(&mut self, flag: &Param<Flag>) {
                if let Some((_, layer)) = self.path.split_last() {
                    let layer = layer.join(".");
                    self.training.insert(layer, flag.val().is_enabled());
                }
            }
        }
        let mut visit = Visit::default();
        model.visit(&mut visit);
        let Visit {
            tensors, training, ..
        } = visit;
        let place = |path: String| tensors.iter().position(|tensor| tensor.path == path);
        let norms = tensors.iter().enumerate().filter_map(|(mean, tensor)| {
            let layer = tensor.path.strip_suffix("running_mean")?;
            Some(BatchNormLayer {
                mean,
                variance: place(format!("{layer}running_var"))?,
                is_training: training.get(layer.trim_end_matches('.')).copied()?,
            })
        });
        let norms = norms.collect();
        Self { tensors, norms }
    }

    /// Whether another model's tensors are like these.
    pub fn fits(&self, other: &Self) -> bool {
        let like = |(a, b): (&FloatTensor, &FloatTensor)| {
            (&a.dims, &a.path, a.is_trainable) == (&b.dims, &b.path, b.is_trainable)
        };
        self.tensors.len() == other.tensors.len()
            && self.tensors.iter().zip(&other.tensors).all(like)
    }
}

/// A model's tensors of floating-point numbers, flat and without autodiff, in the order in which they are visited.
pub(crate) fn flat_floats<M: Module>(model: &M) -> Vec<Tensor<1>> {
    struct Read(Vec<Tensor<1>>);
    impl ModuleVisitor for Read {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().inner().reshape([-1]));
        }
    }
    let mut read = Read(Vec::new());
    model.visit(&mut read);
    read.0
}

/// A copy of `model` with other tensors, flat, of so many times its own along the first dimension.
pub(crate) fn with_floats<M: Module>(model: &M, floats: Vec<Tensor<1>>, times: usize) -> M {
    struct Place {
        floats: std::vec::IntoIter<Tensor<1>>,
        times: usize,
    }
    impl ModuleMapper for Place {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(new) = self.floats.next() else {
                return param;
            };
            let times = self.times;
            param.map(|old| {
                let mut dims = old.dims();
                dims[0] *= times;
                let new = new.reshape(dims);
                let new = match old.is_autodiff() {
                    true => Tensor::from_inner(new),
                    false => new,
                };
                new.set_require_grad(old.is_require_grad())
            })
        }
    }
    let floats = floats.into_iter();
    task_copy(model).map(&mut Place { floats, times })
}

/// One model whose tensors are those of `models`, one behind the other along the first dimension, with the ids of the first.
pub(crate) fn stack<M: Module>(models: &[M], floats: &Floats) -> Result<M, Unstackable> {
    let [first, ..] = models else {
        return Err(Unstackable::new("no task at all"));
    };
    if models.iter().any(|model| !floats.fits(&Floats::of(model))) {
        return Err(Unstackable::these("models of different shapes"));
    }
    let rows = models.iter().map(|model| flat_floats(model).into_iter());
    let mut rows = Vec::from_iter(rows);
    let columns = (0..floats.tensors.len()).map(|_| {
        let parts = rows.iter_mut().filter_map(Iterator::next).collect();
        Tensor::cat(parts, 0)
    });
    let columns = Vec::from_iter(columns);
    Ok(with_floats(first, columns, models.len()))
}

/// The model of task `index`, from the flat tensors of a stacked one, with the ids of `like`.
pub(crate) fn unstack<M: Module>(floats: &[Tensor<1>], index: usize, tasks: usize, like: &M) -> M {
    let own = floats.iter().map(|column| {
        let size = column.dims()[0] / tasks;
        column.clone().narrow(0, index * size, size)
    });
    with_floats(like, own.collect(), 1)
}
