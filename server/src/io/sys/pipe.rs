//! Pipes, and moving what they hold by reference.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// A pipe (pipe2(2)), its reading and its writing end, with room for `bytes` if the kernel allows it.
pub fn pipe(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors through the pointer, which is valid for that; they are owned
    // by nobody else.
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

/// Moves up to `count` bytes from one descriptor to another, one of which is a pipe, without copying them
/// (splice(2)) and without waiting for the pipe or for a non-blocking socket. `offset` is where to begin in
/// `from` if that is a file. Returns how many, 0 at the end of `from`. Needs SIGPIPE to be ignored, as Rust's
/// start-up does.
pub fn splice(
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
    let result = unsafe {
        libc::splice(
            from.as_raw_fd(),
            offset,
            to.as_raw_fd(),
            std::ptr::null_mut(),
            count,
            libc::SPLICE_F_NONBLOCK | if more { libc::SPLICE_F_MORE } else { 0 },
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}
