//! The bounds of the server that others depend on, with the reason beside each.
//!
//! A bound that concerns one file alone (the stack of a helper thread, how long a queue of orders is) stands there.
//! Raw settings come from [`config`](crate::config); what the parts of the server take is in [`costs`](super::costs), and
//! what follows is computed in [`plan`](super::plan), before anything starts. This module imports nothing from the rest of the server.

use std::num::NonZeroUsize;
use std::time::Duration;

/// One request head, start line and header fields together. Real browsers stay under 2 KiB; cookies
/// and long signed URLs reach 6.
pub const REQUEST_HEAD_BYTES_MAX: usize = 8 * 1024;

/// Bytes of an incomplete head that a connection's state pays for; more is claimed from the credit.
pub const PENDING_BYTES_FREE: usize = 1024;

/// A request target longer than this is answered 414. A key has at most 1024 bytes, each at most
/// three characters when percent-encoded; the rest leaves room for a query.
pub const TARGET_BYTES_MAX: usize = 4 * 1024;

/// Header fields in one request; more are answered 431.
pub const HEADER_FIELDS_MAX: usize = 64;

/// What every response head has room for at once: most are shorter.
pub const RESPONSE_HEAD_BYTES_USUAL: usize = 512;
/// A response head, all fields that we ever send: an object's own (2680 bytes as they are stored, and some for their
/// names), a content type (255), a digest in two fields (64 and 44) and what a page of another origin is told. What
/// goes beyond [`PENDING_BYTES_FREE`] is claimed until it is sent.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 4 * 1024;

/// Bytes of one pool buffer. It holds everything that one piece needs: the ranges read from each share, the rebuilt
/// ones, and a page of leaf checksums. With the usual codes that is a whole segment and four blocks rebuilt of it (k
/// = 10: 480 and 192 KiB). Small enough that the buffers of two cores fit the usual 8 MiB RLIMIT_MEMLOCK and that a
/// piece stays in a core's L2 cache.
pub const POOL_BUFFER_BYTES_DEFAULT: usize = 768 * 1024;
/// Pool buffers per core: pieces being read from disk at the same time. A piece in the page cache
/// needs one for some microseconds; the rest is disk queue depth.
pub const POOL_BUFFERS_DEFAULT: usize = 5;
/// Buffers of a core's reserve, where it has so many pool buffers. A read that hangs keeps its buffer until the kernel
/// gives it back, and one of the reserve takes its place: as many pieces as a core reads at one time may hang, and it
/// goes on. Its memory is claimed from the credit when it is needed, so that it costs no connection before.
pub const fn reserve_buffers(pool_buffers: usize) -> usize {
    match pool_buffers {
        0..=RESERVE_BUFFERS_MAX => pool_buffers,
        _ => RESERVE_BUFFERS_MAX,
    }
}
/// The most buffers of a core's reserve.
pub const RESERVE_BUFFERS_MAX: usize = 32;
/// How long a piece waits for a buffer before it is asked whether there ever will be one.
pub const POOL_PATIENCE: Duration = Duration::from_millis(250);
/// The most pool buffers that a core may have: the kernel's limit on registered buffers is 16,384,
/// and a pool of this size at the default buffer size is already 768 MiB.
pub const POOL_BUFFERS_MAX: usize = 1024;
/// The end of each pool buffer is kept for reading one page of the leaf checksum table. More are read together
/// into what a piece leaves free.
pub const TABLE_PAGE_BYTES: usize = 4096;
/// Windows of a pool buffer start at multiples of a cache line, which the kernels like.
pub const WINDOW_ALIGN: usize = 64;
/// Bytes of one readahead buffer: a batch of 1 MiB, and the page at the end that all pool buffers have. With four
/// data shares a batch is 256 KiB of each. Batches twice as long serve half as many connections with the same memory,
/// and no connection better (docs/decisions/0019).
pub const READAHEAD_BUFFER_BYTES: usize = (1 << 20) + TABLE_PAGE_BYTES;
/// The most readahead buffers that a core has when the operator does not say.
pub const READAHEAD_BUFFERS_MAX_DEFAULT: u64 = 32;
/// One part in this many of what connections leave is for readahead when the operator does not say.
pub(super) const READAHEAD_PART: u64 = 8;
/// The most batches that one connection has: one being sent, and one more on their way than are read at one time.
pub const READAHEAD_BATCHES_MAX: usize = READAHEAD_READS_AT_ONCE + 2;
/// Batches that a core reads at one time, for all connections together: 4 MiB under way keep a disk busy. With many
/// more, a virtual disk may answer all of them at once and then rest while they are sent (docs/decisions/0019).
pub const READAHEAD_READS_AT_ONCE: usize = 4;
/// A batch that takes longer to read no longer keeps others from being read. Distant disks then have more under way:
/// at least these 4 MiB are asked for every 4 ms.
pub const READAHEAD_TURN: Duration = Duration::from_millis(4);
/// How long the first batch of a stream waits for a buffer. Fast clients send what they have in less; clients that
/// have just stalled must not be felt.
pub const READAHEAD_BUFFER_WAIT_FIRST: Duration = Duration::from_millis(4);
/// How long a stream waits for a buffer once it has had one and sent what was in it.
pub const READAHEAD_BUFFER_WAIT: Duration = Duration::from_millis(20);
/// The length of a batch while it is not known whether the peer is fast. Shorter bodies are not read ahead at all.
pub const READAHEAD_FIRST_BYTES: u64 = 256 << 10;
/// How far a response is read ahead in such batches. For a peer that was not found to be fast by then, the kernel
/// reads ahead. It takes an order of magnitude less to find out in a local network.
pub const READAHEAD_PROBE_BYTES: u64 = 2 << 20;
/// A peer is fast if it acknowledges so many bytes, or a multiple of them,
pub const FAST_BYTES: u64 = 64 << 10;
/// within this time, or the multiple of it: 32 MB/s, at which a batch is sent well before it is taken back.
pub const FAST_WITHIN: Duration = Duration::from_millis(2);
/// A connection that keeps one batch for longer than this loses all that was read ahead for it.
pub const READAHEAD_HOLD: Duration = Duration::from_millis(100);
/// Share files that one core may have open a second time, for direct reads: those of sixteen objects with four data
/// shares each, or of six with ten.
pub const READAHEAD_FILES_MAX: usize = 64;
/// The alignment of direct reads, in the file and in memory: the logical sector of most disks, or a multiple of it.
pub const DIRECT_ALIGN: usize = 4096;

