//! Sockets and files: one interface to the kernel over two backends.
//!
//! Each core has one [`Io`]. Sockets and files are plain descriptors; the backends differ only in how files are
//! read. No other room names io_uring, epoll or a system call, and this one knows nothing of HTTP, objects or
//! budgets.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::memory::limits::PIECE_BYTES_MAX;
use crate::units::FileOffset;

mod backend;
mod message;
mod page_cache;
mod poller;
mod pool;
mod read;
mod socket;
mod splice;
mod sys;
mod threads;
mod zero_copy;

pub use backend::{Backend, ProbeError, probe, run};
pub use message::{Chunk, Message};
pub use page_cache::{FileVersion, advise_sequential, file_version, is_cached, read_cached};
pub use poller::Interest;
pub use pool::{Pool, PoolBuffer, Room, View, Window};
pub use read::{GivenUp, PendingRead, ReadEnd, join};
pub use socket::{
    Listener, Segmentation, SendSpace, Socket, SocketOptions, is_stream_listener, is_transient,
    sent_or_zero,
};
pub use splice::SplicePipe;
pub use sys::{
    Resource, SocketMemory, cached_pages, idle_io_priority, may_lock_memory, raise_resource_limit,
    resource_limit, socket_memory, take_inherited,
};
pub use threads::{Refused, StoreFile, StoreThreads, Threads, open_direct, start_open_direct};
pub use zero_copy::{CompletedSend, ZeroCopyRing, probe_zero_copy};

use poller::Poller;
use read::Reader;

/// One core's access to the kernel. It is made inside [`run`].
pub struct Io {
    /// Sockets wait here on both backends.
    poller: Rc<Poller>,
    reader: Reader,
    splice_pipe: Option<SplicePipe>,
}

impl Io {
    /// Prepares the current runtime. The second value says why the pool could not be registered with the ring.
    ///
    /// # Errors
    /// The kernel's, if it refuses a descriptor.
    pub fn new(backend: Backend, pool: &Pool) -> io::Result<(Io, Option<String>)> {
        let (reader, refusal) = Reader::new(backend, pool)?;
        let io = Io {
            poller: Poller::new()?,
            reader,
            splice_pipe: SplicePipe::new(PIECE_BYTES_MAX)
                .inspect_err(|error| tracing::warn!(%error, "no pipe, so nothing is spliced"))
                .ok(),
        };
        Ok((io, refusal))
    }

    /// The pipe that splices file ranges to sockets; `None` if the kernel refused one.
    pub fn splice_pipe(&self) -> Option<&SplicePipe> {
        self.splice_pipe.as_ref()
    }

    /// Makes a ring for zero-copy sends from the pool's buffers. It works on both backends wherever the kernel
    /// allows io_uring.
    ///
    /// # Errors
    /// The kernel's, if it refuses the ring or such sends.
    pub fn zero_copy_ring<T>(&self, pool: &Pool) -> io::Result<ZeroCopyRing<T>> {
        ZeroCopyRing::new(pool, &self.poller)
    }

    /// Waits until `socket` is ready, has failed, or was hung up. The first wait for bytes ends at once, because
    /// nothing has tried to receive yet. From then on a socket stays readable until a call found nothing more.
    ///
    /// # Errors
    /// The kernel's, if the socket can't be registered.
    pub async fn ready(&self, socket: &Socket, interest: Interest) -> io::Result<()> {
        socket.ready(&self.poller, interest).await
    }

    /// Lets other tasks run, submits the reads that were started, and wakes the tasks that wait for a finished one.
    pub async fn yield_now(&self) {
        self.reader.yield_now().await;
    }

    /// Submits the reads that were started, if there are any, before the caller goes on.
    pub async fn submit_reads(&self) {
        self.reader.submit().await;
    }

    /// Starts filling `window` from `offset` of `file`. Bytes in the page cache are copied at once; the rest is
    /// read from disk. Reads that are started together are submitted together.
    pub fn start_read(
        &self,
        file: &Arc<StoreFile>,
        window: Window,
        offset: FileOffset,
    ) -> PendingRead<'_> {
        self.reader.read(file, window, offset.0)
    }

    /// Starts filling `window` from `offset` of a file that [`open_direct`] opened, past the page cache. The
    /// offset must be a multiple of [`DIRECT_ALIGN`](crate::memory::limits::DIRECT_ALIGN), and the window must be
    /// of a pool [for direct reads](Pool::for_direct_reads).
    pub fn start_direct_read(
        &self,
        file: &Arc<StoreFile>,
        window: Window,
        offset: FileOffset,
    ) -> PendingRead<'_> {
        self.reader.read_direct(file, window, offset.0)
    }
}
