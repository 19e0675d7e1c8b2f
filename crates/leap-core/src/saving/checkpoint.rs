//! Checkpoints of meta-training, safe against being killed at any moment.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::number;
use crate::saving::files::{DAMAGED, checksum, flush};
use crate::saving::task::{PREFIX as TASKS, TaskFolder, remove_tasks_before};
use crate::space::params::ParamSpace;

/// Where and how often meta-training is saved.
///
/// A checkpoint is a folder `checkpoint-<meta-step>` with the initialization (`init.bpk`), the
/// meta-optimizer's state (`meta_optimizer.bpk`), both in Burn's format, and `state.json`. It is written
/// under another name, flushed to disk and then renamed; only then are older ones removed.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    every: usize,
    /// Steps of a task after each of which it is saved too; 0 is never.
    every_task_steps: usize,
    overwrite: bool,
}

/// What decides which numbers a run computes; a resumed run must have the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub learner: String,
    pub seed: u64,
    pub meta_batch_size: usize,
    pub task_steps: usize,
    /// Whether tasks are taken in turn.
    #[serde(default)]
    pub in_turn: bool,
    /// Early stopping, as text.
    #[serde(default)]
    pub stopping: String,
    /// What optimizers do, with their learning rates.
    #[serde(with = "number::list")]
    pub task_optimizer: Vec<f64>,
    #[serde(with = "number::list")]
    pub meta_optimizer: Vec<f64>,
    /// Paths of the parameters that are meta-learned.
    pub shared: Vec<String>,
    /// A digest of the initialization that the run began from.
    pub init: String,
}

impl Settings {
    /// What differs from `other`, by name.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let mut differ = |differs: bool, name: &str, then: String, now: String| {
            if differs {
                all.push(format!("{name}: {then} then, {now} now"));
            }
        };
        let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
        let (a, b) = (self, other);
        differ(
            a.learner != b.learner,
            "learner",
            a.learner.clone(),
            b.learner.clone(),
        );
        differ(a.seed != b.seed, "seed", text(&a.seed), text(&b.seed));
        let sizes = (text(&a.meta_batch_size), text(&b.meta_batch_size));
        differ(
            a.meta_batch_size != b.meta_batch_size,
            "meta-batch size",
            sizes.0,
            sizes.1,
        );
        let steps = (text(&a.task_steps), text(&b.task_steps));
        differ(a.task_steps != b.task_steps, "task steps", steps.0, steps.1);
        differ(
            a.in_turn != b.in_turn,
            "tasks in turn",
            text(&a.in_turn),
            text(&b.in_turn),
        );
        differ(
            a.stopping != b.stopping,
            "early stopping",
            a.stopping.clone(),
            b.stopping.clone(),
        );
        // Devices round differently.
        let near = |a: &f64, b: &f64| {
            let (largest, neither) = (a.abs().max(b.abs()), a.is_nan() && b.is_nan());
            (a - b).abs() <= 1e-3 * largest || a == b || neither
        };
        let same =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b));
        for (name, a, b) in [
            (
                "task optimizer or its learning rate",
                &a.task_optimizer,
                &b.task_optimizer,
            ),
            (
                "meta-optimizer or its learning rate",
                &a.meta_optimizer,
                &b.meta_optimizer,
            ),
        ] {
            let rate = |numbers: &Vec<f64>| {
                let first = numbers.first().copied().unwrap_or(f64::NAN);
                format!("{first} at first")
            };
            differ(!same(a, b), name, rate(a), rate(b));
        }
        differ(
            a.shared != b.shared,
            "meta-learned parameters",
            text(&a.shared),
            text(&b.shared),
        );
        differ(
            a.init != b.init,
            "initialization at the start",
            a.init.clone(),
            b.init.clone(),
        );
        all
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    meta_step: usize,
    settings: Settings,
    /// Checksums of the other files.
    init: String,
    meta_optimizer: String,
}

const VERSION: u32 = 4;
const PREFIX: &str = "checkpoint-";
const UNFINISHED: &str = "unfinished-checkpoint";

