//! The path of a task's training through parameter space, and its figures.

use std::ops::Add;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::space::figures::DeviceFigures;
use crate::space::params::{ParamSpace, ParamVector, fetch};
use crate::space::sum::LongSum;

/// What follows a task's training, step by step.
///
/// `()` follows nothing, [`PathMeter`] measures the path, [`PathTrace`](crate::PathTrace) keeps all of its points, and
/// [`LeapPath`](crate::LeapPath) turns it into a meta-gradient.
pub trait LearningPath {
    /// Records the point at which a loss and its gradients were measured, before the optimizer
    /// moves on from there.
    ///
    /// `loss` has shape `[1]`; nothing is read back from the device.
    ///
    /// # Errors
    /// [`Error::MissingParameter`] if `model` has lost a shared parameter.
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        grads: &GradientsParams,
    ) -> Result<(), Error>;

    /// The length of the segment that led to the newest point, of shape `[1]`, zero at the first; `None` from paths
    /// that do not measure it. Learning curves add it up ([`LearningCurve::length`](crate::LearningCurve::length)).
    fn newest_length(&self) -> Option<Tensor<1>> {
        None
    }

    /// The path as it is now, to [go on](Self::restore) from after an interruption; `None` from paths that cannot,
    /// whose tasks then start again.
    ///
    /// # Errors
    /// [`Error::ReadBack`] if the device does not deliver it.
    fn save(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    /// Goes on from what [`save`](Self::save) gave, on `device`, which is without autodiff.
    ///
    /// # Errors
    /// [`Error::Saved`] if it is of something else.
    fn restore(&mut self, saved: &[u8], device: &Device) -> Result<(), Error> {
        let _ = (saved, device);
        Err(Error::Saved("the path cannot go on".into()))
    }
}

impl LearningPath for () {
    fn record<M: Module>(
        &mut self,
        _model: &M,
        _loss: &Tensor<1>,
        _grads: &GradientsParams,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(Some(Vec::new()))
    }

    fn restore(&mut self, _saved: &[u8], _device: &Device) -> Result<(), Error> {
        Ok(())
    }
}

/// Measures a path on the task's manifold, whose points are (parameters, loss), as in section 2.1 of the
/// [Leap paper](https://arxiv.org/abs/1812.01054), or of parameters alone.
///
/// It keeps the first and the last point and the last segment, however long the path is, and stays accurate over
/// millions of segments.
#[derive(Clone, Debug)]
pub struct PathMeter {
    space: Arc<ParamSpace>,
    with_loss: bool,
    ends: Option<(Point, Point)>,
    last_segment: Option<Segment>,
    sums: LongSum<Sums>,
}

type Point = (ParamVector, Tensor<1>);

/// From one point of a path to the next.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Δθ, the difference of the parameters.
    pub step: ParamVector,
    /// Δf, the rise of the loss, of shape `[1]`; zero where the loss is no dimension.
    pub rise: Tensor<1>,
    /// The length, of shape `[1]`.
    pub length: Tensor<1>,
}

#[derive(Clone, Debug)]
struct Sums {
    length: Tensor<1>,
    energy: Tensor<1>,
    /// Of the cosines between segments that follow each other.
    cosine: Tensor<1>,
}

impl Add for Sums {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            length: self.length + other.length,
            energy: self.energy + other.energy,
            cosine: self.cosine + other.cosine,
        }
    }
}

impl PathMeter {
    /// A path of no points yet; `with_loss` says whether the loss is a dimension.
    pub fn new(space: &Arc<ParamSpace>, with_loss: bool) -> Self {
        Self {
            space: space.clone(),
            with_loss,
            ends: None,
            last_segment: None,
            sums: LongSum::default(),
        }
    }

