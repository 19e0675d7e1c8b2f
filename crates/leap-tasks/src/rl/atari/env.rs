//! Copies of a game as an environment.

use leap_core::{TaskError, TaskRng};
use rand::Rng;

use crate::rl::env::{Ending, SavedEnv, Transition, VectorEnv};
use crate::rl::picture::{Picture, Render};

use super::ale::Games;
use super::config::AtariConfig;

/// Copies of a game that are played side by side.
pub struct Atari {
    pub(super) games: Games,
    /// The first game once more, to be looked at.
    pub(super) screen: Option<Games>,
    pub(super) actions: usize,
    pub(super) rngs: Vec<TaskRng>,
    pub(super) config: AtariConfig,
}

impl Atari {
    pub(super) fn draw_seeds(&mut self) -> Vec<i32> {
        let rngs = self.rngs.iter_mut();
        rngs.map(|rng| rng.random_range(0..i32::MAX)).collect()
    }

    pub(super) fn reset(&mut self, seeds: &[i32]) -> Result<(), TaskError> {
        self.games.reset(seeds)?;
        match &mut self.screen {
            Some(screen) => Ok(screen.reset(&seeds[..1])?),
            None => Ok(()),
        }
    }
}

impl VectorEnv for Atari {
    fn len(&self) -> usize {
        self.games.copies
    }

    fn actions(&self) -> usize {
        self.actions
    }

    fn observation_shape(&self) -> Vec<usize> {
        let colours = if self.config.colour { 3 } else { 1 };
        vec![
            self.config.stack * colours,
            self.config.size,
            self.config.size,
        ]
    }

    fn observe(&self, out: &mut Vec<f32>) {
        self.games.unpack(&self.games.seen, None, out);
    }

    fn step(&mut self, actions: &[usize]) -> Result<Vec<Transition>, TaskError> {
        if let Some(screen) = &mut self.screen {
            screen.step(&actions[..1])?;
        }
        let stepped = self.games.step(actions)?;
        if stepped.order.iter().enumerate().any(|(i, id)| i != *id) {
            return Err("ALE returned its copies in another order".into());
        }
        let ending = |i: usize| match (stepped.terminated[i], stepped.truncated[i]) {
            (true, _) => Ok::<_, TaskError>(Ending::Terminated),
            (_, false) => Ok(Ending::Ongoing),
            _ => {
                let last_seen = stepped.last_seen.as_ref();
                let last_seen = last_seen.ok_or("ALE does not say what was seen last")?;
                let mut last = Vec::new();
                self.games.unpack(last_seen, Some(i), &mut last);
                Ok(Ending::Truncated(last))
            }
        };
        let transition = |i: usize| {
            Ok(Transition {
                reward: stepped.rewards[i],
                ending: ending(i)?,
            })
        };
        (0..actions.len()).map(transition).collect()
    }

    /// ALE's vector interface cannot be saved: all copies start new episodes.
    fn save(&mut self) -> Result<Option<SavedEnv>, TaskError> {
        let seeds = self.draw_seeds();
        self.reset(&seeds)?;
        Ok(Some(SavedEnv {
            state: rmp_serde::to_vec(&(&self.rngs, seeds))?,
            restarted: true,
        }))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        let (rngs, seeds): (Vec<TaskRng>, Vec<i32>) = rmp_serde::from_slice(state)?;
        if rngs.len() != self.rngs.len() {
            return Err(format!("{} games were saved, not {}", rngs.len(), self.len()).into());
        }
        self.rngs = rngs;
        self.reset(&seeds)
    }
}

impl Render for Atari {
    /// The whole screen of the first copy, with [`AtariConfig::screen`]; else the newest frame that it sees.
    fn render(&self) -> Picture {
        let games = self.screen.as_ref().unwrap_or(&self.games);
        let mut values = Vec::new();
        games.unpack(&games.seen, Some(0), &mut values);
        let [height, width, colours] = games.frame();
        let newest = &values[values.len() - colours * height * width..];
        let pixel = |i: usize, colour: usize| newest[colour.min(colours - 1) * height * width + i];
        let rgb = (0..height * width).flat_map(|i| [0, 1, 2].map(|c| (255.0 * pixel(i, c)) as u8));
        Picture::Pixels {
            size: [width, height],
            rgb: rgb.collect(),
        }
    }
}
