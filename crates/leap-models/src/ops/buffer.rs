//! Scratch memory that is used again from step to step.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use aligned_vec::{AVec, ConstAlign};

/// In whole cache lines: the widest vectors are as long as one, and those that lie across two are slow to write and to read
/// again.
type Floats = AVec<f32, ConstAlign<64>>;

thread_local! {
    /// What lies idle on this thread. A training step takes the same few sizes again and again.
    static IDLE: RefCell<Vec<Floats>> = const { RefCell::new(Vec::new()) };
}

/// More than a step of the models here takes at a time; the rest goes back to the system.
const MOST_IDLE: usize = 64;

/// Floats of any value, to be overwritten. When dropped, the memory stays with the thread for the next that asks.
#[derive(Debug)]
pub(super) struct Buffer(Floats);

impl Buffer {
    pub fn take(len: usize) -> Self {
        let idle = IDLE.with_borrow_mut(|idle| {
            // The smallest that is large enough, but not one that is far too large.
            let fits = |v: &Floats| (len..=2 * len + 1024).contains(&v.capacity());
            let best = (0..idle.len())
                .filter(|i| fits(&idle[*i]))
                .min_by_key(|i| idle[*i].capacity());
            best.map(|i| idle.swap_remove(i))
        });
        let mut floats = idle.unwrap_or_else(|| Floats::with_capacity(64, len));
        floats.resize(len, 0.0);
        Self(floats)
    }

    /// A copy.
    pub fn of(values: &[f32]) -> Self {
        let mut buffer = Self::take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::take(len);
        buffer.fill(0.0);
        buffer
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let floats = std::mem::replace(&mut self.0, Floats::new(64));
        // The thread may be at its end, without its store.
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() == MOST_IDLE {
                idle.remove(0);
            }
            idle.push(floats);
        });
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
