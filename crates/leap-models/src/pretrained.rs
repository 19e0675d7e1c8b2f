//! Initializations that ship with the library.

use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;

use crate::conv_net::{ConvNet, ConvNetConfig};
use crate::error::ModelError;

/// An initialization for Omniglot, from which 20 characters of an alphabet are learned in some steps: drawings of shape
/// `[batch, 1, 28, 28]`, 0 where there is ink and 1 elsewhere, to 20 classes. `data/README.md` in the crate is its card: how it was
/// made, and how good it is.
///
/// # Errors
/// [`ModelError`] if the device cannot take it.
///
/// ```
/// use burn::tensor::{Device, Tensor};
///
/// # fn main() -> Result<(), leap_models::ModelError> {
/// let device = Device::flex();
/// let init = leap_models::pretrained::omniglot(&device)?;
/// assert_eq!(init.forward(Tensor::zeros([8, 1, 28, 28], &device)).dims(), [8, 20]);
/// # Ok(())
/// # }
/// ```
pub fn omniglot(device: &Device) -> Result<ConvNet, ModelError> {
    const FILE: &[u8] = include_bytes!("../data/omniglot.safetensors");
    let mut model = ConvNetConfig::new().init(device)?;
    let loaded = model.load_from(&mut SafetensorsStore::from_bytes(Some(FILE.to_vec())));
    match loaded {
        Ok(_) => Ok(model),
        Err(error) => Err(ModelError::new(format!(
            "data/omniglot.safetensors: {error}"
        ))),
    }
}
