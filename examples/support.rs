//! What the example programs share: progress on the terminal, Ctrl-C, the run's folder, pictures.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use leap_core::LearningCurve;
use plotters::prelude::*;
use serde::Serialize;
use serde_json::Value;

/// Ends a program: an error is said in a line, as one to its user.
pub fn end(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether Ctrl-C was pressed. The second time ends the program at once.
pub fn interruption() -> Result<Arc<AtomicBool>> {
    let pressed = Arc::new(AtomicBool::new(false));
    let flag = pressed.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nending after the running meta-step (Ctrl-C again: at once)");
    })
    .context("Ctrl-C cannot be handled")?;
    Ok(pressed)
}

/// A progress bar on a terminal, a line now and then elsewhere.
pub struct Progress {
    bar: ProgressBar,
    what: String,
    first: u64,
    start: Instant,
    last_line: Option<Instant>,
}

impl Progress {
    /// Progress from `first` to `total` of `what`.
    pub fn new(what: &str, first: usize, total: usize) -> Self {
        let bar = ProgressBar::new(total as u64).with_position(first as u64);
        let template = "{prefix} {bar:30} {pos}/{len}, {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is sound"));
        bar.set_prefix(what.to_string());
        bar.set_message("…");
        Self {
            bar,
            what: what.to_string(),
            first: first as u64,
            start: Instant::now(),
            last_line: None,
        }
    }

    /// One more is done.
    pub fn advance(&mut self, message: &str) {
        self.bar.inc(1);
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let left = self.start.elapsed() / (done - self.first) as u32 * (total - done) as u32;
        let message = format!("{message}, {} left", HumanDuration(left));
        if std::io::stderr().is_terminal() {
            self.bar.set_message(message);
        } else if done == total || self.last_line.is_none_or(|t| t.elapsed().as_secs() >= 10) {
            eprintln!("{} {done}/{total}, {message}", self.what);
            self.last_line = Some(Instant::now());
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// The folder of a run: its configuration, its metrics, its results.
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A new folder for a run with configuration `config`, or with `resume` the folder of the same run, in
    /// which only `meta_steps` may differ.
    pub fn open(path: &Path, config: &Value, resume: bool, overwrite: bool) -> Result<Self> {
        let shown = path.display();
        let folder = Self {
            path: path.to_path_buf(),
        };
        let file = folder.join("config.json");
        if file.exists() {
            if overwrite {
                fs::remove_dir_all(path).with_context(|| format!("{shown} cannot be removed"))?;
            } else if !resume {
                bail!(
                    "{shown} holds a run already: --resume goes on with it, --overwrite starts anew, \
                     --out names another folder"
                );
            } else {
                let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                let before: Value = serde_json::from_str(&text)
                    .with_context(|| format!("{} is damaged", file.display()))?;
                let mut changes = Vec::new();
                compare("", &before, config, &mut changes);
                changes.retain(|change| !change.starts_with("meta_steps:"));
                if !changes.is_empty() {
                    bail!(
                        "{shown} is of a run with other settings:\n  {}",
                        changes.join("\n  ")
                    );
                }
            }
        } else if path.is_dir() && fs::read_dir(path)?.next().is_some() {
            bail!("{shown} is not empty, and not a run of this program");
        }
        fs::create_dir_all(path).with_context(|| format!("{shown} cannot be made"))?;
        folder.write_json("config.json", config)?;
        Ok(folder)
    }

    /// The path of a file in the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a JSON file.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.join(name);
        let json = serde_json::to_string_pretty(value)?;
        fs::write(&path, json + "\n").with_context(|| path.display().to_string())
    }

    /// The file of metrics, a line of JSON a meta-step, cut back to the first `lines`.
    pub fn metrics(&self, lines: usize) -> Result<Metrics> {
        let path = self.join("metrics.jsonl");
        let text = match path.exists() {
            true => fs::read_to_string(&path).with_context(|| path.display().to_string())?,
            false => String::new(),
        };
        let mut metrics = Metrics {
            file: File::create(&path).with_context(|| path.display().to_string())?,
            seconds: 0.0,
        };
        for line in text.lines().take(lines) {
            let line: Value = serde_json::from_str(line)
                .with_context(|| format!("{} is damaged", path.display()))?;
            metrics.write(&line)?;
        }
        Ok(metrics)
    }
}

/// Lists where two configurations differ.
fn compare(place: &str, before: &Value, now: &Value, changes: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let place = match place {
                    "" => key.clone(),
                    place => format!("{place}.{key}"),
                };
                compare(&place, &before[key], &now[key], changes);
            }
        }
        _ if before != now => changes.push(format!("{place}: {before} then, {now} now")),
        _ => {}
    }
}

/// An open file of metrics.
pub struct Metrics {
    file: File,
    seconds: f64,
}

impl Metrics {
    /// Appends a line.
    pub fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value)?;
        self.seconds += value["seconds"].as_f64().unwrap_or(0.0);
        writeln!(self.file, "{value}")?;
        Ok(())
    }

    /// Sum of the lines' `seconds`.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }
}

/// Draws learning curves, loss on the left and, where there is one, accuracy on the right, as an SVG picture.
pub fn draw_curves(path: &Path, title: &str, curves: &[(&str, LearningCurve)]) -> Result<()> {
    type Pick = fn(&LearningCurve) -> &[f64];
    let panels: [(&str, Pick); 2] = [("loss", |c| &c.loss), ("accuracy", |c| &c.accuracy)];
    let drawn: Vec<_> = panels
        .into_iter()
        .filter(|(_, pick)| curves.iter().all(|(_, c)| !pick(c).is_empty()))
        .collect();
    let root = SVGBackend::new(path, (460 * drawn.len() as u32, 340)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 18))?;
    for (area, (name, pick)) in root.split_evenly((1, drawn.len())).iter().zip(drawn) {
        let values = || curves.iter().flat_map(|(_, c)| pick(c)).copied();
        let steps = curves.iter().map(|(_, c)| pick(c).len()).max().unwrap_or(1);
        let top = values().filter(|v| v.is_finite()).fold(0.0, f64::max) * 1.05;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(46)
            .build_cartesian_2d(1.0..steps as f64, 0.0..top.max(1e-6))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .x_desc("training step")
            .y_desc(name)
            .draw()?;
        for (i, (label, curve)) in curves.iter().enumerate() {
            let colour = [
                RGBColor(0, 90, 181),
                RGBColor(220, 50, 32),
                RGBColor(90, 90, 90),
            ][i % 3];
            let points = pick(curve).iter().enumerate();
            chart
                .draw_series(LineSeries::new(
                    points.map(|(step, v)| (step as f64 + 1.0, *v)),
                    colour.stroke_width(2),
                ))?
                .label(*label)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
        }
        let corner = match name {
            "accuracy" => SeriesLabelPosition::UpperLeft,
            _ => SeriesLabelPosition::UpperRight,
        };
        chart
            .configure_series_labels()
            .position(corner)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

/// The code in the README and the book, as tests.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/your-model.md")]
    struct YourModel;
    #[doc = include_str!("../docs/your-task.md")]
    struct YourTask;
}
