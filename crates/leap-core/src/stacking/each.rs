//! Operations without a rule for all tasks: they are played once for each.

use burn::backend::ir::{
    ActivationOperationIr, BaseOperationIr, FloatOperationIr, IntOperationIr, ModuleOperationIr,
    NumericOperationIr, OperationIr, TensorId, TensorIr, TensorStatus,
};
use burn::backend::ops::{
    ActivationOps, BoolTensorOps, FloatTensorOps, IntTensorOps, ModuleOps, UnfoldOptions,
};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::Slice;

use super::Unstackable;
use super::play::{Player, Types, of_kind, reshape, with};

impl Player {
    /// Plays an operation for one task after the other.
    ///
    /// # Errors
    /// That it cannot be played for one, either, or not without waiting for the device.
    pub(super) fn play_each(&mut self, op: &OperationIr) -> Result<(), Unstackable> {
        if reads_back(op) && !self.is_cpu {
            return Err(Unstackable::new("sorting, which reads back"));
        }
        let mut inputs = Vec::new();
        for input in op.inputs() {
            inputs.push((input.id, self.look(input)?));
        }
        op.inputs()
            .filter(|input| input.status == TensorStatus::ReadWrite)
            .for_each(|input| self.forget(input));
        let mut made: Vec<(TensorId, Vec<DispatchTensor>)> = Vec::new();
        for task in 0..self.tasks {
            let part = |tensor: &TensorIr| {
                let (_, all) = inputs.iter().find(|(id, _)| *id == tensor.id)?;
                let own = slice(all.clone(), Slice::from(task..task + 1));
                Some(reshape(own, tensor.shape.clone()))
            };
            let outputs = play_one(op, self.types, &part)?;
            for (place, (id, output)) in outputs.into_iter().enumerate() {
                let row = with(1, &output.shape());
                let output = reshape(output, row);
                match made.get_mut(place) {
                    Some((_, parts)) => parts.push(output),
                    None => made.push((id, vec![output])),
                }
            }
        }
        for (id, parts) in made {
            self.bind(id, cat(parts));
        }
        Ok(())
    }
}

/// Whether Burn reads numbers back for it and computes it on the host, where the device is another.
fn reads_back(op: &OperationIr) -> bool {
    use NumericOperationIr::{ArgSort, Sort, SortWithIndices, TopKWithIndices};
    match op {
        OperationIr::NumericFloat(_, op) | OperationIr::NumericInt(_, op) => {
            matches!(
                op,
                Sort(_) | ArgSort(_) | SortWithIndices(_) | TopKWithIndices(_)
            )
        }
        _ => false,
    }
}

/// A part along the first dimension.
fn slice(tensor: DispatchTensor, part: Slice) -> DispatchTensor {
    let dtype = tensor.dtype();
    let mut slices = vec![Slice::new(0, None, 1); tensor.shape().num_dims()];
    slices[0] = part;
    of_kind!(tensor, dtype, float_slice, int_slice, bool_slice, &slices)
}

/// Parts along the first dimension.
fn cat(parts: Vec<DispatchTensor>) -> DispatchTensor {
    let dtype = parts[0].dtype();
    of_kind!(parts, dtype, float_cat, int_cat, bool_cat, 0)
}

type Outputs = Vec<(TensorId, DispatchTensor)>;

