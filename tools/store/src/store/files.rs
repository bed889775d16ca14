//! A store, and the calls on its files that everything else is made of.

use std::any::Any;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use decode_kernel::share::Generation;
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::bucket::{BucketFile, BucketStore};
use super::names::{self, Kind};
use super::parts::Listed;
use crate::error::{During, FileError};
use crate::temp::{self, TempFile, create_dir, sync_dir, write_all_parts};

/// What a bucket is taken to hold, in bytes: it has its part of the keys beside directories, whose weight is their
/// capacity.
const BUCKET_BYTES: u64 = 16 << 40;
/// A share of an undecided put in a bucket is left by a put that died when it is as old. Nothing tells who writes it.
const ABANDONED_AGE: Duration = Duration::from_secs(24 * 3600);

/// A store.
#[derive(Clone, Debug)]
pub enum Store {
    /// A directory.
    Directory(PathBuf),
    /// A bucket, or a part of one.
    Bucket(BucketStore),
}

impl From<PathBuf> for Store {
    fn from(path: PathBuf) -> Store {
        Store::Directory(path)
    }
}

impl From<&Path> for Store {
    fn from(path: &Path) -> Store {
        Store::Directory(path.to_owned())
    }
}

/// Room in a store, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// What may be written.
    pub(crate) free: u64,
    /// What all files may be.
    pub(crate) capacity: u64,
    /// The file system that it is on; none if it is a bucket.
    pub(crate) device: Option<u64>,
    pub(crate) is_read_only: bool,
}

