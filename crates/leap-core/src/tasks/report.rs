//! What a run reports: learning curves, path figures, and their means.

use serde::{Deserialize, Serialize};

use crate::number;
use crate::seed::TaskSeed;
use crate::space::figures::PathFigures;
use crate::tasks::curve::{Goal, LearningCurve, Reached, mean};
use crate::tasks::task::HeldOut;

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
    /// By which [statistics](crate::Statistics) those samples were normalized, for models with batch-normalization.
    #[serde(default)]
    pub normalized_by: Option<String>,
    /// How it came as far as training from scratch does, once it was [compared](Report::compare).
    #[serde(default)]
    pub to_scratch: Option<ToScratch>,
    /// Why the task was left out of all means, if it was.
    pub left_out: Option<String>,
}

/// How a task's training came as far as training from scratch comes at its end: what Leap makes short under its constraint.
/// The path's length at equal steps says less, as it grows when training gets further.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToScratch {
    /// Where training from scratch ends on the same task.
    pub goal: Goal,
    /// Where this training came as far, if it did.
    pub reached: Option<Reached>,
}

/// Means over the tasks that were not left out; NaN or `None` where there is nothing to average.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Tasks in the means.
    pub tasks: usize,
    /// Tasks left out.
    pub left_out: usize,
    /// Training steps, as far as the stride of long curves tells.
    #[serde(default, with = "number::option")]
    pub steps: Option<f64>,
    /// Area under the loss curve.
    #[serde(with = "number::one")]
    pub auc: f64,
    /// Training loss, over all steps.
    #[serde(with = "number::one")]
    pub loss: f64,
    /// Training accuracy, over all steps.
    #[serde(default, with = "number::option")]
    pub accuracy: Option<f64>,
    /// Loss on held-out samples after training.
    #[serde(default, with = "number::option")]
    pub held_out_loss: Option<f64>,
    /// Accuracy on held-out samples after training.
    #[serde(default, with = "number::option")]
    pub held_out_accuracy: Option<f64>,
    /// Half the width of its 95 % interval, of so many tasks (1.96 standard errors), as papers on few-shot learning have it.
    #[serde(default, with = "number::option")]
    pub held_out_interval: Option<f64>,
    /// Score, over all steps that have one.
    #[serde(default, with = "number::option")]
    pub score: Option<f64>,
    /// Score at the last step.
    #[serde(default, with = "number::option")]
    pub last_score: Option<f64>,
    /// Length of the path.
    #[serde(default, with = "number::option")]
    pub path_length: Option<f64>,
    /// Energy of the path.
    #[serde(default, with = "number::option")]
    pub path_energy: Option<f64>,
    /// Straightness of the path.
    #[serde(default, with = "number::option")]
    pub path_straightness: Option<f64>,
    /// Cosine between the path's segments.
    #[serde(default, with = "number::option")]
    pub path_cosine: Option<f64>,
    /// Tasks that came as far as training from scratch does at its end; `None` if they were not
    /// [compared](Report::compare).
    #[serde(default)]
    pub reached_scratch: Option<usize>,
    /// Training steps up to there, of the tasks that came so far.
    #[serde(default, with = "number::option")]
    pub steps_to_scratch: Option<f64>,
    /// Length of the path up to there, of the tasks that came so far.
    #[serde(default, with = "number::option")]
    pub length_to_scratch: Option<f64>,
}

impl Summary {
    /// The means over `tasks`.
    pub fn of(tasks: &[TaskReport]) -> Self {
        let kept = || tasks.iter().filter(|t| t.left_out.is_none());
        let over = |value: fn(&TaskReport) -> Option<f64>| mean(kept().filter_map(value));
        let compared = || kept().filter_map(|t| t.to_scratch);
        Self {
            tasks: kept().count(),
            left_out: tasks.len() - kept().count(),
            steps: over(|t| Some((t.curve.loss.len() * t.curve.stride) as f64)),
            auc: over(|t| Some(t.curve.auc())).unwrap_or(f64::NAN),
            loss: over(|t| Some(t.curve.mean_loss())).unwrap_or(f64::NAN),
            accuracy: over(|t| t.curve.mean_accuracy()),
            held_out_loss: over(|t| t.held_out.map(|h| h.loss)),
            held_out_accuracy: over(|t| t.held_out.and_then(|h| h.accuracy)),
            held_out_interval: interval(kept().filter_map(|t| t.held_out?.accuracy)),
            score: over(|t| t.curve.mean_score()),
            last_score: over(|t| t.curve.last_score()),
            path_length: over(|t| t.path.map(|p| p.length)),
            path_energy: over(|t| t.path.map(|p| p.energy)),
            path_straightness: over(|t| t.path.map(|p| p.straightness)),
            path_cosine: over(|t| t.path.map(|p| p.cosine)),
            reached_scratch: compared()
                .next()
                .map(|_| compared().filter(|t| t.reached.is_some()).count()),
            steps_to_scratch: over(|t| Some(t.to_scratch?.reached?.steps as f64)),
            length_to_scratch: over(|t| t.to_scratch?.reached?.length),
        }
    }
}

/// Half the width of the 95 % interval of the values' mean, by the normal approximation; `None` of fewer than two.
fn interval(values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let count = values.clone().count();
    let centre = mean(values.clone())?;
    let squares: f64 = values.map(|v| (v - centre).powi(2)).sum();
    let error = |deviation: f64| 1.96 * deviation / (count as f64).sqrt();
    (count > 1).then(|| error((squares / (count - 1) as f64).sqrt()))
}

