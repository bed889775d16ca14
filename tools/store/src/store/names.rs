//! Directories and file names in a store.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use decode_kernel::share::Generation;

use super::files::Store;
use crate::parallel;

/// What a file in an object's directory is, by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A share of a put that is decided: all its shares were durable before this name was given.
    Share,
    /// A share of a put that is not decided yet, as far as this file tells.
    Pending,
    /// A tombstone: the object was removed, and every put before it counts no more.
    Tombstone,
    /// A mark: the put of this generation is decided, although its share beside this file has the name of a pending one.
    /// In buckets, where a file can't be renamed.
    Decided,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Share, Kind::Pending, Kind::Tombstone, Kind::Decided];

    /// Whether the file holds a share.
    pub(crate) fn is_share(self) -> bool {
        matches!(self, Kind::Share | Kind::Pending)
    }

    pub(crate) fn extension(self) -> &'static str {
        match self {
            Kind::Share => "share",
            Kind::Pending => "pending",
            Kind::Tombstone => "deleted",
            Kind::Decided => "decided",
        }
    }

    /// The kind of the file at `path`; `None` for strays.
    pub(crate) fn of(path: &Path) -> Option<Kind> {
        let extension = path.extension()?;
        Kind::ALL
            .into_iter()
            .find(|kind| extension == kind.extension())
    }

    /// The file name for this generation: 32 hex characters and the extension. One store holds one share of a
    /// generation, so the number is not in it.
    pub(crate) fn file_name(self, generation: &Generation) -> String {
        format!("{generation}.{}", self.extension())
    }
}

/// The generation in a file's name, if it has one.
pub(crate) fn generation_of(path: &Path) -> Option<Generation> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// Whether a tombstone of this generation stands for the file too: a put that it hides, or an older tombstone. A file
/// that was named by hand is judged by its header.
pub(crate) fn covers(tombstone: &Generation, kind: Kind, path: &Path) -> bool {
    match (kind, generation_of(path)) {
        (Kind::Tombstone, Some(generation)) => generation < *tombstone,
        (_, Some(generation)) => generation <= *tombstone,
        (_, None) => false,
    }
}

/// The directory of a store's objects.
pub(crate) fn objects_dir(store: &Path) -> PathBuf {
    store.join("objects")
}

/// The files in an object's directory that are not strays, sorted by name.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<(Kind, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(kind) = Kind::of(&path) {
            files.push((kind, path));
        }
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(files)
}

/// Whether this is the name of a directory of objects below `objects/ab`: 62 hex characters.
pub(crate) fn is_object_dir(name: &str) -> bool {
    name.len() == 62
        && name
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What the stores have under one `ab`, or in `objects` itself.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The directories (`ab/cdef…`) of objects in any of the stores.
    pub(crate) dirs: BTreeSet<String>,
    /// What has no business there, with the index of its store.
    pub(crate) strays: Vec<(usize, PathBuf)>,
    /// Directories that can't be listed, with the index of the store and the reason.
    pub(crate) unlisted: Vec<(usize, PathBuf, io::Error)>,
}

/// Lists the objects under each of several `ab`, one after the other. A bucket that could not be listed is left out from
/// then on: what would be said of each `ab` was said once.
pub(crate) struct Lister<'a> {
    stores: &'a [Store],
    left_out: BTreeSet<usize>,
}

impl<'a> Lister<'a> {
    /// Lists the `objects` of all stores, for what is wrong with them.
    pub(crate) fn start(stores: &'a [Store]) -> (Lister<'a>, Listing) {
        let listing = list_stores(stores);
        let mut lister = Lister {
            stores,
            left_out: BTreeSet::new(),
        };
        lister.leave_out(&listing);
        (lister, listing)
    }

    /// Lists the objects under `ab`, the hexadecimal digits of `first`.
    pub(crate) fn list(&mut self, first: u8) -> Listing {
        let listing = list_objects(self.stores, first, &self.left_out);
        self.leave_out(&listing);
        listing
    }

    fn leave_out(&mut self, listing: &Listing) {
        let failed = listing.unlisted.iter().map(|(store, ..)| *store);
        let buckets = failed.filter(|store| self.stores[*store].is_bucket());
        self.left_out.extend(buckets);
    }
}

/// Lists the objects under `ab` in all stores, `ab` being the hexadecimal digits of `first`.
fn list_objects(stores: &[Store], first: u8, left_out: &BTreeSet<usize>) -> Listing {
    let mut listing = Listing::default();
    let first = format!("{first:02x}");
    for (index, store, names) in entries(stores, &format!("objects/{first}/"), left_out) {
        listing.add(
            index,
            store,
            &first,
            names,
            is_object_dir,
            |listing, name| {
                listing.dirs.insert(format!("{first}/{name}"));
            },
        );
    }
    listing
}

/// Lists the `objects` of all stores, for what is wrong with them.
fn list_stores(stores: &[Store]) -> Listing {
    let is_first = |name: &str| {
        let digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        name.len() == 2 && name.bytes().all(digit)
    };
    let mut listing = Listing::default();
    for (index, store, names) in entries(stores, "objects/", &BTreeSet::new()) {
        listing.add(index, store, "", names, is_first, |_, _| ());
    }
    listing
}

/// A name in a directory, and whether it may be one of a directory itself.
type Name = (Option<String>, PathBuf, bool);

