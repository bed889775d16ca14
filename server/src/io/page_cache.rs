//! What share files are asked beyond being read: whether they changed, and what of them is in the page cache.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{Advice, fadvise};

use super::sys;
pub use super::sys::FileStamp;

/// What a file is now.
pub fn stamp(file: &File) -> io::Result<FileStamp> {
    sys::file_stamp(file.as_fd())
}

/// Tells the kernel that a file is mostly read from some place on: it reads twice as far ahead then (mm/fadvise.c).
/// Where it refuses, files are read all the same.
pub fn expect_streams(file: &File) {
    if let Err(error) = fadvise(file, 0, None, Advice::Sequential) {
        tracing::debug!(%error, "no advice is taken here");
    }
}

/// Opens a file once more, for direct reads: past the page cache, from the disk to where they are wanted (`O_DIRECT`,
/// open(2)).
///
/// # Errors
/// Where its file system can't do that, or there is no `/proc`.
pub fn open_direct(file: &File) -> io::Result<File> {
    // The same file, whatever its name stands for by now.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(again)
}

/// A way to learn what is in the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    /// `cachestat`, Linux 6.5. Later kernels allow it only for files that one owns or may write.
    #[default]
    Count,
    /// A look at the first and the last byte, by a read that does not wait for the disk.
    Touch,
    /// Neither works here, so nothing counts as there.
    None,
}

/// Asks the kernel what is in the page cache, in the best way that works.
#[derive(Debug, Default)]
pub(super) struct PageCache(Cell<Way>);

impl PageCache {
    /// Whether a range of a file, which is not empty, is in the page cache; `None` if the kernel does not say. To
    /// look for it would have what is missing read in.
    pub(super) fn knows(&self, file: &File, range: &Range<u64>) -> Option<bool> {
        if self.0.get() != Way::Count {
            return None;
        }
        match sys::cached_pages(file.as_fd(), range) {
            Ok((cached, all)) => Some(cached >= all),
            Err(_) => {
                self.0.set(Way::Touch);
                None
            }
        }
    }

    /// Whether a range of a file is in the page cache, as far as can be told without waiting. It may leave
    /// it at any time.
    pub(super) fn holds(&self, file: &File, range: Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        if let Some(holds) = self.knows(file, &range) {
            return holds;
        }
        if self.0.get() == Way::None {
            return false;
        }
        let touch = |at| match sys::read_cached_at(file.as_fd(), &mut [0], at) {
            Ok(count) => count == 1,
            Err(error) => {
                // Files of other file systems may be different, but stores are usually alike.
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    self.0.set(Way::None);
                }
                false
            }
        };
        touch(range.start) && touch(range.end - 1)
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
    fn what_was_just_written_is_in_the_page_cache_and_what_is_past_the_end_is_not() {
        let (file, bytes) = file();
        for way in [Way::Count, Way::Touch] {
            let cache = PageCache(Cell::new(way));
            assert!(cache.holds(&file, 0..bytes.len() as u64), "{way:?}");
            assert!(cache.holds(&file, 5000..5001), "{way:?}");
            assert!(cache.holds(&file, 5000..5000), "{way:?}");
            assert!(!cache.holds(&file, 90_000..200_000), "{way:?}");
        }
        assert!(!PageCache(Cell::new(Way::None)).holds(&file, 0..1));
    }

    #[test]
    fn a_stamp_shows_changes() {
        let (mut file, _) = file();
        let before = stamp(&file).unwrap();
        assert_eq!(before, stamp(&file).unwrap());
        assert_eq!(before.size, 100_000);
        file.set_len(5).unwrap();
        let cut = stamp(&file).unwrap();
        assert_eq!(cut.size, 5);
        // Another length each time, whatever the clock does.
        file.write_all(b"more").unwrap();
        assert_ne!(stamp(&file).unwrap(), cut);
    }
}
