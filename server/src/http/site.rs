//! What the operator says of the site as a whole.

use super::cors::Cors;
use super::request::Request;
use crate::config::proxies::Proxies;
use crate::s3::buckets::Buckets;

/// Rules for all objects of the site.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Which pages of other origins may read responses.
    pub cors: Cors,
    /// The file that a path ending in `/` means, if there is one.
    pub index: Option<String>,
    /// The proxies in front.
    pub proxies: Proxies,
    /// What S3 clients see.
    pub buckets: Buckets,
    /// Whether only signed requests are answered.
    pub require_signature: bool,
    /// The port of https to which requests without TLS are redirected.
    pub redirect: Option<u16>,
}

impl Site {
    /// Whether a request is S3's. The list of all buckets gives way to the index of the site, unless it was signed for.
    pub fn is_s3(&self, request: &Request) -> bool {
        let has_index = self.index.is_some() && request.path.is_empty();
        self.buckets.own(&request.path) && (!has_index || request.signed.is_some())
    }

    /// Whether errors on a path are told in S3's form. Where all requests must be signed they all are: two forms would tell
    /// who has no key which names are buckets.
    pub fn errors_are_s3(&self, is_s3: bool) -> bool {
        is_s3 || (self.require_signature && !self.buckets.all().is_empty())
    }
}
