//! Choosing a device by name, at run time.

use burn::tensor::Device;

use crate::Error;

/// The device that a name such as `flex` or `cuda:1` stands for.
///
/// Known are the backends that the program was built with: `flex`, `ndarray`, `wgpu`, `vulkan`,
/// `metal`, `webgpu`, `cuda`, `rocm`; `:n` picks the n-th GPU of a backend.
///
/// # Errors
/// [`Error::InvalidSetting`] says what there is, or which feature is missing.
pub fn device(name: &str) -> Result<Device, Error> {
    let (backend, index) = match name.split_once(':') {
        None => (name, None),
        Some((backend, index)) => match index.parse::<usize>() {
            Ok(index) => (backend, Some(index)),
            Err(_) => {
                return Err(Error::InvalidSetting(format!(
                    "device `{name}`: `{index}` is not the number of a GPU"
                )));
            }
        },
    };
    let found = match (backend, index) {
        #[cfg(feature = "flex")]
        ("flex", None) => Some(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)] // Burn prefers flex; those who ask for ndarray get it.
        ("ndarray", None) => Some(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        ("wgpu", index) => Some(Device::wgpu(gpu(index))),
        #[cfg(feature = "vulkan")]
        ("vulkan", index) => Some(Device::vulkan(gpu(index))),
        #[cfg(feature = "metal")]
        ("metal", index) => Some(Device::metal(gpu(index))),
        #[cfg(feature = "webgpu")]
        ("webgpu", index) => Some(Device::webgpu(gpu(index))),
        #[cfg(feature = "cuda")]
        ("cuda", index) => Some(Device::cuda(index.unwrap_or(0))),
        #[cfg(feature = "rocm")]
        ("rocm", index) => Some(Device::rocm(index.unwrap_or(0))),
        _ => None,
    };
    let built: Vec<&str> = BACKENDS.iter().filter(|b| b.1).map(|b| b.0).collect();
    found.ok_or_else(|| {
        let known = BACKENDS.iter().find(|b| b.0 == backend);
        let hint = match known {
            Some((_, true)) => format!("`{backend}` is a CPU and has no number"),
            Some((_, false)) => format!("build with `--features {backend}` for it"),
            None => "no such backend".to_string(),
        };
        Error::InvalidSetting(format!(
            "device `{name}`: {hint}; this program was built with: {}",
            built.join(", ")
        ))
    })
}

const BACKENDS: [(&str, bool); 8] = [
    ("flex", cfg!(feature = "flex")),
    ("ndarray", cfg!(feature = "ndarray")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
    ("webgpu", cfg!(feature = "webgpu")),
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
];

#[cfg(feature = "wgpu")]
fn gpu(index: Option<usize>) -> burn::tensor::DeviceKind {
    match index {
        None => burn::tensor::DeviceKind::DefaultDevice,
        Some(index) => burn::tensor::DeviceKind::DiscreteGpu(index),
    }
}
