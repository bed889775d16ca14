//! Limits the rate at which a client reads or sends. Time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket of allowed bytes that fills at a rate. Bytes that a slow server leaves unused are kept for half a second
/// only, so that a slow client does not become a fast one to catch up.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: f64,
    burst: f64,
    /// Bytes allowed at `at`; negative after more bytes were taken than allowed.
    allowed: f64,
    at: Instant,
}

impl RateLimit {
    /// `rate` in bytes a second, at least 1.
    pub(crate) fn new(rate: u64, now: Instant) -> RateLimit {
        let rate = rate.max(1) as f64;
        RateLimit {
            rate,
            burst: (rate / 2.0).max(1.0),
            allowed: 0.0,
            at: now,
        }
    }

    /// Bytes that may be taken at `now`. It is 0 until the bytes of a quarter of a second have gathered (at least one
    /// byte, at most 64 KiB), so that a slow client wakes a few times a second and not for each byte.
    pub(crate) fn allowed(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.allowed = (self.allowed + passed * self.rate).min(self.burst);
        self.at = self.at.max(now);
        if self.allowed + 1e-6 < self.quantum() {
            0
        } else {
            (self.allowed + 1e-6) as u64
        }
    }

    /// The time from which [`allowed`](Self::allowed) is more than 0; to be called after `allowed` returned 0.
    pub(crate) fn ready_at(&self) -> Instant {
        let wait = ((self.quantum() - self.allowed) / self.rate).max(0.0);
        // A millisecond is the timer's resolution. The cap keeps debts of years from overflowing.
        self.at + Duration::from_secs_f64(wait.min(1e6)).max(Duration::from_millis(1))
    }

    pub(crate) fn record(&mut self, bytes: u64) {
        self.allowed -= bytes as f64;
    }

    fn quantum(&self) -> f64 {
        (self.rate / 4.0).clamp(1.0, 65536.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_whatever_the_steps() {
        for rate in [1, 10, 2_000, 100_000, 50_000_000] {
            let start = Instant::now();
            let mut limit = RateLimit::new(rate, start);
            let (mut now, mut taken) = (start, 0);
            while now < start + Duration::from_secs(20) {
                let bytes = limit.allowed(now);
                if bytes == 0 {
                    assert!(limit.ready_at() > now);
                    now = limit.ready_at();
                } else {
                    limit.record(bytes);
                    taken += bytes;
                }
            }
            let ideal = rate * 20;
            assert!(
                taken <= ideal + rate / 2 + 2 && taken + rate / 2 + 2 >= ideal,
                "rate {rate}: {taken} of {ideal}"
            );
        }
    }

    #[test]
    fn unused_time_is_lost_and_debts_are_paid() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1000, start);
        assert_eq!(limit.allowed(start), 0);
        assert_eq!(limit.allowed(start + Duration::from_secs(3600)), 500);
        limit.record(2500);
        let ready = limit.ready_at();
        assert_eq!(ready - start, Duration::from_millis(3_600_000 + 2250));
        assert_eq!(limit.allowed(ready), 250);
    }
}
