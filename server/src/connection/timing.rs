//! How a connection's request goes: since when, and how much of its response was sent.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How a request went so far.
#[derive(Clone, Copy, Debug)]
pub struct Going {
    /// When its head had arrived.
    pub begun: Instant,
    /// How long after that the kernel had the first byte.
    pub first_byte: Option<Duration>,
    /// Bytes of the response that the kernel took, head included.
    pub sent: u64,
    /// Whether shares of its object were missing.
    pub degraded: bool,
}

impl Going {
    fn at(begun: Instant) -> Going {
        Going {
            begun,
            first_byte: None,
            sent: 0,
            degraded: false,
        }
    }
}

/// The request that a connection serves now.
#[derive(Debug)]
pub struct Timing(Cell<Going>);

impl Timing {
    /// None yet.
    pub fn new(now: Instant) -> Timing {
        Timing(Cell::new(Going::at(now)))
    }

    /// One begins.
    pub fn begin(&self, now: Instant) {
        self.0.set(Going::at(now));
    }

    /// How it went so far.
    pub fn so_far(&self) -> Going {
        self.0.get()
    }

    /// The kernel took bytes of the response; `degraded` says whether shares of its object are missing. Returns the time to
    /// the first byte, if that is one of them.
    pub fn note_sent(&self, bytes: u64, degraded: bool, now: Instant) -> Option<Duration> {
        let mut going = self.0.get();
        let is_first = going.first_byte.is_none() && bytes > 0;
        let first_byte = is_first.then(|| now.saturating_duration_since(going.begun));
        going.first_byte = going.first_byte.or(first_byte);
        going.sent += bytes;
        going.degraded |= degraded;
        self.0.set(going);
        first_byte
    }
}
