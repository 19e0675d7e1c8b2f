//! Why the paths from one initialization are longer than those from another: norms of the convolutions, and the length of their
//! paths relative to them. Behind a convolution that is normalized the scale of its weights does nothing, while gradients, and
//! so steps, go with one over it.
//!
//! ```text
//! cargo bench --profile dev --bench paths -- SEED FOLDER [NAME=]INIT.safetensors…
//! ```
//!
//! Held-out alphabets are those of the example `omniglot` with the same seed; files are its `init.safetensors`. The table goes to
//! the standard output, and two charts of the same paths, step by step, to the folder: `lengths.svg` and `relative-lengths.svg`.

use std::ops::Range;
use std::path::Path;

use burn::tensor::Device;
use leap_core::{Lanes, MetaTrainer, NoPretraining, PathTrace};
use leap_lab::{Chart, Initialization, Series};
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
    /// Length through the convolutions' weights up to each step, and mean of their relative lengths up to it.
    curves: [Vec<f64>; 2],
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
        // Through some of the parameters, a step at a time.
        let steps = |ranges: &[Range<usize>]| {
            let steps = pairs().map(|(a, b)| {
                let parts = ranges.iter().map(|k| step(&a[k.clone()], &b[k.clone()]));
                norm(&Vec::from_iter(parts))
            });
            Vec::from_iter(steps)
        };
        let part = |ranges: &[Range<usize>]| steps(ranges).iter().sum::<f64>();
        let whole = 0..at;
        let lengths = [part(&[whole]), part(&kernels), part(&head)];
        for (sum, length) in all.lengths.iter_mut().zip(lengths) {
            *sum += weight * length;
        }
        let of = |point: &[f64]| Vec::from_iter(kernels.iter().map(|k| norm(&point[k.clone()])));
        add(&mut all.start, &of(&points[0]), weight);
        add(&mut all.end, &of(&points[points.len() - 1]), weight);
        let relative = |(a, b): (&Vec<f64>, &Vec<f64>)| {
            let of = |k: &Range<usize>| {
                step(&a[k.clone()], &b[k.clone()]) / norm(&a[k.clone()]).max(1e-12)
            };
            Vec::from_iter(kernels.iter().map(of))
        };
        let relative = Vec::from_iter(pairs().map(relative));
        for steps in &relative {
            add(&mut all.relative, steps, weight);
        }
        let mean = |of: &Vec<f64>| of.iter().sum::<f64>() / of.len() as f64;
        let each = [steps(&kernels), relative.iter().map(mean).collect()];
        for (curve, steps) in all.curves.iter_mut().zip(each) {
            let sums = steps.iter().scan(0.0, |sum, step| {
                *sum += step;
                Some(*sum)
            });
            add(curve, &Vec::from_iter(sums), weight);
        }
    }
    all
}

fn main() {
    let arg = leap_tests::arguments();
    let seed: u64 = arg(0, "1").parse().expect("a number");
    let folder = arg(1, "runs");
    let inits = (2..)
        .map(|place| arg(place, ""))
        .take_while(|arg| !arg.is_empty());
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
    let mut series = [Vec::new(), Vec::new()];
    for (colour, arg) in inits.enumerate() {
        let (name, file) = arg.split_once('=').unwrap_or((&arg, &arg));
        let model = ConvNetConfig::new().init(&device).expect("sound settings");
        let init = Initialization::read(file)
            .and_then(|init| init.load(model))
            .expect("an initialization of `omniglot`");
        let traces = trainer.trace(&init, &tasks.test, tasks.test.heads(), &lanes);
        let figures = figures(&traces.expect("paths"));
        let list =
            |values: &[f64]| Vec::from_iter(values.iter().map(|v| format!("{v:.1}"))).join(", ");
        println!(
            "| {name} | {} | {} | {} | {:.1} | {:.1} | {:.1} |",
            list(&figures.start),
            list(&figures.end),
            list(&figures.relative),
            figures.lengths[0],
            figures.lengths[1],
            figures.lengths[2],
        );
        for (series, curve) in series.iter_mut().zip(figures.curves) {
            series.push(Series::over(name, colour, 1.0, &[curve]));
        }
    }
    let names = ["lengths", "relative-lengths"];
    let titles = [
        "Length of the kernels' paths so far",
        "The same, each kernel's over its norm",
    ];
    for ((name, title), series) in names.into_iter().zip(titles).zip(series) {
        let chart = Chart {
            title: title.to_string(),
            x: "training step".to_string(),
            y: "length".to_string(),
            series,
            from_zero: true,
            marks: false,
        };
        let file = Path::new(&folder).join(name).with_extension("svg");
        std::fs::write(file, chart.svg().expect("paths")).expect("a folder to write to");
    }
}
