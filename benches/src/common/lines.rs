//! Pictures of values over time: charts below one another, each with a scale of its own, all with the same seconds.

use std::path::Path;

use anyhow::ensure;
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::picture::{self, Drawn, GAP, LINE, NOTE, TITLE, WIDTH, step, width, wrapped};

/// Charts below one another.
pub struct Lines<'a> {
    /// The line above all.
    pub title: &'a str,
    /// Smaller text below it, wrapped as needed.
    pub notes: Vec<String>,
    /// At least one with a line.
    pub charts: Vec<Chart>,
}

/// One chart.
pub struct Chart {
    /// What it shows, and in which unit.
    pub what: String,
    /// How values become heights.
    pub scale: Scale,
    /// Height of the chart without its words.
    pub height: i32,
    /// The lines, the last one in front.
    pub lines: Vec<Line>,
}

/// How values become heights.
#[derive(Clone, Copy)]
pub enum Scale {
    /// In proportion.
    Linear,
    /// By their logarithm. What is less than this is drawn at the bottom.
    Logarithmic(f64),
}

/// One line.
pub struct Line {
    /// Its name above the chart. One without a name is explained by the notes.
    pub name: Option<String>,
    /// Its colour.
    pub colour: RGBColor,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Seconds and values.
    pub points: Vec<(f64, f64)>,
}

/// How a line is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// Through.
    Solid,
    /// In dashes, thinner.
    Dashed,
}

/// Room to the left of a chart for its numbers.
const NUMBERS: i32 = 64;
/// The piece of a line before its name.
const SWATCH: i32 = 24;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Lines<'_> {
    /// Draws the charts to an SVG file.
    ///
    /// # Errors
    ///
    /// As [`picture::write()`], and if no line has two points.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut lines = self.charts.iter().flat_map(|chart| &chart.lines);
        ensure!(
            lines.any(|line| line.points.len() >= 2),
            "too few samples to draw; measure for longer"
        );
        picture::write(path, |text| self.draw(text))
    }

    /// Draws them to SVG text.
    ///
    /// # Errors
    ///
    /// If it cannot be drawn.
    pub fn draw(&self, text: &mut String) -> Drawn {
        let notes: Vec<String> = self.notes.iter().flat_map(|note| wrapped(note)).collect();
        let points = || {
            let lines = self.charts.iter().flat_map(|chart| &chart.lines);
            lines.flat_map(|line| &line.points)
        };
        let end = points().map(|point| point.0).fold(1e-3, f64::max);
        let top = GAP + LINE * (1 + notes.len() as i32) + GAP;
        let heights = self.charts.iter().map(Chart::height_of_all);
        // Below the last one are its seconds and the word for them.
        let height = top + heights.sum::<i32>() + LINE;

        let area = SVGBackend::with_string(text, (WIDTH as u32, height as u32));
        let area = area.into_drawing_area();
        area.fill(&WHITE)?;
        write(&area, self.title, (GAP, GAP + LINE / 2), TITLE, HPos::Left)?;
        for (note, line) in notes.iter().zip(1..) {
            let at = (GAP, GAP + LINE / 2 + LINE * line);
            write(&area, note, at, NOTE, HPos::Left)?;
        }
        let mut top = top;
        for chart in &self.charts {
            chart.draw(&area, top, end)?;
            top += chart.height_of_all();
        }
        let middle = (NUMBERS + WIDTH) / 2;
        write(&area, "seconds", (middle, top), NOTE, HPos::Center)?;
        area.present()?;
        Ok(())
    }
}

/// A line's name, and where its swatch begins.
struct Named<'a> {
    of: &'a Line,
    name: &'a str,
    at: (i32, i32),
}

