//! The send window: how large a send buffer a connection has earned.
//!
//! Pure: times and byte counts are arguments. A connection starts at the floor. It is *starved* when the
//! kernel has sent all it was given and waits only for acknowledgements: then our buffer is what limits
//! it. A starved connection whose peer acknowledged a whole buffer [`within`] some time is lent a buffer twice as large,
//! so a fast one reaches the most in some round trips. A slow link never gets there, since its bytes wait unsent or take
//! longer. At every sample a connection that no longer fills its buffer within that time gives back.

use std::time::Duration;

use crate::body::ack_meter::Interval;
use crate::memory::limits::{
    EARN_WITHIN, EARN_WITHIN_LEAST, FAST_FEW, SEND_BUFFER_LOW_LATENCY_BYTES_MAX,
    SEND_BUFFER_LOW_LATENCY_FEW_BYTES_MAX,
};

/// Whether a starved connection has earned a buffer twice as large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has not had its buffer for long enough to tell.
    TooEarly,
    /// It took too long. Its interval begins again, so that a connection which becomes fast isn't held to its past.
    TooSlow,
    /// It has. Its interval begins again.
    Earned,
}

/// Judges a starved connection by what its peer acknowledged since it has its present buffer, or was judged last.
pub fn judge(send_buffer: u32, interval: Interval, within: Duration) -> Verdict {
    if interval.lasted > within {
        Verdict::TooSlow
    } else if interval.bytes >= capacity(send_buffer) {
        Verdict::Earned
    } else {
        Verdict::TooEarly
    }
}

/// The data that a socket with this `SO_SNDBUF` holds: the kernel doubles it.
fn capacity(send_buffer: u32) -> u64 {
    2 * u64::from(send_buffer)
}

/// The time within which a buffer must be acknowledged, with this much of the credit free: the less there is, the
/// faster must a connection be that has it.
pub fn within(free: u64, total: u64) -> Duration {
    let part = free as f64 / total.max(1) as f64;
    EARN_WITHIN
        .mul_f64(part.clamp(0.0, 1.0))
        .max(EARN_WITHIN_LEAST)
}

/// The most that a low-latency connection is lent where so many connections are [fast](is_fast), itself included.
pub fn low_latency_max(fast: usize) -> u32 {
    match fast <= FAST_FEW {
        true => SEND_BUFFER_LOW_LATENCY_FEW_BYTES_MAX,
        false => SEND_BUFFER_LOW_LATENCY_BYTES_MAX,
    }
}

/// Whether a connection with this buffer counts as fast: it earned what a low-latency one can have beside many.
pub fn is_fast(send_buffer: u32) -> bool {
    send_buffer >= SEND_BUFFER_LOW_LATENCY_BYTES_MAX
}

/// The bytes that a peer takes `within` that time, at the rate of an interval.
fn taken(interval: Interval, within: Duration) -> u128 {
    u128::from(interval.bytes) * within.as_micros() / interval.lasted.as_micros().max(1)
}

/// The buffer that a connection keeps after a sample: the least power of two above the floor that holds what it
/// delivers `within` that time; never more than it has.
pub fn kept(send_buffer: u32, floor: u32, sample: Interval, within: Duration) -> u32 {
    let needed = taken(sample, within);
    let mut keep = floor;
    while keep < send_buffer && u128::from(capacity(keep)) < needed {
        keep = keep.saturating_mul(2);
    }
    keep.min(send_buffer)
}

/// Whether a peer needs more than half of this buffer, so that none half as large would do.
pub fn is_kept(send_buffer: u32, sample: Interval, within: Duration) -> bool {
    taken(sample, within) > u128::from(capacity(send_buffer) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::limits::{SEND_BUFFER_BYTES_MAX_DEFAULT, SEND_BUFFER_BYTES_MIN};

    const MOST: u32 = SEND_BUFFER_BYTES_MAX_DEFAULT;

    fn in_a_second(bytes: u64) -> Interval {
        Interval {
            bytes,
            lasted: Duration::from_secs(1),
        }
    }

    /// A client that takes `rate` bytes a second with this round trip, in turns of one buffer.
    fn reaches(rate: u64, round_trip: Duration) -> u32 {
        let mut buffer = SEND_BUFFER_BYTES_MIN;
        let mut interval = Interval {
            bytes: 0,
            lasted: Duration::ZERO,
        };
        for _ in 0..100 {
            let turn = capacity(buffer);
            let link = Duration::from_secs_f64(turn as f64 / rate as f64);
            interval.lasted += link.max(round_trip);
            interval.bytes += turn;
            // Limited by the link, not by us: not starved.
            if link > round_trip {
                continue;
            }
            let verdict = judge(buffer, interval, EARN_WITHIN);
            if verdict != Verdict::TooEarly {
                interval = Interval {
                    bytes: 0,
                    lasted: Duration::ZERO,
                };
            }
            if verdict == Verdict::Earned {
                buffer = (2 * buffer).min(MOST);
            }
        }
        buffer
    }

    #[test]
    fn a_fast_client_reaches_the_most_over_any_round_trip() {
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
        let kept = |has, floor, bytes| kept(has, floor, in_a_second(bytes), EARN_WITHIN);
        assert_eq!(kept(MOST, 4096, 0), 4096);
        assert_eq!(kept(MOST, 4096, 1 << 30), MOST);
        assert_eq!(kept(MOST, 4096, 100_000), 16 << 10);
        assert_eq!(kept(8192, 4096, 1 << 30), 8192, "it never grows here");
        for bytes in [0, 100_000, 1 << 20, 1 << 23, 1 << 30] {
            let is_kept = is_kept(MOST, in_a_second(bytes), EARN_WITHIN);
            assert_eq!(is_kept, kept(MOST, 4096, bytes) == MOST);
        }
        assert!(
            !is_kept(4096, in_a_second(0), EARN_WITHIN),
            "not even the floor"
        );
        let nothing = Interval {
            bytes: 0,
            lasted: Duration::ZERO,
        };
        assert_eq!(super::kept(4096, 4096, nothing, EARN_WITHIN), 4096);
    }

    #[test]
    fn when_credit_is_short_only_the_fast_keep_it() {
        let scarce = within(1, 1000);
        assert_eq!(scarce, EARN_WITHIN_LEAST);
        assert_eq!(within(100, 100), EARN_WITHIN);
        assert_eq!(kept(16 << 10, 4096, in_a_second(100_000), scarce), 4096);
        assert_eq!(kept(MOST, 4096, in_a_second(1 << 30), scarce), MOST);
        assert_eq!(within(0, 0), EARN_WITHIN_LEAST);
    }

    #[test]
    fn low_latency_connections_have_less_when_many_are_fast() {
        assert_eq!(low_latency_max(1), 2 * low_latency_max(FAST_FEW + 1));
        assert!(is_fast(low_latency_max(1)) && is_fast(low_latency_max(usize::MAX)));
        assert!(!is_fast(SEND_BUFFER_BYTES_MIN));
    }
}
