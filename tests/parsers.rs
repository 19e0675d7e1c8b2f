//! Whatever bytes come in, the answer is a value or an error: all that reads files, names and messages, under a fuzzer.
//!
//! `cargo test` tries the inputs in `tests/corpus` and a second of random inputs for each parser; `bash tests/fuzz.sh`
//! lets libFuzzer look for inputs that reach new code.

#![cfg_attr(fuzzing_libfuzzer, no_main)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::module::{Module, Param, ParamGroup};
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::{Device, Tensor};
use leap_core::{
    ActorCritic, Checkpoints, Cluster, Error, Lanes, Leap, MetaTrainer, Method, Predict, Purpose,
    Report, StepLoss, Summation, Task, TaskContext, TaskError, TaskSeed, TaskSet, reinitialize,
    run_rng,
};
use leap_lab::{Existing, MetaStepMetrics, RunFolder, RunSummary};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::images::ImagesConfig;
use leap_tasks::omniglot::Omniglot;
use leap_tasks::rl::{
    A2cConfig, Acrobots, CartPoles, Catches, EnvFamily, MountainCars, Render, VectorEnv,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The parsers by name, and a test for each.
macro_rules! parsers {
    ($($name:ident),* $(,)?) => {
        #[cfg(fuzzing_libfuzzer)]
        const PARSERS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name)),*];

        #[cfg(not(fuzzing_libfuzzer))]
        mod tests {
            $(
                #[test]
                fn $name() {
                    super::try_inputs(stringify!($name), super::$name);
                }
            )*
        }
    };
}

parsers![
    data_file,
    zip_file,
    drawings,
    image_files,
    checkpoint,
    saved_task,
    saved_environment,
    message_between_ranks,
    names,
    run_folder,
];

/// The inputs that a fuzzer kept, and a second of random ones.
#[cfg(not(fuzzing_libfuzzer))]
fn try_inputs(name: &str, parser: fn(&[u8])) {
    use rand::{Rng, RngCore};
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut kept = files(&corpus);
    assert!(!kept.is_empty(), "{} is empty", corpus.display());
    kept.drain(..).for_each(|(_, input)| parser(&input));
    let mut rng = leap_core::run_rng(0, name);
    let begin = std::time::Instant::now();
    while begin.elapsed().as_secs_f64() < 1.0 {
        let mut input = vec![0; rng.random_range(0..200)];
        rng.fill_bytes(&mut input);
        parser(&input);
    }
}

// libFuzzer's inputs for the parser that the environment variable `PARSER` names.
#[cfg(fuzzing_libfuzzer)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static PARSER: OnceLock<fn(&[u8])> = OnceLock::new();
    let parser = PARSER.get_or_init(|| {
        let name = std::env::var("PARSER").expect("PARSER is set");
        let found = PARSERS.iter().find(|(known, _)| *known == name);
        found.expect("PARSER is one of them").1
    });
    parser(input)
});

/// A folder in memory, where there is one.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("a folder")
}

/// What `input` says: sound bytes that were edited, or bytes of its own.
///
/// The first byte decides. Edits are five bytes each: what is done, where (of a 65,536th), and with what.
fn edited(sound: &[u8], input: &[u8]) -> Vec<u8> {
    let Some((first, rest)) = input.split_first() else {
        return Vec::new();
    };
    if first % 4 == 0 {
        return rest.to_vec();
    }
    let mut bytes = sound.to_vec();
    for edit in rest.chunks_exact(5) {
        let at = (usize::from(u16::from_le_bytes([edit[1], edit[2]])) * bytes.len()) >> 16;
        let (a, b) = (edit[3], edit[4]);
        let span = at..(at + usize::from(a)).min(bytes.len());
        match edit[0] % 8 {
            0 | 1 if at < bytes.len() => bytes[at] = a,
            2 if at < bytes.len() => bytes[at] ^= 1 << (a % 8),
            3 => drop(bytes.drain(span)),
            4 => bytes.truncate(at),
            5 => drop(bytes.splice(at..at, [a, b])),
            6 => {
                let again = bytes[span].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                // A number of 4 or 8 bytes, small, large or odd.
                let width = if b % 2 == 0 { 4 } else { 8 };
                let number = [
                    0,
                    1,
                    255,
                    1 << 16,
                    1 << 31,
                    u64::MAX,
                    1 << 63,
                    u64::MAX >> 1,
                ];
                let number = number[usize::from(b / 2) % 8].wrapping_add(a as i8 as u64);
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number.to_be_bytes()[8 - (end - at)..]);
            }
        }
    }
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("memory can be written to");
    gzip.finish().expect("memory can be written to")
}

