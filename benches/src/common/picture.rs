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

/// As wide as a page shows a picture without making it smaller, and its letters unreadable.
pub const WIDTH: i32 = 800;
/// Space around everything, and between what does not belong together.
pub const GAP: i32 = 14;
/// Height of a line of text.
pub const LINE: i32 = 22;
/// Points of the title, and of all other text.
pub const TITLE: u32 = 22;
/// See [`TITLE`].
pub const NOTE: u32 = 17;
/// Approximate width of a letter of all other text, in a usual font.
const LETTER: i32 = 7;

/// Approximate width of a text.
pub fn width(text: &str) -> i32 {
    LETTER * text.chars().count() as i32
}

/// A text in lines that fit into the picture.
pub fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_ascii_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line) + width(word) + LETTER <= WIDTH - 2 * GAP => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The style of a text that is centred on its height.
pub fn ink(points: u32, side: HPos) -> TextStyle<'static> {
    let style = ("sans-serif", points).into_font().color(&BLACK);
    style.pos(Pos::new(side, VPos::Center))
}

/// A number of a scale. Steps of 0.1 add up to numbers with too many digits.
pub fn round(tick: f64) -> String {
    format!("{}", (tick * 1e6).round() / 1e6)
}

/// A table drawn as bars: panels side by side, in as many rows as they take, all on the same scale.
pub struct Bars<'a> {
    /// The line above all.
    pub title: &'a str,
    /// Smaller text below it, wrapped as needed.
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
    /// Names and values; a name that only other panels of its row have is left empty.
    pub bars: Vec<(String, f64)>,
}

impl Panel {
    fn names(panels: &[Panel]) -> Vec<&str> {
        let bars = panels.iter().flat_map(|panel| &panel.bars);
        distinct(bars.map(|(name, _)| name.as_str()))
    }
}

