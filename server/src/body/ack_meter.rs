//! How fast a peer acknowledges what it is sent.
//!
//! A client is judged by acknowledged bytes, never by those that the kernel buffered. Five readers ask, each over an
//! interval of its own; the time is an argument.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Who asks. Each restarts its interval when it has judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Whether the connection has earned a larger send buffer: since it has the present one.
    Growth,
    /// Whether the peer is fast enough to be read ahead for: since it last acknowledged enough to tell.
    Readahead,
    /// The rate that is shown and that loans are judged by: since the last sample.
    Sample,
    /// Whether the peer keeps the least rate: since the last verdict.
    LeastRate,
    /// Whether the peer is fast over seconds: since the last window was judged.
    Proof,
}

const READERS: usize = 5;

/// Where an interval starts.
#[derive(Clone, Copy, Debug)]
struct Mark {
    acknowledged: u64,
    at: Instant,
}

/// Bytes acknowledged in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Bytes.
    pub bytes: u64,
    /// How long it has lasted.
    pub lasted: Duration,
}

/// One connection's count of sent and acknowledged bytes.
#[derive(Debug)]
pub struct AckMeter {
    sent: Cell<u64>,
    /// Bytes that the peer had acknowledged when that number last grew, and when that was.
    latest: Cell<Mark>,
    marks: [Cell<Mark>; READERS],
    rate: Cell<u64>,
}

impl AckMeter {
    /// Nothing sent yet.
    pub fn new(now: Instant) -> AckMeter {
        let mark = Mark {
            acknowledged: 0,
            at: now,
        };
        AckMeter {
            sent: Cell::new(0),
            latest: Cell::new(mark),
            marks: std::array::from_fn(|_| Cell::new(mark)),
            rate: Cell::new(0),
        }
    }

    /// The kernel took `bytes` for the peer.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
    }

    /// The kernel says that so many of the bytes it took are not acknowledged (`SIOCOUTQ`).
    pub fn update(&self, unacknowledged: u32, now: Instant) {
        let acknowledged = self.sent.get().saturating_sub(u64::from(unacknowledged));
        if acknowledged > self.latest.get().acknowledged {
            self.latest.set(Mark {
                acknowledged,
                at: now,
            });
        }
    }

    /// Bytes the kernel took.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Whether bytes that the kernel took are not acknowledged yet, as of the last update.
    pub fn is_outstanding(&self) -> bool {
        self.latest.get().acknowledged < self.sent.get()
    }

    /// How long the peer has acknowledged nothing, as of the last update.
    pub fn quiet(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.latest.get().at)
    }

    /// What was acknowledged since a reader's interval began, as of the last update.
    pub fn interval(&self, reader: Reader, now: Instant) -> Interval {
        let mark = self.marks[reader as usize].get();
        Interval {
            bytes: self.latest.get().acknowledged - mark.acknowledged,
            lasted: now.saturating_duration_since(mark.at),
        }
    }

    /// When a reader's interval began.
    pub fn began(&self, reader: Reader) -> Instant {
        self.marks[reader as usize].get().at
    }

    /// Begins a reader's next interval.
    pub fn restart(&self, reader: Reader, now: Instant) {
        let acknowledged = self.latest.get().acknowledged;
        self.marks[reader as usize].set(Mark {
            acknowledged,
            at: now,
        });
    }

    /// Ends the sample under way, which sets the rate, and gives it.
    pub fn sample(&self, now: Instant) -> Interval {
        let interval = self.interval(Reader::Sample, now);
        self.restart(Reader::Sample, now);
        let millis = interval.lasted.as_millis().max(1);
        self.rate
            .set((u128::from(interval.bytes) * 1000 / millis) as u64);
        interval
    }

    /// Bytes acknowledged per second between the last two samples.
    pub fn rate(&self) -> u64 {
        self.rate.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_has_an_interval_of_its_own() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let meter = AckMeter::new(begun);
        meter.add_sent(1000);
        assert!(meter.is_outstanding());
        meter.update(400, at(10));
        let interval = |reader, millis| {
            let Interval { bytes, lasted } = meter.interval(reader, at(millis));
            (bytes, lasted.as_millis())
        };
        assert_eq!(interval(Reader::Growth, 10), (600, 10));
        meter.restart(Reader::Growth, at(10));
        meter.update(0, at(20));
        assert_eq!(interval(Reader::Growth, 20), (400, 10));
        assert_eq!(interval(Reader::Readahead, 20), (1000, 20));
        assert!(!meter.is_outstanding());
        assert_eq!(meter.began(Reader::Growth), at(10));
    }

    #[test]
    fn a_peer_is_quiet_until_it_acknowledges_more() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let meter = AckMeter::new(begun);
        meter.add_sent(100);
        meter.update(50, at(10));
        meter.update(50, at(30));
        assert_eq!(meter.quiet(at(40)), Duration::from_millis(30));
        // What was sent later is not acknowledged: nothing is taken back.
        meter.add_sent(100);
        meter.update(200, at(50));
        assert_eq!(meter.quiet(at(50)), Duration::from_millis(40));
        assert_eq!(meter.interval(Reader::Sample, at(50)).bytes, 50);
    }

    #[test]
    fn a_sample_sets_the_rate() {
        let begun = Instant::now();
        let meter = AckMeter::new(begun);
        meter.add_sent(1 << 20);
        meter.update(0, begun);
        let second = begun + Duration::from_secs(2);
        assert_eq!(meter.sample(second).bytes, 1 << 20);
        assert_eq!(meter.rate(), 1 << 19);
        assert_eq!(meter.sample(second).bytes, 0, "and begins the next");
        assert_eq!(meter.rate(), 0);
    }
}
