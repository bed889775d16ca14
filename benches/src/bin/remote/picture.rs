//! The pictures of `beside`: panels of bars, each panel with a scale of its own.

use std::path::Path;

use anyhow::ensure;
use penstock_benches::common::picture::{self, Drawn};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What was measured of one.
pub(super) struct Figures {
    pub name: &'static str,
    /// MB/s: the first download, one after it, many at one time.
    pub cold: f64,
    pub warm: f64,
    pub many: f64,
    /// The server's CPU seconds per GB, of the same.
    pub cold_cpu: f64,
    pub warm_cpu: f64,
    pub many_cpu: f64,
    /// The one after the first, with what the server gets its bytes from.
    pub warm_all_cpu: f64,
    /// MiB, process and sockets, with a crowd that is slow and one that stalls.
    pub slow: f64,
    pub stalled: f64,
    /// KiB that one client that stalls adds.
    pub stalled_each: f64,
}

/// A panel's title, and what of each it shows.
type Panel = (&'static str, fn(&Figures) -> f64);

/// As wide as a page shows it without making it smaller.
const WIDTH: i32 = 800;
const GAP: i32 = 16;
/// Room for the names, and for the number after a bar.
const NAMES: i32 = 152;
const NUMBER: i32 = 52;
/// Height of a bar with the space around it, and of a line of text.
const ROW: i32 = 26;
const LINE: i32 = 24;

/// All figures of all.
pub(super) fn beside(path: &Path, bytes: usize, all: &[Figures]) -> anyhow::Result<()> {
    let rows: [(&str, &[Panel]); 3] = [
        (
            "MB/s: more is better",
            &[
                ("cold, 1 client", |f| f.cold),
                ("warm, 1 client", |f| f.warm),
                ("warm, 32 clients", |f| f.many),
            ],
        ),
        (
            "CPU seconds per GB, of the server alone: less is better",
            &[
                ("cold, 1 client", |f| f.cold_cpu),
                ("warm, 1 client", |f| f.warm_cpu),
                ("warm, 32 clients", |f| f.many_cpu),
            ],
        ),
        (
            "MiB of memory, process and sockets: less is better",
            &[
                ("1,000 clients at 100 kB/s", |f| f.slow),
                ("1,000 stalled clients", |f| f.stalled),
            ],
        ),
    ];
    let title = "In front of SeaweedFS: Penstock, nginx with slices, rclone; and SeaweedFS itself";
    let notes = [
        format!(
            "one object of {} MiB, in Penstock's case in 4+2 shares in six buckets;",
            bytes >> 20
        ),
        "loopback, two cores for servers, SeaweedFS and clients together".to_owned(),
    ];
    write(path, title, &notes, &rows, &all.iter().collect::<Vec<_>>())
}

/// The two figures that tell most, of those that are known best.
pub(super) fn overview(path: &Path, bytes: usize, all: &[Figures]) -> anyhow::Result<()> {
    let rows: [(&str, &[Panel]); 1] = [(
        "less is better",
        &[
            ("CPU seconds per GB, warm", |f| f.warm_all_cpu),
            ("KiB that a stalled client adds", |f| f.stalled_each),
        ],
    )];
    let notes = [
        format!(
            "One object of {} MiB. Penstock, out of 4+2 shares, and nginx serve it from a cache before",
            bytes >> 20
        ),
        "SeaweedFS's buckets; SeaweedFS gives the plain object; Tahoe-LAFS has 4+2 shares, which its".to_owned(),
        "gateway verifies and decrypts each time. Memory is of process and sockets.".to_owned(),
    ];
    let shown = [
        "Penstock",
        "nginx",
        "nginx, sndbuf=64k",
        "SeaweedFS",
        "Tahoe-LAFS",
    ];
    let all: Vec<&Figures> = shown
        .iter()
        .filter_map(|name| all.iter().find(|figures| figures.name == *name))
        .collect();
    let title = "What a download costs the server, and what a client that waits does";
    write(path, title, &notes, &rows, &all)
}

fn write(
    path: &Path,
    title: &str,
    notes: &[String],
    rows: &[(&str, &[Panel])],
    all: &[&Figures],
) -> anyhow::Result<()> {
    ensure!(!all.is_empty(), "nothing to draw was measured");
    picture::write(path, |text| draw(text, title, notes, rows, all))
}

fn draw(
    text: &mut String,
    title: &str,
    notes: &[String],
    rows: &[(&str, &[Panel])],
    all: &[&Figures],
) -> Drawn {
    let names = all.len() as i32;
    // A row of panels: what it shows, the panels' titles, the bars.
    let height = 2 * LINE + ROW * names + GAP;
    let top = GAP + LINE * (1 + notes.len() as i32) + GAP;
    let extent = (WIDTH as u32, (top + height * rows.len() as i32) as u32);
    let area = SVGBackend::with_string(text, extent).into_drawing_area();
    area.fill(&WHITE)?;
    let write = |what: &str, at: (i32, i32), points: u32, bold: bool, side: HPos| {
        let weight = if bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        let font = FontDesc::new(FontFamily::SansSerif, f64::from(points), weight);
        let style = font.color(&BLACK).pos(Pos::new(side, VPos::Center));
        area.draw(&Text::new(what.to_owned(), at, style))
    };
    write(title, (GAP, GAP + LINE / 2), 21, true, HPos::Left)?;
    for (note, line) in notes.iter().zip(1..) {
        let at = (GAP, GAP + LINE / 2 + LINE * line);
        write(note, at, 17, false, HPos::Left)?;
    }
    for ((what, panels), row) in rows.iter().zip(0..) {
        let top = top + height * row;
        write(what, (GAP, top + LINE / 2), 17, true, HPos::Left)?;
        let first = top + 2 * LINE;
        let middle = |number: i32| first + ROW * number + ROW / 2;
        for (figures, number) in all.iter().zip(0..) {
            let at = (NAMES, middle(number));
            write(figures.name, at, 17, false, HPos::Right)?;
        }
        let width = (WIDTH - NAMES - GAP) / panels.len() as i32;
        let scale = width - NUMBER - GAP;
        for ((title, value), number) in panels.iter().zip(0..) {
            let zero = NAMES + GAP / 2 + width * number;
            write(title, (zero, top + LINE + LINE / 2), 17, false, HPos::Left)?;
            let most = all.iter().map(|figures| value(figures)).fold(0.0, f64::max);
            let most = if most > 0.0 { most } else { 1.0 };
            for (figures, number) in all.iter().zip(0..) {
                let (value, middle) = (value(figures), middle(number));
                let end = zero + (f64::from(scale) * value / most).round() as i32;
                let half = ROW / 2 - 4;
                let corners = [(zero, middle - half), (end.max(zero + 1), middle + half)];
                area.draw(&Rectangle::new(corners, colour(figures.name).filled()))?;
                write(&digits(value), (end + 5, middle), 17, false, HPos::Left)?;
            }
        }
    }
    area.present()?;
    Ok(())
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn colour(name: &str) -> RGBColor {
    match name {
        "Penstock" => picture::GREEN,
        name if name.starts_with("nginx") => picture::GREY,
        "rclone" => picture::ORANGE,
        "Tahoe-LAFS" => picture::RED,
        _ => picture::BLUE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(name: &'static str, of: f64) -> Figures {
        Figures {
            name,
            cold: of,
            warm: of,
            many: of,
            cold_cpu: of,
            warm_cpu: of,
            warm_all_cpu: of,
            many_cpu: of,
            slow: of,
            stalled: of,
            stalled_each: of,
        }
    }

    #[test]
    fn each_panel_has_its_own_scale_and_all_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.svg");
        let all = [
            figures("Penstock", 123.4),
            figures("nginx", 61.7),
            figures("rclone", 7.0),
        ];
        beside(&path, 256 << 20, &all).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for part in ["Penstock", "rclone", "123", "61.7", "7.00", "256 MiB"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        // The background, and a bar of each in eight panels.
        assert_eq!(text.matches("<rect").count(), 1 + 3 * 8);
        overview(&path, 256 << 20, &all).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("nginx") && !text.contains("rclone"));
        assert_eq!(text.matches("<rect").count(), 1 + 2 * 2);
        assert!(beside(&path, 1, &[]).is_err());
    }
}
