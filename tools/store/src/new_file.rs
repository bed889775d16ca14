//! A share file that is being written, in a directory or in a bucket: its first page comes last.

use std::fs;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use decode_kernel::share::PAGE_BYTES;

use crate::error::{During, FileError};
use crate::store::{BucketWriter, Kind, Store, generation_of};
use crate::temp::{TempFile, create_dir, sync_dir, tmp_dir, write_all_parts};

/// A file that is not there before [`NewFile::place`], and not after it was dropped, unless it is kept.
pub(crate) struct NewFile {
    kind: Where,
    store: Store,
    /// Where it will be.
    path: PathBuf,
}

enum Where {
    Directory(TempFile),
    Bucket(BucketWriter),
}

/// Why the decision could not be written.
#[derive(Debug)]
pub(crate) enum Undecided {
    /// It was not written.
    No(FileError),
    /// Nobody knows: a bucket did not answer.
    Unknown(FileError),
}

impl NewFile {
    /// Begins a file of `store` that will be `path`. `bytes` is about how long it will be.
    pub(crate) fn create(store: &Store, path: PathBuf, bytes: u64) -> Result<NewFile, FileError> {
        let kind = match store {
            Store::Directory(root) => {
                let temp = TempFile::create(root)?;
                temp.file()
                    .seek(SeekFrom::Start(PAGE_BYTES as u64))
                    .during("seek in", temp.path())?;
                Where::Directory(temp)
            }
            Store::Bucket(bucket) => {
                Where::Bucket(bucket.create(&path, bytes).during("begin", &path)?)
            }
        };
        Ok(NewFile {
            kind,
            store: store.clone(),
            path,
        })
    }

    /// Where it is, or will be.
    pub(crate) fn path(&self) -> &Path {
        match &self.kind {
            Where::Directory(temp) => temp.path(),
            Where::Bucket(_) => &self.path,
        }
    }

    /// The temporary file, if it is in a directory.
    pub(crate) fn temp(&self) -> Option<&TempFile> {
        match &self.kind {
            Where::Directory(temp) => Some(temp),
            Where::Bucket(_) => None,
        }
    }

    /// Appends behind what there is; the first page is left out.
    pub(crate) fn append(&mut self, parts: &[&[u8]]) -> Result<(), FileError> {
        match &mut self.kind {
            Where::Directory(temp) => {
                write_all_parts(&mut temp.file(), parts).during("write", temp.path())
            }
            Where::Bucket(writer) => writer.append(parts).during("write", &self.path),
        }
    }

    /// Writes the first page, and has all that was written stored durably.
    pub(crate) fn finish(&mut self, page: &[u8; PAGE_BYTES]) -> Result<(), FileError> {
        match &mut self.kind {
            Where::Directory(temp) => {
                let (file, path) = (temp.file(), temp.path());
                file.write_all_at(page, 0).during("write", path)?;
                file.sync_all().during("sync", path)
            }
            Where::Bucket(writer) => writer.finish(page).during("write", &self.path),
        }
    }

    /// Makes the directory that it will be in; in a bucket it is there from now on.
    pub(crate) fn prepare(&mut self) -> Result<(), FileError> {
        match &mut self.kind {
            Where::Directory(_) => create_dir(self.path.parent().unwrap_or(Path::new("/"))),
            Where::Bucket(writer) => writer.place().during("write", &self.path),
        }
    }

    /// Gives it its name, once it was prepared.
    pub(crate) fn place(&mut self) -> Result<(), FileError> {
        match &mut self.kind {
            Where::Directory(temp) => temp.rename(&self.path),
            Where::Bucket(_) => Ok(()),
        }
    }

    /// Makes its name durable.
    pub(crate) fn sync_place(&self) -> Result<(), FileError> {
        match &self.kind {
            Where::Directory(temp) => sync_dir(temp.path().parent().unwrap_or(Path::new("/"))),
            Where::Bucket(_) => Ok(()),
        }
    }

    /// Says that the put is decided to which this `.pending` file belongs: in a directory it gets its final name, in a
    /// bucket a mark beside it.
    pub(crate) fn decide(&mut self) -> Result<(), Undecided> {
        match &mut self.kind {
            Where::Directory(temp) => {
                let Some(generation) = generation_of(&self.path) else {
                    return Ok(());
                };
                let last = self.path.with_file_name(Kind::Share.file_name(&generation));
                temp.rename(&last).map_err(Undecided::No)
            }
            Where::Bucket(_) => {
                let mark = self.path.with_extension(Kind::Decided.extension());
                let Err(error) = self.store.write(&mark, DECIDED_TEXT) else {
                    return Ok(());
                };
                // It may have been written all the same.
                match self.store.modified(&mark) {
                    Ok(_) => Ok(()),
                    // What was given up may still arrive.
                    Err(found)
                        if found.kind() == io::ErrorKind::NotFound
                            && error.cause.kind() != io::ErrorKind::TimedOut =>
                    {
                        Err(Undecided::No(error))
                    }
                    Err(_) => Err(Undecided::Unknown(error)),
                }
            }
        }
    }

    /// Leaves the file where it is.
    pub(crate) fn keep(self) {
        match self.kind {
            Where::Directory(temp) => temp.keep(),
            Where::Bucket(writer) => writer.keep(),
        }
    }
}

/// What is in a mark, for whoever looks.
pub(crate) const DECIDED_TEXT: &[u8] = b"\
    The put of this generation is decided: its share is the .pending file beside this one.\n";

/// An unlinked file on this machine, for what has to be written later: beside the store, or in the directory for
/// temporary files.
pub(crate) fn spool(store: &Store) -> Result<fs::File, FileError> {
    match store {
        Store::Directory(root) => {
            let dir = tmp_dir(root);
            tempfile::tempfile_in(&dir).during("create a spool in", &dir)
        }
        Store::Bucket(_) => tempfile::tempfile().during("create a spool in", &std::env::temp_dir()),
    }
}