/// What a directory of each store has. Buckets are asked side by side: each takes its time to answer.
fn entries<'a>(
    stores: &'a [Store],
    dir: &str,
    left_out: &BTreeSet<usize>,
) -> impl Iterator<Item = (usize, &'a Store, io::Result<Vec<Name>>)> {
    let list = |store: &Store| match store {
        Store::Directory(root) => entries_of_directory(&root.join(dir)),
        Store::Bucket(bucket) => {
            let (mut names, path) = (Vec::new(), store.path().join(dir));
            bucket.names(dir, |name, is_dir| {
                names.push((Some(name.to_owned()), path.join(name), is_dir));
            })?;
            Ok(names)
        }
    };
    let asked = stores.iter().enumerate();
    let asked = asked.filter(|(index, _)| !left_out.contains(index));
    let list = |(index, store)| (index, store, list(store));
    let listed: Vec<_> = match stores.iter().any(Store::is_bucket) {
        true => parallel::each(asked.collect(), list),
        false => asked.map(list).collect(),
    };
    listed.into_iter()
}

/// A directory that isn't there has nothing, and one that is a file is a stray of the directory above.
fn entries_of_directory(dir: &Path) -> io::Result<Vec<Name>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            let nothing = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
            return match nothing.contains(&error.kind()) {
                true => Ok(Vec::new()),
                false => Err(error),
            };
        }
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        // A link may lead to a directory. Where nothing tells the kind, opening it will.
        let may_be_dir = entry
            .file_type()
            .map_or(true, |kind| kind.is_dir() || kind.is_symlink());
        let name = entry.file_name().into_string().ok();
        Ok((name, entry.path(), may_be_dir))
    };
    entries.map(name).collect()
}

impl Listing {
    /// Goes through what a store has in a directory of `objects`: `take` gets the names of directories that are `wanted`.
    fn add(
        &mut self,
        index: usize,
        store: &Store,
        dir: &str,
        names: io::Result<Vec<Name>>,
        wanted: impl Fn(&str) -> bool,
        take: impl Fn(&mut Listing, &str),
    ) {
        let names = match names {
            Ok(names) => names,
            Err(error) => {
                self.unlisted.push((index, store.object_dir(dir), error));
                return;
            }
        };
        for (name, path, may_be_dir) in names {
            match name.filter(|name| may_be_dir && wanted(name)) {
                Some(name) => take(self, &name),
                None => self.strays.push((index, path)),
            }
        }
    }
}

/// The directories (`ab/cdef…`) of all objects in any of `stores`, each once, in order. Holds the names of one `ab`
/// directory at a time. Skips strays, and what can't be listed.
pub(crate) fn object_dirs(stores: &[Store]) -> impl Iterator<Item = String> + '_ {
    let (mut lister, _) = Lister::start(stores);
    (0..=255u8).flat_map(move |first| lister.list(first).dirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kind_and_generation() {
        let generation = Generation::new(7, [1; 8]);
        for kind in Kind::ALL {
            let name = kind.file_name(&generation);
            let path = Path::new("x").join(&name);
            assert_eq!(Kind::of(&path), Some(kind));
            assert_eq!(generation_of(&path), Some(generation));
        }
        assert_eq!(Kind::of(Path::new("x/.DS_Store")), None);
        assert_eq!(Kind::of(Path::new("x/share")), None);
        assert_eq!(generation_of(Path::new("x/copy.share")), None);
    }

    #[test]
    fn strays_are_no_objects() {
        let store = tempfile::tempdir().unwrap();
        let ab = objects_dir(store.path()).join("ab");
        let name = "0123456789abcdef".repeat(4)[2..].to_owned();
        for name in [&name, ".DS_Store", "lost+found", &name.to_uppercase()] {
            fs::create_dir_all(ab.join(name)).unwrap();
        }
        let stores = [Store::from(store.path())];
        let dirs: Vec<_> = object_dirs(&stores).collect();
        assert_eq!(dirs, [format!("ab/{name}")]);
        assert_eq!(
            list_objects(&stores, 0xab, &BTreeSet::new()).strays.len(),
            3
        );
        // Files with names of directories are strays too.
        fs::write(ab.join("f".repeat(62)), "").unwrap();
        fs::write(objects_dir(store.path()).join("cd"), "").unwrap();
        assert_eq!(
            list_objects(&stores, 0xab, &BTreeSet::new()).strays.len(),
            4
        );
        assert_eq!(list_stores(&stores).strays.len(), 1);
        let nothing = list_objects(&stores, 0xcd, &BTreeSet::new());
        assert!(nothing.dirs.is_empty() && nothing.unlisted.is_empty());
    }

    #[test]
    fn what_cannot_be_listed_is_told() {
        let store = tempfile::tempdir().unwrap();
        let objects = objects_dir(store.path());
        fs::create_dir(&objects).unwrap();
        // A link to itself, as root may list any directory.
        std::os::unix::fs::symlink("ab", objects.join("ab")).unwrap();
        let stores = [Store::from(store.path())];
        assert!(list_stores(&stores).unlisted.is_empty());
        let unlisted = list_objects(&stores, 0xab, &BTreeSet::new()).unlisted;
        assert!(unlisted.len() == 1 && unlisted[0].1 == objects.join("ab"));
    }
}
