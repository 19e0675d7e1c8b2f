//! Memory of observations, used again from step to step.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};

/// What was observed is millions of floats a step on Atari: memory that is new each time costs more, in pages to be cleared
/// and mapped, than the floats themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Recycler(Arc<Mutex<Vec<Vec<f32>>>>);

impl Recycler {
    /// An empty vector, with the memory of data that is no longer in use, if there is any.
    pub fn take(&self) -> Vec<f32> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut floats = idle.pop().unwrap_or_default();
        floats.clear();
        floats
    }

    /// The floats as data of such a shape. Their memory comes back when the last tensor with it is dropped.
    pub fn data<const D: usize>(&self, floats: Vec<f32>, shape: [usize; D]) -> TensorData {
        let lent = Lent(floats, self.clone());
        let bytes = Bytes::from_shared(bytes::Bytes::from_owner(lent), AllocationProperty::Native);
        TensorData::from_bytes(bytes, shape, DType::F32)
    }
}

struct Lent(Vec<f32>, Recycler);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let floats = std::mem::take(&mut self.0);
        let mut idle = self.1.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(floats);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    #[test]
    fn memory_comes_back_with_the_last_tensor() {
        let (memory, device) = (Recycler::default(), Device::flex());
        let floats: Vec<f32> = (0..600).map(|i| i as f32).collect();
        let place = floats.as_ptr();
        let tensor = Tensor::<2>::from_data(memory.data(floats, [20, 30]), &device);
        let copy = tensor.clone();
        drop(tensor);
        assert_eq!(
            memory.take().capacity(),
            0,
            "a tensor is still looking at it"
        );
        assert_eq!(copy.clone().sum().into_scalar::<f32>(), 179_700.0);
        // What is changed is a copy.
        let changed = copy + 1.0;
        assert_eq!(changed.sum().into_scalar::<f32>(), 180_300.0);
        let back = memory.take();
        assert_eq!((back.as_ptr(), back.len()), (place, 0));
    }
}
