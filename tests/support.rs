//! What the tests share: devices, and golden files with their tasks.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, ModuleOptimizer, SgdConfig};
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::{Device, Int, Tensor, TensorData};
use leap_core::{
    InnerLoop, Predict, Purpose, StepLoss, Task, TaskContext, TaskError, TaskSeed, TaskSet,
};
use safetensors::SafeTensors;

/// The CPU devices that are built in, with autodiff.
pub fn cpu_devices() -> Vec<(&'static str, Device)> {
    let built_in = [
        ("flex", cfg!(feature = "flex")),
        ("ndarray", cfg!(feature = "ndarray")),
    ];
    let names = built_in.into_iter().filter(|(_, is_built_in)| *is_built_in);
    let devices =
        names.map(|(name, _)| (name, leap_core::device(name).expect("built in").autodiff()));
    let devices = Vec::from_iter(devices);
    assert!(!devices.is_empty(), "no CPU backend is built in");
    devices
}

/// Counts the kernels that this process launches on GPUs, as long as it lives. There is one at a time.
pub struct Launches {
    count: Arc<Count>,
    #[cfg(feature = "gpu")]
    _observation: cubecl::logging::LaunchObservation,
}

#[derive(Default)]
struct Count(AtomicUsize);

#[cfg(feature = "gpu")]
impl cubecl::logging::LaunchObserver for Count {
    fn launched(&self, _kernel: &'static str) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Launches {
    #[allow(clippy::new_without_default, reason = "it begins to do something")]
    pub fn new() -> Self {
        let count = Arc::<Count>::default();
        Self {
            #[cfg(feature = "gpu")]
            _observation: cubecl::logging::LaunchObservation::new(count.clone()),
            count,
        }
    }

    /// How many there were; none where nothing was compiled in that has any.
    pub fn count(&self) -> usize {
        self.count.0.load(Ordering::Relaxed)
    }
}

/// Counts how often this process reads numbers back from a device, as long as it lives.
pub struct ReadBacks {
    device: String,
    before: usize,
}

/// The devices that were read from, a line of the log each.
static READ: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct ReadLog;

impl log::Log for ReadLog {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target() == "leap_core::read_back"
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            READ.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

impl ReadBacks {
    /// From now on, of a device.
    ///
    /// # Panics
    /// If the program has a log of its own.
    pub fn new(device: &Device) -> Self {
        static LOG: Once = Once::new();
        LOG.call_once(|| {
            log::set_logger(&ReadLog).expect("no other log");
            log::set_max_level(log::LevelFilter::Trace);
        });
        let mut new = Self {
            device: format!("{:?}", device.clone().without_autodiff()),
            before: 0,
        };
        new.before = new.count();
        new
    }

    /// How often there was one.
    pub fn count(&self) -> usize {
        let read = READ.lock().unwrap();
        read.iter().filter(|name| **name == self.device).count() - self.before
    }
}

/// The devices that tests run on, and the worker that lends one of them.
pub struct Devices {
    /// By name, with autodiff.
    pub devices: Vec<(String, Device)>,
    _worker: Option<Worker>,
}

const GPUS: [&str; 6] = ["wgpu", "vulkan", "metal", "webgpu", "cuda", "rocm"];

/// Every device that can be had: of all backends that are compiled in, those named in `LEAP_DEVICES`, and a worker on
/// this machine.
///
/// What cannot be had is said loudly, and fails if `LEAP_REQUIRE`, a list such as `wgpu,remote`, asks for it.
pub fn devices() -> Devices {
    let mut names: Vec<String> = leap_core::available_devices()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let more = std::env::var("LEAP_DEVICES").unwrap_or_default();
    names.extend(more.split(',').filter(|n| !n.is_empty()).map(String::from));
    let mut devices = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        match leap_core::device(&name) {
            Ok(device) => devices.push((name, device.autodiff())),
            Err(error) => missing.push(error.to_string()),
        }
    }
    for backend in GPUS {
        // What is not compiled in is not missing.
        if let Err(error) = leap_core::device(backend)
            && !error.to_string().contains("--features")
        {
            missing.push(error.to_string());
        }
    }
    // Without the feature, what lies there is of an earlier build.
    let start = || match cfg!(feature = "remote") {
        true => Worker::start(),
        false => Err("the feature `remote` is not built in".to_string()),
    };
    let worker = match start() {
        Ok(worker) => {
            let device = leap_core::device(&worker.name).expect("a worker that listens");
            devices.push(("remote".to_string(), device.autodiff()));
            Some(worker)
        }
        Err(reason) => {
            missing.push(format!("remote: {reason}"));
            None
        }
    };
    for reason in &missing {
        eprintln!("\n*** NOT TESTED on {reason} ***\n");
    }
    let required = std::env::var("LEAP_REQUIRE").unwrap_or_default();
    for backend in GPUS.into_iter().chain(["flex", "ndarray", "remote"]) {
        let is_required = required.split(',').any(|name| name == backend);
        let is_there = devices.iter().any(|(name, _)| name.starts_with(backend));
        assert!(
            is_there || !is_required,
            "{backend} is required: {:?}, {missing:?}",
            leap_core::device(backend).err()
        );
    }
    Devices {
        devices,
        _worker: worker,
    }
}

/// An example program, which cargo builds with the tests.
///
/// # Errors
/// It is not built.
pub fn example(name: &str) -> Result<Command, String> {
    let tests = std::env::current_exe().map_err(|e| e.to_string())?;
    let built = tests.parent().and_then(Path::parent);
    let program = built.ok_or("no build folder")?.join("examples").join(name);
    match program.exists() {
        true => Ok(Command::new(program)),
        false => Err(format!("{} is not built", program.display())),
    }
}

/// A worker process on this machine; it ends with this value.
pub struct Worker {
    process: Child,
    /// The name of its device.
    pub name: String,
}

impl Worker {
    /// Starts the example `worker`, which lends the CPU on a free port of the loopback to everybody.
    ///
    /// # Errors
    /// It is not built, or does not start.
    pub fn start() -> Result<Self, String> {
        let mut worker = example("worker")?;
        worker.args(["--no-token", "--websocket", "127.0.0.1:0"]);
        Self::spawn(worker, "ws://")
    }

