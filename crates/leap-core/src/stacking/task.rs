//! Several tasks as one.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::backend::ir::{BaseOperationIr, ModuleOperationIr, OperationIr, TensorId, TensorIr};
use burn::module::{Module, ParamGroup};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

use super::Unstackable;
use super::ahead::{Ahead, Asked, Own, records};
use super::captured::Captured;
use super::conv::{Geometry, Tables};
use super::play::{Constant, Types};
use super::record::{Record, Recorder};
use super::script::{Constants, Played, Script};
use super::stack::{Floats, flat_floats, stack, unstack, with_floats};
use crate::devices::device::{is_cube, product_roundoff};
use crate::error::{Error, TaskError};
use crate::space::copy::task_copy;
use crate::space::params::{ParamSpace, ParamVector, read_back};
use crate::tasks::task::{StepLoss, Task};

/// What is found out at a first step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// How each layer of batch-normalization keeps its statistics, which a record does not say.
    momenta: Vec<f64>,
    /// Bytes that a task takes on the device, about.
    pub bytes: u64,
}

/// What is known of how the tasks of a run are trained as one, to all lanes.
#[derive(Default)]
pub(crate) struct Plans(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// For each kind of tasks; `None` is that they are trained one by one.
    kinds: Vec<(Kind, Option<Plan>)>,
    /// Whether no kind can be trained as one.
    hopeless: bool,
    /// Whether there have been tasks of several kinds in a meta-batch.
    mixed: bool,
    /// Whether steps are not captured, since a device cannot, or since others work on it at the same time.
    uncaptured: bool,
}

impl Plans {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That for tasks of a kind; `None` is that nothing is known yet, `Some(None)` that they are trained one by one.
    pub fn get(&self, kind: &Kind) -> Option<Option<Plan>> {
        let known = self.lock();
        let found = known.kinds.iter().find(|(other, _)| other.fits(kind));
        found.map(|(_, plan)| plan.clone())
    }

    /// Keeps what was found out for a kind, where nothing is known yet. What is known then comes back.
    pub fn found(&self, kind: &Kind, plan: Option<Plan>) -> Option<Plan> {
        let mut known = self.lock();
        if let Some((_, first)) = known.kinds.iter().find(|(other, _)| other.fits(kind)) {
            return first.clone(); // Another lane's.
        }
        known.kinds.push((kind.clone(), plan.clone()));
        plan
    }

    /// The tasks of a kind are trained one by one after all; whether that is news.
    pub fn give_up(&self, kind: Option<&Kind>) -> bool {
        let mut known = self.lock();
        let Some(kind) = kind else {
            return !std::mem::replace(&mut known.hopeless, true);
        };
        match known.kinds.iter_mut().find(|(other, _)| other.fits(kind)) {
            Some((_, plan)) => plan.take().is_some(),
            None => {
                known.kinds.push((kind.clone(), None));
                true
            }
        }
    }

    /// Whether no tasks can be trained as one, of whatever kind.
    pub fn are_hopeless(&self) -> bool {
        self.lock().hopeless
    }

    /// Whether there have been tasks of several kinds in a meta-batch; so it is from now on, if `now`.
    pub fn are_mixed(&self, now: bool) -> bool {
        let mut known = self.lock();
        known.mixed |= now;
        known.mixed
    }

    /// Whether steps are not captured; so it is from now on, if `now`.
    pub fn are_uncaptured(&self, now: bool) -> bool {
        let mut known = self.lock();
        known.uncaptured |= now;
        known.uncaptured
    }

    /// Bytes that a task takes on the device, of the largest kind that is trained as one, if there is any.
    pub fn bytes(&self) -> Option<u64> {
        let known = self.lock();
        let plans = known.kinds.iter().filter_map(|(_, plan)| plan.as_ref());
        plans.map(|plan| plan.bytes).max()
    }
}

/// Copies of the parameters that a task's training holds at a time: the parameters before and after a step, their gradients,
/// what an optimizer keeps of them, the ends of the path, its last segment and gradient, and its sums.
const COPIES: u64 = 14;

