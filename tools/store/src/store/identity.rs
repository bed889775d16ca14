//! What makes a directory or a bucket a store: a marker with an id.
//!
//! Without it, a disk that isn't mounted looks like an empty store, and a put would fill the disk below the mount point.
//! So only [`init`] makes stores, writers want every store to be one, and readers take a directory without marker and
//! without objects for a store that is away.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::files::Store;
use super::marker::{FORMAT, Id, MARKER, Marker};
use super::names::objects_dir;
use crate::error::{During, FileError};
use crate::temp::{create_dir, sync_dir};

/// A longer file is no marker.
const MARKER_BYTES_MAX: u64 = 64 << 10;

const MARKER_HEAD: &str = "\
    # What is here is a Penstock store. The id is this store's alone: a copy of this file makes another disk\n\
    # pass for this one. `penstock init` writes it.\n";

/// Why a directory is no store, or can't be used as one.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such directory.
    #[error("{}: the store is missing: there is no such directory", .0.display())]
    Missing(PathBuf),
    /// It has neither marker nor objects.
    #[error(
        "{}: not a store, or its disk is not mounted: `penstock init --store {}` makes it one",
        .0.display(), .0.display()
    )]
    NotAStore(PathBuf),
    /// It is a bucket without marker.
    #[error("{}: not a store: `penstock init --store '{}'` makes it one", .0.display(), .0.display())]
    NotABucketStore(PathBuf),
    /// It has objects but no marker.
    #[error(
        "{}: a store of an older release, without a marker: `penstock init --store {}` adopts it",
        .0.display(), .0.display()
    )]
    Unmarked(PathBuf),
    /// The marker is not one.
    #[error("{}: {reason}", path.display())]
    Marker {
        /// The marker.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two directories are one store.
    #[error("stores {} and {} are the same directory or bucket: losing it would lose two shares", .0.display(), .1.display())]
    Same(PathBuf, PathBuf),
    /// Two directories have one id.
    #[error(
        "stores {} and {} have the same id: both show one disk, or one is a copy of the other; give only one of them",
        .0.display(), .1.display()
    )]
    SameId(PathBuf, PathBuf),
    /// A store on a file system that can't be written.
    #[error("{}: its file system is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// Stores of several sets.
    #[error(
        "stores {} and {} belong to different sets: give the stores of one set, or join them with `penstock init --join`",
        .0.display(), .1.display()
    )]
    Sets(PathBuf, PathBuf),
    /// None of the stores can be read: a mistyped path is more likely than so many lost disks.
    #[error("none of the stores can be read; the first is {0}")]
    NoneHere(Box<StoreError>),
    /// It can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StoreError {
    /// What is wrong, where the store's path is said already.
    pub(crate) fn reason(&self) -> String {
        match self {
            StoreError::Missing(_) => "the store is missing".to_owned(),
            StoreError::NotAStore(_) => "not a store, or its disk is not mounted".to_owned(),
            StoreError::NotABucketStore(_) => "not a store: it has no marker".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Whether a directory is a store.
#[derive(Debug)]
pub enum Presence {
    /// It has a marker.
    Marked(Marker),
    /// It has objects but no marker, or a marker that can't be read: it is read and not written.
    Unmarked(StoreError),
    /// It is away.
    Absent(StoreError),
}

/// Looks whether it is a store.
pub fn presence(store: &Store) -> Presence {
    match (read_marker(store), store) {
        (Ok(Some(marker)), _) => return Presence::Marked(marker),
        (Ok(None), Store::Bucket(bucket)) => {
            return Presence::Absent(StoreError::NotABucketStore(bucket.path().to_owned()));
        }
        (Ok(None), Store::Directory(_)) => {}
        (Err(error), Store::Directory(path)) if objects_dir(path).is_dir() => {
            return Presence::Unmarked(error);
        }
        (Err(error), _) => return Presence::Absent(error),
    }
    let (objects, store) = (objects_dir(store.path()), store.path().to_owned());
    match fs::metadata(&objects) {
        Ok(_) => Presence::Unmarked(StoreError::Unmarked(store)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let action = "read the metadata of";
            let file = FileError {
                action,
                path: objects,
                cause: error,
            };
            Presence::Absent(file.into())
        }
        Err(_) if store.is_dir() => Presence::Absent(StoreError::NotAStore(store)),
        Err(_) => Presence::Absent(StoreError::Missing(store)),
    }
}

/// Reads a store's marker; `None` if there is none.
pub(crate) fn read_marker(store: &Store) -> Result<Option<Marker>, StoreError> {
    let path = store.path().join(MARKER);
    if let Store::Bucket(bucket) = store {
        let found = bucket.marker().during("read", &path)?;
        let found = found.transpose();
        return found.map_err(|reason| StoreError::Marker { path, reason });
    }
    let found = match fs::metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => {
            return Err(FileError {
                action: "read the metadata of",
                path,
                cause,
            }
            .into());
        }
    };
    let wrong = |reason: String| StoreError::Marker {
        path: path.clone(),
        reason,
    };
    if !found.is_file() || found.len() > MARKER_BYTES_MAX {
        return Err(wrong("not a store's marker".to_owned()));
    }
    let text = fs::read_to_string(&path).during("read", &path)?;
    Marker::parse(&text).map(Some).map_err(wrong)
}

/// Writes a store's marker, in one step and durably. In a bucket it takes the place of the one that was read, and of no
/// other.
pub(crate) fn write_marker(store: &Store, marker: &Marker) -> Result<(), FileError> {
    let text = toml::to_string(marker).expect("a marker is plain text");
    let store = match store {
        Store::Directory(path) => path,
        Store::Bucket(bucket) => {
            let path = bucket.path().join(MARKER);
            let written = bucket.write_marker(format!("{MARKER_HEAD}{text}"));
            return written.during("write", &path);
        }
    };
    let mut file = tempfile::NamedTempFile::new_in(store).during("create a file in", store)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file()
        .set_permissions(permissions)
        .during("set the permissions of a file in", store)?;
    file.write_all(MARKER_HEAD.as_bytes())
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.as_file().sync_all())
        .during("write", file.path())?;
    let path = store.join(MARKER);
    file.persist(&path)
        .map_err(|error| error.error)
        .during("rename a file to", &path)?;
    sync_dir(store)
}

