//! Several processes compute what one does: as threads here, and as processes with the feature `mpi` and `mpirun`.

use std::sync::{Arc, Barrier, Mutex};

use burn::module::ParamGroup;
use burn::tensor::Device;
use leap_core::{
    Cluster, Error, Lanes, Leap, MetaTrainer, ParamSpace, Report, Summation, reinitialize, run_rng,
};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::Sinusoids;

/// Ranks that are threads of this process.
#[derive(Clone, Debug)]
struct Threads {
    rank: usize,
    size: usize,
    /// What each rank says.
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    all_have: Arc<Barrier>,
}

impl Threads {
    fn all(size: usize) -> Vec<Self> {
        let (said, all_have) = (Arc::default(), Arc::new(Barrier::new(size)));
        let rank = |rank| Self {
            rank,
            size,
            said: Arc::clone(&said),
            all_have: Arc::clone(&all_have),
        };
        *said.lock().expect("no panic") = vec![Vec::new(); size];
        (0..size).map(rank).collect()
    }
}

impl Cluster for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        self.said.lock().expect("no panic")[self.rank] = bytes.to_vec();
        self.all_have.wait();
        let all = self.said.lock().expect("no panic").clone();
        self.all_have.wait();
        Ok(all)
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        values.fill(0.0);
        for rank in self.all_gather(&bytes)? {
            for (sum, bytes) in values.iter_mut().zip(rank.chunks_exact(4)) {
                *sum += f32::from_le_bytes(bytes.try_into().expect("4 bytes"));
            }
        }
        Ok(())
    }
}

fn init(seed: u64) -> Mlp {
    let config = MlpConfig::new(vec![1, 16, 16, 1]);
    let model = config.init(&Device::flex().autodiff());
    let mut rng = run_rng(seed, "initial parameters");
    reinitialize(model.expect("sound settings"), &ParamGroup::all(), &mut rng)
}

/// What a meta-step of five tasks, and an evaluation, come to on a rank that starts from `init`.
fn meta_step(init: Mlp, lanes: Lanes) -> Result<(Vec<f64>, [Report; 2]), Error> {
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(5)
        .with_task_steps(4);
    let mut run = trainer.begin(init)?;
    let mut reports = [
        run.step(&Sinusoids::new(), &lanes)?,
        trainer.evaluate(run.init(), &Sinusoids::new().with_tasks(3), &lanes)?,
    ];
    // No process of several has all meta-gradients.
    assert_eq!(reports[0].coherence.is_none(), lanes.cluster().is_some());
    for report in &mut reports {
        (report.seconds, report.coherence) = (0.0, None);
    }
    let space = ParamSpace::new(run.init(), &ParamGroup::all())?;
    Ok((space.point(run.init())?.to_vec()?, reports))
}

/// The results of all ranks, of which the last starts from the seed `last`.
#[allow(clippy::type_complexity)]
fn ranks(
    size: usize,
    summation: Summation,
    last: u64,
) -> Vec<Result<(Vec<f64>, [Report; 2]), Error>> {
    std::thread::scope(|scope| {
        let run = |cluster: Threads| {
            scope.spawn(move || {
                let seed = if cluster.rank + 1 == size { last } else { 0 };
                let lanes = Lanes::threads(&Device::flex(), 1)?;
                meta_step(init(seed), lanes.with_cluster(cluster, summation))
            })
        };
        let threads: Vec<_> = Threads::all(size).into_iter().map(run).collect();
        let results = threads.into_iter().map(|t| t.join().expect("no panic"));
        results.collect()
    })
}

#[test]
fn ranks_join_what_they_learned() {
    let lanes = Lanes::threads(&Device::flex(), 1).expect("threads");
    let (alone, reports) = meta_step(init(0), lanes).expect("sound training");
    // Seven ranks are more than there are tasks.
    for size in [1, 2, 3, 7] {
        for result in ranks(size, Summation::Exact, 0) {
            let (values, theirs) = result.expect("sound training");
            assert_eq!(alone, values, "{size} ranks");
            assert_eq!(reports, theirs, "{size} ranks");
        }
        for result in ranks(size, Summation::Fast, 0) {
            let (values, theirs) = result.expect("sound training");
            assert_eq!(reports[0], theirs[0], "{size} ranks");
            // Five gradients of length 1 are added in another order.
            for (a, b) in alone.iter().zip(values) {
                assert!((a - b).abs() < 1e-6, "{size} ranks: {a} is {b}");
            }
        }
    }
}

#[test]
fn ranks_from_different_initializations_are_told() {
    for result in ranks(2, Summation::Fast, 1) {
        let error = result.expect_err("the ranks differ").to_string();
        assert!(error.contains("another initialization"), "{error}");
    }
}

#[cfg(all(unix, feature = "mpi"))]
mod processes {

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
            // Without that, sums are rounded otherwise, which the second meta-step shows first.
            let fast = run(ranks, "--meta-steps 3");
            assert_eq!(one[0], fast[0], "{ranks} processes");
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
        let mut child = mpirun(2, &flags(100_000, "broken"))
            .spawn()
            .expect("mpirun is there");
        let newest = || {
            let saved = std::fs::read_dir(folder.path().join("broken")).into_iter();
            let names = saved.flatten().flatten().map(|entry| entry.file_name());
            let steps = names.filter_map(|name| {
                let name = name.into_string().ok()?;
                name.strip_prefix("checkpoint-")?.parse::<usize>().ok()
            });
            steps.max()
        };
        let start = Instant::now();
        while newest().is_none() {
            let waited = start.elapsed();
            assert!(
                waited < Duration::from_secs(120),
                "no checkpoint in two minutes"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let children = Command::new("pgrep")
            .args(["-P", &child.id().to_string()])
            .output();
        let children =
            String::from_utf8(children.expect("pgrep is there").stdout).expect("numbers");
        let rank = children.split_whitespace().next_back().expect("a rank");
        let killed = Command::new("kill").args(["-KILL", rank]).status();
        assert!(killed.expect("kill is there").success());
        let status = child.wait().expect("it ends");
        assert!(!status.success(), "the run went on without a rank");

        let done = newest().expect("a checkpoint");
        let again = run(1, &flags(done + 3, "broken"));
        assert!(again[0].starts_with(&format!("meta-step {}:", done + 1)));
        let straight = run(2, &flags(done + 3, "straight"));
        assert_eq!(digest(&straight), digest(&again));
    }

    #[test]
    fn a_rank_that_fails_ends_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "no folder").expect("written");
        // Rank 0 alone saves checkpoints, and cannot.
        let flags = format!("--checkpoints {}", file.join("below").display());
        let output = mpirun(2, &flags).output().expect("mpirun is there");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(errors.contains("error: "), "{errors}");
    }
}

/// What is left out is said.
#[cfg(not(feature = "mpi"))]
#[test]
fn processes_need_the_feature_mpi() {
    let required = std::env::var("LEAP_REQUIRE").unwrap_or_default();
    let message = "NOT TESTED with MPI: it needs `--features leap-tests/mpi`";
    assert!(!required.split(',').any(|name| name == "mpi"), "{message}");
    eprintln!("\n*** {message} ***\n");
}
