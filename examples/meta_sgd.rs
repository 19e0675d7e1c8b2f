//! A meta-learner of one's own: Leap that learns learning rates too, one for each parameter, as Meta-SGD does
//! (Li, Zhou, Chen, Li, [arXiv 1707.09835](https://arxiv.org/abs/1707.09835)) for MAML. Compared with Leap on sinusoids:
//!
//! ```text
//! cargo run --example meta_sgd
//! ```

use std::sync::Arc;

use burn::module::{Module, Param, ParamGroup};
use burn::optim::{AdamConfig, GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Parser;
use leap_core::{
    Error, InnerLoop, Lanes, Leap, LeapPath, Learned, LearningCurve, LearningPath, MetaLearner,
    MetaTrainer, ParamSpace, Predict, Pull, Summary, Task, TaskError, reinitialize, run_rng,
};
use leap_lab::{not_negative, say};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::Sinusoids;

/// A net with the logarithms of its learning rates, one for each parameter, which multiply that of the optimizer. They
/// are meta-learned like any parameter.
#[derive(Module, Debug)]
struct Rated {
    net: Mlp,
    log_rates: Param<Tensor<1>>,
}

impl Predict<Tensor<2>> for Rated {
    fn predict(&self, inputs: Tensor<2>) -> Tensor<2> {
        self.net.predict(inputs)
    }
}

// The meta-learner, from here to `main`.

#[derive(Clone, Debug)]
struct LeapWithRates;

/// Leap's path of the net, with what its forces do to the log rates ρ: a point is θⁱ = θ⁰ − Σ e^ρ g, so that
/// dθⁱ/dρ = θⁱ − θ⁰, and a force on the point is one on ρ.
struct RatedPath {
    leap: LeapPath,
    /// How far the net has moved, and the meta-gradient of the log rates.
    sums: [Tensor<1>; 2],
}

impl LearningPath for RatedPath {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        if let Some(Pull { segment, force }) = self.leap.advance(model, loss, grads)? {
            let [moved, on_rates] = &mut self.sums;
            *on_rates = on_rates.clone() - moved.clone() * force.values().clone();
            *moved = moved.clone() + segment.step.values().clone();
        }
        Ok(())
    }
}

impl MetaLearner<Rated> for LeapWithRates {
    fn learn<T: Task<Rated>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: Rated,
        task: &mut T,
    ) -> Result<Learned<Rated>, TaskError> {
        let leap = Leap::new().path(&ParamSpace::new(&model.net, &ParamGroup::all())?);
        let sums = [0, 1].map(|_| model.log_rates.val().inner().zeros_like());
        let mut path = RatedPath { leap, sums };
        let (model, curve) = self.adapt(inner, model, task, &mut path)?;
        let learned = path.leap.finish()?;
        let mut gradient = learned.gradient.into_gradients();
        gradient.register(model.log_rates.id, path.sums[1].clone());
        Ok(Learned {
            gradient: space.gradient(&model, &gradient)?,
            figures: Some(learned.figures),
            model,
            curve,
        })
    }

    fn adapt<T: Task<Rated>>(
        &self,
        inner: &InnerLoop,
        model: Rated,
        task: &mut T,
        path: &mut impl LearningPath,
    ) -> Result<(Rated, LearningCurve), TaskError> {
        let net = ParamSpace::new(&model.net, &ParamGroup::all())?;
        let rates = model.log_rates.val().inner().exp();
        inner.run_with(model, task, path, |model, grads| {
            let gradient = net.gradient(model, &grads)?;
            Ok(gradient.map(|g| g * rates.clone()).into_gradients())
        })
    }
}

/// Compares Leap with and without learned rates on 50 held-out sinusoids, a seed at a time.
#[derive(Parser)]
struct Args {
    /// Number of seeds
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    #[arg(long, default_value_t = 200, value_parser = not_negative::<usize>)]
    meta_steps: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let device = Device::flex().autodiff();
    let lanes = Lanes::threads(&device, 2)?;
    for seed in 0..args.seeds {
        let net = MlpConfig::new(vec![1, 40, 40, 1]).init(&device)?;
        let rng = &mut run_rng(seed, "initial parameters");
        let net = reinitialize(net, &ParamGroup::all(), rng);
        let rated = Rated {
            log_rates: Param::from_data(TensorData::zeros::<f32, _>([net.num_params()]), &device),
            net: net.clone(),
        };
        let held_out = Sinusoids::new().with_tasks(50).with_seed(1000 + seed);

        let trainer = trainer(Leap::new(), seed);
        let init = trainer.fit(net, args.meta_steps, &Sinusoids::new(), &lanes)?;
        let plain = trainer.evaluate(&init, &held_out, &lanes)?.summary();

        let trainer = self::trainer(LeapWithRates, seed);
        let init = trainer.fit(rated, args.meta_steps, &Sinusoids::new(), &lanes)?;
        let learned = trainer.evaluate(&init, &held_out, &lanes)?.summary();
        let rates = init.log_rates.val().exp();
        let range = [rates.clone().min(), rates.max()].map(|rate| rate.into_scalar::<f32>());

        let error = |s: &Summary| s.held_out_loss.unwrap_or(f64::NAN);
        say(&format!(
            "seed {seed}: AUC {:.4} with Leap, {:.4} with learned rates; error at the end {:.4}, {:.4}; rates times {:.2} to {:.2}",
            plain.auc,
            learned.auc,
            error(&plain),
            error(&learned),
            range[0],
            range[1]
        ));
    }
    Ok(())
}

fn trainer<L: Clone>(learner: L, seed: u64) -> MetaTrainer<L> {
    MetaTrainer::new(learner)
        .with_seed(seed)
        .with_meta_batch_size(10)
        .with_task_steps(50)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
        .with_meta_optimizer(AdamConfig::new().init(), 0.01)
}
