//! Names of directories and files in a store, and what they say.

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

/// Whether this is the name of a directory below `objects`: two hexadecimal digits.
pub(super) fn is_first(name: &str) -> bool {
    let digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.len() == 2 && name.bytes().all(digit)
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
}
