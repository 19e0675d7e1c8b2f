//! Steps recorded ahead, on a thread of their own, while the device computes.

use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use burn::module::Module;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::Unstackable;
use super::record::{Record, Recorder, fenced};
use crate::error::TaskError;
use crate::tasks::task::{StepLoss, Task};

/// A task with what it is recorded on, and the model that it starts from. What of that is not a number that is trained is
/// the task's own.
pub(crate) struct Own<M, T> {
    pub task: T,
    pub model: M,
    pub recorder: Recorder,
    /// The model on the device that records.
    pub kept: Option<M>,
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Asked {
    Loss,
    Query,
}

type Records = Result<Vec<Record>, TaskError>;

/// What each task does in a step. The tasks share nothing, so that several threads may look.
pub(super) fn records<M: Module, T: Task<M> + Send>(
    tasks: &mut [Own<M, T>],
    asked: Asked,
) -> Records {
    let record = |own: &mut Own<M, T>| {
        let Own {
            task,
            model,
            recorder,
            kept,
        } = own;
        let recorded = fenced(|| {
            recorder.record(kept, model, |model| match asked {
                Asked::Loss => task.loss(model),
                Asked::Query => Ok(StepLoss::from(task.query(model)?)),
            })
        });
        recorded.unwrap_or_else(|why| Err(why.into()))
    };
    match recording_threads() {
        None => tasks.iter_mut().map(record).collect(),
        Some(threads) => {
            let records = threads.install(|| tasks.par_iter_mut().map(record).collect::<Vec<_>>());
            records.into_iter().collect()
        }
    }
}

/// The threads that record, and prepare batches, beside the one of each lane; none where there are few cores.
fn recording_threads() -> Option<&'static ThreadPool> {
    static THREADS: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        // Few, so that the lanes' own threads, and Burn's, have cores left.
        let threads = (cores / 2).min(4);
        let pool = ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.thread_name(|n| format!("recording {n}"));
        (threads > 1).then(|| pool.build().ok()).flatten()
    });
    THREADS.as_ref()
}

/// The other end of the thread that records.
pub(super) struct Ahead {
    asks: Sender<Asked>,
    recorded: Receiver<Records>,
    /// Whether a loss has been asked for, and how many are still to come.
    begun: bool,
    left: usize,
}

impl Ahead {
    /// Lets the tasks record `steps` losses, each while the one before is computed, as soon as one is asked for, and
    /// queries, while `work` is done with the other end.
    pub fn recording<M: Module, T: Task<M> + Send, R>(
        tasks: &mut [Own<M, T>],
        steps: usize,
        work: impl FnOnce(Self) -> R,
    ) -> R {
        let (asks, asked) = channel();
        // One is on its way, and one waits.
        let (send, recorded) = sync_channel(1);
        thread::scope(|scope| {
            scope.spawn(move || work_ahead(tasks, steps, &asked, &send));
            work(Self {
                asks,
                recorded,
                begun: false,
                left: steps,
            })
        })
    }

    pub fn next(&mut self, asked: Asked) -> Records {
        let over = || Unstackable::new("tasks that take more steps than they have");
        match (asked, self.left) {
            (Asked::Loss, 0) => return Err(over().into()),
            (Asked::Loss, _) => self.left -= 1,
            (Asked::Query, 0) => {}
            // A loss may have been recorded already.
            (Asked::Query, _) => return Err(Unstackable::new("queries between steps").into()),
        }
        let gone = || Unstackable::new("the thread that records has ended");
        // Once the first loss is asked for, all are.
        if asked == Asked::Query || !std::mem::replace(&mut self.begun, true) {
            self.asks.send(asked).map_err(|_| gone())?;
        }
        self.recorded.recv().map_err(|_| gone())?
    }
}

/// Records until nobody asks any more.
fn work_ahead<M: Module, T: Task<M> + Send>(
    tasks: &mut [Own<M, T>],
    steps: usize,
    asked: &Receiver<Asked>,
    send: &SyncSender<Records>,
) {
    while let Ok(asked) = asked.recv() {
        let times = match asked {
            Asked::Loss => steps,
            Asked::Query => 1,
        };
        for _ in 0..times {
            let records = records(tasks, asked);
            let failed = records.is_err();
            if send.send(records).is_err() || failed {
                return;
            }
        }
    }
}