/// Refuses lists in which one store occurs twice: the same directory, also through a link or a bind mount, the same bucket,
/// or two stores with one id. Stores that are away are left out.
///
/// # Errors
/// [`StoreError::Same`] or [`StoreError::SameId`].
pub fn refuse_duplicates(stores: &[Store]) -> Result<(), StoreError> {
    let mut directories: HashMap<(u64, u64), &Path> = HashMap::new();
    let mut buckets: HashSet<&Path> = HashSet::new();
    let mut ids: HashMap<Id, &Path> = HashMap::new();
    for store in stores {
        let path = store.path();
        let other = match store {
            Store::Bucket(_) => (!buckets.insert(path)).then_some(path),
            Store::Directory(_) => match fs::metadata(path) {
                Ok(found) => directories.insert((found.dev(), found.ino()), path),
                Err(_) => continue,
            },
        };
        if let Some(other) = other {
            return Err(StoreError::Same(other.to_owned(), path.to_owned()));
        }
        if let Presence::Marked(marker) = presence(store)
            && let Some(other) = ids.insert(marker.store, path)
        {
            return Err(StoreError::SameId(other.to_owned(), path.to_owned()));
        }
    }
    Ok(())
}

/// A directory or a bucket that [`init`] makes a store.
#[derive(Clone, Debug)]
pub struct NewStore {
    /// A directory is created if it does not exist, its parent is not. A bucket must be there.
    pub store: Store,
    /// What fails together with it.
    pub domain: Option<String>,
}

/// Makes directories and buckets stores of one set. Those that are stores already keep their ids, and those of an older
/// release their objects. What is not empty and no store is refused, so that a mistyped path harms nothing.
///
/// `join` moves stores of different sets to the set of the first.
///
/// # Errors
/// What is in the way, before anything was written; or the first store that can't be written.
pub fn init(stores: &[NewStore], join: bool) -> Result<Vec<Marker>, StoreError> {
    let all: Vec<Store> = stores.iter().map(|new| new.store.clone()).collect();
    refuse_duplicates(&all)?;
    let mut found: Vec<Option<Marker>> = Vec::with_capacity(stores.len());
    for store in &all {
        let marker = read_marker(store)?;
        match store {
            _ if marker.is_some() => {}
            Store::Directory(path) if objects_dir(path).is_dir() => {}
            Store::Directory(path) => refuse_foreign_files(path)?,
            Store::Bucket(bucket) => {
                let path = bucket.path();
                let file = bucket.first_file().during("list", path)?;
                // A store that was copied there may lack its marker only.
                let foreign = file.filter(|name| !name.starts_with("objects/"));
                refuse_foreign(path, foreign, "a new store is an empty bucket or prefix")?;
            }
        }
        found.push(marker);
    }
    let mut marked = all
        .iter()
        .zip(&found)
        .filter_map(|(store, marker)| Some((store.path(), marker.as_ref()?.set)));
    let first = marked.next();
    if let Some((path, set)) = first
        && let Some((other, _)) = marked.find(|(_, other)| *other != set)
        && !join
    {
        return Err(StoreError::Sets(path.to_owned(), other.to_owned()));
    }
    let random = |path: &Path| Id::random().during("make an id for", path);
    let set = match first {
        Some((_, set)) => set,
        None => random(all.first().map_or(Path::new(""), Store::path))?,
    };
    let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut markers = Vec::with_capacity(stores.len());
    for (new, found) in stores.iter().zip(found) {
        if let Store::Directory(path) = &new.store {
            create_one_dir(path)?;
        }
        let mut marker = match &found {
            Some(marker) => Marker {
                set,
                ..marker.clone()
            },
            None => Marker {
                format: FORMAT,
                store: random(new.store.path())?,
                set,
                created: created.clone(),
                domain: None,
                least_shares: None,
                drain: false,
            },
        };
        // Who makes it a store means to use it.
        marker.drain = false;
        marker.domain = new.domain.clone().or(marker.domain);
        if found.as_ref() != Some(&marker) {
            write_marker(&new.store, &marker)?;
            tracing::debug!(store = %new.store.path().display(), "wrote its marker");
        }
        if let Store::Directory(path) = &new.store {
            create_dir(&objects_dir(path))?;
        }
        markers.push(marker);
    }
    Ok(markers)
}

