//! The Omniglot example as its users meet it: a sweep that is interrupted and goes on, wrong flags, the report in a
//! browser.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// A sweep that takes seconds.
const SMALL: &str = "--methods leap,reptile,fomaml,finetuning,maml,none --alphabets 2,3 --seeds 1,2 \
    --filters 4 --meta-batch 2 --task-steps 4 --batch 4 --test-alphabets 2 --checkpoint-every 2";

fn example() -> Command {
    example_called("omniglot")
}

fn example_called(name: &str) -> Command {
    let tests = std::env::current_exe().expect("this program has a path");
    let built = tests.parent().and_then(Path::parent);
    let path = built.expect("it lies in deps/").join("examples").join(name);
    assert!(path.exists(), "{} is not built", path.display());
    Command::new(path)
}

fn sweep(out: &Path, more: &str) -> Command {
    start(out, &format!("{SMALL} {more}"))
}

fn start(out: &Path, flags: &str) -> Command {
    let mut command = example();
    command
        .args(flags.split_whitespace())
        .arg("--out")
        .arg(out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(mut command: Command) -> Output {
    command.output().expect("the example starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(command: Command) {
    let output = run(command);
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

/// What a sweep measured, without times: the results, and a digest of every initialization.
fn results(out: &Path) -> BTreeMap<String, serde_json::Value> {
    let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let rows: Vec<serde_json::Value> =
        serde_json::from_slice(&read(out.join("results.json"))).expect("a list");
    let mut results = BTreeMap::new();
    for mut row in rows {
        let fields = row.as_object_mut().expect("a row");
        fields.retain(|name, _| !name.ends_with("seconds"));
        let name = match &row["alphabets"] {
            alphabets if alphabets == 0 => format!("{}-seed-{}", row["method"], row["seed"]),
            alphabets => format!(
                "{}-{alphabets}-alphabets-seed-{}",
                row["method"], row["seed"]
            ),
        };
        let name = name.replace('"', "");
        let init = read(out.join(&name).join("init.safetensors"));
        // The header lists what it holds in any order.
        let (length, rest) = init.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
        let header: serde_json::Value = serde_json::from_slice(&rest[..length]).expect("JSON");
        let mut hasher = DefaultHasher::new();
        (header.to_string(), &rest[length..]).hash(&mut hasher);
        row["init"] = hasher.finish().into();
        results.insert(name, row);
    }
    results
}

/// Waits until any run has taken `meta_steps`, or the program ends.
fn wait_for_meta_step(out: &Path, meta_steps: usize, child: &mut Child) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(120) {
        let folders = std::fs::read_dir(out).into_iter().flatten().flatten();
        let mut metrics = folders.map(|folder| folder.path().join("metrics.jsonl"));
        let is_there = |path: PathBuf| {
            std::fs::read_to_string(path).is_ok_and(|text| text.lines().count() >= meta_steps)
        };
        if metrics.any(is_there) || child.try_wait().expect("a child").is_some() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no meta-step in two minutes");
}

#[test]
fn an_interrupted_sweep_comes_to_the_same_numbers_and_skips_what_is_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let (straight, broken) = (folder.path().join("straight"), folder.path().join("broken"));
    let more = "--meta-steps 12 --jobs 2";
    succeed(sweep(&straight, more));

    let mut child = sweep(&broken, more).spawn().expect("the example starts");
    wait_for_meta_step(&broken, 3, &mut child);
    let id = child.id().to_string();
    let interrupt = Command::new("kill").args(["-INT", &id]).status();
    assert!(interrupt.expect("kill is there").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("--resume goes on"));

    let mut child = sweep(&broken, &format!("{more} --resume"))
        .spawn()
        .expect("the example starts");
    wait_for_meta_step(&broken, 7, &mut child);
    let _ = child.kill(); // It may have ended.
    child.wait().expect("it ends");

    succeed(sweep(&broken, &format!("{more} --resume --lanes 2")));
    let (straight, again) = (results(&straight), results(&broken));
    assert_eq!(straight.len(), 2 * (5 * 2 + 1));
    assert_eq!(straight.len(), again.len());
    for (name, result) in straight {
        assert_eq!(result, again[&name], "{name}");
    }

    let summaries = |out: &Path| -> Vec<SystemTime> {
        let folders = std::fs::read_dir(out).expect("a folder").flatten();
        let mut times: Vec<_> = folders
            .filter_map(|folder| folder.path().join("summary.json").metadata().ok())
            .map(|file| file.modified().expect("a time"))
            .collect();
        times.sort();
        times
    };
    let before = summaries(&broken);
    succeed(sweep(&broken, &format!("{more} --resume")));
    assert_eq!(before, summaries(&broken), "what is done was done again");
}

#[test]
fn what_cannot_work_is_said_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let quick = "--methods leap --alphabets 2 --seeds 1 --meta-steps 2";
    succeed(sweep(&out, quick));
    let nowhere = folder.path().join("nowhere.zip");
    let cases = [
        (quick.to_string(), "--resume"),
        (
            format!("{quick} --resume --task-lr 0.2"),
            "task_lr: 0.1 then, 0.2 now",
        ),
        (
            format!("{quick} --resume --meta-steps 1"),
            "has taken 2 meta-steps already",
        ),
        (
            "--overwrite --test-alphabets 0".to_string(),
            "--test-alphabets",
        ),
        ("--overwrite --meta-batch 0".to_string(), "--meta-batch"),
        ("--overwrite --jobs 0".to_string(), "--jobs"),
        (
            "--overwrite --batch 1000000000000000000".to_string(),
            "--batch",
        ),
        ("--overwrite --task-lr nan".to_string(), "--task-lr"),
        ("--overwrite --methods lepa".to_string(), "fomaml-query"),
        ("--overwrite --alphabets 60".to_string(), "alphabets"),
        ("--overwrite --device cuda:0".to_string(), "--features cuda"),
        ("--overwrite --layers 9".to_string(), "28"),
        (
            format!("--overwrite --data {}", nowhere.display()),
            "nowhere.zip",
        ),
        (
            format!("--overwrite --from {}", nowhere.display()),
            "nowhere.zip",
        ),
        ("--overwrite --meta-lr 0.1,nan".to_string(), "--meta-lr"),
        (
            "--overwrite --meta-lr 0.1,0.2 --test-alphabets 43".to_string(),
            "there are no validation tasks",
        ),
        (
            "--overwrite --learned-rates tensor --methods leap,reptile".to_string(),
            "--learned-rates: Leap learns them, reptile does not",
        ),
        (
            "--overwrite --task-steps 1".to_string(),
            "at least two steps",
        ),
        (
            "--overwrite --methods maml --task-optimizer adam".to_string(),
            "plain SGD",
        ),
        ("--overwrite --task-lr -1".to_string(), "--task-lr"),
        ("--overwrite --filters 5000".to_string(), "--filters"),
    ];
    for (flags, said) in cases {
        let output = run(sweep(&out, &flags));
        let errors = text(&output.stderr);
        assert!(!output.status.success(), "{flags} was accepted");
        assert!(errors.contains(said), "{flags}: {errors}");
        assert!(!errors.contains("panicked"), "{flags}: {errors}");
    }
    let endless =
        "--overwrite --learned-rates step --methods leap --task-steps 10000000000000000000";
    let errors = text(&run(start(&out, endless)).stderr);
    assert!(errors.contains("are the most"), "{errors}");
    assert!(
        out.join("results.csv").exists(),
        "a wrong flag cost the results"
    );
}

#[test]
fn results_are_told_whatever_becomes_of_the_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    succeed(start(&out, ONE_RUN));
    // What is in the way of a picture.
    std::fs::remove_file(out.join("curves-1.svg")).expect("a picture");
    std::fs::create_dir(out.join("curves-1.svg")).expect("a folder");
    let output = run(start(&out, &format!("{ONE_RUN} --resume")));
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(
        !output.status.success() && errors.contains("curves-1.svg"),
        "{errors}"
    );
    assert!(said.contains("held out") && said.contains("AUC"), "{said}");
    // A picture that was damaged is left out of what TensorBoard is told.
    std::fs::remove_dir(out.join("curves-1.svg")).expect("a folder");
    let runs = std::fs::read_dir(&out).expect("a folder");
    let paths = runs.map(|run| run.expect("an entry").path().join("paths.svg"));
    let paths = Vec::from_iter(paths.filter(|path| path.exists()));
    assert!(!paths.is_empty());
    for path in paths {
        let svg = std::fs::read(&path).expect("a picture");
        std::fs::write(&path, &svg[..svg.len() / 2]).expect("a file");
    }
    let output = run(start(&out, &format!("{ONE_RUN} --resume --tensorboard")));
    let errors = text(&output.stderr);
    assert!(
        output.status.success() && errors.contains("paths of"),
        "{errors}"
    );
}

#[test]
fn later_methods_search_their_rates_and_go_on_from_an_initialization() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = "--alphabets 2 --seeds 1 --meta-steps 2 --filters 4 --meta-batch 3 --task-steps 4 --batch 4 \
        --test-alphabets 2";
    let methods =
        "sequential-reptile,reptile-shifting,leap-shifting,warp-leap,anil,boil,finetuning";
    let first = folder.path().join("first");
    let flags = format!("{small} --methods {methods} --meta-lr 0.05,0.1 --validate-every 1");
    succeed(start(&first, &flags));
    for method in methods.split(',') {
        let run = first.join(format!("{method}-2-alphabets-seed-1"));
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
        assert_eq!(metrics.matches("\"validation\"").count(), 2, "{method}");
        let config = std::fs::read_to_string(run.join("config.json")).expect("settings");
        assert!(config.contains("\"meta-lr\": 0."), "{method}: {config}");
    }

    // From where it came to, and not from random parameters.
    let init = first.join("leap-shifting-2-alphabets-seed-1/init.safetensors");
    let from = format!(
        "{small} --methods leap,finetuning --meta-lr 1e-30 --from {}",
        init.display()
    );
    let second = folder.path().join("second");
    succeed(start(&second, &from));
    let values = |path: &Path| {
        let device = burn::tensor::Device::flex();
        let model = leap_models::ConvNetConfig::new()
            .with_filters(4)
            .init(&device);
        let init = leap_lab::Initialization::read(path).expect("an initialization");
        let model = init.load(model.expect("sound settings"));
        let kernel = model.expect("its model").encoder.blocks[1]
            .conv
            .weight
            .val();
        kernel.into_data().try_to_vec::<f32>().expect("floats")
    };
    let leap = second.join("leap-2-alphabets-seed-1/init.safetensors");
    assert_eq!(values(&leap), values(&init));
    let none = second.join("none-seed-1/init.safetensors");
    assert_ne!(values(&none), values(&init));
    // With learning rates that are learned, too, from the same initialization.
    let rated = folder.path().join("rated");
    let flags = format!(
        "{small} --methods leap-energy --learned-rates step --own-head --from {}",
        init.display()
    );
    succeed(start(&rated, &flags));
    let path = rated.join("leap-energy-2-alphabets-seed-1/init.safetensors");
    let learned = leap_lab::Initialization::read(path).expect("an initialization");
    let tensors = 4 * 4 + 2;
    assert_eq!(learned.shape("log_rates"), Some(&[4 * tensors][..]));
    let device = burn::tensor::Device::flex().autodiff();
    let net = leap_models::ConvNetConfig::new()
        .with_filters(4)
        .init(&device);
    let net = net.expect("sound settings");
    let model = leap_core::Rated::new(net, leap_core::RateOf::TensorAndStep, 4);
    let model = learned.load(model.expect("a model"));
    let rates = model
        .expect("its model")
        .log_rates
        .val()
        .inner()
        .into_data();
    let rates = rates.try_to_vec::<f32>().expect("floats");
    let moved = rates.iter().filter(|rate| **rate != 0.0).count();
    // No force is felt by the step that leads to the last point.
    assert!(moved > 0 && moved <= 3 * tensors, "{rates:?}");
    // One of another model.
    let other = run(start(
        &folder.path().join("third"),
        &format!("{from} --layers 3"),
    ));
    let errors = text(&other.stderr);
    assert!(
        !other.status.success() && errors.contains("init.safetensors"),
        "{errors}"
    );
}

