//! The tables of a sweep.

use std::collections::BTreeSet;

use leap_core::Summary;
use serde_json::Value;

use crate::error::Error;
use crate::figures::mean_and_deviation;
use crate::report::Table;
use crate::sweep::charts::{Group, groups};
use crate::sweep::results::{Row, RunResult, RunSummary};
use crate::sweep::run::Run;

/// Held-out tasks of which an interval is shown: as few as those of the usual experiments say little.
const MANY: usize = 30;

/// A line about a run that is done.
pub(super) fn line(run: &Run, summary: &RunSummary) -> String {
    let tasks = &summary.held_out_tasks;
    let mut text = format!("{}: AUC {}", run.name(), short(tasks.auc));
    let figures = [
        ("accuracy in training", tasks.accuracy),
        ("held out", tasks.held_out_accuracy),
        ("score", tasks.score),
        ("at the end", tasks.last_score),
        ("path length", tasks.path_length),
    ];
    for (name, value) in figures {
        if let Some(value) = value {
            text += &format!(", {name} {}", short(value));
        }
    }
    if tasks.left_out > 0 {
        text += &format!("; {} held-out tasks are left out", tasks.left_out);
    }
    text
}

/// The table for the terminal; each held-out task by itself as well, where the runs are few enough for it.
pub(super) fn text(done: &[RunResult], target: Option<f64>) -> String {
    let mut text = String::new();
    let same_seed = done.windows(2).all(|w| w[0].run.seed == w[1].run.seed);
    let few = |result: &&RunResult| result.held_out.tasks.len() <= MANY;
    if let (Some(first), 1..=4, true) = (done.first().filter(few), done.len(), same_seed) {
        let mut head = vec!["task".to_string()];
        for result in done {
            let name = result.run.name();
            let name = name.rsplit_once("-seed-").map_or(&*name, |(name, _)| name);
            // The settings, too, where they tell runs apart.
            let is_one = |other: &&RunResult| other.run.method == result.run.method;
            let name = match done.iter().filter(is_one).count() {
                1 => &result.run.method,
                _ => name,
            };
            head.push(format!("{name}: AUC"));
            head.push("at the end".into());
        }
        let rows = first.held_out.tasks.iter().map(|task| {
            let mut row = vec![task.name.clone()];
            for result in done {
                let same = |t: &&leap_core::TaskReport| t.index == task.index;
                let task = result.held_out.tasks.iter().find(same);
                let task = Summary::of(task.map_or(&[], std::slice::from_ref));
                let end = task.held_out_accuracy.or(task.last_score);
                row.push(short(task.auc));
                row.push(end.map_or("–".into(), short));
            }
            row
        });
        let rows = rows.collect();
        text += &format!("\n{}\n", Table { head, rows }.text());
    }
    let [learning, paths] = results(done, target);
    text + &format!("{}\n{}", learning.text(), paths.text())
}

/// How to read the table.
pub(super) fn explanation(done: &[RunResult]) -> String {
    let has = |value: fn(&Summary) -> Option<f64>| {
        let mut all = done.iter().map(|d| &d.summary.held_out_tasks);
        all.any(|s| value(s).is_some())
    };
    let mut text =
        "AUC is the area under the curve of the training loss, lower is better. ".to_string();
    if has(|s| s.accuracy) {
        text += "Train is the accuracy over all training batches, held out that on samples that were kept back, after training";
        let mut tasks = done.iter().flat_map(|d| &d.held_out.tasks);
        text += &match tasks.find_map(|task| task.normalized_by.as_deref()) {
            Some("batch") => {
                ", normalized by the statistics of their own batch (transductive). ".into()
            }
            Some(by) => format!(", normalized by {by} statistics. "),
            None => ". ".to_string(),
        };
    }
    if has(|s| s.held_out_interval.filter(|_| s.tasks >= MANY)) {
        text += "95 % over tasks is half the width of the interval of that mean (1.96 standard errors over tasks). ";
    }
    if has(|s| s.score) {
        text += "The score is the tasks' own measure, higher is better, over all steps and at the end. ";
    }
    text + "To scratch's end: how many tasks came as far as training from scratch does at its end (in loss, averaged over a \
            tenth of the steps, or in score where there is one), after how many training steps, and on a path of what length. \
            That is what Leap makes short; the path length at equal steps also grows when training gets further."
}

