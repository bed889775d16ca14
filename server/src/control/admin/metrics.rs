//! The cores' counters in the Prometheus text format (OpenMetrics).

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::super::{access_log, logging};
use super::memory;
use super::remote;
use super::stores as reports;
use crate::control::state::ServerState;
use crate::stats::{
    BOUNDS_MS, CoreStats, Histogram, Kind, METHOD_NAMES, Phase, SCALARS, STATUS_CODES,
};
use crate::stores::{State, Stores};

/// The media type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text.
pub(super) fn encode(server: Arc<ServerState>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry
        .sub_registry_with_prefix("penstock")
        .register_collector(Box::new(CoresCollector(Arc::clone(&server))));
    registry.register_collector(Box::new(RequestsCollector(server)));
    let mut output = String::new();
    text::encode(&mut output, &registry)?;
    Ok(output)
}

/// What OpenTelemetry has a name for, of all cores together.
struct RequestsCollector(Arc<ServerState>);

impl fmt::Debug for RequestsCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestsCollector").finish_non_exhaustive()
    }
}

impl Collector for RequestsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cores = &self.0.cores;
        let mut metrics = encoder.encode_descriptor(
            "http_server_request_duration",
            "From the arrival of a request's head until the kernel had all of the response",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (method, method_name) in METHOD_NAMES.iter().enumerate() {
            for (at, code) in STATUS_CODES.iter().enumerate() {
                let sum = Summed::of(cores, |stats| &stats.durations[method][at]);
                // Most of them never occur.
                if sum.count > 0 {
                    let labels = [
                        ("http_request_method", (*method_name).to_owned()),
                        ("http_response_status_code", code.to_string()),
                    ];
                    sum.encode(metrics.encode_family(&labels)?)?;
                }
            }
        }
        let metric = encoder.encode_descriptor(
            "http_server_time_to_first_byte",
            "From the arrival of a request's head until the kernel had the first byte of the response",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        Summed::of(cores, |stats| &stats.first_byte).encode(metric)?;
        let active = [Phase::Opening, Phase::Sending];
        let active: u64 = (cores.iter())
            .flat_map(|stats| Phase::ALL.iter().zip(&stats.connections))
            .filter(|(phase, _)| active.contains(phase))
            .map(|(_, cell)| cell.get())
            .sum();
        let gauge = ConstGauge::new(active as i64);
        gauge.encode(encoder.encode_descriptor(
            "http_server_active_requests",
            "Requests whose head has arrived and whose response is not all sent",
            None,
            MetricType::Gauge,
        )?)
    }
}

/// A histogram of all cores.
struct Summed {
    /// Upper bounds in seconds, and how many lie in each bucket.
    buckets: Vec<(f64, u64)>,
    count: u64,
    seconds: f64,
}

impl Summed {
    fn of(cores: &[Arc<CoreStats>], of: impl Fn(&CoreStats) -> &Histogram) -> Summed {
        let bounds = BOUNDS_MS.iter().map(|bound| *bound as f64 / 1e3);
        let mut buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).map(|b| (b, 0)).collect();
        let mut micros = 0;
        for stats in cores {
            let histogram = of(stats);
            for ((_, count), cell) in buckets.iter_mut().zip(&histogram.buckets) {
                *count += cell.get();
            }
            micros += histogram.sum_us.get();
        }
        Summed {
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
            seconds: micros as f64 / 1e6,
        }
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<NoLabelSet>(self.seconds, self.count, &self.buckets, None)
    }
}

struct CoresCollector(Arc<ServerState>);

impl fmt::Debug for CoresCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoresCollector").finish_non_exhaustive()
    }
}

