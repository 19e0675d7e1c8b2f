//! Sweeps as a library: what cannot work is refused before anything is written, no result shares its place with another,
//! and TensorBoard reads what it is told.

use std::path::Path;
use std::process::Command;

use burn::optim::SgdConfig;
use burn::tensor::Device;
use leap_core::{Lanes, MetaTrainer, Method, TaskError};
use leap_lab::{Experiment, Run, RunOptions, RunResult, Sweep};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::Sinusoids;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

struct Waves;

/// The setting that is searched for.
const META_LR: &str = "meta-lr";

impl Experiment for Waves {
    type Model = Mlp;
    type Learner = Method;
    type Train = Sinusoids;
    type HeldOut = Sinusoids;

    fn settings(&self) -> Value {
        json!({ "task_steps": 10 })
    }

    fn model(&self, _run: &Run, device: &Device) -> Result<Mlp, TaskError> {
        Ok(MlpConfig::new(vec![1, 8, 1]).init(device)?)
    }

    fn train(&self, _run: &Run) -> Result<Sinusoids, TaskError> {
        Ok(Sinusoids::new())
    }

    fn held_out(&self, _run: &Run) -> Result<Sinusoids, TaskError> {
        Ok(Sinusoids::new().with_tasks(3).with_seed(1))
    }

    fn validation(&self, _run: &Run) -> Result<Option<Sinusoids>, TaskError> {
        Ok(Some(Sinusoids::new().with_tasks(4).with_seed(2)))
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Method>, TaskError> {
        Ok(MetaTrainer::new(run.method()?)
            .with_meta_batch_size(2)
            .with_task_steps(10)
            .with_task_optimizer(SgdConfig::new().init(), 0.01)
            .with_meta_optimizer(
                SgdConfig::new().init(),
                run.setting(META_LR).unwrap_or(0.01),
            ))
    }
}

/// Prints what TensorBoard finds in a folder.
const READ: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0})
events.Reload()
tags = events.Tags()
print(json.dumps({
    "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
    "images": {tag: [events.Images(tag)[0].encoded_image_string[1:4].decode(), events.Images(tag)[0].width] for tag in tags["images"]},
}))
"#;

/// A Python with the package `tensorboard`: `LEAP_TENSORBOARD`, or python3 where it has it.
fn python() -> Option<String> {
    let asked = std::env::var("LEAP_TENSORBOARD").ok();
    let python = asked.clone().unwrap_or("python3".into());
    let import = "import tensorboard.backend.event_processing.event_accumulator";
    let found = Command::new(&python).args(["-c", import]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(asked.is_none(), "{python} has no tensorboard");
    eprintln!("\n*** NOT TESTED with TensorBoard: python3 has no package `tensorboard` ***\n");
    None
}

fn read(python: &str, folder: &Path) -> Value {
    let output = Command::new(python)
        .arg("-c")
        .arg(READ)
        .arg(folder)
        .output();
    let output = output.expect("python starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn tensorboard_reads_what_a_sweep_tells() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let sweep = |meta_steps, resume| {
        let options = RunOptions {
            tensorboard: true,
            resume,
            ..RunOptions::default()
        };
        Sweep::new("Waves", &out)
            .with_seeds([1])
            .with_meta_steps(meta_steps)
            .with_options(options)
            .run(&Waves)
            .expect("it runs")
    };
    sweep(3, false);
    let results = sweep(5, true);
    let leap = &results[0];
    assert_eq!(
        (leap.run.method.as_str(), leap.meta_steps.len()),
        ("leap", 5)
    );

    // JSON lines: a meta-step each, once.
    let text = std::fs::read_to_string(out.join("leap-seed-1/metrics.jsonl")).expect("metrics");
    let lines = text
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let steps: Vec<Value> = lines.map(|line| line["meta_step"].clone()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5]);

    let Some(python) = python() else { return };
    let seen = read(&python, &out.join("leap-seed-1"));
    let losses: Vec<(u64, f32)> =
        serde_json::from_value(seen["scalars"]["meta-training/loss"].clone()).expect("a curve");
    let expected = leap
        .meta_steps
        .iter()
        .map(|m| (m.meta_step as u64, m.tasks.loss as f32));
    assert_eq!(losses, expected.collect::<Vec<_>>());
    let curves = read(&python, &out.join("leap-seed-1/held-out"));
    let curve: Vec<(u64, f32)> =
        serde_json::from_value(curves["scalars"]["learning/loss"].clone()).expect("a curve");
    assert_eq!(curve.len(), 10, "of the last evaluation");
    assert_eq!(curve[9].1, leap.held_out.curve().loss[9] as f32);
    let auc = &seen["scalars"]["held-out/auc"];
    assert_eq!(auc[1][1], leap.summary.held_out_tasks.auc as f32 as f64);
    assert_eq!(seen["images"]["figures/paths"], json!(["PNG", 2 * 2 * 380]));
    let all = read(&python, &out);
    assert!(
        all["images"].as_object().expect("images").len() > 3,
        "{all}"
    );
}

