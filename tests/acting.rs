//! Reinforcement learning: dynamics as Gymnasium has them, returns and losses as they are defined, learning that works,
//! training that goes on after it was broken off.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use burn::module::{Module, Param, ParamGroup};
use burn::nn::activation::ActivationConfig;
use burn::optim::AdamConfig;
use burn::rl::Environment;
use burn::tensor::{Device, Tensor, TensorData};
use leap_core::{
    ActorCritic, Checkpoints, Error, Lanes, Leap, MetaTrainer, Norm, ParamSpace, Report, StepLoss,
    Task, TaskContext, TaskError, TaskRng, TaskSet, reinitialize, run_rng,
};
use leap_models::{ActorCriticConfig, ActorCriticNet, ConvLayer};
use leap_tasks::rl::{
    A2cConfig, A2cTasks, Acrobot, CartPole, CartPoles, Catches, Ending, EnvFamily, MountainCar,
    SavedEnv, Transition, VectorEnv,
};
use safetensors::SafeTensors;

/// Gymnasium's trajectories: see `golden/make_control_golden.py`.
struct Golden(BTreeMap<String, Vec<f64>>);

impl Golden {
    fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/control.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let values = tensors.iter().map(|(name, view)| {
            let chunks = view.data().chunks_exact(8);
            let values = chunks.map(|c| f64::from_le_bytes(c.try_into().unwrap()));
            (name.to_string(), values.collect())
        });
        Self(values.collect())
    }

    /// Compares an environment, made of the physics, with the four trajectories of its kind.
    fn check<E: Environment<Action = usize>, const N: usize>(
        &self,
        name: &str,
        make: impl Fn(&[f64]) -> E,
        start: impl Fn(&mut E, [f64; N]),
        state: impl Fn(&E) -> [f64; N],
    ) {
        let mut ends = 0;
        for i in 0..4 {
            let of = |key: &str| &self.0[&format!("{name}/{i}/{key}")];
            let mut env = make(of("physics"));
            let states: Vec<[f64; N]> = of("states")
                .chunks_exact(N)
                .map(|s| s.try_into().unwrap())
                .collect();
            let mut is_new = true;
            for (step, action) in of("actions").iter().enumerate() {
                let [before, after] = [states[2 * step], states[2 * step + 1]];
                // A whole episode from its first state on.
                if is_new {
                    start(&mut env, before);
                }
                let result = env.step(*action as usize);
                for (ours, theirs) in state(&env).iter().zip(after) {
                    let apart = (ours - theirs).abs();
                    assert!(apart < 1e-9, "{name} {i}, step {step}: {ours} is {theirs}");
                }
                assert_eq!(
                    result.reward,
                    of("rewards")[step],
                    "{name} {i}, step {step}"
                );
                assert_eq!(
                    result.done,
                    of("ends")[step] == 1.0,
                    "{name} {i}, step {step}"
                );
                is_new = result.done;
                ends += usize::from(result.done);
                // Rounding grows along a chaotic path; each hundred steps it is begun anew.
                is_new |= step % 100 == 99;
            }
        }
        assert!(ends > 0, "no episode of {name} came to an end");
    }
}

#[test]
fn dynamics_are_those_of_gymnasium() {
    let golden = Golden::load();
    let rng = || run_rng(0, "unused");
    golden.check(
        "cart_pole",
        |physics| {
            let mut env = CartPole::new(rng());
            env.max_steps = usize::MAX;
            (env.gravity, env.cart_mass, env.pole_mass) = (physics[0], physics[1], physics[2]);
            (env.half_length, env.force) = (physics[3], physics[4]);
            env
        },
        |env, state| env.start(state),
        CartPole::exact_state,
    );
    golden.check(
        "mountain_car",
        |physics| {
            let mut env = MountainCar::new(rng());
            env.max_steps = usize::MAX;
            (env.force, env.gravity) = (physics[0], physics[1]);
            env
        },
        |env, state| env.start(state),
        MountainCar::exact_state,
    );
    golden.check(
        "acrobot",
        |physics| {
            let mut env = Acrobot::new(rng());
            env.max_steps = usize::MAX;
            env.length = physics[0];
            env.centres[0] = physics[0] / 2.0;
            env.masses = [physics[1], physics[2]];
            env.torque = physics[3];
            env
        },
        |env, state| env.start(state),
        Acrobot::exact_state,
    );
}

