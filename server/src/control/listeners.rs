//! The listeners: one per core for objects, and one for the admin thread.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::error::ServeError;
use crate::config::Settings;
use crate::config::address::{Address, AdminAddress};
use crate::io::{Listener, SocketOptions, is_stream_listener};
use crate::memory::limits::{ADMIN_BACKLOG, ADMIN_SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES};

/// Listeners that another process made: the server that hands over, or a service manager.
#[derive(Default)]
pub(super) struct Given {
    /// For objects.
    pub(super) objects: Vec<OwnedFd>,
    /// For admin.
    pub(super) admin: Option<OwnedFd>,
    /// The file of that for admin, if this server is to remove it.
    pub(super) admin_file: Option<PathBuf>,
    /// Whether a service manager made them. It keeps them, so this server must not shut them down.
    pub(super) activated: bool,
}

impl Given {
    /// Those of a service manager. That called `admin` is for admin. Those called `objects` are for objects; where none is,
    /// the first of the rest is.
    pub(super) fn by_service_manager() -> Result<Given, ServeError> {
        let refused = |name: &str, error: io::Error| ServeError::Inherited {
            name: name.to_owned(),
            error,
        };
        let all = crate::io::take_inherited().map_err(|error| refused("LISTEN_FDS", error))?;
        let named = all.iter().any(|(_, name)| name == "objects");
        let mut given = Given {
            activated: !all.is_empty(),
            ..Given::default()
        };
        for (descriptor, name) in all {
            match name.as_str() {
                "admin" if given.admin.is_none() => given.admin = Some(descriptor),
                "objects" => given.objects.push(descriptor),
                _ if !named && name != "admin" && given.objects.is_empty() => {
                    given.objects.push(descriptor);
                }
                _ => {
                    let error = "call it `objects` or `admin` (FileDescriptorName=)";
                    return Err(refused(&name, io::Error::other(error)));
                }
            }
        }
        Ok(given)
    }
}

/// All listeners of a server.
pub(super) struct Listening {
    /// For each core.
    pub(super) cores: Vec<Vec<Listener>>,
    /// Where objects are served.
    pub(super) objects_at: SocketAddr,
    /// For the admin thread.
    pub(super) admin: AdminListener,
    /// Where that is.
    pub(super) admin_at: AdminAt,
    /// Its file, if it has one.
    pub(super) admin_file: Option<SocketFile>,
    /// Those for objects, each once: for a server that takes over.
    pub(super) copies: Vec<Socket>,
    /// Whether a service manager keeps them too.
    pub(super) activated: bool,
}

impl Listening {
    /// Takes what is given, and binds the rest.
    pub(super) fn new(
        settings: &Settings,
        options: &SocketOptions,
        given: Given,
    ) -> Result<Listening, ServeError> {
        let is_given = !given.objects.is_empty();
        let (listeners, objects_at) = match is_given {
            true => adopt(given.objects, settings, options, given.activated)?,
            false => objects(&settings.listen, settings.cores, options)?,
        };
        let duplicated = |error| ServeError::Inherited {
            name: "objects".to_owned(),
            error,
        };
        let copies = listeners.iter().map(Listener::socket);
        let copies = copies.collect::<io::Result<_>>().map_err(duplicated)?;
        let cores = match is_given {
            true => share(&listeners, settings.cores, given.activated).map_err(duplicated)?,
            false => listeners.into_iter().map(|one| vec![one]).collect(),
        };
        let adopted = given.admin.map(AdminListener::adopt).transpose();
        let adopted = adopted.map_err(|error| ServeError::Inherited {
            name: "admin".to_owned(),
            error,
        })?;
        let adopted = adopted.map(|(listener, at)| match (&given.admin_file, at) {
            // The name that the kernel knows is the one it had beside its place.
            (Some(path), AdminAt::Unix(_)) => (listener, AdminAt::Unix(path.clone())),
            (_, at) => (listener, at),
        });
        // What the operator has moved since is bound anew. A service manager is asked for what it gives.
        let adopted = adopted.filter(|(_, at)| given.activated || fits_admin(&settings.admin, at));
        let (admin, admin_at, admin_file) = match adopted {
            Some((listener, at)) => (listener, at, given.admin_file.map(SocketFile::of)),
            None => admin(&settings.admin)?,
        };
        Ok(Listening {
            cores,
            objects_at,
            admin,
            admin_at,
            admin_file,
            copies,
            activated: given.activated,
        })
    }
}

