//! Leap's idea in two dimensions, as a picture: four tasks, each a narrow valley, and the paths that gradient
//! descent takes into them, from an arbitrary start and from where Leap moves it.
//!
//! ```text
//! cargo run --example idea -- docs/idea.svg
//! ```

use anyhow::Result;
use burn::module::{Module, Param, ParamId};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor};
use leap_core::{Leap, LearningPath, MetaGradient};
use leap_lab::say;
use plotters::prelude::*;

const TASK_STEPS: usize = 40;
const TASK_LR: f64 = 0.2;
const META_STEPS: usize = 200;
const META_LR: f64 = 0.05;
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(0, 140, 100),
    RGBColor(150, 80, 160),
];

/// A model of two parameters, so that it can be drawn.
#[derive(Module, Debug)]
struct Point {
    theta: Param<Tensor<1>>,
}

/// f(θ) = ½ (9 a² + ½ b²), with a and b the distances from `centre` across and along the valley.
struct Valley {
    centre: [f32; 2],
    angle: f32,
}

impl Valley {
    fn loss(&self, model: &Point) -> Tensor<1> {
        let theta = model.theta.val();
        let offset = theta.clone() - Tensor::from_floats(self.centre, &theta.device());
        let (sin, cos) = self.angle.sin_cos();
        let along = |x: f32, y: f32| {
            let axis = Tensor::<1>::from_floats([x, y], &theta.device());
            (offset.clone() * axis).sum().square()
        };
        (along(-sin, cos) * 9.0 + along(cos, sin) * 0.5) * 0.5
    }

    /// The line of equal loss, `size` long.
    fn contour(&self, size: f64) -> Vec<(f64, f64)> {
        let (sin, cos) = f64::from(self.angle).sin_cos();
        let turn = (0..=60).map(|i| f64::from(i) / 60.0 * std::f64::consts::TAU);
        turn.map(|t| {
            let (a, b) = (size * t.cos(), size * t.sin() / 18f64.sqrt());
            let [x, y] = self.centre.map(f64::from);
            (x + cos * a - sin * b, y + sin * a + cos * b)
        })
        .collect()
    }
}

type Path = Vec<(f64, f64)>;

/// Trains one task from `init`: the points that it visits, their length, and what Leap learns from it.
fn train(leap: &Leap, init: &Point, task: &Valley, meta: &mut MetaGradient) -> Result<(Path, f64)> {
    let (mut model, mut path) = leap.begin(init)?;
    let mut optimizer = SgdConfig::new().init();
    let mut visited = Vec::new();
    for _ in 0..TASK_STEPS {
        let at = model.theta.val().into_data().try_to_vec::<f32>()?;
        visited.push((at[0].into(), at[1].into()));
        let loss = task.loss(&model);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        path.record(&model, &loss, &grads)?;
        model = optimizer.step(TASK_LR, model, grads);
    }
    let learned = path.finish()?;
    meta.add(learned.gradient)?;
    let figures = learned.figures.read()?;
    Ok((visited, figures.length))
}

fn main() -> Result<()> {
    let file = std::env::args().nth(1).unwrap_or("idea.svg".into());
    let device = Device::flex().autodiff();
    let tasks = [
        (1.2, 2.3, 0.5),
        (3.0, 1.8, 1.3),
        (2.7, 0.1, 2.2),
        (1.0, 0.5, 2.9),
    ]
    .map(|(x, y, angle)| Valley {
        centre: [x, y],
        angle,
    });
    let leap = Leap::new();
    let start = Tensor::<1>::from_floats([-1.5, -1.4], &device).require_grad();
    let start = Point {
        theta: Param::initialized(ParamId::new(), start),
    };

    let mut init = start.clone();
    let mut outer = SgdConfig::new().init();
    for _ in 0..META_STEPS {
        let mut meta = MetaGradient::new();
        for task in &tasks {
            train(&leap, &init, task, &mut meta)?;
        }
        init = outer.step(META_LR, init, meta.take(&device)?);
    }

    let root = SVGBackend::new(&file, (860, 430)).into_drawing_area();
    root.fill(&WHITE)?;
    let titles = ["from an arbitrary start", "from Leap's initialization"];
    let panels = root.split_evenly((1, 2));
    for ((panel, title), init) in panels.iter().zip(titles).zip([&start, &init]) {
        let paths: Vec<_> = tasks
            .iter()
            .map(|task| train(&leap, init, task, &mut MetaGradient::new()))
            .collect::<Result<_>>()?;
        let length = paths.iter().map(|p| p.1).sum::<f64>() / paths.len() as f64;
        say(&format!("{title}: mean length of the paths {length:.2}"));
        let title = format!("{title}: mean length {length:.1}");
        let mut chart = ChartBuilder::on(panel)
            .caption(title, ("sans-serif", 18))
            .margin(14)
            .build_cartesian_2d(-2.0..4.6, -2.2..4.0)?;
        for ((task, (path, _)), colour) in tasks.iter().zip(paths).zip(COLOURS) {
            for size in [0.35, 0.8, 1.4] {
                chart.draw_series([PathElement::new(task.contour(size), colour.mix(0.3))])?;
            }
            let dots = path.iter().map(|at| Circle::new(*at, 2, colour.filled()));
            chart.draw_series(dots)?;
            chart.draw_series([PathElement::new(path.clone(), colour.stroke_width(2))])?;
            chart.draw_series([Circle::new(path[0], 5, BLACK.filled())])?;
        }
    }
    root.present()?;
    Ok(())
}