impl Chart {
    /// Names, their places relative to the first line of names, and how many lines they take.
    fn names(&self) -> (Vec<Named<'_>>, i32) {
        let (mut x, mut line) = (GAP, 0);
        let mut places = Vec::new();
        let named = self
            .lines
            .iter()
            .filter_map(|l| Some((l, l.name.as_deref()?)));
        for (of, name) in named {
            let wide = SWATCH + 6 + width(name) + GAP;
            if x > GAP && x + wide > WIDTH {
                (x, line) = (GAP, line + 1);
            }
            let at = (x, LINE * line + LINE / 2);
            places.push(Named { of, name, at });
            x += wide;
        }
        let lines = if places.is_empty() { 0 } else { line + 1 };
        (places, lines)
    }

    /// What it is, the names, the chart, the seconds, a gap.
    fn height_of_all(&self) -> i32 {
        LINE * (2 + self.names().1) + self.height + GAP
    }

    fn draw(&self, area: &Area, top: i32, end: f64) -> Drawn {
        write(area, &self.what, (GAP, top + LINE / 2), NOTE, HPos::Left)?;
        let (names, lines) = self.names();
        for Named { of, name, at } in names {
            let (x, y) = (at.0, top + LINE + at.1);
            of.stroke(area, vec![(x, y), (x + SWATCH, y)])?;
            write(area, name, (x + SWATCH + 6, y), NOTE, HPos::Left)?;
        }
        let first = top + LINE * (1 + lines) + GAP / 2;
        let bottom = first + self.height;
        let (left, right) = (NUMBERS, WIDTH - GAP);
        let x =
            |at: f64| left + (f64::from(right - left) * (at / end).clamp(0.0, 1.0)).round() as i32;

        let values = self.lines.iter().flat_map(|line| &line.points);
        let most = values.map(|point| point.1).fold(0.0, f64::max);
        let (ticks, place): (Vec<f64>, Box<dyn Fn(f64) -> f64>) = match self.scale {
            Scale::Linear => {
                let most = if most > 0.0 { most * 1.05 } else { 1.0 };
                let step = step(most);
                let ticks = (0..).map(|tick| step * f64::from(tick));
                let ticks = ticks.take_while(|tick| *tick <= most).collect();
                (ticks, Box::new(move |value| value / most))
            }
            Scale::Logarithmic(least) => {
                let most = (most * 1.3).max(least * 10.0);
                let ticks = std::iter::successors(Some(least), |tick| Some(tick * 10.0));
                let ticks = ticks.take_while(|tick| *tick <= most).collect();
                let whole = (most / least).ln();
                (
                    ticks,
                    Box::new(move |value| (value.max(least) / least).ln() / whole),
                )
            }
        };
        let y = |value: f64| {
            bottom - (f64::from(self.height) * place(value).clamp(0.0, 1.0)).round() as i32
        };

        let pale = BLACK.mix(0.15);
        for tick in ticks {
            area.draw(&PathElement::new([(left, y(tick)), (right, y(tick))], pale))?;
            let at = (left - 8, y(tick));
            write(area, &picture::round(tick), at, NOTE, HPos::Right)?;
        }
        let step = step(end);
        let seconds = (0..).map(|tick| step * f64::from(tick));
        for tick in seconds.take_while(|tick| *tick <= end * 1.0001) {
            let upright = [(x(tick), first), (x(tick), bottom)];
            area.draw(&PathElement::new(upright, pale))?;
            let at = (x(tick), bottom + LINE / 2);
            write(area, &picture::round(tick), at, NOTE, HPos::Center)?;
        }
        for line in &self.lines {
            let points = line.points.iter().map(|&(at, value)| (x(at), y(value)));
            line.stroke(area, points.collect())?;
        }
        Ok(())
    }
}

impl Line {
    fn stroke(&self, area: &Area, points: Vec<(i32, i32)>) -> Drawn {
        match self.stroke {
            Stroke::Solid => {
                area.draw(&PathElement::new(points, self.colour.stroke_width(3)))?;
            }
            Stroke::Dashed => {
                let style = self.colour.stroke_width(2);
                area.draw(&DashedPathElement::new(points, 7, 5, style))?;
            }
        }
        Ok(())
    }
}

