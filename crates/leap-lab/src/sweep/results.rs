//! What came of a sweep, as its folder has it.

use std::collections::BTreeMap;

use leap_core::{LearningCurve, MetaTrainer, Report, Summary};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::folder::{CONFIG, FOLDER, RunFolder, differences};
use crate::sweep::plan::Sweep;
use crate::sweep::run::{Run, number};
use crate::tracking::json_lines::{JsonLines, MetaStepMetrics};

/// A run that is done.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// Which run it is.
    pub run: Run,
    /// What came of it.
    pub summary: RunSummary,
    /// The held-out tasks, one by one.
    pub held_out: Report,
    /// Its meta-steps.
    pub meta_steps: Vec<MetaStepMetrics>,
    /// The picture of its paths, as SVG, and of an episode, as GIF, where there are any.
    pub(crate) pictures: (Option<String>, Option<Vec<u8>>),
}

/// What came of a run: its `summary.json`, and an entry of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Meta-steps of its initialization.
    pub meta_steps: usize,
    /// Tasks of a meta-batch.
    pub meta_batch: usize,
    /// Training steps of a held-out task, at most.
    pub task_steps: usize,
    /// Means over the held-out tasks.
    #[serde(flatten)]
    pub held_out_tasks: Summary,
    /// Held-out tasks that came to the target score, if there is one.
    #[serde(default)]
    pub reached_target: Option<usize>,
    /// How long they took on average, in the experiment's units.
    #[serde(default)]
    pub steps_to_target: Option<f64>,
    /// Of meta-training, on the run's lanes.
    pub training_seconds: f64,
    /// Of learning the held-out tasks.
    pub evaluation_seconds: f64,
}

impl RunSummary {
    /// Of nothing.
    pub(super) fn blank() -> Self {
        Self {
            meta_steps: 0,
            meta_batch: 0,
            task_steps: 0,
            held_out_tasks: Summary::of(&[]),
            reached_target: None,
            steps_to_target: None,
            training_seconds: 0.0,
            evaluation_seconds: 0.0,
        }
    }

    /// Whether held-out tasks took fewer steps than they might have.
    pub(super) fn stops_early(&self) -> bool {
        let steps = self.held_out_tasks.steps;
        steps.is_some_and(|steps| steps < self.task_steps as f64)
    }

    pub(super) fn of<L: Clone>(
        meta_steps: usize,
        trainer: &MetaTrainer<L>,
        report: &Report,
        metrics: &[MetaStepMetrics],
        target: Option<f64>,
        unit: usize,
    ) -> Self {
        let kept = report.tasks.iter().filter(|t| t.left_out.is_none());
        let reached = target.map(|target| {
            let steps = kept.filter_map(|t| t.curve.steps_to_score(target));
            steps.map(|s| ((s + 1) * unit) as f64).collect::<Vec<_>>()
        });
        let mean = |steps: &Vec<f64>| steps.iter().sum::<f64>() / steps.len() as f64;
        Self {
            meta_steps,
            meta_batch: trainer.meta_batch_size(),
            task_steps: trainer.held_out_steps(),
            held_out_tasks: report.summary(),
            steps_to_target: reached.as_ref().filter(|r| !r.is_empty()).map(mean),
            reached_target: reached.map(|r| r.len()),
            training_seconds: metrics.iter().fold(0.0, |sum, m| sum + m.seconds),
            evaluation_seconds: report.seconds,
        }
    }
}

/// A run and what came of it, in one object.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    method: &'a str,
    #[serde(flatten)]
    settings: BTreeMap<&'a str, Value>,
    seed: u64,
    #[serde(flatten)]
    summary: &'a RunSummary,
}

impl<'a> Row<'a> {
    pub fn of(run: &'a Run, summary: &'a RunSummary) -> Self {
        let settings = run.settings.iter().chain(&run.searched);
        Self {
            method: &run.method,
            settings: settings.map(|(n, v)| (n.as_str(), number(*v))).collect(),
            seed: run.seed,
            summary,
        }
    }
}