/// Several tasks of equal shapes, trained as one: a [`Task`] for the stacked model, whose losses have shape `[tasks]`.
pub(crate) struct StackedTask<M, T> {
    /// None while they record ahead.
    tasks: Vec<Own<M, T>>,
    ahead: Option<Ahead>,
    count: usize,
    steps_of_tasks: Option<usize>,
    floats: Floats,
    device: Device,
    types: Types,
    plan: Plan,
    /// None while a step has them.
    tables: HashMap<Geometry, Tables>,
    capturing: Capturing,
    /// Number of steps so far.
    steps: usize,
    /// Running mean and variance of each layer of batch-normalization, of shape `[tasks * channels]`.
    running: Vec<[Tensor<1>; 2]>,
    /// What the first record was, its loss and its accuracy, which all others have to be as well.
    first: Option<(Vec<OperationIr>, TensorIr, Option<TensorIr>)>,
}

/// Whether a step is one launch.
enum Capturing {
    /// It will be captured after so many more steps.
    After(usize),
    /// It has been, and whether it is right shows at the next step.
    New(Box<Captured>),
    Done(Box<Captured>),
    Failed,
    Never,
}

/// After how many steps one is captured. Before, kernels are compiled and tuned.
const CAPTURE_AFTER: usize = 2;

/// How many steps there have to be left for a capture, which computes a step five times, to be worth it.
const CAPTURE_FOR: usize = 20;

/// How far a number may be from what it is without stacking, which sums up in another order.
const TOLERANCE: f64 = 1e-3;

/// How far losses and running statistics, and how far gradients may be apart, where products are rounded more. A gradient
/// passes through units with a kink, some of which rounding puts on their other side: on an H100, that of the Omniglot
/// convnet is off by a tenth. What differs in what it computes is off by as much as the gradient is long.
fn tolerances(device: &Device) -> [f64; 2] {
    let roundoff = product_roundoff(device);
    [
        TOLERANCE.max(20.0 * roundoff),
        TOLERANCE.max(600.0 * roundoff),
    ]
}

/// What tasks have to have in common to be trained as one.
#[derive(Clone)]
pub(crate) struct Kind {
    floats: Floats,
    operations: Vec<OperationIr>,
    outputs: (TensorIr, Option<TensorIr>),
    /// Shapes and types of what the first step brings along.
    constants: Vec<(TensorId, Shape, DType)>,
    steps: Option<usize>,
}

impl Kind {
    /// That of a task which was set up on the device of `recorder`, with the model that it starts from.
    pub fn of<M: Module, T: Task<M>>(
        recorder: &Recorder,
        task: &mut T,
        model: &M,
    ) -> Result<Self, TaskError> {
        let record = recorder.record(&mut None, model, |model| task.loss(model))?;
        let constants = record.constants.iter();
        let constants = constants.map(|(id, data)| (*id, data.shape().clone(), data.dtype()));
        Ok(Self {
            floats: Floats::of(model),
            constants: constants.collect(),
            operations: record.operations,
            outputs: (record.loss, record.accuracy),
            steps: task.steps(),
        })
    }

    /// Whether another task may be trained with it.
    pub fn fits(&self, other: &Self) -> bool {
        self.steps == other.steps
            && self.constants == other.constants
            && self.outputs == other.outputs
            && self.floats.fits(&other.floats)
            && self.operations == other.operations
    }
}

impl<M: Module, T: Task<M> + Send> StackedTask<M, T> {
    /// Stacks tasks, each of which was set up on the device of its recorder.
    pub fn new(tasks: Vec<Own<M, T>>, plan: Plan) -> Result<(Self, M), Unstackable> {
        let models = Vec::from_iter(tasks.iter().map(|own| own.model.clone()));
        let [like, ..] = &models[..] else {
            return Err(Unstackable::new("no task at all"));
        };
        let floats = Floats::of(like);
        let stacked = stack(&models, &floats)?;
        let device = stacked.devices().remove(0);
        let values = flat_floats(&stacked);
        let running = floats
            .norms
            .iter()
            .map(|norm| [norm.mean, norm.variance].map(|place| values[place].clone()));
        let stacked_task = Self {
            count: tasks.len(),
            steps_of_tasks: tasks[0].task.steps(),
            ahead: None,
            tasks,
            running: running.collect(),
            floats,
            types: Types::of(&device),
            device,
            plan,
            tables: HashMap::new(),
            capturing: Capturing::Never,
            steps: 0,
            first: None,
        };
        Ok((stacked_task, stacked))
    }

