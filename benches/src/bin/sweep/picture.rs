//! The picture: heat maps of CPU time, one for each way, block size and number of connections.

use std::path::Path;

use anyhow::ensure;
use penstock_benches::common::picture::{
    Drawn, GAP, LINE, NOTE, TITLE, WIDTH, distinct, ink, wrapped, write,
};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::cells::{Knobs, Load};
use super::report::{Found, Knees, Phase, size};

const CELL: (i32, i32) = (46, 18);
/// Room to the left of the cells for row names, and above them for column names.
const LABELS: (i32, i32) = (90, 46);
/// Points of the names and numbers of cells.
const SMALL: u32 = 15;
/// The cost, relative to the best of a map, from which a cell has the darkest colour.
const DARKEST: f64 = 3.0;

/// Draws a map for each load to an SVG file.
pub(super) fn draw(path: &Path, found: &[Found], knees: &Knees) -> anyhow::Result<()> {
    ensure!(!found.is_empty(), "nothing was measured");
    write(path, |text| draw_text(text, found, knees))
}

fn draw_text(text: &mut String, found: &[Found], knees: &Knees) -> Drawn {
    let first = &found[0];
    // Only one segment size is drawn: the first of the grid, which is the server's.
    let shown: Vec<&Found> = found
        .iter()
        .filter(|f| f.knobs.segment == first.knobs.segment)
        .collect();
    let grid: Vec<&Found> = shown
        .iter()
        .copied()
        .filter(|f| f.phase == Phase::First)
        .collect();
    let mut columns = distinct(found.iter().map(|f| f.knobs.send_buffer));
    columns.sort_by_key(|bytes| bytes.unwrap_or(u32::MAX));
    let mut rows = distinct(found.iter().map(|f| (f.knobs.unsent, f.knobs.turn)));
    rows.sort();
    let groups = distinct(found.iter().map(|f| (f.load.way, f.load.block_bytes)));
    let connections = distinct(found.iter().map(|f| f.load.connections));
    let map = (
        LABELS.0 + CELL.0 * columns.len() as i32 + GAP,
        LABELS.1 + CELL.1 * rows.len() as i32 + GAP,
    );
    // Side by side as many as fit.
    let across = ((WIDTH - GAP) / map.0).clamp(1, connections.len() as i32);
    let down = (connections.len() as i32 + across - 1) / across;
    let notes = [
        format!(
            "columns: SO_SNDBUF as set (-: autotuned); rows: TCP_NOTSENT_LOWAT (-: none) / bytes per turn; TCP_MAXSEG {}",
            size(first.knobs.segment)
        ),
        "white: the cheapest of its map; darkest: 3 times that or more; framed: the knee of its way and block size"
            .to_owned(),
    ];
    let notes: Vec<String> = notes.iter().flat_map(|note| wrapped(note)).collect();
    let top = 2 * GAP + LINE * (1 + notes.len() as i32);
    let extent = (
        WIDTH.max(GAP + map.0 * across) as u32,
        (top + map.1 * down * groups.len() as i32) as u32,
    );
    let area = SVGBackend::with_string(text, extent).into_drawing_area();
    area.fill(&WHITE)?;
    let write = |what: &str, at: (i32, i32), points: u32, side: HPos| {
        area.draw(&Text::new(what.to_owned(), at, ink(points, side)))
    };
    let title = "CPU seconds of the sender's core per GB, softirq included, on loopback";
    write(title, (GAP, GAP + LINE / 2), TITLE, HPos::Left)?;
    for (note, line) in notes.iter().zip(1..) {
        let at = (GAP, GAP + LINE / 2 + LINE * line);
        write(note, at, NOTE, HPos::Left)?;
    }
    for (group, row) in groups.iter().zip(0..) {
        for (&connections, number) in connections.iter().zip(0..) {
            let load = Load {
                way: group.0,
                block_bytes: group.1,
                connections,
            };
            let corner = (
                GAP + map.0 * (number % across),
                top + map.1 * (down * row + number / across),
            );
            let knee = knees.get(group).map(|knee| knee.0);
            let cell = |knobs: &dyn Fn(&Knobs) -> bool| -> Option<&Found> {
                // The second pass is the more exact one.
                let here = |f: &&&Found| f.load == load && knobs(&f.knobs);
                shown.iter().rfind(here).copied()
            };
            let best = grid
                .iter()
                .filter(|f| f.load == load)
                .filter_map(|f| cell(&|knobs| *knobs == f.knobs))
                .map(|f| f.sample.core_per_gb)
                .fold(f64::MAX, f64::min);
            let title = format!(
                "{}, blocks of {}, {connections} connection{}",
                load.way.name(),
                size(Some(load.block_bytes)),
                if connections == 1 { "" } else { "s" }
            );
            write(&title, (corner.0, corner.1 + LINE / 2), NOTE, HPos::Left)?;
            for (x, &send_buffer) in columns.iter().enumerate() {
                let left = corner.0 + LABELS.0 + CELL.0 * x as i32;
                let name = size(send_buffer);
                let at = (left + CELL.0 / 2, corner.1 + LABELS.1 - LINE / 2);
                write(&name, at, SMALL, HPos::Center)?;
                for (y, &(unsent, turn)) in rows.iter().enumerate() {
                    let top = corner.1 + LABELS.1 + CELL.1 * y as i32;
                    let wanted = |knobs: &Knobs| {
                        (knobs.send_buffer, knobs.unsent, knobs.turn) == (send_buffer, unsent, turn)
                    };
                    if let Some(found) = cell(&wanted) {
                        let framed = knee == Some(found.knobs);
                        draw_cell(&area, (left, top), found.sample.core_per_gb, best, framed)?;
                    }
                }
            }
            for (y, &(unsent, turn)) in rows.iter().enumerate() {
                let top = corner.1 + LABELS.1 + CELL.1 * y as i32;
                let name = format!("{} / {}", size(unsent), size(Some(turn)));
                let at = (corner.0 + LABELS.0 - 6, top + CELL.1 / 2);
                write(&name, at, SMALL, HPos::Right)?;
            }
        }
    }
    area.present()?;
    Ok(())
}

