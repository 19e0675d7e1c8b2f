//! How tasks are getting on, to be looked at from other threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the tasks that a [trainer](crate::MetaTrainer::with_monitor) trains have come to so far.
#[derive(Debug, Default)]
pub struct Monitor {
    steps: AtomicU64,
    restored: AtomicU64,
    scores: Mutex<BTreeMap<String, f64>>,
}

impl Monitor {
    /// Training steps so far, of all tasks.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Training steps of an earlier process, of tasks that went on from there.
    pub fn restored_steps(&self) -> u64 {
        self.restored.load(Ordering::Relaxed)
    }

    /// The newest score of each task by its name, for tasks that have one.
    pub fn scores(&self) -> BTreeMap<String, f64> {
        let scores = self.scores.lock().unwrap_or_else(PoisonError::into_inner);
        scores.clone()
    }
}

/// A monitor and the task that it is told of.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub monitor: Arc<Monitor>,
    pub name: String,
}

impl Watched {
    pub fn restored(&self, steps: usize) {
        let restored = &self.monitor.restored;
        restored.fetch_add(steps as u64, Ordering::Relaxed);
    }

    pub fn step(&self, score: Option<f64>) {
        self.monitor.steps.fetch_add(1, Ordering::Relaxed);
        let Some(score) = score else { return };
        let scores = &self.monitor.scores;
        let mut scores = scores.lock().unwrap_or_else(PoisonError::into_inner);
        match scores.get_mut(&self.name) {
            Some(newest) => *newest = score,
            None => drop(scores.insert(self.name.clone(), score)),
        }
    }
}
