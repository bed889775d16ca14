//! What can change while the server runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::bucket::Bucket;
use super::origin::Origin;
use super::proxies::Proxies;
use super::settings::Settings;
use super::token::Token;
use super::values::{PerAddress, RateLimits};
use crate::tls::certificates::CertificateFiles;

/// The settings that a reload changes. Every core and the admin thread get the new ones in one piece.
///
/// To make another setting reloadable, add a field here, fill it in [`Settings::reloadable`], move its name to the second
/// part of [`Settings::fixed`], and read it where it counts from the `Live` at hand instead of a copy.
#[derive(Clone, Debug)]
pub struct Live {
    /// Store directories.
    pub stores: Vec<PathBuf>,
    /// Directories of Tahoe-LAFS storage nodes.
    pub tahoe_nodes: Vec<PathBuf>,
    /// Whether an older put is served where too few shares of the newest are left.
    pub allow_stale: bool,
    /// Connections from one address.
    pub connections_per_address_max: PerAddress,
    /// Bytes per second that a client must acknowledge.
    pub rate_min: u64,
    /// How long a client may stall with a loan while others ask for credit in vain.
    pub stalled_loan_timeout: Option<Duration>,
    /// Bytes per second that are sent at most, to connections that come from now on.
    pub rates: RateLimits,
    /// The certificates of the TLS listener.
    pub tls_certificates: Vec<CertificateFiles>,
    /// The port to which requests without TLS are redirected; 0 is that of the listener.
    pub redirect_http: Option<u16>,
    /// Origins whose pages may read responses.
    pub cors_origins: Vec<Origin>,
    /// The proxies in front.
    pub proxies: Proxies,
    /// The file that a path ending in `/` means.
    pub index: Option<String>,
    /// What S3 clients see.
    pub s3_buckets: Vec<Bucket>,
    /// The region that signatures must name.
    pub s3_region: Option<String>,
    /// The file of key pairs, which is read again too.
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
    /// Names by which the admin listener may be asked.
    pub admin_hosts: Vec<String>,
    /// What admin requests need.
    pub admin_token: Option<Token>,
    /// What is logged; `None` if the environment says.
    pub log: Option<String>,
}

impl Settings {
    /// What of these settings can change while the server runs.
    pub fn reloadable(&self) -> Arc<Live> {
        Arc::new(Live {
            stores: self.stores.clone(),
            tahoe_nodes: self.tahoe_nodes.clone(),
            allow_stale: self.allow_stale,
            connections_per_address_max: self.connections_per_address_max,
            rate_min: self.rate_min,
            stalled_loan_timeout: self.stalled_loan_timeout,
            rates: self.rates,
            tls_certificates: self.tls_certificates.clone(),
            redirect_http: self.redirect_http,
            cors_origins: self.cors_origins.clone(),
            proxies: self.proxies.clone(),
            index: self.index.clone(),
            s3_buckets: self.s3_buckets.clone(),
            s3_region: self.s3_region.clone(),
            keys_file: self.keys_file.clone(),
            require_signature: self.require_signature,
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
            send_timeout: self.send_timeout,
            drain_delay: self.drain_delay,
            drain_timeout: self.drain_timeout,
            admin_hosts: self.admin_hosts.clone(),
            admin_token: self.admin_token.clone(),
            log: self.log.clone(),
        })
    }

    /// The options that can't change while the server runs, each with what it is set to. The compiler asks for every new
    /// setting to be put into one of the two parts.
    pub fn fixed(&self) -> Vec<(&'static str, String)> {
        macro_rules! fixed {
            ($($field:ident $option:literal,)* ; reloadable: $($live:ident,)*) => {{
                let Settings { $($field,)* $($live: _,)* } = self;
                vec![$(($option, format!("{:?}", $field)),)*]
            }};
        }
        fixed! {
            remote "cache, cache-size, store-ttl, fetches and no-hedging",
            store_timeout "store-timeout",
            tahoe_segment_bytes_max "tahoe-segment-max",
            listen "listen",
            tls_listen "tls-listen",
            admin "admin",
            admin_client_ca "admin-client-ca",
            cores "cores",
            io "io",
            pool_buffers "pool-buffers",
            pool_buffer_bytes "pool-buffer-size",
            memory_bytes "memory",
            hot_bytes "hot-objects",
            readahead_bytes "read-ahead",
            rebuilt_bytes "rebuilt-blocks",
            share_files "share-files",
            connections_max "max-connections",
            over_limit "over-limit",
            verify_age "verify-age",
            zero_copy "zero-copy",
            send_buffer_max "send-buffer-max",
            survey_every "survey-every",
            hand_over "hand-over",
            take_over "take-over",
            access_log "access-log",
            access_log_format "access-log-format",
            ;
            reloadable:
            stores, tahoe_nodes, allow_stale, connections_per_address_max, rate_min, stalled_loan_timeout, rates, tls_certificates, redirect_http, cors_origins, proxies, index, s3_buckets, s3_region,
            keys_file, require_signature, head_timeout, idle_timeout, send_timeout, drain_delay, drain_timeout, admin_hosts, admin_token, log,
        }
    }
}
