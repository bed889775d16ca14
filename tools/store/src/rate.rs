//! A limit on bytes per second.

use std::time::{Duration, Instant};

/// Lets bytes through at a rate. A second without use saves up no more than [`BURST`].
#[derive(Debug)]
pub(crate) struct Rate {
    /// Bytes per second; `None` is no limit.
    rate: Option<u64>,
    /// When all that was let through would have been due.
    due: Instant,
}

/// What may be let through at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl Rate {
    /// A limit of this many bytes per second, or none.
    pub(crate) fn new(rate: Option<u64>) -> Rate {
        Rate {
            rate: rate.filter(|rate| *rate > 0),
            due: Instant::now(),
        }
    }

    /// Waits until `bytes` more may be read or written.
    pub(crate) fn take(&mut self, bytes: u64) {
        let pause = self.pause(bytes, Instant::now());
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }

    /// How long to wait before `bytes` more, if it is `now`.
    fn pause(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.due = self.due.max(earliest);
        let pause = self.due.saturating_duration_since(now);
        self.due += Duration::from_secs_f64(bytes as f64 / rate as f64);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time() {
        let start = Instant::now();
        let mut rate = Rate::new(Some(1000));
        rate.due = start;
        assert_eq!(rate.pause(500, start), Duration::ZERO);
        assert_eq!(rate.pause(500, start), Duration::from_millis(500));
        // A pause saves up little.
        let later = start + Duration::from_secs(60);
        assert_eq!(rate.pause(100, later), Duration::ZERO);
        assert_eq!(rate.pause(1000, later), Duration::ZERO);
        assert_eq!(rate.pause(1, later), Duration::from_secs(1));
        assert_eq!(Rate::new(None).pause(u64::MAX, start), Duration::ZERO);
    }
}