/// The least width of a scale, and the room beside it for the number of the longest bar.
const SCALE: i32 = 130;
const NUMBER: i32 = 46;
/// Height of a bar with the space around it.
const ROW: i32 = 22;

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
        let most = all().map(|(_, value)| *value).filter(|v| v.is_finite());
        let end = self.end.unwrap_or_else(|| most.fold(0.0, f64::max));
        let end = if end > 0.0 { end } else { 1.0 };

        let longest = all().map(|(name, _)| width(name)).max().unwrap_or(0);
        let left = 2 * GAP + longest;
        let room = WIDTH - left;
        let in_a_row = (room / (SCALE + NUMBER + GAP)).clamp(1, self.panels.len().max(1) as i32);
        let rows: Vec<&[Panel]> = self.panels.chunks(in_a_row as usize).collect();
        // A single panel need not be as wide as the page.
        let scale = (room / in_a_row.max(2) - NUMBER - GAP).max(SCALE);

        let notes: Vec<String> = self.notes.iter().flat_map(|note| wrapped(note)).collect();
        let top = 2 * GAP + LINE * (notes.len() as i32 + 1);
        // Above the bars: a panel's title, and the numbers of the lines. Below them those of the scale.
        let above = LINE * if self.lines.is_empty() { 1 } else { 2 };
        let height = |row: &[Panel]| above + ROW * Panel::names(row).len() as i32 + LINE + GAP;
        let bottom = top + rows.iter().map(|row| height(row)).sum::<i32>();

        let area = SVGBackend::with_string(text, (WIDTH as u32, bottom as u32));
        let area = area.into_drawing_area();
        area.fill(&WHITE)?;
        let write = |what: &str, at: (i32, i32), points: u32, side: HPos| {
            area.draw(&Text::new(what.to_owned(), at, ink(points, side)))
        };
        write(self.title, (GAP, GAP + LINE / 2), TITLE, HPos::Left)?;
        for (note, line) in notes.iter().zip(1..) {
            let at = (GAP, GAP + LINE / 2 + LINE * line);
            write(note, at, NOTE, HPos::Left)?;
        }
        let mut top = top;
        for row in rows {
            let names = Panel::names(row);
            let first = top + above;
            let bottom = first + ROW * names.len() as i32;
            let middle = |row: usize| first + ROW * row as i32 + ROW / 2;
            for (number, name) in names.iter().enumerate() {
                write(name, (left - GAP / 2, middle(number)), NOTE, HPos::Right)?;
            }
            for (panel, number) in row.iter().zip(0..) {
                let zero = left + (scale + NUMBER + GAP) * number;
                let place = |value: f64| {
                    let part = (value / end).clamp(0.0, 1.0);
                    zero + (f64::from(scale) * part).round() as i32
                };
                let upright = |value: f64| vec![(place(value), first), (place(value), bottom)];
                write(&panel.title, (zero, top + LINE / 2), NOTE, HPos::Left)?;
                let step = step(end);
                let ticks = (0..)
                    .map(|tick| step * f64::from(tick))
                    .take_while(|tick| *tick <= end * 1.0001);
                for tick in ticks {
                    area.draw(&PathElement::new(upright(tick), BLACK.mix(0.15)))?;
                    let at = (place(tick), bottom + LINE / 2);
                    write(&round(tick), at, NOTE, HPos::Center)?;
                }
                let bars = panel.bars.iter().map(|(name, value)| {
                    let at = names.iter().position(|other| other == name);
                    (name, *value, at.map_or(0, middle))
                });
                for (name, value, middle) in bars.clone() {
                    let half = ROW / 2 - 3;
                    let corners = [(zero, middle - half), (place(value), middle + half)];
                    area.draw(&Rectangle::new(corners, (self.colour)(name).filled()))?;
                }
                for &line in self.lines {
                    area.draw(&PathElement::new(upright(line), RED))?;
                    let at = (place(line), first - LINE / 2);
                    write(&round(line), at, NOTE, HPos::Center)?;
                }
                // The numbers come last and on a ground of their own, so that no bar and no line covers them.
                for (_, value, middle) in bars {
                    let number = format!("{value:.2}");
                    let start = place(value) + 4;
                    let half = ROW / 2 - 4;
                    let corners = [
                        (start - 2, middle - half),
                        (start + width(&number) + 2, middle + half),
                    ];
                    area.draw(&Rectangle::new(corners, WHITE.filled()))?;
                    write(&number, (start, middle), NOTE, HPos::Left)?;
                }
            }
            top += height(row);
        }
        area.present()?;
        Ok(())
    }
}

/// A step of 1, 2 or 5 times a power of ten, such that at most five steps fit.
pub fn step(end: f64) -> f64 {
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
        // Two panels share what the longest name leaves of the width.
        let scale = ((WIDTH - 2 * GAP - width("never")) / 2 - NUMBER - GAP) as u32;
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
    fn panels_that_do_not_fit_side_by_side_are_below() {
        let name = "penstock 10+4 degraded, unshared";
        let panels = ["one", "two", "three"].map(|title| panel(title, &[(name, 1.0)]));
        let bars = Bars {
            title: "the title",
            notes: vec!["word ".repeat(60)],
            panels: panels.into(),
            lines: &[],
            end: None,
            colour: |_| GREEN,
        };
        let mut text = String::new();
        bars.draw(&mut text).unwrap();
        assert!(
            text.starts_with(&format!("<svg width=\"{WIDTH}\"")),
            "{text}"
        );
        // Two in the first row, one in the second: the names are there twice.
        assert_eq!(text.matches(name).count(), 2, "{text}");
        let widths = widths(&text, GREEN);
        assert_eq!(widths.len(), 3);
        assert!(
            widths.iter().all(|width| *width >= SCALE as u32),
            "{widths:?}"
        );
        assert_eq!(wrapped(&bars.notes[0]).len(), 3);
        assert_eq!(wrapped(""), Vec::<String>::new());
    }

    #[test]
    fn steps_are_round() {
        let close = |end, wish: f64| (step(end) / wish - 1.0).abs() < 1e-9;
        assert!(close(3.0, 1.0) && close(5.0, 1.0) && close(5.1, 2.0));
        assert!(close(0.4, 0.1) && close(21.0, 5.0) && close(2.2, 0.5));
    }
}