/// One run, of a second or two.
const ONE_RUN: &str = "--methods leap --alphabets 2 --seeds 1 --meta-steps 20 --checkpoint-every 3 --jobs 1 --filters 4 \
    --meta-batch 2 --task-steps 4 --batch 4 --test-alphabets 2";

#[test]
fn an_initialization_is_read_before_anything_is_removed_and_is_one_of_the_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let small = "--alphabets 1 --seeds 1 --filters 4 --meta-batch 1 --task-steps 3 --batch 4 --test-alphabets 1";
    let flags = |more: &str| format!("{small} --methods leap --meta-steps 2 {more}");
    succeed(start(&out, &flags("")));
    let place = out.join("leap-1-alphabets-seed-1/init.safetensors");
    let kept = folder.path().join("kept.safetensors");
    std::fs::copy(&place, &kept).expect("a copy");
    let from = |init: &Path| format!("--from {}", init.display());
    let results = || std::fs::read_to_string(out.join("results.csv")).expect("results");
    let before = results();

    let refused = |out: &Path, flags: &str, said: &str| {
        let output = run(start(out, flags));
        let errors = text(&output.stderr);
        assert!(!output.status.success(), "{flags} was accepted");
        assert!(errors.contains(said), "{flags}: {errors}");
        assert_eq!(results(), before, "{flags}");
    };
    // Of a file that has more than the model, too.
    for other in ["--filters 8", "--no-batch-norm", "--layers 3"] {
        let flags = flags(&format!("{other} --overwrite {}", from(&place)));
        refused(&out, &flags, "is of another model");
    }
    let fewer = format!("{small} --methods leap --meta-steps 1 --resume");
    refused(&out, &fewer, "has taken 2 meta-steps already");
    let below = out.join("leap-1-alphabets-seed-1");
    refused(&below, &flags("--overwrite"), "is the folder of a run");

    // The file is in the folder that is cleared.
    let begun = format!("--overwrite {}", from(&place));
    succeed(start(&out, &flags(&begun)));
    assert!(place.exists());
    succeed(start(&out, &flags(&format!("--resume {}", from(&kept)))));
    let before = results();
    let other = run(start(&out, &flags(&format!("--resume {}", from(&place)))));
    assert!(text(&other.stderr).contains("from.digest"));
    assert_eq!(results(), before);
}

