//! What the providers have in common.

use std::pin::Pin;

use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    GetOptions, GetResult, MultipartId, ObjectStore, ObjectStoreExt, PutOptions, PutPayload,
    PutResult, RetryConfig,
};

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

/// What a service says, in time.
pub(crate) type Reply<'a, T> = Pin<Box<dyn Future<Output = object_store::Result<T>> + Send + 'a>>;

/// What a bucket's service does for us, whosever it is. No more than that: what a trait object can do is in the program,
/// called or not, and all that the three services can do would be 0.2 MB.
pub(crate) trait Objects: Send + Sync {
    /// A page of a listing.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        options: PaginatedListOptions,
    ) -> Reply<'a, PaginatedListResult>;

    /// A file, a part of one, or what is known of it.
    fn get<'a>(&'a self, path: &'a Path, options: GetOptions) -> Reply<'a, GetResult>;

    /// Writes a file in one request.
    fn put<'a>(
        &'a self,
        path: &'a Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Reply<'a, PutResult>;

    /// Removes a file.
    fn delete<'a>(&'a self, path: &'a Path) -> Reply<'a, ()>;

    /// Begins to write a file in parts.
    fn begin<'a>(&'a self, path: &'a Path) -> Reply<'a, MultipartId>;

    /// Writes a part of it.
    fn part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: usize,
        bytes: PutPayload,
    ) -> Reply<'a, PartId>;

    /// Makes a file of its parts.
    fn complete<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: Vec<PartId>,
    ) -> Reply<'a, PutResult>;

    /// Gives it up.
    fn abort<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Reply<'a, ()>;
}

impl<T: ObjectStore + PaginatedListStore + MultipartStore> Objects for T {
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        options: PaginatedListOptions,
    ) -> Reply<'a, PaginatedListResult> {
        self.list_paginated(Some(prefix), options)
    }

    fn get<'a>(&'a self, path: &'a Path, options: GetOptions) -> Reply<'a, GetResult> {
        self.get_opts(path, options)
    }

    fn put<'a>(
        &'a self,
        path: &'a Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Reply<'a, PutResult> {
        self.put_opts(path, bytes, options)
    }

    fn delete<'a>(&'a self, path: &'a Path) -> Reply<'a, ()> {
        Box::pin(ObjectStoreExt::delete(self, path))
    }

    fn begin<'a>(&'a self, path: &'a Path) -> Reply<'a, MultipartId> {
        self.create_multipart(path)
    }

    fn part<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        number: usize,
        bytes: PutPayload,
    ) -> Reply<'a, PartId> {
        self.put_part(path, id, number, bytes)
    }

    fn complete<'a>(
        &'a self,
        path: &'a Path,
        id: &'a MultipartId,
        parts: Vec<PartId>,
    ) -> Reply<'a, PutResult> {
        self.complete_multipart(path, id, parts)
    }

    fn abort<'a>(&'a self, path: &'a Path, id: &'a MultipartId) -> Reply<'a, ()> {
        self.abort_multipart(path, id)
    }
}

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
