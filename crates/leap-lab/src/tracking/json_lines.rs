//! Lines of JSON, one a meta-step.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use leap_core::{Report, Summary};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::folder::RunFolder;

/// A line of `metrics.jsonl`: a meta-step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetaStepMetrics {
    /// Meta-steps taken, this one included.
    pub meta_step: usize,
    /// Means over its tasks.
    #[serde(flatten)]
    pub tasks: Summary,
    /// The mean cosine between its tasks' meta-gradients ([`Report::coherence`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coherence: Option<f64>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Means over the validation tasks, learned from the initialization that the meta-step led to, where they
    /// [were](crate::Sweep::with_validation_every).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Summary>,
}

impl MetaStepMetrics {
    /// Those of the meta-step that `report` is of.
    pub(crate) fn of(report: &Report) -> Self {
        Self {
            meta_step: report.meta_step + 1,
            tasks: report.summary(),
            coherence: report.coherence.filter(|cosine| cosine.is_finite()),
            seconds: report.seconds,
            validation: None,
        }
    }
}

/// The file of metrics of a run, which meta-training reads too when it is resumed.
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
}

const NAME: &str = "metrics.jsonl";

impl JsonLines {
    /// The metrics in `folder`, of the first `meta_steps` meta-steps; what is there of later ones, as a crash may leave
    /// it, goes away.
    pub fn open(folder: &RunFolder, meta_steps: usize) -> Result<Self, Error> {
        let all = Self::read(folder)?;
        let kept: Vec<&MetaStepMetrics> =
            all.iter().filter(|m| m.meta_step <= meta_steps).collect();
        if kept.len() < meta_steps {
            log::warn!(
                "{} has {} of {meta_steps} meta-steps: curves and seconds are without the others",
                folder.join(NAME).display(),
                kept.len()
            );
        }
        if folder.join(NAME).exists() {
            let mut text = String::new();
            for metrics in kept {
                text += &line(metrics).map_err(|e| Error::damaged(folder.join(NAME), e))?;
            }
            folder.write(NAME, text)?;
        }
        let path = folder.join(NAME);
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(Error::io(&path))?;
        Ok(Self { path, file })
    }

    /// All lines, by meta-step, each once: of two lines of one meta-step the later counts.
    pub fn read(folder: &RunFolder) -> Result<Vec<MetaStepMetrics>, Error> {
        let lines = folder.read_lines::<MetaStepMetrics>(NAME)?;
        let by_step = lines.into_iter().map(|line| (line.meta_step, line));
        let by_step: std::collections::BTreeMap<_, _> = by_step.collect();
        Ok(by_step.into_values().collect())
    }

    /// Has what was written on the disk, before a checkpoint that is.
    pub fn flush(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }

    pub fn write(&mut self, metrics: &MetaStepMetrics) -> Result<(), Error> {
        let text = line(metrics).map_err(|e| Error::damaged(&self.path, e))?;
        self.file
            .write_all(text.as_bytes())
            .map_err(Error::io(&self.path))
    }
}

fn line(metrics: &MetaStepMetrics) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string(metrics)? + "\n")
}