/// What [`ONE_RUN`] measured, without times, down to its lines of metrics.
fn measured(out: &Path) -> (BTreeMap<String, serde_json::Value>, Vec<serde_json::Value>) {
    let text = std::fs::read_to_string(out.join("leap-2-alphabets-seed-1/metrics.jsonl"));
    let without_seconds = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line.as_object_mut().expect("an object").remove("seconds");
        line
    };
    let text = text.expect("metrics");
    let lines = Vec::from_iter(text.lines().map(without_seconds));
    assert_eq!(lines.len(), 20);
    (results(out), lines)
}

/// Numbers in [0, 1), the same each time.
fn moments() -> impl FnMut() -> f64 {
    let mut state = 1_u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as f64 / 2_f64.powi(31)
    }
}

fn resume_if_begun(out: &Path) -> &'static str {
    match out.join("config.json").exists() {
        true => "--resume",
        false => "",
    }
}

/// A sweep is killed outright at random moments, 20 or as many as `LEAP_KILLS` says, and resumed each time.
#[test]
fn killed_at_any_moment_it_comes_to_the_same_numbers() {
    let kills: usize = std::env::var("LEAP_KILLS").map_or(20, |n| n.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let straight = folder.path().join("straight");
    let begin = Instant::now();
    succeed(start(&straight, ONE_RUN));
    let usual = begin.elapsed();
    let expected = measured(&straight);

    let mut random = moments();
    let (mut killed, mut folders) = (0, 0);
    while killed < kills {
        folders += 1;
        let out = folder.path().join(format!("broken-{folders}"));
        loop {
            let mut child = start(&out, &format!("{ONE_RUN} {}", resume_if_begun(&out)))
                .spawn()
                .expect("it starts");
            if killed == kills {
                let output = child.wait_with_output().expect("it ends");
                assert!(output.status.success(), "{}", text(&output.stderr));
                break;
            }
            std::thread::sleep(usual.mul_f64(0.8 * random()));
            let ended = child.try_wait().expect("a child");
            let _ = child.kill();
            let output = child.wait_with_output().expect("it ends");
            match ended {
                Some(status) if status.success() => break,
                Some(_) => panic!("{}", text(&output.stderr)),
                None => killed += 1,
            }
        }
        assert_eq!(measured(&out), expected, "after {killed} kills");
    }
}

/// A sweep on a disk that is full after so many bytes, and then has room again.
#[test]
fn a_full_disk_loses_nothing_that_was_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let straight = folder.path().join("straight");
    succeed(start(&straight, ONE_RUN));
    let expected = measured(&straight);

    // In a name space of its own, where anybody may mount a disk in memory.
    const SCRIPT: &str = r#"
        mount -t tmpfs -o size=${SIZE}k none "$DISK" || exit 77
        "$@"; echo "full: $?" >&2
        mount -o remount,size=64m "$DISK"
        if [ -e "$DISK/out/config.json" ]; then set -- "$@" --resume; fi
        "$@"; echo "again: $?" >&2
        cp -r "$DISK/out" "$KEPT""#;
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let mut full = 0;
    for size in [8, 40, 72, 136, 200, 264] {
        let kept = folder.path().join(format!("kept-{size}"));
        let example = example();
        let output = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                SCRIPT,
                "sh",
            ])
            .arg(example.get_program())
            .args(ONE_RUN.split_whitespace())
            .arg("--out")
            .arg(disk.join("out"))
            .env("SIZE", size.to_string())
            .env("DISK", &disk)
            .env("KEPT", &kept)
            .output();
        let Some(output) = output
            .ok()
            .filter(|o| !matches!(o.status.code(), Some(77 | 1)))
        else {
            eprintln!("\n*** NOT TESTED on a full disk: name spaces cannot be made here ***\n");
            return;
        };
        let errors = text(&output.stderr);
        assert!(errors.contains("again: 0"), "{size} kB: {errors}");
        if !errors.contains("full: 0") {
            full += 1;
            assert!(errors.contains("full: 1"), "{size} kB: {errors}");
            assert!(errors.contains("No space left"), "{size} kB: {errors}");
        }
        assert_eq!(measured(&kept), expected, "{size} kB");
    }
    assert!(full > 2, "only {full} disks were full");
}

