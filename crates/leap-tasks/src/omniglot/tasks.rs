//! Alphabets as tasks.

use std::sync::Arc;

use burn::config::Config;
use burn::tensor::Tensor;
use leap_core::{Predict, TaskContext, TaskError, TaskSet, run_rng};
use rand::seq::SliceRandom;

use crate::digest::fingerprint;
use crate::error::DataError;
use crate::images::task::{Parts, Pick, Source};
use crate::images::{ImageTask, Images, RandomAffine};

use super::data::{Character, Omniglot};

/// How the alphabets become tasks; the defaults are the paper's.
#[derive(Config, Debug)]
pub struct OmniglotTasksConfig {
    /// Number of alphabets to meta-train on.
    #[config(default = 20)]
    pub train_alphabets: usize,
    /// Number of alphabets held out for the test. Those that are neither are for validation.
    #[config(default = 10)]
    pub test_alphabets: usize,
    /// Characters in a task; alphabets with fewer are left out.
    #[config(default = 20)]
    pub classes: usize,
    /// Drawings of each character, the first by name, that a task holds out; it trains on the others.
    #[config(default = 5)]
    pub held_out: usize,
    /// Drawings of each character, the next by name, that it validates on for early stopping; the paper has none.
    #[config(default = 0)]
    pub validation: usize,
    /// Drawings in a batch.
    #[config(default = 20)]
    pub batch_size: usize,
    /// How each image is changed, in training and on held-out drawings; `None` is not at all.
    #[config(default = "Some(RandomAffine::new())")]
    pub augment: Option<RandomAffine>,
    /// Decides which alphabets are for what, and which characters of each are its classes.
    #[config(default = 0)]
    pub seed: u64,
}

/// Disjoint sets of alphabets.
#[derive(Clone, Debug)]
pub struct OmniglotSplits {
    /// To meta-train on.
    pub train: OmniglotTasks,
    /// To choose settings by.
    pub validation: OmniglotTasks,
    /// To report.
    pub test: OmniglotTasks,
}

/// A set of alphabets, each a task: to tell its characters apart.
#[derive(Clone, Debug)]
pub struct OmniglotTasks {
    data: Arc<Omniglot>,
    config: OmniglotTasksConfig,
    /// Indices of alphabets, and of the characters that are their classes.
    alphabets: Vec<(usize, Vec<usize>)>,
}

impl OmniglotTasksConfig {
    /// Splits `data`. The test alphabets depend on the seed alone, not on how many are trained on.
    ///
    /// # Errors
    /// [`DataError`] if there are not enough alphabets, characters or drawings for the settings.
    pub fn init(&self, data: impl Into<Arc<Omniglot>>) -> Result<OmniglotSplits, DataError> {
        let data = data.into();
        let wrong = |reason: String| Err(DataError::new("settings", reason));
        if self.classes == 0 || self.batch_size == 0 {
            return wrong("`classes` and `batch_size` must be above 0".into());
        }
        self.augment.as_ref().map_or(Ok(()), RandomAffine::check)?;
        let large = |i: &usize| data.alphabets()[*i].characters.len() >= self.classes;
        let mut order: Vec<usize> = (0..data.alphabets().len()).filter(large).collect();
        let wanted = self.test_alphabets.saturating_add(self.train_alphabets);
        if order.len() < wanted {
            return wrong(format!(
                "{} alphabets to train on and {} to test on were asked for, but only {} have {} characters",
                self.train_alphabets,
                self.test_alphabets,
                order.len(),
                self.classes
            ));
        }
        for &i in &order {
            let alphabet = &data.alphabets()[i];
            let kept_back = self.held_out.saturating_add(self.validation);
            let few = |c: &&Character| c.drawings.len() <= kept_back;
            if let Some(character) = alphabet.characters.iter().find(few) {
                return wrong(format!(
                    "{} / {} has {} drawings: none is left to train on when {} are held out or validated on",
                    alphabet.name,
                    character.name,
                    character.drawings.len(),
                    kept_back
                ));
            }
        }
        order.shuffle(&mut run_rng(self.seed, "split"));
        let (test, rest) = order.split_at(self.test_alphabets);
        let (train, validation) = rest.split_at(self.train_alphabets);
        let set = |alphabets: &[usize]| OmniglotTasks {
            data: data.clone(),
            config: self.clone(),
            alphabets: alphabets
                .iter()
                .map(|&i| (i, self.pick_characters(&data, i)))
                .collect(),
        };
        Ok(OmniglotSplits {
            train: set(train),
            validation: set(validation),
            test: set(test),
        })
    }

