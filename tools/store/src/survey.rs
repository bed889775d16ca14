//! What a long look at all objects takes, a step at a time, for a server: what is in a part of one store's directories,
//! and what one store has of one object. Each call is on one store, which may hang, and leaves nothing open. Of buckets the
//! names of all files are listed ([`parts`]), and few headers are read: each is a request.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::path::Path;

use decode_kernel::share::{Generation, Geometry, Header, PAGE_BYTES};
use penstock_remote::{Bucket, RemoteErrorKind};

use crate::date::now;
pub use crate::store::parts;
use crate::store::{
    Kind, Listed, Presence, RejectReason, Store, generation_of, is_object_dir, look_in,
    objects_dir, presence,
};

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

/// Looks at what a directory has of the object in the directory `dir` (`ab/cdef…`). Reads headers, and closes the files.
pub fn glance(root: &Path, dir: &str) -> Glance {
    glance_in(&root.into(), dir)
}

/// The same, of any store. In a bucket that is a request, and one for each share that it has.
pub fn glance_in(store: &Store, dir: &str) -> Glance {
    let look = look_in(0, store, dir, None, None);
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

/// What a bucket has of an object, as far as the names of its files tell.
#[derive(Clone, Debug, Default)]
pub struct Named {
    shares: Vec<(Generation, Listed)>,
    decided: Vec<Generation>,
    tombstone: Option<Generation>,
    /// There are shares whose names don't tell which put they are of: headers must be read, by [`glance_in`].
    pub is_odd: bool,
}

impl Named {
    /// What these files of an object tell.
    pub fn of(files: Vec<Listed>) -> Named {
        let mut named = Named::default();
        for file in files {
            let path = Path::new(&file.name);
            let Some(kind) = Kind::of(path) else {
                continue;
            };
            let Some(generation) = generation_of(path) else {
                named.is_odd |= kind.is_share();
                continue;
            };
            match kind {
                Kind::Tombstone => named.tombstone = named.tombstone.max(Some(generation)),
                Kind::Decided => named.decided.push(generation),
                Kind::Pending => named.shares.push((generation, file)),
                Kind::Share => {
                    named.decided.push(generation);
                    named.shares.push((generation, file));
                }
            }
        }
        named
    }
}

/// The newest put of an object that counts, as headers in directories and names in buckets tell.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The put.
    pub generation: Generation,
    /// Its header, if a directory has one.
    pub header: Option<Header>,
    numbers: Vec<u16>,
    /// Its share files in buckets, each with the number that was given for its store.
    pub files: Vec<(usize, Listed)>,
}

impl Sight {
    /// Puts together what the stores have of an object; `None` if it was removed, or no put of it is decided. What has
    /// expired is not left out: that is in the header.
    pub fn of(
        glances: impl IntoIterator<Item = Glance>,
        named: impl IntoIterator<Item = (usize, Named)>,
    ) -> Option<Sight> {
        let (mut tombstone, mut decided) = (None, Vec::new());
        let mut sights: Vec<Sight> = Vec::new();
        fn at(sights: &mut Vec<Sight>, generation: Generation) -> &mut Sight {
            let found = sights
                .iter()
                .position(|sight| sight.generation == generation);
            let index = found.unwrap_or_else(|| {
                sights.push(Sight {
                    generation,
                    header: None,
                    numbers: Vec::new(),
                    files: Vec::new(),
                });
                sights.len() - 1
            });
            &mut sights[index]
        }
        for glance in glances {
            tombstone = tombstone.max(glance.tombstone);
            for put in glance.puts {
                let generation = put.header.generation;
                decided.extend(put.is_decided.then_some(generation));
                let sight = at(&mut sights, generation);
                sight.numbers.extend(put.numbers);
                sight.header.get_or_insert(put.header);
            }
        }
        for (store, named) in named {
            tombstone = tombstone.max(named.tombstone);
            decided.extend(named.decided);
            for (generation, file) in named.shares {
                at(&mut sights, generation).files.push((store, file));
            }
        }
        let counts = |sight: &Sight| {
            decided.contains(&sight.generation)
                && tombstone.is_none_or(|tombstone| sight.generation > tombstone)
        };
        let counting = sights.into_iter().filter(counts);
        counting.max_by_key(|sight| sight.generation)
    }

