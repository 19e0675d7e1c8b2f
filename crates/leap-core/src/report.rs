//! What a run reports: learning curves, path figures, and their means.

use serde::{Deserialize, Serialize};

use crate::path::PathFigures;
use crate::seed::TaskSeed;
use crate::task::HeldOut;

/// What a task measured at each step, before that step's update.
///
/// Very long tasks have an entry for several steps, so that a curve has no more than some 16,000 of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningCurve {
    /// Loss at each step, or its mean over `stride` steps.
    pub loss: Vec<f64>,
    /// Accuracy in [0, 1] at each step, or its mean over `stride` steps; empty for tasks that have none.
    pub accuracy: Vec<f64>,
    /// Score at each step, or at the last of `stride` steps; empty for tasks that have none.
    #[serde(default)]
    pub score: Vec<Option<f64>>,
    /// Number of steps that an entry stands for.
    #[serde(default = "one")]
    pub stride: usize,
}

fn one() -> usize {
    1
}

impl Default for LearningCurve {
    fn default() -> Self {
        Self {
            loss: Vec::new(),
            accuracy: Vec::new(),
            score: Vec::new(),
            stride: 1,
        }
    }
}

impl LearningCurve {
    /// Area under the loss curve: trapezoids over the steps, divided by the number of steps.
    pub fn auc(&self) -> f64 {
        let area: f64 = self.loss.windows(2).map(|w| (w[0] + w[1]) / 2.0).sum();
        area / self.loss.len() as f64
    }

    /// Mean loss over the steps.
    pub fn mean_loss(&self) -> f64 {
        mean(self.loss.iter().copied()).unwrap_or(f64::NAN)
    }

    /// Mean accuracy over the steps.
    pub fn mean_accuracy(&self) -> Option<f64> {
        mean(self.accuracy.iter().copied())
    }

    /// Mean score over the steps that have one.
    pub fn mean_score(&self) -> Option<f64> {
        mean(self.score.iter().flatten().copied())
    }

    /// The score at the last step that has one.
    pub fn last_score(&self) -> Option<f64> {
        self.score.iter().flatten().next_back().copied()
    }

    /// The first step, counted from 0, at which the score is at least `score`; in a curve whose entries stand for several
    /// steps, the last of the first entry that says so.
    pub fn steps_to_score(&self, score: f64) -> Option<usize> {
        let reached = |s: &Option<f64>| s.is_some_and(|s| s >= score);
        Some((self.score.iter().position(reached)? + 1) * self.stride - 1)
    }

    /// The mean curve of several tasks, as long as the shortest of them.
    pub fn mean<'a>(curves: impl Iterator<Item = &'a LearningCurve> + Clone) -> LearningCurve {
        let over = |pick: fn(&LearningCurve) -> &[f64]| {
            let steps = curves.clone().map(|c| pick(c).len()).min().unwrap_or(0);
            (0..steps)
                .filter_map(|step| mean(curves.clone().map(|c| pick(c)[step])))
                .collect()
        };
        let scores = curves.clone().map(|c| c.score.len()).min().unwrap_or(0);
        LearningCurve {
            loss: over(|c| &c.loss),
            accuracy: over(|c| &c.accuracy),
            score: (0..scores)
                .map(|step| mean(curves.clone().filter_map(|c| c.score[step])))
                .collect(),
            stride: curves.clone().map(|c| c.stride).max().unwrap_or(1),
        }
    }
}

/// A learning curve that grows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CurveLog {
    curve: LearningCurve,
    /// Of the entry that is not full yet.
    open: Vec<(f64, Option<f64>, Option<Option<f64>>)>,
}

/// Entries that a curve has at most.
const LONGEST: usize = 1 << 14;

impl CurveLog {
    /// Appends a step; the score is `None` for tasks that have none, and `Some(None)` where there is none yet.
    pub fn push(&mut self, loss: f64, accuracy: Option<f64>, score: Option<Option<f64>>) {
        self.open.push((loss, accuracy, score));
        if self.open.len() == self.curve.stride {
            self.close();
        }
        if self.curve.loss.len() > LONGEST {
            self.halve();
        }
    }

    fn close(&mut self) {
        let curve = &mut self.curve;
        curve.loss.extend(mean(self.open.iter().map(|o| o.0)));
        curve
            .accuracy
            .extend(mean(self.open.iter().filter_map(|o| o.1)));
        curve
            .score
            .extend(self.open.iter().filter_map(|o| o.2).next_back());
        self.open.clear();
    }

    /// Two entries become one. The last, which has no other, is opened again.
    fn halve(&mut self) {
        let curve = &mut self.curve;
        let pairs = |values: &mut Vec<f64>| {
            let pairs = values.chunks_exact(2).map(|pair| (pair[0] + pair[1]) / 2.0);
            let last = values.last().copied().filter(|_| values.len() % 2 == 1);
            *values = pairs.collect();
            last
        };
        let last = (pairs(&mut curve.loss), pairs(&mut curve.accuracy));
        let score = curve
            .score
            .last()
            .copied()
            .filter(|_| curve.score.len() % 2 == 1);
        curve.score = curve.score.chunks_exact(2).map(|pair| pair[1]).collect();
        if let (Some(loss), accuracy) = last {
            self.open = vec![(loss, accuracy, score); curve.stride];
        }
        curve.stride *= 2;
    }

    pub fn finish(mut self) -> LearningCurve {
        self.close();
        self.curve
    }
}

/// How one task's training went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task's index in its set.
    pub index: usize,
    /// The task's name.
    pub name: String,
    /// What draws the same task again.
    pub seed: TaskSeed,
    /// The learning curve.
    pub curve: LearningCurve,
    /// The figures of the path.
    pub path: Option<PathFigures>,
    /// Scores on held-out samples after the last step.
    pub held_out: Option<HeldOut>,
    /// Why the task was left out of all means, if it was.
    pub left_out: Option<String>,
}

