//! How fast a store has been lately: when first bytes come, and how fast the rest does.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::memory::limits::{HEDGE_AFTER_LEAST, HEDGE_AFTER_MOST};

/// First bytes that are remembered.
const REMEMBERED: usize = 64;
/// A first byte that takes so many times as long as 75 of 100 is late.
const P75_TIMES: f64 = 1.5;
/// What is expected of a store that was never asked.
const UNKNOWN: Duration = Duration::from_millis(100);
/// The part of the newest body in the mean rate.
const NEWEST: f64 = 0.25;
/// Bodies shorter than this say nothing of a rate.
const RATE_BYTES_LEAST: u64 = 256 << 10;

/// What is remembered of one store's answers.
#[derive(Default)]
pub struct Pace(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    /// Times to the first byte, the newest written over the oldest.
    first_bytes: Vec<Duration>,
    next: usize,
    /// Bytes per second.
    rate: Option<f64>,
}

impl Pace {
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first byte of an answer came.
    pub fn note_first_byte(&self, took: Duration) {
        let mut recent = self.recent();
        if recent.first_bytes.len() < REMEMBERED {
            recent.first_bytes.push(took);
            return;
        }
        let next = recent.next;
        recent.first_bytes[next] = took;
        recent.next = (next + 1) % REMEMBERED;
    }

    /// A body came, in so long after its first byte.
    pub fn note_body(&self, bytes: u64, took: Duration) {
        if bytes < RATE_BYTES_LEAST {
            return;
        }
        let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
        let mut recent = self.recent();
        recent.rate = Some(match recent.rate {
            None => rate,
            Some(mean) => mean + NEWEST * (rate - mean),
        });
    }

    /// The time within which 95 of 100 first bytes came lately; `None` if none is known.
    pub fn first_byte_p95(&self) -> Option<Duration> {
        self.quantile(0.95)
    }

    fn quantile(&self, part: f64) -> Option<Duration> {
        let mut all = self.recent().first_bytes.clone();
        if all.is_empty() {
            return None;
        }
        let at = ((all.len() as f64 * part).ceil() as usize).clamp(1, all.len()) - 1;
        Some(*all.select_nth_unstable(at).1)
    }

    /// How long a first byte may take before others are asked too.
    pub fn hedge_after(&self) -> Duration {
        let (p95, p75) = (self.first_byte_p95(), self.quantile(0.75));
        // Of a store that is late more often than five times in a hundred, the 95th percentile is what late is.
        let usual = match (p95, p75) {
            (Some(p95), Some(p75)) => p95.min(p75.mul_f64(P75_TIMES)),
            _ => HEDGE_AFTER_MOST,
        };
        usual
            .mul_f64(1.2)
            .clamp(HEDGE_AFTER_LEAST, HEDGE_AFTER_MOST)
    }

    /// How long it is expected to take until so many bytes are here.
    pub fn expect(&self, bytes: u64) -> Duration {
        let first = self.quantile(0.5).unwrap_or(UNKNOWN);
        let rate = self.recent().rate;
        let rest = rate.map_or(0.0, |rate| bytes as f64 / rate.max(1.0));
        // A time that no Duration holds is as good as an hour.
        first + Duration::try_from_secs_f64(rest.min(3600.0)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_few_late_answers_in_a_hundred_do_not_make_a_store_late() {
        let pace = Pace::default();
        assert_eq!(pace.hedge_after(), HEDGE_AFTER_MOST);
        for _ in 0..REMEMBERED - 2 {
            pace.note_first_byte(millis(100));
        }
        pace.note_first_byte(millis(2000));
        pace.note_first_byte(millis(2000));
        assert_eq!(pace.first_byte_p95(), Some(millis(100)));
        assert_eq!(pace.hedge_after(), millis(120));
        // The newest are written over the oldest.
        for _ in 0..REMEMBERED {
            pace.note_first_byte(millis(1));
        }
        assert_eq!(pace.first_byte_p95(), Some(millis(1)));
        assert_eq!(pace.hedge_after(), HEDGE_AFTER_LEAST);
    }

    /// Story: with one answer in ten 2 s late, none was late before 2 s, and nothing was hedged.
    #[test]
    fn a_store_that_is_often_late_is_late_all_the_same() {
        let pace = Pace::default();
        for at in 0..REMEMBERED {
            pace.note_first_byte(millis(if at % 8 == 0 { 2000 } else { 50 }));
        }
        assert_eq!(pace.first_byte_p95(), Some(millis(2000)));
        assert_eq!(pace.hedge_after(), millis(90));
    }

    #[test]
    fn what_is_expected_grows_with_the_bytes_and_a_slow_store() {
        let (fast, slow) = (Pace::default(), Pace::default());
        fast.note_first_byte(millis(10));
        slow.note_first_byte(millis(10));
        fast.note_body(1 << 20, millis(10));
        slow.note_body(1 << 20, millis(1000));
        assert_eq!(fast.expect(0), millis(10));
        assert_eq!(fast.expect(1 << 20), millis(20));
        assert_eq!(slow.expect(1 << 20), millis(1010));
        // Short bodies tell no rate.
        fast.note_body(1000, millis(1000));
        assert_eq!(fast.expect(1 << 20), millis(20));
    }
}
