//! Lanes: where the tasks of a meta-batch run side by side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use burn::tensor::Device;

use crate::Error;

/// The lanes of a run. Tasks are taken from a queue, so that a fast lane takes more of them; the
/// results do not depend on which lane took which task.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    device: Device,
    /// Where the lane's tasks run; `None` is the caller's own thread.
    pool: Option<rayon::ThreadPool>,
}

impl Lanes {
    /// One lane on `device`, on the caller's thread. On a CPU, large operations use all cores; on a
    /// GPU, this is the lane to have.
    pub fn single(device: &Device) -> Self {
        Self {
            lanes: vec![Lane {
                device: device.clone().autodiff(),
                pool: None,
            }],
        }
    }

    /// `count` lanes of one thread each on a CPU `device`. Small models gain little from a second
    /// thread in an operation; tasks gain all of it.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] if `count` is 0, [`Error::Lane`] if the threads cannot be started.
    pub fn threads(device: &Device, count: usize) -> Result<Self, Error> {
        if count == 0 {
            return Err(Error::InvalidSetting(
                "there must be at least one lane".into(),
            ));
        }
        let lanes = (0..count)
            .map(|lane| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(1)
                    .thread_name(move |_| format!("lane-{lane}"))
                    .build()
                    .map_err(|error| Error::Lane(error.to_string()))?;
                Ok(Lane {
                    device: device.clone().autodiff(),
                    pool: Some(pool),
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { lanes })
    }

    /// Number of lanes.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Never: there is at least one lane.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The lanes' devices, with autodiff.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.lanes.iter().map(|lane| &lane.device)
    }

    /// Runs `work` for each of `0..tasks` and returns the results in that order. Each lane has its own
    /// of `states`, one a lane.
    pub(crate) fn run<S: Send, T: Send>(
        &self,
        states: Vec<S>,
        tasks: usize,
        work: impl Fn(&S, &Device, usize) -> T + Sync,
    ) -> Vec<T> {
        let queue = AtomicUsize::new(0);
        let (done, results) = mpsc::channel();
        let drain = |state: S, device: &Device, done: mpsc::Sender<(usize, T)>| {
            loop {
                let task = queue.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                // The receiver outlives every lane.
                let _ = done.send((task, work(&state, device, task)));
            }
        };
        std::thread::scope(|scope| {
            for (lane, state) in self.lanes.iter().zip(states) {
                let (done, drain) = (done.clone(), &drain);
                match &lane.pool {
                    None => drain(state, &lane.device, done),
                    Some(pool) => {
                        scope.spawn(move || pool.install(|| drain(state, &lane.device, done)));
                    }
                }
            }
        });
        drop(done);
        let mut results: Vec<(usize, T)> = results.into_iter().collect();
        results.sort_by_key(|(task, _)| *task);
        results.into_iter().map(|(_, result)| result).collect()
    }
}
