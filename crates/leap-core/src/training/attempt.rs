//! A task of a meta-batch, or a held-out one, trained once.

use std::sync::{Arc, OnceLock};

use burn::module::{Module, ParamGroup};
use burn::tensor::Device;

use crate::error::{Error, TaskError};
use crate::saving::task::{Breaks, FinishedTask, TaskFolder};
use crate::seed::Purpose;
use crate::space::copy::{initialize, rename, task_copy};
use crate::space::params::{ParamSpace, ParamVector, read_back};
use crate::space::path::PathMeter;
use crate::space::reinitialize::reinitialize;
use crate::tasks::monitor::Watched;
use crate::tasks::report::TaskReport;
use crate::tasks::task::{Task, TaskContext, TaskSet};
use crate::training::learner::MetaLearner;
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

impl<L: Clone> MetaTrainer<L> {
    /// Sets a task up and trains it; its errors get its name and seed.
    pub(super) fn attempt<M: Module, S: TaskSet<M>, T>(
        &self,
        attempt: &Attempt<S>,
        init: &M,
        train: impl FnOnce(&mut Seeded<S::Task>, M) -> Result<T, TaskError>,
    ) -> Result<T, Error> {
        let Attempt {
            tasks,
            index,
            context,
            set_ups_draw,
            ..
        } = attempt;
        let TaskContext { seed, device, .. } = context;
        let own = ParamGroup::all().exclude(self.shared.clone());
        let result = set_up(seed, device, set_ups_draw, || {
            let mut task = tasks.task(*index, context)?;
            let model = reinitialize(task_copy(init), &own, &mut seed.rng(1));
            let model = task.start(model)?;
            initialize(&model);
            Ok((Seeded::new(task, *seed, device), model))
        });
        let result = result.and_then(|(mut task, model)| train(&mut task, model));
        result.map_err(|source| match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Task {
                name: tasks.name(*index),
                seed: context.seed,
                source,
            },
        })
    }

    /// Trains a task, or what is left of its training.
    pub(super) fn train_task<M: Module, S: TaskSet<M>>(
        &self,
        attempt: &Attempt<S>,
        init: &M,
        folder: Option<&TaskFolder>,
        keep: impl Fn(&TaskReport, &M) -> Result<(), TaskError>,
    ) -> Result<(TaskReport, Option<ParamVector>), Error>
    where
        L: MetaLearner<M>,
    {
        let Attempt {
            space,
            home,
            tasks,
            index,
            context,
            ..
        } = attempt;
        let seed = context.seed;
        let name = tasks.name(*index);
        let mut inner = self.inner(seed.purpose).clone();
        inner.statistics = self.statistics;
        inner.watched = self.monitor.clone().map(|monitor| Watched {
            monitor,
            name: name.clone(),
        });
        inner.breaks = match folder {
            None => Breaks::stop(self.stop.clone()),
            Some(folder) => {
                if let Some(FinishedTask { report, gradient }) =
                    folder.finished(seed.task, &name)?
                {
                    if let Some(watched) = &inner.watched {
                        watched.restored(inner.steps);
                    }
                    let home = (*home).clone().without_autodiff();
                    let restore = |gradient| ParamVector::restore(space, gradient, &home);
                    return Ok((report, gradient.map(restore).transpose()?));
                }
                folder.breaks(seed.task, name.clone(), self.stop.clone())?
            }
        };
        let train = |task: &mut Seeded<S::Task>, model: M| {
            // A task that goes on has the names of the process that it began in.
            let (model, named) = match inner.breaks.saved() {
                None => (model, (*space).clone()),
                Some(saved) => {
                    let names = saved.names(&model)?;
                    (rename(model, &names), space.renamed(&names))
                }
            };
            let (model, curve, gradient, figures) = match seed.purpose {
                Purpose::HeldOut => {
                    let mut path = PathMeter::new(&named, true);
                    let (model, curve) = self.learner.adapt(&inner, model, task, &mut path)?;
                    (model, curve, None, path.figures())
                }
                _ => {
                    let learned = self.learner.learn(&named, &inner, model, task)?;
                    let gradient = Some(learned.gradient.renamed(space));
                    (learned.model, learned.curve, gradient, learned.figures)
                }
            };
            let steps = task.steps().map_or(inner.steps, |own| own.min(inner.steps));
            let by = Statistics::choose(self.statistics, &model, steps);
            let held_out = task.held_out(&by.evaluated(&model))?;
            let normalized_by = by.named(&model).filter(|_| held_out.is_some());
            let looks = (held_out, normalized_by);
            Ok((model, curve, gradient, figures, looks))
        };
        let (model, curve, gradient, figures, looks) = self.attempt(attempt, init, train)?;
        let (held_out, normalized_by) = looks;

        let figures = figures.map(|f| f.read()).transpose()?;
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
