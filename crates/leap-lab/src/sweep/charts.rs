//! The figures of a sweep.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use leap_core::{Report, Summary};

use crate::figures::{Chart, Series, mean_and_deviation};
use crate::report::Figure;
use crate::sweep::results::{RunResult, curves};
use crate::sweep::run::Run;
use crate::tracking::json_lines::MetaStepMetrics;

/// Runs that differ in their seed alone.
pub(super) struct Group<'a> {
    pub run: &'a Run,
    pub results: Vec<&'a RunResult>,
}

impl Group<'_> {
    /// What the seeds have of a result, as far as it is finite.
    pub fn values(&self, pick: impl Fn(&RunResult) -> Option<f64>) -> Vec<f64> {
        let values = self.results.iter().filter_map(|r| pick(r));
        values.filter(|value| value.is_finite()).collect()
    }
}

/// The runs by method and settings, in order.
pub(super) fn groups(done: &[RunResult]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for result in done {
        let run = &result.run;
        let same = |g: &&mut Group| {
            Run {
                seed: run.seed,
                ..g.run.clone()
            } == *run
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.results.push(result),
            None => groups.push(Group {
                run,
                results: vec![result],
            }),
        }
    }
    groups
}

/// A group in a chart that has one for each method.
struct Shown<'a> {
    colour: usize,
    /// The method, with the values of settings that have others, too.
    label: String,
    group: &'a Group<'a>,
}

