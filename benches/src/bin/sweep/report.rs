//! The printed tables, the knees, and the record.

use std::collections::HashMap;

use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;

use super::cells::{self, Knobs, Load, Sample, Way};

/// The pass that a measurement belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    First,
    Second,
}

/// One combination under one load.
pub(super) struct Found {
    pub(super) phase: Phase,
    pub(super) load: Load,
    pub(super) knobs: Knobs,
    pub(super) rounds: usize,
    /// Medians.
    pub(super) sample: Sample,
    pub(super) core_spread: f64,
    pub(super) gb_s_spread: f64,
}

impl Found {
    pub(super) fn new(phase: Phase, load: Load, knobs: Knobs, samples: &[Sample]) -> Found {
        let sum = |value: fn(&Sample) -> f64| {
            let all: Vec<f64> = samples.iter().map(value).collect();
            Summary::of(&all)
        };
        let (gb_s, core) = (sum(|s| s.gb_s), sum(|s| s.core_per_gb));
        Found {
            phase,
            load,
            knobs,
            rounds: samples.len(),
            sample: Sample {
                gb_s: gb_s.median,
                core_per_gb: core.median,
                both_per_gb: sum(|s| s.both_per_gb).median,
                thread_per_gb: sum(|s| s.thread_per_gb).median,
                turns_per_gb: sum(|s| s.turns_per_gb).median,
                client_busy: sum(|s| s.client_busy).median,
            },
            core_spread: core.spread(),
            gb_s_spread: gb_s.spread(),
        }
    }
}

/// The knee of each way and block size, and its cost relative to the best of each load (geometric mean), by the second
/// pass.
pub(super) type Knees = HashMap<(Way, u32), (Knobs, f64)>;

pub(super) fn knees(groups: &[(Way, u32)], found: &[Found]) -> Knees {
    let knee = |&group: &(Way, u32)| Some((group, cells::knee(&ranking(group, found))?));
    groups.iter().filter_map(knee).collect()
}

/// All combinations of the second pass, cheapest first.
fn ranking(group: (Way, u32), found: &[Found]) -> Vec<(Knobs, f64)> {
    let mut loads: Vec<(Load, HashMap<Knobs, Sample>)> = Vec::new();
    let again = found
        .iter()
        .filter(|f| f.phase == Phase::Second && (f.load.way, f.load.block_bytes) == group);
    for found in again {
        if loads.last().is_none_or(|(load, _)| *load != found.load) {
            loads.push((found.load, HashMap::new()));
        }
        if let Some((_, samples)) = loads.last_mut() {
            samples.insert(found.knobs, found.sample);
        }
    }
    let costs: Vec<_> = loads.iter().map(|(_, s)| cells::costs(s)).collect();
    cells::ranked(&costs)
}

/// A size for display; `-` stands for the kernel's choice.
pub(super) fn size(bytes: Option<u32>) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(bytes) if bytes % 1024 == 0 => format!("{}K", bytes / 1024),
        Some(bytes) => bytes.to_string(),
    }
}

/// Rows of each table printed.
const SHOWN: usize = 8;

pub(super) fn print(
    groups: &[(Way, u32)],
    found: &[Found],
    knees: &Knees,
    server: Knobs,
    kernel: Knobs,
) {
    for &group in groups {
        let ranking = ranking(group, found);
        let of = |knobs: Knobs| -> Vec<&Found> {
            let wanted = |f: &&Found| {
                f.phase == Phase::Second
                    && f.knobs == knobs
                    && (f.load.way, f.load.block_bytes) == group
            };
            found.iter().filter(wanted).collect()
        };
        println!(
            "\n{}, blocks of {}: CPU s/GB of the sender's core (GB/s), by connections",
            group.0.name(),
            size(Some(group.1))
        );
        print!("  sndbuf  lowat   turn    mss    cost");
        for found in ranking.first().map(|best| of(best.0)).unwrap_or_default() {
            print!("  {:>13}", found.load.connections);
        }
        println!();
        let knee = knees.get(&group).map(|knee| knee.0);
        let marked = |knobs| [Some(server), Some(kernel), knee].contains(&Some(knobs));
        for (place, &(knobs, cost)) in ranking.iter().enumerate() {
            if place >= SHOWN && !marked(knobs) {
                continue;
            }
            print!(
                "  {:>6} {:>6} {:>6} {:>6} {cost:>7.3}",
                size(knobs.send_buffer),
                size(knobs.unsent),
                size(Some(knobs.turn)),
                size(knobs.segment),
            );
            for found in of(knobs) {
                let numbers = (found.sample.core_per_gb, found.sample.gb_s);
                print!("  {:>6.3} ({:>4.2})", numbers.0, numbers.1);
            }
            let names = [
                (knee == Some(knobs), "the knee"),
                (knobs == server, "the server's"),
                (knobs == kernel, "the kernel's"),
            ];
            let names: Vec<&str> = names.iter().filter(|n| n.0).map(|n| n.1).collect();
            println!("  {}", names.join(", "));
        }
    }
}

const COLUMNS: &[&str] = &[
    "look",
    "way",
    "block_bytes",
    "connections",
    "send_buffer_bytes",
    "notsent_lowat_bytes",
    "turn_bytes",
    "segment_bytes",
    "rounds",
    "gb_s",
    "gb_s_spread",
    "core_cpu_s_per_gb",
    "core_cpu_spread",
    "both_cores_s_per_gb",
    "thread_cpu_s_per_gb",
    "turns_per_gb",
    "client_core_busy",
    "knee",
];

pub(super) fn record(facts: Vec<(&'static str, String)>, found: &[Found], knees: &Knees) -> Record {
    let mut record = Record::new(facts, COLUMNS);
    for found in found {
        let (load, knobs, sample) = (found.load, found.knobs, found.sample);
        let bytes = |bytes: Option<u32>| bytes.map_or_else(String::new, |bytes| bytes.to_string());
        let number = |value: f64| format!("{value:.4}");
        let knee = knees.get(&(load.way, load.block_bytes));
        record.push(vec![
            match found.phase {
                Phase::First => "first".to_owned(),
                Phase::Second => "second".to_owned(),
            },
            load.way.name().to_owned(),
            load.block_bytes.to_string(),
            load.connections.to_string(),
            bytes(knobs.send_buffer),
            bytes(knobs.unsent),
            knobs.turn.to_string(),
            bytes(knobs.segment),
            found.rounds.to_string(),
            number(sample.gb_s),
            number(found.gb_s_spread),
            number(sample.core_per_gb),
            number(found.core_spread),
            number(sample.both_per_gb),
            number(sample.thread_per_gb),
            format!("{:.0}", sample.turns_per_gb),
            number(sample.client_busy),
            match knee {
                Some((knee, _)) if *knee == knobs => "knee".to_owned(),
                _ => String::new(),
            },
        ]);
    }
    record
}
