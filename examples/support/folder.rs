//! The folder of a run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Writes a file beside its place and then renames it, so that there is never half a file.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("unfinished");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| path.display().to_string())
}

/// The folder of a run: its configuration, its metrics, its results.
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A new folder for a run with configuration `config`, or with `resume` the folder of the same run, in
    /// which only `meta_steps` and `device` may differ.
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
                let before: Value = folder.read_json("config.json")?.unwrap_or_default();
                let mut changes = Vec::new();
                compare("", &before, config, &mut changes);
                changes.retain(|change| {
                    let (place, _) = change.split_once(':').expect("`compare` puts it there");
                    let field = place.rsplit('.').next().unwrap_or(place);
                    !["meta_steps", "device"].contains(&field)
                });
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

    /// A folder in the folder, which is made where it is missing.
    pub fn subfolder(&self, name: &str) -> Result<Self> {
        let path = self.join(name);
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self { path })
    }

    /// The path of a file in the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a JSON file.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write(
            &self.join(name),
            &(serde_json::to_string_pretty(value)? + "\n"),
        )
    }

    /// Reads a JSON file; `None` if there is none.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let value = serde_json::from_str(&text);
        Ok(Some(value.with_context(|| {
            format!("{} is damaged", path.display())
        })?))
    }

    /// Reads a file of JSON lines; none if there is no such file.
    pub fn read_lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        let path = self.join(name);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("{} is damaged", path.display()))
            })
            .collect()
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
