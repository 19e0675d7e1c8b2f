//! The generators of devices: where Burn's random tensors come from, and with them dropout and the initializers of layers.
//!
//! A backend has one generator for all threads of a process. Here it is lent: while one task draws, no other does, and its
//! numbers begin at a seed of the task's own.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Distribution, Tensor};

use crate::devices::device::is_cpu;
use crate::space::params::read_back;

/// Does `work` with the device's generator at `seed`: what Burn draws in it, such as the parameters of new layers, are the
/// same numbers each time, whatever is trained on other threads meanwhile.
///
/// Parameters are drawn when they are first asked for; [`task_copy`](crate::task_copy) asks for all of a model's. Threads
/// that draw from the generator on their own, without this function or a trainer, still come between.
pub fn with_device_seed<T>(device: &Device, seed: u64, work: impl FnOnce() -> T) -> T {
    lend(device, seed, false, work).0
}

static LENT: Mutex<()> = Mutex::new(());

thread_local! {
    /// Whether the generators are lent to this thread already, by a training that this one is a part of.
    static IS_MINE: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` with the generator of `device` at `seed`, and says whether anything was drawn from it, if `watch` asks for
/// it.
///
/// Afterwards the generator goes on as if it had drawn a few numbers; on a GPU, where that would have to be read back, it
/// goes on anywhere.
pub(crate) fn lend<T>(
    device: &Device,
    seed: u64,
    watch: bool,
    work: impl FnOnce() -> T,
) -> (T, bool) {
    if IS_MINE.get() {
        return (work(), true);
    }
    let _lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
    let _mine = Mine::new();
    let device = device.clone().without_autodiff();
    let after = match is_cpu(&device) {
        true => draw(&device).unwrap_or_default(),
        false => rand::random(),
    };
    device.seed(seed);
    let done = work();
    let has_drawn = watch && {
        let now = draw(&device);
        device.seed(seed);
        now.is_none() || now != draw(&device)
    };
    device.seed(after);
    (done, has_drawn)
}

struct Mine;

impl Mine {
    fn new() -> Self {
        IS_MINE.set(true);
        Self
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        IS_MINE.set(false); // After a panic, too.
    }
}

/// A number from the generator; `None` where the device does not answer.
fn draw(device: &Device) -> Option<u64> {
    let numbers = Tensor::<1>::random([4], Distribution::Uniform(0.0, 1.0), device);
    let numbers = read_back(numbers).ok()?;
    let bits = numbers.iter().map(|number| (number * 65536.0) as u64);
    Some(bits.fold(0, |all, bits| (all << 16) | (bits & 0xffff)))
}
