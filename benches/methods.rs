//! What a task costs each meta-learner, relative to plain training of the same task: the Omniglot convnet on one thread,
//! all in turns, so that a noisy machine disturbs them alike.
//!
//! ```text
//! cargo bench --profile dev --bench methods
//! ```

use std::time::Instant;

use burn::module::ParamGroup;
use burn::optim::SgdConfig;
use burn::tensor::Device;
use leap_core::{InnerLoop, MetaLearner, Method, ParamSpace, TaskContext, TaskSet, task_copy};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

const ROUNDS: usize = 15;
const STEPS: usize = 20;
/// As many as the paper has MAML differentiate through.
const MAML_STEPS: usize = 5;
const METHODS: [&str; 6] = [
    "leap",
    "reptile",
    "fomaml",
    "fomaml-query",
    "maml",
    "finetuning",
];

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread").install(|| {
        let device = Device::flex().autodiff();
        let data = Omniglot::bundled().expect("sound data");
        let tasks = OmniglotTasksConfig::new()
            .init(data)
            .expect("sound settings");
        let tasks = tasks.train;
        let model = |classes| {
            let config = ConvNetConfig::new().with_classes(classes);
            config.init(&device).expect("sound settings")
        };
        let (init, wide) = (model(20), model(20 * tasks.heads()));
        let mixed = tasks.mixed();
        let context = |steps| leap_tests::context(&device, steps);
        let inner = |steps| InnerLoop::new(steps, SgdConfig::new().init(), 0.1);
        let seconds =
            |method: Option<Method>, init: &ConvNet, set: &dyn Fn(&TaskContext) -> _, steps| {
                let space = ParamSpace::new(init, &ParamGroup::all()).expect("trainable");
                let mut task: leap_tasks::images::ImageTask = set(&context(steps));
                let (model, inner) = (task_copy(init), inner(steps));
                let start = Instant::now();
                match method {
                    None => drop(inner.run(model, &mut task, &mut ()).expect("sound")),
                    Some(method) => {
                        let learned = method.learn(&space, &inner, model, &mut task);
                        let gradient = learned.expect("sound").gradient;
                        gradient.to_vec().expect("read back");
                    }
                }
                start.elapsed().as_secs_f64()
            };
        let one =
            |context: &TaskContext| TaskSet::<ConvNet>::task(&tasks, 0, context).expect("a task");
        let all =
            |context: &TaskContext| TaskSet::<ConvNet>::task(&mixed, 0, context).expect("a task");
        seconds(None, &init, &one, STEPS);

        let mut ratios = vec![Vec::new(); METHODS.len()];
        for _ in 0..ROUNDS {
            for (name, ratios) in METHODS.iter().zip(&mut ratios) {
                let method: Method = name.parse().expect("a method");
                let steps = if *name == "maml" { MAML_STEPS } else { STEPS };
                let plain = seconds(None, &init, &one, steps);
                let with = match method {
                    Method::Finetuning(_) => seconds(Some(method), &wide, &all, steps),
                    _ => seconds(Some(method), &init, &one, steps),
                };
                ratios.push(with / plain);
            }
        }
        println!("relative to plain training, medians of {ROUNDS}:");
        for (name, mut ratios) in METHODS.into_iter().zip(ratios) {
            ratios.sort_by(f64::total_cmp);
            let steps = if name == "maml" { MAML_STEPS } else { STEPS };
            println!(
                "{name:13} {:.2} (tasks of {steps} steps)",
                ratios[ROUNDS / 2]
            );
        }
    });
}