/// Creates the directory, but not its parent: a path below a directory that isn't there is mistyped.
fn create_one_dir(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir(path).during("create the directory", path)?;
    sync_dir(
        path.parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )
}

/// `lost+found` is in every new ext4 file system; `tmp` is what an older release left of a store without objects.
fn refuse_foreign_files(path: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.during("list", path)?,
    };
    for entry in entries {
        let name = entry.during("list", path)?.file_name();
        let foreign = !["lost+found", "tmp"].iter().any(|known| name == *known);
        let foreign = foreign.then(|| name.display().to_string());
        refuse_foreign(path, foreign, "a new store is an empty directory")?;
    }
    Ok(())
}

fn refuse_foreign(path: &Path, name: Option<String>, rule: &str) -> Result<(), StoreError> {
    match name {
        None => Ok(()),
        Some(name) => Err(StoreError::Marker {
            path: path.to_owned(),
            reason: format!("{name} is in it; {rule}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(path: &Path) -> NewStore {
        NewStore {
            store: path.into(),
            domain: None,
        }
    }

    #[test]
    fn a_store_keeps_its_id_and_new_ones_join_its_set() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        let first = init(&[new(&a)], false).unwrap();
        let both = init(&[new(&b), new(&a)], false).unwrap();
        assert_eq!(both[1], first[0]);
        assert_eq!(both[0].set, first[0].set);
        assert_ne!(both[0].store, first[0].store);
        assert!(
            matches!(presence(&a.as_path().into()), Presence::Marked(marker) if marker == first[0])
        );
        let domain = NewStore {
            store: a.clone().into(),
            domain: Some("host1".into()),
        };
        assert_eq!(
            init(&[domain], false).unwrap()[0].domain.as_deref(),
            Some("host1")
        );
        assert_eq!(
            init(&[new(&a)], false).unwrap()[0].domain.as_deref(),
            Some("host1")
        );
    }

    #[test]
    fn sets_are_joined_when_asked_to() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        let set = init(&[new(&a)], false).unwrap()[0].set;
        init(&[new(&b)], false).unwrap();
        let both = [new(&a), new(&b)];
        assert!(matches!(init(&both, false), Err(StoreError::Sets(..))));
        assert_eq!(init(&both, true).unwrap()[1].set, set);
    }

    #[test]
    fn what_is_not_a_store_is_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        let absent = |store: &Path| match presence(&store.into()) {
            Presence::Absent(error) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(absent(&store).contains("missing"));
        fs::create_dir(&store).unwrap();
        assert!(absent(&store).contains("penstock init --store"));
        fs::create_dir(objects_dir(&store)).unwrap();
        assert!(matches!(
            presence(&store.as_path().into()),
            Presence::Unmarked(StoreError::Unmarked(_))
        ));
        fs::write(store.join(MARKER), "format = 2").unwrap();
        assert!(matches!(
            presence(&store.as_path().into()),
            Presence::Unmarked(StoreError::Marker { .. })
        ));
        fs::remove_dir(objects_dir(&store)).unwrap();
        assert!(
            absent(&store).contains("missing field"),
            "{}",
            absent(&store)
        );
        // A mistyped path: nothing is made of a directory of other files, or below one that isn't there.
        let error = init(&[new(root.path())], false).unwrap_err().to_string();
        assert!(error.contains("empty directory"), "{error}");
        let error = init(&[new(&root.path().join("no/store"))], false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot create the directory"), "{error}");
    }

    #[test]
    fn one_store_given_twice_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let (a, link, copy) = (
            root.path().join("a"),
            root.path().join("link"),
            root.path().join("copy"),
        );
        init(&[new(&a)], false).unwrap();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        let error = refuse_duplicates(&Store::directories([&a, &link])).unwrap_err();
        assert!(matches!(error, StoreError::Same(..)), "{error}");
        fs::create_dir(&copy).unwrap();
        fs::copy(a.join(MARKER), copy.join(MARKER)).unwrap();
        let error = refuse_duplicates(&Store::directories([a, copy])).unwrap_err();
        assert!(matches!(error, StoreError::SameId(..)), "{error}");
    }
}
