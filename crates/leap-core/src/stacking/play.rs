//! The rules by which a recorded step is played for several tasks at once.
//!
//! A tensor of the record has one dimension more when it is played, the tasks, which comes first: elementwise operations are
//! as they were, others act on the dimension behind. Convolutions and normalization have another layout, in which the tasks
//! lie side by side as channels, and these come first, `[tasks * channels, batch, ..]`: each channel is a row, and nothing is
//! moved between a convolution and the normalization, pooling and elementwise operations that follow it.

use std::collections::HashMap;

use burn::backend::ir::{
    ActivationOperationIr, BaseOperationIr, BatchNormOpIr, BoolOperationIr, CatOpIr, ClampOpIr,
    FloatOperationIr, GatherOpIr, IntOperationIr, LinearOpIr, ModuleOperationIr,
    NumericOperationIr, OperationIr, ReduceDimOpIr, ScalarIr, ScalarOpIr, SelectOpIr, TensorId,
    TensorIr, TensorStatus,
};
use burn::backend::ops::{
    ActivationOps, BoolTensorOps, ConvOptions, FloatTensorOps, IntTensorOps, ModuleOps,
};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{
    BoolDType, DType, Device, Int, IntDType, Scalar, Shape, Slice, Tensor, TensorData,
};

use super::Unstackable;
use super::conv::{Geometry, Tables};
use crate::devices::device::{is_cpu, is_cube};

/// A tensor of all tasks.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub tensor: DispatchTensor,
    /// Whether the tasks are channels, `[tasks * channels, batch, ..]`, and not a dimension of their own.
    pub joined: bool,
}

/// What a layer of batch-normalization normalizes by.
#[derive(Clone, Debug)]
pub(super) enum Normalization {
    /// The statistics of the batch, which are kept.
    Batch,
    /// Running mean and variance, of shape `[tasks * channels]`.
    Running(Box<[DispatchTensor; 2]>),
}

/// The statistics of a batch, of shape `[tasks * channels]`.
#[derive(Clone, Debug)]
pub(super) struct BatchStatistics {
    pub mean: DispatchTensor,
    pub variance: DispatchTensor,
}

/// A device's own types of numbers, where the record's are of the device that recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Types {
    pub ints: IntDType,
    pub bools: BoolDType,
}

impl Types {
    pub fn of(device: &Device) -> Self {
        let one = Tensor::<1, Int>::zeros([1], device);
        Self {
            ints: one.dtype().into(),
            bools: one.equal_elem(0).dtype().into(),
        }
    }
}

/// Plays a record.
pub(super) struct Player {
    pub tasks: usize,
    device: Device,
    pub is_cpu: bool,
    is_cube: bool,
    pub types: Types,
    values: HashMap<TensorId, Value>,
    /// By the id of the layer's running mean.
    norms: HashMap<TensorId, Normalization>,
    pub statistics: HashMap<TensorId, BatchStatistics>,
    /// What the convolutions of earlier steps had.
    pub tables: HashMap<Geometry, Tables>,
}

/// A constant of a record on the device, of all tasks.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    numbers: Numbers,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Numbers {
    Float(Tensor<1>),
    Int(Tensor<1, Int>),
}

impl Constant {
    /// On `device`, which is without autodiff.
    pub fn upload(data: TensorData, device: &Device) -> Result<Self, Unstackable> {
        let (shape, dtype) = (data.shape().clone(), data.dtype());
        let flat = Shape::new([shape.num_elements()]);
        let data = TensorData::from_bytes(data.into_bytes(), flat, dtype);
        let numbers = match dtype {
            dtype if dtype.is_float() => Numbers::Float(Tensor::from_data(data, (device, dtype))),
            dtype if dtype.is_int() || dtype.is_uint() => {
                Numbers::Int(Tensor::from_data(data, device))
            }
            dtype => return Err(Unstackable::new(format!("constants of {dtype:?}"))),
        };
        Ok(Self { numbers, shape })
    }

    /// Writes another one over it, in place.
    ///
    /// # Errors
    /// That it is of another type, which those of steps that are alike are not.
    pub fn assign(&mut self, other: Self) -> Result<(), Unstackable> {
        let all = 0..self.shape.num_elements();
        match (&mut self.numbers, other.numbers) {
            (Numbers::Float(old), Numbers::Float(new)) => {
                old.inplace(|old| old.slice_assign(all, new));
            }
            (Numbers::Int(old), Numbers::Int(new)) => {
                old.inplace(|old| old.slice_assign(all, new));
            }
            _ => return Err(Unstackable::new("constants of other types")),
        }
        Ok(())
    }
}

/// What is the same for numbers of each kind.
macro_rules! of_kind {
    ($tensor:expr, $dtype:expr, $float:ident, $int:ident, $bool:ident $(, $argument:expr)*) => {
        match $dtype {
            dtype if dtype.is_bool() => Dispatch::$bool($tensor $(, $argument)*),
            dtype if dtype.is_float() => Dispatch::$float($tensor $(, $argument)*),
            _ => Dispatch::$int($tensor $(, $argument)*),
        }
    };
}

pub(super) use of_kind;

pub(super) fn reshape(tensor: DispatchTensor, shape: Shape) -> DispatchTensor {
    let dtype = tensor.dtype();
    of_kind!(
        tensor,
        dtype,
        float_reshape,
        int_reshape,
        bool_reshape,
        shape
    )
}

/// The dimension of the tasks comes first.
pub(super) fn with(tasks: usize, shape: &Shape) -> Shape {
    let dims = std::iter::once(tasks).chain(shape.iter().copied());
    Shape::from(dims.collect::<Vec<_>>())
}

