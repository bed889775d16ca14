//! The listeners of the cores.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::io::{Listener, SocketOptions};

/// One listener per core on the same address. The first bind is without SO_REUSEPORT and given up
/// again: a port that another server has is an error, not a share of its connections.
pub(super) fn listen(
    address: SocketAddr,
    cores: usize,
    options: &SocketOptions,
) -> io::Result<Vec<Listener>> {
    if address.port() != 0 {
        drop(TcpListener::bind(address)?);
    }
    let first = Listener::bind(address, options)?;
    let address = first.local_address()?;
    let mut listeners = vec![first];
    for _ in 1..cores {
        listeners.push(Listener::bind(address, options)?);
    }
    Ok(listeners)
}
