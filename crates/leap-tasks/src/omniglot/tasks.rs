//! Alphabets as tasks.

use std::sync::Arc;

use burn::config::Config;
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use leap_core::{
    HeldOut, Predict, StepLoss, Task, TaskContext, TaskError, TaskRng, TaskSet, run_rng,
};
use rand::Rng;
use rand::seq::SliceRandom;

use super::augment::RandomAffine;
use super::data::{Character, Omniglot};
use super::error::OmniglotError;

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
    /// [`OmniglotError`] if there are not enough alphabets, characters or drawings for the settings.
    pub fn init(&self, data: impl Into<Arc<Omniglot>>) -> Result<OmniglotSplits, OmniglotError> {
        let data = data.into();
        let wrong = |reason: String| Err(OmniglotError::new("settings", reason));
        if self.classes == 0 || self.batch_size == 0 {
            return wrong("`classes` and `batch_size` must be above 0".into());
        }
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
            let few = |c: &&Character| c.drawings.len() <= self.held_out;
            if let Some(character) = alphabet.characters.iter().find(few) {
                return wrong(format!(
                    "{} / {} has {} drawings: none is left to train on when {} are held out",
                    alphabet.name,
                    character.name,
                    character.drawings.len(),
                    self.held_out
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

    /// Training and held-out drawings of an alphabet, whose first class is `first_class`.
    fn drawings(&self, index: usize, first_class: usize) -> (Samples, Samples) {
        let (alphabet, characters) = &self.alphabets[index];
        let characters = characters
            .iter()
            .map(|&c| &self.data.alphabets()[*alphabet].characters[c]);
        let size = self.data.size();
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (class, character) in characters.enumerate() {
            for (i, drawing) in character.drawings.iter().enumerate() {
                let image = drawing.pixels(size * size).collect();
                match i < self.config.held_out {
                    true => held_out.push((image, first_class + class)),
                    false => train.push((image, first_class + class)),
                }
            }
        }
        (train, held_out)
    }

    fn task_on(
        &self,
        heads: usize,
        (train, held_out): (Samples, Samples),
        context: &TaskContext,
    ) -> OmniglotTask {
        let mut rng = context.rng();
        let samples = context.steps * self.config.batch_size;
        OmniglotTask {
            order: order(samples, train.len(), &mut rng),
            train: train.into(),
            held_out: held_out.into(),
            size: self.data.size(),
            heads,
            batch_size: self.config.batch_size,
            augment: self.config.augment.clone(),
            loss: CrossEntropyLossConfig::new().init(&context.device),
            device: context.device.clone(),
            rng,
        }
    }
}

impl<M: Predict<Tensor<4>>> TaskSet<M> for OmniglotTasks {
    type Task = OmniglotTask;

    fn len(&self) -> usize {
        self.alphabets.len()
    }

    fn name(&self, index: usize) -> String {
        self.data.alphabets()[self.alphabets[index].0].name.clone()
    }

    fn task(&self, index: usize, context: &TaskContext) -> Result<OmniglotTask, TaskError> {
        Ok(self.task_on(1, self.drawings(index, 0), context))
    }
}

/// Several alphabets as one task, see [`OmniglotTasks::mixed`].
#[derive(Clone, Debug)]
pub struct MixedOmniglot(OmniglotTasks);

impl<M: Predict<Tensor<4>>> TaskSet<M> for MixedOmniglot {
    type Task = OmniglotTask;

    fn len(&self) -> usize {
        1
    }

    fn name(&self, _index: usize) -> String {
        format!("{} alphabets mixed", self.0.heads())
    }

    fn task(&self, _index: usize, context: &TaskContext) -> Result<OmniglotTask, TaskError> {
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for index in 0..self.0.heads() {
            let (more, more_held_out) = self.0.drawings(index, index * self.0.config.classes);
            train.extend(more);
            held_out.extend(more_held_out);
        }
        Ok(self.0.task_on(self.0.heads(), (train, held_out), context))
    }
}

/// Images and their classes.
type Samples = Vec<(Vec<u8>, usize)>;

/// A random order in which every image comes up equally often, give or take one, as in the authors' code.
fn order(samples: usize, images: usize, rng: &mut TaskRng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples.max(images)).map(|i| i % images).collect();
    order.shuffle(rng);
    order
}

/// One alphabet, or several mixed: batches of their characters' drawings.
#[derive(Clone, Debug)]
pub struct OmniglotTask {
    train: Arc<[(Vec<u8>, usize)]>,
    held_out: Arc<[(Vec<u8>, usize)]>,
    size: usize,
    /// Number of alphabets, each with its own share of the model's outputs.
    heads: usize,
    batch_size: usize,
    augment: Option<RandomAffine>,
    /// Indices of the training images still to come, the last first.
    order: Vec<usize>,
    loss: CrossEntropyLoss,
    device: Device,
    rng: TaskRng,
}

impl OmniglotTask {
    /// The next batch to train on: images of shape `[batch, 1, height, width]`, 0 for ink and 1 for
    /// paper, and classes of shape `[batch]`.
    pub fn next_batch(&mut self) -> (Tensor<4>, Tensor<1, Int>) {
        let mut picks = Vec::with_capacity(self.batch_size);
        while picks.len() < self.batch_size {
            if self.order.is_empty() {
                self.order = order(0, self.train.len(), &mut self.rng);
            }
            picks.extend(self.order.pop());
        }
        let picks = picks.into_iter().map(|i| &self.train[i]);
        batch(picks, &self.augment, self.size, &mut self.rng, &self.device)
    }
}

fn batch<'a>(
    samples: impl Iterator<Item = &'a (Vec<u8>, usize)>,
    augment: &Option<RandomAffine>,
    size: usize,
    rng: &mut TaskRng,
    device: &Device,
) -> (Tensor<4>, Tensor<1, Int>) {
    let (mut images, mut classes) = (Vec::new(), Vec::new());
    for (image, class) in samples {
        match augment {
            Some(augment) => augment.apply(image, size, rng, &mut images),
            None => images.extend(image.iter().map(|p| f32::from(*p))),
        }
        classes.push(*class as i32);
    }
    let shape = [classes.len(), 1, size, size];
    (
        Tensor::from_data(TensorData::new(images, shape), device),
        Tensor::from_data(TensorData::new(classes, [shape[0]]), device),
    )
}

/// The share of correct predictions, of shape `[1]`.
fn accuracy(logits: Tensor<2>, classes: Tensor<1, Int>) -> Tensor<1> {
    let predicted = logits.argmax(1).squeeze_dim::<1>(1);
    predicted.equal(classes).float().mean()
}

/// Of logits of shape `[batch, heads * classes]` those of each sample's own head, of shape `[batch, classes]`, and
/// its class there.
fn own_head(
    logits: Tensor<2>,
    classes: Tensor<1, Int>,
    heads: usize,
) -> (Tensor<2>, Tensor<1, Int>) {
    if heads == 1 {
        return (logits, classes);
    }
    let [batch, outputs] = logits.dims();
    let per_head = outputs / heads;
    let head = classes.clone() / per_head as i64;
    let own = logits.reshape([batch, heads, per_head]) * one_hot(head.clone(), heads);
    (
        own.sum_dim(1).squeeze_dim(1),
        classes - head * per_head as i64,
    )
}

/// Shape `[batch, heads, 1]`: 1 at each sample's head.
fn one_hot(head: Tensor<1, Int>, heads: usize) -> Tensor<3> {
    head.one_hot::<2>(heads).float().unsqueeze_dim(2)
}

impl<M: Predict<Tensor<4>>> Task<M> for OmniglotTask {
    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let (images, classes) = self.next_batch();
        let (logits, classes) = own_head(model.predict(images), classes, self.heads);
        Ok(StepLoss {
            loss: self.loss.forward(logits.clone(), classes.clone()),
            accuracy: Some(accuracy(logits.inner(), classes.inner())),
            score: None,
        })
    }

    /// On as many held-out drawings, picked at random, as a batch has.
    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        if self.held_out.is_empty() {
            return Err("no drawings are held out for a query batch".into());
        }
        let picks: Vec<usize> = (0..self.batch_size)
            .map(|_| self.rng.random_range(0..self.held_out.len()))
            .collect();
        let picks = picks.into_iter().map(|i| &self.held_out[i]);
        let (images, classes) = batch(picks, &self.augment, self.size, &mut self.rng, &self.device);
        let (logits, classes) = own_head(model.predict(images), classes, self.heads);
        Ok(self.loss.forward(logits, classes))
    }

    fn fork(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn held_out(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let device = model.devices().remove(0);
        // Where a batch is normalized by its own statistics, it must not be of a few classes alone.
        let stride = match device.is_autodiff() {
            true => self.held_out.len().div_ceil(self.batch_size),
            false => 1,
        };
        let mixed = (0..stride).flat_map(|first| self.held_out.iter().skip(first).step_by(stride));
        let mixed = Vec::from_iter(mixed);
        let (mut loss, mut correct) = (0.0, 0.0);
        for chunk in mixed.chunks(self.batch_size) {
            let (images, classes) = batch(
                chunk.iter().copied(),
                &self.augment,
                self.size,
                &mut self.rng,
                &device,
            );
            let (logits, classes) = own_head(model.predict(images), classes, self.heads);
            let share = chunk.len() as f64 / self.held_out.len() as f64;
            let losses = self.loss.forward(logits.clone(), classes.clone());
            loss += share * f64::from(losses.into_scalar::<f32>());
            correct += share * f64::from(accuracy(logits, classes).into_scalar::<f32>());
        }
        Ok(Some(HeldOut {
            loss,
            accuracy: Some(correct),
        }))
    }
}
