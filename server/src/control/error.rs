//! Why the server could not start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::memory_limit::{BothMemoryRefusal, MemoryRefusal};
use crate::config::address::{Address, FORMS};
use crate::io::ProbeError;
use crate::memory::refusal::PlanRefusal;
use crate::remote::StartError;
use crate::s3::keys::KeysError;
use crate::stores::StoresError;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No store can be read, or one is given twice.
    #[error(transparent)]
    Stores(#[from] StoresError),
    /// The cache of remote stores, or their client, can't be used.
    #[error(transparent)]
    Remote(#[from] StartError),
    /// There is no usual place for the cache.
    #[error("remote stores need a cache on a local disk: give --cache DIR")]
    NoCache,
    /// Neither stores nor nodes.
    #[error("nothing to serve: give a --store or a --tahoe-node")]
    NoStores,
    /// The operator asked for io_uring, which can't be used.
    #[error("--io uring: {0}")]
    Backend(ProbeError),
    /// The operator insists on zero-copy sends, which can't be used.
    #[error("--zero-copy always: {0}")]
    ZeroCopy(String),
    /// The server can't listen on an address.
    #[error("cannot listen on {address} ({what}): {error}")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// Its address.
        address: Address,
        /// Why.
        error: io::Error,
    },
    /// The server can't listen at a file.
    #[error("cannot listen on unix:{} ({what}): {error}", path.display())]
    SocketFile {
        /// Which listener.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The name of an address to listen on can't be resolved.
    #[error("cannot resolve {address} ({what}): {error}; the forms are {FORMS}")]
    Resolve {
        /// Which listener.
        what: &'static str,
        /// Its address.
        address: Address,
        /// Why.
        error: io::Error,
    },
    /// The access log can't be written.
    #[error("--access-log {}: {error}", path.display())]
    AccessLog {
        /// Its file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The listeners of another server can't be had.
    #[error("--take-over {}: {error}", path.display())]
    TakeOver {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The other server listens elsewhere.
    #[error(
        "--take-over: the server that hands over listens on {at}, --listen says {address}; a server can't change its \
         address in this way: stop the old one, and start the new one"
    )]
    OtherAddress {
        /// Where the old one listens.
        at: SocketAddr,
        /// What this one was told.
        address: Address,
    },
    /// The service manager's listeners can't be used.
    #[error("listener `{name}` of the service manager: {error}")]
    Inherited {
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// There can be no TLS.
    #[error(transparent)]
    Tls(#[from] crate::tls::acceptor::TlsError),
    /// The declared memory, with that of the server that hands over, is more than there is.
    #[error(transparent)]
    BothMemory(#[from] BothMemoryRefusal),
    /// The declared memory is more than there is.
    #[error(transparent)]
    Memory(#[from] MemoryRefusal),
    /// The declared memory is too small for the settings.
    #[error(transparent)]
    Plan(#[from] PlanRefusal),
    /// The key pairs can't be read, or there must be some.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The kernel that PENSTOCK_KERNEL names can't be used.
    #[error("PENSTOCK_KERNEL: {0}")]
    Kernel(String),
    /// A core stopped working.
    #[error("core {core}: {error}")]
    Core {
        /// Its number.
        core: usize,
        /// Why.
        error: io::Error,
    },
    /// Anything else that the operating system refused.
    #[error("{what}: {error}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl ServeError {
    /// For `map_err`: the operating system refused `what`.
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
        move |error| ServeError::System { what, error }
    }
}
