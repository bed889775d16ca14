//! The directory of cached shares: which there are, who uses them, and what gives way.
//!
//! One process has it at a time, by a lock on a file in it. What it holds outlives the process. Files that nobody has
//! open give way first, the longest unused one before the others, until a part is free again. Where that does not
//! suffice, what nobody wanted lately of the open ones is dropped.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError as TryFileLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lru::LruCache;
use penstock_remote::Entry;
use rustix::fs::{MemfdFlags, memfd_create, statvfs};
use sha2::{Digest, Sha256};

use super::origin::Origin;
use super::share::{CachedShare, tells_holes};
use super::space::{Place, Space, is_full};
use crate::memory::limits::{CACHE_FILES_MAX, REMOTE_UNIT_BYTES};

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
    space: Arc<Space>,
    /// Whether its file system was seen to tell holes. One that is full can't be asked.
    is_probed: AtomicBool,
    files: Mutex<Files>,
    /// How often room was made on a full disk.
    rooms_made: AtomicU64,
}

struct Files {
    /// By their path on the disk, and whether they are kept there. So nobody has one and the same file open twice.
    open: HashMap<(PathBuf, Place), Weak<CachedShare>>,
    /// Bytes on the disk of those that nobody has open, the longest unused first to go.
    closed: LruCache<PathBuf, u64>,
}

impl Files {
    /// What is open of this path in a place. It must not end while the files are locked, as that locks them.
    fn open_at(&self, path: &Path, place: Place) -> Option<Arc<CachedShare>> {
        let open = self.open.get(&(path.to_owned(), place));
        open.and_then(Weak::upgrade)
    }
}

