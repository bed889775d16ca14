//! How fast share files are read: a token bucket over the bytes, and their count.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts the bytes that are read from share files, and holds readers back so that they keep to a rate. Clones count
/// together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: AtomicU64,
    bucket: Option<Mutex<Bucket>>,
}

impl Pace {
    /// At most so many bytes per second, or as fast as it goes.
    pub(crate) fn new(rate: Option<u64>) -> Pace {
        Pace(Arc::new(Inner {
            bytes: AtomicU64::new(0),
            bucket: rate.map(|rate| Mutex::new(Bucket::new(rate, Instant::now()))),
        }))
    }

    /// Waits until `bytes` may be read.
    pub(crate) fn wait(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Relaxed);
        if let Some(bucket) = &self.0.bucket {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = bucket.take(bytes, Instant::now());
            drop(bucket);
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
        }
    }

    /// Bytes that were read.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }
}

/// The part of a second for which a reader that waited for something else may make up.
const BURST_PART: f64 = 8.0;

/// A token bucket that may be overdrawn: a read of any length goes through, and the ones after it wait.
#[derive(Debug)]
struct Bucket {
    /// Bytes per second.
    rate: f64,
    /// Bytes that may be read at once; below 0 if more were read than may be.
    level: f64,
    /// When the level was that.
    last: Instant,
}

impl Bucket {
    fn new(rate: u64, now: Instant) -> Bucket {
        Bucket {
            rate: rate.max(1) as f64,
            level: 0.0,
            last: now,
        }
    }

    /// Takes `bytes` out, and returns how long to wait before they are read.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.rate / BURST_PART);
        self.last = now;
        self.level -= bytes as f64;
        // A rate of a byte per second must not make a time that no clock has.
        Duration::from_secs_f64((-self.level / self.rate).clamp(0.0, 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_any_length_keep_to_the_rate() {
        let rate = 1 << 20;
        let start = Instant::now();
        for length in [1, 4096, 1 << 20, 5 << 20] {
            let mut bucket = Bucket::new(rate, start);
            let mut now = start;
            let mut bytes = 0;
            for _ in 0..1000 {
                now += bucket.take(length, now);
                bytes += length;
                let most = (now - start).as_secs_f64() * rate as f64;
                assert!(bytes as f64 <= most + 1.0, "{bytes} bytes in {most}");
            }
            let wanted = bytes as f64 / rate as f64;
            let took = (now - start).as_secs_f64();
            assert!((took - wanted).abs() < 1e-3, "{took} s, not {wanted}");
        }
    }

    #[test]
    fn a_pause_is_made_up_for_in_part() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(125, later), Duration::ZERO);
        assert_eq!(bucket.take(1000, later), Duration::from_secs(1));
        // The slowest rate there is, and the longest read.
        let mut bucket = Bucket::new(0, start);
        assert!(bucket.take(u64::MAX, start) > Duration::from_secs(1 << 20));
    }

    #[test]
    fn clones_count_together() {
        let pace = Pace::new(None);
        pace.clone().wait(5);
        pace.wait(6);
        assert_eq!(pace.bytes(), 11);
    }
}