fn data_file(input: &[u8]) {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let read = |bytes: &[u8]| {
        let folder = folder();
        let file = folder.path().join("data.gz");
        fs::write(&file, bytes).expect("a file");
        Omniglot::open(&file)
    };
    let sound = SOUND.get_or_init(|| {
        let header = r#"{"format":"omniglot-bits","version":1,"size":4,"alphabets":[{"name":"Greek","characters":"#;
        let sound = [header.as_bytes(), br#"[["alpha",2],["beta",1]]}]}"#, b"\nabcdef"].concat();
        read(&gzip(&sound)).expect("it is read");
        sound
    });
    let Some((which, input)) = input.split_first() else {
        return;
    };
    let data = match which % 4 {
        0 => read(&edited(&gzip(sound), input)),
        _ => read(&gzip(&edited(sound, input))),
    };
    if let Ok(data) = data {
        let folder = folder();
        let file = folder.path().join("again.gz");
        data.save(&file).expect("it is saved");
        assert_eq!(Omniglot::open(&file).expect("it is read again"), data);
    }
}

/// Puts the right checksums into what may be a PNG image.
fn with_checksums(mut png: Vec<u8>) -> Vec<u8> {
    let mut at = 8;
    while let Some(length) = png.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().expect("4 bytes")) as usize;
        let end = at.saturating_add(8).saturating_add(length);
        let Some(chunk) = png.get(at + 4..end) else {
            break;
        };
        let mut crc = flate2::Crc::new();
        crc.update(chunk);
        let Some(place) = png.get_mut(end..end + 4) else {
            break;
        };
        place.copy_from_slice(&crc.sum().to_be_bytes());
        at = end + 4;
    }
    png
}

/// An image of two by two pixels.
const PNG: &[u8] = b"\
    \x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x02\x00\x00\x00\x02\
    \x08\x00\x00\x00\x00\x57\xdd\x52\xf8\x00\x00\x00\x0c\x49\x44\x41\x54\x78\x9c\x63\x60\xf8\x0f\x84\
    \x00\x06\x00\x01\xff\x93\xd1\xe4\x89\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";

fn zip(files: &[(String, Vec<u8>)]) -> Option<Vec<u8>> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let options = options.compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        zip.start_file(name, options).ok()?;
        zip.write_all(bytes).ok()?;
    }
    Some(zip.finish().ok()?.into_inner())
}

fn load(bytes: &[u8]) -> Result<Omniglot, impl std::error::Error> {
    let folder = folder();
    let file = folder.path().join("images.zip");
    fs::write(&file, bytes).expect("a file");
    Omniglot::load(&[file], 28)
}

fn zip_file(input: &[u8]) {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let sound = SOUND.get_or_init(|| {
        let files = [("Greek/alpha/1.png", PNG), ("Greek/beta/1.PNG", PNG)];
        let files = files.map(|(name, bytes)| (name.to_string(), bytes.to_vec()));
        let sound = zip(&files).expect("a zip file");
        load(&sound).expect("it is read");
        sound
    });
    drop(load(&edited(sound, input)));
}

/// Files of odd names, as a zip and as a folder: both are read alike.
fn drawings(input: &[u8]) {
    const PARTS: [&str; 16] = [
        "Greek",
        "alpha",
        "1.png",
        "1.PNG",
        "__MACOSX",
        "._1.png",
        ".DS_Store",
        "x.txt",
        "é.png",
        "a b",
        ".png",
        "1.png.png",
        "readme",
        "2.png",
        "Latin",
        "b",
    ];
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut rest = input;
    while let [depth, a, b, length, others @ ..] = rest {
        let names = [a >> 4, a & 15, b >> 4, b & 15];
        let names = &names[..usize::from(depth % 4) + 1];
        let name: Vec<_> = names.iter().map(|i| PARTS[usize::from(*i)]).collect();
        let (content, others) = others.split_at(others.len().min(usize::from(*length)));
        files.push((name.join("/"), with_checksums(edited(PNG, content))));
        rest = others;
    }
    let folder = folder();
    let mut written = Vec::new();
    for (name, bytes) in files {
        let path = folder.path().join("images").join(&name);
        let parent = path.parent().expect("a parent");
        // Names that cannot be beside each other in a folder are left out of both.
        if !path.exists() && fs::create_dir_all(parent).is_ok() && fs::write(&path, &bytes).is_ok()
        {
            written.push((name, bytes));
        }
    }
    let Some(zipped) = zip(&written) else { return };
    let zipped = load(&zipped).ok();
    let unpacked = Omniglot::load(&[folder.path().join("images")], 28).ok();
    // A zip has no folder above its files to be the name of an alphabet.
    if written
        .iter()
        .all(|(name, _)| name.matches('/').count() > 1)
    {
        assert_eq!(zipped, unpacked);
    }
}

