//! The options of `penstock serve`: raw values from the command line, and from a TOML file of the same keys.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args as _;
use serde::Deserialize;

use super::address::{Address, AdminAddress};
use super::bucket::Bucket;
use super::origin::Origin;
use super::proxies::{ClientAddress, Network};
use super::values::{
    self, AccessLogFormat, BackendChoice, OverLimit, PerAddress, VerifyWhen, ZeroCopyMode,
};

/// The options of `penstock serve`. Each is also a key of the TOML file, with `_` for `-`.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// A store: a directory, or the URL of a bucket: s3://bucket/prefix (perhaps with ?endpoint=URL&region=NAME),
    /// gs://bucket/prefix or az://container/prefix?account=NAME. Repeat the option for each. A store holds at most one share
    /// of an object
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "values::directories_key")]
    pub store: Vec<PathBuf>,
    /// A store that takes longer for a look-up or a read is given up, suspended, and tried again in the background; one that
    /// ends other long reads meanwhile gets four times as long for a read [default: 500ms]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub store_timeout: Option<humantime::Duration>,
    /// Look at all objects in the background, slowly, and again so long after that: /status, /metrics and the log tell how
    /// many lack shares or can't be served; 0s never does [default: 1h]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub survey_every: Option<humantime::Duration>,
    /// Where what was fetched from remote stores is kept, on a local disk; one server has it at a time [default: penstock in
    /// $CACHE_DIRECTORY, $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// How much of its disk the cache may take [default: 10GiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub cache_size: Option<ByteSize>,
    /// How long what a remote store has of an object counts as known, also that it has nothing; 0s asks every time
    /// [default: 60s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub store_ttl: Option<humantime::Duration>,
    /// Fetches from remote stores at one time, each of which takes memory [default: 32]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "values::number_key")]
    pub fetches: Option<usize>,
    /// Wait for remote stores that are late, instead of fetching other shares in their place
    #[arg(long)]
    pub no_hedging: bool,
    /// Serve an older put of a key where too few shares of the newest are left
    #[arg(long)]
    pub allow_stale: bool,
    /// The directory of a Tahoe-LAFS storage node (or its `storage` or `shares`); repeat the option for each.
    /// Files are served by their read-caps, at /uri/CAP, /file/CAP/@@named=/NAME and /named/CAP/NAME
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "values::directories_key")]
    pub tahoe_node: Vec<PathBuf>,
    /// Refuse Tahoe-LAFS files with longer segments: a segment is verified whole before its first byte is sent
    /// [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub tahoe_segment_max: Option<ByteSize>,
    /// Address and port for objects: 127.0.0.1:8080, localhost:8080, or :8080 for all addresses
    /// [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<Address>,
    /// Address and port for objects by TLS (HTTPS), besides those at --listen
    #[arg(long, value_name = "ADDR")]
    pub tls_listen: Option<Address>,
    /// A certificate and those that lead to its root, as PEM; repeat the option, each with a --tls-key, for several names.
    /// Clients get the one that is for the name they ask for, or the first if they ask for none
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "values::files_key")]
    pub tls_cert: Vec<PathBuf>,
    /// The private key of the certificate at the same place in the list, as PEM
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "values::files_key")]
    pub tls_key: Vec<PathBuf>,
    /// An OCSP response, as DER, for the certificate at the same place in the list: one for each, or none at all
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "values::files_key")]
    pub tls_ocsp: Vec<PathBuf>,
    /// Answer every request at --listen with a redirect (308) to the same with https, at this port [default port: that of
    /// --tls-listen]
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "0")]
    #[serde(deserialize_with = "values::port_key")]
    pub redirect_http: Option<u16>,
    /// Address and port for metrics, health, status and the live page, as for --listen, or unix:/path/of/a/socket
    /// [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<AdminAddress>,
    /// A name by which the admin listener may be asked, besides IP addresses, localhost and the name in --admin; repeat the
    /// option for each. Requests by other names are refused: a web page could send them (DNS rebinding)
    #[arg(long, value_name = "HOST")]
    #[serde(deserialize_with = "values::words_key")]
    pub admin_host: Vec<String>,
    /// A file with a secret of one line. Every admin request but /healthz and /readyz then needs it, as `Authorization:
    /// Bearer SECRET`, or as the password that a browser asks for
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Speak TLS at --admin, with the certificates of --tls-cert, and only with clients that have a certificate which one of
    /// those in this PEM file has signed
    #[arg(long, value_name = "FILE")]
    pub admin_client_ca: Option<PathBuf>,
    /// Number of threads, each pinned to its own core [default: all cores]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "values::number_key")]
    pub cores: Option<usize>,
    /// I/O backend [default: auto]
    #[arg(long, value_name = "BACKEND")]
    pub io: Option<BackendChoice>,
    /// Pool buffers per core. Each holds one piece of an object while it is read, rebuilt and sent [default: 5]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "values::number_key")]
    pub pool_buffers: Option<usize>,
    /// Size of one pool buffer. It should hold a segment (k blocks) and its rebuilt blocks, or some bytes are read
    /// more than once [default: 768KiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub pool_buffer_size: Option<ByteSize>,
    /// Limit on the memory of the process and the kernel memory of its sockets together. With more than 16 cores the
    /// default is 32MiB for each [default: 512MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub memory: Option<ByteSize>,
    /// Memory, over all cores, for whole small objects (up to 64KiB) that are requested often; 0 turns it off
    /// [default: an eighth of the memory that connections don't need]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub hot_objects: Option<ByteSize>,
    /// Memory, over all cores, for readahead from the disk, for clients that are as fast as the disk; 0 turns it off
    /// [default: an eighth of the memory that connections don't need, at most 32MiB per core]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub read_ahead: Option<ByteSize>,
    /// Memory, over all cores, for rebuilt blocks that several clients need at about the same time; 0 turns it off
    /// [default: an eighth of the memory that connections don't need, at most 32MiB per core]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub rebuilt_blocks: Option<ByteSize>,
    /// Share files that each core may keep open, including those of objects being served [default: 4096, or fewer if
    /// the limit on descriptors is low]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "values::number_key")]
    pub share_files: Option<usize>,
    /// Connections at a time [default: as many as the memory and the limit on descriptors allow]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "values::number_key")]
    pub max_connections: Option<usize>,
    /// Connections at a time from one IPv4 address or one IPv6 /64 network; 0 or `unlimited` is any number. A proxy in
    /// front on another machine needs that, or --trusted-proxy [default: a quarter of all, 64 at least, and any number for
    /// clients on this machine]
    #[arg(long, value_name = "COUNT")]
    pub max_connections_per_address: Option<PerAddress>,
    /// What happens to a connection beyond --max-connections [default: refuse]
    #[arg(long, value_name = "WHAT")]
    pub over_limit: Option<OverLimit>,
    /// When the checksums of leaves (parts of a share, 4KiB as a rule) are verified. A verified leaf can be sent
    /// straight from the page cache [default: once]
    #[arg(long, value_name = "WHEN")]
    pub verify: Option<VerifyWhen>,
    /// How long a verification counts at most, with --verify once [default: 10m]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub verify_age: Option<humantime::Duration>,
    /// Which clients get zero-copy sends from pool buffers (SEND_ZC); needs io_uring [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub zero_copy: Option<ZeroCopyMode>,
    /// The largest send buffer (SO_SNDBUF) that is lent to a fast connection with a long round-trip time [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub send_buffer_max: Option<ByteSize>,
    /// Close a connection whose client acknowledges fewer bytes per second, on average over the send timeout; 0 is no
    /// minimum [default: 100, which only the dead fall short of]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub min_rate: Option<ByteSize>,
    /// While others ask for larger send buffers in vain, close connections that have one and whose client has acknowledged
    /// nothing for this long, the longest stalled first [default: they are left to the send timeout]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub stalled_loan_timeout: Option<humantime::Duration>,
    /// Bytes per second that one connection is sent at most
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub rate_per_connection: Option<ByteSize>,
    /// Bytes per second that the connections of one IPv4 address or one IPv6 /64 network are sent at most, all together
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub rate_per_address: Option<ByteSize>,
    /// Bytes per second that the clients of one network, IPv4 /24 or IPv6 /48, are sent at most, all together
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    #[serde(deserialize_with = "values::size_key")]
    pub rate_per_network: Option<ByteSize>,
    /// Pages of this origin may read responses (CORS), as in `https://example.org`; `*` is any; repeat the option for each
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Vec<Origin>,
    /// The address or network of a proxy in front, as in 10.0.0.0/8; repeat the option for each. Its connections don't count
    /// for --max-connections-per-address, and its word about a client's address is taken
    #[arg(long, value_name = "NETWORK")]
    pub trusted_proxy: Vec<Network>,
    /// The field in which trusted proxies tell a client's address [default: x-forwarded-for]
    #[arg(long, value_name = "FIELD")]
    pub client_address: Option<ClientAddress>,
    /// Connections of trusted proxies begin with a header of the PROXY protocol, version 1 or 2
    #[arg(long)]
    pub proxy_protocol: bool,
    /// The file that a path ending in `/` means, as in index.html
    #[arg(long, value_name = "NAME")]
    pub index: Option<String>,
    /// Show S3 clients a bucket of the objects whose keys begin with PREFIX (`NAME/` if it is not given; `NAME=` is all), at
    /// /NAME/ on the address for objects; repeat the option for each. Without --require-signature anybody may list it. A
    /// listing looks at all objects: a remote store is asked for its files, 1,000 with a request, at most once in --store-ttl,
    /// and one header of each object that is new is read, with a request each
    #[arg(long, value_name = "NAME[=PREFIX]")]
    #[serde(deserialize_with = "values::list_key")]
    pub s3_bucket: Vec<Bucket>,
    /// Only take signatures for this region [default: any]
    #[arg(long, value_name = "NAME")]
    pub s3_region: Option<String>,
    /// The key pairs that links and S3 requests may be signed with: a TOML file of tables `[[key]]` with id and secret,
    /// perhaps prefix and not_after, that only the server's user may read
    #[arg(long, value_name = "FILE")]
    pub keys_file: Option<PathBuf>,
    /// Only answer requests that are signed: by a link (`penstock sign`) or as S3 clients do. Files of Tahoe-LAFS are
    /// still served to whoever has their caps
    #[arg(long)]
    pub require_signature: bool,
    /// A request head that takes longer to arrive is answered 408 [default: 10s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub head_timeout: Option<humantime::Duration>,
    /// A connection that waits longer for its next request is closed [default: 60s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub idle_timeout: Option<humantime::Duration>,
    /// A connection whose client acknowledges nothing for this long is closed. Slow clients acknowledge in steps:
    /// under 10s they may be closed too [default: 2m]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub send_timeout: Option<humantime::Duration>,
    /// Time after SIGTERM in which /readyz fails and everything is served as before, so that load balancers notice
    /// [default: 0s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub drain_delay: Option<humantime::Duration>,
    /// Time that responses in progress may take after SIGTERM before they are cut off [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::time_key")]
    pub drain_timeout: Option<humantime::Duration>,
    /// A socket in the file system at which a new server gets the listeners of this one (see --take-over)
    #[arg(long, value_name = "SOCKET")]
    pub hand_over: Option<PathBuf>,
    /// Take the listeners of the server whose --hand-over this is, which then ends what it has begun. Until it has ended the
    /// memory of both counts. If no server is there, this one listens by itself
    #[arg(long, value_name = "SOCKET")]
    pub take_over: Option<PathBuf>,
    /// What is logged: a level (error, warn, info, debug), or a filter such as info,penstock::stores=debug [default:
    /// RUST_LOG, or info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Write a line for each request to this file, or to standard output (`-`), and send X-Request-Id with each response.
    /// SIGUSR1 has it opened again. What the disk is too slow for is dropped and counted
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// How a line of the access log is written [default: combined]
    #[arg(long, value_name = "FORMAT")]
    pub access_log_format: Option<AccessLogFormat>,
}

