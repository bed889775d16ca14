//! The picture: memory over time, a line per strategy.

use std::path::Path;

use penstock_benches::common::lines::{Chart, Line, Lines, Scale, Stroke};
use penstock_benches::common::picture;
use plotters::style::RGBColor;

use super::Strategy;
use super::watch::{Course, Point};

const HEIGHT: i32 = 340;
const MIB: f64 = 1048576.0;
/// The value drawn for a moment without kernel memory, in MiB, since the scale is logarithmic.
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
    lines(what, courses).write(path)
}

fn lines(what: &str, courses: &[Course]) -> Lines<'static> {
    Lines {
        title: "Memory of four ways to deliver a decoded object to slow clients",
        notes: vec![
            what.to_owned(),
            "solid: process, sockets and spool together; dashed: the sockets' part of it"
                .to_owned(),
        ],
        charts: vec![Chart {
            what: "MiB, logarithmic".to_owned(),
            scale: Scale::Logarithmic(LEAST),
            height: HEIGHT,
            lines: courses.iter().flat_map(of).collect(),
        }],
    }
}

/// The two lines of a course.
fn of(course: &Course) -> [Line; 2] {
    let line = |name, stroke, bytes: fn(&Point) -> u64| Line {
        name,
        colour: colour(course.strategy),
        stroke,
        points: course
            .points
            .iter()
            .map(|point| (point.at, bytes(point) as f64 / MIB))
            .collect(),
    };
    let most = course.peak();
    let mib = |bytes: u64| bytes as f64 / MIB;
    let name = format!(
        "{}: at most {:.0} MiB (process {:.0}, sockets {:.0}, spool {:.0})",
        course.strategy.name(),
        mib(most.total()),
        mib(most.process),
        mib(most.kernel),
        mib(most.spool),
    );
    [
        line(None, Stroke::Dashed, |point| point.kernel),
        line(Some(name), Stroke::Solid, Point::total),
    ]
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
        lines("a tiny object", &courses).draw(&mut text).unwrap();
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
