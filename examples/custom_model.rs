//! Your own module, your own task, your own loop.
//!
//! The task is a small linear dynamical system, different for every task, whose next state the model is to
//! foresee; it goes on by itself between the steps, as an environment does.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams, SgdConfig};
use burn::tensor::activation::tanh;
use burn::tensor::{Device, Tensor};
use leap_core::{Leap, LearningPath, MetaGradient, TaskRng, run_rng};
use leap_lab::say;
use rand::Rng;

/// Any Burn module will do.
#[derive(Module, Debug)]
struct Foresight {
    hidden: Linear,
    output: Linear,
}

impl Foresight {
    fn new(device: &Device) -> Self {
        Self {
            hidden: LinearConfig::new(2, 32).init(device),
            output: LinearConfig::new(32, 2).init(device),
        }
    }

    fn forward(&self, state: Tensor<2>) -> Tensor<2> {
        self.output.forward(tanh(self.hidden.forward(state)))
    }
}

/// A rotation with damping: x' = damping · R(angle) · x. Each step shows the next 16 states.
struct Pendulum {
    angle: f32,
    damping: f32,
    state: [f32; 2],
    rng: TaskRng,
}

impl Pendulum {
    fn new(index: usize) -> Self {
        let mut rng = run_rng(0, &format!("pendulum {index}"));
        Self {
            angle: rng.random_range(0.2..1.2),
            damping: rng.random_range(0.9..1.0),
            state: [1.0, 0.0],
            rng,
        }
    }

    fn loss(&mut self, model: &Foresight, device: &Device) -> Tensor<1> {
        let mut states = Vec::new();
        for _ in 0..17 {
            states.push(self.state);
            let ([x, y], (sin, cos)) = (self.state, self.angle.sin_cos());
            let push = self.rng.random_range(-0.05..0.05);
            self.state = [
                self.damping * (cos * x - sin * y) + push,
                self.damping * (sin * x + cos * y),
            ];
        }
        let states: Tensor<2> =
            Tensor::from_floats(<[[f32; 2]; 17]>::try_from(states).unwrap(), device);
        let (now, next) = (
            states.clone().slice_dim(0, 0..16),
            states.slice_dim(0, 1..17),
        );
        (model.forward(now) - next).square().mean()
    }
}

fn main() -> Result<(), leap_core::Error> {
    let device = Device::flex().autodiff();
    let leap = Leap::new();
    let mut init = Foresight::new(&device);
    let mut outer = AdamConfig::new().init();

    for meta_step in 0..=60 {
        let (mut meta, mut total) = (MetaGradient::new(), 0.0);
        for index in 0..8 {
            let mut task = Pendulum::new(8 * meta_step + index);
            let (mut model, mut path) = leap.begin(&init)?;
            let mut inner = SgdConfig::new().init();
            for _ in 0..10 {
                let loss = task.loss(&model, &device);
                let grads = GradientsParams::from_grads(loss.backward(), &model);
                path.record(&model, &loss, &grads)?;
                model = inner.step(0.2, model, grads);
            }
            total += task.loss(&model, &device).into_scalar::<f32>() / 8.0;
            meta.add(path.finish()?.gradient)?;
        }
        if meta_step % 10 == 0 {
            say(&format!(
                "meta-step {meta_step:2}: error after 10 steps {total:.5}"
            ));
        }
        init = outer.step(0.01, init, meta.take(&device)?);
    }
    Ok(())
}
