//! A task's step, recorded.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Mutex, Once};

use burn::backend::ir::{GraphIr, IrVisitorMut, OperationIr, TensorId, TensorIr};
use burn::backend::{BackendTensor, DispatchTensor, DispatchTensorKind};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::Unstackable;
use crate::error::TaskError;
use crate::tasks::task::StepLoss;

/// A step as operations. Tensors are numbered in the order in which they appear, so that equal steps are equal.
pub(super) struct Record {
    pub operations: Vec<OperationIr>,
    /// The model's tensors of floating-point numbers, in the order in which they are visited; `None` where the step does not
    /// read one.
    pub floats: Vec<Option<TensorId>>,
    /// What the step brought along, such as its batch.
    pub constants: Vec<(TensorId, TensorData)>,
    pub loss: TensorIr,
    pub accuracy: Option<TensorIr>,
}

impl Record {
    /// Whether another one is the same but for the values of its constants.
    pub fn is_like(&self, other: &Self) -> bool {
        self.operations == other.operations
            && self.loss == other.loss
            && self.accuracy == other.accuracy
            && self.constants.len() == other.constants.len()
    }
}

/// A device to record on. They are few, and are used again.
pub(crate) struct Recorder {
    device: Device,
}

static IDLE: Mutex<Vec<Device>> = Mutex::new(Vec::new());

impl Recorder {
    pub fn new() -> Self {
        let idle = IDLE.lock().ok().and_then(|mut idle| idle.pop());
        Self {
            device: idle.unwrap_or_else(Device::capture),
        }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Records `step`, which is given a copy of `model` on the device. The copy is kept for the next time, if that takes
    /// nothing from the model's own device.
    pub(super) fn record<M: Module>(
        &self,
        kept: &mut Option<M>,
        model: &M,
        step: impl FnOnce(&M) -> Result<StepLoss, TaskError>,
    ) -> Result<Record, TaskError> {
        let mut result = None;
        let mut floats = Vec::new();
        let captured = {
            self.device.capture_scope(|scope| {
                let mut blank = Blank {
                    device: &self.device,
                    floats: Vec::new(),
                    has_others: false,
                };
                let copy = match kept.take() {
                    Some(kept) => kept.map(&mut blank),
                    None => model.valid().map(&mut blank).to_device(&self.device),
                };
                *kept = (!blank.has_others).then(|| copy.clone());
                floats = blank.floats;
                let step = step(&copy);
                let outputs = match &step {
                    Err(_) => Vec::new(),
                    Ok(step) => std::iter::once(&step.loss)
                        .chain(&step.accuracy)
                        .filter_map(|tensor| id(&tensor.clone().into_dispatch()))
                        .collect(),
                };
                result = Some(step);
                scope.complete([], outputs)
            })
        };
        let captured = captured.map_err(|error| Unstackable::new(error.to_string()))?;
        let nothing = || Err(Unstackable::new("nothing was recorded").into());
        let step = result.unwrap_or_else(nothing)?;
        if step.score.is_some() {
            return Err(Unstackable::new("a task with a score of its own").into());
        }
        let GraphIr {
            mut operations,
            outputs,
            ..
        } = captured.graph;
        let mut numbers = Numbers::default();
        for operation in &mut operations {
            operation.visit_mut(&mut numbers);
        }
        let known = |id: &TensorId| numbers.0.get(id).copied();
        let constants = captured.values.into_iter();
        let constants = constants.filter_map(|(id, data)| Some((known(&id)?, data)));
        let mut constants = Vec::from_iter(constants);
        constants.sort_by_key(|(id, _)| *id);
        let mut outputs = outputs.iter().map(|id| {
            let id = known(id)?;
            let made = operations.iter().rev().flat_map(OperationIr::outputs);
            made.into_iter().find(|tensor| tensor.id == id).cloned()
        });
        let loss = outputs.next().flatten();
        let loss = loss.ok_or_else(|| Unstackable::new("the loss is a constant"))?;
        let accuracy = step.accuracy.as_ref().and(outputs.next().flatten());
        let floats = floats.iter().map(|id| id.as_ref().and_then(known));
        Ok(Record {
            floats: floats.collect(),
            operations,
            constants,
            loss,
            accuracy,
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Ok(mut idle) = IDLE.lock() {
            idle.push(self.device.clone());
        }
    }
}

thread_local! {
    /// Whether a panic of this thread is not one to be told of.
    static FENCED: Cell<bool> = const { Cell::new(false) };
}

/// Does work on tasks for a device that records. What a task or a model cannot do there ends in a panic of Burn's, such as making
/// a tensor before there is a step, and is the reason why they cannot be recorded.
pub(crate) fn fenced<T>(work: impl FnOnce() -> T) -> Result<T, Unstackable> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let told = take_hook();
        set_hook(Box::new(move |panic| {
            if !FENCED.get() {
                told(panic);
            }
        }));
    });
    let outer = FENCED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    FENCED.set(outer);
    result.map_err(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Unstackable::new(said.unwrap_or("a step that cannot be recorded").to_string())
    })
}

/// The number that a tensor is recorded under.
fn id(tensor: &DispatchTensor) -> Option<TensorId> {
    match &tensor.kind {
        DispatchTensorKind::Capture(BackendTensor::Float(tensor)) => Some(tensor.id()),
        _ => None,
    }
}

/// Puts tensors without values in the place of a model's.
struct Blank<'a> {
    device: &'a Device,
    floats: Vec<Option<TensorId>>,
    /// Whether there are tensors of another kind, whose values are the model's.
    has_others: bool,
}

impl ModuleMapper for Blank<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id_of_param, tensor, mapper) = param.consume();
        let blank = Tensor::<D>::zeros(tensor.dims(), (self.device, tensor.dtype()));
        self.floats.push(id(&blank.clone().into_dispatch()));
        Param::from_mapped_value(id_of_param, blank, mapper)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.has_others = true;
        param.map(|tensor| tensor.to_device(self.device))
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.has_others = true;
        param.map(|tensor| tensor.to_device(self.device))
    }
}

/// Numbers tensors in the order in which they appear.
#[derive(Default)]
struct Numbers(HashMap<TensorId, TensorId>);

impl IrVisitorMut for Numbers {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        let next = TensorId::new(self.0.len() as u64);
        tensor.id = *self.0.entry(tensor.id).or_insert(next);
    }
}
