//! The listeners: one per core for objects, and one for the admin thread.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::error::ServeError;
use crate::io::{Listener, SocketOptions};

/// Listens for requests of objects: one listener per core, all on the same address. Returns that address too.
pub(super) fn objects(
    address: SocketAddr,
    cores: usize,
    options: &SocketOptions,
) -> Result<(Vec<Listener>, SocketAddr), ServeError> {
    let listen = || -> io::Result<_> {
        if address.port() != 0 {
            // Bound without SO_REUSEPORT first, and closed again: if another server has the port, that is an error.
            // The two must not share its connections.
            drop(TcpListener::bind(address)?);
        }
        let first = Listener::bind(address, options)?;
        let address = first.local_address()?;
        let mut listeners = vec![first];
        for _ in 1..cores {
            listeners.push(Listener::bind(address, options)?);
        }
        Ok((listeners, address))
    };
    listen().map_err(|error| ServeError::Listen {
        what: "objects",
        address,
        error,
    })
}

/// Listens for the admin thread. Returns the address too.
pub(super) fn admin(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let listen = || -> io::Result<_> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listen().map_err(|error| ServeError::Listen {
        what: "admin",
        address,
        error,
    })
}