/// The most bytes that one turn produces for one connection, so that no connection keeps the loop
/// (and its pool buffer) for longer than some tens of microseconds.
pub const PIECE_BYTES_MAX: usize = 256 * 1024;

/// The least `SO_SNDBUF` of a connection: what a stalled client holds. The kernel doubles it and counts
/// skb overhead against it (socket(7)); it bounds what a connection can queue, sent and unacknowledged
/// bytes included. 4 KiB give about 6 KiB of data in flight, enough for a slow phone; a client that
/// takes them faster is lent more within a round trip.
pub const SEND_BUFFER_BYTES_MIN: u32 = 4 * 1024;
/// The most `SO_SNDBUF` that the floor is raised to where memory is plentiful.
pub const SEND_BUFFER_FLOOR_BYTES_MAX: u32 = 64 * 1024;
/// The most `SO_SNDBUF` that a connection may be lent, if the operator asks for it.
pub const SEND_BUFFER_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// The most that a connection is lent when the operator does not say: 2 MiB in flight, which fill 160
/// Mbit/s over a round trip of 100 ms.
pub const SEND_BUFFER_BYTES_MAX_DEFAULT: u32 = 1024 * 1024;
/// The most that a low-latency connection is lent while many are fast. More only drives data out of the cache between
/// sender and receiver: CPU per byte and throughput on loopback are best from 64 to 256 KiB.
pub const SEND_BUFFER_LOW_LATENCY_BYTES_MAX: u32 = 128 * 1024;
/// The most that a low-latency connection is lent while hardly any other is fast. Server and client of a single one
/// wait for each other; it is twice as fast with this as with half of it. With more of them there is always one to
/// serve.
pub const SEND_BUFFER_LOW_LATENCY_FEW_BYTES_MAX: u32 = 256 * 1024;
/// How many fast connections of one core are hardly any.
pub const FAST_FEW: usize = 2;
/// A connection has low latency below this round-trip time.
pub const LOW_LATENCY_RTT: Duration = Duration::from_millis(2);
/// The longest TCP segments that there are, those of loopback (MTU 65,536). A send buffer of fewer bytes than a
/// segment of its connection is sent in parts, each shorter than the one before: a receiver acknowledges at once what
/// is shorter than usual, and waits up to 40 ms with the rest (RFC 9293 section 3.8.6.3, Linux's
/// `tcp_measure_rcv_mss`). Measured on loopback: 2 MB/s with a buffer of 32 KiB sent whole, 1,000 MB/s in parts.
pub const SEGMENT_BYTES_MAX: u32 = 64 * 1024;
/// What a connection may start with while credit is plentiful, before it has proved anything: the ten
/// segments of an initial congestion window (RFC 6928), and small objects whole.
pub const SEND_BUFFER_START_BYTES: u32 = 16 * 1024;
/// A connection earns a larger buffer if it emptied one of its size within this time while all credit is
/// free, and within proportionally less when less is.
pub const EARN_WITHIN: Duration = Duration::from_millis(250);
/// That time never gets shorter than this.
pub const EARN_WITHIN_LEAST: Duration = Duration::from_millis(2);
/// One part in this many of the credit is all that connections may hold together of which nothing was acknowledged yet:
/// start-up loans.
pub const UNPROVEN_START_PART: u64 = 8;
/// The same for those and others that acknowledged a buffer quickly. Their kernels may have taken it unread.
pub const UNPROVEN_PART: u64 = 2;
/// The same for those and others whose peers read, but not for seconds yet: all of it, in steps that leave some. With half of
/// it, 256 fast clients of a core had buffers shorter than a segment for their first two seconds, which cost 1.4 times the CPU per
/// byte.
pub const UNPROVEN_READS_PART: u64 = 1;
/// So many bytes are acknowledged only if an application reads: Linux receives up to 6 MiB (`tcp_rmem`), and enlarges a
/// receive buffer so far only as its application reads (`tcp_rcv_space_adjust`, net/ipv4/tcp_input.c).
pub const PROOF_READ_BYTES: u64 = 8 << 20;
/// A connection is fast over seconds if it was fast in windows of this length,
pub const PROOF_WINDOW: Duration = Duration::from_secs(1);
/// so many of them in a row. A kernel's buffer fills once, so that the second one stays empty.
pub const PROOF_WINDOWS: u8 = 2;
/// Networks of clients that a core tells apart. Beyond so many some count as one.
pub const NETWORKS_MAX: usize = 320;
/// What is noted of one of them.
pub const NETWORK_BYTES: usize = 256;
/// Bytes per second that a client must acknowledge when the operator does not say, on average over the send timeout: 12 KB
/// in two minutes. Who takes less is dead, or holds a place for its own sake. One that pauses (a video player stops
/// reading, its window closes) acknowledges nothing and meets the send timeout itself; browsers come back with a Range.
pub const RATE_MIN_DEFAULT: u64 = 100;
/// A connection whose rate is limited is sent what takes this long at that rate with each turn,
pub const RATE_STEP: Duration = Duration::from_millis(20);
/// but so much at least, as a slow connection is.
pub const RATE_BYTES_LEAST: u64 = 8 * 1024;
/// How far what is sent may be ahead of a limited rate: as long as timers and busy cores may be late.
pub const RATE_AHEAD: Duration = Duration::from_millis(50);
/// The longest wait for a limited rate before a connection looks whether its deadline has ended it.
pub const RATE_WAIT_MAX: Duration = Duration::from_secs(1);
/// One part in this many of all connections is what one address may have when the operator does not say,
pub const ADDRESS_PART: usize = 4;
/// but so many at least: many clients may have one address (NAT).
pub const ADDRESS_CONNECTIONS_LEAST: usize = 64;
/// A connection gives way to a new one, when seats are short, if it was idle for so long: one that just came has had time
/// to ask.
pub const IDLE_GIVES_WAY: Duration = Duration::from_secs(1);
/// How many idle connections one look at all of them notes, 24 bytes each.
pub const IDLE_FOUND_MAX: usize = 64;
/// How long nobody looks again after a look that found none: it costs some tens of microseconds.
pub const IDLE_LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Stalled borrowers that one core closes at one tick at most, where they are closed at all.
pub const STALLED_CLOSED_MAX: usize = 8;
/// `SO_RCVBUF` of a connection: what a client can make the kernel hold by sending while we don't read.
/// Longer heads arrive in several windows.
pub const RECEIVE_BUFFER_BYTES: u32 = 2 * 1024;
/// The wait for readiness ends with at least this much room where the buffer allows it, so that small
/// gaps cause no turn.
pub const CREDIT_BYTES_MIN: u32 = 64 * 1024;

