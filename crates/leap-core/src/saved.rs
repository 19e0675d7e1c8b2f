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
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::checkpoint::flush;
use crate::params::{ParamSpace, ids};
use crate::report::{CurveLog, TaskReport};

/// When a task's training is saved, and when it stops before its end.
#[derive(Clone, Default)]
pub(crate) struct Breaks {
    /// Where it is saved, and after how many steps each time.
    file: Option<(PathBuf, usize)>,
    /// What it goes on from.
    saved: Option<Arc<SavedTask>>,
    stop: Option<Arc<AtomicBool>>,
}

impl Breaks {
    pub fn new(
        file: Option<(PathBuf, usize)>,
        saved: Option<Arc<SavedTask>>,
        stop: Option<Arc<AtomicBool>>,
    ) -> Self {
        Self { file, saved, stop }
    }

    pub fn saved(&self) -> Option<&SavedTask> {
        self.saved.as_deref()
    }

    /// Whether training is to be saved after so many steps.
    pub fn are_due(&self, steps: usize) -> bool {
        let by_count = |(_, every): &(_, usize)| steps.is_multiple_of(*every);
        self.file.as_ref().is_some_and(by_count)
    }

    pub fn are_stopped(&self) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    pub fn save(&self, saved: &SavedTask) -> Result<(), Error> {
        match &self.file {
            None => Ok(()),
            Some((file, _)) => write(file, saved),
        }
    }
}

/// A task in the middle of its training.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedTask {
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
}

impl SavedTask {
    pub fn new<M: Module>(
        steps: usize,
        model: &M,
        optimizer: &ModuleOptimizer,
        task: Vec<u8>,
        path: Vec<u8>,
        curve: CurveLog,
    ) -> Result<Self, Error> {
        let record = model.clone().into_record().into_bytes();
        Ok(Self {
            steps,
            ids: ids(model).iter().map(ParamId::val).collect(),
            model: record.map_err(Error::saved)?.to_vec(),
            optimizer: optimizer.into_bytes().map_err(Error::saved)?.to_vec(),
            task,
            path,
            curve,
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
    /// The folder below `checkpoints` for tasks that start from `init`.
    pub fn new<M: Module>(
        checkpoints: &Path,
        every: usize,
        name: &str,
        space: &Arc<ParamSpace>,
        init: &M,
    ) -> Result<Self, Error> {
        // FNV-1a of the bits: tasks from another initialization are others.
        let values = space.point(init)?.to_vec()?;
        let digest = values
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, value| {
                (hash ^ value.to_bits()).wrapping_mul(0x0100_0000_01b3)
            });
        let path = checkpoints.join(format!("tasks-{name}-{digest:016x}"));
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(Self { path, every })
    }

    fn file(&self, place: u64, ending: &str) -> PathBuf {
        self.path.join(format!("{place}.{ending}"))
    }

    pub fn finished(&self, place: u64) -> Result<Option<FinishedTask>, Error> {
        read(&self.file(place, "finished"))
    }

    pub fn finish(&self, place: u64, task: &FinishedTask) -> Result<(), Error> {
        write(&self.file(place, "finished"), task)?;
        let unfinished = self.file(place, "unfinished");
        match unfinished.exists() {
            true => fs::remove_file(&unfinished).map_err(Error::io(&unfinished)),
            false => Ok(()),
        }
    }

    /// How task number `place` is broken off and gone on with.
    pub fn breaks(&self, place: u64, stop: Option<Arc<AtomicBool>>) -> Result<Breaks, Error> {
        let file = self.file(place, "unfinished");
        let saved = read(&file)?.map(Arc::new);
        Ok(Breaks::new(Some((file, self.every)), saved, stop))
    }

    /// Removes the folder, when what came of its tasks is known.
    pub fn remove(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.path).map_err(Error::io(&self.path))
    }
}

/// Writes a file under another name and then renames it, so that there is never half of one.
fn write(file: &Path, value: &impl Serialize) -> Result<(), Error> {
    let bytes = rmp_serde::to_vec_named(value).map_err(Error::saved)?;
    let beside = file.with_extension("new");
    fs::write(&beside, bytes).map_err(Error::io(&beside))?;
    flush(&beside)?;
    fs::rename(&beside, file).map_err(Error::io(file))
}

fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, Error> {
    if !file.exists() {
        return Ok(None);
    }
    let bytes = fs::read(file).map_err(Error::io(file))?;
    let value = rmp_serde::from_slice(&bytes);
    value.map(Some).map_err(|error| Error::Checkpoint {
        path: file.to_path_buf(),
        reason: error.to_string(),
    })
}
