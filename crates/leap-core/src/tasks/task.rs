//! What a task is: a learning process.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

use crate::error::TaskError;
use crate::number;
use crate::seed::{TaskRng, TaskSeed};

/// A learning process: it gives a loss for the model as it is now, step after step.
///
/// Where the loss comes from is its own affair: the next batch of a data set is one case, an agent
/// that acts with the model in an environment before it looks back on what happened is another.
pub trait Task<M: Module>: Sized {
    /// The model that the task starts from, made of a fresh copy of the initialization.
    ///
    /// Override it to replace what is the task's own, such as a head of the task's size. Parameters
    /// in the shared group have to stay.
    ///
    /// # Errors
    /// Any error ends the run and is reported with the task's name and seed.
    fn start(&mut self, init: M) -> Result<M, TaskError> {
        Ok(init)
    }

    /// The loss of `model` at its next step.
    ///
    /// # Errors
    /// Any error ends the run and is reported with the task's name and seed.
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError>;

    /// The [loss](Self::loss) of `model` at its next step, without its autodiff graph, and the loss's gradients. Not to be
    /// overridden: other tasks than the library's own are asked for their losses alone.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    #[doc(hidden)]
    fn loss_and_gradients(&mut self, model: &M) -> Result<(StepLoss, GradientsParams), TaskError> {
        let mut step = self.loss(model)?;
        let grads = GradientsParams::from_grads(step.loss.backward(), model);
        step.loss = step.loss.inner();
        step.accuracy = step.accuracy.map(Tensor::inner);
        Ok((step, grads))
    }

    /// The loss of `model`, of shape `[1]` with its autodiff graph, on a batch that the task has not trained
    /// on. Only meta-learners that need one ask for it, such as MAML.
    ///
    /// # Errors
    /// Any error ends the run and is reported with the task's name and seed. Without an implementation, one
    /// that says so.
    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        let _ = model;
        Err("the task has no query batches (`Task::query`)".into())
    }

    /// The task as it is now, whose next loss will be on the same data as this one's. Only meta-learners
    /// that repeat a step ask for it, such as MAML; `None` from tasks that cannot.
    fn fork(&self) -> Option<Self> {
        None
    }

    /// The task as it is between two steps, to [go on](Self::restore) from after an interruption; `None` from
    /// tasks that cannot, which then start again.
    ///
    /// # Errors
    /// Any error ends the run and is reported with the task's name and seed.
    fn save(&mut self) -> Result<Option<Vec<u8>>, TaskError> {
        Ok(None)
    }

    /// Goes on from what [`save`](Self::save) gave; the task has been set up as it was then.
    ///
    /// # Errors
    /// Any error ends the run and is reported with the task's name and seed.
    fn restore(&mut self, saved: &[u8]) -> Result<(), TaskError> {
        let _ = saved;
        Err("the task cannot go on (`Task::restore`)".into())
    }

    /// How many steps the task trains for, where that is its own affair, such as an epoch of its data: no more than the
    /// trainer's are taken.
    fn steps(&self) -> Option<usize> {
        None
    }

    /// How many tasks these are whose steps come in turn, of which each has a model of its own, for
    /// [`Shifting`](crate::Shifting); `None` from all but those of [`Sequential::in_turn`](crate::Sequential::in_turn).
    fn turns(&self) -> Option<usize> {
        None
    }

    /// How well the model does in the middle of training, on samples that are neither trained on nor
    /// [held out](Self::held_out), for [early stopping](crate::EarlyStopping). `None` is that nothing can be said yet.
    ///
    /// `model` is as for [`held_out`](Self::held_out).
    ///
    /// # Errors
    /// Any error ends the run and is reported with the task's name and seed. Without an implementation, one
    /// that says so.
    fn validate(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        let _ = model;
        Err("the task has no samples to validate on (`Task::validate`)".into())
    }

    /// How well the trained model does on what the task held back, if it holds anything back.
    ///
    /// `model` is in evaluation mode ([`Module::valid`]). Where held-out samples are normalized by
    /// [statistics of their own batch](crate::Statistics::Batch) it is in training mode, with autodiff, but for dropout
    /// and the like. Samples belong on the model's device, `model.devices()[0]`.
    ///
    /// # Errors
    /// Any error ends the run and is reported with the task's name and seed.
    fn held_out(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        let _ = model;
        Ok(None)
    }
}

