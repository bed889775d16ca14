//! Directories and file names in a store.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use decode_kernel::share::Generation;

/// What a file in an object's directory is, by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A share of a put that is decided: all its shares were durable before this name was given.
    Share,
    /// A share of a put that is not decided yet, as far as this file tells.
    Pending,
    /// A tombstone: the object was removed, and every put before it counts no more.
    Tombstone,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Share, Kind::Pending, Kind::Tombstone];

    fn extension(self) -> &'static str {
        match self {
            Kind::Share => "share",
            Kind::Pending => "pending",
            Kind::Tombstone => "deleted",
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
fn is_object_dir(name: &str) -> bool {
    name.len() == 62
        && name
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The directories (`ab/cdef…`) of all objects in any of `stores`, each once, in order. Holds the names of one `ab`
/// directory at a time. Skips strays, and stores that cannot be read.
pub(crate) fn object_dirs(stores: &[PathBuf]) -> impl Iterator<Item = String> + '_ {
    (0..=255u8).flat_map(move |first| {
        let first = format!("{first:02x}");
        let mut names = BTreeSet::new();
        for store in stores {
            let entries = fs::read_dir(objects_dir(store).join(&first));
            for entry in entries.into_iter().flatten().flatten() {
                let name = entry.file_name();
                let name = name.to_str().filter(|name| is_object_dir(name));
                names.extend(name.map(|name| format!("{first}/{name}")));
            }
        }
        names.into_iter()
    })
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
        let stores = [store.path().to_owned()];
        let dirs: Vec<_> = object_dirs(&stores).collect();
        assert_eq!(dirs, [format!("ab/{name}")]);
    }
}
