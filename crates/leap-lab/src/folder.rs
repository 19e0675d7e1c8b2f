//! The folder of an experiment, and those of its runs.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use leap_core::Checkpoints;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Error;

/// What becomes of what is in a folder already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It is left alone, and the folder refused.
    #[default]
    Refuse,
    /// It is gone on with, if it was made with the same settings.
    Resume,
    /// What this program wrote there is removed, and nothing else.
    Overwrite,
}

/// The folder of an experiment or of a run: its configuration, its metrics, its results.
///
/// A file is written beside its place, flushed and renamed, so that there is never half of one.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held as long as this process works here; the system lets go of it when the process dies.
    _lock: Option<File>,
}

pub(crate) const CONFIG: &str = "config.json";
const LOCK: &str = "lock";
/// Where the settings that a sweep goes through are named in an experiment's configuration.
pub(crate) const GRID: &str = "goes_through";
/// The folder of a search, in that of the experiment it is for.
pub(crate) const SEARCH: &str = "search";
/// The folder of learning curves for TensorBoard, in that of a run.
pub(crate) const CURVES: &str = "held-out";
/// By which a folder is known as one of ours.
const WRITTEN_BY: (&str, &str) = ("written_by", "leap-lab");
/// What the pictures of every experiment are called, before their number.
pub(crate) const PICTURES: [&str; 3] = ["curves", "meta-training", "validation"];
/// What may differ when an experiment or a run is resumed, where its configuration has it: at the top, or below that.
const FREE: [&str; 5] = [
    "meta_steps",
    "device",
    "experiment.meta_steps",
    "experiment.device",
    FOLDER,
];
/// The name of a run's folder, in its configuration: a copy has another.
pub(crate) const FOLDER: &str = "folder";
/// Files that an experiment or a run writes, besides numbered ones such as `curves-1.svg`.
const FILES: [&str; 10] = [
    CONFIG,
    "metrics.jsonl",
    "summary.json",
    "held_out.json",
    "init.safetensors",
    "paths.svg",
    "episode.gif",
    "results.json",
    "results.csv",
    "report.html",
];

