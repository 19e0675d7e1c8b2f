//! The cart and the pole.
//!
//! Barto, Sutton, Anderson: "Neuronlike Adaptive Elements That Can Solve Difficult Learning Control Problems", 1983,
//! with the dynamics of Florian: "Correct equations for the dynamics of the cart-pole system", 2005, as Gymnasium's
//! `CartPole-v1` has them.

use burn::config::Config;
use burn::rl::{Environment, StepResult};
use leap_core::{TaskError, TaskRng, run_rng};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::env::{EnvFamily, SyncVectorEnv};
use super::picture::{Picture, Render, Stroke};
use super::range::draw;

/// A cart that is pushed left (action 0) or right (1) to keep a pole upright. Each step that it stands is a reward of 1.
///
/// The state is position and velocity of the cart (m, m/s), angle and angular velocity of the pole (rad, rad/s).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CartPole {
    /// Acceleration of gravity, m/s².
    pub gravity: f64,
    /// Mass of the cart, kg.
    pub cart_mass: f64,
    /// Mass of the pole, kg.
    pub pole_mass: f64,
    /// Half the pole's length, m.
    pub half_length: f64,
    /// Force of a push, N.
    pub force: f64,
    /// Steps after which an episode is cut off.
    pub max_steps: usize,
    state: [f64; 4],
    steps: usize,
    rng: TaskRng,
}

/// Time between two steps, s.
const TAU: f64 = 0.02;
/// How far the cart may go, m, and the pole lean, rad.
const LIMITS: [f64; 2] = [2.4, 12.0 * std::f64::consts::PI / 180.0];

impl CartPole {
    /// Gymnasium's cart and pole, with episodes drawn from `rng`.
    pub fn new(rng: TaskRng) -> Self {
        Self {
            gravity: 9.8,
            cart_mass: 1.0,
            pole_mass: 0.1,
            half_length: 0.5,
            force: 10.0,
            max_steps: 500,
            state: [0.0; 4],
            steps: 0,
            rng,
        }
    }

    /// Starts an episode from a state.
    pub fn start(&mut self, state: [f64; 4]) {
        (self.state, self.steps) = (state, 0);
    }

    /// The state in full precision.
    pub fn exact_state(&self) -> [f64; 4] {
        self.state
    }
}

impl Environment for CartPole {
    type State = [f32; 4];
    type Action = usize;
    const MAX_STEPS: usize = 500;

    fn state(&self) -> [f32; 4] {
        self.state.map(|v| v as f32)
    }

    fn step(&mut self, action: usize) -> StepResult<[f32; 4]> {
        let [x, v, angle, spin] = self.state;
        let force = if action == 1 { self.force } else { -self.force };
        let total_mass = self.pole_mass + self.cart_mass;
        let moment = self.pole_mass * self.half_length;
        let (sin, cos) = (angle.sin(), angle.cos());
        let temp = (force + moment * spin.powi(2) * sin) / total_mass;
        let spin_up = (self.gravity * sin - cos * temp)
            / (self.half_length * (4.0 / 3.0 - self.pole_mass * cos.powi(2) / total_mass));
        let push = temp - moment * spin_up * cos / total_mass;
        self.state = [
            x + TAU * v,
            v + TAU * push,
            angle + TAU * spin,
            spin + TAU * spin_up,
        ];
        self.steps += 1;
        StepResult {
            next_state: self.state(),
            reward: 1.0,
            done: self.state[0].abs() > LIMITS[0] || self.state[2].abs() > LIMITS[1],
            truncated: self.steps >= self.max_steps,
        }
    }

    fn reset(&mut self) {
        let state = std::array::from_fn(|_| self.rng.random_range(-0.05..0.05));
        self.start(state);
    }
}

impl Render for CartPole {
    fn render(&self) -> Picture {
        let [x, _, angle, _] = self.state;
        let tip = [
            x + 2.0 * self.half_length * angle.sin(),
            2.0 * self.half_length * angle.cos(),
        ];
        Picture::Strokes {
            view: [-LIMITS[0], LIMITS[0], -0.9, 2.1],
            strokes: vec![
                Stroke::new(&[[-LIMITS[0], -0.15], [LIMITS[0], -0.15]], 0.02, 0),
                Stroke::new(&[[x - 0.3, 0.0], [x + 0.3, 0.0]], 0.25, 0),
                Stroke::new(&[[x, 0.0], tip], 0.08, 1),
            ],
        }
    }
}

/// A family of carts with poles: environment i's gravity, masses, lengths and force are drawn uniformly from (`seed`, i).
#[derive(Config, Debug)]
pub struct CartPoles {
    /// Number of different environments.
    #[config(default = 1000)]
    pub environments: usize,
    /// Draws them; families of different seeds have different ones.
    #[config(default = 0)]
    pub seed: u64,
    /// Acceleration of gravity, m/s².
    #[config(default = "[6.0, 14.0]")]
    pub gravity: [f64; 2],
    /// Mass of the cart, kg.
    #[config(default = "[0.5, 2.0]")]
    pub cart_mass: [f64; 2],
    /// Mass of the pole, kg.
    #[config(default = "[0.05, 0.5]")]
    pub pole_mass: [f64; 2],
    /// Half the pole's length, m.
    #[config(default = "[0.25, 1.0]")]
    pub half_length: [f64; 2],
    /// Force of a push, N.
    #[config(default = "[6.0, 15.0]")]
    pub force: [f64; 2],
    /// Steps after which an episode is cut off.
    #[config(default = 500)]
    pub max_steps: usize,
}

impl CartPoles {
    /// Environment `index`, with episodes drawn from `rng`.
    pub fn single(&self, index: usize, rng: TaskRng) -> CartPole {
        let mut draws = run_rng(self.seed, &format!("cart and pole {index}"));
        CartPole {
            gravity: draw(self.gravity, &mut draws),
            cart_mass: draw(self.cart_mass, &mut draws),
            pole_mass: draw(self.pole_mass, &mut draws),
            half_length: draw(self.half_length, &mut draws),
            force: draw(self.force, &mut draws),
            max_steps: self.max_steps,
            ..CartPole::new(rng)
        }
    }
}

impl EnvFamily for CartPoles {
    type Env = SyncVectorEnv<CartPole>;

    fn len(&self) -> usize {
        self.environments
    }

    fn name(&self, index: usize) -> String {
        let env = self.single(index, TaskRng::seed_from_u64(0));
        format!(
            "cart of {:.2} kg, pole of {:.2} kg and {:.2} m, {:.1} N, {:.1} m/s²",
            env.cart_mass,
            env.pole_mass,
            2.0 * env.half_length,
            env.force,
            env.gravity
        )
    }

    fn env(&self, index: usize, rngs: Vec<TaskRng>) -> Result<Self::Env, TaskError> {
        let envs = rngs.into_iter().map(|rng| self.single(index, rng));
        SyncVectorEnv::new(envs.collect(), 2, vec![4])
    }
}
