//! What the kernel says of a file, and reads that do not wait.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use super::check;

/// Reads at `offset` only what is in the page cache (`RWF_NOWAIT`, preadv2(2)); EAGAIN where the
/// disk would have to be asked, EOPNOTSUPP where the file system can't tell.
pub fn read_cached_at(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the iovec describes `buffer`, which is writable and lives through the call.
    let result = unsafe { libc::preadv2(fd.as_raw_fd(), &iov, 1, offset, libc::RWF_NOWAIT) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}

/// `cachestat` (Linux 6.5): the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// How many pages of a file's range, which is not empty, are in the page cache, and how many it has (`cachestat`,
/// linux/mman.h). ENOSYS where the kernel is older, EPERM where the file is another's.
pub fn cached_pages(fd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<(u64, u64)> {
    // struct cachestat_range { off, len }; struct cachestat { nr_cache, nr_dirty, nr_writeback, nr_evicted,
    // nr_recently_evicted }, all of them __u64.
    let asked: [u64; 2] = [range.start, range.end.saturating_sub(range.start)];
    let mut counts = [0u64; 5];
    // SAFETY: the kernel reads two and writes five u64 through pointers that are valid for that and live
    // through the call. A kernel without the call touches neither.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            asked.as_ptr(),
            counts.as_mut_ptr(),
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sysconf has no pointers; it reads what the kernel said at start.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    let (first, last) = (range.start / page, (range.end - 1) / page);
    Ok((counts[0], last - first + 1))
}

/// What tells whether a file was changed: another length, or another time of change (of its bytes or of
/// anything else about it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// Bytes.
    pub size: u64,
    /// When its bytes changed last (`stx_mtime`), which `utimensat` can set back.
    pub modified: SystemTime,
    /// When anything about it changed last (`stx_ctime`).
    pub changed: SystemTime,
}

/// Reads a file's stamp (statx(2)) as it is known here: over a network, no server is asked.
pub fn file_stamp(fd: BorrowedFd<'_>) -> io::Result<FileStamp> {
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
    Ok(FileStamp {
        size: found.stx_size,
        modified: time(found.stx_mtime)?,
        changed: time(found.stx_ctime)?,
    })
}
