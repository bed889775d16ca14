//! The calls on a remote store. They block for its answers, on the store's threads, as those on a directory do.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use decode_kernel::share::{Header, Key, PAGE_BYTES};
use penstock_remote::{Entry, RemoteError, RemoteErrorKind};
use penstock_store::{Listed, Look, MARKER, Marker, OpenFile, RejectReason, Rejected, read_header};

use super::health::Cause;
use super::probe::{Disk, Found, is_local};
use crate::memory::limits::{FETCH_ATTEMPTS_MAX, REMOTE_FIRST_BYTES, REMOTE_UNIT_BYTES};
use crate::remote::{CachedShare, Origin, Outcome, Remote};

/// How often a share's header is fetched and read while the cache fails, or does not have what was written to it.
const HEADER_TRIES_MAX: usize = 3;

/// Why a share could not be opened.
enum NotOpened {
    /// For what the store has, or says.
    Rejected(RejectReason),
    /// For what the cache's disk does, which is no fault of the store.
    Local(io::Error),
}

impl From<RejectReason> for NotOpened {
    fn from(reason: RejectReason) -> NotOpened {
        NotOpened::Rejected(reason)
    }
}

/// What the cache could not keep. No store fails in this way, and none is suspended for it.
fn not_kept(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, error)
}

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
        self.origin.files_of(&Origin::dir_of(key))
    }

    fn look_once(&self, store: usize, root: &Path, key: &Key) -> Look {
        let files = match self.files_of(key) {
            Ok(files) => files,
            Err(error) => return Look::away(store, root, error.to_string()),
        };
        let listing = listed(&files);
        Look::of_listing(store, root, &listing, key, |listed| {
            let entry = files.iter().find(|file| file.name == listed.name);
            let entry = entry.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            self.open(entry)
        })
    }

    /// Opens a share by its local file. Where the cache's disk fails it is kept in memory from then on. A header that does
    /// not match is fetched again: it may have rotted there.
    fn open(&self, entry: &Entry) -> Result<(Header, OpenFile), RejectReason> {
        let mut tries = 0..HEADER_TRIES_MAX;
        loop {
            let share = self.remote.cache().share(&self.origin, entry)?;
            let opened = self.fetch_header(&share).and_then(|()| {
                let file = share.file().try_clone().map_err(NotOpened::Local)?;
                let header = match read_header(&file) {
                    Err(RejectReason::Io(error)) => {
                        share.note_unreadable(&error);
                        return Err(NotOpened::Local(error));
                    }
                    read => read?,
                };
                let cached: Arc<CachedShare> = Arc::clone(&share);
                Ok((header, OpenFile::Cached(file, cached)))
            });
            let may_try = tries.next().is_some();
            match opened {
                Ok(opened) => return Ok(opened),
                Err(NotOpened::Local(_)) if may_try => {}
                Err(NotOpened::Local(error)) => return Err(not_kept(error).into()),
                Err(NotOpened::Rejected(reason)) => {
                    let may_be_rot = matches!(
                        reason,
                        RejectReason::Header(_) | RejectReason::Length { .. }
                    );
                    let again = may_try
                        && may_be_rot
                        && self.origin.may_fetch_again(&entry.name)
                        && share.refetch(&(0..PAGE_BYTES as u64));
                    if !again {
                        return Err(reason);
                    }
                }
            }
        }
    }

    /// Has a share's header fetched, if it is not there. A short share is fetched whole.
    fn fetch_header(&self, share: &Arc<CachedShare>) -> Result<(), NotOpened> {
        let first = match share.bytes() <= REMOTE_FIRST_BYTES {
            true => share.bytes(),
            false => REMOTE_UNIT_BYTES,
        };
        let range: Range<u64> = 0..first;
        let (fetcher, waited) = (Arc::clone(self.remote.fetcher()), Arc::clone(share));
        let mut fetches = 0..FETCH_ATTEMPTS_MAX;
        while !share.has(&range) {
            // What comes is dropped again and again: there is no room for it.
            if fetches.next().is_none() {
                return Err(NotOpened::Local(io::ErrorKind::StorageFull.into()));
            }
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
            return Err(NotOpened::Rejected(match outcome {
                None | Some(Outcome::Done | Outcome::Cancelled) => continue,
                Some(Outcome::Gone(why)) => {
                    self.origin.forget(share.name());
                    io::Error::new(io::ErrorKind::NotFound, why).into()
                }
                Some(Outcome::Hung) => {
                    io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into()
                }
                Some(Outcome::Away(why)) => RejectReason::Away(why),
                Some(Outcome::Failed(why)) => io::Error::other(why).into(),
                Some(Outcome::NotKept(why)) => {
                    return Err(NotOpened::Local(io::Error::other(why)));
                }
            }));
        }
        Ok(())
    }
}

impl Disk for Bucket {
    fn look(&self, store: usize, root: &Path, key: &Key) -> Look {
        let look = self.look_once(store, root, key);
        // What was listed is gone, as it was replaced since: it counts no more, and the store is asked what it has now.
        let gone = |rejected: &Rejected| match &rejected.reason {
            RejectReason::Io(error) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        };
        match look.problems().iter().any(gone) {
            true => self.look_once(store, root, key),
            false => look,
        }
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
