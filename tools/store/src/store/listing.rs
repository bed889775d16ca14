//! Which objects the stores have: the names of directories, one `ab` after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::files::Store;
use super::names::{is_first, is_object_dir, objects_dir};
use super::parts::{Listed, ObjectFiles, Part};
use crate::parallel;

/// What the stores have under one `ab`, or in `objects` itself.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The directories (`ab/cdef…`) of objects in any of the stores, each with the files that buckets have there, by the
    /// store's index.
    dirs: BTreeMap<String, Vec<(usize, Vec<Listed>)>>,
    /// What has no business there, with the index of its store.
    pub(crate) strays: Vec<(usize, PathBuf)>,
    /// Directories that can't be listed, with the index of the store and the reason.
    pub(crate) unlisted: Vec<(usize, PathBuf, io::Error)>,
    /// By store, when the files in it were listed, if they were.
    listed_at: Vec<Option<Instant>>,
}

/// An object that was found by listing.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its directory, `ab/cdef…`.
    pub(crate) dir: String,
    files: Vec<(usize, Vec<Listed>)>,
    listed_at: Rc<[Option<Instant>]>,
}

/// What was listed longer ago may have changed since, and is listed again when its turn comes.
const KNOWN_FOR: Duration = Duration::from_secs(60);

impl Found {
    /// The files that a store has of it, if it is a bucket and that is known.
    pub(crate) fn files_in(&self, store: usize) -> Option<&[Listed]> {
        let at = self.listed_at.get(store).copied().flatten()?;
        if at.elapsed() > KNOWN_FOR {
            return None;
        }
        let files = self.files.iter().find(|(index, _)| *index == store);
        Some(files.map_or(&[], |(_, files)| files))
    }
}

impl Listing {
    /// The objects, in the order of their directories.
    pub(crate) fn into_found(self) -> impl Iterator<Item = Found> {
        let listed_at: Rc<[_]> = self.listed_at.into();
        self.dirs.into_iter().map(move |(dir, files)| Found {
            dir,
            files,
            listed_at: Rc::clone(&listed_at),
        })
    }
}

/// Lists the objects under each of several `ab`, one after the other. A bucket that could not be listed is left out from
/// then on: what would be said of each `ab` was said once.
pub(crate) struct Lister<'a> {
    stores: &'a [Store],
    left_out: BTreeSet<usize>,
    /// By store; directories have no use for one.
    cursors: Vec<Cursor>,
}

impl<'a> Lister<'a> {
    /// Lists the `objects` of all directories, for what is wrong with them. In buckets that shows as they are listed.
    pub(crate) fn start(stores: &'a [Store]) -> (Lister<'a>, Listing) {
        let mut listing = Listing::default();
        for (index, store) in stores.iter().enumerate() {
            if let Store::Directory(root) = store {
                let names = entries_of_directory(&objects_dir(root));
                listing.add(index, store, "", names, is_first, |_, _| ());
            }
        }
        let lister = Lister {
            stores,
            left_out: BTreeSet::new(),
            cursors: stores.iter().map(|_| Cursor::default()).collect(),
        };
        (lister, listing)
    }

    /// Lists the objects under `ab`, the hexadecimal digits of `first`. Buckets are listed on from one `ab` to the next, and
    /// from the beginning after the last, with one request for about a thousand files. They are asked side by side: each takes
    /// its time to answer.
    pub(crate) fn list(&mut self, first: u8) -> Listing {
        let mut listing = Listing {
            listed_at: vec![None; self.stores.len()],
            ..Listing::default()
        };
        let mut buckets = Vec::new();
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            match &self.stores[index] {
                Store::Directory(root) => listing.add_directory(index, root, first),
                Store::Bucket(_) if self.left_out.contains(&index) => {}
                Store::Bucket(bucket) => buckets.push((index, bucket, cursor)),
            }
        }
        let listed = parallel::each(buckets, |(index, bucket, cursor)| {
            let taken = cursor.take(first, |after| bucket.part(after));
            (index, bucket.path(), taken)
        });
        for (index, path, taken) in listed {
            match taken {
                Ok(taken) => listing.add_taken(index, path, taken),
                Err(error) => {
                    listing.unlisted.push((index, objects_dir(path), error));
                    self.left_out.insert(index);
                }
            }
        }
        listing
    }
}

/// Where the listing of a bucket is.
#[derive(Default)]
struct Cursor {
    /// The `ab` that comes next; any other is begun with.
    first: Option<u8>,
    /// What was listed and not taken yet, with when that was.
    objects: VecDeque<ObjectFiles>,
    strays: VecDeque<String>,
    at: Option<Instant>,
    /// The name behind which the next part begins, if there is one.
    after: Option<String>,
}

/// What a bucket has under one `ab`.
struct Taken {
    objects: Vec<ObjectFiles>,
    strays: Vec<String>,
    at: Instant,
}

