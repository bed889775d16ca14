//! What a long look at all objects takes, a step at a time, for a server: what is in a part of one store's directories,
//! and what one store has of one object. Each call is on one store, which may hang, and leaves nothing open.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use decode_kernel::share::{Generation, Header};

use crate::date::now;
use crate::store::{Kind, Presence, is_object_dir, look_in, objects_dir, presence};

/// Names of objects' directories under one `ab`, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `cdef…`, all of them behind where the listing began.
    pub names: BTreeSet<String>,
    /// Whether there are more behind the last.
    pub is_cut: bool,
}

/// Lists the objects' directories of a store under `ab`, the hexadecimal digits of `first`: the first `most` of them
/// behind `after`. Takes memory for so many, however many there are.
///
/// # Errors
/// If the store can't be asked, or is away.
pub fn names_after(root: &Path, first: u8, after: &str, most: usize) -> io::Result<Names> {
    let mut found = Names::default();
    let entries = match fs::read_dir(objects_dir(root).join(format!("{first:02x}"))) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => match presence(&root.into()) {
            Presence::Absent(error) => return Err(io::Error::other(error)),
            _ => return Ok(found),
        },
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| is_object_dir(name)) else {
            continue;
        };
        if name > after {
            found.names.insert(name.to_owned());
        }
        if found.names.len() > most {
            found.names.pop_last();
            found.is_cut = true;
        }
    }
    Ok(found)
}

/// The shares that one store has of one put.
#[derive(Clone, Debug)]
struct Shares {
    header: Header,
    numbers: Vec<u16>,
    is_decided: bool,
}

/// What one store has of an object.
#[derive(Clone, Debug)]
pub struct Glance {
    puts: Vec<Shares>,
    tombstone: Option<Generation>,
    /// Whether the store could be asked.
    pub is_here: bool,
}

/// Looks at what a store has of the object in the directory `dir` (`ab/cdef…`). Reads headers, and closes the files.
pub fn glance(root: &Path, dir: &str) -> Glance {
    let look = look_in(0, &root.into(), dir, None);
    let mut puts: Vec<Shares> = Vec::new();
    for (header, kind, share) in look.shares {
        let put = match puts.iter_mut().find(|put| put.header.same_object(&header)) {
            Some(put) => put,
            None => {
                puts.push(Shares {
                    header,
                    numbers: Vec::new(),
                    is_decided: false,
                });
                puts.last_mut().expect("one was pushed")
            }
        };
        put.numbers.push(share.number);
        put.is_decided |= kind == Kind::Share;
    }
    Glance {
        puts,
        tombstone: look.tombstone,
        is_here: look.here,
    }
}

/// An object as its headers tell.
#[derive(Clone, Debug)]
pub struct Condition {
    /// That of the newest put; the share number is that of any share.
    pub header: Header,
    /// Different shares of it that were found with a good header.
    pub shares: usize,
}

/// Puts together what the stores have of an object; `None` if it was removed or has expired, or no put of it is
/// decided.
pub fn condition(glances: impl IntoIterator<Item = Glance>) -> Option<Condition> {
    let mut tombstone = None;
    let mut puts: Vec<Shares> = Vec::new();
    for glance in glances {
        tombstone = tombstone.max(glance.tombstone);
        for found in glance.puts {
            match puts
                .iter_mut()
                .find(|put| put.header.same_object(&found.header))
            {
                Some(put) => {
                    put.numbers.extend(found.numbers);
                    put.is_decided |= found.is_decided;
                }
                None => puts.push(found),
            }
        }
    }
    let distinct = |put: &Shares| put.numbers.iter().collect::<HashSet<_>>().len();
    let counts = puts
        .iter()
        .filter(|put| put.is_decided && tombstone.is_none_or(|t| put.header.generation > t));
    // Two of one generation differ in another field. The one with more shares is right.
    let newest = counts.max_by_key(|put| (put.header.generation, distinct(put)))?;
    if newest.header.metadata.is_expired(now()) {
        return None;
    }
    Some(Condition {
        shares: distinct(newest),
        header: newest.header.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use decode_kernel::share::{Key, object_dir};

    use super::*;
    use crate::progress::Progress;
    use crate::put::{Placement, PutOptions, default_block_bytes, put};
    use crate::rm::rm;
    use crate::{NewStore, Store, init};

    fn stores(root: &Path, count: usize) -> Vec<PathBuf> {
        let paths: Vec<PathBuf> = (0..count).map(|i| root.join(i.to_string())).collect();
        let new = |path: &PathBuf| NewStore {
            store: path.as_path().into(),
            domain: None,
        };
        init(&paths.iter().map(new).collect::<Vec<_>>(), false).unwrap();
        paths
    }

    fn store(stores: &[PathBuf], key: &str) {
        let options = PutOptions {
            stores: Store::directories(stores),
            data: 2,
            parity: 1,
            key: Key::new(key).unwrap(),
            block_size: default_block_bytes(2),
            code: None,
            content_type: None,
            size_hint: None,
            min_shares: None,
            no_clobber: false,
            placement: Placement::Listed,
            expires: None,
            fields: Default::default(),
        };
        put(&mut &b"content"[..], &options, &Progress::hidden()).unwrap();
    }

    fn of(stores: &[PathBuf], key: &str) -> Option<Condition> {
        let dir = object_dir(&Key::new(key).unwrap());
        condition(stores.iter().map(|root| glance(root, &dir)))
    }

    #[test]
    fn an_object_is_told_by_its_newest_put_and_the_shares_that_are_left() {
        let root = tempfile::tempdir().unwrap();
        let stores = stores(root.path(), 3);
        assert!(of(&stores, "a").is_none());
        store(&stores, "a");
        let first = of(&stores, "a").unwrap();
        assert_eq!((first.shares, first.header.key.as_str()), (3, "a"));
        store(&stores, "a");
        let second = of(&stores, "a").unwrap();
        assert!(second.header.generation > first.header.generation);
        let dir = objects_dir(&stores[1]).join(object_dir(&Key::new("a").unwrap()));
        fs::remove_dir_all(dir).unwrap();
        assert_eq!(of(&stores, "a").unwrap().shares, 2);
        rm(&Store::directories(&stores), &Key::new("a").unwrap()).unwrap();
        assert!(of(&stores, "a").is_none());
    }

    #[test]
    fn directories_are_listed_in_parts_that_join() {
        let root = tempfile::tempdir().unwrap();
        let stores = stores(root.path(), 3);
        let mut all = BTreeSet::new();
        for number in 0..300 {
            let dir = object_dir(&Key::new(&number.to_string()).unwrap());
            fs::create_dir_all(objects_dir(&stores[0]).join(&dir)).unwrap();
            all.insert(dir);
        }
        fs::write(objects_dir(&stores[0]).join("stray"), "").unwrap();
        let mut found = BTreeSet::new();
        for first in 0..=u8::MAX {
            let mut after = String::new();
            loop {
                let part = names_after(&stores[0], first, &after, 2).unwrap();
                assert!(part.names.len() <= 2);
                after = part.names.last().cloned().unwrap_or_default();
                for name in part.names {
                    assert!(found.insert(format!("{first:02x}/{name}")), "twice");
                }
                if !part.is_cut {
                    break;
                }
            }
        }
        assert_eq!(found, all);
        assert_eq!(names_after(&stores[1], 7, "", 2).unwrap(), Names::default());
        let away = names_after(&root.path().join("nowhere"), 7, "", 2);
        assert!(away.is_err());
    }
}
