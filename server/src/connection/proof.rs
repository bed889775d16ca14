//! Proof: what a connection has shown of its peer, and so from which part of the credit it may borrow.
//!
//! Pure: times and byte counts are arguments. A receiver's kernel acknowledges what it takes, whether the application
//! reads it or not, and its buffer takes the first bytes as fast as they come. So a quick acknowledgement is a promise,
//! and what is lent on it can't be called back if the application never reads: the bytes stay in our queue. There are
//! stages, each with a larger part of the credit for all that are in it or below:
//!
//! 1. nothing acknowledged yet;
//! 2. a buffer was acknowledged quickly;
//! 3. more was acknowledged than a kernel takes unread, so that the application reads;
//! 4. the peer kept its rate for seconds.

use std::time::Duration;

use super::send_window;
use crate::body::ack_meter::Interval;
use crate::memory::budget::Allowance;
use crate::memory::limits::{
    PROOF_READ_BYTES, PROOF_WINDOW, PROOF_WINDOWS, UNPROVEN_PART, UNPROVEN_READS_PART,
    UNPROVEN_START_PART,
};

/// What one connection has shown so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// How many windows in a row its peer was fast in.
    windows: u8,
    /// Bytes acknowledged in windows since the last one in which it was not, up to what tells that it reads.
    bytes: u64,
}

impl Proof {
    /// Judges the window that is under way, and says whether it has ended, so that the next one begins. `send_buffer` and
    /// `within` are what the peer is held to: it must keep filling half of that buffer within that time.
    pub fn judge(&mut self, send_buffer: u32, window: Interval, within: Duration) -> bool {
        if window.lasted < PROOF_WINDOW {
            return false;
        }
        if send_window::is_kept(send_buffer, window, within) {
            self.windows = self.windows.saturating_add(1).min(PROOF_WINDOWS);
            self.bytes = self.bytes.saturating_add(window.bytes);
        } else {
            *self = Proof::default();
        }
        true
    }

    /// Whether the peer was fast over seconds.
    pub fn is_lasting(&self) -> bool {
        self.windows >= PROOF_WINDOWS
    }

    /// How much the connection may borrow, with what was acknowledged in the window under way.
    pub fn allowance(&self, window: Interval) -> Allowance {
        match self.bytes.saturating_add(window.bytes) {
            _ if self.is_lasting() => Allowance::Eighth,
            0 => Allowance::UnprovenPart(UNPROVEN_START_PART),
            few if few < PROOF_READ_BYTES => Allowance::UnprovenPart(UNPROVEN_PART),
            _ => Allowance::UnprovenPart(UNPROVEN_READS_PART),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::limits::EARN_WITHIN;

    const BUFFER: u32 = 64 << 10;
    const NOTHING: Interval = Interval {
        bytes: 0,
        lasted: Duration::ZERO,
    };

    /// The allowances after windows in which so many bytes were acknowledged.
    fn after(windows: &[u64]) -> Allowance {
        let mut proof = Proof::default();
        for &bytes in windows {
            let window = Interval {
                bytes,
                lasted: PROOF_WINDOW,
            };
            assert!(proof.judge(BUFFER, window, EARN_WITHIN));
        }
        proof.allowance(NOTHING)
    }

    #[test]
    fn seconds_of_speed_are_a_proof_and_the_first_megabytes_are_not() {
        let fast = 10 << 20;
        let part = Allowance::UnprovenPart;
        assert_eq!(after(&[]), part(UNPROVEN_START_PART));
        // A kernel took a megabyte, or a hundred of them.
        assert_eq!(after(&[1 << 20]), part(UNPROVEN_PART));
        assert_eq!(after(&[100 << 20, 0]), part(UNPROVEN_START_PART));
        assert_eq!(after(&[fast]), part(UNPROVEN_READS_PART));
        assert_eq!(after(&[fast, fast]), Allowance::Eighth);
        assert_eq!(after(&[fast, fast, fast, fast]), Allowance::Eighth);
        // A pause, and it begins anew.
        assert_eq!(after(&[fast, fast, 0]), part(UNPROVEN_START_PART));
        assert_eq!(after(&[fast, fast, 0, fast]), part(UNPROVEN_READS_PART));
        // Slow for its buffer, though it never stops.
        assert_eq!(after(&[1000; 50]), part(UNPROVEN_START_PART));
    }

    #[test]
    fn that_a_peer_reads_shows_within_a_window() {
        let mut proof = Proof::default();
        let window = |bytes| Interval {
            bytes,
            lasted: PROOF_WINDOW / 100,
        };
        for bytes in [0, 1 << 20, PROOF_READ_BYTES, 1 << 40] {
            assert!(
                !proof.judge(BUFFER, window(bytes), EARN_WITHIN),
                "too early"
            );
        }
        let part = Allowance::UnprovenPart;
        for (bytes, expected) in [
            (0, UNPROVEN_START_PART),
            (1, UNPROVEN_PART),
            (PROOF_READ_BYTES - 1, UNPROVEN_PART),
            (PROOF_READ_BYTES, UNPROVEN_READS_PART),
            (u64::MAX, UNPROVEN_READS_PART),
        ] {
            assert_eq!(proof.allowance(window(bytes)), part(expected));
        }
    }

    #[test]
    fn a_client_that_needs_only_the_floor_proves_itself_at_its_own_rate() {
        let mut proof = Proof::default();
        let window = Interval {
            bytes: 50_000,
            lasted: PROOF_WINDOW,
        };
        for _ in 0..PROOF_WINDOWS {
            proof.judge(4096, window, EARN_WITHIN);
        }
        assert!(proof.is_lasting());
        proof.judge(BUFFER, window, EARN_WITHIN);
        assert!(!proof.is_lasting(), "not for a large buffer");
    }
}
