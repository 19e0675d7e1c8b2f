//! Tasks that take hours: what is saved of their training, within a meta-step.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{Module, ParamId};
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::saving::files::{read, remove, write};
use crate::space::copy::ids;
use crate::space::copy::task_copy;
use crate::space::params::ParamSpace;
use crate::space::params::digest;
use crate::tasks::curve::CurveLog;
use crate::tasks::report::TaskReport;

/// When a task's training is saved, and when it stops before its end.
#[derive(Clone, Default)]
pub(crate) struct Breaks {
    /// Where it is saved, under which name, and after how many steps each time.
    file: Option<(PathBuf, String, usize)>,
    /// What it goes on from.
    saved: Option<Arc<SavedTask>>,
    stop: Option<Arc<AtomicBool>>,
    /// Whether a run has begun: a meta-learner's second run of a task is not saved.
    begun: Arc<AtomicBool>,
}

impl Breaks {
    /// Training that only stops, when `stop` is set.
    pub fn stop(stop: Option<Arc<AtomicBool>>) -> Self {
        Self {
            stop,
            ..Self::default()
        }
    }

    /// What is left for a run that begins now.
    pub fn begin(&self) -> Self {
        match self.begun.swap(true, Ordering::Relaxed) {
            false => self.clone(),
            true => Self::stop(self.stop.clone()),
        }
    }

    pub fn saved(&self) -> Option<&SavedTask> {
        self.saved.as_deref()
    }

    /// Whether training is to be saved after so many steps.
    pub fn are_due(&self, steps: usize) -> bool {
        let file = self.file.as_ref();
        file.is_some_and(|(_, _, every)| steps.is_multiple_of(*every))
    }

    pub fn are_stopped(&self) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    pub fn save(&self, mut saved: SavedTask) -> Result<(), Error> {
        match &self.file {
            None => Ok(()),
            Some((file, name, _)) => {
                saved.name = name.clone();
                write(file, &saved)
            }
        }
    }
}

/// A task in the middle of its training.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedTask {
    name: String,
    /// Number of steps taken.
    pub steps: usize,
    /// Of the model's parameters, in the order in which they are visited.
    ids: Vec<u64>,
    #[serde(with = "serde_bytes")]
    model: Vec<u8>,
    #[serde(with = "serde_bytes")]
    optimizer: Vec<u8>,
    /// What [`Task::save`](crate::Task::save) gave.
    #[serde(with = "serde_bytes")]
    pub task: Vec<u8>,
    /// What [`LearningPath::save`](crate::LearningPath::save) gave.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    pub curve: CurveLog,
    /// Of early stopping, where there is any.
    #[serde(default, with = "serde_bytes")]
    pub checks: Option<Vec<u8>>,
}

impl SavedTask {
    pub fn new<M: Module>(
        steps: usize,
        model: &M,
        optimizer: &ModuleOptimizer,
        task: Vec<u8>,
        path: Vec<u8>,
        curve: CurveLog,
        checks: Option<Vec<u8>>,
    ) -> Result<Self, Error> {
        // A copy, whose running statistics are those after the last step.
        let record = task_copy(model).into_record().into_bytes();
        Ok(Self {
            name: String::new(),
            steps,
            ids: ids(model).iter().map(ParamId::val).collect(),
            model: record.map_err(Error::saved)?.to_vec(),
            optimizer: optimizer.into_bytes().map_err(Error::saved)?.to_vec(),
            task,
            path,
            curve,
            checks,
        })
    }

    /// From the ids of `model`'s parameters to those that they had in the process that saved them, by which the
    /// optimizer knows them.
    pub fn names<M: Module>(&self, model: &M) -> Result<HashMap<ParamId, ParamId>, Error> {
        let now = ids(model);
        if now.len() != self.ids.len() {
            return Err(Error::Saved("it is of another model".into()));
        }
        let then = self.ids.iter().map(|id| ParamId::from(*id));
        Ok(now.into_iter().zip(then).collect())
    }

    /// Model and optimizer as they were.
    pub fn restore<M: Module>(
        &self,
        model: M,
        optimizer: ModuleOptimizer,
    ) -> Result<(M, ModuleOptimizer), Error> {
        let bytes = |bytes: &Vec<u8>| Bytes::from_bytes_vec(bytes.clone());
        let record = ModuleRecord::from_bytes(bytes(&self.model)).map_err(Error::saved)?;
        let model = model.try_load_record(record).map_err(Error::saved)?;
        let record = OptimizerRecord::from_bytes(bytes(&self.optimizer)).map_err(Error::saved)?;
        Ok((model, optimizer.load_record(record)))
    }
}

/// A task of a meta-batch that has come to its end, while others have not.
#[derive(Serialize, Deserialize)]
pub(crate) struct FinishedTask {
    pub report: TaskReport,
    pub gradient: Option<TensorData>,
}

/// The folder of a meta-batch's tasks, while they are trained.
pub(crate) struct TaskFolder {
    path: PathBuf,
    every: usize,
}

impl TaskFolder {
    /// The folder below `checkpoints` for tasks that start from `init` and are trained as `how` says; others have other
    /// folders.
    pub fn new<M: Module>(
        checkpoints: &Path,
        every: usize,
        name: &str,
        how: &str,
        space: &Arc<ParamSpace>,
        init: &M,
    ) -> Result<Self, Error> {
        let mut values = space.point(init)?.to_vec()?;
        values.extend(format!("{how}, saved every {every}").bytes().map(f64::from));
        let path = checkpoints.join(format!("{PREFIX}{name}-{:016x}", digest(&values)));
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(Self { path, every })
    }

    fn file(&self, place: u64, ending: &str) -> PathBuf {
        self.path.join(format!("{place}.{ending}"))
    }

    /// Task number `place`, if it is the one called `name` and has come to its end.
    pub fn finished(&self, place: u64, name: &str) -> Result<Option<FinishedTask>, Error> {
        let finished: Option<FinishedTask> = read(&self.file(place, "finished"))?;
        Ok(finished.filter(|task| task.report.name == name))
    }

    pub fn finish(&self, place: u64, task: &FinishedTask) -> Result<(), Error> {
        write(&self.file(place, "finished"), task)?;
        let unfinished = self.file(place, "unfinished");
        match unfinished.exists() {
            true => fs::remove_file(&unfinished).map_err(Error::io(&unfinished)),
            false => Ok(()),
        }
    }

    /// How task number `place`, called `name`, is broken off and gone on with.
    pub fn breaks(
        &self,
        place: u64,
        name: String,
        stop: Option<Arc<AtomicBool>>,
    ) -> Result<Breaks, Error> {
        let file = self.file(place, "unfinished");
        let saved: Option<SavedTask> = read(&file)?;
        Ok(Breaks {
            saved: saved.filter(|task| task.name == name).map(Arc::new),
            file: Some((file, name, self.every)),
            stop,
            begun: Arc::default(),
        })
    }

    /// Removes the folder, when what came of its tasks is known.
    pub fn remove(self) -> Result<(), Error> {
        remove(&self.path)
    }
}

pub(crate) const PREFIX: &str = "tasks-";

/// Removes the folders of meta-steps before `meta_step`.
pub(crate) fn remove_tasks_before(checkpoints: &Path, meta_step: usize) -> Result<(), Error> {
    if !checkpoints.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(checkpoints).map_err(Error::io(checkpoints))? {
        let path = entry.map_err(Error::io(checkpoints))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if step
            .and_then(|step| step.parse().ok())
            .is_some_and(|step: usize| step < meta_step)
        {
            remove(&path)?;
        }
    }
    Ok(())
}
