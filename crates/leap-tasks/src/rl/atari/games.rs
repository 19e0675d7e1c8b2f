//! The games of the Arcade Learning Environment, as a family of environments.

use std::path::Path;
use std::sync::Arc;

use leap_core::{TaskError, TaskRng};
use pyo3::prelude::*;

use crate::rl::env::EnvFamily;

use super::ale::{Ale, Games};
use super::config::AtariConfig;
use super::env::Atari;
use super::setup::version;

/// Games that the paper holds out.
pub const HELD_OUT: [&str; 2] = ["breakout", "space_invaders"];

/// Games of the Arcade Learning Environment.
#[derive(Clone, Debug)]
pub struct AtariGames {
    games: Vec<Game>,
    config: AtariConfig,
    ale: Arc<Ale>,
}

#[derive(Clone, Debug, PartialEq)]
struct Game {
    name: String,
    actions: usize,
}

impl AtariGames {
    /// All games for one player that were known in 2018, of which the paper's are those of at most 10 actions, by the names
    /// that ALE has for them.
    ///
    /// # Errors
    /// If `ale-py` is not in `venv`, or not in a version that has vector environments.
    pub fn all(venv: &Path, config: AtariConfig) -> Result<Self, TaskError> {
        let version = version();
        let packages = venv.join(format!("lib/python{version}/site-packages"));
        if !packages.join("ale_py").is_dir() {
            return Err(format!(
                "{} has no ale-py for Python {version}: `cargo run --example atari --features atari -- --setup` sets it up",
                venv.display()
            )
            .into());
        }
        Python::attach(|py| {
            py.import("site")?.call_method1("addsitedir", (packages,))?;
            let native = py.import("ale_py._ale_py")?;
            let roms = py.import("ale_py.roms")?;
            // The logger's lines are of no use to anybody else.
            let level = native.getattr("LoggerMode")?.getattr("Error")?;
            let interface = native.getattr("ALEInterface")?;
            interface.call_method1("setLoggerMode", (level,))?;
            py.import("ale_py")?;
            let registry = py.import("gymnasium")?.getattr("registry")?;
            let mut names: Vec<String> = Vec::new();
            for spec in registry.call_method0("values")?.try_iter()? {
                let spec = spec?;
                let (id, kwargs) = (spec.getattr("id")?, spec.getattr("kwargs")?);
                let is_atari = spec
                    .getattr("entry_point")?
                    .to_string()
                    .starts_with("ale_py");
                // The list of 2018; games that came later are registered under v5 alone.
                if is_atari && id.to_string().ends_with("-v0") {
                    names.push(kwargs.get_item("game")?.extract()?);
                }
            }
            names.sort();
            names.dedup();
            let mut games = Vec::new();
            for name in names {
                let ale = interface.call0()?;
                let rom = roms.call_method1("get_rom_path", (&name,))?;
                ale.call_method1("loadROM", (rom,))?;
                let actions = ale.call_method0("getMinimalActionSet")?.len()?;
                games.push(Game { name, actions });
            }
            let ale = Ale {
                native: native.into_any().unbind(),
                roms: roms.into_any().unbind(),
                numpy: py.import("numpy")?.into_any().unbind(),
            };
            Ok::<_, PyErr>(Self {
                games,
                config,
                ale: Arc::new(ale),
            })
        })
        .map_err(|error| format!("ale-py in {}: {error}", venv.display()).into())
    }

    /// The paper's games to meta-train on: those of at most 10 actions, without the [held-out](HELD_OUT) ones.
    pub fn meta_training(&self) -> Self {
        self.filter(|game| game.actions <= 10 && !HELD_OUT.contains(&game.name.as_str()))
    }

    /// The games with these names, in this order.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn named(&self, names: &[impl AsRef<str>]) -> Result<Self, TaskError> {
        let find = |name: &str| {
            let mut games = self.games.iter();
            let game = games.find(|game| game.name == name);
            game.cloned().ok_or_else(|| {
                let names: Vec<&str> = self.names().collect();
                format!("there is no game `{name}`; there are {}", names.join(", ")).into()
            })
        };
        let games = names.iter().map(|name| find(name.as_ref()));
        let games = games.collect::<Result<_, TaskError>>()?;
        Ok(Self {
            games,
            ..self.clone()
        })
    }

    fn filter(&self, keep: impl Fn(&Game) -> bool) -> Self {
        let games = self.games.iter().filter(|game| keep(game));
        Self {
            games: games.cloned().collect(),
            ..self.clone()
        }
    }

    /// The same games, played otherwise.
    pub fn with_config(mut self, config: AtariConfig) -> Self {
        self.config = config;
        self
    }

    /// How the games are played.
    pub fn config(&self) -> &AtariConfig {
        &self.config
    }

    /// The games' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.games.iter().map(|game| game.name.as_str())
    }

    /// Number of actions of each game.
    pub fn actions(&self) -> impl Iterator<Item = usize> {
        self.games.iter().map(|game| game.actions)
    }
}

impl EnvFamily for AtariGames {
    type Env = Atari;

    fn len(&self) -> usize {
        self.games.len()
    }

    fn name(&self, index: usize) -> String {
        self.games[index].name.clone()
    }

    fn env(&self, index: usize, rngs: Vec<TaskRng>) -> Result<Atari, TaskError> {
        let game = &self.games[index];
        let config = &self.config;
        let screen = match config.screen {
            true => Some(Games::new(&self.ale, &game.name, config, 1, true)?),
            false => None,
        };
        let mut env = Atari {
            games: Games::new(&self.ale, &game.name, config, rngs.len(), false)?,
            screen,
            actions: game.actions,
            rngs,
            config: config.clone(),
        };
        let seeds = env.draw_seeds();
        env.reset(&seeds)?;
        Ok(env)
    }
}
