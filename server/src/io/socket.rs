//! Listeners and connections, and the segments that sends leave in.

use std::cell::{Cell, OnceCell};
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Type};

use super::message::io_slices;
use super::poller::{Interest, Poller, Registration};
use super::sys;
use crate::memory::limits::LISTEN_BACKLOG;

/// Buffer sizes of connections. They are set on the listener, and the sockets it accepts inherit them.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// `SO_SNDBUF`; `TCP_NOTSENT_LOWAT` is twice that.
    pub send_buffer_bytes: u32,
    /// `SO_RCVBUF`.
    pub receive_buffer_bytes: u32,
}

/// The congestion control of listeners on loopback addresses. Loopback is never congested, and BBR, the default of
/// many systems, paces sends by a timer (`tcp_pacing_check`, net/ipv4/tcp_output.c). Every kernel has this one, and any
/// user may choose it.
const UNPACED: &[u8] = b"reno";

/// A bound listener, before its core turns it into a [`Socket`].
pub struct Listener {
    socket: socket2::Socket,
    /// What the sockets that it accepts are set to, if they may not have inherited it.
    accepted: Option<SocketOptions>,
}

impl Listener {
    /// Listens with `SO_REUSEPORT`, so that the kernel spreads connections over the cores' listeners.
    ///
    /// # Errors
    /// The kernel's, mostly that the address is taken or not ours.
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
        options.set_on_listener(&socket, address)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(Listener {
            socket,
            accepted: None,
        })
    }

    /// Takes a listener that another process made. Connections that it has already completed did not inherit what is set
    /// here, so it is set on every one that is accepted.
    ///
    /// # Errors
    /// If it is no listener for TCP, or the kernel's.
    pub fn adopt(descriptor: OwnedFd, options: &SocketOptions) -> io::Result<Listener> {
        let socket = socket2::Socket::from(descriptor);
        let address = socket.local_addr()?.as_socket();
        let (true, Some(address)) = (is_stream_listener(&socket)?, address) else {
            let error = "not a socket that listens for TCP connections";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        };
        options.set_on_listener(&socket, address)?;
        // This sets its backlog.
        socket.listen(LISTEN_BACKLOG)?;
        Ok(Listener {
            socket,
            accepted: Some(*options),
        })
    }

    /// Another descriptor of the same listener, for another core: each connection goes to one of them.
    pub fn duplicate(&self) -> io::Result<Listener> {
        Ok(Listener {
            socket: self.socket.try_clone()?,
            accepted: self.accepted,
        })
    }

    /// Another descriptor of the same socket.
    pub fn socket(&self) -> io::Result<socket2::Socket> {
        self.socket.try_clone()
    }

    /// The address that the listener is bound to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// Whether a socket accepts connections that are streams.
pub fn is_stream_listener(socket: &socket2::Socket) -> io::Result<bool> {
    Ok(socket.r#type()? == Type::STREAM && rustix::net::sockopt::socket_acceptconn(socket)?)
}

impl SocketOptions {
    /// Sets what accepted sockets inherit.
    fn set_on_listener(&self, socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.set(socket)?;
        if address.ip().to_canonical().is_loopback() {
            // Set here and inherited: on a connected socket it can't undo what another algorithm began.
            if let Err(error) = socket.set_tcp_congestion(UNPACED) {
                tracing::debug!(%error, "sends on loopback may be paced");
            }
        }
        Ok(())
    }

    fn set(&self, socket: &socket2::Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        socket.set_recv_buffer_size(self.receive_buffer_bytes as usize)?;
        set_send_buffer(socket, self.send_buffer_bytes)
    }
}

/// The number of bytes a send took, where no room, or a signal before the first byte, counts as 0.
pub fn sent_or_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if is_transient(&error) => Ok(0),
        result => result,
    }
}

/// Whether a non-blocking call failed only for now: no room or no data, or a signal.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// How a send is divided into TCP segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// The kernel alone decides.
    ByKernel,
    /// Three sends at least, none longer than the one before. A receiver acknowledges a segment that is shorter than
    /// usual at once. It may delay the acknowledgement of any other, and a send buffer smaller than one segment would
    /// wait for that.
    Decreasing,
}