/// Segments in one `sendmsg`: the kernel's UIO_MAXIOV is 1024. A piece uses one per block.
pub const SLICES_MAX: usize = 512;

/// Submission queue entries of a core's ring. A turn submits up to k reads; the queue is flushed whenever it is full,
/// so this is only the batch size.
pub const RING_ENTRIES: u32 = 512;
/// Completion queue entries. Beyond them the kernel keeps completions in a list of its own (IORING_FEAT_NODROP).
pub const RING_COMPLETIONS: u32 = 8192;

/// Connections accepted in one turn of the loop, before the others are served again.
pub const ACCEPTS_PER_TURN: usize = 64;
/// How long a connection pauses whose socket had room and took nothing.
pub const NOTHING_TAKEN_PAUSE: Duration = Duration::from_millis(5);
/// Backlog of each listener: connections the kernel completes before we accept them. They hold kernel
/// memory that no seat pays for, so it is small and part of the plan.
pub const LISTEN_BACKLOG: i32 = 256;
/// Refusals (503) being sent at once per core; beyond it connections wait in the backlog.
pub const REFUSALS_MAX: usize = 60;

/// Keys of TLS connections that one core has ready for use; a connection has two.
pub const TLS_KEYS_MAX: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// TLS handshakes of one core that may be under way at once. Others wait, with their bytes in the kernel.
pub const HANDSHAKES_MAX: usize = 64;
/// A handshake that has lasted for so long gives way when others wait for a place. Far clients, and busy ones, take a second.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(2);
/// To one that came later it gives way after this. Nearly all clients answer within it, and it lets so many come to each core
/// in a second that never answer, before others have to wait: 256.
pub const HANDSHAKE_PATIENCE_LEAST: Duration = Duration::from_millis(250);
/// Who came within this time is not forgotten for those that came since.
pub const HANDSHAKE_RECENT: Duration = Duration::from_secs(2);
/// Who has waited for a place for so long is sent away, one after another.
pub const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often the files of certificates are looked at: a change of one has them read again.
pub const CERTIFICATES_LOOK_EVERY: Duration = Duration::from_secs(10);

/// Share files that one core may have open when the operator does not say and descriptors abound, including those
/// that clients use.
pub const SHARE_FILES_DEFAULT: usize = 4096;
/// The least that may be set, and that is left where descriptors are few.
pub const SHARE_FILES_MIN: usize = 64;
/// An object counts as so many files more than it has: its header, its names, its place in the catalogue.
pub const OBJECT_FILES_EXTRA: usize = 2;
/// What each of them is planned with: the kernel's side of the descriptor, its path and state, its part of what is noted
/// of its object.
pub const SHARE_FILE_BYTES: u64 = 512;

/// What stays of an object while its files are closed because its clients wait, beside its key: the handle, its place in
/// the catalogue. It is claimed from the credit.
pub const CLOSED_HANDLE_BYTES: usize = 384;
/// Clients of an object wait for their sockets if none of them had a turn for so long.
pub const WAITING_AFTER: Duration = Duration::from_millis(100);
/// A request that finds as many share files in use as may be open waits for so long for one whose clients wait.
pub const OPEN_PATIENCE: Duration = Duration::from_millis(300);
/// A client that goes on and finds no room for its object's files tries again after this time,
pub const REOPEN_PAUSE: Duration = Duration::from_millis(20);
/// takes the place of one that is between two turns after this,
pub const REOPEN_URGENT: Duration = Duration::from_secs(1);
/// and gives up after this.
pub const REOPEN_PATIENCE: Duration = Duration::from_secs(30);