impl Options {
    /// These options, with those of `file` for what is not set.
    pub fn or(self, file: Options) -> Options {
        Options {
            store: if self.store.is_empty() {
                file.store
            } else {
                self.store
            },
            store_timeout: self.store_timeout.or(file.store_timeout),
            survey_every: self.survey_every.or(file.survey_every),
            allow_stale: self.allow_stale || file.allow_stale,
            tahoe_node: if self.tahoe_node.is_empty() {
                file.tahoe_node
            } else {
                self.tahoe_node
            },
            tahoe_segment_max: self.tahoe_segment_max.or(file.tahoe_segment_max),
            listen: self.listen.or(file.listen),
            tls_listen: self.tls_listen.or(file.tls_listen),
            tls_cert: if self.tls_cert.is_empty() {
                file.tls_cert
            } else {
                self.tls_cert
            },
            tls_key: if self.tls_key.is_empty() {
                file.tls_key
            } else {
                self.tls_key
            },
            tls_ocsp: if self.tls_ocsp.is_empty() {
                file.tls_ocsp
            } else {
                self.tls_ocsp
            },
            redirect_http: self.redirect_http.or(file.redirect_http),
            admin: self.admin.or(file.admin),
            admin_host: if self.admin_host.is_empty() {
                file.admin_host
            } else {
                self.admin_host
            },
            cache: self.cache.or(file.cache),
            cache_size: self.cache_size.or(file.cache_size),
            store_ttl: self.store_ttl.or(file.store_ttl),
            fetches: self.fetches.or(file.fetches),
            no_hedging: self.no_hedging || file.no_hedging,
            admin_client_ca: self.admin_client_ca.or(file.admin_client_ca),
            admin_token_file: self.admin_token_file.or(file.admin_token_file),
            drain_delay: self.drain_delay.or(file.drain_delay),
            log: self.log.or(file.log),
            hand_over: self.hand_over.or(file.hand_over),
            take_over: self.take_over.or(file.take_over),
            access_log: self.access_log.or(file.access_log),
            access_log_format: self.access_log_format.or(file.access_log_format),
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
            stalled_loan_timeout: self.stalled_loan_timeout.or(file.stalled_loan_timeout),
            rate_per_connection: self.rate_per_connection.or(file.rate_per_connection),
            rate_per_address: self.rate_per_address.or(file.rate_per_address),
            rate_per_network: self.rate_per_network.or(file.rate_per_network),
            cors_origin: if self.cors_origin.is_empty() {
                file.cors_origin
            } else {
                self.cors_origin
            },
            trusted_proxy: if self.trusted_proxy.is_empty() {
                file.trusted_proxy
            } else {
                self.trusted_proxy
            },
            client_address: self.client_address.or(file.client_address),
            proxy_protocol: self.proxy_protocol || file.proxy_protocol,
            index: self.index.or(file.index),
            s3_bucket: if self.s3_bucket.is_empty() {
                file.s3_bucket
            } else {
                self.s3_bucket
            },
            s3_region: self.s3_region.or(file.s3_region),
            keys_file: self.keys_file.or(file.keys_file),
            require_signature: self.require_signature || file.require_signature,
            head_timeout: self.head_timeout.or(file.head_timeout),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            send_timeout: self.send_timeout.or(file.send_timeout),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
        }
    }
}

