//! Figures, as SVG text.

use leap_core::PlanePath;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::Error;

/// Colours that the colour-blind can tell apart (Okabe and Ito), which show on white and on black.
pub(crate) const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(140, 140, 140),
    RGBColor(160, 110, 60),
];

type BoxError = Box<dyn std::error::Error>;

/// A chart of lines over a common axis.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What the chart shows.
    pub title: String,
    /// Name of the axis to the right.
    pub x: String,
    /// Name of the axis upwards.
    pub y: String,
    /// The lines.
    pub series: Vec<Series>,
    /// Whether the axis upwards starts at 0.
    pub from_zero: bool,
    /// Whether single points are marked.
    pub marks: bool,
}

/// A line, with a band around it.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// (x, mean, half the width of the band).
    pub points: Vec<(f64, f64, f64)>,
    /// Which of the colours.
    pub colour: usize,
}

impl Series {
    /// The mean of several curves, which start at `first`, with a band of one standard deviation.
    pub fn over(label: &str, colour: usize, first: f64, curves: &[Vec<f64>]) -> Self {
        let length = curves.iter().map(Vec::len).min().unwrap_or(0);
        let points = (0..length).map(|i| {
            let (mean, deviation) = mean_and_deviation(curves.iter().map(|c| c[i]));
            (first + i as f64, mean, deviation)
        });
        Self {
            label: label.to_string(),
            points: points.collect(),
            colour,
        }
    }
}

/// Mean and sample standard deviation, which is 0 for a single value.
pub(crate) fn mean_and_deviation(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

impl Chart {
    /// The chart as an SVG picture.
    ///
    /// # Errors
    /// [`Error::Drawing`] if there is nothing to draw.
    pub fn svg(&self) -> Result<String, Error> {
        let mut text = String::new();
        let draw = |text| {
            let root = SVGBackend::with_string(text, (460, 330)).into_drawing_area();
            root.fill(&WHITE)?;
            self.draw(&root)?;
            root.present()?;
            Ok(())
        };
        draw(&mut text).map_err(|error: BoxError| Error::drawing(&self.title, error))?;
        Ok(text)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), BoxError>
    where
        B::ErrorType: 'static,
    {
        let points = || {
            let all = self.series.iter().flat_map(|s| &s.points);
            all.filter(|p| p.1.is_finite() && p.2.is_finite())
        };
        if points().next().is_none() {
            return Err("there is nothing to draw".into());
        }
        let low = |f: fn(&(f64, f64, f64)) -> f64| points().map(f).fold(f64::INFINITY, f64::min);
        let high =
            |f: fn(&(f64, f64, f64)) -> f64| points().map(f).fold(f64::NEG_INFINITY, f64::max);
        let (left, right) = (low(|p| p.0), high(|p| p.0));
        let top = high(|p| p.1 + p.2);
        let bottom = match self.from_zero {
            true => low(|p| p.1).min(0.0),
            false => low(|p| p.1 - p.2),
        };
        let margin = (0.05 * (top - bottom)).max(1e-9);
        let bottom = if bottom == 0.0 { 0.0 } else { bottom - margin };
        let right = if right > left { right } else { left + 1.0 };
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 15))
            .margin(10)
            .margin_right(20)
            .x_label_area_size(38)
            .y_label_area_size(52)
            .build_cartesian_2d(left..right, bottom..top + margin)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| label(*x))
            .y_label_formatter(&|y| match y.abs() {
                1e5.. => format!("{y:.1e}"),
                _ => label(*y),
            })
            .x_desc(&self.x)
            .y_desc(&self.y)
            .draw()?;
        for series in &self.series {
            let colour = COLOURS[series.colour % COLOURS.len()];
            let line: Vec<_> = series
                .points
                .iter()
                .filter(|p| p.1.is_finite() && p.2.is_finite())
                .collect();
            let above = line.iter().map(|p| (p.0, p.1 + p.2));
            let below = line.iter().rev().map(|p| (p.0, (p.1 - p.2).max(bottom)));
            if line.iter().any(|p| p.2 > 0.0) {
                let band: Vec<_> = above.chain(below).collect();
                chart.draw_series([Polygon::new(band, colour.mix(0.18).filled())])?;
            }
            chart
                .draw_series(LineSeries::new(
                    line.iter().map(|p| (p.0, p.1)),
                    colour.stroke_width(2),
                ))?
                .label(&series.label)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                });
            if self.marks {
                let marks = line.iter();
                chart.draw_series(marks.map(|p| Circle::new((p.0, p.1), 3, colour.filled())))?;
            }
        }
        // The corner where the legend hides the fewest points.
        let corners = [
            (SeriesLabelPosition::UpperRight, [1.0, 1.0]),
            (SeriesLabelPosition::LowerRight, [1.0, 0.0]),
            (SeriesLabelPosition::UpperLeft, [0.0, 1.0]),
            (SeriesLabelPosition::LowerLeft, [0.0, 0.0]),
        ];
        let height = 0.08 * self.series.len() as f64;
        let hides = |[x, y]: [f64; 2]| {
            let near = |p: &&(f64, f64, f64)| {
                let across = (p.0 - left) / (right - left);
                let up = (p.1 - bottom) / (top + margin - bottom);
                (across - x).abs() < 0.35 && (up - y).abs() < height
            };
            points().filter(near).count()
        };
        let corner = corners.into_iter().min_by_key(|(_, at)| hides(*at));
        let position = corner.map_or(SeriesLabelPosition::UpperRight, |(position, _)| position);
        chart
            .configure_series_labels()
            .position(position)
            .background_style(WHITE.mix(0.7))
            .draw()?;
        Ok(())
    }
}

