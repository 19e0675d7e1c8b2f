//! Initializations as files that say what they came from.

use std::path::Path;

use burn::module::Module;
use burn::store::{ModuleSnapshot, SafetensorsStore};
use safetensors::SafeTensors;
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

/// What a file of an initialization that a [`Sweep`](crate::Sweep) saved says of itself: its run below `run`, and below
/// `experiment` what is in the experiment's `config.json`, with
/// [`Experiment::settings`](crate::Experiment::settings) below `settings`; `null` in other safetensors files.
///
/// # Errors
/// [`Error::Io`] and [`Error::Damaged`] name the file.
pub fn read_settings(path: impl AsRef<Path>) -> Result<Value, Error> {
    let path = path.as_ref();
    settings(path, &std::fs::read(path).map_err(Error::io(path))?)
}

fn settings(path: &Path, bytes: &[u8]) -> Result<Value, Error> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| Error::damaged(path, e))?;
    let all = metadata.metadata().as_ref();
    match all.and_then(|all| all.get(SETTINGS)) {
        Some(text) => serde_json::from_str(text).map_err(|e| Error::damaged(path, e)),
        None => Ok(Value::Null),
    }
}

/// Gives a model the parameters that were saved in a safetensors file.
///
/// # Errors
/// [`Error::Io`] and [`Error::Damaged`] name the file, which may be one of another model.
pub fn load_initialization<M: Module>(path: impl AsRef<Path>, mut model: M) -> Result<M, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let loaded = model.load_from(&mut SafetensorsStore::from_bytes(Some(bytes)));
    let wrong = |e| Error::damaged(path, format!("or it is of another model: {e}"));
    loaded.map_err(wrong)?;
    Ok(model)
}