    /// Each task and its trained model.
    pub fn finish(self, stacked: &M) -> Vec<(T, M)> {
        let mut floats = flat_floats(stacked);
        for (norm, [mean, variance]) in self.floats.norms.iter().zip(self.running) {
            (floats[norm.mean], floats[norm.variance]) = (mean, variance);
        }
        let count = self.count;
        let tasks = self.tasks.into_iter().enumerate();
        let each = tasks.map(|(place, own)| {
            let model = unstack(&floats, place, count, &own.model);
            (own.task, model)
        });
        each.collect()
    }

    /// Trains for `steps` steps, which are recorded ahead, and captured if they may be and there are enough of them.
    pub fn train<R>(
        &mut self,
        steps: usize,
        may_capture: bool,
        train: impl FnOnce(&mut Self) -> R,
    ) -> R {
        if may_capture && self.captures(steps) {
            self.capturing = Capturing::After(CAPTURE_AFTER);
        }
        let mut tasks = std::mem::take(&mut self.tasks);
        let trained = Ahead::recording(&mut tasks, steps, |ahead| {
            self.ahead = Some(ahead);
            let trained = catch_unwind(AssertUnwindSafe(|| train(self)));
            // The thread ends when nobody asks any more, and is waited for.
            self.ahead = None;
            trained
        });
        self.tasks = tasks;
        trained.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Whether steps of tasks of so many are captured, if the device can.
    fn captures(&self, steps: usize) -> bool {
        is_cube(&self.device) && steps >= CAPTURE_AFTER + CAPTURE_FOR
    }

    /// Whether the device does not capture steps as it should.
    pub fn fails_to_capture(&self) -> bool {
        matches!(self.capturing, Capturing::Failed)
    }

    fn records(&mut self, asked: Asked) -> Result<Vec<Record>, TaskError> {
        match &mut self.ahead {
            Some(ahead) => ahead.next(asked),
            None => records(&mut self.tasks, asked),
        }
    }

    /// What is played at a step that was recorded of each task, and on what.
    fn script(&mut self, records: Vec<Record>) -> Result<(Script, Constants), Unstackable> {
        let tasks = self.count;
        let alike = |record: &Record| records.iter().all(|other| other.is_like(record));
        if !records.first().is_some_and(alike) {
            return Err(Unstackable::these("tasks whose steps differ"));
        }
        let device = self.device.clone().without_autodiff();
        let ids = records[0].constants.iter().map(|(id, _)| *id);
        let constants = ids.enumerate().map(|(place, id)| {
            let parts = records.iter().map(|record| &record.constants[place].1);
            Ok((id, Constant::upload(together(parts)?, &device)?))
        });
        let constants = constants.collect::<Result<_, Unstackable>>()?;
        let norms = self.floats.norms.iter().zip(&self.running);
        let script = Script {
            tasks,
            device: self.device.clone(),
            types: self.types,
            norms: norms
                .map(|(norm, running)| (*norm, running.clone()))
                .collect(),
            record: records
                .into_iter()
                .next()
                .ok_or_else(|| Unstackable::new("no task at all"))?,
            tables: std::mem::take(&mut self.tables),
        };
        Ok((script, constants))
    }

    /// The next step.
    fn next_step(&mut self) -> Result<(Script, Constants), TaskError> {
        let records = self.records(Asked::Loss)?;
        self.steps += 1;
        if let Some(Record {
            operations,
            loss,
            accuracy,
            ..
        }) = records.first()
        {
            match &self.first {
                None => self.first = Some((operations.clone(), loss.clone(), accuracy.clone())),
                Some(first) if (&first.0, &first.1, &first.2) == (operations, loss, accuracy) => {}
                Some(_) => return Err(Unstackable::new("steps that differ").into()),
            }
        }
        Ok(self
            .script(records)
            .map_err(|why| self.in_the_middle(why))?)
    }

    /// What shows in the middle of a task would show in others, too.
    fn in_the_middle(&self, why: Unstackable) -> Unstackable {
        match self.steps {
            0 | 1 => why,
            _ => Unstackable::new(why.to_string()),
        }
    }

    /// A step with its gradients, in one launch if it has been captured.
    fn step(
        &mut self,
        script: &mut Script,
        model: &M,
        constants: Constants,
    ) -> Result<(Played, GradientsParams), Unstackable> {
        let captured = std::mem::replace(&mut self.capturing, Capturing::Never);
        self.capturing = match captured {
            Capturing::After(0) => match Captured::new(script, model, constants.clone())? {
                Some(captured) => Capturing::New(Box::new(captured)),
                None => Capturing::Failed,
            },
            Capturing::After(steps) => Capturing::After(steps - 1),
            // It may be that what it reads has stayed as it was, which shows best if that is far from what it is now.
            Capturing::New(mut captured) => {
                let far = flat_floats(model)
                    .into_iter()
                    .map(|part| part.mul_scalar(FAR));
                let moved = with_floats(model, far.collect(), 1);
                let expected = script.step(&moved, constants.clone())?;
                let found = captured.run(&moved, constants.clone());
                let agree = found.map(|found| agree(model, &found, &expected));
                match agree {
                    Ok(Ok(true)) => Capturing::Done(captured),
                    Ok(Ok(false)) => {
                        log::warn!(
                            "a captured step differs from what was captured, and is not used"
                        );
                        Capturing::Failed
                    }
                    Ok(Err(error)) => return Err(Unstackable::new(error.to_string())),
                    Err(error) => {
                        log::warn!("a captured step is not used: {error}");
                        Capturing::Failed
                    }
                }
            }
            as_it_was => as_it_was,
        };
        if let Capturing::Done(captured) = &mut self.capturing {
            return captured.run(model, constants);
        }
        script.step(model, constants)
    }

    /// Keeps what a step leaves behind.
    fn keep(&mut self, script: Script, played: Played) -> StepLoss {
        self.tables = script.tables;
        let Played {
            loss,
            accuracy,
            statistics,
        } = played;
        self.keep_statistics(&statistics);
        StepLoss {
            loss,
            accuracy,
            score: None,
        }
    }

    /// The running statistics after the newest batch, as [`BatchNorm`](burn::nn::BatchNorm) keeps them.
    fn keep_statistics(&mut self, newest: &[Option<[Tensor<1>; 2]>]) {
        let newest = newest.iter().zip(&self.plan.momenta);
        for (running, (statistics, momentum)) in self.running.iter_mut().zip(newest) {
            let Some(statistics) = statistics else {
                continue;
            };
            for (running, newest) in running.iter_mut().zip(statistics) {
                let kept = running.clone().mul_scalar(1.0 - momentum);
                *running = kept.add(newest.clone().inner().mul_scalar(*momentum));
            }
        }
    }

    /// Compares a first step with those of the tasks by themselves, `alone`, and finds out what the record does not say.
    /// `optimizer` must move each number by itself.
    ///
    /// # Errors
    /// What differs, such as dropout, which a device that records does not do.
    pub fn compare<A: Task<M>>(
        mut self,
        stacked: &M,
        optimizer: &ModuleOptimizer,
        alone: Vec<(A, M)>,
        steps: usize,
    ) -> Result<Plan, TaskError> {
        let all = ParamGroup::all();
        let tasks = self.count;
        let [of_losses, of_gradients] = tolerances(&self.device);
        let space = ParamSpace::new(&self.tasks[0].model, &all)?;
        let wide = space.stacked(tasks);
        let records = self.records(Asked::Loss)?;
        let bytes = records
            .first()
            .map_or(0, |record| self.bytes(record, steps));
        let (mut script, constants) = self.script(records)?;
        let (played, grads) = script.step(stacked, constants)?;
        let gradient = wide.gradient(stacked, &grads)?;
        let losses = read_back(played.loss)?;
        let gradients = gradient.clone().unstack(&space);
        let mut plan = None;
        for (index, (mut task, model)) in alone.into_iter().enumerate() {
            let before = flat_floats(&task_copy(&model));
            let start = task_copy(&model);
            let StepLoss { loss, .. } = task.loss(&model)?;
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            // The space has the names of the first task's model.
            let own = ParamSpace::new(&model, &all)?;
            let expected = own.gradient(&model, &grads)?;
            let loss = read_back(loss.inner())?[0];
            if !read_back(expected.dot(&expected))?[0].is_finite() {
                continue; // A task that diverges at once is left out in any case.
            }
            if (loss - losses[index]).abs() > of_losses * loss.abs().max(1e-3) {
                let found = losses[index];
                let why = format!("a loss of {found} where the task by itself has {loss}");
                return Err(Unstackable::new(why).into());
            }
            let found = gradients[index].clone().renamed(&own);
            if !close(&found, &expected, of_gradients)? {
                return Err(Unstackable::new("other gradients than by itself").into());
            }
            let after = flat_floats(&task_copy(&model));
            self.check_others(&before, &after)?;
            let momenta = self.momenta(index, &played.statistics, &before, &after)?;
            if *plan.get_or_insert(momenta.clone()) != momenta {
                let why = "running statistics that are kept in another way in each task";
                return Err(Unstackable::new(why).into());
            }
            for scale in [1.0, 1e6] {
                let moved = |model: &M, gradient: &ParamVector| {
                    let grads = gradient.clone().map(|v| v * scale).into_gradients();
                    optimizer.clone().step(0.01, task_copy(model), grads)
                };
                let expected = own.point(&moved(&start, &found))? - own.point(&start)?;
                let steps = wide.point(&moved(stacked, &gradient))? - wide.point(stacked)?;
                let step = steps.unstack(&space).swap_remove(index).renamed(&own);
                if !close(&step, &expected, TOLERANCE)? {
                    let why = "an optimizer that does not move each number by itself";
                    return Err(Unstackable::new(why).into());
                }
            }
        }
        let momenta = plan.ok_or_else(|| Unstackable::these("a first step that diverges"))?;
        Ok(Plan { momenta, bytes })
    }

    /// Bytes of a task: what a step makes and the gradients of it, its batch, and copies of the parameters.
    fn bytes(&self, record: &Record, steps: usize) -> u64 {
        let size = |shape: &Shape, bytes: usize| (shape.num_elements() * bytes) as u64;
        let views = |op: &&OperationIr| {
            use BaseOperationIr::{Expand, Permute, Reshape, Slice, SwapDims};
            let OperationIr::BaseFloat(op) = op else {
                return !matches!(op, OperationIr::Drop(_) | OperationIr::Init(_));
            };
            !matches!(
                op,
                Reshape(_) | SwapDims(_) | Permute(_) | Expand(_) | Slice(_)
            )
        };
        let made = record.operations.iter().filter(views);
        let made = made.flat_map(OperationIr::outputs);
        let made: u64 = made.map(|t| size(&t.shape, t.dtype.size())).sum();
        let copied = match is_cube(&self.device) {
            true => record.operations.iter().map(copied_for).max().unwrap_or(0),
            false => 0,
        };
        let batch = record.constants.iter();
        let batch: u64 = batch.map(|(_, data)| data.as_bytes().len() as u64).sum();
        let floats = self.floats.tensors.iter();
        let floats: usize = floats.map(|t| t.dims.iter().product::<usize>()).sum();
        // A captured step keeps its own.
        let sets = if self.captures(steps) { 2 } else { 1 };
        sets * (2 * (made + copied) + batch) + COPIES * 4 * floats as u64
    }

    /// Nothing but parameters and the statistics of batch-normalization may change in a step.
    fn check_others(&self, before: &[Tensor<1>], after: &[Tensor<1>]) -> Result<(), TaskError> {
        let norms = self.floats.norms.iter();
        let known: Vec<usize> = norms.flat_map(|norm| [norm.mean, norm.variance]).collect();
        for (place, (before, after)) in before.iter().zip(after).enumerate() {
            if !self.floats.tensors[place].is_trainable
                && !known.contains(&place)
                && read_back(before.clone())? != read_back(after.clone())?
            {
                let why = "a state of the model that is not of batch-normalization";
                return Err(Unstackable::new(why).into());
            }
        }
        Ok(())
    }

    /// The momentum of each layer of batch-normalization, from what a step made of a task's running statistics.
    fn momenta(
        &self,
        index: usize,
        statistics: &[Option<[Tensor<1>; 2]>],
        before: &[Tensor<1>],
        after: &[Tensor<1>],
    ) -> Result<Vec<f64>, TaskError> {
        let of = |place: usize, newest: &Tensor<1>| -> Result<[Vec<f64>; 3], Error> {
            let size = before[place].dims()[0];
            let newest = newest.clone().narrow(0, index * size, size);
            let [old, new] = [before, after].map(|floats| read_back(floats[place].clone()));
            Ok([old?, new?, read_back(newest)?])
        };
        let [tolerance, _] = tolerances(&self.device);
        let mut momenta = Vec::new();
        for (norm, statistics) in self.floats.norms.iter().zip(statistics) {
            let Some([mean, variance]) = statistics else {
                momenta.push(0.0);
                continue;
            };
            let [mean, variance] = [of(norm.mean, mean)?, of(norm.variance, variance)?];
            let [old, new, newest] = [0, 1, 2].map(|i| [&mean[i][..], &variance[i][..]].concat());
            let numbers = old.iter().zip(&new).zip(&newest);
            let numbers = numbers.map(|((old, new), newest)| (new - old, newest - old));
            let (moved, apart) = numbers.clone().fold((0.0, 0.0), |(moved, apart), (a, b)| {
                (moved + a * b, apart + b * b)
            });
            let momentum = if apart > 0.0 { moved / apart } else { 0.0 };
            // As it was written down, by a person.
            let momentum = written_down(momentum, tolerance);
            let rest: f64 = numbers.map(|(a, b)| (a - momentum * b).powi(2)).sum();
            if rest.sqrt() > tolerance * apart.sqrt() {
                let why = "running statistics that are kept in another way";
                return Err(Unstackable::new(why).into());
            }
            momenta.push(momentum);
        }
        Ok(momenta)
    }
}

impl<M: Module, T: Task<M> + Send> Task<M> for StackedTask<M, T> {
    /// Of shape `[tasks]`; the sum of the losses goes backward, so that each task has its own gradient.
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let (mut script, constants) = self.next_step()?;
        let played = script.play(model, constants);
        let played = played.map_err(|why| self.in_the_middle(why))?;
        Ok(self.keep(script, played))
    }