    fn pick_characters(&self, data: &Omniglot, alphabet: usize) -> Vec<usize> {
        let alphabet = &data.alphabets()[alphabet];
        let mut rng = run_rng(self.seed, &format!("characters of {}", alphabet.name));
        let mut picks: Vec<usize> = (0..alphabet.characters.len()).collect();
        picks.shuffle(&mut rng);
        picks.truncate(self.classes);
        picks
    }
}

impl OmniglotTasks {
    /// Names of the alphabets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let alphabets = self.data.alphabets();
        self.alphabets
            .iter()
            .map(|(i, _)| alphabets[*i].name.as_str())
    }
}

impl OmniglotTasks {
    /// All alphabets as one task, for multi-headed finetuning: batches in which they are mixed.
    ///
    /// A model for it has a class for every character of every alphabet, [`heads`](Self::heads) times
    /// `classes` in number: alphabet `i`'s head is outputs `i * classes` and on. Each drawing's loss is that
    /// of its own alphabet's head alone.
    pub fn mixed(&self) -> MixedOmniglot {
        MixedOmniglot(self.clone())
    }

    /// Number of alphabets, each of which has a head of its own in the [mixture](Self::mixed).
    pub fn heads(&self) -> usize {
        self.alphabets.len()
    }

    fn fingerprint_of_alphabets(&self) -> u64 {
        fingerprint(self.data.digest(), (&self.config, &self.alphabets))
    }

    /// Some of the alphabets as one task, with a head for each.
    fn task_on(&self, alphabets: &[usize], context: &TaskContext) -> Result<ImageTask, TaskError> {
        if alphabets.is_empty() {
            return Err("there is no alphabet to learn".into());
        }
        let mut sources = Vec::new();
        let (mut train, mut validation, mut held_out) = (Vec::new(), Vec::new(), Vec::new());
        let size = self.data.size();
        for (head, &index) in alphabets.iter().enumerate() {
            let (alphabet, characters) = &self.alphabets[index];
            let characters = characters
                .iter()
                .map(|&c| &self.data.alphabets()[*alphabet].characters[c]);
            let names = characters.clone().map(|c| c.name.clone()).collect();
            let mut images = Images::new([1, size, size], names)?;
            for (label, character) in characters.enumerate() {
                for (i, drawing) in character.drawings.iter().enumerate() {
                    let pick = Pick {
                        source: head,
                        image: images.len(),
                        class: head * self.config.classes + label,
                        head,
                    };
                    images.push(&drawing.bytes(size), label)?;
                    match i.checked_sub(self.config.held_out) {
                        None => held_out.push(pick),
                        Some(i) if i < self.config.validation => validation.push(pick),
                        Some(_) => train.push(pick),
                    }
                }
            }
            sources.push(Source::new(Arc::new(images)));
        }
        let parts = Parts {
            sources: sources.into(),
            train,
            validation,
            held_out,
            heads: vec![self.config.classes; alphabets.len()],
            batch_size: self.config.batch_size,
            held_out_batch: self.config.batch_size,
            query: Some(self.config.batch_size),
            augment: self.config.augment.clone(),
            augment_held_out: true,
            own_head: false,
            steps: None,
        };
        Ok(ImageTask::new(parts, context, context.rng()))
    }
}

impl<M: Predict<Tensor<4>>> TaskSet<M> for OmniglotTasks {
    type Task = ImageTask;

    fn len(&self) -> usize {
        self.alphabets.len()
    }

    fn name(&self, index: usize) -> String {
        self.data.alphabets()[self.alphabets[index].0].name.clone()
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint_of_alphabets()
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<ImageTask, TaskError> {
        self.task_on(&[index], context)
    }
}

/// Several alphabets as one task, see [`OmniglotTasks::mixed`].
#[derive(Clone, Debug)]
pub struct MixedOmniglot(OmniglotTasks);

impl<M: Predict<Tensor<4>>> TaskSet<M> for MixedOmniglot {
    type Task = ImageTask;

    fn len(&self) -> usize {
        1
    }

    fn name(&self, _index: usize) -> String {
        format!("{} alphabets mixed", self.0.heads())
    }

    fn fingerprint(&self) -> u64 {
        self.0.fingerprint_of_alphabets()
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<ImageTask, TaskError> {
        self.0.task_on(&Vec::from_iter(0..self.0.heads()), context)
    }
}