impl Cache {
    /// Opens a directory as a cache of so many bytes, and creates it if it is not there. A server that takes over has it
    /// together with the one before, once that [shares](Cache::share_with_successor) it.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn open(dir: &Path, size: u64, takes_over: bool) -> Result<Arc<Cache>, CacheError> {
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
        let is_alone = match lock.try_lock() {
            Ok(()) => true,
            Err(TryFileLockError::WouldBlock) if takes_over && lock.try_lock_shared().is_ok() => {
                false
            }
            Err(TryFileLockError::WouldBlock) => return Err(CacheError::InUse(dir.to_owned())),
            Err(TryFileLockError::Error(error)) => return Err(failed(&path)(error)),
        };
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
            space: Arc::new(Space::new(dir, size, used, lock, is_alone)),
            is_probed: AtomicBool::new(false),
            files: Mutex::new(Files {
                open: HashMap::new(),
                closed,
            }),
            rooms_made: AtomicU64::new(0),
        };
        cache.make_room(Place::Disk, 0);
        let mut probed = cache.probe();
        if probed.as_ref().is_err_and(is_full) && cache.make_room_on_full_disk(REMOTE_UNIT_BYTES) {
            probed = cache.probe();
        }
        match probed {
            Ok(()) => {}
            // Others have the disk. They may make room some time, and objects are served meanwhile.
            Err(error) if is_full(&error) => cache.space.note_broken(&error),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                return Err(CacheError::NoHoles(dir.to_owned()));
            }
            Err(error) => return Err(failed(dir)(error)),
        }
        Ok(Arc::new(cache))
    }

    /// Finds out whether its file system tells what was written from what was not, unless that is known.
    fn probe(&self) -> io::Result<()> {
        if self.is_probed.load(Relaxed) {
            return Ok(());
        }
        let path = self.dir().join("probe");
        let tells = create(&path).and_then(|file| tells_holes(&file));
        // It is overwritten the next time if it can't be removed.
        let _ = fs::remove_file(&path);
        match tells? {
            true => self.is_probed.store(true, Relaxed),
            false => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(())
    }

    /// Another server takes over, and has the cache too from now on: both fill it, and nothing is dropped until one of them
    /// has ended. So neither makes a hole of what the other sends.
    ///
    /// # Errors
    /// The system's.
    pub fn share_with_successor(&self) -> io::Result<()> {
        self.space.share_with_successor()
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.space.dir()
    }

    /// Bytes that it may hold.
    pub fn size(&self) -> u64 {
        self.space.fill(Place::Disk).size
    }

    /// Bytes that it holds.
    pub fn used(&self) -> u64 {
        self.space.fill(Place::Disk).used()
    }

    /// Whether its disk failed just now, so that shares are kept in memory, of which there is little.
    pub fn is_broken(&self) -> bool {
        self.space.is_broken()
    }

    /// Its disk can't be read or written, or is full beyond help. What is open goes on as far as it is there; what is
    /// opened from now on is kept in memory for a while.
    pub(super) fn note_broken(&self, error: &io::Error) {
        self.space.note_broken(error);
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local file of a share that a store has.
    ///
    /// # Errors
    /// The system's, if there is not even memory for it.
    pub fn share(
        self: &Arc<Cache>,
        origin: &Arc<Origin>,
        entry: &Entry,
    ) -> io::Result<Arc<CachedShare>> {
        let path = self.dir().join(file_name(origin, entry));
        // Before the lock, so that what it holds ends after that.
        let on_disk;
        let mut files = self.files();
        on_disk = files.open_at(&path, Place::Disk);
        let is_lost = on_disk.as_ref().is_some_and(|open| open.is_unreadable());
        let is_broken = self.is_broken() || is_lost;
        if let Some(open) = on_disk.as_ref().filter(|_| !is_broken) {
            return Ok(Arc::clone(open));
        }
        if let Some(open) = files.open_at(&path, Place::Memory) {
            return Ok(open);
        }
        let file = match is_broken {
            true => None,
            false => match self.open_file(&path, entry.bytes) {
                Ok(file) => Some(file),
                Err(error) => {
                    drop(files);
                    let again = match is_full(&error) && self.make_room_on_full_disk(0) {
                        true => self.open_file(&path, entry.bytes),
                        false => Err(error),
                    };
                    let file = again.map_err(|error| self.space.note_broken(&error)).ok();
                    files = self.files();
                    // Somebody else may have opened it meanwhile.
                    let place = file.as_ref().map_or(Place::Memory, |_| Place::Disk);
                    if let Some(open) = files.open_at(&path, place) {
                        return Ok(open);
                    }
                    file
                }
            },
        };
        let (file, place) = match file {
            Some(file) => {
                files.closed.pop(&path);
                (file, Place::Disk)
            }
            None => {
                let file = memfd_create("penstock-share", MemfdFlags::CLOEXEC)?;
                (sized(Ok(file.into()), entry.bytes)?, Place::Memory)
            }
        };
        let cache = Arc::clone(self);
        let share = Arc::new(CachedShare::new(
            Arc::clone(origin),
            entry,
            file,
            path.clone(),
            place,
            Arc::clone(&self.space),
            Box::new(move |share| cache.closed(share)),
        ));
        files.open.insert((path, place), Arc::downgrade(&share));
        Ok(share)
    }

    fn open_file(&self, path: &Path, bytes: u64) -> io::Result<File> {
        self.probe()?;
        sized(create(path), bytes)
    }

    /// Nobody has it open any more.
    fn closed(&self, share: &CachedShare) {
        let (path, place, bytes) = (share.path(), share.place(), share.disk_bytes());
        let mut files = self.files();
        if place == Place::Memory {
            self.space.fill(place).take_off(bytes);
        }
        let at = (path.to_owned(), place);
        // It may have been opened again.
        if files
            .open
            .get(&at)
            .is_some_and(|open| open.strong_count() > 0)
        {
            return;
        }
        files.open.remove(&at);
        if place == Place::Disk && files.closed.len() < CACHE_FILES_MAX {
            files.closed.put(path.to_owned(), bytes);
        }
    }

    /// Whether so many more bytes may be kept in memory. Makes room for them.
    pub(super) fn has_memory_for(&self, bytes: u64) -> bool {
        let memory = self.space.fill(Place::Memory);
        memory.used() + bytes <= memory.size || self.make_room(Place::Memory, bytes)
    }

    /// Bytes came. Makes room if that is due.
    pub(super) fn note_filled(&self, place: Place, bytes: u64) {
        let fill = self.space.fill(place);
        let used = fill.used.fetch_add(bytes, Relaxed) + bytes;
        if used > fill.limit() && !fill.is_making_room.swap(true, Relaxed) {
            self.make_room(place, 0);
            fill.is_making_room.store(false, Relaxed);
        }
    }

    /// Makes room until a part of the size is free, and `more` bytes beside it. Returns whether there is room for those.
    pub(super) fn make_room(&self, place: Place, more: u64) -> bool {
        let make = || {
            if place == Place::Disk
                && let Ok(disk) = statvfs(self.dir())
            {
                self.space
                    .fill(place)
                    .has_free(disk.f_bavail.saturating_mul(disk.f_frsize));
            }
            self.drop_until(place, more)
        };
        self.space.make_with(make).unwrap_or(false)
    }

    /// The same on a disk that was full just now, whatever it says it has free. What others made room for meanwhile does.
    pub(super) fn make_room_on_full_disk(&self, more: u64) -> bool {
        let before = self.rooms_made.load(Relaxed);
        let make = || {
            if self.rooms_made.load(Relaxed) != before {
                return true;
            }
            self.space.fill(Place::Disk).has_free(0);
            let has_room = self.drop_until(Place::Disk, more);
            self.rooms_made.fetch_add(1, Relaxed);
            has_room
        };
        self.space.make_with(make).unwrap_or(false)
    }

    fn drop_until(&self, place: Place, more: u64) -> bool {
        let fill = self.space.fill(place);
        let mut used = fill.used();
        let limit = fill.limit();
        let low_water = (limit / 16 * LOW_WATER).saturating_sub(more);
        while place == Place::Disk && used > low_water {
            let Some((path, bytes)) = self.files().closed.pop_lru() else {
                break;
            };
            match fs::remove_file(&path) {
                Ok(()) => used = fill.take_off(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a cached share can't be removed");
                }
            }
        }
        if used > low_water {
            used = self.sweep(place, low_water);
        }
        used.saturating_add(more) <= limit
    }

    /// Has open shares give up what nobody wanted lately, the longest unwanted one first. Returns what is used then.
    fn sweep(&self, place: Place, low_water: u64) -> u64 {
        let open: Vec<Arc<CachedShare>> = {
            let files = self.files();
            files.open.values().filter_map(Weak::upgrade).collect()
        };
        let here = open.into_iter().filter(|share| share.place() == place);
        let mut here: Vec<_> = here.map(|share| (share.last_wanted(), share)).collect();
        here.sort_by_key(|(wanted, _)| *wanted);
        let fill = self.space.fill(place);
        let mut used = fill.used();
        for (_, share) in &here {
            let before = share.disk_bytes();
            used = fill.take_off(before.saturating_sub(share.sweep()));
            if used <= low_water {
                return used;
            }
        }
        // Their beginnings and ends, too, of those that nothing is fetched of.
        for (_, share) in here.iter().filter(|(_, share)| !share.is_coming()) {
            let before = share.disk_bytes();
            used = fill.take_off(before.saturating_sub(share.clear()));
            if used <= low_water {
                break;
            }
        }
        used
    }
}

/// A file of this length: another length was made by something else.
fn sized(file: io::Result<File>, bytes: u64) -> io::Result<File> {
    let file = file?;
    if file.metadata()?.len() != bytes {
        file.set_len(0)?;
        file.set_len(bytes)?;
    }
    Ok(file)
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
