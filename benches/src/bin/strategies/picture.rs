//! The picture: memory over time, a line per strategy.

use std::path::Path;

use anyhow::ensure;
use penstock_benches::common::picture::{self, Drawn};
use plotters::prelude::*;

use super::Strategy;
use super::watch::{Course, Point};

const WIDTH: u32 = 960;
const HEIGHT: u32 = 600;
const MIB: f64 = 1048576.0;
/// The value drawn for a moment without kernel memory, in MiB, since the axis is logarithmic.
const LEAST: f64 = 0.1;

fn colour(strategy: Strategy) -> RGBColor {
    match strategy {
        Strategy::QueueAll => picture::RED,
        Strategy::Spool => picture::ORANGE,
        Strategy::OneSegment => picture::BLUE,
        Strategy::Ours => picture::GREEN,
    }
}

/// Draws the courses to an SVG file, under a line that describes the measurement.
pub(super) fn draw(path: &Path, what: &str, courses: &[Course]) -> anyhow::Result<()> {
    ensure!(
        courses.iter().all(|course| course.points.len() >= 2),
        "too few samples to draw; raise --seconds"
    );
    picture::write(path, |text| draw_text(text, what, courses))
}

fn draw_text(text: &mut String, what: &str, courses: &[Course]) -> Drawn {
    let area = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(
        "Memory of four ways to deliver a decoded object to slow clients",
        ("sans-serif", 20),
    )?;
    let area = area.titled(what, ("sans-serif", 13))?;
    let area = area.titled(
        "solid: process, sockets and spool together; dashed: kernel memory of the sockets",
        ("sans-serif", 13),
    )?;
    let all = || courses.iter().flat_map(|course| &course.points);
    let end = all().map(|point| point.at).fold(1.0, f64::max);
    let top = all()
        .map(|point| point.total() as f64 / MIB)
        .fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        // Room above the lines for the legend.
        .build_cartesian_2d(0.0..end, (LEAST..top * 30.0).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds")
        .y_desc("MiB (logarithmic)")
        .y_label_formatter(&|mib| match *mib {
            mib if mib >= 1.0 => format!("{mib:.0}"),
            mib => format!("{mib}"),
        })
        .label_style(("sans-serif", 13))
        .draw()?;
    for course in courses {
        let colour = colour(course.strategy);
        let line = |bytes: fn(&Point) -> u64| -> Vec<(f64, f64)> {
            let mib = |point: &Point| (bytes(point) as f64 / MIB).max(LEAST);
            course
                .points
                .iter()
                .map(|point| (point.at, mib(point)))
                .collect()
        };
        let style = colour.stroke_width(3);
        let most = course.peak();
        let name = format!(
            "{}: at most {:.0} MiB (process {:.0}, sockets {:.0}, spool {:.0})",
            course.strategy.name(),
            most.total() as f64 / MIB,
            most.process as f64 / MIB,
            most.kernel as f64 / MIB,
            most.spool as f64 / MIB,
        );
        chart
            .draw_series(LineSeries::new(line(Point::total), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        chart.draw_series(DashedLineSeries::new(
            line(|point| point.kernel),
            6,
            4,
            colour.stroke_width(1),
        ))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_has_its_lines() {
        let course = |strategy, process| Course {
            strategy,
            points: [0.0, 1.0, 2.0]
                .map(|at| Point {
                    at,
                    process,
                    kernel: 1 << 20,
                    ..Point::default()
                })
                .to_vec(),
            held: 1,
            unfinished: 0,
        };
        let courses: Vec<Course> = Strategy::ALL
            .into_iter()
            .zip(1..)
            .map(|(s, i)| course(s, i << 24))
            .collect();
        let mut text = String::new();
        draw_text(&mut text, "a tiny object", &courses).unwrap();
        for part in [
            "queue all: at most 17 MiB",
            "spool",
            "one segment ahead",
            "ours",
            "a tiny object",
            "</svg>",
        ] {
            assert!(text.contains(part), "no {part:?} in the picture");
        }
        assert!(text.matches("<polyline").count() >= 4, "{text}");
    }
}
