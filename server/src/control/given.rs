//! The listeners of a server: those that it is given, and the rest, which it binds.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::error::ServeError;
use super::listeners::{self, AdminAt, AdminListener};
use super::socket_file::SocketFile;
use crate::config::Settings;
use crate::config::address::{Address, AdminAddress};
use crate::connection::driver::Transport;
use crate::io::{Listener, SocketOptions, take_inherited};

/// Listeners that another process made: the server that hands over, or a service manager.
#[derive(Default)]
pub(super) struct Given {
    /// For objects.
    pub(super) objects: Vec<OwnedFd>,
    /// For objects, by TLS.
    pub(super) tls: Vec<OwnedFd>,
    /// For admin.
    pub(super) admin: Option<OwnedFd>,
    /// The file of that for admin, if this server is to remove it.
    pub(super) admin_file: Option<PathBuf>,
    /// Which of them a service manager made.
    pub(super) activated: Activated,
}

/// Listeners that a service manager keeps, so that a server must not shut them down.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Activated {
    /// Those for objects.
    pub(super) objects: bool,
    /// Those for objects, by TLS.
    pub(super) tls: bool,
    /// That for admin.
    pub(super) admin: bool,
}

impl Given {
    /// Those of a service manager. That called `admin` is for admin, those called `tls` are for objects by TLS. Those called
    /// `objects` are for objects; where none is, the first of the rest is.
    pub(super) fn by_service_manager() -> Result<Given, ServeError> {
        let refused = |name: &str, error: io::Error| ServeError::Inherited {
            name: name.to_owned(),
            error,
        };
        let all = take_inherited().map_err(|error| refused("LISTEN_FDS", error))?;
        let named = all.iter().any(|(_, name)| name == "objects");
        let mut given = Given::default();
        for (descriptor, name) in all {
            match name.as_str() {
                "admin" if given.admin.is_none() => given.admin = Some(descriptor),
                "objects" => given.objects.push(descriptor),
                "tls" => given.tls.push(descriptor),
                _ if !named && name != "admin" && given.objects.is_empty() => {
                    given.objects.push(descriptor);
                }
                _ => {
                    let error = "call it `objects`, `tls` or `admin` (FileDescriptorName=)";
                    return Err(refused(&name, io::Error::other(error)));
                }
            }
        }
        given.activated = Activated {
            objects: !given.objects.is_empty(),
            tls: !given.tls.is_empty(),
            admin: given.admin.is_some(),
        };
        Ok(given)
    }
}

/// All listeners of a server.
pub(super) struct Listening {
    /// For each core.
    pub(super) cores: Vec<Vec<(Listener, Transport)>>,
    /// Where objects are served.
    pub(super) objects_at: SocketAddr,
    /// Where they are served by TLS.
    pub(super) tls_at: Option<SocketAddr>,
    /// For the admin thread.
    pub(super) admin: AdminListener,
    /// Where that is.
    pub(super) admin_at: AdminAt,
    /// Its file, if it has one.
    pub(super) admin_file: Option<SocketFile>,
    /// Those for objects, each once: for a server that takes over.
    pub(super) copies: Vec<Socket>,
    /// Those for objects by TLS.
    pub(super) tls_copies: Vec<Socket>,
    /// Which of them a service manager keeps too.
    pub(super) activated: Activated,
}

/// Listeners of one kind.
struct Kind {
    cores: Vec<Vec<Listener>>,
    at: SocketAddr,
    copies: Vec<Socket>,
}

