//! The last quarter of an hour: one sample every five seconds, in memory of a fixed size.
//!
//! The admin thread takes them from the cores' counters, so no core does anything for it, and keeps what changed since the
//! sample before: a counter that starts anew, or a sample that comes late, spoils none but its own. A server that takes
//! over from another begins with an empty history.
//!
//! `/history` has them as columns of one length, the oldest sample first:
//!
//! | key | what, of each sample |
//! |---|---|
//! | `now` | the server's clock, in seconds since 1970; `every_seconds` is how far samples are apart as a rule |
//! | `at` | when it was taken, by the same clock |
//! | `seconds` | how long it covers; more than usual after a gap |
//! | `sent_bytes` | bytes that the kernel took for clients |
//! | `responses` | finished responses by class: `2xx` to `5xx` |
//! | `first_byte_ms` | the time to the first byte within which half of the responses came (`p50`), and 99 of 100 (`p99`), `null` if none came. They are read from the histogram of the metrics, as evenly spread within each of its buckets, of which the first ends at 5 ms |
//! | `memory` | `resident_bytes`, `socket_bytes` and `credit_lent_bytes` at its end |
//! | `connections` | open connections by what they did at its end |
//! | `stores` | of each store its `path`; `states` at its end, as places in `store_states`; and `p99_ms`, the time within which 99 of 100 calls ended, rounded up to a power of two. `null` where it was no store yet, or no call ended |

use std::array;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::memory;
use crate::control::state::ServerState;
use crate::memory::limits::HISTORY_SAMPLES;
use crate::stats::{BOUNDS_MS, CoreStats, Phase, STATUS_CODES};
use crate::stores::counts::Times;
use crate::stores::{Cause, State, Store};

/// How far samples are apart.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// The classes of status codes, by their first digit.
const CLASSES: [(&str, u16); 4] = [("2xx", 2), ("3xx", 3), ("4xx", 4), ("5xx", 5)];
/// What is told of the times to the first byte.
const QUANTILES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];
/// The states that a store can be in.
const STATES: [State; 5] = [
    State::Serving,
    State::Suspended(Cause::Missing),
    State::Suspended(Cause::Hung),
    State::Suspended(Cause::Failing),
    State::Suspended(Cause::Slow),
];

/// What grows with every response, of all cores together.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    sent_bytes: u64,
    responses: [u64; CLASSES.len()],
    first_byte: [u64; BOUNDS_MS.len() + 1],
}

/// What is as it is at the moment.
#[derive(Clone, Copy, Debug, Default)]
struct Gauges {
    resident_bytes: u64,
    socket_bytes: u64,
    credit_lent_bytes: u64,
    connections: [u64; Phase::ALL.len()],
}

/// One sample.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    lasted: Duration,
    sent_bytes: u64,
    responses: [u64; CLASSES.len()],
    first_byte_ms: [Option<f32>; QUANTILES.len()],
    gauges: Gauges,
}

/// One store at one sample.
#[derive(Clone, Copy, Debug)]
struct StoreSample {
    state: State,
    p99: Option<Duration>,
}

/// One store's samples. A store that came later has fewer than the others.
struct StoreHistory {
    store: Weak<Store>,
    before: Times,
    samples: VecDeque<StoreSample>,
}

/// The samples, and what the next one is compared with.
pub(super) struct History {
    samples: VecDeque<Sample>,
    before: (Instant, Counters),
    stores: Vec<StoreHistory>,
}

impl History {
    /// None yet: the first sample will cover all since the start.
    pub(super) fn new(started: Instant) -> History {
        History {
            samples: VecDeque::with_capacity(HISTORY_SAMPLES),
            before: (started, Counters::default()),
            stores: Vec::new(),
        }
    }

    /// Takes a sample of a server.
    pub(super) fn take(&mut self, server: &ServerState, now: Instant) {
        let stores = server.stores();
        self.push(now, Counters::of(&server.cores), Gauges::of(server));
        self.stores
            .retain(|known| stores.all().any(|store| known.is(store)));
        for store in stores.all() {
            let times = store.counts().times();
            let sample = |before| StoreSample {
                state: store.report().state,
                p99: times.since(before).percentile(99),
            };
            match self.stores.iter_mut().find(|known| known.is(store)) {
                Some(known) => {
                    add(&mut known.samples, sample(&known.before));
                    known.before = times;
                }
                None => {
                    let mut samples = VecDeque::with_capacity(HISTORY_SAMPLES);
                    add(&mut samples, sample(&Times::default()));
                    self.stores.push(StoreHistory {
                        store: Arc::downgrade(store),
                        before: times,
                        samples,
                    });
                }
            }
        }
    }