#[test]
fn what_would_lose_results_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let sweep = || Sweep::new("Waves", &out).with_seeds([1]).with_meta_steps(1);
    let cases = [
        (
            sweep().with_setting("auc", [1.0]),
            "a setting cannot be called `auc`",
        ),
        (sweep().with_setting("a/b", [1.0]), "a/b"),
        (sweep().with_methods(["../leap"]), "../leap"),
        (sweep().with_methods(["leaf"]), "there is no method `leaf`"),
        (sweep().with_setting("clip", [f64::INFINITY]), "finite"),
        (sweep().with_setting("clip", []), "clip"),
        (sweep().with_seeds([]), "one seed"),
    ];
    for (sweep, said) in cases {
        let error = sweep.run(&Waves).expect_err(said).to_string();
        assert!(error.contains(said), "{error}");
        assert!(!out.exists(), "{said}: something was written");
    }
}

/// Copies of run folders, runs of other experiments and files that got lost change nothing in what is reported of others.
#[test]
fn a_report_is_of_this_sweeps_runs_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() {
                std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
            }
        }
    };
    let sweep = |out: &Path, title: &str, meta_steps, resume| {
        let options = RunOptions {
            resume,
            ..RunOptions::default()
        };
        Sweep::new(title, out)
            .with_methods(["leap", "reptile"])
            .with_seeds([1])
            .with_meta_steps(meta_steps)
            .with_options(options)
    };
    let (out, other) = (folder.path().join("run"), folder.path().join("other"));
    let results = sweep(&out, "Waves", 2, false).run(&Waves).expect("it runs");
    sweep(&other, "Others", 2, false)
        .with_seeds([2])
        .run(&Waves)
        .expect("it runs");
    let auc = |results: &[RunResult]| {
        let each = results
            .iter()
            .map(|r| (r.run.name(), r.summary.held_out_tasks.auc));
        each.collect::<Vec<_>>()
    };
    for name in ["a", "z", "leap-seed-1 copy"] {
        copy(&out.join("leap-seed-1"), &out.join(name));
        let config = out.join(name).join("summary.json");
        let mut summary = json_of(config.clone());
        summary["auc"] = json!(0.0);
        std::fs::write(config, summary.to_string()).unwrap();
    }
    copy(&other.join("leap-seed-2"), &out.join("leap-seed-2"));
    let again = sweep(&out, "Waves", 2, true)
        .run(&Waves)
        .expect("it goes on");
    assert_eq!(auc(&again), auc(&results));

    // What is missing of a run is made again, from its checkpoint.
    for lost in ["held_out.json", "init.safetensors"] {
        let lost = out.join("leap-seed-1").join(lost);
        std::fs::remove_file(&lost).unwrap();
        let again = sweep(&out, "Waves", 2, true)
            .run(&Waves)
            .expect("it goes on");
        assert_eq!(auc(&again), auc(&results));
        assert!(lost.exists());
    }
    // What is damaged is named, and the others are reported.
    std::fs::write(out.join("leap-seed-1/held_out.json"), "{").unwrap();
    let error = sweep(&out, "Waves", 3, true).run(&Waves).unwrap_err();
    assert!(error.to_string().contains("held_out.json"), "{error}");
    let csv = std::fs::read_to_string(out.join("results.csv")).unwrap();
    assert!(csv.contains("reptile") && !csv.contains("leap"), "{csv}");

    // A search belongs to its seed, and names fit.
    let searched = |seed: u64, values: [f64; 2], resume| {
        let out = folder.path().join("searched");
        let sweep = sweep(&out, "Waves", 1, resume).with_seeds([seed]);
        sweep.with_search(META_LR, values, 1).run(&Waves)
    };
    let long = searched(1, [1e-300, 0.1], false).unwrap_err().to_string();
    assert!(long.contains("too long"), "{long}");
    searched(1, [0.01, 0.1], false).expect("it runs");
    let refused = searched(2, [0.01, 0.1], true).unwrap_err().to_string();
    assert!(refused.contains("search.seed: 1 then, 2 now"), "{refused}");
}