    fn loss_and_gradients(&mut self, model: &M) -> Result<(StepLoss, GradientsParams), TaskError> {
        let (mut script, constants) = self.next_step()?;
        let stepped = self.step(&mut script, model, constants);
        let (played, grads) = stepped.map_err(|why| self.in_the_middle(why))?;
        Ok((self.keep(script, played), grads))
    }

    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        let records = self.records(Asked::Query)?;
        let (mut script, constants) = self.script(records)?;
        let loss = script.play(model, constants)?.loss;
        self.tables = script.tables;
        Ok(loss)
    }

    fn steps(&self) -> Option<usize> {
        self.steps_of_tasks
    }
}

/// Bytes that a convolution, or the gradient of its input, copies to be a product of matrices.
fn copied_for(operation: &OperationIr) -> u64 {
    use ModuleOperationIr::{Conv1d, Conv2d};
    let (x, weight, y) = match operation {
        OperationIr::Module(Conv2d(op)) => (&op.x, &op.weight, &op.out),
        OperationIr::Module(Conv1d(op)) => (&op.x, &op.weight, &op.out),
        _ => return 0,
    };
    let filter: usize = weight.shape.iter().skip(2).product();
    let places = |t: &TensorIr| t.shape.num_elements() / t.shape[1];
    let [there, back] = [x.shape[1] * places(y), y.shape[1] * places(x)];
    (filter * there.max(back) * x.dtype.size()) as u64
}

