//! The settings of a server: the options with defaults filled in, and every value checked.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use penstock_remote::RemoteUrl;

use super::address::{Address, AdminAddress};
use super::bounds::{SettingsError, SizeBounds, bounded};
use super::bucket::Bucket;
use super::options::Options;
use super::origin::Origin;
use super::proxies::Proxies;
use super::token::Token;
use super::values::{
    AccessLogFormat, BackendChoice, OverLimit, PerAddress, RateLimits, VerifyWhen, ZeroCopyMode,
};
use crate::memory::limits;
use crate::tls::certificates::CertificateFiles;

/// Every setting with its value, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Store directories.
    pub stores: Vec<PathBuf>,
    /// How remote stores are used.
    pub remote: Remote,
    /// How long a store may take for one call.
    pub store_timeout: Duration,
    /// How long after a look at all objects the next one begins; `None` for none at all.
    pub survey_every: Option<Duration>,
    /// Whether an older put is served where too few shares of the newest are left.
    pub allow_stale: bool,
    /// Directories of Tahoe-LAFS storage nodes.
    pub tahoe_nodes: Vec<PathBuf>,
    /// The longest segment of a Tahoe-LAFS file.
    pub tahoe_segment_bytes_max: u64,
    /// Where objects are served.
    pub listen: Address,
    /// Where they are served by TLS.
    pub tls_listen: Option<Address>,
    /// The certificates for that.
    pub tls_certificates: Vec<CertificateFiles>,
    /// The port to which requests without TLS are redirected; 0 is that of the listener.
    pub redirect_http: Option<u16>,
    /// Where metrics, health and status are served.
    pub admin: AdminAddress,
    /// Names by which the admin listener may be asked, in lower case.
    pub admin_hosts: Vec<String>,
    /// Who signs the certificates of those who may ask the admin listener, which then speaks TLS.
    pub admin_client_ca: Option<PathBuf>,
    /// What admin requests need.
    pub admin_token: Option<Token>,
    /// Threads, each pinned to a core.
    pub cores: usize,
    /// How the cores are to talk to the kernel.
    pub io: BackendChoice,
    /// Pool buffers per core.
    pub pool_buffers: usize,
    /// Bytes of one pool buffer.
    pub pool_buffer_bytes: usize,
    /// Memory in all, kernel socket memory included.
    pub memory_bytes: u64,
    /// Memory of all cores for hot objects; `None` is the default part.
    pub hot_bytes: Option<u64>,
    /// Memory of all cores for readahead; `None` is the default part.
    pub readahead_bytes: Option<u64>,
    /// Memory of all cores for rebuilt blocks; `None` is the default part.
    pub rebuilt_bytes: Option<u64>,
    /// Share files that each core may have open; `None` is the default, or fewer if descriptors are scarce.
    pub share_files: Option<usize>,
    /// Connections in all; `None` is as many as fit.
    pub connections_max: Option<usize>,
    /// Connections from one address.
    pub connections_per_address_max: PerAddress,
    /// What happens to a connection beyond the limit.
    pub over_limit: OverLimit,
    /// How long a leaf counts as verified; `None` if every read is verified.
    pub verify_age: Option<Duration>,
    /// When pieces are sent zero-copy.
    pub zero_copy: ZeroCopyMode,
    /// The largest `SO_SNDBUF` that a connection is lent.
    pub send_buffer_max: u32,
    /// Bytes per second that a client must acknowledge.
    pub rate_min: u64,
    /// How long a client may stall with a loan while others ask for credit in vain; `None` is as long as any.
    pub stalled_loan_timeout: Option<Duration>,
    /// Bytes per second that are sent at most.
    pub rates: RateLimits,
    /// Origins whose pages may read responses.
    pub cors_origins: Vec<Origin>,
    /// The proxies in front.
    pub proxies: Proxies,
    /// The file that a path ending in `/` means.
    pub index: Option<String>,
    /// What S3 clients see.
    pub s3_buckets: Vec<Bucket>,
    /// The region that signatures must name; `None` if any will do.
    pub s3_region: Option<String>,
    /// The file of key pairs.
    pub keys_file: Option<PathBuf>,
    /// Whether only signed requests are answered.
    pub require_signature: bool,
    /// Time for a request head.
    pub head_timeout: Duration,
    /// Time without a request.
    pub idle_timeout: Duration,
    /// Time without acknowledged bytes.
    pub send_timeout: Duration,
    /// Time after SIGTERM before draining begins.
    pub drain_delay: Duration,
    /// Time for bodies to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// Where this server hands over.
    pub hand_over: Option<PathBuf>,
    /// Where it takes over.
    pub take_over: Option<PathBuf>,
    /// What is logged; `None` if the environment says.
    pub log: Option<String>,
    /// The file of the access log, `-` for standard output; `None` if requests are not logged.
    pub access_log: Option<PathBuf>,
    /// How its lines are written.
    pub access_log_format: AccessLogFormat,
}

