//! One share file of an open object: whether it can still be read, and which version of it was read.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::io::{self as files, FileVersion, StoreFile};
use crate::memory::limits::{FILE_SETTLES, REVALIDATE_AFTER, UNREADABLE_SPOTS_MAX};
use crate::remote::CachedShare;
use crate::stores::{OpenHere, Store};
use crate::units::CopyNumber;

/// A share file.
pub struct Share {
    /// Where it was opened.
    pub path: PathBuf,
    /// Shared with reads under way.
    pub file: Arc<StoreFile>,
    store: Arc<Store>,
    /// Set once reading failed; from then on other shares take its place.
    lost: Cell<bool>,
    validation: Cell<Validation>,
    /// Open for direct reads while a readahead stream holds it.
    direct: RefCell<Weak<DirectFile>>,
    /// Reads of it that failed because the disk could not read a spot.
    spots: Cell<usize>,
    /// Set once direct reads failed.
    no_direct: Cell<bool>,
    /// What fills its file, if its store is remote.
    cached: Option<Arc<CachedShare>>,
    _open: OpenHere,
}

/// A share's file, open for direct reads.
pub struct DirectFile {
    /// Shared with reads under way.
    file: Arc<StoreFile>,
    _place: OwnedSemaphorePermit,
}

/// What is known of a share's file since it was validated last.
#[derive(Clone, Copy, Default)]
struct Validation {
    /// Counts the changes that were noticed.
    version: u32,
    /// `None` before the first validation, and where it failed.
    stamp: Option<FileVersion>,
    /// When the kernel was asked last.
    asked: Option<Instant>,
    /// Whether the file had not changed for [`FILE_SETTLES`] at that time. Only then would another change show in its
    /// times, which advance by the kernel's tick.
    settled: bool,
}

/// The part of a version's number that counts changes; the rest is the copy's.
const VERSION_MASK: u32 = (1 << 24) - 1;

impl Share {
    /// A share whose file was just opened in a store, and which copy of it that is.
    /// If its store is remote, `cached` fills the file.
    pub fn new(
        path: PathBuf,
        file: StoreFile,
        store: &Arc<Store>,
        copy: CopyNumber,
        cached: Option<Arc<CachedShare>>,
    ) -> Share {
        files::advise_sequential(&file);
        Share {
            path,
            file: Arc::new(file),
            store: Arc::clone(store),
            _open: store.open_here(),
            lost: Cell::new(false),
            spots: Cell::new(0),
            validation: Cell::new(Validation {
                // No copy ever has the version of another: what was verified of one says nothing of the other.
                version: u32::from(copy.0) << VERSION_MASK.count_ones(),
                ..Validation::default()
            }),
            direct: RefCell::default(),
            no_direct: Cell::new(false),
            cached,
        }
    }

    /// Whether reading it failed.
    pub fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Its store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What fills its file, if its store is remote.
    pub fn cached(&self) -> Option<&Arc<CachedShare>> {
        self.cached.as_ref()
    }

    /// Whether it is to be read: its store serves, and it was not given up. With `also_slow` the store may be slow.
    pub fn is_usable(&self, also_slow: bool) -> bool {
        !self.lost.get() && self.store.serves(also_slow)
    }

    /// A spot of it could not be read. Returns whether it may be read elsewhere: not if that was so too often.
    pub fn note_spot(&self) -> bool {
        self.spots.set(self.spots.get() + 1);
        self.spots.get() <= UNREADABLE_SPOTS_MAX
    }

    /// Gives it up. Returns whether it was in use until now.
    pub fn mark_lost(&self) -> bool {
        !self.lost.replace(true)
    }

    /// Opens its file for direct reads, if `places` has one for it. It stays open as long as somebody holds it. Waits if
    /// opening it may block.
    pub async fn open_direct(&self, places: &Arc<Semaphore>) -> Option<Rc<DirectFile>> {
        if self.no_direct.get() {
            return None;
        }
        if let Some(open) = self.direct.borrow().upgrade() {
            return Some(open);
        }
        let place = Arc::clone(places).try_acquire_owned().ok()?;
        let opened = match self.file.is_nowait() {
            true => files::open_direct(&self.file),
            // One that is late may hang. A read will find out.
            false => {
                let opening = files::start_open_direct(&self.file).ok()?;
                timeout(self.store.timeout(), opening).await.ok()?.ok()?
            }
        };
        match opened {
            Ok(file) => {
                let direct = Rc::new(DirectFile {
                    file: Arc::new(file),
                    _place: place,
                });
                *self.direct.borrow_mut() = Rc::downgrade(&direct);
                Some(direct)
            }
            Err(error) => {
                self.refuse_direct(&error);
                None
            }
        }
    }

    /// Its file for direct reads, if it is open for them.
    pub fn direct_file(&self) -> Option<Arc<StoreFile>> {
        let direct = self.direct.borrow().upgrade()?;
        Some(Arc::clone(&direct.file))
    }

    /// Direct reads of it failed: from now on there are none.
    pub fn refuse_direct(&self, error: &io::Error) {
        tracing::info!(path = %self.path.display(), "no direct reads: {error}");
        self.no_direct.set(true);
    }

    /// Asks whether the file changed, and gives the number of its version, which grows with every change of its length
    /// or times. `None` while its times are too young to tell. What was read between two calls that give the same
    /// number is still what the file holds. An answer counts for [`REVALIDATE_AFTER`].
    pub fn revalidate(&self, now: Instant) -> Option<u32> {
        if let Some(cached) = &self.cached {
            // Nobody else writes to it, and nothing that was written changes.
            let copy = self.validation.get().version & !VERSION_MASK;
            return Some(copy | cached.version() & VERSION_MASK);
        }
        let mut known = self.validation.get();
        let fresh = |at: Instant| now.saturating_duration_since(at) < REVALIDATE_AFTER;
        if known.settled && known.asked.is_some_and(fresh) {
            return Some(known.version);
        }
        known.asked = Some(now);
        let stamp = files::file_version(&self.file).ok();
        if stamp.is_none() || stamp != known.stamp {
            known.version = known.version.wrapping_add(1);
            known.stamp = stamp;
            known.settled = false;
        }
        // A clock that was set back leaves times in the future, which differ from those of a new change.
        known.settled |= stamp.is_some_and(|stamp| {
            let now = SystemTime::now();
            let age = now.duration_since(stamp.changed);
            age.unwrap_or_else(|ahead| ahead.duration()) >= FILE_SETTLES
        });
        self.validation.set(known);
        known.settled.then_some(known.version)
    }

    /// The version as it was validated last, however long ago; validates the file if that never succeeded.
    pub fn version(&self) -> Option<u32> {
        let known = self.validation.get();
        if known.settled && self.cached.is_none() {
            Some(known.version)
        } else {
            self.revalidate(Instant::now())
        }
    }

    /// Makes what is known of the file's contents count no more.
    pub fn invalidate(&self) {
        let version = self.validation.get().version.wrapping_add(1);
        self.validation.set(Validation {
            version,
            ..Validation::default()
        });
    }
}
