//! What a core counts. One writer (its thread), any number of readers (the admin thread).
//!
//! A new counter or gauge is a line of the table `scalars!`: metrics and status take it from there. Nothing here knows
//! what is counted: the module imports no other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A counter or gauge written by one thread. Plain loads and stores: no locked instruction.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds to a counter; only the owning core calls this.
    pub fn add(&self, amount: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }
    /// Sets a gauge; only the owning core calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a connection is doing: [`CoreStats::connections`] counts each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between requests: nothing of the next one has arrived.
    Idle,
    /// A TLS handshake has begun.
    Handshake,
    /// A request head has begun to arrive.
    Head,
    /// Its object is being looked up, or it waits for its TLS handshake.
    Opening,
    /// A response is under way.
    Sending,
    /// The last response is sent; the peer is to close.
    Lingering,
}

impl Phase {
    /// All of them, in the order of [`CoreStats::connections`].
    pub const ALL: [Phase; 6] = [
        Phase::Idle,
        Phase::Handshake,
        Phase::Head,
        Phase::Opening,
        Phase::Sending,
        Phase::Lingering,
    ];

    /// Its name in metrics and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Handshake => "handshake",
            Phase::Head => "head",
            Phase::Opening => "opening",
            Phase::Sending => "sending",
            Phase::Lingering => "lingering",
        }
    }
}

/// The status codes that are counted, in the order of [`CoreStats::responses`].
pub const STATUS_CODES: [u16; 19] = [
    200, 204, 206, 304, 308, 400, 403, 404, 405, 408, 410, 412, 414, 416, 431, 500, 501, 503, 505,
];

/// The methods that are told apart, in the order of [`CoreStats::durations`]. The last is any other.
pub const METHOD_NAMES: [&str; 4] = ["GET", "HEAD", "OPTIONS", "_OTHER"];

/// The bounds of a histogram's buckets, in milliseconds: those that OpenTelemetry advises for HTTP, and longer ones for
/// downloads.
pub const BOUNDS_MS: [u64; 18] = [
    5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000, 30_000, 60_000,
    300_000, 1_800_000,
];

/// How long something took, how often.
#[derive(Debug, Default)]
pub struct Histogram {
    /// How often it took no longer than each of [`BOUNDS_MS`] and longer than the one before; then longer than all.
    pub buckets: [Cell; BOUNDS_MS.len() + 1],
    /// All times together, in microseconds.
    pub sum_us: Cell,
}

impl Histogram {
    /// Counts one; only the owning core calls this.
    pub fn record(&self, time: Duration) {
        // Most took less than the first bound.
        let mut bounds = BOUNDS_MS.iter().map(|bound| Duration::from_millis(*bound));
        let place = bounds.position(|bound| time <= bound);
        self.buckets[place.unwrap_or(BOUNDS_MS.len())].add(1);
        let whole = time.as_secs().saturating_mul(1_000_000);
        let micros = whole.saturating_add(time.subsec_micros().into());
        self.sum_us.add(micros);
    }
}

/// How a number changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A number that each core counts.
pub struct Scalar {
    /// Its name, without the prefix `penstock_` and the suffix `_total`. It ends in `_bytes` if its unit is bytes.
    pub name: &'static str,
    /// What it is, in one line.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// The field of [`CoreStats`].
    pub cell: fn(&CoreStats) -> &Cell,
}

