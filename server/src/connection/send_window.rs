//! Adaptive send credit: how large a send buffer a connection has earned.
//!
//! Pure: time and byte counts are arguments. A connection starts at the floor. It is *starved* when the
//! kernel has sent all it was given and waits only for acknowledgements: then our buffer is what limits
//! it. A connection that is starved and whose peer acknowledged a whole buffer's worth within
//! [`within`] some time is lent a buffer twice as large, so a fast one reaches the most in some round trips. A
//! slow link never gets there, since its bytes wait unsent or take longer. Judged again at every sample, a
//! connection that no longer fills its buffer within that time gives back.

use std::time::{Duration, Instant};

use crate::memory::limits::{
    EARN_WITHIN, EARN_WITHIN_LEAST, FAST_FEW, SEND_BUFFER_NEAR_BYTES_MAX,
    SEND_BUFFER_NEAR_FEW_BYTES_MAX,
};

/// What is remembered of one connection's progress at its present buffer.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    since: Instant,
    acknowledged: u64,
}

impl Pace {
    /// A connection whose present buffer counts from now.
    pub fn new(acknowledged: u64, now: Instant) -> Pace {
        Pace {
            since: now,
            acknowledged,
        }
    }

    /// The buffer that a starved connection has earned: its `send_buffer` or twice that. A stretch that was
    /// too slow is forgotten, so that a connection which becomes fast isn't held to its past.
    pub fn earned(
        &mut self,
        send_buffer: u32,
        acknowledged: u64,
        now: Instant,
        within: Duration,
    ) -> u32 {
        let delivered = acknowledged.saturating_sub(self.acknowledged);
        let took = now.saturating_duration_since(self.since);
        if took > within {
            *self = Pace::new(acknowledged, now);
        } else if delivered >= capacity(send_buffer) {
            *self = Pace::new(acknowledged, now);
            return send_buffer.saturating_mul(2);
        }
        send_buffer
    }
}

/// The data that a socket with this `SO_SNDBUF` holds: the kernel doubles it.
fn capacity(send_buffer: u32) -> u64 {
    2 * u64::from(send_buffer)
}

/// The time within which a buffer's worth must be acknowledged, with this much of the credit free: the less
/// there is, the faster must those be that have it.
pub fn within(free: u64, total: u64) -> Duration {
    let part = free as f64 / total.max(1) as f64;
    EARN_WITHIN
        .mul_f64(part.clamp(0.0, 1.0))
        .max(EARN_WITHIN_LEAST)
}

/// The most that a near connection is lent where so many [`is_fast`], itself included.
pub fn near_most(fast: usize) -> u32 {
    match fast <= FAST_FEW {
        true => SEND_BUFFER_NEAR_FEW_BYTES_MAX,
        false => SEND_BUFFER_NEAR_BYTES_MAX,
    }
}

/// Whether a connection with this buffer counts as fast: it earned what a near one can have beside many.
pub fn is_fast(send_buffer: u32) -> bool {
    send_buffer >= SEND_BUFFER_NEAR_BYTES_MAX
}

/// The buffer that a connection keeps which delivered this many bytes in this time: the least that is a
/// power of two above the floor and holds what it delivers `within` that time; never more than it has.
pub fn kept(send_buffer: u32, floor: u32, delivered: u64, took: Duration, within: Duration) -> u32 {
    let needed = u128::from(delivered) * within.as_micros() / took.as_micros().max(1);
    let mut keep = floor;
    while keep < send_buffer && u128::from(capacity(keep)) < needed {
        keep = keep.saturating_mul(2);
    }
    keep.min(send_buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::limits::{SEND_BUFFER_BYTES_MAX_DEFAULT, SEND_BUFFER_BYTES_MIN};

    const MOST: u32 = SEND_BUFFER_BYTES_MAX_DEFAULT;

    /// A client that takes `rate` bytes a second with this round trip, in turns of one buffer.
    fn reaches(rate: u64, round_trip: Duration) -> u32 {
        let mut now = Instant::now();
        let mut pace = Pace::new(0, now);
        let (mut buffer, mut acknowledged) = (SEND_BUFFER_BYTES_MIN, 0);
        for _ in 0..100 {
            let turn = capacity(buffer);
            let link = Duration::from_secs_f64(turn as f64 / rate as f64);
            now += link.max(round_trip);
            acknowledged += turn;
            // Limited by the link, not by us: not starved.
            if link > round_trip {
                continue;
            }
            buffer = pace
                .earned(buffer, acknowledged, now, EARN_WITHIN)
                .min(MOST);
        }
        buffer
    }

    #[test]
    fn a_fast_client_reaches_the_most_near_and_far() {
        for round_trip in [50, 1_000, 20_000, 200_000] {
            let reached = reaches(1 << 40, Duration::from_micros(round_trip));
            assert_eq!(reached, MOST, "{round_trip} us");
        }
    }

    #[test]
    fn a_slow_client_stays_near_what_it_takes() {
        assert_eq!(
            reaches(2_000, Duration::from_millis(50)),
            SEND_BUFFER_BYTES_MIN
        );
        assert!(reaches(100_000, Duration::from_millis(50)) <= 8 << 10);
    }

    #[test]
    fn what_is_not_used_goes_back() {
        let second = Duration::from_secs(1);
        let kept = |has, floor, delivered| kept(has, floor, delivered, second, EARN_WITHIN);
        assert_eq!(kept(MOST, 4096, 0), 4096);
        assert_eq!(kept(MOST, 4096, 1 << 30), MOST);
        assert_eq!(kept(MOST, 4096, 100_000), 16 << 10);
        assert_eq!(kept(8192, 4096, 1 << 30), 8192, "it never grows here");
        assert_eq!(
            super::kept(4096, 4096, 0, Duration::ZERO, EARN_WITHIN),
            4096
        );
    }

    #[test]
    fn when_credit_is_short_only_the_fast_keep_it() {
        let second = Duration::from_secs(1);
        let scarce = within(1, 1000);
        assert_eq!(scarce, EARN_WITHIN_LEAST);
        assert_eq!(within(100, 100), EARN_WITHIN);
        assert_eq!(kept(16 << 10, 4096, 100_000, second, scarce), 4096);
        assert_eq!(kept(MOST, 4096, 1 << 30, second, scarce), MOST);
        assert_eq!(within(0, 0), EARN_WITHIN_LEAST);
    }

    #[test]
    fn near_connections_have_less_when_they_are_many() {
        assert_eq!(near_most(1), 2 * near_most(FAST_FEW + 1));
        assert!(is_fast(near_most(1)) && is_fast(near_most(usize::MAX)));
        assert!(!is_fast(SEND_BUFFER_BYTES_MIN));
    }
}
