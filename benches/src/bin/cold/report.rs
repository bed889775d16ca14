//! The printed table, the record, and the picture.

use std::path::Path;

use penstock_benches::common::picture::{self, Bars, Panel};
use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;
use plotters::style::RGBColor;

use super::reads::{Dd, Measured};
use super::{Case, Competitor, Reader, Source};

const COLUMNS: &[&str] = &[
    "block_bytes",
    "state",
    "competitor",
    "connections",
    "rounds",
    "gb_s",
    "gb_s_spread",
    "gb_s_min",
    "gb_s_max",
    "speed_to_dd",
    "speed_to_nginx",
    "process_cpu_s_per_gb",
    "core_cpu_s_per_gb",
];

/// All results.
pub(crate) struct Report<'a> {
    lines: Vec<Line<'a>>,
}

/// The results of one competitor.
struct Line<'a> {
    case: &'a Case,
    name: &'a str,
    connections: Option<u64>,
    speed: Summary,
    to_dd: Option<f64>,
    to_nginx: Option<f64>,
    /// CPU seconds per GB of the server's process and of its core.
    cpu: [Option<f64>; 2],
}

impl<'a> Report<'a> {
    pub(crate) fn of(competitors: &'a [Competitor<'a>], values: &[Vec<Measured>]) -> Report<'a> {
        let speeds: Vec<Summary> = values
            .iter()
            .map(|all| Summary::of(&all.iter().map(|m| m.gb_s).collect::<Vec<_>>()))
            .collect();
        let medians = || {
            competitors
                .iter()
                .zip(speeds.iter().map(|speed| speed.median))
        };
        // Relative to the fastest way of dd with the same files, among those that have the machine to themselves.
        let dd = |case: &Case| {
            medians()
                .filter(|(other, _)| std::ptr::eq(other.case, case))
                .filter(
                    |(other, _)| matches!(other.reader, Reader::Dd(how) if how != Dd::BesideCopies),
                )
                .map(|(_, speed)| speed)
                .reduce(f64::max)
        };
        // Relative to nginx with the same number of connections; its one file does not depend on the block size.
        let nginx = |wish: u64| {
            medians().find_map(|(other, speed)| match other.reader {
                Reader::Get {
                    source: Source::Nginx(..),
                    connections,
                } => (connections == wish).then_some(speed),
                _ => None,
            })
        };
        let lines = competitors.iter().zip(values).zip(&speeds);
        let lines = lines.map(|((competitor, values), speed)| {
            let (connections, nginx) = match &competitor.reader {
                Reader::Dd(_) => (None, None),
                Reader::Get {
                    source: Source::Nginx(..),
                    connections,
                } => (Some(*connections), None),
                Reader::Get { connections, .. } => (Some(*connections), nginx(*connections)),
            };
            Line {
                case: competitor.case,
                name: &competitor.name,
                connections,
                speed: *speed,
                to_dd: dd(competitor.case).map(|dd| speed.median / dd),
                to_nginx: nginx.map(|nginx| speed.median / nginx),
                cpu: [0, 1].map(|at| {
                    let all = values.iter().filter_map(|m| Some(m.cpu_per_gb?[at]));
                    let all: Vec<f64> = all.collect();
                    (!all.is_empty()).then(|| Summary::of(&all).median)
                }),
            }
        });
        Report {
            lines: lines.collect(),
        }
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!(
            "\n  {:>6} {:<8} {:<29} {:>5} {:>6} {:>5} {:>6} {:>8} {:>14}",
            "block", "", "", "conns", "GB/s", "+-%", "to dd", "to nginx", "CPU, core s/GB"
        );
        for line in &self.lines {
            let [process, core] = line.cpu.map(|cpu| number(cpu, 3));
            println!(
                "  {:>6} {:<8} {:<29} {:>5} {:>6.2} {:>5.1} {:>6} {:>8} {process:>7}{core:>7}",
                text(line.case.block_bytes),
                line.case.state,
                line.name,
                text(line.connections),
                line.speed.median,
                100.0 * line.speed.spread(),
                number(line.to_dd, 2),
                number(line.to_nginx, 2),
            );
        }
    }

    /// The record of these facts and results.
    pub(crate) fn record(&self, facts: Vec<(&'static str, String)>) -> Record {
        let mut record = Record::new(facts, COLUMNS);
        for line in &self.lines {
            let speed = &line.speed;
            let digits = |value: f64| number(Some(value), 4);
            let [process, core] = line.cpu.map(|cpu| number(cpu, 3));
            record.push(vec![
                text(line.case.block_bytes),
                line.case.state.to_owned(),
                line.name.to_owned(),
                text(line.connections),
                speed.count.to_string(),
                digits(speed.median),
                digits(speed.spread()),
                digits(speed.min),
                digits(speed.max),
                number(line.to_dd, 3),
                number(line.to_nginx, 3),
                process,
                core,
            ]);
        }
        record
    }

    /// Draws the medians to an SVG file.
    pub(crate) fn draw(&self, path: &Path) -> anyhow::Result<()> {
        let cases = self.lines.iter().map(|line| line.case.name());
        let panels = picture::distinct(cases).into_iter().map(|title| {
            // nginx's one file is shown beside every object.
            let here = |line: &&Line| line.case.name() == title || line.name == super::NGINX;
            let lines = self.lines.iter().filter(here);
            let bars = lines.map(|line| (line.bar(), line.speed.median)).collect();
            Panel { title, bars }
        });
        let bars = Bars {
            title: "GB/s of what is not in the page cache",
            notes: vec![
                "dd reads the same share files, or the plain file, and may use every core, unless one of them copies memory"
                    .to_owned(),
                "servers send on one core and are read from on another; nginx sends the plain file: it has the same bars in every panel"
                    .to_owned(),
            ],
            panels: panels.collect(),
            lines: &[],
            end: None,
            colour,
        };
        bars.write(path)
    }
}

