//! Choosing devices by name, at run time.

use burn::tensor::Device;

use crate::error::Error;

/// The devices that a comma-separated list of names stands for, each as in [`device`].
///
/// # Errors
/// Those of [`device`].
pub fn devices(names: &str) -> Result<Vec<Device>, Error> {
    names.split(',').map(|name| device(name.trim())).collect()
}

/// The device that a name stands for.
///
/// | name | device |
/// | --- | --- |
/// | `flex`, `ndarray` | the CPU |
/// | `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda`, `rocm` | the backend's best GPU |
/// | `cuda:1`, … | the GPU with that number in [`available_devices`] |
/// | `ws://host:port` | a worker's device, in a network that is trusted |
/// | `iroh:ID`, `iroh:ID@address:port` | a worker's device, anywhere, or at an address that is reached without relays |
///
/// `#1` behind a worker's name picks the second of its devices. The token that a worker asks for is taken from
/// the environment variable `LEAP_TOKEN`. Each backend is a feature of this crate, workers are `remote`.
///
/// # Errors
/// [`Error::Device`] says which feature or device is missing, and what there is.
pub fn device(name: &str) -> Result<Device, Error> {
    let fail = |reason: String| Error::Device {
        name: name.to_string(),
        reason,
    };
    if name.starts_with("ws://") || name.starts_with("iroh:") {
        return worker(name).map_err(fail);
    }
    let (backend, number) = match name.split_once(':') {
        None => (name, None),
        Some((backend, number)) => match number.parse::<usize>() {
            Ok(number) => (backend, Some(number)),
            Err(_) => return Err(fail(format!("`{number}` is not the number of a device"))),
        },
    };
    let Some(&(_, compiled)) = BACKENDS.iter().find(|(known, _)| *known == backend) else {
        return Err(fail(format!(
            "there is no such backend; {}",
            what_there_is()
        )));
    };
    if !compiled {
        return Err(fail(format!(
            "build with `--features {backend}` for it; {}",
            what_there_is()
        )));
    }
    let found = match number {
        Some(_) if matches!(backend, "flex" | "ndarray") => {
            return Err(fail(format!("`{backend}` is the CPU and has no numbers")));
        }
        Some(number) => found(backend).into_iter().nth(number),
        None if found(backend).is_empty() => None,
        None => best(backend),
    };
    let found = found.ok_or_else(|| fail(format!("it was not found; {}", what_there_is())))?;
    #[cfg(feature = "vulkan")]
    if matches!(backend, "wgpu" | "vulkan") && is_software(&found) {
        return Err(fail(
            "it is a Vulkan device in software, in which the kernels that the feature `vulkan` brings crash; \
             build with `--features wgpu` alone for it"
                .into(),
        ));
    }
    Ok(found)
}

/// All devices of this machine that the program was built for, by the names that [`device`] takes.
pub fn available_devices() -> Vec<(String, Device)> {
    let compiled = BACKENDS.iter().filter(|(_, compiled)| *compiled);
    let named = compiled.flat_map(|(backend, _)| {
        let found = found(backend).into_iter().enumerate();
        found.map(move |(number, device)| match is_cpu(&device) {
            true => (backend.to_string(), device),
            false => (format!("{backend}:{number}"), device),
        })
    });
    named.collect()
}

/// Whether the device is the CPU that this program runs on, whose cores lanes divide among them.
pub fn is_cpu(device: &Device) -> bool {
    matches!(backend(device).as_str(), "Flex" | "NdArray")
}

/// Whether the device is a worker's.
pub(crate) fn is_remote(device: &Device) -> bool {
    backend(device) == "Remote"
}

/// Whether the device is of a GPU's backend that this crate was built for.
pub(crate) fn is_cube(device: &Device) -> bool {
    cfg!(feature = "cube") && backend(device) == "Cube"
}

/// The device in Burn's words.
fn shown(device: &Device) -> String {
    format!("{:?}", device.clone().without_autodiff().as_dispatch())
}

/// The backend's name in Burn. Which there are is up to Burn's features, which may be more than this crate's.
fn backend(device: &Device) -> String {
    let shown = shown(device);
    let end = shown.find('(').unwrap_or(shown.len());
    shown[..end].to_string()
}

