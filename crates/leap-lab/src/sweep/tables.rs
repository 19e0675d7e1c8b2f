//! The tables of a sweep.

use leap_core::Summary;
use serde_json::Value;

use crate::error::Error;
use crate::figures::mean_and_deviation;
use crate::report::Table;
use crate::sweep::charts::{Group, groups};
use crate::sweep::results::{Row, RunResult, RunSummary};
use crate::sweep::run::Run;

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
    if let (Some(first), 1..=4, true) = (done.first(), done.len(), same_seed) {
        let mut head = vec!["task".to_string()];
        for result in done {
            head.push(format!("{}: AUC", result.run.method));
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
    text + &results(done, target).text()
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
        text += "Train is the accuracy over all training batches, held out that on samples that were kept back, after training. ";
    }
    if has(|s| s.score) {
        text += "The score is the tasks' own measure, higher is better, over all steps and at the end. ";
    }
    text + "To scratch's end: how many tasks came as far as training from scratch does at its end (in loss, averaged over a \
            tenth of the steps, or in score where there is one), after how many training steps, and on a path of what length. \
            That is what Leap makes short; the path length at equal steps also grows when training gets further."
}

type Pick = fn(&RunResult) -> Option<f64>;

/// Means over seeds.
pub(super) fn results(done: &[RunResult], target: Option<f64>) -> Table {
    let settings: Vec<&String> = done
        .first()
        .map_or(vec![], |d| d.run.settings.keys().collect());
    let groups = groups(done);
    let mut head = vec!["method".to_string()];
    head.extend(settings.iter().map(|name| name.to_string()));
    head.push("seeds".into());
    let mut rows: Vec<Vec<String>> = groups
        .iter()
        .map(|group| {
            let mut row = vec![group.run.method.clone()];
            row.extend(settings.iter().map(|name| match group.run.is_trained() {
                true => group.run.setting(name).to_string(),
                false => "–".into(),
            }));
            row.push(group.results.len().to_string());
            row
        })
        .collect();
    // A column of what no run measured is left out.
    let mut add = |name: &str, cell: &dyn Fn(&Group) -> Option<String>| {
        let cells: Vec<Option<String>> = groups.iter().map(cell).collect();
        if cells.iter().any(Option::is_some) {
            head.push(name.to_string());
            for (row, cell) in rows.iter_mut().zip(cells) {
                row.push(cell.unwrap_or("–".into()));
            }
        }
    };
    let spread = |pick: Pick| {
        move |group: &Group| {
            let values = group.values(pick);
            let (mean, deviation) = mean_and_deviation(values.iter().copied());
            match values.len() {
                0 => None,
                1 => Some(short(mean)),
                _ => Some(format!("{} ± {}", short(mean), short(deviation))),
            }
        }
    };
    let count = |pick: fn(&RunSummary) -> Option<usize>| {
        move |group: &Group| {
            let counts = group.results.iter().map(|r| pick(&r.summary));
            let reached: usize = counts.collect::<Option<Vec<_>>>()?.into_iter().sum();
            let summaries = group.results.iter().map(|r| r.summary.held_out_tasks);
            Some(format!(
                "{reached} of {}",
                summaries.map(|s| s.tasks).sum::<usize>()
            ))
        }
    };
    add("AUC", &spread(|r| Some(r.summary.held_out_tasks.auc)));
    add("train", &spread(|r| r.summary.held_out_tasks.accuracy));
    add(
        "held out",
        &spread(|r| r.summary.held_out_tasks.held_out_accuracy),
    );
    add("mean score", &spread(|r| r.summary.held_out_tasks.score));
    add(
        "score at the end",
        &spread(|r| r.summary.held_out_tasks.last_score),
    );
    let reached = target.map_or(String::new(), |target| format!("reached {target}"));
    add(&reached, &count(|s| s.reached_target));
    add("steps to it", &spread(|r| r.summary.steps_to_target));
    add(
        "to scratch's end",
        &count(|s| s.held_out_tasks.reached_scratch),
    );
    add(
        "steps",
        &spread(|r| r.summary.held_out_tasks.steps_to_scratch),
    );
    add(
        "length",
        &spread(|r| r.summary.held_out_tasks.length_to_scratch),
    );
    add(
        "path length",
        &spread(|r| r.summary.held_out_tasks.path_length),
    );
    add(
        "path energy",
        &spread(|r| r.summary.held_out_tasks.path_energy),
    );
    add("left out", &|group: &Group| {
        let left_out = group
            .results
            .iter()
            .map(|r| r.summary.held_out_tasks.left_out);
        Some(left_out.sum::<usize>())
            .filter(|n| *n > 0)
            .map(|n| n.to_string())
    });
    add("seconds", &|group: &Group| {
        let seconds = group.values(|r| Some(r.summary.training_seconds));
        let (mean, _) = mean_and_deviation(seconds.into_iter());
        group.run.is_trained().then(|| format!("{mean:.0}"))
    });
    Table { head, rows }
}

/// The rows as comma-separated values; what was not measured is empty.
pub(super) fn csv(rows: &[Row]) -> Result<String, Error> {
    let mut text = String::new();
    for row in rows {
        let row = serde_json::to_value(row).map_err(|e| Error::damaged("results.csv", e))?;
        let Value::Object(fields) = row else { continue };
        if text.is_empty() {
            text = fields.keys().cloned().collect::<Vec<_>>().join(",") + "\n";
        }
        let cells = fields.values().map(|value| match value {
            Value::String(text) if text.contains([',', '"', '\n']) => {
                format!("\"{}\"", text.replace('"', "\"\""))
            }
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
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