impl Store {
    /// Stores that are directories.
    pub fn directories(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Vec<Store> {
        let paths = paths.into_iter();
        paths.map(|path| Store::from(path.as_ref())).collect()
    }

    /// The directory, or the bucket's URL. Paths of the store's files begin with it.
    pub fn path(&self) -> &Path {
        match self {
            Store::Directory(path) => path,
            Store::Bucket(bucket) => bucket.path(),
        }
    }

    /// Whether it is a bucket.
    pub fn is_bucket(&self) -> bool {
        matches!(self, Store::Bucket(_))
    }

    /// Whether it is the store that a path or a URL names.
    pub(crate) fn is(&self, path: &Path) -> bool {
        let same = |own: &Path| {
            fs::canonicalize(own).is_ok_and(|own| fs::canonicalize(path).is_ok_and(|it| own == it))
        };
        self.path() == path || matches!(self, Store::Directory(own) if same(own))
    }

    /// The directory of an object, `ab/cdef…`.
    pub(crate) fn object_dir(&self, dir: &str) -> PathBuf {
        names::objects_dir(self.path()).join(dir)
    }

    /// A file of an object's directory.
    pub(crate) fn object_file(&self, dir: &str, kind: Kind, generation: &Generation) -> PathBuf {
        self.object_dir(dir).join(kind.file_name(generation))
    }

    /// The files in an object's directory that are not strays, sorted by name.
    pub(crate) fn files(&self, dir: &str) -> io::Result<Vec<(Kind, PathBuf)>> {
        match self {
            Store::Directory(_) => names::files(&self.object_dir(dir)),
            Store::Bucket(bucket) => {
                let listed = bucket.files(dir)?;
                let paths = listed.iter().map(|file| self.path().join(&file.name));
                let mut files: Vec<_> = paths
                    .filter_map(|path| Some((Kind::of(&path)?, path)))
                    .collect();
                files.sort_by(|a, b| a.1.cmp(&b.1));
                Ok(files)
            }
        }
    }

    /// The lengths of the files in an object's directory, in bytes. `known` are those of a bucket that was listed just before.
    pub(crate) fn lengths(
        &self,
        dir: &str,
        known: Option<&[Listed]>,
    ) -> io::Result<Vec<(Kind, io::Result<u64>)>> {
        match self {
            Store::Directory(_) => {
                let files = self.files(dir)?.into_iter();
                let length = |path| fs::metadata(path).map(|found| found.len());
                Ok(files.map(|(kind, path)| (kind, length(path))).collect())
            }
            Store::Bucket(bucket) => {
                let files = match known {
                    Some(known) => known.to_vec(),
                    None => bucket.files(dir)?,
                };
                let length =
                    |file: Listed| Some((Kind::of(Path::new(&file.name))?, Ok(file.bytes)));
                Ok(files.into_iter().filter_map(length).collect())
            }
        }
    }

    /// How much room there is.
    pub(crate) fn room(&self) -> io::Result<Room> {
        let Store::Directory(path) = self else {
            return Ok(Room {
                free: u64::MAX,
                capacity: BUCKET_BYTES,
                device: None,
                is_read_only: false,
            });
        };
        let device = fs::metadata(path)?.dev();
        let found = statvfs(path)?;
        Ok(Room {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            capacity: found.f_blocks.saturating_mul(found.f_frsize),
            device: Some(device),
            is_read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }

    /// Writes a tombstone or a mark, durably.
    pub(crate) fn write(&self, path: &Path, text: &'static [u8]) -> Result<(), FileError> {
        self.prepare(path, text)?.place()?;
        self.sync_parent(path)
    }

    /// Writes a tombstone or a mark under a temporary name, and makes the directory that it is for. In a bucket it is there
    /// at once.
    pub(crate) fn prepare(&self, path: &Path, text: &'static [u8]) -> Result<Prepared, FileError> {
        match self {
            Store::Directory(root) => {
                create_dir(path.parent().unwrap_or(Path::new("/")))?;
                let file = TempFile::create(root)?;
                write_all_parts(&mut file.file(), &[text])
                    .and_then(|()| file.file().sync_all())
                    .during("write", file.path())?;
                Ok(Prepared(Some((file, path.to_owned()))))
            }
            Store::Bucket(bucket) => {
                bucket.write(path, text).during("write", path)?;
                Ok(Prepared(None))
            }
        }
    }

    /// Removes an object's directory if nothing is in it, and makes what was removed from it durably so.
    pub(crate) fn remove_empty(&self, dir: &str) -> Result<(), FileError> {
        match self {
            Store::Directory(_) => match fs::remove_dir(self.object_dir(dir)) {
                Ok(()) => Ok(()),
                Err(_) => sync_dir(&self.object_dir(dir)),
            },
            Store::Bucket(_) => Ok(()),
        }
    }

    /// Makes the names in a file's directory durable.
    pub(crate) fn sync_parent(&self, path: &Path) -> Result<(), FileError> {
        match self {
            Store::Directory(_) => sync_dir(path.parent().unwrap_or(Path::new("/"))),
            Store::Bucket(_) => Ok(()),
        }
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        match self {
            Store::Directory(_) => fs::remove_file(path),
            Store::Bucket(bucket) => bucket.remove(path),
        }
    }

    /// When a file was written.
    pub(crate) fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        match self {
            Store::Directory(_) => fs::metadata(path)?.modified(),
            Store::Bucket(bucket) => bucket.modified(path),
        }
    }

    /// Whether whoever wrote a share of an undecided put is gone.
    pub(crate) fn is_abandoned(&self, path: &Path) -> bool {
        match self {
            Store::Directory(_) => temp::is_abandoned(path),
            Store::Bucket(bucket) => bucket.modified(path).is_ok_and(|written| {
                let age = SystemTime::now().duration_since(written);
                age.is_ok_and(|age| age >= ABANDONED_AGE)
            }),
        }
    }

    /// Removes what dead processes left half written.
    pub(crate) fn remove_stale(&self) {
        if let Store::Directory(path) = self {
            temp::remove_stale(path);
        }
    }
}

/// A short file that is written, and has no name yet where it is to be given one.
pub(crate) struct Prepared(Option<(TempFile, PathBuf)>);

impl Prepared {
    /// Gives it its name.
    pub(crate) fn place(self) -> Result<(), FileError> {
        if let Some((mut file, path)) = self.0 {
            file.rename(&path)?;
            file.keep();
        }
        Ok(())
    }
}

/// What fills a file that stands for one of a remote store.
pub type Backing = Arc<dyn Any + Send + Sync>;

/// A share's file, open for reading.
#[derive(Debug)]
pub enum OpenFile {
    /// A file of a directory.
    Local(fs::File),
    /// A file that stands for one of a bucket, with what fills it: for whoever opened it.
    Cached(fs::File, Backing),
    /// A file of a bucket.
    Bucket(BucketFile),
}

impl OpenFile {
    /// Fills the buffer from an offset.
    ///
    /// # Errors
    /// The file's, or that it ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        match self {
            OpenFile::Local(file) | OpenFile::Cached(file, _) => file.read_exact_at(buffer, offset),
            OpenFile::Bucket(file) => file.read_exact_at(buffer, offset),
        }
    }

    /// Says what will be read next.
    pub(crate) fn prefetch(&self, offset: u64, len: u64) {
        if let OpenFile::Bucket(file) = self {
            file.prefetch(offset, len);
        }
    }

    /// Whether reading takes as long as a request.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, OpenFile::Bucket(_))
    }

    /// The file, if it is one of this machine's, with what fills it.
    pub fn into_local(self) -> Option<(fs::File, Option<Backing>)> {
        match self {
            OpenFile::Local(file) => Some((file, None)),
            OpenFile::Cached(file, backing) => Some((file, Some(backing))),
            OpenFile::Bucket(_) => None,
        }
    }
}
