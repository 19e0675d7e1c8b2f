//! Copies of a model for its tasks, and the ids that its parameters are known by.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Device, Int, Tensor};

/// A model that starts at `init` and shares nothing with it that training changes.
///
/// A plain clone of a Burn module shares its running statistics with the original, so that training
/// the one would change the other.
pub fn task_copy<M: Module>(init: &M) -> M {
    init.valid().train()
}

/// As [`task_copy`], on `device`.
pub(crate) fn task_copy_on<M: Module>(init: &M, device: &Device) -> M {
    let copy = task_copy(init);
    match copy.devices().iter().all(|d| d == device) {
        true => copy,
        false => copy.fork(device),
    }
}

/// Draws the parameters that Burn draws when they are first asked for.
pub(crate) fn initialize<M: Module>(model: &M) {
    struct Initialize;
    impl ModuleVisitor for Initialize {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            drop(param.val());
        }
    }
    model.visit(&mut Initialize);
}

/// The ids of all of a model's parameters, in the order in which they are visited.
pub(crate) fn ids<M: Module>(model: &M) -> Vec<ParamId> {
    struct Ids(Vec<ParamId>);
    impl ModuleVisitor for Ids {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.id);
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.0.push(param.id);
        }
        fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
            self.0.push(param.id);
        }
    }
    let mut ids = Ids(Vec::new());
    model.visit(&mut ids);
    ids.0
}

/// The model with other ids for its parameters, of which `names` knows all.
pub(crate) fn rename<M: Module>(model: M, names: &HashMap<ParamId, ParamId>) -> M {
    struct Rename<'a>(&'a HashMap<ParamId, ParamId>);
    macro_rules! rename {
        ($self:ident, $param:ident) => {{
            let (id, tensor, mapper) = $param.consume();
            let id = $self.0.get(&id).copied().unwrap_or(id);
            Param::from_mapped_value(id, tensor, mapper)
        }};
    }
    impl ModuleMapper for Rename<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            rename!(self, param)
        }
        fn map_int<const D: usize>(
            &mut self,
            param: Param<Tensor<D, Int>>,
        ) -> Param<Tensor<D, Int>> {
            rename!(self, param)
        }
        fn map_bool<const D: usize>(
            &mut self,
            param: Param<Tensor<D, Bool>>,
        ) -> Param<Tensor<D, Bool>> {
            rename!(self, param)
        }
    }
    model.map(&mut Rename(names))
}