/// A sweep whose folder becomes read-only at some moment, and can be written to again.
#[test]
fn a_folder_that_becomes_read_only_loses_nothing_that_was_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let straight = folder.path().join("straight");
    let begin = Instant::now();
    succeed(start(&straight, ONE_RUN));
    let usual = begin.elapsed();
    let expected = measured(&straight);

    let id = Command::new("id").arg("-u").output().expect("id is there");
    let is_root = text(&id.stdout).trim() == "0";
    let mut random = moments();
    let mut refused = 0;
    for i in 0..5 {
        let out = folder.path().join(format!("broken-{i}"));
        let flags = format!("{ONE_RUN} --out {}", out.display());
        let example = example();
        let mut command = match is_root {
            // Who may write anywhere, without that right.
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--bounding-set=-dac_override,-dac_read_search", "--"]);
                command.arg(example.get_program());
                command
            }
            false => example,
        };
        let child = command
            .args(flags.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        std::thread::sleep(usual.mul_f64(0.8 * random()));
        let chmod = |mode: &str| {
            let out = out.exists().then_some(&out);
            out.map(|out| Command::new("chmod").args(["-R", mode]).arg(out).output());
        };
        chmod("a-w");
        let output = child.wait_with_output().expect("it ends");
        chmod("u+w");
        if !output.status.success() {
            refused += 1;
            let errors = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{errors}");
            assert!(errors.contains("Permission denied"), "{errors}");
        }
        succeed(start(&out, &format!("{ONE_RUN} {}", resume_if_begun(&out))));
        assert_eq!(measured(&out), expected, "folder {i}");
    }
    assert!(refused > 1, "only {refused} runs could not write");
}