/// What a task measures at a step.
#[derive(Clone, Debug)]
pub struct StepLoss {
    /// The loss to minimise, of shape `[1]`, with its autodiff graph.
    pub loss: Tensor<1>,
    /// The accuracy on the same data in [0, 1], of shape `[1]`, for tasks that have one.
    pub accuracy: Option<Tensor<1>>,
    /// How well the model does by the task's own measure, such as the mean return of the last episodes; higher is
    /// better. `Some(None)` is that there is no score yet.
    pub score: Option<Option<f64>>,
}

impl From<Tensor<1>> for StepLoss {
    fn from(loss: Tensor<1>) -> Self {
        Self {
            loss,
            accuracy: None,
            score: None,
        }
    }
}

/// A trained model's scores on a task's held-out samples.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct HeldOut {
    /// Mean loss.
    #[serde(with = "number::one")]
    pub loss: f64,
    /// Accuracy in [0, 1], for tasks that have one.
    #[serde(default, with = "number::option")]
    pub accuracy: Option<f64>,
}

impl HeldOut {
    /// The share of wrong predictions, for tasks that have an accuracy, and the loss for others: lower is better.
    pub fn error(&self) -> f64 {
        self.accuracy.map_or(self.loss, |accuracy| 1.0 - accuracy)
    }
}

/// A family of tasks to draw from.
pub trait TaskSet<M: Module>: Sync {
    /// The tasks of the family, which any thread may ask for their losses.
    type Task: Task<M> + Send;

    /// Number of different tasks.
    fn len(&self) -> usize;

    /// Whether there is no task at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of task `index`, for reports.
    fn name(&self, index: usize) -> String {
        format!("task {index}")
    }

    /// What tells this family from another whose tasks have the same names, such as a hash of its data and settings. Tasks
    /// that were [saved](crate::Checkpoints::with_task_steps) while another was trained are not gone on with.
    fn fingerprint(&self) -> u64 {
        0
    }

    /// Sets up task `index`, which is less than [`len`](TaskSet::len).
    ///
    /// # Errors
    /// Any error ends the run and is reported with the task's name and seed.
    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError>;
}

/// For families that are chosen while the program runs.
impl<M: Module, S: TaskSet<M> + ?Sized> TaskSet<M> for Box<S> {
    type Task = S::Task;

    fn len(&self) -> usize {
        (**self).len()
    }

    fn name(&self, index: usize) -> String {
        (**self).name(index)
    }

    fn fingerprint(&self) -> u64 {
        (**self).fingerprint()
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        (**self).task(index, context)
    }
}

/// The circumstances that a task is set up in.
#[derive(Clone, Debug)]
pub struct TaskContext {
    /// Where all that is random in the task comes from.
    pub seed: TaskSeed,
    /// The device that the model is on, with autodiff; where tasks are trained
    /// [at once](crate::MetaTrainer::with_task_batch), one that records what is done on it. Make a step's tensors there.
    pub device: Device,
    /// How many steps the task will train for at most.
    pub steps: usize,
}

impl TaskContext {
    /// The task's own generator.
    pub fn rng(&self) -> TaskRng {
        self.seed.rng(0)
    }
}

/// A model that maps a batch of inputs to a matrix of predictions.
///
/// It is what the supervised task families ask of a model; implement it for yours.
pub trait Predict<X>: Module {
    /// Predictions of shape `[batch, outputs]`.
    fn predict(&self, inputs: X) -> Tensor<2>;

    /// The model with another last layer, of so many outputs, or as it is if it has as many. Tasks with a number of classes
    /// of their own ask for it; they draw the new layer from their seed.
    ///
    /// # Errors
    /// That the model has none to change, without an implementation.
    fn with_outputs(self, outputs: usize) -> Result<Self, TaskError> {
        let wrong = "the model cannot have so many outputs (`Predict::with_outputs`)";
        Err(format!("{outputs}: {wrong}").into())
    }
}

/// A model that acts: a policy and a value function, on one encoder of what is observed.
pub trait ActorCritic: Module {
    /// From observations, flat, of shape `[batch, size]` to the policy's logits, of shape `[batch, actions]`, and the
    /// values, of shape `[batch]`.
    fn act(&self, observations: Tensor<2>) -> (Tensor<2>, Tensor<1>);

    /// Number of actions.
    fn actions(&self) -> usize;

    /// The same encoder with new heads, for `actions` actions.
    fn with_actions(self, actions: usize) -> Self;
}
