//! Every bound of the server, in one place, with the reason beside it.
//!
//! Raw settings come from [`config`](crate::config); what follows from them is computed here, before
//! anything starts. This module imports nothing from the rest of the server.

use std::time::Duration;

/// One request head, start line and header fields together. Real browsers stay under 2 KiB; cookies
/// and long signed URLs reach 6.
pub const REQUEST_HEAD_BYTES_MAX: usize = 8 * 1024;

/// A request target longer than this is answered 414. A key has at most 1024 bytes, each at most
/// three characters when percent-encoded; the rest leaves room for a query.
pub const TARGET_BYTES_MAX: usize = 4 * 1024;

/// Header fields in one request; more are answered 431.
pub const HEADER_FIELDS_MAX: usize = 64;

/// A response head, all fields that we ever send: the longest parts are a content type (255 bytes)
/// and a digest (64).
pub const RESPONSE_HEAD_BYTES_MAX: usize = 1024;

/// Bytes of one pool buffer. It holds everything that one piece needs: the ranges read from each
/// share, the rebuilt ones, and a page of leaf checksums. Small enough that the buffers of two cores
/// fit the usual 8 MiB RLIMIT_MEMLOCK and that a piece stays in a core's L2 cache.
pub const POOL_BUFFER_BYTES_DEFAULT: usize = 512 * 1024;
/// Pool buffers per core: pieces being read from disk at the same time. A piece in the page cache
/// needs one for some microseconds; the rest is disk queue depth.
pub const POOL_BUFFERS_DEFAULT: usize = 8;
/// The most pool buffers that a core may have: the kernel's limit on registered buffers is 16,384,
/// and a pool of this size at the default buffer size is already 512 MiB.
pub const POOL_BUFFERS_MAX: usize = 1024;
/// The end of each pool buffer is kept for reading one page of the leaf checksum table.
pub const TABLE_PAGE_BYTES: usize = 4096;

/// The most bytes that one turn produces for one connection, so that no connection keeps the loop
/// (and its pool buffer) for longer than some tens of microseconds.
pub const PIECE_BYTES_MAX: usize = 256 * 1024;

/// `SO_SNDBUF` of a connection. The kernel doubles it, and counts skb overhead against it: it bounds
/// what one connection can hold in the kernel, sent and unacknowledged bytes included
/// (socket(7), tcp(7)).
pub const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// `TCP_NOTSENT_LOWAT`: POLLOUT is reported when fewer than half of this is queued but unsent
/// (`tcp_poll`, `__sk_stream_memory_free` in the kernel), and no send brings the unsent bytes over it.
pub const NOTSENT_LOWAT_BYTES: usize = 256 * 1024;
/// The wait for readiness ends with at least this much room, so that small gaps cause no turn:
/// POLLOUT means that under half of LOWAT is unsent and a third of the send buffer is free.
pub const CREDIT_BYTES_MIN: usize = 64 * 1024;

/// Segments in one `sendmsg`: the kernel's UIO_MAXIOV is 1024. A piece uses one per block.
pub const SLICES_MAX: usize = 512;

/// Submission queue entries of a core's ring. A turn submits one poll, one send, or k reads; the
/// queue is flushed whenever it is full, so this is only the batch size.
pub const RING_ENTRIES: u32 = 512;
/// Completion queue entries: polls of all connections may complete between two turns. Beyond it the
/// kernel keeps the completions in a list of its own (IORING_FEAT_NODROP).
pub const RING_COMPLETIONS: u32 = 8192;

/// Connections accepted in one turn of the loop, before the others are served again.
pub const ACCEPTS_PER_TURN: usize = 64;
/// Backlog of each listener: connections the kernel completes before we accept them.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Connections in all when the operator does not say.
pub const CONNECTIONS_DEFAULT: usize = 16 * 1024;

/// Objects whose share headers and descriptors one core keeps open.
pub const OBJECTS_MAX: usize = 256;
/// Share descriptors that one core keeps open in its catalogue; see [`Descriptors`].
pub const SHARE_FILES_MAX: usize = 4096;
/// An open object is checked against its directories when a request comes this long after the last
/// check, so that a new put or a repair is seen.
pub const OBJECT_RECHECK: Duration = Duration::from_secs(1);
/// Look-ups in the stores under way at once, per core. They run on helper threads since they block.
pub const LOOKUPS_MAX: usize = 4;
/// Pages of leaf checksum tables cached per core (4 KiB each; one covers 2 MiB of a share at the
/// usual leaf size).
pub const TABLE_PAGES_MAX: usize = 512;
/// Known bad leaves remembered per object, so that they are not read again for every client.
pub const BAD_LEAVES_MAX: usize = 256;
/// Codes (generator matrices) and rebuild plans kept per core.
pub const CODES_MAX: usize = 16;
/// Inverted matrices kept per core, one per erasure pattern.
pub const REBUILD_PLANS_MAX: usize = 64;

/// How often a core looks at its deadlines and its control channel, and samples its sockets.
pub const TICK: Duration = Duration::from_millis(250);
/// A request head must arrive whole within this time of its first byte (408).
pub const HEAD_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// A connection with no request is closed after this time.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// A client that acknowledges nothing for this long while bytes wait for it is closed. Stalled
/// clients hold only their socket's buffer, so patience is cheap.
pub const SEND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);
/// After a response that ends the connection, the peer has this long to take it and close.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an unwanted request body read and thrown away while lingering.
pub const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Bodies under way may finish within this time after SIGTERM.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

const _: () = {
    assert!(TARGET_BYTES_MAX < REQUEST_HEAD_BYTES_MAX, "414 must be decidable before 431");
    assert!(CREDIT_BYTES_MIN * 2 <= NOTSENT_LOWAT_BYTES, "POLLOUT must imply the least credit");
    assert!(CREDIT_BYTES_MIN * 3 <= SEND_BUFFER_BYTES * 2, "POLLOUT must imply the least credit");
    assert!(PIECE_BYTES_MAX + TABLE_PAGE_BYTES < POOL_BUFFER_BYTES_DEFAULT);
    assert!(POOL_BUFFERS_DEFAULT <= POOL_BUFFERS_MAX);
    assert!(RING_COMPLETIONS >= 2 * RING_ENTRIES);
};
