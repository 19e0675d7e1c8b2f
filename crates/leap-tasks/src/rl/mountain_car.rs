//! The car in the valley.
//!
//! Moore: "Efficient Memory-Based Learning for Robot Control", 1990, with the dynamics of Gymnasium's `MountainCar-v0`.

use burn::config::Config;
use burn::rl::{Environment, StepResult};
use leap_core::{TaskError, TaskRng, run_rng};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::env::{EnvFamily, SyncVectorEnv};
use super::picture::{Picture, Render, Stroke};
use super::range::draw;

/// A car too weak to climb the hill to its right, which it has to reach: it pushes left (action 0), not at all (1) or
/// right (2). Each step is a reward of −1.
///
/// The state is position and velocity, in the units of the valley and of a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountainCar {
    /// Force of a push.
    pub force: f64,
    /// Gravity.
    pub gravity: f64,
    /// Steps after which an episode is cut off.
    pub max_steps: usize,
    state: [f64; 2],
    steps: usize,
    rng: TaskRng,
}

const POSITIONS: [f64; 2] = [-1.2, 0.6];
const MAX_SPEED: f64 = 0.07;
const GOAL: f64 = 0.5;

impl MountainCar {
    /// Gymnasium's car, with episodes drawn from `rng`.
    pub fn new(rng: TaskRng) -> Self {
        Self {
            force: 0.001,
            gravity: 0.0025,
            max_steps: 200,
            state: [0.0; 2],
            steps: 0,
            rng,
        }
    }

    /// Starts an episode from a state.
    pub fn start(&mut self, state: [f64; 2]) {
        (self.state, self.steps) = (state, 0);
    }

    /// The state in full precision.
    pub fn exact_state(&self) -> [f64; 2] {
        self.state
    }
}

impl Environment for MountainCar {
    type State = [f32; 2];
    type Action = usize;
    const MAX_STEPS: usize = 200;

    fn state(&self) -> [f32; 2] {
        self.state.map(|v| v as f32)
    }

    fn step(&mut self, action: usize) -> StepResult<[f32; 2]> {
        let [mut position, mut velocity] = self.state;
        velocity += (action as f64 - 1.0) * self.force + (3.0 * position).cos() * -self.gravity;
        velocity = velocity.clamp(-MAX_SPEED, MAX_SPEED);
        position = (position + velocity).clamp(POSITIONS[0], POSITIONS[1]);
        if position == POSITIONS[0] && velocity < 0.0 {
            velocity = 0.0;
        }
        self.state = [position, velocity];
        self.steps += 1;
        StepResult {
            next_state: self.state(),
            reward: -1.0,
            done: position >= GOAL && velocity >= 0.0,
            truncated: self.steps >= self.max_steps,
        }
    }

    fn reset(&mut self) {
        let position = self.rng.random_range(-0.6..-0.4);
        self.start([position, 0.0]);
    }
}

impl Render for MountainCar {
    fn render(&self) -> Picture {
        let height = |x: f64| (3.0 * x).sin() * 0.45 + 0.55;
        let valley = (0..=60).map(|i| {
            let x = POSITIONS[0] + (POSITIONS[1] - POSITIONS[0]) * f64::from(i) / 60.0;
            [x, height(x)]
        });
        let valley: Vec<[f64; 2]> = valley.collect();
        let x = self.state[0];
        Picture::Strokes {
            view: [POSITIONS[0], POSITIONS[1], 0.0, 1.3],
            strokes: vec![
                Stroke::new(&valley, 0.01, 0),
                Stroke::new(
                    &[[GOAL, height(GOAL)], [GOAL, height(GOAL) + 0.15]],
                    0.02,
                    2,
                ),
                Stroke::new(&[[x, height(x) + 0.04]], 0.08, 1),
            ],
        }
    }
}

/// A family of cars: environment i's force and gravity are drawn uniformly from (`seed`, i).
#[derive(Config, Debug)]
pub struct MountainCars {
    /// Number of different environments.
    #[config(default = 1000)]
    pub environments: usize,
    /// Draws them; families of different seeds have different ones.
    #[config(default = 0)]
    pub seed: u64,
    /// Force of a push.
    #[config(default = "[0.0008, 0.0015]")]
    pub force: [f64; 2],
    /// Gravity.
    #[config(default = "[0.002, 0.003]")]
    pub gravity: [f64; 2],
    /// Steps after which an episode is cut off.
    #[config(default = 200)]
    pub max_steps: usize,
}

impl MountainCars {
    /// Environment `index`, with episodes drawn from `rng`.
    pub fn single(&self, index: usize, rng: TaskRng) -> MountainCar {
        let mut draws = run_rng(self.seed, &format!("mountain car {index}"));
        MountainCar {
            force: draw(self.force, &mut draws),
            gravity: draw(self.gravity, &mut draws),
            max_steps: self.max_steps,
            ..MountainCar::new(rng)
        }
    }
}

impl EnvFamily for MountainCars {
    type Env = SyncVectorEnv<MountainCar>;

    fn len(&self) -> usize {
        self.environments
    }

    fn name(&self, index: usize) -> String {
        let env = self.single(index, TaskRng::seed_from_u64(0));
        format!("car of force {:.5}, gravity {:.5}", env.force, env.gravity)
    }

    fn env(&self, index: usize, rngs: Vec<TaskRng>) -> Result<Self::Env, TaskError> {
        let envs = rngs.into_iter().map(|rng| self.single(index, rng));
        SyncVectorEnv::new(envs.collect(), 3, vec![2])
    }
}
