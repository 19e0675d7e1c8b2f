//! Why the paths from one initialization are longer than those from another: norms of the convolutions, and the length of their
//! paths relative to them. Behind a convolution that is normalized the scale of its weights does nothing, while gradients, and
//! so steps, go with one over it.
//!
//! ```text
//! cargo bench --profile dev --bench paths -- SEED INIT.safetensors…
//! ```
//!
//! Held-out alphabets are those of the example `omniglot` with the same seed; files are its `init.safetensors`.

use std::ops::Range;

use burn::tensor::Device;
use leap_core::{Lanes, MetaTrainer, NoPretraining, PathTrace};
use leap_lab::load_initialization;
use leap_models::ConvNetConfig;
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

/// A path's figures, mean over tasks: each convolution's norm at the start and at the end, and its relative length; the length
/// of the path through all parameters, through the convolutions' weights alone, and through the head.
#[derive(Default)]
struct Figures {
    start: Vec<f64>,
    end: Vec<f64>,
    relative: Vec<f64>,
    lengths: [f64; 3],
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn add(sum: &mut Vec<f64>, values: &[f64], weight: f64) {
    sum.resize(values.len(), 0.0);
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += weight * value;
    }
}

fn figures(traces: &[PathTrace]) -> Figures {
    let mut all = Figures::default();
    let weight = 1.0 / traces.len() as f64;
    for trace in traces {
        let points: Vec<Vec<f64>> = trace
            .points
            .iter()
            .map(|point| point.to_vec().expect("it is on the CPU"))
            .collect();
        let space = trace.points[0].space();
        let sizes = trace.points[0].split();
        let mut at = 0;
        let (mut kernels, mut head) = (Vec::new(), Vec::new());
        for ((_, path), values) in space.params().zip(&sizes) {
            let size = values.dims()[0];
            if path.ends_with("conv.weight") {
                kernels.push(at..at + size);
            }
            if path.starts_with("head") {
                head.push(at..at + size);
            }
            at += size;
        }
        let step =
            |a: &[f64], b: &[f64]| norm(&Vec::from_iter(a.iter().zip(b).map(|(a, b)| b - a)));
        let pairs = || points.windows(2).map(|pair| (&pair[0], &pair[1]));
        let part = |ranges: &[Range<usize>]| {
            let steps = pairs().map(|(a, b)| {
                let parts = ranges.iter().map(|k| step(&a[k.clone()], &b[k.clone()]));
                norm(&Vec::from_iter(parts))
            });
            steps.sum::<f64>()
        };
        let whole = 0..at;
        let lengths = [part(&[whole]), part(&kernels), part(&head)];
        for (sum, length) in all.lengths.iter_mut().zip(lengths) {
            *sum += weight * length;
        }
        let of = |point: &[f64]| Vec::from_iter(kernels.iter().map(|k| norm(&point[k.clone()])));
        add(&mut all.start, &of(&points[0]), weight);
        add(&mut all.end, &of(&points[points.len() - 1]), weight);
        let relative = kernels.iter().map(|k| {
            let steps = pairs()
                .map(|(a, b)| step(&a[k.clone()], &b[k.clone()]) / norm(&a[k.clone()]).max(1e-12));
            steps.sum::<f64>()
        });
        add(&mut all.relative, &Vec::from_iter(relative), weight);
    }
    all
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let usage = "paths SEED INIT.safetensors…";
    let seed: u64 = args.next().expect(usage).parse().expect(usage);
    let device = Device::flex().autodiff();
    let data = Omniglot::bundled().expect("sound data");
    let config = OmniglotTasksConfig::new().with_seed(seed);
    let tasks = config.init(data).expect("sound settings");
    let trainer = MetaTrainer::new(NoPretraining).with_seed(seed);
    let lanes = Lanes::threads(&device, 1).expect("a lane");
    println!(
        "| initialization | norms of the kernels | at the end | relative lengths | length | of the kernels | of the head |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for file in args {
        let model = ConvNetConfig::new().init(&device).expect("sound settings");
        let init = load_initialization(&file, model).expect("an initialization of `omniglot`");
        let traces = trainer.trace(&init, &tasks.test, tasks.test.heads(), &lanes);
        let figures = figures(&traces.expect("paths"));
        let list =
            |values: &[f64]| Vec::from_iter(values.iter().map(|v| format!("{v:.1}"))).join(", ");
        println!(
            "| {file} | {} | {} | {} | {:.1} | {:.1} | {:.1} |",
            list(&figures.start),
            list(&figures.end),
            list(&figures.relative),
            figures.lengths[0],
            figures.lengths[1],
            figures.lengths[2],
        );
    }
}
