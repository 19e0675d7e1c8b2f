//! How a task trains: for how long, with which learning rates, and when it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::{Module, Param};
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor};
use leap_core::{
    Checkpoints, EarlyStopping, Error, HeldOut, InnerLoop, Lanes, Leap, Maml, MetaTrainer, Report,
    StepLoss, Task, TaskContext, TaskError, TaskSet,
};
use leap_models::MlpConfig;
use leap_tasks::Sinusoids;

/// A model of one number.
#[derive(Module, Debug)]
struct Number {
    value: Param<Tensor<1>>,
}

impl Number {
    fn new(device: &Device) -> Self {
        let value = Param::from_tensor(Tensor::from_floats([0.0], device));
        Self { value }
    }

    fn read(&self) -> f64 {
        f64::from(self.value.val().inner().into_scalar::<f32>())
    }
}

/// Tasks whose gradient is -1, so that the number is the sum of the learning rates.
#[derive(Clone, Default)]
struct Climb {
    /// Steps of each task.
    steps: Vec<Option<usize>>,
    /// What checks find, one after the other.
    errors: Vec<f64>,
    /// Set at a step, to stop there.
    stop: Option<(usize, Arc<AtomicBool>)>,
}

struct Climber {
    own: Option<usize>,
    climb: Climb,
    steps: usize,
    checks: usize,
}

impl TaskSet<Number> for Climb {
    type Task = Climber;

    fn len(&self) -> usize {
        self.steps.len()
    }

    fn task(&self, index: usize, _context: &TaskContext) -> Result<Climber, TaskError> {
        Ok(Climber {
            own: self.steps[index],
            climb: self.clone(),
            steps: 0,
            checks: 0,
        })
    }
}

impl Task<Number> for Climber {
    fn loss(&mut self, model: &Number) -> Result<StepLoss, TaskError> {
        self.steps += 1;
        if let Some((step, stop)) = &self.climb.stop
            && *step == self.steps
        {
            stop.store(true, Ordering::Relaxed);
        }
        Ok((-model.value.val()).into())
    }

    fn steps(&self) -> Option<usize> {
        self.own
    }

    fn validate(&mut self, model: &Number) -> Result<Option<HeldOut>, TaskError> {
        assert!(
            !model.devices()[0].is_autodiff(),
            "it is in evaluation mode"
        );
        let error = self.climb.errors.get(self.checks).copied();
        self.checks += 1;
        let error = error.map(|loss| HeldOut {
            loss,
            accuracy: None,
        });
        Ok(error.filter(|error| error.loss.is_nan() || error.loss >= 0.0))
    }

    /// The number that training ended with.
    fn held_out(&mut self, model: &Number) -> Result<Option<HeldOut>, TaskError> {
        Ok(Some(HeldOut {
            loss: model.read(),
            accuracy: None,
        }))
    }

    fn save(&mut self) -> Result<Option<Vec<u8>>, TaskError> {
        Ok(Some(vec![self.steps as u8, self.checks as u8]))
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), TaskError> {
        (self.steps, self.checks) = (saved[0].into(), saved[1].into());
        Ok(())
    }
}

fn flex() -> Device {
    Device::flex().autodiff()
}

fn evaluate(inner: InnerLoop, tasks: &Climb) -> Result<Report, Error> {
    let trainer = MetaTrainer::new(Leap::new()).with_task_training(inner);
    let device = flex();
    trainer.evaluate(&Number::new(&device), tasks, &Lanes::single(&device))
}

/// Steps that were taken, and the number at the end, of each task.
fn ends(report: &Report) -> Vec<(usize, f64)> {
    let end = |t: &leap_core::TaskReport| (t.curve.loss.len(), t.held_out.unwrap().loss);
    report.tasks.iter().map(end).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-5
}

#[test]
fn a_schedule_is_as_long_as_its_task() {
    let cosine = InnerLoop::new(20, SgdConfig::new().init(), 0.1)
        .with_lr_schedule(|steps| CosineAnnealingLrSchedulerConfig::new(0.1, steps).init());
    let tasks = Climb {
        steps: vec![Some(8), None, Some(100)],
        ..Climb::default()
    };
    let found = ends(&evaluate(cosine, &tasks).unwrap());
    // 0.05 (1 + cos(pi t / T)) at t = 0 … T - 1.
    let sum = |steps: usize| {
        let rate = |t| 0.05 * (1.0 + (std::f64::consts::PI * f64::from(t) / steps as f64).cos());
        (0..steps as u32).map(rate).sum::<f64>()
    };
    for ((steps, end), expected) in found.into_iter().zip([8, 20, 20]) {
        assert_eq!(steps, expected);
        assert!(
            close(end, sum(steps)),
            "{end} after {steps} steps, not {}",
            sum(steps)
        );
    }
    let wrong = InnerLoop::new(20, SgdConfig::new().init(), 0.1)
        .with_lr_schedule(|_| Err("no rate for it".into()));
    let error = evaluate(wrong, &tasks).unwrap_err().to_string();
    assert!(error.contains("no rate for it"), "{error}");
}

