//! Checkpoints: a resumed run has the same numbers, one with other settings is refused, and a kill at any moment costs nothing
//! that was saved.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use burn::module::{Module, ParamGroup};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdamConfig, AdamWConfig, SgdConfig};
use burn::tensor::Device;
use leap_core::{
    Checkpoints, EarlyStopping, Error, InnerLoop, Lanes, Leap, MetaTrainer, ParamSpace, Statistics,
    TaskReport, reinitialize, run_rng,
};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::Sinusoids;

fn flex() -> Device {
    Device::flex().autodiff()
}

fn mlp(device: &Device) -> Mlp {
    let mlp = MlpConfig::new(vec![1, 16, 16, 1]).init(device).unwrap();
    reinitialize(mlp, &ParamGroup::all(), &mut run_rng(3, "parameters"))
}

/// All parameters, as bits.
fn bits<M: Module>(model: &M) -> Vec<u64> {
    let space = ParamSpace::new(model, &ParamGroup::all()).unwrap();
    let values = space.point(model).unwrap().to_vec().unwrap();
    values.into_iter().map(f64::to_bits).collect()
}

#[test]
fn a_resumed_run_equals_one_without_interruption() {
    let device = flex();
    let lanes = Lanes::threads(&device, 2).unwrap();
    let tasks = Sinusoids::new();
    let folder = tempfile::tempdir().unwrap();
    let trainer = |checkpoints: &Path| {
        let schedule =
            burn::lr_scheduler::exponential::ExponentialLrSchedulerConfig::new(0.02, 0.9);
        MetaTrainer::new(Leap::new())
            .with_meta_batch_size(3)
            .with_task_steps(5)
            .with_task_optimizer(SgdConfig::new().init(), 0.02)
            .with_meta_optimizer(AdamConfig::new().init(), schedule.init().unwrap())
            .with_checkpoints(Checkpoints::new(checkpoints, 2))
    };
    let straight = trainer(&folder.path().join("a"));
    let straight = straight.fit(mlp(&device), 7, &tasks, &lanes).unwrap();

    // Ends after 5 meta-steps; the last checkpoint is of the 4th.
    let broken = trainer(&folder.path().join("b"));
    broken.fit(mlp(&device), 5, &tasks, &lanes).unwrap();
    let mut resumed = broken.resume(mlp(&device)).unwrap();
    assert_eq!(resumed.meta_step(), 4);
    while resumed.meta_step() < 7 {
        resumed.step(&tasks, &lanes).unwrap();
    }
    assert_eq!(bits(resumed.init()), bits(&straight));
    let left: Vec<_> = std::fs::read_dir(folder.path().join("b"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "older checkpoints are removed: {left:?}");
}

#[test]
fn wrong_checkpoints_are_refused_with_a_reason() {
    let device = flex();
    let lanes = Lanes::single(&device);
    let folder = tempfile::tempdir().unwrap();
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(1)
        .with_task_steps(2)
        .with_checkpoints(Checkpoints::new(folder.path(), 1));
    let resume_error = |trainer: &MetaTrainer<Leap>| match trainer.resume(mlp(&device)) {
        Ok(_) => panic!("should not resume"),
        Err(error) => error.to_string(),
    };
    assert_eq!(
        trainer.resume(mlp(&device)).unwrap().meta_step(),
        0,
        "nothing to resume is no error"
    );
    trainer
        .fit(mlp(&device), 1, &Sinusoids::new(), &lanes)
        .unwrap();
    let error = resume_error(&trainer.clone().with_seed(9));
    assert!(
        error.contains("another run") && error.contains("seed: 0 then, 9 now"),
        "{error}"
    );

    let checkpoint = Checkpoints::new(folder.path(), 1)
        .newest()
        .unwrap()
        .unwrap();
    let other = trainer.resume(MlpConfig::new(vec![1, 8, 1]).init(&device).unwrap());
    assert!(matches!(other, Err(Error::Checkpoint { .. })));
    for file in ["init.bpk", "meta_optimizer.bpk", "state.json"] {
        let path = checkpoint.join(file);
        let sound = std::fs::read(&path).unwrap();
        std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
        let error = resume_error(&trainer);
        assert!(error.contains(file), "{error}");
        std::fs::write(&path, sound).unwrap();
    }
    assert_eq!(trainer.resume(mlp(&device)).unwrap().meta_step(), 1);
}

#[test]
fn what_decides_the_numbers_is_what_resumed_runs_have_in_common() {
    let device = flex();
    let lanes = Lanes::single(&device);
    let folder = tempfile::tempdir().unwrap();
    let before = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(2)
        .with_task_steps(3)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
        .with_meta_optimizer(AdamConfig::new().init(), 0.01)
        .with_checkpoints(Checkpoints::new(folder.path(), 1));
    let tasks = Sinusoids::new();
    before.fit(mlp(&device), 2, &tasks, &lanes).unwrap();
    assert_eq!(before.resume(mlp(&device)).unwrap().meta_step(), 2);

    let clipping = burn::grad_clipping::GradientClippingConfig::Norm(1.0);
    let clipped = SgdConfig::new().init().with_grad_clipping(clipping.init());
    let cosine = burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig::new(0.01, 50);
    let changes = [
        ("learner", before.clone().with_seed(9)),
        ("task steps", before.clone().with_task_steps(4)),
        (
            "task optimizer",
            before
                .clone()
                .with_task_optimizer(SgdConfig::new().init(), 0.5),
        ),
        (
            "task optimizer",
            before
                .clone()
                .with_task_optimizer(AdamConfig::new().init(), 0.01),
        ),
        (
            "task optimizer",
            before.clone().with_task_optimizer(clipped, 0.01),
        ),
        (
            "task optimizer",
            before
                .clone()
                .with_task_optimizer(SgdConfig::new().init(), cosine.init().unwrap()),
        ),
        (
            "meta-optimizer",
            before
                .clone()
                .with_meta_optimizer(AdamConfig::new().init(), 0.5),
        ),
        (
            "meta-optimizer",
            before
                .clone()
                .with_meta_optimizer(SgdConfig::new().init(), 0.01),
        ),
        (
            "meta-optimizer",
            before.clone().with_meta_optimizer(
                AdamConfig::new()
                    .with_weight_decay(Some(WeightDecayConfig::new(0.01)))
                    .init(),
                0.01,
            ),
        ),
        (
            "meta-learned parameters",
            before
                .clone()
                .with_shared(ParamGroup::from_predicate("layers.0")),
        ),
    ];
    for (what, trainer) in changes {
        let what = if what == "learner" { "seed" } else { what };
        let Err(error) = trainer.resume(mlp(&device)) else {
            panic!("another {what} was accepted")
        };
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    let other = mlp(&device);
    let other = reinitialize(other, &ParamGroup::all(), &mut run_rng(7, "another"));
    let error = before
        .resume(other.clone())
        .err()
        .expect("another initialization");
    assert!(
        error.to_string().contains("initialization at the start"),
        "{error}"
    );

    // A second run into the same folder.
    let again = before
        .clone()
        .with_meta_optimizer(AdamConfig::new().init(), 0.5);
    let error = again.fit(other.clone(), 2, &tasks, &lanes).unwrap_err();
    assert!(error.to_string().contains("earlier run"), "{error}");
    let mut run = again.begin(other.clone()).unwrap();
    let error = run.step(&tasks, &lanes).unwrap_err();
    assert!(error.to_string().contains("earlier run"), "{error}");
    let replacing = Checkpoints::new(folder.path(), 1).with_overwrite();
    let again = again.with_checkpoints(replacing);
    let second = again.fit(other.clone(), 3, &tasks, &lanes).unwrap();
    let resumed = again.resume(other).unwrap();
    assert_eq!(resumed.meta_step(), 3);
    assert_eq!(bits(resumed.init()), bits(&second));
}

/// Weight decay beside gradients, and statistics by which a check looks at a model, are what a run is, too.
#[test]
fn little_that_decides_the_numbers_is_compared_too() {
    let device = flex();
    let folder = tempfile::tempdir().unwrap();
    let refused = |before: &MetaTrainer<Leap>, now: &MetaTrainer<Leap>, what: &str| {
        let mut run = before.begin(mlp(&device)).unwrap();
        run.save_checkpoint().unwrap();
        assert_eq!(before.resume(mlp(&device)).unwrap().meta_step(), 0);
        let error = now.resume(mlp(&device)).err().expect("another run");
        assert!(error.to_string().contains(what), "{error}");
    };
    let trainer = |name: &str| {
        let checkpoints = Checkpoints::new(folder.path().join(name), 1);
        MetaTrainer::new(Leap::new()).with_checkpoints(checkpoints)
    };
    let decayed = |trainer: MetaTrainer<Leap>, decay: f32| {
        let optimizer = AdamWConfig::new().with_weight_decay(decay).init();
        trainer.with_task_optimizer(optimizer, 0.001)
    };
    refused(
        &decayed(trainer("decay"), 0.0),
        &decayed(trainer("decay"), 0.01),
        "task optimizer",
    );
    let stopping =
        InnerLoop::new(5, SgdConfig::new().init(), 0.1).with_early_stopping(EarlyStopping::new());
    let stopped = trainer("stopping").with_task_training(stopping);
    let running = stopped
        .clone()
        .with_held_out_statistics(Statistics::Running);
    let batch = stopped.with_held_out_statistics(Statistics::Batch);
    refused(&running, &batch, "early stopping");
    // An optimizer whose steps are not finite is one nevertheless.
    let wild = trainer("wild").with_meta_optimizer(SgdConfig::new().init(), 1e39);
    let mild = trainer("wild").with_meta_optimizer(SgdConfig::new().init(), 0.1);
    refused(&wild, &mild, "meta-optimizer");
}

/// Tasks that were saved are those of their own set and optimizer.
#[test]
fn saved_tasks_of_others_are_not_gone_on_with() {
    let device = flex();
    let lanes = Lanes::single(&device);
    let folder = tempfile::tempdir().unwrap();
    let trainer = |decay: f32| {
        MetaTrainer::new(Leap::new())
            .with_task_steps(4)
            .with_task_optimizer(AdamWConfig::new().with_weight_decay(decay).init(), 0.01)
            .with_checkpoints(Checkpoints::new(folder.path(), 0).with_task_steps(2))
    };
    let tasks = |seed: u64| Sinusoids::new().with_tasks(3).with_seed(seed);
    let losses = |trainer: MetaTrainer<Leap>, seed: u64| {
        let report = trainer
            .evaluate(&mlp(&device), &tasks(seed), &lanes)
            .unwrap();
        let of = report.tasks.iter().map(|task| task.curve.loss.clone());
        of.collect::<Vec<_>>()
    };
    let expected = [(0.0, 1), (0.0, 2), (0.5, 1)].map(|(decay, seed)| {
        let alone = losses(trainer(decay), seed);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        (decay, seed, alone)
    });
    // Ends after two of the tasks.
    let fails = |report: &TaskReport, _: &Mlp| match report.index {
        2 => Err("no".into()),
        _ => Ok(()),
    };
    let broken = trainer(0.0).evaluate_with(&mlp(&device), &tasks(1), &lanes, fails);
    assert!(broken.is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    for (decay, seed, alone) in expected.iter().rev() {
        assert_eq!(&losses(trainer(*decay), *seed), alone, "{decay} {seed}");
    }
}

/// Not a test of its own: what the next test starts and kills.
#[test]
#[ignore = "runs until it is killed"]
fn child_that_is_killed() {
    let folder = std::env::var("LEAP_TEST_CHECKPOINTS").unwrap();
    let trainer = killed_trainer(Path::new(&folder));
    let device = flex();
    let mut run = trainer.resume(mlp(&device)).unwrap();
    loop {
        run.step(&Sinusoids::new(), &Lanes::single(&device))
            .unwrap();
    }
}

fn killed_trainer(folder: &Path) -> MetaTrainer<Leap> {
    MetaTrainer::new(Leap::new())
        .with_meta_batch_size(1)
        .with_task_steps(2)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
        .with_meta_optimizer(AdamConfig::new().init(), 0.001)
        .with_checkpoints(Checkpoints::new(folder, 1))
}

#[test]
fn killed_at_any_moment_the_last_checkpoint_still_loads() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for kill in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--ignored"])
            .env("LEAP_TEST_CHECKPOINTS", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Until there is a new checkpoint, then for some odd time more.
        let step = || {
            let newest = Checkpoints::new(folder.path(), 1).newest().ok()??;
            newest
                .file_name()?
                .to_str()?
                .rsplit_once('-')?
                .1
                .parse::<usize>()
                .ok()
        };
        while step().unwrap_or(0) <= last {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the child ended by itself"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(1_700 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        let run = killed_trainer(folder.path()).resume(mlp(&flex())).unwrap();
        assert!(run.meta_step() > last, "{} after {last}", run.meta_step());
        last = run.meta_step();
    }
}
