//! Where randomness comes from: generators on the host, one for each purpose.
//!
//! Every random choice of a run is drawn from a generator that is seeded by (seed, meta-step, task),
//! so that a run gives the same numbers on any backend, with any number of lanes, after a resume.

use std::hash::Hasher;

use fnv::FnvHasher;
use rand::SeedableRng;
use serde::{Deserialize, Serialize};

/// The generator that tasks draw from.
pub type TaskRng = rand_chacha::ChaCha8Rng;

/// Which of a run's tasks, and thereby all that is random in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSeed {
    /// The run's seed.
    pub seed: u64,
    /// The purpose, so that held-out tasks never share numbers with meta-training.
    pub purpose: Purpose,
    /// The meta-step, counted from 0 (0 on held-out tasks).
    pub meta_step: u64,
    /// The position in the meta-batch, or the index among the held-out tasks.
    pub task: u64,
}

/// What a generator is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// The draw of a meta-batch's tasks.
    Sampling,
    /// A task of a meta-batch.
    Training,
    /// A held-out task.
    HeldOut,
}

impl TaskSeed {
    /// A fresh generator; `stream` separates the uses that one task has for randomness.
    pub fn rng(&self, stream: u64) -> TaskRng {
        let mut rng = TaskRng::from_seed(pack([
            self.seed,
            self.purpose as u64,
            self.meta_step,
            self.task,
        ]));
        rng.set_stream(stream);
        rng
    }
}

impl std::fmt::Display for TaskSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.purpose {
            Purpose::HeldOut => write!(f, "seed {}, held-out task {}", self.seed, self.task),
            _ => write!(
                f,
                "seed {}, meta-step {}, task {}",
                self.seed, self.meta_step, self.task
            ),
        }
    }
}

/// A generator for what belongs to a whole run: initial parameters, splits of a data set. `purpose`
/// says which, and separates it from the others.
pub fn run_rng(seed: u64, purpose: &str) -> TaskRng {
    let hash = |mut hasher: FnvHasher| {
        hasher.write(purpose.as_bytes());
        hasher.finish()
    };
    let (first, second) = (FnvHasher::default(), FnvHasher::with_key(1));
    let words = [seed, u64::MAX, hash(first), hash(second)];
    TaskRng::from_seed(pack(words))
}

fn pack(words: [u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
