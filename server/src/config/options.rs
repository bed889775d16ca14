//! The options of `penstock serve`: raw values from the command line, and from a TOML file of the same keys.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::Deserialize;

use super::values::{self, BackendChoice, OverLimit, VerifyWhen, ZeroCopyMode};

/// The options of `penstock serve`. Each is also a key of the TOML file, with `_` for `-`.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// A store directory; repeat it for each. The shares of one object lie in different stores
    #[arg(long, value_name = "DIR")]
    pub store: Vec<PathBuf>,
    /// The directory of a Tahoe-LAFS storage node (or its `storage` or `shares`); repeat it for each. Files are
    /// served by their read-caps, at /uri/CAP, /file/CAP/named=/NAME and /named/CAP/NAME
    #[arg(long, value_name = "DIR")]
    pub tahoe_node: Vec<PathBuf>,
    /// The longest segment of a Tahoe-LAFS file that is accepted: it is hashed whole before its first byte
    /// is sent [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub tahoe_segment_max: Option<ByteSize>,
    /// Where to serve objects [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where to serve metrics, health and status [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Threads, each pinned to a core [default: all cores]
    #[arg(long, value_name = "N")]
    pub cores: Option<usize>,
    /// How to talk to the kernel [default: auto]
    #[arg(long, value_name = "BACKEND")]
    pub io: Option<BackendChoice>,
    /// Pool buffers per core, each for one piece [default: 5]
    #[arg(long, value_name = "N")]
    pub pool_buffers: Option<usize>,
    /// Bytes of one pool buffer. If a segment (k blocks) and its rebuilt blocks don't fit into one, some bytes are
    /// read more than once [default: 768KiB]
    #[arg(long, value_name = "SIZE")]
    pub pool_buffer_size: Option<ByteSize>,
    /// Memory that the process and the kernel memory of its sockets may use together [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Memory of all cores for small objects (up to 64KiB) that clients ask for often; 0 keeps none
    /// [default: an eighth of what connections leave]
    #[arg(long, value_name = "SIZE")]
    pub hot_objects: Option<ByteSize>,
    /// Memory of all cores for readahead, past the page cache, for clients that take an object as fast as the disk
    /// delivers it; 0 reads nothing ahead [default: an eighth of what connections leave, at most 32MiB per core]
    #[arg(long, value_name = "SIZE")]
    pub read_ahead: Option<ByteSize>,
    /// Memory of all cores for rebuilt blocks that several clients want at about the same time; 0 keeps none
    /// [default: an eighth of what connections leave, at most 32MiB per core]
    #[arg(long, value_name = "SIZE")]
    pub rebuilt_blocks: Option<ByteSize>,
    /// Share files that each core may have open, including those of objects being served [default: 4096, or fewer if
    /// the limit on descriptors is low]
    #[arg(long, value_name = "N")]
    pub share_files: Option<usize>,
    /// Connections in all [default: as many as the memory and the limit on descriptors allow]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// Connections from one IPv4 address or one IPv6 /64 network [default: no limit]
    #[arg(long, value_name = "N")]
    pub max_connections_per_address: Option<usize>,
    /// What happens to a connection beyond the limit [default: refuse]
    #[arg(long, value_name = "WHAT")]
    pub over_limit: Option<OverLimit>,
    /// When leaves are verified. A leaf that was verified once can be sent straight from the page cache while its
    /// file doesn't change [default: once]
    #[arg(long, value_name = "WHEN")]
    pub verify: Option<VerifyWhen>,
    /// How long a leaf counts as verified [default: 10m]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time")]
    pub verify_age: Option<humantime::Duration>,
    /// Which clients are sent pieces from pool buffers without copying; it takes io_uring [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub zero_copy: Option<ZeroCopyMode>,
    /// The largest SO_SNDBUF that is lent to a fast connection with a long round-trip time [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub send_buffer_max: Option<ByteSize>,
    /// Bytes per second that a client must acknowledge, on average over the send timeout [default: 0]
    #[arg(long, value_name = "SIZE")]
    pub min_rate: Option<ByteSize>,
    /// A request head must arrive within this time [default: 10s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time")]
    pub head_timeout: Option<humantime::Duration>,
    /// A connection without a request is closed after this time [default: 60s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time")]
    pub idle_timeout: Option<humantime::Duration>,
    /// A connection whose client acknowledges nothing for this long is closed. Slow clients acknowledge in steps:
    /// under 10s they may be closed too [default: 2m]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time")]
    pub send_timeout: Option<humantime::Duration>,
    /// After SIGTERM, bodies may finish within this time [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time")]
    pub drain_timeout: Option<humantime::Duration>,
}

/// Why a TOML file of options can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// It can't be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not TOML, or has an unknown key or a bad value.
    #[error("{path}: {error}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
}

impl Options {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Options, OptionsError> {
        let text = std::fs::read_to_string(path).map_err(|error| OptionsError::Read {
            path: path.to_owned(),
            error,
        })?;
        toml::from_str(&text).map_err(|error| OptionsError::Parse {
            path: path.to_owned(),
            error: Box::new(error),
        })
    }

    /// These options, with those of `file` for what is not set.
    pub fn or(self, file: Options) -> Options {
        Options {
            store: if self.store.is_empty() {
                file.store
            } else {
                self.store
            },
            tahoe_node: if self.tahoe_node.is_empty() {
                file.tahoe_node
            } else {
                self.tahoe_node
            },
            tahoe_segment_max: self.tahoe_segment_max.or(file.tahoe_segment_max),
            listen: self.listen.or(file.listen),
            admin: self.admin.or(file.admin),
            cores: self.cores.or(file.cores),
            io: self.io.or(file.io),
            pool_buffers: self.pool_buffers.or(file.pool_buffers),
            pool_buffer_size: self.pool_buffer_size.or(file.pool_buffer_size),
            memory: self.memory.or(file.memory),
            hot_objects: self.hot_objects.or(file.hot_objects),
            read_ahead: self.read_ahead.or(file.read_ahead),
            rebuilt_blocks: self.rebuilt_blocks.or(file.rebuilt_blocks),
            share_files: self.share_files.or(file.share_files),
            max_connections: self.max_connections.or(file.max_connections),
            max_connections_per_address: self
                .max_connections_per_address
                .or(file.max_connections_per_address),
            over_limit: self.over_limit.or(file.over_limit),
            verify: self.verify.or(file.verify),
            verify_age: self.verify_age.or(file.verify_age),
            zero_copy: self.zero_copy.or(file.zero_copy),
            send_buffer_max: self.send_buffer_max.or(file.send_buffer_max),
            min_rate: self.min_rate.or(file.min_rate),
            head_timeout: self.head_timeout.or(file.head_timeout),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            send_timeout: self.send_timeout.or(file.send_timeout),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
        }
    }
}
