//! Pipes and splice(2).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check::check;

/// Makes a pipe (pipe2(2)) with room for `bytes`, if the kernel allows that. Returns the reading and the writing end.
pub(in crate::io) fn pipe(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two new descriptors through the pointer, which is valid for that; nothing else
    // owns them.
    let (reading, writing) = unsafe {
        check(libc::pipe2(
            ends.as_mut_ptr(),
            libc::O_CLOEXEC | libc::O_NONBLOCK,
        ))?;
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: no pointers. A refusal leaves the pipe as it is, 64 KiB as a rule.
    unsafe { libc::fcntl(writing.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
    Ok((reading, writing))
}

/// Splices up to `count` bytes from one descriptor to another (splice(2)). One of them is a pipe. It does not wait for
/// the pipe or for a non-blocking socket. `offset` is a position in `from` if that is a file. With `more`, further bytes
/// follow at once. Returns how many bytes went, 0 at the end of `from`. SIGPIPE must be ignored, as Rust's start-up does.
pub(in crate::io) fn splice(
    from: BorrowedFd<'_>,
    offset: Option<u64>,
    to: BorrowedFd<'_>,
    count: usize,
    more: bool,
) -> io::Result<usize> {
    let mut offset = offset
        .map(|offset| libc::loff_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput))
        .transpose()?;
    let offset: *mut libc::loff_t = offset.as_mut().map_or(std::ptr::null_mut(), |at| at);
    // SAFETY: the kernel reads and writes the offset through the pointer, which is null or valid for that.
    let count = check(unsafe {
        libc::splice(
            from.as_raw_fd(),
            offset,
            to.as_raw_fd(),
            std::ptr::null_mut(),
            count,
            libc::SPLICE_F_NONBLOCK | if more { libc::SPLICE_F_MORE } else { 0 },
        )
    })?;
    Ok(count as usize)
}
