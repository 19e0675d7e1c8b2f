//! What a run reports: learning curves, path figures, and their means.

use serde::{Deserialize, Serialize};

use crate::path::PathFigures;
use crate::seed::TaskSeed;
use crate::task::HeldOut;

/// What a task measured at each step, before that step's update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LearningCurve {
    /// Loss at each step.
    pub loss: Vec<f64>,
    /// Accuracy in [0, 1] at each step; empty for tasks that have none.
    pub accuracy: Vec<f64>,
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

    /// The mean curve of several tasks, as long as the shortest of them.
    pub fn mean<'a>(curves: impl Iterator<Item = &'a LearningCurve> + Clone) -> LearningCurve {
        let over = |pick: fn(&LearningCurve) -> &[f64]| {
            let steps = curves.clone().map(|c| pick(c).len()).min().unwrap_or(0);
            (0..steps)
                .filter_map(|step| mean(curves.clone().map(|c| pick(c)[step])))
                .collect()
        };
        LearningCurve {
            loss: over(|c| &c.loss),
            accuracy: over(|c| &c.accuracy),
        }
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
            accuracy: vec![],
        };
        // Two trapezoids, 2.5 and 1.5, over three steps, as the authors' `compute_auc` has it.
        assert!((curve.auc() - 4.0 / 3.0).abs() < 1e-12);
        assert_eq!(curve.mean_accuracy(), None);
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