/// Plays an operation of one task, whose tensors `part` gives.
fn play_one(
    op: &OperationIr,
    types: Types,
    part: &impl Fn(&TensorIr) -> Option<DispatchTensor>,
) -> Result<Outputs, Unstackable> {
    use NumericOperationIr as Num;
    let of = |tensor: &TensorIr| part(tensor).ok_or_else(Unstackable::no_tensor);
    let maybe = |tensor: &Option<TensorIr>| tensor.as_ref().map(of).transpose();
    let Types { ints, bools } = types;
    // What an operation makes of one tensor.
    macro_rules! one {
        ($op:ident, $input:ident, $function:expr) => {
            vec![($op.out.id, $function(of(&$op.$input)?))]
        };
    }
    macro_rules! base {
        ($op:expr, $unfold:ident, $assign:ident, $all:expr, $any:expr, $all_dim:expr, $any_dim:expr) => {
            match $op {
                BaseOperationIr::Unfold(op) => {
                    one!(op, input, |t| Dispatch::$unfold(
                        t, op.dim, op.size, op.step
                    ))
                }
                BaseOperationIr::SliceAssign(op) => {
                    let value = of(&op.value)?;
                    one!(op, tensor, |t| Dispatch::$assign(t, &op.ranges, value))
                }
                BaseOperationIr::All(op) => one!(op, input, $all),
                BaseOperationIr::Any(op) => one!(op, input, $any),
                BaseOperationIr::AllDim(op) => one!(op, input, |t| $all_dim(t, op.axis)),
                BaseOperationIr::AnyDim(op) => one!(op, input, |t| $any_dim(t, op.axis)),
                op => return Err(Unstackable::no_rule(op)),
            }
        };
    }
    macro_rules! indexed {
        ($op:expr, $select:ident, $scatter:ident, $scatter_nd:ident, $gather_nd:ident, $rest:ident => $else:expr) => {
            match $op {
                BaseOperationIr::SelectAssign(op) => {
                    let (at, value) = (of(&op.indices)?, of(&op.value)?);
                    one!(op, tensor, |t| Dispatch::$select(
                        t, op.dim, at, value, op.update
                    ))
                }
                BaseOperationIr::Scatter(op) => {
                    let (at, value) = (of(&op.indices)?, of(&op.value)?);
                    one!(op, tensor, |t| Dispatch::$scatter(
                        op.dim, t, at, value, op.update
                    ))
                }
                BaseOperationIr::ScatterNd(op) => {
                    let (at, values) = (of(&op.indices)?, of(&op.values)?);
                    one!(op, data, |t| Dispatch::$scatter_nd(
                        t,
                        at,
                        values,
                        op.reduction
                    ))
                }
                BaseOperationIr::GatherNd(op) => {
                    let at = of(&op.indices)?;
                    one!(op, data, |t| Dispatch::$gather_nd(t, at))
                }
                $rest => $else,
            }
        };
    }
    Ok(match op {
        OperationIr::BaseFloat(op) => indexed!(
            op,
            float_select_assign,
            float_scatter,
            float_scatter_nd,
            float_gather_nd,
            op => base!(
                op,
                float_unfold,
                float_slice_assign,
                |t| Dispatch::float_all(t, bools),
                |t| Dispatch::float_any(t, bools),
                |t, axis| Dispatch::float_all_dim(t, axis, bools),
                |t, axis| Dispatch::float_any_dim(t, axis, bools)
            )
        ),
        OperationIr::BaseInt(op) => indexed!(
            op,
            int_select_assign,
            int_scatter,
            int_scatter_nd,
            int_gather_nd,
            op => base!(
                op,
                int_unfold,
                int_slice_assign,
                |t| Dispatch::int_all(t, bools),
                |t| Dispatch::int_any(t, bools),
                |t, axis| Dispatch::int_all_dim(t, axis, bools),
                |t, axis| Dispatch::int_any_dim(t, axis, bools)
            )
        ),
        OperationIr::BaseBool(op) => base!(
            op,
            bool_unfold,
            bool_slice_assign,
            Dispatch::bool_all,
            Dispatch::bool_any,
            Dispatch::bool_all_dim,
            Dispatch::bool_any_dim
        ),
        OperationIr::NumericFloat(_, op) => match op {
            Num::Prod(op) => one!(op, input, Dispatch::float_prod),
            Num::MaxAbs(op) => one!(op, input, Dispatch::float_max_abs),
            Num::MaxAbsDim(op) => one!(op, input, |t| Dispatch::float_max_abs_dim(t, op.axis)),
            Num::CumProd(op) => one!(op, input, |t| Dispatch::float_cumprod(t, op.axis)),
            Num::CumMin(op) => one!(op, input, |t| Dispatch::float_cummin(t, op.axis)),
            Num::CumMax(op) => one!(op, input, |t| Dispatch::float_cummax(t, op.axis)),
            Num::Powi(op) => {
                let rhs = of(&op.rhs)?;
                one!(op, lhs, |lhs| Dispatch::float_powi(lhs, rhs))
            }
            Num::Pad(op) => {
                let mode = op.mode.into();
                one!(op, input, |t| Dispatch::float_pad(t, &op.padding, mode))
            }
            Num::Sort(op) => {
                one!(op, input, |t| Dispatch::float_sort(
                    t,
                    op.dim,
                    op.descending
                ))
            }
            Num::ArgSort(op) => one!(op, input, |t| {
                Dispatch::float_argsort(t, op.dim, op.descending, ints)
            }),
            Num::SortWithIndices(op) => {
                let tensor = of(&op.input)?;
                let made = Dispatch::float_sort_with_indices(tensor, op.dim, op.descending, ints);
                vec![(op.out.id, made.0), (op.out_indices.id, made.1)]
            }
            Num::TopK(op) => {
                let k = op.accumulator_len;
                one!(op, input, |t| Dispatch::float_topk(t, op.axis, k))
            }
            Num::ArgTopK(op) => {
                let k = op.accumulator_len;
                one!(op, input, |t| Dispatch::float_argtopk(t, op.axis, k, ints))
            }
            Num::TopKWithIndices(op) => {
                let made = Dispatch::float_topk_with_indices(of(&op.tensor)?, op.dim, op.k, ints);
                vec![(op.out.id, made.0), (op.out_indices.id, made.1)]
            }
            Num::MaxDimWithIndices(op) => {
                let made = Dispatch::float_max_dim_with_indices(of(&op.tensor)?, op.dim, ints);
                vec![(op.out.id, made.0), (op.out_indices.id, made.1)]
            }
            Num::MinDimWithIndices(op) => {
                let made = Dispatch::float_min_dim_with_indices(of(&op.tensor)?, op.dim, ints);
                vec![(op.out.id, made.0), (op.out_indices.id, made.1)]
            }
            op => return Err(Unstackable::no_rule(op)),
        },
        OperationIr::NumericInt(_, op) => match op {
            Num::Sum(op) => one!(op, input, Dispatch::int_sum),
            Num::Mean(op) => one!(op, input, Dispatch::int_mean),
            Num::Prod(op) => one!(op, input, Dispatch::int_prod),
            Num::Max(op) => one!(op, input, Dispatch::int_max),
            Num::Min(op) => one!(op, input, Dispatch::int_min),
            Num::MaxAbs(op) => one!(op, input, Dispatch::int_max_abs),
            Num::MeanDim(op) => one!(op, input, |t| Dispatch::int_mean_dim(t, op.axis)),
            Num::ProdDim(op) => one!(op, input, |t| Dispatch::int_prod_dim(t, op.axis)),
            Num::MinDim(op) => one!(op, input, |t| Dispatch::int_min_dim(t, op.axis)),
            Num::MaxAbsDim(op) => one!(op, input, |t| Dispatch::int_max_abs_dim(t, op.axis)),
            Num::ArgMax(op) => one!(op, input, |t| Dispatch::int_argmax(t, op.axis)),
            Num::ArgMin(op) => one!(op, input, |t| Dispatch::int_argmin(t, op.axis)),
            Num::CumSum(op) => one!(op, input, |t| Dispatch::int_cumsum(t, op.axis)),
            Num::CumProd(op) => one!(op, input, |t| Dispatch::int_cumprod(t, op.axis)),
            Num::CumMin(op) => one!(op, input, |t| Dispatch::int_cummin(t, op.axis)),
            Num::CumMax(op) => one!(op, input, |t| Dispatch::int_cummax(t, op.axis)),
            Num::Pad(op) => {
                let mode = op.mode.into();
                one!(op, input, |t| Dispatch::int_pad(t, &op.padding, mode))
            }
            Num::Sort(op) => one!(op, input, |t| Dispatch::int_sort(t, op.dim, op.descending)),
            Num::ArgSort(op) => {
                one!(op, input, |t| Dispatch::int_argsort(
                    t,
                    op.dim,
                    op.descending
                ))
            }
            op => return Err(Unstackable::no_rule(op)),
        },
        OperationIr::Int(IntOperationIr::Matmul(op)) => {
            let rhs = of(&op.rhs)?;
            one!(op, lhs, |lhs| Dispatch::int_matmul(lhs, rhs))
        }
        OperationIr::Float(_, op) => match op {
            FloatOperationIr::Cross(op) => {
                let rhs = of(&op.rhs)?;
                one!(op, lhs, |lhs| Dispatch::float_cross(lhs, rhs, op.dim))
            }
            FloatOperationIr::GridSample2d(op) => {
                let (grid, options) = (of(&op.grid)?, op.options.clone().into());
                one!(op, tensor, |t| Dispatch::float_grid_sample_2d(
                    t, grid, options
                ))
            }
            op => return Err(Unstackable::no_rule(op)),
        },
        OperationIr::Activation(ActivationOperationIr::PRelu(op)) => {
            let alpha = of(&op.rhs)?;
            one!(op, lhs, |x| Dispatch::prelu(x, alpha))
        }
        OperationIr::Module(op) => play_module(op, &of, &maybe, types)?,
        op => return Err(Unstackable::no_rule(op)),
    })
}