fn arguments() -> clap::Command {
    Options::augment_args(clap::Command::new(""))
}

/// The key of an option in the TOML file.
fn key(argument: &clap::Arg) -> Option<String> {
    argument.get_long().map(|long| long.replace('-', "_"))
}

/// Every key of the TOML file.
pub(super) fn keys() -> Vec<String> {
    arguments().get_arguments().filter_map(key).collect()
}

/// The same, each with the help of its option.
pub(super) fn keys_and_help() -> Vec<(String, String)> {
    let help = |argument: &clap::Arg| {
        let text = argument.get_long_help().or(argument.get_help());
        text.map_or(String::new(), ToString::to_string)
    };
    arguments()
        .get_arguments()
        .filter_map(|argument| Some((key(argument)?, help(argument))))
        .collect()
}

/// The words that this key of the TOML file may have, if it has words.
pub(super) fn words(name: &str) -> Option<Vec<String>> {
    let command = arguments();
    let mut arguments = command.get_arguments();
    let argument = arguments.find(|argument| key(argument).as_deref() == Some(name))?;
    let words = argument.get_possible_values();
    let words = words.iter().map(|word| word.get_name().to_owned());
    Some(words.collect()).filter(|words: &Vec<String>| !words.is_empty())
}

/// The default that a help names, if it is a value and not a description.
fn default_in(help: &str) -> Option<&str> {
    let (_, rest) = help.split_once("[default: ")?;
    let (default, _) = rest.split_once(']')?;
    (!default.contains(char::is_whitespace)).then_some(default)
}

