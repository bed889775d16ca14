//! What the stores have of one object: each is looked at alone, and the looks are put together.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use decode_kernel::share::{Generation, Header, HeaderError, Key, PAGE_BYTES, object_dir};
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use serde::Serialize;

use super::files::{OpenFile, Store};
use super::identity::{Presence, presence};
use super::names::{self, Found, Kind, objects_dir};
use crate::json;
use crate::open::open_regular;
use crate::parallel;

/// One share of an object, open for reading. Its header was read and its length is right.
#[derive(Debug)]
pub struct OpenShare {
    /// Its number, 0..n.
    pub number: u16,
    /// Index of its store in the list of stores.
    pub store: usize,
    /// Its path.
    pub path: PathBuf,
    /// Open for reading.
    pub file: OpenFile,
}

/// What fills a file that stands for one of a remote store.
pub type Backing = Arc<dyn Any + Send + Sync>;

/// A share file or a store that could not be used, and why.
#[derive(Debug, Serialize)]
pub struct Rejected {
    /// Index of the store in the list of stores.
    pub store: usize,
    /// The file, or the directory that could not be listed.
    #[serde(serialize_with = "json::path")]
    pub path: PathBuf,
    /// The problem.
    #[serde(serialize_with = "json::text")]
    pub reason: RejectReason,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Why a file or store was not used.
#[derive(Debug, thiserror::Error)]
pub enum RejectReason {
    /// It could not be opened, listed or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The store is away: its directory does not exist or is not a store, as a disk that is not mounted; or whoever
    /// looked gave it up.
    #[error("{0}")]
    Away(String),
    /// A directory or special file with the name of a share.
    #[error("not a regular file")]
    NotAFile,
    /// Its header is invalid.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// Too short or too long for its header.
    #[error("the file is {len} bytes long; its header says {expected}")]
    Length {
        /// Bytes.
        len: u64,
        /// Bytes.
        expected: u64,
    },
    /// A share of some other object.
    #[error("a share of another object, {0:?}")]
    OtherObject(Key),
}

impl RejectReason {
    /// Whether this process or the system has too many files open: that says nothing about the file.
    fn is_descriptor_shortage(&self) -> bool {
        let shortage = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        matches!(self, RejectReason::Io(error) if shortage.contains(&error.raw_os_error()))
    }
}

/// A file that a remote store has in an object's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the store, with its directory.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// What tells it from another by that name, as an entity tag.
    pub version: String,
}

/// What one store has of an object.
#[derive(Debug)]
pub struct Look {
    store: usize,
    /// Shares with good headers.
    pub(crate) shares: Vec<(Header, Kind, OpenShare)>,
    /// The newest tombstone.
    pub(crate) tombstone: Option<Generation>,
    /// Puts that marks say are decided.
    decided: Vec<Generation>,
    /// The newest generation in any file's name.
    newest_name: Option<Generation>,
    rejected: Vec<Rejected>,
    /// What an object's directory said just before.
    fingerprint: u64,
    /// Whether the store could be asked.
    pub(crate) here: bool,
    /// What its marker says, if it was read: the fewest shares of any put.
    least_shares: Option<u16>,
}

impl Look {
    /// Stands for a store that was given up: it hung, or was suspended.
    pub fn away(store: usize, root: &Path, reason: String) -> Look {
        Look::rejected(store, root.to_owned(), RejectReason::Away(reason))
    }

    /// A store that has these files of the object.
    fn of_files(store: usize, files: &[(Kind, PathBuf)], fingerprint: u64) -> Look {
        let named = |kind: Option<Kind>| {
            let files = files.iter();
            let files = files.filter(move |(of, _)| kind.is_none_or(|kind| *of == kind));
            files.filter_map(|(_, path)| names::generation_of(path))
        };
        Look {
            store,
            shares: Vec::new(),
            tombstone: named(Some(Kind::Tombstone)).max(),
            decided: named(Some(Kind::Decided)).collect(),
            newest_name: named(None).max(),
            rejected: Vec::new(),
            fingerprint,
            here: true,
            least_shares: None,
        }
    }

