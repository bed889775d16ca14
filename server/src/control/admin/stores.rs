//! The stores' state and numbers.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::remote::{self, OriginReport};
use crate::control::state::ServerState;
use crate::stats::Kind;
use crate::stores::counts::Counts;
use crate::stores::{State, Store};

/// One store in `/status`.
#[derive(Debug, Serialize)]
pub(super) struct StoreReport {
    path: String,
    /// `object` or `tahoe`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    state: &'static str,
    /// Since when it is in that state.
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
    latency_ms: Latency,
    looks: u64,
    reads: u64,
    read_bytes: u64,
    errors: u64,
    timeouts: u64,
    suspensions: u64,
    hung_calls: u64,
    open_files: u64,
    free_bytes: u64,
    total_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<OriginReport>,
}

#[derive(Debug, Serialize)]
struct LastError {
    at: String,
    what: String,
}

/// How long calls took since the start, rounded up to a power of two.
#[derive(Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// A number of each store.
pub(super) struct StoreNumber {
    /// Its name, without the prefix `penstock_store_`.
    pub(super) name: &'static str,
    /// What it is, in one line.
    pub(super) help: &'static str,
    /// Counter or gauge.
    pub(super) kind: Kind,
    /// Where it is.
    pub(super) get: fn(&Counts) -> u64,
}

macro_rules! numbers {
    ($($kind:ident $name:ident $help:literal,)*) => {
        /// Every number of a store that metrics show.
        pub(super) const NUMBERS: &[StoreNumber] = &[$(StoreNumber {
            name: concat!("store_", stringify!($name)),
            help: $help,
            kind: Kind::$kind,
            get: |counts| counts.$name.load(std::sync::atomic::Ordering::Relaxed) as u64,
        },)*];
    };
}

numbers! {
    Counter looks "Look-ups in a store, and questions whether an object changed",
    Counter reads "Reads from a store that the page cache did not answer",
    Counter read_bytes "Bytes that reads from a store brought which the page cache did not answer",
    Counter errors "Calls on a store that failed",
    Counter timeouts "Calls on a store that were given up",
    Counter suspensions "Times that a store was suspended",
    Gauge hung "Calls on a store that were given up and have not ended",
    Gauge open_files "Share files of a store that are open",
    Gauge free_bytes "Bytes that a store's file system has free",
    Gauge total_bytes "Bytes that a store's file system has in all",
}

/// Whether it serves.
pub(super) fn state(store: &Store) -> State {
    store.report().state
}

/// All stores as `/status` shows them.
pub(super) fn reports(server: &ServerState) -> Vec<StoreReport> {
    server.stores().all().map(|store| report(store)).collect()
}

fn report(store: &Store) -> StoreReport {
    let (report, counts) = (store.report(), store.counts());
    let number = |name: &str| {
        let found = NUMBERS.iter().find(|number| number.name == name);
        found.map_or(0, |number| (number.get)(counts))
    };
    let time = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
    let since = SystemTime::now().checked_sub(report.lasts);
    let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    StoreReport {
        path: store.name(),
        kind: if report.is_node { "tahoe" } else { "object" },
        id: report.id.map(|id| id.to_string()),
        state: report.state.name(),
        since: time(since.unwrap_or(SystemTime::UNIX_EPOCH)),
        last_error: report
            .last_error
            .map(|(at, what)| LastError { at: time(at), what }),
        latency_ms: Latency {
            p50: ms(counts.percentile(50)),
            p99: ms(counts.percentile(99)),
        },
        looks: number("store_looks"),
        reads: number("store_reads"),
        read_bytes: number("store_read_bytes"),
        errors: number("store_errors"),
        timeouts: number("store_timeouts"),
        suspensions: number("store_suspensions"),
        hung_calls: number("store_hung"),
        open_files: number("store_open_files"),
        free_bytes: number("store_free_bytes"),
        total_bytes: number("store_total_bytes"),
        remote: remote::origin_report(store),
    }
}
