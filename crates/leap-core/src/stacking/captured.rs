//! A step's forward and backward pass as one launch.
//!
//! A small model keeps a GPU busy for less time than it takes to launch its kernels one by one. What a stacked step launches
//! is the same at each step, so that the device can record it once, as a graph, and run the graph from then on.

use burn::backend::{Backend, BackendGraph, Dispatch, DispatchDevice, ExecutionError};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

use super::Unstackable;
use super::script::{Constants, Played, Script};
use super::stack::{flat_floats, with_floats};

/// What the graph reads. It is written over before each run, in place.
struct Inputs {
    /// All floating-point numbers of the model, in the order in which they are visited.
    floats: Tensor<1>,
    constants: Constants,
}

/// A captured step.
pub(super) struct Captured {
    // Dropped before what it reads and writes.
    graph: BackendGraph<Dispatch>,
    inputs: Inputs,
    /// What the graph writes, at each run in the same place.
    outputs: (Played, GradientsParams),
    device: Device,
}

/// A capture that has been begun. What fails or panics on the way must not leave it open, since a device that captures does
/// nothing else.
struct Open<'a>(&'a DispatchDevice);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        drop(Dispatch::graph_stop_capture(self.0));
    }
}

/// How often a step is computed before it is captured: nothing may be compiled, tuned or allocated then.
const WARM_UP: usize = 3;

impl Captured {
    /// Captures the step of `script` for `model` on a batch, if the device can.
    ///
    /// # Errors
    /// What cannot be played.
    pub fn new<M: Module>(
        script: &mut Script,
        model: &M,
        constants: Constants,
    ) -> Result<Option<Self>, Unstackable> {
        let parts = flat_floats(model);
        let sizes = Vec::from_iter(parts.iter().map(|part| part.dims()[0]));
        let Some(floats) = joined(parts) else {
            return Ok(None);
        };
        let device = script.device.clone().without_autodiff();
        let on = device.as_dispatch();
        let inputs = Inputs { floats, constants };
        let mut step = || {
            let parts = inputs.floats.clone().split_with_sizes(sizes.clone(), 0);
            script.step(&with_floats(model, parts, 1), inputs.constants.clone())
        };
        let not = |error: ExecutionError| {
            log::debug!("a step is not captured: {error}");
            None
        };
        if let Err(error) = Dispatch::graph_prepare(on) {
            return Ok(not(error));
        }
        let open = Open(on);
        for _ in 0..WARM_UP {
            // What is dropped before it is asked for may never be computed.
            let outputs = step()?;
            #[expect(clippy::disallowed_methods, reason = "once in a meta-batch")]
            if let Err(error) = Dispatch::sync(on) {
                return Ok(not(error));
            }
            drop(outputs);
        }
        if let Err(error) = Dispatch::graph_start_capture(on) {
            return Ok(not(error));
        }
        let outputs = step()?;
        std::mem::forget(open);
        Ok(match Dispatch::graph_stop_capture(on) {
            Err(error) => not(error),
            Ok(graph) => Some(Self {
                graph,
                inputs,
                outputs,
                device,
            }),
        })
    }

    /// The step for another model and batch.
    pub fn run<M: Module>(
        &mut self,
        model: &M,
        constants: Constants,
    ) -> Result<(Played, GradientsParams), Unstackable> {
        let changed = || Unstackable::new("a model that changes");
        let floats = joined(flat_floats(model)).ok_or_else(changed)?;
        let count = floats.dims()[0];
        let inputs = &mut self.inputs;
        inputs
            .floats
            .inplace(|old| old.slice_assign(0..count, floats));
        for ((_, old), (_, new)) in inputs.constants.iter_mut().zip(constants) {
            old.assign(new)?;
        }
        // SAFETY: what the graph reads and writes lives as long as `self`, no other thread knows of it, and what it reads
        // is written, and what it writes is read, on this thread.
        #[allow(unsafe_code)]
        let replayed = unsafe { Dispatch::graph_replay(self.device.as_dispatch(), &self.graph) };
        replayed.map_err(|error| Unstackable::new(error.to_string()))?;
        // The next run writes over them, while others may keep what they are given.
        let (played, grads) = &self.outputs;
        let mut copies = Copies {
            of: grads,
            copies: GradientsParams::new(),
        };
        model.visit(&mut copies);
        let copy = |tensor: Tensor<1>| tensor.mul_scalar(1.0);
        Ok((played.clone().map(copy), copies.copies))
    }
}

/// The tensors of a model as one, if they are of one type.
fn joined(parts: Vec<Tensor<1>>) -> Option<Tensor<1>> {
    let alike = parts.iter().all(|part| part.dtype() == parts[0].dtype());
    (alike && !parts.is_empty()).then(|| Tensor::cat(parts, 0))
}

/// Copies gradients.
struct Copies<'a> {
    of: &'a GradientsParams,
    copies: GradientsParams,
}

impl ModuleVisitor for Copies<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.of.get::<D>(param.id) {
            self.copies
                .register::<D>(param.id, gradient.mul_scalar(1.0));
        }
    }
}
