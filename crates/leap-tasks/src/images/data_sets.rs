//! Data sets as tasks.

use std::sync::Arc;

use burn::config::Config;
use burn::tensor::Tensor;
use leap_core::{Predict, TaskContext, TaskError, TaskSet};

use crate::digest::fingerprint;
use crate::error::DataError;

use super::augment::RandomAffine;
use super::data::Images;
use super::load::DataSet;
use super::task::{ImageTask, Parts, Pick, Source};

/// How data sets become tasks, each of its own number of classes, as in section 4.2 of the
/// [Leap paper](https://arxiv.org/abs/1812.01054).
#[derive(Config, Debug)]
pub struct DataSetTasksConfig {
    /// Images in a batch.
    #[config(default = 32)]
    pub batch_size: usize,
    /// A task is as many times through its images, but at least two steps, unless the trainer's steps are fewer; `None` is the
    /// trainer's steps.
    pub epochs: Option<f64>,
    /// Share of each class's images to validate on, the last in their order: frames of one film, which lie together, are not
    /// trained and validated on both.
    #[config(default = 0.1)]
    pub validation: f64,
    /// Share to hold out, where a data set has no images for the test; the last before those to validate on.
    #[config(default = 0.2)]
    pub held_out: f64,
    /// Whether each channel has a mean of 0 and a deviation of 1 over the images that are trained on; values are in [0, 1]
    /// otherwise.
    #[config(default = true)]
    pub standardize: bool,
    /// How images are changed in training; `None` is not at all.
    pub augment: Option<RandomAffine>,
}

impl Default for DataSetTasksConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Several data sets of one shape, each a task: to tell its classes apart.
///
/// The model gets a head of the task's size ([`Predict::with_outputs`]), which belongs to it alone: meta-learn the rest
/// ([`with_shared`](leap_core::MetaTrainer::with_shared)).
#[derive(Clone, Debug)]
pub struct DataSetTasks {
    config: DataSetTasksConfig,
    sets: Vec<Split>,
}

/// A data set, and which of its images are for what.
#[derive(Clone, Debug)]
struct Split {
    name: String,
    classes: usize,
    /// The images to train on and those for the test; or one for all.
    sources: Vec<Source>,
    train: Vec<Pick>,
    validation: Vec<Pick>,
    held_out: Vec<Pick>,
}

impl DataSetTasksConfig {
    /// Tasks of these data sets.
    ///
    /// # Errors
    /// [`DataError`] if images are of several shapes, a data set's images for the test are of other classes, or none are left
    /// to train on.
    pub fn init(&self, sets: impl IntoIterator<Item = DataSet>) -> Result<DataSetTasks, DataError> {
        let wrong = |place: &str, reason: String| Err(DataError::new(place, reason));
        let is_share = |share: f64| (0.0..1.0).contains(&share);
        if self.batch_size == 0 || self.epochs.is_some_and(|n| !n.is_finite() || n <= 0.0) {
            return wrong("data sets", "batch_size and epochs must be above 0".into());
        }
        self.augment.as_ref().map_or(Ok(()), RandomAffine::check)?;
        if !is_share(self.validation) || !is_share(self.held_out) {
            return wrong("data sets", "shares must be in [0, 1)".into());
        }
        let (mut splits, mut shape) = (Vec::new(), None);
        for set in sets {
            let this = set.train.shape();
            let first = *shape.get_or_insert(this);
            if this != first {
                let reason = format!("images of shape {this:?}, and {first:?} elsewhere");
                return wrong(&set.name, reason);
            }
            let name = set.name.clone();
            if let Some(test) = &set.test
                && (test.shape() != this || test.classes() != set.train.classes())
            {
                let reason = "images for the test are of another shape, or of other classes";
                return wrong(&name, reason.into());
            }
            let split = self.split(set);
            if split.train.is_empty() || split.classes < 2 {
                return wrong(
                    &name,
                    "no images of two classes are left to train on".into(),
                );
            }
            splits.push(split);
        }
        Ok(DataSetTasks {
            config: self.clone(),
            sets: splits,
        })
    }

    fn split(&self, set: DataSet) -> Split {
        let (name, has_test) = (set.name, set.test.is_some());
        let classes = set.train.classes().len();
        let (mut train, mut validation, mut held_out) = (Vec::new(), Vec::new(), Vec::new());
        let pick = |source: usize, image: usize, class: usize| Pick {
            source,
            image,
            class,
            head: 0,
        };
        for (class, images) in set.train.by_class().into_iter().enumerate() {
            let share = |share: f64| (share * images.len() as f64).round() as usize;
            let kept_back = if has_test { 0 } else { share(self.held_out) };
            let last = images.len() - share(self.validation).min(images.len());
            let first = last - kept_back.min(last);
            for (place, image) in images.into_iter().enumerate() {
                let to = match place {
                    place if place < first => &mut train,
                    place if place < last => &mut held_out,
                    _ => &mut validation,
                };
                to.push(pick(0, image, class));
            }
        }
        if let Some(test) = &set.test {
            let labels = test.labels().iter().enumerate();
            held_out = labels
                .map(|(image, class)| pick(1, image, *class))
                .collect();
        }
        let statistics = set.train.statistics(train.iter().map(|pick| pick.image));
        let source = |images: Images| match self.standardize {
            true => Source::standardized(Arc::new(images), &statistics),
            false => Source::new(Arc::new(images)),
        };
        Split {
            name,
            classes,
            sources: [Some(set.train), set.test]
                .into_iter()
                .flatten()
                .map(source)
                .collect(),
            train,
            validation,
            held_out,
        }
    }
}

