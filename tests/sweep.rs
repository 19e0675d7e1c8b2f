//! Sweeps as a library: what cannot work is refused before anything is written, no result shares its place with another,
//! and TensorBoard reads what it is told.

use std::path::Path;
use std::process::Command;

use burn::optim::SgdConfig;
use burn::tensor::Device;
use leap_core::{MetaTrainer, Method, TaskError};
use leap_lab::{Experiment, Run, RunOptions, Sweep};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::Sinusoids;
use serde_json::{Value, json};

struct Waves;

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

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Method>, TaskError> {
        Ok(MetaTrainer::new(run.method()?)
            .with_meta_batch_size(2)
            .with_task_steps(10)
            .with_task_optimizer(SgdConfig::new().init(), 0.01)
            .with_meta_optimizer(SgdConfig::new().init(), 0.01))
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
