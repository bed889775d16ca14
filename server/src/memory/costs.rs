//! What the parts of the plan take, measured with release builds; the memory test holds the sum against them.

use super::limits::{
    ACCESS_QUEUE_MAX, ACCESS_WRITE_BYTES, ADMIN_BACKLOG, ADMIN_CONNECTIONS_MAX,
    ADMIN_HEAD_BYTES_MAX, ADMIN_REPLIES_MAX, ADMIN_SEND_BUFFER_BYTES, CACHE_FILES_MAX,
    CACHE_MEMORY_BYTES, HANDSHAKES_MAX, HISTORY_REPLY_BYTES, HISTORY_STORE_BYTES, LISTING_BATCH,
    LISTING_NAME_BYTES, LISTING_NAMES_LEAST, LISTING_REMOTE_BATCH, LISTING_REMOTE_OBJECT_BYTES,
    PIECE_BYTES_MAX, POOL_BUFFERS_MAX, RECEIVE_BUFFER_BYTES, REMOTE_HTTP_BUFFER_BYTES,
    REMOTE_LISTINGS_MAX, REMOTE_LOOK_THREADS_MAX, REMOTE_RECEIVE_BUFFER_BYTES, REMOTE_UNIT_BYTES,
    RING_COMPLETIONS, RING_ENTRIES, STORE_LOOK_THREADS_MAX, STORE_READ_THREADS_MAX,
    SURVEY_NAMES_MAX, TABLE_PAGES_MAX, TAHOE_RECORDS_BYTES, TAHOE_TREES_MAX, TLS_KEYS_MAX,
    VERIFIED_PAGE_BYTES, VERIFIED_PAGES_MAX, ZERO_COPY_NETWORKS_MAX, ZERO_COPY_POOL_PART,
};

/// The unit in which the kernel charges socket memory (`SK_MEM_QUANTUM`, a page).
pub(super) const PAGE: u64 = 4096;

/// The most kernel memory that a connection's queues can take with this `SO_SNDBUF`: the send buffer
/// (doubled) and the receive buffer (doubled), each rounded up to pages, and one page that the kernel
/// reserves ahead. Measured on Linux 6.18 with a reader that never reads and then one that also sends:
/// for 4 KiB, 8 and 12 KiB; for 8 KiB, 16 and 20 KiB; for 64 KiB, 128 and 132 KiB.
pub const fn socket_bytes(send_buffer_bytes: u32) -> u64 {
    (2 * send_buffer_bytes as u64).next_multiple_of(PAGE)
        + (2 * RECEIVE_BUFFER_BYTES as u64).next_multiple_of(PAGE)
        + PAGE
}

/// The process before it serves: code, heap, the control and admin threads, the history, the allocator's slack, and
/// the threads of some stores. Measured: 6 MiB resident when idle.
pub const FIXED_BYTES: u64 = 8600 << 10;
/// User memory of one admin connection: hyper's buffers for reading (twice a head, and what is left of it while it is
/// answered) and for a response head, fields, the task.
const ADMIN_CONNECTION_USER_BYTES: u64 = 6 * ADMIN_HEAD_BYTES_MAX as u64;
/// The longest reply of the admin listener: metrics of so many cores and stores, while the text grows. Measured: 20 KiB
/// for 2 cores and 6 stores. The history is no longer.
pub const fn admin_reply_bytes(cores: usize, stores: usize) -> u64 {
    (16 << 10) + cores as u64 * (16 << 10) + stores as u64 * (4 << 10)
}
const _: () = assert!(HISTORY_REPLY_BYTES as u64 <= admin_reply_bytes(1, 0));
/// The admin listener with all connections it may have.
pub const fn admin_bytes(cores: usize, stores: usize) -> u64 {
    let kernel = CONNECTION_KERNEL_BYTES + socket_bytes(ADMIN_SEND_BUFFER_BYTES);
    let waiting = CONNECTION_KERNEL_BYTES + socket_bytes(0);
    ADMIN_CONNECTIONS_MAX as u64 * (ADMIN_CONNECTION_USER_BYTES + kernel)
        + ADMIN_BACKLOG as u64 * waiting
        + ADMIN_REPLIES_MAX as u64 * admin_reply_bytes(cores, stores)
}
/// What TLS adds to it: rustls keeps a record that comes and one that leaves for each connection, and what a handshake takes.
pub(super) const ADMIN_TLS_BYTES: u64 = ADMIN_CONNECTIONS_MAX as u64 * (64 << 10);
/// As many stores as this are part of the fixed bytes.
const STORES_FIXED: usize = 8;
/// What the threads of each further one take: what they touch of their stacks and heaps, jobs that wait. Measured: 30 KiB a thread.
/// And the names that the survey and a listing hold of it, the headers that a listing does, and its history.
const STORE_BYTES: u64 = (STORE_LOOK_THREADS_MAX + STORE_READ_THREADS_MAX) as u64 * (32 << 10)
    + HISTORY_STORE_BYTES
    + 4 * SURVEY_NAMES_MAX as u64 * 128
    + LISTING_BATCH as u64 * 2048;