/// An initialization is of the model's data type, and finite, and the same in whatever order a file has it.
#[test]
fn initializations_that_cannot_be_trained_from_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = Device::flex().autodiff();
    let model = || MlpConfig::new(vec![1, 2, 1]).init(&device).unwrap();
    let names = [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
    ];
    let sides = [vec![1, 2], vec![2], vec![2, 1], vec![1]];
    let write = |name: &str, kind: Dtype, value: &[u8], settings: &[&str]| {
        let bytes = sides
            .each_ref()
            .map(|sides| value.repeat(sides.iter().product()));
        let views = names.iter().zip(&sides).zip(&bytes);
        let views = views.map(|((name, sides), bytes)| {
            (*name, TensorView::new(kind, sides.clone(), bytes).unwrap())
        });
        let pair = |key: &&str| (key.to_string(), "1".to_string());
        let settings = Some(settings.iter().map(pair).collect());
        let path = folder.path().join(name);
        std::fs::write(&path, serialize(views, settings).unwrap()).unwrap();
        leap_lab::Initialization::read(path).unwrap()
    };
    let one = 1f32.to_le_bytes();
    let sound = write("sound", Dtype::F32, &one, &["leap"]);
    let loaded = sound.load(model()).expect("a model");
    assert_eq!(
        loaded.layers[0].weight.val().sum().into_scalar::<f32>(),
        2.0
    );
    let same = write("same", Dtype::F32, &one, &["other", "leap", "more"]);
    assert_eq!(same.digest(), sound.digest());
    // FNV-1a of names, types, shapes, bytes and settings, for folders that a later release resumes.
    assert_eq!(sound.digest(), "825f7e6b04e3dc02");
    let nan = write("nan", Dtype::F32, &f32::NAN.to_le_bytes(), &[]);
    assert_ne!(nan.digest(), sound.digest());
    let half = write("half", Dtype::F16, &[0, 60], &[]);
    let double = write("double", Dtype::F64, &1f64.to_le_bytes(), &[]);
    for (init, said) in [(nan, "not finite"), (half, "F16"), (double, "F64")] {
        let error = init.load(model()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn settings_that_are_close_have_rows_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let sweep = |meta_steps, resume| {
        let options = RunOptions {
            resume,
            ..RunOptions::default()
        };
        Sweep::new("Waves", &out)
            .with_setting("decay", [1e-7, 5e-7, -2.0])
            .with_seeds([1])
            .with_meta_steps(meta_steps)
            .with_options(options)
            .run(&Waves)
            .expect("it runs")
    };
    let results = sweep(1, false);
    let decays: Vec<_> = results.iter().map(|r| r.run.setting("decay")).collect();
    assert_eq!(decays, [Some(-2.0), Some(1e-7), Some(5e-7), None]);
    let csv = std::fs::read_to_string(out.join("results.csv")).expect("results");
    assert_eq!(csv.lines().count(), 1 + 4);
    // Longer runs are not mixed with shorter ones.
    let longer = sweep(2, true);
    assert!(
        longer
            .iter()
            .all(|r| r.summary.meta_steps == 2 || !r.run.is_trained())
    );
    assert_eq!(longer.len(), 4);
    for result in &longer {
        assert_eq!(result.held_out.tasks.len(), 3);
        assert!(result.held_out.tasks.iter().all(|t| t.to_scratch.is_some()));
    }
}

/// What a file of JSON has.
fn json_of(path: std::path::PathBuf) -> Value {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn each_method_takes_the_value_that_is_best_on_validation_tasks() {
    let folder = tempfile::tempdir().expect("a folder");
    let values = [1e-3, 0.05, 1e38];
    let folder_path = |below: &str| folder.path().join(below);
    let sweep = |out: &str| {
        Sweep::new("Waves", folder.path().join(out))
            .with_methods(["leap", "reptile"])
            .with_seeds([3, 4])
            .with_meta_steps(6)
    };
    let results = sweep("searched").with_search(META_LR, values, 4);
    let results = results.run(&Waves).expect("it runs");

    // What the search should have found, by hand.
    let lanes = Lanes::threads(&Device::flex().autodiff(), 1).expect("lanes");
    let tasks = Waves.validation(&Run::default()).unwrap().unwrap();
    for method in ["leap", "reptile"] {
        let auc = |value: f64| {
            let folder = format!("searched/search/{method}-{value}-meta-lr-seed-3");
            let path = folder_path(&folder);
            let init = path.join("init.safetensors");
            let run = Run {
                method: method.into(),
                seed: 3,
                ..Run::default()
            };
            let model = Waves.model(&run, &Device::flex().autodiff()).unwrap();
            let init = leap_lab::Initialization::read(init).expect("an initialization");
            let model = init.load(model).expect("its model");
            let trainer = Waves.trainer(&run).unwrap().with_seed(3);
            let auc = trainer.evaluate(&model, &tasks, &lanes).unwrap();
            let auc = auc.summary().auc;
            assert_eq!(json_of(path.join("summary.json"))["auc"], json!(auc));
            auc
        };
        let best = match auc(values[0]) < auc(values[1]) {
            true => values[0],
            false => values[1],
        };
        let of = |r: &&RunResult| r.run.method == method;
        let runs: Vec<&RunResult> = results.iter().filter(of).collect();
        let seeds: Vec<u64> = runs.iter().map(|r| r.run.seed).collect();
        assert_eq!(seeds, [3, 4]);
        for result in runs {
            assert_eq!(result.run.setting(META_LR), Some(best), "{method}");
        }

        // It is what the run is trained with.
        let row = json_of(folder_path(&format!(
            "searched/{method}-seed-4/config.json"
        )));
        assert_eq!(row["run"]["searched"], json!({ "meta-lr": best }));
        let alone = sweep(method).with_methods([method]).with_seeds([4]);
        let alone = alone.with_setting(META_LR, [best]).run(&Waves).unwrap();
        let same = |r: &&RunResult| r.run.method == method && r.run.seed == 4;
        let searched = results.iter().find(same).unwrap();
        let auc = |r: &RunResult| r.summary.held_out_tasks.auc;
        assert_eq!(auc(searched), auc(alone.iter().find(same).unwrap()));
    }
    // Learning from scratch has nothing to search for.
    let scratch = results.iter().find(|r| r.run.method == "none").unwrap();
    assert_eq!(scratch.run.setting(META_LR), None);

    // Found again, and nothing is done twice; another search is refused.
    let again = |values: &[f64]| {
        let options = RunOptions {
            resume: true,
            ..RunOptions::default()
        };
        let sweep = sweep("searched").with_options(options);
        sweep.with_search(META_LR, values.to_vec(), 4).run(&Waves)
    };
    let summaries = |results: &[RunResult]| {
        let all = results.iter().map(|r| r.summary.clone());
        all.collect::<Vec<_>>()
    };
    // Seconds are those of the first time.
    let found = again(&values).expect("it goes on");
    assert_eq!(summaries(&found), summaries(&results));
    let refused = again(&values[..2]).unwrap_err().to_string();
    assert!(refused.contains("search.values"), "{refused}");
}

#[test]
fn searches_that_cannot_work_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let sweep = || Sweep::new("Waves", &out).with_meta_steps(2);
    let refused = |sweep: Sweep, why: &str| {
        let error = sweep.run(&Waves).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
        assert!(!out.exists());
    };
    refused(sweep().with_search(META_LR, [], 2), "at least one value");
    refused(
        sweep().with_search(META_LR, [f64::NAN], 2),
        "must be finite",
    );
    refused(
        sweep().with_search(META_LR, [0.1], 0),
        "at least one meta-step",
    );
    refused(
        sweep().with_search("auc", [0.1], 2),
        "a setting cannot be called",
    );
    let twice = sweep().with_setting(META_LR, [0.1]);
    refused(twice.with_search(META_LR, [0.1], 2), "there twice");

    // Where nothing is trained, there is nothing to search for.
    let none = sweep()
        .with_methods(["none"])
        .with_search(META_LR, [0.1], 2);
    none.run(&Waves).expect("it runs");
    assert!(!out.join("search").exists());
}

#[test]
fn a_search_goes_with_each_setting() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let results = Sweep::new("Waves", &out)
        .with_meta_steps(2)
        .with_setting("width", [1.0, 2.0])
        .with_search(META_LR, [0.01, 0.02], 1)
        .run(&Waves)
        .expect("it runs");
    let trained = results.iter().filter(|r| r.run.is_trained());
    let found = Vec::from_iter(trained.map(|r| (r.run.setting("width"), r.run.setting(META_LR))));
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|(_, lr)| lr.is_some()), "{found:?}");
    for width in [1, 2] {
        for lr in ["0.01", "0.02"] {
            let run = format!("search/leap-{lr}-meta-lr-{width}-width-seed-0/summary.json");
            assert!(out.join(&run).exists(), "{run}");
        }
    }
}

