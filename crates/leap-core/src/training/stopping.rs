//! When a task's training ends before its last step.

use burn::config::Config;
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Bytes;

use crate::error::{Error, TaskError};
use crate::space::copy::task_copy;
use crate::tasks::task::Task;
use crate::training::statistics::Statistics;

/// Early stopping: training ends when it no longer gets better on samples that it does not train on, and the model is
/// that of the best [check](crate::Task::validate).
///
/// The learning curve and the path are of all steps that were taken, those after the best check too.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct EarlyStopping {
    /// Training steps from one check to the next; a task of fewer steps is not checked.
    #[config(default = 1)]
    pub every: usize,
    /// Checks in a row that are no better than the best, after which training ends; the Multi-CV experiment of the
    /// [Leap paper](https://arxiv.org/abs/1812.01054) has 10.
    #[config(default = 10)]
    pub patience: usize,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self::new()
    }
}

/// The checks of a task under way.
pub(super) struct Checks<M> {
    stopping: EarlyStopping,
    statistics: Statistics,
    best: Option<(f64, M)>,
    /// Since the best.
    worse: usize,
}

/// [`Checks`] between two steps: the best error and its model, and how many were worse since.
type Saved = (Option<(f64, serde_bytes::ByteBuf)>, usize);

impl<M: Module> Checks<M> {
    pub fn new(stopping: EarlyStopping, statistics: Statistics) -> Result<Self, Error> {
        if stopping.every == 0 || stopping.patience == 0 {
            let wrong = "early stopping needs `every` and `patience` above 0";
            return Err(Error::InvalidSetting(wrong.into()));
        }
        Ok(Self {
            stopping,
            statistics,
            best: None,
            worse: 0,
        })
    }

    /// Looks at the model after so many steps, if it is time; whether training is over.
    pub fn is_over(
        &mut self,
        steps: usize,
        model: &M,
        task: &mut impl Task<M>,
    ) -> Result<bool, TaskError> {
        if !steps.is_multiple_of(self.stopping.every) {
            return Ok(false);
        }
        let Some(found) = task.validate(&self.statistics.evaluated(model))? else {
            return Ok(false);
        };
        let error = found.error();
        match &self.best {
            Some((best, _)) if error.is_nan() || error >= *best => self.worse += 1,
            _ => (self.best, self.worse) = (Some((error, task_copy(model))), 0),
        }
        Ok(self.worse >= self.stopping.patience)
    }

    /// The model of the best check, or the last one where there was no check.
    pub fn finish(self, last: M) -> M {
        self.best.map_or(last, |(_, model)| model)
    }

    pub fn save(&self) -> Result<Vec<u8>, Error> {
        let best = self.best.as_ref().map(|(error, model)| {
            let record = task_copy(model).into_record().into_bytes();
            let bytes = record.map_err(Error::saved)?.to_vec();
            Ok::<_, Error>((*error, serde_bytes::ByteBuf::from(bytes)))
        });
        let saved: Saved = (best.transpose()?, self.worse);
        rmp_serde::to_vec(&saved).map_err(Error::saved)
    }

    /// Goes on from what was saved, with a model of the same shape.
    pub fn restore(&mut self, saved: &[u8], model: &M) -> Result<(), Error> {
        let (best, worse): Saved = rmp_serde::from_slice(saved).map_err(Error::saved)?;
        let best = best.map(|(error, bytes)| {
            let bytes = Bytes::from_bytes_vec(bytes.into_vec());
            let record = ModuleRecord::from_bytes(bytes).map_err(Error::saved)?;
            let model = task_copy(model).try_load_record(record);
            Ok::<_, Error>((error, model.map_err(Error::saved)?))
        });
        (self.best, self.worse) = (best.transpose()?, worse);
        Ok(())
    }
}