/// A straight line, which fails at a step, as a task that can go on from there.
struct Line {
    step: usize,
    fails_at: usize,
    device: Device,
}

impl Task<Mlp> for Line {
    fn loss(&mut self, model: &Mlp) -> Result<StepLoss, TaskError> {
        if self.step == self.fails_at {
            return Err("a failure".into());
        }
        self.step += 1;
        let x = Tensor::<2>::from_floats([[0.0], [1.0]], &self.device);
        Ok((model.predict(x.clone()) - x).square().mean().into())
    }

    fn save(&mut self) -> Result<Option<Vec<u8>>, TaskError> {
        Ok(Some(self.step.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), TaskError> {
        self.step = usize::from_le_bytes(saved.try_into()?);
        Ok(())
    }
}

struct Lines {
    fails_at: usize,
}

impl TaskSet<Mlp> for Lines {
    type Task = Line;

    fn len(&self) -> usize {
        5
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<Line, TaskError> {
        Ok(Line {
            step: 0,
            // The first task of a meta-batch comes to its end.
            fails_at: if context.seed.task == 0 {
                usize::MAX
            } else {
                self.fails_at
            },
            device: context.device.clone(),
        })
        .inspect(|_| debug_assert!(index < 5))
    }
}

fn model() -> Mlp {
    let model = MlpConfig::new(vec![1, 2, 1]).init(&Device::flex().autodiff());
    reinitialize(
        model.expect("a model"),
        &ParamGroup::all(),
        &mut run_rng(0, "model"),
    )
}

fn trainer(folder: &Path) -> MetaTrainer<Leap> {
    let checkpoints = Checkpoints::new(folder, 1).with_task_steps(1);
    MetaTrainer::new(Leap::new())
        .with_meta_batch_size(2)
        .with_task_steps(3)
        .with_task_optimizer(AdamConfig::new().init(), 0.01)
        .with_meta_optimizer(SgdConfig::new().init(), 0.1)
        .with_checkpoints(checkpoints)
}

type NamedFile = (PathBuf, Vec<u8>);

/// Files below a folder, by name.
fn files(folder: &Path) -> Vec<NamedFile> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(here) = open.pop() {
        for entry in fs::read_dir(here).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let bytes = fs::read(&path).expect("a file");
                    let name = path.strip_prefix(folder).expect("below");
                    found.push((name.to_path_buf(), bytes));
                }
            }
        }
    }
    found.sort();
    found
}

/// What a run leaves that failed in its second meta-step, with one task done and one in the middle.
fn left() -> &'static (Mlp, Vec<NamedFile>) {
    static LEFT: OnceLock<(Mlp, Vec<NamedFile>)> = OnceLock::new();
    LEFT.get_or_init(|| {
        let folder = folder();
        let init = model();
        let lanes = Lanes::single(&Device::flex().autodiff());
        let mut run = trainer(folder.path())
            .begin(init.clone())
            .expect("it begins");
        run.step(&Lines { fails_at: 9 }, &lanes)
            .expect("a meta-step");
        run.step(&Lines { fails_at: 2 }, &lanes)
            .expect_err("a failure");
        (init, files(folder.path()))
    })
}

/// Goes on with a run of which one file, whose name ends as said, was edited.
fn go_on(input: &[u8], endings: &[&str]) {
    let (init, files) = left();
    let Some((which, input)) = input.split_first() else {
        return;
    };
    let ending = endings[usize::from(*which) % endings.len()];
    let folder = folder();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        let bytes = match name.to_string_lossy().ends_with(ending) {
            true => edited(bytes, input),
            false => bytes.clone(),
        };
        fs::write(path, bytes).expect("a file");
    }
    if let Ok(mut run) = trainer(folder.path()).resume(init.clone()) {
        let lanes = Lanes::single(&Device::flex().autodiff());
        let _ = run.step(&Lines { fails_at: 9 }, &lanes);
    }
}