impl RunFolder {
    /// A folder for a run with the settings `config`, an object. With [`Existing::Resume`] it may be the folder of the same
    /// run, in which only `meta_steps` and `device` may differ.
    ///
    /// No other process can open it while this value lives, nor this one again.
    ///
    /// # Errors
    /// [`Error::Occupied`], [`Error::Foreign`], [`Error::RunOfAnother`], [`Error::OtherSettings`] or [`Error::Locked`] if the
    /// folder cannot be taken as `existing` says; [`Error::Io`], [`Error::Damaged`].
    pub fn open(path: &Path, config: &Value, existing: Existing) -> Result<Self, Error> {
        let before = read_json::<Value>(&path.join(CONFIG)).ok().flatten();
        if before.is_some_and(|before| is_marked(&before) && before["run"].is_object()) {
            let path = path.to_path_buf();
            return Err(Error::RunOfAnother { path });
        }
        let folder = Self::prepare(path, config, existing)?;
        let file = folder.join(LOCK);
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false);
        let lock = options.open(&file).map_err(Error::io(&file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = path.to_path_buf();
                return Err(Error::Locked { path });
            }
            // A file system without locks.
            Err(TryLockError::Error(error)) => {
                log::warn!("{} cannot be locked: {error}", path.display());
            }
        }
        if existing == Existing::Overwrite {
            clear(path, &pictures(path), false)?;
        }
        folder.write_json(CONFIG, &marked(config))?;
        Ok(Self {
            _lock: Some(lock),
            ..folder
        })
    }

    /// The folder of a run of the same experiment, below this one, which is gone on with if it is there.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn run(&self, name: &str, config: &Value) -> Result<Self, Error> {
        let folder = self.below(name);
        self.check_run(name, config)?;
        if !folder.join(CONFIG).exists() && has_results(&folder.path)? {
            let why = "it is missing, so that nobody knows what the results beside it are of";
            return Err(Error::damaged(folder.join(CONFIG), why));
        }
        fs::create_dir_all(&folder.path).map_err(Error::io(&folder.path))?;
        let mut config = marked(config);
        config[FOLDER] = name.into();
        folder.write_json(CONFIG, &config)?;
        Ok(folder)
    }

    /// That a run can be gone on with, if it is there.
    pub(crate) fn check_run(&self, name: &str, config: &Value) -> Result<(), Error> {
        let path = self.join(name);
        match path.join(CONFIG).exists() {
            true => Self::prepare(&path, config, Existing::Resume).map(|_| ()),
            false => Ok(()),
        }
    }

    /// A folder below this one, to be read.
    pub(crate) fn below(&self, name: &str) -> Self {
        Self {
            path: self.join(name),
            _lock: None,
        }
    }

    /// Makes the folder, if what is there allows it.
    fn prepare(path: &Path, config: &Value, existing: Existing) -> Result<Self, Error> {
        let folder = Self {
            path: path.to_path_buf(),
            _lock: None,
        };
        let here = || path.to_path_buf();
        let before: Option<Value> = folder.read_json(CONFIG)?;
        let config = marked(config);
        match &before {
            None if is_empty(path)? => {}
            None => return Err(Error::Foreign { path: here() }),
            Some(before) if !is_marked(before) => {
                return Err(Error::Foreign { path: here() });
            }
            Some(_) if existing == Existing::Refuse => {
                return Err(Error::Occupied { path: here() });
            }
            Some(before) if existing == Existing::Resume => {
                let mut changes = Vec::new();
                compare("", before, &config, &mut changes);
                if !changes.is_empty() {
                    let path = here();
                    return Err(Error::OtherSettings { path, changes });
                }
            }
            Some(_) => {}
        }
        fs::create_dir_all(path).map_err(Error::io(path))?;
        Ok(folder)
    }

    /// The path of a file in the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        let path = self.join(name);
        let beside = self.join(&format!("{name}.unfinished"));
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(bytes.as_ref())?;
            file.sync_all()
        };
        write().map_err(Error::io(&beside))?;
        fs::rename(&beside, &path).map_err(Error::io(&path))
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Writes a JSON file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if the value is not one that JSON has.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value);
        let text = text.map_err(|error| Error::damaged(self.join(name), error))?;
        self.write(name, text + "\n")
    }

    /// Reads a JSON file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        read_json(&self.join(name))
    }

    /// Reads a file of JSON lines; none if there is no such file. A last line without an end, as a crash may leave it, is
    /// left out.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn read_lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, Error> {
        let path = self.join(name);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        // As an editor may leave it.
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        let whole = bytes
            .split_inclusive(|byte| *byte == b'\n')
            .zip(1..)
            .filter(|(line, _)| line.ends_with(b"\n") && !line.trim_ascii().is_empty());
        let read = |(line, number): (&[u8], usize)| {
            let wrong = |error| Error::damaged(&path, format!("line {number}: {error}"));
            serde_json::from_slice(line).map_err(wrong)
        };
        whole.map(read).collect()
    }
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        read => read.map_err(Error::io(path))?,
    };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| Error::damaged(path, error))
}

fn is_marked(config: &Value) -> bool {
    config[WRITTEN_BY.0] == WRITTEN_BY.1
}

fn marked(config: &Value) -> Value {
    let mut config = match config {
        Value::Object(_) => config.clone(),
        other => json!({ "settings": other }),
    };
    config[WRITTEN_BY.0] = WRITTEN_BY.1.into();
    config
}