/// An open object is checked against its directories when a request comes this long after the last
/// check, so that a new put or a repair is seen.
pub const OBJECT_RECHECK: Duration = Duration::from_secs(1);
/// One of which too few shares can be read is looked up again this long after the last time, since a store that was not
/// asked then may help.
pub const UNREADABLE_RECHECK: Duration = Duration::from_millis(100);
/// An object that nobody asked for in this time is closed, so that its stores can be unmounted.
pub const OBJECT_UNUSED: Duration = Duration::from_secs(60);
/// How often an object is looked up again because a put seems to replace it right now.
pub const TORN_LOOKS_MAX: usize = 4;
/// Look-ups in the stores under way at once, per core. They run on threads of the stores since they block.
pub const LOOKUPS_MAX: usize = 4;
/// Helper threads of one store that look things up, for all cores together. Several, so that a disk can order its seeks;
/// a store that hangs keeps no more than these.
pub const STORE_LOOK_THREADS_MAX: usize = 4;
/// Helper threads of one store that read what a core can't: all that is not cached where io_uring is refused, and every
/// file on a file system that can't read without waiting.
pub const STORE_READ_THREADS_MAX: usize = 4;
/// Jobs that wait for one group of them. What would come behind so many counts as hung.
pub const STORE_QUEUE_MAX: usize = 256;
/// How long a store may take for one call when the operator does not say: ten times what a busy disk takes.
pub const STORE_TIMEOUT_DEFAULT: Duration = Duration::from_millis(500);
/// The least that may be set. Below, a busy disk or a busy core passes for one that hangs.
pub const STORE_TIMEOUT_LEAST: Duration = Duration::from_millis(50);
/// The most that may be set: a client has gone by then.
pub const STORE_TIMEOUT_MOST: Duration = Duration::from_secs(60);
/// A read that seems too late is waited for so much longer, so that the core sees what ended while it was busy.
pub const STORE_LAST_LOOK: Duration = Duration::from_millis(2);
/// How many times as long as a call may take a read is waited for while its store ends others that took long, and how
/// often a store is asked for an object that can't be opened without it while it is only late.
pub const STORE_PATIENCE: u32 = 4;
/// A suspended store is tried again after this pause,
pub const STORE_PAUSE_LEAST: Duration = Duration::from_secs(1);
/// which doubles with every failure up to this.
pub const STORE_PAUSE_MOST: Duration = Duration::from_secs(60);
/// A store that fails again this soon after it came back gets a longer pause than the last time.
pub const STORE_RELAPSE: Duration = Duration::from_secs(60);
/// How often suspended stores are looked at, to see whether their pause is over.
pub const STORE_TICK: Duration = Duration::from_millis(100);
/// How often a store that serves is tried, since nobody may ask it for anything.
pub const STORE_TRY_EVERY: Duration = Duration::from_secs(5);
/// How often a store is asked for its free space.
pub const STORE_SPACE_EVERY: Duration = Duration::from_secs(10);
/// After each step the survey of all objects rests this many times as long as the step took: it takes a twentieth of the
/// time at most, of one thread of each store.
pub const SURVEY_REST_TIMES: u32 = 19;
/// It rests no longer than this.
pub const SURVEY_REST_MOST: Duration = Duration::from_secs(10);
/// When all objects were looked at, the next round begins after this time when the operator does not say.
pub const SURVEY_EVERY_DEFAULT: Duration = Duration::from_secs(3600);
/// The most that may be set.
pub const SURVEY_EVERY_MOST: Duration = Duration::from_secs(366 * 24 * 3600);
/// The first begins so long after the start at most: clients that wait for a server come first.
pub const SURVEY_BEGINS: Duration = Duration::from_secs(10);
/// Names of objects' directories that the survey holds of each store, twice while it puts them together. A directory with
/// more is listed several times.
pub const SURVEY_NAMES_MAX: usize = 512;
/// A store is suspended if reads of so many different objects fail
pub const STORE_ERRORS_MAX: usize = 3;
/// within this time. One bad sector is no reason: it costs a share.
pub const STORE_ERRORS_WITHIN: Duration = Duration::from_secs(10);
/// A store is slow if its typical call takes longer than this,
pub const STORE_SLOW: Duration = Duration::from_millis(100);
/// and more than so many times as long as those of the other stores. Where all are slow, the load is.
pub const STORE_SLOW_TIMES: u32 = 4;
/// What is typical is the median of so many calls, the last ones,
pub const STORE_RECENT_CALLS: usize = 5;
/// and of so many at least.
pub const STORE_RECENT_CALLS_LEAST: usize = 3;
/// When most stores have said whether an object changed, the others have so much longer at least. What they say then
/// counts from the next request on.
pub const RECHECK_GRACE: Duration = Duration::from_millis(20);
/// Bytes that are there or missing together, of a cached share: every file system tells holes as fine as this.
pub const REMOTE_UNIT_BYTES: u64 = 64 << 10;
/// Who waits for bytes of a fetch is told of the first unit, and then so often.
pub const REMOTE_TOLD_EVERY: u64 = 4 * REMOTE_UNIT_BYTES;
/// A share file no longer than this is fetched whole when its header is.
pub const REMOTE_FIRST_BYTES: u64 = 256 << 10;
/// Bytes of one fetch for a client that waits for them: up to the next multiple of this in the share file. Its price is
/// a request, and what is fetched in vain.
pub const REMOTE_EXTENT_BYTES: u64 = 1 << 20;
/// Bytes of one fetch for what a fast client will want next.
pub const REMOTE_AHEAD_BYTES: u64 = 4 << 20;
/// How many of them it goes ahead of the client, in each share: several answers are waited for at one time.
pub const REMOTE_AHEAD_EXTENTS: u64 = 3;
/// What is kept of remote shares while the cache's disk can't be written: some pieces of clients that are being sent to.
pub const CACHE_MEMORY_BYTES: u64 = 16 << 20;
/// Bytes of one fetch then.
pub const MEMORY_EXTENT_BYTES: u64 = 2 * REMOTE_UNIT_BYTES;
/// How long a cache's disk that failed is left alone.
pub const CACHE_BROKEN: Duration = Duration::from_secs(30);
/// Fetches at one time when the operator does not say: as many as keep four stores busy that are 30 ms away.
pub const REMOTE_FETCHES_DEFAULT: usize = 32;
/// The least that may be set: those of one piece of a usual object, and some in their place.
pub const REMOTE_FETCHES_LEAST: usize = 8;
/// The most that may be set.
pub const REMOTE_FETCHES_MAX: usize = 4096;
/// The most of them at one store, while another is asked in place of one that is late.
pub const REMOTE_FETCHES_OF_STORE_MAX: usize = 24;
/// How often a piece is fetched again that is gone, or does not match, when it is read.
pub const FETCH_ATTEMPTS_MAX: usize = 8;
/// How long connecting to a remote store may take.
pub const REMOTE_CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long a remote store may take to begin an answer, and to go on with it.
pub const REMOTE_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take for a call on an object or a marker, which is some answers.
pub const REMOTE_CALL_WITHIN: Duration = Duration::from_secs(15);
/// How long a client waits for remote stores that failed, or are suspended, where it takes them.
pub const REMOTE_PATIENCE: Duration = Duration::from_secs(10);
/// The pause before they are asked again; it doubles,
pub const REMOTE_PAUSE_LEAST: Duration = Duration::from_millis(50);
/// up to this.
pub const REMOTE_PAUSE_MOST: Duration = Duration::from_millis(800);
/// Helper threads of a remote store that look things up: each waits for its answers.
pub const REMOTE_LOOK_THREADS_MAX: usize = 16;
/// Look-ups under way at once, per core, where there are remote stores.
pub const REMOTE_LOOKUPS_MAX: usize = 16;
/// Cached files that are remembered while nobody has them open. If there are more, the directory is read again.
pub const CACHE_FILES_MAX: usize = 32 * 1024;
/// What the HTTP client holds of an answer at one time.
pub const REMOTE_HTTP_BUFFER_BYTES: usize = 64 << 10;
/// `SO_RCVBUF` of a connection to a remote store; the kernel allows twice as much for its own structures.
pub const REMOTE_RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// Objects of which each remote store's files are remembered.
pub const REMOTE_LISTINGS_MAX: usize = 2048;
/// Files that a remote store may have of one object: some puts, and what their ends left.
pub const REMOTE_FILES_OF_OBJECT_MAX: usize = 256;
/// How long a listing of an object counts when the operator does not say.
pub const STORE_TTL_DEFAULT: Duration = Duration::from_secs(60);
/// The most that may be set.
pub const STORE_TTL_MOST: Duration = Duration::from_secs(24 * 3600);
/// Listings of one object by several stores are of one time if they were asked for within this.
pub const LISTED_TOGETHER: Duration = Duration::from_millis(500);
/// How often a remote store that serves is tried: each time is a request.
pub const REMOTE_TRY_EVERY: Duration = Duration::from_secs(30);
/// Bytes of the cache when the operator does not say.
pub const CACHE_SIZE_DEFAULT: u64 = 10 << 30;
/// The least that may be set.
pub const CACHE_SIZE_LEAST: u64 = 64 << 20;
/// A store's first byte is late no sooner than after this,
pub const HEDGE_AFTER_LEAST: Duration = Duration::from_millis(20);
/// and always after this.
pub const HEDGE_AFTER_MOST: Duration = Duration::from_secs(2);
/// One fetch in so many may be a hedge.
pub const HEDGE_EVERY: u64 = 20;
/// Hedges that are saved up while none is needed.
pub const HEDGES_SAVED_MAX: u64 = 32;
/// A body is late that comes at less than one part in so many of the others' median rate.
pub const HEDGE_RATE_PART: u64 = 4;
/// Pages of leaf checksum tables cached per core (4 KiB each; one covers 2 MiB of a share at the
/// usual leaf size).
pub const TABLE_PAGES_MAX: usize = 512;
/// Pages of leaf checksum tables that one piece has read together with its blocks; what is more comes one by one.
/// Few enough that the pieces of a core's default pool don't drive each other's out before they are used.
pub const TABLE_PAGES_AT_ONCE: usize = 64;
/// Runs of 1024 leaves of which a core remembers which it verified: 8 GiB of objects that are read whole, at the
/// usual leaf length.
pub const VERIFIED_PAGES_MAX: usize = 2048;
/// What one of them takes, its place in the table included.
pub const VERIFIED_PAGE_BYTES: usize = 376;
/// The longest object that is kept in memory if it is requested often: what a fast connection takes at once. Longer
/// ones cost less per byte in the other ways.
pub const HOT_OBJECT_BYTES_MAX: u64 = 64 << 10;
/// What is noted of an object whose start was produced, hot or not: part of what its share files are planned with.
pub const HOT_RECORD_BYTES: usize = 128;
/// One part in this many of what connections leave is for hot objects when the operator does not say. The rest is
/// lent to connections.
pub(super) const HOT_PART: u64 = 8;
/// What is noted of one rebuilt block: its place in a table and in a queue.
pub const REBUILT_BLOCK_BYTES: usize = 216;
/// Two clients want the same of an object if the first so many bytes that were rebuilt of a lost block are rebuilt again:
/// about as much as the smallest send buffer takes.
pub const REBUILT_SHARED_BYTES: usize = 4 * 1024;
/// Objects whose rebuilt blocks a core keeps at one time.
pub const REBUILT_OBJECTS_MAX: usize = 256;
/// One part in this many of what connections leave is for rebuilt blocks when the operator does not say,
pub(super) const REBUILT_PART: u64 = 8;
/// but no more than this per core. It spares rebuilding for clients of the same object that are this far apart in it,
/// or up to twice as far.
pub(super) const REBUILT_BYTES_MAX_DEFAULT: u64 = 32 << 20;
/// The least per core that is of any use: some tens of blocks.
pub(super) const REBUILT_BYTES_MIN: u64 = 2 << 20;
/// How long a verified leaf counts as good when the operator does not say, if its file stays as it is. What rots on
/// the disk under an unchanged file is noticed after this time at the latest.
pub const VERIFY_AGE_DEFAULT: Duration = Duration::from_secs(600);
/// How long leaves that were found in the page cache are taken to be there. A page that is evicted in that time and
/// spliced comes from the disk, unverified, and the core waits for it. Asking for every piece would cost 5 to 10% of a
/// spliced byte (0.4 to 0.8 microseconds for each share's 64 KiB).
pub const RESIDENT_FOR: Duration = Duration::from_millis(100);
/// How long leaves count as verified without the page cache being asked for them. Pages that leave the cache and come
/// back between two questions go unnoticed.
pub const CONFIRMED_FOR: Duration = Duration::from_secs(10);
/// How long the version of a share's file counts before the kernel is asked again, so that it isn't asked for every
/// piece that is spliced. What changes in that time changes what is sent, as it does while it waits in a socket.
pub const REVALIDATE_AFTER: Duration = Duration::from_millis(1);
/// A file whose times are younger than this may change again without showing it: many kernels take them from a clock
/// that advances every 10 ms or less.
pub const FILE_SETTLES: Duration = Duration::from_millis(50);
/// Bytes that are spliced to a socket with one call: fifteen pages, which fit a packet of 64 KiB with its headers.
/// Sixteen would leave a rest that goes alone, and wakes the peer a second time.
pub const SPLICE_BYTES_AT_ONCE: u64 = 15 * 4096;
/// The beginning of a piece is spliced by itself, before the rest is read, if it has this many bytes. So clients side
/// by side in an object come upon what the first of them verified.
pub const SPLICE_BYTES_MIN: u64 = 4096;
/// A piece is spliced, block by block, if its blocks have this many bytes: shorter ones (of small objects, of an
/// object's tail) are copied for less than the calls cost.
pub const SPLICE_BLOCK_BYTES_MIN: u64 = 8 * 1024;
/// Pieces shorter than this are not sent zero-copy. The kernel's documentation (msg_zerocopy) has it pay from about
/// 10 KB on; ours are three times as long, since each keeps a whole pool buffer.
pub const ZERO_COPY_BYTES_MIN: usize = 32 * 1024;
/// A connection is sent to zero-copy if its peer will have acknowledged everything within this time, at the rate of
/// the last sample. Half of the pool by default is two pieces of up to 256 KiB: in 10 ms that is 50 MB/s for which no
/// copying is paid, and more where peers acknowledge sooner. Slower connections would keep the buffers from the fast
/// ones, for little.
pub const ZERO_COPY_HOLD: Duration = Duration::from_millis(10);
/// Pool buffers that one connection may have pinned: one on its way, one being acknowledged.
pub const ZERO_COPY_PINS_MAX: usize = 2;
/// One buffer in this many of a core's pool may be pinned. Reading and sending go on with the rest, whatever the
/// peers of the pinned ones do.
pub const ZERO_COPY_POOL_PART: usize = 2;
/// Networks of peers that a core remembers because the kernel copies to them.
pub const ZERO_COPY_NETWORKS_MAX: usize = 256;
/// After this time the kernel is tried again where it copied: a packet capture ends, a route changes.
pub const ZERO_COPY_RETRY: Duration = Duration::from_secs(600);
/// Submission queue entries of the ring for zero-copy sends, which are submitted one by one.
pub const ZERO_COPY_RING_ENTRIES: u32 = 8;
/// Known bad leaves remembered per object, so that they are not read again for every client.
pub const BAD_LEAVES_MAX: usize = 256;
/// Reads of a share that may fail because of a bad sector before the share is given up: each costs the leaves that it
/// was to bring, no more.
pub const UNREADABLE_SPOTS_MAX: usize = 4;
/// Codes (generator matrices) and rebuild plans kept per core.
pub const CODES_MAX: usize = 16;
/// Inverted matrices kept per core, one per erasure pattern.
pub const REBUILD_PLANS_MAX: usize = 64;

