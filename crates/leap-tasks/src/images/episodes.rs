//! Few-shot episodes: some classes, some images of each.

use std::collections::HashSet;
use std::sync::Arc;

use burn::config::Config;
use burn::tensor::Tensor;
use leap_core::{Predict, TaskContext, TaskError, TaskSet};
use rand::seq::SliceRandom;

use crate::digest::fingerprint;
use crate::error::DataError;

use super::augment::RandomAffine;
use super::data::Images;
use super::task::{ImageTask, Parts, Pick, Source};

/// N-way K-shot episodes, as papers on few-shot learning have them (Vinyals et al.,
/// [arXiv 1606.04080](https://arxiv.org/abs/1606.04080)): a task is a few classes that are drawn anew for it, a few images of
/// each to train on, and others, the queries, that are held out.
#[derive(Config, Debug)]
pub struct EpisodesConfig {
    /// Classes in a task, which the model has outputs for.
    #[config(default = 5)]
    pub ways: usize,
    /// Images of each class to train on; `None` is all that are left.
    #[config(default = "Some(1)")]
    pub shots: Option<usize>,
    /// Images of each class that are held out; a query of MAML is of all of them.
    #[config(default = 15)]
    pub queries: usize,
    /// Images of each class to validate on, for early stopping.
    #[config(default = 0)]
    pub validation: usize,
    /// Images in a batch; `None` is all that there are to train on.
    pub batch_size: Option<usize>,
    /// Tasks of an evaluation.
    #[config(default = 600)]
    pub episodes: usize,
    /// How images are changed in training; `None` is not at all.
    pub augment: Option<RandomAffine>,
}

impl Default for EpisodesConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Few-shot tasks from some classes of labelled images.
#[derive(Clone, Debug)]
pub struct Episodes {
    config: EpisodesConfig,
    source: Source,
    /// Indices of the images of each class that tasks are made of.
    classes: Vec<Vec<usize>>,
}

impl EpisodesConfig {
    /// Episodes from these classes of `images`, disjoint from those of other splits
    /// ([`Images::split_classes`], [`Images::find_classes`]).
    ///
    /// # Errors
    /// [`DataError`] if there are not enough classes, or not enough images of one, or if one is there twice.
    pub fn init(
        &self,
        images: impl Into<Arc<Images>>,
        classes: &[usize],
    ) -> Result<Episodes, DataError> {
        let images = images.into();
        let wrong = |reason: String| Err(DataError::new("episodes", reason));
        let least = self.shots.unwrap_or(1);
        if self.ways == 0 || least == 0 || self.batch_size == Some(0) || self.episodes == 0 {
            return wrong("ways, shots, batch_size and episodes must be above 0".into());
        }
        if classes.len() < self.ways {
            let count = classes.len();
            return wrong(format!(
                "{} classes in a task, of {count} that there are",
                self.ways
            ));
        }
        self.augment.as_ref().map_or(Ok(()), RandomAffine::check)?;
        let wanted = [least, self.queries, self.validation];
        let wanted = wanted.into_iter().fold(0, usize::saturating_add);
        let by_class = images.by_class();
        let mut lists = Vec::new();
        let mut seen = HashSet::new();
        for &class in classes {
            let Some(list) = by_class.get(class) else {
                return wrong(format!("there is no class {class}"));
            };
            if !seen.insert(class) {
                return wrong(format!(
                    "the class {} is there twice",
                    images.classes()[class]
                ));
            }
            if list.len() < wanted {
                let (name, count) = (&images.classes()[class], list.len());
                return wrong(format!(
                    "{wanted} images of {name} are needed, there are {count}"
                ));
            }
            lists.push(list.clone());
        }
        Ok(Episodes {
            config: self.clone(),
            source: Source::new(images),
            classes: lists,
        })
    }
}

impl<M: Predict<Tensor<4>>> TaskSet<M> for Episodes {
    type Task = ImageTask;

    /// Those of an evaluation; in meta-training every task is another, without end.
    fn len(&self) -> usize {
        self.config.episodes
    }

    fn name(&self, index: usize) -> String {
        format!("episode {index}")
    }

    fn fingerprint(&self) -> u64 {
        fingerprint(self.source.digest(), (&self.config, &self.classes))
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<ImageTask, TaskError> {
        let (config, mut rng) = (&self.config, context.rng());
        let (mut train, mut validation, mut held_out) = (Vec::new(), Vec::new(), Vec::new());
        let picked = rand::seq::index::sample(&mut rng, self.classes.len(), config.ways);
        for (class, picked) in picked.into_iter().enumerate() {
            let images = &self.classes[picked];
            let kept_back = config.queries + config.validation;
            let count = config.shots.map_or(images.len(), |shots| shots + kept_back);
            let mut order = images.clone();
            let (order, _) = order.partial_shuffle(&mut rng, count);
            for (i, &mut image) in order.iter_mut().enumerate() {
                let to = match i {
                    i if i < config.queries => &mut held_out,
                    i if i < kept_back => &mut validation,
                    _ => &mut train,
                };
                to.push(Pick {
                    source: 0,
                    image,
                    class,
                    head: 0,
                });
            }
        }
        let parts = Parts {
            sources: [self.source.clone()].into(),
            batch_size: config.batch_size.unwrap_or(train.len()),
            held_out_batch: held_out.len().clamp(1, LARGEST_BATCH),
            query: None,
            train,
            validation,
            held_out,
            heads: vec![config.ways],
            augment: config.augment.clone(),
            augment_held_out: false,
            own_head: false,
            steps: None,
        };
        Ok(ImageTask::new(parts, context, rng))
    }
}

/// Queries that are looked at together, at most; fewer are one batch.
const LARGEST_BATCH: usize = 512;
