//! The connections that an operator may want to see: those that hold the most, and the slowest.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde::Serialize;

use super::core::Core;
use super::state::Connection;
use crate::stats::Phase;

/// A connection in the status.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The peer's address.
    pub peer: SocketAddr,
    /// The client's address: the peer's, or what a trusted proxy said.
    pub client: IpAddr,
    /// What it is doing.
    pub phase: &'static str,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Kernel memory of its socket.
    pub socket_bytes: u64,
    /// `SO_SNDBUF` that it has now.
    pub send_buffer_bytes: u32,
    /// Bytes handed to the kernel since it was accepted.
    pub sent_bytes: u64,
    /// Bytes acknowledged per second, in the last sample.
    pub bytes_per_second: u64,
}

/// Connections listed of each kind, per core.
const LISTED_MAX: usize = 8;

/// Lists the connections that hold the most, and the slowest of those that are being sent to.
pub fn list(core: &Core) -> Vec<Listed> {
    let now = Instant::now();
    let connections = core.connections.borrow();
    let mut all: Vec<&Connection> = connections.iter().map(|(_, c)| &**c).collect();
    all.sort_unstable_by_key(|c| Reverse(c.socket_bytes.get()));
    // None is listed twice.
    let rest = all.split_off(all.len().min(LISTED_MAX));
    let mut slowest: Vec<&Connection> = rest
        .into_iter()
        .filter(|c| c.phase.get() == Phase::Sending)
        .collect();
    slowest.sort_unstable_by_key(|c| c.meter.rate());
    slowest.truncate(LISTED_MAX);
    all.iter().chain(&slowest).map(|c| listed(c, now)).collect()
}

fn listed(connection: &Connection, now: Instant) -> Listed {
    Listed {
        peer: connection.peer,
        client: connection.client(),
        phase: connection.phase.get().name(),
        seconds: now
            .saturating_duration_since(connection.since.get())
            .as_secs(),
        socket_bytes: connection.socket_bytes.get(),
        send_buffer_bytes: connection.send_buffer.bytes(),
        sent_bytes: connection.meter.sent(),
        bytes_per_second: connection.meter.rate(),
    }
}
