//! The calls on a remote store. They block for its answers, on the store's threads, as those on a directory do.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use decode_kernel::share::{Key, object_dir};
use penstock_remote::{Entry, RemoteError, RemoteErrorKind};
use penstock_store::{Listed, Look, MARKER, Marker, OpenFile, RejectReason, read_header};

use super::health::Cause;
use super::probe::{Disk, Found, is_local};
use crate::memory::limits::{REMOTE_FIRST_BYTES, REMOTE_UNIT_BYTES};
use crate::remote::{CachedShare, Origin, Outcome, Remote};

/// A remote store.
pub(super) struct Bucket {
    origin: Arc<Origin>,
    remote: Arc<Remote>,
}

impl Bucket {
    pub(super) fn new(origin: Arc<Origin>, remote: &Arc<Remote>) -> Bucket {
        Bucket {
            origin,
            remote: Arc::clone(remote),
        }
    }

    fn files_of(&self, key: &Key) -> Result<Arc<[Entry]>, RemoteError> {
        self.origin
            .files_of(&format!("objects/{}", object_dir(key)))
    }

    /// Has a share's header fetched, if it is not there. A short share is fetched whole.
    fn fetch_header(&self, share: &Arc<CachedShare>) -> Result<(), RejectReason> {
        let first = match share.bytes() <= REMOTE_FIRST_BYTES {
            true => share.bytes(),
            false => REMOTE_UNIT_BYTES,
        };
        let range: Range<u64> = 0..first;
        let (fetcher, waited) = (Arc::clone(self.remote.fetcher()), Arc::clone(share));
        while !share.has(&range) {
            let (fetcher, waited, range) =
                (Arc::clone(&fetcher), Arc::clone(&waited), range.clone());
            let outcome = self.origin.client().run(async move {
                let fetch = match waited.under_way(&range) {
                    Some(fetch) => fetch,
                    None => {
                        let slot = fetcher.slot().await?;
                        match fetcher.start(&waited, &range, range.end, slot) {
                            Some(fetch) => fetch,
                            None => waited.under_way(&range)?,
                        }
                    }
                };
                loop {
                    let mut progress = std::pin::pin!(waited.progress().notified());
                    progress.as_mut().enable();
                    if let Some(outcome) = fetch.outcome() {
                        return Some(outcome);
                    }
                    progress.await;
                }
            });
            match outcome {
                None | Some(Outcome::Done | Outcome::Cancelled) => {}
                Some(Outcome::Gone(why)) => {
                    self.origin.forget(share.name());
                    return Err(io::Error::new(io::ErrorKind::NotFound, why).into());
                }
                Some(Outcome::Hung) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                    return Err(error.into());
                }
                Some(Outcome::Away(why)) => return Err(RejectReason::Away(why)),
                Some(Outcome::Failed(why) | Outcome::NotKept(why)) => {
                    return Err(io::Error::other(why).into());
                }
            }
        }
        Ok(())
    }
}

impl Disk for Bucket {
    fn look(&self, store: usize, root: &Path, key: &Key) -> Look {
        let files = match self.files_of(key) {
            Ok(files) => files,
            Err(error) => return Look::away(store, root, error.to_string()),
        };
        let listing = listed(&files);
        Look::of_listing(store, root, &listing, key, |listed| {
            let entry = files.iter().find(|file| file.name == listed.name);
            let entry = entry.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            let share = self.remote.cache().share(&self.origin, entry)?;
            self.fetch_header(&share)?;
            let file = share.file().try_clone()?;
            let header = read_header(&file)?;
            Ok((header, OpenFile::Cached(file, share)))
        })
    }

    fn fingerprint(&self, _: &Path, key: &Key) -> io::Result<u64> {
        let files = self.files_of(key).map_err(io::Error::other)?;
        Ok(Look::fingerprint_of(&listed(&files)))
    }

    fn probe(&self, _: &Path, _: bool) -> Result<Found, (Cause, String)> {
        let start = Instant::now();
        let bucket = self.origin.bucket().clone();
        let marker = self
            .origin
            .client()
            .run(async move { bucket.read(MARKER).await });
        let marker = marker.map_err(|error| {
            let cause = match error.kind() {
                RemoteErrorKind::NotFound => Cause::Missing,
                RemoteErrorKind::Timeout => Cause::Hung,
                _ => Cause::Failing,
            };
            (cause, error.to_string())
        })?;
        let took = start.elapsed();
        let marker = std::str::from_utf8(&marker).map_err(|error| error.to_string());
        let marker = marker
            .and_then(Marker::parse)
            .map_err(|error| (Cause::Missing, format!("{}: {error}", self.origin)))?;
        let mut hasher = DefaultHasher::new();
        self.origin.url().hash(&mut hasher);
        Ok(Found {
            id: Some(marker.store),
            // No file system has this device.
            directory: (u64::MAX, hasher.finish()),
            remark: None,
            is_local: is_local(self.remote.cache().dir()),
            took,
        })
    }

    fn space(&self, _: &Path) -> Option<(u64, u64)> {
        None
    }

    fn origin(&self) -> Option<&Arc<Origin>> {
        Some(&self.origin)
    }
}

fn listed(files: &[Entry]) -> Vec<Listed> {
    let listed = files.iter().map(|file| Listed {
        name: file.name.clone(),
        bytes: file.bytes,
        version: file.etag.clone().unwrap_or_default(),
    });
    listed.collect()
}
