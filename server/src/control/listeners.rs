//! The listeners: one per core for objects, and one for the admin thread.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockRef, Socket, Type};

use super::error::ServeError;
use super::socket_file::{SocketFile, unix};
use crate::config::address::{Address, AdminAddress};
use crate::io::{Listener, SocketOptions, is_stream_listener};
use crate::memory::limits::{ADMIN_BACKLOG, ADMIN_SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES};

/// The admin thread's listener.
pub(super) enum AdminListener {
    /// At an address.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

impl AdminListener {
    /// Takes a listener that another process made.
    pub(super) fn adopt(descriptor: OwnedFd) -> io::Result<(AdminListener, AdminAt)> {
        let socket = Socket::from(descriptor);
        let error = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        if !is_stream_listener(&socket)? {
            return Err(error("not a socket that listens"));
        }
        socket.set_nonblocking(true)?;
        // This sets its backlog.
        socket.listen(ADMIN_BACKLOG)?;
        let at = socket.local_addr()?;
        if let Some(address) = at.as_socket() {
            return Ok((AdminListener::Tcp(socket.into()), AdminAt::Tcp(address)));
        }
        let path = at
            .is_unix()
            .then(|| at.as_pathname().unwrap_or(Path::new("")));
        let path = path.ok_or_else(|| error("neither TCP nor a socket in the file system"))?;
        Ok((
            AdminListener::Unix(socket.into()),
            AdminAt::Unix(path.to_owned()),
        ))
    }

    /// Another descriptor of the same socket.
    pub(super) fn duplicate(&self) -> io::Result<Socket> {
        match self {
            AdminListener::Tcp(listener) => SockRef::from(listener).try_clone(),
            AdminListener::Unix(listener) => SockRef::from(listener).try_clone(),
        }
    }
}

/// Where the admin listener is reached.
#[derive(Clone, Debug)]
pub enum AdminAt {
    /// At this address.
    Tcp(SocketAddr),
    /// At this file.
    Unix(PathBuf),
}

impl fmt::Display for AdminAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAt::Tcp(address) => address.fmt(f),
            AdminAt::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Listens for requests of objects: one listener per core, all on the same address. Returns that address too.
pub(super) fn objects(
    (what, address): (&'static str, &Address),
    cores: usize,
    options: &SocketOptions,
) -> Result<(Vec<Listener>, SocketAddr), ServeError> {
    listen(address, what, |address| {
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

/// Listens for the admin thread. Returns the address too, and the file of the socket if it has one.
pub(super) fn admin(
    address: &AdminAddress,
) -> Result<(AdminListener, AdminAt, Option<SocketFile>), ServeError> {
    match address {
        AdminAddress::Tcp(address) => listen(address, "admin", |address| {
            let listener = admin_tcp(address)?;
            let address = listener.local_addr()?;
            Ok((AdminListener::Tcp(listener), AdminAt::Tcp(address), None))
        }),
        AdminAddress::Unix(path) => {
            let (listener, file) = unix(path).map_err(|error| ServeError::SocketFile {
                what: "admin",
                path: path.clone(),
                error,
            })?;
            let at = AdminAt::Unix(path.clone());
            Ok((AdminListener::Unix(listener), at, Some(file)))
        }
    }
}

fn admin_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says: on [::] both families, as the object listener has it.
        socket.set_only_v6(address.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(ADMIN_SEND_BUFFER_BYTES as usize)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES as usize)?;
    socket.bind(&address.into())?;
    socket.listen(ADMIN_BACKLOG)?;
    Ok(socket.into())
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

    /// With net.ipv6.bindv6only=1 the admin listener on `:9090` took IPv6 connections only.
    #[test]
    fn all_addresses_are_those_of_both_families() {
        let Ok((AdminListener::Tcp(listener), ..)) = admin(&":0".parse().unwrap()) else {
            panic!("it listens");
        };
        if listener.local_addr().unwrap().is_ipv6() {
            assert!(!SockRef::from(&listener).only_v6().unwrap());
        }
    }

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