impl Cursor {
    /// Takes what there is under an `ab`; `list` lists the part behind a name.
    fn take(&mut self, first: u8, list: impl Fn(&str) -> io::Result<Part>) -> io::Result<Taken> {
        if self.first != Some(first) {
            // A name before `ab` itself, and behind all that is below the one before. What lies between is not taken here.
            let begin = match first.checked_sub(1) {
                None => String::new(),
                Some(before) => format!("objects/{before:02x}~"),
            };
            *self = Cursor {
                after: Some(begin),
                ..Cursor::default()
            };
        }
        self.first = first.checked_add(1);
        // What comes behind is not taken.
        let end = self.first.map(|next| format!("{next:02x}"));
        let begin = format!("objects/{first:02x}");
        let is_here = |name: &str| end.as_deref().is_none_or(|end| name < end);
        let mut taken = Taken {
            objects: Vec::new(),
            strays: Vec::new(),
            at: self.at.unwrap_or_else(Instant::now),
        };
        loop {
            let here = self
                .objects
                .iter()
                .take_while(|object| is_here(&object.dir));
            let here = here.count();
            taken.objects.extend(self.objects.drain(..here));
            let below = |name: &str| is_here(name.strip_prefix("objects/").unwrap_or(name));
            let here = self.strays.iter().take_while(|stray| below(stray)).count();
            let here = self.strays.drain(..here);
            taken
                .strays
                .extend(here.filter(|stray| first == 0 || *stray >= begin));
            if !self.objects.is_empty() || !self.strays.is_empty() {
                return Ok(taken);
            }
            let Some(after) = self.after.take() else {
                return Ok(taken);
            };
            self.at = Some(Instant::now());
            let part = list(&after)?;
            self.objects = part.objects.into();
            self.strays = part.strays.into();
            self.after = part.next;
        }
    }
}

/// A name in a directory, and whether it may be one of a directory itself.
type Name = (Option<String>, PathBuf, bool);

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
    fn add_directory(&mut self, index: usize, root: &Path, first: u8) {
        let (first, store) = (format!("{first:02x}"), Store::from(root));
        let names = entries_of_directory(&objects_dir(root).join(&first));
        let take = |listing: &mut Listing, name: &str| {
            listing.dirs.entry(format!("{first}/{name}")).or_default();
        };
        self.add(index, &store, &first, names, is_object_dir, take);
    }

    fn add_taken(&mut self, index: usize, path: &Path, taken: Taken) {
        self.listed_at[index] = Some(taken.at);
        for object in taken.objects {
            let files = self.dirs.entry(object.dir).or_default();
            files.push((index, object.files));
        }
        let strays = taken.strays.into_iter();
        self.strays
            .extend(strays.map(|name| (index, path.join(name))));
    }

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

/// All objects in any of `stores`, each once, in the order of their directories. Holds the names of one `ab` directory at a
/// time. Skips strays, and what can't be listed.
pub(crate) fn objects(stores: &[Store]) -> impl Iterator<Item = Found> + '_ {
    let (mut lister, _) = Lister::start(stores);
    (0..=255u8).flat_map(move |first| lister.list(first).into_found())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strays_are_no_objects() {
        let store = tempfile::tempdir().unwrap();
        let ab = objects_dir(store.path()).join("ab");
        let name = "0123456789abcdef".repeat(4)[2..].to_owned();
        for name in [&name, ".DS_Store", "lost+found", &name.to_uppercase()] {
            fs::create_dir_all(ab.join(name)).unwrap();
        }
        let stores = [Store::from(store.path())];
        let dirs: Vec<_> = objects(&stores).map(|found| found.dir).collect();
        assert_eq!(dirs, [format!("ab/{name}")]);
        let list = |first| Lister::start(&stores).0.list(first);
        assert_eq!(list(0xab).strays.len(), 3);
        // Files with names of directories are strays too.
        fs::write(ab.join("f".repeat(62)), "").unwrap();
        fs::write(objects_dir(store.path()).join("cd"), "").unwrap();
        assert_eq!(list(0xab).strays.len(), 4);
        assert_eq!(Lister::start(&stores).1.strays.len(), 1);
        let nothing = list(0xcd);
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
        let (mut lister, listing) = Lister::start(&stores);
        assert!(listing.unlisted.is_empty());
        let unlisted = lister.list(0xab).unlisted;
        assert!(unlisted.len() == 1 && unlisted[0].1 == objects.join("ab"));
    }

    /// Objects of a bucket by the first bytes of their directories, and strays, in parts of three names.
    fn bucket_of(names: &[&str]) -> impl Fn(&str) -> io::Result<Part> {
        let mut names: Vec<String> = names.iter().map(|name| format!("objects/{name}")).collect();
        names.sort();
        move |after| {
            let mut rest = names.iter().filter(|name| name.as_str() > after);
            let mut part = Part::default();
            for name in rest.by_ref().take(3) {
                match name.strip_prefix("objects/").unwrap() {
                    dir if dir.contains('/') => part.objects.push(ObjectFiles {
                        dir: dir.to_owned(),
                        files: Vec::new(),
                    }),
                    _ => part.strays.push(name.clone()),
                }
                part.next = Some(name.clone());
            }
            part.next = part.next.filter(|_| rest.next().is_some());
            Ok(part)
        }
    }

    #[test]
    fn what_is_under_each_ab_is_taken_once_wherever_it_begins() {
        let names = [
            ".x", "00/a", "00/b", "01/a", "06~x", "07", "07/a", "07/b", "07/c", "07/d", "08/a",
            "fe/a", "ff/a", "ff/b", "zz",
        ];
        let list = bucket_of(&names);
        for begin in [0, 1, 7, 8, 9, 254, 255] {
            let mut cursor = Cursor::default();
            let mut found = Vec::new();
            for step in 0..=255u8 {
                let first = begin + u16::from(step);
                let taken = cursor.take(first as u8, &list).unwrap();
                let here = format!("{:02x}/", first as u8);
                assert!(
                    taken
                        .objects
                        .iter()
                        .all(|object| object.dir.starts_with(&here))
                );
                found.extend(taken.objects.into_iter().map(|object| object.dir));
                let strays = taken.strays.into_iter();
                found.extend(strays.map(|name| name.replace("objects/", "")));
            }
            found.sort();
            assert_eq!(found, names, "begun at {begin:02x}");
        }
    }
}
