//! The listeners: one per core for objects, and one for the admin thread.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _};

use super::error::ServeError;
use crate::config::address::Address;
use crate::io::{Listener, SocketOptions};

/// Listens for requests of objects: one listener per core, all on the same address. Returns that address too.
pub(super) fn objects(
    address: &Address,
    cores: usize,
    options: &SocketOptions,
) -> Result<(Vec<Listener>, SocketAddr), ServeError> {
    listen(address, "objects", |address| {
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
    })
}

/// Listens for the admin thread. Returns the address too.
pub(super) fn admin(address: &Address) -> Result<(TcpListener, SocketAddr), ServeError> {
    listen(address, "admin", |address| {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    })
}

/// Binds to the first of the address's socket addresses that this machine has.
fn listen<T>(
    address: &Address,
    what: &'static str,
    mut bind: impl FnMut(SocketAddr) -> io::Result<T>,
) -> Result<T, ServeError> {
    let error = |error| ServeError::Listen {
        what,
        address: address.clone(),
        error,
    };
    let candidates = socket_addresses(address).map_err(|error| ServeError::Resolve {
        what,
        address: address.clone(),
        error,
    })?;
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for candidate in &candidates {
        result = bind(*candidate);
        match &result {
            Err(error) if is_elsewhere(error) => continue,
            Ok(_) if matches!(address, Address::Named { .. }) => tracing::info!(
                name = %address, address = %candidate, addresses = candidates.len(),
                "{what}: listening on the first address of the name that this machine has"
            ),
            _ => {}
        }
        break;
    }
    result.map_err(error)
}

/// Whether the machine lacks an address, or its family, so that another may do.
fn is_elsewhere(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// What to bind to, the best first.
fn socket_addresses(address: &Address) -> io::Result<Vec<SocketAddr>> {
    Ok(match address {
        Address::Exact(address) => vec![*address],
        // A listener on [::] takes IPv4 connections too.
        Address::All(port) => vec![
            (Ipv6Addr::UNSPECIFIED, *port).into(),
            (Ipv4Addr::UNSPECIFIED, *port).into(),
        ],
        Address::Named { host, port } => (host.as_str(), *port).to_socket_addrs()?.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of binding, if `bind` fails with these errors in turn, and how often it was tried.
    fn tried(address: &str, errors: &[i32]) -> (Result<SocketAddr, String>, usize) {
        let mut count = 0;
        let bound = listen(&address.parse().unwrap(), "objects", |address| {
            count += 1;
            match errors.get(count - 1) {
                Some(&error) => Err(io::Error::from_raw_os_error(error)),
                None => Ok(address),
            }
        });
        (bound.map_err(|error| error.to_string()), count)
    }

    #[test]
    fn a_machine_without_ipv6_listens_with_ipv4() {
        let address = |text: &str| Ok(text.parse().unwrap());
        assert_eq!(tried(":80", &[]), (address("[::]:80"), 1));
        for error in [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL] {
            assert_eq!(tried(":80", &[error]), (address("0.0.0.0:80"), 2));
        }
        // Another server that has the port is no reason to listen on half of the addresses.
        let (bound, count) = tried(":80", &[libc::EADDRINUSE]);
        assert_eq!(count, 1);
        assert!(bound.unwrap_err().contains("cannot listen on :80"));
    }

    #[test]
    fn an_address_of_no_use_is_named() {
        let (bound, _) = tried("192.0.2.1:80", &[libc::EADDRNOTAVAIL]);
        let error = bound.unwrap_err();
        assert!(
            error.contains("cannot listen on 192.0.2.1:80 (objects)"),
            "{error}"
        );
        // RFC 6761: this name resolves nowhere.
        let (bound, count) = tried("nowhere.invalid:80", &[]);
        let error = bound.unwrap_err();
        assert_eq!(count, 0);
        for words in ["nowhere.invalid:80", "(objects)", "the forms are"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
