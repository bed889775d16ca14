//! How much room the cache has, whether its disk works, and when something of it may be dropped.
//!
//! [`CachedShare`](super::CachedShare)s and the [`Cache`](super::Cache) have this in common. Which share gives way is up to
//! the cache alone: a share knows nothing of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock, TryLockError};
use std::time::Instant;

use crate::memory::limits::{CACHE_BROKEN, CACHE_MEMORY_BYTES};

/// How often it is tried whether another server is gone.
const ALONE_TRY_EVERY_MS: u64 = 1000;

/// Where a share is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a file of the cache.
    Disk,
    /// In a file in memory, of which there is little: while the cache's disk can't be written.
    Memory,
}

/// How full a place is.
pub(super) struct Fill {
    /// Bytes that it may hold.
    pub(super) size: u64,
    /// Bytes that there is room for: fewer where the disk has less than that free.
    limit: AtomicU64,
    /// Bytes, as far as they are known: counted up as they come, and anew when room is made.
    pub(super) used: AtomicU64,
    pub(super) is_making_room: AtomicBool,
}

impl Fill {
    fn new(size: u64, used: u64) -> Fill {
        Fill {
            size,
            limit: AtomicU64::new(size),
            used: AtomicU64::new(used),
            is_making_room: AtomicBool::new(false),
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Its disk has so many bytes free.
    pub(super) fn has_free(&self, bytes: u64) {
        let room = self.used().saturating_add(bytes);
        self.limit.store(self.size.min(room), Relaxed);
    }

    /// Takes off what is not there any more. Returns what is left.
    pub(super) fn take_off(&self, bytes: u64) -> u64 {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let before = self.used.fetch_update(Relaxed, Relaxed, less);
        before.unwrap_or_default().saturating_sub(bytes)
    }
}

/// What the cache and its shares have in common.
pub(super) struct Space {
    dir: PathBuf,
    disk: Fill,
    memory: Fill,
    /// Until when the disk is left alone, by [`Space::clock`]; 0 if it did not fail.
    broken_until: AtomicU64,
    opened: Instant,
    /// Held by this process, and by the one before it that it takes over from.
    lock: File,
    /// Whether no other server has it, so that something of it may be dropped.
    is_alone: AtomicBool,
    /// When it was tried last whether the other server is gone, by [`Space::clock`].
    tried: AtomicU64,
    /// Read while something is dropped, so that nobody shares the cache meanwhile.
    dropping: RwLock<()>,
    /// Held while room is made.
    room: Mutex<()>,
}

impl Space {
    /// That of a directory, for so many bytes, with the locked file that says whose it is.
    pub(super) fn new(dir: &Path, size: u64, used: u64, lock: File, is_alone: bool) -> Space {
        Space {
            dir: dir.to_owned(),
            disk: Fill::new(size, used),
            memory: Fill::new(CACHE_MEMORY_BYTES, 0),
            broken_until: AtomicU64::new(0),
            opened: Instant::now(),
            lock,
            is_alone: AtomicBool::new(is_alone),
            tried: AtomicU64::new(0),
            dropping: RwLock::new(()),
            room: Mutex::new(()),
        }
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Another server takes over, and has the cache too from now on: both fill it, and nothing is dropped until one of them
    /// has ended. So neither makes a hole of what the other sends.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn share_with_successor(&self) -> io::Result<()> {
        let _dropping = self
            .dropping
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        self.is_alone.store(false, Relaxed);
        self.lock.lock_shared()
    }

    /// Has room made, by one at a time, unless another server may send of what would be dropped.
    pub(super) fn make_with<T>(&self, make: impl FnOnce() -> T) -> Option<T> {
        let _room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        self.try_drop_with(make)
    }

    /// Has something dropped, unless another server may send of it. Waits for nobody: a core waits for no disk, and one that
    /// drops a page does not keep others from it.
    pub(super) fn try_drop_with<T>(&self, drop: impl FnOnce() -> T) -> Option<T> {
        let _dropping = match self.dropping.try_read() {
            Ok(dropping) => dropping,
            Err(TryLockError::Poisoned(dropping)) => dropping.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.becomes_alone().then(drop)
    }

    fn becomes_alone(&self) -> bool {
        if self.is_alone.load(Relaxed) {
            return true;
        }
        let now = self.clock();
        if now.saturating_sub(self.tried.swap(now, Relaxed)) < ALONE_TRY_EVERY_MS {
            return false;
        }
        let is_alone = self.lock.try_lock().is_ok();
        if !is_alone {
            // A lock that can't be changed is lost (flock(2)).
            let _ = self.lock.try_lock_shared();
        }
        self.is_alone.store(is_alone, Relaxed);
        is_alone
    }

    /// Whether its disk failed just now, so that shares are kept in memory, of which there is little.
    pub(super) fn is_broken(&self) -> bool {
        self.clock() < self.broken_until.load(Relaxed)
    }

    /// Its disk can't be read or written, or is full beyond help. What is open goes on as far as it is there; what is opened from now on
    /// is kept in memory for a while.
    pub(super) fn note_broken(&self, error: &io::Error) {
        let until = self.clock() + CACHE_BROKEN.as_millis() as u64;
        if self.broken_until.swap(until, Relaxed) <= self.clock() {
            tracing::error!(
                cache = %self.dir.display(), %error,
                "the cache's disk failed: remote shares are served without it, slower"
            );
        }
    }

    /// How full a place is.
    pub(super) fn fill(&self, place: Place) -> &Fill {
        match place {
            Place::Disk => &self.disk,
            Place::Memory => &self.memory,
        }
    }

    /// Milliseconds since it was opened.
    pub(super) fn clock(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Whether it is so full that open files may have to give something up.
    pub(super) fn is_crowded(&self, place: Place) -> bool {
        let fill = self.fill(place);
        fill.used() > fill.limit() / 2
    }
}

/// Whether a disk has no room, or none for this user.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