const fn sizes(least: u64, most: u64, step: u64) -> SizeBounds {
    SizeBounds { least, most, step }
}

const CACHE_SIZES: SizeBounds = sizes(limits::CACHE_SIZE_LEAST, 1 << 60, 1);
const MEMORY_SIZES: SizeBounds = sizes(1 << 20, 64 << 40, 1);
/// Direct reads go into pool buffers, so these are whole pages.
const POOL_BUFFER_SIZES: SizeBounds = sizes(64 << 10, 1 << 30, 4096);
const TAHOE_SEGMENT_SIZES: SizeBounds = sizes(1 << 10, 64 << 30, 1);
/// Bytes per second.
const RATES: SizeBounds = sizes(1 << 10, 1 << 40, 1);
const SEND_BUFFER_SIZES: SizeBounds = sizes(
    limits::SEND_BUFFER_BYTES_MIN as u64,
    limits::SEND_BUFFER_BYTES_MAX as u64,
    1,
);

/// How remote stores are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where what was fetched is kept; `None` is the usual directory.
    pub cache: Option<PathBuf>,
    /// How many bytes that may take.
    pub cache_size: u64,
    /// How long a listing of an object counts.
    pub ttl: Duration,
    /// Fetches at one time.
    pub fetches: usize,
    /// Whether other shares are fetched where a store is late.
    pub hedges: bool,
}

/// Whether a store is remote: a URL, not a directory.
pub fn is_remote(store: &Path) -> bool {
    store.to_str().is_some_and(RemoteUrl::is_one)
}

impl Settings {
    /// Remote stores.
    pub fn remote_stores(&self) -> usize {
        let remote = self.stores.iter().filter(|store| is_remote(store));
        remote.count()
    }