fn play_module(
    op: &ModuleOperationIr,
    of: &impl Fn(&TensorIr) -> Result<DispatchTensor, Unstackable>,
    maybe: &impl Fn(&Option<TensorIr>) -> Result<Option<DispatchTensor>, Unstackable>,
    types: Types,
) -> Result<Outputs, Unstackable> {
    use ModuleOperationIr as Op;
    macro_rules! convolution {
        ($op:ident, $function:ident) => {{
            let (x, weight, bias) = (of(&$op.x)?, of(&$op.weight)?, maybe(&$op.bias)?);
            let y = Dispatch::$function(x, weight, bias, $op.options.clone().into());
            vec![($op.out.id, y)]
        }};
    }
    macro_rules! with_indices {
        ($op:ident, $function:ident) => {{
            let made = Dispatch::$function(
                of(&$op.x)?,
                $op.kernel_size,
                $op.stride,
                $op.padding,
                $op.dilation,
                $op.ceil_mode,
                types.ints,
            );
            vec![
                ($op.out.id, made.output),
                ($op.out_indices.id, made.indices),
            ]
        }};
    }
    Ok(match op {
        Op::Conv3d(op) => convolution!(op, conv3d),
        Op::ConvTranspose1d(op) => convolution!(op, conv_transpose1d),
        Op::ConvTranspose2d(op) => convolution!(op, conv_transpose2d),
        Op::ConvTranspose3d(op) => convolution!(op, conv_transpose3d),
        Op::DeformableConv2d(op) => {
            let (x, offset, weight) = (of(&op.x)?, of(&op.offset)?, of(&op.weight)?);
            let (mask, bias) = (maybe(&op.mask)?, maybe(&op.bias)?);
            let options = op.options.clone().into();
            let y = Dispatch::deform_conv2d(x, offset, weight, mask, bias, options);
            vec![(op.out.id, y)]
        }
        Op::AvgPool1d(op) => {
            let pads = op.count_include_pad;
            let x = of(&op.x)?;
            let y =
                Dispatch::avg_pool1d(x, op.kernel_size, op.stride, op.padding, pads, op.ceil_mode);
            vec![(op.out.id, y)]
        }
        Op::MaxPool1d(op) => {
            let x = of(&op.x)?;
            let y = Dispatch::max_pool1d(
                x,
                op.kernel_size,
                op.stride,
                op.padding,
                op.dilation,
                op.ceil_mode,
            );
            vec![(op.out.id, y)]
        }
        Op::MaxPool1dWithIndices(op) => with_indices!(op, max_pool1d_with_indices),
        Op::MaxPool2dWithIndices(op) => with_indices!(op, max_pool2d_with_indices),
        Op::AdaptiveAvgPool1d(op) => {
            let y = Dispatch::adaptive_avg_pool1d(of(&op.x)?, op.output_size);
            vec![(op.out.id, y)]
        }
        Op::AdaptiveAvgPool3d(op) => {
            let y = Dispatch::adaptive_avg_pool3d(of(&op.x)?, op.output_size);
            vec![(op.out.id, y)]
        }
        Op::Interpolate(op) => {
            let y = Dispatch::interpolate(of(&op.x)?, op.output_size, op.options.clone().into());
            vec![(op.out.id, y)]
        }
        Op::Unfold4d(op) => {
            let given = &op.options;
            let options = UnfoldOptions::new(given.stride, given.padding, given.dilation);
            vec![(
                op.out.id,
                Dispatch::unfold4d(of(&op.x)?, op.kernel_size, options),
            )]
        }
        Op::Attention(op) => {
            let (query, key, value) = (of(&op.query)?, of(&op.key)?, of(&op.value)?);
            let (mask, bias) = (maybe(&op.mask)?, maybe(&op.attn_bias)?);
            let options = op.options.clone().into();
            let y = Dispatch::attention(query, key, value, mask, bias, options);
            vec![(op.out.id, y)]
        }
        Op::CtcLoss(op) => {
            let (inputs, targets) = (of(&op.input_lengths)?, of(&op.target_lengths)?);
            let (log_probs, labels) = (of(&op.log_probs)?, of(&op.targets)?);
            let loss = Dispatch::ctc_loss(log_probs, labels, inputs, targets, op.blank);
            vec![(op.out.id, loss)]
        }
        op => return Err(Unstackable::no_rule(op)),
    })
}
