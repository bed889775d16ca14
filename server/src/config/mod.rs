//! What an operator may set: raw values from the command line and a TOML file of the same keys.
//!
//! Flags override the file. What follows from the values is computed in [`limits`] and
//! checked in [`Settings::new`].

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use crate::body::zero_copy;
use crate::connection::accept::OverLimit;
use crate::io::BackendChoice;
use crate::memory::limits;

/// A length of time as people write it: `500ms`, `10s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = humantime::DurationError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Span)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// When a leaf is verified (`--verify`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyWhen {
    /// When it is read for the first time, when its file changed, and when that is long ago.
    #[default]
    Once,
    /// Every time it is sent.
    Always,
}

impl FromStr for VerifyWhen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "once" => Ok(VerifyWhen::Once),
            "always" => Ok(VerifyWhen::Always),
            _ => Err(format!(
                "`{text}` is not a time to verify: use once or always"
            )),
        }
    }
}

/// Reads a value from its text, as the command line does.
fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

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
    #[serde(deserialize_with = "from_text")]
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
    #[serde(deserialize_with = "from_text")]
    pub over_limit: Option<OverLimit>,
    /// When leaves are verified: once (then sent straight from the page cache while their file stays as it
    /// is) or always [default: once]
    #[arg(long, value_name = "WHEN")]
    #[serde(deserialize_with = "from_text")]
    pub verify: Option<VerifyWhen>,
    /// A leaf that was verified once is verified again after this time [default: 10m]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "from_text")]
    pub verify_age: Option<Span>,
    /// What is not sent from the page cache is sent to fast clients without copying (auto: not where the kernel
    /// reports that it copies; always: to all, to try it out; off), with io_uring only [default: auto]
    #[arg(long, value_name = "WHEN")]
    #[serde(deserialize_with = "from_text")]
    pub zero_copy: Option<zero_copy::When>,
    /// The largest SO_SNDBUF that a fast, far connection is lent [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub send_buffer_max: Option<ByteSize>,
    /// Bytes a client must acknowledge per second, on average over the send timeout [default: 0]
    #[arg(long, value_name = "SIZE")]
    pub min_rate: Option<ByteSize>,
    /// A request head must arrive within this time [default: 10s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "from_text")]
    pub head_timeout: Option<Span>,
    /// A connection without a request is closed after this time [default: 60s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "from_text")]
    pub idle_timeout: Option<Span>,
    /// A client that acknowledges nothing for this long is closed [default: 2m]. Under 10s slow readers,
    /// which acknowledge in steps, may be closed too
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "from_text")]
    pub send_timeout: Option<Span>,
    /// After SIGTERM, bodies may finish within this time [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "from_text")]
    pub drain_timeout: Option<Span>,
}

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {error}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// A value is out of its bounds.
    #[error("--{option} {value}: {reason}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it was set to.
        value: String,
        /// Its bounds.
        reason: String,
    },
}