    /// Goes on to the point at which `model` is and has `loss`. The segment that leads there comes back,
    /// except for the first point.
    ///
    /// # Errors
    /// [`Error::MissingParameter`] if `model` has lost a shared parameter.
    pub fn advance<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
    ) -> Result<Option<Segment>, Error> {
        // In the type of the vectors, which a loss in half precision is widened to.
        let loss = loss.clone().inner().cast(self.space.dtype());
        let here = (self.space.point(model)?, loss);
        let Some((_, last)) = &mut self.ends else {
            self.ends = Some((here.clone(), here));
            return Ok(None);
        };
        let last = std::mem::replace(last, here.clone());
        let (step, rise, energy) = self.difference(last, here);
        let length = energy.clone().sqrt();
        let segment = Segment { step, rise, length };
        let cosine = match &self.last_segment {
            None => segment.length.zeros_like(),
            Some(last) => segment.cosine(last),
        };
        self.sums.add(Sums {
            length: segment.length.clone(),
            energy,
            cosine,
        });
        self.last_segment = Some(segment.clone());
        Ok(Some(segment))
    }

    /// Moves all points of the path by a vector.
    pub(crate) fn shift(&mut self, by: &ParamVector) {
        if let Some((first, last)) = &mut self.ends {
            for (at, _) in [first, last] {
                *at = at.clone() + by.clone();
            }
        }
    }

    /// Parameters, loss and squared distance from `a` to `b`.
    fn difference(&self, a: Point, b: Point) -> (ParamVector, Tensor<1>, Tensor<1>) {
        let step = b.0 - a.0;
        let mut energy = step.dot(&step);
        let rise = match self.with_loss {
            true => b.1 - a.1,
            false => energy.zeros_like(),
        };
        if self.with_loss {
            energy = energy + rise.clone().square();
        }
        (step, rise, energy)
    }

    /// The figures of the path so far; `None` before there is a segment.
    pub fn figures(self) -> Option<DeviceFigures> {
        let (first, last) = self.ends.clone()?;
        let (_, _, distance) = self.difference(first, last);
        let sums = self.sums.total()?;
        let segments = self.sums.terms as usize;
        Some(DeviceFigures {
            length: sums.length,
            energy: sums.energy,
            distance: distance.sqrt(),
            cosine: sums.cosine / (segments - 1).max(1) as f64,
            segments,
        })
    }
}

impl LearningPath for PathMeter {
    fn record<M: Module>(
        &mut self,
        model: &M,
        loss: &Tensor<1>,
        _grads: &GradientsParams,
    ) -> Result<(), Error> {
        self.advance(model, loss).map(|_| ())
    }

    fn newest_length(&self) -> Option<Tensor<1>> {
        match (&self.last_segment, &self.ends) {
            (Some(segment), _) => Some(segment.length.clone()),
            (None, ends) => ends.as_ref().map(|(_, (_, loss))| loss.zeros_like()),
        }
    }

    fn save(&self) -> Result<Option<Vec<u8>>, Error> {
        let point = |(at, loss): &Point| Ok::<_, Error>((at.save()?, fetch(loss)?));
        let ends = match &self.ends {
            None => None,
            Some((first, last)) => Some([point(first)?, point(last)?]),
        };
        let last_segment = match &self.last_segment {
            None => None,
            Some(s) => Some((s.step.save()?, [fetch(&s.rise)?, fetch(&s.length)?])),
        };
        let sums = |s: &Option<Sums>| match s {
            None => Ok(None),
            Some(s) => Ok(Some([
                fetch(&s.length)?,
                fetch(&s.energy)?,
                fetch(&s.cosine)?,
            ])),
        };
        let saved = SavedMeter {
            ends,
            last_segment,
            sums: self
                .sums
                .levels
                .iter()
                .map(sums)
                .collect::<Result<_, Error>>()?,
            terms: self.sums.terms,
        };
        rmp_serde::to_vec(&saved).map(Some).map_err(Error::saved)
    }

