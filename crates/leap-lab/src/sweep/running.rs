//! A sweep under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::ParamGroup;
use burn::tensor::Device;
use leap_core::{
    Checkpoints, Lanes, MetaTrainer, ParamSpace, Report, TaskReport, TaskSet, is_cpu, project_paths,
};
use serde_json::{Value, json};

use crate::error::Error;
use crate::figures::draw_paths;
use crate::folder::{Existing, GRID, PICTURES, RunFolder, read_json};
use crate::progress::Progress;
use crate::sweep::experiment::{Experiment, Session, drawn, scalars};
use crate::sweep::page::Page;
use crate::sweep::plan::{Search, Sweep};
use crate::sweep::results::{self, RunResult, RunSummary};
use crate::sweep::run::Run;
use crate::sweep::tables;
use crate::terminal::say;
use crate::tracking::json_lines::JsonLines;

impl Sweep {
    /// Does the runs, or what is left of them, and writes their results. Those of all runs in the folder come back.
    ///
    /// # Errors
    /// What cannot work is said before anything is trained or written: [`Error::Setting`], [`Error::Experiment`],
    /// [`Error::Training`], and those of [`RunFolder::open`]. [`Error::Setting`] also after a [search](Self::with_search) that
    /// found no value for a method. Then [`Error::Interrupted`], [`Error::Failed`] once the other
    /// runs are done, [`Error::Io`].
    pub fn run<E: Experiment>(&self, experiment: &E) -> Result<Vec<RunResult>, Error> {
        let mut running = Running::begin(self, experiment)?;
        if let Some(search) = &self.search
            && running.runs.iter().any(Run::is_trained)
        {
            running.search(search)?;
        }
        say(&format!(
            "{} runs, {} side by side on {}, results in {}",
            running.runs.len(),
            running.jobs,
            self.options.device,
            self.out.display()
        ));
        let failures = running.run_all();
        let failures = Vec::from_iter(failures.into_iter().map(|failure| failure.told()));
        let written = running.page().write(true);
        let (results, left_out) = results::read_all(self, &running.folder)?;
        left_out
            .iter()
            .for_each(|left_out| log::warn!("{left_out}"));
        let is_interrupted = running.interrupted.load(Ordering::Relaxed);
        drop(running);
        if !is_interrupted && !results.is_empty() {
            // What was measured, whatever else went wrong.
            say(&tables::text(&results, self.target));
        }
        match failures.is_empty() {
            false => return Err(Error::Failed { failures }),
            true if is_interrupted => return Err(Error::Interrupted),
            true => written?,
        }
        let out = self.out.display();
        say(&format!("Everything is in {out}; see report.html there"));
        Ok(results)
    }
}

/// What came of learning from scratch; found out once, by the first who asks.
type Known = Arc<Mutex<Option<(RunSummary, Arc<Report>)>>>;

/// A sweep under way.
struct Running<'a, E: Experiment> {
    sweep: &'a Sweep,
    experiment: &'a E,
    runs: Vec<Run>,
    jobs: usize,
    lanes: usize,
    devices: Vec<Device>,
    home: Device,
    folder: RunFolder,
    config: Value,
    progress: Progress,
    unit: (String, usize),
    /// By seed.
    scratch: Mutex<BTreeMap<u64, Known>>,
    /// Whether a run was stopped before its end.
    interrupted: AtomicBool,
}

/// A run that failed.
struct Failure {
    run: String,
    error: Error,
}

impl Failure {
    fn told(self) -> String {
        format!("  {}: {}", self.run, self.error)
    }

    /// Whether nothing could be trained, as with a learning rate that is too high.
    fn is_divergence(&self) -> bool {
        matches!(
            &self.error,
            Error::Training(leap_core::Error::AllTasksLeftOut { .. })
        )
    }
}

/// The initialization in a run's folder.
const INIT: &str = "init.safetensors";
/// Characters in the name of a run's folder, at most.
const LONGEST_NAME: usize = 200;

