//! Tasks on workers: the same numbers as here, also when workers are killed, hang or are cut off in the middle of a task.

#![cfg(unix)]

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use burn::module::ParamGroup;
use burn::tensor::{Device, Tensor};
use leap_core::{
    Checkpoints, Error, Lanes, Leap, MetaTrainer, ParamSpace, StepLoss, Task, TaskContext,
    TaskError, TaskSet, is_cpu, reinitialize, run_rng,
};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::Sinusoids;
use leap_tests::Worker;

const STEPS: usize = 6;

fn init() -> Mlp {
    let config = MlpConfig::new(vec![1, 16, 16, 1]);
    let model = config
        .init(&Device::flex().autodiff())
        .expect("sound settings");
    reinitialize(
        model,
        &ParamGroup::all(),
        &mut run_rng(0, "initial parameters"),
    )
}

fn trainer() -> MetaTrainer<Leap> {
    MetaTrainer::new(Leap::new())
        .with_meta_batch_size(6)
        .with_task_steps(STEPS)
}

fn values(model: &Mlp) -> Vec<f64> {
    let space = ParamSpace::new(model, &ParamGroup::all()).expect("parameters");
    space
        .point(model)
        .expect("the same model")
        .to_vec()
        .expect("read back")
}

/// What two meta-steps come to without workers.
fn alone() -> Vec<f64> {
    let lanes = Lanes::threads(&Device::flex(), 1).expect("threads");
    let trained = trainer().fit(init(), 2, &Sinusoids::new(), &lanes);
    values(&trained.expect("sound training"))
}

/// Sinusoids, with something that happens to the worker in the middle of its `at`-th task.
struct Accident<'a> {
    at: usize,
    begun: AtomicUsize,
    happen: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

impl<'a> Accident<'a> {
    fn new(at: usize, happen: impl FnOnce() + Send + 'a) -> Self {
        Self {
            at,
            begun: AtomicUsize::new(0),
            happen: Mutex::new(Some(Box::new(happen))),
        }
    }
}

struct Overtaken<'a, T> {
    task: T,
    step: usize,
    accident: Option<Box<dyn FnOnce() + Send + 'a>>,
}

impl<'a> TaskSet<Mlp> for Accident<'a> {
    type Task = Overtaken<'a, <Sinusoids as TaskSet<Mlp>>::Task>;

    fn len(&self) -> usize {
        TaskSet::<Mlp>::len(&Sinusoids::new())
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        // What is quick to begin waits until the accident is about to happen.
        let start = Instant::now();
        let is_quick = is_cpu(&context.device);
        while is_quick
            && self.begun.load(Ordering::Relaxed) <= self.at
            && start.elapsed() < Duration::from_secs(20)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let is_due =
            !is_cpu(&context.device) && self.begun.fetch_add(1, Ordering::Relaxed) == self.at;
        Ok(Overtaken {
            task: TaskSet::<Mlp>::task(&Sinusoids::new(), index, context)?,
            step: 0,
            accident: match is_due {
                true => self.happen.lock().expect("no panic").take(),
                false => None,
            },
        })
    }
}

impl<T: Task<Mlp>> Task<Mlp> for Overtaken<'_, T> {
    fn loss(&mut self, model: &Mlp) -> Result<StepLoss, TaskError> {
        self.step += 1;
        if self.step == STEPS / 2
            && let Some(accident) = self.accident.take()
        {
            accident();
        }
        self.task.loss(model)
    }

    fn query(&mut self, model: &Mlp) -> Result<Tensor<1>, TaskError> {
        self.task.query(model)
    }
}

#[test]
fn two_workers_compute_what_one_process_does() {
    let workers = [0, 1].map(|_| Worker::start().expect("a worker"));
    let devices = workers
        .each_ref()
        .map(|w| leap_core::device(&w.name).expect("it listens"));
    let lanes = Lanes::on(&devices, 1).expect("devices");
    assert_eq!(lanes.len(), 2);
    let trained = trainer().fit(init(), 2, &Sinusoids::new(), &lanes);
    assert_eq!(values(&trained.expect("sound training")), alone());
}

/// Trains on the device `name` and a thread here, while an accident happens to the device.
fn survives(what: &str, name: &str, accident: impl FnOnce() + Send) {
    let devices = [name, "flex"].map(|name| leap_core::device(name).expect("it is there"));
    let lanes = Lanes::on(&devices, 1).expect("devices");
    let tasks = Accident::new(1, accident);
    let mut run = trainer().begin(init()).expect("sound settings");
    for _ in 0..2 {
        let report = run
            .step(&tasks, &lanes)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(report.tasks.len(), 6, "{what}");
    }
    let begun = tasks.begun.load(Ordering::Relaxed);
    assert_eq!(begun, tasks.at + 1, "{what}: a lost lane has no tasks");
    let waiting = tasks.happen.lock().expect("no panic");
    assert!(waiting.is_none(), "{what} did not happen");
    assert_eq!(values(run.init()), alone(), "{what}");
}

