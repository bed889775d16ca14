//! What a core counts. One writer (its thread), any number of readers (the admin thread).
//!
//! A new counter or gauge is a field of [`CoreStats`] and a line of [`SCALARS`]: metrics and status
//! take it from there. Nothing here knows what is counted: the module imports no other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// A request head has begun to arrive.
    Head,
    /// Its object is being looked up.
    Opening,
    /// A response is under way.
    Sending,
    /// The last response is sent; the peer is to close.
    Lingering,
}

impl Phase {
    /// All of them, in the order of [`CoreStats::connections`].
    pub const ALL: [Phase; 5] = [
        Phase::Idle,
        Phase::Head,
        Phase::Opening,
        Phase::Sending,
        Phase::Lingering,
    ];

    /// Its name in metrics and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Head => "head",
            Phase::Opening => "opening",
            Phase::Sending => "sending",
            Phase::Lingering => "lingering",
        }
    }
}

/// The status codes that are counted, in the order of [`CoreStats::responses`].
pub const STATUS_CODES: [u16; 15] = [
    200, 206, 304, 400, 404, 405, 408, 410, 414, 416, 431, 500, 501, 503, 505,
];

/// One core's numbers. Bytes unless said otherwise.
#[derive(Debug, Default)]
pub struct CoreStats {
    /// Open connections by phase, as of the last tick.
    pub connections: [Cell; Phase::ALL.len()],
    /// Connections accepted since the start.
    pub accepted: Cell,
    /// Connections refused because the limit was reached.
    pub refused: Cell,
    /// Connections closed by a deadline: head, idle, send, linger.
    pub timed_out: Cell,
    /// Connections reset because a body could not be finished.
    pub resets: Cell,
    /// Finished responses, in the order of [`STATUS_CODES`].
    pub responses: [Cell; STATUS_CODES.len()],
    /// Bytes the kernel took for clients, heads included.
    pub sent_bytes: Cell,
    /// Of those, bytes of bodies that were spliced from the page cache.
    pub passed_bytes: Cell,
    /// Of those, bytes of bodies that were sent from hot objects.
    pub hot_bytes: Cell,
    /// Of those, bytes of bodies that were sent from the rebuilt-block cache.
    pub rebuilt_sent_bytes: Cell,
    /// Of those, bytes of bodies that were copied from pool buffers.
    pub copied_bytes: Cell,
    /// Of those, bytes of bodies that the kernel took from pool buffers by reference.
    pub zero_copy_bytes: Cell,
    /// Of those, bytes that the kernel reported it copied after all.
    pub zero_copy_copied_bytes: Cell,
    /// Pool buffers in zero-copy sends that peers have not acknowledged yet.
    pub pinned_buffers: Cell,
    /// Networks of peers without zero-copy sends, since the kernel copies there.
    pub zero_copy_routes_off: Cell,
    /// Bytes that were produced and that the socket did not take. They are produced again.
    pub unsent_again_bytes: Cell,
    /// Bytes read from data shares.
    pub data_read_bytes: Cell,
    /// Bytes read from parity shares.
    pub parity_read_bytes: Cell,
    /// Of data and parity bytes read, those past the page cache.
    pub direct_read_bytes: Cell,
    /// Bytes read from leaf checksum tables.
    pub table_read_bytes: Cell,
    /// Pieces produced.
    pub pieces: Cell,
    /// Segments with rebuilt blocks, whole or in part.
    pub rebuilt_segments: Cell,
    /// Bytes rebuilt.
    pub rebuilt_bytes: Cell,
    /// Leaves whose checksum matched.
    pub verified_leaves: Cell,
    /// Leaves whose checksum did not match.
    pub failed_leaves: Cell,
    /// Share files given up after a read error.
    pub lost_shares: Cell,
    /// Bytes read from blocks of Tahoe-LAFS shares.
    pub tahoe_read_bytes: Cell,
    /// Segments of Tahoe-LAFS files verified.
    pub verified_segments: Cell,
    /// Bytes of those segments.
    pub verified_segment_bytes: Cell,
    /// Memory of the records of verified segments.
    pub segment_record_bytes: Cell,
    /// Objects that are open, as of the last tick.
    pub open_objects: Cell,
    /// Of those, objects with fewer shares than they were written with.
    pub degraded_objects: Cell,
    /// Of those, objects that can lose no further share.
    pub unspared_objects: Cell,
    /// Pool buffers in all.
    pub pool_buffers: Cell,
    /// Pool buffers that are free, as of the last tick.
    pub pool_free: Cell,
    /// Readahead buffers in all.
    pub ahead_buffers: Cell,
    /// Of those, buffers that are free, as of the last tick.
    pub ahead_free: Cell,
    /// Kernel send queues of all connections, overhead included, as of the last sample.
    pub send_queue_bytes: Cell,
    /// Kernel memory of all connections' sockets, as of the last sample.
    pub socket_bytes: Cell,
    /// User memory that connections hold beyond their own size, as of the last sample.
    pub connection_bytes: Cell,
    /// Memory of the records of verified leaves, as of the last tick.
    pub verified_bytes: Cell,
    /// Memory used by hot objects, as of the last tick.
    pub hot_memory_bytes: Cell,
    /// Memory used by rebuilt blocks, as of the last tick.
    pub rebuilt_memory_bytes: Cell,
    /// Memory of the decoder: tables, plans and workspace.
    pub decoder_bytes: Cell,
}

