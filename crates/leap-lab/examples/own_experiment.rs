//! An experiment of one's own: a model, tasks, and a sweep over methods and seeds that ends in a report page.

use std::process::ExitCode;

use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor, TensorData};
use leap_core::{MetaTrainer, Method, StepLoss, Task, TaskContext, TaskError, TaskRng, TaskSet};
use leap_lab::{Experiment, Run, Sweep, end, interruption};
use rand::Rng;

/// Planes in three dimensions, each a task: to predict its height.
struct Planes;

struct Plane(TaskRng, Device);

impl TaskSet<Linear> for Planes {
    type Task = Plane;

    fn len(&self) -> usize {
        20
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<Plane, TaskError> {
        Ok(Plane(context.rng(), context.device.clone()))
    }
}

impl Task<Linear> for Plane {
    fn loss(&mut self, model: &Linear) -> Result<StepLoss, TaskError> {
        let points: Vec<f32> = (0..16).map(|_| self.0.random_range(-1.0..1.0)).collect();
        let points = Tensor::<2>::from_data(TensorData::new(points, [8, 2]), &self.1);
        let heights = points.clone().sum_dim(1) * 2.0 + 1.0;
        Ok((model.forward(points) - heights).square().mean().into())
    }
}

impl Experiment for Planes {
    type Model = Linear;
    type Learner = Method;
    type Train = Planes;
    type HeldOut = Planes;

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "task_lr": 0.05, "task_steps": 10, "meta_batch": 4 })
    }

    fn model(&self, _run: &Run, device: &Device) -> Result<Linear, TaskError> {
        Ok(LinearConfig::new(2, 1).init(device))
    }

    fn train(&self, _run: &Run) -> Result<Planes, TaskError> {
        Ok(Planes)
    }

    fn held_out(&self, _run: &Run) -> Result<Planes, TaskError> {
        Ok(Planes)
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Method>, TaskError> {
        Ok(MetaTrainer::new(run.method()?)
            .with_task_steps(10)
            .with_meta_batch_size(4)
            .with_task_optimizer(SgdConfig::new().init(), 0.05))
    }
}

fn main() -> ExitCode {
    let sweep = |stop| {
        Sweep::new("Planes", "runs/planes")
            .with_methods(["leap", "reptile"])
            .with_seeds([1, 2, 3])
            .with_meta_steps(30)
            .with_stop(stop)
            .run(&Planes)
    };
    end(interruption().and_then(sweep).map(|_| ()))
}