    fn restore(&mut self, saved: &[u8], device: &Device) -> Result<(), Error> {
        let saved: SavedMeter = rmp_serde::from_slice(saved).map_err(Error::saved)?;
        let vector = |data| ParamVector::restore(&self.space, data, device);
        let scalar = |data: TensorData| {
            let dtype = data.dtype();
            Tensor::from_data(data, (device, dtype))
        };
        let point = |(at, loss)| Ok::<_, Error>((vector(at)?, scalar(loss)));
        self.ends = match saved.ends {
            None => None,
            Some([first, last]) => Some((point(first)?, point(last)?)),
        };
        self.last_segment = match saved.last_segment {
            None => None,
            Some((step, [rise, length])) => Some(Segment {
                step: vector(step)?,
                rise: scalar(rise),
                length: scalar(length),
            }),
        };
        let sums = |level: Option<[TensorData; 3]>| {
            level.map(|sums| {
                let [length, energy, cosine] = sums.map(scalar);
                Sums {
                    length,
                    energy,
                    cosine,
                }
            })
        };
        self.sums = LongSum {
            levels: saved.sums.into_iter().map(sums).collect(),
            terms: saved.terms,
        };
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct SavedMeter {
    ends: Option<[(TensorData, TensorData); 2]>,
    last_segment: Option<(TensorData, [TensorData; 2])>,
    sums: Vec<Option<[TensorData; 3]>>,
    terms: u64,
}

/// The square root of the smallest normal float32: shorter segments have no measurable length.
pub(crate) const SHORTEST: f64 = 1e-19;

impl Segment {
    /// The cosine of the angle to another segment, of shape `[1]`; 0 if one of them has no length.
    fn cosine(&self, other: &Self) -> Tensor<1> {
        let dot = self.step.dot(&other.step) + self.rise.clone() * other.rise.clone();
        let [a, b] = [self, other].map(|s| s.length.clone().clamp_min(SHORTEST));
        dot / a / b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::trace::{PathTrace, project_paths};
    use burn::module::{Param, ParamGroup};
    use burn::tensor::{Device, TensorData};

    #[derive(Module, Debug)]
    struct Point {
        at: Param<Tensor<1>>,
    }

    fn point(at: [f32; 3]) -> Point {
        let device = Device::flex().autodiff();
        Point {
            at: Param::from_data(TensorData::from(at), &device),
        }
    }

    /// The points of a path, as those of one model on the move.
    fn walk(path: &mut impl LearningPath, model: &Point, steps: &[([f32; 3], f32)]) {
        for (at, loss) in steps {
            let device = Device::flex();
            let moved = Point {
                at: model
                    .at
                    .clone()
                    .map(|old| Tensor::from_data(TensorData::from(*at), &old.device())),
            };
            let loss = Tensor::from_data(TensorData::from([*loss]), &device);
            path.record(&moved, &loss, &GradientsParams::new()).unwrap();
        }
    }

    #[test]
    fn figures_are_those_of_geometry() {
        let model = point([0.0; 3]);
        let space = ParamSpace::new(&model, &ParamGroup::all()).unwrap();
        // 3 east, 4 north, 4 south; the loss falls by 4 on the way east and stays.
        let steps = [
            ([0.0, 0.0, 0.0], 4.0),
            ([3.0, 0.0, 0.0], 0.0),
            ([3.0, 4.0, 0.0], 0.0),
            ([3.0, 0.0, 0.0], 0.0),
        ];
        let figures = |with_loss| {
            let mut meter = PathMeter::new(&space, with_loss);
            walk(&mut meter, &model, &steps);
            meter.figures().unwrap().read().unwrap()
        };
        let flat = figures(false);
        assert_eq!((flat.length, flat.energy, flat.segments), (11.0, 41.0, 3));
        assert!((flat.straightness - 3.0 / 11.0).abs() < 1e-6);
        assert!((flat.cosine - -0.5).abs() < 1e-6, "a right angle, and back");
        let with_loss = figures(true);
        assert_eq!((with_loss.length, with_loss.energy), (13.0, 57.0));
        assert!((with_loss.straightness - 5.0 / 13.0).abs() < 1e-6);
    }

    #[test]
    fn a_plane_is_shown_as_it_is() {
        let model = point([0.0; 3]);
        let space = ParamSpace::new(&model, &ParamGroup::all()).unwrap();
        let corners = [
            [1.0, 1.0, 5.0],
            [4.0, 1.0, 5.0],
            [4.0, 3.0, 5.0],
            [9.0, 3.0, 5.0],
        ];
        let mut trace = PathTrace::new(&space);
        walk(&mut trace, &model, &corners.map(|at| (at, 0.0)));
        let (paths, shown) = project_paths(&[trace]).unwrap();
        assert!((shown - 1.0).abs() < 1e-6, "{shown}");
        assert_eq!(paths[0][0], [0.0, 0.0]);
        for i in 0..4 {
            for j in 0..4 {
                let apart = |a: &[f64], b: &[f64]| {
                    let square = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
                    square.sum::<f64>().sqrt()
                };
                let [a, b] = [i, j].map(|k| corners[k].map(f64::from));
                let there = apart(&a, &b);
                let here = apart(&paths[0][i], &paths[0][j]);
                assert!((there - here).abs() < 1e-4, "{there} is drawn as {here}");
            }
        }
        assert!(project_paths(&[]).is_err());
    }
}