    fn push(&mut self, now: Instant, counters: Counters, gauges: Gauges) {
        let (then, before) = std::mem::replace(&mut self.before, (now, counters));
        let first_byte: [u64; BOUNDS_MS.len() + 1] =
            array::from_fn(|at| grown(counters.first_byte[at], before.first_byte[at]));
        let sample = Sample {
            at: now,
            lasted: now.saturating_duration_since(then),
            sent_bytes: grown(counters.sent_bytes, before.sent_bytes),
            responses: array::from_fn(|at| grown(counters.responses[at], before.responses[at])),
            first_byte_ms: QUANTILES.map(|(_, part)| quantile_ms(&first_byte, part)),
            gauges,
        };
        add(&mut self.samples, sample);
    }

    /// What there is, as `/history` shows it, at this time by both clocks.
    pub(super) fn report(&self, now: Instant, clock: SystemTime) -> Report<'_> {
        Report {
            history: self,
            now,
            clock,
        }
    }
}

impl StoreHistory {
    fn is(&self, store: &Arc<Store>) -> bool {
        std::ptr::eq(self.store.as_ptr(), Arc::as_ptr(store))
    }
}

impl Counters {
    fn of(cores: &[Arc<CoreStats>]) -> Counters {
        let mut sum = Counters::default();
        for core in cores {
            sum.sent_bytes += core.sent_bytes.get();
            for (code, cell) in STATUS_CODES.iter().zip(&core.responses) {
                if let Some(at) = CLASSES.iter().position(|(_, digit)| code / 100 == *digit) {
                    sum.responses[at] += cell.get();
                }
            }
            for (count, cell) in sum.first_byte.iter_mut().zip(&core.first_byte.buckets) {
                *count += cell.get();
            }
        }
        sum
    }
}

impl Gauges {
    fn of(server: &ServerState) -> Gauges {
        let sum = |of: &dyn Fn(&CoreStats) -> u64| server.cores.iter().map(|core| of(core)).sum();
        Gauges {
            resident_bytes: memory::resident_bytes(),
            socket_bytes: sum(&|core| core.socket_bytes.get()),
            credit_lent_bytes: memory::credit_lent_bytes(server),
            connections: array::from_fn(|at| sum(&|core| core.connections[at].get())),
        }
    }
}

/// Puts the newest in the place of the oldest, once all places are taken.
fn add<T>(samples: &mut VecDeque<T>, newest: T) {
    if samples.len() == HISTORY_SAMPLES {
        samples.pop_front();
    }
    samples.push_back(newest);
}

/// How much a counter grew. One that is less than before started anew.
fn grown(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// The time within which this part of the counted ones lies, as if those of a bucket were evenly spread in it. What is
/// longer than all bounds counts as the last of them.
fn quantile_ms(buckets: &[u64; BOUNDS_MS.len() + 1], part: f64) -> Option<f32> {
    let all: u64 = buckets.iter().sum();
    let rank = all as f64 * part;
    let (mut seen, mut lower) = (0.0, 0.0);
    for (&count, &bound) in buckets.iter().zip(&BOUNDS_MS) {
        let (count, upper) = (count as f64, bound as f64);
        if count > 0.0 && seen + count >= rank {
            return Some((lower + (upper - lower) * (rank - seen) / count) as f32);
        }
        seen += count;
        lower = upper;
    }
    (all > 0).then_some(lower as f32)
}

/// The answer of `/history`. It is written without a copy of the samples.
pub(super) struct Report<'a> {
    history: &'a History,
    now: Instant,
    clock: SystemTime,
}

/// One value of each sample.
struct Column<'a, T, F>(&'a VecDeque<T>, F);

impl<T, V: Serialize, F: Fn(&T) -> V> Serialize for Column<'_, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

/// Columns with names.
struct Group<'a, F, const N: usize>(&'a VecDeque<Sample>, [&'static str; N], F);

impl<V: Serialize, F: Fn(&Sample, usize) -> V, const N: usize> Serialize for Group<'_, F, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Group(samples, names, of) = self;
        serializer.collect_map((0..N).map(|at| {
            let column = Column(samples, move |sample: &Sample| of(sample, at));
            (names[at], column)
        }))
    }
}

