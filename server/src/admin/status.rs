//! The cores' numbers summed up, as JSON for people and scripts.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Shared;
use crate::http::respond::Status;
use crate::stats::{PHASES, SCALARS};

/// The answer of `/status`.
#[derive(Debug, Serialize)]
pub(super) struct StatusReport {
    version: &'static str,
    ready: bool,
    io_backend: String,
    cores: usize,
    uptime_seconds: u64,
    connections_max: usize,
    connections: BTreeMap<&'static str, u64>,
    responses: BTreeMap<u16, u64>,
    totals: BTreeMap<&'static str, u64>,
}

/// Sums over all cores.
pub(super) fn status(shared: &Shared) -> StatusReport {
    let sum = |get: &dyn Fn(&crate::stats::CoreStats) -> u64| -> u64 {
        shared.cores.iter().map(|stats| get(stats)).sum()
    };
    StatusReport {
        version: env!("CARGO_PKG_VERSION"),
        ready: shared.is_ready(),
        io_backend: shared.backend.to_string(),
        cores: shared.cores.len(),
        uptime_seconds: shared.started.elapsed().as_secs(),
        connections_max: shared.connections_max,
        connections: PHASES
            .iter()
            .enumerate()
            .map(|(at, &(_, name))| (name, sum(&|stats| stats.connections[at].get())))
            .collect(),
        responses: Status::ALL
            .iter()
            .enumerate()
            .map(|(at, status)| (status.code(), sum(&|stats| stats.responses[at].get())))
            .filter(|&(_, count)| count > 0)
            .collect(),
        totals: SCALARS
            .iter()
            .map(|scalar| (scalar.name, sum(&|stats| (scalar.cell)(stats).get())))
            .collect(),
    }
}
