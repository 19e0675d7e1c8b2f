//! Learning curves.

use serde::{Deserialize, Serialize};

use crate::number;

/// What a task measured at each step, before that step's update.
///
/// Very long tasks have an entry for several steps, so that a curve has no more than some 16,000 of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningCurve {
    /// Loss at each step, or its mean over `stride` steps.
    #[serde(with = "number::list")]
    pub loss: Vec<f64>,
    /// Accuracy in [0, 1] at each step, or its mean over `stride` steps; empty for tasks that have none.
    #[serde(with = "number::list")]
    pub accuracy: Vec<f64>,
    /// Score at each step, or at the last of `stride` steps; empty for tasks that have none.
    #[serde(default, with = "number::options")]
    pub score: Vec<Option<f64>>,
    /// Length of the path from its start to each step, or to the last of `stride` steps; empty where it was not
    /// measured.
    #[serde(default, with = "number::list")]
    pub length: Vec<f64>,
    /// Number of steps that an entry stands for.
    #[serde(default = "one", deserialize_with = "stride")]
    pub stride: usize,
}

fn one() -> usize {
    1
}

/// The largest stride that is read: of a task of 17 thousand million steps.
const WIDEST: usize = 1 << 20;

fn stride<'de, D: serde::Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    match usize::deserialize(from)? {
        stride @ 1..=WIDEST => Ok(stride),
        stride => Err(serde::de::Error::custom(format!("a stride of {stride}"))),
    }
}

impl Default for LearningCurve {
    fn default() -> Self {
        Self {
            loss: Vec::new(),
            accuracy: Vec::new(),
            score: Vec::new(),
            length: Vec::new(),
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
        Some(self.steps_at(self.score.iter().position(reached)?))
    }

    /// Number of training steps before the last measurement of an entry.
    fn steps_at(&self, entry: usize) -> usize {
        (entry + 1) * self.stride - 1
    }

    /// How far training has come at the end of this curve: the score, where it has one, or the loss, averaged over the
    /// last tenth of the steps because single batches are noisy.
    pub fn end(&self) -> Option<Goal> {
        if let Some(score) = self.last_score() {
            return Some(Goal::Score(score));
        }
        let over = (self.loss.len() / 10).max(1);
        let last = self.loss.len().checked_sub(over)?;
        Some(Goal::Loss {
            loss: mean(self.loss[last..].iter().copied())?,
            over,
        })
    }

    /// Where this curve first comes as far as `goal`: a loss counts when the mean over as many entries as the goal's is
    /// no higher. `None` if it never does.
    pub fn reach(&self, goal: Goal) -> Option<Reached> {
        let entry = match goal {
            Goal::Score(goal) => self.score.iter().position(|s| s.is_some_and(|s| s >= goal)),
            Goal::Loss { loss, over } => {
                let mut windows = self.loss.windows(over.max(1));
                let low = |w: &[f64]| mean(w.iter().copied()).is_some_and(|mean| mean <= loss);
                windows.position(low).map(|first| first + over.max(1) - 1)
            }
        }?;
        Some(Reached {
            steps: self.steps_at(entry),
            length: self.length.get(entry).copied(),
        })
    }

    /// The same curve with entries that stand for as many steps as `stride`, if that is more.
    pub(crate) fn coarser(&self, stride: usize) -> LearningCurve {
        let factor = (stride / self.stride.max(1)).max(1);
        let means = |values: &[f64]| {
            let each = values.chunks(factor);
            each.filter_map(|entries| mean(entries.iter().copied()))
                .collect()
        };
        fn last<T: Copy>(values: &[T], factor: usize) -> Vec<T> {
            let each = values.chunks(factor);
            each.filter_map(|entries| entries.last().copied()).collect()
        }
        LearningCurve {
            loss: means(&self.loss),
            accuracy: means(&self.accuracy),
            score: last(&self.score, factor),
            length: last(&self.length, factor),
            stride: self.stride * factor,
        }
    }

    /// The mean curve of several tasks, as long as the shortest of them, with the largest stride.
    pub fn mean<'a>(curves: impl Iterator<Item = &'a LearningCurve> + Clone) -> LearningCurve {
        let stride = curves.clone().map(|c| c.stride).max().unwrap_or(1);
        let curves = Vec::from_iter(curves.map(|curve| curve.coarser(stride)));
        let curves = curves.iter();
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
            length: over(|c| &c.length),
            stride,
        }
    }
}

/// How far training has come; see [`LearningCurve::end`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// A score.
    Score(#[serde(with = "number::one")] f64),
    /// A loss, the mean over so many entries of a curve.
    Loss {
        /// The mean loss.
        #[serde(with = "number::one")]
        loss: f64,
        /// Number of entries.
        over: usize,
    },
}

/// Where a curve has come as far as a [`Goal`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// Training steps taken.
    pub steps: usize,
    /// Length of the path so far, where it was measured.
    #[serde(default, with = "number::option")]
    pub length: Option<f64>,
}

/// A learning curve that grows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CurveLog {
    curve: LearningCurve,
    /// Of the entry that is not full yet.
    open: Vec<Measured>,
    /// Length of the path so far.
    length: f64,
}

/// What was measured at a step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Measured {
    loss: f64,
    accuracy: Option<f64>,
    score: Option<Option<f64>>,
    /// Length of the path so far.
    length: Option<f64>,
}

/// Entries that a curve has at most.
const LONGEST: usize = 1 << 14;

