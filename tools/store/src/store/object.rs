//! The object that a reader gets: the newest put, opened.

use decode_kernel::share::{Generation, Header, Key};
use rustix::process::{Resource, getrlimit};

use super::files::Store;
use super::identity::{Presence, StoreError, presence, refuse_duplicates};
use super::look::OpenShare;
use super::rejected::Rejected;
use super::scan::{Group, Scan, scan};
use crate::error::list;

/// The newest put of an object.
#[derive(Debug)]
pub struct OpenObject {
    /// The header that all its shares agree on; the share number is that of the first of [`OpenObject::shares`].
    pub header: Header,
    /// At least k shares of distinct numbers, sorted by number.
    pub shares: Vec<OpenShare>,
    /// Further copies of them, sorted by number: one may be good where another is bad.
    pub copies: Vec<OpenShare>,
}

/// Why an object cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No store has a file for it, or it was removed.
    #[error("no object {key:?} in any of the {stores} stores")]
    NotFound {
        /// The requested key.
        key: Key,
        /// The number of stores searched.
        stores: usize,
    },
    /// No store that could be asked has a file for it, but so many could not that one of them may.
    #[error(
        "object {key:?}: {away} of {stores} stores are away, and the others don't have it{}",
        list(notes)
    )]
    Away {
        /// The requested key.
        key: Key,
        /// The number of stores that could not be asked.
        away: usize,
        /// The number of all stores.
        stores: usize,
        /// Their problems.
        notes: Vec<String>,
    },
    /// There are shares of the newest put, but too few.
    #[error(
        "object {key:?}: {have} good shares of its newest put {generation}, {need} are needed{}{}",
        if *older { "; an older put can be read with --allow-stale" } else { "" }, list(notes)
    )]
    TooFew {
        /// The requested key.
        key: Key,
        /// Distinct shares found of the newest generation.
        have: usize,
        /// k of that generation.
        need: usize,
        /// The newest generation found.
        generation: Generation,
        /// Whether an older put has enough shares.
        older: bool,
        /// The number of stores that could not be asked, and may have the other shares.
        away: usize,
        /// Problems of files and stores that might have had the other shares.
        notes: Vec<String>,
    },
    /// There are files, but none of them is a share that can be used.
    #[error("object {key:?}: no usable share{}", list(notes))]
    Unusable {
        /// The requested key.
        key: Key,
        /// The number of stores that could not be asked.
        away: usize,
        /// The problem of each file and store.
        notes: Vec<String>,
    },
    /// Its share files could not all be opened, since too many files are open. They are not lost.
    #[error(
        "object {object:?}: too many open files: {shares} of its share files are open, {unopened} could not be opened{}; \
         raise `ulimit -n`",
        limit.map(|limit| format!(", the limit is {limit}")).unwrap_or_default()
    )]
    TooManyOpenFiles {
        /// The requested key, or the object's directory.
        object: String,
        /// Share files that were opened.
        shares: usize,
        /// Files and directories that were not.
        unopened: usize,
        /// The process's limit on descriptors; `None` if it has none.
        limit: Option<u64>,
    },
}

impl OpenError {
    /// Whether it may pass: stores that are away may have what is missing.
    pub fn is_temporary(&self) -> bool {
        match self {
            OpenError::NotFound { .. } => false,
            OpenError::Away { .. } | OpenError::TooManyOpenFiles { .. } => true,
            OpenError::TooFew { away, .. } | OpenError::Unusable { away, .. } => *away > 0,
        }
    }
}

/// Opens the newest put of `key` in `stores`, one store after the other; `stale` also accepts an older one where too few
/// shares of the newest are left.
///
/// Unusable files (wrong length, bad header, another object's) are skipped, each with a warning in the log. Leaves are
/// not verified here.
///
/// # Errors
/// If there is no such object, or too few of its shares.
pub fn open_object(stores: &[Store], key: &Key, stale: bool) -> Result<OpenObject, OpenError> {
    choose(stores, key, stale).map(opened)
}

impl Scan {
    /// Opens the newest put that the looks found, as [`open_object`] does.
    ///
    /// # Errors
    /// As [`open_object`].
    pub fn open(mut self, key: &Key, stale: bool) -> Result<OpenObject, OpenError> {
        pick(&mut self, key, stale).map(opened)
    }