/// Copies of one Tahoe-LAFS file's shares that are opened at most: two of the widest code's.
pub const TAHOE_SHARE_FILES_MAX: usize = 512;
/// An open file is looked up again when a request comes this long after it was opened: shares of a grid
/// never change, but they come and go.
pub const TAHOE_RECHECK: Duration = Duration::from_secs(60);
/// The same for a file that lost a share since.
pub const TAHOE_RECHECK_DAMAGED: Duration = Duration::from_secs(1);
/// Records of verified segments kept per core: some thousand segments of the usual lengths. A client of
/// a segment whose record was dropped costs its verification again.
pub const TAHOE_RECORDS_BYTES: usize = 4 << 20;
/// Leaves of a segment are made longer while its record would be more than this: a slow client's piece reads
/// whole leaves.
pub const TAHOE_RECORD_BYTES: usize = 32 << 10;
/// Hash trees whose last proven path a core remembers; that of a million segments takes 2 KiB.
pub const TAHOE_TREES_MAX: usize = 512;
/// Verifications under way at once per core, each with a pool buffer most of the time.
pub const TAHOE_VERIFICATIONS_MAX: usize = 4;
/// The longest segment that is accepted when the operator does not say. The first byte of a segment comes
/// after all of it was hashed, a gigabyte or two in a second.
pub const TAHOE_SEGMENT_BYTES_MAX_DEFAULT: u64 = 256 << 20;

