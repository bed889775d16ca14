//! What is counted of one store: by any thread, so with atomics. Only calls that reach the store are counted; what the
//! page cache has costs nothing here.

use std::array;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::memory::limits::{STORE_RECENT_CALLS, STORE_RECENT_CALLS_LEAST};

/// Upper bounds of the histogram's places, in microseconds: powers of two up to 33 s, then all that is longer.
const PLACES: usize = 20;
/// The first of them.
const FIRST_MICROSECONDS: u64 = 64;

/// The counts of one store.
#[derive(Debug, Default)]
pub struct Counts {
    /// Looks: listings with the headers that they read, and questions whether something changed.
    pub looks: AtomicU64,
    /// Reads that the page cache did not answer.
    pub reads: AtomicU64,
    /// Bytes that they brought.
    pub read_bytes: AtomicU64,
    /// Calls that failed.
    pub errors: AtomicU64,
    /// Calls that were given up.
    pub timeouts: AtomicU64,
    /// Times it was suspended.
    pub suspensions: AtomicU64,
    /// Calls that were given up and have not ended yet.
    pub hung: AtomicUsize,
    /// Share files that are open.
    pub open_files: AtomicUsize,
    /// Bytes that its file system has free, and has in all.
    pub free_bytes: AtomicU64,
    /// See `free_bytes`.
    pub total_bytes: AtomicU64,
    /// When a read that took long ended last, in milliseconds since [`START`], increased by one: 0 is never.
    long_read: AtomicU64,
    latencies: Latencies,
    recent: Recent,
}

/// What times are counted from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How long calls took.
#[derive(Debug, Default)]
struct Latencies([AtomicU64; PLACES]);

/// How long the last calls took, in microseconds, each increased by one: 0 is none.
#[derive(Debug, Default)]
struct Recent {
    times: [AtomicU32; STORE_RECENT_CALLS],
    next: AtomicUsize,
}

impl Counts {
    /// Notes that a read that took long ended just now.
    pub fn note_long_read(&self) {
        let now = START.elapsed().as_millis() as u64;
        self.long_read.store(now + 1, Relaxed);
    }

    /// How long ago a read that took long ended last.
    pub fn since_long_read(&self) -> Option<Duration> {
        let last = self.long_read.load(Relaxed).checked_sub(1)?;
        Some(START.elapsed().saturating_sub(Duration::from_millis(last)))
    }

    /// Notes how long a call took.
    pub fn note(&self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let above = microseconds / FIRST_MICROSECONDS;
        let place = (u64::BITS - above.leading_zeros()) as usize;
        self.latencies.0[place.min(PLACES - 1)].fetch_add(1, Relaxed);
        let at = self.recent.next.fetch_add(1, Relaxed) % STORE_RECENT_CALLS;
        let time = u32::try_from(microseconds).unwrap_or(u32::MAX);
        self.recent.times[at].store(time.saturating_add(1), Relaxed);
    }

    /// How long the last calls took as a rule; `None` if there were too few.
    pub fn typical(&self) -> Option<Duration> {
        let times = self.recent.times.iter().map(|time| time.load(Relaxed));
        let mut times: Vec<u32> = times.filter(|&time| time > 0).collect();
        if times.len() < STORE_RECENT_CALLS_LEAST {
            return None;
        }
        times.sort_unstable();
        let median = times[times.len() / 2] - 1;
        Some(Duration::from_micros(median.into()))
    }

    /// Forgets the last calls: what comes back starts anew.
    pub fn forget_recent(&self) {
        for time in &self.recent.times {
            time.store(0, Relaxed);
        }
    }

    /// How long all calls took so far.
    pub fn times(&self) -> Times {
        Times(array::from_fn(|at| self.latencies.0[at].load(Relaxed)))
    }

    /// The time within which so many of a hundred calls ended, rounded up to a place of the histogram.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        self.times().percentile(percent)
    }
}

/// How long calls took, as it was counted at one time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times([u64; PLACES]);

impl Times {
    /// Those that were not yet counted `before`.
    pub fn since(&self, before: &Times) -> Times {
        Times(array::from_fn(|at| self.0[at].saturating_sub(before.0[at])))
    }

    /// The time within which so many of a hundred ended, rounded up to a place of the histogram.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u64 = self.0.iter().sum();
        let wanted = (all * percent).div_ceil(100);
        let mut seen = 0;
        for (at, count) in self.0.into_iter().enumerate() {
            seen += count;
            if seen >= wanted && all > 0 {
                return Some(Duration::from_micros(FIRST_MICROSECONDS << at));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_typical_is_the_median_of_the_last_calls() {
        let counts = Counts::default();
        counts.note(MS);
        counts.note(MS);
        assert_eq!(counts.typical(), None, "too few");
        counts.note(900 * MS);
        assert_eq!(counts.typical(), Some(MS), "one is no rule");
        for _ in 0..3 {
            counts.note(300 * MS);
        }
        assert_eq!(counts.typical(), Some(300 * MS));
        counts.forget_recent();
        assert_eq!(counts.typical(), None);
    }

    #[test]
    fn percentiles_are_upper_bounds_within_a_factor_of_two() {
        let counts = Counts::default();
        assert_eq!(counts.percentile(50), None);
        for ms in 1..=100 {
            counts.note(ms * MS);
        }
        for (percent, exact) in [(1, 1), (50, 50), (99, 99), (100, 100)] {
            let found = counts.percentile(percent).unwrap();
            assert!(found >= exact * MS && found <= 2 * exact * MS, "{found:?}");
        }
        let before = counts.times();
        assert_eq!(counts.times().since(&before).percentile(50), None);
        counts.note(Duration::from_secs(1_000_000));
        assert!(counts.times().since(&before).percentile(1).unwrap() > Duration::from_secs(30));
        assert!(counts.percentile(100).unwrap() > Duration::from_secs(30));
    }
}
