//! The end of a put: new shares are renamed into place, and older shares are removed. A crash may
//! leave the disks in the state after any step, and in each of these states the object can be read.

use std::fs;
use std::io;
use std::path::PathBuf;

use decode_kernel::share::{Generation, Header, Key, object_dir, share_file_name};

use crate::error::{During, FileError};
use crate::store;
use crate::temp::{TempFile, sync_dir};

/// A moment in a put at which the disks are in a new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All shares are written and synced, under temporary names.
    Written,
    /// This share is renamed into place.
    Renamed(u16),
    /// All shares are renamed into place, and the directories are synced.
    Synced,
}

/// Renames the new shares in `files` into place, the i-th in `dirs[i]`, then removes older puts
/// from all `stores`. Calls `after` at each step; an error from it acts like a disk failure at that
/// step. Returns the paths of the shares and the number of old files removed. After an error the
/// new shares are removed again.
pub(super) fn commit(
    stores: &[PathBuf],
    dirs: &[PathBuf],
    header: &Header,
    files: Vec<(u16, TempFile)>,
    after: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<(Vec<PathBuf>, usize), FileError> {
    let mut after = |step| after(step).during("continue the put in", &dirs[0]);
    after(Step::Written)?;
    let name = share_file_name(&header.generation);
    let paths: Vec<PathBuf> = dirs.iter().map(|dir| dir.join(&name)).collect();
    let mut renamed = Renamed {
        paths: &paths,
        count: 0,
    };
    for ((number, file), path) in files.into_iter().zip(&paths) {
        file.rename(path)?;
        renamed.count += 1;
        after(Step::Renamed(number))?;
    }
    for dir in dirs {
        sync_dir(dir)?;
    }
    after(Step::Synced)?;
    renamed.keep();
    let replaced = remove_older(stores, &header.key, &header.generation);
    Ok((paths, replaced))
}

/// Shares renamed into place by a put that may still fail. Dropping this removes them, the last
/// first, so that a crash during the removal leaves the same state as a crash after fewer renames.
struct Renamed<'a> {
    paths: &'a [PathBuf],
    count: usize,
}

impl Renamed<'_> {
    /// Keeps the shares: the put has succeeded.
    fn keep(mut self) {
        self.count = 0;
    }
}

impl Drop for Renamed<'_> {
    fn drop(&mut self) {
        for path in self.paths[..self.count].iter().rev() {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "could not take back a new share");
            }
        }
    }
}

/// Removes share files of puts older than `generation`, and returns their number. Files that cannot
/// be removed are logged. They do no harm, and a repair tries again.
pub(crate) fn remove_older(stores: &[PathBuf], key: &Key, generation: &Generation) -> usize {
    let mut removed = 0;
    for (path, found) in share_files(stores, key) {
        if found.is_some_and(|found| found < *generation) {
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "could not remove an old share");
                }
            }
        }
    }
    removed
}

/// The object's share files in all stores, with the generation in the name of each.
pub(super) fn share_files(
    stores: &[PathBuf],
    key: &Key,
) -> impl Iterator<Item = (PathBuf, Option<Generation>)> {
    let dir = object_dir(key);
    let dirs = stores
        .iter()
        .map(move |store| store::objects_dir(store).join(&dir));
    dirs.flat_map(|dir| store::files(&dir).unwrap_or_default())
        .map(|(_, path)| {
            let generation = store::generation_of(&path);
            (path, generation)
        })
}