impl Segmentation {
    /// Offers `bytes` bytes to `send`, part by part, until it takes less than it is given. An error after the first
    /// part ends this like a short count, because the next call meets it again.
    pub(super) fn send(
        self,
        bytes: usize,
        mut send: impl FnMut(Range<usize>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes {
            let left = bytes - sent;
            let part = match self {
                Segmentation::ByKernel => left,
                Segmentation::Decreasing => (left / 2).max(bytes / 4).max(1),
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

/// The fill of a socket's send buffer, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendSpace {
    /// Memory charged to the send queue, skb overhead included (`SK_MEMINFO_WMEM_QUEUED`).
    pub queued_bytes: u32,
    /// The bound on `queued_bytes`: twice what was set with `SO_SNDBUF` (`SK_MEMINFO_SNDBUF`).
    pub buffer_bytes: u32,
}

/// A listener or a connection of one core.
pub struct Socket {
    socket: socket2::Socket,
    /// Nothing has tried to receive yet, so the first wait ends at once.
    untried: Cell<bool>,
    /// Set once the socket had to wait.
    registration: OnceCell<Registration>,
    /// What the sockets that it accepts are set to, if they may not have inherited it.
    accepted: Option<SocketOptions>,
}

impl From<socket2::Socket> for Socket {
    fn from(socket: socket2::Socket) -> Socket {
        Socket {
            socket,
            untried: Cell::new(true),
            registration: OnceCell::new(),
            accepted: None,
        }
    }
}

impl From<Listener> for Socket {
    fn from(listener: Listener) -> Socket {
        Socket {
            accepted: listener.accepted,
            ..Socket::from(listener.socket)
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket {
    /// See [`Io::ready`](super::Io::ready).
    pub(super) async fn ready(&self, poller: &Rc<Poller>, interest: Interest) -> io::Result<()> {
        if interest == Interest::Read && self.untried.replace(false) {
            return Ok(());
        }
        let registration = match self.registration.get() {
            Some(registration) => registration,
            None => {
                let registration = poller.register(self.as_fd())?;
                self.registration.get_or_init(|| registration)
            }
        };
        registration.ready(self, interest).await
    }

    /// Whether there is something to receive, or a connection to accept.
    pub fn is_readable_now(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Accepts one waiting connection, or fails with `WouldBlock`.
    pub fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let (socket, address) = self.note_would_block(self.socket.accept4(flags))?;
        let address = address.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        if let Some(options) = &self.accepted {
            // One that can't be bounded is not served. It fails if the peer is gone.
            let set = options.set(&socket);
            set.map_err(|_| io::ErrorKind::ConnectionAborted)?;
        }
        Ok((Socket::from(socket), address))
    }

    /// Receives the bytes that are there, or fails with `WouldBlock`. 0 is the end of the stream.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.note_would_block((&self.socket).read(buffer))?;
        if count < buffer.len() {
            self.clear_readable();
        }
        Ok(count)
    }

    /// Remembers from a `WouldBlock` that the next wait is for an event.
    fn note_would_block<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.clear_readable();
        }
        result
    }

    fn clear_readable(&self) {
        if let Some(registration) = self.registration.get() {
            registration.clear_readable();
        }
    }

    /// Sends parts, one after another, without waiting for room. The count may be short, and `WouldBlock` means that
    /// there is no room at all.
    pub fn send<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        segmentation: Segmentation,
    ) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let bytes = parts.clone().map(<[u8]>::len).sum();
        segmentation.send(bytes, |range| {
            let parts = io_slices(parts.clone(), range);
            self.socket.send_vectored_with_flags(&parts, flags)
        })
    }

    /// Sends parts that are cut as the kernel likes.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn send_whole<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> io::Result<usize> {
        self.send(parts, Segmentation::ByKernel)
    }

    /// The maximum segment size to this peer (`TCP_MAXSEG`).
    pub fn max_segment_bytes(&self) -> io::Result<u32> {
        self.socket.tcp_mss()
    }

    /// Sends parts that more bytes follow at once (`MSG_MORE`), so that they may share a packet. It does not wait for
    /// room either.
    pub fn send_more<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> io::Result<usize> {
        let flags = libc::MSG_MORE | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let bytes = parts.clone().map(<[u8]>::len).sum();
        let parts = io_slices(parts, 0..bytes);
        self.socket.send_vectored_with_flags(&parts, flags)
    }

    /// The fill of the send buffer.
    pub fn send_space(&self) -> io::Result<SendSpace> {
        let memory = sys::socket_memory(self.as_fd())?;
        Ok(SendSpace {
            queued_bytes: memory.send_queue,
            buffer_bytes: memory.send_buffer,
        })
    }

    /// Bytes that are queued and were never sent.
    pub fn unsent_bytes(&self) -> io::Result<u32> {
        sys::unsent_bytes(self.as_fd())
    }

    /// The kernel's memory for this socket.
    pub fn memory(&self) -> io::Result<sys::SocketMemory> {
        sys::socket_memory(self.as_fd())
    }

    /// Bytes that are queued and not acknowledged, unsent ones included.
    pub fn unacknowledged_bytes(&self) -> io::Result<u32> {
        sys::unacknowledged_bytes(self.as_fd())
    }

    /// Sets `SO_SNDBUF`, and `TCP_NOTSENT_LOWAT` with it.
    pub fn set_send_buffer(&self, bytes: u32) -> io::Result<()> {
        set_send_buffer(&self.socket, bytes)
    }

    /// The smoothed round-trip time.
    pub fn round_trip_time(&self) -> io::Result<Duration> {
        let info = sys::tcp_info(self.as_fd())?;
        Ok(Duration::from_micros(u64::from(info.tcpi_rtt)))
    }

    /// Whether the connection is closed on both sides, or reset. Its queues are freed then, and bytes that still count
    /// as unacknowledged stay so.
    pub fn is_closed(&self) -> bool {
        /// `TCP_CLOSE` (net/tcp_states.h).
        const CLOSED: u8 = 7;
        sys::tcp_info(self.as_fd()).is_ok_and(|info| info.tcpi_state == CLOSED)
    }

    /// Shuts down the sending side, which tells the peer that no more bytes come.
    pub fn shutdown_send(&self) {
        // This fails only if the connection is gone.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Stops listening, and wakes the task that waits for connections. Dropping the socket would not do while that task
    /// holds it: the kernel would go on completing connections.
    pub fn stop_listening(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Shuts down the receiving side. A task that waits for bytes wakes and reads the end of the stream.
    pub fn shutdown_receive(&self) {
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Sets how long the kernel keeps a closed connection without progress (`TCP_USER_TIMEOUT`). It holds queued bytes,
    /// a FIN at least, and would otherwise try for many minutes. Only for a connection that is about to be closed: to
    /// the kernel a window that stays small is no progress, so a slow reader that acknowledges all the time would be
    /// cut off.
    pub fn set_close_timeout(&self, timeout: Duration) {
        // This fails only if the connection is gone.
        let _ = self.socket.set_tcp_user_timeout(Some(timeout));
    }

    /// Resets the connection. Its queues are freed, the peer sees a reset, and waiting tasks wake.
    pub fn reset(&self) {
        sys::reset(self.as_fd());
    }
}

/// The kernel doubles `SO_SNDBUF`. With LOWAT at the doubled value, POLLOUT means that less than half of the buffer is
/// unsent and a third of it is free, so one number sets both bounds.
fn set_send_buffer(socket: &socket2::Socket, bytes: u32) -> io::Result<()> {
    socket.set_send_buffer_size(bytes as usize)?;
    socket.set_tcp_notsent_lowat(bytes.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decreasing_parts_end_with_a_short_count() {
        let parts = |segmentation: Segmentation, bytes: usize, room: usize| {
            let mut parts = Vec::new();
            let mut left = room;
            let sent = segmentation.send(bytes, |range| {
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
        assert_eq!(
            parts(Segmentation::ByKernel, 8000, 9000),
            (Some(8000), vec![8000])
        );
        let decreasing = |bytes, room| parts(Segmentation::Decreasing, bytes, room);
        assert_eq!(decreasing(8000, 9000), (Some(8000), vec![4000, 2000, 2000]));
        assert_eq!(decreasing(8000, 5000), (Some(5000), vec![4000, 1000]));
        assert_eq!(decreasing(8000, 4000), (Some(4000), vec![4000]));
        assert_eq!(decreasing(8000, 0), (None, vec![]));
        for bytes in 1..100 {
            let (sent, parts) = decreasing(bytes, bytes);
            assert_eq!(sent, Some(bytes));
            assert!(
                parts.len() <= 5 && parts.is_sorted_by(|a, b| a >= b),
                "{parts:?}"
            );
        }
    }

    #[test]
    fn connections_accepted_on_a_loopback_address_are_not_paced() {
        let options = SocketOptions {
            send_buffer_bytes: 8192,
            receive_buffer_bytes: 4096,
        };
        for (address, expected) in [
            ("127.0.0.1:0", Some(UNPACED)),
            ("[::1]:0", Some(UNPACED)),
            // Its clients may come from anywhere, so the system's choice stays.
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
            let system = socket2::SockRef::from(&client).tcp_congestion().unwrap();
            listener.socket.set_nonblocking(false).unwrap();
            let (accepted, _) = listener.socket.accept().unwrap();
            let name = |bytes: &[u8]| {
                String::from_utf8_lossy(bytes)
                    .trim_end_matches('\0')
                    .to_owned()
            };
            assert_eq!(
                name(&accepted.tcp_congestion().unwrap()),
                name(expected.unwrap_or(&system)),
                "{address}"
            );
        }
    }
}