/// One store of a report.
struct StoreReport<'a> {
    known: &'a StoreHistory,
    store: Arc<Store>,
    /// Samples that were taken before it was a store.
    absent: usize,
}

impl StoreReport<'_> {
    /// A value of each sample.
    fn column<V>(&self, of: impl Fn(&StoreSample) -> Option<V>) -> Vec<Option<V>> {
        let absent = std::iter::repeat_with(|| None).take(self.absent);
        absent.chain(self.known.samples.iter().map(of)).collect()
    }
}

impl Serialize for StoreReport<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = |sample: &StoreSample| STATES.iter().position(|state| *state == sample.state);
        let p99 = |sample: &StoreSample| Some(sample.p99?.as_secs_f64() * 1e3);
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("path", &self.store.name())?;
        map.serialize_entry("states", &self.column(place))?;
        map.serialize_entry("p99_ms", &self.column(p99))?;
        map.end()
    }
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let samples = &self.history.samples;
        let clock = self.clock.duration_since(SystemTime::UNIX_EPOCH);
        let clock = clock.unwrap_or_default();
        let at = |sample: &Sample| {
            let age = self.now.saturating_duration_since(sample.at);
            clock.saturating_sub(age).as_secs()
        };
        let stores = self.history.stores.iter().filter_map(|known| {
            Some(StoreReport {
                known,
                store: known.store.upgrade()?,
                absent: samples.len().saturating_sub(known.samples.len()),
            })
        });
        let seconds = |sample: &Sample| (sample.lasted.as_secs_f64() * 10.0).round() / 10.0;
        let responses = Group(
            samples,
            CLASSES.map(|(name, _)| name),
            |sample: &Sample, at: usize| sample.responses[at],
        );
        let first_byte = Group(
            samples,
            QUANTILES.map(|(name, _)| name),
            |sample: &Sample, at: usize| sample.first_byte_ms[at],
        );
        let memory = ["resident_bytes", "socket_bytes", "credit_lent_bytes"];
        let memory = Group(samples, memory, |sample: &Sample, at: usize| {
            let gauges = &sample.gauges;
            [
                gauges.resident_bytes,
                gauges.socket_bytes,
                gauges.credit_lent_bytes,
            ][at]
        });
        let phases = Phase::ALL.map(Phase::name);
        let connections = Group(samples, phases, |sample: &Sample, at: usize| {
            sample.gauges.connections[at]
        });
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("now", &clock.as_secs())?;
        map.serialize_entry("every_seconds", &EVERY.as_secs())?;
        map.serialize_entry("at", &Column(samples, at))?;
        map.serialize_entry("seconds", &Column(samples, seconds))?;
        map.serialize_entry("sent_bytes", &Column(samples, |s: &Sample| s.sent_bytes))?;
        map.serialize_entry("responses", &responses)?;
        map.serialize_entry("first_byte_ms", &first_byte)?;
        map.serialize_entry("memory", &memory)?;
        map.serialize_entry("connections", &connections)?;
        map.serialize_entry("store_states", &STATES.map(State::name))?;
        map.serialize_entry("stores", &stores.collect::<Vec<_>>())?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::limits::{HISTORY_BYTES, HISTORY_REPLY_BYTES, HISTORY_STORE_BYTES};
    use serde_json::Value;

    fn sent(sent_bytes: u64) -> Counters {
        Counters {
            sent_bytes,
            ..Counters::default()
        }
    }

    /// The time of the last sample, by the other clock.
    fn clock() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn report(history: &History) -> Value {
        let (last, _) = history.before;
        serde_json::to_value(history.report(last, clock())).unwrap()
    }

    #[test]
    fn the_newest_take_the_place_of_the_oldest() {
        let start = Instant::now();
        let mut history = History::new(start);
        let capacity = history.samples.capacity();
        let all = HISTORY_SAMPLES as u64 + 7;
        for number in 1..=all {
            // Sample n sent n bytes.
            let so_far = number * (number + 1) / 2;
            history.push(
                start + number as u32 * EVERY,
                sent(so_far),
                Gauges::default(),
            );
        }
        assert_eq!(history.samples.capacity(), capacity);
        let sent: Vec<u64> = history.samples.iter().map(|s| s.sent_bytes).collect();
        assert_eq!(sent, (8..=all).collect::<Vec<_>>());
        assert!(history.samples.iter().all(|s| s.lasted == EVERY));
        let report = report(&history);
        for column in ["at", "seconds", "sent_bytes"] {
            let column = report[column].as_array().unwrap();
            assert_eq!(column.len(), HISTORY_SAMPLES);
        }
    }

    #[test]
    fn a_counter_that_starts_anew_counts_what_it_has_since() {
        let start = Instant::now();
        let mut history = History::new(start);
        for (number, so_far) in [1000, 1500, 20, 30].into_iter().enumerate() {
            history.push(
                start + (number as u32 + 1) * EVERY,
                sent(so_far),
                Gauges::default(),
            );
        }
        assert_eq!(
            report(&history)["sent_bytes"],
            serde_json::json!([1000, 500, 20, 10])
        );
    }

    #[test]
    fn a_gap_is_one_sample_that_lasted_longer() {
        let start = Instant::now();
        let mut history = History::new(start);
        for (seconds, so_far) in [(5, 10), (10, 20), (70, 80), (75, 90)] {
            history.push(
                start + Duration::from_secs(seconds),
                sent(so_far),
                Gauges::default(),
            );
        }
        let report = report(&history);
        assert_eq!(report["seconds"], serde_json::json!([5.0, 5.0, 60.0, 5.0]));
        assert_eq!(report["sent_bytes"], serde_json::json!([10, 10, 60, 10]));
        let at = [
            1_799_999_930_u64,
            1_799_999_935,
            1_799_999_995,
            1_800_000_000,
        ];
        assert_eq!(report["at"], serde_json::json!(at));
        assert_eq!(report["now"], 1_800_000_000_u64);
    }

    #[test]
    fn quantiles_are_those_of_one_sample_alone() {
        let start = Instant::now();
        let mut history = History::new(start);
        let mut counters = Counters::default();
        // 100 within 5 ms, then none, then one of 10 to 25 ms, then one that is longer than all bounds.
        for (number, bucket) in [(0, Some(0)), (1, None), (2, Some(2)), (3, Some(18))] {
            if let Some(bucket) = bucket {
                counters.first_byte[bucket] += if bucket == 0 { 100 } else { 1 };
            }
            history.push(start + (number + 1) * EVERY, counters, Gauges::default());
        }
        let p50: Vec<_> = history.samples.iter().map(|s| s.first_byte_ms[0]).collect();
        assert_eq!(p50, [Some(2.5), None, Some(17.5), Some(1_800_000.0)]);
        let p99 = history.samples[0].first_byte_ms[1].unwrap();
        assert!((p99 - 4.95).abs() < 1e-3, "{p99}");
        assert_eq!(report(&history)["first_byte_ms"]["p50"][1], Value::Null);
    }

    #[test]
    fn memory_and_replies_are_within_the_plan() {
        const SAMPLE: u64 = size_of::<Sample>() as u64;
        const STORE_SAMPLE: u64 = size_of::<StoreSample>() as u64;
        let samples = HISTORY_SAMPLES as u64;
        assert!(samples * SAMPLE + size_of::<History>() as u64 <= HISTORY_BYTES);
        assert!(samples * STORE_SAMPLE + size_of::<StoreHistory>() as u64 <= HISTORY_STORE_BYTES);
        // A terabyte and a hundred million requests each sample, of a million connections.
        let start = Instant::now();
        let mut history = History::new(start);
        let huge = 1 << 40;
        let gauges = Gauges {
            resident_bytes: huge,
            socket_bytes: huge,
            credit_lent_bytes: huge,
            connections: [1 << 20; Phase::ALL.len()],
        };
        for number in 1..=samples {
            let counters = Counters {
                sent_bytes: number * huge,
                responses: [number * 100_000_000; CLASSES.len()],
                first_byte: [number * 3; BOUNDS_MS.len() + 1],
            };
            history.push(start + number as u32 * EVERY, counters, gauges);
        }
        let (last, _) = history.before;
        let text = serde_json::to_string(&history.report(last, clock())).unwrap();
        assert!(text.len() <= HISTORY_REPLY_BYTES, "{}", text.len());
    }
}