fn write(area: &Area, what: &str, at: (i32, i32), points: u32, side: HPos) -> Drawn {
    area.draw(&Text::new(what.to_owned(), at, picture::ink(points, side)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, points: &[(f64, f64)]) -> Chart {
        Chart {
            what: "MiB".to_owned(),
            scale,
            height: 100,
            lines: vec![Line {
                name: Some("a name".to_owned()),
                colour: picture::BLUE,
                stroke: Stroke::Solid,
                points: points.to_vec(),
            }],
        }
    }

    /// The points of the blue lines, those of the swatches included.
    fn drawn(charts: Vec<Chart>) -> (String, Vec<Vec<(i32, i32)>>) {
        let mut text = String::new();
        let title = "the title";
        let notes = vec!["a note".to_owned()];
        let lines = Lines {
            title,
            notes,
            charts,
        };
        lines.draw(&mut text).unwrap();
        let blue = text.lines().filter(|line| line.contains("#1F77B4"));
        let points = blue.map(|line| {
            let points = line.split("points=\"").nth(1).unwrap();
            let points = points.split('"').next().unwrap();
            let point = |pair: &str| {
                let (x, y) = pair.split_once(',').unwrap();
                (x.parse().unwrap(), y.parse().unwrap())
            };
            points.split_ascii_whitespace().map(point).collect()
        });
        let points = points.collect();
        (text, points)
    }

    #[test]
    fn points_are_where_their_values_are() {
        let points = [(0.0, 0.0), (5.0, 100.0), (10.0, 50.0)];
        let (text, lines) = drawn(vec![chart(Scale::Linear, &points)]);
        for part in ["the title", "a note", "a name", "MiB", "seconds", "</svg>"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        let [swatch, line] = &lines[..] else {
            panic!("{lines:?}");
        };
        let [(x0, y0), (x1, y1), (x2, y2)] = line[..] else {
            panic!("{line:?}");
        };
        assert_eq!((x0, x2), (NUMBERS, WIDTH - GAP));
        assert_eq!(x1, (x0 + x2) / 2);
        // The highest stays a little below the top.
        assert_eq!((y0 - y1, y0 - y2), (95, 48));
        // The name is above the chart, where no line goes.
        assert!(swatch.iter().all(|(_, y)| *y < y0 - 100), "{lines:?}");
    }

    #[test]
    fn a_tenth_is_a_step_of_a_logarithm() {
        let points = [(0.0, 0.0), (1.0, 1.0), (2.0, 10.0), (3.0, 100.0)];
        let (text, lines) = drawn(vec![chart(Scale::Logarithmic(1.0), &points)]);
        let heights: Vec<i32> = lines[1].iter().map(|(_, y)| lines[1][0].1 - y).collect();
        assert_eq!(heights, [0, 0, 47, 95]);
        for tick in ["1", "10", "100"] {
            assert!(
                text.lines().any(|line| line.trim() == tick),
                "no {tick} in {text}"
            );
        }
    }

    #[test]
    fn charts_are_below_one_another_with_the_same_seconds() {
        let first = chart(Scale::Linear, &[(0.0, 1.0), (10.0, 1.0)]);
        let second = chart(Scale::Linear, &[(0.0, 1.0), (5.0, 1.0)]);
        let (_, lines) = drawn(vec![first, second]);
        let [_, first, _, second] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert!(first[0].1 + 100 < second[0].1, "{lines:?}");
        assert_eq!(second[1].0, (NUMBERS + WIDTH - GAP) / 2);
    }

    #[test]
    fn nothing_to_draw_writes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.svg");
        let lines = Lines {
            title: "",
            notes: Vec::new(),
            charts: vec![chart(Scale::Linear, &[(0.0, 1.0)])],
        };
        let error = lines.write(&path).unwrap_err().to_string();
        assert!(error.starts_with("too few samples"), "{error}");
        assert!(!path.exists());
    }
}
