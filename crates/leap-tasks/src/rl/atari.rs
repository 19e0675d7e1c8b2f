//! Atari, by way of the [Arcade Learning Environment](https://ale.farama.org) (`ale-py` on PyPI, which has the games with
//! it), called through an embedded Python.
//!
//! The environment's own vector interface steps all copies of a game in threads of its own, in C++. Python's lock is held
//! to hand over actions and to look at what came of them, not while Burn computes, nor while the games are played.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use burn::config::Config;
use leap_core::{TaskError, TaskRng};
use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyTuple};
use rand::Rng;
use rayon::prelude::*;

use super::{Draw, Ending, EnvFamily, Picture, SavedEnv, Transition, VectorEnv};

/// How the games are played. The defaults are those of most work since Mnih et al. 2015.
#[derive(Config, Debug)]
pub struct AtariConfig {
    /// Frames that an action is repeated for; the brighter of the last two is seen.
    #[config(default = 4)]
    pub frame_skip: usize,
    /// Frames that are seen at once, one for each action.
    #[config(default = 4)]
    pub stack: usize,
    /// Whether frames are seen in colour, as in the Leap paper, or in grey.
    #[config(default = false)]
    pub colour: bool,
    /// Height and width of a frame.
    #[config(default = 84)]
    pub size: usize,
    /// Frames after which an episode is cut off.
    #[config(default = 108_000)]
    pub max_frames: usize,
    /// An episode starts with up to so many actions that do nothing.
    #[config(default = 30)]
    pub no_ops: usize,
    /// Probability that an action is replaced by the one before.
    #[config(default = 0.0)]
    pub repeat_action: f64,
    /// Whether an episode ends when a life is lost.
    #[config(default = false)]
    pub episodic_life: bool,
    /// Threads that play; 0 is one for each core.
    #[config(default = 0)]
    pub threads: usize,
    /// Whether [`Draw`] shows the whole screen of the first copy, which is played twice for it.
    #[config(default = false)]
    pub screen: bool,
}

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

/// The Python modules.
#[derive(Debug)]
struct Ale {
    native: Py<PyAny>,
    roms: Py<PyAny>,
    numpy: Py<PyAny>,
}

/// Games that the paper holds out.
pub const HELD_OUT: [&str; 2] = ["breakout", "space_invaders"];

/// Where `ale-py` is looked for: the virtual environment that is active, or else the folder `.venv`.
pub fn virtual_environment() -> PathBuf {
    match env::var_os("VIRTUAL_ENV") {
        Some(path) => path.into(),
        None => ".venv".into(),
    }
}

/// Sets up a virtual environment with `ale-py` in `folder`, for the version of Python that this program was linked with.
///
/// # Errors
/// If the command for that version of Python is missing, or fails.
pub fn set_up(folder: &Path) -> Result<(), TaskError> {
    let version = version();
    let run = |command: &mut Command| -> Result<(), TaskError> {
        let shown = format!("{command:?}");
        let status = command.status().map_err(|e| format!("{shown}: {e}"))?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{shown} failed").into()),
        }
    };
    let python = format!("python{version}");
    run(Command::new(python).args(["-m", "venv"]).arg(folder))?;
    let pip = folder.join("bin/pip");
    run(Command::new(pip).args(["install", "--quiet", "ale-py==0.12.*", "gymnasium>=1"]))
}