/// The unit roundoff of the device's products of float32 matrices: 2⁻²⁴, and on CUDA 2⁻¹¹. There Burn's autotuner may take
/// kernels for tensor cores, which round both factors to TF32; Burn 0.22 has no setting against it. What a worker's device
/// does is not known, and 2⁻²⁴ is said.
pub fn product_roundoff(device: &Device) -> f64 {
    let digits = match shown(device).contains("Cuda") {
        true => 11,
        false => 24,
    };
    0.5_f64.powi(digits)
}

/// What the device calls itself, such as the GPU's product name.
pub fn describe_device(device: &Device) -> String {
    #[cfg(feature = "cube")]
    if backend(device) == "Cube"
        && let Some(identity) = device.identity()
    {
        return identity.name;
    }
    match is_cpu(device) {
        true => format!(
            "{} cores",
            std::thread::available_parallelism().map_or(1, |n| n.get())
        ),
        false if is_remote(device) => "a worker".to_string(),
        false => backend(device),
    }
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

fn what_there_is() -> String {
    let names: Vec<String> = available_devices().into_iter().map(|d| d.0).collect();
    let remote = match cfg!(feature = "remote") {
        true => ", and workers at ws:// and iroh:",
        false => "",
    };
    match names.is_empty() {
        true => format!("this program finds no device{remote}"),
        false => format!("this program finds {}{remote}", names.join(", ")),
    }
}

/// The devices of a backend that is compiled in; none where its driver is missing.
#[allow(unreachable_code, unused_variables)] // Without any backend.
fn found(backend: &str) -> Vec<Device> {
    #[allow(unused_imports)]
    use burn::tensor::DeviceType;
    let kind: DeviceType = match backend {
        #[cfg(feature = "flex")]
        "flex" => DeviceType::Flex,
        #[cfg(feature = "ndarray")]
        "ndarray" => DeviceType::NdArray,
        #[cfg(feature = "wgpu")]
        "wgpu" => DeviceType::Wgpu,
        #[cfg(feature = "vulkan")]
        "vulkan" => DeviceType::Vulkan,
        #[cfg(feature = "metal")]
        "metal" => DeviceType::Metal,
        #[cfg(feature = "webgpu")]
        "webgpu" => DeviceType::WebGpu,
        #[cfg(feature = "cuda")]
        "cuda" => DeviceType::Cuda,
        #[cfg(feature = "rocm")]
        "rocm" => DeviceType::Rocm,
        _ => return Vec::new(),
    };
    // Some drivers that are not there are met by a panic.
    let enumerate = std::panic::AssertUnwindSafe(|| Device::enumerate(kind).into_vec());
    std::panic::catch_unwind(enumerate).unwrap_or_default()
}

/// The device of a backend that is compiled in and has devices.
fn best(backend: &str) -> Option<Device> {
    #[allow(unused_imports)]
    use burn::tensor::DeviceKind::DefaultDevice;
    match backend {
        #[cfg(feature = "wgpu")]
        "wgpu" => Some(Device::wgpu(DefaultDevice)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Some(Device::vulkan(DefaultDevice)),
        #[cfg(feature = "metal")]
        "metal" => Some(Device::metal(DefaultDevice)),
        #[cfg(feature = "webgpu")]
        "webgpu" => Some(Device::webgpu(DefaultDevice)),
        _ => found(backend).into_iter().next(),
    }
}

/// Whether a device is a GPU that software plays on the processor, such as Mesa's llvmpipe, by the name of its driver.
pub fn is_software(device: &Device) -> bool {
    let name = describe_device(device).to_lowercase();
    ["llvmpipe", "swiftshader"]
        .iter()
        .any(|driver| name.contains(driver))
}

#[cfg(feature = "remote")]
use crate::devices::remote::worker;

#[cfg(not(feature = "remote"))]
fn worker(_name: &str) -> Result<Device, String> {
    Err(format!(
        "build with `--features remote` for workers; {}",
        what_there_is()
    ))
}