/// For each method its group with the highest settings; learning from scratch, too.
fn highest<'a>(groups: &'a [Group<'a>]) -> Vec<Shown<'a>> {
    let values = |name: &str| {
        let name = name.to_string();
        groups
            .iter()
            .filter_map(move |g| Some((&g.run.method, g.run.setting(&name)?)))
    };
    let is_highest = |g: &&Group| {
        let most = |name: &str| {
            let own = values(name).filter(|(method, _)| **method == g.run.method);
            own.map(|(_, value)| value)
                .fold(f64::NEG_INFINITY, f64::max)
        };
        let mut settings = g.run.settings.iter();
        !g.run.is_trained() || settings.all(|(name, value)| *value == most(name))
    };
    let shown = |group: &'a Group<'a>| {
        let mut label = group.run.method.clone();
        for (name, value) in group.run.settings.iter().filter(|_| group.run.is_trained()) {
            if values(name).any(|(_, other)| other != *value) {
                label += &format!(", {value} {name}");
            }
        }
        Shown {
            colour: colour(groups, &group.run.method),
            label,
            group,
        }
    };
    groups.iter().filter(is_highest).map(shown).collect()
}

fn colour(groups: &[Group], method: &str) -> usize {
    let mut methods: Vec<&str> = groups.iter().map(|g| g.run.method.as_str()).collect();
    methods.dedup();
    methods.iter().position(|m| *m == method).unwrap_or(0)
}

/// What held-out tasks measure while they are learned: all of them, each score by itself, and the loss along the path.
pub(super) fn learning_curves(done: &[RunResult], unit: &(String, usize)) -> Vec<Chart> {
    let groups = groups(done);
    let groups = highest(&groups);
    let over_steps = |title: String, y: &str, pick: &dyn Fn(&Report) -> Vec<(f64, f64)>| Chart {
        title,
        x: unit.0.trim_end_matches('s').into(),
        y: y.into(),
        from_zero: y != "score",
        series: groups
            .iter()
            .map(|shown| {
                let Shown {
                    colour,
                    label,
                    group,
                } = shown;
                let of = |r: &&RunResult| pick(&r.held_out);
                let curves: Vec<Vec<(f64, f64)>> = group.results.iter().map(of).collect();
                let mut series = over(label, *colour, &curves);
                let units = unit.1 as f64;
                series
                    .points
                    .iter_mut()
                    .for_each(|p| p.0 = (p.0 + 1.0) * units);
                series
            })
            .collect(),
        marks: false,
    };
    let mut charts = Vec::new();
    for name in ["loss", "accuracy", "score"] {
        let pick = |report: &Report| curve(report, name);
        let title = format!("Learning held-out tasks: {name}");
        charts.push(over_steps(title, name, &pick));
    }
    let has_scores = done.iter().any(|d| !curve(&d.held_out, "score").is_empty());
    charts.push(along_the_path(
        &groups,
        if has_scores { "score" } else { "loss" },
    ));
    // Scores differ from task to task.
    let first = done.first().map_or(&[][..], |d| &d.held_out.tasks);
    for task in first.iter().take(10) {
        let pick = |report: &Report| {
            let same = report.tasks.iter().find(|t| t.name == task.name);
            let one = Report {
                tasks: same.cloned().into_iter().collect(),
                ..report.clone()
            };
            curve(&one, "score")
        };
        charts.push(over_steps(task.name.clone(), "score", &pick));
    }
    charts
}

fn curve(report: &Report, name: &str) -> Vec<(f64, f64)> {
    let all = curves(report).into_iter();
    all.filter(|(n, _)| *n == name)
        .flat_map(|(_, c)| c)
        .collect()
}

/// The mean of several curves, at the steps where all of them have a value that have any.
fn over(label: &str, colour: usize, curves: &[Vec<(f64, f64)>]) -> Series {
    let there = curves.iter().filter(|curve| !curve.is_empty()).count();
    let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (step, value) in curves.iter().flatten() {
        at.entry(*step as u64).or_default().push(*value);
    }
    let all = at.into_iter().filter(|(_, values)| values.len() == there);
    Series {
        label: label.to_string(),
        points: all
            .map(|(step, values)| {
                let (mean, deviation) = mean_and_deviation(values.into_iter());
                (step as f64, mean, deviation)
            })
            .collect(),
        colour,
    }
}

/// Loss or score against the length of the path that led there: a method that goes straight is on the left.
fn along_the_path(groups: &[Shown], what: &str) -> Chart {
    let series = groups.iter().map(|shown| {
        let Shown {
            colour,
            label,
            group,
        } = shown;
        let of = |name| {
            let results = group.results.iter();
            let curves: Vec<_> = results.map(|r| curve(&r.held_out, name)).collect();
            over(label, *colour, &curves)
        };
        let (lengths, values) = (of("path_length"), of(what));
        let at: BTreeMap<u64, f64> = lengths
            .points
            .iter()
            .map(|(step, length, _)| (*step as u64, *length))
            .collect();
        let points = values.points.iter();
        let points = points.filter_map(|(step, value, deviation)| {
            Some((*at.get(&(*step as u64))?, *value, *deviation))
        });
        Series {
            points: points.collect(),
            ..lengths.clone()
        }
    });
    Chart {
        title: format!("The {what} along the path"),
        x: "length of the path so far".into(),
        y: what.into(),
        series: series.collect(),
        from_zero: what == "loss",
        marks: false,
    }
}

/// Results against a setting, if it has several values.
pub(super) fn against(done: &[RunResult], setting: &str) -> Vec<Chart> {
    type Pick = fn(&Summary) -> Option<f64>;
    let panels: [(&str, Pick); 4] = [
        ("AUC", |s| Some(s.auc)),
        ("held-out accuracy", |s| s.held_out_accuracy),
        ("score", |s| s.score),
        ("length to scratch's end", |s| s.length_to_scratch),
    ];
    let groups = groups(done);
    let values = groups.iter().filter_map(|g| g.run.setting(setting));
    let values: Vec<f64> = values.collect();
    let fewest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if fewest >= most {
        return Vec::new();
    }
    let chart = |(name, pick): (&str, Pick)| {
        let mut series: BTreeMap<String, Series> = BTreeMap::new();
        for group in &groups {
            let values = group.values(|r| pick(&r.summary.held_out_tasks));
            if values.is_empty() {
                continue;
            }
            let (mean, deviation) = mean_and_deviation(values.into_iter());
            // Other settings have lines of their own.
            let mut label = group.run.method.clone();
            for (name, value) in group
                .run
                .settings
                .iter()
                .filter(|(n, _)| *n != setting && group.run.is_trained())
            {
                label += &format!(", {value} {name}");
            }
            let line = series.entry(label.clone()).or_insert(Series {
                label,
                points: Vec::new(),
                colour: colour(&groups, &group.run.method),
            });
            let at = match group.run.setting(setting) {
                Some(value) => vec![value],
                None => vec![fewest, most],
            };
            line.points
                .extend(at.into_iter().map(|x| (x, mean, deviation)));
            line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        Chart {
            title: format!("Held-out tasks: {name}"),
            x: setting.into(),
            y: name.into(),
            series: series.into_values().collect(),
            from_zero: false,
            marks: true,
        }
    };
    panels.map(chart).to_vec()
}

/// The tasks of each meta-batch, over meta-steps.
pub(super) fn over_meta_steps(done: &[RunResult]) -> Vec<Chart> {
    type Pick = fn(&MetaStepMetrics) -> Option<f64>;
    let panels: [(&str, Pick); 7] = [
        ("Training loss", |m| Some(m.tasks.loss)),
        ("Score", |m| m.tasks.score),
        ("Length of the path", |m| m.tasks.path_length),
        ("Energy of the path", |m| m.tasks.path_energy),
        ("Straightness of the path", |m| m.tasks.path_straightness),
        ("Cosine between segments", |m| m.tasks.path_cosine),
        ("Cosine between meta-gradients", |m| m.coherence),
    ];
    let groups = groups(done);
    let groups = highest(&groups);
    let chart = |(name, pick): (&str, Pick)| {
        let series = groups
            .iter()
            // MAML's tasks are of other lengths, and those of these methods are other tasks.
            .filter(|shown| {
                let method = shown.group.run.method.as_str();
                let others = ["maml", "finetuning", "sequential-reptile"];
                !others.contains(&method) && !method.ends_with("-shifting")
            })
            .filter(|shown| shown.group.run.is_trained())
            .map(|shown| {
                let Shown {
                    colour,
                    label,
                    group,
                } = shown;
                let curve = |r: &&RunResult| {
                    let last = r.meta_steps.last().map_or(0, |m| m.meta_step);
                    let mut values = vec![f64::NAN; last];
                    for metrics in &r.meta_steps {
                        let value = pick(metrics).unwrap_or(f64::NAN);
                        if let Some(place) = values.get_mut(metrics.meta_step.wrapping_sub(1)) {
                            *place = value;
                        }
                    }
                    values
                };
                let curves: Vec<_> = group.results.iter().map(curve).collect();
                Series::over(label, *colour, 1.0, &curves)
            });
        Chart {
            title: name.into(),
            x: "meta-step".into(),
            y: name.to_lowercase(),
            series: series.collect(),
            from_zero: false,
            marks: false,
        }
    };
    panels.map(chart).to_vec()
}

/// The validation tasks, learned from the initialization as it was on the way.
pub(super) fn validation(done: &[RunResult]) -> Vec<Chart> {
    type Pick = fn(&Summary) -> Option<f64>;
    let panels: [(&str, Pick); 3] = [
        ("AUC", |s| Some(s.auc)),
        ("held-out accuracy", |s| s.held_out_accuracy),
        ("score", |s| s.score),
    ];
    let groups = groups(done);
    let groups = highest(&groups);
    let chart = |(name, pick): (&str, Pick)| Chart {
        title: format!("Validation tasks: {name}"),
        x: "meta-step".into(),
        y: name.into(),
        series: groups
            .iter()
            .filter(|shown| shown.group.run.is_trained())
            .map(|shown| {
                let Shown {
                    colour,
                    label,
                    group,
                } = shown;
                let point = |m: &MetaStepMetrics| {
                    Some((m.meta_step as f64, m.validation.as_ref().and_then(pick)?))
                };
                let curve = |r: &&RunResult| r.meta_steps.iter().filter_map(point).collect();
                let curves: Vec<_> = group.results.iter().map(curve).collect();
                over(label, *colour, &curves)
            })
            .collect(),
        from_zero: false,
        marks: true,
    };
    panels.map(chart).to_vec()
}

/// A recorded episode, inside the page.
pub(super) fn episode(gif: &[u8], method: &str) -> Figure {
    let data = BASE64_STANDARD.encode(gif);
    Figure {
        svg: format!("<img alt=\"\" src=\"data:image/gif;base64,{data}\">"),
        description: method.to_string(),
        wide: false,
    }
}
