//! What one store has of an object: its files are listed, and the headers of its shares are read.

use std::borrow::Cow;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use decode_kernel::share::{Generation, Header, Key, PAGE_BYTES, object_dir};
use rustix::fs::{Advice, fadvise};

use super::files::{OpenFile, Store};
use super::identity::{Presence, presence};
use super::names::{self, Kind, objects_dir};
use super::parts::Listed;
use super::rejected::{RejectReason, Rejected};
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
    pub file: OpenFile,
}

/// What one store has of an object.
#[derive(Debug)]
pub struct Look {
    pub(super) store: usize,
    /// Shares with good headers.
    pub(crate) shares: Vec<(Header, Kind, OpenShare)>,
    /// The newest tombstone.
    pub(crate) tombstone: Option<Generation>,
    /// Puts that marks say are decided.
    pub(super) decided: Vec<Generation>,
    /// The newest generation in any file's name.
    pub(super) newest_name: Option<Generation>,
    pub(super) rejected: Vec<Rejected>,
    /// What an object's directory said just before.
    pub(super) fingerprint: u64,
    /// Whether the store could be asked.
    pub(crate) here: bool,
    /// What its marker says, if it was read: the fewest shares of any put.
    pub(super) least_shares: Option<u16>,
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

    /// The fewest shares that a put takes of which it has one; `None` if it has none.
    pub fn least_k(&self) -> Option<u16> {
        let all = self.shares.iter().map(|(header, ..)| header.geometry.k());
        all.min()
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
