//! A task of a meta-batch, or a held-out one, trained once.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use burn::module::{Module, ParamGroup};
use burn::tensor::Device;

use crate::error::{Error, TaskError};
use crate::saving::task::{Breaks, FinishedTask, TaskFolder};
use crate::seed::{Purpose, TaskSeed};
use crate::space::copy::{initialize, rename, task_copy};
use crate::space::figures::{DeviceFigures, PathFigures};
use crate::space::params::{ParamSpace, ParamVector, read_back};
use crate::space::path::PathMeter;
use crate::space::reinitialize::reinitialize;
use crate::stacking::{Kind, Own, Plan, Plans, Recorder, StackedTask, Unstackable, fenced};
use crate::tasks::curve::LearningCurve;
use crate::tasks::monitor::Watched;
use crate::tasks::report::TaskReport;
use crate::tasks::task::{HeldOut, Task, TaskContext, TaskSet};
use crate::training::inner::InnerLoop;
use crate::training::learner::{Learned, MetaLearner};
use crate::training::seeded::{Seeded, set_up};
use crate::training::statistics::Statistics;
use crate::training::trainer::MetaTrainer;

/// A task to be trained once.
pub(super) struct Attempt<'a, S> {
    pub space: &'a Arc<ParamSpace>,
    /// Where results go.
    pub home: &'a Device,
    pub tasks: &'a S,
    pub index: usize,
    pub context: TaskContext,
    /// Whether tasks draw from their device when they are set up, once that is known.
    pub set_ups_draw: &'a OnceLock<bool>,
}

/// What came of training tasks as one.
enum Together<M> {
    /// The first of them were.
    Trained(Vec<Trained<M>>),
    /// They do not fit together; some of them may.
    Differ,
    /// They have to be trained one by one.
    Alone,
}

/// A task's training.
struct Trained<M> {
    model: M,
    curve: LearningCurve,
    gradient: Option<ParamVector>,
    figures: Option<PathFigures>,
    held_out: Option<HeldOut>,
    normalized_by: Option<String>,
}

