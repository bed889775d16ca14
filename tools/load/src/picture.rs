//! The picture of a run: memory over time, and below it the clients' throughput.

use std::path::Path;

use plotters::prelude::*;

use crate::error::LoadError;
use crate::watch::Sample;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 640;
const MEMORY_HEIGHT: u32 = 400;

/// Height of a chart relative to its highest point, so that the legend covers no line.
const HEADROOM: f64 = 1.35;

const RESIDENT: RGBColor = RGBColor(31, 119, 180);
const KERNEL: RGBColor = RGBColor(255, 127, 14);
const TOGETHER: RGBColor = RGBColor(20, 20, 20);
const BUDGET: RGBColor = RGBColor(200, 30, 30);
const RATE: RGBColor = RGBColor(44, 160, 44);

type Points = Vec<(f64, f64)>;

/// Draws `samples` to an SVG file.
pub(crate) fn draw(
    path: &Path,
    title: &str,
    samples: &[Sample],
    budget: Option<u64>,
) -> Result<(), LoadError> {
    let fail = |reason: String| LoadError::Picture {
        path: path.to_owned(),
        reason,
    };
    if samples.len() < 2 {
        return Err(fail(format!(
            "{} samples make no line; run longer or sample more often",
            samples.len()
        )));
    }
    let mut text = String::new();
    draw_text(&mut text, title, samples, budget).map_err(|error| fail(error.to_string()))?;
    std::fs::write(path, text).map_err(|source| LoadError::File {
        path: path.to_owned(),
        source,
    })
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_text(text: &mut String, title: &str, samples: &[Sample], budget: Option<u64>) -> Drawn {
    let area = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let (memory, rate) = area.split_vertically(MEMORY_HEIGHT);
    let end = samples.last().map_or(1.0, |sample| sample.at);

    let mib = |value: fn(&Sample) -> u64| -> Points {
        samples
            .iter()
            .map(|sample| (sample.at, value(sample) as f64 / f64::from(1 << 20)))
            .collect()
    };
    let together = mib(Sample::together);
    let mut lines = vec![
        (
            "process (resident)",
            RESIDENT,
            mib(|sample| sample.resident),
        ),
        (
            "kernel (sockets)",
            KERNEL,
            mib(|sample| sample.sockets.total()),
        ),
        ("together", TOGETHER, together),
    ];
    if let Some(budget) = budget {
        let budget = budget as f64 / f64::from(1 << 20);
        lines.push(("budget", BUDGET, vec![(0.0, budget), (end, budget)]));
    }
    chart(&memory, title, "memory, MiB", end, &lines)?;

    let rates = samples.windows(2).map(|pair| {
        let seconds = (pair[1].at - pair[0].at).max(1e-3);
        let bytes = pair[1].client_bytes.saturating_sub(pair[0].client_bytes);
        (pair[1].at, bytes as f64 / seconds / 1e6)
    });
    chart(
        &rate,
        "",
        "clients, MB/s",
        end,
        &[("received by the clients", RATE, rates.collect())],
    )?;
    area.present()?;
    Ok(())
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    unit: &str,
    end: f64,
    lines: &[(&str, RGBColor, Points)],
) -> Drawn {
    let top = lines
        .iter()
        .flat_map(|(_, _, points)| points)
        .map(|point| point.1)
        .fold(1e-3, f64::max);
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(64);
    if !title.is_empty() {
        builder.caption(title, ("sans-serif", 18));
    }
    let mut chart = builder.build_cartesian_2d(0.0..end.max(1e-3), 0.0..top * HEADROOM)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds")
        .y_desc(unit)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (name, colour, points) in lines {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_lines_and_its_title() {
        let samples: Vec<Sample> = (0..5)
            .map(|i| Sample {
                at: f64::from(i),
                resident: 50 << 20,
                client_bytes: 1000 * i as u64,
                ..Sample::default()
            })
            .collect();
        let mut text = String::new();
        draw_text(&mut text, "ten thousand stalled", &samples, Some(256 << 20)).unwrap();
        for part in [
            "<svg",
            "ten thousand stalled",
            "budget",
            "kernel (sockets)",
            "together",
            "MB/s",
            "</svg>",
        ] {
            assert!(text.contains(part), "no {part:?} in the picture");
        }
        assert!(text.matches("<polyline").count() >= 5);
    }

    #[test]
    fn one_sample_draws_no_picture() {
        let error = draw(Path::new("unused.svg"), "", &[Sample::default()], None).unwrap_err();
        assert!(
            error.to_string().contains("1 samples make no line"),
            "{error}"
        );
    }
}