/// Whether a folder is called as one that a run saves; others are somebody else's.
fn is_ours(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let tasks = name.strip_prefix(TASKS).and_then(|of| of.rsplit_once('-'));
    name == UNFINISHED
        || name.strip_prefix(PREFIX).is_some_and(is_number)
        || tasks.is_some_and(|(of, hash)| is_hash(hash) && (of == "held-out" || is_number(of)))
}

pub(crate) struct Loaded<M> {
    pub init: M,
    pub optimizer: ModuleOptimizer,
    pub meta_step: usize,
}

impl Checkpoints {
    /// Checkpoints in `folder`, which is made when the first is saved, every `every` meta-steps; 0 is only when
    /// [asked](crate::MetaRun::save_checkpoint).
    pub fn new(folder: impl Into<PathBuf>, every: usize) -> Self {
        Self {
            folder: folder.into(),
            every,
            every_task_steps: 0,
            overwrite: false,
        }
    }

    /// Replaces the checkpoints of an earlier run in the folder, when a run that [begins](crate::MetaTrainer::begin) saves
    /// its first. Without it, such a folder is refused.
    pub fn with_overwrite(mut self) -> Self {
        self.overwrite = true;
        self
    }

    /// That there is nothing of an earlier run in the folder, or that it may be replaced.
    pub(crate) fn check_unused(&self) -> Result<(), Error> {
        match self.newest()? {
            Some(path) if !self.overwrite => Err(Error::Checkpoint {
                path,
                reason: "it is of an earlier run: `resume` goes on with it, `Checkpoints::with_overwrite` replaces it, \
                         another folder keeps both"
                    .into(),
            }),
            _ => Ok(()),
        }
    }