    /// Fills in the defaults and checks every value. `cores` is what the machine has.
    pub fn new(options: Options, cores: usize) -> Result<Settings, SettingsError> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let cores = bounded("cores", options.cores.unwrap_or(cores), 1, 1024)?;
        let size = options
            .pool_buffer_size
            .unwrap_or(ByteSize(limits::POOL_BUFFER_BYTES_DEFAULT as u64));
        let size = POOL_BUFFER_SIZES.check("pool-buffer-size", size)?;
        let time = |option, time: Option<humantime::Duration>, default: Duration| {
            let (least, most) = (Duration::from_millis(100), Duration::from_secs(24 * 3600));
            let time = time.unwrap_or(default.into());
            bounded(option, time, least.into(), most.into()).map(Duration::from)
        };
        let connections = options
            .max_connections
            .map(|connections| bounded("max-connections", connections, 1, 10_000_000))
            .transpose()?;
        let per_address = options.max_connections_per_address.unwrap_or_default();
        if let PerAddress::Most(most) = per_address {
            bounded("max-connections-per-address", most, 1, 10_000_000)?;
        }
        let rate = |option, rate: Option<ByteSize>| {
            let rate = rate.map(|rate| RATES.check(option, rate));
            rate.transpose()
        };
        let rates = RateLimits {
            per_connection: rate("rate-per-connection", options.rate_per_connection)?,
            per_address: rate("rate-per-address", options.rate_per_address)?,
            per_network: rate("rate-per-network", options.rate_per_network)?,
        };
        let verify_age = time("verify-age", options.verify_age, limits::VERIFY_AGE_DEFAULT)?;
        let memory = options.memory.unwrap_or(ByteSize(default_memory(cores)));
        let store_timeout: humantime::Duration = options
            .store_timeout
            .unwrap_or(limits::STORE_TIMEOUT_DEFAULT.into());
        let store_timeout = bounded(
            "store-timeout",
            store_timeout,
            limits::STORE_TIMEOUT_LEAST.into(),
            limits::STORE_TIMEOUT_MOST.into(),
        )?;
        let survey_every = match options.survey_every {
            Some(never) if never.is_zero() => None,
            every => {
                let every = every.unwrap_or(limits::SURVEY_EVERY_DEFAULT.into());
                let (least, most) = (Duration::from_millis(100), limits::SURVEY_EVERY_MOST);
                let every = bounded("survey-every", every, least.into(), most.into())?;
                Some(every.into())
            }
        };
        Ok(Settings {
            stores: options.store,
            remote: Remote {
                cache: options.cache,
                cache_size: CACHE_SIZES.check(
                    "cache-size",
                    options
                        .cache_size
                        .unwrap_or(ByteSize(limits::CACHE_SIZE_DEFAULT)),
                )?,
                ttl: bounded(
                    "store-ttl",
                    options
                        .store_ttl
                        .unwrap_or(limits::STORE_TTL_DEFAULT.into()),
                    Duration::ZERO.into(),
                    limits::STORE_TTL_MOST.into(),
                )?
                .into(),
                fetches: bounded(
                    "fetches",
                    options.fetches.unwrap_or(limits::REMOTE_FETCHES_DEFAULT),
                    limits::REMOTE_FETCHES_LEAST,
                    limits::REMOTE_FETCHES_MAX,
                )?,
                hedges: !options.no_hedging,
            },
            store_timeout: store_timeout.into(),
            survey_every,
            allow_stale: options.allow_stale,
            tahoe_nodes: options.tahoe_node,
            tahoe_segment_bytes_max: TAHOE_SEGMENT_SIZES.check(
                "tahoe-segment-max",
                options
                    .tahoe_segment_max
                    .unwrap_or(ByteSize(limits::TAHOE_SEGMENT_BYTES_MAX_DEFAULT)),
            )?,
            listen: options.listen.unwrap_or_else(|| local(8080).into()),
            tls_certificates: certificates(
                options.tls_listen.as_ref(),
                options.tls_cert,
                options.tls_key,
                options.tls_ocsp,
                options.admin_client_ca.as_deref(),
            )?,
            redirect_http: redirect(options.redirect_http, options.tls_listen.as_ref())?,
            tls_listen: options.tls_listen,
            admin: options.admin.unwrap_or_else(|| local(9090).into()),
            admin_hosts: admin_hosts(options.admin_host)?,
            admin_client_ca: options.admin_client_ca,
            admin_token: options
                .admin_token_file
                .map(|path| {
                    Token::read(&path).map_err(|error| SettingsError {
                        option: "admin-token-file",
                        value: path.display().to_string(),
                        reason: error.to_string(),
                    })
                })
                .transpose()?,
            cores,
            io: options.io.unwrap_or_default(),
            pool_buffers: bounded(
                "pool-buffers",
                options.pool_buffers.unwrap_or(limits::POOL_BUFFERS_DEFAULT),
                1,
                limits::POOL_BUFFERS_MAX,
            )?,
            pool_buffer_bytes: size as usize,
            memory_bytes: MEMORY_SIZES.check("memory", memory)?,
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
            send_buffer_max: SEND_BUFFER_SIZES.check(
                "send-buffer-max",
                options
                    .send_buffer_max
                    .unwrap_or(ByteSize(u64::from(limits::SEND_BUFFER_BYTES_MAX_DEFAULT))),
            )? as u32,
            rate_min: options
                .min_rate
                .map_or(limits::RATE_MIN_DEFAULT, |rate| rate.0),
            stalled_loan_timeout: options
                .stalled_loan_timeout
                .map(|most| time("stalled-loan-timeout", Some(most), Duration::ZERO))
                .transpose()?,
            rates,
            cors_origins: options.cors_origin,
            proxies: proxies(Proxies {
                trusted: options.trusted_proxy,
                preamble: options.proxy_protocol,
                told: options.client_address.unwrap_or_default(),
            })?,
            index: options.index.map(index).transpose()?,
            s3_buckets: buckets(options.s3_bucket)?,
            s3_region: options.s3_region.map(region).transpose()?,
            require_signature: options.require_signature,
            keys_file: options.keys_file,
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
            drain_delay: bounded(
                "drain-delay",
                options.drain_delay.unwrap_or(Duration::ZERO.into()),
                Duration::ZERO.into(),
                Duration::from_secs(3600).into(),
            )?
            .into(),
            drain_timeout: time(
                "drain-timeout",
                options.drain_timeout,
                limits::DRAIN_TIMEOUT_DEFAULT,
            )?,
            hand_over: options.hand_over,
            take_over: options.take_over,
            log: options.log.map(log).transpose()?,
            access_log: options.access_log,
            access_log_format: options.access_log_format.unwrap_or_default(),
        })
    }
}

