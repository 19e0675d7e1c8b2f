//! Randomness that is not drawn from a task's own generator: dropout, noise and layers that are made on the device.

use std::sync::OnceLock;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rand::RngCore;

use crate::devices::generator::lend;
use crate::error::TaskError;
use crate::seed::TaskSeed;
use crate::tasks::task::{HeldOut, StepLoss, Task};

/// Streams of a task's seed, far from those that tasks use.
const SET_UP: u64 = u64::MAX;
const LOSS: u64 = u64::MAX - 1;
const QUERY: u64 = u64::MAX - 2;
const HELD_OUT: u64 = u64::MAX - 3;
const VALIDATION: u64 = u64::MAX - 4;

/// What a task or its model draws on the device, as numbers of the task's seed: the same for any number of lanes, and after a
/// resume.
///
/// Tasks that draw share the device's generator, one at a time. Whether a task does is seen at its first step, so that
/// others do not wait for each other.
pub(super) struct Seeded<T> {
    task: T,
    seed: TaskSeed,
    device: Device,
    losses: Draws,
    queries: Draws,
}

/// What is drawn at each step.
#[derive(Clone)]
struct Draws {
    stream: u64,
    /// Number of steps so far.
    steps: u64,
    /// Whether anything is drawn, if that is known.
    happen: Option<bool>,
}

impl Draws {
    fn new(stream: u64) -> Self {
        Self {
            stream,
            steps: 0,
            happen: None,
        }
    }

    fn step<T>(&mut self, seed: &TaskSeed, device: &Device, work: impl FnOnce() -> T) -> T {
        let seed = number(seed, self.stream, self.steps);
        self.steps += 1;
        match self.happen {
            Some(false) => work(),
            Some(true) => lend(device, seed, false, work).0,
            None => {
                let (done, happen) = lend(device, seed, true, work);
                self.happen = Some(happen);
                done
            }
        }
    }
}

fn number(seed: &TaskSeed, stream: u64, step: u64) -> u64 {
    let mut rng = seed.rng(stream);
    rng.set_word_pos(2 * u128::from(step));
    rng.next_u64()
}

/// Sets a task up. Whether that draws anything is seen at the first task that `happens` knows of.
pub(super) fn set_up<T>(
    seed: &TaskSeed,
    device: &Device,
    happens: &OnceLock<bool>,
    work: impl FnOnce() -> T,
) -> T {
    let seed = number(seed, SET_UP, 0);
    match happens.get() {
        Some(false) => work(),
        Some(true) => lend(device, seed, false, work).0,
        None => {
            let (done, has_drawn) = lend(device, seed, true, work);
            let _ = happens.set(has_drawn); // Another lane may have been first.
            done
        }
    }
}

impl<T> Seeded<T> {
    pub fn new(task: T, seed: TaskSeed, device: &Device) -> Self {
        Self {
            task,
            seed,
            device: device.clone(),
            losses: Draws::new(LOSS),
            queries: Draws::new(QUERY),
        }
    }

    /// Looks at a model in evaluation mode.
    fn evaluate<R>(&mut self, stream: u64, step: u64, look: impl FnOnce(&mut T) -> R) -> R {
        let task = &mut self.task;
        match self.losses.happen {
            // Dropout is off; what is left is the task's own.
            Some(false) => look(task),
            _ => {
                let seed = number(&self.seed, stream, step);
                lend(&self.device, seed, false, || look(task)).0
            }
        }
    }
}

impl<M: Module, T: Task<M>> Task<M> for Seeded<T> {
    fn start(&mut self, init: M) -> Result<M, TaskError> {
        self.task.start(init)
    }

    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let task = &mut self.task;
        self.losses
            .step(&self.seed, &self.device, || task.loss(model))
    }

    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        let task = &mut self.task;
        self.queries
            .step(&self.seed, &self.device, || task.query(model))
    }

    fn steps(&self) -> Option<usize> {
        self.task.steps()
    }

    fn turns(&self) -> Option<usize> {
        self.task.turns()
    }

    fn validate(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        let step = self.losses.steps;
        self.evaluate(VALIDATION, step, |task| task.validate(model))
    }

    fn fork(&self) -> Option<Self> {
        Some(Self {
            task: self.task.fork()?,
            seed: self.seed,
            device: self.device.clone(),
            losses: self.losses.clone(),
            queries: self.queries.clone(),
        })
    }

    fn save(&mut self) -> Result<Option<Vec<u8>>, TaskError> {
        let saved = self.task.save()?.map(|task| {
            let steps = [self.losses.steps, self.queries.steps].map(u64::to_le_bytes);
            [&steps.concat(), &task[..]].concat()
        });
        Ok(saved)
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), TaskError> {
        let (losses, rest) = saved.split_first_chunk().ok_or(CUT_OFF)?;
        let (queries, rest) = rest.split_first_chunk().ok_or(CUT_OFF)?;
        self.losses.steps = u64::from_le_bytes(*losses);
        self.queries.steps = u64::from_le_bytes(*queries);
        self.task.restore(rest)
    }

    fn held_out(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        self.evaluate(HELD_OUT, 0, |task| task.held_out(model))
    }
}

const CUT_OFF: &str = "what was saved of the task is cut off";