fn draw_cell(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    corner: (i32, i32),
    cpu: f64,
    best: f64,
    framed: bool,
) -> Drawn {
    let darkness = ((cpu / best).ln() / DARKEST.ln()).clamp(0.0, 1.0);
    let mix = |full: f64, dark: f64| (full + (dark - full) * darkness).round() as u8;
    let colour = RGBColor(mix(255.0, 150.0), mix(255.0, 20.0), mix(255.0, 30.0));
    let end = (corner.0 + CELL.0 - 1, corner.1 + CELL.1 - 1);
    area.draw(&Rectangle::new([corner, end], colour.filled()))?;
    if framed {
        let inside = [(corner.0 + 1, corner.1 + 1), (end.0 - 1, end.1 - 1)];
        area.draw(&Rectangle::new(inside, BLACK.stroke_width(2)))?;
    }
    let colour = if darkness > 0.6 { &WHITE } else { &BLACK };
    let style = ink(SMALL, HPos::Center).color(colour);
    let middle = (corner.0 + CELL.0 / 2, corner.1 + CELL.1 / 2);
    area.draw(&Text::new(format!("{cpu:.2}"), middle, style))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::{Sample, Way};

    #[test]
    fn every_combination_has_its_number() {
        let knobs = |send_buffer, turn| Knobs {
            send_buffer: Some(send_buffer),
            unsent: None,
            turn,
            segment: Some(4096),
        };
        let found = |phase, knobs, core_per_gb| {
            let load = Load {
                way: Way::Copy,
                block_bytes: 16 << 10,
                connections: 8,
            };
            let sample = Sample {
                gb_s: 1.0,
                core_per_gb,
                both_per_gb: core_per_gb,
                thread_per_gb: core_per_gb,
                turns_per_gb: 1.0,
                client_busy: 1.0,
            };
            Found::new(phase, load, knobs, &[sample])
        };
        let found = [
            found(Phase::First, knobs(65536, 65536), 0.25),
            found(Phase::First, knobs(131_072, 65536), 0.5),
            found(Phase::Second, knobs(131_072, 65536), 0.75),
        ];
        let knees = Knees::from([((Way::Copy, 16 << 10), (knobs(65536, 65536), 1.0))]);
        let mut text = String::new();
        draw_text(&mut text, &found, &knees).unwrap();
        for part in [
            "0.25",
            "0.75",
            "copy, blocks of 16K, 8 connections",
            "128K",
            "- / 64K",
            "</svg>",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!text.contains("0.50"), "the second look replaces the first");
        assert_eq!(text.matches("fill=\"none\"").count(), 1, "{text}");
    }
}