/// A file of images of the kind that the first byte says, among sound ones.
fn image_files(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    let idx = |sides: &[u8], bytes: &[u8]| {
        let wide = sides.iter().flat_map(|side| [0, 0, 0, *side]);
        let head = [0, 0, 8, sides.len() as u8].into_iter();
        head.chain(wide)
            .chain(bytes.iter().copied())
            .collect::<Vec<u8>>()
    };
    let images = ("train-images-idx3-ubyte", idx(&[2, 1, 2], &[1, 2, 3, 4]));
    let labels = ("train-labels-idx1-ubyte", idx(&[2], &[0, 1]));
    let pixel = ("a/2.ppm", b"P6 2 2 255\n123456789012".to_vec());
    let of = |name| vec![(name, bytes.to_vec())];
    let files = match kind % 12 {
        0 => [of("train-images-idx3-ubyte"), vec![labels]].concat(),
        1 => [of("train-labels-idx1-ubyte"), vec![images]].concat(),
        2 => [
            of("t10k-images-idx4-ubyte.gz"),
            of("t10k-labels-idx1-ubyte"),
            vec![images, labels],
        ]
        .concat(),
        3 => [of("classes.txt"), vec![images, labels]].concat(),
        4 => of("data_batch_1.bin"),
        5 => of("train.bin"),
        6 => of("train_32x32.mat"),
        7 => [of("a/GT-1.csv"), vec![pixel]].concat(),
        8 => of("images.tar"),
        9 => of("images.zip"),
        _ => [of("b/1.png"), vec![pixel]].concat(),
    };
    let folder = folder();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }
    let config = match kind / 128 {
        0 => ImagesConfig::new(),
        _ => ImagesConfig::new()
            .with_size(Some([3, 2]))
            .with_channels(Some(1)),
    };
    let Ok(data) = config.load(folder.path()) else {
        return;
    };
    let all = data.all().expect("they are few");
    let [channels, height, width] = all.shape();
    for (i, label) in all.labels().iter().enumerate() {
        assert!(*label < all.classes().len());
        assert_eq!(all.image(i).len(), channels * height * width);
    }
}

fn checkpoint(input: &[u8]) {
    go_on(input, &["state.json", "init.bpk", "meta_optimizer.bpk"]);
}

fn saved_task(input: &[u8]) {
    assert_eq!(
        left().1.len(),
        5,
        "the checkpoint's files, a task that is done, one that is not"
    );
    go_on(input, &[".unfinished", ".finished"]);
}

/// An environment in the middle of an episode.
fn saved_environment_of<F: EnvFamily<Env: Render>>(family: F, input: &[u8]) {
    let device = Device::flex().autodiff();
    let context = TaskContext {
        seed: TaskSeed {
            seed: 1,
            purpose: Purpose::Training,
            meta_step: 0,
            task: 0,
        },
        device: device.clone(),
        steps: 3,
    };
    let tasks = A2cConfig::new().with_envs(2).with_unroll(2).tasks(family);
    let new = || TaskSet::<Constant>::task(&tasks, 0, &context).expect("a task");
    let mut task = new();
    let actions = task.env().actions();
    let model = Constant {
        actions,
        bias: Param::from_tensor(Tensor::zeros([1], &device)),
    };
    let model = model.no_grad();
    task.loss(&model).expect("a step");
    let saved = Task::<Constant>::save(&mut task)
        .expect("it is saved")
        .expect("it can be saved");
    let mut task = new();
    if Task::<Constant>::restore(&mut task, &edited(&saved, input)).is_ok() {
        for _ in 0..3 {
            let _ = task.loss(&model);
        }
        task.env().render();
    }
}

/// A model that does not look.
#[derive(Module, Debug)]
struct Constant {
    actions: usize,
    bias: Param<Tensor<1>>,
}

impl ActorCritic for Constant {
    fn act(&self, observations: Tensor<2>) -> (Tensor<2>, Tensor<1>) {
        let value = observations.sum_dim(1).squeeze_dim(1) * 0.0 + self.bias.val();
        (
            value
                .clone()
                .unsqueeze_dim::<2>(1)
                .repeat(&[1, self.actions]),
            value,
        )
    }