#[test]
fn validation_tasks_are_learned_on_the_way_and_nothing_else_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let sweep = |every, meta_steps, out: &str| {
        let options = RunOptions {
            resume: true,
            ..RunOptions::default()
        };
        Sweep::new("Waves", folder.path().join(out))
            .with_meta_steps(meta_steps)
            .with_options(options)
            .with_validation_every(every)
            .run(&Waves)
            .expect("it runs")
    };
    let at = |results: &[RunResult]| {
        let lines = results[0].meta_steps.iter();
        let lines = lines.filter_map(|m| Some((m.meta_step, m.validation.as_ref()?.auc)));
        lines.collect::<Vec<_>>()
    };
    let whole = sweep(2, 5, "whole");
    let steps: Vec<usize> = at(&whole).iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [2, 4, 5]);
    sweep(2, 4, "parts");
    let parts = sweep(2, 5, "parts");
    assert_eq!(at(&parts), at(&whole));
    let without = sweep(0, 5, "without");
    assert_eq!(at(&without), []);
    let auc = |results: &[RunResult]| results[0].summary.held_out_tasks.auc;
    assert_eq!(auc(&without), auc(&whole));

    // The last one is of the run's initialization.
    let lanes = Lanes::threads(&Device::flex().autodiff(), 1).expect("lanes");
    let model = Waves.model(&whole[0].run, &Device::flex().autodiff());
    let init = folder.path().join("whole/leap-seed-0/init.safetensors");
    let init = leap_lab::Initialization::read(init).expect("an initialization");
    let model = init.load(model.unwrap()).expect("its model");
    let trainer = Waves.trainer(&whole[0].run).unwrap();
    let tasks = Waves.validation(&whole[0].run).unwrap().unwrap();
    let report = trainer.evaluate(&model, &tasks, &lanes).unwrap();
    assert_eq!(at(&whole)[2].1, report.summary().auc);
    let page = std::fs::read_to_string(folder.path().join("whole/report.html")).unwrap();
    assert!(page.contains("Validation tasks: AUC"));
}
