//! The end of a put: its shares become the object, all together.
//!
//! Two phases. First every share is renamed to its `.pending` name and its directory synced, so that all are durable where
//! they belong. Then they are renamed to their final names. The first of these renames decides: from then on readers
//! count every share of the put, under either name, so the object changes in one step. A crash before leaves the old
//! object, one after it the new. Once all are renamed and synced, every share says by its name that the put was
//! complete. So as long as one of them is left, no reader takes an older put for the newest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use decode_kernel::share::{Generation, Header, Key, object_dir};

use crate::error::{During, FileError};
use crate::parallel;
use crate::store::{self, Kind};
use crate::temp::{TempFile, create_dir, sync_dir};

/// A moment in a put at which the disks are in a new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All shares are written and synced, under temporary names.
    Written,
    /// This share has its pending name.
    Pending(u16),
    /// All shares have their pending names, and the directories are synced.
    Prepared,
    /// This share has its final name. The first decides.
    Decided(u16),
    /// All shares have their final names, and the directories are synced.
    Synced,
}

/// A share that is written and synced.
pub(super) struct Ready {
    pub(super) number: u16,
    /// Index of its store in the list of stores.
    pub(super) store: usize,
    /// The store's directory.
    pub(super) root: PathBuf,
    pub(super) temp: TempFile,
}

/// What a commit did.
#[derive(Debug)]
pub(super) struct Committed {
    /// Shares with their stores and paths, by number.
    pub(super) shares: Vec<(u16, usize, PathBuf)>,
    /// Stores that failed before the put was decided, so that their shares are missing.
    pub(super) failed: Vec<(u16, usize, FileError)>,
    /// What failed after the put was decided. The shares are there; a repair does what is left.
    pub(super) unsettled: Vec<FileError>,
}

/// Makes the shares the object, if at least `least` of them can be placed. Calls `after` at each step; an error from it
/// acts like the failure of that share's store, or of all of them.
///
/// # Errors
/// If fewer can be placed. Then all are removed again, and the object is as it was.
pub(super) fn commit(
    header: &Header,
    ready: Vec<Ready>,
    least: usize,
    after: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<Committed, FileError> {
    let dir = object_dir(&header.key);
    let dir_of = |share: &Ready| store::objects_dir(&share.root).join(&dir);
    let any = ready.first().map(&dir_of).unwrap_or_default();
    let mut after = |step| after(step).during("continue the put in", &any);
    let (pending, last) = (
        Kind::Pending.file_name(&header.generation),
        Kind::Share.file_name(&header.generation),
    );
    after(Step::Written)?;

    let mut failed = Vec::new();
    let mut shares = Vec::with_capacity(ready.len());
    let mut fail = |share: Ready, error: FileError, left: usize| {
        if left < least {
            return Err(error);
        }
        failed.push((share.number, share.store, error));
        Ok(())
    };
    let mut left = ready.len();
    let made = parallel::each(ready, |share| (create_dir(&dir_of(&share)), share));
    for (made, mut share) in made {
        let dir = dir_of(&share);
        let placed = made
            .and_then(|()| share.temp.rename(&dir.join(&pending)))
            .and_then(|()| after(Step::Pending(share.number)));
        match placed {
            Ok(()) => shares.push(share),
            Err(error) => {
                left -= 1;
                fail(share, error, left)?;
            }
        }
    }
    let mut prepared = Vec::with_capacity(shares.len());
    let synced = parallel::each(shares, |share| (sync_dir(&dir_of(&share)), share));
    for (synced, share) in synced {
        match synced {
            Ok(()) => prepared.push(share),
            Err(error) => {
                left -= 1;
                fail(share, error, left)?;
            }
        }
    }
    after(Step::Prepared)?;

    let mut committed = Committed {
        shares: Vec::with_capacity(prepared.len()),
        failed: Vec::new(),
        unsettled: Vec::new(),
    };
    for mut share in prepared {
        let dir = dir_of(&share);
        let path = dir.join(&last);
        match share.temp.rename(&path) {
            Ok(()) => {}
            Err(error)
                if error.cause.kind() == io::ErrorKind::NotFound && newer_in(&dir, header) =>
            {
                // A newer put or a removal came first, and took this share for one of an older put.
            }
            Err(error) if committed.shares.is_empty() => {
                left -= 1;
                fail(share, error, left)?;
                continue;
            }
            Err(error) => committed.unsettled.push(error),
        }
        let Ready {
            number,
            store,
            temp,
            ..
        } = share;
        let path = temp.path().to_owned();
        temp.keep();
        committed.shares.push((number, store, path));
        let stopped = after(Step::Decided(number));
        committed.unsettled.extend(stopped.err());
    }
    let paths = committed.shares.iter().map(|(.., path)| path).collect();
    let synced = parallel::each(paths, |path: &PathBuf| {
        sync_dir(path.parent().unwrap_or(Path::new("/")))
    });
    let failed_to_sync = synced.into_iter().filter_map(Result::err);
    committed.unsettled.extend(failed_to_sync);
    committed.unsettled.extend(after(Step::Synced).err());
    committed.failed = failed;
    Ok(committed)
}

/// Whether the object's directory has a file of a generation newer than the header's.
fn newer_in(dir: &Path, header: &Header) -> bool {
    let files = store::files(dir).unwrap_or_default();
    files.iter().any(|(kind, path)| {
        let newer = |generation| generation > header.generation;
        *kind != Kind::Pending && store::generation_of(path).is_some_and(newer)
    })
}

/// Removes the files of the object that are older than `generation`, and returns their number. Files that cannot be
/// removed are logged. They do no harm, and a repair tries again.
pub(crate) fn remove_older(stores: &[PathBuf], key: &Key, generation: &Generation) -> usize {
    let mut removed = 0;
    for path in files_of(stores, key) {
        if store::generation_of(&path).is_some_and(|found| found < *generation) {
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                // Another put or repair was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "could not remove an old file");
                }
            }
        }
    }
    removed
}

/// The object's files in all stores.
fn files_of(stores: &[PathBuf], key: &Key) -> impl Iterator<Item = PathBuf> {
    let dir = object_dir(key);
    let dirs = stores
        .iter()
        .map(move |store| store::objects_dir(store).join(&dir));
    dirs.flat_map(|dir| store::files(&dir).unwrap_or_default())
        .map(|(_, path)| path)
}
