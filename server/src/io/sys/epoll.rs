//! epoll(7).
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check::check;

/// An epoll instance (epoll(7)).
pub(in crate::io) struct Epoll(OwnedFd);

/// One event of [`Epoll::wait`].
pub(in crate::io) type Event = libc::epoll_event;

impl Epoll {
    /// Makes an instance.
    pub(in crate::io) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; nothing else owns the new descriptor.
        unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            Ok(Epoll(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Registers `fd`. Its `flags`, and errors and hang-ups, are reported with `token`.
    pub(in crate::io) fn add(&self, fd: BorrowedFd<'_>, flags: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, flags, token)
    }

    /// Changes the registration of `fd`. Events that are true now are reported again.
    pub(in crate::io) fn modify(
        &self,
        fd: BorrowedFd<'_>,
        flags: u32,
        token: u64,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, flags, token)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        flags: u32,
        token: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: flags,
            u64: token,
        };
        // SAFETY: `event` is valid for the call; the kernel copies it.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &mut event)
        })?;
        Ok(())
    }

    /// Takes the events that have happened, without waiting.
    pub(in crate::io) fn wait<'a>(
        &self,
        events: &'a mut [MaybeUninit<Event>],
    ) -> io::Result<&'a [Event]> {
        let room = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most `room` events to the start of `events` and returns how
        // many; only those are read as initialised.
        unsafe {
            let count = check(libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr().cast(),
                room,
                0,
            ))?;
            Ok(std::slice::from_raw_parts(
                events.as_ptr().cast(),
                count as usize,
            ))
        }
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
