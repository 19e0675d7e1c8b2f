//! The acrobot.
//!
//! Sutton: "Generalization in Reinforcement Learning: Successful Examples Using Sparse Coarse Coding", 1996, with the
//! dynamics of the book by Sutton and Barto, as Gymnasium's `Acrobot-v1` has them.

use std::f64::consts::PI;

use burn::config::Config;
use burn::rl::{Environment, StepResult};
use leap_core::{TaskError, TaskRng, run_rng};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::env::{EnvFamily, SyncVectorEnv};
use super::picture::{Picture, Render, Stroke};
use super::range::draw;

/// Two links that hang from a bar; the joint between them turns left (action 0), not at all (1) or right (2), to swing
/// the tip above the bar. Each step before that is a reward of −1.
///
/// The state is cosine and sine of the first link's angle from straight down, of the second's from the first, and both
/// angular velocities (rad/s).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Acrobot {
    /// Acceleration of gravity, m/s².
    pub gravity: f64,
    /// Length of the first link, m; that of the second does not matter for the dynamics.
    pub length: f64,
    /// Masses of the links, kg.
    pub masses: [f64; 2],
    /// Where the links' centres of mass are, m from their joints.
    pub centres: [f64; 2],
    /// Moment of inertia of each link, kg·m².
    pub inertia: f64,
    /// Torque of the joint, N·m.
    pub torque: f64,
    /// Steps after which an episode is cut off.
    pub max_steps: usize,
    /// Both angles, both angular velocities.
    state: [f64; 4],
    steps: usize,
    rng: TaskRng,
}

/// Time between two steps, s.
const DT: f64 = 0.2;
const MAX_SPINS: [f64; 2] = [4.0 * PI, 9.0 * PI];

impl Acrobot {
    /// Gymnasium's acrobot, with episodes drawn from `rng`.
    pub fn new(rng: TaskRng) -> Self {
        Self {
            gravity: 9.8,
            length: 1.0,
            masses: [1.0; 2],
            centres: [0.5; 2],
            inertia: 1.0,
            torque: 1.0,
            max_steps: 500,
            state: [0.0; 4],
            steps: 0,
            rng,
        }
    }

    /// Starts an episode from both angles and both angular velocities.
    pub fn start(&mut self, state: [f64; 4]) {
        (self.state, self.steps) = (state, 0);
    }

    /// Both angles and both angular velocities in full precision.
    pub fn exact_state(&self) -> [f64; 4] {
        self.state
    }

    fn derivative(&self, [angle1, angle2, spin1, spin2]: [f64; 4], torque: f64) -> [f64; 4] {
        let ([m1, m2], [c1, c2]) = (self.masses, self.centres);
        let (l1, i, g) = (self.length, self.inertia, self.gravity);
        let d1 = m1 * c1.powi(2)
            + m2 * (l1.powi(2) + c2.powi(2) + 2.0 * l1 * c2 * angle2.cos())
            + 2.0 * i;
        let d2 = m2 * (c2.powi(2) + l1 * c2 * angle2.cos()) + i;
        let phi2 = m2 * c2 * g * (angle1 + angle2 - PI / 2.0).cos();
        let phi1 = -m2 * l1 * c2 * spin2.powi(2) * angle2.sin()
            - 2.0 * m2 * l1 * c2 * spin2 * spin1 * angle2.sin()
            + (m1 * c1 + m2 * l1) * g * (angle1 - PI / 2.0).cos()
            + phi2;
        let spin_up2 =
            (torque + d2 / d1 * phi1 - m2 * l1 * c2 * spin1.powi(2) * angle2.sin() - phi2)
                / (m2 * c2.powi(2) + i - d2.powi(2) / d1);
        let spin_up1 = -(d2 * spin_up2 + phi1) / d1;
        [spin1, spin2, spin_up1, spin_up2]
    }
}

/// The angle in [−π, π], by whole turns.
fn wrap(mut angle: f64) -> f64 {
    // No step turns that far; what was read from a file may be so large that a turn is lost in its rounding.
    if angle.abs() > 100.0 {
        angle %= 2.0 * PI;
    }
    while angle > PI {
        angle -= 2.0 * PI;
    }
    while angle < -PI {
        angle += 2.0 * PI;
    }
    angle
}

impl Environment for Acrobot {
    type State = [f32; 6];
    type Action = usize;
    const MAX_STEPS: usize = 500;

    fn state(&self) -> [f32; 6] {
        let [a, b, spin1, spin2] = self.state;
        [a.cos(), a.sin(), b.cos(), b.sin(), spin1, spin2].map(|v| v as f32)
    }

