//! The report page of a sweep, and the files beside it.

use crate::error::Error;
use crate::figures::Chart;
use crate::folder::RunFolder;
use crate::report::{Figure, Section, report};
use crate::sweep::plan::Sweep;
use crate::sweep::results::{self, Row, RunResult};
use crate::sweep::{charts, tables};
use crate::tracking::tensorboard::TensorBoard;
use crate::tracking::tracker::Tracker;

/// Where the results of a sweep go.
pub(super) struct Page<'a> {
    pub sweep: &'a Sweep,
    pub folder: &'a RunFolder,
    /// What a training step counts as.
    pub unit: &'a (String, usize),
}

impl Page<'_> {
    /// `results.json`, `results.csv`, figures and `report.html`, of what is done so far.
    pub fn write(&self, is_last: bool) -> Result<(), Error> {
        let (done, _) = results::read_all(self.sweep, self.folder)?;
        let rows: Vec<Row> = done.iter().map(|d| Row::of(&d.run, &d.summary)).collect();
        self.folder.write_json("results.json", &rows)?;
        self.folder.write("results.csv", tables::csv(&rows)?)?;
        let mut sections = self.sections(&done)?;
        sections.retain(|s| !s.tables.is_empty() || !s.figures.is_empty());
        let page = report(&self.sweep.title, &self.budget(&done), &sections);
        self.folder.write("report.html", page)?;
        if self.sweep.options.tensorboard && is_last {
            let mut board = TensorBoard::new(self.folder.path(), 0)?;
            let figures = sections.iter().flat_map(|s| &s.figures);
            for figure in figures.filter(|f| f.svg.starts_with("<svg")) {
                let shown = board.figure(&figure.description, &figure.svg);
                shown.unwrap_or_else(|error| log::warn!("{}: {error}", figure.description));
            }
        }
        Ok(())
    }

    fn budget(&self, done: &[RunResult]) -> String {
        let Some(summary) = done.first().map(|d| &d.summary) else {
            return String::new();
        };
        let tasks = summary.held_out_tasks.tasks + summary.held_out_tasks.left_out;
        let steps = (summary.task_steps * self.unit.1).to_string();
        let steps = match done.iter().any(|d| d.summary.stops_early()) {
            true => format!("at most {steps}"),
            false => steps,
        };
        let kind = match self.sweep.on_validation {
            true => "validation",
            false => "held-out",
        };
        format!(
            "{} meta-steps of {} tasks; then {tasks} {kind} tasks are learned for {steps} {}. Bands and ± are one standard \
             deviation over seeds.",
            self.sweep.meta_steps, summary.meta_batch, self.unit.0,
        )
    }

    fn sections(&self, done: &[RunResult]) -> Result<Vec<Section>, Error> {
        let mut sections = vec![Section {
            title: if self.sweep.on_validation {
                "Validation tasks, in place of held-out ones".into()
            } else {
                "Held-out tasks".into()
            },
            text: tables::explanation(done),
            tables: tables::results(done, self.sweep.target).into(),
            figures: self.figures("curves", charts::learning_curves(done, self.unit))?,
        }];
        for (name, _) in &self.sweep.settings {
            sections.push(Section {
                title: format!("Against {name}"),
                text: format!("How the results change with {name}."),
                tables: vec![],
                figures: self.figures(name, charts::against(done, name))?,
            });
        }
        sections.push(Section {
            title: "Meta-training".into(),
            text: "Means over the tasks of a meta-batch. The path runs through parameters and loss: its length and energy, its \
                   straightness (the distance between its ends over its length), and the cosine between segments that follow \
                   each other."
                .into(),
            tables: vec![],
            figures: self.figures("meta-training", charts::over_meta_steps(done))?,
        });
        sections.push(Section {
            title: "Validation tasks".into(),
            text: "Learned from the initialization as it was after so many meta-steps.".into(),
            tables: vec![],
            figures: self.figures("validation", charts::validation(done))?,
        });
        let picture = |result: &RunResult| {
            Some(Figure {
                svg: result.pictures.0.clone()?,
                description: format!("paths of {}", result.run.name()),
                wide: true,
            })
        };
        sections.push(Section {
            title: "Paths".into(),
            text: "Some held-out tasks, from the same initialization, in the plane of the paths' first two principal components. \
                   Both panels have one scale."
                .into(),
            tables: vec![],
            figures: done.iter().filter_map(picture).collect(),
        });
        let first = done.first().map(|d| d.run.seed);
        let episode = |result: &RunResult| {
            let gif = result.pictures.1.as_ref()?;
            (Some(result.run.seed) == first).then(|| charts::episode(gif, &result.run.method))
        };
        let name = done.first().and_then(|d| d.held_out.tasks.first());
        sections.push(Section {
            title: "An episode".into(),
            text: format!("{}, after it was learned.", name.map_or("", |t| &t.name)),
            tables: vec![],
            figures: done.iter().filter_map(episode).collect(),
        });
        Ok(sections)
    }

    /// Draws charts and writes each to a file; one of what no run measured is left out.
    fn figures(&self, name: &str, charts: Vec<Chart>) -> Result<Vec<Figure>, Error> {
        let mut figures = Vec::new();
        for (i, chart) in charts.into_iter().enumerate() {
            let Ok(svg) = chart.svg() else { continue };
            self.folder.write(&format!("{name}-{}.svg", i + 1), &svg)?;
            figures.push(Figure {
                svg,
                description: chart.title,
                wide: false,
            });
        }
        Ok(figures)
    }
}
