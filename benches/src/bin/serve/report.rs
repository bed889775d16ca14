//! The printed tables, and the record.

use std::path::Path;

use penstock_benches::common::picture::Panel;
use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;

use super::competitors::{is_nginx, is_seaweed};
use super::measure::{Asked, Cores, Measured};
use super::picture;

const COLUMNS: &[&str] = &[
    "object",
    "object_bytes",
    "connections",
    "competitor",
    "rounds",
    "gb_s",
    "gb_s_spread",
    "gb_s_min",
    "gb_s_max",
    "requests_s",
    "requests_s_spread",
    "process_cpu_s_per_gb",
    "process_cpu_spread",
    "core_cpu_s_per_gb",
    "core_cpu_spread",
    "core_cpu_min",
    "core_cpu_max",
    "both_cores_s_per_gb",
    "both_cores_spread",
    "speed_to_nginx",
    "core_cpu_to_nginx",
    "both_cores_to_nginx",
    "server_core_busy",
    "client_core_busy",
    "resident_mib_most",
];

/// The results so far.
pub(super) struct Report {
    record: Record,
    /// Data of the picture: CPU times relative to nginx.
    panels: Vec<Panel>,
}

/// The summaries of one competitor.
struct Line {
    name: String,
    /// Bytes of one object.
    bytes: u64,
    gb_s: Summary,
    requests_s: Summary,
    process: Summary,
    core: Summary,
    both: Summary,
    server_busy: Summary,
    client_busy: Summary,
    resident_mib: f64,
}

impl Line {
    fn of(name: &str, bytes: u64, values: &[Measured]) -> Line {
        let sum = |value: fn(&Measured) -> f64| {
            let all: Vec<f64> = values.iter().map(value).collect();
            Summary::of(&all)
        };
        Line {
            name: name.to_owned(),
            bytes,
            gb_s: sum(|m| m.gb_s),
            requests_s: sum(|m| m.requests_s),
            process: sum(|m| m.process_per_gb),
            core: sum(|m| m.core_per_gb),
            both: sum(|m| m.both_per_gb),
            server_busy: sum(|m| m.server_busy),
            client_busy: sum(|m| m.client_busy),
            resident_mib: sum(|m| m.resident_most as f64).max / f64::from(1 << 20),
        }
    }
}