/// What remote stores take: fetches, each with a unit that is written, what the HTTP client holds, a TLS record, and what the
/// kernel has received; the client; what is known of files in the cache; and for each store what it has of objects, and
/// further threads for look-ups, which wait for its answers, and names that it tells for a listing.
pub fn remote_bytes(stores: usize, fetches: usize) -> u64 {
    if stores == 0 {
        return 0;
    }
    let fetch = REMOTE_UNIT_BYTES
        + 2 * REMOTE_HTTP_BUFFER_BYTES as u64
        + REMOTE_TLS_BYTES
        + 2 * REMOTE_RECEIVE_BUFFER_BYTES as u64
        + CONNECTION_KERNEL_BYTES;
    let threads = (REMOTE_LOOK_THREADS_MAX - STORE_LOOK_THREADS_MAX) as u64 * (32 << 10);
    let names = LISTING_NAMES_LEAST as u64 * LISTING_NAME_BYTES;
    let store = REMOTE_LISTINGS_MAX as u64 * REMOTE_LISTING_BYTES + threads + names;
    REMOTE_CLIENT_BYTES
        + LISTING_REMOTE_BATCH as u64 * LISTING_REMOTE_OBJECT_BYTES
        + CACHE_MEMORY_BYTES
        + CACHE_FILES_MAX as u64 * CACHE_FILE_BYTES
        + fetches as u64 * fetch
        + stores as u64 * store
}
/// What TLS to a remote store takes of each connection.
const REMOTE_TLS_BYTES: u64 = 36 << 10;
/// The client of remote stores: its runtime, its thread, the roots that it trusts.
const REMOTE_CLIENT_BYTES: u64 = 3 << 20;
/// What is remembered of one object's files in a remote store.
const REMOTE_LISTING_BYTES: u64 = 400;
/// What is remembered of a cached file.
const CACHE_FILE_BYTES: u64 = 112;
/// What the threads of so many stores take, beside the fixed bytes.
pub const fn stores_bytes(stores: usize) -> u64 {
    stores.saturating_sub(STORES_FIXED) as u64 * STORE_BYTES
}
/// What is kept for it of one request, until its response ends: the texts, and what they are kept in.
pub(super) const ACCESS_RECORD_BYTES: u64 = 1152;
/// What the access log takes beside connections: requests that wait, the thread that writes them, and its lines.
pub(super) const ACCESS_LOG_BYTES: u64 = ACCESS_QUEUE_MAX as u64 * (ACCESS_RECORD_BYTES + 192)
    + 2 * ACCESS_WRITE_BYTES as u64
    + (128 << 10);
/// One core's ring: entries, completions, the runtime's records of operations.
pub(super) const RING_BYTES: u64 =
    RING_ENTRIES as u64 * (64 + 8) + RING_COMPLETIONS as u64 * 16 + 64 * 1024 + ZERO_COPY_BYTES;
/// One core's ring for zero-copy sends, what the kernel keeps of those under way (a request and a notification,
/// 256 bytes each), and the routes.
const ZERO_COPY_BYTES: u64 = POOL_BUFFERS_MAX as u64 / ZERO_COPY_POOL_PART as u64
    * (2 * 16 + 2 * 256)
    + ZERO_COPY_NETWORKS_MAX as u64 * 128
    + 16 * 1024;
/// What one core's ring takes of RLIMIT_MEMLOCK, in whole powers of two of pages. Measured on Linux 6.18: 328 KiB.
pub const RING_LOCKED_BYTES: u64 = 384 << 10;
/// One core's cached pages of leaf checksums, with their places and an index.
pub(super) const TABLE_CACHE_BYTES: u64 = TABLE_PAGES_MAX as u64 * (4096 + 192);
/// One core's counters: a histogram for every method and status.
pub(super) const COUNTERS_BYTES: u64 = 16 << 10;
/// One core's memory of verified leaves.
pub(super) const VERIFIED_BYTES: u64 = VERIFIED_PAGES_MAX as u64 * VERIFIED_PAGE_BYTES as u64;
/// One core's files of a grid, where it is a gateway: records and proven paths.
pub(super) const TAHOE_BYTES: u64 = TAHOE_RECORDS_BYTES as u64 + TAHOE_TREES_MAX as u64 * 4096;
/// One core's decoder: rebuild plans of narrow codes. What a wide one takes beyond it is claimed from the
/// credit when its first object is opened.
pub const DECODER_BYTES: u64 = 1 << 20;
/// What rs16 takes besides its workspace: tables of 8 MiB made once per process, and a generator.
pub const RS16_BYTES: usize = 10 << 20;
/// User memory of one connection that waits: its task, its entry in the table, its wait. Measured between 2,000 and 8,000
/// stalled clients: 1,917 bytes each.
pub const CONNECTION_USER_BYTES: u64 = 1920;
/// Kernel structures of one connection: `tcp_sock` (2368 bytes on Linux 6.18), inode (832), file (192), dentry (192),
/// its registration with epoll (128).
pub const CONNECTION_KERNEL_BYTES: u64 = 3712;
/// What TLS adds to a connection: its session, with the keys and secrets of both directions. Measured with 4,000 and 9,000
/// stalled clients: 610 to 730 bytes each.
pub const TLS_CONNECTION_BYTES: u64 = 768;
/// What TLS adds to a core: a piece's records, one that comes, one that is made again, keys that are ready for use, handshakes.
pub const TLS_CORE_BYTES: u64 = PIECE_BYTES_MAX as u64
    + 3 * (20 << 10)
    + TLS_KEYS_MAX.get() as u64 * TLS_KEY_BYTES
    + HANDSHAKES_MAX as u64 * HANDSHAKE_BYTES;
/// A key that is ready for use: its schedule, with what the allocator adds, and its place in the list of them.
const TLS_KEY_BYTES: u64 = 768;
/// What one handshake takes until its session is made: the client's messages as far as they came, the library's state, and
/// the answer with its certificates until the socket has taken it.
const HANDSHAKE_BYTES: u64 = 24 << 10;
/// Of what the fixed parts leave, at least one part in this many is credit to lend.
pub(super) const CREDIT_PART: u64 = 32;

/// What one connection costs at least, with this `SO_SNDBUF` as its floor.
pub const fn connection_bytes(send_buffer_bytes: u32) -> u64 {
    CONNECTION_USER_BYTES + CONNECTION_KERNEL_BYTES + socket_bytes(send_buffer_bytes)
}