    /// Shares of it that there are. Names don't tell numbers; a store has one share of a put. With the geometry those of
    /// another length are left out.
    pub fn shares(&self, geometry: Option<&Geometry>) -> usize {
        let bytes = geometry.map(Geometry::share_file_bytes);
        let numbers: HashSet<_> = self.numbers.iter().collect();
        let files = self.files.iter();
        let files = files.filter(|(_, file)| bytes.is_none_or(|bytes| file.bytes == bytes));
        numbers.len() + files.count()
    }
}

/// Whether an object with this header is there no more, by its own word.
pub fn is_expired(expires: Option<NonZeroU64>) -> bool {
    expires.is_some_and(|expires| expires.get() <= now())
}

/// Reads the header of a share in a bucket that was listed, with one request.
///
/// # Errors
/// [`RejectReason::Away`] if the bucket gives no answer; otherwise what is wrong with the file.
pub async fn header(bucket: &Bucket, file: &Listed) -> Result<Header, RejectReason> {
    let have = file.bytes.min(PAGE_BYTES as u64);
    let page = match have {
        0 => Ok(Vec::new()),
        _ => bucket.read_part(&file.name, 0..have).await,
    };
    let page = page.map_err(|error| match error.kind() {
        RemoteErrorKind::NotFound => RejectReason::Io(io::ErrorKind::NotFound.into()),
        RemoteErrorKind::Protocol => RejectReason::Io(io::Error::other(error)),
        _ => RejectReason::Away(error.to_string()),
    })?;
    let header = Header::decode(&page)?;
    let (len, expected) = (file.bytes, header.geometry.share_file_bytes());
    match len == expected {
        true => Ok(header),
        false => Err(RejectReason::Length { len, expected }),
    }
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

    /// What a bucket with the same files would tell by their names.
    fn named(root: &Path, dir: &str) -> Named {
        let files = fs::read_dir(objects_dir(root).join(dir)).into_iter();
        let listed = files.flatten().map(|file| {
            let file = file.unwrap();
            Listed {
                name: format!("objects/{dir}/{}", file.file_name().to_str().unwrap()),
                bytes: file.metadata().unwrap().len(),
                version: String::new(),
            }
        });
        Named::of(listed.collect())
    }

    #[test]
    fn names_tell_what_headers_do() {
        let root = tempfile::tempdir().unwrap();
        let stores = stores(root.path(), 3);
        let dir = object_dir(&Key::new("a").unwrap());
        // All of them buckets, or the first.
        let same = |told: bool| {
            let condition = of(&stores, "a");
            assert_eq!(condition.is_some(), told);
            for buckets in [3, 1] {
                let all = stores.iter().enumerate();
                let names = all
                    .take(buckets)
                    .map(|(index, root)| (index, named(root, &dir)));
                let glances = stores[buckets..].iter().map(|root| glance(root, &dir));
                let sight = Sight::of(glances, names);
                assert_eq!(sight.is_some(), told);
                let (Some(condition), Some(sight)) = (&condition, sight) else {
                    continue;
                };
                assert_eq!(sight.generation, condition.header.generation);
                assert_eq!(
                    sight.shares(Some(&condition.header.geometry)),
                    condition.shares
                );
                assert_eq!(sight.header.is_some(), buckets == 1);
            }
        };
        same(false);
        store(&stores, "a");
        same(true);
        let generation = of(&stores, "a").unwrap().header.generation;
        let share = |root: &Path| {
            let files = fs::read_dir(objects_dir(root).join(&dir)).unwrap();
            let mut paths = files.map(|file| file.unwrap().path());
            paths
                .find(|path| path.extension().unwrap() == "share")
                .unwrap()
        };
        // As a put in a bucket leaves them: the mark of one decides for all.
        for root in &stores {
            let path = share(root);
            fs::rename(&path, path.with_extension("pending")).unwrap();
            same(*root != stores[2]);
        }
        let mark = objects_dir(&stores[0])
            .join(&dir)
            .join(format!("{generation}.decided"));
        fs::write(mark, "").unwrap();
        same(true);
        store(&stores, "a");
        same(true);
        // A file that is cut short is no share.
        let cut = fs::File::options().write(true).open(share(&stores[0]));
        cut.unwrap().set_len(5000).unwrap();
        same(true);
        rm(&Store::directories(&stores), &Key::new("a").unwrap()).unwrap();
        same(false);
        store(&stores, "a");
        same(true);
        let path = share(&stores[0]);
        fs::rename(&path, path.with_file_name("by-hand.share")).unwrap();
        assert!(named(&stores[0], &dir).is_odd && !named(&stores[1], &dir).is_odd);
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
