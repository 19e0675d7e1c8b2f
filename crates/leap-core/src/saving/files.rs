//! Files that are whole or not there.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Writes a file under another name and then renames it, so that there is never half of one.
pub(crate) fn write(file: &Path, value: &impl Serialize) -> Result<(), Error> {
    let bytes = rmp_serde::to_vec_named(value).map_err(Error::saved)?;
    let beside = file.with_extension("new");
    fs::write(&beside, bytes).map_err(Error::io(&beside))?;
    flush(&beside)?;
    fs::rename(&beside, file).map_err(Error::io(file))
}

/// Reads what [`write`] wrote; `None` if there is no such file.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, Error> {
    if !file.exists() {
        return Ok(None);
    }
    let bytes = fs::read(file).map_err(Error::io(file))?;
    let value = rmp_serde::from_slice(&bytes);
    value.map(Some).map_err(|error| Error::Checkpoint {
        path: file.to_path_buf(),
        reason: error.to_string(),
    })
}

/// Removes a folder that other processes may remove, too.
pub(crate) fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(folder)(error)),
        _ => Ok(()),
    }
}

/// Asks the system to bring a file, or a folder's list of names, to the disk.
pub(crate) fn flush(path: &Path) -> Result<(), Error> {
    if cfg!(not(unix)) && path.is_dir() {
        return Ok(()); // Only Unix opens folders.
    }
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io(path))
}
