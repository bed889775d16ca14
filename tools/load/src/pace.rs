//! How many bytes a client that moves at a rate may take now. Time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket of allowed bytes that fills at a rate. What a slow server leaves unused is kept for half
/// a second only: a slow client does not become a fast one to catch up.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate: f64,
    burst: f64,
    /// Bytes allowed at `at`; negative after taking more than was allowed.
    allowed: f64,
    at: Instant,
}

impl Pacer {
    /// `rate` in bytes a second, at least 1.
    pub(crate) fn new(rate: u64, now: Instant) -> Pacer {
        let rate = rate.max(1) as f64;
        Pacer {
            rate,
            burst: (rate / 2.0).max(1.0),
            allowed: 0.0,
            at: now,
        }
    }

    /// Bytes that may be taken at `now`: 0 until a quarter of a second's worth (at least one byte, at
    /// most 64 KiB) has gathered, so that a slow client wakes a few times a second and not per byte.
    pub(crate) fn allowed(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.allowed = (self.allowed + passed * self.rate).min(self.burst);
        self.at = self.at.max(now);
        if self.allowed + 1e-6 < self.turn() {
            0
        } else {
            (self.allowed + 1e-6) as u64
        }
    }

    /// When [`allowed`](Self::allowed), asked just before, will be more than 0.
    pub(crate) fn ready_at(&self) -> Instant {
        let wait = ((self.turn() - self.allowed) / self.rate).max(0.0);
        // A millisecond is the timer's grain; debts of years are not worth an overflow.
        self.at + Duration::from_secs_f64(wait.min(1e6)).max(Duration::from_millis(1))
    }

    pub(crate) fn took(&mut self, bytes: u64) {
        self.allowed -= bytes as f64;
    }

    fn turn(&self) -> f64 {
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
            let mut pacer = Pacer::new(rate, start);
            let (mut now, mut taken) = (start, 0);
            while now < start + Duration::from_secs(20) {
                let bytes = pacer.allowed(now);
                if bytes == 0 {
                    assert!(pacer.ready_at() > now);
                    now = pacer.ready_at();
                } else {
                    pacer.took(bytes);
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
    fn unused_time_is_not_saved_up_and_debts_are_paid() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1000, start);
        assert_eq!(pacer.allowed(start), 0);
        assert_eq!(pacer.allowed(start + Duration::from_secs(3600)), 500);
        pacer.took(2500);
        let ready = pacer.ready_at();
        assert_eq!(ready - start, Duration::from_millis(3_600_000 + 2250));
        assert_eq!(pacer.allowed(ready), 250);
    }
}
