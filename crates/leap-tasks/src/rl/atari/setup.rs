//! The virtual environment in which `ale-py` is, and the version of Python that it is for.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use leap_core::TaskError;
use pyo3::Python;

/// Where `ale-py` is looked for: the virtual environment that is active, or else the folder `.venv`.
pub fn virtual_environment() -> PathBuf {
    match env::var_os("VIRTUAL_ENV") {
        Some(path) => path.into(),
        None => ".venv".into(),
    }
}

/// Sets up a virtual environment with `ale-py` in `folder`, for the version of Python that this program was linked with.
///
/// # Errors
/// If the command for that version of Python is missing, or fails.
pub fn set_up(folder: &Path) -> Result<(), TaskError> {
    let version = version();
    let run = |command: &mut Command| -> Result<(), TaskError> {
        let shown = format!("{command:?}");
        let status = command.status().map_err(|e| format!("{shown}: {e}"))?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{shown} failed").into()),
        }
    };
    let python = format!("python{version}");
    run(Command::new(python).args(["-m", "venv"]).arg(folder))?;
    let pip = folder.join("bin/pip");
    run(Command::new(pip).args(["install", "--quiet", "ale-py==0.12.*", "gymnasium>=1"]))
}

/// The version of Python that this program was linked with, such as `3.11`.
pub(super) fn version() -> String {
    Python::initialize();
    Python::attach(|py| {
        let version = py.version_info();
        format!("{}.{}", version.major, version.minor)
    })
}