    fn rejected(store: usize, path: PathBuf, reason: RejectReason) -> Look {
        Look {
            rejected: vec![Rejected {
                store,
                path,
                reason,
            }],
            here: false,
            ..Look::of_files(store, &[], 0)
        }
    }

    /// What a remote store has of an object, by a listing of the object's directory: `open` opens the file of a share by
    /// its name and reads its header.
    pub fn of_listing(
        store: usize,
        root: &Path,
        listing: &[Listed],
        key: &Key,
        open: impl Fn(&Listed) -> Result<(Header, OpenFile), RejectReason>,
    ) -> Look {
        Look::listed(store, root, listing, open, |header| header.key == *key)
    }

    fn listed(
        store: usize,
        root: &Path,
        listing: &[Listed],
        open: impl Fn(&Listed) -> Result<(Header, OpenFile), RejectReason>,
        wanted: impl Fn(&Header) -> bool,
    ) -> Look {
        let files = listing.iter().filter_map(|listed| {
            let path = root.join(&listed.name);
            Some((Kind::of(&path)?, path))
        });
        let mut files: Vec<_> = files.collect();
        files.sort_by(|a, b| a.1.cmp(&b.1));
        let mut look = Look::of_files(store, &files, Look::fingerprint_of(listing));
        for (kind, path) in files {
            let listed = listing.iter().find(|listed| path.ends_with(&listed.name));
            if let Some(listed) = listed.filter(|_| kind.is_share()) {
                look.add(kind, path, open(listed), &wanted);
            }
        }
        look
    }