#[test]
fn the_defaults_are_gymnasiums() {
    let golden = Golden::load();
    let pole = CartPole::new(run_rng(0, "unused"));
    let physics = [
        pole.gravity,
        pole.cart_mass,
        pole.pole_mass,
        pole.half_length,
        pole.force,
    ];
    assert_eq!(golden.0["cart_pole/0/physics"], physics);
    let car = MountainCar::new(run_rng(0, "unused"));
    assert_eq!(golden.0["mountain_car/0/physics"], [car.force, car.gravity]);
    let acrobot = Acrobot::new(run_rng(0, "unused"));
    let physics = [
        acrobot.length,
        acrobot.masses[0],
        acrobot.masses[1],
        acrobot.torque,
    ];
    assert_eq!(golden.0["acrobot/0/physics"], physics);
    assert_eq!(
        [pole.max_steps, car.max_steps, acrobot.max_steps],
        [500, 200, 500]
    );
}

/// A script of rewards and endings; what is observed is (copy, step).
struct Script {
    step: usize,
    transitions: Vec<Vec<Transition>>,
}

fn scripted() -> Vec<Vec<Transition>> {
    let go = |reward| Transition {
        reward,
        ending: Ending::Ongoing,
    };
    let end = |reward, ending| Transition { reward, ending };
    // Two copies, four steps: one ends in the middle, one is cut off there; a reward is beyond the clip.
    vec![
        vec![go(1.0), go(0.5)],
        vec![
            end(-2.0, Ending::Terminated),
            end(0.25, Ending::Truncated(vec![7.0, 3.0])),
        ],
        vec![go(100.0), go(-100.0)],
        vec![go(0.0), go(2.0)],
    ]
}

impl VectorEnv for Script {
    fn len(&self) -> usize {
        2
    }

    fn actions(&self) -> usize {
        2
    }

    fn observation_shape(&self) -> Vec<usize> {
        vec![2]
    }

    fn observe(&self, out: &mut Vec<f32>) {
        for copy in 0..2 {
            out.extend([copy as f32, self.step as f32]);
        }
    }

    fn step(&mut self, actions: &[usize]) -> Result<Vec<Transition>, TaskError> {
        assert_eq!(actions.len(), 2);
        self.step += 1;
        Ok(self.transitions[self.step - 1].clone())
    }
}

struct Scripts;

impl EnvFamily for Scripts {
    type Env = Script;

    fn len(&self) -> usize {
        1
    }

    fn env(&self, _index: usize, _rngs: Vec<TaskRng>) -> Result<Script, TaskError> {
        Ok(Script {
            step: 0,
            transitions: scripted(),
        })
    }
}

/// A model of one weight each for policy and value.
#[derive(Module, Debug)]
struct Tiny {
    policy: Param<Tensor<1>>,
    value: Param<Tensor<1>>,
}

impl ActorCritic for Tiny {
    /// Logits (w·copy, 0), value v·step + copy.
    fn act(&self, observations: Tensor<2>) -> (Tensor<2>, Tensor<1>) {
        let columns = observations.split(1, 1);
        let (copy, step) = (columns[0].clone(), columns[1].clone());
        let first = copy.clone() * self.policy.val().unsqueeze();
        let logits = Tensor::cat(vec![first.clone(), first.zeros_like()], 1);
        let value = step * self.value.val().unsqueeze() + copy;
        (logits, value.squeeze_dim(1))
    }

    fn actions(&self) -> usize {
        2
    }

    fn with_actions(self, _actions: usize) -> Self {
        self
    }
}

