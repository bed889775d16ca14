//! One interface to the kernel, two backends.
//!
//! Nothing outside this folder names io_uring, epoll or a system call. A core has one [`Io`]; sockets
//! and files are plain descriptors, and what differs is how waiting, reading and sending are done. No
//! operation here knows HTTP, objects or credit.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Type};

use crate::connection::gate::SendSpace;
use crate::memory::limits::{LISTEN_BACKLOG, PIECE_BYTES_MAX};

mod poller;
pub mod pool;
mod read;
pub mod splice;
pub mod sys;
pub mod zero_copy;

pub use read::Reading;
pub use read::uring::{ProbeError, probe as probe_uring};

use poller::{Poller, Registration};
use pool::{Pool, Window};
use read::{ReadingInner, Target, aio, epoll, uring};

/// How a core talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, through tokio-uring.
    Uring,
    /// Readiness by epoll and plain system calls.
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Uring => "uring",
            Backend::Epoll => "epoll",
        })
    }
}

/// Runs one core's work on a runtime of its own.
pub fn run<F: Future>(backend: Backend, work: F) -> io::Result<F::Output> {
    match backend {
        Backend::Uring => uring::run(work),
        Backend::Epoll => epoll::run(work),
    }
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to receive, a connection to accept, or the end of the stream.
    Read,
    /// Room to send: for TCP, unsent bytes under half of LOWAT and a third of the buffer free.
    Write,
}

/// A core's way to the kernel. Made inside [`run`].
pub struct Io {
    /// Sockets wait here on both backends.
    poller: Rc<Poller>,
    disk: Disk,
    page_cache: splice::PageCache,
    gatherer: Option<splice::Gatherer>,
}

/// Who reads what is not in the page cache.
enum Disk {
    Uring(uring::Uring),
    /// Helper threads, and what starts direct reads without them, where the kernel has that.
    Epoll(Option<aio::Aio>),
}

impl Io {
    /// Prepares the current runtime. The second value says why the pool could not be registered.
    pub fn new(backend: Backend, pool: &Pool) -> io::Result<(Io, Option<String>)> {
        let (disk, refusal) = match backend {
            Backend::Uring => {
                let (uring, refusal) = uring::Uring::new(pool)?;
                (Disk::Uring(uring), refusal)
            }
            Backend::Epoll => (Disk::Epoll(epoll::direct_reads()), None),
        };
        let io = Io {
            poller: Poller::new()?,
            disk,
            page_cache: splice::PageCache::default(),
            gatherer: splice::Gatherer::new(PIECE_BYTES_MAX)
                .inspect_err(
                    |error| tracing::warn!(%error, "no pipe, so nothing is passed through"),
                )
                .ok(),
        };
        Ok((io, refusal))
    }

    /// What passes ranges of files to a socket; `None` if the kernel gave us no pipe.
    pub fn gatherer(&self) -> Option<&splice::Gatherer> {
        self.gatherer.as_ref()
    }

    /// A ring for zero-copy sends from the pool's buffers. It needs no more of the backend than that io_uring
    /// may be used.
    pub fn zero_copy<T>(&self, pool: &Pool) -> io::Result<zero_copy::Pins<T>> {
        zero_copy::Pins::new(pool, |ring| self.poller.register(ring))
    }

    /// Whether a range of a file is in the page cache, as far as can be told without waiting.
    pub fn is_cached(&self, file: &File, range: Range<u64>) -> bool {
        self.page_cache.holds(file, range)
    }

    /// The same; `None` where the kernel does not tell without reading it in. The range is not empty.
    pub fn knows_cached(&self, file: &File, range: &Range<u64>) -> Option<bool> {
        self.page_cache.knows(file, range)
    }

    /// Waits until `socket` is ready, has failed, or was hung up. The first wait ends at once: nobody has
    /// looked yet. Ready for reading it stays until a call found nothing more.
    pub async fn ready(&self, socket: &Socket, interest: Interest) -> io::Result<()> {
        if interest == Interest::Read && socket.unasked.replace(false) {
            return Ok(());
        }
        let registration = match socket.registration.get() {
            Some(registration) => registration,
            None => {
                let registration = self.poller.register(socket.as_fd())?;
                socket.registration.get_or_init(|| registration)
            }
        };
        registration.ready(socket, interest).await
    }

