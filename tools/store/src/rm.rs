//! Rm: removes an object so that it stays away, even from stores that are away now.
//!
//! First a tombstone goes to every store: an empty mark with a generation newer than all others, which hides every put
//! before it. At least m + 1 stores must take it, so that one is seen wherever k shares of the object could be read. Only
//! then are the files removed. A crash in between leaves a hidden object, and a repair removes what is left. When a store
//! comes back with old shares, the tombstone hides those as well. It expires after [`TOMBSTONE_AGE`], at a repair with
//! all stores present.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use decode_kernel::share::{Generation, Key, object_dir};

use crate::error::{During, FileError, list};
use crate::parallel;
use crate::put::{PutError, new_generation};
use crate::store::{self, Kind, OpenError, Place, Places, StoreError};
use crate::temp::{TempFile, create_dir, sync_dir};

/// How long a tombstone is kept: a store that was away for longer may bring removed objects back.
pub const TOMBSTONE_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

const TOMBSTONE_TEXT: &str = "\
    The object of this directory was removed. This file keeps stores that were away from bringing it back.\n\
    `penstock repair` removes it after 90 days.\n";

/// A moment in a removal at which the disks are in a new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The tombstone is durable in this store.
    Tombstone(usize),
    /// All tombstones are written. The object is gone.
    Hidden,
}

/// What was removed.
#[derive(Debug, Default)]
pub struct RmReport {
    /// The number of files.
    pub files: usize,
    /// Stores that could not take the tombstone, and why.
    pub warnings: Vec<String>,
}

/// Why an object was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RmError {
    /// There is no such object, or that can't be known.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The stores can't be used together.
    #[error(transparent)]
    Stores(#[from] StoreError),
    /// Too few stores to make sure that it stays away.
    #[error(
        "object {key:?}: its removal must be written to {need} stores, so that it stays away, and only {have} can be \
         written{}",
        list(reasons)
    )]
    TooFewStores {
        /// Which object.
        key: Key,
        /// m + 1.
        need: usize,
        /// Stores that took it.
        have: usize,
        /// Why the others didn't.
        reasons: Vec<String>,
    },
    /// No generation for the tombstone.
    #[error(transparent)]
    Generation(#[from] PutError),
    /// Its files could not be removed. It is hidden, and a repair removes them.
    #[error("the object is removed, but not all of its files: {0}; `penstock repair` removes them")]
    Files(FileError),
}

/// The names of the objects that begin with `prefix`, in order.
///
/// # Errors
/// If no store can be read.
pub fn with_prefix(stores: &[PathBuf], prefix: &str) -> Result<Vec<Key>, StoreError> {
    store::check_stores(stores)?;
    let mut keys: Vec<Key> = store::keys(stores)
        .filter(|key| key.as_str().starts_with(prefix))
        .collect();
    keys.sort();
    Ok(keys)
}

/// Removes an object.
///
/// # Errors
/// If it is not there, or too few stores can take the tombstone: then it is still there.
pub fn rm(stores: &[PathBuf], key: &Key) -> Result<RmReport, RmError> {
    rm_in_steps(stores, key, &mut |_| Ok(()))
}