impl CurveLog {
    /// Appends a step; the score is `None` for tasks that have none, and `Some(None)` where there is none yet. `segment`
    /// is the length of the path's segment that led there.
    pub fn push(
        &mut self,
        loss: f64,
        accuracy: Option<f64>,
        score: Option<Option<f64>>,
        segment: Option<f64>,
    ) {
        self.length += segment.unwrap_or(0.0);
        self.open.push(Measured {
            loss,
            accuracy,
            score,
            length: segment.map(|_| self.length),
        });
        if self.open.len() == self.curve.stride {
            self.close();
        }
        if self.curve.loss.len() > LONGEST {
            self.halve();
        }
    }

    fn close(&mut self) {
        let curve = &mut self.curve;
        let open = || self.open.iter();
        curve.loss.extend(mean(open().map(|m| m.loss)));
        curve
            .accuracy
            .extend(mean(open().filter_map(|m| m.accuracy)));
        curve.score.extend(open().rev().find_map(|m| m.score));
        curve.length.extend(open().rev().find_map(|m| m.length));
        self.open.clear();
    }

    /// Two entries become one. The last, which has no other, is opened again.
    fn halve(&mut self) {
        let curve = &mut self.curve;
        fn last<T: Copy>(values: &[T]) -> Option<T> {
            values.last().copied().filter(|_| values.len() % 2 == 1)
        }
        let last = (
            last(&curve.loss),
            last(&curve.accuracy),
            last(&curve.score),
            last(&curve.length),
        );
        for means in [&mut curve.loss, &mut curve.accuracy] {
            let pairs = means.chunks_exact(2).map(|pair| (pair[0] + pair[1]) / 2.0);
            *means = pairs.collect();
        }
        curve.score = curve.score.chunks_exact(2).map(|pair| pair[1]).collect();
        curve.length = curve.length.chunks_exact(2).map(|pair| pair[1]).collect();
        if let (Some(loss), accuracy, score, length) = last {
            let entry = Measured {
                loss,
                accuracy,
                score,
                length,
            };
            self.open = vec![entry; curve.stride];
        }
        curve.stride *= 2;
    }

    pub fn finish(mut self) -> LearningCurve {
        self.close();
        self.curve
    }
}

/// The mean; `None` of nothing.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
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
            log.push(loss(step), Some(0.25), Some(score), Some(0.5));
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
        assert_eq!(curve.length[..2], [32.0, 64.0]);
        assert_eq!(curve.length.last(), Some(&(0.5 * steps as f64)));
        assert_eq!(curve.last_score(), Some(1e6));
        assert_eq!(curve.steps_to_score(1000.0), Some(16 * 64 - 1));
        let exact = (0..steps).map(loss).sum::<f64>() / steps as f64;
        assert!((curve.mean_loss() - exact).abs() < 1e-6);
    }

    #[test]
    fn curves_of_several_strides_are_averaged_step_by_step() {
        let line = |steps: usize| {
            let mut log = CurveLog::default();
            (0..steps).for_each(|step| log.push(step as f64, None, Some(Some(step as f64)), None));
            log.finish()
        };
        let curves = [line(20_000), line(10_000)];
        assert_eq!(curves.each_ref().map(|curve| curve.stride), [2, 1]);
        let mean = LearningCurve::mean(curves.iter());
        assert_eq!((mean.stride, mean.loss.len()), (2, 5_000));
        for entry in [0, 1, 4_999] {
            assert_eq!(mean.loss[entry], 2.0 * entry as f64 + 0.5);
            assert_eq!(mean.score[entry], Some(2.0 * entry as f64 + 1.0));
        }
    }

    #[test]
    fn a_goal_is_reached_where_the_mean_over_its_steps_is_as_low() {
        let curve = |loss: &[f64]| LearningCurve {
            loss: loss.to_vec(),
            length: (0..loss.len()).map(|i| 0.5 * i as f64).collect(),
            ..LearningCurve::default()
        };
        // Twenty steps, so that the end is the mean of the last two.
        let mut losses = vec![4.0; 20];
        losses[18..].copy_from_slice(&[1.0, 3.0]);
        let slow = curve(&losses);
        let goal = slow.end().unwrap();
        assert_eq!(goal, Goal::Loss { loss: 2.0, over: 2 });
        let there = |steps, length| {
            Some(Reached {
                steps,
                length: Some(length),
            })
        };
        assert_eq!(slow.reach(goal), there(19, 9.5));
        // A single low loss is not enough.
        let fast = curve(&[4.0, 1.0, 4.0, 1.5, 2.5, 0.0]);
        assert_eq!(fast.reach(goal), there(4, 2.0));
        assert_eq!(curve(&[3.0; 20]).reach(goal), None);
        assert_eq!(curve(&[1.0]).reach(goal), None);
        assert_eq!(curve(&[]).end(), None);

        let scored = LearningCurve {
            score: vec![None, Some(1.0), Some(5.0), Some(3.0)],
            ..curve(&[0.0; 4])
        };
        assert_eq!(scored.end(), Some(Goal::Score(3.0)));
        assert_eq!(scored.reach(Goal::Score(3.0)), there(2, 1.0));
        let unmeasured = LearningCurve {
            length: Vec::new(),
            ..scored
        };
        let reached = unmeasured.reach(Goal::Score(3.0));
        assert_eq!(reached.map(|r| (r.steps, r.length)), Some((2, None)));
    }
}