/// Each certificate with its key.
/// Memory where nothing is said of it, for so many cores.
fn default_memory(cores: usize) -> u64 {
    limits::MEMORY_DEFAULT.max(limits::MEMORY_DEFAULT_PER_CORE * cores as u64)
}

fn certificates(
    listen: Option<&Address>,
    certificates: Vec<PathBuf>,
    keys: Vec<PathBuf>,
    ocsp: Vec<PathBuf>,
    admin_client_ca: Option<&Path>,
) -> Result<Vec<CertificateFiles>, SettingsError> {
    let wrong = |option: &'static str, values: &[PathBuf], reason: &str| SettingsError {
        option,
        value: values
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(" "),
        reason: reason.to_owned(),
    };
    if listen.is_some() && certificates.is_empty() {
        let reason = "it takes a certificate and its key: --tls-cert FILE --tls-key FILE";
        return Err(SettingsError {
            option: "tls-listen",
            value: listen.map(Address::to_string).unwrap_or_default(),
            reason: reason.to_owned(),
        });
    }
    if let (Some(path), true) = (admin_client_ca, certificates.is_empty()) {
        let reason = "TLS takes a certificate and its key: --tls-cert FILE --tls-key FILE";
        return Err(wrong("admin-client-ca", &[path.to_owned()], reason));
    }
    if listen.is_none() && admin_client_ca.is_none() && !certificates.is_empty() {
        let reason = "say with --tls-listen ADDR where it is for";
        return Err(wrong("tls-cert", &certificates, reason));
    }
    if keys.len() != certificates.len() {
        let reason = "there must be one for each --tls-cert, in the same order";
        return Err(wrong("tls-key", &keys, reason));
    }
    if !ocsp.is_empty() && ocsp.len() != certificates.len() {
        let reason = "there must be one for each --tls-cert, in the same order, or none";
        return Err(wrong("tls-ocsp", &ocsp, reason));
    }
    let mut ocsp = ocsp.into_iter();
    let pairs = certificates.into_iter().zip(keys);
    Ok(pairs
        .map(|(certificate, key)| CertificateFiles {
            certificate,
            key,
            ocsp: ocsp.next(),
        })
        .collect())
}

