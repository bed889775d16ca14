//! Share files beyond reading them: their versions, and what the page cache holds of them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{Advice, fadvise};

use super::sys;
pub use super::sys::FileVersion;
use crate::units::FileOffset;

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

/// Whether a non-empty range of a file is in the page cache now; it may leave at any time. `None` where the kernel
/// can't tell: `cachestat` is there since Linux 6.5, and later kernels allow it only for files that the caller owns or
/// may write. Asking reads nothing in.
pub fn is_cached(file: &File, range: &Range<FileOffset>) -> Option<bool> {
    let range = range.start.0..range.end.0;
    let (cached, all) = sys::cached_pages(file.as_fd(), &range).ok()?;
    Some(cached >= all)
}

/// Reads bytes that are in the page cache, all of them.
///
/// # Errors
/// `EAGAIN` if some are not, `EOPNOTSUPP` if the file system can't tell, and that the file ends early.
pub fn read_cached(file: &File, mut buffer: &mut [u8], mut offset: FileOffset) -> io::Result<()> {
    while !buffer.is_empty() {
        match sys::read_cached_at(file.as_fd(), buffer, offset.0)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
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
        let cached =
            |range: Range<u64>| is_cached(&file, &(FileOffset(range.start)..FileOffset(range.end)));
        if cached(0..1).is_none() {
            return println!("skipped: this kernel has no cachestat");
        }
        assert_eq!(cached(0..bytes.len() as u64), Some(true));
        assert_eq!(cached(5000..5001), Some(true));
        assert_eq!(cached(90_000..200_000), Some(false));
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
