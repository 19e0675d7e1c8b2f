//! Initializations as files that say what they came from.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::{DType, Tensor};
use fnv::FnvHasher;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::error::Error;

/// The key of the file's metadata.
const SETTINGS: &str = "leap";

/// A model's parameters as safetensors, with settings.
pub(crate) fn to_safetensors<M: Module>(model: &M, settings: &Value) -> Result<Vec<u8>, Error> {
    let store = SafetensorsStore::from_bytes(None);
    let mut store = store.metadata(SETTINGS, settings.to_string());
    let saved = model.save_into(&mut store).and_then(|_| store.get_bytes());
    let wrong = |error| std::io::Error::other(format!("{error:?}"));
    saved.map_err(|error| Error::io("a model's parameters")(wrong(error)))
}

/// An initialization from a safetensors file, which is read once: what becomes of the file afterwards does not matter.
#[derive(Clone, Debug)]
pub struct Initialization {
    path: PathBuf,
    bytes: Vec<u8>,
    settings: Value,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Initialization {
    /// Reads a file, whose parameters are looked at when they are [loaded](Self::load).
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Damaged`] name the file.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let damaged = |why: String| Error::damaged(&path, why);
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let shape = |(name, tensor): (String, TensorView)| (name, tensor.shape().to_vec());
        let shapes = tensors.tensors().into_iter().map(shape).collect();
        let metadata = SafeTensors::read_metadata(&bytes);
        let (_, metadata) = metadata.map_err(|e| damaged(e.to_string()))?;
        let settings = metadata.metadata().as_ref().and_then(|m| m.get(SETTINGS));
        let settings = match settings {
            Some(text) => serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?,
            None => Value::Null,
        };
        Ok(Self {
            path,
            bytes,
            settings,
            shapes,
        })
    }

    /// What a file that a [`Sweep`](crate::Sweep) saved says of itself: its run below `run`, and below `experiment` what is in
    /// the experiment's `config.json`, with [`Experiment::settings`](crate::Experiment::settings) below `settings`; `null` in
    /// other safetensors files.
    pub fn settings(&self) -> &Value {
        &self.settings
    }

    /// The shape of a tensor in the file, by its path in the model, such as `head.weight`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// What is the same for the same tensors and settings, in whatever order the file has them and with any release of this
    /// library and of Rust, to put among an experiment's settings.
    pub fn digest(&self) -> String {
        let mut hasher = FnvHasher::default();
        let tensors = SafeTensors::deserialize(&self.bytes).map(|tensors| tensors.tensors());
        let tensors = BTreeMap::from_iter(tensors.unwrap_or_default());
        for (name, tensor) in &tensors {
            let shape = format!("{name} {:?} {:?};", tensor.dtype(), tensor.shape());
            hasher.write(shape.as_bytes());
            hasher.write(tensor.data());
        }
        hasher.write(self.settings.to_string().as_bytes());
        format!("{:016x}", hasher.finish())
    }

    /// Gives a model the parameters in the file, which must be those that it has, of the same data type, and finite.
    ///
    /// # Errors
    /// [`Error::OtherModel`].
    pub fn load<M: Module>(&self, mut model: M) -> Result<M, Error> {
        let other = |reason: String| Error::OtherModel {
            path: self.path.clone(),
            reason,
        };
        let mut store = SafetensorsStore::from_bytes(Some(self.bytes.clone()));
        let before = data_types(&model);
        let loaded = model.load_from(&mut store);
        let loaded = loaded.map_err(|error| other(error.to_string()))?;
        for ((own, _), (now, is_finite)) in before.into_iter().zip(data_types(&model)) {
            if now != own {
                return Err(other(format!(
                    "its parameters are {now:?}, the model's {own:?}"
                )));
            }
            if !is_finite {
                return Err(other("it has numbers that are not finite".into()));
            }
        }
        match loaded.unused.as_slice() {
            [] => Ok(model),
            unused => Err(other(format!("it has no {}", unused.join(", ")))),
        }
    }
}

/// The data type of each of a model's parameters, in the order in which they are visited, and whether it is finite.
fn data_types<M: Module>(model: &M) -> Vec<(DType, bool)> {
    struct Numbers(Vec<(DType, bool)>);
    impl ModuleVisitor for Numbers {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = param.val().into_data();
            let finite = values.iter::<f64>().all(f64::is_finite);
            self.0.push((values.dtype(), finite));
        }
    }
    let mut numbers = Numbers(Vec::new());
    model.visit(&mut numbers);
    numbers.0
}