/// Connections that the admin listener has at one time: some scrapers, some operators. For one more, the one that has
/// waited longest for a request is closed.
pub const ADMIN_CONNECTIONS_MAX: usize = 16;
/// Backlog of the admin listener.
pub const ADMIN_BACKLOG: i32 = 16;
/// One request head on the admin listener: the least that hyper can be set to.
pub const ADMIN_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Header fields in one.
pub const ADMIN_FIELDS_MAX: usize = 64;
/// Long replies of the admin listener that are in memory at one time. A client that is slow to take one gives way.
pub const ADMIN_REPLIES_MAX: usize = 4;
/// `SO_SNDBUF` of an admin connection.
pub const ADMIN_SEND_BUFFER_BYTES: u32 = 8 * 1024;
/// An admin connection is closed if no request arrives whole within this time. The live page asks every two seconds.
pub const ADMIN_IDLE: Duration = Duration::from_secs(10);
/// An admin client has this long to take a reply,
pub const ADMIN_REPLY_WITHIN: Duration = Duration::from_secs(15);
/// but gives way to others after this time.
pub const ADMIN_REPLY_GRACE: Duration = Duration::from_secs(1);
/// An admin connection is closed after this time, whatever it does.
pub const ADMIN_LIFETIME: Duration = Duration::from_secs(600);

