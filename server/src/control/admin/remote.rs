//! The numbers of remote stores: requests, which cost money, fetches, hedges, and the cache.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use penstock_remote::Kind;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

use crate::remote::{Counts, FetchCounts};
use crate::stores::{Store, Stores};

/// What fetching did, in `/status`.
#[derive(Debug, Serialize)]
pub(super) struct RemoteReport {
    fetches_under_way: u64,
    hedges: BTreeMap<&'static str, u64>,
    cache_bytes: u64,
    cache_size_bytes: u64,
}

/// One remote store, in `/status`.
#[derive(Debug, Serialize)]
pub(super) struct OriginReport {
    requests: BTreeMap<&'static str, u64>,
    fetches: u64,
    fetches_failed: u64,
    fetched_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_p95_ms: Option<f64>,
}

/// A counter among others.
type Of<T> = fn(&T) -> &AtomicU64;

/// The counters of hedges, by what became of them.
const HEDGES: [(&str, Of<FetchCounts>); 5] = [
    ("fired", |counts| &counts.hedges_fired),
    ("won", |counts| &counts.hedges_won),
    ("refused_budget", |counts| &counts.hedges_over_budget),
    ("refused_busy", |counts| &counts.hedges_busy),
    ("refused_no_share", |counts| &counts.hedges_without_share),
];

/// The counters of each remote store: name, help, value.
const NUMBERS: [(&str, &str, Of<Counts>); 3] = [
    (
        "remote_fetches",
        "Parts of shares that were fetched from a remote store",
        |counts| &counts.fetches,
    ),
    (
        "remote_fetches_failed",
        "Fetches from a remote store that failed",
        |counts| &counts.failed,
    ),
    (
        "remote_fetched_bytes",
        "Bytes that were fetched from a remote store",
        |counts| &counts.fetched_bytes,
    ),
];

/// What remote stores share, if there are any.
pub(super) fn report(stores: &Stores) -> Option<RemoteReport> {
    let remote = stores.remote()?;
    let fetcher = remote.fetcher();
    let hedges = HEDGES.iter();
    Some(RemoteReport {
        fetches_under_way: fetcher.under_way() as u64,
        hedges: hedges
            .map(|(what, of)| (*what, of(&fetcher.counts).load(Relaxed)))
            .collect(),
        cache_bytes: remote.cache().used(),
        cache_size_bytes: remote.cache().size(),
    })
}

/// What there is to say of a store if it is remote.
pub(super) fn origin_report(store: &Store) -> Option<OriginReport> {
    let origin = store.origin()?;
    let requests = origin.bucket().requests();
    Some(OriginReport {
        requests: Kind::ALL
            .iter()
            .map(|kind| (kind.name(), requests.of(*kind)))
            .collect(),
        fetches: origin.counts.fetches.load(Relaxed),
        fetches_failed: origin.counts.failed.load(Relaxed),
        fetched_bytes: origin.counts.fetched_bytes.load(Relaxed),
        first_byte_p95_ms: origin
            .pace
            .first_byte_p95()
            .map(|time| time.as_secs_f64() * 1000.0),
    })
}

/// The families of remote stores, if there are any.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, stores: &Stores) -> fmt::Result {
    let Some(remote) = stores.remote() else {
        return Ok(());
    };
    let origins = || {
        let stores = stores.stores().iter();
        stores.filter_map(|store| Some((store.name(), store.origin()?)))
    };
    let mut metrics = encoder.encode_descriptor(
        "remote_requests",
        "Requests to a remote store, by kind: they cost money",
        None,
        MetricType::Counter,
    )?;
    for (store, origin) in origins() {
        for kind in Kind::ALL {
            let labels = [("store", store.clone()), ("kind", kind.name().to_owned())];
            let counter = ConstCounter::new(origin.bucket().requests().of(kind));
            counter.encode(metrics.encode_family(&labels)?)?;
        }
    }
    for (family, help, of) in NUMBERS {
        let mut metrics = encoder.encode_descriptor(family, help, None, MetricType::Counter)?;
        for (store, origin) in origins() {
            let counter = ConstCounter::new(of(&origin.counts).load(Relaxed));
            counter.encode(metrics.encode_family(&[("store", store)])?)?;
        }
    }
    let mut metrics = encoder.encode_descriptor(
        "remote_first_byte_p95_seconds",
        "The time within which 95 of 100 first bytes of a remote store came lately",
        None,
        MetricType::Gauge,
    )?;
    for (store, origin) in origins() {
        if let Some(time) = origin.pace.first_byte_p95() {
            let gauge = ConstGauge::new(time.as_secs_f64());
            gauge.encode(metrics.encode_family(&[("store", store)])?)?;
        }
    }
    let mut metrics = encoder.encode_descriptor(
        "hedges",
        "Other shares that were fetched since a store was late, by what became of it",
        None,
        MetricType::Counter,
    )?;
    for (what, of) in HEDGES {
        let counter = ConstCounter::new(of(&remote.fetcher().counts).load(Relaxed));
        counter.encode(metrics.encode_family(&[("what", what)])?)?;
    }
    let gauges = [
        (
            "fetches_under_way",
            "Fetches from remote stores that are under way",
            remote.fetcher().under_way() as u64,
        ),
        (
            "cache_bytes",
            "Bytes of shares in the cache",
            remote.cache().used(),
        ),
        (
            "cache_size_bytes",
            "Bytes that the cache may take",
            remote.cache().size(),
        ),
    ];
    for (name, help, value) in gauges {
        let gauge = ConstGauge::new(value as i64);
        gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    Ok(())
}