/// The loss and its gradients, against the definition computed in float64, action by action.
#[test]
fn the_loss_is_the_definitions() {
    let device = Device::flex().autodiff();
    let (w, v) = (0.7f64, 0.3f64);
    let param = |x: f64| Param::from_data(TensorData::from([x as f32]), &device);
    let model = Tiny {
        policy: param(w),
        value: param(v),
    };
    let config = A2cConfig::new()
        .with_envs(2)
        .with_unroll(4)
        .with_score_episodes(2);
    let tasks = config.tasks(Scripts);
    // What was done is not told; the loss has to be one of the 2⁸ that could be.
    let mut possible = Vec::new();
    for bits in 0..256u32 {
        let (mut policy_loss, mut value_loss, mut entropy) = (0.0, 0.0, 0.0);
        let (mut of_w, mut of_v) = (0.0, 0.0);
        for copy in 0..2 {
            let value = |step: f64| v * step + copy as f64;
            for step in 0..4 {
                // Forward from each step, until the episode or the unroll ends.
                let (mut total, mut weight, mut at) = (0.0, 1.0, step);
                loop {
                    let transition = &scripted()[at][copy];
                    total += weight * transition.reward.clamp(-5.0, 5.0);
                    weight *= 0.99;
                    at += 1;
                    match &transition.ending {
                        Ending::Terminated => break,
                        Ending::Truncated(last) => {
                            total += weight * (v * f64::from(last[1]) + f64::from(last[0]));
                            break;
                        }
                        Ending::Ongoing if at == 4 => {
                            total += weight * value(4.0);
                            break;
                        }
                        Ending::Ongoing => {}
                    }
                }
                let advantage = total - value(step as f64);
                let first = 1.0 / (1.0 + (-w * copy as f64).exp());
                let second = 1.0 - first;
                let action = (bits >> (2 * step + copy)) & 1;
                let chosen = if action == 0 { first } else { second };
                policy_loss -= chosen.ln() * advantage / 8.0;
                value_loss += advantage * advantage / 8.0;
                entropy -= (first * first.ln() + second * second.ln()) / 8.0;
                let slope = if action == 0 { second } else { -first } * copy as f64;
                let dentropy = -first * second * (first.ln() - second.ln()) * copy as f64;
                of_w += (-slope * advantage - 0.01 * dentropy) / 8.0;
                of_v += 0.5 * -2.0 * advantage * step as f64 / 8.0;
            }
        }
        possible.push((policy_loss + 0.5 * value_loss - 0.01 * entropy, of_w, of_v));
    }
    let mut task = TaskSet::<Tiny>::task(&tasks, 0, &leap_tests::context(&device, 1)).unwrap();
    let StepLoss { loss, score, .. } = task.loss(&model).unwrap();
    let grads = loss.backward();
    let loss = f64::from(loss.into_scalar::<f32>());
    let near = |a: f64, b: f64| (a - b).abs() < 1e-4 * (1.0 + b.abs());
    let found = possible.iter().find(|(l, _, _)| near(loss, *l));
    let (_, of_w, of_v) = *found.unwrap_or_else(|| panic!("{loss} is no possible loss"));
    let gradient =
        |p: &Param<Tensor<1>>| f64::from(p.val().grad(&grads).unwrap().into_scalar::<f32>());
    assert!(near(gradient(&model.value), of_v));
    // Several sequences of actions may have the same loss to within rounding, but not another slope.
    let slopes = possible.iter().filter(|(l, _, _)| near(loss, *l));
    assert!(
        slopes.clone().any(|p| near(gradient(&model.policy), p.1)),
        "{of_w}"
    );
    // Two episodes ended, with the rewards as they were before they were cut.
    assert_eq!(score, Some(Some((1.0 - 2.0 + 0.5 + 0.25) / 2.0)));
}

#[test]
fn environments_of_a_family_differ_and_depend_on_the_seed() {
    let names = |seed: u64| -> Vec<String> {
        let family = CartPoles::new().with_seed(seed);
        (0..20).map(|i| family.name(i)).collect()
    };
    let first = names(0);
    assert_eq!(first, names(0));
    assert!(first.iter().all(|name| !names(1).contains(name)));
    let family = Catches::new();
    let mirrored = (0..40).filter(|i| family.single(*i, run_rng(0, "x")).mirrored);
    assert!((10..30).contains(&mirrored.count()));
}

fn pole_net(device: &Device) -> ActorCriticNet {
    let model = ActorCriticConfig::new(vec![4], 2)
        .with_hidden(vec![16])
        .init(device)
        .unwrap();
    reinitialize(model, &ParamGroup::all(), &mut run_rng(1, "parameters"))
}