    /// Starts the example `worker` over Iroh, on a free port and without relays, for those who know the token. Its secret
    /// key is made in `folder`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_iroh(folder: &Path, token: &str) -> Result<Self, String> {
        let free = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.local_addr());
        let port = free.map_err(|e| e.to_string())?.port();
        let mut worker = example("worker")?;
        worker
            .env("LEAP_TOKEN", token)
            .arg("--identity")
            .arg(folder.join("worker.key"))
            .args(["--port", &port.to_string()]);
        Self::spawn(worker, "iroh:")
    }

    fn spawn(mut command: Command, scheme: &str) -> Result<Self, String> {
        let process = command
            .args(["--device", "flex"])
            .stdout(Stdio::piped())
            .spawn();
        let mut process = process.map_err(|e| e.to_string())?;
        let output = process.stdout.take().ok_or("no output")?;
        let mut worker = Self {
            process,
            name: String::new(),
        };
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let named = lines.find_map(|line| {
            let name = line
                .split_whitespace()
                .find(|word| word.starts_with(scheme))?;
            Some(name.to_string())
        });
        worker.name = named.ok_or("the worker ended")?;
        Ok(worker)
    }

    /// Sends it a signal, such as `STOP`.
    pub fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "{signal} to {id}"
        );
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder of golden files made by the authors' code: `LEAP_GOLDEN`, or `../shared/golden` beside the
/// repository.
///
/// Where there is none, the tests that need it fail in CI (`CI=true`); elsewhere they say loudly that
/// they were left out, and `None` comes back.
pub fn authors_golden() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden");
    let folder = std::env::var_os("LEAP_GOLDEN").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    let message = format!(
        "NOT TESTED against the authors' code: there are no golden files in {} \
         (set LEAP_GOLDEN to their folder)",
        folder.display()
    );
    assert!(std::env::var_os("CI").is_none(), "{message}");
    eprintln!("\n*** {message} ***\n");
    None
}

/// A golden file: what tasks are trained on, and what comes out. It has PyTorch's names and layouts.
pub struct Golden {
    bytes: Vec<u8>,
    /// Patterns of PyTorch's names, and the paths of our models that stand for them.
    names: Vec<(&'static str, &'static str)>,
}

impl Golden {
    /// Reads the file at `path`.
    pub fn open(path: &Path, names: &[(&'static str, &'static str)]) -> Self {
        Self {
            bytes: std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            names: names.to_vec(),
        }
    }

    /// Whether there is a tensor whose name starts with `prefix`.
    pub fn has(&self, prefix: &str) -> bool {
        let file = SafeTensors::deserialize(&self.bytes).expect("a sound file");
        file.names().iter().any(|name| name.starts_with(prefix))
    }

    /// Values and shape of a tensor of numbers.
    pub fn values(&self, key: &str) -> (Vec<f32>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.bytes).expect("a sound file");
        let view = file.tensor(key).unwrap_or_else(|e| panic!("{key}: {e}"));
        let words = view
            .data()
            .chunks_exact(4)
            .map(|b| [b[0], b[1], b[2], b[3]]);
        let values = match view.dtype() {
            safetensors::Dtype::F32 => words.map(f32::from_le_bytes).collect(),
            safetensors::Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
            other => panic!("{key} has numbers of type {other:?}"),
        };
        (values, view.shape().to_vec())
    }

    /// `model` with the tensors below `prefix` as its parameters, which may be gradients.
    pub fn load<M: Module>(&self, mut model: M, prefix: &str) -> M {
        let mut store = SafetensorsStore::from_bytes(Some(self.bytes.clone()))
            .with_from_adapter(PyTorchToBurnAdapter)
            .allow_partial(true);
        for (name, path) in &self.names {
            store = store.with_key_remapping(format!("^{prefix}/{name}\\."), format!("{path}."));
        }
        let result = model
            .load_from(&mut store)
            .expect("the file fits the model");
        let is_statistic = |path: &str| path.contains("running_"); // which no gradient has
        assert!(result.errors.is_empty(), "{result:?}");
        assert!(
            result.missing.iter().all(|m| is_statistic(&m.0)),
            "{result:?}"
        );
        model
    }

    /// The inner loop of an optimizer of the file, by its name there.
    pub fn inner_loop(&self, optimizer: &str, steps: usize) -> InnerLoop {
        let (optimizer, lr): (ModuleOptimizer, f64) = match optimizer {
            "sgd" => (SgdConfig::new().init(), 0.1),
            "momentum" => {
                let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
                (SgdConfig::new().with_momentum(Some(momentum)).init(), 0.05)
            }
            "adam" => (AdamConfig::new().with_epsilon(1e-3).init(), 0.01),
            other => panic!("no optimizer {other}"),
        };
        InnerLoop::new(steps, optimizer, lr)
    }

    /// Number of tasks, and of batches a task.
    pub fn size(&self) -> (usize, usize) {
        let tasks = (0..)
            .take_while(|t| self.has(&format!("task{t}/x")))
            .count();
        (tasks, self.values("task0/x").1[0])
    }
}