#[test]
fn results_do_not_depend_on_who_reads_the_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let (straight, unread) = (folder.path().join("straight"), folder.path().join("unread"));
    succeed(start(&straight, ONE_RUN));
    let mut child = start(&unread, ONE_RUN).spawn().expect("it starts");
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().expect("it ends").success());
    assert_eq!(measured(&unread), measured(&straight));

    // Programs whose output is all that they have.
    for (name, flags) in [("sinusoid", vec![]), ("devices", vec!["--seconds=0.1"])] {
        let mut command = example_called(name);
        command
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(text(&output.stderr), "", "{name}");
        assert!(output.status.success(), "{name}");
    }
}

#[test]
fn a_terminal_that_cannot_move_its_cursor_gets_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let example = example();
    let program = example.get_program().to_string_lossy();
    let program = format!(
        "{program} {ONE_RUN} --out {}",
        folder.path().join("run").display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &program, "/dev/null"])
        .env("TERM", "dumb")
        .output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        eprintln!("\n*** NOT TESTED on a terminal: there is no `script` of util-linux ***\n");
        return;
    };
    let shown = text(&output.stdout);
    assert!(shown.contains("training steps a second, "), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
}

/// Chromium, where there is one. Where there is none it is said loudly, and fails if `LEAP_REQUIRE` names it.
fn chromium() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        let required = std::env::var("LEAP_REQUIRE").unwrap_or_default();
        let message = "NOT TESTED in a browser: there is no Chromium";
        assert!(
            !required.split(',').any(|name| name == "chromium"),
            "{message}"
        );
        eprintln!("\n*** {message} ***\n");
    }
    found
}