/// Advantage actor-critic learns to catch the ball, with a convolution, and to hold the pole.
#[test]
fn environments_are_learned() {
    let device = Device::flex().autodiff();
    let lanes = Lanes::threads(&device, 2).unwrap();
    let trainer = MetaTrainer::new(Leap::new());
    let steps = 1000;
    let trainer = trainer
        .with_task_steps(steps)
        .with_task_optimizer(A2cConfig::optimizer().0, 3e-3);
    let model = ActorCriticConfig::new(vec![4], 2)
        .with_activation(ActivationConfig::Tanh)
        .init(&device)
        .unwrap();
    let model = reinitialize(model, &ParamGroup::all(), &mut run_rng(1, "parameters"));
    let a2c = A2cConfig::new().with_envs(16);
    let family = CartPoles::new().with_environments(2);
    let report = trainer
        .evaluate(&model, &a2c.tasks(family), &lanes)
        .unwrap();
    for task in &report.tasks {
        let (first, last) = (
            task.curve.score.iter().flatten().next(),
            task.curve.last_score(),
        );
        println!("{}: {first:?}, then {last:?}", task.name);
        // A random policy holds it for about 20 steps.
        assert!(last.unwrap() > 120.0, "{}: {last:?}", task.name);
        assert_eq!(task.curve.score.len(), steps);
    }

    let model = ActorCriticConfig::new(vec![1, 10, 10], 3)
        .with_convolutions(vec![
            ConvLayer::new(8, 3),
            ConvLayer::new(16, 3).with_stride(2),
        ])
        .with_hidden(vec![64])
        .init(&device)
        .unwrap();
    let model = reinitialize(model, &ParamGroup::all(), &mut run_rng(1, "parameters"));
    let (a2c, steps) = (A2cConfig::new().with_envs(8), 4000);
    let trainer = trainer
        .with_task_steps(steps)
        .with_task_optimizer(AdamConfig::new().init(), 1e-3);
    let family = Catches::new().with_environments(2);
    let report = trainer
        .evaluate(&model, &a2c.tasks(family), &lanes)
        .unwrap();
    for task in &report.tasks {
        let last = task.curve.last_score();
        println!("{}: {last:?}", task.name);
        // To stand still or to move at random catches a third of the balls.
        assert!(last.unwrap() > 0.5, "{}: {last:?}", task.name);
    }
}

/// A set of tasks that pulls the plug after so many steps of all tasks together.
struct Unplugged {
    tasks: A2cTasks<CartPoles>,
    left: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

struct UnpluggedTask<T> {
    task: T,
    left: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl TaskSet<ActorCriticNet> for Unplugged {
    type Task = UnpluggedTask<<A2cTasks<CartPoles> as TaskSet<ActorCriticNet>>::Task>;

    fn len(&self) -> usize {
        TaskSet::<ActorCriticNet>::len(&self.tasks)
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        Ok(UnpluggedTask {
            task: TaskSet::<ActorCriticNet>::task(&self.tasks, index, context)?,
            left: self.left.clone(),
            stop: self.stop.clone(),
        })
    }
}

impl<T: Task<ActorCriticNet>> Task<ActorCriticNet> for UnpluggedTask<T> {
    fn start(&mut self, init: ActorCriticNet) -> Result<ActorCriticNet, TaskError> {
        self.task.start(init)
    }

    fn loss(&mut self, model: &ActorCriticNet) -> Result<StepLoss, TaskError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.task.loss(model)
    }