/// Defines [`CoreStats`] and [`SCALARS`] from lines of a kind, a name and a help text.
macro_rules! scalars {
    ($($kind:ident $name:ident $help:literal,)*) => {
        /// One core's numbers.
        #[derive(Debug, Default)]
        pub struct CoreStats {
            /// Open connections by phase, in the order of [`Phase::ALL`].
            pub connections: [Cell; Phase::ALL.len()],
            /// Finished responses, in the order of [`STATUS_CODES`].
            pub responses: [Cell; STATUS_CODES.len()],
            /// Grows at every tick, which shows that the core lives.
            pub heartbeat: Cell,
            /// How long responses took, by method and status.
            pub durations: [[Histogram; STATUS_CODES.len()]; METHOD_NAMES.len()],
            /// How long it took until the kernel had the first byte of a response.
            pub first_byte: Histogram,
            $(#[doc = $help] pub $name: Cell,)*
        }

        /// Every number that metrics and status show, but those by phase and by status code.
        pub const SCALARS: &[Scalar] = &[$(Scalar {
            name: stringify!($name),
            help: $help,
            kind: Kind::$kind,
            cell: |stats| &stats.$name,
        },)*];
    };
}

// The one place where a metric is added. Gauges are set once a tick, those of sockets and connections as of their last
// sample.
scalars! {
    Counter accepted_connections "Connections accepted",
    Counter refused_connections "Connections refused at the limit",
    Counter timed_out_connections "Connections closed by a deadline",
    Counter tls_handshakes "TLS handshakes that made a session",
    Counter tls_handshakes_resumed "Those of clients that came with a ticket",
    Counter tls_handshakes_failed "TLS handshakes that made none",
    Counter tls_records_again "TLS records that were made again, since a socket took only a part",
    Counter stalled_connections "Connections closed because they stalled with a loan while others asked for credit in vain",
    Counter gave_way_connections "Connections closed to make room for new ones: idle ones, and those that waited for a TLS handshake",
    Counter reset_bodies "Bodies cut off because they could not be finished",
    Counter access_log_lines_dropped "Requests that are not in the access log, since too many waited to be written",
    Counter sent_bytes "Bytes the kernel took for clients",
    Counter spliced_bytes "Bytes of bodies sent by reference from the page cache (spliced)",
    Counter hot_sent_bytes "Bytes of bodies sent from hot objects in memory",
    Counter rebuilt_sent_bytes "Bytes of bodies sent from rebuilt blocks in memory",
    Counter copied_bytes "Bytes of bodies copied from pool buffers",
    Counter zero_copy_bytes "Bytes of bodies sent by reference from pool buffers (zero-copy)",
    Counter zero_copy_copied_bytes "Of zero_copy_bytes, bytes that the kernel reported it copied after all",
    Gauge pinned_buffers "Pool buffers in zero-copy sends that peers have not acknowledged yet",
    Gauge zero_copy_networks_off "Networks of peers without zero-copy sends, since the kernel copies there",
    Counter discarded_bytes "Bytes that the socket did not take; they are produced again",
    Counter data_read_bytes "Bytes read from data shares",
    Counter parity_read_bytes "Bytes read from parity shares",
    Counter direct_read_bytes "Of data and parity bytes read, those past the page cache",
    Counter table_read_bytes "Bytes read from leaf checksum tables",
    Counter pieces "Pieces produced",
    Counter rebuilt_segments "Segments with rebuilt blocks, whole or in part",
    Counter rebuilt_bytes "Bytes rebuilt",
    Counter verified_leaves "Leaves whose checksum matched",
    Counter failed_leaves "Leaves whose checksum did not match",
    Counter failed_shares "Share files given up after a read error",
    Counter reopened "Times that the share files of a client that had waited were opened again",
    Counter tahoe_read_bytes "Bytes read from blocks of Tahoe-LAFS shares",
    Counter verified_segments "Segments of Tahoe-LAFS files verified",
    Counter verified_segment_bytes "Bytes of the segments of Tahoe-LAFS files verified",
    Gauge verified_segment_memory_bytes "Memory of the records of verified segments",
    Gauge open_objects "Objects whose shares are open",
    Gauge degraded_objects "Open objects with shares missing or given up",
    Gauge objects_without_redundancy "Open objects that can lose no further share",
    Gauge pool_buffers "Pool buffers in all",
    Gauge pool_buffers_free "Pool buffers that are free",
    Gauge pool_buffers_hung "Pool buffers in reads that were given up and have not ended; a reserve replaces some",
    Gauge readahead_buffers "Readahead buffers in all",
    Gauge readahead_buffers_free "Readahead buffers that are free",
    Gauge send_queue_bytes "Kernel send queues of all connections",
    Gauge socket_bytes "Kernel memory of all connections' sockets",
    Gauge connection_bytes "User memory that connections hold beyond their tasks",
    Gauge verified_memory_bytes "Memory of the records of verified leaves",
    Gauge hot_memory_bytes "Memory used by hot objects",
    Gauge rebuilt_memory_bytes "Memory used by rebuilt blocks that several clients want",
    Gauge decoder_bytes "Memory of the decoder: tables, plans and workspace",
}

impl CoreStats {
    /// Counts a finished response by its method, a place in [`METHOD_NAMES`], and its status code.
    pub fn count_response(&self, method: usize, code: u16, time: Duration) {
        if let Some(at) = STATUS_CODES.iter().position(|&counted| counted == code) {
            self.responses[at].add(1);
            self.durations[method.min(METHOD_NAMES.len() - 1)][at].record(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_its_bucket() {
        let histogram = Histogram::default();
        for (millis, place) in [(0, 0), (5, 0), (6, 1), (1_800_000, 17), (1_800_001, 18)] {
            let before = histogram.buckets[place].get();
            histogram.record(Duration::from_millis(millis));
            assert_eq!(histogram.buckets[place].get(), before + 1, "{millis}");
        }
        assert_eq!(histogram.sum_us.get(), 3_600_012_000);
    }
}