/// Takes given listeners for objects.
fn adopt(
    given: Vec<OwnedFd>,
    settings: &Settings,
    options: &SocketOptions,
    activated: bool,
) -> Result<(Vec<Listener>, SocketAddr), ServeError> {
    let refused = |error| ServeError::Inherited {
        name: "objects".to_owned(),
        error,
    };
    let adopted = given.into_iter().map(|one| Listener::adopt(one, options));
    let adopted: Vec<Listener> = adopted.collect::<io::Result<_>>().map_err(refused)?;
    let at = adopted[0].local_address().map_err(refused)?;
    if !activated && !fits(&settings.listen, at) {
        let address = settings.listen.clone();
        return Err(ServeError::OtherAddress { at, address });
    }
    Ok((adopted, at))
}

/// Shares given listeners among the cores. Where each core had a listener each has one again. Where there are more cores
/// some share one, where there are fewer some have several. A service manager may give addresses that differ: all
/// cores have all of them.
fn share(listeners: &[Listener], cores: usize, activated: bool) -> io::Result<Vec<Vec<Listener>>> {
    let mut shared: Vec<Vec<Listener>> = (0..cores).map(|_| Vec::new()).collect();
    let times = match activated {
        true => cores * listeners.len(),
        false => cores.max(listeners.len()),
    };
    for time in 0..times {
        let (core, listener) = match activated {
            true => (time % cores, time / cores),
            false => (time % cores, time % listeners.len()),
        };
        shared[core].push(listeners[listener].duplicate()?);
    }
    Ok(shared)
}

/// Whether a listener is where the operator wants it.
fn fits(address: &Address, at: SocketAddr) -> bool {
    match address {
        Address::Exact(address) => {
            address.ip() == at.ip() && [0, at.port()].contains(&address.port())
        }
        Address::All(port) => at.ip().is_unspecified() && [0, at.port()].contains(port),
        // What the name resolves to now does not matter.
        Address::Named { port, .. } => [0, at.port()].contains(port),
    }
}

fn fits_admin(address: &AdminAddress, at: &AdminAt) -> bool {
    match (address, at) {
        (AdminAddress::Tcp(address), AdminAt::Tcp(at)) => fits(address, *at),
        (AdminAddress::Unix(path), AdminAt::Unix(at)) => path == at,
        _ => false,
    }
}

/// The admin thread's listener.
pub(super) enum AdminListener {
    /// At an address.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

impl AdminListener {
    /// Takes a listener that another process made.
    fn adopt(descriptor: OwnedFd) -> io::Result<(AdminListener, AdminAt)> {
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

/// A socket in the file system that is gone with this value, unless another process has put its own there.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

impl SocketFile {
    /// That which is there now.
    fn of(path: PathBuf) -> SocketFile {
        let file = file_id(&path);
        SocketFile { path, file }
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it to another process.
    pub(super) fn leave(mut self) {
        self.file = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.file.is_some() && file_id(&self.path) == self.file {
            // Somebody may have removed it meanwhile.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_id(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Listens for requests of objects: one listener per core, all on the same address. Returns that address too.
fn objects(
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

/// Listens for the admin thread. Returns the address too, and the file of the socket if it has one.
fn admin(
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

/// Listens at a file that only its owner may open. A socket that nobody listens at any more gives way, and no other file
/// does.
fn unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    is_free(path)?;
    Beside::new(path)?.place()
}

/// Whether nobody listens at a file, and there is nothing else.
pub(super) fn is_free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file that is no socket",
            ));
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        },
    }
    Ok(())
}

/// A socket that listens beside the file where it will be, so that the name can change its owner in one step. Nobody but
/// the owner can open it, at any time.
pub(super) struct Beside {
    socket: Socket,
    path: PathBuf,
    beside: SocketFile,
}

impl Beside {
    pub(super) fn new(path: &Path) -> io::Result<Beside> {
        let mut name = path
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_owned();
        name.push(format!(".{}", std::process::id()));
        let beside = path.with_file_name(name);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // What a process of the same number left.
        let _ = fs::remove_file(&beside);
        socket.bind(&SockAddr::unix(&beside)?)?;
        let beside = SocketFile::of(beside);
        fs::set_permissions(&beside.path, fs::Permissions::from_mode(0o600))?;
        socket.listen(ADMIN_BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Beside {
            socket,
            path: path.to_owned(),
            beside,
        })
    }

    /// Puts it in its place, whoever listened there before.
    pub(super) fn place(self) -> io::Result<(UnixListener, SocketFile)> {
        fs::rename(&self.beside.path, &self.path)?;
        Ok((self.socket.into(), SocketFile::of(self.path)))
    }
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

    #[test]
    fn a_socket_file_is_for_its_owner_and_replaces_stale_ones_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let (listener, file) = unix(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(unix(&path).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        // As after a crash: the file is there, and nobody listens.
        drop(listener);
        let (_listener, second) = unix(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(file);
        assert!(path.exists(), "it is another's by now");
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(unix(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left"
        );
    }

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