    /// Lets the other tasks have their turn, the kernel what was started, and those that waited for a read what has come.
    pub async fn turn(&self) {
        match &self.disk {
            Disk::Uring(uring) => uring.turn().await,
            Disk::Epoll(direct) => {
                if let Some(aio) = direct {
                    aio.submit();
                    aio.reap();
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Has the kernel get what was started, if anything was, before the caller goes on.
    pub async fn submit(&self) {
        match &self.disk {
            Disk::Uring(uring) => uring.submit().await,
            Disk::Epoll(Some(aio)) => aio.submit(),
            Disk::Epoll(None) => {}
        }
    }

    /// Starts filling `window` from `offset` of `file`: from the page cache at once, from the disk later.
    /// Reads that are started together run together.
    pub fn start_read(&self, file: &Arc<File>, mut window: Window, offset: u64) -> Reading<'_> {
        // Cheaper than the ring for what is there (CPU per GB of a healthy GET, 32 connections: 0.26
        // s through the ring, 0.20 so). A part, or nothing: the rest is on disk, or past the end.
        let filled = sys::read_cached_at(file.as_fd(), &mut window, offset).unwrap_or(0);
        Reading(if filled == window.len() {
            ReadingInner::Done(window)
        } else {
            let target = Target {
                window,
                filled,
                padded: false,
            };
            self.read_rest(Arc::clone(file), target, offset)
        })
    }

    /// Starts filling `window` from `offset` of a file that [`splice::open_direct`] opened, past the page cache. The
    /// offset must be a multiple of [`DIRECT_ALIGN`](crate::memory::limits::DIRECT_ALIGN), and the window of a pool that is made
    /// [for such reads](Pool::for_direct_reads).
    pub fn start_direct_read(&self, file: &Arc<File>, window: Window, offset: u64) -> Reading<'_> {
        let target = Target {
            window,
            filled: 0,
            padded: true,
        };
        let file = Arc::clone(file);
        let Disk::Epoll(Some(aio)) = &self.disk else {
            return Reading(self.read_rest(file, target, offset));
        };
        Reading(match aio.read(file, target, offset) {
            Ok(read) => ReadingInner::Aio(read, offset),
            Err((file, target)) => self.read_rest(file, target, offset),
        })
    }

    fn read_rest(&self, file: Arc<File>, target: Target, offset: u64) -> ReadingInner<'_> {
        match &self.disk {
            Disk::Uring(uring) => ReadingInner::Uring {
                uring,
                offset,
                operation: uring.read(file, target, offset),
            },
            Disk::Epoll(_) => ReadingInner::Epoll(epoll::read(file, target, offset)),
        }
    }
}

/// Settings of a connection's socket. Set on the listener, inherited by what it accepts.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// `SO_SNDBUF`; `TCP_NOTSENT_LOWAT` is twice that.
    pub send_buffer_bytes: u32,
    /// `SO_RCVBUF`.
    pub receive_buffer_bytes: u32,
}

/// The congestion control of listeners on loopback addresses: the one that every kernel has and everybody may
/// choose. There is nothing to be congested, and BBR, the default of many systems, paces what is sent by a
/// timer (`tcp_pacing_check`, net/ipv4/tcp_output.c).
const UNPACED: &[u8] = b"reno";

/// A listener of one core, on its way to that core.
pub struct Listener(socket2::Socket);

impl Listener {
    /// Listens with `SO_REUSEPORT`, so that the kernel spreads connections over the cores' listeners.
    pub fn bind(address: SocketAddr, options: &SocketOptions) -> io::Result<Listener> {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(address.ip() != std::net::Ipv6Addr::UNSPECIFIED)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_recv_buffer_size(options.receive_buffer_bytes as usize)?;
        set_send_buffer(&socket, options.send_buffer_bytes)?;
        if address.ip().to_canonical().is_loopback() {
            // Accepted sockets inherit it; once one is connected, what another algorithm began can't be undone.
            if let Err(error) = socket.set_tcp_congestion(UNPACED) {
                tracing::debug!(%error, "this kernel paces what is sent on loopback, or does not");
            }
        }
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(Listener(socket))
    }

    /// The address it is bound to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.0
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// What a socket took: no room, or a signal before anything went, is nothing.
pub fn taken(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if is_retry(&error) => Ok(0),
        result => result,
    }
}

/// Whether a call that doesn't wait is to be made again later.
pub fn is_retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// How what is offered to a socket is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// By the kernel alone.
    Whole,
    /// Into three parts at least, none longer than the one before, so that the peer acknowledges the last one
    /// at once.
    Shrinking,
}