    /// Removes what a run has saved in the folder, and the folder, unless something else is in it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be removed.
    pub fn clear(&self) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(&self.folder)(error)),
        };
        for entry in entries {
            let path = entry.map_err(Error::io(&self.folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && !path.is_symlink() && is_ours(&name) {
                fs::remove_dir_all(&path).map_err(Error::io(&path))?;
            }
        }
        let _ = fs::remove_dir(&self.folder); // It stays where something else is in it.
        Ok(())
    }

    /// Removes all checkpoints.
    pub(crate) fn remove_all(&self) -> Result<(), Error> {
        for (_, path) in self.all()? {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    /// Saves within tasks too, every `every` steps of each, for tasks that take hours; tasks of an evaluation as
    /// well. A [resumed](crate::MetaTrainer::resume) run goes on in the middle of its tasks.
    ///
    /// The task has to be able to be saved ([`Task::save`](crate::Task::save)), and so has what the meta-learner keeps of
    /// its path ([`LearningPath::save`](crate::LearningPath::save), which MAML has not); others start again.
    pub fn with_task_steps(mut self, every: usize) -> Self {
        self.every_task_steps = every;
        self
    }

    /// Whether tasks are saved, too.
    pub(crate) fn keeps_tasks(&self) -> bool {
        self.every_task_steps > 0
    }

    /// Where the tasks of a meta-batch, or of an evaluation, are saved while they are trained.
    pub(crate) fn tasks<M: Module>(
        &self,
        name: &str,
        how: &str,
        space: &Arc<ParamSpace>,
        init: &M,
    ) -> Result<Option<TaskFolder>, Error> {
        match self.every_task_steps {
            0 => Ok(None),
            every => TaskFolder::new(&self.folder, every, name, how, space, init).map(Some),
        }
    }

    /// Removes what was saved of tasks of meta-steps that another process surely has a checkpoint after.
    pub(crate) fn forget_tasks(&self, meta_step: usize) -> Result<(), Error> {
        match (self.every_task_steps, self.every) {
            (0, _) | (_, 0) => Ok(()),
            (_, every) => {
                let before = meta_step.saturating_sub(1);
                remove_tasks_before(&self.folder, before - before % every)
            }
        }
    }

    /// The newest checkpoint's folder, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder exists but cannot be read.
    pub fn newest(&self) -> Result<Option<PathBuf>, Error> {
        Ok(self.all()?.pop().map(|(_, path)| path))
    }

    pub(crate) fn is_due(&self, meta_step: usize) -> bool {
        self.every > 0 && meta_step.is_multiple_of(self.every)
    }

    /// All checkpoints, the oldest first.
    fn all(&self) -> Result<Vec<(usize, PathBuf)>, Error> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io(&self.folder))? {
            let path = entry.map_err(Error::io(&self.folder))?.path();
            let name = path.file_name().and_then(|n| n.to_str());
            let step = name.and_then(|n| n.strip_prefix(PREFIX)?.parse().ok());
            if let Some(step) = step {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    pub(crate) fn save<M: Module>(
        &self,
        init: &M,
        optimizer: &ModuleOptimizer,
        meta_step: usize,
        settings: &Settings,
    ) -> Result<(), Error> {
        let older = self.all()?;
        let target = self.folder.join(format!("{PREFIX}{meta_step:08}"));
        if target.exists() {
            return Ok(()); // The same run at the same meta-step has nothing else to say.
        }
        let scratch = self.folder.join(UNFINISHED);
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(Error::io(&scratch))?;
        }
        fs::create_dir_all(&scratch).map_err(Error::io(&scratch))?;

        let sum = |path: &Path| {
            let bytes = fs::read(path).map_err(Error::io(path))?;
            Ok::<_, Error>(format!("{:016x}", checksum(&bytes)))
        };
        let record = |path: &Path, result: Result<(), burn::store::RecordError>| {
            result.map_err(|error| Error::Checkpoint {
                path: path.to_path_buf(),
                reason: error.to_string(),
            })
        };
        let path = scratch.join("init.bpk");
        record(&path, init.clone().save_file(&path))?;
        let init = sum(&path)?;
        let path = scratch.join("meta_optimizer.bpk");
        record(&path, optimizer.save(&path))?;
        let meta_optimizer = sum(&path)?;
        let path = scratch.join("state.json");
        let state = State {
            version: VERSION,
            meta_step,
            settings: settings.clone(),
            init,
            meta_optimizer,
        };
        let json = serde_json::to_vec_pretty(&state).map_err(Error::saved)?;
        fs::write(&path, json).map_err(Error::io(&path))?;

        for file in ["init.bpk", "meta_optimizer.bpk", "state.json"] {
            flush(&scratch.join(file))?;
        }
        fs::rename(&scratch, &target).map_err(Error::io(&target))?;
        flush(&self.folder)?;
        remove_tasks_before(&self.folder, meta_step)?;
        for (_, path) in older {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    pub(crate) fn load<M: Module>(
        &self,
        init: M,
        settings: &Settings,
        optimizer: &ModuleOptimizer,
    ) -> Result<Option<Loaded<M>>, Error> {
        let Some((meta_step, folder)) = self.all()?.pop() else {
            return Ok(None);
        };
        let bad = |file: &str, reason: String| Error::Checkpoint {
            path: folder.join(file),
            reason,
        };
        let path = folder.join("state.json");
        let json = fs::read(&path).map_err(Error::io(&path))?;
        let state: State =
            serde_json::from_slice(&json).map_err(|e| bad("state.json", e.to_string()))?;
        if state.version != VERSION {
            return Err(bad(
                "state.json",
                format!("version {} is not known (this is {VERSION})", state.version),
            ));
        }
        if state.meta_step != meta_step {
            let reason = format!("it is of meta-step {}, its folder is not", state.meta_step);
            return Err(bad("state.json", reason));
        }
        let differences = state.settings.differences(settings);
        if !differences.is_empty() {
            let reason = format!("it is of another run; {}", differences.join("; "));
            return Err(bad("state.json", reason));
        }
        for (file, expected) in [
            ("init.bpk", &state.init),
            ("meta_optimizer.bpk", &state.meta_optimizer),
        ] {
            let path = folder.join(file);
            let bytes = fs::read(&path).map_err(Error::io(&path))?;
            if format!("{:016x}", checksum(&bytes)) != *expected {
                return Err(bad(file, DAMAGED.into()));
            }
        }
        let init = init
            .try_load_file(folder.join("init.bpk"))
            .map_err(|e| bad("init.bpk", e.to_string()))?;
        let optimizer = optimizer
            .clone()
            .load(folder.join("meta_optimizer.bpk"))
            .map_err(|e| bad("meta_optimizer.bpk", e.to_string()))?;
        Ok(Some(Loaded {
            init,
            optimizer,
            meta_step: state.meta_step,
        }))
    }
}
