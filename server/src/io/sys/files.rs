//! Files: reads that don't wait for the disk, the page cache, versions.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use super::check::check;

/// Reads bytes at `offset` that are in the page cache (`RWF_NOWAIT`, preadv2(2)).
///
/// # Errors
/// `EAGAIN` if the first byte is not in the page cache, `EOPNOTSUPP` if the file system can't tell.
pub(in crate::io) fn read_cached_at(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the iovec describes `buffer`, which is writable and lives through the call.
    let count = check(unsafe { libc::preadv2(fd.as_raw_fd(), &iov, 1, offset, libc::RWF_NOWAIT) })?;
    Ok(count as usize)
}

/// `cachestat` (Linux 6.5). Its number is the same on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// Counts the pages of a non-empty range of a file that are in the page cache, and all its pages (`cachestat`,
/// linux/mman.h).
///
/// # Errors
/// `ENOSYS` on older kernels, `EPERM` if the file belongs to another user.
pub fn cached_pages(fd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<(u64, u64)> {
    // struct cachestat_range { off, len }; struct cachestat { nr_cache, nr_dirty, nr_writeback, nr_evicted,
    // nr_recently_evicted }, all of them __u64.
    let asked: [u64; 2] = [range.start, range.end.saturating_sub(range.start)];
    let mut counts = [0u64; 5];
    // SAFETY: the kernel reads two and writes five u64 through pointers that are valid for that and live
    // through the call. A kernel without the call touches neither.
    check(unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            asked.as_ptr(),
            counts.as_mut_ptr(),
            0,
        )
    })?;
    // SAFETY: sysconf has no pointers; it reads what the kernel said at start.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    let (first, last) = (range.start / page, (range.end - 1) / page);
    Ok((counts[0], last - first + 1))
}

/// The version of a file. A change of the length, the bytes or the metadata gives another one, unless it falls into the
/// same tick of the file system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    /// Bytes.
    pub size: u64,
    /// When the bytes last changed (`stx_mtime`). `utimensat` can set it back.
    pub modified: SystemTime,
    /// When bytes or metadata last changed (`stx_ctime`).
    pub changed: SystemTime,
}

/// Reads a file's version (statx(2)) as this machine knows it. No file server is asked.
pub(in crate::io) fn file_version(fd: BorrowedFd<'_>) -> io::Result<FileVersion> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, the kernel writes at most one statx through the pointer, and
    // all-zero is a valid statx.
    let found = unsafe {
        check(libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_SIZE | libc::STATX_MTIME | libc::STATX_CTIME,
            found.as_mut_ptr(),
        ))?;
        found.assume_init()
    };
    let time = |stamp: libc::statx_timestamp| {
        let seconds = Duration::from_secs(stamp.tv_sec.unsigned_abs());
        let start = match stamp.tv_sec < 0 {
            true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
            false => SystemTime::UNIX_EPOCH.checked_add(seconds),
        };
        start
            .and_then(|start| start.checked_add(Duration::from_nanos(stamp.tv_nsec.into())))
            .ok_or(io::ErrorKind::InvalidData)
    };
    Ok(FileVersion {
        size: found.stx_size,
        modified: time(found.stx_mtime)?,
        changed: time(found.stx_ctime)?,
    })
}
