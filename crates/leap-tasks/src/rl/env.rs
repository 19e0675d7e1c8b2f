//! What an environment is.

use burn::rl::Environment;
use leap_core::{TaskError, TaskRng};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::picture::{Picture, Render};

/// Copies of an environment that are played side by side. Each starts a new episode where one has ended.
pub trait VectorEnv {
    /// Number of copies.
    fn len(&self) -> usize;

    /// Never: there is at least one copy.
    fn is_empty(&self) -> bool {
        false
    }

    /// Number of actions, which are counted from 0.
    fn actions(&self) -> usize;

    /// Shape of an observation, such as `[features]` or `[channels, height, width]`.
    fn observation_shape(&self) -> Vec<usize>;

    /// Appends what all copies observe now, copy after copy, to `out`.
    fn observe(&self, out: &mut Vec<f32>);

    /// Takes an action in each copy; the transitions come in the same order.
    ///
    /// # Errors
    /// Any error of the environment.
    fn step(&mut self, actions: &[usize]) -> Result<Vec<Transition>, TaskError>;

    /// All that is needed to go on from here, if it can be had.
    ///
    /// # Errors
    /// Any error of the environment.
    fn save(&mut self) -> Result<Option<SavedEnv>, TaskError> {
        Ok(None)
    }

    /// Goes on from what [`save`](Self::save) gave.
    ///
    /// # Errors
    /// If it is of another environment.
    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        let _ = state;
        Err("the environment cannot be restored".into())
    }
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The reward.
    pub reward: f64,
    /// Whether the episode ended with it.
    pub ending: Ending,
}

/// Whether and how an episode ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// It goes on.
    Ongoing,
    /// It came to an end of its own, after which there is no more reward.
    Terminated,
    /// It was cut off by a time limit, while there was more reward to come from what was observed last.
    Truncated(Vec<f32>),
}

/// An environment that was saved.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedEnv {
    /// What [`VectorEnv::restore`] takes.
    pub state: Vec<u8>,
    /// Whether all copies started new episodes when they were saved, as an environment does that cannot be saved in
    /// the middle of one. It is so whether or not the run is interrupted, so that both give the same numbers.
    pub restarted: bool,
}

/// A numbered family of environments.
pub trait EnvFamily: Sync {
    /// Its environments, side by side, on any thread.
    type Env: VectorEnv + Send;

    /// Number of different environments.
    fn len(&self) -> usize;

    /// Whether there is no environment at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of environment `index`, for reports.
    fn name(&self, index: usize) -> String {
        format!("environment {index}")
    }

    /// Copies of environment `index`, one for each generator of `rngs`, from which all that is random in it comes.
    ///
    /// # Errors
    /// Any error of the environment.
    fn env(&self, index: usize, rngs: Vec<TaskRng>) -> Result<Self::Env, TaskError>;
}

/// Copies of a Burn [`Environment`], one after the other on the thread that asks: the way for environments whose step
/// takes microseconds.
///
/// The environment's state is what is observed. It has to draw what is random from a generator of its own.
#[derive(Clone, Debug)]
pub struct SyncVectorEnv<E> {
    envs: Vec<E>,
    actions: usize,
    observation_shape: Vec<usize>,
}

impl<E: Environment> SyncVectorEnv<E> {
    /// Starts an episode in each of `envs`, with so many actions and observations of such a shape.
    ///
    /// # Errors
    /// If there is no environment.
    pub fn new(
        mut envs: Vec<E>,
        actions: usize,
        observation_shape: Vec<usize>,
    ) -> Result<Self, TaskError> {
        if envs.is_empty() {
            return Err("there is no environment".into());
        }
        envs.iter_mut().for_each(Environment::reset);
        Ok(Self {
            envs,
            actions,
            observation_shape,
        })
    }

    /// The copies.
    pub fn envs(&self) -> &[E] {
        &self.envs
    }
}

impl<E> VectorEnv for SyncVectorEnv<E>
where
    E: Environment<Action = usize, State: AsRef<[f32]>> + Serialize + DeserializeOwned,
{
    fn len(&self) -> usize {
        self.envs.len()
    }

    fn actions(&self) -> usize {
        self.actions
    }

    fn observation_shape(&self) -> Vec<usize> {
        self.observation_shape.clone()
    }

    fn observe(&self, out: &mut Vec<f32>) {
        for env in &self.envs {
            out.extend_from_slice(env.state().as_ref());
        }
    }

    fn step(&mut self, actions: &[usize]) -> Result<Vec<Transition>, TaskError> {
        let step = |(env, action): (&mut E, &usize)| {
            let result = env.step(*action);
            let ending = match (result.done, result.truncated) {
                (true, _) => Ending::Terminated,
                (_, true) => Ending::Truncated(result.next_state.as_ref().to_vec()),
                _ => Ending::Ongoing,
            };
            if ending != Ending::Ongoing {
                env.reset();
            }
            Transition {
                reward: result.reward,
                ending,
            }
        };
        Ok(self.envs.iter_mut().zip(actions).map(step).collect())
    }

    fn save(&mut self) -> Result<Option<SavedEnv>, TaskError> {
        Ok(Some(SavedEnv {
            state: rmp_serde::to_vec(&self.envs)?,
            restarted: false,
        }))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        let envs: Vec<E> = rmp_serde::from_slice(state)?;
        if envs.len() != self.envs.len() {
            return Err(
                format!("{} environments were saved, not {}", envs.len(), self.len()).into(),
            );
        }
        self.envs = envs;
        Ok(())
    }
}

impl<E: Render> Render for SyncVectorEnv<E> {
    /// The first copy.
    fn render(&self) -> Picture {
        self.envs[0].render()
    }
}