/// Means over seeds: how well held-out tasks are learned, and the paths on which they are.
pub(super) fn results(done: &[RunResult], target: Option<f64>) -> [Table; 2] {
    let groups = groups(done);
    let mut learning = Columns::new(&groups);
    learning.mean("AUC", |r| Some(r.summary.held_out_tasks.auc));
    learning.mean("train", |r| r.summary.held_out_tasks.accuracy);
    learning.mean("held out", |r| r.summary.held_out_tasks.held_out_accuracy);
    learning.mean("95 % over tasks", |r| {
        let tasks = &r.summary.held_out_tasks;
        tasks.held_out_interval.filter(|_| tasks.tasks >= MANY)
    });
    learning.mean("steps", |r| {
        let steps = r.summary.held_out_tasks.steps;
        steps.filter(|_| r.summary.stops_early())
    });
    learning.mean("mean score", |r| r.summary.held_out_tasks.score);
    learning.mean("score at the end", |r| r.summary.held_out_tasks.last_score);
    let reached = target.map_or(String::new(), |target| format!("reached {target}"));
    learning.count(&reached, |r| {
        Some((r.summary.reached_target?, r.summary.held_out_tasks.tasks))
    });
    learning.mean("steps to it", |r| r.summary.steps_to_target);
    learning.add("left out", &|group: &Group| {
        let left_out = group
            .results
            .iter()
            .map(|r| r.summary.held_out_tasks.left_out);
        Some(left_out.sum::<usize>())
            .filter(|n| *n > 0)
            .map(|n| n.to_string())
    });
    learning.add("seconds", &|group: &Group| {
        let seconds = group.values(|r| Some(r.summary.training_seconds));
        let (mean, _) = mean_and_deviation(seconds.into_iter());
        group.run.is_trained().then(|| format!("{mean:.0}"))
    });
    let mut paths = Columns::new(&groups);
    paths.count("came to scratch's end", |r| {
        let compared = || r.held_out.tasks.iter().filter_map(|t| t.to_scratch);
        let came = compared().filter(|t| t.reached.is_some()).count();
        (compared().count() > 0).then(|| (came, compared().count()))
    });
    paths.mean("steps to it", |r| r.summary.held_out_tasks.steps_to_scratch);
    paths.mean("length to it", |r| {
        r.summary.held_out_tasks.length_to_scratch
    });
    paths.mean("path length", |r| r.summary.held_out_tasks.path_length);
    paths.mean("path energy", |r| r.summary.held_out_tasks.path_energy);
    paths.mean("straightness", |r| {
        r.summary.held_out_tasks.path_straightness
    });
    [learning.table, paths.table]
}

/// A table with a row for each group.
struct Columns<'a> {
    groups: &'a [Group<'a>],
    table: Table,
}

impl<'a> Columns<'a> {
    /// With the columns that say which group it is.
    fn new(groups: &'a [Group<'a>]) -> Self {
        let table = Table {
            head: vec!["method".into()],
            rows: groups.iter().map(|g| vec![g.run.method.clone()]).collect(),
        };
        let mut columns = Self { groups, table };
        let names = |g: &'a Group| g.run.settings.keys().chain(g.run.searched.keys());
        let names: BTreeSet<&String> = groups.iter().flat_map(names).collect();
        for name in names {
            columns.add(name, &|group: &Group| {
                group.run.setting(name).map(|value| value.to_string())
            });
        }
        columns.add("seeds", &|group: &Group| {
            Some(group.results.len().to_string())
        });
        columns
    }

    /// Adds a column; one of what no run measured is left out.
    fn add(&mut self, name: &str, cell: &dyn Fn(&Group) -> Option<String>) {
        let cells: Vec<Option<String>> = self.groups.iter().map(cell).collect();
        if cells.iter().all(Option::is_none) {
            return;
        }
        self.table.head.push(name.to_string());
        for (row, cell) in self.table.rows.iter_mut().zip(cells) {
            row.push(cell.unwrap_or("–".into()));
        }
    }

    /// Adds a column of means over seeds, and their deviations.
    fn mean(&mut self, name: &str, pick: fn(&RunResult) -> Option<f64>) {
        self.add(name, &|group: &Group| {
            let values = group.values(pick);
            let (mean, deviation) = mean_and_deviation(values.iter().copied());
            match values.len() {
                0 => None,
                1 => Some(short(mean)),
                _ => Some(format!("{} ± {}", short(mean), short(deviation))),
            }
        });
    }

    /// Adds a column of how many held-out tasks did something, and of how many, over all seeds.
    fn count(&mut self, name: &str, pick: fn(&RunResult) -> Option<(usize, usize)>) {
        self.add(name, &|group: &Group| {
            let counts: Vec<_> = group.results.iter().filter_map(|r| pick(r)).collect();
            let (did, all) = counts
                .iter()
                .fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
            (!counts.is_empty()).then(|| format!("{did} of {all}"))
        });
    }
}

/// The rows as comma-separated values; what was not measured is empty.
pub(super) fn csv(rows: &[Row]) -> Result<String, Error> {
    let mut all = Vec::new();
    for row in rows {
        let row = serde_json::to_value(row).map_err(|e| Error::damaged("results.csv", e))?;
        if let Value::Object(fields) = row {
            all.push(fields);
        }
    }
    // Rows of earlier sweeps may have fewer settings.
    let names: BTreeSet<&String> = all.iter().flat_map(|fields| fields.keys()).collect();
    let head: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let mut text = head.join(",") + "\n";
    for fields in &all {
        let cells = names.iter().map(|name| match &fields.get(*name) {
            Some(Value::String(text)) if text.contains([',', '"', '\n']) => {
                format!("\"{}\"", text.replace('"', "\"\""))
            }
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        });
        text += &(cells.collect::<Vec<_>>().join(",") + "\n");
    }
    Ok(text)
}

/// A number with as many digits as one reads.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        1e5.. | ..1e-3 => format!("{value:.2e}"),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