/// By how much a model is moved to see whether a captured step reads it.
const FAR: f64 = 1.25;

/// Whether a step and its gradients are those of another, where they are finite.
fn agree<M: Module>(
    model: &M,
    found: &(Played, GradientsParams),
    expected: &(Played, GradientsParams),
) -> Result<bool, Error> {
    let space = ParamSpace::new(model, &ParamGroup::all())?;
    let numbers = |(played, grads): &(Played, GradientsParams)| {
        let statistics = played.statistics.iter().flatten().flatten();
        let scalars = std::iter::once(&played.loss).chain(&played.accuracy);
        let scalars = scalars.chain(statistics).map(|t| read_back(t.clone()));
        let scalars = scalars.collect::<Result<Vec<_>, _>>()?.concat();
        let gradient = space.gradient(model, grads)?;
        Ok::<_, Error>((scalars, read_back(gradient.values().clone())?))
    };
    let (found, expected) = (numbers(found)?, numbers(expected)?);
    let near = |found: &[f64], expected: &[f64]| {
        let pairs = found.iter().zip(expected);
        let (apart, length) = pairs
            .filter(|(_, b)| b.is_finite())
            .fold((0.0, 0.0), |sums, (a, b)| {
                (sums.0 + (a - b).powi(2), sums.1 + b.powi(2))
            });
        apart.sqrt() <= TOLERANCE * length.sqrt()
    };
    Ok(near(&found.0, &expected.0) && near(&found.1, &expected.1))
}

