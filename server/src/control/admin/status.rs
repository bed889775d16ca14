//! The cores' numbers as sums, in JSON, for people and scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::memory;
use super::remote::{self, RemoteReport};
use super::stores::{self, StoreReport};
use crate::connection::list::Listed;
use crate::control::state::{LastReload, ServerState};
use crate::control::worker::Order;
use crate::objects::survey::Found;
use crate::stats::{CoreStats, Phase, SCALARS, STATUS_CODES};

/// The answer of `/status`.
#[derive(Debug, Serialize)]
pub(super) struct StatusReport {
    version: &'static str,
    /// As `/readyz` has it.
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not_ready: Option<String>,
    io_backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not_uring: Option<String>,
    zero_copy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not_zero_copy: Option<String>,
    cores: usize,
    uptime_seconds: u64,
    /// The last time that the configuration was read again.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_reload: Option<LastReload>,
    memory: BTreeMap<&'static str, u64>,
    /// Where the declared memory goes, and what of it is used.
    memory_parts: Vec<memory::Part>,
    connections: BTreeMap<&'static str, u64>,
    responses: BTreeMap<u16, u64>,
    totals: BTreeMap<&'static str, u64>,
    stores: Vec<StoreReport>,
    /// What remote stores share, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<RemoteReport>,
    /// What a look at all objects in the background found.
    survey: SurveyReport,
    /// Of each core, the connections that hold the most memory, and the slowest ones.
    largest_and_slowest: Vec<Listed>,
}

/// What the survey of all objects found.
#[derive(Debug, Serialize)]
struct SurveyReport {
    /// How often all objects were looked at. In the first round the numbers are of a part of them.
    rounds: u64,
    #[serde(flatten)]
    found: Found,
}

/// How long the cores may take to list their connections. They look for orders once a tick.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks every core for its largest and slowest connections. They answer at their next tick.
pub(super) async fn ask_cores(server: &ServerState) -> Vec<Listed> {
    let (reply, mut replies) = mpsc::channel(server.orders.len().max(1));
    for orders in &server.orders {
        // A core whose queue is full is left out.
        let _ = orders.try_send(Order::List {
            reply: reply.clone(),
        });
    }
    drop(reply);
    let deadline = Instant::now() + PATIENCE;
    let mut listed = Vec::new();
    while let Ok(Some(connections)) = timeout_at(deadline, replies.recv()).await {
        listed.extend(connections);
    }
    listed
}

/// Why the server is not ready: it is starting or stopping, or so many stores are away that nothing can be served.
pub(super) fn not_ready(server: &ServerState) -> Option<String> {
    match server.is_ready() {
        true => server.stores().outage(),
        false => Some("starting or stopping".to_owned()),
    }
}

/// Sums over all cores.
pub(super) fn status(server: &ServerState, largest_and_slowest: Vec<Listed>) -> StatusReport {
    let sum = |get: &dyn Fn(&CoreStats) -> u64| -> u64 {
        server.cores.iter().map(|stats| get(stats)).sum()
    };
    let why_not_ready = not_ready(server);
    StatusReport {
        version: env!("CARGO_PKG_VERSION"),
        ready: why_not_ready.is_none(),
        why_not_ready,
        io_backend: server.backends.io.to_string(),
        why_not_uring: server.backends.why_not_uring.clone(),
        zero_copy: server.backends.zero_copy.to_string(),
        why_not_zero_copy: server.backends.why_not_zero_copy.clone(),
        cores: server.cores.len(),
        uptime_seconds: server.started.elapsed().as_secs(),
        last_reload: server.reloads().last.clone(),
        memory: memory::gauges(server)
            .into_iter()
            .map(|(name, _, value)| (name, value))
            .collect(),
        memory_parts: memory::parts(server),
        connections: Phase::ALL
            .iter()
            .enumerate()
            .map(|(at, phase)| (phase.name(), sum(&|stats| stats.connections[at].get())))
            .collect(),
        responses: STATUS_CODES
            .iter()
            .enumerate()
            .map(|(at, &code)| (code, sum(&|stats| stats.responses[at].get())))
            .filter(|&(_, count)| count > 0)
            .collect(),
        totals: SCALARS
            .iter()
            .map(|scalar| (scalar.name, sum(&|stats| (scalar.cell)(stats).get())))
            .collect(),
        stores: stores::reports(server),
        remote: remote::report(&server.stores()),
        survey: SurveyReport {
            rounds: server.survey.rounds(),
            found: server.survey.total(),
        },
        largest_and_slowest,
    }
}
