//! A meta-learner of one's own: Leap that learns learning rates too, one for each parameter tensor, as Meta-SGD does
//! (Li, Zhou, Chen, Li, [arXiv 1707.09835](https://arxiv.org/abs/1707.09835)) for MAML. Compared with Leap on sinusoids:
//!
//! ```text
//! cargo run --example meta_sgd
//! ```

use std::sync::Arc;

use burn::module::{Module, Param, ParamGroup};
use burn::optim::{AdamConfig, GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor, TensorData};
use leap_core::{
    Error, InnerLoop, Lanes, Leap, Learned, LearningCurve, LearningPath, MetaLearner, MetaTrainer,
    ParamSpace, ParamVector, PathMeter, Predict, Summary, Task, TaskError, redraw, run_rng,
};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::Sinusoids;

/// A model with the logarithms of its learning rates, which multiply that of the optimizer. They are meta-learned
/// like any parameter.
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

#[derive(Clone, Debug)]
struct LeapWithRates;

/// Leap's path through the net's parameters, with the gradient of its length with respect to the log rates: a
/// point is θⁱ = θ⁰ − Σ e^ρ g, so that dθⁱ/dρ = θⁱ − θ⁰, and what pulls on the point pulls on ρ.
struct RatedPath {
    net: Arc<ParamSpace>,
    meter: PathMeter,
    start: Option<ParamVector>,
    last: Option<(ParamVector, ParamVector)>,
    gradient: Option<(ParamVector, Tensor<1>)>,
}

impl LearningPath for RatedPath {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        let here = self.net.point(model)?;
        let start = self.start.get_or_insert_with(|| here.clone()).clone();
        let segment = self.meter.advance(model, loss)?;
        let last = self.last.replace((here, self.net.gradient(model, grads)?));
        if let (Some(segment), Some((point, gradient))) = (segment, last) {
            let pull = segment.step - gradient.scale(&segment.rise.abs());
            let pull = pull.scale(&segment.length.clamp_min(1e-19).recip());
            let moved = (point - start).map(|moved| moved * pull.values().clone());
            let on_rates: Vec<_> = moved.split().into_iter().map(|part| part.sum()).collect();
            let on_rates = Tensor::cat(on_rates, 0);
            self.gradient = Some(match self.gradient.take() {
                None => (pull.map(|p| -p), -on_rates),
                Some((net, rates)) => (net - pull, rates - on_rates),
            });
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
        let net = ParamSpace::new(&model.net, &ParamGroup::all())?;
        let meter = PathMeter::new(&net, true);
        let (start, last, gradient) = (None, None, None);
        let mut path = RatedPath {
            net,
            meter,
            start,
            last,
            gradient,
        };
        let (model, curve) = self.adapt(inner, model, task, &mut path)?;
        let (on_net, on_rates) = path.gradient.ok_or("a task needs at least two steps")?;
        let mut gradient = on_net.into_gradients();
        gradient.register(model.log_rates.id, on_rates);
        let gradient = space.gradient(&model, &gradient)?;
        let figures = path.meter.figures();
        Ok(Learned {
            model,
            curve,
            gradient,
            figures,
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
            let mut rates = rates.clone().split(1, 0).into_iter();
            let gradient = net.gradient(model, &grads)?;
            let scaled = gradient.map_params(|part| part * rates.next().expect("one for each"));
            Ok(scaled.into_gradients())
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let lanes = Lanes::threads(&device, 2)?;
    for seed in 0..5 {
        let net = MlpConfig::new(vec![1, 40, 40, 1]).init(&device)?;
        let rng = &mut run_rng(seed, "initial parameters");
        let net = redraw(net, &ParamGroup::all(), rng);
        let rated = Rated {
            log_rates: Param::from_data(TensorData::zeros::<f32, _>([6]), &device),
            net: net.clone(),
        };
        let held_out = Sinusoids::new().with_tasks(50).with_seed(1000 + seed);

        let trainer = trainer(Leap::new(), seed);
        let init = trainer.fit(net, 200, &Sinusoids::new(), &lanes)?;
        let plain = trainer.evaluate(&init, &held_out, &lanes)?.summary();

        let trainer = self::trainer(LeapWithRates, seed);
        let init = trainer.fit(rated, 200, &Sinusoids::new(), &lanes)?;
        let learned = trainer.evaluate(&init, &held_out, &lanes)?.summary();
        let rates = init.log_rates.val().exp().into_data();

        let error = |s: &Summary| s.held_out_loss.unwrap_or(f64::NAN);
        println!(
            "seed {seed}: AUC {:.4} with Leap, {:.4} with learned rates; error at the end {:.4}, {:.4}; rates {rates}",
            plain.auc,
            learned.auc,
            error(&plain),
            error(&learned)
        );
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
