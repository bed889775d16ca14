//! The end of a put: its shares become the object, all together.
//!
//! Two phases. First every share is renamed to its `.pending` name and its directory synced, so that all are durable where
//! they belong. Then they are renamed to their final names. The first of these renames decides: from then on readers
//! count every share of the put, under either name, so the object changes in one step. A crash before leaves the old
//! object, one after it the new. Once all are renamed and synced, every share says by its name that the put was
//! complete. So as long as one of them is left, no reader takes an older put for the newest.
//!
//! In a bucket no file can be renamed. There a share keeps its `.pending` name, and what decides is a mark beside it.

use std::io;
use std::path::{Path, PathBuf};

use decode_kernel::share::{Generation, Header, Key, object_dir};

use crate::error::{During, FileError};
use crate::new_file::{NewFile, Undecided};
use crate::parallel;
use crate::store::{self, Kind, Store};

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
    pub(super) file: NewFile,
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
    let any = ready.first().map(|share| share.file.path().to_owned());
    let any = any.unwrap_or_default();
    let mut after = |step| after(step).during("continue the put in", &any);
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
    let made = parallel::each(ready, |mut share| (share.file.prepare(), share));
    for (made, mut share) in made {
        let placed = made
            .and_then(|()| share.file.place())
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
    let synced = parallel::each(shares, |share| (share.file.sync_place(), share));
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

    let mut decided: Vec<Ready> = Vec::with_capacity(prepared.len());
    let mut unsettled = Vec::new();
    // A store did not answer when it was told that the put is decided.
    let mut in_doubt: Vec<Ready> = Vec::new();
    for mut share in prepared {
        match share.file.decide() {
            Ok(()) => {}
            Err(Undecided::No(error))
                if error.cause.kind() == io::ErrorKind::NotFound
                    && newer_in(share.file.path(), header) =>
            {
                // A newer put or a removal came first, and took this share for one of an older put.
            }
            Err(Undecided::Unknown(error)) if decided.is_empty() => {
                unsettled.push(error);
                in_doubt.push(share);
                continue;
            }
            Err(Undecided::No(error)) if decided.is_empty() => {
                left -= 1;
                if in_doubt.is_empty() || left >= least {
                    fail(share, error, left)?;
                } else {
                    // What is in doubt may be the decision, so nothing is taken back.
                    unsettled.push(error);
                    in_doubt.push(share);
                }
                continue;
            }
            Err(Undecided::No(error) | Undecided::Unknown(error)) => unsettled.push(error),
        }
        let number = share.number;
        decided.push(share);
        unsettled.extend(after(Step::Decided(number)).err());
    }
    if decided.is_empty() {
        // Readers may see the put, or not: whatever is there stays, and a repair settles it.
        in_doubt.into_iter().for_each(|share| share.file.keep());
        let path = any;
        let cause = io::Error::other(
            "no store answered when it was told that the put is decided: it may be stored or not, and what readers are \
             told is right either way; put it again",
        );
        let action = "settle the put of";
        return Err(FileError {
            action,
            path,
            cause,
        });
    }
    decided.append(&mut in_doubt);
    decided.sort_by_key(|share| share.number);
    let synced = parallel::each(decided, |share| (share.file.sync_place(), share));
    let mut committed = Committed {
        shares: Vec::with_capacity(synced.len()),
        failed,
        unsettled,
    };
    for (synced, share) in synced {
        committed.unsettled.extend(synced.err());
        let path = share.file.path().to_owned();
        share.file.keep();
        tracing::debug!(share = share.number, path = %path.display(), "written");
        committed.shares.push((share.number, share.store, path));
    }
    committed.unsettled.extend(after(Step::Synced).err());
    Ok(committed)
}

/// Whether the directory of a file of the object has one of a generation newer than the header's.
fn newer_in(file: &Path, header: &Header) -> bool {
    let dir = file.parent().unwrap_or(Path::new("/"));
    let files = store::files(dir).unwrap_or_default();
    files.iter().any(|(kind, path)| {
        let newer = |generation| generation > header.generation;
        *kind != Kind::Pending && store::generation_of(path).is_some_and(newer)
    })
}

/// Removes the files of the object that are older than `generation`, and returns their number. Files that cannot be
/// removed are logged. They do no harm, and a repair tries again.
pub(crate) fn remove_older(stores: &[Store], key: &Key, generation: &Generation) -> usize {
    let dir = object_dir(key);
    let remove = |store: &Store| {
        let mut removed = 0;
        for (kind, path) in store.files(&dir).unwrap_or_default() {
            if store::generation_of(&path).is_none_or(|found| found >= *generation) {
                continue;
            }
            match store.remove(&path) {
                Ok(()) => {
                    tracing::debug!(path = %path.display(), "removed a file of an older put");
                    removed += usize::from(kind != Kind::Decided);
                }
                // Another put or repair was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "could not remove an old file");
                }
            }
        }
        removed
    };
    parallel::each(stores.iter().collect(), remove)
        .into_iter()
        .sum()
}