/// Samples of the past that the admin thread keeps: a quarter of an hour, one every five seconds.
pub const HISTORY_SAMPLES: usize = 180;
/// What they take: a part of [`FIXED_BYTES`](super::costs::FIXED_BYTES).
pub const HISTORY_BYTES: u64 = 36 << 10;
/// What those of each store take.
pub const HISTORY_STORE_BYTES: u64 = 5 << 10;
/// The text of all of them in a reply, beside that of stores.
pub const HISTORY_REPLY_BYTES: usize = 32 << 10;

/// Buckets that S3 clients may be shown.
pub const BUCKETS_MAX: usize = 100;
/// Objects that a listing looks at together: their headers are held, of every store.
pub const LISTING_BATCH: usize = 16;
/// The most memory that the keys of a listing take, claimed from the credit: some hundred thousand.
pub const LISTING_WINDOW_BYTES_MOST: u64 = 32 << 20;
/// So much of it may be half of what is free: the keys of twenty thousand objects.
pub const LISTING_WINDOW_BYTES_USUAL: u64 = 4 << 20;
/// With less there is no listing: some hundred of the longest keys.
pub const LISTING_WINDOW_BYTES_LEAST: u64 = 256 << 10;
/// The most memory of one page, claimed from the credit: a thousand keys of usual lengths.
pub const LISTING_PAGE_BYTES: usize = 512 << 10;
/// Listings that wait for a look at the stores.
pub const LISTING_WAITING_MAX: usize = 64;
/// How long one waits: clients take no answer within a minute for a fault.
pub const LISTING_PATIENCE: Duration = Duration::from_secs(20);
/// When nobody has listed anything for so long, the keys are forgotten.
pub const LISTING_IDLE: Duration = Duration::from_secs(60);
/// The same where stores are remote: to learn a key again is a request.
pub const LISTING_REMOTE_IDLE: Duration = Duration::from_secs(600);
/// Names of files that a listing asks a remote store for at one time: as many as S3 tells.
pub const LISTING_NAMES_MOST: usize = 1000;
/// So many where credit is scarce: they are in the plan, and what goes beyond is claimed.
pub const LISTING_NAMES_LEAST: usize = 250;
/// What each takes: in the answer, while that is read, and until its object was looked at.
pub const LISTING_NAME_BYTES: u64 = 1200;
/// Requests for as many names that one look at all objects makes at most, times the remote stores: two million files in each.
pub const LISTING_PARTS_MAX: u64 = 2000;
/// Objects that a listing looks at together where stores are remote: their headers come side by side.
pub const LISTING_REMOTE_BATCH: usize = 64;
/// What such an object takes meanwhile: a header.
pub const LISTING_REMOTE_OBJECT_BYTES: u64 = 4 << 10;
/// Headers that one remote store is asked for at one time, each in the slot of a fetch.
pub const LISTING_HEADERS_TOGETHER: usize = 4;

