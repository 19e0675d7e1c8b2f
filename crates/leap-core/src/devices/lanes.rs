//! Lanes: where the tasks of a meta-batch run side by side.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Tensor};

use crate::devices::cluster::{Cluster, Summation};
use crate::devices::device::{is_cpu, is_remote};
use crate::error::Error;

/// The lanes of a run: threads of the CPU, GPUs, devices of workers, or a mix. Tasks are taken from a queue, so that
/// a fast lane takes more of them; the results do not depend on which lane took which task.
///
/// A lane on a worker may be lost: the worker ends, hangs or cannot be reached. Its task then runs again on another
/// lane, and it gets no more. The initialization itself had better be kept on a device of this machine, such as the CPU.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    cluster: Option<(Box<dyn Cluster>, Summation)>,
}

#[derive(Debug)]
struct Lane {
    device: Device,
    /// Where the lane's tasks run; `None` is a thread without a limit on those that help it.
    pool: Option<rayon::ThreadPool>,
    lost: AtomicBool,
}

impl Lane {
    fn new(device: &Device, pool: Option<rayon::ThreadPool>) -> Self {
        Self {
            device: device.clone().autodiff(),
            pool,
            lost: AtomicBool::new(false),
        }
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Lanes {
    /// One lane on `device`. On a CPU, large operations use all cores; on a GPU, this is the lane to have.
    pub fn single(device: &Device) -> Self {
        Self {
            lanes: vec![Lane::new(device, None)],
            cluster: None,
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
                Ok(Lane::new(device, Some(pool)))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            lanes,
            cluster: None,
        })
    }

    /// Lanes on several devices: one on each GPU and on each device of a worker, `threads` on a CPU, as in
    /// [`threads`](Self::threads).
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] without devices or if there is a CPU and `threads` is 0, [`Error::Lane`] if the
    /// threads cannot be started.
    pub fn on(devices: &[Device], threads: usize) -> Result<Self, Error> {
        let mut lanes = Vec::new();
        for device in devices {
            let more = match is_cpu(device) {
                true => Self::threads(device, threads)?,
                false => Self::single(device),
            };
            lanes.extend(more.lanes);
        }
        match lanes.is_empty() {
            true => Err(Error::InvalidSetting("there are no devices".into())),
            false => Ok(Self {
                lanes,
                cluster: None,
            }),
        }
    }

    /// Shares meta-batches with the other processes of `cluster`, each of which has lanes of its own. All have to make
    /// the same calls; rank 0 alone saves checkpoints.
    pub fn with_cluster(mut self, cluster: impl Cluster + 'static, summation: Summation) -> Self {
        self.cluster = Some((Box::new(cluster), summation));
        self
    }

    /// The cluster, if there is one.
    pub fn cluster(&self) -> Option<&dyn Cluster> {
        self.cluster.as_ref().map(|(cluster, _)| cluster.as_ref())
    }