impl Collector for CoresCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cores = &self.0.cores;
        for scalar in SCALARS {
            family(
                &mut encoder,
                cores,
                scalar.name,
                scalar.help,
                scalar.kind,
                |stats| vec![(None, (scalar.cell)(stats).get())],
            )?;
        }
        family(
            &mut encoder,
            cores,
            "connections",
            "Open connections by what they are doing",
            Kind::Gauge,
            |stats| {
                let cells = stats.connections.iter();
                Phase::ALL
                    .iter()
                    .zip(cells)
                    .map(|(phase, cell)| (Some(("phase", phase.name().to_owned())), cell.get()))
                    .collect()
            },
        )?;
        family(
            &mut encoder,
            cores,
            "responses",
            "Finished responses by status",
            Kind::Counter,
            |stats| {
                let cells = stats.responses.iter();
                STATUS_CODES
                    .iter()
                    .zip(cells)
                    .map(|(code, cell)| (Some(("status", code.to_string())), cell.get()))
                    .collect()
            },
        )?;
        encode_stores(&mut encoder, &self.0.stores())?;
        remote::encode(&mut encoder, &self.0.stores())?;
        encode_reloads(&mut encoder, &self.0)?;
        let info = ConstGauge::new(1i64);
        let mut metric = encoder.encode_descriptor(
            "io_backend",
            "How the cores talk to the kernel",
            None,
            MetricType::Gauge,
        )?;
        info.encode(metric.encode_family(&[("backend", self.0.backends.io.to_string())])?)?;
        let mut metric = encoder.encode_descriptor(
            "zero_copy",
            "When pieces are sent zero-copy",
            None,
            MetricType::Gauge,
        )?;
        info.encode(metric.encode_family(&[("when", self.0.backends.zero_copy.to_string())])?)?;
        let up = ConstGauge::new(self.0.started.elapsed().as_secs() as i64);
        up.encode(encoder.encode_descriptor(
            "uptime_seconds",
            "Seconds since the server started",
            None,
            MetricType::Gauge,
        )?)?;
        let lines = [
            (
                "log_lines_dropped",
                "Log lines that could not be written",
                logging::dropped_lines(),
            ),
            (
                "log_lines_left_out",
                "Log lines left out because the same thing, or very many, failed within a minute",
                logging::left_out_lines(),
            ),
            (
                "access_log_lines_unwritten",
                "Lines of the access log that its file did not take",
                access_log::unwritten_lines(),
            ),
        ];
        for (name, help, count) in lines {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        for (name, help, value) in survey_gauges(&self.0) {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in memory::gauges(&self.0) {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// What the survey of all objects found: name, help, value.
fn survey_gauges(server: &ServerState) -> [(&'static str, &'static str, u64); 6] {
    let found = server.survey.total();
    [
        (
            "survey_rounds",
            "How often all objects were looked at in the background",
            server.survey.rounds(),
        ),
        (
            "survey_objects",
            "Objects in the stores, by the latest look at each",
            found.objects,
        ),
        (
            "survey_degraded_objects",
            "Objects with fewer shares than they had, in stores that could be asked",
            found.degraded,
        ),
        (
            "survey_objects_without_redundancy",
            "Objects with exactly k shares left",
            found.without_redundancy,
        ),
        (
            "survey_unreadable_objects",
            "Objects with fewer than k shares left",
            found.unreadable,
        ),
        (
            "survey_too_large_objects",
            "Objects that this server can't serve for lack of memory, pool buffers or share files",
            found.too_large,
        ),
    ]
}

/// The families of the stores, with a sample per store.
fn encode_stores(encoder: &mut DescriptorEncoder<'_>, stores: &Stores) -> fmt::Result {
    let mut metrics = encoder.encode_descriptor(
        "store_serving",
        "Whether a store serves (1) or is suspended (0), and what it does",
        None,
        MetricType::Gauge,
    )?;
    for store in stores.all() {
        let state = reports::state(store);
        let labels = [("store", store.name()), ("state", state.name().to_owned())];
        let serving = ConstGauge::new(i64::from(state == State::Serving));
        serving.encode(metrics.encode_family(&labels)?)?;
    }
    for number in reports::NUMBERS {
        let metric_type = match number.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let mut metrics = encoder.encode_descriptor(number.name, number.help, None, metric_type)?;
        for store in stores.all() {
            let value = (number.get)(store.counts());
            let labels = [("store", store.name())];
            let metric = metrics.encode_family(&labels)?;
            match number.kind {
                Kind::Counter => ConstCounter::new(value).encode(metric)?,
                Kind::Gauge => ConstGauge::new(value as i64).encode(metric)?,
            }
        }
    }
    let mut metrics = encoder.encode_descriptor(
        "store_latency_seconds",
        "The time within which so many of a store's calls ended, rounded up to a power of two",
        None,
        MetricType::Gauge,
    )?;
    for store in stores.all() {
        for (name, percent) in [("0.5", 50), ("0.99", 99)] {
            let Some(time) = store.counts().percentile(percent) else {
                continue;
            };
            let labels = [("store", store.name()), ("quantile", name.to_owned())];
            let gauge = ConstGauge::new(time.as_secs_f64());
            gauge.encode(metrics.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// How reloads went.
fn encode_reloads(encoder: &mut DescriptorEncoder<'_>, server: &ServerState) -> fmt::Result {
    let (loaded, refused, good) = {
        let reloads = server.reloads();
        let good = reloads
            .last
            .as_ref()
            .is_none_or(|last| last.error.is_none());
        (reloads.loaded, reloads.refused, good)
    };
    let mut metrics = encoder.encode_descriptor(
        "config_reloads",
        "Times that the configuration was read again, by outcome",
        None,
        MetricType::Counter,
    )?;
    for (outcome, count) in [("loaded", loaded), ("refused", refused)] {
        let counter = ConstCounter::new(count);
        counter.encode(metrics.encode_family(&[("outcome", outcome)])?)?;
    }
    let gauge = ConstGauge::new(i64::from(good));
    gauge.encode(encoder.encode_descriptor(
        "config_last_reload_good",
        "Whether the configuration could be used when it was read last (1) or not (0)",
        None,
        MetricType::Gauge,
    )?)
}

type Label = Option<(&'static str, String)>;

/// One family with a sample per core and label.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    cores: &[Arc<CoreStats>],
    name: &str,
    help: &str,
    kind: Kind,
    samples: impl Fn(&CoreStats) -> Vec<(Label, u64)>,
) -> fmt::Result {
    let metric_type = match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    };
    let mut metrics = encoder.encode_descriptor(name, help, None, metric_type)?;
    for (number, stats) in cores.iter().enumerate() {
        for (label, value) in samples(stats) {
            let mut labels = vec![("core", number.to_string())];
            labels.extend(label);
            let metric = metrics.encode_family(&labels)?;
            match kind {
                Kind::Counter => ConstCounter::new(value).encode(metric)?,
                Kind::Gauge => ConstGauge::new(value as i64).encode(metric)?,
            }
        }
    }
    Ok(())
}
