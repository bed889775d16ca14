//! Deadlines: how long a connection may take, and what ends it.
//!
//! Tasks set no timers of their own. A connection whose time is up is ended by shutting its socket, which
//! ends whatever its task waits for of the peer; so no task is dropped amid its work. A client is judged by the bytes
//! it acknowledged, not by those the kernel buffered: a live slow one is kept, a dead one is closed.

use std::time::{Duration, Instant};

use super::core::Core;
use super::state::{CloseReason, Connection};
use crate::body::ack_meter::{AckMeter, Interval, Reader};
use crate::config::Live;
use crate::memory::limits::{DRAIN_GRACE, LINGER_TIMEOUT};
use crate::stats::Phase;

/// What connections are held to.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Time for a request head to arrive.
    pub head: Duration,
    /// Time without a request.
    pub idle: Duration,
    /// Time without acknowledged bytes while some wait; also the interval of `rate_min`.
    pub send: Duration,
    /// Bytes per second that a client must acknowledge, on average over `send`, while some wait.
    pub rate_min: u64,
}

impl From<&Live> for Timeouts {
    fn from(live: &Live) -> Timeouts {
        Timeouts {
            head: live.head_timeout,
            idle: live.idle_timeout,
            send: live.send_timeout,
            rate_min: live.rate_min,
        }
    }
}

impl Timeouts {
    /// Ends a connection whose time is up.
    pub fn enforce(&self, core: &Core, connection: &Connection, now: Instant) {
        if connection.close_reason.get() == Some(CloseReason::Closed) {
            return;
        }
        let since = now.saturating_duration_since(connection.since.get());
        let quiet = || since.min(connection.meter.quiet(now));
        let end = |reason| {
            connection.close_reason.set(Some(reason));
            core.stats().timed_out_connections.add(1);
        };
        match connection.phase.get() {
            Phase::Head => {
                if since > self.head {
                    end(CloseReason::HeadTimeout);
                    connection.socket.shutdown_receive();
                }
            }
            Phase::Handshake => {
                if since > self.head {
                    end(CloseReason::Closed);
                    // It may be the client that takes nothing: only this wakes who waits for room.
                    connection.socket.reset();
                }
            }
            // Looking up is our own time, and bounded by the stores. So is the time until a handshake has a place.
            Phase::Opening => {}
            // Also when idle or lingering: the last response may still be on its way.
            _ if connection.meter.is_outstanding() => {
                if quiet() <= self.send && self.rate_is_due(&connection.meter, now).is_none() {
                    return;
                }
                // What is known is as old as the last sample: no verdict without asking again.
                if let Ok(unacknowledged) = connection.socket.unacknowledged_bytes() {
                    connection.meter.update(unacknowledged, now);
                }
                if quiet() > self.send
                    || self.is_too_slow(&connection.meter, connection.since.get(), now)
                {
                    end(CloseReason::Closed);
                    connection.socket.reset();
                }
            }
            // Nothing is outstanding: what is waited for is a disk.
            Phase::Sending => {}
            // One that has just come, as the last from a listener that was handed over, has its request answered.
            Phase::Idle
                if core.draining.get() && (connection.meter.sent() > 0 || since > DRAIN_GRACE) =>
            {
                connection.close_reason.set(Some(CloseReason::Closed));
                connection.socket.shutdown_receive();
            }
            Phase::Idle => {
                if quiet() > self.idle {
                    end(CloseReason::Closed);
                    connection.socket.shutdown_receive();
                }
            }
            Phase::Lingering => {
                if quiet() > LINGER_TIMEOUT {
                    end(CloseReason::Closed);
                    connection.socket.reset();
                }
            }
        }
    }

    /// What was acknowledged in the interval of the least rate, once that is over.
    fn rate_is_due(&self, meter: &AckMeter, now: Instant) -> Option<Interval> {
        let interval = meter.interval(Reader::LeastRate, now);
        (interval.lasted >= self.send).then_some(interval)
    }

    /// Judges a client by what it acknowledged over one whole interval in which it always had something to
    /// take. The interval begins again with every phase, the present one at `since`, and after every verdict.
    fn is_too_slow(&self, meter: &AckMeter, since: Instant, now: Instant) -> bool {
        if since > meter.began(Reader::LeastRate) {
            meter.restart(Reader::LeastRate, now);
            return false;
        }
        let Some(interval) = self.rate_is_due(meter, now) else {
            return false;
        };
        meter.restart(Reader::LeastRate, now);
        let least = u128::from(self.rate_min) * interval.lasted.as_millis() / 1000;
        u128::from(interval.bytes) < least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: Duration = Duration::from_secs(8);
    const TIMEOUTS: Timeouts = Timeouts {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        send: SEND,
        rate_min: 40_000,
    };

    /// Whether a peer that acknowledges so many bytes at the end of every second is found too slow, and when.
    fn closed_after(bytes: u64, seconds: u64) -> Option<u64> {
        let begun = Instant::now();
        let meter = AckMeter::new(begun);
        meter.add_sent(u64::from(u32::MAX));
        (1..=seconds).find(|&second| {
            let now = begun + Duration::from_secs(second);
            meter.update((u64::from(u32::MAX) - second * bytes) as u32, now);
            TIMEOUTS.is_too_slow(&meter, begun, now)
        })
    }

    #[test]
    fn a_peer_below_the_least_rate_is_found_after_one_interval() {
        assert_eq!(closed_after(39_999, 100), Some(8));
        assert_eq!(closed_after(0, 100), Some(8));
        assert_eq!(closed_after(40_000, 100), None);
    }

    #[test]
    fn a_peer_that_was_fast_once_is_judged_by_the_present_interval() {
        let begun = Instant::now();
        let meter = AckMeter::new(begun);
        meter.add_sent(1 << 30);
        meter.update((1 << 30) - (1 << 29), begun);
        let at = |intervals| begun + SEND * intervals;
        let verdict = |intervals| TIMEOUTS.is_too_slow(&meter, begun, at(intervals));
        assert!(!verdict(1), "half a gigabyte");
        assert!(verdict(2), "and nothing since");
    }

    #[test]
    fn a_phase_that_begins_gives_a_whole_interval() {
        let begun = Instant::now();
        let meter = AckMeter::new(begun);
        meter.add_sent(1 << 20);
        // It was idle for a minute, and is sent to for a second.
        let since = begun + Duration::from_secs(60);
        let now = since + Duration::from_secs(1);
        assert!(TIMEOUTS.rate_is_due(&meter, now).is_some(), "to be judged");
        assert!(!TIMEOUTS.is_too_slow(&meter, since, now));
        assert!(TIMEOUTS.rate_is_due(&meter, now + SEND / 2).is_none());
        assert!(TIMEOUTS.is_too_slow(&meter, since, now + SEND));
    }
}
