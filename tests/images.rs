//! The examples of images as their users meet them: a folder of one's own, an initialization adapted to another, whole data
//! sets held out, an interruption, wrong flags.

#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use safetensors::SafeTensors;
use serde_json::Value;

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../crates/leap-tasks/data/fashion-mnist-sample"
);

fn run(name: &str, out: &Path, flags: &str) -> Output {
    let tests = std::env::current_exe().expect("this program has a path");
    let built = tests.parent().and_then(Path::parent);
    let path = built.expect("it lies in deps/").join("examples").join(name);
    assert!(path.exists(), "{} is not built", path.display());
    let mut command = Command::new(path);
    command.args(flags.split_whitespace()).arg("--out").arg(out);
    command.stdin(Stdio::null()).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(name: &str, out: &Path, flags: &str) -> String {
    let output = run(name, out, flags);
    assert!(output.status.success(), "{flags}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The results of a run, by its folder.
fn summary(out: &Path, run: &str) -> Value {
    let bytes = fs::read(out.join(run).join("summary.json")).expect("a summary");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// A folder of two data sets: the sample, and its first classes as another.
fn two_sets(folder: &Path) -> PathBuf {
    let all = folder.join("sets");
    for set in ["clothes", "more"] {
        let to = all.join(set);
        fs::create_dir_all(&to).expect("a folder");
        for entry in fs::read_dir(SAMPLE).expect("the sample") {
            let from = entry.expect("an entry").path();
            fs::copy(&from, to.join(from.file_name().expect("a name"))).expect("a copy");
        }
    }
    all
}

const SMALL: &str = "--meta-steps 3 --meta-batch 2 --filters 4 --lanes 1 --jobs 1";

#[test]
fn an_initialization_is_adapted_to_other_images() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = dir.path().join("first");
    let flags = format!(
        "{SMALL} --data {SAMPLE} --image-size 20 --ways 3 --test-tasks 40 --methods leap,finetuning"
    );
    let said = succeed("images", &first, &flags);
    assert!(said.contains("95 % over tasks"), "{said}");
    for run in ["leap-seed-0", "finetuning-seed-0", "none-seed-0"] {
        let summary = summary(&first, run);
        assert_eq!(summary["tasks"], 40, "{run}");
        assert!(summary["held_out_interval"].as_f64().expect("a number") > 0.0);
    }
    let page = fs::read_to_string(first.join("report.html")).expect("a report");
    assert!(
        page.contains("transductive"),
        "what images are normalized by is said"
    );

    // To all ten classes, of images of another size: those of the model are known from its file.
    let adapted = dir.path().join("adapted");
    let init = first.join("leap-seed-0/init.safetensors");
    let flags = format!(
        "--adapt {} --data {SAMPLE} --task-steps 40 --lanes 1 --jobs 1",
        init.display()
    );
    succeed("images", &adapted, &flags);
    for run in ["adapted-seed-0", "none-seed-0"] {
        let summary = summary(&adapted, run);
        assert_eq!(
            (&summary["tasks"], &summary["task_steps"]),
            (&1.into(), &40.into())
        );
        let accuracy = summary["held_out_accuracy"].as_f64().expect("a number");
        assert!(accuracy > 0.2, "{run}: {accuracy} of ten classes");
        let model = fs::read(adapted.join(run).join("held-out-0.safetensors")).expect("a model");
        assert!(
            text(&model).contains(run.trim_end_matches("-seed-0")),
            "it says what it came from"
        );
    }
    assert_eq!(summary(&adapted, "adapted-seed-0")["meta_steps"], 3);
    let saved = |run: &str| fs::read(adapted.join(run).join("init.safetensors")).expect("a file");
    assert_ne!(saved("adapted-seed-0"), saved("none-seed-0"));

    // What was adapted is the same initialization still, and sees images as before; a trained model is one, too.
    let again = |name: &str| {
        let (out, init) = (
            dir.path().join("again"),
            adapted.join("adapted-seed-0").join(name),
        );
        let flags = format!(
            "--adapt {} --data {SAMPLE} --task-steps 40 --lanes 1 --jobs 1 --overwrite",
            init.display()
        );
        succeed("images", &out, &flags);
        summary(&out, "adapted-seed-0")["auc"]
            .as_f64()
            .expect("a number")
    };
    let before = summary(&adapted, "adapted-seed-0")["auc"].as_f64();
    assert_eq!(Some(again("init.safetensors")), before);
    assert!(Some(again("held-out-0.safetensors")) < before);

    // Nothing is left out without a word.
    let none = dir.path().join("none");
    let flags = format!("{SMALL} --data {SAMPLE} --ways 3 --test-tasks 1 --meta-steps 0");
    succeed("images", &none, &flags);
    let cases = [
        (
            none.join("none-seed-0/init.safetensors"),
            "",
            "of 0 meta-steps",
        ),
        (init.clone(), "--filters 4", "cannot be used with"),
    ];
    for (init, more, said) in cases {
        let flags = format!("--adapt {} --data {SAMPLE} {more}", init.display());
        let output = run("images", &dir.path().join("refused"), &flags);
        assert!(!output.status.success(), "{flags} was accepted");
        assert!(
            text(&output.stderr).contains(said),
            "{}",
            text(&output.stderr)
        );
    }
}

/// Norms of the kernels in a run's initialization.
fn kernel_norms(run: &Path) -> Vec<f64> {
    let bytes = fs::read(run.join("init.safetensors")).expect("an initialization");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut kernels = file.tensors();
    kernels.retain(|(name, _)| name.ends_with("conv.weight"));
    kernels.sort_by(|a, b| a.0.cmp(&b.0));
    let norm = |bytes: &[u8]| {
        let floats = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        floats.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    assert!(kernels.len() >= 4);
    kernels
        .iter()
        .map(|(_, kernel)| norm(kernel.data()))
        .collect()
}

#[test]
fn data_sets_are_held_out_in_turn() {
    let dir = tempfile::tempdir().expect("a folder");
    let (out, sets) = (dir.path().join("out"), two_sets(dir.path()));
    let quick = format!(
        "--data {} --images 60 --meta-steps 2 --meta-batch 2 --filters 4 --test-steps 30 --check-every 5 --patience 2 \
         --lanes 1 --jobs 1",
        sets.display()
    );
    let flags = format!("{quick} --methods leap-energy,finetuning,hat,progressive");
    let said = succeed("multi_cv", &out, &flags);
    assert!(
        said.contains("svhn is not there; it is published at"),
        "{said}"
    );
    assert!(said.contains("paper: test error"), "{said}");
    for set in ["clothes", "more"] {
        for run in ["leap-energy", "finetuning", "hat", "progressive", "none"] {
            let summary = summary(&out.join(set), &format!("{run}-seed-0"));
            let steps = summary["steps"].as_f64().expect("a number");
            assert!(
                (10.0..=30.0).contains(&steps) && steps % 5.0 == 0.0,
                "{steps}"
            );
        }
    }
    // A second time, there is nothing left to do.
    let again = succeed("multi_cv", &out, &format!("{flags} --resume"));
    let table = |said: &str| said[said.find("Errors in %").expect("a table")..].to_string();
    assert_eq!(table(&again), table(&said));

    // More meta-steps are another run for those that go from set to set, which is said before the others are trained on.
    let more = run(
        "multi_cv",
        &out,
        &format!("{flags} --resume --meta-steps 3"),
    );
    assert!(!more.status.success());
    let errors = text(&more.stderr);
    assert!(errors.contains("own.meta_steps: 2 then, 3 now"), "{errors}");
    let leap = summary(&out.join("clothes"), "leap-energy-seed-0");
    assert_eq!(leap["meta_steps"], 2);

    // A set of fewer images than a batch has, in meta-training and held out.
    let few = format!("{quick} --batch 64 --methods leap-energy,hat");
    succeed("multi_cv", &dir.path().join("few"), &few);

    // A folder that cannot be written to costs no more than its own set.
    let taken = dir.path().join("taken");
    fs::create_dir_all(taken.join("more")).expect("a folder");
    fs::write(taken.join("more/notes.txt"), "mine").expect("a file");
    let one = run("multi_cv", &taken, &format!("{quick} --methods reptile"));
    let (said, errors) = (text(&one.stdout), text(&one.stderr));
    assert!(!one.status.success() && errors.contains("more"), "{errors}");
    assert!(said.contains("clothes held out"), "{said}");

    // Norms are restored where nothing but an initialization is handed on.
    let restored = dir.path().join("restored");
    succeed("multi_cv", &restored, &format!("{flags} --restore-norms"));
    let kernels = |out: &Path, run: &str| kernel_norms(&out.join("clothes").join(run));
    let scratch = kernels(&restored, "none-seed-0");
    for run in ["leap-energy-seed-0", "finetuning-seed-0"] {
        let [free, kept] = [&out, &restored].map(|out| kernels(out, run));
        let apart = |norms: &[f64]| {
            let ratios = norms.iter().zip(&scratch).map(|(a, b)| (a / b - 1.0).abs());
            ratios.fold(0.0, f64::max)
        };
        assert!(apart(&free) > 1e-3, "{free:?} {scratch:?}");
        assert!(apart(&kept) < 1e-5, "{kept:?} {scratch:?}");
    }
    for run in ["hat-seed-0", "progressive-seed-0"] {
        assert_eq!(kernels(&out, run), kernels(&restored, run));
    }

    let out = dir.path().join("folders");
    let flags = format!(
        "{SMALL} --data {} --tasks folders --image-size 16 --task-steps 5",
        sets.display()
    );
    succeed("images", &out, &flags);
    assert_eq!(summary(&out, "leap-seed-0")["tasks"], 1);
    let out = dir.path().join("classes");
    let flags =
        format!("{SMALL} --data {SAMPLE} --tasks classes --ways 3 --test-tasks 2 --task-steps 5");
    succeed("images", &out, &flags);
    assert_eq!(summary(&out, "leap-seed-0")["tasks"], 2);
}

#[test]
fn what_cannot_work_is_said_in_a_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let (sets, none) = (two_sets(dir.path()), dir.path().join("none"));
    fs::create_dir(&none).expect("a folder");
    let (sets, none) = (sets.display(), none.display());
    for (name, flags, reason) in [
        (
            "images",
            "--tasks folders".to_string(),
            "--tasks folders needs --data",
        ),
        ("images", format!("--data {none}"), "there are no images"),
        ("images", format!("--data {none}/no"), "none/no: "),
        ("images", format!("--data {SAMPLE} --ways 11"), "11 classes"),
        (
            "images",
            format!("--data {SAMPLE} --ways 3 --test-classes 8"),
            "--ways: tasks of 3 classes, of 10 of which 8 are for held-out tasks",
        ),
        (
            "images",
            format!("--data {sets} --tasks folders --train-shots 3"),
            "--train-shots says nothing of --tasks folders",
        ),
        (
            "images",
            "--tasks classes --shots 3".to_string(),
            "--shots says nothing of --tasks classes",
        ),
        (
            "images",
            "--test-sets x".to_string(),
            "--test-sets says nothing of --tasks episodes",
        ),
        (
            "images",
            format!("--data {sets} --tasks folders --early-stopping 2 --test-steps 9"),
            "--early-stopping looks every 10 steps",
        ),
        (
            "images",
            format!("--data {SAMPLE} --shots 50"),
            "65 images of",
        ),
        (
            "images",
            format!("--data {sets} --tasks folders --test-sets x"),
            "--test-sets: there is no data set x",
        ),
        (
            "images",
            format!("--data {SAMPLE} --adapt {SAMPLE}/LICENSE"),
            "LICENSE is damaged",
        ),
        (
            "images",
            "--ways 0".to_string(),
            "'--ways <WAYS>': it must be above 0",
        ),
        (
            "images",
            "--image-size 100000".to_string(),
            "'--image-size <IMAGE_SIZE>': it must not be above 1024",
        ),
        (
            "images",
            "--methods warp-leap".to_string(),
            "it is in the example omniglot alone",
        ),
        (
            "images",
            "--layers 9".to_string(),
            "nothing is left of an image",
        ),
        ("images", "--image-size 14".to_string(), "--data"),
        ("images", "--task-steps 1".to_string(), "at least two steps"),
        (
            "images",
            "--methods maml --task-optimizer adam".to_string(),
            "plain SGD",
        ),
        (
            "images",
            "--test-tasks 10000000000000000000".to_string(),
            "it must not be above",
        ),
        ("images", "--task-lr -1".to_string(), "--task-lr"),
        (
            "multi_cv",
            format!("--data {sets} --methods warp-leap"),
            "it is in the example omniglot alone",
        ),
        (
            "multi_cv",
            format!("--data {none}"),
            "no folder or archive of images",
        ),
        (
            "multi_cv",
            format!("--data {sets} --held-out x"),
            "--held-out: there is no data set x",
        ),
    ] {
        let out = dir.path().join("out");
        let output = run(name, &out, &flags);
        let errors = text(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(reason),
            "{flags}: {errors}"
        );
        assert!(!errors.contains("panicked"), "{flags}: {errors}");
        assert!(
            !out.join("leap-seed-0").exists(),
            "{flags}: something was trained"
        );
    }
}