impl Options {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Options, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
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

/// Every setting with its value, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Store directories.
    pub stores: Vec<PathBuf>,
    /// Directories of Tahoe-LAFS storage nodes.
    pub tahoe_nodes: Vec<PathBuf>,
    /// The longest segment of a Tahoe-LAFS file.
    pub tahoe_segment_bytes_max: u64,
    /// Where objects are served.
    pub listen: SocketAddr,
    /// Where metrics, health and status are served.
    pub admin: SocketAddr,
    /// Threads.
    pub cores: usize,
    /// I/O backend asked for.
    pub io: BackendChoice,
    /// Segment buffers per core.
    pub pool_buffers: usize,
    /// Bytes of one.
    pub pool_buffer_bytes: usize,
    /// Memory in all, kernel socket memory included.
    pub memory_bytes: u64,
    /// Memory for hot objects, of all cores; `None` is the usual part.
    pub hot_bytes: Option<u64>,
    /// Memory for reading ahead, of all cores; `None` is the usual part.
    pub readahead_bytes: Option<u64>,
    /// Memory for rebuilt blocks, of all cores; `None` is the usual part.
    pub rebuilt_bytes: Option<u64>,
    /// Share files open per core; `None` is the usual number, or what descriptors allow.
    pub share_files: Option<usize>,
    /// Connections in all; `None` is as many as fit.
    pub connections_max: Option<usize>,
    /// Connections from one address.
    pub connections_per_address_max: Option<usize>,
    /// What happens to a connection for which there is no place.
    pub over_limit: OverLimit,
    /// How long a verified leaf counts as good; `None` if every read is verified.
    pub verify_age: Option<Duration>,
    /// When pieces are sent zero-copy.
    pub zero_copy: zero_copy::When,
    /// The largest `SO_SNDBUF` that a connection is lent.
    pub send_buffer_max: u32,
    /// Bytes per second that a client must acknowledge.
    pub rate_min: u64,
    /// Time for a request head.
    pub head_timeout: Duration,
    /// Time without a request.
    pub idle_timeout: Duration,
    /// Time without acknowledged bytes.
    pub send_timeout: Duration,
    /// Time for bodies to finish after SIGTERM.
    pub drain_timeout: Duration,
}

