//! Pictures: writes them to files, and draws the kind that several benchmarks use, a table as bars.

use std::path::Path;

use anyhow::{Context, ensure};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The result of drawing.
pub type Drawn = Result<(), Box<dyn std::error::Error>>;

/// One of several colours that are easy to tell apart.
pub const BLUE: RGBColor = RGBColor(31, 119, 180);
/// See [`BLUE`].
pub const GREEN: RGBColor = RGBColor(30, 140, 50);
/// See [`BLUE`].
pub const ORANGE: RGBColor = RGBColor(230, 140, 10);
/// See [`BLUE`].
pub const RED: RGBColor = RGBColor(200, 30, 30);
/// See [`BLUE`].
pub const GREY: RGBColor = RGBColor(130, 130, 130);

/// Writes the SVG text that `draw` makes to a file, and creates its directory.
///
/// # Errors
///
/// If it cannot be drawn or written; the message names the file.
pub fn write(path: &Path, draw: impl FnOnce(&mut String) -> Drawn) -> anyhow::Result<()> {
    let mut text = String::new();
    draw(&mut text).map_err(|error| anyhow::anyhow!("can't draw {}: {error}", path.display()))?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("can't make the directory {}", directory.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

/// Each value once, in the order of their first appearance.
pub fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for value in values {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    all
}

/// A table drawn as bars: panels side by side, all with the same names in the same order and on the same scale.
pub struct Bars<'a> {
    /// The line above all.
    pub title: &'a str,
    /// Smaller lines below it.
    pub notes: Vec<String>,
    /// At least one with a bar.
    pub panels: Vec<Panel>,
    /// Reference values: lines through every panel, with their numbers.
    pub lines: &'a [f64],
    /// The end of the scale. A longer bar is cut there, with its number written. If `None`, the longest bar fits.
    pub end: Option<f64>,
    /// A name's colour.
    pub colour: fn(&str) -> RGBColor,
}

/// One panel.
pub struct Panel {
    /// The title above it.
    pub title: String,
    /// Names and values; a name that only other panels have is left empty.
    pub bars: Vec<(String, f64)>,
}

const GAP: i32 = 14;
/// Width of a scale, and room beside it for the number of the longest bar.
const SCALE: i32 = 150;
const NUMBER: i32 = 42;
/// Height of a bar with the space around it.
const ROW: i32 = 18;
/// Height of a line of text.
const LINE: i32 = 20;
/// Approximate width of a letter of a name.
const LETTER: i32 = 7;

impl Bars<'_> {
    /// Draws the bars to an SVG file.
    ///
    /// # Errors
    ///
    /// As [`write()`], and if there is no bar.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let bars = self.panels.iter().map(|panel| panel.bars.len());
        ensure!(bars.sum::<usize>() > 0, "nothing to draw was measured");
        write(path, |text| self.draw(text))
    }

    fn draw(&self, text: &mut String) -> Drawn {
        let all = || self.panels.iter().flat_map(|panel| &panel.bars);
        let names = distinct(all().map(|(name, _)| name.as_str()));
        let longest = names.iter().map(|name| name.chars().count()).max();
        let most = all().map(|(_, value)| *value).filter(|v| v.is_finite());
        let end = self.end.unwrap_or_else(|| most.fold(0.0, f64::max));
        let end = if end > 0.0 { end } else { 1.0 };

        let left = 2 * GAP + LETTER * longest.unwrap_or(0) as i32;
        let top = 2 * GAP + LINE * (self.notes.len() as i32 + 1);
        // Above the bars: a panel's title, and the numbers of the lines.
        let first = top + LINE * if self.lines.is_empty() { 1 } else { 2 };
        let bottom = first + ROW * names.len() as i32;
        let width = left + (SCALE + NUMBER + GAP) * self.panels.len() as i32;
        let extent = (width.max(760) as u32, (bottom + LINE + GAP) as u32);

        let area = SVGBackend::with_string(text, extent).into_drawing_area();
        area.fill(&WHITE)?;
        let write = |what: &str, at: (i32, i32), points: u32, side: HPos| {
            let style = ("sans-serif", points).into_font().color(&BLACK);
            let style = style.pos(Pos::new(side, VPos::Center));
            area.draw(&Text::new(what.to_owned(), at, style))
        };
        write(self.title, (GAP, GAP + LINE / 2), 18, HPos::Left)?;
        for (note, line) in self.notes.iter().zip(1..) {
            let at = (GAP, GAP + LINE / 2 + LINE * line);
            write(note, at, 12, HPos::Left)?;
        }
        let middle = |row: usize| first + ROW * row as i32 + ROW / 2;
        for (row, name) in names.iter().enumerate() {
            write(name, (left - GAP / 2, middle(row)), 12, HPos::Right)?;
        }
        for (panel, number) in self.panels.iter().zip(0..) {
            let zero = left + (SCALE + NUMBER + GAP) * number;
            let place = |value: f64| {
                let part = (value / end).clamp(0.0, 1.0);
                zero + (f64::from(SCALE) * part).round() as i32
            };
            let upright = |value: f64| vec![(place(value), first), (place(value), bottom)];
            write(&panel.title, (zero, top + LINE / 2), 13, HPos::Left)?;
            let step = step(end);
            let ticks = (0..)
                .map(|tick| step * f64::from(tick))
                .take_while(|tick| *tick <= end * 1.0001);
            for tick in ticks {
                let pale = BLACK.mix(0.15);
                area.draw(&PathElement::new(upright(tick), pale))?;
                // Steps of 0.1 add up to numbers with too many digits.
                let label = format!("{}", (tick * 1e6).round() / 1e6);
                let at = (place(tick), bottom + LINE / 2);
                write(&label, at, 11, HPos::Center)?;
            }
            let bar = |name: &String| names.iter().position(|other| other == name);
            let middles = panel
                .bars
                .iter()
                .map(|(name, _)| bar(name).map_or(0, middle));
            let middles: Vec<i32> = middles.collect();
            for ((name, value), middle) in panel.bars.iter().zip(&middles) {
                let half = ROW / 2 - 2;
                let corners = [(zero, middle - half), (place(*value), middle + half)];
                area.draw(&Rectangle::new(corners, (self.colour)(name).filled()))?;
            }
            for &line in self.lines {
                area.draw(&PathElement::new(upright(line), RED))?;
                let at = (place(line), first - LINE / 2);
                write(&format!("{line}"), at, 11, HPos::Center)?;
            }
            // The numbers come last, so that no bar covers them.
            for ((_, value), middle) in panel.bars.iter().zip(&middles) {
                let at = (place(*value) + 4, *middle);
                write(&format!("{value:.2}"), at, 11, HPos::Left)?;
            }
        }
        area.present()?;
        Ok(())
    }
}

