//! Directory stores: where an object's share files are, and which of them belong together.
//!
//! ```text
//! <store>/objects/<ab>/<cdef…>/<generation>.share   ab, cdef…: hex of the key's SHA-256
//! <store>/tmp/…                                     files being written, in the same filesystem
//! ```
//!
//! A reader lists the object's directory in every store, reads the headers, and groups the files that are shares of the
//! same put ([`scan`]). It uses the newest group with k distinct numbers ([`open_object`]). Headers decide, file names
//! do not, so that files may be copied by hand. Missing and unreadable stores count as lost shares: they are reported,
//! and reading continues.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use decode_kernel::share::{Generation, Header, HeaderError, Key, PAGE_BYTES, object_dir};
use rustix::fs::{Advice, fadvise};

use crate::open::open_regular;

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
    pub file: File,
}

/// The newest readable put of an object.
#[derive(Debug)]
pub struct OpenObject {
    /// The header that all its shares agree on; the share number is that of the first of [`OpenObject::shares`].
    pub header: Header,
    /// At least k shares of distinct numbers, sorted by number.
    pub shares: Vec<OpenShare>,
    /// The [`fingerprint`] from just before the object was opened.
    pub fingerprint: u64,
}

/// Why an object cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No store has a file for it.
    #[error("no object {key:?} in any of the {stores} stores")]
    NotFound {
        /// The requested key.
        key: Key,
        /// The number of stores searched.
        stores: usize,
    },
    /// There are shares, but no put has enough of them.
    #[error(
        "object {key:?}: {have} good shares of its newest put {generation}, {need} are needed{}",
        list(notes)
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
        /// Problems of files and stores that might have had the other shares.
        notes: Vec<String>,
    },
    /// There are files, but none of them is a share that can be used; or no store could be read.
    #[error("object {key:?}: no usable share{}", list(notes))]
    Unusable {
        /// The requested key.
        key: Key,
        /// The problem of each file and store.
        notes: Vec<String>,
    },
}

/// A share file or a store that could not be used, and why.
#[derive(Debug)]
pub struct Rejected {
    /// Index of the store in the list of stores.
    pub store: usize,
    /// The file, or the directory that could not be listed.
    pub path: PathBuf,
    /// The problem.
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
    /// The store's directory does not exist: a lost or unmounted disk.
    #[error("the store is missing")]
    StoreMissing,
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

/// All shares found of one put.
#[derive(Debug)]
pub(crate) struct Group {
    /// The header that they agree on; the share number is that of the first file found.
    pub(crate) header: Header,
    /// All files found, sorted by number. A number may occur twice; the copy in the store at that position comes first.
    pub(crate) shares: Vec<OpenShare>,
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

/// The result of one search of the stores for one object.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Groups, the newest put first.
    pub(crate) groups: Vec<Group>,
    /// Files and stores that could not be used.
    pub(crate) rejected: Vec<Rejected>,
}

impl Scan {
    /// Index in [`Scan::groups`] of the group that a reader uses: the newest with k shares.
    pub(crate) fn chosen(&self) -> Option<usize> {
        self.groups.iter().position(Group::readable)
    }