/// Elementwise operations, in any layout.
macro_rules! unary {
    ($self:ident, $op:ident, $function:expr) => {{
        let value = $self.take(&$op.input)?;
        let tensor = $function(value.tensor);
        $self.put(&$op.out, tensor, value.joined);
    }};
}

/// The same with a number.
macro_rules! scalar {
    ($self:ident, $op:ident, $function:expr) => {{
        let value = $self.take(&$op.lhs)?;
        let tensor = $function(value.tensor, $op.rhs.into());
        $self.put(&$op.out, tensor, value.joined);
    }};
}

/// Elementwise operations of two tensors.
macro_rules! binary {
    ($self:ident, $op:ident, $function:expr) => {{
        let (lhs, rhs, joined) = $self.pair(&$op.lhs, &$op.rhs)?;
        let tensor = $function(lhs, rhs);
        $self.put(&$op.out, tensor, joined);
    }};
}

/// Operations that are there for tensors of each kind.
macro_rules! base {
    ($self:ident, $op:expr, $reshape:ident, $swap:ident, $permute:ident, $flip:ident, $expand:ident, $slice:ident,
     $gather:ident, $where:ident, $fill:ident, $repeat:ident, $cat:ident, $equal:expr,
     $equal_elem:expr, $not_equal:expr, $not_equal_elem:expr, $cast:expr) => {
        match $op {
            BaseOperationIr::Reshape(op) => {
                let tensor = $self.leading(&op.input)?;
                let shape = with($self.tasks, &op.out.shape);
                $self.put(&op.out, Dispatch::$reshape(tensor, shape), false);
            }
            BaseOperationIr::SwapDims(op) => {
                let tensor = $self.leading(&op.input)?;
                let tensor = Dispatch::$swap(tensor, op.dim1 + 1, op.dim2 + 1);
                $self.put(&op.out, tensor, false);
            }
            BaseOperationIr::Permute(op) => {
                let tensor = $self.leading(&op.input)?;
                let axes = std::iter::once(0).chain(op.axes.iter().map(|axis| axis + 1));
                let tensor = Dispatch::$permute(tensor, &Vec::from_iter(axes));
                $self.put(&op.out, tensor, false);
            }
            BaseOperationIr::Flip(op) => {
                let tensor = $self.leading(&op.input)?;
                let axes = Vec::from_iter(op.axes.iter().map(|axis| axis + 1));
                $self.put(&op.out, Dispatch::$flip(tensor, &axes), false);
            }
            BaseOperationIr::Expand(op) => {
                let tensor = $self.leading(&op.input)?;
                // What has fewer dimensions than its copies lacks the first of them.
                let missing = op.out.shape.num_dims() - op.input.shape.num_dims();
                let dims = std::iter::once($self.tasks)
                    .chain(std::iter::repeat_n(1, missing))
                    .chain(op.input.shape.iter().copied());
                let tensor = Dispatch::$reshape(tensor, Shape::from(Vec::from_iter(dims)));
                let shape = with($self.tasks, &op.out.shape);
                $self.put(&op.out, Dispatch::$expand(tensor, shape), false);
            }
            BaseOperationIr::Slice(op) => {
                let tensor = $self.leading(&op.tensor)?;
                let all = Slice::new(0, None, 1);
                let slices = Vec::from_iter(std::iter::once(all).chain(op.ranges.iter().copied()));
                $self.put(&op.out, Dispatch::$slice(tensor, &slices), false);
            }
            BaseOperationIr::Gather(GatherOpIr {
                tensor,
                dim,
                indices,
                out,
            }) => {
                let tensor = $self.leading(tensor)?;
                let indices = $self.leading(indices)?;
                $self.put(out, Dispatch::$gather(dim + 1, tensor, indices), false);
            }
            BaseOperationIr::Select(SelectOpIr {
                tensor,
                dim,
                indices,
                out,
            }) => {
                // Each task has indices of its own: what is selected is gathered.
                let tensor = $self.leading(tensor)?;
                let indices = $self.leading(indices)?;
                let mut dims = vec![1; out.shape.num_dims() + 1];
                (dims[0], dims[dim + 1]) = ($self.tasks, out.shape[*dim]);
                let indices = Dispatch::int_reshape(indices, Shape::from(dims));
                let indices = Dispatch::int_expand(indices, with($self.tasks, &out.shape));
                $self.put(out, Dispatch::$gather(dim + 1, tensor, indices), false);
            }
            BaseOperationIr::MaskWhere(op) => {
                let tensor = $self.leading(&op.tensor)?;
                let (mask, value) = ($self.leading(&op.mask)?, $self.leading(&op.value)?);
                $self.put(&op.out, Dispatch::$where(tensor, mask, value), false);
            }
            BaseOperationIr::MaskFill(op) => {
                let (tensor, mask, joined) = $self.pair(&op.tensor, &op.mask)?;
                let tensor = Dispatch::$fill(tensor, mask, op.value.into());
                $self.put(&op.out, tensor, joined);
            }
            BaseOperationIr::RepeatDim(op) => {
                let tensor = $self.leading(&op.tensor)?;
                let tensor = Dispatch::$repeat(tensor, op.dim + 1, op.times);
                $self.put(&op.out, tensor, false);
            }
            BaseOperationIr::Cat(CatOpIr { tensors, dim, out }) => {
                let tensors = tensors.iter().map(|t| $self.leading(t));
                let tensors = tensors.collect::<Result<_, _>>()?;
                $self.put(out, Dispatch::$cat(tensors, dim + 1), false);
            }
            BaseOperationIr::Equal(op) => {
                let dtype = $self.bools();
                binary!($self, op, |lhs, rhs| $equal(lhs, rhs, dtype))
            }
            BaseOperationIr::NotEqual(op) => {
                let dtype = $self.bools();
                binary!($self, op, |lhs, rhs| $not_equal(lhs, rhs, dtype))
            }
            BaseOperationIr::EqualElem(op) => {
                let dtype = $self.bools();
                scalar!($self, op, |lhs, rhs| $equal_elem(lhs, rhs, dtype))
            }
            BaseOperationIr::NotEqualElem(op) => {
                let dtype = $self.bools();
                scalar!($self, op, |lhs, rhs| $not_equal_elem(lhs, rhs, dtype))
            }
            BaseOperationIr::Cast(op) => unary!($self, op, |t| $cast(t, op.out.dtype)),
            _ => return Ok(false),
        }
    };
}

