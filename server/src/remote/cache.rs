//! The directory of cached shares: which there are, who uses them, and what gives way.
//!
//! One process has it at a time, by a lock on a file in it. What it holds outlives the process. Files that nobody has
//! open give way first, the longest unused one before the others, until a part is free again. Where that does not
//! suffice, what nobody wanted lately of the open ones is dropped.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use lru::LruCache;
use penstock_remote::Entry;
use sha2::{Digest, Sha256};

use super::origin::Origin;
use super::share::{CachedShare, tells_holes};
use crate::memory::limits::CACHE_FILES_MAX;

/// The file whose lock says that the directory is in use.
const LOCK: &str = "lock";
/// The end of a cached share's file name.
const EXTENSION: &str = "share";
/// What is left of the size when room was made, in parts of 16.
const LOW_WATER: u64 = 15;

/// Why a directory can't be a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another process has it.
    #[error("another process uses the cache {}: give each its own", .0.display())]
    InUse(PathBuf),
    /// Its file system does not tell what was written from what was not.
    #[error("the file system of the cache {} does not tell holes of files: use another, as ext4, XFS or btrfs", .0.display())]
    NoHoles(PathBuf),
    /// The system's.
    #[error("the cache {}: {error}", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

/// A directory of cached shares.
pub struct Cache {
    dir: PathBuf,
    size: u64,
    /// Bytes on the disk, as far as they are known: counted up as bytes come, and anew when room is made.
    used: AtomicU64,
    is_full: AtomicBool,
    opened: Instant,
    files: Mutex<Files>,
    _lock: File,
}

struct Files {
    open: HashMap<PathBuf, Weak<CachedShare>>,
    /// Bytes on the disk of those that nobody has open, the longest unused first to go.
    closed: LruCache<PathBuf, u64>,
}

impl Cache {
    /// Opens a directory as a cache of so many bytes, and creates it if it is not there.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn open(dir: &Path, size: u64) -> Result<Arc<Cache>, CacheError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| CacheError::Io { path, error }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed(dir))?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CacheError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
        let probe = dir.join("probe");
        let tells = create(&probe).and_then(|file| tells_holes(&file));
        // It is overwritten the next time if it can't be removed.
        let _ = fs::remove_file(&probe);
        if !tells.map_err(failed(&probe))? {
            return Err(CacheError::NoHoles(dir.to_owned()));
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed(dir))? {
            let entry = entry.map_err(failed(dir))?;
            let path = entry.path();
            if path.extension().is_some_and(|end| end == EXTENSION)
                && let Ok(metadata) = entry.metadata()
            {
                found.push((metadata.mtime(), path, metadata.blocks() * 512));
            }
        }
        found.sort();
        let mut closed = LruCache::unbounded();
        let mut used = 0;
        for (_, path, bytes) in found {
            used += bytes;
            closed.put(path, bytes);
        }
        let cache = Cache {
            dir: dir.to_owned(),
            size,
            used: AtomicU64::new(used),
            is_full: AtomicBool::new(false),
            opened: Instant::now(),
            files: Mutex::new(Files {
                open: HashMap::new(),
                closed,
            }),
            _lock: lock,
        };
        cache.make_room(0);
        Ok(Arc::new(cache))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that it may hold.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that it holds.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Milliseconds since it was opened.
    pub(super) fn clock(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Whether it is so full that open files may have to give something up.
    pub(super) fn is_crowded(&self) -> bool {
        self.used() > self.size / 2
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local file of a share that a store has.
    ///
    /// # Errors
    /// The cache's disk's.
    pub fn share(
        self: &Arc<Cache>,
        origin: &Arc<Origin>,
        entry: &Entry,
    ) -> io::Result<Arc<CachedShare>> {
        let path = self.dir.join(file_name(origin, entry));
        let mut files = self.files();
        if let Some(open) = files.open.get(&path).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let file = create(&path)?;
        if file.metadata()?.len() != entry.bytes {
            // Whatever made it that long was not this file.
            file.set_len(0)?;
            file.set_len(entry.bytes)?;
        }
        files.closed.pop(&path);
        let share = Arc::new(CachedShare::new(
            Arc::clone(origin),
            entry.name.clone(),
            entry.bytes,
            file,
            path.clone(),
            Arc::clone(self),
        ));
        files.open.insert(path, Arc::downgrade(&share));
        Ok(share)
    }

    /// The open file by this path.
    pub fn find(&self, path: &Path) -> Option<Arc<CachedShare>> {
        self.files().open.get(path)?.upgrade()
    }

    /// Nobody has it open any more.
    pub(super) fn closed(&self, path: &Path, bytes: u64) {
        let mut files = self.files();
        // It may have been opened again.
        if files
            .open
            .get(path)
            .is_some_and(|open| open.strong_count() > 0)
        {
            return;
        }
        files.open.remove(path);
        if files.closed.len() < CACHE_FILES_MAX {
            files.closed.put(path.to_owned(), bytes);
        }
    }

    /// Bytes came. Makes room if that is due.
    pub(super) fn note_filled(&self, bytes: u64) {
        let used = self.used.fetch_add(bytes, Relaxed) + bytes;
        if used > self.size && !self.is_full.swap(true, Relaxed) {
            self.make_room(0);
            self.is_full.store(false, Relaxed);
        }
    }

    /// Makes room until a part of the size is free, and `more` bytes beside it. Returns whether there is room for those.
    pub(super) fn make_room(&self, more: u64) -> bool {
        let low_water = (self.size / 16 * LOW_WATER).saturating_sub(more);
        let mut used = self.used();
        while used > low_water {
            let Some((path, bytes)) = self.files().closed.pop_lru() else {
                break;
            };
            match fs::remove_file(&path) {
                Ok(()) => used = self.used.fetch_sub(bytes.min(used), Relaxed) - bytes.min(used),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a cached share can't be removed");
                }
            }
        }
        if used <= low_water {
            return true;
        }
        let open: Vec<Arc<CachedShare>> = {
            let files = self.files();
            files.open.values().filter_map(Weak::upgrade).collect()
        };
        let mut open: Vec<(u64, Arc<CachedShare>)> = open
            .into_iter()
            .map(|share| (share.last_wanted(), share))
            .collect();
        open.sort_by_key(|(wanted, _)| *wanted);
        for (_, share) in open {
            let before = share.disk_bytes();
            let freed = before.saturating_sub(share.sweep());
            used = self.used.fetch_sub(freed.min(used), Relaxed) - freed.min(used);
            if used <= low_water {
                break;
            }
        }
        used.saturating_add(more) <= self.size
    }
}

/// A file that is read and written, and that only its owner may see.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// The name of a share's file: it tells the store, the name there, and which version of it this is.
fn file_name(origin: &Origin, entry: &Entry) -> String {
    let mut hasher = Sha256::new();
    let etag = entry.etag.as_deref().unwrap_or_default();
    for part in [origin.url().to_string().as_str(), &entry.name, etag] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    let hash: [u8; 32] = hasher.finalize().into();
    let hex: String = hash[..20]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{hex}.{EXTENSION}")
}
