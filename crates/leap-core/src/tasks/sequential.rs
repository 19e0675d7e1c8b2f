//! Several tasks as one path: a step of one of them, then a step of another.

use burn::module::Module;
use burn::tensor::Tensor;
use rand::Rng;

use crate::error::TaskError;
use crate::seed::{TaskRng, TaskSeed};
use crate::space::copy::ids;
use crate::tasks::curve::mean;
use crate::tasks::task::{HeldOut, StepLoss, Task, TaskContext, TaskSet};

/// The stream of a task's seed that says whose turn it is.
const TURNS: u64 = 3;

/// Tasks whose steps are those of several tasks of a set, in random order.
///
/// [`Reptile`](crate::Reptile) on it is **Sequential Reptile** (Lee, Lee, Lee, Hwang: "Sequential Reptile: Inter-Task Gradient
/// Alignment for Multilingual Learning", ICLR 2022, [arXiv 2110.02600](https://arxiv.org/abs/2110.02600), algorithm 1):
/// one path over batches of all tasks of a meta-batch, after which the initialization moves towards its end. A meta-batch is one
/// such task, of as many steps as those of the others have together:
///
/// ```
/// use leap_core::{MetaTrainer, Reptile, Sequential};
/// # use leap_core::TaskSet;
/// # fn example<M: burn::module::Module, S: TaskSet<M> + Clone>(tasks: S) {
/// let trainer = MetaTrainer::new(Reptile).with_meta_batch_size(1).with_task_steps(20 * 100);
/// let tasks = Sequential::new(tasks, 20);
/// # }
/// ```
///
/// The tasks share all of the model: one with a part of its own ([`Task::start`]) is an error. Tasks that each know
/// [how long](Task::steps) they are make a path of as many steps together.
#[derive(Clone, Debug)]
pub struct Sequential<S> {
    tasks: S,
    together: usize,
    in_turn: bool,
}

/// Tasks of a path, at most.
const MOST: usize = 1 << 20;

impl<S> Sequential<S> {
    /// So many of `tasks` in each path, at least one and 2²⁰ at most, drawn anew each time: all of them before one is there
    /// twice.
    pub fn new(tasks: S, together: usize) -> Self {
        Self {
            tasks,
            together: together.clamp(1, MOST),
            in_turn: false,
        }
    }

    /// Steps of all tasks in turn, always in the same order, for [`Shifting`](crate::Shifting).
    pub fn in_turn(mut self) -> Self {
        self.in_turn = true;
        self
    }
}

impl<M: Module, S: TaskSet<M>> TaskSet<M> for Sequential<S> {
    type Task = SequentialTask<S::Task>;

    /// One, which is another each time.
    fn len(&self) -> usize {
        self.tasks.len().min(1)
    }

    fn name(&self, _index: usize) -> String {
        let order = if self.in_turn { "turn" } else { "random order" };
        format!("tasks in {order}")
    }

    fn fingerprint(&self) -> u64 {
        self.tasks.fingerprint()
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        let mut rng = context.seed.rng(TURNS);
        let mut picks = Vec::new();
        while picks.len() < self.together && !self.tasks.is_empty() {
            let count = self.tasks.len().min(self.together - picks.len());
            picks.extend(rand::seq::index::sample(&mut rng, self.tasks.len(), count));
        }
        let task = |(place, index)| {
            let own = TaskContext {
                seed: TaskSeed {
                    task: context.seed.task * self.together as u64 + place as u64,
                    ..context.seed
                },
                ..context.clone()
            };
            self.tasks.task(index, &own)
        };
        let tasks = picks.into_iter().enumerate().map(task);
        Ok(SequentialTask {
            tasks: tasks.collect::<Result<_, _>>()?,
            rng,
            turn: self.in_turn.then_some(0),
        })
    }
}

/// Several tasks as one, of a [`Sequential`] set.
#[derive(Clone, Debug)]
pub struct SequentialTask<T> {
    tasks: Vec<T>,
    rng: TaskRng,
    /// Whose turn it is, where they take turns.
    turn: Option<usize>,
}

impl<T> SequentialTask<T> {
    /// Whose turn it is.
    fn next(&mut self) -> &mut T {
        let place = match &mut self.turn {
            None => self.rng.random_range(0..self.tasks.len()),
            Some(next) => std::mem::replace(next, (*next + 1) % self.tasks.len()),
        };
        &mut self.tasks[place]
    }

    /// The mean of the tasks' scores; nothing where each has a model of its own.
    fn mean(
        &mut self,
        score: impl FnMut(&mut T) -> Result<Option<HeldOut>, TaskError>,
    ) -> Result<Option<HeldOut>, TaskError> {
        if self.turn.is_some() {
            return Ok(None);
        }
        let scores = self.tasks.iter_mut().map(score);
        let scores = scores.collect::<Result<Option<Vec<HeldOut>>, _>>()?;
        let scores = scores.unwrap_or_default();
        let accuracies = scores.iter().map(|score| score.accuracy);
        let accuracies = accuracies.collect::<Option<Vec<f64>>>();
        let loss = mean(scores.iter().map(|score| score.loss));
        Ok(loss.map(|loss| HeldOut {
            loss,
            accuracy: accuracies.and_then(|each| mean(each.into_iter())),
        }))
    }
}

impl<M: Module, T: Task<M>> Task<M> for SequentialTask<T> {
    fn start(&mut self, init: M) -> Result<M, TaskError> {
        let shared = ids(&init);
        self.tasks.iter_mut().try_fold(init, |model, task| {
            let model = task.start(model)?;
            match ids(&model) == shared {
                true => Ok(model),
                false => Err("tasks of one path must share all of the model".into()),
            }
        })
    }

    fn steps(&self) -> Option<usize> {
        let steps = self.tasks.iter().map(Task::<M>::steps);
        steps.sum()
    }

    fn validate(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        self.mean(|task| task.validate(model))
    }

    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        self.next().loss(model)
    }

    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        self.next().query(model)
    }

    fn fork(&self) -> Option<Self> {
        let tasks = self.tasks.iter().map(Task::<M>::fork);
        Some(Self {
            tasks: tasks.collect::<Option<_>>()?,
            rng: self.rng.clone(),
            turn: self.turn,
        })
    }

    fn turns(&self) -> Option<usize> {
        self.turn.map(|_| self.tasks.len())
    }

    /// The mean over the tasks; nothing where each has a model of its own.
    fn held_out(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        self.mean(|task| task.held_out(model))
    }
}