impl<L: Clone> MetaTrainer<L> {
    /// Sets a task up and trains it; its errors get its name and seed.
    pub(super) fn attempt<M: Module, S: TaskSet<M>, T>(
        &self,
        attempt: &Attempt<S>,
        init: &M,
        train: impl FnOnce(&mut Seeded<S::Task>, M) -> Result<T, TaskError>,
    ) -> Result<T, Error> {
        let Attempt { tasks, index, .. } = attempt;
        let TaskContext { seed, device, .. } = &attempt.context;
        let result = self.set_up(attempt, init, device, attempt.set_ups_draw);
        let result = result.and_then(|(task, model)| {
            let mut task = Seeded::new(task, *seed, device);
            train(&mut task, model)
        });
        result.map_err(|source| match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Task {
                name: tasks.name(*index),
                seed: *seed,
                source,
            },
        })
    }

    /// Trains tasks, or what is left of their training: as one, where that can be done, or one after the other.
    pub(super) fn train_tasks<M: Module, S: TaskSet<M>>(
        &self,
        attempts: &[Attempt<S>],
        init: &M,
        folder: Option<&TaskFolder>,
        plans: &Plans,
        keep: &impl Fn(&TaskReport, &M) -> Result<(), TaskError>,
    ) -> Result<Vec<(TaskReport, Option<ParamVector>)>, Error>
    where
        L: MetaLearner<M>,
    {
        let mut results = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            results.push(self.finished::<M, S>(attempt, folder)?);
        }
        let open = (0..attempts.len()).filter(|place| results[*place].is_none());
        let open: Vec<usize> = open.collect();
        // Groups of tasks that may be trained as one, and what they have in common, once that is known.
        let mut groups = match plans.are_mixed(false) {
            true => self.groups(attempts, &open, init),
            false => vec![(None, open)],
        };
        while let Some((kind, places)) = groups.pop() {
            let group = Vec::from_iter(places.iter().map(|place| &attempts[*place]));
            let together = self.train_together(&group, kind.as_ref(), init, plans)?;
            let (mut together, count) = match together {
                Together::Trained(trained) => {
                    let count = trained.len();
                    (trained.into_iter(), count)
                }
                Together::Differ if kind.is_none() => {
                    plans.are_mixed(true);
                    groups.extend(self.groups(attempts, &places, init));
                    continue;
                }
                _ => (Vec::new().into_iter(), places.len()),
            };
            let (now, later) = places.split_at(count);
            if !later.is_empty() {
                groups.push((kind, later.to_vec()));
            }
            // Each as soon as it is there: what is finished is saved.
            for place in now {
                let attempt = &attempts[*place];
                let trained = match together.next() {
                    Some(trained) => trained,
                    None => self.train_alone(attempt, init, folder)?,
                };
                results[*place] = Some(self.conclude(attempt, trained, folder, keep)?);
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// What an earlier process made of a task.
    fn finished<M: Module, S: TaskSet<M>>(
        &self,
        attempt: &Attempt<S>,
        folder: Option<&TaskFolder>,
    ) -> Result<Option<(TaskReport, Option<ParamVector>)>, Error> {
        let Some(folder) = folder else {
            return Ok(None);
        };
        let (seed, name) = (attempt.context.seed, attempt.tasks.name(attempt.index));
        let Some(FinishedTask { report, gradient }) = folder.finished(seed.task, &name)? else {
            return Ok(None);
        };
        if let Some(monitor) = self.monitor.clone() {
            let steps = self.inner(seed.purpose).steps;
            Watched { monitor, name }.restored(steps);
        }
        let home = attempt.home.clone().without_autodiff();
        let restore = |gradient| ParamVector::restore(attempt.space, gradient, &home);
        Ok(Some((report, gradient.map(restore).transpose()?)))
    }

    /// How a task trains.
    fn inner_of(&self, seed: TaskSeed, name: &str) -> InnerLoop {
        let mut inner = self.inner(seed.purpose).clone();
        inner.statistics = self.statistics;
        inner.watched = self.monitor.clone().map(|monitor| Watched {
            monitor,
            name: name.to_string(),
        });
        inner.breaks = Breaks::stop(self.stop.clone());
        inner
    }

    /// Trains a task by itself, or what is left of its training.
    fn train_alone<M: Module, S: TaskSet<M>>(
        &self,
        attempt: &Attempt<S>,
        init: &M,
        folder: Option<&TaskFolder>,
    ) -> Result<Trained<M>, Error>
    where
        L: MetaLearner<M>,
    {
        let (space, seed) = (attempt.space, attempt.context.seed);
        let name = attempt.tasks.name(attempt.index);
        let mut inner = self.inner_of(seed, &name);
        if let Some(folder) = folder {
            inner.breaks = folder.breaks(seed.task, name, self.stop.clone())?;
        }
        let train = |task: &mut Seeded<S::Task>, model: M| {
            // A task that goes on has the names of the process that it began in.
            let (model, named) = match inner.breaks.saved() {
                None => (model, (*space).clone()),
                Some(saved) => {
                    let names = saved.names(&model)?;
                    (rename(model, &names), space.renamed(&names))
                }
            };
            let (model, curve, gradient, figures) =
                self.learn(&named, &inner, seed, model, task)?;
            let steps = inner.steps_of(task.steps());
            let (held_out, normalized_by) = self.look(&model, steps, task)?;
            Ok(Trained {
                model,
                curve,
                gradient: gradient.map(|gradient| gradient.renamed(space)),
                figures: figures.map(|f| f.read()).transpose()?,
                held_out,
                normalized_by,
            })
        };
        self.attempt(attempt, init, train)
    }

    /// Trains a model for what its task is for.
    fn learn<M: Module, T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        seed: TaskSeed,
        model: M,
        task: &mut T,
    ) -> Result<(M, LearningCurve, Option<ParamVector>, Option<DeviceFigures>), TaskError>
    where
        L: MetaLearner<M>,
    {
        match seed.purpose {
            Purpose::HeldOut => {
                let mut path = PathMeter::new(space, true);
                let (model, curve) = self.learner.adapt(inner, model, task, &mut path)?;
                Ok((model, curve, None, path.figures()))
            }
            _ => {
                let learned = self.learner.learn(space, inner, model, task)?;
                let Learned {
                    model,
                    curve,
                    gradient,
                    figures,
                } = learned;
                Ok((model, curve, Some(gradient), figures))
            }
        }
    }

    /// How well a trained model does on what the task held back, and what it was normalized by.
    fn look<M: Module>(
        &self,
        model: &M,
        steps: usize,
        task: &mut impl Task<M>,
    ) -> Result<(Option<HeldOut>, Option<String>), TaskError> {
        let by = Statistics::choose(self.statistics, model, steps);
        let held_out = task.held_out(&by.evaluated(model))?;
        let normalized_by = by.named(model).filter(|_| held_out.is_some());
        Ok((held_out, normalized_by))
    }

    /// Sorts tasks by what they have in common, the first of them last: each group may be trained as one.
    fn groups<M: Module, S: TaskSet<M>>(
        &self,
        attempts: &[Attempt<S>],
        places: &[usize],
        init: &M,
    ) -> Vec<(Option<Kind>, Vec<usize>)> {
        let mut groups: Vec<(Option<Kind>, Vec<usize>)> = Vec::new();
        for place in places {
            let kind = fenced(|| self.kind(&attempts[*place], init));
            let kind = kind.ok().and_then(Result::ok);
            let same = |(known, _): &&mut (Option<Kind>, _)| match (known, &kind) {
                (Some(known), Some(kind)) => known.fits(kind),
                _ => false,
            };
            match groups.iter_mut().find(same) {
                Some((_, places)) => places.push(*place),
                None => groups.push((kind, vec![*place])),
            }
        }
        groups.reverse();
        groups
    }

    /// What of a task others have to have, too, to be trained with it.
    fn kind<M: Module, S: TaskSet<M>>(
        &self,
        attempt: &Attempt<S>,
        init: &M,
    ) -> Result<Kind, TaskError> {
        let recorder = Recorder::new();
        let device = recorder.device().clone();
        let (mut task, model) = self.set_up(attempt, init, &device, &OnceLock::new())?;
        Kind::of(&recorder, &mut task, &model)
    }

    /// Trains the first of `attempts`, whose kind may be known, as one, as many of them as there is memory for.
    fn train_together<M: Module, S: TaskSet<M>>(
        &self,
        attempts: &[&Attempt<S>],
        known: Option<&Kind>,
        init: &M,
        plans: &Plans,
    ) -> Result<Together<M>, Error>
    where
        L: MetaLearner<M>,
    {
        if attempts.len() < 2 || plans.are_hopeless() {
            return Ok(Together::Alone);
        }
        let mut found = None;
        // A task that is not made for it may do anything where it has no values to work with.
        let trained = fenced(|| {
            let inner = self.inner(attempts[0].context.seed.purpose);
            if !self.learner.stacks() {
                let learner = &self.learner;
                return Err(Unstackable::new(format!("the meta-learner {learner:?}")).into());
            }
            if inner.stopping.is_some() {
                return Err(Unstackable::new("early stopping").into());
            }
            let kind = match known {
                Some(kind) => kind,
                None => found.insert(self.kind(attempts[0], init)?),
            };
            let plan = match plans.get(kind) {
                Some(plan) => plan,
                None => plans.found(kind, Some(self.plan(attempts, init)?)),
            };
            let Some(plan) = plan else {
                return Ok(Together::Alone);
            };
            let room = match self.task_memory {
                None => attempts.len(),
                Some(memory) => (memory / plan.bytes.max(1)) as usize,
            };
            match room.min(attempts.len()) {
                0 | 1 => Ok(Together::Alone),
                room => {
                    let trained = self.stacked(&attempts[..room], init, plan, plans)?;
                    Ok::<_, TaskError>(Together::Trained(trained))
                }
            }
        });
        let source: TaskError = match trained {
            Ok(Ok(together)) => return Ok(together),
            Ok(Err(source)) => source,
            Err(why) => why.into(),
        };
        if let Some(Error::Interrupted) = source.downcast_ref() {
            return Err(Error::Interrupted);
        }
        // Training the tasks by themselves brings a fault of their own to light, with the task's name.
        match source.downcast_ref::<Unstackable>() {
            Some(why) if why.only_these => {
                log::info!("{} tasks are not trained at once: {why}", attempts.len());
                return Ok(Together::Differ);
            }
            _ if plans.give_up(known.or(found.as_ref())) => {
                log::warn!("tasks are trained one by one, and not at once: {source}");
            }
            _ => {}
        }
        Ok(Together::Alone)
    }

    /// How tasks are trained as one, which a first step of two of them shows.
    fn plan<M: Module, S: TaskSet<M>>(
        &self,
        attempts: &[&Attempt<S>],
        init: &M,
    ) -> Result<Plan, TaskError>
    where
        L: MetaLearner<M>,
    {
        let inner = self.inner(attempts[0].context.seed.purpose);
        let two = &attempts[..2];
        let (stacked, model) = self.stack(two, init, Plan::default())?;
        let alone = two.iter();
        let alone = alone.map(|attempt| {
            self.set_up(attempt, init, &attempt.context.device, attempt.set_ups_draw)
        });
        let alone = alone.collect::<Result<_, _>>()?;
        let steps = inner.steps_of(stacked.steps());
        let found = stacked.compare(&model, &inner.optimizer, alone, steps)?;
        log::info!(
            "tasks are trained {} at once, for which they need about {} MiB on the device",
            attempts.len(),
            (attempts.len() as u64 * found.bytes).div_ceil(1 << 20)
        );
        Ok(found)
    }

    /// Trains tasks as one.
    fn stacked<M: Module, S: TaskSet<M>>(
        &self,
        attempts: &[&Attempt<S>],
        init: &M,
        plan: Plan,
        plans: &Plans,
    ) -> Result<Vec<Trained<M>>, TaskError>
    where
        L: MetaLearner<M>,
    {
        let first = attempts[0];
        let (space, seed) = (first.space, first.context.seed);
        let mut inner = self.inner_of(seed, &first.tasks.name(first.index));
        let (mut tasks, model) = self.stack(attempts, init, plan)?;
        let curves = Arc::new(Mutex::new(Vec::new()));
        inner.curves = Some(curves.clone());
        let steps = inner.steps_of(tasks.steps());
        let wide = space.stacked(attempts.len());
        let learn = |tasks: &mut _| self.learn(&wide, &inner, seed, model, tasks);
        let learned = tasks.train(steps, !plans.are_uncaptured(false), learn);
        plans.are_uncaptured(tasks.fails_to_capture());
        let (model, curve, gradient, figures) = learned?;
        let each = tasks.finish(&model);
        let curves = std::mem::take(&mut *curves.lock().unwrap_or_else(PoisonError::into_inner));
        // Learners that do not train have none.
        let mut curves = match curves.is_empty() {
            true => vec![curve; attempts.len()],
            false => curves,
        }
        .into_iter();
        let mut gradients = gradient.map(|gradient| gradient.unstack(space).into_iter());
        let figures = figures.map(|f| f.read_each()).transpose()?;
        let mut figures = figures.map(Vec::into_iter);
        let trained = each.into_iter().map(|(mut task, model)| {
            let (held_out, normalized_by) = self.look(&model, steps, &mut task)?;
            Ok(Trained {
                model,
                curve: curves.next().unwrap_or_default(),
                gradient: gradients.as_mut().and_then(Iterator::next),
                figures: figures.as_mut().and_then(Iterator::next),
                held_out,
                normalized_by,
            })
        });
        trained.collect()
    }

    /// Sets tasks up to be trained as one.
    fn stack<M: Module, S: TaskSet<M>>(
        &self,
        attempts: &[&Attempt<S>],
        init: &M,
        plan: Plan,
    ) -> Result<(StackedTask<M, S::Task>, M), TaskError> {
        let own = attempts.iter().map(|attempt| {
            let recorder = Recorder::new();
            let device = recorder.device().clone();
            // Whether set-ups draw does not show on a device that computes nothing.
            let (task, model) = self.set_up(attempt, init, &device, &OnceLock::new())?;
            Ok::<_, TaskError>(Own {
                task,
                model,
                recorder,
                kept: None,
            })
        });
        let tasks = own.collect::<Result<Vec<_>, _>>()?;
        let steps = |own: &Own<M, S::Task>| Task::<M>::steps(&own.task);
        if tasks.iter().any(|own| steps(own) != steps(&tasks[0])) {
            return Err(Unstackable::these("tasks of different lengths").into());
        }
        Ok(StackedTask::new(tasks, plan)?)
    }

    /// A task whose tensors are made on `device`, and the model that it starts from.
    fn set_up<M: Module, S: TaskSet<M>>(
        &self,
        attempt: &Attempt<S>,
        init: &M,
        device: &Device,
        draws: &OnceLock<bool>,
    ) -> Result<(S::Task, M), TaskError> {
        let TaskContext { seed, steps, .. } = attempt.context;
        let context = TaskContext {
            seed,
            steps,
            device: device.clone(),
        };
        let own = ParamGroup::all().exclude(self.shared.clone());
        set_up(&seed, &attempt.context.device, draws, || {
            let mut task = attempt.tasks.task(attempt.index, &context)?;
            let model = reinitialize(task_copy(init), &own, &mut seed.rng(1));
            let model = task.start(model)?;
            initialize(&model);
            Ok((task, model))
        })
    }

    /// Reports a task.
    fn conclude<M: Module, S: TaskSet<M>>(
        &self,
        attempt: &Attempt<S>,
        trained: Trained<M>,
        folder: Option<&TaskFolder>,
        keep: &impl Fn(&TaskReport, &M) -> Result<(), TaskError>,
    ) -> Result<(TaskReport, Option<ParamVector>), Error> {
        let Attempt {
            home,
            tasks,
            index,
            context,
            ..
        } = attempt;
        let seed = context.seed;
        let name = tasks.name(*index);
        let Trained {
            model,
            curve,
            gradient,
            figures,
            held_out,
            normalized_by,
        } = trained;
        let is_finite = |v: &ParamVector| Ok::<_, Error>(read_back(v.dot(v))?[0].is_finite());
        let finite = gradient.as_ref().map_or(Ok(true), is_finite)?;
        let left_out = match curve.loss.iter().position(|loss| !loss.is_finite()) {
            Some(i) => Some(format!(
                "the loss is not finite at step {}",
                i * curve.stride
            )),
            None if !finite => Some("the meta-gradient is not finite".to_string()),
            None => None,
        };
        if let Some(reason) = &left_out {
            log::warn!("task `{name}` ({seed}) is left out: {reason}");
        }
        let gradient = gradient.filter(|_| left_out.is_none());
        // Here, so that a device that fails now has its task run again.
        let gradient = gradient.map(|gradient| gradient.to_device(home));
        let report = TaskReport {
            index: *index,
            name,
            seed,
            curve,
            path: figures,
            held_out,
            normalized_by,
            to_scratch: None,
            left_out,
        };
        keep(&report, &model).map_err(|source| Error::Task {
            name: report.name.clone(),
            seed,
            source,
        })?;
        if let Some(folder) = folder {
            let gradient = gradient.as_ref().map(ParamVector::save).transpose()?;
            let report = report.clone();
            folder.finish(seed.task, &FinishedTask { report, gradient })?;
        }
        Ok((report, gradient))
    }
}
