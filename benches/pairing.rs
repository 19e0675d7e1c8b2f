//! What it costs Leap to pair the parameters after a step with the loss and the gradient before it, on long tasks, beside
//! Reptile and continual trajectory shifting: alphabets of Omniglot for 200 steps, a meta learning rate for each method found on
//! validation alphabets.
//!
//! ```text
//! cargo bench --profile dev --bench pairing -- [META_STEPS] [SEEDS,…] [FOLDER]
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor};
use leap_core::{
    Error, InnerLoop, Leap, LeapPath, Learned, LearningPath, MetaLearner, MetaTrainer, Method,
    ParamSpace, Sequential, Task, TaskError,
};
use leap_lab::{Experiment, Run, RunOptions, Session, Sweep};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::omniglot::{Omniglot, OmniglotSplits, OmniglotTasks, OmniglotTasksConfig};
use serde_json::{Value, json};

const META_BATCH: usize = 5;
const TASK_STEPS: usize = 200;
const MISPAIRED: &str = "leap-mispaired";
const META_LR: &str = "meta-lr";

#[derive(Clone, Debug)]
enum Learner {
    Method(Method),
    Mispaired,
}

/// A path that gets, at each point, the loss and the gradient of the one before.
struct Mispaired {
    path: LeapPath,
    space: Arc<ParamSpace>,
    before: Option<(Tensor<1>, GradientsParams)>,
}

impl LearningPath for Mispaired {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error> {
        let here = self.space.gradient(model, grads)?.into_gradients();
        match self.before.replace((loss.clone(), here)) {
            Some((loss, grads)) => self.path.record(model, &loss, &grads),
            None => Ok(()),
        }
    }
}

impl<M: Module> MetaLearner<M> for Learner {
    fn learn<T: Task<M>>(
        &self,
        space: &Arc<ParamSpace>,
        inner: &InnerLoop,
        model: M,
        task: &mut T,
    ) -> Result<Learned<M>, TaskError> {
        if let Self::Method(method) = self {
            return method.learn(space, inner, model, task);
        }
        let mut path = Mispaired {
            path: Leap::new().path(space),
            space: space.clone(),
            before: None,
        };
        let (model, curve) = inner.run(model, task, &mut path)?;
        let learned = path.path.finish()?;
        Ok(Learned {
            model,
            curve,
            gradient: learned.gradient,
            figures: Some(learned.figures),
        })
    }
}

struct Pairing(Arc<Omniglot>);

impl Pairing {
    fn splits(&self, run: &Run) -> Result<OmniglotSplits, TaskError> {
        let config = OmniglotTasksConfig::new().with_seed(run.seed);
        Ok(config.init(self.0.clone())?)
    }
}

impl Experiment for Pairing {
    type Model = ConvNet;
    type Learner = Learner;
    type Train = OmniglotTasks;
    type HeldOut = OmniglotTasks;

    fn settings(&self) -> Value {
        json!({ "meta_batch": META_BATCH, "task_steps": TASK_STEPS, "filters": 16 })
    }

    fn model(&self, _run: &Run, device: &Device) -> Result<ConvNet, TaskError> {
        Ok(ConvNetConfig::new().with_filters(16).init(device)?)
    }

    fn train(&self, run: &Run) -> Result<OmniglotTasks, TaskError> {
        Ok(self.splits(run)?.train)
    }

    fn held_out(&self, run: &Run) -> Result<OmniglotTasks, TaskError> {
        Ok(self.splits(run)?.test)
    }

    fn validation(&self, run: &Run) -> Result<Option<OmniglotTasks>, TaskError> {
        Ok(Some(self.splits(run)?.validation))
    }

    fn trainer(&self, run: &Run) -> Result<MetaTrainer<Learner>, TaskError> {
        let lr = run.setting(META_LR).unwrap_or(0.1);
        let learner = match &*run.method {
            MISPAIRED => Learner::Mispaired,
            _ => Learner::Method(match run.method()? {
                Method::Shifting(shifting) => shifting.with_meta_lr(lr, TASK_STEPS).into(),
                other => other,
            }),
        };
        let trainer = MetaTrainer::new(learner.clone())
            .with_meta_batch_size(META_BATCH)
            .with_task_steps(TASK_STEPS);
        Ok(trainer.with_meta_optimizer(SgdConfig::new().init(), lr))
    }

    fn meta_train(&self, session: &Session<Self>) -> Result<ConvNet, leap_lab::Error> {
        let (run, trainer) = (session.run(), session.trainer()?);
        let (init, tasks) = (session.scratch()?, self.train(run)?);
        if !run.method.ends_with("-shifting") {
            return session.meta_train(trainer, init, &tasks);
        }
        let trainer = trainer
            .with_meta_batch_size(1)
            .with_task_steps(META_BATCH * TASK_STEPS)
            .with_meta_optimizer(SgdConfig::new().init(), 1.0);
        session.meta_train(trainer, init, &Sequential::new(tasks, META_BATCH).in_turn())
    }
}

fn main() {
    let arg = leap_tests::arguments();
    let meta_steps: usize = arg(0, "60").parse().expect("a number");
    let seeds = arg(1, "1,2,3");
    let seeds = seeds.split(',').map(|seed| seed.parse().expect("a number"));
    let options = RunOptions {
        out: Some(PathBuf::from(arg(2, "runs/pairing"))),
        resume: true,
        ..RunOptions::default()
    };
    let methods = [
        "leap",
        MISPAIRED,
        "reptile",
        "reptile-shifting",
        "leap-shifting",
    ];
    Sweep::new("Pairing", "runs/pairing")
        .with_methods(methods)
        .with_seeds(seeds)
        .with_meta_steps(meta_steps)
        .with_search(META_LR, [0.03, 0.1, 0.3, 1.0, 3.0], meta_steps.div_ceil(3))
        .with_options(options)
        .run(&Pairing(Arc::new(Omniglot::bundled().expect("sound data"))))
        .expect("it runs");
}
