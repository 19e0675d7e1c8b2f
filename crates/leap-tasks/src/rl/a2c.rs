//! Advantage actor-critic.
//!
//! Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver, Kavukcuoglu: "Asynchronous Methods for Deep Reinforcement
//! Learning", [arXiv 1602.01783](https://arxiv.org/abs/1602.01783), in its synchronous form.

use std::collections::VecDeque;

use burn::config::Config;
use burn::optim::{ModuleOptimizer, RmsPropConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use leap_core::{
    ActorCritic, HeldOut, StepLoss, Task, TaskContext, TaskError, TaskRng, TaskSeed, TaskSet,
    reinitialize_new, run_rng,
};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::digest::fingerprint;

use super::env::{Ending, EnvFamily, VectorEnv};
use super::picture::{Picture, Render};
use super::recycle::Recycler;

/// Advantage actor-critic; the defaults are those of the Leap paper's experiment on Atari.
///
/// A training step plays `unroll` steps in each of `envs` copies of the environment and minimises, over all of them,
///
/// ```text
/// mean(−A log π(a|s)) + value_loss · mean((R − V(s))²) − entropy · mean(H(π(·|s))),    A = R − V(s)
/// ```
///
/// with the discounted return R up to the end of the unroll, or of the episode. Where the unroll ends, or a time limit
/// cut the episode off, the value of what was observed last stands for the rest; after an end of the environment's own
/// there is none. A is held fixed.
#[derive(Config, Debug)]
pub struct A2cConfig {
    /// Copies of the environment, side by side.
    #[config(default = 32)]
    pub envs: usize,
    /// Steps in each copy before the model is trained on them.
    #[config(default = 5)]
    pub unroll: usize,
    /// What a reward counts a step later.
    #[config(default = 0.99)]
    pub discount: f64,
    /// Weight of the policy's entropy, which keeps it exploring.
    #[config(default = 0.01)]
    pub entropy: f64,
    /// Weight of the value's squared error.
    #[config(default = 0.5)]
    pub value_loss: f64,
    /// Rewards that are learned from are cut off at ± this.
    #[config(default = "Some(5.0)")]
    pub reward_clip: Option<f64>,
    /// The score is the mean return of so many episodes, the last that ended. There is none before as many have ended.
    #[config(default = 100)]
    pub score_episodes: usize,
}

impl A2cConfig {
    /// The paper's optimizer for such tasks: RMSProp with α = 0.99 and ε = 1e-4, and its learning rate of 1e-4.
    pub fn optimizer() -> (ModuleOptimizer, f64) {
        let rms_prop = RmsPropConfig::new()
            .with_alpha(0.99)
            .with_epsilon(1e-4)
            .with_momentum(0.0);
        (rms_prop.init(), 1e-4)
    }

    /// Environment steps of a training step.
    pub fn env_steps(&self) -> usize {
        self.envs * self.unroll
    }

    /// The environments of `family` as tasks.
    pub fn tasks<F: EnvFamily>(&self, family: F) -> A2cTasks<F> {
        A2cTasks {
            family,
            config: self.clone(),
        }
    }
}

/// Environments to be learned by advantage actor-critic.
///
/// Where a model has another number of actions than the environment, it gets new heads, drawn from the task's seed; they
/// have to be outside the shared group then.
#[derive(Clone, Debug)]
pub struct A2cTasks<F> {
    family: F,
    config: A2cConfig,
}

impl<F> A2cTasks<F> {
    /// The environments.
    pub fn family(&self) -> &F {
        &self.family
    }

    /// The settings.
    pub fn config(&self) -> &A2cConfig {
        &self.config
    }
}

impl<F: EnvFamily<Env: Render>> A2cTasks<F> {
    /// Has `model` play environment `index` for an episode, or `steps` steps if it is longer. Its pictures come back, and
    /// its return so far.
    ///
    /// Actions are drawn from the policy, as in training, with numbers that depend on `seed`.
    ///
    /// # Errors
    /// Any error of the environment.
    pub fn record<M: ActorCritic>(
        &self,
        model: &M,
        index: usize,
        steps: usize,
        seed: u64,
    ) -> Result<(Vec<Picture>, f64), TaskError> {
        let device = model.devices().remove(0).without_autodiff();
        let model = model.valid();
        let mut rng = run_rng(seed, "actions of a recording");
        let mut env = self.family.env(index, vec![run_rng(seed, "recording")])?;
        let memory = Recycler::default();
        let (mut pictures, mut total) = (vec![env.render()], 0.0);
        for _ in 0..steps {
            let (logits, _) = model.act(observations(&env, &memory, &device)?);
            let action = sample(&read(logits.reshape([-1]))?, &mut rng);
            let transition = env.step(&[action])?.remove(0);
            total += transition.reward;
            if transition.ending != Ending::Ongoing {
                break;
            }
            pictures.push(env.render());
        }
        Ok((pictures, total))
    }
}

/// What all copies of an environment observe, of shape `[copies, size]`.
fn observations(
    env: &impl VectorEnv,
    memory: &Recycler,
    device: &Device,
) -> Result<Tensor<2>, TaskError> {
    let size: usize = env.observation_shape().iter().product();
    let mut values = memory.take();
    values.reserve(env.len() * size);
    env.observe(&mut values);
    if values.len() != env.len() * size {
        let (copies, shape) = (env.len(), env.observation_shape());
        let count = values.len();
        return Err(
            format!("{copies} environments observe {count} values, not {shape:?} each").into(),
        );
    }
    Ok(Tensor::from_data(
        memory.data(values, [env.len(), size]),
        device,
    ))
}

/// Streams of a task's seed: 0 and 1 are [`MetaTrainer`](leap_core::MetaTrainer)'s.
const ACTIONS: u64 = 0;
const HEADS: u64 = 2;
const ENVS: u64 = 16;

impl<M: ActorCritic, F: EnvFamily> TaskSet<M> for A2cTasks<F> {
    type Task = A2cTask<F::Env>;

    fn len(&self) -> usize {
        self.family.len()
    }

    fn name(&self, index: usize) -> String {
        self.family.name(index)
    }

    fn fingerprint(&self) -> u64 {
        let names = (0..self.family.len()).map(|index| self.family.name(index));
        fingerprint(0, (&self.config, Vec::from_iter(names)))
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<Self::Task, TaskError> {
        let config = self.config.clone();
        if config.envs == 0 || config.unroll == 0 {
            return Err("`envs` and `unroll` must be above 0".into());
        }
        if config
            .reward_clip
            .is_some_and(|clip| clip.is_nan() || clip <= 0.0)
        {
            return Err("`reward_clip` must be above 0".into());
        }
        let rngs = (0..config.envs as u64).map(|i| context.seed.rng(ENVS + i));
        let env = self.family.env(index, rngs.collect())?;
        if env.len() != config.envs {
            return Err(
                format!("there are {} environments, not {}", env.len(), config.envs).into(),
            );
        }
        Ok(A2cTask {
            state: State {
                rng: context.seed.rng(ACTIONS),
                returns: vec![0.0; config.envs],
                last_returns: VecDeque::new(),
            },
            env,
            config,
            memory: Recycler::default(),
            seed: context.seed,
            device: context.device.clone(),
        })
    }
}

/// An environment that is being learned.
pub struct A2cTask<E> {
    env: E,
    config: A2cConfig,
    state: State,
    memory: Recycler,
    seed: TaskSeed,
    device: Device,
}

#[derive(Serialize, Deserialize)]
struct State {
    rng: TaskRng,
    /// Of the running episodes, so far.
    returns: Vec<f64>,
    /// Of the last episodes that ended.
    last_returns: VecDeque<f64>,
}

/// What was seen and done in a step of all copies.
struct Played {
    /// Of shape `[envs, actions]`, with graph.
    logits: Tensor<2>,
    /// Of shape `[envs]`, with graph.
    values: Tensor<1>,
    /// The same, on the host.
    host_values: Vec<f32>,
    actions: Vec<usize>,
    rewards: Vec<f64>,
    /// For copies whose episode ended, the value of what came after: 0, or that of what was observed last.
    after: Vec<Option<f64>>,
}

impl<E: VectorEnv> A2cTask<E> {
    /// The environment.
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Mean return of the last episodes that ended; `None` before there are
    /// [as many as it takes](A2cConfig::score_episodes), of which a few might be lucky.
    pub fn score(&self) -> Option<f64> {
        let returns = &self.state.last_returns;
        let sum: f64 = returns.iter().sum();
        (returns.len() >= self.config.score_episodes.max(1)).then(|| sum / returns.len() as f64)
    }

    fn device_without_graph(&self) -> Device {
        self.device.clone().without_autodiff()
    }

    /// Plays a step in all copies; `model` decides.
    fn play<M: ActorCritic>(&mut self, model: &M) -> Result<Played, TaskError> {
        let (logits, values) = model.act(observations(&self.env, &self.memory, &self.device)?);
        let [envs, actions] = logits.dims();
        // One read-back for both.
        let both = Tensor::cat(
            vec![
                logits.clone().inner(),
                values.clone().inner().reshape([envs, 1]),
            ],
            1,
        );
        let both = read(both.reshape([-1]))?;
        let rows = both.chunks_exact(actions + 1);
        let host_values: Vec<f32> = rows.clone().map(|row| row[actions]).collect();
        let rng = &mut self.state.rng;
        let picks: Vec<usize> = rows.map(|row| sample(&row[..actions], rng)).collect();
        let transitions = self.env.step(&picks)?;
        if transitions.len() != envs {
            let count = transitions.len();
            return Err(format!("{count} transitions came from {envs} environments").into());
        }

        let clip = self.config.reward_clip.unwrap_or(f64::INFINITY);
        let mut after = vec![None; envs];
        let mut cut_off = Vec::new();
        for (i, transition) in transitions.iter().enumerate() {
            self.state.returns[i] += transition.reward;
            match &transition.ending {
                Ending::Ongoing => continue,
                Ending::Terminated => after[i] = Some(0.0),
                Ending::Truncated(last) => cut_off.push((i, last)),
            }
            let last_returns = &mut self.state.last_returns;
            if last_returns.len() == self.config.score_episodes.max(1) {
                last_returns.pop_front();
            }
            last_returns.push_back(std::mem::take(&mut self.state.returns[i]));
        }
        if !cut_off.is_empty() {
            let size = cut_off[0].1.len();
            // As many rows as ever, for devices that compile their kernels for a shape.
            let mut rows: Vec<f32> = cut_off
                .iter()
                .flat_map(|(_, last)| *last)
                .copied()
                .collect();
            rows.resize(envs * size, 0.0);
            let rows = TensorData::new(rows, [envs, size]);
            let values = values_of(model, Tensor::from_data(rows, &self.device_without_graph()))?;
            for ((i, _), value) in cut_off.iter().zip(values) {
                after[*i] = Some(value.into());
            }
        }
        Ok(Played {
            logits,
            values,
            host_values,
            actions: picks,
            rewards: transitions
                .iter()
                .map(|t| t.reward.clamp(-clip, clip))
                .collect(),
            after,
        })
    }

    /// The return of each step in each copy, by step and copy.
    fn returns(&self, played: &[Played], last_values: Vec<f32>) -> Vec<f64> {
        let envs = last_values.len();
        let mut next: Vec<f64> = last_values.into_iter().map(f64::from).collect();
        let mut returns = vec![0.0; played.len() * envs];
        for (step, played) in played.iter().enumerate().rev() {
            for i in 0..envs {
                let rest = played.after[i].unwrap_or(next[i]);
                next[i] = played.rewards[i] + self.config.discount * rest;
                returns[step * envs + i] = next[i];
            }
        }
        returns
    }
}

/// The values of some observations, without a graph.
fn values_of<M: ActorCritic>(model: &M, observations: Tensor<2>) -> Result<Vec<f32>, TaskError> {
    read(model.valid().act(observations).1)
}

fn read(tensor: Tensor<1>) -> Result<Vec<f32>, TaskError> {
    let data = tensor.try_into_data().map_err(|e| format!("{e:?}"))?;
    Ok(data.iter::<f32>().collect())
}

/// An action, drawn with the probabilities that `logits` stand for.
fn sample(logits: &[f32], rng: &mut impl Rng) -> usize {
    let highest = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let weights = logits.iter().map(|l| f64::from(l - highest).exp());
    let sum: f64 = weights.clone().sum();
    let mut left = rng.random::<f64>() * sum;
    for (action, weight) in weights.enumerate() {
        left -= weight;
        if left < 0.0 {
            return action;
        }
    }
    // The last, where rounding left something, or where the model has diverged.
    logits.len() - 1
}

impl<M: ActorCritic, E: VectorEnv> Task<M> for A2cTask<E> {
    fn start(&mut self, init: M) -> Result<M, TaskError> {
        if init.actions() == self.env.actions() {
            return Ok(init);
        }
        let model = |init: M| Ok(init.with_actions(self.env.actions()));
        reinitialize_new(init, model, &mut self.seed.rng(HEADS))
    }

    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let mut played = Vec::with_capacity(self.config.unroll);
        for _ in 0..self.config.unroll {
            played.push(self.play(model)?);
        }
        let last = observations(&self.env, &self.memory, &self.device_without_graph())?;
        let last_values = values_of(model, last)?;
        let returns = self.returns(&played, last_values);
        let values = played.iter().flat_map(|p| &p.host_values);
        let advantages: Vec<f32> = returns
            .iter()
            .zip(values)
            .map(|(r, v)| (r - f64::from(*v)) as f32)
            .collect();

        let count = returns.len();
        let actions = played.iter().flat_map(|p| &p.actions).map(|a| *a as i32);
        let actions = TensorData::new(actions.collect(), [count, 1]);
        let actions = Tensor::<2, Int>::from_data(actions, &self.device);
        let vector = |values: Vec<f32>| {
            Tensor::<1>::from_data(TensorData::new(values, [count]), &self.device)
        };
        let returns = vector(returns.into_iter().map(|r| r as f32).collect());
        let (logits, values) = played.into_iter().map(|p| (p.logits, p.values)).unzip();
        let (logits, values) = (Tensor::cat(logits, 0), Tensor::cat(values, 0));
        let log_policy = log_softmax(logits, 1);
        let log_chosen = log_policy.clone().gather(1, actions).squeeze_dim::<1>(1);
        let policy_loss = -(log_chosen * vector(advantages)).mean();
        let value_loss = (returns - values).square().mean();
        let entropy = -(log_policy.clone().exp() * log_policy).sum() / count as f64;
        Ok(StepLoss {
            loss: policy_loss + value_loss * self.config.value_loss - entropy * self.config.entropy,
            accuracy: None,
            score: Some(self.score()),
        })
    }

    /// By the score of the episodes that it trains on: there is nothing else to go by.
    fn validate(&mut self, _model: &M) -> Result<Option<HeldOut>, TaskError> {
        Ok(self.score().map(|score| HeldOut {
            loss: -score,
            accuracy: None,
        }))
    }

    fn save(&mut self) -> Result<Option<Vec<u8>>, TaskError> {
        let Some(env) = self.env.save()? else {
            return Ok(None);
        };
        if env.restarted {
            self.state.returns.fill(0.0);
        }
        Ok(Some(rmp_serde::to_vec(&(&self.state, env.state))?))
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), TaskError> {
        let (state, env): (State, Vec<u8>) = rmp_serde::from_slice(saved)?;
        if state.returns.len() != self.config.envs {
            let count = state.returns.len();
            return Err(format!("it is of {count} environments, not {}", self.config.envs).into());
        }
        self.state = state;
        self.env.restore(&env)
    }
}