impl DataSetTasks {
    /// Names of the data sets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sets.iter().map(|set| set.name.as_str())
    }

    /// Number of classes of each data set.
    pub fn classes(&self) -> impl Iterator<Item = usize> {
        self.sets.iter().map(|set| set.classes)
    }

    /// Number of images that each task trains on.
    pub fn train_images(&self) -> impl Iterator<Item = usize> {
        self.sets.iter().map(|set| set.train.len())
    }

    /// Number of images of each data set to validate on.
    pub fn validation_images(&self) -> impl Iterator<Item = usize> {
        self.sets.iter().map(|set| set.validation.len())
    }

    /// The same tasks, so many times through their images.
    pub fn with_epochs(mut self, epochs: Option<f64>) -> Self {
        self.config.epochs = epochs;
        self
    }

    /// Those data sets alone whose names are chosen.
    pub fn only(&self, is_chosen: impl Fn(&str) -> bool) -> Self {
        let sets = self.sets.iter().filter(|set| is_chosen(&set.name));
        Self {
            config: self.config.clone(),
            sets: sets.cloned().collect(),
        }
    }

    /// All data sets as one task of as many steps as the trainer has, for multi-headed finetuning: batches in which they are mixed, as many of one as of another,
    /// and a head for each, of which a model has all outputs one behind the other. Each image's loss is that of its own head.
    pub fn mixed(&self) -> MixedDataSets {
        MixedDataSets(self.clone())
    }

    fn fingerprint_of_sets(&self) -> u64 {
        let sources = self.sets.iter().flat_map(|set| &set.sources);
        let digests = Vec::from_iter(sources.map(Source::digest));
        let names = Vec::from_iter(self.names());
        fingerprint(0, (&self.config, names, digests))
    }

    /// Some of the data sets as one task, with a head for each.
    fn task_on(
        &self,
        sets: &[&Split],
        epochs: Option<f64>,
        context: &TaskContext,
    ) -> Result<ImageTask, TaskError> {
        if sets.is_empty() {
            return Err("there is no data set to learn".into());
        }
        let most = sets.iter().map(|set| set.train.len()).max().unwrap_or(0);
        let mut parts = Parts {
            sources: sets.iter().flat_map(|set| set.sources.clone()).collect(),
            train: Vec::new(),
            validation: Vec::new(),
            held_out: Vec::new(),
            heads: sets.iter().map(|set| set.classes).collect(),
            batch_size: self.config.batch_size,
            held_out_batch: HELD_OUT_BATCH,
            query: Some(self.config.batch_size),
            augment: self.config.augment.clone(),
            augment_held_out: false,
            own_head: true,
            steps: None,
        };
        let (mut source, mut class) = (0, 0);
        for (head, set) in sets.iter().enumerate() {
            let shifted = |pick: &Pick| Pick {
                source: source + pick.source,
                image: pick.image,
                class: class + pick.class,
                head,
            };
            // Small data sets come up as often as large ones.
            let train = set.train.iter().cycle().take(most);
            parts.train.extend(train.map(shifted));
            parts.validation.extend(set.validation.iter().map(shifted));
            parts.held_out.extend(set.held_out.iter().map(shifted));
            source += set.sources.len();
            class += set.classes;
        }
        let epoch = most as f64 / self.config.batch_size as f64;
        parts.steps = epochs.map(|epochs| ((epochs * epoch).ceil() as usize).max(2));
        Ok(ImageTask::new(parts, context, context.rng()))
    }
}

/// Held-out images that are looked at together.
const HELD_OUT_BATCH: usize = 100;

impl<M: Predict<Tensor<4>>> TaskSet<M> for DataSetTasks {
    type Task = ImageTask;

    fn len(&self) -> usize {
        self.sets.len()
    }

    fn name(&self, index: usize) -> String {
        self.sets[index].name.clone()
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint_of_sets()
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<ImageTask, TaskError> {
        self.task_on(&[&self.sets[index]], self.config.epochs, context)
    }
}

/// Several data sets as one task, see [`DataSetTasks::mixed`].
#[derive(Clone, Debug)]
pub struct MixedDataSets(DataSetTasks);

impl<M: Predict<Tensor<4>>> TaskSet<M> for MixedDataSets {
    type Task = ImageTask;

    fn len(&self) -> usize {
        1
    }

    fn name(&self, _index: usize) -> String {
        format!("{} data sets mixed", self.0.sets.len())
    }

    fn fingerprint(&self) -> u64 {
        self.0.fingerprint_of_sets()
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<ImageTask, TaskError> {
        self.0.task_on(&Vec::from_iter(&self.0.sets), None, context)
    }
}