#[test]
fn training_stops_where_validation_no_longer_gets_better() {
    let stopping = |every, patience| {
        InnerLoop::new(30, SgdConfig::new().init(), 1.0)
            .with_early_stopping(EarlyStopping { every, patience })
    };
    let tasks = |errors: &[f64]| Climb {
        steps: vec![None],
        errors: errors.to_vec(),
        ..Climb::default()
    };
    // The third check is the best, the two after it are not better: one of them is equal, one no number.
    let falls = tasks(&[0.5, 0.6, 0.4, 0.4, f64::NAN, 0.1]);
    assert_eq!(ends(&evaluate(stopping(1, 2), &falls).unwrap()), [(5, 3.0)]);
    assert_eq!(
        ends(&evaluate(stopping(4, 2), &falls).unwrap()),
        [(20, 12.0)]
    );
    // With more patience the sixth is found, and nothing can be said later: training goes to its end.
    assert_eq!(
        ends(&evaluate(stopping(1, 3), &falls).unwrap()),
        [(30, 6.0)]
    );
    // Below 0 stands for a check that says nothing; without any, the last model stays.
    assert_eq!(
        ends(&evaluate(stopping(1, 1), &tasks(&[-1.0; 9])).unwrap()),
        [(30, 30.0)]
    );
    // A first check that is no number is not the best for ever.
    assert_eq!(
        ends(&evaluate(stopping(1, 2), &tasks(&[f64::NAN, 0.5, 0.6, 0.7])).unwrap()),
        [(4, 2.0)]
    );
    assert!(evaluate(stopping(0, 1), &falls).is_err());
    assert!(evaluate(stopping(1, 0), &falls).is_err());
}

#[test]
fn a_stopped_task_goes_on_with_its_checks() {
    let (device, folder) = (flex(), tempfile::tempdir().unwrap());
    let run = |name: &str, stop: Option<(usize, Arc<AtomicBool>)>| {
        let flag = stop
            .as_ref()
            .map_or(Arc::default(), |(_, flag)| flag.clone());
        let tasks = Climb {
            steps: vec![None],
            errors: vec![0.5, 0.4, 0.6, 0.7, 0.8, 0.1],
            stop,
        };
        let inner =
            InnerLoop::new(20, SgdConfig::new().init(), 1.0).with_early_stopping(EarlyStopping {
                every: 2,
                patience: 3,
            });
        let checkpoints = Checkpoints::new(folder.path().join(name), 1).with_task_steps(3);
        let trainer = MetaTrainer::new(Leap::new())
            .with_task_training(inner)
            .with_stop(flag)
            .with_checkpoints(checkpoints);
        trainer.evaluate(&Number::new(&device), &tasks, &Lanes::single(&device))
    };
    let straight = ends(&run("a", None).unwrap());
    assert_eq!(straight, [(10, 4.0)]);
    // Stopped at the 8th step, with the best model and two worse checks behind it; it goes on after the 6th.
    let stopped = run("b", Some((8, Arc::default())));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert_eq!(ends(&run("b", None).unwrap()), straight);
}

#[test]
fn held_out_tasks_may_train_otherwise() {
    let device = flex();
    let trainer = MetaTrainer::new(Leap::new())
        .with_task_steps(3)
        .with_task_optimizer(SgdConfig::new().init(), 1.0)
        .with_meta_batch_size(1)
        .with_held_out_training(InnerLoop::new(7, SgdConfig::new().init(), 0.5));
    let tasks: Box<Climb> = Box::new(Climb {
        steps: vec![None],
        ..Climb::default()
    });
    let lanes = Lanes::single(&device);
    let mut run = trainer.begin(Number::new(&device)).unwrap();
    assert_eq!(ends(&run.step(&tasks, &lanes).unwrap()), [(3, 3.0)]);
    let report = trainer
        .evaluate(&Number::new(&device), &tasks, &lanes)
        .unwrap();
    assert_eq!(ends(&report), [(7, 3.5)]);
    assert_eq!(report.summary().steps, Some(7.0));
    assert_eq!(trainer.held_out_steps(), 7);
}

#[test]
fn what_cannot_stop_early_says_so() {
    let (device, stopping) = (flex(), EarlyStopping::new());
    let inner = InnerLoop::new(3, SgdConfig::new().init(), 0.01).with_early_stopping(stopping);
    let lanes = Lanes::single(&device);
    let mlp = MlpConfig::new(vec![1, 8, 1]).init(&device).unwrap();
    let maml = MetaTrainer::new(Maml::new()).with_task_training(inner.clone());
    let error = maml
        .fit(mlp.clone(), 1, &Sinusoids::new(), &lanes)
        .unwrap_err();
    assert!(error.to_string().contains("may stop early"), "{error}");
    // Sinusoids can, with a better model for it: the best of 40 checks cannot be worse than the last.
    let rate = InnerLoop::new(40, SgdConfig::new().init(), 0.1);
    let error = |inner: InnerLoop| {
        let trainer = MetaTrainer::new(Leap::new()).with_task_training(inner);
        let report = trainer
            .evaluate(&mlp, &Sinusoids::new().with_tasks(8), &lanes)
            .unwrap();
        report.summary().held_out_loss.unwrap()
    };
    let best = error(rate.clone().with_early_stopping(stopping.with_patience(40)));
    assert!(best < error(rate), "{best}");
}
