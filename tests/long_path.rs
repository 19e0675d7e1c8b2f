//! Paths of a million steps.

use std::time::{Duration, Instant};

use burn::module::{Module, Param, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use leap_core::{Leap, LearningPath, Norm, ParamSpace};

const SIZE: usize = 8;
const STEPS: usize = 1_000_000;

#[derive(Module, Debug)]
struct Point {
    at: Param<Tensor<1>>,
}

/// A float64 computation of the meta-gradient and the figures of the same points.
struct Exact {
    norm: Norm,
    last: Option<([f32; SIZE], f32, [f32; SIZE])>,
    gradient: [f64; SIZE],
    length: f64,
    energy: f64,
}

impl Exact {
    fn record(&mut self, at: [f32; SIZE], loss: f32, grads: [f32; SIZE]) {
        if let Some((from, before, slope)) = self.last.replace((at, loss, grads)) {
            let step: Vec<f64> = (0..SIZE)
                .map(|i| f64::from(at[i]) - f64::from(from[i]))
                .collect();
            let rise = f64::from(loss) - f64::from(before);
            let energy = step.iter().map(|s| s * s).sum::<f64>() + rise * rise;
            let weight = match self.norm {
                Norm::Length => energy.sqrt().recip(),
                Norm::Energy => 1.0,
            };
            for i in 0..SIZE {
                self.gradient[i] -= weight * (step[i] - rise.abs() * f64::from(slope[i]));
            }
            self.length += energy.sqrt();
            self.energy += energy;
        }
    }
}

/// Resident memory in KiB, where the system says it.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Length, energy and meta-gradient of a million small segments in float32 are within 1e-4 of a computation in float64,
/// memory does not grow, and a step at the end costs what one at the beginning does.
#[test]
fn a_million_segments_add_up() {
    let device = Device::flex();
    for norm in [Norm::Length, Norm::Energy] {
        let model = Point {
            at: Param::from_data(TensorData::from([0f32; SIZE]), &device.clone().autodiff()),
        };
        let space = ParamSpace::new(&model, &ParamGroup::all()).unwrap();
        let mut path = Leap::new().with_norm(norm).path(&space);
        let mut exact = Exact {
            norm,
            last: None,
            gradient: [0.0; SIZE],
            length: 0.0,
            energy: 0.0,
        };
        // Small steps that mostly go one way, around points that are large beside them, as weights are.
        let mut at: [f32; SIZE] = std::array::from_fn(|i| 0.3 * i as f32 - 1.0);
        let mut state = 1u64;
        let mut noise = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 40) as f32 / (1u64 << 24) as f32) - 0.5
        };
        // The fastest of a hundred parts each, which neighbours on the machine slow down least.
        let mut times = [Duration::MAX; 2];
        let mut part = Duration::ZERO;
        let mut memory = None;
        for step in 0..STEPS {
            let loss = 2.0 - 1.5 * step as f32 / STEPS as f32 + 1e-5 * noise();
            let grads: [f32; SIZE] = std::array::from_fn(|i| 0.1 * (i as f32 - 2.0) + noise());
            let start = Instant::now();
            let tensor = Tensor::from_data(TensorData::from(at), &device);
            let moved = Point {
                at: model.at.clone().map(|_| tensor),
            };
            let mut registered = GradientsParams::new();
            let tensor = Tensor::<1>::from_data(TensorData::from(grads), &device);
            registered.register(model.at.id, tensor);
            let on_device = Tensor::from_data(TensorData::from([loss]), &device);
            path.record(&moved, &on_device, &registered).unwrap();
            part += start.elapsed();
            if step == STEPS / 100 {
                memory = resident();
            }
            if step % 1_000 == 999 {
                let part = std::mem::take(&mut part);
                match step {
                    ..100_000 => times[0] = times[0].min(part),
                    LAST_STEPS.. => times[1] = times[1].min(part),
                    _ => {}
                }
            }
            exact.record(at, loss, grads);
            for (i, x) in at.iter_mut().enumerate() {
                *x += 2e-6 * (i as f32 - 3.0) + 4e-6 * noise();
            }
        }
        if let (Some(before), Some(after)) = (memory, resident()) {
            println!("{before} KiB after 10,000 steps, {after} KiB after {STEPS}");
            // A float a step would be 4 MB.
            assert!(after < before + 2_000, "{before} KiB, then {after} KiB");
        }
        let result = path.finish().unwrap();
        let gradient = result.gradient.to_vec().unwrap();
        let figures = result.figures.read().unwrap();
        let apart = |a: f64, b: f64| (a / b - 1.0).abs();
        let size = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let difference: Vec<f64> = (0..SIZE).map(|i| gradient[i] - exact.gradient[i]).collect();
        let deviations = [
            size(&difference) / size(&exact.gradient),
            apart(figures.length, exact.length),
            apart(figures.energy, exact.energy),
        ];
        let [of_gradient, of_length, of_energy] = deviations;
        println!(
            "{norm:?}: the meta-gradient deviates by {of_gradient:.1e}, length by {of_length:.1e}, energy by {of_energy:.1e}"
        );
        println!(
            "1,000 steps took {:?} at the beginning, {:?} at the end",
            times[0], times[1]
        );
        assert!(deviations.iter().all(|d| *d < 1e-4), "{deviations:?}");
        assert!(times[1] < times[0] * 3 / 2, "{times:?}");
    }
}

const LAST_STEPS: usize = STEPS - 100_000;