fn bounded<T: PartialOrd + fmt::Display>(
    option: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<T, ConfigError> {
    if value < least || value > most {
        let reason = format!("it must be between {least} and {most}");
        return Err(ConfigError::Value {
            option,
            value: value.to_string(),
            reason,
        });
    }
    Ok(value)
}

impl Settings {
    /// Fills in the defaults and checks every value. `cores` is what the machine has.
    pub fn new(options: Options, cores: usize) -> Result<Settings, ConfigError> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let cores = bounded("cores", options.cores.unwrap_or(cores), 1, 1024)?;
        let size = options
            .pool_buffer_size
            .unwrap_or(ByteSize(limits::POOL_BUFFER_BYTES_DEFAULT as u64));
        let size = bounded(
            "pool-buffer-size",
            size,
            ByteSize::kib(64),
            ByteSize::gib(1),
        )?;
        if size.0 % 4096 != 0 {
            let reason = "it must be a multiple of 4KiB".to_owned();
            return Err(ConfigError::Value {
                option: "pool-buffer-size",
                value: size.to_string(),
                reason,
            });
        }
        let time = |option, span: Option<Span>, default: Duration| {
            let span = span.unwrap_or(Span(default));
            let (least, most) = (Duration::from_millis(100), Duration::from_secs(24 * 3600));
            if span.0 < least || span.0 > most {
                let reason = "it must be between 100ms and 24h".to_owned();
                return Err(ConfigError::Value {
                    option,
                    value: span.to_string(),
                    reason,
                });
            }
            Ok(span.0)
        };
        let connections = options
            .max_connections
            .map(|connections| bounded("max-connections", connections, 1, 10_000_000))
            .transpose()?;
        let per_address = options
            .max_connections_per_address
            .map(|most| bounded("max-connections-per-address", most, 1, 10_000_000))
            .transpose()?;
        let verify_age = time("verify-age", options.verify_age, limits::VERIFY_AGE_DEFAULT)?;
        let memory = options.memory.unwrap_or(ByteSize(limits::MEMORY_DEFAULT));
        Ok(Settings {
            stores: options.store,
            tahoe_nodes: options.tahoe_node,
            tahoe_segment_bytes_max: bounded(
                "tahoe-segment-max",
                options
                    .tahoe_segment_max
                    .unwrap_or(ByteSize(limits::TAHOE_SEGMENT_BYTES_MAX_DEFAULT)),
                ByteSize::kib(1),
                ByteSize::gib(64),
            )?
            .0,
            listen: options.listen.unwrap_or(local(8080)),
            admin: options.admin.unwrap_or(local(9090)),
            cores,
            io: options.io.unwrap_or_default(),
            pool_buffers: bounded(
                "pool-buffers",
                options.pool_buffers.unwrap_or(limits::POOL_BUFFERS_DEFAULT),
                1,
                limits::POOL_BUFFERS_MAX,
            )?,
            pool_buffer_bytes: size.0 as usize,
            memory_bytes: bounded("memory", memory, ByteSize::mib(1), ByteSize::tib(64))?.0,
            hot_bytes: options.hot_objects.map(|size| size.0),
            readahead_bytes: options.read_ahead.map(|size| size.0),
            rebuilt_bytes: options.rebuilt_blocks.map(|size| size.0),
            share_files: options
                .share_files
                .map(|files| bounded("share-files", files, limits::SHARE_FILES_MIN, 10_000_000))
                .transpose()?,
            connections_max: connections,
            connections_per_address_max: per_address,
            over_limit: options.over_limit.unwrap_or_default(),
            verify_age: match options.verify.unwrap_or_default() {
                VerifyWhen::Once => Some(verify_age),
                VerifyWhen::Always => None,
            },
            zero_copy: options.zero_copy.unwrap_or_default(),
            send_buffer_max: bounded(
                "send-buffer-max",
                options
                    .send_buffer_max
                    .unwrap_or(ByteSize(u64::from(limits::SEND_BUFFER_BYTES_MAX_DEFAULT))),
                ByteSize(u64::from(limits::SEND_BUFFER_BYTES_MIN)),
                ByteSize(u64::from(limits::SEND_BUFFER_BYTES_MAX)),
            )?
            .0 as u32,
            rate_min: options.min_rate.unwrap_or_default().0,
            head_timeout: time(
                "head-timeout",
                options.head_timeout,
                limits::HEAD_TIMEOUT_DEFAULT,
            )?,
            idle_timeout: time(
                "idle-timeout",
                options.idle_timeout,
                limits::IDLE_TIMEOUT_DEFAULT,
            )?,
            send_timeout: time(
                "send-timeout",
                options.send_timeout,
                limits::SEND_TIMEOUT_DEFAULT,
            )?,
            drain_timeout: time(
                "drain-timeout",
                options.drain_timeout,
                limits::DRAIN_TIMEOUT_DEFAULT,
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_override_the_file() {
        let file: Options = toml::from_str(
            "store = [\"/a\", \"/b\"]\nlisten = \"0.0.0.0:80\"\nio = \"epoll\"\n\
             pool_buffer_size = \"1MiB\"\nsend_timeout = \"5m\"\nmemory = \"96MiB\"\n\
             over_limit = \"wait\"\n",
        )
        .unwrap();
        let flags = Options {
            listen: Some("127.0.0.1:1".parse().unwrap()),
            ..Options::default()
        };
        let settings = Settings::new(flags.or(file), 3).unwrap();
        assert_eq!(settings.listen.port(), 1);
        assert_eq!(settings.stores.len(), 2);
        assert_eq!(settings.pool_buffer_bytes, 1 << 20);
        assert_eq!(settings.send_timeout, Duration::from_secs(300));
        assert_eq!(settings.cores, 3);
        assert_eq!(settings.memory_bytes, 96 << 20);
        assert_eq!(settings.over_limit, OverLimit::Wait);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = toml::from_str::<Options>("stroe = []")
            .unwrap_err()
            .to_string();
        assert!(error.contains("stroe"), "{error}");
        let bad = |options| Settings::new(options, 1).unwrap_err().to_string();
        let error = bad(Options {
            pool_buffers: Some(0),
            ..Options::default()
        });
        assert_eq!(error, "--pool-buffers 0: it must be between 1 and 1024");
        let error = bad(Options {
            pool_buffer_size: Some(ByteSize(70_000)),
            ..Options::default()
        });
        assert!(error.contains("multiple of 4KiB"), "{error}");
    }
}
