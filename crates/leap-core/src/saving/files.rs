//! Files that are whole or not there.

use std::fs::{self, File};
use std::hash::Hasher;
use std::io::ErrorKind;
use std::path::Path;

use fnv::FnvHasher;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// A checksum: Burn panics on records that are damaged.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// Writes a file, with its checksum at the end, under another name and then renames it, so that there is never half of one.
pub(crate) fn write(file: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut bytes = rmp_serde::to_vec_named(value).map_err(Error::saved)?;
    bytes.extend(checksum(&bytes).to_le_bytes());
    let beside = file.with_extension("new");
    fs::write(&beside, bytes).map_err(Error::io(&beside))?;
    flush(&beside)?;
    fs::rename(&beside, file).map_err(Error::io(file))
}

pub(crate) const DAMAGED: &str = "it is damaged: its checksum is another";

/// Reads what [`write`] wrote; `None` if there is no such file.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, Error> {
    if !file.exists() {
        return Ok(None);
    }
    let bytes = fs::read(file).map_err(Error::io(file))?;
    let damaged = |reason: String| Error::Checkpoint {
        path: file.to_path_buf(),
        reason,
    };
    match bytes.split_last_chunk() {
        Some((bytes, sum)) if checksum(bytes) == u64::from_le_bytes(*sum) => {
            let value = rmp_serde::from_slice(bytes);
            value.map(Some).map_err(|error| damaged(error.to_string()))
        }
        _ => Err(damaged(DAMAGED.into())),
    }
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
