//! The picture of a case: the server's memory over time, and what its clients got meanwhile.

use std::path::Path;
use std::time::Duration;

use penstock_benches::common::lines::{Chart, Line, Lines, Scale, Stroke};
use penstock_benches::common::picture::{BLUE, GREEN, GREY, ORANGE, RED};
use penstock_load::Sample;
use plotters::style::{BLACK, RGBColor};

const MEMORY: i32 = 220;
const RATES: i32 = 110;
/// The time over which a rate is taken: that between two looks at a measurement of the fast clients.
const WINDOW: f64 = 0.2;

/// What the fast clients received in one measurement, and when.
pub(super) struct Fast {
    /// Seconds, and all bytes until then. Seconds count from the start of the measurement.
    pub(super) received: Vec<(f64, u64)>,
    /// The measurement's length.
    pub(super) stretch: Duration,
}

impl Fast {
    /// Bytes per second.
    pub(super) fn rate(&self) -> f64 {
        let all = self.received.last().map_or(0, |(_, bytes)| *bytes);
        all as f64 / self.stretch.as_secs_f64()
    }

    /// The same with seconds that count from `earlier` before the measurement began.
    pub(super) fn since(mut self, earlier: Duration) -> Fast {
        for (at, _) in &mut self.received {
            *at += earlier.as_secs_f64();
        }
        self
    }

    /// A record of what was received.
    pub(super) fn csv(&self) -> String {
        let lines = self.received.iter();
        let lines = lines.map(|(at, bytes)| format!("{at:.3},{bytes}\n"));
        std::iter::once("at,client_bytes\n".to_owned())
            .chain(lines)
            .collect()
    }
}

/// What is drawn of a case.
pub(super) struct Case<'a> {
    pub(super) title: &'a str,
    /// Bytes declared.
    pub(super) budget: u64,
    /// Memory, and what the clients received that stay: the crowd.
    pub(super) samples: &'a [Sample],
    /// Who that is.
    pub(super) crowd: &'a str,
    /// Fast clients beside the crowd, how many they are, and what they get alone, in bytes per second.
    pub(super) fast: Option<(&'a Fast, usize, f64)>,
}

impl Case<'_> {
    /// Draws it to an SVG file.
    pub(super) fn draw(&self, path: &Path) -> anyhow::Result<()> {
        self.lines().write(path)
    }

    fn lines(&self) -> Lines<'_> {
        let end = self.samples.last().map_or(0.0, |sample| sample.at);
        let mut charts = vec![self.memory(end)];
        if let Some((fast, clients, alone)) = self.fast {
            let alone = alone / 1e6;
            charts.push(Chart {
                what: format!("MB/s, {clients} fast clients"),
                scale: Scale::Linear,
                height: RATES,
                lines: vec![
                    Line {
                        name: Some(format!("without the others: {alone:.0}")),
                        colour: GREY,
                        stroke: Stroke::Dashed,
                        points: vec![(0.0, alone), (end, alone)],
                    },
                    line("beside them", GREEN, rates(&fast.received)),
                ],
            });
        }
        let crowd = self.samples.iter().map(|s| (s.at, s.client_bytes));
        charts.push(Chart {
            what: format!("MB/s, {}", self.crowd),
            scale: Scale::Linear,
            height: RATES,
            lines: vec![Line {
                name: None,
                ..line("", GREEN, rates(&crowd.collect::<Vec<_>>()))
            }],
        });
        Lines {
            title: self.title,
            notes: Vec::new(),
            charts,
        }
    }

    fn memory(&self, end: f64) -> Chart {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let course = |of: fn(&Sample) -> u64| {
            let points = self
                .samples
                .iter()
                .map(|sample| (sample.at, mib(of(sample))));
            points.collect()
        };
        let budget = mib(self.budget);
        Chart {
            what: "MiB of memory".to_owned(),
            scale: Scale::Linear,
            height: MEMORY,
            lines: vec![
                Line {
                    stroke: Stroke::Dashed,
                    ..line("declared", RED, vec![(0.0, budget), (end, budget)])
                },
                line("process", BLUE, course(|sample| sample.resident)),
                line(
                    "its sockets",
                    ORANGE,
                    course(|sample| sample.sockets.total()),
                ),
                line(
                    "together",
                    RGBColor(BLACK.0, BLACK.1, BLACK.2),
                    course(Sample::together),
                ),
            ],
        }
    }
}

fn line(name: &str, colour: RGBColor, points: Vec<(f64, f64)>) -> Line {
    Line {
        name: Some(name.to_owned()),
        colour,
        stroke: Stroke::Solid,
        points,
    }
}

/// MB/s of each window, as a step, from bytes received so far. It begins and ends with none.
fn rates(received: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let Some(&(mut from, mut had)) = received.first() else {
        return Vec::new();
    };
    let mut rates = vec![(from, 0.0)];
    for &(at, bytes) in received {
        // The last window, if it is shorter, would be mostly noise.
        if at - from >= WINDOW * 0.9 {
            let rate = bytes.saturating_sub(had) as f64 / (at - from) / 1e6;
            rates.extend([(from, rate), (at, rate)]);
            (from, had) = (at, bytes);
        }
    }
    rates.push((from, 0.0));
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bytes_over_the_time_they_took() {
        let received = [
            (1.0, 0),
            (1.1, 50),
            (1.25, 500_000),
            (1.5, 500_000),
            (1.6, 7),
        ];
        let expected = [
            (1.0, 0.0),
            (1.0, 2.0),
            (1.25, 2.0),
            (1.25, 0.0),
            (1.5, 0.0),
            (1.5, 0.0),
        ];
        assert_eq!(rates(&received), expected);
        assert_eq!(rates(&[]), []);
    }

    #[test]
    fn the_fast_clients_are_drawn_where_they_came() {
        let samples: Vec<Sample> = (0..9)
            .map(|i| Sample {
                at: f64::from(i),
                resident: 50 << 20,
                client_bytes: 1_000_000 * i as u64,
                ..Sample::default()
            })
            .collect();
        let received = (0..5).map(|i| (f64::from(i), 1_000_000_000 * i as u64));
        let fast = Fast {
            received: received.collect(),
            stretch: Duration::from_secs(4),
        };
        assert_eq!(fast.rate(), 1e9);
        let fast = fast.since(Duration::from_secs(3));
        assert!(fast.csv().starts_with("at,client_bytes\n3.000,0\n4.000,"));
        let mut case = Case {
            title: "ten thousand stalled",
            budget: 256 << 20,
            samples: &samples,
            crowd: "100 slow ones",
            fast: Some((&fast, 4, 1.25e9)),
        };
        let lines = case.lines();
        assert_eq!(lines.charts.len(), 3);
        let beside = &lines.charts[1].lines[1];
        assert_eq!(beside.points[0], (3.0, 0.0));
        assert_eq!(
            beside.points[1..5],
            [3.0, 4.0, 4.0, 5.0].map(|at| (at, 1000.0))
        );
        let mut text = String::new();
        lines.draw(&mut text).unwrap();
        for part in [
            "ten thousand stalled",
            "4 fast clients",
            "1250",
            "declared",
            "100 slow ones",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        case.fast = None;
        assert_eq!(case.lines().charts.len(), 2);
    }
}
