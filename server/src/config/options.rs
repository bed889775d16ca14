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
    /// A store directory; repeat it for each. Shares of one object lie in different stores
    #[arg(long, value_name = "DIR")]
    pub store: Vec<PathBuf>,
    /// A Tahoe-LAFS storage node's directory (or its `storage` or `shares`); repeat it for each. Files are
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
    /// How to talk to the kernel: auto, uring or epoll [default: auto]
    #[arg(long, value_name = "BACKEND")]
    pub io: Option<BackendChoice>,
    /// Segment buffers per core [default: 5]
    #[arg(long, value_name = "N")]
    pub pool_buffers: Option<usize>,
    /// Bytes of one segment buffer. Where a segment (k blocks) and what is rebuilt of it fit none, some is read more than once
    /// [default: 768KiB]
    #[arg(long, value_name = "SIZE")]
    pub pool_buffer_size: Option<ByteSize>,
    /// Memory that the process and its sockets' kernel memory may use together [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Memory for small objects (up to 64KiB) that are asked for often, of all cores together; 0 keeps none
    /// [default: an eighth of what connections leave]
    #[arg(long, value_name = "SIZE")]
    pub hot_objects: Option<ByteSize>,
    /// Memory for reading ahead, past the page cache, for clients that take an object from the disk as fast as it comes,
    /// of all cores together; 0 reads nothing ahead [default: an eighth of what connections leave, 32MiB per core at
    /// most]
    #[arg(long, value_name = "SIZE")]
    pub read_ahead: Option<ByteSize>,
    /// Memory for blocks rebuilt in place of lost ones that several clients want at about the same time, of all cores
    /// together; 0 keeps none [default: an eighth of what connections leave, 32MiB per core at most]
    #[arg(long, value_name = "SIZE")]
    pub rebuilt_blocks: Option<ByteSize>,
    /// Share files open per core, those of objects being served included [default: 4096, or fewer where the limit on
    /// descriptors is low]
    #[arg(long, value_name = "N")]
    pub share_files: Option<usize>,
    /// Connections in all [default: as many as the memory and the limit on descriptors allow]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// Connections from one IPv4 address or one IPv6 /64 network [default: no limit]
    #[arg(long, value_name = "N")]
    pub max_connections_per_address: Option<usize>,
    /// A connection for which there is no place: refuse (503) or wait (in the backlog) [default: refuse]
    #[arg(long, value_name = "WHAT")]
    pub over_limit: Option<OverLimit>,
    /// When leaves are verified: once (then sent straight from the page cache while their file stays as it
    /// is) or always [default: once]
    #[arg(long, value_name = "WHEN")]
    pub verify: Option<VerifyWhen>,
    /// A leaf that was verified once is verified again after this time [default: 10m]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time")]
    pub verify_age: Option<humantime::Duration>,
    /// What is not sent from the page cache is sent to fast clients without copying (auto: not where the kernel
    /// reports that it copies; always: to all, to try it out; off), with io_uring only [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub zero_copy: Option<ZeroCopyMode>,
    /// The largest SO_SNDBUF that a fast, far connection is lent [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub send_buffer_max: Option<ByteSize>,
    /// Bytes a client must acknowledge per second, on average over the send timeout [default: 0]
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
    /// A client that acknowledges nothing for this long is closed [default: 2m]. Under 10s slow readers,
    /// which acknowledge in steps, may be closed too
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

    /// These options, and those of `file` where these don't say.
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