impl Player {
    pub fn new(
        tasks: usize,
        device: &Device,
        types: Types,
        norms: HashMap<TensorId, Normalization>,
    ) -> Self {
        Self {
            tasks,
            device: device.clone(),
            is_cpu: is_cpu(device),
            is_cube: is_cube(device),
            types,
            values: HashMap::new(),
            norms,
            statistics: HashMap::new(),
            tables: HashMap::new(),
        }
    }

    /// Gives a tensor of the record a value of shape `[tasks, ..]`.
    pub fn bind(&mut self, id: TensorId, tensor: DispatchTensor) {
        let joined = false;
        self.values.insert(id, Value { tensor, joined });
    }

    /// Gives a constant of the record its values, one for each task.
    pub fn bind_constant(&mut self, id: TensorId, constant: Constant) {
        let shape = constant.shape;
        let tensor = match constant.numbers {
            Numbers::Float(flat) => {
                let flat = Tensor::<1>::from_inner(flat).into_dispatch();
                Dispatch::float_reshape(flat, shape)
            }
            Numbers::Int(flat) => {
                let flat = Tensor::<1, Int>::from_inner(flat).into_dispatch();
                Dispatch::int_reshape(flat, shape)
            }
        };
        self.bind(id, tensor);
    }

    /// The value of a tensor of the record, of shape `[tasks, ..]`.
    pub fn value(&mut self, tensor: &TensorIr) -> Result<DispatchTensor, Unstackable> {
        self.leading(tensor)
    }

    fn take(&mut self, tensor: &TensorIr) -> Result<Value, Unstackable> {
        let value = match tensor.status {
            // Whoever reads it last may write over it.
            TensorStatus::ReadWrite => self.values.remove(&tensor.id),
            _ => self.values.get(&tensor.id).cloned(),
        };
        value.ok_or_else(Unstackable::no_tensor)
    }

    /// The same, which stays for other readers.
    pub fn look(&self, tensor: &TensorIr) -> Result<DispatchTensor, Unstackable> {
        let value = self.values.get(&tensor.id).cloned();
        let value = value.ok_or_else(Unstackable::no_tensor)?;
        Ok(self.lead(value, &tensor.shape))
    }

    pub fn forget(&mut self, tensor: &TensorIr) {
        self.values.remove(&tensor.id);
    }

    fn put(&mut self, out: &TensorIr, tensor: DispatchTensor, joined: bool) {
        self.values.insert(out.id, Value { tensor, joined });
    }

    /// With the tasks as the first dimension.
    fn leading(&mut self, tensor: &TensorIr) -> Result<DispatchTensor, Unstackable> {
        let value = self.take(tensor)?;
        Ok(self.lead(value, &tensor.shape))
    }

    fn lead(&self, value: Value, shape: &Shape) -> DispatchTensor {
        if !value.joined {
            return value.tensor;
        }
        let dims = [self.tasks, shape[1], shape[0]].into_iter();
        let dims = dims.chain(shape.iter().skip(2).copied());
        let shape = Shape::from(Vec::from_iter(dims));
        let tensor = reshape(value.tensor, shape);
        let dtype = tensor.dtype();
        of_kind!(
            tensor,
            dtype,
            float_swap_dims,
            int_swap_dims,
            bool_swap_dims,
            1,
            2
        )
    }

    /// A tensor of at least two dimensions with the tasks as channels.
    fn joined(&mut self, tensor: &TensorIr) -> Result<DispatchTensor, Unstackable> {
        let value = self.take(tensor)?;
        if value.joined {
            return Ok(value.tensor);
        }
        let shape = &tensor.shape;
        let dims = [self.tasks * shape[1], shape[0]].into_iter();
        let dims = dims.chain(shape.iter().skip(2).copied());
        let swapped = Dispatch::float_swap_dims(value.tensor, 1, 2);
        Ok(Dispatch::float_reshape(
            swapped,
            Shape::from(Vec::from_iter(dims)),
        ))
    }

    /// Two tensors in the same layout.
    fn pair(
        &mut self,
        lhs: &TensorIr,
        rhs: &TensorIr,
    ) -> Result<(DispatchTensor, DispatchTensor, bool), Unstackable> {
        // The first is read before the last reader may take it away.
        let left = match lhs.id == rhs.id {
            true => self.values.get(&lhs.id).cloned(),
            false => None,
        };
        let left = left.map_or_else(|| self.take(lhs), Ok)?;
        let right = self.take(rhs)?;
        if left.joined && right.joined && lhs.shape == rhs.shape {
            return Ok((left.tensor, right.tensor, true));
        }
        let (left, right) = (self.lead(left, &lhs.shape), self.lead(right, &rhs.shape));
        Ok((left, right, false))
    }

    fn ints(&self) -> IntDType {
        self.types.ints
    }

    fn bools(&self) -> BoolDType {
        self.types.bools
    }

    /// Plays one operation.
    pub fn play(&mut self, op: &OperationIr) -> Result<(), Unstackable> {
        match self.play_all(op)? {
            true => Ok(()),
            false => self.play_each(op),
        }
    }