/// Whether nothing is there but what a start leaves that was killed at once.
fn is_empty(path: &Path) -> Result<bool, Error> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries.map_err(Error::io(path))?,
    };
    for entry in entries {
        let name = entry.map_err(Error::io(path))?.file_name();
        if name != LOCK && name != "config.json.unfinished" && name != ".DS_Store" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether results or checkpoints of a run are there.
fn has_results(path: &Path) -> Result<bool, Error> {
    let checkpoints = Checkpoints::new(path.join("checkpoints"), 0).newest();
    let has = |name: &&str| **name != *CONFIG && path.join(name).exists();
    Ok(FILES.iter().any(has) || checkpoints?.is_some())
}

/// Where the settings of an experiment differ from those that a run in its folder was made with.
pub(crate) fn differences(run: &Value, experiment: &Value) -> Vec<String> {
    let mut changes = Vec::new();
    compare("", &marked(run), experiment, &mut changes);
    changes
}

/// What the numbered pictures in an experiment's folder are called: `curves-1.svg`, and by the names of its settings.
fn pictures(path: &Path) -> Vec<String> {
    let config = read_json::<Value>(&path.join(CONFIG)).ok().flatten();
    let settings = config.map_or(Value::Null, |config| config[GRID].clone());
    let mut names: Vec<String> = serde_json::from_value(settings).unwrap_or_default();
    names.extend(PICTURES.map(String::from));
    names
}

/// Removes what this program wrote in the folder of an experiment, or of a run; the settings last, by which it is known.
fn clear(path: &Path, pictures: &[String], is_run: bool) -> Result<(), Error> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        entries.push(entry.map_err(Error::io(path))?.path());
    }
    entries.sort_by_key(|entry| entry.ends_with(CONFIG));
    // What a link leads to is not ours to remove, and must not be taken for what is written now.
    let is_run_elsewhere = |entry: &&PathBuf| {
        let config = read_json::<Value>(&entry.join(CONFIG)).ok().flatten();
        let is_ours = config.is_some_and(|config| is_marked(&config));
        is_ours && (entry.is_symlink() || entry.join("checkpoints").is_symlink())
    };
    if let Some(path) = entries.iter().find(is_run_elsewhere).cloned() {
        return Err(Error::Foreign { path });
    }
    for entry in entries.into_iter().filter(|entry| !entry.is_symlink()) {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if !entry.is_dir() {
            if is_written_here(&name, pictures) {
                fs::remove_file(&entry).map_err(Error::io(&entry))?;
            }
            continue;
        }
        if is_run && name == "checkpoints" {
            Checkpoints::new(&entry, 0).clear()?;
            continue;
        }
        let config = read_json::<Value>(&entry.join(CONFIG)).ok().flatten();
        let config = config.filter(is_marked);
        if !is_run && name == SEARCH && config.is_some() {
            clear(&entry, &self::pictures(&entry), false)?;
            if !is_empty(&entry)? {
                // It is known as ours, whatever of somebody else's is left in it.
                let mark = serde_json::to_vec(&marked(&json!({}))).unwrap_or_default();
                let file = entry.join(CONFIG);
                fs::write(&file, mark).map_err(Error::io(&file))?;
            }
            continue;
        }
        // A copy that somebody made is theirs.
        let is_run_below = config.is_some_and(|config| {
            config["run"].is_object() && config[FOLDER].as_str().is_none_or(|of| of == name)
        });
        if is_run && name == CURVES {
            remove_events(&entry)?;
            let _ = fs::remove_dir(&entry); // As below.
        }
        if is_run_below {
            clear(&entry, &[], true)?;
            let _ = fs::remove_dir(&entry); // It stays where something else is in it.
        }
    }
    Ok(())
}

