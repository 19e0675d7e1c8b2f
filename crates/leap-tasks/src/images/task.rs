//! Images to tell apart, as a task.

use std::sync::Arc;

use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use leap_core::{
    HeldOut, Predict, StepLoss, Task, TaskContext, TaskError, TaskRng, TaskSeed, reinitialize_new,
};
use rand::Rng;
use rand::seq::SliceRandom;

use super::augment::RandomAffine;
use super::data::Images;

/// The stream of a task's seed that heads come from.
const HEADS: u64 = 2;
/// Places in an order of images that are drawn at once, at most.
const LONGEST_ORDER: usize = 1 << 22;

/// Images, and what each channel's bytes are as numbers.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    images: Arc<Images>,
    values: Vec<[f32; 256]>,
}

impl Source {
    /// Values in [0, 1].
    pub fn new(images: Arc<Images>) -> Self {
        let values = vec![table(|value| value); images.shape()[0]];
        Self { images, values }
    }

    /// Of its images.
    pub fn digest(&self) -> u64 {
        self.images.digest()
    }

    /// Values of mean 0 and deviation 1, by the mean and deviation of each channel.
    pub fn standardized(images: Arc<Images>, statistics: &[[f64; 2]]) -> Self {
        let of = |[mean, deviation]: &[f64; 2]| {
            table(|value| (value - *mean as f32) / deviation.max(1e-3) as f32)
        };
        let values = statistics.iter().map(of).collect();
        Self { images, values }
    }
}

fn table(of: impl Fn(f32) -> f32) -> [f32; 256] {
    let mut values = [0.0; 256];
    for (byte, value) in values.iter_mut().enumerate() {
        *value = of(byte as f32 / 255.0);
    }
    values
}

/// An image and its class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick {
    /// The place of its source.
    pub source: usize,
    /// Its index there.
    pub image: usize,
    /// The output of the model that it belongs to.
    pub class: usize,
    /// The head whose outputs its loss is of.
    pub head: usize,
}

/// What an [`ImageTask`] is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub sources: Arc<[Source]>,
    pub train: Vec<Pick>,
    pub validation: Vec<Pick>,
    pub held_out: Vec<Pick>,
    /// Number of outputs of each head, one behind the other.
    pub heads: Vec<usize>,
    pub batch_size: usize,
    /// Of held-out images that are looked at together.
    pub held_out_batch: usize,
    /// Of held-out images that are drawn for a query; without it, a query is of all of them.
    pub query: Option<usize>,
    pub augment: Option<RandomAffine>,
    /// Whether held-out images are changed as well.
    pub augment_held_out: bool,
    /// Whether the model gets a head of the task's own size.
    pub own_head: bool,
    /// Steps of the task, where that is its own affair.
    pub steps: Option<usize>,
}

/// Images to tell apart, in batches.
#[derive(Clone, Debug)]
pub struct ImageTask {
    parts: Arc<Parts>,
    /// Places of the training images still to come, the last first.
    order: Vec<usize>,
    loss: CrossEntropyLoss,
    /// 0 where a head has its outputs, and far below everything elsewhere; of shape `[heads, outputs]`.
    mask: Option<Vec<f32>>,
    device: Device,
    rng: TaskRng,
    seed: TaskSeed,
}

/// A random order in which every image comes up equally often, give or take one, as in the authors' code.
fn order(samples: usize, images: usize, rng: &mut TaskRng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples.max(images)).map(|i| i % images).collect();
    order.shuffle(rng);
    order
}

impl ImageTask {
    /// Goes on with the generator that picked the images.
    pub(crate) fn new(parts: Parts, context: &TaskContext, mut rng: TaskRng) -> Self {
        let steps = parts.steps.unwrap_or(context.steps).min(context.steps);
        let samples = steps.saturating_mul(parts.batch_size).min(LONGEST_ORDER);
        Self {
            order: order(samples, parts.train.len(), &mut rng),
            loss: CrossEntropyLossConfig::new().init(&context.device),
            mask: mask(&parts.heads),
            device: context.device.clone(),
            seed: context.seed,
            parts: Arc::new(parts),
            rng,
        }
    }

    /// The next batch to train on: images of shape `[batch, channels, height, width]` and classes of shape `[batch]`.
    pub fn next_batch(&mut self) -> (Tensor<4>, Tensor<1, Int>) {
        let picks = self.next_picks();
        let augment = self.parts.augment.as_ref();
        batch(&self.parts, &picks, augment, &mut self.rng, &self.device)
    }

    fn next_picks(&mut self) -> Vec<Pick> {
        let mut picks = Vec::with_capacity(self.parts.batch_size);
        while picks.len() < self.parts.batch_size {
            if self.order.is_empty() {
                self.order = order(0, self.parts.train.len(), &mut self.rng);
            }
            picks.extend(self.order.pop().map(|place| self.parts.train[place]));
        }
        picks
    }