    /// How the cluster's meta-gradients are added.
    pub(crate) fn summation(&self) -> Summation {
        self.cluster
            .as_ref()
            .map_or(Summation::Fast, |(_, summation)| *summation)
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

    /// Does `work` for each of `0..tasks` and returns the results in that order. Each lane works with a state of
    /// its own, which `prepare` makes on the lane's device.
    ///
    /// The first error of a task ends the run; the loss of a lane does not, as long as there is another.
    pub(crate) fn run<S: Send, T: Send>(
        &self,
        tasks: usize,
        prepare: impl Fn(&Device) -> S,
        work: impl Fn(&S, &Device, usize) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let queue = Queue::new(tasks);
        let drain = |lane: &Lane, state: S| {
            while let Some(task) = queue.next() {
                match lane.attempt(|| work(&state, &lane.device, task)) {
                    Ok(result) => queue.finish(task, result),
                    Err(Failure::Lost(reason)) => {
                        queue.give_back(task, reason);
                        // Its tensors are on a device that does not answer.
                        let _ = catch_unwind(AssertUnwindSafe(|| drop(state)));
                        break;
                    }
                    Err(Failure::Panic(panic)) => {
                        queue.stop();
                        resume_unwind(panic);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let mut own = None;
            for lane in self.lanes.iter().filter(|lane| !lane.is_lost()) {
                let state = match lane.attempt(|| Ok(prepare(&lane.device))) {
                    Ok(Ok(state)) => state,
                    Ok(Err(error)) => {
                        queue.lock().lost = Some(error.to_string());
                        continue;
                    }
                    Err(Failure::Lost(reason)) => {
                        queue.lock().lost = Some(reason);
                        continue;
                    }
                    Err(Failure::Panic(panic)) => {
                        queue.stop();
                        resume_unwind(panic);
                    }
                };
                let drain = &drain;
                match &lane.pool {
                    Some(pool) => {
                        scope.spawn(move || pool.install(|| drain(lane, state)));
                    }
                    None if own.is_none() => own = Some((lane, state)),
                    None => {
                        scope.spawn(move || drain(lane, state));
                    }
                }
            }
            if let Some((lane, state)) = own {
                drain(lane, state);
            }
        });
        queue.into_results()
    }
}

/// Why a lane did not come to the end of a task.
enum Failure {
    /// Its device does not answer.
    Lost(String),
    /// A panic on a device of this machine, which is not the device's fault.
    Panic(Box<dyn Any + Send>),
}

impl Lane {
    /// Whether the device still delivers what is read back.
    #[allow(
        clippy::disallowed_methods,
        reason = "a tensor of its own, after a failure"
    )]
    fn answers(&self) -> bool {
        let one = || Tensor::<1>::ones([1], &self.device).try_into_data().is_ok();
        catch_unwind(AssertUnwindSafe(one)).unwrap_or(false)
    }

    fn attempt<T>(
        &self,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Result<T, Error>, Failure> {
        let is_remote = is_remote(&self.device);
        let reason = match catch_unwind(AssertUnwindSafe(work)) {
            Err(panic) if !is_remote => return Err(Failure::Panic(panic)),
            Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
                (Some(message), _) => message.clone(),
                (_, Some(message)) => message.to_string(),
                _ => "a panic".to_string(),
            },
            Ok(Err(error)) if is_remote && !self.answers() => error.to_string(),
            Ok(result) => return Ok(result),
        };
        self.lost.store(true, Ordering::Relaxed);
        log::warn!("the lane on {:?} is lost: {reason}", self.device);
        Err(Failure::Lost(reason))
    }
}

/// The tasks that wait, those that run, and the results.
struct Queue<T> {
    state: Mutex<QueueState<T>>,
    changed: Condvar,
}

struct QueueState<T> {
    waiting: VecDeque<usize>,
    running: usize,
    results: Vec<Option<T>>,
    /// Of the first task that has one.
    error: Option<(usize, Error)>,
    stopped: bool,
    /// Why the last lane was lost.
    lost: Option<String>,
}

impl<T> Queue<T> {
    fn new(tasks: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                waiting: (0..tasks).collect(),
                running: 0,
                results: (0..tasks).map(|_| None).collect(),
                error: None,
                stopped: false,
                lost: None,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; waits for those that run, as one may come back.
    fn next(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(task) = state.waiting.pop_front() {
                state.running += 1;
                return Some(task);
            }
            if state.running == 0 {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, task: usize, result: Result<T, Error>) {
        let mut state = self.lock();
        state.running -= 1;
        match result {
            Ok(result) => state.results[task] = Some(result),
            Err(error) => {
                state.stopped = true;
                match &state.error {
                    Some((first, _)) if *first < task => {}
                    _ => state.error = Some((task, error)),
                }
            }
        }
        self.changed.notify_all();
    }

    fn give_back(&self, task: usize, reason: String) {
        let mut state = self.lock();
        state.running -= 1;
        state.waiting.push_front(task);
        state.lost = Some(reason);
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn into_results(self) -> Result<Vec<T>, Error> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, error)) = state.error {
            return Err(error);
        }
        let results: Option<Vec<T>> = state.results.into_iter().collect();
        results.ok_or_else(|| {
            Error::NoLaneLeft(state.lost.unwrap_or_else(|| "all were lost before".into()))
        })
    }
}