    /// The [`fingerprint`] of what was listed.
    pub fn fingerprint_of(listing: &[Listed]) -> u64 {
        let mut listing: Vec<&Listed> = listing
            .iter()
            .filter(|listed| Kind::of(Path::new(&listed.name)).is_some())
            .collect();
        if listing.is_empty() {
            return NOTHING;
        }
        listing.sort_by_key(|listed| &listed.name);
        let mut hasher = DefaultHasher::new();
        for listed in listing {
            (&listed.name, listed.bytes, &listed.version).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Whether the store could be asked; its files may have problems of their own.
    pub fn is_here(&self) -> bool {
        self.here
    }

    /// What could not be used.
    pub fn problems(&self) -> &[Rejected] {
        &self.rejected
    }

    /// The [`fingerprint`] from just before the files were opened.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// Looks for `key` in the directory `root`, the `store`-th of the list of stores. Reads headers only.
pub fn look(store: usize, root: &Path, key: &Key) -> Look {
    look_in(store, &root.into(), &object_dir(key), Some(key), None)
}

/// As [`look`], for one object's directory (`ab/cdef…`) whose key need not be known. Shares whose key does not belong
/// in `dir` are rejected. `known` are the files of a bucket that was listed just before.
pub(crate) fn look_in(
    store: usize,
    root: &Store,
    dir: &str,
    key: Option<&Key>,
    known: Option<&[Listed]>,
) -> Look {
    let mut look = look_once(store, root, dir, key, known);
    // A put or repair may have replaced files between listing and opening them.
    for _ in 0..3 {
        let gone = |rejected: &Rejected| match &rejected.reason {
            RejectReason::Io(error) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        };
        if !look.rejected.iter().any(gone) {
            break;
        }
        look = look_once(store, root, dir, key, None);
    }
    look
}

/// The number of files opened before their headers are read. This covers all share files of most objects.
const OPENED_TOGETHER: usize = 64;

fn look_once(
    store: usize,
    root: &Store,
    dir: &str,
    key: Option<&Key>,
    known: Option<&[Listed]>,
) -> Look {
    let wanted = |header: &Header| match key {
        Some(key) => header.key == *key,
        None => object_dir(&header.key) == dir,
    };
    match root {
        Store::Directory(path) => look_in_directory(store, path, dir, wanted),
        Store::Bucket(bucket) => match known.map_or_else(
            || bucket.files(dir).map(Cow::Owned),
            |known| Ok(Cow::Borrowed(known)),
        ) {
            Ok(listing) if listing.is_empty() => look_at_nothing(store, root),
            Ok(listing) => {
                let open = |listed: &Listed| {
                    let (header, file) = bucket.open_share(listed)?;
                    Ok((header, OpenFile::Bucket(file)))
                };
                Look::listed(store, bucket.path(), &listing, open, wanted)
            }
            // Nobody knows what it has.
            Err(error) => Look::away(store, bucket.path(), error.to_string()),
        },
    }
}

/// Nothing of the object is there, or the store is away.
fn look_at_nothing(store: usize, root: &Store) -> Look {
    let least_shares = match presence(root) {
        Presence::Marked(marker) => marker.least_shares,
        Presence::Unmarked(_) => None,
        Presence::Absent(error) => {
            let reason = RejectReason::Away(error.reason());
            return Look::rejected(store, root.path().to_owned(), reason);
        }
    };
    Look {
        least_shares,
        ..Look::of_files(store, &[], NOTHING)
    }
}

fn look_in_directory(
    store: usize,
    root: &Path,
    dir: &str,
    wanted: impl Fn(&Header) -> bool,
) -> Look {
    let path = objects_dir(root).join(dir);
    let (files, fingerprint) = match list(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return look_at_nothing(store, &root.into());
        }
        Err(error) => return Look::rejected(store, path, error.into()),
    };
    let mut look = Look::of_files(store, &files, fingerprint);
    let mut shares = files
        .into_iter()
        .filter(|(kind, _)| kind.is_share())
        .peekable();
    while shares.peek().is_some() {
        // Several files are opened before the first header is read, so that their disks seek at the same time.
        let opened: Vec<_> = shares
            .by_ref()
            .take(OPENED_TOGETHER)
            .map(|(kind, path)| (kind, open_file(&path), path))
            .collect();
        for (kind, file, path) in opened {
            let read = file.and_then(|file| Ok((read_header(&file)?, OpenFile::Local(file))));
            look.add(kind, path, read, &wanted);
        }
    }
    look
}

impl Look {
    fn add(
        &mut self,
        kind: Kind,
        path: PathBuf,
        share: Result<(Header, OpenFile), RejectReason>,
        wanted: impl Fn(&Header) -> bool,
    ) {
        let store = self.store;
        let reason = match share {
            Ok((header, file)) if wanted(&header) => {
                // A mark beside it is worth as much as its final name.
                let kind = match self.decided.contains(&header.generation) {
                    true => Kind::Share,
                    false => kind,
                };
                let share = OpenShare {
                    number: header.number,
                    store,
                    path,
                    file,
                };
                self.shares.push((header, kind, share));
                return;
            }
            Ok((header, _)) => RejectReason::OtherObject(header.key),
            Err(reason) => reason,
        };
        self.rejected.push(Rejected {
            store,
            path,
            reason,
        });
    }
}

/// The fingerprint where nothing is.
const NOTHING: u64 = 1;

/// A number that changes when the files that a store has of an object change. It covers name, inode, modification time
/// and length of each. Cheap: it lists a directory and opens nothing. Not stable between releases, so never store it.
///
/// # Errors
/// If the store can't be asked. A store without the object is no error.
pub fn fingerprint(root: &Path, key: &Key) -> io::Result<u64> {
    match list(&objects_dir(root).join(object_dir(key))) {
        Ok((_, fingerprint)) => Ok(fingerprint),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match presence(&root.into()) {
            Presence::Absent(error) => Err(io::Error::other(error)),
            _ => Ok(NOTHING),
        },
        Err(error) => Err(error),
    }
}

/// The files of an object's directory that are not strays, and their fingerprint.
fn list(dir: &Path) -> io::Result<(Vec<(Kind, PathBuf)>, u64)> {
    let files = names::files(dir)?;
    let mut hasher = DefaultHasher::new();
    for (_, path) in &files {
        path.file_name().hash(&mut hasher);
        match fs::symlink_metadata(path) {
            Ok(m) => (m.ino(), m.mtime(), m.mtime_nsec(), m.len()).hash(&mut hasher),
            Err(error) => error.raw_os_error().hash(&mut hasher),
        }
    }
    Ok((files, hasher.finish()))
}

/// All shares found of one put.
#[derive(Debug)]
pub(crate) struct Group {
    /// The header that they agree on; the share number is that of the first file found.
    pub(crate) header: Header,
    /// All files found, sorted by number. A number may occur twice; the copy in the store at that position comes first.
    pub(crate) shares: Vec<OpenShare>,
    /// Whether one of them is under its final name, or a mark says so: then all were durable, and the put counts.
    pub(crate) decided: bool,
    /// The files that are still under the name of an undecided put, each with the index of its store.
    pub(crate) pending: Vec<(usize, PathBuf)>,
}

impl Group {
    /// The number of different shares.
    pub(crate) fn distinct(&self) -> usize {
        self.shares
            .iter()
            .map(|share| share.number)
            .collect::<HashSet<_>>()
            .len()
    }

    /// Whether the object can be read from this group, damaged leaves aside.
    pub(crate) fn readable(&self) -> bool {
        self.distinct() >= usize::from(self.header.geometry.k())
    }

    /// Whether every share is there, damaged leaves aside.
    pub(crate) fn complete(&self) -> bool {
        self.distinct() == usize::from(self.header.geometry.n())
    }
}

/// Looks at all stores, put together.
#[derive(Debug, Default)]
pub struct Scan {
    /// Groups of decided puts that no tombstone covers, the newest first.
    pub(crate) groups: Vec<Group>,
    /// Groups of puts that are not decided: they run, or were interrupted.
    pub(crate) undecided: Vec<Group>,
    /// Groups that a tombstone covers: an interrupted removal, or a store that was away then.
    pub(crate) removed: Vec<Group>,
    /// The newest tombstone.
    pub(crate) tombstone: Option<Generation>,
    /// The newest generation in any file's name.
    newest_name: Option<Generation>,
    /// Files and stores that could not be used; not those that a tombstone covers.
    pub(crate) rejected: Vec<Rejected>,
    /// The stores that could not be asked.
    pub(crate) away: Vec<usize>,
    /// The number of all stores.
    pub(crate) stores: usize,
    /// Files and directories that were not opened, since too many were open. What they hold is not known.
    pub(crate) unopened: usize,
    /// The fingerprints of all looks, in order.
    fingerprints: Vec<u64>,
    /// The fewest shares of any put, as far as the stores that have nothing of the object tell.
    least_shares: Option<u16>,
}

impl Scan {
    /// Puts looks together.
    pub fn new(looks: Vec<Look>) -> Scan {
        let mut scan = Scan {
            stores: looks.len(),
            ..Scan::default()
        };
        let mut groups: Vec<Group> = Vec::new();
        let mut decided: Vec<Generation> = Vec::new();
        for look in looks {
            scan.away.extend((!look.here).then_some(look.store));
            scan.fingerprints.push(look.fingerprint);
            scan.tombstone = scan.tombstone.max(look.tombstone);
            scan.newest_name = scan.newest_name.max(look.newest_name);
            decided.extend(look.decided);
            scan.rejected.extend(look.rejected);
            scan.least_shares = match (scan.least_shares, look.least_shares) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            for (header, kind, share) in look.shares {
                let same = |group: &&mut Group| group.header.same_object(&header);
                let group = match groups.iter_mut().find(same) {
                    Some(group) => group,
                    None => {
                        groups.push(Group {
                            header,
                            shares: Vec::new(),
                            decided: false,
                            pending: Vec::new(),
                        });
                        groups.last_mut().expect("one was pushed")
                    }
                };
                match kind {
                    Kind::Pending => group.pending.push((share.store, share.path.clone())),
                    _ => group.decided = true,
                }
                group.shares.push(share);
            }
        }
        for group in &mut groups {
            group.decided |= decided.contains(&group.header.generation);
        }
        if let Some(tombstone) = scan.tombstone {
            let covered = |path: &Path| {
                names::generation_of(path).is_some_and(|generation| generation <= tombstone)
            };
            scan.rejected.retain(|rejected| !covered(&rejected.path));
        }
        let found = scan.rejected.len();
        scan.rejected
            .retain(|rejected| !rejected.reason.is_descriptor_shortage());
        scan.unopened = found - scan.rejected.len();
        scan.rejected.sort_by_key(|rejected| rejected.store);
        for group in &mut groups {
            group
                .shares
                .sort_by_key(|s| (s.number, s.store != usize::from(s.number), s.store));
        }
        // Two groups of one generation differ in another field. The group with more shares is right.
        groups.sort_by_key(|group| {
            std::cmp::Reverse((group.header.generation, group.decided, group.distinct()))
        });
        for group in groups {
            if scan
                .tombstone
                .is_some_and(|tombstone| group.header.generation <= tombstone)
            {
                scan.removed.push(group);
            } else if group.decided {
                scan.groups.push(group);
            } else {
                scan.undecided.push(group);
            }
        }
        scan
    }

    /// What could not be used.
    pub fn problems(&self) -> &[Rejected] {
        &self.rejected
    }

    /// What changes when the object's files change, in any store.
    pub(crate) fn fingerprint(&self) -> &[u64] {
        &self.fingerprints
    }

    /// Whether there is nothing of the object: no file, and no problem of one.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
            && self.undecided.is_empty()
            && self.removed.is_empty()
            && self.tombstone.is_none()
            && self.rejected.is_empty()
            && self.unopened == 0
    }

    /// Index in [`Scan::groups`] of the group that a reader uses: the newest, if it has k shares. An older one never
    /// takes the place of a put that is decided, unless `stale` is allowed.
    pub(crate) fn chosen(&self, stale: bool) -> Option<usize> {
        let candidates = if stale {
            self.groups.len()
        } else {
            self.newest()
        };
        self.groups[..candidates].iter().position(Group::readable)
    }

    /// The number of groups of the newest generation: more than one if headers of it differ.
    fn newest(&self) -> usize {
        let Some(newest) = self.groups.first() else {
            return 0;
        };
        let same = |group: &&Group| group.header.generation == newest.header.generation;
        self.groups.iter().take_while(same).count()
    }

    /// Whether the looks may have been taken while a put replaced another: nothing can be read, and there are several.
    pub fn torn(&self) -> bool {
        self.chosen(false).is_none()
            && self.groups.len() + self.undecided.len() + self.removed.len() > 1
    }

    /// Whether an object without any file is known not to exist. It has shares in at least as many stores as the
    /// narrowest put, so one would show unless so many are away. Where the stores don't tell how many that is, most of
    /// them must be here.
    pub(crate) fn certain(&self) -> bool {
        match self.least_shares {
            _ if self.away.is_empty() => true,
            Some(least) => self.away.len() < usize::from(least),
            None => self.away.len() * 2 < self.stores,
        }
    }

    /// The object's name, if a header tells it.
    pub(crate) fn key(&self) -> Option<&Key> {
        let groups = [&self.groups, &self.undecided, &self.removed];
        groups
            .into_iter()
            .flatten()
            .next()
            .map(|group| &group.header.key)
    }

    /// The newest generation there is of the object, of any kind.
    pub(crate) fn newest_generation(&self) -> Option<Generation> {
        let groups = [&self.groups, &self.undecided, &self.removed];
        let headers = groups.into_iter().flatten();
        headers
            .map(|group| group.header.generation)
            .chain(self.newest_name)
            .max()
    }

    /// The latest time of creation in any header, in seconds since 1970.
    pub(crate) fn latest_created(&self) -> Option<u64> {
        let groups = [&self.groups, &self.undecided, &self.removed];
        let headers = groups.into_iter().flatten();
        headers.map(|group| group.header.created).max()
    }

    /// Drops the problems of stores that are away, which are told once and not for each object.
    pub(crate) fn forget_stores_away(&mut self) {
        self.rejected
            .retain(|rejected| !matches!(rejected.reason, RejectReason::Away(_)));
    }
}

/// Looks for all shares of `key` in all `stores`. Reads headers only.
pub(crate) fn scan(stores: &[Store], key: &Key) -> Scan {
    scan_dir(stores, &object_dir(key), Some(key))
}

/// As [`scan`], for one object's directory (`ab/cdef…`) whose key need not be known. Shares whose key does not belong
/// in `dir` are rejected, so all groups have the same key.
pub(crate) fn scan_dir(stores: &[Store], dir: &str, key: Option<&Key>) -> Scan {
    scan_with(stores, dir, key, |_| None)
}

/// As [`scan_dir`], of an object that was found by listing: what is known of buckets is not asked again.
pub(crate) fn scan_found(stores: &[Store], found: &Found) -> Scan {
    let known: Vec<_> = (0..stores.len())
        .map(|store| found.files_in(store))
        .collect();
    scan_with(stores, &found.dir, None, |store| known[store])
}

fn scan_with<'a>(
    stores: &[Store],
    dir: &str,
    key: Option<&Key>,
    known: impl Fn(usize) -> Option<&'a [Listed]> + Sync,
) -> Scan {
    let looks = |afresh: bool| {
        let stores_by_index = stores.iter().enumerate();
        let look = |(index, store)| {
            let known = known(index).filter(|_| !afresh);
            look_in(index, store, dir, key, known)
        };
        // Buckets are asked side by side: each takes its time to answer.
        Scan::new(match stores.iter().any(Store::is_bucket) {
            true => parallel::each(stores_by_index.collect(), look),
            false => stores_by_index.map(look).collect(),
        })
    };
    let mut scan = looks(false);
    for _ in 0..3 {
        if !scan.torn() {
            break;
        }
        scan = looks(true);
    }
    tracing::debug!(
        object = key.or(scan.key()).map_or(dir, Key::as_str),
        shares = scan
            .groups
            .iter()
            .map(|group| group.shares.len())
            .sum::<usize>(),
        stores_away = scan.away.len(),
        "looked at the headers in {} stores",
        stores.len()
    );
    scan
}

