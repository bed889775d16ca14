//! The picture: CPU time of the server's core relative to nginx, a panel for each kind of work.

use std::path::Path;

use penstock_benches::common::picture::{self, Bars, Panel};
use plotters::style::RGBColor;

use super::competitors::{is_nginx, is_seaweed};

/// The limits for a healthy object and a degraded one, relative to nginx's plain file.
const LINES: &[f64] = &[1.15, 2.5];
/// The end of the scale. It keeps the lines apart, however long a competitor's bar is.
const END: f64 = 3.0;

/// Draws the panels, at least one, to an SVG file.
pub(super) fn draw(path: &Path, panels: Vec<Panel>) -> anyhow::Result<()> {
    let bars = Bars {
        title: "CPU seconds of the server's core per GB, relative to nginx sending the plain file",
        notes: vec![
            "softirqs included; on loopback a client's core may do some of a server's sending, which is not in it"
                .to_owned(),
            "1 is the cheaper of the two nginx; lines: the aims for healthy and for degraded objects; bars longer \
             than the scale are cut"
                .to_owned(),
        ],
        panels,
        lines: LINES,
        end: Some(END),
        colour,
    };
    bars.write(path)
}

fn colour(name: &str) -> RGBColor {
    match name {
        name if is_nginx(name) => picture::GREY,
        name if is_seaweed(name) => picture::BLUE,
        name if name.contains("degraded") => picture::ORANGE,
        _ => picture::GREEN,
    }
}
