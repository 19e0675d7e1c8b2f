//! A model's parameters as one vector: the space that paths run through.

use std::collections::HashMap;
use std::hash::Hasher;
use std::ops::{Add, Sub};
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor, TensorData};
use fnv::FnvHasher;

use crate::error::Error;

/// The parameters of a model that are meta-learned, in a fixed order.
///
/// A model's trainable floating-point parameters belong to it, as far as a [`ParamGroup`] matches
/// them; running statistics and frozen parameters do not. Parameters are known by their [`ParamId`],
/// which clones, optimizer steps and moves between devices keep.
#[derive(Debug)]
pub struct ParamSpace {
    params: Vec<SharedParam>,
    slots: HashMap<ParamId, usize>,
    /// Number of models that the parameters are of, one behind the other along the first dimension.
    stack: usize,
    /// Of the vectors. Half-precision values are widened: a path adds up many small segments.
    dtype: DType,
}

#[derive(Debug, PartialEq)]
struct SharedParam {
    id: ParamId,
    path: String,
    shape: Vec<usize>,
    dtype: DType,
}

impl SharedParam {
    fn renamed(&self, id: ParamId) -> Self {
        Self {
            id,
            path: self.path.clone(),
            shape: self.shape.clone(),
            dtype: self.dtype,
        }
    }

    fn num_values(&self) -> usize {
        self.shape.iter().product()
    }
}

