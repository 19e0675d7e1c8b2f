//! The reinforcement-learning examples as their users meet them: a run that is interrupted in the middle of a task and goes
//! on, wrong flags, what is in the folder. With the feature `atari`, on the Arcade Learning Environment, too.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An experiment that takes seconds, with a checkpoint in every task.
const CONTROL: &str = "--family cart-pole --held-out 2 --seeds 1,2 --meta-steps 2 --meta-batch 3 \
    --env-steps 40000 --envs 8 --checkpoint-env-steps 4000 --lanes 2";

fn example(name: &str, out: &Path, flags: &str) -> Command {
    let tests = std::env::current_exe().expect("this program has a path");
    let built = tests.parent().and_then(Path::parent);
    let path = built.expect("it lies in deps/").join("examples").join(name);
    assert!(path.exists(), "{} is not built", path.display());
    let mut command = Command::new(path);
    command
        .args(flags.split_whitespace())
        .arg("--out")
        .arg(out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().expect("the example starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// Whether there is a checkpoint within a task, or a task that is done, below a folder.
fn has_tasks(folder: &Path) -> bool {
    is_below(folder, "unfinished", "tasks-") || is_below(folder, "finished", "tasks-")
}

/// Whether a file lies in a folder of such a name, anywhere below a folder.
fn is_below(folder: &Path, ending: &str, prefix: &str) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| match path.is_dir() {
        true => is_below(&path, ending, prefix),
        false => {
            let parent = folder.file_name().map(|name| name.to_string_lossy());
            parent.is_some_and(|name| name.starts_with(prefix))
                && path.extension().is_some_and(|e| e == ending)
        }
    })
}

/// Interrupts a run again and again, each time after a checkpoint within a task, until it comes to its end.
fn interrupt_until_done(name: &str, out: &Path, flags: &str) -> usize {
    let mut interruptions = 0;
    loop {
        let resume = if interruptions > 0 { "--resume" } else { "" };
        let mut child = example(name, out, &format!("{flags} {resume}"))
            .spawn()
            .expect("the example starts");
        let start = Instant::now();
        let mut was_there = has_tasks(out);
        let ended = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break Some(status);
            }
            let is_there = has_tasks(out);
            // After a while it goes to its end.
            if is_there && (!was_there || start.elapsed() > Duration::from_millis(700)) {
                if interruptions < 4 {
                    break None;
                }
                was_there = true;
            }
            assert!(start.elapsed() < Duration::from_secs(300), "{name} hangs");
            std::thread::sleep(Duration::from_millis(2));
        };
        if ended.is_none() {
            let id = child.id().to_string();
            // The second time it is killed outright.
            let signal = if interruptions == 1 { "-KILL" } else { "-INT" };
            let sent = Command::new("kill").args([signal, &id]).status();
            assert!(sent.expect("kill is there").success());
        }
        let output = child.wait_with_output().expect("it ends");
        match output.status.code() {
            Some(0) => return interruptions,
            Some(130) => assert!(text(&output.stdout).contains("--resume goes on")),
            None => {}
            Some(_) => panic!("{}", text(&output.stderr)),
        }
        interruptions += 1;
    }
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

/// What a run measured, without times.
fn numbers(out: &Path) -> Vec<serde_json::Value> {
    let rows = read(out.join("results.json"));
    let mut rows: Vec<serde_json::Value> = serde_json::from_str(&rows).expect("a list");
    for row in &mut rows {
        let fields = row.as_object_mut().expect("a row");
        fields.retain(|name, _| !name.ends_with("seconds"));
    }
    rows
}

#[test]
fn control_goes_on_in_the_middle_of_tasks() {
    let folder = tempfile::tempdir().expect("a folder");
    let (straight, broken) = (folder.path().join("straight"), folder.path().join("broken"));
    let output = succeed(example("control", &straight, CONTROL));
    assert!(text(&output.stdout).contains("leap-seed-2"));
    let interruptions = interrupt_until_done("control", &broken, CONTROL);
    assert!(interruptions >= 2, "{interruptions} interruptions");
    assert_eq!(numbers(&straight), numbers(&broken));
    assert_eq!(numbers(&straight).len(), 2 * 2);
    for out in [&straight, &broken] {
        assert!(!has_tasks(out));
        let gif = std::fs::read(out.join("leap-seed-1/episode.gif")).expect("a recording");
        assert_eq!(&gif[..6], b"GIF89a");
        let report = read(out.join("report.html"));
        for seen in [
            "Learning held-out tasks: score",
            "The score along the path",
            "reached 195",
            "data:image/gif",
            "Energy of the path",
        ] {
            assert!(report.contains(seen), "{seen}");
        }
        for link in ["http:", "https:", "<link"] {
            let rest = report.replace("http://www.w3.org/2000/svg", "");
            assert!(!rest.contains(link), "{link}");
        }
    }
    let metrics = read(straight.join("leap-seed-1/metrics.jsonl"));
    assert_eq!(metrics.lines().count(), 2);
}

