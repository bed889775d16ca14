//! What the providers have in common.

use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::{ObjectStore, RetryConfig};

use crate::error::{RemoteError, RemoteErrorKind};
use crate::url::RemoteUrl;

/// Credentials that are given, in place of those of the environment.
#[derive(Clone)]
pub enum Keys {
    /// An id and its secret: an access key of AWS, or an Azure account and its key.
    Pair(String, String),
    /// A bearer token of Google or Azure.
    Token(String),
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// What a bucket's service does for us, whosever it is.
pub(crate) trait Objects: ObjectStore + PaginatedListStore + MultipartStore {}

impl<T: ObjectStore + PaginatedListStore + MultipartStore> Objects for T {}

/// Requests are made once: whether again is decided where more is known of them.
pub(super) fn once() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

/// Credentials that can't be used.
pub(super) fn unusable(url: &RemoteUrl, reason: impl Into<String>) -> RemoteError {
    RemoteError::new(
        RemoteErrorKind::Other,
        &url.to_string(),
        "credentials",
        reason,
    )
}

/// A client that can't be built.
pub(super) fn not_built(url: &RemoteUrl, error: &object_store::Error) -> RemoteError {
    RemoteError::of(&url.to_string(), "its settings", error)
}