/// The version of Python that this program was linked with, such as `3.11`.
fn version() -> String {
    Python::initialize();
    Python::attach(|py| {
        let version = py.version_info();
        format!("{}.{}", version.major, version.minor)
    })
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

/// Copies of a game that are played side by side.
pub struct Atari {
    games: Games,
    /// The first game once more, to be looked at.
    screen: Option<Games>,
    actions: usize,
    rngs: Vec<TaskRng>,
    config: AtariConfig,
}

/// What is seen: NumPy's array, which is looked into where it lies.
type Seen = Py<PyArrayDyn<u8>>;

/// ALE's vector interface, and what it saw last.
struct Games {
    ale: Arc<Ale>,
    vector: Py<PyAny>,
    copies: usize,
    seen: Seen,
}

impl Games {
    fn new(
        ale: &Arc<Ale>,
        game: &str,
        config: &AtariConfig,
        copies: usize,
        is_screen: bool,
    ) -> Result<Self, TaskError> {
        let made: PyResult<_> = Python::attach(|py| {
            let rom = ale.roms.bind(py).call_method1("get_rom_path", (game,))?;
            let settings = PyDict::new(py);
            let (height, width, stack) = match is_screen {
                true => (210, 160, 1),
                false => (config.size, config.size, config.stack),
            };
            let counts = [
                ("num_envs", copies),
                ("frame_skip", config.frame_skip),
                ("stack_num", stack),
                ("img_height", height),
                ("img_width", width),
                ("noop_max", config.no_ops),
                ("max_episode_steps", config.max_frames),
                ("num_threads", config.threads),
            ];
            settings.update(counts.into_py_dict(py)?.as_mapping())?;
            settings.set_item("rom_path", rom)?;
            settings.set_item("grayscale", !config.colour && !is_screen)?;
            settings.set_item("episodic_life", config.episodic_life)?;
            settings.set_item("reward_clipping", false)?;
            settings.set_item("repeat_action_probability", config.repeat_action)?;
            settings.set_item("autoreset_mode", "SameStep")?;
            let interface = ale.native.bind(py).getattr("ALEVectorInterface")?;
            let vector = interface.call((), Some(&settings))?;
            let nothing = ale.numpy.bind(py).call_method1("zeros", (0, "uint8"))?;
            Ok((
                vector.unbind(),
                nothing.cast_into::<PyArrayDyn<u8>>()?.unbind(),
            ))
        });
        let (vector, seen) = made.map_err(|error| format!("{game}: {error}"))?;
        Ok(Self {
            ale: ale.clone(),
            vector,
            copies,
            seen,
        })
    }

    fn reset(&mut self, seeds: &[i32]) -> PyResult<()> {
        Python::attach(|py| {
            let numpy = self.ale.numpy.bind(py);
            let all = numpy.call_method1("arange", (seeds.len(),))?;
            let seeds = numpy.call_method1("array", (seeds.to_vec(),))?;
            let vector = self.vector.bind(py);
            let seen = vector.call_method1("reset", (all, seeds))?;
            self.seen = seen.get_item(0)?.cast_into()?.unbind();
            Ok(())
        })
    }

    /// Takes an action in each copy.
    fn step(&mut self, actions: &[usize]) -> PyResult<Stepped> {
        Python::attach(|py| {
            let vector = self.vector.bind(py);
            let strength = vec![1f32; actions.len()];
            vector.call_method1("send", (actions.to_vec(), strength))?;
            // Without Python's lock, until all copies are done.
            let result = vector.call_method0("recv")?;
            let result = result.cast::<PyTuple>()?;
            self.seen = result.get_item(0)?.cast_into()?.unbind();
            let info = result.get_item(4)?;
            let order = info.get_item("env_id")?.call_method0("tolist")?;
            let flags = |i: usize| result.get_item(i)?.call_method0("tolist")?.extract();
            let last_seen = match info.contains("final_obs")? {
                true => Some(info.get_item("final_obs")?.cast_into()?.unbind()),
                false => None,
            };
            Ok(Stepped {
                order: order.extract()?,
                rewards: result.get_item(1)?.call_method0("tolist")?.extract()?,
                terminated: flags(2)?,
                truncated: flags(3)?,
                last_seen,
            })
        })
    }

    /// What a copy, or all of them, see in `seen`, with its values in [0, 1], channels first.
    fn unpack(&self, seen: &Seen, copy: Option<usize>, out: &mut Vec<f32>) {
        Python::attach(|py| {
            let seen = seen.bind(py).readonly();
            // [copies, stack, height, width], and colours last if there are any.
            let shape = seen.shape();
            let (stack, size) = (shape[1], shape[2] * shape[3]);
            let colours = shape.get(4).copied().unwrap_or(1);
            let per_copy = stack * size * colours;
            let all = seen.as_slice().expect("ALE's arrays are contiguous");
            let pixels = match copy {
                Some(copy) => &all[copy * per_copy..][..per_copy],
                None => all,
            };
            let value = |pixel: &u8| f32::from(*pixel) * (1.0 / 255.0);
            if colours == 1 {
                // A thread that waits for the others may take up work that needs Python.
                py.detach(|| out.par_extend(pixels.par_iter().map(value)));
                return;
            }
            for frame in pixels.chunks_exact(size * colours) {
                for colour in 0..colours {
                    out.extend(frame[colour..].iter().step_by(colours).map(value));
                }
            }
        });
    }

    /// Height, width and colours of a frame.
    fn frame(&self) -> [usize; 3] {
        Python::attach(|py| {
            let shape = self.seen.bind(py).shape();
            [shape[2], shape[3], shape.get(4).copied().unwrap_or(1)]
        })
    }
}

/// What came of a step of all copies.
struct Stepped {
    order: Vec<usize>,
    rewards: Vec<f64>,
    terminated: Vec<bool>,
    truncated: Vec<bool>,
    /// Before the copies whose episodes ended started new ones.
    last_seen: Option<Seen>,
}

impl Atari {
    fn draw_seeds(&mut self) -> Vec<i32> {
        let rngs = self.rngs.iter_mut();
        rngs.map(|rng| rng.random_range(0..i32::MAX)).collect()
    }

    fn reset(&mut self, seeds: &[i32]) -> Result<(), TaskError> {
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

impl Draw for Atari {
    /// The whole screen of the first copy, with [`AtariConfig::screen`]; else the newest frame that it sees.
    fn picture(&self) -> Picture {
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