/// Names become those of files and of columns.
fn check_names(sweep: &Sweep, runs: &[Run]) -> Result<(), Error> {
    if let Some(run) = runs.iter().find(|run| run.name().len() > LONGEST_NAME) {
        let name = run.name();
        let wrong = "is too long for the name of a folder: choose other values";
        return Err(Error::Setting(format!("{name} {wrong}")));
    }
    let settings = || {
        let searched = sweep.search.iter().map(|search| &search.name);
        sweep.settings.iter().map(|(name, _)| name).chain(searched)
    };
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    for name in sweep.methods.iter().chain(settings()) {
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_good) {
            return Err(Error::Setting(format!(
                "`{name}` cannot be part of a file's name"
            )));
        }
    }
    let (blank, run) = (RunSummary::blank(), Run::default());
    let columns = serde_json::to_value(results::Row::of(&run, &blank)).unwrap_or_default();
    let is_taken = |name: &&String| {
        let name = name.as_str();
        columns.get(name).is_some() || PICTURES.contains(&name)
    };
    if let Some(name) = settings().find(is_taken) {
        let wrong = format!("a setting cannot be called `{name}`, as a result is");
        return Err(Error::Setting(wrong));
    }
    let names = BTreeSet::from_iter(settings());
    if names.len() < settings().count() {
        return Err(Error::Setting("a setting is there twice".into()));
    }
    let mut values = sweep.settings.iter().flat_map(|(_, values)| values);
    match values.all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::Setting("settings must be finite".into())),
    }
}