    /// Adds a file: to its group if it is a `wanted` share, else to the rejected files.
    fn add(
        &mut self,
        store: usize,
        path: PathBuf,
        share: Result<(Header, File), RejectReason>,
        wanted: impl Fn(&Header) -> bool,
    ) {
        let reason = match share {
            Ok((header, file)) if wanted(&header) => {
                let share = OpenShare {
                    number: header.number,
                    store,
                    path,
                    file,
                };
                let mut groups = self.groups.iter_mut();
                match groups.find(|group| group.header.same_object(&header)) {
                    Some(group) => group.shares.push(share),
                    None => self.groups.push(Group {
                        header,
                        shares: vec![share],
                    }),
                }
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

/// Opens the newest put of `key` that has k distinct shares in `stores`.
///
/// Unusable files (wrong length, bad header, another object's) are skipped, each with a warning in the log. Leaves are
/// not verified here.
pub fn open_object(stores: &[PathBuf], key: &Key) -> Result<OpenObject, OpenError> {
    let fingerprint = fingerprint(stores, key);
    let Group {
        mut header,
        mut shares,
    } = choose(stores, key)?;
    shares.dedup_by_key(|share| share.number);
    header.number = shares[0].number;
    Ok(OpenObject {
        header,
        shares,
        fingerprint,
    })
}

/// The group that [`open_object`] opens, including second copies of shares.
pub(crate) fn choose(stores: &[PathBuf], key: &Key) -> Result<Group, OpenError> {
    let mut scan = scan(stores, key);
    for rejected in &scan.rejected {
        tracing::warn!(key = %key, store = rejected.store, "share not used: {rejected}");
    }
    if let Some(chosen) = scan.chosen() {
        return Ok(scan.groups.swap_remove(chosen));
    }
    let unusable = |rejected: &Rejected| !matches!(rejected.reason, RejectReason::StoreMissing);
    let nothing_there = scan.groups.is_empty() && !scan.rejected.iter().any(unusable);
    // One missing store among several is a lost disk. If all are missing, a mistyped path is more likely.
    if nothing_there && scan.rejected.len() < stores.len() {
        return Err(OpenError::NotFound {
            key: key.clone(),
            stores: stores.len(),
        });
    }
    let notes = scan.rejected.iter().map(Rejected::to_string).collect();
    Err(match scan.groups.first() {
        Some(newest) => OpenError::TooFew {
            key: key.clone(),
            have: newest.distinct(),
            need: newest.header.geometry.k().into(),
            generation: newest.header.generation,
            notes,
        },
        None => OpenError::Unusable {
            key: key.clone(),
            notes,
        },
    })
}

/// A number that changes when the object's share files change. It covers store, name, inode, modification time and
/// length of each file. Cheap: it lists directories and opens nothing. Not stable between releases, so never store it.
pub fn fingerprint(stores: &[PathBuf], key: &Key) -> u64 {
    let dir = object_dir(key);
    let mut hasher = DefaultHasher::new();
    for (store, root) in stores.iter().enumerate() {
        let mut files: Vec<_> = match fs::read_dir(objects_dir(root).join(&dir)) {
            Ok(entries) => entries
                .flatten()
                .filter(|entry| is_share_name(&entry.path()))
                .collect(),
            Err(error) => {
                (store, error.raw_os_error()).hash(&mut hasher);
                continue;
            }
        };
        files.sort_by_key(|entry| entry.file_name());
        for entry in files {
            (store, entry.file_name()).hash(&mut hasher);
            match entry.metadata() {
                Ok(m) => (m.ino(), m.mtime(), m.mtime_nsec(), m.len()).hash(&mut hasher),
                Err(error) => error.raw_os_error().hash(&mut hasher),
            }
        }
    }
    hasher.finish()
}

/// The number of files opened before their headers are read. This covers all share files of most objects.
const OPENED_TOGETHER: usize = 64;

/// Finds all shares of `key` in all `stores`. Reads headers only.
pub(crate) fn scan(stores: &[PathBuf], key: &Key) -> Scan {
    let mut scan = scan_dir(stores, &object_dir(key), Some(key));
    // A put or repair may have replaced files between listing and opening them.
    for _ in 0..3 {
        let gone = |rejected: &Rejected| match &rejected.reason {
            RejectReason::Io(error) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        };
        if !scan.rejected.iter().any(gone) {
            break;
        }
        scan = scan_dir(stores, &object_dir(key), Some(key));
    }
    scan
}

/// As [`scan`], for one object's directory (`ab/cdef…`) whose key need not be known. Shares whose key does not belong
/// in `dir` are rejected, so all groups have the same key.
pub(crate) fn scan_dir(stores: &[PathBuf], dir: &str, key: Option<&Key>) -> Scan {
    let mut scan = Scan::default();
    let mut found = Vec::new();
    for (store, root) in stores.iter().enumerate() {
        let path = objects_dir(root).join(dir);
        let mut reject = |path, reason| {
            scan.rejected.push(Rejected {
                store,
                path,
                reason,
            })
        };
        let paths = match share_paths(&path) {
            Ok(paths) => paths,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !root.is_dir() {
                    reject(root.clone(), RejectReason::StoreMissing);
                }
                continue;
            }
            Err(error) => {
                reject(path, error.into());
                continue;
            }
        };
        found.extend(paths.into_iter().map(|path| (store, path)));
    }
    let mut found = found.into_iter().peekable();
    while found.peek().is_some() {
        // Several files are opened before the first header is read, so that their disks seek at the same time.
        let opened: Vec<_> = found
            .by_ref()
            .take(OPENED_TOGETHER)
            .map(|(store, path)| (store, open_file(&path), path))
            .collect();
        for (store, file, path) in opened {
            let read = file.and_then(|file| Ok((read_header(&file)?, file)));
            scan.add(store, path, read, |header| match key {
                Some(key) => header.key == *key,
                None => object_dir(&header.key) == dir,
            });
        }
    }
    scan.rejected.sort_by_key(|rejected| rejected.store);
    for group in &mut scan.groups {
        group
            .shares
            .sort_by_key(|s| (s.number, s.store != usize::from(s.number), s.store));
    }
    // Two groups of one generation differ in another field. The group with more shares is right.
    scan.groups
        .sort_by_key(|group| std::cmp::Reverse((group.header.generation, group.distinct())));
    scan
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
fn read_header(file: &File) -> Result<Header, RejectReason> {
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

/// The directories (`ab/cdef…`) of all objects in any of `stores`, each once, in order. Holds the names of one `ab`
/// directory at a time. Skips stores that cannot be read; see [`check_stores`].
pub(crate) fn object_dirs(stores: &[PathBuf]) -> impl Iterator<Item = String> + '_ {
    (0..=255u8).flat_map(move |first| {
        let first = format!("{first:02x}");
        let mut names = BTreeSet::new();
        for store in stores {
            let entries = fs::read_dir(objects_dir(store).join(&first));
            for entry in entries.into_iter().flatten().flatten() {
                names.extend(
                    entry
                        .file_name()
                        .to_str()
                        .map(|name| format!("{first}/{name}")),
                );
            }
        }
        names.into_iter()
    })
}

/// Fails if no store can be listed, with the error of the first one.
pub fn check_stores(stores: &[PathBuf]) -> io::Result<()> {
    let mut first = None;
    for store in stores {
        match fs::read_dir(store) {
            Ok(_) => return Ok(()),
            Err(error) => first = first.or(Some((store, error))),
        }
    }
    match first {
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no stores given",
        )),
        Some((store, error)) => Err(io::Error::new(
            error.kind(),
            format!(
                "none of the stores can be read; the first, {}: {error}",
                store.display()
            ),
        )),
    }
}

/// The directory of a store's objects.
pub(crate) fn objects_dir(store: &Path) -> PathBuf {
    store.join("objects")
}

/// The share files in an object's directory, sorted by name.
pub(crate) fn share_paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_share_name(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_share_name(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "share")
}

/// Formats notes for the end of a message: "; a; b".
fn list(notes: &[String]) -> String {
    notes.iter().map(|note| format!("; {note}")).collect()
}
