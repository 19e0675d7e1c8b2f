//! ALE's vector interface, as it is called in Python.

use std::sync::Arc;

use leap_core::TaskError;
use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyTuple};
use rayon::prelude::*;

use super::config::AtariConfig;

/// The Python modules.
#[derive(Debug)]
pub(super) struct Ale {
    pub(super) native: Py<PyAny>,
    pub(super) roms: Py<PyAny>,
    pub(super) numpy: Py<PyAny>,
}

/// What is seen: NumPy's array, which is looked into where it lies.
type Seen = Py<PyArrayDyn<u8>>;

/// ALE's vector interface, and what it saw last.
pub(super) struct Games {
    ale: Arc<Ale>,
    vector: Py<PyAny>,
    pub(super) copies: usize,
    pub(super) seen: Seen,
}

impl Games {
    pub(super) fn new(
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

    pub(super) fn reset(&mut self, seeds: &[i32]) -> PyResult<()> {
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
    pub(super) fn step(&mut self, actions: &[usize]) -> PyResult<Stepped> {
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

    #[expect(clippy::expect_used, reason = "ALE makes arrays without gaps")]
    /// What a copy, or all of them, see in `seen`, with its values in [0, 1], channels first.
    pub(super) fn unpack(&self, seen: &Seen, copy: Option<usize>, out: &mut Vec<f32>) {
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
    pub(super) fn frame(&self) -> [usize; 3] {
        Python::attach(|py| {
            let shape = self.seen.bind(py).shape();
            [shape[2], shape[3], shape.get(4).copied().unwrap_or(1)]
        })
    }
}

/// What came of a step of all copies.
pub(super) struct Stepped {
    pub(super) order: Vec<usize>,
    pub(super) rewards: Vec<f64>,
    pub(super) terminated: Vec<bool>,
    pub(super) truncated: Vec<bool>,
    /// Before the copies whose episodes ended started new ones.
    pub(super) last_seen: Option<Seen>,
}
