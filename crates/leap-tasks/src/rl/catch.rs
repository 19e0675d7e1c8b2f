//! A game on a screen of few pixels.
//!
//! After "Catch" of Mnih, Heess, Graves, Kavukcuoglu: "Recurrent Models of Visual Attention", 2014, with what things look
//! like and how they move drawn for each task.

use burn::config::Config;
use burn::rl::{Environment, StepResult};
use leap_core::{TaskError, TaskRng, run_rng};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::env::{EnvFamily, SyncVectorEnv};
use super::picture::{Picture, Render};

/// Width and height of the screen, in pixels.
const SIZE: usize = 10;
/// Width and height of the ball, and width of the paddle.
const BALL: usize = 3;

/// A ball falls, and a paddle at the bottom has to be under it: it moves left (action 0), stays (1) or moves right (2). An
/// episode is a ball, which is caught (a reward of 1) or missed (−1).
///
/// The state is the screen, of shape `[1, 10, 10]`, values in [0, 1].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Catch {
    /// The ball's pixels, row after row.
    pub ball: [bool; BALL * BALL],
    /// Pixels of the background, in two kinds, and of ball and paddle.
    pub brightness: [f32; 3],
    /// Pixels that the ball moves to the right in two rows; walls throw it back.
    pub wind: i32,
    /// Whether left and right are exchanged.
    pub mirrored: bool,
    /// Column and row of the ball's corner, column of the paddle's.
    at: [i32; 3],
    /// Whether the wind was thrown back.
    turned: bool,
    rng: TaskRng,
}

impl Catch {
    fn pixel(&self, x: usize, y: usize) -> f32 {
        let [ball_x, ball_y, paddle] = self.at;
        let (column, row) = (x as i32 - ball_x, y as i32 - ball_y);
        let side = 0..BALL as i32;
        let is_ball = side.contains(&column)
            && side.contains(&row)
            && self.ball[(row as usize) * BALL + column as usize];
        let is_paddle = y == SIZE - 1 && side.contains(&(x as i32 - paddle));
        match is_ball || is_paddle {
            true => self.brightness[2],
            false => self.brightness[(x / 2 + y / 2) % 2],
        }
    }
}

impl Environment for Catch {
    type State = Vec<f32>;
    type Action = usize;
    const MAX_STEPS: usize = SIZE;

    fn state(&self) -> Vec<f32> {
        let pixels = (0..SIZE * SIZE).map(|i| self.pixel(i % SIZE, i / SIZE));
        pixels.collect()
    }

    fn step(&mut self, action: usize) -> StepResult<Vec<f32>> {
        let right = (SIZE - BALL) as i32;
        let sign = if self.mirrored { -1 } else { 1 };
        let [x, y, paddle] = &mut self.at;
        *paddle = (*paddle + sign * (action as i32 - 1)).clamp(0, right);
        *y += 1;
        if *y % 2 == 0 {
            let ahead = *x + if self.turned { -self.wind } else { self.wind };
            if !(0..=right).contains(&ahead) {
                self.turned = !self.turned;
            }
            *x = ahead.clamp(0, right);
        }
        let done = *y + BALL as i32 == SIZE as i32 - 1;
        let caught = (*x - *paddle).abs() < BALL as i32 - 1;
        StepResult {
            reward: match (done, caught) {
                (false, _) => 0.0,
                (true, true) => 1.0,
                (true, false) => -1.0,
            },
            done,
            truncated: false,
            next_state: self.state(),
        }
    }

    fn reset(&mut self) {
        let side = 0..=(SIZE - BALL) as i32;
        self.at = [
            self.rng.random_range(side.clone()),
            0,
            self.rng.random_range(side),
        ];
        self.turned = false;
    }
}

impl Render for Catch {
    fn render(&self) -> Picture {
        const SCALE: usize = 16;
        let size = SIZE * SCALE;
        let pixels = (0..size * size).map(|i| self.pixel(i % size / SCALE, i / size / SCALE));
        Picture::Pixels {
            size: [size; 2],
            rgb: pixels.flat_map(|p| [(255.0 * p) as u8; 3]).collect(),
        }
    }
}

/// A family of such games: environment i's ball, brightnesses, wind and direction of control are drawn from (`seed`, i).
#[derive(Config, Debug)]
pub struct Catches {
    /// Number of different environments.
    #[config(default = 1000)]
    pub environments: usize,
    /// Draws them; families of different seeds have different ones.
    #[config(default = 0)]
    pub seed: u64,
    /// Whether left and right are exchanged in half of the environments.
    #[config(default = true)]
    pub mirrored: bool,
}

impl Catches {
    /// Environment `index`, with episodes drawn from `rng`.
    pub fn single(&self, index: usize, rng: TaskRng) -> Catch {
        let mut draws = run_rng(self.seed, &format!("catch {index}"));
        let mut ball = [false; BALL * BALL];
        // At least so much of it that it can be seen where it is.
        while ball.iter().filter(|p| **p).count() < 5 {
            ball = std::array::from_fn(|_| draws.random_bool(0.6));
        }
        let ground = draws.random_range(0.0..0.3);
        let brightness = [
            ground,
            ground + draws.random_range(0.0..0.2),
            draws.random_range(0.7..1.0),
        ];
        let is_negative = draws.random_bool(0.5);
        Catch {
            ball,
            brightness: brightness.map(|b: f32| if is_negative { 1.0 - b } else { b }),
            wind: draws.random_range(-1..=1),
            mirrored: draws.random_bool(0.5) && self.mirrored,
            at: [0; 3],
            turned: false,
            rng,
        }
    }
}

impl EnvFamily for Catches {
    type Env = SyncVectorEnv<Catch>;

    fn len(&self) -> usize {
        self.environments
    }

    fn name(&self, index: usize) -> String {
        let env = self.single(index, TaskRng::seed_from_u64(0));
        format!(
            "catch {index}, {} on {}, wind {}{}",
            if env.brightness[2] > 0.5 {
                "light"
            } else {
                "dark"
            },
            if env.brightness[2] > 0.5 {
                "dark"
            } else {
                "light"
            },
            env.wind,
            if env.mirrored { ", mirrored" } else { "" }
        )
    }

    fn env(&self, index: usize, rngs: Vec<TaskRng>) -> Result<Self::Env, TaskError> {
        let envs = rngs.into_iter().map(|rng| self.single(index, rng));
        SyncVectorEnv::new(envs.collect(), 3, vec![1, SIZE, SIZE])
    }
}