/// As [`rm`], but calls `after` at each step. An error from `after` ends it like a crash.
pub(crate) fn rm_in_steps(
    stores: &[PathBuf],
    key: &Key,
    after: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<RmReport, RmError> {
    let places = Places::new(stores)?;
    let scan = store::scan(stores, key);
    let needed = scan.groups.iter().chain(&scan.undecided).map(|group| {
        let geometry = &group.header.geometry;
        usize::from(geometry.n() - geometry.k()) + 1
    });
    let Some(needed) = needed.max().or_else(|| {
        // Only files that can't be used: every store that is here must know.
        let damaged = scan
            .rejected
            .iter()
            .any(|file| !scan.away.contains(&file.store));
        damaged.then_some(places.open.len().max(1))
    }) else {
        return Err(match scan.open(key, false) {
            Err(error) => error.into(),
            Ok(_) => OpenError::NotFound {
                key: key.clone(),
                stores: stores.len(),
            }
            .into(),
        });
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let generation = new_generation(&scan, now.unwrap_or_default().as_nanos() as u64)?;
    hide(&places, key, &generation, needed, after)
}

/// Removes an object that has expired: the put of this generation, `needed` being m + 1 of it, and those before. A put
/// that has come since is newer and stays.
///
/// # Errors
/// As [`rm`].
pub(crate) fn sweep(
    places: &Places,
    key: &Key,
    expired: &Generation,
    needed: usize,
) -> Result<RmReport, RmError> {
    hide(places, key, expired, needed, &mut |_| Ok(()))
}

/// Hides every put up to this generation by tombstones in at least `needed` stores, then removes their files.
fn hide(
    places: &Places,
    key: &Key,
    generation: &Generation,
    needed: usize,
    after: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<RmReport, RmError> {
    let mut reasons: Vec<String> = places.passed_over.iter().map(ToString::to_string).collect();
    let too_few = |have, reasons| {
        Err(RmError::TooFewStores {
            key: key.clone(),
            need: needed,
            have,
            reasons,
        })
    };
    let Some(first) = places.open.first().filter(|_| places.open.len() >= needed) else {
        return too_few(places.open.len(), reasons);
    };
    let dir = object_dir(key);
    let mut tombstones = Vec::new();
    let mut after = |step| after(step).during("continue the removal in", &first.path);
    let written = parallel::each(places.open.iter().collect(), |place| {
        write_tombstone(place, &dir)
    });
    for (place, written) in places.open.iter().zip(written) {
        let path = tombstone_path(place, &dir, generation);
        match written.and_then(|temp| put_in_place(temp, &path)) {
            Ok(()) => tombstones.push(path),
            Err(error) => reasons.push(error.to_string()),
        }
        after(Step::Tombstone(place.index)).map_err(RmError::Files)?;
    }
    let synced = parallel::each(tombstones, |path| match sync_parent(&path) {
        Ok(()) => Ok(path),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    });
    let mut tombstones = Vec::new();
    for synced in synced {
        match synced {
            Ok(path) => tombstones.push(path),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    if tombstones.len() < needed {
        let have = tombstones.len();
        for tombstone in tombstones {
            let _ = fs::remove_file(tombstone);
        }
        return too_few(have, reasons);
    }
    after(Step::Hidden).map_err(RmError::Files)?;
    let files = remove_covered(places, &dir, generation).map_err(RmError::Files)?;
    Ok(RmReport {
        files,
        warnings: reasons,
    })
}

fn tombstone_path(place: &Place, dir: &str, generation: &Generation) -> PathBuf {
    let dir = store::objects_dir(&place.path).join(dir);
    dir.join(Kind::Tombstone.file_name(generation))
}

/// Writes a tombstone under a temporary name, and makes the directory that it is for.
fn write_tombstone(place: &Place, dir: &str) -> Result<TempFile, FileError> {
    create_dir(&store::objects_dir(&place.path).join(dir))?;
    let temp = TempFile::create(&place.path)?;
    let mut file = temp.file();
    file.write_all(TOMBSTONE_TEXT.as_bytes())
        .and_then(|()| file.sync_all())
        .during("write", temp.path())?;
    Ok(temp)
}

fn put_in_place(mut temp: TempFile, path: &Path) -> Result<(), FileError> {
    temp.rename(path)?;
    temp.keep();
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Finishes a removal in an object's directory: the tombstone goes to the stores that lack it, and the files that it
/// covers are removed. If nothing was left to do, `all_here` says that no store is away, and the tombstone is old, it is
/// removed too. Returns the number of files that were written or removed.
pub(crate) fn finish(
    places: &Places,
    dir: &str,
    tombstone: &Generation,
    all_here: bool,
) -> Result<usize, FileError> {
    let mut done = 0;
    for place in &places.open {
        let path = tombstone_path(place, dir, tombstone);
        if !path.exists() {
            put_in_place(write_tombstone(place, dir)?, &path)?;
            sync_parent(&path)?;
            done += 1;
        }
    }
    done += remove_covered(places, dir, tombstone)?;
    let made = UNIX_EPOCH + Duration::from_nanos(tombstone.unix_nanos());
    let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age >= TOMBSTONE_AGE);
    // The tombstone of an object that expired has the generation of its put, which may be much older.
    let written = |place: &Place| fs::metadata(tombstone_path(place, dir, tombstone))?.modified();
    let expired =
        is_old(made) && (places.open.iter()).all(|place| written(place).is_ok_and(is_old));
    if done == 0 && all_here && expired {
        for place in &places.open {
            let path = tombstone_path(place, dir, tombstone);
            fs::remove_file(&path).during("remove", &path)?;
            done += 1;
            // The directory is empty now, unless a put has begun.
            let _ = path.parent().map(fs::remove_dir);
        }
    }
    Ok(done)
}

/// Removes the files that a tombstone covers, but not the tombstone. Returns their number.
fn remove_covered(places: &Places, dir: &str, tombstone: &Generation) -> Result<usize, FileError> {
    let mut removed = 0;
    let mut failed = None;
    for place in &places.open {
        let dir = store::objects_dir(&place.path).join(dir);
        let files = match store::files(&dir) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => {
                failed = failed.or(Some(FileError {
                    action: "list",
                    path: dir,
                    cause,
                }));
                continue;
            }
        };
        for (kind, path) in files {
            let covered = store::covers(tombstone, kind, &path);
            if !covered {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => {
                    failed = failed.or(Some(FileError {
                        action: "remove",
                        path,
                        cause,
                    }));
                }
            }
        }
    }
    match failed {
        None => Ok(removed),
        Some(error) => Err(error),
    }
}