/// The longest request id that a client may give.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// What the access log says of a request target at most: longer ones are cut.
pub const ACCESS_TARGET_BYTES_MAX: usize = 480;
/// What it says of a `Referer` and of a `User-Agent` at most.
pub const ACCESS_FIELD_BYTES_MAX: usize = 192;
/// Requests that wait to be written to the access log. Beyond them they are dropped and counted: no disk may hold up a
/// core.
pub const ACCESS_QUEUE_MAX: usize = 2048;
/// The lines that are written together.
pub const ACCESS_WRITE_BYTES: usize = 64 << 10;
/// Log lines that wait to be written. Beyond them lines are dropped and counted: no reader of the log may hold up a core.
pub const LOG_LINES_MAX: usize = 256;
/// Log lines a minute of one call in the source about things that fail, however many these are. A call that always logs
/// as much makes 17 MB a day.
pub const LOG_LINES_A_MINUTE: u32 = 60;
/// Things that failed of which it is known when they were logged last: 64 bytes each.
pub const LOG_THINGS_MAX: usize = 1024;
/// How often a core looks at its deadlines and its control channel, and samples its sockets.
pub const TICK: Duration = Duration::from_millis(250);
/// A request head must arrive whole within this time of its first byte (408).
pub const HEAD_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// A connection with no request is closed after this time.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// A client that acknowledges nothing for this long while bytes wait for it is closed. Stalled
/// clients hold only their socket's buffer, so patience is cheap.
pub const SEND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);
/// A shorter one may end live clients, and the server says so. A receiver that has fallen behind opens its
/// window again only when a segment, or a sixteenth to a half of its buffer, is free (RFC 9293 section
/// 3.8.6.2.2): what a slow reader acknowledges comes in steps, some seconds apart. Measured: 4 s for one of 16
/// KB/s with a buffer of 32 KiB.
pub const SEND_TIMEOUT_ADVISED: Duration = Duration::from_secs(10);
/// After a response that ends the connection, the peer has this long to take it and close.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// While a lingering connection waits for the last acknowledgement it looks this often at first,
pub const LINGER_PAUSE_LEAST: Duration = Duration::from_millis(1);
/// and this often in the end.
pub const LINGER_PAUSE_MOST: Duration = Duration::from_millis(250);
/// Bytes of an unwanted request body read and thrown away while lingering.
pub const LINGER_BYTES_MAX: usize = 256 * 1024;
/// While the server drains, a new connection has this long for its first request.
pub const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// Bodies under way may finish within this time after SIGTERM.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

const _: () = {
    assert!(
        TARGET_BYTES_MAX < REQUEST_HEAD_BYTES_MAX,
        "414 must be decidable before 431"
    );
    assert!(SEND_BUFFER_BYTES_MIN <= SEND_BUFFER_START_BYTES);
    assert!(SEND_BUFFER_START_BYTES <= SEND_BUFFER_FLOOR_BYTES_MAX);
    assert!(SEND_BUFFER_FLOOR_BYTES_MAX <= SEND_BUFFER_LOW_LATENCY_BYTES_MAX);
    assert!(SEND_BUFFER_LOW_LATENCY_BYTES_MAX <= SEND_BUFFER_LOW_LATENCY_FEW_BYTES_MAX);
    assert!(SEND_BUFFER_LOW_LATENCY_FEW_BYTES_MAX <= SEND_BUFFER_BYTES_MAX_DEFAULT);
    assert!(SEND_BUFFER_BYTES_MAX_DEFAULT <= SEND_BUFFER_BYTES_MAX);
    assert!(PENDING_BYTES_FREE < REQUEST_HEAD_BYTES_MAX);
    assert!(PIECE_BYTES_MAX + TABLE_PAGE_BYTES < POOL_BUFFER_BYTES_DEFAULT);
    assert!(POOL_BUFFERS_DEFAULT <= POOL_BUFFERS_MAX);
    assert!(READAHEAD_FIRST_BYTES < READAHEAD_BUFFER_BYTES as u64);
    assert!(READAHEAD_FIRST_BYTES < READAHEAD_PROBE_BYTES);
    assert!(READAHEAD_BUFFER_BYTES.is_multiple_of(DIRECT_ALIGN));
    assert!(TABLE_PAGES_AT_ONCE * POOL_BUFFERS_DEFAULT <= TABLE_PAGES_MAX);
    assert!(RING_COMPLETIONS >= 2 * RING_ENTRIES);
    assert!(RESIDENT_FOR.as_millis() < CONFIRMED_FOR.as_millis());
};

/// Memory when the operator does not say: so much, or so much per core if that is more. What each core has before its first
/// connection takes a third of that, so that a machine of any size starts.
pub const MEMORY_DEFAULT: u64 = 512 << 20;
/// The same for each core.
pub const MEMORY_DEFAULT_PER_CORE: u64 = 32 << 20;

/// Descriptors that the server needs beside its connections': those of the admin listener, and per core a listener, ring
/// or epoll instance, the runtime's own, refusals being sent, share files, some of them twice.
pub fn descriptors_own(cores: usize, share_files: usize) -> usize {
    64 + ADMIN_CONNECTIONS_MAX + cores * (64 + REFUSALS_MAX + READAHEAD_FILES_MAX + share_files)
}

/// Share files per core when the operator does not say: fewer than usual where they would take more than half of the
/// descriptors. Many machines allow 4096 descriptors or less.
pub fn share_files(cores: usize, descriptors: usize) -> usize {
    let room = (descriptors / 2).saturating_sub(descriptors_own(cores, 0));
    (room / cores).clamp(SHARE_FILES_MIN, SHARE_FILES_DEFAULT)
}