impl Cut {
    /// Offers `bytes` bytes part by part to `send`, until it takes less than it is given. An error after
    /// the first part ends it like a short count: the next attempt meets it again.
    fn send(
        self,
        bytes: usize,
        mut send: impl FnMut(Range<usize>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes {
            let left = bytes - sent;
            let part = match self {
                Cut::Whole => left,
                Cut::Shrinking => (left / 2).max(bytes / 4).max(1),
            };
            match send(sent..sent + part) {
                Ok(taken) => {
                    sent += taken;
                    if taken < part {
                        break;
                    }
                }
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }
}

/// A listener or a connection, on its core.
pub struct Socket {
    socket: socket2::Socket,
    /// Nobody has asked yet whether there is something to read.
    unasked: Cell<bool>,
    /// Its place in the poller, once it had to wait.
    registration: OnceCell<Registration>,
}

impl From<socket2::Socket> for Socket {
    fn from(socket: socket2::Socket) -> Socket {
        Socket {
            socket,
            unasked: Cell::new(true),
            registration: OnceCell::new(),
        }
    }
}

impl From<Listener> for Socket {
    fn from(listener: Listener) -> Socket {
        Socket::from(listener.0)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket {
    /// Takes one waiting connection, or fails with `WouldBlock`.
    pub fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let (socket, address) = self.noting(self.socket.accept4(flags))?;
        let address = address.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok((Socket::from(socket), address))
    }

    /// Receives what is there, or fails with `WouldBlock`; 0 is the end of the stream.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.noting((&self.socket).read(buffer))?;
        if count < buffer.len() {
            self.drained();
        }
        Ok(count)
    }

    fn noting<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.drained();
        }
        result
    }

    /// There is no more: the next wait is for an event.
    fn drained(&self) {
        if let Some(registration) = self.registration.get() {
            registration.drained();
        }
    }

    /// Offers parts, one after another, without waiting for room: the count may be short, and `WouldBlock`
    /// means none. They leave in segments cut as `cut` says.
    pub fn send<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        cut: Cut,
    ) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let bytes = parts.clone().map(<[u8]>::len).sum();
        cut.send(bytes, |range| {
            let parts = pool::within(parts.clone(), range);
            self.socket.send_vectored_with_flags(&parts, flags)
        })
    }

    /// The most bytes of one segment to this peer (`TCP_MAXSEG`).
    pub fn segment_bytes(&self) -> io::Result<u32> {
        self.socket.tcp_mss()
    }

    /// Sends what more bytes will follow at once, without waiting for room: they may share a packet.
    pub fn send_ahead<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> io::Result<usize> {
        let flags = libc::MSG_MORE | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let bytes = parts.clone().map(<[u8]>::len).sum();
        let parts = pool::within(parts, 0..bytes);
        self.socket.send_vectored_with_flags(&parts, flags)
    }

    /// What the gate needs to know.
    pub fn send_space(&self) -> io::Result<SendSpace> {
        let memory = sys::socket_memory(self.as_fd())?;
        Ok(SendSpace {
            queued_bytes: memory.send_queue,
            buffer_bytes: memory.send_buffer,
        })
    }

    /// Bytes queued and never sent yet.
    pub fn unsent_bytes(&self) -> io::Result<u32> {
        sys::unsent_bytes(self.as_fd())
    }

    /// The kernel's memory for this socket.
    pub fn memory(&self) -> io::Result<sys::SocketMemory> {
        sys::socket_memory(self.as_fd())
    }

    /// Bytes that the peer has not acknowledged, unsent ones included.
    pub fn unacknowledged_bytes(&self) -> io::Result<u32> {
        sys::unacknowledged_bytes(self.as_fd())
    }

    /// Sets `SO_SNDBUF` and with it `TCP_NOTSENT_LOWAT`.
    pub fn set_send_buffer(&self, bytes: u32) -> io::Result<()> {
        set_send_buffer(&self.socket, bytes)
    }

    /// The smoothed round-trip time.
    pub fn round_trip(&self) -> io::Result<Duration> {
        let info = sys::tcp_info(self.as_fd())?;
        Ok(Duration::from_micros(u64::from(info.tcpi_rtt)))
    }

    /// Whether the connection is there no more and its queues are freed: both sides closed it, or either
    /// reset it. What is counted as unacknowledged then will never be.
    pub fn is_gone(&self) -> bool {
        /// `TCP_CLOSE` (net/tcp_states.h).
        const CLOSED: u8 = 7;
        sys::tcp_info(self.as_fd()).is_ok_and(|info| info.tcpi_state == CLOSED)
    }

    /// Tells the peer that no more bytes will come.
    pub fn finish_sending(&self) {
        // It fails only if the connection is gone.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Stops listening and wakes whoever waits for connections. Closing the descriptor would not do: a
    /// wait in the ring holds the listener open, and the kernel would go on completing connections.
    pub fn stop_listening(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Stops receiving: whoever waits wakes and reads the end of the stream.
    pub fn finish_receiving(&self) {
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Before the descriptor is closed: what is queued then, its end (FIN) at least, the kernel gives up after
    /// this time without progress (`TCP_USER_TIMEOUT`), where else it would try for many minutes. Not for a
    /// connection that is served: to the kernel a window that stays small is no progress, and a slow reader
    /// that acknowledges all the time would be cut off (measured: 16 KB/s, after just this time).
    pub fn leave(&self, timeout: Duration) {
        // It fails only if the connection is gone.
        let _ = self.socket.set_tcp_user_timeout(Some(timeout));
    }

    /// Ends the connection at once: queues are freed, the peer sees a reset, waiters wake.
    pub fn abort(&self) {
        sys::abort(self.as_fd());
    }
}

/// The kernel doubles `SO_SNDBUF`. With LOWAT at the doubled value POLLOUT means that less than half of
/// the buffer is unsent and a third of it is free: both bounds from one number.
fn set_send_buffer(socket: &socket2::Socket, bytes: u32) -> io::Result<()> {
    socket.set_send_buffer_size(bytes as usize)?;
    socket.set_tcp_notsent_lowat(bytes.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_shrink_and_a_short_count_ends_them() {
        let parts = |cut: Cut, bytes: usize, room: usize| {
            let mut parts = Vec::new();
            let mut left = room;
            let sent = cut.send(bytes, |range| {
                assert_eq!(range.start, parts.iter().sum::<usize>());
                let taken = range.len().min(left);
                if taken == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                left -= taken;
                parts.push(taken);
                Ok(taken)
            });
            (sent.ok(), parts)
        };
        assert_eq!(parts(Cut::Whole, 8000, 9000), (Some(8000), vec![8000]));
        let shrinking = |bytes, room| parts(Cut::Shrinking, bytes, room);
        assert_eq!(shrinking(8000, 9000), (Some(8000), vec![4000, 2000, 2000]));
        assert_eq!(shrinking(8000, 5000), (Some(5000), vec![4000, 1000]));
        assert_eq!(shrinking(8000, 4000), (Some(4000), vec![4000]));
        assert_eq!(shrinking(8000, 0), (None, vec![]));
        for bytes in 1..100 {
            let (sent, parts) = shrinking(bytes, bytes);
            assert_eq!(sent, Some(bytes));
            assert!(
                parts.len() <= 5 && parts.is_sorted_by(|a, b| a >= b),
                "{parts:?}"
            );
        }
    }

    #[test]
    fn what_is_accepted_on_a_loopback_address_is_not_paced() {
        let options = SocketOptions {
            send_buffer_bytes: 8192,
            receive_buffer_bytes: 4096,
        };
        for (address, expected) in [
            ("127.0.0.1:0", Some(UNPACED)),
            ("[::1]:0", Some(UNPACED)),
            // Its clients may come from anywhere: the system's.
            ("0.0.0.0:0", None),
        ] {
            let listener = match Listener::bind(address.parse().unwrap(), &options) {
                Ok(listener) => listener,
                Err(error) => {
                    println!("skipped: cannot listen on {address}: {error}");
                    continue;
                }
            };
            let mut to = listener.local_address().unwrap();
            if to.ip().is_unspecified() {
                to.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            let client = std::net::TcpStream::connect(to).unwrap();
            let systems = socket2::SockRef::from(&client).tcp_congestion().unwrap();
            listener.0.set_nonblocking(false).unwrap();
            let (accepted, _) = listener.0.accept().unwrap();
            let name = |bytes: &[u8]| {
                String::from_utf8_lossy(bytes)
                    .trim_end_matches('\0')
                    .to_owned()
            };
            assert_eq!(
                name(&accepted.tcp_congestion().unwrap()),
                name(expected.unwrap_or(&systems)),
                "{address}"
            );
        }
    }
}
