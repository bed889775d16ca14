//! Sockets: raises the limit of descriptors, finds enough source ports for the plan, and opens connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::error::LoadError;
use crate::plan::SOURCES_MAX;
use crate::stream::Stream;
use crate::tally::{Counters, Failure, FaultKind};
use crate::target::Target;

/// Descriptors that the tool itself needs beside its connections: event loops, /proc, files to compare with.
const DESCRIPTORS_RESERVE: u64 = 128;

/// Raises the soft limit to the hard one and checks that `clients` connections fit.
pub(crate) fn claim_descriptors(clients: u64) -> Result<(), LoadError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(io::Error::from)?;
    }
    let need = clients + DESCRIPTORS_RESERVE;
    if need > hard {
        let possible = hard.saturating_sub(DESCRIPTORS_RESERVE);
        return Err(LoadError::Descriptors {
            clients,
            need,
            hard,
            possible,
        });
    }
    Ok(())
}

/// The number of source addresses: `wanted`, or as many as `clients` need.
pub(crate) fn claim_sources(
    target: &Target,
    clients: u64,
    wanted: Option<usize>,
) -> Result<usize, LoadError> {
    let range =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = range
        .split_ascii_whitespace()
        .filter_map(|word| word.parse::<u64>().ok());
    let (low, high) = (
        bounds.next().unwrap_or(32768),
        bounds.next().unwrap_or(60999),
    );
    // A quarter of the ports stays free, for other programs and because the kernel is slow to find the last free ports.
    let ports = (high.saturating_sub(low) * 3 / 4).max(1);
    let need = clients.div_ceil(ports).max(1);
    let several = matches!(target.address.ip(), IpAddr::V4(address) if address.is_loopback());
    let (sources, reason) = match (several, wanted) {
        (false, _) => (
            1,
            "only 127.0.0.x targets can be reached from several addresses",
        ),
        (true, Some(sources)) => (sources as u64, "as the plan says"),
        (true, None) => (
            need.min(SOURCES_MAX as u64),
            "there are no more loopback addresses",
        ),
    };
    if need > sources {
        return Err(LoadError::Ports {
            clients,
            sources,
            ports,
            need,
            reason,
        });
    }
    Ok(sources as usize)
}

/// An open connection. It is counted while it lives.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    counters: Arc<Counters>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        Counters::subtract(&self.counters.open, 1);
    }
}

/// The parameters of a connection.
pub(crate) struct Dial {
    pub(crate) address: SocketAddr,
    /// The source address, if the plan needs several.
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) timeout: Duration,
}

/// The source address of client number `ordinal`.
pub(crate) fn source(ordinal: u64, sources: usize) -> Option<Ipv4Addr> {
    let host = u8::try_from(ordinal % sources as u64).unwrap_or_default() + 1;
    (sources > 1).then(|| Ipv4Addr::new(127, 0, 0, host))
}

/// The source address of client number `ordinal` in 127.0.`network`.0/24.
pub(crate) fn source_in(network: u8, ordinal: u64) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, network, (ordinal % SOURCES_MAX as u64) as u8 + 1)
}

impl Dial {
    pub(crate) async fn connect(&self, counters: &Arc<Counters>) -> Result<Connection, Failure> {
        let socket = self.socket().map_err(connect_failure)?;
        let connected = timeout(self.timeout, socket.connect(self.address)).await;
        let stream = connected
            .map_err(|_| {
                Failure::new(
                    FaultKind::ConnectTimeout,
                    format!("no connection within {:?}", self.timeout),
                )
            })?
            .map_err(connect_failure)?;
        Counters::add(&counters.open, 1);
        Ok(Connection {
            stream: Stream::new(stream),
            counters: Arc::clone(counters),
        })
    }

    fn socket(&self) -> io::Result<TcpSocket> {
        let socket = if self.address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        if let Some(bytes) = self.receive_buffer {
            // The buffer is set before connecting, since the window's scale is negotiated then.
            socket.set_recv_buffer_size(u32::try_from(bytes).unwrap_or(u32::MAX))?;
        }
        socket.set_nodelay(true)?;
        if let Some(source) = self.source {
            // Leaves the choice of the port to connect(), which can share a port among targets and reuse it after
            // TIME_WAIT.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        Ok(socket)
    }
}

fn connect_failure(error: io::Error) -> Failure {
    let kind = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => FaultKind::ConnectRefused,
        Some(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE) => FaultKind::ConnectNoAddress,
        Some(Errno::EMFILE | Errno::ENFILE) => FaultKind::ConnectNoDescriptor,
        Some(Errno::ETIMEDOUT) => FaultKind::ConnectTimeout,
        _ => FaultKind::ConnectOther,
    };
    Failure::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_follow_the_clients() {
        let target = |url| Target::parse(url, false).unwrap();
        let local = target("http://127.0.0.1:80/");
        assert_eq!(claim_sources(&local, 10, None).unwrap(), 1);
        assert!(claim_sources(&local, 100_000, None).unwrap() > 1);
        assert_eq!(claim_sources(&local, 10, Some(5)).unwrap(), 5);
        assert!(matches!(
            claim_sources(&local, 100_000, Some(1)),
            Err(LoadError::Ports { .. })
        ));
        assert!(matches!(
            claim_sources(&target("http://[::1]:80/"), 100_000, None),
            Err(LoadError::Ports { .. })
        ));
        assert_eq!(source(7, 1), None);
        assert_eq!(source(7, 4), Some(Ipv4Addr::new(127, 0, 0, 4)));
    }

    #[test]
    fn impossible_counts_are_refused_with_the_limit() {
        assert!(claim_descriptors(10).is_ok());
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if let Some(clients) = hard.checked_add(1) {
            let error = claim_descriptors(clients - DESCRIPTORS_RESERVE)
                .unwrap_err()
                .to_string();
            assert!(error.contains(&hard.to_string()), "{error}");
        }
    }
}