impl ParamSpace {
    /// The space of those trainable parameters of `model` that `group` matches.
    ///
    /// # Errors
    /// [`Error::NothingShared`] if there is none, [`Error::TiedParameter`] if one is in two places of the model: Burn's
    /// optimizers move one of them only.
    pub fn new<M: Module>(model: &M, group: &ParamGroup) -> Result<Arc<Self>, Error> {
        struct Collect<'a> {
            group: &'a ParamGroup,
            path: Vec<String>,
            params: Vec<SharedParam>,
            tied: Option<Error>,
        }
        impl ModuleVisitor for Collect<'_> {
            fn enter_module(&mut self, name: &str, _container: &str) {
                self.path.push(name.to_string());
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.path.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let path = self.path.join(".");
                if param.is_require_grad() && self.group.matches(&param.id, Some(&path)) {
                    if let Some(first) = self.params.iter().find(|p| p.id == param.id) {
                        self.tied.get_or_insert(Error::TiedParameter {
                            first: first.path.clone(),
                            second: path,
                        });
                        return;
                    }
                    self.params.push(SharedParam {
                        id: param.id,
                        path,
                        shape: param.val().dims().to_vec(),
                        dtype: param.val().dtype(),
                    });
                }
            }
        }
        let mut collect = Collect {
            group,
            path: Vec::new(),
            params: Vec::new(),
            tied: None,
        };
        model.visit(&mut collect);
        if let Some(error) = collect.tied {
            return Err(error);
        }
        if collect.params.is_empty() {
            return Err(Error::NothingShared);
        }
        let slots = collect
            .params
            .iter()
            .enumerate()
            .map(|(slot, param)| (param.id, slot))
            .collect();
        let is_wide = |p: &SharedParam| p.dtype == DType::F64;
        Ok(Arc::new(Self {
            dtype: match collect.params.iter().any(is_wide) {
                true => DType::F64,
                false => DType::F32,
            },
            params: collect.params,
            slots,
            stack: 1,
        }))
    }

    /// The space of the parameters of so many models, [stacked](crate::stacking). Its vectors are theirs, one behind the
    /// other; what is one number for a vector is one for each of them.
    pub(crate) fn stacked(&self, models: usize) -> Arc<Self> {
        let params = self.params.iter().map(|p| {
            let mut param = p.renamed(p.id);
            if let Some(first) = param.shape.first_mut() {
                *first *= models;
            }
            param
        });
        Arc::new(Self {
            params: params.collect(),
            slots: self.slots.clone(),
            stack: models,
            dtype: self.dtype,
        })
    }

    /// The same space, with other ids for its parameters, of which `names` knows all.
    pub(crate) fn renamed(&self, names: &HashMap<ParamId, ParamId>) -> Arc<Self> {
        let name = |id: &ParamId| names.get(id).copied().unwrap_or(*id);
        let params: Vec<_> = self.params.iter().map(|p| p.renamed(name(&p.id))).collect();
        Arc::new(Self {
            slots: params
                .iter()
                .enumerate()
                .map(|(slot, p)| (p.id, slot))
                .collect(),
            params,
            stack: self.stack,
            dtype: self.dtype,
        })
    }

    /// The type of numbers in its vectors.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether some of the parameters are of half precision.
    pub(crate) fn is_half(&self) -> bool {
        let is_wide = |p: &SharedParam| matches!(p.dtype, DType::F32 | DType::F64);
        !self.params.iter().all(is_wide)
    }

    /// Ids and paths of the parameters.
    pub fn params(&self) -> impl Iterator<Item = (ParamId, &str)> {
        self.params.iter().map(|p| (p.id, p.path.as_str()))
    }

    /// How many numbers each parameter has.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.params.iter().map(SharedParam::num_values)
    }

    /// Number of scalar parameters.
    pub fn num_params(&self) -> usize {
        self.sizes().sum()
    }

    /// Paths of the parameters in the model, such as `encoder.blocks.0.conv.weight`.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|p| p.path.as_str())
    }

    /// The point of the space at which `model` is.
    ///
    /// # Errors
    /// [`Error::MissingParameter`] if the model has lost one of the parameters.
    pub fn point<M: Module>(self: &Arc<Self>, model: &M) -> Result<ParamVector, Error> {
        self.read(model, None)
    }

    /// The part of the space whose parameters `group` of `model` has, too.
    pub(crate) fn within<M: Module>(
        &self,
        model: &M,
        group: &ParamGroup,
    ) -> Result<Arc<Self>, Error> {
        let of = Self::new(model, group)?;
        let ids = self.params().map(|(id, _)| id);
        let kept = ids.filter(|id| of.params().any(|(own, _)| own == *id));
        Self::new(model, &ParamGroup::from_ids(kept.collect::<Vec<_>>()))
    }

    /// A vector of a part of the space, zero in the rest of it.
    pub(crate) fn embed(self: &Arc<Self>, part: ParamVector) -> ParamVector {
        if part.space.params.len() == self.params.len() {
            // It is all of the space, in the same order.
            return ParamVector {
                space: self.clone(),
                values: part.values,
            };
        }
        let mut parts: HashMap<ParamId, Tensor<1>> = {
            let ids = part.space.params.iter().map(|p| p.id);
            ids.zip(part.split()).collect()
        };
        let device = part.values.device();
        let tensors = self.params.iter().map(|param| {
            let zero = || Tensor::zeros([param.num_values()], (&device, self.dtype));
            parts.remove(&param.id).unwrap_or_else(zero)
        });
        ParamVector {
            space: self.clone(),
            values: self.join(tensors.collect()),
        }
    }

    /// The gradients of `model`'s parameters, zero where a parameter has none.
    ///
    /// # Errors
    /// [`Error::MissingParameter`] if the model has lost one of the parameters.
    pub fn gradient<M: Module>(
        self: &Arc<Self>,
        model: &M,
        grads: &GradientsParams,
    ) -> Result<ParamVector, Error> {
        self.read(model, Some(grads))
    }

    fn read<M: Module>(
        self: &Arc<Self>,
        model: &M,
        grads: Option<&GradientsParams>,
    ) -> Result<ParamVector, Error> {
        struct Read<'a> {
            space: &'a ParamSpace,
            grads: Option<&'a GradientsParams>,
            tensors: Vec<Option<Tensor<1>>>,
        }
        impl ModuleVisitor for Read<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let Some(&slot) = self.space.slots.get(&param.id) else {
                    return;
                };
                let tensor = match self.grads {
                    None => param.val().inner(),
                    Some(grads) => match grads.get::<D>(param.id) {
                        Some(grad) => grad.inner(),
                        None => param.val().inner().zeros_like(),
                    },
                };
                let flat = tensor.reshape([-1]);
                self.tensors[slot] = Some(match flat.dtype() == self.space.dtype {
                    true => flat,
                    false => flat.cast(self.space.dtype),
                });
            }
        }
        let mut read = Read {
            space: self,
            grads,
            tensors: vec![None; self.params.len()],
        };
        model.visit(&mut read);
        let tensors = read.tensors.into_iter().zip(&self.params);
        let tensors = tensors
            .map(|(tensor, param)| {
                tensor.ok_or_else(|| Error::MissingParameter {
                    path: param.path.clone(),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(ParamVector {
            space: self.clone(),
            values: self.join(tensors),
        })
    }

    /// A vector's values from those of its parameters.
    fn join(&self, tensors: Vec<Tensor<1>>) -> Tensor<1> {
        if self.stack == 1 {
            return Tensor::cat(tensors, 0);
        }
        let rows = tensors.into_iter();
        let rows = rows.map(|tensor| tensor.reshape([self.stack as i32, -1]));
        Tensor::cat(rows.collect(), 1).reshape([-1])
    }
}

/// Two spaces are equal if they have the same parameters in the same order.
impl PartialEq for ParamSpace {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || (self.stack == other.stack && self.params == other.params)
    }
}

/// A vector of a [`ParamSpace`]: a point, a gradient, a segment of a path.
///
/// It is one flat tensor, outside the autodiff graph, so that a path costs a handful of operations a
/// step however many parameters a model has. Sums and products of vectors of different spaces panic, as
/// do those of vectors on different devices.
#[derive(Clone, Debug)]
pub struct ParamVector {
    space: Arc<ParamSpace>,
    values: Tensor<1>,
}

impl ParamVector {
    /// The space that the vector belongs to.
    pub fn space(&self) -> &Arc<ParamSpace> {
        &self.space
    }

    /// The flat tensor of all values.
    pub fn values(&self) -> &Tensor<1> {
        &self.values
    }

    /// Applies `f`, which keeps the shape, to the flat tensor of all values.
    pub fn map(self, f: impl FnOnce(Tensor<1>) -> Tensor<1>) -> Self {
        let values = f(self.values);
        assert_eq!(values.dims(), [self.space.num_params()]);
        Self {
            space: self.space,
            values,
        }
    }

    /// The values of each parameter, flat, in the order of [`ParamSpace::params`].
    pub fn split(&self) -> Vec<Tensor<1>> {
        let sizes = self.space.sizes();
        let stack = self.space.stack;
        if stack == 1 {
            return self.values.clone().split_with_sizes(sizes.collect(), 0);
        }
        let rows: Tensor<2> = self.values.clone().reshape([stack as i32, -1]);
        let parts = rows.split_with_sizes(sizes.map(|size| size / stack).collect(), 1);
        parts.into_iter().map(|part| part.reshape([-1])).collect()
    }

    /// Applies `f` to the values of each parameter, flat, in the order of [`ParamSpace::params`].
    pub fn map_params(self, f: impl FnMut(Tensor<1>) -> Tensor<1>) -> Self {
        let parts = self.split().into_iter().map(f).collect();
        let space = self.space.clone();
        self.map(|_| space.join(parts))
    }

    /// The vector with each parameter's values multiplied by its factor, in the order of [`ParamSpace::params`].
    #[expect(
        clippy::expect_used,
        reason = "the factors are learning rates of the same space's parameters"
    )]
    pub(crate) fn scaled(self, factors: &[f64]) -> Self {
        let mut factors = factors.iter();
        self.map_params(|tensor| tensor * *factors.next().expect("a factor for each parameter"))
    }

    /// The vector times a scalar on the device, of shape `[1]`.
    pub fn scale(self, factor: &Tensor<1>) -> Self {
        match self.space.stack {
            1 => self.map(|values| values * factor.clone()),
            stack => self.map(|values| {
                let rows: Tensor<2> = values.reshape([stack as i32, -1]);
                (rows * factor.clone().reshape([-1, 1])).reshape([-1])
            }),
        }
    }

    /// The inner product, of shape `[1]`, on the device.
    pub fn dot(&self, other: &Self) -> Tensor<1> {
        self.check(other);
        let products = self.values.clone() * other.values.clone();
        match self.space.stack {
            1 => products.sum(),
            stack => {
                let rows: Tensor<2> = products.reshape([stack as i32, -1]);
                rows.sum_dim(1).reshape([-1])
            }
        }
    }

    /// The vectors of `space` that a vector of its [stacked](ParamSpace::stacked) form is made of.
    pub(crate) fn unstack(self, space: &Arc<ParamSpace>) -> Vec<Self> {
        let parts = self.values.split(space.num_params(), 0).into_iter();
        let vectors = parts.map(|values| Self {
            space: space.clone(),
            values,
        });
        vectors.collect()
    }

    fn check(&self, other: &Self) {
        assert!(
            self.space == other.space,
            "vectors of different parameter spaces"
        );
    }

    /// `model` with the vector as its parameters of the space; the others are left as they are.
    pub fn place<M: Module>(self, model: M) -> M {
        struct Place {
            space: Arc<ParamSpace>,
            tensors: Vec<Option<Tensor<1>>>,
        }
        impl ModuleMapper for Place {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let slot = self.space.slots.get(&param.id);
                let Some(tensor) = slot.and_then(|&slot| self.tensors[slot].take()) else {
                    return param;
                };
                param.map(|old| {
                    let new = tensor.cast(old.dtype()).reshape(old.dims());
                    let new = match old.is_autodiff() {
                        true => Tensor::from_inner(new),
                        false => new,
                    };
                    new.set_require_grad(old.is_require_grad())
                })
            }
        }
        model.map(&mut Place {
            tensors: self.split().into_iter().map(Some).collect(),
            space: self.space,
        })
    }

    /// The same vector on `device`.
    pub fn to_device(self, device: &Device) -> Self {
        self.map(|values| values.to_device(device))
    }

    /// The vector as gradients that a Burn optimizer takes.
    pub fn into_gradients(self) -> GradientsParams {
        /// Registers a flat tensor in the rank that its parameter has.
        macro_rules! register {
            ($grads:ident, $param:ident, $tensor:ident, $($rank:literal)*) => {
                match $param.shape.len() {
                    $($rank => {
                        let shape: [usize; $rank] = $param.shape[..].try_into().expect("rank matched");
                        $grads.register::<$rank>($param.id, $tensor.reshape(shape));
                    })*
                    rank => unreachable!("Burn has no parameters of rank {rank}"),
                }
            };
        }
        let mut grads = GradientsParams::new();
        for (param, tensor) in self.space.params.iter().zip(self.split()) {
            let tensor = tensor.cast(param.dtype);
            register!(grads, param, tensor, 1 2 3 4 5 6 7 8);
        }
        grads
    }

    /// The values with their precision, on the host.
    pub(crate) fn save(&self) -> Result<TensorData, Error> {
        fetch(&self.values)
    }

    /// The vector of `space` with such values, on `device`.
    pub(crate) fn restore(
        space: &Arc<ParamSpace>,
        saved: TensorData,
        device: &Device,
    ) -> Result<Self, Error> {
        if saved.shape().as_slice() != [space.num_params()] || saved.dtype() != space.dtype {
            return Err(Error::Saved(format!(
                "{} values are no vector of a space of {} parameters",
                saved.num_elements(),
                space.num_params()
            )));
        }
        Ok(Self {
            space: space.clone(),
            values: Tensor::from_data(saved, (device, space.dtype)),
        })
    }

    /// The same values in a space whose parameters have other ids.
    pub(crate) fn renamed(self, space: &Arc<ParamSpace>) -> Self {
        debug_assert_eq!(self.space.num_params(), space.num_params());
        Self {
            space: space.clone(),
            values: self.values,
        }
    }

    /// All values, in the order of the space's parameters, read back from the device.
    ///
    /// # Errors
    /// [`Error::ReadBack`] if the device does not deliver them.
    pub fn to_vec(&self) -> Result<Vec<f64>, Error> {
        read_back(self.values.clone())
    }
}

impl Add for ParamVector {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.check(&other);
        self.map(|values| values + other.values)
    }
}

impl Sub for ParamVector {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.check(&other);
        self.map(|values| values - other.values)
    }
}

/// The target of the log's line for each time that numbers are read back; the line is the device's name.
const READ_BACK: &str = "leap_core::read_back";

/// A flat tensor, on the host.
pub(crate) fn fetch(tensor: &Tensor<1>) -> Result<TensorData, Error> {
    log::trace!(target: READ_BACK, "{:?}", tensor.device());
    #[expect(clippy::disallowed_methods, reason = "here it is counted")]
    let data = tensor.clone().try_into_data();
    data.map_err(|error| Error::ReadBack(format!("{error:?}")))
}

/// The values of a flat tensor, on the host.
pub(crate) fn read_back(tensor: Tensor<1>) -> Result<Vec<f64>, Error> {
    Ok(fetch(&tensor)?.iter::<f64>().collect())
}

/// A hash of the values' bits.
pub(crate) fn digest(values: &[f64]) -> u64 {
    let mut hasher = FnvHasher::default();
    let bytes = values.iter().map(|value| value.to_bits().to_le_bytes());
    bytes.for_each(|bytes| hasher.write(&bytes));
    hasher.finish()
}
