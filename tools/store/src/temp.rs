//! Temporary files: created under a store's `tmp`, then either renamed into place or removed.
//!
//! The process that writes a temporary file holds a lock on it (flock) as long as it lives. So an
//! unlocked temporary file was left by a dead process, and any process may remove it
//! ([`remove_stale`]). Where locks are not supported, nothing is removed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::error::{During, FileError};

/// A file that is removed when dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct TempFile {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl TempFile {
    /// Creates a file under `store`'s `tmp`, and both directories if they do not exist.
    pub(crate) fn create(store: &Path) -> Result<TempFile, FileError> {
        let dir = tmp_dir(store);
        create_dir(&dir)?;
        loop {
            let mut name = [0; 8];
            getrandom::fill(&mut name)
                .map_err(io::Error::other)
                .during("name a file in", &dir)?;
            let path = dir.join(format!("{:016x}.tmp", u64::from_le_bytes(name)));
            let file = match OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
            {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file.during("create", &path)?,
            };
            let temp = TempFile {
                file,
                path,
                kept: false,
            };
            inherit(temp.file(), temp.path(), &dir)?;
            // Without locks no process removes stale files, so it is safe to continue.
            let _ = temp.file.lock();
            // Another process may have removed the file as stale between its creation and the lock.
            let links = temp
                .file
                .metadata()
                .during("read the metadata of", &temp.path)?
                .nlink();
            if links > 0 {
                return Ok(temp);
            }
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the file to `place` in one step, replacing an existing file. Its data must have been
    /// synced before, and the directory must be synced afterwards. It stays locked, and is removed
    /// when dropped.
    pub(crate) fn rename(&mut self, place: &Path) -> Result<(), FileError> {
        fs::rename(&self.path, place).during("rename a new share to", place)?;
        place.clone_into(&mut self.path);
        Ok(())
    }

    /// Leaves the file where it is.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing more can be done here. The next put or repair finds the file unlocked and
            // removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives a new file or directory the owner of the directory it is in, and that directory's permissions, without those to
/// search. So what root writes can be read by whom the store belongs to, whatever the umask.
fn inherit(new: &File, path: &Path, dir: &Path) -> Result<(), FileError> {
    let parent = fs::metadata(dir).during("read the metadata of", dir)?;
    let own = new.metadata().during("read the metadata of", path)?;
    let mode = parent.mode() & if own.is_dir() { 0o7777 } else { 0o666 };
    if own.mode() & 0o7777 != mode {
        let permissions = fs::Permissions::from_mode(mode);
        new.set_permissions(permissions)
            .during("set the permissions of", path)?;
    }
    if (own.uid(), own.gid()) != (parent.uid(), parent.gid()) {
        // Only root may give files away. Others write what they own.
        let _ = std::os::unix::fs::fchown(new, Some(parent.uid()), Some(parent.gid()));
    }
    Ok(())
}

/// Whether the process that wrote the file is gone. It holds a lock on the file as long as it lives.
pub(crate) fn is_abandoned(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Removes the files that dead processes left under `store`'s `tmp`, and returns their number.
pub(crate) fn remove_stale(store: &Path) -> usize {
    let mut removed = 0;
    for entry in fs::read_dir(tmp_dir(store)).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_temp = path.extension().is_some_and(|extension| extension == "tmp");
        if !is_temp || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::open(&path) else {
            continue;
        };
        match file.try_lock() {
            // The lock is held during the removal. If the creator of the file has not locked it
            // yet, it will notice that the file is gone.
            Ok(()) => removed += usize::from(fs::remove_file(&path).is_ok()),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    if removed > 0 {
        let store = store.display();
        tracing::info!(%store, removed, "removed temporary files of interrupted writes");
    }
    removed
}

/// The directory of a store's temporary files.
pub(crate) fn tmp_dir(store: &Path) -> PathBuf {
    store.join("tmp")
}

/// Creates a directory and its missing parents durably: the parent of each new directory is synced. Owner and
/// permissions are the parent's.
pub(crate) fn create_dir(path: &Path) -> Result<(), FileError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut made = fs::create_dir(path);
    if let (Err(error), Some(parent)) = (&made, parent)
        && error.kind() == io::ErrorKind::NotFound
    {
        create_dir(parent)?;
        // A second attempt only. Where no directory can be created, in /proc, the error stays the
        // same at every attempt.
        made = fs::create_dir(path);
    }
    match made {
        Ok(()) => {
            let parent = parent.unwrap_or(Path::new("."));
            let made = File::open(path).during("open", path)?;
            inherit(&made, path, parent)?;
            sync_dir(parent)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error).during("create the directory", path),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .during("sync the directory", path)
}

/// Raises this process's limit of open files to `files` and some more, if the hard limit allows it.
/// Otherwise opening fails later, with an error that says so. A wide code has one file for each
/// share.
pub(crate) fn allow_open_files(files: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // Some more: standard streams, directories, a spool, and files that the caller has open.
    let wanted = files as u64 + 64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current,
                maximum: limit.maximum,
            },
        );
    }
}

/// Passes `write` a file that appears as `path` only when it is complete and synced. It replaces an
/// existing file in one step. A device or a pipe is written to directly.
pub(crate) fn replace_file<T, E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let mut file = File::options()
            .write(true)
            .open(path)
            .during("open", path)?;
        return write(&mut file);
    }
    // A symbolic link stays; the file it points to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".penstock-get-").suffix(".part");
    if let Some(mut file) = unnamed(dir) {
        let done = write(&mut file)?;
        file.sync_all().during("sync", &path)?;
        let named = builder.make_in(dir, |name| give_name(&file, name));
        let named = named.map_err(without_temporary_name);
        let named = named.during("name the complete file in", dir)?;
        named
            .persist(&path)
            .map_err(|error| error.error)
            .during("rename the complete file to", &path)?;
        return Ok(done);
    }
    let mut file = builder
        .permissions(fs::Permissions::from_mode(NEW_FILE))
        .tempfile_in(dir)
        .map_err(without_temporary_name)
        .during("create a file in", dir)?;
    let done = write(file.as_file_mut())?;
    file.as_file().sync_all().during("sync", &path)?;
    file.persist(&path)
        .map_err(|error| error.error)
        .during("rename the complete file to", &path)?;
    Ok(done)
}