/// Looks whether all of a sweep can work; the training steps that it takes come back.
fn check<E: Experiment>(
    sweep: &Sweep,
    experiment: &E,
    runs: &[Run],
    home: &Device,
) -> Result<f64, Error> {
    let setting = |wrong: &str| Err(Error::Setting(wrong.into()));
    if sweep.methods.is_empty() || sweep.seeds.is_empty() {
        return setting("there must be at least one method and one seed");
    }
    if let Some((name, _)) = sweep.settings.iter().find(|(_, values)| values.is_empty()) {
        return setting(&format!("{name} must have at least one value"));
    }
    check_names(sweep, runs)?;
    let model = |run| drawn(run, home, || experiment.model(run, home));
    let values = || -> Result<Vec<f64>, Error> {
        let model = model(&runs[0])?;
        let space = ParamSpace::new(&model, &ParamGroup::all())?;
        Ok(space.point(&model)?.to_vec()?)
    };
    if values()? != values()? {
        return setting(
            "the model has parameters that neither Burn nor the run's seed draws, and are others each time: draw them \
             from the seed, in `Experiment::model`",
        );
    }
    if sweep
        .search
        .as_ref()
        .is_some_and(|search| search.meta_steps == 0)
    {
        return setting("a search must have at least one meta-step");
    }
    let mut work = 0.0;
    let mut tested: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for run in runs {
        let trainer = experiment.trainer(run)?;
        trainer.begin(model(run)?)?;
        let tasks = sweep.tested(experiment, run)?;
        let mut held_out = tasks.len();
        if held_out == 0 {
            return setting("there are no held-out tasks");
        }
        let names = Vec::from_iter((0..held_out).map(|index| tasks.name(index)));
        if *tested.entry(run.seed).or_insert_with(|| names.clone()) != names {
            let what = format!("{} is tested on other tasks than others", run.name());
            return setting(&format!(
                "{what} with its seed: they may depend on the seed alone"
            ));
        }
        if run.is_trained() {
            if experiment.train(run)?.is_empty() {
                return setting("there are no tasks to meta-train on");
            }
            let sizes = [
                sweep.meta_steps,
                trainer.meta_batch_size(),
                trainer.task_steps(),
            ];
            work += sizes.map(|size| size as f64).iter().product::<f64>();
            held_out += sweep.validated(experiment, run, sweep.meta_steps)?;
        }
        work += held_out as f64 * trainer.held_out_steps() as f64;
    }
    Ok(work)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a, E: Experiment> Running<'a, E> {
    /// Looks whether all can work, and takes the folder.
    fn begin(sweep: &'a Sweep, experiment: &'a E) -> Result<Self, Error> {
        sweep.options.check()?;
        let runs = sweep.runs();
        let devices = leap_core::devices(&sweep.options.device)?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let jobs = match sweep.options.jobs {
            Some(jobs) => jobs,
            None if devices.iter().all(is_cpu) => cores.min(runs.len()).max(1),
            None => 1,
        };
        let lanes = sweep.options.lanes.unwrap_or((cores / jobs).max(1));
        Lanes::on(&devices, lanes)?;
        // On the CPU, which cannot be lost, if there is one.
        let home = match devices.iter().find(|device| is_cpu(device)) {
            Some(cpu) => cpu.clone(),
            None => leap_core::device("flex").unwrap_or(devices[0].clone()),
        }
        .autodiff();

        let work = check(sweep, experiment, &runs, &home)?;
        if let Some(search) = &sweep.search {
            let searching = sweep.searching(search);
            check(&searching, experiment, &searching.runs(), &home)?;
        }
        let progress = Progress::new(experiment.unit());
        progress.add(work);
        let mut config = json!({
            "title": sweep.title,
            "settings": experiment.settings(),
            "target": sweep.target,
            "meta_steps": sweep.meta_steps,
            "device": sweep.options.device,
        });
        config[GRID] = sweep
            .settings
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        if let Some(search) = &sweep.search {
            config["search"] = json!({
                "name": search.name,
                "values": search.values,
                "meta_steps": search.meta_steps,
                "seed": sweep.seeds.first(),
            });
        }
        if sweep.every_task_steps > 0 {
            // Some environments begin anew where they are saved.
            config["task_checkpoints"] = sweep.every_task_steps.into();
        }
        let existing = sweep.options.existing();
        if existing == Existing::Resume {
            for run in runs.iter().filter(|run| run.is_trained()) {
                let path = sweep.out.join(run.name()).join("summary.json");
                let done = read_json::<RunSummary>(&path).ok().flatten();
                let taken = done.map_or(0, |done| done.meta_steps);
                if taken > sweep.meta_steps {
                    return Err(sweep.fewer(run, taken));
                }
            }
        }
        let running = Self {
            folder: RunFolder::open(&sweep.out, &config, existing)?,
            sweep,
            experiment,
            runs,
            jobs,
            lanes,
            devices,
            home,
            config,
            progress,
            unit: experiment.unit(),
            scratch: Mutex::default(),
            interrupted: AtomicBool::new(false),
        };
        // What a search finds is among the settings of a run.
        if existing == Existing::Resume && sweep.search.is_none() {
            for run in &running.runs {
                let config = running.config_of(run);
                running.folder.check_run(&run.name(), &config)?;
            }
        }
        Ok(running)
    }

    /// Finds the value of a setting for each method.
    fn search(&mut self, search: &Search) -> Result<(), Error> {
        let sweep = self.sweep.searching(search);
        let searching = Running::begin(&sweep, self.experiment)?;
        let (name, count) = (&search.name, searching.runs.len());
        say(&format!(
            "first a search for {name}, {count} runs on validation tasks"
        ));
        let failures = searching.run_all();
        let written = searching.page().write(true);
        written.unwrap_or_else(|error| log::warn!("the report of the search: {error}"));
        // A value with which nothing can be trained is none that is taken; its run has said so.
        let others = failures.into_iter().filter(|f| !f.is_divergence());
        let failures = Vec::from_iter(others.map(Failure::told));
        match failures.is_empty() {
            false => return Err(Error::Failed { failures }),
            true if searching.interrupted.load(Ordering::Relaxed) => {
                return Err(Error::Interrupted);
            }
            true => {}
        }
        let (found, left_out) = results::read_all(&sweep, &searching.folder)?;
        left_out
            .iter()
            .for_each(|left_out| log::warn!("{left_out}"));
        say(&tables::text(&found, sweep.target));
        for run in self.runs.iter_mut().filter(|run| run.is_trained()) {
            let tried = found.iter().filter(|result| {
                let mut settings = result.run.settings.clone();
                let value = settings.remove(name);
                result.run.method == run.method
                    && self.sweep.seeds.first() == Some(&result.run.seed)
                    && settings == run.settings
                    && value.is_some_and(|value| search.values.contains(&value))
            });
            let tasks = |result: &RunResult| result.summary.held_out_tasks;
            let tried = tried.filter(|result| tasks(result).auc.is_finite());
            let best = tried.min_by(|a, b| {
                let (a, b) = (tasks(a), tasks(b));
                let fewer = a.left_out.cmp(&b.left_out);
                fewer.then(a.auc.total_cmp(&b.auc))
            });
            let best = best.and_then(|result| result.run.setting(name));
            let Some(best) = best else {
                let why = format!("no {name} that was tried can train {}", run.method);
                return Err(Error::Setting(why));
            };
            let ends = [f64::min, f64::max].map(|end| search.values.iter().copied().reduce(end));
            let is_first = self.sweep.seeds.first() == Some(&run.seed);
            if is_first && search.values.len() > 1 && ends.contains(&Some(best)) {
                let method = &run.method;
                log::warn!("{method}: the best {name} is at the end of those tried: {best}");
            }
            run.searched.insert(name.clone(), best);
        }
        self.progress.restart();
        Ok(())
    }

    fn page(&self) -> Page<'_> {
        Page {
            sweep: self.sweep,
            folder: &self.folder,
            unit: &self.unit,
        }
    }

    /// Does the runs, `jobs` at a time; what went wrong comes back.
    fn run_all(&self) -> Vec<Failure> {
        let queue = AtomicUsize::new(0);
        let (failures, writing) = (Mutex::new(Vec::new()), Mutex::new(()));
        let interrupt = || self.interrupted.store(true, Ordering::Relaxed);
        let work = || {
            while let Some(run) = self.runs.get(queue.fetch_add(1, Ordering::Relaxed)) {
                if self.sweep.stop.load(Ordering::Relaxed) {
                    return interrupt();
                }
                log::info!("{} begins", run.name());
                match self.run(run) {
                    Ok((summary, is_new)) => {
                        let _one_at_a_time = lock(&writing);
                        say(&tables::line(run, &summary));
                        // All of it is written once more at the end.
                        if is_new && let Err(error) = self.page().write(false) {
                            log::warn!("the report: {error}");
                        }
                    }
                    Err(Error::Interrupted) => return interrupt(),
                    Err(error) => {
                        log::error!("{}: {error}", run.name());
                        lock(&failures).push(Failure {
                            run: run.name(),
                            error,
                        });
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(work);
            }
        });
        failures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A run from where it is to its end, and whether it had not been there before.
    fn run(&self, run: &Run) -> Result<(RunSummary, bool), Error> {
        if !run.is_trained() {
            return Ok((self.scratch(run)?.0, true));
        }
        let folder = self.folder_of(run)?;
        if let Some(done) = folder.read_json::<RunSummary>("summary.json")? {
            let is_there = |name: &str| folder.join(name).exists();
            let is_whole = folder.read_json::<Report>("held_out.json")?.is_some() && is_there(INIT);
            if done.meta_steps == self.sweep.meta_steps && is_whole {
                self.skip(run, &done)?;
                return Ok((done, false));
            }
            if done.meta_steps > self.sweep.meta_steps {
                return Err(self.sweep.fewer(run, done.meta_steps));
            }
        }
        let session = self.session(run, folder)?;
        let init = self.experiment.meta_train(&session)?;
        // What is written from here on is of other meta-steps than an earlier summary.
        session.folder.remove("summary.json")?;
        session.save(&init, INIT)?;
        let (_, scratch) = self.scratch(&self.sweep.scratch(run.seed))?;
        let (summary, _) = self.evaluate(&session, &init, self.sweep.meta_steps, Some(&scratch))?;
        Ok((summary, true))
    }

    /// What learning the held-out tasks from scratch came to, with a seed; found out once.
    fn scratch(&self, run: &Run) -> Result<(RunSummary, Arc<Report>), Error> {
        let slot = lock(&self.scratch).entry(run.seed).or_default().clone();
        let mut known = lock(&slot);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let folder = self.folder_of(run)?;
        let summary: Option<RunSummary> = folder.read_json("summary.json")?;
        let report: Option<Report> = folder.read_json("held_out.json")?;
        let (summary, report) = match (summary, report) {
            (Some(summary), Some(report)) => {
                self.skip(run, &summary)?;
                (summary, report)
            }
            _ => {
                let session = self.session(run, folder)?;
                let init = session.scratch()?;
                session.save(&init, INIT)?;
                self.evaluate(&session, &init, 0, None)?
            }
        };
        Ok(known.insert((summary, Arc::new(report))).clone())
    }

    /// Counts what a run did as done before.
    fn skip(&self, run: &Run, summary: &RunSummary) -> Result<(), Error> {
        let tasks = summary.held_out_tasks.tasks + summary.held_out_tasks.left_out;
        let trainer = self.experiment.trainer(run)?;
        let trained = summary.meta_steps as f64 * trainer.meta_batch_size() as f64;
        let validated = self
            .sweep
            .validated(self.experiment, run, summary.meta_steps)?;
        let tested = (tasks + validated) as f64 * trainer.held_out_steps() as f64;
        self.progress
            .skip(tested + trained * trainer.task_steps() as f64);
        Ok(())
    }

    fn config_of(&self, run: &Run) -> Value {
        let own = self.experiment.settings_of(run);
        match own.is_null() {
            true => json!({ "run": run, "experiment": self.config }),
            false => json!({ "run": run, "own": own, "experiment": self.config }),
        }
    }

    fn folder_of(&self, run: &Run) -> Result<RunFolder, Error> {
        self.folder.run(&run.name(), &self.config_of(run))
    }

    fn session(&'a self, run: &'a Run, folder: RunFolder) -> Result<Session<'a, E>, Error> {
        Ok(Session {
            experiment: self.experiment,
            sweep: self.sweep,
            progress: &self.progress,
            run,
            config: self.config_of(run),
            folder,
            home: self.home.clone(),
            lanes: Lanes::on(&self.devices, self.lanes)?,
            trackers: Mutex::default(),
        })
    }

    /// Learns the held-out tasks from an initialization of so many meta-steps, and writes down what came of it.
    fn evaluate(
        &self,
        session: &Session<E>,
        init: &E::Model,
        meta_steps: usize,
        scratch: Option<&Report>,
    ) -> Result<(RunSummary, Report), Error> {
        let (run, folder) = (session.run, &session.folder);
        let checkpoints = Checkpoints::new(folder.join("checkpoints"), 0)
            .with_task_steps(self.sweep.every_task_steps);
        let trainer = session.trainer()?.with_checkpoints(checkpoints);
        let tasks = self.sweep.tested(self.experiment, run)?;
        let keep = |task: &TaskReport, model: &E::Model| {
            if self.sweep.keep_models {
                let name = format!("held-out-{}.safetensors", task.index);
                session.save(model, &name)?;
            }
            if task.index == 0
                && let Some(gif) = self.experiment.record(run, model)?
            {
                folder.write("episode.gif", gif)?;
            }
            Ok(())
        };
        let mut report = trainer.evaluate_with(init, &tasks, &session.lanes, keep)?;
        match scratch {
            Some(scratch) => report.compare(scratch),
            None => report.compare(&report.clone()),
        }
        folder.write_json("held_out.json", &report)?;
        let metrics = JsonLines::read(folder)?;
        let summary = RunSummary::of(
            meta_steps,
            &trainer,
            &report,
            &metrics,
            self.sweep.target,
            self.unit.1,
        );
        let paths = self.draw_paths(session, &trainer, init, &tasks)?;
        if let Some(paths) = &paths {
            folder.write("paths.svg", paths)?;
        }
        let mut trackers = session.lock_trackers();
        if trackers.is_empty() {
            trackers.extend(self.sweep.trackers(run, folder, meta_steps)?);
        }
        for tracker in trackers.iter_mut() {
            tracker.scalars(meta_steps, &scalars("held-out", &summary))?;
            for (name, curve) in results::curves(&report) {
                tracker.curve(&format!("learning/{name}"), &curve)?;
            }
            if let Some(svg) = &paths {
                tracker.figure("paths", svg)?;
            }
        }
        // Last, as it says that the run is done.
        folder.write_json("summary.json", &results::Row::of(run, &summary))?;
        Ok((summary, report))
    }

    /// The paths of some held-out tasks before and after meta-training; `None` where they are not wanted, or there is nothing
    /// to see.
    fn draw_paths(
        &self,
        session: &Session<E>,
        trainer: &MetaTrainer<E::Learner>,
        init: &E::Model,
        tasks: &E::HeldOut,
    ) -> Result<Option<String>, Error> {
        let (run, count) = (session.run, self.sweep.pictures);
        let is_first = self.sweep.seeds.first() == Some(&run.seed);
        if !run.is_trained() || !is_first || count == 0 {
            return Ok(None);
        }
        let draw = || {
            let panel = |title: String, init: &E::Model| {
                let traces = trainer.trace(init, tasks, count, &session.lanes)?;
                let (paths, shown) = project_paths(&traces)?;
                let shown = 100.0 * shown;
                Ok::<_, Error>((format!("{title} ({shown:.0} % of variance)"), paths))
            };
            let before = panel("before meta-training".into(), &session.scratch()?)?;
            draw_paths(&[before, panel(format!("after {}", run.method), init)?])
        };
        match draw() {
            Ok(svg) => Ok(Some(svg)),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                log::warn!("{}: no picture of paths: {error}", run.name());
                Ok(None)
            }
        }
    }
}