/// A network between here and a worker, which can be cut.
struct Cable {
    name: String,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    fn to(worker: &Worker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let name = format!("ws://{}", listener.local_addr().expect("an address"));
        let worker = worker.name.trim_start_matches("ws://").to_string();
        let ends = Arc::new(Mutex::new(Vec::new()));
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::clone(&ends);
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let Ok(there) = TcpStream::connect(&worker) else {
                    continue; // Its end is another test's.
                };
                for (from, to) in [(&here, &there), (&there, &here)] {
                    let [mut from, mut to] = [from, to].map(|s| s.try_clone().expect("a socket"));
                    open.lock()
                        .expect("no panic")
                        .push(from.try_clone().expect("a socket"));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { name, ends }
    }

    fn cut(&self) {
        for end in self.ends.lock().expect("no panic").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_connection_that_is_cut_costs_nothing_but_time() {
    let worker = Worker::start().expect("a worker");
    let cable = Cable::to(&worker);
    survives("a cut", &cable.name, || cable.cut());
}

#[test]
fn a_killed_worker_costs_nothing_but_time() {
    let worker = Worker::start().expect("a worker");
    survives("a kill", &worker.name, || worker.signal("KILL"));
}

#[test]
fn a_worker_that_hangs_costs_nothing_but_time() {
    let worker = Worker::start().expect("a worker");
    survives("a stop", &worker.name, || worker.signal("STOP"));
    worker.signal("CONT");
}

#[test]
fn without_any_lane_left_the_last_checkpoint_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let trainer = || trainer().with_checkpoints(Checkpoints::new(folder.path(), 1));
    let worker = Worker::start().expect("a worker");
    let device = leap_core::device(&worker.name).expect("it listens");
    let lanes = Lanes::on(&[device], 1).expect("a device");
    let tasks = Accident::new(8, || worker.signal("KILL"));
    let mut run = trainer().resume(init()).expect("nothing to resume");
    run.step(&tasks, &lanes).expect("the worker is there");
    let error = run.step(&tasks, &lanes).expect_err("the worker is gone");
    assert!(matches!(error, Error::NoLaneLeft(_)), "{error}");
    let error = run.step(&tasks, &lanes).expect_err("it stays away");
    assert!(matches!(error, Error::NoLaneLeft(_)), "{error}");

    let mut run = trainer().resume(init()).expect("a checkpoint");
    assert_eq!(run.meta_step(), 1);
    let lanes = Lanes::threads(&Device::flex(), 2).expect("threads");
    run.step(&Sinusoids::new(), &lanes).expect("sound training");
    assert_eq!(values(run.init()), alone());
}

/// Over Iroh, as workers are by default: a program with the token trains there and comes to what it comes to here; one without
/// is refused.
#[test]
fn over_iroh_who_has_the_token_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let worker = Worker::start_iroh(folder.path(), "sesame").expect("a worker");
    let train = |name: &str, device: &str, token: &str| {
        let mut command = leap_tests::example("omniglot").expect("it is built");
        let out = folder.path().join(name);
        let flags = "--methods leap --alphabets 2 --filters 4 --meta-steps 1 --meta-batch 2 --task-steps 4 --batch 4 \
            --test-alphabets 1";
        command
            .args(flags.split_whitespace())
            .args(["--device", device, "--out"])
            .arg(&out)
            .env("LEAP_TOKEN", token);
        let output = command.output().expect("it starts");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.success() {
            false => Err(errors),
            true => {
                let results = std::fs::read_to_string(out.join("results.json")).expect("results");
                let results: serde_json::Value = serde_json::from_str(&results).expect("JSON");
                Ok(results[0]["auc"].as_f64().expect("a number"))
            }
        }
    };
    let error = train("stranger", &worker.name, "open").expect_err("a wrong token");
    assert!(error.contains("does not accept the token"), "{error}");
    let there = train("there", &worker.name, "sesame").expect("sound training");
    let here = train("here", "flex", "").expect("sound training");
    // Our own convolution block runs here, Burn's layers there.
    assert!((there - here).abs() < 1e-3, "{there} there, {here} here");
}

#[test]
fn a_worker_is_found_by_any_name_of_its_machine() {
    let worker = Worker::start().expect("a worker");
    let name = worker.name.replace("127.0.0.1", "localhost");
    leap_core::device(&name).expect("it listens");
}

#[test]
fn devices_that_cannot_be_had_are_said() {
    let cases = [
        ("ws://127.0.0.1:1", "cannot be reached"),
        ("ws://nowhere.invalid:1", "cannot be reached"),
        ("iroh:nobody", "no id of a worker"),
        ("tpu", "no such backend"),
        ("wgpu:99", "it was not found; this program finds flex"),
        ("flex:1", "is the CPU"),
        ("cuda", "--features cuda"),
        ("flex,rocm:0", "--features rocm"),
    ];
    for (names, said) in cases {
        let error = leap_core::devices(names).expect_err(names).to_string();
        assert!(error.contains(said), "{names}: {error}");
    }
}
