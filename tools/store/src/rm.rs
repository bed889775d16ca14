//! Rm: removes an object so that it stays away, even from stores that are away now.
//!
//! First a tombstone goes to every store: an empty mark with a generation newer than all others, which hides every put
//! before it. At least m + 1 stores must take it, so that one is seen wherever k shares of the object could be read. Only
//! then are the files removed. A crash in between leaves a hidden object, and a repair removes what is left. When a store
//! comes back with old shares, the tombstone hides those as well. It expires after [`TOMBSTONE_AGE`], at a repair with
//! all stores present.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use decode_kernel::share::{Generation, Key, object_dir};

use crate::error::{During, FileError, list};
use crate::parallel;
use crate::put::{PutError, new_generation};
use crate::store::{self, Kind, OpenError, Place, Places, Store, StoreError};

/// How long a tombstone is kept: a store that was away for longer may bring removed objects back.
pub const TOMBSTONE_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

const TOMBSTONE_TEXT: &[u8] = b"\
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
pub fn with_prefix(stores: &[Store], prefix: &str) -> Result<Vec<Key>, StoreError> {
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
pub fn rm(stores: &[Store], key: &Key) -> Result<RmReport, RmError> {
    rm_in_steps(stores, key, &mut |_| Ok(()))
}

/// As [`rm`], but calls `after` at each step. An error from `after` ends it like a crash.
pub(crate) fn rm_in_steps(
    stores: &[Store],
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
    let mut after = |step| after(step).during("continue the removal in", first.store.path());
    let written = parallel::each(places.open.iter().collect(), |place: &Place| {
        let path = tombstone_path(place, &dir, generation);
        let prepared = place.store.prepare(&path, TOMBSTONE_TEXT);
        (prepared, path)
    });
    for (place, (prepared, path)) in places.open.iter().zip(written) {
        match prepared.and_then(|prepared| prepared.place()) {
            Ok(()) => tombstones.push((place, path)),
            Err(error) => reasons.push(error.to_string()),
        }
        after(Step::Tombstone(place.index)).map_err(RmError::Files)?;
    }
    let synced = parallel::each(tombstones, |(place, path)| {
        match place.store.sync_parent(&path) {
            Ok(()) => {
                tracing::debug!(path = %path.display(), "wrote a tombstone");
                Ok((place, path))
            }
            Err(error) => {
                let _ = place.store.remove(&path);
                Err(error)
            }
        }
    });
    let mut tombstones = Vec::new();
    for synced in synced {
        match synced {
            Ok(tombstone) => tombstones.push(tombstone),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    if tombstones.len() < needed {
        let have = tombstones.len();
        for (place, tombstone) in tombstones {
            let _ = place.store.remove(&tombstone);
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
    place.store.object_file(dir, Kind::Tombstone, generation)
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
        let files = place.store.files(dir).unwrap_or_default();
        if !files.iter().any(|(_, file)| *file == path) {
            place.store.write(&path, TOMBSTONE_TEXT)?;
            done += 1;
        }
    }
    done += remove_covered(places, dir, tombstone)?;
    let made = UNIX_EPOCH + Duration::from_nanos(tombstone.unix_nanos());
    let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age >= TOMBSTONE_AGE);
    // The tombstone of an object that expired has the generation of its put, which may be much older.
    let written = |place: &Place| place.store.modified(&tombstone_path(place, dir, tombstone));
    let expired =
        is_old(made) && (places.open.iter()).all(|place| written(place).is_ok_and(is_old));
    if done == 0 && all_here && expired {
        for place in &places.open {
            let path = tombstone_path(place, dir, tombstone);
            place.store.remove(&path).during("remove", &path)?;
            done += 1;
            // It is empty now, unless a put has begun.
            let _ = place.store.remove_empty(dir);
        }
    }
    Ok(done)
}

/// Removes the files that a tombstone covers, but not the tombstone. Returns their number.
fn remove_covered(places: &Places, dir: &str, tombstone: &Generation) -> Result<usize, FileError> {
    let mut removed = 0;
    let mut failed = None;
    for place in &places.open {
        let files = match place.store.files(dir) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => {
                failed = failed.or(Some(FileError {
                    action: "list",
                    path: place.store.object_dir(dir),
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
            match place.store.remove(&path) {
                Ok(()) => {
                    tracing::debug!(path = %path.display(), "removed a file");
                    removed += usize::from(kind != Kind::Decided);
                }
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