impl Report {
    pub(super) fn new(mut facts: Vec<(&'static str, String)>, cores: Cores) -> Report {
        facts.push(("server core", cores.server.to_string()));
        facts.push(("client core", cores.client.to_string()));
        Report {
            record: Record::new(facts, COLUMNS),
            panels: Vec::new(),
        }
    }

    /// Prints the results of one kind of work, and adds them to the record.
    pub(super) fn add(
        &mut self,
        label: &str,
        asked: &Asked,
        found: Vec<(&str, u64, Vec<Measured>)>,
    ) {
        let lines: Vec<Line> = found
            .iter()
            .map(|(name, bytes, values)| Line::of(name, *bytes, values))
            .collect();
        let nginx = || lines.iter().filter(|line| is_nginx(&line.name));
        // The better of the two nginx configurations counts, in speed and in CPU time separately.
        let speed = nginx().map(|line| line.gb_s.median).reduce(f64::max);
        let core = nginx().map(|line| line.core.median).reduce(f64::min);
        let both = nginx().map(|line| line.both.median).reduce(f64::min);
        let small = label == "small";
        println!(
            "\n{label}, {}, {} rounds",
            connections(asked),
            found.first().map_or(0, |(_, _, values)| values.len())
        );
        println!(
            "  {:<37} {:>9} {:>5} {:>8} {:>8} {:>5} {:>8}  {:>7} {:>7} {:>7}  busy: server client",
            "",
            if small { "req/s" } else { "GB/s" },
            "+-%",
            if small { "us/req" } else { "s/GB" },
            "core",
            "+-%",
            "both",
            "speed/n",
            "core/n",
            "both/n",
        );
        for line in &lines {
            let ratios = [
                speed.map(|speed| line.gb_s.median / speed),
                core.map(|core| line.core.median / core),
                both.map(|both| line.both.median / both),
            ];
            self.print(line, asked, small, ratios);
            self.take(label, asked, line, ratios);
        }
        if let Some(core) = core {
            let bars = lines
                .iter()
                .map(|line| (line.name.clone(), line.core.median / core));
            self.panels.push(Panel {
                title: format!("{label}, {}", connections(asked)),
                bars: bars.collect(),
            });
        }
        for line in lines.iter().filter(|line| is_seaweed(&line.name)) {
            // Relative to Penstock in the same state; among its codes, the most expensive one counts.
            let degraded = line.name.contains("degraded");
            let ours = lines.iter().filter(|ours| {
                let other = is_nginx(&ours.name) || is_seaweed(&ours.name);
                !other && ours.name.contains("degraded") == degraded
            });
            let dearest = ours.map(|ours| ours.core.median).reduce(f64::max);
            if let Some(dearest) = dearest {
                println!(
                    "  {}: {:.1} times the CPU per GB of penstock at its dearest",
                    line.name,
                    line.core.median / dearest
                );
            }
        }
    }

    fn print(&self, line: &Line, asked: &Asked, small: bool, ratios: [Option<f64>; 3]) {
        let [speed, core, both] =
            ratios.map(|ratio| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
        // Per GB, or in microseconds per request.
        let unit = if small {
            asked.bytes as f64 / 1e9 * 1e6
        } else {
            1.0
        };
        let (rate, spread) = if small {
            (
                format!("{:.0}", line.requests_s.median),
                line.requests_s.spread(),
            )
        } else {
            (format!("{:.2}", line.gb_s.median), line.gb_s.spread())
        };
        println!(
            "  {:<37} {rate:>9} {:>5.1} {:>8.3} {:>8.3} {:>5.1} {:>8.3}  {speed:>7} {core:>7} {both:>7}  {:>12.2} {:>6.2}",
            line.name,
            100.0 * spread,
            line.process.median * unit,
            line.core.median * unit,
            100.0 * line.core.spread(),
            line.both.median * unit,
            line.server_busy.median,
            line.client_busy.median,
        );
    }

    fn take(&mut self, label: &str, asked: &Asked, line: &Line, ratios: [Option<f64>; 3]) {
        let [speed, core, both] =
            ratios.map(|ratio| ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}")));
        let number = |value: f64| format!("{value:.4}");
        self.record.push(vec![
            label.to_owned(),
            line.bytes.to_string(),
            asked.connections.to_string(),
            line.name.clone(),
            line.gb_s.count.to_string(),
            number(line.gb_s.median),
            number(line.gb_s.spread()),
            number(line.gb_s.min),
            number(line.gb_s.max),
            format!("{:.1}", line.requests_s.median),
            // Without a whole download there is no spread.
            number(line.requests_s.spread()).replace("NaN", "0"),
            number(line.process.median),
            number(line.process.spread()),
            number(line.core.median),
            number(line.core.spread()),
            number(line.core.min),
            number(line.core.max),
            number(line.both.median),
            number(line.both.spread()),
            speed,
            core,
            both,
            number(line.server_busy.median),
            number(line.client_busy.median),
            format!("{:.1}", line.resident_mib),
        ]);
    }

    /// Writes the record.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        self.record.write(path)
    }
    /// Draws the picture. Without nginx there is nothing to draw; a message says so.
    pub(super) fn draw(self, path: &Path) -> anyhow::Result<()> {
        if self.panels.is_empty() {
            println!("picture: skipped, its bars are relative to nginx, which is not installed");
            return Ok(());
        }
        picture::draw(path, self.panels)?;
        println!("drawn: {}", path.display());
        Ok(())
    }
}

fn connections(asked: &Asked) -> String {
    match asked.connections {
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn bars_are_relative_to_the_cheaper_nginx() {
        let asked = Asked {
            path: "x".to_owned(),
            bytes: 1 << 30,
            connections: 1,
            span: Duration::from_secs(1),
            first: false,
            copy: false,
        };
        let found = |name, core_per_gb| {
            let measured = Measured {
                gb_s: 1.0,
                requests_s: 1.0,
                process_per_gb: core_per_gb,
                core_per_gb,
                both_per_gb: core_per_gb,
                server_busy: 1.0,
                client_busy: 1.0,
                resident_most: 0,
            };
            (name, 1 << 30, vec![measured])
        };
        let cores = Cores {
            server: 0,
            client: 1,
        };
        let mut report = Report::new(Vec::new(), cores);
        report.add("large", &asked, vec![found("penstock 4+2 uring", 0.5)]);
        assert!(report.panels.is_empty(), "no nginx, no ratios");
        let all = [
            ("nginx large", 0.5),
            ("nginx sndbuf=64k", 0.25),
            ("penstock 4+2 degraded uring", 0.375),
        ];
        let all = all.map(|(name, core)| found(name, core)).to_vec();
        report.add("large", &asked, all);
        assert_eq!(report.panels[0].title, "large, 1 connection");
        let values: Vec<f64> = report.panels[0].bars.iter().map(|bar| bar.1).collect();
        assert_eq!(values, [2.0, 1.0, 1.5]);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.svg");
        report.draw(&path).unwrap();
        let drawn = std::fs::read_to_string(&path).unwrap();
        for part in ["penstock 4+2 degraded uring", "1.50", "1.15", "2.5"] {
            assert!(drawn.contains(part), "no {part:?} in {drawn}");
        }
    }
}
