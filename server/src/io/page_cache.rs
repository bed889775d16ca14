//! Share files beyond reading them: their versions, and what the page cache holds of them.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{Advice, fadvise};

use super::sys;
pub use super::sys::FileVersion;

/// Reads a file's version.
///
/// # Errors
/// The kernel's.
pub fn file_version(file: &File) -> io::Result<FileVersion> {
    sys::file_version(file.as_fd())
}

/// Tells the kernel that a file is mostly read in sequence, so that it doubles its readahead (mm/fadvise.c). A refusal
/// changes nothing but speed.
pub fn advise_sequential(file: &File) {
    if let Err(error) = fadvise(file, 0, None, Advice::Sequential) {
        tracing::debug!(%error, "fadvise is refused");
    }
}

/// Opens a file once more, for direct reads past the page cache (`O_DIRECT`, open(2)).
///
/// # Errors
/// If its file system has no direct reads, or there is no `/proc`.
pub fn open_direct(file: &File) -> io::Result<File> {
    // The same file, whatever its name refers to by now.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(again)
}

/// A way to ask the kernel about the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Method {
    /// `cachestat` (Linux 6.5). Later kernels allow it only for files that the caller owns or may write.
    #[default]
    Cachestat,
    /// Reads of the first and the last byte that do not wait for the disk.
    ProbeEnds,
    /// Neither works here, so nothing counts as cached.
    None,
}

/// Asks the kernel what is in the page cache, by the best method that works.
#[derive(Debug, Default)]
pub(super) struct PageCache(Cell<Method>);

impl PageCache {
    /// See [`Io::cachestat`](super::Io::cachestat).
    pub(super) fn cachestat(&self, file: &File, range: &Range<u64>) -> Option<bool> {
        if self.0.get() != Method::Cachestat {
            return None;
        }
        match sys::cached_pages(file.as_fd(), range) {
            Ok((cached, all)) => Some(cached >= all),
            Err(_) => {
                self.0.set(Method::ProbeEnds);
                None
            }
        }
    }

    /// Whether a range of a file is in the page cache now. It may leave at any time.
    pub(super) fn is_cached(&self, file: &File, range: Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        if let Some(is_cached) = self.cachestat(file, &range) {
            return is_cached;
        }
        if self.0.get() == Method::None {
            return false;
        }
        let probe = |at| match sys::read_cached_at(file.as_fd(), &mut [0], at) {
            Ok(count) => count == 1,
            Err(error) => {
                // Other file systems may differ, but the stores of one server are usually alike.
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    self.0.set(Method::None);
                }
                false
            }
        };
        probe(range.start) && probe(range.end - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// 100,000 bytes that were just written, and so are in the page cache.
    fn file() -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    #[test]
    fn just_written_bytes_are_cached_and_bytes_past_the_end_are_not() {
        let (file, bytes) = file();
        for method in [Method::Cachestat, Method::ProbeEnds] {
            let cache = PageCache(Cell::new(method));
            assert!(cache.is_cached(&file, 0..bytes.len() as u64), "{method:?}");
            assert!(cache.is_cached(&file, 5000..5001), "{method:?}");
            assert!(cache.is_cached(&file, 5000..5000), "{method:?}");
            assert!(!cache.is_cached(&file, 90_000..200_000), "{method:?}");
        }
        assert!(!PageCache(Cell::new(Method::None)).is_cached(&file, 0..1));
    }

    #[test]
    fn a_version_shows_changes() {
        let (mut file, _) = file();
        let before = file_version(&file).unwrap();
        assert_eq!(before, file_version(&file).unwrap());
        assert_eq!(before.size, 100_000);
        file.set_len(5).unwrap();
        let cut = file_version(&file).unwrap();
        assert_eq!(cut.size, 5);
        // Another length each time, whatever the clock does.
        file.write_all(b"more").unwrap();
        assert_ne!(file_version(&file).unwrap(), cut);
    }
}