/// A step of 1, 2 or 5 times a power of ten, such that at most five steps fit.
fn step(end: f64) -> f64 {
    let power = 10_f64.powf((end / 5.0).log10().floor());
    let fits = |times: &f64| end / (power * times) <= 5.0001;
    let times = [1.0, 2.0, 5.0].into_iter().find(fits);
    power * times.unwrap_or(10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The widths of the rectangles that have a colour.
    fn widths(text: &str, colour: RGBColor) -> Vec<u32> {
        let RGBColor(red, green, blue) = colour;
        let fill = format!("fill=\"#{red:02X}{green:02X}{blue:02X}\"");
        let bars = text.lines().filter(|line| line.contains("<rect"));
        let bars = bars.filter(|line| line.contains(&fill));
        let width = |line: &str| {
            line.split("width=\"")
                .nth(1)?
                .split('"')
                .next()?
                .parse()
                .ok()
        };
        bars.map(|line| width(line).unwrap()).collect()
    }

    fn panel(title: &str, bars: &[(&str, f64)]) -> Panel {
        Panel {
            title: title.to_owned(),
            bars: bars.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
        }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let mut bars = Bars {
            title: "the title",
            notes: vec!["a note".to_owned()],
            panels: vec![
                panel("one", &[("a", 1.0), ("b", 2.0), ("never", f64::NAN)]),
                panel("two", &[("b", 4.0)]),
            ],
            lines: &[1.15],
            end: None,
            colour: |name| if name == "a" { BLUE } else { GREEN },
        };
        let mut text = String::new();
        bars.draw(&mut text).unwrap();
        let scale = SCALE as u32;
        assert_eq!(
            widths(&text, BLUE),
            [(f64::from(scale) / 4.0).round() as u32]
        );
        assert_eq!(widths(&text, GREEN), [scale / 2, 0, scale]);
        for part in [
            "the title",
            "a note",
            "one",
            "two",
            "1.15",
            "4.00",
            "</svg>",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        // Cut, but with its number.
        bars.end = Some(2.0);
        let mut text = String::new();
        bars.draw(&mut text).unwrap();
        assert_eq!(widths(&text, GREEN), [scale, 0, scale]);
        assert!(text.contains("4.00"), "{text}");

        bars.panels = vec![panel("none", &[])];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.svg");
        assert!(bars.write(&path).is_err() && !path.exists());
    }

    #[test]
    fn steps_are_round() {
        let close = |end, wish: f64| (step(end) / wish - 1.0).abs() < 1e-9;
        assert!(close(3.0, 1.0) && close(5.0, 1.0) && close(5.1, 2.0));
        assert!(close(0.4, 0.1) && close(21.0, 5.0) && close(2.2, 0.5));
    }
}