    fn step(&mut self, action: usize) -> StepResult<[f32; 6]> {
        let torque = (action as f64 - 1.0) * self.torque;
        // A step of Runge and Kutta's method of fourth order.
        let s = self.state;
        let ahead = |k: [f64; 4], dt: f64| std::array::from_fn(|i| s[i] + dt * k[i]);
        let k1 = self.derivative(s, torque);
        let k2 = self.derivative(ahead(k1, DT / 2.0), torque);
        let k3 = self.derivative(ahead(k2, DT / 2.0), torque);
        let k4 = self.derivative(ahead(k3, DT), torque);
        let next: [f64; 4] =
            std::array::from_fn(|i| s[i] + DT / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]));
        let [a, b, spin1, spin2] = next;
        let (a, b) = (wrap(a), wrap(b));
        self.state = [
            a,
            b,
            spin1.clamp(-MAX_SPINS[0], MAX_SPINS[0]),
            spin2.clamp(-MAX_SPINS[1], MAX_SPINS[1]),
        ];
        self.steps += 1;
        let done = -a.cos() - (b + a).cos() > 1.0;
        StepResult {
            next_state: self.state(),
            reward: if done { 0.0 } else { -1.0 },
            done,
            truncated: self.steps >= self.max_steps,
        }
    }

    fn reset(&mut self) {
        let state = std::array::from_fn(|_| self.rng.random_range(-0.1..0.1));
        self.start(state);
    }
}

impl Render for Acrobot {
    fn render(&self) -> Picture {
        let [a, b, ..] = self.state;
        let elbow = [a.sin(), -a.cos()];
        let tip = [elbow[0] + (a + b).sin(), elbow[1] - (a + b).cos()];
        Picture::Strokes {
            view: [-2.8, 2.8, -2.2, 2.2],
            strokes: vec![
                Stroke::new(&[[-2.8, 1.0], [2.8, 1.0]], 0.02, 2),
                Stroke::new(&[[0.0, 0.0], elbow], 0.12, 0),
                Stroke::new(&[elbow, tip], 0.12, 1),
            ],
        }
    }
}

/// A family of acrobots: environment i's gravity, masses, first link and torque are drawn uniformly from (`seed`, i).
///
/// The height that the tip has to reach is that of links of one metre.
#[derive(Config, Debug)]
pub struct Acrobots {
    /// Number of different environments.
    #[config(default = 1000)]
    pub environments: usize,
    /// Draws them; families of different seeds have different ones.
    #[config(default = 0)]
    pub seed: u64,
    /// Acceleration of gravity, m/s².
    #[config(default = "[8.0, 12.0]")]
    pub gravity: [f64; 2],
    /// Length of the first link, m.
    #[config(default = "[0.8, 1.2]")]
    pub length: [f64; 2],
    /// Mass of each link, kg.
    #[config(default = "[0.7, 1.3]")]
    pub mass: [f64; 2],
    /// Torque of the joint, N·m.
    #[config(default = "[0.8, 1.5]")]
    pub torque: [f64; 2],
    /// Steps after which an episode is cut off.
    #[config(default = 500)]
    pub max_steps: usize,
}

impl Acrobots {
    /// Environment `index`, with episodes drawn from `rng`.
    pub fn single(&self, index: usize, rng: TaskRng) -> Acrobot {
        let mut draws = run_rng(self.seed, &format!("acrobot {index}"));
        let length = draw(self.length, &mut draws);
        Acrobot {
            gravity: draw(self.gravity, &mut draws),
            length,
            masses: [draw(self.mass, &mut draws), draw(self.mass, &mut draws)],
            centres: [length / 2.0, 0.5],
            torque: draw(self.torque, &mut draws),
            max_steps: self.max_steps,
            ..Acrobot::new(rng)
        }
    }
}

impl EnvFamily for Acrobots {
    type Env = SyncVectorEnv<Acrobot>;

    fn len(&self) -> usize {
        self.environments
    }

    fn name(&self, index: usize) -> String {
        let env = self.single(index, TaskRng::seed_from_u64(0));
        format!(
            "acrobot of {:.2} and {:.2} kg, {:.2} m, {:.2} N·m, {:.1} m/s²",
            env.masses[0], env.masses[1], env.length, env.torque, env.gravity
        )
    }

    fn env(&self, index: usize, rngs: Vec<TaskRng>) -> Result<Self::Env, TaskError> {
        let envs = rngs.into_iter().map(|rng| self.single(index, rng));
        SyncVectorEnv::new(envs.collect(), 3, vec![6])
    }
}