impl CoreStats {
    /// Counts a finished response by its status code.
    pub fn count_response(&self, code: u16) {
        if let Some(at) = STATUS_CODES.iter().position(|&counted| counted == code) {
            self.responses[at].add(1);
        }
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

const fn counter(name: &'static str, help: &'static str, cell: fn(&CoreStats) -> &Cell) -> Scalar {
    Scalar {
        name,
        help,
        kind: Kind::Counter,
        cell,
    }
}

const fn gauge(name: &'static str, help: &'static str, cell: fn(&CoreStats) -> &Cell) -> Scalar {
    Scalar {
        name,
        help,
        kind: Kind::Gauge,
        cell,
    }
}

/// Every number that metrics and status show: the one place where one is added.
pub const SCALARS: &[Scalar] = &[
    counter("accepted_connections", "Connections accepted", |s| {
        &s.accepted
    }),
    counter(
        "refused_connections",
        "Connections refused at the limit",
        |s| &s.refused,
    ),
    counter(
        "timed_out_connections",
        "Connections closed by a deadline",
        |s| &s.timed_out,
    ),
    counter(
        "reset_bodies",
        "Bodies cut off because they could not be finished",
        |s| &s.resets,
    ),
    counter("sent_bytes", "Bytes the kernel took for clients", |s| {
        &s.sent_bytes
    }),
    counter(
        "spliced_bytes",
        "Bytes of bodies sent by reference from the page cache (spliced)",
        |s| &s.passed_bytes,
    ),
    counter(
        "hot_sent_bytes",
        "Bytes of bodies sent from hot objects in memory",
        |s| &s.hot_bytes,
    ),
    counter(
        "rebuilt_sent_bytes",
        "Bytes of bodies sent from rebuilt blocks in memory",
        |s| &s.rebuilt_sent_bytes,
    ),
    counter(
        "copied_bytes",
        "Bytes of bodies copied from pool buffers",
        |s| &s.copied_bytes,
    ),
    counter(
        "zero_copy_bytes",
        "Bytes of bodies sent by reference from pool buffers (zero-copy)",
        |s| &s.zero_copy_bytes,
    ),
    counter(
        "zero_copy_copied_bytes",
        "Of zero_copy_bytes, bytes that the kernel reported it copied after all",
        |s| &s.zero_copy_copied_bytes,
    ),
    gauge(
        "pinned_buffers",
        "Pool buffers in zero-copy sends that peers have not acknowledged yet",
        |s| &s.pinned_buffers,
    ),
    gauge(
        "zero_copy_networks_off",
        "Networks of peers without zero-copy sends, since the kernel copies there",
        |s| &s.zero_copy_routes_off,
    ),
    counter(
        "discarded_bytes",
        "Bytes that the socket did not take; they are produced again",
        |s| &s.unsent_again_bytes,
    ),
    counter("data_read_bytes", "Bytes read from data shares", |s| {
        &s.data_read_bytes
    }),
    counter("parity_read_bytes", "Bytes read from parity shares", |s| {
        &s.parity_read_bytes
    }),
    counter(
        "direct_read_bytes",
        "Of data and parity bytes read, those past the page cache",
        |s| &s.direct_read_bytes,
    ),
    counter(
        "table_read_bytes",
        "Bytes read from leaf checksum tables",
        |s| &s.table_read_bytes,
    ),
    counter("pieces", "Pieces produced", |s| &s.pieces),
    counter(
        "rebuilt_segments",
        "Segments with rebuilt blocks, whole or in part",
        |s| &s.rebuilt_segments,
    ),
    counter("rebuilt_bytes", "Bytes rebuilt", |s| &s.rebuilt_bytes),
    counter("verified_leaves", "Leaves whose checksum matched", |s| {
        &s.verified_leaves
    }),
    counter(
        "failed_leaves",
        "Leaves whose checksum did not match",
        |s| &s.failed_leaves,
    ),
    counter(
        "failed_shares",
        "Share files given up after a read error",
        |s| &s.lost_shares,
    ),
    counter(
        "tahoe_read_bytes",
        "Bytes read from blocks of Tahoe-LAFS shares",
        |s| &s.tahoe_read_bytes,
    ),
    counter(
        "verified_segments",
        "Segments of Tahoe-LAFS files verified",
        |s| &s.verified_segments,
    ),
    counter(
        "verified_segment_bytes",
        "Bytes of the segments of Tahoe-LAFS files verified",
        |s| &s.verified_segment_bytes,
    ),
    gauge(
        "verified_segment_memory_bytes",
        "Memory of the records of verified segments",
        |s| &s.segment_record_bytes,
    ),
    gauge("open_objects", "Objects whose shares are open", |s| {
        &s.open_objects
    }),
    gauge(
        "degraded_objects",
        "Open objects with shares missing or given up",
        |s| &s.degraded_objects,
    ),
    gauge(
        "objects_without_redundancy",
        "Open objects that can lose no further share",
        |s| &s.unspared_objects,
    ),
    gauge("pool_buffers", "Pool buffers in all", |s| &s.pool_buffers),
    gauge("pool_buffers_free", "Pool buffers that are free", |s| {
        &s.pool_free
    }),
    gauge("readahead_buffers", "Readahead buffers in all", |s| {
        &s.ahead_buffers
    }),
    gauge(
        "readahead_buffers_free",
        "Readahead buffers that are free",
        |s| &s.ahead_free,
    ),
    gauge(
        "send_queue_bytes",
        "Kernel send queues of all connections",
        |s| &s.send_queue_bytes,
    ),
    gauge(
        "socket_bytes",
        "Kernel memory of all connections' sockets",
        |s| &s.socket_bytes,
    ),
    gauge(
        "connection_bytes",
        "User memory that connections hold beyond their tasks",
        |s| &s.connection_bytes,
    ),
    gauge(
        "verified_memory_bytes",
        "Memory of the records of verified leaves",
        |s| &s.verified_bytes,
    ),
    gauge("hot_memory_bytes", "Memory used by hot objects", |s| {
        &s.hot_memory_bytes
    }),
    gauge(
        "rebuilt_memory_bytes",
        "Memory used by rebuilt blocks that several clients want",
        |s| &s.rebuilt_memory_bytes,
    ),
    gauge(
        "decoder_bytes",
        "Memory of the decoder: tables, plans and workspace",
        |s| &s.decoder_bytes,
    ),
];
