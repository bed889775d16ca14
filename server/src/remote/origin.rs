//! One remote store as the server uses it: its files, how fast it has been, and what is known of its objects.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use penstock_remote::{Bucket, Client, Entry, RemoteError, RemoteUrl};

use super::pace::Pace;
use crate::memory::limits::{REMOTE_FILES_OF_OBJECT_MAX, REMOTE_LISTINGS_MAX};

/// What is counted of one remote store, beside its requests.
#[derive(Default)]
pub struct Counts {
    /// Bytes that were fetched.
    pub fetched_bytes: AtomicU64,
    /// Fetches that ended well.
    pub fetches: AtomicU64,
    /// Fetches that failed.
    pub failed: AtomicU64,
}

/// A remote store.
pub struct Origin {
    url: RemoteUrl,
    bucket: Bucket,
    client: Client,
    /// How long a listing counts.
    ttl: Duration,
    /// How fast it gives parts of files.
    pub pace: Pace,
    /// Fetches from it that are under way.
    pub(super) under_way: AtomicUsize,
    /// Counters.
    pub counts: Counts,
    /// What it has of an object, by the object's directory.
    listings: Mutex<LruCache<String, Listing>>,
}

#[derive(Clone)]
struct Listing {
    files: Arc<[Entry]>,
    at: Instant,
    is_renewed: bool,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Origin {
    /// A store by its URL. A listing of an object counts for `ttl`.
    ///
    /// # Errors
    /// If the URL can't be used as it is, or its credentials can't.
    pub fn open(
        url: &RemoteUrl,
        client: &Client,
        ttl: Duration,
    ) -> Result<Arc<Origin>, RemoteError> {
        let most = NonZeroUsize::new(REMOTE_LISTINGS_MAX).unwrap_or(NonZeroUsize::MIN);
        Ok(Arc::new(Origin {
            url: url.clone(),
            bucket: Bucket::open(url, client)?,
            client: client.clone(),
            ttl,
            pace: Pace::default(),
            under_way: AtomicUsize::new(0),
            counts: Counts::default(),
            listings: Mutex::new(LruCache::new(most)),
        }))
    }

    /// Where it is.
    pub fn url(&self) -> &RemoteUrl {
        &self.url
    }

    /// Its files.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// How long a listing counts.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What runs its requests.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn listings(&self) -> MutexGuard<'_, LruCache<String, Listing>> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files that it has in an object's directory (`objects/ab/cdef…`), which may be none. Asks the store if that is
    /// not known; what is known and old is told once more while the store is asked again. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn files_of(self: &Arc<Origin>, dir: &str) -> Result<Arc<[Entry]>, RemoteError> {
        let now = Instant::now();
        let known = {
            let mut listings = self.listings();
            listings.get_mut(dir).map(|listing| {
                let is_old = now.saturating_duration_since(listing.at) >= self.ttl;
                let renew = is_old && !listing.is_renewed;
                listing.is_renewed |= renew;
                (Arc::clone(&listing.files), is_old, renew)
            })
        };
        match known {
            Some((files, is_old, renew)) if !self.ttl.is_zero() => {
                if is_old && renew {
                    let (origin, dir) = (Arc::clone(self), dir.to_owned());
                    self.client.handle().spawn(async move {
                        let asked = Instant::now();
                        match origin.list(&dir).await {
                            Ok(files) => origin.keep(dir, files, asked),
                            Err(error) => {
                                tracing::warn!(store = %origin, "an old listing is kept: {error}");
                                if let Some(listing) = origin.listings().peek_mut(&dir) {
                                    listing.is_renewed = false;
                                }
                            }
                        }
                    });
                }
                Ok(files)
            }
            _ => {
                let (origin, asked) = (Arc::clone(self), dir.to_owned());
                let files = self.client.run(async move { origin.list(&asked).await })?;
                self.keep(dir.to_owned(), Arc::clone(&files), now);
                Ok(files)
            }
        }
    }

    /// What is known of the directory of a file counts no more: it is not what was listed.
    pub fn forget(&self, file: &str) {
        if let Some((dir, _)) = file.rsplit_once('/') {
            self.listings().pop(dir);
        }
    }

    fn keep(&self, dir: String, files: Arc<[Entry]>, at: Instant) {
        let listing = Listing {
            files,
            at,
            is_renewed: false,
        };
        self.listings().put(dir, listing);
    }

    async fn list(&self, dir: &str) -> Result<Arc<[Entry]>, RemoteError> {
        let prefix = format!("{dir}/");
        let files = self
            .bucket
            .list(&prefix, REMOTE_FILES_OF_OBJECT_MAX)
            .await?;
        Ok(files.into())
    }
}