/// A number on an axis, without the noise of the last digits.
fn label(value: f64) -> String {
    ((value * 1e6).round() / 1e6).to_string()
}

/// Paths in a plane side by side, a panel for each initialization, all to one scale. Every path starts at
/// the black dot and ends at a coloured one.
///
/// # Errors
/// [`Error::Drawing`] if there is nothing to draw.
pub fn draw_paths(panels: &[(String, Vec<PlanePath>)]) -> Result<String, Error> {
    try_draw_paths(panels).map_err(|error| Error::drawing("paths", error))
}

fn try_draw_paths(panels: &[(String, Vec<PlanePath>)]) -> Result<String, BoxError> {
    let extent = |paths: &[PlanePath], axis: usize| {
        let values = || paths.iter().flatten().map(|p| p[axis]);
        let low = values().fold(f64::INFINITY, f64::min);
        (low, values().fold(f64::NEG_INFINITY, f64::max))
    };
    let side = panels
        .iter()
        .flat_map(|(_, paths)| [extent(paths, 0), extent(paths, 1)])
        .map(|(low, high)| 1.1 * (high - low))
        .fold(0.0, f64::max);
    if !(side > 0.0 && side.is_finite()) {
        return Err("there is no path to draw".into());
    }
    let mut text = String::new();
    {
        let size = (380 * panels.len() as u32, 400);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, (title, paths)) in root.split_evenly((1, panels.len())).iter().zip(panels) {
            let around = |axis| {
                let (low, high) = extent(paths, axis);
                let middle = (low + high) / 2.0;
                middle - side / 2.0..middle + side / 2.0
            };
            let mut chart = ChartBuilder::on(area)
                .caption(title, ("sans-serif", 15))
                .margin(12)
                .build_cartesian_2d(around(0), around(1))?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(BLACK.mix(0.12))
                .draw()?;
            for (i, path) in paths.iter().enumerate() {
                let colour = COLOURS[i % COLOURS.len()];
                let points = path.iter().map(|p| (p[0], p[1]));
                chart.draw_series(LineSeries::new(points, colour.stroke_width(1)))?;
                let end = path.last().map(|p| (p[0], p[1]));
                chart.draw_series(end.map(|at| Circle::new(at, 4, colour.filled())))?;
            }
            let start = paths.iter().find_map(|p| p.first()).map(|p| (p[0], p[1]));
            chart.draw_series(start.map(|at| Circle::new(at, 4, BLACK.filled())))?;
        }
        root.present()?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_one_standard_deviation_wide() {
        let series = Series::over("a", 0, 1.0, &[vec![1.0, 5.0], vec![3.0, 5.0, 9.0]]);
        let deviation = 2.0_f64.sqrt();
        assert_eq!(series.points, [(1.0, 2.0, deviation), (2.0, 5.0, 0.0)]);
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let chart = Chart::default();
        assert!(chart.svg().is_err());
        assert!(draw_paths(&[]).is_err());
        let not_a_number = Series::over("a", 0, 0.0, &[vec![f64::NAN; 3]]);
        let chart = Chart {
            series: vec![not_a_number],
            ..chart
        };
        assert!(chart.svg().is_err());
    }
}