/// Removes the event files in a folder.
fn remove_events(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(EVENTS) && path.is_file() && !path.is_symlink() {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// What the names of event files begin with.
const EVENTS: &str = "events.out.tfevents.";

fn is_written_here(name: &str, pictures: &[String]) -> bool {
    let name = name.strip_suffix(".unfinished").unwrap_or(name);
    let numbered = match name.rsplit_once('.') {
        Some((stem, "svg")) => stem
            .rsplit_once('-')
            .filter(|(what, _)| pictures.iter().any(|p| p == what)),
        Some((stem, "safetensors")) => stem.rsplit_once('-').filter(|(what, _)| *what == CURVES),
        _ => None,
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    FILES.contains(&name)
        || numbered.is_some_and(|(_, number)| is_number(number))
        || name.starts_with(EVENTS)
}

/// Lists where two configurations differ in what decides the numbers.
fn compare(place: &str, before: &Value, now: &Value, changes: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let place = match place {
                    "" => key.clone(),
                    place => format!("{place}.{key}"),
                };
                if !FREE.contains(&place.as_str()) {
                    compare(&place, &before[key], &now[key], changes);
                }
            }
        }
        // A flag that was not known then was off.
        (Value::Null, Value::Bool(false)) | (Value::Bool(false), Value::Null) => {}
        _ if before != now => changes.push(format!("{place}: {before} then, {now} now")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, existing: Existing) -> Result<RunFolder, Error> {
        RunFolder::open(path, &json!({ "lr": 0.1, "meta_steps": 3 }), existing)
    }

    #[test]
    fn what_others_wrote_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("config.json"), "{}").unwrap();
        fs::write(theirs.join("notes.txt"), "mine").unwrap();
        for existing in [Existing::Refuse, Existing::Resume, Existing::Overwrite] {
            let refused = open(&theirs, existing).unwrap_err();
            assert!(matches!(refused, Error::Foreign { .. }), "{refused}");
        }
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 2);

        // A start that was killed before its settings were written leaves nothing in the way.
        let begun = folder.path().join("begun");
        fs::create_dir(&begun).unwrap();
        for left in ["lock", "config.json.unfinished"] {
            fs::write(begun.join(left), "").unwrap();
        }
        open(&begun, Existing::Refuse).unwrap();

        // A file of somebody's in a folder of ours survives, and so does its folder.
        let ours = folder.path().join("ours");
        let opened = open(&ours, Existing::Refuse).unwrap();
        let run = opened.run("leap-seed-1", &json!({ "run": {} })).unwrap();
        opened.write("results.csv", "old").unwrap();
        run.write("held-out-1.safetensors", "old").unwrap();
        opened.write("curves-1.svg", "old").unwrap();
        let search = json!({ "goes_through": ["meta-lr"] });
        let search = RunFolder::open(&opened.join(SEARCH), &search, Existing::Refuse).unwrap();
        search.run("leap-seed-1", &json!({ "run": {} })).unwrap();
        search.write("meta-lr-1.svg", "old").unwrap();
        fs::create_dir(run.join("held-out")).unwrap();
        for file in ["results.csv", "events.out.tfevents.1.leap"] {
            run.write(&format!("held-out/{file}"), "").unwrap();
        }
        let copy = opened.join("my-backup");
        fs::create_dir(&copy).unwrap();
        fs::copy(run.join(CONFIG), copy.join(CONFIG)).unwrap();
        let checkpoints = [
            "checkpoint-00000001",
            "tasks-00000002-0123456789abcdef",
            "tasks-held-out-0123456789abcdef",
            "unfinished-checkpoint",
            "mine",
            "checkpoint-00000001-backup",
            "tasks-todo",
        ];
        for checkpoint in checkpoints {
            let path = run.join("checkpoints").join(checkpoint);
            fs::create_dir_all(path).unwrap();
        }
        let theirs = checkpoints[4..].iter();
        let theirs = theirs.map(|name| format!("leap-seed-1/checkpoints/{name}"));
        let kept = [
            "my-backup/config.json",
            "notes.txt",
            "curve.svg",
            "poster-2.svg",
            "my-best-3.safetensors",
            "leap-seed-1/notes.json",
            "leap-seed-1/held-out/results.csv",
            "search/notes.txt",
        ];
        for kept in kept.into_iter().skip(1) {
            opened.write(kept, "mine").unwrap();
        }
        let kept = kept.map(String::from).into_iter().chain(theirs);
        let kept = Vec::from_iter(kept);
        fs::create_dir(opened.join("checkpoints")).unwrap();
        drop((opened, search));
        let opened = open(&ours, Existing::Overwrite).unwrap();
        for kept in kept.into_iter().chain(["checkpoints".into()]) {
            assert!(opened.join(&kept).exists(), "{kept}");
        }
        let removed = [
            "results.csv",
            "curves-1.svg",
            "leap-seed-1/held-out-1.safetensors",
            "leap-seed-1/config.json",
            "leap-seed-1/held-out/events.out.tfevents.1.leap",
            "leap-seed-1/checkpoints/checkpoint-00000001",
            "leap-seed-1/checkpoints/tasks-00000002-0123456789abcdef",
            "leap-seed-1/checkpoints/tasks-held-out-0123456789abcdef",
            "leap-seed-1/checkpoints/unfinished-checkpoint",
            "search/leap-seed-1",
            "search/meta-lr-1.svg",
        ];
        for removed in removed {
            assert!(!opened.join(removed).exists(), "{removed}");
        }
        // The run can begin again, whatever lies in its folder, and so can the search.
        let run = opened.run("leap-seed-1", &json!({ "run": {} })).unwrap();
        // Results without settings are of nobody knows what.
        for result in ["summary.json", "metrics.jsonl"] {
            let lost = opened.below("lost-seed-1");
            fs::create_dir(lost.path()).unwrap();
            lost.write(result, "{}").unwrap();
            let error = opened
                .run("lost-seed-1", &json!({ "run": {} }))
                .unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            fs::remove_dir_all(lost.path()).unwrap();
        }
        // It is no experiment of its own, for anybody beside it.
        for existing in [Existing::Refuse, Existing::Resume, Existing::Overwrite] {
            let refused = open(run.path(), existing).unwrap_err();
            assert!(matches!(refused, Error::RunOfAnother { .. }), "{refused}");
        }
        RunFolder::open(&opened.join(SEARCH), &json!({}), Existing::Overwrite).unwrap();
        assert!(opened.join("search/notes.txt").exists());
        // A run that is elsewhere, by a link, is neither removed nor taken for a new one.
        #[cfg(unix)]
        {
            drop(opened);
            let elsewhere = folder.path().join("elsewhere");
            fs::rename(ours.join("leap-seed-1"), &elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, ours.join("leap-seed-1")).unwrap();
            let refused = open(&ours, Existing::Overwrite).unwrap_err();
            assert!(matches!(refused, Error::Foreign { .. }), "{refused}");
            assert!(elsewhere.join(CONFIG).exists());
            // Nor are checkpoints, and nothing else is removed before it is said.
            fs::remove_file(ours.join("leap-seed-1")).unwrap();
            fs::rename(&elsewhere, ours.join("leap-seed-1")).unwrap();
            let checkpoints = ours.join("leap-seed-1/checkpoints");
            fs::rename(&checkpoints, &elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, &checkpoints).unwrap();
            fs::write(ours.join("results.csv"), "old").unwrap();
            let refused = open(&ours, Existing::Overwrite).unwrap_err();
            assert!(matches!(refused, Error::Foreign { .. }), "{refused}");
            assert!(ours.join("results.csv").exists());
        }
    }

    #[test]
    fn only_the_same_run_is_resumed_and_by_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let first = open(&path, Existing::Resume).unwrap();
        let locked = open(&path, Existing::Resume).unwrap_err();
        assert!(matches!(locked, Error::Locked { .. }), "{locked}");
        drop(first);
        let occupied = open(&path, Existing::Refuse).unwrap_err();
        assert!(matches!(occupied, Error::Occupied { .. }), "{occupied}");
        let other = RunFolder::open(
            &path,
            &json!({ "lr": 0.2, "meta_steps": 5 }),
            Existing::Resume,
        );
        let other = other.unwrap_err().to_string();
        assert!(other.contains("lr: 0.1 then, 0.2 now"), "{other}");
        assert!(!other.contains("meta_steps"), "{other}");
        // A flag that a run of an earlier version did not know was off.
        for (on, accepted) in [(false, true), (true, false)] {
            let config = json!({ "lr": 0.1, "meta_steps": 3, "new": on });
            let opened = RunFolder::open(&path, &config, Existing::Resume);
            assert_eq!(opened.is_ok(), accepted);
        }
        open(&path, Existing::Resume).unwrap();

        // Of a run, the experiment's own; not those of what it begins from.
        let run = |device: &str, from: usize| {
            let config = json!({ "run": {}, "experiment": {
                "device": device, "settings": { "from": { "meta_steps": from } },
            }});
            open(&path, Existing::Resume)?.run("leap-seed-1", &config)
        };
        run("flex", 1).unwrap();
        run("ndarray", 1).unwrap();
        let other = run("flex", 5).unwrap_err().to_string();
        assert!(other.contains("meta_steps: 1 then, 5 now"), "{other}");
    }

    #[test]
    fn a_line_that_was_cut_off_is_left_out_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let run = open(&folder.path().join("run"), Existing::Refuse).unwrap();
        run.write("metrics.jsonl", "1\n2\n3").unwrap();
        assert_eq!(run.read_lines::<u8>("metrics.jsonl").unwrap(), [1, 2]);
        run.write("metrics.jsonl", "1\nx\n").unwrap();
        let damaged = run.read_lines::<u8>("metrics.jsonl").unwrap_err();
        assert!(damaged.to_string().contains("metrics.jsonl is damaged"));
        assert!(damaged.to_string().contains("line 2"), "{damaged}");
        run.write("metrics.jsonl", b"1\n\xff\xfe\n").unwrap();
        let damaged = run.read_lines::<u8>("metrics.jsonl").unwrap_err();
        assert!(matches!(damaged, Error::Damaged { .. }), "{damaged}");
        // What an editor leaves is no damage.
        run.write("metrics.jsonl", "\u{feff}1\r\n\n2\n").unwrap();
        assert_eq!(run.read_lines::<u8>("metrics.jsonl").unwrap(), [1, 2]);
        assert_eq!(run.read_json::<u8>("nothing.json").unwrap(), None);
    }
}
