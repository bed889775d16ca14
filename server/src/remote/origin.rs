//! One remote store as the server uses it: its files, how fast it has been, and what is known of its objects.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use decode_kernel::share::{Key, object_dir};
use lru::LruCache;
use penstock_remote::{Bucket, Client, Entry, RemoteError, RemoteUrl};
use tokio::sync::watch;

use super::pace::Pace;
use crate::memory::limits::{REMOTE_FILES_OF_OBJECT_MAX, REMOTE_LISTINGS_MAX};

/// What is older than so many times of its life is not told any more.
const STALE_TIMES: u32 = 2;

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
    /// Listings that are under way, by the object's directory: no more than threads ask, and old ones are renewed.
    asking: Mutex<HashMap<String, watch::Receiver<Option<Listed>>>>,
}

/// What a store says that it has of an object.
type Listed = Result<Arc<[Entry]>, RemoteError>;

struct Listing {
    files: Arc<[Entry]>,
    at: Instant,
    is_renewed: bool,
    /// Those of the files, by number, whose headers were fetched again since they were listed.
    fetched_again: BTreeSet<usize>,
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
            asking: Mutex::default(),
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

    /// The directory of an object.
    pub fn dir_of(key: &Key) -> String {
        format!("objects/{}", object_dir(key))
    }

    /// The files that it has in an object's directory (`objects/ab/cdef…`), which may be none. Asks the store if that is
    /// not known; what is known and a little old is told once more while the store is asked again. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn files_of(self: &Arc<Origin>, dir: &str) -> Result<Arc<[Entry]>, RemoteError> {
        let now = Instant::now();
        let known = {
            let mut listings = self.listings();
            listings.get_mut(dir).map(|listing| {
                let age = now.saturating_duration_since(listing.at);
                let is_old = age >= self.ttl;
                // That there was nothing long ago says little, and so does what there was.
                let counts = !is_old || age < STALE_TIMES * self.ttl && !listing.files.is_empty();
                let renew = is_old && counts && !listing.is_renewed;
                listing.is_renewed |= renew;
                (Arc::clone(&listing.files), counts, renew)
            })
        };
        match known {
            Some((files, counts, renew)) if counts => {
                if renew {
                    self.ask(dir);
                }
                Ok(files)
            }
            _ => {
                let mut answer = self.ask(dir);
                let answer = self.client.run(async move {
                    let answer = answer.wait_for(Option::is_some).await;
                    answer.ok().and_then(|answer| answer.clone())
                });
                let ended = || {
                    Err(self
                        .bucket
                        .wrong_answer("list", "the server ends".to_owned()))
                };
                match (answer.unwrap_or_else(ended), known) {
                    // Better than nothing, while the store has too much to do.
                    (Err(error), Some((files, ..)))
                        if error.is_temporary() && !files.is_empty() && !self.ttl.is_zero() =>
                    {
                        Ok(files)
                    }
                    (answer, _) => answer,
                }
            }
        }
    }

    /// Asks what there is in an object's directory. Many who ask at one time have it asked once, unless each is to be told
    /// what is there now.
    fn ask(self: &Arc<Origin>, dir: &str) -> watch::Receiver<Option<Listed>> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = asking.get(dir).filter(|_| !self.ttl.is_zero()) {
            return answer.clone();
        }
        let (tell, answer) = watch::channel(None);
        asking.insert(dir.to_owned(), answer.clone());
        let (origin, dir, asked) = (Arc::clone(self), dir.to_owned(), Instant::now());
        self.client.handle().spawn(async move {
            let listed = origin.list(&dir).await;
            match &listed {
                Ok(files) => origin.keep(&dir, Arc::clone(files), asked),
                Err(error) => {
                    if let Some(listing) = origin.listings().peek_mut(&dir) {
                        listing.is_renewed = false;
                        tracing::warn!(store = %origin, "an old listing is kept: {error}");
                    }
                }
            }
            let mut asking = origin.asking.lock().unwrap_or_else(PoisonError::into_inner);
            asking.remove(&dir);
            drop(asking);
            tell.send_replace(Some(listed));
        });
        answer
    }

    /// What is known of the directory of a file counts no more: it is not what was listed.
    pub fn forget(&self, file: &str) {
        if let Some((dir, _)) = file.rsplit_once('/') {
            self.listings().pop(dir);
        }
    }

    /// When the store was asked for what it has in an object's directory, as far as that is remembered.
    pub fn listed_at(&self, dir: &str) -> Option<Instant> {
        self.listings().peek(dir).map(|listing| listing.at)
    }

    /// What is known of a directory since before that time counts no more. Returns whether there was something.
    pub fn forget_listed_before(&self, dir: &str, time: Instant) -> bool {
        let mut listings = self.listings();
        let is_old = listings.peek(dir).is_some_and(|known| known.at < time);
        if is_old {
            listings.pop(dir);
        }
        is_old
    }

    /// Whether the header of a file, which does not match, may be fetched again: once for each time that it was listed.
    pub fn may_fetch_again(&self, file: &str) -> bool {
        let Some((dir, _)) = file.rsplit_once('/') else {
            return false;
        };
        self.listings().peek_mut(dir).is_some_and(|listing| {
            let number = listing.files.iter().position(|known| known.name == file);
            number.is_some_and(|number| listing.fetched_again.insert(number))
        })
    }

    fn keep(&self, dir: &str, files: Arc<[Entry]>, at: Instant) {
        let mut listings = self.listings();
        if listings.peek(dir).is_some_and(|known| known.at > at) {
            return;
        }
        let listing = Listing {
            files,
            at,
            is_renewed: false,
            fetched_again: BTreeSet::new(),
        };
        listings.put(dir.to_owned(), listing);
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
