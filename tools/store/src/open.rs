//! Opens files that may be shares: regular files only, without touching their access times.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a file for reading; `None` if it is not a regular file. Where the kernel allows it (on files that the
/// process's user owns), reading does not update the access time (`O_NOATIME`, open(2)). Nothing uses the access time
/// of a share, and without the flag every read checks whether to update it.
pub(crate) fn open_regular(path: &Path) -> io::Result<Option<File>> {
    // The type is checked before opening, since opening a FIFO would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let unnoticed = File::options()
        .read(true)
        .custom_flags(OFlags::NOATIME.bits() as i32)
        .open(path);
    match unnoticed {
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => File::open(path),
        opened => opened,
    }
    .map(Some)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn reading_an_own_file_keeps_its_access_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "bytes").unwrap();
        // The access time is older than the last change, so that a read would update it even with `relatime`.
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let times = fs::FileTimes::new().set_accessed(long_ago);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_times(times))
            .unwrap();
        let mut text = String::new();
        let mut file = open_regular(&path).unwrap().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(
            (&*text, file.metadata().unwrap().atime()),
            ("bytes", 1_000_000)
        );
    }

    #[test]
    fn only_regular_files_are_opened_whoever_owns_them() {
        assert!(open_regular(Path::new("/proc/version")).unwrap().is_some());
        assert!(open_regular(Path::new("/proc")).unwrap().is_none());
        assert!(open_regular(Path::new("/dev/null")).unwrap().is_none());
        let error = open_regular(Path::new("/proc/nothing")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
