//! Several processes compute what one does. Needs the feature `mpi`, and `mpirun`.

#![cfg(all(unix, feature = "mpi"))]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs the example `cluster` as so many processes.
fn mpirun(ranks: usize, flags: &str) -> Command {
    let tests = std::env::current_exe().expect("this program has a path");
    let built = tests.parent().and_then(Path::parent);
    let program = built.expect("it lies in deps/").join("examples/cluster");
    assert!(program.exists(), "{} is not built", program.display());
    let mut command = Command::new("mpirun");
    command
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "-n",
            &ranks.to_string(),
        ])
        .arg(program)
        .args("--filters 4 --meta-batch 5 --task-steps 3".split(' '))
        .args(flags.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn lines(output: Output) -> Vec<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(String::from).collect()
}

fn run(ranks: usize, flags: &str) -> Vec<String> {
    lines(mpirun(ranks, flags).output().expect("mpirun is there"))
}

/// What the initialization came to.
fn digest(lines: &[String]) -> &str {
    let last = lines.last().expect("it says something");
    last.split("initialization ").nth(1).expect("it says so")
}

#[test]
fn any_number_of_processes_computes_the_same() {
    let one = run(1, "--exact --meta-steps 3");
    for ranks in [2, 4, 7] {
        let more = run(ranks, "--exact --meta-steps 3");
        assert_eq!(one[..3], more[..3], "losses of {ranks} processes");
        assert_eq!(digest(&one), digest(&more), "{ranks} processes");
        // Up to the order of the sum: the first meta-step's losses are the same bits, the later ones nearly.
        let fast = run(ranks, "--meta-steps 3");
        assert_eq!(one[0], fast[0]);
        let loss = |line: &str| -> f64 {
            let number = line.rsplit(' ').next().expect("a number");
            number.parse().expect("a number")
        };
        for (one, fast) in one[..3].iter().zip(&fast) {
            assert!((loss(one) - loss(fast)).abs() < 1e-3, "{one}, then {fast}");
        }
    }
}

#[test]
fn a_rank_that_dies_ends_the_run_and_the_checkpoint_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = |meta_steps: usize, name: &str| {
        let path = folder.path().join(name);
        format!(
            "--exact --meta-steps {meta_steps} --checkpoints {}",
            path.display()
        )
    };
    let straight = run(2, &flags(6, "straight"));

    let mut child = mpirun(2, &flags(100_000, "broken"))
        .spawn()
        .expect("mpirun is there");
    let saved = folder.path().join("broken");
    let start = Instant::now();
    while std::fs::read_dir(&saved).map_or(0, |entries| entries.count()) == 0 {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "no checkpoint in two minutes"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let children = Command::new("pgrep")
        .args(["-P", &child.id().to_string()])
        .output();
    let children = String::from_utf8(children.expect("pgrep is there").stdout).expect("numbers");
    let rank = children.split_whitespace().next_back().expect("a rank");
    let killed = Command::new("kill").args(["-KILL", rank]).status();
    assert!(killed.expect("kill is there").success());
    let status = child.wait().expect("it ends");
    assert!(!status.success(), "the run went on without a rank");

    // Wherever it got to, the same numbers follow.
    let again = run(1, &flags(6, "broken"));
    if again.len() > 1 {
        assert_eq!(digest(&straight), digest(&again));
    }
}