    /// The same, with all files that were opened in vain: closing a file may block, so the caller says where that is
    /// done.
    pub fn open_with_rest(
        mut self,
        key: &Key,
        stale: bool,
    ) -> (Result<OpenObject, OpenError>, Vec<OpenShare>) {
        let object = pick(&mut self, key, stale).map(opened);
        (object, self.into_files())
    }

    /// All files that it has open.
    pub fn into_files(self) -> Vec<OpenShare> {
        let groups = [self.groups, self.undecided, self.removed];
        let groups = groups.into_iter().flatten();
        groups.flat_map(|group| group.shares).collect()
    }

    /// The error if files could not be opened, since too many are open: then nobody knows which shares are lost.
    pub(crate) fn shortage(&self, object: &str) -> Option<OpenError> {
        let groups = [&self.groups, &self.undecided, &self.removed];
        let shares = groups.into_iter().flatten().map(|group| group.shares.len());
        (self.unopened > 0).then(|| OpenError::TooManyOpenFiles {
            object: object.to_owned(),
            shares: shares.sum(),
            unopened: self.unopened,
            limit: getrlimit(Resource::Nofile).current,
        })
    }
}

fn opened(group: Group) -> OpenObject {
    let Group { mut header, .. } = group;
    let mut shares: Vec<OpenShare> = Vec::with_capacity(group.shares.len());
    let mut copies = Vec::new();
    // Sorted by number.
    for share in group.shares {
        match shares.last() {
            Some(last) if last.number == share.number => copies.push(share),
            _ => shares.push(share),
        }
    }
    header.number = shares[0].number;
    OpenObject {
        header,
        shares,
        copies,
    }
}

/// The group that [`open_object`] opens.
pub(crate) fn choose(stores: &[Store], key: &Key, stale: bool) -> Result<Group, OpenError> {
    let mut scan = scan(stores, key);
    // An error lists them itself.
    if scan.shortage(key.as_str()).is_none() && scan.chosen(stale).is_some() {
        for rejected in &scan.rejected {
            tracing::warn!(key = %key, store = rejected.store, "share not used: {rejected}");
        }
    }
    pick(&mut scan, key, stale)
}

fn pick(scan: &mut Scan, key: &Key, stale: bool) -> Result<Group, OpenError> {
    if let Some(error) = scan.shortage(key.as_str()) {
        return Err(error);
    }
    if let Some(chosen) = scan.chosen(stale) {
        return Ok(scan.groups.swap_remove(chosen));
    }
    let (key, stores, away) = (key.clone(), scan.stores, scan.away.len());
    let notes = scan.rejected.iter().map(Rejected::to_string).collect();
    if let Some(newest) = scan.groups.first() {
        return Err(OpenError::TooFew {
            key,
            have: newest.distinct(),
            need: newest.header.geometry.k().into(),
            generation: newest.header.generation,
            older: scan.chosen(true).is_some(),
            away,
            notes,
        });
    }
    // A tombstone is in more stores than there are spare shares, so what it hides is gone for good.
    let removed = scan.tombstone.is_some();
    let away_only = |rejected: &Rejected| scan.away.contains(&rejected.store);
    let unusable = !scan.rejected.iter().all(away_only);
    Err(if !removed && unusable {
        OpenError::Unusable { key, away, notes }
    } else if removed || scan.certain() {
        OpenError::NotFound { key, stores }
    } else {
        OpenError::Away {
            key,
            away,
            stores,
            notes,
        }
    })
}

/// Fails if none is a store that can be read, or if one is given twice. Warns of stores that are away and of
/// those that have no marker.
///
/// # Errors
/// [`StoreError::NoneHere`] with the first store's problem, or [`StoreError::Same`] and the like.
pub fn check_stores(stores: &[Store]) -> Result<(), StoreError> {
    refuse_duplicates(stores)?;
    let mut first = None;
    let mut here = false;
    for store in stores {
        match presence(store) {
            Presence::Marked(_) => here = true,
            Presence::Unmarked(error) => {
                tracing::warn!("{error}");
                here = true;
            }
            Presence::Absent(error) => first = first.or(Some(error)),
        }
    }
    match (here, first) {
        (false, Some(error)) => Err(StoreError::NoneHere(Box::new(error))),
        _ => Ok(()),
    }
}