/// Run in the report's page: what would be wrong with it on this screen.
const LOOK: &str = r#"<script>
addEventListener('load', () => {
  const wrong = [];
  const page = document.documentElement;
  if (page.scrollWidth > innerWidth) wrong.push(`it is ${page.scrollWidth} wide on a screen of ${innerWidth}`);
  const light = colour => {
    const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
    return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  if (dark !== (paper < 0.5)) wrong.push(`the paper has lightness ${paper}`);
  for (const text of document.querySelectorAll('h1, h2, p, td, th, svg text')) {
    const style = getComputedStyle(text);
    const ink = light(text instanceof SVGElement ? style.fill : style.color);
    if (Math.abs(ink - paper) < 0.4) wrong.push(`"${text.textContent}" cannot be read`);
  }
  for (const figure of document.querySelectorAll('figure')) {
    const box = figure.getBoundingClientRect();
    if (box.width < 250 || box.height < 100) wrong.push(`a figure of ${box.width} x ${box.height}`);
    if (!figure.getAttribute('aria-label')) wrong.push('a figure without a description');
  }
  const fetched = performance.getEntriesByType('resource').map(r => r.name);
  if (fetched.length) wrong.push(`it fetches ${fetched}`);
  const seen = `${document.querySelectorAll('figure').length} figures, ${document.querySelectorAll('tbody tr').length} rows`;
  parent.postMessage([dark ? 'dark' : 'light', innerWidth, seen, ...wrong].join('; '), '*');
});
</script>"#;

#[test]
fn the_report_reads_well_on_a_phone_and_in_the_dark() {
    let Some(chromium) = chromium() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    succeed(sweep(&out, "--meta-steps 3 --ablation --jobs 2"));

    let report = std::fs::read_to_string(out.join("report.html")).expect("a report");
    let copy = report.replace("</head>", &format!("{LOOK}</head>"));
    std::fs::write(folder.path().join("copy.html"), copy).expect("written");
    for width in [360, 1200] {
        // A window has a smallest width; a frame has none.
        let page = format!(
            "<!doctype html><meta name='color-scheme' content='light dark'><body><iframe src='copy.html' width='{width}' \
             height='800' style='border: 0'></iframe><script>addEventListener('message', \
             event => document.body.append('SEEN ' + event.data + ' END'))</script>"
        );
        let path = folder.path().join("page.html");
        std::fs::write(&path, page).expect("written");
        for dark in [false, true] {
            let profile = tempfile::tempdir().expect("a folder");
            let mut command = Command::new(chromium);
            command
                .args(
                    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
                        .split(' '),
                )
                .args(
                    "--disable-background-networking --disable-component-update --disable-sync"
                        .split(' '),
                )
                .arg(format!(
                    "--blink-settings=preferredColorScheme={}",
                    1 - dark as u8
                ))
                .args([
                    "--window-size=1300,900",
                    "--virtual-time-budget=10000",
                    "--dump-dom",
                ])
                .arg(format!("--user-data-dir={}", profile.path().display()))
                .arg(format!("file://{}", path.display()));
            let page = text(&run(command).stdout);
            // The first is the script that writes it.
            let seen = page.split("SEEN ").nth(2);
            let seen = seen.and_then(|rest| rest.split(" END").next());
            let scheme = if dark { "dark" } else { "light" };
            // Two tables of six methods at two numbers of alphabets and seven more variants of Leap; curves, results against
            // alphabets, meta-training, and a picture of paths for each run of the first seed that has one.
            let figures = report.matches("<figure").count();
            let rows = 2 * (2 * (5 + 7) + 1);
            let expected = format!("{scheme}; {width}; {figures} figures, {rows} rows");
            assert_eq!(seen, Some(expected.as_str()), "{page}");
            assert!(figures >= 9, "{figures} figures");
        }
    }
}