    /// The model's logits for images, of which those of other heads than their own are far below, and their classes.
    fn predict<M: Predict<Tensor<4>>>(
        &mut self,
        model: &M,
        picks: &[Pick],
        augment: bool,
        device: &Device,
    ) -> Result<(Tensor<2>, Tensor<1, Int>), TaskError> {
        let augment = self.parts.augment.as_ref().filter(|_| augment);
        let (images, classes) = batch(&self.parts, picks, augment, &mut self.rng, device);
        let logits = model.predict(images);
        let (outputs, wanted) = (logits.dims()[1], self.parts.heads.iter().sum());
        if outputs < wanted || (self.mask.is_some() && outputs > wanted) {
            return Err(format!("the model has {outputs} outputs for {wanted} classes").into());
        }
        let logits = match &self.mask {
            None => logits,
            Some(mask) => {
                let outputs = mask.len() / self.parts.heads.len();
                let rows = picks.iter().flat_map(|pick| {
                    let first = pick.head * outputs;
                    &mask[first..first + outputs]
                });
                let rows = Vec::from_iter(rows.copied());
                let shape = [picks.len(), outputs];
                logits + Tensor::from_data(TensorData::new(rows, shape), device)
            }
        };
        Ok((logits, classes))
    }

    /// Loss and accuracy on some images, in evaluation mode or by the statistics of their batch.
    fn evaluate<M: Predict<Tensor<4>>>(
        &mut self,
        model: &M,
        picks: &[Pick],
    ) -> Result<Option<HeldOut>, TaskError> {
        if picks.is_empty() {
            return Ok(None);
        }
        let (device, size) = (model.devices().remove(0), self.parts.held_out_batch);
        // Where a batch is normalized by its own statistics, it must not be of a few classes alone.
        let stride = match device.is_autodiff() {
            true => picks.len().div_ceil(size),
            false => 1,
        };
        let mixed = (0..stride).flat_map(|first| picks.iter().skip(first).step_by(stride));
        let mixed = Vec::from_iter(mixed.copied());
        let (mut loss, mut correct) = (0.0, 0.0);
        let augment = self.parts.augment_held_out;
        for chunk in mixed.chunks(size) {
            let (logits, classes) = self.predict(model, chunk, augment, &device)?;
            let share = chunk.len() as f64 / picks.len() as f64;
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

/// 0 where a head has its outputs, and far below everything elsewhere; nothing for a single head.
fn mask(heads: &[usize]) -> Option<Vec<f32>> {
    if heads.len() < 2 {
        return None;
    }
    let owners = heads
        .iter()
        .enumerate()
        .flat_map(|(head, size)| vec![head; *size]);
    let owners = Vec::from_iter(owners);
    let row = |head: usize| {
        let value = move |owner: &usize| if *owner == head { 0.0 } else { -1e9 };
        owners.iter().map(value).collect::<Vec<f32>>()
    };
    Some((0..heads.len()).flat_map(row).collect())
}

fn batch(
    parts: &Parts,
    picks: &[Pick],
    augment: Option<&RandomAffine>,
    rng: &mut TaskRng,
    device: &Device,
) -> (Tensor<4>, Tensor<1, Int>) {
    let [channels, height, width] = parts.sources[0].images.shape();
    let mut images = Vec::with_capacity(picks.len() * channels * height * width);
    let mut classes = Vec::with_capacity(picks.len());
    for pick in picks {
        let Source {
            images: source,
            values,
        } = &parts.sources[pick.source];
        let image = source.image(pick.image);
        match augment {
            Some(augment) => augment.apply(image, [height, width], values, rng, &mut images),
            None => {
                for (plane, values) in image.chunks_exact(height * width).zip(values) {
                    images.extend(plane.iter().map(|byte| values[usize::from(*byte)]));
                }
            }
        }
        classes.push(pick.class as i32);
    }
    let shape = [classes.len(), channels, height, width];
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

impl<M: Predict<Tensor<4>>> Task<M> for ImageTask {
    fn start(&mut self, init: M) -> Result<M, TaskError> {
        if !self.parts.own_head {
            return Ok(init);
        }
        let outputs = self.parts.heads.iter().sum();
        let model = |init: M| init.with_outputs(outputs);
        reinitialize_new(init, model, &mut self.seed.rng(HEADS))
    }

    fn steps(&self) -> Option<usize> {
        self.parts.steps
    }

    fn loss(&mut self, model: &M) -> Result<StepLoss, TaskError> {
        let (picks, device) = (self.next_picks(), self.device.clone());
        let (logits, classes) = self.predict(model, &picks, true, &device)?;
        Ok(StepLoss {
            loss: self.loss.forward(logits.clone(), classes.clone()),
            accuracy: Some(accuracy(logits.inner(), classes.inner())),
            score: None,
        })
    }

    /// On held-out images.
    fn query(&mut self, model: &M) -> Result<Tensor<1>, TaskError> {
        let held_out = self.parts.held_out.len();
        if held_out == 0 {
            return Err("no images are held out for a query batch".into());
        }
        let places: Vec<usize> = match self.parts.query {
            None => (0..held_out).collect(),
            Some(size) => (0..size)
                .map(|_| self.rng.random_range(0..held_out))
                .collect(),
        };
        let picks = places.into_iter().map(|place| self.parts.held_out[place]);
        let (picks, device) = (Vec::from_iter(picks), self.device.clone());
        let augment = self.parts.augment_held_out;
        let (logits, classes) = self.predict(model, &picks, augment, &device)?;
        Ok(self.loss.forward(logits, classes))
    }

    fn fork(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn validate(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        if self.parts.validation.is_empty() {
            return Err("the task has no images to validate on".into());
        }
        let parts = self.parts.clone();
        self.evaluate(model, &parts.validation)
    }

    fn held_out(&mut self, model: &M) -> Result<Option<HeldOut>, TaskError> {
        let parts = self.parts.clone();
        self.evaluate(model, &parts.held_out)
    }
}
