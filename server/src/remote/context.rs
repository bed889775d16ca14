//! What all remote stores of a server share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use penstock_remote::{Client, ClientOptions, RemoteError, RemoteUrl};

use super::cache::{Cache, CacheError};
use super::fetcher::Fetcher;
use super::origin::Origin;
use crate::memory::limits::{
    REMOTE_ANSWER_WITHIN, REMOTE_CONNECT_WITHIN, REMOTE_HTTP_BUFFER_BYTES,
    REMOTE_RECEIVE_BUFFER_BYTES,
};

/// How remote stores are used.
#[derive(Clone, Copy, Debug)]
pub struct RemoteOptions {
    /// Fetches at one time.
    pub fetches: usize,
    /// How long a listing of an object counts.
    pub ttl: Duration,
    /// Whether others are asked where one is late.
    pub hedges: bool,
    /// Whether this server takes over from another, which has the cache still.
    pub takes_over: bool,
}

/// Why remote stores can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cache can't.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The client, or one of the stores.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// What remote stores share: a client, a cache, and slots for fetches.
pub struct Remote {
    client: Client,
    cache: Arc<Cache>,
    fetcher: Arc<Fetcher>,
    options: RemoteOptions,
}

impl Remote {
    /// Opens the cache and starts the client.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        cache: &Path,
        cache_size: u64,
        options: RemoteOptions,
    ) -> Result<Arc<Remote>, StartError> {
        let client = Client::new(ClientOptions {
            connect_timeout: REMOTE_CONNECT_WITHIN,
            first_byte_timeout: REMOTE_ANSWER_WITHIN,
            idle_timeout: REMOTE_ANSWER_WITHIN,
            h1_buffer_bytes: REMOTE_HTTP_BUFFER_BYTES,
            receive_buffer_bytes: Some(REMOTE_RECEIVE_BUFFER_BYTES),
            connections_per_store: options.fetches,
        })?;
        let cache = Cache::open(cache, cache_size, options.takes_over)?;
        Ok(Arc::new(Remote {
            client,
            fetcher: Fetcher::new(Arc::clone(&cache), options.fetches, options.hedges),
            cache,
            options,
        }))
    }

    /// A store by its URL.
    ///
    /// # Errors
    /// If the URL or the credentials can't be used.
    pub fn origin(&self, url: &RemoteUrl) -> Result<Arc<Origin>, RemoteError> {
        Origin::open(url, &self.client, self.options.ttl)
    }

    /// How long a listing of an object counts.
    pub fn ttl(&self) -> Duration {
        self.options.ttl
    }

    /// Where shares are kept.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// What fetches them.
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }
}