/// How a meta-step, or an evaluation, went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The number of meta-steps that the initialization had seen before.
    pub meta_step: usize,
    /// The tasks, in order.
    pub tasks: Vec<TaskReport>,
    /// How far the tasks agree on where the initialization is to go: the mean cosine between the meta-gradients of two of
    /// them. At 0, what one gains from a meta-step the others do not, and a shared initialization cannot help. `None` of
    /// fewer than two meta-gradients, and of processes that share a meta-batch.
    #[serde(default, with = "number::option")]
    pub coherence: Option<f64>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Report {
    /// Means over the tasks.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.tasks)
    }

    /// Finds where each task came as far as the same task does, by its index, at the end of `scratch`, an evaluation of an
    /// untrained initialization on the same tasks. A task that was left out in either is not compared.
    pub fn compare(&mut self, scratch: &Report) {
        for task in &mut self.tasks {
            let kept = |t: &&TaskReport| t.index == task.index && t.left_out.is_none();
            let scratch = scratch.tasks.iter().find(kept).map(|t| &t.curve);
            // A goal is a mean over entries, which must be of as many steps in both.
            let goal = scratch.and_then(|scratch| {
                let stride = scratch.stride.max(task.curve.stride);
                Some((scratch.coarser(stride).end()?, stride))
            });
            task.to_scratch = goal
                .filter(|_| task.left_out.is_none())
                .map(|(goal, stride)| ToScratch {
                    goal,
                    reached: task.curve.coarser(stride).reach(goal),
                });
        }
    }

    /// The mean learning curve over the tasks that were not left out.
    pub fn curve(&self) -> LearningCurve {
        let kept = self.tasks.iter().filter(|t| t.left_out.is_none());
        LearningCurve::mean(kept.map(|t| &t.curve))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(curve: LearningCurve, left_out: Option<String>) -> TaskReport {
        TaskReport {
            index: 0,
            name: String::new(),
            seed: TaskSeed {
                seed: 0,
                purpose: crate::seed::Purpose::Training,
                meta_step: 0,
                task: 0,
            },
            curve,
            path: None,
            held_out: None,
            normalized_by: None,
            to_scratch: None,
            left_out,
        }
    }

    /// Training from scratch is longer, and so has two steps in each entry: both are compared in twos.
    #[test]
    fn curves_of_two_strides_are_compared_over_as_many_steps() {
        let report = |loss: Vec<f64>, stride: usize| Report {
            meta_step: 0,
            tasks: vec![task(
                LearningCurve {
                    length: (0..loss.len()).map(|entry| entry as f64).collect(),
                    loss,
                    stride,
                    ..LearningCurve::default()
                },
                None,
            )],
            coherence: None,
            seconds: 0.0,
        };
        // It ends, over its last four steps, in a mean of 2.
        let mut scratch = vec![4.0; 20];
        scratch[18..].copy_from_slice(&[1.0, 3.0]);
        // Two steps as low are not enough; four are, at the end of the step of index 13.
        let mut loss = vec![4.0; 20];
        loss[4..6].copy_from_slice(&[2.0, 2.0]);
        loss[10..14].copy_from_slice(&[2.5, 1.5, 2.0, 2.0]);
        let mut fast = report(loss, 1);
        fast.compare(&report(scratch, 2));
        let expected = ToScratch {
            goal: Goal::Loss { loss: 2.0, over: 2 },
            reached: Some(Reached {
                steps: 13,
                length: Some(13.0),
            }),
        };
        assert_eq!(fast.tasks[0].to_scratch, Some(expected));
    }

    #[test]
    fn tasks_left_out_are_counted_but_not_averaged() {
        let task = |loss: f64, left_out: Option<String>| {
            let curve = LearningCurve {
                loss: vec![loss; 4],
                accuracy: vec![0.5; 4],
                ..LearningCurve::default()
            };
            task(curve, left_out)
        };
        let summary = Summary::of(&[
            task(1.0, None),
            task(f64::NAN, Some("loss".into())),
            task(3.0, None),
        ]);
        assert_eq!((summary.tasks, summary.left_out), (2, 1));
        assert_eq!((summary.loss, summary.auc), (2.0, 1.5));
        assert_eq!(summary.held_out_accuracy, None);
        assert_eq!(summary.steps, Some(4.0));
        // A mean of 0.6 and a deviation of 0.1.
        let interval = interval([0.5, 0.6, 0.7].into_iter()).unwrap();
        assert!((interval - 1.96 * 0.1 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(super::interval([0.5].into_iter()), None);
        assert_eq!(summary.reached_scratch, None);
    }

    #[test]
    fn what_is_not_finite_goes_through_json() {
        let curve = LearningCurve {
            loss: vec![1.0, f64::NAN, f64::INFINITY],
            accuracy: vec![f64::NEG_INFINITY],
            score: vec![None, Some(f64::NAN), Some(2.5)],
            length: vec![0.0, f64::INFINITY],
            ..LearningCurve::default()
        };
        let again: LearningCurve =
            serde_json::from_str(&serde_json::to_string(&curve).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{curve:?}"));
        let packed = rmp_serde::to_vec_named(&curve).unwrap();
        let again: LearningCurve = rmp_serde::from_slice(&packed).unwrap();
        assert_eq!(format!("{again:?}"), format!("{curve:?}"));

        let summary = Summary::of(&[]);
        assert!(summary.auc.is_nan());
        let json = serde_json::to_value(summary).unwrap();
        assert_eq!(json["auc"], "NaN");
        let again: Summary = serde_json::from_value(json).unwrap();
        assert_eq!(format!("{again:?}"), format!("{summary:?}"));
        let whole: Summary = serde_json::from_str(
            r#"{"tasks": 1, "left_out": 0, "auc": 2, "loss": 3.5, "path_length": null}"#,
        )
        .unwrap();
        assert_eq!((whole.auc, whole.loss, whole.score), (2.0, 3.5, None));
    }
}