/// A value that this key of the TOML file may have: the default where there is one, so that whoever takes the `#` off a line
/// of the file that shows all has not changed anything yet.
pub(super) fn example(name: &str) -> Option<String> {
    let command = arguments();
    let mut arguments = command.get_arguments();
    let argument = arguments.find(|argument| key(argument).as_deref() == Some(name))?;
    if !argument.get_action().takes_values() {
        return Some("true".to_owned());
    }
    if let Some(words) = words(name) {
        return Some(format!("\"{}\"", words[0]));
    }
    let kind = argument.get_value_names()?.first()?.as_str();
    let help = argument.get_long_help().or(argument.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    match (default_in(&help), kind) {
        (Some(default), "N") => return Some(default.to_owned()),
        (Some(default), "TIME" | "SIZE" | "ADDR") => return Some(format!("\"{default}\"")),
        _ => {}
    }
    let value = match (kind, name) {
        ("DIR", "cache") => "\"/var/cache/penstock\"",
        ("DIR", _) => "[\"/srv/disk0\", \"/srv/disk1\"]",
        ("ORIGIN", _) => "[\"https://example.org\"]",
        ("NETWORK", _) => "[\"10.0.0.0/8\"]",
        ("NAME", "index") => "\"index.html\"",
        ("NAME", "s3_region") => "\"us-east-1\"",
        ("NAME[=PREFIX]", _) => "[\"media\", \"logs=archive/logs/\"]",
        ("FILE", "keys_file") => "\"/etc/penstock/keys.toml\"",
        ("ADDR", "tls_listen") => "\":443\"",
        ("FILE", "tls_cert") => "[\"/etc/penstock/edge.example.org.pem\"]",
        ("FILE", "admin_client_ca") => "\"/etc/penstock/operators.pem\"",
        ("FILE", "tls_key") => "[\"/etc/penstock/edge.example.org.key\"]",
        ("FILE", "tls_ocsp") => "[\"/etc/penstock/edge.example.org.ocsp\"]",
        ("PORT", _) => "443",
        ("HOST", _) => "[\"edge.example.org\"]",
        ("FILE", "access_log") => "\"/var/log/penstock/access.log\"",
        ("FILE", _) => "\"/etc/penstock/admin-token\"",
        ("SOCKET", _) => "\"/run/penstock/hand-over\"",
        ("FILTER", _) => "\"info\"",
        ("TIME", _) => "\"30s\"",
        ("SIZE", "min_rate") => "\"1KiB\"",
        ("SIZE", _) => "\"64MiB\"",
        ("COUNT", _) => "\"unlimited\"",
        ("N", "cores") => "4",
        ("N", "share_files") => "4096",
        ("N", _) => "1000",
        _ => return None,
    };
    Some(value.to_owned())
}
