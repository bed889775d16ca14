//! How the buckets of each provider are opened: where its service is, and what says who we are.

mod az;
mod gs;
mod parts;
mod s3;

pub use parts::Keys;
pub(crate) use parts::Objects;

use crate::error::RemoteError;
use crate::transport::Service;
use crate::url::{Provider, RemoteUrl};

/// Opens the bucket of a URL. Asks nothing of its service.
///
/// # Errors
/// Credentials that can't be used.
pub(crate) fn open(
    url: &RemoteUrl,
    service: Service,
    keys: Option<Keys>,
) -> Result<Box<dyn Objects>, RemoteError> {
    match url.provider() {
        Provider::S3 => s3::open(url, service, keys),
        Provider::Gs => gs::open(url, service, keys),
        Provider::Az => az::open(url, service, keys),
    }
}