impl Line<'_> {
    /// The name of its bar.
    fn bar(&self) -> String {
        match self.connections {
            None => self.name.to_owned(),
            Some(1) => format!("{}, 1 connection", self.name),
            Some(count) => format!("{}, {count} connections", self.name),
        }
    }
}

/// The colour of the bar with this name.
fn colour(name: &str) -> RGBColor {
    if name.starts_with("dd") {
        picture::GREY
    } else if name.starts_with(super::NGINX) {
        picture::BLUE
    } else {
        picture::GREEN
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::super::{HEALTHY, NGINX, PLAIN};
    use super::*;

    fn measured(gb_s: f64) -> Vec<Measured> {
        vec![Measured {
            gb_s,
            cpu_per_gb: None,
        }]
    }

    #[test]
    fn ratios_are_to_the_undisturbed_dd_and_to_nginx_with_as_many_connections() {
        let case = |block_bytes, state| Case {
            key: String::new(),
            block_bytes,
            state,
            files: Vec::new(),
            stores: Vec::new(),
            sha256: String::new(),
        };
        let cases = [case(Some(65536), HEALTHY), case(None, PLAIN)];
        let dd = |case, how: Dd| Competitor {
            case,
            name: how.name().to_owned(),
            reader: Reader::Dd(how),
        };
        let get = |case, name: &str, source, connections| Competitor {
            case,
            name: name.to_owned(),
            reader: Reader::Get {
                source,
                connections,
            },
        };
        let nginx = || Source::Nginx("".into(), "".into(), "".into());
        let competitors = [
            dd(&cases[0], Dd::InTurn),
            dd(&cases[0], Dd::BesideCopies),
            get(&cases[0], "penstock uring", Source::Penstock(Vec::new()), 4),
            dd(&cases[1], Dd::Direct),
            get(&cases[1], NGINX, nginx(), 1),
            get(&cases[1], NGINX, nginx(), 4),
        ];
        let values = [2.0, 9.0, 1.0, 5.0, 3.0, 4.0].map(measured);
        let report = Report::of(&competitors, &values);
        let ratios = |at: usize| (report.lines[at].to_dd, report.lines[at].to_nginx);
        assert_eq!(ratios(1), (Some(4.5), None));
        assert_eq!(ratios(2), (Some(0.5), Some(0.25)));
        assert_eq!(ratios(5), (Some(0.8), None));

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.svg");
        report.draw(&path).unwrap();
        let drawn = std::fs::read_to_string(&path).unwrap();
        // It is drawn twice: beside the object, and beside dd of its own file.
        assert_eq!(drawn.matches("4.00").count(), 2, "{drawn}");
        assert!(drawn.contains("healthy, blocks of 64 KiB"), "{drawn}");
    }
}