/// Means over the tasks that were not left out; NaN or `None` where there is nothing to average.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Tasks in the means.
    pub tasks: usize,
    /// Tasks left out.
    pub left_out: usize,
    /// Area under the loss curve.
    pub auc: f64,
    /// Training loss, over all steps.
    pub loss: f64,
    /// Training accuracy, over all steps.
    pub accuracy: Option<f64>,
    /// Loss on held-out samples after training.
    pub held_out_loss: Option<f64>,
    /// Accuracy on held-out samples after training.
    pub held_out_accuracy: Option<f64>,
    /// Score, over all steps that have one.
    #[serde(default)]
    pub score: Option<f64>,
    /// Score at the last step.
    #[serde(default)]
    pub last_score: Option<f64>,
    /// Length of the path.
    pub path_length: Option<f64>,
    /// Energy of the path.
    pub path_energy: Option<f64>,
    /// Straightness of the path.
    pub path_straightness: Option<f64>,
    /// Cosine between the path's segments.
    pub path_cosine: Option<f64>,
}

impl Summary {
    /// The means over `tasks`.
    pub fn of(tasks: &[TaskReport]) -> Self {
        let kept = || tasks.iter().filter(|t| t.left_out.is_none());
        let over = |value: fn(&TaskReport) -> Option<f64>| mean(kept().filter_map(value));
        Self {
            tasks: kept().count(),
            left_out: tasks.len() - kept().count(),
            auc: over(|t| Some(t.curve.auc())).unwrap_or(f64::NAN),
            loss: over(|t| Some(t.curve.mean_loss())).unwrap_or(f64::NAN),
            accuracy: over(|t| t.curve.mean_accuracy()),
            held_out_loss: over(|t| t.held_out.map(|h| h.loss)),
            held_out_accuracy: over(|t| t.held_out.and_then(|h| h.accuracy)),
            score: over(|t| t.curve.mean_score()),
            last_score: over(|t| t.curve.last_score()),
            path_length: over(|t| t.path.map(|p| p.length)),
            path_energy: over(|t| t.path.map(|p| p.energy)),
            path_straightness: over(|t| t.path.map(|p| p.straightness)),
            path_cosine: over(|t| t.path.map(|p| p.cosine)),
        }
    }
}

/// How a meta-step, or an evaluation, went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The number of meta-steps that the initialization had seen before.
    pub meta_step: usize,
    /// The tasks, in order.
    pub tasks: Vec<TaskReport>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Report {
    /// Means over the tasks.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.tasks)
    }

    /// The mean learning curve over the tasks that were not left out.
    pub fn curve(&self) -> LearningCurve {
        let kept = self.tasks.iter().filter(|t| t.left_out.is_none());
        LearningCurve::mean(kept.map(|t| &t.curve))
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), v| (sum + v, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_is_the_trapezoid_over_the_number_of_steps() {
        let curve = LearningCurve {
            loss: vec![3.0, 2.0, 1.0],
            ..LearningCurve::default()
        };
        // Two trapezoids, 2.5 and 1.5, over three steps, as the authors' `compute_auc` has it.
        assert!((curve.auc() - 4.0 / 3.0).abs() < 1e-12);
        assert_eq!(curve.mean_accuracy(), None);
    }

    #[test]
    fn a_curve_of_a_million_steps_is_short_and_has_the_same_mean() {
        let steps = 1_000_001;
        let loss = |step: usize| 1.0 / (1.0 + step as f64 / 1000.0);
        let mut log = CurveLog::default();
        for step in 0..steps {
            let score = (step >= 10).then_some(step as f64);
            log.push(loss(step), Some(0.25), Some(score));
            assert!(log.curve.loss.len() <= LONGEST && log.open.len() < 128);
        }
        let curve = log.finish();
        assert_eq!(curve.stride, 64);
        assert_eq!(curve.loss.len(), steps.div_ceil(64));
        assert_eq!(curve.accuracy, vec![0.25; curve.loss.len()]);
        for (i, mean) in curve.loss.iter().enumerate() {
            let over = i * 64..steps.min((i + 1) * 64);
            let count = over.len() as f64;
            let exact = over.map(loss).sum::<f64>() / count;
            assert!((mean - exact).abs() < 1e-12, "entry {i}");
        }
        assert_eq!(curve.score[..2], [Some(63.0), Some(127.0)]);
        assert_eq!(curve.last_score(), Some(1e6));
        assert_eq!(curve.steps_to_score(1000.0), Some(16 * 64 - 1));
        let exact = (0..steps).map(loss).sum::<f64>() / steps as f64;
        assert!((curve.mean_loss() - exact).abs() < 1e-6);
    }

    #[test]
    fn tasks_left_out_are_counted_but_not_averaged() {
        let seed = TaskSeed {
            seed: 0,
            purpose: crate::seed::Purpose::Training,
            meta_step: 0,
            task: 0,
        };
        let task = |loss: f64, left_out: Option<String>| TaskReport {
            index: 0,
            name: String::new(),
            seed,
            curve: LearningCurve {
                loss: vec![loss; 4],
                accuracy: vec![0.5; 4],
                ..LearningCurve::default()
            },
            path: None,
            held_out: None,
            left_out,
        };
        let summary = Summary::of(&[
            task(1.0, None),
            task(f64::NAN, Some("loss".into())),
            task(3.0, None),
        ]);
        assert_eq!((summary.tasks, summary.left_out), (2, 1));
        assert_eq!((summary.loss, summary.auc), (2.0, 1.5));
        assert_eq!(summary.held_out_accuracy, None);
    }
}