/// Without meta-training there is one initialization to learn from; meta-training may come later.
#[test]
fn control_without_meta_training_learns_from_scratch_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let quick = "--held-out 1 --meta-batch 2 --env-steps 8000 --reward-clip 1 --value-loss 0.25";
    let rows = |flags: &str| {
        succeed(example("control", &out, &format!("{quick} {flags}")));
        numbers(&out)
    };
    let scratch = rows("--meta-steps 0");
    assert_eq!(scratch.len(), 1);
    assert_eq!(scratch[0]["method"], "none");
    let both = rows("--meta-steps 1 --resume");
    assert_eq!(both.len(), 2);
    assert_eq!(both[1], scratch[0]);
    assert_eq!(both[0]["method"], "leap");
    let config: serde_json::Value =
        serde_json::from_str(&read(out.join("config.json"))).expect("JSON");
    assert_eq!(config["settings"]["a2c"]["reward_clip"], 1.0);
    assert_eq!(config["settings"]["a2c"]["value_loss"], 0.25);
}

#[test]
fn what_cannot_work_is_said_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let quick = "--held-out 1 --meta-steps 1 --meta-batch 1 --env-steps 2000";
    succeed(example("control", &out, quick));
    let cases = [
        (quick.to_string(), "--resume"),
        (format!("{quick} --resume --task-lr 0.5"), "task_lr"),
        ("--overwrite --held-out 0".to_string(), "--held-out"),
        ("--overwrite --envs 0".to_string(), "--envs"),
        ("--overwrite --task-lr inf".to_string(), "--task-lr"),
        ("--overwrite --discount=-1".to_string(), "--discount"),
        ("--overwrite --reward-clip 0".to_string(), "above 0"),
        ("--overwrite --family chess".to_string(), "cart-pole"),
        ("--overwrite --method lepa".to_string(), "leap"),
        (
            "--overwrite --methods maml".to_string(),
            "none learn from environments",
        ),
        (
            "--overwrite --envs 1000000000000000000".to_string(),
            "above 1000000",
        ),
        ("--overwrite --device cuda:0".to_string(), "--features cuda"),
    ];
    for (flags, said) in cases {
        let output = example("control", &out, &flags)
            .output()
            .expect("it starts");
        let errors = text(&output.stderr);
        assert!(!output.status.success(), "{flags} was accepted");
        assert!(errors.contains(said), "{flags}: {errors}");
        assert!(!errors.contains("panicked"), "{flags}: {errors}");
    }
    assert!(
        out.join("results.csv").exists(),
        "a wrong flag cost the results"
    );
}

#[cfg(feature = "atari")]
mod atari {
    use super::*;
    use leap_core::run_rng;
    use leap_tasks::rl::atari::{AtariConfig, AtariGames, virtual_environment};
    use leap_tasks::rl::{Ending, EnvFamily, Picture, Render, Transition, VectorEnv};
    use rand::Rng;

    /// The games, where ale-py is. Where it is not, that is said loudly, and fails if `LEAP_REQUIRE` names it.
    fn games(config: AtariConfig) -> Option<AtariGames> {
        // Cargo runs tests in the folder of their package.
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let venv = match std::env::var_os("VIRTUAL_ENV") {
            Some(_) => virtual_environment(),
            None => workspace.join(virtual_environment()),
        };
        match AtariGames::all(&venv, config) {
            Ok(games) => Some(games),
            Err(error) => {
                let required = std::env::var("LEAP_REQUIRE").unwrap_or_default();
                let message = format!("NOT TESTED on Atari: {error}");
                assert!(
                    !required.split(',').any(|name| name == "atari"),
                    "{message}"
                );
                eprintln!("\n*** {message} ***\n");
                None
            }
        }
    }

    fn rngs(copies: usize) -> Vec<leap_core::TaskRng> {
        (0..copies).map(|i| run_rng(i as u64, "games")).collect()
    }

    /// What is seen, and what comes of `steps` random actions.
    fn play(env: &mut impl VectorEnv, steps: usize, seed: u64) -> (Vec<f32>, Vec<Transition>) {
        let mut rng = run_rng(seed, "actions");
        let (mut seen, mut all) = (Vec::new(), Vec::new());
        for _ in 0..steps {
            let actions = (0..env.len()).map(|_| rng.random_range(0..env.actions()));
            let actions: Vec<usize> = actions.collect();
            all.extend(env.step(&actions).expect("it plays"));
            env.observe(&mut seen);
        }
        (seen, all)
    }

