//! Why a run could not start or could not be written down. What goes wrong on one connection is no
//! error of the run: it is counted in the report, by [`FaultKind`](crate::FaultKind).

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Why [`run`](crate::run) gave no report, or a report could not be written.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The URL cannot be used.
    #[error("URL {url:?}: {reason}")]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's name could not be resolved.
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        /// The host named in the URL.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The target is another machine and the plan does not allow that.
    #[error(
        "{host:?} is {address}, which is not this machine; a load generator aimed elsewhere by mistake is an attack, so say --allow-remote if it is meant"
    )]
    Remote {
        /// The host named in the URL.
        host: String,
        /// What it resolved to.
        address: IpAddr,
    },
    /// A group of clients is described wrongly.
    #[error("group {group:?}: {reason}")]
    Group {
        /// The group's name, or its text when it could not be read.
        group: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting of the whole plan is wrong.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// More connections are asked for than this process may have descriptors.
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
        /// How many clients would fit.
        possible: u64,
    },
    /// The source addresses given have too few ports for the clients.
    #[error(
        "{clients} clients need more than {sources} source address(es) with {ports} ports each ({reason}); use --sources {need}"
    )]
    Ports {
        /// Clients the plan asks for.
        clients: u64,
        /// Source addresses it allows or the target permits.
        sources: u64,
        /// Ports counted on per address.
        ports: u64,
        /// How many addresses are enough.
        need: u64,
        /// Why there are not more.
        reason: &'static str,
    },
    /// The object's size is needed for random ranges and could not be found out.
    #[error("cannot learn the size of {path:?} for random ranges: {reason}")]
    Probe {
        /// The path asked for.
        path: String,
        /// What happened.
        reason: String,
    },
    /// The process to watch cannot be read.
    #[error("cannot watch process {pid}: {reason}")]
    Watch {
        /// Its id.
        pid: i32,
        /// What happened.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The picture could not be drawn.
    #[error("{path}: cannot draw the picture: {reason}", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the drawing library said.
        reason: String,
    },
    /// The machine refused something the run itself needs (a thread, a ring of events).
    #[error("cannot start the clients: {0}")]
    Start(#[from] io::Error),
}