    fn actions(&self) -> usize {
        self.actions
    }

    fn with_actions(self, actions: usize) -> Self {
        Self { actions, ..self }
    }
}

fn saved_environment(input: &[u8]) {
    let Some((which, input)) = input.split_first() else {
        return;
    };
    match which % 4 {
        0 => saved_environment_of(CartPoles::new(), input),
        1 => saved_environment_of(MountainCars::new(), input),
        2 => saved_environment_of(Acrobots::new(), input),
        _ => saved_environment_of(Catches::new(), input),
    }
}

/// A second rank that says what it is told to; the first task is this rank's, the second is the other's.
#[derive(Debug)]
struct Rank {
    /// Edits to this rank's own message.
    edits: Vec<u8>,
}

impl Cluster for Rank {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        2
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut other = bytes.to_vec();
        let place = bytes.windows(7).position(|key| key == b"\xa5place\0");
        other[place.expect("the place of the first task") + 6] = 1;
        Ok(vec![bytes.to_vec(), edited(&other, &self.edits)])
    }

    fn all_reduce(&self, _: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }
}

fn message_between_ranks(input: &[u8]) {
    static INIT: OnceLock<Mlp> = OnceLock::new();
    let (summation, edits) = match input.split_first() {
        Some((first, rest)) if first % 2 == 0 => (Summation::Fast, rest),
        Some((_, rest)) => (Summation::Exact, rest),
        None => return,
    };
    let edits = edits.to_vec();
    let lanes = Lanes::single(&Device::flex().autodiff()).with_cluster(Rank { edits }, summation);
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(2)
        .with_task_steps(2);
    let init = INIT.get_or_init(model).clone();
    let mut run = trainer.begin(init).expect("it begins");
    if let Ok(report) = run.step(&Lines { fails_at: 9 }, &lanes) {
        report.summary();
    }
}

fn names(input: &[u8]) {
    let sound = b"flex,cuda:1,ndarray:0,iroh:ID@127.0.0.1:80#1";
    let bytes = edited(sound, input);
    let name = String::from_utf8_lossy(&bytes);
    // No fuzzer shall call other machines.
    if !name.contains("ws://") && !name.contains("iroh:") {
        let _ = leap_core::devices(&name);
    }
    if let Ok(method) = name.parse::<Method>() {
        assert_eq!(method.to_string().parse::<Method>().ok(), Some(method));
    }
}

/// What a run's folder is read as.
fn run_folder(input: &[u8]) {
    static SOUND: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    let config = json!({ "seed": 1, "meta_steps": 2 });
    let open = |folder: &TempDir, existing| RunFolder::open(folder.path(), &config, existing);
    let [sound_config, held_out, metrics] = SOUND.get_or_init(|| {
        let lanes = Lanes::single(&Device::flex().autodiff());
        let trainer = MetaTrainer::new(Leap::new()).with_task_steps(2);
        let report = trainer.evaluate(&model(), &Lines { fails_at: 9 }, &lanes);
        let report = report.expect("a report");
        let folder = folder();
        open(&folder, Existing::Refuse).expect("a folder");
        [
            fs::read(folder.path().join("config.json")).expect("a file"),
            serde_json::to_vec(&report).expect("JSON"),
            [
                serde_json::to_vec(&report.summary()).expect("JSON"),
                b"\n".to_vec(),
            ]
            .concat(),
        ]
    });
    let Some((which, input)) = input.split_first() else {
        return;
    };
    let folder = folder();
    let write =
        |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("a file");
    write("config.json", sound_config);
    match which % 4 {
        0 => write("config.json", &edited(sound_config, input)),
        1 => write("held_out.json", &edited(held_out, input)),
        2 => write("summary.json", &edited(metrics, input)),
        _ => write("metrics.jsonl", &edited(metrics, input)),
    }
    for existing in [Existing::Refuse, Existing::Resume, Existing::Overwrite] {
        let Ok(run) = open(&folder, existing) else {
            continue;
        };
        let _ = run.read_json::<RunSummary>("summary.json");
        let _ = run.read_lines::<MetaStepMetrics>("metrics.jsonl");
        let _ = run.read_json::<Value>("config.json");
        if let Ok(Some(mut report)) = run.read_json::<Report>("held_out.json") {
            let other = report.clone();
            report.compare(&other);
            report.summary();
            report.curve();
        }
    }
}
