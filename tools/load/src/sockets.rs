//! Kernel memory of a server's sockets, as the kernel reports it by `sock_diag` and `ss -m` shows it.
//!
//! It covers the sockets of the caller's network namespace, and the memory that the kernel charges to a socket: queues,
//! and memory reserved for them. It does not cover the socket structures (some 3 KiB of slab memory per connection).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Bytes of one response; the kernel fills the buffer, up to 32 KiB.
const ANSWER_BYTES: usize = 64 * 1024;
/// The largest number of sockets read from one dump: far more than one machine has.
const SOCKETS_MAX: u64 = 4_000_000;

/// The memory of several sockets, in bytes, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct SocketMemory {
    /// The number of sockets, including listening sockets and connections not yet accepted.
    pub sockets: u64,
    /// The number of sockets in state ESTABLISHED.
    pub established: u64,
    /// Received and not yet read (`sk_rmem_alloc`, r of `ss -m`).
    pub receive: u64,
    /// Queued to send: not yet sent or not yet acknowledged (`sk_wmem_queued`, w).
    pub send: u64,
    /// In transit through lower layers (`sk_wmem_alloc`, t). TCP sends clones that share their data with the send
    /// queue, so this is not added to the total.
    pub transmit: u64,
    /// Reserved for the socket and unused (`sk_forward_alloc`, f).
    pub forward: u64,
    /// Options (`sk_omem_alloc`, o).
    pub option: u64,
    /// Received while the socket was locked (`sk_backlog`, bl).
    pub backlog: u64,
}

impl SocketMemory {
    /// The sum in bytes, without [`transmit`](Self::transmit).
    pub fn total(&self) -> u64 {
        self.receive + self.send + self.forward + self.option + self.backlog
    }

    fn add(&mut self, response: &InetResponse) {
        self.sockets += 1;
        self.established += u64::from(response.header.state == TCP_ESTABLISHED);
        let info = response.nlas.iter().find_map(|nla| match nla {
            Nla::MemInfo(info) => Some(info),
            _ => None,
        });
        // Half-open and TIME_WAIT connections have no memory info.
        let Some(info) = info else { return };
        self.receive += u64::from(info.receive_queue);
        self.send += u64::from(info.send_queue);
        self.transmit += u64::from(info.bottom_send_queues);
        // Signed in the kernel, and below zero for moments.
        self.forward += u64::try_from(info.cache.cast_signed()).unwrap_or(0);
        self.option += u64::from(info.options);
        self.backlog += u64::from(info.backlog_queue_length);
    }
}

/// Requests the sockets of one local port from the kernel.
#[derive(Debug)]
pub(crate) struct SocketWatch {
    netlink: OwnedFd,
    server: SocketAddr,
    answer: Vec<u8>,
}

impl SocketWatch {
    /// A watch on the server that listens on `server`'s port of this machine.
    pub(crate) fn new(server: SocketAddr) -> io::Result<SocketWatch> {
        let netlink = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        // The kernel answers within the call. The timeout is a safeguard.
        setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
        Ok(SocketWatch {
            netlink,
            server,
            answer: vec![0; ANSWER_BYTES],
        })
    }

    /// Sums the server's sockets, of both address families.
    pub(crate) fn measure(&mut self) -> io::Result<SocketMemory> {
        let mut memory = SocketMemory::default();
        for (family, mut id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            // The kernel itself leaves out all other local ports.
            id.source_port = self.server.port();
            self.dump(family, id, &mut memory)?;
        }
        Ok(memory)
    }

    fn dump(
        &mut self,
        family: u8,
        socket_id: SocketId,
        memory: &mut SocketMemory,
    ) -> io::Result<()> {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::SKMEMINFO,
            states: StateFlags::all() - StateFlags::TIME_WAIT,
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.netlink.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let before = memory.sockets;
        while memory.sockets - before < SOCKETS_MAX {
            let got = recv(
                self.netlink.as_raw_fd(),
                &mut self.answer,
                MsgFlags::empty(),
            )?;
            let mut rest = &self.answer[..got];
            while !rest.is_empty() {
                let broken = |error| io::Error::other(format!("sock_diag's answer: {error}"));
                let message =
                    NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(broken)?;
                // Messages start at multiples of 4 bytes.
                let length = (message.header.length as usize)
                    .next_multiple_of(4)
                    .clamp(16, rest.len());
                rest = &rest[length..];
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response))
                        if self.is_servers(&response.header.socket_id) =>
                    {
                        memory.add(&response);
                    }
                    _ => {}
                }
            }
        }
        Err(io::Error::other(format!(
            "sock_diag names over {SOCKETS_MAX} sockets"
        )))
    }

    /// A client's socket may by chance have the server's port number, at another address or as its peer's port.
    fn is_servers(&self, id: &SocketId) -> bool {
        let local = id.source_address.to_canonical();
        let listening = id.destination_port == 0;
        id.destination_port != self.server.port()
            && (listening
                || !self.server.ip().to_canonical().is_loopback()
                || local == self.server.ip().to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn queued_bytes_count_at_the_end_that_holds_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut watch = SocketWatch::new(address).unwrap();
        let empty = watch.measure().unwrap();
        assert_eq!((empty.sockets, empty.established, empty.total()), (1, 0, 0));

        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // The client's bytes wait at the server, unread.
        client.write_all(&[1; 10_000]).unwrap();
        let waiting = watch.measure().unwrap();
        assert_eq!((waiting.sockets, waiting.established), (2, 1));
        assert!(waiting.receive >= 10_000, "{waiting:?}");
        let mut seen = vec![0; 10_000];
        server.read_exact(&mut seen).unwrap();
        assert!(watch.measure().unwrap().receive < 10_000);

        // The server's bytes fill the client's buffer first; what no longer fits waits at the server.
        server.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(bytes) = server.write(&[2; 65536]) {
            sent += bytes as u64;
        }
        let stuck = watch.measure().unwrap();
        assert!(
            stuck.send > 100_000 && stuck.send < 4 * sent,
            "{sent} bytes sent: {stuck:?}"
        );
        assert!(stuck.total() >= stuck.send);
    }
}