/// Where requests without TLS are redirected: only where there is TLS.
fn redirect(port: Option<u16>, listen: Option<&Address>) -> Result<Option<u16>, SettingsError> {
    match port {
        Some(port) if listen.is_none() => Err(SettingsError {
            option: "redirect-http",
            value: port.to_string(),
            reason: "there is no --tls-listen to redirect to".to_owned(),
        }),
        port => Ok(port),
    }
}

/// Proxies whose place is known. A preamble from anybody else would be a way to take any address.
fn proxies(proxies: Proxies) -> Result<Proxies, SettingsError> {
    match proxies.preamble && proxies.trusted.is_empty() {
        false => Ok(proxies),
        true => Err(SettingsError {
            option: "proxy-protocol",
            value: "true".to_owned(),
            reason: "say with --trusted-proxy where the proxies are".to_owned(),
        }),
    }
}

/// Buckets with different names.
fn buckets(buckets: Vec<Bucket>) -> Result<Vec<Bucket>, SettingsError> {
    let wrong = |bucket: &Bucket, reason: &str| SettingsError {
        option: "s3-bucket",
        value: bucket.to_string(),
        reason: reason.to_owned(),
    };
    for (at, bucket) in buckets.iter().enumerate() {
        if at == limits::BUCKETS_MAX {
            return Err(wrong(bucket, "there are more than 100 buckets"));
        }
        if buckets[..at].iter().any(|other| other.name == bucket.name) {
            return Err(wrong(bucket, "there is another bucket with this name"));
        }
    }
    Ok(buckets)
}

/// The name of a region.
fn region(name: String) -> Result<String, SettingsError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match (1..=63).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(name),
        false => Err(SettingsError {
            option: "s3-region",
            value: name,
            reason: "it must be a name such as us-east-1".to_owned(),
        }),
    }
}

/// The name of a file, without a directory.
fn index(name: String) -> Result<String, SettingsError> {
    let is_name = !name.is_empty() && name.len() <= 255 && name != "." && name != "..";
    match is_name && !name.contains('/') && !name.contains(char::is_control) {
        true => Ok(name),
        false => Err(SettingsError {
            option: "index",
            value: name,
            reason: "it must be the name of a file without a directory, as in index.html"
                .to_owned(),
        }),
    }
}

/// Names, of which the case does not matter.
fn admin_hosts(names: Vec<String>) -> Result<Vec<String>, SettingsError> {
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let name = |name: String| match !name.is_empty() && name.bytes().all(of_a_name) {
        true => Ok(name.to_ascii_lowercase()),
        false => Err(SettingsError {
            option: "admin-host",
            value: name,
            reason: "it must be a host name, without a port".to_owned(),
        }),
    };
    names.into_iter().map(name).collect()
}

/// A filter that can be used.
fn log(filter: String) -> Result<String, SettingsError> {
    match filter.parse::<tracing_subscriber::filter::Targets>() {
        Ok(_) => Ok(filter),
        Err(error) => Err(SettingsError {
            option: "log",
            value: filter,
            reason: format!("{error}; it may be error, warn, info or debug"),
        }),
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
        assert_eq!(settings.listen.to_string(), "127.0.0.1:1");
        assert_eq!(settings.stores.len(), 2);
        assert_eq!(settings.pool_buffer_bytes, 1 << 20);
        assert_eq!(settings.send_timeout, Duration::from_secs(300));
        assert_eq!(settings.cores, 3);
        assert_eq!(settings.memory_bytes, 96 << 20);
        assert_eq!(settings.over_limit, OverLimit::Wait);
    }

    #[test]
    fn errors_name_the_option_and_its_bounds() {
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
        assert_eq!(
            error,
            "--pool-buffer-size 70KB: it must be between 64KiB and 1GiB, a multiple of 4KiB"
        );
        let error = bad(Options {
            idle_timeout: Some(Duration::from_millis(50).into()),
            ..Options::default()
        });
        assert_eq!(
            error,
            "--idle-timeout 50ms: it must be between 100ms and 1day"
        );
    }
}
