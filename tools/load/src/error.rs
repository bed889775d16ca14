//! Why a run could not start, or its report could not be written. A failure on one connection is no error of the run:
//! the report counts it by its [`FaultKind`](crate::FaultKind).

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Why [`run`](crate::run) returned no report, or a report could not be written.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The URL cannot be used.
    #[error("URL {url:?}: {reason}")]
    Url {
        /// The URL as it was passed.
        url: String,
        /// The problem.
        reason: String,
    },
    /// The host's name could not be resolved.
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        /// The host named in the URL.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The target is another machine and the plan does not allow that.
    #[error(
        "{host:?} is {address}, which is not this machine; a load generator aimed elsewhere by mistake is an attack; if you mean it, use --allow-remote"
    )]
    Remote {
        /// The host named in the URL.
        host: String,
        /// The address it resolved to.
        address: IpAddr,
    },
    /// The description of a group of clients is invalid.
    #[error("group {group:?}: {reason}")]
    Group {
        /// The group's name, or its text if the text could not be parsed.
        group: String,
        /// The problem.
        reason: String,
    },
    /// A setting of the whole plan is invalid.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// The problem.
        reason: String,
    },
    /// The plan needs more connections than this process may have descriptors.
    #[error(
        "{need} descriptors are needed for {clients} clients, but the hard limit of this process is {hard}; raise it (ulimit -Hn {need} as root, or LimitNOFILE={need} in a unit) or ask for at most {possible} clients"
    )]
    Descriptors {
        /// Clients the plan asks for.
        clients: u64,
        /// Descriptors they need, with a reserve for the tool itself.
        need: u64,
        /// RLIMIT_NOFILE's hard value.
        hard: u64,
        /// The number of clients that would fit.
        possible: u64,
    },
    /// The source addresses have too few ports for the clients.
    #[error(
        "{clients} clients need more than {sources} source address(es) with {ports} ports each ({reason}); use --sources {need}"
    )]
    Ports {
        /// Clients the plan asks for.
        clients: u64,
        /// Source addresses that the plan allows or the target permits.
        sources: u64,
        /// Ports counted per address.
        ports: u64,
        /// The number of addresses that is enough.
        need: u64,
        /// Why the plan has no more addresses.
        reason: &'static str,
    },
    /// Random ranges need the object's size, and it could not be found out.
    #[error("cannot learn the size of {path:?} for random ranges: {reason}")]
    Probe {
        /// The path requested.
        path: String,
        /// The problem.
        reason: String,
    },
    /// The watched process cannot be read.
    #[error("cannot watch process {pid}: {reason}")]
    Watch {
        /// Its id.
        pid: i32,
        /// The problem.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The picture could not be drawn.
    #[error("{path}: cannot draw the picture: {reason}", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// The drawing library's error.
        reason: String,
    },
    /// The machine refused a resource that the run itself needs (a thread, an event loop).
    #[error("cannot start the clients: {0}")]
    Start(#[from] io::Error),
}