    #[test]
    fn the_papers_games_are_there() {
        let Some(all) = games(AtariConfig::new()) else {
            return;
        };
        assert_eq!(all.len(), 62);
        // 27 of at most 10 actions, two of which are held out.
        let few = all
            .names()
            .zip(all.actions())
            .filter(|(_, actions)| *actions <= 10);
        assert_eq!(few.count(), 27);
        let train = all.meta_training();
        assert_eq!(train.len(), 25);
        assert!(
            train
                .names()
                .all(|name| name != "breakout" && name != "space_invaders")
        );
        let error = all.named(&["chess"]).expect_err("no such game").to_string();
        assert!(
            error.contains("no game `chess`") && error.contains("pong"),
            "{error}"
        );
    }

    #[test]
    fn games_depend_on_the_seed_alone_and_go_on_from_where_they_were_saved() {
        let Some(all) = games(AtariConfig::new().with_threads(2)) else {
            return;
        };
        let pong = all.named(&["pong"]).expect("pong");
        let make = || pong.env(0, rngs(3)).expect("it starts");
        let (mut a, mut b) = (make(), make());
        assert_eq!(a.observation_shape(), [4, 84, 84]);
        assert_eq!((a.len(), a.actions()), (3, 6));
        assert_eq!(play(&mut a, 30, 1), play(&mut b, 30, 1));
        let saved = a.save().expect("it is saved").expect("it can be");
        assert!(saved.restarted);
        let after = play(&mut a, 30, 2);
        let mut c = make();
        play(&mut c, 5, 7);
        c.restore(&saved.state).expect("it goes on");
        assert_eq!(after, play(&mut c, 30, 2));
        let values = after.0;
        assert!(values.iter().all(|v| (0.0..=1.0).contains(v)));
        assert!(values.iter().any(|v| *v > 0.5) && values.iter().any(|v| *v < 0.4));
    }

    #[test]
    fn time_limits_and_colours() {
        let config = AtariConfig::new()
            .with_colour(true)
            .with_stack(2)
            .with_screen(true);
        let Some(all) = games(config.with_max_frames(80)) else {
            return;
        };
        let game = all.named(&["breakout"]).expect("breakout");
        let mut env = game.env(0, rngs(2)).expect("it starts");
        assert_eq!(env.observation_shape(), [6, 84, 84]);
        let (seen, transitions) = play(&mut env, 40, 1);
        let per_copy = 6 * 84 * 84;
        assert_eq!(seen.len(), 40 * 2 * per_copy);
        // The bricks are red: much more of it than of blue.
        let mean = |channel: usize| {
            let plane = &seen[channel * 84 * 84..(channel + 1) * 84 * 84];
            plane.iter().sum::<f32>() / plane.len() as f32
        };
        assert!(mean(3) > 1.2 * mean(5), "{} {}", mean(3), mean(5));
        let cut_off = transitions.iter().filter_map(|t| match &t.ending {
            Ending::Truncated(last) => Some(last),
            _ => None,
        });
        let cut_off: Vec<_> = cut_off.collect();
        assert!(cut_off.len() >= 2, "{}", cut_off.len());
        assert!(cut_off.iter().all(|last| last.len() == per_copy));
        let Picture::Pixels { size, rgb } = env.render() else {
            panic!("pixels")
        };
        assert_eq!((size, rgb.len()), ([160, 210], 160 * 210 * 3));
    }

    #[test]
    fn atari_goes_on_in_the_middle_of_a_game() {
        if games(AtariConfig::new()).is_none() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (straight, broken) = (folder.path().join("straight"), folder.path().join("broken"));
        let flags = "--games pong,freeway --held-out breakout --meta-steps 1 --meta-batch 2 --envs 4 \
            --env-steps 800 --checkpoint-env-steps 200 --lanes 2 --play-threads 1";
        let start = |out: &Path| {
            let mut command = example("atari", out, flags);
            command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
            command
        };
        succeed(start(&straight));
        let mut child = start(&broken).spawn().expect("it starts");
        let begun = Instant::now();
        while !has_tasks(&broken) {
            assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        let mut again = start(&broken);
        again.arg("--resume");
        succeed(again);
        assert_eq!(numbers(&straight), numbers(&broken));
        let model = "leap-energy-seed-1/held-out-0.safetensors";
        assert!(straight.join(model).exists());
    }
}

/// What is left out is said.
#[cfg(not(feature = "atari"))]
#[test]
fn atari_needs_its_feature() {
    let required = std::env::var("LEAP_REQUIRE").unwrap_or_default();
    let message = "NOT TESTED on Atari: it needs `--features leap-tests/atari`";
    assert!(
        !required.split(',').any(|name| name == "atari"),
        "{message}"
    );
    eprintln!("\n*** {message} ***\n");
}