/// The tasks of a golden file, with inputs of rank `D`.
pub struct GoldenTasks<'a, const D: usize>(pub &'a Golden);

/// A task of a golden file: its batches, one after the other, and a batch for queries.
#[derive(Clone)]
pub struct GoldenTask<const D: usize> {
    batches: std::vec::IntoIter<Batch<D>>,
    query: Batch<D>,
}

type Batch<const D: usize> = (Tensor<D>, Tensor<1, Int>);

impl<M: Predict<Tensor<D>>, const D: usize> TaskSet<M> for GoldenTasks<'_, D> {
    type Task = GoldenTask<D>;

    fn len(&self) -> usize {
        self.0.size().0
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<GoldenTask<D>, TaskError> {
        Ok(self.get(index, &context.device))
    }
}

impl<const D: usize> GoldenTasks<'_, D> {
    /// Task `index` on `device`.
    pub fn get(&self, index: usize, device: &Device) -> GoldenTask<D> {
        GoldenTask {
            batches: self.batches(index, "", device).into_iter(),
            query: self.batches(index, "query_", device).remove(0),
        }
    }

    /// The batches of a kind; those for queries are not stacked, as there is only one.
    fn batches(&self, index: usize, kind: &str, device: &Device) -> Vec<Batch<D>> {
        let (x, shape) = self.0.values(&format!("task{index}/{kind}x"));
        let (y, _) = self.0.values(&format!("task{index}/{kind}y"));
        let batch: [usize; D] = shape[shape.len() - D..].try_into().expect("rank D");
        let xs = x.chunks_exact(batch.iter().product());
        let batches = xs.zip(y.chunks_exact(batch[0])).map(|(x, y)| {
            let y: Vec<i32> = y.iter().map(|y| *y as i32).collect();
            (
                Tensor::from_data(TensorData::new(x.to_vec(), batch), device),
                Tensor::from_data(TensorData::new(y, [batch[0]]), device),
            )
        });
        batches.collect()
    }
}

fn cross_entropy<M: Predict<Tensor<D>>, const D: usize>(model: &M, batch: Batch<D>) -> Tensor<1> {
    let loss = CrossEntropyLossConfig::new().init(&batch.0.device());
    loss.forward(model.predict(batch.0), batch.1)
}

impl<M: Predict<Tensor<D>>, const D: usize> Task<M> for GoldenTask<D> {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let batch = self.batches.next();
        Ok(cross_entropy(model, batch.ok_or("the golden batches are used up")?).into())
    }

    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        Ok(cross_entropy(model, self.query.clone()))
    }

    fn fork(&self) -> Option<Self> {
        Some(self.clone())
    }
}

/// That of the first task of a run with seed 0, on a device, for so many steps.
pub fn context(device: &Device, steps: usize) -> TaskContext {
    TaskContext {
        seed: TaskSeed {
            seed: 0,
            purpose: Purpose::Training,
            meta_step: 0,
            task: 0,
        },
        device: device.clone(),
        steps,
    }
}

/// Arguments of a benchmark by their place, or what they are by default; Cargo adds flags of its own. It starts benchmarks in the
/// folder of their package; files and folders are looked for in that of the workspace.
pub fn arguments() -> impl Fn(usize, &str) -> String {
    if let Some(package) = std::env::var_os("CARGO_MANIFEST_DIR") {
        std::env::set_current_dir(Path::new(&package).join("..")).expect("the workspace");
    }
    let all = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let all = Vec::from_iter(all);
    move |place, default| all.get(place).map_or(default.to_string(), String::clone)
}

/// Peak memory of this process in MiB, where the system says it.
pub fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

/// All floats of a module, running statistics too.
pub fn floats<M: Module>(model: &M) -> Vec<f32> {
    struct Values(Vec<f32>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut values = Values(Vec::new());
    model.visit(&mut values);
    values.0
}

/// The distance of two vectors, relative to the second's length.
pub fn apart(a: &[f32], b: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    (difference / norm(&mut b.iter().copied())).sqrt()
}