/// The permissions of any new file, of which the process's umask takes some.
const NEW_FILE: u32 = 0o666;

/// A new file without a name, where there are such: of a process that is interrupted nothing stays behind.
fn unnamed(dir: &Path) -> Option<File> {
    if !Path::new(OPEN_FILES).is_dir() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(dir, flags, Mode::from_raw_mode(NEW_FILE));
    file.ok().map(File::from)
}

/// Where a process finds its own open files.
const OPEN_FILES: &str = "/proc/self/fd";

/// Gives a file its first name.
fn give_name(file: &File, path: &Path) -> io::Result<()> {
    let own = Path::new(OPEN_FILES).join(file.as_raw_fd().to_string());
    rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
    Ok(())
}

/// The error without the name of the temporary file, which says nothing to whoever named another.
pub fn without_temporary_name(error: io::Error) -> io::Error {
    match error.to_string().rsplit_once(" at path ") {
        Some((system, _)) => io::Error::new(error.kind(), system),
        None => error,
    }
}

/// Writes all `parts` in order with as few calls as possible.
pub(crate) fn write_all_parts(out: &mut (impl Write + ?Sized), parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<io::IoSlice> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
    let mut left = &mut slices[..];
    io::IoSlice::advance_slices(&mut left, 0); // drops empty ones
    while !left.is_empty() {
        match out.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => io::IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_is_removed_and_a_kept_one_stays() {
        let store = tempfile::tempdir().unwrap();
        let temp = TempFile::create(store.path()).unwrap();
        let path = temp.path().to_owned();
        assert!(path.starts_with(store.path().join("tmp")) && path.exists());
        drop(temp);
        assert!(!path.exists());
        let mut temp = TempFile::create(store.path()).unwrap();
        let place = store.path().join("there");
        temp.rename(&place).unwrap();
        assert!(place.exists() && !is_abandoned(&place));
        temp.keep();
        assert!(place.exists() && is_abandoned(&place));
        assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
    }

    /// An interrupted `get` left a part of the object under a name of its own.
    #[test]
    fn what_is_not_complete_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        if unnamed(dir.path()).is_none() {
            return eprintln!("skipped: this file system has no files without a name");
        }
        let path = dir.path().join("object");
        for content in ["first", "second"] {
            replace_file(&path, |file| {
                file.write_all(content.as_bytes()).during("write", &path)?;
                let names = fs::read_dir(dir.path()).unwrap();
                assert_eq!(names.count(), usize::from(content == "second"));
                Ok::<_, FileError>(())
            })
            .unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn missing_parent_directories_are_created() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_dir(&deep).unwrap();
        create_dir(&deep).unwrap();
        assert!(deep.is_dir());

        // A file in the way, and a place where no directory can be created: the error names the
        // path.
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let dangling = root.path().join("dangling");
        std::os::unix::fs::symlink(root.path().join("gone"), &dangling).unwrap();
        for path in [
            file.clone(),
            file.join("below"),
            dangling,
            "".into(),
            "/proc/self/fd/x/y".into(),
        ] {
            let error = create_dir(&path).unwrap_err().to_string();
            assert!(error.contains("cannot create the directory"), "{error}");
        }
    }

    #[test]
    fn only_unlocked_files_are_stale() {
        let store = tempfile::tempdir().unwrap();
        assert_eq!(remove_stale(store.path()), 0);
        let live = TempFile::create(store.path()).unwrap();
        let tmp = store.path().join("tmp");
        fs::write(tmp.join("0123456789abcdef.tmp"), "left").unwrap();
        fs::write(tmp.join("somebody's file"), "kept").unwrap();
        assert_eq!(remove_stale(store.path()), 1);
        assert!(live.path().exists() && tmp.join("somebody's file").exists());
        assert!(!tmp.join("0123456789abcdef.tmp").exists());
    }

    #[test]
    fn parts_are_written_in_order_by_short_writes() {
        struct ThreeAtATime(Vec<u8>);
        impl Write for ThreeAtATime {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.extend(&bytes[..bytes.len().min(3)]);
                Ok(bytes.len().min(3))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = ThreeAtATime(Vec::new());
        write_all_parts(&mut writer, &[b"", b"abcde", b"", b"f", b"ghi", b""]).unwrap();
        assert_eq!(writer.0, b"abcdefghi");
    }

    #[test]
    fn errors_name_the_path() {
        let store = tempfile::tempdir().unwrap();
        fs::write(store.path().join("tmp"), "a file in the way").unwrap();
        let error = TempFile::create(store.path()).unwrap_err().to_string();
        assert!(
            error.contains(&store.path().join("tmp").display().to_string()),
            "{error}"
        );
    }
}