/// Constants of several tasks, of shape `[tasks, ..]`.
fn together<'a>(parts: impl Iterator<Item = &'a TensorData>) -> Result<TensorData, Unstackable> {
    let all = Vec::from_iter(parts);
    let [first, ..] = all[..] else {
        return Err(Unstackable::new("no task at all"));
    };
    let (shape, dtype) = (first.shape(), first.dtype());
    if all
        .iter()
        .any(|data| data.shape() != shape || data.dtype() != dtype)
    {
        return Err(Unstackable::these("batches of different shapes"));
    }
    let bytes = Vec::from_iter(all.iter().map(|data| data.as_bytes())).concat();
    let dims = std::iter::once(all.len()).chain(shape.iter().copied());
    let shape = Shape::from(dims.collect::<Vec<_>>());
    Ok(TensorData::from_bytes_vec(bytes, shape, dtype))
}

/// A number as a person writes it, from what it is up to rounding: to five places, or, where `tolerance` is larger, to two
/// digits.
fn written_down(number: f64, tolerance: f64) -> f64 {
    let places = match tolerance > TOLERANCE && number != 0.0 {
        true => 1 - number.abs().log10().floor() as i32,
        false => 5,
    };
    let scale = 10_f64.powi(places);
    (number * scale).round() / scale
}

/// Whether two vectors are no more than `tolerance` of their length apart.
fn close(found: &ParamVector, expected: &ParamVector, tolerance: f64) -> Result<bool, Error> {
    let difference = found.clone() - expected.clone();
    let squares = Tensor::cat(vec![difference.dot(&difference), expected.dot(expected)], 0);
    let squares = read_back(squares)?;
    Ok(squares[0].sqrt() <= tolerance * squares[1].sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_down() {
        let exact = |number| written_down(number, TOLERANCE);
        assert_eq!(exact(0.1000001), 0.1);
        assert_eq!(exact(0.0), 0.0);
        let rounded = |number| written_down(number, 1e-2);
        assert_eq!(rounded(0.10003), 0.1);
        assert_eq!(rounded(0.00100004), 0.001);
        assert_eq!(rounded(0.98997), 0.99);
        assert_eq!(rounded(0.0), 0.0);
    }
}