/// The names of all objects in any of `stores` that are not removed, in the order of their hashes. Those of which no
/// header can be read are left out.
pub(crate) fn keys(stores: &[Store]) -> impl Iterator<Item = Key> + '_ {
    names::objects(stores).filter_map(move |found| {
        let scan = scan_found(stores, &found);
        let there = !scan.groups.is_empty() || !scan.undecided.is_empty();
        scan.key().filter(|_| there).cloned()
    })
}

/// Opens a share file. Its header must be valid, and its length must match the header.
pub(crate) fn open_share(path: &Path) -> Result<(Header, File), RejectReason> {
    let file = open_file(path)?;
    Ok((read_header(&file)?, file))
}

/// Opens a file that may be a share, and asks for its header page without waiting.
fn open_file(path: &Path) -> Result<File, RejectReason> {
    let file = open_regular(path)?.ok_or(RejectReason::NotAFile)?;
    // On a file system that ignores the advice, the page is read when it is needed.
    let _ = fadvise(
        &file,
        0,
        NonZeroU64::new(PAGE_BYTES as u64),
        Advice::WillNeed,
    );
    Ok(file)
}

/// Reads a share's header. The file's length must match it.
///
/// # Errors
/// If it can't be read, or is none.
pub fn read_header(file: &File) -> Result<Header, RejectReason> {
    let len = file.metadata()?.len();
    let mut page = [0; PAGE_BYTES];
    let have = page.len().min(usize::try_from(len).unwrap_or(usize::MAX));
    file.read_exact_at(&mut page[..have], 0)?;
    let header = Header::decode(&page[..have])?;
    let expected = header.geometry.share_file_bytes();
    if len != expected {
        return Err(RejectReason::Length { len, expected });
    }
    Ok(header)
}