impl Kind {
    /// Takes what is given, or binds.
    fn new(
        (name, address): (&'static str, &Address),
        cores: usize,
        options: &SocketOptions,
        given: Vec<OwnedFd>,
        activated: bool,
    ) -> Result<Kind, ServeError> {
        let is_given = !given.is_empty();
        let (listeners, at) = match is_given {
            true => adopt((name, address), given, options, activated)?,
            false => listeners::objects((name, address), cores, options)?,
        };
        let duplicated = |error| ServeError::Inherited {
            name: name.to_owned(),
            error,
        };
        let copies = listeners.iter().map(Listener::socket);
        let copies = copies.collect::<io::Result<_>>().map_err(duplicated)?;
        let cores = match is_given {
            true => share(&listeners, cores, activated).map_err(duplicated)?,
            false => listeners.into_iter().map(|one| vec![one]).collect(),
        };
        Ok(Kind { cores, at, copies })
    }
}

impl Listening {
    /// Takes what is given, and binds the rest.
    pub(super) fn new(
        settings: &Settings,
        options: &SocketOptions,
        given: Given,
    ) -> Result<Listening, ServeError> {
        let (count, activated) = (settings.cores, given.activated);
        let wanted = ("objects", &settings.listen);
        let plain = Kind::new(wanted, count, options, given.objects, activated.objects)?;
        let tls = match &settings.tls_listen {
            Some(address) => {
                let wanted = ("tls", address);
                Some(Kind::new(wanted, count, options, given.tls, activated.tls)?)
            }
            // A server before this one had it, and this one is not to.
            None if !activated.tls => None,
            None => {
                let error = "there is no --tls-listen that it could be for";
                return Err(ServeError::Inherited {
                    name: "tls".to_owned(),
                    error: io::Error::other(error),
                });
            }
        };
        let (tls_at, tls_copies, tls_cores) = match tls {
            Some(tls) => (Some(tls.at), tls.copies, tls.cores),
            None => (None, Vec::new(), Vec::new()),
        };
        let mut cores: Vec<Vec<(Listener, Transport)>> = Vec::new();
        let with = |listeners: Vec<Listener>, transport| {
            listeners.into_iter().map(move |one| (one, transport))
        };
        cores.extend(
            plain
                .cores
                .into_iter()
                .map(|of_core| with(of_core, Transport::Plain).collect()),
        );
        for (core, of_core) in cores.iter_mut().zip(tls_cores) {
            core.extend(with(of_core, Transport::Tls));
        }
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
        let adopted =
            adopted.filter(|(_, at)| given.activated.admin || fits_admin(&settings.admin, at));
        let (admin, admin_at, admin_file) = match adopted {
            Some((listener, at)) => (listener, at, given.admin_file.map(SocketFile::of)),
            None => listeners::admin(&settings.admin)?,
        };
        Ok(Listening {
            cores,
            objects_at: plain.at,
            tls_at,
            admin,
            admin_at,
            admin_file,
            copies: plain.copies,
            tls_copies,
            activated,
        })
    }
}

/// Takes given listeners for objects.
fn adopt(
    (name, wanted): (&'static str, &Address),
    given: Vec<OwnedFd>,
    options: &SocketOptions,
    activated: bool,
) -> Result<(Vec<Listener>, SocketAddr), ServeError> {
    let refused = |error| ServeError::Inherited {
        name: name.to_owned(),
        error,
    };
    let adopted = given.into_iter().map(|one| Listener::adopt(one, options));
    let adopted: Vec<Listener> = adopted.collect::<io::Result<_>>().map_err(refused)?;
    let at = adopted[0].local_address().map_err(refused)?;
    if !activated && !fits(wanted, at) {
        let address = wanted.clone();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_has_a_core_and_every_core_a_listener() {
        let options = SocketOptions {
            send_buffer_bytes: 8192,
            receive_buffer_bytes: 4096,
        };
        for (listeners, cores, activated) in [
            (1, 1, false),
            (1, 3, false),
            (3, 1, false),
            (2, 3, false),
            (5, 2, false),
            (2, 2, true),
            (1, 4, true),
        ] {
            let any = "127.0.0.1:0".parse().unwrap();
            let bound = (0..listeners).map(|_| Listener::bind(any, &options).unwrap());
            let bound: Vec<Listener> = bound.collect();
            let shared = share(&bound, cores, activated).unwrap();
            assert_eq!(shared.len(), cores);
            let mut all: Vec<SocketAddr> = Vec::new();
            for core in &shared {
                let mut of_core: Vec<_> = core
                    .iter()
                    .map(|one| one.local_address().unwrap())
                    .collect();
                assert!(!of_core.is_empty());
                all.extend(&of_core);
                of_core.sort();
                of_core.dedup();
                assert_eq!(of_core.len(), core.len(), "none twice");
                assert!(!activated || core.len() == listeners, "each has all");
            }
            all.sort();
            all.dedup();
            assert_eq!(all.len(), listeners);
        }
    }

    #[test]
    fn what_is_given_must_be_where_the_operator_wants_it() {
        for (wanted, at, fit) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:0", "127.0.0.1:80", true),
            ("127.0.0.1:81", "127.0.0.1:80", false),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            (":80", "[::]:80", true),
            (":80", "0.0.0.0:80", true),
            (":80", "127.0.0.1:80", false),
            (":0", "0.0.0.0:80", true),
            ("edge.example:80", "192.0.2.1:80", true),
            ("edge.example:81", "192.0.2.1:80", false),
        ] {
            let address: Address = wanted.parse().unwrap();
            assert_eq!(fits(&address, at.parse().unwrap()), fit, "{wanted} {at}");
        }
        let unix = |path: &str| AdminAddress::Unix(path.into());
        assert!(fits_admin(&unix("/a"), &AdminAt::Unix("/a".into())));
        assert!(!fits_admin(&unix("/a"), &AdminAt::Unix("/b".into())));
        assert!(!fits_admin(
            &unix("/a"),
            &AdminAt::Tcp("127.0.0.1:80".parse().unwrap())
        ));
    }
}