    fn save(&mut self) -> Result<Option<Vec<u8>>, TaskError> {
        self.task.save()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), TaskError> {
        self.task.restore(saved)
    }
}

/// Training that is broken off in the middle of a task, in meta-training and in the evaluation after it, comes to the same
/// bits as training that is not.
#[test]
fn a_task_goes_on_in_its_middle() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, breaks: &[usize], lanes: usize| -> (Vec<f64>, Vec<Report>, usize) {
        let lanes = Lanes::threads(&device, lanes).unwrap();
        let mut breaks = breaks.iter().copied();
        let mut interruptions = 0;
        loop {
            let stop = Arc::new(AtomicBool::new(false));
            let a2c = A2cConfig::new().with_envs(3);
            let tasks = |environments| Unplugged {
                tasks: a2c.tasks(CartPoles::new().with_environments(environments)),
                left: Arc::new(AtomicUsize::new(
                    breaks.clone().next().unwrap_or(usize::MAX),
                )),
                stop: stop.clone(),
            };
            let trainer = MetaTrainer::new(Leap::new().with_norm(Norm::Energy))
                .with_meta_batch_size(2)
                .with_task_steps(40)
                .with_task_optimizer(A2cConfig::optimizer().0, 1e-3)
                .with_meta_optimizer(AdamConfig::new().init(), 1e-2)
                .with_shared(ParamGroup::from_predicate("encoder"))
                .with_stop(stop.clone())
                .with_checkpoints(Checkpoints::new(folder.path().join(name), 1).with_task_steps(7));
            let result = (|| {
                // A process that starts again has other ids for its parameters.
                let mut run = trainer.resume(pole_net(&device))?;
                let train = tasks(6);
                let mut reports = Vec::new();
                while run.meta_step() < 2 {
                    reports.push(run.step(&train, &lanes)?);
                }
                let init = pole_net(&device);
                let space = ParamSpace::new(run.init(), &ParamGroup::all())?;
                let held_out = Unplugged {
                    left: train.left.clone(),
                    ..tasks(2)
                };
                // Of the meta-trained encoder with fresh heads, and of a model that was never saved.
                reports.push(trainer.evaluate(run.init(), &held_out, &lanes)?);
                reports.push(trainer.evaluate(&init, &held_out, &lanes)?);
                Ok((space.point(run.init())?.to_vec()?, reports))
            })();
            match result {
                Ok((values, mut reports)) => {
                    reports.iter_mut().for_each(|report| report.seconds = 0.0);
                    return (values, reports, interruptions);
                }
                Err(Error::Interrupted) => {
                    interruptions += 1;
                    breaks.next();
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let (straight, reports, none) = run("straight", &[], 1);
    assert_eq!(none, 0);
    // In the first task, in the second, in the second meta-step, in both evaluations.
    for (name, breaks, lanes) in [
        ("one", vec![25, 30, 60, 50, 70, 60], 1),
        ("two", vec![45, 70, 80, 70], 2),
    ] {
        let (values, again, interruptions) = run(name, &breaks, lanes);
        assert!(interruptions > 2, "{interruptions} interruptions");
        assert_eq!(straight, values, "{name}");
        let last = |reports: &[Report]| reports[reports.len() - 2..].to_vec();
        assert_eq!(last(&reports), last(&again), "{name}");
        let left = std::fs::read_dir(folder.path().join(name)).unwrap();
        assert_eq!(left.count(), 1, "only the checkpoint is left in {name}");
    }
}

/// An environment that cannot be saved in the middle of an episode starts new ones, whether or not it is interrupted.
#[test]
fn restarted_environments_forget_their_running_returns() {
    #[derive(Default)]
    struct Restarting {
        steps: usize,
    }
    impl VectorEnv for Restarting {
        fn len(&self) -> usize {
            1
        }
        fn actions(&self) -> usize {
            2
        }
        fn observation_shape(&self) -> Vec<usize> {
            vec![2]
        }
        fn observe(&self, out: &mut Vec<f32>) {
            out.extend([0.0, 1.0]);
        }
        fn step(&mut self, _actions: &[usize]) -> Result<Vec<Transition>, TaskError> {
            self.steps += 1;
            Ok(vec![Transition {
                reward: 1.0,
                ending: match self.steps {
                    10 => Ending::Terminated,
                    _ => Ending::Ongoing,
                },
            }])
        }
        fn save(&mut self) -> Result<Option<SavedEnv>, TaskError> {
            self.steps = 0;
            Ok(Some(SavedEnv {
                state: vec![],
                restarted: true,
            }))
        }
    }
    struct Family;
    impl EnvFamily for Family {
        type Env = Restarting;
        fn len(&self) -> usize {
            1
        }
        fn env(&self, _index: usize, _rngs: Vec<TaskRng>) -> Result<Restarting, TaskError> {
            Ok(Restarting::default())
        }
    }
    let device = Device::flex().autodiff();
    let param = |x: f32| Param::from_data(TensorData::from([x]), &device);
    let model = Tiny {
        policy: param(0.0),
        value: param(0.0),
    };
    let tasks = A2cConfig::new()
        .with_envs(1)
        .with_score_episodes(1)
        .tasks(Family);
    let mut task = TaskSet::<Tiny>::task(&tasks, 0, &leap_tests::context(&device, 9)).unwrap();
    let mut scores = Vec::new();
    for step in 0..4 {
        if step == 1 {
            Task::<Tiny>::save(&mut task).unwrap();
        }
        scores.push(task.loss(&model).unwrap().score.flatten());
    }
    // Five steps, then ten of a new episode.
    assert_eq!(scores, [None, None, Some(10.0), Some(10.0)]);
    // As many as the score takes have to have ended.
    let tasks = A2cConfig::new()
        .with_envs(1)
        .with_score_episodes(2)
        .tasks(Family);
    let mut task = TaskSet::<Tiny>::task(&tasks, 0, &leap_tests::context(&device, 9)).unwrap();
    let scores = (0..4).map(|_| task.loss(&model).unwrap().score.flatten());
    assert_eq!(Vec::from_iter(scores), [None; 4]);
}