    /// Plays one operation for all tasks at once, if there is a rule for it.
    fn play_all(&mut self, op: &OperationIr) -> Result<bool, Unstackable> {
        match op {
            // What it is of was bound before.
            OperationIr::Init(_) => {}
            OperationIr::BaseFloat(BaseOperationIr::Zeros(op)) => {
                self.fill(&op.out, ScalarIr::Float(0.0))
            }
            OperationIr::BaseFloat(BaseOperationIr::Ones(op)) => {
                self.fill(&op.out, ScalarIr::Float(1.0))
            }
            OperationIr::NumericFloat(_, NumericOperationIr::Full(op)) => {
                self.fill(&op.out, op.value)
            }
            OperationIr::BaseInt(BaseOperationIr::Zeros(op)) => {
                self.fill_int(&op.out, ScalarIr::Int(0))
            }
            OperationIr::BaseInt(BaseOperationIr::Ones(op)) => {
                self.fill_int(&op.out, ScalarIr::Int(1))
            }
            OperationIr::NumericInt(_, NumericOperationIr::Full(op)) => {
                self.fill_int(&op.out, op.value)
            }
            OperationIr::BaseFloat(op) => base!(
                self,
                op,
                float_reshape,
                float_swap_dims,
                float_permute,
                float_flip,
                float_expand,
                float_slice,
                float_gather,
                float_mask_where,
                float_mask_fill,
                float_repeat_dim,
                float_cat,
                Dispatch::float_equal,
                Dispatch::float_equal_elem,
                Dispatch::float_not_equal,
                Dispatch::float_not_equal_elem,
                |t, dtype: DType| Dispatch::float_cast(t, dtype.into())
            ),
            OperationIr::BaseInt(op) => base!(
                self,
                op,
                int_reshape,
                int_swap_dims,
                int_permute,
                int_flip,
                int_expand,
                int_slice,
                int_gather,
                int_mask_where,
                int_mask_fill,
                int_repeat_dim,
                int_cat,
                Dispatch::int_equal,
                Dispatch::int_equal_elem,
                Dispatch::int_not_equal,
                Dispatch::int_not_equal_elem,
                |t, _| t
            ),
            OperationIr::BaseBool(op) => base!(
                self,
                op,
                bool_reshape,
                bool_swap_dims,
                bool_permute,
                bool_flip,
                bool_expand,
                bool_slice,
                bool_gather,
                bool_mask_where,
                bool_mask_fill,
                bool_repeat_dim,
                bool_cat,
                |lhs, rhs, _| Dispatch::bool_equal(lhs, rhs),
                |lhs, rhs, _| Dispatch::bool_equal_elem(lhs, rhs),
                |lhs, rhs, _| Dispatch::bool_not_equal(lhs, rhs),
                |lhs, rhs, _| Dispatch::bool_not_equal_elem(lhs, rhs),
                |t, _| t
            ),
            OperationIr::NumericFloat(_, op) => return self.numeric_float(op),
            OperationIr::NumericInt(_, op) => return self.numeric_int(op),
            OperationIr::Float(_, op) => return self.float(op),
            OperationIr::Int(op) => return self.int(op),
            OperationIr::Bool(op) => return self.bool(op),
            OperationIr::Activation(op) => return self.activation(op),
            OperationIr::Module(op) => return self.module(op),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn fill(&mut self, out: &TensorIr, value: ScalarIr) {
        let shape = with(self.tasks, &out.shape);
        let count = [shape.num_elements()];
        let device = (&self.device, out.dtype);
        let tensor = Tensor::<1>::full(count, value.elem::<f64>(), device).into_dispatch();
        self.put(out, Dispatch::float_reshape(tensor, shape), false);
    }

    fn fill_int(&mut self, out: &TensorIr, value: ScalarIr) {
        let shape = with(self.tasks, &out.shape);
        let count = [shape.num_elements()];
        let tensor = Tensor::<1, Int>::full(count, value.elem::<i64>(), &self.device);
        let tensor = Dispatch::int_reshape(tensor.into_dispatch(), shape);
        self.put(out, tensor, false);
    }

    fn numeric_float(&mut self, op: &NumericOperationIr) -> Result<bool, Unstackable> {
        use NumericOperationIr as Op;
        let bools = self.bools();
        match op {
            Op::Add(op) => binary!(self, op, Dispatch::float_add),
            Op::Sub(op) => binary!(self, op, Dispatch::float_sub),
            Op::Mul(op) => binary!(self, op, Dispatch::float_mul),
            Op::Div(op) => binary!(self, op, Dispatch::float_div),
            Op::Rem(op) => binary!(self, op, Dispatch::float_remainder),
            Op::AddScalar(op) => scalar!(self, op, Dispatch::float_add_scalar),
            Op::SubScalar(op) => scalar!(self, op, Dispatch::float_sub_scalar),
            Op::MulScalar(op) => scalar!(self, op, Dispatch::float_mul_scalar),
            Op::DivScalar(op) => scalar!(self, op, Dispatch::float_div_scalar),
            Op::RemScalar(op) => scalar!(self, op, Dispatch::float_remainder_scalar),
            Op::PowiScalar(op) => scalar!(self, op, Dispatch::float_powi_scalar),
            Op::ClampMin(op) => scalar!(self, op, Dispatch::float_clamp_min),
            Op::ClampMax(op) => scalar!(self, op, Dispatch::float_clamp_max),
            Op::Clamp(op) => self.clamp(op, Dispatch::float_clamp)?,
            Op::Abs(op) => unary!(self, op, Dispatch::float_abs),
            Op::Neg(op) => unary!(self, op, Dispatch::float_neg),
            Op::Sign(op) => unary!(self, op, Dispatch::float_sign),
            Op::Mean(op) => self.reduce_all(&op.input, &op.out, Dispatch::float_mean_dim)?,
            Op::Sum(op) => self.reduce_all(&op.input, &op.out, Dispatch::float_sum_dim)?,
            Op::Max(op) => self.reduce_all(&op.input, &op.out, Dispatch::float_max_dim)?,
            Op::Min(op) => self.reduce_all(&op.input, &op.out, Dispatch::float_min_dim)?,
            Op::MeanDim(op) => self.reduce(op, Dispatch::float_mean_dim)?,
            Op::SumDim(op) => self.reduce(op, Dispatch::float_sum_dim)?,
            Op::ProdDim(op) => self.reduce(op, Dispatch::float_prod_dim)?,
            Op::MaxDim(op) => self.reduce(op, Dispatch::float_max_dim)?,
            Op::MinDim(op) => self.reduce(op, Dispatch::float_min_dim)?,
            Op::SumDims(op) => {
                let tensor = self.leading(&op.input)?;
                let axes = Vec::from_iter(op.axes.iter().map(|axis| axis + 1));
                self.put(&op.out, Dispatch::float_sum_dims(tensor, &axes), false);
            }
            Op::CumSum(op) => {
                let tensor = self.leading(&op.input)?;
                self.put(&op.out, Dispatch::float_cumsum(tensor, op.axis + 1), false);
            }
            Op::ArgMax(op) => {
                let ints = self.ints();
                self.reduce(op, |t, axis| Dispatch::float_argmax(t, axis, ints))?;
            }
            Op::ArgMin(op) => {
                let ints = self.ints();
                self.reduce(op, |t, axis| Dispatch::float_argmin(t, axis, ints))?;
            }
            Op::Greater(op) => binary!(self, op, |a, b| Dispatch::float_greater(a, b, bools)),
            Op::GreaterEqual(op) => {
                binary!(self, op, |a, b| Dispatch::float_greater_equal(a, b, bools))
            }
            Op::Lower(op) => binary!(self, op, |a, b| Dispatch::float_lower(a, b, bools)),
            Op::LowerEqual(op) => {
                binary!(self, op, |a, b| Dispatch::float_lower_equal(a, b, bools))
            }
            Op::GreaterElem(op) => self.compare(op, Dispatch::float_greater_elem)?,
            Op::GreaterEqualElem(op) => self.compare(op, Dispatch::float_greater_equal_elem)?,
            Op::LowerElem(op) => self.compare(op, Dispatch::float_lower_elem)?,
            Op::LowerEqualElem(op) => self.compare(op, Dispatch::float_lower_equal_elem)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn numeric_int(&mut self, op: &NumericOperationIr) -> Result<bool, Unstackable> {
        use NumericOperationIr as Op;
        let bools = self.bools();
        match op {
            Op::Add(op) => binary!(self, op, Dispatch::int_add),
            Op::Sub(op) => binary!(self, op, Dispatch::int_sub),
            Op::Mul(op) => binary!(self, op, Dispatch::int_mul),
            Op::Div(op) => binary!(self, op, Dispatch::int_div),
            Op::Rem(op) => binary!(self, op, Dispatch::int_remainder),
            Op::DivScalar(op) => scalar!(self, op, Dispatch::int_div_scalar),
            Op::RemScalar(op) => scalar!(self, op, Dispatch::int_remainder_scalar),
            Op::Abs(op) => unary!(self, op, Dispatch::int_abs),
            Op::Neg(op) => unary!(self, op, Dispatch::int_neg),
            Op::Sign(op) => unary!(self, op, Dispatch::int_sign),
            Op::ClampMin(op) => scalar!(self, op, Dispatch::int_clamp_min),
            Op::ClampMax(op) => scalar!(self, op, Dispatch::int_clamp_max),
            Op::Clamp(op) => self.clamp(op, Dispatch::int_clamp)?,
            Op::AddScalar(op) => scalar!(self, op, Dispatch::int_add_scalar),
            Op::SubScalar(op) => scalar!(self, op, Dispatch::int_sub_scalar),
            Op::MulScalar(op) => scalar!(self, op, Dispatch::int_mul_scalar),
            Op::SumDim(op) => self.reduce(op, Dispatch::int_sum_dim)?,
            Op::MaxDim(op) => self.reduce(op, Dispatch::int_max_dim)?,
            Op::Greater(op) => binary!(self, op, |a, b| Dispatch::int_greater(a, b, bools)),
            Op::GreaterEqual(op) => {
                binary!(self, op, |a, b| Dispatch::int_greater_equal(a, b, bools))
            }
            Op::Lower(op) => binary!(self, op, |a, b| Dispatch::int_lower(a, b, bools)),
            Op::LowerEqual(op) => {
                binary!(self, op, |a, b| Dispatch::int_lower_equal(a, b, bools))
            }
            Op::GreaterElem(op) => self.compare(op, Dispatch::int_greater_elem)?,
            Op::GreaterEqualElem(op) => self.compare(op, Dispatch::int_greater_equal_elem)?,
            Op::LowerElem(op) => self.compare(op, Dispatch::int_lower_elem)?,
            Op::LowerEqualElem(op) => self.compare(op, Dispatch::int_lower_equal_elem)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn int(&mut self, op: &IntOperationIr) -> Result<bool, Unstackable> {
        use IntOperationIr as Op;
        match op {
            Op::IntoFloat(op) => {
                unary!(self, op, |t| Dispatch::int_into_float(
                    t,
                    op.out.dtype.into()
                ))
            }
            Op::BitwiseAnd(op) => binary!(self, op, Dispatch::bitwise_and),
            Op::BitwiseOr(op) => binary!(self, op, Dispatch::bitwise_or),
            Op::BitwiseXor(op) => binary!(self, op, Dispatch::bitwise_xor),
            Op::BitwiseNot(op) => unary!(self, op, Dispatch::bitwise_not),
            Op::BitwiseLeftShift(op) => binary!(self, op, Dispatch::bitwise_left_shift),
            Op::BitwiseRightShift(op) => binary!(self, op, Dispatch::bitwise_right_shift),
            Op::BitwiseAndScalar(op) => scalar!(self, op, Dispatch::bitwise_and_scalar),
            Op::BitwiseOrScalar(op) => scalar!(self, op, Dispatch::bitwise_or_scalar),
            Op::BitwiseXorScalar(op) => scalar!(self, op, Dispatch::bitwise_xor_scalar),
            Op::BitwiseLeftShiftScalar(op) => {
                scalar!(self, op, Dispatch::bitwise_left_shift_scalar)
            }
            Op::BitwiseRightShiftScalar(op) => {
                scalar!(self, op, Dispatch::bitwise_right_shift_scalar)
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn float(&mut self, op: &FloatOperationIr) -> Result<bool, Unstackable> {
        use FloatOperationIr as Op;
        let (ints, bools) = (self.ints(), self.bools());
        match op {
            Op::Exp(op) => unary!(self, op, Dispatch::float_exp),
            Op::Log(op) => unary!(self, op, Dispatch::float_log),
            Op::Log1p(op) => unary!(self, op, Dispatch::float_log1p),
            Op::Erf(op) => unary!(self, op, Dispatch::float_erf),
            Op::Sqrt(op) => unary!(self, op, Dispatch::float_sqrt),
            Op::Cos(op) => unary!(self, op, Dispatch::float_cos),
            Op::Sin(op) => unary!(self, op, Dispatch::float_sin),
            Op::Tanh(op) => unary!(self, op, Dispatch::float_tanh),
            Op::Recip(op) => unary!(self, op, Dispatch::float_recip),
            Op::Floor(op) => unary!(self, op, Dispatch::float_floor),
            Op::Ceil(op) => unary!(self, op, Dispatch::float_ceil),
            Op::Round(op) => unary!(self, op, Dispatch::float_round),
            Op::Trunc(op) => unary!(self, op, Dispatch::float_trunc),
            Op::Tan(op) => unary!(self, op, Dispatch::float_tan),
            Op::Cosh(op) => unary!(self, op, Dispatch::float_cosh),
            Op::Sinh(op) => unary!(self, op, Dispatch::float_sinh),
            Op::ArcCos(op) => unary!(self, op, Dispatch::float_acos),
            Op::ArcCosh(op) => unary!(self, op, Dispatch::float_acosh),
            Op::ArcSin(op) => unary!(self, op, Dispatch::float_asin),
            Op::ArcSinh(op) => unary!(self, op, Dispatch::float_asinh),
            Op::ArcTan(op) => unary!(self, op, Dispatch::float_atan),
            Op::ArcTanh(op) => unary!(self, op, Dispatch::float_atanh),
            Op::ArcTan2(op) => binary!(self, op, Dispatch::float_atan2),
            Op::Hypot(op) => binary!(self, op, Dispatch::float_hypot),
            Op::IsNan(op) => unary!(self, op, |t| Dispatch::float_is_nan(t, bools)),
            Op::IsInf(op) => unary!(self, op, |t| Dispatch::float_is_inf(t, bools)),
            Op::PowfScalar(op) => scalar!(self, op, Dispatch::float_powf_scalar),
            Op::Powf(op) => binary!(self, op, Dispatch::float_powf),
            Op::IntoInt(op) => unary!(self, op, |t| Dispatch::float_into_int(t, ints)),
            Op::Matmul(op) => {
                let (lhs, rhs) = (self.leading(&op.lhs)?, self.leading(&op.rhs)?);
                self.put(&op.out, Dispatch::float_matmul(lhs, rhs), false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn bool(&mut self, op: &BoolOperationIr) -> Result<bool, Unstackable> {
        use BoolOperationIr as Op;
        let ints = self.ints();
        match op {
            Op::IntoFloat(op) => {
                unary!(self, op, |t| Dispatch::bool_into_float(
                    t,
                    op.out.dtype.into()
                ))
            }
            Op::IntoInt(op) => unary!(self, op, |t| Dispatch::bool_into_int(t, ints)),
            Op::Not(op) => unary!(self, op, Dispatch::bool_not),
            Op::And(op) => binary!(self, op, Dispatch::bool_and),
            Op::Or(op) => binary!(self, op, Dispatch::bool_or),
            Op::Xor(op) => binary!(self, op, Dispatch::bool_xor),
        }
        Ok(true)
    }

    fn activation(&mut self, op: &ActivationOperationIr) -> Result<bool, Unstackable> {
        use ActivationOperationIr as Op;
        match op {
            Op::Relu(op) => unary!(self, op, Dispatch::relu),
            Op::Gelu(op) => unary!(self, op, Dispatch::gelu),
            Op::Sigmoid(op) => unary!(self, op, Dispatch::sigmoid),
            Op::LogSigmoid(op) => unary!(self, op, Dispatch::log_sigmoid),
            Op::LeakyRelu(op) => scalar!(self, op, Dispatch::leaky_relu),
            Op::HardSigmoid(op) => {
                let value = self.take(&op.tensor)?;
                let (alpha, beta) = (op.alpha.into(), op.beta.into());
                let tensor = Dispatch::hard_sigmoid(value.tensor, alpha, beta);
                self.put(&op.out, tensor, value.joined);
            }
            Op::Softmax(op) => {
                let tensor = self.leading(&op.input)?;
                self.put(&op.out, Dispatch::softmax(tensor, op.axis + 1), false);
            }
            Op::Softmin(op) => {
                let tensor = self.leading(&op.input)?;
                self.put(&op.out, Dispatch::softmin(tensor, op.axis + 1), false);
            }
            Op::LogSoftmax(op) => {
                let tensor = self.leading(&op.input)?;
                self.put(&op.out, Dispatch::log_softmax(tensor, op.axis + 1), false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn module(&mut self, op: &ModuleOperationIr) -> Result<bool, Unstackable> {
        use ModuleOperationIr as Op;
        match op {
            Op::Linear(op) => self.linear(op)?,
            Op::BatchNorm(op) => self.batch_norm(op)?,
            Op::Conv2d(op) => {
                let of = [&op.x, &op.weight, &op.out];
                let options: ConvOptions<2> = op.options.clone().into();
                self.convolve(of, op.bias.as_ref(), options, Dispatch::conv2d)?;
            }
            Op::Conv1d(op) => {
                let of = [&op.x, &op.weight, &op.out];
                let options: ConvOptions<1> = op.options.clone().into();
                self.convolve(of, op.bias.as_ref(), options, Dispatch::conv1d)?;
            }
            Op::MaxPool2d(op) => {
                let x = self.joined(&op.x)?;
                let y = Dispatch::max_pool2d(
                    x,
                    op.kernel_size,
                    op.stride,
                    op.padding,
                    op.dilation,
                    op.ceil_mode,
                );
                self.put(&op.out, y, true);
            }
            Op::AvgPool2d(op) => {
                let x = self.joined(&op.x)?;
                let y = Dispatch::avg_pool2d(
                    x,
                    op.kernel_size,
                    op.stride,
                    op.padding,
                    op.count_include_pad,
                    op.ceil_mode,
                );
                self.put(&op.out, y, true);
            }
            Op::AdaptiveAvgPool2d(op) => {
                let x = self.joined(&op.x)?;
                self.put(
                    &op.out,
                    Dispatch::adaptive_avg_pool2d(x, op.output_size),
                    true,
                );
            }
            Op::Embedding(op) => {
                let weights = self.leading(&op.weights)?;
                let indices = self.leading(&op.indices)?;
                let (tasks, size) = (self.tasks, op.weights.shape[1]);
                let count = op.indices.shape.num_elements();
                let indices = Dispatch::int_reshape(indices, Shape::new([tasks, count, 1]));
                let indices = Dispatch::int_expand(indices, Shape::new([tasks, count, size]));
                let rows = Dispatch::float_gather(1, weights, indices);
                let rows = Dispatch::float_reshape(rows, with(tasks, &op.out.shape));
                self.put(&op.out, rows, false);
            }
            Op::LayerNorm(op) => {
                let x = self.leading(&op.input)?;
                let rank = op.input.shape.num_dims();
                let size = op.input.shape[rank - 1];
                let mut dims = vec![1; rank + 1];
                (dims[0], dims[rank]) = (self.tasks, size);
                let centered =
                    Dispatch::float_sub(x.clone(), Dispatch::float_mean_dim(x.clone(), rank));
                let square = Dispatch::float_mul(centered.clone(), centered.clone());
                let variance = Dispatch::float_mean_dim(square, rank);
                let variance = Dispatch::float_add_scalar(variance, op.epsilon.into());
                let normal = Dispatch::float_div(centered, Dispatch::float_sqrt(variance));
                let gamma = self.leading(&op.gamma)?;
                let gamma = Dispatch::float_reshape(gamma, Shape::from(dims.clone()));
                let mut y = Dispatch::float_mul(normal, gamma);
                if let Some(beta) = &op.beta {
                    let beta = self.leading(beta)?;
                    let beta = Dispatch::float_reshape(beta, Shape::from(dims));
                    y = Dispatch::float_add(y, beta);
                }
                self.put(&op.out, y, false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn convolve<const D: usize>(
        &mut self,
        [x, weight, out]: [&TensorIr; 3],
        bias: Option<&TensorIr>,
        options: ConvOptions<D>,
        conv: impl Fn(
            DispatchTensor,
            DispatchTensor,
            Option<DispatchTensor>,
            ConvOptions<D>,
        ) -> DispatchTensor,
    ) -> Result<(), Unstackable> {
        let tasks = self.tasks;
        let [images, channels] = [x.shape[0], x.shape[1]];
        let filters = weight.shape[0];
        let geometry = Geometry::new(&x.shape, &weight.shape, &out.shape, &options);
        let x = self.joined(x)?;
        let of_weight = self.leading(weight)?;
        let bias = bias.map(|bias| self.leading(bias)).transpose()?;
        let y = match (self.is_cube, self.is_cpu) {
            (true, _) => {
                let groups = tasks * options.groups;
                let rows = Shape::new([
                    tasks * channels,
                    x.shape().num_elements() / (tasks * channels),
                ]);
                let size = weight.shape.num_elements() / filters;
                let count = out.shape.num_elements() / filters;
                let parts = Shape::new([groups, filters / options.groups, size]);
                let of_weight = Dispatch::float_reshape(of_weight, parts);
                let tables = self.tables.entry(geometry);
                let tables = tables.or_insert_with_key(|of| Tables::new(of, &self.device));
                let y = tables.conv(Dispatch::float_reshape(x, rows), of_weight);
                // A row for each channel: what follows is not to be fused with the product, of which Burn would then have
                // to tune many more kernels.
                let y = Dispatch::float_reshape(y, Shape::new([tasks * filters, count]));
                let y = match bias {
                    None => y,
                    Some(bias) => {
                        let bias = Dispatch::float_reshape(bias, Shape::new([tasks * filters, 1]));
                        Dispatch::float_add(y, bias)
                    }
                };
                let dims = [tasks * filters, images].into_iter();
                let dims = dims.chain(out.shape.iter().skip(2).copied());
                Dispatch::float_reshape(y, Shape::from(Vec::from_iter(dims)))
            }
            // Other backends, and workers, have Burn's own operations.
            (false, is_cpu) => {
                let mut dims = Vec::from_iter(weight.shape.iter().copied());
                dims[0] *= tasks;
                let x = Dispatch::float_swap_dims(x, 0, 1);
                let of_weight = Dispatch::float_reshape(of_weight, Shape::from(dims));
                let of_bias = Shape::new([tasks * filters]);
                let bias = bias.map(|bias| Dispatch::float_reshape(bias, of_bias));
                let y = match is_cpu {
                    false => {
                        let groups = options.groups * tasks;
                        conv(x, of_weight, bias, ConvOptions { groups, ..options })
                    }
                    // CPUs, to which launches are nothing, have better code for the tasks' own.
                    true => {
                        let part =
                            |tensor: &DispatchTensor, dim: usize, task: usize, size: usize| {
                                let all = Slice::new(0, None, 1);
                                let mut slices = vec![all; tensor.shape().num_dims()];
                                let (first, end) = (task * size, (task + 1) * size);
                                slices[dim] = Slice::new(first as isize, Some(end as isize), 1);
                                Dispatch::float_slice(tensor.clone(), &slices)
                            };
                        let each = (0..tasks).map(|task| {
                            let bias = bias.as_ref().map(|bias| part(bias, 0, task, filters));
                            let weight = part(&of_weight, 0, task, filters);
                            conv(part(&x, 1, task, channels), weight, bias, options.clone())
                        });
                        Dispatch::float_cat(each.collect(), 1)
                    }
                };
                Dispatch::float_swap_dims(y, 0, 1)
            }
        };
        self.put(out, y, true);
        Ok(())
    }

    fn linear(&mut self, op: &LinearOpIr) -> Result<(), Unstackable> {
        let tasks = self.tasks;
        let [inputs, outputs] = [op.weight.shape[0], op.weight.shape[1]];
        let rows = op.x.shape.num_elements() / inputs.max(1);
        let x = self.leading(&op.x)?;
        let x = Dispatch::float_reshape(x, Shape::new([tasks, rows, inputs]));
        let mut y = Dispatch::float_matmul(x, self.leading(&op.weight)?);
        if let Some(bias) = &op.bias {
            let bias = self.leading(bias)?;
            let bias = Dispatch::float_reshape(bias, Shape::new([tasks, 1, outputs]));
            y = Dispatch::float_add(y, bias);
        }
        let y = Dispatch::float_reshape(y, with(tasks, &op.out.shape));
        self.put(&op.out, y, false);
        Ok(())
    }

    fn batch_norm(&mut self, op: &BatchNormOpIr) -> Result<(), Unstackable> {
        let channels = Shape::new([self.tasks * op.gamma.shape[0]]);
        let x = self.joined(&op.x)?;
        let layout = x.shape();
        // Each channel is a row.
        let rows = Shape::new([1, channels[0], layout.num_elements() / channels[0]]);
        let x = Dispatch::float_reshape(x, rows);
        let gamma = Dispatch::float_reshape(self.leading(&op.gamma)?, channels.clone());
        let beta = Dispatch::float_reshape(self.leading(&op.beta)?, channels);
        let epsilon = op.epsilon.elem();
        let y = match self.norms.get(&op.mean.id) {
            Some(Normalization::Batch) => {
                let normal = Dispatch::batch_norm_train(x, gamma, beta, epsilon);
                let (mean, variance) = (normal.mean, normal.variance);
                let statistics = BatchStatistics { mean, variance };
                self.statistics.insert(op.mean.id, statistics);
                normal.output
            }
            Some(Normalization::Running(statistics)) => {
                let [mean, variance] = (**statistics).clone();
                Dispatch::batch_norm(x, gamma, beta, mean, variance, epsilon)
            }
            None => {
                let why = "normalization by what is not the model's running statistics";
                return Err(Unstackable::new(why));
            }
        };
        self.put(&op.out, Dispatch::float_reshape(y, layout), true);
        Ok(())
    }

    fn reduce(
        &mut self,
        op: &ReduceDimOpIr,
        reduce: impl Fn(DispatchTensor, usize) -> DispatchTensor,
    ) -> Result<(), Unstackable> {
        let tensor = self.leading(&op.input)?;
        self.put(&op.out, reduce(tensor, op.axis + 1), false);
        Ok(())
    }

    /// To one number for each task.
    fn reduce_all(
        &mut self,
        input: &TensorIr,
        out: &TensorIr,
        reduce: impl Fn(DispatchTensor, usize) -> DispatchTensor,
    ) -> Result<(), Unstackable> {
        let flat = Shape::new([self.tasks, input.shape.num_elements()]);
        let tensor = Dispatch::float_reshape(self.leading(input)?, flat);
        self.put(out, reduce(tensor, 1), false);
        Ok(())
    }

    fn clamp(
        &mut self,
        op: &ClampOpIr,
        clamp: impl Fn(DispatchTensor, Scalar, Scalar) -> DispatchTensor,
    ) -> Result<(), Unstackable> {
        let value = self.take(&op.tensor)?;
        let tensor = clamp(value.tensor, op.min.into(), op.max.into());
        self.put(&op.out, tensor, value.joined);
        Ok(())
    }

    fn compare(
        &mut self,
        op: &ScalarOpIr,
        compare: impl Fn(DispatchTensor, Scalar, BoolDType) -> DispatchTensor,
    ) -> Result<(), Unstackable> {
        let bools = self.bools();
        scalar!(self, op, |lhs, rhs| compare(lhs, rhs, bools));
        Ok(())
    }
}