/// The mean learning curve on held-out tasks: each of its quantities over training steps.
pub(super) fn curves(report: &Report) -> Vec<(&'static str, Vec<(f64, f64)>)> {
    let LearningCurve {
        loss,
        accuracy,
        score,
        length,
        stride,
    } = report.curve();
    let score = score.into_iter().map(|s| s.unwrap_or(f64::NAN)).collect();
    let all = [
        ("loss", loss),
        ("accuracy", accuracy),
        ("score", score),
        ("path_length", length),
    ];
    let over_steps = |values: Vec<f64>| {
        let points = values.into_iter().enumerate();
        let points = points.map(|(i, value)| (((i + 1) * stride - 1) as f64, value));
        points.filter(|(_, value)| value.is_finite()).collect()
    };
    all.into_iter()
        .map(|(name, values)| (name, over_steps(values)))
        .filter(|(_, curve): &(_, Vec<_>)| !curve.is_empty())
        .collect()
}

/// All runs in a sweep's folder that are done, methods in the order of the sweep, others by name.
/// Runs of another number of meta-steps are no part of it. What is left out, and why, comes back too.
pub(super) fn read_all(
    sweep: &Sweep,
    folder: &RunFolder,
) -> Result<(Vec<RunResult>, Vec<String>), Error> {
    let (mut done, mut shorter, mut left_out) = (BTreeMap::new(), Vec::new(), Vec::new());
    let path = folder.path();
    let experiment = folder.read_json::<Value>(CONFIG)?.unwrap_or_default();
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        let name = entry.map_err(Error::io(path))?.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        let result = match read(folder, &experiment, name) {
            Ok(Found::Done(result)) => *result,
            Ok(Found::Nothing) => continue,
            Ok(Found::Other(changes)) => {
                left_out.push(format!(
                    "{name} is left out of the report, as it is of another experiment: {changes}"
                ));
                continue;
            }
            // The others are whole.
            Err(error @ Error::Damaged { .. }) => {
                left_out.push(format!("{name} is left out of the report: {error}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let run = &result.run;
        if run.is_trained() && result.summary.meta_steps != sweep.meta_steps {
            shorter.push(run.name());
            continue;
        }
        let methods = &sweep.methods;
        let place = methods.iter().position(|m| *m == run.method);
        let settings: Vec<_> = run.settings.values().map(|v| (v * 1e6) as i64).collect();
        // Learning from scratch comes last, unless it has a place.
        let place = place.unwrap_or(methods.len() + usize::from(!run.is_trained()));
        done.insert(
            (place, run.method.clone(), settings, run.seed, run.name()),
            result,
        );
    }
    if !shorter.is_empty() {
        let (names, meta_steps) = (shorter.join(", "), sweep.meta_steps);
        left_out.push(format!(
            "not of {meta_steps} meta-steps, and left out of the report: {names}"
        ));
    }
    Ok((done.into_values().collect(), left_out))
}

/// What is in a folder below an experiment's.
enum Found {
    Done(Box<RunResult>),
    /// No run of ours, or one that is not done.
    Nothing,
    /// A run of another experiment, and what is other.
    Other(String),
}

/// A run's folder, if it is one whose run is done: a copy of somebody's is none, nor is that of another experiment.
fn read(folder: &RunFolder, experiment: &Value, name: &str) -> Result<Found, Error> {
    let folder = folder.below(name);
    // Folders of somebody else's are none.
    let Ok(Some(config)) = folder.read_json::<Value>(CONFIG) else {
        return Ok(Found::Nothing);
    };
    let Ok(run) = serde_json::from_value::<Run>(config["run"].clone()) else {
        return Ok(Found::Nothing);
    };
    if run.name() != name || config[FOLDER].as_str().is_some_and(|of| of != name) {
        return Ok(Found::Nothing);
    }
    let Some(summary) = folder.read_json::<RunSummary>("summary.json")? else {
        return Ok(Found::Nothing);
    };
    let changes = differences(&config["experiment"], experiment);
    if !changes.is_empty() {
        return Ok(Found::Other(changes.join("; ")));
    }
    let held_out = folder.read_json("held_out.json")?;
    let missing = || Error::damaged(folder.join("held_out.json"), "it is missing");
    // There are more of them where the run has been gone on with, and not to its end.
    let mut meta_steps = JsonLines::read(&folder)?;
    meta_steps.retain(|metrics| metrics.meta_step <= summary.meta_steps);
    Ok(Found::Done(Box::new(RunResult {
        run,
        summary,
        held_out: held_out.ok_or_else(missing)?,
        meta_steps,
        pictures: (
            std::fs::read_to_string(folder.join("paths.svg")).ok(),
            std::fs::read(folder.join("episode.gif")).ok(),
        ),
    })))
}
